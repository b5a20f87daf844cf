/* Weights of a classifier that is fine-tuned: what it begins with, a pre-trained backbone and
 * perhaps layers of its projection head; and what becomes of it, the whole of it in one file under
 * the names that others know (blocks.0.…, fc_norm.…, head.weight). */
#ifndef IBOT_TRAINER_EVAL_FINETUNE_WEIGHTS_H
#define IBOT_TRAINER_EVAL_FINETUNE_WEIGHTS_H

#include "trainer/model/classifier.h"
#include "trainer/pretrained.h"

/* backbone (but for its drop_path) and image_size_px of `out`: what the weights are, at images of
 * size_px (0: as the weights were trained). A ViT's positions become those of that size; a Swin
 * keeps its windows where others would not fit their tables. Errors: STATUS_INVALID. */
enum status finetune_weights_plan(const struct pretrained *pretrained, int32_t size_px,
                                  struct classifier_options *out) IBOT_WARN_UNUSED;

/* The head, of which n_head_layers are wanted. Errors: STATUS_NOT_FOUND (no head in the file). */
enum status finetune_weights_plan_head(const struct pretrained *pretrained,
                                       struct classifier_options *out) IBOT_WARN_UNUSED;

/* Backbone and head layers into the classifier; its linear layer and the norm of pooling stay as
 * they begin. Errors: STATUS_MISMATCH. */
enum status finetune_weights_load(const struct pretrained *pretrained,
                                  struct classifier *classifier,
                                  const struct classifier_options *options, struct device *device,
                                  struct pretrained_report *report) IBOT_WARN_UNUSED;

/* A classifier as it was written: pooling, layers of the head or taps, and the number of classes of
 * `out` are what is in the file. Errors: STATUS_NOT_FOUND (no classifier in it). */
enum status finetune_weights_read_options(const struct pretrained *pretrained,
                                          struct classifier_options *out) IBOT_WARN_UNUSED;
/* All of it into the classifier. */
enum status finetune_weights_load_all(const struct pretrained *pretrained,
                                      struct classifier *classifier, struct device *device,
                                      struct pretrained_report *report) IBOT_WARN_UNUSED;

/* Writes the weights, or with `average` their average, to `path`; score: Top1 in percent, or, of a
 * dense one, the mean IoU. */
enum status finetune_weights_write(const char *path, struct classifier *classifier,
                                   const struct classifier_options *options, bool average,
                                   struct device *device, double score) IBOT_WARN_UNUSED;

#endif
