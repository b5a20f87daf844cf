/* One thread a rank owns the link. Rank 0's hears all and judges (ops/rank_watch.h); the others'
 * tell and listen. */
#include "ops/rank_monitor.h"

#include <netdb.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <sys/socket.h>
#include <unistd.h>

#include "ops/rank_watch.h"
#include "proto/base/clock.h"
#include "proto/base/log.h"
#include "proto/base/memory.h"

enum { POLL_MS = 100, TEXT = RANK_MESSAGE_TEXT };

static const int64_t second_ns = 1000000000;

enum phase { MEETING, WATCHING, OVER };

/* Who found that the run has failed. */
enum origin { FOUND, HEARD, OWN };

struct rank_monitor {
    struct rank_monitor_options options; /* immutable after open */
    pthread_t thread;
    bool thread_started;

    /* monitor thread only */
    struct rank_link link;
    enum phase phase;
    struct rank_watch watch; /* rank 0: all ranks; another: rank 0, as its peer 1 of 2 */
    uint64_t instance;
    char host[RANK_MESSAGE_HOST];
    char missing[TEXT]; /* what rank 0 says about who is missing; "": nothing yet */
    int64_t said_ns;    /* when the log was last told who is missing */
    struct rank_device device;

    pthread_mutex_t lock;
    pthread_cond_t changed;
    bool joining, met, failed; /* guarded by lock, as is all up to the next line */
    int64_t join_ns;           /* when the own join began; 0: it has not */
    enum status code;
    char reason[TEXT];       /* of the failure */
    char bytes[TEXT];        /* rank 0's */
    char own_reason[TEXT];   /* why this rank itself ends; set once, before `failing` */
    pthread_mutex_t looking; /* guards the next two, and is held while one is called */
    void (*look)(void *context, struct rank_device *out);
    void *look_context;

    atomic_int_fast64_t count, step;
    _Atomic(const char *) doing;
    atomic_bool closing, failing, hurry;
};

/* ------------------------------------------------------------------------------ telling */

static struct rank_message message_of(const struct rank_monitor *m, enum rank_message_kind kind)
{
    struct rank_message message;

    rank_message_init(&message, kind, m->options.rank, m->options.world);
    message.instance = m->instance;
    memcpy(message.host, m->host, sizeof(message.host));
    return message;
}

static struct rank_message text_message(const struct rank_monitor *m, enum rank_message_kind kind,
                                        const char *text)
{
    struct rank_message message = message_of(m, kind);

    snprintf(message.text, sizeof(message.text), "%s", text);
    return message;
}

/* What can't be queued is dropped: it comes again. */
static void send_to_all(struct rank_monitor *m, const struct rank_message *message)
{
    for (int rank = 1; rank < m->watch.world; rank++) {
        const struct rank_peer *peer = &m->watch.peers[rank];
        if (peer->here && !peer->gone)
            (void)rank_link_send(&m->link, &peer->name, message);
    }
}

/* Of HELLO and STATE */
static struct rank_message own_state(struct rank_monitor *m, enum rank_message_kind kind)
{
    struct rank_message message = message_of(m, kind);

    message.count = atomic_load(&m->count);
    message.step = atomic_load(&m->step);
    message.begun = m->device.begun;
    message.done = m->device.done;
    snprintf(message.doing, sizeof(message.doing), "%s", atomic_load(&m->doing));
    pthread_mutex_lock(&m->lock);
    message.ready = m->join_ns != 0;
    pthread_mutex_unlock(&m->lock);
    return message;
}

/* ------------------------------------------------------------------------------ the end */

/* Rank 0: ranks that come are told, until all have been, for told_ns. */
static void tell_late_comers(struct rank_monitor *m, const char *text)
{
    struct rank_message failed = text_message(m, RANK_FAILED, text), message;
    int64_t end_ns = clock_monotonic_ns() + m->options.told_ns;
    struct rank_peer_name from;
    int left = 0;

    for (int rank = 1; rank < m->watch.world; rank++) {
        m->watch.peers[rank].told = m->watch.peers[rank].here;
        left += !m->watch.peers[rank].told;
    }
    if (left > 0)
        log_warning("%s; rank 0 stays for at most %lld s to tell it to %d that have not come", text,
                    (long long)(m->options.told_ns / second_ns), left);
    while (left > 0 && clock_monotonic_ns() < end_ns && !atomic_load(&m->closing)) {
        rank_link_wait(&m->link, POLL_MS);
        while (rank_link_receive(&m->link, &message, &from)) {
            if (message.rank == 0 || message.rank >= (uint32_t)m->watch.world)
                continue;
            (void)rank_link_send(&m->link, &from, &failed);
            left -= !m->watch.peers[message.rank].told;
            m->watch.peers[message.rank].told = true;
        }
    }
}

