/* The consumer as its caller sees it. The thread does the rest; the two meet under one lock. */
#include "proto/wire/consumer_internal.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/random.h>
#include <unistd.h>

#include "proto/base/clock.h"
#include "proto/base/cpus.h"
#include "proto/base/memory.h"

enum {
    DEFAULT_SLICE = 16,
    DEFAULT_PREFETCH = 4,
    MAX_BATCH = 1 << 20,
    MAX_PREFETCH = 256,
    MAX_WORLD = 1 << 20,
    MAX_WINDOW = 1 << 16, /* slices */
};
static const int64_t default_lease_timeout_ns = 10000000000;
static const size_t max_slice_bytes = (size_t)256 << 20;
static const size_t max_slots_bytes = (size_t)1 << 40;

/* ---- open ---- */

static enum status check_range(const char *name, int64_t value, int64_t least, int64_t most)
{
    if (value < least || value > most)
        FAIL(STATUS_INVALID, "consumer: %s is %lld; it must be in %lld..%lld", name,
             (long long)value, (long long)least, (long long)most);
    return STATUS_OK;
}

static enum status check_options(const struct consumer_options *options)
{
    TRY(check_range("number of endpoints", options->n_endpoints, 1, CONSUMER_MAX_ENDPOINTS));
    for (int i = 0; i < options->n_endpoints; i++)
        TRY(endpoint_check_bind(options->endpoints[i], options->keys != NULL, options->insecure));
    if ((options->keys != NULL) != (options->allow != NULL))
        FAIL(STATUS_INVALID, "consumer: keys and a list of allowed ones belong together");
    TRY(data_spec_check(&options->spec));
    TRY(check_range("batch size", options->batch_size, 1, MAX_BATCH));
    TRY(check_range("slice size", options->slice_size, 0, SLICE_MAX_SAMPLES));
    TRY(check_range("prefetch", options->prefetch, 0, MAX_PREFETCH));
    TRY(check_range("world size", options->world, 1, MAX_WORLD));
    TRY(check_range("rank", options->rank, 0, options->world - 1));
    TRY(check_range("lease timeout", options->lease_timeout_ns, 0, INT64_MAX));
    return STATUS_OK;
}

/* Defaults, and what follows from the options. */
static enum status set_sizes(struct consumer *consumer)
{
    struct consumer_options *options = &consumer->options;

    if (options->slice_size == 0)
        options->slice_size = DEFAULT_SLICE;
    if (options->prefetch == 0)
        options->prefetch = DEFAULT_PREFETCH;
    if (options->lease_timeout_ns == 0)
        options->lease_timeout_ns = default_lease_timeout_ns;
    consumer->record_bytes = data_spec_record_bytes(&options->spec);
    consumer->spec_digest = data_spec_digest(&options->spec);
    int64_t most = (int64_t)(max_slice_bytes / consumer->record_bytes);
    if (options->slice_size > options->batch_size)
        options->slice_size = options->batch_size;
    if (options->slice_size > most)
        options->slice_size = (int32_t)most;
    consumer->n_slots = options->prefetch + 1;
    consumer->slices_per_batch =
        (options->batch_size + options->slice_size - 1) / options->slice_size;
    size_t bytes = consumer->record_bytes * (size_t)options->batch_size * (size_t)consumer->n_slots;
    if (bytes > max_slots_bytes)
        FAIL(STATUS_INVALID, "consumer: %d batches of %d images of %zu bytes do not fit in memory",
             consumer->n_slots, options->batch_size, consumer->record_bytes);
    TRY(check_range("slices in the prefetch window (lower prefetch or raise slice size)",
                    (int64_t)consumer->n_slots * consumer->slices_per_batch, 1, MAX_WINDOW));
    return STATUS_OK;
}

static enum status open_arrays(struct consumer *consumer)
{
    size_t n_slots = (size_t)consumer->n_slots;
    int32_t window = consumer->n_slots * consumer->slices_per_batch;

