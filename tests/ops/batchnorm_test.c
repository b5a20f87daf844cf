/* Batch normalisation, in its two halves, against its definition in double, on every backend. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

#include "tests/support/op_fixture.h"
#include "tests/support/op_reference.h"

static const double EPS = 1e-5, MOMENTUM = 0.1;

static const struct {
    int64_t n, d;
    enum activation activation;
    double scale, offset;
} cases[] = {
    {3, 1, ACTIVATION_NONE, 1.0, 0.0},    {17, 37, ACTIVATION_GELU, 1.0, 0.0},
    {197, 17, ACTIVATION_RELU, 1.0, 0.0}, {37, 197, ACTIVATION_GELU, 1.0, 5.0},
    {300, 3, ACTIVATION_GELU, 1e3, 0.0},  {37, 130, ACTIVATION_NONE, 1e-2, 0.0},
};
enum { N_CASES = sizeof(cases) / sizeof(cases[0]) };

struct batchnorm_problem {
    int64_t n, d;
    double *x, *gamma, *beta, *d_pre, *pre, *mean, *variance;
};

static double batchnorm_loss(void *context)
{
    struct batchnorm_problem *p = context;
    double loss = 0.0;

    for (int64_t j = 0; j < p->d; j++) {
        double mean = 0.0, variance = 0.0;
        for (int64_t i = 0; i < p->n; i++)
            mean += p->x[i * p->d + j] / (double)p->n;
        for (int64_t i = 0; i < p->n; i++)
            variance += pow(p->x[i * p->d + j] - mean, 2.0) / (double)p->n;
        for (int64_t i = 0; i < p->n; i++) {
            double value = (p->x[i * p->d + j] - mean) / sqrt(variance + EPS);
            p->pre[i * p->d + j] = value * p->gamma[j] + p->beta[j];
            loss += p->pre[i * p->d + j] * p->d_pre[i * p->d + j];
        }
        p->mean[j] = mean;
        p->variance[j] = variance;
    }
    return loss;
}

static void expect_forward(struct op_fixture *f, const struct batchnorm_problem *p,
                           const struct batchnorm_apply_args *args, const double *running)
{
    int64_t n = p->n * p->d;
    double *want = op_zeros(f, n), *mean = op_zeros(f, p->d), *variance = op_zeros(f, p->d);

    for (int64_t i = 0; i < n; i++)
        want[i] = reference_activation(args->activation, p->pre[i]);
    op_expect(f, "batchnorm_apply", "y", args->y, want);
    op_expect(f, "batchnorm_apply", "pre", args->pre, p->pre);
    for (int64_t j = 0; j < p->d; j++) {
        double unbiased = p->variance[j] * (double)p->n / (double)(p->n - 1);
        mean[j] = running[j] + MOMENTUM * (p->mean[j] - running[j]);
        variance[j] = fabs(running[j]) + MOMENTUM * (unbiased - fabs(running[j]));
    }
    op_expect(f, "batchnorm_apply", "running_mean", args->running_mean, mean);
    op_expect(f, "batchnorm_apply", "running_var", args->running_var, variance);
}

static void run(int i)
{
    struct op_fixture f;
    op_fixture_open(&f, 15);
    int64_t rows = cases[i].n, d = cases[i].d, n = rows * d;
    struct batchnorm_problem p = {.n = rows,
                                  .d = d,
                                  .x = op_random(&f, f.dtype, n, cases[i].scale),
                                  .gamma = op_random(&f, DTYPE_F32, d, 1.0),
                                  .beta = op_random(&f, DTYPE_F32, d, 1.0),
                                  .d_pre = op_random(&f, f.dtype, n, 1.0),
                                  .pre = op_zeros(&f, n),
                                  .mean = op_zeros(&f, d),
                                  .variance = op_zeros(&f, d)};
    for (int64_t k = 0; k < n; k++)
        p.x[k] = op_round(f.dtype, p.x[k] + cases[i].offset);
    (void)batchnorm_loss(&p);
    double *running = op_random(&f, DTYPE_F32, d, 1.0), *absolute = op_zeros(&f, d);
    for (int64_t j = 0; j < d; j++)
        absolute[j] = fabs(running[j]);

    struct batchnorm_moments_args moments = {op_upload(&f, f.dtype, p.x, rows, d),
                                             op_output(&f, DTYPE_F64, 2, d)};
    struct batchnorm_apply_args apply = {.x = moments.x,
                                         .moments = moments.moments,
                                         .gamma = op_upload(&f, DTYPE_F32, p.gamma, d, 0),
                                         .beta = op_upload(&f, DTYPE_F32, p.beta, d, 0),
                                         .y = op_output(&f, f.dtype, rows, d),
                                         .pre = op_output(&f, f.dtype, rows, d),
                                         .mean = op_output(&f, DTYPE_F32, d, 0),
                                         .rstd = op_output(&f, DTYPE_F32, d, 0),
                                         .running_mean = op_upload(&f, DTYPE_F32, running, d, 0),
                                         .running_var = op_upload(&f, DTYPE_F32, absolute, d, 0),
                                         .n_rows = rows,
                                         .eps = (float)EPS,
                                         .momentum = (float)MOMENTUM,
                                         .activation = cases[i].activation};
    op_run(f.ops->batchnorm_moments(&f.device, &moments));
    op_run(f.ops->batchnorm_apply(&f.device, &apply));
    expect_forward(&f, &p, &apply, running);

    double *gamma_before = op_random(&f, DTYPE_F32, d, 0.01);
    double *beta_before = op_random(&f, DTYPE_F32, d, 0.01);
    struct batchnorm_backward_moments_args back = {
        .d_y = op_upload(&f, f.dtype, p.d_pre, rows, d),
        .x = moments.x,
        .mean = apply.mean,
        .rstd = apply.rstd,
        .moments = op_output(&f, DTYPE_F64, 2, d),
        .d_gamma = op_upload(&f, DTYPE_F32, gamma_before, d, 0),
        .d_beta = op_upload(&f, DTYPE_F32, beta_before, d, 0)};
    struct batchnorm_backward_apply_args back_apply = {.d_y = back.d_y,
                                                       .x = moments.x,
                                                       .mean = apply.mean,
                                                       .rstd = apply.rstd,
                                                       .gamma = apply.gamma,
                                                       .moments = back.moments,
                                                       .d_x = op_output(&f, f.dtype, rows, d),
                                                       .n_rows = rows};
    op_run(f.ops->batchnorm_backward_moments(&f.device, &back));
    op_run(f.ops->batchnorm_backward_apply(&f.device, &back_apply));
    op_expect_gradient(&f, "batchnorm_backward_moments", "d_gamma", back.d_gamma, gamma_before,
                       p.gamma, batchnorm_loss, &p);
    op_expect_gradient(&f, "batchnorm_backward_moments", "d_beta", back.d_beta, beta_before, p.beta,
                       batchnorm_loss, &p);
    if (cases[i].scale == 1.0)
        op_expect_gradient(&f, "batchnorm_backward_apply", "d_x", back_apply.d_x, NULL, p.x,
                           batchnorm_loss, &p);
    op_fixture_close(&f);
}

static void both_halves_of_both_directions_follow_the_definition(void **state)
{
    (void)state;
    for (int i = 0; i < N_CASES; i++)
        run(i);
}

/* What two ranks do: each sums its rows, the sums are added, both apply them. */
static void moments_of_two_ranks_add_up(void **state)
{
    enum { ROWS = 34, D = 17 };
    struct op_fixture f;

    (void)state;
    op_fixture_open(&f, 16);
    double *x = op_random(&f, f.dtype, ROWS * D, 1.0);
    struct tensor whole = op_upload(&f, f.dtype, x, ROWS, D);
    struct batchnorm_moments_args all = {whole, op_output(&f, DTYPE_F64, 2, D)};
    struct batchnorm_moments_args part[2] = {
        {tensor_rows(whole, 0, 11), op_output(&f, DTYPE_F64, 2, D)},
        {tensor_rows(whole, 11, ROWS - 11), op_output(&f, DTYPE_F64, 2, D)}};
    op_run(f.ops->batchnorm_moments(&f.device, &all));
    op_run(f.ops->batchnorm_moments(&f.device, &part[0]));
    op_run(f.ops->batchnorm_moments(&f.device, &part[1]));
    double *sum = op_download(&f, part[0].moments), *other = op_download(&f, part[1].moments);
    for (int k = 0; k < 2 * D; k++)
        sum[k] += other[k];
    op_expect(&f, "batchnorm_moments", "moments", all.moments, sum);
    op_fixture_close(&f);
}

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(both_halves_of_both_directions_follow_the_definition),
        cmocka_unit_test(moments_of_two_ranks_add_up),
    };
    int leave = op_backend_choose(argc, argv);
    return leave != 0 ? leave : cmocka_run_group_tests(tests, NULL, NULL);
}
