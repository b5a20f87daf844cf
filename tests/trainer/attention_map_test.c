/* Masks of a share of the mass, and the coloured picture of several heads. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>

#include <cmocka.h>

#include "trainer/analysis/attention_map.h"
#include "trainer/attention_mass.h"

enum { GRID = 2, CELLS = GRID * GRID, SIZE = 8 };

static void the_heaviest_patches_hold_the_share(void **state)
{
    const float weights[5] = {0.1f, 0.4f, 0.05f, 0.25f, 0.2f};
    const uint8_t most[5] = {0, 1, 0, 1, 0}; /* 0.65; without 0.25 it would be 0.4 */
    uint8_t keep[5];

    (void)state;
    assert_int_equal(attention_threshold(keep, weights, 5, 0.6), STATUS_OK);
    assert_memory_equal(keep, most, 5);
    assert_int_equal(attention_threshold(keep, weights, 5, 1.0), STATUS_OK);
    for (int i = 0; i < 5; i++)
        assert_int_equal(keep[i], 1);
}

static void a_mask_is_as_small_as_its_share_allows(void **state)
{
    float weights[100];
    uint8_t keep[100];

    (void)state;
    for (int i = 0; i < 100; i++)
        weights[i] = (float)(1 + (i * 37) % 100);
    for (int percent = 5; percent < 100; percent += 10) {
        double sum = 0.0, kept = 0.0, least = 1e9;
        assert_int_equal(attention_threshold(keep, weights, 100, percent / 100.0), STATUS_OK);
        for (int i = 0; i < 100; i++) {
            sum += (double)weights[i];
            kept += keep[i] ? (double)weights[i] : 0.0;
            least = keep[i] ? fmin(least, (double)weights[i]) : least;
        }
        assert_true(kept / sum >= percent / 100.0);
        assert_true((kept - least) / sum < percent / 100.0);
        for (int i = 0; i < 100; i++)
            assert_true(keep[i] || (double)weights[i] < least);
    }
}

static void of_equal_weights_the_first_count_as_less(void **state)
{
    const float weights[4] = {1, 1, 1, 1};
    const uint8_t last[4] = {0, 0, 1, 1}; /* running sums 0.25, 0.5, 0.75, 1 of which > 0.5 */
    uint8_t keep[4];

    (void)state;
    assert_int_equal(attention_threshold(keep, weights, 4, 0.5), STATUS_OK);
    assert_memory_equal(keep, last, 4);
}

static void the_mean_is_that_over_heads(void **state)
{
    const float maps[6] = {1, 2, 3, 3, 4, 9};
    float mean[3];

    (void)state;
    attention_mean(mean, maps, 2, 3);
    assert_true(mean[0] == 2.0f && mean[1] == 3.0f && mean[2] == 6.0f);
}

/* Three heads of two by two patches over a picture with both black and white in it. */
static const float maps[3 * CELLS] = {0.4f, 0.1f, 0.3f, 0.0f, /* head 0 */
                                      0.2f, 0.5f, 0.3f, 0.0f, /* head 1 */
                                      0.9f, 0.9f, 0.9f, 0.1f /* head 2 */};
static const uint8_t all[3 * CELLS] = {1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1};
static uint8_t rgb[SIZE * SIZE * 3];

static struct attention_composite composite_of(const int32_t *heads, int32_t n, const uint8_t *keep)
{
    for (int i = 0; i < SIZE * SIZE * 3; i++)
        rgb[i] = i / 3 % SIZE < SIZE / 2 ? 0 : 255;
    return (struct attention_composite){.maps = maps,
                                        .keep = keep,
                                        .heads = heads,
                                        .n = n,
                                        .grid = GRID,
                                        .rgb = rgb,
                                        .size_px = SIZE,
                                        .brightness = 0.1};
}

static void a_patch_belongs_to_the_head_that_looks_most(void **state)
{
    const int32_t two[2] = {0, 1}, order[3] = {2, 1, 0}, owned[CELLS] = {0, 1, 0, -1};
    uint8_t keep[3 * CELLS];
    int32_t owner[CELLS];

    (void)state;
    struct attention_composite c = composite_of(two, 2, all);
    attention_owners(owner, &c); /* equal at patch 2: the first */
    assert_memory_equal(owner, owned, sizeof(owned));
    c = composite_of(order, 3, all);
    attention_owners(owner, &c);
    for (int i = 0; i < CELLS; i++)
        assert_int_equal(owner[i], 0); /* head 2 is the first of the chosen */
    for (int i = 0; i < 3 * CELLS; i++)
        keep[i] = i < 2 * CELLS;
    c = composite_of(order, 3, keep);
    attention_owners(owner, &c);
    assert_int_equal(owner[0], 2);
    assert_int_equal(owner[1], 1);
    assert_int_equal(owner[3], -1);
}

static const uint8_t *pixel_of(const uint8_t *out, int row, int column)
{
    return out + 3 * (row * SIZE / GRID * SIZE + column * SIZE / GRID);
}

static void colours_lie_over_the_grey_image(void **state)
{
    const int32_t two[2] = {0, 1};
    uint8_t out[SIZE * SIZE * 3];

    (void)state;
    struct attention_composite c = composite_of(two, 2, all);
    assert_int_equal(attention_compose(out, &c), STATUS_OK);
    for (int j = 0; j < 3; j++) {
        /* the greatest of each head: nothing but its colour */
        for (int i = 0; i < 2; i++)
            assert_true(abs(pixel_of(out, 0, i)[j] - attention_colours[i].rgb[j]) <= 1);
        /* 0.3 of 0.4: sqrt(0.75) of the colour and the rest of the dark image, 192 * 0.1 */
        double wanted = 19.2 * (1 - sqrt(0.75)) + sqrt(0.75) * attention_colours[0].rgb[j];
        assert_true(fabs(pixel_of(out, 1, 0)[j] - wanted) <= 1.0);
        /* nobody's: the light image, 256 * 0.1 */
        assert_int_equal(pixel_of(out, 1, 1)[j], 25);
    }
}

static void weights_below_a_fifth_show_nothing_and_one_weight_shows(void **state)
{
    const float faint[CELLS] = {1.0f, 0.19f, 0.21f, 0.0f};
    const float flat[CELLS] = {0.5f, 0.5f, 0.5f, 0.5f};
    const int32_t one[1] = {0};
    uint8_t out[SIZE * SIZE * 3];

    (void)state;
    struct attention_composite c = composite_of(one, 1, all);
    c.maps = faint;
    assert_int_equal(attention_compose(out, &c), STATUS_OK);
    assert_int_equal(pixel_of(out, 0, 1)[0], pixel_of(out, 0, 1)[1]); /* grey */
    assert_int_not_equal(pixel_of(out, 1, 0)[0], pixel_of(out, 1, 0)[1]);
    c.maps = flat;
    assert_int_equal(attention_compose(out, &c), STATUS_OK);
    assert_memory_equal(pixel_of(out, 0, 0), attention_colours[0].rgb, 3);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_heaviest_patches_hold_the_share),
        cmocka_unit_test(a_mask_is_as_small_as_its_share_allows),
        cmocka_unit_test(of_equal_weights_the_first_count_as_less),
        cmocka_unit_test(the_mean_is_that_over_heads),
        cmocka_unit_test(a_patch_belongs_to_the_head_that_looks_most),
        cmocka_unit_test(colours_lie_over_the_grey_image),
        cmocka_unit_test(weights_below_a_fifth_show_nothing_and_one_weight_shows),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
