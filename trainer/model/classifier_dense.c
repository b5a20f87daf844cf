/* The dense classifier: what several blocks of a ViT leave of each patch, side by side, and a
 * linear layer on it, for each pixel of a map of labels.
 *
 *   stream after block t ─ (final norm) ─ rows of the patches ─┐
 *   stream after block u ─ (final norm) ─ rows of the patches ─┴─> [B*N, taps*D] ─ linear ─> [B*N,
 * K]
 *
 * Side by side costs no op of its own: features [B*N, taps*D] are rows of D as well, of which tap t
 * of patch i is number i * taps + t, and rows are scattered there. All maps of a ViT have one size,
 * so that the resizing of the original's concatenation has nothing to do. */
#include "proto/base/memory.h"
#include "trainer/model/classifier_internal.h"
#include "trainer/model/decoder.h"

static bool is_last(const struct classifier *c, int32_t tap)
{
    return tap + 1 == c->options.taps.n;
}

/* Patches of one image, and of all, at the size that images have now. */
static int64_t cells_of_image(const struct classifier *c)
{
    return c->vit.groups[0].length - 1;
}

static int64_t cells_of(const struct classifier *c)
{
    return c->vit.groups[0].n_images * cells_of_image(c);
}

/* Cells of the map of logits for each patch. */
static int64_t map_cells(const struct classifier *c)
{
    int32_t scale = classifier_map_scale(&c->options);

    return (int64_t)scale * scale;
}

/* ------------------------------------------------------------------------------ planning */

static enum status plan_upernet(struct classifier *c)
{
    const struct classifier_options *o = &c->options;
    struct tap_features *t = &c->taps;
    int64_t cells = cells_of(c), scores = classifier_n_scores(c);
    struct upernet_layout layout = {
        .n_images = o->batch_size,
        .width = c->backbone.width,
        .n_classes = o->n_classes,
        .rows = (int32_t)c->vit.groups[0].rows,
        .columns = (int32_t)c->vit.groups[0].columns,
        .dtype = c->dtype,
        .trains = !o->taps.measures,
        .d_taps = !o->frozen,
    };

    TRY(plan_floats(&c->workspace, &t->auxiliary_d_logits, cells * o->n_classes));
    if (c->dtype != DTYPE_F32)
        TRY(plan_buffer(&c->workspace, &t->d_auxiliary, c->dtype, cells * o->n_classes));
    TRY(plan_floats(&c->workspace, &t->auxiliary_loss, scores));
    TRY(workspace_reserve(&c->workspace, &t->auxiliary_rank, (size_t)scores * sizeof(int32_t)));
    return upernet_plan(&c->upernet, c->device, c->ops, o->ranks, &layout, &c->workspace);
}

static const struct classifier_decoder *decoder_of(const struct classifier *c)
{
    return c->options.taps.decoder;
}

static enum status plan_decoder(struct classifier *c)
{
    const struct classifier_options *o = &c->options;
    struct decoder_site site = {
        .device = c->device,
        .ops = c->ops,
        .ranks = o->ranks,
        .dtype = c->dtype,
        .n_images = o->batch_size,
        .width = c->backbone.width,
        .rows = (int32_t)c->vit.groups[0].rows,
        .columns = (int32_t)c->vit.groups[0].columns,
        .trains = !o->taps.measures,
        .d_taps = !o->frozen,
    };

    return decoder_of(c)->plan(decoder_of(c)->context, &site, &c->workspace);
}

/* The taps one after the other, not side by side. */
static bool taps_apart(const struct classifier *c)
{
    return c->options.taps.upernet || decoder_of(c) != NULL;
}

enum status dense_plan(struct classifier *c)
{
    const struct classifier_options *o = &c->options;
    struct tap_features *t = &c->taps;
    struct workspace *w = &c->workspace;
    int64_t tokens = c->backbone.n_tokens, d = c->backbone.width, taps = o->taps.n;
    int64_t pixels = (int64_t)o->batch_size * o->image_size_px * o->image_size_px;

