#include "tests/proto/wire/fleet.h"

#include <setjmp.h>
#include <signal.h>
#include <spawn.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <zmq.h>

#include <cmocka.h>

#include "proto/base/clock.h"
#include "proto/base/hash.h"
#include "proto/base/memory.h"

extern char **environ;

struct dataset_info fleet_dataset(void)
{
    return (struct dataset_info){
        .index_digest = 0xda7a5e7, .n_samples = FLEET_SAMPLES, .n_classes = FLEET_CLASSES};
}

struct data_spec fleet_spec(void)
{
    struct data_spec spec = data_spec_default();
    spec.global_size_px = 16;
    spec.n_local = 3;
    spec.local_size_px = 8;
    spec.mask_cell_px = 5;
    return spec;
}

static uint64_t mix(uint64_t x)
{
    x += 0x9e3779b97f4a7c15u;
    x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9u;
    x = (x ^ (x >> 27)) * 0x94d049bb133111ebu;
    return x ^ (x >> 31);
}

struct batch_sample fleet_sample(int32_t epoch, uint64_t position)
{
    uint64_t draw = mix((uint64_t)epoch * 1000003 + position);
    uint32_t index = (uint32_t)(draw % FLEET_SAMPLES);
    return (struct batch_sample){.position = position,
                                 .index = index,
                                 .label = (int32_t)(index % FLEET_CLASSES),
                                 .n_substituted = index % 100 == 0 ? 1 : 0,
                                 .n_repaired = index % 7 == 0 ? 2 : 0};
}

void fleet_record(const struct data_spec *spec, int32_t epoch, uint64_t position, uint8_t *out)
{
    size_t n_bytes = data_spec_record_bytes(spec);
    uint64_t seed = mix((uint64_t)epoch << 40 ^ position);
    for (size_t i = 0; i < n_bytes; i += 8) {
        uint64_t word = mix(seed + i);
        memcpy(out + i, &word, n_bytes - i < 8 ? n_bytes - i : 8);
    }
    int32_t grid = data_spec_mask_grid(spec), used = grid * grid % 8;
    for (int32_t v = 0; v < spec->n_global && used > 0; v++)
        out[data_spec_mask_offset(spec, v) + data_spec_mask_bytes(spec) - 1] &=
            (uint8_t)((1 << used) - 1);
}

void fleet_check_batch(const struct data_spec *spec, const struct batch *batch, int32_t rank,
                       int32_t world, int64_t first_local)
{
    size_t n = (size_t)batch->n_samples, record_bytes = data_spec_record_bytes(spec);
    size_t grid = (size_t)data_spec_mask_grid(spec), cells = grid * grid;
    size_t global = data_spec_view_bytes(spec, 0);
    size_t local = data_spec_view_bytes(spec, spec->n_global);
    uint8_t *record = malloc(record_bytes);
    uint64_t digest = 0;
    for (size_t i = 0; i < n; i++) {
        uint64_t position = (uint64_t)(rank + world * (first_local + (int64_t)i));
        struct batch_sample want = fleet_sample(batch->epoch, position);
        const struct batch_sample *got = &batch->samples[i];
        assert_int_equal(got->position, want.position);
        assert_int_equal(got->index, want.index);
        assert_int_equal(got->label, want.label);
        assert_int_equal(got->n_substituted, want.n_substituted);
        assert_int_equal(got->n_repaired, want.n_repaired);
        fleet_record(spec, batch->epoch, position, record);
        for (size_t v = 0; v < (size_t)spec->n_global; v++) {
            assert_memory_equal(batch->globals + (v * n + i) * global,
                                record + data_spec_view_offset(spec, (int32_t)v), global);
            const uint8_t *bits = record + data_spec_mask_offset(spec, (int32_t)v);
            for (size_t c = 0; c < cells; c++)
                assert_int_equal(batch->masks[(v * n + i) * cells + c], bits[c / 8] >> c % 8 & 1);
        }
        for (size_t v = 0; v < (size_t)spec->n_local; v++)
            assert_memory_equal(batch->locals + (v * n + i) * local,
                                record + data_spec_view_offset(spec, spec->n_global + (int32_t)v),
                                local);
        const uint64_t words[] = {want.position, want.index, (uint32_t)want.label,
                                  want.n_substituted, hash_bytes(record, record_bytes)};
        digest = hash_bytes_seeded(words, sizeof(words), digest);
    }
    assert_int_equal(batch->digest, digest);
    free(record);
}

