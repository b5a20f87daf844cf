/* Window attention on the CPU. A task is one head over a run of windows: it expands the bias of its
 * head once, then gathers the rows of each window, multiplies through CBLAS (single-threaded inside
 * a parallel region) and scatters. Only real tokens ask; padding only answers, so that a map of 3 x
 * 3 in a window of 7 x 7 costs 9 rows of scores, not 49. The number of runs depends on the shapes
 * alone and their sums are added in order: the same bits on any number of threads. */
#include "ops/window.h"

#include <cblas.h>
#include <math.h>
#include <omp.h>
#include <string.h>

#include "ops/check.h"
#include "ops/cpu_scratch.h"
#include "ops/softmax_row.h"
#include "ops/vector_math.h"

enum { MAX_RUNS = 32 };

static const float between_regions = -100.0f;

/* What both directions know of a call. */
struct geometry {
    const struct region_group *groups;
    int32_t n_groups, n_heads;
    int64_t window, shift, length, width, head_dim; /* w, shift, L = w*w, D, Dh */
    int64_t n_windows, n_runs;
};

/* Scratch of one thread. */
struct window_scratch {
    float *bias, *scores, *d_scores, *d_bias; /* [L, L] each */
    float *q, *k, *v, *o, *d_q, *d_k, *d_v;   /* [L, Dh] each; o: output, or its gradient */
    int32_t *place;                           /* [L] place in the window of each real token */
    int32_t *region;                          /* [L] of each place */
    int64_t *row;                             /* [L] row of each real token in the buffers */
    int64_t n_real;
    bool parted; /* more than one region */
};

static int64_t windows_along(const struct geometry *g, const struct region_group *group)
{
    return (group->side + g->window - 1) / g->window;
}

static struct geometry geometry_of(const struct region_group *groups, int32_t n_groups,
                                   int32_t n_heads, int32_t window, int32_t shift, int64_t width)
{
    struct geometry g = {
        .groups = groups,
        .n_groups = n_groups,
        .n_heads = n_heads,
        .window = window,
        .shift = shift,
        .length = (int64_t)window * window,
        .width = width,
        .head_dim = width / n_heads,
    };
    for (int32_t i = 0; i < n_groups; i++)
        g.n_windows +=
            groups[i].n_images * windows_along(&g, &groups[i]) * windows_along(&g, &groups[i]);
    g.n_runs = g.n_windows < MAX_RUNS ? g.n_windows : MAX_RUNS;
    return g;
}

static void check_shapes(const struct geometry *g, const struct tensor *qkv,
                         const struct tensor *pad, const struct tensor *table)
{
    int64_t reach = 2 * g->window - 1;

    CHECK(g->n_groups >= 0 && g->n_groups <= REGION_MAX_GROUPS);
    CHECK(g->n_heads > 0 && g->window > 0 && g->shift >= 0 && g->shift < g->window);
    CHECK(qkv->rank == 2 && qkv->shape[1] == 3 * g->head_dim * g->n_heads);
    CHECK(pad->data != NULL && tensor_is_1d(pad, 3 * g->width));
    CHECK(table->data != NULL && tensor_is_2d(table, reach * reach, g->n_heads));
    for (int32_t i = 0; i < g->n_groups; i++)
        CHECK(g->groups[i].first_row >= 0 && g->groups[i].n_images >= 0 && g->groups[i].side > 0 &&
              g->groups[i].first_row +
                      g->groups[i].n_images * g->groups[i].side * g->groups[i].side <=
                  qkv->shape[0]);
}

/* ------------------------------------------------------------------------------ scratch */

static size_t scratch_floats(const struct geometry *g)
{
    int64_t square = g->length * g->length, rows = g->length * g->head_dim;
    return (size_t)(4 * square + 7 * rows + 2 * g->length + 2 * g->length + 16);
}

