/* What holds for every op: the same call gives the same bits, and only the first may allocate. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <string.h>

#include <cmocka.h>

#include "tests/support/allocation_count.h"
#include "tests/support/op_fixture.h"

enum { N = 394, D = 48, OUT = 96, HEADS = 3, MOST_OUTPUTS = 8 };

/* One call of one op, with the tensors whose bits are compared. */
struct call {
    const char *name;
    enum status (*run)(struct op_fixture *, void *);
    void *args;
    struct tensor outputs[MOST_OUTPUTS];
    int n_outputs;
};

struct calls {
    struct linear_args linear;
    struct linear_backward_args linear_backward;
    struct activation_args activation;
    struct activation_backward_args activation_backward;
    struct residual_layernorm_args residual;
    struct residual_layernorm_backward_args residual_backward;
    struct attention_args attention;
    struct attention_backward_args attention_backward;
    struct unit_norm_args unit_norm;
    struct weight_norm_args weight_norm;
    struct weight_norm_backward_args weight_norm_backward;
    struct batchnorm_moments_args moments;
    struct batchnorm_backward_moments_args backward_moments;
    struct tokens_backward_args tokens_backward;
    struct distill_loss_args distill_loss;
    struct rows_mean_args rows_mean;
    struct gradient_norms_args gradient_norms;
    struct topk_args topk;
};

#define CALL_OF(slot, type)                                                                        \
    static enum status call_##slot(struct op_fixture *f, void *args)                               \
    {                                                                                              \
        return f->ops->slot(&f->device, (const struct type *)args);                                \
    }
CALL_OF(linear_forward, linear_args)
CALL_OF(linear_backward, linear_backward_args)
CALL_OF(activation_forward, activation_args)
CALL_OF(activation_backward, activation_backward_args)
CALL_OF(residual_layernorm_forward, residual_layernorm_args)
CALL_OF(residual_layernorm_backward, residual_layernorm_backward_args)
CALL_OF(attention_forward, attention_args)
CALL_OF(attention_backward, attention_backward_args)
CALL_OF(unit_norm_forward, unit_norm_args)
CALL_OF(weight_norm_forward, weight_norm_args)
CALL_OF(weight_norm_backward, weight_norm_backward_args)
CALL_OF(batchnorm_moments, batchnorm_moments_args)
CALL_OF(batchnorm_backward_moments, batchnorm_backward_moments_args)
CALL_OF(tokens_backward, tokens_backward_args)
CALL_OF(distill_loss, distill_loss_args)
CALL_OF(rows_mean, rows_mean_args)
CALL_OF(gradient_norms, gradient_norms_args)
CALL_OF(topk, topk_args)

static struct tensor random_2d(struct op_fixture *f, enum dtype dtype, int64_t n, int64_t m)
{
    return op_upload(f, dtype, op_random(f, dtype, m == 0 ? n : n * m, 1.0), n, m);
}

/* Sums over images, rows of logits, chunks of segments. */
static void fill_sums(struct op_fixture *f, struct calls *c)
{
    enum { IMAGES = 20, LENGTH = 19, PROTOTYPES = 700, ROWS = 24, CHUNKS = 20000 };
    static const struct segment segments[2] = {{0, 9000, -1, 0, 0}, {9001, 10000, -1, 0, 0}};
    static const double temperature[1] = {0.1};
    double *mask = op_zeros(f, IMAGES * (LENGTH - 1)), *target = op_zeros(f, ROWS);
    struct tensor temp = op_upload(f, DTYPE_F32, temperature, 1, 0);
    struct tensor table = op_output(f, DTYPE_U8, sizeof(segments), 0);

    op_run(f->device.copy_in(&f->device, table.data, segments, sizeof(segments)));
    op_run(f->device.synchronize(&f->device));
    for (int i = 0; i < IMAGES * (LENGTH - 1); i++)
        mask[i] = i % 3 == 0;
    for (int i = 0; i < ROWS; i++)
        target[i] = i;
    c->tokens_backward = (struct tokens_backward_args){
        .d_tokens = random_2d(f, DTYPE_F32, IMAGES * LENGTH, D),
        .mask = op_upload(f, DTYPE_U8, mask, IMAGES * (LENGTH - 1), 0),
        .d_patches = op_output(f, f->dtype, IMAGES * (LENGTH - 1), D),
        .d_mask_token = op_output(f, DTYPE_F32, D, 0),
        .d_cls = op_output(f, DTYPE_F32, D, 0),
        .d_pos = op_output(f, DTYPE_F32, LENGTH, D)};
    c->distill_loss =
        (struct distill_loss_args){.student = random_2d(f, f->dtype, ROWS, PROTOTYPES),
                                   .teacher = random_2d(f, f->dtype, ROWS, PROTOTYPES),
                                   .centre = random_2d(f, DTYPE_F32, PROTOTYPES, 0),
                                   .target = op_upload(f, DTYPE_I32, target, ROWS, 1),
                                   .weight = random_2d(f, DTYPE_F32, ROWS, 0),
                                   .student_temp = temp.data,
                                   .teacher_temp = temp.data,
                                   .loss = op_output(f, DTYPE_F64, 1, 0),
                                   .d_student = op_output(f, f->dtype, ROWS, PROTOTYPES),
                                   .entropy = op_output(f, DTYPE_F64, 1, 0),
                                   .scratch = op_output(f, DTYPE_F32, 2, ROWS)};
    c->rows_mean =
        (struct rows_mean_args){random_2d(f, f->dtype, N, D), op_output(f, DTYPE_F32, D, 0), 197};
    c->gradient_norms = (struct gradient_norms_args){.gradient = random_2d(f, DTYPE_F32, CHUNKS, 0),
                                                     .norms = op_output(f, DTYPE_F64, 2, 0),
                                                     .segments = table.data,
                                                     .n_segments = 2};
    c->topk = (struct topk_args){random_2d(f, DTYPE_F32, ROWS, D), random_2d(f, DTYPE_F32, N, D),
                                 op_output(f, DTYPE_F32, ROWS, LENGTH),
                                 op_output(f, DTYPE_I32, ROWS, LENGTH)};
}

