/* Everything that changes from step to step, in one small struct that lives in device memory and
 * is copied in at the start of a step, so that a captured step never changes. The host fills it
 * from the schedules (trainer/train/schedule.h). */
#ifndef IBOT_OPS_STEP_CONTROL_H
#define IBOT_OPS_STEP_CONTROL_H

#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

struct step_control {
    float lr;
    float weight_decay;       /* for the decayed segments */
    float teacher_momentum;   /* m in teacher = m*teacher + (1-m)*student */
    float student_temp;       /* tau_s, both token kinds */
    float teacher_temp;       /* tau, [CLS] */
    float teacher_patch_temp; /* tau', patches */
    float centre_momentum;    /* [CLS] centre */
    float centre_patch_momentum;
    float clip_grad;           /* L2 limit, 0: none */
    int32_t freeze_last_layer; /* 1: last-layer segments keep their values and moments */
    int32_t step;              /* optimizer steps taken before this one by ordinary segments */
    int32_t last_layer_step;   /* the same for last-layer segments: it lags by the frozen steps */
    int32_t n_masked;          /* masked patch rows in this step */
    int32_t reserved[3];
};

#ifdef __cplusplus
}
#endif

#endif
