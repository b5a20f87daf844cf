/* Two rows at a time: each is resized horizontally into sums of 19 bits, and what two of them weigh
 * is added. Where both sides become exactly half, OpenCV takes the mean of four pixels. */
#include "ops/pixels/opencv_resize.h"

#include <math.h>

#include "proto/base/memory.h"

enum { ONE = 2048 }; /* a weight of 1 */

struct tap {
    int32_t index[2]; /* of the source */
    int32_t weight[2];
};

static int32_t clamped(int32_t i, int32_t n)
{
    return i < 0 ? 0 : i >= n ? n - 1 : i;
}

/* keep_edge: beyond the first and last source pixel, that pixel alone. So it is with columns; of
 * rows two copies of it are weighed, and each is rounded. */
static void fill_taps(struct tap *taps, int32_t n_to, int32_t n_from, bool keep_edge)
{
    double scale = 1.0 / ((double)n_to / (double)n_from);

    for (int32_t i = 0; i < n_to; i++) {
        float at = (float)((i + 0.5) * scale - 0.5);
        int32_t first = (int32_t)floorf(at);
        float part = at - (float)first;
        if (keep_edge && (first < 0 || first >= n_from - 1)) {
            first = clamped(first, n_from);
            part = 0.0f;
        }
        taps[i] = (struct tap){
            .index = {clamped(first, n_from), clamped(first + 1, n_from)},
            .weight = {(int32_t)rintf((1.0f - part) * ONE), (int32_t)rintf(part * ONE)},
        };
    }
}

static void resize_row(int32_t *to, const uint8_t *from, const struct tap *taps, int32_t n)
{
    for (int32_t x = 0; x < n; x++)
        for (int c = 0; c < 3; c++)
            to[3 * x + c] = from[3 * taps[x].index[0] + c] * taps[x].weight[0] +
                            from[3 * taps[x].index[1] + c] * taps[x].weight[1];
}

static void halve(uint8_t *to, int32_t to_width, int32_t to_height, const uint8_t *from)
{
    size_t line = 6 * (size_t)to_width;

    for (int32_t y = 0; y < to_height; y++)
        for (int32_t x = 0; x < to_width; x++)
            for (int c = 0; c < 3; c++) {
                const uint8_t *at = from + 2 * (size_t)y * line + 6 * (size_t)x + (size_t)c;
                int sum = at[0] + at[3] + at[line] + at[line + 3];
                to[((size_t)y * (size_t)to_width + (size_t)x) * 3 + (size_t)c] =
                    (uint8_t)((sum + 2) >> 2);
            }
}

enum status opencv_resize(uint8_t *to, int32_t to_width, int32_t to_height, const uint8_t *from,
                          int32_t width, int32_t height)
{
    size_t line = 3 * (size_t)to_width;
    struct tap *columns = NULL, *rows = NULL;
    int32_t *sums = NULL;
    enum status status = STATUS_OK;

    if (width == 2 * to_width && height == 2 * to_height) {
        halve(to, to_width, to_height, from);
        return STATUS_OK;
    }
    TRY_OUT(memory_alloc(&columns, (size_t)to_width, sizeof(*columns), "a resized picture"));
    TRY_OUT(memory_alloc(&rows, (size_t)to_height, sizeof(*rows), "a resized picture"));
    TRY_OUT(memory_alloc(&sums, 2 * line, sizeof(*sums), "a resized picture"));
    fill_taps(columns, to_width, width, true);
    fill_taps(rows, to_height, height, false);
    int32_t held[2] = {-1, -1}; /* the source rows whose sums there are */
    for (int32_t y = 0; y < to_height; y++) {
        const int32_t *sum[2];
        for (int i = 0; i < 2; i++) {
            int32_t row = rows[y].index[i];
            int place = row % 2;
            if (held[place] != row)
                resize_row(sums + (size_t)place * line, from + 3 * (size_t)row * (size_t)width,
                           columns, to_width);
            held[place] = row;
            sum[i] = sums + (size_t)place * line;
        }
        const int32_t *weight = rows[y].weight;
        for (size_t x = 0; x < line; x++) {
            int32_t value =
                ((weight[0] * (sum[0][x] >> 4)) >> 16) + ((weight[1] * (sum[1][x] >> 4)) >> 16);
            to[(size_t)y * line + x] = (uint8_t)((value + 2) >> 2);
        }
    }
out:
    memory_free(columns);
    memory_free(rows);
    memory_free(sums);
    return status;
}
