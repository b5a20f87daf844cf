/* The emulator finds what it is for: each case plants one mistake and runs in a process of its own,
 * which must end with the message; beside it stands the right version, which must not. Both run
 * under several seeds. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

extern "C" { /* its header does not say so */
#include <cmocka.h>
}

#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <emulator.h>
#include <emulator_mma.h>

#include <string>

#include "tests/cuda_emulator/planted.h"

enum { N = 64, SEEDS = 4 };

/* ------------------------------------------------------------------------------ memory */

__global__ static void write_at(float *to, int64_t first, int64_t n)
{
    if (threadIdx.x < n)
        to[first + threadIdx.x] = 1.0f;
}

static void global_right()
{
    float *to = device_array<float>(N), got[N];
    run(1, N, 0, write_at, to, 0, N);
    download(got, to, N);
    for (float value : got)
        MUST(value == 1.0f);
    DONE(cudaFree(to));
}

static void global_past_the_end()
{
    run(1, N, 0, write_at, device_array<float>(N), 1, N);
}

static void global_past_the_end_of_an_odd_size()
{
    run(1, N, 0, write_at, device_array<float>(N - 1), 0, N);
}

static void global_before_the_start()
{
    run(1, N, 0, write_at, device_array<float>(N), -1, N);
}

static void global_after_free()
{
    float *to = device_array<float>(N);
    DONE(cudaFree(to));
    run(1, N, 0, write_at, to, 0, N);
}

__global__ static void write_shared(float *to, int64_t at)
{
    SHARED(float, tile, N);
    float *free_of_bounds = tile;
    free_of_bounds[at] = 1.0f;
    __syncthreads();
    to[threadIdx.x] = tile[0];
}

static void shared_right()
{
    run(2, N, 0, write_shared, device_array<float>(N), 0);
}

static void shared_past_the_end()
{
    run(1, N, 0, write_shared, device_array<float>(N), N);
}

static void shared_before_the_start()
{
    run(1, N, 0, write_shared, device_array<float>(N), -1);
}

__global__ static void write_dynamic(int64_t at)
{
    DYNAMIC_SHARED(float, rows);
    rows[at] = 0.0f;
}

static void dynamic_right()
{
    run(1, 32, 20, write_dynamic, 4);
}

static void dynamic_past_the_end()
{
    run(1, 32, 20, write_dynamic, 5);
}

static void dynamic_beyond_the_default()
{
    MUST(emulator::launch("planted", write_dynamic, 1, 32, 64 * 1024, nullptr, (int64_t)0) ==
         cudaErrorInvalidValue);
    const void *kernel = reinterpret_cast<const void *>(write_dynamic);
    MUST(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, 228 * 1024) ==
         cudaErrorInvalidValue);
    DONE(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, 64 * 1024));
    run(1, 32, 64 * 1024, write_dynamic, 64 * 1024 / 4 - 1);
    MUST(emulator::launch("planted", write_dynamic, 1, 1025, 0, nullptr, (int64_t)0) ==
         cudaErrorInvalidConfiguration);
    MUST(emulator::launch("planted", write_dynamic, dim3(1, 65536), 32, 0, nullptr, (int64_t)0) ==
         cudaErrorInvalidConfiguration);
}

__global__ static void copy_shared(float *to)
{
    SHARED(float, tile, N);
    if (threadIdx.x > 0)
        tile[threadIdx.x] = 0.0f;
    __syncthreads();
    to[threadIdx.x] = tile[threadIdx.x];
}

/* A value that nobody wrote is a NaN, also in the second block. */
static void shared_starts_poisoned()
{
    float *to = device_array<float>(N), got[N];
    run(2, N, 0, copy_shared, to);
    download(got, to, N);
    MUST(isnan(got[0]) && got[1] == 0.0f);
}

static void host_reads_device_memory()
{
    volatile float *to = device_array<float>(N);
    run(1, N, 0, write_at, const_cast<float *>(to), 0, N);
    printf("%f\n", (double)to[1]);
}

