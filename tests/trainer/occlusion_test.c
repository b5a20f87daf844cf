/* Lost and displaced parts of pictures: which pixels they are. */
#include "trainer/eval/occlusion.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

static void grids_are_read(void **state)
{
    static const struct {
        const char *text;
        int rows, columns; /* 0: refused */
    } cases[] = {
        {"14x14", 14, 14}, {"14", 14, 14}, {"4x8", 4, 8},  {"1x1", 1, 1},   {"224", 224, 224},
        {"15x14", 0, 0},   {"0x4", 0, 0},  {"-2x2", 0, 0}, {"4x", 0, 0},    {"x4", 0, 0},
        {"4x8x2", 0, 0},   {"", 0, 0},     {"448", 0, 0},  {"4 x 8", 0, 0}, {"4x8 ", 0, 0},
        {"99999x1", 0, 0}, {"1e2", 0, 0},
    };

    (void)state;
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        struct cell_grid grid = {0};
        enum status status = cell_grid_parse(&grid, cases[i].text, 224);
        if ((status == STATUS_OK) != (cases[i].rows > 0) || grid.rows != cases[i].rows ||
            grid.columns != cases[i].columns)
            fail_msg("'%s': %d x %d, %s", cases[i].text, grid.rows, grid.columns, status_message());
    }
}

/* Of 196 cells, tenths, as the original has them: i * 196 // 10. */
static void shares_are_whole_cells(void **state)
{
    static const int32_t of_196[] = {0, 19, 39, 58, 78, 98, 117, 137, 156, 176, 196};

    (void)state;
    for (int i = 0; i <= 10; i++) {
        float ratio = (float)i / 10.0f; /* as options keep them */
        assert_int_equal(cell_count((double)ratio, 196), of_196[i]);
        assert_int_equal(cell_count((double)ratio, 10), i);
    }
    assert_int_equal(cell_count(0.999, 196), 195);
}

/* From another implementation of Philox, Lemire's method and the Fisher-Yates shuffle, in Python.
 */
static void orders_are_those_of_their_key(void **state)
{
    static const int32_t ten[] = {4, 7, 0, 1, 3, 2, 5, 6, 8, 9};
    static const int32_t sixteen[] = {3, 10, 6, 15, 13, 11, 1, 4, 2, 7, 14, 12, 9, 8, 0, 5};
    static const int32_t of_196[] = {59,  14,  12, 17, 128, 107, 126, 53,  152, 167,
                                     173, 108, 3,  67, 191, 80,  124, 192, 68};
    int32_t order[196];

    (void)state;
    cell_permutation(
        order, 10,
        (struct rng_key){.seed = 7, .epoch = 1, .sample = 42, .purpose = RNG_DROP_CELLS});
    assert_memory_equal(order, ten, sizeof(ten));
    cell_permutation(
        order, 16,
        (struct rng_key){.sample = 3, .view = 4 * 256 + 4, .purpose = RNG_SHUFFLE_CELLS});
    assert_memory_equal(order, sixteen, sizeof(sixteen));
    cell_permutation(order, 196, (struct rng_key){.purpose = RNG_DROP_CELLS});
    assert_memory_equal(order, of_196, sizeof(of_196));
}

static void every_order_is_as_likely(void **state)
{
    enum { N = 24000 };
    int32_t count[64] = {0}, order[3], seen = 0;

    (void)state;
    for (uint32_t i = 0; i < N; i++) {
        cell_permutation(order, 3, (struct rng_key){.sample = i, .purpose = RNG_DROP_CELLS});
        count[order[0] * 16 + order[1] * 4 + order[2]]++;
    }
    for (int i = 0; i < 64; i++) {
        seen += count[i] > 0;
        /* sigma is 58 */
        assert_true(count[i] == 0 || fabs(count[i] - N / 6.0) < 5 * 58.0);
    }
    assert_int_equal(seen, 6);
}

