/* The head, forward and backward. */
#include "trainer/model/head.h"

#include "proto/base/memory.h"

static const float batchnorm_momentum = 0.1f, head_norm_eps = 1e-5f, unit_eps = 1e-12f;

/* Hidden layers; and whether there is anything behind them. */
static int n_hidden(const struct head *head)
{
    return head->options.n_layers == 1 ? 1 : 2;
}

static bool is_whole(const struct head *head)
{
    return head->options.n_layers == 0;
}

struct head_layer *head_last_hidden(struct head *head)
{
    return head->layers[n_hidden(head) - 1];
}

static struct last_layer *layer_for(struct head *head, bool patch)
{
    return &head->last[patch && !head->shared];
}

/* ------------------------------------------------------------------------------ planning */

static enum status plan_layer(struct head *head, struct workspace *w, int layer)
{
    int64_t n = head->capacity, hidden = head->options.hidden_dim;
    struct head_layer *l = head->layers[layer];

    TRY(plan_buffer(w, &l[0].hidden, head->dtype, n * hidden));
    if (head->backward || head->options.norm != HEAD_NORM_NONE)
        TRY(plan_buffer(w, &l[0].pre, head->dtype, n * hidden));
    if (head->options.norm == HEAD_NORM_NONE)
        return STATUS_OK;
    TRY(plan_buffer(w, &l[0].linear, head->options.norm == HEAD_NORM_LN ? DTYPE_F32 : head->dtype,
                    n * hidden));
    for (int span = 0; span < 2; span++) {
        int64_t statistics = head->options.norm == HEAD_NORM_LN ? n : hidden;
        TRY(plan_floats(w, &l[span].mean, statistics));
        TRY(plan_floats(w, &l[span].rstd, statistics));
    }
    return STATUS_OK;
}

static enum status plan_last(struct head *head, struct workspace *w, int i)
{
    struct last_layer *last = &head->last[i];
    const struct head_options *o = &head->options;
    int64_t n;

    last->n_out = i == 0 ? o->out_dim : o->patch_out_dim;
    n = last->n_out * o->bottleneck_dim;
    TRY(plan_floats(w, &last->weight, n));
    TRY(plan_floats(w, &last->inverse, last->n_out));
    if (head->backward)
        TRY(plan_floats(w, &last->d_weight, n));
    if (head->dtype == DTYPE_F32)
        return STATUS_OK;
    if (head->backward)
        TRY(plan_buffer(w, &last->weight_bf16, DTYPE_BF16, n));
    return plan_buffer(w, &last->weight_f16, DTYPE_F16, n);
}

static enum status plan_backward(struct head *head, struct workspace *w)
{
    int64_t n = head->capacity, hidden = head->options.hidden_dim;

    for (int i = 0; i < 2; i++)
        TRY(plan_buffer(w, &head->d_hidden[i], head->dtype, n * hidden));
    if (head->dtype == DTYPE_F32)
        return STATUS_OK;
    if (head->options.norm == HEAD_NORM_LN)
        TRY(plan_floats(w, &head->d_linear, n * hidden));
    if (!is_whole(head))
        return STATUS_OK;
    return plan_buffer(w, &head->d_raw, head->dtype, n * head->options.bottleneck_dim);
}

enum status head_plan(struct head *head, struct device *device, const struct op_table *ops,
                      struct collective *collective, const struct head_options *options,
                      enum dtype dtype, int64_t width, int64_t capacity, bool student,
                      struct workspace *w)
{
    int64_t bottleneck = options->bottleneck_dim;

    *head = (struct head){
        .device = device,
        .ops = ops,
        .collective = collective,
        .options = *options,
        .width = width,
        .capacity = capacity,
        .dtype = dtype,
        .backward = student,
        .shared = student ? options->shared_student : options->shared_teacher,
        .n_spans = 1,
    };
    for (int i = 0; i < n_hidden(head); i++)
        TRY(plan_layer(head, w, i));
    if (is_whole(head)) {
        TRY(plan_floats(w, &head->raw, capacity * bottleneck));
        TRY(plan_floats(w, &head->z, capacity * bottleneck));
        TRY(plan_floats(w, &head->inverse, capacity));
        for (int i = 0; i < (head->shared ? 1 : 2); i++)
            TRY(plan_last(head, w, i));
    }
    if (student)
        TRY(plan_backward(head, w));
    if (options->norm == HEAD_NORM_BN) {
        TRY(workspace_reserve(w, &head->moments, 2 * (size_t)options->hidden_dim * sizeof(double)));
        TRY(plan_floats(w, &head->running_mean, options->hidden_dim));
        TRY(plan_floats(w, &head->running_var, options->hidden_dim));
    }
    return STATUS_OK;
}

