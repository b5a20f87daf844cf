/* How much of what a stranger says is listened to. */
#include "proto/wire/strangers.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>

#include <cmocka.h>

static const int64_t second_ns = 1000000000;

static int hear(struct strangers *strangers, uint32_t connection, int n, int64_t now_ns)
{
    int n_heard = 0;

    for (int i = 0; i < n; i++)
        n_heard +=
            strangers_hear(strangers, (const uint8_t *)&connection, sizeof(connection), now_ns);
    return n_heard;
}

static int open_table(void **state)
{
    *state = calloc(1, sizeof(struct strangers));
    return *state == NULL;
}

static int close_table(void **state)
{
    free(*state);
    return 0;
}

static void a_connection_is_heard_some_times_and_then_now_and_then(void **state)
{
    int64_t now_ns = 5 * second_ns;

    assert_int_equal(hear(*state, 7, 1000, now_ns), STRANGERS_BURST);
    for (int i = 0; i < 10; i++) {
        now_ns += second_ns;
        assert_in_range(hear(*state, 7, 1000, now_ns), STRANGERS_PER_SECOND - 1,
                        STRANGERS_PER_SECOND + 1);
    }
    now_ns += 3600 * second_ns; /* silence earns no more than a burst */
    assert_int_equal(hear(*state, 7, 1000, now_ns), STRANGERS_BURST);
}

static void one_that_says_little_is_always_heard(void **state)
{
    for (int i = 0; i < 1000; i++)
        assert_int_equal(hear(*state, 7, 4, i * second_ns / 4), 4);
}

static void connections_do_not_take_each_others_allowance(void **state)
{
    assert_int_equal(hear(*state, 1, 1000, second_ns), STRANGERS_BURST);
    assert_int_equal(hear(*state, 2, 1000, second_ns), STRANGERS_BURST);
    /* Far more than the table has places for: whoever is new has its own. */
    for (uint32_t i = 0; i < 10 * STRANGERS_KEPT; i++)
        assert_int_equal(hear(*state, 100 + i, 1, second_ns), 1);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(a_connection_is_heard_some_times_and_then_now_and_then,
                                        open_table, close_table),
        cmocka_unit_test_setup_teardown(one_that_says_little_is_always_heard, open_table,
                                        close_table),
        cmocka_unit_test_setup_teardown(connections_do_not_take_each_others_allowance, open_table,
                                        close_table),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
