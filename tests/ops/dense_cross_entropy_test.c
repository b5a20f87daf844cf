/* Dense cross-entropy against its definition in double, PyTorch's numbers and central differences,
 * on every backend. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

#include "tests/support/op_fixture.h"

static const char OP[] = "dense_cross_entropy";

struct shape {
    int64_t n, k;
    int32_t h, w, label_h, label_w;
};

struct problem {
    struct shape s;
    double *logits, *label, *loss, *right, *d_logits;
};

static void tap(int32_t out, int32_t n_out, int32_t n_in, int32_t at[2], double share[2])
{
    double where = fmax((out + 0.5) * n_in / n_out - 0.5, 0.0);

    at[0] = (int32_t)fmin(floor(where), n_in - 1);
    at[1] = at[0] < n_in - 1 ? at[0] + 1 : at[0];
    share[1] = where - at[0];
    share[0] = 1.0 - share[1];
}

/* Of one pixel; adds to its row, and to the gradient when there is one. */
static double plain_pixel(const struct problem *p, int64_t i, int32_t y, int32_t x, double *right,
                          double scale)
{
    const struct shape *s = &p->s;
    int32_t rows[2], columns[2];
    double down[2], across[2], z[DENSE_MAX_CLASSES], top = -INFINITY, sum = 0.0;
    int64_t label = (int64_t)p->label[(i * s->label_h + y) * s->label_w + x], best = 0;

    if (label == DENSE_IGNORED)
        return 0.0;
    tap(y, s->label_h, s->h, rows, down);
    tap(x, s->label_w, s->w, columns, across);
    for (int64_t j = 0; j < s->k; j++) {
        z[j] = 0.0;
        for (int a = 0; a < 4; a++)
            z[j] += down[a / 2] * across[a % 2] *
                    p->logits[((i * s->h + rows[a / 2]) * s->w + columns[a % 2]) * s->k + j];
        best = z[j] > z[best] ? j : best;
        top = fmax(top, z[j]);
    }
    for (int64_t j = 0; j < s->k; j++)
        sum += exp(z[j] - top);
    *right += best == label;
    for (int64_t j = 0; p->d_logits != NULL && j < s->k; j++)
        for (int a = 0; a < 4; a++)
            p->d_logits[((i * s->h + rows[a / 2]) * s->w + columns[a % 2]) * s->k + j] +=
                scale * down[a / 2] * across[a % 2] * (exp(z[j] - top) / sum - (j == label));
    return top + log(sum) - z[label];
}

static double plain(const struct problem *p, double scale)
{
    const struct shape *s = &p->s;
    double all = 0.0;

    for (int64_t i = 0; i < s->n; i++)
        for (int32_t y = 0; y < s->label_h; y++) {
            int64_t row = i * s->label_h + y;
            p->loss[row] = p->right[row] = 0.0;
            for (int32_t x = 0; x < s->label_w; x++)
                p->loss[row] += plain_pixel(p, i, y, x, &p->right[row], scale);
            all += p->loss[row];
        }
    return scale * all;
}

static struct problem make(struct op_fixture *f, struct shape s, double spread)
{
    struct problem p = {
        .s = s,
        .logits = op_random(f, DTYPE_F32, s.n * s.h * s.w * s.k, spread),
        .label = op_zeros(f, s.n * s.label_h * s.label_w),
        .loss = op_zeros(f, s.n * s.label_h),
        .right = op_zeros(f, s.n * s.label_h),
        .d_logits = op_zeros(f, s.n * s.h * s.w * s.k),
    };
    for (int64_t i = 0; i < s.n * s.label_h * s.label_w; i++)
        p.label[i] =
            rng_below(&f->rng, 4) == 0 ? DENSE_IGNORED : (double)rng_below(&f->rng, (uint32_t)s.k);
    return p;
}

static struct dense_cross_entropy_args upload(struct op_fixture *f, const struct problem *p,
                                              float scale, bool gradient)
{
    const struct shape *s = &p->s;
    int64_t cells = s->n * s->h * s->w, rows = s->n * s->label_h;

    return (struct dense_cross_entropy_args){
        .logits = op_upload(f, DTYPE_F32, p->logits, cells, s->k),
        .label = op_upload(f, DTYPE_U8, p->label, rows * s->label_w, 0),
        .lse = op_output(f, DTYPE_F32, rows * s->label_w, 0),
        .loss = op_output(f, DTYPE_F32, rows, 0),
        .right = op_output(f, DTYPE_I32, rows, 0),
        .d_logits = gradient ? op_output(f, DTYPE_F32, cells, s->k) : (struct tensor){0},
        .n = s->n,
        .height = s->h,
        .width = s->w,
        .label_height = s->label_h,
        .label_width = s->label_w,
        .scale = scale,
    };
}

static void run(struct shape s, double spread, bool gradient)
{
    struct op_fixture f;
    float scale = 1.0f / (float)(s.n * s.label_h * s.label_w);

    op_fixture_open(&f, (uint32_t)(s.k + s.h));
    struct problem p = make(&f, s, spread);
    plain(&p, (double)scale);
    struct dense_cross_entropy_args args = upload(&f, &p, scale, gradient);
    op_run(f.ops->dense_cross_entropy(&f.device, &args));
    op_expect(&f, OP, "loss", args.loss, p.loss);
    op_expect_values(OP, "right", op_download(&f, args.right), p.right, s.n * s.label_h, 0.0);
    if (gradient)
        op_expect(&f, OP, "d_logits", args.d_logits, p.d_logits);
    op_fixture_close(&f);
}