enum status head_plan_vectors(struct head_vectors *vectors, enum dtype dtype, int64_t n,
                              bool backward, struct workspace *w)
{
    if (dtype == DTYPE_F32)
        return STATUS_OK;
    if (backward)
        TRY(plan_buffer(w, &vectors->bf16, DTYPE_BF16, n));
    return plan_buffer(w, &vectors->f16, DTYPE_F16, n);
}

static void bind_last(struct last_layer *last, const struct binder *b, const char *gain,
                      const char *direction)
{
    last->gain = binder_parameter(b, gain);
    last->direction = binder_parameter(b, direction);
    last->d_direction = binder_gradient(b, direction);
    if (!(b->table->params[param_find(b->table, gain)].flags & SEGMENT_FIXED))
        last->d_gain = binder_gradient(b, gain);
}

/* Running variances begin at 1, running means at 0. */
static enum status fill_running_var(struct head *head)
{
    size_t n = (size_t)head->options.hidden_dim;
    float *ones;

    TRY(memory_alloc(&ones, n, sizeof(*ones), "running variances"));
    for (size_t j = 0; j < n; j++)
        ones[j] = 1.0f;
    enum status status =
        head->device->copy_in(head->device, head->running_var, ones, n * sizeof(*ones));
    if (status == STATUS_OK)
        status = head->device->synchronize(head->device);
    memory_free(ones);
    return status;
}

enum status head_bind(struct head *head, const struct binder *b)
{
    bool norm = head->options.norm != HEAD_NORM_NONE;
    /* what an LN reads is float32 */
    struct affine (*layer)(const struct binder *, const char *) =
        head->options.norm == HEAD_NORM_LN ? binder_wide_layer : binder_layer;

    head->mlp[0] = layer(b, "head.mlp.0");
    if (n_hidden(head) > 1)
        head->mlp[1] = layer(b, norm ? "head.mlp.3" : "head.mlp.2");
    if (norm)
        head->norm = binder_affine(b, "head.mlp.1");
    if (is_whole(head)) {
        head->mlp[2] = binder_wide_layer(b, norm ? "head.mlp.6" : "head.mlp.4");
        bind_last(&head->last[0], b, "head.last_layer.weight_g", "head.last_layer.weight_v");
    }
    if (is_whole(head) && !head->shared)
        bind_last(&head->last[1], b, "head.last_layer2.weight_g", "head.last_layer2.weight_v");
    for (int i = 0; i < 2; i++) {
        struct head_layer *l = head->layers[i];
        l[1].hidden = l[0].hidden;
        l[1].pre = l[0].pre;
        l[1].linear = l[0].linear;
    }
    return head->options.norm == HEAD_NORM_BN ? fill_running_var(head) : STATUS_OK;
}

/* to = from in another type; nothing where there is no such copy. */
static enum status copy_as(struct head *head, float *from, struct tensor to, int64_t n)
{
    struct cast_args args = {vector(from, n), tensor_1d(to.data, to.dtype, n)};
    return to.data != NULL && n > 0 ? head->ops->cast(head->device, &args) : STATUS_OK;
}

enum status head_prepare(struct head *head)
{
    int64_t bottleneck = head->options.bottleneck_dim;

    for (int i = 0; i < (head->shared ? 1 : 2); i++) {
        struct last_layer *last = &head->last[i];
        int64_t n = last->n_out * bottleneck;
        struct weight_norm_args args = {
            .direction = last->direction,
            .gain = tensor_1d(last->gain.data, DTYPE_F32, last->n_out),
            .weight = matrix(last->weight, last->n_out, bottleneck),
            .inverse = tensor_1d(last->inverse, DTYPE_F32, last->n_out),
        };
        TRY(head->ops->weight_norm_forward(head->device, &args));
        TRY(copy_as(head, last->weight, last->weight_f16, n));
        TRY(copy_as(head, last->weight, last->weight_bf16, n));
        if (last->d_weight != NULL)
            TRY(head->device->zero(head->device, last->d_weight, (size_t)n * sizeof(float)));
    }
    return STATUS_OK;
}

/* ------------------------------------------------------------------------------ norms */