static struct window_scratch scratch_of(const struct geometry *g, float *base)
{
    int64_t square = g->length * g->length, rows = g->length * g->head_dim;
    struct window_scratch s;
    float **squares[] = {&s.bias, &s.scores, &s.d_scores, &s.d_bias};
    float **matrices[] = {&s.q, &s.k, &s.v, &s.o, &s.d_q, &s.d_k, &s.d_v};

    s.row = (int64_t *)(void *)base; /* first: the block is aligned for it */
    base += 2 * g->length;
    s.place = (int32_t *)(void *)base;
    s.region = s.place + g->length;
    base += 2 * g->length;
    for (size_t i = 0; i < sizeof(squares) / sizeof(squares[0]); i++, base += square)
        *squares[i] = base;
    for (size_t i = 0; i < sizeof(matrices) / sizeof(matrices[0]); i++, base += rows)
        *matrices[i] = base;
    s.n_real = 0;
    s.parted = false;
    return s;
}

/* Floats from one thread's block to the next: a multiple of 16, so that all are aligned. */
static size_t scratch_stride(const struct geometry *g)
{
    return (scratch_floats(g) + 15) / 16 * 16;
}

/* ------------------------------------------------------------------------------ addresses */

static int32_t part_of(int64_t s, int64_t padded, int64_t window, int64_t shift)
{
    return s < padded - window ? 0 : s < padded - shift ? 1 : 2;
}

/* Lists the real tokens of window `index` and the regions of its places. */
static void find_tokens(const struct geometry *g, int64_t index, struct window_scratch *s)
{
    const struct region_group *group = g->groups;
    int64_t along = windows_along(g, group), w = g->window;

    while (index >= group->n_images * along * along) {
        index -= group->n_images * along * along;
        group++;
        along = windows_along(g, group);
    }
    int64_t image = index / (along * along), wy = index / along % along, wx = index % along;
    int64_t padded = along * w, side = group->side;
    int64_t first = group->first_row + image * side * side;

    s->n_real = 0;
    s->parted = g->shift > 0 && (wy == along - 1 || wx == along - 1);
    for (int64_t t = 0; t < g->length; t++) {
        int64_t sy = wy * w + t / w, sx = wx * w + t % w;
        int64_t y = (sy + g->shift) % padded, x = (sx + g->shift) % padded;
        s->region[t] = 3 * part_of(sy, padded, w, g->shift) + part_of(sx, padded, w, g->shift);
        if (y >= side || x >= side)
            continue;
        s->place[s->n_real] = (int32_t)t;
        s->row[s->n_real++] = first + y * side + x;
    }
}

/* bias [L, L] of one head, from the table. */
static void expand_bias(const struct geometry *g, const float *table, int64_t head, float *bias)
{
    int64_t w = g->window, reach = 2 * w - 1;

    for (int64_t i = 0; i < g->length; i++)
        for (int64_t j = 0; j < g->length; j++) {
            int64_t dy = i / w - j / w + w - 1, dx = i % w - j % w + w - 1;
            bias[i * g->length + j] = table[(dy * reach + dx) * g->n_heads + head];
        }
}

/* The way back: sums of all pairs at the same distance. */
static void fold_bias(const struct geometry *g, const float *bias, float *table)
{
    int64_t w = g->window, reach = 2 * w - 1;

    memset(table, 0, (size_t)(reach * reach) * sizeof(float));
    for (int64_t i = 0; i < g->length; i++)
        for (int64_t j = 0; j < g->length; j++)
            table[(i / w - j / w + w - 1) * reach + i % w - j % w + w - 1] +=
                bias[i * g->length + j];
}

