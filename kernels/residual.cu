/* Residual, stochastic depth and LayerNorm on CUDA, bound by memory: in bf16 12 bytes an element
 * forward (read stream and branch, write stream and norm) and 16 backward, of a bf16 stream 8 and
 * 10; little is computed, and that in float32.
 *
 * One warp a row. The row stays in registers, N packs of four values a lane, so that everything is
 * read once and mean, variance and gradient are sums over lanes; warps stride over the rows. A row
 * of 384 is three packs, 768 six, 1024 eight.
 *
 * Gradients of gamma, beta and the branch's bias: each warp sums its rows in registers, the warps
 * of a block add up in shared memory in order, a second small kernel adds the blocks in order: the
 * same bits on every call. Widths that are no multiple of four, rows beyond 1536, odd addresses and
 * mixed types take plain kernels that read a row several times. */
#include "ops/residual.h"

#include "kernels/column_sums.cuh"
#include "kernels/op_cuda.h"
#include "kernels/value.cuh"
#include "ops/check.h"

enum {
    PACK = 4,
    WIDEST = 12 * PACK * WARP, /* of the rows that are kept in registers */
    BACK_WARPS = 4,
    BACK_THREADS = BACK_WARPS * WARP
};

/* ------------------------------------------------------------------------------ rows in lanes */

/* The packs of a row that this lane holds; what lies past the row is 0. */
template <int N, class T>
__device__ __forceinline__ void load_row(float (&to)[N][PACK], const T *row, int n_packs)
{
#pragma unroll
    for (int i = 0; i < N; i++) {
        int pack = i * WARP + lane_of_warp();
        if (pack < n_packs) {
            load_pack<PACK>(to[i], row + pack * PACK);
        } else {
#pragma unroll
            for (int j = 0; j < PACK; j++)
                to[i][j] = 0.0f;
        }
    }
}

template <int N, class T>
__device__ __forceinline__ void store_row(T *row, const float (&from)[N][PACK], int n_packs)
{
#pragma unroll
    for (int i = 0; i < N; i++) {
        int pack = i * WARP + lane_of_warp();
        if (pack < n_packs)
            store_pack<PACK>(row + pack * PACK, from[i]);
    }
}

/* A value as an array of X gives it back. */
template <class X> __device__ __forceinline__ float stored(float value)
{
    return to_float(from_float<X>(value));
}

/* Where a row lies in an array that leaves dropped samples out; -1: nowhere. */
__device__ __forceinline__ int64_t row_in(const int32_t *shift, const int32_t *sample, int64_t row)
{
    if (shift == nullptr)
        return row;
    int32_t up = shift[sample[row]];
    return up < 0 ? -1 : row - up;
}

/* What a row's branch is multiplied by. */
__device__ __forceinline__ float factor_of(const float *scale, const int32_t *sample, int64_t row)
{
    return scale != nullptr ? scale[sample[row]] : 1.0f;
}

/* ------------------------------------------------------------------------------ forward */

template <class X, class B, class Y> struct forward_arrays {
    const X *x;
    const B *branch;
    const float *scale;
    const int32_t *sample, *branch_shift, *y_shift;
    X *sum;
    const float *gamma, *beta;
    Y *y;
    float *mean, *rstd;
    int64_t n;
    int32_t d;
    float eps;
};

template <class X, class B, class Y>
__device__ __forceinline__ void save_statistics(const forward_arrays<X, B, Y> &a, int64_t row,
                                                float mean, float rstd)
{
    if (lane_of_warp() != 0)
        return;
    if (a.mean != nullptr)
        a.mean[row] = mean;
    if (a.rstd != nullptr)
        a.rstd[row] = rstd;
}

