#include "trainer/model/map_tables.h"

#include <math.h>
#include <string.h>

#include "proto/base/memory.h"
#include "trainer/model/bin_span.h"

enum { WINDOW = 3 };

/* The entries of a matrix that is being made, row by row. */
struct entries {
    int32_t *row, *column;
    float *value;
    size_t n, row_capacity, column_capacity, value_capacity;
    int64_t n_rows, n_columns;
};

static enum status add(struct entries *e, int64_t row, int64_t column, double value)
{
    TRY(memory_grow(&e->row, &e->row_capacity, e->n + 1, sizeof(*e->row), "map tables"));
    TRY(memory_grow(&e->column, &e->column_capacity, e->n + 1, sizeof(*e->column), "map tables"));
    TRY(memory_grow(&e->value, &e->value_capacity, e->n + 1, sizeof(*e->value), "map tables"));
    e->row[e->n] = (int32_t)row;
    e->column[e->n] = (int32_t)column;
    e->value[e->n++] = (float)value;
    return STATUS_OK;
}

/* One matrix of entries sorted by `row` (counting: those of a row stay in their order). */
static enum status place(struct map_tables *t, struct map_matrix *out, const struct entries *e,
                         const int32_t *row, const int32_t *column, int64_t n_rows,
                         int64_t n_columns)
{
    size_t rows = (size_t)n_rows;

    *out = (struct map_matrix){
        .start = t->n_words,
        .column = t->n_words + rows + 1,
        .value = t->n_words + rows + 1 + e->n,
        .n_rows = n_rows,
        .n_columns = n_columns,
        .n_entries = (int64_t)e->n,
    };
    TRY(memory_grow(&t->words, &t->capacity, out->value + e->n, sizeof(*t->words), "map tables"));
    t->n_words = out->value + e->n;
    int32_t *start = t->words + out->start, at = 0;
    memset(start, 0, (rows + 1) * sizeof(*start));
    for (size_t i = 0; i < e->n; i++)
        start[row[i]]++;
    for (size_t i = 0; i <= rows; i++) { /* counts to places */
        int32_t n = start[i];
        start[i] = at;
        at += n;
    }
    for (size_t i = 0; i < e->n; i++) {
        size_t to = (size_t)start[row[i]]++;
        t->words[out->column + to] = column[i];
        memcpy(&t->words[out->value + to], &e->value[i], sizeof(float));
    }
    memmove(start + 1, start, rows * sizeof(*start)); /* each had moved on to the next */
    start[0] = 0;
    return STATUS_OK;
}

/* Both matrices; the entries are released, whether they could be made (`made`) or not. */
static enum status finish(struct map_tables *t, struct map_pair *out, struct entries *e,
                          enum status made)
{
    enum status status = made;

    TRY_OUT(status);
    TRY_OUT(place(t, &out->forward, e, e->row, e->column, e->n_rows, e->n_columns));
    TRY_OUT(place(t, &out->backward, e, e->column, e->row, e->n_columns, e->n_rows));
out:
    memory_free(e->row);
    memory_free(e->column);
    memory_free(e->value);
    return status;
}

/* ------------------------------------------------------------------------------ resizing */

/* Where output i reads: two neighbours and the share of the second. */
struct source {
    int32_t first, second;
    double share;
};

static struct source source_of(int32_t i, int32_t n, int32_t n_to)
{
    /* in float, as PyTorch has it */
    float scale = (float)n / (float)n_to, at = ((float)i + 0.5f) * scale - 0.5f;
    at = at > 0.0f ? at : 0.0f;
    int32_t first = (int32_t)at < n - 1 ? (int32_t)at : n - 1;

    return (struct source){first, first + (first < n - 1), (double)(at - (float)first)};
}

static enum status resize(struct entries *e, int32_t height, int32_t width, int32_t height_to,
                          int32_t width_to)
{
    for (int32_t i = 0; i < height_to * width_to; i++) {
        struct source y = source_of(i / width_to, height, height_to);
        struct source x = source_of(i % width_to, width, width_to);
        for (int k = 0; k < 4; k++) {
            double share = (k / 2 ? y.share : 1.0 - y.share) * (k % 2 ? x.share : 1.0 - x.share);
            if (share != 0.0)
                TRY(add(e, i,
                        (int64_t)(k / 2 ? y.second : y.first) * width +
                            (k % 2 ? x.second : x.first),
                        share));
        }
    }
    return STATUS_OK;
}

