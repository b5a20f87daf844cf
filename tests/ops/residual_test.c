/* Residual, stochastic depth and LayerNorm against their definition in double, on every backend. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <string.h>

#include <cmocka.h>

#include "tests/support/op_fixture.h"

enum { N_SAMPLES = 3 };
static const double EPS = 1e-6;

struct residual_case {
    int64_t n, d;
    bool branch, scale, norm;
    double x_scale, x_offset;
};

static const struct residual_case cases[] = {
    {1, 1, true, true, false, 1.0, 0.0}, /* a norm of one value has no gradient to compare */
    {1, 3, true, true, true, 1.0, 0.0},     {3, 17, true, false, true, 1.0, 0.0},
    {37, 197, true, true, true, 1.0, 0.0},  {197, 37, false, false, true, 1.0, 0.0},
    {17, 3, true, true, false, 1.0, 0.0},   {197, 384, true, true, true, 1.0, 0.0},
    {17, 37, true, false, true, 1.0, 10.0}, {17, 37, true, true, true, 1e4, 0.0},
    {17, 37, true, true, true, 1e-3, 0.0},  {130, 5, true, false, false, 1.0, 0.0},
    {9, 96, true, true, true, 1.0, 0.0},    {300, 128, true, true, true, 1.0, 0.0},
    {9, 192, true, false, true, 1.0, 0.0},  {5, 512, true, true, true, 1.0, 0.0},
    {7, 768, true, true, true, 1.0, 3.0},   {5, 1024, false, false, true, 1.0, 0.0},
    {5, 1536, true, true, true, 1.0, 0.0},  {3, 1540, true, true, true, 1.0, 0.0},
    {40, 64, true, true, false, 1.0, 0.0},  {5, 1024, true, true, true, 1.0, 0.0},
};
enum { N_CASES = sizeof(cases) / sizeof(cases[0]) };

struct residual_problem {
    struct residual_case c;
    double *x, *branch, *scale, *sample, *gamma, *beta, *d_y, *d_sum;
    double *bias;    /* that the branch ends in; 0 */
    double *sum, *y; /* results */
    double *mean, *rstd;
};

static void reference_forward(struct residual_problem *p)
{
    int64_t d = p->c.d;

    for (int64_t i = 0; i < p->c.n; i++) {
        double *sum = p->sum + i * d, mean = 0.0, variance = 0.0;
        double factor = p->c.scale ? p->scale[(int)p->sample[i]] : 1.0;
        for (int64_t j = 0; j < d; j++) {
            sum[j] = p->x[i * d + j] +
                     (p->c.branch ? factor * (p->branch[i * d + j] + p->bias[j]) : 0.0);
            mean += sum[j] / (double)d;
        }
        for (int64_t j = 0; j < d; j++)
            variance += (sum[j] - mean) * (sum[j] - mean) / (double)d;
        p->mean[i] = mean;
        p->rstd[i] = 1.0 / sqrt(variance + EPS);
        for (int64_t j = 0; j < d && p->c.norm; j++)
            p->y[i * d + j] = (sum[j] - mean) * p->rstd[i] * p->gamma[j] + p->beta[j];
    }
}

static double residual_loss(void *context)
{
    struct residual_problem *p = context;
    double loss = 0.0;

    reference_forward(p);
    for (int64_t i = 0; i < p->c.n * p->c.d; i++)
        loss += p->d_sum[i] * p->sum[i] + (p->c.norm ? p->d_y[i] * p->y[i] : 0.0);
    return loss;
}

