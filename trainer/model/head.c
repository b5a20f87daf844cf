/* The head, forward and backward. */
#include "trainer/model/head.h"

static const float batchnorm_momentum = 0.1f, head_norm_eps = 1e-5f, unit_eps = 1e-12f;

static struct tensor matrix(float *data, int64_t n, int64_t m)
{
    return tensor_2d(data, DTYPE_F32, n, m);
}

static enum status plan_floats(struct workspace *w, float **pointer, int64_t n)
{
    return workspace_reserve(w, pointer, (size_t)n * sizeof(float));
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

    TRY(plan_floats(w, &l[0].hidden, n * hidden));
    if (head->backward || head->options.norm != HEAD_NORM_NONE)
        TRY(plan_floats(w, &l[0].pre, n * hidden));
    if (head->options.norm == HEAD_NORM_NONE)
        return STATUS_OK;
    TRY(plan_floats(w, &l[0].linear, n * hidden));
    for (int span = 0; span < 2; span++) {
        int64_t statistics = head->options.norm == HEAD_NORM_LN ? n : hidden;
        TRY(plan_floats(w, &l[span].mean, statistics));
        TRY(plan_floats(w, &l[span].rstd, statistics));
    }
    return STATUS_OK;
}

enum status head_plan(struct head *head, struct device *device, const struct op_table *ops,
                      struct collective *collective, const struct head_options *options,
                      int64_t width, int64_t capacity, bool student, struct workspace *w)
{
    int64_t bottleneck = options->bottleneck_dim;

    *head = (struct head){
        .device = device,
        .ops = ops,
        .collective = collective,
        .options = *options,
        .width = width,
        .capacity = capacity,
        .backward = student,
        .shared = student ? options->shared_student : options->shared_teacher,
        .n_spans = 1,
    };
    for (int i = 0; i < 2; i++)
        TRY(plan_layer(head, w, i));
    TRY(plan_floats(w, &head->raw, capacity * bottleneck));
    TRY(plan_floats(w, &head->z, capacity * bottleneck));
    TRY(plan_floats(w, &head->inverse, capacity));
    for (int i = 0; i < (head->shared ? 1 : 2); i++) {
        struct last_layer *last = &head->last[i];
        last->n_out = i == 0 ? options->out_dim : options->patch_out_dim;
        TRY(plan_floats(w, &last->weight, last->n_out * bottleneck));
        TRY(plan_floats(w, &last->inverse, last->n_out));
        if (student)
            TRY(plan_floats(w, &last->d_weight, last->n_out * bottleneck));
    }
    if (student)
        for (int i = 0; i < 2; i++)
            TRY(plan_floats(w, &head->d_hidden[i], capacity * options->hidden_dim));
    if (options->norm == HEAD_NORM_BN) {
        TRY(workspace_reserve(w, &head->moments, 2 * (size_t)options->hidden_dim * sizeof(double)));
        TRY(plan_floats(w, &head->running_mean, options->hidden_dim));
        TRY(plan_floats(w, &head->running_var, options->hidden_dim));
    }
    return STATUS_OK;
}

static struct affine bind(const struct param_table *table, float *parameters, float *gradients,
                          const char *weight, const char *bias)
{
    struct affine affine = {
        .weight = param_tensor(table, parameters, weight),
        .bias = param_tensor(table, parameters, bias),
    };
    if (gradients != NULL) {
        affine.d_weight = param_tensor(table, gradients, weight);
        affine.d_bias = param_tensor(table, gradients, bias);
    }
    return affine;
}

static void bind_last(struct last_layer *last, const struct param_table *table, float *parameters,
                      float *gradients, const char *gain, const char *direction)
{
    last->gain = param_tensor(table, parameters, gain);
    last->direction = param_tensor(table, parameters, direction);
    if (gradients == NULL)
        return;
    last->d_direction = param_tensor(table, gradients, direction);
    if (!(table->params[param_find(table, gain)].flags & SEGMENT_FIXED))
        last->d_gain = param_tensor(table, gradients, gain);
}

