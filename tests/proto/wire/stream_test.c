/* Consumer and loaders together, over ipc and tcp: the stream is the same whoever makes it, however
 * often loaders die, and wherever it begins. */
#include <dlfcn.h>
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>
#include <zmq.h>

#include "proto/base/clock.h"
#include "proto/wire/consumer.h"
#include "proto/wire/socket.h"
#include "tests/proto/wire/fleet.h"

enum { BATCH = 24, MAX_STEPS = 400 };

static const int64_t patience_ns = 60000000000;

struct fixture {
    char folder[64], endpoint[96];
};

static int fixture_open(void **state)
{
    struct fixture *fixture = calloc(1, sizeof(*fixture));
    strcpy(fixture->folder, "/tmp/ibot-stream-XXXXXX");
    assert_non_null(mkdtemp(fixture->folder));
    snprintf(fixture->endpoint, sizeof(fixture->endpoint), "ipc://%s/socket", fixture->folder);
    *state = fixture;
    return 0;
}

static int fixture_close(void **state)
{
    struct fixture *fixture = *state;
    unlink(fixture->endpoint + strlen("ipc://"));
    rmdir(fixture->folder);
    free(fixture);
    return 0;
}

static struct consumer_options options_for(const char *endpoint)
{
    struct consumer_options options = fleet_consumer_options(endpoint);

    options.batch_size = BATCH;
    options.slice_size = 7;
    return options;
}

static void at_end(struct consumer *consumer)
{
    struct batch *batch;
    assert_int_equal(consumer_next(consumer, &batch, clock_monotonic_ns() + patience_ns),
                     STATUS_CLOSED);
}

/* Takes the rest of the stream; digests[step] of every batch. Returns how many came. */
static int64_t take_all(struct consumer *consumer, uint64_t *digests)
{
    int64_t n = 0;
    for (;;) {
        struct batch *batch;
        enum status status = consumer_next(consumer, &batch, clock_monotonic_ns() + patience_ns);
        if (status == STATUS_CLOSED)
            return n;
        if (status != STATUS_OK)
            fail_msg("%s", status_message());
        assert_in_range(batch->step, 0, MAX_STEPS - 1);
        digests[batch->step] = batch->digest;
        consumer_return(consumer, batch);
        n++;
    }
}

/* The digests of two epochs, made by one loader in this process. */
static int64_t reference(const char *endpoint, uint64_t *digests)
{
    struct consumer_options options = options_for(endpoint);
    struct consumer *consumer = fleet_consumer_open(&options);
    struct fleet_options one = fleet_options(consumer_endpoint(consumer, 0));
    struct fleet_loader *loader = fleet_loader_open(&one);
    fleet_consumer_start(consumer, 0, 2);
    int64_t n = take_all(consumer, digests);
    fleet_loader_close(&loader);
    consumer_close(&consumer);
    return n;
}

static void every_byte_of_every_batch_is_where_it_belongs(void **state)
{
    struct fixture *fixture = *state;
    struct consumer_options options = options_for(fixture->endpoint);
    struct consumer *consumer = fleet_consumer_open(&options);
    struct fleet_options one = fleet_options(fixture->endpoint);
    struct fleet_loader *loader = fleet_loader_open(&one);
    fleet_consumer_start(consumer, 0, 2);
    int64_t per_epoch = consumer_steps_per_epoch(consumer);
    assert_int_equal(per_epoch, FLEET_SAMPLES / BATCH);
    for (int64_t step = 0; step < 2 * per_epoch; step++) {
        struct batch *batch = fleet_next(consumer);
        assert_int_equal(batch->step, step);
        assert_int_equal(batch->epoch, step / per_epoch);
        assert_int_equal(batch->n_samples, BATCH);
        fleet_check_batch(&options.spec, batch, 0, 1, step % per_epoch * BATCH);
        consumer_return(consumer, batch);
    }
    at_end(consumer);
    at_end(consumer);
    struct consumer_stats stats;
    consumer_stats(consumer, &stats);
    assert_int_equal(stats.n_batches, 2 * per_epoch);
    assert_int_equal(stats.n_slices, 2 * per_epoch * 4);
    assert_int_equal(stats.n_bytes,
                     (uint64_t)(2 * per_epoch * BATCH) * data_spec_record_bytes(&options.spec));
    assert_int_equal(stats.n_corrupt + stats.n_duplicates + stats.n_rejected_loaders, 0);
    fleet_loader_close(&loader);
    consumer_close(&consumer);
}

