/* Window attention against its definition in double, on every backend. The definition here pads,
 * rolls and cuts the map by writing it out, as the paper's code does. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

#include "tests/support/allocation_count.h"
#include "tests/support/op_fixture.h"
#include "tests/support/op_reference.h"

struct window_case {
    int64_t n_tokens, head_dim;
    int32_t n_heads, window, shift, n_groups;
    struct region_group groups[3];
    double scale; /* of q, k, v */
};

static const struct window_case cases[] = {
    {1, 1, 1, 1, 0, 1, {{0, 1, 1}}, 1.0},
    {32, 3, 1, 2, 0, 1, {{0, 2, 4}}, 1.0},
    {32, 3, 2, 2, 1, 1, {{0, 2, 4}}, 1.0},
    {25, 4, 2, 4, 2, 1, {{0, 1, 5}}, 1.0},                         /* padded and rolled */
    {18, 8, 2, 7, 0, 1, {{0, 2, 3}}, 1.0},                         /* mostly padding */
    {36, 8, 1, 7, 3, 1, {{0, 1, 6}}, 1.0},                         /* one window, two regions */
    {64, 32, 3, 7, 3, 1, {{0, 1, 8}}, 1.0},                        /* a row and a column too many */
    {49, 32, 2, 7, 0, 1, {{0, 1, 7}}, 1.0},                        /* the shape of the last stage */
    {60, 4, 2, 3, 1, 3, {{0, 2, 4}, {35, 1, 3}, {44, 4, 2}}, 1.0}, /* rows 32-34 in no group */
    {256, 8, 1, 14, 7, 1, {{0, 1, 16}}, 1.0},
    {81, 32, 1, 9, 0, 1, {{0, 1, 9}}, 1.0},
    {36, 16, 2, 3, 1, 1, {{0, 1, 6}}, 20.0},         /* scores in the hundreds */
    {9, 4, 1, 2, 1, 2, {{0, 1, 3}, {9, 0, 5}}, 0.0}, /* an empty group */
};
enum { N_CASES = sizeof(cases) / sizeof(cases[0]), MAX_SIDE = 64 };

struct window_problem {
    struct window_case c;
    int64_t width, reach;
    double *qkv, *pad, *table, *d_out, *out, *lse;
};

/* Where each place of the padded, rolled map comes from: a row of the buffers, or -1; and the
 * region it lies in. */
struct rolled_map {
    int64_t padded;
    int64_t row[MAX_SIDE][MAX_SIDE];
    int region[MAX_SIDE][MAX_SIDE];
};

static void roll_map(struct rolled_map *map, const struct window_case *c,
                     const struct region_group *group, int64_t image)
{
    int64_t w = c->window, padded = (group->side + w - 1) / w * w;
    static int64_t plain[MAX_SIDE][MAX_SIDE];
    int64_t bounds[4] = {0, padded - w, padded - c->shift, padded};

    map->padded = padded;
    for (int64_t y = 0; y < padded; y++)
        for (int64_t x = 0; x < padded; x++)
            plain[y][x] = y < group->side && x < group->side
                              ? group->first_row + (image * group->side + y) * group->side + x
                              : -1;
    for (int64_t y = 0; y < padded; y++)
        for (int64_t x = 0; x < padded; x++) {
            map->row[(y - c->shift + padded) % padded][(x - c->shift + padded) % padded] =
                plain[y][x];
            map->region[y][x] = 0;
        }
    for (int a = 0; c->shift > 0 && a < 3; a++)
        for (int b = 0; b < 3; b++)
            for (int64_t y = bounds[a]; y < bounds[a + 1]; y++)
                for (int64_t x = bounds[b]; x < bounds[b + 1]; x++)
                    map->region[y][x] = 3 * a + b;
}

/* One of q (0), k (1), v (2) of a place. */
static const double *part(const struct window_problem *p, int64_t row, int which, int64_t head)
{
    const double *base = row < 0 ? p->pad : p->qkv + row * 3 * p->width;
    return base + which * p->width + head * p->c.head_dim;
}

/* Output of the place (y, x) of a rolled map. */
static void attend(const struct window_problem *p, const struct rolled_map *map, int64_t y,
                   int64_t x, int64_t head, double *out, double *lse)
{
    int64_t w = p->c.window, d = p->c.head_dim, y0 = y / w * w, x0 = x / w * w;
    double score[MAX_SIDE * MAX_SIDE], top = -INFINITY, sum = 0.0;

    for (int64_t t = 0; t < w * w; t++) {
        int64_t ky = y0 + t / w, kx = x0 + t % w;
        int64_t distance = (y - ky + w - 1) * p->reach + (x - kx + w - 1);
        score[t] =
            reference_dot(part(p, map->row[y][x], 0, head), part(p, map->row[ky][kx], 1, head), d) /
                sqrt((double)d) +
            p->table[distance * p->c.n_heads + head];
        if (map->region[ky][kx] != map->region[y][x])
            score[t] -= 100.0;
        top = fmax(top, score[t]);
    }
    for (int64_t t = 0; t < w * w; t++)
        sum += exp(score[t] - top);
    *lse = top + log(sum);
    for (int64_t e = 0; e < d; e++)
        out[e] = 0.0;
    for (int64_t t = 0; t < w * w; t++) {
        const double *v = part(p, map->row[y0 + t / w][x0 + t % w], 2, head);
        for (int64_t e = 0; e < d; e++)
            out[e] += exp(score[t] - *lse) * v[e];
    }
}

