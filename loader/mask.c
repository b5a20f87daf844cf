/* Masks, from the spec of the original. */
#include "loader/mask.h"

#include <math.h>
#include <string.h>

#include "loader/log_uniform.h"

/* The decimal fraction that a share was written as: 0.7 as a float is less, and 69 of 100 cells. */
static double as_written(float share)
{
    return rint((double)share * 1e7) / 1e7;
}

double mask_ratio_draw(struct rng *rng, const struct data_spec *spec, int32_t epoch)
{
    double ratios[DATA_SPEC_MAX_RATIOS] = {0};
    int32_t n = spec->n_pred_ratios;

    if (n == 0 || epoch < spec->pred_start_epoch)
        return 0.0;
    for (int32_t i = 0; i < n; i++) {
        double ratio = as_written(spec->pred_ratio[i]), half = as_written(spec->pred_ratio_var[i]);
        ratios[i] = half > 0.0 ? rng_range(rng, ratio - half, ratio + half) : ratio;
    }
    return ratios[n > 1 ? rng_below(rng, (uint32_t)n) : 0];
}

/* Tries one rectangle of at most `rest` new cells; returns the cells it set. */
static int32_t try_block(struct rng *rng, const float aspect[2], int32_t grid, double rest,
                         uint8_t *cells)
{
    double low = (double)(grid / 3) * (double)(grid / 3);
    double area = rng_range(rng, low, rest);
    double ratio = log_uniform_draw(rng, (double)aspect[0], (double)aspect[1]);
    int32_t h = (int32_t)rint(sqrt(area * ratio)), w = (int32_t)rint(sqrt(area / ratio));

    if (w >= grid || h >= grid)
        return 0;
    int32_t top = (int32_t)rng_below(rng, (uint32_t)(grid - h + 1));
    int32_t left = (int32_t)rng_below(rng, (uint32_t)(grid - w + 1)), fresh = 0;
    for (int32_t y = top; y < top + h; y++)
        for (int32_t x = left; x < left + w; x++)
            fresh += cells[y * grid + x] == 0;
    if (fresh == 0 || (double)fresh > rest)
        return 0;
    for (int32_t y = top; y < top + h; y++)
        memset(cells + y * grid + left, 1, (size_t)w);
    return fresh;
}

static int32_t draw_blocks(struct rng *rng, const float aspect[2], double high, int32_t grid,
                           uint8_t *cells)
{
    int32_t count = 0;

    while ((double)count < high) {
        int32_t added = 0;
        for (int i = 0; i < 10 && added == 0; i++)
            added = try_block(rng, aspect, grid, high - count, cells);
        if (added == 0)
            break;
        count += added;
    }
    return count;
}

/* Exactly trunc(high) cells, all where there are no more, by selection sampling in cell order. */
static int32_t draw_random(struct rng *rng, double high, int32_t n, uint8_t *cells)
{
    int32_t wanted = high < n ? (int32_t)high : n, left = wanted;

    for (int32_t i = 0; i < n && left > 0; i++)
        if ((int32_t)rng_below(rng, (uint32_t)(n - i)) < left) {
            cells[i] = 1;
            left--;
        }
    return wanted;
}

int32_t mask_draw(struct rng *rng, const struct data_spec *spec, double ratio, int32_t grid,
                  uint8_t *cells)
{
    double high = ratio * grid * grid;

    memset(cells, 0, (size_t)grid * (size_t)grid);
    if (spec->mask_shape == MASK_RANDOM)
        return draw_random(rng, high, grid * grid, cells);
    return draw_blocks(rng, spec->mask_aspect, high, grid, cells);
}
