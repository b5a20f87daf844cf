/* Loaders that lie, stall, repeat themselves or are no loaders at all, beside a sound one: the
 * stream stays what it is, and they are counted, refused or ignored. */
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <malloc.h>
#include <netinet/in.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>
#include <zmq.h>

#include <cmocka.h>

#include "proto/base/clock.h"
#include "proto/base/rng.h"
#include "proto/wire/consumer.h"
#include "proto/wire/socket.h"
#include "tests/proto/wire/fleet.h"

static struct consumer_options loopback_options(void)
{
    struct consumer_options options = fleet_consumer_options("tcp://127.0.0.1:0");

    options.lease_timeout_ns = 300000000;
    return options;
}

static struct consumer_stats stats_of(struct consumer *consumer)
{
    struct consumer_stats stats;
    consumer_stats(consumer, &stats);
    return stats;
}

/* ---- who may join ---- */

/* A loader with these options beside a sound one: refused with a text that contains `reason`. */
static void refused_loader(const struct fleet_options *wrong, const char *reason)
{
    struct consumer_options options = loopback_options();
    struct consumer *consumer = fleet_consumer_open(&options);
    struct fleet_loader *sound = fleet_loader_open_sound(consumer);
    char text[512];
    fleet_consumer_start(consumer, 0, 1);
    struct fleet_options other = *wrong;
    other.endpoints[0] = consumer_endpoint(consumer, 0);
    struct fleet_loader *loader = fleet_loader_open(&other);
    assert_int_equal(fleet_loader_join(loader), STATUS_MISMATCH);
    assert_non_null(strstr(loader->text, reason));
    assert_non_null(strstr(loader->text, consumer_endpoint(consumer, 0)));
    assert_true(consumer_refusal(consumer, text, sizeof(text)));
    assert_non_null(strstr(text, reason));
    assert_false(consumer_refusal(consumer, text, sizeof(text)));
    fleet_check_batches(consumer, &options.spec, 0, FLEET_SAMPLES / FLEET_BATCH);
    assert_int_equal(stats_of(consumer).n_rejected_loaders, 1);
    fleet_loader_close(&loader);
    fleet_loader_close(&sound);
    consumer_close(&consumer);
}

static void a_loader_with_another_data_set_is_refused(void **state)
{
    (void)state;
    struct fleet_options wrong = fleet_options(NULL);
    wrong.dataset = fleet_dataset();
    wrong.dataset.index_digest++;
    refused_loader(&wrong, "data set");
    wrong.dataset = fleet_dataset();
    wrong.dataset.n_samples++;
    refused_loader(&wrong, "data set");
}

static void a_loader_that_makes_other_pixels_is_refused(void **state)
{
    (void)state;
    struct fleet_options wrong = fleet_options(NULL);
    wrong.self_test = 1;
    refused_loader(&wrong, "self test");
}

static void a_loader_of_another_version_is_told_so(void **state)
{
    (void)state;
    struct consumer_options options = loopback_options();
    struct consumer *consumer = fleet_consumer_open(&options);
    struct raw_peer peer;
    raw_peer_open(&peer, consumer_endpoint(consumer, 0));
    raw_peer_hello(&peer, 1);
    peer.out.hello.version = WIRE_VERSION + 7;
    raw_peer_send(&peer, NULL, 0);
    assert_true(raw_peer_receive(&peer, MESSAGE_REJECT));
    assert_non_null(strstr(peer.in.reject.reason, "version 8"));
    assert_int_equal(peer.in.reject.version, WIRE_VERSION);
    raw_peer_close(&peer);
    consumer_close(&consumer);
}

static void when_no_loader_fits_the_caller_learns_why(void **state)
{
    (void)state;
    struct consumer_options options = loopback_options();
    options.index_digest = 0x1234;
    struct consumer *consumer = fleet_consumer_open(&options);
    struct fleet_loader *loader = fleet_loader_open_sound(consumer);
    struct dataset_info dataset;
    assert_int_equal(fleet_loader_join(loader), STATUS_MISMATCH);
    assert_int_equal(consumer_dataset(consumer, &dataset, clock_monotonic_ns() + 1000000),
                     STATUS_MISMATCH);
    assert_non_null(strstr(status_message(), "0000000000001234"));
    assert_non_null(strstr(status_message(), "fleet"));
    fleet_loader_close(&loader);
    consumer_close(&consumer);
}

/* ---- slices that do not hold ---- */

