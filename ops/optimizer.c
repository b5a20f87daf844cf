/* Clipping, optimizer and teacher average on the CPU. Segments are cut into chunks of a fixed size,
 * so that both passes use all threads however unequal the tensors are, and sums come in the same
 * order on any number of threads.
 *
 *   segments   |  0            | 1 |  2                          |
 *   chunks     |     |     |   |   |     |     |     |     |     |   each: one partial sum, one
 * update
 */
#include "ops/optimizer.h"

#include <math.h>

#include "ops/check.h"
#include "ops/cpu_scratch.h"
#include "ops/half_float.h"

/* Elements: the five arrays of a chunk stay in cache between the step and the teacher average. */
enum { CHUNK = 1 << 13, SWEEP = 256 };

struct chunk {
    int64_t first; /* in its segment */
    int32_t segment, n;
};

/* What one segment's elements are updated with. */
struct update {
    float lr, keep, decay, clip, step_size, root_correction, lars;
    bool frozen;
};

/* Working memory of one call. */
struct plan {
    struct chunk *chunks;
    double *partial[2]; /* [n_chunks] */
    struct update *updates;
    int64_t n_chunks;
};

static enum status plan_open(struct plan *out, struct device *device,
                             const struct segment *segments, int32_t n_segments)
{
    char *memory;
    int64_t n = 0;

    for (int32_t s = 0; s < n_segments; s++)
        n += (segments[s].n + CHUNK - 1) / CHUNK;
    TRY(cpu_scratch(device, &memory,
                    (size_t)n * (sizeof(struct chunk) + 2 * sizeof(double)) +
                        (size_t)n_segments * sizeof(struct update)));
    out->n_chunks = n;
    out->chunks = (struct chunk *)(void *)memory;
    out->partial[0] = (double *)(void *)(out->chunks + n);
    out->partial[1] = out->partial[0] + n;
    out->updates = (struct update *)(void *)(out->partial[1] + n);
    n = 0;
    for (int32_t s = 0; s < n_segments; s++)
        for (int64_t first = 0; first < segments[s].n; first += CHUNK) {
            int64_t rest = segments[s].n - first;
            out->chunks[n++] = (struct chunk){first, s, (int32_t)(rest < CHUNK ? rest : CHUNK)};
        }
    return STATUS_OK;
}

/* Adds the partial sums of each segment to sums[segment]. */
static void add_partial(const struct plan *plan, int which, double *sums)
{
    for (int64_t c = 0; c < plan->n_chunks; c++)
        sums[plan->chunks[c].segment] += plan->partial[which][c];
}

/* ------------------------------------------------------------------------------ norms */

static double squares_of(const float *x, int64_t n)
{
    double sum = 0.0;

    for (int64_t first = 0; first < n; first += SWEEP) {
        int64_t end = n - first < SWEEP ? n : first + SWEEP;
        float part = 0.0f;
#pragma omp simd reduction(+ : part)
        for (int64_t i = first; i < end; i++)
            part += x[i] * x[i];
        sum += (double)part;
    }
    return sum;
}

enum status gradient_norms_cpu(struct device *device, const struct gradient_norms_args *args)
{
    double *norms = args->norms.data;
    const float *gradient = args->gradient.data;
    struct plan plan;

    CHECK_F32("gradient_norms", args->gradient);
    CHECK(args->norms.dtype == DTYPE_F64 && args->norms.shape[0] >= args->n_segments);
    TRY(plan_open(&plan, device, args->segments, args->n_segments));
#pragma omp parallel for schedule(static) num_threads(device->n_threads)
    for (int64_t c = 0; c < plan.n_chunks; c++) {
        const struct segment *segment = &args->segments[plan.chunks[c].segment];
        plan.partial[0][c] =
            segment->flags & SEGMENT_FIXED
                ? 0.0
                : squares_of(gradient + segment->offset + plan.chunks[c].first, plan.chunks[c].n);
    }
    for (int32_t s = 0; s < args->n_segments; s++)
        norms[s] = 0.0;
    add_partial(&plan, 0, norms);
    for (int32_t s = 0; s < args->n_segments; s++)
        norms[s] = sqrt(norms[s]);
    return STATUS_OK;
}

