/* From a decoded image to its record. The order of operations is the original's: crop, flip,
 * jitter, grayscale, blur, solarize (or RandAugment in place of the last four); each purpose draws
 * from a stream of its own. The flip is made last, while the planes are packed: everything in
 * between gives the same bytes on a mirrored picture, since it works pixel by pixel, by sums over
 * all pixels, or by symmetric windows. RandAugment does not: before it the planes themselves are
 * mirrored. */
#include "loader/view.h"

#include <math.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "loader/draw.h"
#include "proto/base/clock.h"

enum { MAX_SUBSTITUTES = 1000 }; /* in a row: then the data set is not what it should be */

const char *const view_stage_names[VIEW_STAGES] = {
    "read", "decode", "resample", "jitter", "tone", "blur", "rand_augment", "pack", "mask"};

/* The stage in work began when the one before it ended. */
static void stage_done(struct view_maker *maker, enum view_stage stage)
{
    int64_t now_ns = clock_monotonic_ns();

    maker->stage_ns[stage] += now_ns - maker->stage_start_ns;
    maker->stage_start_ns = now_ns;
}

_Static_assert(PHOTOMETRIC_PARAMS_BYTES == (int)DATA_SPEC_PHOTOMETRIC_BYTES, "it travels");

static enum status change_colours(struct view_maker *maker, const struct photometric_params *params)
{
    static const struct {
        enum photometric_step step;
        enum view_stage stage;
    } parts[] = {
        {PHOTOMETRIC_JITTER, VIEW_JITTER},
        {PHOTOMETRIC_GRAYSCALE, VIEW_TONE},
        {PHOTOMETRIC_BLUR, VIEW_BLUR},
        {PHOTOMETRIC_SOLARIZE, VIEW_TONE},
    };

    for (size_t i = 0; i < sizeof(parts) / sizeof(parts[0]); i++) {
        TRY(photometric_step(&maker->photometric, &maker->planes, params, parts[i].step));
        stage_done(maker, parts[i].stage);
    }
    return STATUS_OK;
}

/* Planes to packed RGB in the record. */
static void pack(struct view_maker *maker, uint8_t *out, bool mirrored)
{
    const struct planes *planes = &maker->planes;
    size_t width = (size_t)planes->width, height = (size_t)planes->height;

    for (size_t y = 0; y < height; y++) {
        const uint8_t *const rows[3] = {planes->channel[0] + y * width,
                                        planes->channel[1] + y * width,
                                        planes->channel[2] + y * width};
        maker->resampler.kernels->interleave(out + 3 * y * width, rows, width, mirrored);
    }
    stage_done(maker, VIEW_PACK);
}

static void mirror(struct planes *planes)
{
    size_t width = (size_t)planes->width, n = planes_n_pixels(planes);

    for (int c = 0; c < 3; c++)
        for (uint8_t *row = planes->channel[c]; row < planes->channel[c] + n; row += width)
            for (size_t x = 0; x < width / 2; x++) {
                uint8_t value = row[x];
                row[x] = row[width - 1 - x];
                row[width - 1 - x] = value;
            }
}

static enum status rand_augment(struct view_maker *maker, const struct draw *draw)
{
    struct rand_augment_step steps[RAND_AUGMENT_MAX_OPS];
    int32_t n = draw_rand_augment(draw, steps);

    for (int32_t i = 0; i < n; i++)
        TRY(rand_augment_apply(&maker->planes, &steps[i], &maker->photometric, &maker->work));
    stage_done(maker, VIEW_RAND_AUGMENT);
    return STATUS_OK;
}

