/* The ZAP handler. ZeroMQ asks over inproc (RFC 27), one request for each connection that has
 * proved to own its key; whoever cannot prove that is gone before. */
#include "proto/wire/auth.h"

#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/stat.h>
#include <unistd.h>
#include <zmq.h>

#include "proto/base/memory.h"

enum { LOOK_MS = 1000, MAX_FRAMES = 8, FRAME_BYTES = 256 };

struct auth {
    /* immutable after open */
    const char *path;
    auth_report *report;
    void *report_context;
    int wake; /* eventfd: the end */
    pthread_t thread;
    bool thread_started;
    void *socket; /* the thread's once it runs */

    /* thread only */
    struct stat seen; /* of the list's file, as it was read last */
    bool missing;     /* said so */

    atomic_uint_fast32_t generation;
    atomic_uint_fast64_t n_refused;
    pthread_mutex_t lock;
    struct key_list list; /* guarded by lock */
};

/* ---- the list ---- */

static bool same_file(const struct stat *a, const struct stat *b)
{
    return a->st_dev == b->st_dev && a->st_ino == b->st_ino && a->st_size == b->st_size &&
           a->st_mtim.tv_sec == b->st_mtim.tv_sec && a->st_mtim.tv_nsec == b->st_mtim.tv_nsec;
}

static enum status read_list(struct auth *auth)
{
    struct key_list list = {0};

    TRY(key_list_read(&list, auth->path));
    if (list.n == 0) {
        key_list_release(&list);
        FAIL(STATUS_INVALID,
             "'%s' has no key: nobody could connect; add the .public files of loaders", auth->path);
    }
    pthread_mutex_lock(&auth->lock);
    struct key_list former = auth->list;
    auth->list = list;
    pthread_mutex_unlock(&auth->lock);
    key_list_release(&former);
    atomic_fetch_add(&auth->generation, 1);
    return STATUS_OK;
}

/* Reads it again when the file is another one. */
static void look_at_list(struct auth *auth)
{
    char text[1024];
    struct stat info;

    if (stat(auth->path, &info) != 0) {
        if (!auth->missing) {
            snprintf(text, sizeof(text), "keys '%s': %s; the former list stays in force",
                     auth->path, strerror(errno));
            auth->report(auth->report_context, text);
        }
        auth->missing = true;
        return;
    }
    if (same_file(&info, &auth->seen) && !auth->missing)
        return;
    auth->seen = info;
    auth->missing = false;
    if (read_list(auth) == STATUS_OK)
        return;
    snprintf(text, sizeof(text), "%s; the former list stays in force", status_message());
    auth->report(auth->report_context, text);
}

/* ---- requests ---- */

struct frame {
    size_t n_bytes;
    char bytes[FRAME_BYTES]; /* cut; room for a NUL */
};

/* Takes a whole message; frames beyond MAX_FRAMES are dropped. */
static int receive(void *socket, struct frame frames[MAX_FRAMES])
{
    int n = 0, more = 1;

    while (more) {
        zmq_msg_t part;
        zmq_msg_init(&part);
        if (zmq_msg_recv(&part, socket, ZMQ_DONTWAIT) < 0) {
            zmq_msg_close(&part);
            return n;
        }
        if (n < MAX_FRAMES) {
            struct frame *frame = &frames[n];
            frame->n_bytes = zmq_msg_size(&part);
            size_t kept = frame->n_bytes < FRAME_BYTES - 1 ? frame->n_bytes : FRAME_BYTES - 1;
            memcpy(frame->bytes, zmq_msg_data(&part), kept);
            frame->bytes[kept] = '\0';
        }
        n++;
        more = zmq_msg_more(&part);
        zmq_msg_close(&part);
    }
    return n;
}

static void answer(void *socket, const struct frame *id, bool allowed, const char *user)
{
    const char *parts[] = {"1.0", NULL, allowed ? "200" : "400", allowed ? "OK" : "unknown key",
                           user};
    for (int i = 0; i < 5; i++)
        zmq_send(socket, i == 1 ? id->bytes : parts[i], i == 1 ? id->n_bytes : strlen(parts[i]),
                 ZMQ_SNDMORE | ZMQ_DONTWAIT);
    zmq_send(socket, "", 0, ZMQ_DONTWAIT); /* no metadata */
}

