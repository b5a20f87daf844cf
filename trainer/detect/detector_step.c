/* A step of a detector: forward, losses, and backward, stage by stage. What a stage takes of the
 * one before are boxes, which have no gradient, so that each goes back to the pyramid at once. */
#include <string.h>

#include "proto/base/first_failure.h"
#include "proto/base/memory.h"
#include "trainer/detect/detector_internal.h"
#include "trainer/detect/region_losses.h"
#include "trainer/model/buffer.h"

static const float overlap_of[CASCADE_STAGES] = {0.5f, 0.6f, 0.7f};
static const float weight_of[CASCADE_STAGES] = {1.0f, 0.5f, 0.25f};
static const float box_weight = 10.0f;

enum { VIEW_ANCHORS = 0, VIEW_STAGE = 1 }; /* and 2, 3: of a picture's random choices */

static struct rng rng_of(const struct detector_picture *picture, int view)
{
    struct rng_key key = picture->key;

    key.purpose = RNG_REGIONS;
    key.view = (uint16_t)view;
    return rng_open(key);
}

/* ------------------------------------------------------------------------------ proposals */

static enum status zero_gradients(struct detector *d, struct tensor d_levels[PYRAMID_LEVELS])
{
    struct device *device = d->at.device;

    for (int32_t i = 0; i < PYRAMID_LEVELS; i++) {
        d_levels[i] = feature_pyramid_d_level(&d->pyramid, i);
        TRY(device->zero(device, d_levels[i].data, tensor_size_bytes(&d_levels[i])));
    }
    return STATUS_OK;
}

static enum status train_proposals(struct detector *d, float scale)
{
    struct device *device = d->at.device;
    struct tensor levels[PYRAMID_LEVELS], d_levels[PYRAMID_LEVELS];
    struct region_truth *truths = NULL;
    struct proposal_losses losses;
    struct proposal_maps maps;
    struct rng *rngs = NULL;
    enum status status;
    size_t rows = 0;

    TRY(detector_propose(d, &d->options.train, &maps));
    TRY(zero_gradients(d, d_levels));
    for (int32_t i = 0; i < PYRAMID_LEVELS; i++) {
        levels[i] = feature_pyramid_level(&d->pyramid, i);
        rows += (size_t)levels[i].shape[0];
    }
    size_t bytes = rows * ANCHOR_SHAPES * sizeof(float);
    memset(d->d_objectness, 0, bytes);
    memset(d->d_anchor_shift, 0, 4 * bytes);
    TRY_OUT(memory_alloc(&truths, (size_t)d->images, sizeof(*truths), "pictures"));
    TRY_OUT(memory_alloc(&rngs, (size_t)d->images, sizeof(*rngs), "pictures"));
    for (int64_t i = 0; i < d->images; i++) {
        truths[i] = d->pictures[i].truth;
        rngs[i] = rng_of(&d->pictures[i], VIEW_ANCHORS);
    }
    TRY_OUT(proposals_loss(&losses, &maps, d->images, d->frames, truths, rngs, d->options.anchors,
                           scale));
    d->losses.proposal_class = losses.objectness;
    d->losses.proposal_box = losses.box;
    d->losses.all = losses.objectness + losses.box;
    TRY_OUT(device->copy_in(device, d->proposal.objectness.d_logits, d->d_objectness, bytes));
    TRY_OUT(device->copy_in(device, d->proposal.shift.d_logits, d->d_anchor_shift, 4 * bytes));
    TRY_OUT(proposal_head_backward(&d->proposal, levels, d_levels, d->images));
out:
    memory_free(truths);
    memory_free(rngs);
    return status;
}

/* ------------------------------------------------------------------------------ boxes */

static enum status choose_regions(struct detector *d, int32_t stage)
{
    const struct region_choice how = {d->options.regions, d->options.n_classes, overlap_of[stage]};

