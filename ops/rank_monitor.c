/* One thread a rank owns the socket. Rank 0's hears all and judges; the others' tell and listen.
 * A message is one frame of a fixed size: what does not fit is dropped. */
#include "ops/rank_monitor.h"

#include <errno.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>
#include <zmq.h>

#include "proto/base/clock.h"
#include "proto/base/memory.h"

enum { MAGIC = 0x69426d31, TEXT = 1024, DOING = 64, POLL_MS = 100, MAX_RANKS = 65536 };

static const int64_t second_ns = 1000000000;

enum message_kind {
    HELLO = 1, /* a rank to rank 0: here I am */
    WELCOME,   /* rank 0: all are here, and the bytes */
    STATE,     /* a rank to rank 0, once a second */
    ALIVE,     /* rank 0, once a second */
    FAILED,    /* either way: the run ends, text says why */
    GOODBYE,   /* a rank to rank 0: done, do not watch me */
};

struct message {
    uint32_t magic, kind, rank, world;
    int64_t count, step, begun, done; /* of STATE */
    char doing[DOING];
    char text[TEXT]; /* of FAILED; the bytes of WELCOME */
};

/* What rank 0 knows of one rank. */
struct peer {
    int64_t heard_ns, moved_ns, count, step;
    int64_t begun, done; /* of its device */
    char doing[DOING];
    bool here, gone; /* came; said goodbye */
};

struct rank_monitor {
    struct rank_monitor_options options; /* immutable after open, as is the next */
    struct peer *peers;                  /* rank 0: of every rank; monitor thread only */
    void *context, *socket;              /* socket: monitor thread only, once it runs */
    pthread_t thread;
    bool thread_started, failed;
    int64_t server_heard_ns;
    struct rank_device device; /* monitor thread only */
    atomic_int_fast64_t count, step;
    _Atomic(const char *) doing;
    atomic_bool closing, failing, told; /* failing: `reason` is set; told: it has gone out */
    char reason[TEXT];
};

/* ------------------------------------------------------------------------------ messages */

static struct message message_of(const struct rank_monitor *m, enum message_kind kind)
{
    struct message message;

    memset(&message, 0, sizeof(message));
    message.magic = MAGIC;
    message.kind = (uint32_t)kind;
    message.rank = (uint32_t)m->options.rank;
    message.world = (uint32_t)m->options.world;
    return message;
}

/* To rank 0 (rank < 0), or from it to a rank. What can't be queued is dropped: it comes again. */
static void send_to(struct rank_monitor *m, int rank, const struct message *message)
{
    char name[16];

    if (rank >= 0) {
        int n = snprintf(name, sizeof(name), "rank %d", rank);
        if (zmq_send(m->socket, name, (size_t)n, ZMQ_DONTWAIT | ZMQ_SNDMORE) < 0)
            return;
    }
    (void)zmq_send(m->socket, message, sizeof(*message), ZMQ_DONTWAIT);
}

static void send_to_all(struct rank_monitor *m, const struct message *message)
{
    for (int rank = 1; rank < m->options.world; rank++)
        if (m->peers[rank].here && !m->peers[rank].gone)
            send_to(m, rank, message);
}

/* The next whole message, if there is one: false when nothing is left to read. Strange frames, and
 * names that are not those of their rank, are passed over. */
static bool receive(struct rank_monitor *m, struct message *message)
{
    char name[32], wanted[32];

    for (;;) {
        int n_name = 0, n, more = 0;
        size_t size = sizeof(more);
        if (m->options.rank == 0) {
            n_name = zmq_recv(m->socket, name, sizeof(name) - 1, ZMQ_DONTWAIT);
            if (n_name < 0)
                return false;
        }
        n = zmq_recv(m->socket, message, sizeof(*message), ZMQ_DONTWAIT);
        if (n < 0)
            return false;
        (void)zmq_getsockopt(m->socket, ZMQ_RCVMORE, &more, &size);
        bool whole = n == (int)sizeof(*message) && more == 0 && message->magic == MAGIC;
        while (more != 0) {
            char rest[64];
            (void)zmq_recv(m->socket, rest, sizeof(rest), ZMQ_DONTWAIT);
            (void)zmq_getsockopt(m->socket, ZMQ_RCVMORE, &more, &size);
        }
        if (!whole)
            continue;
        message->doing[DOING - 1] = message->text[TEXT - 1] = '\0';
        if (m->options.rank != 0)
            return true;
        snprintf(wanted, sizeof(wanted), "rank %u", message->rank);
        name[n_name < (int)sizeof(name) - 1 ? n_name : (int)sizeof(name) - 1] = '\0';
        if (strcmp(name, wanted) == 0 && message->rank > 0 &&
            message->rank < (uint32_t)m->options.world)
            return true;
    }
}

