/* The network that is looked into: any weights that --checkpoint takes, in the teacher's place, and
 * the way of pictures into it. */
#ifndef IBOT_TRAINER_ANALYSIS_ANALYSIS_MODEL_H
#define IBOT_TRAINER_ANALYSIS_ANALYSIS_MODEL_H

#include "trainer/backend_options.h"
#include "trainer/model/ibot_tokens.h"
#include "trainer/pretrained.h"

struct analysis_model {
    struct backend *backend; /* borrowed */
    struct ibot *ibot;
    uint8_t *pixels;             /* device: a batch */
    int32_t batch_size, size_px; /* of pictures, squares */
    int32_t grid, cell_px;       /* patch tokens along a side, and the pixels of each */
    int32_t width;               /* of a token */
    int32_t n_heads;             /* of the last block; 0: there is no [CLS] token */
    int32_t n_prototypes[2];     /* of [CLS] and of patch tokens; 0 without a head */
};

struct analysis_model_options {
    struct pretrained_options weights;
    int32_t batch_size;
    int32_t size_px; /* 0: the run's global crop size */
    enum ibot_precision precision;
    bool gelu_tanh;
    bool head; /* with the projection head */
};

/* The backend that the rows of a table say, and that there are weights to be looked into. *out:
 * zeroed; the caller's to close, on failure too. Errors: STATUS_INVALID names the options, those of
 * backend_options_open. */
enum status analysis_backend_open(struct backend *out, const struct pretrained_options *weights,
                                  struct backend_options *backend, struct network_options *network,
                                  const struct options *parsed) IBOT_WARN_UNUSED;

/* Of one image at a time; what the rows of a table say. */
struct analysis_model_options analysis_model_options(const struct pretrained_options *weights,
                                                     const struct backend_options *backend,
                                                     const struct network_options *network);

/* Loads strictly; says in the log what was loaded. Errors: those of pretrained_open and, with a
 * head, pretrained_head_options; STATUS_MISMATCH,
 * STATUS_INVALID (a size that is no multiple of the patch). */
enum status analysis_model_open(struct analysis_model *out, struct backend *backend,
                                const struct analysis_model_options *options) IBOT_WARN_UNUSED;
void analysis_model_close(struct analysis_model *model);

/* STATUS_UNSUPPORTED, for those that want the attention of the [CLS] token, where there is none. */
enum status analysis_model_wants_attention(const struct analysis_model *model) IBOT_WARN_UNUSED;

/* rgb [n, size, size, 3] in host memory, n <= batch_size; out as in ibot_tokens. */
enum status analysis_model_tokens(struct analysis_model *model, const uint8_t *rgb, int32_t n,
                                  const struct ibot_tokens *out) IBOT_WARN_UNUSED;
/* The same for ibot_prototypes; of a model with a head. */
enum status analysis_model_prototypes(struct analysis_model *model, const uint8_t *rgb, int32_t n,
                                      const struct ibot_prototypes *out) IBOT_WARN_UNUSED;

#endif
