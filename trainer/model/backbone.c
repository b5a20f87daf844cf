/* Names of architectures, what they stand for and what follows from their options; and the one
 * interface over both families. */
#include "trainer/model/backbone.h"

#include <stdio.h>
#include <string.h>

#include "proto/base/rng.h"

static const struct {
    const char *name;
    int32_t embed_dim, depth, n_heads;
} vits[] = {
    {"vit_test", 96, 3, 3},    {"vit_tiny", 192, 12, 3},    {"vit_small", 384, 12, 6},
    {"vit_base", 768, 12, 12}, {"vit_large", 1024, 24, 16},
};

static const struct {
    const char *name;
    int32_t embed_dim, n_stages, depth[BACKBONE_MAX_STAGES], n_heads[BACKBONE_MAX_STAGES];
    float drop_path;
} swins[] = {
    {"swin_test", 64, 2, {2, 2}, {2, 4}, 0.0f},
    {"swin_tiny", 96, 4, {2, 2, 6, 2}, {3, 6, 12, 24}, 0.1f},
    {"swin_small", 96, 4, {2, 2, 18, 2}, {3, 6, 12, 24}, 0.2f},
    {"swin_base", 128, 4, {2, 2, 18, 2}, {4, 8, 16, 32}, 0.2f},
    {"swin_large", 192, 4, {2, 2, 18, 2}, {6, 12, 24, 48}, 0.2f},
};

enum {
    N_VITS = sizeof(vits) / sizeof(vits[0]),
    N_SWINS = sizeof(swins) / sizeof(swins[0]),
    SWIN_PATCH_PX = 4,
};

static void fill_swin(struct backbone_options *out, size_t i)
{
    *out = (struct backbone_options){
        .embed_dim = swins[i].embed_dim,
        .n_heads = swins[i].n_heads[0],
        .mlp_ratio = 4,
        .patch_size_px = SWIN_PATCH_PX,
        .image_size_px = 224,
        .drop_path = swins[i].drop_path,
        .layer_norm_eps = 1e-6f,
        .n_stages = swins[i].n_stages,
        .window_size = 7,
    };
    for (int32_t s = 0; s < out->n_stages; s++) {
        out->stage_depth[s] = swins[i].depth[s];
        out->stage_heads[s] = swins[i].n_heads[s];
        out->depth += swins[i].depth[s];
    }
}

static void append(char *text, size_t size, const char *name)
{
    size_t used = strlen(text);
    snprintf(text + used, size - used, "%s%s", used > 0 ? ", " : "", name);
}

enum status backbone_options_for(struct backbone_options *out, const char *arch)
{
    char name[32], known[256] = "";

    snprintf(name, sizeof(name), "%s", arch);
    if (strncmp(name, "deit_", 5) == 0)
        snprintf(name, sizeof(name), "vit_%s", arch + 5);
    for (size_t i = 0; i < N_VITS; i++) {
        append(known, sizeof(known), vits[i].name);
        if (strcmp(name, vits[i].name) != 0)
            continue;
        *out = (struct backbone_options){
            .embed_dim = vits[i].embed_dim,
            .depth = vits[i].depth,
            .n_heads = vits[i].n_heads,
            .mlp_ratio = 4,
            .patch_size_px = 16,
            .image_size_px = 224,
            .layer_norm_eps = 1e-6f,
        };
        snprintf(out->arch, sizeof(out->arch), "%s", name);
        return STATUS_OK;
    }
    for (size_t i = 0; i < N_SWINS; i++) {
        append(known, sizeof(known), swins[i].name);
        if (strcmp(name, swins[i].name) != 0)
            continue;
        fill_swin(out, i);
        snprintf(out->arch, sizeof(out->arch), "%s", name);
        return STATUS_OK;
    }
    FAIL(STATUS_INVALID, "arch: got '%s', wanted one of %s, deit_tiny, deit_small", arch, known);
}

static int32_t n_merges(const struct backbone_options *o)
{
    return o->n_stages > 0 ? o->n_stages - 1 : 0;
}

int32_t backbone_cell_px(const struct backbone_options *o)
{
    return o->patch_size_px << n_merges(o);
}

