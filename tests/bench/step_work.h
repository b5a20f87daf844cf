/* Operations that a training step is made of, by its formula: multiplications and additions of
 * matrix products (two for each pair), with the backward counted as twice the forward, but for the
 * patch embedding, which needs no gradient of pixels. Work that is done again is not counted. */
#ifndef IBOT_TESTS_BENCH_STEP_WORK_H
#define IBOT_TESTS_BENCH_STEP_WORK_H

#include "trainer/model/ibot.h"

struct step_work {
    /* As the original does it: the head on every token of every crop, its last layer too; backward
     * through all of it but the last layer of the local crops' patches, which no loss reads. */
    double original_flop;
    /* With the head where a loss needs it: of the student on [CLS] and masked patches; of the
     * teacher the last layer on those and the rest on every token, which the centre is the mean
     * of. This is the model's work: rates and shares of the hardware's are given by it. */
    double model_flop;
    /* What this implementation does: after the attention of a ViT's last block the student goes on
     * with the rows that the loss reads alone. */
    double done_flop;
};

/* Crops, head and loss of the published recipes; the backbone and the batch are the caller's. */
struct ibot_options step_work_published(void);

/* n_masked: masked patches of the step. */
struct step_work step_work_of(const struct ibot_options *options, int64_t n_masked);

#endif
