/* Properties of the step: micro-batches add up, state resumes bit by bit, what is left out does not
 * matter, features for evaluation, and nothing is allocated once it runs. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "proto/base/memory.h"
#include "tests/support/allocation_count.h"
#include "tests/trainer/model_fixture.h"

/* ------------------------------------------------------------------------------ a step's input */

enum { MOST_IMAGES = 4, CELLS = 16, GLOBAL = 3 * 32 * 32, LOCAL = 3 * 16 * 16 };

/* Images 0 .. of a step, of which a micro-batch takes some. */
struct images {
    float globals[2][MOST_IMAGES][GLOBAL], locals[2][MOST_IMAGES][LOCAL];
    uint8_t masks[2][MOST_IMAGES][CELLS];
};

struct batch {
    float globals[2 * MOST_IMAGES * GLOBAL], locals[2 * MOST_IMAGES * LOCAL];
    uint8_t masks[2 * MOST_IMAGES * CELLS];
    struct ibot_input input;
};

static struct images images;

static void make_images(uint64_t seed)
{
    fill_random(&images.globals[0][0][0], 2 * MOST_IMAGES * GLOBAL, seed);
    fill_random(&images.locals[0][0][0], 2 * MOST_IMAGES * LOCAL, seed + 1);
    for (int crop = 0; crop < 2; crop++)
        for (int i = 0; i < MOST_IMAGES; i++)
            for (int j = 0; j < CELLS; j++)
                images.masks[crop][i][j] = (crop + i) % 3 != 0 && (i * 7 + j * 5 + crop) % 4 == 0;
}

/* Images first .. first + n - 1, crop-major. */
static struct ibot_input take(struct batch *batch, int first, int n, int64_t step)
{
    for (int crop = 0; crop < 2; crop++) {
        memcpy(batch->globals + crop * n * GLOBAL, images.globals[crop][first],
               (size_t)n * sizeof(images.globals[0][0]));
        memcpy(batch->locals + crop * n * LOCAL, images.locals[crop][first],
               (size_t)n * sizeof(images.locals[0][0]));
        memcpy(batch->masks + crop * n * CELLS, images.masks[crop][first], (size_t)(n * CELLS));
    }
    return (struct ibot_input){
        .globals = {batch->globals, DTYPE_F32, 4, {2 * n, 3, 32, 32}},
        .locals = {batch->locals, DTYPE_F32, 4, {2 * n, 3, 16, 16}},
        .masks = batch->masks,
        .keep_seed = 5,
        .step = step,
        .first_sample = first,
    };
}

static struct ibot_options options_of(int batch_size, int accumulation)
{
    struct ibot_options o = model_options_small();

    o.batch_size = batch_size;
    o.accumulation_steps = accumulation;
    o.backbone.drop_path = 0.4f;
    return o;
}

static int32_t count_masked(void)
{
    const uint8_t *masks = &images.masks[0][0][0];
    int32_t n = 0;

    for (size_t i = 0; i < sizeof(images.masks); i++)
        n += masks[i];
    return n;
}

/* One step over MOST_IMAGES images in micro-batches of n. */
static void run_step(struct model_fixture *f, int n, int32_t step, struct ibot_result *result)
{
    static struct batch batch;
    struct step_control control = plain_control(1e-3, step);

    control.clip_grad = 3.0f;
    assert_int_equal(ibot_zero_gradients(f->ibot), STATUS_OK);
    for (int first = 0; first < MOST_IMAGES; first += n) {
        struct ibot_input input = take(&batch, first, n, step);
        assert_int_equal(ibot_accumulate(f->ibot, &input, &control), STATUS_OK);
    }
    assert_int_equal(ibot_update(f->ibot), STATUS_OK);
    assert_int_equal(ibot_result(f->ibot, result), STATUS_OK);
}

/* ------------------------------------------------------------------------------ tests */

