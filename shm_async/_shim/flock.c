#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "interrupt.h"
#include "lock.h"

_Static_assert(sizeof(shma_control) == 4096, "the control page is 4096 bytes");

/* ---- generation ------------------------------------------------------------ */

/*
 * Only the holder of the exclusive lock writes these fields, so plain arithmetic
 * is enough; the atomics order it against the data for readers without a lock.
 */
uint64_t shma_control_generation(const shma_control *control)
{
    return __atomic_load_n(&control->generation, __ATOMIC_ACQUIRE);
}

/*
 * Whether the last writer never ended. Under a lock of ours, and while we do not write
 * ourselves: nobody alive writes then, and who ends makes the generation even before
 * the kernel lets the next one in. Remembers who it was.
 */
static int32_t writer_died(shma_lock *lock)
{
    const shma_control *control = lock->control;

    if (!control || !(shma_control_generation(control) & 1))
        return 0;
    lock->dead_pid = control->writer_pid;
    lock->dead_start = control->writer_start;
    return 1;
}

/* Under a lock of ours, so nobody is about to replace the object: see shma_object_current. */
static int32_t current(const shma_lock *lock)
{
    shma_control *control = lock->control;
    int32_t code = shma_object_current(lock->fd, lock->sysv, control, lock->linked);

    if (code == 0 && lock->writable && control && control->replaced)
        __atomic_store_n(&control->replaced, 0, __ATOMIC_RELEASE); /* who was to do it died */
    return code;
}

/* Whether readers may be let in. What the object has lost must not be looked at. */
static int32_t sound(shma_lock *lock)
{
    int32_t code = current(lock);

    if (code < 0)
        return code;
    return writer_died(lock) && !lock->ignore ? -EOWNERDEAD : 0;
}

int32_t shma_lock_sound(shma_lock *lock)
{
    int32_t code = shma_lock_whole(lock);

    return code < 0 ? code : sound(lock);
}

/* Where the generation is odd already, one who is killed here must leave no mixed name. */
static void sign(shma_control *control, uint32_t pid, uint64_t start)
{
    __atomic_store_n(&control->writer_start, 0, __ATOMIC_RELEASE);
    __atomic_store_n(&control->writer_pid, pid, __ATOMIC_RELEASE);
    __atomic_store_n(&control->writer_start, start, __ATOMIC_RELEASE);
}

void shma_lock_mark(shma_lock *lock)
{
    shma_control *control = lock->control;
    uint64_t odd;

    if (!control || lock->writing)
        return;
    lock->writing = 1;
    control->writer_since = (uint64_t)lock->since; /* nobody decides by it */
    odd = shma_control_generation(control) + 1;
    if (odd & 1) {
        control->writer_pid = lock->pid;
        control->writer_start = lock->start;
    } else { /* its writer died */
        sign(control, lock->pid, lock->start);
        odd++;
    }
    __atomic_store_n(&control->generation, odd, __ATOMIC_RELEASE);
    __atomic_thread_fence(__ATOMIC_SEQ_CST); /* no data is written before the mark */
}

/* An exclusive hold begins, if it may: -EOWNERDEAD, -ESTALE, -ENOLINK. */
static int32_t begin_write(shma_lock *lock, int32_t manner)
{
    int32_t code = current(lock);

    if (code < 0)
        return code;
    if (!lock->writing && writer_died(lock)) {
        if (manner != SHMA_RECOVER && !lock->ignore)
            return -EOWNERDEAD;
        lock->unsound = manner == SHMA_RECOVER;
    }
    lock->writes++;
    if (manner != SHMA_MARK_LATER)
        shma_lock_mark(lock);
    return 0;
}

/* What a dead writer left and nobody put right stays marked, with the dead one's name. */
static void leave_unsound(shma_lock *lock)
{
    lock->unsound = 0;
    sign(lock->control, lock->dead_pid, lock->dead_start);
}

void shma_lock_unmark(shma_lock *lock)
{
    if (!lock->writing)
        return;
    lock->writing = 0;
    lock->untold = 1;
    if (lock->unsound)
        leave_unsound(lock);
    else /* SEQ_CST: see tell_watchers */
        __atomic_store_n(&lock->control->generation,
                         (shma_control_generation(lock->control) | 1) + 1, __ATOMIC_SEQ_CST);
}

/* ---- how long ---------------------------------------------------------------- */