enum wrong {
    WRONG_HASH,
    WRONG_PIXEL,
    WRONG_EPOCH,
    WRONG_POSITION,
    WRONG_COUNT,
    WRONG_SPEC,
    WRONG_INDEX,
    WRONG_LABEL,
    NO_PAYLOAD,
    SHORT_PAYLOAD,
    LONG_PAYLOAD,
    TOO_MANY_FRAMES,
    ODD_FRAME,
    EMPTY_FRAME,
    WRONG_SLICE,
    N_WRONGS
};

/* Sends the slice with one thing wrong. */
static void send_wrong(struct raw_peer *peer, enum wrong wrong, const struct lease_item *lease)
{
    size_t record = data_spec_record_bytes(&peer->spec);
    size_t n_bytes = record * (size_t)lease->n_samples;
    uint8_t *payload = calloc(1, n_bytes + record);
    raw_peer_make(peer, lease, payload);
    struct message_slice *slice = &peer->out.slice;
    struct raw_frame frames[3] = {{payload, n_bytes}, {payload, record}, {payload, record}};
    int n_frames = 1;
    switch (wrong) {
    case WRONG_HASH:
        slice->hash[lease->n_samples - 1] ^= 1;
        break;
    case WRONG_PIXEL:
        payload[n_bytes - 1] ^= 0x80;
        break;
    case WRONG_EPOCH:
        slice->lease.epoch++;
        break;
    case WRONG_POSITION:
        slice->lease.first_position++;
        break;
    case WRONG_COUNT:
        slice->lease.n_samples--;
        break;
    case WRONG_SPEC:
        slice->spec_digest++;
        break;
    case WRONG_INDEX:
        slice->index[0] = FLEET_SAMPLES;
        break;
    case WRONG_LABEL:
        slice->label[0] = FLEET_CLASSES;
        break;
    case NO_PAYLOAD:
        n_frames = 0;
        break;
    case SHORT_PAYLOAD:
        frames[0].n_bytes -= record;
        break;
    case LONG_PAYLOAD:
        frames[0].n_bytes += record;
        break;
    case TOO_MANY_FRAMES:
        n_frames = 3;
        break;
    case ODD_FRAME:
        frames[0].n_bytes--;
        break;
    case EMPTY_FRAME:
        frames[0].n_bytes = 0;
        n_frames = 2;
        break;
    case WRONG_SLICE:
    case N_WRONGS:
        slice->lease.slice_id += 1000;
        break;
    }
    raw_peer_send(peer, frames, n_frames);
    free(payload);
}

static void each_kind_of_corrupt_slice_is_dropped_and_its_sender_refused(void **state)
{
    (void)state;
    for (enum wrong wrong = 0; wrong < N_WRONGS; wrong++) {
        struct consumer_options options = loopback_options();
        struct consumer *consumer = fleet_consumer_open(&options);
        struct raw_peer peer;
        raw_peer_open(&peer, consumer_endpoint(consumer, 0));
        raw_peer_join(&peer, 1);
        fleet_consumer_start(consumer, 0, 1);
        for (int i = 0; i < 3; i++) {
            assert_true(raw_peer_receive(&peer, MESSAGE_LEASE));
            struct lease_item lease = peer.in.lease.items[0];
            assert_int_equal(lease.slice_id, 0); /* alone, it gets the same one again */
            send_wrong(&peer, wrong, &lease);
            if (wrong == WRONG_SLICE) { /* whose lease it still holds */
                send_wrong(&peer, wrong, &lease);
                send_wrong(&peer, wrong, &lease);
                break;
            }
        }
        assert_true(raw_peer_receive(&peer, MESSAGE_REJECT));
        assert_int_equal(stats_of(consumer).n_corrupt, 3);
        assert_int_equal(stats_of(consumer).n_rejected_loaders, 1);
        raw_peer_hello(&peer, 1); /* again, as the same process */
        raw_peer_send(&peer, NULL, 0);
        assert_true(raw_peer_receive(&peer, MESSAGE_REJECT));
        struct fleet_loader *sound = fleet_loader_open_sound(consumer);
        fleet_check_batches(consumer, &options.spec, 0, 5);
        fleet_loader_close(&sound);
        raw_peer_close(&peer);
        consumer_close(&consumer);
    }
}

