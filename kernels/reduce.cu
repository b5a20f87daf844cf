/* Means of rows and arg-max on CUDA: one read of the array. */
#include "ops/reduce.h"

#include "kernels/column_sums.cuh"
#include "kernels/op_cuda.h"
#include "kernels/value.cuh"
#include "ops/check.h"

enum { PACK = 4, ARGMAX_THREADS = 256 };

/* The rows that a period picks, numbered: period 0 takes all, a negative one 0, p, 2p, …, a
 * positive one leaves those out. */
template <class X> struct picked_sums {
    enum { SUMS = 1 };
    const X *x;
    float *mean;
    int64_t d, period, count;

    template <int W> struct item {
        float value[W];
    };

    template <int W> __device__ void load(item<W> &to, int64_t picked, int64_t column) const
    {
        int64_t row = period < 0   ? picked * -period
                      : period > 0 ? picked / (period - 1) * period + 1 + picked % (period - 1)
                                   : picked;
        load_pack<W>(to.value, x + row * d + column);
    }

    template <int W>
    __device__ void add(double (&sum)[1][W], const item<W> &from, int64_t, int64_t) const
    {
#pragma unroll
        for (int j = 0; j < W; j++)
            sum[0][j] += (double)from.value[j];
    }

    __device__ void finish(int, int64_t column, double total) const
    {
        mean[column] = (float)(total / (double)count);
    }
};

static int64_t count_picked(int64_t n, int64_t period)
{
    if (period == 0)
        return n;
    int64_t every = period < 0 ? -period : period, firsts = (n + every - 1) / every;
    return period < 0 ? firsts : n - firsts;
}

enum status rows_mean_cuda(struct device *device, const struct rows_mean_args *args)
{
    int64_t n = args->x.shape[0], d = args->x.shape[1], count = count_picked(n, args->period);

    CHECK(args->x.rank == 2 && args->mean.dtype == DTYPE_F32 && tensor_is_1d(&args->mean, d));
    CHECK(count > 0, "no row is left");
    return with_any_float_type(args->x.dtype, "rows_mean: x", [&](auto x) {
        using X = typename decltype(x)::type;
        picked_sums<X> sums = {data_of<X>(args->x), data_of<float>(args->mean), d, args->period,
                               count};
        return column_sums(device, "rows_mean", count, d,
                           is_packed(args->x.data, d, args->x.dtype, PACK * sizeof(X)), sums);
    });
}

/* A value and where it is; of equal ones the first. A NaN is not greater than anything. */
struct greatest {
    float value;
    int index;
};

__device__ __forceinline__ void take(greatest &best, float value, int index)
{
    if (value > best.value || (value == best.value && index < best.index)) {
        best.value = value;
        best.index = index;
    }
}

/* A block a row. */
template <int WIDTH, class X>
__global__ void __launch_bounds__(ARGMAX_THREADS, 4)
    rows_argmax(int32_t *__restrict__ to, const X *__restrict__ x, int32_t k)
{
    SHARED(float, values, ARGMAX_THREADS / WARP);
    SHARED(int, indices, ARGMAX_THREADS / WARP);
    const X *row = x + (int64_t)blockIdx.x * k;
    greatest best = {-INFINITY, INT32_MAX};

    for (int at = (int)threadIdx.x * WIDTH; at < k; at += ARGMAX_THREADS * WIDTH) {
        float value[WIDTH];
        load_pack<WIDTH>(value, row + at);
#pragma unroll
        for (int j = 0; j < WIDTH; j++)
            take(best, value[j], at + j);
    }
#pragma unroll
    for (int distance = WARP / 2; distance > 0; distance /= 2) {
        float value = __shfl_xor_sync(ALL_LANES, best.value, distance);
        int index = __shfl_xor_sync(ALL_LANES, best.index, distance);
        take(best, value, index);
    }
    if (threadIdx.x % WARP == 0) {
        values[threadIdx.x / WARP] = best.value;
        indices[threadIdx.x / WARP] = best.index;
    }
    __syncthreads();
    if (threadIdx.x == 0) {
        for (int warp = 1; warp < ARGMAX_THREADS / WARP; warp++)
            take(best, values[warp], indices[warp]);
        to[blockIdx.x] = best.index < k ? best.index : 0; /* nothing but NaN: the first */
    }
}

enum status rows_argmax_cuda(struct device *device, const struct rows_argmax_args *args)
{
    int64_t n = args->x.shape[0], k = args->x.shape[1];

    CHECK(args->x.rank == 2 && args->index.dtype == DTYPE_I32 && args->index.shape[0] >= n);
    CHECK(n <= INT32_MAX && k > 0 && k < INT32_MAX);
    return with_any_float_type(args->x.dtype, "rows_argmax: x", [&](auto x) {
        using X = typename decltype(x)::type;
        bool wide = is_packed(args->x.data, k, args->x.dtype, PACK * sizeof(X));
        return launch(device, "rows_argmax", static_cast<unsigned>(n), ARGMAX_THREADS, 0,
                      wide ? rows_argmax<PACK, X> : rows_argmax<1, X>,
                      data_of<int32_t>(args->index), data_of<X>(args->x), static_cast<int32_t>(k));
    });
}
