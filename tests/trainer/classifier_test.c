/* A classifier's gradients against differences, its learning rates against their formula, its
 * evaluations. Steps against PyTorch are in classifier_torch_test.c. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <string.h>

#include <cmocka.h>

#include "proto/base/memory.h"
#include "tests/support/queued_device.h"
#include "tests/trainer/model_fixture.h"
#include "trainer/model/classifier_internal.h"

enum { B = 4, K = 5, SIDE = 32, IMAGE = 3 * SIDE * SIDE };

static const int32_t labels[B] = {0, 3, 2, 4};

/* Layers: of the head. */
static struct classifier_options options_of(bool swin, enum classifier_pooling pooling,
                                            int32_t n_layers)
{
    struct ibot_options small = swin ? model_options_small_swin() : model_options_small();

    return (struct classifier_options){
        .backbone = small.backbone,
        .image_size_px = SIDE,
        .pooling = pooling,
        .n_head_layers = n_layers,
        .head = small.head,
        .n_classes = K,
        .batch_size = B,
        .accumulation_steps = 1,
        .init_scale = 1.0f,
        .layer_decay = 1.0f,
        .smoothing = 0.1f,
    };
}

struct scene {
    struct device device;
    struct classifier *classifier;
    float pixels[B * IMAGE];
};

static void open_scene(struct scene *s, const struct classifier_options *options)
{
    memset(s, 0, sizeof(*s));
    assert_int_equal(device_open_cpu(&s->device, 0), STATUS_OK);
    if (classifier_open(&s->classifier, &s->device, &op_table_cpu, options) != STATUS_OK)
        fail_msg("%s", status_message());
    assert_int_equal(classifier_initialise(s->classifier, 1), STATUS_OK);
}

static void close_scene(struct scene *s)
{
    classifier_close(&s->classifier);
    device_close(&s->device);
}

static struct tensor pixels_of(struct scene *s)
{
    return (struct tensor){s->pixels, DTYPE_F32, 4, {B, 3, SIDE, SIDE}};
}

/* ------------------------------------------------------------------------------ differences */

static const struct patch_mix mixes = {.share = 0.7f, .cut = {4, 6, 20, 17}, .seed = 4, .step = 2};
static const struct pixel_box erase[B] = {{0}, {2, 3, 9, 30}, {0}, {10, 10, 20, 12}};

static struct classifier_input hard_input(struct scene *s)
{
    return (struct classifier_input){
        .pixels = pixels_of(s),
        .labels = labels,
        .erase = erase,
        .mix = &mixes,
        .label_share = 0.6f,
        .keep_seed = 3,
        .step = 1,
    };
}

static double loss_of(struct scene *s)
{
    struct classifier_input input = hard_input(s);
    struct step_control control = {0};
    double sum = 0.0;

    assert_int_equal(classifier_zero_gradients(s->classifier), STATUS_OK);
    assert_int_equal(classifier_accumulate(s->classifier, &input, &control), STATUS_OK);
    for (int i = 0; i < B; i++)
        sum += (double)s->classifier->numbers[0].loss[i];
    return sum / B;
}

/* Along a direction the loss changes as the gradient says. */
static void check_direction(struct scene *s, const struct param *param, const float *gradient,
                            const float *direction)
{
    float *values = s->classifier->parameters + param->offset, *saved;
    double squares = 0.0, slope = 0.0, epsilon = 4e-3, losses[2];

    assert_int_equal(memory_alloc(&saved, (size_t)param->n, sizeof(float), "saved"), STATUS_OK);
    memcpy(saved, values, (size_t)param->n * sizeof(float));
    for (int64_t k = 0; k < param->n; k++)
        squares += (double)direction[k] * (double)direction[k];
    double scale = squares > 0.0 ? 1.0 / sqrt(squares) : 0.0;
    for (int64_t k = 0; k < param->n; k++)
        slope += scale * (double)direction[k] * (double)gradient[k];
    for (int side = 0; side < 2; side++) {
        for (int64_t k = 0; k < param->n; k++)
            values[k] = (float)((double)saved[k] +
                                (side == 0 ? epsilon : -epsilon) * scale * (double)direction[k]);
        losses[side] = loss_of(s);
    }
    memcpy(values, saved, (size_t)param->n * sizeof(float));
    memory_free(saved);
    double measured = (losses[0] - losses[1]) / (2.0 * epsilon);
    if (!(fabs(measured - slope) <= 5e-4 + 0.01 * fabs(slope)))
        fail_msg("%s: the loss changes by %g, its gradient says %g", param->name, measured, slope);
}