    int64_t cells = cells_of(c);
    c->n_rows = decoder_of(c) != NULL ? 0 : cells * map_cells(c);
    TRY(workspace_reserve(w, &t->cells, (size_t)cells * sizeof(int32_t)));
    TRY(workspace_reserve(w, &t->places, (size_t)(taps * cells) * sizeof(int32_t)));
    if (o->taps.normed || c->dtype != DTYPE_F32)
        TRY(plan_buffer(w, &t->normed, c->dtype, tokens * d));
    TRY(plan_buffer(w, &t->one, c->dtype, cells * d));
    TRY(plan_buffer(w, &t->features, c->dtype, cells * taps * d));
    TRY(plan_floats(w, &t->d_logits, c->n_rows * o->n_classes));
    TRY(plan_floats(w, &t->lse, decoder_of(c) != NULL ? 0 : pixels));
    if (o->taps.upernet)
        TRY(plan_upernet(c));
    if (decoder_of(c) != NULL)
        TRY(plan_decoder(c));
    if (o->frozen)
        return STATUS_OK;
    TRY(plan_buffer(w, &t->d_features, c->dtype, cells * taps * d));
    TRY(plan_buffer(w, &t->d_tokens, c->dtype, tokens * d));
    for (int32_t i = 0; i < taps && o->taps.normed; i++) {
        TRY(plan_floats(w, &t->mean[i], tokens));
        TRY(plan_floats(w, &t->rstd[i], tokens));
    }
    return STATUS_OK;
}

/* Rows of the patches for the size that images have now. */
static enum status fill_tables(struct classifier *c)
{
    const struct vit_group *group = &c->vit.groups[0];
    struct device *d = c->device;
    int64_t n = cells_of(c), each = cells_of_image(c), taps = c->options.taps.n;
    enum status status;
    int32_t *host;

    TRY(memory_alloc(&host, (size_t)((taps + 1) * n), sizeof(*host), "row tables"));
    for (int64_t i = 0; i < n; i++) {
        host[i] = (int32_t)(i / each * (each + 1) + 1 + i % each);
        for (int64_t t = 0; t < taps; t++)
            host[(t + 1) * n + i] = (int32_t)(taps_apart(c) ? t * n + i : i * taps + t);
    }
    TRY_OUT(d->copy_in(d, c->taps.cells, host, (size_t)n * sizeof(*host)));
    TRY_OUT(d->copy_in(d, c->taps.places, host + n, (size_t)(taps * n) * sizeof(*host)));
    TRY_OUT(d->synchronize(d));
    if (c->options.taps.upernet)
        TRY_OUT(upernet_reshape(&c->upernet, group->n_images, (int32_t)group->rows,
                                (int32_t)group->columns));
    if (decoder_of(c) != NULL)
        TRY_OUT(decoder_of(c)->reshape(decoder_of(c)->context, group->n_images,
                                       (int32_t)group->rows, (int32_t)group->columns));
out:
    memory_free(host);
    return status;
}

enum status dense_reshape(struct classifier *c, int64_t n, int32_t height_px, int32_t width_px)
{
    int32_t patch = c->options.backbone.patch_size_px;
    const struct vit_group *group = &c->vit.groups[0];

    if (group->n_images == n && group->rows == height_px / patch &&
        group->columns == width_px / patch)
        return STATUS_OK;
    if (taps_apart(c) && (height_px < 2 * patch || width_px < 2 * patch))
        FAIL(STATUS_INVALID, "a picture of %d x %d px: wanted two patches, %d px, each way",
             width_px, height_px, 2 * patch);
    TRY(backbone_reshape(&c->backbone, n, height_px, width_px));
    return fill_tables(c);
}

/* ------------------------------------------------------------------------------ forward */

/* Places of tap t [n]. */
static struct tensor places_of(const struct classifier *c, int32_t tap)
{
    int64_t n = cells_of(c);

