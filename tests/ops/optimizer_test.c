/* Clipping, the three optimizers and the teacher average against their definitions in double, over
 * several steps, on every backend. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <string.h>

#include <cmocka.h>

#include "ops/half_float.h"
#include "tests/support/op_fixture.h"

enum { N_SEGMENTS = 7, TOTAL = 41000, TEACHER_TOTAL = 36000, STEPS = 4 };

/* Ordinary with a rate of its own, without decay, without a teacher, last layer, fixed, of one
 * element, of many chunks; with gaps between them. */
static const struct segment segments[N_SEGMENTS] = {
    {0, 35, 100, SEGMENT_DECAY, 0.65f},
    {40, 9, 0, SEGMENT_VECTOR | SEGMENT_DECAY, 0}, /* which LARS does not heed */
    {64, 300, -1, SEGMENT_DECAY, 0},
    {512, 1000, 512, SEGMENT_DECAY | SEGMENT_LAST_LAYER, 0},
    {1600, 64, 1600, SEGMENT_FIXED | SEGMENT_LAST_LAYER | SEGMENT_DECAY, 0},
    {1700, 1, 1700, SEGMENT_VECTOR, 0},
    {2048, 33000, 2000, SEGMENT_DECAY, 1.5f},
};

/* The optimizer in double, element by element. */
struct model {
    double *p, *g, *m, *v, *teacher;
    int t[N_SEGMENTS]; /* steps that each segment has taken */
};

static double norm_of(const double *x, int64_t n)
{
    double sum = 0.0;
    for (int64_t i = 0; i < n; i++)
        sum += x[i] * x[i];
    return sqrt(sum);
}

static double segment_norm(const struct model *model, int s)
{
    return segments[s].flags & SEGMENT_FIXED
               ? 0.0
               : norm_of(model->g + segments[s].offset, segments[s].n);
}

static void reference_segment(struct model *model, int s, const struct step_control *control,
                              enum optimizer_kind kind, double clip)
{
    const struct segment *segment = &segments[s];
    double scale = segment->lr_scale > 0.0f ? (double)segment->lr_scale : 1.0;
    double lr = (double)control->lr * scale,
           decay = segment->flags & SEGMENT_DECAY ? control->weight_decay : 0.0;
    double *p = model->p + segment->offset, *g = model->g + segment->offset;
    double *m = model->m + segment->offset, *v = model->v + segment->offset, adapt = 1.0;
    bool vector = (segment->flags & SEGMENT_VECTOR) != 0;
    int t = ++model->t[s];

    for (int64_t i = 0; i < segment->n; i++) {
        g[i] *= clip;
        if (kind == OPTIMIZER_SGD || (kind == OPTIMIZER_LARS && !vector))
            g[i] += decay * p[i];
    }
    if (kind == OPTIMIZER_LARS && !vector && norm_of(p, segment->n) > 0.0 &&
        norm_of(g, segment->n) > 0.0)
        adapt = 0.001 * norm_of(p, segment->n) / norm_of(g, segment->n);
    for (int64_t i = 0; i < segment->n; i++) {
        if (kind == OPTIMIZER_ADAMW) {
            p[i] *= 1.0 - lr * decay;
            m[i] = 0.9 * m[i] + 0.1 * g[i];
            v[i] = 0.999 * v[i] + 0.001 * g[i] * g[i];
            p[i] -=
                lr / (1.0 - pow(0.9, t)) * m[i] / (sqrt(v[i]) / sqrt(1.0 - pow(0.999, t)) + 1e-8);
        } else {
            m[i] = 0.9 * m[i] + adapt * g[i];
            p[i] -= lr * m[i];
        }
    }
}

static void reference_step(struct model *model, const struct step_control *control,
                           enum optimizer_kind kind, bool global_norm)
{
    double squares = 0.0, norms[N_SEGMENTS];

    for (int s = 0; s < N_SEGMENTS; s++) {
        norms[s] = segment_norm(model, s);
        squares += norms[s] * norms[s];
    }
    for (int s = 0; s < N_SEGMENTS; s++) {
        const struct segment *segment = &segments[s];
        double clip = control->clip_grad / ((global_norm ? sqrt(squares) : norms[s]) + 1e-6);
        bool last = (segment->flags & SEGMENT_LAST_LAYER) != 0;
        if (!(segment->flags & SEGMENT_FIXED) && !(last && control->freeze_last_layer))
            reference_segment(model, s, control, kind,
                              control->clip_grad > 0.0f ? fmin(clip, 1.0) : 1.0);
        for (int64_t i = 0; i < segment->n && segment->teacher_offset >= 0; i++) {
            double *teacher = &model->teacher[segment->teacher_offset + i];
            *teacher = control->teacher_momentum * *teacher +
                       (1.0 - control->teacher_momentum) * model->p[segment->offset + i];
        }
    }
}

