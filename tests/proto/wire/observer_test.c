/* Who asks how a stream stands is told, and the stream goes on as if nobody had asked. */
#include "proto/wire/observer.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <zmq.h>

#include <cmocka.h>

#include "proto/base/clock.h"
#include "proto/base/memory.h"
#include "proto/wire/consumer.h"
#include "proto/wire/strangers.h"
#include "tests/proto/wire/fleet.h"

static const int64_t patience_ns = 60000000000;

static struct message message;

static struct consumer_options small_options(const char *endpoint)
{
    struct consumer_options options = fleet_consumer_options(endpoint);

    options.rank = 1;
    options.world = 2;
    return options;
}

static struct observer *open_observer(const char *endpoint)
{
    struct observer *observer = NULL;

    if (observer_open(&observer, endpoint, NULL, NULL) != STATUS_OK)
        fail_msg("%s", status_message());
    return observer;
}

static const struct message_status *ask(struct observer *observer)
{
    if (observer_ask(observer, &message, clock_monotonic_ns() + patience_ns, NULL) != STATUS_OK)
        fail_msg("%s", status_message());
    return &message.status;
}

/* Asks in vain, until it is known why. */
static void expect_no_answer(struct observer *observer, const char *why)
{
    int64_t deadline_ns = clock_monotonic_ns() + patience_ns;

    do {
        assert_true(clock_monotonic_ns() < deadline_ns);
        assert_int_equal(observer_ask(observer, &message, clock_monotonic_ns() + 300000000, NULL),
                         STATUS_TIMEOUT);
    } while (strstr(status_message(), why) == NULL);
}

/* Asks until `n` batches are ready. */
static const struct message_status *ask_until_ready(struct observer *observer, int32_t n)
{
    for (;;) {
        const struct message_status *status = ask(observer);
        if (status->n_ready >= n)
            return status;
    }
}

static void a_report_says_what_is_so(void **state)
{
    struct consumer_options options = small_options("tcp://127.0.0.1:0");
    struct consumer *consumer = fleet_consumer_open(&options);
    struct observer *observer = open_observer(consumer_endpoint(consumer, 0));
    struct dataset_info dataset;

    (void)state;
    const struct message_status *status = ask(observer);
    assert_false(status->has_stream);
    assert_int_equal(status->n_loaders, 0);

    struct fleet_options one = fleet_options(consumer_endpoint(consumer, 0));
    one.n_threads = 2;
    one.credit = 5;
    struct fleet_loader *loader = fleet_loader_open(&one);
    assert_int_equal(consumer_dataset(consumer, &dataset, clock_monotonic_ns() + patience_ns),
                     STATUS_OK);
    assert_int_equal(consumer_start(consumer, 2, 3), STATUS_OK);
    status = ask_until_ready(observer, 4); /* nobody takes any: all slots are full */
    const struct message_recording *stream = &status->stream;
    assert_true(status->has_stream);
    assert_int_equal(stream->rank, 1);
    assert_int_equal(stream->world, 2);
    assert_int_equal(stream->batch_size, FLEET_BATCH);
    assert_int_equal(stream->steps_per_epoch, consumer_steps_per_epoch(consumer));
    assert_int_equal(stream->first_step, 2);
    assert_int_equal(status->end_step, 3 * consumer_steps_per_epoch(consumer));
    assert_int_equal(stream->n_samples, FLEET_SAMPLES);
    assert_int_equal(stream->index_digest, dataset.index_digest);
    assert_true(stream->spec_digest == data_spec_digest(&options.spec));
    assert_int_equal(status->n_slots, 4);
    assert_int_equal(status->n_leases, 0);
    assert_int_equal(status->n_slices, 4 * FLEET_BATCH / FLEET_SLICE);
    assert_int_equal(status->n_images, 4 * FLEET_BATCH);
    assert_int_equal(status->n_bytes, 4 * FLEET_BATCH * data_spec_record_bytes(&options.spec));
    assert_int_equal(status->n_batches, 0);
    assert_int_equal(status->n_loaders, 1);
    assert_int_equal(status->n_listed, 1);
    assert_int_equal(status->loaders[0].n_images, 4 * FLEET_BATCH);
    assert_int_equal(status->loaders[0].credit, 5);
    assert_int_equal(status->loaders[0].n_threads, 2);

    consumer_return(consumer, fleet_next(consumer));
    int64_t then_ns = status->time_ns;
    do
        status = ask(observer);
    while (status->n_images < 5 * FLEET_BATCH);
    assert_int_equal(status->n_batches, 1);
    assert_int_equal(status->stream.first_step, 3);
    assert_true(status->time_ns > then_ns);
    observer_close(&observer);
    fleet_loader_close(&loader);
    consumer_close(&consumer);
}

/* The next message, whatever it is. Who said too much is not heard for a while: says `out` again
 * until something comes. */
static enum message_kind receive_any(struct raw_peer *peer)
{
    zmq_pollitem_t item = {.socket = peer->socket, .events = ZMQ_POLLIN};
    int64_t deadline_ns = clock_monotonic_ns() + patience_ns;
    uint8_t bytes[MESSAGE_MAX_BYTES];

