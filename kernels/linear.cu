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
 * Where an op in front of this one has d_y in its registers, it makes the sum (residual.h).
 *
 * Where d_x is multiplied by GELU's derivative and its column sums are wanted there are two ways:
 * the library's epilogue (DGELU), then that kernel over d_x; or the plain product, then one kernel
 * for derivative and sums (column_pass), which moves 6 bytes an element and takes 20 instructions
 * for it. fc2 of ViT-B on an H200: 921 us with the epilogue and 150 for the sums; 583 without, and
 * 425 to 460 for the kernel by its bytes (240 by its instructions, at 1.5 GHz), so 30 to 60 us
 * less; of ViT-S 50 to 80 of 820. That is a prediction, not measured. matmul_way_of measures both
 * where it runs and takes the faster. */
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

/* Changes with column_pass, so that what was measured of another one is not taken over. */
#define COLUMN_PASS_EDITION "1"

enum { THREADS = 256, COLUMN_WARPS = 8, LEAST_PART_ROWS = 4 * COLUMN_WARPS };

/* ------------------------------------------------------------------------------ small kernels */

/* value = y + bias; pre = value (if there is one); y = activation(value). PACK columns a thread. */
template <int PACK, class Y, class B>
__global__ void __launch_bounds__(THREADS)
    bias_activation(Y *y, Y *pre, const B *__restrict__ bias, int64_t n_packs, int64_t n_columns,
                    enum activation activation)
{
    int64_t stride = (int64_t)gridDim.x * blockDim.x;
    int64_t first = (int64_t)blockIdx.x * blockDim.x + threadIdx.x;
    /* of the packs of a row; the next one's is found without a division */
    int64_t across = n_columns / PACK, column = first % across, step = stride % across;