template <int N, class X, class T>
__global__ void __launch_bounds__(ROW_THREADS, 2) residual_layernorm(forward_arrays<X, T, T> a)
{
    int n_packs = a.d / PACK;

    for (int64_t row = first_row(); row < a.n; row += row_stride()) {
        float value[N][PACK];
        load_row<N>(value, a.x + row * a.d, n_packs);
        if (a.branch != nullptr) {
            int64_t from = row_in(a.branch_shift, a.sample, row);
            if (from >= 0) {
                float branch[N][PACK], factor = factor_of(a.scale, a.sample, row);
                load_row<N>(branch, a.branch + from * a.d, n_packs);
#pragma unroll
                for (int i = 0; i < N; i++)
#pragma unroll
                    for (int j = 0; j < PACK; j++)
                        value[i][j] = stored<X>(value[i][j] + factor * branch[i][j]);
            }
            store_row<N>(a.sum + row * a.d, value, n_packs);
        }
        int64_t to = a.y != nullptr ? row_in(a.y_shift, a.sample, row) : -1;
        if (to < 0)
            continue;
        float sum = 0.0f, squares = 0.0f;
#pragma unroll
        for (int i = 0; i < N; i++)
            sum += (value[i][0] + value[i][1]) + (value[i][2] + value[i][3]);
        float mean = warp_sum(sum) / (float)a.d;
#pragma unroll
        for (int i = 0; i < N; i++)
            if (i * WARP + lane_of_warp() < n_packs)
#pragma unroll
                for (int j = 0; j < PACK; j++)
                    squares += (value[i][j] - mean) * (value[i][j] - mean);
        float rstd = 1.0f / sqrtf(warp_sum(squares) / (float)a.d + a.eps);
#pragma unroll
        for (int i = 0; i < N; i++) {
            int pack = i * WARP + lane_of_warp();
            if (pack >= n_packs)
                continue;
            float gamma[PACK], beta[PACK], y[PACK];
            load_pack<PACK>(gamma, a.gamma + pack * PACK);
            load_pack<PACK>(beta, a.beta + pack * PACK);
#pragma unroll
            for (int j = 0; j < PACK; j++)
                y[j] = (value[i][j] - mean) * rstd * gamma[j] + beta[j];
            store_pack<PACK>(a.y + to * a.d + pack * PACK, y);
        }
        save_statistics(a, row, mean, rstd);
    }
}

/* Any width: a lane reads again what it wrote itself. */
template <class X, class B, class Y>
__global__ void __launch_bounds__(ROW_THREADS, 2) residual_layernorm_any(forward_arrays<X, B, Y> a)
{
    int lane = lane_of_warp();

    for (int64_t row = first_row(); row < a.n; row += row_stride()) {
        const X *value = a.x + row * a.d;
        if (a.branch != nullptr) {
            int64_t from = row_in(a.branch_shift, a.sample, row);
            float factor = factor_of(a.scale, a.sample, row);
            X *sum = a.sum + row * a.d;
            for (int j = lane; j < a.d; j += WARP)
                sum[j] = from < 0 ? value[j]
                                  : from_float<X>(to_float(value[j]) +
                                                  factor * to_float(a.branch[from * a.d + j]));
            value = sum;
        }
        int64_t to = a.y != nullptr ? row_in(a.y_shift, a.sample, row) : -1;
        if (to < 0)
            continue;
        float sum = 0.0f, squares = 0.0f;
        for (int j = lane; j < a.d; j += WARP)
            sum += to_float(value[j]);
        float mean = warp_sum(sum) / (float)a.d;
        for (int j = lane; j < a.d; j += WARP)
            squares += (to_float(value[j]) - mean) * (to_float(value[j]) - mean);
        float rstd = 1.0f / sqrtf(warp_sum(squares) / (float)a.d + a.eps);
        for (int j = lane; j < a.d; j += WARP)
            a.y[to * a.d + j] =
                from_float<Y>((to_float(value[j]) - mean) * rstd * a.gamma[j] + a.beta[j]);
        save_statistics(a, row, mean, rstd);
    }
}

/* ------------------------------------------------------------------------------ backward */

template <class X, class B, class Y> struct backward_arrays {
    const Y *d_y;
    const X *d_sum, *sum;
    const float *mean, *rstd, *gamma, *scale;
    const int32_t *sample, *branch_shift, *y_shift;
    X *d_sum_out;
    B *d_branch;
    float *partial; /* [blocks][gamma, beta, bias][d] */
    int64_t n;
    int32_t d;
};

/* Blocks that share the registers of a multiprocessor. */
constexpr int back_blocks(int n)
{
    return n <= 4 ? 4 : n <= 6 ? 3 : 2;
}

