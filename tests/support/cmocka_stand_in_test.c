/* The stand-in for cmocka finds what it should: each planted failure counts, nothing else does. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "tests/support/cmocka/cmocka.h"

static int n_torn_down;

static int set_up(void **state)
{
    *state = strdup("state");
    return *state == NULL;
}

static int tear_down(void **state)
{
    free(*state);
    n_torn_down++;
    return 0;
}

static void good(void **state)
{
    int numbers[] = {1, 2}, same[] = {1, 2}, other[] = {1, 3};

    assert_string_equal((const char *)*state, "state");
    assert_string_not_equal("a", "b");
    assert_int_equal(3, 1 + 2);
    assert_int_not_equal(3, 4);
    assert_true(numbers[0] == 1);
    assert_false(numbers[0] == 2);
    assert_null(NULL);
    assert_non_null(numbers);
    assert_ptr_equal(numbers, numbers);
    assert_ptr_not_equal(numbers, same);
    assert_memory_equal(numbers, same, sizeof(same));
    assert_memory_not_equal(numbers, other, sizeof(other));
}

static void skipped(void **state)
{
    (void)state;
    skip();
}

#define BAD(name, statement)                                                                       \
    static void name(void **state)                                                                 \
    {                                                                                              \
        (void)state;                                                                               \
        statement;                                                                                 \
    }
BAD(bad_number, assert_int_equal(1, 2))
BAD(bad_same_number, assert_int_not_equal(2, 2))
BAD(bad_text, assert_string_equal("a", "b"))
BAD(bad_same_text, assert_string_not_equal("a", "a"))
BAD(bad_bytes, assert_memory_equal("ab", "ac", 2))
BAD(bad_same_bytes, assert_memory_not_equal("ab", "ab", 2))
BAD(bad_truth, assert_true(state == NULL))
BAD(bad_falsehood, assert_false(state != NULL))
BAD(bad_null, assert_null(state))
BAD(bad_pointer, assert_ptr_not_equal(state, state))
BAD(bad_because_it_says_so, fail_msg("%d", 1))
BAD(bad_without_a_word, fail())

int main(void)
{
    const struct CMUnitTest fine[] = {
        cmocka_unit_test_setup_teardown(good, set_up, tear_down),
        cmocka_unit_test_teardown(skipped, tear_down),
    };
    const struct CMUnitTest planted[] = {
        cmocka_unit_test(bad_number),
        cmocka_unit_test(bad_same_number),
        cmocka_unit_test(bad_text),
        cmocka_unit_test(bad_same_text),
        cmocka_unit_test(bad_bytes),
        cmocka_unit_test(bad_same_bytes),
        cmocka_unit_test(bad_truth),
        cmocka_unit_test(bad_falsehood),
        cmocka_unit_test(bad_null),
        cmocka_unit_test(bad_pointer),
        cmocka_unit_test(bad_without_a_word),
        cmocka_unit_test_teardown(bad_because_it_says_so, tear_down),
    };
    int n_fine = cmocka_run_group_tests(fine, NULL, NULL);
    int n_planted = cmocka_run_group_tests_name("planted", planted, NULL, NULL);
    int n_expected = (int)(sizeof(planted) / sizeof(planted[0]));

    printf(
        "%d of the good failed, %d of %d planted failures were found, %d fixtures of 3 released\n",
        n_fine, n_planted, n_expected, n_torn_down);
    return n_fine == 0 && n_planted == n_expected && n_torn_down == 3 ? 0 : 1;
}
