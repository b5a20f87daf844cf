/* The layers of a classifier: backbone, pooling, head, linear layer; and all of it backwards. */
#include "trainer/model/classifier_internal.h"

static int64_t batch_of(const struct classifier *c)
{
    return c->options.batch_size;
}

static bool has_whole_head(const struct classifier *c)
{
    return c->options.n_head_layers > 0 && c->options.head.n_layers == 0;
}

enum status classifier_copy_as(struct classifier *c, float *from, struct tensor to, int64_t n)
{
    struct cast_args args = {vector(from, n), tensor_1d(to.data, to.dtype, n)};

    return c->dtype == DTYPE_F32 ? STATUS_OK : c->ops->cast(c->device, &args);
}

void classifier_set_depth(struct classifier *c, bool random)
{
    float *at = c->tables.depth;

    for (int32_t i = 0; i < c->options.backbone.depth; i++) {
        struct block_depth *depth = &c->backbone.depths[i];
        bool draws = backbone_drop_rate(&c->options.backbone, i) > 0.0f;
        if (!draws || !random) {
            *depth = (struct block_depth){0};
        } else {
            depth->attention_scale = at;
            depth->mlp_scale = at + batch_of(c);
            depth->n_samples = batch_of(c);
        }
        at += draws ? 2 * batch_of(c) : 0;
    }
}

/* ------------------------------------------------------------------------------ pooling */

/* The last block's tokens as maps, with the means before them. */
static void map_of(const struct classifier *c, struct region_group *group)
{
    const struct backbone_group *tokens = &c->backbone.groups[0];
    int64_t side = c->options.image_size_px / c->options.backbone.patch_size_px;

    *group = (struct region_group){0, tokens->n_images, side};
}

static enum status pool_means(struct classifier *c)
{
    struct mean_pooling *m = &c->pooling;
    int64_t b = batch_of(c), d = c->backbone.width;
    struct region_mean_args mean = {
        .x = shaped(c->backbone.features, c->backbone.rows.n_rows, d),
        .y = shaped(m->rows, c->backbone.n_tokens, d),
        .n_groups = 1,
    };
    struct rows_gather_args gather = {mean.y, tensor_1d(m->index, DTYPE_I32, b),
                                      shaped(m->pooled, b, d)};
    struct residual_layernorm_args norm = {
        .x = gather.to,
        .gamma = m->norm.weight,
        .beta = m->norm.bias,
        .y = shaped(m->normed, b, d),
        .mean = vector(m->mean, b),
        .rstd = vector(m->rstd, b),
        .eps = c->options.backbone.layer_norm_eps,
    };

    map_of(c, &mean.groups[0]);
    TRY(c->ops->region_mean(c->device, &mean));
    TRY(c->ops->rows_gather(c->device, &gather));
    return c->ops->residual_layernorm_forward(c->device, &norm);
}

/* d_normed -> gradient of the last block's stream. */
static enum status pool_means_back(struct classifier *c)
{
    struct mean_pooling *m = &c->pooling;
    int64_t b = batch_of(c), d = c->backbone.width;
    struct residual_layernorm_backward_args norm = {
        .d_y = shaped(m->d_normed, b, d),
        .sum = shaped(m->pooled, b, d),
        .mean = vector(m->mean, b),
        .rstd = vector(m->rstd, b),
        .gamma = m->norm.weight,
        .d_sum_out = shaped(m->d_pooled, b, d),
        .d_gamma = m->norm.d_weight,
        .d_beta = m->norm.d_bias,
    };
    struct rows_scatter_args scatter = {norm.d_sum_out, tensor_1d(m->index, DTYPE_I32, b),
                                        shaped(m->d_rows, c->backbone.n_tokens, d), true};
    struct region_mean_backward_args mean = {
        .d_y = scatter.to,
        .d_x = shaped(backbone_d_features(&c->backbone), c->backbone.rows.n_rows, d),
        .n_groups = 1,
    };

