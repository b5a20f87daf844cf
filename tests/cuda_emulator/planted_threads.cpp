/* Barriers, warp calls, asynchronous copies, matrix instructions and atomics: right, and each wrong
 * in one way. */
#include <cuda_bf16.h>
#include <emulator_mma.h>
#include <stdint.h>

#include "tests/cuda_emulator/planted.h"

enum { N = 64 };

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
    case 5: /* a segment of three lanes */
        value = __shfl_xor_sync(0xffffffffu, value, 1, 3);
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

static void shuffle_of_a_bad_width()
{
    run(1, N, 0, shuffles, device_array<float>(N), 5);
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

__global__ static void misuse_matrices(const float *from, int how)
{
    SHARED(uint4, memory, 32);
    __nv_bfloat16 *rows = reinterpret_cast<__nv_bfloat16 *>(memory);
    uint32_t a[4] = {0, 0, 0, 0};
    float sums[4] = {0, 0, 0, 0};

    switch (how) {
    case 0: /* half of the warp is not there */
        if (threadIdx.x < 16)
            mma<__nv_bfloat16>(sums, a, 0, 0);
        break;
    case 1: /* a row between two places */
        load_matrices(a, rows + 8 * threadIdx.x / 2 + 4);
        break;
    case 2: /* a row that is no shared memory */
        load_matrices(a, reinterpret_cast<const char *>(from));
        break;
    case 3:
        copy_async(rows + 8 * (threadIdx.x % 16), from + 1, true);
        break;
    }
}

static void misuse(int how)
{
    run(1, 32, 0, misuse_matrices, device_array<float>(N), how);
}

static void matrix_product_of_half_a_warp()
{
    misuse(0);
}

static void matrix_row_misaligned()
{
    misuse(1);
}

static void matrix_row_of_device_memory()
{
    misuse(2);
}

static void copy_from_a_misaligned_address()
{
    misuse(3);
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

std::vector<planted_case> thread_cases()
{
    return {
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
        CASE(shuffle_of_a_bad_width, "is not a power of two"),
        CASE(shuffle_in_a_short_warp, "which a block of 48 threads lacks"),
        RIGHT(copies_waited_for),
        CASE(copies_not_waited_for, "not so: got[i] =="),
        RIGHT(matrix_products_follow_their_definition),
        CASE(matrix_product_of_half_a_warp, "the mask 0xffffffff"),
        CASE(matrix_row_misaligned, "is not a multiple of 16"),
        CASE(matrix_row_of_device_memory, "are not inside a shared array"),
        CASE(copy_from_a_misaligned_address, "is not aligned to 16 bytes"),
        RIGHT(atomics_count),
    };
}