static void wait_for_message(struct rank_monitor *m, long ms)
{
    zmq_pollitem_t item = {m->socket, 0, ZMQ_POLLIN, 0};
    (void)zmq_poll(&item, 1, ms);
}

/* ------------------------------------------------------------------------------ the meeting */

static enum status open_socket(struct rank_monitor *m)
{
    const struct rank_monitor_options *o = &m->options;
    bool loopback = strncmp(o->host, "127.", 4) == 0 || strcmp(o->host, "localhost") == 0;
    int linger_ms = 1000, mandatory = 0, size = sizeof(struct message), high_water = 64;
    int64_t most = size;
    char address[300], name[16];

    m->context = zmq_ctx_new();
    m->socket =
        m->context != NULL ? zmq_socket(m->context, o->rank == 0 ? ZMQ_ROUTER : ZMQ_DEALER) : NULL;
    if (m->socket == NULL)
        FAIL(STATUS_IO, "a ZeroMQ socket for the ranks: %s", zmq_strerror(errno));
    (void)zmq_setsockopt(m->socket, ZMQ_LINGER, &linger_ms, sizeof(linger_ms));
    (void)zmq_setsockopt(m->socket, ZMQ_MAXMSGSIZE, &most, sizeof(most));
    (void)zmq_setsockopt(m->socket, ZMQ_SNDHWM, &high_water, sizeof(high_water));
    if (o->rank == 0) {
        (void)zmq_setsockopt(m->socket, ZMQ_ROUTER_MANDATORY, &mandatory, sizeof(mandatory));
        snprintf(address, sizeof(address), "tcp://%s:%d", loopback ? "127.0.0.1" : "*", o->port);
        if (zmq_bind(m->socket, address) != 0)
            FAIL(STATUS_IO,
                 "rank 0 can't listen for the other ranks at %s: %s; choose another port with "
                 "MASTER_PORT or IBOT_RANKS_AT",
                 address, zmq_strerror(errno));
        return STATUS_OK;
    }
    int n = snprintf(name, sizeof(name), "rank %d", o->rank);
    (void)zmq_setsockopt(m->socket, ZMQ_ROUTING_ID, name, (size_t)n);
    snprintf(address, sizeof(address), "tcp://%s:%d", o->host, o->port);
    if (zmq_connect(m->socket, address) != 0)
        FAIL(STATUS_IO, "rank %d can't connect to rank 0 at %s: %s", o->rank, address,
             zmq_strerror(errno));
    return STATUS_OK;
}

/* "1, 4, 5 and 9 more" */
static void list_missing(const struct rank_monitor *m, char *text, size_t size)
{
    int named = 0, left = 0;
    size_t at = 0;

    text[0] = '\0';
    for (int rank = 1; rank < m->options.world; rank++) {
        if (m->peers[rank].here)
            continue;
        if (named < 8 && at + 16 < size)
            at += (size_t)snprintf(text + at, size - at, "%s%d", named++ > 0 ? ", " : "", rank);
        else
            left++;
    }
    if (left > 0)
        snprintf(text + at, size - at, " and %d more", left);
}

static enum status meet_as_server(struct rank_monitor *m, const void *bytes, size_t n_bytes)
{
    int64_t end_ns = clock_monotonic_ns() + m->options.join_ns;
    struct message message, welcome = message_of(m, WELCOME);
    int n_here = 1;
    char missing[160];