    map_of(c, &mean.groups[0]);
    TRY(c->ops->residual_layernorm_backward(c->device, &norm));
    TRY(c->ops->rows_scatter(c->device, &scatter));
    return c->ops->region_mean_backward(c->device, &mean);
}

/* What pooling makes [B, D], and where its gradient goes. */
static struct tensor pooled(struct classifier *c, bool gradient)
{
    int64_t b = batch_of(c), d = c->backbone.width;

    if (classifier_norms_mean(&c->options))
        return shaped(gradient ? c->pooling.d_normed : c->pooling.normed, b, d);
    return shaped(gradient ? backbone_d_features(&c->backbone) : c->backbone.features, b, d);
}

/* ------------------------------------------------------------------------------ head */

static enum status head_logits_of(struct classifier *c)
{
    int64_t b = batch_of(c);

    TRY(head_prepare(&c->head));
    TRY(head_forward(&c->head, pooled(c, false), b));
    c->z.z = c->head.z;
    TRY(head_copy_vectors(&c->head, &c->z, b));
    TRY(head_logits(&c->head, false, &c->z, 0, b, c->projection));
    return classifier_copy_as(c, c->projection, c->projected, b * c->options.head.out_dim);
}

static enum status head_logits_of_back(struct classifier *c)
{
    int64_t b = batch_of(c);

    TRY(head_logits_backward(&c->head, false, c->d_projected, &c->z, 0, b, c->d_z));
    TRY(head_finish(&c->head));
    return head_backward(&c->head, pooled(c, false), c->d_z, pooled(c, true), b);
}

/* What the linear layer takes. */
static struct tensor classified(struct classifier *c)
{
    if (c->options.n_head_layers == 0)
        return pooled(c, false);
    return has_whole_head(c) ? c->projected : head_last_hidden(&c->head)->hidden;
}

enum status classifier_forward(struct classifier *c, bool random)
{
    int64_t b = batch_of(c), width = classifier_width(&c->options);

    if (classifier_is_dense(&c->options))
        return dense_forward(c, random);
    classifier_set_depth(c, random);
    TRY(backbone_forward(&c->backbone, NULL));
    if (classifier_norms_mean(&c->options))
        TRY(pool_means(c));
    if (has_whole_head(c))
        TRY(head_logits_of(c));
    else if (c->options.n_head_layers > 0)
        TRY(head_hidden_forward(&c->head, pooled(c, false), b));
    struct linear_args linear = {
        .x = shaped(classified(c), b, width),
        .weight = c->linear.weight,
        .bias = c->linear.bias,
        .y = matrix(c->logits, b, c->options.n_classes),
    };
    return c->ops->linear_forward(c->device, &linear);
}

enum status classifier_backward(struct classifier *c)
{
    int64_t b = batch_of(c), width = classifier_width(&c->options), k = c->options.n_classes;
    bool hidden = c->options.n_head_layers > 0 && !has_whole_head(c);
    struct linear_backward_args linear = {
        .d_y = shaped(c->d_logits, b, k),
        .x = shaped(classified(c), b, width),
        .weight = c->linear.weight,
        .d_x = pooled(c, true),
        .d_weight = c->linear.d_weight,
        .d_bias = c->linear.d_bias,
    };

    if (classifier_is_dense(&c->options))
        return dense_backward(c);
    if (hidden) { /* before the activation that made x */
        linear.pre = shaped(head_last_hidden(&c->head)->pre, b, width);
        linear.activation = c->options.head.activation;
        linear.d_x = shaped(c->head.d_hidden[0], b, width);
    } else if (has_whole_head(c)) {
        linear.d_x = shaped(c->d_projected, b, width);
    }
    TRY(classifier_copy_as(c, c->logits, c->d_logits, b * k));
    TRY(c->ops->linear_backward(c->device, &linear));
    if (hidden)
        TRY(head_hidden_backward(&c->head, pooled(c, false), pooled(c, true), b));
    else if (has_whole_head(c))
        TRY(head_logits_of_back(c));
    if (classifier_norms_mean(&c->options))
        TRY(pool_means_back(c));
    return backbone_backward(&c->backbone, NULL, &(struct gradient_watch){0});
}