static void kernel_is_given_host_memory()
{
    float host[N];
    run(1, N, 0, write_at, host, 0, N);
}

/* ------------------------------------------------------------------------------ barriers */

__global__ static void neighbours(float *to, bool wait)
{
    SHARED(float, tile, N);
    tile[threadIdx.x] = (float)threadIdx.x;
    if (wait)
        __syncthreads();
    to[threadIdx.x] = tile[(threadIdx.x + 1) % N];
}

static void read_neighbours(bool wait)
{
    float *to = device_array<float>(N), got[N];
    run(1, N, 0, neighbours, to, wait);
    download(got, to, N);
    for (int i = 0; i < N; i++)
        MUST(got[i] == (float)((i + 1) % N));
}

static void barrier_right()
{
    read_neighbours(true);
}

static void barrier_missing()
{
    read_neighbours(false);
}

__global__ static void reuse(float *to, bool wait)
{
    SHARED(float, one, 1);
    for (int round = 0; round < 4; round++) {
        if (threadIdx.x == 0)
            one[0] = (float)round;
        __syncthreads();
        to[round * N + threadIdx.x] = one[0];
        if (wait)
            __syncthreads();
    }
}

static void reuse_shared(bool wait)
{
    float *to = device_array<float>(4 * N), got[4 * N];
    run(1, N, 0, reuse, to, wait);
    download(got, to, 4 * N);
    for (int i = 0; i < 4 * N; i++)
        MUST(got[i] == (float)(i / N));
}

static void second_barrier_right()
{
    reuse_shared(true);
}

static void second_barrier_missing()
{
    reuse_shared(false);
}

__global__ static void diverge(int how)
{
    if (how == 0 && threadIdx.x < 3)
        return;
    if (how == 1 && threadIdx.x >= 40)
        __syncthreads();
    else
        __syncthreads();
    if (how == 2 && threadIdx.x == 5)
        __syncthreads();
}

static void barrier_after_some_left()
{
    run(1, N, 0, diverge, 0);
}

static void barriers_of_two_branches()
{
    run(1, N, 0, diverge, 1);
}

static void barrier_of_one_thread()
{
    run(1, N, 0, diverge, 2);
}

/* ------------------------------------------------------------------------------ warps */

__global__ static void shuffles(float *to, int how)
{
    int lane = (int)threadIdx.x % 32;
    float value = (float)threadIdx.x;

    switch (how) {
    case 0: /* right */
        for (int distance = 16; distance > 0; distance /= 2)
            value += __shfl_xor_sync(0xffffffffu, value, distance);
        if (lane < 16)
            value += __shfl_down_sync(0x0000ffffu, 0.0f, 1, 16);
        value += __ballot_sync(0xffffffffu, lane == 3) == 8u ? 0.0f : 1000.0f;
        break;
    case 1: /* lanes are missing */
        if (lane < 16)
            value = __shfl_xor_sync(0xffffffffu, value, 1);
        break;
    case 2: /* not in its own mask */
        value = __shfl_xor_sync(0x0000ffffu, value, 1);
        break;
    case 3: /* reads a lane outside of the mask */
        if (lane < 16)
            value = __shfl_sync(0x0000ffffu, value, 20);
        break;
    case 4: /* the two halves are in different calls */
        if (lane < 16)
            value = __shfl_xor_sync(0xffffffffu, value, 1);
        else
            value = (float)__any_sync(0xffffffffu, 1);
        break;
    }
    to[threadIdx.x] = value;
}

static void shuffle_right()
{
    float *to = device_array<float>(N), got[N];
    run(1, N, 0, shuffles, to, 0);
    download(got, to, N);
    for (int i = 0; i < N; i++)
        MUST(got[i] == (i < 32 ? 496.0f : 1520.0f));
}

static void shuffle_lacks_lanes()
{
    run(1, N, 0, shuffles, device_array<float>(N), 1);
}

