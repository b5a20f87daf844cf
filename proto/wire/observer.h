/* Asks a consumer how its stream stands. It takes no part in the stream. One thread's. */
#ifndef IBOT_PROTO_WIRE_OBSERVER_H
#define IBOT_PROTO_WIRE_OBSERVER_H

#include <stdatomic.h>

#include "proto/base/status.h"
#include "proto/wire/key.h"
#include "proto/wire/message.h"

struct observer; /* opaque: a socket */

/* keys, server_key: as for a producer; NULL: plain. Copied. Errors: STATUS_INVALID (endpoint),
 * STATUS_IO, STATUS_UNSUPPORTED. */
enum status observer_open(struct observer **out, const char *endpoint, const struct key_pair *keys,
                          const struct key *server_key) IBOT_WARN_UNUSED;

/* One report: out->status. Waits for it until the deadline, or until *stop becomes non-zero; not
 * when the two sides' keys do not fit.
 * Errors: STATUS_TIMEOUT (nobody answers: the text says what is known), STATUS_MISMATCH (another
 * version), STATUS_INTERRUPTED, STATUS_IO. */
enum status observer_ask(struct observer *observer, struct message *out, int64_t deadline_ns,
                         const atomic_int *stop) IBOT_WARN_UNUSED;

/* Waits until a time, or until *stop becomes non-zero. Errors: STATUS_INTERRUPTED. */
enum status observer_pause(struct observer *observer, int64_t until_ns,
                           const atomic_int *stop) IBOT_WARN_UNUSED;

void observer_close(struct observer **observer);

#endif