static void the_stream_is_the_same_from_one_two_and_five_loaders(void **state)
{
    struct fixture *fixture = *state;
    static uint64_t want[MAX_STEPS], got[MAX_STEPS];
    int64_t n = reference("tcp://127.0.0.1:0", want);
    for (int n_loaders = 1; n_loaders <= 5; n_loaders += n_loaders == 1 ? 1 : 3) {
        struct consumer_options options = options_for(fixture->endpoint);
        struct fleet_loader *loaders[5];
        options.slice_size = 3 + 4 * n_loaders; /* must not matter either */
        struct consumer *consumer = fleet_consumer_open(&options);
        for (int i = 0; i < n_loaders; i++) {
            struct fleet_options one = fleet_options(fixture->endpoint);
            one.n_threads = 1 + i % 2;
            one.credit = 2 + i;
            loaders[i] = fleet_loader_open(&one);
        }
        fleet_consumer_start(consumer, 0, 2);
        memset(got, 0, sizeof(got));
        assert_int_equal(take_all(consumer, got), n);
        assert_memory_equal(got, want, (size_t)n * sizeof(want[0]));
        for (int i = 0; i < n_loaders; i++)
            fleet_loader_close(&loaders[i]);
        consumer_close(&consumer);
    }
}

static void the_stream_is_the_same_when_loaders_are_killed_and_started(void **state)
{
    struct fixture *fixture = *state;
    static uint64_t want[MAX_STEPS];
    int64_t n = reference(fixture->endpoint, want);
    struct consumer_options options = options_for(fixture->endpoint);
    struct consumer *consumer = fleet_consumer_open(&options);
    pid_t loaders[3];
    for (int i = 0; i < 3; i++)
        loaders[i] = fleet_spawn(fixture->endpoint, NULL);
    fleet_consumer_start(consumer, 0, 2);
    for (int64_t step = 0; step < n; step++) {
        struct batch *batch = fleet_next(consumer);
        assert_int_equal(batch->step, step);
        assert_int_equal(batch->digest, want[step]);
        consumer_return(consumer, batch);
        if (step % 8 == 3) {
            pid_t *one = &loaders[step / 8 % 3];
            fleet_kill(*one);
            *one = fleet_spawn(fixture->endpoint, NULL);
        }
        if (step == n / 2) /* all of them at once */
            for (int i = 0; i < 3; i++) {
                fleet_kill(loaders[i]);
                loaders[i] = fleet_spawn(fixture->endpoint, NULL);
            }
    }
    at_end(consumer);
    for (int i = 0; i < 3; i++)
        fleet_kill(loaders[i]);
    consumer_close(&consumer);
}

static void a_run_resumes_at_any_step(void **state)
{
    struct fixture *fixture = *state;
    static uint64_t want[MAX_STEPS], got[MAX_STEPS];
    int64_t n = reference(fixture->endpoint, want);
    const int64_t steps[] = {1, 17, n / 2, n - 1, n};
    for (size_t i = 0; i < sizeof(steps) / sizeof(steps[0]); i++) {
        struct consumer_options options = options_for(fixture->endpoint);
        struct consumer *consumer = fleet_consumer_open(&options);
        struct fleet_options one = fleet_options(fixture->endpoint);
        struct fleet_loader *loader = fleet_loader_open(&one);
        fleet_consumer_start(consumer, steps[i], 2);
        memset(got, 0, sizeof(got));
        assert_int_equal(take_all(consumer, got), n - steps[i]);
        assert_memory_equal(got + steps[i], want + steps[i],
                            (size_t)(n - steps[i]) * sizeof(want[0]));
        fleet_loader_close(&loader);
        consumer_close(&consumer);
    }
}

