/* Copy detection: features against values of PyTorch, measures on cases counted by hand. */
#include "trainer/eval/copy_detection.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

static struct device device;

static int set_up(void **state)
{
    (void)state;
    return device_open_cpu(&device, 1) == STATUS_OK ? 0 : -1;
}

static int tear_down(void **state)
{
    (void)state;
    device_close(&device);
    return 0;
}

/* x[:, 0] and avg_pool2d(x[:, 1:].clamp(min=1e-6).pow(4), (2, 2)).pow(1/4) of [CLS] and 2 x 2
 * patches. */
static void features_are_those_of_pytorch(void **state)
{
    static const float tokens[15] = {1,  -2, 0.5f, 0.3f, -0.1f, 2,  1.2f, -0.4f,
                                     -3, 0,  -1,   0.7f, -0.5f, -2, 1.1f};
    static const float wanted[6] = {1, -2, 0.5f, 0.84935558f, 1e-6f, 1.45045435f};
    float got[6], odd[15];

    (void)state;
    copy_feature(got, tokens, 5, 3);
    for (int i = 0; i < 6; i++)
        if (!(fabsf(got[i] - wanted[i]) <= 2e-7f * fabsf(wanted[i])))
            fail_msg("element %d: %.9g, wanted %.9g", i, (double)got[i], (double)wanted[i]);
    memcpy(odd, tokens, sizeof(odd));
    odd[7] = (float)NAN; /* of a patch: not hidden as a small value */
    copy_feature(got, odd, 5, 3);
    assert_true(isnan(got[4]));
}

/* Three originals, of which two have the same prefix; two strong copies, and three smaller ones. */
static void make_data(struct copydays *data)
{
    static const char *const names[] = {"2000a", "2001a", "2001b", "2001c",
                                        "2000b", "2000a", "2001a", "2001b"};

    *data = (struct copydays){.blocks = {{"original", 0, 3}, {"strong", 3, 2}, {"crops/80", 5, 3}},
                              .n_blocks = 3};
    for (size_t i = 0; i < sizeof(names) / sizeof(names[0]); i++)
        assert_int_equal(image_paths_add(&data->paths, "x", names[i], ".jpg"), STATUS_OK);
}

static void copies_are_told_by_place_and_strong_ones_by_name(void **state)
{
    struct copydays data;

    (void)state;
    make_data(&data);
    assert_true(copydays_is_copy(&data, &data.blocks[2], 1, 1));
    assert_false(copydays_is_copy(&data, &data.blocks[2], 1, 2));
    assert_false(copydays_is_copy(&data, &data.blocks[1], 0, 0));
    assert_true(copydays_is_copy(&data, &data.blocks[1], 0, 1));
    assert_true(copydays_is_copy(&data, &data.blocks[1], 0, 2));
    assert_true(copydays_is_copy(&data, &data.blocks[1], 1, 0));
    copydays_close(&data);
    copydays_close(&data);
}

static void precision_is_the_area_under_what_is_found_of_all_copies(void **state)
{
    /* numbers: products with them rank the originals and one distractor, the last */
    static const float database[8] = {1, 0, 0, 1, 0.5f, 0.5f, 0.7f, 0.7f};
    static const float queries[16] = {1,    0,    0,    1,    0.5f, 0.6f, /* originals */
                                      0.1f, 0.9f, 0.9f, 0.1f,             /* strong */
                                      0.2f, 1,    1,    0.1f, 1,    1 /* crops */};
    double map[COPYDAYS_MAX_BLOCKS];
    struct copydays data;

    (void)state;
    make_data(&data);
    assert_int_equal(copy_evaluate(map, &device, &op_table_cpu, &data, queries, database, 4, 2),
                     STATUS_OK);
    /* the third: the distractor, the second, itself: (0 + 1/3)/2 */
    assert_true(fabs(map[0] - (1.0 + 1.0 + 1.0 / 6.0) / 3.0) < 1e-12);
    /* the second, the distractor, the third of two: 1/2 + 1/2 (1/2 + 2/3)/2; the first: 1 */
    assert_true(fabs(map[1] - (0.5 + 7.0 / 24.0 + 1.0) / 2.0) < 1e-12);
    /* the first: second, distractor, third, itself: (0 + 1/4)/2; the second: first, distractor,
     * third, itself: the same; the third: distractor, then equal ones, of which it is the last */
    assert_true(fabs(map[2] - (0.125 + 0.125 + 0.125) / 3.0) < 1e-12);
    copydays_close(&data);
}

/* An original that comes behind as many others as count is not found. */
static void what_comes_after_twenty_is_not_found(void **state)
{
    float database[COPY_RANKS + 1] = {1.0f}, query = 1.0f;
    double map[COPYDAYS_MAX_BLOCKS];
    struct copydays data = {.blocks = {{"original", 0, 1}}, .n_blocks = 1};

    (void)state;
    for (int i = 1; i <= COPY_RANKS; i++)
        database[i] = 1.0f + (float)i;
    assert_int_equal(
        copy_evaluate(map, &device, &op_table_cpu, &data, &query, database, COPY_RANKS + 1, 1),
        STATUS_OK);
    assert_true(map[0] == 0.0);
    database[1] = 0.0f; /* one fewer before it: (0 + 1/20)/2 */
    assert_int_equal(
        copy_evaluate(map, &device, &op_table_cpu, &data, &query, database, COPY_RANKS + 1, 1),
        STATUS_OK);
    assert_true(fabs(map[0] - 0.025) < 1e-12);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(features_are_those_of_pytorch),
        cmocka_unit_test(copies_are_told_by_place_and_strong_ones_by_name),
        cmocka_unit_test(precision_is_the_area_under_what_is_found_of_all_copies),
        cmocka_unit_test(what_comes_after_twenty_is_not_found),
    };
    return cmocka_run_group_tests(tests, set_up, tear_down);
}
