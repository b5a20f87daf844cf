/* Shares of the workers' time: played through with made-up costs, then with threads. */
#include "loader/turns.h"

#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "proto/base/memory.h"

enum { CAPACITY = 16, CONSUMERS = 3 };

/* What a slice of each consumer costs, and how many images it has. */
struct play {
    int64_t cost_ns[CONSUMERS], weight[CONSUMERS];
    int64_t spent_ns[CONSUMERS];
    int tokens[CONSUMERS][CAPACITY]; /* items: who they belong to */
    int n_waiting[CONSUMERS], wanted[CONSUMERS];
};

/* Keeps each consumer's wanted number waiting; `n_threads` take turns that end in the order in
 * which their costs say. */
static void run(struct turns *turns, struct play *play, int n_threads, int64_t until_ns)
{
    struct {
        struct turn turn;
        int64_t end_ns;
        bool busy;
    } threads[8] = {0};

    for (int64_t now_ns = 0; now_ns < until_ns;) {
        for (int c = 0; c < CONSUMERS; c++)
            for (; play->n_waiting[c] < play->wanted[c]; play->n_waiting[c]++)
                assert_int_equal(turns_push(turns, c, &play->tokens[c][0], play->weight[c]),
                                 STATUS_OK);
        for (int i = 0; i < n_threads; i++) {
            int waiting = play->n_waiting[0] + play->n_waiting[1] + play->n_waiting[2];
            if (threads[i].busy || waiting == 0)
                continue;
            assert_int_equal(turns_pop(turns, &threads[i].turn), STATUS_OK);
            int c = threads[i].turn.consumer;
            assert_ptr_equal(threads[i].turn.item, &play->tokens[c][0]);
            play->n_waiting[c]--;
            threads[i].busy = true;
            threads[i].end_ns = now_ns + play->cost_ns[c];
        }
        int first = -1;
        for (int i = 0; i < n_threads; i++)
            if (threads[i].busy && (first < 0 || threads[i].end_ns < threads[first].end_ns))
                first = i;
        assert_true(first >= 0);
        int c = threads[first].turn.consumer;
        now_ns = threads[first].end_ns;
        threads[first].busy = false;
        play->spent_ns[c] += play->cost_ns[c];
        turns_spent(turns, &threads[first].turn, play->cost_ns[c]);
    }
    for (int i = 0; i < n_threads; i++)
        if (threads[i].busy)
            turns_spent(turns, &threads[i].turn, play->cost_ns[threads[i].turn.consumer]);
}

static void shares_are_equal_in_time_whatever_slices_cost_and_how_many_wait(void **state)
{
    (void)state;
    for (int n_threads = 1; n_threads <= 8; n_threads++) {
        struct play play = {.cost_ns = {400000000, 10000000, 60000000},
                            .weight = {64, 1, 16},
                            .wanted = {16, 2 + n_threads, 16}};
        struct turns *turns = NULL;
        assert_int_equal(turns_open(&turns, CONSUMERS, CAPACITY), STATUS_OK);
        run(turns, &play, n_threads, 100000000000);
        int64_t all = play.spent_ns[0] + play.spent_ns[1] + play.spent_ns[2];
        for (int c = 0; c < CONSUMERS; c++) {
            int64_t percent = play.spent_ns[c] * 100 / all;
            assert_in_range(percent, 30, 37);
        }
        turns_close(&turns);
    }
}

static void the_time_of_an_idle_consumer_goes_to_the_others_and_is_not_owed(void **state)
{
    struct play play = {
        .cost_ns = {20000000, 20000000, 20000000}, .weight = {4, 4, 4}, .wanted = {4, 0, 0}};
    struct turns *turns = NULL;
    (void)state;

    assert_int_equal(turns_open(&turns, CONSUMERS, CAPACITY), STATUS_OK);
    run(turns, &play, 2, 50000000000);
    assert_true(play.spent_ns[0] > 99000000000); /* both threads */
    play.wanted[1] = 4;
    memset(play.spent_ns, 0, sizeof(play.spent_ns));
    run(turns, &play, 2, 2000000000);
    /* It gets half from now on, not all of it until it has caught up. */
    assert_in_range(play.spent_ns[0] / 1000000, 1800, 2200);
    assert_in_range(play.spent_ns[1] / 1000000, 1800, 2200);
    turns_close(&turns);
}