    return tensor_1d(c->taps.places + tap * n, DTYPE_I32, n);
}

static struct tensor cells_table(const struct classifier *c)
{
    return tensor_1d(c->taps.cells, DTYPE_I32, cells_of(c));
}

/* What a tap takes of its stream [T, D], as an operand. */
static enum status tokens_of(struct classifier *c, int32_t tap, struct tensor *out)
{
    struct tap_features *t = &c->taps;
    int64_t n = c->backbone.n_tokens, d = c->backbone.width;
    struct tensor stream = shaped(vit_stream(&c->vit, c->options.taps.blocks[tap]), n, d);

    *out = shaped(t->normed, n, d);
    if (c->options.taps.normed && is_last(c, tap)) {
        *out = shaped(c->vit.features, n, d);
        return STATUS_OK;
    }
    if (!c->options.taps.normed && c->dtype == DTYPE_F32) {
        *out = stream;
        return STATUS_OK;
    }
    if (!c->options.taps.normed) {
        struct cast_args cast = {stream, *out};
        return c->ops->cast(c->device, &cast);
    }
    struct residual_layernorm_args norm = {
        .x = stream,
        .gamma = c->vit.norm.weight,
        .beta = c->vit.norm.bias,
        .y = *out,
        .eps = c->options.backbone.layer_norm_eps,
    };
    if (!c->options.frozen) {
        norm.mean = vector(t->mean[tap], n);
        norm.rstd = vector(t->rstd[tap], n);
    }
    return c->ops->residual_layernorm_forward(c->device, &norm);
}

static enum status take_tap(struct classifier *c, int32_t tap)
{
    struct tap_features *t = &c->taps;
    int64_t n = cells_of(c), d = c->backbone.width;
    struct rows_gather_args gather = {.index = cells_table(c), .to = shaped(t->one, n, d)};
    struct rows_scatter_args scatter = {gather.to, places_of(c, tap),
                                        shaped(t->features, n * c->options.taps.n, d), false};

    TRY(tokens_of(c, tap, &gather.from));
    TRY(c->ops->rows_gather(c->device, &gather));
    return c->ops->rows_scatter(c->device, &scatter);
}

static struct upernet_dropout dropout_of(const struct classifier *c)
{
    return (struct upernet_dropout){c->tables.channels[0], c->tables.channels[1]};
}

static enum status forward_taps(struct classifier *c, bool random)
{
    const struct classifier_taps *taps = &c->options.taps;

    classifier_set_depth(c, random && !c->options.frozen);
    c->vit.rows = c->backbone.rows;
    TRY(vit_embed(&c->vit, NULL));
    for (int32_t i = 0, tap = 0; i < c->options.backbone.depth; i++) {
        TRY(vit_block(&c->vit, i));
        if (taps->blocks[tap] == i)
            TRY(take_tap(c, tap++));
    }
    return STATUS_OK;
}

enum status dense_forward(struct classifier *c, bool random)
{
    const struct classifier_taps *taps = &c->options.taps;
    int64_t n = cells_of(c) * map_cells(c);
    struct linear_args linear = {
        .weight = c->linear.weight,
        .bias = c->linear.bias,
        .y = matrix(c->logits, n, c->options.n_classes),
    };

    TRY(forward_taps(c, random));
    if (decoder_of(c) != NULL)
        return STATUS_OK;
    linear.x = shaped(c->taps.features, n, classifier_width(&c->options));
    if (taps->upernet) {
        struct upernet_dropout dropout = dropout_of(c);
        TRY(upernet_forward(&c->upernet, c->taps.features, random ? &dropout : NULL));
        linear.x = upernet_fused(&c->upernet);
    }
    return c->ops->linear_forward(c->device, &linear);
}