static enum status render_crop(struct view_maker *maker, const struct draw *draw,
                               const struct image *image, uint8_t *record)
{
    const struct data_spec *spec = draw->spec;
    int32_t v = draw->view;
    int32_t size_px = v < spec->n_global ? spec->global_size_px : spec->local_size_px;
    struct region region = draw_region(draw, image->width, image->height);
    struct resample_plan plan = resample_whole(region, size_px, size_px);

    plan.filter = draw_filter(draw);
    TRY(resample(&maker->resampler, &maker->planes, image, &plan));
    stage_done(maker, VIEW_RESAMPLE);
    bool mirrored = draw_flip(draw);
    if (spec->rand_augment.n_ops > 0) {
        if (mirrored)
            mirror(&maker->planes);
        TRY(rand_augment(maker, draw));
        pack(maker, record + data_spec_view_offset(spec, v), false);
        return STATUS_OK;
    }
    struct photometric_params params = draw_photometric(draw);
    if (spec->photometric == PHOTOMETRIC_BY_TRAINER)
        memcpy(record + data_spec_photometric_offset(spec, v), &params, sizeof(params));
    else
        TRY(change_colours(maker, &params));
    pack(maker, record + data_spec_view_offset(spec, v), mirrored);
    return STATUS_OK;
}

/* Mask bits of one global view, least significant bit first. */
static void render_mask(const struct draw *draw, uint8_t *record)
{
    int32_t grid = data_spec_mask_grid(draw->spec);
    uint8_t cells[DATA_SPEC_MAX_GRID * DATA_SPEC_MAX_GRID];
    uint8_t *bits = record + data_spec_mask_offset(draw->spec, draw->view);

    memset(bits, 0, data_spec_mask_bytes(draw->spec));
    if (draw_mask(draw, cells, NULL) == 0)
        return;
    for (int32_t i = 0; i < grid * grid; i++)
        bits[i / 8] = (uint8_t)(bits[i / 8] | cells[i] << (i % 8));
}

/* Shorter side to resize_px, the other cut off; central crop with offsets rounded half to even.
 * Only the crop is computed. */
static enum status render_centre(struct view_maker *maker, const struct data_spec *spec,
                                 const struct image *image, uint8_t *record)
{
    int64_t w = image->width, h = image->height, side = spec->resize_px;
    int32_t crop = spec->global_size_px;
    struct resample_plan plan = {
        .source = {0, 0, image->width, image->height},
        .width = (int32_t)(w <= h ? side : side * w / h),
        .height = (int32_t)(h <= w ? side : side * h / w),
        .filter =
            spec->interpolation == INTERPOLATION_BILINEAR ? RESAMPLE_BILINEAR : RESAMPLE_BICUBIC,
    };

    plan.window = (struct region){(int32_t)rint((plan.width - crop) / 2.0),
                                  (int32_t)rint((plan.height - crop) / 2.0), crop, crop};
    TRY(resample(&maker->resampler, &maker->planes, image, &plan));
    stage_done(maker, VIEW_RESAMPLE);
    pack(maker, record, false);
    return STATUS_OK;
}

enum status view_render(struct view_maker *maker, const struct data_spec *spec, int32_t epoch,
                        uint32_t sample, const struct image *image, uint8_t *record)
{
    return view_render_repeat(maker, spec, epoch, sample, 0, image, record);
}

enum status view_render_repeat(struct view_maker *maker, const struct data_spec *spec,
                               int32_t epoch, uint32_t sample, int32_t repeat,
                               const struct image *image, uint8_t *record)
{
    maker->stage_start_ns = clock_monotonic_ns();
    if (spec->kind == DATA_CENTRE_CROP)
        return render_centre(maker, spec, image, record);
    struct draw draw = {.spec = spec, .epoch = epoch, .sample = sample, .repeat = repeat};
    for (; draw.view < spec->n_global + spec->n_local; draw.view++)
        TRY(render_crop(maker, &draw, image, record));
    for (draw.view = 0; draw.view < spec->n_global && data_spec_mask_grid(spec) > 0; draw.view++)
        render_mask(&draw, record);
    stage_done(maker, VIEW_MASK);
    return STATUS_OK;
}

void view_fetch(struct view_maker *maker, const struct data_spec *spec, int32_t epoch,
                uint64_t position)
{
    char path[INDEX_MAX_PATH_BYTES];
    struct image_place place;
    uint32_t sample;

    if (maker->n_ahead == VIEW_AHEAD ||
        order_sample(maker->order, spec->shuffle, spec->order_seed, epoch,
                     draw_order_position(spec, position), &sample) != STATUS_OK ||
        index_image(maker->index, sample, path, &place) != STATUS_OK)
        return;
    int64_t start_ns = clock_monotonic_ns();
    int file = image_fetch(&place);
    maker->stage_ns[VIEW_READ] += clock_monotonic_ns() - start_ns;
    if (file < 0)
        return; /* told of when it is made */
    maker->ahead[maker->n_ahead].sample = sample;
    maker->ahead[maker->n_ahead++].file = file;
}

