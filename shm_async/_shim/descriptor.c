#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "internal.h"

/*
 * The open file description (OFD) of a lock: its birth, its death, and a new one where the
 * program has closed it. identity.c says how we recognise it.
 */

int32_t shma_failed(void) { return errno == EBADF ? -EBADFD : -errno; }

int32_t shma_lock_whole(shma_lock *lock)
{
    return shma_identity_glance(lock->fd, &lock->identity, lock->size);
}

int32_t shma_lock_is_ours(shma_lock *lock)
{
    return shma_identity_glance(lock->fd, &lock->identity, 0) == 0;
}

void shma_lock_drop(shma_lock *lock)
{
    if (shma_lock_is_ours(lock))
        (void)flock(lock->fd, LOCK_UN);
}

static void forget_hold(shma_lock *lock)
{
    shma_mode_set(lock, 0);
    lock->at_gate = lock->writing = lock->unsound = lock->untold = 0;
}

SHMA_SELDOM int32_t shma_lock_lost(shma_lock *lock)
{
    forget_hold(lock);
    return -EBADFD;
}

void shma_lock_abandon(shma_lock *lock)
{
    if (shma_lock_is_ours(lock))
        (void)close(lock->fd);
    lock->fd = -1;
    forget_hold(lock);
}

/* ---- birth ----------------------------------------------------------------------- */

/* A new OFD on the object with that identity, or -errno. */
static int32_t open_again(const char *path, int32_t writable, uint64_t device, uint64_t inode)
{
    int flags = (writable ? O_RDWR : O_RDONLY) | O_CLOEXEC | O_NONBLOCK;
    int fd = open(path, flags);
    struct stat found;
    int32_t code;

    if (fd < 0)
        return -errno;
    if (fstat(fd, &found) < 0)
        code = -errno;
    else
        code = found.st_dev == device && found.st_ino == inode ? fd : -ESTALE;
    if (code < 0)
        (void)close(fd);
    return code;
}

/* Use a new descriptor. A negative `fd` is the reason why there is none, and is returned. */
static int32_t use(shma_lock *lock, int32_t fd)
{
    shma_identity identity;
    int32_t code = fd < 0 ? fd : shma_identity_take(fd, &identity);

    if (code == 0) {
        lock->identity = identity;
        lock->fd = fd;
    } else if (fd >= 0) {
        (void)close(fd);
    }
    return code;
}

int32_t shma_lock_open(shma_lock *lock, const char *path, int32_t writable, uint64_t device,
                       uint64_t inode, int64_t size, shma_control *control, uint32_t pid,
                       uint64_t start, uint64_t ns)
{
    int32_t code = shma_registry_init();

    lock->fd = lock->sysv = -1;
    if (code < 0)
        return code;
    lock->writable = writable;
    lock->size = size;
    lock->control = control;
    lock->pid = pid;
    lock->start = start;
    lock->teller = -1;
    lock->ns = ns;
    shma_registry_acquire(); /* a fork between these two would leak the descriptor */
    code = use(lock, open_again(path, writable, device, inode));
    if (code == 0)
        shma_registry_add(lock);
    shma_registry_release();
    return code;
}

/* ---- a new one -------------------------------------------------------------------- */

/* The reason why a lock that lost its descriptor gets no other one. */
static int32_t why_not(int32_t code)
{
    return code == -EMFILE || code == -ENFILE || code == -ENOMEM || code == -EINTR ? code : -EBADFD;
}

enum { LEASE_LOOKS = 1000 };

/* A process that checks whether the object is unused has a lease of it, for microseconds. */
static int32_t open_at_home(shma_lock *lock)
{
    const shma_identity *identity = &lock->identity;
    const struct timespec pause = {.tv_nsec = 1000000};
    int32_t code = lock->home ? -EWOULDBLOCK : -ENOENT;

    for (int looks = 0; code == -EWOULDBLOCK && looks < LEASE_LOOKS; looks++) {
        if (looks)
            (void)nanosleep(&pause, NULL);
        code = open_again(lock->home, lock->writable, identity->device, identity->inode);
    }
    return code;
}

SHMA_SELDOM int32_t shma_lock_ready(shma_lock *lock)
{
    int32_t code = shma_lock_whole(lock);

    if (code != -EBADFD)
        return code;
    (void)shma_lock_lost(lock);
    shma_registry_acquire();
    code = lock->fd < 0 ? -EBADF : open_at_home(lock);
    if (code >= 0)
        code = use(lock, code);
    else if (code != -EBADF)
        code = why_not(code);
    shma_registry_release();
    return code < 0 ? code : shma_lock_whole(lock);
}

/* ---- death ------------------------------------------------------------------------ */

int32_t shma_lock_close(shma_lock *lock)
{
    int32_t code = shma_waiter_free(lock);

    if (code < 0)
        return code;
    shma_registry_acquire();
    shma_registry_remove(lock);
    shma_lock_abandon(lock); /* closing the OFD releases its lock */
    shma_registry_release();
    return 0;
}
