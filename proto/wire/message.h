/* The messages of stream.proto as plain structs: packed, and unpacked with every limit checked.
 *
 * Unpacking is where foreign bytes come in. The frame's length is capped before protobuf sees it,
 * what protobuf allocates comes out of a fixed budget, every count and number is held to the limits
 * below, and texts lose their control characters, so that a log shows them as they are. What comes
 * out needs no further distrust, except for what only the receiver knows (which leases, whose). */
#ifndef IBOT_PROTO_WIRE_MESSAGE_H
#define IBOT_PROTO_WIRE_MESSAGE_H

#include <stddef.h>
#include <stdint.h>

#include "proto/base/status.h"
#include "proto/wire/batch.h"
#include "proto/wire/data_spec.h"

enum {
    WIRE_VERSION = 1,
    RECORDING_VERSION = 1,
    MESSAGE_MAX_BYTES = 64 << 10,     /* of a first frame */
    MESSAGE_BUDGET_BYTES = 512 << 10, /* that protobuf may allocate for one message */
    MESSAGE_MAX_LEASES = 256,         /* in one Lease; also the largest credit */
    MESSAGE_MAX_BAD_IMAGES = 64,      /* in one Slice */
    MESSAGE_NAME_BYTES = 64,
    STATUS_MAX_LOADERS = 64, /* in one Status */
    MESSAGE_REASON_BYTES = 512,
};

enum message_kind {
    MESSAGE_HELLO = 1, /* the field numbers of StreamMessage */
    MESSAGE_SPEC,
    MESSAGE_REJECT,
    MESSAGE_LEASE,
    MESSAGE_SLICE,
    MESSAGE_FAILURE,
    MESSAGE_ALIVE,
    MESSAGE_HELLO_WANTED,
    MESSAGE_FINISHED,
    MESSAGE_GOODBYE,
    MESSAGE_RECORDING,     /* only in files */
    MESSAGE_STATUS_WANTED, /* from anybody */
    MESSAGE_STATUS,
};

struct message_hello {
    uint32_t version; /* when it is not WIRE_VERSION, only this field is set */
    uint64_t instance;
    uint32_t attempt;
    uint64_t self_test, index_digest, n_samples;
    int32_t n_classes, credit, n_threads;
    char name[MESSAGE_NAME_BYTES];
};

struct message_spec {
    uint64_t digest; /* equal to data_spec_digest(&data_spec): checked */
    uint32_t attempt;
    struct data_spec data_spec;
};

struct message_reject {
    uint32_t version;
    char reason[MESSAGE_REASON_BYTES];
};

struct lease_item {
    uint64_t slice_id;
    int32_t epoch;
    uint64_t first_position;
    uint32_t stride;
    int32_t n_samples; /* 1..SLICE_MAX_SAMPLES */
};

struct message_lease {
    int32_t n_items; /* 1..MESSAGE_MAX_LEASES */
    struct lease_item items[MESSAGE_MAX_LEASES];
};

struct message_slice {
    struct lease_item lease;
    uint64_t spec_digest;
    uint32_t index[SLICE_MAX_SAMPLES];
    int32_t label[SLICE_MAX_SAMPLES];
    uint32_t n_substituted[SLICE_MAX_SAMPLES];
    uint32_t n_repaired[SLICE_MAX_SAMPLES];
    uint64_t hash[SLICE_MAX_SAMPLES]; /* hash_bytes of each image record */
    int32_t n_bad_images;             /* 0..MESSAGE_MAX_BAD_IMAGES */
    struct bad_image bad_images[MESSAGE_MAX_BAD_IMAGES];
};

struct message_failure {
    uint64_t slice_id;
    char reason[MESSAGE_REASON_BYTES];
};

struct message_goodbye {
    char reason[MESSAGE_REASON_BYTES]; /* "": in good order */
};

/* stream.proto has the meaning; recording.h what becomes of it. */
struct message_recording {
    uint32_t version; /* when it is not RECORDING_VERSION, only this field is set */
    bool pixels;
    int32_t rank, world;
    int32_t batch_size, slice_size;
    int64_t steps_per_epoch, first_step;
    uint64_t index_digest, n_samples;
    int32_t n_classes;
    uint64_t self_test;
    uint64_t spec_digest; /* equal to data_spec_digest(&data_spec): checked */
    struct data_spec data_spec;
    int64_t started_s;
    char name[MESSAGE_NAME_BYTES];
};

struct status_loader {
    char name[MESSAGE_NAME_BYTES];
    int32_t n_threads, credit, n_leases, n_strikes;
    uint64_t n_slices, n_images;
    uint32_t silent_ms;
};

/* stream.proto has the meaning. */
struct message_status {
    bool has_stream;
    struct message_recording stream;
    int64_t end_step, time_ns, waited_ns;
    uint64_t n_batches, n_slices, n_images, n_bytes;
    uint64_t n_reissued, n_duplicates, n_corrupt, n_refused, n_bad_images, n_repaired;
    int32_t n_slots, n_ready, n_leases, n_loaders;
    int32_t n_listed; /* 0..STATUS_MAX_LOADERS */
    struct status_loader loaders[STATUS_MAX_LOADERS];
};

/* About 45 KiB: keep it in a struct of yours rather than on the stack. */
struct message {
    enum message_kind kind;
    uint64_t session; /* 0 in Hello */
    union {
        struct message_hello hello;
        struct message_spec spec;
        struct message_reject reject;
        struct message_lease lease;
        struct message_slice slice;
        struct message_failure failure;
        struct message_goodbye goodbye;
        struct message_recording recording;
        struct message_status status;
    };
};

/* The message as the bytes of a first frame; returns their number. Values must be within the limits
 * above: they are ours. */
size_t message_pack(const struct message *message, uint8_t out[MESSAGE_MAX_BYTES]);

/* Any bytes. Errors: STATUS_CORRUPT (no message, or one beyond the limits), STATUS_INVALID (a Spec
 * that this build does not accept: data_spec_check's text; kind and session are set). *out is
 * undefined otherwise. */
enum status message_unpack(struct message *out, const void *bytes, size_t n_bytes) IBOT_WARN_UNUSED;

/* Copies a text, cut to fit, with '?' for control characters. */
void message_copy_text(char *out, size_t out_bytes, const void *text, size_t n_bytes);

#endif