static void a_silent_loader_costs_a_lease_timeout(void **state)
{
    (void)state;
    struct consumer_options options = loopback_options();
    struct consumer *consumer = fleet_consumer_open(&options);
    struct raw_peer silent;
    raw_peer_open(&silent, consumer_endpoint(consumer, 0));
    raw_peer_join(&silent, 4);
    fleet_consumer_start(consumer, 0, 1);
    assert_true(raw_peer_receive(&silent, MESSAGE_LEASE));
    struct lease_item first = silent.in.lease.items[0];
    struct fleet_loader *sound = fleet_loader_open_sound(consumer);
    fleet_check_batches(consumer, &options.spec, 0, 20);
    assert_true(stats_of(consumer).n_reissued >= 4);
    /* At last it answers: too late, and no harm. */
    uint8_t *payload = malloc(FLEET_SLICE * data_spec_record_bytes(&silent.spec));
    raw_peer_make(&silent, &first, payload);
    raw_peer_send(&silent,
                  &(struct raw_frame){payload, FLEET_SLICE * data_spec_record_bytes(&silent.spec)},
                  1);
    for (int i = 0; i < 40 && stats_of(consumer).n_duplicates == 0; i++)
        assert_true(raw_peer_receive(&silent, MESSAGE_ALIVE));
    assert_true(stats_of(consumer).n_duplicates >= 1);
    assert_int_equal(stats_of(consumer).n_corrupt, 0);
    fleet_check_batches(consumer, &options.spec, 20, 20);
    free(payload);
    fleet_loader_close(&sound);
    raw_peer_close(&silent);
    consumer_close(&consumer);
}

static void a_slice_sent_twice_is_taken_once(void **state)
{
    (void)state;
    struct consumer_options options = loopback_options();
    struct consumer *consumer = fleet_consumer_open(&options);
    struct raw_peer peer;
    raw_peer_open(&peer, consumer_endpoint(consumer, 0));
    raw_peer_join(&peer, 1);
    fleet_consumer_start(consumer, 0, 1);
    size_t n_bytes = FLEET_SLICE * data_spec_record_bytes(&peer.spec);
    uint8_t *payload = malloc(n_bytes);
    for (int i = 0; i < 2; i++) {
        assert_true(raw_peer_receive(&peer, MESSAGE_LEASE));
        struct lease_item lease = peer.in.lease.items[0];
        raw_peer_make(&peer, &lease, payload);
        raw_peer_send(&peer, &(struct raw_frame){payload, n_bytes}, 1);
        raw_peer_send(&peer, &(struct raw_frame){payload, n_bytes}, 1);
    }
    assert_true(raw_peer_receive(&peer, MESSAGE_LEASE));
    assert_int_equal(stats_of(consumer).n_slices, 2);
    struct fleet_loader *sound = fleet_loader_open_sound(consumer);
    fleet_check_batches(consumer, &options.spec, 0, 10);
    assert_int_equal(stats_of(consumer).n_corrupt, 2);
    free(payload);
    fleet_loader_close(&sound);
    raw_peer_close(&peer);
    consumer_close(&consumer);
}

static void a_loader_that_says_hello_again_begins_anew(void **state)
{
    (void)state;
    struct consumer_options options = loopback_options();
    options.lease_timeout_ns = 100000000000; /* not what helps here */
    struct consumer *consumer = fleet_consumer_open(&options);
    struct raw_peer peer, again;
    raw_peer_open(&peer, consumer_endpoint(consumer, 0));
    raw_peer_join(&peer, 2);
    fleet_consumer_start(consumer, 0, 1);
    assert_true(raw_peer_receive(&peer, MESSAGE_LEASE));
    assert_int_equal(peer.in.lease.n_items, 2);
    raw_peer_hello(&peer, 2);
    peer.out.hello.attempt = 2;
    raw_peer_send(&peer, NULL, 0);
    assert_true(raw_peer_receive(&peer, MESSAGE_SPEC));
    assert_int_equal(peer.in.spec.attempt, 2);
    assert_true(raw_peer_receive(&peer, MESSAGE_LEASE));
    assert_int_equal(peer.in.lease.items[0].slice_id, 0);
    /* The same process over another connection. */
    raw_peer_open(&again, consumer_endpoint(consumer, 0));
    raw_peer_hello(&again, 2);
    again.out.hello.instance = (uint64_t)(uintptr_t)&peer;
    raw_peer_send(&again, NULL, 0);
    assert_true(raw_peer_receive(&again, MESSAGE_LEASE));
    assert_int_equal(again.in.lease.items[0].slice_id, 0);
    assert_int_equal(stats_of(consumer).n_loaders, 1);
    /* And one that leaves in good order. */
    again.out.kind = MESSAGE_GOODBYE;
    again.out.session = again.in.session;
    memset(&again.out.goodbye, 0, sizeof(again.out.goodbye));
    raw_peer_send(&again, NULL, 0);
    struct fleet_loader *sound = fleet_loader_open_sound(consumer);
    fleet_check_batches(consumer, &options.spec, 0, 10);
    fleet_loader_close(&sound);
    raw_peer_close(&peer);
    raw_peer_close(&again);
    consumer_close(&consumer);
}

