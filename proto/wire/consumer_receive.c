/* What loaders send: introductions, slices, failures. A loader is judged here: refused when it has
 * another data set or build, or when it keeps sending what does not hold. */
#include "proto/wire/consumer_internal.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "proto/base/clock.h"
#include "proto/base/hash.h"

/* ---- sending ---- */

enum status consumer_send(struct consumer *consumer, const uint8_t *routing, size_t n_routing)
{
    uint8_t bytes[MESSAGE_MAX_BYTES];
    size_t n_bytes = message_pack(&consumer->out, bytes);

    if (zmq_send(consumer->socket, routing, n_routing, ZMQ_SNDMORE | ZMQ_DONTWAIT) < 0)
        return errno == EHOSTUNREACH ? STATUS_CLOSED : STATUS_TIMEOUT;
    /* The connection was found for the first part; the second cannot fail but with it. */
    if (zmq_send(consumer->socket, bytes, n_bytes, ZMQ_DONTWAIT) < 0)
        return STATUS_CLOSED;
    return STATUS_OK;
}

/* Answers where the message being handled came from; what does not get there is told by the next
 * Alive. */
static void answer(struct consumer *consumer, enum message_kind kind, uint64_t session)
{
    consumer->out.kind = kind;
    consumer->out.session = session;
    enum status status = consumer_send(consumer, consumer->in.routing, consumer->in.n_routing);
    (void)status;
}

/* ---- refusals ---- */

void consumer_note_refusal(struct consumer *consumer, const struct sender *sender, const char *name,
                           const char *reason)
{
    char text[REFUSAL_TEXT_BYTES];

    snprintf(text, sizeof(text), "%s%.*s at %s: %.*s", name[0] != '\0' ? "loader " : "a loader",
             MESSAGE_NAME_BYTES, name, sender->address, MESSAGE_REASON_BYTES, reason);
    pthread_mutex_lock(&consumer->lock);
    refusals_note(&consumer->refusals, text, clock_monotonic_ns());
    memcpy(consumer->last_refusal, text, sizeof(text));
    consumer->stats.n_rejected_loaders++;
    pthread_mutex_unlock(&consumer->lock);
}

/* Tells the sender of the message being handled why it is refused. */
static void reject(struct consumer *consumer, const char *reason)
{
    consumer->out.reject.version = WIRE_VERSION;
    snprintf(consumer->out.reject.reason, MESSAGE_REASON_BYTES, "%s", reason);
    answer(consumer, MESSAGE_REJECT, consumer->session_id);
}

void consumer_forget(struct consumer *consumer, int32_t loader)
{
    session_leave(consumer->session, loader);
    consumer->peers[loader].used = false;
}

/* Refuses an accepted loader for what it did, now and when it comes back. */
static void refuse_peer(struct consumer *consumer, int32_t loader, const char *reason)
{
    struct peer *peer = &consumer->peers[loader];
    struct ban *ban = &consumer->bans[consumer->n_bans++ % CONSUMER_BANNED];

    ban->instance = peer->instance;
    snprintf(ban->reason, sizeof(ban->reason), "%s", reason);
    consumer_note_refusal(consumer, &peer->sender, peer->name, reason);
    reject(consumer, reason);
    consumer_forget(consumer, loader);
}

/* The loader sent something that does not hold. */
static void strike(struct consumer *consumer, int32_t loader, const char *reason)
{
    pthread_mutex_lock(&consumer->lock);
    consumer->stats.n_corrupt++;
    pthread_mutex_unlock(&consumer->lock);
    if (++consumer->peers[loader].n_strikes >= CONSUMER_MAX_STRIKES)
        refuse_peer(consumer, loader, reason);
}

/* ---- introductions ---- */

/* Why this loader cannot serve here. Errors: STATUS_MISMATCH. */
static enum status judge(const struct consumer *consumer, const struct message_hello *hello)
{
    const struct dataset_info *ours = &consumer->thread_dataset;
    const struct sender *sender = &consumer->in.sender;
    uint64_t wanted = consumer->options.index_digest;

