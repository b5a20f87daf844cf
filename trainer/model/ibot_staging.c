/* What a micro-batch needs from the host besides its pixels, in one block: control, mask, index
 * tables, scales of stochastic depth. The host fills a pinned copy while the device works on the
 * micro-batch before, and one copy brings it in; addresses and sizes on the device never change.
 *
 *   needed, teacher_rows:  | [CLS] of every crop | masked patches | -1 … |
 *                                                 n_masked ^   rows ^      ^ capacity
 *
 * On a device that records steps the number of patch rows is rounded up, so that few different
 * steps have to be recorded: what is between stands for nothing (index -1, weight 0). */
#include <string.h>

#include "trainer/model/ibot_internal.h"

/* Parts that the masked rows are rounded up to, of all patches. */
enum { ROW_PARTS = 32, ROW_GRAIN = 8, ALIGNMENT = 256 };

int64_t ibot_patch_capacity(const struct ibot *ibot)
{
    const struct ibot_options *o = &ibot->options;
    return (int64_t)o->n_global * o->batch_size * ibot_n_patches(ibot);
}

int64_t ibot_patch_rows(const struct ibot *ibot, int64_t n_masked)
{
    int64_t capacity = ibot_patch_capacity(ibot);
    int64_t grain = (capacity / ROW_PARTS + ROW_GRAIN - 1) / ROW_GRAIN * ROW_GRAIN;

    if (ibot->device->capture_begin == NULL)
        return n_masked;
    grain = grain < ROW_GRAIN ? ROW_GRAIN : grain;
    int64_t rows = (n_masked + grain - 1) / grain * grain;
    return rows < capacity ? rows : capacity;
}

int64_t ibot_n_masked(const struct ibot *ibot, const uint8_t *masks)
{
    int64_t n = 0, capacity = ibot_patch_capacity(ibot);

    for (int64_t i = 0; i < capacity && masks != NULL; i++)
        n += masks[i] != 0;
    return n;
}

/* ------------------------------------------------------------------------------ layout */

static void place(char *base, size_t *at, void *pointer, int64_t n, size_t size)
{
    *(void **)pointer = base + *at;
    *at += ((size_t)n * size + ALIGNMENT - 1) / ALIGNMENT * ALIGNMENT;
}

/* Branches with a rate above 0. */
static int64_t n_random_branches(const struct ibot *ibot)
{
    int64_t n = 0;
    for (int32_t i = 0; i < ibot->options.backbone.depth; i++)
        n += backbone_drop_rate(&ibot->options.backbone, i) > 0.0f ? 2 : 0;
    return n;
}

size_t ibot_tables_layout(const struct ibot *ibot, char *base, struct step_tables *t)
{
    const struct ibot_options *o = &ibot->options;
    int64_t capacity = ibot_patch_capacity(ibot), chunks = capacity / PATCH_CHUNK + 1;
    int64_t images = (int64_t)o->n_global * o->batch_size;
    size_t at = 0;

    place(base, &at, &t->control, 1, sizeof(struct step_control));
    place(base, &at, &t->chunk_active, chunks, sizeof(int32_t));
    place(base, &at, &t->depth, n_random_branches(ibot) * ibot->n_cls, sizeof(float));
    place(base, &at, &t->depth_shift,
          ibot->skips_dropped ? n_random_branches(ibot) * ibot->n_cls : 0, sizeof(int32_t));
    place(base, &at, &t->mask, capacity, 1);
    place(base, &at, &t->needed, ibot->n_cls + capacity, sizeof(int32_t));
    place(base, &at, &t->needed_sample, ibot->n_cls + capacity, sizeof(int32_t));
    place(base, &at, &t->teacher_rows, images + capacity, sizeof(int32_t));
    place(base, &at, &t->patch_weight, capacity, sizeof(float));
    return at;
}

void ibot_bind_depth(struct ibot *ibot)
{
    struct backbone *backbone = &ibot->student.backbone;
    float *at = ibot->tables.depth;

    for (int32_t i = 0; i < ibot->options.backbone.depth; i++) {
        if (backbone_drop_rate(&ibot->options.backbone, i) <= 0.0f)
            continue;
        backbone->depths[i] = (struct block_depth){
            .attention_scale = at, .mlp_scale = at + ibot->n_cls, .n_samples = ibot->n_cls};
        at += 2 * ibot->n_cls;
    }
}

/* ------------------------------------------------------------------------------ rows */

