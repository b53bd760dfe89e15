/*
 * The coroutines of one event loop (cohort.py) and their waiting thread (waiter.c, waiter_thread.c).
 *
 * A stretch of the loop between two awaits is one step (atomic), system calls and all: nothing
 * else of its cohort can run meanwhile, and the races between processes inside such a stretch
 * are those of seat.pml, which takes the same calls one by one. The waiting thread makes one
 * step per system call; what it does with its mutex held is one step, too.
 *
 * c is the cohort and its OFD. An inline has the name of the method that it stands for.
 * Derived, not stored: asking <=> request != IDLE; idle <=> IS_IDLE(c).
 */
byte writer[COHORTS];  /* t + 1; 0: NOBODY */
byte readers[COHORTS]; /* mask of tasks */

/*
 * The queue. Who upgrades beside other readers stands before all others: there is one such at
 * a time, and it stays there as a plain writer when its conversion met a conflict.
 */
byte first[COHORTS];    /* t + 1; 0: nobody */
bool upgrading[COHORTS]; /* it still reads, and waits to be alone */
chan queue[COHORTS] = [TASKS] of { byte };
byte passes[COHORTS];

/* The waiting thread's request. */
#define IDLE 0
#define ASKED 1
#define BLOCKED 2
#define ENDED 3
byte request[COHORTS];
byte mode[COHORTS];
bool cancelled[COHORTS];
bool won[COHORTS]; /* in ENDED: the result is a grant, else -ECANCELED */

/*
 * A task's waiter. CANCELLED: its future is, so wake() returns False, and the task has not run
 * yet to withdraw. A cancel that comes after the grant is a leave() as any other.
 */
#define OUT 0
#define WAITING 1
#define CANCELLED 2
#define GRANTED 3
#define ALL_TASKS (COHORTS * TASKS)
byte waiter[ALL_TASKS];
byte kind[ALL_TASKS]; /* SH, EX: what it wants or has */

#define OCCUPIED(c) (writer[c] != 0 || readers[c] != 0)
#define QUEUED(c) (first[c] != 0 || len(queue[c]) != 0)
#define IS_IDLE(c) (!OCCUPIED(c) && !QUEUED(c) && request[c] == IDLE)

/* try_read: may a reader share what readers of its cohort have? MAX_SHARE is a clock, left out. */
#ifdef JOINS_PAST_THE_QUEUE
#define MAY_JOIN(c) (!hint)
#elif defined(JOINS_PAST_THE_GATE)
#define MAY_JOIN(c) (!QUEUED(c))
#else
#define MAY_JOIN(c) (!QUEUED(c) && !hint)
#endif

/* Scratch: means nothing between two steps. */
hidden byte x;       /* a task */
hidden byte head;    /* kind of the queue's head; NOTHING: empty */
hidden byte ok;
hidden byte was_head;

/*
 * What the stretch calls last, before it ends. Python calls these methods; here they take turns
 * in proceed(), as Promela would copy each one into each of its callers.
 */
#define DONE 0
#define ASK 1
#define ADMIT 2
#define ADMIT_READERS 3
#define HAND_OVER 4
#define CONVERT 5
hidden byte todo;

/* ---- enter ---- */

/* shma_lock_try_*, in one step: through the gate if the hint is set, or not at all. */
inline try_lock(c, what)
{
	if
	:: hint && gate != 0 -> ok = false
	:: hint && gate == 0 -> /* it is stale, and cleared on the way out */
		EVENT(FOUND_HINT_STALE);
		hint = false;
		try_flock(c, what, ok)
	:: !hint ->
		try_flock(c, what, ok)
	fi
}

/* try_enter, and enter up to its await */
inline enter(c, t)
{
	if
	:: IS_IDLE(c) -> try_lock(c, kind[t])
	:: else -> ok = kind[t] == SH && readers[c] != 0 && MAY_JOIN(c)
	fi;
	if
	:: ok && readers[c] -> x = t; admitted(c); EVENT(JOINED)
	:: ok && !readers[c] -> x = t; admitted(c)
	:: else -> append(c, t)
	fi
}

inline append(c, t)
{
	waiter[t] = WAITING;
	queue[c]!t;
	todo = (todo == DONE && !OCCUPIED(c) && request[c] == IDLE -> ASK : todo)
}

/* ---- ask ---- */

