/* Tone operations: what happens to a byte depends on its value, and for two of them on the
 * histogram of its channel. In place; every byte is Pillow's. (photometric.h has those that
 * pre-training needs, too.) */
#ifndef IBOT_OPS_PIXELS_TONE_H
#define IBOT_OPS_PIXELS_TONE_H

#include <stdint.h>

#include "ops/pixels/planes.h"

/* Each channel is stretched to 0 .. 255. */
void tone_autocontrast(struct planes *planes);

/* Each channel's values are spread so that all are equally frequent, as far as that goes. */
void tone_equalize(struct planes *planes);

/* Keeps the n_bits (0 .. 8) most significant bits. */
void tone_posterize(struct planes *planes, int32_t n_bits);

/* Bytes below 128 grow by `amount` (0 .. 255), to 255 at most. */
void tone_solarize_add(struct planes *planes, int32_t amount);

#endif