    if (sender->has_key && !auth_allows(consumer->auth, &sender->key, NULL))
        FAIL(STATUS_MISMATCH, "its key is not in the list of allowed ones any more");

    if (hello->version != WIRE_VERSION)
        FAIL(STATUS_MISMATCH,
             "it speaks version %u of the protocol and the consumer version %d; use the same "
             "release of ibot on both sides",
             hello->version, WIRE_VERSION);
    for (uint32_t i = 0; i < consumer->n_bans && i < CONSUMER_BANNED; i++)
        if (consumer->bans[i].instance == hello->instance)
            FAIL(STATUS_MISMATCH, "%s", consumer->bans[i].reason);
    if (hello->n_samples == 0 || hello->n_samples > UINT32_MAX)
        FAIL(STATUS_MISMATCH, "its data set has %llu images; wanted 1..%u",
             (unsigned long long)hello->n_samples, UINT32_MAX);
    if (ours->n_samples > 0
            ? hello->index_digest != ours->index_digest || hello->n_samples != ours->n_samples ||
                  hello->n_classes != ours->n_classes
            : wanted != 0 && hello->index_digest != wanted) {
        wanted = ours->n_samples > 0 ? ours->index_digest : wanted;
        FAIL(STATUS_MISMATCH,
             "its data set (%llu images in %d classes, index digest %016llx) is not the run's "
             "(digest %016llx); give every loader the same files",
             (unsigned long long)hello->n_samples, hello->n_classes,
             (unsigned long long)hello->index_digest, (unsigned long long)wanted);
    }
    if (ours->n_samples > 0 && hello->self_test != consumer->self_test)
        FAIL(STATUS_MISMATCH,
             "its build makes other pixels (self test %016llx, the run's is %016llx); use the same "
             "build and libraries for every loader",
             (unsigned long long)hello->self_test, (unsigned long long)consumer->self_test);
    return STATUS_OK;
}

/* The accepted loader of this connection, or -1. */
static int32_t find_peer(const struct consumer *consumer)
{
    const struct received *in = &consumer->in;

    for (int32_t i = 0; i < consumer->n_peers; i++) {
        const struct peer *peer = &consumer->peers[i];
        if (peer->used && peer->n_routing == in->n_routing &&
            memcmp(peer->routing, in->routing, in->n_routing) == 0)
            return i;
    }
    return -1;
}

/* The first accepted loader says what the data set is. */
static void learn_dataset(struct consumer *consumer, const struct message_hello *hello)
{
    if (consumer->thread_dataset.n_samples > 0)
        return;
    consumer->thread_dataset = (struct dataset_info){.index_digest = hello->index_digest,
                                                     .n_samples = hello->n_samples,
                                                     .n_classes = hello->n_classes};
    consumer->self_test = hello->self_test;
    pthread_mutex_lock(&consumer->lock);
    consumer->dataset = consumer->thread_dataset;
    consumer->dataset_known = true;
    pthread_cond_broadcast(&consumer->changed);
    pthread_mutex_unlock(&consumer->lock);
}

