/* The data spec to and from protobuf. Numbers that do not fit our types become ones that
 * data_spec_check refuses, so that one place decides. */
#include "proto/wire/message_internal.h"

#include <string.h>

static void range_out(Ibot__Range *out, Ibot__Range **pointer, const float range[2])
{
    ibot__range__init(out);
    out->low = range[0];
    out->high = range[1];
    *pointer = out;
}

static void range_in(float out[2], const Ibot__Range *range)
{
    out[0] = range != NULL ? range->low : 0;
    out[1] = range != NULL ? range->high : 0;
}

static void transform_out(Ibot__ViewTransform *out, Ibot__ViewTransform **pointer,
                          const struct view_transform *transform)
{
    ibot__view_transform__init(out);
    out->flip = transform->flip;
    out->jitter = transform->jitter;
    out->grayscale = transform->grayscale;
    out->blur = transform->blur;
    out->solarize = transform->solarize;
    *pointer = out;
}

static void transform_in(struct view_transform *out, const Ibot__ViewTransform *transform)
{
    *out = (struct view_transform){0};
    if (transform == NULL)
        return;
    out->flip = transform->flip;
    out->jitter = transform->jitter;
    out->grayscale = transform->grayscale;
    out->blur = transform->blur;
    out->solarize = transform->solarize;
}

static int32_t integer_in(uint32_t value)
{
    return value <= INT32_MAX ? (int32_t)value : -1;
}

static void rand_augment_out(Ibot__RandAugment *out, Ibot__RandAugment **pointer,
                             const struct rand_augment *rand_augment)
{
    if (rand_augment->n_ops == 0)
        return;
    ibot__rand_augment__init(out);
    out->n_ops = (uint32_t)rand_augment->n_ops;
    out->probability = rand_augment->probability;
    out->magnitude = rand_augment->magnitude;
    out->magnitude_std = rand_augment->magnitude_std;
    out->increasing = rand_augment->increasing;
    for (int c = 0; c < 3; c++)
        out->fill = out->fill << 8 | (uint32_t)rand_augment->fill[c];
    *pointer = out;
}

static void rand_augment_in(struct rand_augment *out, const Ibot__RandAugment *rand_augment)
{
    *out = (struct rand_augment){0};
    if (rand_augment == NULL)
        return;
    out->n_ops = integer_in(rand_augment->n_ops);
    out->probability = rand_augment->probability;
    out->magnitude = rand_augment->magnitude;
    out->magnitude_std = rand_augment->magnitude_std;
    out->increasing = rand_augment->increasing != 0;
    out->fill[0] = integer_in(rand_augment->fill >> 16);
    out->fill[1] = rand_augment->fill >> 8 & 255;
    out->fill[2] = rand_augment->fill & 255;
}