/* Another rank: to rank 0, which may still have to come: it answers. */
static void tell_rank_0(struct rank_monitor *m, const char *text)
{
    struct rank_message failed = text_message(m, RANK_FAILED, text), message;
    int64_t end_ns = clock_monotonic_ns() + m->options.told_ns;
    struct rank_peer_name from;
    bool sent = rank_link_send(&m->link, NULL, &failed), answered = m->watch.peers[1].here;

    if (!answered)
        log_warning("rank 0 does not answer at %s:%d; this rank stays for at most %lld s to tell "
                    "it why it ends",
                    m->options.host, m->options.port, (long long)(m->options.told_ns / second_ns));
    while ((!sent || !answered) && clock_monotonic_ns() < end_ns && !atomic_load(&m->closing)) {
        rank_link_wait(&m->link, POLL_MS);
        int ended;
        while (rank_link_ended(&m->link, &ended))
            continue;
        while (rank_link_receive(&m->link, &message, &from))
            answered = true;
        sent = sent || rank_link_send(&m->link, NULL, &failed);
    }
}

/* Once: the others are told, then the owner. */
static void give_up(struct rank_monitor *m, enum status code, enum origin origin, const char *text)
{
    if (m->phase == OVER)
        return;
    /* whoever was asked to stop, or has waited to the end, does not wait for ranks to tell it to */
    bool stays = code != STATUS_TIMEOUT && code != STATUS_INTERRUPTED;
    if (m->options.rank == 0) {
        struct rank_message failed = text_message(m, RANK_FAILED, text);
        send_to_all(m, &failed);
        if (m->phase == MEETING && stays)
            tell_late_comers(m, text);
    } else if (origin != HEARD && (stays || m->watch.peers[1].here)) {
        tell_rank_0(m, text);
    }
    rank_link_close(&m->link); /* what is queued goes out */
    m->phase = OVER;
    pthread_mutex_lock(&m->lock);
    bool call = !m->joining && !atomic_load(&m->failing) && !atomic_load(&m->closing);
    m->code = code;
    snprintf(m->reason, sizeof(m->reason), "%s", text);
    m->failed = true;
    pthread_cond_broadcast(&m->changed);
    pthread_mutex_unlock(&m->lock);
    if (call && m->options.fail != NULL)
        m->options.fail(m->options.context, text);
}

void rank_monitor_end_process(void *context, const char *text)
{
    (void)context;
    log_error("%s; this rank ends, too: start the run again, it goes on from its newest checkpoint",
              text);
    fflush(NULL);
    _Exit(1);
}

/* ------------------------------------------------------------------------------ rank 0 */

static void met(struct rank_monitor *m)
{
    m->phase = WATCHING;
    pthread_mutex_lock(&m->lock);
    m->met = true;
    pthread_cond_broadcast(&m->changed);
    pthread_mutex_unlock(&m->lock);
}

static struct rank_message welcome_of(struct rank_monitor *m)
{
    struct rank_message welcome = message_of(m, RANK_WELCOME);

    pthread_mutex_lock(&m->lock);
    memcpy(welcome.text, m->bytes, sizeof(welcome.text));
    pthread_mutex_unlock(&m->lock);
    return welcome;
}

/* While they meet, a rank may come again as another process; two at a time may not. */
static void take_instance(struct rank_monitor *m, const struct rank_message *message)
{
    struct rank_peer *peer = &m->watch.peers[message->rank];
    char text[TEXT];

    if (peer->here && message->instance == peer->former) {
        snprintf(text, sizeof(text),
                 "two processes say that they are rank %u, on %s and on %s: each needs a rank of "
                 "its own (RANK, SLURM_PROCID or OMPI_COMM_WORLD_RANK)",
                 message->rank, message->host, peer->host);
        give_up(m, STATUS_MISMATCH, FOUND, text);
        return;
    }
    uint64_t former = peer->here ? peer->instance : 0;
    *peer = (struct rank_peer){.instance = message->instance, .former = former, .here = true};
}

