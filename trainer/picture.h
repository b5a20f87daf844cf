/* The contact sheet: a PNG of what the network really saw. One row per sample: its global crops
 * with the masked patches darkened and outlined, then its local crops, all enlarged by the same
 * whole number so that crops of 32 pixels can be judged by eye. */
#ifndef IBOT_TRAINER_PICTURE_H
#define IBOT_TRAINER_PICTURE_H

#include <stdint.h>

#include "proto/base/status.h"
#include "proto/wire/batch.h"

/* Draws the first `max_samples` samples (0: 8) of a batch of this spec to the file `path`, which is
 * replaced in one go. Errors: STATUS_IO, STATUS_NO_MEMORY, STATUS_INVALID (an empty batch). */
enum status picture_contact_sheet(const char *path, const struct batch *batch,
                                  const struct data_spec *spec,
                                  int32_t max_samples) IBOT_WARN_UNUSED;

#endif
