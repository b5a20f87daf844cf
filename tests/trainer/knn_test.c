/* k-NN: against votes counted plainly in double, and where votes could overflow or be no numbers.
 */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "proto/base/rng.h"
#include "trainer/eval/knn.h"

enum { N = 300, M = 90, DIM = 6, CLASSES = 8 };

static struct device device;
static float train[N * DIM], test[M * DIM];
static int32_t train_labels[N], test_labels[M];

static void draw(float *rows, int32_t *labels, int n, uint32_t sample)
{
    struct rng rng = rng_open((struct rng_key){.seed = 3, .sample = sample});

    for (int i = 0; i < n; i++) {
        double length = 0.0;
        labels[i] = (int32_t)(rng_uniform(&rng) * CLASSES);
        for (int d = 0; d < DIM; d++) {
            double value = rng_uniform(&rng) - 0.5 + (d == labels[i] % DIM ? 0.4 : 0.0);
            rows[i * DIM + d] = (float)value;
            length += value * value;
        }
        for (int d = 0; d < DIM; d++)
            rows[i * DIM + d] /= (float)sqrt(length);
    }
}

static int set_up(void **state)
{
    (void)state;
    draw(train, train_labels, N, 1);
    draw(test, test_labels, M, 2);
    return device_open_cpu(&device, 1) == STATUS_OK ? 0 : -1;
}

static int tear_down(void **state)
{
    (void)state;
    device_close(&device);
    return 0;
}

static struct knn_args args_for(struct knn_result *results, int32_t n, float temperature)
{
    return (struct knn_args){
        .train = train,
        .test = test,
        .train_labels = train_labels,
        .test_labels = test_labels,
        .n_train = N,
        .n_test = M,
        .dim = DIM,
        .n_classes = CLASSES,
        .temperature = temperature,
        .results = results,
        .n_results = n,
    };
}

/* Test rows whose class is among the best `most`; long double holds e^(1 / 0.001). */
static int64_t plain(int k, double temperature, int most)
{
    int64_t hits = 0;

    for (int i = 0; i < M; i++) {
        double similarity[N];
        bool taken[N] = {false};
        long double votes[CLASSES] = {0};
        int rank = 0;
        for (int j = 0; j < N; j++) {
            similarity[j] = 0.0;
            for (int d = 0; d < DIM; d++)
                similarity[j] += (double)test[i * DIM + d] * (double)train[j * DIM + d];
        }
        for (int round = 0; round < k; round++) {
            int best = -1;
            for (int j = 0; j < N; j++)
                if (!taken[j] && (best < 0 || similarity[j] > similarity[best]))
                    best = j;
            taken[best] = true;
            votes[train_labels[best]] += expl((long double)(similarity[best] / temperature));
        }
        for (int c = 0; c < CLASSES; c++)
            rank += votes[c] > votes[test_labels[i]] ||
                    (votes[c] == votes[test_labels[i]] && c < test_labels[i]);
        hits += rank < most;
    }
    return hits;
}

static void votes_are_those_counted_plainly(void **state)
{
    static const double temperatures[] = {0.07, 1.0, 0.001};

    (void)state;
    for (int t = 0; t < 3; t++) {
        struct knn_result results[] = {{.k = 1}, {.k = 10}, {.k = 50}, {.k = N}};
        struct knn_args args = args_for(results, 4, (float)temperatures[t]);
        assert_int_equal(knn_classify(&device, &op_table_cpu, &args), STATUS_OK);
        for (int r = 0; r < 4; r++) {
            assert_int_equal(results[r].top1, plain(results[r].k, temperatures[t], 1));
            assert_int_equal(results[r].top5, plain(results[r].k, temperatures[t], 5));
        }
        assert_true(results[1].top1 > M / CLASSES && results[1].top1 < M);
    }
}

static void features_that_are_no_numbers_are_never_right(void **state)
{
    struct knn_result result = {.k = 5};
    struct knn_args args = args_for(&result, 1, 0.07f);
    float broken[M * DIM];

    (void)state;
    for (int i = 0; i < M * DIM; i++)
        broken[i] = NAN;
    args.test = broken;
    assert_int_equal(knn_classify(&device, &op_table_cpu, &args), STATUS_OK);
    assert_int_equal(result.top1, 0);
}

static void what_cannot_be_asked_is_refused_and_a_stop_is_heard(void **state)
{
    struct knn_result result = {.k = N + 1};
    struct knn_args args = args_for(&result, 1, 0.07f);
    const atomic_int stop = 1;

    (void)state;
    assert_int_equal(knn_classify(&device, &op_table_cpu, &args), STATUS_INVALID);
    result.k = 5;
    args.stop = &stop;
    assert_int_equal(knn_classify(&device, &op_table_cpu, &args), STATUS_INTERRUPTED);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(votes_are_those_counted_plainly),
        cmocka_unit_test(features_that_are_no_numbers_are_never_right),
        cmocka_unit_test(what_cannot_be_asked_is_refused_and_a_stop_is_heard),
    };
    return cmocka_run_group_tests(tests, set_up, tear_down);
}
