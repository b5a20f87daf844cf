/* Colour jitter, grayscale, blur and solarisation of crops, in place: what loaders do unless the
 * trainer was asked to. Every byte is Pillow's. */
#ifndef IBOT_OPS_PHOTOMETRIC_H
#define IBOT_OPS_PHOTOMETRIC_H

#include "ops/device.h"
#include "ops/tensor.h"

#ifdef __cplusplus
extern "C" {
#endif

/* pixels [N, H, W, 3] u8 in and out
 * params [N, 32] u8: a struct photometric_params (ops/pixels/photometric.h) for each crop; a crop
 *        stays as it is when photometric_params_check (for host memory) would refuse its own
 * Errors: STATUS_NO_MEMORY, STATUS_UNSUPPORTED (accelerators: some thousand px), STATUS_DEVICE. */
struct photometric_args {
    struct tensor pixels, params;
};

enum status photometric_cpu(struct device *, const struct photometric_args *) IBOT_WARN_UNUSED;

#ifdef __cplusplus
}
#endif

#endif
