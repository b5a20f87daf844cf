/* A batch as a consumer hands it on: one slot of pinned memory, views crop-major, in the order of
 * the positions, whichever loaders made it. */
#ifndef IBOT_PROTO_WIRE_BATCH_H
#define IBOT_PROTO_WIRE_BATCH_H

#include <stdint.h>

#include "proto/wire/data_spec.h"

enum {
    SLICE_MAX_SAMPLES = 256,   /* of a lease */
    BATCH_MAX_BAD_IMAGES = 64, /* that a batch names; further ones are only counted */
};

/* One sample of a batch. */
struct batch_sample {
    uint64_t position; /* in the epoch's order (global, before striding by rank) */
    uint32_t index;    /* in the data set: of the image that was used */
    int32_t label;
    uint32_t n_substituted; /* bad images passed over on the way to it */
    uint32_t n_repaired;    /* places where the image is damaged, which its decoder repaired */
};

/* What is wrong with a bad image; values are part of the wire format. */
enum bad_image_kind {
    BAD_IMAGE_UNKNOWN = 0,
    BAD_IMAGE_MISSING = 1,     /* no such file */
    BAD_IMAGE_UNREADABLE = 2,  /* the operating system does not give its bytes */
    BAD_IMAGE_CORRUPT = 3,     /* its bytes break their format, or the limits of a loader */
    BAD_IMAGE_UNSUPPORTED = 4, /* an image, of a kind that loaders do not read */
    BAD_IMAGE_KINDS
};
extern const char *const bad_image_kind_names[BAD_IMAGE_KINDS]; /* one word each */

/* What image_read's status says of the image. */
enum bad_image_kind bad_image_kind_of(enum status status);

/* A bad image that some slice met. */
struct bad_image {
    int32_t epoch;
    uint32_t index;
    int32_t sample; /* of the slice or batch: the one that it was to be */
    enum bad_image_kind kind;
    char path[256];
    char reason[256];
};

struct batch {
    int64_t step; /* since the start of the run; from 0 */
    int32_t epoch;
    int32_t n_samples;    /* B below; smaller only in the last batch of an evaluation */
    uint8_t *globals;     /* [n_global, B, S, S, 3] */
    uint8_t *locals;      /* [n_local, B, s, s, 3], NULL without local crops */
    uint8_t *masks;       /* [n_global, B, g*g] one byte each (0 or 1), NULL without masks */
    uint8_t *photometric; /* [n_global + n_local, B, 32] parameters, NULL when applied */
    struct batch_sample *samples; /* [B] */
    const uint64_t *hashes;       /* [B] XXH3 of the image records */
    struct bad_image *bad_images; /* [n_bad_images] those passed over, by sample */
    int32_t n_bad_images;
    uint64_t digest; /* XXH3 over samples and the hashes of their records, in order: the same
                        for the same stream, whatever the slices and loaders */
    void *slot;      /* of the consumer */
};

#endif
