/* Maps of features on the CPU: each row of a result by one thread. */
#include "ops/feature_map.h"

#include <string.h>

#include "ops/check.h"
#include "ops/half_float.h"

enum { COLUMNS = 256 }; /* summed at a time */

/* ------------------------------------------------------------------------------ sparse product */

void spmm_check(const struct spmm_args *args)
{
    const struct sparse_matrix *a = &args->a;
    int64_t rows = a->start.shape[0] - 1, c = args->x.shape[1];

    CHECK(a->start.dtype == DTYPE_I32 && a->column.dtype == DTYPE_I32 && rows >= 0);
    CHECK(a->value.data == NULL ||
          (a->value.dtype == DTYPE_F32 && tensor_is_1d(&a->value, a->column.shape[0])));
    CHECK(tensor_is_2d(&args->x, args->n_maps * a->n_columns, c) &&
          tensor_is_2d(&args->y, args->n_maps * rows, c) && args->x.dtype == args->y.dtype);
    CHECK((args->x_stride == 0 || args->x_stride >= c) &&
          (args->y_stride == 0 || args->y_stride >= c));
}

static void add_row(float *restrict sum, const void *x, int64_t at, int64_t n, enum dtype dtype,
                    float value)
{
    const float *wide = x;
    const uint16_t *half = x;

    if (dtype == DTYPE_F32)
        for (int64_t j = 0; j < n; j++)
            sum[j] += value * wide[at + j];
    else
        for (int64_t j = 0; j < n; j++)
            sum[j] += value * half_float_from_bf16(half[at + j]);
}

static void write_row(void *y, int64_t at, int64_t n, enum dtype dtype, const float *sum, bool add)
{
    float *wide = y;
    uint16_t *half = y;

    for (int64_t j = 0; j < n; j++)
        if (dtype == DTYPE_F32)
            wide[at + j] = add ? wide[at + j] + sum[j] : sum[j];
        else
            half[at + j] =
                half_float_to_bf16(add ? half_float_from_bf16(half[at + j]) + sum[j] : sum[j]);
}

/* Row i of map m. */
static void spmm_row(const struct spmm_args *args, int64_t m, int64_t i)
{
    const struct sparse_matrix *a = &args->a;
    const int32_t *start = a->start.data, *column = a->column.data;
    const float *value = a->value.data;
    int64_t c = args->x.shape[1], rows = a->start.shape[0] - 1;
    int64_t x_stride = args->x_stride > 0 ? args->x_stride : c;
    int64_t y_stride = args->y_stride > 0 ? args->y_stride : c;

    for (int64_t first = 0; first < c; first += COLUMNS) {
        int64_t n = c - first < COLUMNS ? c - first : COLUMNS;
        float sum[COLUMNS] = {0};
        for (int32_t e = start[i]; e < start[i + 1]; e++)
            add_row(sum, args->x.data, (m * a->n_columns + column[e]) * x_stride + first, n,
                    args->x.dtype, value != NULL ? value[e] : 1.0f);
        write_row(args->y.data, (m * rows + i) * y_stride + first, n, args->y.dtype, sum,
                  args->add);
    }
}

enum status spmm_cpu(struct device *device, const struct spmm_args *args)
{
    int64_t rows = args->a.start.shape[0] - 1, n = args->n_maps * rows;

    spmm_check(args);
    if (args->x.dtype != DTYPE_F32 && args->x.dtype != DTYPE_BF16)
        FAIL(STATUS_UNSUPPORTED, "spmm: x has dtype %d; wanted float32 or bf16",
             (int)args->x.dtype);
#pragma omp parallel for schedule(static) num_threads(device->n_threads)
    for (int64_t i = 0; i < n; i++)
        spmm_row(args, i / rows, i % rows);
    return STATUS_OK;
}

/* ------------------------------------------------------------------------------ largest of four */

void max_pool_check(const struct tensor *wide, const struct tensor *narrow,
                    const struct tensor *choice, int32_t height, int32_t width)
{
    int64_t cells = (int64_t)height * width, c = wide->shape[1];

    CHECK(height >= 1 && width >= 1 && wide->rank == 2 && wide->shape[0] % cells == 0);
    int64_t n = wide->shape[0] / cells * (height / 2) * (width / 2);
    CHECK(tensor_is_2d(narrow, n, c) && narrow->dtype == wide->dtype);
    CHECK(choice->data == NULL || (choice->dtype == DTYPE_U8 && tensor_is_1d(choice, n * c)));
}

/* Row of the first of the four that become row i of the smaller maps. */
static int64_t square_of(int64_t i, int32_t height, int32_t width)
{
    int64_t columns = width / 2, rows = height / 2;
    int64_t map = i / (rows * columns), y = i / columns % rows, x = i % columns;

    return (map * height + 2 * y) * width + 2 * x;
}

enum status max_pool_cpu(struct device *device, const struct max_pool_args *args)
{
    int64_t n = args->y.shape[0], c = args->x.shape[1], width = args->width;
    const float *x = args->x.data;
    float *y = args->y.data;
    uint8_t *choice = args->choice.data;

    CHECK_F32("max_pool", args->x);
    max_pool_check(&args->x, &args->y, &args->choice, args->height, args->width);
#pragma omp parallel for schedule(static) num_threads(device->n_threads)
    for (int64_t i = 0; i < n; i++) {
        const float *from = x + square_of(i, args->height, args->width) * c;
        for (int64_t j = 0; j < c; j++) {
            const float four[] = {from[j], from[c + j], from[width * c + j],
                                  from[(width + 1) * c + j]};
            int best = 0;
            for (int k = 1; k < 4; k++)
                if (four[k] > four[best] || (four[k] != four[k] && four[best] == four[best]))
                    best = k;
            y[i * c + j] = four[best];
            if (choice != NULL)
                choice[i * c + j] = (uint8_t)best;
        }
    }
    return STATUS_OK;
}

enum status max_pool_backward_cpu(struct device *device, const struct max_pool_backward_args *args)
{
    int64_t n = args->d_y.shape[0], c = args->d_x.shape[1], width = args->width;
    const float *d_y = args->d_y.data;
    float *d_x = args->d_x.data;
    const uint8_t *choice = args->choice.data;

    CHECK_F32("max_pool_backward", args->d_x);
    CHECK(choice != NULL);
    max_pool_check(&args->d_x, &args->d_y, &args->choice, args->height, args->width);
#pragma omp parallel for schedule(static) num_threads(device->n_threads)
    for (int64_t i = 0; i < n; i++) {
        float *to = d_x + square_of(i, args->height, args->width) * c;
        for (int64_t j = 0; j < c; j++) {
            int64_t at = choice[i * c + j] / 2 * width + choice[i * c + j] % 2;
            to[at * c + j] += d_y[i * c + j];
        }
    }
    return STATUS_OK;
}

/* ------------------------------------------------------------------------------ channels */

enum status channel_scale_cpu(struct device *device, const struct channel_scale_args *args)
{
    int64_t n = args->x.shape[0], c = args->x.shape[1], maps = args->scale.shape[0];
    const float *scale = args->scale.data;
    float *x = args->x.data;

    CHECK_F32("channel_scale", args->x);
    CHECK_F32("channel_scale", args->scale);
    CHECK(maps > 0 && n % maps == 0 && tensor_is_2d(&args->scale, maps, c));
#pragma omp parallel for schedule(static) num_threads(device->n_threads)
    for (int64_t i = 0; i < n; i++) {
        const float *of = scale + i / (n / maps) * c;
        for (int64_t j = 0; j < c; j++)
            x[i * c + j] *= of[j];
    }
    return STATUS_OK;
}
