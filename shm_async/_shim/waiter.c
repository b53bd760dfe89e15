#define _GNU_SOURCE
#include <errno.h>
#include <pthread.h>
#include <stdlib.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "waiter.h"

/* The loop's side of a request, and the life of the waiter: see waiter.h. */

#define QUIT_PATIENCE_NS INT64_C(1000000000)

/* Join a thread that is LEFT: it soon has made its last use of the mutex. */
static void join(shma_waiter *waiter)
{
    if (waiter->thread_state == LEFT) {
        (void)pthread_mutex_unlock(&waiter->mutex);
        (void)pthread_join(waiter->thread, NULL);
        (void)pthread_mutex_lock(&waiter->mutex);
        waiter->thread_state = NONE;
    }
}

static int32_t init_sync(shma_waiter *waiter)
{
    pthread_condattr_t attributes;
    int code = pthread_condattr_init(&attributes);

    if (code)
        return -code;
    code = pthread_condattr_setclock(&attributes, CLOCK_MONOTONIC);
    if (!code)
        code = pthread_cond_init(&waiter->changed, &attributes);
    (void)pthread_condattr_destroy(&attributes);
    if (!code)
        code = pthread_mutex_init(&waiter->mutex, NULL);
    return -code;
}

static int32_t event_new(shma_waiter *waiter)
{
    int fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    int32_t code = fd < 0 ? -errno : shma_mark_take(fd, &waiter->mark);

    if (code == 0)
        waiter->event_fd = fd;
    else if (fd >= 0)
        (void)close(fd);
    return code;
}

/* The program has closed the eventfd: make another one. */
static int32_t event_renew(shma_waiter *waiter)
{
    int32_t code;

    (void)pthread_mutex_lock(&waiter->mutex);
    shma_registry_acquire();
    code = event_new(waiter);
    shma_registry_release();
    (void)pthread_mutex_unlock(&waiter->mutex);
    return code;
}

static void event_close(shma_waiter *waiter)
{
    if (shma_mark_is_there(waiter->event_fd, &waiter->mark))
        (void)close(waiter->event_fd);
}

static int32_t waiter_new(shma_lock *lock)
{
    shma_waiter *waiter = calloc(1, sizeof *waiter);
    int32_t code;

    if (!waiter)
        return -ENOMEM;
    waiter->lock = lock;
    code = init_sync(waiter);
    if (code == 0) {
        shma_registry_acquire(); /* a fork between these two would leak the eventfd */
        code = event_new(waiter);
        if (code == 0)
            lock->waiter = waiter;
        shma_registry_release();
    }
    if (code < 0)
        free(waiter);
    return code;
}

int32_t shma_waiter_fd(shma_lock *lock)
{
    int32_t code = 0;

    if (lock->fd < 0)
        return -EBADF;
    if (!lock->waiter)
        code = waiter_new(lock);
    else if (!shma_mark_is_there(lock->waiter->event_fd, &lock->waiter->mark))
        code = event_renew(lock->waiter);
    return code < 0 ? code : lock->waiter->event_fd;
}

int32_t shma_waiter_known_fd(const shma_lock *lock)
{
    const shma_waiter *waiter = lock->waiter;

    return waiter && shma_mark_is_there(waiter->event_fd, &waiter->mark) ? waiter->event_fd : -1;
}

void shma_waiter_forget(shma_lock *lock)
{
    /* a thread that is not here may hold its mutex: free it, do not destroy it */
    if (lock->waiter) {
        event_close(lock->waiter);
        free(lock->waiter);
        lock->waiter = NULL;
    }
}

/* Cancel the request, and interrupt the thread if it waits. The mutex is held. */
static void interrupt(shma_waiter *waiter)
{
    waiter->cancelled = true;
    if (waiter->state == BLOCKED && !waiter->polls)
        (void)shma_waiter_arm(waiter, 1);
    else if (waiter->state == BLOCKED)
        (void)pthread_cond_broadcast(&waiter->changed);
}

int32_t shma_waiter_free(shma_lock *lock)
{
    shma_waiter *waiter = lock->waiter;
    struct timespec deadline = shma_waiter_after(QUIT_PATIENCE_NS);
    int code = 0;

    if (!waiter)
        return 0;
    (void)pthread_mutex_lock(&waiter->mutex);
    waiter->quit = true;
    interrupt(waiter);
    (void)pthread_cond_broadcast(&waiter->changed);
    while (waiter->thread_state == RUNNING && code != ETIMEDOUT)
        code = pthread_cond_timedwait(&waiter->changed, &waiter->mutex, &deadline);
    if (waiter->thread_state == RUNNING) { /* other code has taken our signal */
        (void)pthread_mutex_unlock(&waiter->mutex);
        return -EBUSY;
    }
    join(waiter);
    (void)pthread_mutex_unlock(&waiter->mutex);
    (void)pthread_mutex_destroy(&waiter->mutex);
    (void)pthread_cond_destroy(&waiter->changed);
    shma_registry_acquire();
    event_close(waiter);
    lock->waiter = NULL;
    shma_registry_release();
    free(waiter);
    return 0;
}

/* ---- requests -------------------------------------------------------------------- */

int32_t shma_waiter_start(shma_lock *lock, int32_t exclusive)
{
    int32_t code = shma_waiter_fd(lock);
    shma_waiter *waiter;

    if (code < 0)
        return code;
    waiter = lock->waiter;
    (void)pthread_mutex_lock(&waiter->mutex);
    code = waiter->state == IDLE ? shma_lock_ready(lock) : -EBUSY;
    if (code == 0) {
        join(waiter);
        waiter->state = ASKED;
        waiter->mode = exclusive ? LOCK_EX : LOCK_SH;
        waiter->cancelled = false;
        code = waiter->thread_state == RUNNING ? 0 : shma_waiter_spawn(waiter);
        if (code < 0)
            waiter->state = IDLE;
        (void)pthread_cond_broadcast(&waiter->changed);
    }
    (void)pthread_mutex_unlock(&waiter->mutex);
    return code;
}

int32_t shma_waiter_finish(shma_lock *lock, int32_t manner)
{
    shma_waiter *waiter = lock->waiter;
    int32_t result = -EINPROGRESS;
    uint64_t count;
    ssize_t got;

    if (!waiter)
        return -EBADF;
    /* always: a request that was finished before its eventfd was written leaves it readable */
    if (shma_mark_is_there(waiter->event_fd, &waiter->mark)) {
        got = read(waiter->event_fd, &count, sizeof count);
        (void)got; /* fails only where there is nothing to read */
    }
    (void)pthread_mutex_lock(&waiter->mutex);
    if (waiter->state == ENDED) {
        result = waiter->result;
        waiter->state = IDLE;
    }
    (void)pthread_mutex_unlock(&waiter->mutex);
    if (result == 0)
        result = shma_lock_granted(lock, waiter->mode);
    return result == 0 && manner >= 0 && waiter->mode == LOCK_EX
               ? shma_generation_begin(lock, manner) == 0
               : result;
}

int32_t shma_waiter_cancel(shma_lock *lock)
{
    shma_waiter *waiter = lock->waiter;
    int32_t ended;

    if (!waiter)
        return -EBADF;
    (void)pthread_mutex_lock(&waiter->mutex);
    ended = waiter->state == ENDED && waiter->result != -ECANCELED;
    if (!ended)
        interrupt(waiter);
    (void)pthread_mutex_unlock(&waiter->mutex);
    return ended;
}
