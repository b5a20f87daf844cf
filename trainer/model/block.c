/* One block, forward and backward, in the op table's fused units. */
#include "trainer/model/block.h"

#include <string.h>

static struct tensor absent(void)
{
    return (struct tensor){0};
}

/* ------------------------------------------------------------------------------ planning */

static bool again(const struct block_pass *p, enum recompute least)
{
    return p->backward && p->recompute >= least;
}

/* What is made again by the levels of enum recompute: planned with the block, or once for all. */
static enum status plan_hidden(struct block_state *s, const struct block_pass *p, int64_t n,
                               struct workspace *w)
{
    return plan_buffer(w, &s->hidden, p->dtype, n * (p->hidden / p->width));
}

static enum status plan_norms(struct block_state *s, const struct block_pass *p, int64_t n,
                              struct workspace *w)
{
    TRY(plan_buffer(w, &s->y1, p->dtype, n));
    return plan_buffer(w, &s->y2, p->dtype, n);
}

static enum status plan_rest(struct block_state *s, const struct block_pass *p, int64_t n,
                             int64_t tokens, int64_t n_lse, struct workspace *w)
{
    TRY(plan_buffer(w, &s->qkv, p->dtype, 3 * n));
    TRY(plan_buffer(w, &s->attention, p->dtype, n));
    TRY(plan_buffer(w, &s->sum1, p->stream, n));
    if (!p->backward)
        return STATUS_OK;
    TRY(plan_buffer(w, &s->pre, p->dtype, n * (p->hidden / p->width)));
    TRY(plan_floats(w, &s->lse, n_lse));
    TRY(plan_floats(w, &s->mean2, tokens));
    return plan_floats(w, &s->rstd2, tokens);
}

enum status block_plan(struct block_state *s, const struct block_pass *p, int64_t n,
                       bool chosen_rows, struct workspace *w)
{
    int64_t t = p->n_tokens;

    TRY(plan_buffer(w, &s->x, p->stream, n));
    if (!again(p, RECOMPUTE_GELU))
        TRY(plan_hidden(s, p, n, w));
    if (!again(p, RECOMPUTE_NORMS))
        TRY(plan_norms(s, p, n, w));
    if (!again(p, RECOMPUTE_BLOCKS))
        TRY(plan_rest(s, p, n, t, t * p->n_heads, w));
    if (!p->backward)
        return STATUS_OK;
    TRY(plan_floats(w, &s->mean1, t));
    TRY(plan_floats(w, &s->rstd1, t));
    if (!chosen_rows)
        return STATUS_OK;
    TRY(plan_buffer(w, &s->x_rows, p->stream, n));
    return plan_buffer(w, &s->attention_rows, p->dtype, n);
}

enum status block_plan_shared(struct block_state *shared, const struct block_pass *p, int64_t n,
                              int64_t tokens, int64_t n_lse, struct workspace *w)
{
    if (again(p, RECOMPUTE_GELU))
        TRY(plan_hidden(shared, p, n, w));
    if (again(p, RECOMPUTE_NORMS))
        TRY(plan_norms(shared, p, n, w));
    return again(p, RECOMPUTE_BLOCKS) ? plan_rest(shared, p, n, tokens, n_lse, w) : STATUS_OK;
}

void block_share(struct block_state *s, const struct block_state *shared,
                 const struct block_pass *p)
{
    if (again(p, RECOMPUTE_GELU))
        s->hidden = shared->hidden;
    if (again(p, RECOMPUTE_NORMS)) {
        s->y1 = shared->y1;
        s->y2 = shared->y2;
    }
    if (again(p, RECOMPUTE_BLOCKS)) {
        s->qkv = shared->qkv;
        s->attention = shared->attention;
        s->sum1 = shared->sum1;
        s->pre = shared->pre;
        s->lse = shared->lse;
        s->mean2 = shared->mean2;
        s->rstd2 = shared->rstd2;
    }
}