static int64_t now(void)
{
    struct timespec time;

    (void)clock_gettime(CLOCK_MONOTONIC, &time); /* no system call: the vdso knows */
    return (int64_t)time.tv_sec * 1000000000 + time.tv_nsec;
}

/* A hold of that mode ends, and perhaps the next one begins. 1: it was a slow one. */
static int32_t hold_ended(shma_lock *lock, int32_t mode)
{
    int64_t end = now();

    lock->ended = mode;
    lock->lasted = end - lock->since;
    lock->since = end;
    if (lock->lasted > lock->longest)
        lock->longest = lock->lasted;
    return lock->slow && lock->lasted > lock->slow;
}

/* ---- fork ------------------------------------------------------------------- */

/*
 * Every lock of the process, so that a forked child can close the descriptors it
 * inherited: it shares its parent's OFDs, and as long as it kept one open a dead
 * parent's lock would live on in it.
 */
static pthread_once_t registry_once = PTHREAD_ONCE_INIT;
static pthread_mutex_t registry_mutex = PTHREAD_MUTEX_INITIALIZER;
static shma_lock *registry;
static int registry_error;

void shma_registry_acquire(void) { (void)pthread_mutex_lock(&registry_mutex); }
void shma_registry_release(void) { (void)pthread_mutex_unlock(&registry_mutex); }

static void in_child(void)
{
    for (shma_lock *lock = registry; lock; lock = lock->next) {
        shma_waiter_forget(lock);
        if (lock->fd >= 0)
            (void)close(lock->fd); /* never LOCK_UN: that would free the parent's lock */
        lock->fd = -1;
        lock->mode = lock->at_gate = lock->writing = lock->unsound = lock->untold = 0;
    }
    shma_watch_forget();
    shma_registry_release();
}

static void registry_begin(void)
{
    registry_error = pthread_atfork(shma_registry_acquire, shma_registry_release, in_child);
}

int32_t shma_registry_init(void)
{
    (void)pthread_once(&registry_once, registry_begin);
    return -registry_error;
}

static void registry_add(shma_lock *lock)
{
    lock->next = registry;
    lock->link = &registry;
    if (registry)
        registry->link = &lock->next;
    registry = lock;
}

static void registry_remove(shma_lock *lock)
{
    *lock->link = lock->next;
    if (lock->next)
        lock->next->link = lock->link;
    lock->link = NULL;
}

/* ---- birth and death -------------------------------------------------------- */

/* A new OFD on the object with that identity, or -errno. */
static int32_t open_again(const char *path, int32_t writable, uint64_t device, uint64_t inode)
{
    int fd = open(path, (writable ? O_RDWR : O_RDONLY) | O_CLOEXEC | O_NONBLOCK);
    struct stat found;
    int32_t code;

    if (fd < 0)
        return -errno;
    if (fstat(fd, &found) < 0)
        code = -errno;
    else
        code = found.st_dev == device && found.st_ino == inode ? fd : -ESTALE;
    if (code < 0)
        (void)close(fd);
    return code;
}

int32_t shma_lock_open(shma_lock *lock, const char *path, int32_t writable, uint64_t device,
                       uint64_t inode, int64_t size, shma_control *control, uint32_t pid,
                       uint64_t start)
{
    int32_t code = shma_registry_init();

    lock->fd = lock->sysv = -1;
    if (code < 0)
        return code;
    lock->writable = writable;
    lock->size = size;
    lock->control = control;
    lock->pid = pid;
    lock->start = start;
    shma_registry_acquire();
    lock->fd = open_again(path, writable, device, inode);
    if (lock->fd >= 0)
        registry_add(lock);
    shma_registry_release();
    if (lock->fd < 0) {
        code = lock->fd;
        lock->fd = -1;
        return code;
    }
    return 0;
}

int32_t shma_lock_close(shma_lock *lock)
{
    int32_t code = shma_waiter_free(lock);

    if (code < 0)
        return code;
    shma_registry_acquire();
    if (lock->link)
        registry_remove(lock);
    if (lock->fd >= 0)
        (void)close(lock->fd); /* releases what is held */
    lock->fd = -1;
    lock->mode = lock->at_gate = lock->writing = lock->unsound = lock->untold = 0;
    shma_registry_release();
    return 0;
}

/* ---- taking and releasing ---------------------------------------------------- */

uint64_t shma_thread_number(void)
{
    static uint64_t last;
    static _Thread_local uint64_t number __attribute__((tls_model("initial-exec")));

    if (!number)
        number = __atomic_add_fetch(&last, 1, __ATOMIC_RELAXED);
    return number;
}

