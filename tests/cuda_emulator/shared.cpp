#include "tests/cuda_emulator/shared.h"

#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>

#include <emulator.h>

#include "tests/cuda_emulator/report.h"
#include "tests/cuda_emulator/sanitizer.h"

namespace emulator
{
enum { MOST_ARRAYS = 64, RED_BYTES = 128, DYNAMIC = 0, RED = 0xa5 };
static const size_t PAGE = 64 * 1024; /* of every system */
static const size_t SLOT_BYTES = 256 * 1024 + PAGE;

struct array {
    const void *key;
    const char *name;
    char *base;
    size_t bytes;
};

static char *slots; /* MOST_ARRAYS times [red zone, array, guard] */
static array arrays[MOST_ARRAYS];
static int n_arrays;
static bool may_exceed_default;

static char *slot_end(int i)
{
    return slots + (size_t)(i + 1) * SLOT_BYTES - PAGE;
}

static void reserve_slots()
{
    if (slots != nullptr)
        return;
    void *map = mmap(nullptr, MOST_ARRAYS * SLOT_BYTES, PROT_READ | PROT_WRITE,
                     MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (map == MAP_FAILED)
        fail("no address space for shared memory");
    slots = static_cast<char *>(map);
    for (int i = 0; i < MOST_ARRAYS; i++)
        if (mprotect(slot_end(i), PAGE, PROT_NONE) != 0)
            fail("no guard page for shared memory");
}

WITHOUT_ADDRESS_SANITIZER static bool is_red(const char *from, const char *to)
{
    for (const volatile char *at = from; at < to; at++)
        if (*at != (char)RED)
            return false;
    return true;
}

static void place(int i, const void *key, const char *name, size_t bytes, size_t alignment)
{
    char *end = slot_end(i);
    char *base = end - (bytes + alignment - 1) / alignment * alignment;

    arrays[i] = {key, name, base, bytes};
    ASAN_UNPOISON_MEMORY_REGION(base - RED_BYTES, (size_t)(end - base) + RED_BYTES);
    memset(base - RED_BYTES, RED, RED_BYTES);
    memset(base, 0xff, bytes);
    memset(base + bytes, RED, (size_t)(end - base) - bytes);
    ASAN_POISON_MEMORY_REGION(base - RED_BYTES, RED_BYTES);
    ASAN_POISON_MEMORY_REGION(base + bytes, (size_t)(end - base) - bytes);
}

void shared_begin_kernel(size_t dynamic_bytes, bool opted_in)
{
    may_exceed_default = opted_in;
    reserve_slots();
    n_arrays = 1;
    place(DYNAMIC, nullptr, "dynamic shared memory", dynamic_bytes, 16);
}

void shared_begin_block()
{
    for (int i = 0; i < n_arrays; i++)
        memset(arrays[i].base, 0xff, arrays[i].bytes);
}

void shared_end_block()
{
    for (int i = 0; i < n_arrays; i++) {
        const array &a = arrays[i];
        if (!is_red(a.base - RED_BYTES, a.base))
            fail("the block wrote before the start of shared array '%s' (%zu bytes)", a.name,
                 a.bytes);
        if (!is_red(a.base + a.bytes, slot_end(i)))
            fail("the block wrote past the end of shared array '%s' (%zu bytes)", a.name, a.bytes);
    }
}

void *shared_array(const void *key, const char *name, size_t bytes, size_t alignment)
{
    size_t declared = bytes;

    for (int i = 1; i < n_arrays; i++) {
        if (arrays[i].key == key)
            return arrays[i].base;
        declared += arrays[i].bytes;
    }
    if (n_arrays == MOST_ARRAYS)
        fail("more than %d shared arrays in a kernel", MOST_ARRAYS - 1);
    if (declared > SHARED_STATIC_MOST)
        fail("shared array '%s' brings the declared shared memory to %zu bytes; at most %d, more "
             "must be dynamic",
             name, declared, SHARED_STATIC_MOST);
    size_t most = may_exceed_default ? SHARED_OPTIN_MOST : SHARED_DEFAULT_MOST;
    if (declared + arrays[DYNAMIC].bytes > most)
        fail(
            "shared array '%s' brings shared memory to %zu declared and %zu dynamic bytes; a block "
            "has at most %zu%s",
            name, declared, arrays[DYNAMIC].bytes, most,
            may_exceed_default ? "" : " without cudaFuncSetAttribute");
    place(n_arrays, key, name, bytes, alignment);
    return arrays[n_arrays++].base;
}

void *dynamic_shared()
{
    return arrays[DYNAMIC].base;
}

void check_shared(const void *pointer, size_t bytes, size_t alignment, const char *what)
{
    const char *at = static_cast<const char *>(pointer);

    if ((uintptr_t)pointer % alignment != 0)
        fail("%s: address %p in shared memory is not a multiple of %zu", what, pointer, alignment);
    for (int i = 0; i < n_arrays; i++)
        if (at >= arrays[i].base && at + bytes <= arrays[i].base + arrays[i].bytes)
            return;
    fail("%s: %zu bytes at %p are not inside a shared array of the block", what, bytes, pointer);
}

bool shared_describe(const void *address, char *out, size_t bytes)
{
    const char *at = static_cast<const char *>(address);

    if (slots == nullptr || at < slots || at >= slots + MOST_ARRAYS * SLOT_BYTES)
        return false;
    int i = (int)((size_t)(at - slots) / SLOT_BYTES);
    if (i >= n_arrays)
        snprintf(out, bytes, "%p in shared memory, where no array is", address);
    else if (at >= arrays[i].base + arrays[i].bytes)
        snprintf(out, bytes, "%zu bytes past the end of shared array '%s' (%zu bytes)",
                 (size_t)(at - arrays[i].base) - arrays[i].bytes, arrays[i].name, arrays[i].bytes);
    else
        snprintf(out, bytes, "%zu bytes before the start of shared array '%s' (%zu bytes)",
                 (size_t)(arrays[i].base - at), arrays[i].name, arrays[i].bytes);
    return true;
}
} // namespace emulator
