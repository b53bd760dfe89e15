/*
 * The contract between the C shim and Python: this one file is the header that
 * every .c file includes and the text that cffi reads, so it holds declarations
 * only (no preprocessor lines; include <stdint.h> first).
 *
 * Every function returns >= 0 on success and -errno on failure, unless it says
 * otherwise. None calls back into Python, none prints.
 */

/* ---- control page: the last 4096 bytes of a managed segment -------------- */

/*
 * Native byte order, as both sides are on one host. The first 128 bytes are
 * written once, before the segment has a name, and never again; `checksum`
 * covers bytes 16 to 123. The fields from `generation` on change all the time
 * and stand on cache lines of their own.
 */
typedef struct {
    uint8_t magic[16];        /*   0  "shm_async region", no NUL                 */
    uint32_t version;         /*  16  of this format: 1                          */
    uint32_t flags;           /*  20  bit 0: sparse on purpose                   */
    uint64_t nbytes;          /*  24  of data                                    */
    uint64_t lineage;         /*  32  drawn at creation; those that replace it have the same */
    uint8_t dtype[16];        /*  40  element type's name, padded with NUL       */
    uint64_t creator_start;   /*  56  clock ticks after boot (/proc/PID/stat 22) */
    uint32_t creator_pid;     /*  64  as its own pid namespace counts            */
    uint32_t ndim;            /*  68  dimensions, 1 to 6                         */
    uint64_t shape[6];        /*  72  elements per dimension; 0 beyond the last  */
    uint32_t epoch;           /* 120  0, and one more each time it is replaced   */
    uint32_t checksum;        /* 124  CRC-32 of bytes 16 to 123                  */
    uint64_t generation;      /* 128  odd: somebody writes, or died writing      */
    uint64_t writer_start;    /* 136  like creator_start, of the last writer; 0: not known */
    uint32_t writer_pid;      /* 144  of the last writer                         */
    uint32_t replaced;        /* 148  1: a larger or smaller one has, or was about to get, its name */
    uint64_t writer_since;    /* 152  when it began, ns (CLOCK_MONOTONIC); for people */
    uint8_t pad1[32];
    uint32_t gate;            /* 192  1: somebody stands at the gate; a hint     */
    uint32_t watchers;        /* 196  bit 0: somebody sleeps until something changes */
    uint8_t pad2[3896];
} shma_control;

/* The generation as it is now. Never blocks; may be read under no lock. */
uint64_t shma_control_generation(const shma_control *control);

/* ---- snapshot: for who copies the data under no lock ---------------------- */

/* What must be known for that; one argument is cheaper to pass than three. */
typedef struct {
    const shma_control *control;
    int64_t size;             /* that the object behind `fd` must have, bytes */
    int32_t fd;
    int32_t linked;           /* an object without a name is refused */
    int32_t sysv;             /* the id of its System V segment; -1: it has none */
} shma_snapshot;

/*
 * The generation's low 63 bits, before and after the copy. Equal, the copy is what was
 * there at one moment. Before: -EWOULDBLOCK, it is odd; -ERANGE, the object has lost
 * its size, and what is gone is a SIGBUS; -ESTALE, -ENOLINK as for a lock.
 */
int64_t shma_snapshot_before(const shma_snapshot *snapshot);
int64_t shma_snapshot_after(const shma_snapshot *snapshot);

/* ---- segment -------------------------------------------------------------- */

/*
 * Reserve the first `size` bytes of the object behind `fd` without changing its
 * size, so that no later store can hit a full /dev/shm. May take a while: it
 * zeroes memory. -EINTR leaves nothing reserved; -ENOSPC the same.
 */
int32_t shma_segment_reserve(int32_t fd, int64_t size);

/*
 * Claim one byte of the object behind `fd`, without waiting: an OFD lock, so it ends with
 * the descriptor at the latest. `kind` is 0 to let go, 1 to share it, 2 to have it alone
 * (for descriptors that may write). -EWOULDBLOCK: somebody else has it.
 */
int32_t shma_segment_claim(int32_t fd, int64_t byte, int32_t kind);

/* ---- System V segment ------------------------------------------------------- */

/* What shmctl(IPC_STAT) says of a segment. */
typedef struct {
    uint64_t size;            /* bytes */
    uint64_t attached;        /* attachments of all processes */
    uint32_t key;             /* 0: it was removed, and goes with its last attachment */
    uint32_t uid;             /* of its owner */
    uint32_t mode;            /* permission bits */
    uint32_t removed;         /* 1: it was removed */
    uint32_t creator_pid;     /* as the caller's pid namespace counts */
} shma_sysv_facts;

