/* Batch normalisation on the CPU; column sums in double, each thread owning a range of columns. */
#include "ops/batchnorm.h"

#include <math.h>

#include "ops/check.h"
#include "ops/vector_math.h"

enum status batchnorm_moments_cpu(struct device *device, const struct batchnorm_moments_args *args)
{
    int64_t n = args->x.shape[0], d = args->x.shape[1];
    const float *x = args->x.data;
    double *moments = args->moments.data;

    (void)device;
    CHECK_F32("batchnorm_moments", args->x);
    CHECK(args->moments.dtype == DTYPE_F64 && tensor_n_elements(&args->moments) == 2 * d);
#pragma omp parallel for schedule(static)
    for (int64_t j = 0; j < d; j++) {
        double sum = 0.0, squares = 0.0;
        for (int64_t i = 0; i < n; i++) {
            double value = x[i * d + j];
            sum += value;
            squares += value * value;
        }
        moments[j] = sum;
        moments[d + j] = squares;
    }
    return STATUS_OK;
}

/* Mean and 1/sqrt(variance + eps) of every column, and the running statistics. */
static void finish_moments(const struct batchnorm_apply_args *args, int64_t d)
{
    const double *moments = args->moments.data;
    float *mean = args->mean.data, *rstd = args->rstd.data;
    float *running_mean = args->running_mean.data, *running_var = args->running_var.data;
    double n = (double)args->n_rows;

    for (int64_t j = 0; j < d; j++) {
        double m = moments[j] / n, variance = moments[d + j] / n - m * m;
        variance = variance > 0.0 ? variance : 0.0;
        mean[j] = (float)m;
        rstd[j] = (float)(1.0 / sqrt(variance + args->eps));
        if (running_mean != NULL) {
            double unbiased = n > 1.0 ? variance * n / (n - 1.0) : variance;
            running_mean[j] += args->momentum * ((float)m - running_mean[j]);
            running_var[j] += args->momentum * ((float)unbiased - running_var[j]);
        }
    }
}

enum status batchnorm_apply_cpu(struct device *device, const struct batchnorm_apply_args *args)
{
    int64_t n = args->x.shape[0], d = args->x.shape[1];
    const float *x = args->x.data, *gamma = args->gamma.data, *beta = args->beta.data;
    const float *mean = args->mean.data, *rstd = args->rstd.data;
    float *y = args->y.data, *pre = args->pre.data;

    (void)device;
    CHECK_F32("batchnorm_apply", args->x);
    CHECK(mean != NULL && rstd != NULL && args->n_rows >= n);
    finish_moments(args, d);
#pragma omp parallel for schedule(static)
    for (int64_t i = 0; i < n; i++)
        for (int64_t j = 0; j < d; j++) {
            float value = (x[i * d + j] - mean[j]) * rstd[j] * gamma[j] + beta[j];
            if (pre != NULL)
                pre[i * d + j] = value;
            if (args->activation == ACTIVATION_GELU)
                value = vector_gelu(value);
            else if (args->activation == ACTIVATION_RELU)
                value = value > 0.0f ? value : 0.0f;
            y[i * d + j] = value;
        }
    return STATUS_OK;
}

enum status batchnorm_backward_moments_cpu(struct device *device,
                                           const struct batchnorm_backward_moments_args *args)
{
    int64_t n = args->x.shape[0], d = args->x.shape[1];
    const float *x = args->x.data, *d_y = args->d_y.data;
    const float *mean = args->mean.data, *rstd = args->rstd.data;
    double *moments = args->moments.data;
    float *d_gamma = args->d_gamma.data, *d_beta = args->d_beta.data;

    (void)device;
    CHECK_F32("batchnorm_backward_moments", args->x);
    CHECK(args->moments.dtype == DTYPE_F64 && tensor_n_elements(&args->moments) == 2 * d);
#pragma omp parallel for schedule(static)
    for (int64_t j = 0; j < d; j++) {
        double sum = 0.0, along = 0.0;
        for (int64_t i = 0; i < n; i++) {
            double gradient = d_y[i * d + j];
            sum += gradient;
            along += gradient * (double)((x[i * d + j] - mean[j]) * rstd[j]);
        }
        moments[j] = sum;
        moments[d + j] = along;
        if (d_gamma != NULL)
            d_gamma[j] += (float)along;
        if (d_beta != NULL)
            d_beta[j] += (float)sum;
    }
    return STATUS_OK;
}

enum status batchnorm_backward_apply_cpu(struct device *device,
                                         const struct batchnorm_backward_apply_args *args)
{
    int64_t n = args->x.shape[0], d = args->x.shape[1];
    const float *x = args->x.data, *d_y = args->d_y.data, *gamma = args->gamma.data;
    const float *mean = args->mean.data, *rstd = args->rstd.data;
    const double *moments = args->moments.data;
    float *d_x = args->d_x.data;
    float inverse = 1.0f / (float)args->n_rows;

    (void)device;
    CHECK_F32("batchnorm_backward_apply", args->x);
#pragma omp parallel for schedule(static)
    for (int64_t i = 0; i < n; i++)
        for (int64_t j = 0; j < d; j++) {
            float xhat = (x[i * d + j] - mean[j]) * rstd[j];
            float away = ((float)moments[j] + xhat * (float)moments[d + j]) * inverse;
            d_x[i * d + j] = gamma[j] * rstd[j] * (d_y[i * d + j] - away);
        }
    return STATUS_OK;
}