static void an_evaluation_ends_with_a_short_batch(void **state)
{
    struct fixture *fixture = *state;
    const int32_t sizes[] = {100, 1000, 1003, 2000};
    for (size_t k = 0; k < sizeof(sizes) / sizeof(sizes[0]); k++) {
        struct consumer_options options = options_for(fixture->endpoint);
        options.drop_last = false;
        options.batch_size = sizes[k];
        options.slice_size = 16;
        struct consumer *consumer = fleet_consumer_open(&options);
        struct fleet_options one = fleet_options(fixture->endpoint);
        struct fleet_loader *loader = fleet_loader_open(&one);
        fleet_consumer_start(consumer, 0, 1);
        int64_t n_batches = (FLEET_SAMPLES + sizes[k] - 1) / sizes[k];
        for (int64_t step = 0; step < n_batches; step++) {
            struct batch *batch = fleet_next(consumer);
            int64_t left = FLEET_SAMPLES - step * sizes[k];
            assert_int_equal(batch->n_samples, left < sizes[k] ? left : sizes[k]);
            fleet_check_batch(&options.spec, batch, 0, 1, step * sizes[k]);
            consumer_return(consumer, batch);
        }
        at_end(consumer);
        fleet_loader_close(&loader);
        consumer_close(&consumer);
    }
}

/* Repeated augmentation: an epoch is the samples' whole 256s long, and its batches go on from
 * position to position. */
static void an_epoch_of_repeats_ends_where_the_sampler_ends_it(void **state)
{
    struct fixture *fixture = *state;
    struct consumer_options options = options_for(fixture->endpoint);
    options.spec.repeats = 3;
    options.drop_last = false;
    options.batch_size = 100;
    struct consumer *consumer = fleet_consumer_open(&options);
    struct fleet_options one = fleet_options(fixture->endpoint);
    struct fleet_loader *loader = fleet_loader_open(&one);
    fleet_consumer_start(consumer, 0, 1);
    assert_int_equal(consumer_steps_per_epoch(consumer), 8);
    for (int64_t step = 0; step < 8; step++) { /* 768 of 1003 */
        struct batch *batch = fleet_next(consumer);
        assert_int_equal(batch->n_samples, step < 7 ? 100 : 68);
        fleet_check_batch(&options.spec, batch, 0, 1, step * 100);
        consumer_return(consumer, batch);
    }
    at_end(consumer);
    fleet_loader_close(&loader);
    consumer_close(&consumer);
}

static void one_loader_serves_two_ranks(void **state)
{
    (void)state;
    struct consumer *consumers[2];
    struct consumer_options options = options_for("tcp://127.0.0.1:0");
    options.world = 2;
    struct fleet_options one = fleet_options(NULL);
    for (int rank = 0; rank < 2; rank++) {
        options.rank = rank;
        consumers[rank] = fleet_consumer_open(&options);
        one.endpoints[rank] = consumer_endpoint(consumers[rank], 0);
    }
    one.n_endpoints = 2;
    one.exit_when_done = true;
    struct fleet_loader *loader = fleet_loader_open(&one);
    for (int rank = 0; rank < 2; rank++)
        fleet_consumer_start(consumers[rank], 0, 1);
    int64_t per_epoch = consumer_steps_per_epoch(consumers[0]);
    assert_int_equal(per_epoch, (FLEET_SAMPLES + 1) / 2 / BATCH);
    for (int64_t step = 0; step < per_epoch; step++)
        for (int rank = 0; rank < 2; rank++) {
            struct batch *batch = fleet_next(consumers[rank]);
            fleet_check_batch(&options.spec, batch, rank, 2, step * BATCH);
            consumer_return(consumers[rank], batch);
        }
    /* Both have said that they are done, so the loader ends of itself. */
    assert_int_equal(fleet_loader_join(loader), STATUS_OK);
    fleet_loader_close(&loader);
    consumer_close(&consumers[0]);
    consumer_close(&consumers[1]);
}

static void a_loader_survives_the_restart_of_its_consumer(void **state)
{
    struct fixture *fixture = *state;
    static uint64_t want[MAX_STEPS];
    int64_t n = reference(fixture->endpoint, want);
    struct fleet_options one = fleet_options(fixture->endpoint);
    struct fleet_loader *loader = fleet_loader_open(&one); /* before there is anybody */
    int64_t step = 0;
    for (int round = 0; round < 4; round++) {
        struct consumer_options options = options_for(fixture->endpoint);
        struct consumer *consumer = fleet_consumer_open(&options);
        fleet_consumer_start(consumer, step, 2);
        for (int i = 0; i < 10; i++, step++) {
            struct batch *batch = fleet_next(consumer);
            assert_int_equal(batch->step, step);
            assert_int_equal(batch->digest, want[step]);
            consumer_return(consumer, batch);
        }
        consumer_close(&consumer); /* with leases out */
    }
    assert_true(step < n);
    /* And another one, which wants something else. */
    struct consumer_options options = options_for(fixture->endpoint);
    options.spec.n_local = 1;
    options.spec.n_pred_ratios = 0;
    struct consumer *consumer = fleet_consumer_open(&options);
    fleet_consumer_start(consumer, 0, 1);
    struct batch *batch = fleet_next(consumer);
    assert_null(batch->masks);
    fleet_check_batch(&options.spec, batch, 0, 1, 0);
    consumer_return(consumer, batch);
    consumer_close(&consumer);
    fleet_loader_close(&loader);
}

