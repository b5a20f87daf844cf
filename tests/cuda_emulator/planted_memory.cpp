/* Accesses of device and shared memory, and launches, each wrong in one way. */
#include <math.h>
#include <stdint.h>
#include <stdio.h>

#include "tests/cuda_emulator/planted.h"

enum { N = 64 };

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
}

static void grids_and_blocks_that_no_device_has()
{
    const struct {
        dim3 grid, block;
    } shapes[] = {{0, 32},
                  {dim3(1, 0), 32},
                  {1, 0},
                  {1, dim3(32, 0)},
                  {1, 1025},
                  {1, dim3(32, 33)},
                  {1, dim3(1, 1, 65)},
                  {dim3(1, 65536), 32},
                  {dim3(1, 1, 65536), 32}};
    for (const auto &shape : shapes) {
        MUST(emulator::launch("planted", write_dynamic, shape.grid, shape.block, 4, nullptr,
                              (int64_t)0) == cudaErrorInvalidConfiguration);
        MUST(cudaGetLastError() == cudaErrorInvalidConfiguration);
    }
    DONE(cudaDeviceSynchronize());
}

__global__ static void use_both_shared(float *to)
{
    SHARED(float, tile, 10 * 1024);
    DYNAMIC_SHARED(float, rows);
    tile[threadIdx.x] = rows[threadIdx.x] = 0.0f;
    __syncthreads();
    to[threadIdx.x] = tile[threadIdx.x] + rows[threadIdx.x];
}

/* 40 KiB declared: 187 KiB more are all that a block has. */
static void use_shared_kib(int dynamic_kib)
{
    const void *kernel = reinterpret_cast<const void *>(use_both_shared);
    DONE(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize,
                              dynamic_kib * 1024));
    run(1, N, (size_t)dynamic_kib * 1024, use_both_shared, device_array<float>(N));
}

static void shared_up_to_the_most()
{
    use_shared_kib(187);
}

static void shared_beyond_the_most()
{
    use_shared_kib(188);
}

__global__ static void read_vectors(float *to, const float *from, int64_t at)
{
    SHARED(float4, tile, N / 4);
    float4 four = *reinterpret_cast<const float4 *>(from + at);
    if (threadIdx.x == 0)
        tile[0] = four;
    __syncthreads();
    to[threadIdx.x] = tile[0].y;
}

static void read_vector_at(int64_t at)
{
    float *from = device_array<float>(N);
    run(1, N, 0, write_at, from, 0, N);
    run(1, N, 0, read_vectors, device_array<float>(N), from, at);
}

static void vector_aligned()
{
    read_vector_at(4);
}

static void vector_misaligned()
{
    read_vector_at(2);
}

__global__ static void write_vector(float *to)
{
    SHARED(float, tile, N + 2); /* ends at a multiple of 8 only */
    float *row = reinterpret_cast<float *>((reinterpret_cast<uintptr_t>(tile) + 15) / 16 * 16);
    reinterpret_cast<float4 *>(row + 1)[threadIdx.x / N] = make_float4(0, 1, 2, 3);
    to[threadIdx.x] = row[1];
}

static void vector_misaligned_in_shared_memory()
{
    run(1, 1, 0, write_vector, device_array<float>(1));
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

std::vector<planted_case> memory_cases()
{
    return {
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
        CASE_OF_MEMORY(dynamic_past_the_end,
                       "past the end of shared array 'dynamic shared memory'"),
        RIGHT(dynamic_beyond_the_default),
        RIGHT(grids_and_blocks_that_no_device_has),
        RIGHT(shared_up_to_the_most),
        CASE(shared_beyond_the_most, "brings shared memory to 40960 declared and 192512 dynamic"),
        RIGHT(vector_aligned),
        CASE(vector_misaligned, "misaligned address"),
        CASE(vector_misaligned_in_shared_memory, "misaligned address"),
        RIGHT(shared_starts_poisoned),
        CASE(host_reads_device_memory, "the host reads or writes"),
        CASE(kernel_is_given_host_memory, "argument 0"),
    };
}
