/* What a stream is of: data set, cut into batches, data_spec. For people and as JSON. */
#ifndef IBOT_STREAM_ORIGIN_H
#define IBOT_STREAM_ORIGIN_H

#include <jansson.h>
#include <stdio.h>

#include "proto/wire/message.h"

void origin_print(FILE *out, const struct message_recording *info);

/* A path or name as JSON, which wants UTF-8: other bytes become '?'. */
json_t *origin_text_json(const char *text);

/* The caller's; NULL: no memory. */
json_t *origin_json(const struct message_recording *info);

#endif
