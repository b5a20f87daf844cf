/* Tokens, [CLS] attention and prototypes against the ops and logits that training has. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <string.h>

#include <cmocka.h>

#include "tests/trainer/model_fixture.h"
#include "trainer/model/ibot_tokens.h"

enum { SIDE = 32, N_IMAGES = 2, N_PIXELS = N_IMAGES * 3 * SIDE * SIDE, MOST = 1 << 16 };

static float pixels[N_PIXELS];

static struct tensor images(void)
{
    fill_wave(pixels, N_PIXELS, 0.1);
    return (struct tensor){pixels, DTYPE_F32, 4, {N_IMAGES, 3, SIDE, SIDE}};
}

/* One global crop, so that a batch of the fixture is the two images. */
static struct ibot_options one_crop(struct ibot_options o)
{
    o.n_global = 1;
    o.n_local = 0;
    o.batch_size = N_IMAGES;
    return o;
}

static void the_cls_row_is_that_of_the_whole_map(void **state)
{
    static float row[N_IMAGES * 2 * 17], map[N_IMAGES * 2 * 17 * 17];
    struct ibot_options o = one_crop(model_options_small());
    struct ibot_tokens out = {.attention = row};
    struct model_fixture f;

    (void)state;
    model_fixture_open(&f, &o);
    fill_model(f.ibot);
    assert_int_equal(ibot_tokens(f.ibot, images(), &out), STATUS_OK);
    struct vit *vit = &f.ibot->teacher.vit;
    struct attention_map_args args = {
        .qkv = shaped(vit->states[1].qkv, vit->pass.n_tokens, 96),
        .map = {map, DTYPE_F32, 4, {N_IMAGES, 2, 17, 17}},
        .group = vit->pass.groups[0],
        .n_heads = 2,
    };
    assert_int_equal(op_table_cpu.attention_map(&f.device, &args), STATUS_OK);
    for (int i = 0; i < N_IMAGES * 2; i++) {
        assert_near(sum_of(row + i * 17, 17), 1.0, 1e-6);
        for (int t = 0; t < 17; t++)
            assert_near((double)row[i * 17 + t], (double)map[i * 17 * 17 + t], 1e-6);
    }
    model_fixture_close(&f);
}

static void cls_tokens_are_the_features_of_evaluation(struct ibot_options o, int64_t length)
{
    static float tokens[MOST], features[N_IMAGES * 64];
    struct ibot_feature_options one = {.n_last_blocks = 1};
    struct ibot_tokens out = {.tokens = tokens};
    struct model_fixture f;

    model_fixture_open(&f, &o);
    fill_model(f.ibot);
    int32_t d = ibot_feature_dim(f.ibot, &one);
    assert_int_equal(ibot_features(f.ibot, images(), &one, features), STATUS_OK);
    assert_int_equal(ibot_tokens(f.ibot, images(), &out), STATUS_OK);
    for (int64_t i = 0; i < N_IMAGES; i++)
        assert_true(relative_error(tokens + i * length * d, features + i * d, d) < 1e-5);
    model_fixture_close(&f);
}

static void tokens_of_a_vit_begin_with_its_features(void **state)
{
    (void)state;
    cls_tokens_are_the_features_of_evaluation(one_crop(model_options_small()), 17);
}

static void tokens_of_a_swin_begin_with_its_features(void **state)
{
    (void)state;
    cls_tokens_are_the_features_of_evaluation(one_crop(model_options_small_swin()), 17);
}

static void a_swin_has_no_cls_attention(void **state)
{
    static float row[MOST];
    struct ibot_options o = one_crop(model_options_small_swin());
    struct ibot_tokens out = {.attention = row};
    struct model_fixture f;

    (void)state;
    model_fixture_open(&f, &o);
    assert_int_equal(ibot_tokens(f.ibot, images(), &out), STATUS_UNSUPPORTED);
    assert_non_null(strstr(status_message(), "no [CLS] token"));
    model_fixture_close(&f);
}

static void images_of_another_size_are_refused(void **state)
{
    static float row[MOST];
    struct ibot_options o = one_crop(model_options_small());
    struct ibot_tokens out = {.attention = row};
    struct tensor small = {pixels, DTYPE_F32, 4, {1, 3, 16, 16}};
    struct tensor many = {pixels, DTYPE_F32, 4, {3, 3, 32, 32}};
    struct model_fixture f;

    (void)state;
    model_fixture_open(&f, &o);
    assert_int_equal(ibot_tokens(f.ibot, small, &out), STATUS_INVALID);
    assert_int_equal(ibot_tokens(f.ibot, many, &out), STATUS_INVALID);
    model_fixture_close(&f);
}

/* Frozen: rectangles through PyTorch's layers with the same weights (conv2d, layer_norm,
 * scaled_dot_product_attention, gelu, interpolate with scale factors of 3.1/4 and 5.1/4). */