enum status map_tables_resize(struct map_tables *t, struct map_pair *out, int32_t height,
                              int32_t width, int32_t height_to, int32_t width_to)
{
    struct entries e = {.n_rows = (int64_t)height_to * width_to,
                        .n_columns = (int64_t)height * width};

    return finish(t, out, &e, resize(&e, height, width, height_to, width_to));
}

/* ------------------------------------------------------------------------------ means */

static enum status pool(struct entries *e, int32_t height, int32_t width, int32_t side)
{
    for (int32_t i = 0; i < side * side; i++) {
        int32_t y = i / side, x = i % side;
        int32_t top = y * height / side, bottom = ((y + 1) * height + side - 1) / side;
        int32_t left = x * width / side, right = ((x + 1) * width + side - 1) / side;
        for (int32_t row = top; row < bottom; row++)
            for (int32_t column = left; column < right; column++)
                TRY(add(e, i, (int64_t)row * width + column,
                        1.0 / ((double)(bottom - top) * (right - left))));
    }
    return STATUS_OK;
}

enum status map_tables_pool(struct map_tables *t, struct map_pair *out, int32_t height,
                            int32_t width, int32_t side)
{
    struct entries e = {.n_rows = (int64_t)side * side, .n_columns = (int64_t)height * width};

    return finish(t, out, &e, pool(&e, height, width, side));
}

/* ------------------------------------------------------------------------------ places */

static enum status doubled(struct entries *e, int32_t width)
{
    for (int64_t i = 0; i < e->n_rows; i++) {
        int64_t y = i / (2 * width), x = i % (2 * width);
        TRY(add(e, i, 4 * (y / 2 * width + x / 2) + y % 2 * 2 + x % 2, 1.0));
    }
    return STATUS_OK;
}

enum status map_tables_double(struct map_tables *t, struct map_pair *out, int32_t height,
                              int32_t width)
{
    struct entries e = {.n_rows = 4L * height * width, .n_columns = 4L * height * width};

    return finish(t, out, &e, doubled(&e, width));
}

/* As PyTorch has it, in float. */
static int32_t nearest_of(int32_t i, int32_t n, int32_t n_to)
{
    float scale = (float)n / (float)n_to;
    int32_t from = (int32_t)((float)i * scale);

    return from < n - 1 ? from : n - 1;
}

static enum status nearest(struct entries *e, int32_t height, int32_t width, int32_t height_to,
                           int32_t width_to)
{
    for (int32_t i = 0; i < height_to * width_to; i++)
        TRY(add(e, i,
                (int64_t)nearest_of(i / width_to, height, height_to) * width +
                    nearest_of(i % width_to, width, width_to),
                1.0));
    return STATUS_OK;
}

enum status map_tables_nearest(struct map_tables *t, struct map_pair *out, int32_t height,
                               int32_t width, int32_t height_to, int32_t width_to)
{
    struct entries e = {.n_rows = (int64_t)height_to * width_to,
                        .n_columns = (int64_t)height * width};

    return finish(t, out, &e, nearest(&e, height, width, height_to, width_to));
}

static enum status halve(struct entries *e, int32_t height, int32_t width)
{
    int64_t i = 0;

    for (int32_t y = 0; y < height; y += 2)
        for (int32_t x = 0; x < width; x += 2)
            TRY(add(e, i++, (int64_t)y * width + x, 1.0));
    return STATUS_OK;
}

enum status map_tables_halve(struct map_tables *t, struct map_pair *out, int32_t height,
                             int32_t width)
{
    struct entries e = {.n_rows = (int64_t)((height + 1) / 2) * ((width + 1) / 2),
                        .n_columns = (int64_t)height * width};

    return finish(t, out, &e, halve(&e, height, width));
}

static enum status repeat(struct entries *e)
{
    for (int64_t i = 0; i < e->n_rows; i++)
        TRY(add(e, i, 0, 1.0));
    return STATUS_OK;
}

enum status map_tables_repeat(struct map_tables *t, struct map_pair *out, int64_t n)
{
    struct entries e = {.n_rows = n, .n_columns = 1};

    return finish(t, out, &e, repeat(&e));
}

static enum status copy(struct entries *e)
{
    for (int64_t i = 0; i < e->n_rows; i++)
        TRY(add(e, i, i, 1.0));
    return STATUS_OK;
}

enum status map_tables_copy(struct map_tables *t, struct map_pair *out, int64_t n)
{
    struct entries e = {.n_rows = n, .n_columns = n};

