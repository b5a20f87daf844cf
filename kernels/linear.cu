/* Linear layer on CUDA: cuBLASLt products with what can be fused into them, and small kernels for
 * what can't (GELU by erf, ReLU, a bias of another type, shapes whose epilogues the library lacks).
 *
 * Row-major y = x weight^T is, read column by column, d [Out, N] = weight^T-of-its-transpose times
 * x:
 *
 *   forward   d = y   [Out, N]   a = weight [In, Out] transposed   b = x   [In, N]
 *   dgrad     d = d_x [In, N]    a = weight [In, Out]              b = d_y [Out, N]
 *   wgrad     d = dW  [In, Out]  a = x      [In, N]                b = d_y [Out, N] transposed
 *
 * The bias gradient, the sum of b over k of the last product, is made by a kernel that reads d_y
 * once more (2 bytes an element). The library's epilogue for it (BGRADB) costs more than that: on
 * an H200 the product takes 1.3 to 2.4 times as long with it, the kernel 0.07 to 0.55 of a product.
 * Where an op in front of this one has d_y in its registers, it makes the sum (residual.h). */
#include "ops/linear.h"

#include <limits.h>

#include "kernels/activation.cuh"
#include "kernels/column_sums.cuh"
#include "kernels/launch.cuh"
#include "kernels/matmul.h"
#include "kernels/op_cuda.h"
#include "kernels/value.cuh"
#include "kernels/warp.cuh"
#include "ops/check.h"

enum {
    THREADS = 256,
    COLUMN_WARPS = 8,
    ROWS_AT_ONCE = 4, /* that a warp of column_chunk_sums loads */
    LEAST_CHUNK_ROWS = ROWS_AT_ONCE * COLUMN_WARPS
};

/* ------------------------------------------------------------------------------ small kernels */

/* value = y + bias; pre = value (if there is one); y = activation(value). PACK columns a thread. */
template <int PACK, class Y, class B>
__global__ void __launch_bounds__(THREADS)
    bias_activation(Y *y, Y *pre, const B *__restrict__ bias, int64_t n_packs, int64_t n_columns,
                    enum activation activation)
{
    int64_t stride = (int64_t)gridDim.x * blockDim.x;

    for (int64_t i = (int64_t)blockIdx.x * blockDim.x + threadIdx.x; i < n_packs; i += stride) {
        float value[PACK], add[PACK];
        load_pack<PACK>(value, y + i * PACK);
        if (bias != nullptr) {
            load_pack<PACK>(add, bias + i * PACK % n_columns);
#pragma unroll
            for (int j = 0; j < PACK; j++)
                value[j] += add[j];
        }
        if (pre != nullptr)
            store_pack<PACK>(pre + i * PACK, value);
#pragma unroll
        for (int j = 0; j < PACK; j++)
            value[j] = activate(activation, value[j]);
        store_pack<PACK>(y + i * PACK, value);
    }
}

/* d_x *= activation'(pre) */
template <int PACK, class D, class P>
__global__ void __launch_bounds__(THREADS)
    multiply_derivative(D *d_x, const P *__restrict__ pre, int64_t n_packs,
                        enum activation activation)
{
    int64_t stride = (int64_t)gridDim.x * blockDim.x;

    for (int64_t i = (int64_t)blockIdx.x * blockDim.x + threadIdx.x; i < n_packs; i += stride) {
        float gradient[PACK], x[PACK];
        load_pack<PACK>(gradient, d_x + i * PACK);
        load_pack<PACK>(x, pre + i * PACK);
#pragma unroll
        for (int j = 0; j < PACK; j++)
            gradient[j] = activation_gradient(activation, gradient[j], x[j]);
        store_pack<PACK>(d_x + i * PACK, gradient);
    }
}

/* partial[chunk, column] = sum of d_y over the rows of a chunk. A lane has PACK columns, a warp
 * every eighth row, of which four are under way at once, each with sums of its own. */
