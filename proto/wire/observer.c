#include "proto/wire/observer.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <zmq.h>

#include "proto/base/clock.h"
#include "proto/base/memory.h"
#include "proto/wire/socket.h"
#include "proto/wire/socket_monitor.h"

static const int64_t repeat_ns = 250000000; /* a question that was not answered is asked again */

enum { POLL_MS = 50 };

struct observer {
    void *context, *socket;
    struct socket_monitor monitor;
    enum handshake_failure failure; /* the last one */
    char endpoint[SOCKET_ENDPOINT_BYTES];
    struct message question;
};

enum status observer_open(struct observer **out, const char *endpoint, const struct key_pair *keys,
                          const struct key *server_key)
{
    struct observer *observer = NULL;
    enum status status;

    TRY(endpoint_check_connect(endpoint));
    TRY(memory_alloc(&observer, 1, sizeof(*observer), "observer"));
    snprintf(observer->endpoint, sizeof(observer->endpoint), "%s", endpoint);
    TRY_OUT(socket_context_open(&observer->context, 1));
    TRY_OUT(socket_open(&observer->socket, observer->context, SOCKET_PRODUCER, MESSAGE_MAX_BYTES));
    TRY_OUT(socket_monitor_open(&observer->monitor, observer->context, observer->socket));
    if (keys != NULL && endpoint_wants_keys(endpoint))
        socket_connect_with_keys(observer->socket, keys, server_key);
    int ipv6 = strchr(endpoint, '[') != NULL;
    zmq_setsockopt(observer->socket, ZMQ_IPV6, &ipv6, sizeof(ipv6));
    if (zmq_connect(observer->socket, endpoint) != 0)
        FAIL_OUT(STATUS_INVALID, "endpoint '%s': %s", endpoint, zmq_strerror(errno));
    *out = observer;
    observer = NULL;
out:
    observer_close(&observer);
    return status;
}

void observer_close(struct observer **address)
{
    struct observer *observer = address != NULL ? *address : NULL;
    int linger = 0;

    if (observer == NULL)
        return;
    socket_monitor_close(&observer->monitor);
    if (observer->socket != NULL) {
        zmq_setsockopt(observer->socket, ZMQ_LINGER, &linger, sizeof(linger));
        zmq_close(observer->socket);
    }
    socket_context_close(&observer->context);
    memory_free(observer);
    *address = NULL;
}

/* What cannot go now, for want of a connection, is asked again. */
static void ask(struct observer *observer)
{
    uint8_t bytes[MESSAGE_MAX_BYTES];

    observer->question.kind = MESSAGE_STATUS_WANTED;
    (void)zmq_send(observer->socket, bytes, message_pack(&observer->question, bytes), ZMQ_DONTWAIT);
}

/* Takes what has come; *found: it was a report. */
static enum status receive(struct observer *observer, struct message *out, bool *found)
{
    bool more = true;

    *found = false;
    for (bool first = true; more; first = false) {
        zmq_msg_t part;
        zmq_msg_init(&part);
        if (zmq_msg_recv(&part, observer->socket, ZMQ_DONTWAIT) < 0) {
            zmq_msg_close(&part);
            return STATUS_OK;
        }
        more = zmq_msg_more(&part) != 0;
        enum status status = STATUS_OK;
        if (first)
            status = message_unpack(out, zmq_msg_data(&part), zmq_msg_size(&part));
        zmq_msg_close(&part);
        if (status != STATUS_OK)
            return status;
        if (first && out->kind == MESSAGE_REJECT)
            FAIL(STATUS_MISMATCH, "%s tells nothing: %s", observer->endpoint, out->reject.reason);
        *found = first ? out->kind == MESSAGE_STATUS : *found;
    }
    return STATUS_OK;
}

static enum status nobody_answers(struct observer *observer)
{
    static const char *const reasons[HANDSHAKE_KINDS] = {
        [HANDSHAKE_FINE] = "no trainer listens there, or it does not come to answering",
        [HANDSHAKE_KEY] = "it does not allow our key: add it to its list (--allow)",
        [HANDSHAKE_MECHANISM] = "one side uses keys and the other does not (--key, --server_key)",
        [HANDSHAKE_SERVER_KEY] = "it does not own the key that --server_key names",
        [HANDSHAKE_STRANGER] = "it does not speak the protocol",
        [HANDSHAKE_CLOSED] = "it hangs up: does it want keys (--key, --server_key)?",
    };
    FAIL(STATUS_TIMEOUT, "no answer from %s: %s", observer->endpoint, reasons[observer->failure]);
}

enum status observer_ask(struct observer *observer, struct message *out, int64_t deadline_ns,
                         const atomic_int *stop)
{
    int64_t asked_ns = INT64_MIN / 2;

    for (;;) {
        int64_t now_ns = clock_monotonic_ns();
        enum handshake_failure failure;
        bool found;

        if (stop != NULL && atomic_load(stop) != 0)
            FAIL(STATUS_INTERRUPTED, "asked to stop");
        TRY(receive(observer, out, &found));
        if (found)
            return STATUS_OK;
        while ((failure = socket_monitor_take(&observer->monitor)) != HANDSHAKE_FINE)
            observer->failure = failure;
        bool hopeless =
            observer->failure != HANDSHAKE_FINE && observer->failure != HANDSHAKE_CLOSED;
        if (hopeless || now_ns >= deadline_ns)
            return nobody_answers(observer);
        if (now_ns - asked_ns >= repeat_ns) {
            asked_ns = now_ns;
            ask(observer);
        }
        zmq_pollitem_t item = {.socket = observer->socket, .events = ZMQ_POLLIN};
        if (zmq_poll(&item, 1, POLL_MS) < 0 && errno != EINTR)
            FAIL(STATUS_IO, "%s: %s", observer->endpoint, zmq_strerror(errno));
    }
}

enum status observer_pause(struct observer *observer, int64_t until_ns, const atomic_int *stop)
{
    for (;;) {
        int64_t left_ns = until_ns - clock_monotonic_ns();
        if (stop != NULL && atomic_load(stop) != 0)
            FAIL(STATUS_INTERRUPTED, "asked to stop");
        if (left_ns <= 0)
            return STATUS_OK;
        long left_ms = (long)(left_ns / 1000000) + 1;
        if (zmq_poll(NULL, 0, left_ms < POLL_MS ? left_ms : POLL_MS) < 0 && errno != EINTR)
            FAIL(STATUS_IO, "%s: %s", observer->endpoint, zmq_strerror(errno));
    }
}