static void items_of_one_consumer_keep_their_order(void **state)
{
    struct turns *turns = NULL;
    int items[CAPACITY];
    struct turn turn;
    (void)state;

    assert_int_equal(turns_open(&turns, 1, CAPACITY), STATUS_OK);
    for (int round = 0; round < 3; round++) {
        for (int i = 0; i < CAPACITY; i++)
            assert_int_equal(turns_push(turns, 0, &items[i], 1 + i), STATUS_OK);
        for (int i = 0; i < CAPACITY; i++) {
            assert_int_equal(turns_pop(turns, &turn), STATUS_OK);
            assert_ptr_equal(turn.item, &items[i]);
            turns_spent(turns, &turn, 1000);
        }
    }
    turns_close(&turns);
    turns_close(&turns);
    turns_close(NULL);
}

static void *pop_until_shut(void *argument)
{
    struct turns *turns = argument;
    struct turn turn;
    intptr_t n = 0;

    while (turns_pop(turns, &turn) == STATUS_OK) {
        turns_spent(turns, &turn, 1000);
        n++;
    }
    return (void *)n;
}

static void shutting_wakes_who_waits_and_leaves_what_waited(void **state)
{
    struct turns *turns = NULL;
    pthread_t threads[4];
    int item = 0;
    void *left;
    (void)state;

    assert_int_equal(turns_open(&turns, 2, CAPACITY), STATUS_OK);
    for (int i = 0; i < 4; i++)
        assert_int_equal(pthread_create(&threads[i], NULL, pop_until_shut, turns), 0);
    turns_shut(turns);
    for (int i = 0; i < 4; i++)
        assert_int_equal(pthread_join(threads[i], NULL), 0);
    assert_int_equal(turns_push(turns, 0, &item, 1), STATUS_CLOSED);
    assert_false(turns_left(turns, &left));
    turns_close(&turns);

    assert_int_equal(turns_open(&turns, 2, CAPACITY), STATUS_OK);
    assert_int_equal(turns_push(turns, 0, &item, 1), STATUS_OK);
    assert_int_equal(turns_push(turns, 1, &item, 1), STATUS_OK);
    turns_shut(turns);
    assert_true(turns_left(turns, &left));
    assert_ptr_equal(left, &item);
    assert_true(turns_left(turns, &left));
    assert_false(turns_left(turns, &left));
    turns_close(&turns);
}

struct crowd {
    struct turns *turns;
    int consumer;
};

static void *push_many(void *argument)
{
    struct crowd *crowd = argument;

    for (int i = 0; i < 1000; i++)
        if (turns_push(crowd->turns, crowd->consumer, crowd, 1 + i % 7) != STATUS_OK)
            return NULL;
    return crowd;
}

static void nothing_is_lost_among_threads(void **state)
{
    struct turns *turns = NULL;
    struct crowd crowds[CONSUMERS];
    pthread_t pushers[CONSUMERS], poppers[4];
    intptr_t n_popped = 0;
    void *left, *result;
    (void)state;

    assert_int_equal(turns_open(&turns, CONSUMERS, 1000), STATUS_OK);
    for (int i = 0; i < 4; i++)
        assert_int_equal(pthread_create(&poppers[i], NULL, pop_until_shut, turns), 0);
    for (int c = 0; c < CONSUMERS; c++) {
        crowds[c] = (struct crowd){turns, c};
        assert_int_equal(pthread_create(&pushers[c], NULL, push_many, &crowds[c]), 0);
    }
    for (int c = 0; c < CONSUMERS; c++) {
        assert_int_equal(pthread_join(pushers[c], &result), 0);
        assert_non_null(result);
    }
    turns_shut(turns);
    for (int i = 0; i < 4; i++) {
        assert_int_equal(pthread_join(poppers[i], &result), 0);
        n_popped += (intptr_t)result;
    }
    while (turns_left(turns, &left))
        n_popped++;
    assert_int_equal(n_popped, CONSUMERS * 1000);
    turns_close(&turns);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(shares_are_equal_in_time_whatever_slices_cost_and_how_many_wait),
        cmocka_unit_test(the_time_of_an_idle_consumer_goes_to_the_others_and_is_not_owed),
        cmocka_unit_test(items_of_one_consumer_keep_their_order),
        cmocka_unit_test(shutting_wakes_who_waits_and_leaves_what_waited),
        cmocka_unit_test(nothing_is_lost_among_threads),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
