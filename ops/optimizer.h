/* Clipping, optimizer step and teacher average, in two passes over flat arrays with a table of
 * segments (one per parameter tensor): pass 1 measures the gradients, pass 2 does all the rest. */
#ifndef IBOT_OPS_OPTIMIZER_H
#define IBOT_OPS_OPTIMIZER_H

#include "ops/device.h"
#include "ops/step_control.h"
#include "ops/tensor.h"

#ifdef __cplusplus
extern "C" {
#endif

enum optimizer_kind { OPTIMIZER_ADAMW, OPTIMIZER_SGD, OPTIMIZER_LARS };

enum segment_flags {
    SEGMENT_DECAY = 1 << 0,      /* weight decay applies */
    SEGMENT_LAST_LAYER = 1 << 1, /* left alone while control->freeze_last_layer */
    SEGMENT_VECTOR = 1 << 2,     /* one-dimensional (LARS adapts the others only) */
    SEGMENT_FIXED = 1 << 3,      /* not trained (weight-norm gains held at 1) */
};

struct segment {
    int64_t offset, n;      /* elements in the flat student arrays */
    int64_t teacher_offset; /* in the flat teacher array; -1: no counterpart */
    uint32_t flags;
    float lr_scale; /* multiplies control->lr; 0: 1 */
};

/* norms [n_segments] f64 out: L2 norm of each gradient segment (fixed ones: 0). Sums in a fixed
 * order: the same bits every time on the same number of threads. */
struct gradient_norms_args {
    struct tensor gradient, norms;
    const struct segment *segments; /* device memory */
    int32_t n_segments;
};

/* For every segment, whose lr is control->lr * lr_scale: g *= clip where the norm exceeds
 * control->clip_grad (per tensor: clip/(norm + 1e-6) if that is below 1; global_norm: one factor
 * from the norm of all), then AdamW  p *= 1 - lr*wd; m, v moments (0.9, 0.999); p -= lr/(1-b1^t) *
 * m / (sqrt(v)/sqrt(1-b2^t) + 1e-8) SGD    momentum 0.9, not Nesterov, decay added to the gradient
 *   LARS   matrices: g += wd*p, g *= 0.001*|p|/|g| if both > 0; mu = 0.9*mu + g; p -= lr*mu
 * then teacher = m*teacher + (1-m)*student. Frozen last-layer segments skip all but the teacher. t
 * is control->step + 1, or control->last_layer_step + 1 for last-layer segments.
 *   parameter, gradient, moment1 [P] f32; moment2 [P] f32 (AdamW, else absent); teacher [Q] f32
 *   parameter_half [P], teacher_half [Q] bf16 out: copies of what was updated; or absent
 *   norms [n_segments] f64 from gradient_norms; control in device memory
 *   guard [n] f64, or absent. When an element of it or of the norms is not finite, nothing is
 *   written: a step whose loss or gradient is not finite leaves everything as it was.
 * Source: Loshchilov and Hutter 2019; You et al. 2017; spec of the official step. */
struct optimizer_step_args {
    struct tensor parameter, gradient, moment1, moment2, teacher, norms;
    struct tensor parameter_half, teacher_half, guard;
    const struct segment *segments;
    const struct step_control *control;
    int32_t n_segments;
    enum optimizer_kind kind;
    bool global_norm;
};

enum status gradient_norms_cpu(struct device *,
                               const struct gradient_norms_args *) IBOT_WARN_UNUSED;
enum status optimizer_step_cpu(struct device *,
                               const struct optimizer_step_args *) IBOT_WARN_UNUSED;

#ifdef __cplusplus
}
#endif

#endif
