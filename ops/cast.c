/* Rounding to 16-bit types on the CPU. */
#include "ops/cast.h"

#include "ops/check.h"
#include "ops/half_float.h"

enum status cast_cpu(struct device *device, const struct cast_args *args)
{
    int64_t n = tensor_n_elements(&args->from);
    const float *from = args->from.data;
    enum dtype dtype = args->to.dtype;
    void *to = args->to.data;

    CHECK_F32("cast", args->from);
    CHECK(tensor_n_elements(&args->to) == n);
    if (dtype != DTYPE_F32 && dtype != DTYPE_BF16 && dtype != DTYPE_F16)
        FAIL(STATUS_UNSUPPORTED, "cast: to has dtype %d; wanted f32, bf16 or f16", (int)dtype);
#pragma omp parallel for schedule(static) num_threads(device->n_threads)
    for (int64_t i = 0; i < n; i++)
        if (dtype == DTYPE_BF16)
            ((uint16_t *)to)[i] = half_float_to_bf16(from[i]);
        else if (dtype == DTYPE_F16)
            ((uint16_t *)to)[i] = half_float_to_f16(from[i]);
        else
            ((float *)to)[i] = from[i];
    return STATUS_OK;
}