static void what_was_said_to_another_connection_is_void_when_it_is_replayed(void **state)
{
    (void)state;
    struct consumer_options options = loopback_options();
    struct consumer *consumer = fleet_consumer_open(&options);
    struct raw_peer peer, replayer;
    raw_peer_open(&peer, consumer_endpoint(consumer, 0));
    raw_peer_join(&peer, 1);
    fleet_consumer_start(consumer, 0, 1);
    assert_true(raw_peer_receive(&peer, MESSAGE_LEASE));
    struct lease_item lease = peer.in.lease.items[0];
    size_t n_bytes = FLEET_SLICE * data_spec_record_bytes(&peer.spec);
    uint8_t *payload = malloc(n_bytes);
    raw_peer_make(&peer, &lease, payload);
    raw_peer_send(&peer, &(struct raw_frame){payload, n_bytes}, 1);
    assert_true(raw_peer_receive(&peer, MESSAGE_LEASE)); /* it was taken */
    raw_peer_open(&replayer, consumer_endpoint(consumer, 0));
    raw_peer_hello(&replayer, 1);
    replayer.out.hello.instance = (uint64_t)(uintptr_t)&peer;
    raw_peer_send(&replayer, NULL, 0);
    assert_true(raw_peer_receive(&replayer, MESSAGE_SPEC));
    assert_true(replayer.in.session != peer.session);
    replayer.out = peer.out;
    for (int i = 0; i < 10; i++)
        raw_peer_send(&replayer, &(struct raw_frame){payload, n_bytes}, 1);
    /* The one who was there first is asked who it is, and has its place again. */
    raw_peer_send(&peer, &(struct raw_frame){payload, n_bytes}, 1);
    assert_true(raw_peer_receive(&peer, MESSAGE_HELLO_WANTED));
    raw_peer_join(&peer, 1);
    assert_true(raw_peer_receive(&peer, MESSAGE_LEASE));
    assert_int_equal(stats_of(consumer).n_corrupt, 0);
    assert_int_equal(stats_of(consumer).n_rejected_loaders, 0);
    assert_int_equal(stats_of(consumer).n_slices, 1);
    struct fleet_loader *sound = fleet_loader_open_sound(consumer);
    raw_peer_close(&peer);
    raw_peer_close(&replayer);
    fleet_check_batches(consumer, &options.spec, 0, 10);
    free(payload);
    fleet_loader_close(&sound);
    consumer_close(&consumer);
}

/* ---- what is no loader ---- */

static void messages_from_strangers_are_answered_or_ignored(void **state)
{
    (void)state;
    struct consumer_options options = loopback_options();
    struct consumer *consumer = fleet_consumer_open(&options);
    struct fleet_loader *sound = fleet_loader_open_sound(consumer);
    struct raw_peer stranger;
    fleet_consumer_start(consumer, 0, 1);
    raw_peer_open(&stranger, consumer_endpoint(consumer, 0));
    stranger.out.kind = MESSAGE_ALIVE;
    raw_peer_send(&stranger, NULL, 0);
    assert_true(raw_peer_receive(&stranger, MESSAGE_HELLO_WANTED));
    stranger.spec = fleet_spec();
    uint8_t *payload = calloc(4, data_spec_record_bytes(&stranger.spec));
    struct lease_item lease = {.slice_id = 1, .stride = 1, .n_samples = 4};
    raw_peer_make(&stranger, &lease, payload);
    struct raw_frame frame = {payload, 4 * data_spec_record_bytes(&stranger.spec)};
    raw_peer_send(&stranger, &frame, 1);
    assert_true(raw_peer_receive(&stranger, MESSAGE_HELLO_WANTED));
    assert_int_equal(zmq_send(stranger.socket, "GET / HTTP/1.0\r\n", 16, 0), 16);
    assert_true(raw_peer_receive(&stranger, MESSAGE_REJECT));
    assert_int_equal(zmq_send(stranger.socket, "", 0, 0), 0);
    assert_true(raw_peer_receive(&stranger, MESSAGE_REJECT));
    for (int i = 0; i < 1000; i++)
        assert_true(zmq_send(stranger.socket, payload, 40, i < 999 ? ZMQ_SNDMORE : 0) >= 0);
    assert_true(raw_peer_receive(&stranger, MESSAGE_REJECT));
    fleet_check_batches(consumer, &options.spec, 0, 30);
    free(payload);
    raw_peer_close(&stranger);
    fleet_loader_close(&sound);
    consumer_close(&consumer);
}