static void shuffle_outside_its_mask()
{
    run(1, N, 0, shuffles, device_array<float>(N), 2);
}

static void shuffle_from_outside()
{
    run(1, N, 0, shuffles, device_array<float>(N), 3);
}

static void shuffle_meets_vote()
{
    run(1, N, 0, shuffles, device_array<float>(N), 4);
}

static void shuffle_in_a_short_warp()
{
    run(1, 48, 0, shuffles, device_array<float>(N), 0);
}

__global__ static void copies(float *to, const float *from, int n_in_flight)
{
    SHARED(float, raw, 4 * 32 + 4);
    float *tile = raw + (16 - (uintptr_t)raw % 16) % 16 / sizeof(float);

    copy_async(tile + 4 * threadIdx.x, from + 4 * threadIdx.x, threadIdx.x != 7);
    copy_async_commit();
    if (n_in_flight == 0)
        copy_async_wait<0>();
    else
        copy_async_wait<1>();
    __syncthreads();
    for (int i = 0; i < 4; i++)
        to[4 * threadIdx.x + i] = tile[4 * threadIdx.x + i];
}

static void copy_asynchronously(int n_in_flight)
{
    float *from = device_array<float>(128), *to = device_array<float>(128), got[128];
    run(2, 64, 0, write_at, from, 0, 64);
    run(1, 64, 0, write_at, from, 64, 64);
    run(1, 32, 0, copies, to, from, n_in_flight);
    download(got, to, 128);
    for (int i = 0; i < 128; i++)
        MUST(got[i] == (i / 4 == 7 ? 0.0f : 1.0f));
}

static void copies_waited_for()
{
    copy_asynchronously(0);
}

static void copies_not_waited_for()
{
    copy_asynchronously(1);
}

/* d = a b^T of small whole numbers, by ldmatrix and mma, against its definition. */
__global__ static void product(float *d, int transposed)
{
    SHARED(uint4, memory, 16 * 16 / 8 + 8 * 16 / 8);
    __nv_bfloat16 *a = reinterpret_cast<__nv_bfloat16 *>(&memory[0]), *b = a + 256;
    uint32_t fragment[4], columns[2];
    float sums[4] = {0, 0, 0, 0};
    int lane = (int)threadIdx.x, g = lane / 4, t = lane % 4;

    for (int i = lane; i < 256; i += 32)
        a[i] = __float2bfloat16_rn((float)(i % 7 - 3));
    for (int i = lane; i < 128; i += 32) /* [n, k], or [k, n] */
        b[transposed ? i % 16 * 8 + i / 16 : i] = __float2bfloat16_rn((float)(i % 5 - 2));
    __syncwarp();
    load_matrices(fragment, a + lane % 16 * 16 + lane / 16 * 8);
    if (transposed)
        load_matrices_transposed(columns, b + lane % 16 * 8);
    else
        load_matrices(columns, b + lane % 8 * 16 + lane / 8 % 2 * 8);
    mma<__nv_bfloat16>(sums, fragment, columns[0], columns[1]);
    for (int i = 0; i < 4; i++)
        d[(g + i / 2 * 8) * 8 + 2 * t + i % 2] = sums[i];
}

static void matrix_products_follow_their_definition()
{
    for (int transposed = 0; transposed < 2; transposed++) {
        float *d = device_array<float>(128), got[128];
        run(1, 32, 0, product, d, transposed);
        download(got, d, 128);
        for (int m = 0; m < 16; m++)
            for (int n = 0; n < 8; n++) {
                int want = 0;
                for (int k = 0; k < 16; k++)
                    want += ((m * 16 + k) % 7 - 3) * ((n * 16 + k) % 5 - 2);
                MUST(got[m * 8 + n] == (float)want);
            }
    }
}

__global__ static void count(int *n, float *sum)
{
    atomicAdd(n, 1);
    atomicMax(n + 1, (int)threadIdx.x);
    atomicCAS(n + 2, 0, 1 + (int)threadIdx.x);
    atomicAdd(sum, 1.0f);
}

