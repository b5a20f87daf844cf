/* What analyses look at, of images that went through the teacher's backbone: the tokens of the last
 * block, where its [CLS] token looks, and the prototype that the head gives each token. Host memory
 * of the caller; pixels as in struct ibot_input, at most batch_size images. */
#ifndef IBOT_TRAINER_MODEL_IBOT_TOKENS_H
#define IBOT_TRAINER_MODEL_IBOT_TOKENS_H

#include "trainer/model/ibot.h"

/* NULL: not wanted. T is the number of patches + 1, [CLS] (of a Swin: the mean token) comes first.
 *   tokens    [n, T, D]  after the final norm
 *   attention [n, H, T]  row of the [CLS] token in the last block: softmax(q k^T / sqrt(Dh)) */
struct ibot_tokens {
    float *tokens, *attention;
};

/* Errors: STATUS_UNSUPPORTED (the attention of a Swin, which has no [CLS] token), STATUS_INVALID
 * (number or size of the images), STATUS_NO_MEMORY, STATUS_DEVICE. */
enum status ibot_tokens(struct ibot *ibot, struct tensor pixels,
                        const struct ibot_tokens *out) IBOT_WARN_UNUSED;

/* For every patch token [n, T - 1], or, not `patch`, every [CLS] token [n]: the prototype with the
 * greatest logit (the first of equals), and that logit. No centre, no temperature. */
struct ibot_prototypes {
    bool patch;
    int32_t *index;
    float *value;
};

/* For a model with a head (inference_head, or one that trains), without batch norm. Errors: as
 * above. */
enum status ibot_prototypes(struct ibot *ibot, struct tensor pixels,
                            const struct ibot_prototypes *out) IBOT_WARN_UNUSED;

#endif
