/* The loader's side of the stream: a DEALER to every endpoint it is given. It keeps no state beyond
 * the leases in its hands. Work is handed to the caller's threads and comes back through
 * producer_submit; sockets belong to the thread in producer_run.
 *
 *   loader_main: producer_open ─> producer_run (until a signal)      pool threads: make(job) ─>
 * producer_submit
 */
#ifndef IBOT_PROTO_WIRE_PRODUCER_H
#define IBOT_PROTO_WIRE_PRODUCER_H

#include <stdatomic.h>
#include <stdint.h>

#include "proto/base/status.h"
#include "proto/wire/consumer.h"

enum { PRODUCER_MAX_ENDPOINTS = 64 };

struct producer_options {
    const char *endpoints[PRODUCER_MAX_ENDPOINTS];
    int n_endpoints;
    struct dataset_info dataset; /* what this loader has */
    uint64_t self_test;          /* hash of the pixel self test: builds that differ are refused */
    int32_t credit;              /* slices in hand per consumer; 0: 2 per thread */
    int32_t n_threads;
    const char *name;             /* host:pid, for logs; borrowed */
    const struct key_pair *keys;  /* who we are on tcp; NULL: no keys. Borrowed until close */
    const struct key *server_key; /* of the consumers, with `keys`; borrowed until close */
    /* Called in producer_run's thread, some times a second; may be NULL. */
    void (*look)(void *context);
    /* Told there what becomes of each endpoint, for the log; may be NULL. */
    void (*notice)(void *context, bool good, const char *text);
};

/* One lease to fulfil. Made by the producer; a pool thread fills the result part. */
struct slice_job {
    /* lease: read only */
    const struct data_spec *spec; /* borrowed until submitted */
    int32_t consumer;             /* who wants it: place in options.endpoints */
    uint64_t slice_id;
    int32_t epoch;
    uint64_t first_position; /* positions first, first + stride, … */
    uint32_t stride;
    int32_t n_samples;
    /* result */
    enum status status; /* STATUS_OK, or the slice failed with `reason` */
    char reason[512];
    uint8_t *payload; /* [n_samples, record_bytes], memory_alloc'ed; taken by submit */
    struct batch_sample samples[SLICE_MAX_SAMPLES];
    struct bad_image *bad_images; /* memory_grow'n; taken by submit */
    size_t n_bad_images, bad_capacity;
    void *owner; /* of the producer */
};

struct producer; /* opaque */

/* make(context, job) is called in producer_run's thread for every lease: it must only queue the
 * job. */
enum status producer_open(struct producer **out, const struct producer_options *options,
                          void (*make)(void *context, struct slice_job *job),
                          void *context) IBOT_WARN_UNUSED;

/* Serves until *stop becomes non-zero (then says Goodbye and returns STATUS_INTERRUPTED), every
 * consumer has refused it (STATUS_MISMATCH, with the reason), or, with `exit_when_done`, every
 * consumer it ever reached has said that it is finished (STATUS_OK). */
enum status producer_run(struct producer *producer, const atomic_int *stop,
                         bool exit_when_done) IBOT_WARN_UNUSED;

/* Hands a finished job back; any thread. */
void producer_submit(struct producer *producer, struct slice_job *job);

struct producer_stats {
    uint64_t n_slices, n_images, n_bytes; /* sent */
    uint64_t n_failures;                  /* slices that could not be made, told to consumers */
    uint64_t n_failed_handshakes;
    int64_t hash_ns, send_ns; /* spent: hashing, and handing frames to ZeroMQ */
    int64_t alive_ns;         /* when producer_run looked around last (clock_monotonic_ns) */
    int32_t n_endpoints, n_consumers, n_leases, n_waiting; /* that wait to be sent */
    bool serving[PRODUCER_MAX_ENDPOINTS];                  /* each endpoint */
};

/* Any thread. */
const char *producer_endpoint(const struct producer *producer, int i);
void producer_stats(struct producer *producer, struct producer_stats *out);

void producer_close(struct producer **producer);

#endif
