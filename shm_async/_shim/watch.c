#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <sys/inotify.h>
#include <sys/stat.h>
#include <unistd.h>

#include "lock.h"

/*
 * Change notification. Stores through a mapping are invisible to the kernel, so a writer
 * tells: it touches the times of the object behind its descriptor, and inotify passes that on
 * as IN_ATTRIB to every process that watches it. One who dies before that closes a writable
 * descriptor by dying: IN_CLOSE_WRITE. Who cuts the object short: IN_MODIFY.
 *
 * A writer tells only if the word in the control page says that somebody watches. The
 * word is a hint; what is true is a byte far behind any data that each watcher shares, by an
 * OFD lock, so the kernel drops it when the watcher dies. A watcher takes the byte and then
 * sets the word. From time to time a writer who tells tries to have the byte alone. If it gets
 * it nobody watches, and it clears the word before it lets go of the byte. So the word is
 * never cleared while a watcher that set it lives.
 */
#define WATCH_BYTE (((int64_t)1 << 62) + 2)
enum { NOT_AT_ALL, SHARED, ALONE }; /* of shma_segment_claim */

/* After this many times of telling, a lock looks whether anybody is there to hear it. */
enum { LOOK_ROUND = 64 };

_Static_assert(sizeof(((shma_watch *)0)->found) / sizeof(int32_t) == SHMA_WATCH_BATCH,
               "there is room for every event");

enum { EVENTS = IN_ATTRIB | IN_CLOSE_WRITE | IN_MODIFY };

/* ---- the writer's side ------------------------------------------------------- */

/*
 * Whether nobody watches, so that the word was cleared. A descriptor that may not write
 * cannot have the byte alone; it tells on, and others look.
 */
static int32_t nobody_watches(const shma_lock *lock)
{
    int32_t code = shma_segment_claim(lock->fd, WATCH_BYTE, ALONE);

    if (code < 0)
        return 0;
    __atomic_store_n(&lock->control->watchers, 0, __ATOMIC_RELEASE);
    (void)shma_segment_claim(lock->fd, WATCH_BYTE, NOT_AT_ALL);
    return 1;
}

void shma_watch_tell(shma_lock *lock)
{
    if (++lock->told % LOOK_ROUND == 0 && nobody_watches(lock))
        return;
    /*
     * EPERM, EACCES: a mode that was changed since we opened it forbids us. The data is
     * written and the lock is released all the same, so that is no reason to fail.
     */
    (void)futimens(lock->fd, NULL);
}

/* ---- the watcher's side -------------------------------------------------------- */

int32_t shma_watch_join(shma_lock *lock, int32_t writable)
{
    int32_t code;

    if (lock->fd < 0)
        return -EBADF;
    code = shma_segment_claim(lock->fd, WATCH_BYTE, SHARED);
    if (code == 0)
        code = shma_lock_whole(lock);
    if (code < 0)
        return code;
    if (writable)
        __atomic_store_n(&lock->control->watchers, 1, __ATOMIC_RELAXED);
    __atomic_thread_fence(__ATOMIC_SEQ_CST); /* no look at the generation before this: tell_watchers */
    return __atomic_load_n(&lock->control->watchers, __ATOMIC_RELAXED) == 0;
}

static int64_t low_bits(uint64_t generation) { return (int64_t)(generation & INT64_MAX); }

/*
 * The generation is odd: somebody writes, or died writing. He lives if he has the lock.
 * Else we are refused, or share it; then nobody writes, and odd means that one died
 * whose death is to be ignored. The next mark will count on from there (shma_lock_mark).
 */
static int64_t look_inside(shma_lock *lock)
{
    int32_t code = shma_lock_try_nested(lock);
    uint64_t generation;

    if (code < 0)
        return code;
    generation = shma_control_generation(lock->control);
    (void)shma_lock_release(lock);
    return low_bits(generation + (generation & 1));
}

int64_t shma_watch_look(shma_lock *lock, int64_t since)
{
    int64_t generation;
    int32_t code;

    if (lock->fd < 0)
        return -EBADF;
    code = shma_lock_whole(lock);
    if (code < 0)
        return code;
    generation = low_bits(shma_control_generation(lock->control));
    if (generation & 1)
        return generation - 1 > since ? generation - 1 : look_inside(lock);
    return generation;
}

/* ---- inotify ---------------------------------------------------------------------- */

static shma_watch *instances; /* of the process; under the registry's mutex */

int32_t shma_watch_open(shma_watch *watch)
{
    int32_t code = shma_registry_init();

    watch->fd = -1;
    if (code < 0)
        return code;
    shma_registry_acquire(); /* a fork between these two would leak the descriptor */
    watch->fd = inotify_init1(IN_NONBLOCK | IN_CLOEXEC);
    if (watch->fd < 0) {
        code = -errno;
    } else {
        watch->next = instances;
        watch->link = &instances;
        if (instances)
            instances->link = &watch->next;
        instances = watch;
    }
    shma_registry_release();
    return code;
}

static void forget(shma_watch *watch)
{
    *watch->link = watch->next;
    if (watch->next)
        watch->next->link = watch->link;
    watch->link = NULL;
}

void shma_watch_close(shma_watch *watch)
{
    int fd;

    shma_registry_acquire();
    fd = watch->fd;
    watch->fd = -1;
    if (watch->link)
        forget(watch);
    shma_registry_release(); /* before what may take 10 ms */
    if (fd >= 0)
        (void)close(fd);
}

/* The child would take events away from its parent. */
void shma_watch_forget(void)
{
    while (instances) {
        (void)close(instances->fd);
        instances->fd = -1;
        forget(instances);
    }
}

int32_t shma_watch_add(shma_watch *watch, const char *path)
{
    int number;

    if (watch->fd < 0)
        return -EBADF;
    number = inotify_add_watch(watch->fd, path, EVENTS);
    return number < 0 ? -errno : number;
}

int32_t shma_watch_remove(shma_watch *watch, int32_t number)
{
    if (watch->fd < 0)
        return -EBADF;
    return inotify_rm_watch(watch->fd, number) < 0 ? -errno : 0;
}

int32_t shma_watch_read(shma_watch *watch)
{
    /* no names: they come with directories only. So an event is as long as its struct */
    _Alignas(struct inotify_event) char events[SHMA_WATCH_BATCH * sizeof(struct inotify_event)];
    ssize_t size;
    int32_t count = 0;

    if (watch->fd < 0)
        return -EBADF;
    size = read(watch->fd, events, sizeof events);
    if (size < 0)
        return errno == EAGAIN ? 0 : -errno;
    for (char *at = events; at < events + size; at += sizeof(struct inotify_event))
        watch->found[count++] = ((struct inotify_event *)(void *)at)->wd; /* -1: IN_Q_OVERFLOW */
    return count;
}
