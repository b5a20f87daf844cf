/* The ops that a Swin has besides: windows, merging, regions, for every stage. */
#include "tests/bench/ops_bench.h"

/* Maps of one stage: global crops, then local ones. */
static int32_t groups_of(const struct shapes *s, int64_t side, int64_t small,
                         struct region_group groups[2])
{
    groups[0] = (struct region_group){0, 2 * s->batch, side};
    groups[1] = (struct region_group){2 * s->batch * side * side, s->n_local * s->batch, small};
    return s->n_local > 0 ? 2 : 1;
}

static void windows(struct ops_bench *b, const struct shapes *s, const struct region_group *groups,
                    int32_t n_groups, int32_t window, int32_t shift)
{
    int64_t n = s->tokens, d = s->width, table = (2 * window - 1) * (2 * window - 1);
    struct tensor qkv = ops_bench_take(b, s->dtype, n, 3 * d);
    struct tensor out = ops_bench_take(b, s->dtype, n, d);
    struct tensor lse = ops_bench_take(b, DTYPE_F32, s->n_heads, n);
    struct tensor pad = ops_bench_take(b, DTYPE_F32, 3 * d, 0);
    struct tensor bias = ops_bench_take(b, DTYPE_F32, table, s->n_heads);
    union op_args args = {.window_attention_forward = {.qkv = qkv,
                                                       .pad = pad,
                                                       .table = bias,
                                                       .out = out,
                                                       .lse = lse,
                                                       .n_groups = n_groups,
                                                       .n_heads = (int32_t)s->n_heads,
                                                       .window = window,
                                                       .shift = shift}};

    for (int32_t i = 0; i < n_groups; i++)
        args.window_attention_forward.groups[i] = groups[i];
    ops_bench_case(b, BENCH_window_attention_forward, &args, "maps of %lld, window %d, shift %d",
                   (long long)groups[0].side, window, shift);
    struct window_attention_backward_args backward = {
        .d_out = ops_bench_take(b, s->dtype, n, d),
        .qkv = qkv,
        .pad = pad,
        .table = bias,
        .out = out,
        .lse = lse,
        .d_qkv = ops_bench_take(b, s->dtype, n, 3 * d),
        .d_pad = ops_bench_take(b, DTYPE_F32, 3 * d, 0),
        .d_table = ops_bench_take(b, DTYPE_F32, table, s->n_heads),
        .n_groups = n_groups,
        .n_heads = (int32_t)s->n_heads,
        .window = window,
        .shift = shift};
    for (int32_t i = 0; i < n_groups; i++)
        backward.groups[i] = groups[i];
    args.window_attention_backward = backward;
    ops_bench_case(b, BENCH_window_attention_backward, &args, "maps of %lld, window %d, shift %d",
                   (long long)groups[0].side, window, shift);
    ops_bench_give_back(b);
}

static void merging(struct ops_bench *b, const struct shapes *s, const struct region_group *from,
                    const struct region_group *to, int32_t n_groups)
{
    int64_t n = 0;
    struct patch_merge_args forward = {.n_groups = n_groups};
    struct patch_merge_backward_args backward = {.n_groups = n_groups};

    for (int32_t i = 0; i < n_groups; i++) {
        forward.from[i] = backward.from[i] = from[i];
        forward.to[i] = backward.to[i] = to[i];
        n += to[i].n_images * to[i].side * to[i].side;
    }
    forward.x = backward.d_x = ops_bench_take(b, s->dtype, s->tokens, s->width);
    forward.y = backward.d_y = ops_bench_take(b, s->dtype, n, 4 * s->width);
    union op_args args = {.patch_merge = forward};
    ops_bench_case(b, BENCH_patch_merge, &args, "maps of %lld", (long long)from[0].side);
    args.patch_merge_backward = backward;
    ops_bench_case(b, BENCH_patch_merge_backward, &args, "maps of %lld", (long long)from[0].side);
    ops_bench_give_back(b);
}

static void masking(struct ops_bench *b, const struct shapes *s)
{
    int64_t n = 2 * s->batch, side = s->global_side, cells = side / 8;
    struct tensor x = ops_bench_take(b, DTYPE_F32, n * side * side, s->width);
    struct tensor mask = ops_bench_take_mask(b, n * cells * cells);
    struct tensor token = ops_bench_take(b, DTYPE_F32, s->width, 0);
    union op_args args = {.region_mask = {x, mask, token, side, cells}};

    if (cells < 1 || side % cells != 0)
        return;
    ops_bench_case(b, BENCH_region_mask, &args, "global crops");
    args.region_mask_backward = (struct region_mask_backward_args){x, mask, token, side, cells};
    ops_bench_case(b, BENCH_region_mask_backward, &args, "global crops");
    ops_bench_give_back(b);
}

static void mean(struct ops_bench *b, const struct shapes *s, const struct region_group *groups,
                 int32_t n_groups)
{
    int64_t rows = 0;
    struct region_mean_args forward = {.n_groups = n_groups};
    struct region_mean_backward_args backward = {.n_groups = n_groups};

    for (int32_t i = 0; i < n_groups; i++) {
        forward.groups[i] = backward.groups[i] = groups[i];
        forward.to_row[i] = backward.to_row[i] = rows;
        rows += groups[i].n_images * (groups[i].side * groups[i].side + 1);
    }
    forward.x = backward.d_x = ops_bench_take(b, s->dtype, s->tokens, s->width);
    forward.y = backward.d_y = ops_bench_take(b, s->dtype, rows, s->width);
    union op_args args = {.region_mean = forward};
    ops_bench_case(b, BENCH_region_mean, &args, "last maps");
    args.region_mean_backward = backward;
    ops_bench_case(b, BENCH_region_mean_backward, &args, "last maps");
    ops_bench_give_back(b);
}

/* Shapes of the first stage are given; those of the others follow. */
void ops_bench_swin(struct ops_bench *b, const struct shapes *first)
{
    enum { STAGES = 4, WINDOW = 7 };
    struct shapes s = *first;
    int64_t side = s.global_side, small = s.local_side;

    ops_bench_group(b, "%s", s.arch);
    masking(b, &s);
    for (int stage = 0; stage < STAGES; stage++) {
        struct region_group groups[2], merged[2];
        ops_bench_group(b, "%s stage %d", s.arch, stage + 1);
        int32_t n_groups = groups_of(&s, side, small, groups);
        int32_t window = side < WINDOW ? (int32_t)side : WINDOW;
        s.tokens = 2 * s.batch * side * side + s.n_local * s.batch * small * small;
        s.global_tokens = 2 * s.batch * side * side;
        windows(b, &s, groups, n_groups, window, 0);
        if (side > WINDOW)
            windows(b, &s, groups, n_groups, window, window / 2);
        ops_bench_blocks(b, &s);
        if (stage + 1 == STAGES) {
            mean(b, &s, groups, n_groups);
            break;
        }
        side = (side + 1) / 2;
        small = (small + 1) / 2;
        (void)groups_of(&s, side, small, merged);
        merging(b, &s, groups, merged, n_groups);
        s.width *= 2;
        s.n_heads *= 2;
        s.hidden *= 2;
    }
}
