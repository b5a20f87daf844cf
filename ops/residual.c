/* Residual, stochastic depth and LayerNorm on the CPU: one pass over each row, both ways. */
#include "ops/residual.h"

#include <math.h>
#include <string.h>

#include "ops/check.h"

enum {
    GRADIENT_CHUNKS = 64,
    MAX_WIDTH = 16384
}; /* rows are cut in as many chunks, whatever the threads */

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

enum status residual_layernorm_forward_cpu(struct device *device,
                                           const struct residual_layernorm_args *args)
{
    int64_t n = args->x.shape[0], d = args->x.shape[1];
    const float *x = args->x.data, *branch = args->branch.data, *scale = args->scale.data;
    const float *gamma = args->gamma.data, *beta = args->beta.data;
    const int32_t *sample = args->sample.data;
    float *sum = args->sum.data, *y = args->y.data, *means = args->mean.data;
    float *rstds = args->rstd.data;

    (void)device;
    CHECK_F32("residual_layernorm", args->x);
    CHECK_F32("residual_layernorm", args->branch);
    CHECK_F32("residual_layernorm", args->y);
    CHECK((branch == NULL) == (sum == NULL), "a sum needs a branch");
    CHECK(scale == NULL || sample != NULL);
#pragma omp parallel for schedule(static)
    for (int64_t i = 0; i < n; i++) {
        const float *row = x + i * d;
        if (branch != NULL) {
            float factor = scale != NULL ? scale[sample[i]] : 1.0f;
            float *out = sum + i * d;
            for (int64_t j = 0; j < d; j++)
                out[j] = row[j] + factor * branch[i * d + j];
            row = out;
        }
        if (y == NULL)
            continue;
        float mean, rstd;
        layernorm_row(row, d, args->eps, &mean, &rstd);
        for (int64_t j = 0; j < d; j++)
            y[i * d + j] = (row[j] - mean) * rstd * gamma[j] + beta[j];
        if (means != NULL)
            means[i] = mean;
        if (rstds != NULL)
            rstds[i] = rstd;
    }
    return STATUS_OK;
}

/* Gradient of one row through the LayerNorm, added to what comes past it. */
static void backward_row(const struct residual_layernorm_backward_args *args, int64_t i, int64_t d,
                         float *gamma_sum, float *beta_sum)
{
    const float *d_y = (const float *)args->d_y.data + i * d;
    const float *x = (const float *)args->sum.data + i * d, *gamma = args->gamma.data;
    const float *past = args->d_sum.data != NULL ? (const float *)args->d_sum.data + i * d : NULL;
    float *out = (float *)args->d_sum_out.data + i * d;
    float mean = ((const float *)args->mean.data)[i], rstd = ((const float *)args->rstd.data)[i];
    float a = 0.0f, b = 0.0f;

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

enum status residual_layernorm_backward_cpu(struct device *device,
                                            const struct residual_layernorm_backward_args *args)
{
    int64_t n = args->d_sum_out.shape[0], d = args->d_sum_out.shape[1];
    const float *scale = args->scale.data, *past = args->d_sum.data;
    const int32_t *sample = args->sample.data;
    float *out = args->d_sum_out.data, *d_branch = args->d_branch.data;
    bool normed = args->d_y.data != NULL;
    static _Thread_local float partial[2][MAX_WIDTH];

    (void)device;
    CHECK_F32("residual_layernorm_backward", args->d_y);
    CHECK_F32("residual_layernorm_backward", args->d_sum_out);
    CHECK(d <= MAX_WIDTH, "width %lld", (long long)d);
    CHECK(normed || past != NULL, "no gradient comes in");
    int64_t chunk_rows = (n + GRADIENT_CHUNKS - 1) / GRADIENT_CHUNKS;
#pragma omp parallel for ordered schedule(static, 1)
    for (int64_t chunk = 0; chunk < GRADIENT_CHUNKS; chunk++) {
        int64_t first = chunk * chunk_rows;
        int64_t end = first + chunk_rows < n ? first + chunk_rows : n;
        if (normed)
            memset(partial[0], 0, (size_t)d * sizeof(float)),
                memset(partial[1], 0, (size_t)d * sizeof(float));
        for (int64_t i = first; i < end; i++) {
            if (normed)
                backward_row(args, i, d, partial[0], partial[1]);
            else if (out != past)
                memcpy(out + i * d, past + i * d, (size_t)d * sizeof(float));
            if (d_branch == NULL)
                continue;
            float factor = scale != NULL ? scale[sample[i]] : 1.0f;
            for (int64_t j = 0; j < d; j++)
                d_branch[i * d + j] = factor * out[i * d + j];
        }
#pragma omp ordered
        if (normed && first < end) {
            float *d_gamma = args->d_gamma.data, *d_beta = args->d_beta.data;
            for (int64_t j = 0; j < d && d_gamma != NULL; j++)
                d_gamma[j] += partial[0][j];
            for (int64_t j = 0; j < d && d_beta != NULL; j++)
                d_beta[j] += partial[1][j];
        }
    }
    return STATUS_OK;
}
