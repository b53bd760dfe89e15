#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <sys/file.h>

#include "internal.h"

/*
 * The gate: a turnstile in front of flock(2), which alone would let readers keep
 * a writer out for ever.
 *
 * A thread that has to wait goes through the gate: it takes the gate, waits for the
 * flock, and leaves the gate once it has the flock. So one waiter at a time stands in
 * front of the flock, the others queue behind it, and the kernel frees the gate of a
 * process that dies there. The gate is an OFD byte-range lock on the same descriptor, on
 * a byte far behind any data; such locks and flock do not see each other.
 *
 * Newcomers must not overtake, but in a turn of theirs, see below. They look at the hint in the control page. The waiter at
 * the gate sets it after taking the gate and clears it before leaving. So a hint can be
 * wrong for a moment, or for good after a death: then the next newcomer passes through
 * the gate without need, and clears it. A wrong hint costs time, never exclusion. Where
 * there is no control page a newcomer asks the kernel.
 *
 * The locked range ends with SHMA_GATE_BYTE, and its length is a ticket: the time in
 * nanoseconds, so each stay at the gate has another one. The kernel tells the range to
 * every process that asks, so the waiters in the queue see whether the one in front of
 * them is still the same.
 */

/* A descriptor that may not write can only share the gate with others of its kind. */
static short kind(const shma_lock *lock) { return lock->writable ? F_WRLCK : F_RDLCK; }

/* To take or leave it, the caller has checked that the descriptor is ours. */
static int32_t gate(shma_lock *lock, int command, struct flock *range)
{
    range->l_whence = SEEK_SET;
    range->l_start = SHMA_GATE_BYTE + 1 - range->l_len;
    return fcntl(lock->fd, command, range) < 0 ? shma_failed() : 0;
}

/* The caller has checked that the object has its size. */
static void hint(shma_lock *lock, uint32_t taken)
{
    if (lock->control && lock->writable)
        __atomic_store_n(&lock->control->gate, taken, __ATOMIC_RELEASE);
}

int32_t shma_gate_is_taken(shma_lock *lock)
{
    struct flock range = {.l_type = F_WRLCK, .l_len = 1};

    if (lock->control)
        return __atomic_load_n(&lock->control->gate, __ATOMIC_ACQUIRE) != 0;
    return gate(lock, F_OFD_GETLK, &range) == 0 && range.l_type != F_UNLCK;
}

int32_t shma_gate_enter(shma_lock *lock, int32_t wait)
{
    struct flock range = {.l_type = kind(lock), .l_len = 1 + shma_now() % SHMA_GATE_LONGEST};
    int32_t code = -EBADFD;

    if (shma_lock_is_ours(lock))
        code = gate(lock, wait ? F_OFD_SETLKW : F_OFD_SETLK, &range);
    if (code == 0) {
        lock->at_gate = 1;
        if (shma_lock_whole(lock) == 0) /* again, as it may have waited */
            hint(lock, 1);
    }
    return code == -EACCES ? -EWOULDBLOCK : code; /* POSIX allows either */
}

void shma_gate_leave(shma_lock *lock)
{
    struct flock range = {.l_type = F_UNLCK, .l_len = SHMA_GATE_LONGEST};
    int32_t code = lock->at_gate ? shma_lock_whole(lock) : -EBADFD;

    lock->at_gate = 0;
    if (code == 0)
        hint(lock, 0);
    if (code == 0 || code == -ERANGE)
        (void)gate(lock, F_OFD_SETLK, &range);
}

