#include "loader/draw.h"

#include "loader/crop.h"
#include "loader/mask.h"
#include "proto/base/rng.h"

static struct rng stream(const struct draw *draw, enum rng_purpose purpose)
{
    return rng_open(
        (struct rng_key){.seed = draw->spec->seed,
                         .epoch = (uint32_t)draw->epoch,
                         .sample = draw->sample,
                         .view = (uint16_t)(draw->repeat * DATA_SPEC_MAX_VIEWS + draw->view),
                         .purpose = (uint16_t)purpose});
}

static const struct view_transform *transform_of(const struct draw *draw)
{
    const struct data_spec *spec = draw->spec;

    if (draw->view == 0)
        return &spec->first;
    return draw->view < spec->n_global ? &spec->other : &spec->local;
}

static double around_one(struct rng *rng, float half_width)
{
    double low = 1.0 - (double)half_width;
    return rng_range(rng, low < 0.0 ? 0.0 : low, 1.0 + (double)half_width);
}

static bool gate(const struct draw *draw, enum rng_purpose purpose, float probability)
{
    struct rng rng = stream(draw, purpose);
    return rng_uniform(&rng) < (double)probability;
}

struct region draw_region(const struct draw *draw, int32_t width, int32_t height)
{
    const struct data_spec *spec = draw->spec;
    struct rng rng = stream(draw, RNG_CROP);

    return crop_draw(&rng, width, height,
                     draw->view < spec->n_global ? spec->global_scale : spec->local_scale,
                     spec->aspect);
}

bool draw_flip(const struct draw *draw)
{
    return gate(draw, RNG_FLIP, transform_of(draw)->flip);
}

enum resample_filter draw_filter(const struct draw *draw)
{
    bool linear = draw->spec->interpolation == INTERPOLATION_BILINEAR;

    if (draw->spec->interpolation == INTERPOLATION_RANDOM)
        linear = gate(draw, RNG_INTERPOLATION, 0.5f);
    return linear ? RESAMPLE_BILINEAR : RESAMPLE_BICUBIC;
}

int32_t draw_rand_augment(const struct draw *draw, struct rand_augment_step *steps)
{
    struct rng rng = stream(draw, RNG_RAND_AUGMENT);

    return rand_augment_draw(&rng, steps, &draw->spec->rand_augment, draw->spec->interpolation);
}

/* Brightness, contrast, saturation and hue in a random order. */
static void draw_jitter(const struct draw *draw, struct photometric_params *params)
{
    const struct data_spec *spec = draw->spec;
    struct rng rng = stream(draw, RNG_JITTER);

    if (rng_uniform(&rng) >= (double)transform_of(draw)->jitter)
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

struct photometric_params draw_photometric(const struct draw *draw)
{
    const struct view_transform *t = transform_of(draw);
    const struct data_spec *spec = draw->spec;
    struct photometric_params params = {.solarize_threshold = spec->solarize_threshold};

    draw_jitter(draw, &params);
    if (gate(draw, RNG_GRAYSCALE, t->grayscale))
        params.steps |= PHOTOMETRIC_GRAYSCALE;
    struct rng rng = stream(draw, RNG_BLUR);
    if (rng_uniform(&rng) < (double)t->blur) {
        params.steps |= PHOTOMETRIC_BLUR;
        params.blur_radius =
            (float)rng_range(&rng, (double)spec->blur_radius[0], (double)spec->blur_radius[1]);
    }
    if (gate(draw, RNG_SOLARIZE, t->solarize))
        params.steps |= PHOTOMETRIC_SOLARIZE;
    return params;
}

int32_t draw_mask(const struct draw *draw, uint8_t *cells, double *ratio)
{
    struct rng rng = stream(draw, RNG_MASK);
    double share = mask_ratio_draw(&rng, draw->spec, draw->epoch);

    if (ratio != NULL)
        *ratio = share;
    return mask_draw(&rng, draw->spec, share, data_spec_mask_grid(draw->spec), cells);
}
