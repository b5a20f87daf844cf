#include "stream/sheet.h"

#include <stdio.h>
#include <string.h>

#include "loader/draw.h"
#include "ops/pixels/canvas.h"
#include "proto/base/memory.h"

enum {
    MARGIN_PX = 12,
    GAP_PX = 6,
    FRAME_PX = 2,
    MIN_CROP_PX = 128,   /* smaller global crops are enlarged to at least this */
    MIN_SOURCE_PX = 192, /* height of the box that the source image is fitted into */
    LETTER_SCALE = 2,
    TEXT_PX = LETTER_SCALE * CANVAS_LETTER_HEIGHT + 8, /* a line of it */
    BACKGROUND = 246,
    MAX_PIXELS = 200 << 20,
};

static const struct colour ink = {{40, 40, 40}}, mask_outline = {{255, 255, 255}};
/* Of global crops, then of local ones; told apart on photographs. */
static const struct colour global_colours[] = {{{255, 120, 0}}, {{0, 110, 255}}, {{220, 0, 160}}};
static const struct colour local_colours[] = {
    {{0, 170, 60}},   {{200, 0, 40}},   {{0, 180, 190}}, {{150, 80, 220}}, {{180, 160, 0}},
    {{120, 200, 40}}, {{255, 90, 140}}, {{90, 90, 255}}, {{160, 100, 40}}, {{0, 130, 120}},
};

struct sheet {
    const struct data_spec *spec; /* borrowed */
    struct canvas canvas;
    int32_t scale;                       /* of crops: every pixel as so many squares */
    int32_t source_width, source_height; /* box of the source image; 0: none */
    int32_t global_px, local_px;         /* enlarged sides */
    int32_t local_rows, row_px;
    int32_t n_samples, max_samples;
    struct resampler resampler;
    struct planes planes;
    struct photometric photometric;
    uint8_t *pixels; /* a crop, or the source image, on its way */
};

static struct colour colour_of(const struct data_spec *spec, int32_t view)
{
    enum {
        N_GLOBAL = sizeof(global_colours) / sizeof(global_colours[0]),
        N_LOCAL = sizeof(local_colours) / sizeof(local_colours[0])
    };
    if (view < spec->n_global)
        return global_colours[view % N_GLOBAL];
    return local_colours[(view - spec->n_global) % N_LOCAL];
}

/* ---- open ---- */

static int32_t larger(int32_t a, int32_t b)
{
    return a > b ? a : b;
}

/* Sizes of everything; returns the width of the sheet. */
static int64_t plan(struct sheet *sheet, bool with_sources)
{
    const struct data_spec *spec = sheet->spec;
    int64_t width = 2 * MARGIN_PX;

    sheet->scale = (MIN_CROP_PX + spec->global_size_px - 1) / spec->global_size_px;
    sheet->global_px = spec->global_size_px * sheet->scale;
    sheet->local_px = spec->local_size_px * sheet->scale;
    int32_t global_row = sheet->global_px + TEXT_PX, local_row = sheet->local_px + TEXT_PX;
    sheet->row_px = global_row;
    if (with_sources) {
        sheet->source_height = larger(global_row, MIN_SOURCE_PX);
        sheet->source_width = sheet->source_height * 3 / 2;
        sheet->row_px = sheet->source_height;
        width += sheet->source_width + GAP_PX;
    }
    width += (int64_t)spec->n_global * (sheet->global_px + GAP_PX);
    if (spec->n_local > 0) {
        sheet->local_rows = larger(1, sheet->row_px / local_row);
        if (sheet->local_rows > spec->n_local)
            sheet->local_rows = spec->n_local;
        sheet->row_px = larger(sheet->row_px, sheet->local_rows * local_row);
        int32_t columns = (spec->n_local + sheet->local_rows - 1) / sheet->local_rows;
        width += (int64_t)columns * (sheet->local_px + GAP_PX);
    }
    sheet->row_px += TEXT_PX + MARGIN_PX;
    return larger((int32_t)width, 480); /* captions want some room */
}

