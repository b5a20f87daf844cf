/* A data set of videos as DAVIS 2017 lays it out:
 *
 *   ROOT/JPEGImages/480p/SEQUENCE/00000.jpg …     frames, in the order of their names
 *   ROOT/Annotations/480p/SEQUENCE/00000.png …    labels: of the first frame at least
 *   ROOT/ImageSets/2017/val.txt                   sequences, a line each */
#ifndef IBOT_TRAINER_EVAL_VIDEO_DATA_H
#define IBOT_TRAINER_EVAL_VIDEO_DATA_H

#include <stdint.h>

#include "proto/base/status.h"

enum { VIDEO_MAX_NAME = 256, VIDEO_MAX_PATH = 4096 };

struct video_data {
    const char *root, *resolution; /* borrowed; "480p" */
    char (*sequences)[VIDEO_MAX_NAME];
    int32_t n_sequences;
};

/* image_set: "2017/val". Errors: STATUS_NOT_FOUND, STATUS_CORRUPT (a line that is no name),
 * STATUS_INVALID (no sequences), STATUS_IO. */
enum status video_data_open(struct video_data *out, const char *root, const char *resolution,
                            const char *image_set) IBOT_WARN_UNUSED;
void video_data_close(struct video_data *data);

/* Names of frames, without folder and ending. */
struct video_frames {
    char (*names)[VIDEO_MAX_NAME];
    int32_t n;
};
/* Errors: STATUS_NOT_FOUND, STATUS_INVALID (no frames), STATUS_IO. */
enum status video_frames_list(struct video_frames *out, const struct video_data *data,
                              int32_t sequence) IBOT_WARN_UNUSED;
void video_frames_release(struct video_frames *frames);

/* Paths of a frame and of its labels; out has VIDEO_MAX_PATH bytes. */
void video_frame_path(char *out, const struct video_data *data, int32_t sequence, const char *name);
void video_labels_path(char *out, const struct video_data *data, int32_t sequence,
                       const char *name);

#endif
