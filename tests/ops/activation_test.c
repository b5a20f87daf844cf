/* Activations against their definition in double, on every backend. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

#include "tests/support/op_fixture.h"
#include "tests/support/op_reference.h"

static const enum activation activations[] = {ACTIVATION_NONE, ACTIVATION_GELU, ACTIVATION_RELU,
                                              ACTIVATION_GELU_TANH};

struct activation_problem {
    enum activation activation;
    int64_t n;
    double *x, *d_y;
};

static double activation_loss(void *context)
{
    struct activation_problem *p = context;
    double loss = 0.0;

    for (int64_t i = 0; i < p->n; i++)
        loss += p->d_y[i] * reference_activation(p->activation, p->x[i]);
    return loss;
}

static void run(enum activation activation, int64_t rows, int64_t width, double scale)
{
    struct op_fixture f;
    op_fixture_open(&f, 5);
    int64_t n = rows * width;
    struct activation_problem p = {.activation = activation,
                                   .n = n,
                                   .x = op_random(&f, f.dtype, n, scale),
                                   .d_y = op_random(&f, f.dtype, n, 1.0)};
    double *want = op_zeros(&f, n);
    for (int64_t i = 0; i < n; i++)
        want[i] = reference_activation(activation, p.x[i]);
    struct tensor x = op_upload(&f, f.dtype, p.x, rows, width);
    struct activation_args args = {x, op_output(&f, f.dtype, rows, width), activation};
    op_run(f.ops->activation_forward(&f.device, &args));
    op_expect(&f, "activation_forward", "y", args.y, want);

    struct tensor d_y = op_upload(&f, f.dtype, p.d_y, rows, width);
    struct activation_backward_args back = {d_y, x, d_y, activation}; /* in place */
    op_run(f.ops->activation_backward(&f.device, &back));
    if (activation != ACTIVATION_RELU || scale > 0.1) /* differences must not cross the kink */
        op_expect_gradient(&f, "activation_backward", "d_x", back.d_x, NULL, p.x, activation_loss,
                           &p);

    args.y = args.x; /* in place */
    op_run(f.ops->activation_forward(&f.device, &args));
    op_expect(&f, "activation_forward", "y in place", args.y, want);
    op_fixture_close(&f);
}

static void values_and_gradients_follow_the_definition(void **state)
{
    (void)state;
    for (size_t a = 0; a < sizeof(activations) / sizeof(activations[0]); a++) {
        run(activations[a], 1, 1, 1.0);
        run(activations[a], 3, 17, 1.0);
        run(activations[a], 37, 197, 1.0);
        run(activations[a], 3, 37, 6.0);
        run(activations[a], 3, 37, 1e4);
        run(activations[a], 3, 37, 1e-3);
    }
}

static void the_ends_of_the_range_are_kept(void **state)
{
    struct op_fixture f;
    double x[7] = {-1e30, -100.0, -14.0, 0.0, 14.0, 100.0, 1e30};
    double want[7] = {0.0, 0.0, 0.0, 0.0, 14.0, 100.0, 1e30};
    double slopes[7] = {0.0, 0.0, 0.0, 0.5, 1.0, 1.0, 1.0}, ones[7] = {1, 1, 1, 1, 1, 1, 1};

    (void)state;
    op_fixture_open(&f, 6);
    for (int i = 0; i < 7; i++) {
        struct activation_args args = {op_upload(&f, f.dtype, x + i, 1, 1),
                                       op_output(&f, f.dtype, 1, 1), ACTIVATION_GELU};
        struct activation_backward_args back = {op_upload(&f, f.dtype, ones, 1, 1), args.x,
                                                op_output(&f, f.dtype, 1, 1), ACTIVATION_GELU};
        op_run(f.ops->activation_forward(&f.device, &args));
        op_run(f.ops->activation_backward(&f.device, &back));
        assert_true(fabs(*op_download(&f, args.y) - want[i]) <= 1e-30 + 0.004 * fabs(want[i]));
        assert_true(fabs(*op_download(&f, back.d_x) - slopes[i]) <= 1e-6);
    }
    op_fixture_close(&f);
}

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(values_and_gradients_follow_the_definition),
        cmocka_unit_test(the_ends_of_the_range_are_kept),
    };
    int leave = op_backend_choose(argc, argv);
    return leave != 0 ? leave : cmocka_run_group_tests(tests, NULL, NULL);
}
