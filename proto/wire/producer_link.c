/* One consumer, from the loader's side. Whatever goes wrong between the two ends in a new Hello
 * with a higher attempt: the consumer then counts the leases of the former one as free, and jobs
 * of the former one come to nothing. */
#include "proto/wire/producer_internal.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "proto/base/clock.h"
#include "proto/base/memory.h"

static const int64_t hello_retry_ns = 100000000;   /* while there is no connection */
static const int64_t hello_repeat_ns = 1000000000; /* while there is no answer */
static const int64_t alive_ns = 1000000000;
static const int64_t reopen_ns = 1000000000;    /* after a failed handshake */
static const int64_t complain_ns = 60000000000; /* about the same failure again */
enum { MAX_MESSAGES = 4096 };                   /* of one consumer at a stretch */
/* The consumer says something four times a second, and a new connection costs little: no need to
 * wait as long as it does for us. */
static const int64_t silence_ns = (int64_t)SOCKET_SILENCE_MS / 2 * 1000000;

/* ---- open and close ---- */

static void free_outbox(struct link *link)
{
    for (struct job *job = job_list_pop(&link->outbox); job != NULL;
         job = job_list_pop(&link->outbox))
        producer_free_job(job);
    link->n_waiting = 0;
}

static void drop_spec(struct shared_spec **spec)
{
    if (*spec != NULL && --(*spec)->n_users == 0)
        memory_free(*spec);
    *spec = NULL;
}

static enum status connect_socket(struct link *link)
{
    const struct producer_options *options = &link->producer->options;

    TRY(socket_open(&link->socket, link->producer->context, SOCKET_PRODUCER, MESSAGE_MAX_BYTES));
    TRY(socket_monitor_open(&link->monitor, link->producer->context, link->socket));
    if (link_has_keys(link))
        socket_connect_with_keys(link->socket, options->keys, options->server_key);
    int ipv6 = strchr(link->endpoint, '[') != NULL;
    zmq_setsockopt(link->socket, ZMQ_IPV6, &ipv6, sizeof(ipv6));
    if (zmq_connect(link->socket, link->endpoint) != 0)
        FAIL(STATUS_INVALID, "endpoint '%s': %s", link->endpoint, zmq_strerror(errno));
    return STATUS_OK;
}

enum status link_open(struct link *link, struct producer *producer, const char *endpoint)
{
    TRY(endpoint_check_connect(endpoint));
    snprintf(link->endpoint, sizeof(link->endpoint), "%s", endpoint);
    link->producer = producer;
    link->state = LINK_NEW;
    return connect_socket(link);
}

void link_close(struct link *link)
{
    free_outbox(link);
    drop_spec(&link->spec);
    socket_monitor_close(&link->monitor);
    if (link->socket != NULL)
        zmq_close(link->socket);
    link->socket = NULL;
}

bool link_has_keys(const struct link *link)
{
    return link->producer->options.keys != NULL && endpoint_wants_keys(link->endpoint);
}

/* ---- state ---- */

/* Back to the beginning: leases are void, Hello is said at the given time. */
static void start_over(struct link *link, int64_t hello_ns)
{
    free_outbox(link);
    drop_spec(&link->spec);
    link->attempt++;
    link->state = LINK_NEW;
    link->hello_ns = hello_ns;
}

static void refuse(struct link *link, uint64_t session, const char *reason)
{
    start_over(link, INT64_MAX);
    link->state = LINK_REFUSED;
    link->session = session;
    snprintf(link->reason, sizeof(link->reason), "%s", reason);
}

/* Gives up a connection that may be dead without anybody having said so. Keeps the old one if there
 * is no new one. */
static void reconnect(struct link *link)
{
    struct socket_monitor old_monitor = link->monitor;
    void *old = link->socket;
    int linger = 0;

    link->socket = NULL;
    link->monitor = (struct socket_monitor){NULL, NULL};
    if (connect_socket(link) != STATUS_OK) {
        socket_monitor_close(&link->monitor);
        if (link->socket != NULL)
            zmq_close(link->socket);
        link->socket = old;
        link->monitor = old_monitor;
        return;
    }
    socket_monitor_close(&old_monitor);
    zmq_setsockopt(old, ZMQ_LINGER, &linger, sizeof(linger));
    zmq_close(old);
}

/* ---- handshakes ---- */

/* For the log: what becomes of the endpoint. */
static void notice(const struct link *link, bool good, const char *text)
{
    const struct producer_options *options = &link->producer->options;
    char line[SOCKET_ENDPOINT_BYTES + 2 * MESSAGE_REASON_BYTES];

    if (options->notice == NULL)
        return;
    snprintf(line, sizeof(line), "%s: %s", link->endpoint, text);
    options->notice(link->producer->make_context, good, line);
}

