/* Attention against its definition in double, on every backend. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

#include "tests/support/op_fixture.h"
#include "tests/support/op_reference.h"

struct attention_case {
    int64_t n_tokens, head_dim;
    int32_t n_heads, n_groups;
    struct attention_group groups[3];
    double scale; /* of q, k, v; negative: q below 0, k above, so that no key's score reaches 0 */
};

static const struct attention_case cases[] = {
    {1, 1, 1, 1, {{0, 1, 1}}, 1.0},
    {6, 3, 1, 1, {{0, 2, 3}}, 1.0},
    {34, 17, 3, 1, {{0, 2, 17}}, 1.0},
    {37, 64, 2, 1, {{0, 1, 37}}, 1.0},
    {197, 64, 1, 1, {{0, 1, 197}}, 1.0},
    {50, 8, 2, 3, {{0, 2, 5}, {12, 3, 3}, {22, 1, 28}}, 1.0}, /* rows 10, 11, 21 in no group */
    {38, 16, 2, 1, {{1, 1, 37}}, 30.0},                       /* scores in the hundreds */
    {37, 32, 1, 1, {{0, 1, 37}}, 0.0},                        /* uniform */
    {10, 4, 2, 2, {{0, 5, 1}, {5, 0, 7}}, 1.0},   /* sequences of one token; an empty group */
    {65, 64, 1, 1, {{0, 1, 65}}, 1.0},            /* one key more than a row of scores holds */
    {37, 64, 1, 2, {{0, 0, 0}, {0, 1, 37}}, 1.0}, /* a group without anything */
    {71, 32, 2, 3, {{0, 1, 50}, {50, 3, 5}, {66, 1, 5}}, 1.0},
    {53, 48, 1, 1, {{2, 3, 17}}, 1.0},    /* a width between those that kernels are made for */
    {37, 128, 1, 1, {{0, 1, 37}}, 1.0},   /* the widest of them */
    {21, 144, 1, 1, {{0, 1, 21}}, 1.0},   /* wider */
    {460, 64, 1, 1, {{0, 1, 460}}, 1.0},  /* more rows than a backward has in shared memory */
    {920, 64, 1, 1, {{0, 1, 920}}, 1.0},  /* more keys than a forward has there */
    {240, 128, 1, 1, {{0, 1, 240}}, 1.0}, /* wide, and passing through shared memory */
    {96, 64, 2, 2, {{0, 2, 16}, {32, 1, 64}}, 1.0}, /* whole tiles of 16 */
    {194, 64, 2, 1, {{0, 2, 97}}, 1.0},             /* a warp with one tile, another with two */
    {208, 32, 1, 1, {{0, 1, 208}}, 1.0},
    {256, 64, 1, 1, {{0, 1, 256}}, 1.0}, /* the most that a warp for each 32 keys takes */
    {390, 64, 3, 1, {{0, 2, 193}}, 1.0}, /* heads that come while others are worked at */
    {666, 64, 3, 1, {{0, 18, 37}}, 1.0}, /* several rounds of them */
    {595, 32, 2, 1, {{0, 35, 17}}, 1.0},
    {129, 32, 1, 1, {{0, 1, 129}}, 1.0},
    {100, 64, 1, 1, {{0, 1, 100}}, 30.0}, /* scores in the hundreds, and places that are no key */
    {97, 32, 1, 1, {{0, 1, 97}}, 1.0},
    {260, 64, 1, 1, {{0, 1, 260}}, 1.0}, /* more rows than strips take, all of them in memory */
    {260, 32, 1, 1, {{0, 1, 260}}, 1.0},
    {37, 32, 1, 1, {{0, 1, 37}}, -6.0},
    {100, 64, 1, 1, {{0, 1, 100}}, -6.0},
    {37, 128, 1, 1, {{0, 1, 37}}, -6.0},
};
enum { N_CASES = sizeof(cases) / sizeof(cases[0]), MOST_DIFFERENCES = 100 /* tokens */ };

struct attention_problem {
    struct attention_case c;
    int64_t width;
    double *qkv, *d_out, *out, *lse, *row; /* row: the probabilities of one query */
};

/* Probabilities of one query into p->row; returns the log-sum-exp. */
static double reference_row(struct attention_problem *p, const struct attention_group *group,
                            int64_t first, int64_t query, int64_t head)
{
    int64_t d = p->c.head_dim, stride = 3 * p->width;
    const double *q = p->qkv + (first + query) * stride + head * d;
    double top = -INFINITY, sum = 0.0;

    for (int64_t j = 0; j < group->length; j++) {
        const double *k = p->qkv + (first + j) * stride + p->width + head * d;
        p->row[j] = reference_dot(q, k, d) / sqrt((double)d);
        top = fmax(top, p->row[j]);
    }
    for (int64_t j = 0; j < group->length; j++)
        sum += p->row[j] = exp(p->row[j] - top);
    for (int64_t j = 0; j < group->length; j++)
        p->row[j] /= sum;
    return top + log(sum);
}