enum status block_plan_gradients(struct block_gradients *g, enum dtype dtype, enum dtype stream,
                                 int64_t n, int64_t any, int32_t mlp_ratio, bool apart,
                                 struct workspace *w)
{
    g->apart = apart;
    TRY(plan_buffer(w, &g->d_stream, stream, any));
    TRY(plan_buffer(w, &g->d_rows, stream, any));
    TRY(plan_buffer(w, &g->d_y, dtype, any));
    for (int i = 0; i < (apart ? 2 : 1); i++) {
        TRY(plan_buffer(w, &g->d_branch[i], dtype, any));
        TRY(plan_buffer(w, &g->d_qkv[i], dtype, 3 * n));
        TRY(plan_buffer(w, &g->d_hidden[i], dtype, n * mlp_ratio));
        if (apart)
            TRY(plan_buffer(w, &g->d_proj[i], dtype, n));
    }
    return STATUS_OK;
}

/* ------------------------------------------------------------------------------ forward */

/* Rows of what is kept of n rows. */
static int64_t rows_kept(const struct block_kept *kept, int64_t n)
{
    return kept != NULL && kept->shift != NULL ? kept->n_rows : n;
}

static struct tensor shift_of(const struct block_kept *kept, int64_t n_samples)
{
    return kept != NULL && kept->shift != NULL ? tensor_1d(kept->shift, DTYPE_I32, n_samples)
                                               : absent();
}

/* Of what is kept of n rows. */
static enum status linear(const struct block_pass *p, const struct affine *w, struct tensor x,
                          const struct block_kept *kept, int64_t n, struct tensor y,
                          struct tensor pre, enum activation activation)
{
    int64_t most = kept->shift != NULL ? n : 0; /* there are others at the next step */
    int64_t n_out = w->weight.shape[0], n_in = w->weight.shape[1];

    n = rows_kept(kept, n);
    struct linear_args args = {
        .x = shaped(x, n, n_in),
        .weight = w->weight,
        .bias = w->bias,
        .y = shaped(y, n, n_out),
        .pre = pre.data != NULL ? shaped(pre, n, n_out) : absent(),
        .most_rows = most,
        .activation = activation,
    };
    return p->ops->linear_forward(p->device, &args);
}

/* What adds the branch up, and goes on to the next. */
struct residual_ends {
    float *scale;
    int64_t n_samples;
    int32_t *sample;                        /* of each row */
    const struct block_kept *branch, *next; /* NULL: all */
};

static struct tensor sample_of(const struct residual_ends *ends, int64_t n)
{
    bool asked = ends->scale != NULL || (ends->branch != NULL && ends->branch->shift != NULL) ||
                 (ends->next != NULL && ends->next->shift != NULL);

    return asked ? tensor_1d(ends->sample, DTYPE_I32, n) : absent();
}

/* sum = x + scale * branch; y = norm(sum), over n rows. */
static enum status residual(const struct block_pass *p, struct tensor x, struct tensor branch,
                            const struct residual_ends *ends, struct tensor sum,
                            const struct affine *norm, struct tensor y, float *mean, float *rstd,
                            int64_t n)
{
    struct residual_layernorm_args args = {
        .x = shaped(x, n, p->width),
        .branch = shaped(branch, rows_kept(ends->branch, n), p->width),
        .scale = ends->scale != NULL ? vector(ends->scale, ends->n_samples) : absent(),
        .sample = sample_of(ends, n),
        .sum = shaped(sum, n, p->width),
        .branch_shift = shift_of(ends->branch, ends->n_samples),
        .eps = p->eps,
    };
    if (y.data != NULL) {
        args.gamma = norm->weight;
        args.beta = norm->bias;
        args.y = shaped(y, rows_kept(ends->next, n), p->width);
        args.y_shift = shift_of(ends->next, ends->n_samples);
        args.mean = p->backward ? vector(mean, n) : absent();
        args.rstd = p->backward ? vector(rstd, n) : absent();
    }
    return p->ops->residual_layernorm_forward(p->device, &args);
}