/* Why no connection comes to be. */
static const char *explain(const struct link *link, enum handshake_failure failure, char *out,
                           size_t size)
{
    char hex[KEY_TEXT_BYTES];

    switch (failure) {
    case HANDSHAKE_KEY:
        key_format(&link->producer->options.keys->public_half, hex);
        snprintf(out, size,
                 "it does not allow this loader's key %s; add it to the trainer's --allow file",
                 hex);
        break;
    case HANDSHAKE_MECHANISM:
        snprintf(out, size, "%s",
                 link_has_keys(link)
                     ? "it uses no keys: start the trainer with --key and --allow, or this loader "
                       "without --key"
                     : "it asks for keys: give this loader --key and --server_key");
        break;
    case HANDSHAKE_SERVER_KEY:
        snprintf(out, size, "it does not own the key of --server_key");
        break;
    case HANDSHAKE_STRANGER:
        snprintf(out, size, "what listens there is no trainer of this kind");
        break;
    default:
        snprintf(out, size, "it hangs up before the connection is made%s",
                 link_has_keys(link) ? "; is --server_key the trainer's public key?" : "");
        break;
    }
    return out;
}

/* Whether the log should hear of this failure now. A consumer that ends hangs up as well, and the
 * side that knows a reason may see the other one hang up first: without a reason it takes two, and
 * nobody has given one lately. */
static bool is_news(struct link *link, enum handshake_failure failure, int64_t now_ns)
{
    bool any_lately = false;

    for (int kind = 0; kind < HANDSHAKE_KINDS; kind++)
        any_lately |=
            link->complained_ns[kind] != 0 && now_ns - link->complained_ns[kind] < complain_ns;
    if (failure == HANDSHAKE_CLOSED)
        return ++link->n_closed >= 2 && !any_lately;
    return link->complained_ns[failure] == 0 ||
           now_ns - link->complained_ns[failure] >= complain_ns;
}

/* After a failed handshake ZeroMQ may never try again: we do, and say why once in a while. */
static void look_at_handshakes(struct link *link, int64_t now_ns)
{
    enum handshake_failure failure;
    char text[MESSAGE_REASON_BYTES], line[MESSAGE_REASON_BYTES + 32];

    while ((failure = socket_monitor_take(&link->monitor)) != HANDSHAKE_FINE) {
        pthread_mutex_lock(&link->producer->lock);
        link->producer->stats.n_failed_handshakes++;
        pthread_mutex_unlock(&link->producer->lock);
        if (link->reopen_ns == 0)
            link->reopen_ns = now_ns + reopen_ns;
        if (!is_news(link, failure, now_ns))
            continue;
        link->complained_ns[failure] = now_ns;
        snprintf(line, sizeof(line), "no connection, trying again: %s",
                 explain(link, failure, text, sizeof(text)));
        notice(link, false, line);
    }
    if (link->reopen_ns == 0 || now_ns < link->reopen_ns)
        return;
    link->reopen_ns = 0;
    reconnect(link);
    if (link->state == LINK_NEW)
        link->hello_ns = now_ns;
}

/* ---- sending ---- */

/* Sends producer->out; false when it cannot go now. */
static bool say(struct link *link, enum message_kind kind, uint64_t session)
{
    struct message *out = &link->producer->out;
    uint8_t bytes[MESSAGE_MAX_BYTES];

    out->kind = kind;
    out->session = session;
    return zmq_send(link->socket, bytes, message_pack(out, bytes), ZMQ_DONTWAIT) >= 0;
}

void link_say_goodbye(struct link *link, const char *reason)
{
    struct message *out = &link->producer->out;

    if (link->state != LINK_SERVING && reason[0] == '\0')
        return;
    snprintf(out->goodbye.reason, sizeof(out->goodbye.reason), "%s", reason);
    say(link, MESSAGE_GOODBYE, link->session);
}

static void say_hello(struct link *link, int64_t now_ns)
{
    const struct producer *producer = link->producer;
    const struct producer_options *options = &producer->options;
    struct message_hello *hello = &link->producer->out.hello;

    *hello = (struct message_hello){
        .version = WIRE_VERSION,
        .instance = producer->instance,
        .attempt = link->attempt,
        .self_test = options->self_test,
        .index_digest = options->dataset.index_digest,
        .n_samples = options->dataset.n_samples,
        .n_classes = options->dataset.n_classes,
        .credit = options->credit,
        .n_threads = options->n_threads,
    };
    memcpy(hello->name, producer->name, sizeof(hello->name));
    if (say(link, MESSAGE_HELLO, 0)) {
        link->hello_ns = INT64_MAX;
        link->said_ns = link->spoke_ns = now_ns;
    } else {
        link->hello_ns = now_ns + hello_retry_ns;
    }
}