static size_t memory_in_use(void)
{
    struct mallinfo2 info = mallinfo2();
    return info.uordblks + info.hblkhd;
}

static void a_frame_that_is_too_long_ends_the_connection_and_takes_no_memory(void **state)
{
    (void)state;
    struct consumer_options options = loopback_options();
    struct consumer *consumer = fleet_consumer_open(&options);
    struct fleet_loader *sound = fleet_loader_open_sound(consumer);
    fleet_consumer_start(consumer, 0, 2);
    fleet_check_batches(consumer, &options.spec, 0, 10);
    size_t n_bytes = 64 << 20, before;
    uint8_t *large = calloc(1, n_bytes);
    void *context = zmq_ctx_new(), *socket = zmq_socket(context, ZMQ_DEALER);
    void *monitor = zmq_socket(context, ZMQ_PAIR);
    int linger = 0;
    zmq_setsockopt(socket, ZMQ_LINGER, &linger, sizeof(linger));
    zmq_socket_monitor(socket, "inproc://monitor", ZMQ_EVENT_DISCONNECTED);
    zmq_connect(monitor, "inproc://monitor");
    before = memory_in_use();
    assert_int_equal(zmq_connect(socket, consumer_endpoint(consumer, 0)), 0);
    assert_true(zmq_send(socket, large, n_bytes, 0) > 0);
    zmq_pollitem_t item = {.socket = monitor, .events = ZMQ_POLLIN};
    assert_int_equal(zmq_poll(&item, 1, 60000), 1);              /* disconnected */
    assert_true(memory_in_use() < before + n_bytes + (8 << 20)); /* its own copy is in n_bytes */
    fleet_check_batches(consumer, &options.spec, 10, 30);
    zmq_close(monitor);
    zmq_close(socket);
    zmq_ctx_term(context);
    free(large);
    fleet_loader_close(&sound);
    consumer_close(&consumer);
}

static int connect_tcp(const char *endpoint)
{
    struct sockaddr_in address = {.sin_family = AF_INET};
    int port = atoi(strrchr(endpoint, ':') + 1);
    int connection = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    address.sin_port = htons((uint16_t)port);
    assert_int_equal(connect(connection, (struct sockaddr *)&address, sizeof(address)), 0);
    return connection;
}

/* Whoever begins with something else than a greeting of ZMTP 3: of the first version, which has
 * none, or of the second one. Each gives its connection a name, too. */
static void peers_of_older_protocols_are_hung_up_on(void **state)
{
    (void)state;
    static const uint8_t first[] = {2, 0, 'x', 3, 0, 'h', 'i'};
    static const uint8_t second[] = {0xff,           0, 0, 0,   0, 0, 0,   0,  1, 0x7f, 1,
                                     5 /* DEALER */, 0, 1, 'x', 0, 2, 'h', 'i'};
    struct consumer_options options = loopback_options();
    struct consumer *consumer = fleet_consumer_open(&options);
    struct timeval patience = {.tv_sec = 60};

    for (int kind = 0; kind < 2; kind++) {
        int connection = connect_tcp(consumer_endpoint(consumer, 0));
        const uint8_t *bytes = kind == 0 ? first : second;
        size_t n = kind == 0 ? sizeof(first) : sizeof(second);
        uint8_t answer[64];
        ssize_t got;

        setsockopt(connection, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof(patience));
        assert_int_equal(send(connection, bytes, n, 0), n);
        do
            got = recv(connection, answer, sizeof(answer), 0);
        while (got > 0);
        assert_true(got == 0 || errno == ECONNRESET);
        close(connection);
    }
    consumer_close(&consumer);
}

