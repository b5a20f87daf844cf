/* Attention in a build without cuDNN: there is no plan for anything. */
#include "kernels/attention_cudnn.h"

#include "proto/base/status.h"

bool attention_cudnn_is_there(void)
{
    return false;
}

size_t attention_cudnn_version(void)
{
    return 0;
}

int64_t attention_cudnn_n_runs(struct device *device)
{
    (void)device;
    return 0;
}

enum status kernels_attention_by(struct device *device, enum attention_maker maker)
{
    (void)device;
    if (maker == ATTENTION_BY_CUDNN)
        FAIL(STATUS_UNSUPPORTED,
             "attention by cuDNN was asked for, but this build was made without "
             "cuDNN; 'auto' and 'own' need none");
    if (maker == ATTENTION_BY_FORMER)
        FAIL(STATUS_UNSUPPORTED,
             "the former kernels for attention are for builds with cuDNN, which "
             "have a choice");
    return STATUS_OK;
}

enum attention_maker attention_maker_of(const struct device *device)
{
    (void)device;
    return ATTENTION_BY_OWN;
}

enum status attention_cudnn_find(struct device *device, enum attention_cudnn_kind kind,
                                 const struct attention_cudnn_shape *shape,
                                 struct attention_cudnn_plan **out)
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
