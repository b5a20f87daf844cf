/* Sockets with keys, and the events of their connections. */
#include "ops/rank_link.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <zmq.h>

enum {
    LINGER_MS = 1000,
    HANDSHAKE_MS = 5000, /* half a handshake holds a connection no longer */
    BACKLOG = 1024,
    SEALED_BYTES = 64, /* what CURVE puts around a frame */
    QUEUED_MESSAGES = 4,
    Z85_BYTES = 41, /* a key as text, with its NUL */
};

/* ------------------------------------------------------------------------------ sockets */

static enum status check_library(void)
{
    int major, minor, patch;

    zmq_version(&major, &minor, &patch);
    if (major * 10000 + minor * 100 + patch < 40304)
        FAIL(STATUS_UNSUPPORTED, "ZeroMQ %d.%d.%d has known holes; 4.3.4 or newer is needed", major,
             minor, patch);
    if (zmq_has("curve") == 0)
        FAIL(STATUS_UNSUPPORTED, "this ZeroMQ was built without CURVE, which several ranks need");
    return STATUS_OK;
}

/* Every rank makes the server's pair of keys; the clients' are whatever they are. */
static bool set_keys(void *socket, bool serves, const unsigned char key[RANK_KEY_BYTES])
{
    char secret_half[Z85_BYTES], public_half[Z85_BYTES], own_public[Z85_BYTES],
        own_secret[Z85_BYTES];
    int yes = 1;

    if (zmq_z85_encode(secret_half, key, RANK_KEY_BYTES) == NULL ||
        zmq_curve_public(public_half, secret_half) != 0)
        return false;
    if (serves)
        return zmq_setsockopt(socket, ZMQ_CURVE_SERVER, &yes, sizeof(yes)) == 0 &&
               zmq_setsockopt(socket, ZMQ_CURVE_SECRETKEY, secret_half, Z85_BYTES) == 0;
    return zmq_curve_keypair(own_public, own_secret) == 0 &&
           zmq_setsockopt(socket, ZMQ_CURVE_SERVERKEY, public_half, Z85_BYTES) == 0 &&
           zmq_setsockopt(socket, ZMQ_CURVE_PUBLICKEY, own_public, Z85_BYTES) == 0 &&
           zmq_setsockopt(socket, ZMQ_CURVE_SECRETKEY, own_secret, Z85_BYTES) == 0;
}

enum status rank_socket_open(void **out, void *context, bool serves,
                             const unsigned char key[RANK_KEY_BYTES], size_t most_bytes)
{
    const struct {
        int option, value;
    } options[] = {
        {ZMQ_LINGER, LINGER_MS},
        {ZMQ_HANDSHAKE_IVL, HANDSHAKE_MS},
        {ZMQ_BACKLOG, BACKLOG},
        {ZMQ_TCP_KEEPALIVE, 1},
    };
    int64_t most = (int64_t)most_bytes + SEALED_BYTES;

    TRY(check_library());
    void *socket = zmq_socket(context, serves ? ZMQ_ROUTER : ZMQ_DEALER);
    if (socket == NULL)
        FAIL(STATUS_IO, "a ZeroMQ socket between the ranks: %s", zmq_strerror(errno));
    bool ok = zmq_setsockopt(socket, ZMQ_MAXMSGSIZE, &most, sizeof(most)) == 0;
    for (size_t i = 0; i < sizeof(options) / sizeof(options[0]); i++)
        ok = ok && zmq_setsockopt(socket, options[i].option, &options[i].value, sizeof(int)) == 0;
    ok = ok && set_keys(socket, serves, key);
    CHECK(ok, "an option of a socket between the ranks: %s", zmq_strerror(errno));
    *out = socket;
    return STATUS_OK;
}

bool rank_host_is_loopback(const char *host)
{
    return strncmp(host, "127.", 4) == 0 || strcmp(host, "localhost") == 0;
}

/* ------------------------------------------------------------------------------ life */

static enum status watch_connections(struct rank_link *link)
{
    const char *place = "inproc://connections";
    const int events = ZMQ_EVENT_DISCONNECTED | ZMQ_EVENT_HANDSHAKE_FAILED_NO_DETAIL |
                       ZMQ_EVENT_HANDSHAKE_FAILED_PROTOCOL | ZMQ_EVENT_HANDSHAKE_FAILED_AUTH;
    int unlimited = 0;

    link->events = zmq_socket(link->context, ZMQ_PAIR);
    if (link->events == NULL ||
        zmq_setsockopt(link->events, ZMQ_RCVHWM, &unlimited, sizeof(unlimited)) != 0 ||
        zmq_socket_monitor(link->socket, place, events) != 0 ||
        zmq_connect(link->events, place) != 0)
        FAIL(STATUS_IO, "events of a ZeroMQ socket: %s", zmq_strerror(errno));
    return STATUS_OK;
}

