/* The Swin backbone: against the tables of the reference, its windows, its features, its names. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "proto/base/memory.h"
#include "tests/trainer/model_fixture.h"

static const double sum_tolerance = 3e-4, value_tolerance = 5e-6;

enum { F = 32, LARGE = 32, SMALL = 20 };

/* A student with two 32-px images and two 20-px images in one pass. */
static void open_filled(struct model_fixture *f)
{
    static float pixels[2 * 3 * LARGE * LARGE];
    struct ibot_options o = model_options_small_swin();

    o.n_global = o.n_local = 1;
    o.local_size_px = SMALL;
    model_fixture_open(f, &o);
    fill_model(f->ibot);
    fill_wave(pixels, 2 * 3 * LARGE * LARGE, 0.1);
    struct tensor images = {pixels, DTYPE_F32, 4, {2, 3, LARGE, LARGE}};
    assert_int_equal(ibot_patchify(f->ibot, images, f->ibot->patches[0]), STATUS_OK);
    fill_wave(pixels, 2 * 3 * SMALL * SMALL, 0.2);
    images = (struct tensor){pixels, DTYPE_F32, 4, {2, 3, SMALL, SMALL}};
    assert_int_equal(ibot_patchify(f->ibot, images, f->ibot->patches[1]), STATUS_OK);
}

/* What the reference prints for one case. */
struct expected {
    int64_t first_row, n_rows;
    double sum, absolute, first[4], last[2];
};

static void check(const struct backbone *backbone, const struct expected *e)
{
    int64_t n = e->n_rows * F;
    const float *y = (const float *)backbone->features.data + e->first_row * F;

    assert_near(sum_of(y, n), e->sum, sum_tolerance);
    assert_near(absolute_sum(y, n), e->absolute, sum_tolerance);
    for (int i = 0; i < 4; i++)
        assert_near((double)y[i], e->first[i], value_tolerance);
    for (int i = 0; i < 2; i++)
        assert_near((double)y[n - 2 + i], e->last[i], value_tolerance);
}

static void masked_images_give_the_reference_features(void **state)
{
    struct model_fixture f;

    (void)state;
    open_filled(&f);
    memset(f.ibot->tables.mask, 0, 32);
    f.ibot->tables.mask[1] = 1; /* image 0, cell (0, 1) */
    assert_int_equal(backbone_forward(&f.ibot->student.backbone, f.ibot->tables.mask), STATUS_OK);
    check(&f.ibot->student.backbone, &(struct expected){0,
                                                        34,
                                                        4.594363,
                                                        906.663620,
                                                        {1.187406, -0.958785, 0.306657, 0.004287},
                                                        {1.238047, -0.451250}});
    model_fixture_close(&f);
}

static void unmasked_images_give_the_reference_features(void **state)
{
    struct model_fixture f;

    (void)state;
    open_filled(&f);
    assert_int_equal(backbone_forward(&f.ibot->student.backbone, NULL), STATUS_OK);
    check(&f.ibot->student.backbone, &(struct expected){0,
                                                        34,
                                                        4.572766,
                                                        912.635018,
                                                        {1.182795, -0.979356, 0.444664, -0.045455},
                                                        {1.238047, -0.451250}});
    model_fixture_close(&f);
}

/* Maps of 5 x 5 and 3 x 3: windows are padded, merging meets an odd side. */
static void maps_that_no_window_divides_are_padded(void **state)
{
    struct model_fixture f;

    (void)state;
    open_filled(&f);
    assert_int_equal(backbone_forward(&f.ibot->student.backbone, NULL), STATUS_OK);
    check(&f.ibot->student.backbone, &(struct expected){34,
                                                        20,
                                                        2.074835,
                                                        537.588295,
                                                        {1.116232, -0.938594, 0.233653, 0.030317},
                                                        {0.852279, -0.448715}});
    model_fixture_close(&f);
}

/* ------------------------------------------------------------------------------ windows */

static void expect_window(const struct backbone_options *o, int32_t stage, int32_t block,
                          int32_t side, int32_t shift)
{
    int32_t got_side, got_shift;

    swin_window(o, stage, block, &got_side, &got_shift);
    if (got_side != side || got_shift != shift)
        fail_msg("stage %d block %d: window %d shifted by %d, wanted %d and %d", stage, block,
                 got_side, got_shift, side, shift);
}

