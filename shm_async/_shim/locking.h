/*
 * Failures for which an errno would say something else. Functions return them negated, as they
 * do an errno; the kernel has no errno so large.
 *
 * NO_SIGNAL: the interrupting signal, or every candidate for it, has a handler already.
 * NO_THREAD: no thread can be started. NO_TIMER: no timer can be made.
 */
enum { SHMA_NO_SIGNAL = 5001, SHMA_NO_THREAD, SHMA_NO_TIMER };

/* ---- lock: one open file description (OFD) that takes flock(2) ------------ */

struct shma_waiter;

/*
 * The caller gives the memory, zeroed, and keeps it as long as any call may still come: a
 * closed lock answers -EBADF to every call, so a late call of a garbage collector, which
 * chooses its own order, does no harm. Only the shim writes the fields, except those that say
 * "Python's to set".
 */
typedef struct shma_lock {
    int32_t fd;             /* the OFD; -1: closed, or this is a forked child */
    int32_t mode;           /* what the OFD holds: 0, LOCK_SH or LOCK_EX */
    int64_t size;           /* bytes that the object must have at every grant */
    shma_identity identity; /* of the OFD */
    shma_control *control;  /* whose generation we mark; NULL: none */
    uint64_t start;         /* we, as the control page names a writer */
    uint64_t ns;
    uint32_t pid;
    int32_t writable;   /* the descriptor may write */
    const char *home;   /* the object's path, to open it again; NULL: never. Python's to set */
    int32_t teller;     /* another, writable descriptor of it; -1: none. Python's to set */
    int32_t at_gate;    /* the OFD has the gate */
    int64_t front;      /* the gate's ticket when the flock was seen free; 0: it was not */
    int64_t free_since; /* when it was first seen so, ns (CLOCK_MONOTONIC) */
    int32_t writing;    /* we made the generation odd */
    int32_t unsound;    /* we write over a dead writer's data: it stays odd when we end */
    int32_t untold;     /* a write has ended, and watchers were not told yet */
    int32_t ignore;     /* let in after a writer's death. Python's to set */
    int32_t linked;     /* refuse an object without a name. Python's to set */
    int32_t sysv;       /* the id of its System V segment; -1: none. Python's to set */
    uint64_t cookie;    /* of that segment's companion, which `fd` is of. Python's to set */
    uint32_t dead_pid;  /* the dead writer that was found last */
    uint64_t dead_start;
    uint64_t dead_ns;
    int32_t bound;    /* only `taker` may take it */
    uint64_t taker;   /* the thread that it is bound to, or that took it last; low half: its
                             gettid(). Python clears the high half of a lock that any thread may
                             release: then it counts as taken by no thread */
    int32_t inside;   /* a hold has begun and not ended; else the lock is between two holds */
    int64_t since;    /* when the current hold began, ns (CLOCK_MONOTONIC) */
    int64_t granted;  /* when the kernel granted the lock, to this hold or to one before it */
    int64_t turn;     /* when its turn at the gate ends, ns; see gate.c */
    int64_t lasted;   /* the last hold that ended, ns */
    int32_t ended;    /* its mode */
    int64_t longest;  /* the longest so far, ns */
    int64_t held;     /* all holds that have ended, together, ns */
    uint64_t holds;   /* their number */
    int64_t slow;     /* a longer hold is reported, ns; 0: none is. Python's to set */
    uint32_t recent;  /* how long this OFD has lately had it, ns; at most 1e6 */
    uint32_t skipped; /* busy tries since the last spin */
    uint32_t to_skip; /* how many are to go without one, as spinning has failed */
    uint64_t reads;   /* shared locks that were taken by try or wait */
    uint64_t writes;  /* how often a write has begun */
    uint64_t ignored; /* dead writers whose data we wrote over, as `ignore` says */
    struct shma_waiter *waiter; /* NULL until the first request */
    struct shma_lock *next;     /* every lock of the process */
    struct shma_lock **link;    /* what points to this one */
} shma_lock;

