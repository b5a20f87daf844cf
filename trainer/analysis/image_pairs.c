#include "trainer/analysis/image_pairs.h"

#include "proto/base/memory.h"

static enum status add_pair(struct image_pairs *pairs, int64_t a, int64_t b)
{
    TRY(memory_grow(&pairs->pairs, &pairs->capacity, (size_t)pairs->n + 1, sizeof(*pairs->pairs),
                    "pairs"));
    pairs->pairs[pairs->n++] = (struct image_pair){{a, b}};
    return STATUS_OK;
}

enum status image_pairs_of_views(struct image_pairs *out, const struct images *images)
{
    for (int64_t i = 0; i < images_n(images); i++)
        TRY(add_pair(out, i, i));
    return STATUS_OK;
}

/* waiting [classes + 1]: the image of none or of each class that has no partner yet; -1. */
static enum status pair_up(struct image_pairs *out, const struct images *images, int64_t *waiting)
{
    for (int32_t i = 0; i <= images_n_classes(images); i++)
        waiting[i] = -1;
    for (int64_t i = 0; i < images_n(images); i++) {
        int64_t *partner = &waiting[images_label(images, i) + 1];
        if (*partner >= 0)
            TRY(add_pair(out, *partner, i));
        *partner = *partner >= 0 ? -1 : i;
    }
    if (out->n == 0)
        FAIL(STATUS_INVALID, "pairs of a class: no class has two images");
    return STATUS_OK;
}

enum status image_pairs_of_classes(struct image_pairs *out, const struct images *images)
{
    int64_t *waiting;

    TRY(memory_alloc(&waiting, (size_t)images_n_classes(images) + 1, sizeof(*waiting), "pairs"));
    enum status status = pair_up(out, images, waiting);
    memory_free(waiting);
    return status;
}

void image_pairs_release(struct image_pairs *pairs)
{
    memory_free(pairs->pairs);
    *pairs = (struct image_pairs){0};
}
