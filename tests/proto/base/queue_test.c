/* The bounded queue: order, room, deadlines, closing, and many threads at once. */
#include "proto/base/queue.h"

#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "proto/base/clock.h"

enum { N_PRODUCERS = 3, N_CONSUMERS = 3, N_ITEMS = 5000 };

static void items_come_out_in_order(void **state)
{
    struct queue *queue;
    int numbers[10];
    void *item;
    (void)state;

    assert_int_equal(queue_open(&queue, 4), STATUS_OK);
    for (int round = 0; round < 5; round++) {
        for (int i = 0; i < 4; i++)
            assert_int_equal(queue_push(queue, &numbers[i], 0), STATUS_OK);
        assert_int_equal(queue_length(queue), 4);
        for (int i = 0; i < 4; i++) {
            assert_int_equal(queue_pop(queue, &item, 0), STATUS_OK);
            assert_ptr_equal(item, &numbers[i]);
        }
    }
    queue_close(&queue);
    assert_null(queue);
    queue_close(&queue);
    queue_close(NULL);
}

static void a_full_or_empty_queue_waits_until_the_deadline(void **state)
{
    struct queue *queue;
    void *item = &item;
    (void)state;

    assert_int_equal(queue_open(&queue, 1), STATUS_OK);
    assert_int_equal(queue_pop(queue, &item, 0), STATUS_TIMEOUT);
    int64_t begin = clock_monotonic_ns();
    assert_int_equal(queue_pop(queue, &item, begin + 20000000), STATUS_TIMEOUT);
    assert_true(clock_monotonic_ns() >= begin + 20000000);
    assert_ptr_equal(item, &item);

    assert_int_equal(queue_push(queue, &queue, INT64_MAX), STATUS_OK);
    assert_int_equal(queue_push(queue, &queue, 0), STATUS_TIMEOUT);
    begin = clock_monotonic_ns();
    assert_int_equal(queue_push(queue, &queue, begin + 20000000), STATUS_TIMEOUT);
    assert_true(clock_monotonic_ns() >= begin + 20000000);
    assert_int_equal(queue_push(queue, &queue, begin - 1), STATUS_TIMEOUT);
    assert_int_equal(queue_length(queue), 1);
    queue_close(&queue);
}

static void a_shut_queue_hands_out_the_rest_and_takes_nothing(void **state)
{
    struct queue *queue;
    void *item;
    (void)state;

    assert_int_equal(queue_open(&queue, 3), STATUS_OK);
    assert_int_equal(queue_push(queue, &queue, 0), STATUS_OK);
    queue_shut(queue);
    queue_shut(queue);
    assert_int_equal(queue_push(queue, &queue, INT64_MAX), STATUS_CLOSED);
    assert_int_equal(queue_pop(queue, &item, INT64_MAX), STATUS_OK);
    assert_int_equal(queue_pop(queue, &item, INT64_MAX), STATUS_CLOSED);
    queue_close(&queue);
}

static void *pop_forever(void *argument)
{
    void *item;
    return (void *)(uintptr_t)queue_pop(argument, &item, INT64_MAX);
}

static void *push_forever(void *argument)
{
    return (void *)(uintptr_t)queue_push(argument, argument, INT64_MAX);
}

/* Whether the waiters wait already when the queue is shut, or come later, the answer is the same.
 */
static void shutting_wakes_every_waiter(void **state)
{
    struct queue *empty, *full;
    pthread_t threads[6];
    void *result;
    (void)state;

    assert_int_equal(queue_open(&empty, 1), STATUS_OK);
    assert_int_equal(queue_open(&full, 1), STATUS_OK);
    assert_int_equal(queue_push(full, full, 0), STATUS_OK);
    for (int i = 0; i < 3; i++) {
        assert_int_equal(pthread_create(&threads[i], NULL, pop_forever, empty), 0);
        assert_int_equal(pthread_create(&threads[i + 3], NULL, push_forever, full), 0);
    }
    queue_shut(empty);
    queue_shut(full);
    for (int i = 0; i < 6; i++) {
        assert_int_equal(pthread_join(threads[i], &result), 0);
        assert_int_equal((uintptr_t)result, STATUS_CLOSED);
    }
    queue_close(&empty);
    queue_close(&full);
}

struct crowd {
    struct queue *queue;
    unsigned char seen[N_PRODUCERS * N_ITEMS]; /* each written by the thread that popped it */
};

struct producer {
    struct crowd *crowd;
    int number;
};

static void *produce(void *argument)
{
    struct producer *producer = argument;

    for (int i = 0; i < N_ITEMS; i++) {
        unsigned char *item = &producer->crowd->seen[producer->number * N_ITEMS + i];
        if (queue_push(producer->crowd->queue, item, INT64_MAX) != STATUS_OK)
            return argument;
    }
    return NULL;
}

/* Also checks that items of one producer reach this consumer in the order they were pushed. */
static void *consume(void *argument)
{
    struct crowd *crowd = argument;
    unsigned char *last[N_PRODUCERS] = {NULL};
    void *item;

    while (queue_pop(crowd->queue, &item, INT64_MAX) == STATUS_OK) {
        unsigned char *at = item;
        size_t number = (size_t)(at - crowd->seen) / N_ITEMS;
        if (last[number] != NULL && at <= last[number])
            return argument;
        last[number] = at;
        ++*at;
    }
    return NULL;
}

static void many_threads_get_every_item_once(void **state)
{
    static struct crowd crowd;
    struct producer producers[N_PRODUCERS];
    pthread_t threads[N_PRODUCERS + N_CONSUMERS];
    void *result;
    (void)state;

    memset(&crowd, 0, sizeof(crowd));
    assert_int_equal(queue_open(&crowd.queue, 7), STATUS_OK);
    for (int i = 0; i < N_PRODUCERS; i++) {
        producers[i] = (struct producer){&crowd, i};
        assert_int_equal(pthread_create(&threads[i], NULL, produce, &producers[i]), 0);
    }
    for (int i = 0; i < N_CONSUMERS; i++)
        assert_int_equal(pthread_create(&threads[N_PRODUCERS + i], NULL, consume, &crowd), 0);
    for (int i = 0; i < N_PRODUCERS; i++) {
        assert_int_equal(pthread_join(threads[i], &result), 0);
        assert_null(result);
    }
    queue_shut(crowd.queue);
    for (int i = 0; i < N_CONSUMERS; i++) {
        assert_int_equal(pthread_join(threads[N_PRODUCERS + i], &result), 0);
        assert_null(result);
    }
    for (int i = 0; i < N_PRODUCERS * N_ITEMS; i++)
        assert_int_equal(crowd.seen[i], 1);
    assert_int_equal(queue_length(crowd.queue), 0);
    queue_close(&crowd.queue);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(items_come_out_in_order),
        cmocka_unit_test(a_full_or_empty_queue_waits_until_the_deadline),
        cmocka_unit_test(a_shut_queue_hands_out_the_rest_and_takes_nothing),
        cmocka_unit_test(shutting_wakes_every_waiter),
        cmocka_unit_test(many_threads_get_every_item_once),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
