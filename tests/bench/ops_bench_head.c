/* The head, the losses and the update. */
#include <stdlib.h>

#include "proto/base/memory.h"
#include "tests/bench/ops_bench.h"

static const struct tensor none;

enum { CHUNK = 1024 }; /* masked rows whose logits are in memory at a time */

static void mlp(struct ops_bench *b, const struct shapes *s, const char *name, int64_t n,
                int64_t n_in, int64_t n_out, bool last, bool pre)
{
    enum dtype out = last ? DTYPE_F32 : s->dtype;
    struct linear_args layer = {.x = ops_bench_take(b, s->dtype, n, n_in),
                                .weight = ops_bench_take(b, s->dtype, n_out, n_in),
                                .bias = ops_bench_take(b, last ? DTYPE_F32 : s->dtype, n_out, 0),
                                .y = ops_bench_take(b, out, n, n_out),
                                .pre = pre ? ops_bench_take(b, out, n, n_out) : none,
                                .activation = last ? ACTIVATION_NONE : ACTIVATION_GELU_TANH};
    union op_args args = {.linear_forward = layer};

    ops_bench_case(b, BENCH_linear_forward, &args, "head %s, %lld rows", name, (long long)n);
    if (pre || last) {
        args.linear_backward =
            (struct linear_backward_args){.d_y = ops_bench_take(b, s->dtype, n, n_out),
                                          .x = layer.x,
                                          .weight = layer.weight,
                                          .d_x = ops_bench_take(b, s->dtype, n, n_in),
                                          .d_weight = ops_bench_take(b, DTYPE_F32, n_out, n_in),
                                          .d_bias = ops_bench_take(b, DTYPE_F32, n_out, 0)};
        ops_bench_case(b, BENCH_linear_backward, &args, "head %s, %lld rows", name, (long long)n);
    }
    ops_bench_give_back(b);
}

static void vectors(struct ops_bench *b, const struct shapes *s)
{
    int64_t n = s->needed, d = s->bottleneck, k = s->prototypes;
    struct tensor x = ops_bench_take(b, DTYPE_F32, n, d), y = ops_bench_take(b, DTYPE_F32, n, d);
    struct tensor inverse = ops_bench_take(b, DTYPE_F32, n, 0);
    struct tensor direction = ops_bench_take(b, DTYPE_F32, k, d);
    struct tensor weight = ops_bench_take(b, DTYPE_F32, k, d);
    struct tensor gain = ops_bench_take(b, DTYPE_F32, k, 0);
    struct tensor lengths = ops_bench_take(b, DTYPE_F32, k, 0);
    union op_args args = {.unit_norm_forward = {x, y, inverse, 1e-12f}};

    ops_bench_case(b, BENCH_unit_norm_forward, &args, "bottleneck");
    args.unit_norm_backward = (struct unit_norm_backward_args){x, y, inverse, x};
    ops_bench_case(b, BENCH_unit_norm_backward, &args, "bottleneck");
    args.weight_norm_forward = (struct weight_norm_args){direction, gain, weight, lengths};
    ops_bench_case(b, BENCH_weight_norm_forward, &args, "last layer");
    args.weight_norm_backward =
        (struct weight_norm_backward_args){weight, direction, gain, lengths, direction, gain};
    ops_bench_case(b, BENCH_weight_norm_backward, &args, "last layer");
    if (s->dtype != DTYPE_F32) {
        args.cast = (struct cast_args){y, ops_bench_take(b, DTYPE_F16, n, d)};
        ops_bench_case(b, BENCH_cast, &args, "bottleneck to f16");
    }
    ops_bench_give_back(b);
}

/* Operands f16 (unit vectors), float32 logits; their gradients bf16. In f32 all of it is f32. */
static void logits(struct ops_bench *b, const struct shapes *s, const char *name, int64_t n)
{
    bool half = s->dtype != DTYPE_F32;
    enum dtype operand = half ? DTYPE_F16 : DTYPE_F32;
    int64_t d = s->bottleneck, k = s->prototypes;
    union op_args args = {.linear_forward = {.x = ops_bench_take(b, operand, n, d),
                                             .weight = ops_bench_take(b, operand, k, d),
                                             .y = ops_bench_take(b, DTYPE_F32, n, k)}};

    ops_bench_case(b, BENCH_linear_forward, &args, "last layer, %s", name);
    args.linear_backward =
        (struct linear_backward_args){.d_y = ops_bench_take(b, s->dtype, n, k),
                                      .x = ops_bench_take(b, s->dtype, n, d),
                                      .weight = ops_bench_take(b, s->dtype, k, d),
                                      .d_x = ops_bench_take(b, DTYPE_F32, n, d),
                                      .d_weight = ops_bench_take(b, DTYPE_F32, k, d)};
    ops_bench_case(b, BENCH_linear_backward, &args, "last layer, %s", name);
    ops_bench_give_back(b);
}

