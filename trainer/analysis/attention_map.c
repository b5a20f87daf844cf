/* Thresholds and the coloured picture, as analysis/attention_map of the original has them. */
#include "trainer/analysis/attention_map.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "proto/base/memory.h"

const struct colour attention_colours[ATTENTION_COLOURS] = {
    {{0, 160, 215}},  {{220, 55, 60}},  {{245, 180, 0}},
    {{10, 120, 190}}, {{40, 150, 100}}, {{135, 75, 145}},
};

static const double least_shown = 0.2, grey_span = 64.0;

/* ------------------------------------------------------------------------------ composite */

void attention_owners(int32_t *owner, const struct attention_composite *c)
{
    int32_t n = c->grid * c->grid;

    for (int32_t i = 0; i < n; i++) {
        double most = 0.0;
        owner[i] = -1;
        for (int32_t j = 0; j < c->n; j++) {
            int64_t at = (int64_t)c->heads[j] * n + i;
            if (c->keep[at] && (double)c->maps[at] > most) {
                most = (double)c->maps[at];
                owner[i] = j;
            }
        }
    }
}

/* opacity [grid, grid] out. Each head's map is 0 where it is not the owner; its least and greatest
 * value become 0 and 1. The original divides by 0 for a head that owns nothing, and for one that
 * owns all with one weight; the first shows nothing here, the second all of its colour. */
static void opacities(double *opacity, const int32_t *owner, const struct attention_composite *c)
{
    int32_t n = c->grid * c->grid;

    memset(opacity, 0, (size_t)n * sizeof(*opacity));
    for (int32_t j = 0; j < c->n; j++) {
        const float *map = c->maps + (int64_t)c->heads[j] * n;
        double least = INFINITY, greatest = -INFINITY;
        for (int32_t i = 0; i < n; i++) {
            double value = owner[i] == j ? (double)map[i] : 0.0;
            least = fmin(least, value);
            greatest = fmax(greatest, value);
        }
        for (int32_t i = 0; i < n; i++) {
            if (owner[i] != j)
                continue;
            double share = greatest > least ? ((double)map[i] - least) / (greatest - least) : 1.0;
            opacity[i] = share > least_shown ? sqrt(share) : 0.0;
        }
    }
}

/* grey [size, size] out: the normalised image, as the network gets it, stretched to the lightest
 * `grey_span` values and averaged over its channels, then darkened. */
static void grey_image(double *grey, const struct attention_composite *c)
{
    static const double mean[3] = {0.485, 0.456, 0.406}, deviation[3] = {0.229, 0.224, 0.225};
    size_t n = (size_t)c->size_px * (size_t)c->size_px;
    double least = INFINITY, greatest = -INFINITY;

    for (size_t i = 0; i < 3 * n; i++) {
        double value = (c->rgb[i] / 255.0 - mean[i % 3]) / deviation[i % 3];
        least = fmin(least, value);
        greatest = fmax(greatest, value);
    }
    double range = greatest > least ? greatest - least : 1.0;
    for (size_t i = 0; i < n; i++) {
        double sum = 0.0;
        for (size_t j = 0; j < 3; j++)
            sum += (c->rgb[3 * i + j] / 255.0 - mean[j]) / deviation[j] - least;
        grey[i] = floor(sum / 3.0 / range * grey_span + 256.0 - grey_span) * c->brightness;
    }
}

enum status attention_compose(uint8_t *out, const struct attention_composite *c)
{
    size_t cells = (size_t)c->grid * (size_t)c->grid, size = (size_t)c->size_px;
    size_t cell_px = size / (size_t)c->grid;
    double *opacity = NULL, *grey = NULL;
    int32_t *owner = NULL;
    enum status status = STATUS_OK;

    TRY_OUT(memory_alloc_unset(&owner, cells, sizeof(*owner), "attention"));
    TRY_OUT(memory_alloc_unset(&opacity, cells, sizeof(*opacity), "attention"));
    TRY_OUT(memory_alloc_unset(&grey, size * size, sizeof(*grey), "attention"));
    attention_owners(owner, c);
    opacities(opacity, owner, c);
    grey_image(grey, c);
    for (size_t y = 0; y < size; y++)
        for (size_t x = 0; x < size; x++) {
            size_t cell = y / cell_px * (size_t)c->grid + x / cell_px, at = y * size + x;
            double share = opacity[cell];
            for (size_t j = 0; j < 3; j++) {
                double colour = owner[cell] < 0 ? 0.0 : attention_colours[owner[cell]].rgb[j];
                double value = grey[at] * (1.0 - share) + share * colour;
                out[3 * at + j] = (uint8_t)fmin(255.0, fmax(0.0, value));
            }
        }
out:
    memory_free(owner);
    memory_free(opacity);
    memory_free(grey);
    return status;
}