/* Once a run goes on, nobody takes the place of a rank. */
static void turn_away(struct rank_monitor *m, const struct rank_message *message,
                      const struct rank_peer_name *from)
{
    char text[TEXT], name[96];

    snprintf(text, sizeof(text),
             "the run goes on with another process as %s: this one came after all had met",
             rank_watch_name(&m->watch, (int)message->rank, name, sizeof(name)));
    struct rank_message failed = text_message(m, RANK_FAILED, text);
    (void)rank_link_send(&m->link, from, &failed);
}

static void hear(struct rank_monitor *m, const struct rank_message *message,
                 const struct rank_peer_name *from, int64_t now_ns)
{
    struct rank_peer *peer = &m->watch.peers[message->rank];
    char text[TEXT];

    if (message->world != (uint32_t)m->options.world) {
        if (message->kind != RANK_HELLO || m->phase != MEETING)
            return;
        snprintf(text, sizeof(text), "rank %u (%s) says there are %u ranks, rank 0 says %d",
                 message->rank, message->host, message->world, m->options.world);
        struct rank_message failed = text_message(m, RANK_FAILED, text);
        (void)rank_link_send(&m->link, from, &failed);
        give_up(m, STATUS_MISMATCH, FOUND, text);
        return;
    }
    if (message->rank == 0)
        return;
    if (!peer->here || peer->instance != message->instance) {
        if (m->phase != MEETING) {
            if (message->kind == RANK_HELLO)
                turn_away(m, message, from);
            return;
        }
        take_instance(m, message);
        if (m->phase == OVER)
            return;
    }
    peer->name = *from;
    rank_watch_hear(peer, message, now_ns);
    if (message->kind == RANK_FAILED) {
        give_up(m, STATUS_DEVICE, HEARD, message->text);
    } else if (message->kind == RANK_GOODBYE) {
        peer->gone = m->phase == WATCHING;
    } else if (message->kind == RANK_HELLO) {
        peer->ready = message->ready != 0;
        if (m->phase == WATCHING) { /* the welcome was lost */
            struct rank_message welcome = welcome_of(m);
            (void)rank_link_send(&m->link, from, &welcome);
        }
    }
}

/* All here and ready, this one too? Then they are welcome. */
static void welcome_all(struct rank_monitor *m)
{
    pthread_mutex_lock(&m->lock);
    bool all_ready = m->join_ns != 0;
    pthread_mutex_unlock(&m->lock);
    for (int rank = 1; rank < m->watch.world; rank++)
        all_ready = all_ready && m->watch.peers[rank].here && m->watch.peers[rank].ready;
    if (!all_ready)
        return;
    struct rank_message welcome = welcome_of(m);
    send_to_all(m, &welcome);
    met(m);
}

static void note_own_state(struct rank_monitor *m, int64_t now_ns)
{
    struct rank_message state = own_state(m, RANK_STATE);

    rank_watch_hear(&m->watch.peers[0], &state, now_ns);
    m->watch.peers[0].ready = state.ready != 0;
}

static void serve(struct rank_monitor *m, int64_t now_ns, bool tick)
{
    struct rank_message message, alive = message_of(m, RANK_ALIVE);
    struct rank_peer_name from;
    char text[TEXT];
    int ended;

    while (rank_link_ended(&m->link, &ended))
        rank_watch_cut(&m->watch, ended, now_ns);
    while (m->phase != OVER && rank_link_receive(&m->link, &message, &from))
        hear(m, &message, &from, now_ns);
    if (m->phase == MEETING)
        welcome_all(m);
    if (m->phase == OVER || !tick)
        return;
    note_own_state(m, now_ns);
    send_to_all(m, &alive);
    if (m->phase == WATCHING ? rank_watch_judge(&m->watch, now_ns, text, sizeof(text))
                             : rank_watch_gone(&m->watch, now_ns, text, sizeof(text)))
        give_up(m, STATUS_DEVICE, FOUND, text);
}

/* ------------------------------------------------------------------------------ the others */

static void listen_to_rank_0(struct rank_monitor *m, const struct rank_message *message,
                             int64_t now_ns)
{
    struct rank_peer *server = &m->watch.peers[1];

    if (message->rank != 0)
        return;
    server->here = true;
    rank_watch_hear(server, message, now_ns);
    if (message->kind == RANK_FAILED) {
        give_up(m, STATUS_DEVICE, HEARD, message->text);
    } else if (message->kind == RANK_MISSING) {
        memcpy(m->missing, message->text, sizeof(m->missing));
    } else if (message->kind == RANK_GOODBYE) {
        server->gone = m->phase == WATCHING;
    } else if (message->kind == RANK_WELCOME && m->phase == MEETING) {
        pthread_mutex_lock(&m->lock);
        memcpy(m->bytes, message->text, sizeof(m->bytes));
        pthread_mutex_unlock(&m->lock);
        met(m);
    }
}