/* 6 px, 3 rows of 2 px and 2 columns of 3 px; cell 3 is row 1, column 1. */
static void cells_cover_their_pixels(void **state)
{
    static const uint8_t wanted[36] = {0, 0, 0, 1, 1, 1, /* cell 0 */
                                       0, 0, 0, 1, 1, 1, /**/
                                       1, 1, 1, 0, 0, 0, /* cell 3 */
                                       1, 1, 1, 0, 0, 0, /**/
                                       1, 1, 1, 1, 1, 1, /**/
                                       1, 1, 1, 1, 1, 1};
    static const uint8_t moved[36] = {
        1, 1, 1, 1, 1, 1, /**/
        1, 0, 0, 0, 1, 1, /* cell 0, a pixel down and right */
        1, 0, 0, 0, 1, 1, /**/
        1, 1, 1, 1, 0, 0, /* cell 3: a column of it has left the picture */
        1, 1, 1, 1, 0, 0, /**/
        1, 1, 1, 1, 1, 1};
    static const int32_t cells[] = {3, 0, 5};
    struct cell_grid grid = {3, 2};
    uint8_t keep[36];

    (void)state;
    keep_outside_cells(keep, 6, grid, cells, 2, 0);
    assert_memory_equal(keep, wanted, sizeof(wanted));
    assert_true(share_dropped(keep, 6) == 12.0 / 36.0);
    keep_outside_cells(keep, 6, grid, cells, 2, 1);
    assert_memory_equal(keep, moved, sizeof(moved));
    keep_outside_cells(keep, 6, grid, cells, 0, 0);
    assert_true(share_dropped(keep, 6) == 0.0);
}

static void patches_cover_their_pixels(void **state)
{
    static const uint8_t chosen[4] = {0, 1, 1, 0};
    static const uint8_t inside[16] = {0, 0, 1, 1, 0, 0, 1, 1, 1, 1, 0, 0, 1, 1, 0, 0};
    uint8_t keep[16];

    (void)state;
    keep_patches(keep, 4, chosen, 2, true);
    assert_memory_equal(keep, inside, sizeof(inside));
    keep_patches(keep, 4, chosen, 2, false);
    for (int i = 0; i < 16; i++)
        assert_int_equal(keep[i], !inside[i]);
}

static void dropped_pixels_are_zero_in_every_channel(void **state)
{
    uint8_t keep[4] = {1, 0, 0, 1};
    float values[12];

    (void)state;
    for (int i = 0; i < 12; i++)
        values[i] = (float)(i + 1);
    drop_pixels(values, keep, 2);
    for (int i = 0; i < 12; i++)
        assert_true(values[i] == (i % 4 == 1 || i % 4 == 2 ? 0.0f : (float)(i + 1)));
}

/* 4 px, one row of cells and two columns of 2 px: halves change places. And each pixel a cell. */
static void cells_change_places(void **state)
{
    static const int32_t swap[] = {1, 0};
    int32_t turn[16];
    uint8_t rgb[48], out[48], back[48];

    (void)state;
    for (int i = 0; i < 48; i++)
        rgb[i] = (uint8_t)i;
    shuffle_cells(out, rgb, 4, (struct cell_grid){1, 2}, swap);
    for (int y = 0; y < 4; y++)
        for (int x = 0; x < 4; x++)
            for (int c = 0; c < 3; c++)
                assert_int_equal(out[(y * 4 + x) * 3 + c], rgb[(y * 4 + (x + 2) % 4) * 3 + c]);
    for (int i = 0; i < 16; i++)
        turn[i] = 15 - i;
    shuffle_cells(out, rgb, 4, (struct cell_grid){4, 4}, turn);
    assert_int_equal(out[0], 45);
    assert_int_equal(out[47], 2);
    shuffle_cells(back, out, 4, (struct cell_grid){4, 4}, turn);
    assert_memory_equal(back, rgb, sizeof(rgb));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(grids_are_read),
        cmocka_unit_test(shares_are_whole_cells),
        cmocka_unit_test(orders_are_those_of_their_key),
        cmocka_unit_test(every_order_is_as_likely),
        cmocka_unit_test(cells_cover_their_pixels),
        cmocka_unit_test(patches_cover_their_pixels),
        cmocka_unit_test(dropped_pixels_are_zero_in_every_channel),
        cmocka_unit_test(cells_change_places),
    };
    return cmocka_run_group_tests_name("trainer.occlusion", tests, NULL, NULL);
}