/* q of the real tokens, scaled; k and v of all places. */
static void gather_window(const struct geometry *g, int64_t head, const float *qkv,
                          const float *pad, struct window_scratch *s)
{
    int64_t d = g->head_dim, column = head * d;
    size_t bytes = (size_t)d * sizeof(float);
    float scale = 1.0f / sqrtf((float)d);

    for (int64_t t = 0; s->n_real < g->length && t < g->length; t++) {
        memcpy(s->k + t * d, pad + g->width + column, bytes);
        memcpy(s->v + t * d, pad + 2 * g->width + column, bytes);
    }
    for (int64_t i = 0; i < s->n_real; i++) {
        const float *from = qkv + s->row[i] * 3 * g->width + column;
        int64_t place = s->place[i];
        for (int64_t j = 0; j < d; j++)
            s->q[i * d + j] = scale * from[j];
        memcpy(s->k + place * d, from + g->width, bytes);
        memcpy(s->v + place * d, from + 2 * g->width, bytes);
    }
}

/* scores [n_real, L] = q k^T + bias + mask */
static void window_scores(const struct geometry *g, struct window_scratch *s)
{
    int64_t length = g->length;
    int n = (int)s->n_real, l = (int)length, d = (int)g->head_dim;

    for (int64_t i = 0; i < s->n_real; i++) {
        float *row = s->scores + i * length;
        memcpy(row, s->bias + s->place[i] * length, (size_t)length * sizeof(float));
        for (int64_t j = 0; s->parted && j < length; j++)
            row[j] += s->region[j] != s->region[s->place[i]] ? between_regions : 0.0f;
    }
    cblas_sgemm(CblasRowMajor, CblasNoTrans, CblasTrans, n, l, d, 1.0f, s->q, d, s->k, d, 1.0f,
                s->scores, l);
}

/* ------------------------------------------------------------------------------ forward */

static void forward_window(const struct geometry *g, const struct window_attention_args *args,
                           int64_t head, struct window_scratch *s)
{
    int64_t length = g->length, d = g->head_dim, n_tokens = args->qkv.shape[0];
    float *out = args->out.data, *lse = args->lse.data;

    gather_window(g, head, args->qkv.data, args->pad.data, s);
    window_scores(g, s);
    for (int64_t i = 0; i < s->n_real; i++) {
        float row_lse = softmax_row(s->scores + i * length, length);
        if (lse != NULL)
            lse[head * n_tokens + s->row[i]] = row_lse;
    }
    cblas_sgemm(CblasRowMajor, CblasNoTrans, CblasNoTrans, (int)s->n_real, (int)d, (int)length,
                1.0f, s->scores, (int)length, s->v, (int)d, 0.0f, s->o, (int)d);
    for (int64_t i = 0; i < s->n_real; i++)
        memcpy(out + s->row[i] * g->width + head * d, s->o + i * d, (size_t)d * sizeof(float));
}

enum status window_attention_forward_cpu(struct device *device,
                                         const struct window_attention_args *args)
{
    int64_t n_tokens = args->qkv.shape[0], width = args->qkv.shape[1] / 3;
    struct geometry g =
        geometry_of(args->groups, args->n_groups, args->n_heads, args->window, args->shift, width);
    size_t stride = scratch_stride(&g);
    float *scratch;

    CHECK_F32("window_attention_forward", args->qkv);
    CHECK_F32("window_attention_forward", args->out);
    check_shapes(&g, &args->qkv, &args->pad, &args->table);
    CHECK(tensor_is_2d(&args->out, n_tokens, width));
    CHECK(args->lse.data == NULL || tensor_is_2d(&args->lse, g.n_heads, n_tokens));
    TRY(cpu_scratch(device, &scratch, stride * (size_t)device->n_threads * sizeof(float)));
#pragma omp parallel for schedule(static) num_threads(device->n_threads)
    for (int64_t task = 0; task < g.n_runs * g.n_heads; task++) {
        int64_t run = task / g.n_heads, head = task % g.n_heads;
        int64_t first = run * g.n_windows / g.n_runs, end = (run + 1) * g.n_windows / g.n_runs;
        struct window_scratch s = scratch_of(&g, scratch + (size_t)omp_get_thread_num() * stride);
        expand_bias(&g, args->table.data, head, s.bias);
        for (int64_t index = first; index < end; index++) {
            find_tokens(&g, index, &s);
            forward_window(&g, args, head, &s);
        }
    }
    return STATUS_OK;
}

