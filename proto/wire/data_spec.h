/* What a consumer asks loaders to make: the whole of it. A sample is a pure function of (index,
 * data_spec, epoch, position), so two loaders with equal specs and equal indexes send equal bytes.
 * The consumer owns it (from its options) and sends it after Hello; loaders take no such options.
 *
 * One image on the wire is one image record, of the same size for every sample:
 *
 *   [global views: n_global x S x S x 3 u8][local views: n_local x s x s x 3 u8][masks: n_global x
 * ceil(g*g/8) bits][photometric parameters: n_views x 32 bytes, when the trainer applies them]
 *
 * Mask bits are row-major over the g x g grid, least significant bit first; those after the last
 * are 0. */
#ifndef IBOT_PROTO_WIRE_DATA_SPEC_H
#define IBOT_PROTO_WIRE_DATA_SPEC_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "proto/base/status.h"
#include "proto/wire/rand_augment.h"

enum {
    DATA_SPEC_MAX_VIEWS = 64, /* global + local */
    DATA_SPEC_MAX_SIZE_PX = 4096,
    DATA_SPEC_MAX_RATIOS = 16,
    DATA_SPEC_MAX_REPEATS = 64,
    DATA_SPEC_MAX_GRID = 256,               /* mask cells along a side */
    DATA_SPEC_MAX_RECORD_BYTES = 256 << 20, /* of one image */
    DATA_SPEC_PHOTOMETRIC_BYTES = 32, /* struct photometric_params, ops/pixels/photometric.h */
};

enum data_kind {
    DATA_MULTI_CROP = 0, /* training: augmented crops and masks */
    DATA_CENTRE_CROP = 1 /* evaluation: shorter side to resize_px, centre crop of global_size_px */
};

/* How regions are resampled, as Pillow does it (antialiased). */
enum interpolation {
    INTERPOLATION_BICUBIC = 0,
    INTERPOLATION_BILINEAR = 1,
    INTERPOLATION_RANDOM = 2 /* crops: one of the two, drawn for each view and each operation */
};

enum mask_shape { MASK_BLOCK = 0, MASK_RANDOM = 1 };

/* Who applies jitter, grayscale, blur and solarisation; the flip is always the loader's. */
enum photometric_place { PHOTOMETRIC_BY_LOADER = 0, PHOTOMETRIC_BY_TRAINER = 1 };

enum bad_image_policy {
    BAD_IMAGE_SUBSTITUTE = 0, /* the next position of the permutation that decodes */
    BAD_IMAGE_FAIL = 1        /* the slice fails, and with it the run */
};

/* Photometric probabilities of one transform; ranges are those of struct data_spec. */
struct view_transform {
    float flip, jitter, grayscale, blur, solarize; /* probabilities */
};

struct data_spec {
    enum data_kind kind;
    bool shuffle;        /* official permutation of the epoch; else index order */
    uint64_t order_seed; /* official: 0 */
    uint64_t seed;       /* of every other draw */
    bool upright;        /* turn images as their EXIF data say; the original does not */
    enum interpolation interpolation;
    int32_t repeats; /* repeated augmentation: times that each sample stands in the order, in a row,
                      * each with draws of its own; 1: once */

    int32_t n_global, global_size_px; /* centre crop: n_global 1, n_local 0 */
    int32_t n_local, local_size_px;
    int32_t resize_px;                     /* centre crop: shorter side */
    float global_scale[2], local_scale[2]; /* area */
    float aspect[2];                       /* 3/4 .. 4/3 */

    struct view_transform first, other, local;   /* global crop 0, further ones, local ones */
    float brightness, contrast, saturation, hue; /* 0.4 0.4 0.2 0.1 */
    float blur_radius[2];                        /* 0.1 .. 2.0 */
    int32_t solarize_threshold;                  /* 128 */
    enum photometric_place photometric;

    /* After the flip, instead of all photometric steps: their probabilities must then be 0. */
    struct rand_augment rand_augment;

