/* What the files of the shim share; not part of the contract with Python. */
#ifndef SHMA_INTERNAL_H
#define SHMA_INTERNAL_H

#include <stdint.h>
#include <sys/file.h>
#include <time.h>
#include <unistd.h>

#include "shim.h"

/*
 * After a system call the processor has forgotten which way calls and branches went before. So a
 * free lock is taken and released in one piece, and what happens seldom stays out of it.
 */
#define SHMA_ONE_PIECE __attribute__((flatten))
#define SHMA_SELDOM    __attribute__((noinline, cold))

/* CLOCK_MONOTONIC, ns. No system call: the vdso knows. */
static inline int64_t shma_now(void)
{
    struct timespec time;

    (void)clock_gettime(CLOCK_MONOTONIC, &time);
    return (int64_t)time.tv_sec * 1000000000 + time.tv_nsec;
}

/* A generation as a result of a function: never negative. */
static inline int64_t shma_low_bits(uint64_t generation)
{
    return (int64_t)(generation & INT64_MAX);
}

/* ---- identity.c ---------------------------------------------------------------- */

/* How a descriptor without a position is recognised later. */
typedef struct {
    uint64_t device;
    uint64_t inode;
    int32_t owner;
    int32_t number;
} shma_mark;

int32_t shma_mark_take(int32_t fd, shma_mark *mark);

/* 0: the program has closed that descriptor, and perhaps another one has its number. */
int32_t shma_mark_is_there(int32_t fd, const shma_mark *mark);

/* Whether the object had `size` bytes when its position was set. */
static inline int32_t shma_identity_holds(const shma_identity *identity, int64_t size)
{
    return identity->position - identity->ahead >= size;
}

/*
 * The same as shma_identity_check. _glance costs half of it as a rule. _glance_again costs a
 * third, and moves the position of a descriptor that is no longer ours: use it only where no
 * time has passed since the last check in which the program could have closed the descriptor.
 * When it has moved a position, _moved decides.
 */
int32_t shma_identity_glance(int32_t fd, shma_identity *identity, int64_t size);
int32_t shma_identity_moved(int32_t fd, shma_identity *identity, int64_t size);
static inline int32_t shma_identity_glance_again(int32_t fd, shma_identity *identity, int64_t size)
{
    if (!shma_identity_holds(identity, size))
        return shma_identity_check(fd, identity, size);
    if (lseek(fd, identity->ahead, SEEK_END) == identity->position)
        return 0;
    return shma_identity_moved(fd, identity, size);
}

/* ---- object.c ------------------------------------------------------------------- */

/*
 * Whether the object, on which some lock is held, is the one to use: -ESTALE if another has
 * replaced it, -ENOLINK if it has no name (and `linked`). `sysv` is the id of its System V
 * segment, or -1.
 */
int32_t shma_object_current(int32_t fd, int32_t sysv, const shma_control *control, int32_t linked);

/*
 * Whether the companion, on which some lock is held, still keeps other processes out of its
 * System V segment: -EIDRM if not.
 */
int32_t shma_companion_current(const shma_lock *lock);

/* ---- descriptor.c --------------------------------------------------------------- */

/*
 * Whether the descriptor is still ours and the object still has its size: -EBADFD, -ERANGE if
 * not. Call it before touching the control page after a wait, as a lost page is a SIGBUS.
 * -EBADF: the lock is closed, or a parent's.
 */
int32_t shma_lock_whole(shma_lock *lock);

/* Whether the descriptor is still ours, whatever size the object has. */
int32_t shma_lock_is_ours(shma_lock *lock);

/*
 * As shma_lock_whole, for a lock that holds nothing. A descriptor that the program has closed
 * is opened again, through the object's name: -EBADFD if that no longer leads to the object.
 */
int32_t shma_lock_ready(shma_lock *lock);

/* The program has closed our descriptor, which released the lock: note it. -EBADFD. */
int32_t shma_lock_lost(shma_lock *lock);

/* Release the flock, if the descriptor is still ours. */
void shma_lock_drop(shma_lock *lock);

/* Close the descriptor, if it is still ours, and forget the hold. Never LOCK_UN. */
void shma_lock_abandon(shma_lock *lock);

/* -errno, where EBADF means that the program has closed our descriptor just now. */
int32_t shma_failed(void);

/* ---- generation.c --------------------------------------------------------------- */

/* -ESTALE, -ENOLINK, -EIDRM: the object is not the one to lock. While we hold a lock on it. */
int32_t shma_lock_current(const shma_lock *lock);

/* Whether readers may be let in: as shma_lock_current, and -EOWNERDEAD. The size was checked. */
int32_t shma_generation_sound(shma_lock *lock);

/* An exclusive hold begins, if it may: -EOWNERDEAD, -ESTALE, -ENOLINK, -EIDRM. */
int32_t shma_generation_begin(shma_lock *lock, int32_t manner);

/* Make the generation odd, and even again, around the stores of an exclusive hold. */
void shma_lock_mark(shma_lock *lock);
void shma_lock_unmark(shma_lock *lock);

/* Undo that, after a release that found the lock lost. */
void shma_generation_remark(shma_lock *lock);

/* ---- lock.c --------------------------------------------------------------------- */

/*
 * A number for the calling thread that no other thread of the process ever gets. Its low half
 * is the kernel's id of the thread; in a forked child, of the thread that forked.
 */
uint64_t shma_thread_number(void);

/*
 * Other threads look at `mode` and `taker` to see whether they themselves took the lock. So
 * `taker` is stored before `mode`, and `mode` is read before `taker`. Otherwise a thread that
 * took the lock long ago could conclude that it has it now.
 */
