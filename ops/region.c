/* Maps of tokens on the CPU: masking, merging, means. Copies and sums, each row by one thread. */
#include "ops/region.h"

#include <string.h>

#include "ops/check.h"

enum { COLUMNS = 64 }; /* summed at a time, in double */

static void check_groups(const struct region_group *groups, int32_t n_groups, int64_t n_rows)
{
    CHECK(n_groups >= 0 && n_groups <= REGION_MAX_GROUPS);
    for (int32_t g = 0; g < n_groups; g++)
        CHECK(groups[g].first_row >= 0 && groups[g].n_images >= 0 && groups[g].side >= 1 &&
              groups[g].first_row + groups[g].n_images * groups[g].side * groups[g].side <= n_rows);
}

/* ------------------------------------------------------------------------------ masking */

/* The mask cell of token i. */
static int64_t cell_of(int64_t i, int64_t side, int64_t cells)
{
    int64_t repeat = side / cells, image = i / (side * side);
    int64_t y = i / side % side / repeat, x = i % side / repeat;

    return (image * cells + y) * cells + x;
}

static void check_mask(const struct tensor *x, const struct tensor *mask, int64_t side,
                       int64_t cells)
{
    CHECK(side >= 1 && cells >= 1 && side % cells == 0, "%lld cells over a side of %lld tokens",
          (long long)cells, (long long)side);
    CHECK(x->rank == 2 && x->shape[0] % (side * side) == 0);
    CHECK(mask->dtype == DTYPE_U8 &&
          tensor_is_1d(mask, x->shape[0] / (side * side) * cells * cells));
}

enum status region_mask_cpu(struct device *device, const struct region_mask_args *args)
{
    int64_t n = args->x.shape[0], d = args->x.shape[1];
    const uint8_t *mask = args->mask.data;
    const float *token = args->mask_token.data;
    float *x = args->x.data;

    CHECK_F32("region_mask", args->x);
    check_mask(&args->x, &args->mask, args->side, args->cells);
    CHECK(token != NULL && tensor_is_1d(&args->mask_token, d));
#pragma omp parallel for schedule(static) num_threads(device->n_threads)
    for (int64_t i = 0; i < n; i++)
        if (mask[cell_of(i, args->side, args->cells)] != 0)
            memcpy(x + i * d, token, (size_t)d * sizeof(float));
    return STATUS_OK;
}

enum status region_mask_backward_cpu(struct device *device,
                                     const struct region_mask_backward_args *args)
{
    int64_t n = args->d_x.shape[0], d = args->d_x.shape[1];
    const uint8_t *mask = args->mask.data;
    float *d_x = args->d_x.data, *d_token = args->d_mask_token.data;

    CHECK_F32("region_mask_backward", args->d_x);
    check_mask(&args->d_x, &args->mask, args->side, args->cells);
    CHECK(d_token == NULL || tensor_is_1d(&args->d_mask_token, d));
    /* strips of columns, rows in order: the same sums on any number of threads */
#pragma omp parallel for schedule(static) num_threads(device->n_threads)
    for (int64_t first = 0; first < d; first += COLUMNS) {
        int64_t columns = d - first < COLUMNS ? d - first : COLUMNS;
        double sum[COLUMNS] = {0};
        for (int64_t i = 0; i < n; i++) {
            if (mask[cell_of(i, args->side, args->cells)] == 0)
                continue;
            float *row = d_x + i * d + first;
            for (int64_t j = 0; j < columns; j++)
                sum[j] += (double)row[j];
            memset(row, 0, (size_t)columns * sizeof(float));
        }
        for (int64_t j = 0; d_token != NULL && j < columns; j++)
            d_token[first + j] += (float)sum[j];
    }
    return STATUS_OK;
}

/* ------------------------------------------------------------------------------ merging */

/* Row of the quarter-th token that goes into token i of `to`, or -1 past an odd side. */
static int64_t merged_from(const struct region_group *from, const struct region_group *to,
                           int64_t i, int quarter)
{
    int64_t image = i / (to->side * to->side);
    int64_t y = 2 * (i / to->side % to->side) + quarter % 2, x = 2 * (i % to->side) + quarter / 2;

    if (y >= from->side || x >= from->side)
        return -1;
    return from->first_row + (image * from->side + y) * from->side + x;
}

static void check_merge(const struct tensor *wide, const struct tensor *narrow,
                        const struct region_group *from, const struct region_group *to,
                        int32_t n_groups)
{
    CHECK(narrow->rank == 2 && wide->rank == 2 && wide->shape[1] == 4 * narrow->shape[1]);
    check_groups(from, n_groups, narrow->shape[0]);
    check_groups(to, n_groups, wide->shape[0]);
    for (int32_t g = 0; g < n_groups; g++)
        CHECK(to[g].n_images == from[g].n_images && to[g].side == (from[g].side + 1) / 2);
}

enum status patch_merge_cpu(struct device *device, const struct patch_merge_args *args)
{
    int64_t c = args->x.shape[1];
    size_t bytes = (size_t)c * sizeof(float);
    const float *x = args->x.data;
    float *y = args->y.data;