    while (zmq_poll(&item, 1, 50) == 0) {
        assert_true(clock_monotonic_ns() < deadline_ns);
        raw_peer_send(peer, NULL, 0);
    }
    int n = zmq_recv(peer->socket, bytes, sizeof(bytes), 0);
    assert_true(n > 0);
    assert_int_equal(message_unpack(&peer->in, bytes, (size_t)n), STATUS_OK);
    return peer->in.kind;
}

/* Thousands of questions in a row: the stream is what it was, and few of them are even heard. */
static void questions_do_not_hold_up_the_stream(void **state)
{
    struct consumer_options options = small_options("tcp://127.0.0.1:0");
    struct consumer *consumer = fleet_consumer_open(&options);
    struct fleet_options one = fleet_options(consumer_endpoint(consumer, 0));
    struct fleet_loader *loader = fleet_loader_open(&one);
    struct consumer_stats stats;
    struct dataset_info dataset;
    struct raw_peer peer;
    int n_answers = 0;

    (void)state;
    raw_peer_open(&peer, consumer_endpoint(consumer, 0));
    assert_int_equal(consumer_dataset(consumer, &dataset, clock_monotonic_ns() + patience_ns),
                     STATUS_OK);
    assert_int_equal(consumer_start(consumer, 0, 1), STATUS_OK);
    int64_t begin_ns = clock_monotonic_ns();
    for (int step = 0; step < 31; step++) {
        peer.out.kind = MESSAGE_STATUS_WANTED;
        for (int i = 0; i < 100; i++)
            raw_peer_send(&peer, NULL, 0);
        struct batch *batch = fleet_next(consumer);
        fleet_check_batch(&options.spec, batch, 1, 2, (int64_t)step * FLEET_BATCH);
        consumer_return(consumer, batch);
    }
    peer.out.kind = MESSAGE_ALIVE; /* what strangers are told of that comes after all answers */
    while (receive_any(&peer) != MESSAGE_HELLO_WANTED)
        n_answers += peer.in.kind == MESSAGE_STATUS;
    assert_true(n_answers >= 1);
    int64_t seconds = (clock_monotonic_ns() - begin_ns) / 1000000000;
    assert_true(n_answers <= STRANGERS_BURST + (seconds + 1) * STRANGERS_PER_SECOND);
    consumer_stats(consumer, &stats);
    assert_true(stats.n_unheard > 0);
    raw_peer_close(&peer);
    fleet_loader_close(&loader);
    consumer_close(&consumer);
}

static void who_does_not_answer_is_named_with_what_is_known(void **state)
{
    struct observer *observer = open_observer("tcp://127.0.0.1:9");
    atomic_int stop = 1;

    (void)state;
    assert_int_equal(observer_ask(observer, &message, clock_monotonic_ns() + 100000000, NULL),
                     STATUS_TIMEOUT);
    assert_non_null(strstr(status_message(), "tcp://127.0.0.1:9"));
    assert_int_equal(observer_ask(observer, &message, INT64_MAX, &stop), STATUS_INTERRUPTED);
    observer_close(&observer);
    observer_close(&observer);
    assert_int_equal(observer_open(&observer, "nowhere", NULL, NULL), STATUS_INVALID);
}

static void with_keys_those_alone_are_told_who_are_in_the_list(void **state)
{
    char list[] = "/tmp/ibot-observer-XXXXXX", hex[KEY_TEXT_BYTES];
    struct key_pair trainer, friend, stranger;
    struct consumer_options options = small_options("tcp://127.0.0.1:0");
    struct observer *observer = NULL;

    (void)state;
    assert_int_equal(key_pair_generate(&trainer), STATUS_OK);
    assert_int_equal(key_pair_generate(&friend), STATUS_OK);
    assert_int_equal(key_pair_generate(&stranger), STATUS_OK);
    int file = mkstemp(list);
    dprintf(file, "%s friend\n", key_format(&friend.public_half, hex));
    close(file);
    options.keys = &trainer;
    options.allow = list;
    struct consumer *consumer = fleet_consumer_open(&options);
    const char *endpoint = consumer_endpoint(consumer, 0);
    assert_int_equal(observer_open(&observer, endpoint, &friend, &trainer.public_half), STATUS_OK);
    assert_false(ask(observer)->has_stream);
    observer_close(&observer);
    assert_int_equal(observer_open(&observer, endpoint, &stranger, &trainer.public_half),
                     STATUS_OK);
    expect_no_answer(observer, "--allow");
    observer_close(&observer);
    observer = open_observer(endpoint);
    expect_no_answer(observer, "--key");
    observer_close(&observer);
    consumer_close(&consumer);
    unlink(list);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_report_says_what_is_so),
        cmocka_unit_test(questions_do_not_hold_up_the_stream),
        cmocka_unit_test(who_does_not_answer_is_named_with_what_is_known),
        cmocka_unit_test(with_keys_those_alone_are_told_who_are_in_the_list),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
