#include "trainer/detect/proposals.h"

#include <math.h>

#include "proto/base/first_failure.h"
#include "proto/base/memory.h"
#include "trainer/detect/region_losses.h"

static const float smooth_beta = 1.0f / 9.0f;
static const float plain[4] = {1.0f, 1.0f, 1.0f, 1.0f};
static const struct region_assignment assignment = {0.7f, 0.3f, 0.3f, true};

/* ------------------------------------------------------------------------------ finding */

struct scored {
    float score;
    int32_t number;
};

static bool before(const struct scored *a, const struct scored *b)
{
    return a->score > b->score || (a->score == b->score && a->number < b->number);
}

/* Brings the k that come first to the front, in no order (Hoare 1961). */
static void select_first(struct scored *s, int64_t n, int64_t k)
{
    int64_t low = 0, high = n - 1;

    while (low < high) {
        struct scored pivot = s[low + (high - low) / 2];
        int64_t i = low, j = high;
        while (i <= j) {
            while (before(&s[i], &pivot))
                i++;
            while (before(&pivot, &s[j]))
                j--;
            if (i > j)
                break;
            struct scored kept = s[i];
            s[i++] = s[j];
            s[j--] = kept;
        }
        if (k - 1 <= j)
            high = j;
        else if (k - 1 >= i)
            low = i;
        else
            return;
    }
}

/* Boxes that compete, of all levels. */
struct candidates {
    struct box *boxes;
    float *scores;
    int32_t *groups;
    int32_t n;
};

static enum status add_level(struct candidates *c, const struct proposal_maps *maps, int level,
                             int64_t image, const struct box_frame *frame, int32_t most)
{
    const struct pyramid_level *l = &maps->levels[level];
    int64_t n = anchors_of_level(l), first = image * n, k = n < most ? n : most;
    struct scored *scored;

    TRY(memory_alloc_unset(&scored, (size_t)n, sizeof(*scored), "anchors by score"));
    for (int64_t i = 0; i < n; i++)
        scored[i] = (struct scored){maps->objectness[level][first + i], (int32_t)i};
    select_first(scored, n, k);
    for (int64_t i = 0; i < k; i++) {
        struct box anchor = anchor_box(l, scored[i].number);
        const float *delta = maps->delta[level] + 4 * (first + scored[i].number);
        c->boxes[c->n] = box_decode(&anchor, delta, plain, frame);
        c->scores[c->n] = scored[i].score;
        c->groups[c->n++] = level;
    }
    memory_free(scored);
    return STATUS_OK;
}

enum status proposals_find(struct box *out, int32_t *n_out, const struct proposal_maps *maps,
                           int64_t image, const struct box_frame *frame,
                           const struct proposal_options *o)
{
    size_t room = (size_t)o->before * PYRAMID_LEVELS;
    struct candidates c = {0};
    int32_t *keep = NULL;
    enum status status;

    TRY_OUT(memory_alloc(&c.boxes, room, sizeof(*c.boxes), "proposals"));
    TRY_OUT(memory_alloc(&c.scores, room, sizeof(*c.scores), "proposals"));
    TRY_OUT(memory_alloc(&c.groups, room, sizeof(*c.groups), "proposals"));
    TRY_OUT(memory_alloc(&keep, (size_t)o->most, sizeof(*keep), "proposals"));
    for (int level = 0; level < PYRAMID_LEVELS; level++)
        TRY_OUT(add_level(&c, maps, level, image, frame, o->before));
    const struct box_candidates all = {c.boxes, c.scores, c.groups, c.n};
    TRY_OUT(box_suppress(keep, n_out, &all, o->threshold, o->most));
    for (int32_t i = 0; i < *n_out; i++)
        out[i] = c.boxes[keep[i]];
out:
    memory_free(c.boxes);
    memory_free(c.scores);
    memory_free(c.groups);
    memory_free(keep);
    return status;
}

/* ------------------------------------------------------------------------------ losses */

/* The anchors of a picture that count. */
struct picture_anchors {
    int64_t *chosen; /* [sampled] */
    int32_t *object;
    int32_t n, n_positive;
};

