/* Layout of the sheet, in canvas pixels (k: the enlargement):
 *
 *   | margin | global 0 | gap | global 1 | gap | gap | local 0 | gap | local 2 … | margin |
 *   |        |   S*k    |     |          |           | local 1 |     | local 3   |        |
 *
 * Local crops fill columns of as many rows as stand beside a global crop. */
#include "trainer/picture.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <vips/vips.h>

#include "proto/base/memory.h"

enum {
    MARGIN_PX = 12,
    GAP_PX = 4,
    MIN_CROP_PX = 128, /* smaller global crops are enlarged to at least this */
    BACKGROUND = 246,
    DEFAULT_SAMPLES = 8,
    MASK_SHADE = 70, /* of 256: what is left of a masked pixel */
};

static const uint8_t outline_rgb[3] = {255, 140, 0};

struct sheet {
    uint8_t *pixels; /* [height_px, width_px, 3] */
    int32_t width_px, height_px;
    int32_t scale;               /* k */
    int32_t global_px, local_px; /* enlarged sides */
    int32_t row_px;              /* height of one sample */
    int32_t local_rows, local_columns;
};

static struct sheet sheet_plan(const struct data_spec *spec, int32_t n_samples)
{
    struct sheet sheet = {0};

    sheet.scale = (MIN_CROP_PX + spec->global_size_px - 1) / spec->global_size_px;
    sheet.global_px = sheet.row_px = spec->global_size_px * sheet.scale;
    sheet.width_px = 2 * MARGIN_PX + spec->n_global * (sheet.global_px + GAP_PX) - GAP_PX;
    if (spec->n_local > 0) {
        sheet.local_px = spec->local_size_px * sheet.scale;
        int32_t step = sheet.local_px + GAP_PX;
        sheet.local_rows = (sheet.global_px + GAP_PX + step / 2) / step;
        if (sheet.local_rows < 1)
            sheet.local_rows = 1;
        if (sheet.local_rows > spec->n_local)
            sheet.local_rows = spec->n_local;
        sheet.local_columns = (spec->n_local + sheet.local_rows - 1) / sheet.local_rows;
        sheet.width_px += 2 * GAP_PX + sheet.local_columns * step;
        if (sheet.local_rows * step - GAP_PX > sheet.row_px)
            sheet.row_px = sheet.local_rows * step - GAP_PX;
    }
    sheet.height_px = MARGIN_PX + n_samples * (sheet.row_px + MARGIN_PX);
    return sheet;
}

/* Copies one crop, every pixel as a square of k x k. */
static void sheet_draw_crop(struct sheet *sheet, int32_t left, int32_t top, const uint8_t *crop,
                            int32_t size_px)
{
    int32_t side = size_px * sheet->scale;

    for (int32_t y = 0; y < side; y++) {
        const uint8_t *from = crop + (size_t)(y / sheet->scale) * (size_t)size_px * 3;
        uint8_t *to =
            sheet->pixels + ((size_t)(top + y) * (size_t)sheet->width_px + (size_t)left) * 3;
        for (int32_t x = 0; x < side; x++, to += 3)
            memcpy(to, from + x / sheet->scale * 3, 3);
    }
}

/* Darkens the masked cells of a g x g grid over a crop and outlines their borders. */
static void sheet_draw_mask(struct sheet *sheet, int32_t left, int32_t top, const uint8_t *mask,
                            int32_t grid)
{
    int32_t side = sheet->global_px, line = sheet->scale > 2 ? 2 : 1;

    for (int32_t y = 0; y < side; y++)
        for (int32_t x = 0; x < side; x++) {
            int32_t row = y * grid / side, column = x * grid / side;
            if (mask[row * grid + column] == 0)
                continue;
            uint8_t *pixel = sheet->pixels +
                             ((size_t)(top + y) * (size_t)sheet->width_px + (size_t)(left + x)) * 3;
            bool border = false;
            for (int32_t d = -line; d <= line; d += 2 * line) {
                int32_t yy = y + d, xx = x + d;
                border |= yy < 0 || yy >= side || mask[yy * grid / side * grid + column] == 0;
                border |= xx < 0 || xx >= side || mask[row * grid + xx * grid / side] == 0;
            }
            for (int i = 0; i < 3; i++)
                pixel[i] = (uint8_t)(border ? outline_rgb[i] : pixel[i] * MASK_SHADE / 256);
        }
}

