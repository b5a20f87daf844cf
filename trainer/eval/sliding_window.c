/* Weights of cells for each row and each column of the result, then sums: of rows first, for all
 * columns of cells, then of columns. */
#include "trainer/eval/sliding_window.h"

#include <omp.h>
#include <string.h>

#include "ops/bilinear.h"
#include "ops/vector_math.h"
#include "proto/base/memory.h"

/* ------------------------------------------------------------------------------ windows */

enum status windows_plan(struct windows *out, int32_t length, int32_t window, int32_t stride)
{
    CHECK(length >= 1 && window >= 1 && stride >= 1 && stride <= window);
    int32_t n = length > window ? (length - window + stride - 1) / stride + 1 : 1;

    if (n > WINDOWS_MAX)
        FAIL(STATUS_INVALID, "%d px are %d windows of %d px: wanted at most %d", length, n, window,
             WINDOWS_MAX);
    out->n = n;
    out->window = length < window ? length : window;
    for (int32_t i = 0; i < n; i++) {
        int32_t last = i * stride + out->window;
        out->first[i] = (last < length ? last : length) - out->window;
    }
    return STATUS_OK;
}

/* ------------------------------------------------------------------------------ weights */

/* Along one side: which cells each place of the result is made of, and how much of each. Cells of
 * window w begin at w * cells. */
struct cell_weights {
    int32_t *begin; /* [n + 1] */
    int32_t *cell;
    float *weight;
    size_t cell_capacity, weight_capacity;
};

static void weights_release(struct cell_weights *w)
{
    memory_free(w->begin);
    memory_free(w->cell);
    memory_free(w->weight);
}

/* One side: what it is cut and made into. */
struct side {
    const struct windows *windows;
    int32_t cells, length, to; /* of a window; of the picture that they slide over; of the result */
};

/* Adds `share` of place `at` of the picture to its cells' weights. */
static void add_place(float *of_cells, const struct side *side, int32_t at, float share)
{
    const struct windows *w = side->windows;
    int32_t over = 0;

    for (int32_t i = 0; i < w->n; i++)
        over += at >= w->first[i] && at < w->first[i] + w->window;
    for (int32_t i = 0; i < w->n; i++) {
        if (at < w->first[i] || at >= w->first[i] + w->window)
            continue;
        struct bilinear_tap tap =
            bilinear_tap_at(at - w->first[i], (float)side->cells / (float)w->window, side->cells);
        of_cells[i * side->cells + tap.low] += share * (1.0f - tap.share) / (float)over;
        of_cells[i * side->cells + tap.high] += share * tap.share / (float)over;
    }
}

/* The weights of `of_cells` that are not 0 become the next place's. */
static enum status take_place(struct cell_weights *out, int32_t place, const float *of_cells,
                              int32_t n_cells)
{
    int32_t n = out->begin[place];

    for (int32_t i = 0; i < n_cells; i++) {
        if (of_cells[i] == 0.0f)
            continue;
        TRY(memory_grow(&out->cell, &out->cell_capacity, (size_t)n + 1, sizeof(*out->cell),
                        "weights of windows"));
        TRY(memory_grow(&out->weight, &out->weight_capacity, (size_t)n + 1, sizeof(*out->weight),
                        "weights of windows"));
        out->cell[n] = i;
        out->weight[n++] = of_cells[i];
    }
    out->begin[place + 1] = n;
    return STATUS_OK;
}

static enum status weights_fill(struct cell_weights *out, const struct side *side)
{
    int32_t n_cells = side->windows->n * side->cells;
    float ratio = (float)side->length / (float)side->to, *of_cells = NULL;
    enum status status;

    TRY_OUT(
        memory_alloc(&out->begin, (size_t)side->to + 1, sizeof(*out->begin), "weights of windows"));
    TRY_OUT(memory_alloc(&of_cells, (size_t)n_cells, sizeof(float), "weights of windows"));
    for (int32_t place = 0; place < side->to; place++) {
        struct bilinear_tap tap = bilinear_tap_at(place, ratio, side->length);
        memset(of_cells, 0, (size_t)n_cells * sizeof(float));
        add_place(of_cells, side, tap.low, 1.0f - tap.share);
        if (tap.share > 0.0f)
            add_place(of_cells, side, tap.high, tap.share);
        TRY_OUT(take_place(out, place, of_cells, n_cells));
    }
out:
    memory_free(of_cells);
    return status;
}

/* ------------------------------------------------------------------------------ sums */

static void add_scaled(float *restrict to, const float *restrict from, float factor, int64_t n)
{
    for (int64_t i = 0; i < n; i++)
        to[i] += factor * from[i];
}

/* columns [across.n * columns, K]: what row `row` of the result is made of. */
static void sum_rows(float *columns, const struct window_maps *m, const struct cell_weights *down,
                     int32_t row)
{
    int64_t line = (int64_t)m->columns * m->n_classes;

    memset(columns, 0, (size_t)(m->across->n * line) * sizeof(float));
    for (int32_t i = down->begin[row]; i < down->begin[row + 1]; i++) {
        int64_t window = down->cell[i] / m->rows, cell = down->cell[i] % m->rows;
        for (int64_t x = 0; x < m->across->n; x++)
            add_scaled(columns + x * line,
                       m->logits + ((window * m->across->n + x) * m->rows + cell) * line,
                       down->weight[i], line);
    }
}