    CHECK_F32("patch_merge", args->x);
    CHECK_F32("patch_merge", args->y);
    check_merge(&args->y, &args->x, args->from, args->to, args->n_groups);
    for (int32_t g = 0; g < args->n_groups; g++) {
        const struct region_group *from = &args->from[g], *to = &args->to[g];
#pragma omp parallel for schedule(static) num_threads(device->n_threads)
        for (int64_t i = 0; i < to->n_images * to->side * to->side; i++)
            for (int quarter = 0; quarter < 4; quarter++) {
                int64_t row = merged_from(from, to, i, quarter);
                float *part = y + ((to->first_row + i) * 4 + quarter) * c;
                if (row < 0)
                    memset(part, 0, bytes);
                else
                    memcpy(part, x + row * c, bytes);
            }
    }
    return STATUS_OK;
}

enum status patch_merge_backward_cpu(struct device *device,
                                     const struct patch_merge_backward_args *args)
{
    int64_t c = args->d_x.shape[1];
    const float *d_y = args->d_y.data;
    float *d_x = args->d_x.data;

    CHECK_F32("patch_merge_backward", args->d_y);
    CHECK_F32("patch_merge_backward", args->d_x);
    check_merge(&args->d_y, &args->d_x, args->from, args->to, args->n_groups);
    for (int32_t g = 0; g < args->n_groups; g++) {
        const struct region_group *from = &args->from[g], *to = &args->to[g];
#pragma omp parallel for schedule(static) num_threads(device->n_threads)
        for (int64_t i = 0; i < to->n_images * to->side * to->side; i++)
            for (int quarter = 0; quarter < 4; quarter++) {
                int64_t row = merged_from(from, to, i, quarter);
                if (row >= 0)
                    memcpy(d_x + row * c, d_y + ((to->first_row + i) * 4 + quarter) * c,
                           (size_t)c * sizeof(float));
            }
    }
    return STATUS_OK;
}

/* ------------------------------------------------------------------------------ means */

static void mean_of_map(const float *x, float *mean, int64_t n, int64_t d)
{
    for (int64_t first = 0; first < d; first += COLUMNS) {
        int64_t columns = d - first < COLUMNS ? d - first : COLUMNS;
        double sum[COLUMNS] = {0};
        for (int64_t i = 0; i < n; i++)
            for (int64_t j = 0; j < columns; j++)
                sum[j] += (double)x[i * d + first + j];
        for (int64_t j = 0; j < columns; j++)
            mean[first + j] = (float)(sum[j] / (double)n);
    }
}

static void check_mean(const struct tensor *tokens, const struct tensor *with_mean,
                       const struct region_group *groups, const int64_t *to_row, int32_t n_groups)
{
    CHECK(tokens->rank == 2 && with_mean->rank == 2 && tokens->shape[1] == with_mean->shape[1]);
    check_groups(groups, n_groups, tokens->shape[0]);
    for (int32_t g = 0; g < n_groups; g++)
        CHECK(to_row[g] >= 0 &&
              to_row[g] + groups[g].n_images * (groups[g].side * groups[g].side + 1) <=
                  with_mean->shape[0]);
}

enum status region_mean_cpu(struct device *device, const struct region_mean_args *args)
{
    int64_t d = args->x.shape[1];

    CHECK_F32("region_mean", args->x);
    CHECK_F32("region_mean", args->y);
    check_mean(&args->x, &args->y, args->groups, args->to_row, args->n_groups);
    for (int32_t g = 0; g < args->n_groups; g++) {
        const struct region_group *group = &args->groups[g];
        int64_t n = group->side * group->side;
#pragma omp parallel for schedule(static) num_threads(device->n_threads)
        for (int64_t image = 0; image < group->n_images; image++) {
            const float *x = (const float *)args->x.data + (group->first_row + image * n) * d;
            float *y = (float *)args->y.data + (args->to_row[g] + image * (n + 1)) * d;
            mean_of_map(x, y, n, d);
            memcpy(y + d, x, (size_t)(n * d) * sizeof(float));
        }
    }
    return STATUS_OK;
}

enum status region_mean_backward_cpu(struct device *device,
                                     const struct region_mean_backward_args *args)
{
    int64_t d = args->d_x.shape[1];

    CHECK_F32("region_mean_backward", args->d_y);
    CHECK_F32("region_mean_backward", args->d_x);
    check_mean(&args->d_x, &args->d_y, args->groups, args->to_row, args->n_groups);
    for (int32_t g = 0; g < args->n_groups; g++) {
        const struct region_group *group = &args->groups[g];
        int64_t n = group->side * group->side;
        float share = 1.0f / (float)n;
#pragma omp parallel for schedule(static) num_threads(device->n_threads)
        for (int64_t i = 0; i < group->n_images * n; i++) {
            const float *mean =
                (const float *)args->d_y.data + (args->to_row[g] + i / n * (n + 1)) * d;
            const float *own = mean + (1 + i % n) * d;
            float *to = (float *)args->d_x.data + (group->first_row + i) * d;
            for (int64_t j = 0; j < d; j++)
                to[j] = own[j] + share * mean[j];
        }
    }
    return STATUS_OK;
}
