/* Softmax cross-entropy of every pixel of label maps, with logits of a coarser map that are scaled
 * up: semantic segmentation. The logits of the pixels are never in memory: 16 pictures of 512 px
 * and 150 classes would take 2.5 GB. */
#ifndef IBOT_OPS_DENSE_CROSS_ENTROPY_H
#define IBOT_OPS_DENSE_CROSS_ENTROPY_H

#include "ops/device.h"
#include "ops/tensor.h"

#ifdef __cplusplus
extern "C" {
#endif

enum { DENSE_IGNORED = 255, DENSE_MAX_CLASSES = 255 };

/* z(i, Y, X) [K]: row i of the logits at a pixel of the label map, bilinear, half-pixel centres
 * (PyTorch's align_corners=False): y = (Y + 0.5) h/H - 0.5, not below 0, edges clamped; so too x.
 *   loss[i, Y]     = sum over X of logsumexp(z) - z[label], of pixels that are not DENSE_IGNORED
 *   right[i, Y]    = number of these whose first greatest class is the label
 *   d_logits       = scale * gradient of the sum of all losses, summed in a fixed order
 *
 *   logits   [n*h*w, K] f32, K <= DENSE_MAX_CLASSES; row by row of each map
 *   label    [n*H*W]    u8 in 0 .. K-1, or DENSE_IGNORED: the caller's to check
 *   lse      [n*H*W]    f32 out: logsumexp(z) of the pixels that are not ignored, else undefined
 *   loss     [n*H]      f32 out, in nats
 *   right    [n*H]      i32 out
 *   d_logits [n*h*w, K] f32 out, or absent
 * Aliasing: none. Errors: STATUS_UNSUPPORTED for other types, STATUS_NO_MEMORY, STATUS_DEVICE.
 * Shapes are CHECKed. CPU ops/dense_cross_entropy.c, CUDA kernels/dense_cross_entropy.cu. */
struct dense_cross_entropy_args {
    struct tensor logits, label, lse, loss, right, d_logits;
    int64_t n;                                        /* maps */
    int32_t height, width, label_height, label_width; /* h, w, H, W */
    float scale;
};

enum status dense_cross_entropy_cpu(struct device *,
                                    const struct dense_cross_entropy_args *) IBOT_WARN_UNUSED;

/* Shapes and types; n_classes of K. */
enum status dense_cross_entropy_check(const struct dense_cross_entropy_args *args) IBOT_WARN_UNUSED;

#ifdef __cplusplus
}
#endif

#endif
