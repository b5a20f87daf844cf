/* Unit vectors and weight normalisation against their definition in double, on every backend. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

#include "tests/support/op_fixture.h"
#include "tests/support/op_reference.h"

static const struct {
    int64_t n, d;
    double scale;
} cases[] = {{1, 1, 1.0},    {3, 17, 1.0},   {37, 197, 1.0}, {197, 37, 1.0},
             {17, 256, 1.0}, {17, 37, 1e-6}, {17, 37, 1e6}};
enum { N_CASES = sizeof(cases) / sizeof(cases[0]) };

struct norm_problem {
    int64_t n, d;
    double eps;
    double *x, *gain, *d_y, *y;
};

static double norm_loss(void *context)
{
    struct norm_problem *p = context;
    double loss = 0.0;

    for (int64_t i = 0; i < p->n; i++) {
        const double *x = p->x + i * p->d;
        double norm = fmax(sqrt(reference_dot(x, x, p->d)), p->eps);
        for (int64_t j = 0; j < p->d; j++) {
            p->y[i * p->d + j] = x[j] / norm * (p->gain != NULL ? p->gain[i] : 1.0);
            loss += p->y[i * p->d + j] * p->d_y[i * p->d + j];
        }
    }
    return loss;
}

static struct norm_problem make_problem(struct op_fixture *f, int i, enum dtype dtype)
{
    int64_t n = cases[i].n * cases[i].d;

    return (struct norm_problem){.n = cases[i].n,
                                 .d = cases[i].d,
                                 .x = op_random(f, dtype, n, cases[i].scale),
                                 .d_y = op_random(f, f->dtype, n, 1.0),
                                 .y = op_zeros(f, n)};
}

static void unit_vectors_and_their_gradients_follow_the_definition(void **state)
{
    (void)state;
    for (int i = 0; i < N_CASES; i++) {
        struct op_fixture f;
        op_fixture_open(&f, 12);
        struct norm_problem p = make_problem(&f, i, f.dtype);
        p.eps = 1e-12;
        struct unit_norm_args args = {.x = op_upload(&f, f.dtype, p.x, p.n, p.d),
                                      .y = op_output(&f, f.dtype, p.n, p.d),
                                      .inverse = op_output(&f, DTYPE_F32, p.n, 0),
                                      .eps = 1e-12f};
        op_run(f.ops->unit_norm_forward(&f.device, &args));
        (void)norm_loss(&p);
        op_expect(&f, "unit_norm_forward", "y", args.y, p.y);
        struct unit_norm_backward_args back = {
            .d_y = op_upload(&f, f.dtype, p.d_y, p.n, p.d), .y = args.y, .inverse = args.inverse};
        back.d_x = i % 2 == 0 ? back.d_y : op_output(&f, f.dtype, p.n, p.d);
        op_run(f.ops->unit_norm_backward(&f.device, &back));
        if (p.d > 1 && cases[i].scale <= 1.0) {
            /* differences need a step that is small beside the values: in units of the scale */
            double *d_x = op_download(&f, back.d_x);
            for (int64_t r = 0; r < p.n; r++) {
                const double *x = p.x + r * p.d, *d_y = p.d_y + r * p.d;
                double norm = sqrt(reference_dot(x, x, p.d));
                double along = reference_dot(x, d_y, p.d) / norm / norm;
                double want[256];
                for (int64_t j = 0; j < p.d; j++)
                    want[j] = (d_y[j] - x[j] * along) / norm;
                op_expect_values("unit_norm_backward", "d_x", d_x + r * p.d, want, p.d,
                                 op_tolerance("unit_norm_backward", f.dtype));
            }
        }
        if (p.d > 1 && cases[i].scale == 1.0)
            op_expect_gradient(&f, "unit_norm_backward", "d_x", back.d_x, NULL, p.x, norm_loss, &p);
        args.y = args.x;
        args.inverse.data = NULL;
        op_run(f.ops->unit_norm_forward(&f.device, &args));
        op_expect(&f, "unit_norm_forward", "y in place", args.y, p.y);
        op_fixture_close(&f);
    }
}