static bool rank_0_is_gone(const struct rank_monitor *m, int64_t now_ns, char *text, size_t size)
{
    const struct rank_peer *server = &m->watch.peers[1];

    if (!server->here || server->gone)
        return false;
    if (server->cut_ns != 0 && now_ns - server->cut_ns > m->options.cut_ns) {
        snprintf(text, size,
                 "rank 0 (%s) has ended without a word: its process was killed or has crashed, or "
                 "its machine is down; see its log",
                 server->host);
        return true;
    }
    if (now_ns - server->heard_ns <= m->options.silent_ns)
        return false;
    snprintf(text, size,
             "rank 0 (%s) has not been heard of for %lld s: its process or machine is stopped or "
             "cut off; see its log",
             server->host, (long long)((now_ns - server->heard_ns) / second_ns));
    return true;
}

static void tell(struct rank_monitor *m, int64_t now_ns, bool tick)
{
    struct rank_peer *server = &m->watch.peers[1];
    struct rank_message message;
    struct rank_peer_name from;
    char text[TEXT];
    int ended;

    while (rank_link_ended(&m->link, &ended))
        server->cut_ns = server->cut_ns != 0 ? server->cut_ns : now_ns;
    while (m->phase != OVER && rank_link_receive(&m->link, &message, &from))
        listen_to_rank_0(m, &message, now_ns);
    if (m->phase == OVER || !tick)
        return;
    message = own_state(m, m->phase == MEETING ? RANK_HELLO : RANK_STATE);
    (void)rank_link_send(&m->link, NULL, &message);
    if (rank_0_is_gone(m, now_ns, text, sizeof(text)))
        give_up(m, STATUS_DEVICE, HEARD, text); /* nobody is there to be told */
}

/* ------------------------------------------------------------------------------ waiting */

/* Why nobody answers where rank 0 should be, as far as it can be seen from here. */
static void describe_silence(const struct rank_monitor *m, char *text, size_t size)
{
    struct addrinfo hints = {.ai_socktype = SOCK_STREAM}, *found = NULL;
    const char *host = m->options.host;
    char bare[sizeof(m->options.host)];

    snprintf(bare, sizeof(bare), "%.*s", (int)strcspn(host, "]"), host + (host[0] == '['));
    int failed = getaddrinfo(bare, NULL, &hints, &found);
    if (failed == 0)
        freeaddrinfo(found);
    if (failed != 0)
        snprintf(text, size, "'%s' is no host that is known here: %s", bare, gai_strerror(failed));
    else if (m->link.n_refused > 0)
        snprintf(text, size,
                 "handshakes have failed (%llu): a rank of another job, version or IBOT_RANKS_KEY "
                 "is there, or no rank at all",
                 (unsigned long long)m->link.n_refused);
    else
        snprintf(text, size, "it has not started, or is elsewhere");
}

/* What this rank waits for, in words. */
static void describe_wait(const struct rank_monitor *m, char *text, size_t size)
{
    char missing[RANK_MESSAGE_TEXT - 256];

    if (m->options.rank == 0) {
        rank_watch_missing(&m->watch, missing, sizeof(missing));
        snprintf(text, size, "rank 0 waits at port %d: %s", m->options.port, missing);
        if (m->link.n_refused > 0)
            snprintf(text + strlen(text), size - strlen(text),
                     "; handshakes have failed (%llu), of strangers or of ranks with another "
                     "IBOT_RANKS_KEY or job",
                     (unsigned long long)m->link.n_refused);
    } else if (!m->watch.peers[1].here) {
        describe_silence(m, missing, sizeof(missing));
        snprintf(text, size, "rank %d waits for rank 0, which does not answer at %s:%d: %.500s",
                 m->options.rank, m->options.host, m->options.port, missing);
    } else {
        snprintf(text, size, "rank %d waits for the others: %.760s", m->options.rank,
                 m->missing[0] != '\0' ? m->missing : "rank 0 has not said yet for which");
    }
}

