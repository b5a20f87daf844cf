/* Clusters of tokens, the best of each, and their pictures. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "proto/base/memory.h"
#include "trainer/analysis/pattern_picture.h"
#include "trainer/analysis/patterns.h"
#include "trainer/weights/safetensors.h"

/* Four images of three tokens, prototypes 0 .. 4. */
static const int32_t indices[12] = {1, 1, 3, 3, 1, 3, 0, 3, 3, 1, 0, 0};
static const float logits[12] = {-0.5f, -0.2f, 0.1f, 0.7f,  -0.9f, 0.9f,
                                 0.3f,  0.9f,  0.2f, -0.1f, 0.4f,  0.5f};

static void open_bank(struct pattern_bank *bank)
{
    assert_int_equal(pattern_bank_open(bank, 4, 3, 5), STATUS_OK);
    memcpy(bank->index, indices, sizeof(indices));
    memcpy(bank->value, logits, sizeof(logits));
}

static void clusters_are_ranked_by_size(void **state)
{
    const int64_t wanted[5] = {3, 4, 0, 5, 0};
    struct pattern_bank bank;
    int64_t counts[5];
    int32_t ranked[5];

    (void)state;
    open_bank(&bank);
    pattern_counts(counts, &bank);
    assert_memory_equal(counts, wanted, sizeof(wanted));
    assert_int_equal(pattern_rank(ranked, 5, counts, 5), 3); /* empty ones have no rank */
    assert_int_equal(ranked[0], 3);
    assert_int_equal(ranked[1], 1);
    assert_int_equal(ranked[2], 0);
    assert_int_equal(pattern_rank(ranked, 2, counts, 5), 2);
    pattern_bank_release(&bank);
}

static void clusters_of_one_size_are_ranked_in_their_order(void **state)
{
    const int64_t counts[6] = {2, 7, 2, 0, 7, 2};
    const int32_t wanted[5] = {1, 4, 0, 2, 5};
    int32_t ranked[6];

    (void)state;
    assert_int_equal(pattern_rank(ranked, 6, counts, 6), 5);
    assert_memory_equal(ranked, wanted, sizeof(wanted));
}

static void each_image_shows_its_best_token_of_a_cluster(void **state)
{
    struct pattern_place *places;
    struct pattern_bank bank;
    int64_t n;

    (void)state;
    open_bank(&bank);
    assert_int_equal(pattern_best(&places, &n, &bank, 3), STATUS_OK);
    assert_int_equal(n, 3); /* 0.9 of image 1 before the equal one of image 2 */
    assert_int_equal(places[0].image, 1);
    assert_int_equal(places[0].token, 2);
    assert_int_equal(places[1].image, 2);
    assert_int_equal(places[1].token, 1);
    assert_int_equal(places[2].image, 0);
    assert_int_equal(places[2].token, 2);
    memory_free(places);
    assert_int_equal(pattern_best(&places, &n, &bank, 1), STATUS_OK);
    assert_int_equal(n, 3); /* members alone, though their logits are negative */
    assert_int_equal(places[0].image, 3);
    assert_int_equal(places[1].image, 0);
    assert_int_equal(places[1].token, 1);
    assert_int_equal(places[2].image, 1);
    memory_free(places);
    assert_int_equal(pattern_best(&places, &n, &bank, 4), STATUS_OK);
    assert_int_equal(n, 0);
    memory_free(places);
    pattern_bank_release(&bank);
}

static void a_kept_bank_has_every_token(void **state)
{
    char path[] = "/tmp/ibot-patterns-XXXXXX";
    struct safetensors file;
    struct pattern_bank bank;
    int64_t counts[5];
    int fd = mkstemp(path);

    (void)state;
    assert_true(fd >= 0);
    close(fd);
    open_bank(&bank);
    pattern_counts(counts, &bank);
    assert_int_equal(pattern_bank_write(&bank, counts, path), STATUS_OK);
    assert_int_equal(safetensors_open(&file, path), STATUS_OK);
    const struct safetensors_entry *index = safetensors_find(&file, "memory_bank.index");
    const struct safetensors_entry *value = safetensors_find(&file, "memory_bank.value");
    const struct safetensors_entry *sizes = safetensors_find(&file, "num_per_cluster");
    assert_true(index->file_shape[0] == 4 && index->file_shape[1] == 3);
    assert_memory_equal(index->tensor.data, indices, sizeof(indices));
    assert_memory_equal(value->tensor.data, logits, sizeof(logits));
    assert_int_equal(((const int32_t *)sizes->tensor.data)[3], 5);
    safetensors_release(&file);
    pattern_bank_release(&bank);
    unlink(path);
}