enum status head_bind(struct head *head, const struct param_table *table, float *parameters,
                      float *gradients)
{
    bool norm = head->options.norm != HEAD_NORM_NONE;
    int64_t hidden = head->options.hidden_dim;

    head->mlp[0] = bind(table, parameters, gradients, "head.mlp.0.weight", "head.mlp.0.bias");
    head->mlp[1] =
        bind(table, parameters, gradients, norm ? "head.mlp.3.weight" : "head.mlp.2.weight",
             norm ? "head.mlp.3.bias" : "head.mlp.2.bias");
    head->mlp[2] =
        bind(table, parameters, gradients, norm ? "head.mlp.6.weight" : "head.mlp.4.weight",
             norm ? "head.mlp.6.bias" : "head.mlp.4.bias");
    if (norm)
        head->norm = bind(table, parameters, gradients, "head.mlp.1.weight", "head.mlp.1.bias");
    bind_last(&head->last[0], table, parameters, gradients, "head.last_layer.weight_g",
              "head.last_layer.weight_v");
    if (!head->shared)
        bind_last(&head->last[1], table, parameters, gradients, "head.last_layer2.weight_g",
                  "head.last_layer2.weight_v");
    for (int layer = 0; layer < 2; layer++) {
        struct head_layer *l = head->layers[layer];
        l[1].hidden = l[0].hidden;
        l[1].pre = l[0].pre;
        l[1].linear = l[0].linear;
    }
    if (head->options.norm != HEAD_NORM_BN)
        return STATUS_OK;
    for (int64_t j = 0; j < hidden; j++) {
        float one = 1.0f;
        TRY(head->device->copy_in(head->device, head->running_var + j, &one, sizeof(one)));
    }
    return STATUS_OK;
}

enum status head_prepare(struct head *head)
{
    int64_t bottleneck = head->options.bottleneck_dim;

    for (int i = 0; i < (head->shared ? 1 : 2); i++) {
        struct last_layer *last = &head->last[i];
        struct weight_norm_args args = {
            .direction = last->direction,
            .gain = tensor_1d(last->gain.data, DTYPE_F32, last->n_out),
            .weight = matrix(last->weight, last->n_out, bottleneck),
            .inverse = tensor_1d(last->inverse, DTYPE_F32, last->n_out),
        };
        TRY(head->ops->weight_norm_forward(head->device, &args));
        if (last->d_weight != NULL)
            TRY(head->device->zero(head->device, last->d_weight,
                                   (size_t)(last->n_out * bottleneck) * sizeof(float)));
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
    struct batchnorm_moments_args measure = {matrix(l->linear + first, n, hidden), moments};
    struct batchnorm_apply_args apply = {
        .x = measure.x,
        .moments = moments,
        .gamma = head->norm.weight,
        .beta = head->norm.bias,
        .y = matrix(l->hidden + first, n, hidden),
        .pre = matrix(l->pre + first, n, hidden),
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
        .x = matrix(l->linear, n, hidden),
        .gamma = head->norm.weight,
        .beta = head->norm.bias,
        .y = matrix(l->pre, n, hidden),
        .mean = tensor_1d(l->mean, DTYPE_F32, n),
        .rstd = tensor_1d(l->rstd, DTYPE_F32, n),
        .eps = head_norm_eps,
    };
    struct activation_args act = {norm.y, matrix(l->hidden, n, hidden), head->options.activation};
    TRY(head->ops->residual_layernorm_forward(head->device, &norm));
    return head->ops->activation_forward(head->device, &act);
}

/* Gradient before the norm, in place of the one after it. */
static enum status norm_backward(struct head *head, struct head_layer *l, float *d, int64_t n)
{
    int64_t hidden = head->options.hidden_dim;

