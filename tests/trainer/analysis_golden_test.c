/* Analyses of two pictures by the network of golden/official_checkpoint.pth, against values that an
 * independent implementation in PyTorch computed in double (tests/data/golden/README.md). */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "tests/trainer/model_fixture.h"
#include "trainer/analysis/attention_map.h"
#include "trainer/analysis/correspondence.h"
#include "trainer/attention_mass.h"
#include "trainer/inference.h"

enum { SIZE = 56, GRID = 7, CELLS = GRID * GRID, HEADS = 3, WIDTH = 48, LENGTH = CELLS + 1 };

struct scene {
    struct safetensors golden;
    struct backend backend;
    struct inference model;
};

static const void *values(const struct scene *s, const char *name, enum dtype dtype, int64_t n)
{
    const struct safetensors_entry *entry = safetensors_find(&s->golden, name);

    if (entry == NULL || entry->tensor.dtype != dtype || tensor_n_elements(&entry->tensor) != n)
        fail_msg("no '%s' of %lld values in the golden file", name, (long long)n);
    return entry->tensor.data;
}

static int open_scene(void **state)
{
    static struct scene s;
    char path[1024], checkpoint[1024];
    const char *data = getenv("IBOT_TEST_DATA");

    assert_non_null(data);
    snprintf(path, sizeof(path), "%s/golden/analysis.safetensors", data);
    snprintf(checkpoint, sizeof(checkpoint), "%s/golden/official_checkpoint.pth", data);
    struct inference_options options = {.weights = {.path = checkpoint, .n_heads = HEADS},
                                        .batch_size = 2,
                                        .size_px = SIZE,
                                        .head = true};
    assert_int_equal(safetensors_open(&s.golden, path), STATUS_OK);
    assert_int_equal(backend_open(&s.backend, BACKEND_CPU, 1, NULL), STATUS_OK);
    assert_int_equal(inference_open(&s.model, &s.backend, &options), STATUS_OK);
    assert_int_equal(s.model.grid, GRID);
    assert_int_equal(s.model.width, WIDTH);
    assert_int_equal(s.model.n_heads, HEADS);
    *state = &s;
    return 0;
}

static int close_scene(void **state)
{
    struct scene *s = *state;

    inference_close(&s->model);
    backend_close(&s->backend);
    safetensors_release(&s->golden);
    return 0;
}

/* Tokens [2, LENGTH, WIDTH] and attention [2, HEADS, LENGTH] of both pictures in one batch. */
static void look(struct scene *s, float *tokens, float *attention)
{
    static uint8_t rgb[2 * 3 * SIZE * SIZE];
    struct ibot_tokens out = {tokens, attention};
    const uint8_t *a = values(s, "image_a", DTYPE_U8, 3 * SIZE * SIZE);
    const uint8_t *b = values(s, "image_b", DTYPE_U8, 3 * SIZE * SIZE);

    for (int i = 0; i < 3 * SIZE * SIZE; i++) {
        rgb[i] = a[i];
        rgb[3 * SIZE * SIZE + i] = b[i];
    }
    assert_int_equal(inference_tokens(&s->model, rgb, 2, &out), STATUS_OK);
}

static void tokens_at_another_size_are_the_references(void **state)
{
    static float tokens[2 * LENGTH * WIDTH];
    struct scene *s = *state;

    look(s, tokens, NULL);
    const float *a = values(s, "tokens_a", DTYPE_F32, LENGTH * WIDTH);
    const float *b = values(s, "tokens_b", DTYPE_F32, LENGTH * WIDTH);
    assert_true(relative_error(tokens, a, LENGTH * WIDTH) < 1e-5);
    assert_true(relative_error(tokens + LENGTH * WIDTH, b, LENGTH * WIDTH) < 1e-5);
}

static void attention_and_masks_are_the_references(void **state)
{
    static float attention[2 * HEADS * LENGTH];
    uint8_t keep[CELLS];
    struct scene *s = *state;

    look(s, NULL, attention);
    const float *wanted = values(s, "attention_a", DTYPE_F32, HEADS * LENGTH);
    const uint8_t *masks = values(s, "keep_a", DTYPE_U8, HEADS * CELLS);
    assert_true(relative_error(attention, wanted, HEADS * LENGTH) < 1e-5);
    for (int h = 0; h < HEADS; h++) {
        assert_int_equal(attention_threshold(keep, attention + h * LENGTH + 1, CELLS, 0.6),
                         STATUS_OK);
        assert_memory_equal(keep, masks + h * CELLS, CELLS);
    }
}

