/* Training crops of scenes, as is usual on ADE20K: a random size, a random place where no class has
 * nearly all of it, mirrored or not, other colours. Where the scene ends before the crop, pixels
 * are 0 behind the normalisation and labels are ignored.
 *
 * Every draw follows from seed, epoch and number of the scene. Pixels are those of OpenCV. */
#ifndef IBOT_TRAINER_EVAL_SCENE_CROP_H
#define IBOT_TRAINER_EVAL_SCENE_CROP_H

#include <stdbool.h>
#include <stdint.h>

#include "proto/base/rng.h"
#include "trainer/eval/picture_file.h"

enum {
    SCENE_IGNORED = 255,
    SCENE_ELONGATION = 4, /* the longer side becomes at most so many times what the shorter would */
    SCENE_MAX_SIDE_PX = 16384,
};

struct scene_size {
    int32_t width, height;
};

/* A scene whose shorter side becomes short_px, unless its longer one would exceed long_px. */
struct scene_size scene_size_within(int32_t width, int32_t height, int32_t short_px,
                                    int32_t long_px);

/* to [size]: the nearest label, as OpenCV takes it. */
void scene_labels_resize(uint8_t *to, struct scene_size size, const uint8_t *from, int32_t width,
                         int32_t height);

struct scene_crop_options {
    int32_t crop_px, resize_px; /* the shorter side becomes resize_px times a number of `scale` */
    double scale[2];
    double most; /* of a crop's labelled pixels may be of one class; of 10 tries the last counts */
    bool distortion; /* of the colours */
    uint64_t seed;
};

/* What happens to the colours of a crop. */
struct scene_colours {
    float brightness;       /* that is added; 0: none */
    float contrast;         /* that is multiplied with; 1: none */
    bool contrast_last;     /* behind saturation and hue */
    float saturation;       /* 1: none; changed is whether there was a draw at all */
    int32_t hue;            /* 0 .. 179 */
    bool saturates, shifts; /* each goes through HSV, and comes back not quite the same */
};
/* Each change with probability one half. */
struct scene_colours scene_colours_draw(struct rng *rng);
void scene_colours_apply(uint8_t *rgb, int64_t n, const struct scene_colours *colours);

/* Memory of a thread; zeroed is valid and empty. */
struct scene_crop_room {
    struct picture resized, crop;
    uint8_t *labels;
    size_t labels_bytes;
};
void scene_crop_room_release(struct scene_crop_room *room);

struct scene_view {
    const struct picture *picture;
    const uint8_t *labels; /* of the picture's size; SCENE_IGNORED, or a class */
    uint32_t number, epoch;
};

/* pixels [3, crop, crop] out, normalised; labels [crop, crop] out. Errors: STATUS_NO_MEMORY. */
enum status scene_crop_make(float *pixels, uint8_t *labels, const struct scene_view *view,
                            const struct scene_crop_options *options,
                            struct scene_crop_room *room) IBOT_WARN_UNUSED;

#endif
