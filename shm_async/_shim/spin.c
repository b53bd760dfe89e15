#define _GNU_SOURCE
#include <errno.h>

#include "internal.h"

/*
 * Spinning: retrying a busy lock for some microseconds before waiting for it.
 *
 * To wait costs a wake-up, 50 to 100 us, and sends every later newcomer to the gate. Most holds
 * last a few microseconds, so a newcomer tries again for a while first. It spins only where that
 * is likely to help:
 *
 * - The lock has lately been free again soon. `recent` says how long an OFD had it, in all holds
 *   that an event loop handed on without the kernel together: this OFD, and in the control page
 *   any writer. Both are hints: a wrong one costs time, never exclusion.
 * - Spinning has lately succeeded. After each failure twice as many tries go without it. So
 *   nobody counts processors: a process that is pinned to one finds out whether the holder runs
 *   on another.
 * - Nobody stands at the gate. A waiter there comes first, and ends the spin.
 */
enum {
    WORTH_NS = 12000,     /* longer holds are waited for */
    SHORTEST_NS = 30000,  /* a spin for holds of no length */
    LONGEST_NS = 50000,   /* no event loop stands still for longer */
    CEILING_NS = 1000000, /* longer holds count as this long */
    MOST_SKIPPED = 7,     /* tries without a spin, after failures */
    MOST_PAUSES = 16      /* between two looks: some 0.2 us. It begins with 1, for brief holds */
};

static uint32_t average(uint32_t recent, int64_t lasted)
{
    int64_t capped = lasted < CEILING_NS ? lasted : CEILING_NS;

    return (uint32_t)(recent + (capped - recent) / 4);
}

void shma_spin_learn(shma_lock *lock, int64_t lasted)
{
    lock->recent = average(lock->recent, lasted);
    if (lock->writing)
        __atomic_store_n(&lock->control->recent,
                         average(__atomic_load_n(&lock->control->recent, __ATOMIC_RELAXED), lasted),
                         __ATOMIC_RELAXED);
}

uint32_t shma_held_lately(const shma_lock *lock)
{
    uint32_t shared = 0;

    if (lock->control)
        shared = __atomic_load_n(&lock->control->recent, __ATOMIC_RELAXED);
    return shared > lock->recent ? shared : lock->recent;
}

/* For how long to spin, ns; 0: not at all. */
static int64_t patience(const shma_lock *lock)
{
    uint32_t held = shma_held_lately(lock);
    int64_t longest = SHORTEST_NS + 2 * (int64_t)held;

    if (held > WORTH_NS)
        return 0;
    return longest < LONGEST_NS ? longest : LONGEST_NS;
}

/*
 * Leave the lock's cache line to its holder for a moment. Not sched_yield: it runs the other
 * spinners first, and a holder that had to make way comes back late.
 */
static void pause_briefly(int pauses)
{
    for (int i = 0; i < pauses; i++)
#if defined(__x86_64__) || defined(__i386__)
        __builtin_ia32_pause();
#elif defined(__aarch64__)
        __asm__ volatile("yield");
#else
        __asm__ volatile("");
#endif
}

/* The next tries go without a spin: the more so, the more often it has failed. */
static void note_outcome(shma_lock *lock, int32_t succeeded)
{
    uint32_t more = 2 * lock->to_skip + 1;

    lock->skipped = 0;
    lock->to_skip = succeeded ? 0 : more < MOST_SKIPPED ? more : MOST_SKIPPED;
}

SHMA_SELDOM int32_t shma_spin(shma_lock *lock, int32_t mode)
{
    int32_t code = -EWOULDBLOCK;
    int64_t end;
    int pauses = 1;

    if (lock->skipped < lock->to_skip) {
        lock->skipped++;
        return code;
    }
    if (shma_lock_whole(lock) < 0)
        return code; /* the wait finds out why */
    end = patience(lock);
    if (end == 0)
        return code;
    end += shma_now();
    do {
        pause_briefly(pauses);
        pauses = pauses < MOST_PAUSES ? 2 * pauses : pauses;
        code = shma_lock_attempt(lock, mode);
    } while (code == -EWOULDBLOCK && shma_now() < end);
    if (code != -ECANCELED)
        note_outcome(lock, code == 0);
    return code == -ECANCELED ? -EWOULDBLOCK : code;
}
