/* recompute_test [cpu|queued|cuda|cuda_emulated [f32|bf16|bf16_stream]]: a backward that makes
 * again what was not kept gives the same bits, and the memory that was promised. Exit status 77: no
 * such device.
 */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#include "tests/trainer/model_backend.h"
#include "tests/trainer/model_fixture.h"

enum { B = 2, G = 2, L = 2, CELLS = 16, STEPS = 3 };

static struct model_backend backend;

static void open_model(struct model_fixture *f, const struct ibot_options *o)
{
    memset(f, 0, sizeof(*f));
    collective_open_alone(&f->collective);
    if (model_backend_open(&backend, &f->device) != STATUS_OK ||
        ibot_open(&f->ibot, &f->device, backend.ops, &f->collective, o) != STATUS_OK)
        fail_msg("%s", status_message());
}

/* Gradients of the student, of a few steps that move the weights in between. */
static void train(struct model_fixture *f, float *gradients)
{
    static float globals[G * B * 3 * 32 * 32], locals[L * B * 3 * 16 * 16];
    static uint8_t masks[G * B * CELLS];
    struct ibot *ibot = f->ibot;
    struct ibot_result result;
    size_t n = (size_t)ibot->student.table.n_elements;
    struct ibot_input input = {
        .globals = {globals, DTYPE_F32, 4, {G * B, 3, 32, 32}},
        .locals = {locals, DTYPE_F32, 4, {L * B, 3, 16, 16}},
        .masks = masks,
        .keep_seed = 3,
    };
    void *globals_in, *locals_in;

    assert_int_equal(f->device.alloc(&f->device, &globals_in, sizeof(globals), "t"), STATUS_OK);
    assert_int_equal(f->device.alloc(&f->device, &locals_in, sizeof(locals), "t"), STATUS_OK);
    input.globals.data = globals_in;
    input.locals.data = locals_in;
    assert_int_equal(ibot_initialise(ibot, 1), STATUS_OK);
    for (int step = 0; step < STEPS; step++) {
        struct step_control control = plain_control(1e-2, step);
        fill_wave(globals, (int64_t)(sizeof(globals) / sizeof(float)), 3.0 * step);
        fill_wave(locals, (int64_t)(sizeof(locals) / sizeof(float)), 3.0 * step + 1.0);
        for (int i = 0; i < G * B * CELLS; i++)
            masks[i] = (i * 7 + step) % 5 < 2;
        input.step = step;
        assert_int_equal(f->device.copy_in(&f->device, globals_in, globals, sizeof(globals)),
                         STATUS_OK);
        assert_int_equal(f->device.copy_in(&f->device, locals_in, locals, sizeof(locals)),
                         STATUS_OK);
        assert_int_equal(ibot_zero_gradients(ibot), STATUS_OK);
        assert_int_equal(ibot_accumulate(ibot, &input, &control), STATUS_OK);
        assert_int_equal(f->device.copy_out(&f->device, gradients + (size_t)step * n,
                                            ibot->gradients, n * sizeof(float)),
                         STATUS_OK);
        assert_int_equal(ibot_update(ibot), STATUS_OK);
        assert_int_equal(ibot_result(ibot, &result), STATUS_OK);
    }
    f->device.free(&f->device, globals_in);
    f->device.free(&f->device, locals_in);
}

/* What is the same, and when it is not, how nearly. */
static void expect_same_gradients(const struct ibot_options *base, enum recompute level)
{
    static float wanted[STEPS * 200000], got[STEPS * 200000];
    struct ibot_options o = *base;
    struct model_fixture plain, again;

    o.precision = backend.precision;
    o.residual_stream = backend.stream;
    open_model(&plain, &o);
    o.recompute = level;
    open_model(&again, &o);
    size_t n = (size_t)plain.ibot->student.table.n_elements;
    assert_true(n <= 200000);
    train(&plain, wanted);
    train(&again, got);
    /* hidden activations, made again of what was stored, are those of a product of its own only
     * nearly when it rounds after its GELU, or has a fused one: gradients of the first step */
    bool fused = o.gelu_tanh && strncmp(backend.name, "cuda", 4) == 0;
    bool nearly = level != RECOMPUTE_BLOCKS && (backend.precision == PRECISION_BF16 || fused);
    if (nearly)
        assert_near(relative_error(got, wanted, (int64_t)n), 0.0,
                    backend.precision == PRECISION_BF16 ? 4e-3 : 1e-6);
    else
        assert_memory_equal(got, wanted, STEPS * n * sizeof(float));
    assert_true(absolute_sum(wanted, (int64_t)n) > 0.0);
    assert_true(ibot_device_bytes(again.ibot) < ibot_device_bytes(plain.ibot));
    model_fixture_close(&plain);
    model_fixture_close(&again);
}

static struct ibot_options vit(void)
{
    struct ibot_options o = model_options_small();

    o.backbone.depth = 3;
    o.backbone.drop_path = 0.4f;
    return o;
}

