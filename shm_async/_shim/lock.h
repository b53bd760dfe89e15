/* What flock.c and waiter.c share; not part of the contract with Python. */
#include <stdint.h>
#include <sys/file.h>

#include "shim.h"

typedef struct shma_waiter shma_waiter;

/* A number for the calling thread that no other thread of the process ever gets. */
uint64_t shma_thread_number(void);

/*
 * Whether the object still has its size: -ERANGE if not. To be asked before the
 * control page is touched after a wait, as a page that is gone is a SIGBUS.
 */
int32_t shma_lock_whole(const shma_lock *lock);

/*
 * Whether the object, on which somebody has a lock, is the one to use: -ESTALE if another
 * has replaced it, -ENOLINK if it has no name (and `linked`). `sysv` is the id of its
 * System V segment, or -1.
 */
int32_t shma_object_current(int32_t fd, int32_t sysv, const shma_control *control, int32_t linked);

/* Make the generation odd, and even again, around what an exclusive hold writes. */
void shma_lock_mark(shma_lock *lock);
void shma_lock_unmark(shma_lock *lock);

/* Bookkeeping after flock(2) granted `mode` to one who waited. -ERANGE: given back. */
int32_t shma_lock_granted(shma_lock *lock, int32_t mode);

/* Whether somebody seems to stand at the gate. */
int32_t shma_gate_is_taken(const shma_lock *lock);

/* Take the gate, waiting or not. -EWOULDBLOCK, -EINTR: it was not taken. */
int32_t shma_gate_enter(shma_lock *lock, int32_t wait);

/* Let go of it, if it is ours. */
void shma_gate_leave(shma_lock *lock);

/*
 * Wait for the flock, through the gate. 0: granted; leave the gate. -EINTR: not granted
 * yet, call again; the place at the gate is kept. To be interrupted every
 * SHMA_GATE_PATIENCE_NS.
 */
int32_t shma_gate_wait(shma_lock *lock, int32_t mode);

/* How long one who is asleep at the gate can delay the next one. */
enum { SHMA_GATE_PATIENCE_NS = 20000000 };

/*
 * Polling, for a process that may have no signal to interrupt a blocked flock with: look
 * at once, after FIRST, and then twice as late each time, up to LAST. A short hold is over
 * soon after a look; LAST is how late one learns of the end of a long hold, at 200 looks
 * a second. Zeroed, it begins.
 */
enum { SHMA_POLL_FIRST_NS = 50000, SHMA_POLL_LAST_NS = 5000000 };

typedef struct {
    int64_t pause;            /* until the next look, ns */
    int64_t queued;           /* since a sleeper at the gate was looked for, ns; about */
} shma_poll;

/*
 * Look once for the flock, through the gate. 0: granted; leave the gate. -EWOULDBLOCK: look
 * again after `pause`; the place at the gate is kept. Never waits.
 */
int32_t shma_gate_poll(shma_lock *lock, int32_t mode, shma_poll *poll);

/*
 * The registry's mutex is held across every fork, and around the birth and the
 * death of every descriptor that a child must not keep.
 */
void shma_registry_acquire(void);
void shma_registry_release(void);

/* To be called before the registry is used for the first time, at least. */
int32_t shma_registry_init(void);

/* In a fresh child, with the registry acquired: close every inotify instance. */
void shma_watch_forget(void);

/* Bit 0 of shma_control.watchers. */
enum { SHMA_WORD_LEFT = 1 };

/* Tell watchers, who have left `word`, that a write has ended. */
void shma_watch_tell(const shma_lock *lock, uint32_t word);

/*
 * Tell whoever watches of a write that has ended, after the lock was let go, as far as it
 * is, so that the one who wakes can take it.
 *
 * A watcher leaves word and then looks at the generation. We store the generation and then
 * look for the word, so one of us sees what the other did, if neither's load can overtake
 * its store. For that this load and the generation's store (shma_lock_unmark) are sequentially
 * consistent: on x86 that makes the store an xchg instead of a mov, and on ARM nothing is
 * different; a fence would cost more on both. (The system call in between is no promise of
 * order.) A watcher, who is not in a hurry, has a fence.
 */
static inline void tell_watchers(shma_lock *lock)
{
    if (lock->untold) {
        uint32_t word = __atomic_load_n(&lock->control->watchers, __ATOMIC_SEQ_CST);

        lock->untold = 0;
        if (word & SHMA_WORD_LEFT)
            shma_watch_tell(lock, word);
    }
}

/* In a fresh child: close what it inherited. The waiting thread is not there. */
void shma_waiter_forget(shma_lock *lock);

/* Interrupt, join and free the waiting thread. -EBUSY: it could not be stopped. */
int32_t shma_waiter_free(shma_lock *lock);