    memcpy(welcome.text, bytes, n_bytes);
    while (n_here < m->options.world) {
        int64_t now_ns = clock_monotonic_ns();
        if (now_ns > end_ns) {
            list_missing(m, missing, sizeof(missing));
            FAIL(STATUS_TIMEOUT, "%d of %d ranks came within %lld s; missing: %s", n_here,
                 m->options.world, (long long)(m->options.join_ns / second_ns), missing);
        }
        wait_for_message(m, POLL_MS);
        while (receive(m, &message)) {
            struct peer *peer = &m->peers[message.rank];
            if (message.kind != HELLO)
                continue;
            if (message.world != (uint32_t)m->options.world)
                FAIL(STATUS_MISMATCH, "rank %u says there are %u ranks, rank 0 says %d",
                     message.rank, message.world, m->options.world);
            n_here += !peer->here;
            *peer = (struct peer){.heard_ns = now_ns, .moved_ns = now_ns, .here = true};
        }
    }
    send_to_all(m, &welcome);
    return STATUS_OK;
}

static enum status meet_as_client(struct rank_monitor *m, void *bytes, size_t n_bytes)
{
    int64_t end_ns = clock_monotonic_ns() + m->options.join_ns;
    struct message hello = message_of(m, HELLO), message;

    send_to(m, -1, &hello); /* queued until rank 0 is there */
    for (;;) {
        wait_for_message(m, POLL_MS);
        while (receive(m, &message)) {
            if (message.kind == FAILED)
                FAIL(STATUS_DEVICE, "%s", message.text);
            if (message.kind != WELCOME)
                continue;
            memcpy(bytes, message.text, n_bytes);
            return STATUS_OK;
        }
        if (clock_monotonic_ns() > end_ns)
            FAIL(STATUS_TIMEOUT, "rank %d waited %lld s for rank 0 at %s:%d and all other ranks",
                 m->options.rank, (long long)(m->options.join_ns / second_ns), m->options.host,
                 m->options.port);
    }
}

/* ------------------------------------------------------------------------------ the watch */

/* Called once: the others are told, then the owner. */
static void give_up(struct rank_monitor *m, const char *text)
{
    struct message message = message_of(m, FAILED);

    if (m->failed)
        return;
    m->failed = true;
    snprintf(message.text, sizeof(message.text), "%s", text);
    if (m->options.rank == 0)
        send_to_all(m, &message);
    else
        send_to(m, -1, &message);
    zmq_close(m->socket); /* what is queued goes out while the context ends */
    m->socket = NULL;
    zmq_ctx_term(m->context);
    m->context = NULL;
    atomic_store(&m->told, true);
    if (m->options.fail != NULL && !atomic_load(&m->failing))
        m->options.fail(m->options.context, text);
}

static void note_own_state(struct rank_monitor *m, int64_t now_ns)
{
    struct peer *own = &m->peers[0];
    int64_t count = atomic_load(&m->count);

    own->heard_ns = now_ns;
    own->moved_ns = count != own->count || own->moved_ns == 0 ? now_ns : own->moved_ns;
    own->count = count;
    own->step = atomic_load(&m->step);
    own->begun = m->device.begun;
    own->done = m->device.done;
    snprintf(own->doing, sizeof(own->doing), "%s", atomic_load(&m->doing));
}

static void note_state(struct peer *peer, const struct message *message, int64_t now_ns)
{
    peer->heard_ns = now_ns;
    if (message->count != peer->count)
        peer->moved_ns = now_ns;
    peer->count = message->count;
    peer->step = message->step;
    peer->begun = message->begun;
    peer->done = message->done;
    memcpy(peer->doing, message->doing, sizeof(peer->doing));
}

/* All hosts stand at the same place for still_ns: `peer`, whose device has come least far? */
static void judge_devices(const struct rank_monitor *m, const struct peer *peer, int64_t still_ns,
                          char *text, size_t size)
{
    int64_t most = INT64_MIN;
    const struct peer *last = NULL;

    for (int rank = 0; rank < m->options.world; rank++) {
        const struct peer *other = &m->peers[rank];
        if (other->gone)
            continue;
        most = other->begun > most ? other->begun : most;
        last = last == NULL || other->begun < last->begun ? other : last;
    }
    if (last->begun < most)
        snprintf(text, size,
                 "rank %d is late: for %lld s its device has not come to collective %lld, in which "
                 "the others wait for it (step %lld, it %s)",
                 (int)(last - m->peers), (long long)(still_ns / second_ns),
                 (long long)last->begun + 1, (long long)last->step, last->doing);
    else
        snprintf(text, size,
                 "no rank has moved for %lld s: all are at step %lld (rank %d %s), their devices "
                 "have begun %lld collectives and rank %d's has finished %lld; the network between "
                 "them may be cut",
                 (long long)(still_ns / second_ns), (long long)peer->step, (int)(peer - m->peers),
                 peer->doing, (long long)last->begun, (int)(last - m->peers),
                 (long long)last->done);
}

