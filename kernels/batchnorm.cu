/* Batch normalisation on CUDA. Column sums in double (kernels/column_sums.cuh); the two halves that
 * apply them give each thread four columns, whose statistics stay in registers, and walk down the
 * rows: one read and one or two writes an element, bound by memory. */
#include "ops/batchnorm.h"

#include "kernels/activation.cuh"
#include "kernels/column_sums.cuh"
#include "kernels/op_cuda.h"
#include "kernels/value.cuh"
#include "ops/check.h"

enum { PACK = 4 };

/* ------------------------------------------------------------------------------ sums */

template <class X> struct moment_sums {
    enum { SUMS = 2 };
    const X *x;
    double *moments;
    int64_t d;

    template <int W> struct item {
        float x[W];
    };

    template <int W> __device__ void load(item<W> &to, int64_t row, int64_t column) const
    {
        load_pack<W>(to.x, x + row * d + column);
    }

    template <int W>
    __device__ void add(double (&sum)[2][W], const item<W> &from, int64_t, int64_t) const
    {
#pragma unroll
        for (int j = 0; j < W; j++) {
            sum[0][j] += (double)from.x[j];
            sum[1][j] += (double)from.x[j] * (double)from.x[j];
        }
    }

    __device__ void finish(int which, int64_t column, double total) const
    {
        moments[which * d + column] = total;
    }
};

template <class D, class X> struct gradient_sums {
    enum { SUMS = 2 };
    const D *d_y;
    const X *x;
    const float *mean, *rstd;
    double *moments;
    float *d_gamma, *d_beta;
    int64_t d;

    template <int W> struct item {
        float d_y[W], x[W];
    };

    template <int W> __device__ void load(item<W> &to, int64_t row, int64_t column) const
    {
        load_pack<W>(to.d_y, d_y + row * d + column);
        load_pack<W>(to.x, x + row * d + column);
    }

    template <int W>
    __device__ void add(double (&sum)[2][W], const item<W> &from, int64_t, int64_t column) const
    {
#pragma unroll
        for (int j = 0; j < W; j++) {
            float xhat = (from.x[j] - mean[column + j]) * rstd[column + j];
            sum[0][j] += (double)from.d_y[j];
            sum[1][j] += (double)from.d_y[j] * (double)xhat;
        }
    }

    __device__ void finish(int which, int64_t column, double total) const
    {
        float *to = which == 0 ? d_beta : d_gamma;
        moments[which * d + column] = total;
        if (to != nullptr)
            to[column] += (float)total;
    }
};

/* ------------------------------------------------------------------------------ forward */

struct statistics {
    const double *moments;
    float *mean, *rstd, *running_mean, *running_var;
    double n_rows;
    int64_t d;
    float eps, momentum;
};

__global__ void __launch_bounds__(ROW_THREADS, 4) finish_statistics(statistics s)
{
    int64_t j = first_element();

    if (j >= s.d)
        return;
    double n = s.n_rows, m = s.moments[j] / n, variance = s.moments[s.d + j] / n - m * m;
    variance = variance < 0.0 ? 0.0 : variance;
    s.mean[j] = (float)m;
    s.rstd[j] = (float)(1.0 / sqrt(variance + (double)s.eps));
    if (s.running_mean == nullptr)
        return;
    double unbiased = n > 1.0 ? variance * n / (n - 1.0) : variance;
    s.running_mean[j] += s.momentum * ((float)m - s.running_mean[j]);
    s.running_var[j] += s.momentum * ((float)unbiased - s.running_var[j]);
}

/* y, and pre where it is wanted, may lie on x. */
template <int WIDTH, class X, class Y>
__global__ void __launch_bounds__(ROW_THREADS, 2)
    batchnorm_apply(Y *y, Y *pre, const X *x, const float *__restrict__ mean,
                    const float *__restrict__ rstd, const float *__restrict__ gamma,
                    const float *__restrict__ beta, int64_t n, int64_t d, enum activation kind)
{
    int64_t column = first_element() * WIDTH;
    float m[WIDTH], r[WIDTH], g[WIDTH], b[WIDTH];

    if (column >= d)
        return;
    load_pack<WIDTH>(m, mean + column);
    load_pack<WIDTH>(r, rstd + column);
    load_pack<WIDTH>(g, gamma + column);
    load_pack<WIDTH>(b, beta + column);
    for (int64_t row = blockIdx.y; row < n; row += gridDim.y) {
        float value[WIDTH];
        load_pack<WIDTH>(value, x + row * d + column);
#pragma unroll
        for (int j = 0; j < WIDTH; j++)
            value[j] = (value[j] - m[j]) * r[j] * g[j] + b[j];
        if (pre != nullptr)
            store_pack<WIDTH>(pre + row * d + column, value);
#pragma unroll
        for (int j = 0; j < WIDTH; j++)
            value[j] = activate(kind, value[j]);
        store_pack<WIDTH>(y + row * d + column, value);
    }
}

