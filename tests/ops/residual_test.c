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

/* ------------------------------------------------------------------------------ dropped samples */

/* The same op with all rows, and with those of dropped samples left out of branch and y. */
struct left_out {
    struct op_fixture f;
    struct residual_case c;
    struct residual_problem p;
    int64_t n_branch, n_y; /* rows that are there */
    struct tensor branch_shift, y_shift;
};

/* Rows of a sample whose entry in `shift` is not -1 (NULL: all), one after the other. */
static double *rows_there(struct left_out *l, const double *rows, const double *shift, int64_t *n)
{
    double *there = op_zeros(&l->f, l->c.n * l->c.d);

    *n = 0;
    for (int64_t i = 0; i < l->c.n; i++)
        if (shift[(int)l->p.sample[i]] >= 0.0)
            memcpy(there + (*n)++ * l->c.d, rows + i * l->c.d, (size_t)l->c.d * sizeof(double));
    return there;
}

/* `got` holds the rows of `want` that are there. */
static void expect_rows(struct left_out *l, const char *what, struct tensor got, struct tensor want,
                        const double *shift, double tolerance)
{
    int64_t n;
    double *rows = rows_there(l, op_download(&l->f, want), shift, &n);

    op_expect_values("residual_layernorm", what, op_download(&l->f, got), rows, n * l->c.d,
                     tolerance);
}

/* Sample 0 has no branch, sample 1 no norm, each of a third of the rows. */
static void compare_left_out(const struct residual_case *c, bool own_type, bool bias)
{
    struct left_out l = {.c = *c};
    struct op_fixture *f = &l.f;
    int64_t third = c->n / N_SAMPLES, n = c->n, d = c->d;
    double no_branch[N_SAMPLES] = {-1.0, (double)third, (double)third};
    double no_norm[N_SAMPLES] = {0.0, -1.0, (double)third};
    double all[N_SAMPLES] = {0.0};

    op_fixture_open(f, 12);
    enum dtype stream = own_type ? f->dtype : DTYPE_F32;
    l.p = make_problem(f, c, stream);
    for (int64_t i = 0; i < n; i++) {
        l.p.sample[i] = (double)(i / third);
        for (int64_t j = 0; j < d && l.p.sample[i] == 1.0; j++)
            l.p.d_y[i * d + j] = 0.0; /* of what the other run doesn't have */
    }
    double *branch = rows_there(&l, l.p.branch, no_branch, &l.n_branch);
    double *d_y = rows_there(&l, l.p.d_y, no_norm, &l.n_y);
    l.branch_shift = op_upload(f, DTYPE_I32, no_branch, N_SAMPLES, 0);
    l.y_shift = op_upload(f, DTYPE_I32, no_norm, N_SAMPLES, 0);
    struct residual_layernorm_args args[2];
    struct residual_layernorm_backward_args back[2];
    for (int part = 0; part < 2; part++) {
        int64_t n_branch = part ? l.n_branch : n, n_y = part ? l.n_y : n;
        args[part] = (struct residual_layernorm_args){
            .x = op_upload(f, stream, l.p.x, n, d),
            .branch = op_upload(f, f->dtype, part ? branch : l.p.branch, n_branch, d),
            .scale = op_upload(f, DTYPE_F32, l.p.scale, N_SAMPLES, 0),
            .sample = op_upload(f, DTYPE_I32, l.p.sample, n, 0),
            .sum = op_output(f, stream, n, d),
            .eps = (float)EPS,
        };
        back[part] = (struct residual_layernorm_backward_args){
            .scale = args[part].scale,
            .sample = args[part].sample,
            .d_sum = op_upload(f, stream, l.p.d_sum, n, d),
            .d_sum_out = op_output(f, stream, n, d),
            .d_branch = op_output(f, f->dtype, n_branch, d),
            .d_bias = bias ? op_upload(f, DTYPE_F32, op_zeros(f, d), d, 0) : (struct tensor){0},
        };
        if (c->norm) {
            args[part].gamma = back[part].gamma = op_upload(f, DTYPE_F32, l.p.gamma, d, 0);
            args[part].beta = op_upload(f, DTYPE_F32, l.p.beta, d, 0);
            args[part].y = op_output(f, f->dtype, n_y, d);
            args[part].mean = back[part].mean = op_output(f, DTYPE_F32, n, 0);
            args[part].rstd = back[part].rstd = op_output(f, DTYPE_F32, n, 0);
            back[part].d_y = op_upload(f, f->dtype, part ? d_y : l.p.d_y, n_y, d);
            back[part].d_gamma = op_upload(f, DTYPE_F32, op_zeros(f, d), d, 0);
            back[part].d_beta = op_upload(f, DTYPE_F32, op_zeros(f, d), d, 0);
        }
        if (part) {
            args[part].branch_shift = back[part].branch_shift = l.branch_shift;
            args[part].y_shift = back[part].y_shift = c->norm ? l.y_shift : (struct tensor){0};
        }
        back[part].sum = args[part].sum;
        op_run(f->ops->residual_layernorm_forward(&f->device, &args[part]));
        op_run(f->ops->residual_layernorm_backward(&f->device, &back[part]));
    }
    expect_rows(&l, "sum", args[1].sum, args[0].sum, all, 0.0);
    expect_rows(&l, "d_sum_out", back[1].d_sum_out, back[0].d_sum_out, all, 0.0);
    expect_rows(&l, "d_branch", back[1].d_branch, back[0].d_branch, no_branch, 0.0);
    if (bias)
        op_expect_values("residual_layernorm", "d_bias", op_download(f, back[1].d_bias),
                         op_download(f, back[0].d_bias), d, 1e-5);
    if (c->norm) {
        expect_rows(&l, "y", args[1].y, args[0].y, no_norm, 0.0);
        op_expect_values("residual_layernorm", "d_gamma", op_download(f, back[1].d_gamma),
                         op_download(f, back[0].d_gamma), d, 1e-5);
        op_expect_values("residual_layernorm", "d_beta", op_download(f, back[1].d_beta),
                         op_download(f, back[0].d_beta), d, 1e-5);
    }
    op_fixture_close(f);
}

static void rows_of_dropped_samples_may_be_left_out(void **state)
{
    static const struct residual_case of_widths[] = {
        {9, 37, true, true, true, 1.0, 0.0},   {30, 384, true, true, true, 1.0, 0.0},
        {15, 768, true, true, true, 1.0, 0.0}, {6, 1024, true, true, true, 1.0, 0.0},
        {6, 1540, true, true, true, 1.0, 0.0}, {9, 5, true, true, false, 1.0, 0.0},
        {12, 64, true, true, false, 1.0, 0.0}, {3, 1536, true, true, true, 1.0, 0.0},
        {300, 96, true, true, true, 1.0, 0.0},
    };

    (void)state;
    for (size_t i = 0; i < sizeof(of_widths) / sizeof(of_widths[0]); i++)
        for (int way = 0; way < 4; way++)
            compare_left_out(&of_widths[i], way % 2 != 0, way / 2 != 0);
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
        cmocka_unit_test(rows_of_dropped_samples_may_be_left_out),
        cmocka_unit_test(a_constant_row_gives_beta),
        cmocka_unit_test(a_missing_gradient_counts_as_zero),
        cmocka_unit_test(types_and_addresses_may_differ),
    };
    int leave = op_backend_choose(argc, argv);
    return leave != 0 ? leave : cmocka_run_group_tests(tests, NULL, NULL);
}
