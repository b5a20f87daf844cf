/* The ViT: patch embedding, token buffer, blocks, final norm; and all of it backwards. */
#include "trainer/model/vit.h"

#include <stdio.h>
#include <string.h>

#include "proto/base/memory.h"

/* ------------------------------------------------------------------------------ planning */

static void shape_group(const struct vit *vit, struct vit_group *group, int64_t rows,
                        int64_t columns)
{
    int64_t stored = vit->options.image_size_px / vit->options.patch_size_px;

    group->rows = rows;
    group->columns = columns;
    group->length = rows * columns + 1;
    group->interpolated = rows != stored || columns != stored;
}

static void add_group(struct vit *vit, int64_t n_images, int32_t height_px, int32_t width_px)
{
    struct vit_group *group = &vit->groups[vit->n_groups];

    if (n_images == 0)
        return;
    group->n_images = group->most_images = n_images;
    shape_group(vit, group, height_px / vit->options.patch_size_px,
                width_px / vit->options.patch_size_px);
    group->n_cells = group->length - 1;
    group->first_row = vit->pass.n_tokens;
    vit->pass.groups[vit->n_groups++] =
        (struct attention_group){group->first_row, n_images, group->length};
    vit->pass.n_tokens += n_images * group->length;
    vit->n_samples += n_images;
}

enum status vit_plan(struct vit *vit, struct device *device, const struct op_table *ops,
                     const struct backbone_options *options, const struct backbone_layout *layout,
                     struct workspace *w)
{
    int64_t d = options->embed_dim, n;
    size_t depth = (size_t)options->depth;

    memset(vit, 0, sizeof(*vit));
    vit->options = *options;
    vit->without_norm = layout->without_norm;
    vit->reshapes = layout->reshapes || !layout->backward;
    vit->pass = (struct block_pass){
        .device = device,
        .ops = ops,
        .n_heads = options->n_heads,
        .width = d,
        .hidden = d * options->mlp_ratio,
        .eps = options->layer_norm_eps,
        .dtype = layout->dtype,
        .stream = layout->stream,
        .gelu = layout->gelu,
        .backward = layout->backward,
        .recompute = layout->recompute,
    };
    add_group(vit, layout->n_global_images, layout->global_size_px,
              layout->global_width_px > 0 ? layout->global_width_px : layout->global_size_px);
    add_group(vit, layout->n_local_images, layout->local_size_px, layout->local_size_px);
    vit->pass.n_groups = vit->n_groups;
    n = vit->pass.n_tokens * d;
    TRY(memory_alloc(&vit->weights, depth, sizeof(*vit->weights), "block weights"));
    TRY(memory_alloc(&vit->states, depth, sizeof(*vit->states), "block states"));
    TRY(memory_alloc(&vit->depths, depth, sizeof(*vit->depths), "block depths"));

    for (int32_t i = 0; i < vit->n_groups; i++) {
        struct vit_group *group = &vit->groups[i];
        TRY(plan_buffer(w, &group->embedded, layout->dtype,
                        group->n_images * (group->length - 1) * d));
        if (group->interpolated || vit->reshapes) /* another shape may follow */
            TRY(plan_floats(w, &group->pos, group->length * d));
        if (group->interpolated && layout->backward)
            TRY(plan_floats(w, &group->d_pos, group->length * d));
    }
    for (int32_t i = 0; i < options->depth; i++) {
        bool own = layout->backward || i == 0;
        if (own)
            TRY(block_plan(&vit->states[i], &vit->pass, n, i == options->depth - 1, w));
    }
    TRY(block_plan_shared(&vit->shared, &vit->pass, n, vit->pass.n_tokens,
                          vit->pass.n_tokens * options->n_heads, w));
    TRY(plan_buffer(w, &vit->states[0].branch, layout->dtype, n));
    TRY(plan_buffer(w, &vit->final_x, layout->stream, n));
    if (!vit->without_norm) {
        TRY(plan_buffer(w, &vit->features, layout->dtype, n));
        TRY(plan_floats(w, &vit->final_mean, vit->pass.n_tokens));
        TRY(plan_floats(w, &vit->final_rstd, vit->pass.n_tokens));
    }
    TRY(workspace_reserve(w, &vit->sample, (size_t)vit->pass.n_tokens * sizeof(int32_t)));
    if (layout->backward)
        TRY(block_plan_gradients(&vit->gradients, layout->dtype, layout->stream, n, n,
                                 options->mlp_ratio, layout->weights_apart, w));
    return STATUS_OK;
}