struct setting {
    enum optimizer_kind kind;
    bool global_norm;
    double clip, gradient_scale;
};

static struct tensor upload_bytes(struct op_fixture *f, const void *bytes, int64_t n)
{
    struct tensor tensor = op_output(f, DTYPE_U8, n, 0);
    op_run(f->device.copy_in(&f->device, tensor.data, bytes, (size_t)n));
    op_run(f->device.synchronize(&f->device));
    return tensor;
}

/* A rate of 0 first (the warm-up's start), the last layer frozen for two steps. */
static struct step_control control_of(const struct setting *setting, int step)
{
    return (struct step_control){
        .lr = (float)(0.004 * step),
        .weight_decay = 0.04f + 0.1f * (float)step,
        .teacher_momentum = 0.9f + 0.02f * (float)step,
        .clip_grad = (float)setting->clip,
        .freeze_last_layer = step < 2,
        .step = step,
        .last_layer_step = step < 2 ? 0 : step - 2,
    };
}

static void expect_state(struct op_fixture *f, const struct optimizer_step_args *args,
                         const struct model *model)
{
    op_expect(f, "optimizer_step", "parameter", args->parameter, model->p);
    op_expect(f, "optimizer_step", "moment1", args->moment1, model->m);
    if (args->kind == OPTIMIZER_ADAMW)
        op_expect(f, "optimizer_step", "moment2", args->moment2, model->v);
    op_expect(f, "optimizer_step", "teacher", args->teacher, model->teacher);
}

/* Everything for one step, norms included. */
static struct optimizer_step_args small_step(struct op_fixture *f, const struct setting *setting)
{
    struct step_control control = control_of(setting, 2);
    double *g = op_random(f, DTYPE_F32, TOTAL, setting->gradient_scale);
    struct optimizer_step_args args = {
        .parameter = op_upload(f, DTYPE_F32, op_random(f, DTYPE_F32, TOTAL, 1.0), TOTAL, 0),
        .gradient = op_upload(f, DTYPE_F32, g, TOTAL, 0),
        .moment1 = op_upload(f, DTYPE_F32, op_zeros(f, TOTAL), TOTAL, 0),
        .moment2 = op_upload(f, DTYPE_F32, op_zeros(f, TOTAL), TOTAL, 0),
        .teacher =
            op_upload(f, DTYPE_F32, op_random(f, DTYPE_F32, TEACHER_TOTAL, 1.0), TEACHER_TOTAL, 0),
        .norms = op_output(f, DTYPE_F64, N_SEGMENTS, 0),
        .segments = upload_bytes(f, segments, sizeof(segments)).data,
        .control = upload_bytes(f, &control, sizeof(control)).data,
        .n_segments = N_SEGMENTS,
        .kind = setting->kind,
    };
    struct gradient_norms_args measure = {args.gradient, args.norms, args.segments, N_SEGMENTS};
    op_run(f->ops->gradient_norms(&f->device, &measure));
    return args;
}

static void run_setting(const struct setting *setting)
{
    struct op_fixture f;
    op_fixture_open(&f, 1);
    struct model model = {
        .p = op_random(&f, DTYPE_F32, TOTAL, 1.0),
        .m = op_zeros(&f, TOTAL),
        .v = op_zeros(&f, TOTAL),
        .teacher = op_random(&f, DTYPE_F32, TEACHER_TOTAL, 1.0),
    };
    for (int i = 0; i < 35; i++) /* a tensor of zeros has no norm for LARS to go by */
        model.p[segments[0].offset + i] = 0.0;
    struct tensor table = upload_bytes(&f, segments, sizeof(segments));
    struct optimizer_step_args args = {
        .parameter = op_upload(&f, DTYPE_F32, model.p, TOTAL, 0),
        .moment1 = op_upload(&f, DTYPE_F32, model.m, TOTAL, 0),
        .teacher = op_upload(&f, DTYPE_F32, model.teacher, TEACHER_TOTAL, 0),
        .norms = op_output(&f, DTYPE_F64, N_SEGMENTS, 0),
        .segments = table.data,
        .n_segments = N_SEGMENTS,
        .kind = setting->kind,
        .global_norm = setting->global_norm,
    };
    if (setting->kind == OPTIMIZER_ADAMW)
        args.moment2 = op_upload(&f, DTYPE_F32, model.v, TOTAL, 0);
    for (int step = 0; step < STEPS; step++) {
        struct step_control control = control_of(setting, step);
        double norms[N_SEGMENTS];
        model.g = op_random(&f, DTYPE_F32, TOTAL, setting->gradient_scale * (step + 1));
        for (int s = 0; s < N_SEGMENTS; s++)
            norms[s] = segment_norm(&model, s);
        args.gradient = op_upload(&f, DTYPE_F32, model.g, TOTAL, 0);
        args.control = upload_bytes(&f, &control, sizeof(control)).data;
        struct gradient_norms_args measure = {args.gradient, args.norms, args.segments, N_SEGMENTS};
        op_run(f.ops->gradient_norms(&f.device, &measure));
        op_expect(&f, "gradient_norms", "norms", args.norms, norms);
        op_run(f.ops->optimizer_step(&f.device, &args));
        reference_step(&model, &control, setting->kind, setting->global_norm);
        expect_state(&f, &args, &model);
    }
    op_fixture_close(&f);
}

