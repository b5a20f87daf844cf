/* The consumer's thread: takes what comes, gives slots to steps and leases to loaders, hands on
 * batches that are complete, and tells loaders that it lives. */
#include "proto/wire/consumer_internal.h"

#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "proto/base/clock.h"

enum { POLL_MS = 50 };
static const int64_t receive_ns = 2000000; /* at a stretch, before leases are looked at */
static const int64_t alive_ns = 250000000; /* between our signs of life: how soon a loss shows */
static const int64_t silence_ns = (int64_t)SOCKET_SILENCE_MS * 1000000;

/* ---- slots ---- */

/* What the caller wants by now; returns false when it wants an end. */
static bool look_at_caller(struct consumer *consumer)
{
    uint64_t count;
    ssize_t n = read(consumer->wake, &count, sizeof(count));
    (void)n; /* nothing there: fine */

    pthread_mutex_lock(&consumer->lock);
    bool stop = consumer->stop;
    if (consumer->start && !consumer->leasing) {
        consumer->leasing = true;
        consumer->assign_step = consumer->ready_step = consumer->start_step;
        consumer->last_step = consumer->end_step;
        session_start(consumer->session,
                      (uint64_t)consumer->start_step * (uint64_t)consumer->slices_per_batch);
    }
    pthread_mutex_unlock(&consumer->lock);
    return !stop;
}

static struct slot *take_free_slot(struct consumer *consumer)
{
    struct slot *slot = NULL;

    pthread_mutex_lock(&consumer->lock);
    if (consumer->n_free > 0)
        slot = consumer->free[--consumer->n_free];
    pthread_mutex_unlock(&consumer->lock);
    return slot;
}

/* Gives free slots to the next steps, and so their slices a place. */
static void assign_slots(struct consumer *consumer)
{
    uint64_t n = (uint64_t)consumer->slices_per_batch;

    while (consumer->leasing && consumer->assign_step < consumer->last_step) {
        struct slot *slot = take_free_slot(consumer);
        if (slot == NULL)
            return;
        int64_t step = consumer->assign_step++;
        consumer->making[step % consumer->n_slots] = slot;
        consumer_slot_begin(consumer, slot, step);
        session_allow(consumer->session, ((uint64_t)step + 1) * n);
        for (uint64_t id = (uint64_t)step * n; id < ((uint64_t)step + 1) * n; id++)
            if (consumer_slice_of(consumer, id).n_samples == 0) {
                session_skip(consumer->session, id);
                slot->n_slices_left--;
            }
    }
}

static void set_error(struct consumer *consumer, enum status status, const char *text)
{
    pthread_mutex_lock(&consumer->lock);
    if (consumer->error == STATUS_OK) {
        consumer->error = status;
        snprintf(consumer->error_text, sizeof(consumer->error_text), "%s", text);
    }
    pthread_cond_broadcast(&consumer->changed);
    pthread_mutex_unlock(&consumer->lock);
}

/* Hands on what is complete, in order, and notices the end. */
static void hand_on(struct consumer *consumer)
{
    while (consumer->ready_step < consumer->assign_step) {
        struct slot *slot = consumer->making[consumer->ready_step % consumer->n_slots];
        if (slot->n_slices_left > 0)
            break;
        consumer_slot_end(slot);
        consumer->ready_step++;
        session_advance(consumer->session,
                        (uint64_t)consumer->ready_step * (uint64_t)consumer->slices_per_batch);
        pthread_mutex_lock(&consumer->lock);
        consumer->ready[consumer->n_ready++] = slot;
        pthread_cond_broadcast(&consumer->changed);
        pthread_mutex_unlock(&consumer->lock);
    }
    if (!consumer->failed && consumer->leasing && consumer->ready_step == consumer->failed_step) {
        consumer->failed = true;
        set_error(consumer, STATUS_CORRUPT, consumer->failure);
    }
}

/* ---- talking to loaders ---- */

/* Sends consumer->out to an accepted loader; false when it did not go. One that is gone is
 * forgotten. */
static bool tell(struct consumer *consumer, int32_t loader)
{
    const struct peer *peer = &consumer->peers[loader];

    consumer->out.session =
        consumer->out.kind == MESSAGE_REJECT ? consumer->session_id : peer->session;
    enum status status = consumer_send(consumer, peer->routing, peer->n_routing);
    if (status == STATUS_CLOSED)
        consumer_forget(consumer, loader);
    return status == STATUS_OK;
}

static void tell_all(struct consumer *consumer, enum message_kind kind)
{
    for (int32_t i = 0; i < consumer->n_peers; i++) {
        if (!consumer->peers[i].used)
            continue;
        consumer->out.kind = kind;
        tell(consumer, i);
    }
}

/* Sends the leases of one loader, which are among pairs[first..n); those that go out or come to
 * nothing get loader -1. */
static void send_leases(struct consumer *consumer, int32_t first, int32_t n)
{
    struct lease_pair *pairs = consumer->pairs;
    struct message_lease *lease = &consumer->out.lease;
    int32_t loader = pairs[first].loader;

    consumer->out.kind = MESSAGE_LEASE;
    lease->n_items = 0;
    for (int32_t i = first; i < n; i++)
        if (pairs[i].loader == loader) {
            CHECK(lease->n_items < MESSAGE_MAX_LEASES, "no loader has more credit");
            lease->items[lease->n_items++] = consumer_slice_of(consumer, pairs[i].slice);
            pairs[i].loader = -1;
        }
    if (tell(consumer, loader) || !consumer->peers[loader].used)
        return;
    /* Its queue is full of unread messages: it does not serve. */
    consumer_forget(consumer, loader);
}

