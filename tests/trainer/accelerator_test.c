/* What a model asks of an accelerator, on one that does nothing before it must (queued_device): the
 * same bits as on the CPU, in half precision nearly the same training. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <string.h>

#include <cmocka.h>

#include "ops/half_float.h"
#include "proto/base/rng.h"
#include "tests/support/queued_device.h"
#include "tests/trainer/model_fixture.h"

enum { B = 3, G = 2, L = 2, CELLS = 16, MOST_STEPS = 24 };

struct training {
    double cls[MOST_STEPS], patch[MOST_STEPS], norms[MOST_STEPS];
};

static struct ibot_options options_of(void)
{
    struct ibot_options o = model_options_small();

    o.batch_size = B;
    o.backbone.drop_path = 0.3f;
    return o;
}

/* Images of a few kinds, so that there is something to learn; masks of changing sizes, of some
 * steps none. Everything is made anew for each step, in memory that is not pinned. */
struct batch {
    float globals[G * B * 3 * 32 * 32], locals[L * B * 3 * 16 * 16];
    uint8_t masks[G * B * CELLS];
};

static struct ibot_input batch_of(struct batch *batch, int32_t step)
{
    struct rng rng =
        rng_open((struct rng_key){.seed = 7, .sample = (uint32_t)step, .purpose = RNG_TEST});

    for (int32_t crop = 0; crop < G * B; crop++)
        fill_wave(batch->globals + crop * 3 * 32 * 32, 3 * 32 * 32, crop % B + 3.0 * step);
    for (int32_t crop = 0; crop < L * B; crop++)
        fill_wave(batch->locals + crop * 3 * 16 * 16, 3 * 16 * 16, crop % B + 3.0 * step + 0.2);
    for (int32_t i = 0; i < G * B * CELLS; i++)
        batch->masks[i] = (uint8_t)(step % 5 != 3 && rng_uniform(&rng) < 0.1 * (step % 7));
    return (struct ibot_input){
        .globals = {batch->globals, DTYPE_F32, 4, {G * B, 3, 32, 32}},
        .locals = {batch->locals, DTYPE_F32, 4, {L * B, 3, 16, 16}},
        .masks = step % 5 == 4 ? NULL : batch->masks,
        .keep_seed = 3,
        .step = step,
    };
}

static void train(struct model_fixture *f, int32_t n_steps, double lr, struct training *out)
{
    static struct batch batches[MOST_STEPS];
    struct ibot_result result;

    assert_int_equal(ibot_initialise(f->ibot, 1), STATUS_OK);
    for (int32_t step = 0; step < n_steps; step++) {
        struct ibot_input input = batch_of(&batches[step], step);
        struct step_control control = plain_control(lr, step);
        control.clip_grad = 3.0f;
        control.freeze_last_layer = step < 2;
        control.last_layer_step = step < 2 ? 0 : step - 2;
        assert_int_equal(ibot_zero_gradients(f->ibot), STATUS_OK);
        assert_int_equal(ibot_accumulate(f->ibot, &input, &control), STATUS_OK);
        assert_int_equal(ibot_update(f->ibot), STATUS_OK);
        assert_int_equal(ibot_result(f->ibot, &result), STATUS_OK);
        out->cls[step] = result.loss_cls;
        out->patch[step] = result.loss_patch;
        out->norms[step] = result.gradient_norm_sum;
    }
    assert_int_equal(f->device.synchronize(&f->device), STATUS_OK);
}

static void expect_same_state(const struct ibot *a, const struct ibot *b)
{
    struct ibot_state_entry x, y;

    for (size_t i = 0; i < ibot_n_state(a); i++) {
        ibot_state(a, i, &x);
        ibot_state(b, i, &y);
        if (memcmp(x.tensor.data, y.tensor.data, tensor_size_bytes(&x.tensor)) != 0)
            fail_msg("%s differs", x.name);
    }
}

/* ------------------------------------------------------------------------------ float32 */

static void open_without_graphs(struct model_fixture *f, const struct ibot_options *o)
{
    memset(f, 0, sizeof(*f));
    collective_open_alone(&f->collective);
    assert_int_equal(queued_device_open(&f->device, 2), STATUS_OK);
    f->device.capture_begin = NULL;
    assert_int_equal(ibot_open(&f->ibot, &f->device, &op_table_queued, &f->collective, o),
                     STATUS_OK);
}