/* Adds the warps' sums in order and writes them to the block's row of `partial`. */
template <int SUMS, int N>
__device__ __forceinline__ void add_warps(float *row, float (&sum)[SUMS][N][PACK], int n_packs,
                                          float *shared)
{
    int warp = (int)threadIdx.x / WARP, d = n_packs * PACK;

    for (int turn = 0; turn < BACK_WARPS; turn++) {
        if (warp == turn) {
#pragma unroll
            for (int i = 0; i < N; i++) {
                int pack = i * WARP + lane_of_warp();
                if (pack >= n_packs)
                    continue;
#pragma unroll
                for (int s = 0; s < SUMS; s++) {
                    if (turn > 0) {
                        float before[PACK];
                        load_pack<PACK>(before, shared + s * d + pack * PACK);
#pragma unroll
                        for (int j = 0; j < PACK; j++)
                            sum[s][i][j] += before[j];
                    }
                    store_pack<PACK>(shared + s * d + pack * PACK, sum[s][i]);
                }
            }
        }
        __syncthreads();
    }
    for (int j = (int)threadIdx.x; j < SUMS * d; j += BACK_THREADS)
        row[j] = shared[j];
}

/* Where rows take many registers, a warp keeps the sums of the bias in shared memory. */
template <int SUMS, int N> constexpr bool bias_in_shared = SUMS == 3 && (N > 4);

/* SUMS: 2, or 3 with the branch's bias. */
template <int SUMS, int N, class X, class T>
__global__ void __launch_bounds__(BACK_THREADS, back_blocks(N))
    layernorm_gradient(backward_arrays<X, T, T> a)
{
    constexpr bool EARLY = N <= 6; /* registers for d_sum while the sums are made */
    constexpr bool KEPT = N <= 8;  /* registers for d_y until the sums are made; else read again */
    DYNAMIC_SHARED(float, shared);
    int n_packs = a.d / PACK;
    float sums[SUMS][N][PACK] = {}; /* gamma, beta, bias */
    float *bias = shared + (SUMS + (int)threadIdx.x / WARP) * a.d;

    if constexpr (bias_in_shared<SUMS, N>)
        store_row<N>(bias, sums[2], n_packs);

    for (int64_t row = first_row(); row < a.n; row += row_stride()) {
        float kept[KEPT ? N : 1][PACK], xhat[N][PACK], past[EARLY ? N : 1][PACK];
        /* of a row that did not go through the norm all that is 0 */
        int64_t from = row_in(a.y_shift, a.sample, row), to = row_in(a.branch_shift, a.sample, row);
        float mean = from < 0 ? 0.0f : a.mean[row], rstd = from < 0 ? 0.0f : a.rstd[row];
        float plain = 0.0f, along = 0.0f;
        int n_normed = from < 0 ? 0 : n_packs;
        const T *d_y = a.d_y + from * a.d;
        if constexpr (KEPT)
            load_row<N>(kept, d_y, n_normed);
        load_row<N>(xhat, a.sum + row * a.d, n_normed);
        if constexpr (EARLY)
            if (a.d_sum != nullptr)
                load_row<N>(past, a.d_sum + row * a.d, n_packs);
#pragma unroll
        for (int i = 0; i < N; i++) {
            int pack = i * WARP + lane_of_warp();
            if (pack >= n_normed)
                continue;
            float gamma[PACK], gradient[PACK];
            load_pack<PACK>(gamma, a.gamma + pack * PACK);
            if constexpr (!KEPT)
                load_pack<PACK>(gradient, d_y + pack * PACK);
#pragma unroll
            for (int j = 0; j < PACK; j++) {
                if constexpr (KEPT)
                    gradient[j] = kept[i][j];
                xhat[i][j] = (xhat[i][j] - mean) * rstd;
                sums[0][i][j] += gradient[j] * xhat[i][j];
                sums[1][i][j] += gradient[j];
                gradient[j] *= gamma[j];
                plain += gradient[j];
                along += gradient[j] * xhat[i][j];
                if constexpr (KEPT)
                    kept[i][j] = gradient[j];
            }
        }
        plain = warp_sum(plain) / (float)a.d;
        along = warp_sum(along) / (float)a.d;
        float factor = factor_of(a.scale, a.sample, row);
#pragma unroll
        for (int i = 0; i < N; i++) {
            int pack = i * WARP + lane_of_warp();
            if (pack >= n_packs)
                continue;
            float out[PACK] = {}, gradient[PACK] = {}, gamma[PACK];
            if constexpr (!EARLY)
                if (a.d_sum != nullptr)
                    load_pack<PACK>(out, a.d_sum + row * a.d + pack * PACK);
            if constexpr (!KEPT) {
                load_pack<PACK>(gamma, a.gamma + pack * PACK);
                if (pack < n_normed)
                    load_pack<PACK>(gradient, d_y + pack * PACK);
            }
#pragma unroll
            for (int j = 0; j < PACK; j++) {
                if constexpr (EARLY)
                    out[j] = a.d_sum != nullptr ? past[i][j] : 0.0f;
                if constexpr (KEPT)
                    gradient[j] = kept[i][j];
                else
                    gradient[j] *= gamma[j];
                out[j] += rstd * (gradient[j] - plain - xhat[i][j] * along);
            }
            store_pack<PACK>(a.d_sum_out + row * a.d + pack * PACK, out);
            if (a.d_branch != nullptr && to >= 0) {
#pragma unroll
                for (int j = 0; j < PACK; j++) {
                    out[j] *= factor;
                    if constexpr (SUMS == 3 && !bias_in_shared<SUMS, N>)
                        sums[2][i][j] += out[j];
                }
                store_pack<PACK>(a.d_branch + to * a.d + pack * PACK, out);
                if constexpr (bias_in_shared<SUMS, N>) {
                    float before[PACK];
                    load_pack<PACK>(before, bias + pack * PACK);
#pragma unroll
                    for (int j = 0; j < PACK; j++)
                        before[j] += out[j];
                    store_pack<PACK>(bias + pack * PACK, before);
                }
            }
        }
    }
    if constexpr (bias_in_shared<SUMS, N>)
        load_row<N>(sums[2], bias, n_packs);
    add_warps(a.partial + (int64_t)blockIdx.x * SUMS * a.d, sums, n_packs, shared);
}

