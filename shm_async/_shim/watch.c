#define _GNU_SOURCE
#include <errno.h>
#include <sys/inotify.h>
#include <sys/stat.h>
#include <unistd.h>

#include "lock.h"

/*
 * Change notification. Stores through a mapping are invisible to the kernel, so a writer
 * tells: it touches the times of the object behind its descriptor, and inotify passes that on
 * as IN_ATTRIB to every process that watches it. One who dies before that closes a writable
 * descriptor by dying: IN_CLOSE_WRITE. Who cuts the object short: IN_MODIFY. Who takes its
 * name away, or gives it to another one: IN_ATTRIB, as it has a link less.
 *
 * A writer tells only if there is word in the control page that somebody wants to know, and
 * then takes the word away: a watcher leaves it each time before it goes to sleep. So writers
 * that come faster than watchers wake up pay nothing in between, and a watcher that has died
 * or gone costs one of them one system call.
 *
 * Whoever leaves word makes the rest of it another number. A writer tells first and then takes
 * away only the very word that it had seen: who woke up by that and has left word again, or
 * came after it, keeps it. The other way round a writer that is stopped in between would
 * silence all others. So as long as there is no word, everybody who has ever left any has
 * been told since, will look once more, and leave word before that.
 */
enum { EVENTS = IN_ATTRIB | IN_CLOSE_WRITE | IN_MODIFY };

_Static_assert(sizeof(((shma_watch *)0)->found) / sizeof(int32_t) == SHMA_WATCH_BATCH,
               "there is room for every event");

/* ---- the writer's side ------------------------------------------------------- */

void shma_watch_tell(const shma_lock *lock, uint32_t word)
{
    /*
     * EPERM, EACCES: a mode that was changed since we opened it forbids us. The data is
     * written and the lock is released all the same, so that is no reason to fail.
     */
    if (futimens(lock->fd, NULL) == 0)
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
    __atomic_thread_fence(__ATOMIC_SEQ_CST); /* no look before that: see tell_watchers */
}

static int64_t low_bits(uint64_t generation) { return (int64_t)(generation & INT64_MAX); }

static int64_t look(const shma_lock *lock)
{
    int32_t code = shma_lock_whole(lock);

    if (code == 0)
        code = shma_object_current(lock->fd, lock->sysv, lock->control, lock->linked);
    return code < 0 ? code : low_bits(shma_control_generation(lock->control));
}

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

int64_t shma_watch_look(shma_lock *lock, int64_t since, int32_t leave_word)
{
    int64_t generation;

    if (lock->fd < 0)
        return -EBADF;
    generation = look(lock);
    if (leave_word && generation >= 0 && (generation & ~INT64_C(1)) <= since) {
        leave_the_word(lock->control);
        generation = look(lock);
    }
    if (generation < 0 || !(generation & 1))
        return generation;
    return generation - 1 > since ? generation - 1 : look_inside(lock);
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
    shma_registry_release(); /* before what may take 10 ms; a child forked just now keeps it */
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
