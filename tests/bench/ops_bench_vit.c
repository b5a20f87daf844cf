/* The ops of a ViT's blocks and of its tokens, each with every form that a step, or a rival of it,
 * has. */
#include <string.h>

#include "tests/bench/ops_bench.h"

#include <stdio.h>

static const struct tensor none;

static const char *name_of(enum activation activation)
{
    return activation == ACTIVATION_NONE   ? ""
           : activation == ACTIVATION_GELU ? " gelu_erf"
                                           : " gelu_tanh";
}

/* ------------------------------------------------------------------------------ linear layers */

struct layer {
    const char *name;
    int64_t n_in, n_out;
    bool bias_done; /* its gradient comes from the op in front */
};

static void forward(struct ops_bench *b, const struct shapes *s, struct layer layer, int64_t n,
                    enum activation activation, bool pre)
{
    union op_args args = {
        .linear_forward = {.x = ops_bench_take(b, s->dtype, n, layer.n_in),
                           .weight = ops_bench_take(b, s->dtype, layer.n_out, layer.n_in),
                           .bias = ops_bench_take(b, s->dtype, layer.n_out, 0),
                           .y = ops_bench_take(b, s->dtype, n, layer.n_out),
                           .pre = pre ? ops_bench_take(b, s->dtype, n, layer.n_out) : none,
                           .activation = activation}};

    ops_bench_case(b, BENCH_linear_forward, &args, "%s%s%s, %lld rows", layer.name,
                   name_of(activation), pre ? " pre" : "", (long long)n);
    ops_bench_give_back(b);
}

/* activation: of the layer before, whose derivative is part of the product, and whose bias gradient
 * is the sums of what comes out. */
static void backward(struct ops_bench *b, const struct shapes *s, struct layer layer,
                     enum activation activation)
{
    int64_t n = s->tokens;
    struct linear_backward_args whole = {
        .d_y = ops_bench_take(b, s->dtype, n, layer.n_out),
        .x = ops_bench_take(b, s->dtype, n, layer.n_in),
        .weight = ops_bench_take(b, s->dtype, layer.n_out, layer.n_in),
        .pre = activation != ACTIVATION_NONE ? ops_bench_take(b, s->dtype, n, layer.n_in) : none,
        .d_x = ops_bench_take(b, s->dtype, n, layer.n_in),
        .d_weight = ops_bench_take(b, DTYPE_F32, layer.n_out, layer.n_in),
        .d_bias = layer.bias_done ? none : ops_bench_take(b, DTYPE_F32, layer.n_out, 0),
        .d_x_sums =
            activation != ACTIVATION_NONE ? ops_bench_take(b, DTYPE_F32, layer.n_in, 0) : none,
        .activation = activation};
    union op_args args = {.linear_backward = whole};

    ops_bench_case(b, BENCH_linear_backward, &args, "%s%s", layer.name, name_of(activation));
    args.linear_backward.d_weight = args.linear_backward.d_bias = none;
    if (activation != ACTIVATION_NONE)
        ops_bench_case(b, BENCH_linear_backward, &args, "%s%s d_x d_x_sums", layer.name,
                       name_of(activation));
    args.linear_backward.d_x_sums = none;
    ops_bench_case(b, BENCH_linear_backward, &args, "%s%s d_x", layer.name, name_of(activation));
    args.linear_backward = whole;
    args.linear_backward.d_x = args.linear_backward.d_x_sums = args.linear_backward.pre = none;
    args.linear_backward.activation = ACTIVATION_NONE;
    if (activation == ACTIVATION_NONE)
        ops_bench_case(b, BENCH_linear_backward, &args, "%s d_weight%s", layer.name,
                       layer.bias_done ? "" : " d_bias");
    ops_bench_give_back(b);
}

static void linear_layers(struct ops_bench *b, const struct shapes *s)
{
    int64_t d = s->width;
    struct layer qkv = {"qkv", d, 3 * d, false}, proj = {"proj", d, d, true};
    struct layer fc1 = {"fc1", d, s->hidden, true}, fc2 = {"fc2", s->hidden, d, true};

    forward(b, s, qkv, s->tokens, ACTIVATION_NONE, false);
    forward(b, s, proj, s->tokens, ACTIVATION_NONE, false);
    forward(b, s, fc1, s->tokens, ACTIVATION_GELU_TANH, true);
    forward(b, s, fc1, s->tokens, ACTIVATION_GELU, true);
    forward(b, s, fc1, s->global_tokens, ACTIVATION_GELU_TANH, false);
    forward(b, s, fc1, s->tokens, ACTIVATION_NONE, false); /* and the activation apart */
    forward(b, s, fc2, s->tokens, ACTIVATION_NONE, false);
    backward(b, s, qkv, ACTIVATION_NONE);
    backward(b, s, proj, ACTIVATION_NONE);
    backward(b, s, fc1, ACTIVATION_NONE);
    backward(b, s, fc2, ACTIVATION_GELU_TANH);
    backward(b, s, fc2, ACTIVATION_GELU);
    backward(b, s, fc2, ACTIVATION_NONE); /* and the activation apart */
}