/* Any width, without the gradients of gamma and beta. */
template <class X, class B, class Y>
__global__ void __launch_bounds__(ROW_THREADS, 2) layernorm_gradient_any(backward_arrays<X, B, Y> a)
{
    int lane = lane_of_warp();

    for (int64_t row = first_row(); row < a.n; row += row_stride()) {
        int64_t at = row * a.d, from = row_in(a.y_shift, a.sample, row);
        int64_t to = row_in(a.branch_shift, a.sample, row);
        float mean = from < 0 ? 0.0f : a.mean[row], rstd = from < 0 ? 0.0f : a.rstd[row];
        float plain = 0.0f, along = 0.0f;
        float factor = factor_of(a.scale, a.sample, row);
        for (int j = lane; from >= 0 && j < a.d; j += WARP) {
            float gradient = to_float(a.d_y[from * a.d + j]) * a.gamma[j];
            plain += gradient;
            along += gradient * ((to_float(a.sum[at + j]) - mean) * rstd);
        }
        plain = warp_sum(plain) / (float)a.d;
        along = warp_sum(along) / (float)a.d;
        for (int j = lane; j < a.d; j += WARP) {
            float gradient = from < 0 ? 0.0f : to_float(a.d_y[from * a.d + j]) * a.gamma[j];
            float out = a.d_sum != nullptr ? to_float(a.d_sum[at + j]) : 0.0f;
            out += rstd * (gradient - plain - (to_float(a.sum[at + j]) - mean) * rstd * along);
            a.d_sum_out[at + j] = from_float<X>(out);
            if (a.d_branch != nullptr && to >= 0)
                a.d_branch[to * a.d + j] = from_float<B>(factor * out);
        }
    }
}

/* Without a LayerNorm: the gradient goes on, and to the branch. */
template <int WIDTH, class X, class B>
__global__ void __launch_bounds__(ROW_THREADS, 2) residual_gradient(backward_arrays<X, B, float> a)
{
    for (int64_t row = first_row(); row < a.n; row += row_stride()) {
        int64_t at = row * a.d, to = row_in(a.branch_shift, a.sample, row);
        float factor = factor_of(a.scale, a.sample, row);
        for (int j = lane_of_warp() * WIDTH; j < a.d; j += WARP * WIDTH) {
            float value[WIDTH];
            load_pack<WIDTH>(value, a.d_sum + at + j);
            if (a.d_sum_out != a.d_sum)
                store_pack<WIDTH>(a.d_sum_out + at + j, value);
            if (a.d_branch == nullptr || to < 0)
                continue;
#pragma unroll
            for (int k = 0; k < WIDTH; k++)
                value[k] *= factor;
            store_pack<WIDTH>(a.d_branch + to * a.d + j, value);
        }
    }
}

