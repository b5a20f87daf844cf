/* Crops are independent: one thread per crop, each with its piece of the scratch memory. */
#include "ops/photometric.h"

#include <omp.h>
#include <string.h>

#include "ops/check.h"
#include "ops/cpu_scratch.h"
#include "ops/pixels/photometric.h"

struct piece {
    struct planes planes;
    struct photometric tools;
};

/* Bytes of planes and blur of one thread, in whole cache lines. */
static size_t piece_bytes(int32_t width, int32_t height, size_t *blur_bytes)
{
    size_t plane = ((size_t)width * (size_t)height + MEMORY_ALIGNMENT - 1) / MEMORY_ALIGNMENT *
                       MEMORY_ALIGNMENT +
                   PLANES_PADDING_BYTES;
    *blur_bytes = photometric_blur_bytes(width, height);
    return (3 * plane + *blur_bytes + MEMORY_ALIGNMENT - 1) / MEMORY_ALIGNMENT * MEMORY_ALIGNMENT;
}

static enum status change(struct piece *piece, uint8_t *rgb, int32_t width, int32_t height,
                          const struct photometric_params *params)
{
    struct planes *planes = &piece->planes;

    TRY(planes_from_rgb(planes, rgb, width, height));
    TRY(photometric_apply(&piece->tools, planes, params));
    const uint8_t *const channels[3] = {planes->channel[0], planes->channel[1], planes->channel[2]};
    piece->tools.kernels->interleave(rgb, channels, planes_n_pixels(planes), false);
    return STATUS_OK;
}

static struct photometric_params params_of(const uint8_t *params, int64_t crop)
{
    struct photometric_params out;

    memcpy(&out, params + crop * PHOTOMETRIC_PARAMS_BYTES, sizeof(out));
    return out;
}

enum status photometric_cpu(struct device *device, const struct photometric_args *args)
{
    const struct tensor *pixels = &args->pixels;
    int64_t n = pixels->shape[0];
    int32_t height = (int32_t)pixels->shape[1], width = (int32_t)pixels->shape[2];
    const struct pixel_kernels *kernels = pixel_kernels_best();
    size_t blur_bytes, bytes = piece_bytes(width, height, &blur_bytes);
    size_t crop_bytes = (size_t)height * (size_t)width * 3;
    int failed = 0;
    uint8_t *scratch;

    CHECK(pixels->dtype == DTYPE_U8 && pixels->rank == 4 && pixels->shape[3] == 3 &&
          args->params.dtype == DTYPE_U8 && args->params.shape[0] == n &&
          args->params.shape[1] == PHOTOMETRIC_PARAMS_BYTES);
    TRY(cpu_scratch(device, &scratch, bytes * (size_t)device->n_threads));
#pragma omp parallel for schedule(dynamic) num_threads(device->n_threads) reduction(| : failed)
    for (int64_t i = 0; i < n; i++) {
        uint8_t *memory = scratch + bytes * (size_t)omp_get_thread_num();
        struct piece piece = {
            .planes = {.memory = memory, .capacity = bytes - blur_bytes},
            .tools = {.kernels = kernels, .blur = {memory + bytes - blur_bytes, blur_bytes}},
        };
        struct photometric_params params = params_of(args->params.data, i);
        failed |= photometric_params_are_sound(&params) &&
                  change(&piece, (uint8_t *)pixels->data + (size_t)i * crop_bytes, width, height,
                         &params) != STATUS_OK;
    }
    CHECK(!failed, "the scratch memory was large enough");
    return STATUS_OK;
}