static enum status sum_over_ranks(struct head *head)
{
    struct tensor moments = tensor_1d(head->moments, DTYPE_F64, 2 * head->options.hidden_dim);
    return head->collective->all_reduce(head->collective, head->device, &moments);
}

/* linear -> pre and hidden, for the rows of one span. */
static enum status batchnorm(struct head *head, struct head_layer *l, int32_t s)
{
    int64_t hidden = head->options.hidden_dim;
    int64_t first = head->spans[s].first * hidden, n = head->spans[s].n;
    struct tensor moments = {head->moments, DTYPE_F64, 2, {2, hidden}};
    struct batchnorm_moments_args measure = {shaped_from(l->linear, first, n, hidden), moments};
    struct batchnorm_apply_args apply = {
        .x = measure.x,
        .moments = moments,
        .gamma = head->norm.weight,
        .beta = head->norm.bias,
        .y = shaped_from(l->hidden, first, n, hidden),
        .pre = shaped_from(l->pre, first, n, hidden),
        .mean = tensor_1d(l[s].mean, DTYPE_F32, hidden),
        .rstd = tensor_1d(l[s].rstd, DTYPE_F32, hidden),
        .n_rows = n * head->collective->world,
        .eps = head_norm_eps,
        .momentum = batchnorm_momentum,
        .activation = head->options.activation,
    };

    if (!head->keep_running) {
        apply.running_mean = tensor_1d(head->running_mean, DTYPE_F32, hidden);
        apply.running_var = tensor_1d(head->running_var, DTYPE_F32, hidden);
    }
    TRY(head->ops->batchnorm_moments(head->device, &measure));
    TRY(sum_over_ranks(head));
    return head->ops->batchnorm_apply(head->device, &apply);
}

static enum status layernorm(struct head *head, struct head_layer *l, int64_t n)
{
    int64_t hidden = head->options.hidden_dim;
    struct residual_layernorm_args norm = {
        .x = shaped(l->linear, n, hidden),
        .gamma = head->norm.weight,
        .beta = head->norm.bias,
        .y = shaped(l->pre, n, hidden),
        .mean = tensor_1d(l->mean, DTYPE_F32, n),
        .rstd = tensor_1d(l->rstd, DTYPE_F32, n),
        .eps = head_norm_eps,
    };
    struct activation_args act = {norm.y, shaped(l->hidden, n, hidden), head->options.activation};
    TRY(head->ops->residual_layernorm_forward(head->device, &norm));
    return head->ops->activation_forward(head->device, &act);
}

/* Gradient before the norm, in place of the one after it. */
static enum status norm_backward(struct head *head, struct head_layer *l, struct tensor d,
                                 int64_t n)
{
    int64_t hidden = head->options.hidden_dim;

    if (head->options.norm == HEAD_NORM_LN) {
        bool wide = head->dtype == DTYPE_F32;
        struct residual_layernorm_backward_args args = {
            .d_y = shaped(d, n, hidden),
            .sum = shaped(l->linear, n, hidden),
            .mean = tensor_1d(l->mean, DTYPE_F32, n),
            .rstd = tensor_1d(l->rstd, DTYPE_F32, n),
            .gamma = head->norm.weight,
            .d_sum_out = wide ? shaped(d, n, hidden) : matrix(head->d_linear, n, hidden),
            .d_gamma = head->norm.d_weight,
            .d_beta = head->norm.d_bias,
        };
        TRY(head->ops->residual_layernorm_backward(head->device, &args));
        return wide ? STATUS_OK : copy_as(head, head->d_linear, d, n * hidden);
    }
    for (int32_t s = 0; s < head->n_spans; s++) {
        int64_t first = head->spans[s].first * hidden, rows = head->spans[s].n;
        struct tensor moments = {head->moments, DTYPE_F64, 2, {2, hidden}};
        struct batchnorm_backward_moments_args measure = {
            .d_y = shaped_from(d, first, rows, hidden),
            .x = shaped_from(l->linear, first, rows, hidden),
            .mean = tensor_1d(l[s].mean, DTYPE_F32, hidden),
            .rstd = tensor_1d(l[s].rstd, DTYPE_F32, hidden),
            .moments = moments,
            .d_gamma = head->norm.d_weight,
            .d_beta = head->norm.d_bias,
        };
        struct batchnorm_backward_apply_args apply = {
            .d_y = measure.d_y,
            .x = measure.x,
            .mean = measure.mean,
            .rstd = measure.rstd,
            .gamma = head->norm.weight,
            .moments = moments,
            .d_x = measure.d_y,
            .n_rows = rows * head->collective->world,
        };
        TRY(head->ops->batchnorm_backward_moments(head->device, &measure));
        TRY(sum_over_ranks(head));
        TRY(head->ops->batchnorm_backward_apply(head->device, &apply));
    }
    return STATUS_OK;
}

