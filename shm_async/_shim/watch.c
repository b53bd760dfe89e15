#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <sys/inotify.h>
#include <sys/stat.h>
#include <unistd.h>

#include "internal.h"

/*
 * Change notification. Stores through a mapping are invisible to the kernel, so a writer
 * tells: it touches the times of the object behind its descriptor, and inotify passes that on
 * as IN_ATTRIB to every process that watches it. A writer that dies before it has told closes a
 * writable descriptor by dying: IN_CLOSE_WRITE. A truncation is IN_MODIFY. An unlink, or a
 * replacement of the name, is IN_ATTRIB, as the object has a link less. A rename is
 * IN_MOVE_SELF.
 *
 * A writer tells only if a watcher has left word in the control page, and then removes the
 * word. A watcher leaves word each time before it sleeps. So writers that come faster than
 * watchers wake up pay nothing in between, and a watcher that has died or gone costs one
 * writer one system call.
 *
 * Each time a watcher leaves word it changes the rest of the word to another number. A writer
 * first tells and then removes only the very word that it had seen: a watcher that woke up by
 * that and has left word again, or came after it, keeps its word. In the other order a writer
 * that is stopped in between would silence all other writers. So as long as there is no word,
 * every watcher that has ever left one was told since. It will look once more, and leave word
 * before that.
 */
enum { EVENTS = IN_ATTRIB | IN_CLOSE_WRITE | IN_MODIFY | IN_MOVE_SELF };

/*
 * A directory in which a name may appear again. IN_MODIFY: the creator of a System V segment
 * makes its companion first, and empties the companion when the segment is complete.
 */
enum { NAMES = IN_CREATE | IN_MOVED_TO | IN_MODIFY | IN_ONLYDIR };

_Static_assert(sizeof(((shma_watch *)0)->found) / sizeof(int32_t) == SHMA_WATCH_BATCH,
               "there is room for every event");
_Static_assert(SHMA_WATCH_BATCH * sizeof(struct inotify_event) >
                   sizeof(struct inotify_event) + NAME_MAX + 1,
               "an event with the longest name fits into the buffer");

/* ---- the writer's side ------------------------------------------------------- */

/*
 * Touch the object through that descriptor. A process that has become another user may no
 * longer be allowed to touch the times, but a descriptor opened for writing still writes. To
 * reserve the first byte once more changes nothing, and inotify reports it as a write.
 */
static int32_t touch(int32_t fd)
{
    if (futimens(fd, NULL) == 0)
        return 0;
    return fallocate(fd, FALLOC_FL_KEEP_SIZE, 0, 1) < 0 ? -errno : 0;
}

static int32_t leads_to(int32_t fd, const shma_identity *identity)
{
    struct stat found;

    return fd >= 0 && fstat(fd, &found) == 0 && found.st_dev == identity->device &&
           found.st_ino == identity->inode;
}

SHMA_SELDOM void shma_watch_tell(shma_lock *lock, uint32_t word)
{
    int32_t code = shma_lock_is_ours(lock) ? touch(lock->fd) : -EBADFD;

    if (code < 0 && leads_to(lock->teller, &lock->identity))
        code = touch(lock->teller);
    /*
     * EPERM, EACCES: no descriptor of ours may write. The data is written and the lock is
     * released all the same, so the call does not fail.
     */
    if (code == 0)
        (void)__atomic_compare_exchange_n(&lock->control->watchers, &word,
                                          word & ~(uint32_t)SHMA_WORD_LEFT, 0, __ATOMIC_SEQ_CST,
                                          __ATOMIC_RELAXED);
}

/* ---- the watcher's side -------------------------------------------------------- */

static void leave_the_word(shma_control *control)
{
    uint32_t word = __atomic_load_n(&control->watchers, __ATOMIC_RELAXED);

    while (!__atomic_compare_exchange_n(&control->watchers, &word, (word + 2) | SHMA_WORD_LEFT, 1,
                                        __ATOMIC_SEQ_CST, __ATOMIC_RELAXED))
        ;
    __atomic_thread_fence(
        __ATOMIC_SEQ_CST); /* no load of the generation before that: see shma_watchers_tell */
}

static int64_t generation_now(shma_lock *lock)
{
    int32_t code = shma_lock_ready(lock);

    if (code == 0)
        code = shma_object_current(lock->fd, lock->sysv, lock->control, lock->linked);
    return code < 0 ? code : shma_low_bits(shma_control_generation(lock->control));
}

