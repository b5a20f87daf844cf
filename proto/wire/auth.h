/* Who may connect: answers ZeroMQ's ZAP requests for one context from a list of public keys. A
 * thread ("zap") does it. The list's file is read again when it changes; one that can't be read
 * then leaves the former list in force, and says so.
 *
 *   context ─> auth_open ─> sockets: socket_use_keys, bind ─> … ─> sockets closed ─> auth_close */
#ifndef IBOT_PROTO_WIRE_AUTH_H
#define IBOT_PROTO_WIRE_AUTH_H

#include <stdint.h>

#include "proto/base/status.h"
#include "proto/wire/key.h"

#define AUTH_DOMAIN "ibot" /* of the sockets that are asked about */

struct auth; /* opaque: a thread */

/* Told in the zap thread of every connection that is turned away, and of trouble with the list. */
typedef void auth_report(void *context, const char *text);

/* Reads the list at `path` (borrowed until close), starts the thread. Before any bind. Errors:
 * those of key_list_read, STATUS_INVALID (no key in it), STATUS_IO. */
enum status auth_open(struct auth **out, void *zmq_context, const char *path, auth_report *report,
                      void *context) IBOT_WARN_UNUSED;

/* Whether the list has this key now; *name [KEY_NAME_BYTES] gets its name. Any thread. */
bool auth_allows(struct auth *auth, const struct key *key, char *name);

/* Grows each time another list is in force. Any thread. */
uint32_t auth_generation(struct auth *auth);

/* Connections turned away so far. Any thread. */
uint64_t auth_n_refused(struct auth *auth);

/* Stops the thread. After the sockets, before the context. Takes the address and nulls it. */
void auth_close(struct auth **auth);

#endif