static void handle_hello(struct consumer *consumer, int32_t known, int64_t now_ns)
{
    const struct message_hello *hello = &consumer->in.message.hello;

    if (known >= 0 && consumer->peers[known].instance == hello->instance &&
        consumer->peers[known].attempt == hello->attempt)
        return; /* said twice; it has its answer */
    if (known >= 0)
        consumer_forget(consumer, known);
    /* The same process over a new connection: what it held before is void. */
    for (int32_t i = 0; i < consumer->n_peers && hello->version == WIRE_VERSION; i++)
        if (consumer->peers[i].used && consumer->peers[i].instance == hello->instance)
            consumer_forget(consumer, i);
    if (judge(consumer, hello) != STATUS_OK) {
        consumer_note_refusal(consumer, &consumer->in.sender, hello->name, status_message());
        reject(consumer, status_message());
        return;
    }
    int32_t number = session_join(consumer->session, hello->credit);
    if (number < 0) {
        consumer_note_refusal(consumer, &consumer->in.sender, hello->name,
                              "there are too many loaders here already");
        reject(consumer, "there are too many loaders here already");
        return;
    }
    struct peer *peer = &consumer->peers[number];
    uint64_t n = ++consumer->n_joined;
    if (number >= consumer->n_peers)
        consumer->n_peers = number + 1;
    *peer = (struct peer){.used = true,
                          .session = hash_bytes_seeded(&n, sizeof(n), consumer->session_id),
                          .n_routing = consumer->in.n_routing,
                          .instance = hello->instance,
                          .attempt = hello->attempt,
                          .credit = hello->credit,
                          .n_threads = hello->n_threads,
                          .heard_ns = now_ns,
                          .sender = consumer->in.sender};
    memcpy(peer->routing, consumer->in.routing, consumer->in.n_routing);
    snprintf(peer->name, sizeof(peer->name), "%s", hello->name);
    learn_dataset(consumer, hello);
    consumer->out.spec.data_spec = consumer->options.spec;
    consumer->out.spec.digest = consumer->spec_digest;
    consumer->out.spec.attempt = peer->attempt;
    answer(consumer, MESSAGE_SPEC, peer->session);
    if (consumer->finished)
        answer(consumer, MESSAGE_FINISHED, peer->session);
}

/* ---- slices ---- */

static bool receive_part(struct consumer *consumer, zmq_msg_t *part)
{
    zmq_msg_init(part);
    if (zmq_msg_recv(part, consumer->socket, ZMQ_DONTWAIT) < 0) {
        consumer->in.more = false;
        zmq_msg_close(part);
        return false;
    }
    consumer->in.more = zmq_msg_more(part) != 0;
    return true;
}

/* The header must be the one that was asked for. Errors: STATUS_CORRUPT. */
static enum status check_header(const struct consumer *consumer, const struct message_slice *slice)
{
    const struct lease_item want = consumer_slice_of(consumer, slice->lease.slice_id);
    const struct lease_item *got = &slice->lease;
    const struct dataset_info *dataset = &consumer->thread_dataset;

    if (got->epoch != want.epoch || got->first_position != want.first_position ||
        got->stride != want.stride || got->n_samples != want.n_samples ||
        slice->spec_digest != consumer->spec_digest)
        FAIL(STATUS_CORRUPT,
             "slice %llu is not the one asked for: epoch %d (wanted %d), positions %llu by %u, "
             "%d samples (wanted %llu by %u, %d), spec %016llx (wanted %016llx)",
             (unsigned long long)got->slice_id, got->epoch, want.epoch,
             (unsigned long long)got->first_position, got->stride, got->n_samples,
             (unsigned long long)want.first_position, want.stride, want.n_samples,
             (unsigned long long)slice->spec_digest, (unsigned long long)consumer->spec_digest);
    for (int32_t i = 0; i < got->n_samples; i++)
        if (slice->index[i] >= dataset->n_samples || slice->label[i] < -1 ||
            slice->label[i] >= (dataset->n_classes > 0 ? dataset->n_classes : 1))
            FAIL(STATUS_CORRUPT,
                 "slice %llu: sample %d has index %u and label %d in a data set of %llu images and "
                 "%d classes",
                 (unsigned long long)got->slice_id, i, slice->index[i], slice->label[i],
                 (unsigned long long)dataset->n_samples, dataset->n_classes);
    return STATUS_OK;
}

