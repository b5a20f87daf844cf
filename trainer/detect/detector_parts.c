/* What training and finding have in common: proposals, features of regions, what heads say. */
#include <math.h>

#include "proto/base/first_failure.h"
#include "trainer/detect/detector_internal.h"
#include "trainer/model/buffer.h"

enum status detector_copy_out(struct detector *d, float *to, const float *from, int64_t n)
{
    return d->at.device->copy_out(d->at.device, to, from, (size_t)n * sizeof(float));
}

static enum status check_finite(const float *values, int64_t n, const char *what)
{
    float sum = 0.0f;

    for (int64_t i = 0; i < n; i++)
        sum += values[i] * 0.0f; /* not a number where a value is not finite */
    if (sum != 0.0f)
        FAIL(STATUS_NOT_FINITE, "the detector's %s are not finite", what);
    return STATUS_OK;
}

/* ------------------------------------------------------------------------------ proposals */

enum status detector_propose(struct detector *d, const struct proposal_options *o,
                             struct proposal_maps *maps)
{
    struct first_failure failure = FIRST_FAILURE_NONE;
    struct device *device = d->at.device;
    struct tensor levels[PYRAMID_LEVELS];
    int64_t at = 0;

    for (int32_t i = 0; i < PYRAMID_LEVELS; i++) {
        levels[i] = feature_pyramid_level(&d->pyramid, i);
        maps->levels[i] = d->levels[i];
        maps->objectness[i] = d->objectness + at * ANCHOR_SHAPES;
        maps->delta[i] = d->anchor_shift + at * ANCHOR_SHAPES * 4;
        maps->d_objectness[i] = d->d_objectness + at * ANCHOR_SHAPES;
        maps->d_delta[i] = d->d_anchor_shift + at * ANCHOR_SHAPES * 4;
        at += levels[i].shape[0];
    }
    TRY(proposal_head_forward(&d->proposal, levels, d->images));
    TRY(detector_copy_out(d, d->objectness, d->proposal.objectness.logits, at * ANCHOR_SHAPES));
    TRY(detector_copy_out(d, d->anchor_shift, d->proposal.shift.logits, at * ANCHOR_SHAPES * 4));
    TRY(device->synchronize(device));
    TRY(check_finite(d->objectness, at * ANCHOR_SHAPES, "proposals"));
    TRY(check_finite(d->anchor_shift, at * ANCHOR_SHAPES * 4, "proposals"));
#pragma omp parallel for schedule(dynamic, 1)
    for (int64_t i = 0; i < d->images; i++)
        first_failure_note(&failure, i,
                           proposals_find(d->candidates + i * d->candidates_each,
                                          &d->n_candidates[i], maps, i, &d->frames[i], o));
    return first_failure_take(&failure);
}

/* ------------------------------------------------------------------------------ features */

static int64_t cells_of(int32_t side)
{
    return (int64_t)side * side;
}

static enum status cut(struct detector *d, const struct regions *r, int32_t side, struct tensor x,
                       bool backward)
{
    int64_t first = 0, cells = cells_of(side);

    for (int32_t level = 0; level < REGION_LEVELS; level++) {
        struct map_pair *pair = &d->cuts[level];
        int64_t n = r->on_level[level] * cells;
        struct tensor part = tensor_rows(shaped(x, r->n * cells, d->options.channels), first, n);
        struct spmm_args args = {
            .a = map_tables_sparse(&d->region_tables, backward ? &pair->backward : &pair->forward),
            .x = backward ? part : feature_pyramid_level(&d->pyramid, level),
            .y = backward ? feature_pyramid_d_level(&d->pyramid, level) : part,
            .n_maps = 1,
            .add = backward,
        };
        if (n > 0)
            TRY(d->at.ops->spmm(d->at.device, &args));
        first += n;
    }
    return STATUS_OK;
}

enum status detector_cut(struct detector *d, const struct regions *r, int32_t side, struct tensor x)
{
    TRY(regions_tables(&d->region_tables, d->cuts, r, side, (int32_t)d->images, d->levels));
    TRY(map_tables_upload(&d->region_tables, d->at.device));
    return cut(d, r, side, x, false);
}

enum status detector_cut_backward(struct detector *d, const struct regions *r, int32_t side,
                                  struct tensor d_x)
{
    return cut(d, r, side, d_x, true);
}

/* ------------------------------------------------------------------------------ heads */

enum status detector_classify(struct detector *d, int32_t stage, int32_t n, bool train)
{
    int64_t k = d->options.n_classes;
    struct box_head *head = &d->box[stage];
    struct tensor x = shaped(d->box_x, n * cells_of(BOX_HEAD_SIDE), d->options.channels);

    TRY(box_head_forward(head, x, n, train));
    TRY(detector_copy_out(d, d->classes, head->classes.logits, n * (k + 1)));
    TRY(detector_copy_out(d, d->shift, head->shift.logits, n * 4 * k));
    TRY(d->at.device->synchronize(d->at.device));
    TRY(check_finite(d->classes, n * (k + 1), "classes"));
    return check_finite(d->shift, n * 4 * k, "boxes");
}

enum status detector_draw(struct detector *d, int32_t stage, const struct regions *r)
{
    struct device *device = d->at.device;
    struct mask_head *head = &d->mask[stage];
    int64_t pixels = cells_of(MASK_SIDE), k = d->options.n_classes, n = r->n * pixels;
    struct rows_gather_args gather = {
        matrix(head->masks.logits, n * k, 1),
        tensor_1d(d->mask_index, DTYPE_I32, n),
        matrix(d->mask_logits, n, 1),
    };

    for (int64_t i = 0; i < n; i++)
        d->host_index[i] = (int32_t)(i * k + r->items[i / pixels].label);
    TRY(device->copy_in(device, d->mask_index, d->host_index, (size_t)n * sizeof(int32_t)));
    TRY(mask_head_forward(
        head, shaped(d->mask_x, r->n * cells_of(MASK_HEAD_SIDE), d->options.channels), r->n));
    TRY(d->at.ops->rows_gather(device, &gather));
    TRY(detector_copy_out(d, d->host_masks, d->mask_logits, n));
    TRY(device->synchronize(device));
    return check_finite(d->host_masks, n, "masks");
}

/* ------------------------------------------------------------------------------ boxes */

static int32_t surest(const float *scores, int32_t n)
{
    int32_t best = 0;

    for (int32_t i = 1; i < n; i++)
        best = scores[i] > scores[best] ? i : best;
    return best;
}

struct box detector_moved(const struct detector *d, int32_t stage, const struct regions *r,
                          int32_t i)
{
    const struct region *of = &r->items[i];
    int32_t k = d->options.n_classes;
    int32_t label = of->label < k ? of->label : surest(d->classes + (int64_t)i * (k + 1), k);

    return box_decode(&of->box, d->shift + ((int64_t)i * k + label) * 4, detector_std[stage],
                      &d->frames[of->image]);
}
