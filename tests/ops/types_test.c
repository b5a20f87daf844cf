/* Types that an accelerator takes beside those of the other tests: operands and results of
 * different types, of 16 bits, rows that are read in packs and rows that can't be, sums of few and
 * of many pieces. Values are ones that every type holds, so that an op in other types gives what it
 * gives in float32, but for the rounding of its results. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "tests/support/op_fixture.h"

enum { FEW = 13, MANY = 1200 }; /* rows; with 132 multiprocessors, many have more than 32 pieces */

static const int64_t widths[] = {8, 5};
static const enum dtype two_types[] = {DTYPE_F32, DTYPE_BF16};
static const enum dtype three_types[] = {DTYPE_F32, DTYPE_BF16, DTYPE_F16};

/* Multiples of 1/32 up to 7: exact in 8 bits of mantissa. */
static double *exact_values(struct op_fixture *f, int64_t n)
{
    double *values = op_random(f, DTYPE_F32, n, 1.0);

    for (int64_t i = 0; i < n; i++)
        values[i] = round(fmax(-7.0, fmin(values[i], 7.0)) * 32.0) / 32.0;
    return values;
}

static double tolerance_of(const char *op, enum dtype result)
{
    return result == DTYPE_F32 ? 4.0 * op_tolerance(op, DTYPE_F32) : op_tolerance(op, DTYPE_BF16);
}

/* Two results of an op: in these types, and in float32. */
static void expect_same(struct op_fixture *f, const char *op, const char *what, struct tensor got,
                        struct tensor in_f32)
{
    op_expect_values(op, what, op_download(f, got), op_download(f, in_f32), tensor_n_elements(&got),
                     tolerance_of(op, got.dtype));
}

/* ------------------------------------------------------------------------------ row by row */

static void activations(void **state)
{
    (void)state;
    for (size_t w = 0; w < 2; w++)
        for (size_t x = 0; x < 2; x++)
            for (size_t y = 0; y < 2; y++) {
                struct op_fixture f;
                op_fixture_open(&f, 1);
                int64_t d = widths[w];
                double *in = exact_values(&f, FEW * d), *d_y = exact_values(&f, FEW * d);
                struct tensor out[2], d_x[2];
                for (int run = 0; run < 2; run++) {
                    enum dtype of_x = run == 0 ? two_types[x] : DTYPE_F32;
                    enum dtype of_y = run == 0 ? two_types[y] : DTYPE_F32;
                    struct activation_args forward = {op_upload(&f, of_x, in, FEW, d),
                                                      out[run] = op_output(&f, of_y, FEW, d),
                                                      ACTIVATION_GELU};
                    struct activation_backward_args backward = {
                        op_upload(&f, of_y, d_y, FEW, d), op_upload(&f, of_x, in, FEW, d),
                        d_x[run] = op_output(&f, of_y, FEW, d), ACTIVATION_GELU};
                    op_run(f.ops->activation_forward(&f.device, &forward));
                    op_run(f.ops->activation_backward(&f.device, &backward));
                }
                expect_same(&f, "activation_forward", "y", out[0], out[1]);
                expect_same(&f, "activation_backward", "d_x", d_x[0], d_x[1]);
                op_fixture_close(&f);
            }
}

static void unit_norms(void **state)
{
    (void)state;
    for (size_t w = 0; w < 2; w++)
        for (size_t x = 0; x < 2; x++)
            for (size_t y = 0; y < 2; y++) {
                struct op_fixture f;
                op_fixture_open(&f, 2);
                int64_t d = widths[w];
                double *in = exact_values(&f, FEW * d), *d_y = exact_values(&f, FEW * d);
                double *inverse = exact_values(&f, FEW);
                struct tensor out[2], d_x[2];
                for (int run = 0; run < 2; run++) {
                    enum dtype of_x = run == 0 ? two_types[x] : DTYPE_F32;
                    enum dtype of_y = run == 0 ? two_types[y] : DTYPE_F32;
                    struct unit_norm_args forward = {.x = op_upload(&f, of_x, in, FEW, d),
                                                     .y = out[run] = op_output(&f, of_y, FEW, d),
                                                     .inverse = op_output(&f, DTYPE_F32, FEW, 0),
                                                     .eps = 1e-12f};
                    struct unit_norm_backward_args backward = {
                        .d_y = op_upload(&f, of_x, d_y, FEW, d),
                        .y = op_upload(&f, of_y, in, FEW, d),
                        .inverse = op_upload(&f, DTYPE_F32, inverse, FEW, 0),
                        .d_x = d_x[run] = op_output(&f, of_x, FEW, d)};
                    op_run(f.ops->unit_norm_forward(&f.device, &forward));
                    op_run(f.ops->unit_norm_backward(&f.device, &backward));
                }
                expect_same(&f, "unit_norm_forward", "y", out[0], out[1]);
                expect_same(&f, "unit_norm_backward", "d_x", d_x[0], d_x[1]);
                op_fixture_close(&f);
            }
}