/* [CLS] rows of every crop, in the order of the views. */
static void fill_cls_rows(const struct ibot *ibot, struct step_tables *t)
{
    const struct backbone *backbone = &ibot->student.backbone;
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

/* Rows and weights of the masked patches, and of those up to `rows` that stand for nothing. */
static void fill_masked_rows(const struct ibot *ibot, struct step_tables *t, const uint8_t *masks)
{
    const struct ibot_options *o = &ibot->options;
    int64_t cells = ibot_n_patches(ibot), images = (int64_t)o->n_global * o->batch_size, m = 0;
    double share =
        (double)o->lambda2 / ((double)images * o->accumulation_steps * ibot->collective->world);

    for (int64_t i = 0; i < images && masks != NULL; i++) {
        const uint8_t *mask = masks + i * cells;
        int64_t count = 0;
        for (int64_t j = 0; j < cells; j++)
            count += mask[j] != 0;
        for (int64_t j = 0; j < cells; j++) {
            if (mask[j] == 0)
                continue;
            int64_t row = i * (cells + 1) + 1 + j;
            t->needed[ibot->n_cls + m] = (int32_t)row;
            t->needed_sample[ibot->n_cls + m] = (int32_t)i;
            t->teacher_rows[images + m] = (int32_t)row;
            t->patch_weight[m++] = (float)(share / (double)count);
        }
    }
    for (; m < ibot->n_patch_rows; m++) {
        t->needed[ibot->n_cls + m] = t->teacher_rows[images + m] = -1;
        t->needed_sample[ibot->n_cls + m] = 0;
        t->patch_weight[m] = 0.0f;
    }
    for (int64_t first = 0; first < ibot->n_patch_rows; first += PATCH_CHUNK) {
        int64_t rest = ibot->n_masked - first, most = ibot->n_patch_rows - first;
        most = most < PATCH_CHUNK ? most : PATCH_CHUNK;
        t->chunk_active[first / PATCH_CHUNK] = (int32_t)(rest < 0 ? 0 : rest < most ? rest : most);
    }
}

/* ------------------------------------------------------------------------------ stochastic depth
 */

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
        if (input->keep_globals != NULL) {
            bool kept = crop < globals ? input->keep_globals[drawn * globals + crop] != 0
                                       : input->keep_locals[drawn * locals + crop - globals] != 0;
            scales[crop] = kept ? 1.0f / keep : 0.0f;
            continue;
        }
        int64_t view = crop / o->batch_size;
        int64_t number = input->first_sample + crop % o->batch_size * stride;
        scales[crop] = backbone_draw_scale(&o->backbone, block, branch, input->keep_seed,
                                           (uint32_t)input->step,
                                           (uint32_t)(view << 24 | (number & 0xffffff)));
    }
}

static void fill_depth(const struct ibot *ibot, struct step_tables *t,
                       const struct ibot_input *input)
{
    int32_t drawn = 0;

    for (int32_t i = 0; i < ibot->options.backbone.depth; i++)
        for (int32_t branch = 0; branch < 2; branch++)
            if (backbone_drop_rate(&ibot->options.backbone, i) > 0.0f) {
                draw_scales(ibot, input, i, branch, drawn, t->depth + drawn * ibot->n_cls);
                drawn++;
            }
}

static void fill_kept(struct ibot *ibot, struct step_tables *t)
{
    struct backbone *backbone = &ibot->student.backbone;
    int64_t drawn = 0;

    for (int32_t i = 0; i + 1 < ibot->options.backbone.depth; i++) {
        struct block_kept *branches[] = {&backbone->depths[i].attention, &backbone->depths[i].mlp};
        if (backbone_drop_rate(&ibot->options.backbone, i) <= 0.0f)
            continue;
        for (int branch = 0; branch < 2; branch++, drawn++) {
            int64_t at = drawn * ibot->n_cls;
            *branches[branch] = backbone_keep(backbone, t->depth + at, t->depth_shift + at,
                                              ibot->tables.depth_shift + at);
        }
    }
}

/* ------------------------------------------------------------------------------ staging */

enum status ibot_stage(struct ibot *ibot, const struct ibot_input *input,
                       const struct step_control *control)
{
    struct device *device = ibot->device;
    struct backbone *backbone = &ibot->student.backbone;
    int which = ibot->next_staging;
    struct step_tables *t = &ibot->staging[which];
    int64_t most = input->most_masked;

    ibot->n_masked = ibot_n_masked(ibot, input->masks);
    ibot->n_patch_rows = ibot_patch_rows(ibot, most > ibot->n_masked ? most : ibot->n_masked);
    TRY(device->wait_mark(device, IBOT_MARK_STAGING + which)); /* its copy in, two times ago */
    *t->control = *control;
    if (input->masks != NULL)
        memcpy(t->mask, input->masks, (size_t)ibot_patch_capacity(ibot));
    fill_cls_rows(ibot, t);
    fill_masked_rows(ibot, t, input->masks);
    fill_depth(ibot, t, input);
    if (ibot->skips_dropped)
        fill_kept(ibot, t);
    TRY(device->copy_in(device, ibot->tables.control, t->control, ibot->tables_bytes));
    TRY(device->mark(device, IBOT_MARK_STAGING + which));
    ibot->next_staging = 1 - which;
    backbone->rows = ibot->options.head.norm == HEAD_NORM_BN
                         ? backbone->all_rows
                         : (struct block_rows){ibot->tables.needed, ibot->tables.needed_sample,
                                               ibot->n_cls + ibot->n_patch_rows};
    return STATUS_OK;
}