/* A frame of some slice is sent, or dropped; the last one frees the pixels. Runs in whatever thread
 * of ZeroMQ's comes to it. */
static void release_frame(void *bytes, void *hint)
{
    struct producer *producer = hint;
    uint8_t *frame = bytes, *done = NULL;

    pthread_mutex_lock(&producer->lock);
    for (size_t i = 0; i < producer->n_payloads; i++) {
        struct payload *payload = &producer->payloads[i];
        if (frame < payload->bytes || frame >= payload->bytes + payload->n_bytes)
            continue;
        if (--payload->n_frames == 0) {
            done = payload->bytes;
            *payload = producer->payloads[--producer->n_payloads];
        }
        break;
    }
    pthread_mutex_unlock(&producer->lock);
    memory_free(done);
}

/* Takes the pixels from the job: they are freed after n_frames calls of release_frame. */
static enum status lend_payload(struct producer *producer, struct job *job, int32_t n_frames)
{
    pthread_mutex_lock(&producer->lock);
    enum status status = memory_grow(&producer->payloads, &producer->payload_capacity,
                                     producer->n_payloads + 1, sizeof(struct payload), "payloads");
    if (status == STATUS_OK) {
        producer->payloads[producer->n_payloads++] =
            (struct payload){.bytes = job->slice.payload,
                             .n_bytes = (size_t)job->slice.n_samples * job->spec->record_bytes,
                             .n_frames = n_frames};
        job->slice.payload = NULL;
    }
    pthread_mutex_unlock(&producer->lock);
    return status;
}

static void fill_slice(struct message_slice *out, const struct job *job)
{
    const struct slice_job *slice = &job->slice;
    size_t n_bad =
        slice->n_bad_images < MESSAGE_MAX_BAD_IMAGES ? slice->n_bad_images : MESSAGE_MAX_BAD_IMAGES;

    out->lease = (struct lease_item){.slice_id = slice->slice_id,
                                     .epoch = slice->epoch,
                                     .first_position = slice->first_position,
                                     .stride = slice->stride,
                                     .n_samples = slice->n_samples};
    out->spec_digest = job->spec->digest;
    for (int32_t i = 0; i < slice->n_samples; i++) {
        out->index[i] = slice->samples[i].index;
        out->label[i] = slice->samples[i].label;
        out->n_substituted[i] = slice->samples[i].n_substituted;
        out->n_repaired[i] = slice->samples[i].n_repaired;
        out->hash[i] = job->hashes[i];
    }
    out->n_bad_images = (int32_t)n_bad;
    if (n_bad > 0)
        memcpy(out->bad_images, slice->bad_images, n_bad * sizeof(out->bad_images[0]));
    for (size_t i = 0; i < n_bad; i++) {
        out->bad_images[i].path[sizeof(out->bad_images[i].path) - 1] = '\0';
        out->bad_images[i].reason[sizeof(out->bad_images[i].reason) - 1] = '\0';
    }
}

/* A frame in the midst of a message: a signal that comes then must not take it out. */
static int send_part(zmq_msg_t *part, void *socket, int flags)
{
    int n;

    do
        n = zmq_msg_send(part, socket, flags);
    while (n < 0 && errno == EINTR);
    return n;
}

/* The payload as frames of whole images, without a copy. Errors: STATUS_CLOSED: the connection
 * went meanwhile; ZeroMQ drops what is left of the message. */
static enum status send_frames(struct link *link, const struct job *job, uint8_t *bytes)
{
    size_t record = job->spec->record_bytes;
    int32_t most = socket_images_per_frame(record), n_images = job->slice.n_samples;
    enum status status = STATUS_OK;

    for (int32_t i = 0; i < n_images; i += most) {
        int32_t n = n_images - i < most ? n_images - i : most;
        uint8_t *frame = bytes + (size_t)i * record;
        bool last = i + n == n_images;
        zmq_msg_t part;
        if (zmq_msg_init_data(&part, frame, (size_t)n * record, release_frame, link->producer) !=
            0) {
            zmq_msg_init(&part); /* no memory: an empty frame ends the message as it must end */
            release_frame(frame, link->producer);
            status = STATUS_CLOSED;
        }
        if (send_part(&part, link->socket, ZMQ_DONTWAIT | (last ? 0 : ZMQ_SNDMORE)) < 0) {
            zmq_msg_close(&part);
            status = STATUS_CLOSED;
        }
    }
    return status;
}