static void check_gradients(const struct classifier_options *options)
{
    static struct scene s;
    float *gradients, *direction;

    open_scene(&s, options);
    const struct param_table *table = &s.classifier->table;
    size_t n = (size_t)table->n_elements;
    fill_random(s.pixels, B * IMAGE, 5);
    for (size_t i = 0; i < table->n_params; i++) { /* no token close to zero */
        const struct param *param = &table->params[i];
        float *values = s.classifier->parameters + param->offset;
        fill_random(values, param->n, 100 + i);
        for (int64_t k = 0; k < param->n; k++)
            values[k] = 0.2f * values[k] + (param->init == PARAM_ONES ? 1.0f : 0.0f);
    }
    (void)loss_of(&s);
    assert_int_equal(memory_alloc(&gradients, n, sizeof(float), "gradients"), STATUS_OK);
    assert_int_equal(memory_alloc(&direction, n, sizeof(float), "direction"), STATUS_OK);
    memcpy(gradients, s.classifier->gradients, n * sizeof(float));
    for (size_t i = 0; i < table->n_params; i++) {
        const struct param *param = &table->params[i];
        const float *gradient = gradients + param->offset;
        if (param->flags & SEGMENT_FIXED)
            continue;
        assert_true(absolute_sum(gradient, param->n) > 0.0);
        check_direction(&s, param, gradient, gradient);
        fill_random(direction, param->n, 77);
        check_direction(&s, param, gradient, direction);
    }
    memory_free(gradients);
    memory_free(direction);
    close_scene(&s);
}

static void gradients_are_those_of_the_loss(void **state)
{
    struct classifier_options o;

    (void)state;
    for (int32_t layers = 0; layers <= 3; layers++) {
        o = options_of(false, POOLING_CLS, layers);
        o.backbone.drop_path = 0.3f;
        o.head.fixed_gains = layers == 3;
        check_gradients(&o);
    }
    o = options_of(false, POOLING_MEAN, 0);
    check_gradients(&o);
    o = options_of(false, POOLING_MEAN, 2); /* and a head with a norm */
    o.head.norm = HEAD_NORM_LN;
    check_gradients(&o);
    o = options_of(true, POOLING_CLS, 1);
    o.backbone.drop_path = 0.2f;
    check_gradients(&o);
}

/* ------------------------------------------------------------------------------ stochastic depth
 */

enum { MOST = 1 << 20 }; /* parameters */

/* Gradients of a step to `out` [MOST], its loss; and rows that branches left out. */
static double step_gradients(const struct classifier_options *options, float *out, int64_t *left)
{
    static struct scene s;
    static uint8_t maps[B * SIDE * SIDE];
    struct step_control control = {0};
    struct classifier_result result;

    open_scene(&s, options);
    struct classifier *c = s.classifier;
    fill_random(s.pixels, B * IMAGE, 5);
    for (size_t i = 0; i < sizeof(maps); i++)
        maps[i] = (uint8_t)(i / 37 % K);
    struct classifier_input input = hard_input(&s);
    input.label_maps = maps;
    if (classifier_is_dense(options))
        input.mix = NULL, input.erase = NULL;
    *left = 0;
    for (int32_t i = 0; i < options->accumulation_steps; i++) {
        input.step = i + 1;
        if (i == 0)
            assert_int_equal(classifier_zero_gradients(c), STATUS_OK);
        assert_int_equal(classifier_accumulate(c, &input, &control), STATUS_OK);
        for (int32_t block = 0; block < options->backbone.depth; block++) {
            const struct block_depth *depth = &c->backbone.depths[block];
            const struct block_kept *kept[2] = {&depth->attention, &depth->mlp};
            for (int k = 0; k < 2; k++)
                *left += kept[k]->shift != NULL ? c->backbone.n_tokens - kept[k]->n_rows : 0;
        }
    }
    assert_int_equal(classifier_update(c), STATUS_OK);
    assert_int_equal(classifier_result(c, 0, &result), STATUS_OK);
    assert_true(c->table.n_elements <= MOST);
    memset(out, 0, MOST * sizeof(float));
    memcpy(out, c->gradients, (size_t)c->table.n_elements * sizeof(float));
    close_scene(&s);
    return result.loss;
}

