#include "trainer/eval/segment_scores.h"

#include <math.h>

#include "proto/base/status.h"

void segment_counts_add(struct segment_counts *counts, const uint8_t *found, const uint8_t *truth,
                        int64_t n)
{
    for (int64_t i = 0; i < n; i++) {
        if (truth[i] == SEGMENT_IGNORED)
            continue;
        counts->truth[truth[i]]++;
        counts->found[found[i]]++;
        counts->both[truth[i]] += truth[i] == found[i];
    }
}

static double mean_of_numbers(const double *values, int32_t n)
{
    double sum = 0.0;
    int32_t count = 0;

    for (int32_t i = 0; i < n; i++)
        if (!isnan(values[i])) {
            sum += values[i];
            count++;
        }
    return count > 0 ? sum / count : NAN;
}

static double share_of(int64_t part, int64_t all)
{
    return all > 0 ? (double)part / (double)all : NAN;
}

void segment_scores_of(struct segment_scores *out, const struct segment_counts *c, int32_t n)
{
    int64_t right = 0, pixels = 0;

    CHECK(n >= 1 && n <= SEGMENT_MAX_CLASSES);
    out->n_classes = n;
    for (int32_t i = 0; i < n; i++) {
        out->iou[i] = share_of(c->both[i], c->truth[i] + c->found[i] - c->both[i]);
        out->accuracy[i] = share_of(c->both[i], c->truth[i]);
        right += c->both[i];
        pixels += c->truth[i];
    }
    out->mean_iou = mean_of_numbers(out->iou, n);
    out->mean_accuracy = mean_of_numbers(out->accuracy, n);
    out->all_accuracy = share_of(right, pixels);
}