static void rectangles_are_as_pytorch_makes_them(void **state)
{
    enum { HEIGHT = 24, WIDTH = 40, LENGTH = 16, D = 32, N = 2 * 3 * HEIGHT * WIDTH };
    static const struct {
        int image, token, channel;
        double value;
    } wanted[] = {
        {0, 0, 0, 0.8110057},    {0, 1, 5, 0.3448282},    {0, 5, 31, -0.1340969},
        {0, 6, 2, 0.3818590},    {0, 15, 17, 0.5532693},  {1, 3, 9, 0.3625690},
        {1, 11, 24, -0.4294498}, {1, 15, 31, -0.5805349},
    };
    static float input[N], tokens[2 * LENGTH * D];
    struct ibot_options o = one_crop(model_options_small());
    struct ibot_tokens out = {.tokens = tokens};
    struct tensor rectangles = {input, DTYPE_F32, 4, {2, 3, HEIGHT, WIDTH}};
    struct tensor turned = {input, DTYPE_F32, 4, {2, 3, WIDTH, HEIGHT}};
    struct model_fixture f;

    (void)state;
    o.inference_only = true;
    o.global_size_px = HEIGHT;
    o.global_width_px = WIDTH;
    model_fixture_open(&f, &o);
    fill_model(f.ibot);
    for (int64_t k = 0; k < N; k++)
        input[k] = (float)sin(0.002 * (double)(k % 4001) * (double)(k % 4001));
    assert_int_equal(ibot_tokens(f.ibot, rectangles, &out), STATUS_OK);
    for (size_t i = 0; i < sizeof(wanted) / sizeof(wanted[0]); i++) {
        int64_t at = (wanted[i].image * LENGTH + wanted[i].token) * D + wanted[i].channel;
        assert_near((double)tokens[at], wanted[i].value, 1e-5);
    }
    assert_int_equal(ibot_tokens(f.ibot, turned, &out), STATUS_INVALID);
    model_fixture_close(&f);
}

/* The greatest of K logits of each row, as training's own path makes them. */
static void prototypes_are_those_of_the_logits(bool patch, bool shared)
{
    static float logits[MOST], value[N_IMAGES * 16];
    static int32_t index[N_IMAGES * 16];
    struct ibot_options o = one_crop(model_options_small());
    struct ibot_prototypes out = {.patch = patch, .index = index, .value = value};
    int64_t n = patch ? N_IMAGES * 16 : N_IMAGES, k = o.head.out_dim;
    struct model_fixture f;

    o.head.shared_student = o.head.shared_teacher = shared;
    model_fixture_open(&f, &o);
    fill_model(f.ibot);
    assert_int_equal(ibot_prototypes(f.ibot, images(), &out), STATUS_OK);
    assert_int_equal(
        ibot_logits(f.ibot, patch ? IBOT_TEACHER_PATCH : IBOT_TEACHER_CLS, logits, (size_t)(n * k)),
        STATUS_OK);
    for (int64_t i = 0; i < n; i++) {
        const float *row = logits + i * k;
        assert_near((double)value[i], (double)row[index[i]], 1e-6);
        for (int64_t j = 0; j < k; j++)
            assert_true(row[j] <= row[index[i]] || (double)row[j] - (double)row[index[i]] < 1e-6);
    }
    model_fixture_close(&f);
}

static void patch_and_cls_tokens_get_the_prototypes_of_their_logits(void **state)
{
    (void)state;
    prototypes_are_those_of_the_logits(true, true);
    prototypes_are_those_of_the_logits(true, false);
    prototypes_are_those_of_the_logits(false, true);
    prototypes_are_those_of_the_logits(false, false);
}

static void a_head_with_batch_norm_has_no_prototypes_of_one_image(void **state)
{
    static float value[MOST];
    static int32_t index[MOST];
    struct ibot_options o = one_crop(model_options_small());
    struct ibot_prototypes out = {.index = index, .value = value};
    struct model_fixture f;

    (void)state;
    o.head.norm = HEAD_NORM_BN;
    model_fixture_open(&f, &o);
    assert_int_equal(ibot_prototypes(f.ibot, images(), &out), STATUS_UNSUPPORTED);
    model_fixture_close(&f);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_cls_row_is_that_of_the_whole_map),
        cmocka_unit_test(tokens_of_a_vit_begin_with_its_features),
        cmocka_unit_test(tokens_of_a_swin_begin_with_its_features),
        cmocka_unit_test(a_swin_has_no_cls_attention),
        cmocka_unit_test(images_of_another_size_are_refused),
        cmocka_unit_test(rectangles_are_as_pytorch_makes_them),
        cmocka_unit_test(patch_and_cls_tokens_get_the_prototypes_of_their_logits),
        cmocka_unit_test(a_head_with_batch_norm_has_no_prototypes_of_one_image),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
