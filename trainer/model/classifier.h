/* A classifier that is trained as a whole: backbone, pooling, perhaps the first layers of the
 * projection head, a linear layer; its loss, gradient and update. One definition for every backend,
 * as ibot.h.
 *
 *   pixels ─ patches ─ (erase, mix) ─ backbone ─ pooling ─ (head layers) ─ linear ─> logits [B, K]
 *
 * Or a classifier of every pixel, dense, for semantic segmentation: what several blocks of a ViT
 * leave of each patch, side by side, goes through the linear layer; its logits, a map, are scaled
 * up to the pixels of a map of labels (ops/dense_cross_entropy.h).
 *
 *   pixels ─ patches ─ backbone ─ taps [B*N, n_taps*D] ─ linear ─> logits [B*N, K]
 *
 * With the UPerNet decoder (upernet.h) between taps and linear layer the map has a fourth of the
 * patch's side; beside its loss that of an auxiliary head counts, 0.4 times.
 *
 *   classifier_open ─> classifier_initialise, state loaded through classifier_state
 *   per step:   classifier_zero_gradients ─> classifier_accumulate (each micro-batch)
 *               ─> classifier_update ─> classifier_result
 *   between:    classifier_evaluate; of a dense one classifier_map
 *
 * Or another decoder's (decoder.h) losses stand behind the taps.
 *
 * The learning rate falls towards the input: that of a parameter is multiplied by
 * layer_decay^(depth + 1 - layer), its layer being 0 for tokens, positions and the patch embedding,
 * i + 1 for block i (of a Swin: counted over its stages; merging belongs to the block before it),
 * depth + 1 for what follows. Source: Bao et al. 2022 (BEiT), and the spec of the original. */
#ifndef IBOT_TRAINER_MODEL_CLASSIFIER_H
#define IBOT_TRAINER_MODEL_CLASSIFIER_H

#include "ops/op_table.h"
#include "trainer/model/ibot.h"

/* CLS: the [CLS] token after the final norm. MEAN: the mean of the patch tokens, not normed, and a
 * norm of its own. Of a Swin both are the mean of the normed tokens. */
enum classifier_pooling { POOLING_CLS, POOLING_MEAN };

struct classifier_decoder;

enum { CLASSIFIER_MAX_TAPS = 8 };

/* A dense classifier, in place of pooling and head. */
struct classifier_taps {
    int32_t n;                           /* 0: the classifier is not dense */
    int32_t blocks[CLASSIFIER_MAX_TAPS]; /* rising, counted from 0; it ends with the last block */
    bool normed;                         /* each through the final norm of the backbone */
    bool upernet;                        /* four of them, which that decoder takes */
    /* in the place of the linear layer, borrowed (decoder.h): it has the loss; NULL: none */
    const struct classifier_decoder *decoder;
    bool measures; /* nothing is trained: there is evaluation alone */
    float
        dropout; /* with it: rate at which channels of what is classified are dropped, 0 <= r < 1 */
};

struct classifier_options {
    /* image_size_px: of the stored positions (of a Swin: what windows are chosen for) */
    struct backbone_options backbone;
    int32_t image_size_px; /* of the images */
    enum classifier_pooling pooling;
    struct classifier_taps taps;
    bool frozen; /* the backbone stays as it is: of a dense classifier without average */
    /* 1, 2: so many hidden layers of the head stand between pooling and classifier; 3: all of it,
     * its logits of [CLS] are what is classified; 0: none */
    int32_t n_head_layers;
    struct head_options head; /* n_layers: as n_head_layers, 0 for 3; shared_student */
    int32_t n_classes;
    int32_t batch_size;         /* images of a micro-batch */
    int32_t accumulation_steps; /* micro-batches of a step */
    float init_scale;           /* of the classifier's first weights */
    float layer_decay;          /* 1: none */
    float smoothing;            /* of the targets */
    bool average;               /* keep a moving average of the weights */
    enum ibot_precision precision;
    bool gelu_tanh;
    enum recompute recompute;
    bool skip_dropped; /* of a ViT: as in ibot.h */
    /* Ranks that train together, each with batches of its own: borrowed; NULL: this one alone. */
    struct collective *ranks;
};

/* One micro-batch, of this rank. */
struct classifier_input {
    struct tensor pixels;      /* device memory: [B, S, S, 3] u8, or [B, 3, S, S] f32 normalised */
    const int32_t *labels;     /* host [B] */
    const uint8_t *label_maps; /* dense, in their place: host [B, S, S], below K or DENSE_IGNORED;
                                  with a decoder nothing, and pixels of any size that classifier_map
                                  takes */
    const struct pixel_box *erase; /* host [B], or NULL: nothing is erased */
    const struct patch_mix *mix;   /* NULL: nothing is mixed */
    float label_share;  /* of an image's own label; the rest is its partner's. 1 unmixed */
    uint64_t keep_seed; /* stochastic depth, as in ibot_input, */
    int64_t step, first_sample, sample_stride;
};

