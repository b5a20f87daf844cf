/* Nearest rows against a full sort, on every backend. Whole numbers keep products exact, so that
 * equal similarities are equal and the order is the one the contract names. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>

#include <cmocka.h>

#include "tests/support/op_fixture.h"

struct hit {
    double value;
    int32_t index;
};

static int compare_hits(const void *a, const void *b)
{
    const struct hit *x = a, *y = b;

    if (x->value != y->value)
        return x->value > y->value ? -1 : 1;
    return (x->index > y->index) - (x->index < y->index);
}

static void run_topk(int64_t q, int64_t n, int64_t d, int64_t k, double limit)
{
    struct op_fixture f;

    op_fixture_open(&f, 1);
    double *query = op_random(&f, DTYPE_F32, q * d, limit);
    double *bank = op_random(&f, DTYPE_F32, n * d, limit);
    double *value = op_zeros(&f, q * k), *index = op_zeros(&f, q * k);
    struct hit *hits = calloc((size_t)n, sizeof(*hits));
    for (int64_t i = 0; i < q * d; i++)
        query[i] = round(query[i]);
    for (int64_t i = 0; i < n * d; i++)
        bank[i] = round(bank[i]);
    for (int64_t i = 0; i < q; i++) {
        for (int64_t row = 0; row < n; row++) {
            hits[row] = (struct hit){0.0, (int32_t)row};
            for (int64_t j = 0; j < d; j++)
                hits[row].value += query[i * d + j] * bank[row * d + j];
        }
        qsort(hits, (size_t)n, sizeof(*hits), compare_hits);
        for (int64_t j = 0; j < k; j++) {
            value[i * k + j] = hits[j].value;
            index[i * k + j] = hits[j].index;
        }
    }
    free(hits);
    struct topk_args args = {
        .query = op_upload(&f, DTYPE_F32, query, q, d),
        .bank = op_upload(&f, DTYPE_F32, bank, n, d),
        .value = op_output(&f, DTYPE_F32, q, k),
        .index = op_output(&f, DTYPE_I32, q, k),
    };
    op_run(f.ops->topk(&f.device, &args));
    op_expect(&f, "topk", "index", args.index, index);
    op_expect(&f, "topk", "value", args.value, value);
    op_fixture_close(&f);
}

static void the_nearest_rows_come_in_order(void **state)
{
    (void)state;
    run_topk(1, 1, 1, 1, 3.0);
    run_topk(5, 40, 16, 7, 3.0);
    run_topk(5, 40, 16, 40, 3.0); /* all of them */
    run_topk(3, 200, 8, 1, 3.0);
    run_topk(300, 70, 4, 20, 3.0);   /* more queries than one block */
    run_topk(3, 20000, 5, 200, 3.0); /* more rows than one block */
}

static void equal_rows_come_by_number(void **state)
{
    (void)state;
    run_topk(6, 500, 3, 50, 0.6); /* few different values */
    run_topk(4, 9000, 2, 300, 0.3);
    run_topk(2, 64, 2, 64, 0.0); /* all alike */
}

static void nan_features_name_rows_that_exist(void **state)
{
    enum { Q = 3, N = 50, D = 4, K = 10 };
    struct op_fixture f;

    (void)state;
    op_fixture_open(&f, 2);
    double *query = op_random(&f, DTYPE_F32, Q * D, 1.0),
           *bank = op_random(&f, DTYPE_F32, N * D, 1.0);
    query[D] = NAN;
    bank[7 * D] = NAN;
    struct topk_args args = {
        .query = op_upload(&f, DTYPE_F32, query, Q, D),
        .bank = op_upload(&f, DTYPE_F32, bank, N, D),
        .value = op_output(&f, DTYPE_F32, Q, K),
        .index = op_output(&f, DTYPE_I32, Q, K),
    };
    op_run(f.ops->topk(&f.device, &args));
    double *index = op_download(&f, args.index);
    for (int i = 0; i < Q * K; i++)
        assert_true(index[i] >= 0.0 && index[i] < N);
    op_fixture_close(&f);
}

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_nearest_rows_come_in_order),
        cmocka_unit_test(equal_rows_come_by_number),
        cmocka_unit_test(nan_features_name_rows_that_exist),
    };
    int leave = op_backend_choose(argc, argv);
    return leave != 0 ? leave : cmocka_run_group_tests(tests, NULL, NULL);
}
