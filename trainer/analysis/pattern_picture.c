#include "trainer/analysis/pattern_picture.h"

#include <string.h>

enum { BETWEEN_PX = 2, LEAST_SIDE_PX = 48, BACKGROUND = 255 };

static const uint8_t highlight[3] = {200, 100, 0};
static const int32_t highlight_alpha = 127; /* of 255 */

double pattern_tile_of_patch(struct pattern_tile *tile, const uint8_t *rgb, int32_t size_px,
                             int32_t patch_px, int32_t patch, int32_t window)
{
    int32_t grid = size_px / patch_px, around = window / 2 * patch_px, side = window * patch_px;
    int32_t left = patch % grid * patch_px - around, top = patch / grid * patch_px - around;
    int64_t sum = 0;

    for (int32_t y = 0; y < side; y++)
        for (int32_t x = 0; x < side; x++) {
            bool inside = left + x >= 0 && left + x < size_px && top + y >= 0 && top + y < size_px;
            bool lit = window > 1 && x >= around && x < around + patch_px && y >= around &&
                       y < around + patch_px;
            uint8_t *to = tile->rgb + 3 * ((int64_t)y * side + x), most = 0;
            for (int i = 0; i < 3; i++) {
                to[i] = inside ? rgb[3 * ((int64_t)(top + y) * size_px + left + x) + i] : 0;
                most = to[i] > most ? to[i] : most;
                if (lit)
                    to[i] = (uint8_t)((to[i] * (255 - highlight_alpha) +
                                       highlight[i] * highlight_alpha + 127) /
                                      255);
            }
            sum += most;
        }
    tile->side_px = side;
    return (double)sum / ((double)side * side);
}

enum status pattern_mosaic_save(const char *path, const uint8_t *tiles, int32_t n, int32_t side_px)
{
    int32_t columns = 1, scale = (LEAST_SIDE_PX + side_px - 1) / side_px;
    int32_t step = side_px * scale + BETWEEN_PX;
    struct canvas canvas;

    while (columns * columns < n)
        columns++;
    int32_t rows = (n + columns - 1) / columns;
    TRY(canvas_open(&canvas, columns * step + BETWEEN_PX, rows * step + BETWEEN_PX, BACKGROUND));
    for (int32_t i = 0; i < n; i++)
        canvas_put(&canvas, BETWEEN_PX + i % columns * step, BETWEEN_PX + i / columns * step,
                   tiles + 3 * (int64_t)i * side_px * side_px, side_px, side_px, scale);
    enum status status = canvas_save_png(&canvas, path);
    canvas_release(&canvas);
    return status;
}
