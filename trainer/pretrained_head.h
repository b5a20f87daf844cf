/* The projection head that comes with a backbone, of files that have one: whole checkpoints, and
 * backbones kept --with_head.
 *
 *   pretrained_open ─> pretrained_head_options ─> ibot_open (inference_head) ─> pretrained_load
 *   ─> pretrained_load_head */
#ifndef IBOT_TRAINER_PRETRAINED_HEAD_H
#define IBOT_TRAINER_PRETRAINED_HEAD_H

#include "trainer/pretrained.h"

/* What head it is, by the shapes of its tensors and the run's activation (GELU where none is
 * known). Two last layers count as two, though one may be the other's alias. Errors:
 * STATUS_NOT_FOUND (no head), STATUS_UNSUPPORTED (batch norm: what it makes of an image depends on
 * its batch). */
enum status pretrained_head_options(const struct pretrained *pretrained,
                                    struct head_options *out) IBOT_WARN_UNUSED;

/* Copies it into the teacher's head. Errors: STATUS_MISMATCH (a tensor is missing or has another
 * shape). */
enum status pretrained_load_head(const struct pretrained *pretrained, struct ibot *ibot,
                                 struct device *device) IBOT_WARN_UNUSED;

#endif