/* ------------------------------------------------------------------------------ MLP */

/* One hidden layer, for `n` rows from `first` on, which are span `s` of the batch norm. */
static enum status hidden_layer(struct head *head, int layer, struct tensor x, int32_t s,
                                int64_t first, int64_t n)
{
    struct head_layer *l = head->layers[layer];
    const struct affine *w = &head->mlp[layer];
    bool norm = head->options.norm != HEAD_NORM_NONE;
    int64_t hidden = head->options.hidden_dim, n_in = w->weight.shape[1], at = first * hidden;
    struct linear_args args = {
        .x = shaped_from(x, first * n_in, n, n_in),
        .weight = w->weight,
        .bias = w->bias,
        .y = shaped_from(norm ? l->linear : l->hidden, at, n, hidden),
        .activation = norm ? ACTIVATION_NONE : head->options.activation,
    };
    if (!norm && l->pre.data != NULL)
        args.pre = shaped_from(l->pre, at, n, hidden);
    TRY(head->ops->linear_forward(head->device, &args));
    if (head->options.norm == HEAD_NORM_LN)
        return layernorm(head, l, n);
    return norm ? batchnorm(head, l, s) : STATUS_OK;
}

enum status head_hidden_forward(struct head *head, struct tensor x, int64_t n)
{
    bool by_span = head->options.norm == HEAD_NORM_BN;
    int32_t n_spans = by_span ? head->n_spans : 1;

    CHECK(n <= head->capacity);
    for (int32_t s = 0; s < n_spans; s++) { /* in the original's order: statistics are shared */
        int64_t first = by_span ? head->spans[s].first : 0, rows = by_span ? head->spans[s].n : n;
        TRY(hidden_layer(head, 0, x, s, first, rows));
        if (n_hidden(head) > 1)
            TRY(hidden_layer(head, 1, head->layers[0]->hidden, s, first, rows));
    }
    return STATUS_OK;
}

enum status head_forward(struct head *head, struct tensor x, int64_t n)
{
    int64_t bottleneck = head->options.bottleneck_dim, hidden = head->options.hidden_dim;

    TRY(head_hidden_forward(head, x, n));
    struct linear_args last = {
        .x = shaped(head->layers[1]->hidden, n, hidden),
        .weight = head->mlp[2].weight,
        .bias = head->mlp[2].bias,
        .y = matrix(head->raw, n, bottleneck),
    };
    struct unit_norm_args unit = {
        .x = last.y,
        .y = matrix(head->z, n, bottleneck),
        .inverse = tensor_1d(head->inverse, DTYPE_F32, n),
        .eps = unit_eps,
    };
    TRY(head->ops->linear_forward(head->device, &last));
    return head->ops->unit_norm_forward(head->device, &unit);
}

/* d_y of linear `i` -> gradient of its input, through the activation that made the input. */
static enum status linear_back(struct head *head, int i, struct tensor d_y, struct tensor x,
                               struct tensor pre, struct tensor d_x, int64_t n)
{
    const struct affine *w = &head->mlp[i];
    struct linear_backward_args args = {
        .d_y = shaped(d_y, n, w->weight.shape[0]),
        .x = shaped(x, n, w->weight.shape[1]),
        .weight = w->weight,
        .d_x = shaped(d_x, n, w->weight.shape[1]),
        .d_weight = w->d_weight,
        .d_bias = w->d_bias,
    };
    if (pre.data != NULL) {
        args.pre = shaped(pre, n, w->weight.shape[1]);
        args.activation = head->options.activation;
    }
    return head->ops->linear_backward(head->device, &args);
}

enum status head_hidden_backward(struct head *head, struct tensor x, struct tensor d_x, int64_t n)
{
    bool norm = head->options.norm != HEAD_NORM_NONE;
    struct head_layer *first = head->layers[0];
    struct tensor d = head->d_hidden[0], none = {0};

    if (n_hidden(head) > 1) {
        if (norm)
            TRY(norm_backward(head, head->layers[1], d, n));
        TRY(linear_back(head, 1, d, first->hidden, first->pre, head->d_hidden[1], n));
        d = head->d_hidden[1];
    }
    if (norm)
        TRY(norm_backward(head, first, d, n));
    return linear_back(head, 0, d, x, none, d_x, n);
}