/* Where the sums over rows go. */
template <int N_SUMS> struct affine_gradients {
    enum { SUMS = N_SUMS };
    float *d_gamma, *d_beta, *d_bias;

    __device__ void finish(int which, int64_t column, double total) const
    {
        float *to = which == 0 ? d_gamma : which == 1 ? d_beta : d_bias;
        if (to != nullptr)
            to[column] += (float)total;
    }
};

/* The sums of gamma and beta from the arrays, for any width. */
template <class X, class Y> struct affine_sums : affine_gradients<2> {
    const Y *d_y;
    const X *sum;
    const float *mean, *rstd;
    const int32_t *sample, *y_shift;
    int64_t d;

    template <int W> struct item {
        float d_y[W], x[W], mean, rstd;
    };

    template <int W> __device__ void load(item<W> &to, int64_t row, int64_t column) const
    {
        int64_t from = row_in(y_shift, sample, row);
        if (from < 0) {
            to = {};
            return;
        }
        load_pack<W>(to.d_y, d_y + from * d + column);
        load_pack<W>(to.x, sum + row * d + column);
        to.mean = mean[row];
        to.rstd = rstd[row];
    }

    template <int W>
    __device__ void add(double (&total)[2][W], const item<W> &from, int64_t, int64_t) const
    {
#pragma unroll
        for (int j = 0; j < W; j++) {
            total[0][j] += (double)(from.d_y[j] * ((from.x[j] - from.mean) * from.rstd));
            total[1][j] += (double)from.d_y[j];
        }
    }
};

/* Of the bias, from the branch's gradient. */
template <class B> struct bias_sums {
    enum { SUMS = 1 };
    const B *d_branch;
    float *d_bias;
    int64_t d;

    template <int W> struct item {
        float value[W];
    };

    template <int W> __device__ void load(item<W> &to, int64_t row, int64_t column) const
    {
        load_pack<W>(to.value, d_branch + row * d + column);
    }

    template <int W>
    __device__ void add(double (&total)[1][W], const item<W> &from, int64_t, int64_t) const
    {
#pragma unroll
        for (int j = 0; j < W; j++)
            total[0][j] += (double)from.value[j];
    }

    __device__ void finish(int, int64_t column, double total) const
    {
        d_bias[column] += (float)total;
    }
};

/* ------------------------------------------------------------------------------ launchers */

static bool absent_or_1d(const struct tensor *tensor, int64_t n)
{
    return tensor->data == nullptr || tensor_is_1d(tensor, n);
}

static bool absent_or_2d(const struct tensor *tensor, int64_t n, int64_t d)
{
    return tensor->data == nullptr || tensor_is_2d(tensor, n, d);
}

/* Rows of which those of dropped samples may be left out. */
static bool fits(const struct tensor *tensor, const struct tensor *shift, int64_t n, int64_t d)
{
    return tensor->data == nullptr ||
           (tensor_is_2d(tensor, tensor->shape[0], d) &&
            (shift->data == nullptr ? tensor->shape[0] == n : tensor->shape[0] <= n));
}

static bool has_samples(const struct tensor *sample, const struct tensor *table, int64_t n)
{
    return table->data == nullptr || (sample->data != nullptr && tensor_is_1d(sample, n));
}

/* May rows be read in packs of four? Absent ones may. */
static bool rows_packed(const struct tensor *tensor, int64_t d)
{
    return tensor->data == nullptr ||
           is_packed(tensor->data, d, tensor->dtype, PACK * dtype_size_bytes(tensor->dtype));
}

/* Calls f with the number of packs a lane that rows of d take, as a constant. */
template <class F> static enum status with_packs(int64_t d, const F &f)
{
    int64_t needed = (d + PACK * WARP - 1) / (PACK * WARP);

    if (needed <= 1)
        return f(std::integral_constant<int, 1>{});
    if (needed <= 2)
        return f(std::integral_constant<int, 2>{});
    if (needed <= 3)
        return f(std::integral_constant<int, 3>{});
    if (needed <= 4)
        return f(std::integral_constant<int, 4>{});
    if (needed <= 6)
        return f(std::integral_constant<int, 6>{});
    if (needed <= 8)
        return f(std::integral_constant<int, 8>{});
    return f(std::integral_constant<int, 12>{});
}