/* Make a segment that must not exist yet: its id. `reserve` 0: no memory is set aside. */
int32_t shma_sysv_create(uint32_t key, uint64_t size, uint32_t mode, int32_t reserve);

/* The id of the segment with that key. -ENOENT: there is none. */
int32_t shma_sysv_find(uint32_t key);

int32_t shma_sysv_stat(int32_t id, shma_sysv_facts *facts);

/*
 * Attach the whole segment in place of the range at `address`, which the caller has
 * mapped, of the segment's size, and unmaps: that detaches it.
 */
int32_t shma_sysv_place(int32_t id, void *address, int32_t writable);

/* Copy `size` bytes at `offset`, attaching for a moment. -ERANGE: it is smaller. */
int32_t shma_sysv_read(int32_t id, uint64_t offset, uint8_t *target, uint64_t size);

/* Remove it: nobody finds it any more, and it goes with its last attachment. */
int32_t shma_sysv_remove(int32_t id);

/* ---- mapping -------------------------------------------------------------- */

/*
 * Map the first `size` bytes of `fd` (MAP_SHARED) in place of the range at `address`,
 * which the caller has mapped, of the same size, and unmaps.
 */
int32_t shma_mapping_place(void *address, uint64_t size, int32_t fd, int32_t writable);

/*
 * Put private zeros in place of what is mapped at `address`: the object is let go, and who
 * still looks there sees zeros. One step: there is never a hole, nor a fault.
 */
int32_t shma_mapping_discard(void *address, uint64_t size, int32_t writable);

/* mlock2(MLOCK_ONFAULT); undone when the range is unmapped. */
int32_t shma_mapping_lock(void *address, uint64_t size);

/* ---- lock: one open file description (OFD) that takes flock(2) ------------ */

struct shma_waiter;

/*
 * The caller gives the memory, zeroed, and keeps it as long as anything may still
 * call: a closed lock answers -EBADF to every call, so who comes late (a garbage
 * collector chooses its own order) does no harm. For the shim to write only.
 */
typedef struct shma_lock {
    int32_t fd;               /* the OFD; -1: closed, or this is a forked child */
    int32_t mode;             /* what the OFD holds: 0, LOCK_SH or LOCK_EX */
    int64_t size;             /* what the object must have at every grant, bytes */
    shma_control *control;    /* whose generation we mark; NULL: none */
    uint64_t start;           /* who marks it */
    uint32_t pid;
    int32_t writable;         /* the descriptor may write */
    int32_t at_gate;          /* the OFD has the gate */
    int32_t writing;          /* the generation is odd by our doing */
    int32_t unsound;          /* we write what a dead writer left: it stays odd when we end */
    int32_t untold;           /* a write has ended, and watchers were not told yet */
    int32_t ignore;           /* a dead writer is no reason to refuse. Python's to set */
    int32_t linked;           /* an object without a name is refused. Python's to set */
    int32_t sysv;             /* the id of its System V segment; -1: none. Python's to set */
    uint32_t dead_pid;        /* the dead writer that was found last */
    uint64_t dead_start;
    int32_t bound;            /* only `taker` may take it */
    uint64_t taker;           /* the thread that it is bound to, or that took it last */
    int64_t since;            /* when the hold that is on began, ns (CLOCK_MONOTONIC) */
    int64_t lasted;           /* the last hold that ended, ns */
    int32_t ended;            /* its mode */
    int64_t longest;          /* the longest so far, ns */
    int64_t slow;             /* a hold of more ns is reported; 0: none. Python's to set */
    uint64_t reads;           /* shared locks that were taken by try or wait */
    uint64_t writes;          /* times that somebody began to write */
    struct shma_waiter *waiter; /* NULL until somebody had to wait */
    struct shma_lock *next;   /* every lock of the process */
    struct shma_lock **link;  /* what points to this one */
} shma_lock;

/*
 * Open a lock: a new OFD of the object with that identity, to which `path` must
 * lead (-ESTALE if it does not). `size` is what must be there at every grant.
 * `control` may be NULL; else its generation is marked by every exclusive hold and
 * its gate is watched, so the mapping must outlive the lock's close.
 * `pid` and `start` say who we are.
 *
 * A fork closes the descriptor in the child, without LOCK_UN: the child holds
 * nothing and every call there returns -EBADF.
 */
