/* Permutations, and a cache of two epochs (the end of one and the start of the next). */
#include "loader/order.h"

#include <pthread.h>

#include "proto/base/memory.h"
#include "proto/base/rng.h"

enum { N_CACHED = 2 };

struct cached_order {
    uint32_t *samples; /* NULL: free */
    uint64_t seed, used;
    int32_t epoch;
};

struct order {
    pthread_mutex_t lock;
    uint32_t n;      /* immutable */
    uint64_t n_uses; /* guarded by lock, as all below */
    struct cached_order cached[N_CACHED];
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

/* The cache slot of an epoch, filled if need be. Lock held. */
static enum status find(struct order *order, uint64_t seed, int32_t epoch, uint32_t **samples)
{
    struct cached_order *oldest = &order->cached[0];

    for (int i = 0; i < N_CACHED; i++) {
        struct cached_order *slot = &order->cached[i];
        if (slot->samples != NULL && slot->used > 0 && slot->seed == seed && slot->epoch == epoch) {
            slot->used = ++order->n_uses;
            *samples = slot->samples;
            return STATUS_OK;
        }
        oldest = slot->used < oldest->used ? slot : oldest;
    }
    if (oldest->samples == NULL)
        TRY(memory_alloc(&oldest->samples, order->n, sizeof(uint32_t), "order of an epoch"));
    order_permutation(seed, epoch, order->n, oldest->samples);
    oldest->seed = seed;
    oldest->epoch = epoch;
    oldest->used = ++order->n_uses;
    *samples = oldest->samples;
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

void order_close(struct order **pointer)
{
    struct order *order = pointer != NULL ? *pointer : NULL;

    if (order == NULL)
        return;
    for (int i = 0; i < N_CACHED; i++)
        memory_free(order->cached[i].samples);
    pthread_mutex_destroy(&order->lock);
    memory_free(order);
    *pointer = NULL;
}