enum status head_backward(struct head *head, struct tensor x, float *d_z, struct tensor d_x,
                          int64_t n)
{
    int64_t bottleneck = head->options.bottleneck_dim;
    struct head_layer *second = head->layers[1];
    struct tensor d_raw = head->dtype == DTYPE_F32 ? vector(d_z, 0) : head->d_raw;
    struct unit_norm_backward_args unit = {
        .d_y = matrix(d_z, n, bottleneck),
        .y = matrix(head->z, n, bottleneck),
        .inverse = tensor_1d(head->inverse, DTYPE_F32, n),
        .d_x = matrix(d_z, n, bottleneck),
    };

    TRY(head->ops->unit_norm_backward(head->device, &unit));
    TRY(copy_as(head, d_z, head->d_raw, n * bottleneck));
    TRY(linear_back(head, 2, d_raw, second->hidden, second->pre, head->d_hidden[0], n));
    return head_hidden_backward(head, x, d_x, n);
}

/* ------------------------------------------------------------------------------ last layers */

enum status head_copy_vectors(struct head *head, const struct head_vectors *vectors, int64_t n)
{
    TRY(copy_as(head, vectors->z, vectors->f16, n * head->options.bottleneck_dim));
    return copy_as(head, vectors->z, vectors->bf16, n * head->options.bottleneck_dim);
}

static enum status multiply(struct head *head, struct tensor z, struct tensor weight, float *logits)
{
    struct linear_args args = {
        .x = z,
        .weight = weight,
        .y = matrix(logits, z.shape[0], weight.shape[0]),
    };
    return z.shape[0] > 0 ? head->ops->linear_forward(head->device, &args) : STATUS_OK;
}

enum status head_exact_logits(struct head *head, bool patch, float *z, int64_t n, float *logits)
{
    struct last_layer *last = layer_for(head, patch);
    int64_t bottleneck = head->options.bottleneck_dim;
    return multiply(head, matrix(z, n, bottleneck), matrix(last->weight, last->n_out, bottleneck),
                    logits);
}

enum status head_logits(struct head *head, bool patch, const struct head_vectors *vectors,
                        int64_t first, int64_t n, float *logits)
{
    struct last_layer *last = layer_for(head, patch);
    int64_t bottleneck = head->options.bottleneck_dim;

    if (vectors->f16.data == NULL)
        return head_exact_logits(head, patch, vectors->z + first * bottleneck, n, logits);
    return multiply(head, shaped_from(vectors->f16, first * bottleneck, n, bottleneck),
                    shaped(last->weight_f16, last->n_out, bottleneck), logits);
}

enum status head_logits_backward(struct head *head, bool patch, struct tensor d_logits,
                                 const struct head_vectors *vectors, int64_t first, int64_t n,
                                 float *d_z)
{
    struct last_layer *last = layer_for(head, patch);
    int64_t bottleneck = head->options.bottleneck_dim;
    bool half = vectors->bf16.data != NULL;
    struct tensor z = half ? vectors->bf16 : vector(vectors->z, 0);
    struct tensor weight = half ? last->weight_bf16 : vector(last->weight, 0);
    struct linear_backward_args args = {
        .d_y = shaped(d_logits, n, last->n_out),
        .x = shaped_from(z, first * bottleneck, n, bottleneck),
        .weight = shaped(weight, last->n_out, bottleneck),
        .d_x = matrix(d_z, n, bottleneck),
        .d_weight = matrix(last->d_weight, last->n_out, bottleneck),
    };
    return n > 0 ? head->ops->linear_backward(head->device, &args) : STATUS_OK;
}

enum status head_finish(struct head *head)
{
    int64_t bottleneck = head->options.bottleneck_dim;

    for (int i = 0; i < (head->shared ? 1 : 2); i++) {
        struct last_layer *last = &head->last[i];
        struct weight_norm_backward_args args = {
            .d_weight = matrix(last->d_weight, last->n_out, bottleneck),
            .direction = last->direction,
            .gain = tensor_1d(last->gain.data, DTYPE_F32, last->n_out),
            .inverse = tensor_1d(last->inverse, DTYPE_F32, last->n_out),
            .d_direction = last->d_direction,
        };
        if (last->d_gain.data != NULL)
            args.d_gain = tensor_1d(last->d_gain.data, DTYPE_F32, last->n_out);
        TRY(head->ops->weight_norm_backward(head->device, &args));
    }
    return STATUS_OK;
}