static void batches_may_be_returned_late_and_in_any_order(void **state)
{
    struct fixture *fixture = *state;
    struct consumer_options options = options_for(fixture->endpoint);
    struct consumer *consumer = fleet_consumer_open(&options);
    struct fleet_options one = fleet_options(fixture->endpoint);
    struct fleet_loader *loader = fleet_loader_open(&one);
    struct batch *held[4], *none;
    fleet_consumer_start(consumer, 0, 1);
    int64_t step = 0;
    for (int round = 0; round < 5; round++) {
        for (int i = 0; i < 4; i++)
            held[i] = fleet_next(consumer);
        /* All places are taken: nothing more can come. */
        assert_int_equal(consumer_next(consumer, &none, clock_monotonic_ns() + 20000000),
                         STATUS_TIMEOUT);
        for (int i = 0; i < 4; i++, step++)
            fleet_check_batch(&options.spec, held[i], 0, 1, step * BATCH);
        for (int i = 3; i >= 0; i -= 2)
            consumer_return(consumer, held[i]);
        for (int i = 2; i >= 0; i -= 2)
            consumer_return(consumer, held[i]);
    }
    fleet_loader_close(&loader);
    consumer_close(&consumer);
}

static void without_a_loader_waiting_ends_at_the_deadline(void **state)
{
    struct fixture *fixture = *state;
    struct consumer_options options = options_for(fixture->endpoint);
    struct consumer *consumer = fleet_consumer_open(&options);
    struct dataset_info dataset;
    struct batch *batch;
    assert_int_equal(consumer_dataset(consumer, &dataset, clock_monotonic_ns() + 1000000),
                     STATUS_TIMEOUT);
    assert_non_null(strstr(status_message(), fixture->endpoint));
    assert_int_equal(consumer_next(consumer, &batch, clock_monotonic_ns() + 1000000),
                     STATUS_TIMEOUT);
    consumer_close(&consumer);
    assert_null(consumer);
    consumer_close(&consumer);
}

static void a_data_set_smaller_than_a_batch_is_an_error(void **state)
{
    struct fixture *fixture = *state;
    struct consumer_options options = options_for(fixture->endpoint);
    options.batch_size = FLEET_SAMPLES + 1;
    struct consumer *consumer = fleet_consumer_open(&options);
    struct fleet_options one = fleet_options(fixture->endpoint);
    struct fleet_loader *loader = fleet_loader_open(&one);
    struct dataset_info dataset;
    assert_int_equal(consumer_dataset(consumer, &dataset, clock_monotonic_ns() + patience_ns),
                     STATUS_OK);
    assert_int_equal(consumer_start(consumer, 0, 1), STATUS_INVALID);
    assert_non_null(strstr(status_message(), "smaller batch"));
    fleet_loader_close(&loader);
    consumer_close(&consumer);
}

static void bad_images_are_reported_once_an_epoch(void **state)
{
    struct fixture *fixture = *state;
    struct consumer_options options = options_for(fixture->endpoint);
    struct consumer *consumer = fleet_consumer_open(&options);
    struct fleet_options one = fleet_options(fixture->endpoint);
    one.reports_bad_images = true;
    struct fleet_loader *loader = fleet_loader_open(&one);
    static uint64_t digests[MAX_STEPS];
    static int n_reports[2][FLEET_SAMPLES], n_want[2][FLEET_SAMPLES];
    uint64_t n_repaired = 0;
    struct bad_image bad;
    fleet_consumer_start(consumer, 0, 2);
    int64_t per_epoch = consumer_steps_per_epoch(consumer);
    assert_int_equal(take_all(consumer, digests), 2 * per_epoch);
    uint64_t n = 0;
    while (consumer_bad_image(consumer, &bad)) {
        char path[64];
        snprintf(path, sizeof(path), "/data/%u.jpg", bad.index);
        assert_string_equal(bad.path, path);
        assert_string_equal(bad.reason, "torn");
        assert_int_equal(bad.kind, BAD_IMAGE_MISSING);
        n_reports[bad.epoch][bad.index]++;
        n++;
    }
    for (int epoch = 0; epoch < 2; epoch++)
        for (uint64_t position = 0; position < (uint64_t)(per_epoch * BATCH); position++) {
            struct batch_sample sample = fleet_sample(epoch, position);
            if (sample.index % 100 == 0)
                n_want[epoch][sample.index] = 1;
            n_repaired += sample.n_repaired > 0;
        }
    assert_memory_equal(n_reports, n_want, sizeof(n_want));
    struct consumer_stats stats;
    consumer_stats(consumer, &stats);
    assert_int_equal(stats.n_bad_images, n);
    assert_int_equal(stats.n_bad_of[BAD_IMAGE_MISSING], n);
    assert_int_equal(stats.n_repaired, n_repaired);
    fleet_loader_close(&loader);
    consumer_close(&consumer);
}