static void atomics_count()
{
    int *n = device_array<int>(3), got[3];
    float *sum = device_array<float>(1), got_sum;
    DONE(cudaMemset(n, 0, 3 * sizeof(int)));
    DONE(cudaMemset(sum, 0, sizeof(float)));
    run(5, N, 0, count, n, sum);
    DONE(cudaMemcpy(got, n, sizeof(got), cudaMemcpyDeviceToHost));
    download(&got_sum, sum, 1);
    MUST(got[0] == 5 * N && got[1] == N - 1 && got[2] > 0 && got_sum == 5.0f * N);
}

/* ------------------------------------------------------------------------------ streams, graphs */

struct streams {
    cudaStream_t first, second;
    cudaEvent_t event;
    float *pinned, *on_device, *out;
};

static streams open_streams()
{
    streams s;
    void *pinned, *out;
    DONE(cudaStreamCreateWithFlags(&s.first, cudaStreamNonBlocking));
    DONE(cudaStreamCreateWithFlags(&s.second, cudaStreamNonBlocking));
    DONE(cudaEventCreateWithFlags(&s.event, cudaEventDisableTiming));
    DONE(cudaMallocHost(&pinned, N * sizeof(float)));
    DONE(cudaMallocHost(&out, N * sizeof(float)));
    s.pinned = static_cast<float *>(pinned);
    s.out = static_cast<float *>(out);
    s.on_device = device_array<float>(N);
    for (int i = 0; i < N; i++)
        s.pinned[i] = (float)i;
    return s;
}

static void copy_through(const streams &s, bool wait)
{
    DONE(
        cudaMemcpyAsync(s.on_device, s.pinned, N * sizeof(float), cudaMemcpyHostToDevice, s.first));
    DONE(cudaEventRecord(s.event, s.first));
    if (wait)
        DONE(cudaStreamWaitEvent(s.second, s.event, 0));
    DONE(cudaMemcpyAsync(s.out, s.on_device, N * sizeof(float), cudaMemcpyDeviceToHost, s.second));
}

static void streams_wait()
{
    streams s = open_streams();
    copy_through(s, true);
    DONE(cudaStreamSynchronize(s.second));
    MUST(s.out[5] == 5.0f);
}

/* Runs many times: each seed must see it, not every order. */
static void streams_do_not_wait()
{
    for (int i = 0; i < 20; i++) {
        streams s = open_streams();
        copy_through(s, false);
        DONE(cudaDeviceSynchronize());
        MUST(s.out[5] == 5.0f);
    }
}

static void host_changes_what_is_being_copied()
{
    streams s = open_streams();
    copy_through(s, true);
    s.pinned[5] = 7.0f;
    DONE(cudaDeviceSynchronize());
    MUST(s.out[5] == 5.0f);
}

static void wait_for_an_event_never_recorded()
{
    streams s = open_streams();
    (void)cudaStreamWaitEvent(s.second, s.event, 0);
}

static cudaGraphExec_t end_capture(cudaStream_t stream)
{
    cudaGraph_t graph;
    cudaGraphExec_t executable;
    DONE(cudaStreamEndCapture(stream, &graph));
    DONE(cudaGraphInstantiate(&executable, graph, 0));
    DONE(cudaGraphDestroy(graph));
    return executable;
}

static void graph_right()
{
    streams s = open_streams();
    cudaEvent_t join;
    DONE(cudaEventCreateWithFlags(&join, cudaEventDisableTiming));
    DONE(cudaStreamBeginCapture(s.first, cudaStreamCaptureModeThreadLocal));
    copy_through(s, true);
    DONE(cudaEventRecord(join, s.second));
    DONE(cudaStreamWaitEvent(s.first, join, 0));
    cudaGraphExec_t graph = end_capture(s.first);
    MUST(isnan(s.out[5])); /* recorded, not run */
    for (int i = 0; i < 3; i++) {
        s.pinned[5] = (float)(10 + i);
        DONE(cudaGraphLaunch(graph, s.second));
        DONE(cudaStreamSynchronize(s.second));
        MUST(s.out[5] == (float)(10 + i));
    }
    DONE(cudaGraphExecDestroy(graph));
}