/* One payload frame from record *n on. Errors: STATUS_CORRUPT. */
static enum status take_frame(struct consumer *consumer, struct slot *slot, int32_t first,
                              int32_t *n, const uint8_t *data, size_t n_bytes)
{
    const struct message_slice *slice = &consumer->in.message.slice;
    size_t n_records = n_bytes / consumer->record_bytes;

    if (n_bytes == 0 || n_bytes % consumer->record_bytes != 0 ||
        n_records > (size_t)(slice->lease.n_samples - *n))
        FAIL(STATUS_CORRUPT,
             "slice %llu: a payload frame of %zu bytes after %d of %d images of %zu bytes",
             (unsigned long long)slice->lease.slice_id, n_bytes, *n, slice->lease.n_samples,
             consumer->record_bytes);
    for (; n_records > 0; n_records--, ++*n, data += consumer->record_bytes) {
        if (hash_bytes(data, consumer->record_bytes) != slice->hash[*n])
            FAIL(STATUS_CORRUPT, "slice %llu: image %d (index %u) has not the hash in its header",
                 (unsigned long long)slice->lease.slice_id, *n, slice->index[*n]);
        if (!data_spec_record_is_sound(&consumer->options.spec, data))
            FAIL(STATUS_CORRUPT,
                 "slice %llu: image %d (index %u) has bits after the last cell of a mask",
                 (unsigned long long)slice->lease.slice_id, *n, slice->index[*n]);
        consumer_slot_put(consumer, slot, first + *n, data);
    }
    return STATUS_OK;
}

/* Fills the slot from the frames that follow. What a bad slice leaves there is overwritten by the
 * good copy, since its batch stays incomplete. Errors: STATUS_CORRUPT. */
static enum status take_slice(struct consumer *consumer, struct slot *slot, int32_t first)
{
    const struct message_slice *slice = &consumer->in.message.slice;
    int32_t n = 0;

    TRY(check_header(consumer, slice));
    while (consumer->in.more) {
        zmq_msg_t part;
        if (!receive_part(consumer, &part))
            break;
        enum status status =
            take_frame(consumer, slot, first, &n, zmq_msg_data(&part), zmq_msg_size(&part));
        zmq_msg_close(&part);
        TRY(status);
    }
    if (n != slice->lease.n_samples)
        FAIL(STATUS_CORRUPT, "slice %llu: %d of %d images came",
             (unsigned long long)slice->lease.slice_id, n, slice->lease.n_samples);
    for (int32_t i = 0; i < n; i++) {
        slot->batch.samples[first + i] = (struct batch_sample){
            .position = slice->lease.first_position + (uint64_t)i * slice->lease.stride,
            .index = slice->index[i],
            .label = slice->label[i],
            .n_substituted = slice->n_substituted[i],
            .n_repaired = slice->n_repaired[i],
        };
        slot->hashes[first + i] = slice->hash[i];
    }
    return STATUS_OK;
}

/* Queues a report unless this image was reported lately. */
static void report_bad_image(struct consumer *consumer, const struct bad_image *image)
{
    uint32_t n =
        consumer->n_seen < CONSUMER_SEEN_REPORTS ? consumer->n_seen : CONSUMER_SEEN_REPORTS;

    for (uint32_t i = 0; i < n; i++)
        if (consumer->seen[i].epoch == image->epoch && consumer->seen[i].index == image->index)
            return;
    consumer->seen[consumer->n_seen % CONSUMER_SEEN_REPORTS].epoch = image->epoch;
    consumer->seen[consumer->n_seen++ % CONSUMER_SEEN_REPORTS].index = image->index;
    pthread_mutex_lock(&consumer->lock);
    consumer->stats.n_bad_images++;
    consumer->stats.n_bad_of[image->kind]++;
    if (consumer->n_reports < CONSUMER_PENDING_REPORTS) {
        uint32_t last = consumer->first_report + consumer->n_reports++;
        consumer->reports[last % CONSUMER_PENDING_REPORTS] = *image;
    }
    pthread_mutex_unlock(&consumer->lock);
}

static struct slot *slot_of(const struct consumer *consumer, uint64_t slice_id)
{
    uint64_t step = slice_id / (uint64_t)consumer->slices_per_batch;
    return consumer->making[step % (uint64_t)consumer->n_slots];
}