static void a_vit_that_computes_again_has_the_same_gradients(void **state)
{
    (void)state;
    for (enum recompute level = RECOMPUTE_GELU; level <= RECOMPUTE_BLOCKS; level++) {
        struct ibot_options o = vit();
        expect_same_gradients(&o, level);
        o.record_steps = true;
        o.gelu_tanh = true;
        expect_same_gradients(&o, level);
    }
}

/* What stochastic depth drops is multiplied by 0, or not made at all. In half precision products
 * of fewer rows may round otherwise. */
static void expect_nearly_same_gradients(struct ibot_options o, enum recompute level)
{
    static float wanted[STEPS * 300000], got[STEPS * 300000];
    struct model_fixture all, kept;
    bool half = backend.precision == PRECISION_BF16;

    o.precision = backend.precision;
    o.residual_stream = backend.stream;
    open_model(&all, &o);
    o.skip_dropped = true;
    o.recompute = level;
    open_model(&kept, &o);
    size_t n = (size_t)all.ibot->student.table.n_elements;
    assert_true(n <= 300000);
    train(&all, wanted);
    train(&kept, got);
    for (int step = 0; step < STEPS; step++) {
        double error =
            relative_error(got + (size_t)step * n, wanted + (size_t)step * n, (int64_t)n);
        double most = !half ? 1e-5 : step == 0 ? 4e-3 : 3e-2; /* weights differ by then */
        if (!(error < most))
            fail_msg("gradients of step %d differ by %g", step, error);
    }
    assert_true(absolute_sum(wanted, (int64_t)n) > 0.0);
    const struct block_depth *depths = kept.ibot->student.vit.depths;
    bool skipped = false;
    for (int32_t i = 0; i < o.backbone.depth; i++)
        skipped |= depths[i].attention.shift != NULL || depths[i].mlp.shift != NULL;
    assert_true(skipped || o.backbone.drop_path > 0.9f);
    model_fixture_close(&all);
    model_fixture_close(&kept);
}

static void a_vit_that_skips_what_is_dropped_has_the_same_gradients(void **state)
{
    struct ibot_options o = vit();

    (void)state;
    o.backbone.depth = 5; /* several blocks behind each other leave out others */
    o.backbone.drop_path = 0.7f;
    for (enum recompute level = RECOMPUTE_NONE; level <= RECOMPUTE_BLOCKS; level++)
        expect_nearly_same_gradients(o, level);
    o.gelu_tanh = true;
    o.record_steps = true; /* the rest of the step */
    o.weights_apart = true;
    expect_nearly_same_gradients(o, RECOMPUTE_NONE);
    o.backbone.drop_path = 0.99f; /* branches without any sample */
    expect_nearly_same_gradients(o, RECOMPUTE_NONE);
    o.head.norm = HEAD_NORM_BN; /* all rows in the last block */
    expect_nearly_same_gradients(o, RECOMPUTE_BLOCKS);
}

static void a_swin_that_computes_again_has_the_same_gradients(void **state)
{
    (void)state;
    for (enum recompute level = RECOMPUTE_GELU; level <= RECOMPUTE_BLOCKS; level++) {
        struct ibot_options o = model_options_small_swin();
        o.backbone.drop_path = 0.4f;
        expect_same_gradients(&o, level);
    }
}

/* Sizes are multiples of 256 bytes, as the plan's are. */
static size_t bytes_of(struct ibot_options o, enum recompute level)
{
    struct model_fixture f;

    o.precision = backend.precision;
    o.residual_stream = backend.stream;
    o.recompute = level;
    open_model(&f, &o);
    size_t bytes = ibot_device_bytes(f.ibot);
    model_fixture_close(&f);
    return bytes;
}

static void each_level_frees_what_it_says(void **state)
{
    struct ibot_options o = vit();
    size_t tokens, size = backend.precision == PRECISION_F32 ? 4 : 2, width = 64;
    size_t of_stream = backend.stream == PRECISION_F32 ? 4 : 2;

    (void)state;
    o.backbone.embed_dim = (int32_t)width;
    o.batch_size = 16;
    tokens = 16 * (2 * 17 + 2 * 5);
    size_t others = (size_t)o.backbone.depth - 1, row = width * size;
    size_t none = bytes_of(o, RECOMPUTE_NONE);
    assert_int_equal(none - bytes_of(o, RECOMPUTE_GELU), others * tokens * 4 * row);
    assert_int_equal(none - bytes_of(o, RECOMPUTE_NORMS), others * tokens * 6 * row);
    /* qkv, attention, pre; sum1; lse of two heads, mean and rstd of the second norm */
    assert_int_equal(none - bytes_of(o, RECOMPUTE_BLOCKS),
                     others * tokens * (14 * row + of_stream * width + 4 * 2 + 4 * 2));
}

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_vit_that_computes_again_has_the_same_gradients),
        cmocka_unit_test(a_vit_that_skips_what_is_dropped_has_the_same_gradients),
        cmocka_unit_test(a_swin_that_computes_again_has_the_same_gradients),
        cmocka_unit_test(each_level_frees_what_it_says),
    };
    int leave = model_backend_choose(&backend, argc, argv);

    return leave != 0 ? leave : cmocka_run_group_tests_name(backend.name, tests, NULL, NULL);
}
