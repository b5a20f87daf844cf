/* Checked allocation. Sizes are products of counts, so overflow is checked in one place. */
#ifndef IBOT_PROTO_BASE_MEMORY_H
#define IBOT_PROTO_BASE_MEMORY_H

#include <stddef.h>

#include "proto/base/status.h"

#ifdef __cplusplus
extern "C" {
#endif

enum { MEMORY_ALIGNMENT = 64 }; /* bytes: a cache line, and the widest vector register */

/* Zeroed memory for count elements of `size` bytes, aligned to MEMORY_ALIGNMENT; `what` names it
 * in the error text. count*size may be 0: *out is then a valid pointer all the same.
 * Ownership: the caller's, freed with memory_free. Errors: STATUS_NO_MEMORY. */
enum status memory_alloc(void *out, size_t count, size_t size, const char *what) IBOT_WARN_UNUSED;

/* The same, but what is in it is undefined: for large blocks that are written as a whole at once.
 */
enum status memory_alloc_unset(void *out, size_t count, size_t size,
                               const char *what) IBOT_WARN_UNUSED;

/* Grows an array to hold at least `needed` elements (doubling), keeping its content; new elements
 * are zeroed. `array` points to the array pointer. Not aligned beyond malloc. */
enum status memory_grow(void *array, size_t *capacity, size_t needed, size_t size,
                        const char *what) IBOT_WARN_UNUSED;

/* A copy of a string. */
enum status memory_strdup(char **out, const char *text) IBOT_WARN_UNUSED;

/* Frees what the functions above made; NULL is fine. */
void memory_free(void *pointer);

/* True when a*b does not fit size_t; otherwise *product is set. */
static inline bool memory_multiply_overflows(size_t a, size_t b, size_t *product)
{
    return __builtin_mul_overflow(a, b, product);
}

#ifdef __cplusplus
}
#endif

#endif