static enum status gather(const struct block_pass *p, const struct block_rows *rows,
                          struct tensor from, struct tensor to)
{
    struct rows_gather_args args = {
        .from = shaped(from, p->n_tokens, p->width),
        .index = tensor_1d(rows->index, DTYPE_I32, rows->n_rows),
        .to = shaped(to, rows->n_rows, p->width),
    };
    return p->ops->rows_gather(p->device, &args);
}

static enum status scatter(const struct block_pass *p, const struct block_rows *rows,
                           struct tensor from, struct tensor to)
{
    struct rows_scatter_args args = {
        .from = shaped(from, rows->n_rows, p->width),
        .index = tensor_1d(rows->index, DTYPE_I32, rows->n_rows),
        .to = shaped(to, p->n_tokens, p->width),
        .zero_others = true,
    };
    return p->ops->rows_scatter(p->device, &args);
}

/* Sequences and windows lay it out differently. */
static struct tensor lse_of(const struct block_pass *p, const struct block_weights *w,
                            const struct block_state *s, int64_t n)
{
    return w->window.side == 0 ? matrix(s->lse, n, p->n_heads) : matrix(s->lse, p->n_heads, n);
}

/* Sequences that are kept, one group after the other. */
static int32_t kept_groups(const struct block_pass *p, const struct block_kept *kept,
                           struct attention_group *groups)
{
    int32_t n = 0;
    int64_t row = 0;

    if (kept->shift == NULL) {
        memcpy(groups, p->groups, sizeof(p->groups));
        return p->n_groups;
    }
    for (int32_t i = 0; i < p->n_groups; i++) {
        int64_t length = p->groups[i].length, n_sequences = kept->n_sequences[i];
        if (n_sequences > 0)
            groups[n++] = (struct attention_group){row, n_sequences, length};
        row += n_sequences * length;
    }
    return n;
}

static enum status attend(const struct block_pass *p, const struct block_weights *w,
                          struct block_state *s, const struct block_kept *kept)
{
    int64_t n = rows_kept(kept, p->n_tokens);
    struct tensor qkv = shaped(s->qkv, n, 3 * p->width);
    struct tensor out = shaped(s->attention, n, p->width);
    struct tensor lse = p->backward ? lse_of(p, w, s, n) : absent();

    if (w->window.side == 0) {
        struct attention_args args = {.qkv = qkv, .out = out, .lse = lse, .n_heads = p->n_heads};
        args.n_groups = kept_groups(p, kept, args.groups);
        args.changing = kept->shift != NULL;
        return p->ops->attention_forward(p->device, &args);
    }
    CHECK(kept->shift == NULL, "windows take all samples");
    struct window_attention_args args = {
        .qkv = qkv,
        .pad = w->window.pad,
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
                               const struct block_state *s, const struct block_kept *kept,
                               struct tensor d_attention, struct tensor d_qkv)
{
    int64_t n = rows_kept(kept, p->n_tokens);
    struct tensor qkv = shaped(s->qkv, n, 3 * p->width);
    struct tensor out = shaped(s->attention, n, p->width);
    struct tensor lse = lse_of(p, w, s, n);
    struct tensor d_out = shaped(d_attention, n, p->width);

