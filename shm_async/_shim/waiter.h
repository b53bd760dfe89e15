/*
 * The waiting thread of one lock: it stands at the gate and blocks in flock(2) so that an event
 * loop need not, and reports by an eventfd that a request has ended. It needs the descriptor
 * and the gate's hint, nothing else: not the data, not Python.
 *
 * A request goes IDLE -> ASKED -> BLOCKED -> ENDED -> IDLE. The loop (waiter.c) moves it out of
 * IDLE and ENDED, the thread (waiter_thread.c) out of ASKED and BLOCKED.
 */
#ifndef SHMA_WAITER_H
#define SHMA_WAITER_H

#include <pthread.h>
#include <stdbool.h>

#include "interrupt.h"
#include "internal.h"

enum shma_request { IDLE, ASKED, BLOCKED, ENDED };
enum shma_thread { NONE, RUNNING, LEFT };

typedef struct shma_waiter {
    shma_lock *lock;  /* its descriptor is never closed while a thread runs */
    int32_t event_fd; /* ours as long as `mark` is there */
    shma_mark mark;
    pthread_cond_t changed; /* signalled on ASKED, quit and LEFT; polling, on cancel */
    bool polls;             /* the interrupting signal is off: there is no timer */
    pthread_mutex_t mutex;  /* guards all that follows */
    enum shma_request state;
    enum shma_thread thread_state; /* LEFT: about to end, join it */
    pthread_t thread;
    timer_t timer;  /* interrupts the thread; exists while RUNNING */
    bool armed;     /* the timer runs, or has expired */
    int32_t mode;   /* LOCK_SH or LOCK_EX, of the request */
    int32_t result; /* of the request, in ENDED */
    bool cancelled; /* the request must end with -ECANCELED, holding nothing */
    bool quit;      /* the thread must leave */
} shma_waiter;

/* The time of CLOCK_MONOTONIC in `nanoseconds`. */
struct timespec shma_waiter_after(int64_t nanoseconds);

/* Have the thread interrupted `first` ns from now on. The mutex is held. */
int32_t shma_waiter_arm(shma_waiter *waiter, int64_t first);

/* Start the thread with every signal blocked but the one that interrupts it. The mutex is held. */
int32_t shma_waiter_spawn(shma_waiter *waiter);

#endif