static struct residual_problem make_problem(struct op_fixture *f, const struct residual_case *c,
                                            enum dtype stream)
{
    int64_t n = c->n * c->d;
    struct residual_problem p = {
        .c = *c,
        .x = op_random(f, stream, n, c->x_scale),
        .branch = op_random(f, f->dtype, n, c->x_scale),
        .scale = op_zeros(f, N_SAMPLES),
        .sample = op_zeros(f, c->n),
        .gamma = op_random(f, DTYPE_F32, c->d, 1.0),
        .beta = op_random(f, DTYPE_F32, c->d, 1.0),
        .d_y = op_random(f, f->dtype, n, 1.0),
        .d_sum = op_random(f, stream, n, 1.0 / c->x_scale),
        .bias = op_zeros(f, c->d),
        .sum = op_zeros(f, n),
        .y = op_zeros(f, n),
        .mean = op_zeros(f, c->n),
        .rstd = op_zeros(f, c->n),
    };
    for (int64_t i = 0; i < n; i++)
        p.x[i] = op_round(stream, p.x[i] + c->x_offset);
    p.scale[1] = 1.25; /* kept; the others: dropped, plain */
    p.scale[2] = 1.0;
    for (int64_t i = 0; i < c->n; i++)
        p.sample[i] = (double)rng_below(&f->rng, N_SAMPLES);
    return p;
}

/* The norm and its gradient are of the sum as it is stored: the problem becomes the one that has
 * this sum. */
static void take_stored_sum(struct op_fixture *f, struct residual_problem *p, struct tensor sum)
{
    double *stored = op_download(f, sum);

    for (int64_t i = 0; i < p->c.n * p->c.d; i++) {
        double factor = p->c.scale ? p->scale[(int)p->sample[i / p->c.d]] : 1.0;
        p->x[i] = stored[i] - factor * p->branch[i];
    }
    reference_forward(p);
}

/* own_type: the stream is of the type of what is added to it, which may be bf16. */
static void run(const struct residual_case *c, bool in_place, bool own_type, bool bias)
{
    struct op_fixture f;
    op_fixture_open(&f, 7);
    enum dtype stream = own_type ? f.dtype : DTYPE_F32;
    struct residual_problem p = make_problem(&f, c, stream);
    struct residual_layernorm_args args = {.x = op_upload(&f, stream, p.x, c->n, c->d),
                                           .eps = (float)EPS};
    struct residual_layernorm_backward_args back = {0};

    if (c->branch) {
        args.branch = op_upload(&f, f.dtype, p.branch, c->n, c->d);
        args.sum = in_place ? args.x : op_output(&f, stream, c->n, c->d);
        back.d_branch = op_output(&f, f.dtype, c->n, c->d);
    }
    if (c->scale) {
        args.scale = back.scale = op_upload(&f, DTYPE_F32, p.scale, N_SAMPLES, 0);
        args.sample = back.sample = op_upload(&f, DTYPE_I32, p.sample, c->n, 0);
    }
    if (c->norm) {
        args.gamma = back.gamma = op_upload(&f, DTYPE_F32, p.gamma, c->d, 0);
        args.beta = op_upload(&f, DTYPE_F32, p.beta, c->d, 0);
        args.y = op_output(&f, f.dtype, c->n, c->d);
        args.mean = back.mean = op_output(&f, DTYPE_F32, c->n, 0);
        args.rstd = back.rstd = op_output(&f, DTYPE_F32, c->n, 0);
    }
    op_run(f.ops->residual_layernorm_forward(&f.device, &args));
    reference_forward(&p);
    if (c->branch)
        op_expect(&f, "residual_layernorm_forward", "sum", args.sum, p.sum);
    if (c->branch && stream != DTYPE_F32)
        take_stored_sum(&f, &p, args.sum);
    if (c->norm) {
        double tolerance = op_tolerance("residual_layernorm_forward", f.dtype);
        op_expect(&f, "residual_layernorm_forward", "y", args.y, p.y);
        op_expect(&f, "residual_layernorm_forward", "rstd", args.rstd, p.rstd);
        /* a mean near 0 is as exact as the values it is made of */
        double *mean = op_download(&f, args.mean);
        for (int64_t i = 0; i < c->n; i++)
            assert_true(fabs(mean[i] - p.mean[i]) <=
                        tolerance * (c->x_scale + fabs(c->x_offset)) * 2.0);
    }

    double *gamma_before = op_random(&f, DTYPE_F32, c->d, 0.01);
    double *beta_before = op_random(&f, DTYPE_F32, c->d, 0.01);
    double *bias_before = op_random(&f, DTYPE_F32, c->d, 0.01);
    back.sum = c->branch ? args.sum : args.x;
    back.d_sum = op_upload(&f, stream, p.d_sum, c->n, c->d);
    back.d_sum_out = in_place ? back.d_sum : op_output(&f, stream, c->n, c->d);
    if (c->norm) {
        back.d_y = op_upload(&f, f.dtype, p.d_y, c->n, c->d);
        back.d_gamma = op_upload(&f, DTYPE_F32, gamma_before, c->d, 0);
        back.d_beta = op_upload(&f, DTYPE_F32, beta_before, c->d, 0);
    }
    bias &= c->branch;
    if (bias)
        back.d_bias = op_upload(&f, DTYPE_F32, bias_before, c->d, 0);
    op_run(f.ops->residual_layernorm_backward(&f.device, &back));
    const char *op = "residual_layernorm_backward";
    op_expect_gradient(&f, op, "d_sum_out", back.d_sum_out, NULL, p.x, residual_loss, &p);
    if (c->branch)
        op_expect_gradient(&f, op, "d_branch", back.d_branch, NULL, p.branch, residual_loss, &p);
    if (bias)
        op_expect_gradient(&f, op, "d_bias", back.d_bias, bias_before, p.bias, residual_loss, &p);
    if (c->norm) {
        op_expect_gradient(&f, op, "d_gamma", back.d_gamma, gamma_before, p.gamma, residual_loss,
                           &p);
        op_expect_gradient(&f, op, "d_beta", back.d_beta, beta_before, p.beta, residual_loss, &p);
    }
    op_fixture_close(&f);
}

