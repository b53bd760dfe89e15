#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <stdint.h>

#include "shim.h"

int32_t shma_segment_reserve(int32_t fd, int64_t size)
{
    /* posix_fallocate would grow the object, and so show it half-made */
    return fallocate(fd, FALLOC_FL_KEEP_SIZE, 0, size) < 0 ? -errno : 0;
}