/* Calls f with the types of the stream, of a branch and of a norm: float32 with
 * any of the others, bf16 with its own. */
template <class F>
static enum status with_types(const char *op, enum dtype stream, enum dtype branch, enum dtype norm,
                              const F &f)
{
    if (stream == DTYPE_BF16 && branch == DTYPE_BF16 && norm == DTYPE_BF16)
        return f(type_tag<bf16>{}, type_tag<bf16>{}, type_tag<bf16>{});
    if (stream != DTYPE_F32)
        FAIL(STATUS_UNSUPPORTED,
             "%s: a stream of dtype %d beside dtypes %d and %d; the CUDA op takes f32, or bf16 for "
             "all of them",
             op, static_cast<int>(stream), static_cast<int>(branch), static_cast<int>(norm));
    return with_float_type(branch, op, [&](auto b) {
        return with_float_type(norm, op, [&](auto y) { return f(type_tag<float>{}, b, y); });
    });
}

static void check_forward(const struct residual_layernorm_args *args)
{
    int64_t n = args->x.shape[0], d = args->x.shape[1];

    CHECK(args->sum.data == nullptr || args->sum.dtype == args->x.dtype, "types of x and sum");
    CHECK(tensor_is_2d(&args->x, n, d) && d > 0 && d <= INT32_MAX);
    CHECK((args->branch.data == nullptr) == (args->sum.data == nullptr), "a sum needs a branch");
    CHECK(fits(&args->branch, &args->branch_shift, n, d) && absent_or_2d(&args->sum, n, d));
    CHECK(fits(&args->y, &args->y_shift, n, d));
    CHECK(has_samples(&args->sample, &args->scale, n) &&
              has_samples(&args->sample, &args->branch_shift, n) &&
              has_samples(&args->sample, &args->y_shift, n),
          "scale and shifts need the sample of each row");
    CHECK(args->y.data == nullptr ||
          (args->gamma.data != nullptr && tensor_is_1d(&args->gamma, d) &&
           args->beta.data != nullptr && tensor_is_1d(&args->beta, d)));
    CHECK(absent_or_1d(&args->mean, n) && absent_or_1d(&args->rstd, n));
}

template <class X, class B, class Y>
static enum status forward(struct device *device, const struct residual_layernorm_args *args)
{
    forward_arrays<X, B, Y> a = {};
    int64_t n = args->x.shape[0], d = args->x.shape[1];
    unsigned blocks = row_blocks(device, n);

    a.x = data_of<X>(args->x);
    a.branch = data_of<B>(args->branch);
    a.scale = data_of<float>(args->scale);
    a.sample = data_of<int32_t>(args->sample);
    a.branch_shift = data_of<int32_t>(args->branch_shift);
    a.y_shift = data_of<int32_t>(args->y_shift);
    a.sum = data_of<X>(args->sum);
    a.gamma = data_of<float>(args->gamma);
    a.beta = data_of<float>(args->beta);
    a.y = data_of<Y>(args->y);
    a.mean = data_of<float>(args->mean);
    a.rstd = data_of<float>(args->rstd);
    a.n = n;
    a.d = static_cast<int32_t>(d);
    a.eps = args->eps;
    if constexpr (std::is_same_v<B, Y>)
        if (d % PACK == 0 && d <= WIDEST && rows_packed(&args->x, d) &&
            rows_packed(&args->branch, d) && rows_packed(&args->sum, d) &&
            rows_packed(&args->y, d) && rows_packed(&args->gamma, d) && rows_packed(&args->beta, d))
            return with_packs(d, [&](auto packs) {
                return launch(device, "residual_layernorm", blocks, ROW_THREADS, 0,
                              residual_layernorm<decltype(packs)::value, X, Y>, a);
            });
    return launch(device, "residual_layernorm_any", blocks, ROW_THREADS, 0,
                  residual_layernorm_any<X, B, Y>, a);
}