static void it_is_the_loss_of_every_pixel_and_its_gradient(void **state)
{
    (void)state;
    run((struct shape){1, 2, 1, 1, 1, 1}, 1.0, true);
    run((struct shape){1, 1, 2, 2, 4, 4}, 1.0, true);
    run((struct shape){2, 5, 4, 3, 64, 48}, 2.0, true); /* as patches of 16 px */
    run((struct shape){1, 150, 3, 2, 24, 16}, 3.0, true);
    run((struct shape){1, 255, 2, 5, 7, 11}, 2.0, true);
    run((struct shape){2, 3, 7, 6, 7, 6}, 1.0, true);    /* not scaled */
    run((struct shape){1, 3, 9, 8, 4, 3}, 1.0, true);    /* scaled down: some cells are not read */
    run((struct shape){1, 20, 3, 3, 17, 9}, 60.0, true); /* one class has all the probability */
    run((struct shape){2, 7, 3, 4, 20, 30}, 1.0, false);
}

static void nothing_counts_where_all_is_ignored(void **state)
{
    struct shape s = {1, 4, 2, 2, 6, 6};
    struct op_fixture f;

    (void)state;
    op_fixture_open(&f, 3);
    struct problem p = make(&f, s, 1.0);
    for (int i = 0; i < 36; i++)
        p.label[i] = DENSE_IGNORED;
    struct dense_cross_entropy_args args = upload(&f, &p, 1.0f, true);
    op_run(f.ops->dense_cross_entropy(&f.device, &args));
    op_expect_values(OP, "loss", op_download(&f, args.loss), op_zeros(&f, 6), 6, 0.0);
    op_expect_values(OP, "right", op_download(&f, args.right), op_zeros(&f, 6), 6, 0.0);
    op_expect_values(OP, "d_logits", op_download(&f, args.d_logits), op_zeros(&f, 16), 16, 0.0);
    op_fixture_close(&f);
}

static double loss_of(void *context)
{
    const struct problem *p = context;
    return plain(p, 1.0);
}

static void its_gradient_is_that_of_central_differences(void **state)
{
    struct op_fixture f;

    (void)state;
    op_fixture_open(&f, 5);
    struct problem p = make(&f, (struct shape){2, 6, 3, 4, 13, 21}, 1.5);
    struct dense_cross_entropy_args args = upload(&f, &p, 1.0f, true);
    op_run(f.ops->dense_cross_entropy(&f.device, &args));
    p.d_logits = NULL;
    op_expect_gradient(&f, OP, "d_logits", args.d_logits, NULL, p.logits, loss_of, &p);
    op_fixture_close(&f);
}

/* interpolate(mode='bilinear', align_corners=False), cross_entropy(ignore_index=255), mean over all
 * pixels: PyTorch 2.15 in double. */
static void its_values_are_those_of_pytorch(void **state)
{
    static const double loss[] = {9.0618505, 11.0880467, 7.80761791, 8.7941093, 13.6591884};
    static const double right[] = {3, 2, 4, 3, 2};
    static const double d_logits[] = {
        -0.0239233917, 0.0590745748,  -0.0351511831, 0.0193644742,  -0.000755299192, -0.018609175,
        0.033353503,   -0.0353596408, 0.00200613775, -0.0333474256, 0.0515869748,    -0.0182395492,
        -0.0138208064, 0.0479666685,  -0.0341458621, 0.0460035845,  0.00117335094,   -0.0471769355};
    struct shape s = {1, 3, 2, 3, 5, 8};
    struct op_fixture f;

    (void)state;
    op_fixture_open(&f, 1);
    struct problem p = make(&f, s, 1.0);
    for (int i = 0; i < 18; i++)
        p.logits[i] = ((i * 37 + 11) % 64 - 32) / 16.0;
    for (int i = 0; i < 40; i++)
        p.label[i] = i % 7 == 3 ? DENSE_IGNORED : (i * 5 + 2) % 3;
    struct dense_cross_entropy_args args = upload(&f, &p, 1.0f / 40.0f, true);
    op_run(f.ops->dense_cross_entropy(&f.device, &args));
    op_expect(&f, OP, "loss", args.loss, loss);
    op_expect_values(OP, "right", op_download(&f, args.right), right, 5, 0.0);
    op_expect(&f, OP, "d_logits", args.d_logits, d_logits);
    op_fixture_close(&f);
}

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(it_is_the_loss_of_every_pixel_and_its_gradient),
        cmocka_unit_test(nothing_counts_where_all_is_ignored),
        cmocka_unit_test(its_gradient_is_that_of_central_differences),
        cmocka_unit_test(its_values_are_those_of_pytorch),
    };
    int leave = op_backend_choose(argc, argv);
    return leave != 0 ? leave : cmocka_run_group_tests(tests, NULL, NULL);
}