/* out, lse, and sum d_out * out */
static double attention_loss(void *context)
{
    struct attention_problem *p = context;
    int64_t d = p->c.head_dim, stride = 3 * p->width;
    double loss = 0.0;

    for (int32_t g = 0; g < p->c.n_groups; g++)
        for (int64_t s = 0; s < p->c.groups[g].n_sequences; s++)
            for (int64_t i = 0; i < p->c.groups[g].length; i++)
                for (int64_t h = 0; h < p->c.n_heads; h++) {
                    const struct attention_group *group = &p->c.groups[g];
                    int64_t first = group->first_row + s * group->length;
                    double *out = p->out + (first + i) * p->width + h * d;
                    p->lse[first * p->c.n_heads + h * group->length + i] =
                        reference_row(p, group, first, i, h);
                    for (int64_t e = 0; e < d; e++)
                        out[e] = 0.0;
                    for (int64_t j = 0; j < group->length; j++)
                        for (int64_t e = 0; e < d; e++)
                            out[e] +=
                                p->row[j] * p->qkv[(first + j) * stride + 2 * p->width + h * d + e];
                    loss += reference_dot(out, p->d_out + (first + i) * p->width + h * d, d);
                }
    return loss;
}

/* The gradient of query i of a sequence: its own, and what it adds to those of keys and values. */
static void add_query_gradient(struct attention_problem *p, const struct attention_group *group,
                               int64_t first, int64_t i, int64_t head, double *d_qkv)
{
    int64_t d = p->c.head_dim, stride = 3 * p->width, column = head * d;
    const double *d_out = p->d_out + (first + i) * p->width + column;
    const double *q = p->qkv + (first + i) * stride + column;
    double *d_q = d_qkv + (first + i) * stride + column;

    (void)reference_row(p, group, first, i, head);
    double delta = reference_dot(p->out + (first + i) * p->width + column, d_out, d);
    for (int64_t j = 0; j < group->length; j++) {
        const double *k = p->qkv + (first + j) * stride + p->width + column, *v = k + p->width;
        double *d_k = d_qkv + (first + j) * stride + p->width + column, *d_v = d_k + p->width;
        double d_score = p->row[j] * (reference_dot(d_out, v, d) - delta) / sqrt((double)d);
        for (int64_t e = 0; e < d; e++) {
            d_q[e] += d_score * k[e];
            d_k[e] += d_score * q[e];
            d_v[e] += p->row[j] * d_out[e];
        }
    }
}

static double greatest(const double *values, int64_t n)
{
    double most = 0.0;

    for (int64_t i = 0; i < n; i++)
        most = fmax(most, fabs(values[i]));
    return most;
}

/* Every element of the gradient, q, k and v apart: each has its own size, but for one that is
 * almost nothing beside the others. After attention_loss. */
static void expect_gradient(struct op_fixture *f, struct attention_problem *p, struct tensor d_qkv)
{
    static const char *const names[3] = {"d_q", "d_k", "d_v"};
    int64_t n = p->c.n_tokens, width = p->width;
    double *got = op_download(f, d_qkv), *want = op_zeros(f, 3 * n * width);
    double *got_part = op_zeros(f, n * width), *want_part = op_zeros(f, n * width);

    for (int32_t g = 0; g < p->c.n_groups; g++)
        for (int64_t s = 0; s < p->c.groups[g].n_sequences; s++)
            for (int64_t i = 0; i < p->c.groups[g].length; i++)
                for (int64_t h = 0; h < p->c.n_heads; h++)
                    add_query_gradient(p, &p->c.groups[g],
                                       p->c.groups[g].first_row + s * p->c.groups[g].length, i, h,
                                       want);
    for (int part = 0; part < 3; part++) {
        for (int64_t i = 0; i < n * width; i++) {
            int64_t at = i / width * 3 * width + part * width + i % width;
            got_part[i] = got[at];
            want_part[i] = want[at];
        }
        double size = greatest(want_part, n * width), most = greatest(want, 3 * n * width);
        op_expect_values("attention_backward", names[part], got_part, want_part, n * width,
                         f->condition * op_tolerance("attention_backward", f->dtype) *
                             fmax(1.0, 0.01 * most / fmax(size, 1e-30)));
    }
}

static struct attention_problem make_problem(struct op_fixture *f, const struct attention_case *c)
{
    int64_t width = c->head_dim * c->n_heads;
    struct attention_problem p = {
        .c = *c,
        .width = width,
        .qkv = op_random(f, f->dtype, c->n_tokens * 3 * width, fabs(c->scale)),
        .d_out = op_random(f, f->dtype, c->n_tokens * width, 1.0),
        .out = op_zeros(f, c->n_tokens * width),
        .lse = op_zeros(f, c->n_tokens * c->n_heads),
        .row = op_zeros(f, c->n_tokens),
    };

