/* Between message.c and message_spec.c: the data spec as protobuf. */
#ifndef IBOT_PROTO_WIRE_MESSAGE_INTERNAL_H
#define IBOT_PROTO_WIRE_MESSAGE_INTERNAL_H

#include "proto/stream.pb-c.h"
#include "proto/wire/data_spec.h"

/* What a packed DataSpec points to while it is packed. */
struct spec_parts {
    Ibot__DataSpec message;
    Ibot__Range global_scale, local_scale, aspect, blur_radius, mask_aspect;
    Ibot__ViewTransform first, other, local;
    float pred_ratio[DATA_SPEC_MAX_RATIOS], pred_ratio_var[DATA_SPEC_MAX_RATIOS];
};

/* Fills `out` in place: it points into itself. */
void spec_to_protobuf(struct spec_parts *out, const struct data_spec *spec);

/* Errors: STATUS_CORRUPT (counts that do not fit), STATUS_INVALID (data_spec_check). */
enum status spec_from_protobuf(struct data_spec *out,
                               const Ibot__DataSpec *message) IBOT_WARN_UNUSED;

#endif