static void sums_norms_and_their_gradients_follow_the_definition(void **state)
{
    (void)state;
    for (int i = 0; i < N_CASES; i++)
        run(&cases[i], false, false, false);
}

static void sums_may_lie_on_their_inputs(void **state)
{
    (void)state;
    for (int i = 0; i < N_CASES; i++)
        run(&cases[i], true, false, true);
}

static void a_stream_may_have_the_type_of_its_branches(void **state)
{
    (void)state;
    for (int i = 0; i < N_CASES; i++)
        for (int bias = 0; bias < 2; bias++)
            run(&cases[i], i % 2 != 0, true, bias != 0);
}

/* What is made again of a stored sum is what was made beside it, bit by bit. */
static void the_norm_is_of_the_sum_as_it_is_stored(void **state)
{
    static const int64_t widths[] = {37, 384, 1540};

    (void)state;
    for (size_t i = 0; i < sizeof(widths) / sizeof(widths[0]); i++) {
        struct op_fixture f;
        struct residual_case c = {9, widths[i], true, true, true, 1.0, 0.5};
        op_fixture_open(&f, 11);
        struct residual_problem p = make_problem(&f, &c, f.dtype);
        struct residual_layernorm_args args = {
            .x = op_upload(&f, f.dtype, p.x, c.n, c.d),
            .branch = op_upload(&f, f.dtype, p.branch, c.n, c.d),
            .scale = op_upload(&f, DTYPE_F32, p.scale, N_SAMPLES, 0),
            .sample = op_upload(&f, DTYPE_I32, p.sample, c.n, 0),
            .sum = op_output(&f, f.dtype, c.n, c.d),
            .gamma = op_upload(&f, DTYPE_F32, p.gamma, c.d, 0),
            .beta = op_upload(&f, DTYPE_F32, p.beta, c.d, 0),
            .y = op_output(&f, f.dtype, c.n, c.d),
            .mean = op_output(&f, DTYPE_F32, c.n, 0),
            .rstd = op_output(&f, DTYPE_F32, c.n, 0),
            .eps = (float)EPS,
        };
        struct residual_layernorm_args again = {
            .x = args.sum,
            .gamma = args.gamma,
            .beta = args.beta,
            .y = op_output(&f, f.dtype, c.n, c.d),
            .mean = op_output(&f, DTYPE_F32, c.n, 0),
            .rstd = op_output(&f, DTYPE_F32, c.n, 0),
            .eps = (float)EPS,
        };
        const struct tensor pairs[][2] = {
            {args.y, again.y}, {args.mean, again.mean}, {args.rstd, again.rstd}};
        op_run(f.ops->residual_layernorm_forward(&f.device, &args));
        op_run(f.ops->residual_layernorm_forward(&f.device, &again));
        for (int k = 0; k < 3; k++)
            op_expect_values("residual_layernorm_forward", "made again",
                             op_download(&f, pairs[k][1]), op_download(&f, pairs[k][0]),
                             tensor_n_elements(&pairs[k][0]), 0.0);
        op_fixture_close(&f);
    }
}

