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
    int32_t bound;         /* only `taker` may take it */
    pthread_t taker;       /* the thread that it is bound to, or that took it last */
    shma_waiter *waiter;   /* NULL until somebody had to wait */
    shma_lock *next;       /* every lock of the process, under shma_registry */
    shma_lock **link;      /* what points to this one */
};

/*
 * Bookkeeping after flock(2) gave us `mode`: is the object still whole? Gives the
 * lock back on -ERANGE.
 */
int32_t shma_lock_entered(shma_lock *lock, int32_t mode);

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