/* A picture of 4 x 4 patches of 2 px, each pixel its own colour. */
enum { PATCH = 2, SIZE = 4 * PATCH, WINDOW = 3, TILE = WINDOW * PATCH };

static void fill_picture(uint8_t *rgb)
{
    for (int y = 0; y < SIZE; y++)
        for (int x = 0; x < SIZE; x++) {
            rgb[3 * (y * SIZE + x)] = (uint8_t)(10 + y);
            rgb[3 * (y * SIZE + x) + 1] = (uint8_t)(100 + x);
            rgb[3 * (y * SIZE + x) + 2] = 200;
        }
}

static void a_tile_is_a_patch_amid_its_neighbours(void **state)
{
    uint8_t rgb[SIZE * SIZE * 3], out[TILE * TILE * 3];
    struct pattern_tile tile = {.rgb = out};

    (void)state;
    fill_picture(rgb);
    double mean = pattern_tile_of_patch(&tile, rgb, SIZE, PATCH, 6, WINDOW); /* row 1, column 2 */
    assert_int_equal(tile.side_px, TILE);
    assert_true(mean == 200.0);
    for (int y = 0; y < TILE; y++)
        for (int x = 0; x < TILE; x++) {
            const uint8_t *from = rgb + 3 * (y * SIZE + x + PATCH), *to = out + 3 * (y * TILE + x);
            bool lit = y / PATCH == 1 && x / PATCH == 1;
            const int orange[3] = {200, 100, 0};
            for (int i = 0; i < 3; i++)
                assert_true(lit ? fabs(to[i] - (from[i] * 128 + orange[i] * 127) / 255.0) <= 0.5
                                : to[i] == from[i]);
        }
}

static void a_tile_at_the_edge_is_black_outside(void **state)
{
    uint8_t rgb[SIZE * SIZE * 3], out[TILE * TILE * 3];
    const uint8_t black[3] = {0, 0, 0};
    struct pattern_tile tile = {.rgb = out};

    (void)state;
    fill_picture(rgb);
    double mean = pattern_tile_of_patch(&tile, rgb, SIZE, PATCH, 0, WINDOW);
    assert_true(fabs(mean - 200.0 * 4 / 9) < 1e-9);
    for (int i = 0; i < TILE; i++) {
        assert_memory_equal(out + 3 * i, black, 3);
        assert_memory_equal(out + 3 * i * TILE, black, 3);
    }
    assert_memory_equal(out + 3 * (TILE * TILE - 1), rgb + 3 * (3 * SIZE + 3), 3);
}

static void a_window_of_one_patch_is_left_as_it_is(void **state)
{
    uint8_t rgb[SIZE * SIZE * 3], out[PATCH * PATCH * 3];
    struct pattern_tile tile = {.rgb = out};

    (void)state;
    fill_picture(rgb);
    assert_true(pattern_tile_of_patch(&tile, rgb, SIZE, PATCH, 15, 1) == 200.0);
    assert_memory_equal(out, rgb + 3 * (6 * SIZE + 6), 3 * PATCH);
    assert_memory_equal(out + 3 * PATCH, rgb + 3 * (7 * SIZE + 6), 3 * PATCH);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(clusters_are_ranked_by_size),
        cmocka_unit_test(clusters_of_one_size_are_ranked_in_their_order),
        cmocka_unit_test(each_image_shows_its_best_token_of_a_cluster),
        cmocka_unit_test(a_kept_bank_has_every_token),
        cmocka_unit_test(a_tile_is_a_patch_amid_its_neighbours),
        cmocka_unit_test(a_tile_at_the_edge_is_black_outside),
        cmocka_unit_test(a_window_of_one_patch_is_left_as_it_is),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
