/* Checked allocation over aligned_alloc and realloc. */
#include "proto/base/memory.h"

#include <stdint.h>
#include <stdlib.h>
#include <string.h>

enum status memory_alloc_unset(void *out, size_t count, size_t size, const char *what)
{
    size_t bytes;

    if (memory_multiply_overflows(count, size, &bytes) || bytes > PTRDIFF_MAX - MEMORY_ALIGNMENT)
        FAIL(STATUS_NO_MEMORY, "%s: %zu elements of %zu bytes do not fit an address space", what,
             count, size);
    bytes = (bytes + MEMORY_ALIGNMENT) / MEMORY_ALIGNMENT * MEMORY_ALIGNMENT;
    void *pointer = aligned_alloc(MEMORY_ALIGNMENT, bytes);
    if (pointer == NULL)
        FAIL(STATUS_NO_MEMORY, "%s: no memory for %zu bytes", what, bytes);
    *(void **)out = pointer;
    return STATUS_OK;
}

enum status memory_alloc(void *out, size_t count, size_t size, const char *what)
{
    TRY(memory_alloc_unset(out, count, size, what));
    memset(*(void **)out, 0, count * size);
    return STATUS_OK;
}

enum status memory_grow(void *array, size_t *capacity, size_t needed, size_t size, const char *what)
{
    if (needed <= *capacity)
        return STATUS_OK;
    size_t wanted = *capacity < 8 ? 8 : *capacity;
    while (wanted < needed) {
        if (wanted > SIZE_MAX / 2)
            FAIL(STATUS_NO_MEMORY, "%s: %zu elements do not fit an address space", what, needed);
        wanted *= 2;
    }
    size_t bytes;
    if (memory_multiply_overflows(wanted, size, &bytes))
        FAIL(STATUS_NO_MEMORY, "%s: %zu elements do not fit an address space", what, wanted);
    char *grown = realloc(*(void **)array, bytes);
    if (grown == NULL)
        FAIL(STATUS_NO_MEMORY, "%s: no memory for %zu bytes", what, bytes);
    memset(grown + *capacity * size, 0, bytes - *capacity * size);
    *(void **)array = grown;
    *capacity = wanted;
    return STATUS_OK;
}

enum status memory_strdup(char **out, const char *text)
{
    char *copy = strdup(text);
    if (copy == NULL)
        FAIL(STATUS_NO_MEMORY, "no memory for a string of %zu bytes", strlen(text));
    *out = copy;
    return STATUS_OK;
}

void memory_free(void *pointer)
{
    free(pointer);
}
