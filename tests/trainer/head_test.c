/* The head alone, against the tables of the reference. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#include "proto/base/memory.h"
#include "tests/trainer/model_fixture.h"

enum { WIDTH = 32, N_ROWS = 12, K = 64 };

/* The small model's head, its parameters filled as if it stood alone. */
static void open_filled(struct model_fixture *f, const struct ibot_options *o)
{
    model_fixture_open(f, o);
    const struct param_table *table = &f->ibot->student.table;
    int64_t t = 0;
    for (size_t i = 0; i < table->n_params; i++)
        if (strncmp(table->params[i].name, "head.", 5) == 0)
            fill_parameter(&table->params[i], f->ibot->student.parameters + table->params[i].offset,
                           t++);
}

static void fill_rows(float *rows)
{
    fill_wave(rows, N_ROWS * WIDTH, 0.3);
}

static void cls_rows_give_the_reference_logits(void **state)
{
    struct ibot_options o = model_options_small();
    struct model_fixture f;
    float rows[N_ROWS * WIDTH], logits[5 * K];

    (void)state;
    open_filled(&f, &o);
    fill_rows(rows);
    struct head *head = &f.ibot->student.head;
    assert_int_equal(head_prepare(head), STATUS_OK);
    assert_int_equal(head_forward(head, vector(rows, 0), 5), STATUS_OK);
    assert_int_equal(head_exact_logits(head, false, head->z, 5, logits), STATUS_OK);
    assert_near(sum_of(logits, 5 * K), 12.349735, 5e-5);
    assert_near(absolute_sum(logits, 5 * K), 129.822075, 1e-4);
    static const double first[4] = {0.065982, 0.291793, 0.470159, 0.583244};
    for (int i = 0; i < 4; i++)
        assert_near((double)logits[i], first[i], 2e-6);
    assert_near((double)logits[5 * K - 2], -0.379870, 2e-6);
    assert_near((double)logits[5 * K - 1], -0.530271, 2e-6);
    model_fixture_close(&f);
}

static void token_rows_give_the_reference_logits(void **state)
{
    struct ibot_options o = model_options_small();
    struct model_fixture f;
    float rows[N_ROWS * WIDTH], logits[N_ROWS * K], cls[2 * K], patches[10 * K];

    (void)state;
    open_filled(&f, &o);
    fill_rows(rows);
    struct head *head = &f.ibot->student.head;
    assert_int_equal(head_prepare(head), STATUS_OK);
    assert_int_equal(head_forward(head, vector(rows, 0), N_ROWS), STATUS_OK);
    assert_int_equal(head_exact_logits(head, true, head->z, N_ROWS, logits), STATUS_OK);
    for (int image = 0; image < 2; image++) {
        memcpy(cls + image * K, logits + image * 6 * K, sizeof(float) * K);
        memcpy(patches + image * 5 * K, logits + (image * 6 + 1) * K, sizeof(float) * 5 * K);
    }
    assert_near(sum_of(cls, 2 * K), 4.950083, 5e-5);
    assert_near(absolute_sum(cls, 2 * K), 52.020795, 1e-4);
    assert_near(sum_of(patches, 10 * K), 24.769077, 1e-4);
    assert_near(absolute_sum(patches, 10 * K), 260.342001, 2e-4);
    static const double first[4] = {0.069381, 0.300581, 0.482957, 0.598309};
    for (int i = 0; i < 4; i++)
        assert_near((double)patches[i], first[i], 2e-6);
    assert_near((double)patches[10 * K - 2], -0.377472, 2e-6);
    assert_near((double)patches[10 * K - 1], -0.528602, 2e-6);
    model_fixture_close(&f);
}

static void bottleneck_vectors_have_length_one(void **state)
{
    struct ibot_options o = model_options_small();
    struct model_fixture f;
    float rows[N_ROWS * WIDTH];

    (void)state;
    open_filled(&f, &o);
    fill_rows(rows);
    struct head *head = &f.ibot->student.head;
    assert_int_equal(head_forward(head, vector(rows, 0), N_ROWS), STATUS_OK);
    for (int i = 0; i < N_ROWS; i++) {
        double squares = 0.0;
        for (int j = 0; j < 16; j++)
            squares += (double)head->z[i * 16 + j] * (double)head->z[i * 16 + j];
        assert_near(squares, 1.0, 1e-6);
    }
    model_fixture_close(&f);
}

/* ------------------------------------------------------------------------------ norms */

static double relu(double x)
{
    return x > 0.0 ? x : 0.0;
}

/* y = W x + b, in double. */
static void naive_linear(const struct ibot *ibot, const char *prefix, const double *x, int64_t n,
                         int64_t n_in, int64_t n_out, double *y)
{
    char name[64];
    snprintf(name, sizeof(name), "student.head.%s.weight", prefix);
    const float *w = state_tensor(ibot, name).data;
    snprintf(name, sizeof(name), "student.head.%s.bias", prefix);
    const float *b = state_tensor(ibot, name).data;

    for (int64_t i = 0; i < n; i++)
        for (int64_t j = 0; j < n_out; j++) {
            double sum = (double)b[j];
            for (int64_t k = 0; k < n_in; k++)
                sum += (double)w[j * n_in + k] * x[i * n_in + k];
            y[i * n_out + j] = sum;
        }
}