static void casts_of_odd_lengths(void **state)
{
    struct op_fixture f;

    (void)state;
    op_fixture_open(&f, 3);
    for (int64_t n = 1; n < 20; n += 6) {
        double *values = exact_values(&f, n);
        struct tensor from = op_upload(&f, DTYPE_F32, values, n, 0);
        for (size_t t = 0; t < 3; t++) {
            struct cast_args args = {from, op_output(&f, three_types[t], n, 0)};
            op_run(f.ops->cast(&f.device, &args));
            op_expect_values("cast", "to", op_download(&f, args.to), values, n, 0.0);
        }
    }
    op_fixture_close(&f);
}

/* ------------------------------------------------------------------------------ sums */

static void run_batch_norms(int64_t n)
{
    for (size_t w = 0; w < 2; w++)
        for (size_t x = 0; x < 2; x++)
            for (size_t y = 0; y < 2; y++) {
                struct op_fixture f;
                op_fixture_open(&f, 4);
                int64_t d = widths[w];
                double *in = exact_values(&f, n * d), *d_out = exact_values(&f, n * d);
                double *gamma = exact_values(&f, d), *beta = exact_values(&f, d);
                struct tensor out[2], d_x[2], d_gamma[2];
                for (int run = 0; run < 2; run++) {
                    enum dtype of_x = run == 0 ? two_types[x] : DTYPE_F32;
                    enum dtype of_y = run == 0 ? two_types[y] : DTYPE_F32;
                    struct tensor input = op_upload(&f, of_x, in, n, d);
                    struct batchnorm_moments_args moments = {input, op_output(&f, DTYPE_F64, 2, d)};
                    struct batchnorm_apply_args apply = {
                        .x = input,
                        .moments = moments.moments,
                        .gamma = op_upload(&f, DTYPE_F32, gamma, d, 0),
                        .beta = op_upload(&f, DTYPE_F32, beta, d, 0),
                        .y = out[run] = op_output(&f, of_y, n, d),
                        .pre = op_output(&f, of_y, n, d),
                        .mean = op_output(&f, DTYPE_F32, d, 0),
                        .rstd = op_output(&f, DTYPE_F32, d, 0),
                        .n_rows = n,
                        .eps = 1e-5f,
                        .activation = ACTIVATION_GELU};
                    struct batchnorm_backward_moments_args sums = {
                        .d_y = op_upload(&f, of_y, d_out, n, d),
                        .x = input,
                        .mean = apply.mean,
                        .rstd = apply.rstd,
                        .moments = op_output(&f, DTYPE_F64, 2, d),
                        .d_gamma = d_gamma[run] = op_upload(&f, DTYPE_F32, op_zeros(&f, d), d, 0),
                        .d_beta = op_upload(&f, DTYPE_F32, op_zeros(&f, d), d, 0)};
                    struct batchnorm_backward_apply_args backward = {.d_y = sums.d_y,
                                                                     .x = input,
                                                                     .mean = apply.mean,
                                                                     .rstd = apply.rstd,
                                                                     .gamma = apply.gamma,
                                                                     .moments = sums.moments,
                                                                     .d_x = d_x[run] =
                                                                         op_output(&f, of_y, n, d),
                                                                     .n_rows = n};
                    op_run(f.ops->batchnorm_moments(&f.device, &moments));
                    op_run(f.ops->batchnorm_apply(&f.device, &apply));
                    op_run(f.ops->batchnorm_backward_moments(&f.device, &sums));
                    op_run(f.ops->batchnorm_backward_apply(&f.device, &backward));
                }
                expect_same(&f, "batchnorm_apply", "y", out[0], out[1]);
                expect_same(&f, "batchnorm_backward_moments", "d_gamma", d_gamma[0], d_gamma[1]);
                expect_same(&f, "batchnorm_backward_apply", "d_x", d_x[0], d_x[1]);
                op_fixture_close(&f);
            }
}