static void what_is_dropped_can_be_left_out(const struct classifier_options *base)
{
    static float plain[MOST], skipped[MOST];
    struct classifier_options o = *base;
    int64_t left;

    o.backbone.drop_path = 0.6f;
    o.accumulation_steps = 3;
    double loss = step_gradients(&o, plain, &left);
    assert_int_equal(left, 0);
    for (int level = RECOMPUTE_NONE; level <= RECOMPUTE_BLOCKS; level++) {
        double largest = 0.0, worst = 0.0;
        o.skip_dropped = true;
        o.recompute = (enum recompute)level;
        double other = step_gradients(&o, skipped, &left);
        assert_true(left > 0);
        assert_near(other, loss, 1e-5 * fabs(loss));
        for (int i = 0; i < MOST; i++) {
            double error = fabs((double)skipped[i] - (double)plain[i]);
            largest = fabs((double)plain[i]) > largest ? fabs((double)plain[i]) : largest;
            worst = error > worst ? error : worst;
        }
        if (!(largest > 0.0 && worst <= 1e-5 * largest))
            fail_msg("recompute %d: gradients are %g of the largest away", level, worst / largest);
    }
}

static void what_is_dropped_can_be_left_out_of_images(void **state)
{
    struct classifier_options o = options_of(false, POOLING_CLS, 0);

    (void)state;
    o.backbone.depth = 4;
    what_is_dropped_can_be_left_out(&o);
    o = options_of(false, POOLING_MEAN, 1);
    o.backbone.depth = 4;
    what_is_dropped_can_be_left_out(&o);
}

static void what_is_dropped_can_be_left_out_of_pixels(void **state)
{
    struct classifier_options o = options_of(false, POOLING_CLS, 0);

    (void)state;
    o.backbone.depth = 4;
    o.smoothing = 0.0f;
    o.taps = (struct classifier_taps){.n = 3, .blocks = {0, 2, 3}, .normed = true};
    what_is_dropped_can_be_left_out(&o);
}

/* ------------------------------------------------------------------------------ layers */

static void learning_rates_fall_towards_the_input(void **state)
{
    struct classifier_options o = {.layer_decay = 0.65f};
    const struct {
        const char *name;
        int32_t vit_small, swin_tiny;
    } rows[] = {
        {"backbone.cls_token", 0, 0},
        {"backbone.pos_embed", 0, 0},
        {"backbone.patch_embed.proj.weight", 0, 0},
        {"backbone.patch_embed.norm.bias", 0, 0},
        {"backbone.blocks.0.norm1.weight", 1, -1},
        {"backbone.blocks.1.attn.qkv.bias", 2, -1},
        {"backbone.blocks.11.mlp.fc2.weight", 12, -1},
        {"backbone.layers.0.blocks.0.norm1.weight", -1, 1},
        {"backbone.layers.0.blocks.1.attn.relative_position_bias_table", -1, 2},
        {"backbone.layers.0.downsample.reduction.weight", -1, 2},
        {"backbone.layers.1.blocks.0.attn.qkv.weight", -1, 3},
        {"backbone.layers.1.downsample.norm.weight", -1, 4},
        {"backbone.layers.2.blocks.5.mlp.fc1.bias", -1, 10},
        {"backbone.layers.2.downsample.reduction.weight", -1, 10},
        {"backbone.layers.3.blocks.1.norm2.bias", -1, 12},
        {"backbone.norm.weight", 13, 13},
        {"fc_norm.bias", 13, 13},
        {"head.mlp.0.weight", 13, 13},
        {"head.weight", 13, 13},
    };

    (void)state;
    for (int swin = 0; swin < 2; swin++) {
        assert_int_equal(backbone_options_for(&o.backbone, swin ? "swin_tiny" : "vit_small"),
                         STATUS_OK);
        for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
            int32_t wanted = swin ? rows[i].swin_tiny : rows[i].vit_small;
            if (wanted < 0)
                continue;
            assert_int_equal(classifier_layer(&o.backbone, rows[i].name), wanted);
            assert_near(classifier_lr_scale(&o, rows[i].name), pow(0.65, 13 - wanted), 1e-6);
        }
    }
    /* BEiT's own numbers for 12 blocks at 0.65: the patch embedding 0.0037, the last block 0.65 */
    assert_near(classifier_lr_scale(&o, "backbone.pos_embed"), 0.00369720, 1e-7);
    assert_near(classifier_lr_scale(&o, "backbone.layers.3.blocks.1.norm1.bias"), 0.65, 1e-7);
}

