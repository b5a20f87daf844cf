/* The linear layer against its definition in double, on every backend. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

#include "tests/support/op_fixture.h"
#include "tests/support/op_reference.h"

struct linear_case {
    int64_t n, n_in, n_out;
    enum activation activation;
    bool bias;
    double x_scale, weight_scale;
};

static const struct linear_case cases[] = {
    {1, 1, 1, ACTIVATION_NONE, true, 1.0, 1.0},
    {3, 17, 37, ACTIVATION_GELU, true, 1.0, 0.5},
    {197, 37, 3, ACTIVATION_RELU, true, 1.0, 0.5},
    {37, 197, 17, ACTIVATION_NONE, false, 1.0, 0.1},
    {17, 3, 197, ACTIVATION_GELU, false, 1.0, 1.0},
    {197, 64, 128, ACTIVATION_GELU, true, 1.0, 0.1},
    {4200, 5, 9, ACTIVATION_GELU, true, 1.0, 1.0}, /* many blocks, of each thread */
    {37, 17, 37, ACTIVATION_GELU, true, 1000.0, 10.0},
    {37, 17, 37, ACTIVATION_GELU, true, 1e-6, 1e-6},
    {17, 17, 17, ACTIVATION_RELU, true, 1e6, 1e6},
    {3, 3, 3, ACTIVATION_GELU, true, 0.0, 1.0},
    {37, 64, 96, ACTIVATION_GELU_TANH, true, 1.0, 0.2},
    {5, 16, 24, ACTIVATION_GELU_TANH, true, 10.0, 10.0},
    {17, 13, 9, ACTIVATION_GELU_TANH, false, 1.0, 0.3},
    {401, 24, 8, ACTIVATION_GELU, true, 1.0, 0.3}, /* more rows than take one turn */
};
enum { N_CASES = sizeof(cases) / sizeof(cases[0]) };

struct linear_problem {
    struct linear_case c;
    double *x, *weight, *bias, *d_y;
    double *input, *shift;      /* what x is made of: activation(input + shift), shift of columns */
    enum activation activation; /* of it */
};

static double before(const struct linear_problem *p, int64_t row, int64_t column)
{
    return reference_dot(p->x + row * p->c.n_in, p->weight + column * p->c.n_in, p->c.n_in) +
           (p->bias != NULL ? p->bias[column] : 0.0);
}

static void run_forward(const struct linear_case *c, bool with_pre)
{
    struct op_fixture f;
    op_fixture_open(&f, 1);
    struct linear_problem p = {.c = *c,
                               .x = op_random(&f, f.dtype, c->n * c->n_in, c->x_scale),
                               .weight =
                                   op_random(&f, f.dtype, c->n_out * c->n_in, c->weight_scale),
                               .bias = c->bias ? op_random(&f, f.dtype, c->n_out, 1.0) : NULL};
    double *want = op_zeros(&f, c->n * c->n_out), *want_pre = op_zeros(&f, c->n * c->n_out);
    struct linear_args args = {
        .x = op_upload(&f, f.dtype, p.x, c->n, c->n_in),
        .weight = op_upload(&f, f.dtype, p.weight, c->n_out, c->n_in),
        .y = op_output(&f, f.dtype, c->n, c->n_out),
        .activation = c->activation,
    };
    if (c->bias)
        args.bias = op_upload(&f, f.dtype, p.bias, c->n_out, 0);
    if (with_pre)
        args.pre = op_output(&f, f.dtype, c->n, c->n_out);
    for (int64_t i = 0; i < c->n; i++)
        for (int64_t j = 0; j < c->n_out; j++) {
            want_pre[i * c->n_out + j] = before(&p, i, j);
            want[i * c->n_out + j] = reference_activation(c->activation, before(&p, i, j));
        }
    op_run(f.ops->linear_forward(&f.device, &args));
    op_expect(&f, "linear_forward", "y", args.y, want);
    if (with_pre)
        op_expect(&f, "linear_forward", "pre", args.pre, want_pre);
    op_fixture_close(&f);
}

static void products_with_bias_and_activation_follow_their_definition(void **state)
{
    (void)state;
    for (int i = 0; i < N_CASES; i++) {
        run_forward(&cases[i], false);
        if (cases[i].activation != ACTIVATION_NONE)
            run_forward(&cases[i], true);
    }
}

/* sum d_y * (x weight^T + bias) */
static double linear_loss(void *context)
{
    struct linear_problem *p = context;
    double loss = 0.0;

    for (int64_t i = 0; i < p->c.n * p->c.n_in; i++)
        p->x[i] = reference_activation(p->activation, p->input[i] + p->shift[i % p->c.n_in]);
    for (int64_t i = 0; i < p->c.n; i++)
        for (int64_t j = 0; j < p->c.n_out; j++)
            if (p->d_y[i * p->c.n_out + j] != 0.0)
                loss += p->d_y[i * p->c.n_out + j] * before(p, i, j);
    return loss;
}

