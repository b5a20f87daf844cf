/* Options that step_bench and ops_bench both have. They are read by argp itself, since benchmarks
 * are built where what proto/config needs is missing. */
#ifndef IBOT_TESTS_BENCH_BENCH_OPTIONS_H
#define IBOT_TESTS_BENCH_BENCH_OPTIONS_H

#include <argp.h>
#include <stdbool.h>
#include <stdint.h>

#include "tests/bench/bench_backend.h"

enum bench_precision { BENCH_PRECISION_BY_BACKEND, BENCH_PRECISION_F32, BENCH_PRECISION_BF16 };

struct bench_options {
    struct bench_backend_options backend;
    enum bench_precision precision; /* as asked for: bench_options_half says which it is */
    int32_t patch_size_px, global_size_px, local_size_px, n_local, out_dim, head_hidden_dim;
    bool json;
};

/* Defaults but threads, which are the program's. */
struct bench_options bench_options_default(int32_t threads);

/* A child of a program's parser; its input is a struct bench_options. */
extern const struct argp bench_argp;
enum { BENCH_FIRST_KEY = 512 }; /* a program's own keys are below */

bool bench_options_on_cpu(const struct bench_options *options);
bool bench_options_half(const struct bench_options *options); /* bf16 */

/* A whole number that ends at `end` (NULL: with the text). Ends the process if it is none, or is
 * not within the limits. */
int32_t bench_number(struct argp_state *state, const char *text, const char *end, int32_t least,
                     int32_t most);

/* The number of the one of `names` (ended by NULL) that the text is. Ends the process if none. */
int bench_choice(struct argp_state *state, const char *text, const char *const *names);

#endif