static void the_coloured_picture_is_the_references(void **state)
{
    static float attention[2 * HEADS * LENGTH], maps[HEADS * CELLS];
    static uint8_t out[3 * SIZE * SIZE];
    const int32_t heads[HEADS] = {0, 1, 2};
    int32_t owner[CELLS];
    struct scene *s = *state;

    look(s, NULL, attention);
    for (int h = 0; h < HEADS; h++)
        for (int i = 0; i < CELLS; i++)
            maps[h * CELLS + i] = attention[h * LENGTH + 1 + i];
    struct attention_composite composite = {
        .maps = maps,
        .keep = values(s, "keep_a", DTYPE_U8, HEADS * CELLS),
        .heads = heads,
        .n = HEADS,
        .grid = GRID,
        .rgb = values(s, "image_a", DTYPE_U8, 3 * SIZE * SIZE),
        .size_px = SIZE,
        .brightness = 0.1,
    };
    attention_owners(owner, &composite);
    assert_memory_equal(owner, values(s, "owner_a", DTYPE_I32, CELLS), sizeof(owner));
    assert_int_equal(attention_compose(out, &composite), STATUS_OK);
    const uint8_t *wanted = values(s, "composite_a", DTYPE_U8, 3 * SIZE * SIZE);
    for (int i = 0; i < 3 * SIZE * SIZE; i++) /* cut, not rounded: a hair's breadth is one level */
        assert_true(abs(out[i] - wanted[i]) <= 1);
}

static void patches_match_those_of_the_reference(void **state)
{
    static float tokens[2 * LENGTH * WIDTH];
    int32_t match[CELLS];
    struct scene *s = *state;

    look(s, tokens, NULL);
    correspondence_match(match, tokens + WIDTH, tokens + (LENGTH + 1) * WIDTH, CELLS, WIDTH);
    assert_memory_equal(match, values(s, "match", DTYPE_I32, CELLS), sizeof(match));
}

static void prototypes_are_those_of_the_reference(void **state)
{
    struct scene *s = *state;
    const uint8_t *a = values(s, "image_a", DTYPE_U8, 3 * SIZE * SIZE);
    static const struct {
        const char *index, *value;
        int32_t n;
    } kinds[2] = {{"prototype_cls", "value_cls", 1}, {"prototype_patch", "value_patch", CELLS}};

    assert_int_equal(s->model.n_prototypes[0], 96);
    assert_int_equal(s->model.n_prototypes[1], 96);
    for (int patch = 0; patch < 2; patch++) {
        int32_t n = kinds[patch].n, index[CELLS];
        float value[CELLS];
        struct ibot_prototypes out = {patch == 1, index, value};
        assert_int_equal(inference_prototypes(&s->model, a, 1, &out), STATUS_OK);
        assert_memory_equal(index, values(s, kinds[patch].index, DTYPE_I32, n),
                            (size_t)n * sizeof(int32_t));
        assert_true(relative_error(value, values(s, kinds[patch].value, DTYPE_F32, n), n) < 1e-5);
    }
}

/* Mean patch tokens without the final norm, of those that [CLS] looks at most or least: first
 * values and sum of magnitudes, by PyTorch in double from the formulas. Of picture a the four are
 * patches 10, 16, 36 and 48, and 12, 33, 35 and 39; of b 4, 12, 18 and 37, and 3, 31, 40 and 41. */