enum status sheet_open(struct sheet **out, const struct data_spec *spec, int32_t max_samples,
                       bool with_sources)
{
    const struct pixel_kernels *kernels = pixel_kernels_best();
    struct sheet *sheet = NULL;
    enum status status = STATUS_OK;

    TRY(memory_alloc(&sheet, 1, sizeof(*sheet), "contact sheet"));
    sheet->spec = spec;
    sheet->max_samples = max_samples;
    sheet->resampler.kernels = kernels;
    sheet->photometric.kernels = kernels;
    int64_t width = plan(sheet, with_sources);
    int64_t height = MARGIN_PX + TEXT_PX + (int64_t)max_samples * sheet->row_px;
    if (width > INT32_MAX / height || width * height > MAX_PIXELS)
        FAIL_OUT(STATUS_INVALID,
                 "a sheet of %d samples has %lld x %lld pixels: choose fewer samples", max_samples,
                 (long long)width, (long long)height);
    size_t crop = data_spec_view_bytes(spec, 0);
    size_t source = 3 * (size_t)sheet->source_width * (size_t)sheet->source_height;
    if (spec->n_local > 0 && data_spec_view_bytes(spec, spec->n_global) > crop)
        crop = data_spec_view_bytes(spec, spec->n_global);
    TRY_OUT(memory_alloc(&sheet->pixels, crop > source ? crop : source, 1, "crop"));
    TRY_OUT(canvas_open(&sheet->canvas, (int32_t)width, (int32_t)height, BACKGROUND));
    canvas_text(&sheet->canvas, MARGIN_PX, MARGIN_PX, LETTER_SCALE, ink,
                spec->rand_augment.n_ops > 0 ? "F flip  AC..TY RandAugment, as inspect names it"
                                             : "F flip  J jitter  G grey  B blur  S solarize");
    *out = sheet;
    sheet = NULL;
out:
    sheet_close(&sheet);
    return status;
}

void sheet_close(struct sheet **address)
{
    struct sheet *sheet = address != NULL ? *address : NULL;

    if (sheet == NULL)
        return;
    canvas_release(&sheet->canvas);
    resampler_release(&sheet->resampler);
    planes_release(&sheet->planes);
    photometric_release(&sheet->photometric);
    memory_free(sheet->pixels);
    memory_free(sheet);
    *address = NULL;
}

/* ---- a row ---- */

static void planes_to_rgb(struct sheet *sheet)
{
    const struct planes *planes = &sheet->planes;
    const uint8_t *const rows[3] = {planes->channel[0], planes->channel[1], planes->channel[2]};

    sheet->resampler.kernels->interleave(sheet->pixels, rows, planes_n_pixels(planes), false);
}

/* The image in its box, and the boxes of the crops in the image. */
static enum status draw_source(struct sheet *sheet, const struct sample *sample,
                               const struct image *image, int32_t left, int32_t top)
{
    const struct data_spec *spec = sheet->spec;
    int64_t w = image->width, h = image->height;
    int64_t width = sheet->source_width, height = width * h / w;

    if (height > sheet->source_height) {
        height = sheet->source_height;
        width = height * w / h;
    }
    width = width < 1 ? 1 : width;
    height = height < 1 ? 1 : height;
    struct resample_plan whole = resample_whole((struct region){0, 0, image->width, image->height},
                                                (int32_t)width, (int32_t)height);
    TRY(resample(&sheet->resampler, &sheet->planes, image, &whole));
    planes_to_rgb(sheet);
    canvas_put(&sheet->canvas, left, top, sheet->pixels, (int32_t)width, (int32_t)height, 1);
    int32_t n = spec->kind == DATA_MULTI_CROP ? spec->n_global + spec->n_local : 0;
    for (int32_t v = n - 1; v >= 0; v--) { /* global ones on top */
        struct draw draw = {.spec = spec,
                            .epoch = sample->epoch,
                            .sample = sample->index,
                            .view = v,
                            .repeat = draw_repeat(spec, sample->position)};
        struct region region = draw_region(&draw, image->width, image->height);
        canvas_frame(&sheet->canvas, left + (int32_t)(region.left * width / w),
                     top + (int32_t)(region.top * height / h),
                     larger(1, (int32_t)(region.width * width / w)),
                     larger(1, (int32_t)(region.height * height / h)), FRAME_PX,
                     colour_of(spec, v));
    }
    return STATUS_OK;
}

/* What the network sees: colours that were left to the trainer are applied here. */
static enum status take_crop(struct sheet *sheet, const uint8_t *record, int32_t view, int32_t side)
{
    const struct data_spec *spec = sheet->spec;
    const uint8_t *crop = record + data_spec_view_offset(spec, view);
    struct photometric_params params;

    memcpy(sheet->pixels, crop, data_spec_view_bytes(spec, view));
    if (data_spec_photometric_bytes(spec) == 0)
        return STATUS_OK;
    memcpy(&params, record + data_spec_photometric_offset(spec, view), sizeof(params));
    if (!photometric_params_are_sound(&params))
        FAIL(STATUS_CORRUPT, "the parameters of the colours of view %d are out of range", view);
    TRY(planes_from_rgb(&sheet->planes, crop, side, side));
    TRY(photometric_apply(&sheet->photometric, &sheet->planes, &params));
    planes_to_rgb(sheet);
    return STATUS_OK;
}