static void two_micro_batches_equal_one_of_twice_the_size(void **state)
{
    struct ibot_options whole = options_of(4, 1), halves = options_of(2, 2);
    struct model_fixture a, b;
    struct ibot_result one, two;

    (void)state;
    model_fixture_open(&a, &whole);
    model_fixture_open(&b, &halves);
    assert_int_equal(ibot_initialise(a.ibot, 1), STATUS_OK);
    assert_int_equal(ibot_initialise(b.ibot, 1), STATUS_OK);
    for (int32_t step = 0; step < 3; step++) {
        make_images(100 + (uint64_t)step);
        run_step(&a, 4, step, &one);
        run_step(&b, 2, step, &two);
        assert_near(two.loss_cls, one.loss_cls, 1e-5);
        assert_near(two.loss_patch, one.loss_patch, 1e-5);
        assert_near(two.teacher_entropy_cls, one.teacher_entropy_cls, 1e-5);
        assert_near(two.teacher_entropy_patch, one.teacher_entropy_patch, 1e-5);
        assert_int_equal(two.n_samples, 4);
        assert_int_equal(one.n_masked, count_masked());
        assert_int_equal(two.n_masked, one.n_masked);
        assert_memory_equal(two.teacher_cluster, one.teacher_cluster, 4 * sizeof(int32_t));
        assert_memory_equal(two.student_cluster, one.student_cluster, 4 * sizeof(int32_t));
    }
    for (size_t i = 0; i < ibot_n_state(a.ibot); i++) {
        struct ibot_state_entry x, y;
        ibot_state(a.ibot, i, &x);
        ibot_state(b.ibot, i, &y);
        if (strstr(x.name, "qkv.bias") != NULL || strncmp(x.name, "moment", 6) == 0)
            continue; /* key biases have no true gradient: Adam divides noise by noise */
        double error = relative_error(y.tensor.data, x.tensor.data, tensor_n_elements(&x.tensor));
        if (!(error < 1e-3))
            fail_msg("%s differs by %g", x.name, error);
    }
    model_fixture_close(&a);
    model_fixture_close(&b);
}

/* Gradients of the very first step, before Adam can magnify rounding. */
static void micro_batches_add_up_to_the_same_gradient(void **state)
{
    static struct batch batch;
    struct ibot_options whole = options_of(4, 1), halves = options_of(2, 2);
    struct model_fixture a, b;
    struct step_control control = plain_control(1e-3, 0);

    (void)state;
    model_fixture_open(&a, &whole);
    model_fixture_open(&b, &halves);
    assert_int_equal(ibot_initialise(a.ibot, 1), STATUS_OK);
    assert_int_equal(ibot_initialise(b.ibot, 1), STATUS_OK);
    make_images(3);
    struct ibot_input input = take(&batch, 0, 4, 0);
    assert_int_equal(ibot_zero_gradients(a.ibot), STATUS_OK);
    assert_int_equal(ibot_accumulate(a.ibot, &input, &control), STATUS_OK);
    assert_int_equal(ibot_zero_gradients(b.ibot), STATUS_OK);
    for (int first = 0; first < 4; first += 2) {
        input = take(&batch, first, 2, 0);
        assert_int_equal(ibot_accumulate(b.ibot, &input, &control), STATUS_OK);
    }
    double all =
        relative_error(b.ibot->gradients, a.ibot->gradients, a.ibot->student.table.n_elements);
    assert_near(all, 0.0, 1e-6);
    for (size_t i = 0; i < a.ibot->student.table.n_params; i++) {
        struct tensor x = ibot_gradient(a.ibot, i), y = ibot_gradient(b.ibot, i);
        const char *name = a.ibot->student.table.params[i].name;
        if (strstr(name, "qkv.bias") != NULL)
            continue;
        double error = relative_error(y.data, x.data, tensor_n_elements(&x));
        if (!(error < 1e-5))
            fail_msg("gradient of %s differs by %g", name, error);
    }
    model_fixture_close(&a);
    model_fixture_close(&b);
}

