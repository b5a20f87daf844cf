/* Unit vectors on CUDA: a warp a row. Rows are short (the bottleneck has 256 values), so a row is
 * read twice and the second read comes from the first-level cache: memory is read once and written
 * once, which is the bound. */
#include "ops/unit_norm.h"

#include "kernels/op_cuda.h"
#include "kernels/rows.cuh"
#include "kernels/value.cuh"
#include "ops/check.h"

enum { PACK = 4 };

/* <a, b> of two rows, in every lane. */
template <int WIDTH, class A, class B>
__device__ __forceinline__ float row_dot(const A *a, const B *b, int d)
{
    float sum = 0.0f;

    for (int j = lane_of_warp() * WIDTH; j < d; j += WARP * WIDTH) {
        float left[WIDTH], right[WIDTH];
        load_pack<WIDTH>(left, a + j);
        load_pack<WIDTH>(right, b + j);
#pragma unroll
        for (int k = 0; k < WIDTH; k++)
            sum += left[k] * right[k];
    }
    return warp_sum(sum);
}

/* to = from * factor; may be the same row. */
template <int WIDTH, class X, class Y>
__device__ __forceinline__ void scale_row(Y *to, const X *from, float factor, int d)
{
    for (int j = lane_of_warp() * WIDTH; j < d; j += WARP * WIDTH) {
        float value[WIDTH];
        load_pack<WIDTH>(value, from + j);
#pragma unroll
        for (int k = 0; k < WIDTH; k++)
            value[k] *= factor;
        store_pack<WIDTH>(to + j, value);
    }
}

/* y may lie on x. */
template <int WIDTH, class X, class Y>
__global__ void __launch_bounds__(ROW_THREADS, 3)
    unit_norm(Y *y, float *inverse, const X *x, int64_t n, int32_t d, float eps)
{
    for (int64_t row = first_row(); row < n; row += row_stride()) {
        float norm = sqrtf(row_dot<WIDTH>(x + row * d, x + row * d, d));
        float factor = 1.0f / (norm < eps ? eps : norm); /* a NaN passes */
        scale_row<WIDTH>(y + row * d, x + row * d, factor, d);
        if (inverse != nullptr && lane_of_warp() == 0)
            inverse[row] = factor;
    }
}

/* d_x may lie on d_y. */
template <int WIDTH, class D, class Y>
__global__ void __launch_bounds__(ROW_THREADS, 3)
    unit_norm_backward(D *d_x, const D *d_y, const Y *__restrict__ y,
                       const float *__restrict__ inverse, int64_t n, int32_t d)
{
    for (int64_t row = first_row(); row < n; row += row_stride()) {
        float along = row_dot<WIDTH>(d_y + row * d, y + row * d, d), factor = inverse[row];
        for (int j = lane_of_warp() * WIDTH; j < d; j += WARP * WIDTH) {
            float gradient[WIDTH], value[WIDTH];
            load_pack<WIDTH>(gradient, d_y + row * d + j);
            load_pack<WIDTH>(value, y + row * d + j);
#pragma unroll
            for (int k = 0; k < WIDTH; k++)
                gradient[k] = factor * (gradient[k] - value[k] * along);
            store_pack<WIDTH>(d_x + row * d + j, gradient);
        }
    }
}

template <int WIDTH, class W>
__global__ void __launch_bounds__(ROW_THREADS, 3)
    weight_norm(W *__restrict__ weight, float *inverse, const float *__restrict__ direction,
                const float *__restrict__ gain, int64_t n, int32_t d)
{
    for (int64_t row = first_row(); row < n; row += row_stride()) {
        const float *from = direction + row * d;
        float length = 1.0f / sqrtf(row_dot<WIDTH>(from, from, d));
        scale_row<WIDTH>(weight + row * d, from, (gain != nullptr ? gain[row] : 1.0f) * length, d);
        if (inverse != nullptr && lane_of_warp() == 0)
            inverse[row] = length;
    }
}

template <int WIDTH, class W>
__global__ void __launch_bounds__(ROW_THREADS, 3)
    weight_norm_backward(float *d_direction, float *d_gain, const W *__restrict__ d_weight,
                         const float *__restrict__ direction, const float *__restrict__ gain,
                         const float *__restrict__ inverse, int64_t n, int32_t d)
{
    for (int64_t row = first_row(); row < n; row += row_stride()) {
        int64_t at = row * d;
        float length = inverse[row];
        float along = row_dot<WIDTH>(d_weight + at, direction + at, d) * length;
        float factor = (gain != nullptr ? gain[row] : 1.0f) * length;
        if (d_gain != nullptr && lane_of_warp() == 0)
            d_gain[row] += along;
        if (d_direction == nullptr)
            continue;
        for (int j = lane_of_warp() * WIDTH; j < d; j += WARP * WIDTH) {
            float gradient[WIDTH], value[WIDTH], sum[WIDTH];
            load_pack<WIDTH>(gradient, d_weight + at + j);
            load_pack<WIDTH>(value, direction + at + j);
            load_pack<WIDTH>(sum, d_direction + at + j);
#pragma unroll
            for (int k = 0; k < WIDTH; k++)
                sum[k] += factor * (gradient[k] - value[k] * along * length);
            store_pack<WIDTH>(d_direction + at + j, sum);
        }
    }
}

