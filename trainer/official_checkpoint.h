/* Whole checkpoints of the original, as its main_ibot.py writes them: student, teacher, optimizer,
 * epoch, args, ibot_loss. A run goes on from one at its next epoch, with its moments, centres and
 * the optimizer's count of steps; and one is written of a run of ours.
 *
 *   optimizer   state of parameter number i: step, exp_avg, exp_avg_sq (AdamW), momentum_buffer
 *               (SGD) or mu (LARS); numbers run through the decayed parameters (group 0), then the
 *               others (names in .bias, vectors), each in the order of the student. A parameter
 *               that never moved (a frozen last layer) has no state.
 *
 * official_import.c reads, official_export.c writes. */
#ifndef IBOT_TRAINER_OFFICIAL_CHECKPOINT_H
#define IBOT_TRAINER_OFFICIAL_CHECKPOINT_H

#include "trainer/checkpoint.h"
#include "trainer/weights/weight_file.h"

struct official_checkpoint {
    struct weight_file file;
    int64_t epoch; /* epochs done: the next one's number */
};

/* Steps that the optimizer took. Schedules count those of the run; the two differ when half
 * precision made it leave some out, or when an epoch has another length now. */
struct official_steps {
    bool known; /* AdamW alone needs them, and has them */
    int64_t ordinary, last_layer;
};

/* Errors: STATUS_MISMATCH says which of the keys a whole checkpoint has are missing; those of
 * weight_file_open. */
enum status official_checkpoint_open(struct official_checkpoint *out,
                                     const char *path) IBOT_WARN_UNUSED;
void official_checkpoint_close(struct official_checkpoint *checkpoint);

/* A training argument; NULL when there is none of that name. */
const struct pickle_value *official_argument(const struct official_checkpoint *checkpoint,
                                             const char *name);

/* Fills the model's whole state, strictly. fixed_gains: the model's, which its optimizer knows
 * nothing of. The state of a gradient scaler (fp16_scaler) is left alone: there is none here.
 * Errors: STATUS_MISMATCH (what is missing, unexpected, of another shape or of another optimizer).
 */
enum status official_restore(const struct official_checkpoint *checkpoint, struct ibot *ibot,
                             struct device *device, bool fixed_gains, struct state_counts *counts,
                             struct official_steps *steps) IBOT_WARN_UNUSED;

/* Writes a checkpoint of ours, which must be of an epoch's end, as PATH (a .pth file). `args` is a
 * dictionary there, not a Namespace, so that torch.load(weights_only=True) opens it. Errors:
 * STATUS_INVALID (within an epoch), STATUS_IO. */
enum status official_export(const struct checkpoint *checkpoint, const char *path) IBOT_WARN_UNUSED;

/* Whether a student's parameter is in group 1: not decayed. */
bool official_is_undecayed(const char *name, int32_t rank);

#endif
