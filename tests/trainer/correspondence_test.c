/* Matches by dot product, and the same place in two views. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "trainer/analysis/correspondence.h"

enum { GRID = 4, CELLS = GRID * GRID };

static void a_match_has_the_greatest_dot_product(void **state)
{
    const float from[3 * 2] = {1, 0, 0, 1, 1, 1}, to[3 * 2] = {0.5f, 0.1f, 0, 3, 0.5f, 0.1f};
    int32_t match[3];

    (void)state;
    correspondence_match(match, from, to, 3, 2);
    assert_int_equal(match[0], 0); /* the first of two that are equal */
    assert_int_equal(match[1], 1);
    assert_int_equal(match[2], 1); /* longer, though a smaller angle lies elsewhere */
}

static void a_view_has_each_of_its_own_patches_at_its_place(void **state)
{
    const struct image_box box = {13, 7, 101, 57};
    int32_t truth[CELLS];

    (void)state;
    correspondence_truth(truth, &box, &box, GRID);
    for (int32_t i = 0; i < CELLS; i++)
        assert_int_equal(truth[i], i);
}

static void patches_outside_of_the_other_view_have_no_place(void **state)
{
    const struct image_box whole = {0, 0, 80, 80}, right = {40, 0, 40, 80};
    int32_t truth[CELLS];

    (void)state;
    /* the right half, twice as wide there: centres at 50 and 70 of 80 are in columns 1 and 3 */
    correspondence_truth(truth, &whole, &right, GRID);
    for (int32_t row = 0; row < GRID; row++) {
        const int32_t wanted[GRID] = {-1, -1, 4 * row + 1, 4 * row + 3};
        assert_memory_equal(truth + 4 * row, wanted, sizeof(wanted));
    }
    /* and back: centres at 45, 55, 65, 75 */
    correspondence_truth(truth, &right, &whole, GRID);
    for (int32_t row = 0; row < GRID; row++) {
        const int32_t wanted[GRID] = {4 * row + 2, 4 * row + 2, 4 * row + 3, 4 * row + 3};
        assert_memory_equal(truth + 4 * row, wanted, sizeof(wanted));
    }
}

static void views_that_do_not_meet_have_no_score(void **state)
{
    const struct image_box left = {0, 0, 40, 40}, right = {40, 0, 40, 40};
    struct correspondence_score score = {0};
    int32_t truth[CELLS], match[CELLS] = {0};

    (void)state;
    correspondence_truth(truth, &left, &right, GRID);
    correspondence_add(&score, match, truth, GRID, 3);
    assert_int_equal(score.n_overlapping, 0);
    assert_int_equal(score.n_correct, 0);
}

static void a_radius_takes_neighbours_in_rows_and_columns(void **state)
{
    const int32_t truth[CELLS] = {5, 5, 5, 5, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1};
    const int32_t match[CELLS] = {5, 10, 6, 15, 5, 5, 5, 5};
    const int64_t correct[4] = {1, 3, 4, 4};

    (void)state;
    for (int32_t radius = 0; radius < 4; radius++) {
        struct correspondence_score score = {.n_overlapping = 100, .n_correct = 10};
        correspondence_add(&score, match, truth, GRID, radius);
        assert_int_equal(score.n_overlapping, 104);
        assert_int_equal(score.n_correct, 10 + correct[radius]);
    }
    assert_false(correspondence_is_near(3, 4, GRID, 1)); /* ends of two rows */
}

static void the_heaviest_patches_with_a_place_are_chosen(void **state)
{
    const float weight[5] = {0.1f, 0.5f, 0.3f, 0.5f, 0.2f};
    const int32_t truth[5] = {0, 1, -1, 2, 3};
    int32_t chosen[5];

    (void)state;
    assert_int_equal(correspondence_choose(chosen, 3, weight, NULL, 5), 3);
    assert_int_equal(chosen[0], 1);
    assert_int_equal(chosen[1], 3);
    assert_int_equal(chosen[2], 2);
    assert_int_equal(correspondence_choose(chosen, 5, weight, truth, 5), 4);
    assert_int_equal(chosen[2], 4);
    assert_int_equal(chosen[3], 0);
}

static void a_map_of_another_grid_is_read_at_the_nearest_cell(void **state)
{
    const float fine[16] = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15};
    const float half[4] = {0, 2, 8, 10}, coarse[4] = {1, 2, 3, 4};
    float out[16];

    (void)state;
    correspondence_regrid(out, 2, fine, 4);
    assert_memory_equal(out, half, sizeof(half));
    correspondence_regrid(out, 4, coarse, 2);
    assert_true(out[0] == 1.0f && out[5] == 1.0f && out[3] == 2.0f && out[12] == 3.0f);
    assert_true(out[15] == 4.0f);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_match_has_the_greatest_dot_product),
        cmocka_unit_test(a_view_has_each_of_its_own_patches_at_its_place),
        cmocka_unit_test(patches_outside_of_the_other_view_have_no_place),
        cmocka_unit_test(views_that_do_not_meet_have_no_score),
        cmocka_unit_test(a_radius_takes_neighbours_in_rows_and_columns),
        cmocka_unit_test(the_heaviest_patches_with_a_place_are_chosen),
        cmocka_unit_test(a_map_of_another_grid_is_read_at_the_nearest_cell),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
