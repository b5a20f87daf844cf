/* The producer: one thread for all sockets, and the way of jobs to the caller's threads and back.
 */
#include "proto/wire/producer_internal.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/random.h>
#include <unistd.h>

#include "proto/base/clock.h"
#include "proto/base/hash.h"
#include "proto/base/memory.h"

enum { POLL_MS = 50, CREDIT_PER_THREAD = 2 };

/* ---- jobs ---- */

void job_list_push(struct job_list *list, struct job *job)
{
    job->next = NULL;
    if (list->last != NULL)
        list->last->next = job;
    else
        list->first = job;
    list->last = job;
}

struct job *job_list_pop(struct job_list *list)
{
    struct job *job = list->first;

    if (job == NULL)
        return NULL;
    list->first = job->next;
    if (list->first == NULL)
        list->last = NULL;
    return job;
}

enum status producer_take_job(struct producer *producer, struct job **out, struct link *link)
{
    struct job *job = NULL;

    for (size_t i = 0; i < producer->n_jobs && job == NULL; i++)
        if (!producer->jobs[i]->in_use)
            job = producer->jobs[i];
    if (job == NULL) {
        TRY(memory_grow(&producer->jobs, &producer->job_capacity, producer->n_jobs + 1,
                        sizeof(struct job *), "jobs"));
        TRY(memory_alloc(&job, 1, sizeof(*job), "job"));
        producer->jobs[producer->n_jobs++] = job;
    }
    memset(&job->slice, 0, sizeof(job->slice));
    job->slice.owner = producer;
    job->in_use = true;
    job->link = link;
    job->attempt = link->attempt;
    job->spec = link->spec;
    job->spec->n_users++;
    *out = job;
    return STATUS_OK;
}

void producer_free_job(struct job *job)
{
    memory_free(job->slice.payload);
    memory_free(job->slice.bad_images);
    job->slice.payload = NULL;
    job->slice.bad_images = NULL;
    if (job->spec != NULL && --job->spec->n_users == 0)
        memory_free(job->spec);
    job->spec = NULL;
    job->in_use = false;
}

static void wake_run(struct producer *producer)
{
    uint64_t one = 1;
    ssize_t n = write(producer->wake, &one, sizeof(one));
    (void)n; /* full: it is awake already */
}

void producer_submit(struct producer *producer, struct slice_job *slice)
{
    struct job *job = (struct job *)slice;
    size_t record = job->spec->record_bytes;

    CHECK(slice->owner == producer, "a job of another producer");
    CHECK(slice->status != STATUS_OK || slice->payload != NULL, "a slice without payload");
    slice->reason[sizeof(slice->reason) - 1] = '\0';
    int64_t begin_ns = clock_monotonic_ns();
    for (int32_t i = 0; slice->status == STATUS_OK && i < slice->n_samples; i++)
        job->hashes[i] = hash_bytes(slice->payload + (size_t)i * record, record);
    int64_t end_ns = clock_monotonic_ns();
    pthread_mutex_lock(&producer->lock);
    producer->stats.hash_ns += end_ns - begin_ns;
    job_list_push(&producer->done, job);
    pthread_mutex_unlock(&producer->lock);
    wake_run(producer);
}

/* Hands finished jobs to their links. */
static void take_done(struct producer *producer)
{
    uint64_t count;
    ssize_t n = read(producer->wake, &count, sizeof(count));
    (void)n; /* nothing there: fine */

    pthread_mutex_lock(&producer->lock);
    struct job_list done = producer->done;
    producer->done = (struct job_list){NULL, NULL};
    pthread_mutex_unlock(&producer->lock);
    for (struct job *job = job_list_pop(&done); job != NULL; job = job_list_pop(&done))
        link_take_back(job->link, job);
}

/* ---- open and close ---- */

static enum status check_options(const struct producer_options *options)
{
    if (options->n_endpoints < 1 || options->n_endpoints > PRODUCER_MAX_ENDPOINTS)
        FAIL(STATUS_INVALID, "producer: %d endpoints; wanted 1..%d", options->n_endpoints,
             PRODUCER_MAX_ENDPOINTS);
    if ((options->keys != NULL) != (options->server_key != NULL))
        FAIL(STATUS_INVALID, "producer: own keys and the consumers' key belong together");
    if (options->credit < 0 || options->credit > MESSAGE_MAX_LEASES || options->n_threads < 0)
        FAIL(STATUS_INVALID, "producer: credit %d, %d threads; credit must be in 0..%d",
             options->credit, options->n_threads, MESSAGE_MAX_LEASES);
    return STATUS_OK;
}

enum status producer_open(struct producer **out, const struct producer_options *options,
                          void (*make)(void *context, struct slice_job *job), void *context)
{
    struct producer *producer = NULL;
    enum status status = STATUS_OK;

    TRY(check_options(options));
    TRY(memory_alloc(&producer, 1, sizeof(*producer), "producer"));
    pthread_mutex_init(&producer->lock, NULL);
    producer->options = *options;
    producer->make = make;
    producer->make_context = context;
    if (options->name != NULL)
        message_copy_text(producer->name, sizeof(producer->name), options->name,
                          strlen(options->name));
    if (options->credit == 0) {
        int32_t n = options->n_threads < 1 ? 1 : options->n_threads;
        n = n > MESSAGE_MAX_LEASES / CREDIT_PER_THREAD ? MESSAGE_MAX_LEASES / CREDIT_PER_THREAD : n;
        producer->options.credit = CREDIT_PER_THREAD * n;
    }
    producer->wake = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    if (producer->wake < 0)
        FAIL_OUT(STATUS_IO, "producer: eventfd: %s", strerror(errno));
    if (getrandom(&producer->instance, sizeof(producer->instance), 0) != sizeof(producer->instance))
        FAIL_OUT(STATUS_IO, "producer: getrandom: %s", strerror(errno));
    TRY_OUT(socket_context_open(&producer->context, 1));
    producer->stats.n_endpoints = options->n_endpoints;
    producer->stats.alive_ns = clock_monotonic_ns();
    for (int i = 0; i < options->n_endpoints; i++)
        TRY_OUT(link_open(&producer->links[i], producer, options->endpoints[i]));
    *out = producer;
    producer = NULL;
out:
    producer_close(&producer);
    return status;
}