/* ---- a consumer in this process ---- */

static const int64_t patience_ns = 60000000000;

struct consumer_options fleet_consumer_options(const char *endpoint)
{
    return (struct consumer_options){.endpoints = {endpoint},
                                     .n_endpoints = 1,
                                     .spec = fleet_spec(),
                                     .batch_size = FLEET_BATCH,
                                     .slice_size = FLEET_SLICE,
                                     .prefetch = 3,
                                     .world = 1,
                                     .drop_last = true};
}

struct consumer *fleet_consumer_open(const struct consumer_options *options)
{
    struct consumer *consumer = NULL;

    if (consumer_open(&consumer, options) != STATUS_OK)
        fail_msg("%s", status_message());
    return consumer;
}

void fleet_consumer_start(struct consumer *consumer, int64_t step, int32_t n_epochs)
{
    struct dataset_info dataset, want = fleet_dataset();

    if (consumer_dataset(consumer, &dataset, clock_monotonic_ns() + patience_ns) != STATUS_OK)
        fail_msg("%s", status_message());
    assert_int_equal(dataset.n_samples, want.n_samples);
    assert_int_equal(dataset.n_classes, want.n_classes);
    assert_int_equal(dataset.index_digest, want.index_digest);
    if (consumer_start(consumer, step, n_epochs) != STATUS_OK)
        fail_msg("%s", status_message());
}

struct batch *fleet_next(struct consumer *consumer)
{
    struct batch *batch = NULL;

    if (consumer_next(consumer, &batch, clock_monotonic_ns() + patience_ns) != STATUS_OK)
        fail_msg("%s", status_message());
    return batch;
}

void fleet_check_batches(struct consumer *consumer, const struct data_spec *spec, int64_t first,
                         int64_t n)
{
    int64_t per_epoch = consumer_steps_per_epoch(consumer);

    for (int64_t step = first; step < first + n; step++) {
        struct batch *batch = fleet_next(consumer);
        assert_int_equal(batch->step, step);
        fleet_check_batch(spec, batch, 0, 1, step % per_epoch * batch->n_samples);
        consumer_return(consumer, batch);
    }
}

/* ---- a loader in this process ---- */

static void make(struct fleet_loader *loader, struct slice_job *job)
{
    size_t record = data_spec_record_bytes(job->spec);
    job->status = memory_alloc(&job->payload, (size_t)job->n_samples, record, "slice");
    for (int32_t i = 0; i < job->n_samples && job->status == STATUS_OK; i++) {
        uint64_t position = job->first_position + (uint64_t)i * job->stride;
        fleet_record(job->spec, job->epoch, position, job->payload + (size_t)i * record);
        job->samples[i] = fleet_sample(job->epoch, position);
        if ((int64_t)position == loader->options.fail_position) {
            job->status = STATUS_CORRUPT;
            snprintf(job->reason, sizeof(job->reason), "position %d is bad", (int)position);
        }
        if (!loader->options.reports_bad_images || job->samples[i].index % 100 != 0)
            continue;
        if (memory_grow(&job->bad_images, &job->bad_capacity, job->n_bad_images + 1,
                        sizeof(struct bad_image), "reports") != STATUS_OK)
            abort();
        struct bad_image *bad = &job->bad_images[job->n_bad_images++];
        bad->epoch = job->epoch;
        bad->index = job->samples[i].index;
        bad->sample = i;
        bad->kind = BAD_IMAGE_MISSING;
        snprintf(bad->path, sizeof(bad->path), "/data/%u.jpg", bad->index);
        snprintf(bad->reason, sizeof(bad->reason), "torn");
    }
    producer_submit(loader->producer, job);
}

static void *worker(void *argument)
{
    struct fleet_loader *loader = argument;
    void *job;
    while (queue_pop(loader->jobs, &job, INT64_MAX) == STATUS_OK)
        make(loader, job);
    return NULL;
}

static void queue_job(void *context, struct slice_job *job)
{
    struct fleet_loader *loader = context;
    /* The producer promises never to hand out more than the credit. */
    if (queue_push(loader->jobs, job, 0) != STATUS_OK)
        abort();
}

static void *run(void *argument)
{
    struct fleet_loader *loader = argument;
    loader->result = producer_run(loader->producer, &loader->stop, loader->options.exit_when_done);
    snprintf(loader->text, sizeof(loader->text), "%s", status_message());
    return NULL;
}