/* ------------------------------------------------------------------------------ backward */

/* d_scores = p * (dP - <dO, O>), p = exp(s - lse) in place of the scores; added to d_bias. */
static void score_gradients(const struct geometry *g,
                            const struct window_attention_backward_args *args, int64_t head,
                            struct window_scratch *s)
{
    int64_t length = g->length, d = g->head_dim, n_tokens = args->qkv.shape[0];
    const float *out = args->out.data, *lse = args->lse.data;

    for (int64_t i = 0; i < s->n_real; i++) {
        const float *o = out + s->row[i] * g->width + head * d, *d_o = s->o + i * d;
        float *p = s->scores + i * length, *ds = s->d_scores + i * length;
        float *d_bias = s->d_bias + s->place[i] * length;
        float dot = 0.0f, row_lse = lse[head * n_tokens + s->row[i]];
#pragma omp simd reduction(+ : dot)
        for (int64_t j = 0; j < d; j++)
            dot += o[j] * d_o[j];
        for (int64_t j = 0; j < length; j++) {
            p[j] = vector_exp(p[j] - row_lse);
            ds[j] = p[j] * (ds[j] - dot);
            d_bias[j] += ds[j];
        }
    }
}

/* Gradients of q, k, v of one window to their rows; those of padding are added to d_pad [2, Dh]. */
static void scatter_window(const struct geometry *g, int64_t head, float *d_qkv, float *d_pad,
                           const struct window_scratch *s)
{
    int64_t d = g->head_dim, real = 0;
    size_t bytes = (size_t)d * sizeof(float);

    for (int64_t t = 0; t < g->length; t++) {
        if (real < s->n_real && s->place[real] == t) {
            float *to = d_qkv + s->row[real] * 3 * g->width + head * d;
            memcpy(to, s->d_q + real * d, bytes);
            memcpy(to + g->width, s->d_k + t * d, bytes);
            memcpy(to + 2 * g->width, s->d_v + t * d, bytes);
            real++;
            continue;
        }
        for (int64_t j = 0; j < d; j++) {
            d_pad[j] += s->d_k[t * d + j];
            d_pad[d + j] += s->d_v[t * d + j];
        }
    }
}

static void backward_window(const struct geometry *g,
                            const struct window_attention_backward_args *args, int64_t head,
                            float *d_pad, struct window_scratch *s)
{
    int n = (int)s->n_real, l = (int)g->length, d = (int)g->head_dim;
    const float *d_out = args->d_out.data;

    gather_window(g, head, args->qkv.data, args->pad.data, s);
    for (int64_t i = 0; i < s->n_real; i++)
        memcpy(s->o + i * d, d_out + s->row[i] * g->width + head * d, (size_t)d * sizeof(float));
    window_scores(g, s);
    cblas_sgemm(CblasRowMajor, CblasNoTrans, CblasTrans, n, l, d, 1.0f, s->o, d, s->v, d, 0.0f,
                s->d_scores, l);
    score_gradients(g, args, head, s);
    cblas_sgemm(CblasRowMajor, CblasNoTrans, CblasNoTrans, n, d, l, 1.0f / sqrtf((float)d),
                s->d_scores, l, s->k, d, 0.0f, s->d_q, d);
    cblas_sgemm(CblasRowMajor, CblasTrans, CblasNoTrans, l, d, n, 1.0f, s->d_scores, l, s->q, d,
                0.0f, s->d_k, d);
    cblas_sgemm(CblasRowMajor, CblasTrans, CblasNoTrans, l, d, n, 1.0f, s->scores, l, s->o, d, 0.0f,
                s->d_v, d);
    scatter_window(g, head, args->d_qkv.data, d_pad, s);
}

/* Adds what the runs have summed, in their order. tables [runs, H, reach^2], pads [runs, H, 2, Dh]
 */