/* One finished job. Errors: STATUS_TIMEOUT (not now), STATUS_CLOSED (lost on the way). */
static enum status send_job(struct link *link, struct job *job)
{
    struct producer *producer = link->producer;
    struct message *out = &producer->out;
    uint8_t bytes[MESSAGE_MAX_BYTES], *payload = job->slice.payload;

    if (job->slice.status != STATUS_OK) {
        out->failure.slice_id = job->slice.slice_id;
        snprintf(out->failure.reason, sizeof(out->failure.reason), "%s", job->slice.reason);
        return say(link, MESSAGE_FAILURE, link->session) ? STATUS_OK : STATUS_TIMEOUT;
    }
    out->kind = MESSAGE_SLICE;
    out->session = link->session;
    fill_slice(&out->slice, job);
    size_t n_bytes = message_pack(out, bytes);
    if (zmq_send(link->socket, bytes, n_bytes, ZMQ_DONTWAIT | ZMQ_SNDMORE) < 0)
        return STATUS_TIMEOUT;
    int32_t most = socket_images_per_frame(job->spec->record_bytes);
    if (lend_payload(producer, job, (job->slice.n_samples + most - 1) / most) != STATUS_OK) {
        zmq_send(link->socket, "", 0, ZMQ_DONTWAIT);
        return STATUS_CLOSED;
    }
    enum status status = send_frames(link, job, payload);
    if (status == STATUS_OK) {
        pthread_mutex_lock(&producer->lock);
        producer->stats.n_slices++;
        producer->stats.n_images += (uint64_t)job->slice.n_samples;
        producer->stats.n_bytes += (uint64_t)job->slice.n_samples * job->spec->record_bytes;
        pthread_mutex_unlock(&producer->lock);
    }
    return status;
}

static void send_outbox(struct link *link, int64_t now_ns)
{
    while (link->outbox.first != NULL) {
        struct producer *producer = link->producer;
        int64_t begin_ns = clock_monotonic_ns();
        enum status status = send_job(link, link->outbox.first);
        int64_t end_ns = clock_monotonic_ns();
        pthread_mutex_lock(&producer->lock);
        producer->stats.send_ns += end_ns - begin_ns;
        producer->stats.n_failures +=
            status == STATUS_OK && link->outbox.first->slice.status != STATUS_OK;
        pthread_mutex_unlock(&producer->lock);
        if (status == STATUS_TIMEOUT)
            return;
        if (status == STATUS_CLOSED) {
            start_over(link, now_ns + hello_retry_ns);
            return;
        }
        producer_free_job(job_list_pop(&link->outbox));
        link->n_waiting--;
        link->spoke_ns = now_ns;
    }
}

/* ---- receiving ---- */

/* A consumer that asks again and again who we are must not fill the log. */
static void tell_serving(struct link *link)
{
    enum { MAX_IN_A_MINUTE = 5 };

    if (link->told_ns == 0 || link->heard_ns - link->told_ns >= complain_ns) {
        link->told_ns = link->heard_ns;
        link->n_told = 0;
    }
    if (link->n_told++ < MAX_IN_A_MINUTE)
        notice(link, true, link_has_keys(link) ? "serving, encrypted" : "serving");
}

static void take_spec(struct link *link, const struct message *message)
{
    struct shared_spec *spec;

    if (link->state != LINK_NEW || message->spec.attempt != link->attempt)
        return; /* the answer to an earlier attempt */
    if (memory_alloc(&spec, 1, sizeof(*spec), "data spec") != STATUS_OK)
        return;
    spec->n_users = 1;
    spec->spec = message->spec.data_spec;
    spec->digest = message->spec.digest;
    spec->record_bytes = data_spec_record_bytes(&spec->spec);
    link->spec = spec;
    link->session = message->session;
    link->state = LINK_SERVING;
    link->reached = true;
    link->finished = false;
    memset(link->complained_ns, 0, sizeof(link->complained_ns));
    link->n_closed = 0;
    tell_serving(link);
}

/* True when the lease is one that a sound consumer would give. */
static bool sensible(const struct link *link, const struct lease_item *item)
{
    const struct producer_options *options = &link->producer->options;
    uint64_t last = item->first_position + (uint64_t)(item->n_samples - 1) * item->stride;

    return link->n_making + link->n_waiting < options->credit &&
           last < options->dataset.n_samples + item->stride;
}