static void draw_mask_bits(struct sheet *sheet, const uint8_t *record, int32_t view, int32_t left,
                           int32_t top)
{
    const struct data_spec *spec = sheet->spec;
    const uint8_t *bits = record + data_spec_mask_offset(spec, view);
    uint8_t cells[DATA_SPEC_MAX_GRID * DATA_SPEC_MAX_GRID];
    int32_t grid = data_spec_mask_grid(spec);

    for (int32_t i = 0; i < grid * grid; i++)
        cells[i] = bits[i / 8] >> (i % 8) & 1;
    canvas_mask(&sheet->canvas, left, top, sheet->global_px, cells, grid, 1, mask_outline);
}

static enum status draw_crop(struct sheet *sheet, const struct sample *sample,
                             const uint8_t *record, int32_t view, int32_t left, int32_t top)
{
    const struct data_spec *spec = sheet->spec;
    bool global = view < spec->n_global;
    int32_t side = global ? spec->global_size_px : spec->local_size_px;
    int32_t shown = side * sheet->scale;
    char letters[32];

    TRY(take_crop(sheet, record, view, side));
    canvas_put(&sheet->canvas, left, top, sheet->pixels, side, side, sheet->scale);
    if (global && data_spec_mask_grid(spec) > 0)
        draw_mask_bits(sheet, record, view, left, top);
    canvas_frame(&sheet->canvas, left - FRAME_PX, top - FRAME_PX, shown + 2 * FRAME_PX,
                 shown + 2 * FRAME_PX, FRAME_PX, colour_of(spec, view));
    canvas_text(&sheet->canvas, left, top + shown + FRAME_PX + 1, LETTER_SCALE,
                colour_of(spec, view),
                sample_letters(spec, sample, view, letters, sizeof(letters)));
    return STATUS_OK;
}

static void draw_caption(struct sheet *sheet, const struct sample *sample, int32_t top)
{
    char text[256];
    const char *slash = sample->path != NULL ? strrchr(sample->path, '/') : NULL;

    int n = snprintf(text, sizeof(text), "step %lld  sample %d  epoch %d  image %u",
                     (long long)sample->step, sample->number, sample->epoch, sample->index);
    if (sample->made && sample->label >= 0 && n > 0 && (size_t)n < sizeof(text))
        n += snprintf(text + n, sizeof(text) - (size_t)n, "  label %d", sample->label);
    if (sample->path != NULL && n > 0 && (size_t)n < sizeof(text))
        snprintf(text + n, sizeof(text) - (size_t)n, "  %s",
                 slash != NULL ? slash + 1 : sample->path);
    canvas_text(&sheet->canvas, MARGIN_PX, top, LETTER_SCALE, ink, text);
}

enum status sheet_add(struct sheet *sheet, const struct sample *sample, const struct image *image,
                      const uint8_t *record, bool *added)
{
    const struct data_spec *spec = sheet->spec;
    int32_t left = MARGIN_PX, top = MARGIN_PX + TEXT_PX + sheet->n_samples * sheet->row_px;

    *added = sheet->n_samples < sheet->max_samples;
    if (!*added)
        return STATUS_OK;
    draw_caption(sheet, sample, top);
    top += TEXT_PX + FRAME_PX;
    if (image != NULL && sheet->source_width > 0)
        TRY(draw_source(sheet, sample, image, left, top));
    if (sheet->source_width > 0)
        left += sheet->source_width + GAP_PX;
    for (int32_t v = 0; v < spec->n_global; v++, left += sheet->global_px + GAP_PX)
        TRY(draw_crop(sheet, sample, record, v, left, top));
    for (int32_t v = 0; v < spec->n_local; v++)
        TRY(draw_crop(sheet, sample, record, spec->n_global + v,
                      left + v / sheet->local_rows * (sheet->local_px + GAP_PX),
                      top + v % sheet->local_rows * (sheet->local_px + TEXT_PX)));
    sheet->n_samples++;
    return STATUS_OK;
}

enum status sheet_save(struct sheet *sheet, const char *path)
{
    struct canvas used = sheet->canvas;

    if (sheet->n_samples == 0)
        FAIL(STATUS_INVALID, "no sample was chosen for the sheet '%s'", path);
    used.height = MARGIN_PX + TEXT_PX + sheet->n_samples * sheet->row_px;
    return canvas_save_png(&used, path);
}
