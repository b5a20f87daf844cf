/* What kernels/mma.cuh says in PTX, for the emulator: same names, same meaning. Included by it. */
#ifndef IBOT_TESTS_CUDA_EMULATOR_INCLUDE_EMULATOR_MMA_H
#define IBOT_TESTS_CUDA_EMULATOR_INCLUDE_EMULATOR_MMA_H

#ifdef __cplusplus
#include <emulator.h>

#include <cuda_bf16.h>
#include <cuda_fp16.h>

namespace emulator
{
struct operands {
    uint32_t a[4], b[2];
};
struct matrix_row {
    uint16_t values[8];
};

static inline float half_to_float(__nv_bfloat16 value)
{
    return __bfloat162float(value);
}
static inline float half_to_float(__half value)
{
    return __half2float(value);
}

/* The lower or the upper half of a register. */
template <class T> static inline float half_of(uint32_t both, int which)
{
    uint16_t bits = (uint16_t)(both >> 16 * which);
    T value;
    memcpy(&value, &bits, sizeof(value));
    return half_to_float(value);
}

/* The warp's rows of N matrices: a lane's own is read when it comes. To be used at once. */
template <int N>
static inline const matrix_row *load_rows(const void *row, int key, const char *file, int line)
{
    matrix_row own = {};

    if (lane() < 8 * N) {
        check_shared(row, sizeof(own), 16, "ldmatrix");
        memcpy(&own, row, sizeof(own));
    }
    return warp_exchange(MATRIX, 0xffffffffu, own, key, file, line);
}

template <int N>
static inline void load(uint32_t (&to)[N], const void *row, bool transposed, const char *file,
                        int line)
{
    const matrix_row *rows = load_rows<N>(row, 2 * N + transposed, file, line);
    int g = lane() / 4, t = lane() % 4;

    for (int i = 0; i < N; i++) {
        const matrix_row *matrix = rows + 8 * i;
        uint32_t low = transposed ? matrix[2 * t].values[g] : matrix[g].values[2 * t];
        uint32_t high = transposed ? matrix[2 * t + 1].values[g] : matrix[g].values[2 * t + 1];
        to[i] = low | high << 16;
    }
}
} // namespace emulator

/* d [16, 8] += a [16, 16] b [16, 8], sums in float, in the order of k. */
template <class T>
static inline void mma(float (&d)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1,
                       EMULATOR_PLACE)
{
    emulator::operands own = {{a[0], a[1], a[2], a[3]}, {b0, b1}};
    const emulator::operands *all =
        emulator::warp_exchange(emulator::MATRIX, 0xffffffffu, own, (int)sizeof(T), file, line);
    int g = emulator::lane() / 4, t = emulator::lane() % 4;

    for (int i = 0; i < 4; i++) {
        int lower = i / 2, column = 2 * t + i % 2;
        for (int k = 0; k < 16; k++) {
            const emulator::operands &left = all[4 * g + k % 8 / 2];
            const emulator::operands &right = all[4 * column + k % 8 / 2];
            d[i] += emulator::half_of<T>(left.a[lower + 2 * (k / 8)], k % 2) *
                    emulator::half_of<T>(right.b[k / 8], k % 2);
        }
    }
}

/* d = a b + c */
template <class T>
static inline void mma(float (&d)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1,
                       const float (&c)[4], EMULATOR_PLACE)
{
    memcpy(d, c, sizeof(d));
    mma<T>(d, a, b0, b1, file, line);
}

static inline void load_matrices(uint32_t (&to)[4], const void *row, EMULATOR_PLACE)
{
    emulator::load(to, row, false, file, line);
}
static inline void load_matrices_transposed(uint32_t (&to)[4], const void *row, EMULATOR_PLACE)
{
    emulator::load(to, row, true, file, line);
}
static inline void load_matrices(uint32_t (&to)[2], const void *row, EMULATOR_PLACE)
{
    emulator::load(to, row, false, file, line);
}
static inline void load_matrices_transposed(uint32_t (&to)[2], const void *row, EMULATOR_PLACE)
{
    emulator::load(to, row, true, file, line);
}

/* The copy is made when it is waited for: who reads before finds what was there. */
static inline void copy_async(void *shared, const void *from, bool there)
{
    emulator::check_shared(shared, 16, 16, "cp.async");
    emulator::copy_async_begin(shared, there ? from : nullptr, 16);
}
static inline void copy_async_commit()
{
    emulator::copy_async_commit();
}
template <int N> static inline void copy_async_wait()
{
    emulator::copy_async_wait(N);
}

/* Nothing but an address that can be read. */
static inline void prefetch(const void *from)
{
    uint16_t value;
    memcpy(&value, from, sizeof(value));
    (void)value;
}

static inline int32_t computed_here(int32_t x)
{
    return x;
}

static inline float fast_exp2(float x)
{
    return x < -126.0f ? 0.0f : exp2f(x);
}

#endif
#endif