void spec_to_protobuf(struct spec_parts *out, const struct data_spec *spec)
{
    Ibot__DataSpec *message = &out->message;

    ibot__data_spec__init(message);
    message->kind = (Ibot__DataKind)spec->kind;
    message->shuffle = spec->shuffle;
    message->order_seed = spec->order_seed;
    message->seed = spec->seed;
    message->n_global = (uint32_t)spec->n_global;
    message->global_size_px = (uint32_t)spec->global_size_px;
    message->n_local = (uint32_t)spec->n_local;
    message->local_size_px = (uint32_t)spec->local_size_px;
    message->resize_px = (uint32_t)spec->resize_px;
    range_out(&out->global_scale, &message->global_scale, spec->global_scale);
    range_out(&out->local_scale, &message->local_scale, spec->local_scale);
    range_out(&out->aspect, &message->aspect, spec->aspect);
    transform_out(&out->first, &message->first, &spec->first);
    transform_out(&out->other, &message->other, &spec->other);
    transform_out(&out->local, &message->local, &spec->local);
    message->brightness = spec->brightness;
    message->contrast = spec->contrast;
    message->saturation = spec->saturation;
    message->hue = spec->hue;
    range_out(&out->blur_radius, &message->blur_radius, spec->blur_radius);
    message->solarize_threshold = (uint32_t)spec->solarize_threshold;
    message->mask_cell_px = (uint32_t)spec->mask_cell_px;
    message->mask_shape = (Ibot__MaskShape)spec->mask_shape;
    memcpy(out->pred_ratio, spec->pred_ratio, sizeof(out->pred_ratio));
    memcpy(out->pred_ratio_var, spec->pred_ratio_var, sizeof(out->pred_ratio_var));
    message->n_pred_ratio = message->n_pred_ratio_var = (size_t)spec->n_pred_ratios;
    message->pred_ratio = out->pred_ratio;
    message->pred_ratio_var = out->pred_ratio_var;
    range_out(&out->mask_aspect, &message->mask_aspect, spec->mask_aspect);
    message->pred_start_epoch = (uint32_t)spec->pred_start_epoch;
    message->bad_image_policy = (Ibot__BadImagePolicy)spec->bad_image_policy;
    message->upright = spec->upright;
    message->photometric = (Ibot__PhotometricPlace)spec->photometric;
    message->interpolation = (Ibot__Interpolation)spec->interpolation;
    message->repeats = (uint32_t)spec->repeats;
    rand_augment_out(&out->rand_augment, &message->rand_augment, &spec->rand_augment);
}

enum status spec_from_protobuf(struct data_spec *out, const Ibot__DataSpec *message)
{
    struct data_spec spec = {
        .kind = (enum data_kind)message->kind,
        .shuffle = message->shuffle != 0,
        .order_seed = message->order_seed,
        .seed = message->seed,
        .n_global = integer_in(message->n_global),
        .global_size_px = integer_in(message->global_size_px),
        .n_local = integer_in(message->n_local),
        .local_size_px = integer_in(message->local_size_px),
        .resize_px = integer_in(message->resize_px),
        .brightness = message->brightness,
        .contrast = message->contrast,
        .saturation = message->saturation,
        .hue = message->hue,
        .solarize_threshold = integer_in(message->solarize_threshold),
        .mask_cell_px = integer_in(message->mask_cell_px),
        .mask_shape = (enum mask_shape)message->mask_shape,
        .pred_start_epoch = integer_in(message->pred_start_epoch),
        .bad_image_policy = (enum bad_image_policy)message->bad_image_policy,
        .upright = message->upright != 0,
        .photometric = (enum photometric_place)message->photometric,
        .interpolation = (enum interpolation)message->interpolation,
        .repeats = message->repeats == 0 ? 1 : integer_in(message->repeats),
    };

    if (message->n_pred_ratio > DATA_SPEC_MAX_RATIOS ||
        message->n_pred_ratio_var != message->n_pred_ratio)
        FAIL(STATUS_CORRUPT, "message: a data spec with %zu pred_ratio and %zu pred_ratio_var",
             message->n_pred_ratio, message->n_pred_ratio_var);
    spec.n_pred_ratios = (int32_t)message->n_pred_ratio;
    for (size_t i = 0; i < message->n_pred_ratio; i++) {
        spec.pred_ratio[i] = message->pred_ratio[i];
        spec.pred_ratio_var[i] = message->pred_ratio_var[i];
    }
    range_in(spec.global_scale, message->global_scale);
    range_in(spec.local_scale, message->local_scale);
    range_in(spec.aspect, message->aspect);
    range_in(spec.blur_radius, message->blur_radius);
    range_in(spec.mask_aspect, message->mask_aspect);
    transform_in(&spec.first, message->first);
    transform_in(&spec.other, message->other);
    transform_in(&spec.local, message->local);
    rand_augment_in(&spec.rand_augment, message->rand_augment);
    TRY(data_spec_check(&spec));
    *out = spec;
    return STATUS_OK;
}
