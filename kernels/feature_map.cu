/* Maps of features on CUDA: sparse products, the largest of four, scaled channels. A warp a row of
 * the result, its lanes along the channels. */
#include "ops/feature_map.h"

#include "kernels/op_cuda.h"
#include "kernels/rows.cuh"
#include "kernels/value.cuh"
#include "ops/check.h"

enum { PACK = 4 };

/* May rows of d be read in packs of four? */
static bool packed(const struct tensor *tensor, int64_t d)
{
    return is_packed(tensor->data, d, tensor->dtype, PACK * dtype_size_bytes(tensor->dtype));
}

/* ------------------------------------------------------------------------------ sparse product */

struct spmm_shape {
    int64_t rows, columns, x_stride, y_stride, n; /* n: rows of all maps */
    int32_t c;
};

/* value absent: each is 1. A lane has the same columns in all entries of a row. */
template <int WIDTH, bool ADD, class T>
__global__ void __launch_bounds__(ROW_THREADS, 4)
    spmm(T *__restrict__ y, const T *__restrict__ x, const int32_t *__restrict__ start,
         const int32_t *__restrict__ column, const float *__restrict__ value, spmm_shape shape)
{
    for (int64_t row = first_row(); row < shape.n; row += row_stride()) {
        int64_t map = row / shape.rows, i = row - map * shape.rows;
        const T *from = x + map * shape.columns * shape.x_stride;
        T *to = y + row * shape.y_stride;
        int32_t first = start[i], end = start[i + 1];
        for (int j = lane_of_warp() * WIDTH; j < shape.c; j += WARP * WIDTH) {
            float sum[WIDTH] = {};
            for (int32_t e = first; e < end; e++) {
                float one[WIDTH], times = value != nullptr ? value[e] : 1.0f;
                load_pack<WIDTH>(one, from + column[e] * shape.x_stride + j);
#pragma unroll
                for (int k = 0; k < WIDTH; k++)
                    sum[k] = fmaf(times, one[k], sum[k]);
            }
            if (ADD) {
                float before[WIDTH];
                load_pack<WIDTH>(before, static_cast<const T *>(to) + j);
#pragma unroll
                for (int k = 0; k < WIDTH; k++)
                    sum[k] += before[k];
            }
            store_pack<WIDTH>(to + j, sum);
        }
    }
}

enum status spmm_cuda(struct device *device, const struct spmm_args *args)
{
    int64_t rows = args->a.start.shape[0] - 1, c = args->x.shape[1];

    spmm_check(args);
    CHECK(c <= INT32_MAX);
    spmm_shape shape = {rows,
                        args->a.n_columns,
                        args->x_stride > 0 ? args->x_stride : c,
                        args->y_stride > 0 ? args->y_stride : c,
                        args->n_maps * rows,
                        static_cast<int32_t>(c)};
    bool wide =
        c % PACK == 0 && packed(&args->x, shape.x_stride) && packed(&args->y, shape.y_stride);
    return with_float_type(args->x.dtype, "spmm: x", [&](auto x) {
        using T = typename decltype(x)::type;
        auto kernel = wide ? (args->add ? spmm<PACK, true, T> : spmm<PACK, false, T>)
                           : (args->add ? spmm<1, true, T> : spmm<1, false, T>);
        return launch(device, "spmm", row_blocks(device, shape.n), ROW_THREADS, 0, kernel,
                      data_of<T>(args->y), data_of<T>(args->x), data_of<int32_t>(args->a.start),
                      data_of<int32_t>(args->a.column), data_of<float>(args->a.value), shape);
    });
}

/* ------------------------------------------------------------------------------ largest of four */

/* Row of the first of the four that become row i of the smaller maps. */
__device__ __forceinline__ int64_t square_of(int64_t i, int height, int width)
{
    int columns = width / 2, rows = height / 2;
    int64_t map = i / (rows * columns);
    int inside = (int)(i - map * (rows * columns));

    return (map * height + 2 * (inside / columns)) * width + 2 * (inside % columns);
}

