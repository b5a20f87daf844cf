/* The specification of the data: limits, digest, and where each view lies in an image record.
 *
 * The limits are what keeps sizes in range everywhere else: a spec that passed data_spec_check has
 * an image record of at most DATA_SPEC_MAX_RECORD_BYTES, so no later product can overflow. */
#include "proto/wire/data_spec.h"

#include <math.h>
#include <string.h>

#include "proto/base/hash.h"

struct data_spec data_spec_default(void)
{
    return (struct data_spec){
        .kind = DATA_MULTI_CROP,
        .shuffle = true,
        .repeats = 1,
        .n_global = 2,
        .global_size_px = 224,
        .n_local = 10,
        .local_size_px = 96,
        .global_scale = {0.25f, 1.0f},
        .local_scale = {0.05f, 0.25f},
        .aspect = {3.0f / 4.0f, 4.0f / 3.0f},
        .first = {.flip = 0.5f, .jitter = 0.8f, .grayscale = 0.2f, .blur = 1.0f},
        .other = {.flip = 0.5f, .jitter = 0.8f, .grayscale = 0.2f, .blur = 0.1f, .solarize = 0.2f},
        .local = {.flip = 0.5f, .jitter = 0.8f, .grayscale = 0.2f, .blur = 0.5f},
        .brightness = 0.4f,
        .contrast = 0.4f,
        .saturation = 0.2f,
        .hue = 0.1f,
        .blur_radius = {0.1f, 2.0f},
        .solarize_threshold = 128,
        .mask_cell_px = 16,
        .mask_shape = MASK_BLOCK,
        .n_pred_ratios = 2,
        .pred_ratio = {0.0f, 0.3f},
        .pred_ratio_var = {0.0f, 0.2f},
        .mask_aspect = {0.3f, 1.0f / 0.3f},
        .bad_image_policy = BAD_IMAGE_SUBSTITUTE,
    };
}

struct data_spec data_spec_random_crop(int32_t size_px)
{
    return (struct data_spec){
        .kind = DATA_MULTI_CROP,
        .shuffle = true,
        .interpolation = INTERPOLATION_BILINEAR,
        .repeats = 1,
        .n_global = 1,
        .global_size_px = size_px,
        .global_scale = {0.08f, 1.0f},
        .aspect = {3.0f / 4.0f, 4.0f / 3.0f},
        .first = {.flip = 0.5f},
        .bad_image_policy = BAD_IMAGE_SUBSTITUTE,
    };
}

struct data_spec data_spec_fine_tuning(int32_t size_px)
{
    struct data_spec spec = data_spec_random_crop(size_px);

    spec.interpolation = INTERPOLATION_BICUBIC;
    spec.rand_augment = rand_augment_official();
    return spec;
}

uint64_t data_spec_epoch_positions(const struct data_spec *spec, uint64_t n_samples, uint32_t world)
{
    if (spec->repeats == 1)
        return (n_samples + world - 1) / world;
    return (n_samples < 256 ? n_samples : n_samples / 256 * 256) / world;
}

struct data_spec data_spec_centre_crop(int32_t resize_px, int32_t size_px)
{
    return (struct data_spec){
        .kind = DATA_CENTRE_CROP,
        .repeats = 1,
        .n_global = 1,
        .global_size_px = size_px,
        .resize_px = resize_px,
        .bad_image_policy = BAD_IMAGE_SUBSTITUTE,
    };
}

/* ---- limits ---- */

static enum status check_integer(const char *field, int64_t value, int64_t least, int64_t most)
{
    if (value < least || value > most)
        FAIL(STATUS_INVALID, "data spec: %s is %lld; it must be in %lld..%lld", field,
             (long long)value, (long long)least, (long long)most);
    return STATUS_OK;
}

/* Also refuses NaN. */
static enum status check_real(const char *field, float value, float least, float most)
{
    if (!(value >= least && value <= most))
        FAIL(STATUS_INVALID, "data spec: %s is %g; it must be in %g..%g", field, (double)value,
             (double)least, (double)most);
    return STATUS_OK;
}

/* A range with both ends in [least, most] and in order. */
static enum status check_range(const char *field, const float range[2], float least, float most)
{
    TRY(check_real(field, range[0], least, most));
    TRY(check_real(field, range[1], least, most));
    if (range[0] > range[1])
        FAIL(STATUS_INVALID, "data spec: %s is %g..%g; the first must not exceed the second", field,
             (double)range[0], (double)range[1]);
    return STATUS_OK;
}

