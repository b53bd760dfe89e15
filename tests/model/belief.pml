/*
 * What the tasks believe: no part of the protocol, written and read by the properties alone.
 * t is a task (a coroutine, or a thread with a blocking hold); a mask has bit t.
 */
byte inside_r; /* tasks that read */
byte inside_w; /* tasks that write */
byte watched;  /* tasks that have read, and may still hear True from upgrade() */
byte stale;    /* those of them since whose read somebody else wrote */
byte waiting;  /* tasks that had to wait, and do */
byte finished; /* tasks that have no round left, or died */
bit owed;      /* a writer died inside, and no sound write has followed */

/* The task is inside from here on: exclusion, and whether it is told rightly of a death. */
inline goes_in(p, t, mode)
{
	assert(odd == owed);
	if
	:: owed -> EVENT(TOLD_THAT_OWNER_DIED)
	:: else
	fi;
	assert(inside_w == 0);
	assert(mode == SH || (inside_r & ~BIT(t)) == 0);
	waiting = waiting & ~BIT(t);
	if
	:: mode == SH ->
		inside_r = inside_r | BIT(t);
		watched = watched | BIT(t);
		stale = stale & ~BIT(t)
	:: else ->
		begin_write(p);
		inside_r = inside_r & ~BIT(t);
		inside_w = inside_w | BIT(t);
		stale = stale | (watched & ~BIT(t))
	fi
}

/* downgrade() */
inline becomes_reader(t)
{
	inside_w = inside_w & ~BIT(t);
	inside_r = inside_r | BIT(t);
	watched = watched | BIT(t)
}

/* upgrade() is about to return True: nobody else can have written since the read. */
inline says_true(t)
{
	assert((watched & BIT(t)) && !(stale & BIT(t)));
	watched = watched & ~BIT(t)
}

inline says_false(t)
{
	watched = watched & ~BIT(t);
	stale = stale & ~BIT(t)
}

/* The task's last act inside, before the first step of the release. */
inline goes_out(t)
{
	forget(BIT(t))
}

inline forget(tasks)
{
	inside_r = inside_r & ~(tasks);
	inside_w = inside_w & ~(tasks);
	watched = watched & ~(tasks);
	stale = stale & ~(tasks);
	waiting = waiting & ~(tasks)
}
