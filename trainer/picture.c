/* Layout of the sheet, in canvas pixels (k: the enlargement):
 *
 *   | margin | global 0 | gap | global 1 | gap | gap | local 0 | gap | local 2 … | margin |
 *   |        |   S*k    |     |          |           | local 1 |     | local 3   |        |
 *
 * Local crops fill columns of as many rows as stand beside a global crop. */
#include "trainer/picture.h"

#include "ops/pixels/canvas.h"

enum {
    MARGIN_PX = 12,
    GAP_PX = 4,
    MIN_CROP_PX = 128, /* smaller global crops are enlarged to at least this */
    BACKGROUND = 246,
    DEFAULT_SAMPLES = 8,
};

static const struct colour outline = {{255, 140, 0}};

struct sheet {
    struct canvas canvas;
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

static void sheet_draw_sample(struct sheet *sheet, const struct batch *batch,
                              const struct data_spec *spec, int32_t sample)
{
    size_t global_bytes = (size_t)spec->global_size_px * (size_t)spec->global_size_px * 3;
    size_t local_bytes = (size_t)spec->local_size_px * (size_t)spec->local_size_px * 3;
    int32_t grid = data_spec_mask_grid(spec);
    int32_t top = MARGIN_PX + sample * (sheet->row_px + MARGIN_PX), left = MARGIN_PX;

    for (int32_t view = 0; view < spec->n_global; view++) {
        size_t i = (size_t)view * (size_t)batch->n_samples + (size_t)sample;
        canvas_put(&sheet->canvas, left, top, batch->globals + i * global_bytes,
                   spec->global_size_px, spec->global_size_px, sheet->scale);
        if (batch->masks != NULL && grid > 0)
            canvas_mask(&sheet->canvas, left, top, sheet->global_px,
                        batch->masks + i * (size_t)grid * (size_t)grid, grid,
                        sheet->scale > 2 ? 2 : 1, outline);
        left += sheet->global_px + GAP_PX;
    }
    left += 2 * GAP_PX;
    for (int32_t view = 0; view < spec->n_local && batch->locals != NULL; view++) {
        size_t i = (size_t)view * (size_t)batch->n_samples + (size_t)sample;
        int32_t step = sheet->local_px + GAP_PX;
        canvas_put(&sheet->canvas, left + view / sheet->local_rows * step,
                   top + view % sheet->local_rows * step, batch->locals + i * local_bytes,
                   spec->local_size_px, spec->local_size_px, sheet->scale);
    }
}

enum status picture_contact_sheet(const char *path, const struct batch *batch,
                                  const struct data_spec *spec, int32_t max_samples)
{
    int32_t n_samples = max_samples > 0 ? max_samples : DEFAULT_SAMPLES;

    if (n_samples > batch->n_samples)
        n_samples = batch->n_samples;
    if (n_samples < 1 || batch->globals == NULL)
        FAIL(STATUS_INVALID, "contact sheet '%s': the batch is empty", path);
    struct sheet sheet = sheet_plan(spec, n_samples);
    TRY(canvas_open(&sheet.canvas, sheet.width_px, sheet.height_px, BACKGROUND));
    for (int32_t sample = 0; sample < n_samples; sample++)
        sheet_draw_sample(&sheet, batch, spec, sample);
    enum status status = canvas_save_png(&sheet.canvas, path);
    canvas_release(&sheet.canvas);
    return status;
}