enum status dense_loss(struct classifier *c)
{
    int32_t side = c->options.image_size_px, patch = c->options.backbone.patch_size_px;
    int32_t patches = side / patch, scale = classifier_map_scale(&c->options);
    int64_t b = c->options.batch_size, k = c->options.n_classes, pixels = b * side * side;
    struct dense_cross_entropy_args args = {
        .logits = matrix(c->logits, c->n_rows, k),
        .label = tensor_1d(c->tables.map, DTYPE_U8, pixels),
        .lse = vector(c->taps.lse, pixels),
        .loss = vector(c->loss, b * side),
        .right = tensor_1d(c->rank, DTYPE_I32, b * side),
        .d_logits = matrix(c->taps.d_logits, c->n_rows, k),
        .n = b,
        .height = scale * patches,
        .width = scale * patches,
        .label_height = side,
        .label_width = side,
        .scale = 1.0f / (float)(pixels * c->options.accumulation_steps * classifier_n_ranks(c)),
    };

    TRY(c->ops->dense_cross_entropy(c->device, &args));
    if (!c->options.taps.upernet)
        return STATUS_OK;
    args.logits = matrix(c->upernet.auxiliary_logits, b * patches * patches, k);
    args.d_logits = matrix(c->taps.auxiliary_d_logits, b * patches * patches, k);
    args.loss.data = c->taps.auxiliary_loss;
    args.right.data = c->taps.auxiliary_rank;
    args.height = args.width = patches;
    args.scale *= DENSE_AUXILIARY_SHARE;
    return c->ops->dense_cross_entropy(c->device, &args);
}

/* ------------------------------------------------------------------------------ backward */

/* The gradient of what a tap took [T, D], as an operand, to `to`: of the patches; 0 of [CLS]. */
static enum status tap_gradient(struct classifier *c, int32_t tap, struct tensor to)
{
    struct tap_features *t = &c->taps;
    int64_t n = cells_of(c), d = c->backbone.width;
    struct rows_gather_args gather = {shaped(t->d_features, n * c->options.taps.n, d),
                                      places_of(c, tap), shaped(t->one, n, d)};
    struct rows_scatter_args scatter = {gather.to, cells_table(c), to, true};

    TRY(c->ops->rows_gather(c->device, &gather));
    return c->ops->rows_scatter(c->device, &scatter);
}

/* Adds a tap's gradient to that of the stream, when the backward has come to its block. */
static enum status add_tap(void *context, int32_t block)
{
    struct classifier *c = context;
    const struct classifier_taps *taps = &c->options.taps;
    int64_t n = c->backbone.n_tokens, d = c->backbone.width;
    struct tensor d_stream = shaped(c->vit.gradients.d_stream, n, d);
    struct tensor d_tokens = shaped(c->taps.d_tokens, n, d);
    int32_t tap = 0;

    while (tap < taps->n && taps->blocks[tap] != block)
        tap++;
    if (tap == taps->n)
        return STATUS_OK;
    TRY(tap_gradient(c, tap, d_tokens));
    if (!taps->normed) {
        struct rows_add_args add = {d_tokens, d_stream};
        return c->ops->rows_add(c->device, &add);
    }
    struct residual_layernorm_backward_args norm = {
        .d_y = d_tokens,
        .d_sum = d_stream,
        .sum = shaped(vit_stream(&c->vit, block), n, d),
        .mean = vector(c->taps.mean[tap], n),
        .rstd = vector(c->taps.rstd[tap], n),
        .gamma = c->vit.norm.weight,
        .d_sum_out = d_stream,
        .d_gamma = c->vit.norm.d_weight,
        .d_beta = c->vit.norm.d_bias,
    };
    return c->ops->residual_layernorm_backward(c->device, &norm);
}

/* The gradient of the fused maps -> those of the decoder and its taps. */
static enum status upernet_back(struct classifier *c)
{
    struct tap_features *t = &c->taps;
    int64_t n = cells_of(c) * c->options.n_classes;
    struct upernet_dropout dropout = dropout_of(c);