static void run_backward(const struct linear_case *c, bool with_pre)
{
    struct op_fixture f;
    op_fixture_open(&f, 2);
    int64_t n_x = c->n * c->n_in, n_weight = c->n_in * c->n_out;
    struct linear_problem p = {.c = *c,
                               .x = op_zeros(&f, n_x),
                               .weight = op_random(&f, f.dtype, n_weight, c->weight_scale),
                               .bias = op_random(&f, f.dtype, c->n_out, 1.0),
                               .d_y = op_random(&f, f.dtype, c->n * c->n_out, 1.0),
                               .input = op_random(&f, f.dtype, n_x, c->x_scale),
                               .shift = op_zeros(&f, c->n_in),
                               .activation = with_pre ? c->activation : ACTIVATION_NONE};
    double *weight_before = op_random(&f, DTYPE_F32, n_weight, 0.01 * c->x_scale);
    double *bias_before = op_random(&f, DTYPE_F32, c->n_out, 0.01);
    double *sums_before = op_random(&f, DTYPE_F32, c->n_in, 0.01);
    struct linear_backward_args args = {.activation = c->activation};

    if (with_pre)
        args.pre = op_upload(&f, f.dtype, p.input, c->n, c->n_in);
    (void)linear_loss(&p); /* makes x */
    args.d_y = op_upload(&f, f.dtype, p.d_y, c->n, c->n_out);
    args.x = op_upload(&f, f.dtype, p.x, c->n, c->n_in);
    args.weight = op_upload(&f, f.dtype, p.weight, c->n_out, c->n_in);
    args.d_x = op_output(&f, f.dtype, c->n, c->n_in);
    args.d_weight = op_upload(&f, DTYPE_F32, weight_before, c->n_out, c->n_in);
    args.d_bias = op_upload(&f, DTYPE_F32, bias_before, c->n_out, 0);
    args.d_x_sums = op_upload(&f, DTYPE_F32, sums_before, c->n_in, 0);
    op_run(f.ops->linear_backward(&f.device, &args));
    op_expect_gradient(&f, "linear_backward", "d_x", args.d_x, NULL, p.input, linear_loss, &p);
    op_expect_gradient(&f, "linear_backward", "d_weight", args.d_weight, weight_before, p.weight,
                       linear_loss, &p);
    op_expect_gradient(&f, "linear_backward", "d_bias", args.d_bias, bias_before, p.bias,
                       linear_loss, &p);
    op_expect_gradient(&f, "linear_backward", "d_x_sums", args.d_x_sums, sums_before, p.shift,
                       linear_loss, &p);
    op_fixture_close(&f);
}

static void gradients_are_those_of_finite_differences(void **state)
{
    (void)state;
    for (int i = 0; i < N_CASES; i++) {
        if (cases[i].x_scale != 1.0)
            continue; /* differences in double have no digits to spare there */
        run_backward(&cases[i], false);
        if (cases[i].activation != ACTIVATION_NONE)
            run_backward(&cases[i], true);
    }
}

static void gradients_that_nobody_wants_are_left_out(void **state)
{
    struct op_fixture f;
    double values[6] = {1, 2, 3, 4, 5, 6}, d_x[4] = {1 * 1 + 2 * 3, 1 * 2 + 2 * 4, 3 + 12, 6 + 16};

    (void)state;
    op_fixture_open(&f, 3);
    struct linear_backward_args args = {.d_y = op_upload(&f, f.dtype, values, 2, 2),
                                        .x = op_upload(&f, f.dtype, values, 2, 2),
                                        .weight = op_upload(&f, f.dtype, values, 2, 2),
                                        .d_x = op_output(&f, f.dtype, 2, 2)};
    op_run(f.ops->linear_backward(&f.device, &args));
    op_expect(&f, "linear_backward", "d_x", args.d_x, d_x);
    args.d_x.data = NULL;
    double bias[2] = {0, 0}, want[2] = {4, 6};
    args.d_bias = op_upload(&f, DTYPE_F32, bias, 2, 0);
    op_run(f.ops->linear_backward(&f.device, &args));
    op_expect(&f, "linear_backward", "d_bias", args.d_bias, want);
    op_fixture_close(&f);
}

static void rows_may_be_none(void **state)
{
    struct op_fixture f;

    (void)state;
    op_fixture_open(&f, 4);
    double values[6] = {1, 2, 3, 4, 5, 6};
    struct tensor weight = op_upload(&f, f.dtype, values, 2, 3);
    struct linear_args args = {
        .x = op_output(&f, f.dtype, 1, 3), .weight = weight, .y = op_output(&f, f.dtype, 1, 2)};
    args.x.shape[0] = args.y.shape[0] = 0;
    op_run(f.ops->linear_forward(&f.device, &args));
    struct linear_backward_args back = {.d_y = args.y,
                                        .x = args.x,
                                        .weight = weight,
                                        .d_x = args.x,
                                        .d_weight = op_upload(&f, DTYPE_F32, values, 2, 3)};
    op_run(f.ops->linear_backward(&f.device, &back));
    op_expect(&f, "linear_backward", "d_weight", back.d_weight, values);
    op_fixture_close(&f);
}

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(products_with_bias_and_activation_follow_their_definition),
        cmocka_unit_test(gradients_are_those_of_finite_differences),
        cmocka_unit_test(gradients_that_nobody_wants_are_left_out),
        cmocka_unit_test(rows_may_be_none),
    };
    int leave = op_backend_choose(argc, argv);
    return leave != 0 ? leave : cmocka_run_group_tests(tests, NULL, NULL);
}
