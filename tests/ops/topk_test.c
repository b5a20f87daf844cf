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

/* Best first: NaN is worse than any number, of equal ones the higher index. */
static int compare_hits(const void *a, const void *b)
{
    const struct hit *x = a, *y = b;

    if (isnan(x->value) != isnan(y->value))
        return isnan(x->value) ? 1 : -1;
    if (x->value > y->value || x->value < y->value)
        return x->value > y->value ? -1 : 1;
    return (x->index > y->index) - (x->index < y->index);
}

struct problem {
    int64_t n_queries, n_bank, d, k;
    double *query, *bank;
};

/* By the definition. */
static void reference(const struct problem *p, double *value, double *index)
{
    struct hit *hits = calloc((size_t)p->n_bank, sizeof(*hits));

    for (int64_t i = 0; i < p->n_queries; i++) {
        for (int64_t row = 0; row < p->n_bank; row++) {
            hits[row] = (struct hit){0.0, (int32_t)row};
            for (int64_t j = 0; j < p->d; j++)
                hits[row].value += p->query[i * p->d + j] * p->bank[row * p->d + j];
        }
        qsort(hits, (size_t)p->n_bank, sizeof(*hits), compare_hits);
        for (int64_t j = 0; j < p->k; j++) {
            value[i * p->k + j] = hits[j].value;
            index[i * p->k + j] = hits[j].index;
        }
    }
    free(hits);
}

/* Whole numbers as the fixture draws them. */
static struct problem whole_numbers(struct op_fixture *f, int64_t q, int64_t n, int64_t d,
                                    int64_t k, double limit)
{
    struct problem p = {
        q, n, d, k, op_random(f, DTYPE_F32, q * d, limit), op_random(f, DTYPE_F32, n * d, limit)};

    for (int64_t i = 0; i < q * d; i++)
        p.query[i] = round(p.query[i]);
    for (int64_t i = 0; i < n * d; i++)
        p.bank[i] = round(p.bank[i]);
    return p;
}

/* Every place has the row of the reference, and its value, NaN and infinities included. */
static void run_problem(struct op_fixture *f, const struct problem *p)
{
    int64_t n = p->n_queries * p->k;
    double *want_value = op_zeros(f, n), *want_index = op_zeros(f, n);
    struct topk_args args = {
        .query = op_upload(f, DTYPE_F32, p->query, p->n_queries, p->d),
        .bank = op_upload(f, DTYPE_F32, p->bank, p->n_bank, p->d),
        .value = op_output(f, DTYPE_F32, p->n_queries, p->k),
        .index = op_output(f, DTYPE_I32, p->n_queries, p->k),
    };

    reference(p, want_value, want_index);
    op_run(f->ops->topk(&f->device, &args));
    double *value = op_download(f, args.value), *index = op_download(f, args.index);
    for (int64_t i = 0; i < n; i++) {
        bool equal = isnan(want_value[i]) ? isnan(value[i]) : value[i] == want_value[i];
        if (index[i] != want_index[i] || !equal)
            fail_msg("query %lld of %lld, rank %lld of %lld, bank [%lld, %lld]: row %.0f with %g, "
                     "wanted row %.0f with %g",
                     (long long)(i / p->k), (long long)p->n_queries, (long long)(i % p->k),
                     (long long)p->k, (long long)p->n_bank, (long long)p->d, index[i], value[i],
                     want_index[i], want_value[i]);
    }
}

static void run_topk(int64_t q, int64_t n, int64_t d, int64_t k, double limit)
{
    struct op_fixture f;

    op_fixture_open(&f, 1);
    struct problem p = whole_numbers(&f, q, n, d, k, limit);
    run_problem(&f, &p);
    op_fixture_close(&f);
}

static void the_nearest_rows_come_in_order(void **state)
{
    (void)state;
    run_topk(1, 1, 1, 1, 3.0);
    run_topk(5, 40, 16, 7, 3.0);
    run_topk(5, 40, 16, 40, 3.0); /* all of them */
    run_topk(3, 200, 8, 1, 3.0);
    run_topk(4, 129, 384, 20, 3.0);
    run_topk(300, 70, 4, 20, 3.0);    /* more queries than one block */
    run_topk(1030, 9, 3, 2, 3.0);     /* and for an accelerator */
    run_topk(3, 20000, 5, 200, 3.0);  /* more rows than one block */
    run_topk(2, 8193, 3, 8193, 40.0); /* all of these */
}

