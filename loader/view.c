/* From a decoded image to its record. The order of operations is the original's: crop, flip,
 * jitter, grayscale, blur, solarize; each purpose draws from a stream of its own. The flip is made
 * last, while the planes are packed: everything in between gives the same bytes on a mirrored
 * picture, since it works pixel by pixel, by sums over all pixels, or by symmetric windows. */
#include "loader/view.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

#include "loader/crop.h"
#include "loader/mask.h"
#include "proto/base/clock.h"

enum { MAX_SUBSTITUTES = 1000 }; /* in a row: then the data set is not what it should be */

const char *const view_stage_names[VIEW_STAGES] = {"read", "decode", "resample", "jitter",
                                                   "tone", "blur",   "pack",     "mask"};

/* The stage in work began when the one before it ended. */
static void stage_done(struct view_maker *maker, enum view_stage stage)
{
    int64_t now_ns = clock_monotonic_ns();

    maker->stage_ns[stage] += now_ns - maker->stage_start_ns;
    maker->stage_start_ns = now_ns;
}

_Static_assert(PHOTOMETRIC_PARAMS_BYTES == (int)DATA_SPEC_PHOTOMETRIC_BYTES, "it travels");

struct view {
    const struct data_spec *spec;
    const struct view_transform *transform;
    struct rng_key key; /* purpose left open */
};

static struct rng stream(const struct view *view, enum rng_purpose purpose)
{
    struct rng_key key = view->key;
    key.purpose = (uint16_t)purpose;
    return rng_open(key);
}

static double around_one(struct rng *rng, float half_width)
{
    double low = 1.0 - (double)half_width;
    return rng_range(rng, low < 0.0 ? 0.0 : low, 1.0 + (double)half_width);
}

static bool gate(const struct view *view, enum rng_purpose purpose, float probability)
{
    struct rng rng = stream(view, purpose);
    return rng_uniform(&rng) < (double)probability;
}

/* Brightness, contrast, saturation and hue in a random order. */
static void draw_jitter(const struct view *view, struct photometric_params *params)
{
    const struct data_spec *spec = view->spec;
    struct rng rng = stream(view, RNG_JITTER);

    if (rng_uniform(&rng) >= (double)view->transform->jitter)
        return;
    params->steps |= PHOTOMETRIC_JITTER;
    for (uint32_t i = 0; i < 4; i++)
        params->order[i] = (uint8_t)i;
    for (uint32_t i = 0; i < 3; i++) {
        uint32_t j = i + rng_below(&rng, 4 - i);
        uint8_t value = params->order[i];
        params->order[i] = params->order[j];
        params->order[j] = value;
    }
    params->brightness = (float)around_one(&rng, spec->brightness);
    params->contrast = (float)around_one(&rng, spec->contrast);
    params->saturation = (float)around_one(&rng, spec->saturation);
    params->hue = (float)rng_range(&rng, -(double)spec->hue, (double)spec->hue);
    for (int i = 0; i < 4; i++) /* not even the way to HSV and back, which loses a little */
        if (params->order[i] == 3 && spec->hue == 0.0f)
            params->order[i] = 4;
}

/* All but the flip. */
static struct photometric_params draw_photometric(const struct view *view)
{
    const struct view_transform *t = view->transform;
    struct photometric_params params = {.solarize_threshold = view->spec->solarize_threshold};

    draw_jitter(view, &params);
    if (gate(view, RNG_GRAYSCALE, t->grayscale))
        params.steps |= PHOTOMETRIC_GRAYSCALE;
    struct rng rng = stream(view, RNG_BLUR);
    if (rng_uniform(&rng) < (double)t->blur) {
        params.steps |= PHOTOMETRIC_BLUR;
        params.blur_radius = (float)rng_range(&rng, (double)view->spec->blur_radius[0],
                                              (double)view->spec->blur_radius[1]);
    }
    if (gate(view, RNG_SOLARIZE, t->solarize))
        params.steps |= PHOTOMETRIC_SOLARIZE;
    return params;
}

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

