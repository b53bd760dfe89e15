#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <sys/file.h>

#include "lock.h"

/*
 * The gate: a turnstile in front of flock(2), which alone would let readers keep
 * a writer out for ever.
 *
 * Who has to wait goes through the gate: takes it, waits for the flock, and lets
 * go of the gate once it has the lock. So one at a time stands in front of the
 * flock, the others queue behind it, and the kernel frees the gate of a process
 * that dies there. It is an OFD byte-range lock on the same descriptor, on a byte
 * far behind any data; such locks and flock do not see each other.
 *
 * Newcomers must not overtake. They look at the hint in the control page, which
 * the one at the gate sets after taking it and clears before letting go. So a
 * hint can be wrong for a moment, or for good after a death: then the next one
 * passes through the gate without need, and clears it. A wrong hint costs time,
 * never exclusion. Where there is no control page the kernel is asked.
 */
#define GATE_BYTE ((off_t)1 << 62)

/* A descriptor that may not write can only share the gate with its like. */
static short kind(const shma_lock *lock) { return lock->writable ? F_WRLCK : F_RDLCK; }

static int32_t gate(const shma_lock *lock, int command, struct flock *range)
{
    range->l_whence = SEEK_SET;
    range->l_start = GATE_BYTE;
    range->l_len = 1;
    return fcntl(lock->fd, command, range) < 0 ? -errno : 0;
}

static void hint(const shma_lock *lock, uint32_t taken)
{
    if (lock->control && lock->writable && shma_lock_whole(lock) == 0)
        __atomic_store_n(&lock->control->gate, taken, __ATOMIC_RELEASE);
}

int32_t shma_gate_is_taken(const shma_lock *lock)
{
    struct flock range = {.l_type = F_WRLCK};

    if (lock->control)
        return __atomic_load_n(&lock->control->gate, __ATOMIC_ACQUIRE) != 0;
    return gate(lock, F_OFD_GETLK, &range) == 0 && range.l_type != F_UNLCK;
}

int32_t shma_gate_enter(shma_lock *lock, int32_t wait)
{
    struct flock range = {.l_type = kind(lock)};
    int32_t code = gate(lock, wait ? F_OFD_SETLKW : F_OFD_SETLK, &range);

    if (code == 0) {
        lock->at_gate = 1;
        hint(lock, 1);
    }
    return code == -EACCES ? -EWOULDBLOCK : code; /* POSIX allows either */
}

void shma_gate_leave(shma_lock *lock)
{
    struct flock range = {.l_type = F_UNLCK};

    if (lock->at_gate) {
        hint(lock, 0);
        (void)gate(lock, F_OFD_SETLK, &range);
        lock->at_gate = 0;
    }
}

/*
 * Whoever is at the gate may be asleep (SIGSTOP, a debugger, a frozen cgroup). If
 * the flock is free altogether, nobody is kept out by going past it.
 */
static int32_t pass_a_sleeper(const shma_lock *lock, int32_t mode)
{
    if (flock(lock->fd, LOCK_EX | LOCK_NB) < 0)
        return errno == EWOULDBLOCK ? -EINTR : -errno;
    if (mode == LOCK_SH && flock(lock->fd, LOCK_SH | LOCK_NB) < 0)
        return -errno;
    return 0;
}

static void look_later(shma_poll *poll)
{
    poll->pause = poll->pause ? 2 * poll->pause : SHMA_POLL_FIRST_NS;
    if (poll->pause > SHMA_POLL_LAST_NS)
        poll->pause = SHMA_POLL_LAST_NS;
    poll->queued += poll->pause;
}

/* One look, from the place at the gate or for it, or for one who is asleep there. */
static int32_t look(shma_lock *lock, int32_t mode, shma_poll *poll)
{
    int32_t code = lock->at_gate ? 0 : shma_gate_enter(lock, 0);

    if (code == 0)
        return flock(lock->fd, mode | LOCK_NB) < 0 ? -errno : 0;
    if (code != -EWOULDBLOCK || poll->queued < SHMA_GATE_PATIENCE_NS)
        return code;
    poll->queued = 0;
    code = pass_a_sleeper(lock, mode);
    return code == -EINTR ? -EWOULDBLOCK : code;
}

int32_t shma_gate_poll(shma_lock *lock, int32_t mode, shma_poll *poll)
{
    int32_t code = look(lock, mode, poll);

    if (code == -EWOULDBLOCK)
        look_later(poll);
    return code;
}

int32_t shma_gate_wait(shma_lock *lock, int32_t mode)
{
    if (!lock->at_gate) {
        int32_t code = shma_gate_enter(lock, 1);

        if (code < 0)
            return code == -EINTR ? pass_a_sleeper(lock, mode) : code;
    }
    return flock(lock->fd, mode) < 0 ? -errno : 0;
}
