/*
 * A thread that blocks, on an OFD of its own (seat.py). Every system call
 * and every store to the control page is a step of its own, so this is where the races between
 * processes are looked for. p is its OFD, t its task.
 *
 *   try      shma_lock_try_shared / _manner: shma_lock_attempt, try_through_gate
 *   turn     shma_turn_begins, shma_turn_lasts: tries past the gate that are left. Here they are
 *            counted; time may end a turn earlier, so it also may go through the gate instead
 *   spin     shma_spin: a look at the hint and one more try; further ones add nothing new
 *   queue    shma_lock_wait: shma_gate_wait, again and again (Seat.wait)
 *   give_up  a timeout or a signal handler's exception: shma_lock_give_up
 *   release  shma_lock_release; the task believes itself outside from its first step on
 */
#define SEAT_DONE (ROUNDS > 0 && round == ROUNDS)

proctype Seat(byte p; byte t)
{
	byte round, want;
	bit code;
	bit upgrading; /* it waits because its upgrade() met a conflict */
	bit spun;      /* in this round */
	byte turn;     /* how often it may still pass the gate */

	{
	skip;
	/* ---- try ---- */
next:
	atomic {
		if
		:: SEAT_DONE -> goto done
		:: !SEAT_DONE && (READS & BIT(t)) -> want = SH
		:: !SEAT_DONE && (WRITES & BIT(t)) -> want = EX
		fi;
		round = (ROUNDS > 0 -> round + 1 : 0);
		spun = false;
		if /* shma_gate_is_taken: a load */
#ifdef HINT_UNHEEDED
		:: hint && !GATELESS
#else
		:: hint && !GATELESS -> turn = 0; goto through
#endif
		:: hint && !GATELESS && turn && want == EX ->
#ifndef TURN_WITHOUT_END
			turn--;
#endif
			EVENT(PASSED_IN_ITS_TURN)
		:: !hint || GATELESS
		fi
	};
spin:
	atomic {
		try_flock(p, want, code);
		if
		:: code -> goto granted
		:: !code && SPINS && !spun -> spun = true
		:: !code -> waiting = waiting | BIT(t); goto queue
		fi
	};
	atomic {
		if
#ifndef HINT_UNHEEDED
		:: hint && !GATELESS -> waiting = waiting | BIT(t); goto queue
#endif
		:: else -> goto spin
		fi
	};
through: /* try_through_gate */
	if
	:: atomic { gate == 0 -> gate = p + 1; EVENT(FOUND_HINT_STALE) }
	:: atomic { gate != 0 -> waiting = waiting | BIT(t); goto queue }
	fi;
	set_hint();
	atomic { try_flock(p, want, code) };
	gate_leave(p);
	atomic {
		if
		:: code -> goto granted
		:: else -> waiting = waiting | BIT(t)
		fi
	};

	/* ---- queue ---- */
queue:
	if
	:: atomic {
		!GATELESS && gate == 0 -> gate = p + 1;
		if
		:: SLEEPERS & BIT(t) -> goto asleep
		:: true -> skip
		fi
	   }
	:: GATELESS -> goto block
	:: atomic { LOOKS(p) -> look_for_a_sleeper(p, code) };
		atomic {
			if
			:: !code -> drop(p); goto queue
			:: else
			fi;
			/* a reader converts; nothing can stand in the way */
			if
			:: want == SH -> assert(CAN(p, SH)); take(p, SH)
			:: else -> turn = TURNS
			fi;
			goto granted
		}
	:: GIVES_UP && !upgrading -> goto give_up
	fi;
	atomic {
		if
		:: READ_ONLY & BIT(t) -> skip /* it cannot write to the control page */
		:: else -> set_hint()
		fi;
		if
		:: SLEEPERS & BIT(t) -> goto asleep
		:: true -> skip
		fi
	};
block:
	if
	:: atomic {
		CAN(p, want) ->
		assert(GATELESS || (READ_ONLY & BIT(t)) || (gate == p + 1 && hint)); /* so newcomers queue behind it */
		take(p, want);
		turn = (want == EX -> TURNS : 0);
		if
		:: GATELESS -> goto granted
		:: else
		fi
	   }
	:: GIVES_UP && !upgrading -> goto give_up
	fi;
	gate_leave(p);

	/* ---- inside ---- */
granted:
	atomic {
		if
		:: true ->
			goes_in(p, t, want);
			if
			:: upgrading -> upgrading = false; says_false(t)
			:: else
			fi
		:: odd && want == EX && !upgrading -> /* OwnerDiedError: it did not ask to recover */
			assert(owed);
			EVENT(REFUSED_AS_OWNER_DIED);
			waiting = waiting & ~BIT(t);
#ifdef REFUSED_MAKES_SOUND
			odd = false;
#endif
			goto unlock
		fi;
		if
		:: HOLDERS & BIT(t) -> goto stays
		:: !(HOLDERS & BIT(t)) && want == SH && (UPGRADES & BIT(t)) -> goto upgrade
		:: !(HOLDERS & BIT(t)) && want == EX && DOWNGRADES -> goto downgrade
		:: !(HOLDERS & BIT(t)) -> goto release
		fi
	};

	/* upgrade(), case A: a seat is the only reader of its OFD. One system call. */
upgrade:
#ifdef SPLIT_CONVERSION
	atomic { drop(p) };
#endif
	atomic {
		want = EX;
		try_flock(p, EX, code);
		if
		:: code ->
			goes_in(p, t, EX);
			says_true(t);
			EVENT(UPGRADED_ALONE);
			goto release
#ifdef UPGRADE_KEEPS_BELIEF
		:: else -> want = SH; goto release
#else
		:: else -> /* the shared lock is gone: queue like anyone else */
			inside_r = inside_r & ~BIT(t);
			waiting = waiting | BIT(t);
			upgrading = true;
			EVENT(LOST_ALONE);
			goto queue
#endif
		fi
	};

	/* downgrade(): end_write, then one system call that must not fail */
downgrade:
	atomic { becomes_reader(t); end_write(p); EVENT(DOWNGRADED) };
	atomic { assert(CAN(p, SH)); take(p, SH) };

release:
	atomic { goes_out(t); end_write(p) };
unlock:
	atomic { drop(p); want = NOTHING };
	goto next;

give_up:
	atomic {
		EVENT(GAVE_UP);
		waiting = waiting & ~BIT(t);
		if
		:: gate != p + 1 -> goto unlock
		:: else
		fi
	};
	gate_leave(p);
	goto unlock;

asleep: /* SIGSTOP, for ever; it has the gate */
	atomic { falls_asleep(p); forget(BIT(t)); finished = finished | BIT(t) };
end_asleep:
	false;

stays: /* it never leaves; what it holds is out of the properties' sight */
	finished = finished | BIT(t);
end_inside:
	false;

done:
	finished = finished | BIT(t)
	} unless { dead & BIT(p) }
}
