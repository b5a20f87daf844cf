#include "trainer/analysis/attention_sheet.h"

#include <stdio.h>
#include <string.h>

#include "proto/base/memory.h"
#include "trainer/analysis/map_picture.h"

enum {
    LEAST_SIDE_PX = 240, /* smaller images are enlarged to at least this */
    LEAST_HEAD_PX = 64,
    MASK_SHADE = 40, /* of 256: what is left of a pixel outside a head's mass */
    SWATCH_PX = PICTURE_LETTER_SCALE * CANVAS_LETTER_HEIGHT,
};

struct layout {
    int32_t side, head_px; /* of image and composite; of a head's map */
    int32_t rows, columns; /* of heads */
    int32_t width, height, top;
};

static struct layout plan(const struct attention_view *view)
{
    const struct attention_composite *c = &view->composite;
    int32_t n = view->n_heads;
    struct layout l = {.rows = n < 4 ? n : n < 9 ? 2 : n < 16 ? 3 : 4};

    l.side = c->size_px * ((LEAST_SIDE_PX + c->size_px - 1) / c->size_px);
    l.columns = (n + l.rows - 1) / l.rows;
    l.head_px = (l.side - (l.rows - 1) * (PICTURE_TEXT_PX + PICTURE_GAP_PX)) / l.rows;
    if (l.head_px < LEAST_HEAD_PX)
        l.head_px = LEAST_HEAD_PX;
    l.top = PICTURE_MARGIN_PX + 2 * PICTURE_TEXT_PX;
    l.width = 2 * PICTURE_MARGIN_PX + 2 * l.side + 3 * PICTURE_GAP_PX +
              l.columns * (l.head_px + PICTURE_GAP_PX) - PICTURE_GAP_PX;
    l.height = l.top + l.side + PICTURE_MARGIN_PX;
    return l;
}

/* Place of a head among the chosen ones; -1: none. */
static int32_t chosen_place(const struct attention_composite *c, int32_t head)
{
    for (int32_t i = 0; i < c->n; i++)
        if (c->heads[i] == head)
            return i;
    return -1;
}

static void draw_head(struct canvas *canvas, const struct attention_view *view,
                      const struct layout *l, int32_t head, int32_t left)
{
    const struct attention_composite *c = &view->composite;
    int32_t step = l->head_px + PICTURE_GAP_PX, row_px = step + PICTURE_TEXT_PX;
    int32_t x = left + head % l->columns * step, y = l->top + head / l->columns * row_px;
    int32_t place = chosen_place(c, head), text = y - PICTURE_TEXT_PX;
    char title[32];

    snprintf(title, sizeof(title), "head %d", head);
    if (place >= 0)
        canvas_frame(canvas, x, text, SWATCH_PX, SWATCH_PX, SWATCH_PX / 2 + 1,
                     attention_colours[place]);
    picture_text(canvas, place >= 0 ? x + SWATCH_PX + 6 : x, text, picture_ink, title);
    picture_map(canvas, x, y, l->head_px, c->maps + (int64_t)head * c->grid * c->grid, c->grid);
}

enum status attention_sheet_save(const struct attention_view *view, const char *path)
{
    const struct attention_composite *c = &view->composite;
    struct layout l = plan(view);
    int32_t left = PICTURE_MARGIN_PX, title = l.top - PICTURE_TEXT_PX;
    struct canvas canvas;

    TRY(canvas_open(&canvas, l.width, l.height, PICTURE_BACKGROUND));
    picture_text(&canvas, left, PICTURE_MARGIN_PX, picture_ink, view->caption);
    picture_text(&canvas, left, title, picture_ink, "image");
    picture_image(&canvas, left, l.top, l.side, c->rgb, c->size_px);
    left += l.side + PICTURE_GAP_PX;
    picture_text(&canvas, left, title, picture_ink, "who looks most");
    picture_image(&canvas, left, l.top, l.side, view->colours, c->size_px);
    left += l.side + 2 * PICTURE_GAP_PX;
    for (int32_t head = 0; head < view->n_heads; head++)
        draw_head(&canvas, view, &l, head, left);
    enum status status = canvas_save_png(&canvas, path);
    canvas_release(&canvas);
    return status;
}

/* ------------------------------------------------------------------------------ single files */

/* The image, darkened where a mask [grid, grid] is 0. */
static enum status save_mask(const struct attention_composite *c, const uint8_t *keep,
                             const char *path)
{
    size_t size = (size_t)c->size_px, cell_px = size / (size_t)c->grid;
    struct canvas canvas;

    TRY(canvas_open(&canvas, c->size_px, c->size_px, 0));
    for (size_t i = 0; i < size * size; i++) {
        bool kept = keep[i / size / cell_px * (size_t)c->grid + i % size / cell_px];
        for (size_t j = 0; j < 3; j++) {
            uint8_t value = c->rgb[3 * i + j];
            canvas.pixels[3 * i + j] = (uint8_t)(kept ? value : value * MASK_SHADE / 256);
        }
    }
    enum status status = canvas_save_png(&canvas, path);
    canvas_release(&canvas);
    return status;
}

enum status attention_maps_save(const struct attention_view *view, const char *stem)
{
    const struct attention_composite *c = &view->composite;
    char path[PICTURE_MAX_PATH + 32];

    snprintf(path, sizeof(path), "%s_image.png", stem);
    TRY(picture_save_rgb(path, c->rgb, c->size_px, c->size_px));
    snprintf(path, sizeof(path), "%s_color.png", stem);
    TRY(picture_save_rgb(path, view->colours, c->size_px, c->size_px));
    snprintf(path, sizeof(path), "%s_mean.png", stem);
    TRY(picture_save_map(path, view->mean, c->grid, c->size_px));
    for (int32_t h = 0; h < view->n_heads; h++) {
        int64_t at = (int64_t)h * c->grid * c->grid;
        snprintf(path, sizeof(path), "%s_head%d.png", stem, h);
        TRY(picture_save_map(path, c->maps + at, c->grid, c->size_px));
        snprintf(path, sizeof(path), "%s_mask%d.png", stem, h);
        TRY(save_mask(c, c->keep + at, path));
    }
    return STATUS_OK;
}
