/* The device multiplies: a block of rows of the frame by those rows of each source that windows
 * reach. What comes back is looked through here, patch by patch: it is read twice. */
#include "trainer/eval/label_propagation.h"

#include <math.h>
#include <omp.h>
#include <string.h>

#include "proto/base/memory.h"

enum { SIMILARITY_BYTES = 64 << 20, MAX_TOPK = 4096 };

static int32_t least_of(int32_t a, int32_t b)
{
    return a < b ? a : b;
}

/* How far windows reach. */
static int32_t reach(const struct label_propagation *p)
{
    int32_t side = p->options.rows > p->options.columns ? p->options.rows : p->options.columns;
    int32_t asked = p->options.size_mask_neighborhood;

    return asked > 0 ? least_of(asked, side) : side;
}

/* Rows of a source that a block of rows sees at most. */
static int32_t band_rows(const struct label_propagation *p, int32_t block)
{
    return least_of(p->options.rows, block + 2 * reach(p));
}

static size_t similarity_bytes(const struct label_propagation *p, int32_t block)
{
    return (size_t)block * (size_t)band_rows(p, block) * (size_t)p->options.columns *
           (size_t)p->options.columns * (size_t)(1 + p->options.n_last_frames) * sizeof(float);
}

enum status label_propagation_open(struct label_propagation *out, struct device *device,
                                   const struct op_table *ops,
                                   const struct label_propagation_options *o)
{
    struct label_propagation *p = out;
    enum status status;

    memset(p, 0, sizeof(*p));
    CHECK(o->rows >= 1 && o->columns >= 1 && o->width >= 1 && o->n_labels >= 1 &&
          o->n_labels <= 256 && o->n_last_frames >= 0 && o->topk >= 1 && o->topk <= MAX_TOPK &&
          o->temperature > 0.0f);
    p->options = *o;
    p->device = device;
    p->ops = ops;
    p->cells = (int64_t)o->rows * o->columns;
    p->block_rows = o->rows;
    while (p->block_rows > 1 && similarity_bytes(p, p->block_rows) > SIMILARITY_BYTES)
        p->block_rows = (p->block_rows + 1) / 2;
    size_t frame = (size_t)p->cells * (size_t)o->width, n_frames = (size_t)o->n_last_frames + 1;
    size_t bytes = similarity_bytes(p, p->block_rows);
    TRY_OUT(device->alloc(device, (void **)&p->features, (n_frames + 1) * frame * sizeof(float),
                          "features of frames"));
    TRY_OUT(device->alloc(device, (void **)&p->similarity, bytes, "similarities"));
    TRY_OUT(device->alloc_host(device, (void **)&p->host_similarity, bytes, "similarities"));
    TRY_OUT(memory_alloc(&p->labels, n_frames * (size_t)p->cells,
                         sizeof(float) * (size_t)o->n_labels, "labels of frames"));
out:
    if (status != STATUS_OK)
        label_propagation_close(p);
    return status;
}

void label_propagation_close(struct label_propagation *p)
{
    if (p == NULL || p->device == NULL)
        return;
    p->device->free(p->device, p->features);
    p->device->free(p->device, p->similarity);
    p->device->free_host(p->device, p->host_similarity);
    memory_free(p->labels);
    memset(p, 0, sizeof(*p));
}

/* ------------------------------------------------------------------------------ frames */

static struct tensor features_of(const struct label_propagation *p, int64_t frame, int64_t first,
                                 int64_t n)
{
    int64_t width = p->options.width;

    return tensor_2d(p->features + (frame * p->cells + first) * width, DTYPE_F32, n, width);
}

/* Features of length 1 to the place of a frame. */
static enum status place_features(struct label_propagation *p, int32_t frame, const float *tokens)
{
    int64_t n = p->cells * p->options.width;

    for (int64_t i = 0; i < n; i++)
        if (!isfinite(tokens[i]))
            FAIL(STATUS_NOT_FINITE,
                 "a feature of a patch is not finite: the weights are broken, or "
                 "too large for the precision");
    struct tensor x = features_of(p, frame, 0, p->cells);
    struct unit_norm_args args = {.x = x, .y = x, .eps = 1e-12f};
    TRY(p->device->copy_in(p->device, x.data, tokens, (size_t)n * sizeof(float)));
    return p->ops->unit_norm_forward(p->device, &args);
}

static float *labels_of(const struct label_propagation *p, int64_t frame)
{
    return p->labels + frame * p->cells * p->options.n_labels;
}

enum status label_propagation_begin(struct label_propagation *p, const float *tokens,
                                    const float *labels)
{
    TRY(place_features(p, 0, tokens));
    memcpy(p->labels, labels, (size_t)(p->cells * p->options.n_labels) * sizeof(float));
    p->n_sources = 1;
    p->next = 1;
    return STATUS_OK;
}

/* ------------------------------------------------------------------------------ labels of a patch
 */

/* Similarities of a block of rows of patches: [n_sources][n_rows * columns][n_band * columns]. */
struct block {
    int32_t first, n_rows;      /* rows of the frame under way */
    int32_t first_band, n_band; /* rows of each source */
};

/* The window of a patch in a row of a source: its similarities. */
static const float *window_line(const struct label_propagation *p, const struct block *b,
                                int64_t source, int64_t patch, int32_t row, int32_t first_column)
{
    int64_t columns = p->options.columns, band = b->n_band * columns;
    int64_t line = source * b->n_rows * columns + patch;

    return p->host_similarity + line * band + (row - b->first_band) * columns + first_column;
}

struct window {
    int32_t first_row, end_row, first_column, end_column;
};