    return finish(t, out, &e, copy(&e));
}

static enum status windows(struct entries *e, int32_t height, int32_t width, int64_t first)
{
    for (int64_t i = 0; i < e->n_rows; i++) {
        int64_t cell = first + i / (WINDOW * WINDOW), k = i % (WINDOW * WINDOW);
        int64_t y = cell / width + k / WINDOW - 1, x = cell % width + k % WINDOW - 1;
        if (y >= 0 && y < height && x >= 0 && x < width)
            TRY(add(e, i, y * width + x, 1.0));
    }
    return STATUS_OK;
}

enum status map_tables_windows(struct map_tables *t, struct map_pair *out, int32_t height,
                               int32_t width, int64_t first, int64_t n)
{
    struct entries e = {.n_rows = n * WINDOW * WINDOW, .n_columns = (int64_t)height * width};

    return finish(t, out, &e, windows(&e, height, width, first));
}

/* ------------------------------------------------------------------------------ regions */

static enum status region_bins(struct entries *e, const struct map_regions *r, int32_t region,
                               struct bin_span *down, struct bin_span *across)
{
    const struct map_region *of = &r->regions[region];
    float top = of->top, height = (of->bottom - of->top) / (float)r->side;
    float left = of->left, width = (of->right - of->left) / (float)r->side;

    CHECK(of->map >= 0 && of->map < r->n_maps && height <= (float)r->height &&
          width <= (float)r->width);
    for (int32_t i = 0; i < r->side * r->side; i++) {
        int64_t row = (int64_t)region * r->side * r->side + i;
        TRY(bin_span_fill(down, top, height, i / r->side, r->height));
        TRY(bin_span_fill(across, left, width, i % r->side, r->width));
        for (int32_t y = 0; y < down->n; y++)
            for (int32_t x = 0; x < across->n; x++) {
                float weight = down->weights[y] * across->weights[x];
                int64_t cell = (int64_t)(down->first + y) * r->width + across->first + x;
                if (weight != 0.0f)
                    TRY(add(e, row, (int64_t)of->map * r->height * r->width + cell,
                            (double)weight));
            }
    }
    return STATUS_OK;
}

enum status map_tables_regions(struct map_tables *t, struct map_pair *out,
                               const struct map_regions *r)
{
    struct entries e = {.n_rows = (int64_t)r->n * r->side * r->side,
                        .n_columns = (int64_t)r->n_maps * r->height * r->width};
    struct bin_span down = {0}, across = {0};
    enum status status = STATUS_OK;

    for (int32_t i = 0; i < r->n && status == STATUS_OK; i++)
        status = region_bins(&e, r, i, &down, &across);
    bin_span_release(&down);
    bin_span_release(&across);
    return finish(t, out, &e, status);
}

/* ------------------------------------------------------------------------------ device */

void map_tables_clear(struct map_tables *t)
{
    t->n_words = 0;
}

enum status map_tables_upload(struct map_tables *t, struct device *device)
{
    size_t bytes = t->n_words * sizeof(*t->words);

    TRY(device->synchronize(device));
    if (bytes > t->device_bytes) {
        if (t->device_words != NULL)
            t->device->free(t->device, t->device_words);
        *t = (struct map_tables){t->words, t->n_words, t->capacity, device, NULL, 0};
        TRY(device->alloc(device, &t->device_words, bytes, "map tables"));
        t->device_bytes = bytes;
    }
    TRY(device->copy_in(device, t->device_words, t->words, bytes));
    return device->synchronize(device);
}

void map_tables_release(struct map_tables *t)
{
    if (t->device_words != NULL)
        t->device->free(t->device, t->device_words);
    memory_free(t->words);
    *t = (struct map_tables){0};
}

struct sparse_matrix map_tables_sparse(const struct map_tables *t, const struct map_matrix *m)
{
    int32_t *words = t->device_words;

    return (struct sparse_matrix){
        .start = tensor_1d(words + m->start, DTYPE_I32, m->n_rows + 1),
        .column = tensor_1d(words + m->column, DTYPE_I32, m->n_entries),
        .value = tensor_1d(words + m->value, DTYPE_F32, m->n_entries),
        .n_columns = m->n_columns,
    };
}

struct sparse_matrix map_tables_part(const struct map_tables *t, const struct map_matrix *m,
                                     int64_t n)
{
    struct sparse_matrix part = map_tables_sparse(t, m);

    part.start.shape[0] = n + 1;
    part.n_columns = n;
    return part;
}