/* The bf16 copies are those of the values, rounded; where there is no segment they stay. */
static void expect_copies(struct op_fixture *f, struct tensor half, struct tensor whole,
                          const bool *covered)
{
    int64_t n = tensor_n_elements(&whole);
    double *got = op_download(f, half), *values = op_download(f, whole);

    for (int64_t i = 0; i < n; i++) {
        double want = (double)half_float_from_bf16(half_float_to_bf16((float)values[i]));
        assert_true(covered[i] ? got[i] == want : isnan(got[i]));
    }
}

static void copies_in_bf16_are_those_of_the_new_values(void **state)
{
    static bool student[TOTAL], teacher[TEACHER_TOTAL];
    static const struct setting setting = {OPTIMIZER_ADAMW, false, 3.0, 1.0};
    struct op_fixture f;

    (void)state;
    op_fixture_open(&f, 3);
    for (int s = 0; s < N_SEGMENTS; s++)
        for (int64_t i = 0; i < segments[s].n; i++) {
            student[segments[s].offset + i] = true;
            if (segments[s].teacher_offset >= 0)
                teacher[segments[s].teacher_offset + i] = true;
        }
    struct optimizer_step_args args = small_step(&f, &setting);
    args.parameter_half = op_output(&f, DTYPE_BF16, TOTAL, 0);
    args.teacher_half = op_output(&f, DTYPE_BF16, TEACHER_TOTAL, 0);
    op_run(f.ops->optimizer_step(&f.device, &args));
    expect_copies(&f, args.parameter_half, args.parameter, student);
    expect_copies(&f, args.teacher_half, args.teacher, teacher);
    op_fixture_close(&f);
}

static void nothing_is_written_when_a_guard_or_a_norm_is_not_finite(void **state)
{
    static const struct setting setting = {OPTIMIZER_ADAMW, false, 3.0, 1.0};
    static const double guards[3][2] = {{0.5, 1.0}, {0.5, NAN}, {INFINITY, 1.0}};

    (void)state;
    for (int which = 0; which < 4; which++) {
        struct op_fixture f;
        op_fixture_open(&f, 4);
        struct optimizer_step_args args = small_step(&f, &setting);
        struct tensor watched[] = {args.parameter, args.moment1, args.moment2, args.teacher};
        double *before[4], *norms = op_download(&f, args.norms);
        for (int i = 0; i < 4; i++)
            before[i] = op_download(&f, watched[i]);
        args.guard = op_upload(&f, DTYPE_F64, guards[which % 3], 2, 0);
        if (which == 3) {
            norms[2] = NAN;
            args.norms = op_upload(&f, DTYPE_F64, norms, N_SEGMENTS, 0);
        }
        op_run(f.ops->optimizer_step(&f.device, &args));
        for (int i = 0; i < 4; i++) {
            double *after = op_download(&f, watched[i]);
            int64_t n = tensor_n_elements(&watched[i]), n_changed = 0;
            for (int64_t k = 0; k < n; k++)
                n_changed += after[k] != before[i][k];
            assert_true(which == 0 ? n_changed > 0 : n_changed == 0);
        }
        op_fixture_close(&f);
    }
}

static void adamw_follows_its_definition(void **state)
{
    static const struct setting settings[] = {
        {OPTIMIZER_ADAMW, false, 0.0, 1.0},  {OPTIMIZER_ADAMW, false, 3.0, 1.0},
        {OPTIMIZER_ADAMW, true, 0.5, 1.0},   {OPTIMIZER_ADAMW, false, 0.3, 1e-6},
        {OPTIMIZER_ADAMW, false, 3.0, 1e12},
    };

    (void)state;
    for (size_t i = 0; i < sizeof(settings) / sizeof(settings[0]); i++)
        run_setting(&settings[i]);
}

static void sgd_follows_its_definition(void **state)
{
    (void)state;
    run_setting(&(struct setting){OPTIMIZER_SGD, false, 0.0, 1.0});
    run_setting(&(struct setting){OPTIMIZER_SGD, false, 0.3, 1.0});
    run_setting(&(struct setting){OPTIMIZER_SGD, true, 0.3, 1.0});
}