/* Counts what came and names its bad images. */
static void note_slice(struct consumer *consumer, struct slot *slot, int32_t first)
{
    const struct message_slice *slice = &consumer->in.message.slice;
    uint64_t n = (uint64_t)slice->lease.n_samples, n_repaired = 0;

    for (int32_t i = 0; i < slice->lease.n_samples; i++)
        n_repaired += slice->n_repaired[i] > 0;
    pthread_mutex_lock(&consumer->lock);
    consumer->stats.n_slices++;
    consumer->stats.n_images += n;
    consumer->stats.n_bytes += n * consumer->record_bytes;
    consumer->stats.n_repaired += n_repaired;
    pthread_mutex_unlock(&consumer->lock);
    for (int32_t i = 0; i < slice->n_bad_images; i++) {
        report_bad_image(consumer, &slice->bad_images[i]);
        consumer_slot_note(slot, first, &slice->bad_images[i]);
    }
}

static void handle_slice(struct consumer *consumer, int32_t loader, int64_t now_ns)
{
    const struct message_slice *slice = &consumer->in.message.slice;
    uint64_t id = slice->lease.slice_id;
    enum session_verdict verdict = session_verdict(consumer->session, loader, id);

    if (verdict == SESSION_UNKNOWN) {
        strike(consumer, loader, "it sent a slice that it had no lease for");
        return;
    }
    if (verdict == SESSION_DUPLICATE) {
        session_drop(consumer->session, loader, id);
        pthread_mutex_lock(&consumer->lock);
        consumer->stats.n_duplicates++;
        pthread_mutex_unlock(&consumer->lock);
        return;
    }
    struct slot *slot = slot_of(consumer, id);
    int32_t number = (int32_t)(id % (uint64_t)consumer->slices_per_batch);
    int32_t first = number * consumer->options.slice_size;
    if (take_slice(consumer, slot, first) != STATUS_OK) {
        session_drop(consumer->session, loader, id);
        strike(consumer, loader, status_message());
        return;
    }
    session_done(consumer->session, loader, id, now_ns);
    slot->n_slices_left--;
    consumer->peers[loader].n_slices++;
    consumer->peers[loader].n_images += (uint64_t)slice->lease.n_samples;
    consumer->peers[loader].n_failures = 0;
    note_slice(consumer, slot, first);
}

/* A slice that cannot be made ends the stream at its step if that is the policy, or if loaders keep
 * failing at it. */
static void handle_failure(struct consumer *consumer, int32_t loader, int64_t now_ns)
{
    const struct message_failure *failure = &consumer->in.message.failure;
    struct peer *peer = &consumer->peers[loader];
    uint64_t id = failure->slice_id, n = (uint64_t)consumer->slices_per_batch;
    enum session_verdict verdict = session_verdict(consumer->session, loader, id);

    if (verdict == SESSION_UNKNOWN) {
        strike(consumer, loader, "it reported failure of a slice that it had no lease for");
        return;
    }
    if (verdict == SESSION_DUPLICATE) {
        session_drop(consumer->session, loader, id);
        return;
    }
    int32_t n_failures = ++slot_of(consumer, id)->failures[id % n];
    if (consumer->options.spec.bad_image_policy == BAD_IMAGE_FAIL ||
        n_failures >= CONSUMER_MAX_FAILURES) {
        /* Done, but its batch will never be complete: nobody makes it again. */
        session_done(consumer->session, loader, id, now_ns);
        if ((int64_t)(id / n) < consumer->failed_step) {
            consumer->failed_step = (int64_t)(id / n);
            snprintf(consumer->failure, sizeof(consumer->failure), "step %lld: loader %.*s: %.*s",
                     (long long)(id / n), MESSAGE_NAME_BYTES, peer->name,
                     MESSAGE_REASON_BYTES - MESSAGE_NAME_BYTES - 48, failure->reason);
        }
        return;
    }
    session_drop(consumer->session, loader, id);
    if (++peer->n_failures >= CONSUMER_MAX_FAILURES)
        refuse_peer(consumer, loader, failure->reason);
}

/* ---- one message ---- */

