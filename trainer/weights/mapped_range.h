/* Pages of a mapped file that have been read and will not be again soon: handing them back keeps a
 * file larger than memory from filling it. They are clean, and come back from the file if touched.
 */
#ifndef IBOT_TRAINER_WEIGHTS_MAPPED_RANGE_H
#define IBOT_TRAINER_WEIGHTS_MAPPED_RANGE_H

#include <stddef.h>
#include <stdint.h>
#include <sys/mman.h>
#include <unistd.h>

enum { MAPPED_RANGE_LEAST_BYTES = 1 << 20 }; /* smaller ones are not worth the call */

static inline void mapped_range_forget(const void *bytes, size_t n_bytes)
{
    uintptr_t page = (uintptr_t)sysconf(_SC_PAGESIZE);
    uintptr_t first = ((uintptr_t)bytes + page - 1) / page * page;
    uintptr_t end = ((uintptr_t)bytes + n_bytes) / page * page;

    if (n_bytes >= MAPPED_RANGE_LEAST_BYTES && end > first)
        (void)madvise((void *)first, end - first, MADV_DONTNEED);
}

#endif
