/* Reading shapes. */
#include "trainer/architecture.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

#include "proto/base/memory.h"

enum { MAX_BLOCKS = 256, HEAD_WIDTH = 64 /* of every published ViT */ };

static enum status shape_of(const struct weight_selection *s, const char *name, int32_t rank,
                            const struct weight_entry **out)
{
    const struct weight_selected *found = weight_selection_find(s, name);

    if (found == NULL)
        FAIL(STATUS_MISMATCH,
             "weights file '%s': '%s' has no tensor '%s': neither a ViT nor a Swin as iBOT, DINO, "
             "DeiT or timm have them",
             s->file->path, s->key, name);
    if (found->entry->rank != rank)
        FAIL(STATUS_MISMATCH, "weights file '%s': tensor '%s' has %d dimensions, wanted %d",
             s->file->path, found->entry->name, found->entry->rank, rank);
    for (int32_t i = 0; i < rank; i++)
        if (found->entry->shape[i] < 1 || found->entry->shape[i] > 1 << 20)
            FAIL(STATUS_MISMATCH, "weights file '%s': tensor '%s' has an odd shape", s->file->path,
                 found->entry->name);
    *out = found->entry;
    return STATUS_OK;
}

/* How many of "PREFIX0.norm1.weight", "PREFIX1.norm1.weight", … there are. */
static int32_t count_blocks(const struct weight_selection *s, const char *start)
{
    char name[WEIGHT_MAX_NAME + 32];
    int32_t n = 0;

    while (n < MAX_BLOCKS) {
        snprintf(name, sizeof(name), "%s%d.norm1.weight", start, n);
        if (weight_selection_find(s, name) == NULL)
            break;
        n++;
    }
    return n;
}

static enum status read_patches(const struct weight_selection *s, struct backbone_options *out)
{
    const struct weight_entry *patches = NULL;

    TRY(shape_of(s, "patch_embed.proj.weight", 4, &patches));
    if (patches->shape[1] != 3 || patches->shape[2] != patches->shape[3])
        FAIL(STATUS_MISMATCH,
             "weights file '%s': its patches have %lld channels and %lld x %lld px; wanted 3 "
             "channels and a square",
             s->file->path, (long long)patches->shape[1], (long long)patches->shape[2],
             (long long)patches->shape[3]);
    out->embed_dim = (int32_t)patches->shape[0];
    out->patch_size_px = (int32_t)patches->shape[2];
    return STATUS_OK;
}

static enum status read_mlp(const struct weight_selection *s, const char *name,
                            struct backbone_options *out)
{
    const struct weight_entry *layer = NULL;

    TRY(shape_of(s, name, 2, &layer));
    if (layer->shape[1] != out->embed_dim || layer->shape[0] % out->embed_dim != 0)
        FAIL(STATUS_MISMATCH, "weights file '%s': '%s' does not fit a width of %d", s->file->path,
             name, out->embed_dim);
    out->mlp_ratio = (int32_t)(layer->shape[0] / out->embed_dim);
    return STATUS_OK;
}

/* ------------------------------------------------------------------------------ ViT */

static enum status read_heads(const struct weight_selection *s,
                              const struct architecture_hints *hints, struct backbone_options *out)
{
    struct backbone_options named;
    int32_t heads = hints->n_heads;

    if (heads == 0 && hints->arch != NULL &&
        backbone_options_for(&named, hints->arch) == STATUS_OK && named.n_stages == 0 &&
        named.embed_dim == out->embed_dim)
        heads = named.n_heads;
    if (heads == 0 && out->embed_dim % HEAD_WIDTH == 0)
        heads = out->embed_dim / HEAD_WIDTH;
    if (heads < 1 || out->embed_dim % heads != 0)
        FAIL(STATUS_INVALID,
             "weights file '%s': a ViT of width %d and %d heads: the shapes don't say how many "
             "heads there are; give --num_heads (the width divided by that of a head)",
             s->file->path, out->embed_dim, heads);
    out->n_heads = heads;
    return STATUS_OK;
}

static enum status read_vit(const struct weight_selection *s, struct backbone_options *out)
{
    const struct weight_entry *cls = NULL, *pos = NULL;

