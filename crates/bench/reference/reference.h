/* The reference: the least work that each way of moving bytes allows, in plain C loops.
 *
 * It is what the engine is measured against, so it shares no code with it: no leases, fences, checks or bookkeeping.
 * A call moves `count` descriptors, in order, with the crew's threads, and returns 0 or an errno.
 */
#ifndef ROPEWAY_REFERENCE_H
#define ROPEWAY_REFERENCE_H

#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

/* Offsets from the start of the local and the remote pool, and bytes. */
struct ref_desc {
    uint64_t local, remote, len;
};

/* READ moves remote to local, WRITE local to remote. */
enum ref_op { REF_READ = 0, REF_WRITE = 1 };

/* Plain: the C library's memcpy. Streaming: stores that go past the caches (x86-64; elsewhere the same as plain). */
enum ref_routine { REF_PLAIN = 0, REF_STREAMING = 1 };

/* Threads that share a list of descriptors: the caller and `threads - 1` others, which sleep between calls. */
struct ref_crew;
struct ref_crew *ref_crew_open(unsigned threads);
void ref_crew_close(struct ref_crew *crew);

/* Copies within this process' address space. */
int ref_copy(struct ref_crew *crew, int op, int routine, void *local, void *remote, const struct ref_desc *list,
             size_t count);

/* Copies through the kernel from or to another process, 1,024 pieces a call. */
int ref_cma(struct ref_crew *crew, int op, pid_t pid, void *local, uint64_t remote, const struct ref_desc *list,
            size_t count);

/* Client side of the sockets: one connection per thread of the crew. READ: a request, then the bytes as one stream.
 * WRITE: a request and the bytes as one stream, then an acknowledgement. */
int ref_stream(struct ref_crew *crew, int op, const int *sockets, void *local, const struct ref_desc *list,
               size_t count);

/* Server side: answers requests on one socket until the client closes it. Share `share` of `shares` of the list. */
int ref_stream_serve(int socket, unsigned share, unsigned shares, void *pool, const struct ref_desc *list,
                     size_t count);

/* No delays, and cubic where it is allowed: bbr paces even a loopback. A refusal costs speed only. */
void ref_stream_tune(int socket);

/* Where share `share` of `shares` of a list starts: an equal part of the bytes, cut between descriptors. */
size_t ref_share(unsigned share, unsigned shares, const struct ref_desc *list, size_t count);

/* Blocking ping-pong of 8 bytes; `out[i]` is the i-th round trip in ns. */
int ref_ping(int socket, uint64_t *out, size_t rounds);
int ref_pong(int socket);

/* Round trips in ns between this thread and another one. */
enum ref_wake { REF_WAKE_SPIN = 0, REF_WAKE_FUTEX = 1, REF_WAKE_EVENTFD = 2 };
int ref_wake(int how, uint64_t *out, size_t rounds);

#endif
