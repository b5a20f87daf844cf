/* Frames of a video as a network gets them. */
#ifndef IBOT_TRAINER_EVAL_VIDEO_PICTURE_H
#define IBOT_TRAINER_EVAL_VIDEO_PICTURE_H

#include <stdint.h>

#include "proto/base/status.h"

struct video_pictures; /* opaque: decoders; called by one thread, reads with several */

/* Errors: STATUS_NO_MEMORY, and what the image library says. */
enum status video_pictures_open(struct video_pictures **out, int n_threads) IBOT_WARN_UNUSED;
void video_pictures_close(struct video_pictures **pictures);

struct video_size {
    int32_t width, height;
};

/* What a frame is resized to: its shorter side (of a square its height) to side_px, the other in
 * proportion, down to a multiple of 64. Either may be 0 for frames out of all proportion. */
struct video_size video_picture_size(struct video_size frame, int32_t side_px);

/* Of a frame's file. Errors: STATUS_NOT_FOUND, STATUS_CORRUPT, STATUS_IO. */
enum status video_picture_measure(struct video_pictures *pictures, struct video_size *out,
                                  const char *path) IBOT_WARN_UNUSED;

/* out [n, 3, height, width]: files paths[0 .. n-1], resized as OpenCV does (bilinear), less the
 * mean and over the deviation that the original has here: 0.228 for red. Every frame must have the
 * size `frame`. Errors: STATUS_MISMATCH names one that has not; STATUS_NOT_FOUND, STATUS_CORRUPT,
 * STATUS_IO, STATUS_NO_MEMORY. */
enum status video_pictures_read(struct video_pictures *pictures, float *out,
                                const char *const *paths, int32_t n, struct video_size frame,
                                struct video_size size) IBOT_WARN_UNUSED;

#endif