static enum status render_crop(struct view_maker *maker, const struct data_spec *spec,
                               int32_t epoch, uint32_t sample, int32_t v, const struct image *image,
                               uint8_t *record)
{
    bool global = v < spec->n_global;
    int32_t size_px = global ? spec->global_size_px : spec->local_size_px;
    struct view view = {
        .spec = spec,
        .transform = v == 0   ? &spec->first
                     : global ? &spec->other
                              : &spec->local,
        .key = {.seed = spec->seed,
                .epoch = (uint32_t)epoch,
                .sample = sample,
                .view = (uint16_t)v},
    };
    struct rng rng = stream(&view, RNG_CROP);
    struct region region = crop_draw(&rng, image->width, image->height,
                                     global ? spec->global_scale : spec->local_scale, spec->aspect);
    struct resample_plan plan = resample_whole(region, size_px, size_px);

    TRY(resample(&maker->resampler, &maker->planes, image, &plan));
    stage_done(maker, VIEW_RESAMPLE);
    struct photometric_params params = draw_photometric(&view);
    if (spec->photometric == PHOTOMETRIC_BY_TRAINER)
        memcpy(record + data_spec_photometric_offset(spec, v), &params, sizeof(params));
    else
        TRY(change_colours(maker, &params));
    pack(maker, record + data_spec_view_offset(spec, v),
         gate(&view, RNG_FLIP, view.transform->flip));
    return STATUS_OK;
}

/* Mask bits of one global view, least significant bit first. */
static void render_mask(const struct data_spec *spec, int32_t epoch, uint32_t sample, int32_t v,
                        uint8_t *record)
{
    int32_t grid = data_spec_mask_grid(spec);
    struct rng rng = rng_open((struct rng_key){.seed = spec->seed,
                                               .epoch = (uint32_t)epoch,
                                               .sample = sample,
                                               .view = (uint16_t)v,
                                               .purpose = RNG_MASK});
    uint8_t cells[256 * 256], *bits = record + data_spec_mask_offset(spec, v);

    CHECK(grid <= 256);
    memset(bits, 0, data_spec_mask_bytes(spec));
    double ratio = mask_ratio_draw(&rng, spec, epoch);
    if (mask_draw(&rng, spec, ratio, grid, cells) == 0)
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
        .filter = RESAMPLE_BICUBIC,
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
    maker->stage_start_ns = clock_monotonic_ns();
    if (spec->kind == DATA_CENTRE_CROP)
        return render_centre(maker, spec, image, record);
    for (int32_t v = 0; v < spec->n_global + spec->n_local; v++)
        TRY(render_crop(maker, spec, epoch, sample, v, image, record));
    for (int32_t v = 0; v < spec->n_global && data_spec_mask_grid(spec) > 0; v++)
        render_mask(spec, epoch, sample, v, record);
    stage_done(maker, VIEW_MASK);
    return STATUS_OK;
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
        TRY(order_sample(maker->order, spec->shuffle, spec->order_seed, epoch, position + tried,
                         &sample->index));
        TRY(index_image(maker->index, sample->index, path, &place));
        int64_t read_ns = image_decoder_read_ns(maker->decoder);
        maker->stage_start_ns = clock_monotonic_ns();
        enum status status = image_read(maker->decoder, &place, &maker->image);
        read_ns = image_decoder_read_ns(maker->decoder) - read_ns;
        maker->stage_ns[VIEW_READ] += read_ns;
        maker->stage_start_ns += read_ns;
        stage_done(maker, VIEW_DECODE);
        if (status == STATUS_OK) {
            sample->label = (int32_t)maker->index->entries[sample->index].label;
            sample->n_substituted = tried;
            bool turn = spec->upright && maker->image.orientation != 1;
            if (turn)
                TRY(image_turn(&maker->turned, &maker->image));
            return view_render(maker, spec, epoch, sample->index,
                               turn ? &maker->turned : &maker->image, record);
        }
        if (status == STATUS_NO_MEMORY)
            return status;
        if (bad != NULL)
            bad(context, sample->index, path, status_message());
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
    image_decoder_close(&maker->decoder);
    image_release(&maker->image);
    image_release(&maker->turned);
    planes_release(&maker->planes);
    resampler_release(&maker->resampler);
    photometric_release(&maker->photometric);
    memset(maker, 0, sizeof(*maker));
}
