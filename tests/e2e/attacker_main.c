/* Somebody at a trainer's port who is no loader: attacker 127.0.0.1:PORT KIND [FILE]. Goes on until
 * it is killed, or its parent is. Each kind is a row of the table at the end. */
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <poll.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <unistd.h>
#include <zmq.h>

#include "proto/base/rng.h"
#include "proto/wire/message.h"

enum { HELD = 150, PAUSE_MS = 2 };

static struct sockaddr_in target;
static struct rng rng;

/* ZMTP 3.0 greeting with the NULL mechanism, and what follows it. */
static const uint8_t greeting[64] = {0xff, 0, 0, 0, 0, 0, 0, 0, 1, 0x7f, 3, 0, 'N', 'U', 'L', 'L'};
static const uint8_t ready[] = {4,   28,  5,   'R', 'E', 'A', 'D', 'Y', 11,  'S',
                                'o', 'c', 'k', 'e', 't', '-', 'T', 'y', 'p', 'e',
                                0,   0,   0,   6,   'D', 'E', 'A', 'L', 'E', 'R'};

static void rest(void)
{
    poll(NULL, 0, PAUSE_MS); /* this machine has others to serve, too */
}

static int open_connection(void)
{
    int connection = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);

    if (connection >= 0 && connect(connection, (struct sockaddr *)&target, sizeof(target)) != 0) {
        close(connection);
        connection = -1;
    }
    return connection;
}

static bool put(int connection, const void *bytes, size_t n)
{
    return send(connection, bytes, n, MSG_NOSIGNAL) == (ssize_t)n;
}

/* Says what a peer says before its first message. The other side's greeting comes in between:
 * before it, ZeroMQ would not bear more than ours. */
static bool introduce(int connection)
{
    struct pollfd event = {connection, POLLIN, 0};

    return put(connection, greeting, sizeof(greeting)) && poll(&event, 1, 1000) == 1 &&
           put(connection, ready, sizeof(ready));
}

static void fill(uint8_t *bytes, size_t n)
{
    for (size_t i = 0; i < n; i++)
        bytes[i] = (uint8_t)rng_u32(&rng);
}

/* True when the other side has hung up. What it sent is thrown away. */
static bool is_over(int connection)
{
    char bytes[4096];
    ssize_t n;

    do {
        n = recv(connection, bytes, sizeof(bytes), MSG_DONTWAIT);
    } while (n > 0);
    return n == 0 || (errno != EAGAIN && errno != EINTR);
}

/* ---- kinds ---- */

static void random_bytes(const char *file)
{
    uint8_t bytes[8192];
    int connection = open_connection();

    (void)file;
    fill(bytes, sizeof(bytes));
    if (connection >= 0 && rng_u32(&rng) % 2 == 0)
        put(connection, greeting, sizeof(greeting));
    if (connection >= 0 && rng_u32(&rng) % 2 == 0)
        put(connection, ready, sizeof(ready));
    if (connection >= 0)
        put(connection, bytes, 1 + rng_u32(&rng) % sizeof(bytes));
    if (connection >= 0)
        close(connection);
}

/* Connections that never say a word, or half a greeting, letter by letter. */
static void hold(bool drip)
{
    static int held[HELD];
    static size_t said[HELD];

    for (int i = 0; i < HELD; i++) {
        if (held[i] > 0 && is_over(held[i])) {
            close(held[i]);
            held[i] = 0;
        }
        if (held[i] <= 0) {
            held[i] = open_connection();
            said[i] = 0;
        }
        if (held[i] > 0 && drip && said[i] < sizeof(greeting) - 1)
            said[i] += put(held[i], &greeting[said[i]], 1);
    }
    poll(NULL, 0, 50);
}

static void half_open(const char *file)
{
    (void)file;
    hold(false);
}

static void slow_loris(const char *file)
{
    (void)file;
    hold(true);
}

/* Frames, and commands in the handshake, that are said to be 2 GiB long, or 2^63 bytes. */
static void huge_length(const char *file)
{
    static const uint8_t lengths[][8] = {
        {0, 0, 0, 0, 0x80, 0, 0, 0},
        {0, 0, 0, 0, 0x7f, 0xff, 0xff, 0xff},
        {0x7f, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff},
        {0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff},
    };
    uint32_t draw = rng_u32(&rng);
    uint8_t bytes[1000], flags = draw & 4 ? 2 /* long frame */ : 6 /* long command */;
    int connection = open_connection();

    (void)file;
    if (connection < 0)
        return;
    fill(bytes, sizeof(bytes));
    if (draw & 8)
        introduce(connection);
    else
        put(connection, greeting, sizeof(greeting));
    put(connection, &flags, 1);
    put(connection, lengths[draw % 4], 8);
    put(connection, bytes, sizeof(bytes));
    is_over(connection);
    close(connection);
}

/* Frames that are as long as they say, and longer than any may be. */
static void oversized(const char *file)
{
    static uint8_t bytes[8 << 20];
    static const uint8_t header[] = {2, 0, 0, 0, 0, 0, 0x80, 0, 0};
    int connection = open_connection();

    (void)file;
    if (connection < 0)
        return;
    if (introduce(connection) && put(connection, header, sizeof(header)))
        put(connection, bytes, sizeof(bytes));
    close(connection);
}