/* ------------------------------------------------------------------------------ backward */

/* d_x may lie on d_y. */
template <int WIDTH, class D, class X>
__global__ void __launch_bounds__(ROW_THREADS, 2)
    batchnorm_backward_apply(D *d_x, const D *d_y, const X *__restrict__ x,
                             const float *__restrict__ mean, const float *__restrict__ rstd,
                             const float *__restrict__ gamma, const double *__restrict__ moments,
                             int64_t n, int64_t d, float inverse)
{
    int64_t column = first_element() * WIDTH;
    float m[WIDTH], r[WIDTH], factor[WIDTH], plain[WIDTH], along[WIDTH];

    if (column >= d)
        return;
    load_pack<WIDTH>(m, mean + column);
    load_pack<WIDTH>(r, rstd + column);
    load_pack<WIDTH>(factor, gamma + column);
#pragma unroll
    for (int j = 0; j < WIDTH; j++) {
        factor[j] *= r[j];
        plain[j] = (float)moments[column + j];
        along[j] = (float)moments[d + column + j];
    }
    for (int64_t row = blockIdx.y; row < n; row += gridDim.y) {
        float gradient[WIDTH], value[WIDTH];
        load_pack<WIDTH>(gradient, d_y + row * d + column);
        load_pack<WIDTH>(value, x + row * d + column);
#pragma unroll
        for (int j = 0; j < WIDTH; j++) {
            float xhat = (value[j] - m[j]) * r[j];
            gradient[j] = factor[j] * (gradient[j] - (plain[j] + xhat * along[j]) * inverse);
        }
        store_pack<WIDTH>(d_x + row * d + column, gradient);
    }
}

/* ------------------------------------------------------------------------------ launchers */

/* May rows of d be read in packs of four? Absent ones may. */
static bool packed(const struct tensor *tensor, int64_t d)
{
    return is_packed(tensor->data, d, tensor->dtype, PACK * dtype_size_bytes(tensor->dtype));
}

static void check_column(const struct tensor *tensor, int64_t d)
{
    CHECK(tensor->data != nullptr && tensor->dtype == DTYPE_F32 && tensor_is_1d(tensor, d));
}

static void check_moments(const struct tensor *moments, int64_t d)
{
    CHECK(moments->dtype == DTYPE_F64 && tensor_n_elements(moments) == 2 * d);
}

/* Threads across the columns, and as many rows at a time as fill the chip. */
static dim3 column_grid(const struct device *device, int64_t n, int64_t d, bool wide)
{
    int64_t across = grid_for(d, wide ? PACK * ROW_THREADS : ROW_THREADS);
    int64_t down = (static_cast<int64_t>(cuda_device_of(device)->sm_count) * 8 + across - 1) /
                   (across > 0 ? across : 1);

    return dim3(static_cast<unsigned>(across), static_cast<unsigned>(down < n ? down : n));
}

enum status batchnorm_moments_cuda(struct device *device, const struct batchnorm_moments_args *args)
{
    int64_t n = args->x.shape[0], d = args->x.shape[1];

    CHECK(tensor_is_2d(&args->x, n, d));
    check_moments(&args->moments, d);
    return with_float_type(args->x.dtype, "batchnorm_moments: x", [&](auto x) {
        using X = typename decltype(x)::type;
        moment_sums<X> sums = {data_of<X>(args->x), data_of<double>(args->moments), d};
        return column_sums(device, "batchnorm_moments", n, d, packed(&args->x, d), sums);
    });
}

template <class X, class Y>
static enum status apply(struct device *device, const struct batchnorm_apply_args *args)
{
    int64_t n = args->x.shape[0], d = args->x.shape[1];
    bool wide = packed(&args->x, d) && packed(&args->y, d) && packed(&args->pre, d) &&
                packed(&args->mean, d) && packed(&args->rstd, d) && packed(&args->gamma, d) &&
                packed(&args->beta, d);

    return launch(device, "batchnorm_apply", column_grid(device, n, d, wide), ROW_THREADS, 0,
                  wide ? batchnorm_apply<PACK, X, Y> : batchnorm_apply<1, X, Y>,
                  data_of<Y>(args->y), data_of<Y>(args->pre), data_of<X>(args->x),
                  data_of<float>(args->mean), data_of<float>(args->rstd),
                  data_of<float>(args->gamma), data_of<float>(args->beta), n, d, args->activation);
}

