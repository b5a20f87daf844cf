/* The prototype that a projection head gives each feature: the cluster of an image when a network
 * is evaluated without labels. The head is that of the weights, as trainer/pretrained_head.h reads
 * it; of [CLS] tokens alone, in float32 on any backend. */
#ifndef IBOT_TRAINER_EVAL_PROTOTYPES_H
#define IBOT_TRAINER_EVAL_PROTOTYPES_H

#include "trainer/backend.h"
#include "trainer/pretrained_head.h"

struct prototypes; /* opaque: the head and its planned memory */

/* For features of `width`. Errors: those of pretrained_head_options and pretrained_head_read,
 * STATUS_NO_MEMORY, STATUS_DEVICE. */
enum status prototypes_open(struct prototypes **out, struct backend *backend,
                            const struct pretrained *pretrained, int32_t width) IBOT_WARN_UNUSED;
int32_t prototypes_count(const struct prototypes *prototypes);

/* features [n, width], host memory, as they leave the backbone; cluster [n] out. */
enum status prototypes_assign(struct prototypes *prototypes, const float *features, int64_t n,
                              int32_t *cluster) IBOT_WARN_UNUSED;
void prototypes_close(struct prototypes **prototypes);

#endif