/* Sends `n` frames of one message each as fast as they are taken, then hangs up in the middle. */
static void flood(void (*make)(uint8_t *bytes, size_t *n_bytes), int n)
{
    static uint8_t bytes[MESSAGE_MAX_BYTES];
    int connection = open_connection();

    if (connection < 0)
        return;
    bool alive = introduce(connection);
    for (int i = 0; i < n && alive; i++) {
        uint8_t header[2] = {0, 0};
        size_t n_bytes;
        make(bytes, &n_bytes);
        header[1] = (uint8_t)n_bytes;
        alive = put(connection, header, 2) && put(connection, bytes, n_bytes);
        if (i % 100 == 0)
            is_over(connection);
    }
    close(connection);
}

static void make_hello(uint8_t *bytes, size_t *n_bytes)
{
    static struct message message;

    message = (struct message){.kind = MESSAGE_HELLO};
    message.hello = (struct message_hello){.version = WIRE_VERSION,
                                           .instance = rng_u32(&rng),
                                           .attempt = 1,
                                           .index_digest = rng_u32(&rng),
                                           .n_samples = 1000,
                                           .n_classes = 10,
                                           .credit = 16,
                                           .n_threads = 1};
    snprintf(message.hello.name, sizeof(message.hello.name), "attacker %u", rng_u32(&rng));
    *n_bytes = message_pack(&message, bytes);
}

static void make_random(uint8_t *bytes, size_t *n_bytes)
{
    *n_bytes = 1 + rng_u32(&rng) % 200;
    fill(bytes, *n_bytes);
}

static void hellos(const char *file)
{
    (void)file;
    flood(make_hello, 2000);
}

static void random_messages(const char *file)
{
    (void)file;
    flood(make_random, 2000);
}

/* A fresh pair of keys each time; sometimes even the right server's key would not help. */
static void wrong_keys(const char *file)
{
    static void *context;
    char endpoint[64], server[41] = "", public_half[41], secret[41], unused[41];
    int linger = 0;

    if (context == NULL)
        context = zmq_ctx_new();
    if (file != NULL)
        snprintf(server, sizeof(server), "%s", file);
    else
        zmq_curve_keypair(server, unused);
    zmq_curve_keypair(public_half, secret);
    snprintf(endpoint, sizeof(endpoint), "tcp://127.0.0.1:%d", ntohs(target.sin_port));
    void *sockets[8];
    for (int i = 0; i < 8; i++) {
        sockets[i] = zmq_socket(context, ZMQ_DEALER);
        zmq_setsockopt(sockets[i], ZMQ_LINGER, &linger, sizeof(linger));
        zmq_setsockopt(sockets[i], ZMQ_CURVE_SERVERKEY, server, 40);
        zmq_setsockopt(sockets[i], ZMQ_CURVE_PUBLICKEY, public_half, 40);
        zmq_setsockopt(sockets[i], ZMQ_CURVE_SECRETKEY, secret, 40);
        zmq_connect(sockets[i], endpoint);
        zmq_send(sockets[i], "hello", 5, ZMQ_DONTWAIT);
    }
    poll(NULL, 0, 100);
    for (int i = 0; i < 8; i++)
        zmq_close(sockets[i]);
}

/* What a genuine loader once sent, word for word. */
static void replay(const char *file)
{
    static char bytes[4 << 20];
    static ssize_t n = -1;
    int connection;

    if (n < 0) {
        int from = open(file, O_RDONLY | O_CLOEXEC);
        n = read(from, bytes, sizeof(bytes));
        if (n <= 0)
            exit(3);
    }
    connection = open_connection();
    if (connection < 0)
        return;
    for (ssize_t i = 0; i < n; i += 4096) {
        size_t left = (size_t)(n - i < 4096 ? n - i : 4096);
        if (!put(connection, bytes + i, left) || is_over(connection))
            break;
    }
    poll(NULL, 0, 20);
    close(connection);
}

int main(int argc, char **argv)
{
    static const struct {
        const char *name;
        void (*once)(const char *file);
    } kinds[] = {
        {"random_bytes", random_bytes}, {"half_open", half_open}, {"slow_loris", slow_loris},
        {"huge_length", huge_length},   {"oversized", oversized}, {"hellos", hellos},
        {"messages", random_messages},  {"keys", wrong_keys},     {"replay", replay},
    };
    const char *colon = argc > 2 ? strrchr(argv[1], ':') : NULL;

    prctl(PR_SET_PDEATHSIG, SIGKILL);
    if (colon == NULL)
        return 2;
    target.sin_family = AF_INET;
    target.sin_port = htons((uint16_t)atoi(colon + 1));
    target.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    rng = rng_open((struct rng_key){.seed = (uint64_t)getpid(), .purpose = RNG_TEST});
    for (size_t i = 0; i < sizeof(kinds) / sizeof(kinds[0]); i++)
        while (strcmp(kinds[i].name, argv[2]) == 0) {
            kinds[i].once(argc > 3 ? argv[3] : NULL);
            rest();
        }
    return 2;
}
