/* RandomResizedCrop's geometry: logarithms and the ratio in float32, sides rounded half to even. */
#include "loader/crop.h"

#include <math.h>

struct region crop_draw(struct rng *rng, int32_t width, int32_t height, const float scale[2],
                        const float aspect[2])
{
    double area = (double)width * (double)height;
    float log_low = logf(aspect[0]), log_high = logf(aspect[1]);

    for (int i = 0; i < 10; i++) {
        double target = area * rng_range(rng, (double)scale[0], (double)scale[1]);
        double ratio = (double)expf((float)rng_range(rng, (double)log_low, (double)log_high));
        int32_t w = (int32_t)rint(sqrt(target * ratio)), h = (int32_t)rint(sqrt(target / ratio));
        if (w > 0 && w <= width && h > 0 && h <= height) {
            int32_t top = (int32_t)rng_below(rng, (uint32_t)(height - h + 1));
            int32_t left = (int32_t)rng_below(rng, (uint32_t)(width - w + 1));
            return (struct region){left, top, w, h};
        }
    }
    double ratio = (double)width / (double)height;
    int32_t w = width, h = height;
    if (ratio < (double)aspect[0])
        h = (int32_t)rint(width / (double)aspect[0]);
    else if (ratio > (double)aspect[1])
        w = (int32_t)rint(height * (double)aspect[1]);
    h = h > height ? height : h;
    w = w > width ? width : w;
    return (struct region){(width - w) / 2, (height - h) / 2, w, h};
}
