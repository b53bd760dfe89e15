/*
 * Interrupting a thread that is blocked in flock(2).
 *
 * A signal whose handler does nothing, installed without SA_RESTART, makes flock
 * return EINTR. One signal is not enough: it may land just before the system
 * call, where it changes nothing. So a POSIX timer sends it to the one thread
 * again and again, until that thread disarms it. The kernel does the repeating:
 * no thread polls, and no thread must stay alive for it.
 */
#ifndef SHMA_INTERRUPT_H
#define SHMA_INTERRUPT_H

#include <stdint.h>
#include <time.h>

/* How soon a signal that came too early is sent again. */
enum { SHMA_INTERRUPT_AGAIN_NS = 200000 };

/* A timer that signals the calling thread, which must delete it. -errno on failure. */
int32_t shma_interrupt_timer_new(timer_t *timer);

/*
 * First signal in `first` ns (at least 1), then every SHMA_INTERRUPT_AGAIN_NS.
 * May be called from any thread of the process.
 */
int32_t shma_interrupt_timer_arm(timer_t timer, int64_t first);
int32_t shma_interrupt_timer_disarm(timer_t timer);

#endif