void view_fetch_end(struct view_maker *maker)
{
    while (maker->n_ahead > 0)
        close(maker->ahead[--maker->n_ahead].file);
}

/* The opened file of a sample that was fetched, or -1. */
static int take_fetched(struct view_maker *maker, uint32_t sample)
{
    for (int i = 0; i < maker->n_ahead; i++)
        if (maker->ahead[i].sample == sample) {
            int file = maker->ahead[i].file;
            maker->ahead[i] = maker->ahead[--maker->n_ahead];
            return file;
        }
    return -1;
}

enum status view_make(struct view_maker *maker, const struct data_spec *spec, int32_t epoch,
                      uint64_t position, uint8_t *record, struct batch_sample *sample,
                      view_bad_image *bad, void *context)
{
    char path[INDEX_MAX_PATH_BYTES];
    struct image_place place;

    *sample = (struct batch_sample){.position = position};
    uint64_t n_samples = maker->index->header->n_samples;
    uint32_t n_tries = n_samples < MAX_SUBSTITUTES ? (uint32_t)n_samples : MAX_SUBSTITUTES;
    for (uint32_t tried = 0; tried < n_tries; tried++) {
        TRY(order_sample(maker->order, spec->shuffle, spec->order_seed, epoch,
                         draw_order_position(spec, position) + tried, &sample->index));
        TRY(index_image(maker->index, sample->index, path, &place));
        int64_t read_ns = image_decoder_read_ns(maker->decoder);
        maker->stage_start_ns = clock_monotonic_ns();
        int file = take_fetched(maker, sample->index);
        enum status status = image_read_from(maker->decoder, &place, file, &maker->image);
        read_ns = image_decoder_read_ns(maker->decoder) - read_ns;
        maker->stage_ns[VIEW_READ] += read_ns;
        maker->stage_start_ns += read_ns;
        stage_done(maker, VIEW_DECODE);
        if (status == STATUS_OK) {
            sample->label = (int32_t)maker->index->entries[sample->index].label;
            sample->n_substituted = tried;
            sample->n_repaired = image_decoder_repairs(maker->decoder);
            bool turn = spec->upright && maker->image.orientation != 1;
            if (turn)
                TRY(image_turn(&maker->turned, &maker->image));
            return view_render_repeat(maker, spec, epoch, sample->index,
                                      draw_repeat(spec, position),
                                      turn ? &maker->turned : &maker->image, record);
        }
        if (status == STATUS_NO_MEMORY)
            return status;
        if (bad != NULL)
            bad(context, bad_image_kind_of(status), sample->index, path, status_message());
        if (spec->bad_image_policy == BAD_IMAGE_FAIL)
            FAIL(STATUS_CORRUPT, "bad image: %s", status_message());
    }
    char last[512];
    snprintf(last, sizeof(last), "%s", status_message());
    FAIL(STATUS_CORRUPT, "%u bad images in a row; the last one: %s", n_tries, last);
}

enum status view_maker_open(struct view_maker *maker, const struct index *index,
                            struct order *order)
{
    const struct pixel_kernels *kernels = pixel_kernels_best();

    *maker = (struct view_maker){.index = index,
                                 .order = order,
                                 .resampler.kernels = kernels,
                                 .photometric.kernels = kernels};
    return image_decoder_open(&maker->decoder);
}

void view_maker_close(struct view_maker *maker)
{
    if (maker == NULL)
        return;
    view_fetch_end(maker);
    image_decoder_close(&maker->decoder);
    image_release(&maker->image);
    image_release(&maker->turned);
    planes_release(&maker->planes);
    resampler_release(&maker->resampler);
    photometric_release(&maker->photometric);
    scratch_release(&maker->work);
    memset(maker, 0, sizeof(*maker));
}
