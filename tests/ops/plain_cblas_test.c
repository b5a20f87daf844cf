/* The product for builds without a CBLAS, under a name of its own (CMakeLists.txt), against the
 * definition in double precision: transposes, strides, factors, empty results. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

#include "ops/plain_cblas/cblas.h"
#include "proto/base/rng.h"

enum { M = 5, N = 7, K = 9, STRIDE = 12, SIZE = STRIDE * STRIDE };

static void fill(float *values, uint64_t seed)
{
    struct rng rng = rng_open((struct rng_key){.seed = seed, .purpose = RNG_TEST});

    for (int i = 0; i < SIZE; i++)
        values[i] = (float)rng_u32(&rng) / 4294967296.0f - 0.5f;
}

static void check(CBLAS_TRANSPOSE op_a, CBLAS_TRANSPOSE op_b, float alpha, float beta)
{
    float a[SIZE], b[SIZE], c[SIZE], before[SIZE];

    fill(a, 1);
    fill(b, 2);
    fill(before, 3);
    for (int i = 0; i < SIZE; i++)
        c[i] = beta == 0.0f ? NAN : before[i];
    cblas_sgemm(CblasRowMajor, op_a, op_b, M, N, K, alpha, a, STRIDE, b, STRIDE, beta, c, STRIDE);
    for (int i = 0; i < STRIDE; i++)
        for (int j = 0; j < STRIDE; j++) {
            float got = c[i * STRIDE + j];
            if (i >= M || j >= N) { /* outside of the result nothing is written */
                assert_true(beta == 0.0f ? isnan(got) : got == before[i * STRIDE + j]);
                continue;
            }
            double want = beta == 0.0f ? 0.0 : (double)beta * before[i * STRIDE + j];
            for (int p = 0; p < K; p++)
                want += (double)alpha *
                        (op_a == CblasNoTrans ? a[i * STRIDE + p] : a[p * STRIDE + i]) *
                        (op_b == CblasNoTrans ? b[p * STRIDE + j] : b[j * STRIDE + p]);
            assert_true(fabs(got - want) < 1e-6);
        }
}

static void every_transpose_and_factor(void **state)
{
    static const CBLAS_TRANSPOSE ops[] = {CblasNoTrans, CblasTrans};
    static const float factors[] = {0.0f, 1.0f, -1.5f};

    (void)state;
    for (int i = 0; i < 2; i++)
        for (int j = 0; j < 2; j++)
            for (int f = 0; f < 3; f++)
                for (int g = 0; g < 3; g++)
                    check(ops[i], ops[j], factors[f], factors[g]);
}

static void an_empty_product_scales(void **state)
{
    float c[2] = {2.0f, 4.0f};

    (void)state;
    cblas_sgemm(CblasRowMajor, CblasNoTrans, CblasNoTrans, 1, 2, 0, 1.0f, c, 1, c, 2, 0.5f, c, 2);
    assert_true(c[0] == 1.0f && c[1] == 2.0f);
    cblas_sgemm(CblasRowMajor, CblasNoTrans, CblasNoTrans, 0, 2, 1, 1.0f, c, 1, c, 2, 0.0f, c, 2);
    assert_true(c[0] == 1.0f && c[1] == 2.0f);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_transpose_and_factor),
        cmocka_unit_test(an_empty_product_scales),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
