#define _GNU_SOURCE
#include <errno.h>
#include <sys/stat.h>

#include "internal.h"

/*
 * Whether an object that is locked is the right one to lock: other processes may have removed
 * it, or replaced it by a larger or smaller one.
 */

/* Whether a name, or a key, leads to the object: 1 or 0. */
SHMA_SELDOM static int32_t has_name(int32_t fd, int32_t sysv)
{
    struct stat found;
    shma_sysv_facts facts = {0};
    int32_t code;

    if (fstat(fd, &found) < 0)
        return -errno;
    if (found.st_nlink == 0 || sysv < 0)
        return found.st_nlink > 0;
    code = shma_sysv_stat(sysv, &facts); /* its companion may outlive it */
    return code == 0 ? !facts.removed : code == -EINVAL || code == -EIDRM ? 0 : code;
}

/* Whether a process that knows no companion of the segment can still find it. */
static int32_t can_be_found(int32_t sysv)
{
    shma_sysv_facts facts = {0};
    int32_t code = shma_sysv_stat(sysv, &facts);

    if (code == -EINVAL || code == -EIDRM)
        return 0;
    return code < 0 ? code : !facts.removed;
}

/*
 * The companion is a file, and other processes may remove it: then the next one makes another.
 * Or they may see another /dev/shm. The control page has the cookie of the companion by which
 * the segment is locked.
 */
SHMA_SELDOM int32_t shma_companion_current(const shma_lock *lock)
{
    const shma_control *control = lock->control;
    uint64_t cookie = control ? __atomic_load_n(&control->companion, __ATOMIC_ACQUIRE) : 0;
    struct stat found;
    int32_t code;

    if (cookie && cookie != lock->cookie)
        return -EIDRM;
    if (fstat(lock->fd, &found) < 0)
        return shma_failed();
    code = found.st_nlink ? 0 : can_be_found(lock->sysv);
    return code > 0 ? -EIDRM : code;
}

/*
 * A process that replaces an object first sets `replaced` and then gives the name away, all
 * under the exclusive lock. If it dies in between, the object has both the flag and its name.
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