    if (w->window.side == 0) {
        struct attention_backward_args args = {
            .d_out = d_out,
            .qkv = qkv,
            .out = out,
            .lse = lse,
            .d_qkv = shaped(d_qkv, n, 3 * p->width),
            .n_heads = p->n_heads,
        };
        args.n_groups = kept_groups(p, kept, args.groups);
        args.changing = kept->shift != NULL;
        return p->ops->attention_backward(p->device, &args);
    }
    struct window_attention_backward_args args = {
        .d_out = d_out,
        .qkv = qkv,
        .pad = w->window.pad,
        .table = w->window.table,
        .out = out,
        .lse = lse,
        .d_qkv = shaped(d_qkv, p->n_tokens, 3 * p->width),
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

static struct residual_ends attention_ends(const struct block_pass *p,
                                           const struct block_depth *depth,
                                           const struct block_rows *rows)
{
    return (struct residual_ends){depth->attention_scale, depth->n_samples,
                                  rows->index != NULL ? rows->sample : p->sample, &depth->attention,
                                  &depth->mlp};
}

static struct residual_ends mlp_ends(const struct block_pass *p, const struct block_depth *depth,
                                     const struct block_rows *rows, const struct block_next *next)
{
    return (struct residual_ends){depth->mlp_scale, depth->n_samples,
                                  rows->index != NULL ? rows->sample : p->sample, &depth->mlp,
                                  next->kept};
}

/* From y1 to the hidden activations. */
static enum status to_hidden(const struct block_pass *p, const struct block_weights *w,
                             struct block_state *s, const struct block_depth *depth,
                             const struct block_rows *rows)
{
    int64_t n = rows->n_rows;
    bool chosen = rows->index != NULL;
    struct tensor attention = s->attention, x = s->x, none = absent();
    struct residual_ends ends = attention_ends(p, depth, rows);

    CHECK(!chosen || (depth->attention.shift == NULL && depth->mlp.shift == NULL));
    TRY(linear(p, &w->qkv, s->y1, &depth->attention, p->n_tokens, s->qkv, none, ACTIVATION_NONE));
    TRY(attend(p, w, s, &depth->attention));
    if (chosen) {
        TRY(gather(p, rows, s->x, s->x_rows));
        TRY(gather(p, rows, s->attention, s->attention_rows));
        x = s->x_rows;
        attention = s->attention_rows;
    }
    TRY(linear(p, &w->proj, attention, &depth->attention, n, s->branch, none, ACTIVATION_NONE));
    TRY(residual(p, x, s->branch, &ends, s->sum1, &w->norm2, s->y2, s->mean2, s->rstd2, n));
    return linear(p, &w->fc1, s->y2, &depth->mlp, n, s->hidden, p->backward ? s->pre : none,
                  p->gelu);
}

enum status block_forward(const struct block_pass *p, const struct block_weights *w,
                          struct block_state *s, const struct block_depth *depth,
                          const struct block_rows *rows, const struct block_next *next)
{
    int64_t n = rows->n_rows;

    struct residual_ends ends = mlp_ends(p, depth, rows, next);

    TRY(to_hidden(p, w, s, depth, rows));
    TRY(linear(p, &w->fc2, s->hidden, &depth->mlp, n, s->branch, absent(), ACTIVATION_NONE));
    return residual(p, s->sum1, s->branch, &ends, next->x, &next->norm, next->y, next->mean,
                    next->rstd, n);
}

/* ------------------------------------------------------------------------------ made again */

/* y = norm(x), over n rows, as residual() made it. */
static enum status norm_again(const struct block_pass *p, struct tensor x,
                              const struct affine *norm, struct tensor y,
                              const struct block_depth *depth, const struct block_kept *kept,
                              int64_t n)
{
    struct residual_layernorm_args args = {
        .x = shaped(x, n, p->width),
        .sample = kept->shift != NULL ? tensor_1d(p->sample, DTYPE_I32, n) : absent(),
        .gamma = norm->weight,
        .beta = norm->bias,
        .y = shaped(y, rows_kept(kept, n), p->width),
        .y_shift = shift_of(kept, depth->n_samples),
        .eps = p->eps,
    };
    return p->ops->residual_layernorm_forward(p->device, &args);
}

enum status block_restore(const struct block_pass *p, const struct block_weights *w,
                          struct block_state *s, const struct block_depth *depth,
                          const struct block_rows *rows)
{
    int64_t n = rows->n_rows;

    if (again(p, RECOMPUTE_NORMS))
        TRY(norm_again(p, s->x, &w->norm1, s->y1, depth, &depth->attention, p->n_tokens));
    if (again(p, RECOMPUTE_BLOCKS))
        return to_hidden(p, w, s, depth, rows);
    if (again(p, RECOMPUTE_NORMS))
        TRY(norm_again(p, s->sum1, &w->norm2, s->y2, depth, &depth->mlp, n));
    if (!again(p, RECOMPUTE_GELU))
        return STATUS_OK;
    n = rows_kept(&depth->mlp, n);
    struct activation_args gelu = {
        .x = shaped(s->pre, n, p->hidden),
        .y = shaped(s->hidden, n, p->hidden),
        .activation = p->gelu,
    };
    return p->ops->activation_forward(p->device, &gelu);
}

/* ------------------------------------------------------------------------------ backward */

/* Places of the two sets' weights, of branch 0, of whoever follows the weights; and their branch.
 */
enum { PLACE_CHAIN = 2, PLACE_WEIGHTS = 3, BRANCH_WEIGHTS = 2 };

void block_gradients_begin(struct block_gradients *g)
{
    g->used = g->pending[0] = g->pending[1] = false;
    g->turn = 0;
}

static enum status wait_for_set(struct device *device, struct block_gradients *g, int set)
{
    if (!g->pending[set])
        return STATUS_OK;
    g->pending[set] = false;
    return device->after(device, set);
}

enum status block_gradients_settle(const struct block_pass *p, struct block_gradients *g)
{
    TRY(wait_for_set(p->device, g, 0));
    TRY(wait_for_set(p->device, g, 1));
    g->used = false; /* who follows branch 0 from here on follows them */
    return STATUS_OK;
}

enum status block_gradients_follow(struct device *device, const struct block_gradients *g,
                                   int branch)
{
    if (!g->used)
        return STATUS_OK;
    device->use_branch(device, BRANCH_WEIGHTS);
    enum status status = device->place(device, PLACE_WEIGHTS);
    device->use_branch(device, branch);
    return status == STATUS_OK ? device->after(device, PLACE_WEIGHTS) : status;
}

/* Gradients of weight and bias on their own branch, which goes on from where the chain is. */
static enum status weights_apart(const struct block_pass *p, struct block_gradients *g,
                                 struct linear_backward_args args)
{
    struct device *device = p->device;

