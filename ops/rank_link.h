/* Sockets between ranks (ZeroMQ over tcp): rank 0's is a ROUTER that listens, the others' are
 * DEALERs that connect.
 *
 * Whoever may send has the key of the run: CURVE encrypts and authenticates, and a stranger's bytes
 * come no further than ZeroMQ's handshake. Without a secret of the user's (IBOT_RANKS_KEY) the key
 * is made from what the launcher says of the job: it keeps runs apart, and strangers out who do not
 * know the number of the job. */
#ifndef IBOT_OPS_RANK_LINK_H
#define IBOT_OPS_RANK_LINK_H

#include "ops/rank_message.h"
#include "proto/base/status.h"

#ifdef __cplusplus
extern "C" {
#endif

enum { RANK_KEY_BYTES = 32, RANK_NAME_BYTES = 32 };

/* A ROUTER (serves) or a DEALER for frames of at most `most_bytes`, with its key; the caller's to
 * close. Errors: STATUS_IO, STATUS_UNSUPPORTED (a ZeroMQ without CURVE, or too old). */
enum status rank_socket_open(void **out, void *context, bool serves,
                             const unsigned char key[RANK_KEY_BYTES],
                             size_t most_bytes) IBOT_WARN_UNUSED;

/* Whether rank 0 at this host is reached from this machine alone. */
bool rank_host_is_loopback(const char *host);

/* A connection, as rank 0 sees it. */
struct rank_peer_name {
    unsigned char bytes[RANK_NAME_BYTES];
    size_t n;
    int connection; /* told apart from others while it lasts */
};

/* The monitors' link. A zeroed one is valid and closed. */
struct rank_link {
    void *context, *socket, *events;
    bool serves;
    uint64_t n_refused; /* handshakes that failed: another key, or no rank at all */
};

/* Rank 0 listens; others begin to connect, and try again for as long as it takes. Errors: STATUS_IO
 * (the address), those of rank_socket_open. */
enum status rank_link_open(struct rank_link *out, int rank, const char *host, int port,
                           const unsigned char key[RANK_KEY_BYTES]) IBOT_WARN_UNUSED;

/* What was sent goes out, for at most a second. */
void rank_link_close(struct rank_link *link);

/* Until there is something to receive, or a connection has ended; at most ms. */
void rank_link_wait(struct rank_link *link, long ms);

/* To a connection of rank 0's: false when it has ended. Or (NULL) to rank 0: what can't be sent yet
 * waits; false when enough of it does. */
bool rank_link_send(struct rank_link *link, const struct rank_peer_name *to,
                    const struct rank_message *message);

/* The next message, if there is one; *from is rank 0's alone. */
bool rank_link_receive(struct rank_link *link, struct rank_message *message,
                       struct rank_peer_name *from);

/* A connection that has ended, if there is one that was not told yet. */
bool rank_link_ended(struct rank_link *link, int *connection);

#ifdef __cplusplus
}
#endif

#endif
