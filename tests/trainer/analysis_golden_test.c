/* Analyses of two pictures by the network of golden/official_checkpoint.pth, against values that an
 * independent implementation in PyTorch computed in double (tests/data/golden/README.md). */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>

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

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(tokens_at_another_size_are_the_references),
        cmocka_unit_test(attention_and_masks_are_the_references),
        cmocka_unit_test(the_coloured_picture_is_the_references),
        cmocka_unit_test(patches_match_those_of_the_reference),
        cmocka_unit_test(prototypes_are_those_of_the_reference),
    };
    return cmocka_run_group_tests(tests, open_scene, close_scene);
}
