/* Losses, gradients, norms, means and steps have the same bits on any number of threads, and their
 * second call allocates nothing. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <string.h>

#include <cmocka.h>

#include "tests/support/allocation_count.h"
#include "tests/support/op_fixture.h"

enum { MOST_THREADS = 5, MOST_OUTPUTS = 6 };

/* One op with everything it needs. */
struct case_of_op {
    const char *name;
    enum status (*run)(struct op_fixture *, struct case_of_op *);
    struct tensor outputs[MOST_OUTPUTS], originals[MOST_OUTPUTS];
    int n_outputs;
    struct distill_loss_args loss;
    struct tokens_backward_args tokens;
    struct position_interpolate_backward_args positions;
    struct gradient_norms_args norms;
    struct optimizer_step_args step;
    struct rows_mean_args mean;
};

/* An output that the op adds to, or changes in place. */
static struct tensor changed(struct op_fixture *f, struct case_of_op *c, enum dtype dtype,
                             int64_t n, int64_t m)
{
    int64_t count = m == 0 ? n : n * m;
    double *values = op_random(f, dtype, count, 1.0);
    int i = c->n_outputs++;

    for (int64_t k = 0; k < count; k++)
        values[k] = values[k] < 0.0 ? -values[k] : values[k]; /* second moments are not negative */
    c->originals[i] = op_upload(f, dtype, values, n, m);
    return c->outputs[i] = op_upload(f, dtype, values, n, m);
}

static struct tensor drawn(struct op_fixture *f, int64_t n, int64_t m)
{
    return op_upload(f, DTYPE_F32, op_random(f, DTYPE_F32, m == 0 ? n : n * m, 1.0), n, m);
}

static void put_back(struct op_fixture *f, struct case_of_op *c)
{
    for (int i = 0; i < c->n_outputs; i++)
        op_run(f->device.copy(&f->device, c->outputs[i].data, c->originals[i].data,
                              tensor_size_bytes(&c->outputs[i])));
}

static void check(struct op_fixture *f, struct case_of_op *c)
{
    int threads = f->device.n_threads;
    double *first[MOST_OUTPUTS];

    for (int n = 1; n <= MOST_THREADS; n++) {
        f->device.n_threads = n;
        for (int repeat = 0; repeat < 2; repeat++) {
            put_back(f, c);
            long before = allocation_count();
            op_run(c->run(f, c));
            op_run(f->device.synchronize(&f->device));
            if (repeat == 1 && allocation_count_works())
                assert_int_equal(allocation_count(), before);
        }
        for (int i = 0; i < c->n_outputs; i++) {
            double *got = op_download(f, c->outputs[i]);
            int64_t count = tensor_n_elements(&c->outputs[i]);
            if (n == 1)
                first[i] = got;
            else if (memcmp(got, first[i], (size_t)count * sizeof(double)) != 0)
                fail_msg("%s: output %d differs on %d threads", c->name, i, n);
        }
    }
    f->device.n_threads = threads;
}

/* ------------------------------------------------------------------------------ the ops */

static enum status run_loss(struct op_fixture *f, struct case_of_op *c)
{
    return f->ops->distill_loss(&f->device, &c->loss);
}

static void loss_and_gradient_do_not_depend_on_threads(void **state)
{
    enum { N = 23, M = 7, K = 1100 };
    static const double temps[2] = {0.1, 0.04};
    struct case_of_op c = {.name = "distill_loss", .run = run_loss};
    struct op_fixture f;

    (void)state;
    op_fixture_open(&f, 1);
    double *target = op_zeros(&f, (int64_t)2 * N);
    for (int i = 0; i < 2 * N; i++)
        target[i] = i % M;
    c.loss = (struct distill_loss_args){
        .student = changed(&f, &c, DTYPE_F32, N, K),
        .teacher = drawn(&f, M, K),
        .centre = drawn(&f, K, 0),
        .target = op_upload(&f, DTYPE_I32, target, N, 2),
        .weight = drawn(&f, N, 0),
        .student_temp = op_upload(&f, DTYPE_F32, &temps[0], 1, 0).data,
        .teacher_temp = op_upload(&f, DTYPE_F32, &temps[1], 1, 0).data,
        .loss = changed(&f, &c, DTYPE_F64, 1, 0),
        .entropy = changed(&f, &c, DTYPE_F64, 1, 0),
        .scratch = op_output(&f, DTYPE_F32, 2, M),
    };
    c.loss.d_student = c.loss.student;
    check(&f, &c);
    op_fixture_close(&f);
}

static enum status run_tokens(struct op_fixture *f, struct case_of_op *c)
{
    return f->ops->tokens_backward(&f->device, &c->tokens);
}

static enum status run_positions(struct op_fixture *f, struct case_of_op *c)
{
    return f->ops->position_interpolate_backward(&f->device, &c->positions);
}

