/* Round trips: blocking ping-pong over a socket, and ways to wake another thread. */
#define _GNU_SOURCE
#include "reference.h"

#include <errno.h>
#include <linux/futex.h>
#include <pthread.h>
#include <stdatomic.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

static uint64_t now_ns(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
}

int ref_ping(int socket, uint64_t *out, size_t rounds)
{
    uint64_t word = 0;
    for (size_t i = 0; i < rounds; i++) {
        uint64_t start = now_ns();
        if (send(socket, &word, sizeof word, MSG_NOSIGNAL) != sizeof word)
            return errno;
        if (recv(socket, &word, sizeof word, MSG_WAITALL) != sizeof word)
            return errno ? errno : ECONNRESET;
        out[i] = now_ns() - start;
    }
    return 0;
}

int ref_pong(int socket)
{
    uint64_t word;
    for (;;) {
        ssize_t got = recv(socket, &word, sizeof word, MSG_WAITALL);
        if (got != sizeof word)
            return got < 0 ? errno : 0;
        if (send(socket, &word, sizeof word, MSG_NOSIGNAL) != sizeof word)
            return errno;
    }
}

/* Each side waits for its own word (or descriptor) and sets the other's. */
struct wake_pair {
    int how;
    size_t rounds;
    _Alignas(128) _Atomic uint32_t there;
    _Alignas(128) _Atomic uint32_t back;
    int events[2];
};

static void signal_side(struct wake_pair *pair, int back, uint32_t value)
{
    _Atomic uint32_t *word = back ? &pair->back : &pair->there;
    uint64_t one = 1;
    if (pair->how == REF_WAKE_EVENTFD) {
        if (write(pair->events[back], &one, sizeof one) < 0)
            return;
    } else {
        atomic_store(word, value);
        if (pair->how == REF_WAKE_FUTEX)
            syscall(SYS_futex, word, FUTEX_WAKE_PRIVATE, 1, NULL, NULL, 0);
    }
}

static void wait_side(struct wake_pair *pair, int back, uint32_t value)
{
    _Atomic uint32_t *word = back ? &pair->back : &pair->there;
    uint64_t count;
    if (pair->how == REF_WAKE_EVENTFD) {
        if (read(pair->events[back], &count, sizeof count) < 0)
            return;
        return;
    }
    while (atomic_load(word) != value)
        if (pair->how == REF_WAKE_FUTEX)
            syscall(SYS_futex, word, FUTEX_WAIT_PRIVATE, value - 1, NULL, NULL, 0);
}

static void *wake_other(void *argument)
{
    struct wake_pair *pair = argument;
    for (size_t i = 1; i <= pair->rounds; i++) {
        wait_side(pair, 0, (uint32_t)i);
        signal_side(pair, 1, (uint32_t)i);
    }
    return NULL;
}

int ref_wake(int how, uint64_t *out, size_t rounds)
{
    struct wake_pair pair = {.how = how, .rounds = rounds, .events = {-1, -1}};
    pthread_t other;
    for (int i = 0; i < 2; i++)
        if ((pair.events[i] = eventfd(0, EFD_CLOEXEC)) < 0)
            return errno;
    int error = pthread_create(&other, NULL, wake_other, &pair);
    for (size_t i = 1; !error && i <= rounds; i++) {
        uint64_t start = now_ns();
        signal_side(&pair, 0, (uint32_t)i);
        wait_side(&pair, 1, (uint32_t)i);
        out[i - 1] = now_ns() - start;
    }
    if (!error)
        pthread_join(other, NULL);
    close(pair.events[0]);
    close(pair.events[1]);
    return error;
}
