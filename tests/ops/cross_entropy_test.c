/* Cross-entropy against its definition in double, on every backend. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

#include "tests/support/op_fixture.h"

static const char OP[] = "cross_entropy";

/* <t, log softmax>, negated, with the probabilities. */
static double plain_loss(const double *x, int64_t k, const double *t, double *probability)
{
    double top = -INFINITY, sum = 0.0, loss = 0.0;

    for (int64_t j = 0; j < k; j++)
        top = fmax(top, x[j]);
    for (int64_t j = 0; j < k; j++)
        sum += exp(x[j] - top);
    for (int64_t j = 0; j < k; j++)
        probability[j] = exp(x[j] - top) / sum;
    for (int64_t j = 0; j < k; j++)
        loss -= t[j] * (x[j] - top - log(sum));
    return loss;
}

static double plain_rank(const double *x, int64_t k, int64_t label)
{
    int before = 0;

    for (int64_t j = 0; j < k; j++)
        before += x[j] > x[label] || (x[j] == x[label] && j < label);
    return before;
}

struct outputs {
    bool rank, gradient, in_place, pairs;
    float smoothing;
};

static void run(int64_t m, int64_t n_classifiers, int64_t k, double spread, struct outputs wanted)
{
    struct op_fixture f;
    int64_t n = m * n_classifiers;

    op_fixture_open(&f, (uint32_t)(n + k));
    double *x = op_random(&f, DTYPE_F32, n * k, spread), *label = op_zeros(&f, m);
    double *loss = op_zeros(&f, n), *rank = op_zeros(&f, n), *d = op_zeros(&f, n * k);
    double *other = op_zeros(&f, m), *share = op_random(&f, DTYPE_F32, m, 1.0);
    double *t = op_zeros(&f, k);
    float scale = 1.0f / (float)m;
    for (int64_t i = 0; i < m; i++)
        label[i] = (double)rng_below(&f.rng, (uint32_t)k);
    for (int64_t i = 0; i < m; i++) {
        other[i] = i % 2 == 0 ? (double)rng_below(&f.rng, (uint32_t)k) : label[i];
        share[i] = wanted.pairs ? (double)(float)fabs(share[i] - floor(share[i])) : 1.0;
    }
    for (int64_t i = 0; i < n; i++) {
        int64_t own = (int64_t)label[i / n_classifiers];
        if (i % 3 == 0 && k > 4) /* equal values at either side of the label */
            x[i * k + 1] = x[i * k + k - 1] = x[i * k + own];
        int64_t image = i / n_classifiers;
        for (int64_t j = 0; j < k; j++)
            t[j] = (double)wanted.smoothing / (double)k;
        t[own] += (1.0 - (double)wanted.smoothing) * share[image];
        t[(int64_t)other[image]] += (1.0 - (double)wanted.smoothing) * (1.0 - share[image]);
        loss[i] = plain_loss(x + i * k, k, t, d + i * k);
        rank[i] = plain_rank(x + i * k, k, own);
        for (int64_t j = 0; j < k; j++)
            d[i * k + j] = (d[i * k + j] - t[j]) * (double)scale;
    }
    struct cross_entropy_args args = {
        .logits = op_upload(&f, DTYPE_F32, x, n, k),
        .label = op_upload(&f, DTYPE_I32, label, m, 0),
        .loss = op_output(&f, DTYPE_F32, n, 0),
        .scale = scale,
        .smoothing = wanted.smoothing,
    };
    if (wanted.pairs) {
        args.other = op_upload(&f, DTYPE_I32, other, m, 0);
        args.share = op_upload(&f, DTYPE_F32, share, m, 0);
    }
    if (wanted.rank)
        args.rank = op_output(&f, DTYPE_I32, n, 0);
    if (wanted.gradient)
        args.d_logits = wanted.in_place ? args.logits : op_output(&f, DTYPE_F32, n, k);
    op_run(f.ops->cross_entropy(&f.device, &args));
    op_expect(&f, OP, "loss", args.loss, loss);
    if (wanted.rank)
        op_expect_values(OP, "rank", op_download(&f, args.rank), rank, n, 0.0);
    if (wanted.gradient)
        op_expect(&f, OP, "d_logits", args.d_logits, d);
    if (!wanted.in_place)
        op_expect_values(OP, "logits", op_download(&f, args.logits), x, n * k, 0.0);
    op_fixture_close(&f);
}