    TRY(session_open(&consumer->session, window, consumer->options.lease_timeout_ns));
    TRY(memory_alloc(&consumer->peers, SESSION_MAX_LOADERS, sizeof(struct peer), "loaders"));
    TRY(memory_alloc(&consumer->pairs, (size_t)window, sizeof(struct lease_pair), "leases"));
    TRY(memory_alloc(&consumer->making, n_slots, sizeof(struct slot *), "batch slots"));
    TRY(memory_alloc(&consumer->ready, n_slots, sizeof(struct slot *), "batch slots"));
    TRY(memory_alloc(&consumer->free, n_slots, sizeof(struct slot *), "batch slots"));
    TRY(memory_alloc(&consumer->reports, CONSUMER_PENDING_REPORTS, sizeof(struct bad_image),
                     "bad image reports"));
    return STATUS_OK;
}

/* In the zap thread. */
static void note_key_refusal(void *context, const char *text)
{
    struct consumer *consumer = context;

    pthread_mutex_lock(&consumer->lock);
    refusals_note(&consumer->refusals, text, clock_monotonic_ns());
    pthread_mutex_unlock(&consumer->lock);
}

/* Binds those endpoints that want keys, or those that do not. */
static enum status bind_endpoints(struct consumer *consumer, bool with_keys)
{
    struct consumer_options *options = &consumer->options;

    for (int i = 0; i < options->n_endpoints; i++) {
        if (with_keys != (options->keys != NULL && endpoint_wants_keys(options->endpoints[i])))
            continue;
        TRY(endpoint_bind(consumer->endpoints[i], consumer->socket, options->endpoints[i]));
    }
    return STATUS_OK;
}

/* ZeroMQ's threads: decrypting fills one at about a gigabyte a second. */
static int n_io_threads(const struct consumer *consumer)
{
    int n_cores = cpus_usable();

    if (n_cores <= 2)
        return 1;
    return consumer->options.keys == NULL || n_cores < 12 ? 2 : 4;
}

static enum status open_socket(struct consumer *consumer)
{
    struct consumer_options *options = &consumer->options;
    size_t frame = (size_t)socket_images_per_frame(consumer->record_bytes) * consumer->record_bytes;

    if (frame < MESSAGE_MAX_BYTES)
        frame = MESSAGE_MAX_BYTES;
    TRY(socket_context_open(&consumer->context, n_io_threads(consumer)));
    if (options->keys != NULL)
        TRY(auth_open(&consumer->auth, consumer->context, options->allow, note_key_refusal,
                      consumer));
    TRY(socket_open(&consumer->socket, consumer->context, SOCKET_CONSUMER, (int64_t)frame));
    TRY(socket_monitor_open(&consumer->monitor, consumer->context, consumer->socket));
    if (options->keys == NULL)
        socket_serve_without_keys(consumer->socket);
    TRY(bind_endpoints(consumer, false));
    if (options->keys != NULL) {
        socket_serve_with_keys(consumer->socket, options->keys);
        TRY(bind_endpoints(consumer, true));
        consumer->auth_generation = auth_generation(consumer->auth);
    }
    options->keys = NULL; /* borrowed; ZeroMQ has its copy */
    for (int i = 0; i < options->n_endpoints; i++)
        options->endpoints[i] = consumer->endpoints[i];
    consumer->wake = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    if (consumer->wake < 0)
        FAIL(STATUS_IO, "consumer: eventfd: %s", strerror(errno));
    return STATUS_OK;
}

static void open_lock(struct consumer *consumer)
{
    pthread_condattr_t attributes;

    pthread_mutex_init(&consumer->lock, NULL);
    pthread_condattr_init(&attributes);
    pthread_condattr_setclock(&attributes, CLOCK_MONOTONIC);
    pthread_cond_init(&consumer->changed, &attributes);
    pthread_condattr_destroy(&attributes);
}

enum status consumer_open(struct consumer **out, const struct consumer_options *options)
{
    struct consumer *consumer = NULL;
    enum status status = STATUS_OK;

    TRY(check_options(options));
    TRY(memory_alloc(&consumer, 1, sizeof(*consumer), "consumer"));
    consumer->options = *options;
    consumer->wake = -1;
    consumer->failed_step = INT64_MAX;
    consumer->stats.alive_ns = clock_monotonic_ns();
    open_lock(consumer);
    TRY_OUT(set_sizes(consumer));
    TRY_OUT(open_arrays(consumer));
    if (getrandom(&consumer->session_id, sizeof(consumer->session_id), 0) !=
        sizeof(consumer->session_id))
        FAIL_OUT(STATUS_IO, "consumer: getrandom: %s", strerror(errno));
    TRY_OUT(open_socket(consumer));
    int error = pthread_create(&consumer->thread, NULL, consumer_thread, consumer);
    if (error != 0)
        FAIL_OUT(STATUS_IO, "consumer: no thread: %s", strerror(error));
    consumer->thread_started = true;
    *out = consumer;
    consumer = NULL;
out:
    consumer_close(&consumer);
    return status;
}