static void add_runs(const struct geometry *g, const struct window_attention_backward_args *args,
                     const float *tables, const float *pads)
{
    int64_t reach = 2 * g->window - 1, n = reach * reach, d = g->head_dim, heads = g->n_heads;
    float *d_table = args->d_table.data, *d_pad = args->d_pad.data;

    for (int64_t i = 0; d_table != NULL && i < n * heads; i++) {
        double sum = 0.0;
        for (int64_t run = 0; run < g->n_runs; run++)
            sum += (double)tables[(run * heads + i % heads) * n + i / heads];
        d_table[i] += (float)sum;
    }
    for (int64_t i = 0; d_pad != NULL && i < 2 * g->width; i++) {
        int64_t third = i / g->width, head = i % g->width / d, j = i % d;
        double sum = 0.0;
        for (int64_t run = 0; run < g->n_runs; run++)
            sum += (double)pads[((run * heads + head) * 2 + third) * d + j];
        d_pad[g->width + i] += (float)sum;
    }
}

static void check_backward(const struct geometry *g,
                           const struct window_attention_backward_args *args)
{
    int64_t n_tokens = args->qkv.shape[0], reach = 2 * g->window - 1;

    check_shapes(g, &args->qkv, &args->pad, &args->table);
    CHECK(args->lse.data != NULL && tensor_is_2d(&args->lse, g->n_heads, n_tokens));
    CHECK(tensor_is_2d(&args->d_qkv, n_tokens, 3 * g->width));
    CHECK(tensor_is_2d(&args->out, n_tokens, g->width));
    CHECK(tensor_is_2d(&args->d_out, n_tokens, g->width));
    CHECK(args->d_pad.data == NULL || tensor_is_1d(&args->d_pad, 3 * g->width));
    CHECK(args->d_table.data == NULL || tensor_is_2d(&args->d_table, reach * reach, g->n_heads));
}

enum status window_attention_backward_cpu(struct device *device,
                                          const struct window_attention_backward_args *args)
{
    int64_t width = args->qkv.shape[1] / 3;
    struct geometry g =
        geometry_of(args->groups, args->n_groups, args->n_heads, args->window, args->shift, width);
    int64_t reach = 2 * g.window - 1, n_tasks = g.n_runs * g.n_heads;
    size_t stride = scratch_stride(&g), threads = (size_t)device->n_threads;
    size_t per_task = (size_t)(reach * reach + 2 * g.head_dim);
    float *scratch;

    CHECK_F32("window_attention_backward", args->d_out);
    CHECK_F32("window_attention_backward", args->qkv);
    CHECK_F32("window_attention_backward", args->d_qkv);
    check_backward(&g, args);
    TRY(cpu_scratch(device, &scratch,
                    (stride * threads + per_task * (size_t)n_tasks) * sizeof(float)));
    float *tables = scratch + stride * threads, *pads = tables + n_tasks * reach * reach;
#pragma omp parallel for schedule(static) num_threads(device->n_threads)
    for (int64_t task = 0; task < n_tasks; task++) {
        int64_t run = task / g.n_heads, head = task % g.n_heads;
        int64_t first = run * g.n_windows / g.n_runs, end = (run + 1) * g.n_windows / g.n_runs;
        float *d_pad = pads + task * 2 * g.head_dim;
        struct window_scratch s = scratch_of(&g, scratch + (size_t)omp_get_thread_num() * stride);
        expand_bias(&g, args->table.data, head, s.bias);
        memset(s.d_bias, 0, (size_t)(g.length * g.length) * sizeof(float));
        memset(d_pad, 0, 2 * (size_t)g.head_dim * sizeof(float));
        for (int64_t index = first; index < end; index++) {
            find_tokens(&g, index, &s);
            backward_window(&g, args, head, d_pad, &s);
        }
        fold_bias(&g, s.d_bias, tables + task * reach * reach);
    }
    add_runs(&g, args, tables, pads);
    return STATUS_OK;
}
