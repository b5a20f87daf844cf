/* Waiting for batches, with an eye on signals and on the local loaders. */
#include "trainer/receiver.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "proto/base/clock.h"
#include "proto/base/log.h"
#include "proto/base/memory.h"
#include "proto/wire/refusals.h"
#include "proto/wire/socket.h"

static const int64_t look_ns = 200000000;       /* between looks at signals and children */
static const int64_t complain_ns = 10000000000; /* between log lines while nothing comes */

static enum status alloc_slot(void *context, void **out, size_t bytes)
{
    struct device *device = context;
    return device->alloc_host(device, out, bytes, "batch slot");
}

static void free_slot(void *context, void *pointer)
{
    struct device *device = context;
    device->free_host(device, pointer);
}

/* "tcp://host:5550" for rank 2 is "tcp://host:5552"; port 0 or * stays. */
static enum status own_endpoint(const char *listen, int rank, char *out, size_t size)
{
    const char *colon = strrchr(listen, ':');
    char *end;

    if (rank == 0 || strncmp(listen, "tcp://", 6) != 0 || colon == NULL) {
        if (rank > 0)
            FAIL(STATUS_INVALID, "--listen %s: with several ranks it must be tcp://HOST:PORT",
                 listen);
        snprintf(out, size, "%s", listen);
        return STATUS_OK;
    }
    long port = strtol(colon + 1, &end, 10);
    if (*end != '\0' || port < 0 || port + rank > 65535)
        FAIL(STATUS_INVALID, "--listen %s: no port for rank %d", listen, rank);
    snprintf(out, size, "%.*s:%ld", (int)(colon - listen), listen, port > 0 ? port + rank : 0);
    return STATUS_OK;
}

/* Who can reach the port, for the log. */
static void tell_security(const struct receiver_options *o, const struct key_pair *keys)
{
    char hex[KEY_TEXT_BYTES];

    if (o->key != NULL && endpoint_wants_keys(o->listen))
        log_info("encrypted; open to the keys in '%s'; this trainer's public key is %s", o->allow,
                 key_format(&keys->public_half, hex));
    else if (o->insecure)
        log_warning("--insecure: whoever reaches this address can send images and read samples");
}

enum status receiver_open(struct receiver *out, struct device *device,
                          const struct receiver_options *o, const atomic_int *stop)
{
    struct consumer_options consumer = {
        .n_endpoints = 0,
        .insecure = o->insecure,
        .spec = o->spec,
        .batch_size = o->batch_size,
        .slice_size = o->slice_size,
        .prefetch = o->prefetch,
        .rank = o->rank,
        .world = o->world,
        .drop_last = o->drop_last,
        .index_digest = o->index_digest,
        .alloc = alloc_slot,
        .free = free_slot,
        .alloc_context = device,
    };
    enum status status = STATUS_OK;
    struct key_pair keys = {0};

    *out =
        (struct receiver){.device = device, .stop = stop, .notify = o->notify, .alive = o->alive};
    TRY_OUT(batch_upload_open(&out->upload, device, o->ops, &o->spec, o->batch_size,
                              o->record != NULL));
    out->recorded = (struct recorder_options){.folder = o->record,
                                              .pixels = o->record_pixels,
                                              .spec = o->spec,
                                              .rank = o->rank,
                                              .world = o->world,
                                              .batch_size = o->batch_size};
    if (o->n_loaders > 0) {
        TRY_OUT(loader_processes_prepare(&out->loaders));
        consumer.endpoints[consumer.n_endpoints++] = out->loaders.endpoint;
    }
    if (o->listen != NULL) {
        TRY_OUT(own_endpoint(o->listen, o->rank, out->endpoint, sizeof(out->endpoint)));
        consumer.endpoints[consumer.n_endpoints++] = out->endpoint;
    }
    if (o->key != NULL) {
        TRY_OUT(key_pair_read(&keys, o->key));
        consumer.keys = &keys;
        consumer.allow = o->allow;
    }
    TRY_OUT(consumer_open(&out->consumer, &consumer));
    if (o->listen != NULL) {
        out->listens = consumer.n_endpoints - 1;
        out->listening = true;
        log_info("listening on %s", consumer_endpoint(out->consumer, out->listens));
        tell_security(o, &keys);
    }
    if (o->n_loaders > 0)
        TRY_OUT(loader_processes_start(&out->loaders, o->n_loaders, o->loader_threads, o->data,
                                       o->index, out->loaders.endpoint));
out:
    key_pair_wipe(&keys);
    if (status != STATUS_OK)
        receiver_close(out);
    return status;
}

/* Who was turned away, at a pace that a log can bear. */
static void log_refusals(const struct receiver *receiver)
{
    char text[REFUSAL_TEXT_BYTES + 32];

    while (consumer_refusal(receiver->consumer, text, sizeof(text)))
        log_warning("refused: %s", text);
}

/* Between two waits: is there a reason to give up, or to say something? */
static enum status look_around(struct receiver *receiver, int64_t since_ns, int64_t *complained_ns)
{
    int64_t now = clock_monotonic_ns();
    struct consumer_stats stats;