int32_t shma_lock_open(shma_lock *lock, const char *path, int32_t writable,
                       uint64_t device, uint64_t inode, int64_t size,
                       shma_control *control, uint32_t pid, uint64_t start);

/*
 * Let go of everything: a request under way is interrupted and waited for, the
 * lock is released by closing the OFD. An exclusive hold leaves the generation
 * odd, as if its owner had died. Closing twice is fine. -EBUSY: the waiting
 * thread cannot be stopped; the memory and the mapping must stay for ever.
 */
int32_t shma_lock_close(shma_lock *lock);

/*
 * In what manner an exclusive hold begins. MARK: the generation becomes odd, and a
 * dead writer is a reason to refuse. RECOVER: a dead writer is none; the generation
 * stays odd at the end, unless shma_lock_recovered was called. MARK_LATER: as MARK,
 * but nothing becomes odd before shma_lock_commit.
 */
enum { SHMA_MARK, SHMA_RECOVER, SHMA_MARK_LATER };

/*
 * Take the lock if it is free, without waiting, and begin to write if it is the
 * exclusive one. -EWOULDBLOCK: somebody else has it, or waits for it at the gate.
 * -ERANGE: the object is smaller than it was. -EOWNERDEAD: the last writer never
 * ended, `dead_pid` and `dead_start` tell who it was. -ESTALE: another object has
 * replaced it. -ENOLINK: it has no name any more, and `linked` asks for one. After
 * these nothing is held.
 */
int32_t shma_lock_try_shared(shma_lock *lock);
int32_t shma_lock_try_exclusive(shma_lock *lock); /* SHMA_MARK */
int32_t shma_lock_try_manner(shma_lock *lock, int32_t manner);

/*
 * Share the lock past whoever waits at the gate: for who shares it already through
 * another OFD, and must not wait for one who waits for him.
 */
int32_t shma_lock_try_nested(shma_lock *lock);

/*
 * Wait for the lock in the calling thread, through the gate, and begin to write if
 * it is the exclusive one; `manner` is for that. Errors as above, and -EINTR: a signal came, or `timeout` nanoseconds (at
 * least 1) are over, or it was time to look for a sleeper at the gate; the caller
 * looks at its clock and its signal handlers, and calls again or gives up. With the
 * interrupting signal off it polls.
 */
int32_t shma_lock_wait(shma_lock *lock, int32_t exclusive, int32_t manner, int64_t timeout);

/* Be neither at the gate nor inside, whatever an interrupted attempt got to. */
void shma_lock_give_up(shma_lock *lock);

/*
 * The three calls that end a hold return 1 instead of 0 if it was a slow one; see
 * `lasted`. Shared locks of one OFD that overlap are one hold.
 */

/* End writing, and release the lock. -EPERM: it was not held. */
int32_t shma_lock_release(shma_lock *lock);

/*
 * A lock that stays held while those inside come and go: end makes the generation
 * even, begin makes it odd. -EPERM: not held, or (begin) shared. -EOWNERDEAD, -ERANGE,
 * -ESTALE, -ENOLINK: as above, but it stays held, by nobody inside.
 */
int32_t shma_lock_begin(shma_lock *lock, int32_t manner);
int32_t shma_lock_end(shma_lock *lock);

/* -EOWNERDEAD and so on, as above, if readers are not to be let in; the lock stays held. */
int32_t shma_lock_sound(shma_lock *lock);

/* What a dead writer left was put right: the generation becomes even at the end. */
int32_t shma_lock_recovered(shma_lock *lock);

/*
 * Write `size` bytes from `copy` to `data`: only from the first to the last that differ,
 * and with an odd generation for no longer than that takes. For a hold that marks later.
 * -EPERM: not held exclusively. -ERANGE: as above; nothing is written, and it is still held.
 */
int32_t shma_lock_commit(shma_lock *lock, uint8_t *data, const uint8_t *copy, uint64_t size);

/* Exclusive -> shared. Never waits: no other lock can stand in the way. */
int32_t shma_lock_downgrade(shma_lock *lock);

/*
 * Shared -> exclusive, and begin to write, without waiting. 0: nobody can have been
 * inside in between. -EWOULDBLOCK: somebody else shares the lock, and it is GONE:
 * nothing is held (the kernel lets go of the old lock before it tries the new one).
 * Any other error: still shared.
 */
