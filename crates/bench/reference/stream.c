/* Sockets: one request, one stream of bytes scattered and gathered with iovecs straight from and into the pools. */
#define _GNU_SOURCE
#include "reference.h"

#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/uio.h>

#include "crew.h"

/* About 1 MiB a call, whole: calls for all there is cost a third more CPU time for each byte. */
enum { PIECES = 1024, CALL_BYTES = 1 << 20 };

/* A request: which way, and how many descriptors from which one on. The lists are known to both sides. */
struct request {
    uint32_t op, reserved;
    uint64_t count;
};

static int transfer_all(int socket, int sending, void *data, size_t len)
{
    uint8_t *at = data;
    while (len) {
        ssize_t moved = sending ? send(socket, at, len, MSG_NOSIGNAL) : recv(socket, at, len, MSG_WAITALL);
        if (moved < 0 && errno == EINTR)
            continue;
        if (moved < 0)
            return errno;
        if (moved == 0)
            return ECONNRESET;
        at += moved, len -= (size_t)moved;
    }
    return 0;
}

void ref_stream_tune(int socket)
{
    int one = 1;
    (void)setsockopt(socket, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
    (void)setsockopt(socket, IPPROTO_TCP, TCP_CONGESTION, "cubic", 5);
}

/* Drops the first `moved` bytes of a vector. */
static void advance(struct iovec **vector, size_t *pieces, size_t moved)
{
    while (moved && moved >= (*vector)->iov_len) {
        moved -= (*vector)->iov_len;
        ++*vector, --*pieces;
    }
    if (moved) {
        (*vector)->iov_base = (uint8_t *)(*vector)->iov_base + moved;
        (*vector)->iov_len -= moved;
    }
}

static int stream_list(int socket, int sending, uint8_t *pool, int remote_side, const struct ref_desc *list,
                       size_t count)
{
    size_t next = 0;
    struct iovec pieces[PIECES];
    while (next < count) {
        size_t left = 0;
        uint64_t bytes = 0;
        for (; next < count && left < PIECES && (left == 0 || bytes + list[next].len <= CALL_BYTES); next++, left++) {
            uint64_t at = remote_side ? list[next].remote : list[next].local;
            pieces[left] = (struct iovec){pool + at, list[next].len};
            bytes += list[next].len;
        }
        struct msghdr message = {.msg_iov = pieces, .msg_iovlen = left};
        while (message.msg_iovlen) {
            ssize_t moved = sending ? sendmsg(socket, &message, MSG_NOSIGNAL) : recvmsg(socket, &message, MSG_WAITALL);
            if (moved < 0 && errno == EINTR)
                continue;
            if (moved < 0)
                return errno;
            if (moved == 0)
                return ECONNRESET;
            advance(&message.msg_iov, &message.msg_iovlen, (size_t)moved);
        }
    }
    return 0;
}

struct stream_job {
    int op;
    const int *sockets;
    uint8_t *local;
    const struct ref_desc *list;
};

static int stream_piece(void *argument, unsigned thread, size_t first, size_t last)
{
    const struct stream_job *job = argument;
    int socket = job->sockets[thread];
    struct request request = {.op = (uint32_t)job->op, .count = last - first};
    uint8_t ack;
    if (first == last)
        return 0;
    int error = transfer_all(socket, 1, &request, sizeof request);
    if (!error)
        error = stream_list(socket, job->op == REF_WRITE, job->local, 0, job->list + first, last - first);
    if (!error && job->op == REF_WRITE)
        error = transfer_all(socket, 0, &ack, 1);
    return error;
}

int ref_stream(struct ref_crew *crew, int op, const int *sockets, void *local, const struct ref_desc *list,
               size_t count)
{
    struct stream_job job = {op, sockets, local, list};
    return crew_each(crew, stream_piece, &job, list, count);
}

int ref_stream_serve(int socket, unsigned share, unsigned shares, void *pool, const struct ref_desc *list,
                     size_t count)
{
    size_t first = ref_share(share, shares, list, count), last = ref_share(share + 1, shares, list, count);
    for (;;) {
        struct request request;
        uint8_t ack = 1;
        int error = transfer_all(socket, 0, &request, sizeof request);
        if (error)
            return error == ECONNRESET ? 0 : error;
        if (request.count != last - first)
            return EPROTO;
        error = stream_list(socket, request.op == REF_READ, pool, 1, list + first, last - first);
        if (!error && request.op == REF_WRITE)
            error = transfer_all(socket, 1, &ack, 1);
        if (error)
            return error;
    }
}
