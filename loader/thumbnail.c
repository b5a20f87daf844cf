/* Thumbnails. Source: the arithmetic of Pillow's Image.thumbnail and Reduce.c, as formulas. */
#include "loader/thumbnail.h"

#include <math.h>

enum { REDUCING_GAP = 2 };

/* The whole number beside `exact` for which `other`, the fixed side, comes closest to the aspect
 * ratio; the lower of equals. down: the number is the height, else the width. */
static int32_t best_side(double exact, double aspect, int32_t other, bool down)
{
    double sides[2] = {floor(exact), ceil(exact)}, error[2];

    for (int i = 0; i < 2; i++)
        error[i] = down ? (sides[i] == 0.0 ? 0.0 : fabs(aspect - other / sides[i]))
                        : fabs(aspect - sides[i] / other);
    double side = error[1] < error[0] ? sides[1] : sides[0];
    return side < 1.0 ? 1 : (int32_t)side;
}

void thumbnail_size(int32_t *out_width, int32_t *out_height, int32_t width, int32_t height,
                    int32_t most_px)
{
    double aspect = (double)width / height;

    *out_width = width;
    *out_height = height;
    if (most_px >= width && most_px >= height)
        return;
    *out_width = *out_height = most_px;
    if (1.0 >= aspect)
        *out_width = best_side(most_px * aspect, aspect, most_px, false);
    else
        *out_height = best_side(most_px / aspect, aspect, most_px, true);
}

static int32_t factor_of(int32_t size, int32_t wanted)
{
    int32_t factor = (int32_t)((double)size / wanted / REDUCING_GAP);

    return factor < 1 ? 1 : factor;
}

/* The mean of a box of pixels, as an integer product with its inverse. */
static void mean_of_box(uint8_t *out, const struct image *image, int32_t left, int32_t top,
                        int32_t width, int32_t height)
{
    uint32_t area = (uint32_t)(width * height), sum[3] = {area / 2, area / 2, area / 2};
    uint32_t inverse = (uint32_t)(4294967296.0f / (float)(256 * area));

    for (int32_t y = 0; y < height; y++)
        for (int32_t x = 0; x < width; x++) {
            const uint8_t *pixel = image_pixel(image, (size_t)(left + x), (size_t)(top + y));
            for (int c = 0; c < 3; c++)
                sum[c] += pixel[c];
        }
    for (int c = 0; c < 3; c++)
        out[c] = (uint8_t)(sum[c] * inverse >> 24);
    out[3] = 0;
}

/* Means over boxes of across x down pixels; those at the right and at the bottom may be smaller. */
static enum status reduce(struct image *out, const struct image *image, struct region region,
                          int32_t across, int32_t down)
{
    TRY(image_reserve(out, (region.width + across - 1) / across,
                      (region.height + down - 1) / down));
    for (int32_t y = 0; y < out->height; y++)
        for (int32_t x = 0; x < out->width; x++) {
            int32_t left = x * across, top = y * down;
            int32_t width = region.width - left, height = region.height - top;
            mean_of_box(image_pixel(out, (size_t)x, (size_t)y), image, region.left + left,
                        region.top + top, width < across ? width : across,
                        height < down ? height : down);
        }
    return STATUS_OK;
}

enum status thumbnail(struct resampler *resampler, struct planes *out, struct image *reduced,
                      const struct image *image, struct region region, int32_t most_px)
{
    int32_t width, height;

    thumbnail_size(&width, &height, region.width, region.height, most_px);
    struct resample_plan plan = resample_whole(region, width, height);
    plan.filter = RESAMPLE_LANCZOS;
    int32_t across = factor_of(region.width, width), down = factor_of(region.height, height);
    if (across == 1 && down == 1)
        return resample(resampler, out, image, &plan);
    TRY(reduce(reduced, image, region, across, down));
    plan.source = (struct region){0, 0, reduced->width, reduced->height};
    /* Pillow hands a box on in single precision */
    float wide = (float)region.width / (float)across, high = (float)region.height / (float)down;
    plan.source_width = (double)wide;
    plan.source_height = (double)high;
    return resample(resampler, out, reduced, &plan);
}