static void expect_the_bits_of_the_cpu(const struct ibot_options *o)
{
    struct model_fixture cpu, queued;
    struct training wanted, got;

    model_fixture_open(&cpu, o);
    open_without_graphs(&queued, o);
    train(&cpu, 10, 1e-3, &wanted);
    train(&queued, 10, 1e-3, &got);
    for (int i = 0; i < 10; i++) {
        assert_true(got.cls[i] == wanted.cls[i] && got.patch[i] == wanted.patch[i]);
        assert_true(got.norms[i] == wanted.norms[i]);
    }
    expect_same_state(queued.ibot, cpu.ibot);
    model_fixture_close(&cpu);
    model_fixture_close(&queued);
}

/* The same training with the gradients of weights on a branch of their own, which is as late as it
 * may be; recorded or not. */
static void expect_the_bits_apart(struct ibot_options o)
{
    struct model_fixture plain, apart;
    struct training wanted, got;

    o.precision = PRECISION_BF16;
    for (int recorded = 0; recorded < 2; recorded++) {
        o.record_steps = recorded != 0;
        o.weights_apart = false;
        model_fixture_open_queued(&plain, &o);
        o.weights_apart = true;
        model_fixture_open_queued(&apart, &o);
        assert_true(ibot_device_bytes(apart.ibot) > ibot_device_bytes(plain.ibot));
        train(&plain, 6, 1e-3, &wanted);
        train(&apart, 6, 1e-3, &got);
        for (int i = 0; i < 6; i++) {
            assert_true(got.cls[i] == wanted.cls[i] && got.patch[i] == wanted.patch[i]);
            assert_true(got.norms[i] == wanted.norms[i]);
        }
        expect_same_state(apart.ibot, plain.ibot);
        model_fixture_close(&plain);
        model_fixture_close(&apart);
    }
}

static void weights_on_a_branch_of_their_own_have_the_same_bits(void **state)
{
    struct ibot_options o = options_of();

    (void)state;
    o.backbone.depth = 4; /* each of the two sets comes twice */
    for (int recompute = RECOMPUTE_NONE; recompute <= RECOMPUTE_BLOCKS; recompute++) {
        o.recompute = (enum recompute)recompute;
        o.residual_stream = recompute % 2 == 0 ? PRECISION_F32 : PRECISION_BF16;
        expect_the_bits_apart(o);
    }
    o.recompute = RECOMPUTE_NONE;
    o.head.norm = HEAD_NORM_BN; /* without chosen rows in the last block */
    expect_the_bits_apart(o);
    o.backbone = model_options_small_swin().backbone;
    o.backbone.drop_path = 0.3f;
    expect_the_bits_apart(o);
    o.recompute = RECOMPUTE_BLOCKS;
    expect_the_bits_apart(o);
}

static void a_device_that_lags_gives_the_bits_of_the_cpu(void **state)
{
    struct ibot_options o = options_of();

    (void)state;
    expect_the_bits_of_the_cpu(&o);
    o.head.norm = HEAD_NORM_BN;
    expect_the_bits_of_the_cpu(&o);
    o.backbone = model_options_small_swin().backbone;
    expect_the_bits_of_the_cpu(&o);
}

/* ------------------------------------------------------------------------------ recorded steps */

static void expect_recorded_steps_to_be_the_same(struct ibot_options o)
{
    struct model_fixture plain, recorded, cpu;
    struct training wanted, got, exact;

    model_fixture_open(&cpu, &o);
    model_fixture_open_queued(&plain, &o);
    o.record_steps = true;
    model_fixture_open_queued(&recorded, &o);
    train(&cpu, 3, 1e-3, &exact);
    train(&plain, MOST_STEPS, 1e-3, &wanted);
    train(&recorded, MOST_STEPS, 1e-3, &got);
    assert_int_equal(queued_device_launches(&plain.device), 0);
    assert_true(queued_device_launches(&recorded.device) > MOST_STEPS);
    for (int i = 0; i < MOST_STEPS; i++)
        assert_true(got.cls[i] == wanted.cls[i] && got.patch[i] == wanted.patch[i] &&
                    got.norms[i] == wanted.norms[i]);
    expect_same_state(recorded.ibot, plain.ibot);
    for (int i = 0; i < 3; i++) { /* rows that stand for nothing change the order of sums alone */
        assert_near(got.cls[i], exact.cls[i], 1e-5 * exact.cls[i]);
        assert_near(got.patch[i], exact.patch[i], 1e-5 * exact.patch[i]);
        assert_near(got.norms[i], exact.norms[i], 1e-4 * exact.norms[i]);
    }
    model_fixture_close(&cpu);
    model_fixture_close(&plain);
    model_fixture_close(&recorded);
}

