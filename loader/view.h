/* One sample, a pure function of (index, data_spec, epoch, position): decode, crop, resample,
 * colour, mask, into an image record (layout in proto/wire/data_spec.h). */
#ifndef IBOT_LOADER_VIEW_H
#define IBOT_LOADER_VIEW_H

#include "loader/image.h"
#include "loader/index.h"
#include "loader/order.h"
#include "loader/resample.h"
#include "ops/pixels/photometric.h"
#include "proto/wire/batch.h"
#include "proto/wire/data_spec.h"

/* What a view maker spends its time with. */
enum view_stage {
    VIEW_READ,
    VIEW_DECODE,
    VIEW_RESAMPLE,
    VIEW_JITTER,
    VIEW_TONE, /* grayscale, solarize */
    VIEW_BLUR,
    VIEW_RAND_AUGMENT,
    VIEW_PACK,
    VIEW_MASK,
    VIEW_STAGES
};

extern const char *const view_stage_names[VIEW_STAGES];

enum { VIEW_AHEAD = 4 }; /* images that are fetched before they are asked for */

/* One thread's tools. Worker thread only. */
struct view_maker {
    const struct index *index; /* borrowed, shared */
    struct order *order;       /* borrowed, shared, locks itself */
    struct image_decoder *decoder;
    struct image image, turned;
    struct planes planes; /* the view in work */
    struct resampler resampler;
    struct photometric photometric;
    struct scratch work; /* of RandAugment */
    struct {
        uint32_t sample;
        int file; /* opened, its bytes on their way */
    } ahead[VIEW_AHEAD];
    int n_ahead;
    int64_t stage_ns[VIEW_STAGES]; /* spent so far */
    int64_t stage_start_ns;        /* of the stage in work */
};

/* Told of every bad image that was passed over. */
typedef void view_bad_image(void *context, enum bad_image_kind kind, uint32_t sample,
                            const char *path, const char *reason);

/* Without index and order, only view_render works. */
enum status view_maker_open(struct view_maker *maker, const struct index *index,
                            struct order *order) IBOT_WARN_UNUSED;
void view_maker_close(struct view_maker *maker);

/* record [data_spec_record_bytes] out. A bad image is replaced by the sample at the next position
 * (policy substitute) or fails with STATUS_CORRUPT and its path. */
enum status view_make(struct view_maker *maker, const struct data_spec *spec, int32_t epoch,
                      uint64_t position, uint8_t *record, struct batch_sample *sample,
                      view_bad_image *bad, void *context) IBOT_WARN_UNUSED;

/* The sample at this position will be made soon: its image is read in the background, unless
 * VIEW_AHEAD others are. What is made stays the same. */
void view_fetch(struct view_maker *maker, const struct data_spec *spec, int32_t epoch,
                uint64_t position);

/* What was fetched and not made will not be. */
void view_fetch_end(struct view_maker *maker);

/* The same from a decoded image: all views and masks of sample number `sample`, the first time that
 * it stands in the epoch. The spec has passed data_spec_check. */
enum status view_render(struct view_maker *maker, const struct data_spec *spec, int32_t epoch,
                        uint32_t sample, const struct image *image,
                        uint8_t *record) IBOT_WARN_UNUSED;

/* The same of a later repeat, in 0 .. spec->repeats - 1. */
enum status view_render_repeat(struct view_maker *maker, const struct data_spec *spec,
                               int32_t epoch, uint32_t sample, int32_t repeat,
                               const struct image *image, uint8_t *record) IBOT_WARN_UNUSED;

#endif