    TRY(shape_of(s, "cls_token", 3, &cls));
    TRY(shape_of(s, "pos_embed", 3, &pos));
    TRY(read_patches(s, out));
    out->depth = count_blocks(s, "blocks.");
    if (out->depth == 0)
        FAIL(STATUS_MISMATCH, "weights file '%s': '%s' has no blocks", s->file->path, s->key);
    TRY(read_mlp(s, "blocks.0.mlp.fc1.weight", out));
    int32_t grid = (int32_t)lround(sqrt((double)(pos->shape[1] - 1)));
    if (cls->shape[2] != out->embed_dim || pos->shape[2] != out->embed_dim || grid < 1 ||
        grid * grid + 1 != pos->shape[1])
        FAIL(STATUS_MISMATCH,
             "weights file '%s': 'pos_embed' has %lld rows of %lld; wanted a square number and "
             "one, of %d",
             s->file->path, (long long)pos->shape[1], (long long)pos->shape[2], out->embed_dim);
    out->image_size_px = grid * out->patch_size_px;
    return STATUS_OK;
}

/* ------------------------------------------------------------------------------ Swin */

static enum status read_swin(const struct weight_selection *s,
                             const struct architecture_hints *hints, struct backbone_options *out)
{
    char name[WEIGHT_MAX_NAME];

    TRY(read_patches(s, out));
    out->image_size_px = hints->image_size_px > 0 ? hints->image_size_px : 224;
    TRY(read_mlp(s, "layers.0.blocks.0.mlp.fc1.weight", out));
    for (int32_t stage = 0;; stage++) {
        const struct weight_entry *table = NULL;
        snprintf(name, sizeof(name), "layers.%d.blocks.", stage);
        int32_t n_blocks = count_blocks(s, name);
        if (n_blocks == 0)
            break;
        if (stage == BACKBONE_MAX_STAGES)
            FAIL(STATUS_MISMATCH, "weights file '%s': a Swin of more than %d stages", s->file->path,
                 BACKBONE_MAX_STAGES);
        snprintf(name, sizeof(name), "layers.%d.blocks.0.attn.relative_position_bias_table", stage);
        TRY(shape_of(s, name, 2, &table));
        int32_t window = ((int32_t)lround(sqrt((double)table->shape[0])) + 1) / 2;
        out->window_size = window > out->window_size ? window : out->window_size;
        out->stage_depth[stage] = n_blocks;
        out->stage_heads[stage] = (int32_t)table->shape[1];
        out->depth += n_blocks;
        out->n_stages = stage + 1;
    }
    if (hints->window_size > 0)
        out->window_size = hints->window_size;
    out->n_heads = out->stage_heads[0];
    return STATUS_OK;
}

/* ------------------------------------------------------------------------------ both */

/* The user said what it is. */
static enum status compare_with_name(const struct weight_selection *s, const char *arch,
                                     const struct backbone_options *got)
{
    struct backbone_options named;

    TRY(backbone_options_for(&named, arch));
    if (named.embed_dim != got->embed_dim || named.depth != got->depth ||
        named.n_stages != got->n_stages)
        FAIL(STATUS_MISMATCH,
             "weights file '%s' holds a %s of width %d with %d blocks; --arch %s is a %s of width "
             "%d with %d",
             s->file->path, got->n_stages > 0 ? "Swin" : "ViT", got->embed_dim, got->depth, arch,
             named.n_stages > 0 ? "Swin" : "ViT", named.embed_dim, named.depth);
    return STATUS_OK;
}

enum status architecture_read(struct backbone_options *out, const struct weight_selection *s,
                              const struct architecture_hints *hints)
{
    struct backbone_options got = {.layer_norm_eps = 1e-6f};
    bool swin = weight_selection_find(s, "layers.0.blocks.0.norm1.weight") != NULL;

    snprintf(got.arch, sizeof(got.arch), "%s",
             hints->arch != NULL ? hints->arch
             : swin              ? "swin"
                                 : "vit");
    if (weight_selection_find(s, "dist_token") != NULL)
        FAIL(STATUS_UNSUPPORTED,
             "weights file '%s', key '%s': it has a distillation token (dist_token), which no ViT "
             "here has: give the weights of the network that was not distilled, such as "
             "deit_small_patch16_224 for deit_small_distilled_patch16_224",
             s->file->path, s->key);
    TRY(swin ? read_swin(s, hints, &got) : read_vit(s, &got));
    if (hints->arch_must_fit)
        TRY(compare_with_name(s, hints->arch, &got));
    if (!swin)
        TRY(read_heads(s, hints, &got));
    TRY(backbone_options_check(&got));
    *out = got;
    return STATUS_OK;
}
