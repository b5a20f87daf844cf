/* The server: an address, three pages. */
#include "proto/monitor/monitor.h"

#include <arpa/inet.h>
#include <errno.h>
#include <microhttpd.h>
#include <netdb.h>
#include <pthread.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "proto/base/memory.h"

enum {
    HOST_BYTES = 256,
    MAX_CONNECTIONS = 128,
    IDLE_SECONDS = 5,
    REQUEST_BYTES = 16 << 10, /* that one connection may make us keep */
};

struct monitor {
    struct monitor_options options; /* immutable after open */
    int socket;                     /* the server's once it runs */
    struct MHD_Daemon *daemon;
    char address[HOST_BYTES + 16];
};

/* ---- address ---- */

/* "[ADDRESS]:PORT" with ADDRESS a name, an IPv4 address, or an IPv6 one in brackets. */
static enum status split(const char *listen, char host[HOST_BYTES], long *port)
{
    const char *colon = strrchr(listen, ':'), *digits = colon != NULL ? colon + 1 : listen;
    size_t n_host = colon != NULL ? (size_t)(colon - listen) : 0;
    char *end;

    *port = strtol(digits, &end, 10);
    if (digits[0] < '0' || digits[0] > '9' || *end != '\0' || *port > 65535 || n_host >= HOST_BYTES)
        FAIL(STATUS_INVALID, "--metrics '%s': wanted [ADDRESS]:PORT, such as :9100 or 0.0.0.0:9100",
             listen);
    memcpy(host, listen, n_host);
    host[n_host] = '\0';
    if (n_host == 0)
        strcpy(host, "127.0.0.1");
    if (host[0] == '[' && host[n_host - 1] == ']') {
        memmove(host, host + 1, n_host - 2);
        host[n_host - 2] = '\0';
    } else if (strchr(host, ':') != NULL) {
        FAIL(STATUS_INVALID, "--metrics '%s': an IPv6 address stands in brackets: [::1]:9100",
             listen);
    }
    return STATUS_OK;
}

enum status monitor_check(const char *listen)
{
    char host[HOST_BYTES];
    long port;

    return split(listen, host, &port);
}

static enum status bind_one(struct monitor *monitor, const struct addrinfo *info)
{
    const char *listen_text = monitor->options.listen;
    int yes = 1;

    monitor->socket =
        socket(info->ai_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, IPPROTO_TCP);
    if (monitor->socket < 0)
        FAIL(STATUS_IO, "--metrics '%s': %s", listen_text, strerror(errno));
    setsockopt(monitor->socket, SOL_SOCKET, SO_REUSEADDR, &yes, sizeof(yes));
    if (info->ai_family == AF_INET6)
        setsockopt(monitor->socket, IPPROTO_IPV6, IPV6_V6ONLY, &yes, sizeof(yes));
    if (bind(monitor->socket, info->ai_addr, info->ai_addrlen) != 0 ||
        listen(monitor->socket, MAX_CONNECTIONS) != 0)
        FAIL(STATUS_IO, "--metrics '%s' (port %d here): %s; choose another port, or 0 for any",
             listen_text,
             ntohs(info->ai_family == AF_INET6
                       ? ((const struct sockaddr_in6 *)(const void *)info->ai_addr)->sin6_port
                       : ((const struct sockaddr_in *)(const void *)info->ai_addr)->sin_port),
             strerror(errno));
    return STATUS_OK;
}

/* The real address, with the real port. */
static enum status name_address(struct monitor *monitor)
{
    struct sockaddr_storage address;
    socklen_t n_bytes = sizeof(address);
    char host[HOST_BYTES], port[16];

    if (getsockname(monitor->socket, (struct sockaddr *)&address, &n_bytes) != 0 ||
        getnameinfo((struct sockaddr *)&address, n_bytes, host, sizeof(host), port, sizeof(port),
                    NI_NUMERICHOST | NI_NUMERICSERV) != 0)
        FAIL(STATUS_IO, "--metrics '%s': its address has no name", monitor->options.listen);
    snprintf(monitor->address, sizeof(monitor->address),
             address.ss_family == AF_INET6 ? "[%.200s]:%s" : "%.200s:%s", host, port);
    return STATUS_OK;
}

static enum status bind_socket(struct monitor *monitor)
{
    struct addrinfo hints = {.ai_family = AF_UNSPEC,
                             .ai_socktype = SOCK_STREAM,
                             .ai_flags = AI_PASSIVE | AI_NUMERICSERV};
    struct addrinfo *found = NULL;
    char host[HOST_BYTES], text[24];
    long port;

    TRY(split(monitor->options.listen, host, &port));
    port = port > 0 ? port + monitor->options.rank : 0;
    if (port > 65535)
        FAIL(STATUS_INVALID, "--metrics '%s': no port for rank %d", monitor->options.listen,
             monitor->options.rank);
    snprintf(text, sizeof(text), "%ld", port);
    int error = getaddrinfo(host, text, &hints, &found);
    if (error != 0)
        FAIL(STATUS_INVALID, "--metrics '%s': '%s' is no address of this machine: %s",
             monitor->options.listen, host, gai_strerror(error));
    enum status status = bind_one(monitor, found);
    freeaddrinfo(found);
    return status == STATUS_OK ? name_address(monitor) : status;
}

/* ---- pages ---- */

