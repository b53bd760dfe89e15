#define _GNU_SOURCE
#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <stdbool.h>
#include <stdlib.h>
#include <sys/eventfd.h>
#include <time.h>
#include <unistd.h>

#include "interrupt.h"
#include "lock.h"

/*
 * The waiting thread of one lock: it stands at the gate and blocks in flock(2) so
 * that an event loop need not, and tells by an eventfd that a request has ended. It
 * needs the descriptor and the gate's hint, nothing else: not the data, not Python.
 *
 * A request goes IDLE -> ASKED -> BLOCKED -> ENDED -> IDLE. The loop moves it
 * out of IDLE and ENDED, the thread out of ASKED and BLOCKED.
 */
enum state { IDLE, ASKED, BLOCKED, ENDED };
enum thread { NONE, RUNNING, LEFT };

struct shma_waiter {
    shma_lock *lock;         /* its descriptor is never closed while a thread runs */
    int32_t event_fd;
    pthread_cond_t changed;  /* signalled on ASKED, quit and LEFT; polling, on cancel */
    bool polls;              /* the interrupting signal is off: there is no timer */
    pthread_mutex_t mutex;   /* guards all that follows */
    enum state state;
    enum thread thread_state; /* LEFT: on its way out, join it */
    pthread_t thread;
    timer_t timer;           /* interrupts the thread; there while RUNNING */
    bool armed;              /* the timer goes, or has gone off */
    int32_t mode;            /* LOCK_SH or LOCK_EX, of the request */
    int32_t result;          /* of the request, in ENDED */
    bool cancelled;          /* the request is to end with -ECANCELED, holding nothing */
    bool quit;               /* the thread is to leave */
};

/*
 * A thread with nothing to do leaves after LINGER_MS: idle processes have no extra
 * thread. A grant that is not collected within COLLECT_MS is given back.
 */
enum { LINGER_MS = 100, COLLECT_MS = 1000, QUIT_PATIENCE_MS = 1000, STACK_BYTES = 256 * 1024 };

static struct timespec ns_from_now(int64_t nanoseconds)
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

static struct timespec from_now(int64_t milliseconds) { return ns_from_now(milliseconds * 1000000); }

/* ---- the waiting thread ------------------------------------------------------ */

/* Have the thread interrupted `first` ns from now on. The mutex is held. */
static int32_t arm(shma_waiter *waiter, int64_t first)
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

/* Who queues at the gate looks around from time to time. The mutex is held. */
static int32_t approach(shma_waiter *waiter)
{
    int32_t code = shma_gate_enter(waiter->lock, 0);

    return code == -EWOULDBLOCK ? arm(waiter, SHMA_GATE_PATIENCE_NS) : code;
}

/* Block until the request is granted, called off or refused. The mutex is held. */
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
            (void)flock(waiter->lock->fd, LOCK_UN); /* won all the same: nobody wants it */
        else if (code != -EINTR)
            break;
    }
    return code;
}

/* The same without a signal: the pauses between two looks end when the request is called off. */
static int32_t keep_looking(shma_waiter *waiter)
{
    shma_poll poll = {0};
    int32_t code = 0;

    while (!waiter->cancelled &&
           (code = shma_gate_poll(waiter->lock, waiter->mode, &poll)) == -EWOULDBLOCK) {
        struct timespec next = ns_from_now(poll.pause);

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
 * The request has ended. The mutex is held, but not while the loop is told: it may run at
 * once, on this very processor, and would only wait for the mutex.
 */
static void report(shma_waiter *waiter, int32_t result)
{
    const uint64_t one = 1;
    ssize_t written;

    waiter->result = result;
    waiter->state = ENDED;
    (void)pthread_mutex_unlock(&waiter->mutex);
    written = write(waiter->event_fd, &one, sizeof one);
    (void)written; /* fails only on overflow, and then it is readable anyhow */
    (void)pthread_mutex_lock(&waiter->mutex);
}

/* A grant that nobody collects, as its loop has stopped, must not keep all others out. */
static void give_back(shma_waiter *waiter)
{
    (void)flock(waiter->lock->fd, LOCK_UN);
    waiter->result = -ECANCELED;
}

/* False: no request came for LINGER_MS, or the thread is to quit. The mutex is held. */
static bool request_comes(shma_waiter *waiter)
{
    struct timespec deadline = from_now(LINGER_MS);
    int code = 0;

    while (waiter->state != ASKED && !waiter->quit && code != ETIMEDOUT)
        code = pthread_cond_timedwait(&waiter->changed, &waiter->mutex, &deadline);
    return waiter->state == ASKED && !waiter->quit;
}

/*
 * False: there is nothing to do for LINGER_MS, or the thread is to quit. The mutex is held.
 * The loop does not signal that it collects a grant: to wake a thread on another processor
 * would cost it more than all the rest of the collecting.
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
        report(waiter, code); /* who cannot be interrupted must not block */
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

/* ---- its life ------------------------------------------------------------------ */

/* Start the thread with every signal blocked but the one that interrupts it. */
static int32_t spawn(shma_waiter *waiter)
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
    return code == EAGAIN ? -ENOBUFS : -code; /* EAGAIN would read as "busy" */
}

/* Wait for a thread that is LEFT: it is past its last use of the waiter's mutex soon. */
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
        waiter->event_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
        if (waiter->event_fd < 0)
            code = -errno;
        else
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
    return code < 0 ? code : lock->waiter->event_fd;
}

