/* A clock for each consumer: the time its slices have taken, in nanoseconds. While a slice is under
 * way its clock has what slices of that weight usually take, so that threads that come at the same
 * time do not all choose the same consumer. */
#include "loader/turns.h"

#include <pthread.h>

#include "proto/base/memory.h"

struct item {
    void *item;
    int64_t weight;
};

struct consumer {
    struct item *items; /* ring of `capacity` */
    size_t first, n;
    int64_t clock_ns;
    int64_t usual_ns; /* for a weight of one: running mean */
    int32_t n_out;    /* handed out, not yet spent */
};

struct turns {
    pthread_mutex_t lock;
    pthread_cond_t filled;
    bool shut;
    int n_consumers; /* immutable after open, as the next */
    size_t capacity;
    int64_t now_ns; /* clock of the consumer that had its turn last */
    int last;       /* that one: ties go round */
    struct consumer consumers[];
};

enum status turns_open(struct turns **out, int n_consumers, size_t capacity)
{
    struct turns *turns = NULL;
    enum status status;

    CHECK(n_consumers > 0 && capacity > 0);
    TRY(memory_alloc(&turns, 1, sizeof(*turns) + (size_t)n_consumers * sizeof(struct consumer),
                     "consumers"));
    pthread_mutex_init(&turns->lock, NULL);
    pthread_cond_init(&turns->filled, NULL);
    turns->n_consumers = n_consumers;
    turns->capacity = capacity;
    for (int i = 0; i < n_consumers; i++)
        TRY_OUT(memory_alloc(&turns->consumers[i].items, capacity, sizeof(struct item),
                             "waiting slices"));
out:
    if (status == STATUS_OK)
        *out = turns;
    else
        turns_close(&turns);
    return status;
}

enum status turns_push(struct turns *turns, int number, void *item, int64_t weight)
{
    CHECK(number >= 0 && number < turns->n_consumers && weight > 0);
    struct consumer *consumer = &turns->consumers[number];

    pthread_mutex_lock(&turns->lock);
    bool shut = turns->shut;
    if (!shut) {
        CHECK(consumer->n < turns->capacity, "more slices than the consumer has credit for");
        if (consumer->n == 0 && consumer->n_out == 0 && consumer->clock_ns < turns->now_ns)
            consumer->clock_ns = turns->now_ns;
        consumer->items[(consumer->first + consumer->n++) % turns->capacity] =
            (struct item){item, weight};
        pthread_cond_signal(&turns->filled);
    }
    pthread_mutex_unlock(&turns->lock);
    return shut ? status_set(STATUS_CLOSED, "the loader is stopping") : STATUS_OK;
}

/* Lock held. NULL: nobody waits. */
static struct consumer *choose(struct turns *turns)
{
    struct consumer *best = NULL;

    for (int k = 1; k <= turns->n_consumers; k++) {
        int i = (turns->last + k) % turns->n_consumers;
        struct consumer *consumer = &turns->consumers[i];
        if (consumer->n > 0 && (best == NULL || consumer->clock_ns < best->clock_ns))
            best = consumer;
    }
    return best;
}

/* Lock held. */
static struct item take_first(struct turns *turns, struct consumer *consumer)
{
    struct item item = consumer->items[consumer->first];

    consumer->first = (consumer->first + 1) % turns->capacity;
    consumer->n--;
    return item;
}

enum status turns_pop(struct turns *turns, struct turn *out)
{
    struct consumer *chosen;

    pthread_mutex_lock(&turns->lock);
    while ((chosen = choose(turns)) == NULL && !turns->shut)
        pthread_cond_wait(&turns->filled, &turns->lock);
    if (!turns->shut) {
        struct item first = take_first(turns, chosen);
        turns->now_ns = chosen->clock_ns;
        turns->last = (int)(chosen - turns->consumers);
        *out = (struct turn){.item = first.item,
                             .consumer = turns->last,
                             .weight = first.weight,
                             .expected_ns = chosen->usual_ns * first.weight};
        chosen->clock_ns += out->expected_ns;
        chosen->n_out++;
    }
    bool shut = turns->shut;
    pthread_mutex_unlock(&turns->lock);
    return shut ? status_set(STATUS_CLOSED, "the loader is stopping") : STATUS_OK;
}

void turns_spent(struct turns *turns, const struct turn *turn, int64_t ns)
{
    struct consumer *consumer = &turns->consumers[turn->consumer];
    int64_t each_ns = ns / turn->weight;

    pthread_mutex_lock(&turns->lock);
    CHECK(consumer->n_out > 0);
    consumer->n_out--;
    consumer->clock_ns += ns - turn->expected_ns;
    consumer->usual_ns += consumer->usual_ns == 0 ? each_ns : (each_ns - consumer->usual_ns) / 8;
    pthread_mutex_unlock(&turns->lock);
}

void turns_shut(struct turns *turns)
{
    pthread_mutex_lock(&turns->lock);
    turns->shut = true;
    pthread_cond_broadcast(&turns->filled);
    pthread_mutex_unlock(&turns->lock);
}

bool turns_left(struct turns *turns, void **item)
{
    pthread_mutex_lock(&turns->lock);
    CHECK(turns->shut, "after turns_shut");
    struct consumer *consumer = choose(turns);
    if (consumer != NULL)
        *item = take_first(turns, consumer).item;
    pthread_mutex_unlock(&turns->lock);
    return consumer != NULL;
}

void turns_close(struct turns **address)
{
    struct turns *turns = address != NULL ? *address : NULL;

    if (turns == NULL)
        return;
    for (int i = 0; i < turns->n_consumers; i++)
        memory_free(turns->consumers[i].items);
    pthread_cond_destroy(&turns->filled);
    pthread_mutex_destroy(&turns->lock);
    memory_free(turns);
    *address = NULL;
}
