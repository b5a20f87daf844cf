/* What step_bench is told. */
#ifndef IBOT_TESTS_BENCH_STEP_BENCH_OPTIONS_H
#define IBOT_TESTS_BENCH_STEP_BENCH_OPTIONS_H

#include "tests/bench/bench_options.h"
#include "trainer/model/ibot.h"

enum { STEP_BENCH_BATCHES = 16 };

struct step_bench_options {
    const char *arch;
    struct bench_options bench;
    struct ibot_options model; /* batch_size is set for each run */
    int32_t batches[STEP_BENCH_BATCHES], n_batches;
    int32_t window_size, steps, warmup, profile_steps;
    float drop_path;
    bool best_batch, upload, ceilings;
};

/* Reads the command line; ends the process for --help and for what is wrong. */
void step_bench_options_parse(struct step_bench_options *out, int argc, char **argv);

/* Names on the command line. */
const char *step_bench_attention(enum attention_maker maker);
const char *step_bench_recompute(enum recompute recompute);

#endif
