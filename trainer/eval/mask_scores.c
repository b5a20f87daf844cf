#include "trainer/eval/mask_scores.h"

#include <math.h>
#include <string.h>

#include "proto/base/memory.h"

static const double boundary_tolerance = 0.008; /* of the diagonal */

double mask_similarity(const struct mask_pair *pair)
{
    int64_t n = (int64_t)pair->width * pair->height, both = 0, either = 0;

    for (int64_t i = 0; i < n; i++) {
        int found = pair->found[i] == pair->label, truth = pair->truth[i] == pair->label;
        both += found & truth;
        either += found | truth;
    }
    return either > 0 ? (double)both / (double)either : 1.0;
}

/* ------------------------------------------------------------------------------ boundaries */

/* out [height, width]: 1 at boundary pixels. Returns how many there are. Past an edge lies what the
 * edge has. */
static int64_t find_boundary(uint8_t *out, const uint8_t *labels, const struct mask_pair *pair)
{
    int64_t width = pair->width, height = pair->height, n = 0;

    for (int64_t y = 0; y < height; y++)
        for (int64_t x = 0; x < width; x++) {
            const uint8_t *at = labels + y * width + x;
            int64_t right = x + 1 < width, below = y + 1 < height ? width : 0;
            bool own = at[0] == pair->label;
            bool edge = own != (at[right] == pair->label) || own != (at[below] == pair->label) ||
                        own != (at[below + right] == pair->label);
            out[y * width + x] = edge;
            n += edge;
        }
    return n;
}

/* out: 1 within `radius` of a pixel of `boundary`. */
static void dilate(uint8_t *out, const uint8_t *boundary, const struct mask_pair *pair,
                   int64_t radius)
{
    int64_t width = pair->width, height = pair->height;

    memset(out, 0, (size_t)(width * height));
    for (int64_t dy = -radius; dy <= radius; dy++) {
        int64_t reach = radius;
        while (reach * reach + dy * dy > radius * radius)
            reach--;
        for (int64_t y = dy < 0 ? -dy : 0; y < height && y + dy < height; y++)
            for (int64_t x = 0; x < width; x++) {
                if (boundary[y * width + x] == 0)
                    continue;
                int64_t first = x > reach ? x - reach : 0;
                int64_t end = x + reach < width ? x + reach + 1 : width;
                memset(out + (y + dy) * width + first, 1, (size_t)(end - first));
            }
    }
}

static int64_t count_both(const uint8_t *a, const uint8_t *b, int64_t n)
{
    int64_t both = 0;

    for (int64_t i = 0; i < n; i++)
        both += a[i] & b[i];
    return both;
}

enum status mask_boundary(double *out, const struct mask_pair *pair)
{
    double width = pair->width, height = pair->height;
    int64_t n = (int64_t)pair->width * pair->height;
    int64_t radius = (int64_t)ceil(boundary_tolerance * sqrt(width * width + height * height));
    uint8_t *work;

    TRY(memory_alloc_unset(&work, (size_t)n, 3, "boundaries"));
    uint8_t *found = work, *truth = work + n, *wide = work + 2 * n;
    int64_t n_found = find_boundary(found, pair->found, pair);
    int64_t n_truth = find_boundary(truth, pair->truth, pair);
    if (n_found == 0 || n_truth == 0) {
        *out = n_found == n_truth ? 1.0 : 0.0;
    } else {
        dilate(wide, truth, pair, radius);
        double precision = (double)count_both(found, wide, n) / (double)n_found;
        dilate(wide, found, pair, radius);
        double recall = (double)count_both(truth, wide, n) / (double)n_truth;
        *out = precision + recall > 0.0 ? 2.0 * precision * recall / (precision + recall) : 0.0;
    }
    memory_free(work);
    return STATUS_OK;
}

/* ------------------------------------------------------------------------------ sequences */

/* Of values first .. last, both included. */
static double mean_of(const double *values, int32_t first, int32_t last)
{
    double sum = 0.0;

    for (int32_t i = first; i <= last; i++)
        sum += values[i];
    return sum / (double)(last - first + 1);
}

struct mask_statistics mask_statistics(const double *values, int32_t n)
{
    int32_t n_above = 0, bound[5];

    for (int32_t i = 0; i < n; i++)
        n_above += values[i] > 0.5;
    /* neighbouring quarters share the frame between them */
    for (int32_t i = 0; i < 5; i++)
        bound[i] = (int32_t)rint(1.0 + i * ((double)(n - 1) / 4.0) + 1e-10) - 1;
    return (struct mask_statistics){
        .mean = mean_of(values, 0, n - 1),
        .recall = (double)n_above / (double)n,
        .decay = mean_of(values, bound[0], bound[1]) - mean_of(values, bound[3], bound[4]),
    };
}
