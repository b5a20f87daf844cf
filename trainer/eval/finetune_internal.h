/* The run, for finetune_run.c, which makes its steps, and finetune_folder.c, which keeps them. */
#ifndef IBOT_TRAINER_EVAL_FINETUNE_INTERNAL_H
#define IBOT_TRAINER_EVAL_FINETUNE_INTERNAL_H

#include "trainer/eval/finetune_run.h"
#include "trainer/receiver.h"

/* Sums over the epoch under way, of updates and of their images, of all ranks. */
struct finetune_meters {
    double loss, gradient_norm;
    int64_t updates, images, top1;
};

struct finetune_run {
    const struct finetune_options *options; /* borrowed */
    const struct options *parsed;
    struct backend *backend;
    struct collective *ranks; /* of the backend */
    const atomic_int *stop;   /* NULL: never */
    bool stopping;            /* a rank was asked to stop: all know */
    struct classifier_options model;
    struct classifier *classifier;
    struct mixing_options mixing;
    struct data_spec train_spec, test_spec;
    struct receiver train, test;
    struct dataset_info train_set, test_set;
    char weights[CHECKPOINT_MAX_PATH]; /* the file that was loaded first */
    int32_t *labels;                   /* [batch] */
    struct pixel_box *boxes;           /* [batch] */

    int64_t batch;             /* batches done, of the whole run */
    int64_t batches_per_epoch; /* of which updates_per_epoch * update_freq are used */
    int64_t updates_per_epoch;
    int64_t n_unread;              /* updates whose numbers are not in the meters yet: 0 or 1 */
    struct finetune_meters meters; /* of the epoch under way */
    struct finetune_results results;
    int64_t saved_batch;
};

/* Ranks call these together: all read, the first one writes, and none goes on when it can't. */

/* Ranks have the same weights, images and crops. */
enum status finetune_folder_compare(struct finetune_run *run) IBOT_WARN_UNUSED;
/* Makes the folder and goes on with what it has, if it has something. */
enum status finetune_folder_open(struct finetune_run *run) IBOT_WARN_UNUSED;
/* Everything to go on from. */
enum status finetune_folder_save(struct finetune_run *run) IBOT_WARN_UNUSED;
/* After a validation: weights that are the best so far. */
enum status finetune_folder_write_best(struct finetune_run *run, bool average) IBOT_WARN_UNUSED;
/* The line of the epoch that has ended. */
enum status finetune_folder_log(struct finetune_run *run, bool validated) IBOT_WARN_UNUSED;

#endif