/*
 * A turn at the gate. A waiter costs a wake-up, 50 to 100 us in which nobody uses the lock. If it
 * got one hold of some microseconds for that, processes that take the lock again and again would
 * stand at the gate for ever and do little but wake each other up (a convoy). So the grant of a
 * waiter is worth a turn: for TURN_NS its OFD may take the lock again past whoever stands at the
 * gate, as an event loop may hand it on to tasks of its own. In a turn it only tries, and does
 * not spin.
 *
 * Only a wait brings a turn, and what is taken in a turn does not prolong it. So the waiter at the
 * gate waits for the turns of those that were granted the lock before it came there, and for no
 * others. Holds longer than SHORT_NS bring none, as a wake-up is little beside them. Nor do
 * readers: their turns would overlap, and together keep a writer out.
 */
enum { TURN_NS = 100000, SHORT_NS = 50000 };

void shma_turn_begins(shma_lock *lock, int32_t mode)
{
    lock->turn = mode == LOCK_EX ? lock->granted + TURN_NS : 0;
}

int32_t shma_turn_lasts(const shma_lock *lock, int32_t mode, int64_t time)
{
    return mode == LOCK_EX && time < lock->turn && shma_held_lately(lock) <= SHORT_NS;
}

/* The ticket of the waiter at the gate. 0: the gate is free. */
static int64_t ticket_in_front(shma_lock *lock)
{
    struct flock range = {.l_type = F_WRLCK, .l_len = 1};
    int32_t code = gate(lock, F_OFD_GETLK, &range);

    return code < 0 ? code : range.l_type == F_UNLCK ? 0 : range.l_len;
}

/* Whether the flock, which is free now, was free for long while that waiter stood there. */
static int32_t had_its_chance(shma_lock *lock, int64_t ticket)
{
    int64_t time = shma_now();

    if (lock->front != ticket) {
        lock->front = ticket;
        lock->free_since = time;
    }
    return ticket && time - lock->free_since >= SHMA_GATE_CHANCE_NS;
}

/*
 * The waiter at the gate may be asleep (SIGSTOP, a debugger, a frozen cgroup). If it is, and
 * the flock is free altogether, passing it keeps nobody out. A free flock alone is not enough:
 * it is also free from a release until the waiter that the release wakes has run. So each look
 * notes its finding, and leaves the flock to the waiter in front until it has been seen free
 * for SHMA_GATE_CHANCE_NS. A waiter that gets the flock leaves the gate before it releases the
 * flock, so while the flock is ours the waiter at the gate has not had it.
 */
static int32_t pass_a_sleeper(shma_lock *lock, int32_t mode)
{
    int64_t ticket;

    if (!shma_lock_is_ours(lock))
        return -EBADFD;
    if (flock(lock->fd, LOCK_EX | LOCK_NB) < 0) {
        lock->front = 0;
        return errno == EWOULDBLOCK ? -EINTR : shma_failed();
    }
    ticket = ticket_in_front(lock);
    if (ticket < 0 || !had_its_chance(lock, ticket)) {
        (void)flock(lock->fd, LOCK_UN);
        return ticket < 0 ? (int32_t)ticket : -EINTR;
    }
    lock->front = 0;
    if (mode == LOCK_SH && flock(lock->fd, LOCK_SH | LOCK_NB) < 0)
        return shma_failed();
    return 0;
}

static int32_t take(shma_lock *lock, int32_t operation)
{
    if (!shma_lock_is_ours(lock))
        return -EBADFD;
    return flock(lock->fd, operation) < 0 ? shma_failed() : 0;
}

static void look_later(shma_poll *poll)
{
    poll->pause = poll->pause ? 2 * poll->pause : SHMA_POLL_FIRST_NS;
    if (poll->pause > SHMA_POLL_LAST_NS)
        poll->pause = SHMA_POLL_LAST_NS;
    poll->queued += poll->pause;
}

/* Look once: from the gate, or for a place at it, or past a sleeper who has it. */
static int32_t look(shma_lock *lock, int32_t mode, shma_poll *poll)
{
    int32_t code = lock->at_gate ? 0 : shma_gate_enter(lock, 0);

    if (code == 0)
        return take(lock, mode | LOCK_NB);
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
    return take(lock, mode);
}
