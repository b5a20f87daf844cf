#include "tests/support/http_client.h"

#include <netdb.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "proto/base/clock.h"

enum { MAX_BYTES = 1 << 20 };

int http_connect(const char *address)
{
    struct addrinfo hints = {.ai_socktype = SOCK_STREAM}, *found = NULL;
    const char *colon = strrchr(address, ':');
    char host[128];
    int connection = -1;

    if (colon == NULL)
        return -1;
    snprintf(host, sizeof(host), "%.*s", (int)(colon - address), address);
    if (host[0] == '[') { /* IPv6 */
        host[strlen(host) - 1] = '\0';
        memmove(host, host + 1, strlen(host));
    }
    if (getaddrinfo(host, colon + 1, &hints, &found) != 0)
        return -1;
    connection = socket(found->ai_family, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (connection >= 0 && connect(connection, found->ai_addr, found->ai_addrlen) != 0) {
        close(connection);
        connection = -1;
    }
    freeaddrinfo(found);
    return connection;
}

int http_request(const char *address, const char *request, char **body)
{
    int64_t deadline_ns = clock_monotonic_ns() + 60000000000;
    int connection = http_connect(address), code = 0;
    char *text = calloc(1, MAX_BYTES + 1), header[512];
    size_t n = 0;

    *body = text;
    if (connection < 0)
        return 0;
    snprintf(header, sizeof(header), "%s HTTP/1.1\r\nHost: %s\r\nConnection: close\r\n\r\n",
             request, address);
    if (send(connection, header, strlen(header), MSG_NOSIGNAL) == (ssize_t)strlen(header)) {
        struct pollfd readable = {connection, POLLIN, 0};
        for (ssize_t got = 1; got > 0 && n<MAX_BYTES; n += got> 0 ? (size_t)got : 0) {
            int64_t left_ns = deadline_ns - clock_monotonic_ns();
            if (left_ns <= 0 || poll(&readable, 1, (int)(left_ns / 1000000) + 1) <= 0)
                break;
            got = read(connection, text + n, MAX_BYTES - n);
        }
    }
    close(connection);
    const char *end = strstr(text, "\r\n\r\n");
    if (sscanf(text, "HTTP/1.1 %d", &code) != 1 || end == NULL)
        return 0;
    memmove(text, end + 4, n - (size_t)(end + 4 - text) + 1);
    return code;
}