static enum status choose(struct picture_anchors *out, const struct box *anchors, int64_t n,
                          const struct box_frame *frame, const struct region_truth *truth,
                          int32_t sampled, struct rng *rng)
{
    struct region_sample sample = {.chosen = out->chosen};
    uint8_t *inside = NULL;
    int32_t *object = NULL;
    enum status status;

    TRY_OUT(memory_alloc(&inside, (size_t)n, 1, "anchors"));
    TRY_OUT(memory_alloc(&object, (size_t)n, sizeof(*object), "objects of anchors"));
    for (int64_t i = 0; i < n; i++)
        inside[i] = anchor_inside(&anchors[i], frame);
    region_assign(object, anchors, inside, n, truth->boxes, truth->n, &assignment);
    TRY_OUT(region_sample(&sample, object, n, sampled / 2, sampled, rng));
    out->n = sample.n;
    out->n_positive = sample.n_positive;
    for (int32_t i = 0; i < sample.n; i++)
        out->object[i] = object[out->chosen[i]];
out:
    memory_free(inside);
    memory_free(object);
    return status;
}

/* Where an anchor of all levels is in its level's maps. */
static int64_t place_of(const struct proposal_maps *maps, int64_t image, int64_t anchor, int *level)
{
    for (*level = 0; anchor >= anchors_of_level(&maps->levels[*level]); (*level)++)
        anchor -= anchors_of_level(&maps->levels[*level]);
    return image * anchors_of_level(&maps->levels[*level]) + anchor;
}

static void add_losses(struct proposal_losses *out, const struct proposal_maps *maps, int64_t image,
                       const struct picture_anchors *of, const struct box *anchors,
                       const struct region_truth *truth, float scale)
{
    for (int32_t i = 0; i < of->n; i++) {
        bool positive = i < of->n_positive;
        int level;
        int64_t at = place_of(maps, image, of->chosen[i], &level);
        float d, delta[4];
        out->objectness +=
            (double)region_binary_loss(&d, maps->objectness[level][at], positive ? 1.0f : 0.0f);
        maps->d_objectness[level][at] = d * scale;
        if (!positive)
            continue;
        box_encode(delta, &anchors[of->chosen[i]], &truth->boxes[of->object[i]], plain);
        for (int k = 0; k < 4; k++) {
            float error = maps->delta[level][4 * at + k] - delta[k];
            out->box += (double)region_smooth_loss(&d, error, smooth_beta);
            maps->d_delta[level][4 * at + k] = d * scale;
        }
    }
}

enum status proposals_loss(struct proposal_losses *out, const struct proposal_maps *maps, int64_t n,
                           const struct box_frame *frames, const struct region_truth *truths,
                           struct rng *rngs, int32_t sampled, float scale)
{
    struct first_failure failure = FIRST_FAILURE_NONE;
    int64_t n_anchors = anchors_of_all(maps->levels), all = 0;
    struct picture_anchors *chosen = NULL;
    struct box *anchors = NULL;
    int64_t *numbers = NULL;
    int32_t *objects = NULL;
    enum status status;

    *out = (struct proposal_losses){0};
    TRY_OUT(memory_alloc(&anchors, (size_t)n_anchors, sizeof(*anchors), "anchors"));
    TRY_OUT(memory_alloc(&chosen, (size_t)n, sizeof(*chosen), "anchors of pictures"));
    TRY_OUT(memory_alloc(&numbers, (size_t)(n * sampled), sizeof(*numbers), "anchors"));
    TRY_OUT(memory_alloc(&objects, (size_t)(n * sampled), sizeof(*objects), "anchors"));
    for (int64_t i = 0; i < n; i++) {
        chosen[i].chosen = numbers + i * sampled;
        chosen[i].object = objects + i * sampled;
    }
    anchors_fill(anchors, maps->levels);
#pragma omp parallel for schedule(dynamic, 1)
    for (int64_t i = 0; i < n; i++)
        first_failure_note(
            &failure, i,
            choose(&chosen[i], anchors, n_anchors, &frames[i], &truths[i], sampled, &rngs[i]));
    TRY_OUT(first_failure_take(&failure));
    for (int64_t i = 0; i < n; i++)
        all += chosen[i].n;
    all = all > 0 ? all : 1;
    for (int64_t i = 0; i < n; i++)
        add_losses(out, maps, i, &chosen[i], anchors, &truths[i], scale / (float)all);
    out->objectness /= (double)all;
    out->box /= (double)all;
out:
    memory_free(anchors);
    memory_free(chosen);
    memory_free(numbers);
    memory_free(objects);
    return status;
}
