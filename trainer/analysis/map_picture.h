/* Pictures of analyses: maps in colours, images at any size, files in a folder. */
#ifndef IBOT_TRAINER_ANALYSIS_MAP_PICTURE_H
#define IBOT_TRAINER_ANALYSIS_MAP_PICTURE_H

#include "ops/pixels/canvas.h"

enum {
    PICTURE_MARGIN_PX = 12,
    PICTURE_GAP_PX = 6,
    PICTURE_LETTER_SCALE = 2,
    PICTURE_TEXT_PX = PICTURE_LETTER_SCALE * CANVAS_LETTER_HEIGHT + 8, /* a line of it */
    PICTURE_BACKGROUND = 250,
    PICTURE_MAX_PATH = 4096,
};

extern const struct colour picture_ink;

/* The colour of a share in 0..1 of the whole: inferno, from black over red to light yellow. */
struct colour picture_map_colour(double share);

/* A map [grid, grid], its least value black and its greatest light, as a square of side_px. */
void picture_map(struct canvas *canvas, int32_t left, int32_t top, int32_t side_px,
                 const float *map, int32_t grid);

/* rgb [size, size, 3] as a square of side_px: the nearest pixels. */
void picture_image(struct canvas *canvas, int32_t left, int32_t top, int32_t side_px,
                   const uint8_t *rgb, int32_t size_px);

/* One line of small letters, at PICTURE_LETTER_SCALE. */
void picture_text(struct canvas *canvas, int32_t left, int32_t top, struct colour colour,
                  const char *text);

/* A map, or rgb, alone in a file. Errors: those of canvas_save_png. */
enum status picture_save_map(const char *path, const float *map, int32_t grid,
                             int32_t side_px) IBOT_WARN_UNUSED;
enum status picture_save_rgb(const char *path, const uint8_t *rgb, int32_t width,
                             int32_t height) IBOT_WARN_UNUSED;

/* Makes a folder and those that lead to it. Errors: STATUS_IO. */
enum status picture_folder(const char *path) IBOT_WARN_UNUSED;

#endif
