/* What a run keeps beside its tensors, in the metadata of one safetensors file: numbers by name,
 * the options that its result depends on, what its data are. Another run's is an error. */
#ifndef IBOT_TRAINER_EVAL_RUN_STATE_H
#define IBOT_TRAINER_EVAL_RUN_STATE_H

#include "ops/collective.h"
#include "proto/config/options.h"
#include "trainer/model/state_view.h"

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
    /* Ranks that run together, and call all of this together: all read, rank 0 writes, and none
     * goes on where it can't. NULL: one alone. */
    struct collective *ranks;
};

/* Numbers, options and the tensors of `view` to FOLDER/state.safetensors. Errors: STATUS_IO,
 * STATUS_NO_MEMORY, STATUS_DEVICE. */
enum status run_state_write(const struct run_state *state, const struct state_view *view,
                            struct device *device) IBOT_WARN_UNUSED;

/* Makes the folder. If it has a state, its numbers and tensors become the run's (*resumed). Then
 * every effective option is in FOLDER/run.yaml. Errors: STATUS_MISMATCH (other options, data or
 * ranks), STATUS_CORRUPT, STATUS_IO. */
enum status run_state_open(const struct run_state *state, const struct state_view *view,
                           struct device *device, bool *resumed) IBOT_WARN_UNUSED;

#endif
