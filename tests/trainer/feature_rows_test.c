/* Features that are kept as they are made: a stop keeps them, and who opens them goes on there. */
#include "trainer/eval/feature_rows.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#include "tests/support/test_folder.h"

enum { N = 5, DIM = 3 };

static int set_up(void **state)
{
    return test_folder_open(state, "made.safetensors");
}

static void fill(struct feature_rows *rows, int64_t n)
{
    for (int64_t i = rows->done * DIM; i < (rows->done + n) * DIM; i++)
        rows->values[i] = (float)i;
}

static void a_stop_keeps_what_there_is_and_it_goes_on(void **state)
{
    const struct test_folder *test = *state;
    struct feature_rows rows;
    atomic_int stop = 0;

    assert_int_equal(feature_rows_open(&rows, test->folder, "made", "of this", N, DIM), STATUS_OK);
    assert_int_equal(rows.done, 0);
    fill(&rows, 1);
    assert_int_equal(feature_rows_add(&rows, 1, &stop), STATUS_OK);
    atomic_store(&stop, 1);
    fill(&rows, 2);
    assert_int_equal(feature_rows_add(&rows, 2, &stop), STATUS_INTERRUPTED);
    assert_non_null(strstr(status_message(), "3 of 5 images; the same command goes on"));
    feature_rows_close(&rows);

    assert_int_equal(feature_rows_open(&rows, test->folder, "made", "of this", N, DIM), STATUS_OK);
    assert_int_equal(rows.done, 3);
    for (int i = 0; i < 3 * DIM; i++)
        assert_true(rows.values[i] == (float)i);
    fill(&rows, 2);
    assert_int_equal(feature_rows_add(&rows, 2, &stop), STATUS_OK); /* all is done: no stop */
    feature_rows_close(&rows);
    feature_rows_close(&rows);

    assert_int_equal(feature_rows_open(&rows, test->folder, "made", "of this", N, DIM), STATUS_OK);
    assert_int_equal(rows.done, N);
    assert_true(rows.values[N * DIM - 1] == (float)(N * DIM - 1));
    feature_rows_close(&rows);
}

static void those_of_something_else_are_refused(void **state)
{
    const struct test_folder *test = *state;
    struct feature_rows rows;

    assert_int_equal(feature_rows_open(&rows, test->folder, "made", "of this", N, DIM), STATUS_OK);
    fill(&rows, N);
    assert_int_equal(feature_rows_add(&rows, N, NULL), STATUS_OK);
    feature_rows_close(&rows);
    assert_int_equal(feature_rows_open(&rows, test->folder, "made", "of that", N, DIM),
                     STATUS_MISMATCH);
    assert_int_equal(feature_rows_open(&rows, test->folder, "made", "of this", N - 1, DIM),
                     STATUS_MISMATCH);
    assert_int_equal(feature_rows_open(&rows, test->folder, "made", "of this", N, DIM + 1),
                     STATUS_MISMATCH);
    assert_null(rows.values);
}

static void what_is_not_finite_is_refused_by_its_image(void **state)
{
    const struct test_folder *test = *state;
    struct feature_rows rows;

    assert_int_equal(feature_rows_open(&rows, test->folder, "made", "of this", N, DIM), STATUS_OK);
    fill(&rows, N);
    rows.values[3 * DIM + 1] = (float)NAN;
    assert_int_equal(feature_rows_add(&rows, N, NULL), STATUS_NOT_FINITE);
    assert_non_null(strstr(status_message(), "image 3"));
    feature_rows_close(&rows);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(a_stop_keeps_what_there_is_and_it_goes_on, set_up,
                                        test_folder_close),
        cmocka_unit_test_setup_teardown(those_of_something_else_are_refused, set_up,
                                        test_folder_close),
        cmocka_unit_test_setup_teardown(what_is_not_finite_is_refused_by_its_image, set_up,
                                        test_folder_close),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
