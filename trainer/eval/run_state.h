/* What a run keeps beside its tensors, in the metadata of one safetensors file: numbers by name,
 * the options that its result depends on, what its data are. Another run's is an error. */
#ifndef IBOT_TRAINER_EVAL_RUN_STATE_H
#define IBOT_TRAINER_EVAL_RUN_STATE_H

#include "proto/config/options.h"
#include "trainer/model/state_view.h"
#include "trainer/weights/safetensors.h"

/* One of the three is not NULL. Whole numbers are exact, and so are real ones. */
struct run_number {
    const char *name;
    double *real;
    int64_t *whole;
    int32_t *count;
};

/* All borrowed. */
struct run_state {
    const char *command; /* "finetune", for messages */
    const char *folder;
    const struct options *parsed;
    const struct run_number *numbers;
    size_t n_numbers;
    const char *data;    /* what must be the same besides options, as a text */
    const char *weights; /* the file that was loaded first */
};

/* Writes numbers, options and the tensors of `view` to `path`. Errors: STATUS_IO, STATUS_NO_MEMORY,
 * STATUS_DEVICE. */
enum status run_state_write(const struct run_state *state, const char *path,
                            const struct state_view *view, struct device *device) IBOT_WARN_UNUSED;

/* Reads the numbers. Errors: STATUS_MISMATCH (other options or data), STATUS_CORRUPT. */
enum status run_state_read(const struct run_state *state, const struct safetensors *file,
                           const char *path) IBOT_WARN_UNUSED;

/* Every effective option as FOLDER/run.yaml. Errors: STATUS_IO. */
enum status run_state_write_options(const struct run_state *state) IBOT_WARN_UNUSED;

#endif