/* ------------------------------------------------------------------------------ binding */

static void bind_embedding(struct vit *vit, const struct binder *b)
{
    struct tensor cls = binder_parameter(b, "backbone.cls_token");
    struct tensor pos = binder_parameter(b, "backbone.pos_embed");
    int64_t d = vit->pass.width;

    vit->patch_embed = binder_layer(b, "backbone.patch_embed.proj");
    binder_flatten(&vit->patch_embed);
    vit->cls = tensor_1d(cls.data, DTYPE_F32, d);
    vit->pos = tensor_2d(pos.data, DTYPE_F32, pos.shape[1], d);
    if (b->gradients != NULL) {
        cls = binder_gradient(b, "backbone.cls_token");
        pos = binder_gradient(b, "backbone.pos_embed");
        vit->d_cls = tensor_1d(cls.data, DTYPE_F32, d);
        vit->d_pos = tensor_2d(pos.data, DTYPE_F32, pos.shape[1], d);
    }
    binder_mask_token(b, &vit->mask_token, &vit->d_mask_token);
}

enum status vit_bind(struct vit *vit, const struct binder *b)
{
    struct block_pass *pass = &vit->pass;
    int32_t *host;

    bind_embedding(vit, b);
    for (int32_t i = 0; i < vit->options.depth; i++) {
        char name[64];
        snprintf(name, sizeof(name), "backbone.blocks.%d", i);
        binder_block(b, name, &vit->weights[i]);
        if (i > 0 && !pass->backward)
            vit->states[i] = vit->states[0];
        vit->states[i].branch = vit->states[0].branch;
        block_share(&vit->states[i], &vit->shared, pass);
    }
    if (!vit->without_norm)
        vit->norm = binder_affine(b, "backbone.norm");
    vit->all_rows = (struct block_rows){.n_rows = pass->n_tokens};
    vit->rows = vit->all_rows;

    TRY(memory_alloc(&host, (size_t)pass->n_tokens, sizeof(*host), "row table"));
    int32_t crop = 0;
    for (int32_t g = 0; g < vit->n_groups; g++)
        for (int64_t image = 0; image < vit->groups[g].n_images; image++, crop++)
            for (int64_t j = 0; j < vit->groups[g].length; j++)
                host[vit->groups[g].first_row + image * vit->groups[g].length + j] = crop;
    enum status status = pass->device->copy_in(pass->device, vit->sample, host,
                                               (size_t)pass->n_tokens * sizeof(*host));
    if (status == STATUS_OK)
        status = pass->device->synchronize(pass->device);
    memory_free(host);
    pass->sample = vit->sample;
    return status;
}

enum status vit_reshape(struct vit *vit, int64_t n_images, int64_t rows, int64_t columns)
{
    struct vit_group *group = &vit->groups[0];

    CHECK(vit->reshapes && vit->n_groups == 1 && n_images >= 1 && n_images <= group->most_images);
    if (rows < 1 || columns < 1 || rows * columns > group->n_cells)
        FAIL(
            STATUS_INVALID,
            "images of %lld x %lld patches of %d px: wanted one or more each way, and at most %lld",
            (long long)columns, (long long)rows, vit->options.patch_size_px,
            (long long)group->n_cells);
    shape_group(vit, group, rows, columns);
    group->n_images = vit->n_samples = n_images;
    vit->pass.groups[0].n_sequences = n_images;
    vit->pass.groups[0].length = group->length;
    vit->pass.n_tokens = group->n_images * group->length;
    vit->all_rows.n_rows = vit->pass.n_tokens;
    vit->rows = vit->all_rows;
    return STATUS_OK;
}

/* ------------------------------------------------------------------------------ forward */

static struct tensor rows_of(const struct vit_group *group, struct tensor buffer, int64_t width)
{
    return shaped_from(buffer, group->first_row * width, group->n_images * group->length, width);
}

/* The position rows of one group: the stored ones, or interpolated. */
static enum status positions(struct vit *vit, struct vit_group *group, struct tensor *out)
{
    struct block_pass *p = &vit->pass;
    int32_t stored = vit->options.image_size_px / vit->options.patch_size_px;

    *out = vit->pos;
    if (!group->interpolated)
        return STATUS_OK;
    *out = tensor_2d(group->pos, DTYPE_F32, group->length, p->width);
    TRY(p->device->copy(p->device, group->pos, vit->pos.data, (size_t)p->width * sizeof(float)));
    struct position_interpolate_args args = {
        .grid = tensor_rows(vit->pos, 1, (int64_t)stored * stored),
        .out = tensor_rows(*out, 1, group->length - 1),
        .grid_size = stored,
        .height = (int32_t)group->rows,
        .width = (int32_t)group->columns,
    };
    return p->ops->position_interpolate(p->device, &args);
}

