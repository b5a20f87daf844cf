/* The Swin Transformer before it works: shapes of its stages, memory, parameters. */
#include <stdio.h>
#include <string.h>

#include "proto/base/memory.h"
#include "trainer/model/backbone.h"
#include "trainer/model/swin.h"

void swin_window(const struct backbone_options *o, int32_t stage, int32_t block, int32_t *side,
                 int32_t *shift)
{
    int32_t map = o->image_size_px / o->patch_size_px >> stage;

    *side = o->window_size;
    *shift = block % 2 == 1 ? o->window_size / 2 : 0;
    if (map <= *side) {
        *side = map > 1 ? map : 1;
        *shift = 0;
    }
}

/* ------------------------------------------------------------------------------ planning */

/* Maps of both groups in every stage. */
static void shape_stages(struct swin *swin, const struct backbone_layout *layout)
{
    const int64_t n_images[2] = {layout->n_global_images, layout->n_local_images};
    const int32_t size_px[2] = {layout->global_size_px, layout->local_size_px};
    const struct backbone_options *o = &swin->options;
    int32_t first_block = 0;

    for (int32_t i = 0; i < o->n_stages; i++) {
        struct swin_stage *stage = &swin->stages[i];
        int64_t width = (int64_t)o->embed_dim << i;
        stage->pass = (struct block_pass){
            .device = swin->device,
            .ops = swin->ops,
            .n_heads = o->stage_heads[i],
            .width = width,
            .hidden = width * o->mlp_ratio,
            .eps = o->layer_norm_eps,
            .dtype = layout->dtype,
            .stream = layout->stream,
            .gelu = layout->gelu,
            .backward = swin->backward,
            .recompute = layout->recompute,
        };
        stage->first_block = first_block;
        stage->n_blocks = o->stage_depth[i];
        first_block += stage->n_blocks;
        for (int32_t g = 0; g < 2 && n_images[g] > 0; g++) {
            int64_t side = size_px[g] / o->patch_size_px;
            for (int32_t k = 0; k < i; k++)
                side = (side + 1) / 2;
            stage->pass.regions[g] = (struct region_group){stage->pass.n_tokens, n_images[g], side};
            stage->pass.n_tokens += n_images[g] * side * side;
            stage->pass.n_groups = g + 1;
        }
    }
    const struct block_pass *last = &swin->stages[o->n_stages - 1].pass;
    for (int32_t g = 0; g < last->n_groups; g++) {
        swin->first_row[g] = swin->n_rows;
        swin->n_rows +=
            last->regions[g].n_images * (last->regions[g].side * last->regions[g].side + 1);
        swin->n_samples += last->regions[g].n_images;
    }
}

/* Floats of the widest stream, and of the widest merged one. */
static void widest(const struct swin *swin, int64_t *stream, int64_t *any)
{
    *stream = *any = 0;
    for (int32_t i = 0; i < swin->options.n_stages; i++) {
        const struct block_pass *p = &swin->stages[i].pass;
        int64_t n = p->n_tokens * p->width;
        int64_t merged = i > 0 ? p->n_tokens * 2 * p->width : 0; /* [T', 4C] of the one before */
        *stream = n > *stream ? n : *stream;
        *any = merged > *any ? merged : *any;
    }
    *any = *stream > *any ? *stream : *any;
}

/* Statistics of the attention in the stage that has most. */
static int64_t most_lse(const struct swin *swin)
{
    int64_t most = 0;

    for (int32_t i = 0; i < swin->options.n_stages; i++) {
        const struct block_pass *p = &swin->stages[i].pass;
        most = p->n_tokens * p->n_heads > most ? p->n_tokens * p->n_heads : most;
    }
    return most;
}

static enum status plan_stage(struct swin *swin, struct workspace *w, int32_t i, int64_t most)
{
    struct swin_stage *stage = &swin->stages[i];
    struct block_pass *p = &stage->pass;
    int64_t n = swin->backward ? p->n_tokens * p->width : most;

    for (int32_t b = stage->first_block; b < stage->first_block + stage->n_blocks; b++) {
        if (swin->backward || b == 0)
            TRY(block_plan(&swin->states[b], p, n, false, w));
    }
    TRY(workspace_reserve(w, &stage->sample, (size_t)p->n_tokens * sizeof(int32_t)));
    if (i + 1 == swin->options.n_stages)
        return STATUS_OK;
    int64_t rows = swin->stages[i + 1].pass.n_tokens;
    TRY(plan_buffer(w, &stage->end, swin->stream, p->n_tokens * p->width));
    TRY(plan_buffer(w, &stage->merged, swin->stream, rows * 4 * p->width));
    TRY(plan_buffer(w, &stage->normed, swin->dtype, rows * 4 * p->width));
    TRY(plan_floats(w, &stage->mean, rows));
    return plan_floats(w, &stage->rstd, rows);
}

static enum status plan_gradients(struct swin *swin, struct workspace *w, int64_t stream,
                                  int64_t any, bool weights_apart)
{
    int64_t n = swin->n_rows * swin->stages[swin->options.n_stages - 1].pass.width;

    TRY(block_plan_gradients(&swin->gradients, swin->dtype, swin->stream, stream, any,
                             swin->options.mlp_ratio, weights_apart, w));
    TRY(plan_buffer(w, &swin->d_features, swin->dtype, n));
    return plan_buffer(w, &swin->d_all, swin->dtype, n);
}

enum status swin_plan(struct swin *swin, struct device *device, const struct op_table *ops,
                      const struct backbone_options *options, const struct backbone_layout *layout,
                      struct workspace *w)
{
    size_t depth = (size_t)options->depth;
    int64_t stream, any;

