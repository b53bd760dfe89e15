/*
 * What the processes share: the kernel's two locks, and two words of the control page.
 *
 * p is an open file description (OFD): one per cohort, one per blocking hold. Each counts as a
 * process of its own, as a process with several is, to the kernel, several that die together.
 */
#define BIT(n) (1 << (n))
#define NOTHING 0
#define SH 1
#define EX 2

/*
 * flock(2). A blocked request is a guard, CAN(): an unlock wakes its waiters, and any of them,
 * or a newcomer, may be first. (Linux lines up a waiter behind one that it conflicts with, so
 * what it does is one of the things that may happen here.)
 *
 * A conversion replaces what the same OFD had: only others count. It is one step, as in Linux
 * since "locks: remove conditional lock release in middle of flock_lock_file" of 2015; the
 * manual page promises less, and SPLIT_CONVERSION shows that upgrade() needs it.
 */
byte exclusive; /* p + 1; 0: nobody */
byte shared;    /* bit p */

#define CAN(p, mode) ((exclusive == 0 || exclusive == (p) + 1) && \
                      ((mode) == SH || (shared & ~BIT(p)) == 0))
#define FLOCK(p) (exclusive == (p) + 1 -> EX : (shared & BIT(p) -> SH : NOTHING))

inline drop(p)
{
	exclusive = (exclusive == p + 1 -> 0 : exclusive);
	shared = shared & ~BIT(p)
}

inline take(p, mode)
{
	drop(p);
	if
	:: mode == EX -> exclusive = p + 1
	:: else -> shared = shared | BIT(p)
	fi
}

/* flock(mode | LOCK_NB). On a conflict what the OFD had before is gone: that is Linux. */
inline try_flock(p, mode, code)
{
	if
	:: CAN(p, mode) -> take(p, mode); code = true
	:: else -> drop(p); code = false
	fi
}

/*
 * The gate, an OFD lock on one byte. Its waiters are guards, too: no order is assumed among
 * them. It is always taken exclusively, as by all who may write.
 */
byte gate; /* p + 1; 0: free */

/* The control page: the hint, and whether the generation is odd. */
bit hint;
bit odd;
byte writing; /* bit p: odd by our doing (shma_lock.writing) */

/* shma_gate_enter after the system call. */
inline set_hint()
{
	hint = true
}

/*
 * pass_a_sleeper: those who queue go past the one at the gate once they have looked twice, and
 * found the flock free and the same one at the gate. Between two looks lies SHMA_GATE_CHANCE_NS,
 * in which everybody who is awake runs: so the second look waits for the step that the one at
 * the gate, if awake, can make then. At each look the flock is taken for a moment.
 */
byte seen;   /* bit p: it has looked, and the one whom it saw there is at the gate still */
byte awaited; /* p + 1: the one at the gate, awake when somebody looked, has not moved since */
byte sleeping; /* bit p: at the gate, for ever */

#define GATE_SLEEPS (sleeping & BIT(gate - 1))

#ifdef PASSES_AT_FIRST_SIGHT
#define MAY_PASS(p) true
#elif defined(PASSES_AT_ONCE)
#define MAY_PASS(p) (seen & BIT(p))
#else
#define MAY_PASS(p) ((seen & BIT(p)) && awaited != gate)
#endif

#define LOOKS(p) (PASS_SLEEPERS && gate != 0 && CAN(p, EX) && (MAY_PASS(p) || !(seen & BIT(p))))

/* Ends with `passed`: the flock is p's, and is to be dropped if not. One step. */
inline look_for_a_sleeper(p, passed)
{
	passed = MAY_PASS(p);
	take(p, EX);
	if
	:: passed ->
		assert(GATE_SLEEPS);
		seen = seen & ~BIT(p);
		EVENT(PASSED_A_SLEEPER)
	:: else ->
		seen = seen | BIT(p);
		awaited = (GATE_SLEEPS -> awaited : gate);
		EVENT(LEFT_IT_ITS_CHANCE)
	fi
}

/* Another stay at the gate has another ticket. */
inline nobody_at_gate()
{
	gate = 0;
	awaited = 0;
#ifndef TICKETLESS
	seen = 0
#endif
}

inline falls_asleep(p)
{
	sleeping = sleeping | BIT(p);
	awaited = 0
}

/* shma_gate_leave: two steps, a store and a system call. */
inline gate_leave(p)
{
#ifdef CLEAR_HINT_LATE
	atomic { nobody_at_gate() };
	hint = false
#elif defined(CLEAR_HINT_NEVER)
	atomic { nobody_at_gate() }
#else
	hint = false;
	atomic { nobody_at_gate() }
#endif
}

/* shma_generation_begin and shma_lock_unmark of generation.c: stores, no system call. */
inline begin_write(p)
{
	writing = writing | BIT(p);
	odd = true
}

inline end_write(p)
{
	if
	:: writing & BIT(p) ->
		writing = writing & ~BIT(p);
		odd = false;
		owed = false
	:: (writing & BIT(p)) && owed -> /* an exception ended the recovery */
		writing = writing & ~BIT(p);
#ifdef FAILED_MAKES_SOUND
		odd = false;
#endif
		EVENT(RECOVERY_FAILED)
	:: else
	fi
}

/* What a process's death does by itself. The hint and the generation stay as they are. */
byte dead; /* bit p */

inline die(p, tasks)
{
	dead = dead | BIT(p);
	drop(p);
	if
	:: gate == p + 1 -> nobody_at_gate()
	:: else
	fi;
	seen = seen & ~BIT(p);
	writing = writing & ~BIT(p);
	if
	:: inside_w & (tasks) -> owed = true
	:: else
	fi;
	forget(tasks);
	finished = finished | (tasks)
}