/* out, lse, and sum d_out * out */
static double window_loss(void *context)
{
    struct window_problem *p = context;
    static struct rolled_map map;
    int64_t d = p->c.head_dim;
    double loss = 0.0;

    for (int32_t g = 0; g < p->c.n_groups; g++)
        for (int64_t image = 0; image < p->c.groups[g].n_images; image++) {
            roll_map(&map, &p->c, &p->c.groups[g], image);
            for (int64_t i = 0; i < map.padded * map.padded; i++) {
                int64_t y = i / map.padded, x = i % map.padded, row = map.row[y][x];
                for (int64_t h = 0; row >= 0 && h < p->c.n_heads; h++) {
                    double *out = p->out + row * p->width + h * d;
                    attend(p, &map, y, x, h, out, &p->lse[h * p->c.n_tokens + row]);
                    loss += reference_dot(out, p->d_out + row * p->width + h * d, d);
                }
            }
        }
    return loss;
}

static struct window_problem make_problem(struct op_fixture *f, const struct window_case *c)
{
    int64_t width = c->head_dim * c->n_heads, reach = 2 * c->window - 1;

    /* a score of size s is off by s * 2^-24, and so is the logarithm of its probability */
    f->condition = fmax(1.0, c->scale * c->scale / 8.0);
    return (struct window_problem){
        .c = *c,
        .width = width,
        .reach = reach,
        .qkv = op_random(f, f->dtype, c->n_tokens * 3 * width, c->scale),
        .pad = op_random(f, DTYPE_F32, 3 * width, c->scale),
        .table = op_random(f, DTYPE_F32, reach * reach * c->n_heads, 1.0),
        .d_out = op_random(f, f->dtype, c->n_tokens * width, 1.0),
        .out = op_zeros(f, c->n_tokens * width),
        .lse = op_zeros(f, c->n_tokens * c->n_heads),
    };
}

static void run_backward(struct op_fixture *f, struct window_problem *p,
                         const struct window_attention_args *args, const double *zeros)
{
    const struct window_case *c = &p->c;
    int64_t n_table = p->reach * p->reach;
    double *pad_before = op_random(f, DTYPE_F32, 3 * p->width, 1.0);
    double *table_before = op_random(f, DTYPE_F32, n_table * c->n_heads, 1.0);
    struct window_attention_backward_args back = {
        .d_out = op_upload(f, f->dtype, p->d_out, c->n_tokens, p->width),
        .qkv = args->qkv,
        .pad = args->pad,
        .table = args->table,
        .out = args->out,
        .lse = args->lse,
        .d_qkv = op_upload(f, f->dtype, zeros, c->n_tokens, 3 * p->width),
        .d_pad = op_upload(f, DTYPE_F32, pad_before, 3 * p->width, 0),
        .d_table = op_upload(f, DTYPE_F32, table_before, n_table, c->n_heads),
        .n_groups = c->n_groups,
        .n_heads = c->n_heads,
        .window = c->window,
        .shift = c->shift,
    };
    for (int32_t g = 0; g < c->n_groups; g++)
        back.groups[g] = c->groups[g];
    op_run(f->ops->window_attention_backward(&f->device, &back));
    op_expect_gradient(f, "window_attention_backward", "d_qkv", back.d_qkv, NULL, p->qkv,
                       window_loss, p);
    op_expect_gradient(f, "window_attention_backward", "d_pad", back.d_pad, pad_before, p->pad,
                       window_loss, p);
    op_expect_gradient(f, "window_attention_backward", "d_table", back.d_table, table_before,
                       p->table, window_loss, p);
    back.d_pad.data = back.d_table.data = NULL; /* frozen biases */
    op_run(f->ops->window_attention_backward(&f->device, &back));
}