enum status residual_layernorm_forward_cuda(struct device *device,
                                            const struct residual_layernorm_args *args)
{
    /* an absent one has the type of the other */
    enum dtype y = args->y.data != nullptr ? args->y.dtype : args->branch.dtype;
    enum dtype branch = args->branch.data != nullptr ? args->branch.dtype : y;

    check_forward(args);
    if (args->y.data == nullptr && args->branch.data == nullptr)
        return STATUS_OK;
    return with_types("residual_layernorm", args->x.dtype, branch, y, [&](auto x, auto b, auto t) {
        return forward<typename decltype(x)::type, typename decltype(b)::type,
                       typename decltype(t)::type>(device, args);
    });
}

static void check_backward(const struct residual_layernorm_backward_args *args)
{
    int64_t n = args->d_sum_out.shape[0], d = args->d_sum_out.shape[1];
    bool normed = args->d_y.data != nullptr;

    CHECK(tensor_is_2d(&args->d_sum_out, n, d) && d > 0 && d <= INT32_MAX);
    CHECK(args->d_sum.data == nullptr || args->d_sum.dtype == args->d_sum_out.dtype,
          "types of d_sum and d_sum_out");
    CHECK(normed || args->d_sum.data != nullptr, "no gradient comes in");
    CHECK(fits(&args->d_y, &args->y_shift, n, d) && absent_or_2d(&args->d_sum, n, d));
    CHECK(fits(&args->d_branch, &args->branch_shift, n, d));
    CHECK(has_samples(&args->sample, &args->scale, n) &&
              has_samples(&args->sample, &args->branch_shift, n) &&
              has_samples(&args->sample, &args->y_shift, n),
          "scale and shifts need the sample of each row");
    CHECK(args->d_bias.data == nullptr ||
              (args->d_branch.data != nullptr && tensor_is_1d(&args->d_bias, d)),
          "d_bias is of d_branch");
    if (!normed)
        return;
    CHECK(args->sum.data != nullptr && tensor_is_2d(&args->sum, n, d) &&
          args->sum.dtype == args->d_sum_out.dtype);
    CHECK(args->gamma.data != nullptr && tensor_is_1d(&args->gamma, d));
    CHECK(args->mean.data != nullptr && tensor_is_1d(&args->mean, n));
    CHECK(args->rstd.data != nullptr && tensor_is_1d(&args->rstd, n));
    CHECK(absent_or_1d(&args->d_gamma, d) && absent_or_1d(&args->d_beta, d));
}

template <class X, class B, class Y>
static backward_arrays<X, B, Y>
backward_arrays_of(const struct residual_layernorm_backward_args *args)
{
    backward_arrays<X, B, Y> a = {};

    a.d_y = data_of<Y>(args->d_y);
    a.d_sum = data_of<X>(args->d_sum);
    a.sum = data_of<X>(args->sum);
    a.mean = data_of<float>(args->mean);
    a.rstd = data_of<float>(args->rstd);
    a.gamma = data_of<float>(args->gamma);
    a.scale = data_of<float>(args->scale);
    a.sample = data_of<int32_t>(args->sample);
    a.branch_shift = data_of<int32_t>(args->branch_shift);
    a.y_shift = data_of<int32_t>(args->y_shift);
    a.d_sum_out = data_of<X>(args->d_sum_out);
    a.d_branch = data_of<B>(args->d_branch);
    a.n = args->d_sum_out.shape[0];
    a.d = static_cast<int32_t>(args->d_sum_out.shape[1]);
    return a;
}

/* d_bias, if it is wanted, from the branch's gradient as it is stored. */
template <class B>
static enum status add_bias_sums(struct device *device,
                                 const struct residual_layernorm_backward_args *args)
{
    int64_t n = args->d_branch.shape[0], d = args->d_branch.shape[1];
    bias_sums<B> sums = {data_of<B>(args->d_branch), data_of<float>(args->d_bias), d};

    if (sums.d_bias == nullptr)
        return STATUS_OK;
    return column_sums(device, "branch_bias_gradient", n, d, rows_packed(&args->d_branch, d), sums);
}