static enum status open_socket(struct rank_link *link, int rank, const char *host, int port,
                               const unsigned char key[RANK_KEY_BYTES])
{
    char address[300];
    int yes = 1, queued = QUEUED_MESSAGES;

    link->context = zmq_ctx_new();
    if (link->context == NULL)
        FAIL(STATUS_IO, "ZeroMQ: %s", zmq_strerror(errno));
    TRY(rank_socket_open(&link->socket, link->context, link->serves, key,
                         sizeof(struct rank_message)));
    TRY(watch_connections(link));
    /* What nobody would get is an error; what waits for rank 0 to come is little. */
    (void)zmq_setsockopt(link->socket, link->serves ? ZMQ_ROUTER_MANDATORY : ZMQ_SNDHWM,
                         link->serves ? &yes : &queued, sizeof(int));
    if (link->serves)
        host = rank_host_is_loopback(host) ? "127.0.0.1" : "*";
    snprintf(address, sizeof(address), "tcp://%s:%d", host, port);
    if (link->serves && zmq_bind(link->socket, address) != 0)
        FAIL(STATUS_IO,
             "rank 0 can't listen for the other ranks at %s: %s; choose another port with "
             "MASTER_PORT or IBOT_RANKS_AT",
             address, zmq_strerror(errno));
    if (!link->serves && zmq_connect(link->socket, address) != 0)
        FAIL(STATUS_IO, "rank %d can't connect to rank 0 at %s: %s", rank, address,
             zmq_strerror(errno));
    return STATUS_OK;
}

enum status rank_link_open(struct rank_link *out, int rank, const char *host, int port,
                           const unsigned char key[RANK_KEY_BYTES])
{
    struct rank_link link = {.serves = rank == 0};
    enum status status = open_socket(&link, rank, host, port, key);

    if (status == STATUS_OK)
        *out = link;
    else
        rank_link_close(&link);
    return status;
}

void rank_link_close(struct rank_link *link)
{
    if (link->events != NULL)
        zmq_close(link->events);
    if (link->socket != NULL)
        zmq_close(link->socket); /* what is queued goes out while the context ends */
    while (link->context != NULL && zmq_ctx_term(link->context) != 0 && errno == EINTR)
        continue;
    link->context = link->socket = link->events = NULL;
}

/* ------------------------------------------------------------------------------ messages */

void rank_link_wait(struct rank_link *link, long ms)
{
    zmq_pollitem_t items[] = {{link->socket, 0, ZMQ_POLLIN, 0}, {link->events, 0, ZMQ_POLLIN, 0}};

    (void)zmq_poll(items, 2, ms);
}

bool rank_link_send(struct rank_link *link, const struct rank_peer_name *to,
                    const struct rank_message *message)
{
    if (to != NULL && zmq_send(link->socket, to->bytes, to->n, ZMQ_DONTWAIT | ZMQ_SNDMORE) < 0)
        return false;
    return zmq_send(link->socket, message, sizeof(*message), ZMQ_DONTWAIT) >= 0;
}

/* The next frame of a message; what does not fit is cut off. False: none is there yet. */
static bool next_frame(void *socket, void *bytes, size_t size, size_t *n, bool *more,
                       int *connection)
{
    zmq_msg_t frame;

    zmq_msg_init(&frame);
    if (zmq_msg_recv(&frame, socket, ZMQ_DONTWAIT) < 0) {
        zmq_msg_close(&frame);
        return false;
    }
    *n = zmq_msg_size(&frame);
    memcpy(bytes, zmq_msg_data(&frame), *n < size ? *n : size);
    *more = zmq_msg_more(&frame) != 0;
    *connection = zmq_msg_get(&frame, ZMQ_SRCFD);
    zmq_msg_close(&frame);
    return true;
}

/* The frames of the next message: at a ROUTER a name comes first. *whole: none is too long, and
 * there is none more. False: no message is there yet. */
static bool next_message(struct rank_link *link, unsigned char *bytes, size_t size, size_t *n,
                         struct rank_peer_name *from, bool *whole)
{
    bool more = true;

    *n = from->n = 0;
    if (link->serves && !next_frame(link->socket, from->bytes, sizeof(from->bytes), &from->n, &more,
                                    &from->connection))
        return false;
    if (more && !next_frame(link->socket, bytes, size, n, &more, &from->connection))
        return false;
    *whole = !more && from->n <= sizeof(from->bytes) && *n <= size;
    while (more) {
        unsigned char rest[16];
        size_t n_rest;
        if (!next_frame(link->socket, rest, sizeof(rest), &n_rest, &more, &from->connection))
            return false;
    }
    return true;
}

bool rank_link_receive(struct rank_link *link, struct rank_message *message,
                       struct rank_peer_name *from)
{
    unsigned char bytes[sizeof(*message)];
    size_t n;
    bool whole;

    while (next_message(link, bytes, sizeof(bytes), &n, from, &whole))
        if (whole && rank_message_read(message, bytes, n))
            return true;
    return false;
}

bool rank_link_ended(struct rank_link *link, int *connection)
{
    unsigned char bytes[16];
    char address[256];
    uint16_t event;
    uint32_t value;
    size_t n, n_address;
    bool more;
    int unused;

    while (next_frame(link->events, bytes, sizeof(bytes), &n, &more, &unused)) {
        if (more)
            (void)next_frame(link->events, address, sizeof(address), &n_address, &more, &unused);
        if (n < sizeof(event) + sizeof(value))
            continue;
        memcpy(&event, bytes, sizeof(event));
        memcpy(&value, bytes + sizeof(event), sizeof(value));
        if (event != ZMQ_EVENT_DISCONNECTED) {
            link->n_refused++;
            continue;
        }
        *connection = (int)value;
        return true;
    }
    return false;
}
