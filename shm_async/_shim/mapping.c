#define _GNU_SOURCE
#include <errno.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/mman.h>

#include "shim.h"

int32_t shma_mapping_new(int32_t fd, uint64_t size, int32_t writable, void **address)
{
    int protection = writable ? PROT_READ | PROT_WRITE : PROT_READ;
    void *mapped = mmap(NULL, size, protection, MAP_SHARED, fd, 0);

    *address = mapped == MAP_FAILED ? NULL : mapped;
    return mapped == MAP_FAILED ? -errno : 0;
}

void shma_mapping_free(void *address, uint64_t size)
{
    /* fails only for a range that was never mapped: nothing to tell anyone */
    (void)munmap(address, size);
}

int32_t shma_mapping_lock(void *address, uint64_t size)
{
    return mlock2(address, size, MLOCK_ONFAULT) < 0 ? -errno : 0;
}
