#include "trainer/eval/label_map.h"

#include <math.h>
#include <string.h>

#include "proto/base/memory.h"

enum { MAX_LABELS = 256 };

/* Where n places of a size of n_from are taken from. Pillow adds up steps in double, and so do we.
 */
static void nearest(int32_t *index, int32_t n, int32_t n_from)
{
    double step = (double)n_from / (double)n, at = step * 0.5;

    for (int32_t i = 0; i < n; i++, at += step)
        index[i] = (int32_t)at < n_from ? (int32_t)at : n_from - 1;
}

enum status label_map_resize(uint8_t *to, int32_t to_width, int32_t to_height, const uint8_t *from,
                             int32_t width, int32_t height)
{
    int32_t *columns, *rows;

    TRY(memory_alloc(&columns, (size_t)to_width + (size_t)to_height, sizeof(*columns), "labels"));
    rows = columns + to_width;
    nearest(columns, to_width, width);
    nearest(rows, to_height, height);
    for (int32_t y = 0; y < to_height; y++)
        for (int32_t x = 0; x < to_width; x++)
            to[(int64_t)y * to_width + x] = from[(int64_t)rows[y] * width + columns[x]];
    memory_free(columns);
    return STATUS_OK;
}

void label_map_one_hot(float *weights, const uint8_t *labels, int64_t n, int32_t n_labels)
{
    memset(weights, 0, (size_t)(n * n_labels) * sizeof(*weights));
    for (int64_t i = 0; i < n; i++) {
        CHECK(labels[i] < n_labels);
        weights[i * n_labels + labels[i]] = 1.0f;
    }
}

/* ------------------------------------------------------------------------------ growing */

struct tap {
    int64_t index[2];
    float weight[2];
};

/* Half-pixel centres, edges repeated (PyTorch's bilinear without align_corners). */
static struct tap tap_of(int64_t i, int32_t scale, int32_t n)
{
    float at = ((float)i + 0.5f) * (1.0f / (float)scale) - 0.5f;
    at = at < 0.0f ? 0.0f : at;
    int64_t first = (int64_t)at;
    float part = at - (float)first;

    return (struct tap){{first, first + 1 < n ? first + 1 : first}, {1.0f - part, part}};
}

/* Weights [n_labels] at a place of the grown map. */
static void interpolate(float *out, const struct label_weights *map, const struct tap *y,
                        const struct tap *x)
{
    const float *corner[4];

    for (int i = 0; i < 4; i++)
        corner[i] =
            map->weights + (y->index[i / 2] * map->columns + x->index[i % 2]) * map->n_labels;
    for (int32_t c = 0; c < map->n_labels; c++)
        out[c] = y->weight[0] * (x->weight[0] * corner[0][c] + x->weight[1] * corner[1][c]) +
                 y->weight[1] * (x->weight[0] * corner[2][c] + x->weight[1] * corner[3][c]);
}

/* For each label the least and the greatest weight of the grown map; least, greatest: [n_labels].
 */
static void find_ranges(float *least, float *greatest, const struct label_weights *map,
                        int32_t scale)
{
    float work[MAX_LABELS];
    int64_t height = (int64_t)map->rows * scale, width = (int64_t)map->columns * scale;

    for (int32_t c = 0; c < map->n_labels; c++) {
        least[c] = INFINITY;
        greatest[c] = -INFINITY;
    }
    for (int64_t i = 0; i < height; i++)
        for (int64_t j = 0; j < width; j++) {
            struct tap y = tap_of(i, scale, map->rows), x = tap_of(j, scale, map->columns);
            interpolate(work, map, &y, &x);
            for (int32_t c = 0; c < map->n_labels; c++) {
                least[c] = work[c] < least[c] ? work[c] : least[c];
                greatest[c] = work[c] > greatest[c] ? work[c] : greatest[c];
            }
        }
}

static uint8_t winner(const float *weights, const float *least, const float *greatest, int32_t n)
{
    int32_t best = 0;
    float most = -1.0f;

    for (int32_t c = 0; c < n; c++) {
        float range = greatest[c] - least[c];
        float value = range > 0.0f ? (weights[c] - least[c]) / range : greatest[c] > 0.0f;
        if (value > most) {
            most = value;
            best = c;
        }
    }
    return (uint8_t)best;
}

void label_map_grow(uint8_t *labels, const struct label_weights *map, int32_t scale, int n_threads)
{
    int64_t height = (int64_t)map->rows * scale, width = (int64_t)map->columns * scale;
    float least[MAX_LABELS], greatest[MAX_LABELS];

    CHECK(map->n_labels >= 1 && map->n_labels <= MAX_LABELS);
    find_ranges(least, greatest, map, scale);
#pragma omp parallel for schedule(static) num_threads(n_threads)
    for (int64_t i = 0; i < height; i++) {
        float own[MAX_LABELS];
        struct tap y = tap_of(i, scale, map->rows);
        for (int64_t j = 0; j < width; j++) {
            struct tap x = tap_of(j, scale, map->columns);
            interpolate(own, map, &y, &x);
            labels[i * width + j] = winner(own, least, greatest, map->n_labels);
        }
    }
}