/* The queue's head, without taking it out. */
inline look(c)
{
	if
	:: first[c] -> head = EX
	:: !first[c] && len(queue[c]) -> queue[c]?<x>; head = kind[x]
	:: else -> head = NOTHING
	fi
}

inline _ask(c)
{
	todo = DONE;
	look(c);
	if
	:: head != NOTHING ->
		assert(request[c] == IDLE && FLOCK(c) == NOTHING);
		request[c] = ASKED; /* waiter_start */
		mode[c] = head;
		cancelled[c] = false
	:: else /* _rest */
	fi
}

/* waiter_finish, and what follows */
inline _request_ended(c)
{
	request[c] = IDLE;
	mode[c] = NOTHING;
	cancelled[c] = false;
	passes[c] = 0;
#ifdef ENDS_WITHOUT_ASKING
	todo = (won[c] -> ADMIT : DONE);
#else
	todo = (won[c] -> ADMIT : ASK);
#endif
	won[c] = false
}

/* ---- admit ---- */

inline popleft(c)
{
	if
	:: first[c] -> x = first[c] - 1; first[c] = 0
	:: else -> queue[c]?x
	fi
}

/* Task x, just popped, is woken and counted in. */
inline admitted(c)
{
	waiter[x] = GRANTED;
	if
	:: kind[x] == EX -> writer[c] = x + 1
	:: else -> readers[c] = readers[c] | BIT(x)
	fi;
	goes_in(c, x, kind[x])
}

/* Task x, just popped, is woken with OwnerDiedError; others recover, or do not mind. */
inline refused(c)
{
	assert(owed);
	EVENT(REFUSED_IN_THE_QUEUE);
	waiter[x] = OUT;
	kind[x] = NOTHING;
	forget(BIT(x))
}

/* One turn of its loop. */
inline _admit(c)
{
	look(c);
	if
	:: head == NOTHING -> _release(c); todo = DONE
	:: head == SH -> todo = ADMIT_READERS
	:: head == EX && exclusive != c + 1 ->
		_release(c);
		todo = ASK
	:: head == EX && exclusive == c + 1 ->
		popleft(c);
		if
		:: waiter[x] == WAITING -> admitted(c); todo = DONE
		:: waiter[x] == WAITING && odd -> refused(c)
		:: else -> EVENT(WOKE_A_CANCELLED_ONE)
		fi
	fi
}

/* One turn of its loop; whoever calls it with readers inside is done with it afterwards. */
inline _admit_readers(c)
{
	if
	:: exclusive == c + 1 -> end_write(c); assert(CAN(c, SH)); take(c, SH)
	:: else
	fi;
	look(c);
	if
	:: head == SH ->
		popleft(c);
		if
		:: waiter[x] == WAITING -> admitted(c)
		:: waiter[x] == WAITING && odd -> refused(c)
		:: else
		fi
	:: else -> todo = (readers[c] -> DONE : ADMIT)
	fi
}

/* ---- leave ---- */

/* shma_lock_release */
inline _release(c)
{
	end_write(c);
	drop(c)
}

/* Nobody is inside any more. MAX_KEEP is a clock: it may be over at any hand-over. */
/* MAX_PASSES stands for all bounds: that of time, too, and the longer one while no other waits */
inline _hand_over(c)
{
	if
#ifdef HANDS_OVER_FOR_EVER
	:: true -> end_write(c); todo = ADMIT
#else
	:: passes[c] < MAX_PASSES -> passes[c]++; end_write(c); todo = ADMIT; EVENT(HANDED_OVER)
	:: true -> _release(c); passes[c] = 0; todo = ASK; EVENT(LET_GO_FOR_OTHERS)
#endif
	fi
}

inline last_out(c)
{
	if
	:: QUEUED(c) -> todo = HAND_OVER
	:: else -> _release(c); passes[c] = 0
	fi
}

inline leave(c, t)
{
	goes_out(t);
	if
	:: kind[t] == EX -> writer[c] = 0; last_out(c)
	:: else ->
		readers[c] = readers[c] & ~BIT(t);
		if
		:: readers[c] == 0 -> last_out(c)
		:: readers[c] != 0 && upgrading[c] -> todo = CONVERT
		:: else
		fi
	fi
}

/* ---- convert ---- */