static void lars_follows_its_definition(void **state)
{
    (void)state;
    run_setting(&(struct setting){OPTIMIZER_LARS, false, 0.0, 1.0});
    run_setting(&(struct setting){OPTIMIZER_LARS, false, 0.3, 1.0});
    run_setting(&(struct setting){OPTIMIZER_LARS, false, 0.0, 0.0}); /* decay alone */
}

/* A gradient that is not finite is found by whoever reads the norms. */
static void a_norm_shows_what_is_not_finite(void **state)
{
    static const struct segment two[] = {{0, 9000, -1, 0, 0}, {9000, 9000, -1, 0, 0}};
    struct op_fixture f;

    (void)state;
    op_fixture_open(&f, 2);
    double *gradient = op_random(&f, DTYPE_F32, 18000, 1.0);
    gradient[17000] = NAN;
    struct gradient_norms_args args = {
        .gradient = op_upload(&f, DTYPE_F32, gradient, 18000, 0),
        .norms = op_output(&f, DTYPE_F64, 2, 0),
        .segments = upload_bytes(&f, two, sizeof(two)).data,
        .n_segments = 2,
    };
    op_run(f.ops->gradient_norms(&f.device, &args));
    double *norms = op_download(&f, args.norms);
    assert_true(isfinite(norms[0]));
    assert_true(isnan(norms[1]));
    op_fixture_close(&f);
}

/* More segments than a block has threads, of all sizes from none, at any address. */
static void many_small_segments_are_told_apart(void **state)
{
    enum { MANY = 700, ROOM = 17, N = MANY * ROOM };
    static struct segment many[MANY];
    struct op_fixture f;
    struct step_control control = {.lr = 0.1f, .teacher_momentum = 0.75f};

    (void)state;
    op_fixture_open(&f, 5);
    double *p = op_random(&f, DTYPE_F32, N, 1.0), *g = op_random(&f, DTYPE_F32, N, 1.0);
    double *teacher = op_random(&f, DTYPE_F32, N, 1.0), *norms = op_zeros(&f, MANY);
    double *m = op_zeros(&f, N);
    for (int s = 0; s < MANY; s++) {
        many[s] = (struct segment){.offset = s * ROOM + s % 3, .n = s * 5 % 14};
        many[s].teacher_offset = s % 4 == 1 ? -1 : s * ROOM + s % 2;
        norms[s] = norm_of(g + many[s].offset, many[s].n);
    }
    struct tensor table = upload_bytes(&f, many, sizeof(many));
    struct optimizer_step_args args = {
        .parameter = op_upload(&f, DTYPE_F32, p, N, 0),
        .gradient = op_upload(&f, DTYPE_F32, g, N, 0),
        .moment1 = op_upload(&f, DTYPE_F32, m, N, 0),
        .teacher = op_upload(&f, DTYPE_F32, teacher, N, 0),
        .norms = op_output(&f, DTYPE_F64, MANY, 0),
        .segments = table.data,
        .control = upload_bytes(&f, &control, sizeof(control)).data,
        .n_segments = MANY,
        .kind = OPTIMIZER_SGD,
    };
    struct gradient_norms_args measure = {args.gradient, args.norms, args.segments, MANY};
    op_run(f.ops->gradient_norms(&f.device, &measure));
    op_expect(&f, "gradient_norms", "norms", args.norms, norms);
    op_run(f.ops->optimizer_step(&f.device, &args));
    for (int s = 0; s < MANY; s++)
        for (int64_t i = 0; i < many[s].n; i++) {
            int64_t at = many[s].offset + i, there = many[s].teacher_offset + i;
            m[at] = g[at];
            p[at] -= (double)control.lr * g[at];
            if (many[s].teacher_offset >= 0)
                teacher[there] = 0.75 * teacher[there] + 0.25 * p[at];
        }
    op_expect(&f, "optimizer_step", "parameter", args.parameter, p);
    op_expect(&f, "optimizer_step", "moment1", args.moment1, m);
    op_expect(&f, "optimizer_step", "teacher", args.teacher, teacher);
    op_fixture_close(&f);
}

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(copies_in_bf16_are_those_of_the_new_values),
        cmocka_unit_test(nothing_is_written_when_a_guard_or_a_norm_is_not_finite),
        cmocka_unit_test(adamw_follows_its_definition),
        cmocka_unit_test(sgd_follows_its_definition),
        cmocka_unit_test(lars_follows_its_definition),
        cmocka_unit_test(a_norm_shows_what_is_not_finite),
        cmocka_unit_test(many_small_segments_are_told_apart),
    };
    int leave = op_backend_choose(argc, argv);
    return leave != 0 ? leave : cmocka_run_group_tests(tests, NULL, NULL);
}