/* ------------------------------------------------------------------------------ launchers */

/* Rows of a present tensor in packs of four? */
static bool packed(const struct tensor *tensor, int64_t d)
{
    return is_packed(tensor->data, d, tensor->dtype, PACK * dtype_size_bytes(tensor->dtype));
}

enum status unit_norm_forward_cuda(struct device *device, const struct unit_norm_args *args)
{
    int64_t n = args->x.shape[0], d = args->x.shape[1];
    bool wide = packed(&args->x, d) && packed(&args->y, d);

    CHECK(tensor_is_2d(&args->x, n, d) && tensor_is_2d(&args->y, n, d) && d <= INT32_MAX);
    CHECK(args->inverse.data == nullptr || tensor_is_1d(&args->inverse, n));
    return with_float_type(args->x.dtype, "unit_norm: x", [&](auto x) {
        return with_float_type(args->y.dtype, "unit_norm: y", [&](auto y) {
            using X = typename decltype(x)::type;
            using Y = typename decltype(y)::type;
            return launch(device, "unit_norm", row_blocks(device, n), ROW_THREADS, 0,
                          wide ? unit_norm<PACK, X, Y> : unit_norm<1, X, Y>, data_of<Y>(args->y),
                          data_of<float>(args->inverse), data_of<X>(args->x), n,
                          static_cast<int32_t>(d), args->eps);
        });
    });
}

enum status unit_norm_backward_cuda(struct device *device,
                                    const struct unit_norm_backward_args *args)
{
    int64_t n = args->d_y.shape[0], d = args->d_y.shape[1];
    bool wide = packed(&args->d_y, d) && packed(&args->y, d) && packed(&args->d_x, d);

    CHECK(tensor_is_2d(&args->d_y, n, d) && tensor_is_2d(&args->y, n, d) && d <= INT32_MAX);
    CHECK(tensor_is_2d(&args->d_x, n, d) && args->d_x.dtype == args->d_y.dtype);
    CHECK(args->inverse.data != nullptr && tensor_is_1d(&args->inverse, n));
    return with_float_type(args->d_y.dtype, "unit_norm_backward: d_y", [&](auto d_y) {
        return with_float_type(args->y.dtype, "unit_norm_backward: y", [&](auto y) {
            using D = typename decltype(d_y)::type;
            using Y = typename decltype(y)::type;
            return launch(device, "unit_norm_backward", row_blocks(device, n), ROW_THREADS, 0,
                          wide ? unit_norm_backward<PACK, D, Y> : unit_norm_backward<1, D, Y>,
                          data_of<D>(args->d_x), data_of<D>(args->d_y), data_of<Y>(args->y),
                          data_of<float>(args->inverse), n, static_cast<int32_t>(d));
        });
    });
}

enum status weight_norm_forward_cuda(struct device *device, const struct weight_norm_args *args)
{
    int64_t n = args->direction.shape[0], d = args->direction.shape[1];
    bool wide = packed(&args->direction, d) && packed(&args->weight, d);

    CHECK(tensor_is_2d(&args->direction, n, d) && tensor_is_2d(&args->weight, n, d));
    CHECK(args->direction.dtype == DTYPE_F32 && d <= INT32_MAX);
    CHECK(args->gain.data == nullptr || tensor_is_1d(&args->gain, n));
    CHECK(args->inverse.data == nullptr || tensor_is_1d(&args->inverse, n));
    return with_float_type(args->weight.dtype, "weight_norm: weight", [&](auto weight) {
        using W = typename decltype(weight)::type;
        return launch(device, "weight_norm", row_blocks(device, n), ROW_THREADS, 0,
                      wide ? weight_norm<PACK, W> : weight_norm<1, W>, data_of<W>(args->weight),
                      data_of<float>(args->inverse), data_of<float>(args->direction),
                      data_of<float>(args->gain), n, static_cast<int32_t>(d));
    });
}

enum status weight_norm_backward_cuda(struct device *device,
                                      const struct weight_norm_backward_args *args)
{
    int64_t n = args->direction.shape[0], d = args->direction.shape[1];
    bool wide =
        packed(&args->direction, d) && packed(&args->d_weight, d) && packed(&args->d_direction, d);

    CHECK(tensor_is_2d(&args->direction, n, d) && tensor_is_2d(&args->d_weight, n, d));
    CHECK(args->inverse.data != nullptr && tensor_is_1d(&args->inverse, n) && d <= INT32_MAX);
    CHECK(args->gain.data == nullptr || tensor_is_1d(&args->gain, n));
    CHECK(args->d_gain.data == nullptr || tensor_is_1d(&args->d_gain, n));
    CHECK(args->d_direction.data == nullptr || tensor_is_2d(&args->d_direction, n, d));
    return with_float_type(args->d_weight.dtype, "weight_norm_backward: d_weight", [&](auto d_w) {
        using W = typename decltype(d_w)::type;
        return launch(device, "weight_norm_backward", row_blocks(device, n), ROW_THREADS, 0,
                      wide ? weight_norm_backward<PACK, W> : weight_norm_backward<1, W>,
                      data_of<float>(args->d_direction), data_of<float>(args->d_gain),
                      data_of<W>(args->d_weight), data_of<float>(args->direction),
                      data_of<float>(args->gain), data_of<float>(args->inverse), n,
                      static_cast<int32_t>(d));
    });
}