static struct window window_of(const struct label_propagation *p, int32_t row, int32_t column)
{
    int32_t far = reach(p);

    return (struct window){
        .first_row = row > far ? row - far : 0,
        .end_row = least_of(p->options.rows, row + far + 1),
        .first_column = column > far ? column - far : 0,
        .end_column = least_of(p->options.columns, column + far + 1),
    };
}

/* Keeps the k greatest, the greatest first. */
static int32_t offer(float *best, int32_t n, int32_t k, float value)
{
    int32_t at;

    if (n == k && !(value > best[k - 1]))
        return n;
    for (at = n < k ? n : k - 1; at > 0 && value > best[at - 1]; at--)
        best[at] = best[at - 1];
    best[at] = value;
    return n < k ? n + 1 : n;
}

/* The greatest similarity, and the least that counts. */
static void find_bounds(const struct label_propagation *p, const struct block *b, int64_t patch,
                        const struct window *w, float *best, float *greatest, float *least)
{
    int32_t n = 0;

    for (int32_t source = 0; source < p->n_sources; source++)
        for (int32_t row = w->first_row; row < w->end_row; row++) {
            const float *line = window_line(p, b, source, patch, row, w->first_column);
            for (int32_t j = 0; j < w->end_column - w->first_column; j++)
                n = offer(best, n, p->options.topk, line[j]);
        }
    *greatest = best[0];
    *least = n == p->options.topk ? best[n - 1] : -INFINITY;
}

static void propagate_to(const struct label_propagation *p, const struct block *b, int64_t patch,
                         float *best, float *out)
{
    int32_t columns = p->options.columns, n_labels = p->options.n_labels;
    struct window w =
        window_of(p, b->first + (int32_t)(patch / columns), (int32_t)(patch % columns));
    float greatest, least;
    double sum = 0.0, labels[256] = {0};

    find_bounds(p, b, patch, &w, best, &greatest, &least);
    for (int32_t source = 0; source < p->n_sources; source++)
        for (int32_t row = w.first_row; row < w.end_row; row++) {
            const float *line = window_line(p, b, source, patch, row, w.first_column);
            const float *from = labels_of(p, source) +
                                ((int64_t)row * columns + w.first_column) * (int64_t)n_labels;
            for (int32_t j = 0; j < w.end_column - w.first_column; j++) {
                if (!(line[j] >= least))
                    continue;
                double affinity = exp(((double)line[j] - greatest) / p->options.temperature);
                sum += affinity;
                for (int32_t c = 0; c < n_labels; c++)
                    labels[c] += affinity * from[(int64_t)j * n_labels + c];
            }
        }
    for (int32_t c = 0; c < n_labels; c++)
        out[c] = (float)(labels[c] / sum);
}

/* ------------------------------------------------------------------------------ a frame */

static enum status multiply_block(struct label_propagation *p, const struct block *b)
{
    int64_t columns = p->options.columns, frame = 1 + p->options.n_last_frames;
    int64_t n = b->n_rows * columns, band = b->n_band * columns;

    for (int32_t source = 0; source < p->n_sources; source++) {
        struct linear_args args = {
            .x = features_of(p, frame, b->first * columns, n),
            .weight = features_of(p, source, b->first_band * columns, band),
            .y = tensor_2d(p->similarity + source * n * band, DTYPE_F32, n, band),
        };
        TRY(p->ops->linear_forward(p->device, &args));
    }
    TRY(p->device->copy_out(p->device, p->host_similarity, p->similarity,
                            (size_t)(p->n_sources * n * band) * sizeof(float)));
    return p->device->synchronize(p->device);
}

/* An accelerator has no threads of the host. */
static int threads_of(const struct label_propagation *p)
{
    return p->device->kind == DEVICE_CPU ? p->device->n_threads : omp_get_max_threads();
}

static enum status propagate_block(struct label_propagation *p, float *labels, int32_t first,
                                   int32_t n_rows)
{
    int32_t far = reach(p), first_band = first > far ? first - far : 0;
    int64_t columns = p->options.columns;
    struct block b = {
        .first = first,
        .n_rows = n_rows,
        .first_band = first_band,
        .n_band = least_of(p->options.rows, first + n_rows + far) - first_band,
    };

    TRY(multiply_block(p, &b));
#pragma omp parallel num_threads(threads_of(p))
    {
        float best[MAX_TOPK];
#pragma omp for schedule(static)
        for (int64_t patch = 0; patch < n_rows * columns; patch++)
            propagate_to(p, &b, patch, best,
                         labels + (first * columns + patch) * p->options.n_labels);
    }
    return STATUS_OK;
}

enum status label_propagation_next(struct label_propagation *p, float *labels, const float *tokens)
{
    const struct label_propagation_options *o = &p->options;
    int32_t n_last = o->n_last_frames;

    CHECK(p->n_sources > 0);
    TRY(place_features(p, 1 + n_last, tokens));
    for (int32_t first = 0; first < o->rows; first += p->block_rows)
        TRY(propagate_block(p, labels, first, least_of(p->block_rows, o->rows - first)));
    if (n_last == 0)
        return STATUS_OK;
    /* the oldest but the first gives way */
    size_t bytes = (size_t)(p->cells * o->width) * sizeof(float);
    TRY(p->device->copy(p->device, features_of(p, p->next, 0, 1).data,
                        features_of(p, 1 + n_last, 0, 1).data, bytes));
    memcpy(labels_of(p, p->next), labels, (size_t)(p->cells * o->n_labels) * sizeof(float));
    p->n_sources = p->n_sources <= n_last ? p->n_sources + 1 : p->n_sources;
    p->next = p->next % n_last + 1;
    return STATUS_OK;
}