static void sheet_draw_sample(struct sheet *sheet, const struct batch *batch,
                              const struct data_spec *spec, int32_t sample)
{
    size_t global_bytes = (size_t)spec->global_size_px * (size_t)spec->global_size_px * 3;
    size_t local_bytes = (size_t)spec->local_size_px * (size_t)spec->local_size_px * 3;
    int32_t grid = data_spec_mask_grid(spec);
    int32_t top = MARGIN_PX + sample * (sheet->row_px + MARGIN_PX), left = MARGIN_PX;

    for (int32_t view = 0; view < spec->n_global; view++) {
        size_t i = (size_t)view * (size_t)batch->n_samples + (size_t)sample;
        sheet_draw_crop(sheet, left, top, batch->globals + i * global_bytes, spec->global_size_px);
        if (batch->masks != NULL && grid > 0)
            sheet_draw_mask(sheet, left, top, batch->masks + i * (size_t)grid * (size_t)grid, grid);
        left += sheet->global_px + GAP_PX;
    }
    left += 2 * GAP_PX;
    for (int32_t view = 0; view < spec->n_local && batch->locals != NULL; view++) {
        size_t i = (size_t)view * (size_t)batch->n_samples + (size_t)sample;
        int32_t step = sheet->local_px + GAP_PX;
        sheet_draw_crop(sheet, left + view / sheet->local_rows * step,
                        top + view % sheet->local_rows * step, batch->locals + i * local_bytes,
                        spec->local_size_px);
    }
}

/* PNG bytes to a temporary name, then renamed: a viewer never sees half a picture. */
static enum status sheet_save(const struct sheet *sheet, const char *path)
{
    enum status status = STATUS_OK;
    VipsImage *image = NULL;
    void *png = NULL;
    size_t png_bytes = 0, bytes = (size_t)sheet->width_px * (size_t)sheet->height_px * 3;
    char *temporary = NULL;
    FILE *file = NULL;

    if (vips_init("ibot") != 0)
        FAIL(STATUS_IO, "libvips can't start: %s", vips_error_buffer());
    image = vips_image_new_from_memory(sheet->pixels, bytes, sheet->width_px, sheet->height_px, 3,
                                       VIPS_FORMAT_UCHAR);
    if (image == NULL || vips_pngsave_buffer(image, &png, &png_bytes, NULL) != 0) {
        status = status_set(STATUS_IO, "contact sheet '%s' can't be encoded: %s", path,
                            vips_error_buffer());
        vips_error_clear();
        goto out;
    }
    if (asprintf(&temporary, "%s.tmp-%ld", path, (long)getpid()) < 0) {
        temporary = NULL;
        FAIL_OUT(STATUS_NO_MEMORY, "no memory for a file name");
    }
    file = fopen(temporary, "wb");
    if (file == NULL || fwrite(png, 1, png_bytes, file) != png_bytes || fflush(file) != 0)
        FAIL_OUT(STATUS_IO, "contact sheet '%s' can't be written: %s", path, strerror(errno));
    if (rename(temporary, path) != 0)
        FAIL_OUT(STATUS_IO, "contact sheet '%s' can't be put in place: %s", path, strerror(errno));
out:
    if (file != NULL)
        fclose(file);
    if (status != STATUS_OK && temporary != NULL)
        unlink(temporary);
    free(temporary);
    g_free(png);
    if (image != NULL)
        g_object_unref(image);
    return status;
}

enum status picture_contact_sheet(const char *path, const struct batch *batch,
                                  const struct data_spec *spec, int32_t max_samples)
{
    enum status status = STATUS_OK;
    int32_t n_samples = max_samples > 0 ? max_samples : DEFAULT_SAMPLES;

    if (n_samples > batch->n_samples)
        n_samples = batch->n_samples;
    if (n_samples < 1 || batch->globals == NULL)
        FAIL(STATUS_INVALID, "contact sheet '%s': the batch is empty", path);
    struct sheet sheet = sheet_plan(spec, n_samples);
    size_t n_pixels = (size_t)sheet.width_px * (size_t)sheet.height_px;
    TRY(memory_alloc(&sheet.pixels, n_pixels, 3, "contact sheet"));
    memset(sheet.pixels, BACKGROUND, n_pixels * 3);
    for (int32_t sample = 0; sample < n_samples; sample++)
        sheet_draw_sample(&sheet, batch, spec, sample);
    TRY_OUT(sheet_save(&sheet, path));
out:
    memory_free(sheet.pixels);
    return status;
}
