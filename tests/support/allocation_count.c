/* Replaces the malloc family of the program it is linked into. */
#include "tests/support/allocation_count.h"

#include <stddef.h>
#include <stdint.h>

static long n_allocations;

long allocation_count(void)
{
    return __atomic_load_n(&n_allocations, __ATOMIC_RELAXED);
}

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
bool allocation_count_works(void)
{
    return false;
}
#else
bool allocation_count_works(void)
{
    return true;
}

void *__libc_malloc(size_t bytes);
void *__libc_calloc(size_t n, size_t bytes);
void *__libc_realloc(void *pointer, size_t bytes);
void *__libc_memalign(size_t alignment, size_t bytes);

void *malloc(size_t bytes);
void *calloc(size_t n, size_t bytes);
void *realloc(void *pointer, size_t bytes);
void *aligned_alloc(size_t alignment, size_t bytes);
int posix_memalign(void **out, size_t alignment, size_t bytes);

extern const char __executable_start, etext; /* of the linker: the code of this program */

static void count_if_ours(const void *caller)
{
    if ((uintptr_t)caller >= (uintptr_t)&__executable_start &&
        (uintptr_t)caller < (uintptr_t)&etext)
        __atomic_add_fetch(&n_allocations, 1, __ATOMIC_RELAXED);
}

void *malloc(size_t bytes)
{
    count_if_ours(__builtin_return_address(0));
    return __libc_malloc(bytes);
}

void *calloc(size_t n, size_t bytes)
{
    count_if_ours(__builtin_return_address(0));
    return __libc_calloc(n, bytes);
}

void *realloc(void *pointer, size_t bytes)
{
    count_if_ours(__builtin_return_address(0));
    return __libc_realloc(pointer, bytes);
}

void *aligned_alloc(size_t alignment, size_t bytes)
{
    count_if_ours(__builtin_return_address(0));
    return __libc_memalign(alignment, bytes);
}

int posix_memalign(void **out, size_t alignment, size_t bytes)
{
    count_if_ours(__builtin_return_address(0));
    *out = __libc_memalign(alignment, bytes);
    return *out == NULL ? 12 : 0;
}
#endif