static inline void shma_mode_set(shma_lock *lock, int32_t mode)
{
    __atomic_store_n(&lock->mode, mode, __ATOMIC_RELEASE);
}

/* Bookkeeping after flock(2) granted `mode` to a waiter. -ERANGE: given back. */
int32_t shma_lock_granted(shma_lock *lock, int32_t mode);

/* The kernel has granted `mode`. Begin the hold, or give the lock back and say why. */
int32_t shma_lock_enter(shma_lock *lock, int32_t mode, int32_t manner);

/* Try to take the flock, without waiting. -ECANCELED: a waiter stands at the gate. */
int32_t shma_lock_attempt(shma_lock *lock, int32_t mode);

/* ---- spin.c --------------------------------------------------------------------- */

/* The flock was busy: try again for up to 50 us, where that is likely to help. */
int32_t shma_spin(shma_lock *lock, int32_t mode);

/* How long holds have lately lasted, ns; a hint. The caller has checked the object's size just now. */
uint32_t shma_held_lately(const shma_lock *lock);

/* The OFD gives back the lock that it had for so long, ns. Call it before the mark is removed. */
void shma_spin_learn(shma_lock *lock, int64_t lasted);

/* ---- gate.c --------------------------------------------------------------------- */

/* Whether a waiter seems to stand at the gate. */
int32_t shma_gate_is_taken(shma_lock *lock);

/*
 * The kernel has granted `mode` to a waiter: its turn begins, in which it may try the flock past
 * the gate. `lasts` tells whether it may at that time, ns, in that mode; the caller has checked the
 * object's size just now, and does not spin.
 */
void shma_turn_begins(shma_lock *lock, int32_t mode);
int32_t shma_turn_lasts(const shma_lock *lock, int32_t mode, int64_t time);

/* Take the gate, waiting or not. -EWOULDBLOCK, -EINTR: it was not taken. */
int32_t shma_gate_enter(shma_lock *lock, int32_t wait);

/* Leave it, if we have it. */
void shma_gate_leave(shma_lock *lock);

/*
 * Wait for the flock, through the gate. 0: granted; leave the gate. -EINTR: not granted yet,
 * call again; the place at the gate is kept. Have it interrupted every SHMA_GATE_PATIENCE_NS.
 */
int32_t shma_gate_wait(shma_lock *lock, int32_t mode);

/*
 * PATIENCE: how often the waiters in the queue check whether the one at the gate is asleep.
 * CHANCE: how long they must have seen the flock free before they pass it, as it may be awake
 * and wait for a processor. Together they limit how long a sleeper delays the next waiter.
 */
enum { SHMA_GATE_PATIENCE_NS = 20000000, SHMA_GATE_CHANCE_NS = 40000000 };

/*
 * Polling, for a process without a signal that could interrupt a blocked flock: look at once,
 * after FIRST, and then twice as late each time, up to LAST. So the end of a short hold is
 * noticed soon, and that of a long one after LAST at most, with 200 looks a second. Zeroed, it
 * begins.
 */
enum { SHMA_POLL_FIRST_NS = 50000, SHMA_POLL_LAST_NS = 5000000 };

typedef struct {
    int64_t pause;  /* until the next look, ns */
    int64_t queued; /* since the last look for a sleeper at the gate, ns; about */
} shma_poll;

/*
 * Look once for the flock, through the gate. 0: granted; leave the gate. -EWOULDBLOCK: look
 * again after `pause`; the place at the gate is kept. Never waits.
 */
int32_t shma_gate_poll(shma_lock *lock, int32_t mode, shma_poll *poll);

/* ---- registry.c ----------------------------------------------------------------- */

/*
 * The registry's mutex is held across every fork, and around the birth and the death of every
 * descriptor that a child must not keep.
 */
void shma_registry_acquire(void);
void shma_registry_release(void);

/* Call it at least before the first use of the registry. */
int32_t shma_registry_init(void);

/* With the registry acquired. To remove a lock that was never added is fine. */
void shma_registry_add(shma_lock *lock);
void shma_registry_remove(shma_lock *lock);

/* ---- watch.c -------------------------------------------------------------------- */

/* In a fresh child, with the registry acquired: close every inotify instance. */
void shma_watch_forget(void);

/* Bit 0 of shma_control.watchers. */
enum { SHMA_WORD_LEFT = 1 };

/* Tell the watchers, who have left `word`, that a write has ended. */
void shma_watch_tell(shma_lock *lock, uint32_t word);

/*
 * Tell the watchers of a write that has ended. Call it after the lock was released or
 * downgraded, so that a watcher that wakes can take it.
 *
 * A watcher leaves word and then looks at the generation. We store the generation and then
 * look for the word, so one of us sees what the other did, if neither's load can overtake its
 * store. For that this load and the generation's store (shma_lock_unmark) are sequentially
 * consistent: on x86 that makes the store an xchg instead of a mov, and on ARM nothing is
 * different; a fence would cost more on both. (The system call in between promises no order.)
 * A watcher, which is not in a hurry, has a fence.
 */
static inline void shma_watchers_tell(shma_lock *lock)
{
    if (lock->untold) {
        uint32_t word = __atomic_load_n(&lock->control->watchers, __ATOMIC_SEQ_CST);

        lock->untold = 0;
        if (word & SHMA_WORD_LEFT)
            shma_watch_tell(lock, word);
    }
}

/* ---- waiter.c ------------------------------------------------------------------- */

/* In a fresh child: close what it inherited. The waiting thread is not there. */
void shma_waiter_forget(shma_lock *lock);

/* Interrupt, join and free the waiting thread. -EBUSY: it could not be stopped. */
int32_t shma_waiter_free(shma_lock *lock);

#endif
