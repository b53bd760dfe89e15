/*
 * The lock of shm_async as a Promela model: gate, flock, cohort, conversions, generation.
 * check.py searches all its states, in several configurations; `python tests/model/check.py`.
 *
 *   lock.pml     what a configuration can set, who runs, the end, liveness
 *   kernel.pml   flock(2), the gate, hint and generation, death
 *   belief.pml   what the tasks believe: exclusion, upgrade() and the owner's death
 *   seat.pml     a blocking thread with an OFD of its own; one step per system call
 *   cohort.pml   an event loop's tasks; one step per stretch between two awaits
 *   events.pml   what must have been met, so that nothing holds for want of a case
 *
 * What is checked, always: exclusion over all processes, by what the tasks believe; who is
 * granted the lock finds the generation odd if and only if a writer died inside and no sound
 * write has followed; upgrade() is True only if nobody else wrote since the read (so of two who
 * share, one at most hears True); who blocks in flock has the gate and the hint is set; a
 * downgrade never conflicts; at the end nothing is held, no request is under way and, unless
 * somebody died, the hint is clear. All rounds are finite there, and a step that gets nobody
 * anywhere (a try that fails again) is none: so somebody who waits for ever, after a cancel, a
 * death or anything else, is a deadlock. With endless rounds: liveness, at the end of this file.
 *
 * How steps and code correspond:
 *
 *   CAN, take, try_flock, drop       flock(LOCK_SH | LOCK_EX, .. | LOCK_NB, LOCK_UN), close
 *   gate == 0 -> gate = p + 1        shma_gate_enter: F_OFD_SETLK (try), F_OFD_SETLKW (wait)
 *   set_hint, gate_leave             hint() and shma_gate_leave in gate.c
 *   begin_write, end_write           shma_generation_begin, shma_lock_unmark; stores only, so
 *                                    one step with what stands next to them
 *   Seat: try, queue, block          try_lock and try_through_gate; shma_gate_wait
 *   turn                             shma_turn_begins and shma_turn_lasts in gate.c
 *   Seat: release, unlock, give_up   shma_lock_release, shma_lock_give_up
 *   PASS_SLEEPERS                    pass_a_sleeper; a look that finds the flock taken, and one
 *                                    that finds what the last one found, change nothing and
 *                                    are no steps
 *   Thread                           thread_main, serve, shma_gate_wait; give_back
 *   cancelled[c] -> goto over        EINTR from the interrupt, which is repeated until the
 *                                    request has ended; waiter_cancel is shma_waiter_cancel
 *   inlines of cohort.pml            the methods of Cohort with the same names
 *   Loop                             the loop calls _request_ended as the eventfd is readable
 *   upgrade, downgrade               hold.upgrade(), hold.downgrade()
 *
 * What is left out:
 *
 *   Clocks. What a timeout, MAX_KEEP, COLLECT_MS or the gate's patience may do, may happen at any
 *   moment; but the one at the gate runs within SHMA_GATE_CHANCE_NS if it is awake. MAX_PASSES is 1 or 2 in place of 64. MAX_SHARE, for foreign programs, is not there.
 *   Fork, close and abandon, a truncated object, errors of system calls, nested reads, a control
 *   page that is missing (F_OFD_GETLK in place of the hint). Of a read-only attachment there is
 *   that it sets no hint (READ_ONLY), not that its like share the gate.
 *   Memory order: the hint and the generation are as one processor sees them.
 *   The eventfd, the mutex and the condition of the waiter: a state that changes under the mutex
 *   changes in one step, and every wake-up of a condition arrives. But a wait that times out
 *   and the mutex that is taken afterwards are two steps (GIVES_BACK).
 *   The turn of a cohort: to the others it is one more seat that has a turn.
 *   Inside a cohort's stretch other processes do not move. seat.pml makes the same system calls
 *   one by one.
 *   Who asks to recover and who is refused is not fixed: whoever finds a dead owner may be
 *   either, and a recovery may fail. Only a free lock is never refused to a cohort, and readers
 *   are refused in its queue alone. Either way the generation stays odd.
 *   More deaths than one or two; those strike anybody, between any two steps.
 */
