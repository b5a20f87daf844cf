#include "trainer/analysis/correspondence.h"

#include <math.h>
#include <stddef.h>
#include <stdlib.h>

void correspondence_match(int32_t *match, const float *from, const float *to, int32_t n,
                          int32_t dim)
{
#pragma omp parallel for
    for (int32_t i = 0; i < n; i++) {
        double best = -INFINITY;
        match[i] = 0;
        for (int32_t j = 0; j < n; j++) {
            const float *a = from + (int64_t)i * dim, *b = to + (int64_t)j * dim;
            double product = 0.0;
            for (int32_t k = 0; k < dim; k++)
                product += (double)a[k] * (double)b[k];
            if (product > best) {
                best = product;
                match[i] = j;
            }
        }
    }
}

void correspondence_truth(int32_t *truth, const struct image_box *a, const struct image_box *b,
                          int32_t grid)
{
    for (int32_t i = 0; i < grid * grid; i++) {
        double x = a->left + (i % grid + 0.5) / grid * a->width;
        double y = a->top + (i / grid + 0.5) / grid * a->height;
        double column = floor((x - b->left) / b->width * grid);
        double row = floor((y - b->top) / b->height * grid);
        bool inside = column >= 0 && row >= 0 && column < grid && row < grid;
        truth[i] = inside ? (int32_t)row * grid + (int32_t)column : -1;
    }
}

bool correspondence_is_near(int32_t patch, int32_t other, int32_t grid, int32_t radius)
{
    return abs(patch / grid - other / grid) <= radius && abs(patch % grid - other % grid) <= radius;
}

void correspondence_add(struct correspondence_score *score, const int32_t *match,
                        const int32_t *truth, int32_t grid, int32_t radius)
{
    for (int32_t i = 0; i < grid * grid; i++) {
        if (truth[i] < 0)
            continue;
        score->n_overlapping++;
        score->n_correct += correspondence_is_near(match[i], truth[i], grid, radius);
    }
}

static bool is_among(const int32_t *chosen, int32_t n, int32_t patch)
{
    for (int32_t i = 0; i < n; i++)
        if (chosen[i] == patch)
            return true;
    return false;
}

int32_t correspondence_choose(int32_t *chosen, int32_t n_wanted, const float *weight,
                              const int32_t *truth, int32_t n)
{
    int32_t n_chosen = 0;

    while (n_chosen < n_wanted) {
        int32_t best = -1;
        for (int32_t i = 0; i < n; i++)
            if ((truth == NULL || truth[i] >= 0) && !is_among(chosen, n_chosen, i) &&
                (best < 0 || weight[i] > weight[best]))
                best = i;
        if (best < 0)
            break;
        chosen[n_chosen++] = best;
    }
    return n_chosen;
}

void correspondence_regrid(float *out, int32_t grid, const float *map, int32_t map_grid)
{
    for (int64_t i = 0; i < (int64_t)grid * grid; i++) {
        int64_t row = i / grid * map_grid / grid, column = i % grid * map_grid / grid;
        out[i] = map[row * map_grid + column];
    }
}
