/* Device memory: address space of its own that only emulated work can touch.
 *
 *   [guard] [ red | bytes asked for | slack ] [guard] [ ... ] [guard] ...
 *
 * Allocations start at multiples of 256, as cudaMalloc's do, and end at a guard; what is left
 * between (the slack, and the last bytes before the start) is checked after every kernel. Fresh
 * memory is 0xff, which is a NaN as a float. Addresses are not used again after cudaFree: freed
 * memory becomes a guard. While the host runs, all of it is locked: touching it faults. */
#ifndef IBOT_TESTS_CUDA_EMULATOR_MEMORY_H
#define IBOT_TESTS_CUDA_EMULATOR_MEMORY_H

#include <stddef.h>

#include <cuda_runtime.h>

namespace emulator
{
struct allocation {
    char *base;
    size_t bytes; /* asked for */
    char *pages;  /* what is mapped */
    size_t mapped_bytes;
    bool pinned; /* host memory of cudaMallocHost */
    int device;  /* of the others */
};

/* Sets up the fault handler; at the first call of the runtime. */
void memory_start(void);

/* The allocation that the address is in (or just at the end of); null: none. */
const allocation *find_device(const void *address);
const allocation *find_pinned(const void *address);
bool is_device_address(const void *address);

/* nullptr when `bytes` at `pointer` lie in one device allocation; else what is wrong. */
const char *device_range_error(const void *pointer, size_t bytes);

/* Emulated work may touch device memory while one of these lives. */
struct device_unlocked {
    device_unlocked();
    ~device_unlocked();
};

/* Fails when bytes beside an allocation have changed. */
void check_red_zones(void);
} // namespace emulator

#endif
