/* Activations on the CPU. */
#include "ops/activation.h"

#include "ops/check.h"
#include "ops/vector_math.h"

enum { CHUNK = 4096 };

enum status activation_forward_cpu(struct device *device, const struct activation_args *args)
{
    int64_t n = tensor_n_elements(&args->x);
    const float *x = args->x.data;
    float *y = args->y.data;

    (void)device;
    CHECK_F32("activation", args->x);
    CHECK(tensor_n_elements(&args->y) == n);
#pragma omp parallel for schedule(static)
    for (int64_t first = 0; first < n; first += CHUNK) {
        int64_t end = first + CHUNK < n ? first + CHUNK : n;
        for (int64_t i = first; i < end; i++)
            y[i] = args->activation == ACTIVATION_GELU   ? vector_gelu(x[i])
                   : args->activation == ACTIVATION_RELU ? (x[i] > 0.0f ? x[i] : 0.0f)
                                                         : x[i];
    }
    return STATUS_OK;
}

enum status activation_backward_cpu(struct device *device,
                                    const struct activation_backward_args *args)
{
    int64_t n = tensor_n_elements(&args->x);
    const float *x = args->x.data, *d_y = args->d_y.data;
    float *d_x = args->d_x.data;

    (void)device;
    CHECK_F32("activation_backward", args->x);
    CHECK(tensor_n_elements(&args->d_y) == n && tensor_n_elements(&args->d_x) == n);
#pragma omp parallel for schedule(static)
    for (int64_t first = 0; first < n; first += CHUNK) {
        int64_t end = first + CHUNK < n ? first + CHUNK : n;
        for (int64_t i = first; i < end; i++)
            d_x[i] = args->activation == ACTIVATION_GELU   ? d_y[i] * vector_gelu_derivative(x[i])
                     : args->activation == ACTIVATION_RELU ? (x[i] > 0.0f ? d_y[i] : 0.0f)
                                                           : d_y[i];
    }
    return STATUS_OK;
}
