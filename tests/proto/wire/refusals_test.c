/* What a log is told of refused peers: everything at first, little of a flood. */
#include "proto/wire/refusals.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#define SECOND INT64_C(1000000000)

static struct refusals *fresh(void)
{
    struct refusals *refusals = calloc(1, sizeof(*refusals));
    assert_non_null(refusals);
    return refusals;
}

static void each_is_told_once_a_minute_with_how_often_it_came(void **state)
{
    struct refusals *refusals = fresh();
    int64_t now = 1000 * SECOND;
    char text[REFUSAL_TEXT_BYTES + 32];
    (void)state;
    assert_false(refusals_take(refusals, text, sizeof(text), now));
    refusals_note(refusals, "first", now);
    refusals_note(refusals, "second", now + 1);
    assert_true(refusals_take(refusals, text, sizeof(text), now + 2));
    assert_string_equal(text, "first");
    assert_true(refusals_take(refusals, text, sizeof(text), now + 2));
    assert_string_equal(text, "second");
    assert_false(refusals_take(refusals, text, sizeof(text), now + 2));
    for (int i = 0; i < 500; i++)
        refusals_note(refusals, "first", now + SECOND);
    assert_false(refusals_take(refusals, text, sizeof(text), now + 59 * SECOND));
    assert_true(refusals_take(refusals, text, sizeof(text), now + 61 * SECOND));
    assert_string_equal(text, "first (500 times)");
    assert_false(refusals_take(refusals, text, sizeof(text), now + 600 * SECOND));
    free(refusals);
}

static void a_flood_of_texts_gives_few_lines_and_their_number(void **state)
{
    struct refusals *refusals = fresh();
    char text[REFUSAL_TEXT_BYTES + 32], name[32];
    int64_t now = 1000 * SECOND;
    int n_lines = 0, n_told = 0;
    (void)state;
    for (int i = 0; i < 600000; i++) { /* ten minutes, a thousand texts a second */
        snprintf(name, sizeof(name), "peer %d", i);
        refusals_note(refusals, name, now += SECOND / 1000);
        while (refusals_take(refusals, text, sizeof(text), now)) {
            unsigned long long n = 0;
            n_lines++;
            n_told += sscanf(text, "%llu more", &n) == 1 ? (int)n : 1;
        }
    }
    assert_true(n_lines >= 100 && n_lines <= REFUSALS_BURST + 201); /* one in three seconds */
    now += 3600 * SECOND;
    for (; refusals_take(refusals, text, sizeof(text), now); now += 60 * SECOND) {
        unsigned long long n = 0;
        n_told += sscanf(text, "%llu more", &n) == 1 ? (int)n : 1;
    }
    assert_int_equal(n_told, 600000); /* none is lost from the count */
    free(refusals);
}

static void a_text_that_is_too_long_is_cut(void **state)
{
    struct refusals *refusals = fresh();
    char large[4096], text[REFUSAL_TEXT_BYTES + 32];
    (void)state;
    memset(large, 'x', sizeof(large) - 1);
    large[sizeof(large) - 1] = '\0';
    refusals_note(refusals, large, 1000 * SECOND);
    refusals_note(refusals, large, 1000 * SECOND); /* the same one */
    assert_true(refusals_take(refusals, text, sizeof(text), 1000 * SECOND));
    assert_int_equal(strlen(text), REFUSAL_TEXT_BYTES - 1 + strlen(" (2 times)"));
    free(refusals);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(each_is_told_once_a_minute_with_how_often_it_came),
        cmocka_unit_test(a_flood_of_texts_gives_few_lines_and_their_number),
        cmocka_unit_test(a_text_that_is_too_long_is_cut),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