template <int PACK, class T>
__global__ void __launch_bounds__(COLUMN_WARPS *WARP, 3)
    column_chunk_sums(float *__restrict__ partial, const T *__restrict__ d_y, int64_t n,
                      int64_t n_columns, int64_t chunk_rows)
{
    constexpr int SPAN = WARP * PACK;
    SHARED(float, shared, COLUMN_WARPS *SPAN);
    int lane = (int)threadIdx.x % WARP, warp = (int)threadIdx.x / WARP;
    int64_t column = ((int64_t)blockIdx.x * WARP + lane) * PACK;
    int64_t row = (int64_t)blockIdx.y * chunk_rows + warp;
    int64_t after = ((int64_t)blockIdx.y + 1) * chunk_rows, end = after < n ? after : n;
    float sums[ROWS_AT_ONCE][PACK] = {};

    if (column < n_columns) {
        const T *at = d_y + row * n_columns + column;
        int64_t step = COLUMN_WARPS * n_columns;
        for (; row + (ROWS_AT_ONCE - 1) * COLUMN_WARPS < end;
             row += ROWS_AT_ONCE * COLUMN_WARPS, at += ROWS_AT_ONCE * step) {
            float values[ROWS_AT_ONCE][PACK];
#pragma unroll
            for (int i = 0; i < ROWS_AT_ONCE; i++)
                load_pack<PACK>(values[i], at + i * step);
#pragma unroll
            for (int i = 0; i < ROWS_AT_ONCE; i++)
#pragma unroll
                for (int j = 0; j < PACK; j++)
                    sums[i][j] += values[i][j];
        }
        for (; row < end; row += COLUMN_WARPS, at += step) {
            float values[PACK];
            load_pack<PACK>(values, at);
#pragma unroll
            for (int j = 0; j < PACK; j++)
                sums[0][j] += values[j];
        }
    }
#pragma unroll
    for (int j = 0; j < PACK; j++)
        shared[warp * SPAN + lane * PACK + j] =
            (sums[0][j] + sums[1][j]) + (sums[2][j] + sums[3][j]);
    __syncthreads();
    for (int i = (int)threadIdx.x; i < SPAN; i += COLUMN_WARPS * WARP) {
        float sum = 0.0f;
        for (int w = 0; w < COLUMN_WARPS; w++)
            sum += shared[w * SPAN + i];
        if ((int64_t)blockIdx.x * SPAN + i < n_columns)
            partial[(int64_t)blockIdx.y * n_columns + (int64_t)blockIdx.x * SPAN + i] = sum;
    }
}

/* Where the sums of the chunks go. */
struct bias_gradient {
    enum { SUMS = 1 };
    float *d_bias;

    __device__ void finish(int, int64_t column, double total) const
    {
        d_bias[column] += (float)total;
    }
};

/* ------------------------------------------------------------------------------ launchers */

static bool is_float(enum dtype dtype)
{
    return dtype == DTYPE_F32 || dtype == DTYPE_BF16 || dtype == DTYPE_F16;
}

/* Blocks for `n` items of work, at most eight for each multiprocessor: the kernels stride. */
static unsigned blocks_for(const struct device *device, int64_t n)
{
    int64_t most = (int64_t)cuda_device_of(device)->sm_count * 8;
    int64_t blocks = (n + THREADS - 1) / THREADS;
    return (unsigned)(blocks < most ? blocks : most);
}

template <class Y, class B>
static enum status launch_bias_activation(struct device *device, const struct linear_args *args)
{
    int64_t n_columns = args->y.shape[1], n = args->y.shape[0] * n_columns;
    bool packed = n_columns % 4 == 0 && is_packed(args->y.data, 4, args->y.dtype, 4 * sizeof(Y)) &&
                  is_packed(args->pre.data, 4, args->y.dtype, 4 * sizeof(Y)) &&
                  is_packed(args->bias.data, 4, args->bias.dtype, 4 * sizeof(B));
    Y *y = data_of<Y>(args->y), *pre = data_of<Y>(args->pre);
    const B *bias = data_of<B>(args->bias);

    if (packed)
        return launch(device, "bias_activation", blocks_for(device, n / 4), THREADS, 0,
                      bias_activation<4, Y, B>, y, pre, bias, n / 4, n_columns, args->activation);
    return launch(device, "bias_activation", blocks_for(device, n), THREADS, 0,
                  bias_activation<1, Y, B>, y, pre, bias, n, n_columns, args->activation);
}

static enum status finish_forward(struct device *device, const struct linear_args *args)
{
    return with_float_type(args->y.dtype, "linear: y", [&](auto y) {
        using Y = typename decltype(y)::type;
        enum dtype bias = args->bias.data != nullptr ? args->bias.dtype : args->y.dtype;
        return with_float_type(bias, "linear: bias", [&](auto b) {
            return launch_bias_activation<Y, typename decltype(b)::type>(device, args);
        });
    });
}

static enum status finish_dgrad(struct device *device, const struct linear_backward_args *args)
{
    int64_t n = tensor_n_elements(&args->d_x);

