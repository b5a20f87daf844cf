/* The backbone alone, against the tables of the reference. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

#include "proto/base/memory.h"
#include "tests/trainer/model_fixture.h"

static const double sum_tolerance = 2e-4, value_tolerance = 5e-6;

/* What the reference prints for one case. */
struct expected {
    int64_t first_row, n_rows;
    double sum, absolute, first[4], last[2];
};

/* A student with two 32-px images and two 16-px images in one pass. */
static void open_filled(struct model_fixture *f)
{
    struct ibot_options o = model_options_small();
    float *pixels;

    o.n_global = o.n_local = 1;
    model_fixture_open(f, &o);
    fill_model(f->ibot);
    assert_int_equal(memory_alloc(&pixels, 2 * 3 * 32 * 32, sizeof(float), "pixels"), STATUS_OK);
    fill_wave(pixels, 2 * 3 * 32 * 32, 0.1);
    struct tensor images = {pixels, DTYPE_F32, 4, {2, 3, 32, 32}};
    assert_int_equal(ibot_patchify(f->ibot, images, f->ibot->patches[0]), STATUS_OK);
    fill_wave(pixels, 2 * 3 * 16 * 16, 0.2);
    images = (struct tensor){pixels, DTYPE_F32, 4, {2, 3, 16, 16}};
    assert_int_equal(ibot_patchify(f->ibot, images, f->ibot->patches[1]), STATUS_OK);
    memory_free(pixels);
}

static void check(const struct vit *vit, const struct expected *e)
{
    int64_t n = e->n_rows * 32;
    const float *y = (const float *)vit->features.data + e->first_row * 32;

    assert_near(sum_of(y, n), e->sum, sum_tolerance);
    assert_near(absolute_sum(y, n), e->absolute, sum_tolerance);
    for (int i = 0; i < 4; i++)
        assert_near((double)y[i], e->first[i], value_tolerance);
    for (int i = 0; i < 2; i++)
        assert_near((double)y[n - 2 + i], e->last[i], value_tolerance);
}

/* Image 0: rows 1-2, columns 0-1; image 1: cell (3, 3). */
static void fill_mask(uint8_t *mask)
{
    for (int i = 0; i < 32; i++)
        mask[i] = 0;
    for (int row = 1; row <= 2; row++)
        mask[4 * row] = mask[4 * row + 1] = 1;
    mask[16 + 15] = 1;
}

static void masked_images_give_the_reference_features(void **state)
{
    struct model_fixture f;

    (void)state;
    open_filled(&f);
    fill_mask(f.ibot->tables.mask);
    assert_int_equal(vit_forward(&f.ibot->student.vit, f.ibot->tables.mask), STATUS_OK);
    check(&f.ibot->student.vit, &(struct expected){0,
                                                   34,
                                                   7.324251,
                                                   883.753474,
                                                   {0.671706, 0.112035, 1.429119, 1.294576},
                                                   {0.265299, -0.122841}});
    model_fixture_close(&f);
}

static void unmasked_images_give_the_reference_features(void **state)
{
    struct model_fixture f;

    (void)state;
    open_filled(&f);
    assert_int_equal(vit_forward(&f.ibot->student.vit, NULL), STATUS_OK);
    check(&f.ibot->student.vit, &(struct expected){0,
                                                   34,
                                                   6.223872,
                                                   891.459802,
                                                   {0.872108, 0.294077, 1.475451, 1.247618},
                                                   {1.199631, -0.414189}});
    model_fixture_close(&f);
}

static void smaller_images_use_interpolated_positions(void **state)
{
    struct model_fixture f;

    (void)state;
    open_filled(&f);
    assert_int_equal(vit_forward(&f.ibot->student.vit, NULL), STATUS_OK);
    check(&f.ibot->student.vit, &(struct expected){34,
                                                   10,
                                                   2.213632,
                                                   262.488745,
                                                   {0.799465, 0.281101, 1.541864, 1.262202},
                                                   {0.509540, 0.470858}});
    model_fixture_close(&f);
}

static void the_last_attention_map_is_the_references(void **state)
{
    static float map[2 * 2 * 17 * 17];
    struct model_fixture f;

    (void)state;
    open_filled(&f);
    struct vit *vit = &f.ibot->student.vit;
    assert_int_equal(vit_forward(vit, NULL), STATUS_OK);
    struct attention_map_args args = {
        .qkv = shaped(vit->states[1].qkv, vit->pass.n_tokens, 96),
        .map = {map, DTYPE_F32, 4, {2, 2, 17, 17}},
        .group = vit->pass.groups[0],
        .n_heads = 2,
    };
    assert_int_equal(op_table_cpu.attention_map(&f.device, &args), STATUS_OK);
    static const double first[4] = {0.006551, 0.022479, 0.009315, 0.004985};
    for (int i = 0; i < 4; i++)
        assert_near((double)map[i], first[i], value_tolerance);
    assert_near((double)map[2 * 17 * 17 - 2], 0.078153, value_tolerance);
    assert_near((double)map[2 * 17 * 17 - 1], 0.060191, value_tolerance);
    assert_near(sum_of(map, 2 * 17 * 17), 34.0, sum_tolerance);
    model_fixture_close(&f);
}

static void drop_rates_rise_linearly_from_zero(void **state)
{
    struct backbone_options o = {.depth = 12, .drop_path = 0.1f};

    (void)state;
    assert_true(backbone_drop_rate(&o, 0) == 0.0f);
    assert_true(backbone_drop_rate(&o, 11) == 0.1f);
    for (int32_t i = 0; i < 12; i++)
        assert_near((double)backbone_drop_rate(&o, i), 0.1 * i / 11.0, 1e-8);
    o.depth = 1;
    assert_true(backbone_drop_rate(&o, 0) == 0.0f);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(masked_images_give_the_reference_features),
        cmocka_unit_test(unmasked_images_give_the_reference_features),
        cmocka_unit_test(smaller_images_use_interpolated_positions),
        cmocka_unit_test(the_last_attention_map_is_the_references),
        cmocka_unit_test(drop_rates_rise_linearly_from_zero),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
