#include "trainer/detect/regions.h"

#include <math.h>
#include <string.h>

#include "proto/base/memory.h"

enum { FINEST_PX = 56, POSITIVE_SHARE = 4 };

int32_t region_level(const struct box *box)
{
    float scale = sqrtf(fmaxf(box_area(box), 0.0f));
    int32_t level = (int32_t)floorf(log2f(scale / FINEST_PX + 1e-6f));

    return level < 0 ? 0 : level >= REGION_LEVELS ? REGION_LEVELS - 1 : level;
}

enum status regions_add(struct regions *r, const struct region *item)
{
    TRY(memory_grow(&r->items, &r->capacity, (size_t)r->n + 1, sizeof(*r->items), "regions"));
    r->items[r->n] = *item;
    r->items[r->n].origin = r->n;
    r->n++;
    return STATUS_OK;
}

enum status regions_sort(struct regions *r)
{
    struct region *sorted;
    int32_t at = 0;

    TRY(memory_alloc(&sorted, (size_t)r->n, sizeof(*sorted), "regions"));
    for (int32_t level = 0; level < REGION_LEVELS; level++) {
        int32_t first = at;
        for (int32_t i = 0; i < r->n; i++)
            if (region_level(&r->items[i].box) == level)
                sorted[at++] = r->items[i];
        r->on_level[level] = at - first;
    }
    if (r->n > 0)
        memcpy(r->items, sorted, (size_t)r->n * sizeof(*sorted));
    memory_free(sorted);
    return STATUS_OK;
}

enum status regions_unsort(struct regions *r)
{
    struct region *sorted;

    TRY(memory_alloc(&sorted, (size_t)r->n, sizeof(*sorted), "regions"));
    for (int32_t i = 0; i < r->n; i++)
        sorted[r->items[i].origin] = r->items[i];
    if (r->n > 0)
        memcpy(r->items, sorted, (size_t)r->n * sizeof(*sorted));
    memory_free(sorted);
    return STATUS_OK;
}

void regions_clear(struct regions *r)
{
    r->n = 0;
    memset(r->on_level, 0, sizeof(r->on_level));
}

void regions_release(struct regions *r)
{
    memory_free(r->items);
    *r = (struct regions){0};
}

/* ------------------------------------------------------------------------------ training */

static struct region region_of(int32_t image, const struct box *boxes, const int32_t *object,
                               int64_t number, const struct region_truth *truth,
                               const struct region_choice *how)
{
    int32_t of = object[number];

    return (struct region){
        .image = image,
        .box = boxes[number],
        .object = of,
        .label = of >= 0 ? truth->classes[of] : how->n_classes,
        .truth = number < truth->n,
    };
}

/* boxes: the annotated ones, then the candidates. */
static enum status choose(struct regions *r, int32_t image, const struct box *boxes, int64_t n,
                          const struct region_truth *truth, const struct region_choice *how,
                          struct rng *rng)
{
    struct region_assignment assignment = {how->overlap, how->overlap, how->overlap, false};
    struct region_sample sample = {0};
    int32_t *object = NULL;
    enum status status;

    TRY_OUT(memory_alloc(&object, (size_t)n, sizeof(*object), "objects of regions"));
    TRY_OUT(memory_alloc(&sample.chosen, (size_t)how->all, sizeof(*sample.chosen), "regions"));
    region_assign(object, boxes, NULL, n, truth->boxes, truth->n, &assignment);
    for (int32_t i = 0; i < truth->n; i++) /* each stands for itself */
        object[i] = i;
    TRY_OUT(region_sample(&sample, object, n, how->all / POSITIVE_SHARE, how->all, rng));
    for (int32_t i = 0; i < how->all; i++) {
        int64_t number = sample.n > 0 ? sample.chosen[i < sample.n ? i : sample.n - 1] : 0;
        struct region item = region_of(image, boxes, object, number, truth, how);
        if (i >= sample.n)
            item.object = REGION_UNUSED;
        TRY_OUT(regions_add(r, &item));
    }
out:
    memory_free(object);
    memory_free(sample.chosen);
    return status;
}

enum status regions_choose(struct regions *r, int32_t image, const struct box *candidates,
                           int32_t n, const struct region_truth *truth,
                           const struct region_choice *how, struct rng *rng)
{
    struct box *boxes;

    CHECK(n + truth->n > 0, "a picture with neither objects nor candidates");
    TRY(memory_alloc(&boxes, (size_t)(n + truth->n), sizeof(*boxes), "candidates"));
    if (truth->n > 0)
        memcpy(boxes, truth->boxes, (size_t)truth->n * sizeof(*boxes));
    if (n > 0)
        memcpy(boxes + truth->n, candidates, (size_t)n * sizeof(*boxes));
    enum status status = choose(r, image, boxes, n + truth->n, truth, how, rng);
    memory_free(boxes);
    return status;
}

/* ------------------------------------------------------------------------------ tables */

enum status regions_tables(struct map_tables *tables, struct map_pair pairs[REGION_LEVELS],
                           const struct regions *r, int32_t side, int32_t n,
                           const struct pyramid_level *levels)
{
    struct map_region *places;
    enum status status = STATUS_OK;
    int32_t at = 0;

    TRY(memory_alloc(&places, (size_t)r->n, sizeof(*places), "regions"));
    map_tables_clear(tables);
    for (int32_t level = 0; level < REGION_LEVELS; level++) {
        float scale = 1.0f / (float)levels[level].stride;
        struct map_regions on = {places + at, r->on_level[level], side,
                                 n,           levels[level].rows, levels[level].columns};
        for (int32_t i = 0; i < on.n; i++, at++) {
            const struct box *b = &r->items[at].box;
            places[at] = (struct map_region){r->items[at].image, b->left * scale, b->top * scale,
                                             b->right * scale, b->bottom * scale};
        }
        TRY_OUT(map_tables_regions(tables, &pairs[level], &on));
    }
out:
    memory_free(places);
    return status;
}
