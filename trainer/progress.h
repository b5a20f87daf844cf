/* The progress line: where the run is, how fast, how long it will take, and what holds it up. On a
 * terminal it is one line redrawn in place; elsewhere a log line every so often and at the end.
 *
 *   epoch 3/40  step 120/1251  loss 8.1012 (8.4003)  812 images/s  1:02:03 left  limit: compute
 *   (0.4 % waiting for data, 8 loaders)
 *
 * all in one line. The loss is the median of the last 20 steps, and the mean of the epoch in
 * brackets. Speed and waiting are those of the last 20 steps; the time left comes from the whole
 * run so far. Data are the limit where steps wait for more than 5 % of their time: batches are made
 * ahead, so that a fleet that keeps up is hardly ever waited for. */
#ifndef IBOT_TRAINER_PROGRESS_H
#define IBOT_TRAINER_PROGRESS_H

#include <stddef.h>
#include <stdint.h>

#include "trainer/metrics.h"

struct progress_options {
    int32_t n_epochs;
    int64_t steps_per_epoch;
    int64_t images_per_step; /* of all ranks */
    int64_t interval_ns;     /* between log lines without a terminal; 0: 30 s */
    bool quiet;              /* measures only: ranks other than 0 */
};

struct progress {
    struct progress_options options;
    int64_t first_step, n_done; /* of the run; steps done since the start */
    int64_t start_ns, last_ns;  /* monotonic */
    int64_t shown_ns;           /* when the line was last written */
    int64_t waited_ns;          /* for data, since the start */
    int64_t step_ns[METER_WINDOW], step_waited_ns[METER_WINDOW];
    struct meter loss; /* of this epoch */
    int32_t epoch;
    int32_t n_loaders; /* connected now; set by the caller */
};

/* `first_step`: the step of the run that comes next (0, or where a resumed run goes on). */
void progress_init(struct progress *progress, const struct progress_options *options,
                   int64_t first_step, int64_t now_ns);

/* After each step of the run: its number, its loss, how long it waited for data. Shows the line
 * when it is time to. */
void progress_step(struct progress *progress, int64_t step, double loss, int64_t waited_ns,
                   int64_t now_ns);

/* The line's text, cut to n_bytes; "" before the first step. Returns `out`. */
const char *progress_text(const struct progress *progress, char *out, size_t n_bytes);

double progress_images_per_second(const struct progress *progress); /* since the start */
/* Whether data, rather than compute, held up the last 20 steps. */
bool progress_waits_for_data(const struct progress *progress);

double progress_wait_share(const struct progress *progress); /* 0..1, since the start */

/* Clears the line on a terminal. At the end, and before a summary. */
void progress_clear(const struct progress *progress);

#endif
