/* The Swin Transformer at work: embedding, blocks, merging, means; and all of it backwards. */
#include "trainer/model/swin.h"

#include "trainer/model/backbone.h"

const struct swin_stage *swin_stage_of(const struct swin *swin, int32_t block)
{
    const struct swin_stage *stage = swin->stages;

    while (block >= stage->first_block + stage->n_blocks)
        stage++;
    return stage;
}

static bool ends_stage(const struct swin_stage *stage, int32_t block)
{
    return block + 1 == stage->first_block + stage->n_blocks;
}

static struct block_rows rows_of(const struct swin_stage *stage)
{
    return (struct block_rows){.n_rows = stage->pass.n_tokens};
}

/* Stream and norm that follow a block; at the end of a stage that is not the last: no norm. */
static struct block_next next_of(const struct swin *swin, int32_t block)
{
    const struct swin_stage *stage = swin_stage_of(swin, block);

    if (block + 1 == swin->options.depth)
        return (struct block_next){swin->norm,       swin->final_x,    swin->final_y,
                                   swin->final_mean, swin->final_rstd, NULL};
    if (ends_stage(stage, block))
        return (struct block_next){.x = stage->end};
    const struct block_state *s = &swin->states[block + 1];
    return (struct block_next){
        swin->weights[block + 1].norm1, s->x, s->y1, s->mean1, s->rstd1, NULL};
}

struct tensor swin_stream(const struct swin *swin, int32_t block)
{
    return next_of(swin, block).x;
}

/* ------------------------------------------------------------------------------ forward */

/* y = norm(x) over n rows; keeps what a backward needs. */
static enum status norm_rows(const struct swin *swin, const struct affine *norm, struct tensor x,
                             struct tensor y, float *mean, float *rstd, int64_t n, int64_t width)
{
    struct residual_layernorm_args args = {
        .x = shaped(x, n, width),
        .gamma = norm->weight,
        .beta = norm->bias,
        .y = shaped(y, n, width),
        .eps = swin->options.layer_norm_eps,
    };
    if (swin->backward) {
        args.mean = vector(mean, n);
        args.rstd = vector(rstd, n);
    }
    return swin->ops->residual_layernorm_forward(swin->device, &args);
}

/* The first norm of a stage's first block: the blocks make all others on their way. */
static enum status enter_stage(const struct swin *swin, const struct swin_stage *stage)
{
    struct block_state *s = &swin->states[stage->first_block];
    return norm_rows(swin, &swin->weights[stage->first_block].norm1, s->x, s->y1, s->mean1,
                     s->rstd1, stage->pass.n_tokens, stage->pass.width);
}

/* Rows of the masked crops: the first group of the first stage. */
static struct tensor masked_rows(const struct swin *swin, struct tensor rows)
{
    const struct region_group *group = &swin->stages[0].pass.regions[0];
    return shaped(rows, group->n_images * group->side * group->side, swin->stages[0].pass.width);
}

static struct tensor mask_of(const struct swin *swin, uint8_t *mask, int64_t *cells)
{
    const struct swin_stage *last = &swin->stages[swin->options.n_stages - 1];

    *cells = last->pass.regions[0].side;
    return tensor_1d(mask, DTYPE_U8, last->pass.regions[0].n_images * *cells * *cells);
}

enum status swin_embed(struct swin *swin, uint8_t *mask)
{
    struct swin_stage *stage = &swin->stages[0];
    int64_t width = stage->pass.width, row = swin->patch_embed.weight.shape[1];
    struct tensor x = swin->states[0].x;