static void take_lease(struct link *link, const struct message_lease *lease, int64_t now_ns)
{
    struct producer *producer = link->producer;

    for (int32_t i = 0; i < lease->n_items && link->state == LINK_SERVING; i++) {
        const struct lease_item *item = &lease->items[i];
        struct job *job = NULL;
        if (!sensible(link, item) || producer_take_job(producer, &job, link) != STATUS_OK) {
            start_over(link, now_ns + hello_repeat_ns);
            return;
        }
        struct slice_job *slice = &job->slice;
        slice->spec = &job->spec->spec;
        slice->consumer = (int32_t)(link - producer->links);
        slice->slice_id = item->slice_id;
        slice->epoch = item->epoch;
        slice->first_position = item->first_position;
        slice->stride = item->stride;
        slice->n_samples = item->n_samples;
        link->n_making++;
        producer->make(producer->make_context, slice);
    }
}

static void handle(struct link *link, const struct message *message, int64_t now_ns)
{
    bool ours = message->session == link->session;

    link->heard_ns = now_ns;
    switch (message->kind) {
    case MESSAGE_SPEC:
        take_spec(link, message);
        break;
    case MESSAGE_REJECT:
        refuse(link, message->session, message->reject.reason);
        break;
    case MESSAGE_LEASE:
        if (link->state == LINK_SERVING && ours)
            take_lease(link, &message->lease, now_ns);
        break;
    case MESSAGE_HELLO_WANTED:
        /* In LINK_NEW, Hello is on its way; the one who refused us asks in vain. */
        if (link->state == LINK_SERVING || (link->state == LINK_REFUSED && !ours))
            start_over(link, now_ns);
        break;
    case MESSAGE_ALIVE:
        if (link->state == LINK_SERVING && !ours)
            start_over(link, now_ns);
        break;
    case MESSAGE_FINISHED:
        link->finished = link->finished || (link->state == LINK_SERVING && ours);
        break;
    case MESSAGE_GOODBYE:
        if (link->state == LINK_SERVING && ours)
            start_over(link, now_ns + hello_retry_ns);
        break;
    default:
        break; /* loaders' messages: not for us */
    }
}

void link_receive(struct link *link, int64_t now_ns)
{
    struct message *in = &link->producer->in;
    char reason[MESSAGE_REASON_BYTES];
    zmq_msg_t part;

    for (int i = 0; i < MAX_MESSAGES; i++) {
        zmq_msg_init(&part);
        if (zmq_msg_recv(&part, link->socket, ZMQ_DONTWAIT) < 0) {
            zmq_msg_close(&part);
            break;
        }
        bool more = zmq_msg_more(&part) != 0;
        enum status status = message_unpack(in, zmq_msg_data(&part), zmq_msg_size(&part));
        zmq_msg_close(&part);
        while (more) {
            zmq_msg_init(&part);
            more = zmq_msg_recv(&part, link->socket, ZMQ_DONTWAIT) >= 0 && zmq_msg_more(&part) != 0;
            zmq_msg_close(&part);
        }
        if (status == STATUS_OK) {
            handle(link, in, now_ns);
        } else if (status == STATUS_INVALID) { /* a Spec that we cannot serve */
            snprintf(reason, sizeof(reason), "it cannot serve: %.*s", MESSAGE_REASON_BYTES - 32,
                     status_message());
            link->session = in->session;
            link_say_goodbye(link, reason);
            refuse(link, in->session, status_message());
        } else {
            start_over(link, now_ns + hello_repeat_ns);
        }
    }
}

/* ---- steps ---- */

void link_take_back(struct link *link, struct job *job)
{
    link->n_making--;
    if (link->state != LINK_SERVING || job->attempt != link->attempt) {
        producer_free_job(job);
        return;
    }
    job_list_push(&link->outbox, job);
    link->n_waiting++;
}

void link_step(struct link *link, int64_t now_ns)
{
    look_at_handshakes(link, now_ns);
    if (link->state == LINK_SERVING && now_ns - link->heard_ns > silence_ns) {
        notice(link, false, "silent for too long; connecting anew");
        start_over(link, now_ns);
        reconnect(link);
    }
    if (link->state == LINK_NEW) {
        if (link->hello_ns == INT64_MAX && now_ns - link->said_ns > hello_repeat_ns)
            link->hello_ns = now_ns;
        /* Not before the last job of the former attempt is back: the caller's threads never have
         * more than our credit. */
        if (link->hello_ns <= now_ns && link->n_making == 0)
            say_hello(link, now_ns);
        return;
    }
    send_outbox(link, now_ns);
    if (link->state != LINK_NEW && now_ns - link->spoke_ns >= alive_ns &&
        say(link, MESSAGE_ALIVE, link->session))
        link->spoke_ns = now_ns;
}
