#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <stdint.h>

#include "shim.h"

int32_t shma_segment_reserve(int32_t fd, int64_t start, int64_t size)
{
    /* posix_fallocate would grow the object, and so show it half-made */
    return fallocate(fd, FALLOC_FL_KEEP_SIZE, start, size) < 0 ? -errno : 0;
}

int32_t shma_segment_claim(int32_t fd, int64_t byte, int32_t kind)
{
    static const short types[] = {F_UNLCK, F_RDLCK, F_WRLCK};
    struct flock range = {.l_whence = SEEK_SET, .l_start = byte, .l_len = 1};

    if (kind < 0 || kind > 2)
        return -EINVAL;
    range.l_type = types[kind];
    if (fcntl(fd, F_OFD_SETLK, &range) == 0)
        return 0;
    return errno == EACCES ? -EWOULDBLOCK : -errno; /* POSIX allows either */
}

int32_t shma_segment_claimed(int32_t fd, int64_t byte)
{
    struct flock range = {.l_type = F_WRLCK, .l_whence = SEEK_SET, .l_start = byte, .l_len = 1};

    return fcntl(fd, F_OFD_GETLK, &range) < 0 ? -errno : range.l_type != F_UNLCK;
}
