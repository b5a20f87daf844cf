/* Messages to and from the bytes of a first frame. */
#include "proto/wire/message.h"

#include <stdlib.h>
#include <string.h>

#include "proto/wire/message_internal.h"

void message_copy_text(char *out, size_t out_bytes, const void *text, size_t n_bytes)
{
    const unsigned char *in = text;
    size_t n = n_bytes < out_bytes - 1 ? n_bytes : out_bytes - 1;

    for (size_t i = 0; i < n; i++)
        out[i] = (char)(in[i] < 0x20 || in[i] == 0x7f ? '?' : in[i]);
    out[n] = '\0';
}

/* ---- pack ---- */

static ProtobufCBinaryData text_out(const char *text)
{
    return (ProtobufCBinaryData){.len = strlen(text), .data = (uint8_t *)(uintptr_t)text};
}

size_t message_pack_envelope(const Ibot__StreamMessage *envelope, uint8_t *out)
{
    size_t n_bytes = ibot__stream_message__get_packed_size(envelope);

    CHECK(n_bytes <= MESSAGE_MAX_BYTES, "a message of %zu bytes", n_bytes);
    return ibot__stream_message__pack(envelope, out);
}

static size_t pack_hello(const struct message_hello *hello, uint8_t *out)
{
    Ibot__StreamMessage envelope = IBOT__STREAM_MESSAGE__INIT;
    Ibot__Hello body = IBOT__HELLO__INIT;

    body.protocol_version = hello->version;
    body.instance = hello->instance;
    body.attempt = hello->attempt;
    body.self_test = hello->self_test;
    body.index_digest = hello->index_digest;
    body.n_samples = hello->n_samples;
    body.n_classes = (uint32_t)hello->n_classes;
    body.credit = (uint32_t)hello->credit;
    body.n_threads = (uint32_t)hello->n_threads;
    body.name = text_out(hello->name);
    envelope.hello = &body;
    return message_pack_envelope(&envelope, out);
}

static size_t pack_spec(uint64_t session, const struct message_spec *spec, uint8_t *out)
{
    Ibot__StreamMessage envelope = IBOT__STREAM_MESSAGE__INIT;
    Ibot__Spec body = IBOT__SPEC__INIT;
    struct spec_parts parts;

    spec_to_protobuf(&parts, &spec->data_spec);
    body.session = session;
    body.digest = spec->digest;
    body.data_spec = &parts.message;
    body.attempt = spec->attempt;
    envelope.spec = &body;
    return message_pack_envelope(&envelope, out);
}

static size_t pack_lease(uint64_t session, const struct message_lease *lease, uint8_t *out)
{
    Ibot__StreamMessage envelope = IBOT__STREAM_MESSAGE__INIT;
    Ibot__Lease body = IBOT__LEASE__INIT;
    Ibot__Lease__Item items[MESSAGE_MAX_LEASES], *pointers[MESSAGE_MAX_LEASES];

    CHECK(lease->n_items >= 1 && lease->n_items <= MESSAGE_MAX_LEASES);
    for (int32_t i = 0; i < lease->n_items; i++) {
        const struct lease_item *item = &lease->items[i];
        ibot__lease__item__init(&items[i]);
        items[i].slice_id = item->slice_id;
        items[i].epoch = (uint32_t)item->epoch;
        items[i].first_position = item->first_position;
        items[i].stride = item->stride;
        items[i].n_samples = (uint32_t)item->n_samples;
        pointers[i] = &items[i];
    }
    body.session = session;
    body.n_items = (size_t)lease->n_items;
    body.items = pointers;
    envelope.lease = &body;
    return message_pack_envelope(&envelope, out);
}