static void tell_who_is_missing(struct rank_monitor *m)
{
    struct rank_message message = message_of(m, RANK_MISSING);

    rank_watch_missing(&m->watch, message.text, sizeof(message.text));
    send_to_all(m, &message);
}

/* Says again and again who is missing; ends the wait at the deadline, or when this process is asked
 * to stop. */
static void wait_on(struct rank_monitor *m, int64_t now_ns)
{
    char text[TEXT], reason[TEXT];

    if (m->options.rank == 0)
        tell_who_is_missing(m);
    pthread_mutex_lock(&m->lock);
    int64_t join_ns = m->join_ns;
    pthread_mutex_unlock(&m->lock);
    if (join_ns == 0)
        return;
    if (m->options.stops != NULL && m->options.stops(m->options.context)) {
        snprintf(text, sizeof(text), "rank %d (%s) was asked to stop before all ranks had met",
                 m->options.rank, m->host);
        give_up(m, STATUS_INTERRUPTED, OWN, text);
        return;
    }
    int64_t waited_ns = now_ns - join_ns;
    bool over = waited_ns > m->options.join_ns;
    if (!over && now_ns - (m->said_ns > join_ns ? m->said_ns : join_ns) < m->options.say_ns)
        return;
    describe_wait(m, text, sizeof(text));
    if (over) {
        snprintf(reason, sizeof(reason),
                 "%.800s; %lld s have passed (IBOT_RANK_JOIN_DEADLINE=SECONDS says how many may)",
                 text, (long long)(waited_ns / second_ns));
        give_up(m, STATUS_TIMEOUT, FOUND, reason);
        return;
    }
    m->said_ns = now_ns;
    log_info("%s (%lld s of at most %lld)", text, (long long)(waited_ns / second_ns),
             (long long)(m->options.join_ns / second_ns));
}

/* ------------------------------------------------------------------------------ the thread */

static void look_at_device(struct rank_monitor *m)
{
    char text[TEXT];

    pthread_mutex_lock(&m->looking);
    if (m->look != NULL)
        m->look(m->look_context, &m->device);
    pthread_mutex_unlock(&m->looking);
    if (m->device.error[0] == '\0')
        return;
    snprintf(text, sizeof(text), "rank %d (%s): %s", m->options.rank, m->host, m->device.error);
    give_up(m, STATUS_DEVICE, FOUND, text);
}

static void *monitor_main(void *argument)
{
    struct rank_monitor *m = argument;
    /* three times within the shortest waiting time, but no more than once a second */
    int64_t shortest =
        m->options.silent_ns < m->options.late_ns ? m->options.silent_ns : m->options.late_ns;
    int64_t period = shortest / 3 < second_ns ? shortest / 3 : second_ns, next_ns = 0;

    pthread_setname_np(pthread_self(), "rank monitor");
    while (m->phase != OVER && !atomic_load(&m->closing)) {
        rank_link_wait(&m->link, POLL_MS);
        int64_t now_ns = clock_monotonic_ns();
        bool tick = now_ns >= next_ns || atomic_exchange(&m->hurry, false);
        if (tick) {
            next_ns = now_ns + period;
            look_at_device(m);
        }
        if (m->phase != OVER && m->options.rank == 0)
            serve(m, now_ns, tick);
        else if (m->phase != OVER)
            tell(m, now_ns, tick);
        if (m->phase == MEETING && tick)
            wait_on(m, now_ns);
        if (m->phase != OVER && atomic_load(&m->failing))
            give_up(m, STATUS_DEVICE, OWN, m->own_reason);
    }
    return NULL;
}

/* ------------------------------------------------------------------------------ life */

static enum status start(struct rank_monitor *m)
{
    const struct rank_monitor_options *o = &m->options;
    int world = o->rank == 0 ? o->world : 2;

    if (getrandom(&m->instance, sizeof(m->instance), 0) != (ssize_t)sizeof(m->instance) ||
        gethostname(m->host, sizeof(m->host) - 1) != 0)
        FAIL(STATUS_IO, "no random number, or no name of this host");
    TRY(memory_alloc(&m->watch.peers, (size_t)world, sizeof(*m->watch.peers), "ranks"));
    m->watch.world = world;
    m->watch.silent_ns = o->silent_ns;
    m->watch.cut_ns = o->cut_ns;
    m->watch.late_ns = o->late_ns;
    m->watch.peers[0].here = true;
    TRY(rank_link_open(&m->link, o->rank, o->host, o->port, o->key));
    if (pthread_create(&m->thread, NULL, monitor_main, m) != 0)
        FAIL(STATUS_NO_MEMORY, "a thread for the rank monitor");
    m->thread_started = true;
    return STATUS_OK;
}

