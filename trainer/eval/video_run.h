/* Video object segmentation: labels of the first frame of each sequence carried through it by the
 * features of a network (label_propagation.h), as PNG files of labels.
 *
 *   FOLDER/video.json           what made the results; another network or setting is an error
 *   FOLDER/SEQUENCE/FRAME.png   of a sequence that is finished, which is not made again
 *   FOLDER/.SEQUENCE.part/      of one under way */
#ifndef IBOT_TRAINER_EVAL_VIDEO_RUN_H
#define IBOT_TRAINER_EVAL_VIDEO_RUN_H

#include <stdatomic.h>

#include "trainer/eval/video_data.h"
#include "trainer/inference.h"

struct video_run_options {
    struct inference_options network; /* its batch size: frames at a time */
    const char *folder;
    int32_t image_size; /* 480: the shorter side */
    int32_t n_last_frames, size_mask_neighborhood, topk;
    double temperature;
    int n_threads; /* that decode; 0: one per core */
};

/* Every sequence of the data set that is not finished. Errors: STATUS_MISMATCH (the folder's
 * results are of something else; frames of several sizes), STATUS_UNSUPPORTED (a Swin),
 * STATUS_INTERRUPTED, those of reading, of the network, and STATUS_IO. */
enum status video_run(struct backend *backend, const struct video_data *data,
                      const struct video_run_options *options,
                      const atomic_int *stop) IBOT_WARN_UNUSED;

/* Whether the folder has a sequence. */
bool video_run_has(const char *folder, const char *sequence);

#endif
