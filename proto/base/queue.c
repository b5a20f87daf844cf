/* Bounded queue: one mutex, two conditions on the monotonic clock. */
#include "proto/base/queue.h"

#include <pthread.h>
#include <time.h>

#include "proto/base/memory.h"

struct queue {
    pthread_mutex_t lock;
    pthread_cond_t not_empty, not_full;
    size_t capacity; /* immutable after open */
    size_t first, n; /* guarded by lock */
    bool shut;       /* guarded by lock */
    void *items[];   /* ring, guarded by lock */
};

enum status queue_open(struct queue **out, size_t capacity)
{
    struct queue *queue;
    pthread_condattr_t attributes;

    CHECK(capacity > 0, "a queue holds at least one item");
    TRY(memory_alloc(&queue, 1, sizeof(*queue) + capacity * sizeof(void *), "queue"));
    queue->capacity = capacity;
    pthread_mutex_init(&queue->lock, NULL);
    pthread_condattr_init(&attributes);
    pthread_condattr_setclock(&attributes, CLOCK_MONOTONIC);
    pthread_cond_init(&queue->not_empty, &attributes);
    pthread_cond_init(&queue->not_full, &attributes);
    pthread_condattr_destroy(&attributes);
    *out = queue;
    return STATUS_OK;
}

/* Waits on a condition until the deadline; false when it passed. Lock held. */
static bool wait_until(struct queue *queue, pthread_cond_t *condition, int64_t deadline_ns)
{
    if (deadline_ns == INT64_MAX)
        return pthread_cond_wait(condition, &queue->lock) == 0;
    struct timespec when = {.tv_sec = (time_t)(deadline_ns / 1000000000),
                            .tv_nsec = (long)(deadline_ns % 1000000000)};
    return deadline_ns > 0 && pthread_cond_timedwait(condition, &queue->lock, &when) == 0;
}

enum status queue_push(struct queue *queue, void *item, int64_t deadline_ns)
{
    enum status status = STATUS_OK;

    pthread_mutex_lock(&queue->lock);
    while (!queue->shut && queue->n == queue->capacity && status == STATUS_OK)
        if (!wait_until(queue, &queue->not_full, deadline_ns))
            status = STATUS_TIMEOUT;
    if (queue->shut) {
        status = STATUS_CLOSED;
    } else if (queue->n < queue->capacity) {
        queue->items[(queue->first + queue->n++) % queue->capacity] = item;
        pthread_cond_signal(&queue->not_empty);
        status = STATUS_OK;
    }
    pthread_mutex_unlock(&queue->lock);
    return status == STATUS_OK ? status : status_set(status, "queue: %s", status_name(status));
}

enum status queue_pop(struct queue *queue, void **item, int64_t deadline_ns)
{
    enum status status = STATUS_OK;

    pthread_mutex_lock(&queue->lock);
    while (!queue->shut && queue->n == 0 && status == STATUS_OK)
        if (!wait_until(queue, &queue->not_empty, deadline_ns))
            status = STATUS_TIMEOUT;
    if (queue->n > 0) {
        *item = queue->items[queue->first];
        queue->first = (queue->first + 1) % queue->capacity;
        queue->n--;
        pthread_cond_signal(&queue->not_full);
        status = STATUS_OK;
    } else if (queue->shut) {
        status = STATUS_CLOSED;
    }
    pthread_mutex_unlock(&queue->lock);
    return status == STATUS_OK ? status : status_set(status, "queue: %s", status_name(status));
}

void queue_shut(struct queue *queue)
{
    pthread_mutex_lock(&queue->lock);
    queue->shut = true;
    pthread_cond_broadcast(&queue->not_empty);
    pthread_cond_broadcast(&queue->not_full);
    pthread_mutex_unlock(&queue->lock);
}

size_t queue_length(struct queue *queue)
{
    pthread_mutex_lock(&queue->lock);
    size_t n = queue->n;
    pthread_mutex_unlock(&queue->lock);
    return n;
}

void queue_close(struct queue **queue)
{
    if (queue == NULL || *queue == NULL)
        return;
    pthread_mutex_destroy(&(*queue)->lock);
    pthread_cond_destroy(&(*queue)->not_empty);
    pthread_cond_destroy(&(*queue)->not_full);
    memory_free(*queue);
    *queue = NULL;
}
