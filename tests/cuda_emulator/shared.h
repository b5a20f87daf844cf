/* The shared memory of the block that runs. Each array lies in an address range of its own, its end
 * at a guard page: a read or write past the end faults at once; one before the start is found when
 * the block ends (at once with the address sanitizer). */
#ifndef IBOT_TESTS_CUDA_EMULATOR_SHARED_H
#define IBOT_TESTS_CUDA_EMULATOR_SHARED_H

#include <stddef.h>

namespace emulator
{
enum {
    SHARED_STATIC_MOST = 48 * 1024,  /* what a kernel may declare */
    SHARED_DEFAULT_MOST = 48 * 1024, /* dynamic, when nobody asked for more */
    SHARED_OPTIN_MOST = 227 * 1024,
};

/* A kernel begins: forgets the arrays of the last one. `opted_in`: to more than 48 KiB. */
void shared_begin_kernel(size_t dynamic_bytes, bool opted_in);
/* A block begins: every byte 0xff, which is a NaN as a float. */
void shared_begin_block(void);
/* Fails when the bytes around an array have changed. */
void shared_end_block(void);
/* "12 bytes past the end of shared array 'tile' (128 bytes)" or false. */
bool shared_describe(const void *address, char *out, size_t bytes);
} // namespace emulator

#endif
