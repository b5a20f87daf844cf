/* Who computes the attention of a group of sequences: the kernels of this folder, or cuDNN. */
#ifndef IBOT_KERNELS_ATTENTION_CHOICE_H
#define IBOT_KERNELS_ATTENTION_CHOICE_H

#include "kernels/attention_cudnn.h"
#include "ops/attention.h"
#include "ops/tensor.h"

#ifdef __cplusplus
extern "C" {
#endif

/* A group, and its call's tensors. Of a forward d_out and d_qkv are absent, perhaps lse. */
struct attention_call {
    struct tensor qkv, out, lse, d_out, d_qkv;
    struct attention_group group;
    int32_t n_heads;
    bool changing;
};

/* Computes it by what kernels_attention_by has said. A plan of cuDNN's is for one number of
 * sequences: where that changes it is computed by the own kernels, unless cuDNN was asked for.
 * Plans are made, and if the device is to tune itself all are measured, at the first call of a
 * shape, which must not be in a captured step. Errors: STATUS_UNSUPPORTED (the type),
 * STATUS_DEVICE. */
enum status attention_by_choice(struct device *device,
                                const struct attention_call *call) IBOT_WARN_UNUSED;

/* By the own kernels: kernels/attention.cu; by the former ones, if there are newer. */
enum status attention_by_own(struct device *device, const struct attention_call *call,
                             bool former) IBOT_WARN_UNUSED;
/* Are there newer ones for the call? */
bool attention_has_former(struct device *device, const struct attention_call *call);

/* By cuDNN. */
enum status attention_by_plan(struct device *device, const struct attention_call *call,
                              const struct attention_cudnn_plan *plan) IBOT_WARN_UNUSED;

/* Which of them is taken, as plan->verdict: what the file of tuning says, else what measuring
 * says, which is kept there; if the device is not to tune itself, by length. */
enum status attention_settle(struct device *device, const struct attention_call *call,
                             struct attention_cudnn_plan *plan) IBOT_WARN_UNUSED;

#ifdef __cplusplus
}
#endif

#endif