static void a_row_of_zeros_stays_zero(void **state)
{
    struct op_fixture f;

    (void)state;
    op_fixture_open(&f, 13);
    double *zeros = op_zeros(&f, 37);
    struct unit_norm_args args = {.x = op_upload(&f, f.dtype, zeros, 1, 37),
                                  .y = op_output(&f, f.dtype, 1, 37),
                                  .inverse = op_output(&f, DTYPE_F32, 1, 0),
                                  .eps = 1e-12f};
    op_run(f.ops->unit_norm_forward(&f.device, &args));
    op_expect(&f, "unit_norm_forward", "y", args.y, zeros);
    assert_true(fabs(*op_download(&f, args.inverse) - 1e12) < 1e6);
    op_fixture_close(&f);
}

static void a_NaN_spoils_its_row_alone(void **state)
{
    struct op_fixture f;

    (void)state;
    op_fixture_open(&f, 15);
    double *x = op_random(&f, f.dtype, 3 * 37, 1.0);
    x[37 + 5] = NAN;
    struct unit_norm_args args = {
        .x = op_upload(&f, f.dtype, x, 3, 37), .y = op_output(&f, f.dtype, 3, 37), .eps = 1e-12f};
    op_run(f.ops->unit_norm_forward(&f.device, &args));
    double *y = op_download(&f, args.y);
    for (int i = 0; i < 3 * 37; i++)
        assert_int_equal(isnan(y[i]), i / 37 == 1);
    op_fixture_close(&f);
}

static void run_weight_norm(int i, bool with_gain)
{
    struct op_fixture f;
    op_fixture_open(&f, 14);
    struct norm_problem p = make_problem(&f, i, DTYPE_F32);
    struct weight_norm_args args = {.direction = op_upload(&f, DTYPE_F32, p.x, p.n, p.d),
                                    .weight = op_output(&f, f.dtype, p.n, p.d),
                                    .inverse = op_output(&f, DTYPE_F32, p.n, 0)};
    if (with_gain) {
        p.gain = op_random(&f, DTYPE_F32, p.n, 1.0);
        args.gain = op_upload(&f, DTYPE_F32, p.gain, p.n, 0);
    }
    op_run(f.ops->weight_norm_forward(&f.device, &args));
    (void)norm_loss(&p);
    op_expect(&f, "weight_norm_forward", "weight", args.weight, p.y);

    double *before = op_random(&f, DTYPE_F32, p.n * p.d, 0.01);
    double *gain_before = op_random(&f, DTYPE_F32, p.n, 0.01);
    struct weight_norm_backward_args back = {
        .d_weight = op_upload(&f, f.dtype, p.d_y, p.n, p.d),
        .direction = args.direction,
        .gain = args.gain,
        .inverse = args.inverse,
        .d_direction = op_upload(&f, DTYPE_F32, before, p.n, p.d),
        .d_gain = op_upload(&f, DTYPE_F32, gain_before, p.n, 0),
    };
    op_run(f.ops->weight_norm_backward(&f.device, &back));
    if (p.d > 1 && cases[i].scale == 1.0)
        op_expect_gradient(&f, "weight_norm_backward", "d_direction", back.d_direction, before, p.x,
                           norm_loss, &p);
    if (with_gain)
        op_expect_gradient(&f, "weight_norm_backward", "d_gain", back.d_gain, gain_before, p.gain,
                           norm_loss, &p);
    op_fixture_close(&f);
}

static void weight_norm_and_its_gradients_follow_the_definition(void **state)
{
    (void)state;
    for (int i = 0; i < N_CASES; i++) {
        run_weight_norm(i, true);
        run_weight_norm(i, false);
    }
}

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(unit_vectors_and_their_gradients_follow_the_definition),
        cmocka_unit_test(a_row_of_zeros_stays_zero),
        cmocka_unit_test(a_NaN_spoils_its_row_alone),
        cmocka_unit_test(weight_norm_and_its_gradients_follow_the_definition),
    };
    int leave = op_backend_choose(argc, argv);
    return leave != 0 ? leave : cmocka_run_group_tests(tests, NULL, NULL);
}