/*
 * The generation is odd: a writer is active, or died writing. A living writer has the lock.
 * Otherwise we are refused, or share the lock; then no writer is active, and odd means a death
 * that this lock ignores. The next mark will count on from there (shma_lock_mark).
 */
static int64_t look_inside(shma_lock *lock)
{
    int32_t code = shma_lock_try_nested(lock);
    uint64_t generation;

    if (code < 0)
        return code;
    generation = shma_control_generation(lock->control);
    (void)shma_lock_release(lock);
    return shma_low_bits(generation + (generation & 1));
}

int64_t shma_watch_look(shma_lock *lock, int64_t since, int32_t leave_word)
{
    int64_t generation;

    if (lock->fd < 0)
        return -EBADF;
    generation = generation_now(lock);
    if (leave_word && generation >= 0 && (generation & ~INT64_C(1)) <= since) {
        leave_the_word(lock->control);
        generation = generation_now(lock);
    }
    if (generation < 0 || !(generation & 1))
        return generation;
    return generation - 1 > since ? generation - 1 : look_inside(lock);
}

/* ---- inotify ---------------------------------------------------------------------- */

static shma_watch *instances; /* of the process; under the registry's mutex */

static int32_t inotify_new(shma_mark *mark)
{
    int fd = inotify_init1(IN_NONBLOCK | IN_CLOEXEC);
    int32_t code = fd < 0 ? -errno : shma_mark_take(fd, mark);

    if (code < 0 && fd >= 0)
        (void)close(fd);
    return code < 0 ? code : fd;
}

/* -EBADF: it is closed, or a parent's. -EBADFD: the program has closed its descriptor. */
static int32_t check(const shma_watch *watch)
{
    const shma_mark mark = {watch->device, watch->inode, watch->owner, watch->number};

    return watch->fd < 0 ? -EBADF : shma_mark_is_there(watch->fd, &mark) ? 0 : -EBADFD;
}

int32_t shma_watch_check(const shma_watch *watch) { return check(watch); }

int32_t shma_watch_open(shma_watch *watch)
{
    shma_mark mark;
    int32_t code = shma_registry_init();

    watch->fd = -1;
    if (code < 0)
        return code;
    shma_registry_acquire(); /* a fork between these two would leak the descriptor */
    code = inotify_new(&mark);
    if (code >= 0) {
        watch->fd = code;
        watch->device = mark.device;
        watch->inode = mark.inode;
        watch->owner = mark.owner;
        watch->number = mark.number;
        code = 0;
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
    fd = check(watch) == 0 ? watch->fd : -1;
    watch->fd = -1;
    if (watch->link)
        forget(watch);
    shma_registry_release(); /* before what may take 10 ms; a child forked just now keeps it */
    if (fd >= 0)
        (void)close(fd);
}

/* The child would take events away from its parent. */
void shma_watch_forget(void)
{
    while (instances) {
        if (check(instances) == 0)
            (void)close(instances->fd);
        instances->fd = -1;
        forget(instances);
    }
}

static int32_t add(shma_watch *watch, const char *path, uint32_t events)
{
    int number = check(watch);

    if (number < 0)
        return number;
    number = inotify_add_watch(watch->fd, path, events);
    return number < 0 ? -errno : number;
}

int32_t shma_watch_add(shma_watch *watch, const char *path) { return add(watch, path, EVENTS); }

int32_t shma_watch_add_names(shma_watch *watch, const char *path)
{
    return add(watch, path, NAMES);
}

int32_t shma_watch_remove(shma_watch *watch, int32_t number)
{
    int32_t code = check(watch);

    if (code < 0)
        return code;
    return inotify_rm_watch(watch->fd, number) < 0 ? -errno : 0;
}

int32_t shma_watch_read(shma_watch *watch)
{
    /* an event is as long as its struct, and those of a directory have a name behind it */
    _Alignas(struct inotify_event) char events[SHMA_WATCH_BATCH * sizeof(struct inotify_event)];
    const struct inotify_event *event;
    ssize_t size;
    int32_t count = check(watch);

    if (count < 0)
        return count;
    size = read(watch->fd, events, sizeof events);
    if (size < 0)
        return errno == EAGAIN ? 0 : -errno;
    for (char *at = events; at < events + size; at += sizeof *event + event->len) {
        event = (const struct inotify_event *)(void *)at;
        watch->found[count++] = event->wd; /* -1: IN_Q_OVERFLOW */
    }
    return count;
}
