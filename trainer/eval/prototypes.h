/* The prototype that a projection head gives each feature: the cluster of an image when a network
 * is evaluated without labels. The head is that of the weights, whatever its widths; what it
 * computes is float32 on any backend. A batch norm in it uses its running statistics. */
#ifndef IBOT_TRAINER_EVAL_PROTOTYPES_H
#define IBOT_TRAINER_EVAL_PROTOTYPES_H

#include "trainer/backend.h"
#include "trainer/weights/weight_selection.h"

struct prototypes; /* opaque: the head and its planned memory */

/* The head for [CLS] tokens among the tensors of the selection, for features of `width`. relu: its
 * activation, which no tensor tells, is ReLU and not GELU. Errors: STATUS_MISMATCH (no head: which
 * tensor is missing; another width), those of weight_file_read_f32, STATUS_NO_MEMORY. */
enum status prototypes_open(struct prototypes **out, struct backend *backend,
                            const struct weight_selection *selection, int32_t width,
                            bool relu) IBOT_WARN_UNUSED;
int32_t prototypes_count(const struct prototypes *prototypes);

/* features [n, width], host memory, as they leave the backbone; cluster [n] out. */
enum status prototypes_assign(struct prototypes *prototypes, const float *features, int64_t n,
                              int32_t *cluster) IBOT_WARN_UNUSED;
void prototypes_close(struct prototypes **prototypes);

#endif