static void a_constant_row_gives_beta(void **state)
{
    struct op_fixture f;
    double x[17], gamma[17], beta[17];

    (void)state;
    op_fixture_open(&f, 8);
    for (int j = 0; j < 17; j++) {
        x[j] = 3.0;
        gamma[j] = 2.0;
        beta[j] = j;
    }
    struct residual_layernorm_args args = {.x = op_upload(&f, DTYPE_F32, x, 1, 17),
                                           .gamma = op_upload(&f, DTYPE_F32, gamma, 17, 0),
                                           .beta = op_upload(&f, DTYPE_F32, beta, 17, 0),
                                           .y = op_output(&f, f.dtype, 1, 17),
                                           .eps = (float)EPS};
    op_run(f.ops->residual_layernorm_forward(&f.device, &args)); /* mean, rstd absent */
    op_expect(&f, "residual_layernorm_forward", "y", args.y, beta);
    op_fixture_close(&f);
}

/* Without a gradient past the LayerNorm: d_sum absent counts as zero. */
static void a_missing_gradient_counts_as_zero(void **state)
{
    struct op_fixture f;
    struct residual_case c = {37, 17, true, true, true, 1.0, 0.0};

    (void)state;
    op_fixture_open(&f, 9);
    struct residual_problem p = make_problem(&f, &c, DTYPE_F32);
    memset(p.d_sum, 0, (size_t)(c.n * c.d) * sizeof(double));
    reference_forward(&p);
    struct residual_layernorm_backward_args back = {
        .d_y = op_upload(&f, f.dtype, p.d_y, c.n, c.d),
        .sum = op_upload(&f, DTYPE_F32, p.sum, c.n, c.d),
        .mean = op_upload(&f, DTYPE_F32, p.mean, c.n, 0),
        .rstd = op_upload(&f, DTYPE_F32, p.rstd, c.n, 0),
        .gamma = op_upload(&f, DTYPE_F32, p.gamma, c.d, 0),
        .d_sum_out = op_output(&f, DTYPE_F32, c.n, c.d),
    };
    op_run(f.ops->residual_layernorm_backward(&f.device, &back));
    op_expect_gradient(&f, "residual_layernorm_backward", "d_sum_out", back.d_sum_out, NULL, p.x,
                       residual_loss, &p);
    op_fixture_close(&f);
}