static void a_restored_state_goes_on_bit_by_bit(void **state)
{
    struct ibot_options o = options_of(4, 1);
    struct model_fixture a, b;
    struct ibot_result result;

    (void)state;
    o.head.norm = HEAD_NORM_BN; /* running statistics are state too */
    model_fixture_open(&a, &o);
    model_fixture_open(&b, &o);
    assert_int_equal(ibot_initialise(a.ibot, 1), STATUS_OK);
    make_images(9);
    for (int32_t step = 0; step < 2; step++)
        run_step(&a, 4, step, &result);
    for (size_t i = 0; i < ibot_n_state(a.ibot); i++) {
        struct ibot_state_entry x, y;
        ibot_state(a.ibot, i, &x);
        ibot_state(b.ibot, i, &y);
        assert_string_equal(x.name, y.name);
        memcpy(y.tensor.data, x.tensor.data, tensor_size_bytes(&x.tensor));
    }
    for (int32_t step = 2; step < 4; step++) {
        run_step(&a, 4, step, &result);
        run_step(&b, 4, step, &result);
    }
    for (size_t i = 0; i < ibot_n_state(a.ibot); i++) {
        struct ibot_state_entry x, y;
        ibot_state(a.ibot, i, &x);
        ibot_state(b.ibot, i, &y);
        if (memcmp(x.tensor.data, y.tensor.data, tensor_size_bytes(&x.tensor)) != 0)
            fail_msg("%s differs after the restored state", x.name);
    }
    model_fixture_close(&a);
    model_fixture_close(&b);
}

static void state_names_are_unique(void **state)
{
    struct ibot_options o = options_of(2, 1);
    struct model_fixture f;
    struct ibot_state_entry x, y;

    (void)state;
    o.head.shared_student = o.head.shared_teacher = false;
    o.head.norm = HEAD_NORM_BN;
    model_fixture_open(&f, &o);
    for (size_t i = 0; i < ibot_n_state(f.ibot); i++) {
        ibot_state(f.ibot, i, &x);
        for (size_t j = 0; j < i; j++) {
            ibot_state(f.ibot, j, &y);
            assert_string_not_equal(x.name, y.name);
        }
    }
    model_fixture_close(&f);
}

/* A step with no mask at all equals one whose masks are all zero; its patch loss is zero. */
static void no_masks_mean_no_patch_loss(void **state)
{
    static struct batch batch;
    struct ibot_options o = options_of(4, 1);
    struct model_fixture f;
    struct ibot_result with, without;
    struct step_control control = plain_control(0.0, 0);

    (void)state;
    model_fixture_open(&f, &o);
    assert_int_equal(ibot_initialise(f.ibot, 1), STATUS_OK);
    make_images(4);
    struct ibot_input input = take(&batch, 0, 4, 0);
    memset(batch.masks, 0, sizeof(batch.masks));
    assert_int_equal(ibot_zero_gradients(f.ibot), STATUS_OK);
    assert_int_equal(ibot_accumulate(f.ibot, &input, &control), STATUS_OK);
    assert_int_equal(ibot_result(f.ibot, &with), STATUS_OK);
    input.masks = NULL;
    assert_int_equal(ibot_zero_gradients(f.ibot), STATUS_OK);
    assert_int_equal(ibot_accumulate(f.ibot, &input, &control), STATUS_OK);
    assert_int_equal(ibot_result(f.ibot, &without), STATUS_OK);
    assert_true(with.loss == without.loss);
    assert_true(without.loss_patch == 0.0 && without.n_masked == 0);
    assert_int_equal(ibot_update(f.ibot), STATUS_OK);
    model_fixture_close(&f);
}

/* Weights in [-1, 1), nothing added to what comes from the picture: then pictures differ. */
static void fill_lively(struct ibot *ibot)
{
    const struct param_table *table = &ibot->student.table;

    fill_random(ibot->student.parameters, table->n_elements, 3);
    for (size_t i = 0; i < table->n_params; i++) {
        const struct param *param = &table->params[i];
        bool added = strstr(param->name, ".bias") != NULL || strstr(param->name, "cls_token") ||
                     strstr(param->name, "pos_embed");
        for (int64_t j = 0; j < param->n && added; j++)
            ibot->student.parameters[param->offset + j] = 0.0f;
    }
    assert_int_equal(ibot_teacher_from_student(ibot), STATUS_OK);
}

/* Losses, clusters and centres of the first step of a new model. */
static void run_first_step(struct model_fixture *f, const struct ibot_options *o,
                           const struct ibot_input *input, const struct step_control *control,
                           struct ibot_result *result)
{
    model_fixture_open(f, o);
    fill_lively(f->ibot);
    assert_int_equal(ibot_zero_gradients(f->ibot), STATUS_OK);
    assert_int_equal(ibot_accumulate(f->ibot, input, control), STATUS_OK);
    assert_int_equal(ibot_update(f->ibot), STATUS_OK);
    assert_int_equal(ibot_result(f->ibot, result), STATUS_OK);
}