static size_t pack_slice(uint64_t session, const struct message_slice *slice, uint8_t *out)
{
    Ibot__StreamMessage envelope = IBOT__STREAM_MESSAGE__INIT;
    Ibot__Slice body = IBOT__SLICE__INIT;
    Ibot__BadImage images[MESSAGE_MAX_BAD_IMAGES], *pointers[MESSAGE_MAX_BAD_IMAGES];
    size_t n = (size_t)slice->lease.n_samples;
    bool substituted = false, repaired = false;

    CHECK(n >= 1 && n <= SLICE_MAX_SAMPLES);
    CHECK(slice->n_bad_images >= 0 && slice->n_bad_images <= MESSAGE_MAX_BAD_IMAGES);
    for (size_t i = 0; i < n; i++) {
        substituted |= slice->n_substituted[i] != 0;
        repaired |= slice->n_repaired[i] != 0;
    }
    for (int32_t i = 0; i < slice->n_bad_images; i++) {
        ibot__bad_image__init(&images[i]);
        images[i].epoch = (uint32_t)slice->bad_images[i].epoch;
        images[i].index = slice->bad_images[i].index;
        images[i].path = text_out(slice->bad_images[i].path);
        images[i].reason = text_out(slice->bad_images[i].reason);
        images[i].sample = (uint32_t)slice->bad_images[i].sample;
        images[i].kind = (Ibot__BadImageKind)slice->bad_images[i].kind;
        pointers[i] = &images[i];
    }
    body.session = session;
    body.slice_id = slice->lease.slice_id;
    body.epoch = (uint32_t)slice->lease.epoch;
    body.first_position = slice->lease.first_position;
    body.stride = slice->lease.stride;
    body.spec_digest = slice->spec_digest;
    body.n_index = body.n_label = body.n_hash = n;
    body.index = (uint32_t *)(uintptr_t)slice->index;
    body.label = (int32_t *)(uintptr_t)slice->label;
    body.hash = (uint64_t *)(uintptr_t)slice->hash;
    body.n_n_substituted = substituted ? n : 0;
    body.n_substituted = (uint32_t *)(uintptr_t)slice->n_substituted;
    body.n_n_repaired = repaired ? n : 0;
    body.n_repaired = (uint32_t *)(uintptr_t)slice->n_repaired;
    body.n_bad_images = (size_t)slice->n_bad_images;
    body.bad_images = pointers;
    envelope.slice = &body;
    return message_pack_envelope(&envelope, out);
}

/* Those with little in them. */
static size_t pack_short(const struct message *message, uint8_t *out)
{
    Ibot__StreamMessage envelope = IBOT__STREAM_MESSAGE__INIT;
    Ibot__Reject reject = IBOT__REJECT__INIT;
    Ibot__Failure failure = IBOT__FAILURE__INIT;
    Ibot__Alive alive = IBOT__ALIVE__INIT;
    Ibot__HelloWanted wanted = IBOT__HELLO_WANTED__INIT;
    Ibot__Finished finished = IBOT__FINISHED__INIT;
    Ibot__Goodbye goodbye = IBOT__GOODBYE__INIT;
    Ibot__StatusWanted status_wanted = IBOT__STATUS_WANTED__INIT;

    reject.session = failure.session = alive.session = message->session;
    wanted.session = finished.session = goodbye.session = message->session;
    switch (message->kind) {
    case MESSAGE_REJECT:
        reject.protocol_version = message->reject.version;
        reject.reason = text_out(message->reject.reason);
        envelope.reject = &reject;
        break;
    case MESSAGE_FAILURE:
        failure.slice_id = message->failure.slice_id;
        failure.reason = text_out(message->failure.reason);
        envelope.failure = &failure;
        break;
    case MESSAGE_ALIVE:
        envelope.alive = &alive;
        break;
    case MESSAGE_HELLO_WANTED:
        envelope.hello_wanted = &wanted;
        break;
    case MESSAGE_FINISHED:
        envelope.finished = &finished;
        break;
    case MESSAGE_GOODBYE:
        goodbye.reason = text_out(message->goodbye.reason);
        envelope.goodbye = &goodbye;
        break;
    case MESSAGE_STATUS_WANTED:
        envelope.status_wanted = &status_wanted;
        break;
    default:
        CHECK(false, "message kind %d", (int)message->kind);
    }
    return message_pack_envelope(&envelope, out);
}

size_t message_pack(const struct message *message, uint8_t out[MESSAGE_MAX_BYTES])
{
    switch (message->kind) {
    case MESSAGE_HELLO:
        return pack_hello(&message->hello, out);
    case MESSAGE_SPEC:
        return pack_spec(message->session, &message->spec, out);
    case MESSAGE_LEASE:
        return pack_lease(message->session, &message->lease, out);
    case MESSAGE_SLICE:
        return pack_slice(message->session, &message->slice, out);
    case MESSAGE_RECORDING:
        return recording_pack(message->session, &message->recording, out);
    case MESSAGE_STATUS:
        return status_pack(message->session, &message->status, out);
    default:
        return pack_short(message, out);
    }
}

/* ---- unpack ---- */

/* What is freed does not go back: the budget bounds the work as well. */
static void *budget_alloc(void *context, size_t n_bytes)
{
    size_t *left = context;

    if (n_bytes > *left)
        return NULL;
    *left -= n_bytes;
    return malloc(n_bytes > 0 ? n_bytes : 1);
}

static void budget_free(void *context, void *pointer)
{
    (void)context;
    free(pointer);
}

#define TEXT_IN(field, binary)                                                                     \
    message_copy_text((field), sizeof(field), (binary).data, (binary).len)

static enum status unpack_hello(struct message *out, const Ibot__Hello *body)
{
    struct message_hello *hello = &out->hello;

