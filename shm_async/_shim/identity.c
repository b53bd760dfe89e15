#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <unistd.h>

#include "internal.h"

/*
 * Is a descriptor still ours? A program may close every descriptor that it did not open itself,
 * as daemons do, and then its own files get our numbers. So a number alone proves nothing.
 *
 * Device and inode distinguish our object from others. They do not distinguish our open file
 * descriptions of the same object, and fstat costs as much as a flock. So each description has
 * a mark of its own: its position, which is not used otherwise, is a random number of bytes
 * *ahead* of the object's end. FIONREAD reports how far the end is from the position, and moves
 * nothing: one cheap call confirms that the descriptor is ours and the size unchanged.
 */

enum { AHEAD_MASK = 0x3fffffff };

/* The largest distance that FIONREAD can report. */
#define COUNTABLE (INT64_C(1) << 31)

static int32_t draw(void)
{
    static uint64_t drawn;
    uint64_t number = __atomic_add_fetch(&drawn, UINT64_C(0x9e3779b97f4a7c15), __ATOMIC_RELAXED);

    number ^= (uint64_t)shma_now();
    number *= UINT64_C(0xbf58476d1ce4e5b9);
    number ^= number >> 31;
    return 1 + (int32_t)(number & AHEAD_MASK);
}

/* Put the position `ahead` of an object of that size. */
static int32_t place(int32_t fd, shma_identity *identity, int64_t size)
{
    identity->position = lseek(fd, size + identity->ahead, SEEK_SET);
    return identity->position < 0 ? -errno : 0;
}

int32_t shma_identity_take(int32_t fd, shma_identity *identity)
{
    struct stat found;

    if (fstat(fd, &found) < 0)
        return -errno;
    identity->device = found.st_dev;
    identity->inode = found.st_ino;
    identity->ahead = draw();
    return place(fd, identity, found.st_size);
}

SHMA_SELDOM int32_t shma_identity_check(int32_t fd, shma_identity *identity, int64_t size)
{
    struct stat found;

    if (fd < 0)
        return -EBADF;
    if (fstat(fd, &found) < 0 || found.st_dev != identity->device ||
        found.st_ino != identity->inode || lseek(fd, 0, SEEK_CUR) != identity->position)
        return -EBADFD;
    if (found.st_size < size)
        return -ERANGE;
    if (found.st_size + identity->ahead !=
        identity->position) /* a foreign program has made it longer */
        return place(fd, identity, found.st_size);
    return 0;
}

/*
 * The position, moved as far ahead of another file's end as ours was, would now pass for ours. So
 * nothing is recognised any more, until a new descriptor gets a mark.
 */
SHMA_SELDOM int32_t shma_identity_moved(int32_t fd, shma_identity *identity, int64_t size)
{
    struct stat found;
    int32_t code;

    if (fd < 0)
        return -EBADF;
    if (fstat(fd, &found) < 0 || found.st_dev != identity->device ||
        found.st_ino != identity->inode) {
        identity->position = -1;
        return -EBADFD;
    }
    code = place(fd, identity, found.st_size); /* a foreign program has changed the size */
    return code == 0 && found.st_size < size ? -ERANGE : code;
}

int32_t shma_identity_glance(int32_t fd, shma_identity *identity, int64_t size)
{
    int ahead;

    if (shma_identity_holds(identity, size) && size < COUNTABLE &&
        ioctl(fd, FIONREAD, &ahead) == 0 && ahead == -identity->ahead)
        return 0;
    return shma_identity_check(fd, identity, size);
}

/* ---- descriptors without a position ------------------------------------------------ */

/*
 * All eventfds and inotify instances of a machine share one inode. Our mark is the receiver of
 * their signals (this process) and the signal's number. They never send one.
 */
int32_t shma_mark_take(int32_t fd, shma_mark *mark)
{
    static uint32_t drawn;
    struct stat found;

    mark->number = 34 + (int32_t)(__atomic_add_fetch(&drawn, 1, __ATOMIC_RELAXED) % 30);
    mark->owner = getpid();
    if (fstat(fd, &found) < 0 || fcntl(fd, F_SETOWN, mark->owner) < 0 ||
        fcntl(fd, F_SETSIG, mark->number) < 0)
        return -errno;
    mark->device = found.st_dev;
    mark->inode = found.st_ino;
    return 0;
}

int32_t shma_mark_is_there(int32_t fd, const shma_mark *mark)
{
    struct stat found;

    return fd >= 0 && fstat(fd, &found) == 0 && found.st_dev == mark->device &&
           found.st_ino == mark->inode && fcntl(fd, F_GETOWN) == mark->owner &&
           fcntl(fd, F_GETSIG) == mark->number;
}