static void batch_norms(void **state)
{
    (void)state;
    run_batch_norms(FEW);
    run_batch_norms(MANY);
}

static void means_and_greatest_of_rows(void **state)
{
    static const int64_t rows[] = {FEW, MANY};

    (void)state;
    for (size_t w = 0; w < 2; w++)
        for (size_t r = 0; r < 2; r++)
            for (size_t t = 0; t < 3; t++) {
                struct op_fixture f;
                op_fixture_open(&f, 5);
                int64_t d = widths[w], n = rows[r];
                double *in = exact_values(&f, n * d);
                struct tensor mean[2], index[2];
                for (int run = 0; run < 2; run++) {
                    struct tensor x =
                        op_upload(&f, run == 0 ? three_types[t] : DTYPE_F32, in, n, d);
                    struct rows_mean_args means = {x, mean[run] = op_output(&f, DTYPE_F32, d, 0),
                                                   0};
                    struct rows_argmax_args greatest = {x, index[run] =
                                                               op_output(&f, DTYPE_I32, n, 0)};
                    op_run(f.ops->rows_mean(&f.device, &means));
                    op_run(f.ops->rows_argmax(&f.device, &greatest));
                }
                expect_same(&f, "rows_mean", "mean", mean[0], mean[1]);
                op_expect_values("rows_argmax", "index", op_download(&f, index[0]),
                                 op_download(&f, index[1]), n, 0.0);
                op_fixture_close(&f);
            }
}

static void gradients_of_norms_over_many_rows(void **state)
{
    (void)state;
    for (size_t w = 0; w < 2; w++)
        for (size_t t = 0; t < 3; t++) { /* the last: a stream of bf16 too */
            struct op_fixture f;
            op_fixture_open(&f, 6);
            int64_t d = widths[w], n = MANY;
            double *sum = exact_values(&f, n * d), *d_y = exact_values(&f, n * d);
            double *mean = op_zeros(&f, n), *rstd = op_zeros(&f, n), *gamma = exact_values(&f, d);
            struct tensor d_sum[2], d_gamma[2], d_bias[2];
            for (int64_t i = 0; i < n; i++)
                rstd[i] = 1.0;
            for (int run = 0; run < 2; run++) {
                enum dtype type = run == 0 && t > 0 ? DTYPE_BF16 : DTYPE_F32;
                enum dtype stream = run == 0 && t == 2 ? DTYPE_BF16 : DTYPE_F32;
                struct residual_layernorm_backward_args args = {
                    .d_y = op_upload(&f, type, d_y, n, d),
                    .sum = op_upload(&f, stream, sum, n, d),
                    .mean = op_upload(&f, DTYPE_F32, mean, n, 0),
                    .rstd = op_upload(&f, DTYPE_F32, rstd, n, 0),
                    .gamma = op_upload(&f, DTYPE_F32, gamma, d, 0),
                    .d_sum_out = d_sum[run] = op_output(&f, stream, n, d),
                    .d_gamma = d_gamma[run] = op_upload(&f, DTYPE_F32, op_zeros(&f, d), d, 0),
                    .d_branch = op_output(&f, type, n, d),
                    .d_beta = op_upload(&f, DTYPE_F32, op_zeros(&f, d), d, 0),
                    .d_bias = d_bias[run] = op_upload(&f, DTYPE_F32, op_zeros(&f, d), d, 0)};
                if (t == 0) /* two sums alone */
                    args.d_bias = (struct tensor){0};
                op_run(f.ops->residual_layernorm_backward(&f.device, &args));
            }
            expect_same(&f, "residual_layernorm_backward", "d_sum", d_sum[0], d_sum[1]);
            expect_same(&f, "residual_layernorm_backward", "d_gamma", d_gamma[0], d_gamma[1]);
            /* of rows that can't be read in packs: the sum of rounded ones */
            op_expect_values("residual_layernorm_backward", "d_bias", op_download(&f, d_bias[0]),
                             op_download(&f, d_bias[1]), d,
                             tolerance_of("residual_layernorm_backward", DTYPE_BF16));
            op_fixture_close(&f);
        }
}