void producer_close(struct producer **address)
{
    struct producer *producer = address != NULL ? *address : NULL;

    if (producer == NULL)
        return;
    for (int i = 0; i < producer->options.n_endpoints; i++)
        link_close(&producer->links[i]);
    socket_context_close(&producer->context);
    if (producer->wake >= 0)
        close(producer->wake);
    for (size_t i = 0; i < producer->n_jobs; i++) {
        producer_free_job(producer->jobs[i]);
        memory_free(producer->jobs[i]);
    }
    memory_free(producer->jobs);
    memory_free(producer->payloads);
    pthread_mutex_destroy(&producer->lock);
    memory_free(producer);
    *address = NULL;
}

/* ---- run ---- */

/* Whether there is a reason to return: STATUS_OK means not yet, unless *done. */
static enum status look_for_end(struct producer *producer, bool *done, const atomic_int *stop,
                                bool exit_when_done)
{
    int n = producer->options.n_endpoints, n_reached = 0, n_finished = 0, n_refused = 0;
    const char *reason = "";

    if (atomic_load_explicit(stop, memory_order_relaxed) != 0)
        FAIL(STATUS_INTERRUPTED, "asked to stop");
    for (int i = 0; i < n; i++) {
        const struct link *link = &producer->links[i];
        n_reached += link->reached;
        n_finished += link->reached && link->finished;
        n_refused += link->state == LINK_REFUSED;
        if (link->state == LINK_REFUSED)
            reason = link->reason;
    }
    if (n_refused == n)
        FAIL(STATUS_MISMATCH, "refused by %s: %s",
             n == 1 ? producer->links[0].endpoint : "every consumer", reason);
    *done = exit_when_done && n_reached > 0 && n_finished == n_reached;
    return STATUS_OK;
}

static void publish(struct producer *producer, int64_t now_ns)
{
    struct producer_stats *stats = &producer->stats;

    pthread_mutex_lock(&producer->lock);
    stats->n_consumers = stats->n_leases = stats->n_waiting = 0;
    for (int i = 0; i < producer->options.n_endpoints; i++) {
        const struct link *link = &producer->links[i];
        stats->serving[i] = link->state == LINK_SERVING;
        stats->n_consumers += link->state == LINK_SERVING;
        stats->n_leases += link->n_making + link->n_waiting;
        stats->n_waiting += link->n_waiting;
    }
    stats->alive_ns = now_ns;
    pthread_mutex_unlock(&producer->lock);
}

enum status producer_run(struct producer *producer, const atomic_int *stop, bool exit_when_done)
{
    int n = producer->options.n_endpoints;
    zmq_pollitem_t items[2 * PRODUCER_MAX_ENDPOINTS + 1];
    enum status status = STATUS_OK;
    bool done = false;
    long wait_ms = 0;

    while (!done) {
        items[0] = (zmq_pollitem_t){.fd = producer->wake, .events = ZMQ_POLLIN};
        for (int i = 0; i < n; i++) {
            items[1 + i] = (zmq_pollitem_t){.socket = producer->links[i].socket,
                                            .events = producer->links[i].outbox.first != NULL
                                                          ? ZMQ_POLLIN | ZMQ_POLLOUT
                                                          : ZMQ_POLLIN};
            items[1 + n + i] = (zmq_pollitem_t){.socket = producer->links[i].monitor.channel,
                                                .events = ZMQ_POLLIN};
        }
        if (zmq_poll(items, 2 * n + 1, wait_ms) < 0 && errno != EINTR)
            FAIL_OUT(STATUS_IO, "producer: %s", zmq_strerror(errno));
        wait_ms = POLL_MS;
        int64_t now_ns = clock_monotonic_ns();
        for (int i = 0; i < n; i++)
            link_receive(&producer->links[i], now_ns);
        take_done(producer);
        for (int i = 0; i < n; i++)
            link_step(&producer->links[i], now_ns);
        publish(producer, now_ns);
        if (producer->options.look != NULL)
            producer->options.look(producer->make_context);
        TRY_OUT(look_for_end(producer, &done, stop, exit_when_done));
    }
out:
    for (int i = 0; i < n; i++)
        link_say_goodbye(&producer->links[i], "");
    return status;
}

const char *producer_endpoint(const struct producer *producer, int i)
{
    CHECK(i >= 0 && i < producer->options.n_endpoints);
    return producer->links[i].endpoint; /* immutable after open */
}

void producer_stats(struct producer *producer, struct producer_stats *out)
{
    pthread_mutex_lock(&producer->lock);
    *out = producer->stats;
    pthread_mutex_unlock(&producer->lock);
}