static enum status embed_group(struct vit *vit, struct vit_group *group, uint8_t *mask)
{
    struct block_pass *p = &vit->pass;
    int64_t n = group->n_images * (group->length - 1), row = vit->patch_embed.weight.shape[1];
    struct linear_args project = {
        .x = shaped(group->patches, n, row),
        .weight = vit->patch_embed.weight,
        .bias = vit->patch_embed.bias,
        .y = shaped(group->embedded, n, p->width),
    };
    struct tokens_args tokens = {
        .patches = project.y,
        .cls = vit->cls,
        .tokens = rows_of(group, vit->states[0].x, p->width),
    };
    if (mask != NULL) {
        tokens.mask = tensor_1d(mask, DTYPE_U8, n);
        tokens.mask_token = vit->mask_token;
    }
    TRY(p->ops->linear_forward(p->device, &project));
    TRY(positions(vit, group, &tokens.pos));
    return p->ops->tokens_forward(p->device, &tokens);
}

/* Stream and norm that follow block i. */
static struct block_next next_of(struct vit *vit, int32_t i)
{
    if (i + 1 < vit->options.depth) {
        struct block_state *s = &vit->states[i + 1];
        return (struct block_next){
            vit->weights[i + 1].norm1,     s->x, s->y1, s->mean1, s->rstd1,
            &vit->depths[i + 1].attention,
        };
    }
    if (vit->without_norm)
        return (struct block_next){.x = vit->final_x};
    return (struct block_next){
        vit->norm, vit->final_x, vit->features, vit->final_mean, vit->final_rstd, NULL,
    };
}

enum status vit_embed(struct vit *vit, uint8_t *mask)
{
    struct block_pass *p = &vit->pass;
    struct block_state *first = &vit->states[0];

    CHECK(vit->depths[0].attention.shift == NULL, "the first branch takes all samples");
    for (int32_t g = 0; g < vit->n_groups; g++)
        TRY(embed_group(vit, &vit->groups[g], g == 0 ? mask : NULL));
    struct residual_layernorm_args norm = {
        .x = shaped(first->x, p->n_tokens, p->width),
        .gamma = vit->weights[0].norm1.weight,
        .beta = vit->weights[0].norm1.bias,
        .y = shaped(first->y1, p->n_tokens, p->width),
        .eps = p->eps,
    };
    if (p->backward) {
        norm.mean = tensor_1d(first->mean1, DTYPE_F32, p->n_tokens);
        norm.rstd = tensor_1d(first->rstd1, DTYPE_F32, p->n_tokens);
    }
    return p->ops->residual_layernorm_forward(p->device, &norm);
}

/* The last block goes on with the chosen rows only. */
static const struct block_rows *rows_for(const struct vit *vit, int32_t block)
{
    return block + 1 < vit->options.depth ? &vit->all_rows : &vit->rows;
}

enum status vit_block(struct vit *vit, int32_t block)
{
    struct block_next next = next_of(vit, block);

    return block_forward(&vit->pass, &vit->weights[block], &vit->states[block], &vit->depths[block],
                         rows_for(vit, block), &next);
}

struct tensor vit_stream(struct vit *vit, int32_t block)
{
    return next_of(vit, block).x;
}

enum status vit_forward(struct vit *vit, uint8_t *mask)
{
    TRY(vit_embed(vit, mask));
    for (int32_t i = 0; i < vit->options.depth; i++)
        TRY(vit_block(vit, i));
    return STATUS_OK;
}

enum status vit_normed_stream(struct vit *vit, struct tensor x)
{
    struct block_pass *p = &vit->pass;
    struct residual_layernorm_args norm = {
        .x = shaped(x, p->n_tokens, p->width),
        .gamma = vit->norm.weight,
        .beta = vit->norm.bias,
        .y = shaped(vit->features, p->n_tokens, p->width),
        .eps = p->eps,
    };
    return p->ops->residual_layernorm_forward(p->device, &norm);
}

/* ------------------------------------------------------------------------------ backward */