    memset(swin, 0, sizeof(*swin));
    swin->options = *options;
    swin->device = device;
    swin->ops = ops;
    swin->dtype = layout->dtype;
    swin->stream = layout->stream;
    swin->backward = layout->backward;
    shape_stages(swin, layout);
    widest(swin, &stream, &any);
    TRY(memory_alloc(&swin->weights, depth, sizeof(*swin->weights), "block weights"));
    TRY(memory_alloc(&swin->states, depth, sizeof(*swin->states), "block states"));
    TRY(memory_alloc(&swin->depths, depth, sizeof(*swin->depths), "block depths"));

    const struct block_pass *first = &swin->stages[0].pass;
    const struct block_pass *last = &swin->stages[options->n_stages - 1].pass;
    TRY(plan_buffer(w, &swin->projected, swin->stream, first->n_tokens * first->width));
    TRY(plan_floats(w, &swin->patch_mean, first->n_tokens));
    TRY(plan_floats(w, &swin->patch_rstd, first->n_tokens));
    for (int32_t i = 0; i < options->n_stages; i++)
        TRY(plan_stage(swin, w, i, stream));
    TRY(block_plan_shared(&swin->shared, first, stream, first->n_tokens, most_lse(swin), w));
    TRY(plan_buffer(w, &swin->states[0].branch, swin->dtype, stream));
    TRY(plan_buffer(w, &swin->final_x, swin->stream, last->n_tokens * last->width));
    TRY(plan_buffer(w, &swin->final_y, swin->dtype, last->n_tokens * last->width));
    TRY(plan_floats(w, &swin->final_mean, last->n_tokens));
    TRY(plan_floats(w, &swin->final_rstd, last->n_tokens));
    TRY(plan_buffer(w, &swin->all, swin->dtype, swin->n_rows * last->width));
    TRY(plan_buffer(w, &swin->features, swin->dtype, swin->n_rows * last->width));
    if (layout->backward)
        return plan_gradients(swin, w, stream, any, layout->weights_apart);
    return STATUS_OK;
}

/* ------------------------------------------------------------------------------ binding */

static void bind_block(struct swin *swin, const struct binder *b, int32_t stage, int32_t block)
{
    int32_t i = swin->stages[stage].first_block + block;
    struct block_window *window = &swin->weights[i].window;
    char name[96];

    snprintf(name, sizeof(name), "backbone.layers.%d.blocks.%d", stage, block);
    binder_block(b, name, &swin->weights[i]);
    snprintf(name, sizeof(name), "backbone.layers.%d.blocks.%d.attn.relative_position_bias_table",
             stage, block);
    window->table = binder_parameter(b, name);
    window->d_table = binder_gradient(b, name);
    snprintf(name, sizeof(name), "backbone.layers.%d.blocks.%d.attn.qkv.bias", stage, block);
    window->pad = binder_parameter(b, name);
    swin_window(&swin->options, stage, block, &window->side, &window->shift);
    if (i > 0 && !swin->backward)
        swin->states[i] = swin->states[0];
    swin->states[i].branch = swin->states[0].branch;
    block_share(&swin->states[i], &swin->shared, &swin->stages[stage].pass);
}

/* Crop number of every row of a stage. */
static enum status fill_samples(struct swin *swin, struct swin_stage *stage)
{
    struct block_pass *p = &stage->pass;
    int32_t *host, crop = 0;

    TRY(memory_alloc(&host, (size_t)p->n_tokens, sizeof(*host), "row table"));
    for (int32_t g = 0; g < p->n_groups; g++) {
        int64_t n = p->regions[g].side * p->regions[g].side;
        for (int64_t image = 0; image < p->regions[g].n_images; image++, crop++)
            for (int64_t j = 0; j < n; j++)
                host[p->regions[g].first_row + image * n + j] = crop;
    }
    enum status status = swin->device->copy_in(swin->device, stage->sample, host,
                                               (size_t)p->n_tokens * sizeof(*host));
    if (status == STATUS_OK)
        status = swin->device->synchronize(swin->device);
    memory_free(host);
    p->sample = stage->sample;
    return status;
}

enum status swin_bind(struct swin *swin, const struct binder *b)
{
    char name[96];

    swin->patch_embed = (swin->stream == DTYPE_F32 ? binder_wide_layer
                                                   : binder_layer)(b, "backbone.patch_embed.proj");
    binder_flatten(&swin->patch_embed);
    swin->patch_norm = binder_affine(b, "backbone.patch_embed.norm");
    swin->norm = binder_affine(b, "backbone.norm");
    binder_mask_token(b, &swin->mask_token, &swin->d_mask_token);
    for (int32_t i = 0; i < swin->options.n_stages; i++) {
        struct swin_stage *stage = &swin->stages[i];
        for (int32_t k = 0; k < stage->n_blocks; k++)
            bind_block(swin, b, i, k);
        TRY(fill_samples(swin, stage));
        if (i + 1 == swin->options.n_stages)
            continue;
        snprintf(name, sizeof(name), "backbone.layers.%d.downsample.norm", i);
        stage->merge_norm = binder_affine(b, name);
        snprintf(name, sizeof(name), "backbone.layers.%d.downsample.reduction", i);
        stage->reduction = binder_wide_layer(b, name);
    }
    swin->all_rows = (struct block_rows){.n_rows = swin->n_rows};
    swin->rows = swin->all_rows;
    return STATUS_OK;
}

void swin_release(struct swin *swin)
{
    if (swin == NULL)
        return;
    memory_free(swin->weights);
    memory_free(swin->states);
    memory_free(swin->depths);
    memset(swin, 0, sizeof(*swin));
}
