/* Of a loop's failures the first in order is told, whichever thread comes first. */
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "proto/base/first_failure.h"

enum { THREADS = 4, TURNS = 400 };

static enum status turn(int64_t i)
{
    if (i % 7 == 5)
        FAIL(STATUS_CORRUPT, "turn %d is wrong", (int)i);
    if (i % 7 == 6)
        FAIL(STATUS_IO, "turn %d is not to be had", (int)i);
    return STATUS_OK;
}

struct worker {
    pthread_t thread;
    struct first_failure *failure;
    int64_t first;
};

/* Every fourth turn, the last ones first. */
static void *work(void *argument)
{
    const struct worker *w = argument;

    for (int64_t i = TURNS - THREADS + w->first; i >= 0; i -= THREADS)
        first_failure_note(w->failure, i, turn(i));
    return NULL;
}

static void the_first_in_order_is_told(void **state)
{
    struct first_failure failure = FIRST_FAILURE_NONE;
    struct worker workers[THREADS];

    (void)state;
    for (int i = 0; i < THREADS; i++) {
        workers[i] = (struct worker){.failure = &failure, .first = i};
        assert_int_equal(pthread_create(&workers[i].thread, NULL, work, &workers[i]), 0);
    }
    for (int i = 0; i < THREADS; i++)
        assert_int_equal(pthread_join(workers[i].thread, NULL), 0);
    assert_int_equal(first_failure_take(&failure), STATUS_CORRUPT);
    assert_non_null(strstr(status_message(), "turn 5 is wrong"));
}

static void without_a_failure_all_is_well(void **state)
{
    struct first_failure failure = FIRST_FAILURE_NONE;

    (void)state;
    for (int64_t i = 0; i < 5; i++)
        first_failure_note(&failure, i, turn(i));
    assert_int_equal(first_failure_take(&failure), STATUS_OK);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_first_in_order_is_told),
        cmocka_unit_test(without_a_failure_all_is_well),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