static void means_of_attended_patches_are_the_references(void **state)
{
    static const struct {
        int32_t topk;
        bool reverse;
        double first[2][4], sum[2];
    } cases[] = {
        {1,
         false,
         {{-0.794745, 1.922183, 0.615669, -0.339454}, {-2.731791, 1.640529, 2.416631, 1.838096}},
         {38.67866362016109, 50.94122715916479}},
        {4,
         false,
         {{-1.219529, 1.006883, 0.143349, 0.992233}, {-1.666311, 0.099624, 1.501745, -0.261537}},
         {30.417607340419814, 28.884098775647587}},
        {4,
         true,
         {{0.210726, -0.989462, -1.660996, 1.032377}, {0.18958, 0.376237, -2.450674, -0.961952}},
         {25.470173822989537, 32.88514369920628}},
        {49,
         false,
         {{-0.154862, 0.172489, -0.736536, -0.059022}, {-0.114143, 0.084279, -0.559274, -0.427927}},
         {14.78698380414184, 16.040225544555955}},
    };
    static uint8_t rgb[2 * 3 * SIZE * SIZE];
    struct scene *s = *state;
    float out[2 * WIDTH];
    struct tensor pixels;

    memcpy(rgb, values(s, "image_a", DTYPE_U8, 3 * SIZE * SIZE), sizeof(rgb) / 2);
    memcpy(rgb + sizeof(rgb) / 2, values(s, "image_b", DTYPE_U8, 3 * SIZE * SIZE), sizeof(rgb) / 2);
    assert_int_equal(inference_upload(&s->model, rgb, DTYPE_U8, 2, &pixels), STATUS_OK);
    for (size_t c = 0; c < sizeof(cases) / sizeof(cases[0]); c++) {
        struct ibot_feature_options top = {
            .n_last_blocks = 4, .topk = cases[c].topk, .reverse_top = cases[c].reverse};
        assert_int_equal(ibot_feature_dim(s->model.ibot, &top), WIDTH);
        assert_int_equal(ibot_features(s->model.ibot, pixels, &top, out), STATUS_OK);
        for (int i = 0; i < 2; i++) {
            double sum = 0.0;
            for (int j = 0; j < WIDTH; j++)
                sum += fabs((double)out[i * WIDTH + j]);
            for (int j = 0; j < 4; j++)
                assert_true(fabs((double)out[i * WIDTH + j] - cases[c].first[i][j]) < 5e-6);
            assert_true(fabs(sum - cases[c].sum[i]) < 1e-5 * sum);
        }
    }
    struct ibot_feature_options too_many = {.n_last_blocks = 1, .topk = CELLS + 1};
    assert_int_equal(ibot_features(s->model.ibot, pixels, &too_many, out), STATUS_INVALID);
    assert_non_null(strstr(status_message(), "50 patch tokens is wanted, and there are 49"));
}

/* Normalised on the host, pictures are the same to the bit. */
static void normalised_pictures_are_those_of_bytes(void **state)
{
    static float normal[3 * SIZE * SIZE];
    struct scene *s = *state;
    struct ibot_feature_options cls = {.n_last_blocks = 3};
    float bytes[3 * WIDTH], floats[3 * WIDTH];
    const uint8_t *rgb = values(s, "image_a", DTYPE_U8, 3 * SIZE * SIZE);
    struct tensor pixels;

    assert_int_equal(inference_upload(&s->model, rgb, DTYPE_U8, 1, &pixels), STATUS_OK);
    assert_int_equal(ibot_features(s->model.ibot, pixels, &cls, bytes), STATUS_OK);
    ibot_normalise(normal, rgb, (int64_t)SIZE * SIZE);
    assert_int_equal(inference_upload(&s->model, normal, DTYPE_F32, 1, &pixels), STATUS_OK);
    assert_int_equal(ibot_features(s->model.ibot, pixels, &cls, floats), STATUS_OK);
    assert_memory_equal(bytes, floats, sizeof(bytes));
}

/* Picture b, the matches back, and which patches are shown, by a third implementation, in PyTorch
 * and double, that agrees with the golden file on picture a. Least distances between the best and
 * the second best: 0.0013 of a logit, 0.16 of a product, 5e-6 of an attention, 8e-4 of a share. */

static void attention_and_masks_of_the_other_picture_are_the_references(void **state)
{
    static const struct {
        float first[5]; /* of [CLS], and of four patches */
        int32_t at;     /* the greatest of a patch */
        float most;
        uint64_t keep; /* patch i: bit i */
    } wanted[HEADS] = {
        {{0.022147979f, 0.022143384f, 0.018200074f, 0.020694875f, 0.015562096f},
         37,
         0.029091293f,
         0xc462b9bdd9f5},
        {{0.021570181f, 0.020449259f, 0.018541809f, 0.021576554f, 0.016714134f},
         14,
         0.02755309f,
         0x1e8f53c2e5615},
        {{0.01604397f, 0.016795254f, 0.027059523f, 0.01409526f, 0.020167344f},
         32,
         0.027275399f,
         0x9c0b43d7baea},
    };
    static float attention[2 * HEADS * LENGTH];
    struct scene *s = *state;
    uint8_t keep[CELLS];

    look(s, NULL, attention);
    for (int h = 0; h < HEADS; h++) {
        const float *row = attention + (HEADS + h) * LENGTH;
        for (int i = 0; i < 5; i++)
            assert_true(fabsf(row[i] - wanted[h].first[i]) < 1e-6f * wanted[h].first[i] + 1e-8f);
        assert_true(fabsf(row[1 + wanted[h].at] - wanted[h].most) < 1e-6f * wanted[h].most);
        assert_int_equal(attention_threshold(keep, row + 1, CELLS, 0.6), STATUS_OK);
        for (int i = 0; i < CELLS; i++) {
            assert_true(row[1 + i] <= row[1 + wanted[h].at]);
            assert_int_equal(keep[i], wanted[h].keep >> i & 1);
        }
    }
}

