/* What flock.c and waiter.c share; not part of the contract with Python. */
#include <pthread.h>
#include <stdint.h>
#include <sys/file.h>

#include "shim.h"

typedef struct shma_waiter shma_waiter;

struct shma_lock {
    int32_t fd;            /* the OFD; -1 in a child that was forked since */
    int32_t mode;          /* what the OFD holds: 0, LOCK_SH or LOCK_EX */
    int64_t size;          /* what the object must have at every grant, bytes */
    shma_control *control; /* whose generation we mark; NULL: none */
    uint64_t start;        /* who marks it */
    uint32_t pid;
    int32_t writing;       /* the generation is odd by our doing */
    int32_t writable;      /* the descriptor may write */
    int32_t at_gate;       /* the OFD has the gate */
    int32_t bound;         /* only `taker` may take it */
    pthread_t taker;       /* the thread that it is bound to, or that took it last */
    shma_waiter *waiter;   /* NULL until somebody had to wait */
    shma_lock *next;       /* every lock of the process, under shma_registry */
    shma_lock **link;      /* what points to this one */
};

/*
 * Whether the object still has its size: -ERANGE if not. To be asked before the
 * control page is touched after a wait, as a page that is gone is a SIGBUS.
 */
int32_t shma_lock_whole(const shma_lock *lock);

/* Bookkeeping after flock(2) granted `mode` to one who waited. -ERANGE: given back. */
int32_t shma_lock_granted(shma_lock *lock, int32_t mode);

/* Whether somebody seems to stand at the gate. */
int32_t shma_gate_is_taken(const shma_lock *lock);

/* Take the gate, waiting or not. -EWOULDBLOCK, -EINTR: it was not taken. */
int32_t shma_gate_enter(shma_lock *lock, int32_t wait);

/* Let go of it, if it is ours. */
void shma_gate_leave(shma_lock *lock);

/*
 * Wait for the flock, through the gate. -EINTR: not granted yet, call again; the
 * place at the gate is kept. To be interrupted every SHMA_GATE_PATIENCE_NS.
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