static void read_all(int connection, uint8_t *out, size_t n)
{
    while (n > 0) {
        ssize_t got = recv(connection, out, n, 0);
        if (got <= 0)
            fail_msg("%zu bytes are missing: %s", n, got < 0 ? strerror(errno) : "hung up");
        out += got;
        n -= (size_t)got;
    }
}

/* Connects under a name (ZMTP 3.0), says what is no message, and waits for the answer. */
static int connect_as(const char *endpoint, const uint8_t name[5])
{
    static const uint8_t greeting[64] = {0xff, [8] = 1, 0x7f, 3, 0, 'N', 'U', 'L', 'L'};
    static const uint8_t message[] = {0, 4, 'o', 'h', 'n', 'o'};
    uint8_t ready[] = {4,   46,  5,   'R', 'E', 'A', 'D', 'Y', 11,  'S', 'o', 'c',
                       'k', 'e', 't', '-', 'T', 'y', 'p', 'e', 0,   0,   0,   6,
                       'D', 'E', 'A', 'L', 'E', 'R', 8,   'I', 'd', 'e', 'n', 't',
                       'i', 't', 'y', 0,   0,   0,   5,   0,   0,   0,   0,   0};
    uint8_t bytes[256];
    int connection = connect_tcp(endpoint);

    memcpy(ready + sizeof(ready) - 5, name, 5);
    assert_int_equal(send(connection, greeting, sizeof(greeting), 0), sizeof(greeting));
    read_all(connection, bytes, sizeof(greeting)); /* earlier, ZeroMQ would not bear the rest */
    assert_int_equal(send(connection, ready, sizeof(ready), 0), sizeof(ready));
    assert_int_equal(send(connection, message, sizeof(message), 0), sizeof(message));
    do {
        read_all(connection, bytes, 2);
        assert_int_equal(bytes[0] & 2, 0); /* nothing long */
        read_all(connection, bytes + 2, bytes[1]);
    } while (bytes[0] == 4); /* READY */
    return connection;
}

/* ZeroMQ names connections that have no name themselves: a zero, and a number that counts up from
 * what the C library's rand() says. */
static void nobody_can_guess_the_names_of_connections(void **state)
{
    (void)state;
    struct consumer_options options = loopback_options();
    int connections[16], n = sizeof(connections) / sizeof(connections[0]);

    srand(1); /* as in every new process */
    uint32_t first = (uint32_t)rand();
    first |= (uint32_t)rand() << 31;
    srand(1);
    struct consumer *consumer = fleet_consumer_open(&options);
    for (int i = 0; i < n; i++) {
        uint32_t number = first + (uint32_t)i;
        const uint8_t name[5] = {0, (uint8_t)(number >> 24), (uint8_t)(number >> 16),
                                 (uint8_t)(number >> 8), (uint8_t)number};
        connections[i] = connect_as(consumer_endpoint(consumer, 0), name);
    }
    struct fleet_loader *sound = fleet_loader_open_sound(consumer); /* without a name */
    fleet_consumer_start(consumer, 0, 1);
    fleet_check_batches(consumer, &options.spec, 0, 10);
    for (int i = 0; i < n; i++)
        close(connections[i]);
    fleet_loader_close(&sound);
    consumer_close(&consumer);
}

static void random_bytes_on_the_port_change_nothing(void **state)
{
    (void)state;
    struct consumer_options options = loopback_options();
    struct consumer *consumer = fleet_consumer_open(&options);
    struct fleet_loader *sound = fleet_loader_open_sound(consumer);
    struct rng rng = rng_open((struct rng_key){.seed = 3, .purpose = RNG_TEST});
    /* ZMTP 3.0 greeting, NULL mechanism; then READY; then a frame of 2^63 bytes. */
    static const uint8_t greeting[64] = {0xff, 0,    0, 0, 0,   0,   0,   0,
                                         1,    0x7f, 3, 0, 'N', 'U', 'L', 'L'};
    static const uint8_t ready[] = {4,   28,  5,   'R', 'E', 'A', 'D', 'Y', 11,  'S',
                                    'o', 'c', 'k', 'e', 't', '-', 'T', 'y', 'p', 'e',
                                    0,   0,   0,   6,   'D', 'E', 'A', 'L', 'E', 'R'};
    static const uint8_t huge[] = {2, 0x7f, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 1, 2, 3};
    int half_open[20];
    fleet_consumer_start(consumer, 0, 3);
    size_t before = 0;
    for (int round = 0; round < 60; round++) {
        uint8_t bytes[4096];
        int connection = connect_tcp(consumer_endpoint(consumer, 0));
        for (size_t i = 0; i < sizeof(bytes); i++)
            bytes[i] = (uint8_t)rng_u32(&rng);
        if (round % 3 > 0)
            (void)!write(connection, greeting, sizeof(greeting));
        if (round % 3 > 1) {
            (void)!write(connection, ready, sizeof(ready));
            (void)!write(connection, huge, sizeof(huge));
        }
        (void)!send(connection, bytes, sizeof(bytes), MSG_NOSIGNAL);
        if (round < 20)
            half_open[round] = connection; /* and never another word */
        else
            close(connection);
        fleet_check_batches(consumer, &options.spec, round * 2, 2);
        if (round == 19)
            before = memory_in_use();
    }
    assert_true(memory_in_use() < before + (4 << 20));
    for (int i = 0; i < 20; i++)
        close(half_open[i]);
    assert_int_equal(stats_of(consumer).n_loaders, 1);
    fleet_loader_close(&sound);
    consumer_close(&consumer);
}