    return with_float_type(args->d_x.dtype, "linear_backward: d_x", [&](auto d) {
        using D = typename decltype(d)::type;
        return with_float_type(args->pre.dtype, "linear_backward: pre", [&](auto p) {
            using P = typename decltype(p)::type;
            D *d_x = data_of<D>(args->d_x);
            const P *pre = data_of<P>(args->pre);
            if (n % 4 == 0 && is_packed(d_x, 4, args->d_x.dtype, 4 * sizeof(D)) &&
                is_packed(pre, 4, args->pre.dtype, 4 * sizeof(P)))
                return launch(device, "multiply_derivative", blocks_for(device, n / 4), THREADS, 0,
                              multiply_derivative<4, D, P>, d_x, pre, n / 4, args->activation);
            return launch(device, "multiply_derivative", blocks_for(device, n), THREADS, 0,
                          multiply_derivative<1, D, P>, d_x, pre, n, args->activation);
        });
    });
}

template <int PACK, class T>
static enum status launch_column_sums(struct device *device,
                                      const struct linear_backward_args *args)
{
    int64_t n = args->d_y.shape[0], n_columns = args->d_y.shape[1];
    int64_t across = grid_for(n_columns, WARP * PACK);
    int64_t most = (n + LEAST_CHUNK_ROWS - 1) / LEAST_CHUNK_ROWS;
    int64_t n_chunks = static_cast<int64_t>(cuda_device_of(device)->sm_count) * 6 / across;
    struct bias_gradient to = {data_of<float>(args->d_bias)};
    float *partial;

    n_chunks = n_chunks > most ? most : n_chunks > 0 ? n_chunks : 1;
    int64_t chunk_rows = (n + n_chunks - 1) / n_chunks;
    TRY(cuda_scratch(device, &partial, static_cast<size_t>(n_chunks * n_columns) * sizeof(float)));
    TRY(launch(device, "column_sums",
               dim3(static_cast<unsigned>(across), static_cast<unsigned>(n_chunks)),
               COLUMN_WARPS * WARP, 0, column_chunk_sums<PACK, T>, partial,
               data_of<const T>(args->d_y), n, n_columns, chunk_rows));
    return add_column_totals(device, "column_sums", static_cast<const float *>(partial), n_chunks,
                             n_columns, to);
}

/* d_bias += column sums of d_y. */
static enum status add_bias_gradient(struct device *device, const struct linear_backward_args *args)
{
    int64_t n_columns = args->d_y.shape[1];

    return with_float_type(args->d_y.dtype, "linear_backward: d_y", [&](auto t) {
        using T = typename decltype(t)::type;
        constexpr int PACK = 16 / sizeof(T);
        return is_packed(args->d_y.data, n_columns, args->d_y.dtype, 16)
                   ? launch_column_sums<PACK, T>(device, args)
                   : launch_column_sums<1, T>(device, args);
    });
}

/* ------------------------------------------------------------------------------ forward */

static void check_forward(const struct linear_args *args)
{
    int64_t n = args->x.shape[0], n_in = args->x.shape[1], n_out = args->weight.shape[0];

    CHECK(n <= INT_MAX && n_in <= INT_MAX && n_out <= INT_MAX && n_in > 0);
    CHECK(tensor_is_2d(&args->x, n, n_in) && tensor_is_2d(&args->weight, n_out, n_in));
    CHECK(tensor_is_2d(&args->y, n, n_out));
    CHECK(args->bias.data == nullptr || tensor_is_1d(&args->bias, n_out));
    CHECK(args->pre.data == nullptr ||
          (tensor_is_2d(&args->pre, n, n_out) && args->pre.dtype == args->y.dtype));
}

static enum status check_operands(const struct tensor *a, const struct tensor *b, const char *what)
{
    if (!is_float(a->dtype) || a->dtype != b->dtype)
        FAIL(STATUS_UNSUPPORTED, "%s: operands of dtypes %d and %d; wanted both f32, bf16 or f16",
             what, (int)a->dtype, (int)b->dtype);
    return STATUS_OK;
}

/* The most that can be fused into the product, by the kinds of epilogue there are. */
static enum matmul_epilogue forward_epilogue(const struct linear_args *args)
{
    if (args->bias.data == nullptr || args->bias.dtype != args->y.dtype)
        return MATMUL_PLAIN;
    if (args->activation == ACTIVATION_GELU_TANH)
        return args->pre.data != nullptr ? MATMUL_GELU_AUX_BIAS : MATMUL_GELU_BIAS;
    return args->activation == ACTIVATION_NONE ? MATMUL_BIAS : MATMUL_PLAIN;
}

enum status linear_forward_cuda(struct device *device, const struct linear_args *args)
{
    int64_t n = args->x.shape[0], n_in = args->x.shape[1], n_out = args->weight.shape[0];
    struct matmul product = {};
    bool supported = true;