static void handle(struct consumer *consumer, int32_t loader, int64_t now_ns)
{
    const struct message *message = &consumer->in.message;

    if (message->kind == MESSAGE_HELLO) {
        handle_hello(consumer, loader, now_ns);
        return;
    }
    if (message->kind == MESSAGE_STATUS_WANTED) {
        if (consumer_describe(consumer, now_ns))
            answer(consumer, MESSAGE_STATUS, consumer->session_id);
        return;
    }
    if (loader < 0) {
        if (message->kind != MESSAGE_GOODBYE)
            answer(consumer, MESSAGE_HELLO_WANTED, consumer->session_id);
        return;
    }
    consumer->peers[loader].heard_ns = now_ns;
    if (message->session != consumer->peers[loader].session)
        return; /* from before it was accepted, or a replay */
    if (message->kind == MESSAGE_SLICE) {
        handle_slice(consumer, loader, now_ns);
    } else if (message->kind == MESSAGE_FAILURE) {
        handle_failure(consumer, loader, now_ns);
    } else if (message->kind == MESSAGE_GOODBYE) {
        if (message->goodbye.reason[0] != '\0')
            consumer_note_refusal(consumer, &consumer->peers[loader].sender,
                                  consumer->peers[loader].name, message->goodbye.reason);
        consumer_forget(consumer, loader);
    } else if (message->kind != MESSAGE_ALIVE) {
        strike(consumer, loader, "it sent a message that only consumers send");
    }
}

/* A frame that is no message: a strike for a loader, an answer for a stranger. */
static void handle_garbage(struct consumer *consumer, int32_t loader)
{
    if (loader >= 0) {
        strike(consumer, loader, status_message());
        return;
    }
    pthread_mutex_lock(&consumer->lock);
    consumer->stats.n_corrupt++;
    pthread_mutex_unlock(&consumer->lock);
    reject(consumer, status_message());
}

/* Where the message came from, and with which key. */
static void note_sender(struct sender *out, zmq_msg_t *part)
{
    const char *address = zmq_msg_gets(part, "Peer-Address");
    const char *user = zmq_msg_gets(part, "User-Id"); /* auth.c sets it */

    snprintf(out->address, sizeof(out->address), "%s",
             address == NULL || address[0] == '\0' ? "an unknown address"
             : address[0] == ':'                   ? "this machine" /* ipc: uid, gid, pid */
                                                   : address);
    out->has_key = user != NULL && key_parse(&out->key, user, strlen(user));
}

/* Whether to read on: strangers are not listened to without end. */
static bool hear(struct consumer *consumer, int32_t loader, int64_t now_ns)
{
    const struct received *in = &consumer->in;

    if (loader >= 0 || strangers_hear(&consumer->strangers, in->routing, in->n_routing, now_ns))
        return true;
    pthread_mutex_lock(&consumer->lock);
    consumer->stats.n_unheard++;
    pthread_mutex_unlock(&consumer->lock);
    return false;
}

bool consumer_receive(struct consumer *consumer, int64_t now_ns)
{
    struct received *in = &consumer->in;
    zmq_msg_t part;

    if (!receive_part(consumer, &part))
        return false;
    in->n_routing = (uint8_t)(zmq_msg_size(&part) <= 255 ? zmq_msg_size(&part) : 255);
    memcpy(in->routing, zmq_msg_data(&part), in->n_routing);
    zmq_msg_close(&part);
    int32_t loader = find_peer(consumer);
    if (hear(consumer, loader, now_ns) && in->more && receive_part(consumer, &part)) {
        enum status status = message_unpack(&in->message, zmq_msg_data(&part), zmq_msg_size(&part));
        if (status != STATUS_OK || in->message.kind == MESSAGE_HELLO ||
            in->message.kind == MESSAGE_GOODBYE)
            note_sender(&in->sender, &part);
        zmq_msg_close(&part);
        if (status == STATUS_OK)
            handle(consumer, loader, now_ns);
        else
            handle_garbage(consumer, loader);
    }
    while (in->more && receive_part(consumer, &part))
        zmq_msg_close(&part);
    return true;
}