static void tokens_positions_and_vectors_do_not_decay(void **state)
{
    struct classifier_options o = options_of(false, POOLING_MEAN, 1);
    struct param_table table;
    size_t n_decayed = 0;

    (void)state;
    o.head.n_layers = 1;
    assert_int_equal(param_table_init_classifier(&table, &o), STATUS_OK);
    for (size_t i = 0; i < table.n_params; i++) {
        const struct param *param = &table.params[i];
        bool matrix = strstr(param->name, "weight") != NULL && strstr(param->name, "norm") == NULL;
        if (matrix != ((param->flags & SEGMENT_DECAY) != 0))
            fail_msg("%s decays, or should", param->name);
        n_decayed += matrix;
    }
    assert_int_equal(n_decayed, 1 + 2 * 4 + 2);
    assert_true(param_find(&table, "backbone.norm.weight") < 0); /* pooling has its own */
    assert_true(param_find(&table, "fc_norm.weight") >= 0);
    param_table_release(&table);
}

/* ------------------------------------------------------------------------------ the rest */

static void step_once(struct scene *s, int step)
{
    struct classifier_input input = hard_input(s);
    struct step_control control = {.lr = 1e-3f, .teacher_momentum = 0.9f, .step = step};

    input.step = step;
    assert_int_equal(classifier_zero_gradients(s->classifier), STATUS_OK);
    assert_int_equal(classifier_accumulate(s->classifier, &input, &control), STATUS_OK);
    assert_int_equal(classifier_update(s->classifier), STATUS_OK);
}

static void evaluation_leaves_no_trace_and_takes_fewer_images(void **state)
{
    struct classifier_options o = options_of(false, POOLING_CLS, 1);
    struct classifier_score all = {0}, three = {0};
    float logits[B * K], some[B * K];
    static struct scene s;

    (void)state;
    o.backbone.drop_path = 0.5f;
    o.average = true;
    open_scene(&s, &o);
    fill_random(s.pixels, B * IMAGE, 8);
    step_once(&s, 0);
    struct tensor pixels = pixels_of(&s);
    assert_int_equal(classifier_evaluate(s.classifier, pixels, labels, &all, logits), STATUS_OK);
    pixels.shape[0] = B - 1;
    assert_int_equal(classifier_evaluate(s.classifier, pixels, labels, &three, some), STATUS_OK);
    assert_int_equal(all.n, B);
    assert_int_equal(three.n, B - 1);
    assert_int_equal(all.top5, B); /* of five classes */
    assert_memory_equal(logits, some, (B - 1) * K * sizeof(float));
    step_once(&s, 1); /* the same as without the evaluations: below */
    struct classifier *c = s.classifier;
    size_t bytes = (size_t)c->table.n_elements * sizeof(float);
    float *weights;
    assert_int_equal(memory_alloc(&weights, bytes, 1, "weights"), STATUS_OK);
    memcpy(weights, c->parameters, bytes);
    close_scene(&s);

    open_scene(&s, &o);
    c = s.classifier;
    fill_random(s.pixels, B * IMAGE, 8);
    step_once(&s, 0);
    assert_int_equal(classifier_exchange_average(c), STATUS_OK);
    struct classifier_score average = {0};
    pixels = pixels_of(&s);
    assert_int_equal(classifier_evaluate(c, pixels, labels, &average, some), STATUS_OK);
    assert_memory_not_equal(logits, some, sizeof(logits));
    assert_int_equal(classifier_exchange_average(c), STATUS_OK);
    step_once(&s, 1);
    assert_memory_equal(c->parameters, weights, bytes);
    memory_free(weights);
    close_scene(&s);
}

