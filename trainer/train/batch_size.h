/* --batch_size_per_gpu auto: the largest batch that fits into an accelerator's memory. */
#ifndef IBOT_TRAINER_TRAIN_BATCH_SIZE_H
#define IBOT_TRAINER_TRAIN_BATCH_SIZE_H

#include "proto/wire/data_spec.h"
#include "trainer/backend.h"
#include "trainer/model/ibot.h"

enum { BATCH_SIZE_GRAIN = 8, BATCH_SIZE_MOST = 65536 };

struct batch_size_fit {
    int32_t batch_size;                            /* the same on all ranks */
    size_t planned_bytes, free_bytes, total_bytes; /* this rank's, for it */
};

/* The largest multiple of BATCH_SIZE_GRAIN whose plan (model and the places of two batches) leaves
 * a sixteenth of the device's memory alone: for the libraries' and ops' working memory and recorded
 * steps, which nothing plans. No buffer gets 4 GiB or more, so that 32 bits count its elements.
 * Ranks agree on the smallest. Nothing is allocated. `model.batch_size` is not read. Errors:
 * STATUS_NO_MEMORY (on all ranks, when one has no room for a batch), STATUS_DEVICE. */
enum status batch_size_choose(struct batch_size_fit *out, struct backend *backend,
                              const struct ibot_options *model,
                              const struct data_spec *spec) IBOT_WARN_UNUSED;

#endif