/* Rank 0: who is gone, late or stuck; fills `text`. */
static bool judge(struct rank_monitor *m, int64_t now_ns, char *text, size_t size)
{
    const struct rank_monitor_options *o = &m->options;
    int64_t most = INT64_MIN;
    int behind = -1;
    bool all_still = true;

    for (int rank = 0; rank < o->world; rank++) {
        const struct peer *peer = &m->peers[rank];
        if (peer->gone)
            continue;
        if (now_ns - peer->heard_ns > o->silent_ns) {
            snprintf(text, size,
                     "rank %d has not been heard of for %lld s (step %lld, it %s): its process or "
                     "machine is gone; see its log",
                     rank, (long long)((now_ns - peer->heard_ns) / second_ns),
                     (long long)peer->step, peer->doing);
            return true;
        }
        most = peer->count > most ? peer->count : most;
        if (behind < 0 || peer->count < m->peers[behind].count)
            behind = rank;
        all_still = all_still && now_ns - peer->moved_ns > o->late_ns;
    }
    if (behind < 0)
        return false;
    const struct peer *peer = &m->peers[behind];
    int64_t still_ns = now_ns - peer->moved_ns;
    if (peer->count < most && still_ns > o->late_ns) {
        snprintf(
            text, size,
            "rank %d is late: for %lld s it has been at step %lld (it %s), and the others wait "
            "for it",
            behind, (long long)(still_ns / second_ns), (long long)peer->step, peer->doing);
        return true;
    }
    if (!all_still || strcmp(peer->doing, RANK_WAITS_FOR_DATA) == 0)
        return false;
    judge_devices(m, peer, still_ns, text, size);
    return true;
}

static void serve(struct rank_monitor *m, int64_t now_ns, bool tick)
{
    struct message message, alive = message_of(m, ALIVE);
    char text[TEXT];

    while (m->socket != NULL && receive(m, &message)) {
        struct peer *peer = &m->peers[message.rank];
        peer->heard_ns = now_ns;
        if (message.kind == STATE)
            note_state(peer, &message, now_ns);
        else if (message.kind == GOODBYE)
            peer->gone = true;
        else if (message.kind == FAILED)
            give_up(m, message.text);
    }
    if (m->socket == NULL || !tick)
        return;
    note_own_state(m, now_ns);
    send_to_all(m, &alive);
    if (judge(m, now_ns, text, sizeof(text)))
        give_up(m, text);
}

static void tell(struct rank_monitor *m, int64_t now_ns, bool tick)
{
    struct message message, state = message_of(m, STATE);
    char text[TEXT];

    while (m->socket != NULL && receive(m, &message)) {
        m->server_heard_ns = now_ns;
        if (message.kind == FAILED)
            give_up(m, message.text);
    }
    if (m->socket == NULL || !tick)
        return;
    state.count = atomic_load(&m->count);
    state.step = atomic_load(&m->step);
    state.begun = m->device.begun;
    state.done = m->device.done;
    snprintf(state.doing, sizeof(state.doing), "%s", atomic_load(&m->doing));
    send_to(m, -1, &state);
    if (now_ns - m->server_heard_ns > m->options.silent_ns) {
        snprintf(text, sizeof(text),
                 "rank 0 has not been heard of for %lld s: its process or machine is gone; see its "
                 "log",
                 (long long)((now_ns - m->server_heard_ns) / second_ns));
        give_up(m, text);
    }
}

static void look_at_device(struct rank_monitor *m)
{
    char text[TEXT];

    if (m->options.look == NULL)
        return;
    m->options.look(m->options.context, &m->device);
    if (m->device.error[0] == '\0')
        return;
    snprintf(text, sizeof(text), "rank %d: %s", m->options.rank, m->device.error);
    give_up(m, text);
}

