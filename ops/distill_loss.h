/* Self-distillation: cross-entropy between teacher and student distributions over prototypes,
 * loss and gradient in one pass. One contract serves [CLS] tokens across views (each student row
 * has several teacher rows) and masked patches within a view (one teacher row each). */
#ifndef IBOT_OPS_DISTILL_LOSS_H
#define IBOT_OPS_DISTILL_LOSS_H

#include "ops/device.h"
#include "ops/tensor.h"

#ifdef __cplusplus
extern "C" {
#endif

/* P_t[m] = softmax((teacher[m] - centre) / teacher_temp)
 * log P_s[n] = log_softmax(student[n] / student_temp)
 * loss += sum_n weight[n] sum_{m in target[n]} -sum_k P_t[m,k] log P_s[n,k]
 * d_student[n] = weight[n] / student_temp * sum_{m in target[n]} (P_s[n] - P_t[m])
 *   student   [N, K] f32|bf16|f16  logits
 *   teacher   [M, K] f32|bf16|f16  logits; no gradient
 *   centre    [K] f32
 *   target    [N, J] i32      teacher rows of each student row; -1: none
 *   weight    [N] f32         1/(G*(V-1)*B) for [CLS]; 1/(G*B*masked of the crop) for patches
 *   temperatures: student_temp, teacher_temp [1] f32 each, in device memory (step_control)
 *   loss      [1] f64         in nats, added to
 *   d_student [N, K] f32|bf16 out; may alias student of the same type
 *   entropy   [1] f64         added to: sum over the M teacher rows of their entropy; or absent
 *   scratch   [2, M] f32      softmax statistics of the teacher rows
 * Rows: the first n_active rows of student are used when n_active (an i32 in device memory, at most
 * N) is present, else all; likewise the teacher rows up to the last that they name. d_student of
 * the other rows is 0.
 * Errors: STATUS_UNSUPPORTED, STATUS_DEVICE. Source: Zhou et al. 2022 (iBOT), eq. 2-3. */
struct distill_loss_args {
    struct tensor student, teacher, centre, target, weight;
    const float *student_temp, *teacher_temp;
    const int32_t *n_active;
    struct tensor loss, d_student, entropy, scratch;
};

/* centre = momentum * centre + (1 - momentum) * scale * sum;  [K] f32 each, momentum [1] f32 on the
 * device; scale turns a sum over ranks and micro-batches into a mean.
 * guard [n] f64, or absent: when an element is not finite the centre stays as it is. */
struct centre_update_args {
    struct tensor centre, sum, guard;
    const float *momentum;
    float scale;
};

enum status distill_loss_cpu(struct device *, const struct distill_loss_args *) IBOT_WARN_UNUSED;
enum status centre_update_cpu(struct device *, const struct centre_update_args *) IBOT_WARN_UNUSED;

#ifdef __cplusplus
}
#endif

#endif
