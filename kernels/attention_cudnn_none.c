/* Attention in a build without cuDNN: there is no plan for anything. */
#include "kernels/attention_cudnn.h"

#include "proto/base/status.h"

enum status attention_cudnn_find(struct device *device, enum attention_cudnn_kind kind,
                                 const struct attention_cudnn_shape *shape,
                                 const struct attention_cudnn_plan **out)
{
    (void)device;
    (void)kind;
    (void)shape;
    *out = NULL;
    return STATUS_OK;
}

size_t attention_cudnn_bytes(const struct attention_cudnn_plan *plan)
{
    (void)plan;
    return 0;
}

enum status attention_cudnn_run(struct device *device, const struct attention_cudnn_plan *plan,
                                const struct attention_cudnn_buffers *buffers)
{
    (void)device;
    (void)plan;
    (void)buffers;
    FAIL(STATUS_UNSUPPORTED, "attention by cuDNN: this build was made without it");
}