static enum status check_transform(const char *view, const struct view_transform *transform)
{
    const struct {
        const char *name;
        float probability;
    } parts[] = {
        {"flip", transform->flip},           {"jitter", transform->jitter},
        {"grayscale", transform->grayscale}, {"blur", transform->blur},
        {"solarize", transform->solarize},
    };

    for (size_t i = 0; i < sizeof(parts) / sizeof(parts[0]); i++)
        if (!(parts[i].probability >= 0 && parts[i].probability <= 1))
            FAIL(STATUS_INVALID, "data spec: probability of %s (%s) is %g; it must be in 0..1",
                 parts[i].name, view, (double)parts[i].probability);
    return STATUS_OK;
}

static enum status check_masks(const struct data_spec *spec)
{
    TRY(check_integer("n_pred_ratios", spec->n_pred_ratios, 0, DATA_SPEC_MAX_RATIOS));
    if (spec->n_pred_ratios == 0)
        return STATUS_OK;
    TRY(check_integer("mask_cell_px", spec->mask_cell_px, 1, spec->global_size_px));
    TRY(check_integer("global_size_px / mask_cell_px", spec->global_size_px / spec->mask_cell_px, 1,
                      DATA_SPEC_MAX_GRID));
    TRY(check_integer("mask_shape", spec->mask_shape, MASK_BLOCK, MASK_RANDOM));
    TRY(check_integer("pred_start_epoch", spec->pred_start_epoch, 0, INT32_MAX));
    TRY(check_range("mask_aspect", spec->mask_aspect, 1e-3f, 1e3f));
    for (int32_t i = 0; i < spec->n_pred_ratios; i++) {
        TRY(check_real("pred_ratio", spec->pred_ratio[i], 0, 1));
        TRY(check_real("pred_ratio_var", spec->pred_ratio_var[i], 0, 1));
        if (spec->pred_ratio_var[i] > spec->pred_ratio[i])
            FAIL(STATUS_INVALID, "data spec: pred_ratio_var %g exceeds its pred_ratio %g",
                 (double)spec->pred_ratio_var[i], (double)spec->pred_ratio[i]);
    }
    return STATUS_OK;
}

static bool changes_colours(const struct view_transform *t)
{
    return t->jitter > 0 || t->grayscale > 0 || t->blur > 0 || t->solarize > 0;
}

/* RandAugment takes the place of the photometric steps, and is the loader's. */
static enum status check_rand_augment_alone(const struct data_spec *spec)
{
    if (spec->photometric != PHOTOMETRIC_BY_LOADER)
        FAIL(STATUS_INVALID, "data spec: photometric is the trainer's beside rand_augment, which "
                             "loaders apply; leave one of the two out");
    if (changes_colours(&spec->first) || (spec->n_global > 1 && changes_colours(&spec->other)) ||
        (spec->n_local > 0 && changes_colours(&spec->local)))
        FAIL(STATUS_INVALID, "data spec: jitter, grayscale, blur or solarize beside rand_augment; "
                             "it is done in their place: leave one of the two out");
    return STATUS_OK;
}

static enum status check_multi_crop(const struct data_spec *spec)
{
    TRY(check_integer("n_global", spec->n_global, 1, DATA_SPEC_MAX_VIEWS));
    TRY(check_integer("n_local", spec->n_local, 0, DATA_SPEC_MAX_VIEWS - spec->n_global));
    if (spec->n_local > 0) {
        TRY(check_integer("local_size_px", spec->local_size_px, 1, DATA_SPEC_MAX_SIZE_PX));
        TRY(check_range("local_scale", spec->local_scale, 1e-6f, 1));
        TRY(check_transform("local crops", &spec->local));
    }
    TRY(check_range("global_scale", spec->global_scale, 1e-6f, 1));
    TRY(check_range("aspect", spec->aspect, 1e-3f, 1e3f));
    TRY(check_transform("first global crop", &spec->first));
    TRY(check_transform("further global crops", &spec->other));
    TRY(check_real("brightness", spec->brightness, 0, 10));
    TRY(check_real("contrast", spec->contrast, 0, 10));
    TRY(check_real("saturation", spec->saturation, 0, 10));
    TRY(check_real("hue", spec->hue, 0, 0.5f));
    TRY(check_range("blur_radius", spec->blur_radius, 0, 100));
    TRY(check_integer("solarize_threshold", spec->solarize_threshold, 0, 256));
    TRY(check_integer("photometric", spec->photometric, PHOTOMETRIC_BY_LOADER,
                      PHOTOMETRIC_BY_TRAINER));
    TRY(check_integer("repeats", spec->repeats, 1, DATA_SPEC_MAX_REPEATS));
    TRY(rand_augment_check(&spec->rand_augment));
    if (spec->rand_augment.n_ops > 0)
        TRY(check_rand_augment_alone(spec));
    return check_masks(spec);
}

