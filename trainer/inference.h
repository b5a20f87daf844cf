/* A network that is looked into or measured, and never trained: any weights that --checkpoint
 * takes, in the teacher's place, and the way of pictures into it. */
#ifndef IBOT_TRAINER_INFERENCE_H
#define IBOT_TRAINER_INFERENCE_H

#include "trainer/backend_options.h"
#include "trainer/model/ibot_tokens.h"
#include "trainer/pretrained.h"

struct inference {
    struct backend *backend; /* borrowed */
    struct ibot *ibot;
    void *pixels;                      /* device: a batch of pictures; NULL until there is one */
    size_t pixels_bytes;               /* there is room for */
    int32_t batch_size, size_px;       /* of pictures, and their height */
    int32_t width_px;                  /* of pictures: size_px unless it was asked for */
    int32_t grid, cell_px;             /* patch tokens down a side, and the pixels of each */
    int32_t width;                     /* of a token */
    int32_t n_heads;                   /* of the last block; 0: there is no [CLS] token */
    int32_t n_prototypes[2];           /* of [CLS] and of patch tokens; 0 without a head */
    char weights[CHECKPOINT_MAX_PATH]; /* the file that was loaded: of a run its newest then */
};

struct inference_options {
    struct pretrained_options weights;
    int32_t batch_size;
    int32_t size_px;  /* 0: the run's global crop size */
    int32_t width_px; /* 0: squares; else size_px is the height: of a ViT */
    enum ibot_precision precision;
    bool gelu_tanh;
    bool head;         /* with the projection head */
    bool whole_tokens; /* a size that is no multiple of a token's cell is an error */
};

/* The backend that the rows of a table say, and that there are weights to be looked into. *out:
 * zeroed; the caller's to close, on failure too. Errors: STATUS_INVALID names the options, those of
 * backend_options_open. */
enum status inference_backend_open(struct backend *out, const struct pretrained_options *weights,
                                   struct backend_options *backend, struct network_options *network,
                                   const struct options *parsed) IBOT_WARN_UNUSED;

/* Of one image at a time and whole tokens; what the rows of a table say. */
struct inference_options inference_options(const struct pretrained_options *weights,
                                           const struct backend_options *backend,
                                           const struct network_options *network);

/* Loads strictly; says in the log what was loaded. Errors: those of pretrained_open and, with a
 * head, pretrained_head_options; STATUS_NOT_FOUND, STATUS_MISMATCH, STATUS_INVALID. */
enum status inference_open(struct inference *out, struct backend *backend,
                           const struct inference_options *options) IBOT_WARN_UNUSED;
/* The same of weights that are open already: `weights` of the options is not looked at. */
enum status inference_open_pretrained(struct inference *out, struct backend *backend,
                                      const struct pretrained *pretrained,
                                      const struct inference_options *options) IBOT_WARN_UNUSED;
void inference_close(struct inference *model);

/* STATUS_UNSUPPORTED, for those that want the attention of the [CLS] token, where there is none. */
enum status inference_wants_attention(const struct inference *model) IBOT_WARN_UNUSED;

/* Pictures of height x width px from now on: of a ViT, and no more patches than those that it was
 * opened for. Errors: those of ibot_reshape. */
enum status inference_reshape(struct inference *model, int32_t height_px,
                              int32_t width_px) IBOT_WARN_UNUSED;

/* Pictures of host memory, n <= batch_size, into device memory as `out`, which holds until the next
 * call: [n, size, width, 3] u8, or normalised, [n, 3, size, width] f32. */
enum status inference_upload(struct inference *model, const void *pictures, enum dtype dtype,
                             int32_t n, struct tensor *out) IBOT_WARN_UNUSED;

/* rgb [n, size, width, 3] in host memory, n <= batch_size; out as in ibot_tokens. */
enum status inference_tokens(struct inference *model, const uint8_t *rgb, int32_t n,
                             const struct ibot_tokens *out) IBOT_WARN_UNUSED;
/* The same for ibot_prototypes; of a model with a head. */
enum status inference_prototypes(struct inference *model, const uint8_t *rgb, int32_t n,
                                 const struct ibot_prototypes *out) IBOT_WARN_UNUSED;

#endif
