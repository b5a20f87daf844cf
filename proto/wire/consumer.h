/* The consumer's side of the stream: binds a ROUTER, leases slices to whatever loaders connect,
 * re-issues the leases of loaders that vanish or are late, drops late copies, checks hashes and
 * hands batches on in order, exactly once. A thread of its own ("consumer") does the work; the
 * caller sees an ordered sequence of batches.
 *
 *   consumer_open ─> consumer_dataset (waits for a first loader) ─> consumer_start(epoch, step)
 *      ─> consumer_next / consumer_return … ─> consumer_close
 */
#ifndef IBOT_PROTO_WIRE_CONSUMER_H
#define IBOT_PROTO_WIRE_CONSUMER_H

#include <stddef.h>
#include <stdint.h>

#include "proto/base/status.h"
#include "proto/wire/batch.h"
#include "proto/wire/key.h"

enum { CONSUMER_MAX_ENDPOINTS = 8 };

struct consumer_options {
    const char
        *endpoints[CONSUMER_MAX_ENDPOINTS]; /* tcp://host:port (port 0 or *: any), ipc://path */
    int n_endpoints;
    bool insecure;               /* allow a plain bind to a non-loopback address */
    const struct key_pair *keys; /* tcp is encrypted, open to `allow` alone; NULL: plain; copied */
    const char *allow; /* file of loaders' public keys, with `keys`; borrowed until close */
    struct data_spec spec;
    int32_t batch_size;       /* B: images of this rank's batch */
    int32_t slice_size;       /* images per lease; 0: 16 */
    int32_t prefetch;         /* batches ready or in the making beyond the current one; 0: 4 */
    int rank, world;          /* this rank takes positions rank, rank + world, … */
    bool drop_last;           /* training: only whole batches */
    int64_t lease_timeout_ns; /* a lease older than this is re-issued; 0: 10 s */
    uint64_t index_digest;    /* the data set that loaders must have; 0: the first loader's */
    /* Where batch slots live; NULL: plain memory. Called at consumer_dataset and close only. */
    enum status (*alloc)(void *context, void **out, size_t bytes);
    void (*free)(void *context, void *pointer);
    void *alloc_context;
};

/* What the loaders have, learnt from the first accepted one. */
struct dataset_info {
    uint64_t index_digest;
    uint64_t n_samples;
    int32_t n_classes;
};

struct consumer_stats {
    uint64_t n_batches, n_slices, n_images, n_bytes; /* handed on; accepted */
    uint64_t n_leased;                               /* slices, in all: again ones too */
    uint64_t n_reissued, n_duplicates, n_corrupt, n_rejected_loaders;
    uint64_t n_bad_images, n_bad_of[BAD_IMAGE_KINDS]; /* reported; of each kind */
    uint64_t n_repaired; /* images that were damaged and are used all the same */
    uint64_t n_refused_keys, n_failed_handshakes; /* connections that never came to be */
    uint64_t n_unheard;                           /* messages of strangers who said too much */
    int32_t n_loaders, n_leases_out, n_batches_ready, n_batches_max;
    int64_t waited_ns; /* in consumer_next, in all */
    int64_t alive_ns;  /* when the thread looked around last (clock_monotonic_ns) */
    bool finished;     /* every epoch is made */
};

struct consumer; /* opaque: threads and sockets */

/* Binds and starts the thread; loaders may connect from now on. Errors: STATUS_INVALID (spec,
 * endpoint, plain public bind), STATUS_IO (address in use: named), those of auth_open. */
enum status consumer_open(struct consumer **out,
                          const struct consumer_options *options) IBOT_WARN_UNUSED;

/* The bound address of endpoint i, with the real port. Borrowed until close. */
const char *consumer_endpoint(const struct consumer *consumer, int i);

/* Waits for a first accepted loader. Errors: STATUS_TIMEOUT, STATUS_MISMATCH (a loader was refused
 * and none accepted: the text has the reason). */
enum status consumer_dataset(struct consumer *consumer, struct dataset_info *out,
                             int64_t deadline_ns) IBOT_WARN_UNUSED;

/* After consumer_dataset: the same, and the hash of the loaders' pixel self test. */
void consumer_known_dataset(struct consumer *consumer, struct dataset_info *out,
                            uint64_t *self_test);

/* Starts leasing at step `step` of the run, which is batch (step mod steps_per_epoch) of epoch
 * step / steps_per_epoch; stops after n_epochs. steps per epoch: ceil(n/world)/B, floor with
 * drop_last. Once, after consumer_dataset. */
enum status consumer_start(struct consumer *consumer, int64_t step,
                           int32_t n_epochs) IBOT_WARN_UNUSED;
int64_t consumer_steps_per_epoch(const struct consumer *consumer);

/* The next batch in order; borrowed until consumer_return. Errors: STATUS_TIMEOUT (try again),
 * STATUS_CLOSED (all epochs done), STATUS_CORRUPT (policy fail met a bad image), STATUS_IO. */
enum status consumer_next(struct consumer *consumer, struct batch **out,
                          int64_t deadline_ns) IBOT_WARN_UNUSED;
void consumer_return(struct consumer *consumer, struct batch *batch);

/* Takes one bad-image report, oldest first; false when there is none. Each (epoch, index) is
 * reported once; reports that nobody takes are dropped beyond some hundreds, but counted. */
bool consumer_bad_image(struct consumer *consumer, struct bad_image *out);

/* Takes one text about a loader that was refused (or went, with a reason), oldest first, with its
 * address; no more of them than a log can bear (refusals.h). False when there is none. */
bool consumer_refusal(struct consumer *consumer, char *out, size_t out_bytes);

void consumer_stats(struct consumer *consumer, struct consumer_stats *out);

/* Stops the thread and frees everything. Takes the address and nulls it. */
void consumer_close(struct consumer **consumer);

#endif