void shma_waiter_forget(shma_lock *lock)
{
    /* its mutex may be held by a thread that is not here: free, do not destroy */
    if (lock->waiter) {
        (void)close(lock->waiter->event_fd);
        free(lock->waiter);
        lock->waiter = NULL;
    }
}

/* Set the interrupt going if the thread is there to be interrupted. The mutex is held. */
static void interrupt(shma_waiter *waiter)
{
    waiter->cancelled = true;
    if (waiter->state == BLOCKED && !waiter->polls)
        (void)arm(waiter, 1);
    else if (waiter->state == BLOCKED)
        (void)pthread_cond_broadcast(&waiter->changed);
}

int32_t shma_waiter_free(shma_lock *lock)
{
    shma_waiter *waiter = lock->waiter;
    struct timespec deadline = from_now(QUIT_PATIENCE_MS);
    int code = 0;

    if (!waiter)
        return 0;
    (void)pthread_mutex_lock(&waiter->mutex);
    waiter->quit = true;
    interrupt(waiter);
    (void)pthread_cond_broadcast(&waiter->changed);
    while (waiter->thread_state == RUNNING && code != ETIMEDOUT)
        code = pthread_cond_timedwait(&waiter->changed, &waiter->mutex, &deadline);
    if (waiter->thread_state == RUNNING) { /* somebody took our signal away */
        (void)pthread_mutex_unlock(&waiter->mutex);
        return -EBUSY;
    }
    join(waiter);
    (void)pthread_mutex_unlock(&waiter->mutex);
    (void)pthread_mutex_destroy(&waiter->mutex);
    (void)pthread_cond_destroy(&waiter->changed);
    shma_registry_acquire();
    (void)close(waiter->event_fd);
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
    if (waiter->state != IDLE) {
        code = -EBUSY;
    } else {
        join(waiter);
        waiter->state = ASKED;
        waiter->mode = exclusive ? LOCK_EX : LOCK_SH;
        waiter->cancelled = false;
        code = waiter->thread_state == RUNNING ? 0 : spawn(waiter);
        if (code < 0)
            waiter->state = IDLE;
        (void)pthread_cond_broadcast(&waiter->changed);
    }
    (void)pthread_mutex_unlock(&waiter->mutex);
    return code;
}

int32_t shma_waiter_finish(shma_lock *lock)
{
    shma_waiter *waiter = lock->waiter;
    int32_t result = -EINPROGRESS;
    uint64_t count;
    ssize_t got;

    if (!waiter)
        return -EBADF;
    /* always: a request that was finished before its eventfd was written leaves it readable */
    got = read(waiter->event_fd, &count, sizeof count);
    (void)got; /* fails only where there is nothing to read */
    (void)pthread_mutex_lock(&waiter->mutex);
    if (waiter->state == ENDED) {
        result = waiter->result;
        waiter->state = IDLE;
    }
    (void)pthread_mutex_unlock(&waiter->mutex);
    return result == 0 ? shma_lock_granted(lock, waiter->mode) : result;
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
