/* ZeroMQ sockets as both sides of the stream use them, and the addresses they may have.
 *
 * ZeroMQ's heartbeats are left out on purpose. They and a limit to the messages that wait to be
 * read end the process together (release 4.3.4 and later: assertion !_io_error or _input_stopped in
 * stream_engine_base, when a peer dies while its input is held back). Both sides say Alive
 * themselves instead, and a consumer keeps the limit, for strangers who send without end. */
#ifndef IBOT_PROTO_WIRE_SOCKET_H
#define IBOT_PROTO_WIRE_SOCKET_H

#include <stddef.h>
#include <stdint.h>

#include "proto/base/status.h"
#include "proto/wire/key.h"

enum {
    SOCKET_ENDPOINT_BYTES = 256,
    SOCKET_FRAME_BYTES = 1 << 20, /* what a payload frame should have, give or take a half */
    SOCKET_SILENCE_MS = 10000,    /* a peer from which nothing comes for so long is gone */
    SOCKET_QUEUED_SLICES = 2,     /* that wait to be sent to one consumer */
    SOCKET_QUEUED_CONTROL = 256,  /* messages that wait to be sent to one loader */
    SOCKET_WAITING_MESSAGES = 64, /* of one connection that wait to be read; then it has to wait */
    SOCKET_FILES = 65536,         /* open at once, where the system lets us */
    SOCKET_SEALED_BYTES = 64,     /* what encryption adds to a frame, and some */
};

/* A context for one side, with this many I/O threads. Also raises the limit of open files to what
 * the system allows, and makes malloc keep large frames, which
 * ZeroMQ allocates one by one, instead of giving them back to the system each time. Errors:
 * STATUS_UNSUPPORTED (ZeroMQ older than 4.3.4), STATUS_IO. */
enum status socket_context_open(void **out, int n_io_threads) IBOT_WARN_UNUSED;

/* Waits until what was said last is out, for a bounded time. Takes the address and nulls it. */
void socket_context_close(void **context);

enum socket_side { SOCKET_CONSUMER /* ROUTER */, SOCKET_PRODUCER /* DEALER */ };

/* max_frame_bytes: a peer that sends a longer one is disconnected. Errors: STATUS_IO. */
enum status socket_open(void **out, void *context, enum socket_side side,
                        int64_t max_frame_bytes) IBOT_WARN_UNUSED;

/* From here on, what is bound takes peers that speak ZMTP 3 alone, as ours do. Of random bytes,
 * half pass for an older version, which begins with a name for the connection; and of a second
 * connection under a name in use ZeroMQ keeps all it has for ever, since it never reads from it.
 * Not for a context with an auth, which would be asked about these peers. */
void socket_serve_without_keys(void *socket);

/* From here on, what is bound is encrypted and open to those alone whom the context's auth allows.
 * What was bound before stays as it is. */
void socket_serve_with_keys(void *socket, const struct key_pair *own);

/* The next connect is encrypted, to the owner of this key alone. */
void socket_connect_with_keys(void *socket, const struct key_pair *own, const struct key *server);

/* Images that one payload frame has: whole ones. */
int32_t socket_images_per_frame(size_t record_bytes);

/* Whether keys are for this address: those of tcp are, sockets of the file system have its rights.
 */
bool endpoint_wants_keys(const char *endpoint);

/* Where a consumer may listen: tcp://HOST:PORT on a loopback address or with keys, ipc://PATH in a
 * folder that not everybody may change, or anything with `insecure`. Errors: STATUS_INVALID. */
enum status endpoint_check_bind(const char *endpoint, bool keys, bool insecure) IBOT_WARN_UNUSED;

/* Where a loader may connect to. Errors: STATUS_INVALID. */
enum status endpoint_check_connect(const char *endpoint) IBOT_WARN_UNUSED;

/* Binds a checked endpoint; the real address goes to `out`. A port of 0 or * is any free one. A
 * socket file that a dead process has left is taken over, one that somebody listens at is not, and
 * no other file is touched; the new one is the user's alone. Errors: STATUS_IO. */
enum status endpoint_bind(char out[SOCKET_ENDPOINT_BYTES], void *socket,
                          const char *endpoint) IBOT_WARN_UNUSED;

/* Removes the socket file of an address from endpoint_bind; call it before the socket is closed, so
 * that nobody else's is there yet. */
void endpoint_unbind(const char *address);

#endif
