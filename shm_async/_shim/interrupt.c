#define _GNU_SOURCE
#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <stdint.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "interrupt.h"
#include "shim.h"

#ifndef sigev_notify_thread_id /* glibc has the field, but no name for it */
#define sigev_notify_thread_id _sigev_un._tid
#endif

/* Process-wide, as signals are. `claimed` is written once, under `claim_once`. */
static pthread_once_t claim_once = PTHREAD_ONCE_INIT;
static int32_t claimed = -SHMA_NO_SIGNAL;
static int32_t chosen = SHMA_INTERRUPT_ANY; /* written before the first wait */

static void interrupted(int number)
{
    (void)number; /* the call alone makes the system call return EINTR */
}

static int install(int number)
{
    struct sigaction action = {.sa_handler = interrupted};

    sigemptyset(&action.sa_mask);
    return sigaction(number, NULL, NULL) < 0 ? -1 : sigaction(number, &action, NULL);
}

static int is_free(int number)
{
    struct sigaction now;

    return sigaction(number, NULL, &now) == 0 && !(now.sa_flags & SA_SIGINFO) &&
           now.sa_handler == SIG_DFL;
}

/* Make it ours if it has no handler. Leave it alone if it has one. */
static int32_t take_signal(int number)
{
    return is_free(number) && install(number) == 0 ? number : -SHMA_NO_SIGNAL;
}

static void claim(void)
{
    if (chosen != SHMA_INTERRUPT_ANY) {
        claimed = chosen == SHMA_INTERRUPT_OFF ? SHMA_INTERRUPT_OFF : take_signal(chosen);
        return;
    }
    for (int number = SIGRTMAX - 1; number >= SIGRTMIN && claimed < 0; number--)
        claimed = take_signal(number);
}

void shma_interrupt_choose(int32_t number) { chosen = number; }

int32_t shma_interrupt_signal(void)
{
    pthread_once(&claim_once, claim);
    return claimed;
}

static int is_ignored(int number)
{
    struct sigaction now;

    return sigaction(number, NULL, &now) == 0 && !(now.sa_flags & SA_SIGINFO) &&
           now.sa_handler == SIG_IGN;
}

/*
 * Other code may have reset our signal to its default since, which would end the process, or
 * have it ignored, which would interrupt nothing. Put the handler back then. Leave a foreign
 * handler alone: its call interrupts the system call just as well.
 */
static int still_handled(int number)
{
    return is_free(number) || is_ignored(number) ? install(number) : 0;
}

int32_t shma_interrupt_timer_new(timer_t *timer)
{
    int32_t number = shma_interrupt_signal();
    struct sigevent event = {.sigev_notify = SIGEV_THREAD_ID};

    if (number < 0)
        return number;
    event.sigev_signo = number;
    event.sigev_notify_thread_id = (pid_t)syscall(SYS_gettid);
    return timer_create(CLOCK_MONOTONIC, &event, timer) < 0 ? -SHMA_NO_TIMER : 0;
}

int32_t shma_interrupt_timer_arm(timer_t timer, int64_t first)
{
    struct itimerspec when = {
        .it_value = {.tv_sec = first / 1000000000, .tv_nsec = first % 1000000000},
        .it_interval = {.tv_nsec = SHMA_INTERRUPT_AGAIN_NS},
    };

    if (still_handled(claimed) < 0)
        return -errno;
    return timer_settime(timer, 0, &when, NULL) < 0 ? -errno : 0;
}

int32_t shma_interrupt_timer_disarm(timer_t timer)
{
    const struct itimerspec never = {.it_value = {0}};

    return timer_settime(timer, 0, &never, NULL) < 0 ? -errno : 0;
}
