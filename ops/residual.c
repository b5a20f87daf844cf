/* Residual, stochastic depth and LayerNorm on the CPU: one pass over each row, both ways. The
 * gradients of gamma and beta are summed by chunks of rows, as many whatever the threads, and the
 * chunks are added in order: the same bits every time. */
#include "ops/residual.h"

#include <math.h>
#include <string.h>

#include "ops/check.h"
#include "ops/cpu_scratch.h"

enum { GRADIENT_CHUNKS = 64 };

/* Where row i lies in an array that leaves dropped samples out; -1: nowhere. */
static int64_t row_in(const struct tensor *shift, const struct tensor *sample, int64_t i)
{
    if (shift->data == NULL)
        return i;
    int32_t up = ((const int32_t *)shift->data)[((const int32_t *)sample->data)[i]];
    return up < 0 ? -1 : i - up;
}

/* An array of such rows: absent, or [N, D], with a table any number of rows. */
static bool fits(const struct tensor *tensor, const struct tensor *shift, int64_t n, int64_t d)
{
    return tensor->data == NULL ||
           (tensor_is_2d(tensor, tensor->shape[0], d) &&
            (shift->data == NULL ? tensor->shape[0] == n : tensor->shape[0] <= n));
}

static bool has_samples(const struct tensor *sample, const struct tensor *table, int64_t n)
{
    return table->data == NULL || (sample->data != NULL && tensor_is_1d(sample, n));
}

/* ------------------------------------------------------------------------------ forward */

/* Mean and biased variance in two passes over a cached row. */
static void layernorm_row(const float *x, int64_t d, float eps, float *mean, float *rstd)
{
    float sum = 0.0f, squares = 0.0f;
#pragma omp simd reduction(+ : sum)
    for (int64_t j = 0; j < d; j++)
        sum += x[j];
    float m = sum / (float)d;
#pragma omp simd reduction(+ : squares)
    for (int64_t j = 0; j < d; j++)
        squares += (x[j] - m) * (x[j] - m);
    *mean = m;
    *rstd = 1.0f / sqrtf(squares / (float)d + eps);
}

static void forward_row(const struct residual_layernorm_args *args, int64_t i, int64_t d)
{
    const float *row = (const float *)args->x.data + i * d;
    const float *gamma = args->gamma.data, *beta = args->beta.data, *scale = args->scale.data;

    if (args->branch.data != NULL) {
        int64_t from = row_in(&args->branch_shift, &args->sample, i);
        float *sum = (float *)args->sum.data + i * d;
        if (from >= 0) {
            const float *branch = (const float *)args->branch.data + from * d;
            float factor = scale != NULL ? scale[((const int32_t *)args->sample.data)[i]] : 1.0f;
            for (int64_t j = 0; j < d; j++)
                sum[j] = row[j] + factor * branch[j];
        } else if (sum != row) {
            memcpy(sum, row, (size_t)d * sizeof(float));
        }
        row = sum;
    }
    int64_t to = args->y.data != NULL ? row_in(&args->y_shift, &args->sample, i) : -1;
    if (to < 0)
        return;
    float *y = (float *)args->y.data + to * d, mean, rstd;
    layernorm_row(row, d, args->eps, &mean, &rstd);
    for (int64_t j = 0; j < d; j++)
        y[j] = (row[j] - mean) * rstd * gamma[j] + beta[j];
    if (args->mean.data != NULL)
        ((float *)args->mean.data)[i] = mean;
    if (args->rstd.data != NULL)
        ((float *)args->rstd.data)[i] = rstd;
}

static bool absent_or_1d(const struct tensor *tensor, int64_t n)
{
    return tensor->data == NULL || tensor_is_1d(tensor, n);
}

static bool absent_or_2d(const struct tensor *tensor, int64_t n, int64_t d)
{
    return tensor->data == NULL || tensor_is_2d(tensor, n, d);
}

enum status residual_layernorm_forward_cpu(struct device *device,
                                           const struct residual_layernorm_args *args)
{
    int64_t n = args->x.shape[0], d = args->x.shape[1];

    CHECK_F32("residual_layernorm", args->x);
    CHECK_F32("residual_layernorm", args->branch);
    CHECK_F32("residual_layernorm", args->y);
    CHECK(tensor_is_2d(&args->x, n, d) && d > 0 && fits(&args->branch, &args->branch_shift, n, d));
    CHECK((args->branch.data == NULL) == (args->sum.data == NULL), "a sum needs a branch");
    CHECK(absent_or_2d(&args->sum, n, d) && fits(&args->y, &args->y_shift, n, d));
    CHECK(has_samples(&args->sample, &args->scale, n) &&
              has_samples(&args->sample, &args->branch_shift, n) &&
              has_samples(&args->sample, &args->y_shift, n),
          "scale and shifts need the sample of each row");
    CHECK(args->y.data == NULL || (args->gamma.data != NULL && tensor_is_1d(&args->gamma, d) &&
                                   args->beta.data != NULL && tensor_is_1d(&args->beta, d)));
    CHECK(absent_or_1d(&args->mean, n) && absent_or_1d(&args->rstd, n));
#pragma omp parallel for schedule(static) num_threads(device->n_threads)
    for (int64_t i = 0; i < n; i++)
        forward_row(args, i, d);
    return STATUS_OK;
}

/* ------------------------------------------------------------------------------ backward */