static void token_gradients_do_not_depend_on_threads(void **state)
{
    enum { IMAGES = 9, PATCHES = 36, D = 150 };
    struct case_of_op tokens = {.name = "tokens_backward", .run = run_tokens};
    struct case_of_op positions = {.name = "position_interpolate_backward", .run = run_positions};
    struct op_fixture f;

    (void)state;
    op_fixture_open(&f, 2);
    double *mask = op_zeros(&f, (int64_t)IMAGES * PATCHES);
    for (int i = 0; i < IMAGES * PATCHES; i++)
        mask[i] = i % 3 == 1;
    tokens.tokens = (struct tokens_backward_args){
        .d_tokens = drawn(&f, (int64_t)IMAGES * (PATCHES + 1), D),
        .mask = op_upload(&f, DTYPE_U8, mask, (int64_t)IMAGES * PATCHES, 0),
        .d_patches = op_output(&f, DTYPE_F32, (int64_t)IMAGES * PATCHES, D),
        .d_mask_token = changed(&f, &tokens, DTYPE_F32, D, 0),
        .d_cls = changed(&f, &tokens, DTYPE_F32, D, 0),
        .d_pos = changed(&f, &tokens, DTYPE_F32, PATCHES + 1, D),
    };
    positions.positions = (struct position_interpolate_backward_args){
        drawn(&f, 36, D), changed(&f, &positions, DTYPE_F32, 196, D), 14, 6, 6};
    check(&f, &tokens);
    check(&f, &positions);
    op_fixture_close(&f);
}

static enum status run_mean(struct op_fixture *f, struct case_of_op *c)
{
    return f->ops->rows_mean(&f->device, &c->mean);
}

static void means_do_not_depend_on_threads(void **state)
{
    struct case_of_op c = {.name = "rows_mean", .run = run_mean};
    struct op_fixture f;

    (void)state;
    op_fixture_open(&f, 3);
    c.mean = (struct rows_mean_args){drawn(&f, 700, 101), changed(&f, &c, DTYPE_F32, 101, 0), 7};
    check(&f, &c);
    op_fixture_close(&f);
}

static enum status run_step(struct op_fixture *f, struct case_of_op *c)
{
    enum status status = f->ops->gradient_norms(&f->device, &c->norms);
    return status != STATUS_OK ? status : f->ops->optimizer_step(&f->device, &c->step);
}

static struct tensor bytes_of(struct op_fixture *f, const void *bytes, size_t n)
{
    struct tensor tensor = op_output(f, DTYPE_U8, (int64_t)n, 0);
    op_run(f->device.copy_in(&f->device, tensor.data, bytes, n));
    return tensor;
}

static void steps_do_not_depend_on_threads(void **state)
{
    enum { TOTAL = 70000 };
    static const struct segment segments[] = {{0, 66000, 0, SEGMENT_DECAY, 0},
                                              {66000, 4000, 66000, 0, 0}};
    static const struct step_control control = {
        .lr = 0.01f, .weight_decay = 0.1f, .teacher_momentum = 0.9f, .clip_grad = 0.3f};
    static const enum optimizer_kind kinds[] = {OPTIMIZER_ADAMW, OPTIMIZER_SGD, OPTIMIZER_LARS};

    (void)state;
    for (int i = 0; i < 3; i++) {
        struct case_of_op c = {.name = "optimizer_step", .run = run_step};
        struct op_fixture f;
        op_fixture_open(&f, 4);
        c.step = (struct optimizer_step_args){
            .parameter = changed(&f, &c, DTYPE_F32, TOTAL, 0),
            .gradient = drawn(&f, TOTAL, 0),
            .moment1 = changed(&f, &c, DTYPE_F32, TOTAL, 0),
            .teacher = changed(&f, &c, DTYPE_F32, TOTAL, 0),
            .norms = changed(&f, &c, DTYPE_F64, 2, 0),
            .segments = bytes_of(&f, segments, sizeof(segments)).data,
            .control = bytes_of(&f, &control, sizeof(control)).data,
            .n_segments = 2,
            .kind = kinds[i],
        };
        if (kinds[i] == OPTIMIZER_ADAMW)
            c.step.moment2 = changed(&f, &c, DTYPE_F32, TOTAL, 0);
        c.norms = (struct gradient_norms_args){c.step.gradient, c.step.norms, c.step.segments, 2};
        check(&f, &c);
        op_fixture_close(&f);
    }
}

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(loss_and_gradient_do_not_depend_on_threads),
        cmocka_unit_test(token_gradients_do_not_depend_on_threads),
        cmocka_unit_test(means_do_not_depend_on_threads),
        cmocka_unit_test(steps_do_not_depend_on_threads),
    };
    int leave = op_backend_choose(argc, argv);
    return leave != 0 ? leave : cmocka_run_group_tests(tests, NULL, NULL);
}