    args.d_x = args.d_x_sums = args.pre = absent();
    args.activation = ACTIVATION_NONE;
    TRY(device->place(device, PLACE_CHAIN));
    device->use_branch(device, BRANCH_WEIGHTS);
    enum status status = device->after(device, PLACE_CHAIN);
    if (status == STATUS_OK)
        status = p->ops->linear_backward(device, &args);
    device->use_branch(device, 0);
    g->used = true;
    return status;
}

/* The weights of the block's set end here; the next block has the other one. */
static enum status end_turn(const struct block_pass *p, struct block_gradients *g)
{
    struct device *device = p->device;

    if (!g->apart)
        return STATUS_OK;
    device->use_branch(device, BRANCH_WEIGHTS);
    enum status status = device->place(device, g->turn);
    device->use_branch(device, 0);
    g->pending[g->turn] = true;
    g->turn = 1 - g->turn;
    return status;
}

/* d_bias absent: it is done. d_x_sums: the bias gradient of the layer in front, or absent. */
static enum status linear_back(const struct block_pass *p, struct block_gradients *g,
                               const struct affine *w, struct tensor d_bias, struct tensor d_y,
                               struct tensor x, const struct block_kept *kept, int64_t n,
                               struct tensor pre, struct tensor d_x, struct tensor d_x_sums)
{
    int64_t n_out = w->weight.shape[0], n_in = w->weight.shape[1];
    int64_t most = kept->shift != NULL ? n : 0;

