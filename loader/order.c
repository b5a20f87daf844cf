/* Permutations, and a cache of those in use: each consumer has the end of one epoch and the start
 * of the next, and consumers of different runs have different ones. Making one takes long enough
 * (half a second for 14 million samples) that they must not displace each other. */
#include "loader/order.h"

#include <pthread.h>

#include "proto/base/memory.h"
#include "proto/base/rng.h"

enum {
    KEPT = 2,          /* orders that stay, used or not */
    MAX_CACHED = 128,  /* two for each consumer that a loader can have */
    IDLE_USES = 65536, /* of others, since its own last one: then its place may be taken */
};

struct cached_order {
    uint32_t *samples;   /* NULL: it could not be made */
    uint64_t seed, used; /* used: the number of its last use */
    int32_t epoch;
};

struct order {
    pthread_mutex_t lock;
    uint32_t n;      /* immutable */
    uint64_t n_uses; /* guarded by lock, as all below */
    uint64_t n_made;
    int n_cached;
    struct cached_order cached[MAX_CACHED];
};

void order_permutation(uint64_t seed, int32_t epoch, uint32_t n, uint32_t *out)
{
    struct mt19937 generator;

    mt19937_init(&generator, (uint32_t)(seed + (uint64_t)epoch));
    for (uint32_t i = 0; i < n; i++)
        out[i] = i;
    for (uint32_t i = 0; i + 1 < n; i++) {
        uint32_t j = i + mt19937_u32(&generator) % (n - i), value = out[i];
        out[i] = out[j];
        out[j] = value;
    }
}

enum status order_open(struct order **out, uint32_t n_samples)
{
    struct order *order;

    if (n_samples == 0)
        FAIL(STATUS_INVALID, "an order of no samples");
    TRY(memory_alloc(&order, 1, sizeof(*order), "order"));
    pthread_mutex_init(&order->lock, NULL);
    order->n = n_samples;
    *out = order;
    return STATUS_OK;
}

/* A place for one more: a new one while all others are in use, else that of the one that was not
 * used for longest. Lock held. */
static struct cached_order *find_place(struct order *order)
{
    struct cached_order *oldest = &order->cached[0];

    for (int i = 1; i < order->n_cached; i++)
        if (order->cached[i].used < oldest->used)
            oldest = &order->cached[i];
    bool idle = order->n_cached >= KEPT && order->n_uses - oldest->used >= IDLE_USES;
    return idle || order->n_cached == MAX_CACHED ? oldest : &order->cached[order->n_cached++];
}

/* The order of an epoch, made if need be. Lock held. */
static enum status find(struct order *order, uint64_t seed, int32_t epoch, uint32_t **samples)
{
    for (int i = 0; i < order->n_cached; i++) {
        struct cached_order *one = &order->cached[i];
        if (one->samples == NULL || one->seed != seed || one->epoch != epoch)
            continue;
        one->used = ++order->n_uses;
        *samples = one->samples;
        return STATUS_OK;
    }
    struct cached_order *place = find_place(order);
    if (place->samples == NULL)
        TRY(memory_alloc(&place->samples, order->n, sizeof(uint32_t), "order of an epoch"));
    order_permutation(seed, epoch, order->n, place->samples);
    order->n_made++;
    place->seed = seed;
    place->epoch = epoch;
    place->used = ++order->n_uses;
    *samples = place->samples;
    return STATUS_OK;
}

enum status order_sample(struct order *order, bool shuffle, uint64_t seed, int32_t epoch,
                         uint64_t position, uint32_t *sample)
{
    uint32_t *samples;

    if (!shuffle) {
        *sample = (uint32_t)(position % order->n);
        return STATUS_OK;
    }
    pthread_mutex_lock(&order->lock);
    enum status status = find(order, seed, epoch, &samples);
    if (status == STATUS_OK)
        *sample = samples[position % order->n];
    pthread_mutex_unlock(&order->lock);
    return status;
}

uint64_t order_n_made(struct order *order)
{
    pthread_mutex_lock(&order->lock);
    uint64_t n = order->n_made;
    pthread_mutex_unlock(&order->lock);
    return n;
}

void order_close(struct order **pointer)
{
    struct order *order = pointer != NULL ? *pointer : NULL;

    if (order == NULL)
        return;
    for (int i = 0; i < order->n_cached; i++)
        memory_free(order->cached[i].samples);
    pthread_mutex_destroy(&order->lock);
    memory_free(order);
    *pointer = NULL;
}