enum status data_spec_check(const struct data_spec *spec)
{
    TRY(check_integer("kind", spec->kind, DATA_MULTI_CROP, DATA_CENTRE_CROP));
    TRY(check_integer("global_size_px", spec->global_size_px, 1, DATA_SPEC_MAX_SIZE_PX));
    TRY(check_integer("interpolation", spec->interpolation, INTERPOLATION_BICUBIC,
                      spec->kind == DATA_MULTI_CROP ? INTERPOLATION_RANDOM
                                                    : INTERPOLATION_BILINEAR));
    TRY(check_integer("bad_image_policy", spec->bad_image_policy, BAD_IMAGE_SUBSTITUTE,
                      BAD_IMAGE_FAIL));
    if (spec->kind == DATA_MULTI_CROP) {
        TRY(check_multi_crop(spec));
    } else {
        TRY(check_integer("n_global of a centre crop", spec->n_global, 1, 1));
        TRY(check_integer("n_local of a centre crop", spec->n_local, 0, 0));
        TRY(check_integer("n_pred_ratios of a centre crop", spec->n_pred_ratios, 0, 0));
        TRY(check_integer("repeats of a centre crop", spec->repeats, 1, 1));
        TRY(check_integer("rand_augment.n_ops of a centre crop", spec->rand_augment.n_ops, 0, 0));
        TRY(check_integer("resize_px", spec->resize_px, spec->global_size_px,
                          4 * DATA_SPEC_MAX_SIZE_PX));
    }
    size_t bytes = data_spec_record_bytes(spec);
    if (bytes > DATA_SPEC_MAX_RECORD_BYTES)
        FAIL(STATUS_INVALID,
             "data spec: the views of one image take %zu bytes; at most %d are allowed: ask for "
             "fewer or smaller crops",
             bytes, DATA_SPEC_MAX_RECORD_BYTES);
    return STATUS_OK;
}

/* ---- digest ---- */

/* Canonical encoding: the fields that the kind uses, in the order of the struct, each as eight
 * bytes, least significant first. Reals go in as the bits of a double. */
struct encoding {
    uint8_t bytes[8 * 96];
    size_t n;
};

static void put_integer(struct encoding *encoding, uint64_t value)
{
    CHECK(encoding->n + 8 <= sizeof(encoding->bytes), "the encoding has room for every field");
    for (int i = 0; i < 8; i++)
        encoding->bytes[encoding->n++] = (uint8_t)(value >> (8 * i));
}

static void put_real(struct encoding *encoding, float value)
{
    double wide = (double)value + 0.0; /* -0 becomes 0 */
    uint64_t bits;

    memcpy(&bits, &wide, sizeof(bits));
    put_integer(encoding, bits);
}

static void put_range(struct encoding *encoding, const float range[2])
{
    put_real(encoding, range[0]);
    put_real(encoding, range[1]);
}

static void put_transform(struct encoding *encoding, const struct view_transform *transform)
{
    put_real(encoding, transform->flip);
    put_real(encoding, transform->jitter);
    put_real(encoding, transform->grayscale);
    put_real(encoding, transform->blur);
    put_real(encoding, transform->solarize);
}

static void put_multi_crop(struct encoding *encoding, const struct data_spec *spec)
{
    put_integer(encoding, (uint64_t)spec->n_local);
    put_range(encoding, spec->global_scale);
    put_range(encoding, spec->aspect);
    put_transform(encoding, &spec->first);
    put_transform(encoding, &spec->other);
    if (spec->n_local > 0) {
        put_integer(encoding, (uint64_t)spec->local_size_px);
        put_range(encoding, spec->local_scale);
        put_transform(encoding, &spec->local);
    }
    put_real(encoding, spec->brightness);
    put_real(encoding, spec->contrast);
    put_real(encoding, spec->saturation);
    put_real(encoding, spec->hue);
    put_range(encoding, spec->blur_radius);
    put_integer(encoding, (uint64_t)spec->solarize_threshold);
    put_integer(encoding, (uint64_t)spec->n_pred_ratios);
    if (spec->n_pred_ratios == 0)
        return;
    put_integer(encoding, (uint64_t)spec->mask_cell_px);
    put_integer(encoding, (uint64_t)spec->mask_shape);
    for (int32_t i = 0; i < spec->n_pred_ratios && i < DATA_SPEC_MAX_RATIOS; i++) {
        put_real(encoding, spec->pred_ratio[i]);
        put_real(encoding, spec->pred_ratio_var[i]);
    }
    put_range(encoding, spec->mask_aspect);
    put_integer(encoding, (uint64_t)spec->pred_start_epoch);
}

