/*
 * The baseline of scenario_handover: flock(2) and nothing else, blocking, in C.
 *
 *     handover LOCK_FILE BOARD_FILE CPU ME SECONDS
 *
 * Does what Rally in scenario_handover.py does, step by step, with the same board, and
 * prints the nanoseconds of each hand-over that it received.
 */
#define _GNU_SOURCE
#include <fcntl.h>
#include <sched.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

enum { LAST, RELEASED, ASKED, OVER = 4, CELLS = 64 }; /* ASKED and OVER: one per side */
enum { POLL_NS = 50000, SETTLE_NS = 1000000 };        /* as in scenario_handover.py */

static volatile int64_t *board;

static int64_t now(void)
{
    struct timespec time;

    (void)clock_gettime(CLOCK_MONOTONIC, &time);
    return (int64_t)time.tv_sec * 1000000000 + time.tv_nsec;
}

static void pause_for(long nanoseconds)
{
    struct timespec time = {.tv_nsec = nanoseconds};

    (void)nanosleep(&time, NULL);
}

static void put(volatile int64_t *cell, int64_t value)
{
    __atomic_store_n(cell, value, __ATOMIC_SEQ_CST);
}

static int stay_on(int cpu)
{
    cpu_set_t set;

    CPU_ZERO(&set);
    CPU_SET((size_t)cpu, &set);
    return sched_setaffinity(0, sizeof set, &set);
}

int main(int count, char **words)
{
    int lock, file, me, other;
    int64_t deadline, received;

    if (count != 6 || stay_on(atoi(words[3])) < 0)
        return 2;
    lock = open(words[1], O_RDWR | O_CREAT | O_CLOEXEC, 0600);
    file = open(words[2], O_RDWR | O_CLOEXEC);
    if (lock < 0 || file < 0)
        return 3;
    board = mmap(NULL, CELLS * sizeof *board, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
    if (board == MAP_FAILED)
        return 4;
    me = atoi(words[4]);
    other = 1 - me;
    deadline = now() + (int64_t)(atof(words[5]) * 1e9);

    for (;;) {
        while (board[LAST] != other && !board[OVER + other])
            pause_for(POLL_NS);
        if (board[OVER + other] || now() >= deadline)
            break;
        put(&board[ASKED + me], 1);
        if (flock(lock, LOCK_EX) < 0)
            return 5;
        received = now();
        if (board[RELEASED])
            (void)printf("%lld\n", (long long)(received - board[RELEASED]));
        put(&board[ASKED + me], 0);
        put(&board[LAST], me);
        while (!board[ASKED + other] && !board[OVER + other])
            pause_for(POLL_NS);
        pause_for(SETTLE_NS);
        put(&board[RELEASED], now());
        if (flock(lock, LOCK_UN) < 0)
            return 6;
    }
    put(&board[OVER + me], 1);
    return 0;
}
