/* A message is one frame: its place in the sequence of all-gathers, and the bytes. What does not
 * fit is passed over. */
#include "ops/rank_exchange.h"

#include <errno.h>
#include <limits.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <zmq.h>

#include "proto/base/clock.h"
#include "proto/base/memory.h"

struct rank_exchange {
    struct rank_exchange_options options; /* without host and key */
    void *context, *socket;
    uint64_t number;
    unsigned char *frame; /* header and bytes of all */
    bool *here;           /* rank 0: who has sent */
};

enum { MOST_FRAME = sizeof(struct rank_frame) + RANK_EXCHANGE_MOST_BYTES };

static enum status open_exchange(struct rank_exchange **out,
                                 const struct rank_exchange_options *options)
{
    int64_t deadline_ms = options->deadline_ns / 1000000;
    int send_ms = deadline_ms < INT_MAX ? (int)deadline_ms : INT_MAX;
    struct rank_exchange *e;
    enum status status = STATUS_OK;

    TRY(memory_alloc(&e, 1, sizeof(*e), "rank exchange"));
    e->options = *options;
    e->options.host = NULL;
    e->options.key = NULL;
    TRY_OUT(memory_alloc(&e->frame, MOST_FRAME, 1, "rank exchange"));
    TRY_OUT(memory_alloc(&e->here, (size_t)options->world, sizeof(bool), "rank exchange"));
    e->context = zmq_ctx_new();
    if (e->context == NULL)
        FAIL_OUT(STATUS_IO, "ZeroMQ: %s", zmq_strerror(errno));
    TRY_OUT(rank_socket_open(&e->socket, e->context, options->rank == 0, options->key, MOST_FRAME));
    (void)zmq_setsockopt(e->socket, ZMQ_SNDTIMEO, &send_ms, sizeof(send_ms));
out:
    if (status == STATUS_OK)
        *out = e;
    else
        rank_exchange_close(&e);
    return status;
}

enum status rank_exchange_listen(struct rank_exchange **out,
                                 const struct rank_exchange_options *options, int *port)
{
    const char *address = rank_host_is_loopback(options->host) ? "tcp://127.0.0.1:*" : "tcp://*:*";
    char bound[256] = "";
    size_t size = sizeof(bound);
    struct rank_exchange *e;

    CHECK(options->rank == 0);
    TRY(open_exchange(&e, options));
    if (zmq_bind(e->socket, address) != 0 ||
        zmq_getsockopt(e->socket, ZMQ_LAST_ENDPOINT, bound, &size) != 0) {
        enum status status =
            status_set(STATUS_IO, "rank 0 can't listen for the other ranks at %s: %s", address,
                       zmq_strerror(errno));
        rank_exchange_close(&e);
        return status;
    }
    *port = atoi(strrchr(bound, ':') + 1);
    *out = e;
    return STATUS_OK;
}

static int name_of(int rank, char *name, size_t size)
{
    return snprintf(name, size, "rank %d", rank);
}

enum status rank_exchange_connect(struct rank_exchange **out,
                                  const struct rank_exchange_options *options, int port)
{
    char address[300], name[32];
    struct rank_exchange *e;

    CHECK(options->rank > 0);
    TRY(open_exchange(&e, options));
    int n = name_of(options->rank, name, sizeof(name));
    (void)zmq_setsockopt(e->socket, ZMQ_ROUTING_ID, name, (size_t)n);
    snprintf(address, sizeof(address), "tcp://%s:%d", options->host, port);
    if (zmq_connect(e->socket, address) != 0) {
        enum status status = status_set(STATUS_IO, "rank %d can't connect to rank 0 at %s: %s",
                                        options->rank, address, zmq_strerror(errno));
        rank_exchange_close(&e);
        return status;
    }
    *out = e;
    return STATUS_OK;
}

void rank_exchange_close(struct rank_exchange **pointer)
{
    struct rank_exchange *e = pointer != NULL ? *pointer : NULL;

    if (e == NULL)
        return;
    if (e->socket != NULL)
        zmq_close(e->socket);
    if (e->context != NULL)
        zmq_ctx_term(e->context);
    memory_free(e->frame);
    memory_free(e->here);
    memory_free(e);
    *pointer = NULL;
}

/* ------------------------------------------------------------------------------ messages */

/* The frame's header and `bytes`; to rank 0, or from it to a rank. */
static enum status send_frame(struct rank_exchange *e, int to, size_t bytes_each, size_t bytes)
{
    struct rank_frame header = rank_frame_of(e->options.rank, e->number, bytes_each);
    char name[32];

    memcpy(e->frame, &header, sizeof(header));
    if (to >= 0) {
        int n = name_of(to, name, sizeof(name));
        if (zmq_send(e->socket, name, (size_t)n, ZMQ_SNDMORE) < 0)
            FAIL(STATUS_IO, "rank 0 can't send to rank %d: %s", to, zmq_strerror(errno));
    }
    if (zmq_send(e->socket, e->frame, sizeof(header) + bytes, 0) < 0)
        FAIL(STATUS_IO, "rank %d can't send to the other ranks: %s", e->options.rank,
             zmq_strerror(errno));
    return STATUS_OK;
}

