/* Builds without libvips (IBOT_PARTIAL) write no pictures. */
#include "ops/pixels/canvas.h"

enum status canvas_save_png(const struct canvas *canvas, const char *path)
{
    (void)canvas;
    FAIL(STATUS_UNSUPPORTED, "picture '%s' can't be written: this build is without libvips", path);
}