static uint8_t greatest(const float *values, int32_t n)
{
    int32_t best = 0;

    for (int32_t i = 1; i < n; i++)
        best = values[i] > values[best] ? i : best;
    return (uint8_t)best;
}

/* Adds exp(values) over their sum; values are lost. */
static void add_softmax(float *restrict total, float *restrict values, int32_t n)
{
    float top = values[0], sum = 0.0f;

    for (int32_t i = 1; i < n; i++)
        top = values[i] > top ? values[i] : top;
    for (int32_t i = 0; i < n; i++) {
        values[i] = vector_exp(values[i] - top);
        sum += values[i];
    }
    add_scaled(total, values, 1.0f / sum, n);
}

/* Maps with their weights. */
struct seen {
    const struct window_maps *maps;
    struct cell_weights down, across;
};

/* Memory of a thread: columns of all maps; a pixel of one [K]; of all [K]. */
struct row_room {
    float *columns, *pixel, *total;
};

static int64_t columns_of(const struct window_maps *m)
{
    return (int64_t)m->across->n * m->columns * m->n_classes;
}

/* room->total: of pixel x of the row whose columns there are. */
static void sum_pixel(const struct row_room *room, const struct seen *seen, int32_t n_maps,
                      int32_t x, int32_t to_width)
{
    const float *columns = room->columns;
    int32_t k = seen->maps->n_classes;
    float *pixel = n_maps > 1 ? room->pixel : room->total;

    memset(room->total, 0, (size_t)k * sizeof(float));
    for (int32_t m = 0; m < n_maps; m++) {
        const struct cell_weights *across = &seen[m].across;
        int32_t place = seen[m].maps->mirrored ? to_width - 1 - x : x;
        memset(pixel, 0, (size_t)k * sizeof(float));
        for (int32_t i = across->begin[place]; i < across->begin[place + 1]; i++)
            add_scaled(pixel, columns + (int64_t)across->cell[i] * k, across->weight[i], k);
        if (n_maps > 1)
            add_softmax(room->total, pixel, k);
        columns += columns_of(seen[m].maps);
    }
}

static void one_row(uint8_t *labels, float *values, const struct row_room *room,
                    const struct seen *seen, int32_t n_maps, int32_t y, int32_t to_width)
{
    int32_t k = seen->maps->n_classes;
    float *columns = room->columns;

    for (int32_t m = 0; m < n_maps; m++) {
        sum_rows(columns, seen[m].maps, &seen[m].down, y);
        columns += columns_of(seen[m].maps);
    }
    for (int32_t x = 0; x < to_width; x++) {
        sum_pixel(room, seen, n_maps, x, to_width);
        labels[x] = greatest(room->total, k);
        if (values != NULL)
            memcpy(values + (int64_t)x * k, room->total, (size_t)k * sizeof(float));
    }
}

enum status window_maps_classify(uint8_t *labels, float *values, int32_t to_width,
                                 int32_t to_height, const struct window_maps *maps, int32_t n_maps)
{
    struct seen seen[WINDOWS_MAX_MAPS] = {{.maps = NULL}};
    int64_t k = maps->n_classes, line = 0;
    float *memory = NULL; /* of each thread */
    enum status status = STATUS_OK;

    CHECK(n_maps >= 1 && n_maps <= WINDOWS_MAX_MAPS && k >= 1 && k <= 256);
    CHECK(to_width >= 1 && to_height >= 1);
    for (int32_t i = 0; i < n_maps; i++) {
        const struct window_maps *m = &maps[i];
        CHECK(m->rows >= 1 && m->columns >= 1 && m->n_classes == k);
        struct side down = {m->down, m->rows, m->height, to_height};
        struct side across = {m->across, m->columns, m->width, to_width};
        seen[i].maps = m;
        TRY_OUT(weights_fill(&seen[i].down, &down));
        TRY_OUT(weights_fill(&seen[i].across, &across));
        line += columns_of(m);
    }
    TRY_OUT(memory_alloc(&memory, (size_t)omp_get_max_threads(),
                         (size_t)(line + 2 * k) * sizeof(float), "logits of a row"));
#pragma omp parallel for schedule(dynamic, 8)
    for (int32_t y = 0; y < to_height; y++) {
        float *own = memory + omp_get_thread_num() * (line + 2 * k);
        struct row_room room = {own, own + line, own + line + k};
        int64_t at = (int64_t)y * to_width;
        one_row(labels + at, values != NULL ? values + at * k : NULL, &room, seen, n_maps, y,
                to_width);
    }
out:
    for (int32_t i = 0; i < n_maps; i++) {
        weights_release(&seen[i].down);
        weights_release(&seen[i].across);
    }
    memory_free(memory);
    return status;
}