    for (int32_t g = 0; g < stage->pass.n_groups; g++) {
        const struct region_group *group = &stage->pass.regions[g];
        int64_t n = group->n_images * group->side * group->side;
        struct linear_args project = {
            .x = shaped(swin->patches[g], n, row),
            .weight = swin->patch_embed.weight,
            .bias = swin->patch_embed.bias,
            .y = shaped_from(swin->projected, group->first_row * width, n, width),
        };
        TRY(swin->ops->linear_forward(swin->device, &project));
    }
    TRY(norm_rows(swin, &swin->patch_norm, swin->projected, x, swin->patch_mean, swin->patch_rstd,
                  stage->pass.n_tokens, width));
    if (mask != NULL) {
        struct region_mask_args args = {
            .x = masked_rows(swin, x),
            .mask_token = swin->mask_token,
            .side = stage->pass.regions[0].side,
        };
        args.mask = mask_of(swin, mask, &args.cells);
        TRY(swin->ops->region_mask(swin->device, &args));
    }
    return enter_stage(swin, stage);
}

/* Four neighbours to one token: the stream that the next stage begins with. */
static enum status merge(const struct swin *swin, const struct swin_stage *stage)
{
    const struct swin_stage *next = stage + 1;
    int64_t n = next->pass.n_tokens, wide = 4 * stage->pass.width;
    struct patch_merge_args args = {
        .x = shaped(stage->end, stage->pass.n_tokens, stage->pass.width),
        .y = shaped(stage->merged, n, wide),
        .n_groups = stage->pass.n_groups,
    };
    struct linear_args reduce = {
        .x = shaped(stage->normed, n, wide),
        .weight = stage->reduction.weight,
        .y = shaped(swin->states[next->first_block].x, n, next->pass.width),
    };
    for (int32_t g = 0; g < args.n_groups; g++) {
        args.from[g] = stage->pass.regions[g];
        args.to[g] = next->pass.regions[g];
    }
    TRY(swin->ops->patch_merge(swin->device, &args));
    TRY(norm_rows(swin, &stage->merge_norm, stage->merged, stage->normed, stage->mean, stage->rstd,
                  n, wide));
    TRY(swin->ops->linear_forward(swin->device, &reduce));
    return enter_stage(swin, next);
}

enum status swin_block(struct swin *swin, int32_t block)
{
    const struct swin_stage *stage = swin_stage_of(swin, block);
    struct block_next next = next_of(swin, block);
    struct block_rows rows = rows_of(stage);

    TRY(block_forward(&stage->pass, &swin->weights[block], &swin->states[block],
                      &swin->depths[block], &rows, &next));
    if (ends_stage(stage, block) && block + 1 < swin->options.depth)
        return merge(swin, stage);
    return STATUS_OK;
}

enum status swin_normed_stream(struct swin *swin, struct tensor x)
{
    const struct block_pass *p = &swin->stages[swin->options.n_stages - 1].pass;
    return norm_rows(swin, &swin->norm, x, swin->final_y, swin->final_mean, swin->final_rstd,
                     p->n_tokens, p->width);
}

enum status swin_forward(struct swin *swin, uint8_t *mask)
{
    const struct block_pass *p = &swin->stages[swin->options.n_stages - 1].pass;
    struct region_mean_args mean = {
        .x = shaped(swin->final_y, p->n_tokens, p->width),
        .y = shaped(swin->all, swin->n_rows, p->width),
        .n_groups = p->n_groups,
    };

    TRY(swin_embed(swin, mask));
    for (int32_t i = 0; i < swin->options.depth; i++)
        TRY(swin_block(swin, i));
    for (int32_t g = 0; g < p->n_groups; g++) {
        mean.groups[g] = p->regions[g];
        mean.to_row[g] = swin->first_row[g];
    }
    if (swin->rows.index == NULL)
        mean.y.data = swin->features.data;
    TRY(swin->ops->region_mean(swin->device, &mean));
    if (swin->rows.index == NULL)
        return STATUS_OK;
    struct rows_gather_args gather = {
        .from = mean.y,
        .index = tensor_1d(swin->rows.index, DTYPE_I32, swin->rows.n_rows),
        .to = shaped(swin->features, swin->rows.n_rows, p->width),
    };
    return swin->ops->rows_gather(swin->device, &gather);
}

/* ------------------------------------------------------------------------------ backward */

