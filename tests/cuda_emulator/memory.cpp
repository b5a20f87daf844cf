#include "tests/cuda_emulator/memory.h"

#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include <map>

#include "tests/cuda_emulator/block.h"
#include "tests/cuda_emulator/fiber.h"
#include "tests/cuda_emulator/report.h"
#include "tests/cuda_emulator/runtime.h"
#include "tests/cuda_emulator/sanitizer.h"
#include "tests/cuda_emulator/shared.h"

namespace emulator
{
static const size_t ARENA_BYTES = (size_t)1 << 40;
static const size_t ALIGNMENT = 256, RED_BYTES = 64, FILL_BYTES = 4 << 20, DIRECT_BYTES = 256 << 10;
static const char RED = (char)0xa5;

static char *arena, *arena_top;
static size_t page, allocated_bytes;
static int guard_file = -1, fill_file = -1;
static std::map<const char *, allocation> device_allocations, pinned_allocations; /* by base */
static int n_unlocked;

/* ------------------------------------------------------------------------------ maps */

static void *map_at(char *at, size_t bytes, int protection, int flags, int file, off_t offset)
{
    void *map = mmap(at, bytes, protection, flags | (at != nullptr ? MAP_FIXED : 0), file, offset);
    if (map == MAP_FAILED)
        fail("no memory for %zu bytes of emulated memory", bytes);
    return map;
}

/* Pages of an empty file: they fault whatever their protection is. */
static void map_guard(char *at, size_t bytes)
{
    map_at(at, bytes, n_unlocked > 0 ? PROT_READ | PROT_WRITE : PROT_NONE, MAP_SHARED, guard_file,
           at - arena);
}

static int make_file(const char *name)
{
    int file = memfd_create(name, MFD_CLOEXEC);
    if (file < 0)
        fail("memfd_create failed");
    return file;
}

/* Pages that read as 0xff; those of large allocations exist when they are written. */
static void map_filled(char *at, size_t bytes)
{
    if (bytes <= DIRECT_BYTES) {
        map_at(at, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1,
               0);
        memset(at, 0xff, bytes);
        return;
    }
    if (fill_file < 0) {
        fill_file = make_file("emulator_fill");
        if (ftruncate(fill_file, (off_t)FILL_BYTES) != 0)
            fail("ftruncate failed");
        void *whole = map_at(nullptr, FILL_BYTES, PROT_READ | PROT_WRITE, MAP_SHARED, fill_file, 0);
        memset(whole, 0xff, FILL_BYTES);
        munmap(whole, FILL_BYTES);
    }
    for (size_t done = 0; done < bytes; done += FILL_BYTES)
        map_at(at + done, bytes - done < FILL_BYTES ? bytes - done : FILL_BYTES,
               PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_NORESERVE, fill_file, 0);
}

static size_t round_up(size_t bytes, size_t unit)
{
    return (bytes + unit - 1) / unit * unit;
}

/* ------------------------------------------------------------------------------ faults */

static struct sigaction previous_segv, previous_bus;

static void describe_address(const void *address, char *out, size_t bytes)
{
    const char *at = static_cast<const char *>(address);

    if (shared_describe(address, out, bytes))
        return;
    if (!is_device_address(address)) {
        snprintf(out, bytes, "%p, which is not device memory", address);
        return;
    }
    auto next = device_allocations.upper_bound(at);
    const allocation *before = nullptr, *after = nullptr;
    if (next != device_allocations.end())
        after = &next->second;
    if (next != device_allocations.begin())
        before = &std::prev(next)->second;
    if (before != nullptr && at < before->base + before->bytes)
        snprintf(out, bytes, "%p, byte %zu of a device allocation of %zu", address,
                 (size_t)(at - before->base), before->bytes);
    else if (before != nullptr && at < before->pages + before->mapped_bytes + page)
        snprintf(out, bytes, "%p, %zu bytes past the end of a device allocation of %zu", address,
                 (size_t)(at - before->base) - before->bytes, before->bytes);
    else if (after != nullptr && at >= after->pages - page)
        snprintf(out, bytes, "%p, %zu bytes before the start of a device allocation of %zu",
                 address, (size_t)(after->base - at), after->bytes);
    else
        snprintf(out, bytes, "%p, in device memory that is free", address);
}

static void on_fault(int signal_number, siginfo_t *info, void *)
{
    char what[256];

    if (kernel_runs()) {
        if (fiber_is_guard(info->si_addr))
            fail("a thread used more stack than the emulator gives it");
        describe_address(info->si_addr, what, sizeof(what));
        fail("reads or writes %s", what);
    }
    if (is_device_address(info->si_addr)) {
        describe_address(info->si_addr, what, sizeof(what));
        fail("%s reads or writes %s", n_unlocked > 0 ? "a library call" : "the host", what);
    }
    const char *at = static_cast<const char *>(info->si_addr);
    for (const auto &known : pinned_allocations)
        if (at >= known.second.pages - page &&
            at < known.second.pages + known.second.mapped_bytes + page)
            fail("the host reads or writes %p, outside a pinned allocation of %zu bytes at %p",
                 info->si_addr, known.second.bytes, static_cast<void *>(known.second.base));
    sigaction(signal_number, signal_number == SIGSEGV ? &previous_segv : &previous_bus, nullptr);
}

/* Test frameworks set handlers of their own for every test: the last word is ours. */
static void claim_faults()
{
    struct sigaction action = {}, current = {};

    sigaction(SIGSEGV, nullptr, &current);
    if (current.sa_sigaction == on_fault)
        return;
    action.sa_sigaction = on_fault;
    action.sa_flags = SA_SIGINFO | SA_ONSTACK | SA_NODEFER;
    sigaction(SIGSEGV, &action, &previous_segv);
    sigaction(SIGBUS, &action, &previous_bus);
}

void memory_start()
{
    static bool started;
    static char signal_stack[64 * 1024];
    stack_t stack = {};

    claim_faults();
    if (started)
        return;
    started = true;
    page = (size_t)sysconf(_SC_PAGESIZE);
    guard_file = make_file("emulator_guard");
    arena = arena_top = static_cast<char *>(map_at(
        nullptr, ARENA_BYTES, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0));
    stack.ss_sp = signal_stack;
    stack.ss_size = sizeof(signal_stack);
    sigaltstack(&stack, nullptr);
    map_guard(arena_top, page);
    arena_top += page;
}

/* ------------------------------------------------------------------------------ looking up */

bool is_device_address(const void *address)
{
    return arena != nullptr && address >= arena && address < arena + ARENA_BYTES;
}

static const allocation *find(const std::map<const char *, allocation> &in, const void *address)
{
    auto next = in.upper_bound(static_cast<const char *>(address));
    if (next == in.begin())
        return nullptr;
    const allocation &a = std::prev(next)->second;
    return address <= a.base + a.bytes ? &a : nullptr;
}

const allocation *find_device(const void *address)
{
    return find(device_allocations, address);
}

const allocation *find_pinned(const void *address)
{
    return find(pinned_allocations, address);
}

const char *device_range_error(const void *pointer, size_t bytes)
{
    static char text[256];
    const allocation *a = find_device(pointer);

    if (pointer == nullptr)
        return "is null";
    if (!is_device_address(pointer))
        return find_pinned(pointer) != nullptr ? "is pinned host memory" : "is host memory";
    if (a == nullptr)
        return "is device memory that is free";
    size_t offset = (size_t)(static_cast<const char *>(pointer) - a->base);
    if (bytes <= a->bytes - offset)
        return nullptr;
    snprintf(text, sizeof(text), "ends %zu bytes past a device allocation of %zu bytes",
             bytes - (a->bytes - offset), a->bytes);
    return text;
}

/* ------------------------------------------------------------------------------ locks, red zones
 */

device_unlocked::device_unlocked()
{
    if (n_unlocked++ == 0 && mprotect(arena, (size_t)(arena_top - arena), PROT_READ | PROT_WRITE))
        fail("mprotect failed");
}

device_unlocked::~device_unlocked()
{
    if (--n_unlocked == 0 && mprotect(arena, (size_t)(arena_top - arena), PROT_NONE))
        fail("mprotect failed");
}

/* The red bytes before the start, and the slack. */
static void red_zones(const allocation &a, char *starts[2], char *ends[2])
{
    size_t before = (size_t)(a.base - a.pages);
    starts[0] = a.base - (before < RED_BYTES ? before : RED_BYTES);
    ends[0] = a.base;
    starts[1] = a.base + a.bytes;
    ends[1] = a.pages + a.mapped_bytes;
}

WITHOUT_ADDRESS_SANITIZER void check_red_zones()
{
    for (const auto &known : device_allocations) {
        char *starts[2], *ends[2];
        red_zones(known.second, starts, ends);
        for (int i = 0; i < 2; i++)
            for (const volatile char *at = starts[i]; at < ends[i]; at++)
                if (*at != RED)
                    fail("wrote %s a device allocation of %zu bytes",
                         i == 0 ? "before the start of" : "past the end of", known.second.bytes);
    }
}

static allocation place(char *pages, size_t mapped, size_t bytes, bool pinned)
{
    allocation a = {pages + mapped - round_up(bytes, ALIGNMENT),
                    bytes,
                    pages,
                    mapped,
                    pinned,
                    current_device()};
    char *starts[2], *ends[2];

    red_zones(a, starts, ends);
    for (int i = 0; i < 2; i++) {
        memset(starts[i], RED, (size_t)(ends[i] - starts[i]));
        ASAN_POISON_MEMORY_REGION(starts[i], (size_t)(ends[i] - starts[i]));
    }
    return a;
}
} // namespace emulator