const char *consumer_endpoint(const struct consumer *consumer, int i)
{
    CHECK(i >= 0 && i < consumer->options.n_endpoints);
    return consumer->endpoints[i];
}

/* ---- start ---- */

static void wake_thread(struct consumer *consumer)
{
    uint64_t one = 1;
    ssize_t n = write(consumer->wake, &one, sizeof(one));
    (void)n; /* full: it is awake already */
}

/* Waits for a change until the deadline; false when it passed. Lock held. */
static bool wait_change(struct consumer *consumer, int64_t deadline_ns)
{
    if (deadline_ns == INT64_MAX)
        return pthread_cond_wait(&consumer->changed, &consumer->lock) == 0;
    struct timespec when = {.tv_sec = (time_t)(deadline_ns / 1000000000),
                            .tv_nsec = (long)(deadline_ns % 1000000000)};
    return deadline_ns > 0 &&
           pthread_cond_timedwait(&consumer->changed, &consumer->lock, &when) == 0;
}

enum status consumer_dataset(struct consumer *consumer, struct dataset_info *out,
                             int64_t deadline_ns)
{
    enum status status = STATUS_OK;

    pthread_mutex_lock(&consumer->lock);
    while (!consumer->dataset_known && consumer->error == STATUS_OK)
        if (!wait_change(consumer, deadline_ns))
            break;
    bool known = consumer->dataset_known;
    if (known) {
        *out = consumer->dataset;
    } else if (consumer->error != STATUS_OK) {
        status = status_set(consumer->error, "%s", consumer->error_text);
    } else if (consumer->last_refusal[0] != '\0') {
        status = status_set(STATUS_MISMATCH, "no loader is fit for this run: %s",
                            consumer->last_refusal);
    } else {
        status =
            status_set(STATUS_TIMEOUT, "no loader has connected to %s", consumer->endpoints[0]);
    }
    pthread_mutex_unlock(&consumer->lock);
    if (!known || consumer->slots != NULL)
        return status;
    /* Without the lock: gigabytes take seconds, and the thread talks to loaders meanwhile. */
    status = consumer_make_slots(consumer);
    if (status != STATUS_OK)
        consumer_free_slots(consumer);
    return status;
}

void consumer_known_dataset(struct consumer *consumer, struct dataset_info *out,
                            uint64_t *self_test)
{
    pthread_mutex_lock(&consumer->lock);
    CHECK(consumer->dataset_known, "after consumer_dataset");
    *out = consumer->dataset;
    *self_test = consumer->self_test; /* set before it was known, and not again */
    pthread_mutex_unlock(&consumer->lock);
}

enum status consumer_start(struct consumer *consumer, int64_t step, int32_t n_epochs)
{
    const struct consumer_options *options = &consumer->options;
    int64_t world = options->world, size = options->batch_size;

    CHECK(consumer->slots != NULL && !consumer->start, "after consumer_dataset, once");
    int64_t n_local = (int64_t)data_spec_epoch_positions(
        &options->spec, consumer->dataset.n_samples, (uint32_t)world);
    int64_t per_epoch = options->drop_last ? n_local / size : (n_local + size - 1) / size;
    if (per_epoch == 0)
        FAIL(STATUS_INVALID,
             "the data set has %llu images, %lld for each of %lld ranks: not even one batch of "
             "%lld; use a smaller batch",
             (unsigned long long)consumer->dataset.n_samples, (long long)n_local, (long long)world,
             (long long)size);
    if (n_epochs < 0 || step < 0 || step > per_epoch * n_epochs)
        FAIL(STATUS_INVALID, "step %lld is not in 0..%lld: %d epochs of %lld steps",
             (long long)step, (long long)(per_epoch * n_epochs), n_epochs, (long long)per_epoch);
    pthread_mutex_lock(&consumer->lock);
    consumer->steps_per_epoch = per_epoch;
    consumer->start_step = step;
    consumer->end_step = per_epoch * n_epochs;
    consumer->start = true;
    pthread_mutex_unlock(&consumer->lock);
    wake_thread(consumer);
    return STATUS_OK;
}

