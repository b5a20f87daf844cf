/* Attention by cuDNN: plans and their execution, in plain C. The forward is cuDNN's own node, the
 * backward a graph of its parts that cuDNN fuses into one kernel. bf16 with float32 sums.
 * kernels/attention_cudnn_none.c answers for builds without cuDNN: there is never a plan. */
#ifndef IBOT_KERNELS_ATTENTION_CUDNN_H
#define IBOT_KERNELS_ATTENTION_CUDNN_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "kernels/kernels.h"

#ifdef __cplusplus
extern "C" {
#endif

enum attention_cudnn_kind {
    ATTENTION_CUDNN_FORWARD,       /* out */
    ATTENTION_CUDNN_FORWARD_STATS, /* out, and what the backward needs */
    ATTENTION_CUDNN_BACKWARD,
};

/* B sequences of L tokens that lie one after the other, H heads of Dh columns. */
struct attention_cudnn_shape {
    int64_t n_sequences, length, n_heads, head_dim;
};

/* Is the plan taken where the own kernels could be? */
enum attention_verdict {
    ATTENTION_UNSETTLED,
    ATTENTION_TAKEN,
    ATTENTION_LEFT,
    ATTENTION_LEFT_TO_FORMER, /* to the former of the own kernels */
};

/* A plan: what cuDNN has compiled for one kind and shape. */
struct attention_cudnn_plan {
    enum attention_cudnn_kind kind;
    struct attention_cudnn_shape shape;
    enum attention_verdict verdict; /* the caller's */
    void *plan;                     /* cuDNN's; NULL: it has none */
    void *descriptors[160];         /* owned, the plan among them */
    int n_descriptors;
    int64_t engine;
    size_t workspace_bytes; /* cuDNN's own */
    size_t sums_bytes;      /* of backward: [B, H, L] f32 */
    char refusal[256];      /* why there is no plan */
};

/* What a plan reads and writes, from the first token of the first sequence on:
 *   qkv [B*L, 3D]  out, d_out [B*L, D]  d_qkv [B*L, 3D]   bf16
 *   stats [B, H, L] f32   log of the softmax denominator; aligned to 16, as the others
 *   memory                attention_cudnn_bytes(), aligned to 256 */
struct attention_cudnn_buffers {
    const void *qkv, *d_out;
    void *out, *stats, *d_qkv, *memory;
};

/* Was this build made with cuDNN? */
bool attention_cudnn_is_there(void);
/* What kernels_attention_by (kernels.h) has said. */
enum attention_maker attention_maker_of(const struct device *device);
size_t attention_cudnn_version(void);

/* Makes a plan without keeping it; release it in any case. `properties`: those of a device that
 * need not be here, as JSON; NULL: the present device, which `handle` (cudnnHandle_t) belongs to. A
 * shape that cuDNN refuses is no error: then plan->plan is NULL. */
enum status attention_cudnn_build(struct attention_cudnn_plan *plan, enum attention_cudnn_kind kind,
                                  const struct attention_cudnn_shape *shape, void *handle,
                                  const char *properties) IBOT_WARN_UNUSED;
void attention_cudnn_release(struct attention_cudnn_plan *plan);

/* The device's plan, made at first use (about a second) and kept; NULL: cuDNN has none. */
enum status attention_cudnn_find(struct device *device, enum attention_cudnn_kind kind,
                                 const struct attention_cudnn_shape *shape,
                                 struct attention_cudnn_plan **out) IBOT_WARN_UNUSED;

/* Working memory of a call. */
size_t attention_cudnn_bytes(const struct attention_cudnn_plan *plan);

/* Queues it on the branch in use. Results are the same bits on every call. Errors: STATUS_DEVICE.
 */
enum status attention_cudnn_run(struct device *device, const struct attention_cudnn_plan *plan,
                                const struct attention_cudnn_buffers *buffers) IBOT_WARN_UNUSED;

/* How often the device was given a plan to run, in a captured step counted once. */
int64_t attention_cudnn_n_runs(struct device *device);

#ifdef __cplusplus
}
#endif

#endif