using namespace emulator;

/* ------------------------------------------------------------------------------ calls */

static size_t memory_bytes()
{
    static const size_t bytes = (size_t)environment_number("IBOT_EMULATOR_MEMORY_MIB", 16 << 10)
                                << 20;
    return bytes;
}

cudaError_t cudaMalloc(void **pointer, size_t bytes)
{
    runtime_lock lock;

    if (pointer == nullptr)
        return refuse(cudaErrorInvalidValue, "cudaMalloc: nowhere to put the address");
    if (cudaError_t error = forbid_in_capture("cudaMalloc"))
        return error;
    *pointer = nullptr;
    if (bytes == 0)
        return cudaSuccess;
    if (bytes > memory_bytes() - allocated_bytes)
        return remember(cudaErrorMemoryAllocation);
    size_t mapped = round_up(round_up(bytes, ALIGNMENT), page);
    if (arena_top + mapped + page > arena + ARENA_BYTES)
        fail("the emulator's addresses are used up");
    device_unlocked unlocked;
    map_filled(arena_top, mapped);
    allocation a = place(arena_top, mapped, bytes, false);
    map_guard(arena_top + mapped, page);
    arena_top += mapped + page;
    allocated_bytes += bytes;
    device_allocations[a.base] = a;
    *pointer = a.base;
    return cudaSuccess;
}

