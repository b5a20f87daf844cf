/* What step_bench prints: a table, or one JSON object whose members say their units. */
#ifndef IBOT_TESTS_BENCH_STEP_BENCH_REPORT_H
#define IBOT_TESTS_BENCH_STEP_BENCH_REPORT_H

#include "tests/bench/bench_backend.h"
#include "tests/bench/json_out.h"
#include "tests/bench/samples.h"
#include "tests/bench/step_bench_options.h"
#include "tests/bench/step_profile.h"
#include "tests/bench/step_work.h"

/* One batch size. Seconds, of a step. */
struct step_run {
    int32_t batch_size;
    char error[512]; /* why there are no numbers, or empty */
    struct quartiles step;
    struct quartiles host; /* the host's, to queue a step, waits for the device not counted */
    struct quartiles gap;  /* the device's, between steps */
    int32_t n_late;        /* steps before the end of whose queueing the device had no work left */
    size_t memory_bytes, planned_bytes;
    int64_t n_masked;
    double loss;
    struct step_work work;
    const struct step_profile_row *rows; /* of n_profiled steps; NULL: none */
    double profiled_seconds;
    int32_t n_profiled;
};

struct step_report {
    struct json_out json;
    const struct step_bench_options *options;
    const struct bench_backend *backend;
    const struct ceilings *ceilings;
    struct step_run best;
    int32_t n_good;
};

void step_report_begin(struct step_report *report, const struct step_bench_options *options,
                       const struct bench_backend *backend, const struct ceilings *ceilings);
void step_report_run(struct step_report *report, const struct step_run *run);
void step_report_end(struct step_report *report);

#endif
