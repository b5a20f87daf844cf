/* The head of a recording, to and from protobuf. */
#include "proto/wire/message_internal.h"

#include <string.h>

void recording_to_protobuf(Ibot__Recording *body, struct spec_parts *parts, uint64_t session,
                           const struct message_recording *recording)
{
    ibot__recording__init(body);
    body->version = recording->version;
    body->session = session;
    if (recording->version != RECORDING_VERSION)
        return;
    spec_to_protobuf(parts, &recording->data_spec);
    body->data_spec = &parts->message;
    body->pixels = recording->pixels;
    body->rank = (uint32_t)recording->rank;
    body->world = (uint32_t)recording->world;
    body->batch_size = (uint32_t)recording->batch_size;
    body->slice_size = (uint32_t)recording->slice_size;
    body->steps_per_epoch = (uint64_t)recording->steps_per_epoch;
    body->first_step = (uint64_t)recording->first_step;
    body->index_digest = recording->index_digest;
    body->n_samples = recording->n_samples;
    body->n_classes = (uint32_t)recording->n_classes;
    body->self_test = recording->self_test;
    body->spec_digest = recording->spec_digest;
    body->started_s = (uint64_t)recording->started_s;
    body->name = (ProtobufCBinaryData){.len = strlen(recording->name),
                                       .data = (uint8_t *)(uintptr_t)recording->name};
}

size_t recording_pack(uint64_t session, const struct message_recording *recording, uint8_t *out)
{
    Ibot__StreamMessage envelope = IBOT__STREAM_MESSAGE__INIT;
    Ibot__Recording body;
    struct spec_parts parts;

    recording_to_protobuf(&body, &parts, session, recording);
    envelope.recording = &body;
    return message_pack_envelope(&envelope, out);
}

enum status recording_unpack(struct message_recording *recording, const Ibot__Recording *body)
{
    *recording = (struct message_recording){.version = body->version};
    if (body->version != RECORDING_VERSION)
        return STATUS_OK;
    if (body->world < 1 || body->world > 1 << 20 || body->rank >= body->world ||
        body->batch_size < 1 || body->batch_size > 1 << 20 || body->slice_size < 1 ||
        body->slice_size > SLICE_MAX_SAMPLES || body->steps_per_epoch < 1 ||
        body->steps_per_epoch > UINT32_MAX || body->first_step > INT64_MAX / (1 << 21) ||
        body->n_samples < 1 || body->n_samples > UINT32_MAX || body->n_classes > INT32_MAX ||
        body->started_s > INT64_MAX || body->data_spec == NULL)
        FAIL(STATUS_CORRUPT,
             "recording: rank %u of %u, batches of %u images in records of %u, %llu steps in an "
             "epoch, from step %llu, %llu images in %u classes%s",
             body->rank, body->world, body->batch_size, body->slice_size,
             (unsigned long long)body->steps_per_epoch, (unsigned long long)body->first_step,
             (unsigned long long)body->n_samples, body->n_classes,
             body->data_spec == NULL ? ", without a data spec" : "");
    recording->pixels = body->pixels;
    recording->rank = (int32_t)body->rank;
    recording->world = (int32_t)body->world;
    recording->batch_size = (int32_t)body->batch_size;
    recording->slice_size = (int32_t)body->slice_size;
    recording->steps_per_epoch = (int64_t)body->steps_per_epoch;
    recording->first_step = (int64_t)body->first_step;
    recording->index_digest = body->index_digest;
    recording->n_samples = body->n_samples;
    recording->n_classes = (int32_t)body->n_classes;
    recording->self_test = body->self_test;
    recording->started_s = (int64_t)body->started_s;
    message_copy_text(recording->name, sizeof(recording->name), body->name.data, body->name.len);
    TRY(spec_from_protobuf(&recording->data_spec, body->data_spec));
    recording->spec_digest = data_spec_digest(&recording->data_spec);
    if (recording->spec_digest != body->spec_digest)
        FAIL(STATUS_INVALID,
             "recording: the digest of its data spec is %016llx here and %016llx in "
             "the file",
             (unsigned long long)recording->spec_digest, (unsigned long long)body->spec_digest);
    return STATUS_OK;
}
