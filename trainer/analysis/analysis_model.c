#include "trainer/analysis/analysis_model.h"

#include <string.h>

#include "proto/base/log.h"
#include "trainer/pretrained_head.h"

enum status analysis_backend_open(struct backend *out, const struct pretrained_options *weights,
                                  struct backend_options *backend, struct network_options *network,
                                  const struct options *parsed)
{
    backend_options_settle(backend, network, parsed);
    TRY(backend_options_check(backend, network));
    if (weights->path == NULL)
        FAIL(STATUS_INVALID, "give --checkpoint: a run folder or a file of weights");
    return backend_options_open(out, backend, network);
}

struct analysis_model_options analysis_model_options(const struct pretrained_options *weights,
                                                     const struct backend_options *backend,
                                                     const struct network_options *network)
{
    struct analysis_model_options options = {.weights = *weights, .batch_size = 1};

    options.precision = network_options_precision(network, (enum backend_kind)backend->kind);
    options.gelu_tanh = network_options_gelu_tanh(network, options.precision);
    return options;
}

/* A head is built where it is asked for. */
static struct ibot_options model_options(const struct backbone_options *backbone,
                                         const struct analysis_model_options *o)
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

enum status analysis_model_open(struct analysis_model *out, struct backend *backend,
                                const struct analysis_model_options *o)
{
    struct device *device = &backend->device;
    struct pretrained_report report;
    struct pretrained pretrained;
    char text[1024];
    enum status status;

    memset(out, 0, sizeof(*out));
    TRY(pretrained_open(&pretrained, &o->weights));
    struct ibot_options model = model_options(&pretrained.backbone, o);
    model.global_size_px = o->size_px > 0 ? o->size_px : pretrained.crop_size_px;
    out->backend = backend;
    out->batch_size = o->batch_size;
    out->size_px = model.global_size_px;
    out->cell_px = backbone_cell_px(&model.backbone);
    out->grid = backbone_grid(&model.backbone, out->size_px);
    out->width = backbone_width(&model.backbone);
    out->n_heads = model.backbone.n_stages > 0 ? 0 : model.backbone.n_heads;
    if (o->head) {
        TRY_OUT(pretrained_head_options(&pretrained, &model.head));
        model.inference_head = true;
        out->n_prototypes[0] = model.head.out_dim;
        out->n_prototypes[1] = model.head.patch_out_dim;
    }
    TRY_OUT(check_size(out->size_px, out->cell_px, model.backbone.arch));
    TRY_OUT(ibot_open(&out->ibot, device, backend->ops, &backend->collective, &model));
    TRY_OUT(pretrained_load(&pretrained, out->ibot, device, false, &report));
    if (o->head)
        TRY_OUT(pretrained_load_head(&pretrained, out->ibot, device));
    size_t bytes = 3 * (size_t)o->batch_size * (size_t)out->size_px * (size_t)out->size_px;
    TRY_OUT(device->alloc(device, (void **)&out->pixels, bytes, "pictures"));
    log_info("%s", pretrained_describe(&pretrained, &report, text, sizeof(text)));
out:
    pretrained_close(&pretrained);
    if (status != STATUS_OK)
        analysis_model_close(out);
    return status;
}

void analysis_model_close(struct analysis_model *model)
{
    if (model == NULL)
        return;
    if (model->pixels != NULL)
        model->backend->device.free(&model->backend->device, model->pixels);
    ibot_close(&model->ibot);
    memset(model, 0, sizeof(*model));
}

enum status analysis_model_wants_attention(const struct analysis_model *model)
{
    if (model->n_heads == 0)
        FAIL(STATUS_UNSUPPORTED, "a Swin has no [CLS] token, and so no attention of one: give the "
                                 "weights of a ViT");
    return STATUS_OK;
}

static enum status upload(struct analysis_model *model, const uint8_t *rgb, int32_t n,
                          struct tensor *pixels)
{
    struct device *device = &model->backend->device;

    *pixels = (struct tensor){model->pixels, DTYPE_U8, 4, {n, model->size_px, model->size_px, 3}};
    return device->copy_in(device, model->pixels, rgb, tensor_size_bytes(pixels));
}

enum status analysis_model_tokens(struct analysis_model *model, const uint8_t *rgb, int32_t n,
                                  const struct ibot_tokens *out)
{
    struct tensor pixels;

    TRY(upload(model, rgb, n, &pixels));
    return ibot_tokens(model->ibot, pixels, out);
}

enum status analysis_model_prototypes(struct analysis_model *model, const uint8_t *rgb, int32_t n,
                                      const struct ibot_prototypes *out)
{
    struct tensor pixels;

    TRY(upload(model, rgb, n, &pixels));
    return ibot_prototypes(model->ibot, pixels, out);
}
