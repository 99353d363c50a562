/* Copies through the kernel: batched process_vm_readv and process_vm_writev. */
#define _GNU_SOURCE
#include "reference.h"

#include <errno.h>
#include <sys/uio.h>

#include "crew.h"

enum { PIECES = 1024 };

struct kernel_job {
    int op;
    pid_t pid;
    uint8_t *local;
    uint64_t remote;
    const struct ref_desc *list;
};

static int kernel_piece(void *argument, unsigned thread, size_t first, size_t last)
{
    const struct kernel_job *job = argument;
    struct iovec ours[PIECES], theirs[PIECES];
    (void)thread;
    while (first < last) {
        size_t pieces = 0;
        uint64_t bytes = 0;
        for (; first < last && pieces < PIECES && bytes + job->list[first].len <= 1u << 30; first++, pieces++) {
            const struct ref_desc *d = &job->list[first];
            ours[pieces] = (struct iovec){job->local + d->local, d->len};
            theirs[pieces] = (struct iovec){(void *)(uintptr_t)(job->remote + d->remote), d->len};
            bytes += d->len;
        }
        if (!pieces)
            return EINVAL; /* one descriptor of more than 1 GiB */
        ssize_t moved = job->op == REF_READ ? process_vm_readv(job->pid, ours, pieces, theirs, pieces, 0)
                                            : process_vm_writev(job->pid, ours, pieces, theirs, pieces, 0);
        if (moved < 0)
            return errno;
        if ((uint64_t)moved != bytes)
            return EFAULT;
    }
    return 0;
}

int ref_cma(struct ref_crew *crew, int op, pid_t pid, void *local, uint64_t remote, const struct ref_desc *list,
            size_t count)
{
    struct kernel_job job = {op, pid, local, remote, list};
    return crew_share(crew, kernel_piece, &job, list, count);
}