/* What a graph recorded is used whenever it is launched. */
static void graph_outlives_its_memory()
{
    streams s = open_streams();
    DONE(cudaStreamBeginCapture(s.first, cudaStreamCaptureModeThreadLocal));
    DONE(emulator::launch("planted", write_at, 1, N, 0, s.first, s.on_device, (int64_t)0,
                          (int64_t)N));
    cudaGraphExec_t graph = end_capture(s.first);
    DONE(cudaGraphLaunch(graph, s.first));
    DONE(cudaFree(s.on_device));
    DONE(cudaGraphLaunch(graph, s.first));
    DONE(cudaDeviceSynchronize());
}

static void graph_not_joined()
{
    streams s = open_streams();
    cudaGraph_t graph;
    DONE(cudaStreamBeginCapture(s.first, cudaStreamCaptureModeThreadLocal));
    copy_through(s, true);
    MUST(cudaStreamEndCapture(s.first, &graph) == cudaErrorStreamCaptureUnjoined);
    MUST(graph == nullptr && cudaGetLastError() == cudaErrorStreamCaptureUnjoined);
    MUST(cudaGetLastError() == cudaSuccess);
}

/* A call that a capture forbids fails, and the capture with it; the stream can be used again. */
static void forbidden_in_capture(int which)
{
    streams s = open_streams();
    cudaGraph_t graph;
    void *pointer;
    float pageable[4];
    cudaError_t error = cudaSuccess;

    DONE(cudaStreamBeginCapture(s.first, cudaStreamCaptureModeThreadLocal));
    if (which == 0)
        error = cudaMalloc(&pointer, 4);
    else if (which == 1)
        error = cudaStreamSynchronize(s.first);
    else
        error = cudaMemcpyAsync(s.on_device, pageable, 16, cudaMemcpyHostToDevice, s.first);
    MUST(error == cudaErrorStreamCaptureUnsupported);
    MUST(cudaMemsetAsync(s.on_device, 0, 4, s.first) == cudaErrorStreamCaptureInvalidated);
    MUST(cudaStreamEndCapture(s.first, &graph) == cudaErrorStreamCaptureInvalidated);
    copy_through(s, true);
    DONE(cudaDeviceSynchronize());
}

static void allocation_in_capture()
{
    forbidden_in_capture(0);
}

static void synchronisation_in_capture()
{
    forbidden_in_capture(1);
}

static void pageable_copy_in_capture()
{
    forbidden_in_capture(2);
}

static void copies_are_checked()
{
    streams s = open_streams();
    float host[N];
    size_t bytes = sizeof(host);
    MUST(cudaMemcpy(host, s.on_device, bytes, cudaMemcpyHostToDevice) == cudaErrorInvalidValue);
    MUST(cudaMemcpy(s.on_device, host, bytes + 1, cudaMemcpyHostToDevice) == cudaErrorInvalidValue);
    MUST(cudaMemcpy(host, host, bytes, cudaMemcpyDeviceToHost) == cudaErrorInvalidValue);
    MUST(cudaMemsetAsync(s.on_device + 1, 0, bytes, s.first) == cudaErrorInvalidValue);
    MUST(cudaFree(s.on_device + 1) == cudaErrorInvalidValue);
    DONE(cudaMemcpy(s.on_device, host, bytes, cudaMemcpyDefault));
}

/* ------------------------------------------------------------------------------ conversions */

