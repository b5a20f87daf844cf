/* Working memory of one thread: grows, is kept, and starts at a cache line. What is in it does not
 * survive a reservation. */
#ifndef IBOT_OPS_PIXELS_SCRATCH_H
#define IBOT_OPS_PIXELS_SCRATCH_H

#include <stddef.h>

#include "proto/base/memory.h"

/* Zeroed is valid and empty. */
struct scratch {
    void *memory;
    size_t n_bytes;
};

static inline enum status scratch_reserve(struct scratch *scratch, size_t n_bytes, const char *what)
{
    if (n_bytes <= scratch->n_bytes)
        return STATUS_OK;
    memory_free(scratch->memory);
    scratch->memory = NULL;
    scratch->n_bytes = 0;
    TRY(memory_alloc(&scratch->memory, n_bytes, 1, what));
    scratch->n_bytes = n_bytes;
    return STATUS_OK;
}

static inline void scratch_release(struct scratch *scratch)
{
    memory_free(scratch->memory);
    scratch->memory = NULL;
    scratch->n_bytes = 0;
}

#endif
