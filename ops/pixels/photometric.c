/* Colour in integers and single precision. Source: the arithmetic of Pillow's Blend.c, Convert.c
 * and BoxBlur.c, as formulas. Products and sums are separate roundings: no contraction. */
#include "ops/pixels/photometric.h"

#include <math.h>
#include <string.h>

_Static_assert(sizeof(struct photometric_params) == PHOTOMETRIC_PARAMS_BYTES, "it travels");

/* Blends every byte with a constant. Pillow clamps only where it extrapolates; in between, nothing
 * can leave the range. */
static void blend_constant(struct photometric *photometric, struct planes *planes, uint8_t d,
                           float factor)
{
    if (factor == 1.0f)
        return;
    for (int c = 0; c < 3; c++)
        photometric->kernels->blend(planes->channel[c], planes_n_pixels(planes), d, factor);
}

void photometric_brightness(struct photometric *photometric, struct planes *planes, float factor)
{
    blend_constant(photometric, planes, 0, factor);
}

void photometric_contrast(struct photometric *photometric, struct planes *planes, float factor)
{
    size_t n = planes_n_pixels(planes);
    uint64_t sum = photometric->kernels->luma_sum(planes->channel, n);

    blend_constant(photometric, planes, (uint8_t)((double)sum / (double)n + 0.5), factor);
}

void photometric_saturation(struct photometric *photometric, struct planes *planes, float factor)
{
    if (factor == 0.0f)
        photometric_grayscale(photometric, planes);
    else if (factor != 1.0f)
        photometric->kernels->saturate(planes->channel, planes_n_pixels(planes), factor);
}

void photometric_hue(struct photometric *photometric, struct planes *planes, float turns)
{
    photometric->kernels->hue(planes->channel, planes_n_pixels(planes),
                              (uint8_t)(int)((double)turns * 255.0));
}

void photometric_grayscale(struct photometric *photometric, struct planes *planes)
{
    photometric->kernels->grey(planes->channel, planes_n_pixels(planes));
}

void photometric_solarize(struct photometric *photometric, struct planes *planes, int32_t threshold)
{
    for (int c = 0; c < 3; c++)
        photometric->kernels->solarize(planes->channel[c], planes_n_pixels(planes), threshold);
}

/* Radius of the box whose three passes have the variance of a Gaussian; Gwosdek et al. 2011,
 * equations 7, 11 and 14, in the precision of Pillow's code. */
static float box_radius(float sigma)
{
    float s2 = sigma * sigma / 3.0f;
    float length = (float)sqrt(12.0 * (double)s2 + 1.0);
    float l = (float)floor(((double)length - 1.0) / 2.0);
    float a = (2.0f * l + 1.0f) * (l * (l + 1.0f) - 3.0f * s2);

    a /= 6.0f * (s2 - (l + 1.0f) * (l + 1.0f));
    return l + a;
}

enum status photometric_blur(struct photometric *photometric, struct planes *planes, float radius)
{
    float rho = box_radius(radius);
    struct box box = {.radius = (int32_t)rho};

    box.inner = (uint32_t)((float)(1 << 24) / (rho * 2.0f + 1.0f));
    box.edge = ((1u << 24) - (uint32_t)(box.radius * 2 + 1) * box.inner) / 2;
    TRY(scratch_reserve(&photometric->blur,
                        blur_scratch_bytes(planes->width, planes->height, box.radius), "blur"));
    for (int c = 0; c < 3; c++) {
        photometric->kernels->blur_across(planes->channel[c], planes->width, planes->height, &box,
                                          photometric->blur.memory);
        photometric->kernels->blur_down(planes->channel[c], planes->width, planes->height, &box,
                                        photometric->blur.memory);
    }
    return STATUS_OK;
}

static void jitter(struct photometric *photometric, struct planes *planes,
                   const struct photometric_params *params)
{
    for (int i = 0; i < 4; i++)
        switch (params->order[i]) {
        case 0:
            photometric_brightness(photometric, planes, params->brightness);
            break;
        case 1:
            photometric_contrast(photometric, planes, params->contrast);
            break;
        case 2:
            photometric_saturation(photometric, planes, params->saturation);
            break;
        case 3:
            photometric_hue(photometric, planes, params->hue);
            break;
        default:
            break;
        }
}

enum status photometric_step(struct photometric *photometric, struct planes *planes,
                             const struct photometric_params *params, enum photometric_step step)
{
    if ((params->steps & step) == 0)
        return STATUS_OK;
    switch (step) {
    case PHOTOMETRIC_JITTER:
        jitter(photometric, planes, params);
        break;
    case PHOTOMETRIC_GRAYSCALE:
        photometric_grayscale(photometric, planes);
        break;
    case PHOTOMETRIC_BLUR:
        return photometric_blur(photometric, planes, params->blur_radius);
    case PHOTOMETRIC_SOLARIZE:
        photometric_solarize(photometric, planes, params->solarize_threshold);
        break;
    }
    return STATUS_OK;
}

enum status photometric_apply(struct photometric *photometric, struct planes *planes,
                              const struct photometric_params *params)
{
    for (unsigned step = PHOTOMETRIC_JITTER; step <= PHOTOMETRIC_SOLARIZE; step <<= 1)
        TRY(photometric_step(photometric, planes, params, (enum photometric_step)step));
    return STATUS_OK;
}

static bool is_factor(float factor)
{
    return factor >= 0.0f && factor <= 1000.0f; /* no NaN either */
}

bool photometric_params_are_sound(const struct photometric_params *params)
{
    for (int i = 0; i < 4; i++)
        if (params->order[i] > 4)
            return false;
    return params->steps < 2 * PHOTOMETRIC_SOLARIZE && is_factor(params->brightness) &&
           is_factor(params->contrast) && is_factor(params->saturation) && params->hue >= -0.5f &&
           params->hue <= 0.5f && params->blur_radius >= 0.0f &&
           params->blur_radius <= PHOTOMETRIC_MAX_BLUR_RADIUS && params->solarize_threshold >= 0 &&
           params->solarize_threshold <= 256;
}

enum status photometric_params_check(const uint8_t *params, int64_t n)
{
    for (int64_t i = 0; i < n; i++, params += PHOTOMETRIC_PARAMS_BYTES) {
        struct photometric_params one;
        memcpy(&one, params, sizeof(one));
        if (!photometric_params_are_sound(&one))
            FAIL(STATUS_CORRUPT, "photometric: the parameters of crop %lld are out of range",
                 (long long)i);
    }
    return STATUS_OK;
}

size_t photometric_blur_bytes(int32_t width, int32_t height)
{
    return blur_scratch_bytes(width, height, PHOTOMETRIC_MAX_BLUR_RADIUS);
}

void photometric_release(struct photometric *photometric)
{
    if (photometric == NULL)
        return;
    scratch_release(&photometric->blur);
}
