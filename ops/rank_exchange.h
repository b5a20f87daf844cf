/* What ranks tell each other out of host memory while they train: an all-gather over the network,
 * so that ranks with accelerators can agree on a step without waiting for what their devices do.
 *
 * Rank 0 listens (ZeroMQ ROUTER over tcp), the others connect, send theirs and get the whole back:
 * small things. One thread uses it. A rank that does not come is ops/rank_monitor.h's to find; what
 * is here has a deadline all the same. */
#ifndef IBOT_OPS_RANK_EXCHANGE_H
#define IBOT_OPS_RANK_EXCHANGE_H

#include <stddef.h>
#include <stdint.h>

#include "ops/rank_link.h"
#include "proto/base/status.h"

#ifdef __cplusplus
extern "C" {
#endif

struct rank_exchange_options {
    int rank, world;
    const char *host;         /* of rank 0; loopback: nobody else can connect */
    const unsigned char *key; /* of the run, RANK_KEY_BYTES: nobody else is heard */
    int64_t deadline_ns;      /* of one all-gather */
};

struct rank_exchange; /* opaque */

/* Rank 0: listens at a port that is free, and says which. Errors: those of rank_socket_open. */
enum status rank_exchange_listen(struct rank_exchange **out,
                                 const struct rank_exchange_options *options,
                                 int *port) IBOT_WARN_UNUSED;

/* The others. Errors: the same. */
enum status rank_exchange_connect(struct rank_exchange **out,
                                  const struct rank_exchange_options *options,
                                  int port) IBOT_WARN_UNUSED;

/* bytes_each from every rank, in rank order, to `to`. All ranks make the same calls. Errors:
 * STATUS_TIMEOUT (who has not come), STATUS_MISMATCH (a rank with another size), STATUS_IO. */
enum status rank_exchange_all_gather(struct rank_exchange *exchange, void *to, const void *from,
                                     size_t bytes_each) IBOT_WARN_UNUSED;

/* What was sent goes out, for at most a second. */
void rank_exchange_close(struct rank_exchange **exchange);

#ifdef __cplusplus
}
#endif

#endif