static void conversions_round_to_nearest_even()
{
    for (uint32_t bits = 0; bits < 0x10000; bits++) {
        __half half = __ushort_as_half((uint16_t)bits);
        __nv_bfloat16 brain = __ushort_as_bfloat16((uint16_t)bits);
        if ((bits & 0x7fff) <= 0x7c00)
            MUST(__float2half_rn(__half2float(half)).bits == bits);
        if ((bits & 0x7fff) <= 0x7f80)
            MUST(__float2bfloat16_rn(__bfloat162float(brain)).bits == bits);
        if ((bits & 0x7fff) >= 0x7bff)
            continue;
        /* half way to the next one goes to the even one, a bit more or less to the nearer one */
        float low = __half2float(half), high = __half2float(__ushort_as_half((uint16_t)(bits + 1)));
        float middle = 0.5f * (low + high);
        uint32_t even = bits % 2 == 0 ? bits : bits + 1;
        MUST(__float2half_rn(middle).bits == even);
        MUST(__float2half_rn(nextafterf(middle, low)).bits == bits);
        MUST(__float2half_rn(nextafterf(middle, high)).bits == bits + 1);
    }
    MUST(__float2half_rn(65520.0f).bits == 0x7c00 && __float2half_rn(65519.0f).bits == 0x7bff);
    MUST(__float2int_rn(2.5f) == 2 && __float2int_rn(-3e9f) == INT32_MIN);
}

/* ------------------------------------------------------------------------------ the cases */

struct test_case {
    void (*body)();
    const char *message; /* null: ends well */
    const char *sanitizer_message;
};

#define CASE(body, message)                                                                        \
    {                                                                                              \
        body, message, message                                                                     \
    }
#define CASE_OF_MEMORY(body, message)                                                              \
    {                                                                                              \
        body, message, "AddressSanitizer"                                                          \
    }
#define RIGHT(body)                                                                                \
    {                                                                                              \
        body, nullptr, nullptr                                                                     \
    }

static const test_case cases[] = {
    RIGHT(global_right),
    CASE(global_past_the_end, "past the end of a device allocation of 256"),
    CASE_OF_MEMORY(global_past_the_end_of_an_odd_size,
                   "past the end of a device allocation of 252"),
    CASE_OF_MEMORY(global_before_the_start, "before the start of a device allocation of 256"),
    CASE(global_after_free, "is device memory that is free"),
    RIGHT(shared_right),
    CASE(shared_past_the_end, "past the end of shared array 'tile' (256 bytes)"),
    CASE_OF_MEMORY(shared_before_the_start, "before the start of shared array 'tile'"),
    RIGHT(dynamic_right),
    CASE_OF_MEMORY(dynamic_past_the_end, "past the end of shared array 'dynamic shared memory'"),
    RIGHT(dynamic_beyond_the_default),
    RIGHT(shared_starts_poisoned),
    CASE(host_reads_device_memory, "the host reads or writes"),
    CASE(kernel_is_given_host_memory, "argument 0"),
    RIGHT(barrier_right),
    CASE(barrier_missing, "not so: got[i] =="),
    RIGHT(second_barrier_right),
    CASE(second_barrier_missing, "not so: got[i] =="),
    CASE(barrier_after_some_left, "divergent barrier"),
    CASE(barriers_of_two_branches, "divergent barrier"),
    CASE(barrier_of_one_thread, "divergent barrier"),
    RIGHT(shuffle_right),
    CASE(shuffle_lacks_lanes, "the mask 0xffffffff names"),
    CASE(shuffle_outside_its_mask, "is not in the mask 0x0000ffff"),
    CASE(shuffle_from_outside, "reads lane 20, which is not in the mask"),
    CASE(shuffle_meets_vote, "divergent warp"),
    CASE(shuffle_in_a_short_warp, "which a block of 48 threads lacks"),
    RIGHT(copies_waited_for),
    CASE(copies_not_waited_for, "not so: got[i] =="),
    RIGHT(matrix_products_follow_their_definition),
    RIGHT(atomics_count),
    RIGHT(streams_wait),
    CASE(streams_do_not_wait, "not so: s.out[5] =="),
    CASE(host_changes_what_is_being_copied, "not so: s.out[5] =="),
    CASE(wait_for_an_event_never_recorded, "never recorded"),
    RIGHT(graph_right),
    CASE(graph_outlives_its_memory, "in device memory that is free"),
    RIGHT(graph_not_joined),
    RIGHT(allocation_in_capture),
    RIGHT(synchronisation_in_capture),
    RIGHT(pageable_copy_in_capture),
    RIGHT(copies_are_checked),
    RIGHT(product_right),
    RIGHT(product_with_a_great_leading_dimension),
    RIGHT(product_with_a_small_leading_dimension),
    RIGHT(product_with_a_bad_alignment),
    RIGHT(product_of_wrong_shapes),
    RIGHT(product_with_bias_on_the_host),
    RIGHT(collectives_right),
    RIGHT(collectives_in_a_graph),
    CASE(collectives_of_other_counts, "ranks differ in their collective 2"),
    CASE(collectives_in_another_order, "ranks differ in their collective 1"),
    CASE(collective_of_host_memory, "is host memory"),
    CASE(collective_past_the_end, "ends 4 bytes past a device allocation"),
    RIGHT(collective_while_one_is_in_progress),
    CASE(collective_after_abort, "ncclAllReduce after ncclCommAbort"),
    CASE(communicator_of_two_threads, "while another thread is in a call"),
    CASE(communicator_with_a_graph_is_finalized, "while there is a graph"),
    RIGHT(communicator_of_one_device_for_two),
    CASE(communicator_of_another_device, "is of device 0, the stream of device 1"),
    RIGHT(attention_right),
    RIGHT(attention_with_a_great_stride),
    CASE(attention_with_loose_statistics, "is not packed"),
    RIGHT(attention_that_lacks_a_tensor),
    RIGHT(attention_with_a_tensor_twice),
    RIGHT(attention_with_its_scale_on_the_device),
    RIGHT(attention_with_a_bad_alignment),
    RIGHT(attention_without_workspace),
    RIGHT(transposition_with_wrong_strides),
    RIGHT(conversions_round_to_nearest_even),
};