enum status batchnorm_apply_cuda(struct device *device, const struct batchnorm_apply_args *args)
{
    int64_t n = args->x.shape[0], d = args->x.shape[1];

    CHECK(tensor_is_2d(&args->x, n, d) && tensor_is_2d(&args->y, n, d));
    CHECK(args->pre.data == nullptr ||
          (tensor_is_2d(&args->pre, n, d) && args->pre.dtype == args->y.dtype));
    check_moments(&args->moments, d);
    check_column(&args->gamma, d);
    check_column(&args->beta, d);
    check_column(&args->mean, d);
    check_column(&args->rstd, d);
    CHECK((args->running_mean.data == nullptr) == (args->running_var.data == nullptr));
    CHECK(args->n_rows >= n && args->n_rows > 0);
    statistics s = {data_of<double>(args->moments),
                    data_of<float>(args->mean),
                    data_of<float>(args->rstd),
                    data_of<float>(args->running_mean),
                    data_of<float>(args->running_var),
                    static_cast<double>(args->n_rows),
                    d,
                    args->eps,
                    args->momentum};
    return with_float_type(args->x.dtype, "batchnorm_apply: x", [&](auto x) {
        return with_float_type(args->y.dtype, "batchnorm_apply: y", [&](auto y) {
            TRY(launch(device, "finish_statistics", grid_for(d, ROW_THREADS), ROW_THREADS, 0,
                       finish_statistics, s));
            return apply<typename decltype(x)::type, typename decltype(y)::type>(device, args);
        });
    });
}

enum status batchnorm_backward_moments_cuda(struct device *device,
                                            const struct batchnorm_backward_moments_args *args)
{
    int64_t n = args->x.shape[0], d = args->x.shape[1];
    bool wide = packed(&args->x, d) && packed(&args->d_y, d);

    CHECK(tensor_is_2d(&args->x, n, d) && tensor_is_2d(&args->d_y, n, d));
    check_column(&args->mean, d);
    check_column(&args->rstd, d);
    check_moments(&args->moments, d);
    return with_float_type(args->d_y.dtype, "batchnorm_backward_moments: d_y", [&](auto d_y) {
        return with_float_type(args->x.dtype, "batchnorm_backward_moments: x", [&](auto x) {
            using D = typename decltype(d_y)::type;
            using X = typename decltype(x)::type;
            gradient_sums<D, X> sums = {
                data_of<D>(args->d_y),          data_of<X>(args->x),
                data_of<float>(args->mean),     data_of<float>(args->rstd),
                data_of<double>(args->moments), data_of<float>(args->d_gamma),
                data_of<float>(args->d_beta),   d};
            return column_sums(device, "batchnorm_backward_moments", n, d, wide, sums);
        });
    });
}

enum status batchnorm_backward_apply_cuda(struct device *device,
                                          const struct batchnorm_backward_apply_args *args)
{
    int64_t n = args->x.shape[0], d = args->x.shape[1];
    bool wide = packed(&args->x, d) && packed(&args->d_y, d) && packed(&args->d_x, d) &&
                packed(&args->mean, d) && packed(&args->rstd, d) && packed(&args->gamma, d);

    CHECK(tensor_is_2d(&args->x, n, d) && tensor_is_2d(&args->d_y, n, d));
    CHECK(tensor_is_2d(&args->d_x, n, d) && args->d_x.dtype == args->d_y.dtype);
    check_column(&args->mean, d);
    check_column(&args->rstd, d);
    check_column(&args->gamma, d);
    check_moments(&args->moments, d);
    CHECK(args->n_rows >= n && args->n_rows > 0);
    return with_float_type(args->d_y.dtype, "batchnorm_backward_apply: d_y", [&](auto d_y) {
        return with_float_type(args->x.dtype, "batchnorm_backward_apply: x", [&](auto x) {
            using D = typename decltype(d_y)::type;
            using X = typename decltype(x)::type;
            return launch(
                device, "batchnorm_backward_apply", column_grid(device, n, d, wide), ROW_THREADS, 0,
                wide ? batchnorm_backward_apply<PACK, D, X> : batchnorm_backward_apply<1, D, X>,
                data_of<D>(args->d_x), data_of<D>(args->d_y), data_of<X>(args->x),
                data_of<float>(args->mean), data_of<float>(args->rstd), data_of<float>(args->gamma),
                data_of<double>(args->moments), n, d, 1.0f / static_cast<float>(args->n_rows));
        });
    });
}
