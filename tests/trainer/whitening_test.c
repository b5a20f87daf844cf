/* Eigenvectors: against values of NumPy, and by what they are. Whitening: against values of NumPy.
 */
#include "trainer/eval/whitening.h"

#include <math.h>
#include <omp.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "proto/base/rng.h"
#include "trainer/eval/symmetric_eigen.h"

enum { MOST = 300 }; /* threads share it out, and not what is left of it near the end */

static double matrix[MOST * MOST], overwritten[MOST * MOST], vectors[MOST * MOST], values[MOST];

static void solve(int32_t n)
{
    memcpy(overwritten, matrix, (size_t)(n * n) * sizeof(double));
    if (symmetric_eigen(values, vectors, overwritten, n) != STATUS_OK)
        fail_msg("%s", status_message());
}

/* numpy.linalg.eigh; signs: the first element is positive. */
static void values_and_vectors_are_those_of_numpy(void **state)
{
    static const double symmetric[16] = {4,  1, -2, 0.5, 1,   3,  0,   -1,
                                         -2, 0, 2,  1.5, 0.5, -1, 1.5, -1};
    static const struct {
        double value, vector[4];
    } wanted[4] = {
        {-2.1418145024511164,
         {0.24129179251388932, -0.2116942650879423, 0.4233373702978889, -0.8472008498010244}},
        {1.6464626942960217,
         {0.49838268693022975, -0.0009458997572277, 0.7102837673053682, 0.49710237632136517}},
        {2.9030030700358367,
         {0.24539754980311865, -0.9138116676544918, -0.28311549858107116, 0.15676062347520153}},
        {5.592348738119258,
         {0.7957216917894501, 0.3466019034296286, -0.4859300929917318, -0.10279131519608074}},
    };

    (void)state;
    memcpy(matrix, symmetric, sizeof(symmetric));
    solve(4);
    for (int k = 0; k < 4; k++) {
        int at = 0;
        while (at < 4 && !(fabs(values[at] - wanted[k].value) < 1e-13))
            at++;
        if (at == 4)
            fail_msg("no value %.17g", wanted[k].value);
        double sign = vectors[at * 4] < 0.0 ? -1.0 : 1.0;
        for (int j = 0; j < 4; j++)
            if (!(fabs(sign * vectors[at * 4 + j] - wanted[k].vector[j]) < 1e-13))
                fail_msg("vector %d, element %d: %.17g", k, j, sign * vectors[at * 4 + j]);
    }
}

/* matrix vector = value vector; vectors are of unit length and at right angles. */
static void check(int32_t n, const char *what)
{
    double most = 1e-300, off = 0.0, crooked = 0.0;

    solve(n);
    for (int i = 0; i < n * n; i++)
        most = fmax(most, fabs(matrix[i]));
    for (int k = 0; k < n; k++)
        for (int i = 0; i < n; i++) {
            double image = 0.0, angle = 0.0;
            for (int j = 0; j < n; j++) {
                image += matrix[i * n + j] * vectors[k * n + j];
                angle += vectors[i * n + j] * vectors[k * n + j];
            }
            off = fmax(off, fabs(image - values[k] * vectors[k * n + i]) / most);
            crooked = fmax(crooked, fabs(angle - (i == k)));
        }
    if (!(off < 1e-14 * n && crooked < 1e-14 * n))
        fail_msg("%s of %d: images differ by %g, angles by %g", what, n, off, crooked);
}

/* The sum of `rank` products of random vectors with themselves, each `by` times the one before. */
static void make(int32_t n, int32_t rank, double by)
{
    struct rng rng = rng_open((struct rng_key){.seed = 7, .sample = (uint32_t)n});
    double x[MOST], size = 1.0;

    memset(matrix, 0, sizeof(matrix));
    for (int32_t r = 0; r < rank; r++, size *= by) {
        for (int i = 0; i < n; i++)
            x[i] = rng_uniform(&rng) - 0.5;
        for (int i = 0; i < n; i++)
            for (int j = 0; j < n; j++)
                matrix[i * n + j] += size * x[i] * x[j];
    }
}

static void any_symmetric_matrix_is_taken_apart(void **state)
{
    static const int32_t sizes[] = {1, 2, 3, 4, 17, 150, MOST};

    (void)state;
    for (size_t s = 0; s < sizeof(sizes) / sizeof(sizes[0]); s++) {
        int32_t n = sizes[s];
        make(n, 2 * n, 1.0);
        check(n, "full rank");
        make(n, n / 3, 1.0);
        check(n, "a third of the rank, or zero");
        make(n, n, 0.5);
        check(n, "values that fall");
        make(n, n, 0.9);
        check(n, "values that fall slowly, to less than what is rounded");
        for (int i = 0; i < n; i++) /* huge, as squares are not in range */
            for (int j = 0; j < n; j++)
                matrix[i * n + j] = ldexp(i == j ? 1.0 : 1.0 / (1 + i + j), 600);
        check(n, "large numbers");
        memset(matrix, 0, sizeof(matrix));
        for (int i = 0; i < n; i++)
            matrix[i * n + i] = i % 3 - 1.0;
        check(n, "a diagonal");
    }
}

