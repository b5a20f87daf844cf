/* Tokens, the attention of [CLS] tokens, and prototypes.
 *
 * Of the attention one row in T is wanted. It is made here, in double, from q and k of the last
 * block, which the forward leaves behind: the whole map of a picture of 480 px in patches of 8
 * would take 300 MB. */
#include "trainer/model/ibot_tokens.h"

#include <math.h>

#include "proto/base/memory.h"
#include "trainer/model/ibot_internal.h"

static enum status forward(struct ibot *ibot, struct tensor pixels)
{
    struct backbone *backbone = &ibot->teacher.backbone;

    TRY(ibot_check_images(ibot, &pixels, "tokens"));
    TRY(ibot_patchify(ibot, pixels, ibot->patches[0]));
    backbone->rows = backbone->all_rows;
    return backbone_forward(backbone, NULL);
}

/* ------------------------------------------------------------------------------ attention */

/* softmax over T keys, of one head of one image; rows are [T, 3D], this head's q at `q`. */
static void attention_row(const float *q, int64_t length, int64_t width, int64_t head_dim,
                          double *scores, float *out)
{
    double largest = -INFINITY, sum = 0.0, scale = 1.0 / sqrt((double)head_dim);

    for (int64_t t = 0; t < length; t++) {
        const float *k = q + t * 3 * width + width;
        double score = 0.0;
        for (int64_t j = 0; j < head_dim; j++)
            score += (double)q[j] * (double)k[j];
        scores[t] = score * scale;
        largest = fmax(largest, scores[t]);
    }
    for (int64_t t = 0; t < length; t++)
        sum += scores[t] = exp(scores[t] - largest);
    for (int64_t t = 0; t < length; t++)
        out[t] = (float)(scores[t] / sum);
}

enum status ibot_cls_attention(struct ibot *ibot, struct vit *vit, int64_t n_images, float *out)
{
    enum status status = STATUS_OK;
    double *scores = NULL;
    float *qkv = NULL;

    int64_t length = vit->groups[0].length, d = vit->pass.width, n_heads = vit->pass.n_heads;
    int64_t image = length * 3 * d, head_dim = d / n_heads;
    TRY_OUT(memory_alloc_unset(&qkv, (size_t)(n_images * image), sizeof(float), "attention"));
    TRY_OUT(memory_alloc_unset(&scores, (size_t)length, sizeof(double), "attention"));
    TRY_OUT(ibot_copy_floats(ibot->device, vit->states[vit->options.depth - 1].qkv,
                             n_images * image, qkv));
    for (int64_t i = 0; i < n_images; i++)
        for (int64_t h = 0; h < n_heads; h++)
            attention_row(qkv + i * image + h * head_dim, length, d, head_dim, scores,
                          out + (i * n_heads + h) * length);
out:
    memory_free(qkv);
    memory_free(scores);
    return status;
}

enum status ibot_tokens(struct ibot *ibot, struct tensor pixels, const struct ibot_tokens *out)
{
    struct backbone *backbone = &ibot->teacher.backbone;

    TRY(forward(ibot, pixels));
    if (out->attention != NULL && backbone->vit == NULL)
        FAIL(STATUS_UNSUPPORTED,
             "%s has no [CLS] token, and so no attention of one: that takes the weights of a ViT",
             ibot->options.backbone.arch);
    if (out->attention != NULL)
        TRY(ibot_cls_attention(ibot, backbone->vit, pixels.shape[0], out->attention));
    if (out->tokens == NULL)
        return STATUS_OK;
    return ibot_copy_floats(ibot->device, backbone->features,
                            pixels.shape[0] * backbone->groups[0].length * backbone->width,
                            out->tokens);
}

/* ------------------------------------------------------------------------------ prototypes */

static void take_greatest(const float *logits, int64_t n, int64_t k, int32_t *index, float *value)
{
    for (int64_t i = 0; i < n; i++) {
        const float *row = logits + i * k;
        int64_t best = 0;
        for (int64_t j = 1; j < k; j++)
            if (row[j] > row[best])
                best = j;
        index[i] = (int32_t)best;
        value[i] = row[best];
    }
}

/* Of n rows of head->z from `row` on. */
static enum status prototypes_of_rows(struct ibot *ibot, bool patch, int64_t row, int64_t n,
                                      float *logits, int32_t *index, float *value)
{
    struct head *head = &ibot->teacher.head;
    int64_t k = head->last[patch && !head->shared].n_out;

    TRY(head_exact_logits(head, patch, head->z + row * ibot->options.head.bottleneck_dim, n,
                          ibot->teacher_patch));
    TRY(ibot->device->copy_out(ibot->device, logits, ibot->teacher_patch,
                               (size_t)(n * k) * sizeof(float)));
    TRY(ibot->device->synchronize(ibot->device));
    take_greatest(logits, n, k, index, value);
    return STATUS_OK;
}

enum status ibot_prototypes(struct ibot *ibot, struct tensor pixels,
                            const struct ibot_prototypes *out)
{
    struct head *head = &ibot->teacher.head;
    int64_t length = ibot->teacher.backbone.groups[0].length, n_images = pixels.shape[0];
    int64_t per_image = out->patch ? length - 1 : 1;
    float *logits = NULL;
    enum status status = STATUS_OK;

    CHECK(!ibot->options.inference_only || ibot->options.inference_head, "a model with a head");
    if (ibot->options.head.norm == HEAD_NORM_BN)
        FAIL(STATUS_UNSUPPORTED, "prototypes of a head with batch norm: what it makes of an image "
                                 "depends on the others of its batch");
    TRY(forward(ibot, pixels));
    TRY(head_prepare(head));
    TRY(head_forward(head, ibot->teacher.backbone.features, n_images * length));
    int64_t k = head->last[out->patch && !head->shared].n_out;
    int64_t chunk = per_image < PATCH_CHUNK ? per_image : PATCH_CHUNK;
    TRY(memory_alloc_unset(&logits, (size_t)(chunk * k), sizeof(float), "logits"));
    for (int64_t i = 0; i < n_images; i++)
        for (int64_t j = 0; j < per_image; j += chunk) {
            int64_t n = per_image - j < chunk ? per_image - j : chunk, at = i * per_image + j;
            TRY_OUT(prototypes_of_rows(ibot, out->patch, i * length + out->patch + j, n, logits,
                                       out->index + at, out->value + at));
        }
out:
    memory_free(logits);
    return status;
}
