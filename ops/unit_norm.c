/* Unit vectors on the CPU. */
#include "ops/unit_norm.h"

#include <math.h>

#include "ops/check.h"

static float row_dot(const float *a, const float *b, int64_t d)
{
    float sum = 0.0f;
#pragma omp simd reduction(+ : sum)
    for (int64_t j = 0; j < d; j++)
        sum += a[j] * b[j];
    return sum;
}

enum status unit_norm_forward_cpu(struct device *device, const struct unit_norm_args *args)
{
    int64_t n = args->x.shape[0], d = args->x.shape[1];
    const float *x = args->x.data;
    float *y = args->y.data, *inverse = args->inverse.data;

    CHECK_F32("unit_norm", args->x);
    CHECK_F32("unit_norm", args->y);
    CHECK(tensor_is_2d(&args->x, n, d) && tensor_is_2d(&args->y, n, d));
    CHECK(inverse == NULL || tensor_is_1d(&args->inverse, n));
#pragma omp parallel for schedule(static) num_threads(device->n_threads)
    for (int64_t i = 0; i < n; i++) {
        float norm = sqrtf(row_dot(x + i * d, x + i * d, d));
        float factor = 1.0f / (norm < args->eps ? args->eps : norm); /* a NaN passes */
        for (int64_t j = 0; j < d; j++)
            y[i * d + j] = x[i * d + j] * factor;
        if (inverse != NULL)
            inverse[i] = factor;
    }
    return STATUS_OK;
}

enum status unit_norm_backward_cpu(struct device *device,
                                   const struct unit_norm_backward_args *args)
{
    int64_t n = args->d_y.shape[0], d = args->d_y.shape[1];
    const float *d_y = args->d_y.data, *y = args->y.data, *inverse = args->inverse.data;
    float *d_x = args->d_x.data;

    CHECK_F32("unit_norm_backward", args->d_y);
    CHECK_F32("unit_norm_backward", args->y);
    CHECK_F32("unit_norm_backward", args->d_x);
    CHECK(tensor_is_2d(&args->d_y, n, d) && tensor_is_2d(&args->y, n, d));
    CHECK(tensor_is_2d(&args->d_x, n, d) && inverse != NULL && tensor_is_1d(&args->inverse, n));
#pragma omp parallel for schedule(static) num_threads(device->n_threads)
    for (int64_t i = 0; i < n; i++) {
        float along = row_dot(d_y + i * d, y + i * d, d);
        for (int64_t j = 0; j < d; j++)
            d_x[i * d + j] = inverse[i] * (d_y[i * d + j] - y[i * d + j] * along);
    }
    return STATUS_OK;
}

enum status weight_norm_forward_cpu(struct device *device, const struct weight_norm_args *args)
{
    int64_t k = args->direction.shape[0], d = args->direction.shape[1];
    const float *v = args->direction.data, *gain = args->gain.data;
    float *weight = args->weight.data, *inverse = args->inverse.data;

    CHECK_F32("weight_norm", args->direction);
    CHECK_F32("weight_norm", args->weight);
    CHECK(tensor_is_2d(&args->direction, k, d) && tensor_is_2d(&args->weight, k, d));
    CHECK(gain == NULL || tensor_is_1d(&args->gain, k));
    CHECK(inverse == NULL || tensor_is_1d(&args->inverse, k));
#pragma omp parallel for schedule(static) num_threads(device->n_threads)
    for (int64_t i = 0; i < k; i++) {
        float inv = 1.0f / sqrtf(row_dot(v + i * d, v + i * d, d));
        float factor = (gain != NULL ? gain[i] : 1.0f) * inv;
        for (int64_t j = 0; j < d; j++)
            weight[i * d + j] = v[i * d + j] * factor;
        if (inverse != NULL)
            inverse[i] = inv;
    }
    return STATUS_OK;
}

enum status weight_norm_backward_cpu(struct device *device,
                                     const struct weight_norm_backward_args *args)
{
    int64_t k = args->direction.shape[0], d = args->direction.shape[1];
    const float *v = args->direction.data, *gain = args->gain.data, *d_weight = args->d_weight.data;
    const float *inverse = args->inverse.data;
    float *d_v = args->d_direction.data, *d_gain = args->d_gain.data;

    CHECK_F32("weight_norm_backward", args->d_weight);
    CHECK(tensor_is_2d(&args->direction, k, d) && tensor_is_2d(&args->d_weight, k, d));
    CHECK(inverse != NULL && tensor_is_1d(&args->inverse, k));
    CHECK(gain == NULL || tensor_is_1d(&args->gain, k));
    CHECK(d_gain == NULL || tensor_is_1d(&args->d_gain, k));
    CHECK(d_v == NULL || tensor_is_2d(&args->d_direction, k, d));
#pragma omp parallel for schedule(static) num_threads(device->n_threads)
    for (int64_t i = 0; i < k; i++) {
        float inv = inverse[i], along = row_dot(d_weight + i * d, v + i * d, d) * inv;
        float factor = (gain != NULL ? gain[i] : 1.0f) * inv;
        if (d_gain != NULL)
            d_gain[i] += along;
        for (int64_t j = 0; j < d && d_v != NULL; j++)
            d_v[i * d + j] += factor * (d_weight[i * d + j] - v[i * d + j] * along * inv);
    }
    return STATUS_OK;
}