/*
 * Other threads look at `mode` and `taker` to see whether they themselves took the
 * lock. So `taker` is there before the mode is, and the mode is read before `taker`: or
 * one that took it long ago would think that it has it now.
 */
static void set_mode(shma_lock *lock, int32_t mode)
{
    __atomic_store_n(&lock->mode, mode, __ATOMIC_RELEASE);
}

static void set_taker(shma_lock *lock)
{
    __atomic_store_n(&lock->taker, shma_thread_number(), __ATOMIC_RELAXED);
}

static int32_t taken_here(const shma_lock *lock)
{
    return __atomic_load_n(&lock->taker, __ATOMIC_RELAXED) == shma_thread_number();
}

int32_t shma_lock_mode(const shma_lock *lock)
{
    int32_t mode = __atomic_load_n(&lock->mode, __ATOMIC_ACQUIRE);

    return mode == LOCK_EX ? 2 : mode == LOCK_SH ? 1 : 0;
}

int32_t shma_lock_mode_here(const shma_lock *lock)
{
    int32_t mode = shma_lock_mode(lock);

    return taken_here(lock) ? mode : 0;
}

void shma_lock_bind(shma_lock *lock)
{
    lock->bound = 1;
    set_taker(lock);
}

int32_t shma_lock_whole(const shma_lock *lock)
{
    off_t size = lseek(lock->fd, 0, SEEK_END); /* a fifth of what fstat costs */

    return size < 0 ? -errno : size < lock->size ? -ERANGE : 0;
}

/* flock(2) gave us `mode`. */
static void entered(shma_lock *lock, int32_t mode)
{
    lock->since = now();
    set_taker(lock);
    set_mode(lock, mode);
}

int32_t shma_lock_granted(shma_lock *lock, int32_t mode)
{
    int32_t code = shma_lock_whole(lock);

    if (code < 0)
        (void)flock(lock->fd, LOCK_UN);
    else
        entered(lock, mode);
    return code;
}

static int32_t try_flock(shma_lock *lock, int32_t mode)
{
    if (flock(lock->fd, mode | LOCK_NB) < 0)
        return -errno;
    entered(lock, mode);
    return 0;
}

/* Nobody stands at the gate while we do: either the hint was wrong, or we are busy. */
static int32_t try_through_gate(shma_lock *lock, int32_t mode)
{
    int32_t code = shma_gate_enter(lock, 0);

    if (code == 0) {
        code = try_flock(lock, mode);
        shma_gate_leave(lock);
    }
    return code;
}

static int32_t try_lock(shma_lock *lock, int32_t mode)
{
    int32_t code;

    if (lock->bound && !taken_here(lock))
        return -EWOULDBLOCK;
    code = shma_lock_whole(lock); /* before the hint is read from what may be gone */
    if (code < 0)
        return code;
    return shma_gate_is_taken(lock) ? try_through_gate(lock, mode) : try_flock(lock, mode);
}

/* The kernel granted the lock, but nobody may be let in, for that reason. */
static int32_t refuse(shma_lock *lock, int32_t code)
{
    set_mode(lock, 0);
    (void)flock(lock->fd, LOCK_UN);
    return code;
}

static int32_t begin_read_or_refuse(shma_lock *lock)
{
    int32_t code = sound(lock);

    if (code < 0)
        return refuse(lock, code);
    lock->reads++;
    return 0;
}

static int32_t begin_write_or_refuse(shma_lock *lock, int32_t manner)
{
    int32_t code = begin_write(lock, manner);

    return code < 0 ? refuse(lock, code) : 0;
}

int32_t shma_lock_try_shared(shma_lock *lock)
{
    int32_t code = try_lock(lock, LOCK_SH);

    return code == 0 ? begin_read_or_refuse(lock) : code;
}

int32_t shma_lock_try_manner(shma_lock *lock, int32_t manner)
{
    int32_t code = try_lock(lock, LOCK_EX);

    return code == 0 ? begin_write_or_refuse(lock, manner) : code;
}

int32_t shma_lock_try_exclusive(shma_lock *lock) { return shma_lock_try_manner(lock, SHMA_MARK); }

int32_t shma_lock_try_nested(shma_lock *lock)
{
    int32_t code = shma_lock_whole(lock);

    if (code == 0)
        code = try_flock(lock, LOCK_SH);
    return code == 0 ? begin_read_or_refuse(lock) : code;
}