static void fill(struct op_fixture *f, struct calls *c)
{
    struct tensor x = random_2d(f, f->dtype, N, D), stream = random_2d(f, DTYPE_F32, N, D);
    struct tensor wide = random_2d(f, f->dtype, N, OUT), column = random_2d(f, DTYPE_F32, D, 0);
    struct tensor weight = random_2d(f, f->dtype, OUT, D), row = random_2d(f, DTYPE_F32, N, 0);
    struct attention_group groups[2] = {{0, 1, 197}, {197, 1, 197}};

    c->linear = (struct linear_args){.x = x,
                                     .weight = weight,
                                     .bias = random_2d(f, f->dtype, OUT, 0),
                                     .y = op_output(f, f->dtype, N, OUT),
                                     .pre = op_output(f, f->dtype, N, OUT),
                                     .activation = ACTIVATION_GELU};
    c->linear_backward = (struct linear_backward_args){
        .d_y = wide,
        .x = x,
        .weight = weight,
        .pre = x,
        .d_x = op_output(f, f->dtype, N, D),
        .d_weight = op_upload(f, DTYPE_F32, op_zeros(f, OUT * D), OUT, D),
        .d_bias = op_upload(f, DTYPE_F32, op_zeros(f, OUT), OUT, 0),
        .d_x_sums = op_upload(f, DTYPE_F32, op_zeros(f, D), D, 0),
        .activation = ACTIVATION_GELU};
    c->activation = (struct activation_args){x, op_output(f, f->dtype, N, D), ACTIVATION_GELU};
    c->activation_backward = (struct activation_backward_args){
        random_2d(f, f->dtype, N, D), x, op_output(f, f->dtype, N, D), ACTIVATION_GELU};
    c->residual = (struct residual_layernorm_args){.x = stream,
                                                   .branch = x,
                                                   .sum = op_output(f, DTYPE_F32, N, D),
                                                   .gamma = column,
                                                   .beta = column,
                                                   .y = op_output(f, f->dtype, N, D),
                                                   .mean = op_output(f, DTYPE_F32, N, 0),
                                                   .rstd = op_output(f, DTYPE_F32, N, 0),
                                                   .eps = 1e-6f};
    c->residual_backward = (struct residual_layernorm_backward_args){
        .d_y = x,
        .d_sum = stream,
        .sum = stream,
        .mean = row,
        .rstd = row,
        .gamma = column,
        .d_sum_out = op_output(f, DTYPE_F32, N, D),
        .d_branch = op_output(f, f->dtype, N, D),
        .d_gamma = op_upload(f, DTYPE_F32, op_zeros(f, D), D, 0),
        .d_beta = op_upload(f, DTYPE_F32, op_zeros(f, D), D, 0),
        .d_bias = op_upload(f, DTYPE_F32, op_zeros(f, D), D, 0)};
    c->attention = (struct attention_args){.qkv = random_2d(f, f->dtype, N, 3 * D),
                                           .out = op_output(f, f->dtype, N, D),
                                           .lse = op_output(f, DTYPE_F32, N, HEADS),
                                           .groups = {groups[0], groups[1]},
                                           .n_groups = 2,
                                           .n_heads = HEADS};
    c->attention_backward =
        (struct attention_backward_args){.d_out = x,
                                         .qkv = c->attention.qkv,
                                         .out = c->attention.out,
                                         .lse = c->attention.lse,
                                         .d_qkv = op_output(f, f->dtype, N, 3 * D),
                                         .groups = {groups[0], groups[1]},
                                         .n_groups = 2,
                                         .n_heads = HEADS};
    c->unit_norm = (struct unit_norm_args){x, op_output(f, f->dtype, N, D),
                                           op_output(f, DTYPE_F32, N, 0), 1e-12f};
    c->weight_norm = (struct weight_norm_args){
        stream, {0}, op_output(f, f->dtype, N, D), op_output(f, DTYPE_F32, N, 0)};
    c->weight_norm_backward = (struct weight_norm_backward_args){
        .d_weight = x,
        .direction = stream,
        .inverse = row,
        .d_direction = op_upload(f, DTYPE_F32, op_zeros(f, N * D), N, D)};
    c->moments = (struct batchnorm_moments_args){x, op_output(f, DTYPE_F64, 2, D)};
    c->backward_moments = (struct batchnorm_backward_moments_args){
        .d_y = x, .x = x, .mean = column, .rstd = column, .moments = op_output(f, DTYPE_F64, 2, D)};
    fill_sums(f, c);
}