    n = rows_kept(kept, n);
    struct linear_backward_args args = {
        .d_y = shaped(d_y, n, n_out),
        .x = shaped(x, n, n_in),
        .weight = w->weight,
        .pre = pre.data != NULL ? shaped(pre, n, n_in) : absent(),
        .d_x = shaped(d_x, n, n_in),
        .d_weight = w->d_weight,
        .d_bias = d_bias,
        .most_rows = most,
        .d_x_sums = d_x_sums,
        .activation = pre.data != NULL ? p->gelu : ACTIVATION_NONE,
    };
    if (g->apart) {
        TRY(weights_apart(p, g, args));
        args.d_weight = args.d_bias = absent();
    }
    return p->ops->linear_backward(p->device, &args);
}

/* Undoes residual() (d_y absent: without a norm): d_stream is updated in place, the branch's
 * gradient goes to d_branch, that of the bias it ends in to d_bias. */
static enum status residual_back(const struct block_pass *p, struct tensor d_y,
                                 struct tensor d_stream, struct tensor sum, float *mean,
                                 float *rstd, const struct affine *norm,
                                 const struct residual_ends *ends, struct tensor d_branch,
                                 struct tensor d_bias, int64_t n)
{
    struct residual_layernorm_backward_args args = {
        .d_sum = shaped(d_stream, n, p->width),
        .scale = ends->scale != NULL ? vector(ends->scale, ends->n_samples) : absent(),
        .sample = sample_of(ends, n),
        .d_sum_out = shaped(d_stream, n, p->width),
        .d_branch = shaped(d_branch, rows_kept(ends->branch, n), p->width),
        .branch_shift = shift_of(ends->branch, ends->n_samples),
        .d_bias = d_bias,
    };
    if (d_y.data != NULL) {
        args.d_y = shaped(d_y, rows_kept(ends->next, n), p->width);
        args.y_shift = shift_of(ends->next, ends->n_samples);
        args.sum = shaped(sum, n, p->width);
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
    struct residual_ends attention = attention_ends(p, depth, rows);
    struct residual_ends mlp = mlp_ends(p, depth, rows, next);
    int turn = g->turn;
    struct tensor none = absent(), d_attention = g->d_y, d_hidden = g->d_hidden[turn];
    struct tensor d_branch = g->d_branch[turn], d_proj = g->apart ? g->d_proj[turn] : d_branch;

    TRY(wait_for_set(p->device, g, turn));
    TRY(residual_back(p, next->y.data != NULL ? g->d_y : none, g->d_stream, next->x, next->mean,
                      next->rstd, &next->norm, &mlp, d_branch, w->fc2.d_bias, n));
    TRY(linear_back(p, g, &w->fc2, none, d_branch, s->hidden, &depth->mlp, n, s->pre, d_hidden,
                    w->fc1.d_bias));
    TRY(linear_back(p, g, &w->fc1, none, d_hidden, s->y2, &depth->mlp, n, none, g->d_y, none));
    TRY(residual_back(p, g->d_y, g->d_stream, s->sum1, s->mean2, s->rstd2, &w->norm2, &attention,
                      d_proj, w->proj.d_bias, n));
    TRY(linear_back(p, g, &w->proj, none, d_proj, chosen ? s->attention_rows : s->attention,
                    &depth->attention, n, none, g->d_y, none));
    if (chosen) {
        struct tensor full = g->d_rows;
        TRY(scatter(p, rows, g->d_stream, full));
        g->d_rows = g->d_stream;
        g->d_stream = full;
        /* the last block is the first one here: nobody has the other set yet */
        CHECK(!g->pending[1 - turn]);
        d_attention = g->d_branch[g->apart ? 1 - turn : turn];
        TRY(scatter(p, rows, g->d_y, d_attention));
    }
    TRY(attend_back(p, w, s, &depth->attention, d_attention, g->d_qkv[turn]));
    TRY(linear_back(p, g, &w->qkv, w->qkv.d_bias, g->d_qkv[turn], s->y1, &depth->attention,
                    p->n_tokens, none, g->d_y, none));
    return end_turn(p, g);
}
