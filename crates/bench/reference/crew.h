/* Inside the reference: how the threads of a crew share a list. */
#ifndef ROPEWAY_REFERENCE_CREW_H
#define ROPEWAY_REFERENCE_CREW_H

#include "reference.h"

/* Moves descriptors first..last on one thread. */
typedef int (*crew_piece)(void *argument, unsigned thread, size_t first, size_t last);

/* Threads take pieces of about 1 MiB until the list is done: a thread that the scheduler held up holds up no other. */
int crew_share(struct ref_crew *crew, crew_piece piece, void *argument, const struct ref_desc *list, size_t count);

/* Every thread does its own fixed share, cut by `ref_share`. */
int crew_each(struct ref_crew *crew, crew_piece piece, void *argument, const struct ref_desc *list, size_t count);

unsigned crew_threads(const struct ref_crew *crew);

#endif