int64_t consumer_steps_per_epoch(const struct consumer *consumer)
{
    CHECK(consumer->start, "after consumer_start");
    return consumer->steps_per_epoch;
}

/* ---- batches ---- */

enum status consumer_next(struct consumer *consumer, struct batch **out, int64_t deadline_ns)
{
    enum status status = STATUS_OK;
    int64_t begin_ns = clock_monotonic_ns();

    pthread_mutex_lock(&consumer->lock);
    while (consumer->n_ready == 0 && consumer->error == STATUS_OK)
        if (!wait_change(consumer, deadline_ns))
            break;
    if (consumer->n_ready > 0) {
        *out = &consumer->ready[0]->batch;
        consumer->n_ready--;
        memmove(consumer->ready, consumer->ready + 1,
                (size_t)consumer->n_ready * sizeof(consumer->ready[0]));
        consumer->stats.n_batches++;
    } else if (consumer->error != STATUS_OK) {
        status = status_set(consumer->error, "%s", consumer->error_text);
    } else {
        status = status_set(STATUS_TIMEOUT, "no batch yet; %d loaders are connected",
                            consumer->stats.n_loaders);
    }
    consumer->stats.waited_ns += clock_monotonic_ns() - begin_ns;
    pthread_mutex_unlock(&consumer->lock);
    return status;
}

void consumer_return(struct consumer *consumer, struct batch *batch)
{
    pthread_mutex_lock(&consumer->lock);
    CHECK(consumer->n_free < consumer->n_slots, "a batch was returned twice");
    consumer->free[consumer->n_free++] = batch->slot;
    pthread_mutex_unlock(&consumer->lock);
    wake_thread(consumer);
}

/* ---- reports ---- */

bool consumer_bad_image(struct consumer *consumer, struct bad_image *out)
{
    pthread_mutex_lock(&consumer->lock);
    bool found = consumer->n_reports > 0;
    if (found) {
        *out = consumer->reports[consumer->first_report];
        consumer->first_report = (consumer->first_report + 1) % CONSUMER_PENDING_REPORTS;
        consumer->n_reports--;
    }
    pthread_mutex_unlock(&consumer->lock);
    return found;
}

bool consumer_refusal(struct consumer *consumer, char *out, size_t out_bytes)
{
    pthread_mutex_lock(&consumer->lock);
    bool found = refusals_take(&consumer->refusals, out, out_bytes, clock_monotonic_ns());
    pthread_mutex_unlock(&consumer->lock);
    return found;
}

void consumer_stats(struct consumer *consumer, struct consumer_stats *out)
{
    pthread_mutex_lock(&consumer->lock);
    *out = consumer->stats;
    out->n_batches_ready = consumer->n_ready;
    out->n_batches_max = consumer->n_slots;
    out->n_refused_keys = consumer->auth != NULL ? auth_n_refused(consumer->auth) : 0;
    pthread_mutex_unlock(&consumer->lock);
}

/* ---- close ---- */

void consumer_close(struct consumer **address)
{
    struct consumer *consumer = address != NULL ? *address : NULL;

    if (consumer == NULL)
        return;
    if (consumer->thread_started) {
        pthread_mutex_lock(&consumer->lock);
        consumer->stop = true;
        pthread_mutex_unlock(&consumer->lock);
        wake_thread(consumer);
        pthread_join(consumer->thread, NULL);
    }
    for (int i = 0; i < consumer->options.n_endpoints; i++)
        endpoint_unbind(consumer->endpoints[i]);
    socket_monitor_close(&consumer->monitor);
    if (consumer->socket != NULL)
        zmq_close(consumer->socket);
    auth_close(&consumer->auth);
    socket_context_close(&consumer->context);
    if (consumer->wake >= 0)
        close(consumer->wake);
    consumer_free_slots(consumer);
    session_close(&consumer->session);
    memory_free(consumer->peers);
    memory_free(consumer->pairs);
    memory_free(consumer->making);
    memory_free(consumer->ready);
    memory_free(consumer->free);
    memory_free(consumer->reports);
    pthread_cond_destroy(&consumer->changed);
    pthread_mutex_destroy(&consumer->lock);
    memory_free(consumer);
    *address = NULL;
}