/* ------------------------------------------------------------------------------ rules */

static struct update update_of(const struct optimizer_step_args *args, int32_t s, double all_norm)
{
    const struct step_control *control = args->control;
    const struct segment *segment = &args->segments[s];
    double norm = args->global_norm ? all_norm : ((const double *)args->norms.data)[s];
    bool last_layer = (segment->flags & SEGMENT_LAST_LAYER) != 0;
    double t = (double)(last_layer ? control->last_layer_step : control->step) + 1.0;
    double scale = segment->lr_scale != 0.0f ? (double)segment->lr_scale : 1.0;
    double lr = (double)control->lr * scale;
    struct update u = {
        .lr = (float)lr,
        .decay = segment->flags & SEGMENT_DECAY ? control->weight_decay : 0.0f,
        .clip = 1.0f,
        .lars = 1.0f,
        .frozen = (segment->flags & SEGMENT_FIXED) || (last_layer && control->freeze_last_layer),
    };

    if (control->clip_grad > 0.0f) {
        double coefficient = (double)control->clip_grad / (norm + 1e-6);
        u.clip = coefficient < 1.0 ? (float)coefficient : 1.0f;
    }
    u.keep = (float)(1.0 - lr * (double)u.decay);
    u.step_size = (float)(lr / (1.0 - pow(0.9, t)));
    u.root_correction = (float)(1.0 / sqrt(1.0 - pow(0.999, t)));
    return u;
}

static void adamw(float *restrict p, const float *restrict g, float *restrict m, float *restrict v,
                  int64_t n, const struct update *u)
{
    float keep = u->keep, clip = u->clip, step = u->step_size, root = u->root_correction;

    for (int64_t i = 0; i < n; i++) {
        float gradient = g[i] * clip;
        m[i] = 0.9f * m[i] + 0.1f * gradient;
        v[i] = 0.999f * v[i] + 0.001f * gradient * gradient;
        p[i] = p[i] * keep - step * m[i] / (sqrtf(v[i]) * root + 1e-8f);
    }
}

static void sgd(float *restrict p, const float *restrict g, float *restrict m, int64_t n,
                const struct update *u)
{
    float lr = u->lr, clip = u->clip, decay = u->decay;

    for (int64_t i = 0; i < n; i++) {
        m[i] = 0.9f * m[i] + (g[i] * clip + decay * p[i]);
        p[i] -= lr * m[i];
    }
}

static void lars(float *restrict p, const float *restrict g, float *restrict m, int64_t n,
                 const struct update *u, bool vector)
{
    float decay = vector ? 0.0f : u->decay, factor = vector ? 1.0f : u->lars;
    float lr = u->lr, clip = u->clip;

    for (int64_t i = 0; i < n; i++) {
        m[i] = 0.9f * m[i] + (g[i] * clip + decay * p[i]) * factor;
        p[i] -= lr * m[i];
    }
}

static void average(float *restrict teacher, const float *restrict p, int64_t n, float momentum)
{
    float share = 1.0f - momentum;

    for (int64_t i = 0; i < n; i++)
        teacher[i] = momentum * teacher[i] + share * p[i];
}

static void copy_half(uint16_t *restrict to, const float *restrict from, int64_t n)
{
    for (int64_t i = 0; i < n; i++)
        to[i] = half_float_to_bf16(from[i]);
}

/* ------------------------------------------------------------------------------ step */

/* Squared norms of one chunk of the parameters, and of its clipped and decayed gradient. */
static void lars_squares(const struct optimizer_step_args *args, const struct update *u,
                         const struct chunk *chunk, double *p_squares, double *g_squares)
{
    int64_t at = args->segments[chunk->segment].offset + chunk->first;
    const float *p = (const float *)args->parameter.data + at;
    const float *g = (const float *)args->gradient.data + at;
    double p_sum = 0.0, g_sum = 0.0;

#pragma omp simd reduction(+ : p_sum, g_sum)
    for (int64_t i = 0; i < chunk->n; i++) {
        float gradient = g[i] * u->clip + u->decay * p[i];
        p_sum += (double)p[i] * (double)p[i];
        g_sum += (double)gradient * (double)gradient;
    }
    *p_squares = p_sum;
    *g_squares = g_sum;
}