    /* a score of size s is off by s * 2^-24, and so is the logarithm of its probability; products
     * of one sign make it greater */
    f->condition = fmax(1.0, c->scale * c->scale / (c->scale < 0.0 ? 4.0 : 8.0));
    for (int64_t i = 0; i < c->n_tokens * 3 * width && c->scale < 0.0; i++) {
        int64_t column = i % (3 * width);
        if (column < 2 * width)
            p.qkv[i] = column < width ? -fabs(p.qkv[i]) : fabs(p.qkv[i]);
    }
    return p;
}

/* Rows that no group covers must keep what they held: zeros here, in both. */
static void run(const struct attention_case *c)
{
    struct op_fixture f;
    op_fixture_open(&f, 10);
    struct attention_problem p = make_problem(&f, c);
    double *zeros = op_zeros(&f, c->n_tokens * 3 * p.width + c->n_tokens * c->n_heads);
    struct attention_args args = {
        .qkv = op_upload(&f, f.dtype, p.qkv, c->n_tokens, 3 * p.width),
        .out = op_upload(&f, f.dtype, zeros, c->n_tokens, p.width),
        .lse = op_upload(&f, DTYPE_F32, zeros, c->n_tokens, c->n_heads),
        .n_groups = c->n_groups,
        .n_heads = c->n_heads,
    };
    struct attention_backward_args back = {
        .d_out = op_upload(&f, f.dtype, p.d_out, c->n_tokens, p.width),
        .qkv = args.qkv,
        .out = args.out,
        .lse = args.lse,
        .d_qkv = op_upload(&f, f.dtype, zeros, c->n_tokens, 3 * p.width),
        .n_groups = c->n_groups,
        .n_heads = c->n_heads,
    };
    for (int32_t g = 0; g < c->n_groups; g++)
        args.groups[g] = back.groups[g] = c->groups[g];
    op_run(f.ops->attention_forward(&f.device, &args));
    (void)attention_loss(&p);
    op_expect(&f, "attention_forward", "out", args.out, p.out);
    op_expect(&f, "attention_forward", "lse", args.lse, p.lse);
    op_run(f.ops->attention_backward(&f.device, &back));
    expect_gradient(&f, &p, back.d_qkv);
    if (c->n_tokens <= MOST_DIFFERENCES) /* the reference, too, is held against something */
        op_expect_gradient(&f, "attention_backward", "d_qkv", back.d_qkv, NULL, p.qkv,
                           attention_loss, &p);
    args.lse.data = NULL; /* no backward will come */
    args.out = op_upload(&f, f.dtype, zeros, c->n_tokens, p.width);
    op_run(f.ops->attention_forward(&f.device, &args));
    op_expect(&f, "attention_forward", "out without lse", args.out, p.out);
    op_fixture_close(&f);
}

static void attention_and_its_gradient_follow_the_definition(void **state)
{
    (void)state;
    for (int i = 0; i < N_CASES; i++)
        run(&cases[i]);
}

static void maps_are_the_probabilities(void **state)
{
    (void)state;
    for (int i = 0; i < N_CASES; i++) {
        const struct attention_case *c = &cases[i];
        const struct attention_group *group = &c->groups[0];
        struct op_fixture f;
        op_fixture_open(&f, 11);
        struct attention_problem p = make_problem(&f, c);
        int64_t rows = group->n_sequences * c->n_heads * group->length;
        double *want = op_zeros(&f, rows * group->length);
        struct attention_map_args args = {
            .qkv = op_upload(&f, f.dtype, p.qkv, c->n_tokens, 3 * p.width),
            .map = op_output(&f, DTYPE_F32, rows, group->length),
            .group = *group,
            .n_heads = c->n_heads,
        };
        struct tensor flat = args.map;
        args.map.rank = 4;
        args.map.shape[0] = group->n_sequences;
        args.map.shape[1] = c->n_heads;
        args.map.shape[2] = args.map.shape[3] = group->length;
        op_run(f.ops->attention_map(&f.device, &args));
        for (int64_t r = 0; r < rows; r++) {
            int64_t sequence = r / group->length / c->n_heads;
            int64_t head = r / group->length % c->n_heads;
            (void)reference_row(&p, group, group->first_row + sequence * group->length,
                                r % group->length, head);
            for (int64_t j = 0; j < group->length; j++)
                want[r * group->length + j] = p.row[j];
        }
        op_expect(&f, "attention_map", "map", flat, want);
        op_fixture_close(&f);
    }
}

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(attention_and_its_gradient_follow_the_definition),
        cmocka_unit_test(maps_are_the_probabilities),
    };
    int leave = op_backend_choose(argc, argv);
    return leave != 0 ? leave : cmocka_run_group_tests(tests, NULL, NULL);
}
