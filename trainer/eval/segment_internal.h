/* The run, for segment_run.c, which makes its steps, segment_evaluate.c, which measures, and
 * segment_folder.c, which keeps it. */
#ifndef IBOT_TRAINER_EVAL_SEGMENT_INTERNAL_H
#define IBOT_TRAINER_EVAL_SEGMENT_INTERNAL_H

#include "trainer/eval/scene_reader.h"
#include "trainer/eval/segment_run.h"

/* Sums over the steps since the last validation, of all ranks. */
struct segment_meters {
    double loss, gradient_norm;
    int64_t updates, pixels, right;
};

struct segment_run {
    const struct segment_options *options; /* borrowed, as the next */
    const struct options *parsed;
    struct backend *backend;
    struct collective *ranks; /* of the backend */
    const atomic_int *stop;   /* NULL: never */
    bool stopping;            /* a rank was asked to stop: all know */
    struct classifier_options model;
    struct classifier *classifier;
    char weights[CHECKPOINT_MAX_PATH]; /* the file that was loaded first */

    struct scene_labels labels;
    struct scene_data train, test;
    char data[128]; /* what they are, as a text */
    struct scene_reader *train_reader, *test_reader;
    struct scene_crop_options crop;
    int32_t stride;
    struct scene_sizes sizes; /* of test pictures */

    /* Crops of two micro-batches, pinned, and windows of test pictures in the place of one; their
     * labels; the pixels on the device. */
    float *crops[2];
    uint8_t *crop_labels;
    void *pixels;
    int next_crops;
    float *logits; /* of the windows of a picture */
    size_t logits_capacity;

    int64_t step;     /* done */
    int64_t n_unread; /* updates whose numbers are not in the meters yet: 0 or 1 */
    struct segment_meters meters;
    struct segment_results results;
    int64_t saved_step;
};

/* marks of the device: the classifier has 0 to 3 */
enum { SEGMENT_MARK_CROPS = 4 }; /* and 5: the copy of crops[0], crops[1] */

/* For whoever watches the ranks: a constant string. */
void segment_tell_progress(struct segment_run *run, const char *doing);

/* What follows is called by all ranks together. */

/* ---- segment_evaluate.c ---- */

/* Pixels of all test pictures, of which each rank takes a share; masks are written where they are
 * asked for. counts: all 0 where there are no labels. */
enum status segment_evaluate(struct segment_run *run,
                             struct segment_counts *counts) IBOT_WARN_UNUSED;

/* ---- segment_folder.c: all ranks read, the first one writes, and none goes on when it can't ----
 */

/* Ranks have the same pictures and weights. */
enum status segment_folder_compare(struct segment_run *run) IBOT_WARN_UNUSED;
/* Makes the folder and goes on with what it has, if it has something. */
enum status segment_folder_open(struct segment_run *run) IBOT_WARN_UNUSED;
/* Everything to go on from. */
enum status segment_folder_save(struct segment_run *run) IBOT_WARN_UNUSED;
/* After a validation: weights that are the best so far; its line. */
enum status segment_folder_write_best(struct segment_run *run) IBOT_WARN_UNUSED;
enum status segment_folder_log(struct segment_run *run) IBOT_WARN_UNUSED;

#endif
