/* Memory of planes, and pixels into them. */
#include "ops/pixels/planes.h"

#include <string.h>

#include "proto/base/memory.h"

enum status planes_reserve(struct planes *planes, int32_t width, int32_t height)
{
    size_t n = (size_t)width * (size_t)height;
    size_t stride =
        (n + MEMORY_ALIGNMENT - 1) / MEMORY_ALIGNMENT * MEMORY_ALIGNMENT + PLANES_PADDING_BYTES;

    CHECK(width > 0 && height > 0);
    if (3 * stride > planes->capacity) {
        planes_release(planes);
        TRY(memory_alloc(&planes->memory, 3 * stride, 1, "planes"));
        planes->capacity = 3 * stride;
    }
    for (size_t c = 0; c < 3; c++)
        planes->channel[c] = planes->memory + c * stride;
    planes->width = width;
    planes->height = height;
    return STATUS_OK;
}

void planes_release(struct planes *planes)
{
    if (planes == NULL)
        return;
    memory_free(planes->memory);
    memset(planes, 0, sizeof(*planes));
}

enum status planes_from_rgb(struct planes *planes, const uint8_t *rgb, int32_t width,
                            int32_t height)
{
    TRY(planes_reserve(planes, width, height));
    size_t n = planes_n_pixels(planes);
    for (size_t i = 0; i < n; i++)
        for (size_t c = 0; c < 3; c++)
            planes->channel[c][i] = rgb[3 * i + c];
    return STATUS_OK;
}