/*
 * Open a lock: a new OFD of the object with that identity, to which `path` must lead (-ESTALE
 * if it does not). `size` is what the object must have at every grant, bytes. `control` may be
 * NULL; else every exclusive hold marks its generation and its gate is watched, so the mapping
 * must outlive the lock's close. `pid`, `start` and `ns` name this process.
 *
 * A fork closes the descriptor in the child, without LOCK_UN: the child holds nothing and every
 * call there returns -EBADF. Nothing else closes it.
 */
int32_t shma_lock_open(shma_lock *lock, const char *path, int32_t writable, uint64_t device,
                       uint64_t inode, int64_t size, shma_control *control, uint32_t pid,
                       uint64_t start, uint64_t ns);

/*
 * Release everything: a request under way is interrupted and waited for, and closing the OFD
 * releases the lock. An exclusive hold leaves the generation odd, as if its owner had died.
 * Closing twice is fine. -EBUSY: the waiting thread cannot be stopped; the memory and the
 * mapping must then stay for ever.
 */
int32_t shma_lock_close(shma_lock *lock);

/*
 * In what manner an exclusive hold begins. MARK: the generation becomes odd, and a dead writer
 * is a reason to refuse. RECOVER: a dead writer is no reason; the generation stays odd at the
 * end unless shma_lock_recovered was called. MARK_LATER: as MARK, but nothing becomes odd
 * before shma_lock_commit.
 */
enum { SHMA_MARK, SHMA_RECOVER, SHMA_MARK_LATER };

/*
 * Take the lock if it is free, without waiting, and begin to write if it is the exclusive one.
 * After an error nothing is held:
 * -EWOULDBLOCK: another holder has it, or a waiter stands at the gate and it is not our turn.
 * -ERANGE: the object is smaller than it was.
 * -EOWNERDEAD: the last writer never ended; `dead_pid`, `dead_start`, `dead_ns` name it.
 * -ESTALE: another object has replaced this one.
 * -ENOLINK: the object has no name any more, and `linked` asks for one.
 * -EBADFD: the program has closed our descriptor, and `home` no longer leads to the object.
 * -EIDRM: other processes lock the System V segment by another companion, or soon will.
 */
int32_t shma_lock_try_shared(shma_lock *lock);
int32_t shma_lock_try_exclusive(shma_lock *lock); /* SHMA_MARK */
int32_t shma_lock_try_manner(shma_lock *lock, int32_t manner);

/*
 * The same for a lock that was just found busy: retry it for up to 50 us, without blocking, where
 * holds are short, see spin.c; else -EWOULDBLOCK at once. Nobody spins past a waiter at the gate.
 */
int32_t shma_lock_spin_shared(shma_lock *lock);
int32_t shma_lock_spin_manner(shma_lock *lock, int32_t manner);

/*
 * Share the lock past a waiter at the gate. For a caller that shares it already through another
 * OFD: it must not wait for a writer that waits for it.
 */
int32_t shma_lock_try_nested(shma_lock *lock);

/*
 * Wait for the lock in the calling thread, through the gate, and begin to write if it is the
 * exclusive one, in that `manner`. Errors as above, and -EINTR: a signal came, or `timeout`
 * nanoseconds (at least 1) have passed, or it is time to look for a sleeper at the gate. The
 * caller then looks at its clock, lets Python run its signal handlers, and calls again or gives
 * up. Without an interrupting signal it polls.
 */
int32_t shma_lock_wait(shma_lock *lock, int32_t exclusive, int32_t manner, int64_t timeout);

/*
 * The same without waiting: one look, from a place at the gate that is kept until the next one.
 * For a thread with other work to do. -EWOULDBLOCK, -EINTR: look again.
 */
int32_t shma_lock_look(shma_lock *lock, int32_t exclusive, int32_t manner);

/* Leave the gate and release the lock, however far an interrupted attempt got. */
void shma_lock_give_up(shma_lock *lock);

/*
 * The three calls that end a hold return 1 instead of 0 after a slow one; see `slow`. Shared
 * locks of one OFD that overlap are one hold.
 */

/*
 * End writing, and release the lock. -EPERM: it was not held. -EBADFD: the program has closed
 * our descriptor meanwhile, which released the lock; the generation stays odd.
 */
int32_t shma_lock_release(shma_lock *lock);

