/* What differs from step to step on the host: which rows the loss reads, and which branches
 * stochastic depth keeps. */
#include <string.h>

#include "proto/base/rng.h"
#include "trainer/model/ibot_internal.h"

/* [CLS] rows of every crop, in the order of the views. */
static void fill_cls_rows(struct ibot *ibot)
{
    const struct backbone *backbone = &ibot->student.backbone;
    struct step_tables *t = &ibot->host;
    int64_t at = 0;

    for (int32_t g = 0; g < backbone->n_groups; g++)
        for (int64_t image = 0; image < backbone->groups[g].n_images; image++, at++) {
            t->needed[at] =
                (int32_t)(backbone->groups[g].first_row + image * backbone->groups[g].length);
            t->needed_sample[at] = (int32_t)at;
            if (g == 0)
                t->teacher_rows[at] = t->needed[at];
        }
}

/* Rows and weights of the masked patches. */
static void fill_masked_rows(struct ibot *ibot, const uint8_t *masks)
{
    const struct ibot_options *o = &ibot->options;
    int64_t cells = ibot_n_patches(ibot), images = (int64_t)o->n_global * o->batch_size;
    struct step_tables *t = &ibot->host;
    double share =
        (double)o->lambda2 / ((double)images * o->accumulation_steps * ibot->collective->world);

    ibot->n_masked = 0;
    for (int64_t i = 0; i < images && masks != NULL; i++) {
        const uint8_t *mask = masks + i * cells;
        int64_t count = 0;
        for (int64_t j = 0; j < cells; j++)
            count += mask[j] != 0;
        for (int64_t j = 0; j < cells; j++) {
            if (mask[j] == 0)
                continue;
            int64_t m = ibot->n_masked++, row = i * (cells + 1) + 1 + j;
            t->needed[ibot->n_cls + m] = (int32_t)row;
            t->needed_sample[ibot->n_cls + m] = (int32_t)i;
            t->teacher_rows[images + m] = (int32_t)row;
            t->patch_weight[m] = (float)(share / (double)count);
        }
    }
}

enum status ibot_prepare_rows(struct ibot *ibot, const uint8_t *masks)
{
    struct device *device = ibot->device;
    int64_t images = (int64_t)ibot->options.n_global * ibot->options.batch_size;
    size_t mask_bytes = (size_t)(images * ibot_n_patches(ibot)), index = sizeof(int32_t);
    struct backbone *backbone = &ibot->student.backbone;

    fill_cls_rows(ibot);
    fill_masked_rows(ibot, masks);
    ibot->n_needed = ibot->n_cls + ibot->n_masked;
    if (masks != NULL)
        TRY(device->copy_in(device, ibot->mask, masks, mask_bytes));
    TRY(device->copy_in(device, ibot->tables.needed, ibot->host.needed,
                        (size_t)ibot->n_needed * index));
    TRY(device->copy_in(device, ibot->tables.needed_sample, ibot->host.needed_sample,
                        (size_t)ibot->n_needed * index));
    TRY(device->copy_in(device, ibot->tables.teacher_rows, ibot->host.teacher_rows,
                        (size_t)(images + ibot->n_masked) * index));
    TRY(device->copy_in(device, ibot->tables.patch_weight, ibot->host.patch_weight,
                        (size_t)ibot->n_masked * sizeof(float)));
    backbone->rows =
        ibot->options.head.norm == HEAD_NORM_BN
            ? backbone->all_rows
            : (struct block_rows){ibot->tables.needed, ibot->tables.needed_sample, ibot->n_needed};
    return STATUS_OK;
}

/* 0 or 1/keep for every crop, for one branch of one block. */
static void draw_scales(const struct ibot *ibot, const struct ibot_input *input, int32_t block,
                        int32_t branch, int32_t drawn, float *scales)
{
    const struct backbone *backbone = &ibot->student.backbone;
    const struct ibot_options *o = &ibot->options;
    float keep = 1.0f - backbone_drop_rate(&o->backbone, block);
    int64_t globals = (int64_t)o->n_global * o->batch_size, locals = backbone->n_samples - globals;
    int64_t stride = input->sample_stride > 0 ? input->sample_stride : 1;

    for (int64_t crop = 0; crop < backbone->n_samples; crop++) {
        bool kept;
        if (input->keep_globals != NULL) {
            kept = crop < globals ? input->keep_globals[drawn * globals + crop] != 0
                                  : input->keep_locals[drawn * locals + crop - globals] != 0;
        } else {
            int64_t view = crop / o->batch_size;
            int64_t number = input->first_sample + crop % o->batch_size * stride;
            struct rng rng = rng_open((struct rng_key){
                .seed = input->keep_seed,
                .epoch = (uint32_t)input->step,
                .sample = (uint32_t)(view << 24 | (number & 0xffffff)),
                .view = (uint16_t)(2 * block + branch),
                .purpose = RNG_DROP_PATH,
            });
            kept = rng_uniform(&rng) < (double)keep;
        }
        scales[crop] = kept ? 1.0f / keep : 0.0f;
    }
}

enum status ibot_prepare_depth(struct ibot *ibot, const struct ibot_input *input)
{
    struct backbone *backbone = &ibot->student.backbone;
    struct device *device = ibot->device;
    size_t bytes = (size_t)backbone->n_samples * sizeof(float);
    float *scales = ibot->host.cls_weight; /* staging: constant tables were copied in at open */
    int32_t drawn = 0;

    for (int32_t i = 0; i < ibot->options.backbone.depth; i++) {
        if (backbone->depths[i].attention_scale == NULL)
            continue;
        draw_scales(ibot, input, i, 0, drawn++, scales);
        TRY(device->copy_in(device, backbone->depths[i].attention_scale, scales, bytes));
        TRY(device->synchronize(device));
        draw_scales(ibot, input, i, 1, drawn++, scales);
        TRY(device->copy_in(device, backbone->depths[i].mlp_scale, scales, bytes));
        TRY(device->synchronize(device));
    }
    return STATUS_OK;
}
