/* A linear classifier on features of a frozen backbone, from any file that has one:
 *
 *   linear.weight, linear.bias       linear.safetensors of ibot-eval linear; beside a backbone in
 * what ibot-convert --linear, or the original's combine_ckpt.py, made N.module.linear.weight, … the
 * original's checkpoint_teacher_linear.pth: of its classifiers the one that best_acc_hidx names
 *   head.weight, head.bias           of a network that was trained with labels: DeiT, timm
 *
 *   linear_head_read, or linear_head_within ─> linear_head_settle ─> ibot_features ─> weight, bias
 */
#ifndef IBOT_TRAINER_LINEAR_HEAD_H
#define IBOT_TRAINER_LINEAR_HEAD_H

#include "trainer/pretrained.h"

/* Zeroed is valid and empty. */
struct linear_head {
    float *weight; /* [n_classes, dim] */
    float *bias;   /* [n_classes] */
    int32_t n_classes, dim;
    struct ibot_feature_options
        features;  /* what it takes; n_last_blocks 0: the file does not say */
    int64_t epoch; /* when it was best; 0: not known */
    double top1;   /* there, in percent; negative: not known */
};

/* What a file says about the features that its classifier takes, as metadata. */
enum { LINEAR_HEAD_NOTES = 4 };
struct linear_head_note {
    const char *name;
    char text[16];
};
size_t linear_head_notes(struct linear_head_note notes[LINEAR_HEAD_NOTES],
                         const struct ibot_feature_options *features);

/* path: a file, or a folder that ibot-eval linear wrote. Errors: STATUS_NOT_FOUND (no classifier in
 * it), STATUS_MISMATCH (shapes that do not fit each other), those of weight_file_open. */
enum status linear_head_read(struct linear_head *out, const char *path) IBOT_WARN_UNUSED;

/* The classifier beside the backbone in one file. Errors: the same. */
enum status linear_head_within(struct linear_head *out,
                               const struct pretrained *pretrained) IBOT_WARN_UNUSED;

/* Which features it takes: those that `wanted` says where its n_last_blocks is not 0, else those
 * that the file says, else those that fit its width, as the original has them: [CLS] tokens of as
 * many last blocks as are as wide, but for two, which are [CLS] and mean patch token of the last.
 * Errors: STATUS_MISMATCH (features of this backbone have another width). */
enum status linear_head_settle(struct linear_head *head, const struct backbone_options *backbone,
                               const struct ibot_feature_options *wanted) IBOT_WARN_UNUSED;

void linear_head_release(struct linear_head *head);

#endif
