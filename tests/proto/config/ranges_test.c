/* Numbers as people choose them, and whether two choices agree. */
#include "proto/config/ranges.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

static struct ranges parse(const char *text)
{
    struct ranges ranges;

    if (ranges_parse(&ranges, "--steps", text) != STATUS_OK)
        fail_msg("%s", status_message());
    return ranges;
}

static void assert_ranges(const char *text, int n, const int64_t (*wanted)[2])
{
    struct ranges ranges = parse(text);

    assert_int_equal(ranges.n, n);
    for (int i = 0; i < n; i++) {
        assert_int_equal(ranges.ranges[i].first, wanted[i][0]);
        assert_int_equal(ranges.ranges[i].last, wanted[i][1]);
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

static void numbers_are_found_at_both_ends_and_nowhere_else(void **state)
{
    struct ranges ranges = parse("3-5,9");

    (void)state;
    for (int64_t number = 0; number < 12; number++)
        assert_int_equal(ranges_find(&ranges, number) != NULL,
                         (number >= 3 && number <= 5) || number == 9);
    assert_int_equal(ranges_find(&ranges, 4)->last, 5);
}

static void what_is_no_range_is_refused(void **state)
{
    static const char *const texts[] = {
        "x", "5-3", "3-", "-3", "3,", ",3", "3 4", "3-5-6", "+3", "1e3", "9999999999999999999"};
    struct ranges ranges = parse("1");
    char many[512] = "1";

    (void)state;
    for (size_t i = 0; i < sizeof(texts) / sizeof(texts[0]); i++) {
        assert_int_equal(ranges_parse(&ranges, "--steps", texts[i]), STATUS_INVALID);
        assert_non_null(strstr(status_message(), texts[i]));
        assert_int_equal(ranges.n, 1);
    }
    for (int i = 0; i < RANGES_MAX; i++)
        strcat(many, ",1");
    assert_int_equal(ranges_parse(&ranges, "--steps", many), STATUS_INVALID);
}

static void two_choices_agree_up_to_a_number(void **state)
{
    struct ranges none = parse(NULL), one = parse("10-20"), two = parse("10-20,50");

    (void)state;
    assert_true(ranges_agree(&none, &one, 10));
    assert_false(ranges_agree(&none, &one, 11));
    assert_true(ranges_agree(&one, &two, 50));
    assert_false(ranges_agree(&two, &one, 51));
    none = parse("10-14");
    assert_true(ranges_agree(&none, &one, 15));
    assert_false(ranges_agree(&none, &one, 16));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(ranges_are_read_sorted_and_joined),
        cmocka_unit_test(numbers_are_found_at_both_ends_and_nowhere_else),
        cmocka_unit_test(what_is_no_range_is_refused),
        cmocka_unit_test(two_choices_agree_up_to_a_number),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