static void windows_are_those_of_the_original(void **state)
{
    struct backbone_options o;

    (void)state;
    assert_int_equal(backbone_options_for(&o, "swin_tiny"), STATUS_OK);
    for (int32_t stage = 0; stage < 4; stage++) {
        expect_window(&o, stage, 0, 7, 0);
        expect_window(&o, stage, 1, 7, stage < 3 ? 3 : 0);
    }
    o.window_size = 14;
    for (int32_t stage = 0; stage < 4; stage++) {
        expect_window(&o, stage, 0, stage < 3 ? 14 : 7, 0);
        expect_window(&o, stage, 1, stage < 3 ? 14 : 7, stage < 2 ? 7 : 0);
    }
    assert_int_equal(backbone_cell_px(&o), 32);
    assert_int_equal(backbone_grid(&o, 224), 7);
    assert_int_equal(backbone_grid(&o, 96), 3);
    assert_int_equal(backbone_grid(&o, 100), 4); /* 25, 13, 7, 4 */
    assert_int_equal(backbone_width(&o), 768);
}

/* ------------------------------------------------------------------------------ names */

static void parameters_are_named_and_ordered_as_in_the_original(void **state)
{
    static const char *const head[] = {
        "backbone.masked_embed",
        "backbone.patch_embed.proj.weight",
        "backbone.patch_embed.proj.bias",
        "backbone.patch_embed.norm.weight",
        "backbone.patch_embed.norm.bias",
        "backbone.layers.0.blocks.0.norm1.weight",
        "backbone.layers.0.blocks.0.norm1.bias",
        "backbone.layers.0.blocks.0.attn.relative_position_bias_table",
        "backbone.layers.0.blocks.0.attn.qkv.weight",
    };
    static const char *const tail[] = {
        "backbone.layers.0.downsample.reduction.weight",
        "backbone.layers.0.downsample.norm.weight",
        "backbone.layers.0.downsample.norm.bias",
        "backbone.layers.1.blocks.0.norm1.weight",
    };
    struct ibot_options o = model_options_small_swin();
    struct param_table table;

    (void)state;
    assert_int_equal(param_table_init(&table, &o, true), STATUS_OK);
    for (size_t i = 0; i < sizeof(head) / sizeof(head[0]); i++)
        assert_string_equal(table.params[i].name, head[i]);
    int64_t at = param_find(&table, tail[0]);
    assert_true(at > 0);
    for (size_t i = 0; i < sizeof(tail) / sizeof(tail[0]); i++)
        assert_string_equal(table.params[at + (int64_t)i].name, tail[i]);
    /* tables decay like any matrix; the windows of both stages are 4 wide */
    const struct param *bias = &table.params[7];
    assert_true(bias->rank == 2 && bias->shape[0] == 49 && bias->shape[1] == 2);
    assert_true((bias->flags & SEGMENT_DECAY) != 0);
    param_table_release(&table);
}

/* ------------------------------------------------------------------------------ features */

static void mean_rows(const float *tokens, int64_t n, int64_t d, float *out)
{
    for (int64_t j = 0; j < d; j++) {
        double sum = 0.0;
        for (int64_t t = 0; t < n; t++)
            sum += (double)tokens[t * d + j];
        out[j] = (float)(sum / (double)n);
    }
}