int32_t backbone_grid(const struct backbone_options *o, int32_t size_px)
{
    int32_t side = size_px / o->patch_size_px;

    for (int32_t i = 0; i < n_merges(o); i++)
        side = (side + 1) / 2;
    return side;
}

int32_t backbone_width(const struct backbone_options *o)
{
    return o->embed_dim << n_merges(o);
}

float backbone_drop_rate(const struct backbone_options *o, int32_t block)
{
    if (o->depth <= 1)
        return 0.0f;
    /* torch.linspace in float32: from the start in the first half, from the end in the second */
    float step = o->drop_path / (float)(o->depth - 1);
    return block < o->depth / 2 ? step * (float)block
                                : o->drop_path - step * (float)(o->depth - 1 - block);
}

float backbone_draw_scale(const struct backbone_options *o, int32_t block, int32_t branch,
                          uint64_t seed, uint32_t step, uint32_t sample)
{
    float keep = 1.0f - backbone_drop_rate(o, block);
    struct rng rng = rng_open((struct rng_key){
        .seed = seed,
        .epoch = step,
        .sample = sample,
        .view = (uint16_t)(2 * block + branch),
        .purpose = RNG_DROP_PATH,
    });

    return rng_uniform(&rng) < (double)keep ? 1.0f / keep : 0.0f;
}

static enum status check_swin(const struct backbone_options *o)
{
    int32_t map = o->image_size_px / o->patch_size_px >> n_merges(o), depth = 0;

    if (o->n_stages < 1 || o->n_stages > BACKBONE_MAX_STAGES)
        FAIL(STATUS_INVALID, "a Swin of %d stages: wanted 1 to %d", o->n_stages,
             BACKBONE_MAX_STAGES);
    for (int32_t s = 0; s < o->n_stages; s++) {
        int32_t width = o->embed_dim << s, heads = o->stage_heads[s];
        if (o->stage_depth[s] < 1 || heads < 1 || width % heads != 0)
            FAIL(STATUS_INVALID,
                 "stage %d: %d blocks, width %d, %d heads: wanted at least one block and a "
                 "width that the heads divide",
                 s, o->stage_depth[s], width, heads);
        depth += o->stage_depth[s];
    }
    if (depth != o->depth)
        FAIL(STATUS_INVALID, "depth %d, but the stages have %d blocks", o->depth, depth);
    if (o->window_size < 1 || o->window_size > BACKBONE_MAX_WINDOW)
        FAIL(STATUS_INVALID, "window_size: got %d, wanted 1 to %d", o->window_size,
             BACKBONE_MAX_WINDOW);
    if (map < 1)
        FAIL(STATUS_INVALID,
             "images of %d px leave nothing for the last of %d stages: wanted at least %d px",
             o->image_size_px, o->n_stages, backbone_cell_px(o));
    return STATUS_OK;
}

enum status backbone_options_check(const struct backbone_options *o)
{
    if (o->embed_dim < 1 || o->n_heads < 1 || o->embed_dim % o->n_heads != 0)
        FAIL(STATUS_INVALID, "embed_dim %d is not a multiple of num_heads %d", o->embed_dim,
             o->n_heads);
    if (o->depth < 1 || o->patch_size_px < 1 || o->image_size_px < o->patch_size_px)
        FAIL(STATUS_INVALID,
             "depth %d, patch_size %d, image size %d: each must be positive and a "
             "patch no larger than the image",
             o->depth, o->patch_size_px, o->image_size_px);
    return o->n_stages != 0 ? check_swin(o) : STATUS_OK;
}

/* ------------------------------------------------------------------------------ families */

static void shape_of_vit(struct backbone *b)
{
    struct vit *vit = b->vit;

    for (int32_t g = 0; g < vit->n_groups; g++)
        b->groups[g] = (struct backbone_group){vit->groups[g].n_images, vit->groups[g].length,
                                               vit->groups[g].first_row};
    b->n_groups = vit->n_groups;
    b->n_tokens = vit->pass.n_tokens;
    b->width = vit->pass.width;
    b->n_samples = vit->n_samples;
    b->depths = vit->depths;
}

