/* A few threads that sleep until there is a list to share. */
#define _GNU_SOURCE
#include "crew.h"

#include <errno.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>

struct ref_crew {
    unsigned threads;
    pthread_t *others;
    pthread_mutex_t lock;
    pthread_cond_t start, done;
    uint64_t round;
    unsigned running;
    int closing;
    /* The list being shared. */
    crew_piece piece;
    void *argument;
    const struct ref_desc *list;
    size_t count;
    int fixed;
    size_t step;
    _Atomic size_t next;
    _Atomic int error;
};

struct crew_member {
    struct ref_crew *crew;
    unsigned thread;
};

size_t ref_share(unsigned share, unsigned shares, const struct ref_desc *list, size_t count)
{
    uint64_t total = 0, before = 0;
    size_t i = 0;
    if (share >= shares)
        return count;
    for (size_t k = 0; share && k < count; k++)
        total += list[k].len;
    uint64_t start = total / shares * share;
    while (i < count && before < start)
        before += list[i++].len;
    return i;
}

static void crew_work(struct ref_crew *crew, unsigned thread)
{
    int error = 0;
    if (crew->fixed) {
        size_t first = ref_share(thread, crew->threads, crew->list, crew->count);
        size_t last = ref_share(thread + 1, crew->threads, crew->list, crew->count);
        error = crew->piece(crew->argument, thread, first, last);
    } else {
        for (;;) {
            size_t first = atomic_fetch_add_explicit(&crew->next, crew->step, memory_order_relaxed);
            if (first >= crew->count || error)
                break;
            size_t last = crew->count - first < crew->step ? crew->count : first + crew->step;
            error = crew->piece(crew->argument, thread, first, last);
        }
    }
    if (error)
        atomic_store(&crew->error, error);
}

static void *crew_main(void *argument)
{
    struct crew_member *member = argument;
    struct ref_crew *crew = member->crew;
    unsigned thread = member->thread;
    uint64_t seen = 0;
    free(member);
    pthread_mutex_lock(&crew->lock);
    for (;;) {
        while (crew->round == seen && !crew->closing)
            pthread_cond_wait(&crew->start, &crew->lock);
        if (crew->closing)
            break;
        seen = crew->round;
        pthread_mutex_unlock(&crew->lock);
        crew_work(crew, thread);
        pthread_mutex_lock(&crew->lock);
        if (--crew->running == 0)
            pthread_cond_signal(&crew->done);
    }
    pthread_mutex_unlock(&crew->lock);
    return NULL;
}

struct ref_crew *ref_crew_open(unsigned threads)
{
    struct ref_crew *crew = calloc(1, sizeof *crew);
    if (!crew)
        return NULL;
    crew->threads = 1;
    pthread_mutex_init(&crew->lock, NULL);
    pthread_cond_init(&crew->start, NULL);
    pthread_cond_init(&crew->done, NULL);
    crew->others = calloc(threads, sizeof *crew->others);
    for (unsigned thread = 1; crew->others && thread < threads; thread++) {
        struct crew_member *member = malloc(sizeof *member);
        if (!member)
            break;
        member->crew = crew, member->thread = thread;
        if (pthread_create(&crew->others[thread - 1], NULL, crew_main, member)) {
            free(member);
            break;
        }
        crew->threads++;
    }
    if (crew->threads == threads)
        return crew;
    ref_crew_close(crew);
    return NULL;
}

void ref_crew_close(struct ref_crew *crew)
{
    pthread_mutex_lock(&crew->lock);
    crew->closing = 1;
    pthread_cond_broadcast(&crew->start);
    pthread_mutex_unlock(&crew->lock);
    for (unsigned thread = 1; thread < crew->threads; thread++)
        pthread_join(crew->others[thread - 1], NULL);
    pthread_mutex_destroy(&crew->lock);
    pthread_cond_destroy(&crew->start);
    pthread_cond_destroy(&crew->done);
    free(crew->others);
    free(crew);
}

unsigned crew_threads(const struct ref_crew *crew)
{
    return crew->threads;
}

static int crew_run(struct ref_crew *crew, int fixed, crew_piece piece, void *argument, const struct ref_desc *list,
                    size_t count)
{
    if (crew->threads == 1)
        return piece(argument, 0, 0, count);
    uint64_t total = 0;
    for (size_t i = 0; i < count; i++)
        total += list[i].len;
    pthread_mutex_lock(&crew->lock);
    crew->piece = piece, crew->argument = argument, crew->list = list, crew->count = count, crew->fixed = fixed;
    crew->step = total ? (size_t)((double)count * (1 << 20) / (double)total) : count;
    if (crew->step == 0)
        crew->step = 1;
    atomic_store(&crew->next, 0);
    atomic_store(&crew->error, 0);
    crew->running = crew->threads - 1;
    crew->round++;
    pthread_cond_broadcast(&crew->start);
    pthread_mutex_unlock(&crew->lock);
    crew_work(crew, 0);
    pthread_mutex_lock(&crew->lock);
    while (crew->running)
        pthread_cond_wait(&crew->done, &crew->lock);
    pthread_mutex_unlock(&crew->lock);
    return atomic_load(&crew->error);
}

int crew_share(struct ref_crew *crew, crew_piece piece, void *argument, const struct ref_desc *list, size_t count)
{
    return crew_run(crew, 0, piece, argument, list, count);
}

int crew_each(struct ref_crew *crew, crew_piece piece, void *argument, const struct ref_desc *list, size_t count)
{
    return crew_run(crew, 1, piece, argument, list, count);
}
