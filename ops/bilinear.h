/* Where a sample of a map that is scaled bilinearly comes from, along one axis: PyTorch's
 * interpolate(mode='bilinear', align_corners=False), in float as there. */
#ifndef IBOT_OPS_BILINEAR_H
#define IBOT_OPS_BILINEAR_H

#include <stdint.h>

#ifdef __CUDACC__
#define IBOT_BILINEAR __host__ __device__ static inline
#else
#define IBOT_BILINEAR static inline
#endif

struct bilinear_tap {
    int32_t low, high; /* inputs; the same at an edge */
    float share;       /* of high; low has the rest */
};

/* ratio: n_in / n_out */
IBOT_BILINEAR struct bilinear_tap bilinear_tap_at(int32_t out, float ratio, int32_t n_in)
{
    struct bilinear_tap tap;
    float at = ratio * ((float)out + 0.5f) - 0.5f;

    at = at < 0.0f ? 0.0f : at;
    tap.low = (int32_t)at;
    tap.low = tap.low < n_in - 1 ? tap.low : n_in - 1;
    tap.high = tap.low < n_in - 1 ? tap.low + 1 : tap.low;
    tap.share = at - (float)tap.low;
    return tap;
}

#undef IBOT_BILINEAR

#endif
