/* Softmax cross-entropy with labels, which may be smoothed, and mixed in pairs: loss, rank of the
 * label and gradient in one call. Several classifiers side by side share the labels. */
#ifndef IBOT_OPS_CROSS_ENTROPY_H
#define IBOT_OPS_CROSS_ENTROPY_H

#include "ops/device.h"
#include "ops/tensor.h"

#ifdef __cplusplus
extern "C" {
#endif

/* Row r belongs to image r / C, where C = N / M is the number of classifiers:
 *   l = label[r / C], o = other[r / C], s = share[r / C] (1 without them)
 *   t = (1 - smoothing) (s onehot(l) + (1 - s) onehot(o)) + smoothing / K
 *   loss[r] = logsumexp(logits[r]) - <t, logits[r]>
 *   rank[r] = number of classes that come before l: those with a greater logit, and those with an
 *             equal one and a lower number. 0: right; below 5: among the five likeliest. A NaN
 *             comes before every label, and the label of a row with NaN at it is the last
 *   d_logits[r] = scale * (softmax(logits[r]) - t)
 *
 *   logits   [N, K] f32
 *   label    [M]    i32 in 0 .. K-1, M divides N
 *   other    [M]    i32 in 0 .. K-1, or absent
 *   share    [M]    f32 in 0 .. 1; absent with other
 *   loss     [N]    f32 out, in nats
 *   rank     [N]    i32 out, or absent
 *   d_logits [N, K] f32 out, may alias logits; or absent
 * Errors: STATUS_UNSUPPORTED for other types, STATUS_DEVICE. Shapes are CHECKed; labels are the
 * caller's to check. Source: Szegedy et al. 2016 (label smoothing), Zhang et al. 2018 (mixup). CPU
 * ops/cross_entropy.c, CUDA kernels/cross_entropy.cu. */
struct cross_entropy_args {
    struct tensor logits, label, other, share, loss, rank, d_logits;
    float scale, smoothing; /* smoothing: 0 .. 1 */
};

enum status cross_entropy_cpu(struct device *, const struct cross_entropy_args *) IBOT_WARN_UNUSED;

#ifdef __cplusplus
}
#endif

#endif