/* The student sees whole pictures, and the patch loss is taken where they would be masked. */
static void without_masked_modelling_nothing_is_masked(void **state)
{
    static struct batch batch;
    struct ibot_options o = options_of(4, 1);
    struct step_control control = plain_control(1e-3, 0);
    struct ibot_result masked, dense, whole;
    struct model_fixture f[3];

    (void)state;
    o.backbone.drop_path = 0.0f;
    make_images(4);
    struct ibot_input input = take(&batch, 0, 4, 0), unmasked = input;
    unmasked.masks = NULL;
    run_first_step(&f[0], &o, &input, &control, &masked);
    run_first_step(&f[1], &o, &unmasked, &control, &whole);
    o.masked_im_modeling = false;
    run_first_step(&f[2], &o, &input, &control, &dense);
    assert_int_equal(dense.n_masked, masked.n_masked);
    assert_near(dense.loss_cls, whole.loss_cls, 1e-6);
    assert_true(fabs(dense.loss_cls - masked.loss_cls) > 1e-5);
    assert_true(dense.loss_patch > 0.0 && whole.loss_patch == 0.0);
    /* student and teacher are alike, and see the same: with one temperature the loss is entropy */
    control.student_temp = control.teacher_patch_temp;
    model_fixture_close(&f[2]);
    run_first_step(&f[2], &o, &input, &control, &dense);
    int images_with_masks = 0;
    double entropy = 0.0;
    for (int crop = 0; crop < 2; crop++)
        for (int i = 0; i < MOST_IMAGES; i++)
            images_with_masks += (crop + i) % 3 != 0;
    entropy = dense.teacher_entropy_patch * images_with_masks / (2.0 * MOST_IMAGES);
    assert_near(dense.loss_patch, entropy, 1e-4);
    for (int i = 0; i < 3; i++)
        model_fixture_close(&f[i]);
}

/* The teacher's on the first global crop, the student's on the second. */
static void clusters_are_of_two_crops(void **state)
{
    static struct batch batch;
    struct ibot_options o = options_of(4, 1);
    struct step_control control = plain_control(1e-3, 0);
    struct ibot_result one, other;
    struct model_fixture f[2];
    bool differ = false;

    (void)state;
    o.backbone.drop_path = 0.0f;
    make_images(4);
    struct ibot_input input = take(&batch, 0, 4, 0);
    input.masks = NULL;
    run_first_step(&f[0], &o, &input, &control, &one);
    for (int i = 0; i < 4 * GLOBAL; i++) { /* crops change places */
        float value = batch.globals[i];
        batch.globals[i] = batch.globals[4 * GLOBAL + i];
        batch.globals[4 * GLOBAL + i] = value;
    }
    run_first_step(&f[1], &o, &input, &control, &other);
    for (int i = 0; i < 4; i++) { /* the student is the teacher's double still */
        assert_int_equal(one.student_cluster[i], other.teacher_cluster[i]);
        assert_int_equal(other.student_cluster[i], one.teacher_cluster[i]);
        differ |= one.student_cluster[i] != one.teacher_cluster[i];
    }
    assert_true(differ);
    model_fixture_close(&f[0]);
    model_fixture_close(&f[1]);
}

static void each_centre_has_a_momentum_of_its_own(void **state)
{
    static struct batch batch;
    struct ibot_options o = options_of(4, 1);
    struct step_control control = plain_control(1e-3, 0);
    struct ibot_result result;

    (void)state;
    make_images(4);
    for (int which = 0; which < 2; which++) {
        struct model_fixture f;
        struct ibot_input input = take(&batch, 0, 4, 0);
        control.centre_momentum = which == 0 ? 1.0f : 0.5f;
        control.centre_patch_momentum = which == 1 ? 1.0f : 0.5f;
        run_first_step(&f, &o, &input, &control, &result);
        for (int i = 0; i < 2; i++) {
            struct tensor centre = state_tensor(f.ibot, i == 0 ? "centre.cls" : "centre.patch");
            double moved = absolute_sum(centre.data, tensor_n_elements(&centre));
            assert_true(i == which ? moved == 0.0 : moved > 0.0);
        }
        model_fixture_close(&f);
    }
}

