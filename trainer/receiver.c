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

/* Where an accelerator's pixels go; on the CPU, where crops go whose colours are changed although
 * what came is still to be recorded. */
static enum status alloc_pixels(struct receiver *receiver, struct device *device,
                                const struct receiver_options *o)
{
    size_t b = (size_t)o->batch_size, locals = b * (size_t)o->spec.n_local;
    size_t globals = b * (size_t)o->spec.n_global * data_spec_view_bytes(&o->spec, 0);
    size_t n_views = (size_t)(o->spec.n_global + o->spec.n_local);
    size_t params = n_views * b * data_spec_photometric_bytes(&o->spec);

    if (device->kind == DEVICE_CPU && (params == 0 || o->record == NULL))
        return STATUS_OK;
    TRY(device->alloc(device, (void **)&receiver->globals, globals, "global crops"));
    if (params > 0)
        TRY(device->alloc(device, (void **)&receiver->photometric, params, "photometric params"));
    if (locals == 0)
        return STATUS_OK;
    locals *= data_spec_view_bytes(&o->spec, o->spec.n_global);
    return device->alloc(device, (void **)&receiver->locals, locals, "local crops");
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

    *out = (struct receiver){.device = device,
                             .ops = o->ops,
                             .spec = o->spec,
                             .stop = stop,
                             .notify = o->notify,
                             .alive = o->alive};
    if (data_spec_photometric_bytes(&o->spec) > 0 &&
        (o->ops == NULL || o->ops->photometric == NULL))
        FAIL(STATUS_UNSUPPORTED,
             "--photometric trainer: backend '%s' has no such op; use "
             "--photometric loader",
             o->ops != NULL ? o->ops->name : "none");
    out->recorded = (struct recorder_options){.folder = o->record,
                                              .pixels = o->record_pixels,
                                              .spec = o->spec,
                                              .rank = o->rank,
                                              .world = o->world,
                                              .batch_size = o->batch_size};
    if (o->n_loaders > 0) {
        TRY(loader_processes_prepare(&out->loaders));
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
    TRY_OUT(alloc_pixels(out, device, o));
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

/* n_views * n_images square crops, in the slot or copied to the device. */
static enum status take_crops(struct receiver *receiver, struct tensor *out, uint8_t *pixels,
                              uint8_t *on_device, int32_t n_views, int32_t size_px)
{
    struct device *device = receiver->device;

    *out = (struct tensor){0};
    if (n_views == 0)
        return STATUS_OK;
    *out = (struct tensor){
        pixels,
        DTYPE_U8,
        4,
        {(int64_t)n_views * receiver->batch->n_samples, size_px, size_px, 3},
    };
    if (on_device == NULL)
        return STATUS_OK;
    out->data = on_device;
    return device->copy_in(device, on_device, pixels, tensor_size_bytes(out));
}

/* Colours of n_views * n_images crops, their parameters from `first` view on. */
static enum status change_colours(const struct receiver *receiver, struct tensor *pixels,
                                  const uint8_t *params, int32_t first, int32_t n_views)
{
    int64_t n_images = receiver->batch->n_samples;
    size_t bytes = data_spec_photometric_bytes(&receiver->spec);

    if (n_views == 0)
        return STATUS_OK;
    union {
        const uint8_t *in;
        void *data;
    } from = {.in = params + (size_t)(first * n_images) * bytes};
    struct photometric_args args = {
        .pixels = *pixels,
        .params = tensor_2d(from.data, DTYPE_U8, n_views * n_images, (int64_t)bytes),
    };
    return receiver->ops->photometric(receiver->device, &args);
}

/* What loaders left to the trainer. */
static enum status take_photometric(const struct receiver *receiver, struct ibot_input *input)
{
    const struct data_spec *spec = &receiver->spec;
    const struct batch *batch = receiver->batch;
    struct device *device = receiver->device;
    const uint8_t *params = batch->photometric;
    int32_t n_views = spec->n_global + spec->n_local;

    if (params == NULL)
        return STATUS_OK;
    if (receiver->photometric != NULL) {
        TRY(device->copy_in(device, receiver->photometric, params,
                            (size_t)n_views * (size_t)batch->n_samples *
                                data_spec_photometric_bytes(spec)));
        params = receiver->photometric;
    }
    TRY(change_colours(receiver, &input->globals, params, 0, spec->n_global));
    return change_colours(receiver, &input->locals, params, spec->n_global, spec->n_local);
}

/* The copies out of a slot must be over before it goes back to the consumer. */
static enum status give_back(struct receiver *receiver)
{
    if (receiver->batch == NULL)
        return STATUS_OK;
    if (receiver->globals != NULL)
        TRY(receiver->device->synchronize(receiver->device));
    if (receiver->recorder != NULL)
        recorder_take(receiver->recorder, receiver->batch);
    else
        consumer_return(receiver->consumer, receiver->batch);
    receiver->batch = NULL;
    return STATUS_OK;
}

enum status receiver_next(struct receiver *receiver, struct batch **out, struct ibot_input *input)
{
    const struct data_spec *spec = &receiver->spec;
    int64_t since = clock_monotonic_ns(), complained = since;
    enum status status;

    TRY(give_back(receiver));
    (void)!loader_processes_check(&receiver->loaders); /* none left: matters once data run out */
    do {
        status =
            consumer_next(receiver->consumer, &receiver->batch, clock_monotonic_ns() + look_ns);
        if (status == STATUS_TIMEOUT)
            TRY(look_around(receiver, since, &complained));
    } while (status == STATUS_TIMEOUT);
    receiver->waited_ns += clock_monotonic_ns() - since;
    log_refusals(receiver);
    TRY(status);
    const struct batch *batch = *out = receiver->batch;
    TRY(take_crops(receiver, &input->globals, batch->globals, receiver->globals, spec->n_global,
                   spec->global_size_px));
    TRY(take_crops(receiver, &input->locals, batch->locals, receiver->locals, spec->n_local,
                   spec->local_size_px));
    input->masks = batch->masks;
    return take_photometric(receiver, input);
}

/* n_views of one size, from where the network sees them. */
static enum status show_crops(struct receiver *receiver, uint8_t **crops, const uint8_t *on_device,
                              uint8_t *to, size_t n_bytes)
{
    if (n_bytes == 0)
        return STATUS_OK;
    *crops = to;
    return receiver->device->copy_out(receiver->device, to, on_device, n_bytes);
}

enum status receiver_show(struct receiver *receiver, struct batch *out, uint8_t **memory)
{
    const struct data_spec *spec = &receiver->spec;
    size_t n = (size_t)receiver->batch->n_samples;
    size_t globals = n * (size_t)spec->n_global * data_spec_view_bytes(spec, 0), locals = 0;

    *out = *receiver->batch;
    *memory = NULL;
    if (out->photometric == NULL || receiver->globals == NULL)
        return STATUS_OK;
    if (spec->n_local > 0)
        locals = n * (size_t)spec->n_local * data_spec_view_bytes(spec, spec->n_global);
    TRY(memory_alloc(memory, globals + locals, 1, "crops"));
    TRY(show_crops(receiver, &out->globals, receiver->globals, *memory, globals));
    TRY(show_crops(receiver, &out->locals, receiver->locals, *memory + globals, locals));
    return receiver->device->synchronize(receiver->device);
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
    receiver->batch = NULL;
    if (receiver->recorder != NULL)
        (void)!recorder_close(&receiver->recorder);
    consumer_close(&receiver->consumer);
    loader_processes_stop(&receiver->loaders);
    if (receiver->globals != NULL)
        receiver->device->free(receiver->device, receiver->globals);
    if (receiver->locals != NULL)
        receiver->device->free(receiver->device, receiver->locals);
    if (receiver->photometric != NULL)
        receiver->device->free(receiver->device, receiver->photometric);
    memset(receiver, 0, sizeof(*receiver));
}