static void loaders_that_come_and_go_leave_no_memory_behind(void **state)
{
    (void)state;
    struct consumer_options options = loopback_options();
    struct consumer *consumer = fleet_consumer_open(&options);
    struct fleet_loader *sound = fleet_loader_open_sound(consumer);
    fleet_consumer_start(consumer, 0, 1000);
    size_t before = 0;
    for (int round = 0; round < 60; round++) {
        struct fleet_loader *another = fleet_loader_open_sound(consumer);
        fleet_check_batches(consumer, &options.spec, round * 10, 10);
        fleet_loader_close(&another);
        if (round == 20)
            before = memory_in_use();
    }
    assert_true(memory_in_use() < before + (2 << 20));
    fleet_loader_close(&sound);
    consumer_close(&consumer);
}

/* ---- a consumer that lies ---- */

static void a_loader_bears_with_a_consumer_that_makes_no_sense(void **state)
{
    (void)state;
    void *context = zmq_ctx_new(), *router = zmq_socket(context, ZMQ_ROUTER);
    int linger = 0;
    char endpoint[128];
    size_t n_bytes = sizeof(endpoint);
    struct rng rng = rng_open((struct rng_key){.seed = 4, .purpose = RNG_TEST});
    static struct message message;
    static uint8_t bytes[MESSAGE_MAX_BYTES];
    zmq_setsockopt(router, ZMQ_LINGER, &linger, sizeof(linger));
    assert_int_equal(zmq_bind(router, "tcp://127.0.0.1:*"), 0);
    zmq_getsockopt(router, ZMQ_LAST_ENDPOINT, endpoint, &n_bytes);
    struct fleet_options one = fleet_options(endpoint);
    struct fleet_loader *loader = fleet_loader_open(&one);
    for (int round = 0; round < 6; round++) {
        uint8_t routing[16];
        int n_routing, n;
        do { /* until it says Hello */
            n_routing = zmq_recv(router, routing, sizeof(routing), 0);
            n = zmq_recv(router, bytes, sizeof(bytes), 0);
            assert_true(n_routing > 0 && n > 0);
            assert_int_equal(message_unpack(&message, bytes, (size_t)n), STATUS_OK);
        } while (message.kind != MESSAGE_HELLO);
        uint32_t attempt = message.hello.attempt;
        memset(&message, 0, sizeof(message));
        message.session = 1 + (uint64_t)round;
        message.kind = MESSAGE_SPEC;
        message.spec.attempt = attempt;
        message.spec.data_spec = fleet_spec();
        message.spec.digest = data_spec_digest(&message.spec.data_spec);
        size_t n_spec = message_pack(&message, bytes);
        zmq_send(router, routing, (size_t)n_routing, ZMQ_SNDMORE);
        zmq_send(router, bytes, n_spec, 0);
        message.kind = MESSAGE_LEASE;
        message.lease.n_items = round % 2 == 0 ? 100 : 1; /* far more than its credit, or */
        for (int32_t i = 0; i < message.lease.n_items; i++)
            message.lease.items[i] = (struct lease_item){
                .slice_id = (uint64_t)i,
                .first_position = round % 2 == 0 ? 0 : INT64_MAX / 2, /* out of the data set */
                .stride = 1,
                .n_samples = 4};
        size_t n_lease = message_pack(&message, bytes);
        zmq_send(router, routing, (size_t)n_routing, ZMQ_SNDMORE);
        zmq_send(router, bytes, n_lease, 0);
        for (int i = 0; i < 200; i++)
            bytes[i] = (uint8_t)rng_u32(&rng);
        zmq_send(router, routing, (size_t)n_routing, ZMQ_SNDMORE);
        zmq_send(router, bytes, 200, 0);
        zmq_send(router, routing, (size_t)n_routing, ZMQ_SNDMORE);
        zmq_send(router, bytes, 100, ZMQ_SNDMORE);
        zmq_send(router, bytes, 100, 0);
    }
    /* It has dropped what it held each time and introduced itself again. */
    zmq_close(router);
    zmq_ctx_term(context);
    fleet_loader_close(&loader);
}

