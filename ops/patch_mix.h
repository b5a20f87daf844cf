/* What regularises a classifier besides the loaders' crops: pixels of a region erased by noise,
 * images mixed in pairs. On normalised patches, as patchify makes them. */
#ifndef IBOT_OPS_PATCH_MIX_H
#define IBOT_OPS_PATCH_MIX_H

#include "ops/device.h"
#include "ops/tensor.h"

#ifdef __cplusplus
extern "C" {
#endif

/* A region of an image, in pixels: rows top .. bottom-1, columns left .. right-1. */
struct pixel_box {
    int32_t top, left, bottom, right;
};

/* How a batch is mixed: image i with image n-1-i, all alike. */
struct patch_mix {
    float share;          /* of the image itself outside of `cut`: 1 - share is the partner's */
    struct pixel_box cut; /* where there is the partner alone; empty: nowhere */
    uint64_t seed;        /* of the noise: stream (seed, step, number of the image), RNG_ERASE */
    uint32_t step;
    /* image i has the number first_sample + i (1 + sample_skip): of a rank among several, that of
     * its sample among those of all */
    uint32_t first_sample, sample_skip;
};

/* First each image: pixels in its box become noise, N(0, 1), each channel its own. Then the pairs:
 * mixup where share < 1, cutmix where the cut is not empty. In place.
 *   patches [n*g*g, 3*p*p] f32|bf16   grid g, patch_size p; columns are c, y, x
 *   erase   [n] struct pixel_box in device memory, as 4 n I32; empty: nothing
 *   mix     one, in device memory
 * Noise of pixel (y, x): of the four words w of block y*g*p + x of the stream the upper 24 bits
 * give u_j = (w_j / 2^8 + 1) / 2^24 and v_j = w_j / 2^8 / 2^24; channels 0 and 1 are sqrt(-2 ln
 * u_0) times cosine and sine of 2 pi v_1, channel 2 is sqrt(-2 ln u_2) cos(2 pi v_3). Errors:
 * STATUS_UNSUPPORTED for the dtype, STATUS_DEVICE. Source: Zhang et al. 2018 (mixup), Yun et al.
 * 2019 (CutMix), Zhong et al. 2020 (random erasing). CPU ops/patch_mix.c, CUDA
 * kernels/patch_mix.cu. */
struct patch_mix_args {
    struct tensor patches, erase;
    const struct patch_mix *mix;
    int32_t grid, patch_size;
};

enum status patch_mix_cpu(struct device *, const struct patch_mix_args *) IBOT_WARN_UNUSED;

#ifdef __cplusplus
}
#endif

#endif