static void a_step_that_is_recorded_gives_the_bits_of_one_that_is_not(void **state)
{
    struct ibot_options o = options_of();

    (void)state;
    expect_recorded_steps_to_be_the_same(o);
    o.head.norm = HEAD_NORM_BN;
    expect_recorded_steps_to_be_the_same(o);
    o.head.norm = HEAD_NORM_LN;
    o.backbone = model_options_small_swin().backbone;
    expect_recorded_steps_to_be_the_same(o);
}

/* ------------------------------------------------------------------------------ lag */

/* One step in pinned input, without a wait for it. */
static void queue_step(struct model_fixture *f, struct batch *pinned, int32_t step)
{
    struct ibot_input input = batch_of(pinned, step);
    struct step_control control = plain_control(1e-3, step);

    assert_int_equal(ibot_zero_gradients(f->ibot), STATUS_OK);
    assert_int_equal(ibot_accumulate(f->ibot, &input, &control), STATUS_OK);
    assert_int_equal(ibot_update(f->ibot), STATUS_OK);
}

static void the_numbers_of_a_step_are_read_while_the_next_one_waits(void **state)
{
    enum { STEPS = 6 };
    static struct batch batches[STEPS];
    static float seen[STEPS + 1][8];
    struct ibot_options o = options_of();
    struct model_fixture f;
    struct training wanted;
    struct ibot_result result;

    (void)state;
    o.record_steps = true;
    model_fixture_open_queued(&f, &o);
    train(&f, STEPS, 1e-3, &wanted);
    model_fixture_close(&f);
    model_fixture_open_queued(&f, &o);
    assert_int_equal(ibot_initialise(f.ibot, 1), STATUS_OK);
    const float *weights = state_tensor(f.ibot, "student.backbone.norm.weight").data;
    for (int32_t step = 0; step < STEPS; step++) {
        struct step_control control = plain_control(1e-3, step);
        struct ibot_input input = batch_of(&batches[step], step);
        control.clip_grad = 3.0f;
        control.freeze_last_layer = step < 2;
        control.last_layer_step = step < 2 ? 0 : step - 2;
        assert_int_equal(ibot_zero_gradients(f.ibot), STATUS_OK);
        assert_int_equal(ibot_accumulate(f.ibot, &input, &control), STATUS_OK);
        assert_int_equal(ibot_update(f.ibot), STATUS_OK);
        if (step < 1)
            continue;
        assert_int_equal(ibot_result_before(f.ibot, &result), STATUS_OK);
        assert_true(result.loss_cls == wanted.cls[step - 1]);
        assert_true(result.loss_patch == wanted.patch[step - 1]);
        assert_int_equal(result.n_samples, B);
        memcpy(seen[step], weights, sizeof(seen[step])); /* after step - 1, before step */
        assert_memory_not_equal(seen[step], seen[step - 1], sizeof(seen[step]));
    }
    assert_int_equal(ibot_result(f.ibot, &result), STATUS_OK);
    assert_true(result.loss_cls == wanted.cls[STEPS - 1]);
    assert_memory_not_equal(seen[STEPS - 1], weights, sizeof(seen[0]));
    model_fixture_close(&f);
}

