/* Means of rows and arg-max against their definitions, on every backend. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

#include "tests/support/op_fixture.h"

static void run_mean(int64_t n, int64_t d, int64_t period, double offset)
{
    struct op_fixture f;
    int64_t count = 0;

    op_fixture_open(&f, 1);
    double *x = op_random(&f, f.dtype, n * d, 1.0), *want = op_zeros(&f, d);
    for (int64_t i = 0; i < n * d; i++)
        x[i] = op_round(f.dtype, x[i] + offset);
    for (int64_t i = 0; i < n; i++) {
        bool first = period != 0 && i % (period > 0 ? period : -period) == 0;
        if (period != 0 && first == (period > 0))
            continue;
        for (int64_t j = 0; j < d; j++)
            want[j] += x[i * d + j];
        count++;
    }
    for (int64_t j = 0; j < d; j++)
        want[j] /= (double)count;
    struct rows_mean_args args = {op_upload(&f, f.dtype, x, n, d), op_output(&f, DTYPE_F32, d, 0),
                                  period};
    op_run(f.ops->rows_mean(&f.device, &args));
    op_expect(&f, "rows_mean", "mean", args.mean, want);
    op_fixture_close(&f);
}

static void means_take_the_rows_that_the_period_picks(void **state)
{
    (void)state;
    run_mean(1, 1, 0, 0.0);
    run_mean(37, 130, 0, 0.0);
    run_mean(35, 33, 7, 0.0);  /* without the first row of each seven: patches */
    run_mean(35, 33, -7, 0.0); /* those rows only: [CLS] */
    run_mean(36, 5, -7, 0.0);  /* one row into the next */
    run_mean(2000, 64, 17, 0.0);
    run_mean(9000, 3, 0, 1000.0); /* far from zero: single precision would drift */
    run_mean(2, 40, 2, 0.0);
}

static void the_first_greatest_column_is_found(void **state)
{
    enum { N = 7, K = 300 };
    static const int at[N] = {0, 1, 299, 150, 17, 16, 255};
    struct op_fixture f;

    (void)state;
    op_fixture_open(&f, 2);
    double *x = op_random(&f, f.dtype, N * K, 1.0), want[N];
    for (int i = 0; i < N; i++) {
        x[i * K + at[i]] = 9.0;
        x[i * K + (at[i] + 40 < K ? at[i] + 40 : at[i])] = 9.0; /* a later equal does not count */
        want[i] = at[i];
    }
    struct rows_argmax_args args = {op_upload(&f, f.dtype, x, N, K),
                                    op_output(&f, DTYPE_I32, N, 0)};
    op_run(f.ops->rows_argmax(&f.device, &args));
    op_expect(&f, "rows_argmax", "index", args.index, want);
    op_fixture_close(&f);
}

static void odd_rows_have_an_argmax_too(void **state)
{
    enum { N = 5, K = 19 };
    struct op_fixture f;
    double x[N * K] = {0}, want[N] = {0, 0, 18, 3, 0};

    (void)state;
    op_fixture_open(&f, 3);
    for (int j = 0; j < K; j++) {
        x[K + j] = -INFINITY;
        x[2 * K + j] = j == 18 ? -1e30 : -INFINITY;
        x[3 * K + j] = j == 3 ? INFINITY : 1e38;
        x[4 * K + j] = NAN; /* any column would do, as long as it is one */
    }
    struct rows_argmax_args args = {op_upload(&f, DTYPE_F32, x, N, K),
                                    op_output(&f, DTYPE_I32, N, 0)};
    op_run(f.ops->rows_argmax(&f.device, &args));
    op_expect(&f, "rows_argmax", "index", args.index, want);
    op_fixture_close(&f);
}

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(means_take_the_rows_that_the_period_picks),
        cmocka_unit_test(the_first_greatest_column_is_found),
        cmocka_unit_test(odd_rows_have_an_argmax_too),
    };
    int leave = op_backend_choose(argc, argv);
    return leave != 0 ? leave : cmocka_run_group_tests(tests, NULL, NULL);
}
