#include "trainer/analysis/correspondence_picture.h"

#include <math.h>
#include <stddef.h>

#include "trainer/analysis/map_picture.h"

enum { LEAST_SIDE_PX = 400, BETWEEN_PX = 24, FRAME_PX = 2 };

static const double thick_px = 1.6, thin_px = 0.6;

/* Bright colours all around the circle of hues. */
static struct colour hue_colour(double hue)
{
    struct colour colour;

    for (int i = 0; i < 3; i++) {
        double away = fabs(fmod(6.0 * hue + 4.0 * i, 6.0) - 3.0) - 1.0;
        colour.rgb[i] = (uint8_t)lrint(255.0 * fmin(1.0, fmax(0.0, away)));
    }
    return colour;
}

struct point {
    double x, y;
};

static double distance(struct point p, struct point a, struct point b)
{
    double dx = b.x - a.x, dy = b.y - a.y, length = dx * dx + dy * dy;
    double share = length > 0.0 ? ((p.x - a.x) * dx + (p.y - a.y) * dy) / length : 0.0;

    share = fmin(1.0, fmax(0.0, share));
    return hypot(p.x - a.x - share * dx, p.y - a.y - share * dy);
}

/* Half of its width on either side, with soft edges. */
static void draw_line(struct canvas *canvas, struct point a, struct point b, double half_px,
                      struct colour colour)
{
    int32_t left = (int32_t)(fmin(a.x, b.x) - half_px - 1), right = (int32_t)fmax(a.x, b.x) + 4;
    int32_t top = (int32_t)(fmin(a.y, b.y) - half_px - 1), bottom = (int32_t)fmax(a.y, b.y) + 4;

    for (int32_t y = top > 0 ? top : 0; y < bottom && y < canvas->height; y++)
        for (int32_t x = left > 0 ? left : 0; x < right && x < canvas->width; x++) {
            double d = distance((struct point){x + 0.5, y + 0.5}, a, b);
            double share = fmin(1.0, fmax(0.0, half_px + 0.5 - d));
            uint8_t *pixel = canvas->pixels + 3 * ((size_t)y * (size_t)canvas->width + (size_t)x);
            for (int i = 0; i < 3; i++)
                pixel[i] = (uint8_t)lrint(pixel[i] * (1.0 - share) + colour.rgb[i] * share);
        }
}

/* Frames a patch; returns its centre. */
static struct point draw_patch(struct canvas *canvas, int32_t left, int32_t top, int32_t side,
                               int32_t grid, int32_t patch, struct colour colour)
{
    int32_t x = left + patch % grid * side / grid, y = top + patch / grid * side / grid;
    int32_t patch_px = side / grid;

    canvas_frame(canvas, x, y, patch_px, patch_px, FRAME_PX, colour);
    return (struct point){x + patch_px / 2.0, y + patch_px / 2.0};
}

enum status correspondence_picture_save(const struct correspondence_view *view, const char *path)
{
    int32_t side = view->size_px * ((LEAST_SIDE_PX + view->size_px - 1) / view->size_px);
    int32_t top = PICTURE_MARGIN_PX + PICTURE_TEXT_PX, left = PICTURE_MARGIN_PX;
    int32_t right = left + side + BETWEEN_PX;
    struct canvas canvas;

    TRY(canvas_open(&canvas, right + side + PICTURE_MARGIN_PX, top + side + PICTURE_MARGIN_PX,
                    PICTURE_BACKGROUND));
    picture_text(&canvas, left, PICTURE_MARGIN_PX, picture_ink, view->caption);
    picture_image(&canvas, left, top, side, view->left, view->size_px);
    picture_image(&canvas, right, top, side, view->right, view->size_px);
    for (int32_t i = 0; i < view->n_lines; i++) {
        const struct correspondence_line *line = &view->lines[i];
        struct colour colour = hue_colour((double)i / view->n_lines);
        struct point a = draw_patch(&canvas, left, top, side, view->grid, line->from, colour);
        struct point b = draw_patch(&canvas, right, top, side, view->grid, line->to, colour);
        draw_line(&canvas, a, b, line->wrong ? thin_px : thick_px, colour);
    }
    enum status status = canvas_save_png(&canvas, path);
    canvas_release(&canvas);
    return status;
}