static void a_step_that_is_not_finite_changes_nothing_and_is_told_one_late(void **state)
{
    static struct batch batches[5];
    static float before[8], after[8];
    struct ibot_options o = options_of();
    struct ibot_result result;
    struct model_fixture f;

    (void)state;
    model_fixture_open_queued(&f, &o);
    assert_int_equal(ibot_initialise(f.ibot, 1), STATUS_OK);
    const float *weights = state_tensor(f.ibot, "student.backbone.norm.weight").data;
    const float *centre = state_tensor(f.ibot, "centre.cls").data;
    queue_step(&f, &batches[0], 1);
    assert_int_equal(ibot_result(f.ibot, &result), STATUS_OK);
    memcpy(before, weights, sizeof(before));
    float centre_before = centre[3];

    struct ibot_input input = batch_of(&batches[1], 2);
    struct step_control control = plain_control(1e-3, 2);
    batches[1].locals[17] = NAN;
    assert_int_equal(ibot_zero_gradients(f.ibot), STATUS_OK);
    assert_int_equal(ibot_accumulate(f.ibot, &input, &control), STATUS_OK);
    assert_int_equal(ibot_update(f.ibot), STATUS_OK);
    assert_int_equal(f.device.synchronize(&f.device), STATUS_OK);
    assert_memory_equal(before, weights, sizeof(before));
    assert_true(centre[3] == centre_before);

    queue_step(&f, &batches[2], 6);
    assert_int_equal(ibot_result_before(f.ibot, &result), STATUS_NOT_FINITE);
    assert_non_null(strstr(status_message(), "not finite"));
    assert_int_equal(ibot_result(f.ibot, &result), STATUS_OK);
    memcpy(after, weights, sizeof(after));
    assert_memory_not_equal(before, after, sizeof(before));
    model_fixture_close(&f);
}

/* ------------------------------------------------------------------------------ half precision */

/* Angle between the gradients of the first step, as a cosine. */
static double alignment(const struct ibot *a, const struct ibot *b)
{
    double dot = 0.0, aa = 0.0, bb = 0.0;

    for (int64_t i = 0; i < a->student.table.n_elements; i++) {
        double x = (double)a->gradients[i], y = (double)b->gradients[i];
        dot += x * y;
        aa += x * x;
        bb += y * y;
    }
    return dot / sqrt(aa * bb);
}

/* The model of `half` beside that of `wide`: gradients of the first step, then the loss curve. */
static void expect_nearly_the_same_curve(struct model_fixture *wide, struct model_fixture *half,
                                         double lr, double limit)
{
    struct training wanted, got;

    train(wide, 1, lr, &wanted);
    train(half, 1, lr, &got);
    double cosine = alignment(wide->ibot, half->ibot);
    train(wide, MOST_STEPS, lr, &wanted);
    train(half, MOST_STEPS, lr, &got);
    double worst = 0.0, mean = 0.0;
    for (int i = 0; i < MOST_STEPS; i++) {
        double error = fabs(got.cls[i] + got.patch[i] - wanted.cls[i] - wanted.patch[i]) /
                       (wanted.cls[i] + wanted.patch[i]);
        worst = fmax(worst, error);
        mean += error / MOST_STEPS;
    }
    print_message("cosine %.6f, relative error of the loss: mean %.2g, greatest %.2g\n", cosine,
                  mean, worst);
    assert_true(cosine > 0.999);
    assert_true(mean < limit && worst < 4.0 * limit);
}

/* In bf16 as in float32. */
static void expect_nearly_the_same_training(struct ibot_options o, double lr, double limit)
{
    struct model_fixture wide, half;

    model_fixture_open(&wide, &o);
    o.precision = PRECISION_BF16;
    model_fixture_open_queued(&half, &o);
    expect_nearly_the_same_curve(&wide, &half, lr, limit);
    model_fixture_close(&wide);
    model_fixture_close(&half);
}

static void half_precision_trains_as_float32_does(void **state)
{
    struct ibot_options o = options_of();

    (void)state;
    expect_nearly_the_same_training(o, 1e-3, 0.01);
    o.gelu_tanh = true;
    expect_nearly_the_same_training(o, 1e-3, 0.01);
    o.head.norm = HEAD_NORM_LN;
    expect_nearly_the_same_training(o, 1e-3, 0.01);
    o.head.norm = HEAD_NORM_BN; /* statistics of few rows magnify rounding */
    expect_nearly_the_same_training(o, 1e-3, 0.03);
    o = options_of();
    o.backbone = model_options_small_swin().backbone;
    o.backbone.drop_path = 0.3f;
    expect_nearly_the_same_training(o, 1e-4, 0.01);
}

/* With a residual stream of bf16 as in float32, and as with one of float32. */
static void expect_a_narrow_stream_to_train(struct ibot_options o, double lr, double limit)
{
    struct model_fixture wanted, narrow;

    for (int beside_half = 0; beside_half < 2; beside_half++) {
        o.residual_stream = PRECISION_F32;
        o.precision = beside_half != 0 ? PRECISION_BF16 : PRECISION_F32;
        if (beside_half != 0)
            model_fixture_open_queued(&wanted, &o);
        else
            model_fixture_open(&wanted, &o);
        o.precision = o.residual_stream = PRECISION_BF16;
        model_fixture_open_queued(&narrow, &o);
        assert_true(ibot_device_bytes(narrow.ibot) < ibot_device_bytes(wanted.ibot));
        expect_nearly_the_same_curve(&wanted, &narrow, lr, limit);
        model_fixture_close(&wanted);
        model_fixture_close(&narrow);
    }
}