static void shape_of_swin(struct backbone *b)
{
    struct swin *swin = b->swin;
    const struct block_pass *last = &swin->stages[swin->options.n_stages - 1].pass;

    for (int32_t g = 0; g < last->n_groups; g++)
        b->groups[g] = (struct backbone_group){last->regions[g].n_images,
                                               last->regions[g].side * last->regions[g].side + 1,
                                               swin->first_row[g]};
    b->n_groups = last->n_groups;
    b->n_tokens = swin->n_rows;
    b->width = last->width;
    b->n_samples = swin->n_samples;
    b->depths = swin->depths;
}

enum status backbone_plan(struct backbone *b, struct vit *vit, struct swin *swin,
                          struct device *device, const struct op_table *ops,
                          const struct backbone_options *options,
                          const struct backbone_layout *layout, struct workspace *workspace)
{
    memset(b, 0, sizeof(*b));
    if (options->n_stages == 0) {
        b->vit = vit;
        TRY(vit_plan(vit, device, ops, options, layout, workspace));
        shape_of_vit(b);
    } else {
        b->swin = swin;
        TRY(swin_plan(swin, device, ops, options, layout, workspace));
        shape_of_swin(b);
    }
    b->all_rows = (struct block_rows){.n_rows = b->n_tokens};
    b->rows = b->all_rows;
    return STATUS_OK;
}

enum status backbone_bind(struct backbone *b, const struct binder *binder,
                          const struct tensor patches[2])
{
    if (b->vit != NULL) {
        TRY(vit_bind(b->vit, binder));
        b->features = b->vit->without_norm ? b->vit->final_x : b->vit->features;
    } else {
        TRY(swin_bind(b->swin, binder));
        b->features = b->swin->features;
    }
    for (int g = 0; g < 2; g++)
        *(b->vit != NULL ? &b->vit->groups[g].patches : &b->swin->patches[g]) = patches[g];
    return STATUS_OK;
}

enum status backbone_reshape(struct backbone *b, int64_t n_images, int32_t height_px,
                             int32_t width_px)
{
    if (b->vit == NULL)
        FAIL(STATUS_UNSUPPORTED,
             "images of %d x %d px: a Swin takes squares of the size that it was opened for; give "
             "the weights of a ViT",
             width_px, height_px);
    int32_t p = b->vit->options.patch_size_px;
    TRY(vit_reshape(b->vit, n_images, height_px / p, width_px / p));
    shape_of_vit(b);
    b->all_rows.n_rows = b->n_tokens;
    b->rows = b->all_rows;
    return STATUS_OK;
}

enum status backbone_forward(struct backbone *b, uint8_t *mask)
{
    if (b->vit != NULL) {
        b->vit->rows = b->rows;
        return vit_forward(b->vit, mask);
    }
    b->swin->rows = b->rows;
    return swin_forward(b->swin, mask);
}

struct block_kept backbone_keep(const struct backbone *b, const float *scales, int32_t *shift,
                                int32_t *on_device)
{
    struct block_kept kept = {.shift = on_device};
    int64_t sample = 0, dropped = 0;

    for (int32_t g = 0; g < b->n_groups; g++)
        for (int64_t i = 0; i < b->groups[g].n_images; i++, sample++) {
            shift[sample] = scales[sample] != 0.0f ? (int32_t)dropped : -1;
            dropped += scales[sample] != 0.0f ? 0 : b->groups[g].length;
            kept.n_sequences[g] += scales[sample] != 0.0f;
        }
    kept.n_rows = b->n_tokens - dropped;
    return kept.n_rows > 0 && dropped > 0 ? kept : (struct block_kept){0};
}

struct tensor backbone_d_features(struct backbone *b)
{
    if (b->vit == NULL)
        return b->swin->d_features;
    return b->vit->without_norm ? b->vit->gradients.d_stream : b->vit->gradients.d_y;
}

const struct block_gradients *backbone_gradients(const struct backbone *b)
{
    return b->vit != NULL ? &b->vit->gradients : &b->swin->gradients;
}

enum status backbone_backward(struct backbone *b, uint8_t *mask, const struct gradient_watch *watch)
{
    return b->vit != NULL ? vit_backward(b->vit, mask, watch) : swin_backward(b->swin, mask, watch);
}

void backbone_release(struct backbone *b)
{
    if (b == NULL)
        return;
    vit_release(b->vit);
    swin_release(b->swin);
    memset(b, 0, sizeof(*b));
}
