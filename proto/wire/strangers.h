/* Connections that belong to no accepted loader, and how much of what they say is listened to: some
 * messages at first, then a few each second. The rest is thrown away unread, which has to be
 * cheaper than sending it: what strangers send faster than a consumer reads waits in ZeroMQ's
 * queues, one for each connection, whose number nobody limits.
 *
 * A table of fixed size; a connection that finds its place taken takes it over, and the other one
 * begins anew. Time is the caller's. */
#ifndef IBOT_PROTO_WIRE_STRANGERS_H
#define IBOT_PROTO_WIRE_STRANGERS_H

#include <stddef.h>
#include <stdint.h>

#include "proto/base/status.h"

enum {
    STRANGERS_KEPT = 1024,     /* a power of two */
    STRANGERS_BURST = 32,      /* messages of one at a stretch */
    STRANGERS_PER_SECOND = 32, /* afterwards */
};

struct strangers {
    struct stranger {
        uint64_t connection; /* hash of its name */
        int64_t credit_ns;   /* when its allowance runs full; 0: nobody is here */
    } kept[STRANGERS_KEPT];
};

/* Whether the next message of this connection is listened to. */
bool strangers_hear(struct strangers *strangers, const uint8_t *name, size_t n_name,
                    int64_t now_ns);

#endif
