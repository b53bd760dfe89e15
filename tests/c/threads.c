/*
 * The waiting thread without Python, for a thread checker: requests, grants,
 * cancels at random moments and forks, while a rival takes and releases the lock.
 * Ends with status 0 if every request ended as it must and nobody else was ever
 * inside with us. With an argument, whatever it is, no signal interrupts: waits poll.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <stdint.h>

#include "shim.h"

enum { ROUNDS = 3000, SIZE = 4096 };

static atomic_int inside;
static atomic_bool stop;
static char path[64];

static void demand(int condition, const char *what, int32_t code)
{
    if (!condition) {
        (void)fprintf(stderr, "failed: %s (%d, %s)\n", what, code, strerror(-code));
        abort();
    }
}

static shma_lock *open_lock(int fd)
{
    shma_lock *lock = calloc(1, sizeof *lock);
    struct stat found;
    int32_t code;

    demand(lock && fstat(fd, &found) == 0, "fstat", -errno);
    code = shma_lock_open(lock, path, 1, found.st_dev, found.st_ino, SIZE, NULL, 1, 1, 1);
    demand(code == 0, "open the lock", code);
    return lock;
}

static void close_lock(shma_lock *lock)
{
    demand(shma_lock_close(lock) == 0, "close the lock", 0);
    free(lock);
}

static void be_inside(void)
{
    demand(atomic_fetch_add(&inside, 1) == 0, "two are inside", 0);
    (void)atomic_fetch_sub(&inside, 1);
}

static void *rival(void *argument)
{
    shma_lock *lock = open_lock(*(int *)argument);
    unsigned seed = 1;

    while (!atomic_load(&stop)) {
        int32_t code = shma_lock_wait(lock, 1, SHMA_MARK, 1000000);
        if (code == 0) {
            be_inside();
            (void)usleep((useconds_t)(rand_r(&seed) % 100));
            (void)shma_lock_release(lock);
            (void)usleep((useconds_t)(rand_r(&seed) % 100));
        } else {
            demand(code == -EINTR, "wait", code);
        }
    }
    close_lock(lock);
    return NULL;
}

/* Wait for the end of a request; 1: granted, 0: called off. */
static int finish(shma_lock *lock, int event_fd)
{
    struct pollfd ready = {.fd = event_fd, .events = POLLIN};
    int32_t code;

    do {
        demand(poll(&ready, 1, 10000) == 1, "a request never ended", -errno);
        code = shma_waiter_finish(lock, -1);
    } while (code == -EINPROGRESS);
    demand(code == 0 || code == -ECANCELED, "finish", code);
    return code == 0;
}

static void fork_once(void)
{
    pid_t child = fork();

    demand(child >= 0, "fork", -errno);
    if (child == 0)
        _exit(0);
    demand(waitpid(child, NULL, 0) == child, "waitpid", -errno);
}

static void spin(unsigned rounds)
{
    for (volatile unsigned turn = 0; turn < rounds; turn++)
        ;
}

/* Cancel just when the lock is granted; afterwards it must be free. */
static void cancel_as_it_is_granted(shma_lock *lock, int event_fd, int fd)
{
    shma_lock *holder = open_lock(fd);
    unsigned seed = 3;
    int both = 0;

    /* a busy machine may let one of the two win for long */
    for (int round = 0; round < ROUNDS || (both != 3 && round < 50 * ROUNDS); round++) {
        demand(shma_lock_try_exclusive(holder) == 0, "the lock was left held", 0);
        demand(shma_waiter_start(lock, 1) == 0, "start", 0);
        (void)usleep((useconds_t)(rand_r(&seed) % 200));
        (void)shma_lock_release(holder);
        spin((unsigned)rand_r(&seed) % 30000);
        (void)shma_waiter_cancel(lock);
        if (finish(lock, event_fd)) {
            demand(shma_lock_release(lock) == 0, "release", 0);
            both |= 1;
        } else {
            both |= 2;
        }
    }
    demand(both == 3, "it was never a race", both);
    close_lock(holder);
}

static void *take_and_release(void *argument)
{
    shma_lock *lock = argument;

    for (int round = 0; round < 100 * ROUNDS; round++) {
        demand(shma_lock_try_exclusive(lock) == 0, "take", 0);
        demand(shma_lock_release(lock) == 0, "release", 0);
    }
    atomic_store(&stop, 1);
    return NULL;
}

/* Who took a lock once must not think that it has it while another thread does. */
static void look_while_another_thread_has_it(int fd)
{
    shma_lock *lock = open_lock(fd);
    pthread_t thread;

    atomic_store(&stop, 0);
    demand(shma_lock_try_exclusive(lock) == 0, "take", 0);
    demand(shma_lock_mode_here(lock) == 2, "it is ours", 0);
    demand(shma_lock_release(lock) == 0, "release", 0);
    demand(pthread_create(&thread, NULL, take_and_release, lock) == 0, "make a thread", 0);
    while (!atomic_load(&stop))
        demand(shma_lock_mode_here(lock) == 0, "it is another thread's", 0);
    (void)pthread_join(thread, NULL);
    close_lock(lock);
}

int main(int count, char **arguments)
{
    int fd = open("/dev/shm", O_TMPFILE | O_RDWR | O_CLOEXEC, 0600);
    int granted = 0, called_off = 0, event_fd;
    unsigned seed = 7;
    pthread_t thread;
    shma_lock *lock;

    (void)arguments;
    if (count > 1)
        shma_interrupt_choose(SHMA_INTERRUPT_OFF);
    demand(fd >= 0 && ftruncate(fd, SIZE) == 0, "make an object", -errno);
    (void)snprintf(path, sizeof path, "/proc/self/fd/%d", fd);
    lock = open_lock(fd);
    event_fd = shma_waiter_fd(lock);
    demand(event_fd >= 0, "make an eventfd", event_fd);
    demand(pthread_create(&thread, NULL, rival, &fd) == 0, "make a thread", 0);
    for (int round = 0; round < ROUNDS; round++) {
        int32_t code = shma_waiter_start(lock, 1);

        demand(code == 0, "start", code);
        if (rand_r(&seed) % 2) {
            (void)usleep((useconds_t)(rand_r(&seed) % 150));
            (void)shma_waiter_cancel(lock);
        }
        if (finish(lock, event_fd)) {
            be_inside();
            demand(shma_lock_release(lock) == 0, "release", 0);
            granted++;
        } else {
            demand(shma_lock_mode(lock) == 0, "a cancelled request holds the lock", 0);
            called_off++;
        }
        if (round % 500 == 0)
            fork_once();
    }
    atomic_store(&stop, 1);
    (void)pthread_join(thread, NULL);
    cancel_as_it_is_granted(lock, event_fd, fd);
    look_while_another_thread_has_it(fd);
    demand(shma_waiter_start(lock, 1) == 0, "start once more", 0);
    close_lock(lock); /* with a request under way */
    demand(flock(fd, LOCK_EX | LOCK_NB) == 0, "the lock was left held", -errno);
    (void)close(fd);
    (void)printf("%d granted, %d called off\n", granted, called_off);
    return granted && called_off ? 0 : 1;
}
