/* Meters: sums for the epoch, a short window for people. */
#include "trainer/metrics.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

static const char *const names[METRIC_COUNT] = {
    [METRIC_LOSS] = "loss",     [METRIC_CLS] = "cls", [METRIC_PATCH] = "patch",
    [METRIC_LR] = "lr",         [METRIC_WD] = "wd",   [METRIC_ACC] = "acc",
    [METRIC_NMI] = "nmi",       [METRIC_ARI] = "ari", [METRIC_FSCORE] = "fscore",
    [METRIC_ADJACC] = "adjacc",
};

void meter_add(struct meter *meter, double value)
{
    meter->sum += value;
    meter->n += 1;
    meter->window[meter->n_added++ % METER_WINDOW] = value;
}

double meter_mean(const struct meter *meter)
{
    return meter->n > 0 ? meter->sum / meter->n : NAN;
}

double meter_median(const struct meter *meter)
{
    double sorted[METER_WINDOW];
    int n = meter->n_added < METER_WINDOW ? (int)meter->n_added : METER_WINDOW;

    if (n == 0)
        return NAN;
    for (int i = 0; i < n; i++) {
        int k = i;
        for (; k > 0 && sorted[k - 1] > meter->window[i]; k--)
            sorted[k] = sorted[k - 1];
        sorted[k] = meter->window[i];
    }
    return sorted[(n - 1) / 2];
}

void metrics_init(struct metrics *metrics)
{
    memset(metrics, 0, sizeof(*metrics));
    metrics_set(metrics, METRIC_ADJACC, -1);
}

void metrics_add(struct metrics *metrics, enum metric metric, double value)
{
    meter_add(&metrics->meters[metric], value);
}

void metrics_set(struct metrics *metrics, enum metric metric, double value)
{
    metrics->meters[metric] = (struct meter){.n = 0};
    meter_add(&metrics->meters[metric], value);
}

double metrics_mean(const struct metrics *metrics, enum metric metric)
{
    return meter_mean(&metrics->meters[metric]);
}

const char *metric_name(enum metric metric)
{
    CHECK((unsigned)metric < METRIC_COUNT, "metric %d", (int)metric);
    return names[metric];
}

void metrics_totals(const struct metrics *metrics, double totals[METRICS_TOTALS])
{
    for (int i = 0; i < METRIC_COUNT; i++) {
        totals[2 * i] = metrics->meters[i].sum;
        totals[2 * i + 1] = metrics->meters[i].n;
    }
}

void metrics_set_totals(struct metrics *metrics, const double totals[METRICS_TOTALS])
{
    for (int i = 0; i < METRIC_COUNT; i++) {
        metrics->meters[i].sum = totals[2 * i];
        metrics->meters[i].n = totals[2 * i + 1];
    }
}

void log_line_metrics(struct log_line *line, const struct metrics *metrics, int32_t epoch)
{
    char key[64];

    for (int i = 0; i < METRIC_COUNT; i++) {
        snprintf(key, sizeof(key), "train_%s", metric_name((enum metric)i));
        log_line_number(line, key, metrics_mean(metrics, (enum metric)i));
    }
    log_line_integer(line, "epoch", epoch);
}