/* Leases what can be leased. */
static void lease_slices(struct consumer *consumer, int64_t now_ns)
{
    int32_t n = 0, window = consumer->n_slots * consumer->slices_per_batch;
    int32_t loader;
    uint64_t slice;

    while (consumer->leasing && !consumer->failed && n < window &&
           session_lease(consumer->session, &loader, &slice, now_ns))
        consumer->pairs[n++] = (struct lease_pair){.loader = loader, .slice = slice};
    for (int32_t i = 0; i < n; i++)
        if (consumer->pairs[i].loader >= 0)
            send_leases(consumer, i, n);
}

/* Says at the end of the last epoch that it is over, once. */
static void finish(struct consumer *consumer)
{
    if (consumer->finished || !consumer->leasing || consumer->ready_step < consumer->last_step)
        return;
    consumer->finished = true;
    tell_all(consumer, MESSAGE_FINISHED);
    set_error(consumer, STATUS_CLOSED, "all epochs are done");
}

/* Signs of life, ours and theirs. Silence counts only when everything that came has been read. */
static void tick(struct consumer *consumer, int64_t now_ns, bool all_read)
{
    if (now_ns - consumer->spoke_ns >= alive_ns) {
        consumer->spoke_ns = now_ns;
        tell_all(consumer, MESSAGE_ALIVE);
    }
    for (int32_t i = 0; i < consumer->n_peers && all_read; i++)
        if (consumer->peers[i].used && now_ns - consumer->peers[i].heard_ns > silence_ns)
            consumer_forget(consumer, i);
}

/* Loaders whose key was taken from the list are turned away at once. */
static void look_at_keys(struct consumer *consumer)
{
    static const char reason[] = "its key was taken from the list of allowed ones";

    if (consumer->auth == NULL || auth_generation(consumer->auth) == consumer->auth_generation)
        return;
    consumer->auth_generation = auth_generation(consumer->auth);
    for (int32_t i = 0; i < consumer->n_peers; i++) {
        struct peer *peer = &consumer->peers[i];
        if (!peer->used || !peer->sender.has_key ||
            auth_allows(consumer->auth, &peer->sender.key, NULL))
            continue;
        consumer_note_refusal(consumer, &peer->sender, peer->name, reason);
        consumer->out.kind = MESSAGE_REJECT;
        consumer->out.reject.version = WIRE_VERSION;
        snprintf(consumer->out.reject.reason, sizeof(consumer->out.reject.reason), "%s", reason);
        if (tell(consumer, i) || peer->used)
            consumer_forget(consumer, i);
    }
}

/* Connections that came to nothing before a word was said, but those that the zap thread counts. */
static void count_handshakes(struct consumer *consumer)
{
    enum handshake_failure failure;
    uint64_t n = 0;

    while ((failure = socket_monitor_take(&consumer->monitor)) != HANDSHAKE_FINE)
        n += failure != HANDSHAKE_KEY;
    if (n == 0)
        return;
    pthread_mutex_lock(&consumer->lock);
    consumer->stats.n_failed_handshakes += n;
    pthread_mutex_unlock(&consumer->lock);
}

static void publish(struct consumer *consumer)
{
    struct session_counts counts;

    session_count(consumer->session, &counts);
    pthread_mutex_lock(&consumer->lock);
    consumer->stats.n_loaders = counts.n_loaders;
    consumer->stats.n_leases_out = counts.n_leases;
    consumer->stats.n_reissued = counts.n_reissued;
    consumer->stats.n_leased = counts.n_issued;
    consumer->stats.finished = consumer->finished;
    consumer->stats.alive_ns = clock_monotonic_ns();
    pthread_mutex_unlock(&consumer->lock);
}

/* ---- the loop ---- */

void *consumer_thread(void *argument)
{
    struct consumer *consumer = argument;
    zmq_pollitem_t items[] = {{.socket = consumer->socket, .events = ZMQ_POLLIN},
                              {.fd = consumer->wake, .events = ZMQ_POLLIN}};
    sigset_t signals;

    sigfillset(&signals);
    pthread_sigmask(SIG_BLOCK, &signals, NULL);
    pthread_setname_np(pthread_self(), "consumer");
    while (look_at_caller(consumer)) {
        assign_slots(consumer);
        lease_slices(consumer, clock_monotonic_ns());
        publish(consumer);
        if (zmq_poll(items, 2, POLL_MS) < 0 && errno != EINTR) {
            set_error(consumer, STATUS_IO, zmq_strerror(errno));
            break;
        }
        int64_t begin_ns = clock_monotonic_ns(), now_ns = begin_ns;
        bool some = true;
        while (some && now_ns - begin_ns < receive_ns) {
            some = consumer_receive(consumer, now_ns);
            now_ns = clock_monotonic_ns();
        }
        hand_on(consumer);
        finish(consumer);
        tick(consumer, now_ns, !some);
        look_at_keys(consumer);
        count_handshakes(consumer);
    }
    consumer->out.goodbye.reason[0] = '\0';
    tell_all(consumer, MESSAGE_GOODBYE);
    return NULL;
}
