/* Patches by the weight that they have. */
#include "trainer/attention_mass.h"

#include <stdlib.h>

#include "proto/base/memory.h"

struct weighed {
    float weight;
    int32_t patch;
};

static int weighed_compare(const void *left, const void *right)
{
    const struct weighed *a = left, *b = right;

    if (a->weight != b->weight)
        return a->weight < b->weight ? -1 : 1;
    return (a->patch > b->patch) - (a->patch < b->patch);
}

enum status attention_threshold(uint8_t *keep, const float *weights, int32_t n, double threshold)
{
    struct weighed *order;
    double sum = 0.0, reached = 0.0;

    TRY(memory_alloc_unset(&order, (size_t)n, sizeof(*order), "attention"));
    for (int32_t i = 0; i < n; i++) {
        order[i] = (struct weighed){weights[i], i};
        sum += (double)weights[i];
    }
    qsort(order, (size_t)n, sizeof(*order), weighed_compare);
    for (int32_t i = 0; i < n; i++) {
        reached += (double)order[i].weight;
        keep[order[i].patch] = reached / sum > 1.0 - threshold;
    }
    memory_free(order);
    return STATUS_OK;
}

void attention_mean(float *mean, const float *maps, int32_t n_heads, int32_t n)
{
    for (int32_t i = 0; i < n; i++) {
        double sum = 0.0;
        for (int32_t h = 0; h < n_heads; h++)
            sum += (double)maps[(int64_t)h * n + i];
        mean[i] = (float)(sum / n_heads);
    }
}
