/* Copies within one address space: memcpy or streaming stores, shared by the threads of a crew. */
#define _GNU_SOURCE
#include "reference.h"

#include <errno.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

#include "crew.h"

#if defined(__x86_64__)
#include <emmintrin.h>

static void copy_streaming(uint8_t *to, const uint8_t *from, size_t len)
{
    size_t head = (size_t)(-(uintptr_t)to & 63);
    if (head > len)
        head = len;
    memcpy(to, from, head);
    to += head, from += head, len -= head;
    for (; len >= 64; to += 64, from += 64, len -= 64) {
        __m128i a = _mm_loadu_si128((const __m128i *)from);
        __m128i b = _mm_loadu_si128((const __m128i *)(from + 16));
        __m128i c = _mm_loadu_si128((const __m128i *)(from + 32));
        __m128i d = _mm_loadu_si128((const __m128i *)(from + 48));
        _mm_stream_si128((__m128i *)to, a);
        _mm_stream_si128((__m128i *)(to + 16), b);
        _mm_stream_si128((__m128i *)(to + 32), c);
        _mm_stream_si128((__m128i *)(to + 48), d);
    }
    memcpy(to, from, len);
}

static void copy_fence(void)
{
    _mm_sfence();
}
#else
static void copy_streaming(uint8_t *to, const uint8_t *from, size_t len)
{
    memcpy(to, from, len);
}

static void copy_fence(void)
{
}
#endif

struct copy_job {
    int op, routine;
    uint8_t *local, *remote;
    const struct ref_desc *list;
};

static int copy_piece(void *argument, unsigned thread, size_t first, size_t last)
{
    const struct copy_job *job = argument;
    (void)thread;
    for (size_t i = first; i < last; i++) {
        const struct ref_desc *d = &job->list[i];
        uint8_t *local = job->local + d->local, *remote = job->remote + d->remote;
        uint8_t *to = job->op == REF_READ ? local : remote;
        const uint8_t *from = job->op == REF_READ ? remote : local;
        if (job->routine == REF_STREAMING)
            copy_streaming(to, from, d->len);
        else
            memcpy(to, from, d->len);
    }
    if (job->routine == REF_STREAMING)
        copy_fence();
    return 0;
}

int ref_copy(struct ref_crew *crew, int op, int routine, void *local, void *remote, const struct ref_desc *list,
             size_t count)
{
    struct copy_job job = {op, routine, local, remote, list};
    return crew_share(crew, copy_piece, &job, list, count);
}