static void put_rand_augment(struct encoding *encoding, const struct rand_augment *rand_augment)
{
    put_integer(encoding, (uint64_t)rand_augment->n_ops);
    put_real(encoding, rand_augment->probability);
    put_real(encoding, rand_augment->magnitude);
    put_real(encoding, rand_augment->magnitude_std);
    put_integer(encoding, rand_augment->increasing);
    for (int c = 0; c < 3; c++)
        put_integer(encoding, (uint64_t)rand_augment->fill[c]);
}

uint64_t data_spec_digest(const struct data_spec *spec)
{
    struct encoding encoding = {.n = 0};

    put_integer(&encoding, (uint64_t)spec->kind);
    put_integer(&encoding, spec->shuffle);
    put_integer(&encoding, spec->shuffle ? spec->order_seed : 0);
    put_integer(&encoding, (uint64_t)spec->bad_image_policy);
    put_integer(&encoding, (uint64_t)spec->n_global);
    put_integer(&encoding, (uint64_t)spec->global_size_px);
    if (spec->kind == DATA_MULTI_CROP) {
        put_integer(&encoding, spec->seed);
        put_multi_crop(&encoding, spec);
    } else {
        put_integer(&encoding, (uint64_t)spec->resize_px);
    }
    if (data_spec_photometric_bytes(spec) > 0) /* added later: specs without keep their digest */
        put_integer(&encoding, (uint64_t)spec->photometric);
    if (spec->upright)
        put_integer(&encoding, 2 + (uint64_t)spec->upright); /* unlike the value above */
    if (spec->interpolation != INTERPOLATION_BICUBIC)
        put_integer(&encoding, 3 + (uint64_t)spec->interpolation); /* likewise */
    if (spec->kind == DATA_MULTI_CROP && spec->repeats > 1)
        put_integer(&encoding, 256 + (uint64_t)spec->repeats);
    if (spec->kind == DATA_MULTI_CROP && spec->rand_augment.n_ops > 0)
        put_rand_augment(&encoding, &spec->rand_augment);
    return hash_bytes(encoding.bytes, encoding.n);
}

/* ---- the image record ---- */

int32_t data_spec_mask_grid(const struct data_spec *spec)
{
    return spec->n_pred_ratios > 0 ? spec->global_size_px / spec->mask_cell_px : 0;
}

size_t data_spec_view_bytes(const struct data_spec *spec, int32_t view)
{
    size_t side = (size_t)(view < spec->n_global ? spec->global_size_px : spec->local_size_px);
    return side * side * 3;
}

size_t data_spec_view_offset(const struct data_spec *spec, int32_t view)
{
    if (view <= spec->n_global)
        return (size_t)view * data_spec_view_bytes(spec, 0);
    return (size_t)spec->n_global * data_spec_view_bytes(spec, 0) +
           (size_t)(view - spec->n_global) * data_spec_view_bytes(spec, spec->n_global);
}

size_t data_spec_mask_bytes(const struct data_spec *spec)
{
    size_t grid = (size_t)data_spec_mask_grid(spec);
    return (grid * grid + 7) / 8;
}

size_t data_spec_mask_offset(const struct data_spec *spec, int32_t view)
{
    return data_spec_view_offset(spec, spec->n_global + spec->n_local) +
           (size_t)view * data_spec_mask_bytes(spec);
}

size_t data_spec_photometric_bytes(const struct data_spec *spec)
{
    bool sent = spec->kind == DATA_MULTI_CROP && spec->photometric == PHOTOMETRIC_BY_TRAINER;
    return sent ? DATA_SPEC_PHOTOMETRIC_BYTES : 0;
}

size_t data_spec_photometric_offset(const struct data_spec *spec, int32_t view)
{
    return data_spec_mask_offset(spec, spec->n_global) +
           (size_t)view * data_spec_photometric_bytes(spec);
}

size_t data_spec_record_bytes(const struct data_spec *spec)
{
    return data_spec_photometric_offset(spec, spec->n_global + spec->n_local);
}

bool data_spec_record_is_sound(const struct data_spec *spec, const uint8_t *record)
{
    int32_t grid = data_spec_mask_grid(spec), used = grid * grid % 8;

    for (int32_t v = 0; v < spec->n_global && used > 0; v++) {
        uint8_t last = record[data_spec_mask_offset(spec, v) + data_spec_mask_bytes(spec) - 1];
        if (last >> used != 0)
            return false;
    }
    return true;
}
