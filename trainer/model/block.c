/* One block, forward and backward, in the op table's fused units. */
#include "trainer/model/block.h"

#include <string.h>

static struct tensor matrix(float *data, int64_t n, int64_t m)
{
    return tensor_2d(data, DTYPE_F32, n, m);
}

static struct tensor vector(float *data, int64_t n)
{
    return tensor_1d(data, DTYPE_F32, n);
}

static struct tensor absent(void)
{
    return (struct tensor){0};
}

static enum status linear(const struct block_pass *p, const struct affine *w, float *x, int64_t n,
                          float *y, float *pre, enum activation activation)
{
    int64_t n_out = w->weight.shape[0], n_in = w->weight.shape[1];
    struct linear_args args = {
        .x = matrix(x, n, n_in),
        .weight = w->weight,
        .bias = w->bias,
        .y = matrix(y, n, n_out),
        .pre = pre != NULL ? matrix(pre, n, n_out) : absent(),
        .activation = activation,
    };
    return p->ops->linear_forward(p->device, &args);
}

/* sum = x + scale * branch; y = norm(sum), over n rows. */
static enum status residual(const struct block_pass *p, float *x, float *branch, float *scale,
                            int64_t n_samples, int32_t *sample, float *sum,
                            const struct affine *norm, float *y, float *mean, float *rstd,
                            int64_t n)
{
    struct residual_layernorm_args args = {
        .x = matrix(x, n, p->width),
        .branch = matrix(branch, n, p->width),
        .scale = scale != NULL ? vector(scale, n_samples) : absent(),
        .sample = scale != NULL ? tensor_1d(sample, DTYPE_I32, n) : absent(),
        .sum = matrix(sum, n, p->width),
        .eps = p->eps,
    };
    if (y != NULL) {
        args.gamma = norm->weight;
        args.beta = norm->bias;
        args.y = matrix(y, n, p->width);
        args.mean = p->backward ? vector(mean, n) : absent();
        args.rstd = p->backward ? vector(rstd, n) : absent();
    }
    return p->ops->residual_layernorm_forward(p->device, &args);
}

static enum status gather(const struct block_pass *p, const struct block_rows *rows, float *from,
                          float *to)
{
    struct rows_gather_args args = {
        .from = matrix(from, p->n_tokens, p->width),
        .index = tensor_1d(rows->index, DTYPE_I32, rows->n_rows),
        .to = matrix(to, rows->n_rows, p->width),
    };
    return p->ops->rows_gather(p->device, &args);
}

static enum status scatter(const struct block_pass *p, const struct block_rows *rows, float *from,
                           float *to)
{
    struct rows_scatter_args args = {
        .from = matrix(from, rows->n_rows, p->width),
        .index = tensor_1d(rows->index, DTYPE_I32, rows->n_rows),
        .to = matrix(to, p->n_tokens, p->width),
        .zero_others = true,
    };
    return p->ops->rows_scatter(p->device, &args);
}

static enum status attend(const struct block_pass *p, const struct block_weights *w,
                          struct block_state *s)
{
    struct tensor qkv = matrix(s->qkv, p->n_tokens, 3 * p->width);
    struct tensor out = matrix(s->attention, p->n_tokens, p->width);
    struct tensor lse = p->backward ? matrix(s->lse, p->n_heads, p->n_tokens) : absent();

    if (w->window.side == 0) {
        struct attention_args args = {
            .qkv = qkv, .out = out, .lse = lse, .n_groups = p->n_groups, .n_heads = p->n_heads};
        memcpy(args.groups, p->groups, sizeof(args.groups));
        return p->ops->attention_forward(p->device, &args);
    }
    struct window_attention_args args = {
        .qkv = qkv,
        .pad = w->qkv.bias, /* what a padding token of zeros becomes */
        .table = w->window.table,
        .out = out,
        .lse = lse,
        .n_groups = p->n_groups,
        .n_heads = p->n_heads,
        .window = w->window.side,
        .shift = w->window.shift,
    };
    memcpy(args.groups, p->regions, sizeof(args.groups));
    return p->ops->window_attention_forward(p->device, &args);
}

/* d_qkv from the gradient of the attention's output. */
static enum status attend_back(const struct block_pass *p, const struct block_weights *w,
                               const struct block_state *s, float *d_attention, float *d_qkv)
{
    struct tensor qkv = matrix(s->qkv, p->n_tokens, 3 * p->width);
    struct tensor out = matrix(s->attention, p->n_tokens, p->width);
    struct tensor lse = matrix(s->lse, p->n_heads, p->n_tokens);
    struct tensor d_out = matrix(d_attention, p->n_tokens, p->width);

    if (w->window.side == 0) {
        struct attention_backward_args args = {
            .d_out = d_out,
            .qkv = qkv,
            .out = out,
            .lse = lse,
            .d_qkv = matrix(d_qkv, p->n_tokens, 3 * p->width),
            .n_groups = p->n_groups,
            .n_heads = p->n_heads,
        };
        memcpy(args.groups, p->groups, sizeof(args.groups));
        return p->ops->attention_backward(p->device, &args);
    }
    struct window_attention_backward_args args = {
        .d_out = d_out,
        .qkv = qkv,
        .pad = w->qkv.bias,
        .table = w->window.table,
        .out = out,
        .lse = lse,
        .d_qkv = matrix(d_qkv, p->n_tokens, 3 * p->width),
        .d_pad = w->qkv.d_bias,
        .d_table = w->window.d_table,
        .n_groups = p->n_groups,
        .n_heads = p->n_heads,
        .window = w->window.side,
        .shift = w->window.shift,
    };
    memcpy(args.groups, p->regions, sizeof(args.groups));
    return p->ops->window_attention_backward(p->device, &args);
}