/* Biases are sums of what comes in, however it is read: exact ones. */
static void gradients_of_biases_over_many_rows(void **state)
{
    (void)state;
    for (size_t w = 0; w < 2; w++)
        for (size_t t = 0; t < 2; t++) {
            struct op_fixture f;
            op_fixture_open(&f, 8);
            int64_t d = widths[w], n = MANY;
            double *in = exact_values(&f, n * d), *want = op_zeros(&f, d);
            for (int64_t i = 0; i < n * d; i++)
                want[i % d] += in[i];
            struct tensor d_y = op_upload(&f, two_types[t], in, n, d);
            struct residual_layernorm_backward_args residual = {
                .d_sum = op_upload(&f, DTYPE_F32, in, n, d),
                .d_sum_out = op_output(&f, DTYPE_F32, n, d),
                .d_branch = op_output(&f, two_types[t], n, d),
                .d_bias = op_upload(&f, DTYPE_F32, op_zeros(&f, d), d, 0),
            };
            struct linear_backward_args linear = {
                .d_y = d_y,
                .x = d_y,
                .d_weight = op_upload(&f, DTYPE_F32, op_zeros(&f, d * d), d, d),
                .d_bias = op_upload(&f, DTYPE_F32, op_zeros(&f, d), d, 0),
                .activation = ACTIVATION_NONE,
            };
            op_run(f.ops->residual_layernorm_backward(&f.device, &residual));
            op_run(f.ops->linear_backward(&f.device, &linear));
            op_expect_values("residual_layernorm_backward", "d_bias",
                             op_download(&f, residual.d_bias), want, d, 1e-6);
            op_expect_values("linear_backward", "d_bias", op_download(&f, linear.d_bias), want, d,
                             1e-6);
            op_fixture_close(&f);
        }
}

static void token_gradients_over_many_images(void **state)
{
    enum { IMAGES = 1100, SIDE = 2, PATCHES = SIDE * SIDE, LENGTH = PATCHES + 1 };

    (void)state;
    for (size_t w = 0; w < 2; w++)
        for (size_t t = 0; t < 4; t++) { /* patches of bf16, a stream of bf16, both */
            struct op_fixture f;
            op_fixture_open(&f, 7);
            int64_t d = widths[w], n = IMAGES * PATCHES;
            double *d_tokens = exact_values(&f, IMAGES * LENGTH * d), *mask = op_zeros(&f, n);
            struct tensor token[2], position[2], masked[2];
            for (int64_t i = 0; i < n; i++)
                mask[i] = i % 3 == 0;
            for (int run = 0; run < 2; run++) {
                enum dtype type = run == 0 && t % 2 != 0 ? DTYPE_BF16 : DTYPE_F32;
                enum dtype stream = run == 0 && t >= 2 ? DTYPE_BF16 : DTYPE_F32;
                struct tokens_backward_args args = {
                    .d_tokens = op_upload(&f, stream, d_tokens, IMAGES * LENGTH, d),
                    .mask = op_upload(&f, DTYPE_U8, mask, n, 0),
                    .d_patches = op_output(&f, type, n, d),
                    .d_mask_token = token[run] = op_upload(&f, DTYPE_F32, op_zeros(&f, d), d, 0),
                    .d_cls = op_upload(&f, DTYPE_F32, op_zeros(&f, d), d, 0),
                    .d_pos = position[run] =
                        op_upload(&f, DTYPE_F32, op_zeros(&f, LENGTH * d), LENGTH, d)};
                struct region_mask_backward_args region = {
                    .d_x = op_upload(&f, type, d_tokens, n, d),
                    .mask = args.mask,
                    .d_mask_token = masked[run] = op_upload(&f, DTYPE_F32, op_zeros(&f, d), d, 0),
                    .side = SIDE,
                    .cells = SIDE};
                op_run(f.ops->tokens_backward(&f.device, &args));
                op_run(f.ops->region_mask_backward(&f.device, &region));
            }
            expect_same(&f, "tokens_backward", "d_mask_token", token[0], token[1]);
            expect_same(&f, "tokens_backward", "d_pos", position[0], position[1]);
            expect_same(&f, "region_mask_backward", "d_mask_token", masked[0], masked[1]);
            op_fixture_close(&f);
        }
}

