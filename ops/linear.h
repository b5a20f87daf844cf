/* Linear layer: matrix product with bias and activation, and its gradients, as the fused units
 * that cuBLASLt's epilogues offer. */
#ifndef IBOT_OPS_LINEAR_H
#define IBOT_OPS_LINEAR_H

#include "ops/device.h"
#include "ops/tensor.h"

#ifdef __cplusplus
extern "C" {
#endif

/* GELU: exact, by erf. GELU_TANH: the form by tanh that matrix libraries fuse into a product;
 * within 4.8e-4 of the exact one (Hendrycks and Gimpel 2016). */
enum activation { ACTIVATION_NONE, ACTIVATION_GELU, ACTIVATION_RELU, ACTIVATION_GELU_TANH };

/* y = activation(x weight^T + bias).
 *   x       [N, In]   f32|bf16|f16
 *   weight  [Out, In] of the type of x
 *   bias    [Out]     f32|bf16, or absent
 *   y       [N, Out]  f32|bf16 out
 *   pre     [N, Out]  of the type of y, out: the value before the activation, which the backward
 *                     of the next layer needs; absent with ACTIVATION_NONE, or without a backward
 * Aliasing: none. Errors: STATUS_UNSUPPORTED for the dtypes, STATUS_DEVICE. Shapes are CHECKed.
 * CPU ops/linear.c (CBLAS), CUDA kernels/linear.cu (cuBLASLt; fastest where bias, pre and y have
 * one type and the activation is none or GELU by tanh).
 * most_rows: where N is another one at each call, the most it will be, for which a library's
 * algorithms are chosen; x, y and pre have memory for that many. 0: N. */
struct linear_args {
    struct tensor x, weight, bias, y, pre;
    int64_t most_rows;
    enum activation activation;
};

/* Gradients of the product above, for d_y after the activation has been undone:
 *   d_y      [N, Out]  f32|bf16
 *   x        [N, In]   the forward input, of the type of d_y
 *   weight   [Out, In] of the type of d_y
 *   pre      [N, In]   absent, or the value before the activation that made x: then d_x is
 *                      multiplied by the derivative of `activation` there (dgrad epilogue)
 *   d_x      [N, In]   out, or absent
 *   d_weight [Out, In] f32, added to; or absent
 *   d_bias   [Out]     f32, added to; or absent
 *   d_x_sums [In]      f32, added to: the sums of d_x's columns, which are the gradient of the bias
 *                      of the layer that x comes from; absent, or beside d_x
 * Aliasing: none. */
struct linear_backward_args {
    struct tensor d_y, x, weight, pre, d_x, d_weight, d_bias, d_x_sums;
    int64_t most_rows; /* as above, of d_y, x, pre and d_x */
    enum activation activation;
};

enum status linear_forward_cpu(struct device *device,
                               const struct linear_args *args) IBOT_WARN_UNUSED;
enum status linear_backward_cpu(struct device *device,
                                const struct linear_backward_args *args) IBOT_WARN_UNUSED;

#ifdef __cplusplus
}
#endif

#endif
