/* What ops_bench is told, and the shapes that follow from it. */
#ifndef IBOT_TESTS_BENCH_OPS_BENCH_OPTIONS_H
#define IBOT_TESTS_BENCH_OPS_BENCH_OPTIONS_H

#include "tests/bench/bench_options.h"
#include "tests/bench/ops_bench.h"

enum { OPS_BENCH_REPEATS = 1000 };

struct ops_bench_options {
    const char *archs, *only;
    struct bench_options bench;
    int32_t width, batch, repeats;
};

/* Reads the command line; ends the process for --help and for what is wrong. */
void ops_bench_options_parse(struct ops_bench_options *out, int argc, char **argv);

/* Of a network that --arch may name, or (any other name) a ViT of the width asked for. */
struct shapes ops_bench_shapes(const struct ops_bench_options *options, const char *arch);

/* Of a Swin: its last maps, which are what the head takes. */
struct shapes ops_bench_last_stage(const struct shapes *first);

#endif