static void it_is_the_loss_its_gradient_and_the_labels_rank(void **state)
{
    const struct outputs all = {.rank = true, .gradient = true}, ranks = {.rank = true};
    const struct outputs in_place = {.rank = true, .gradient = true, .in_place = true};
    const struct outputs gradients = {.gradient = true};

    (void)state;
    run(1, 1, 1, 1.0, all);
    run(1, 1, 2, 1.0, all);
    run(5, 1, 10, 3.0, all);
    run(4, 3, 33, 3.0, in_place);
    run(3, 5, 1000, 2.0, in_place);
    run(2, 2, 1537, 2.0, all);
    run(7, 2, 128, 1.0, ranks);
    run(7, 2, 129, 1.0, gradients);
    run(3, 4, 20, 60.0, all); /* one class has all the probability */
}

static void targets_may_be_smoothed_and_mixed(void **state)
{
    struct outputs wanted = {.rank = true, .gradient = true, .smoothing = 0.1f};

    (void)state;
    run(1, 1, 1, 1.0, wanted);
    run(5, 1, 10, 3.0, wanted);
    run(3, 4, 1000, 2.0, wanted);
    wanted.pairs = true;
    run(6, 1, 10, 3.0, wanted);
    run(4, 2, 1537, 2.0, wanted);
    wanted.in_place = true;
    run(7, 1, 33, 20.0, wanted);
    wanted.smoothing = 0.0f;
    run(7, 1, 33, 20.0, wanted);
    wanted.smoothing = 1.0f;
    run(4, 1, 5, 2.0, wanted);
}

/* A class without any probability is no trouble to those that have no share of it. */
static void a_share_of_nothing_is_nothing(void **state)
{
    enum { N = 2, K = 3 };
    struct op_fixture f;
    double x[N * K] = {0.0, -INFINITY, 0.0, -INFINITY, 0.0, 0.0};
    double label[N] = {0, 0}, other[N] = {1, 1}, share[N] = {1.0, 0.0}, want[N];

    (void)state;
    want[0] = want[1] = log(2.0);
    op_fixture_open(&f, 1);
    struct cross_entropy_args args = {
        .logits = op_upload(&f, DTYPE_F32, x, N, K),
        .label = op_upload(&f, DTYPE_I32, label, N, 0),
        .other = op_upload(&f, DTYPE_I32, other, N, 0),
        .share = op_upload(&f, DTYPE_F32, share, N, 0),
        .loss = op_output(&f, DTYPE_F32, N, 0),
        .scale = 1.0f,
    };
    op_run(f.ops->cross_entropy(&f.device, &args));
    op_expect(&f, OP, "loss", args.loss, want);
    op_fixture_close(&f);
}

static void what_is_not_a_number_is_never_right(void **state)
{
    enum { N = 5, K = 6 };
    struct op_fixture f;
    double x[N * K] = {0}, want[N] = {5, 1, 5, 0, 2}, label[N] = {0, 0, 5, 3, 2};

    (void)state;
    op_fixture_open(&f, 1);
    for (int j = 0; j < K; j++) {
        x[j] = NAN;
        x[K + j] = j == 0 ? 1.0 : j == 4 ? NAN : 0.0;
        x[2 * K + j] = j == 5 ? NAN : 0.0;
        x[3 * K + j] = j == 3 ? INFINITY : 0.0;
        x[4 * K + j] = 0.0; /* all equal: the lower ones come first */
    }
    struct cross_entropy_args args = {
        .logits = op_upload(&f, DTYPE_F32, x, N, K),
        .label = op_upload(&f, DTYPE_I32, label, N, 0),
        .loss = op_output(&f, DTYPE_F32, N, 0),
        .rank = op_output(&f, DTYPE_I32, N, 0),
        .scale = 1.0f,
    };
    op_run(f.ops->cross_entropy(&f.device, &args));
    op_expect_values(OP, "rank", op_download(&f, args.rank), want, N, 0.0);
    assert_true(isnan(op_download(&f, args.loss)[0]));
    assert_true(isnan(op_download(&f, args.loss)[1]));
    op_fixture_close(&f);
}

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(it_is_the_loss_its_gradient_and_the_labels_rank),
        cmocka_unit_test(targets_may_be_smoothed_and_mixed),
        cmocka_unit_test(a_share_of_nothing_is_nothing),
        cmocka_unit_test(what_is_not_a_number_is_never_right),
    };
    int leave = op_backend_choose(argc, argv);
    return leave != 0 ? leave : cmocka_run_group_tests(tests, NULL, NULL);
}
