/* Source: timm's auto_augment (the operations of RandAugment, magnitudes 0 .. 10), as formulas. */
#include "loader/rand_augment.h"

#include <math.h>

#include "loader/log_uniform.h"
#include "ops/pixels/affine.h"
#include "ops/pixels/tone.h"

const char *const rand_augment_names[RAND_AUGMENT_OPS] = {
    "autocontrast", "equalize",     "invert",  "rotate",      "posterize",
    "solarize",     "solarize_add", "color",   "contrast",    "brightness",
    "sharpness",    "shear_x",      "shear_y", "translate_x", "translate_y",
};

bool rand_augment_has_amount(enum rand_augment_op op)
{
    return op != RAND_AUTOCONTRAST && op != RAND_EQUALIZE && op != RAND_INVERT;
}

bool rand_augment_is_geometric(enum rand_augment_op op)
{
    return op == RAND_ROTATE || op >= RAND_SHEAR_X;
}

double rand_augment_amount(enum rand_augment_op op, double magnitude, bool increasing,
                           bool negative)
{
    double level = magnitude / 10.0, sign = negative ? -1.0 : 1.0;

    switch (op) {
    case RAND_ROTATE:
        return sign * (level * 30.0);
    case RAND_POSTERIZE:
        return increasing ? 4 - (int)(level * 4.0) : (int)(level * 4.0);
    case RAND_SOLARIZE:
        return increasing ? 256 - (int)(level * 256.0) : (int)(level * 256.0);
    case RAND_SOLARIZE_ADD:
        return (int)(level * 110.0);
    case RAND_COLOR:
    case RAND_CONTRAST:
    case RAND_BRIGHTNESS:
    case RAND_SHARPNESS:
        return increasing ? fmax(0.1, 1.0 + sign * (level * 0.9)) : level * 1.8 + 0.1;
    case RAND_SHEAR_X:
    case RAND_SHEAR_Y:
        return sign * (level * 0.3);
    case RAND_TRANSLATE_X:
    case RAND_TRANSLATE_Y:
        return sign * (level * 0.45);
    default:
        return 0.0;
    }
}

/* Standard normal by Marsaglia's polar method: of its functions only the logarithm is not exact on
 * every machine, and that one is ours. */
static double draw_normal(struct rng *rng)
{
    for (;;) {
        double u = rng_range(rng, -1.0, 1.0), v = rng_range(rng, -1.0, 1.0), s = u * u + v * v;
        if (s > 0.0 && s < 1.0)
            return u * sqrt(-2.0 * log_uniform_log(s) / s);
    }
}

static double draw_magnitude(struct rng *rng, const struct rand_augment *rand_augment)
{
    double magnitude = (double)rand_augment->magnitude, std = (double)rand_augment->magnitude_std;

    if (std > RAND_AUGMENT_UNIFORM_STD)
        return rng_range(rng, 0.0, magnitude);
    if (std > 0.0)
        magnitude += std * draw_normal(rng);
    return fmin(fmax(magnitude, 0.0), RAND_AUGMENT_MAX_MAGNITUDE);
}

int32_t rand_augment_draw(struct rng *rng, struct rand_augment_step *steps,
                          const struct rand_augment *rand_augment, enum interpolation interpolation)
{
    int32_t n = 0;

    for (int32_t i = 0; i < rand_augment->n_ops; i++) {
        enum rand_augment_op op = (enum rand_augment_op)rng_below(rng, RAND_AUGMENT_OPS);
        if (rng_uniform(rng) >= (double)rand_augment->probability)
            continue;
        double magnitude = draw_magnitude(rng, rand_augment);
        bool negative = rng_below(rng, 2) == 1;
        bool cubic = interpolation == INTERPOLATION_RANDOM ? rng_below(rng, 2) == 1
                                                           : interpolation == INTERPOLATION_BICUBIC;
        steps[n++] = (struct rand_augment_step){
            .op = op,
            .amount = rand_augment_amount(op, magnitude, rand_augment->increasing, negative),
            .cubic = cubic && rand_augment_is_geometric(op),
            .fill = {(uint8_t)rand_augment->fill[0], (uint8_t)rand_augment->fill[1],
                     (uint8_t)rand_augment->fill[2]},
        };
    }
    return n;
}

static enum status transform(struct planes *planes, const struct rand_augment_step *step,
                             const struct pixel_kernels *kernels, struct scratch *work)
{
    struct affine affine = {.m = {1, 0, 0, 0, 1, 0},
                            .cubic = step->cubic,
                            .fill = {step->fill[0], step->fill[1], step->fill[2]}};

    switch (step->op) {
    case RAND_ROTATE:
        if (!affine_rotation(&affine, planes->width, planes->height, step->amount))
            return STATUS_OK;
        break;
    case RAND_SHEAR_X:
        affine.m[1] = step->amount;
        break;
    case RAND_SHEAR_Y:
        affine.m[3] = step->amount;
        break;
    case RAND_TRANSLATE_X:
        affine.m[2] = step->amount * planes->width;
        break;
    default:
        affine.m[5] = step->amount * planes->height;
    }
    return affine_apply(planes, &affine, kernels, work);
}

enum status rand_augment_apply(struct planes *planes, const struct rand_augment_step *step,
                               struct photometric *photometric, struct scratch *work)
{
    switch (step->op) {
    case RAND_AUTOCONTRAST:
        tone_autocontrast(planes);
        break;
    case RAND_EQUALIZE:
        tone_equalize(planes);
        break;
    case RAND_INVERT:
        photometric_solarize(photometric, planes, 0);
        break;
    case RAND_POSTERIZE:
        tone_posterize(planes, (int32_t)step->amount);
        break;
    case RAND_SOLARIZE:
        photometric_solarize(photometric, planes, (int32_t)step->amount);
        break;
    case RAND_SOLARIZE_ADD:
        tone_solarize_add(planes, (int32_t)step->amount);
        break;
    case RAND_COLOR:
        photometric_saturation(photometric, planes, (float)step->amount);
        break;
    case RAND_CONTRAST:
        photometric_contrast(photometric, planes, (float)step->amount);
        break;
    case RAND_BRIGHTNESS:
        photometric_brightness(photometric, planes, (float)step->amount);
        break;
    case RAND_SHARPNESS:
        return sharpness_apply(planes, (float)step->amount, work);
    default:
        return transform(planes, step, photometric->kernels, work);
    }
    return STATUS_OK;
}
