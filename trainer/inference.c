#include "trainer/inference.h"

#include <stdio.h>
#include <string.h>

#include "proto/base/log.h"
#include "trainer/pretrained_head.h"

enum status inference_backend_open(struct backend *out, const struct pretrained_options *weights,
                                   struct backend_options *backend, struct network_options *network,
                                   const struct options *parsed)
{
    backend_options_settle(backend, network, parsed);
    TRY(backend_options_check(backend, network));
    if (weights->path == NULL)
        FAIL(STATUS_INVALID, "give --checkpoint: a run folder or a file of weights");
    return backend_options_open(out, backend, network);
}

struct inference_options inference_options(const struct pretrained_options *weights,
                                           const struct backend_options *backend,
                                           const struct network_options *network)
{
    struct inference_options options = {.weights = *weights, .batch_size = 1, .whole_tokens = true};

    options.precision = network_options_precision(network, (enum backend_kind)backend->kind);
    options.gelu_tanh = network_options_gelu_tanh(network, options.precision);
    return options;
}

/* A head is built where it is asked for. */
static struct ibot_options model_options(const struct backbone_options *backbone,
                                         const struct inference_options *o)
{
    return (struct ibot_options){
        .backbone = *backbone,
        .head =
            {
                .hidden_dim = 1,
                .bottleneck_dim = 1,
                .out_dim = 1,
                .patch_out_dim = 1,
                .shared_student = true,
                .shared_teacher = true,
            },
        .batch_size = o->batch_size,
        .n_global = 1,
        .precision = o->precision,
        .gelu_tanh = o->gelu_tanh,
        .global_width_px = o->width_px,
        .inference_only = true,
    };
}

/* The original cuts off what does not fill a patch, of one of its two ways of reading images. */
static enum status check_size(int32_t size_px, int32_t cell_px, const char *arch)
{
    if (size_px % cell_px == 0)
        return STATUS_OK;
    int32_t below = size_px / cell_px * cell_px, above = below + cell_px;
    FAIL(STATUS_INVALID,
         "--image_size %d: it must be a multiple of %d px, which a token of this %s stands for: "
         "%d%s%d is one",
         size_px, cell_px, arch, below > 0 ? below : above, below > 0 ? " or " : ", or ",
         below > 0 ? above : 2 * above);
}

enum status inference_open_pretrained(struct inference *out, struct backend *backend,
                                      const struct pretrained *pretrained,
                                      const struct inference_options *o)
{
    struct ibot_options model = model_options(&pretrained->backbone, o);
    struct device *device = &backend->device;
    struct pretrained_report report;
    enum status status;
    char text[1024];

    memset(out, 0, sizeof(*out));
    model.global_size_px = o->size_px > 0 ? o->size_px : pretrained->crop_size_px;
    out->backend = backend;
    out->batch_size = o->batch_size;
    out->size_px = model.global_size_px;
    out->width_px = o->width_px > 0 ? o->width_px : out->size_px;
    out->cell_px = backbone_cell_px(&model.backbone);
    out->grid = backbone_grid(&model.backbone, out->size_px);
    out->width = backbone_width(&model.backbone);
    out->n_heads = model.backbone.n_stages > 0 ? 0 : model.backbone.n_heads;
    snprintf(out->weights, sizeof(out->weights), "%s", pretrained->file.path);
    if (o->head) {
        TRY_OUT(pretrained_head_options(pretrained, &model.head));
        model.inference_head = true;
        out->n_prototypes[0] = model.head.out_dim;
        out->n_prototypes[1] = model.head.patch_out_dim;
    }
    if (o->whole_tokens)
        TRY_OUT(check_size(out->size_px, out->cell_px, model.backbone.arch));
    if (o->whole_tokens && out->width_px != out->size_px)
        TRY_OUT(check_size(out->width_px, out->cell_px, model.backbone.arch));
    TRY_OUT(ibot_open(&out->ibot, device, backend->ops, &backend->collective, &model));
    TRY_OUT(pretrained_load(pretrained, out->ibot, device, false, &report));
    if (o->head)
        TRY_OUT(pretrained_load_head(pretrained, out->ibot, device));
    log_info("%s", pretrained_describe(pretrained, &report, text, sizeof(text)));
out:
    if (status != STATUS_OK)
        inference_close(out);
    return status;
}

enum status inference_open(struct inference *out, struct backend *backend,
                           const struct inference_options *o)
{
    struct pretrained pretrained;

    memset(out, 0, sizeof(*out));
    TRY(pretrained_open(&pretrained, &o->weights));
    enum status status = inference_open_pretrained(out, backend, &pretrained, o);
    pretrained_close(&pretrained);
    return status;
}

void inference_close(struct inference *model)
{
    if (model == NULL)
        return;
    if (model->pixels != NULL)
        model->backend->device.free(&model->backend->device, model->pixels);
    ibot_close(&model->ibot);
    memset(model, 0, sizeof(*model));
}

enum status inference_wants_attention(const struct inference *model)
{
    if (model->n_heads == 0)
        FAIL(STATUS_UNSUPPORTED, "a Swin has no [CLS] token, and so no attention of one: give the "
                                 "weights of a ViT");
    return STATUS_OK;
}

enum status inference_reshape(struct inference *model, int32_t height_px, int32_t width_px)
{
    TRY(ibot_reshape(model->ibot, height_px, width_px));
    model->size_px = height_px;
    model->width_px = width_px;
    model->grid = height_px / model->cell_px;
    return STATUS_OK;
}

enum status inference_upload(struct inference *model, const void *pictures, enum dtype dtype,
                             int32_t n, struct tensor *out)
{
    struct device *device = &model->backend->device;
    int32_t size = model->size_px, wide = model->width_px;

    CHECK(n > 0 && n <= model->batch_size && (dtype == DTYPE_U8 || dtype == DTYPE_F32));
    size_t bytes =
        3 * (size_t)model->batch_size * (size_t)size * (size_t)wide * dtype_size_bytes(dtype);
    if (bytes > model->pixels_bytes) {
        if (model->pixels != NULL)
            device->free(device, model->pixels);
        model->pixels = NULL;
        model->pixels_bytes = 0;
        TRY(device->alloc(device, &model->pixels, bytes, "pictures"));
        model->pixels_bytes = bytes;
    }
    *out = (struct tensor){model->pixels, dtype, 4, {n, size, wide, 3}};
    if (dtype == DTYPE_F32)
        *out = (struct tensor){model->pixels, dtype, 4, {n, 3, size, wide}};
    return device->copy_in(device, model->pixels, pictures, tensor_size_bytes(out));
}

enum status inference_tokens(struct inference *model, const uint8_t *rgb, int32_t n,
                             const struct ibot_tokens *out)
{
    struct tensor pixels;

    TRY(inference_upload(model, rgb, DTYPE_U8, n, &pixels));
    return ibot_tokens(model->ibot, pixels, out);
}

enum status inference_prototypes(struct inference *model, const uint8_t *rgb, int32_t n,
                                 const struct ibot_prototypes *out)
{
    struct tensor pixels;

    TRY(inference_upload(model, rgb, DTYPE_U8, n, &pixels));
    return ibot_prototypes(model->ibot, pixels, out);
}
