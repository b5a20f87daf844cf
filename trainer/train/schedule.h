/* Schedules: what learning rate, weight decay, teacher momentum and temperatures are at each step
 * and epoch. Pure functions, in double, equal to the original's arrays entry by entry. */
#ifndef IBOT_TRAINER_TRAIN_SCHEDULE_H
#define IBOT_TRAINER_TRAIN_SCHEDULE_H

#include <stdint.h>

#include "ops/step_control.h"
#include "proto/base/status.h"

struct schedule {
    int64_t steps_per_epoch;
    int32_t epochs;
    double lr, min_lr; /* lr: already scaled by total batch / 256 */
    int32_t warmup_epochs;
    double weight_decay, weight_decay_end;
    double momentum_teacher; /* rises to 1 */
    double warmup_teacher_temp, teacher_temp;
    double warmup_teacher_patch_temp, teacher_patch_temp;
    int32_t warmup_teacher_temp_epochs, pred_start_epoch;
    int32_t freeze_last_layer; /* epochs */
    double student_temp, centre_momentum, centre_patch_momentum, clip_grad;
};

/* Contradictions between epochs and warm-ups. Errors: STATUS_INVALID names the options. */
enum status schedule_check(const struct schedule *schedule) IBOT_WARN_UNUSED;

double schedule_lr(const struct schedule *schedule, int64_t step);
double schedule_weight_decay(const struct schedule *schedule, int64_t step);
double schedule_momentum(const struct schedule *schedule, int64_t step);
double schedule_teacher_temp(const struct schedule *schedule, int32_t epoch);
double schedule_teacher_patch_temp(const struct schedule *schedule, int32_t epoch);

/* All of it for one step. The last layer's Adam count lags by the frozen steps. */
void schedule_fill(const struct schedule *schedule, int64_t step, struct step_control *out);

#endif
