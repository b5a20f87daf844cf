/* Logistic regression: its gradient vanishes where it ends, by a plain sum in double. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "proto/base/rng.h"
#include "trainer/eval/logistic.h"

enum { N = 600, M = 200, DIM = 12, CLASSES = 5 };

static struct device device;
static float train[N * DIM], test[M * DIM], weight[3 * CLASSES * DIM];
static int32_t train_labels[N], test_labels[M];

/* Unit vectors around one centre per class; `noise` mixes them. */
static void draw(float *rows, int32_t *labels, int n, double noise, uint32_t sample)
{
    struct rng rng = rng_open((struct rng_key){.seed = 7, .sample = sample});

    for (int i = 0; i < n; i++) {
        double length = 0.0;
        labels[i] = i % CLASSES;
        for (int d = 0; d < DIM; d++) {
            double value = noise * (rng_uniform(&rng) - 0.5) + (d == labels[i] ? 1.0 : 0.0);
            rows[i * DIM + d] = (float)value;
            length += value * value;
        }
        for (int d = 0; d < DIM; d++)
            rows[i * DIM + d] /= (float)sqrt(length);
    }
}

static int open_device(void **state)
{
    (void)state;
    return device_open_cpu(&device, 1) == STATUS_OK ? 0 : -1;
}

static int close_device(void **state)
{
    (void)state;
    device_close(&device);
    return 0;
}

static struct logistic_args args_for(struct logistic_result *results, int32_t n)
{
    return (struct logistic_args){
        .train = train,
        .test = test,
        .train_labels = train_labels,
        .test_labels = test_labels,
        .n_train = N,
        .n_test = M,
        .dim = DIM,
        .n_classes = CLASSES,
        .max_iterations = 500,
        .n_results = n,
        .tolerance = 1e-4,
        .results = results,
        .weight = weight,
    };
}

/* Loss and length of the gradient at w, straight from the formula. */
static void plain(const float *w, double lambda, double *loss, double *norm)
{
    static double gradient[CLASSES * DIM];
    double squares = 0.0;

    *loss = 0.0;
    for (int i = 0; i < CLASSES * DIM; i++) {
        gradient[i] = lambda * (double)w[i];
        *loss += 0.5 * lambda * (double)w[i] * (double)w[i];
    }
    for (int i = 0; i < N; i++) {
        double z[CLASSES], sum = 0.0;
        for (int c = 0; c < CLASSES; c++) {
            z[c] = 0.0;
            for (int d = 0; d < DIM; d++)
                z[c] += (double)w[c * DIM + d] * (double)train[i * DIM + d];
            sum += exp(z[c]);
        }
        *loss += (log(sum) - z[train_labels[i]]) / N;
        for (int c = 0; c < CLASSES; c++)
            for (int d = 0; d < DIM; d++)
                gradient[c * DIM + d] +=
                    (exp(z[c]) / sum - (c == train_labels[i])) * (double)train[i * DIM + d] / N;
    }
    for (int i = 0; i < CLASSES * DIM; i++)
        squares += gradient[i] * gradient[i];
    *norm = sqrt(squares);
}

static void each_classifier_ends_where_its_gradient_vanishes(void **state)
{
    struct logistic_result results[3] = {{.lambda = 1e-2}, {.lambda = 1e-4}, {.lambda = 1e-6}};
    struct logistic_args args = args_for(results, 3);
    static const float zero[CLASSES * DIM];
    double loss, norm, loss_at_zero, norm_at_zero;

    (void)state;
    draw(train, train_labels, N, 3.0, 1);
    draw(test, test_labels, M, 3.0, 2);
    assert_int_equal(logistic_classify(&device, &op_table_cpu, &args), STATUS_OK);
    for (int r = 0; r < 3; r++) {
        plain(zero, results[r].lambda, &loss_at_zero, &norm_at_zero);
        plain(weight + r * CLASSES * DIM, results[r].lambda, &loss, &norm);
        assert_true(fabs(loss_at_zero - log(CLASSES)) < 1e-9);
        assert_true(fabs(loss - results[r].loss) < 1e-5 * loss);
        assert_true(norm < 2e-4 * norm_at_zero);
        assert_true(results[r].n_iterations > 1 && results[r].n_iterations < 500);
        assert_true(results[r].top1 > 40.0 && results[r].top1 < 99.0);
        assert_true(results[r].top5 == 100.0);
    }
    assert_true(results[2].loss < results[1].loss && results[1].loss < results[0].loss);
}

static void classes_that_can_be_told_apart_are(void **state)
{
    struct logistic_result result = {.lambda = 1e-4};
    struct logistic_args args = args_for(&result, 1);

    (void)state;
    draw(train, train_labels, N, 0.3, 3);
    draw(test, test_labels, M, 0.3, 4);
    assert_int_equal(logistic_classify(&device, &op_table_cpu, &args), STATUS_OK);
    assert_true(result.top1 == 100.0);
    for (int i = 0; i < M; i++) /* with the labels of others it is never right */
        test_labels[i] = (test_labels[i] + 1) % CLASSES;
    assert_int_equal(logistic_classify(&device, &op_table_cpu, &args), STATUS_OK);
    assert_true(result.top1 == 0.0);
}

static void the_search_ends_at_its_limit(void **state)
{
    struct logistic_result result = {.lambda = 1e-6};
    struct logistic_args args = args_for(&result, 1);

    (void)state;
    draw(train, train_labels, N, 3.0, 1);
    args.max_iterations = 3;
    assert_int_equal(logistic_classify(&device, &op_table_cpu, &args), STATUS_OK);
    assert_int_equal(result.n_iterations, 3);
    assert_true(result.gradient_norm > 1e-4);
}

static void a_lambda_of_zero_is_refused(void **state)
{
    struct logistic_result result = {.lambda = 0.0};
    struct logistic_args args = args_for(&result, 1);

    (void)state;
    assert_int_equal(logistic_classify(&device, &op_table_cpu, &args), STATUS_INVALID);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(each_classifier_ends_where_its_gradient_vanishes),
        cmocka_unit_test(classes_that_can_be_told_apart_are),
        cmocka_unit_test(the_search_ends_at_its_limit),
        cmocka_unit_test(a_lambda_of_zero_is_refused),
    };
    return cmocka_run_group_tests(tests, open_device, close_device);
}