static int list(struct calls *c, struct call *out)
{
    const struct call calls[] = {
        {"linear_forward", call_linear_forward, &c->linear, {c->linear.y, c->linear.pre}, 2},
        {"linear_backward",
         call_linear_backward,
         &c->linear_backward,
         {c->linear_backward.d_x, c->linear_backward.d_weight, c->linear_backward.d_bias,
          c->linear_backward.d_x_sums},
         4},
        {"activation_forward", call_activation_forward, &c->activation, {c->activation.y}, 1},
        {"activation_backward",
         call_activation_backward,
         &c->activation_backward,
         {c->activation_backward.d_x},
         1},
        {"residual_layernorm_forward",
         call_residual_layernorm_forward,
         &c->residual,
         {c->residual.sum, c->residual.y, c->residual.mean, c->residual.rstd},
         4},
        {"residual_layernorm_backward",
         call_residual_layernorm_backward,
         &c->residual_backward,
         {c->residual_backward.d_sum_out, c->residual_backward.d_branch,
          c->residual_backward.d_gamma, c->residual_backward.d_beta},
         4},
        {"attention_forward",
         call_attention_forward,
         &c->attention,
         {c->attention.out, c->attention.lse},
         2},
        {"attention_backward",
         call_attention_backward,
         &c->attention_backward,
         {c->attention_backward.d_qkv},
         1},
        {"unit_norm_forward",
         call_unit_norm_forward,
         &c->unit_norm,
         {c->unit_norm.y, c->unit_norm.inverse},
         2},
        {"weight_norm_forward",
         call_weight_norm_forward,
         &c->weight_norm,
         {c->weight_norm.weight, c->weight_norm.inverse},
         2},
        {"weight_norm_backward",
         call_weight_norm_backward,
         &c->weight_norm_backward,
         {c->weight_norm_backward.d_direction},
         1},
        {"batchnorm_moments", call_batchnorm_moments, &c->moments, {c->moments.moments}, 1},
        {"batchnorm_backward_moments",
         call_batchnorm_backward_moments,
         &c->backward_moments,
         {c->backward_moments.moments},
         1},
        {"tokens_backward",
         call_tokens_backward,
         &c->tokens_backward,
         {c->tokens_backward.d_patches, c->tokens_backward.d_mask_token, c->tokens_backward.d_cls,
          c->tokens_backward.d_pos},
         4},
        {"distill_loss",
         call_distill_loss,
         &c->distill_loss,
         {c->distill_loss.loss, c->distill_loss.entropy, c->distill_loss.d_student},
         3},
        {"rows_mean", call_rows_mean, &c->rows_mean, {c->rows_mean.mean}, 1},
        {"gradient_norms", call_gradient_norms, &c->gradient_norms, {c->gradient_norms.norms}, 1},
        {"topk", call_topk, &c->topk, {c->topk.value, c->topk.index}, 2},
    };
    memcpy(out, calls, sizeof(calls));
    return (int)(sizeof(calls) / sizeof(calls[0]));
}

