/* Objects in pictures: the stages move the boxes and say what they are, the means of what they say
 * decide; of boxes of a class that overlap the surest stays; masks of the boxes that are left. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "proto/base/memory.h"
#include "trainer/detect/detector_internal.h"
#include "trainer/detect/region_losses.h"
#include "trainer/model/buffer.h"

static enum status store_moments(struct detector *d)
{
    if (d->stored_fits)
        return STATUS_OK;
    TRY(conv_unit_store(&d->pyramid.scales.unit));
    for (int i = 0; i < CASCADE_STAGES; i++)
        TRY(box_head_store(&d->box[i]));
    d->stored_fits = true;
    return STATUS_OK;
}

/* ------------------------------------------------------------------------------ boxes */

static enum status take_proposals(struct detector *d)
{
    regions_clear(&d->regions);
    for (int32_t i = 0; i < d->images; i++)
        for (int32_t k = 0; k < d->n_candidates[i]; k++) {
            struct region item = {
                .image = i,
                .box = d->candidates[i * d->candidates_each + k],
                .object = REGION_BACKGROUND,
                .label = d->options.n_classes,
            };
            TRY(regions_add(&d->regions, &item));
        }
    return STATUS_OK;
}

/* d->class_sums: of each region in the beginning, over the stages. */
static enum status classify_stage(struct detector *d, int32_t stage)
{
    int64_t width = d->options.n_classes + 1, cells = BOX_HEAD_SIDE * BOX_HEAD_SIDE;
    struct tensor x = shaped(d->box_x, d->regions.n * cells, d->options.channels);

    TRY(regions_sort(&d->regions));
    TRY(detector_cut(d, &d->regions, BOX_HEAD_SIDE, x));
    TRY(detector_classify(d, stage, d->regions.n, false));
    for (int32_t i = 0; i < d->regions.n; i++) {
        float *sum = d->class_sums + d->regions.items[i].origin * width;
        for (int64_t c = 0; c < width; c++)
            sum[c] = (stage > 0 ? sum[c] : 0.0f) + d->classes[i * width + c];
    }
    for (int32_t i = 0; i < d->regions.n && stage + 1 < CASCADE_STAGES; i++)
        d->regions.items[i].box = detector_moved(d, stage, &d->regions, i);
    return STATUS_OK;
}

/* Boxes of all classes that are sure enough. */
struct sure_boxes {
    struct box *boxes;
    float *scores;
    int32_t *labels;
    int32_t n;
    size_t box_capacity, score_capacity, label_capacity;
};

static enum status add_sure(struct sure_boxes *s, const struct box *box, float score, int32_t label)
{
    size_t n = (size_t)s->n + 1;

    TRY(memory_grow(&s->boxes, &s->box_capacity, n, sizeof(*s->boxes), "detections"));
    TRY(memory_grow(&s->scores, &s->score_capacity, n, sizeof(*s->scores), "detections"));
    TRY(memory_grow(&s->labels, &s->label_capacity, n, sizeof(*s->labels), "detections"));
    s->boxes[s->n] = *box;
    s->scores[s->n] = score;
    s->labels[s->n++] = label;
    return STATUS_OK;
}

static enum status sure_of(struct sure_boxes *s, struct detector *d, int32_t image, float *shares)
{
    const int32_t k = d->options.n_classes, last = CASCADE_STAGES - 1;

    for (int32_t i = 0; i < d->regions.n; i++) {
        const struct region *r = &d->regions.items[i];
        float *sums = d->class_sums + (int64_t)r->origin * (k + 1);
        if (r->image != image)
            continue;
        for (int32_t c = 0; c <= k; c++)
            shares[c] = sums[c] / CASCADE_STAGES;
        region_softmax(shares, shares, k + 1);
        for (int32_t c = 0; c < k; c++) {
            if (shares[c] <= d->options.least_score)
                continue;
            struct box box = box_decode(&r->box, d->shift + ((int64_t)i * k + c) * 4,
                                        detector_std[last], &d->frames[image]);
            TRY(add_sure(s, &box, shares[c], c));
        }
    }
    return STATUS_OK;
}

static enum status keep_surest(struct detector *d, int32_t image, struct sure_boxes *s,
                               float *shares, int32_t *keep)
{
    int32_t n;

    s->n = 0;
    TRY(sure_of(s, d, image, shares));
    const struct box_candidates all = {s->boxes, s->scores, s->labels, s->n};
    TRY(box_suppress(keep, &n, &all, d->options.threshold, d->options.detections));
    TRY(memory_grow(&d->found, &d->found_capacity, (size_t)(d->n_found + n), sizeof(*d->found),
                    "detections"));
    for (int32_t i = 0; i < n; i++) {
        struct detection *found = &d->found[d->n_found++];
        *found = (struct detection){.image = image,
                                    .label = s->labels[keep[i]],
                                    .score = s->scores[keep[i]],
                                    .box = s->boxes[keep[i]]};
    }
    return STATUS_OK;
}

static enum status keep_all(struct detector *d)
{
    struct sure_boxes sure = {0};
    float *shares = NULL;
    int32_t *keep = NULL;
    enum status status;

    TRY_OUT(memory_alloc(&shares, (size_t)d->options.n_classes + 1, sizeof(*shares), "classes"));
    TRY_OUT(memory_alloc(&keep, (size_t)d->options.detections, sizeof(*keep), "detections"));
    for (int32_t i = 0; i < d->images; i++)
        TRY_OUT(keep_surest(d, i, &sure, shares, keep));
out:
    memory_free(sure.boxes);
    memory_free(sure.scores);
    memory_free(sure.labels);
    memory_free(shares);
    memory_free(keep);
    return status;
}

/* ------------------------------------------------------------------------------ masks */

static enum status draw_masks(struct detector *d)
{
    int64_t pixels = MASK_SIDE * MASK_SIDE, cells = MASK_HEAD_SIDE * MASK_HEAD_SIDE;
    struct regions *r = &d->positives;

    regions_clear(r);
    for (int32_t i = 0; i < d->n_found; i++) {
        const struct detection *f = &d->found[i];
        struct region item = {.image = f->image, .box = f->box, .label = f->label};
        TRY(regions_add(r, &item));
    }
    if (r->n == 0)
        return STATUS_OK;
    TRY(regions_sort(r));
    TRY(detector_cut(d, r, MASK_HEAD_SIDE, shaped(d->mask_x, r->n * cells, d->options.channels)));
    for (int32_t stage = 0; stage < CASCADE_STAGES; stage++) {
        TRY(detector_draw(d, stage, r));
        for (int64_t i = 0; i < r->n * pixels; i++)
            d->found[r->items[i / pixels].origin].mask[i % pixels] +=
                region_sigmoid(d->host_masks[i]) / CASCADE_STAGES;
    }
    return STATUS_OK;
}

enum status detector_find(struct detector *d, struct tensor taps, const struct box_frame *frames,
                          const struct detection **found, int32_t *n_found)
{
    struct proposal_maps maps;

    d->n_found = 0;
    for (int64_t i = 0; i < d->images; i++)
        d->frames[i] = frames[i];
    TRY(store_moments(d));
    TRY(feature_pyramid_forward(&d->pyramid, taps, false));
    TRY(detector_propose(d, &d->options.test, &maps));
    TRY(take_proposals(d));
    for (int32_t stage = 0; stage < CASCADE_STAGES; stage++)
        TRY(classify_stage(d, stage));
    TRY(keep_all(d));
    TRY(draw_masks(d));
    *found = d->found;
    *n_found = d->n_found;
    return STATUS_OK;
}