static enum status embed_group_backward(struct vit *vit, struct vit_group *group, uint8_t *mask)
{
    struct block_pass *p = &vit->pass;
    int64_t n = group->n_images * (group->length - 1), row = vit->patch_embed.weight.shape[1];
    int32_t stored = vit->options.image_size_px / vit->options.patch_size_px;
    struct tensor d_embedded = shaped(group->embedded, n, p->width);
    struct tokens_backward_args tokens = {
        .d_tokens = rows_of(group, vit->gradients.d_stream, p->width),
        .d_patches = d_embedded,
        .d_cls = vit->d_cls,
        .d_pos = vit->d_pos,
    };
    if (mask != NULL) {
        tokens.mask = tensor_1d(mask, DTYPE_U8, n);
        tokens.d_mask_token = vit->d_mask_token;
    }
    if (group->interpolated) {
        tokens.d_pos = tensor_2d(group->d_pos, DTYPE_F32, group->length, p->width);
        TRY(p->device->zero(p->device, group->d_pos, tensor_size_bytes(&tokens.d_pos)));
    }
    TRY(p->ops->tokens_backward(p->device, &tokens));
    if (group->interpolated) {
        struct position_interpolate_backward_args back = {
            .d_out = tensor_rows(tokens.d_pos, 1, group->length - 1),
            .d_grid = tensor_rows(vit->d_pos, 1, (int64_t)stored * stored),
            .grid_size = stored,
            .height = (int32_t)group->rows,
            .width = (int32_t)group->columns,
        };
        TRY(p->ops->position_interpolate_backward(p->device, &back));
        TRY(p->ops->rows_add(p->device,
                             &(struct rows_add_args){.from = tensor_rows(tokens.d_pos, 0, 1),
                                                     .to = tensor_rows(vit->d_pos, 0, 1)}));
    }
    struct linear_backward_args project = {
        .d_y = d_embedded,
        .x = shaped(group->patches, n, row),
        .weight = vit->patch_embed.weight,
        .d_weight = vit->patch_embed.d_weight,
        .d_bias = vit->patch_embed.d_bias,
    };
    return p->ops->linear_backward(p->device, &project);
}

enum status vit_backward(struct vit *vit, uint8_t *mask, const struct gradient_watch *watch)
{
    struct block_pass *p = &vit->pass;
    struct block_gradients *g = &vit->gradients;
    struct block_state *first = &vit->states[0];
    int64_t n = vit->rows.n_rows;

    block_gradients_begin(g);
    if (!vit->without_norm)
        TRY(p->device->zero(p->device, g->d_stream.data,
                            (size_t)(n * p->width) * dtype_size_bytes(p->stream)));
    for (int32_t i = vit->options.depth - 1; i >= 0; i--) {
        struct block_next next = next_of(vit, i);
        const struct block_rows *rows = rows_for(vit, i);
        if (p->recompute != RECOMPUTE_NONE) /* into what the weights of the block behind read */
            TRY(block_gradients_settle(p, g));
        if (i + 1 < vit->options.depth)
            TRY(block_restore(p, &vit->weights[i], &vit->states[i], &vit->depths[i], rows));
        if (i + 1 < vit->options.depth && vit->taps.backward != NULL)
            TRY(vit->taps.backward(vit->taps.context, i));
        TRY(block_backward(p, &vit->weights[i], &vit->states[i], &vit->depths[i], rows, &next, g));
        TRY(block_reached(watch, &vit->weights[i]));
    }
    TRY(block_gradients_settle(p, g));
    struct residual_layernorm_backward_args norm = {
        .d_y = shaped(g->d_y, p->n_tokens, p->width),
        .d_sum = shaped(g->d_stream, p->n_tokens, p->width),
        .sum = shaped(first->x, p->n_tokens, p->width),
        .mean = tensor_1d(first->mean1, DTYPE_F32, p->n_tokens),
        .rstd = tensor_1d(first->rstd1, DTYPE_F32, p->n_tokens),
        .gamma = vit->weights[0].norm1.weight,
        .d_sum_out = shaped(g->d_stream, p->n_tokens, p->width),
        .d_gamma = vit->weights[0].norm1.d_weight,
        .d_beta = vit->weights[0].norm1.d_bias,
    };
    TRY(p->ops->residual_layernorm_backward(p->device, &norm));
    for (int32_t i = 0; i < vit->n_groups; i++)
        TRY(embed_group_backward(vit, &vit->groups[i], i == 0 ? mask : NULL));
    return STATUS_OK;
}

void vit_release(struct vit *vit)
{
    if (vit == NULL)
        return;
    memory_free(vit->weights);
    memory_free(vit->states);
    memory_free(vit->depths);
    memset(vit, 0, sizeof(*vit));
}
