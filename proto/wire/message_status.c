/* How a stream stands, to and from protobuf. */
#include <string.h>

#include "proto/wire/message_internal.h"

enum { MAX_COUNT = 1 << 30 }; /* of slots, leases, loaders, … */

static void loader_to_protobuf(Ibot__Status__Loader *out, const struct status_loader *loader)
{
    ibot__status__loader__init(out);
    out->name = (ProtobufCBinaryData){.len = strlen(loader->name),
                                      .data = (uint8_t *)(uintptr_t)loader->name};
    out->n_threads = (uint32_t)loader->n_threads;
    out->credit = (uint32_t)loader->credit;
    out->n_leases = (uint32_t)loader->n_leases;
    out->n_slices = loader->n_slices;
    out->n_images = loader->n_images;
    out->n_strikes = (uint32_t)loader->n_strikes;
    out->silent_ms = loader->silent_ms;
}

size_t status_pack(uint64_t session, const struct message_status *status, uint8_t *out)
{
    Ibot__StreamMessage envelope = IBOT__STREAM_MESSAGE__INIT;
    Ibot__Status body = IBOT__STATUS__INIT;
    Ibot__Status__Loader loaders[STATUS_MAX_LOADERS], *pointers[STATUS_MAX_LOADERS];
    Ibot__Recording stream;
    struct spec_parts parts;

    CHECK(status->n_listed >= 0 && status->n_listed <= STATUS_MAX_LOADERS);
    body.session = session;
    if (status->has_stream) {
        recording_to_protobuf(&stream, &parts, session, &status->stream);
        body.stream = &stream;
    }
    body.end_step = (uint64_t)status->end_step;
    body.time_ns = (uint64_t)status->time_ns;
    body.waited_ns = (uint64_t)status->waited_ns;
    body.n_batches = status->n_batches;
    body.n_slices = status->n_slices;
    body.n_images = status->n_images;
    body.n_bytes = status->n_bytes;
    body.n_reissued = status->n_reissued;
    body.n_duplicates = status->n_duplicates;
    body.n_corrupt = status->n_corrupt;
    body.n_refused = status->n_refused;
    body.n_bad_images = status->n_bad_images;
    body.n_repaired = status->n_repaired;
    body.n_slots = (uint32_t)status->n_slots;
    body.n_ready = (uint32_t)status->n_ready;
    body.n_leases = (uint32_t)status->n_leases;
    body.n_connected = (uint32_t)status->n_loaders;
    for (int32_t i = 0; i < status->n_listed; i++) {
        loader_to_protobuf(&loaders[i], &status->loaders[i]);
        pointers[i] = &loaders[i];
    }
    body.n_loaders = (size_t)status->n_listed;
    body.loaders = pointers;
    envelope.status = &body;
    return message_pack_envelope(&envelope, out);
}

static enum status check_counts(const Ibot__Status *body)
{
    const uint64_t counts[] = {body->n_slots, body->n_ready, body->n_leases, body->n_connected};

    for (size_t i = 0; i < sizeof(counts) / sizeof(counts[0]); i++)
        if (counts[i] > MAX_COUNT)
            FAIL(STATUS_CORRUPT, "status: %llu slots, leases or loaders",
                 (unsigned long long)counts[i]);
    if (body->n_loaders > STATUS_MAX_LOADERS || body->n_loaders > body->n_connected)
        FAIL(STATUS_CORRUPT, "status: %zu loaders of %u; at most %d are listed", body->n_loaders,
             body->n_connected, STATUS_MAX_LOADERS);
    if (body->end_step > INT64_MAX || body->time_ns > INT64_MAX || body->waited_ns > INT64_MAX)
        FAIL(STATUS_CORRUPT, "status: times or steps beyond all limits");
    return STATUS_OK;
}

static enum status take_loader(struct status_loader *out, const Ibot__Status__Loader *loader)
{
    if (loader->n_threads > MAX_COUNT || loader->credit > MAX_COUNT ||
        loader->n_leases > MAX_COUNT || loader->n_strikes > MAX_COUNT)
        FAIL(STATUS_CORRUPT, "status: a loader with %u threads, %u leases of %u, %u strikes",
             loader->n_threads, loader->n_leases, loader->credit, loader->n_strikes);
    *out = (struct status_loader){
        .n_threads = (int32_t)loader->n_threads,
        .credit = (int32_t)loader->credit,
        .n_leases = (int32_t)loader->n_leases,
        .n_strikes = (int32_t)loader->n_strikes,
        .n_slices = loader->n_slices,
        .n_images = loader->n_images,
        .silent_ms = loader->silent_ms,
    };
    message_copy_text(out->name, sizeof(out->name), loader->name.data, loader->name.len);
    return STATUS_OK;
}

enum status status_unpack(struct message *out, const Ibot__Status *body)
{
    struct message_status *status = &out->status;

    out->session = body->session;
    TRY(check_counts(body));
    *status = (struct message_status){
        .has_stream = body->stream != NULL,
        .end_step = (int64_t)body->end_step,
        .time_ns = (int64_t)body->time_ns,
        .waited_ns = (int64_t)body->waited_ns,
        .n_batches = body->n_batches,
        .n_slices = body->n_slices,
        .n_images = body->n_images,
        .n_bytes = body->n_bytes,
        .n_reissued = body->n_reissued,
        .n_duplicates = body->n_duplicates,
        .n_corrupt = body->n_corrupt,
        .n_refused = body->n_refused,
        .n_bad_images = body->n_bad_images,
        .n_repaired = body->n_repaired,
        .n_slots = (int32_t)body->n_slots,
        .n_ready = (int32_t)body->n_ready,
        .n_leases = (int32_t)body->n_leases,
        .n_loaders = (int32_t)body->n_connected,
        .n_listed = (int32_t)body->n_loaders,
    };
    if (body->stream != NULL) {
        TRY(recording_unpack(&status->stream, body->stream));
        if (status->stream.version != RECORDING_VERSION)
            FAIL(STATUS_INVALID, "status: a stream of version %u; this program knows version %d",
                 status->stream.version, RECORDING_VERSION);
    }
    for (int32_t i = 0; i < status->n_listed; i++)
        TRY(take_loader(&status->loaders[i], body->loaders[i]));
    return STATUS_OK;
}