#ifndef COHORTS
#define COHORTS 0
#endif
#ifndef TASKS
#define TASKS 2 /* of each cohort */
#endif
#ifndef SEATS
#define SEATS 0
#endif
#ifndef ROUNDS
#define ROUNDS 1 /* of each task; 0: it never stops */
#endif
#define PROCESSES (COHORTS + SEATS)
#define COHORT_TASKS (COHORTS * TASKS)
#define EVERYBODY (BIT(COHORT_TASKS + SEATS) - 1)
#ifndef SPINS
#define SPINS 0 /* 1: a seat tries a busy lock once more before it waits */
#endif
#ifndef TURNS
#define TURNS 0 /* how often a seat that waited to write may pass the gate */
#endif
#ifndef READS
#define READS EVERYBODY
#endif
#ifndef WRITES
#define WRITES EVERYBODY
#endif
#ifndef CANCELS
#define CANCELS 0
#endif
#ifndef UPGRADES
#define UPGRADES 0
#endif
#ifndef DOWNGRADES
#define DOWNGRADES 0
#endif
#ifndef GIVES_UP
#define GIVES_UP 0
#endif
#ifndef GIVES_BACK
#define GIVES_BACK 0
#endif
#ifndef SLEEPERS
#define SLEEPERS 0
#endif
#ifndef PASS_SLEEPERS
#define PASS_SLEEPERS 0
#endif
#ifndef HOLDERS
#define HOLDERS 0
#endif
#ifndef READ_ONLY
#define READ_ONLY 0 /* seats that set no hint */
#endif
#ifndef GATELESS
#define GATELESS 0
#endif
#ifndef MAX_PASSES
#define MAX_PASSES 1
#endif

#include "events.pml"
#include "kernel.pml"
#include "belief.pml"
#include "seat.pml"
#if COHORTS > 0
#include "cohort.pml"
#endif

#ifdef CRASHES
/* Somebody dies, at any moment; nobody takes its place. CRASHES: how many. */
proctype Death()
{
	byte p;

	select (p : 0 .. PROCESSES - 1);
#if COHORTS > 0
	if
	:: p < COHORTS -> atomic {
		die(p, (BIT(TASKS) - 1) << (p * TASKS));
		writer[p] = 0; readers[p] = 0; first[p] = 0; upgrading[p] = false;
		request[p] = IDLE; mode[p] = NOTHING; cancelled[p] = false; won[p] = false;
		passes[p] = 0;
		do
		:: len(queue[p]) -> queue[p]?_
		:: else -> break
		od
	   }
	:: else -> atomic { die(p, BIT(p - COHORTS + COHORT_TASKS)) }
	fi
#else
	atomic { die(p, BIT(p)) }
#endif
}
#endif

#if COHORTS == 0
#define QUIET true
#elif COHORTS == 1
#define QUIET (request[0] == IDLE)
#else
#define QUIET (request[0] == IDLE && request[1] == IDLE)
#endif

init
{
	byte i;

	atomic {
		START_OF_EVENTS;
#if COHORTS > 0
		for (i : 0 .. COHORTS - 1) {
			run Thread(i);
			run Loop(i)
		}
		for (i : 0 .. COHORT_TASKS - 1) {
			run Task(i / TASKS, i)
		}
#endif
#if SEATS > 0
		for (i : 0 .. SEATS - 1) {
			run Seat(COHORTS + i, COHORT_TASKS + i)
		}
#endif
#ifdef CRASHES
		run Death();
#if CRASHES > 1
		run Death();
#endif
#endif
		i = 0
	};
	/* with endless rounds nobody gets here */
	if
	:: finished == EVERYBODY && QUIET
	:: atomic { ROUNDS == 0 -> false }
	fi;
	assert(HOLDERS || exclusive == 0 && shared == 0 && inside_r == 0 && inside_w == 0);
	assert(gate == 0 || SLEEPERS);
	assert(hint == 0 || dead || SLEEPERS)
}

/*
 * Liveness, under weak fairness (pan -f): who can go on for ever without a pause does so in the
 * end. HERO is the task that must get in; holders leave, but newcomers never cease.
 */
#ifdef HERO
#if HERO >= COHORT_TASKS
#define HERO_OFD (HERO - COHORT_TASKS + COHORTS)
#define WANTS (waiting & BIT(HERO))
#define GETS_IN ((inside_r | inside_w) & BIT(HERO))
#else
#define HERO_OFD (HERO / TASKS)
#define WANTS (waiter[HERO] == WAITING)
#define GETS_IN (waiter[HERO] == GRANTED) /* also out of an upgrade() */
#endif
#define AT_GATE (gate == HERO_OFD + 1)
#define COULD_TAKE_GATE (WANTS && gate == 0)
#define COULD_TAKE_FLOCK (WANTS && CAN(HERO_OFD, EX))

/* Nothing more is assumed. */
ltl gets_in { [] (WANTS -> <> GETS_IN) }
/* The same, from the moment on when it stands at the gate. */
ltl gets_in_from_gate { [] (WANTS && AT_GATE -> <> GETS_IN) }
/* Who queues at a gate that is free again and again takes it some time. */
ltl gets_in_by_gate { ([]<> COULD_TAKE_GATE -> []<> AT_GATE) -> [] (WANTS -> <> GETS_IN) }
/* Who waits for a flock that is free for it again and again gets it some time. */
ltl gets_in_by_flock { ([]<> COULD_TAKE_FLOCK -> []<> GETS_IN) -> [] (WANTS -> <> GETS_IN) }
#endif