static void what_is_no_number_is_refused(void **state)
{
    (void)state;
    make(3, 3, 1.0);
    matrix[5] = (double)NAN;
    assert_int_equal(symmetric_eigen(values, vectors, matrix, 3), STATUS_NOT_FINITE);
    assert_non_null(strstr(status_message(), "(1, 2)"));
}

static void threads_change_no_bit(void **state)
{
    static double first[MOST * MOST];
    int threads = omp_get_max_threads();

    (void)state;
    make(MOST, MOST, 0.9);
    omp_set_num_threads(1);
    solve(MOST);
    memcpy(first, vectors, sizeof(first));
    omp_set_num_threads(3);
    solve(MOST);
    omp_set_num_threads(threads);
    assert_memory_equal(first, vectors, sizeof(first));
}

/* numpy: c = x.T @ x / 6; d, v = eigh(c); w = v / sqrt(maximum(d, 1e-5 * d.max())); the products of
 * (y - x.mean(0)) @ w with each other, which no order of directions and no sign changes. d.min() is
 * 4.6e-8 of d.max(). */
static void whitened_products_are_those_of_numpy(void **state)
{
    static const float rows[18] = {1,  2,     -0.99951171875f, 2,    1,     0.99951171875f,
                                   -1, 0.25f, -1.2490234375f,  0.5f, -2,    2.4990234375f,
                                   3,  1,     2.00048828125f,  1.5f, -0.5f, 2.00146484375f};
    static const double wanted[3] = {1662.0236035293922, 9126.854904929955, 50154.48418206836};
    float to_whiten[6] = {0.5f, 1, -1, 2, -1, 0.25f};
    double products[3] = {0};
    struct whitening w;

    (void)state;
    assert_int_equal(whitening_learn(&w, rows, 6, 3), STATUS_OK);
    assert_int_equal(whitening_apply(&w, to_whiten, 2), STATUS_OK);
    for (int j = 0; j < 3; j++) {
        products[0] += (double)to_whiten[j] * (double)to_whiten[j];
        products[1] += (double)to_whiten[j] * (double)to_whiten[3 + j];
        products[2] += (double)to_whiten[3 + j] * (double)to_whiten[3 + j];
    }
    for (int i = 0; i < 3; i++)
        if (!(fabs(products[i] / wanted[i] - 1.0) < 1e-6))
            fail_msg("product %d: %.10g, wanted %.10g", i, products[i], wanted[i]);
    whitening_release(&w);
    whitening_release(&w);
}

/* More rows than are taken at a time: their second moments are those of one. */
static void whitened_rows_have_moments_of_one(void **state)
{
    enum { ROWS = 203, DIM = 5 };
    struct rng rng = rng_open((struct rng_key){.seed = 11});
    float rows[ROWS * DIM], whitened[ROWS * DIM];
    struct whitening w;

    (void)state;
    for (int i = 0; i < ROWS * DIM; i++) /* of either sign: each with its opposite */
        rows[i] = i < ROWS / 2 * DIM       ? (float)(rng_uniform(&rng) - 0.5) * (float)(1 + i % DIM)
                  : i < ROWS / 2 * 2 * DIM ? -rows[i - ROWS / 2 * DIM]
                                           : 0.0f;
    memcpy(whitened, rows, sizeof(rows));
    assert_int_equal(whitening_learn(&w, rows, ROWS, DIM), STATUS_OK);
    assert_int_equal(whitening_apply(&w, whitened, ROWS), STATUS_OK);
    for (int a = 0; a < DIM; a++)
        for (int b = 0; b < DIM; b++) {
            double moment = 0.0;
            for (int i = 0; i < ROWS; i++)
                moment += (double)whitened[i * DIM + a] * (double)whitened[i * DIM + b] / ROWS;
            if (!(fabs(moment - (a == b)) < 1e-5))
                fail_msg("moment %d, %d is %g", a, b, moment);
        }
    whitening_release(&w);
}

static void from_zeros_nothing_is_learnt(void **state)
{
    static const float rows[6] = {0};
    struct whitening w;

    (void)state;
    assert_int_equal(whitening_learn(&w, rows, 2, 3), STATUS_NOT_FINITE);
    assert_null(w.directions);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(values_and_vectors_are_those_of_numpy),
        cmocka_unit_test(any_symmetric_matrix_is_taken_apart),
        cmocka_unit_test(what_is_no_number_is_refused),
        cmocka_unit_test(threads_change_no_bit),
        cmocka_unit_test(whitened_products_are_those_of_numpy),
        cmocka_unit_test(whitened_rows_have_moments_of_one),
        cmocka_unit_test(from_zeros_nothing_is_learnt),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
