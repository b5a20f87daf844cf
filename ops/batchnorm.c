/* Batch normalisation on the CPU. Column sums in double: each thread owns a range of columns and
 * walks down the rows, a strip of columns at a time, so that lines of the cache are used whole. */
#include "ops/batchnorm.h"

#include <math.h>

#include "ops/activation_row.h"
#include "ops/check.h"

enum { STRIP = 32 };

/* Adds value and value * other of every row, for the columns of one strip. With xhat, `other` is
 * (x - mean) * rstd, else the value itself. */
static void strip_sums(const float *value, const float *x, const float *mean, const float *rstd,
                       int64_t n, int64_t stride, int64_t columns, double *sum, double *product)
{
    for (int64_t j = 0; j < columns; j++)
        sum[j] = product[j] = 0.0;
    for (int64_t i = 0; i < n; i++, value += stride, x += stride)
        for (int64_t j = 0; j < columns; j++) {
            double other = mean != NULL ? (double)((x[j] - mean[j]) * rstd[j]) : (double)value[j];
            sum[j] += (double)value[j];
            product[j] += (double)value[j] * other;
        }
}

enum status batchnorm_moments_cpu(struct device *device, const struct batchnorm_moments_args *args)
{
    int64_t n = args->x.shape[0], d = args->x.shape[1];
    const float *x = args->x.data;
    double *moments = args->moments.data;

    CHECK_F32("batchnorm_moments", args->x);
    CHECK(tensor_is_2d(&args->x, n, d));
    CHECK(args->moments.dtype == DTYPE_F64 && tensor_n_elements(&args->moments) == 2 * d);
#pragma omp parallel for schedule(static) num_threads(device->n_threads)
    for (int64_t first = 0; first < d; first += STRIP)
        strip_sums(x + first, x + first, NULL, NULL, n, d, d - first < STRIP ? d - first : STRIP,
                   moments + first, moments + d + first);
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
        variance = variance < 0.0 ? 0.0 : variance;
        mean[j] = (float)m;
        rstd[j] = (float)(1.0 / sqrt(variance + (double)args->eps));
        if (running_mean != NULL) {
            double unbiased = n > 1.0 ? variance * n / (n - 1.0) : variance;
            running_mean[j] += args->momentum * ((float)m - running_mean[j]);
            running_var[j] += args->momentum * ((float)unbiased - running_var[j]);
        }
    }
}

static void apply_row(const struct batchnorm_apply_args *args, int64_t i, int64_t d)
{
    const float *x = (const float *)args->x.data + i * d;
    const float *gamma = args->gamma.data, *beta = args->beta.data;
    const float *mean = args->mean.data, *rstd = args->rstd.data;
    float *y = (float *)args->y.data + i * d;

    for (int64_t j = 0; j < d; j++)
        y[j] = (x[j] - mean[j]) * rstd[j] * gamma[j] + beta[j];
    if (args->pre.data != NULL) {
        float *pre = (float *)args->pre.data + i * d;
        for (int64_t j = 0; j < d; j++)
            pre[j] = y[j];
    }
    activation_row(y, y, d, args->activation);
}

enum status batchnorm_apply_cpu(struct device *device, const struct batchnorm_apply_args *args)
{
    int64_t n = args->x.shape[0], d = args->x.shape[1];

    CHECK_F32("batchnorm_apply", args->x);
    CHECK_F32("batchnorm_apply", args->y);
    CHECK_F32("batchnorm_apply", args->pre);
    CHECK(tensor_is_2d(&args->x, n, d) && tensor_is_2d(&args->y, n, d));
    CHECK(args->pre.data == NULL || tensor_is_2d(&args->pre, n, d));
    CHECK(args->moments.dtype == DTYPE_F64 && tensor_n_elements(&args->moments) == 2 * d);
    CHECK(args->gamma.data != NULL && tensor_is_1d(&args->gamma, d));
    CHECK(args->beta.data != NULL && tensor_is_1d(&args->beta, d));
    CHECK(args->mean.data != NULL && tensor_is_1d(&args->mean, d));
    CHECK(args->rstd.data != NULL && tensor_is_1d(&args->rstd, d));
    CHECK((args->running_mean.data == NULL) == (args->running_var.data == NULL));
    CHECK(args->n_rows >= n && args->n_rows > 0);
    finish_moments(args, d);
#pragma omp parallel for schedule(static) num_threads(device->n_threads)
    for (int64_t i = 0; i < n; i++)
        apply_row(args, i, d);
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

    CHECK_F32("batchnorm_backward_moments", args->x);
    CHECK_F32("batchnorm_backward_moments", args->d_y);
    CHECK(tensor_is_2d(&args->x, n, d) && tensor_is_2d(&args->d_y, n, d));
    CHECK(mean != NULL && tensor_is_1d(&args->mean, d));
    CHECK(rstd != NULL && tensor_is_1d(&args->rstd, d));
    CHECK(args->moments.dtype == DTYPE_F64 && tensor_n_elements(&args->moments) == 2 * d);
#pragma omp parallel for schedule(static) num_threads(device->n_threads)
    for (int64_t first = 0; first < d; first += STRIP) {
        int64_t columns = d - first < STRIP ? d - first : STRIP;
        strip_sums(d_y + first, x + first, mean + first, rstd + first, n, d, columns,
                   moments + first, moments + d + first);
        for (int64_t j = first; j < first + columns; j++) {
            if (d_gamma != NULL)
                d_gamma[j] += (float)moments[d + j];
            if (d_beta != NULL)
                d_beta[j] += (float)moments[j];
        }
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

    CHECK_F32("batchnorm_backward_apply", args->x);
    CHECK_F32("batchnorm_backward_apply", args->d_y);
    CHECK_F32("batchnorm_backward_apply", args->d_x);
    CHECK(tensor_is_2d(&args->x, n, d) && tensor_is_2d(&args->d_y, n, d));
    CHECK(tensor_is_2d(&args->d_x, n, d) && gamma != NULL && mean != NULL && rstd != NULL);
    CHECK(args->moments.dtype == DTYPE_F64 && tensor_n_elements(&args->moments) == 2 * d);
    CHECK(args->n_rows >= n && args->n_rows > 0);
#pragma omp parallel for schedule(static) num_threads(device->n_threads)
    for (int64_t i = 0; i < n; i++)
        for (int64_t j = 0; j < d; j++) {
            float xhat = (x[i * d + j] - mean[j]) * rstd[j];
            float away = ((float)moments[j] + xhat * (float)moments[d + j]) * inverse;
            d_x[i * d + j] = gamma[j] * rstd[j] * (d_y[i * d + j] - away);
        }
    return STATUS_OK;
}