static enum MHD_Result reply(struct MHD_Connection *connection, unsigned code, const char *type,
                             const char *text, size_t n_bytes)
{
    union {
        const char *in;
        void *out; /* MHD copies, and does not write */
    } body = {.in = text};
    struct MHD_Response *response =
        MHD_create_response_from_buffer(n_bytes, body.out, MHD_RESPMEM_MUST_COPY);

    if (response == NULL)
        return MHD_NO;
    MHD_add_response_header(response, MHD_HTTP_HEADER_CONTENT_TYPE, type);
    MHD_add_response_header(response, MHD_HTTP_HEADER_CACHE_CONTROL, "no-store");
    if (code == MHD_HTTP_METHOD_NOT_ALLOWED)
        MHD_add_response_header(response, MHD_HTTP_HEADER_ALLOW, "GET, HEAD");
    enum MHD_Result result = MHD_queue_response(connection, code, response);
    MHD_destroy_response(response);
    return result;
}

static enum MHD_Result reply_text(struct MHD_Connection *connection, unsigned code,
                                  const char *text)
{
    return reply(connection, code, "text/plain; charset=utf-8", text, strlen(text));
}

static enum MHD_Result reply_metrics(struct monitor *monitor, struct MHD_Connection *connection)
{
    struct exposition e = {0};

    monitor->options.collect(monitor->options.context, &e);
    exposition_process(&e);
    enum MHD_Result result =
        e.status != STATUS_OK
            ? reply_text(connection, MHD_HTTP_SERVICE_UNAVAILABLE, "no memory\n")
            : reply(connection, MHD_HTTP_OK, "text/plain; version=0.0.4; charset=utf-8", e.text,
                    e.n_bytes);
    exposition_release(&e);
    return result;
}

static enum MHD_Result reply_state(struct monitor *monitor, struct MHD_Connection *connection,
                                   bool (*ask)(void *context, char *reason))
{
    char reason[MONITOR_REASON_BYTES] = "", text[MONITOR_REASON_BYTES + 2];
    bool good = ask(monitor->options.context, reason);

    snprintf(text, sizeof(text), "%s\n", good ? "ok" : reason);
    return reply_text(connection, good ? MHD_HTTP_OK : MHD_HTTP_SERVICE_UNAVAILABLE, text);
}

static enum MHD_Result answer(void *context, struct MHD_Connection *connection, const char *url,
                              const char *method, const char *version, const char *upload,
                              size_t *n_upload, void **request)
{
    struct monitor *monitor = context;
    static char seen;

    (void)version, (void)upload;
    if (*request == NULL) { /* the header alone: the answer comes with the next call */
        *request = &seen;
        return MHD_YES;
    }
    if (*n_upload != 0) {
        *n_upload = 0;
        return MHD_YES;
    }
    if (strcmp(method, MHD_HTTP_METHOD_GET) != 0 && strcmp(method, MHD_HTTP_METHOD_HEAD) != 0)
        return reply_text(connection, MHD_HTTP_METHOD_NOT_ALLOWED, "only GET and HEAD\n");
    if (strcmp(url, "/metrics") == 0)
        return reply_metrics(monitor, connection);
    if (strcmp(url, "/healthz") == 0)
        return reply_state(monitor, connection, monitor->options.healthy);
    if (strcmp(url, "/readyz") == 0)
        return reply_state(monitor, connection, monitor->options.ready);
    return reply_text(connection, MHD_HTTP_NOT_FOUND, "there are /metrics, /healthz, /readyz\n");
}

/* ---- open and close ---- */

/* With signals blocked, so that they come to the program's own threads. */
static enum status start_daemon(struct monitor *monitor)
{
    sigset_t all, former;

    sigfillset(&all);
    pthread_sigmask(SIG_BLOCK, &all, &former);
    monitor->daemon = MHD_start_daemon(
        MHD_USE_INTERNAL_POLLING_THREAD | MHD_USE_AUTO, 0, NULL, NULL, answer, monitor,
        MHD_OPTION_LISTEN_SOCKET, monitor->socket, MHD_OPTION_CONNECTION_LIMIT,
        (unsigned)MAX_CONNECTIONS, MHD_OPTION_CONNECTION_TIMEOUT, (unsigned)IDLE_SECONDS,
        MHD_OPTION_CONNECTION_MEMORY_LIMIT, (size_t)REQUEST_BYTES, MHD_OPTION_END);
    pthread_sigmask(SIG_SETMASK, &former, NULL);
    if (monitor->daemon == NULL)
        FAIL(STATUS_IO, "--metrics '%s': the HTTP server does not start", monitor->options.listen);
    monitor->socket = -1; /* taken */
    return STATUS_OK;
}

enum status monitor_open(struct monitor **out, const struct monitor_options *options)
{
    struct monitor *monitor = NULL;
    enum status status;

    TRY(memory_alloc(&monitor, 1, sizeof(*monitor), "monitor"));
    monitor->options = *options;
    monitor->socket = -1;
    TRY_OUT(bind_socket(monitor));
    TRY_OUT(start_daemon(monitor));
    *out = monitor;
    monitor = NULL;
out:
    monitor_close(&monitor);
    return status;
}

const char *monitor_address(const struct monitor *monitor)
{
    return monitor->address;
}

void monitor_close(struct monitor **address)
{
    struct monitor *monitor = address != NULL ? *address : NULL;

    if (monitor == NULL)
        return;
    if (monitor->daemon != NULL)
        MHD_stop_daemon(monitor->daemon);
    if (monitor->socket >= 0)
        close(monitor->socket);
    memory_free(monitor);
    *address = NULL;
}
