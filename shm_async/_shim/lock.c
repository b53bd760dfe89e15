#define _GNU_SOURCE
#include <errno.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "internal.h"

/*
 * Taking and releasing the flock, without ever waiting: try, release, begin, end, convert.
 * wait.c and waiter.c wait; generation.c marks what a writer does.
 */

/* ---- time -------------------------------------------------------------------------- */

/*
 * A program needs system calls to close our descriptors and open others, so in less time than
 * this it cannot have done so. A lock that is taken again within LULL_NS, and a hold that
 * lasted no longer than BRIEF_NS, skip a part of the checks. The checks cost 1 % of these
 * times, at most.
 */
enum { LULL_NS = 5000, BRIEF_NS = 20000 };

/* A hold of that mode ends, and perhaps the next one begins. 1: it was a slow one. */
static int32_t hold_ended(shma_lock *lock, int32_t mode, int64_t end)
{
    int32_t was_inside = lock->inside;

    lock->inside = 0;
    lock->ended = mode;
    lock->lasted = end - lock->since;
    lock->since = end;
    if (!was_inside) /* the kernel's lock outlasted the hold, and nobody came */
        return 0;
    lock->held += lock->lasted;
    lock->holds++;
    if (lock->lasted > lock->longest)
        lock->longest = lock->lasted;
    return lock->slow && lock->lasted > lock->slow;
}

/* ---- which thread -------------------------------------------------------------------- */

