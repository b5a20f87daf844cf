/* One poll loop over all connections; what was read from one end waits in a buffer until the other
 * one takes it. */
#include "tests/e2e/proxy.h"

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <poll.h>
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cmocka.h>

enum { MAX_PAIRS = 32, CHUNK = 64 << 10 };

/* ends[0] is the loader's, ends[1] the consumer's; buffer i goes from end i to the other one. */
struct pair {
    bool used;
    int ends[2];
    struct {
        uint8_t bytes[CHUNK];
        size_t first, n;
    } buffers[2];
};

struct proxy {
    int listener, wake;
    atomic_int kept; /* file of what loaders said; -1: none */
    char endpoint[64];
    struct sockaddr_in target;
    atomic_int manner, stop;
    atomic_uint_fast64_t n_flipped;
    pthread_t thread;
    uint32_t random; /* the thread's, as the next */
    struct pair pairs[MAX_PAIRS];
};

static uint32_t draw(struct proxy *proxy)
{
    proxy->random ^= proxy->random << 13;
    proxy->random ^= proxy->random >> 17;
    proxy->random ^= proxy->random << 5;
    return proxy->random;
}

static void close_pair(struct pair *pair)
{
    if (!pair->used)
        return;
    close(pair->ends[0]);
    close(pair->ends[1]);
    pair->used = false;
}

static void take_connection(struct proxy *proxy)
{
    int near = accept4(proxy->listener, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC);
    struct pair *pair = NULL;

    if (near < 0)
        return;
    for (int i = 0; i < MAX_PAIRS && pair == NULL; i++)
        if (!proxy->pairs[i].used)
            pair = &proxy->pairs[i];
    int far = pair != NULL && atomic_load(&proxy->manner) != PROXY_REFUSE
                  ? socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0)
                  : -1;
    if (far < 0 || connect(far, (struct sockaddr *)&proxy->target, sizeof(proxy->target)) != 0) {
        close(near);
        if (far >= 0)
            close(far);
        return;
    }
    fcntl(far, F_SETFL, O_NONBLOCK);
    pair->used = true;
    pair->ends[0] = near;
    pair->ends[1] = far;
    for (int i = 0; i < 2; i++)
        pair->buffers[i].first = pair->buffers[i].n = 0;
}

/* Moves what can be moved from end i to the other one; false: the connection is over. */
static bool move(struct proxy *proxy, struct pair *pair, int i)
{
    for (;;) {
        if (pair->buffers[i].n == 0) {
            ssize_t n = recv(pair->ends[i], pair->buffers[i].bytes, CHUNK, 0);
            if (n < 0)
                return errno == EAGAIN || errno == EINTR;
            if (n == 0)
                return false;
            pair->buffers[i].first = 0;
            pair->buffers[i].n = (size_t)n;
            int kept = atomic_load(&proxy->kept);
            if (i == 0 && kept >= 0 && write(kept, pair->buffers[i].bytes, (size_t)n) != n)
                atomic_store(&proxy->kept, -1);
            if (i == 0 && n > 64 && atomic_load(&proxy->manner) == PROXY_FLIP &&
                draw(proxy) % 2 == 0) {
                pair->buffers[i].bytes[draw(proxy) % (uint32_t)n] ^=
                    (uint8_t)(1u << draw(proxy) % 8);
                atomic_fetch_add(&proxy->n_flipped, 1);
            }
        }
        ssize_t n = send(pair->ends[1 - i], pair->buffers[i].bytes + pair->buffers[i].first,
                         pair->buffers[i].n, MSG_NOSIGNAL);
        if (n < 0)
            return errno == EAGAIN || errno == EINTR;
        pair->buffers[i].first += (size_t)n;
        pair->buffers[i].n -= (size_t)n;
    }
}