static void take_notice(void *context, bool good, const char *text)
{
    struct fleet_loader *loader = context;
    (void)good;
    pthread_mutex_lock(&loader->lock);
    size_t n = strlen(loader->notices);
    snprintf(loader->notices + n, sizeof(loader->notices) - n, "%s\n", text);
    pthread_cond_broadcast(&loader->noticed);
    pthread_mutex_unlock(&loader->lock);
}

struct fleet_loader *fleet_loader_open_sound(struct consumer *consumer)
{
    struct fleet_options one = fleet_options(consumer_endpoint(consumer, 0));

    return fleet_loader_open(&one);
}

void fleet_loader_expect(struct fleet_loader *loader, const char *text)
{
    int64_t deadline_ns = clock_monotonic_ns() + patience_ns;
    struct timespec deadline = {.tv_sec = deadline_ns / 1000000000,
                                .tv_nsec = deadline_ns % 1000000000};
    int late = 0;
    pthread_mutex_lock(&loader->lock);
    while (strstr(loader->notices, text) == NULL && late == 0)
        late = pthread_cond_timedwait(&loader->noticed, &loader->lock, &deadline);
    bool found = strstr(loader->notices, text) != NULL;
    if (!found)
        print_error("%s", loader->notices);
    pthread_mutex_unlock(&loader->lock);
    if (!found)
        fail_msg("the loader did not say '%s'", text);
}

struct fleet_options fleet_options(const char *endpoint)
{
    return (struct fleet_options){.endpoints = {endpoint},
                                  .n_endpoints = 1,
                                  .n_threads = 1,
                                  .credit = 4,
                                  .fail_position = -1};
}

struct fleet_loader *fleet_loader_open(const struct fleet_options *options)
{
    struct fleet_loader *loader = calloc(1, sizeof(*loader));
    struct producer_options producer = {
        .n_endpoints = options->n_endpoints,
        .dataset = options->dataset.n_samples > 0 ? options->dataset : fleet_dataset(),
        .self_test = options->self_test,
        .credit = options->credit,
        .n_threads = options->n_threads,
        .name = "fleet",
        .keys = options->keys,
        .server_key = options->server_key,
        .notice = take_notice,
    };
    pthread_condattr_t monotonic;
    pthread_condattr_init(&monotonic);
    pthread_condattr_setclock(&monotonic, CLOCK_MONOTONIC);
    pthread_mutex_init(&loader->lock, NULL);
    pthread_cond_init(&loader->noticed, &monotonic);
    loader->options = *options;
    for (int i = 0; i < options->n_endpoints; i++)
        producer.endpoints[i] = options->endpoints[i];
    if (producer_open(&loader->producer, &producer, queue_job, loader) != STATUS_OK ||
        queue_open(&loader->jobs, (size_t)(options->credit * options->n_endpoints)) != STATUS_OK) {
        fprintf(stderr, "%s\n", status_message());
        abort();
    }
    for (int i = 0; i < options->n_threads; i++)
        pthread_create(&loader->threads[i], NULL, worker, loader);
    pthread_create(&loader->run_thread, NULL, run, loader);
    return loader;
}

enum status fleet_loader_join(struct fleet_loader *loader)
{
    if (!loader->joined)
        pthread_join(loader->run_thread, NULL);
    loader->joined = true;
    return loader->result;
}

void fleet_loader_close(struct fleet_loader **address)
{
    struct fleet_loader *loader = *address;
    if (loader == NULL)
        return;
    atomic_store(&loader->stop, 1);
    fleet_loader_join(loader);
    queue_shut(loader->jobs);
    for (int i = 0; i < loader->options.n_threads; i++)
        pthread_join(loader->threads[i], NULL);
    producer_close(&loader->producer);
    queue_close(&loader->jobs);
    pthread_cond_destroy(&loader->noticed);
    pthread_mutex_destroy(&loader->lock);
    free(loader);
    *address = NULL;
}

/* ---- a loader in a process of its own ---- */

pid_t fleet_spawn(const char *endpoint, const char *second_endpoint)
{
    const char *folder = getenv("IBOT_BIN");
    char path[512];
    pid_t pid;
    assert_non_null(folder);
    snprintf(path, sizeof(path), "%s/fleet_loader", folder);
    char *arguments[] = {path, (char *)(uintptr_t)endpoint, (char *)(uintptr_t)second_endpoint,
                         NULL};
    assert_int_equal(posix_spawn(&pid, path, NULL, NULL, arguments, environ), 0);
    return pid;
}

