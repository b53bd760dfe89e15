/*
 * Replacing an object under its lock: attachment.py (replace, successor), object.c
 * (shma_object_current) and generation.c (shma_lock_current).
 *
 * Every process is attached to one object. It takes that one's exclusive lock, looks whether the
 * object is still the one to use, and writes; or resizes: a new object with the data, the word
 * in the old one's control page, the name, and it lets go. Who is told that its object was
 * replaced attaches to what has the name. A process may be killed before every step.
 *
 * What must hold: nobody writes to an object that has lost its name, no two write at a time
 * whatever they are attached to, no write is lost, and everybody alive gets in.
 */
#include "events.pml"

#ifndef PROCESSES
#define PROCESSES 3
#endif
#ifndef ROUNDS
#define ROUNDS 2
#endif
#ifndef CRASHES
#define CRASHES 1
#endif
#define OBJECTS (PROCESSES * ROUNDS + 1)

byte lock[OBJECTS];      /* p + 1: who has the exclusive lock; 0: nobody */
bool replaced[OBJECTS];  /* the word */
byte data[OBJECTS];      /* writes that it has seen */
byte name;               /* the object that has the name */
byte made = 1;           /* objects so far */
byte crashes;
byte writing;            /* processes that believe that they may write */
byte written;            /* writes that were completed */

inline may_die()
{
	if
	:: crashes < CRASHES ->
		crashes++;
		lock[mine] = (lock[mine] == _pid + 1 -> 0 : lock[mine]);
		goto dead
	:: true
	fi
}

/* The lock is ours: is the object? Two steps: the word, and the name. */
inline look(still)
{
#ifdef WORD_IS_ENOUGH
	still = !replaced[mine]
#else
	if
	:: !replaced[mine] -> still = true
	:: else ->
		still = (name == mine);
		if
		:: still ->
			replaced[mine] = false; /* who was to do it died */
			EVENT(CLEARED_A_WORD)
		:: else
		fi
	fi
#endif
}

inline write()
{
	assert(name == mine);
	assert(writing == 0);
	writing++;
	data[mine]++;
	written++;
	writing--
}

proctype process()
{
	byte mine = 0;
	byte new;
	byte round;
	bool still;

	do
	:: round == ROUNDS -> break
	:: else ->
#ifdef LOOKS_FIRST
		atomic { look(still) };
#endif
		atomic { lock[mine] == 0 -> lock[mine] = _pid + 1 };
		may_die();
#ifndef LOOKS_FIRST
		look(still);
#endif
		if
		:: !still ->
			lock[mine] = 0;
			EVENT(WAS_TOLD);
			assert(name != mine); /* or it would ask again for ever */
			mine = name
		:: else ->
			round++;
			if
			:: true ->
				d_step { write() }
			:: true ->
				d_step { assert(name == mine); new = made; made++ };
#ifndef COPIES_LATE
				data[new] = data[mine];
#endif
				may_die();
#ifdef NAME_BEFORE_WORD
				name = new;
				may_die();
				replaced[mine] = true;
#else
				replaced[mine] = true;
				may_die();
				name = new;
#endif
#ifdef COPIES_LATE
				may_die();
				data[new] = data[mine];
#endif
				may_die();
				lock[mine] = 0;
				mine = new;
				goto next
			fi;
			lock[mine] = 0
		fi;
next:		skip
	od;
dead:	skip
}

init
{
	byte p;

	START_OF_EVENTS;
	atomic {
		for (p : 1 .. PROCESSES) {
			run process()
		}
	}
	(_nr_pr == 1); /* all have ended: nobody waits for ever */
	assert(data[name] == written)
}