static void matches_back_are_the_references(void **state)
{
    static const int32_t wanted[CELLS] = {28, 44, 24, 0,  44, 22, 26, 0,  20, 25, 41, 23, 8,
                                          15, 36, 13, 25, 44, 26, 15, 26, 34, 1,  22, 23, 17,
                                          8,  8,  14, 3,  21, 7,  21, 13, 45, 21, 41, 30, 30,
                                          7,  1,  7,  1,  16, 15, 45, 45, 41, 28};
    static float tokens[2 * LENGTH * WIDTH];
    struct scene *s = *state;
    int32_t match[CELLS];

    look(s, tokens, NULL);
    correspondence_match(match, tokens + (LENGTH + 1) * WIDTH, tokens + WIDTH, CELLS, WIDTH);
    assert_memory_equal(match, wanted, sizeof(match));
}

static void the_patches_that_are_shown_are_the_references(void **state)
{
    static const int32_t wanted[2][8] = {{48, 10, 36, 16, 40, 8, 30, 19},
                                         {37, 4, 12, 18, 20, 32, 14, 38}};
    static float attention[2 * HEADS * LENGTH];
    struct scene *s = *state;
    int32_t chosen[8];
    float mean[CELLS];

    look(s, NULL, attention);
    for (int picture = 0; picture < 2; picture++) {
        for (int i = 0; i < CELLS; i++) {
            mean[i] = 0.0f;
            for (int h = 0; h < HEADS; h++)
                mean[i] += attention[(picture * HEADS + h) * LENGTH + 1 + i] / HEADS;
        }
        assert_int_equal(correspondence_choose(chosen, 8, mean, NULL, CELLS), 8);
        assert_memory_equal(chosen, wanted[picture], sizeof(chosen));
    }
}

static void prototypes_of_the_other_picture_are_the_references(void **state)
{
    static const uint8_t wanted[CELLS] = {62, 92, 92, 62, 92, 62, 62, 92, 62, 92, 62, 59, 92,
                                          62, 62, 62, 59, 62, 62, 62, 62, 62, 92, 62, 92, 62,
                                          62, 92, 62, 87, 62, 62, 92, 62, 62, 59, 62, 62, 62,
                                          62, 62, 87, 62, 62, 62, 92, 92, 92, 62};
    static const float first[4] = {0.430613272f, 0.474041958f, 0.385655456f, 0.504092895f};
    struct scene *s = *state;
    const uint8_t *b = values(s, "image_b", DTYPE_U8, 3 * SIZE * SIZE);
    float value[CELLS];
    int32_t index[CELLS];
    double sum = 0.0;

    struct ibot_prototypes out = {true, index, value};
    assert_int_equal(inference_prototypes(&s->model, b, 1, &out), STATUS_OK);
    for (int i = 0; i < CELLS; i++) {
        assert_int_equal(index[i], wanted[i]);
        sum += (double)value[i];
    }
    for (int i = 0; i < 4; i++)
        assert_true(fabsf(value[i] - first[i]) < 1e-6f);
    assert_true(fabs(sum - 22.346634024038337) < 1e-5);
    out.patch = false;
    assert_int_equal(inference_prototypes(&s->model, b, 1, &out), STATUS_OK);
    assert_int_equal(index[0], 62);
    assert_true(fabs((double)value[0] - 0.45632894203031543) < 1e-6);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(tokens_at_another_size_are_the_references),
        cmocka_unit_test(attention_and_masks_are_the_references),
        cmocka_unit_test(means_of_attended_patches_are_the_references),
        cmocka_unit_test(normalised_pictures_are_those_of_bytes),
        cmocka_unit_test(the_coloured_picture_is_the_references),
        cmocka_unit_test(patches_match_those_of_the_reference),
        cmocka_unit_test(prototypes_are_those_of_the_reference),
        cmocka_unit_test(attention_and_masks_of_the_other_picture_are_the_references),
        cmocka_unit_test(matches_back_are_the_references),
        cmocka_unit_test(the_patches_that_are_shown_are_the_references),
        cmocka_unit_test(prototypes_of_the_other_picture_are_the_references),
    };
    return cmocka_run_group_tests(tests, open_scene, close_scene);
}
