#include "trainer/detect/region_bits.h"

#include <math.h>
#include <string.h>

#include "proto/base/memory.h"

/* ------------------------------------------------------------------------------ targets */

/* Of the bins of one row: sums of the mask's rows by their weights. */
static void weigh_rows(float *sums, const struct region_bits *m, const struct bin_span *down)
{
    memset(sums, 0, (size_t)m->width * sizeof(*sums));
    for (int32_t y = 0; y < down->n; y++) {
        int32_t row = down->first + y - m->top;
        if (row < 0 || row >= m->height || down->weights[y] == 0.0f)
            continue;
        const uint8_t *bits = m->bits + (size_t)row * (size_t)m->width;
        for (int32_t x = 0; x < m->width; x++)
            sums[x] += bits[x] != 0 ? down->weights[y] : 0.0f;
    }
}

static float weigh_columns(const float *sums, const struct region_bits *m,
                           const struct bin_span *across)
{
    float sum = 0.0f;

    for (int32_t x = 0; x < across->n; x++) {
        int32_t column = across->first + x - m->left;
        if (column >= 0 && column < m->width)
            sum += across->weights[x] * sums[column];
    }
    return sum;
}

enum status region_bits_target(float *target, int32_t side, const struct region_bits *m,
                               const struct box *box, int32_t picture_height, int32_t picture_width)
{
    float height = (box->bottom - box->top) / (float)side;
    float width = (box->right - box->left) / (float)side, *sums;
    struct bin_span down = {0}, across = {0};
    enum status status;

    TRY(memory_alloc(&sums, (size_t)m->width, sizeof(*sums), "sums of a mask"));
    for (int32_t y = 0; y < side; y++) {
        TRY_OUT(bin_span_fill(&down, box->top, height, y, picture_height));
        weigh_rows(sums, m, &down);
        for (int32_t x = 0; x < side; x++) {
            TRY_OUT(bin_span_fill(&across, box->left, width, x, picture_width));
            target[y * side + x] = weigh_columns(sums, m, &across) >= 0.5f ? 1.0f : 0.0f;
        }
    }
    status = STATUS_OK;
out:
    bin_span_release(&down);
    bin_span_release(&across);
    memory_free(sums);
    return status;
}

/* ------------------------------------------------------------------------------ pasting */

static float cell(const float *map, int32_t side, int32_t y, int32_t x)
{
    return y >= 0 && y < side && x >= 0 && x < side ? map[y * side + x] : 0.0f;
}

void region_bits_paste(uint8_t *bits, int32_t height, int32_t width, const float *map, int32_t side,
                       const struct box *box)
{
    int32_t top = (int32_t)fmaxf(floorf(box->top) - 1.0f, 0.0f);
    int32_t left = (int32_t)fmaxf(floorf(box->left) - 1.0f, 0.0f);
    int32_t bottom = (int32_t)fminf(ceilf(box->bottom) + 1.0f, (float)height);
    int32_t right = (int32_t)fminf(ceilf(box->right) + 1.0f, (float)width);

    memset(bits, 0, (size_t)height * (size_t)width);
    for (int32_t y = top; y < bottom; y++)
        for (int32_t x = left; x < right; x++) {
            float v = ((float)y + 0.5f - box->top) / (box->bottom - box->top) * (float)side - 0.5f;
            float u = ((float)x + 0.5f - box->left) / (box->right - box->left) * (float)side - 0.5f;
            if (!(v > -1.0f && v < (float)side && u > -1.0f && u < (float)side))
                continue;
            int32_t y0 = (int32_t)floorf(v), x0 = (int32_t)floorf(u);
            float dy = v - (float)y0, dx = u - (float)x0;
            float value = (1.0f - dy) * ((1.0f - dx) * cell(map, side, y0, x0) +
                                         dx * cell(map, side, y0, x0 + 1)) +
                          dy * ((1.0f - dx) * cell(map, side, y0 + 1, x0) +
                                dx * cell(map, side, y0 + 1, x0 + 1));
            bits[(size_t)y * (size_t)width + (size_t)x] = value >= 0.5f;
        }
}
