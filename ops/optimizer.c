/* Clipping, optimizer and teacher average on the CPU: segments are cut into chunks of fixed size,
 * so that both passes use all threads and sums come in the same order on any number of them. */
#include "ops/optimizer.h"

#include <math.h>

#include "ops/check.h"

enum { CHUNK = 1 << 15 }; /* elements */

static double chunk_squares(const float *x, int64_t n)
{
    double sum = 0.0;
    for (int64_t first = 0; first < n; first += 256) {
        int64_t end = first + 256 < n ? first + 256 : n;
        float part = 0.0f;
#pragma omp simd reduction(+ : part)
        for (int64_t i = first; i < end; i++)
            part += x[i] * x[i];
        sum += (double)part;
    }
    return sum;
}

/* L2 norm of each segment of `x`. */
static void segment_norms(const float *x, const struct segment *segments, int32_t n_segments,
                          double *norms)
{
#pragma omp parallel for schedule(dynamic, 1)
    for (int32_t s = 0; s < n_segments; s++) {
        double sum = 0.0;
        for (int64_t first = 0; first < segments[s].n; first += CHUNK) {
            int64_t n = segments[s].n - first < CHUNK ? segments[s].n - first : CHUNK;
            sum += chunk_squares(x + segments[s].offset + first, n);
        }
        norms[s] = sqrt(sum);
    }
}

enum status gradient_norms_cpu(struct device *device, const struct gradient_norms_args *args)
{
    double *norms = args->norms.data;

    (void)device;
    CHECK_F32("gradient_norms", args->gradient);
    CHECK(args->norms.dtype == DTYPE_F64 && args->norms.shape[0] >= args->n_segments);
    segment_norms(args->gradient.data, args->segments, args->n_segments, norms);
    for (int32_t s = 0; s < args->n_segments; s++)
        if (args->segments[s].flags & SEGMENT_FIXED)
            norms[s] = 0.0;
    return STATUS_OK;
}

/* What one segment's elements are updated with. */
struct update {
    float lr, decay, clip, step_size, root_correction, lars;
    bool frozen;
};

static struct update update_of(const struct optimizer_step_args *args, int32_t s, double all_norm)
{
    const struct step_control *control = args->control;
    const struct segment *segment = &args->segments[s];
    double norm = ((const double *)args->norms.data)[s];
    bool last_layer = (segment->flags & SEGMENT_LAST_LAYER) != 0;
    double t = (double)(last_layer ? control->last_layer_step : control->step) + 1.0;
    struct update u = {
        .lr = control->lr,
        .decay = segment->flags & SEGMENT_DECAY ? control->weight_decay : 0.0f,
        .clip = 1.0f,
        .lars = 1.0f,
        .frozen = (segment->flags & SEGMENT_FIXED) || (last_layer && control->freeze_last_layer),
    };

    if (control->clip_grad > 0.0f) {
        double coefficient = control->clip_grad / ((args->global_norm ? all_norm : norm) + 1e-6);
        u.clip = coefficient < 1.0 ? (float)coefficient : 1.0f;
    }
    u.step_size = (float)(control->lr / (1.0 - pow(0.9, t)));
    u.root_correction = (float)(1.0 / sqrt(1.0 - pow(0.999, t)));
    return u;
}

static void adamw(float *p, const float *g, float *m, float *v, int64_t n, const struct update *u)
{
    float keep = 1.0f - u->lr * u->decay, clip = u->clip, step = u->step_size;
    float root = u->root_correction;

    for (int64_t i = 0; i < n; i++) {
        float gradient = g[i] * clip;
        m[i] = 0.9f * m[i] + 0.1f * gradient;
        v[i] = 0.999f * v[i] + 0.001f * gradient * gradient;
        p[i] = p[i] * keep - step * m[i] / (sqrtf(v[i]) * root + 1e-8f);
    }
}

static void sgd(float *p, const float *g, float *m, int64_t n, const struct update *u)
{
    for (int64_t i = 0; i < n; i++) {
        m[i] = 0.9f * m[i] + (g[i] * u->clip + u->decay * p[i]);
        p[i] -= u->lr * m[i];
    }
}

static void lars(float *p, const float *g, float *m, int64_t n, const struct update *u, bool vector)
{
    float decay = vector ? 0.0f : u->decay, factor = vector ? 1.0f : u->lars;

    for (int64_t i = 0; i < n; i++) {
        m[i] = 0.9f * m[i] + (g[i] * u->clip + decay * p[i]) * factor;
        p[i] -= u->lr * m[i];
    }
}

/* 0.001 * |p| / |g + wd*p| when both are positive, else 1. */
static float lars_factor(const struct optimizer_step_args *args, const struct segment *segment,
                         const struct update *u)
{
    const float *p = (const float *)args->parameter.data + segment->offset;
    const float *g = (const float *)args->gradient.data + segment->offset;
    double p_squares = 0.0, g_squares = 0.0;

    for (int64_t i = 0; i < segment->n; i++) {
        double gradient = (double)(g[i] * u->clip + u->decay * p[i]);
        p_squares += (double)p[i] * (double)p[i];
        g_squares += gradient * gradient;
    }
    if (p_squares <= 0.0 || g_squares <= 0.0)
        return 1.0f;
    return (float)(0.001 * sqrt(p_squares) / sqrt(g_squares));
}

/* Elements [first, first + n) of a segment. */
static void update_chunk(const struct optimizer_step_args *args, const struct segment *segment,
                         const struct update *u, int64_t first, int64_t n)
{
    int64_t at = segment->offset + first;
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
    if (segment->teacher_offset < 0)
        return;
    float *teacher = (float *)args->teacher.data + segment->teacher_offset + first;
    float momentum = args->control->teacher_momentum;
    for (int64_t i = 0; i < n; i++)
        teacher[i] = momentum * teacher[i] + (1.0f - momentum) * p[i];
}

enum status optimizer_step_cpu(struct device *device, const struct optimizer_step_args *args)
{
    const double *norms = args->norms.data;
    double squares = 0.0;

    (void)device;
    CHECK_F32("optimizer_step", args->parameter);
    CHECK(args->kind != OPTIMIZER_ADAMW || args->moment2.data != NULL);
    for (int32_t s = 0; s < args->n_segments; s++)
        squares += norms[s] * norms[s];
    for (int32_t s = 0; s < args->n_segments; s++) {
        const struct segment *segment = &args->segments[s];
        struct update u = update_of(args, s, sqrt(squares));
        if (args->kind == OPTIMIZER_LARS && !u.frozen)
            u.lars = lars_factor(args, segment, &u);
#pragma omp parallel for schedule(static) if (segment->n > CHUNK)
        for (int64_t first = 0; first < segment->n; first += CHUNK)
            update_chunk(args, segment, &u, first,
                         segment->n - first < CHUNK ? segment->n - first : CHUNK);
    }
    return STATUS_OK;
}