    *hello = (struct message_hello){.version = body->protocol_version};
    if (body->protocol_version != WIRE_VERSION)
        return STATUS_OK;
    if (body->credit < 1 || body->credit > MESSAGE_MAX_LEASES || body->n_classes > INT32_MAX ||
        body->n_threads > INT32_MAX)
        FAIL(STATUS_CORRUPT, "message: Hello with credit %u, %u classes, %u threads", body->credit,
             body->n_classes, body->n_threads);
    hello->instance = body->instance;
    hello->attempt = body->attempt;
    hello->self_test = body->self_test;
    hello->index_digest = body->index_digest;
    hello->n_samples = body->n_samples;
    hello->n_classes = (int32_t)body->n_classes;
    hello->credit = (int32_t)body->credit;
    hello->n_threads = (int32_t)body->n_threads;
    TEXT_IN(hello->name, body->name);
    return STATUS_OK;
}

static enum status unpack_spec(struct message *out, const Ibot__Spec *body)
{
    out->session = body->session;
    out->spec.attempt = body->attempt;
    if (body->data_spec == NULL)
        FAIL(STATUS_CORRUPT, "message: Spec without a data spec");
    TRY(spec_from_protobuf(&out->spec.data_spec, body->data_spec));
    out->spec.digest = data_spec_digest(&out->spec.data_spec);
    if (out->spec.digest != body->digest)
        FAIL(STATUS_INVALID, "data spec: its digest is %016llx here and %016llx at the sender",
             (unsigned long long)out->spec.digest, (unsigned long long)body->digest);
    return STATUS_OK;
}

static enum status unpack_item(struct lease_item *out, uint64_t slice_id, uint32_t epoch,
                               uint64_t first_position, uint32_t stride, size_t n_samples)
{
    if (epoch > INT32_MAX || first_position > INT64_MAX / 2 || stride < 1 || n_samples < 1 ||
        n_samples > SLICE_MAX_SAMPLES)
        FAIL(STATUS_CORRUPT, "message: a slice of %zu samples from position %llu by %u in epoch %u",
             n_samples, (unsigned long long)first_position, stride, epoch);
    *out = (struct lease_item){
        .slice_id = slice_id,
        .epoch = (int32_t)epoch,
        .first_position = first_position,
        .stride = stride,
        .n_samples = (int32_t)n_samples,
    };
    return STATUS_OK;
}

static enum status unpack_lease(struct message *out, const Ibot__Lease *body)
{
    out->session = body->session;
    if (body->n_items < 1 || body->n_items > MESSAGE_MAX_LEASES)
        FAIL(STATUS_CORRUPT, "message: a Lease of %zu slices", body->n_items);
    for (size_t i = 0; i < body->n_items; i++) {
        const Ibot__Lease__Item *item = body->items[i];
        TRY(unpack_item(&out->lease.items[i], item->slice_id, item->epoch, item->first_position,
                        item->stride, item->n_samples));
    }
    out->lease.n_items = (int32_t)body->n_items;
    return STATUS_OK;
}

static enum status unpack_slice(struct message *out, const Ibot__Slice *body)
{
    struct message_slice *slice = &out->slice;
    size_t n = body->n_index;

    out->session = body->session;
    TRY(unpack_item(&slice->lease, body->slice_id, body->epoch, body->first_position, body->stride,
                    n));
    if (body->n_label != n || body->n_hash != n ||
        (body->n_n_substituted != n && body->n_n_substituted != 0) ||
        (body->n_n_repaired != n && body->n_n_repaired != 0) ||
        body->n_bad_images > MESSAGE_MAX_BAD_IMAGES)
        FAIL(STATUS_CORRUPT,
             "message: a Slice of %zu samples with %zu labels, %zu hashes, %zu substitutions, %zu "
             "repairs, %zu bad images",
             n, body->n_label, body->n_hash, body->n_n_substituted, body->n_n_repaired,
             body->n_bad_images);
    slice->spec_digest = body->spec_digest;
    memcpy(slice->index, body->index, n * sizeof(slice->index[0]));
    memcpy(slice->label, body->label, n * sizeof(slice->label[0]));
    memcpy(slice->hash, body->hash, n * sizeof(slice->hash[0]));
    memset(slice->n_substituted, 0, n * sizeof(slice->n_substituted[0]));
    if (body->n_n_substituted > 0)
        memcpy(slice->n_substituted, body->n_substituted, n * sizeof(slice->n_substituted[0]));
    memset(slice->n_repaired, 0, n * sizeof(slice->n_repaired[0]));
    if (body->n_n_repaired > 0)
        memcpy(slice->n_repaired, body->n_repaired, n * sizeof(slice->n_repaired[0]));
    slice->n_bad_images = (int32_t)body->n_bad_images;
    for (size_t i = 0; i < body->n_bad_images; i++) {
        const Ibot__BadImage *image = body->bad_images[i];
        bool known = (unsigned)image->kind < BAD_IMAGE_KINDS;
        if (image->epoch > INT32_MAX || image->sample >= n)
            FAIL(STATUS_CORRUPT, "message: a bad image of epoch %u in place of sample %u of %zu",
                 image->epoch, image->sample, n);
        slice->bad_images[i].epoch = (int32_t)image->epoch;
        slice->bad_images[i].index = image->index;
        slice->bad_images[i].sample = (int32_t)image->sample;
        slice->bad_images[i].kind = known ? (enum bad_image_kind)image->kind : BAD_IMAGE_UNKNOWN;
        TEXT_IN(slice->bad_images[i].path, image->path);
        TEXT_IN(slice->bad_images[i].reason, image->reason);
    }
    return STATUS_OK;
}

