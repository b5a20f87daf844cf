#include "trainer/eval/frozen_classifier.h"

#include <math.h>
#include <string.h>

#include "proto/base/log.h"
#include "proto/base/memory.h"

static enum status allocate(struct frozen_classifier *c)
{
    struct device *d = &c->network.backend->device;
    size_t batch = (size_t)c->network.batch_size, dim = (size_t)c->head.dim;
    size_t classes = (size_t)c->head.n_classes, size = sizeof(float);

    TRY(memory_alloc(&c->features, batch * dim, size, "features"));
    TRY(memory_alloc(&c->logits, batch * classes, size, "logits"));
    TRY(d->alloc(d, (void **)&c->weight, classes * dim * size, "linear classifier"));
    TRY(d->alloc(d, (void **)&c->bias, classes * size, "linear classifier"));
    TRY(d->alloc(d, (void **)&c->x, batch * dim * size, "features"));
    TRY(d->alloc(d, (void **)&c->product, batch * classes * size, "logits"));
    TRY(d->copy_in(d, c->weight, c->head.weight, classes * dim * size));
    TRY(d->copy_in(d, c->bias, c->head.bias, classes * size));
    return d->synchronize(d);
}

enum status frozen_classifier_open(struct frozen_classifier *out, struct backend *backend,
                                   const struct frozen_classifier_options *o)
{
    struct pretrained pretrained;
    enum status status;

    memset(out, 0, sizeof(*out));
    TRY(pretrained_open(&pretrained, &o->network.weights));
    TRY_OUT(o->linear != NULL ? linear_head_read(&out->head, o->linear)
                              : linear_head_within(&out->head, &pretrained));
    TRY_OUT(linear_head_settle(&out->head, &pretrained.backbone, &o->features));
    TRY_OUT(inference_open_pretrained(&out->network, backend, &pretrained, &o->network));
    TRY_OUT(allocate(out));
    log_info("linear classifier of %d classes, %d features: n_last_blocks %d, avgpool_patchtokens "
             "%d, topk %d",
             out->head.n_classes, out->head.dim, out->head.features.n_last_blocks,
             out->head.features.avgpool, out->head.features.topk);
out:
    pretrained_close(&pretrained);
    if (status != STATUS_OK)
        frozen_classifier_close(out);
    return status;
}

void frozen_classifier_close(struct frozen_classifier *c)
{
    if (c == NULL)
        return;
    void *on_device[] = {c->weight, c->bias, c->x, c->product};
    for (size_t i = 0; i < sizeof(on_device) / sizeof(on_device[0]); i++)
        if (on_device[i] != NULL)
            c->network.backend->device.free(&c->network.backend->device, on_device[i]);
    memory_free(c->features);
    memory_free(c->logits);
    linear_head_release(&c->head);
    inference_close(&c->network);
    memset(c, 0, sizeof(*c));
}

enum status frozen_classifier_run(struct frozen_classifier *c, struct tensor pixels)
{
    struct device *d = &c->network.backend->device;
    int64_t n = pixels.shape[0], dim = c->head.dim, classes = c->head.n_classes;
    struct linear_args product = {
        .x = tensor_2d(c->x, DTYPE_F32, n, dim),
        .weight = tensor_2d(c->weight, DTYPE_F32, classes, dim),
        .bias = tensor_1d(c->bias, DTYPE_F32, classes),
        .y = tensor_2d(c->product, DTYPE_F32, n, classes),
    };

    TRY(ibot_features(c->network.ibot, pixels, &c->head.features, c->features));
    TRY(d->copy_in(d, c->x, c->features, (size_t)(n * dim) * sizeof(float)));
    TRY(c->network.backend->ops->linear_forward(d, &product));
    TRY(d->copy_out(d, c->logits, c->product, (size_t)(n * classes) * sizeof(float)));
    TRY(d->synchronize(d));
    for (int64_t i = 0; i < n * classes; i++)
        if (!isfinite(c->logits[i]))
            FAIL(STATUS_NOT_FINITE, "a logit is not finite: the weights are broken, or too large "
                                    "for --precision");
    return STATUS_OK;
}
