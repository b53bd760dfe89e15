#define _GNU_SOURCE
#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <time.h>
#include <unistd.h>

#include "waiter.h"

/* The thread's side of a request: see waiter.h. */

/*
 * A thread without a request leaves after LINGER_MS: idle processes have no extra thread. A
 * grant that its loop does not collect within COLLECT_MS is given back.
 */
enum { LINGER_MS = 100, COLLECT_MS = 1000, STACK_BYTES = 256 * 1024 };

struct timespec shma_waiter_after(int64_t nanoseconds)
{
    struct timespec when;

    (void)clock_gettime(CLOCK_MONOTONIC, &when);
    when.tv_sec += nanoseconds / 1000000000;
    when.tv_nsec += nanoseconds % 1000000000;
    if (when.tv_nsec >= 1000000000) {
        when.tv_sec++;
        when.tv_nsec -= 1000000000;
    }
    return when;
}

int32_t shma_waiter_arm(shma_waiter *waiter, int64_t first)
{
    waiter->armed = true;
    return shma_interrupt_timer_arm(waiter->timer, first);
}

static void disarm(shma_waiter *waiter)
{
    if (waiter->armed)
        (void)shma_interrupt_timer_disarm(waiter->timer);
    waiter->armed = false;
}

/* In the queue for the gate, look for a sleeper from time to time. The mutex is held. */
static int32_t approach(shma_waiter *waiter)
{
    int32_t code = shma_gate_enter(waiter->lock, 0);

    return code == -EWOULDBLOCK ? shma_waiter_arm(waiter, SHMA_GATE_PATIENCE_NS) : code;
}

/* Block until the request is granted, cancelled or refused. The mutex is held. */
static int32_t block(shma_waiter *waiter)
{
    int32_t code = 0;

    while (!waiter->cancelled) {
        int32_t mode = waiter->mode;

        code = waiter->lock->at_gate ? 0 : approach(waiter);
        if (code < 0)
            break;
        (void)pthread_mutex_unlock(&waiter->mutex);
        code = shma_gate_wait(waiter->lock, mode);
        (void)pthread_mutex_lock(&waiter->mutex);
        disarm(waiter);
        if (code == 0 && waiter->cancelled)
            shma_lock_drop(waiter->lock); /* granted at the same moment: nobody wants it */
        else if (code != -EINTR)
            break;
    }
    return code;
}

/* The same without a signal: to cancel the request ends the pause between two looks. */
static int32_t keep_looking(shma_waiter *waiter)
{
    shma_poll poll = {0};
    int32_t code = 0;

    while (!waiter->cancelled &&
           (code = shma_gate_poll(waiter->lock, waiter->mode, &poll)) == -EWOULDBLOCK) {
        struct timespec next = shma_waiter_after(poll.pause);

        (void)pthread_cond_timedwait(&waiter->changed, &waiter->mutex, &next);
    }
    return code;
}

static int32_t serve(shma_waiter *waiter)
{
    int32_t code = waiter->polls ? keep_looking(waiter) : block(waiter);

    shma_gate_leave(waiter->lock);
    return waiter->cancelled ? -ECANCELED : code;
}

/*
 * The request has ended. The mutex is held, but released while we wake the loop: the loop may
 * run at once, on this very processor, and would only wait for the mutex.
 */
static void report(shma_waiter *waiter, int32_t result)
{
    const uint64_t one = 1;
    ssize_t written;

    waiter->result = result;
    waiter->state = ENDED;
    (void)pthread_mutex_unlock(&waiter->mutex);
    if (shma_mark_is_there(waiter->event_fd, &waiter->mark)) {
        written = write(waiter->event_fd, &one, sizeof one);
        (void)written; /* fails only on overflow, when it is readable anyhow */
    }
    (void)pthread_mutex_lock(&waiter->mutex);
}

/* A grant that a stopped loop does not collect must not keep all other processes out. */
static void give_back(shma_waiter *waiter)
{
    shma_lock_drop(waiter->lock);
    waiter->result = -ECANCELED;
}

/* False: no request came for LINGER_MS, or the thread must quit. The mutex is held. */
static bool request_comes(shma_waiter *waiter)
{
    struct timespec deadline = shma_waiter_after(LINGER_MS * INT64_C(1000000));
    int code = 0;

    while (waiter->state != ASKED && !waiter->quit && code != ETIMEDOUT)
        code = pthread_cond_timedwait(&waiter->changed, &waiter->mutex, &deadline);
    return waiter->state == ASKED && !waiter->quit;
}

/*
 * False: no request came for LINGER_MS, or the thread must quit. The mutex is held. The loop
 * does not signal that it collects a grant: to wake a thread on another processor would cost
 * more than the rest of the collecting.
 */
static bool next_request(shma_waiter *waiter)
{
    for (int waited = 0;; waited += LINGER_MS) {
        if (request_comes(waiter))
            return true;
        if (waiter->quit || waiter->state != ENDED || waiter->result != 0)
            return false;
        if (waited + LINGER_MS >= COLLECT_MS)
            give_back(waiter);
    }
}

static void *thread_main(void *argument)
{
    shma_waiter *waiter = argument;
    int32_t code;

    (void)pthread_setname_np(pthread_self(), "shm_async"); /* for top, ps and gdb */
    (void)pthread_mutex_lock(&waiter->mutex);
    code = waiter->polls ? 0 : shma_interrupt_timer_new(&waiter->timer);
    if (code < 0) {
        report(waiter, code); /* a thread that nothing can interrupt must not block */
    } else {
        while (next_request(waiter)) {
            waiter->state = BLOCKED;
            report(waiter, serve(waiter));
        }
        if (!waiter->polls)
            (void)timer_delete(waiter->timer);
    }
    waiter->thread_state = LEFT;
    (void)pthread_cond_broadcast(&waiter->changed);
    (void)pthread_mutex_unlock(&waiter->mutex);
    return NULL;
}

int32_t shma_waiter_spawn(shma_waiter *waiter)
{
    pthread_attr_t attributes;
    sigset_t others, before;
    int32_t number = shma_interrupt_signal();
    int code;

    if (number < 0)
        return number;
    waiter->polls = number == SHMA_INTERRUPT_OFF;
    (void)sigfillset(&others);
    if (!waiter->polls)
        (void)sigdelset(&others, number);
    code = pthread_attr_init(&attributes);
    if (code)
        return -code;
    code = pthread_attr_setstacksize(&attributes, STACK_BYTES);
    if (!code)
        code = pthread_sigmask(SIG_SETMASK, &others, &before);
    if (!code) {
        code = pthread_create(&waiter->thread, &attributes, thread_main, waiter);
        (void)pthread_sigmask(SIG_SETMASK, &before, NULL);
    }
    (void)pthread_attr_destroy(&attributes);
    if (!code)
        waiter->thread_state = RUNNING;
    return code == EAGAIN ? -SHMA_NO_THREAD : -code;
}
