#define _GNU_SOURCE
#include <errno.h>

#include "internal.h"

/*
 * The generation: odd while a writer is active, even otherwise. It says whether a writer died,
 * and it lets readers without a lock notice that a copy is mixed.
 *
 * Only the holder of the exclusive lock writes it and the fields that name the writer, so plain
 * arithmetic is enough; the atomics order it against the data for readers without a lock.
 */
_Static_assert(sizeof(shma_control) == 4096, "the control page is 4096 bytes");

uint64_t shma_control_generation(const shma_control *control)
{
    return __atomic_load_n(&control->generation, __ATOMIC_ACQUIRE);
}

/*
 * Whether the last writer never ended; then note its name. Call it under a lock of ours, and
 * while we do not write ourselves: then no living process writes, as a writer that ends makes
 * the generation even before the kernel lets the next one in.
 */
static int32_t writer_died(shma_lock *lock)
{
    const shma_control *control = lock->control;

    if (!control || !(shma_control_generation(control) & 1))
        return 0;
    lock->dead_pid = control->writer_pid;
    lock->dead_start = control->writer_start;
    lock->dead_ns = control->writer_ns;
    return 1;
}

/* Under a lock of ours no process is about to replace the object: see shma_object_current. */
int32_t shma_lock_current(const shma_lock *lock)
{
    shma_control *control = lock->control;
    int32_t code = shma_object_current(lock->fd, lock->sysv, control, lock->linked);

    if (code == 0 && lock->sysv >= 0)
        code = shma_companion_current(lock);
    if (code == 0 && lock->writable && control && control->replaced)
        /* the process that was about to replace it died */
        __atomic_store_n(&control->replaced, 0, __ATOMIC_RELEASE);
    return code;
}

int32_t shma_generation_sound(shma_lock *lock)
{
    int32_t code = shma_lock_current(lock);

    if (code < 0)
        return code;
    if (writer_died(lock) && !lock->ignore)
        return -EOWNERDEAD;
    lock->inside = 1;
    return 0;
}

int32_t shma_lock_sound(shma_lock *lock)
{
    int32_t code = shma_lock_whole(lock);

    if (code == -EBADFD)
        return shma_lock_lost(lock);
    return code < 0 ? code : shma_generation_sound(lock);
}

/* Where the generation is odd already, a process that is killed here must leave no mixed name. */
SHMA_SELDOM static void sign(shma_control *control, uint32_t pid, uint64_t start, uint64_t ns)
{
    __atomic_store_n(&control->writer_start, 0, __ATOMIC_RELEASE);
    __atomic_store_n(&control->writer_pid, pid, __ATOMIC_RELEASE);
    __atomic_store_n(&control->writer_ns, ns, __ATOMIC_RELEASE);
    __atomic_store_n(&control->writer_start, start, __ATOMIC_RELEASE);
}

void shma_lock_mark(shma_lock *lock)
{
    shma_control *control = lock->control;
    uint64_t odd;

    if (!control || lock->writing)
        return;
    lock->writing = 1;
    control->writer_since = (uint64_t)lock->since; /* no decision depends on it */
    odd = shma_control_generation(control) + 1;
    if (odd & 1) {
        control->writer_pid = lock->pid;
        control->writer_start = lock->start;
        control->writer_ns = lock->ns;
    } else { /* its writer died */
        lock->ignored += lock->ignore && !lock->unsound;
        sign(control, lock->pid, lock->start, lock->ns);
        odd++;
    }
    __atomic_store_n(&control->generation, odd, __ATOMIC_RELEASE);
    __atomic_thread_fence(__ATOMIC_RELEASE); /* no data is written before the mark */
}

int32_t shma_generation_begin(shma_lock *lock, int32_t manner)
{
    int32_t code = shma_lock_current(lock);

    if (code < 0)
        return code;
    if (!lock->writing && writer_died(lock)) {
        if (manner != SHMA_RECOVER && !lock->ignore)
            return -EOWNERDEAD;
        lock->unsound = manner == SHMA_RECOVER;
    }
    lock->inside = 1;
    lock->writes++;
    if (manner != SHMA_MARK_LATER)
        shma_lock_mark(lock);
    return 0;
}

/* Nobody has repaired a dead writer's data: it stays marked, with the dead writer's name. */
SHMA_SELDOM static void leave_unsound(shma_lock *lock)
{
    lock->unsound = 0;
    sign(lock->control, lock->dead_pid, lock->dead_start, lock->dead_ns);
}

void shma_lock_unmark(shma_lock *lock)
{
    if (!lock->writing)
        return;
    lock->writing = 0;
    lock->untold = 1;
    if (lock->unsound)
        leave_unsound(lock);
    else /* SEQ_CST: see shma_watchers_tell */
        __atomic_store_n(&lock->control->generation,
                         (shma_control_generation(lock->control) | 1) + 1, __ATOMIC_SEQ_CST);
}

/*
 * The mark of a writer that had lost its lock was removed before that was known: put it back,
 * unless somebody else writes by now.
 */
SHMA_SELDOM void shma_generation_remark(shma_lock *lock)
{
    uint64_t even = shma_control_generation(lock->control);

    if (!(even & 1))
        (void)__atomic_compare_exchange_n(&lock->control->generation, &even, even + 1, 0,
                                          __ATOMIC_SEQ_CST, __ATOMIC_RELAXED);
}

int32_t shma_lock_recovered(shma_lock *lock)
{
    if (lock->fd < 0)
        return -EBADF;
    lock->unsound = 0;
    return 0;
}
