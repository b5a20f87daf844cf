/* Between message.c, message_spec.c (the data spec as protobuf), message_recording.c and
 * message_status.c. */
#ifndef IBOT_PROTO_WIRE_MESSAGE_INTERNAL_H
#define IBOT_PROTO_WIRE_MESSAGE_INTERNAL_H

#include "proto/stream.pb-c.h"
#include "proto/wire/data_spec.h"
#include "proto/wire/message.h"

/* What a packed DataSpec points to while it is packed. */
struct spec_parts {
    Ibot__DataSpec message;
    Ibot__Range global_scale, local_scale, aspect, blur_radius, mask_aspect;
    Ibot__ViewTransform first, other, local;
    Ibot__RandAugment rand_augment;
    float pred_ratio[DATA_SPEC_MAX_RATIOS], pred_ratio_var[DATA_SPEC_MAX_RATIOS];
};

/* Fills `out` in place: it points into itself. */
void spec_to_protobuf(struct spec_parts *out, const struct data_spec *spec);

/* Errors: STATUS_CORRUPT (counts that do not fit), STATUS_INVALID (data_spec_check). */
enum status spec_from_protobuf(struct data_spec *out,
                               const Ibot__DataSpec *message) IBOT_WARN_UNUSED;

size_t message_pack_envelope(const Ibot__StreamMessage *envelope, uint8_t *out);

/* Fills `body`, which points into `parts` and into the recording while it is packed. */
void recording_to_protobuf(Ibot__Recording *body, struct spec_parts *parts, uint64_t session,
                           const struct message_recording *recording);
size_t recording_pack(uint64_t session, const struct message_recording *recording, uint8_t *out);

/* Errors: STATUS_CORRUPT, STATUS_INVALID (a data spec that this build does not accept). */
enum status recording_unpack(struct message_recording *out,
                             const Ibot__Recording *body) IBOT_WARN_UNUSED;

size_t status_pack(uint64_t session, const struct message_status *status, uint8_t *out);

/* Errors: as recording_unpack. */
enum status status_unpack(struct message *out, const Ibot__Status *body) IBOT_WARN_UNUSED;

#endif
