/* Rounding to 16-bit floats against a search for the nearest value, on every backend. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>

#include <cmocka.h>

#include "ops/half_float.h"
#include "tests/support/op_fixture.h"

enum { N_BITS = 1 << 16 };

/* What the bits stand for, from the definition of the formats. */
static double value_of(enum dtype dtype, unsigned bits)
{
    int mantissa_bits = dtype == DTYPE_BF16 ? 7 : 10, bias = dtype == DTYPE_BF16 ? 127 : 15;
    int exponent = (int)(bits & 0x7fff) >> mantissa_bits;
    int mantissa = (int)bits & ((1 << mantissa_bits) - 1);
    double sign = bits & 0x8000 ? -1.0 : 1.0;

    if (exponent == 2 * bias + 1)
        return mantissa != 0 ? (double)NAN : sign * (double)INFINITY;
    if (exponent == 0)
        return sign * ldexp(mantissa, 1 - bias - mantissa_bits);
    return sign * ldexp((1 << mantissa_bits) + mantissa, exponent - bias - mantissa_bits);
}

static void cast(struct op_fixture *f, enum dtype dtype, const float *from, uint16_t *to, int64_t n)
{
    struct cast_args args = {op_output(f, DTYPE_F32, n, 0), op_output(f, DTYPE_U8, 2 * n, 0)};

    args.to.dtype = dtype;
    args.to.shape[0] = n;
    op_run(f->device.copy_in(&f->device, args.from.data, from, (size_t)n * sizeof(float)));
    op_run(f->ops->cast(&f->device, &args));
    op_run(f->device.copy_out(&f->device, to, args.to.data, (size_t)n * sizeof(*to)));
    op_run(f->device.synchronize(&f->device));
}

static void every_value_and_every_halfway_point_is_rounded_to_the_nearest_even_one(void **state)
{
    static float from[3 * N_BITS];
    static uint16_t want[3 * N_BITS], got[3 * N_BITS];
    const enum dtype dtypes[] = {DTYPE_BF16, DTYPE_F16};

    (void)state;
    for (int k = 0; k < 2; k++) {
        struct op_fixture f;
        int64_t n = 0;
        op_fixture_open(&f, 1);
        for (unsigned bits = 0; bits < N_BITS; bits++) {
            double value = value_of(dtypes[k], bits), next = value_of(dtypes[k], bits + 1);
            if (!isfinite(value) || (bits & 0x7fff) == 0x7fff)
                continue;
            from[n] = (float)value;
            want[n++] = (uint16_t)bits;
            if (!isfinite(next))
                continue;
            float half = (float)((value + next) / 2.0);
            from[n] = half;
            want[n++] = (uint16_t)(bits + (bits & 1)); /* the even one of the two */
            from[n] = nextafterf(half, (float)next);
            want[n++] = (uint16_t)(bits + 1);
        }
        cast(&f, dtypes[k], from, got, n);
        for (int64_t i = 0; i < n; i++)
            if (got[i] != want[i])
                fail_msg("%.9g: got %04x, wanted %04x", (double)from[i], got[i], want[i]);
        op_fixture_close(&f);
    }
}

static void what_is_out_of_range_becomes_infinite_and_nan_stays(void **state)
{
    const float from[] = {65519.0f, 65520.0f, -1e6f, INFINITY, NAN};
    uint16_t got[5];
    struct op_fixture f;

    (void)state;
    op_fixture_open(&f, 2);
    cast(&f, DTYPE_F16, from, got, 5);
    assert_int_equal(got[0], 0x7bff);
    assert_int_equal(got[1], 0x7c00);
    assert_int_equal(got[2], 0xfc00);
    assert_int_equal(got[3], 0x7c00);
    assert_true(isnan(value_of(DTYPE_F16, got[4])));
    const float wide[] = {3.4e38f, -3.4e38f, INFINITY, 1e38f, NAN};
    cast(&f, DTYPE_BF16, wide, got, 5);
    assert_int_equal(got[0], 0x7f80);
    assert_int_equal(got[1], 0xff80);
    assert_int_equal(got[2], 0x7f80);
    assert_true(isfinite(value_of(DTYPE_BF16, got[3])));
    assert_true(isnan(value_of(DTYPE_BF16, got[4])));
    op_fixture_close(&f);
}

static void the_host_reads_bits_as_they_are_defined(void **state)
{
    (void)state;
    for (unsigned bits = 0; bits < N_BITS; bits++) {
        double bf16 = value_of(DTYPE_BF16, bits), f16 = value_of(DTYPE_F16, bits);
        float a = half_float_from_bf16((uint16_t)bits), b = half_float_from_f16((uint16_t)bits);
        assert_true(isnan(bf16) ? isnan(a) : (double)a == bf16);
        assert_true(isnan(f16) ? isnan(b) : (double)b == f16);
    }
}

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_value_and_every_halfway_point_is_rounded_to_the_nearest_even_one),
        cmocka_unit_test(what_is_out_of_range_becomes_infinite_and_nan_stays),
        cmocka_unit_test(the_host_reads_bits_as_they_are_defined),
    };
    int leave = op_backend_choose(argc, argv);
    return leave != 0 ? leave : cmocka_run_group_tests(tests, NULL, NULL);
}