template <class X, class B>
static enum status plain_backward(struct device *device,
                                  const struct residual_layernorm_backward_args *args)
{
    backward_arrays<X, B, float> a = backward_arrays_of<X, B, float>(args);
    bool packed = rows_packed(&args->d_sum, a.d) && rows_packed(&args->d_sum_out, a.d) &&
                  rows_packed(&args->d_branch, a.d);

    if (a.d_branch == nullptr && a.d_sum == a.d_sum_out)
        return STATUS_OK;
    TRY(launch(device, "residual_gradient", row_blocks(device, a.n), ROW_THREADS, 0,
               packed ? residual_gradient<PACK, X, B> : residual_gradient<1, X, B>, a));
    return add_bias_sums<B>(device, args);
}

/* Rows in registers: gradients and sums at once. */
template <int SUMS, class X, class T>
static enum status backward_in_registers(struct device *device, backward_arrays<X, T, T> a,
                                         const affine_gradients<SUMS> &to)
{
    return with_packs(a.d, [&](auto packs) {
        constexpr int N = decltype(packs)::value;
        int64_t most = static_cast<int64_t>(cuda_device_of(device)->sm_count) * back_blocks(N);
        int64_t wanted = (a.n + BACK_WARPS - 1) / BACK_WARPS;
        int64_t blocks = wanted < most ? wanted : most;
        TRY(cuda_scratch(device, &a.partial,
                         static_cast<size_t>(blocks) * SUMS * static_cast<size_t>(a.d) *
                             sizeof(float)));
        TRY(launch(device, "layernorm_gradient", static_cast<unsigned>(blocks), BACK_THREADS,
                   (SUMS + (bias_in_shared<SUMS, N> ? BACK_WARPS : 0)) * static_cast<size_t>(a.d) *
                       sizeof(float),
                   layernorm_gradient<SUMS, N, X, T>, a));
        if (to.d_gamma == nullptr && to.d_beta == nullptr && to.d_bias == nullptr)
            return STATUS_OK;
        return add_column_totals(device, "layernorm_gradient",
                                 static_cast<const float *>(a.partial), blocks, a.d, to);
    });
}

template <class X, class B, class Y>
static enum status backward(struct device *device,
                            const struct residual_layernorm_backward_args *args)
{
    backward_arrays<X, B, Y> a = backward_arrays_of<X, B, Y>(args);
    float *d_gamma = data_of<float>(args->d_gamma), *d_beta = data_of<float>(args->d_beta);
    float *d_bias = data_of<float>(args->d_bias);
    bool packed = rows_packed(&args->d_y, a.d) && rows_packed(&args->sum, a.d);

    if constexpr (std::is_same_v<B, Y>)
        if (a.d % PACK == 0 && a.d <= WIDEST && packed && rows_packed(&args->d_sum, a.d) &&
            rows_packed(&args->gamma, a.d) && rows_packed(&args->d_sum_out, a.d) &&
            rows_packed(&args->d_branch, a.d))
            return d_bias != nullptr
                       ? backward_in_registers<3, X, Y>(device, a, {d_gamma, d_beta, d_bias})
                       : backward_in_registers<2, X, Y>(device, a, {d_gamma, d_beta, nullptr});
    affine_sums<X, Y> sums = {
        {d_gamma, d_beta, nullptr}, a.d_y, a.sum, a.mean, a.rstd, a.sample, a.y_shift, a.d};
    if (d_gamma != nullptr || d_beta != nullptr) /* d_sum_out may not lie on these */
        TRY(column_sums(device, "layernorm_affine_gradient", a.n, a.d, packed, sums));
    TRY(launch(device, "layernorm_gradient_any", row_blocks(device, a.n), ROW_THREADS, 0,
               layernorm_gradient_any<X, B, Y>, a));
    return add_bias_sums<B>(device, args);
}

enum status residual_layernorm_backward_cuda(struct device *device,
                                             const struct residual_layernorm_backward_args *args)
{
    bool normed = args->d_y.data != nullptr;
    enum dtype stream = args->d_sum_out.dtype;
    enum dtype y = normed ? args->d_y.dtype : stream;
    enum dtype branch = args->d_branch.data != nullptr ? args->d_branch.dtype : y;

    check_backward(args);
    return with_types("residual_layernorm_backward", stream, branch, y,
                      [&](auto x, auto b, auto t) {
                          using X = typename decltype(x)::type;
                          using B = typename decltype(b)::type;
                          return normed ? backward<X, B, typename decltype(t)::type>(device, args)
                                        : plain_backward<X, B>(device, args);
                      });
}
