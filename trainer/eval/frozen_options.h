/* Rows that every evaluation of a frozen backbone has: which network, which images, how they are
 * cut. */
#ifndef IBOT_TRAINER_EVAL_FROZEN_OPTIONS_H
#define IBOT_TRAINER_EVAL_FROZEN_OPTIONS_H

#include "proto/config/options.h"
#include "trainer/backend_options.h"
#include "trainer/eval/features.h"
#include "trainer/pretrained_rows.h"

/* --n_last_blocks, --avgpool_patchtokens, --topk, --reverse_top */
struct frozen_feature_options {
    int32_t n_last_blocks, avgpool_patchtokens, topk;
    bool reverse_top;
};
extern const struct option_part rows_frozen_features;

/* --batch_size_per_gpu, an int32_t: of images that pass once, so that it changes no result. */
extern const struct option_part row_frozen_batch;

/* --train, --test, --resize_size, --crop_size, --loaders, --loader_threads */
struct frozen_data_options {
    const char *train, *test;
    int32_t resize_size, crop_size, loaders, loader_threads;
};
extern const struct option_part rows_frozen_data;
extern const struct option_part rows_frozen_test; /* the same without --train */

/* A network as options say it; all borrowed. */
struct frozen_choice {
    const struct pretrained_options *weights;
    const struct frozen_data_options *data;
    const struct network_options *network;
    enum backend_kind kind;
    struct frozen_feature_options features;
    int32_t batch_size;
};

/* Errors: those of feature_model_open. */
enum status frozen_model_open(struct feature_model *out, struct backend *backend,
                              const struct frozen_choice *choice) IBOT_WARN_UNUSED;

/* --resize_size, or 8/7 of the crop. */
int32_t frozen_resize_px(const struct frozen_data_options *data, const struct feature_model *model);

#endif
