#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdint.h>
#include <sys/fsuid.h>
#include <sys/prctl.h>

#include "internal.h"

/*
 * The kernel grants a lease for writing only if no other description has the file open or
 * mapped. It grants it to the file's owner and to processes with CAP_LEASE, which root in a
 * container mostly lacks. But that root may act as the owner (CAP_SETUID). Such a change is of
 * one thread, and to undo it would change the thread's capabilities. So a thread that ends
 * afterwards does it. It also makes the whole process "not dumpable": no core dumps, and only
 * root may look at its /proc files, or at those of its children. That is undone.
 *
 * During a lease every other open of the file waits, or fails if it is non-blocking. So the
 * next system call gives the lease back.
 */
struct question {
    int fd;
    uid_t owner;
    int32_t answer;
};

static int32_t ask(int fd)
{
    int kind, code;

    if (fcntl(fd, F_SETSIG, SIGURG) < 0) /* the default, SIGIO, would end the process */
        return -errno;
    if (fcntl(fd, F_SETLEASE, F_WRLCK) < 0)
        return errno == EAGAIN ? 1 : -errno;
    kind = fcntl(fd, F_GETLEASE); /* F_UNLCK or F_RDLCK: another process waits for it */
    code = fcntl(fd, F_SETLEASE, F_UNLCK);
    return kind != F_WRLCK || code < 0; /* F_UNLCK refused: the kernel has taken it away */
}

static void *ask_as_owner(void *argument)
{
    struct question *question = argument;

    (void)setfsuid(question->owner); /* it reports nothing; if it failed the lease is refused */
    question->answer = ask(question->fd);
    return NULL;
}

static int32_t ask_in_a_thread(struct question *question)
{
    sigset_t all, before;
    pthread_t thread;
    int code = shma_registry_init(), dumpable;

    if (code < 0)
        return code;
    /* two threads at once would not know what it was, and a child would inherit the change */
    shma_registry_acquire();
    dumpable = prctl(PR_GET_DUMPABLE);
    (void)sigfillset(&all);
    code = pthread_sigmask(SIG_SETMASK, &all, &before);
    if (code == 0) {
        code = pthread_create(&thread, NULL, ask_as_owner, question);
        (void)pthread_sigmask(SIG_SETMASK, &before, NULL);
    }
    if (code == 0)
        code = pthread_join(thread, NULL);
    if (dumpable == 1)
        (void)prctl(PR_SET_DUMPABLE, 1UL); /* the kernel knows no reason to refuse */
    shma_registry_release();
    return code ? -code : question->answer;
}

int32_t shma_lease_open_elsewhere(int32_t fd, uint32_t owner)
{
    struct question question = {.fd = fd, .owner = owner};
    int32_t code = ask(fd);

    return code == -EACCES ? ask_in_a_thread(&question) : code;
}