int32_t shma_lock_upgrade(shma_lock *lock);

/* 0: not held, 1: shared, 2: exclusive; _here: if the calling thread took it, else 0. */
int32_t shma_lock_mode(const shma_lock *lock);
int32_t shma_lock_mode_here(const shma_lock *lock);

/* From now on only the calling thread may try; others find the lock busy. */
void shma_lock_bind(shma_lock *lock);

/* ---- waiter: the one thread that waits on behalf of an event loop --------- */

/*
 * The eventfd that becomes readable when a request has ended. Made on the first
 * call; it belongs to the lock.
 */
int32_t shma_waiter_fd(shma_lock *lock);

/* Ask the waiting thread for the lock. -EBUSY: the last request has not ended. */
int32_t shma_waiter_start(shma_lock *lock, int32_t exclusive);

/*
 * Take the result of a request that has ended: 0 the lock is held (an exclusive one
 * without having begun to write, and nobody has asked for a dead writer yet), -ECANCELED, -ERANGE as above, or what the kernel
 * said. -EINPROGRESS: it goes on. A grant that is not taken within a second, as its
 * loop has stopped, is given back and becomes -ECANCELED.
 */
int32_t shma_waiter_finish(shma_lock *lock);

/*
 * Call the request off; never waits. 0: it will end with -ECANCELED and hold
 * nothing, whatever happens. 1: it had ended already, see shma_waiter_finish.
 */
int32_t shma_waiter_cancel(shma_lock *lock);

/* ---- watch: to be told when somebody has written ---------------------------- */

/* How many inotify events are taken at once. */
enum { SHMA_WATCH_BATCH = 64 };

/*
 * One inotify instance. The caller gives the memory, zeroed, and keeps it until it is
 * closed. For the shim to write only. A fork closes the descriptor in the child.
 */
typedef struct shma_watch {
    int32_t fd;               /* -1: closed, or this is a forked child */
    int32_t found[64];        /* what shma_watch_read found */
    struct shma_watch *next;  /* every instance of the process */
    struct shma_watch **link; /* what points to this one */
} shma_watch;

/* Make one. -EMFILE: max_user_instances, or no descriptor is left. */
int32_t shma_watch_open(shma_watch *watch);

/* Closing twice is fine. Takes 10 ms or more if something was watched just before. */
void shma_watch_close(shma_watch *watch);

/*
 * Watch the object that `path` leads to: the watch descriptor, which is the same for the
 * same object. -ENOSPC: max_user_watches.
 */
int32_t shma_watch_add(shma_watch *watch, const char *path);
int32_t shma_watch_remove(shma_watch *watch, int32_t number);

/*
 * Take events, without waiting: how many there were; `found` has the watch descriptors of
 * what they happened to, and -1 where events were lost. Fewer than SHMA_WATCH_BATCH: that was
 * all. Some may be of watches that were removed since. Some mean nothing.
 */
int32_t shma_watch_read(shma_watch *watch);

/*
 * The newest generation, of its low 63 bits, at which a write had ended. If that is not
 * after `since` and `leave_word` is set, word was left in the control page, which must be
 * mapped for writing: the next writer to end tells, once. A dead writer's end is where it
 * would be if it had lived, once the next one writes, or at once if `ignore` is set.
 * -EWOULDBLOCK: none after `since`, and somebody is inside; he may die there, so look again
 * in a while. -EOWNERDEAD: none, and who was inside died there, see `dead_pid`. -ERANGE,
 * -ESTALE, -ENOLINK: as for a lock. For a `lock` that holds nothing and is used for nothing else.
 */
int64_t shma_watch_look(shma_lock *lock, int64_t since, int32_t leave_word);

/* ---- interrupt ------------------------------------------------------------ */

/*
 * Which signal is to interrupt a blocked flock: a number, or ANY for the first from
 * SIGRTMAX-1 down that nobody handles, or OFF for none: waits then poll. To be called
 * before the first wait, after which it changes nothing.
 */
enum { SHMA_INTERRUPT_ANY = -1, SHMA_INTERRUPT_OFF = 0 };
void shma_interrupt_choose(int32_t number);

/* That signal, claimed on the first call, or OFF. -ENOSYS: somebody handles it, or all of them. */
int32_t shma_interrupt_signal(void);
