/* The pictures of one image's attention: the sheet of all of them, or each in a file.
 *
 *   | image | coloured heads | head 0 | head 1 | head 2 |
 *   |       |                | head 3 | head 4 | head 5 |
 */
#ifndef IBOT_TRAINER_ANALYSIS_ATTENTION_SHEET_H
#define IBOT_TRAINER_ANALYSIS_ATTENTION_SHEET_H

#include "trainer/analysis/attention_map.h"

struct attention_view {
    struct attention_composite composite; /* maps, masks, image, chosen heads */
    const uint8_t *colours;               /* [size, size, 3] as attention_compose made them */
    const float *mean;                    /* [grid, grid] over heads */
    int32_t n_heads;                      /* all */
    const char *caption;
};

enum status attention_sheet_save(const struct attention_view *view,
                                 const char *path) IBOT_WARN_UNUSED;

/* STEM_image.png, STEM_color.png, STEM_mean.png and, for head h, STEM_headH.png (its map) and
 * STEM_maskH.png (the image where the head's mass is, dark elsewhere). */
enum status attention_maps_save(const struct attention_view *view,
                                const char *stem) IBOT_WARN_UNUSED;

#endif
