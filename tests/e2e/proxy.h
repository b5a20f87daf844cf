/* A bad network between a loader and its consumer: a TCP proxy on loopback, a thread of its own,
 * whose manners can be changed at any moment. */
#ifndef IBOT_TESTS_E2E_PROXY_H
#define IBOT_TESTS_E2E_PROXY_H

#include <stddef.h>
#include <stdint.h>

enum proxy_manner {
    PROXY_PASS,
    PROXY_HOLD,   /* nothing moves, nobody is told: a cable pulled out */
    PROXY_REFUSE, /* connections end, new ones end at once */
    PROXY_FLIP,   /* now and then a bit changes on the way to the consumer */
};

struct proxy; /* opaque: a thread */

/* `target`: tcp://127.0.0.1:port. Fails the test when it can't. */
struct proxy *proxy_open(const char *target, uint32_t seed);

/* Where a loader connects to: tcp://127.0.0.1:port. Borrowed until close. */
const char *proxy_endpoint(const struct proxy *proxy);

void proxy_behave(struct proxy *proxy, enum proxy_manner manner);

/* Keeps what loaders say in a file, word for word; before any loader connects. */
void proxy_keep(struct proxy *proxy, const char *path);

/* Bits changed so far. */
uint64_t proxy_flipped(const struct proxy *proxy);

/* Takes the address and nulls it. */
void proxy_close(struct proxy **proxy);

#endif