/* 0.001 * |p| / |g + wd*p| for matrices, 1 when either is 0. */
static void find_lars_factors(struct device *device, const struct optimizer_step_args *args,
                              const struct plan *plan)
{
    double p_squares = 0.0, g_squares = 0.0;

#pragma omp parallel for schedule(static) num_threads(device->n_threads)
    for (int64_t c = 0; c < plan->n_chunks; c++)
        lars_squares(args, &plan->updates[plan->chunks[c].segment], &plan->chunks[c],
                     &plan->partial[0][c], &plan->partial[1][c]);
    for (int64_t c = 0; c < plan->n_chunks; c++) {
        int32_t s = plan->chunks[c].segment;
        p_squares += plan->partial[0][c];
        g_squares += plan->partial[1][c];
        if (c + 1 < plan->n_chunks && plan->chunks[c + 1].segment == s)
            continue;
        if (p_squares > 0.0 && g_squares > 0.0)
            plan->updates[s].lars = (float)(0.001 * sqrt(p_squares) / sqrt(g_squares));
        p_squares = g_squares = 0.0;
    }
}

static void update_chunk(const struct optimizer_step_args *args, const struct update *u,
                         const struct chunk *chunk)
{
    const struct segment *segment = &args->segments[chunk->segment];
    int64_t at = segment->offset + chunk->first, n = chunk->n;
    float *p = (float *)args->parameter.data + at, *m = (float *)args->moment1.data + at;
    const float *g = (const float *)args->gradient.data + at;

    if (!u->frozen) {
        if (args->kind == OPTIMIZER_ADAMW)
            adamw(p, g, m, (float *)args->moment2.data + at, n, u);
        else if (args->kind == OPTIMIZER_SGD)
            sgd(p, g, m, n, u);
        else
            lars(p, g, m, n, u, (segment->flags & SEGMENT_VECTOR) != 0);
    }
    if (args->parameter_half.data != NULL)
        copy_half((uint16_t *)args->parameter_half.data + at, p, n);
    if (segment->teacher_offset < 0)
        return;
    int64_t there = segment->teacher_offset + chunk->first;
    float *teacher = (float *)args->teacher.data + there;
    average(teacher, p, n, args->control->teacher_momentum);
    if (args->teacher_half.data != NULL)
        copy_half((uint16_t *)args->teacher_half.data + there, teacher, n);
}

enum status optimizer_step_cpu(struct device *device, const struct optimizer_step_args *args)
{
    const double *norms = args->norms.data;
    double squares = 0.0;
    struct plan plan;

    CHECK_F32("optimizer_step", args->parameter);
    CHECK_F32("optimizer_step", args->gradient);
    CHECK_F32("optimizer_step", args->teacher);
    CHECK(args->norms.dtype == DTYPE_F64 && args->norms.shape[0] >= args->n_segments);
    CHECK(args->kind != OPTIMIZER_ADAMW || args->moment2.data != NULL);
    struct tensor all_norms = tensor_1d(args->norms.data, DTYPE_F64, args->n_segments);
    if (!all_finite(&args->guard) || !all_finite(&all_norms))
        return STATUS_OK;
    TRY(plan_open(&plan, device, args->segments, args->n_segments));
    for (int32_t s = 0; s < args->n_segments; s++)
        squares += norms[s] * norms[s];
    for (int32_t s = 0; s < args->n_segments; s++)
        plan.updates[s] = update_of(args, s, sqrt(squares));
    if (args->kind == OPTIMIZER_LARS)
        find_lars_factors(device, args, &plan);
#pragma omp parallel for schedule(static) num_threads(device->n_threads)
    for (int64_t c = 0; c < plan.n_chunks; c++)
        update_chunk(args, &plan.updates[plan.chunks[c].segment], &plan.chunks[c]);
    return STATUS_OK;
}
