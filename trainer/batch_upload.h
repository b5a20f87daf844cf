/* The way of a batch into device memory. On the CPU the slot that it came in is the input itself.
 * An accelerator has two places: while it computes on one batch, the next one comes into the other.
 *
 *   batch_upload_begin(next)   queued before a step, runs beside it
 *   batch_upload_take(next)    what is queued from here on finds it there
 *   batch_upload_wait(next)    its slot may be written again
 */
#ifndef IBOT_TRAINER_BATCH_UPLOAD_H
#define IBOT_TRAINER_BATCH_UPLOAD_H

#include "ops/device.h"
#include "ops/op_table.h"
#include "proto/wire/batch.h"
#include "proto/wire/data_spec.h"
#include "trainer/model/ibot.h"

struct batch_place {
    const struct batch *batch;               /* the last that came here; NULL: none */
    uint8_t *globals, *locals, *photometric; /* device memory */
};

struct batch_upload {
    struct device *device; /* borrowed, as the next */
    const struct op_table *ops;
    struct data_spec spec;
    struct batch_place places[2]; /* as many as an accelerator has */
    int n_places;                 /* 0: the slots are the input */
    int next;                     /* place of the next upload */
    bool under_way;               /* an upload was begun and not taken */
    bool settled;                 /* and is one that what is queued from now on waits for */
};

/* keep_slots: on the CPU too, what came in a slot must not be changed there. Errors:
 * STATUS_NO_MEMORY, STATUS_DEVICE. */
enum status batch_upload_open(struct batch_upload *out, struct device *device,
                              const struct op_table *ops, const struct data_spec *spec,
                              int32_t batch_size, bool keep_slots) IBOT_WARN_UNUSED;

/* Device memory that open takes on an accelerator. */
size_t batch_upload_bytes(const struct data_spec *spec, int32_t batch_size);

enum status batch_upload_begin(struct batch_upload *upload,
                               const struct batch *batch) IBOT_WARN_UNUSED;

/* Pixels of `input`: the batch's, with their final colours. Errors: STATUS_CORRUPT (colours that
 * no loader asks for), STATUS_DEVICE. */
enum status batch_upload_take(struct batch_upload *upload, const struct batch *batch,
                              struct ibot_input *input) IBOT_WARN_UNUSED;

/* An upload under way, if there is one, comes before what is queued from here on, so that another
 * stream may begin its own. */
enum status batch_upload_settle(struct batch_upload *upload) IBOT_WARN_UNUSED;

enum status batch_upload_wait(struct batch_upload *upload,
                              const struct batch *batch) IBOT_WARN_UNUSED;

/* A batch that was taken, with its crops as the network sees them, in host memory: those of the
 * slot, or, where colours are changed outside it, copies in *memory, which the caller frees
 * (memory_free) on success and failure alike. */
enum status batch_upload_show(struct batch_upload *upload, const struct batch *batch,
                              struct batch *out, uint8_t **memory) IBOT_WARN_UNUSED;

/* Waits for what is under way. */
void batch_upload_close(struct batch_upload *upload);

#endif
