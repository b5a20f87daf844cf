#include "trainer/model/bin_span.h"

#include <math.h>

#include "proto/base/memory.h"

/* Cell and share of the next one that a sample at `at` reads; false outside. */
static bool sample_of(float at, int32_t size, int32_t *cell, float *share)
{
    if (at < -1.0f || at > (float)size)
        return false;
    at = at > 0.0f ? at : 0.0f;
    *cell = (int32_t)at < size - 1 ? (int32_t)at : size - 1;
    *share = *cell < size - 1 ? at - (float)*cell : 0.0f;
    return true;
}

enum status bin_span_fill(struct bin_span *out, float start, float bin, int32_t which, int32_t size)
{
    int32_t n_samples = (int32_t)ceilf(bin), cell;
    float share, low = start - 0.5f + (float)which * bin;

    out->n = 0;
    for (int32_t i = 0; i < n_samples; i++) {
        float at = low + ((float)i + 0.5f) * bin / (float)n_samples;
        if (!sample_of(at, size, &cell, &share))
            continue;
        if (out->n == 0)
            out->first = cell;
        int32_t end = cell - out->first + 2;
        TRY(memory_grow(&out->weights, &out->capacity, (size_t)end, sizeof(float), "samples"));
        for (; out->n < end; out->n++)
            out->weights[out->n] = 0.0f;
        out->weights[cell - out->first] += (1.0f - share) / (float)n_samples;
        out->weights[cell - out->first + 1] += share / (float)n_samples;
    }
    return STATUS_OK;
}

void bin_span_release(struct bin_span *span)
{
    memory_free(span->weights);
    *span = (struct bin_span){0};
}