/* Gradient of one row through the LayerNorm, added to what comes past it. */
static void layernorm_gradient_row(const struct residual_layernorm_backward_args *args, int64_t i,
                                   int64_t d, float *restrict gamma_sum, float *restrict beta_sum)
{
    int64_t from = row_in(&args->y_shift, &args->sample, i);
    const float *d_y = (const float *)args->d_y.data + from * d;
    const float *x = (const float *)args->sum.data + i * d, *gamma = args->gamma.data;
    const float *past = args->d_sum.data != NULL ? (const float *)args->d_sum.data + i * d : NULL;
    float *out = (float *)args->d_sum_out.data + i * d;
    float a = 0.0f, b = 0.0f;

    if (from < 0) { /* nothing of it went through the norm */
        for (int64_t j = 0; j < d; j++)
            out[j] = past != NULL ? past[j] : 0.0f;
        return;
    }
    float mean = ((const float *)args->mean.data)[i], rstd = ((const float *)args->rstd.data)[i];

#pragma omp simd reduction(+ : a, b)
    for (int64_t j = 0; j < d; j++) {
        float xhat = (x[j] - mean) * rstd, g = d_y[j] * gamma[j];
        a += g;
        b += g * xhat;
    }
    a /= (float)d;
    b /= (float)d;
    for (int64_t j = 0; j < d; j++) {
        float xhat = (x[j] - mean) * rstd;
        gamma_sum[j] += d_y[j] * xhat;
        beta_sum[j] += d_y[j];
        out[j] = (past != NULL ? past[j] : 0.0f) + rstd * (d_y[j] * gamma[j] - a - xhat * b);
    }
}

/* sums: of gamma, beta and bias. */
static void backward_rows(const struct residual_layernorm_backward_args *args, int64_t first,
                          int64_t end, int64_t d, float *sums)
{
    const float *scale = args->scale.data, *past = args->d_sum.data;
    const int32_t *sample = args->sample.data;
    float *out = args->d_sum_out.data, *d_branch = args->d_branch.data;

    for (int64_t i = first; i < end; i++) {
        if (args->d_y.data != NULL)
            layernorm_gradient_row(args, i, d, sums, sums + d);
        else if (out != past)
            memcpy(out + i * d, past + i * d, (size_t)d * sizeof(float));
        int64_t to = d_branch != NULL ? row_in(&args->branch_shift, &args->sample, i) : -1;
        if (to < 0)
            continue;
        float factor = scale != NULL ? scale[sample[i]] : 1.0f;
        for (int64_t j = 0; j < d; j++)
            d_branch[to * d + j] = factor * out[i * d + j];
        if (args->d_bias.data != NULL)
            for (int64_t j = 0; j < d; j++)
                sums[2 * d + j] += d_branch[to * d + j];
    }
}

static void add_chunks(float *gradient, const float *sums, int64_t d, int64_t stride)
{
    for (int64_t chunk = 0; chunk < GRADIENT_CHUNKS && gradient != NULL; chunk++)
        for (int64_t j = 0; j < d; j++)
            gradient[j] += sums[chunk * stride + j];
}

enum status residual_layernorm_backward_cpu(struct device *device,
                                            const struct residual_layernorm_backward_args *args)
{
    int64_t n = args->d_sum_out.shape[0], d = args->d_sum_out.shape[1];
    bool normed = args->d_y.data != NULL;
    float *sums; /* [chunk][gamma, beta, bias][d] */

    CHECK_F32("residual_layernorm_backward", args->d_y);
    CHECK_F32("residual_layernorm_backward", args->d_sum_out);
    CHECK_F32("residual_layernorm_backward", args->d_branch);
    CHECK(tensor_is_2d(&args->d_sum_out, n, d) && d > 0);
    CHECK(normed || args->d_sum.data != NULL, "no gradient comes in");
    CHECK(fits(&args->d_y, &args->y_shift, n, d) && absent_or_2d(&args->d_sum, n, d));
    CHECK(fits(&args->d_branch, &args->branch_shift, n, d));
    CHECK(has_samples(&args->sample, &args->scale, n) &&
              has_samples(&args->sample, &args->branch_shift, n) &&
              has_samples(&args->sample, &args->y_shift, n),
          "scale and shifts need the sample of each row");
    CHECK(args->d_bias.data == NULL ||
              (args->d_branch.data != NULL && tensor_is_1d(&args->d_bias, d)),
          "d_bias is of d_branch");
    if (normed) {
        CHECK(args->sum.data != NULL && tensor_is_2d(&args->sum, n, d));
        CHECK(args->gamma.data != NULL && tensor_is_1d(&args->gamma, d));
        CHECK(args->mean.data != NULL && tensor_is_1d(&args->mean, n));
        CHECK(args->rstd.data != NULL && tensor_is_1d(&args->rstd, n));
        CHECK(absent_or_1d(&args->d_gamma, d) && absent_or_1d(&args->d_beta, d));
    }
    TRY(cpu_scratch(device, &sums, (size_t)(GRADIENT_CHUNKS * 3 * d) * sizeof(float)));
    int64_t chunk_rows = (n + GRADIENT_CHUNKS - 1) / GRADIENT_CHUNKS;
#pragma omp parallel for schedule(static) num_threads(device->n_threads)
    for (int64_t chunk = 0; chunk < GRADIENT_CHUNKS; chunk++) {
        int64_t first = chunk * chunk_rows, end = first + chunk_rows;
        float *chunk_sums = sums + chunk * 3 * d;
        memset(chunk_sums, 0, (size_t)(3 * d) * sizeof(float));
        backward_rows(args, first, end < n ? end : n, d, chunk_sums);
    }
    if (normed) {
        add_chunks(args->d_gamma.data, sums, d, 3 * d);
        add_chunks(args->d_beta.data, sums + d, d, 3 * d);
    }
    add_chunks(args->d_bias.data, sums + 2 * d, d, 3 * d);
    return STATUS_OK;
}
