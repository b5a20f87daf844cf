/* Small reductions on the CPU. */
#include "ops/reduce.h"

#include <math.h>

#include "ops/check.h"

enum { COLUMNS = 32 }; /* summed at a time, in double */

/* The rows a period picks: first, first + step, …, without each row whose number is 0 mod `skip`.
 */
struct picked {
    int64_t step, skip; /* skip 0: none */
};

static struct picked picked_rows(int64_t period)
{
    return period < 0 ? (struct picked){-period, 0} : (struct picked){1, period};
}

static void mean_of_columns(const struct rows_mean_args *args, int64_t first, int64_t columns)
{
    int64_t n = args->x.shape[0], d = args->x.shape[1], count = 0;
    struct picked rows = picked_rows(args->period);
    const float *x = (const float *)args->x.data + first;
    float *mean = (float *)args->mean.data + first;
    double sum[COLUMNS] = {0};

    for (int64_t i = 0; i < n; i += rows.step) {
        if (rows.skip > 0 && i % rows.skip == 0)
            continue;
        for (int64_t j = 0; j < columns; j++)
            sum[j] += (double)x[i * d + j];
        count++;
    }
    CHECK(count > 0, "no row is left");
    for (int64_t j = 0; j < columns; j++)
        mean[j] = (float)(sum[j] / (double)count);
}

enum status rows_mean_cpu(struct device *device, const struct rows_mean_args *args)
{
    int64_t d = args->x.shape[1];

    CHECK_F32("rows_mean", args->x);
    CHECK_F32("rows_mean", args->mean);
    CHECK(args->x.rank == 2 && tensor_is_1d(&args->mean, d));
#pragma omp parallel for schedule(static) num_threads(device->n_threads)
    for (int64_t first = 0; first < d; first += COLUMNS)
        mean_of_columns(args, first, d - first < COLUMNS ? d - first : COLUMNS);
    return STATUS_OK;
}

/* The greatest value as vectors, then the first place that holds it. */
static int64_t first_greatest(const float *row, int64_t k)
{
    float greatest = -INFINITY;
    int64_t at = 0;

#pragma omp simd reduction(max : greatest)
    for (int64_t j = 0; j < k; j++)
        greatest = row[j] > greatest ? row[j] : greatest;
    while (at < k && row[at] != greatest)
        at++;
    return at < k ? at : 0; /* nothing but NaN: the first */
}

enum status rows_argmax_cpu(struct device *device, const struct rows_argmax_args *args)
{
    int64_t n = args->x.shape[0], k = args->x.shape[1];
    const float *x = args->x.data;
    int32_t *index = args->index.data;

    CHECK_F32("rows_argmax", args->x);
    CHECK(args->x.rank == 2 && args->index.dtype == DTYPE_I32 && args->index.shape[0] >= n);
#pragma omp parallel for schedule(static) num_threads(device->n_threads)
    for (int64_t i = 0; i < n; i++)
        index[i] = (int32_t)first_greatest(x + i * k, k);
    return STATUS_OK;
}