/* Rows that no group covers must keep what they held: zeros here, in both. */
static void run(const struct window_case *c)
{
    struct op_fixture f;
    op_fixture_open(&f, 20);
    struct window_problem p = make_problem(&f, c);
    double *zeros = op_zeros(&f, c->n_tokens * 3 * p.width + c->n_tokens * c->n_heads);
    struct window_attention_args args = {
        .qkv = op_upload(&f, f.dtype, p.qkv, c->n_tokens, 3 * p.width),
        .pad = op_upload(&f, DTYPE_F32, p.pad, 3 * p.width, 0),
        .table = op_upload(&f, DTYPE_F32, p.table, p.reach * p.reach, c->n_heads),
        .out = op_upload(&f, f.dtype, zeros, c->n_tokens, p.width),
        .lse = op_upload(&f, DTYPE_F32, zeros, c->n_heads, c->n_tokens),
        .n_groups = c->n_groups,
        .n_heads = c->n_heads,
        .window = c->window,
        .shift = c->shift,
    };
    for (int32_t g = 0; g < c->n_groups; g++)
        args.groups[g] = c->groups[g];
    op_run(f.ops->window_attention_forward(&f.device, &args));
    (void)window_loss(&p);
    op_expect(&f, "window_attention_forward", "out", args.out, p.out);
    op_expect(&f, "window_attention_forward", "lse", args.lse, p.lse);
    run_backward(&f, &p, &args, zeros);
    args.lse.data = NULL; /* no backward will come */
    args.out = op_upload(&f, f.dtype, zeros, c->n_tokens, p.width);
    (void)window_loss(&p);
    op_run(f.ops->window_attention_forward(&f.device, &args));
    op_expect(&f, "window_attention_forward", "out without lse", args.out, p.out);
    op_fixture_close(&f);
}

static void window_attention_and_its_gradients_follow_the_definition(void **state)
{
    (void)state;
    for (int i = 0; i < N_CASES; i++)
        run(&cases[i]);
}

/* Two maps of 9 x 9 in windows of 4: 18 windows, padded and rolled. */
static void backward_on_threads(struct op_fixture *f, struct window_attention_backward_args *back,
                                int n_threads, double *results[3])
{
    struct tensor *outputs[] = {&back->d_qkv, &back->d_pad, &back->d_table};
    int opened_with = f->device.n_threads;

    f->device.n_threads = n_threads;
    for (int repeat = 0; repeat < 2; repeat++) {
        long before = allocation_count();
        for (int i = 0; i < 3; i++)
            op_run(f->device.zero(&f->device, outputs[i]->data, tensor_size_bytes(outputs[i])));
        op_run(f->ops->window_attention_backward(&f->device, back));
        op_run(f->device.synchronize(&f->device));
        if (repeat == 1 && f->device.kind == DEVICE_CPU && allocation_count_works())
            assert_int_equal(allocation_count(), before);
    }
    for (int i = 0; i < 3; i++)
        results[i] = op_download(f, *outputs[i]);
    f->device.n_threads = opened_with;
}

static void the_gradients_have_the_same_bits_on_any_number_of_threads(void **state)
{
    enum { T = 162, H = 3, D = 24, TABLE = 49 };
    struct op_fixture f;
    double *first[3], *other[3];
    const int64_t counts[3] = {T * 3 * D, 3 * D, TABLE * H};

    (void)state;
    op_fixture_open(&f, 21);
    struct window_attention_args args = {
        .qkv = op_upload(&f, f.dtype, op_random(&f, f.dtype, T * 3 * D, 1.0), T, 3 * D),
        .pad = op_upload(&f, DTYPE_F32, op_random(&f, DTYPE_F32, 3 * D, 1.0), 3 * D, 0),
        .table = op_upload(&f, DTYPE_F32, op_random(&f, DTYPE_F32, TABLE * H, 1.0), TABLE, H),
        .out = op_output(&f, f.dtype, T, D),
        .lse = op_output(&f, DTYPE_F32, H, T),
        .groups = {{0, 2, 9}},
        .n_groups = 1,
        .n_heads = H,
        .window = 4,
        .shift = 2,
    };
    struct window_attention_backward_args back = {
        .d_out = op_upload(&f, f.dtype, op_random(&f, f.dtype, T * D, 1.0), T, D),
        .qkv = args.qkv,
        .pad = args.pad,
        .table = args.table,
        .out = args.out,
        .lse = args.lse,
        .d_qkv = op_output(&f, f.dtype, T, 3 * D),
        .d_pad = op_output(&f, DTYPE_F32, 3 * D, 0),
        .d_table = op_output(&f, DTYPE_F32, TABLE, H),
        .groups = {{0, 2, 9}},
        .n_groups = 1,
        .n_heads = H,
        .window = 4,
        .shift = 2,
    };
    op_run(f.ops->window_attention_forward(&f.device, &args));
    backward_on_threads(&f, &back, 1, first);
    for (int n = 2; n <= 5; n++) {
        backward_on_threads(&f, &back, n, other);
        for (int i = 0; i < 3; i++)
            assert_memory_equal(first[i], other[i], (size_t)counts[i] * sizeof(double));
    }
    op_fixture_close(&f);
}

/* A backend may have no hierarchical backbones. */
static bool has_the_op(void)
{
    struct op_fixture f;

    op_fixture_open(&f, 0);
    bool has = f.ops->window_attention_forward != NULL;
    op_fixture_close(&f);
    return has;
}

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(window_attention_and_its_gradients_follow_the_definition),
        cmocka_unit_test(the_gradients_have_the_same_bits_on_any_number_of_threads),
    };
    int leave = op_backend_choose(argc, argv);
    if (leave == 0 && !has_the_op())
        leave = OP_TEST_SKIPPED;
    return leave != 0 ? leave : cmocka_run_group_tests(tests, NULL, NULL);
}