static bool with_address_sanitizer()
{
#ifdef __SANITIZE_ADDRESS__
    return true;
#elif defined(__has_feature)
#if __has_feature(address_sanitizer)
    return true;
#endif
#endif
    return false;
}

/* The body in a process of its own, under a seed. Returns its exit status, and what it said. */
static int run_apart(void (*body)(), int seed, std::string *said)
{
    int ends[2], status;
    char bytes[4096];

    assert_int_equal(pipe(ends), 0);
    fflush(nullptr);
    pid_t child = fork();
    assert_true(child >= 0);
    if (child == 0) {
        dup2(ends[1], STDERR_FILENO);
        setenv("IBOT_EMULATOR_SEED", std::to_string(seed).c_str(), 1);
        body();
        _exit(0);
    }
    close(ends[1]);
    said->clear();
    for (ssize_t n; (n = read(ends[0], bytes, sizeof(bytes))) > 0;)
        said->append(bytes, (size_t)n);
    close(ends[0]);
    assert_int_equal(waitpid(child, &status, 0), child);
    return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
}

static void each_planted_mistake_is_found(void **state)
{
    (void)state;
    for (const test_case &c : cases)
        for (int seed = 1; seed <= SEEDS; seed++) {
            std::string said;
            int status = run_apart(c.body, seed, &said);
            const char *wanted = with_address_sanitizer() ? c.sanitizer_message : c.message;
            size_t number = (size_t)(&c - cases);
            if (wanted == nullptr && status != 0)
                fail_msg("case %zu, seed %d: ended with %d: %s", number, seed, status,
                         said.c_str());
            if (wanted != nullptr && (status == 0 || said.find(wanted) == std::string::npos))
                fail_msg("case %zu, seed %d: ended with %d, wanted \"%s\", it said: %s", number,
                         seed, status, wanted, said.c_str());
        }
}

int main()
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(each_planted_mistake_is_found)};
    return cmocka_run_group_tests(tests, nullptr, nullptr);
}
