#define _GNU_SOURCE
#include <pthread.h>

#include "internal.h"

/*
 * Every lock of the process, so that a forked child can close the descriptors that it
 * inherited. It shares its parent's OFDs: as long as the child kept one open, the lock of a
 * dead parent would live on.
 */
static pthread_once_t once = PTHREAD_ONCE_INIT;
static pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;
static shma_lock *registry;
static int init_error;

void shma_registry_acquire(void) { (void)pthread_mutex_lock(&mutex); }
void shma_registry_release(void) { (void)pthread_mutex_unlock(&mutex); }

static void in_child(void)
{
    for (shma_lock *lock = registry; lock; lock = lock->next) {
        shma_waiter_forget(lock);
        shma_lock_abandon(lock); /* LOCK_UN would release the parent's lock */
    }
    shma_watch_forget();
    shma_registry_release();
}

static void begin(void)
{
    init_error = pthread_atfork(shma_registry_acquire, shma_registry_release, in_child);
}

int32_t shma_registry_init(void)
{
    (void)pthread_once(&once, begin);
    return -init_error;
}

void shma_registry_add(shma_lock *lock)
{
    lock->next = registry;
    lock->link = &registry;
    if (registry)
        registry->link = &lock->next;
    registry = lock;
}

void shma_registry_remove(shma_lock *lock)
{
    if (!lock->link)
        return;
    *lock->link = lock->next;
    if (lock->next)
        lock->next->link = lock->link;
    lock->link = NULL;
}