void shma_lock_give_up(shma_lock *lock)
{
    if (lock->fd < 0)
        return;
    shma_gate_leave(lock);
    (void)shma_lock_release(lock);
}

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

/* Wait, with the signal that interrupts us let through: the thread may block them all. */
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

/* Sleep until the next look, or the end in `left` ns. -1: a signal of somebody's came. */
static int pause_for(const shma_poll *poll, int64_t left)
{
    int64_t pause = poll->pause < left ? poll->pause : left; /* less than a second */
    const struct timespec time = {.tv_nsec = (long)pause};

    return nanosleep(&time, NULL);
}

/*
 * The same without a signal. -EINTR, as there: `timeout` is over, or somebody's signal ended
 * a pause. One that came between two pauses is noticed when `timeout` is over.
 */
static int32_t wait_polling(shma_lock *lock, int32_t mode, int64_t timeout)
{
    shma_poll poll = {0};
    int64_t end = now() + timeout, left;
    int32_t code;

    do {
        left = end - now();
        if (left <= 0)
            poll.queued = SHMA_GATE_PATIENCE_NS; /* the last look passes a sleeper, too */
        code = shma_gate_poll(lock, mode, &poll);
    } while (code == -EWOULDBLOCK && left > 0 && pause_for(&poll, left) == 0);
    if (code == 0)
        shma_gate_leave(lock);
    return code == -EWOULDBLOCK ? -EINTR : code;
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
    code = number == SHMA_INTERRUPT_OFF ? wait_polling(lock, mode, timeout)
                                        : wait_for_signal(lock, mode, timeout, number);
    if (code == 0)
        code = shma_lock_granted(lock, mode);
    if (code < 0)
        return code;
    return exclusive ? begin_write_or_refuse(lock, manner) : begin_read_or_refuse(lock);
}

int32_t shma_lock_release(shma_lock *lock)
{
    int32_t mode = lock->mode;
    int32_t code;

    if (lock->fd < 0)
        return -EBADF;
    if (mode == 0)
        return -EPERM;
    shma_lock_unmark(lock);
    set_mode(lock, 0);
    code = flock(lock->fd, LOCK_UN) < 0 ? -errno : hold_ended(lock, mode);
    tell_watchers(lock);
    return code;
}

int32_t shma_lock_begin(shma_lock *lock, int32_t manner)
{
    int32_t code;

    if (lock->fd < 0)
        return -EBADF;
    if (lock->mode != LOCK_EX)
        return -EPERM;
    code = shma_lock_whole(lock); /* who was inside before may have been so for long */
    if (code < 0)
        return code;
    lock->since = now();
    return begin_write(lock, manner);
}

int32_t shma_lock_end(shma_lock *lock)
{
    if (lock->fd < 0)
        return -EBADF;
    shma_lock_unmark(lock);
    tell_watchers(lock); /* who comes next may be long about it without writing */
    return hold_ended(lock, lock->mode);
}

int32_t shma_lock_recovered(shma_lock *lock)
{
    if (lock->fd < 0)
        return -EBADF;
    lock->unsound = 0;
    return 0;
}

int32_t shma_lock_downgrade(shma_lock *lock)
{
    int32_t code;

    if (lock->fd < 0)
        return -EBADF;
    if (lock->mode != LOCK_EX)
        return -EPERM;
    shma_lock_unmark(lock);
    set_mode(lock, LOCK_SH);
    code = flock(lock->fd, LOCK_SH | LOCK_NB) < 0 ? -errno : hold_ended(lock, LOCK_EX);
    tell_watchers(lock);
    return code;
}

int32_t shma_lock_upgrade(shma_lock *lock)
{
    int32_t code;

    if (lock->fd < 0)
        return -EBADF;
    if (lock->mode != LOCK_SH)
        return -EPERM;
    code = shma_lock_whole(lock);
    if (code == 0)
        code = sound(lock); /* nobody but who scribbles there can have made it odd */
    if (code < 0)
        return code;
    if (flock(lock->fd, LOCK_EX | LOCK_NB) < 0) {
        code = -errno;
        if (code == -EWOULDBLOCK) {
            set_mode(lock, 0);
            (void)hold_ended(lock, LOCK_SH);
        }
        return code;
    }
    (void)hold_ended(lock, LOCK_SH);
    set_mode(lock, LOCK_EX);
    lock->writes++;
    shma_lock_mark(lock);
    return 0;
}