/* Undoes norm_rows: d_x from d_y, and from d_sum where a stream went past the norm (d_x may be it),
 * else absent. d_x as the operand of a product: itself, or a copy in `half`. */
static enum status norm_rows_back(const struct swin *swin, const struct affine *norm,
                                  struct tensor d_y, struct tensor d_sum, struct tensor x,
                                  float *mean, float *rstd, struct tensor d_x, struct tensor half,
                                  int64_t n, int64_t width)
{
    struct residual_layernorm_backward_args args = {
        .d_y = shaped(d_y, n, width),
        .sum = shaped(x, n, width),
        .mean = vector(mean, n),
        .rstd = vector(rstd, n),
        .gamma = norm->weight,
        .d_sum_out = shaped(d_x, n, width),
        .d_gamma = norm->d_weight,
        .d_beta = norm->d_bias,
    };
    if (d_sum.data != NULL)
        args.d_sum = shaped(d_sum, n, width);
    if (half.data != NULL && half.data != d_x.data)
        args.d_branch = shaped(half, n, width);
    return swin->ops->residual_layernorm_backward(swin->device, &args);
}

/* Where a product reads a gradient of the stream's type: there, or from a copy. */
static struct tensor operand_of(const struct swin *swin, struct tensor gradient)
{
    return swin->dtype == swin->stream ? gradient : swin->gradients.d_branch[0];
}

/* gradients.d_y: of y1 of the stage's first block -> gradients.d_stream: of the stream. */
static enum status enter_stage_back(struct swin *swin, const struct swin_stage *stage)
{
    struct block_gradients *g = &swin->gradients;
    struct block_state *s = &swin->states[stage->first_block];
    struct tensor none = {0};
    struct tensor half = stage != swin->stages ? operand_of(swin, g->d_stream) : none;

    return norm_rows_back(swin, &swin->weights[stage->first_block].norm1, g->d_y, g->d_stream, s->x,
                          s->mean1, s->rstd1, g->d_stream, half, stage->pass.n_tokens,
                          stage->pass.width);
}

/* gradients.d_stream of the next stage's first stream -> that of this stage's last. */
static enum status merge_back(struct swin *swin, const struct swin_stage *stage)
{
    const struct swin_stage *next = stage + 1;
    struct block_gradients *g = &swin->gradients;
    int64_t n = next->pass.n_tokens, wide = 4 * stage->pass.width;
    struct tensor none = {0};
    struct linear_backward_args reduce = {
        .d_y = shaped(operand_of(swin, g->d_stream), n, next->pass.width),
        .x = shaped(stage->normed, n, wide),
        .weight = stage->reduction.weight,
        .d_x = shaped(g->d_y, n, wide),
        .d_weight = stage->reduction.d_weight,
    };
    struct patch_merge_backward_args part = {
        .d_y = shaped(g->d_rows, n, wide),
        .d_x = shaped(g->d_stream, stage->pass.n_tokens, stage->pass.width),
        .n_groups = stage->pass.n_groups,
    };
    for (int32_t i = 0; i < part.n_groups; i++) {
        part.from[i] = stage->pass.regions[i];
        part.to[i] = next->pass.regions[i];
    }
    TRY(swin->ops->linear_backward(swin->device, &reduce));
    TRY(norm_rows_back(swin, &stage->merge_norm, g->d_y, none, stage->merged, stage->mean,
                       stage->rstd, g->d_rows, none, n, wide));
    return swin->ops->patch_merge_backward(swin->device, &part);
}

/* gradients.d_y = gradient of the final norm's rows, from d_features. */
static enum status features_back(struct swin *swin)
{
    const struct block_pass *p = &swin->stages[swin->options.n_stages - 1].pass;
    bool chosen = swin->rows.index != NULL;
    struct region_mean_backward_args mean = {
        .d_y = shaped(chosen ? swin->d_all : swin->d_features, swin->n_rows, p->width),
        .d_x = shaped(swin->gradients.d_y, p->n_tokens, p->width),
        .n_groups = p->n_groups,
    };

