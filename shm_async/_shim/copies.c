#define _GNU_SOURCE
#include <errno.h>
#include <string.h>

#include "internal.h"

/* ---- out, under no lock ------------------------------------------------------ */

int64_t shma_snapshot_before(shma_snapshot *snapshot)
{
    uint64_t generation;
    int32_t code = shma_identity_glance(snapshot->fd, snapshot->identity, snapshot->size);

    if (code < 0)
        return code;
    code = shma_object_current(snapshot->fd, snapshot->sysv, snapshot->control, snapshot->linked);
    if (code < 0)
        return code;
    generation = shma_control_generation(snapshot->control);
    return generation & 1 ? -EWOULDBLOCK : shma_low_bits(generation);
}

int64_t shma_snapshot_after(const shma_snapshot *snapshot)
{
    __atomic_thread_fence(__ATOMIC_ACQUIRE); /* the data was read before the generation is */
    return shma_low_bits(__atomic_load_n(&snapshot->control->generation, __ATOMIC_RELAXED));
}

/* ---- in, all at once ------------------------------------------------------------ */

enum { STRIDE = 256 }; /* bytes that memcmp looks at together */

/* How many bytes at the end, and then at the beginning, are the same in both. */
static uint64_t same_at_end(const uint8_t *one, const uint8_t *other, uint64_t size)
{
    uint64_t left = size;

    while (left >= STRIDE && memcmp(one + left - STRIDE, other + left - STRIDE, STRIDE) == 0)
        left -= STRIDE;
    while (left && one[left - 1] == other[left - 1])
        left--;
    return size - left;
}

static uint64_t same_at_start(const uint8_t *one, const uint8_t *other, uint64_t size)
{
    uint64_t same = 0;

    while (size - same >= STRIDE && memcmp(one + same, other + same, STRIDE) == 0)
        same += STRIDE;
    while (same < size && one[same] == other[same])
        same++;
    return same;
}

int32_t shma_lock_commit(shma_lock *lock, uint8_t *data, const uint8_t *copy, uint64_t size)
{
    uint64_t start;
    int32_t code;

    if (lock->fd < 0)
        return -EBADF;
    if (lock->mode != LOCK_EX)
        return -EPERM;
    code = shma_lock_whole(lock);
    if (code < 0)
        return code;
    size -= same_at_end(data, copy, size);
    start = same_at_start(data, copy, size);
    if (start == size)
        return 0;
    shma_lock_mark(lock);
    memcpy(data + start, copy + start, size - start);
    shma_lock_unmark(lock);
    return 0;
}
