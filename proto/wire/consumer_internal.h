/* The parts of a consumer, for consumer*.c alone.
 *
 *   consumer.c         what the caller sees: open, next, return, …
 *   consumer_thread.c  the thread: sockets, loaders, leases
 *   consumer_slot.c    slots: places for batches, filled from slices
 *
 * A slot goes round: free ─> making (it has a step; slices arrive) ─> ready ─> the caller ─> free.
 */
#ifndef IBOT_PROTO_WIRE_CONSUMER_INTERNAL_H
#define IBOT_PROTO_WIRE_CONSUMER_INTERNAL_H

#include <pthread.h>
#include <stdint.h>
#include <zmq.h>

#include "proto/wire/auth.h"
#include "proto/wire/consumer.h"
#include "proto/wire/message.h"
#include "proto/wire/refusals.h"
#include "proto/wire/session.h"
#include "proto/wire/socket.h"
#include "proto/wire/socket_monitor.h"
#include "proto/wire/strangers.h"

enum {
    CONSUMER_PENDING_REPORTS = 256, /* bad images that wait for the caller */
    CONSUMER_SEEN_REPORTS = 1024,   /* bad images remembered as reported */
    CONSUMER_BANNED = 64,           /* instances remembered as refused for what they did */
    CONSUMER_MAX_STRIKES = 3,       /* corrupt slices before a loader is refused */
    CONSUMER_MAX_FAILURES = 3,      /* of one slice, or of a loader in a row */
    CONSUMER_ADDRESS_BYTES = 64,
};

/* Who is at the other end of a connection, as ZeroMQ knows it. */
struct sender {
    char address[CONSUMER_ADDRESS_BYTES];
    bool has_key; /* it came in with one */
    struct key key;
};

/* A place for one batch. */
struct slot {
    struct batch batch;
    uint8_t *memory;       /* of options.alloc: globals, locals, masks */
    uint64_t *hashes;      /* [B] of the image records */
    uint8_t *failures;     /* [slices per batch] that loaders reported */
    int32_t n_slices_left; /* to arrive */
};

/* A connected loader that was accepted; its place in the array is its number in the session. */
struct peer {
    bool used;
    uint8_t n_routing;
    uint8_t routing[255]; /* ZeroMQ's name for the connection */
    uint64_t session; /* of this acquaintance: what is said under another one is old, or replayed */
    uint64_t instance;
    uint32_t attempt;
    int64_t heard_ns;
    int32_t n_strikes, n_failures;
    int32_t credit, n_threads;
    uint64_t n_slices, n_images; /* accepted from it */
    char name[MESSAGE_NAME_BYTES];
    struct sender sender;
};

struct ban {
    uint64_t instance;
    char reason[MESSAGE_REASON_BYTES];
};

/* What is being received: filled by the thread, one at a time. */
struct received {
    uint8_t n_routing;
    uint8_t routing[255];
    bool more; /* frames are left */
    struct message message;
    struct sender sender; /* of introductions, farewells and what is no message */
};

struct consumer {
    /* immutable after open */
    struct consumer_options options;
    uint64_t session_id; /* random; what those are told under who are not accepted */
    uint64_t spec_digest;
    char endpoints[CONSUMER_MAX_ENDPOINTS][SOCKET_ENDPOINT_BYTES];
    int32_t n_slots, slices_per_batch;
    size_t record_bytes;
    int wake; /* eventfd: the thread has something to look at */
    pthread_t thread;
    bool thread_started;
    void *context, *socket; /* the socket is the thread's once it runs, as the next one */
    struct socket_monitor monitor;
    struct auth *auth; /* NULL: no keys; locks itself */

    /* caller only */
    struct slot *slots; /* [n_slots], made by consumer_dataset */