static void policy_fail_ends_the_stream_where_the_bad_image_is(void **state)
{
    struct fixture *fixture = *state;
    struct consumer_options options = options_for(fixture->endpoint);
    options.spec.bad_image_policy = BAD_IMAGE_FAIL;
    struct consumer *consumer = fleet_consumer_open(&options);
    struct fleet_loader *loaders[2];
    struct fleet_options one = fleet_options(fixture->endpoint);
    one.fail_position = 10 * BATCH + 5;
    for (int i = 0; i < 2; i++)
        loaders[i] = fleet_loader_open(&one);
    fleet_consumer_start(consumer, 0, 2);
    for (int64_t step = 0; step < 10; step++) {
        struct batch *batch = fleet_next(consumer);
        assert_int_equal(batch->step, step);
        consumer_return(consumer, batch);
    }
    struct batch *batch;
    for (int i = 0; i < 2; i++) {
        assert_int_equal(consumer_next(consumer, &batch, clock_monotonic_ns() + patience_ns),
                         STATUS_CORRUPT);
        assert_non_null(strstr(status_message(), "position 245 is bad"));
        assert_non_null(strstr(status_message(), "step 10"));
    }
    for (int i = 0; i < 2; i++)
        fleet_loader_close(&loaders[i]);
    consumer_close(&consumer);
}

static void a_slice_that_every_try_fails_at_ends_the_stream_too(void **state)
{
    struct fixture *fixture = *state;
    struct consumer_options options = options_for(fixture->endpoint);
    struct consumer *consumer = fleet_consumer_open(&options);
    struct fleet_options one = fleet_options(fixture->endpoint);
    one.fail_position = 2 * BATCH;
    struct fleet_loader *loader = fleet_loader_open(&one);
    fleet_consumer_start(consumer, 0, 2);
    for (int64_t step = 0; step < 2; step++)
        consumer_return(consumer, fleet_next(consumer));
    struct batch *batch;
    assert_int_equal(consumer_next(consumer, &batch, clock_monotonic_ns() + patience_ns),
                     STATUS_CORRUPT);
    assert_non_null(strstr(status_message(), "position 48 is bad"));
    fleet_loader_close(&loader);
    consumer_close(&consumer);
}

struct allocations {
    struct consumer *consumer;
    int n_made, n_freed;
    size_t n_bytes;
};

static enum status counted_alloc(void *context, void **out, size_t bytes)
{
    struct allocations *allocations = context;
    struct consumer_stats before, now;
    /* However long it takes, the stream's thread goes on. */
    consumer_stats(allocations->consumer, &before);
    do
        consumer_stats(allocations->consumer, &now);
    while (now.alive_ns == before.alive_ns);
    allocations->n_made++;
    allocations->n_bytes = bytes;
    *out = malloc(bytes);
    return *out != NULL ? STATUS_OK : STATUS_NO_MEMORY;
}

static void counted_free(void *context, void *pointer)
{
    struct allocations *allocations = context;
    allocations->n_freed++;
    free(pointer);
}

static void batches_lie_in_the_callers_memory(void **state)
{
    struct fixture *fixture = *state;
    struct allocations allocations = {0};
    struct consumer_options options = options_for(fixture->endpoint);
    options.alloc = counted_alloc;
    options.free = counted_free;
    options.alloc_context = &allocations;
    struct consumer *consumer = fleet_consumer_open(&options);
    allocations.consumer = consumer;
    assert_int_equal(allocations.n_made, 0);
    struct fleet_options one = fleet_options(fixture->endpoint);
    struct fleet_loader *loader = fleet_loader_open(&one);
    static uint64_t digests[MAX_STEPS];
    fleet_consumer_start(consumer, 0, 2);
    assert_int_equal(allocations.n_made, 4);
    take_all(consumer, digests);
    assert_int_equal(allocations.n_made, 4);
    fleet_loader_close(&loader);
    consumer_close(&consumer);
    assert_int_equal(allocations.n_freed, 4);
}