/* Two blocks of width 16 as they are, two of width 32 through the final norm. */
static void features_are_means_of_the_last_blocks(void **state)
{
    enum { N = 3, DIM = 16 + 16 + 32 + 32 };
    static float pixels[N * 3 * LARGE * LARGE], out[N * DIM], pooled[N * (DIM + 32)];
    struct ibot_options o = model_options_small_swin();
    struct ibot_feature_options all = {.n_last_blocks = 4}, last = {.n_last_blocks = 1};
    struct model_fixture f;
    float wanted[F];

    (void)state;
    o.inference_only = true;
    o.batch_size = 4; /* more than the images */
    o.n_global = 1;
    o.n_local = 0;
    model_fixture_open(&f, &o);
    fill_model(f.ibot);
    fill_random(pixels, N * 3 * LARGE * LARGE, 8);
    struct tensor images = {pixels, DTYPE_F32, 4, {N, 3, LARGE, LARGE}};
    struct swin *swin = &f.ibot->teacher.swin;

    assert_int_equal(ibot_feature_dim(f.ibot, &all), DIM);
    assert_int_equal(ibot_features(f.ibot, images, &all, out), STATUS_OK);
    /* the last block: [mean] of the whole forward */
    assert_int_equal(backbone_forward(&f.ibot->teacher.backbone, NULL), STATUS_OK);
    for (int i = 0; i < N; i++)
        assert_true(
            relative_error(out + i * DIM + 64,
                           (const float *)f.ibot->teacher.backbone.features.data + i * 17 * F,
                           F) < 1e-6);
    /* the last of stage 0, un-normed: what merging began with */
    for (int i = 0; i < N; i++) {
        mean_rows((const float *)swin->stages[0].end.data + i * 64 * 16, 64, 16, wanted);
        assert_true(relative_error(out + i * DIM + 16, wanted, 16) < 1e-6);
    }
    /* the first of stage 1: its stream through the final norm */
    assert_int_equal(swin_embed(swin, NULL), STATUS_OK);
    for (int32_t block = 0; block < 3; block++)
        assert_int_equal(swin_block(swin, block), STATUS_OK);
    assert_int_equal(swin_normed_stream(swin, swin_stream(swin, 2)), STATUS_OK);
    for (int i = 0; i < N; i++) {
        mean_rows((const float *)swin->final_y.data + i * 16 * F, 16, F, wanted);
        assert_true(relative_error(out + i * DIM + 32, wanted, F) < 1e-6);
    }

    assert_int_equal(ibot_feature_dim(f.ibot, &last), F);
    assert_int_equal(ibot_features(f.ibot, images, &last, pooled), STATUS_OK);
    for (int i = 0; i < N; i++)
        assert_memory_equal(pooled + i * F, out + i * DIM + 64, F * sizeof(float));
    last.avgpool = 1; /* the mean stands in for [CLS] anyway */
    assert_int_equal(ibot_features(f.ibot, images, &last, pooled), STATUS_OK);
    assert_memory_equal(pooled, out + 64, F * sizeof(float));
    all.avgpool = 2;
    assert_int_equal(ibot_feature_dim(f.ibot, &all), DIM + F);
    assert_int_equal(ibot_features(f.ibot, images, &all, pooled), STATUS_OK);
    assert_memory_equal(pooled + DIM, out + 64, F * sizeof(float));
    all.n_last_blocks = 5;
    assert_int_equal(ibot_features(f.ibot, images, &all, pooled), STATUS_INVALID);
    model_fixture_close(&f);
}

/* ------------------------------------------------------------------------------ limits */

static void expect_refused(struct model_fixture *f, const struct ibot_options *o, const char *text)
{
    struct ibot *ibot = NULL;

    assert_int_equal(ibot_open(&ibot, &f->device, &op_table_cpu, &f->collective, o),
                     STATUS_INVALID);
    if (strstr(status_message(), text) == NULL)
        fail_msg("no '%s' in '%s'", text, status_message());
}

static void impossible_options_are_refused(void **state)
{
    struct ibot_options good = model_options_small_swin(), bad = good;
    struct model_fixture f;

    (void)state;
    model_fixture_open(&f, &good);
    bad.backbone.n_stages = 5;
    expect_refused(&f, &bad, "5 stages");
    bad = good;
    bad.backbone.stage_heads[1] = 5;
    expect_refused(&f, &bad, "5 heads");
    bad = good;
    bad.backbone.depth = 3;
    expect_refused(&f, &bad, "depth 3");
    bad = good;
    bad.backbone.window_size = 0;
    expect_refused(&f, &bad, "window_size");
    bad = good;
    bad.backbone.image_size_px = 4;
    expect_refused(&f, &bad, "at least 8 px");
    bad = good;
    bad.global_size_px = 36;
    expect_refused(&f, &bad, "mask cells of 8 px");
    model_fixture_close(&f);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(masked_images_give_the_reference_features),
        cmocka_unit_test(unmasked_images_give_the_reference_features),
        cmocka_unit_test(maps_that_no_window_divides_are_padded),
        cmocka_unit_test(windows_are_those_of_the_original),
        cmocka_unit_test(parameters_are_named_and_ordered_as_in_the_original),
        cmocka_unit_test(features_are_means_of_the_last_blocks),
        cmocka_unit_test(impossible_options_are_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