static void activations(struct ops_bench *b, const struct shapes *s)
{
    static const enum activation forms[] = {ACTIVATION_GELU_TANH, ACTIVATION_GELU};
    struct tensor x = ops_bench_take(b, s->dtype, s->tokens, s->hidden);
    struct tensor y = ops_bench_take(b, s->dtype, s->tokens, s->hidden);
    struct tensor d_y = ops_bench_take(b, s->dtype, s->tokens, s->hidden);

    for (int i = 0; i < 2; i++) {
        union op_args args = {.activation_forward = {x, y, forms[i]}};
        ops_bench_case(b, BENCH_activation_forward, &args, "fc1%s", name_of(forms[i]));
        args.activation_backward = (struct activation_backward_args){d_y, x, y, forms[i]};
        ops_bench_case(b, BENCH_activation_backward, &args, "fc1%s", name_of(forms[i]));
    }
    ops_bench_give_back(b);
}

/* ------------------------------------------------------------------------------ norms */

static void norms(struct ops_bench *b, const struct shapes *s, enum dtype type, const char *of)
{
    int64_t n = s->tokens, d = s->width, crops = s->batch * (2 + s->n_local);
    struct tensor stream = ops_bench_take(b, type, n, d), sum = ops_bench_take(b, type, n, d);
    struct tensor branch = ops_bench_take(b, s->dtype, n, d);
    struct tensor y = ops_bench_take(b, s->dtype, n, d);
    struct tensor mean = ops_bench_take(b, DTYPE_F32, n, 0);
    struct tensor rstd = ops_bench_take(b, DTYPE_F32, n, 0);
    struct tensor gamma = ops_bench_take(b, DTYPE_F32, d, 0);
    struct tensor beta = ops_bench_take(b, DTYPE_F32, d, 0);
    struct tensor bias = ops_bench_take(b, DTYPE_F32, d, 0);
    struct tensor scale = ops_bench_take(b, DTYPE_F32, crops, 0);
    struct tensor sample = ops_bench_take_indices(b, n, 0, 1, crops);
    union op_args args = {.residual_layernorm_forward = {.x = stream,
                                                         .branch = branch,
                                                         .scale = scale,
                                                         .sample = sample,
                                                         .sum = sum,
                                                         .gamma = gamma,
                                                         .beta = beta,
                                                         .y = y,
                                                         .mean = mean,
                                                         .rstd = rstd,
                                                         .eps = 1e-6f}};

    ops_bench_case(b, BENCH_residual_layernorm_forward, &args, "branch, stochastic depth%s", of);
    args.residual_layernorm_forward.branch = args.residual_layernorm_forward.scale = none;
    args.residual_layernorm_forward.sample = args.residual_layernorm_forward.sum = none;
    ops_bench_case(b, BENCH_residual_layernorm_forward, &args, "norm alone%s", of);
    args.residual_layernorm_backward =
        (struct residual_layernorm_backward_args){.d_y = y,
                                                  .d_sum = stream,
                                                  .sum = sum,
                                                  .mean = mean,
                                                  .rstd = rstd,
                                                  .gamma = gamma,
                                                  .scale = scale,
                                                  .sample = sample,
                                                  .d_sum_out = stream,
                                                  .d_branch = branch,
                                                  .d_gamma = gamma,
                                                  .d_beta = beta,
                                                  .d_bias = bias};
    ops_bench_case(b, BENCH_residual_layernorm_backward, &args, "branch, stochastic depth%s", of);
    ops_bench_give_back(b);
}

void ops_bench_blocks(struct ops_bench *b, const struct shapes *s)
{
    linear_layers(b, s);
    activations(b, s);
    norms(b, s, DTYPE_F32, "");
    if (s->dtype != DTYPE_F32)
        norms(b, s, s->dtype, ", bf16 stream");
}

/* ------------------------------------------------------------------------------ attention */

static void attention_by(struct ops_bench *b, const struct shapes *s, const char *name,
                         const struct attention_group *groups, int32_t n_groups)
{
    int64_t n = s->tokens, d = s->width;
    struct tensor qkv = ops_bench_take(b, s->dtype, n, 3 * d);
    struct tensor out = ops_bench_take(b, s->dtype, n, d);
    struct tensor lse = ops_bench_take(b, DTYPE_F32, n, s->n_heads);
    union op_args args = {.attention_forward = {.qkv = qkv,
                                                .out = out,
                                                .lse = lse,
                                                .n_groups = n_groups,
                                                .n_heads = (int32_t)s->n_heads}};

    memcpy(args.attention_forward.groups, groups, (size_t)n_groups * sizeof(*groups));
    ops_bench_case(b, BENCH_attention_forward, &args, "%s", name);
    args.attention_backward =
        (struct attention_backward_args){.d_out = ops_bench_take(b, s->dtype, n, d),
                                         .qkv = qkv,
                                         .out = out,
                                         .lse = lse,
                                         .d_qkv = ops_bench_take(b, s->dtype, n, 3 * d),
                                         .n_groups = n_groups,
                                         .n_heads = (int32_t)s->n_heads};
    memcpy(args.attention_backward.groups, groups, (size_t)n_groups * sizeof(*groups));
    ops_bench_case(b, BENCH_attention_backward, &args, "%s", name);
    ops_bench_give_back(b);
}