    regions_clear(&d->regions);
    for (int32_t i = 0; i < d->images; i++) {
        struct rng rng = rng_of(&d->pictures[i], VIEW_STAGE + stage);
        TRY(regions_choose(&d->regions, i, d->candidates + i * d->candidates_each,
                           d->n_candidates[i], &d->pictures[i].truth, &how, &rng));
    }
    return regions_sort(&d->regions);
}

/* Losses of all regions, as sums, and their gradients times `scale`. */
static void box_losses(struct detector *d, int32_t stage, float scale, double *class, double *box)
{
    int32_t k = d->options.n_classes;

    memset(d->d_shift, 0, (size_t)d->regions.n * 4 * (size_t)k * sizeof(float));
    for (int64_t i = 0; i < d->regions.n; i++) {
        const struct region *r = &d->regions.items[i];
        float *d_class = d->d_classes + i * (k + 1), d_box[4];
        bool used = r->object != REGION_UNUSED;
        float loss = region_class_loss(d_class, d->classes + i * (k + 1), k + 1, r->label);
        for (int32_t j = 0; j <= k; j++)
            d_class[j] = used ? d_class[j] * scale : 0.0f;
        *class += used ? (double)loss : 0.0;
        if (r->object < 0)
            continue;
        int64_t at = (i * k + r->label) * 4;
        struct box found =
            box_decode(&r->box, d->shift + at, detector_std[stage], &(struct box_frame){0});
        *box += (double)(box_weight * box_giou_loss(d_box, &found,
                                                    &d->pictures[r->image].truth.boxes[r->object]));
        for (int j = 0; j < 4; j++)
            d_box[j] *= box_weight * scale;
        box_decode_backward(d->d_shift + at, &r->box, d->shift + at, detector_std[stage], d_box);
    }
}

static int32_t n_used(const struct regions *r)
{
    int32_t n = 0;

    for (int32_t i = 0; i < r->n; i++)
        n += r->items[i].object != REGION_UNUSED;
    return n > 0 ? n : 1;
}

static enum status train_boxes(struct detector *d, int32_t stage, float scale)
{
    struct device *device = d->at.device;
    struct box_head *head = &d->box[stage];
    int32_t n = d->regions.n, used = n_used(&d->regions);
    int64_t k = d->options.n_classes;
    struct tensor x =
        shaped(d->box_x, n * (int64_t)(BOX_HEAD_SIDE * BOX_HEAD_SIDE), d->options.channels);
    double class = 0.0, box = 0.0;
    struct tensor d_x;

    TRY(detector_cut(d, &d->regions, BOX_HEAD_SIDE, x));
    TRY(detector_classify(d, stage, n, true));
    box_losses(d, stage, scale * weight_of[stage] / (float)used, &class, &box);
    d->losses.class[stage] = class / used;
    d->losses.box[stage] = box / used;
    TRY(device->copy_in(device, head->classes.d_logits, d->d_classes,
                        (size_t)(n * (k + 1)) * sizeof(float)));
    TRY(device->copy_in(device, head->shift.d_logits, d->d_shift,
                        (size_t)(n * 4 * k) * sizeof(float)));
    TRY(box_head_backward(head, x, n, &d_x));
    return detector_cut_backward(d, &d->regions, BOX_HEAD_SIDE, d_x);
}

/* ------------------------------------------------------------------------------ masks */

static enum status choose_positives(struct detector *d)
{
    regions_clear(&d->positives);
    for (int32_t i = 0; i < d->regions.n; i++)
        if (d->regions.items[i].object >= 0)
            TRY(regions_add(&d->positives, &d->regions.items[i]));
    return regions_sort(&d->positives);
}