static void a_loader_says_why_it_cannot_serve_a_spec(void **state)
{
    (void)state;
    void *context = zmq_ctx_new(), *router = zmq_socket(context, ZMQ_ROUTER);
    int linger = 0;
    char endpoint[128];
    size_t n_endpoint = sizeof(endpoint);
    static struct message message;
    static uint8_t bytes[MESSAGE_MAX_BYTES];
    uint8_t routing[16];
    zmq_setsockopt(router, ZMQ_LINGER, &linger, sizeof(linger));
    assert_int_equal(zmq_bind(router, "tcp://127.0.0.1:*"), 0);
    zmq_getsockopt(router, ZMQ_LAST_ENDPOINT, endpoint, &n_endpoint);
    struct fleet_options one = fleet_options(endpoint);
    struct fleet_loader *loader = fleet_loader_open(&one);
    int n_routing = zmq_recv(router, routing, sizeof(routing), 0);
    int n = zmq_recv(router, bytes, sizeof(bytes), 0);
    assert_int_equal(message_unpack(&message, bytes, (size_t)n), STATUS_OK);
    uint32_t attempt = message.hello.attempt;
    memset(&message, 0, sizeof(message));
    message.kind = MESSAGE_SPEC;
    message.session = 9;
    message.spec.attempt = attempt;
    message.spec.data_spec = fleet_spec();
    message.spec.data_spec.saturation = 99;
    message.spec.digest = data_spec_digest(&message.spec.data_spec);
    size_t n_bytes = message_pack(&message, bytes);
    zmq_send(router, routing, (size_t)n_routing, ZMQ_SNDMORE);
    zmq_send(router, bytes, n_bytes, 0);
    zmq_recv(router, routing, sizeof(routing), 0);
    n = zmq_recv(router, bytes, sizeof(bytes), 0);
    assert_int_equal(message_unpack(&message, bytes, (size_t)n), STATUS_OK);
    assert_int_equal(message.kind, MESSAGE_GOODBYE);
    assert_int_equal(message.session, 9);
    assert_non_null(strstr(message.goodbye.reason, "saturation"));
    assert_int_equal(fleet_loader_join(loader), STATUS_MISMATCH);
    assert_non_null(strstr(loader->text, "saturation"));
    zmq_close(router);
    zmq_ctx_term(context);
    fleet_loader_close(&loader);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_loader_with_another_data_set_is_refused),
        cmocka_unit_test(a_loader_that_makes_other_pixels_is_refused),
        cmocka_unit_test(a_loader_of_another_version_is_told_so),
        cmocka_unit_test(when_no_loader_fits_the_caller_learns_why),
        cmocka_unit_test(each_kind_of_corrupt_slice_is_dropped_and_its_sender_refused),
        cmocka_unit_test(a_silent_loader_costs_a_lease_timeout),
        cmocka_unit_test(a_slice_sent_twice_is_taken_once),
        cmocka_unit_test(a_loader_that_says_hello_again_begins_anew),
        cmocka_unit_test(what_was_said_to_another_connection_is_void_when_it_is_replayed),
        cmocka_unit_test(messages_from_strangers_are_answered_or_ignored),
        cmocka_unit_test(a_frame_that_is_too_long_ends_the_connection_and_takes_no_memory),
        cmocka_unit_test(peers_of_older_protocols_are_hung_up_on),
        cmocka_unit_test(nobody_can_guess_the_names_of_connections),
        cmocka_unit_test(random_bytes_on_the_port_change_nothing),
        cmocka_unit_test(loaders_that_come_and_go_leave_no_memory_behind),
        cmocka_unit_test(a_loader_bears_with_a_consumer_that_makes_no_sense),
        cmocka_unit_test(a_loader_says_why_it_cannot_serve_a_spec),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
