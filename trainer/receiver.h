/* The trainer's end of the stream: a consumer, the local loaders that feed it, and the way of a
 * batch into device memory. Slots are pinned memory of the device, so that a copy can run while the
 * step before computes; on the CPU the slot itself is the input. */
#ifndef IBOT_TRAINER_RECEIVER_H
#define IBOT_TRAINER_RECEIVER_H

#include <stdatomic.h>

#include "ops/device.h"
#include "ops/op_table.h"
#include "proto/base/notify.h"
#include "proto/wire/consumer.h"
#include "proto/wire/recorder.h"
#include "trainer/batch_upload.h"
#include "trainer/loader_process.h"
#include "trainer/model/ibot.h"

struct receiver_options {
    struct data_spec spec;
    const struct op_table *ops; /* of the device, for a spec that leaves colours to the trainer */
    int32_t batch_size, slice_size, prefetch;
    int rank, world;
    bool drop_last;
    const char *listen; /* NULL: ipc, for local loaders alone */
    bool insecure;
    const char *key, *allow;  /* files: own secret key, loaders' public keys; NULL: no keys */
    const char *data, *index; /* of local loaders */
    int32_t n_loaders, loader_threads;
    uint64_t index_digest; /* of the run that is resumed; 0: any */
    atomic_int_least64_t
        *alive;            /* set to the time whenever it waits; NULL: nobody looks; borrowed */
    struct notify *notify; /* the manager of this service; NULL: none */
    const char *record;    /* folder of a recording; NULL: none; borrowed until it is closed */
    bool record_pixels;
};

struct receiver {
    struct device *device; /* borrowed */
    struct consumer *consumer;
    struct recorder *recorder;        /* NULL: nothing is recorded */
    struct recorder_options recorded; /* what it will be told at the start */
    struct loader_processes loaders;
    struct batch_upload upload;
    atomic_int_least64_t *alive;
    const atomic_int *stop; /* borrowed: non-zero ends every wait with STATUS_INTERRUPTED */
    struct notify *notify;  /* borrowed: told that we live while we wait; NULL: nobody */
    int64_t waited_ns;      /* in receiver_next, in all */
    struct batch *batch;    /* the current one */
    struct batch *ahead;    /* the next one, on its way to the device; NULL: not yet */
    char endpoint[256];
    int listens;    /* number of the endpoint for loaders started elsewhere */
    bool listening; /* whether there is one */
};

/* Binds, starts local loaders. Errors: those of key_pair_read, consumer_open and
 * loader_processes_start. */
enum status receiver_open(struct receiver *out, struct device *device,
                          const struct receiver_options *options,
                          const atomic_int *stop) IBOT_WARN_UNUSED;

/* Waits for a first loader; says so in the log while it takes long, and names those that are
 * refused. Errors: STATUS_MISMATCH (local loaders alone were to come, and one was refused),
 * STATUS_CLOSED (all local loaders ended), STATUS_INTERRUPTED. */
enum status receiver_dataset(struct receiver *receiver, struct dataset_info *out) IBOT_WARN_UNUSED;

/* Begins the stream at batch `step` of the run, and its recording. After receiver_dataset. Errors:
 * those of consumer_start and recorder_open. */
enum status receiver_start(struct receiver *receiver, int64_t step,
                           int32_t n_epochs) IBOT_WARN_UNUSED;

/* The next batch in order, borrowed until the next call; pixels (in device memory) and masks of
 * `input` are set. Killed local loaders are started again here. Errors: as above, and STATUS_CLOSED
 * at the end of the stream. */
enum status receiver_next(struct receiver *receiver, struct batch **batch,
                          struct ibot_input *input) IBOT_WARN_UNUSED;

/* Before another receiver of the same device is used: what this one has under way is put in order.
 */
enum status receiver_settle(struct receiver *receiver) IBOT_WARN_UNUSED;

/* The current batch with its crops as the network sees them, in host memory: the slot's, or, where
 * colours are changed outside the slot, copies in *memory, which the caller frees (memory_free) on
 * success and failure alike. Errors: STATUS_NO_MEMORY, STATUS_DEVICE. */
enum status receiver_show(struct receiver *receiver, struct batch *out,
                          uint8_t **memory) IBOT_WARN_UNUSED;

/* Loaders connected now. */
int32_t receiver_loaders(const struct receiver *receiver);

/* The current batch is done with; waits until all batches so far are in the recording. Before a
 * checkpoint: what comes before it is not consumed again. */
void receiver_sync(struct receiver *receiver);

void receiver_close(struct receiver *receiver);

#endif