static void images_larger_than_a_frame_go_one_by_one(void **state)
{
    struct fixture *fixture = *state;
    struct consumer_options options = options_for(fixture->endpoint);
    options.spec.global_size_px = 640; /* 2.4 MB an image */
    options.batch_size = 6;
    options.slice_size = 4;
    assert_int_equal(socket_images_per_frame(data_spec_record_bytes(&options.spec)), 1);
    struct consumer *consumer = fleet_consumer_open(&options);
    struct fleet_options one = fleet_options(fixture->endpoint);
    struct fleet_loader *loader = fleet_loader_open(&one);
    fleet_consumer_start(consumer, 0, 1);
    for (int64_t step = 0; step < 3; step++) {
        struct batch *batch = fleet_next(consumer);
        fleet_check_batch(&options.spec, batch, 0, 1, step * 6);
        consumer_return(consumer, batch);
    }
    fleet_loader_close(&loader);
    consumer_close(&consumer);
}

/* In place of the library's: every third call is interrupted by a signal before it does anything.
 */
static atomic_bool interrupts;
static atomic_int n_interrupted;

int zmq_msg_send(zmq_msg_t *part, void *socket, int flags)
{
    static _Thread_local int n_calls;
    int (*real)(zmq_msg_t *, void *, int) = NULL;
    void *symbol = dlsym(RTLD_NEXT, "zmq_msg_send");
    memcpy(&real, &symbol, sizeof(symbol));
    if (atomic_load(&interrupts) && ++n_calls % 3 == 0) {
        atomic_fetch_add(&n_interrupted, 1);
        errno = EINTR;
        return -1;
    }
    return real(part, socket, flags);
}

static void a_signal_does_not_tear_a_slice(void **state)
{
    struct fixture *fixture = *state;
    struct consumer_options options = options_for(fixture->endpoint);
    options.spec.global_size_px = 640; /* one image in a frame */
    options.batch_size = options.slice_size = 8;
    struct consumer *consumer = fleet_consumer_open(&options);
    struct fleet_options one = fleet_options(fixture->endpoint);
    atomic_store(&interrupts, true);
    struct fleet_loader *loader = fleet_loader_open(&one);
    struct consumer_stats stats;
    fleet_consumer_start(consumer, 0, 1);
    fleet_check_batches(consumer, &options.spec, 0, 6);
    consumer_stats(consumer, &stats);
    assert_int_equal(stats.n_corrupt, 0);
    assert_true(atomic_load(&n_interrupted) > 6);
    atomic_store(&interrupts, false);
    fleet_loader_close(&loader);
    consumer_close(&consumer);
}

int main(void)
{
#define TEST(name) cmocka_unit_test_setup_teardown(name, fixture_open, fixture_close)
    const struct CMUnitTest tests[] = {
        TEST(every_byte_of_every_batch_is_where_it_belongs),
        TEST(the_stream_is_the_same_from_one_two_and_five_loaders),
        TEST(the_stream_is_the_same_when_loaders_are_killed_and_started),
        TEST(a_run_resumes_at_any_step),
        TEST(an_evaluation_ends_with_a_short_batch),
        TEST(an_epoch_of_repeats_ends_where_the_sampler_ends_it),
        TEST(one_loader_serves_two_ranks),
        TEST(a_loader_survives_the_restart_of_its_consumer),
        TEST(batches_may_be_returned_late_and_in_any_order),
        TEST(without_a_loader_waiting_ends_at_the_deadline),
        TEST(a_data_set_smaller_than_a_batch_is_an_error),
        TEST(bad_images_are_reported_once_an_epoch),
        TEST(policy_fail_ends_the_stream_where_the_bad_image_is),
        TEST(a_slice_that_every_try_fails_at_ends_the_stream_too),
        TEST(batches_lie_in_the_callers_memory),
        TEST(images_larger_than_a_frame_go_one_by_one),
        TEST(a_signal_does_not_tear_a_slice),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