cudaError_t cudaFree(void *pointer)
{
    runtime_lock lock;

    if (pointer == nullptr)
        return cudaSuccess;
    if (cudaError_t error = forbid_in_capture("cudaFree"))
        return error;
    finish_all(); /* work in flight may use it */
    auto known = device_allocations.find(static_cast<char *>(pointer));
    if (known == device_allocations.end())
        return refuse(cudaErrorInvalidValue, "cudaFree(%p): %s", pointer,
                      find_device(pointer) != nullptr ? "inside an allocation, not its start"
                                                      : "not allocated (freed twice?)");
    allocation a = known->second;
    device_allocations.erase(known);
    allocated_bytes -= a.bytes;
    ASAN_UNPOISON_MEMORY_REGION(a.pages, a.mapped_bytes);
    map_guard(a.pages, a.mapped_bytes);
    return cudaSuccess;
}

cudaError_t cudaMallocHost(void **pointer, size_t bytes)
{
    runtime_lock lock;

    if (pointer == nullptr)
        return refuse(cudaErrorInvalidValue, "cudaMallocHost: nowhere to put the address");
    if (cudaError_t error = forbid_in_capture("cudaMallocHost"))
        return error;
    *pointer = nullptr;
    if (bytes == 0)
        return cudaSuccess;
    size_t mapped = round_up(round_up(bytes, ALIGNMENT), page);
    char *pages = static_cast<char *>(map_at(nullptr, mapped + 2 * page, PROT_NONE,
                                             MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0)) +
                  page;
    if (mprotect(pages, mapped, PROT_READ | PROT_WRITE) != 0)
        return remember(cudaErrorMemoryAllocation);
    allocation a = place(pages, mapped, bytes, true);
    memset(a.base, 0xff, bytes);
    pinned_allocations[a.base] = a;
    *pointer = a.base;
    return cudaSuccess;
}

cudaError_t cudaFreeHost(void *pointer)
{
    runtime_lock lock;

    if (pointer == nullptr)
        return cudaSuccess;
    if (cudaError_t error = forbid_in_capture("cudaFreeHost"))
        return error;
    finish_all();
    auto known = pinned_allocations.find(static_cast<char *>(pointer));
    if (known == pinned_allocations.end())
        return refuse(cudaErrorInvalidValue, "cudaFreeHost(%p): not of cudaMallocHost", pointer);
    const allocation a = known->second;
    char *starts[2], *ends[2];
    red_zones(a, starts, ends);
    ASAN_UNPOISON_MEMORY_REGION(a.pages, a.mapped_bytes);
    for (int i = 0; i < 2; i++)
        for (const char *at = starts[i]; at < ends[i]; at++)
            if (*at != RED)
                fail("somebody wrote %s a pinned allocation of %zu bytes",
                     i == 0 ? "before the start of" : "past the end of", a.bytes);
    pinned_allocations.erase(known);
    munmap(a.pages - page, a.mapped_bytes + 2 * page);
    return cudaSuccess;
}

cudaError_t cudaMemGetInfo(size_t *free_bytes, size_t *total_bytes)
{
    runtime_lock lock;

    *total_bytes = memory_bytes();
    *free_bytes = memory_bytes() - allocated_bytes;
    return cudaSuccess;
}

cudaError_t cudaPointerGetAttributes(struct cudaPointerAttributes *attributes, const void *pointer)
{
    runtime_lock lock;
    void *address = const_cast<void *>(pointer);

    *attributes = {cudaMemoryTypeUnregistered, 0, nullptr, nullptr};
    if (find_device(pointer) != nullptr)
        *attributes = {cudaMemoryTypeDevice, find_device(pointer)->device, address, nullptr};
    else if (find_pinned(pointer) != nullptr)
        *attributes = {cudaMemoryTypeHost, 0, address, address};
    return cudaSuccess;
}