    /* thread only */
    struct session *session;
    struct peer *peers; /* [SESSION_MAX_LOADERS], of which the first n_peers were ever used */
    int32_t n_peers;
    struct strangers strangers;
    struct ban bans[CONSUMER_BANNED];
    uint32_t n_bans;
    struct slot **making;                       /* [n_slots], of step s at s mod n_slots */
    int64_t assign_step, ready_step, last_step; /* next to get a slot, next to be ready, end */
    bool leasing, finished, failed;
    int64_t failed_step; /* the stream ends before it; INT64_MAX: no such step */
    char failure[MESSAGE_REASON_BYTES];
    struct dataset_info thread_dataset; /* n_samples 0: not known yet */
    uint64_t self_test;
    int64_t spoke_ns;     /* when Alive went out last */
    int64_t described_ns; /* when somebody was told how the stream stands */
    uint32_t auth_generation;
    uint64_t n_joined; /* loaders, ever */
    struct {
        int32_t epoch;
        uint32_t index;
    } seen[CONSUMER_SEEN_REPORTS]; /* ring */
    uint32_t n_seen;
    struct received in;
    struct message out;
    struct lease_pair {
        int32_t loader;
        uint64_t slice;
    } * pairs; /* [window] leases on their way out */

    /* guarded by lock */
    pthread_mutex_t lock;
    pthread_cond_t changed; /* dataset, ready, error */
    bool stop, start;
    int64_t start_step, end_step, steps_per_epoch;
    bool dataset_known;
    struct dataset_info dataset;
    struct slot **ready, **free; /* [n_slots]; ready is in order */
    int32_t n_ready, n_free;
    enum status error; /* why there is nothing more after what is ready; STATUS_CLOSED: all done */
    char error_text[MESSAGE_REASON_BYTES];
    struct bad_image *reports; /* ring */
    uint32_t first_report, n_reports;
    struct refusals refusals;
    char last_refusal[REFUSAL_TEXT_BYTES];
    struct consumer_stats stats;
};

/* ---- consumer_slot.c ---- */

/* Makes the slots; the caller's thread, lock not held. Errors: STATUS_NO_MEMORY, or the caller's
 * allocator's. */
enum status consumer_make_slots(struct consumer *consumer) IBOT_WARN_UNUSED;
void consumer_free_slots(struct consumer *consumer);

/* What slice j of a step consists of; n_samples 0: the batch is too short to have it. */
struct lease_item consumer_slice_of(const struct consumer *consumer, uint64_t slice_id);

/* Gives the step a slot: sizes and counts. */
void consumer_slot_begin(struct consumer *consumer, struct slot *slot, int64_t step);

/* Puts image record i (in the batch) into its places. */
void consumer_slot_put(const struct consumer *consumer, struct slot *slot, int32_t i,
                       const uint8_t *record);

/* A bad image that the slice from sample `first` on has met. */
void consumer_slot_note(struct slot *slot, int32_t first, const struct bad_image *image);

/* Every slice is in: the digest; bad images in the order of the samples. */
void consumer_slot_end(struct slot *slot);

/* ---- consumer_receive.c ---- */

/* Takes one message from the socket, if there is one; false when there is none. */
bool consumer_receive(struct consumer *consumer, int64_t now_ns);

/* Forgets a loader and frees its leases. */
void consumer_forget(struct consumer *consumer, int32_t loader);

/* Counts and keeps why this loader is turned away. */
void consumer_note_refusal(struct consumer *consumer, const struct sender *sender, const char *name,
                           const char *reason);

/* Sends consumer->out to a connection, never waiting. STATUS_OK, STATUS_CLOSED (it is gone) or
 * STATUS_TIMEOUT (its queue is full); no text. */
enum status consumer_send(struct consumer *consumer, const uint8_t *routing, size_t n_routing);

/* ---- consumer_status.c ---- */

/* Fills consumer->out with how the stream stands; false when that was told a moment ago. */
bool consumer_describe(struct consumer *consumer, int64_t now_ns);

/* ---- consumer_thread.c ---- */

void *consumer_thread(void *consumer);

#endif
