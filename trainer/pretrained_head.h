/* The projection head that comes with a backbone, of files that have one: whole checkpoints, and
 * backbones kept --with_head.
 *
 *   pretrained_open ─> pretrained_head_options ─> ibot_open (inference_head) ─> pretrained_load
 *   ─> pretrained_load_head
 *
 * A batch norm acts by its running statistics, as a scale and a shift, and so becomes part of the
 * layers before it: the head that is made has none. */
#ifndef IBOT_TRAINER_PRETRAINED_HEAD_H
#define IBOT_TRAINER_PRETRAINED_HEAD_H

#include "trainer/pretrained.h"

/* What head it is, by the shapes of its tensors and the run's activation (GELU where none is
 * known). Two last layers count as two, though one may be the other's alias. Errors:
 * STATUS_NOT_FOUND (no head). */
enum status pretrained_head_options(const struct pretrained *pretrained,
                                    struct head_options *out) IBOT_WARN_UNUSED;

/* The values of one tensor, by its name ("mlp.2.weight") and shape in a head of these options.
 * Errors: STATUS_MISMATCH (it is missing or has another shape). */
enum status pretrained_head_read(const struct pretrained *pretrained, const char *name,
                                 const struct tensor *shape, float *out) IBOT_WARN_UNUSED;

/* One tensor to its place on the device, its values read by `read`, to which it is `name`. */
enum status pretrained_load_tensor(const struct pretrained *pretrained,
                                   const struct ibot_state_entry *to,
                                   enum status (*read)(const struct pretrained *, const char *name,
                                                       const struct tensor *shape, float *out),
                                   const char *name, struct device *device) IBOT_WARN_UNUSED;

/* Copies it into the teacher's head. Errors: STATUS_MISMATCH (a tensor is missing or has another
 * shape). */
enum status pretrained_load_head(const struct pretrained *pretrained, struct ibot *ibot,
                                 struct device *device) IBOT_WARN_UNUSED;

#endif
