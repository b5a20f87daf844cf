/* The official order: values of PyTorch's randperm, striding, and the cache of epochs. */
#include "loader/order.h"

#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdlib.h>

#include <cmocka.h>

static void the_permutation_is_that_of_pytorch(void **state)
{
    static const uint32_t wanted[10] = {4, 1, 7, 5, 3, 9, 0, 8, 6, 2};
    uint32_t got[10];

    (void)state;
    order_permutation(0, 0, 10, got);
    assert_memory_equal(got, wanted, sizeof(wanted));
}

/* torch.randperm(100000, generator=manual_seed(7 + 5)): first, last, and an XOR-rotate over all. */
static void long_permutations_and_other_seeds_are_too(void **state)
{
    uint32_t n = 100000, *got = calloc(n, sizeof(*got)), sum = 0;

    (void)state;
    order_permutation(7, 5, n, got);
    for (uint32_t i = 0; i < n; i++)
        sum = (sum << 5 | sum >> 27) ^ got[i];
    assert_int_equal(got[0], 24363);
    assert_int_equal(got[n - 1], 86268);
    assert_int_equal(sum, 984469670u);
    free(got);
}

static void ranks_take_strided_positions_and_the_list_goes_round(void **state)
{
    static const uint32_t wanted[4][3] = {{4, 3, 6}, {1, 9, 2}, {7, 0, 4}, {5, 8, 1}};
    struct order *order = NULL;
    uint32_t sample;

    (void)state;
    assert_int_equal(order_open(&order, 10), STATUS_OK);
    for (uint64_t rank = 0; rank < 4; rank++)
        for (uint64_t i = 0; i < 3; i++) {
            assert_int_equal(order_sample(order, true, 0, 0, rank + 4 * i, &sample), STATUS_OK);
            assert_int_equal(sample, wanted[rank][i]);
            assert_int_equal(order_sample(order, false, 0, 0, rank + 4 * i, &sample), STATUS_OK);
            assert_int_equal(sample, (rank + 4 * i) % 10);
        }
    order_close(&order);
    order_close(&order);
}

enum { N = 1000, N_EPOCHS = 5, N_THREADS = 4 };

struct reader {
    struct order *order;
    uint32_t (*wanted)[N];
    unsigned first;
    int n_wrong;
};

static void *read_epochs(void *argument)
{
    struct reader *reader = argument;

    for (unsigned i = 0; i < 4 * N_EPOCHS; i++)
        for (unsigned p = 0; p < N; p += 37) {
            int32_t epoch = (int32_t)((reader->first + i) % N_EPOCHS);
            uint32_t sample = N;
            reader->n_wrong += order_sample(reader->order, true, 3, epoch, p, &sample) != STATUS_OK;
            reader->n_wrong += sample != reader->wanted[epoch][p];
        }
    return NULL;
}

static void threads_in_different_epochs_read_the_right_ones(void **state)
{
    static uint32_t wanted[N_EPOCHS][N];
    struct reader readers[N_THREADS];
    pthread_t threads[N_THREADS];
    struct order *order = NULL;

    (void)state;
    for (int32_t epoch = 0; epoch < N_EPOCHS; epoch++)
        order_permutation(3, epoch, N, wanted[epoch]);
    assert_int_equal(order_open(&order, N), STATUS_OK);
    for (unsigned i = 0; i < N_THREADS; i++) {
        readers[i] = (struct reader){order, wanted, i, 0};
        assert_int_equal(pthread_create(&threads[i], NULL, read_epochs, &readers[i]), 0);
    }
    for (unsigned i = 0; i < N_THREADS; i++) {
        pthread_join(threads[i], NULL);
        assert_int_equal(readers[i].n_wrong, 0);
    }
    order_close(&order);
}

static void orders_of_other_seeds_are_others(void **state)
{
    uint32_t wanted[2][N], sample;
    struct order *order = NULL;

    (void)state;
    assert_int_equal(order_open(&order, N), STATUS_OK);
    for (uint32_t seed = 0; seed < 2; seed++)
        order_permutation(seed, 4, N, wanted[seed]);
    for (uint64_t i = 0; i < N; i++)
        for (uint32_t seed = 0; seed < 2; seed++) {
            assert_int_equal(order_sample(order, true, seed, 4, i, &sample), STATUS_OK);
            assert_int_equal(sample, wanted[seed][i]);
        }
    order_close(&order);
}

/* Eight runs, each at the end of an epoch of its own: none displaces the orders of another. One
 * that nobody asks for any more gives its place away. */
static void orders_in_use_are_made_once(void **state)
{
    enum { N_RUNS = 8 };
    struct order *order = NULL;
    uint32_t sample;

    (void)state;
    assert_int_equal(order_open(&order, N), STATUS_OK);
    for (uint64_t i = 0; i < 1000; i++)
        for (int32_t run = 0; run < N_RUNS; run++)
            assert_int_equal(
                order_sample(order, true, 0, 10 * run + (int32_t)(i & 1), i % N, &sample),
                STATUS_OK);
    assert_int_equal(order_n_made(order), 2 * N_RUNS);
    for (int32_t epoch = 1000; epoch < 1400; epoch++) /* the next ones of a single run */
        for (uint64_t i = 0; i < N; i++)
            assert_int_equal(order_sample(order, true, 0, epoch, i, &sample), STATUS_OK);
    assert_int_equal(order_n_made(order), 2 * N_RUNS + 400);
    order_close(&order);
}

static void an_order_of_nothing_is_refused(void **state)
{
    struct order *order = NULL;

    (void)state;
    assert_int_equal(order_open(&order, 0), STATUS_INVALID);
    assert_null(order);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_permutation_is_that_of_pytorch),
        cmocka_unit_test(long_permutations_and_other_seeds_are_too),
        cmocka_unit_test(ranks_take_strided_positions_and_the_list_goes_round),
        cmocka_unit_test(threads_in_different_epochs_read_the_right_ones),
        cmocka_unit_test(orders_of_other_seeds_are_others),
        cmocka_unit_test(orders_in_use_are_made_once),
        cmocka_unit_test(an_order_of_nothing_is_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
