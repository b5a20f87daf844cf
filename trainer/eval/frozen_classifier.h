/* A whole classifier: a frozen backbone and the linear classifier on its features, from one file or
 * from two. Pictures in, logits out. */
#ifndef IBOT_TRAINER_EVAL_FROZEN_CLASSIFIER_H
#define IBOT_TRAINER_EVAL_FROZEN_CLASSIFIER_H

#include "trainer/inference.h"
#include "trainer/linear_head.h"

struct frozen_classifier_options {
    struct inference_options network;
    const char *linear; /* where the linear classifier is; NULL: beside the backbone */
    struct ibot_feature_options features; /* n_last_blocks 0: as the file says */
};

/* Zeroed is valid and empty. */
struct frozen_classifier {
    struct inference network;
    struct linear_head head;
    float *features, *logits;           /* host: [batch, dim], [batch, n_classes] */
    float *weight, *bias, *x, *product; /* device: of the head; [batch, dim], [batch, n_classes] */
};

/* Says in the log what was loaded. Errors: those of inference_open, linear_head_read and
 * linear_head_settle. */
enum status
frozen_classifier_open(struct frozen_classifier *out, struct backend *backend,
                       const struct frozen_classifier_options *options) IBOT_WARN_UNUSED;
void frozen_classifier_close(struct frozen_classifier *classifier);

/* pixels: n pictures in device memory, as inference_upload leaves them. The logits are then in
 * classifier->logits [n, n_classes]. Errors: STATUS_NOT_FINITE, those of ibot_features. */
enum status frozen_classifier_run(struct frozen_classifier *classifier,
                                  struct tensor pixels) IBOT_WARN_UNUSED;

#endif
