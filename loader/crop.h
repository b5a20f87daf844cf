/* Which region a crop takes: torchvision's RandomResizedCrop, drawn from a keyed stream. */
#ifndef IBOT_LOADER_CROP_H
#define IBOT_LOADER_CROP_H

#include <stdint.h>

#include "loader/resample.h"
#include "proto/base/rng.h"

/* Up to ten tries of an area share in [scale0, scale1] and an aspect ratio in [aspect0, aspect1]
 * (log-uniform); else the largest central region of a legal aspect. */
struct region crop_draw(struct rng *rng, int32_t width, int32_t height, const float scale[2],
                        const float aspect[2]);

#endif
