#include "tests/cuda_emulator/block.h"

#include <stdio.h>
#include <string.h>

#include <vector>

#include "tests/cuda_emulator/executed.h"
#include "tests/cuda_emulator/fiber.h"
#include "tests/cuda_emulator/report.h"
#include "tests/cuda_emulator/shared.h"

__thread uint3 threadIdx, blockIdx, blockDim, gridDim;

namespace emulator
{
struct place {
    const char *file;
    int line;
};

static bool same(const place &a, const place &b)
{
    return a.line == b.line && (a.file == b.file || strcmp(a.file, b.file) == 0);
}

/* A warp call on its way: lanes come, all read, all leave. */
struct exchange {
    warp_call call;
    unsigned mask, arrived;
    int key, n_to_read;
    size_t bytes;
    place at;
    exchange *next; /* of the warp, or of the free ones */
    alignas(16) char values[LANES * MOST_LANE_BYTES];
};

struct pending_copy {
    void *to;
    const void *from;
    size_t bytes;
};

enum thread_state { UNSTARTED, READY, AT_BARRIER, IN_WARP_CALL, DONE };

struct thread {
    context fiber;
    uint3 index;
    place at; /* where it waits */
    /* cp.async: copies begun, and how many of them each batch has */
    std::vector<pending_copy> copies;
    std::vector<size_t> batches;
};

static const char *const call_names[] = {
    "__syncwarp",       "__shfl_sync", "__shfl_xor_sync",     "__shfl_up_sync",
    "__shfl_down_sync", "a vote",      "a matrix instruction"};

struct warp {
    exchange *calls; /* that not all have left */
    unsigned there;  /* lanes: the block has them, and they have not left the kernel */
};

/* The block that runs. One kernel runs at a time: the runtime holds its lock. */
static const kernel_launch *running;
static context system_context;
static thread *threads;
static int n_threads, n_done, n_at_barrier;
static place barrier_place;
static uint16_t ready[MOST_THREADS];
static int n_ready, current = -1;
static uint8_t states[MOST_THREADS]; /* thread_state */
static warp warps[MOST_THREADS / LANES];
static exchange *free_exchanges;
static bool came_from_system;

bool kernel_runs()
{
    return running != nullptr;
}

void describe_place(char *out, size_t bytes)
{
    out[0] = '\0';
    if (running == nullptr)
        return;
    int n = snprintf(out, bytes, "kernel '%s', block (%u, %u, %u)", running->name, blockIdx.x,
                     blockIdx.y, blockIdx.z);
    if (current >= 0 && n > 0 && (size_t)n < bytes)
        n += snprintf(out + n, bytes - (size_t)n, ", thread (%u, %u, %u)", threadIdx.x, threadIdx.y,
                      threadIdx.z);
    if (n > 0 && (size_t)n < bytes)
        snprintf(out + n, bytes - (size_t)n, ": ");
}

/* ------------------------------------------------------------------------------ who goes on */

static void make_ready(int i)
{
    states[i] = READY;
    ready[n_ready++] = (uint16_t)i;
}

/* One of those that can go on, at random; -1: none. */
static int choose()
{
    if (n_ready == 0)
        return -1;
    uint32_t at = random_below((uint32_t)n_ready);
    int chosen = ready[at];
    ready[at] = ready[--n_ready];
    return chosen;
}

static void become(int i)
{
    current = i;
    threadIdx = threads[i].index;
}

/* Leaves the running fiber for another thread's, begun or not. */
static void go_to(context *from, int next, bool ends);

/* The running thread waits: others go on. Returns when it is ready again and chosen. */
static void wait_as(thread_state state, const place &at)
{
    int self = current, next = choose();
    thread &t = threads[self];

    states[self] = state;
    t.at = at;
    if (next >= 0)
        go_to(&t.fiber, next, false);
    else
        fiber_switch(&t.fiber, &system_context, false);
}

static void check_left();

/* The running thread leaves the kernel. Returns when the fiber is another thread, not begun yet. */
static void thread_ends()
{
    thread &t = threads[current];

    check_left();
    states[current] = DONE;
    warps[current / LANES].there &= ~(1u << lane());
    n_done++;
    int next = choose();
    if (next >= 0 && states[next] == UNSTARTED) {
        threads[next].fiber = t.fiber;
        t.fiber.stack = nullptr;
        states[next] = READY;
        become(next);
        return;
    }
    context *fiber = &t.fiber;
    if (next >= 0) {
        become(next);
        fiber_release(fiber);
        fiber_switch(fiber, &threads[next].fiber, true);
    } else {
        fiber_release(fiber);
        fiber_switch(fiber, &system_context, true);
    }
    fail("a thread that had ended went on");
}

/* What every fiber does: its thread, and then those not begun that it is given. */
static void fiber_main()
{
    fiber_entered(came_from_system ? &system_context : nullptr);
    came_from_system = false;
    for (;;) {
        running->body();
        thread_ends();
    }
}

static void go_to(context *from, int next, bool ends)
{
    thread &t = threads[next];

    if (states[next] == UNSTARTED)
        fiber_prepare(&t.fiber, fiber_main);
    states[next] = READY;
    become(next);
    fiber_switch(from, &t.fiber, ends);
}

/* ------------------------------------------------------------------------------ barriers */

void barrier(const char *file, int line)
{
    place at = {file, line};

    if (running == nullptr)
        fail("__syncthreads outside a kernel");
    if (n_done > 0)
        fail("divergent barrier: waits in __syncthreads at %s:%d, but %d of %d threads have left "
             "the "
             "kernel",
             file, line, n_done, n_threads);
    if (n_at_barrier > 0 && !same(at, barrier_place))
        fail("divergent barrier: waits in __syncthreads at %s:%d, but %d threads wait at %s:%d",
             file, line, n_at_barrier, barrier_place.file, barrier_place.line);
    barrier_place = at;
    if (++n_at_barrier < n_threads) {
        wait_as(AT_BARRIER, at);
        return;
    }
    n_at_barrier = 0;
    for (int i = 0; i < n_threads; i++)
        if (i != current)
            make_ready(i);
}

/* ------------------------------------------------------------------------------ warps */

int lane()
{
    return current % LANES;
}

static void check_mask(warp_call call, unsigned mask, const place &at)
{
    unsigned absent = mask & ~warps[current / LANES].there;

    if ((mask >> lane() & 1u) == 0)
        fail("%s at %s:%d: lane %d is not in the mask 0x%08x it names", call_names[call], at.file,
             at.line, lane(), mask);
    if (absent == 0)
        return;
    int i = __builtin_ctz(absent);
    if (current / LANES * LANES + i >= n_threads)
        fail("%s at %s:%d: the mask 0x%08x names lane %d, which a block of %d threads lacks",
             call_names[call], at.file, at.line, mask, i, n_threads);
    fail("%s at %s:%d: the mask 0x%08x names lane %d, which has left the kernel", call_names[call],
         at.file, at.line, mask, i);
}

/* The call that this lane takes part in: one that waits for it, or a new one. */
static exchange *join_call(warp_call call, unsigned mask, size_t bytes, int key, const place &at)
{
    exchange **list = &warps[current / LANES].calls;

    for (exchange *e = *list; e != nullptr; e = e->next) {
        if (e->arrived == e->mask || e->mask != mask)
            continue;
        if (e->call != call || e->bytes != bytes || e->key != key || !same(e->at, at))
            fail("divergent warp: %s at %s:%d, while lanes wait in %s at %s:%d", call_names[call],
                 at.file, at.line, call_names[e->call], e->at.file, e->at.line);
        return e;
    }
    exchange *e = free_exchanges;
    if (e != nullptr)
        free_exchanges = e->next;
    else
        e = new exchange;
    e->call = call;
    e->mask = mask;
    e->arrived = 0;
    e->key = key;
    e->n_to_read = __builtin_popcount(mask);
    e->bytes = bytes;
    e->at = at;
    e->next = *list;
    *list = e;
    if (mask != 0xffffffffu)
        memset(e->values, 0, bytes * LANES);
    return e;
}

static void leave_call(exchange *e)
{
    if (--e->n_to_read > 0)
        return;
    exchange **link = &warps[current / LANES].calls;
    while (*link != e)
        link = &(*link)->next;
    *link = e->next;
    e->next = free_exchanges;
    free_exchanges = e;
}

const void *warp_exchange(warp_call call, unsigned mask, const void *mine, size_t bytes, int key,
                          const char *file, int line)
{
    place at = {file, line};

    if (running == nullptr)
        fail("%s outside a kernel", call_names[call]);
    check_mask(call, mask, at);
    exchange *e = join_call(call, mask, bytes, key, at);
    if (bytes > 0)
        memcpy(e->values + bytes * (size_t)lane(), mine, bytes);
    e->arrived |= 1u << lane();
    if (e->arrived != mask) {
        wait_as(IN_WARP_CALL, at);
    } else {
        int first = current / LANES * LANES;
        for (unsigned others = mask & ~(1u << lane()); others != 0; others &= others - 1)
            make_ready(first + __builtin_ctz(others));
    }
    leave_call(e); /* nobody runs, and changes what it holds, before this thread has read */
    return e->values;
}

void bad_shuffle_width(warp_call call, int width, const char *file, int line)
{
    fail("%s at %s:%d: width %d is not a power of two up to 32", call_names[call], file, line,
         width);
}

void bad_shuffle_source(warp_call call, unsigned mask, int source, const char *file, int line)
{
    fail("%s at %s:%d: lane %d reads lane %d, which is not in the mask 0x%08x", call_names[call],
         file, line, lane(), source, mask);
}

/* A thread has left: does anybody wait for it? */
static void check_left()
{
    if (n_at_barrier > 0)
        fail(
            "divergent barrier: leaves the kernel, while %d threads wait in __syncthreads at %s:%d",
            n_at_barrier, barrier_place.file, barrier_place.line);
    for (const exchange *e = warps[current / LANES].calls; e != nullptr; e = e->next)
        if (e->arrived != e->mask && (e->mask >> lane() & 1u) != 0)
            fail("%s at %s:%d: leaves the kernel, but the mask 0x%08x names it",
                 call_names[e->call], e->at.file, e->at.line, e->mask);
}

/* ------------------------------------------------------------------------------ cp.async */

void copy_async_begin(void *to, const void *from, size_t bytes)
{
    thread &t = threads[current];

    if ((uintptr_t)from % bytes != 0)
        fail("cp.async: source %p is not aligned to %zu bytes", from, bytes);
    if (t.batches.empty())
        t.batches.push_back(0);
    t.copies.push_back({to, from, bytes});
    t.batches.back()++;
}

void copy_async_commit()
{
    thread &t = threads[current];

    if (t.batches.empty())
        t.batches.push_back(0);
    t.batches.push_back(0); /* the last batch is the one being filled */
}

void copy_async_wait(int most_pending_batches)
{
    thread &t = threads[current];
    size_t n_committed = t.batches.empty() ? 0 : t.batches.size() - 1;
    size_t n_due =
        n_committed > (size_t)most_pending_batches ? n_committed - (size_t)most_pending_batches : 0;
    size_t n_copies = 0;

    for (size_t i = 0; i < n_due; i++)
        n_copies += t.batches[i];
    for (size_t i = 0; i < n_copies; i++) {
        const pending_copy &copy = t.copies[i];
        if (copy.from != nullptr)
            memcpy(copy.to, copy.from, copy.bytes);
        else
            memset(copy.to, 0, copy.bytes);
    }
    t.copies.erase(t.copies.begin(), t.copies.begin() + (ptrdiff_t)n_copies);
    t.batches.erase(t.batches.begin(), t.batches.begin() + (ptrdiff_t)n_due);
}

/* ------------------------------------------------------------------------------ blocks */

/* Nobody can go on: says who waits where. */
[[noreturn]] static void report_deadlock()
{
    char text[512] = "";
    size_t used = 0;
    int n_told = 0;

    current = -1;
    for (int i = 0; i < n_threads && n_told < 3; i++) {
        const thread &t = threads[i];
        if (states[i] != IN_WARP_CALL && n_at_barrier == 0)
            continue;
        if (states[i] == DONE || used + 100 > sizeof(text))
            continue;
        used += (size_t)snprintf(text + used, sizeof(text) - used, "%sthread (%u, %u, %u) in %s:%d",
                                 n_told > 0 ? ", " : "", t.index.x, t.index.y, t.index.z, t.at.file,
                                 t.at.line);
        n_told++;
    }
    for (const warp &w : warps)
        for (const exchange *e = w.calls; e != nullptr; e = e->next)
            if (e->arrived != e->mask)
                fail("%s at %s:%d waits for ever: lanes 0x%08x of the mask 0x%08x did not come; %s",
                     call_names[e->call], e->at.file, e->at.line, e->mask & ~e->arrived, e->mask,
                     text);
    fail("%d of %d threads wait for ever in __syncthreads: %s", n_at_barrier, n_threads, text);
}

static void run_block(uint3 index)
{
    blockIdx = index;
    n_done = n_at_barrier = n_ready = 0;
    memset(states, UNSTARTED, (size_t)n_threads);
    for (int i = 0; i < n_threads; i++) {
        threads[i].copies.clear();
        threads[i].batches.clear();
        ready[n_ready++] = (uint16_t)i;
    }
    for (int first = 0; first < n_threads; first += LANES)
        warps[first / LANES].there =
            n_threads - first >= LANES ? 0xffffffffu : (1u << (n_threads - first)) - 1;
    shared_begin_block();
    came_from_system = true;
    go_to(&system_context, choose(), false);
    current = -1;
    if (n_done != n_threads)
        report_deadlock();
    shared_end_block();
}

static void place_threads(dim3 block)
{
    static std::vector<thread> memory(MOST_THREADS);
    int i = 0;

    threads = memory.data();
    for (unsigned z = 0; z < block.z; z++)
        for (unsigned y = 0; y < block.y; y++)
            for (unsigned x = 0; x < block.x; x++)
                threads[i++].index = {x, y, z};
    n_threads = i;
}

static uint64_t greatest_common_divisor(uint64_t a, uint64_t b)
{
    while (b != 0) {
        uint64_t rest = a % b;
        a = b;
        b = rest;
    }
    return a;
}

void run_kernel(const kernel_launch &launch)
{
    uint64_t n = (uint64_t)launch.grid.x * launch.grid.y * launch.grid.z;
    uint64_t first = random_below((uint32_t)(n < UINT32_MAX ? n : UINT32_MAX)), step;

    note_executed(launch.name, launch.kernel);
    running = &launch;
    gridDim = {launch.grid.x, launch.grid.y, launch.grid.z};
    blockDim = {launch.block.x, launch.block.y, launch.block.z};
    place_threads(launch.block);
    shared_begin_kernel(launch.shared_bytes, launch.opted_in);
    do /* every block once, in an order that only the seed knows */
        step = 1 + random_below((uint32_t)(n < UINT32_MAX ? n : UINT32_MAX));
    while (greatest_common_divisor(step, n) != 1);
    for (uint64_t i = 0, at = first; i < n; i++, at = (at + step) % n)
        run_block({(unsigned)(at % launch.grid.x), (unsigned)(at / launch.grid.x % launch.grid.y),
                   (unsigned)(at / launch.grid.x / launch.grid.y)});
    running = nullptr;
    threadIdx = blockIdx = blockDim = gridDim = {0, 0, 0};
}
} // namespace emulator