/* A stream of bf16 beside patches of float32, of few images. */
static void tokens_of_another_type_than_their_patches(void **state)
{
    enum { IMAGES = 3, PATCHES = 4, LENGTH = PATCHES + 1 };

    (void)state;
    for (size_t w = 0; w < 2; w++) {
        struct op_fixture f;
        op_fixture_open(&f, 8);
        int64_t d = widths[w], n = IMAGES * PATCHES, rows = IMAGES * LENGTH;
        double *values = exact_values(&f, n * d), *d_tokens = exact_values(&f, rows * d);
        double *cls = exact_values(&f, d), *pos = exact_values(&f, LENGTH * d);
        struct tensor tokens[2], position[2];
        for (int run = 0; run < 2; run++) {
            enum dtype stream = run == 0 ? DTYPE_BF16 : DTYPE_F32;
            struct tokens_args forward = {.patches = op_upload(&f, DTYPE_F32, values, n, d),
                                          .cls = op_upload(&f, DTYPE_F32, cls, d, 0),
                                          .pos = op_upload(&f, DTYPE_F32, pos, LENGTH, d),
                                          .tokens = tokens[run] = op_output(&f, stream, rows, d)};
            struct tokens_backward_args backward = {
                .d_tokens = op_upload(&f, stream, d_tokens, rows, d),
                .d_patches = op_output(&f, DTYPE_F32, n, d),
                .d_cls = op_upload(&f, DTYPE_F32, op_zeros(&f, d), d, 0),
                .d_pos = position[run] =
                    op_upload(&f, DTYPE_F32, op_zeros(&f, LENGTH * d), LENGTH, d)};
            op_run(f.ops->tokens_forward(&f.device, &forward));
            op_run(f.ops->tokens_backward(&f.device, &backward));
        }
        expect_same(&f, "tokens_forward", "tokens", tokens[0], tokens[1]);
        expect_same(&f, "tokens_backward", "d_pos", position[0], position[1]);
        op_fixture_close(&f);
    }
}

/* ------------------------------------------------------------------------------ products */

static void linear_layers(void **state)
{
    /* of x and weight; y; bias. float32 operands have float32 results. */
    static const enum dtype types[][3] = {
        {DTYPE_BF16, DTYPE_F32, DTYPE_F32},  {DTYPE_BF16, DTYPE_F32, DTYPE_BF16},
        {DTYPE_BF16, DTYPE_BF16, DTYPE_F32}, {DTYPE_BF16, DTYPE_BF16, DTYPE_BF16},
        {DTYPE_F16, DTYPE_F32, DTYPE_F32},   {DTYPE_F32, DTYPE_F32, DTYPE_BF16}};
    enum { IN = 16 };

    (void)state;
    for (size_t w = 0; w < 2; w++)
        for (size_t t = 0; t < sizeof(types) / sizeof(types[0]); t++) {
            struct op_fixture f;
            op_fixture_open(&f, 8);
            int64_t out = widths[w] == 5 ? 5 : 24, n = w == 0 ? FEW : FEW + 1;
            double *x = exact_values(&f, n * IN), *weight = exact_values(&f, out * IN);
            double *bias = exact_values(&f, out);
            struct tensor y[2];
            for (int run = 0; run < 2; run++) {
                enum dtype operand = run == 0 ? types[t][0] : DTYPE_F32;
                struct linear_args args = {
                    .x = op_upload(&f, operand, x, n, IN),
                    .weight = op_upload(&f, operand, weight, out, IN),
                    .bias = op_upload(&f, run == 0 ? types[t][2] : DTYPE_F32, bias, out, 0),
                    .y = y[run] = op_output(&f, run == 0 ? types[t][1] : DTYPE_F32, n, out),
                    .activation = ACTIVATION_GELU};
                op_run(f.ops->linear_forward(&f.device, &args));
            }
            expect_same(&f, "linear_forward", "y", y[0], y[1]);
            op_fixture_close(&f);
        }
}