    TRY(classifier_copy_as(c, t->auxiliary_d_logits, t->d_auxiliary, n));
    return upernet_backward(&c->upernet, t->features, upernet_d_fused(&c->upernet), t->d_auxiliary,
                            t->d_features, &dropout);
}

static enum status taps_backward(struct classifier *c)
{
    if (c->options.frozen)
        return STATUS_OK;
    TRY(tap_gradient(
        c, c->options.taps.n - 1,
        shaped(backbone_d_features(&c->backbone), c->backbone.n_tokens, c->backbone.width)));
    return backbone_backward(&c->backbone, NULL, &(struct gradient_watch){0});
}

enum status dense_decode(struct classifier *c)
{
    const struct classifier_decoder *decoder = decoder_of(c);
    float scale = 1.0f / (float)(c->options.accumulation_steps * classifier_n_ranks(c));

    TRY(decoder->step(decoder->context, c->taps.features, c->taps.d_features, scale));
    return taps_backward(c);
}

enum status dense_backward(struct classifier *c)
{
    int64_t n = c->n_rows, k = c->options.n_classes, width = classifier_width(&c->options);
    struct linear_backward_args linear = {
        .d_y = shaped(c->d_logits, n, k),
        .x = shaped(c->taps.features, n, width),
        .weight = c->linear.weight,
        .d_weight = c->linear.d_weight,
        .d_bias = c->linear.d_bias,
    };

    TRY(classifier_copy_as(c, c->taps.d_logits, c->d_logits, n * k));
    if (c->options.taps.upernet) {
        linear.x = upernet_fused(&c->upernet);
        linear.d_x = upernet_d_fused(&c->upernet);
    } else if (!c->options.frozen) {
        linear.d_x = shaped(c->taps.d_features, n, width);
    }
    TRY(c->ops->linear_backward(c->device, &linear));
    if (c->options.taps.upernet)
        TRY(upernet_back(c));
    return taps_backward(c);
}

enum status dense_bind(struct classifier *c, const struct binder *binder)
{
    if (c->dtype == DTYPE_F32) {
        c->d_logits = vector(c->taps.d_logits, 0);
        c->taps.d_auxiliary = vector(c->taps.auxiliary_d_logits, 0);
    }
    c->vit.taps = (struct vit_taps){add_tap, c};
    if (c->options.taps.upernet)
        TRY(upernet_bind(&c->upernet, binder));
    if (decoder_of(c) != NULL)
        TRY(decoder_of(c)->bind(decoder_of(c)->context, binder));
    return fill_tables(c);
}

/* ------------------------------------------------------------------------------ evaluation */

enum status dense_reshape_for(struct classifier *c, struct tensor pixels)
{
    bool bytes = pixels.dtype == DTYPE_U8;
    int64_t height = pixels.shape[bytes ? 1 : 2], width = pixels.shape[bytes ? 2 : 3];

    return dense_reshape(c, pixels.shape[0], (int32_t)height, (int32_t)width);
}

enum status classifier_taps(struct classifier *c, struct tensor pixels, struct tensor *taps)
{
    CHECK(decoder_of(c) != NULL);
    TRY(dense_reshape_for(c, pixels));
    TRY(classifier_patchify(c, pixels));
    *taps = shaped(c->taps.features, cells_of(c) * c->options.taps.n, c->backbone.width);
    return forward_taps(c, false);
}

enum status classifier_map(struct classifier *c, struct tensor pixels, float *logits)
{
    struct device *d = c->device;

    CHECK(classifier_is_dense(&c->options) && decoder_of(c) == NULL);
    TRY(dense_reshape_for(c, pixels));
    TRY(classifier_patchify(c, pixels));
    TRY(dense_forward(c, false));
    int64_t n = cells_of(c) * map_cells(c) * c->options.n_classes;
    TRY(d->copy_out(d, logits, c->logits, (size_t)n * sizeof(float)));
    return d->synchronize(d);
}