/* version, request id, domain, address, routing id, mechanism, credentials */
static void handle(struct auth *auth)
{
    enum { VERSION, ID, DOMAIN, ADDRESS, ROUTING, MECHANISM, KEY, N_FRAMES };
    struct frame frames[MAX_FRAMES] = {{0}};
    char hex[KEY_TEXT_BYTES] = "", text[512];
    struct key key;
    bool asked;

    int n = receive(auth->socket, frames);
    if (n == 0)
        return;
    if (frames[ID].n_bytes >= FRAME_BYTES)
        frames[ID].n_bytes = 0; /* never by ZeroMQ */
    asked = n == N_FRAMES && strcmp(frames[VERSION].bytes, "1.0") == 0 &&
            strcmp(frames[DOMAIN].bytes, AUTH_DOMAIN) == 0 &&
            strcmp(frames[MECHANISM].bytes, "CURVE") == 0 && frames[KEY].n_bytes == KEY_BYTES;
    if (asked) {
        memcpy(key.bytes, frames[KEY].bytes, KEY_BYTES);
        key_format(&key, hex);
    }
    bool allowed = asked && auth_allows(auth, &key, NULL);
    answer(auth->socket, &frames[ID], allowed, allowed ? hex : "");
    if (allowed)
        return;
    atomic_fetch_add(&auth->n_refused, 1);
    if (asked)
        snprintf(text, sizeof(text), "a loader at %.64s: its key %s is not in '%.256s'",
                 frames[ADDRESS].bytes, hex, auth->path);
    else
        snprintf(text, sizeof(text), "a loader at %.64s: it shows no key", frames[ADDRESS].bytes);
    auth->report(auth->report_context, text);
}

static void *auth_thread(void *argument)
{
    struct auth *auth = argument;
    zmq_pollitem_t items[] = {{.socket = auth->socket, .events = ZMQ_POLLIN},
                              {.fd = auth->wake, .events = ZMQ_POLLIN}};
    sigset_t signals;

    sigfillset(&signals);
    pthread_sigmask(SIG_BLOCK, &signals, NULL);
    pthread_setname_np(pthread_self(), "zap");
    for (;;) {
        if (zmq_poll(items, 2, LOOK_MS) < 0 && errno != EINTR)
            break;
        if (items[1].revents != 0)
            break;
        look_at_list(auth);
        if (items[0].revents != 0)
            handle(auth);
    }
    return NULL;
}

/* ---- open and close ---- */

enum status auth_open(struct auth **out, void *zmq_context, const char *path, auth_report *report,
                      void *context)
{
    struct auth *auth = NULL;
    enum status status = STATUS_OK;
    int linger = 0;

    TRY(memory_alloc(&auth, 1, sizeof(*auth), "allow-list"));
    auth->path = path;
    auth->report = report;
    auth->report_context = context;
    pthread_mutex_init(&auth->lock, NULL);
    auth->wake = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    if (auth->wake < 0)
        FAIL_OUT(STATUS_IO, "allow-list: eventfd: %s", strerror(errno));
    if (stat(path, &auth->seen) != 0)
        FAIL_OUT(errno == ENOENT ? STATUS_NOT_FOUND : STATUS_IO, "key file '%s': %s", path,
                 strerror(errno));
    TRY_OUT(read_list(auth));
    auth->socket = zmq_socket(zmq_context, ZMQ_REP);
    if (auth->socket == NULL || zmq_setsockopt(auth->socket, ZMQ_LINGER, &linger, sizeof(linger)) ||
        zmq_bind(auth->socket, "inproc://zeromq.zap.01") != 0)
        FAIL_OUT(STATUS_IO, "allow-list: ZeroMQ: %s", zmq_strerror(errno));
    int error = pthread_create(&auth->thread, NULL, auth_thread, auth);
    if (error != 0)
        FAIL_OUT(STATUS_IO, "allow-list: no thread: %s", strerror(error));
    auth->thread_started = true;
    *out = auth;
    auth = NULL;
out:
    auth_close(&auth);
    return status;
}

bool auth_allows(struct auth *auth, const struct key *key, char *name)
{
    pthread_mutex_lock(&auth->lock);
    const struct named_key *found = key_list_find(&auth->list, key);
    if (found != NULL && name != NULL)
        memcpy(name, found->name, KEY_NAME_BYTES);
    pthread_mutex_unlock(&auth->lock);
    return found != NULL;
}

uint32_t auth_generation(struct auth *auth)
{
    return (uint32_t)atomic_load(&auth->generation);
}

uint64_t auth_n_refused(struct auth *auth)
{
    return atomic_load(&auth->n_refused);
}

void auth_close(struct auth **address)
{
    struct auth *auth = address != NULL ? *address : NULL;

    if (auth == NULL)
        return;
    if (auth->thread_started) {
        uint64_t one = 1;
        ssize_t n = write(auth->wake, &one, sizeof(one));
        (void)n; /* the first and only one: it fits */
        pthread_join(auth->thread, NULL);
    }
    if (auth->socket != NULL)
        zmq_close(auth->socket);
    if (auth->wake >= 0)
        close(auth->wake);
    key_list_release(&auth->list);
    pthread_mutex_destroy(&auth->lock);
    memory_free(auth);
    *address = NULL;
}
