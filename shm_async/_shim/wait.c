#define _GNU_SOURCE
#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <time.h>

#include "interrupt.h"
#include "internal.h"

/*
 * Waiting in the calling thread: blocked, until a timer's signal interrupts it, or polling
 * where the process has no signal for that.
 */

/* Wait until the calling thread's timer interrupts, from `timeout` ns on. */
static int32_t wait_until(shma_lock *lock, int32_t mode, int64_t timeout)
{
    timer_t timer;
    int32_t code = shma_interrupt_timer_new(&timer);

    if (code < 0)
        return code;
    code = shma_interrupt_timer_arm(timer, timeout);
    if (code == 0)
        code = shma_gate_wait(lock, mode);
    if (code == 0)
        shma_gate_leave(lock);
    (void)timer_delete(timer);
    return code;
}

/* Wait with the interrupting signal unblocked: the thread may block all signals. */
static int32_t wait_for_signal(shma_lock *lock, int32_t mode, int64_t timeout, int32_t number)
{
    int32_t code;
    sigset_t ours, before;

    (void)sigemptyset(&ours);
    (void)sigaddset(&ours, number);
    code = -pthread_sigmask(SIG_UNBLOCK, &ours, &before);
    if (code < 0)
        return code;
    if (!lock->at_gate && timeout > SHMA_GATE_PATIENCE_NS)
        timeout = SHMA_GATE_PATIENCE_NS;
    code = wait_until(lock, mode, timeout);
    (void)pthread_sigmask(SIG_SETMASK, &before, NULL);
    return code;
}

/* Sleep until the next look, or the end in `left` ns. -1: a signal interrupted the sleep. */
static int pause_for(const shma_poll *poll, int64_t left)
{
    int64_t pause = poll->pause < left ? poll->pause : left; /* less than a second */
    const struct timespec time = {.tv_nsec = (long)pause};

    return nanosleep(&time, NULL);
}

/*
 * The same without a signal of ours. -EINTR, as there: `timeout` has passed, or a signal ended
 * a pause. A signal that comes between two pauses is noticed when `timeout` has passed.
 */
static int32_t wait_polling(shma_lock *lock, int32_t mode, int64_t timeout)
{
    shma_poll poll = {0};
    int64_t end = shma_now() + timeout, left;
    int32_t code;

    do {
        left = end - shma_now();
        if (left <= 0)
            poll.queued = SHMA_GATE_PATIENCE_NS; /* the last look passes a sleeper, too */
        code = shma_gate_poll(lock, mode, &poll);
    } while (code == -EWOULDBLOCK && left > 0 && pause_for(&poll, left) == 0);
    if (code == 0)
        shma_gate_leave(lock);
    return code == -EWOULDBLOCK ? -EINTR : code;
}

/* A wait ended with that code. If the kernel granted the lock, begin the hold, or refuse it. */
static int32_t end_wait(shma_lock *lock, int32_t mode, int32_t manner, int32_t code)
{
    if (code == 0)
        code = shma_lock_granted(lock, mode);
    if (code == -EBADFD) { /* closed while we waited: call again, with another descriptor */
        code = shma_lock_ready(lock);
        return code < 0 ? code : -EINTR;
    }
    return code < 0 ? code : shma_lock_enter(lock, mode, manner);
}

int32_t shma_lock_look(shma_lock *lock, int32_t exclusive, int32_t manner)
{
    shma_poll poll = {.queued = SHMA_GATE_PATIENCE_NS}; /* each look may pass a sleeper */
    int32_t mode = exclusive ? LOCK_EX : LOCK_SH;
    int32_t code;

    if (lock->fd < 0)
        return -EBADF;
    code = shma_lock_ready(lock);
    if (code < 0)
        return code;
    code = shma_gate_poll(lock, mode, &poll);
    if (code == 0)
        shma_gate_leave(lock);
    return end_wait(lock, mode, manner, code);
}

int32_t shma_lock_wait(shma_lock *lock, int32_t exclusive, int32_t manner, int64_t timeout)
{
    int32_t mode = exclusive ? LOCK_EX : LOCK_SH;
    int32_t number = shma_interrupt_signal();
    int32_t code;

    if (lock->fd < 0)
        return -EBADF;
    if (number < 0)
        return number;
    code = shma_lock_ready(lock);
    if (code < 0)
        return code;
    code = number == SHMA_INTERRUPT_OFF ? wait_polling(lock, mode, timeout)
                                        : wait_for_signal(lock, mode, timeout, number);
    return end_wait(lock, mode, manner, code);
}

void shma_lock_give_up(shma_lock *lock)
{
    if (lock->fd < 0)
        return;
    shma_gate_leave(lock);
    (void)shma_lock_release(lock);
}