enum status block_forward(const struct block_pass *p, const struct block_weights *w,
                          struct block_state *s, const struct block_depth *depth,
                          const struct block_rows *rows, const struct block_next *next)
{
    int64_t n = rows->n_rows;
    bool chosen = rows->index != NULL;
    float *x = s->x, *attention = s->attention;

    TRY(linear(p, &w->qkv, s->y1, p->n_tokens, s->qkv, NULL, ACTIVATION_NONE));
    TRY(attend(p, w, s));
    if (chosen) {
        TRY(gather(p, rows, s->x, s->x_rows));
        TRY(gather(p, rows, s->attention, s->attention_rows));
        x = s->x_rows;
        attention = s->attention_rows;
    }
    int32_t *sample = chosen ? rows->sample : p->sample;
    TRY(linear(p, &w->proj, attention, n, s->branch, NULL, ACTIVATION_NONE));
    TRY(residual(p, x, s->branch, depth->attention_scale, depth->n_samples, sample, s->sum1,
                 &w->norm2, s->y2, s->mean2, s->rstd2, n));
    TRY(linear(p, &w->fc1, s->y2, n, s->hidden, p->backward ? s->pre : NULL, ACTIVATION_GELU));
    TRY(linear(p, &w->fc2, s->hidden, n, s->branch, NULL, ACTIVATION_NONE));
    return residual(p, s->sum1, s->branch, depth->mlp_scale, depth->n_samples, sample, next->x,
                    &next->norm, next->y, next->mean, next->rstd, n);
}

static enum status linear_back(const struct block_pass *p, const struct affine *w, float *d_y,
                               float *x, int64_t n, float *pre, float *d_x)
{
    int64_t n_out = w->weight.shape[0], n_in = w->weight.shape[1];
    struct linear_backward_args args = {
        .d_y = matrix(d_y, n, n_out),
        .x = matrix(x, n, n_in),
        .weight = w->weight,
        .pre = pre != NULL ? matrix(pre, n, n_in) : absent(),
        .d_x = matrix(d_x, n, n_in),
        .d_weight = w->d_weight,
        .d_bias = w->d_bias,
        .activation = pre != NULL ? ACTIVATION_GELU : ACTIVATION_NONE,
    };
    return p->ops->linear_backward(p->device, &args);
}

/* Undoes residual() (d_y NULL: without a norm): d_stream is updated in place, the branch's gradient
 * goes to d_branch. */
static enum status residual_back(const struct block_pass *p, float *d_y, float *d_stream,
                                 float *sum, float *mean, float *rstd, const struct affine *norm,
                                 float *scale, int64_t n_samples, int32_t *sample, float *d_branch,
                                 int64_t n)
{
    struct residual_layernorm_backward_args args = {
        .d_sum = matrix(d_stream, n, p->width),
        .scale = scale != NULL ? vector(scale, n_samples) : absent(),
        .sample = scale != NULL ? tensor_1d(sample, DTYPE_I32, n) : absent(),
        .d_sum_out = matrix(d_stream, n, p->width),
        .d_branch = matrix(d_branch, n, p->width),
    };
    if (d_y != NULL) {
        args.d_y = matrix(d_y, n, p->width);
        args.sum = matrix(sum, n, p->width);
        args.mean = vector(mean, n);
        args.rstd = vector(rstd, n);
        args.gamma = norm->weight;
        args.d_gamma = norm->d_weight;
        args.d_beta = norm->d_bias;
    }
    return p->ops->residual_layernorm_backward(p->device, &args);
}

enum status block_backward(const struct block_pass *p, const struct block_weights *w,
                           const struct block_state *s, const struct block_depth *depth,
                           const struct block_rows *rows, const struct block_next *next,
                           struct block_gradients *g)
{
    int64_t n = rows->n_rows;
    bool chosen = rows->index != NULL;
    int32_t *sample = chosen ? rows->sample : p->sample;
    float *d_attention = g->d_branch;

    TRY(residual_back(p, next->y != NULL ? g->d_y : NULL, g->d_stream, next->x, next->mean,
                      next->rstd, &next->norm, depth->mlp_scale, depth->n_samples, sample,
                      g->d_branch, n));
    TRY(linear_back(p, &w->fc2, g->d_branch, s->hidden, n, s->pre, g->d_hidden));
    TRY(linear_back(p, &w->fc1, g->d_hidden, s->y2, n, NULL, g->d_y));
    TRY(residual_back(p, g->d_y, g->d_stream, s->sum1, s->mean2, s->rstd2, &w->norm2,
                      depth->attention_scale, depth->n_samples, sample, g->d_branch, n));
    TRY(linear_back(p, &w->proj, g->d_branch, chosen ? s->attention_rows : s->attention, n, NULL,
                    g->d_y));
    if (chosen) {
        float *full = g->d_rows;
        TRY(scatter(p, rows, g->d_stream, full));
        g->d_rows = g->d_stream;
        g->d_stream = full;
        TRY(scatter(p, rows, g->d_y, g->d_branch));
    } else {
        d_attention = g->d_y;
        g->d_y = g->d_branch;
        g->d_branch = d_attention;
    }
    TRY(attend_back(p, w, s, d_attention, g->d_qkv));
    return linear_back(p, &w->qkv, g->d_qkv, s->y1, p->n_tokens, NULL, g->d_y);
}