/* n student rows, each with j of m teacher rows. */
static void loss(struct ops_bench *b, const struct shapes *s, const char *name, int64_t n,
                 int64_t m, int64_t j)
{
    int64_t k = s->prototypes;
    const float temperatures[] = {0.1f, 0.04f};
    float *temps = ops_bench_take_copy(b, temperatures, sizeof(temperatures));
    struct tensor student = ops_bench_take(b, DTYPE_F32, n, k);
    struct tensor d_student = s->dtype != DTYPE_F32 ? ops_bench_take(b, s->dtype, n, k) : student;
    double zeros[2] = {0.0, 0.0};
    double *sums = ops_bench_take_copy(b, zeros, sizeof(zeros));
    union op_args args = {.distill_loss = {.student = student,
                                           .teacher = ops_bench_take(b, DTYPE_F32, m, k),
                                           .centre = ops_bench_take(b, DTYPE_F32, k, 0),
                                           .target = ops_bench_take_indices(b, n, j, 1, m),
                                           .weight = ops_bench_take(b, DTYPE_F32, n, 0),
                                           .student_temp = temps,
                                           .teacher_temp = temps + 1,
                                           .loss = tensor_1d(sums, DTYPE_F64, 1),
                                           .d_student = d_student,
                                           .entropy = tensor_1d(sums + 1, DTYPE_F64, 1),
                                           .scratch = ops_bench_take(b, DTYPE_F32, 2, m)}};

    ops_bench_case(b, BENCH_distill_loss, &args, "%s, %lld rows", name, (long long)n);
    ops_bench_give_back(b);
}

static void means(struct ops_bench *b, const struct shapes *s)
{
    union op_args args = {
        .rows_mean = {.x = ops_bench_take(b, DTYPE_F32, s->global_tokens, s->bottleneck),
                      .mean = ops_bench_take(b, DTYPE_F32, s->bottleneck, 0),
                      .period = s->global_tokens / (2 * s->batch)}};

    ops_bench_case(b, BENCH_rows_mean, &args, "teacher's bottleneck");
    args.rows_argmax =
        (struct rows_argmax_args){ops_bench_take(b, DTYPE_F32, s->batch, s->prototypes),
                                  ops_bench_take_indices(b, s->batch, 0, 1, s->prototypes)};
    ops_bench_case(b, BENCH_rows_argmax, &args, "[CLS]");
    ops_bench_give_back(b);
}

/* All parameters, in as many tensors as a ViT of 12 blocks has. */
static void update(struct ops_bench *b, const struct shapes *s)
{
    enum { SEGMENTS = 160 };
    struct segment segments[SEGMENTS];
    int64_t each = s->n_parameters / SEGMENTS, n = each * SEGMENTS;
    struct step_control control = {
        .lr = 1e-6f, .weight_decay = 0.04f, .teacher_momentum = 0.996f, .clip_grad = 3.0f};
    struct tensor gradient = ops_bench_take(b, DTYPE_F32, n, 0);
    struct tensor norms = {
        ops_bench_take(b, DTYPE_F32, 2 * SEGMENTS, 0).data, DTYPE_F64, 1, {SEGMENTS, 0, 0, 0}};
    bool half = s->dtype != DTYPE_F32;

    for (int i = 0; i < SEGMENTS; i++)
        segments[i] = (struct segment){
            .offset = i * each, .n = each, .teacher_offset = i * each, .flags = SEGMENT_DECAY};
    struct segment *table = ops_bench_take_copy(b, segments, sizeof(segments));
    union op_args args = {.gradient_norms = {gradient, norms, table, SEGMENTS}};
    ops_bench_case(b, BENCH_gradient_norms, &args, "all parameters");
    args.optimizer_step = (struct optimizer_step_args){
        .parameter = ops_bench_take(b, DTYPE_F32, n, 0),
        .gradient = gradient,
        .moment1 = ops_bench_take(b, DTYPE_F32, n, 0),
        .moment2 = ops_bench_take(b, DTYPE_F32, n, 0),
        .teacher = ops_bench_take(b, DTYPE_F32, n, 0),
        .norms = norms,
        .parameter_half = half ? ops_bench_take(b, DTYPE_BF16, n, 0) : none,
        .teacher_half = half ? ops_bench_take(b, DTYPE_BF16, n, 0) : none,
        .segments = table,
        .control = ops_bench_take_copy(b, &control, sizeof(control)),
        .n_segments = SEGMENTS,
        .kind = OPTIMIZER_ADAMW};
    ops_bench_case(b, BENCH_optimizer_step, &args, "AdamW, all parameters");
    ops_bench_give_back(b);
}

void ops_bench_head(struct ops_bench *b, const struct shapes *s)
{
    int64_t d = s->width, h = s->head_hidden, globals = 2 * s->batch;
    int64_t crops = s->batch * (2 + s->n_local);

    mlp(b, s, "mlp.0", s->needed, d, h, false, true);
    mlp(b, s, "mlp.0", s->global_tokens, d, h, false, false);
    mlp(b, s, "mlp.2", s->needed, h, h, false, true);
    mlp(b, s, "mlp.2", s->global_tokens, h, h, false, false);
    mlp(b, s, "mlp.4", s->needed, h, s->bottleneck, true, false);
    vectors(b, s);
    logits(b, s, "[CLS]", crops);
    logits(b, s, "patches", s->masked < CHUNK ? s->masked : CHUNK);
    loss(b, s, "[CLS]", crops, globals, 2);
    loss(b, s, "patches", s->masked < CHUNK ? s->masked : CHUNK,
         s->masked < CHUNK ? s->masked : CHUNK, 1);
    means(b, s);
    update(b, s);
}
