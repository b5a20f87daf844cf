/* A picture to draw on: packed RGB, with the few things that contact sheets are made of. Whatever
 * lies outside is cut off. */
#ifndef IBOT_OPS_PIXELS_CANVAS_H
#define IBOT_OPS_PIXELS_CANVAS_H

#include <stdint.h>

#include "proto/base/status.h"

enum {
    CANVAS_LETTER_WIDTH = 4, /* of canvas_text at scale 1, the gap included */
    CANVAS_LETTER_HEIGHT = 5,
};

/* Zeroed is valid and empty. */
struct canvas {
    uint8_t *pixels; /* [height, width, 3], owned */
    int32_t width, height;
};

struct colour {
    uint8_t rgb[3];
};

/* All of one grey. Errors: STATUS_NO_MEMORY. */
enum status canvas_open(struct canvas *out, int32_t width, int32_t height,
                        uint8_t grey) IBOT_WARN_UNUSED;
void canvas_release(struct canvas *canvas);

/* rgb [height, width, 3], every pixel as a square of scale x scale. */
void canvas_put(struct canvas *canvas, int32_t left, int32_t top, const uint8_t *rgb, int32_t width,
                int32_t height, int32_t scale);

/* The frame of a rectangle, `line_px` wide, inwards. */
void canvas_frame(struct canvas *canvas, int32_t left, int32_t top, int32_t width, int32_t height,
                  int32_t line_px, struct colour colour);

/* Darkens the cells of a grid x grid mask over a square of `side` pixels and outlines them. */
void canvas_mask(struct canvas *canvas, int32_t left, int32_t top, int32_t side,
                 const uint8_t *cells, int32_t grid, int32_t line_px, struct colour colour);

/* Letters of 3 x 5 squares of scale x scale; capitals and digits. Other characters show as blocks.
 */
void canvas_text(struct canvas *canvas, int32_t left, int32_t top, int32_t scale,
                 struct colour colour, const char *text);

/* Writes a PNG file, under a temporary name first: a viewer never sees half a picture. In a library
 * of its own (ibot_canvas_png): it takes libvips. Errors: STATUS_IO, STATUS_NO_MEMORY. */
enum status canvas_save_png(const struct canvas *canvas, const char *path) IBOT_WARN_UNUSED;

#endif