static void a_loss_that_is_not_finite_is_reported(void **state)
{
    static struct batch batch;
    struct ibot_options o = options_of(4, 1);
    struct model_fixture f;
    struct ibot_result result;
    struct step_control control = plain_control(0.0, 0);

    (void)state;
    model_fixture_open(&f, &o);
    assert_int_equal(ibot_initialise(f.ibot, 1), STATUS_OK);
    make_images(4);
    struct ibot_input input = take(&batch, 0, 4, 0);
    batch.locals[17] = NAN;
    assert_int_equal(ibot_zero_gradients(f.ibot), STATUS_OK);
    assert_int_equal(ibot_accumulate(f.ibot, &input, &control), STATUS_OK);
    assert_int_equal(ibot_result(f.ibot, &result), STATUS_NOT_FINITE);
    assert_non_null(strstr(status_message(), "not finite"));
    model_fixture_close(&f);
}

static void dropped_branches_follow_their_rate(void **state)
{
    static struct batch batch;
    struct ibot_options o = options_of(4, 1);
    struct model_fixture f;
    int kept = 0, total = 0, agreeing = 0, pairs = 0;

    (void)state;
    model_fixture_open(&f, &o);
    assert_int_equal(ibot_initialise(f.ibot, 1), STATUS_OK);
    make_images(4);
    for (int64_t step = 0; step < 200; step++) {
        struct ibot_input input = take(&batch, 0, 4, step);
        struct step_control control = plain_control(0.0, 0);
        assert_int_equal(ibot_stage(f.ibot, &input, &control), STATUS_OK);
        const struct vit *vit = &f.ibot->student.vit;
        assert_null(vit->depths[0].attention_scale);
        for (int64_t i = 0; i < vit->n_samples; i++) {
            float scale = vit->depths[1].attention_scale[i];
            assert_true(scale == 0.0f || fabsf(scale - 1.0f / 0.6f) < 1e-6f);
            kept += scale != 0.0f;
            total++;
            if (i < 4) /* with the next view of the same image */
                continue;
            agreeing += (scale != 0.0f) == (vit->depths[1].attention_scale[i - 4] != 0.0f);
            pairs++;
        }
    }
    double share = (double)kept / total; /* 5 sigma of 3200 draws: 0.043 */
    assert_near(share, 0.6, 0.044);
    assert_near((double)agreeing / pairs, 0.52, 0.06); /* views are samples of their own */
    model_fixture_close(&f);
}

/* ------------------------------------------------------------------------------ features */

static void expect_feature(const float *got, const float *wanted, int64_t n)
{
    assert_near(relative_error(got, wanted, n), 0.0, 1e-6);
}

static void features_are_those_of_each_mode(void **state)
{
    enum { D = 32, N = 3 };
    struct ibot_options o = model_options_small();
    struct model_fixture f;
    static float pixels[N * GLOBAL], out[N * 3 * D], wanted[D];

    (void)state;
    o.inference_only = true;
    o.batch_size = 4;
    o.n_global = 1;
    o.n_local = 0;
    model_fixture_open(&f, &o);
    fill_model(f.ibot);
    fill_random(pixels, N * GLOBAL, 8);
    struct tensor images_in = {pixels, DTYPE_F32, 4, {N, 3, 32, 32}};
    struct vit *vit = &f.ibot->teacher.vit;
    struct ibot_feature_options mode = {.n_last_blocks = 2, .avgpool = 0};

    assert_int_equal(ibot_feature_dim(f.ibot, &mode), 2 * D);
    assert_int_equal(ibot_features(f.ibot, images_in, &mode, out), STATUS_OK);
    for (int i = 0; i < N; i++) /* last block: token 0 after the final norm */
        expect_feature(out + i * 2 * D + D, (float *)vit->features.data + i * 17 * D, D);
    /* one block less: the network cut after its first block */
    float before_last[N * D];
    for (int i = 0; i < N; i++)
        memcpy(before_last + i * D, out + i * 2 * D, D * sizeof(float));
    vit->options.depth = 1;
    mode.n_last_blocks = 1;
    assert_int_equal(ibot_features(f.ibot, images_in, &mode, out), STATUS_OK);
    expect_feature(out, before_last, N * D);
    vit->options.depth = 2;

    mode.avgpool = 1;
    assert_int_equal(ibot_feature_dim(f.ibot, &mode), D);
    assert_int_equal(ibot_features(f.ibot, images_in, &mode, out), STATUS_OK);
    const float *final_x = vit->final_x.data;
    for (int i = 0; i < N; i++) {
        memset(wanted, 0, sizeof(wanted));
        for (int t = 1; t < 17; t++)
            for (int j = 0; j < D; j++)
                wanted[j] += final_x[(i * 17 + t) * D + j] / 16.0f;
        expect_feature(out + i * D, wanted, D);
    }

    mode.avgpool = 2;
    assert_int_equal(ibot_feature_dim(f.ibot, &mode), 2 * D);
    assert_int_equal(ibot_features(f.ibot, images_in, &mode, out), STATUS_OK);
    for (int i = 0; i < N; i++) {
        memset(wanted, 0, sizeof(wanted));
        for (int t = 1; t < 17; t++)
            for (int j = 0; j < D; j++)
                wanted[j] += ((float *)vit->features.data)[(i * 17 + t) * D + j] / 16.0f;
        expect_feature(out + i * 2 * D, (float *)vit->features.data + i * 17 * D, D);
        expect_feature(out + i * 2 * D + D, wanted, D);
    }
    model_fixture_close(&f);
}