    int32_t mask_cell_px; /* patch size; the grid is global_size_px / mask_cell_px */
    enum mask_shape mask_shape;
    int32_t n_pred_ratios; /* 0: no masks at all */
    float pred_ratio[DATA_SPEC_MAX_RATIOS], pred_ratio_var[DATA_SPEC_MAX_RATIOS];
    float mask_aspect[2];     /* 0.3 .. 1/0.3 */
    int32_t pred_start_epoch; /* ratio 0 before it */

    enum bad_image_policy bad_image_policy;
};

/* The official training transforms, ViT-S/16 recipe (2 x 224, 10 x 96, ratio {0, 0.3 +- 0.2}). */
struct data_spec data_spec_default(void);

/* The official training transform of classifiers on frozen features: one crop of size_px, of 8 % of
 * the area or more, bilinear, flipped half the time; nothing else is changed, nothing masked. */
struct data_spec data_spec_random_crop(int32_t size_px);

/* The official training transform of fine-tuning: one crop of size_px, of 8 % of the area or more,
 * bicubic, flipped half the time, then RandAugment rand-m9-mstd0.5-inc1. What may be set otherwise:
 *   rand_augment    another one (rand_augment_parse), or zeroed for none ("aa none"); fill is the
 *                   mean colour that the trainer normalises with
 *   first.jitter    1, with brightness, contrast and saturation (0.4 each) and hue 0: what the
 *                   original does with --color_jitter 0.4 when there is no RandAugment
 *   repeats         3: repeated augmentation, see below
 *   interpolation   bilinear, or random, for crops and operations alike */
struct data_spec data_spec_fine_tuning(int32_t size_px);

/* Repeated augmentation (Hoffer et al. 2020, as DeiT samples it). The order of an epoch is its
 * permutation with each sample `repeats` times in a row: position p is repeat p % repeats of the
 * sample at p / repeats. Rank r of `world` takes positions r, r + world, ...; an epoch ends after
 * this many positions of each rank, floor(floor(n / 256) * 256 / world), so that it is no longer
 * than one without repeats, and has a part of the samples. A data set of less than 256 samples, of
 * which the original would take none, is used to its n-th position. Without repeats: ceil(n /
 * world). */
uint64_t data_spec_epoch_positions(const struct data_spec *spec, uint64_t n_samples,
                                   uint32_t world);

/* The official evaluation transform: shorter side to resize_px, centre crop of size_px. */
struct data_spec data_spec_centre_crop(int32_t resize_px, int32_t size_px);

/* Every field within its limits, or a text that names the field. Errors: STATUS_INVALID. */
enum status data_spec_check(const struct data_spec *spec) IBOT_WARN_UNUSED;

/* XXH3 of the canonical encoding: two specs with this digest make the same bytes. Fields that the
 * kind, or a count of 0, leaves without effect do not count. */
uint64_t data_spec_digest(const struct data_spec *spec);

/* The functions below are for specs that passed data_spec_check. */

/* Side of the mask grid in cells; 0 without masks. */
int32_t data_spec_mask_grid(const struct data_spec *spec);

size_t data_spec_view_bytes(const struct data_spec *spec, int32_t view);  /* pixels of a view */
size_t data_spec_view_offset(const struct data_spec *spec, int32_t view); /* in the record */
size_t data_spec_mask_bytes(const struct data_spec *spec);                /* of one view */
size_t data_spec_mask_offset(const struct data_spec *spec, int32_t view); /* in the record */
size_t data_spec_photometric_bytes(const struct data_spec *spec);         /* of one view, or 0 */
size_t data_spec_photometric_offset(const struct data_spec *spec, int32_t view);
size_t data_spec_record_bytes(const struct data_spec *spec); /* of one image */

/* Whether the bits after the last cell of each mask are 0, so that a record that was taken apart
 * and put together again is the same. */
bool data_spec_record_is_sound(const struct data_spec *spec, const uint8_t *record);

#endif
