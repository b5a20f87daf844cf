/* Small reductions on the CPU. */
#include "ops/reduce.h"

#include "ops/check.h"

enum status rows_mean_cpu(struct device *device, const struct rows_mean_args *args)
{
    enum { COLUMNS = 32 };
    int64_t n = args->x.shape[0], d = args->x.shape[1], period = args->period, count = 0;
    const float *x = args->x.data;
    float *mean = args->mean.data;

    (void)device;
    CHECK_F32("rows_mean", args->x);
    CHECK(tensor_is_1d(&args->mean, d));
    for (int64_t i = 0; i < n; i++)
        count += period == 0 || (period > 0) == (i % (period > 0 ? period : -period) != 0);
    CHECK(count > 0, "no row is left");
#pragma omp parallel for schedule(static)
    for (int64_t first = 0; first < d; first += COLUMNS) {
        int64_t columns = d - first < COLUMNS ? d - first : COLUMNS;
        double sum[COLUMNS] = {0};
        for (int64_t i = 0; i < n; i++) {
            if (period != 0 && (period > 0) != (i % (period > 0 ? period : -period) != 0))
                continue;
            for (int64_t j = 0; j < columns; j++)
                sum[j] += (double)x[i * d + first + j];
        }
        for (int64_t j = 0; j < columns; j++)
            mean[first + j] = (float)(sum[j] / (double)count);
    }
    return STATUS_OK;
}

enum status rows_argmax_cpu(struct device *device, const struct rows_argmax_args *args)
{
    int64_t n = args->x.shape[0], k = args->x.shape[1];
    const float *x = args->x.data;
    int32_t *index = args->index.data;

    (void)device;
    CHECK_F32("rows_argmax", args->x);
    CHECK(args->index.dtype == DTYPE_I32 && args->index.shape[0] >= n);
#pragma omp parallel for schedule(static)
    for (int64_t i = 0; i < n; i++) {
        const float *row = x + i * k;
        int64_t best = 0;
        for (int64_t j = 1; j < k; j++)
            best = row[j] > row[best] ? j : best;
        index[i] = (int32_t)best;
    }
    return STATUS_OK;
}
