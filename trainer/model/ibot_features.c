/* Features for evaluation: [CLS] tokens (of a Swin: mean tokens) of the last blocks, mean patch
 * tokens. */
#include <math.h>
#include <string.h>

#include "ops/half_float.h"
#include "proto/base/memory.h"
#include "trainer/model/ibot_internal.h"

/* Width of the stream after a block. */
static int32_t width_after(const struct backbone_options *backbone, int32_t block)
{
    int32_t stage = 0;

    for (; stage + 1 < backbone->n_stages && block >= backbone->stage_depth[stage]; stage++)
        block -= backbone->stage_depth[stage];
    return backbone->embed_dim << stage;
}

int32_t backbone_feature_dim(const struct backbone_options *backbone,
                             const struct ibot_feature_options *options)
{
    int32_t depth = backbone->depth, dim = options->avgpool > 0 ? backbone_width(backbone) : 0;

    if (options->topk > 0)
        return backbone_width(backbone);
    for (int32_t i = depth - options->n_last_blocks; options->avgpool != 1 && i < depth; i++)
        dim += width_after(backbone, i > 0 ? i : 0);
    return dim;
}

int32_t ibot_feature_dim(const struct ibot *ibot, const struct ibot_feature_options *options)
{
    return backbone_feature_dim(&ibot->options.backbone, options);
}

/* The last n floats of memory take what is narrower, and are read before they are written. */
enum status ibot_copy_floats(struct device *device, struct tensor from, int64_t n, float *to)
{
    size_t size = dtype_size_bytes(from.dtype);
    char *raw = (char *)to + (size_t)n * (sizeof(float) - size);

    TRY(device->copy_out(device, raw, from.data, (size_t)n * size));
    TRY(device->synchronize(device));
    for (int64_t i = 0; i < n && from.dtype == DTYPE_BF16; i++) {
        uint16_t bits;
        memcpy(&bits, raw + (size_t)i * size, sizeof(bits));
        to[i] = half_float_from_bf16(bits);
    }
    return STATUS_OK;
}

/* Writes token 0 (or the mean of the others) of every image to its place in the feature rows. */
static enum status copy_part(struct vit *vit, struct tensor tokens, bool mean, int64_t n_images,
                             int64_t width, int64_t column, float *host_tokens, float *out)
{
    const struct vit_group *group = &vit->groups[0];
    struct device *device = vit->pass.device;
    int64_t d = vit->pass.width, row = group->length * d;

    TRY(ibot_copy_floats(device, tokens, n_images * row, host_tokens));
    for (int64_t i = 0; i < n_images; i++)
        for (int64_t j = 0; j < d; j++) {
            const float *at = host_tokens + i * row + j;
            double sum = 0.0;
            for (int64_t t = 1; mean && t < group->length; t++)
                sum += (double)at[t * d];
            out[i * width + column + j] = mean ? (float)(sum / (double)(group->length - 1)) : at[0];
        }
    return STATUS_OK;
}

/* Adds the k patch tokens of the greatest weights to sum [width], and takes their weights away. */
static void sum_of_top(double *sum, const float *patches, float *weights, int64_t n, int32_t k,
                       int64_t width)
{
    memset(sum, 0, (size_t)width * sizeof(*sum));
    for (int32_t i = 0; i < k; i++) {
        int64_t best = 0;
        for (int64_t t = 1; t < n; t++)
            if (weights[t] > weights[best])
                best = t;
        for (int64_t j = 0; j < width; j++)
            sum[j] += (double)patches[best * width + j];
        weights[best] = -INFINITY;
    }
}

/* Mean patch tokens of each image, of those that the [CLS] token looks at most. */
static enum status copy_top(struct ibot *ibot, struct vit *vit,
                            const struct ibot_feature_options *options, int64_t n_images,
                            float *host_tokens, float *out)
{
    int64_t length = vit->groups[0].length, d = vit->pass.width, n_heads = vit->pass.n_heads;
    float *attention = NULL, *weights = NULL;
    double *sum = NULL;
    enum status status;

    if (options->topk >= length)
        FAIL(STATUS_INVALID, "the mean of %d patch tokens is wanted, and there are %lld",
             options->topk, (long long)length - 1);
    TRY_OUT(memory_alloc_unset(&attention, (size_t)(n_images * n_heads * length), sizeof(float),
                               "attention"));
    TRY_OUT(memory_alloc_unset(&weights, (size_t)length, sizeof(float), "attention"));
    TRY_OUT(memory_alloc_unset(&sum, (size_t)d, sizeof(double), "features"));
    TRY_OUT(ibot_cls_attention(ibot, vit, n_images, attention));
    TRY_OUT(ibot_copy_floats(ibot->device, vit->final_x, n_images * length * d, host_tokens));
    for (int64_t i = 0; i < n_images; i++) {
        for (int64_t t = 1; t < length; t++) {
            double mean = 0.0;
            for (int64_t h = 0; h < n_heads; h++)
                mean += (double)attention[(i * n_heads + h) * length + t];
            weights[t - 1] = (float)(options->reverse_top ? -mean : mean);
        }
        sum_of_top(sum, host_tokens + (i * length + 1) * d, weights, length - 1, options->topk, d);
        for (int64_t j = 0; j < d; j++)
            out[i * d + j] = (float)(sum[j] / options->topk);
    }
out:
    memory_free(attention);
    memory_free(weights);
    memory_free(sum);
    return status;
}