/* upgrade(), in its three cases. kind is EX from here on: that is what the task waits for. */
inline upgrade(c, t)
{
	kind[t] = EX;
	if
#ifdef TWO_MAY_UPGRADE
	:: upgrading[c] -> waiter[t] = WAITING; queue[c]!t
#else
	:: upgrading[c] -> /* C: leave as any reader, and queue as anyone */
		inside_r = inside_r & ~BIT(t);
		says_false(t);
		readers[c] = readers[c] & ~BIT(t);
		todo = CONVERT;
		append(c, t);
		EVENT(UPGRADED_SECOND)
#endif
	:: !upgrading[c] && readers[c] == BIT(t) -> /* A: alone */
		try_flock(c, EX, ok);
		if
		:: ok -> readers[c] = 0; upgraded(c, t); EVENT(UPGRADED_ALONE)
#ifdef UPGRADE_KEEPS_BELIEF
		:: else -> kind[t] = SH
#else
		:: else -> readers[c] = 0; upgrade_failed(t); append(c, t); EVENT(LOST_ALONE)
#endif
		fi
	:: else -> /* B: others read, too */
		assert(first[c] == 0);
		waiter[t] = WAITING;
		first[c] = t + 1;
		upgrading[c] = true
	fi
}

/* It will be False. The task knows that it holds nothing meanwhile. */
inline upgrade_failed(t)
{
	inside_r = inside_r & ~BIT(t);
#ifndef UPGRADE_SAYS_TRUE
	says_false(t)
#endif
}

inline upgraded(c, t)
{
	waiter[t] = GRANTED;
	writer[c] = t + 1;
	goes_in(c, t, EX);
	says_true(t)
}

/* Case B goes on: a reader has left. Who was cancelled is about to leave by itself. */
inline convert_if_alone(c)
{
	todo = DONE;
	x = first[c] - 1;
	if
	:: readers[c] == BIT(x) && waiter[x] == WAITING ->
		upgrading[c] = false;
		readers[c] = 0;
		try_flock(c, EX, ok);
		if
		:: ok -> first[c] = 0; upgraded(c, x); EVENT(UPGRADED_IN_THE_END)
		:: else -> upgrade_failed(x); todo = ASK; EVENT(LOST_IN_THE_END)
		fi
	:: else
	fi
}

inline downgrade(c, t)
{
	end_write(c);
	assert(CAN(c, SH)); /* it never waits */
	take(c, SH);
	writer[c] = 0;
	readers[c] = BIT(t);
	kind[t] = SH;
	becomes_reader(t);
	EVENT(DOWNGRADED);
	todo = ADMIT_READERS /* those at the queue's head need not wait any more */
}

/* ---- withdraw ---- */

inline _withdraw(c, t)
{
	waiter[t] = OUT;
	forget(BIT(t));
	if
	:: first[c] == t + 1 && upgrading[c] -> /* it holds nothing afterwards */
		first[c] = 0;
		upgrading[c] = false;
		readers[c] = readers[c] & ~BIT(t);
		EVENT(UPGRADE_CANCELLED);
		if
		:: readers[c] == 0 -> last_out(c)
		:: else -> todo = ADMIT_READERS
		fi
	:: (first[c] == t + 1 && !upgrading[c]) || queue[c]??[eval(t)] ->
		was_head = first[c] == t + 1;
		if
		:: first[c] == t + 1 -> first[c] = 0
		:: else ->
			queue[c]?<x>;
			was_head = first[c] == 0 && x == t;
			queue[c]??eval(t)
		fi;
		if
		:: OCCUPIED(c) -> todo = (was_head && readers[c] -> ADMIT_READERS : DONE)
		:: !OCCUPIED(c) && !QUEUED(c) -> waiter_cancel(c)
		:: else
		fi
	:: else -> EVENT(FOUND_ITSELF_DROPPED)
	fi
}

inline waiter_cancel(c)
{
	assert(request[c] != IDLE);
	if
#ifdef CANCEL_FORGETS_A_GRANT
	:: request[c] == ENDED && won[c] -> request[c] = IDLE; won[c] = false
#else
	:: request[c] == ENDED && won[c] -> _request_ended(c); EVENT(CANCELLED_AFTER_GRANT)
#endif
	:: else -> cancelled[c] = true; EVENT(CALLED_OFF)
	fi
}

/* ---- what runs ---- */

inline proceed(c)
{
	do
	:: todo == ASK -> _ask(c)
	:: todo == ADMIT -> _admit(c)
	:: todo == ADMIT_READERS -> _admit_readers(c)
	:: todo == HAND_OVER -> _hand_over(c)
	:: todo == CONVERT -> convert_if_alone(c)
	:: todo == DONE -> break
	od
}