/* What is added to a stream loses what lies below its last bit: three times the error of bf16
 * alone, here. */
static void a_residual_stream_of_16_bits_trains_as_one_of_32_does(void **state)
{
    struct ibot_options o = options_of();

    (void)state;
    o.backbone.depth = 6;
    expect_a_narrow_stream_to_train(o, 1e-3, 0.03);
    o.backbone = model_options_small_swin().backbone;
    o.backbone.drop_path = 0.3f;
    expect_a_narrow_stream_to_train(o, 1e-4, 0.03);
}

static void a_narrow_stream_beside_float32_is_refused(void **state)
{
    struct ibot_options o = options_of();
    struct device device;
    struct collective collective;
    struct ibot *ibot = NULL;

    (void)state;
    o.residual_stream = PRECISION_BF16;
    collective_open_alone(&collective);
    assert_int_equal(queued_device_open(&device, 1), STATUS_OK);
    assert_int_equal(ibot_open(&ibot, &device, &op_table_queued, &collective, &o), STATUS_INVALID);
    assert_non_null(strstr(status_message(), "precision f32"));
    assert_null(ibot);
    device_close(&device);
}

static void expect_copies(const struct network *network)
{
    const uint16_t *bits = network->operands.data;

    for (int64_t i = 0; i < network->table.n_elements; i++)
        assert_int_equal(bits[i], half_float_to_bf16(network->parameters[i]));
}

/* Operands follow the optimizer, and whoever writes parameters otherwise. */
static void copies_of_the_parameters_follow_them(void **state)
{
    struct ibot_options o = options_of();
    struct training training;
    struct model_fixture f;

    (void)state;
    o.precision = PRECISION_BF16;
    o.head.shared_student = false;
    model_fixture_open_queued(&f, &o);
    train(&f, 4, 1e-3, &training);
    expect_copies(&f.ibot->student);
    expect_copies(&f.ibot->teacher);
    fill_random(f.ibot->student.parameters, f.ibot->student.table.n_elements, 5);
    fill_random(f.ibot->teacher.parameters, f.ibot->teacher.table.n_elements, 6);
    assert_int_equal(ibot_state_written(f.ibot), STATUS_OK);
    assert_int_equal(f.device.synchronize(&f.device), STATUS_OK);
    expect_copies(&f.ibot->student);
    expect_copies(&f.ibot->teacher);
    model_fixture_close(&f);
}

static void the_cpu_says_that_it_has_no_half_precision(void **state)
{
    struct ibot_options o = options_of();
    static struct batch batch;
    struct model_fixture f;
    struct step_control control = plain_control(1e-3, 0);
    struct ibot_input input = batch_of(&batch, 1);

    (void)state;
    o.precision = PRECISION_BF16;
    model_fixture_open(&f, &o);
    assert_int_equal(ibot_initialise(f.ibot, 1), STATUS_OK);
    assert_int_equal(ibot_zero_gradients(f.ibot), STATUS_OK);
    assert_int_equal(ibot_accumulate(f.ibot, &input, &control), STATUS_UNSUPPORTED);
    assert_non_null(strstr(status_message(), "float32"));
    model_fixture_close(&f);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_device_that_lags_gives_the_bits_of_the_cpu),
        cmocka_unit_test(weights_on_a_branch_of_their_own_have_the_same_bits),
        cmocka_unit_test(a_step_that_is_recorded_gives_the_bits_of_one_that_is_not),
        cmocka_unit_test(the_numbers_of_a_step_are_read_while_the_next_one_waits),
        cmocka_unit_test(a_step_that_is_not_finite_changes_nothing_and_is_told_one_late),
        cmocka_unit_test(half_precision_trains_as_float32_does),
        cmocka_unit_test(a_residual_stream_of_16_bits_trains_as_one_of_32_does),
        cmocka_unit_test(a_narrow_stream_beside_float32_is_refused),
        cmocka_unit_test(copies_of_the_parameters_follow_them),
        cmocka_unit_test(the_cpu_says_that_it_has_no_half_precision),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