static void *monitor_main(void *argument)
{
    struct rank_monitor *m = argument;
    /* three times within the shortest waiting time, but no more than once a second */
    int64_t shortest =
        m->options.silent_ns < m->options.late_ns ? m->options.silent_ns : m->options.late_ns;
    int64_t period = shortest / 3 < second_ns ? shortest / 3 : second_ns, next_ns = 0;

    pthread_setname_np(pthread_self(), "rank monitor");
    while (m->socket != NULL && !atomic_load(&m->closing)) {
        wait_for_message(m, POLL_MS);
        int64_t now_ns = clock_monotonic_ns();
        bool tick = now_ns >= next_ns;
        if (tick) {
            next_ns = now_ns + period;
            look_at_device(m);
        }
        if (m->socket == NULL)
            break;
        if (m->options.rank == 0)
            serve(m, now_ns, tick);
        else
            tell(m, now_ns, tick);
        if (m->socket != NULL && atomic_load(&m->failing))
            give_up(m, m->reason);
    }
    return NULL;
}

/* ------------------------------------------------------------------------------ life */

enum status rank_monitor_open(struct rank_monitor **out, const struct rank_monitor_options *options,
                              void *bytes, size_t n_bytes)
{
    enum status status = STATUS_OK;
    struct rank_monitor *m;
    int64_t now_ns = clock_monotonic_ns();

    CHECK(n_bytes <= TEXT && options->rank >= 0 && options->rank < options->world);
    if (options->world > MAX_RANKS)
        FAIL(STATUS_INVALID, "%d ranks; at most %d", options->world, MAX_RANKS);
    TRY(memory_alloc(&m, 1, sizeof(*m), "rank monitor"));
    m->options = *options;
    atomic_store(&m->doing, "starts");
    TRY_OUT(open_socket(m));
    if (options->rank == 0) {
        TRY_OUT(memory_alloc(&m->peers, (size_t)options->world, sizeof(*m->peers), "ranks"));
        m->peers[0] = (struct peer){.heard_ns = now_ns, .moved_ns = now_ns, .here = true};
        status = meet_as_server(m, bytes, n_bytes);
        if (status != STATUS_OK) {
            struct message message = message_of(m, FAILED);
            snprintf(message.text, sizeof(message.text), "%s", status_message());
            send_to_all(m, &message);
            goto out;
        }
    } else {
        TRY_OUT(meet_as_client(m, bytes, n_bytes));
    }
    m->server_heard_ns = clock_monotonic_ns();
    if (pthread_create(&m->thread, NULL, monitor_main, m) != 0)
        FAIL_OUT(STATUS_NO_MEMORY, "a thread for the rank monitor");
    m->thread_started = true;
out:
    if (status == STATUS_OK)
        *out = m;
    else
        rank_monitor_close(&m);
    return status;
}

void rank_monitor_progress(struct rank_monitor *monitor, int64_t step, const char *doing)
{
    atomic_store(&monitor->step, step);
    atomic_store(&monitor->doing, doing);
    atomic_fetch_add(&monitor->count, 1);
}

void rank_monitor_fail(struct rank_monitor *monitor, const char *text)
{
    if (atomic_load(&monitor->failing))
        return;
    snprintf(monitor->reason, sizeof(monitor->reason), "rank %d ended: %s", monitor->options.rank,
             text);
    atomic_store(&monitor->failing, true);
    for (int64_t end_ns = clock_monotonic_ns() + 2 * second_ns;
         !atomic_load(&monitor->told) && clock_monotonic_ns() < end_ns;) {
        struct timespec pause = {0, 5000000};
        nanosleep(&pause, NULL);
    }
}

void rank_monitor_close(struct rank_monitor **pointer)
{
    struct rank_monitor *m = pointer != NULL ? *pointer : NULL;

    if (m == NULL)
        return;
    atomic_store(&m->closing, true);
    if (m->thread_started)
        pthread_join(m->thread, NULL);
    if (m->socket != NULL && m->options.rank != 0 && m->thread_started) {
        struct message message = message_of(m, GOODBYE);
        send_to(m, -1, &message);
    }
    if (m->socket != NULL)
        zmq_close(m->socket);
    if (m->context != NULL)
        zmq_ctx_term(m->context);
    memory_free(m->peers);
    memory_free(m);
    *pointer = NULL;
}