/* The norm over rows (LN) or columns (BN) of x [n, 48], then gain, bias and ReLU. */
static void naive_norm(const struct ibot *ibot, bool batch, double *x, int64_t n)
{
    const float *gain = state_tensor(ibot, "student.head.mlp.1.weight").data;
    const float *bias = state_tensor(ibot, "student.head.mlp.1.bias").data;
    int64_t outer = batch ? 48 : n, inner = batch ? n : 48;

    for (int64_t o = 0; o < outer; o++) {
        double mean = 0.0, variance = 0.0;
        for (int64_t i = 0; i < inner; i++)
            mean += x[batch ? i * 48 + o : o * 48 + i] / (double)inner;
        for (int64_t i = 0; i < inner; i++) {
            double d = x[batch ? i * 48 + o : o * 48 + i] - mean;
            variance += d * d / (double)inner;
        }
        for (int64_t i = 0; i < inner; i++) {
            int64_t at = batch ? i * 48 + o : o * 48 + i, j = at % 48;
            double normed = (x[at] - mean) / sqrt(variance + 1e-5);
            x[at] = relu(normed * (double)gain[j] + (double)bias[j]);
        }
    }
}

static void check_norm(enum head_norm norm)
{
    static double x[N_ROWS * WIDTH], a[N_ROWS * 48], b[N_ROWS * 48], raw[N_ROWS * 16];
    struct ibot_options o = model_options_small();
    struct model_fixture f;
    float rows[N_ROWS * WIDTH];

    o.head.norm = norm;
    o.head.activation = ACTIVATION_RELU;
    open_filled(&f, &o);
    fill_random(rows, N_ROWS * WIDTH, 5);
    for (int i = 0; i < N_ROWS * WIDTH; i++)
        x[i] = (double)rows[i];
    struct head *head = &f.ibot->student.head;
    head->spans[0] = (struct head_span){0, 8}; /* two calls of the original: 8 rows, 4 rows */
    head->spans[1] = (struct head_span){8, 4};
    head->n_spans = 2;
    assert_int_equal(head_forward(head, vector(rows, 0), N_ROWS), STATUS_OK);
    naive_linear(f.ibot, "mlp.0", x, N_ROWS, WIDTH, 48, a);
    naive_norm(f.ibot, norm == HEAD_NORM_BN, a, 8);
    naive_norm(f.ibot, norm == HEAD_NORM_BN, a + 8 * 48, 4);
    naive_linear(f.ibot, "mlp.3", a, N_ROWS, 48, 48, b);
    naive_norm(f.ibot, norm == HEAD_NORM_BN, b, 8);
    naive_norm(f.ibot, norm == HEAD_NORM_BN, b + 8 * 48, 4);
    naive_linear(f.ibot, "mlp.6", b, N_ROWS, 48, 16, raw);
    for (int i = 0; i < N_ROWS * 16; i++)
        assert_near((double)head->raw[i], raw[i], 2e-6);
    model_fixture_close(&f);
}

static void a_layernorm_head_equals_a_naive_one(void **state)
{
    (void)state;
    check_norm(HEAD_NORM_LN);
}

static void a_batchnorm_head_equals_a_naive_one_with_statistics_per_call(void **state)
{
    (void)state;
    check_norm(HEAD_NORM_BN);
}

static void running_statistics_follow_the_batches_and_not_repeated_logits(void **state)
{
    struct ibot_options o = model_options_small();
    struct model_fixture f;
    float rows[N_ROWS * WIDTH], before[48];

    (void)state;
    o.head.norm = HEAD_NORM_BN;
    open_filled(&f, &o);
    fill_random(rows, N_ROWS * WIDTH, 6);
    struct head *head = &f.ibot->student.head;
    head->spans[0] = (struct head_span){0, N_ROWS};
    head->n_spans = 1;
    for (int j = 0; j < 48; j++)
        assert_true(head->running_var[j] == 1.0f && head->running_mean[j] == 0.0f);
    assert_int_equal(head_forward(head, vector(rows, 0), N_ROWS), STATUS_OK);
    memcpy(before, head->running_mean, sizeof(before));
    assert_true(before[0] != 0.0f);
    head->keep_running = true;
    assert_int_equal(head_forward(head, vector(rows, 0), N_ROWS), STATUS_OK);
    assert_memory_equal(before, head->running_mean, sizeof(before));
    model_fixture_close(&f);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(cls_rows_give_the_reference_logits),
        cmocka_unit_test(token_rows_give_the_reference_logits),
        cmocka_unit_test(bottleneck_vectors_have_length_one),
        cmocka_unit_test(a_layernorm_head_equals_a_naive_one),
        cmocka_unit_test(a_batchnorm_head_equals_a_naive_one_with_statistics_per_call),
        cmocka_unit_test(running_statistics_follow_the_batches_and_not_repeated_logits),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
