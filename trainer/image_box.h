/* Where a crop lies in its image. */
#ifndef IBOT_TRAINER_IMAGE_BOX_H
#define IBOT_TRAINER_IMAGE_BOX_H

#include <stdint.h>

struct image_box {
    int32_t left, top, width, height; /* in pixels of the image */
};

#endif
