/* Cross-entropy on the CPU: a thread a row, sums in float over SWEEP elements and in double over
 * those. */
#include "ops/cross_entropy.h"

#include <math.h>

#include "ops/check.h"
#include "ops/vector_math.h"

enum { SWEEP = 512 };

static int32_t rank_of(const float *x, int64_t k, int32_t label)
{
    float own = x[label];
    int32_t n = 0;

    for (int64_t j = 0; j < k; j++) {
        bool behind = x[j] < own || (x[j] == own && j > label); /* nothing is behind a NaN */
        n += j != label && !behind;
    }
    return n;
}

/* The target of a row: shares of two labels, and of each class. */
struct target {
    int32_t label, other;
    float own, others, each;
};

static struct target target_of(const struct cross_entropy_args *args, int64_t image, int64_t k)
{
    const int32_t *labels = args->label.data, *others = args->other.data;
    const float *shares = args->share.data;
    float share = shares != NULL ? shares[image] : 1.0f, sharp = 1.0f - args->smoothing;
    struct target t = {
        .label = labels[image],
        .other = others != NULL ? others[image] : labels[image],
        .own = sharp * share,
        .others = sharp * (1.0f - share),
        .each = args->smoothing / (float)k,
    };

    CHECK(t.label >= 0 && t.label < k && t.other >= 0 && t.other < k,
          "labels %d, %d of %lld classes", t.label, t.other, (long long)k);
    return t;
}

/* <t, x - top>; a share of nothing is nothing, whatever x is. */
static double target_product(const float *x, int64_t k, const struct target *t, float top)
{
    double sum = 0.0;

    if (t->own > 0.0f)
        sum = (double)t->own * ((double)x[t->label] - (double)top);
    if (t->others > 0.0f)
        sum += (double)t->others * ((double)x[t->other] - (double)top);
    if (t->each > 0.0f) {
        double all = 0.0;
#pragma omp simd reduction(+ : all)
        for (int64_t j = 0; j < k; j++)
            all += (double)x[j] - (double)top;
        sum += (double)t->each * all;
    }
    return sum;
}

/* Loss of a row; with d, the exponentials too, and the factor that makes probabilities of them. */
static float row_loss(const float *x, int64_t k, const struct target *t, float *d, float *inverse)
{
    float top = -INFINITY;
    double sum = 0.0;

#pragma omp simd reduction(max : top)
    for (int64_t j = 0; j < k; j++)
        top = x[j] > top ? x[j] : top;
    double product = target_product(x, k, t, top); /* before the exponentials may lie on x */
    for (int64_t first = 0; first < k; first += SWEEP) {
        int64_t end = k - first < SWEEP ? k : first + SWEEP;
        float part = 0.0f;
        if (d != NULL)
#pragma omp simd reduction(+ : part)
            for (int64_t j = first; j < end; j++) {
                float e = vector_exp(x[j] - top);
                part += e;
                d[j] = e;
            }
        else
#pragma omp simd reduction(+ : part)
            for (int64_t j = first; j < end; j++)
                part += vector_exp(x[j] - top);
        sum += (double)part;
    }
    *inverse = (float)(1.0 / sum);
    return (float)(log(sum) - product);
}

enum status cross_entropy_cpu(struct device *device, const struct cross_entropy_args *args)
{
    int64_t n = args->logits.shape[0], k = args->logits.shape[1];
    const float *logits = args->logits.data;
    float *loss = args->loss.data, *d_logits = args->d_logits.data, scale = args->scale;
    int32_t *rank = args->rank.data;

    CHECK_F32("cross_entropy", args->logits);
    CHECK_F32("cross_entropy", args->loss);
    CHECK(args->logits.rank == 2 && tensor_is_1d(&args->loss, n));
    CHECK(args->label.dtype == DTYPE_I32 && args->label.rank == 1 && args->label.shape[0] > 0 &&
          n % args->label.shape[0] == 0);
    CHECK((args->other.data != NULL) == (args->share.data != NULL) && args->smoothing >= 0.0f &&
          args->smoothing <= 1.0f);
    CHECK(args->other.data == NULL ||
          (args->other.dtype == DTYPE_I32 && args->share.dtype == DTYPE_F32 &&
           tensor_is_1d(&args->other, args->label.shape[0]) &&
           tensor_is_1d(&args->share, args->label.shape[0])));
    CHECK(rank == NULL || (args->rank.dtype == DTYPE_I32 && tensor_is_1d(&args->rank, n)));
    CHECK(d_logits == NULL ||
          (args->d_logits.dtype == DTYPE_F32 && tensor_is_2d(&args->d_logits, n, k)));
    int64_t n_classifiers = n / args->label.shape[0];
#pragma omp parallel for schedule(static) num_threads(device->n_threads)
    for (int64_t i = 0; i < n; i++) {
        const float *x = logits + i * k;
        float *d = d_logits != NULL ? d_logits + i * k : NULL, inverse;
        struct target t = target_of(args, i / n_classifiers, k);
        if (rank != NULL) /* before the gradient may lie on the logits */
            rank[i] = rank_of(x, k, t.label);
        loss[i] = row_loss(x, k, &t, d, &inverse);
        if (d == NULL)
            continue;
        float factor = scale * inverse, each = scale * t.each;
#pragma omp simd
        for (int64_t j = 0; j < k; j++)
            d[j] = d[j] * factor - each;
        d[t.label] -= scale * t.own;
        d[t.other] -= scale * t.others;
    }
    return STATUS_OK;
}
