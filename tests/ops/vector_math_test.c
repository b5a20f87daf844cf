/* The errors that ops/vector_math.h promises, measured over the whole range. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

#include "ops/vector_math.h"

static double normal_cdf(double x)
{
    return 0.5 * erfc(-x / sqrt(2.0));
}

static void exp_is_within_its_error(void **state)
{
    double worst = 0.0;

    (void)state;
    for (int i = -873000; i <= 880000; i += 3) {
        float x = (float)i * 1e-4f;
        worst = fmax(worst, fabs((double)vector_exp(x) / exp((double)x) - 1.0));
    }
    assert_true(worst < 1.5e-7);
    assert_true(vector_exp(0.0f) == 1.0f);
    assert_true(vector_exp(-87.4f) == 0.0f && vector_exp(-INFINITY) == 0.0f);
    assert_true(vector_exp(1e30f) == vector_exp(88.0f));
    assert_true(isnan(vector_exp(NAN)));
}

static void the_normal_distribution_is_within_its_error(void **state)
{
    double middle = 0.0, tail = 0.0, erf_worst = 0.0;

    (void)state;
    for (int i = -1300000; i <= 1300000; i += 5) {
        float x = (float)i * 1e-5f;
        double error = fabs((double)vector_normal_cdf(x) / normal_cdf((double)x) - 1.0);
        if (x >= -4.0f)
            middle = fmax(middle, error);
        tail = fmax(tail, error);
        erf_worst = fmax(
            erf_worst, fabs(2.0 * (double)vector_normal_cdf(x) - 1.0 - erf((double)x / sqrt(2.0))));
    }
    assert_true(middle < 8e-7);
    assert_true(tail < 5e-6);
    assert_true(erf_worst < 2e-7);
    assert_true(isnan(vector_normal_cdf(NAN)));
}

static void gelu_and_its_derivative_are_within_their_error(void **state)
{
    double value = 0.0, derivative = 0.0;

    (void)state;
    for (int i = -1300000; i <= 1300000; i += 5) {
        double x = (double)((float)i * 1e-5f);
        double want = x * normal_cdf(x);
        double slope = normal_cdf(x) + x * exp(-0.5 * x * x) / sqrt(2.0 * M_PI);
        double scale = fmax(1.0, fabs(x));
        value = fmax(value, fabs((double)vector_gelu((float)x) - want) / scale);
        derivative = fmax(derivative, fabs((double)vector_gelu_derivative((float)x) - slope));
    }
    assert_true(value < 2e-7);
    assert_true(derivative < 2e-7);
}

static void gelu_by_tanh_and_its_derivative_are_within_their_error(void **state)
{
    double value = 0.0, derivative = 0.0, c = sqrt(2.0 / M_PI);

    (void)state;
    for (int i = -1300000; i <= 1300000; i += 5) {
        double x = (double)((float)i * 1e-5f), t = tanh(c * (x + 0.044715 * x * x * x));
        double slope = 0.5 * (1.0 + t) + 0.5 * x * (1.0 - t * t) * c * (1.0 + 0.134145 * x * x);
        value = fmax(value, fabs((double)vector_gelu_tanh((float)x) - 0.5 * x * (1.0 + t)) /
                                fmax(1.0, fabs(x)));
        derivative = fmax(derivative, fabs((double)vector_gelu_tanh_derivative((float)x) - slope));
    }
    assert_true(value < 2e-7);
    assert_true(derivative < 4e-7);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(exp_is_within_its_error),
        cmocka_unit_test(the_normal_distribution_is_within_its_error),
        cmocka_unit_test(gelu_and_its_derivative_are_within_their_error),
        cmocka_unit_test(gelu_by_tanh_and_its_derivative_are_within_their_error),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
