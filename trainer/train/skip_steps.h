/* Steps that a run leaves out, as --skip_steps names them: "120-130,400". After a loss spike, the
 * run goes back to a checkpoint before it and passes over the batches that led there. */
#ifndef IBOT_TRAINER_TRAIN_SKIP_STEPS_H
#define IBOT_TRAINER_TRAIN_SKIP_STEPS_H

#include <stdbool.h>
#include <stdint.h>

#include "proto/base/status.h"

enum { SKIP_STEPS_MAX_RANGES = 32 };

/* Zeroed is valid: nothing is left out. */
struct skip_steps {
    int32_t n;
    struct step_range {
        int64_t first, last; /* inclusive */
    } ranges[SKIP_STEPS_MAX_RANGES];
};

/* `text` may be NULL or "". Ranges come out in order, those that touch joined. Errors:
 * STATUS_INVALID shows where the text is wrong. */
enum status skip_steps_parse(struct skip_steps *out, const char *text) IBOT_WARN_UNUSED;

/* The range that has the step; NULL: it is not left out. */
const struct step_range *skip_steps_find(const struct skip_steps *skip, int64_t step);

/* Whether both leave out the same steps below `end`. */
bool skip_steps_agree(const struct skip_steps *a, const struct skip_steps *b, int64_t end);

#endif