static enum status make_targets(struct detector *d)
{
    struct first_failure failure = FIRST_FAILURE_NONE;
    int32_t patch = d->options.patch_px;

#pragma omp parallel for schedule(dynamic, 4)
    for (int32_t i = 0; i < d->positives.n; i++) {
        const struct region *r = &d->positives.items[i];
        const struct region_bits *bits = &d->pictures[r->image].masks[r->object];
        first_failure_note(&failure, i,
                           region_bits_target(d->targets + (int64_t)i * MASK_SIDE * MASK_SIDE,
                                              MASK_SIDE, bits, &r->box, d->rows * patch,
                                              d->columns * patch));
    }
    return first_failure_take(&failure);
}

static enum status train_masks(struct detector *d, int32_t stage, float scale)
{
    struct device *device = d->at.device;
    struct mask_head *head = &d->mask[stage];
    int64_t p = d->positives.n, k = d->options.n_classes, n = p * MASK_SIDE * MASK_SIDE;
    struct tensor x = shaped(d->mask_x, p * MASK_HEAD_SIDE * MASK_HEAD_SIDE, d->options.channels);
    struct rows_scatter_args scatter = {
        matrix(d->mask_logits, n, 1),
        tensor_1d(d->mask_index, DTYPE_I32, n),
        matrix(head->masks.d_logits, n * k, 1),
        true,
    };
    struct tensor d_x;
    double sum = 0.0;

    if (p == 0)
        return STATUS_OK;
    TRY(detector_cut(d, &d->positives, MASK_HEAD_SIDE, x));
    TRY(detector_draw(d, stage, &d->positives));
    TRY(make_targets(d));
    for (int64_t i = 0; i < n; i++) {
        sum += (double)region_binary_loss(&d->d_host_masks[i], d->host_masks[i], d->targets[i]);
        d->d_host_masks[i] *= scale * weight_of[stage] / (float)n;
    }
    d->losses.mask[stage] = sum / (double)n;
    TRY(device->copy_in(device, d->mask_logits, d->d_host_masks, (size_t)n * sizeof(float)));
    TRY(d->at.ops->rows_scatter(device, &scatter));
    TRY(mask_head_backward(head, x, p, &d_x));
    return detector_cut_backward(d, &d->positives, MASK_HEAD_SIDE, d_x);
}

/* ------------------------------------------------------------------------------ step */

/* What the next stage begins with: the regions, but annotated boxes. */
static enum status move_regions(struct detector *d, int32_t stage)
{
    for (int64_t i = 0; i < d->images; i++)
        d->n_candidates[i] = 0;
    for (int32_t i = 0; i < d->regions.n; i++)
        d->regions.items[i].box = detector_moved(d, stage, &d->regions, i);
    TRY(regions_unsort(&d->regions));
    for (int32_t i = 0; i < d->regions.n; i++) {
        const struct region *r = &d->regions.items[i];
        if (!r->truth && r->object != REGION_UNUSED)
            d->candidates[r->image * d->candidates_each + d->n_candidates[r->image]++] = r->box;
    }
    return STATUS_OK;
}

enum status detector_step(void *context, struct tensor taps, struct tensor d_taps, float scale)
{
    struct detector *d = context;

    CHECK(d->pictures != NULL && d->at.trains);
    d->losses = (struct detector_losses){0};
    d->stored_fits = false;
    for (int64_t i = 0; i < d->images; i++)
        d->frames[i] = d->pictures[i].frame;
    TRY(feature_pyramid_forward(&d->pyramid, taps, true));
    TRY(train_proposals(d, scale));
    for (int32_t stage = 0; stage < CASCADE_STAGES; stage++) {
        TRY(choose_regions(d, stage));
        TRY(train_boxes(d, stage, scale));
        TRY(choose_positives(d));
        TRY(train_masks(d, stage, scale));
        d->losses.all += (double)weight_of[stage] *
                         (d->losses.class[stage] + d->losses.box[stage] + d->losses.mask[stage]);
        TRY(move_regions(d, stage));
    }
    return feature_pyramid_backward(&d->pyramid, taps, d_taps);
}
