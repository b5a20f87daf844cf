/* What is measured per epoch, and log.txt: one JSON object per epoch with the official keys first,
 * so that existing scripts read it.
 *
 *   metrics_init ─> per step: metrics_add … ─> metrics_totals / collective sum / metrics_set_totals
 *      ─> metrics_set (nmi, ari, fscore) ─> log_line_metrics, log_line_number … ─> log_line_append
 *
 * `acc` is the share of images whose teacher assignment on crop 0 equals the student's on crop 1:
 * agreement between views, not classification accuracy. */
#ifndef IBOT_TRAINER_METRICS_H
#define IBOT_TRAINER_METRICS_H

#include <stddef.h>
#include <stdint.h>

#include "proto/base/status.h"
#include "trainer/log_line.h"

/* The official meters, in the order of log.txt. */
enum metric {
    METRIC_LOSS,
    METRIC_CLS,
    METRIC_PATCH,
    METRIC_LR,
    METRIC_WD,
    METRIC_ACC,
    METRIC_NMI,
    METRIC_ARI,
    METRIC_FSCORE, /* the Fowlkes-Mallows index */
    METRIC_ADJACC, /* -1: the official code does not compute it in pre-training */
    METRIC_COUNT,
};

enum { METER_WINDOW = 20 };

/* A mean over everything and a median over the last values. */
struct meter {
    double sum, n;
    double window[METER_WINDOW];
    int64_t n_added;
};

struct metrics {
    struct meter meters[METRIC_COUNT];
};

void meter_add(struct meter *meter, double value);
double meter_mean(const struct meter *meter);   /* NaN when nothing was added */
double meter_median(const struct meter *meter); /* of the last METER_WINDOW values, the lower one */

/* Empties all meters; ADJACC is -1. At the beginning of an epoch. */
void metrics_init(struct metrics *metrics);
void metrics_add(struct metrics *metrics, enum metric metric, double value);

/* Replaces a meter by one value: for what is known at the end of an epoch alone. */
void metrics_set(struct metrics *metrics, enum metric metric, double value);
double metrics_mean(const struct metrics *metrics, enum metric metric);

/* "loss", "cls", …: TensorBoard's tag; log.txt's key is train_ before it. */
const char *metric_name(enum metric metric);

/* Sums and counts of every meter, to be added over ranks, and back. */
enum { METRICS_TOTALS = 2 * METRIC_COUNT };
void metrics_totals(const struct metrics *metrics, double totals[METRICS_TOTALS]);
void metrics_set_totals(struct metrics *metrics, const double totals[METRICS_TOTALS]);

/* The official keys in the official order, `epoch` last; further keys may follow. */
void log_line_metrics(struct log_line *line, const struct metrics *metrics, int32_t epoch);

#endif
