/* Where the time of a step goes: an op table whose slots call those of another and note how long
 * each took on the device, how often it was called, and what it had to do (op_work.h). One at a
 * time in a process. */
#ifndef IBOT_TESTS_BENCH_STEP_PROFILE_H
#define IBOT_TESTS_BENCH_STEP_PROFILE_H

#include "tests/bench/device_probe.h"
#include "tests/bench/op_work.h"

enum step_op {
#define STEP_OP_NUMBER(slot, args) OP_##slot,
    STEP_OPS(STEP_OP_NUMBER) N_STEP_OPS
};

enum { STEP_PROFILE_CALLS = 1 << 14 };

struct step_profile_row {
    const char *name;
    double seconds;
    int64_t n_calls;
    struct op_work work;
};

/* The table to open a model with. timer: 2 * STEP_PROFILE_CALLS marks, or NULL: calls and their
 * work alone are noted. */
struct op_table step_profile_open(const struct op_table *ops, struct device_timer *timer);

/* Forgets everything. */
void step_profile_reset(void);

/* Adds up the times of the calls since the last collect (or reset); the device has been waited
 * for. */
enum status step_profile_collect(void) IBOT_WARN_UNUSED;

const struct step_profile_row *step_profile_rows(void); /* N_STEP_OPS of them */

#endif