/*
 * A lock that stays held while its users change: end makes the generation even, begin makes it
 * odd. -EPERM: not held, or (begin) shared. -EOWNERDEAD, -ERANGE, -ESTALE, -ENOLINK: as above,
 * but the lock stays held, without a user.
 */
int32_t shma_lock_begin(shma_lock *lock, int32_t manner);
int32_t shma_lock_end(shma_lock *lock);

/*
 * End, and begin for the next writer. 0: both. 1: ended, and it was a slow one. -EWOULDBLOCK:
 * ended, and a waiter stands at the gate; only if `polite`. Other errors: ended, or the lock
 * was lost; begin tells again.
 */
int32_t shma_lock_pass(shma_lock *lock, int32_t manner, int32_t polite);

/* -EOWNERDEAD and so on, as above, if readers must not be let in; the lock stays held. */
int32_t shma_lock_sound(shma_lock *lock);

/* The caller has repaired a dead writer's data: the generation becomes even at the end. */
int32_t shma_lock_recovered(shma_lock *lock);

/*
 * Write `size` bytes from `copy` to `data`: only from the first to the last that differ, and
 * with an odd generation for no longer than that takes. For a hold that marks later. -EPERM:
 * not held exclusively. -ERANGE: as above; nothing is written, and the lock is still held.
 */
int32_t shma_lock_commit(shma_lock *lock, uint8_t *data, const uint8_t *copy, uint64_t size);

/* Exclusive -> shared. Never waits: no other lock can stand in the way. */
int32_t shma_lock_downgrade(shma_lock *lock);

/*
 * Shared -> exclusive, and begin to write, without waiting. 0: no other writer was inside in
 * between. -EWOULDBLOCK: another OFD shares the lock, and our lock is GONE: nothing is held
 * (the kernel releases the old lock before it tries the new one). Any other error: still shared.
 */
int32_t shma_lock_upgrade(shma_lock *lock);

/* 0: not held, 1: shared, 2: exclusive; _here: if the calling thread took it, else 0. */
int32_t shma_lock_mode(const shma_lock *lock);
int32_t shma_lock_mode_here(const shma_lock *lock);

/* From now on only the calling thread may try; other threads find the lock busy. */
void shma_lock_bind(shma_lock *lock);

/* ---- waiter: the one thread that waits on behalf of an event loop --------- */

/*
 * The eventfd that becomes readable when a request has ended. Made on the first call; it
 * belongs to the lock.
 */
int32_t shma_waiter_fd(shma_lock *lock);

/* The same if it was made already and is still ours, else -1. */
int32_t shma_waiter_known_fd(const shma_lock *lock);

/* Ask the waiting thread for the lock. -EBUSY: the last request has not ended. */
int32_t shma_waiter_start(shma_lock *lock, int32_t exclusive);

/*
 * Take the result of a request that has ended. 1: a lock that was requested for writing is held,
 * and the write has begun in that `manner`. 0: the lock is held, and nobody has begun; no check
 * for a dead writer was made, or shma_lock_begin will say again why not. It is also the result of
 * a negative `manner`. -ECANCELED, -ERANGE as above, or the kernel's error. -EINPROGRESS: the
 * request goes on. A grant that its loop does not take within a second, as the loop has stopped,
 * is given back and becomes -ECANCELED.
 */
int32_t shma_waiter_finish(shma_lock *lock, int32_t manner);

/*
 * Cancel the request; never waits. 0: it will end with -ECANCELED and hold nothing, whatever
 * happens. 1: it had ended already, see shma_waiter_finish.
 */
int32_t shma_waiter_cancel(shma_lock *lock);

/* ---- interrupt ------------------------------------------------------------ */

/*
 * Which signal interrupts a blocked flock: a number, or ANY for the first from SIGRTMAX-1 down
 * that has no handler, or OFF for none: waits then poll. Call it before the first wait; later
 * it changes nothing.
 */
enum { SHMA_INTERRUPT_ANY = -1, SHMA_INTERRUPT_OFF = 0 };
void shma_interrupt_choose(int32_t number);

/* That signal, claimed on the first call, or OFF. -SHMA_NO_SIGNAL: it has another handler. */
int32_t shma_interrupt_signal(void);