    if (head->options.norm == HEAD_NORM_LN) {
        struct residual_layernorm_backward_args args = {
            .d_y = matrix(d, n, hidden),
            .sum = matrix(l->linear, n, hidden),
            .mean = tensor_1d(l->mean, DTYPE_F32, n),
            .rstd = tensor_1d(l->rstd, DTYPE_F32, n),
            .gamma = head->norm.weight,
            .d_sum_out = matrix(d, n, hidden),
            .d_gamma = head->norm.d_weight,
            .d_beta = head->norm.d_bias,
        };
        return head->ops->residual_layernorm_backward(head->device, &args);
    }
    for (int32_t s = 0; s < head->n_spans; s++) {
        int64_t first = head->spans[s].first * hidden, rows = head->spans[s].n;
        struct tensor moments = {head->moments, DTYPE_F64, 2, {2, hidden}};
        struct batchnorm_backward_moments_args measure = {
            .d_y = matrix(d + first, rows, hidden),
            .x = matrix(l->linear + first, rows, hidden),
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
static enum status hidden_layer(struct head *head, int layer, float *x, int32_t s, int64_t first,
                                int64_t n)
{
    struct head_layer *l = head->layers[layer];
    const struct affine *w = &head->mlp[layer];
    bool norm = head->options.norm != HEAD_NORM_NONE;
    int64_t hidden = head->options.hidden_dim, n_in = w->weight.shape[1], at = first * hidden;
    struct linear_args args = {
        .x = matrix(x + first * n_in, n, n_in),
        .weight = w->weight,
        .bias = w->bias,
        .y = matrix((norm ? l->linear : l->hidden) + at, n, hidden),
        .pre = !norm && l->pre != NULL ? matrix(l->pre + at, n, hidden) : (struct tensor){0},
        .activation = norm ? ACTIVATION_NONE : head->options.activation,
    };
    TRY(head->ops->linear_forward(head->device, &args));
    if (head->options.norm == HEAD_NORM_LN)
        return layernorm(head, l, n);
    return norm ? batchnorm(head, l, s) : STATUS_OK;
}

enum status head_forward(struct head *head, float *x, int64_t n)
{
    int64_t bottleneck = head->options.bottleneck_dim, hidden = head->options.hidden_dim;
    bool by_span = head->options.norm == HEAD_NORM_BN;
    int32_t n_spans = by_span ? head->n_spans : 1;

    CHECK(n <= head->capacity);
    for (int32_t s = 0; s < n_spans; s++) { /* in the original's order: statistics are shared */
        int64_t first = by_span ? head->spans[s].first : 0, rows = by_span ? head->spans[s].n : n;
        TRY(hidden_layer(head, 0, x, s, first, rows));
        TRY(hidden_layer(head, 1, head->layers[0]->hidden, s, first, rows));
    }
    struct linear_args last = {
        .x = matrix(head->layers[1]->hidden, n, hidden),
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
static enum status linear_back(struct head *head, int i, float *d_y, float *x, float *pre,
                               float *d_x, int64_t n)
{
    const struct affine *w = &head->mlp[i];
    struct linear_backward_args args = {
        .d_y = matrix(d_y, n, w->weight.shape[0]),
        .x = matrix(x, n, w->weight.shape[1]),
        .weight = w->weight,
        .pre = pre != NULL ? matrix(pre, n, w->weight.shape[1]) : (struct tensor){0},
        .d_x = matrix(d_x, n, w->weight.shape[1]),
        .d_weight = w->d_weight,
        .d_bias = w->d_bias,
        .activation = pre != NULL ? head->options.activation : ACTIVATION_NONE,
    };
    return head->ops->linear_backward(head->device, &args);
}

enum status head_backward(struct head *head, float *x, float *d_z, float *d_x, int64_t n)
{
    int64_t bottleneck = head->options.bottleneck_dim;
    struct head_layer *first = head->layers[0], *second = head->layers[1];
    bool norm = head->options.norm != HEAD_NORM_NONE;
    struct unit_norm_backward_args unit = {
        .d_y = matrix(d_z, n, bottleneck),
        .y = matrix(head->z, n, bottleneck),
        .inverse = tensor_1d(head->inverse, DTYPE_F32, n),
        .d_x = matrix(d_z, n, bottleneck),
    };

    TRY(head->ops->unit_norm_backward(head->device, &unit));
    TRY(linear_back(head, 2, d_z, second->hidden, second->pre, head->d_hidden[0], n));
    if (norm)
        TRY(norm_backward(head, second, head->d_hidden[0], n));
    TRY(linear_back(head, 1, head->d_hidden[0], first->hidden, first->pre, head->d_hidden[1], n));
    if (norm)
        TRY(norm_backward(head, first, head->d_hidden[1], n));
    return linear_back(head, 0, head->d_hidden[1], x, NULL, d_x, n);
}

/* ------------------------------------------------------------------------------ last layers */

enum status head_logits(struct head *head, bool patch, float *z, int64_t n, float *logits)
{
    struct last_layer *last = layer_for(head, patch);
    int64_t bottleneck = head->options.bottleneck_dim;
    struct linear_args args = {
        .x = matrix(z, n, bottleneck),
        .weight = matrix(last->weight, last->n_out, bottleneck),
        .y = matrix(logits, n, last->n_out),
    };
    return n > 0 ? head->ops->linear_forward(head->device, &args) : STATUS_OK;
}

enum status head_logits_backward(struct head *head, bool patch, float *d_logits, float *z,
                                 int64_t n, float *d_z)
{
    struct last_layer *last = layer_for(head, patch);
    int64_t bottleneck = head->options.bottleneck_dim;
    struct linear_backward_args args = {
        .d_y = matrix(d_logits, n, last->n_out),
        .x = matrix(z, n, bottleneck),
        .weight = matrix(last->weight, last->n_out, bottleneck),
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