static void linear_gradients(void **state)
{
    enum { OUT = 16 };

    (void)state;
    for (size_t w = 0; w < 2; w++)
        for (size_t t = 0; t < 2; t++)
            for (size_t p = 0; p < 2; p++) {
                struct op_fixture f;
                op_fixture_open(&f, 9);
                int64_t in = widths[w] == 5 ? 5 : 24, n = w == 0 ? FEW : FEW + 1;
                double *d_y = exact_values(&f, n * OUT), *x = exact_values(&f, n * in);
                double *weight = exact_values(&f, OUT * in), *pre = exact_values(&f, n * in);
                struct tensor d_x[2], sums[2];
                for (int run = 0; run < 2; run++) {
                    enum dtype type = run == 0 ? two_types[t] : DTYPE_F32;
                    struct linear_backward_args args = {
                        .d_y = op_upload(&f, type, d_y, n, OUT),
                        .x = op_upload(&f, type, x, n, in),
                        .weight = op_upload(&f, type, weight, OUT, in),
                        .pre = op_upload(&f, run == 0 ? two_types[p] : DTYPE_F32, pre, n, in),
                        .d_x = d_x[run] = op_output(&f, type, n, in),
                        .d_x_sums = sums[run] = op_upload(&f, DTYPE_F32, op_zeros(&f, in), in, 0),
                        .activation = ACTIVATION_RELU};
                    op_run(f.ops->linear_backward(&f.device, &args));
                }
                expect_same(&f, "linear_backward", "d_x", d_x[0], d_x[1]);
                op_expect_values("linear_backward", "d_x_sums", op_download(&f, sums[0]),
                                 op_download(&f, sums[1]), in,
                                 tolerance_of("linear_backward", DTYPE_BF16));
                op_fixture_close(&f);
            }
}

/* ------------------------------------------------------------------------------ loss */

static void losses_of_every_width(void **state)
{
    static const int64_t prototypes[] = {256, 1600, 3000, 8192, 8196, 77};
    static const double temperature[1] = {0.25};
    enum { ROWS = 3 };

    (void)state;
    for (size_t k = 0; k < sizeof(prototypes) / sizeof(prototypes[0]); k++)
        for (size_t t = 0; t < 3; t++)
            for (size_t d = 0; d < 2; d++) {
                struct op_fixture f;
                op_fixture_open(&f, 10);
                int64_t n_prototypes = prototypes[k];
                double *student = exact_values(&f, ROWS * n_prototypes);
                double *teacher = exact_values(&f, ROWS * n_prototypes);
                double *centre = exact_values(&f, n_prototypes), *weight = exact_values(&f, ROWS);
                double target[ROWS] = {2, 0, 1};
                struct tensor loss[2], gradient[2];
                struct tensor temp = op_upload(&f, DTYPE_F32, temperature, 1, 0);
                for (int run = 0; run < 2; run++) {
                    enum dtype type = run == 0 ? three_types[t] : DTYPE_F32;
                    struct distill_loss_args args = {
                        .student = op_upload(&f, type, student, ROWS, n_prototypes),
                        .teacher = op_upload(&f, type, teacher, ROWS, n_prototypes),
                        .centre = op_upload(&f, DTYPE_F32, centre, n_prototypes, 0),
                        .target = op_upload(&f, DTYPE_I32, target, ROWS, 1),
                        .weight = op_upload(&f, DTYPE_F32, weight, ROWS, 0),
                        .student_temp = temp.data,
                        .teacher_temp = temp.data,
                        .loss = loss[run] = op_upload(&f, DTYPE_F64, op_zeros(&f, 1), 1, 0),
                        .d_student = gradient[run] =
                            op_output(&f, run == 0 ? two_types[d] : DTYPE_F32, ROWS, n_prototypes),
                        .scratch = op_output(&f, DTYPE_F32, 2, ROWS)};
                    op_run(f.ops->distill_loss(&f.device, &args));
                }
                op_expect_values("distill_loss", "loss", op_download(&f, loss[0]),
                                 op_download(&f, loss[1]), 1,
                                 tolerance_of("distill_loss", DTYPE_F32));
                expect_same(&f, "distill_loss", "d_student", gradient[0], gradient[1]);
                op_fixture_close(&f);
            }
}

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(activations),
        cmocka_unit_test(unit_norms),
        cmocka_unit_test(casts_of_odd_lengths),
        cmocka_unit_test(batch_norms),
        cmocka_unit_test(means_and_greatest_of_rows),
        cmocka_unit_test(gradients_of_norms_over_many_rows),
        cmocka_unit_test(gradients_of_biases_over_many_rows),
        cmocka_unit_test(token_gradients_over_many_images),
        cmocka_unit_test(tokens_of_another_type_than_their_patches),
        cmocka_unit_test(linear_layers),
        cmocka_unit_test(linear_gradients),
        cmocka_unit_test(losses_of_every_width),
    };
    int leave = op_backend_choose(argc, argv);
    return leave != 0 ? leave : cmocka_run_group_tests(tests, NULL, NULL);
}
