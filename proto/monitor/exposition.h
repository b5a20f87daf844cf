/* Text in Prometheus' exposition format (version 0.0.4): families of samples.
 *
 *   exposition_family(e, "ibot_loader_stage_seconds_total", EXPOSITION_COUNTER, "Time spent …");
 *   exposition_sample(e, "stage", "decode", seconds);   …
 *   exposition_gauge(e, "ibot_loader_leases", "Slices in hand.", n);   a family of one sample
 *
 * Names and labels are ours and are checked; label values may be anything. */
#ifndef IBOT_PROTO_MONITOR_EXPOSITION_H
#define IBOT_PROTO_MONITOR_EXPOSITION_H

#include <stddef.h>
#include <stdint.h>

#include "proto/base/status.h"

enum exposition_type { EXPOSITION_COUNTER, EXPOSITION_GAUGE, EXPOSITION_HISTOGRAM };

enum { HISTOGRAM_BOUNDS = 14, EXPOSITION_NAME_BYTES = 96 };

/* How often something took how long; buckets from 10 ms to 5 minutes. */
struct histogram {
    uint64_t counts[HISTOGRAM_BOUNDS + 1]; /* up to each bound alone; beyond the last */
    double sum;                            /* seconds */
};

struct exposition {
    char *text; /* owned; ends with NUL */
    size_t n_bytes, capacity;
    char family[EXPOSITION_NAME_BYTES]; /* that samples belong to now */
    enum status status;                 /* STATUS_NO_MEMORY: what is there is not whole */
};

void exposition_release(struct exposition *e);

/* Begins a family: its HELP and TYPE lines. A counter's name ends in _total. */
void exposition_family(struct exposition *e, const char *name, enum exposition_type type,
                       const char *help);

/* One sample of it; label NULL: none. */
void exposition_sample(struct exposition *e, const char *label, const char *label_value,
                       double value);

/* A family with one sample without labels. */
void exposition_gauge(struct exposition *e, const char *name, const char *help, double value);
void exposition_counter(struct exposition *e, const char *name, const char *help, double value);

void exposition_histogram(struct exposition *e, const char *name, const char *help,
                          const struct histogram *histogram);
void histogram_add(struct histogram *histogram, double seconds);

/* What Prometheus wants to know of any process: CPU time, memory, open files, start. */
void exposition_process(struct exposition *e);

#endif