    for (int32_t g = 0; g < p->n_groups; g++) {
        mean.groups[g] = p->regions[g];
        mean.to_row[g] = swin->first_row[g];
    }
    if (chosen) {
        struct rows_scatter_args scatter = {
            .from = shaped(swin->d_features, swin->rows.n_rows, p->width),
            .index = tensor_1d(swin->rows.index, DTYPE_I32, swin->rows.n_rows),
            .to = mean.d_y,
            .zero_others = true,
        };
        TRY(swin->ops->rows_scatter(swin->device, &scatter));
    }
    return swin->ops->region_mean_backward(swin->device, &mean);
}

/* From the gradient of the first stream to the gradients of mask token and patch embedding. */
static enum status embed_back(struct swin *swin, uint8_t *mask)
{
    struct swin_stage *stage = &swin->stages[0];
    struct block_gradients *gradients = &swin->gradients;
    int64_t width = stage->pass.width, row = swin->patch_embed.weight.shape[1];

    if (mask != NULL) {
        struct region_mask_backward_args args = {
            .d_x = masked_rows(swin, gradients->d_stream),
            .d_mask_token = swin->d_mask_token,
            .side = stage->pass.regions[0].side,
        };
        args.mask = mask_of(swin, mask, &args.cells);
        TRY(swin->ops->region_mask_backward(swin->device, &args));
    }
    struct tensor d_projected = operand_of(swin, gradients->d_rows);
    TRY(norm_rows_back(swin, &swin->patch_norm, gradients->d_stream, (struct tensor){0},
                       swin->projected, swin->patch_mean, swin->patch_rstd, gradients->d_rows,
                       d_projected, stage->pass.n_tokens, width));
    for (int32_t g = 0; g < stage->pass.n_groups; g++) {
        const struct region_group *group = &stage->pass.regions[g];
        int64_t n = group->n_images * group->side * group->side;
        struct linear_backward_args project = {
            .d_y = shaped_from(d_projected, group->first_row * width, n, width),
            .x = shaped(swin->patches[g], n, row),
            .weight = swin->patch_embed.weight,
            .d_weight = swin->patch_embed.d_weight,
            .d_bias = swin->patch_embed.d_bias,
        };
        TRY(swin->ops->linear_backward(swin->device, &project));
    }
    return STATUS_OK;
}

enum status swin_backward(struct swin *swin, uint8_t *mask, const struct gradient_watch *watch)
{
    const struct block_pass *last = &swin->stages[swin->options.n_stages - 1].pass;

    block_gradients_begin(&swin->gradients);
    TRY(features_back(swin));
    TRY(swin->device->zero(swin->device, swin->gradients.d_stream.data,
                           (size_t)(last->n_tokens * last->width) *
                               dtype_size_bytes(swin->stream)));
    for (int32_t i = swin->options.depth - 1; i >= 0; i--) {
        const struct swin_stage *stage = swin_stage_of(swin, i);
        struct block_next next = next_of(swin, i);
        struct block_rows rows = rows_of(stage);
        if (stage->pass.recompute != RECOMPUTE_NONE) /* as in a ViT */
            TRY(block_gradients_settle(&stage->pass, &swin->gradients));
        if (i + 1 < swin->options.depth)
            TRY(block_restore(&stage->pass, &swin->weights[i], &swin->states[i], &swin->depths[i],
                              &rows));
        TRY(block_backward(&stage->pass, &swin->weights[i], &swin->states[i], &swin->depths[i],
                           &rows, &next, &swin->gradients));
        TRY(block_reached(watch, &swin->weights[i]));
        if (i > stage->first_block)
            continue;
        TRY(block_gradients_settle(&stage->pass, &swin->gradients));
        TRY(enter_stage_back(swin, stage));
        if (i > 0)
            TRY(merge_back(swin, stage - 1));
    }
    return embed_back(swin, mask);
}