static void features_do_not_depend_on_the_batch(void **state)
{
    enum { D = 32 };
    struct ibot_options o = model_options_small();
    struct model_fixture f;
    static float pixels[2 * GLOBAL], both[2 * D], one[D];
    struct ibot_feature_options mode = {.n_last_blocks = 1};

    (void)state;
    model_fixture_open(&f, &o); /* a training model gives features too */
    fill_model(f.ibot);
    fill_random(pixels, 2 * GLOBAL, 8);
    struct tensor images_in = {pixels, DTYPE_F32, 4, {2, 3, 32, 32}};
    for (int student = 0; student < 2; student++) {
        mode.student = student != 0;
        images_in = (struct tensor){pixels, DTYPE_F32, 4, {2, 3, 32, 32}};
        assert_int_equal(ibot_features(f.ibot, images_in, &mode, both), STATUS_OK);
        images_in = (struct tensor){pixels + GLOBAL, DTYPE_F32, 4, {1, 3, 32, 32}};
        assert_int_equal(ibot_features(f.ibot, images_in, &mode, one), STATUS_OK);
        expect_feature(one, both + D, D);
    }
    images_in.shape[0] = 100;
    assert_int_equal(ibot_features(f.ibot, images_in, &mode, one), STATUS_INVALID);
    model_fixture_close(&f);
}

/* ------------------------------------------------------------------------------ allocation */

static void a_step_allocates_nothing_after_the_first(void **state)
{
    struct ibot_options o = options_of(2, 2);
    struct model_fixture f;
    struct ibot_result result;

    (void)state;
    if (!allocation_count_works())
        skip();
    model_fixture_open(&f, &o);
    assert_int_equal(ibot_initialise(f.ibot, 1), STATUS_OK);
    make_images(9);
    long at_open = allocation_count();
    void *counted;
    assert_int_equal(memory_alloc(&counted, 1, 1, "counted"), STATUS_OK);
    memory_free(counted);
    assert_true(allocation_count() > at_open); /* the counter counts */
    run_step(&f, 2, 0, &result);
    long before = allocation_count();
    for (int32_t step = 1; step < 4; step++)
        run_step(&f, 2, step, &result);
    assert_int_equal(allocation_count() - before, 0);
    model_fixture_close(&f);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(two_micro_batches_equal_one_of_twice_the_size),
        cmocka_unit_test(micro_batches_add_up_to_the_same_gradient),
        cmocka_unit_test(a_restored_state_goes_on_bit_by_bit),
        cmocka_unit_test(state_names_are_unique),
        cmocka_unit_test(no_masks_mean_no_patch_loss),
        cmocka_unit_test(without_masked_modelling_nothing_is_masked),
        cmocka_unit_test(clusters_are_of_two_crops),
        cmocka_unit_test(each_centre_has_a_momentum_of_its_own),
        cmocka_unit_test(a_loss_that_is_not_finite_is_reported),
        cmocka_unit_test(dropped_branches_follow_their_rate),
        cmocka_unit_test(features_are_those_of_each_mode),
        cmocka_unit_test(features_do_not_depend_on_the_batch),
        cmocka_unit_test(a_step_allocates_nothing_after_the_first),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