uint64_t shma_thread_number(void)
{
    static uint64_t last;
    static _Thread_local uint64_t number __attribute__((tls_model("initial-exec")));

    if (!number) {
        number = __atomic_add_fetch(&last, 1, __ATOMIC_RELAXED) << 32;
        number |= (uint32_t)syscall(SYS_gettid);
    }
    return number;
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

/* ---- taking -------------------------------------------------------------------------- */

/* flock(2) gave us `mode`. */
static void entered(shma_lock *lock, int32_t mode, int64_t since)
{
    lock->inside = 0;
    lock->since = lock->granted = since;
    set_taker(lock);
    shma_mode_set(lock, mode);
}

int32_t shma_lock_granted(shma_lock *lock, int32_t mode)
{
    int32_t code = shma_lock_whole(lock);

    if (code < 0) {
        shma_lock_drop(lock);
        return code;
    }
    entered(lock, mode, shma_now());
    shma_turn_begins(lock, mode);
    return 0;
}

static int32_t try_flock(shma_lock *lock, int32_t mode, int64_t since)
{
    if (flock(lock->fd, mode | LOCK_NB) < 0)
        return shma_failed();
    entered(lock, mode, since);
    return 0;
}

/* The hint says that the gate is taken. If we get it all the same, the hint was wrong. */
SHMA_SELDOM static int32_t try_through_gate(shma_lock *lock, int32_t mode, int64_t time)
{
    int32_t code;

    if (shma_turn_lasts(lock, mode, time))
        return try_flock(lock, mode, time);
    code = shma_gate_enter(lock, 0);
    if (code == 0) {
        code = try_flock(lock, mode, shma_now());
        shma_gate_leave(lock);
    }
    return code;
}

/* Check before the gate's hint is read, as its page may be gone. */
static int32_t ready_at(shma_lock *lock, int64_t time)
{
    int32_t code = time - lock->since < LULL_NS
                       ? shma_identity_glance_again(lock->fd, &lock->identity, lock->size)
                       : shma_lock_whole(lock);

    return code == -EBADFD ? shma_lock_ready(lock) : code;
}

static inline int32_t attempt(shma_lock *lock, int32_t mode, int32_t spinning)
{
    int64_t time = shma_now();
    int32_t code;

    if (lock->mode || (lock->bound && !taken_here(lock))) /* a signal handler may have it */
        return -EWOULDBLOCK;
    code = ready_at(lock, time);
    if (code < 0)
        return code;
    if (!shma_gate_is_taken(lock))
        return try_flock(lock, mode, time);
    return spinning ? -ECANCELED : try_through_gate(lock, mode, time);
}

int32_t shma_lock_attempt(shma_lock *lock, int32_t mode) { return attempt(lock, mode, 1); }

/* The kernel granted the lock, but `code` says why nobody may be let in. */
SHMA_SELDOM static int32_t refuse(shma_lock *lock, int32_t code)
{
    shma_mode_set(lock, 0);
    (void)flock(lock->fd, LOCK_UN);
    return code;
}

static int32_t begin_read(shma_lock *lock)
{
    int32_t code = shma_generation_sound(lock);

    if (code == 0)
        lock->reads++;
    return code;
}

int32_t shma_lock_enter(shma_lock *lock, int32_t mode, int32_t manner)
{
    int32_t code = mode == LOCK_EX ? shma_generation_begin(lock, manner) : begin_read(lock);

    return code < 0 ? refuse(lock, code) : 0;
}

SHMA_ONE_PIECE int32_t shma_lock_try_shared(shma_lock *lock)
{
    int32_t code = attempt(lock, LOCK_SH, 0);

    return code == 0 ? shma_lock_enter(lock, LOCK_SH, SHMA_MARK) : code;
}

int32_t shma_lock_spin_shared(shma_lock *lock)
{
    int32_t code = shma_spin(lock, LOCK_SH);

    return code == 0 ? shma_lock_enter(lock, LOCK_SH, SHMA_MARK) : code;
}

int32_t shma_lock_try_manner(shma_lock *lock, int32_t manner)
{
    int32_t code = attempt(lock, LOCK_EX, 0);

    return code == 0 ? shma_lock_enter(lock, LOCK_EX, manner) : code;
}

SHMA_ONE_PIECE int32_t shma_lock_try_exclusive(shma_lock *lock)
{
    return shma_lock_try_manner(lock, SHMA_MARK);
}

int32_t shma_lock_spin_manner(shma_lock *lock, int32_t manner)
{
    int32_t code = shma_spin(lock, LOCK_EX);

    return code == 0 ? shma_lock_enter(lock, LOCK_EX, manner) : code;
}

int32_t shma_lock_try_nested(shma_lock *lock)
{
    int32_t code = shma_lock_ready(lock);

    if (code == 0)
        code = try_flock(lock, LOCK_SH, shma_now());
    return code == 0 ? shma_lock_enter(lock, LOCK_SH, SHMA_MARK) : code;
}

/* ---- releasing ------------------------------------------------------------------------ */

/* Whether the program may have closed our descriptor during the hold, and has. */
static int32_t was_lost(shma_lock *lock, int64_t now)
{
    return now - lock->since > BRIEF_NS && !shma_lock_is_ours(lock);
}

SHMA_ONE_PIECE int32_t shma_lock_release(shma_lock *lock)
{
    int32_t mode = lock->mode, wrote = lock->writing;
    int64_t end = shma_now();
    int32_t code;

    if (lock->fd < 0)
        return -EBADF;
    if (mode == 0)
        return -EPERM;
    if (was_lost(lock, end))
        return shma_lock_lost(lock);
    shma_spin_learn(lock, end - lock->granted);
    shma_lock_unmark(lock);
    shma_mode_set(lock, 0);
    code = flock(lock->fd, LOCK_UN) < 0 ? shma_failed() : hold_ended(lock, mode, end);
    if (code == -EBADFD && wrote) /* lost in a hold too brief to be checked */
        shma_generation_remark(lock);
    shma_watchers_tell(lock);
    return code;
}

int32_t shma_lock_begin(shma_lock *lock, int32_t manner)
{
    int32_t code;

    if (lock->fd < 0)
        return -EBADF;
    if (lock->mode != LOCK_EX)
        return -EPERM;
    code = shma_lock_whole(lock); /* the last user may have been inside for long */
    if (code < 0)
        return code == -EBADFD ? shma_lock_lost(lock) : code;
    lock->since = shma_now();
    return shma_generation_begin(lock, manner);
}

int32_t shma_lock_end(shma_lock *lock)
{
    int64_t end = shma_now();

    if (lock->fd < 0)
        return -EBADF;
    if (was_lost(lock, end))
        return shma_lock_lost(lock);
    shma_lock_unmark(lock);
    shma_watchers_tell(lock); /* the next user may stay for long without writing */
    return hold_ended(lock, lock->mode, end);
}

int32_t shma_lock_pass(shma_lock *lock, int32_t manner, int32_t polite)
{
    int32_t code = shma_lock_end(lock);

    if (code != 0)
        return code;
    if (lock->mode != LOCK_EX)
        return -EPERM;
    /* `since` is the end of the last hold now */
    code = lock->lasted < BRIEF_NS
               ? shma_identity_glance_again(lock->fd, &lock->identity, lock->size)
               : shma_lock_whole(lock);
    if (code < 0)
        return code == -EBADFD ? shma_lock_lost(lock) : code;
    return polite && shma_gate_is_taken(lock) ? -EWOULDBLOCK : shma_generation_begin(lock, manner);
}

/* ---- converting ------------------------------------------------------------------------ */

int32_t shma_lock_downgrade(shma_lock *lock)
{
    int32_t was_inside = lock->inside, code;

    if (lock->fd < 0)
        return -EBADF;
    if (lock->mode != LOCK_EX)
        return -EPERM;
    if (!shma_lock_is_ours(lock))
        return -EBADFD;
    shma_lock_unmark(lock);
    shma_mode_set(lock, LOCK_SH);
    code = flock(lock->fd, LOCK_SH | LOCK_NB) < 0 ? shma_failed()
                                                  : hold_ended(lock, LOCK_EX, shma_now());
    lock->inside = was_inside;
    shma_watchers_tell(lock);
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
        code = shma_generation_sound(lock); /* only a stray store can have made it odd */
    if (code < 0)
        return code;
    if (flock(lock->fd, LOCK_EX | LOCK_NB) < 0) {
        code = shma_failed();
        if (code == -EWOULDBLOCK) { /* the kernel has released our shared lock */
            shma_mode_set(lock, 0);
            (void)hold_ended(lock, LOCK_SH, shma_now());
        }
        return code;
    }
    (void)hold_ended(lock, LOCK_SH, shma_now());
    shma_mode_set(lock, LOCK_EX);
    lock->inside = 1;
    lock->writes++;
    shma_lock_mark(lock);
    return 0;
}