#define MORE (ROUNDS == 0 || round < ROUNDS)

proctype Task(byte c; byte t)
{
	byte round;
	bit once; /* it has upgraded in this round */

	do
	:: atomic {
		if
		:: waiter[t] == OUT && MORE ->
			round = (ROUNDS > 0 -> round + 1 : 0);
			if
			:: READS & BIT(t) -> kind[t] = SH
			:: WRITES & BIT(t) -> kind[t] = EX
			fi;
			enter(c, t)
		:: waiter[t] == WAITING && (CANCELS & BIT(t)) -> waiter[t] = CANCELLED
		:: waiter[t] == CANCELLED -> _withdraw(c, t); kind[t] = NOTHING; once = false
		:: waiter[t] == GRANTED && kind[t] == SH && !once && (UPGRADES & BIT(t)) ->
			once = true;
			upgrade(c, t)
		:: waiter[t] == GRANTED && kind[t] == EX && DOWNGRADES -> downgrade(c, t)
		:: waiter[t] == GRANTED ->
			if
			:: kind[t] == EX && once && (watched & BIT(t)) -> says_true(t) /* a mutation */
			:: else
			fi;
			leave(c, t);
			waiter[t] = OUT;
			kind[t] = NOTHING;
			once = false
		fi;
		proceed(c)
	   }
	:: atomic { waiter[t] == OUT && !MORE -> finished = finished | BIT(t); break }
	od unless { dead & BIT(c) }
}

/* The loop: the eventfd is readable. */
proctype Loop(byte c)
{
	{
	skip;
end:
	do
	:: atomic { request[c] == ENDED -> _request_ended(c); proceed(c) }
	od
	} unless { dead & BIT(c) }
}

/*
 * The waiting thread: thread_main, serve, shma_gate_wait. Where it blocks, the interrupt can
 * end the system call, as it is repeated until the request has ended. EINTR without a cancel
 * (the patience at the gate) changes nothing and is no step.
 */
proctype Thread(byte c)
{
	bit deaf; /* true in a mutation only */
	bit passed;

	{
	skip;
end:
	do
	:: atomic {
		request[c] == ASKED -> request[c] = BLOCKED;
		if
		:: cancelled[c] -> goto ended
		:: else
		fi
	   };
#ifdef INTERRUPTS_ONCE
		atomic {
			if
			:: cancelled[c] -> deaf = true /* it came before the call, and was the only one */
			:: else
			fi
		};
#endif
again:
		if
		:: atomic { gate == 0 -> gate = c + 1 }
		:: cancelled[c] && !deaf -> goto ended
		:: atomic { LOOKS(c) -> look_for_a_sleeper(c, passed) };
			atomic {
				if
				:: !passed -> drop(c); goto again
				:: else
				fi;
				if
				:: mode[c] == SH -> assert(CAN(c, SH)); take(c, SH)
				:: else
				fi;
				goto granted
			}
		fi;
		set_hint();
		if
		:: atomic {
			CAN(c, mode[c]) ->
			assert(gate == c + 1 && hint);
			take(c, mode[c])
		   };
			gate_leave(c);
			goto granted
		:: cancelled[c] && !deaf -> goto over
		fi;
granted:
		atomic {
			if
#ifndef CANCEL_KEEPS_THE_LOCK
			:: cancelled[c] -> drop(c); EVENT(WON_ALL_THE_SAME)
#endif
			:: else -> won[c] = !cancelled[c]
			fi;
			request[c] = ENDED;
			deaf = false;
			goto end
		};
over:
		gate_leave(c);
ended:
		atomic { request[c] = ENDED; deaf = false }
	/*
	 * Nobody collects the grant for a second: next_request's wait times out, and then takes
	 * the mutex back. Meanwhile the loop may have been quicker, so give_back has to look again.
	 */
	:: GIVES_BACK && request[c] == ENDED && won[c] ->
		atomic {
			if
#ifdef GIVES_BACK_UNSEEN
			:: true -> drop(c); won[c] = false
#else
			:: request[c] == ENDED && won[c] -> drop(c); won[c] = false; EVENT(GAVE_BACK)
			:: else -> EVENT(COLLECTED_IN_TIME)
#endif
			fi
		}
	od
	} unless { dead & BIT(c) }
}
