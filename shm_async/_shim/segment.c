#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <stdint.h>
#include <sys/stat.h>

#include "lock.h"

int32_t shma_segment_reserve(int32_t fd, int64_t size)
{
    /* posix_fallocate would grow the object, and so show it half-made */
    return fallocate(fd, FALLOC_FL_KEEP_SIZE, 0, size) < 0 ? -errno : 0;
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

/* Whether a name, or a key, leads to it: 1 or 0. */
static int32_t has_name(int32_t fd, int32_t sysv)
{
    struct stat found;
    shma_sysv_facts facts;
    int32_t code;

    if (fstat(fd, &found) < 0)
        return -errno;
    if (found.st_nlink == 0 || sysv < 0)
        return found.st_nlink > 0;
    code = shma_sysv_stat(sysv, &facts); /* what carries its lock may outlive it */
    return code == 0 ? !facts.removed : code == -EINVAL || code == -EIDRM ? 0 : code;
}

/*
 * Who replaces an object sets `replaced` first and then gives the name away, all under the
 * exclusive lock; one who dies in between leaves an object that has both the word and its name.
 */
int32_t shma_object_current(int32_t fd, int32_t sysv, const shma_control *control, int32_t linked)
{
    int32_t replaced = control && __atomic_load_n(&control->replaced, __ATOMIC_ACQUIRE);
    int32_t named;

    if (!replaced && !linked)
        return 0;
    named = has_name(fd, sysv);
    if (named != 0)
        return named < 0 ? named : 0;
    return replaced ? -ESTALE : -ENOLINK;
}
