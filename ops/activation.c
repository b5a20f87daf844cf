/* Activations on the CPU. */
#include "ops/activation.h"

#include "ops/activation_row.h"
#include "ops/check.h"

enum { CHUNK = 4096 };

static bool same_shape(const struct tensor *a, const struct tensor *b)
{
    return tensor_n_elements(a) == tensor_n_elements(b);
}

enum status activation_forward_cpu(struct device *device, const struct activation_args *args)
{
    int64_t n = tensor_n_elements(&args->x);
    const float *x = args->x.data;
    float *y = args->y.data;

    CHECK_F32("activation", args->x);
    CHECK_F32("activation", args->y);
    CHECK(same_shape(&args->x, &args->y));
#pragma omp parallel for schedule(static) num_threads(device->n_threads)
    for (int64_t first = 0; first < n; first += CHUNK)
        activation_row(y + first, x + first, n - first < CHUNK ? n - first : CHUNK,
                       args->activation);
    return STATUS_OK;
}

enum status activation_backward_cpu(struct device *device,
                                    const struct activation_backward_args *args)
{
    int64_t n = tensor_n_elements(&args->x);
    const float *x = args->x.data, *d_y = args->d_y.data;
    float *d_x = args->d_x.data;

    CHECK_F32("activation_backward", args->d_y);
    CHECK_F32("activation_backward", args->x);
    CHECK_F32("activation_backward", args->d_x);
    CHECK(same_shape(&args->x, &args->d_y) && same_shape(&args->x, &args->d_x));
#pragma omp parallel for schedule(static) num_threads(device->n_threads)
    for (int64_t first = 0; first < n; first += CHUNK)
        activation_row_backward(d_x + first, d_y + first, x + first,
                                n - first < CHUNK ? n - first : CHUNK, args->activation);
    return STATUS_OK;
}
