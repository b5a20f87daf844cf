/* A contact sheet: a row for each sample. On its left the source image with the crop boxes drawn
 * in, then the global crops with their masked patches darkened and outlined, then the local crops,
 * each framed in the colour of its box, with letters for what was done to it.
 *
 *   caption
 *   | source image | global 0 | global 1 | local 0 | local 2 … |
 *   |  with boxes  | letters  | letters  | local 1 | local 3   |
 */
#ifndef IBOT_STREAM_SHEET_H
#define IBOT_STREAM_SHEET_H

#include "loader/image.h"
#include "stream/sample.h"

struct sheet; /* opaque */

/* Room for max_samples rows. Errors: STATUS_NO_MEMORY, STATUS_INVALID (too large a picture). */
enum status sheet_open(struct sheet **out, const struct data_spec *spec, int32_t max_samples,
                       bool with_sources) IBOT_WARN_UNUSED;
void sheet_close(struct sheet **sheet);

/* One more row, from an image record; colours that were left to the trainer are applied. `image`:
 * the source, or NULL. False (and OK) when there is no room left. Errors: STATUS_NO_MEMORY,
 * STATUS_CORRUPT (parameters of colours that are none). */
enum status sheet_add(struct sheet *sheet, const struct sample *sample, const struct image *image,
                      const uint8_t *record, bool *added) IBOT_WARN_UNUSED;

/* A PNG file of the rows so far. Errors: STATUS_INVALID (there is none), STATUS_IO. */
enum status sheet_save(struct sheet *sheet, const char *path) IBOT_WARN_UNUSED;

#endif