/* What one update measured, on the host: of this rank's images; the norm is that of all ranks. */
struct classifier_result {
    double loss;          /* mean over images (dense: all pixels), of the targets as they were; with
                             the auxiliary one's share */
    int64_t n, top1;      /* images (pixels); those whose own label came first */
    double gradient_norm; /* of all gradients together, before clipping */
};

struct classifier_score {
    int64_t n, top1, top5;
    double loss; /* sum, of the plain cross-entropy */
};

struct classifier; /* opaque */

/* Is it dense; is the mean of a ViT's tokens normed after pooling; does nothing go through the
 * backbone's final norm? Width of what is classified. */
bool classifier_is_dense(const struct classifier_options *options);
int32_t classifier_map_scale(const struct classifier_options *options); /* 1; UPerNet 4 */
bool classifier_norms_mean(const struct classifier_options *options);
bool classifier_without_norm(const struct classifier_options *options);
int64_t classifier_width(const struct classifier_options *options);

/* Layer of a parameter, 0 .. depth + 1, and the factor of its learning rate. */
int32_t classifier_layer(const struct backbone_options *backbone, const char *name);
double classifier_lr_scale(const struct classifier_options *options, const char *name);

/* Errors: STATUS_INVALID names what contradicts, STATUS_NO_MEMORY. */
enum status classifier_open(struct classifier **out, struct device *device,
                            const struct op_table *ops,
                            const struct classifier_options *options) IBOT_WARN_UNUSED;

/* All weights drawn from Philox, keyed by (seed, parameter number); zero moments; the average is
 * the weights. To be followed by weights of the backbone and classifier_state_written. */
enum status classifier_initialise(struct classifier *classifier, uint64_t seed) IBOT_WARN_UNUSED;

/* "model.backbone.…", "model.head.weight", …; "moment1.…", "moment2.…"; "average.…". */
size_t classifier_n_state(const struct classifier *classifier);
void classifier_state(const struct classifier *classifier, size_t i, struct ibot_state_entry *out);
/* After weights were written through these views; `fresh`: the average begins with them too. */
enum status classifier_state_written(struct classifier *classifier, bool fresh) IBOT_WARN_UNUSED;
/* Of entry i of those parameters that are trained (frozen: those behind the backbone). */
struct tensor classifier_gradient(const struct classifier *classifier, size_t i);

enum status classifier_zero_gradients(struct classifier *classifier) IBOT_WARN_UNUSED;
enum status classifier_accumulate(struct classifier *classifier,
                                  const struct classifier_input *input,
                                  const struct step_control *control) IBOT_WARN_UNUSED;

/* Sums gradients over ranks, clips by the norm of all of them (control->clip_grad), steps AdamW,
 * moves the average by control->teacher_momentum. A step whose gradient is not finite changes
 * nothing. */
enum status classifier_update(struct classifier *classifier) IBOT_WARN_UNUSED;

/* Waits for the last update (back 0), or for the one before it alone (back 1), and reads what it
 * measured. Errors: STATUS_NOT_FINITE: the loss or the gradient is not. */
enum status classifier_result(struct classifier *classifier, int back,
                              struct classifier_result *out) IBOT_WARN_UNUSED;

/* Up to B images as they are, without stochastic depth; adds to the score. logits: host [n, K], or
 * NULL. */
enum status classifier_evaluate(struct classifier *classifier, struct tensor pixels,
                                const int32_t *labels, struct classifier_score *score,
                                float *logits) IBOT_WARN_UNUSED;

/* Dense: logits of up to B images [n, 3, H, W] f32, or [n, H, W, 3] u8, of any size with no more
 * patches than S x S px have; logits: host [n*h*w, K], h = scale * (H / patch), w = scale * (W /
 * patch), scale being that of classifier_map_scale. Errors: STATUS_INVALID (smaller than a patch,
 * with UPerNet than two; or too large). */
enum status classifier_map(struct classifier *classifier, struct tensor pixels,
                           float *logits) IBOT_WARN_UNUSED;

/* With a decoder: taps [n_taps, n*h*w, D] of up to B images, as above, without stochastic depth;
 * for as long as nothing else is computed. */
enum status classifier_taps(struct classifier *classifier, struct tensor pixels,
                            struct tensor *taps) IBOT_WARN_UNUSED;

/* Exchanges weights and average; once more brings them back, bit by bit. Not between
 * zero_gradients and update. */
enum status classifier_exchange_average(struct classifier *classifier) IBOT_WARN_UNUSED;

int64_t classifier_n_parameters(const struct classifier *classifier); /* that are trained */
size_t classifier_device_bytes(const struct classifier *classifier);
void classifier_close(struct classifier **classifier);

#endif