/* Forward block by block, taking what is wanted after each of the last ones. */
static enum status run_vit(struct ibot *ibot, struct vit *vit,
                           const struct ibot_feature_options *options, int64_t n_images,
                           int64_t width, float *host_tokens, float *out)
{
    int32_t depth = vit->options.depth;
    int64_t column = 0;

    vit->rows = vit->all_rows;
    TRY(vit_embed(vit, NULL));
    for (int32_t i = 0; i < depth; i++) {
        TRY(vit_block(vit, i));
        if (i < depth - options->n_last_blocks || options->avgpool == 1 || options->topk > 0)
            continue;
        if (i + 1 < depth)
            TRY(vit_normed_stream(vit, vit_stream(vit, i)));
        TRY(copy_part(vit, vit->features, false, n_images, width, column, host_tokens, out));
        column += vit->pass.width;
    }
    if (options->topk > 0)
        return copy_top(ibot, vit, options, n_images, host_tokens, out);
    if (options->avgpool == 1) /* the original's final norm is the identity in this mode */
        return copy_part(vit, vit->final_x, true, n_images, width, column, host_tokens, out);
    if (options->avgpool == 2)
        return copy_part(vit, vit->features, true, n_images, width, column, host_tokens, out);
    return STATUS_OK;
}

/* ------------------------------------------------------------------------------ Swin */

/* Writes the mean token of every image to its place in the feature rows. */
static enum status copy_mean(const struct swin *swin, const struct swin_stage *stage,
                             struct tensor tokens, int64_t n_images, int64_t row_width,
                             int64_t column, float *host_tokens, float *out)
{
    int64_t n = stage->pass.regions[0].side * stage->pass.regions[0].side, d = stage->pass.width;

    TRY(ibot_copy_floats(swin->device, tokens, n_images * n * d, host_tokens));
    for (int64_t i = 0; i < n_images; i++)
        for (int64_t j = 0; j < d; j++) {
            double sum = 0.0;
            for (int64_t t = 0; t < n; t++)
                sum += (double)host_tokens[(i * n + t) * d + j];
            out[i * row_width + column + j] = (float)(sum / (double)n);
        }
    return STATUS_OK;
}

/* As run_vit, for maps without a [CLS]: earlier stages as they are, the last one normed. */
static enum status run_swin(struct swin *swin, const struct ibot_feature_options *options,
                            int64_t n_images, int64_t width, float *host_tokens, float *out)
{
    int32_t depth = swin->options.depth;
    int64_t column = 0;

    TRY(swin_embed(swin, NULL));
    for (int32_t i = 0; i < depth; i++) {
        const struct swin_stage *stage = swin_stage_of(swin, i);
        struct tensor tokens = swin_stream(swin, i);
        TRY(swin_block(swin, i));
        if (i < depth - options->n_last_blocks || options->avgpool == 1)
            continue;
        if (stage == &swin->stages[swin->options.n_stages - 1]) {
            TRY(swin_normed_stream(swin, tokens));
            tokens = swin->final_y;
        }
        TRY(copy_mean(swin, stage, tokens, n_images, width, column, host_tokens, out));
        column += stage->pass.width;
    }
    if (options->avgpool == 0)
        return STATUS_OK;
    return copy_mean(swin, swin_stage_of(swin, depth - 1), swin->final_y, n_images, width, column,
                     host_tokens, out);
}

/* ------------------------------------------------------------------------------ both */

/* Floats of the widest stream that features are taken from. */
static int64_t widest_stream(const struct backbone *backbone, int64_t n_images)
{
    int64_t most = n_images * backbone->groups[0].length * backbone->width;

    for (int32_t i = 0; backbone->swin != NULL && i < backbone->swin->options.n_stages; i++) {
        const struct block_pass *p = &backbone->swin->stages[i].pass;
        int64_t n = n_images * p->regions[0].side * p->regions[0].side * p->width;
        most = n > most ? n : most;
    }
    return most;
}

enum status ibot_features(struct ibot *ibot, struct tensor pixels,
                          const struct ibot_feature_options *options, float *out)
{
    struct backbone *backbone =
        options->student ? &ibot->student.backbone : &ibot->teacher.backbone;
    int64_t n_images = pixels.shape[0];
    int32_t depth = ibot->options.backbone.depth;
    float *host_tokens = NULL;

    TRY(ibot_check_images(ibot, &pixels, "features"));
    if (options->topk == 0 && (options->n_last_blocks < 1 || options->n_last_blocks > depth ||
                               options->avgpool < 0 || options->avgpool > 2))
        FAIL(STATUS_INVALID, "n_last_blocks %d, avgpool %d: wanted 1 to %d blocks and 0, 1 or 2",
             options->n_last_blocks, options->avgpool, depth);
    if (options->topk > 0 && backbone->vit == NULL)
        FAIL(STATUS_UNSUPPORTED, "a Swin has no [CLS] token, and so no patches that it looks at "
                                 "most: that takes the weights of a ViT");
    TRY(memory_alloc(&host_tokens, (size_t)widest_stream(backbone, n_images), sizeof(float),
                     "features"));
    int64_t width = ibot_feature_dim(ibot, options);
    enum status status = ibot_patchify(ibot, pixels, ibot->patches[0]);
    if (status == STATUS_OK)
        status = backbone->vit != NULL
                     ? run_vit(ibot, backbone->vit, options, n_images, width, host_tokens, out)
                     : run_swin(backbone->swin, options, n_images, width, host_tokens, out);
    memory_free(host_tokens);
    return status;
}