    for (int64_t i = first; i < n_packs; i += stride) {
        float value[PACK], add[PACK];
        load_pack<PACK>(value, y + i * PACK);
        if (bias != nullptr) {
            load_pack<PACK>(add, bias + column * PACK);
            column += step;
            column -= column >= across ? across : 0;
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

/* The derivative for a result of type T. */
template <enum activation KIND, class T> __device__ __forceinline__ float derivative_for(float x)
{
    if constexpr (KIND == ACTIVATION_GELU_TANH && sizeof(T) < sizeof(float))
        return gelu_tanh_derivative_quick(x);
    else
        return activation_gradient(KIND, 1.0f, x);
}

/* Blocks that share the registers of a multiprocessor. */
constexpr int column_blocks(enum activation kind)
{
    return kind == ACTIVATION_GELU_TANH ? 4 : 3;
}

/* partial[part, column] = sum of x over the rows of a part; with an activation x is first
 * multiplied by its derivative at `pre`, and written back. A lane has PACK columns, a warp every
 * eighth row, of which four are under way at once.
 *
 * A part is part_rows rows that lie together. With an activation the parts take turns instead, 32
 * rows each, from the end of x on: the product in front has left its last rows in the level-2
 * cache, and the one that follows begins with the first. */
template <int PACK, class T, enum activation KIND>
__global__ void __launch_bounds__(COLUMN_WARPS *WARP, column_blocks(KIND))
    column_pass(float *__restrict__ partial, T *x, const T *__restrict__ pre, int64_t n,
                int64_t n_columns, int64_t part_rows)
{
    constexpr bool DERIVE = KIND != ACTIVATION_NONE;
    constexpr int SPAN = WARP * PACK, ROWS = DERIVE ? 2 : 4, AT_ONCE = ROWS * COLUMN_WARPS;
    SHARED(float, shared, COLUMN_WARPS *SPAN);
    int lane = (int)threadIdx.x % WARP, warp = (int)threadIdx.x / WARP;
    int64_t column = ((int64_t)blockIdx.x * WARP + lane) * PACK;
    int64_t part = blockIdx.y, row = part * part_rows + warp, step = AT_ONCE;
    int64_t end = (part + 1) * part_rows < n ? (part + 1) * part_rows : n;
    float sums[DERIVE ? 1 : ROWS][PACK] = {};

    if constexpr (DERIVE) {
        row = ((n + AT_ONCE - 1) / AT_ONCE - 1 - part) * AT_ONCE + warp;
        step = -(int64_t)gridDim.y * AT_ONCE;
        end = n;
    }
    for (; column < n_columns && (DERIVE ? row >= 0 : row < end); row += step) {
        raw_pack<T, PACK> values[ROWS], inner[ROWS];
#pragma unroll
        for (int i = 0; i < ROWS; i++)
            if (row + i * COLUMN_WARPS < end) {
                int64_t at = (row + i * COLUMN_WARPS) * n_columns + column;
                values[i] = load_raw<PACK>(x + at);
                if constexpr (DERIVE)
                    inner[i] = load_raw<PACK>(pre + at);
            }
#pragma unroll
        for (int i = 0; i < ROWS; i++)
            if (row + i * COLUMN_WARPS < end) {
                float value[PACK], before[PACK];
                unpack<PACK, T>(value, values[i]);
                if constexpr (DERIVE)
                    unpack<PACK, T>(before, inner[i]);
#pragma unroll
                for (int j = 0; j < PACK; j++) {
                    if constexpr (DERIVE)
                        value[j] *= derivative_for<KIND, T>(before[j]);
                    sums[DERIVE ? 0 : i][j] += value[j];
                }
                if constexpr (DERIVE)
                    values[i] = repack<PACK, T>(value);
            }
        if constexpr (DERIVE) /* apart: stores among what is computed are cut into words */
#pragma unroll
            for (int i = 0; i < ROWS; i++)
                if (row + i * COLUMN_WARPS < end)
                    store_raw<PACK>(x + (row + i * COLUMN_WARPS) * n_columns + column, values[i]);
    }
#pragma unroll
    for (int j = 0; j < PACK; j++)
        if constexpr (DERIVE)
            shared[warp * SPAN + lane * PACK + j] = sums[0][j];
        else
            shared[warp * SPAN + lane * PACK + j] =
                (sums[0][j] + sums[1][j]) + (sums[2][j] + sums[3][j]);
    __syncthreads();
    for (int i = (int)threadIdx.x; i < SPAN; i += COLUMN_WARPS * WARP) {
        float sum = 0.0f;
        for (int w = 0; w < COLUMN_WARPS; w++)
            sum += shared[w * SPAN + i];
        if ((int64_t)blockIdx.x * SPAN + i < n_columns)
            partial[part * n_columns + (int64_t)blockIdx.x * SPAN + i] = sum;
    }
}

/* Where the sums of the parts go. */
struct bias_gradient {
    enum { SUMS = 1 };
    float *sums;

    __device__ void finish(int, int64_t column, double total) const
    {
        sums[column] += (float)total;
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

/* Where x's column sums go, after a pass over it. */
struct column_pass_args {
    struct tensor x, pre, sums;
    bool trial; /* nothing is added: the time of that is everybody's */
};

template <int PACK, class T, enum activation KIND>
static enum status launch_column_pass(struct device *device, const struct column_pass_args *args)
{
    int64_t n = args->x.shape[0], n_columns = args->x.shape[1];
    int64_t across = grid_for(n_columns, WARP * PACK);
    int64_t most = (n + LEAST_PART_ROWS - 1) / LEAST_PART_ROWS;
    /* three blocks of a multiprocessor at once: parts that take turns are all there from the start
     */
    int64_t blocks =
        static_cast<int64_t>(cuda_device_of(device)->sm_count) * (KIND == ACTIVATION_NONE ? 6 : 3);
    int64_t n_parts = blocks / across;
    struct bias_gradient to = {data_of<float>(args->sums)};
    float *partial;

    n_parts = n_parts > most ? most : n_parts > 0 ? n_parts : 1;
    TRY(cuda_scratch(device, &partial, static_cast<size_t>(n_parts * n_columns) * sizeof(float)));
    TRY(launch(device, "column_pass",
               dim3(static_cast<unsigned>(across), static_cast<unsigned>(n_parts)),
               COLUMN_WARPS * WARP, 0, column_pass<PACK, T, KIND>, partial, data_of<T>(args->x),
               data_of<const T>(args->pre), n, n_columns, (n + n_parts - 1) / n_parts));
    return args->trial
               ? STATUS_OK
               : add_column_totals(device, "column_pass", static_cast<const float *>(partial),
                                   n_parts, n_columns, to);
}

/* sums += column sums of x, which is multiplied by the derivative of the activation before. */
template <enum activation KIND>
static enum status column_pass_of(struct device *device, const struct column_pass_args *args)
{
    int64_t n_columns = args->x.shape[1];

    return with_float_type(args->x.dtype, "linear_backward: sums", [&](auto t) {
        using T = typename decltype(t)::type;
        constexpr int PACK = 16 / sizeof(T);
        return is_packed(args->x.data, n_columns, args->x.dtype, 16) &&
                       is_packed(args->pre.data, n_columns, args->x.dtype, 16)
                   ? launch_column_pass<PACK, T, KIND>(device, args)
                   : launch_column_pass<1, T, KIND>(device, args);
    });
}

static enum status add_column_sums(struct device *device, const struct tensor &x,
                                   const struct tensor &sums, bool trial)
{
    struct column_pass_args args = {x, {}, sums, trial};

    return column_pass_of<ACTIVATION_NONE>(device, &args);
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

/* d_x: a product, perhaps with the derivative as its epilogue, and what is left. */
struct input_product {
    struct device *device;
    const struct linear_backward_args *args;
    struct matmul plain, fused;
};

/* What is left after a plain product. */
static enum status derive_and_sum(const struct input_product *g, bool trial)
{
    const struct linear_backward_args *args = g->args;
    struct column_pass_args pass = {args->d_x, args->pre, args->d_x_sums, trial};

    if (pass.sums.data != nullptr && args->pre.dtype == args->d_x.dtype) {
        if (args->activation == ACTIVATION_GELU_TANH)
            return column_pass_of<ACTIVATION_GELU_TANH>(g->device, &pass);
        if (args->activation == ACTIVATION_GELU)
            return column_pass_of<ACTIVATION_GELU>(g->device, &pass);
    }
    TRY(finish_dgrad(g->device, args));
    return pass.sums.data != nullptr ? add_column_sums(g->device, pass.x, pass.sums, trial)
                                     : STATUS_OK;
}

static enum status run_input_gradient(const struct input_product *g, enum matmul_way way,
                                      bool trial)
{
    TRY(matmul_run(g->device, way == MATMUL_FUSED ? &g->fused : &g->plain));
    if (way == MATMUL_SPLIT)
        return derive_and_sum(g, trial);
    return g->args->d_x_sums.data != nullptr
               ? add_column_sums(g->device, g->args->d_x, g->args->d_x_sums, trial)
               : STATUS_OK;
}

static enum status try_input_gradient(void *context, enum matmul_way way)
{
    return run_input_gradient(static_cast<const struct input_product *>(context), way, true);
}

static enum status input_gradient(struct device *device, const struct linear_backward_args *args)
{
    int64_t n = args->d_y.shape[0], n_out = args->d_y.shape[1], n_in = args->weight.shape[1];
    bool derive = args->pre.data != nullptr && args->activation != ACTIVATION_NONE;
    struct matmul product = {};
    enum matmul_way way = derive ? MATMUL_SPLIT : MATMUL_FUSED;

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
    struct input_product gradient = {device, args, product, product};
    if (derive && args->activation == ACTIVATION_GELU_TANH && args->pre.dtype == args->d_x.dtype) {
        bool supported;
        gradient.fused.epilogue = MATMUL_DGELU;
        gradient.fused.aux = args->pre.data;
        gradient.fused.ld_aux = n_in;
        TRY(matmul_supported(device, &gradient.fused, &supported));
        way = supported ? MATMUL_FUSED : MATMUL_SPLIT;
        struct matmul_trial trial = {"with column sums " COLUMN_PASS_EDITION, try_input_gradient,
                                     &gradient};
        if (supported && args->d_x_sums.data != nullptr)
            TRY(matmul_way_of(device, &gradient.fused, &trial, &way));
    }
    return run_input_gradient(&gradient, way, false);
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
    CHECK(args->d_x_sums.data == nullptr ||
          (args->d_x.data != nullptr && tensor_is_1d(&args->d_x_sums, n_in)));
    if (n == 0)
        return STATUS_OK;
    if (args->d_weight.data != nullptr)
        TRY(weight_gradient(device, args));
    if (args->d_bias.data != nullptr)
        TRY(add_column_sums(device, args->d_y, args->d_bias, false));
    return args->d_x.data != nullptr ? input_gradient(device, args) : STATUS_OK;
}