/* Sets kind and session, and the body. Exactly one is there. */
static enum status unpack_body(struct message *out, const Ibot__StreamMessage *in)
{
    int n_bodies = (in->hello != NULL) + (in->spec != NULL) + (in->reject != NULL) +
                   (in->lease != NULL) + (in->slice != NULL) + (in->failure != NULL) +
                   (in->alive != NULL) + (in->hello_wanted != NULL) + (in->finished != NULL) +
                   (in->goodbye != NULL) + (in->recording != NULL) + (in->status_wanted != NULL) +
                   (in->status != NULL);

    if (n_bodies != 1 || in->payload.len != 0 || in->n_part_hash != 0)
        FAIL(STATUS_CORRUPT, "message: %d bodies, %zu bytes of payload and %zu hashes in one frame",
             n_bodies, in->payload.len, in->n_part_hash);
    out->session = 0;
    if (in->hello != NULL) {
        out->kind = MESSAGE_HELLO;
        return unpack_hello(out, in->hello);
    }
    if (in->spec != NULL) {
        out->kind = MESSAGE_SPEC;
        return unpack_spec(out, in->spec);
    }
    if (in->lease != NULL) {
        out->kind = MESSAGE_LEASE;
        return unpack_lease(out, in->lease);
    }
    if (in->slice != NULL) {
        out->kind = MESSAGE_SLICE;
        return unpack_slice(out, in->slice);
    }
    if (in->recording != NULL) {
        out->kind = MESSAGE_RECORDING;
        out->session = in->recording->session;
        return recording_unpack(&out->recording, in->recording);
    }
    if (in->status != NULL) {
        out->kind = MESSAGE_STATUS;
        return status_unpack(out, in->status);
    }
    if (in->reject != NULL) {
        out->kind = MESSAGE_REJECT;
        out->session = in->reject->session;
        out->reject.version = in->reject->protocol_version;
        TEXT_IN(out->reject.reason, in->reject->reason);
    } else if (in->failure != NULL) {
        out->kind = MESSAGE_FAILURE;
        out->session = in->failure->session;
        out->failure.slice_id = in->failure->slice_id;
        TEXT_IN(out->failure.reason, in->failure->reason);
    } else if (in->alive != NULL) {
        out->kind = MESSAGE_ALIVE;
        out->session = in->alive->session;
    } else if (in->hello_wanted != NULL) {
        out->kind = MESSAGE_HELLO_WANTED;
        out->session = in->hello_wanted->session;
    } else if (in->finished != NULL) {
        out->kind = MESSAGE_FINISHED;
        out->session = in->finished->session;
    } else if (in->status_wanted != NULL) {
        out->kind = MESSAGE_STATUS_WANTED;
    } else {
        out->kind = MESSAGE_GOODBYE;
        out->session = in->goodbye->session;
        TEXT_IN(out->goodbye.reason, in->goodbye->reason);
    }
    return STATUS_OK;
}

enum status message_unpack(struct message *out, const void *bytes, size_t n_bytes)
{
    size_t budget = MESSAGE_BUDGET_BYTES;
    ProtobufCAllocator allocator = {
        .alloc = budget_alloc, .free = budget_free, .allocator_data = &budget};

    if (n_bytes > MESSAGE_MAX_BYTES)
        FAIL(STATUS_CORRUPT, "message: a first frame of %zu bytes; at most %d are allowed", n_bytes,
             MESSAGE_MAX_BYTES);
    if (n_bytes == 0)
        FAIL(STATUS_CORRUPT, "message: an empty first frame");
    Ibot__StreamMessage *envelope =
        ibot__stream_message__unpack(&allocator, n_bytes, (const uint8_t *)bytes);
    if (envelope == NULL)
        FAIL(STATUS_CORRUPT, "message: %zu bytes that are no message of this protocol", n_bytes);
    enum status status = unpack_body(out, envelope);
    ibot__stream_message__free_unpacked(envelope, &allocator);
    return status;
}