/* In bf16 by the own kernels, the former ones where there are newer, and by cuDNN, as far as it
 * takes the shape. */
static void attention(struct ops_bench *b, const struct shapes *s, const char *name,
                      const struct attention_group *groups, int32_t n_groups)
{
    char by[128];

    if (s->dtype != DTYPE_BF16) {
        attention_by(b, s, name, groups, n_groups);
        return;
    }
    if (ops_bench_attention_by(b, ATTENTION_BY_CUDNN)) {
        snprintf(by, sizeof(by), "%s, cuDNN", name);
        attention_by(b, s, by, groups, n_groups);
    }
    if (ops_bench_attention_by(b, ATTENTION_BY_OWN)) {
        snprintf(by, sizeof(by), "%s, own kernels", name);
        attention_by(b, s, by, groups, n_groups);
    }
    if (ops_bench_attention_by(b, ATTENTION_BY_FORMER)) {
        snprintf(by, sizeof(by), "%s, former kernels", name);
        attention_by(b, s, by, groups, n_groups);
    }
}

/* ------------------------------------------------------------------------------ tokens */

static void tokens(struct ops_bench *b, const struct shapes *s)
{
    int64_t images = 2 * s->batch, cells = (int64_t)s->global_side * s->global_side;
    int64_t side = (int64_t)s->global_side * s->patch, n = images * cells, d = s->width;
    int64_t row = 3 * (int64_t)s->patch * s->patch;
    struct tensor pixels = ops_bench_take(b, DTYPE_U8, images * side * side * 3, 0);
    struct tensor patches = ops_bench_take(b, s->dtype, n, row);
    struct tensor embedded = ops_bench_take(b, s->dtype, n, d);
    struct tensor buffer = ops_bench_take(b, DTYPE_F32, images * (cells + 1), d);
    struct tensor mask = ops_bench_take_mask(b, n), token = ops_bench_take(b, DTYPE_F32, d, 0);
    struct tensor cls = ops_bench_take(b, DTYPE_F32, d, 0);
    struct tensor pos = ops_bench_take(b, DTYPE_F32, cells + 1, d);
    union op_args args = {.patchify = {.pixels = pixels,
                                       .patches = patches,
                                       .patch_size = s->patch,
                                       .mean = {0.485f, 0.456f, 0.406f},
                                       .std = {0.229f, 0.224f, 0.225f}}};

    args.patchify.pixels.rank = 4;
    memcpy(args.patchify.pixels.shape, (int64_t[]){images, side, side, 3}, 4 * sizeof(int64_t));
    ops_bench_case(b, BENCH_patchify, &args, "global crops");
    args.tokens_forward = (struct tokens_args){embedded, mask, token, cls, pos, buffer};
    ops_bench_case(b, BENCH_tokens_forward, &args, "global crops, masked");
    args.tokens_backward = (struct tokens_backward_args){buffer, mask, embedded, token, cls, pos};
    ops_bench_case(b, BENCH_tokens_backward, &args, "global crops, masked");
    ops_bench_give_back(b);
    forward(b, s, (struct layer){"patch_embed", row, d, false}, n, ACTIVATION_NONE, false);
}

/* After the last block's attention only these rows go on. */
static void chosen_rows(struct ops_bench *b, const struct shapes *s)
{
    struct tensor all = ops_bench_take(b, s->dtype, s->tokens, s->width);
    struct tensor some = ops_bench_take(b, s->dtype, s->needed, s->width);
    struct tensor index = ops_bench_take_indices(b, s->needed, 0, s->tokens / s->needed, s->tokens);
    union op_args args = {.rows_gather = {all, index, some}};

    ops_bench_case(b, BENCH_rows_gather, &args, "rows of the loss");
    args.rows_scatter = (struct rows_scatter_args){some, index, all, true};
    ops_bench_case(b, BENCH_rows_scatter, &args, "rows of the loss");
    ops_bench_give_back(b);
}

void ops_bench_vit(struct ops_bench *b, const struct shapes *s)
{
    int64_t global = (int64_t)s->global_side * s->global_side + 1;
    int64_t local = (int64_t)s->local_side * s->local_side + 1;
    struct attention_group groups[] = {
        {0, 2 * s->batch, global},
        {2 * s->batch * global, s->n_local * s->batch, local},
    };
    char name[64];

    snprintf(name, sizeof(name), "%lld tokens", (long long)global);
    attention(b, s, name, groups, 1);
    if (s->n_local > 0) {
        snprintf(name, sizeof(name), "%lld tokens", (long long)local);
        attention(b, s, name, groups + 1, 1);
        snprintf(name, sizeof(name), "%lld and %lld tokens", (long long)global, (long long)local);
        attention(b, s, name, groups, 2);
    }
    tokens(b, s);
    chosen_rows(b, s);
}