void fleet_kill(pid_t pid)
{
    if (pid <= 0)
        return;
    kill(pid, SIGKILL);
    waitpid(pid, NULL, 0);
}

/* ---- a raw connection ---- */

void raw_peer_open(struct raw_peer *peer, const char *endpoint)
{
    int linger = 200;
    memset(peer, 0, sizeof(*peer));
    peer->context = zmq_ctx_new();
    peer->socket = zmq_socket(peer->context, ZMQ_DEALER);
    zmq_setsockopt(peer->socket, ZMQ_LINGER, &linger, sizeof(linger));
    assert_int_equal(zmq_connect(peer->socket, endpoint), 0);
}

void raw_peer_close(struct raw_peer *peer)
{
    zmq_close(peer->socket);
    zmq_ctx_term(peer->context);
}

void raw_peer_send(struct raw_peer *peer, const struct raw_frame *frames, int n_frames)
{
    uint8_t *bytes = malloc(MESSAGE_MAX_BYTES);
    size_t n_bytes = message_pack(&peer->out, bytes);
    assert_true(zmq_send(peer->socket, bytes, n_bytes, n_frames > 0 ? ZMQ_SNDMORE : 0) >= 0);
    for (int i = 0; i < n_frames; i++)
        assert_true(zmq_send(peer->socket, frames[i].data, frames[i].n_bytes,
                             i + 1 < n_frames ? ZMQ_SNDMORE : 0) >= 0);
    free(bytes);
}

bool raw_peer_receive(struct raw_peer *peer, enum message_kind kind)
{
    int64_t deadline_ns = clock_monotonic_ns() + patience_ns;
    for (;;) {
        zmq_pollitem_t item = {.socket = peer->socket, .events = ZMQ_POLLIN};
        zmq_msg_t part;
        int64_t left_ns = deadline_ns - clock_monotonic_ns();
        if (left_ns <= 0 || zmq_poll(&item, 1, left_ns / 1000000 + 1) <= 0)
            return false;
        zmq_msg_init(&part);
        assert_true(zmq_msg_recv(&part, peer->socket, 0) >= 0);
        assert_false(zmq_msg_more(&part));
        assert_int_equal(message_unpack(&peer->in, zmq_msg_data(&part), zmq_msg_size(&part)),
                         STATUS_OK);
        zmq_msg_close(&part);
        if (peer->in.kind == kind)
            return true;
    }
}

void raw_peer_hello(struct raw_peer *peer, int32_t credit)
{
    struct dataset_info dataset = fleet_dataset();
    memset(&peer->out, 0, sizeof(peer->out));
    peer->out.kind = MESSAGE_HELLO;
    peer->out.hello = (struct message_hello){.version = WIRE_VERSION,
                                             .instance = (uint64_t)(uintptr_t)peer,
                                             .attempt = 1,
                                             .index_digest = dataset.index_digest,
                                             .n_samples = dataset.n_samples,
                                             .n_classes = dataset.n_classes,
                                             .credit = credit,
                                             .n_threads = 1,
                                             .name = "raw"};
}

void raw_peer_join(struct raw_peer *peer, int32_t credit)
{
    raw_peer_hello(peer, credit);
    raw_peer_send(peer, NULL, 0);
    assert_true(raw_peer_receive(peer, MESSAGE_SPEC));
    peer->session = peer->in.session;
    peer->spec = peer->in.spec.data_spec;
}

void raw_peer_make(struct raw_peer *peer, const struct lease_item *lease, uint8_t *payload)
{
    struct message_slice *slice = &peer->out.slice;
    size_t record = data_spec_record_bytes(&peer->spec);
    memset(&peer->out, 0, sizeof(peer->out));
    peer->out.kind = MESSAGE_SLICE;
    peer->out.session = peer->session;
    slice->lease = *lease;
    slice->spec_digest = data_spec_digest(&peer->spec);
    for (int32_t i = 0; i < lease->n_samples; i++) {
        uint64_t position = lease->first_position + (uint64_t)i * lease->stride;
        struct batch_sample sample = fleet_sample(lease->epoch, position);
        uint8_t *out = payload + (size_t)i * record;
        fleet_record(&peer->spec, lease->epoch, position, out);
        slice->index[i] = sample.index;
        slice->label[i] = sample.label;
        slice->n_substituted[i] = sample.n_substituted;
        slice->n_repaired[i] = sample.n_repaired;
        slice->hash[i] = hash_bytes(out, record);
    }
}
