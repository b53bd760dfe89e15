#define _GNU_SOURCE
#include <errno.h>
#include <stdint.h>
#include <sys/mman.h>

#include "shim.h"

int32_t shma_mapping_place(void *address, uint64_t size, int32_t fd, int32_t writable)
{
    int protection = writable ? PROT_READ | PROT_WRITE : PROT_READ;
    void *placed = mmap(address, size, protection, MAP_SHARED | MAP_FIXED, fd, 0);

    return placed == MAP_FAILED ? -errno : 0;
}

int32_t shma_mapping_discard(void *address, uint64_t size, int32_t writable)
{
    int protection = writable ? PROT_READ | PROT_WRITE : PROT_READ;
    int flags = MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED;

    return mmap(address, size, protection, flags, -1, 0) == MAP_FAILED ? -errno : 0;
}

int32_t shma_mapping_lock(void *address, uint64_t size)
{
    return mlock2(address, size, MLOCK_ONFAULT) < 0 ? -errno : 0;
}
