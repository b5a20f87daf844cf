#include "trainer/analysis/map_picture.h"

#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

const struct colour picture_ink = {{40, 40, 40}};

/* Inferno (Smith and van der Walt 2015) as a polynomial of the sixth degree for each channel, from
 * the constant term on; within 0.02 of their table. */
struct colour picture_map_colour(double share)
{
    static const double terms[3][7] = {
        {0.000219, 0.106513, 11.602493, -41.703996, 77.162936, -71.319428, 25.131126},
        {0.001651, 0.563956, -3.972854, 17.436399, -33.402359, 32.626064, -12.242669},
        {-0.019481, 3.932712, -15.942394, 44.354145, -81.807309, 73.209520, -23.070325},
    };
    struct colour colour;

    for (int i = 0; i < 3; i++) {
        double value = 0.0;
        for (int j = 6; j >= 0; j--)
            value = value * share + terms[i][j];
        colour.rgb[i] = (uint8_t)lrint(255.0 * fmin(1.0, fmax(0.0, value)));
    }
    return colour;
}

/* NULL outside. */
static uint8_t *pixel_at(struct canvas *canvas, int32_t x, int32_t y)
{
    if (x < 0 || y < 0 || x >= canvas->width || y >= canvas->height)
        return NULL;
    return canvas->pixels + 3 * ((size_t)y * (size_t)canvas->width + (size_t)x);
}

void picture_map(struct canvas *canvas, int32_t left, int32_t top, int32_t side_px,
                 const float *map, int32_t grid)
{
    double least = INFINITY, greatest = -INFINITY;

    for (int32_t i = 0; i < grid * grid; i++) {
        least = fmin(least, (double)map[i]);
        greatest = fmax(greatest, (double)map[i]);
    }
    double range = greatest > least ? greatest - least : 1.0;
    for (int32_t y = 0; y < side_px; y++)
        for (int32_t x = 0; x < side_px; x++) {
            int64_t row = (int64_t)y * grid / side_px, column = (int64_t)x * grid / side_px;
            double share = ((double)map[row * grid + column] - least) / range;
            uint8_t *pixel = pixel_at(canvas, left + x, top + y);
            if (pixel != NULL)
                memcpy(pixel, picture_map_colour(share).rgb, 3);
        }
}

void picture_image(struct canvas *canvas, int32_t left, int32_t top, int32_t side_px,
                   const uint8_t *rgb, int32_t size_px)
{
    for (int32_t y = 0; y < side_px; y++)
        for (int32_t x = 0; x < side_px; x++) {
            int64_t row = (int64_t)y * size_px / side_px, column = (int64_t)x * size_px / side_px;
            uint8_t *pixel = pixel_at(canvas, left + x, top + y);
            if (pixel != NULL)
                memcpy(pixel, rgb + 3 * (row * size_px + column), 3);
        }
}

void picture_text(struct canvas *canvas, int32_t left, int32_t top, struct colour colour,
                  const char *text)
{
    canvas_text(canvas, left, top, PICTURE_LETTER_SCALE, colour, text);
}

enum status picture_save_map(const char *path, const float *map, int32_t grid, int32_t side_px)
{
    struct canvas canvas;

    TRY(canvas_open(&canvas, side_px, side_px, 0));
    picture_map(&canvas, 0, 0, side_px, map, grid);
    enum status status = canvas_save_png(&canvas, path);
    canvas_release(&canvas);
    return status;
}

enum status picture_save_rgb(const char *path, const uint8_t *rgb, int32_t width, int32_t height)
{
    struct canvas canvas;

    TRY(canvas_open(&canvas, width, height, 0));
    memcpy(canvas.pixels, rgb, 3 * (size_t)width * (size_t)height);
    enum status status = canvas_save_png(&canvas, path);
    canvas_release(&canvas);
    return status;
}

enum status picture_folder(const char *path)
{
    char part[PICTURE_MAX_PATH];

    if (strlen(path) > sizeof(part) / 2) /* names of files follow */
        FAIL(STATUS_INVALID, "the name of folder '%.60s…' has %zu bytes, at most %zu are allowed",
             path, strlen(path), sizeof(part) / 2);
    strcpy(part, path);
    for (char *at = part + 1; *at != '\0'; at++)
        if (*at == '/') {
            *at = '\0';
            if (mkdir(part, 0777) != 0 && errno != EEXIST)
                FAIL(STATUS_IO, "cannot make folder '%s': %s", part, strerror(errno));
            *at = '/';
        }
    struct stat info;
    if (mkdir(part, 0777) != 0 && errno != EEXIST)
        FAIL(STATUS_IO, "cannot make folder '%s': %s", part, strerror(errno));
    if (stat(part, &info) == 0 && !S_ISDIR(info.st_mode))
        FAIL(STATUS_IO, "cannot make folder '%s': a file has that name", part);
    return STATUS_OK;
}