/* Zeroes the outputs (some are added to), runs, and appends their bytes. */
static size_t run_once(struct op_fixture *f, const struct call *call, char *bytes)
{
    size_t size = 0;

    for (int i = 0; i < call->n_outputs; i++)
        op_run(f->device.zero(&f->device, call->outputs[i].data,
                              tensor_size_bytes(&call->outputs[i])));
    op_run(call->run(f, call->args));
    for (int i = 0; i < call->n_outputs; i++) {
        size_t bytes_each = tensor_size_bytes(&call->outputs[i]);
        op_run(f->device.copy_out(&f->device, bytes + size, call->outputs[i].data, bytes_each));
        size += bytes_each;
    }
    op_run(f->device.synchronize(&f->device));
    return size;
}

static char first_bytes[1 << 20], other_bytes[1 << 20];

static void equal_calls_give_equal_bits(void **state)
{
    struct op_fixture f;
    struct calls all;
    struct call calls[32];

    (void)state;
    op_fixture_open(&f, 20);
    fill(&f, &all);
    int n = list(&all, calls);
    for (int i = 0; i < n; i++) {
        size_t size = run_once(&f, &calls[i], first_bytes);
        assert_true(size > 0 && size <= sizeof(first_bytes));
        for (int again = 0; again < 5; again++) {
            (void)run_once(&f, &calls[i], other_bytes);
            if (memcmp(first_bytes, other_bytes, size) != 0)
                fail_msg("%s gives other bits the second time", calls[i].name);
        }
    }
    op_fixture_close(&f);
}

/* As run_once, but recorded first: a captured call may neither allocate nor wait. */
static size_t run_captured(struct op_fixture *f, const struct call *call, char *bytes)
{
    struct device_graph *graph;
    size_t size = 0;

    op_run(f->device.capture_begin(&f->device));
    for (int i = 0; i < call->n_outputs; i++)
        op_run(f->device.zero(&f->device, call->outputs[i].data,
                              tensor_size_bytes(&call->outputs[i])));
    op_run(call->run(f, call->args));
    op_run(f->device.capture_end(&f->device, &graph));
    for (int again = 0; again < 2; again++)
        op_run(f->device.graph_launch(&f->device, graph));
    for (int i = 0; i < call->n_outputs; i++) {
        size_t bytes_each = tensor_size_bytes(&call->outputs[i]);
        op_run(f->device.copy_out(&f->device, bytes + size, call->outputs[i].data, bytes_each));
        size += bytes_each;
    }
    op_run(f->device.synchronize(&f->device));
    f->device.graph_release(&f->device, &graph);
    return size;
}

static void a_captured_call_gives_the_same_bits(void **state)
{
    struct op_fixture f;
    struct calls all;
    struct call calls[32];

    (void)state;
    op_fixture_open(&f, 22);
    if (f.device.capture_begin == NULL) {
        op_fixture_close(&f);
        skip();
    }
    fill(&f, &all);
    int n = list(&all, calls);
    for (int i = 0; i < n; i++) {
        size_t size = run_once(&f, &calls[i], first_bytes);
        assert_int_equal(run_captured(&f, &calls[i], other_bytes), size);
        if (memcmp(first_bytes, other_bytes, size) != 0)
            fail_msg("%s gives other bits when it is captured", calls[i].name);
    }
    op_fixture_close(&f);
}

/* On the host; what an accelerator allocates a capture would refuse. */
static void only_a_first_call_may_allocate(void **state)
{
    struct op_fixture f;
    struct calls all;
    struct call calls[32];

    (void)state;
    if (!allocation_count_works())
        skip();
    long at_open = allocation_count();
    op_fixture_open(&f, 21);
    if (f.device.kind != DEVICE_CPU) {
        op_fixture_close(&f);
        skip();
    }
    assert_true(allocation_count() > at_open); /* the counter counts */
    fill(&f, &all);
    int n = list(&all, calls);
    for (int i = 0; i < n; i++)
        (void)run_once(&f, &calls[i], first_bytes);
    for (int i = 0; i < n; i++) {
        long before = allocation_count();
        (void)run_once(&f, &calls[i], other_bytes);
        if (allocation_count() != before)
            fail_msg("%s allocates in its second call", calls[i].name);
    }
    op_fixture_close(&f);
}

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(equal_calls_give_equal_bits),
        cmocka_unit_test(a_captured_call_gives_the_same_bits),
        cmocka_unit_test(only_a_first_call_may_allocate),
    };
    int leave = op_backend_choose(argc, argv);
    return leave != 0 ? leave : cmocka_run_group_tests(tests, NULL, NULL);
}
