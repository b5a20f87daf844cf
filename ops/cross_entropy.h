/* Softmax cross-entropy with labels: loss, rank of the label and gradient in one call. Several
 * classifiers side by side share the labels. */
#ifndef IBOT_OPS_CROSS_ENTROPY_H
#define IBOT_OPS_CROSS_ENTROPY_H

#include "ops/device.h"
#include "ops/tensor.h"

#ifdef __cplusplus
extern "C" {
#endif

/* Row r belongs to image r / C, where C = N / M is the number of classifiers:
 *   l = label[r / C]
 *   loss[r] = logsumexp(logits[r]) - logits[r, l]
 *   rank[r] = number of classes that come before l: those with a greater logit, and those with an
 *             equal one and a lower number. 0: right; below 5: among the five likeliest. A NaN
 *             comes before every label, and the label of a row with NaN at it is the last
 *   d_logits[r] = scale * (softmax(logits[r]) - onehot(l))
 *
 *   logits   [N, K] f32
 *   label    [M]    i32 in 0 .. K-1, M divides N
 *   loss     [N]    f32 out, in nats
 *   rank     [N]    i32 out, or absent
 *   d_logits [N, K] f32 out, may alias logits; or absent
 * Errors: STATUS_UNSUPPORTED for other types, STATUS_DEVICE. Shapes are CHECKed; labels are the
 * caller's to check. CPU ops/cross_entropy.c, CUDA kernels/cross_entropy.cu. */
struct cross_entropy_args {
    struct tensor logits, label, loss, rank, d_logits;
    float scale;
};

enum status cross_entropy_cpu(struct device *, const struct cross_entropy_args *) IBOT_WARN_UNUSED;

#ifdef __cplusplus
}
#endif

#endif
