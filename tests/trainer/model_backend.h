/* The backend that a test of a model is run on, named on its command line: PROGRAM [cpu | queued |
 * cuda | cuda_emulated [f32 | bf16 | bf16_stream]]. */
#ifndef IBOT_TESTS_TRAINER_MODEL_BACKEND_H
#define IBOT_TESTS_TRAINER_MODEL_BACKEND_H

#include "ops/op_table.h"
#include "trainer/model/ibot.h"

struct model_backend {
    const char *name;
    const struct op_table *ops;
    enum ibot_precision precision, stream; /* stream: the residual stream's */
};

/* 0, or 77, the exit status for a test that is skipped, when the backend is not in this program or
 * has no device here. */
int model_backend_choose(struct model_backend *out, int argc, char **argv);

enum status model_backend_open(const struct model_backend *backend,
                               struct device *out) IBOT_WARN_UNUSED;

#endif