enum status rank_monitor_open(struct rank_monitor **out, const struct rank_monitor_options *options)
{
    struct rank_monitor *m;

    CHECK(options->rank >= 0 && options->rank < options->world);
    if (options->world > RANK_MESSAGE_MAX_RANKS)
        FAIL(STATUS_INVALID, "%d ranks; at most %d", options->world, RANK_MESSAGE_MAX_RANKS);
    TRY(memory_alloc(&m, 1, sizeof(*m), "rank monitor"));
    pthread_condattr_t attributes;
    pthread_condattr_init(&attributes);
    pthread_condattr_setclock(&attributes, CLOCK_MONOTONIC);
    pthread_cond_init(&m->changed, &attributes);
    pthread_condattr_destroy(&attributes);
    pthread_mutex_init(&m->lock, NULL);
    pthread_mutex_init(&m->looking, NULL);
    m->options = *options;
    atomic_store(&m->doing, "starts");
    enum status status = start(m);
    if (status == STATUS_OK)
        *out = m;
    else
        rank_monitor_close(&m);
    return status;
}

enum status rank_monitor_join(struct rank_monitor *m, void *bytes, size_t n_bytes)
{
    enum status status = STATUS_OK;

    CHECK(n_bytes <= sizeof(m->bytes));
    pthread_mutex_lock(&m->lock);
    CHECK(m->join_ns == 0, "ranks meet once");
    if (m->options.rank == 0)
        memcpy(m->bytes, bytes, n_bytes);
    m->join_ns = clock_monotonic_ns();
    m->joining = true;
    atomic_store(&m->hurry, true);
    while (!m->met && !m->failed) /* the monitor's thread has the deadline */
        pthread_cond_wait(&m->changed, &m->lock);
    m->joining = false;
    if (m->failed)
        status = status_set(m->code, "%s", m->reason);
    else
        memcpy(bytes, m->bytes, n_bytes);
    pthread_mutex_unlock(&m->lock);
    return status;
}

void rank_monitor_look(struct rank_monitor *m, void (*look)(void *context, struct rank_device *out),
                       void *context)
{
    pthread_mutex_lock(&m->looking);
    m->look = look;
    m->look_context = context;
    pthread_mutex_unlock(&m->looking);
}

void rank_monitor_progress(struct rank_monitor *monitor, int64_t step, const char *doing)
{
    atomic_store(&monitor->step, step);
    atomic_store(&monitor->doing, doing);
    atomic_fetch_add(&monitor->count, 1);
}

void rank_monitor_fail(struct rank_monitor *m, const char *text)
{
    pthread_mutex_lock(&m->lock);
    if (!m->failed && !atomic_load(&m->failing)) {
        snprintf(m->own_reason, sizeof(m->own_reason), "rank %d (%s) ended: %s", m->options.rank,
                 m->host, text);
        atomic_store(&m->failing, true);
        int64_t end_ns = clock_monotonic_ns() + m->options.told_ns + 3 * second_ns;
        struct timespec end = {.tv_sec = end_ns / second_ns, .tv_nsec = end_ns % second_ns};
        while (!m->failed && pthread_cond_timedwait(&m->changed, &m->lock, &end) == 0)
            continue;
    }
    pthread_mutex_unlock(&m->lock);
}

void rank_monitor_close(struct rank_monitor **pointer)
{
    struct rank_monitor *m = pointer != NULL ? *pointer : NULL;

    if (m == NULL)
        return;
    atomic_store(&m->closing, true);
    if (m->thread_started)
        pthread_join(m->thread, NULL);
    if (m->thread_started && m->phase == WATCHING) { /* before, it would be missed */
        struct rank_message message = message_of(m, RANK_GOODBYE);
        if (m->options.rank == 0)
            send_to_all(m, &message);
        else
            (void)rank_link_send(&m->link, NULL, &message);
    }
    rank_link_close(&m->link);
    pthread_cond_destroy(&m->changed);
    pthread_mutex_destroy(&m->lock);
    pthread_mutex_destroy(&m->looking);
    memory_free(m->watch.peers);
    memory_free(m);
    *pointer = NULL;
}
