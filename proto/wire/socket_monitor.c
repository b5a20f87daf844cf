/* Events of a socket, read from a PAIR. */
#include "proto/wire/socket_monitor.h"

#include <errno.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <zmq.h>

enum status socket_monitor_open(struct socket_monitor *out, void *context, void *socket)
{
    const int events = ZMQ_EVENT_HANDSHAKE_FAILED_NO_DETAIL | ZMQ_EVENT_HANDSHAKE_FAILED_PROTOCOL |
                       ZMQ_EVENT_HANDSHAKE_FAILED_AUTH;
    int no_limit = 0; /* an I/O thread writes there, and must never wait */
    char address[64];

    snprintf(address, sizeof(address), "inproc://monitor-%p", socket);
    *out = (struct socket_monitor){.socket = socket};
    void *channel = zmq_socket(context, ZMQ_PAIR);
    if (channel != NULL && zmq_setsockopt(channel, ZMQ_RCVHWM, &no_limit, sizeof(no_limit)) == 0 &&
        zmq_setsockopt(channel, ZMQ_LINGER, &no_limit, sizeof(no_limit)) == 0 &&
        zmq_socket_monitor(socket, address, events) == 0 && zmq_connect(channel, address) == 0) {
        out->channel = channel;
        return STATUS_OK;
    }
    int error = errno;
    if (channel != NULL)
        zmq_close(channel);
    FAIL(STATUS_IO, "ZeroMQ: no socket monitor: %s; are there enough file descriptors (ulimit -n)?",
         zmq_strerror(error));
}

static enum handshake_failure of_protocol(uint32_t value)
{
    switch (value) {
    case ZMQ_PROTOCOL_ERROR_ZMTP_MECHANISM_MISMATCH:
        return HANDSHAKE_MECHANISM;
    case ZMQ_PROTOCOL_ERROR_ZMTP_CRYPTOGRAPHIC:
    case ZMQ_PROTOCOL_ERROR_ZMTP_KEY_EXCHANGE:
    case ZMQ_PROTOCOL_ERROR_ZMTP_MALFORMED_COMMAND_WELCOME:
        return HANDSHAKE_SERVER_KEY;
    default:
        return HANDSHAKE_STRANGER;
    }
}

enum handshake_failure socket_monitor_take(struct socket_monitor *monitor)
{
    uint8_t bytes[6] = {0};
    uint16_t event;
    uint32_t value;

    if (monitor->channel == NULL ||
        zmq_recv(monitor->channel, bytes, sizeof(bytes), ZMQ_DONTWAIT) != (int)sizeof(bytes))
        return HANDSHAKE_FINE;
    zmq_recv(monitor->channel, NULL, 0, ZMQ_DONTWAIT); /* the address: ours */
    memcpy(&event, bytes, sizeof(event));
    memcpy(&value, bytes + sizeof(event), sizeof(value));
    if (event == ZMQ_EVENT_HANDSHAKE_FAILED_AUTH)
        return HANDSHAKE_KEY;
    return event == ZMQ_EVENT_HANDSHAKE_FAILED_PROTOCOL ? of_protocol(value) : HANDSHAKE_CLOSED;
}

void socket_monitor_close(struct socket_monitor *monitor)
{
    if (monitor->channel == NULL)
        return;
    zmq_socket_monitor(monitor->socket, NULL, 0);
    zmq_close(monitor->channel);
    *monitor = (struct socket_monitor){NULL, NULL};
}
