/* The datagrams of sd_notify(3), without its library: `NAME=VALUE` lines to a UNIX socket. */
#include "proto/base/notify.h"

#include <errno.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

static const int64_t status_least_ns = 1000000000;

static void say(const struct notify *notify, const char *text)
{
    if (!notify->opened || notify->socket < 0)
        return;
    ssize_t n = send(notify->socket, text, strlen(text), MSG_DONTWAIT | MSG_NOSIGNAL);
    (void)n; /* the manager is gone or busy: nothing of ours depends on it */
}

/* WATCHDOG_USEC, when it is meant for this process. */
static int64_t watchdog_of_environment(void)
{
    const char *text = getenv("WATCHDOG_USEC"), *pid = getenv("WATCHDOG_PID");
    char *end;

    if (text == NULL || (pid != NULL && strtol(pid, NULL, 10) != (long)getpid()))
        return 0;
    long long usec = strtoll(text, &end, 10);
    if (*text == '\0' || *end != '\0' || usec <= 0 || usec > INT64_MAX / 1000)
        return 0;
    return (int64_t)usec * 1000;
}

enum status notify_open(struct notify *notify)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    const char *path = getenv("NOTIFY_SOCKET");

    *notify = (struct notify){.opened = true, .socket = -1};
    if (path == NULL || path[0] == '\0')
        return STATUS_OK;
    size_t n = strlen(path);
    if ((path[0] != '/' && path[0] != '@') || n < 2 || n >= sizeof(address.sun_path))
        FAIL(STATUS_INVALID, "NOTIFY_SOCKET is '%s'; wanted /path or @name of at most %zu bytes",
             path, sizeof(address.sun_path) - 1);
    memcpy(address.sun_path, path, n);
    if (path[0] == '@')
        address.sun_path[0] = '\0'; /* an abstract name */
    socklen_t size = (socklen_t)(offsetof(struct sockaddr_un, sun_path) + n + (path[0] == '/'));
    notify->socket = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0);
    if (notify->socket < 0)
        FAIL(STATUS_IO, "NOTIFY_SOCKET: %s", strerror(errno));
    if (connect(notify->socket, (struct sockaddr *)&address, size) != 0) {
        int error = errno;
        notify_close(notify);
        FAIL(STATUS_IO, "NOTIFY_SOCKET '%s': %s", path, strerror(error));
    }
    notify->watchdog_ns = watchdog_of_environment() / 2;
    return STATUS_OK;
}

void notify_ready(struct notify *notify)
{
    say(notify, "READY=1");
}

void notify_alive(struct notify *notify, int64_t now_ns)
{
    if (notify->watchdog_ns == 0 || now_ns - notify->alive_ns < notify->watchdog_ns)
        return;
    notify->alive_ns = now_ns;
    say(notify, "WATCHDOG=1");
}

void notify_status(struct notify *notify, int64_t now_ns, const char *format, ...)
{
    char status[sizeof(notify->status)], text[sizeof(status) + 16];
    va_list arguments;

    if (!notify->opened || notify->socket < 0 ||
        (notify->status[0] != '\0' && now_ns - notify->status_ns < status_least_ns))
        return;
    va_start(arguments, format);
    vsnprintf(status, sizeof(status), format, arguments);
    va_end(arguments);
    for (char *c = status; *c != '\0'; c++) /* a line ends a value */
        if (*c == '\n')
            *c = ' ';
    if (strcmp(status, notify->status) == 0)
        return;
    memcpy(notify->status, status, sizeof(status));
    notify->status_ns = now_ns;
    snprintf(text, sizeof(text), "STATUS=%s", status);
    say(notify, text);
}

void notify_stopping(struct notify *notify)
{
    say(notify, "STOPPING=1");
}

void notify_close(struct notify *notify)
{
    if (notify == NULL)
        return;
    if (notify->opened && notify->socket >= 0)
        close(notify->socket);
    *notify = (struct notify){.socket = -1};
}