/* A branch of one type and a norm of another; and rows that begin at any address. */
static void types_and_addresses_may_differ(void **state)
{
    static const struct residual_case c = {37, 64, true, true, true, 1.0, 0.0};

    (void)state;
    for (int i = 0; i < 2; i++) {
        struct op_fixture f;
        op_fixture_open(&f, 10);
        enum dtype types[2] = {i == 0 ? DTYPE_F32 : f.dtype, i == 0 ? f.dtype : DTYPE_F32};
        struct residual_problem p = make_problem(&f, &c, DTYPE_F32);
        double *shifted = op_zeros(&f, c.n * c.d + 1);
        memcpy(shifted + i, p.x, (size_t)(c.n * c.d) * sizeof(double));
        struct tensor x = op_upload(&f, DTYPE_F32, shifted, c.n * c.d + 1, 0);
        x = tensor_2d((float *)x.data + i, DTYPE_F32, c.n, c.d);
        struct residual_layernorm_args args = {
            .x = x,
            .branch = op_upload(&f, types[0], p.branch, c.n, c.d),
            .scale = op_upload(&f, DTYPE_F32, p.scale, N_SAMPLES, 0),
            .sample = op_upload(&f, DTYPE_I32, p.sample, c.n, 0),
            .sum = op_output(&f, DTYPE_F32, c.n, c.d),
            .gamma = op_upload(&f, DTYPE_F32, p.gamma, c.d, 0),
            .beta = op_upload(&f, DTYPE_F32, p.beta, c.d, 0),
            .y = op_output(&f, types[1], c.n, c.d),
            .mean = op_output(&f, DTYPE_F32, c.n, 0),
            .rstd = op_output(&f, DTYPE_F32, c.n, 0),
            .eps = (float)EPS,
        };
        struct residual_layernorm_backward_args back = {
            .d_y = op_upload(&f, types[1], p.d_y, c.n, c.d),
            .d_sum = op_upload(&f, DTYPE_F32, p.d_sum, c.n, c.d),
            .sum = args.sum,
            .mean = args.mean,
            .rstd = args.rstd,
            .gamma = args.gamma,
            .scale = args.scale,
            .sample = args.sample,
            .d_sum_out = op_output(&f, DTYPE_F32, c.n, c.d),
            .d_branch = op_output(&f, types[0], c.n, c.d),
            .d_gamma = op_upload(&f, DTYPE_F32, op_zeros(&f, c.d), c.d, 0),
            .d_beta = op_upload(&f, DTYPE_F32, op_zeros(&f, c.d), c.d, 0),
            .d_bias = op_upload(&f, DTYPE_F32, op_zeros(&f, c.d), c.d, 0),
        };
        op_run(f.ops->residual_layernorm_forward(&f.device, &args));
        op_run(f.ops->residual_layernorm_backward(&f.device, &back));
        reference_forward(&p);
        op_expect(&f, "residual_layernorm_forward", "sum", args.sum, p.sum);
        op_expect(&f, "residual_layernorm_forward", "y", args.y, p.y);
        const char *op = "residual_layernorm_backward";
        op_expect_gradient(&f, op, "d_sum_out", back.d_sum_out, NULL, p.x, residual_loss, &p);
        op_expect_gradient(&f, op, "d_branch", back.d_branch, NULL, p.branch, residual_loss, &p);
        op_expect_gradient(&f, op, "d_gamma", back.d_gamma, NULL, p.gamma, residual_loss, &p);
        op_expect_gradient(&f, op, "d_beta", back.d_beta, NULL, p.beta, residual_loss, &p);
        op_expect_gradient(&f, op, "d_bias", back.d_bias, NULL, p.bias, residual_loss, &p);
        op_fixture_close(&f);
    }
}

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(sums_norms_and_their_gradients_follow_the_definition),
        cmocka_unit_test(sums_may_lie_on_their_inputs),
        cmocka_unit_test(a_stream_may_have_the_type_of_its_branches),
        cmocka_unit_test(the_norm_is_of_the_sum_as_it_is_stored),
        cmocka_unit_test(a_constant_row_gives_beta),
        cmocka_unit_test(a_missing_gradient_counts_as_zero),
        cmocka_unit_test(types_and_addresses_may_differ),
    };
    int leave = op_backend_choose(argc, argv);
    return leave != 0 ? leave : cmocka_run_group_tests(tests, NULL, NULL);
}
