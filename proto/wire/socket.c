/* Contexts, socket options, and addresses. */
#include "proto/wire/socket.h"

#include <errno.h>
#include <limits.h>
#include <malloc.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>
#include <zmq.h>

#include "proto/wire/auth.h"

/* ---- contexts and options ---- */

/* Each connection takes a file descriptor, those of strangers too; checkpoints need some as well.
 */
static void raise_file_limit(void)
{
    struct rlimit limit;

    if (getrlimit(RLIMIT_NOFILE, &limit) != 0 || limit.rlim_cur >= SOCKET_FILES)
        return;
    limit.rlim_cur = limit.rlim_max < SOCKET_FILES ? limit.rlim_max : SOCKET_FILES;
    setrlimit(RLIMIT_NOFILE, &limit);
}

enum status socket_context_open(void **out, int n_io_threads)
{
    int major, minor, patch;

    zmq_version(&major, &minor, &patch);
    if (major * 10000 + minor * 100 + patch < 40304)
        FAIL(STATUS_UNSUPPORTED,
             "ZeroMQ %d.%d.%d has known holes; 4.3.4 or newer is needed (package libzmq5)", major,
             minor, patch);
    raise_file_limit();
    mallopt(M_MMAP_THRESHOLD, 32 << 20); /* the most that is allowed */
    mallopt(M_TRIM_THRESHOLD, 256 << 20);

    void *context = zmq_ctx_new();
    if (context == NULL)
        FAIL(STATUS_IO, "ZeroMQ: %s", zmq_strerror(errno));
    zmq_ctx_set(context, ZMQ_IO_THREADS, n_io_threads);
    *out = context;
    return STATUS_OK;
}

void socket_context_close(void **context)
{
    if (context == NULL || *context == NULL)
        return;
    while (zmq_ctx_term(*context) != 0 && errno == EINTR)
        continue;
    *context = NULL;
}

/* ZeroMQ counts the names that it gives to a consumer's connections up from rand(), which it does
 * not seed, and a connection that has made one of them its own beforehand ends the process (release
 * 4.3.4: assertion in add_out_pipe). Nobody may guess them. Errors: STATUS_IO. */
static enum status hide_names(void)
{
    unsigned seed;

    if (getrandom(&seed, sizeof(seed), 0) != sizeof(seed))
        FAIL(STATUS_IO, "getrandom: %s", strerror(errno));
    srand(seed);
    return STATUS_OK;
}

enum status socket_open(void **out, void *context, enum socket_side side, int64_t max_frame_bytes)
{
    bool consumer = side == SOCKET_CONSUMER;
    const struct {
        int option, value;
    } options[] = {
        {consumer ? ZMQ_ROUTER_MANDATORY : ZMQ_IMMEDIATE, 1},
        {ZMQ_SNDHWM, consumer ? SOCKET_QUEUED_CONTROL : SOCKET_QUEUED_SLICES},
        {ZMQ_RCVHWM, consumer ? SOCKET_WAITING_MESSAGES : 0},
        {ZMQ_LINGER, 500},
        {ZMQ_HANDSHAKE_IVL, 5000},
        {ZMQ_TCP_KEEPALIVE, 1}, /* a host that vanished shows within half a minute, */
        {ZMQ_TCP_KEEPALIVE_IDLE, 10},
        {ZMQ_TCP_KEEPALIVE_INTVL, 5},
        {ZMQ_TCP_KEEPALIVE_CNT, 3},
        {ZMQ_TCP_MAXRT, SOCKET_SILENCE_MS}, /* or sooner when we have something to say */
        {ZMQ_RECONNECT_IVL, 50},
        {ZMQ_RECONNECT_IVL_MAX, 1000},
        {ZMQ_SNDBUF, 4 << 20},
        {ZMQ_RCVBUF, 4 << 20},
        {ZMQ_BACKLOG, 1024},
    };

    if (consumer)
        TRY(hide_names());
    void *socket = zmq_socket(context, consumer ? ZMQ_ROUTER : ZMQ_DEALER);

    max_frame_bytes += SOCKET_SEALED_BYTES;
    if (socket == NULL)
        FAIL(STATUS_IO, "ZeroMQ: %s; are there enough file descriptors (ulimit -n)?",
             zmq_strerror(errno));
    int failed = zmq_setsockopt(socket, ZMQ_MAXMSGSIZE, &max_frame_bytes, sizeof(max_frame_bytes));
    for (size_t i = 0; i < sizeof(options) / sizeof(options[0]); i++)
        failed |= zmq_setsockopt(socket, options[i].option, &options[i].value, sizeof(int));
    CHECK(failed == 0, "a socket option: %s", zmq_strerror(errno));
    *out = socket;
    return STATUS_OK;
}

void socket_serve_without_keys(void *socket)
{
    /* Nobody answers for this domain, and ZeroMQ does not insist: that there is one is enough. */
    int failed = zmq_setsockopt(socket, ZMQ_ZAP_DOMAIN, "plain", strlen("plain"));

    CHECK(failed == 0, "a socket option: %s", zmq_strerror(errno));
}