    if (receiver->stop != NULL && atomic_load(receiver->stop) != 0)
        FAIL(STATUS_INTERRUPTED, "interrupted");
    if (receiver->notify != NULL)
        notify_alive(receiver->notify, now);
    if (receiver->alive != NULL)
        atomic_store(receiver->alive, now);
    log_refusals(receiver);
    TRY(loader_processes_check(&receiver->loaders));
    if (now - since_ns < complain_ns || now - *complained_ns < complain_ns)
        return STATUS_OK;
    *complained_ns = now;
    consumer_stats(receiver->consumer, &stats);
    if (receiver->notify != NULL)
        notify_status(receiver->notify, now, "waiting for data since %.0f s: %d loaders",
                      1e-9 * (double)(now - since_ns), stats.n_loaders);
    if (stats.n_loaders > 0)
        log_warning("waiting for data since %.0f s: %d loaders connected, %d slices under way",
                    1e-9 * (double)(now - since_ns), stats.n_loaders, stats.n_leases_out);
    else
        log_warning("waiting for data since %.0f s: no loader is connected (%llu were refused); "
                    "start one with: ibot-loader --data DIR --connect %s",
                    1e-9 * (double)(now - since_ns),
                    (unsigned long long)(stats.n_rejected_loaders + stats.n_refused_keys),
                    consumer_endpoint(receiver->consumer, receiver->listens));
    return STATUS_OK;
}

enum status receiver_dataset(struct receiver *receiver, struct dataset_info *out)
{
    int64_t since = clock_monotonic_ns(), complained = since;

    for (;;) {
        enum status status =
            consumer_dataset(receiver->consumer, out, clock_monotonic_ns() + look_ns);
        /* Anybody may knock at an open port: others will come. */
        bool go_on = status == STATUS_TIMEOUT || (status == STATUS_MISMATCH && receiver->listening);
        if (!go_on)
            return status;
        TRY(look_around(receiver, since, &complained));
    }
}

enum status receiver_start(struct receiver *receiver, int64_t step, int32_t n_epochs)
{
    struct recorder_options *recorded = &receiver->recorded;

    TRY(consumer_start(receiver->consumer, step, n_epochs));
    if (recorded->folder == NULL)
        return STATUS_OK;
    recorded->first_step = step;
    return recorder_open(&receiver->recorder, receiver->consumer, recorded);
}

/* The copies out of a slot must be over before it goes back to the consumer. */
static enum status give_back(struct receiver *receiver)
{
    if (receiver->batch == NULL)
        return STATUS_OK;
    TRY(batch_upload_wait(&receiver->upload, receiver->batch));
    if (receiver->recorder != NULL)
        recorder_take(receiver->recorder, receiver->batch);
    else
        consumer_return(receiver->consumer, receiver->batch);
    receiver->batch = NULL;
    return STATUS_OK;
}

/* Waits for a batch and begins its upload. */
static enum status fetch(struct receiver *receiver)
{
    int64_t since = clock_monotonic_ns(), complained = since;
    struct batch *batch = NULL;
    enum status status;

    do {
        status = consumer_next(receiver->consumer, &batch, clock_monotonic_ns() + look_ns);
        if (status == STATUS_TIMEOUT)
            TRY(look_around(receiver, since, &complained));
    } while (status == STATUS_TIMEOUT);
    receiver->waited_ns += clock_monotonic_ns() - since;
    log_refusals(receiver);
    TRY(status);
    receiver->ahead = batch;
    return batch_upload_begin(&receiver->upload, batch);
}

/* If the next batch is there already, its upload runs beside the step on this one. What fails here
 * fails again when it is fetched. */
static enum status fetch_ahead(struct receiver *receiver)
{
    struct batch *batch;

    if (receiver->device->kind == DEVICE_CPU ||
        consumer_next(receiver->consumer, &batch, clock_monotonic_ns()) != STATUS_OK)
        return STATUS_OK;
    receiver->ahead = batch;
    return batch_upload_begin(&receiver->upload, batch);
}

enum status receiver_next(struct receiver *receiver, struct batch **out, struct ibot_input *input)
{
    TRY(give_back(receiver));
    (void)!loader_processes_check(&receiver->loaders); /* none left: matters once data run out */
    if (receiver->ahead == NULL)
        TRY(fetch(receiver));
    *out = receiver->batch = receiver->ahead;
    receiver->ahead = NULL;
    TRY(batch_upload_take(&receiver->upload, receiver->batch, input));
    input->masks = receiver->batch->masks;
    return fetch_ahead(receiver);
}

enum status receiver_settle(struct receiver *receiver)
{
    return batch_upload_settle(&receiver->upload);
}

enum status receiver_show(struct receiver *receiver, struct batch *out, uint8_t **memory)
{
    return batch_upload_show(&receiver->upload, receiver->batch, out, memory);
}

int32_t receiver_loaders(const struct receiver *receiver)
{
    struct consumer_stats stats;

    consumer_stats(receiver->consumer, &stats);
    return stats.n_loaders;
}

void receiver_sync(struct receiver *receiver)
{
    /* The recorder has told its failures itself; a device that fails will say so at its next use.
     */
    if (receiver->recorder != NULL && give_back(receiver) == STATUS_OK)
        (void)!recorder_sync(receiver->recorder);
}

void receiver_close(struct receiver *receiver)
{
    if (receiver == NULL)
        return;
    if (receiver->batch != NULL && give_back(receiver) != STATUS_OK)
        consumer_return(receiver->consumer, receiver->batch);
    if (receiver->upload.device != NULL)
        batch_upload_close(&receiver->upload);
    if (receiver->ahead != NULL)
        consumer_return(receiver->consumer, receiver->ahead);
    receiver->batch = receiver->ahead = NULL;
    if (receiver->recorder != NULL)
        (void)!recorder_close(&receiver->recorder);
    consumer_close(&receiver->consumer);
    loader_processes_stop(&receiver->loaders);
    memset(receiver, 0, sizeof(*receiver));
}
