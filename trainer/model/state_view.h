/* The named tensors of a model, whichever model it is: what checkpoints and weight files read and
 * write. */
#ifndef IBOT_TRAINER_MODEL_STATE_VIEW_H
#define IBOT_TRAINER_MODEL_STATE_VIEW_H

#include "trainer/model/ibot.h"

struct classifier;

struct state_view {
    void *model; /* borrowed */
    size_t n;
    void (*entry)(const void *model, size_t i, struct ibot_state_entry *out);
    /* To be called when tensors have been written. */
    enum status (*written)(void *model);
};

struct state_view ibot_state_view(struct ibot *ibot);
/* Of weights written through it the average knows nothing (classifier_state_written). */
struct state_view classifier_state_view(struct classifier *classifier);
/* The same without what is not trained: the weights of a frozen backbone. */
struct state_view classifier_trained_view(struct classifier *classifier);

#endif