void socket_serve_with_keys(void *socket, const struct key_pair *own)
{
    int yes = 1;
    bool failed =
        zmq_setsockopt(socket, ZMQ_CURVE_SERVER, &yes, sizeof(yes)) != 0 ||
        zmq_setsockopt(socket, ZMQ_CURVE_SECRETKEY, own->secret_half.bytes, KEY_BYTES) != 0 ||
        zmq_setsockopt(socket, ZMQ_ZAP_DOMAIN, AUTH_DOMAIN, strlen(AUTH_DOMAIN)) != 0;
    CHECK(!failed, "keys of a socket: %s", zmq_strerror(errno));
}

void socket_connect_with_keys(void *socket, const struct key_pair *own, const struct key *server)
{
    bool failed =
        zmq_setsockopt(socket, ZMQ_CURVE_SERVERKEY, server->bytes, KEY_BYTES) != 0 ||
        zmq_setsockopt(socket, ZMQ_CURVE_PUBLICKEY, own->public_half.bytes, KEY_BYTES) != 0 ||
        zmq_setsockopt(socket, ZMQ_CURVE_SECRETKEY, own->secret_half.bytes, KEY_BYTES) != 0;
    CHECK(!failed, "keys of a socket: %s", zmq_strerror(errno));
}

int32_t socket_images_per_frame(size_t record_bytes)
{
    size_t n = (SOCKET_FRAME_BYTES + record_bytes / 2) / record_bytes;
    return n < 1 ? 1 : n > INT32_MAX ? INT32_MAX : (int32_t)n;
}

/* ---- addresses ---- */

/* The part after the scheme, or NULL when it is another scheme. */
static const char *after(const char *endpoint, const char *scheme)
{
    size_t n = strlen(scheme);
    return strncmp(endpoint, scheme, n) == 0 ? endpoint + n : NULL;
}

/* Splits tcp://HOST:PORT; port 0 stands for any. Errors: STATUS_INVALID. */
static enum status split_tcp(char *host, size_t host_bytes, long *port, const char *endpoint)
{
    const char *rest = after(endpoint, "tcp://");
    const char *colon = strrchr(rest, ':');
    char *end;

    if (colon == NULL || colon == rest || (size_t)(colon - rest) >= host_bytes)
        FAIL(STATUS_INVALID, "endpoint '%s': write tcp://HOST:PORT", endpoint);
    memcpy(host, rest, (size_t)(colon - rest));
    host[colon - rest] = '\0';
    if (strcmp(colon + 1, "*") == 0) {
        *port = 0;
        return STATUS_OK;
    }
    *port = strtol(colon + 1, &end, 10);
    if (colon[1] < '0' || colon[1] > '9' || *end != '\0' || *port > 65535)
        FAIL(STATUS_INVALID, "endpoint '%s': '%s' is no port; wanted 1..65535, or 0 for any",
             endpoint, colon + 1);
    return STATUS_OK;
}

static bool is_loopback(const char *host)
{
    return strncmp(host, "127.", 4) == 0 || strcmp(host, "localhost") == 0 ||
           strcmp(host, "[::1]") == 0 || strcmp(host, "lo") == 0;
}

static enum status check_path(const char *endpoint)
{
    const char *path = after(endpoint, "ipc://");
    size_t most = sizeof(((struct sockaddr_un *)NULL)->sun_path) - 1;

    if (path[0] == '\0')
        FAIL(STATUS_INVALID, "endpoint '%s': write ipc://PATH", endpoint);
    if (strlen(path) > most)
        FAIL(STATUS_INVALID, "endpoint '%s': the path has %zu bytes; a socket's has at most %zu",
             endpoint, strlen(path), most);
    return STATUS_OK;
}

enum status endpoint_check_connect(const char *endpoint)
{
    char host[SOCKET_ENDPOINT_BYTES];
    long port;

    if (after(endpoint, "ipc://") != NULL)
        return check_path(endpoint);
    if (after(endpoint, "tcp://") == NULL)
        FAIL(STATUS_INVALID, "endpoint '%s': write tcp://HOST:PORT or ipc://PATH", endpoint);
    TRY(split_tcp(host, sizeof(host), &port, endpoint));
    if (port == 0)
        FAIL(STATUS_INVALID, "endpoint '%s': name the port to connect to", endpoint);
    return STATUS_OK;
}

bool endpoint_wants_keys(const char *endpoint)
{
    return after(endpoint, "tcp://") != NULL;
}

/* Whoever may write into the folder could put a socket of their own there. Errors: STATUS_INVALID.
 */
static enum status check_folder(const char *endpoint, bool insecure)
{
    char folder[SOCKET_ENDPOINT_BYTES];
    const char *path = after(endpoint, "ipc://");
    struct stat info;

