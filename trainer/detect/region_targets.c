#include "trainer/detect/region_targets.h"

#include <stdlib.h>

#include "proto/base/memory.h"

/* ------------------------------------------------------------------------------ assignment */

static bool used(const uint8_t *usable, int64_t i)
{
    return usable == NULL || usable[i] != 0;
}

/* The boxes that overlap an object most, all of equals. */
static void take_best(int32_t *object, const struct box *boxes, const uint8_t *usable, int64_t n,
                      const struct box *of, int32_t number, float least)
{
    float most = 0.0f;

    for (int64_t i = 0; i < n; i++)
        if (used(usable, i))
            most = box_overlap(&boxes[i], of) > most ? box_overlap(&boxes[i], of) : most;
    for (int64_t i = 0; i < n && most >= least; i++)
        if (used(usable, i) && box_overlap(&boxes[i], of) == most)
            object[i] = number;
}

void region_assign(int32_t *object, const struct box *boxes, const uint8_t *usable, int64_t n,
                   const struct box *objects, int32_t n_objects,
                   const struct region_assignment *how)
{
    for (int64_t i = 0; i < n; i++) {
        float most = 0.0f;
        int32_t best = 0;
        for (int32_t k = 0; k < n_objects && used(usable, i); k++) {
            float overlap = box_overlap(&boxes[i], &objects[k]);
            best = overlap > most ? k : best;
            most = overlap > most ? overlap : most;
        }
        object[i] = !used(usable, i)                         ? REGION_UNUSED
                    : n_objects > 0 && most >= how->positive ? best
                    : most < how->negative                   ? REGION_BACKGROUND
                                                             : REGION_UNUSED;
    }
    for (int32_t k = 0; k < n_objects && how->best_boxes; k++)
        take_best(object, boxes, usable, n, &objects[k], k, how->least);
}

/* ------------------------------------------------------------------------------ choice */

static int compare_numbers(const void *a, const void *b)
{
    int64_t x = *(const int64_t *)a, y = *(const int64_t *)b;

    return x < y ? -1 : x > y;
}

/* `wanted` of the n numbers, or all, to the front. */
static int32_t draw(int64_t *numbers, int64_t n, int32_t wanted, struct rng *rng)
{
    if (n <= wanted)
        return (int32_t)n;
    for (int32_t i = 0; i < wanted; i++) {
        int64_t j = i + (int64_t)rng_below(rng, (uint32_t)(n - i)), kept = numbers[i];
        numbers[i] = numbers[j];
        numbers[j] = kept;
    }
    qsort(numbers, (size_t)wanted, sizeof(*numbers), compare_numbers);
    return wanted;
}

enum status region_sample(struct region_sample *out, const int32_t *object, int64_t n,
                          int32_t positives, int32_t all, struct rng *rng)
{
    int64_t *numbers, n_positive = 0, n_negative = 0;

    TRY(memory_alloc(&numbers, (size_t)n, sizeof(*numbers), "numbers of boxes"));
    for (int64_t i = 0; i < n; i++)
        if (object[i] >= 0)
            numbers[n_positive++] = i;
    out->n_positive = draw(numbers, n_positive, positives, rng);
    for (int32_t i = 0; i < out->n_positive; i++)
        out->chosen[i] = numbers[i];
    for (int64_t i = 0; i < n; i++)
        if (object[i] == REGION_BACKGROUND)
            numbers[n_negative++] = i;
    int32_t more = draw(numbers, n_negative, all - out->n_positive, rng);
    for (int32_t i = 0; i < more; i++)
        out->chosen[out->n_positive + i] = numbers[i];
    out->n = out->n_positive + more;
    memory_free(numbers);
    return STATUS_OK;
}
