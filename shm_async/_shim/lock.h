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
 * The registry's mutex is held across every fork, and around the birth and the
 * death of every descriptor that a child must not keep.
 */
void shma_registry_acquire(void);
void shma_registry_release(void);

/* In a fresh child: close what it inherited. The waiting thread is not there. */
void shma_waiter_forget(shma_lock *lock);

/* Interrupt, join and free the waiting thread. -EBUSY: it could not be stopped. */
int32_t shma_waiter_free(shma_lock *lock);
