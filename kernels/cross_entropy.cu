/* Cross-entropy on CUDA: a block a row. The row is read three times (greatest value and rank, sum,
 * gradient), from the cache but for the first. Sums run in float over a thread's values and in
 * double over the threads, in a fixed order. */
#include "ops/cross_entropy.h"

#include "kernels/op_cuda.h"
#include "kernels/value.cuh"
#include "kernels/warp.cuh"
#include "ops/check.h"

enum { THREADS = 128, WARPS = THREADS / WARP };

struct cross_entropy_arrays {
    const float *logits;
    const int32_t *label, *other; /* other and share together, or absent */
    const float *share;
    float *loss, *d_logits; /* d_logits may lie on logits, or be absent */
    int32_t *rank;          /* or absent */
    int32_t k, n_classifiers;
    float scale, smoothing;
};

__global__ void __launch_bounds__(THREADS) cross_entropy(cross_entropy_arrays a)
{
    SHARED(float, tops, WARPS);
    SHARED(int, ranks, WARPS);
    SHARED(double, sums, WARPS);
    SHARED(double, all_sums, WARPS);
    int64_t row = blockIdx.x;
    const float *x = a.logits + row * a.k;
    int64_t image = row / a.n_classifiers;
    int label = a.label[image], before = 0;
    int other = a.other != nullptr ? a.other[image] : label;
    float share = a.other != nullptr ? a.share[image] : 1.0f, sharp = 1.0f - a.smoothing;
    float own_share = sharp * share, other_share = sharp * (1.0f - share);
    float each = a.smoothing / (float)a.k;
    float own = x[label], others = x[other], top = -INFINITY, sum = 0.0f;
    double all = 0.0; /* sum of the row less its greatest value */

    for (int j = (int)threadIdx.x; j < a.k; j += THREADS) {
        float value = x[j];
        bool behind = value < own || (value == own && j > label); /* nothing is behind a NaN */
        before += j != label && !behind;
        top = value > top ? value : top;
    }
    top = block_max<THREADS>(top, tops);
    before = block_sum<THREADS>(before, ranks);
    for (int j = (int)threadIdx.x; j < a.k; j += THREADS)
        sum += expf(x[j] - top);
    if (each > 0.0f) {
        for (int j = (int)threadIdx.x; j < a.k; j += THREADS)
            all += (double)x[j] - (double)top;
        all = block_sum<THREADS>(all, all_sums);
    }
    double total = block_sum<THREADS>((double)sum, sums);
    if (threadIdx.x == 0) {
        double product = 0.0; /* a share of nothing is nothing, whatever the value is */
        if (own_share > 0.0f)
            product = (double)own_share * ((double)own - (double)top);
        if (other_share > 0.0f)
            product += (double)other_share * ((double)others - (double)top);
        if (each > 0.0f)
            product += (double)each * all;
        a.loss[row] = (float)(log(total) - product);
        if (a.rank != nullptr)
            a.rank[row] = before;
    }
    if (a.d_logits == nullptr)
        return;
    float factor = a.scale * (float)(1.0 / total), *d = a.d_logits + row * a.k;
    for (int j = (int)threadIdx.x; j < a.k; j += THREADS)
        d[j] = factor * expf(x[j] - top) - a.scale * (each + (j == label ? own_share : 0.0f) +
                                                      (j == other ? other_share : 0.0f));
}

enum status cross_entropy_cuda(struct device *device, const struct cross_entropy_args *args)
{
    int64_t n = args->logits.shape[0], k = args->logits.shape[1], m = args->label.shape[0];

    if (args->logits.dtype != DTYPE_F32 ||
        (args->d_logits.data != NULL && args->d_logits.dtype != DTYPE_F32))
        FAIL(STATUS_UNSUPPORTED, "cross_entropy: the CUDA op takes f32 logits and gives an f32 "
                                 "gradient");
    CHECK(args->logits.rank == 2 && args->loss.dtype == DTYPE_F32 && tensor_is_1d(&args->loss, n));
    CHECK(args->label.dtype == DTYPE_I32 && args->label.rank == 1 && m > 0 && n % m == 0);
    CHECK((args->other.data != NULL) == (args->share.data != NULL) && args->smoothing >= 0.0f &&
          args->smoothing <= 1.0f);
    CHECK(args->other.data == NULL ||
          (args->other.dtype == DTYPE_I32 && args->share.dtype == DTYPE_F32 &&
           tensor_is_1d(&args->other, m) && tensor_is_1d(&args->share, m)));
    CHECK(args->rank.data == NULL ||
          (args->rank.dtype == DTYPE_I32 && tensor_is_1d(&args->rank, n)));
    CHECK(args->d_logits.data == NULL || tensor_is_2d(&args->d_logits, n, k));
    CHECK(n <= INT32_MAX && k > 0 && k < INT32_MAX - THREADS);
    cross_entropy_arrays arrays = {data_of<float>(args->logits),
                                   data_of<int32_t>(args->label),
                                   data_of<int32_t>(args->other),
                                   data_of<float>(args->share),
                                   data_of<float>(args->loss),
                                   data_of<float>(args->d_logits),
                                   data_of<int32_t>(args->rank),
                                   static_cast<int32_t>(k),
                                   static_cast<int32_t>(n / m),
                                   args->scale,
                                   args->smoothing};
    return launch(device, "cross_entropy", static_cast<unsigned>(n), THREADS, 0, cross_entropy,
                  arrays);
}