/* choice absent: nobody asks. */
template <class T>
__global__ void __launch_bounds__(ROW_THREADS, 4)
    max_pool(T *__restrict__ y, uint8_t *__restrict__ choice, const T *__restrict__ x, int64_t n,
             int32_t c, int height, int width)
{
    for (int64_t row = first_row(); row < n; row += row_stride()) {
        const T *from = x + square_of(row, height, width) * c;
        for (int j = lane_of_warp(); j < c; j += WARP) {
            float best = to_float(from[j]);
            int which = 0;
#pragma unroll
            for (int k = 1; k < 4; k++) {
                float one = to_float(from[((int64_t)(k / 2) * width + k % 2) * c + j]);
                if (one > best || (one != one && best == best)) {
                    best = one;
                    which = k;
                }
            }
            y[row * c + j] = from_float<T>(best);
            if (choice != nullptr)
                choice[row * c + j] = (uint8_t)which;
        }
    }
}

/* Squares do not meet: each element of d_x has one thread at most. */
template <class T>
__global__ void __launch_bounds__(ROW_THREADS, 4)
    max_pool_backward(T *__restrict__ d_x, const T *__restrict__ d_y,
                      const uint8_t *__restrict__ choice, int64_t n, int32_t c, int height,
                      int width)
{
    for (int64_t row = first_row(); row < n; row += row_stride()) {
        T *to = d_x + square_of(row, height, width) * c;
        for (int j = lane_of_warp(); j < c; j += WARP) {
            int k = choice[row * c + j];
            T *one = to + ((int64_t)(k / 2) * width + k % 2) * c + j;
            *one = from_float<T>(to_float(*one) + to_float(d_y[row * c + j]));
        }
    }
}

enum status max_pool_cuda(struct device *device, const struct max_pool_args *args)
{
    int64_t n = args->y.shape[0];

    max_pool_check(&args->x, &args->y, &args->choice, args->height, args->width);
    return with_float_type(args->x.dtype, "max_pool: x", [&](auto x) {
        using T = typename decltype(x)::type;
        return launch(device, "max_pool", row_blocks(device, n), ROW_THREADS, 0, max_pool<T>,
                      data_of<T>(args->y), data_of<uint8_t>(args->choice), data_of<T>(args->x), n,
                      static_cast<int32_t>(args->x.shape[1]), args->height, args->width);
    });
}

enum status max_pool_backward_cuda(struct device *device, const struct max_pool_backward_args *args)
{
    int64_t n = args->d_y.shape[0];

    CHECK(args->choice.data != nullptr);
    max_pool_check(&args->d_x, &args->d_y, &args->choice, args->height, args->width);
    return with_float_type(args->d_x.dtype, "max_pool_backward: d_x", [&](auto x) {
        using T = typename decltype(x)::type;
        return launch(device, "max_pool_backward", row_blocks(device, n), ROW_THREADS, 0,
                      max_pool_backward<T>, data_of<T>(args->d_x), data_of<T>(args->d_y),
                      data_of<uint8_t>(args->choice), n, static_cast<int32_t>(args->d_x.shape[1]),
                      args->height, args->width);
    });
}

/* ------------------------------------------------------------------------------ channels */

template <class T>
__global__ void __launch_bounds__(ROW_THREADS, 4)
    channel_scale(T *__restrict__ x, const float *__restrict__ scale, int64_t n, int64_t rows,
                  int32_t c)
{
    for (int64_t row = first_row(); row < n; row += row_stride()) {
        const float *of = scale + row / rows * c;
        for (int j = lane_of_warp(); j < c; j += WARP)
            x[row * c + j] = from_float<T>(to_float(x[row * c + j]) * of[j]);
    }
}

enum status channel_scale_cuda(struct device *device, const struct channel_scale_args *args)
{
    int64_t n = args->x.shape[0], c = args->x.shape[1], maps = args->scale.shape[0];

    CHECK(args->scale.dtype == DTYPE_F32 && c <= INT32_MAX);
    CHECK(maps > 0 && n % maps == 0 && tensor_is_2d(&args->scale, maps, c));
    return with_float_type(args->x.dtype, "channel_scale: x", [&](auto x) {
        using T = typename decltype(x)::type;
        return launch(device, "channel_scale", row_blocks(device, n), ROW_THREADS, 0,
                      channel_scale<T>, data_of<T>(args->x), data_of<float>(args->scale), n,
                      n / maps, static_cast<int32_t>(c));
    });
}