    if (insecure || path[0] == '@' || strcmp(path, "*") == 0)
        return STATUS_OK;
    snprintf(folder, sizeof(folder), "%s", path);
    char *slash = strrchr(folder, '/');
    if (slash != NULL)
        slash[slash == folder] = '\0'; /* the root stays */
    if (stat(slash != NULL ? folder : ".", &info) != 0 || (info.st_mode & S_IWOTH) == 0 ||
        (info.st_mode & S_ISVTX) != 0)
        return STATUS_OK; /* a folder that is missing is told of by bind */
    FAIL(STATUS_INVALID,
         "endpoint '%s': everybody may write into its folder, and put a socket of their own there; "
         "use a folder of mode 0700, or --insecure",
         endpoint);
}

enum status endpoint_check_bind(const char *endpoint, bool keys, bool insecure)
{
    char host[SOCKET_ENDPOINT_BYTES];
    long port;

    if (after(endpoint, "ipc://") != NULL) {
        TRY(check_path(endpoint));
        if (endpoint[strlen("ipc://")] == '@' && !insecure)
            FAIL(STATUS_INVALID,
                 "endpoint '%s': every user of this machine can reach an abstract socket; use "
                 "ipc://PATH, or --insecure",
                 endpoint);
        return check_folder(endpoint, insecure);
    }
    if (after(endpoint, "tcp://") == NULL)
        FAIL(STATUS_INVALID, "endpoint '%s': write tcp://HOST:PORT or ipc://PATH", endpoint);
    TRY(split_tcp(host, sizeof(host), &port, endpoint));
    if (!keys && !insecure && !is_loopback(host))
        FAIL(
            STATUS_INVALID,
            "endpoint '%s' can be reached from other machines, and without keys the stream is "
            "neither encrypted nor authenticated; give --key and --allow (ibot-stream keygen makes "
            "keys), listen on 127.0.0.1 or ipc://PATH, or add --insecure on a network that you "
            "trust",
            endpoint);
    return STATUS_OK;
}

/* Makes room at an ipc path: ZeroMQ would remove whatever lies there. Errors: STATUS_IO. */
static enum status clear_path(const char *endpoint)
{
    const char *path = after(endpoint, "ipc://");
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    struct stat info;

    if (path[0] == '@' || strcmp(path, "*") == 0 || lstat(path, &info) != 0)
        return STATUS_OK;
    if (!S_ISSOCK(info.st_mode))
        FAIL(STATUS_IO, "endpoint '%s': a file is there already, and it is no socket", endpoint);
    memcpy(address.sun_path, path, strlen(path) + 1); /* check_path: it fits */
    int probe = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (probe < 0)
        FAIL(STATUS_IO, "endpoint '%s': %s", endpoint, strerror(errno));
    int failed = connect(probe, (struct sockaddr *)&address, sizeof(address));
    int error = errno;
    close(probe);
    if (failed != 0 && error == ECONNREFUSED) {
        unlink(path);
        return STATUS_OK;
    }
    FAIL(STATUS_IO, "endpoint '%s': in use by another process; choose another path", endpoint);
}

/* A socket file is its user's alone from the moment it is there. */
static int bind_privately(void *socket, const char *address)
{
    mode_t former = umask(0177);
    int result = zmq_bind(socket, address), error = errno;

    umask(former);
    errno = error;
    return result;
}

static enum status bind_failed(const char *endpoint, int error)
{
    if (error == EADDRINUSE)
        FAIL(STATUS_IO, "endpoint '%s': in use by another process; choose another port, or 0",
             endpoint);
    if (error == ENODEV || error == EADDRNOTAVAIL)
        FAIL(STATUS_IO, "endpoint '%s': this machine has no such address or interface", endpoint);
    FAIL(STATUS_IO, "endpoint '%s': %s", endpoint, zmq_strerror(error));
}

enum status endpoint_bind(char out[SOCKET_ENDPOINT_BYTES], void *socket, const char *endpoint)
{
    char address[SOCKET_ENDPOINT_BYTES + 16], host[SOCKET_ENDPOINT_BYTES];
    const char *path = after(endpoint, "ipc://");
    size_t n_bytes = SOCKET_ENDPOINT_BYTES;
    long port;

    if (path != NULL) {
        TRY(clear_path(endpoint));
        snprintf(address, sizeof(address), "%s", endpoint);
    } else {
        TRY(split_tcp(host, sizeof(host), &port, endpoint));
        int ipv6 = host[0] == '[';
        zmq_setsockopt(socket, ZMQ_IPV6, &ipv6, sizeof(ipv6));
        if (port == 0)
            snprintf(address, sizeof(address), "tcp://%s:*", host);
        else
            snprintf(address, sizeof(address), "tcp://%s:%ld", host, port);
    }
    if ((path != NULL ? bind_privately(socket, address) : zmq_bind(socket, address)) != 0)
        return bind_failed(endpoint, errno);
    if (zmq_getsockopt(socket, ZMQ_LAST_ENDPOINT, out, &n_bytes) != 0)
        FAIL(STATUS_IO, "endpoint '%s': %s", endpoint, zmq_strerror(errno));
    return STATUS_OK;
}

void endpoint_unbind(const char *address)
{
    const char *path = after(address, "ipc://");

    if (path != NULL && path[0] != '@')
        unlink(path);
}