static void sizes_next_to_those_of_blocks_lose_no_row(void **state)
{
    static const int64_t sizes[] = {31, 33, 2047, 2048, 2049, 4097, 8191, 8192, 8193, 8257, 16385};

    (void)state;
    for (size_t i = 0; i < sizeof(sizes) / sizeof(sizes[0]); i++)
        run_topk(2, sizes[i], 2, sizes[i] < 201 ? sizes[i] : 201, 30.0);
}

static void equal_rows_come_by_number(void **state)
{
    (void)state;
    run_topk(6, 500, 3, 50, 0.6); /* few different values */
    run_topk(4, 9000, 2, 300, 0.3);
    run_topk(2, 64, 2, 64, 0.0); /* all alike */
    run_topk(2, 17000, 2, 200, 0.0);
}

/* Rows that each beat all before them, and rows of which none does. */
static void every_order_of_the_bank_gives_the_same(void **state)
{
    enum { N = 9001, K = 150 };

    (void)state;
    for (int falling = 0; falling < 2; falling++) {
        struct op_fixture f;
        op_fixture_open(&f, 4);
        struct problem p = whole_numbers(&f, 2, N, 1, K, 1.0);
        p.query[0] = 1.0;
        p.query[1] = -3.0;
        for (int i = 0; i < N; i++)
            p.bank[i] = falling ? N - i / 2 : i / 2 - N / 4;
        run_problem(&f, &p);
        op_fixture_close(&f);
    }
}

/* Rows that differ in rounding alone: equal ones are equal wherever they lie. */
static void copies_of_a_row_are_equal_wherever_they_are(void **state)
{
    enum { N = 16500, D = 37, K = 40, COPIES = 7 };
    static const int copies[COPIES] = {3, 1000, 8191, 8192, 8250, 12000, N - 1};
    struct op_fixture f;

    (void)state;
    op_fixture_open(&f, 5);
    double *query = op_random(&f, DTYPE_F32, D, 1.0), *bank = op_random(&f, DTYPE_F32, N * D, 1.0);
    for (int i = 0; i < COPIES; i++)
        for (int j = 0; j < D; j++)
            bank[copies[i] * D + j] = 3.0 * query[j]; /* the nearest of all */
    struct topk_args args = {
        .query = op_upload(&f, DTYPE_F32, query, 1, D),
        .bank = op_upload(&f, DTYPE_F32, bank, N, D),
        .value = op_output(&f, DTYPE_F32, 1, K),
        .index = op_output(&f, DTYPE_I32, 1, K),
    };
    op_run(f.ops->topk(&f.device, &args));
    double *value = op_download(&f, args.value), *index = op_download(&f, args.index);
    for (int i = 0; i < COPIES; i++) {
        assert_true(value[i] == value[0]);
        assert_int_equal(index[i], copies[i]);
    }
    for (int i = COPIES; i < K; i++)
        assert_true(value[i] < value[i - 1]);
    op_fixture_close(&f);
}

static void nan_comes_last_and_infinity_where_it_belongs(void **state)
{
    static const struct {
        int64_t n_bank, k;
    } sizes[] = {{50, 10}, {50, 50}, {8300, 60}, {8300, 8300}};

    (void)state;
    for (size_t s = 0; s < sizeof(sizes) / sizeof(sizes[0]); s++) {
        struct op_fixture f;
        op_fixture_open(&f, 2);
        struct problem p = whole_numbers(&f, 3, sizes[s].n_bank, 4, sizes[s].k, 3.0);
        p.query[4] = NAN; /* query 1 knows no row */
        p.query[0] = p.query[8] = 2.0;
        for (int64_t row = 0; row < p.n_bank; row += 3)
            p.bank[row * p.d] = row % 2 == 0 ? NAN : row % 5 == 0 ? -INFINITY : INFINITY;
        for (int64_t row = 1; row < 30; row += 3)
            for (int64_t j = 0; j < p.d; j++)
                p.bank[row * p.d + j] = j == 1 ? -0.0 : 0.0;
        run_problem(&f, &p);
        op_fixture_close(&f);
    }
}

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_nearest_rows_come_in_order),
        cmocka_unit_test(sizes_next_to_those_of_blocks_lose_no_row),
        cmocka_unit_test(equal_rows_come_by_number),
        cmocka_unit_test(every_order_of_the_bank_gives_the_same),
        cmocka_unit_test(copies_of_a_row_are_equal_wherever_they_are),
        cmocka_unit_test(nan_comes_last_and_infinity_where_it_belongs),
    };
    int leave = op_backend_choose(argc, argv);
    return leave != 0 ? leave : cmocka_run_group_tests(tests, NULL, NULL);
}
