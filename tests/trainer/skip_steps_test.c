/* Which steps --skip_steps names, and what of it a resumed run may change. */
#include "trainer/train/skip_steps.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

static struct skip_steps parse(const char *text)
{
    struct skip_steps skip;

    if (skip_steps_parse(&skip, text) != STATUS_OK)
        fail_msg("%s", status_message());
    return skip;
}

static void assert_ranges(const char *text, int n, const int64_t (*ranges)[2])
{
    struct skip_steps skip = parse(text);

    assert_int_equal(skip.n, n);
    for (int i = 0; i < n; i++) {
        assert_int_equal(skip.ranges[i].first, ranges[i][0]);
        assert_int_equal(skip.ranges[i].last, ranges[i][1]);
    }
}

static void ranges_are_read_sorted_and_joined(void **state)
{
    (void)state;
    assert_ranges(NULL, 0, NULL);
    assert_ranges("", 0, NULL);
    assert_ranges("7", 1, (const int64_t[][2]){{7, 7}});
    assert_ranges("120-130,400", 2, (const int64_t[][2]){{120, 130}, {400, 400}});
    assert_ranges("9,3-5,6-7,20-30,25", 3, (const int64_t[][2]){{3, 7}, {9, 9}, {20, 30}});
}

static void steps_are_found_at_both_ends_and_nowhere_else(void **state)
{
    struct skip_steps skip = parse("3-5,9");

    (void)state;
    for (int64_t step = 0; step < 12; step++)
        assert_int_equal(skip_steps_find(&skip, step) != NULL,
                         (step >= 3 && step <= 5) || step == 9);
    assert_int_equal(skip_steps_find(&skip, 4)->last, 5);
}

static void what_is_no_range_is_refused(void **state)
{
    static const char *const texts[] = {
        "x", "5-3", "3-", "-3", "3,", ",3", "3 4", "3-5-6", "+3", "1e3", "9999999999999999999"};
    struct skip_steps skip = parse("1");
    char many[512] = "1";

    (void)state;
    for (size_t i = 0; i < sizeof(texts) / sizeof(texts[0]); i++) {
        assert_int_equal(skip_steps_parse(&skip, texts[i]), STATUS_INVALID);
        assert_non_null(strstr(status_message(), texts[i]));
        assert_int_equal(skip.n, 1);
    }
    for (int i = 0; i < SKIP_STEPS_MAX_RANGES; i++)
        strcat(many, ",1");
    assert_int_equal(skip_steps_parse(&skip, many), STATUS_INVALID);
}

static void only_steps_that_were_made_must_agree(void **state)
{
    struct skip_steps none = parse(NULL), one = parse("10-20"), two = parse("10-20,50");

    (void)state;
    assert_true(skip_steps_agree(&none, &one, 10));
    assert_false(skip_steps_agree(&none, &one, 11));
    assert_true(skip_steps_agree(&one, &two, 50));
    assert_false(skip_steps_agree(&two, &one, 51));
    none = parse("10-14");
    assert_true(skip_steps_agree(&none, &one, 15));
    assert_false(skip_steps_agree(&none, &one, 16));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(ranges_are_read_sorted_and_joined),
        cmocka_unit_test(steps_are_found_at_both_ends_and_nowhere_else),
        cmocka_unit_test(what_is_no_range_is_refused),
        cmocka_unit_test(only_steps_that_were_made_must_agree),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