    check_forward(args);
    TRY(check_operands(&args->x, &args->weight, "linear"));
    if (n == 0 || n_out == 0)
        return STATUS_OK;
    product.m = n_out;
    product.n = n;
    product.most_n = args->most_rows;
    product.k = n_in;
    product.a_transposed = true;
    product.operand = args->x.dtype;
    product.result = args->y.dtype;
    product.a = args->weight.data;
    product.b = args->x.data;
    product.d = args->y.data;
    product.lda = product.ldb = n_in;
    product.ldd = n_out;
    product.epilogue = forward_epilogue(args);
    if (product.epilogue != MATMUL_PLAIN) {
        product.bias = args->bias.data;
        product.bias_type = args->bias.dtype;
        if (product.epilogue == MATMUL_GELU_AUX_BIAS) {
            product.aux = args->pre.data;
            product.ld_aux = n_out;
        }
        TRY(matmul_supported(device, &product, &supported));
    }
    if (!supported) {
        product.epilogue = MATMUL_PLAIN;
        product.bias = product.aux = nullptr;
    }
    TRY(matmul_run(device, &product));
    bool left = args->bias.data != nullptr || args->activation != ACTIVATION_NONE ||
                args->pre.data != nullptr;
    return product.epilogue == MATMUL_PLAIN && left ? finish_forward(device, args) : STATUS_OK;
}

/* ------------------------------------------------------------------------------ backward */

static enum status input_gradient(struct device *device, const struct linear_backward_args *args)
{
    int64_t n = args->d_y.shape[0], n_out = args->d_y.shape[1], n_in = args->weight.shape[1];
    bool derive = args->pre.data != nullptr && args->activation != ACTIVATION_NONE;
    struct matmul product = {};
    bool supported = true;

    TRY(check_operands(&args->d_y, &args->weight, "linear_backward"));
    product.m = n_in;
    product.n = n;
    product.most_n = args->most_rows;
    product.k = n_out;
    product.operand = args->d_y.dtype;
    product.result = args->d_x.dtype;
    product.a = args->weight.data;
    product.b = args->d_y.data;
    product.d = args->d_x.data;
    product.lda = product.ldd = n_in;
    product.ldb = n_out;
    if (derive && args->activation == ACTIVATION_GELU_TANH && args->pre.dtype == args->d_x.dtype) {
        product.epilogue = MATMUL_DGELU;
        product.aux = args->pre.data;
        product.ld_aux = n_in;
        TRY(matmul_supported(device, &product, &supported));
        if (supported)
            return matmul_run(device, &product);
        product.epilogue = MATMUL_PLAIN;
        product.aux = nullptr;
    }
    TRY(matmul_run(device, &product));
    return derive ? finish_dgrad(device, args) : STATUS_OK;
}

static enum status weight_gradient(struct device *device, const struct linear_backward_args *args)
{
    int64_t n = args->d_y.shape[0], n_out = args->d_y.shape[1], n_in = args->x.shape[1];
    struct matmul product = {};

    TRY(check_operands(&args->d_y, &args->x, "linear_backward"));
    CHECK(args->d_weight.dtype == DTYPE_F32);
    product.m = n_in;
    product.n = n_out;
    product.k = n;
    product.most_k = args->most_rows;
    product.b_transposed = true;
    product.operand = args->d_y.dtype;
    product.result = DTYPE_F32;
    product.a = args->x.data;
    product.b = args->d_y.data;
    product.d = args->d_weight.data;
    product.lda = product.ldd = n_in;
    product.ldb = n_out;
    product.beta = 1.0f;
    return matmul_run(device, &product);
}

enum status linear_backward_cuda(struct device *device, const struct linear_backward_args *args)
{
    int64_t n = args->d_y.shape[0], n_out = args->d_y.shape[1], n_in = args->x.shape[1];

    CHECK(n <= INT_MAX && n_in <= INT_MAX && n_out <= INT_MAX && n_out > 0);
    CHECK(tensor_is_2d(&args->d_y, n, n_out) && tensor_is_2d(&args->x, n, n_in));
    CHECK(args->pre.data == nullptr || tensor_is_2d(&args->pre, n, n_in));
    CHECK(args->d_bias.data == nullptr || tensor_is_1d(&args->d_bias, n_out));
    CHECK(args->d_weight.data == nullptr || tensor_is_2d(&args->d_weight, n_out, n_in));
    CHECK(args->d_x.data == nullptr ||
          (tensor_is_2d(&args->d_x, n, n_in) && tensor_is_2d(&args->weight, n_out, n_in)));
    if (n == 0)
        return STATUS_OK;
    if (args->d_weight.data != nullptr)
        TRY(weight_gradient(device, args));
    if (args->d_bias.data != nullptr)
        TRY(add_bias_gradient(device, args));
    return args->d_x.data != nullptr ? input_gradient(device, args) : STATUS_OK;
}