static void what_is_not_finite_changes_nothing_and_is_told(void **state)
{
    struct classifier_options o = options_of(true, POOLING_MEAN, 0);
    struct classifier_result result;
    static struct scene s;
    float *before;

    (void)state;
    open_scene(&s, &o);
    struct classifier *c = s.classifier;
    size_t bytes = (size_t)c->table.n_elements * sizeof(float);
    fill_random(s.pixels, B * IMAGE, 8);
    s.pixels[100] = NAN;
    assert_int_equal(memory_alloc(&before, bytes, 1, "weights"), STATUS_OK);
    memcpy(before, c->parameters, bytes);
    step_once(&s, 0);
    assert_int_equal(classifier_result(c, 0, &result), STATUS_NOT_FINITE);
    assert_memory_equal(before, c->parameters, bytes);
    memory_free(before);
    close_scene(&s);
}

static void expect_refused(const struct classifier_options *o, const char *wanted)
{
    struct classifier *c;
    struct device device;

    assert_int_equal(device_open_cpu(&device, 1), STATUS_OK);
    assert_int_not_equal(classifier_open(&c, &device, &op_table_cpu, o), STATUS_OK);
    if (strstr(status_message(), wanted) == NULL)
        fail_msg("'%s' says nothing of '%s'", status_message(), wanted);
    assert_null(c);
    device_close(&device);
}

static void options_that_contradict_are_refused(void **state)
{
    struct classifier_options o = options_of(false, POOLING_CLS, 0);

    (void)state;
    o.n_classes = 0;
    expect_refused(&o, "classes");
    o = options_of(false, POOLING_CLS, 4);
    expect_refused(&o, "layers of the head");
    o = options_of(false, POOLING_CLS, 1);
    o.head.norm = HEAD_NORM_BN;
    expect_refused(&o, "batch norm");
    o = options_of(false, POOLING_CLS, 0);
    o.image_size_px = 4;
    expect_refused(&o, "4 px");
    o.image_size_px = SIDE;
    o.layer_decay = 0.0f;
    expect_refused(&o, "layer_decay");
    o.layer_decay = 1.0f;
    o.smoothing = 1.0f;
    expect_refused(&o, "smoothing");
}

/* A step in bf16 on a device that queues: near that of float32, and again the same bits. */
static void bf16_is_near(void **state)
{
    struct classifier_options o = options_of(false, POOLING_MEAN, 3);
    struct classifier_result result;
    struct device device;
    struct classifier *c;
    double losses[3];
    static struct scene s;

    (void)state;
    for (int run = 0; run < 3; run++) {
        o.precision = run > 0 ? PRECISION_BF16 : PRECISION_F32;
        assert_int_equal(queued_device_open(&device, 2), STATUS_OK);
        if (classifier_open(&c, &device, &op_table_queued, &o) != STATUS_OK)
            fail_msg("%s", status_message());
        assert_int_equal(classifier_initialise(c, 5), STATUS_OK);
        fill_random(s.pixels, B * IMAGE, 8);
        for (int step = 0; step < 3; step++) {
            struct classifier_input input = hard_input(&s);
            struct step_control control = {.lr = 1e-3f, .step = step};
            assert_int_equal(classifier_zero_gradients(c), STATUS_OK);
            assert_int_equal(classifier_accumulate(c, &input, &control), STATUS_OK);
            assert_int_equal(classifier_update(c), STATUS_OK);
            if (step > 0) /* of the step before, while this one is under way */
                assert_int_equal(classifier_result(c, 1, &result), STATUS_OK);
        }
        assert_int_equal(classifier_result(c, 0, &result), STATUS_OK);
        losses[run] = result.loss;
        assert_int_equal(device.synchronize(&device), STATUS_OK);
        classifier_close(&c);
        device_close(&device);
    }
    assert_near(losses[1], losses[0], 0.02 * losses[0]);
    assert_true(losses[1] == losses[2] && losses[1] != losses[0]);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(gradients_are_those_of_the_loss),
        cmocka_unit_test(what_is_dropped_can_be_left_out_of_images),
        cmocka_unit_test(what_is_dropped_can_be_left_out_of_pixels),
        cmocka_unit_test(learning_rates_fall_towards_the_input),
        cmocka_unit_test(tokens_positions_and_vectors_do_not_decay),
        cmocka_unit_test(evaluation_leaves_no_trace_and_takes_fewer_images),
        cmocka_unit_test(what_is_not_finite_changes_nothing_and_is_told),
        cmocka_unit_test(options_that_contradict_are_refused),
        cmocka_unit_test(bf16_is_near),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