/* What is left of a message of more frames than it should have. */
static bool drop_rest(void *socket)
{
    int more = 0;
    size_t size = sizeof(more);
    bool dropped = false;
    char rest[16];

    for (;;) {
        (void)zmq_getsockopt(socket, ZMQ_RCVMORE, &more, &size);
        if (more == 0)
            return dropped;
        (void)zmq_recv(socket, rest, sizeof(rest), ZMQ_DONTWAIT);
        dropped = true;
    }
}

/* The next message that is one of this all-gather; *rank is -1 when none is there yet. A rank that
 * is at another size is an error. */
static enum status receive_frame(struct rank_exchange *e, size_t bytes_each, size_t bytes,
                                 int *rank)
{
    bool serves = e->options.rank == 0;
    struct rank_frame header;
    char name[32] = "", wanted[32];

    for (*rank = -1;;) {
        int n_name = serves ? zmq_recv(e->socket, name, sizeof(name) - 1, ZMQ_DONTWAIT) : 0;
        if (n_name < 0)
            return STATUS_OK;
        int n = zmq_recv(e->socket, e->frame, MOST_FRAME, ZMQ_DONTWAIT);
        if (n < 0)
            return STATUS_OK;
        if (drop_rest(e->socket) || n > MOST_FRAME ||
            !rank_frame_read(&header, e->frame, (size_t)n, e->options.world) ||
            header.number != e->number)
            continue;
        name[n_name < (int)sizeof(name) - 1 ? n_name : (int)sizeof(name) - 1] = '\0';
        name_of((int)header.rank, wanted, sizeof(wanted));
        if (serves ? strcmp(name, wanted) != 0 : header.rank != 0)
            continue;
        if (header.bytes_each != bytes_each)
            FAIL(STATUS_MISMATCH,
                 "all-gather %llu between ranks: rank %u has %llu bytes, rank %d has %zu",
                 (unsigned long long)e->number, header.rank, (unsigned long long)header.bytes_each,
                 e->options.rank, bytes_each);
        if ((size_t)n != sizeof(header) + bytes)
            continue;
        *rank = (int)header.rank;
        return STATUS_OK;
    }
}

/* ------------------------------------------------------------------------------ gathering */

static enum status wait_for_frame(struct rank_exchange *e, int64_t end_ns)
{
    zmq_pollitem_t item = {e->socket, 0, ZMQ_POLLIN, 0};
    int64_t left_ns = end_ns - clock_monotonic_ns();
    int missing = 0;

    if (left_ns > 0) {
        (void)zmq_poll(&item, 1, (long)(left_ns / 1000000 + 1));
        return STATUS_OK;
    }
    if (e->options.rank == 0)
        while (missing < e->options.world - 1 && e->here[missing])
            missing++;
    FAIL(STATUS_TIMEOUT, "rank %d waited %lld s for what rank %d has to say", e->options.rank,
         (long long)(e->options.deadline_ns / 1000000000), missing);
}

/* All send to rank 0. */
static enum status collect(struct rank_exchange *e, char *to, size_t bytes_each, int64_t end_ns)
{
    int n_here = 1, rank;

    memset(e->here, 0, (size_t)e->options.world * sizeof(bool));
    e->here[0] = true;
    while (n_here < e->options.world) {
        TRY(receive_frame(e, bytes_each, bytes_each, &rank));
        if (rank < 0) {
            TRY(wait_for_frame(e, end_ns));
            continue;
        }
        memcpy(to + (size_t)rank * bytes_each, e->frame + sizeof(struct rank_frame), bytes_each);
        n_here += !e->here[rank];
        e->here[rank] = true;
    }
    return STATUS_OK;
}

static enum status answer(struct rank_exchange *e, const char *all, size_t bytes_each)
{
    size_t bytes = bytes_each * (size_t)e->options.world;

    memcpy(e->frame + sizeof(struct rank_frame), all, bytes);
    for (int rank = 1; rank < e->options.world; rank++)
        TRY(send_frame(e, rank, bytes_each, bytes));
    return STATUS_OK;
}

static enum status ask(struct rank_exchange *e, char *to, const void *from, size_t bytes_each,
                       int64_t end_ns)
{
    size_t bytes = bytes_each * (size_t)e->options.world;
    int rank;

    memcpy(e->frame + sizeof(struct rank_frame), from, bytes_each);
    TRY(send_frame(e, -1, bytes_each, bytes_each));
    for (;;) {
        TRY(receive_frame(e, bytes_each, bytes, &rank));
        if (rank == 0)
            break;
        TRY(wait_for_frame(e, end_ns));
    }
    memcpy(to, e->frame + sizeof(struct rank_frame), bytes);
    return STATUS_OK;
}

enum status rank_exchange_all_gather(struct rank_exchange *e, void *to, const void *from,
                                     size_t bytes_each)
{
    int64_t end_ns = clock_monotonic_ns() + e->options.deadline_ns;

    CHECK(bytes_each > 0 && bytes_each <= RANK_EXCHANGE_MOST_BYTES / (size_t)e->options.world);
    e->number++;
    if (e->options.rank != 0)
        return ask(e, to, from, bytes_each, end_ns);
    memcpy(to, from, bytes_each);
    TRY(collect(e, to, bytes_each, end_ns));
    return answer(e, to, bytes_each);
}
