/* Scores of segmented videos, as the DAVIS 2017 challenge has them for masks that began with the
 * annotated first frame: of each object of the first frame, over all frames but the first and the
 * last; and over all objects of all sequences. */
#ifndef IBOT_TRAINER_EVAL_VIDEO_SCORES_H
#define IBOT_TRAINER_EVAL_VIDEO_SCORES_H

#include <stddef.h>

#include "trainer/eval/mask_scores.h"
#include "trainer/eval/video_data.h"

struct video_score {
    int32_t sequence, object; /* object: 1, 2, … */
    struct mask_statistics j, f;
};

struct video_scores {
    struct video_score *scores; /* [n], sequence by sequence */
    int32_t n;
    size_t capacity;
    int32_t n_unscored;          /* sequences that are not annotated, but for the first frame */
    struct mask_statistics j, f; /* means over objects */
};

/* folder: of results, FOLDER/SEQUENCE/FRAME.png. Errors: STATUS_NOT_FOUND (a result is missing),
 * STATUS_MISMATCH (its size; a label that no object has), STATUS_INVALID (fewer than three frames;
 * no object), those of label_image_read. */
enum status video_scores_compute(struct video_scores *out, const struct video_data *data,
                                 const char *folder) IBOT_WARN_UNUSED;
void video_scores_release(struct video_scores *scores);

#endif
