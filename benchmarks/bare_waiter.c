/*
 * What it takes at least to await flock(2): a thread that blocks in it, and an eventfd that the
 * event loop watches. No gate, no cancel, no mark, no check: bare_waiter.py is the other half.
 */
#define _GNU_SOURCE
#include <pthread.h>
#include <semaphore.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/eventfd.h>
#include <sys/file.h>

struct waiter {
    int lock, event;
    sem_t asked;
    pthread_t thread;
};

static void *serve(void *given)
{
    struct waiter *waiter = given;

    for (;;) {
        while (sem_wait(&waiter->asked) < 0)
            ;
        if (waiter->event < 0)
            return NULL;
        if (flock(waiter->lock, LOCK_EX) < 0 || eventfd_write(waiter->event, 1) < 0)
            abort();
    }
}

struct waiter *bare_new(int lock, int event)
{
    struct waiter *waiter = calloc(1, sizeof *waiter);

    if (!waiter)
        abort();
    waiter->lock = lock;
    waiter->event = event;
    if (sem_init(&waiter->asked, 0, 0) || pthread_create(&waiter->thread, NULL, serve, waiter))
        abort();
    return waiter;
}

void bare_ask(struct waiter *waiter) { (void)sem_post(&waiter->asked); }

void bare_end(struct waiter *waiter)
{
    waiter->event = -1;
    bare_ask(waiter);
    (void)pthread_join(waiter->thread, NULL);
    (void)sem_destroy(&waiter->asked);
    free(waiter);
}