static void *run(void *argument)
{
    struct proxy *proxy = argument;

    while (atomic_load(&proxy->stop) == 0) {
        struct pollfd events[2 + 2 * MAX_PAIRS];
        nfds_t n = 2;
        uint64_t count;
        bool hold = atomic_load(&proxy->manner) == PROXY_HOLD;
        events[0] = (struct pollfd){proxy->wake, POLLIN, 0};
        events[1] = (struct pollfd){proxy->listener, hold ? 0 : POLLIN, 0};
        for (int k = 0; k < MAX_PAIRS && !hold; k++) {
            struct pair *pair = &proxy->pairs[k];
            for (int i = 0; i < 2 && pair->used; i++)
                events[n++] = (struct pollfd){pair->ends[i],
                                              (short)((pair->buffers[i].n == 0 ? POLLIN : 0) |
                                                      (pair->buffers[1 - i].n > 0 ? POLLOUT : 0)),
                                              0};
        }
        poll(events, n, -1);
        ssize_t unused = read(proxy->wake, &count, sizeof(count));
        (void)unused;
        if (atomic_load(&proxy->manner) == PROXY_HOLD)
            continue;
        if (events[1].revents & POLLIN)
            take_connection(proxy);
        for (int k = 0; k < MAX_PAIRS; k++) {
            struct pair *pair = &proxy->pairs[k];
            if (pair->used && (atomic_load(&proxy->manner) == PROXY_REFUSE ||
                               !move(proxy, pair, 0) || !move(proxy, pair, 1)))
                close_pair(pair);
        }
    }
    return NULL;
}

struct proxy *proxy_open(const char *target, uint32_t seed)
{
    struct proxy *proxy = calloc(1, sizeof(*proxy));
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_addr = {htonl(INADDR_LOOPBACK)}};
    socklen_t size = sizeof(address);
    int port;

    assert_non_null(proxy);
    assert_int_equal(sscanf(target, "tcp://127.0.0.1:%d", &port), 1);
    proxy->target = address;
    proxy->target.sin_port = htons((uint16_t)port);
    proxy->random = seed | 1;
    atomic_store(&proxy->kept, -1);
    proxy->listener = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    proxy->wake = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    assert_true(proxy->listener >= 0 && proxy->wake >= 0);
    assert_int_equal(bind(proxy->listener, (struct sockaddr *)&address, size), 0);
    assert_int_equal(listen(proxy->listener, 64), 0);
    assert_int_equal(getsockname(proxy->listener, (struct sockaddr *)&address, &size), 0);
    snprintf(proxy->endpoint, sizeof(proxy->endpoint), "tcp://127.0.0.1:%d",
             ntohs(address.sin_port));
    assert_int_equal(pthread_create(&proxy->thread, NULL, run, proxy), 0);
    return proxy;
}

const char *proxy_endpoint(const struct proxy *proxy)
{
    return proxy->endpoint;
}

static void wake(struct proxy *proxy)
{
    uint64_t one = 1;
    ssize_t n = write(proxy->wake, &one, sizeof(one));
    (void)n;
}

void proxy_behave(struct proxy *proxy, enum proxy_manner manner)
{
    atomic_store(&proxy->manner, (int)manner);
    wake(proxy);
}

void proxy_keep(struct proxy *proxy, const char *path)
{
    int file = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
    assert_true(file >= 0);
    atomic_store(&proxy->kept, file);
}

uint64_t proxy_flipped(const struct proxy *proxy)
{
    return atomic_load(&proxy->n_flipped);
}

void proxy_close(struct proxy **address)
{
    struct proxy *proxy = *address;

    if (proxy == NULL)
        return;
    atomic_store(&proxy->stop, 1);
    wake(proxy);
    pthread_join(proxy->thread, NULL);
    for (int i = 0; i < MAX_PAIRS; i++)
        close_pair(&proxy->pairs[i]);
    close(proxy->listener);
    close(proxy->wake);
    if (atomic_load(&proxy->kept) >= 0)
        close(atomic_load(&proxy->kept));
    free(proxy);
    *address = NULL;
}
