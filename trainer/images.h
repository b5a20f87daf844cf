/* The images that are looked at: files, folders and data sets of every kind that loaders take, read
 * with the loader's own code, in this process. An analysis wants what does not travel over the
 * stream: any image at any time, its path, and where its crops lie. */
#ifndef IBOT_TRAINER_IMAGES_H
#define IBOT_TRAINER_IMAGES_H

#include <stdbool.h>
#include <stdint.h>

#include "proto/base/status.h"
#include "proto/wire/data_spec.h"
#include "trainer/image_box.h"

struct images; /* opaque; called by one thread, reads with several */

/* How an image becomes a square of size_px. */
enum image_fit {
    IMAGE_SQUASH, /* all of it, both sides resized */
    IMAGE_CROP    /* shorter side resized to resize_px, central square of that */
};
struct image_form {
    enum image_fit fit;
    int32_t size_px, resize_px;
    bool bilinear; /* bicubic otherwise */
};

struct image_info {
    const char *path, *name; /* name: of the image in the archive `path`; "": it is the file */
    const char *class_name;  /* "" without classes */
    int32_t label;           /* counted over all paths; -1 without classes */
};

/* paths: image files, or data sets; in the given order. n_threads: that read; 0: one per core.
 * Errors: those of index_load, STATUS_INVALID (no images). */
enum status images_open(struct images **out, const char *const *paths, int n_paths,
                        int n_threads) IBOT_WARN_UNUSED;
void images_close(struct images **images);

int64_t images_n(const struct images *images);
int32_t images_n_classes(const struct images *images);
int32_t images_label(const struct images *images, int64_t image);
/* What it points to is borrowed until the next call. */
enum status images_info(struct images *images, int64_t image,
                        struct image_info *out) IBOT_WARN_UNUSED;

/* rgb [n, size, size, 3] out: of images which[0 .. n-1]. A bad image is an error: an analysis
 * leaves nothing out. Errors: STATUS_CORRUPT names it, STATUS_NOT_FOUND, STATUS_IO,
 * STATUS_NO_MEMORY. */
enum status images_read(struct images *images, uint8_t *rgb, const int64_t *which, int32_t n,
                        const struct image_form *form) IBOT_WARN_UNUSED;

struct image_size {
    int32_t width, height;
};

/* The same with the aspect ratio kept: [height, width, 3] of each image, within a square of
 * most_px and no larger than it is (loader/thumbnail.h), of `boxes` [n] of them, or NULL: all of
 * it. rgb [n, most_px * most_px * 3] out, sizes [n] out. Errors: also STATUS_INVALID, a box that
 * lies outside. */
enum status images_read_thumbnails(struct images *images, uint8_t *rgb, struct image_size *sizes,
                                   const int64_t *which, int32_t n, int32_t most_px,
                                   const struct image_box *boxes) IBOT_WARN_UNUSED;

/* The views of one image that this spec (of multi-crop, and checked) makes: its record (as
 * data_spec.h lays it out), and boxes [n_global + n_local] of the crops. Errors: the same. */
enum status images_views(struct images *images, uint8_t *record, struct image_box *boxes,
                         int64_t image, const struct data_spec *spec) IBOT_WARN_UNUSED;

#endif
