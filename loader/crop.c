/* RandomResizedCrop's geometry; sides are rounded half to even. */
#include "loader/crop.h"

#include <math.h>

#include "loader/log_uniform.h"

struct region crop_draw(struct rng *rng, int32_t width, int32_t height, const float scale[2],
                        const float aspect[2])
{
    double area = (double)width * (double)height;

    for (int i = 0; i < 10; i++) {
        double target = area * rng_range(rng, (double)scale[0], (double)scale[1]);
        double ratio = log_uniform_draw(rng, (double)aspect[0], (double)aspect[1]);
        double w = rint(sqrt(target * ratio)), h = rint(sqrt(target / ratio));
        if (w > 0.0 && w <= width && h > 0.0 && h <= height) {
            int32_t w_px = (int32_t)w, h_px = (int32_t)h;
            int32_t top = (int32_t)rng_below(rng, (uint32_t)(height - h_px + 1));
            int32_t left = (int32_t)rng_below(rng, (uint32_t)(width - w_px + 1));
            return (struct region){left, top, w_px, h_px};
        }
    }
    double ratio = (double)width / (double)height;
    double w = width, h = height;
    if (ratio < (double)aspect[0])
        h = fmax(rint(width / (double)aspect[0]), 1.0);
    else if (ratio > (double)aspect[1])
        w = fmax(rint(height * (double)aspect[1]), 1.0);
    int32_t w_px = (int32_t)fmin(w, width), h_px = (int32_t)fmin(h, height);
    return (struct region){(width - w_px) / 2, (height - h_px) / 2, w_px, h_px};
}
