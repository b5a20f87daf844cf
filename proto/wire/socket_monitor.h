/* Connections that fail in the handshake, as ZeroMQ's socket monitor tells of them. After some of
 * these failures the connecting side never tries again by itself: its owner must open it anew. */
#ifndef IBOT_PROTO_WIRE_SOCKET_MONITOR_H
#define IBOT_PROTO_WIRE_SOCKET_MONITOR_H

#include "proto/base/status.h"

enum handshake_failure {
    HANDSHAKE_FINE,       /* nothing has failed */
    HANDSHAKE_KEY,        /* the other side does not know our key */
    HANDSHAKE_MECHANISM,  /* one side uses keys, the other does not */
    HANDSHAKE_SERVER_KEY, /* the other side does not own the key that we take it to own */
    HANDSHAKE_STRANGER,   /* the other side does not speak the protocol */
    HANDSHAKE_CLOSED,     /* the other side hung up, or said nothing for too long */
    HANDSHAKE_KINDS
};

struct socket_monitor {
    void *socket;  /* watched, borrowed */
    void *channel; /* a ZeroMQ socket that can be polled; NULL: closed */
};

/* Begins to watch, before the first bind or connect. Errors: STATUS_IO. */
enum status socket_monitor_open(struct socket_monitor *out, void *context,
                                void *socket) IBOT_WARN_UNUSED;

/* Takes one failure; HANDSHAKE_FINE when there is none. */
enum handshake_failure socket_monitor_take(struct socket_monitor *monitor);

/* Before the socket is closed. Twice is fine. */
void socket_monitor_close(struct socket_monitor *monitor);

#endif
