#include "ops/pixels/canvas.h"

#include <stdbool.h>
#include <string.h>

#include "proto/base/memory.h"

enum {
    MASK_SHADE = 70, /* of 256: what is left of a masked pixel */
    LETTER_COLUMNS = 3
};

enum status canvas_open(struct canvas *out, int32_t width, int32_t height, uint8_t grey)
{
    struct canvas canvas = {.width = width, .height = height};
    size_t n_pixels = (size_t)width * (size_t)height;

    TRY(memory_alloc_unset(&canvas.pixels, n_pixels, 3, "picture"));
    memset(canvas.pixels, grey, 3 * n_pixels);
    *out = canvas;
    return STATUS_OK;
}

void canvas_release(struct canvas *canvas)
{
    memory_free(canvas->pixels);
    *canvas = (struct canvas){0};
}

/* NULL outside. */
static uint8_t *pixel_at(struct canvas *canvas, int32_t x, int32_t y)
{
    if (x < 0 || y < 0 || x >= canvas->width || y >= canvas->height)
        return NULL;
    return canvas->pixels + 3 * ((size_t)y * (size_t)canvas->width + (size_t)x);
}

static void set_pixel(struct canvas *canvas, int32_t x, int32_t y, const uint8_t rgb[3])
{
    uint8_t *pixel = pixel_at(canvas, x, y);

    if (pixel != NULL)
        memcpy(pixel, rgb, 3);
}

static void fill(struct canvas *canvas, int32_t left, int32_t top, int32_t width, int32_t height,
                 struct colour colour)
{
    for (int32_t y = top; y < top + height; y++)
        for (int32_t x = left; x < left + width; x++)
            set_pixel(canvas, x, y, colour.rgb);
}

void canvas_put(struct canvas *canvas, int32_t left, int32_t top, const uint8_t *rgb, int32_t width,
                int32_t height, int32_t scale)
{
    for (int32_t y = 0; y < height * scale; y++) {
        const uint8_t *row = rgb + 3 * (size_t)(y / scale) * (size_t)width;
        for (int32_t x = 0; x < width * scale; x++)
            set_pixel(canvas, left + x, top + y, row + 3 * (x / scale));
    }
}

void canvas_frame(struct canvas *canvas, int32_t left, int32_t top, int32_t width, int32_t height,
                  int32_t line_px, struct colour colour)
{
    fill(canvas, left, top, width, line_px, colour);
    fill(canvas, left, top + height - line_px, width, line_px, colour);
    fill(canvas, left, top, line_px, height, colour);
    fill(canvas, left + width - line_px, top, line_px, height, colour);
}

void canvas_mask(struct canvas *canvas, int32_t left, int32_t top, int32_t side,
                 const uint8_t *cells, int32_t grid, int32_t line_px, struct colour colour)
{
    for (int32_t y = 0; y < side; y++)
        for (int32_t x = 0; x < side; x++) {
            int32_t row = y * grid / side, column = x * grid / side;
            uint8_t *pixel = pixel_at(canvas, left + x, top + y);
            if (cells[row * grid + column] == 0 || pixel == NULL)
                continue;
            bool border = false;
            for (int32_t d = -line_px; d <= line_px; d += 2 * line_px) {
                int32_t yy = y + d, xx = x + d;
                border |= yy < 0 || yy >= side || cells[yy * grid / side * grid + column] == 0;
                border |= xx < 0 || xx >= side || cells[row * grid + xx * grid / side] == 0;
            }
            for (int i = 0; i < 3; i++)
                pixel[i] = (uint8_t)(border ? colour.rgb[i] : pixel[i] * MASK_SHADE / 256);
        }
}

/* ---- letters ---- */

/* Five rows of three squares, a digit each, from the top: 4 is the left one, 1 the right one. */
static const char *const letters[128] = {
    [' '] = "00000", ['0'] = "75557", ['1'] = "26227", ['2'] = "71747", ['3'] = "71717",
    ['4'] = "55711", ['5'] = "74717", ['6'] = "74757", ['7'] = "71222", ['8'] = "75757",
    ['9'] = "75717", ['A'] = "25755", ['B'] = "65656", ['C'] = "34443", ['D'] = "65556",
    ['E'] = "74647", ['F'] = "74644", ['G'] = "34553", ['H'] = "55755", ['I'] = "72227",
    ['J'] = "11152", ['K'] = "55655", ['L'] = "44447", ['M'] = "57755", ['N'] = "65555",
    ['O'] = "25552", ['P'] = "65644", ['Q'] = "25563", ['R'] = "65665", ['S'] = "34216",
    ['T'] = "72222", ['U'] = "55557", ['V'] = "55552", ['W'] = "55775", ['X'] = "55255",
    ['Y'] = "55222", ['Z'] = "71247", ['.'] = "00002", [','] = "00024", [':'] = "02020",
    ['-'] = "00700", ['/'] = "11244", ['%'] = "51245", ['+'] = "02720", ['#'] = "57575",
    ['('] = "12221", [')'] = "42224", ['_'] = "00007", ['='] = "07070", ['\''] = "22000",
};

static const char *letter_of(char character)
{
    unsigned code = (unsigned char)character;

    if (code >= 'a' && code <= 'z')
        code -= 'a' - 'A';
    return code < 128 && letters[code] != NULL ? letters[code] : "77777";
}

void canvas_text(struct canvas *canvas, int32_t left, int32_t top, int32_t scale,
                 struct colour colour, const char *text)
{
    for (; *text != '\0'; text++, left += CANVAS_LETTER_WIDTH * scale) {
        const char *rows = letter_of(*text);
        for (int32_t row = 0; row < CANVAS_LETTER_HEIGHT; row++)
            for (int32_t column = 0; column < LETTER_COLUMNS; column++)
                if ((rows[row] - '0') >> (LETTER_COLUMNS - 1 - column) & 1)
                    fill(canvas, left + column * scale, top + row * scale, scale, scale, colour);
    }
}
