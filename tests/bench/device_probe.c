#include "tests/bench/device_probe.h"

#include <stdint.h>
#include <string.h>
#include <sys/resource.h>

#include "proto/base/clock.h"
#include "proto/base/memory.h"

struct device_timer {
    struct device *device;
    int n;
    int64_t *times_ns; /* CPU */
    void *events;      /* accelerator */
};

enum status device_timer_open(struct device_timer **out, struct device *device, int n)
{
    struct device_timer *timer;
    enum status status = STATUS_OK;

    TRY(memory_alloc(&timer, 1, sizeof(*timer), "timer"));
    timer->device = device;
    timer->n = n;
    if (device->kind == DEVICE_CPU)
        status = memory_alloc(&timer->times_ns, (size_t)n, sizeof(int64_t), "times");
    else
        status = accelerator_events_open(&timer->events, n);
    if (status != STATUS_OK)
        device_timer_close(&timer);
    *out = timer;
    return status;
}

void device_timer_close(struct device_timer **timer)
{
    if (timer == NULL || *timer == NULL)
        return;
    if ((*timer)->events != NULL)
        accelerator_events_close((*timer)->events, (*timer)->n);
    memory_free((*timer)->times_ns);
    memory_free(*timer);
    *timer = NULL;
}

enum status device_timer_mark(struct device_timer *timer, int which)
{
    CHECK(which >= 0 && which < timer->n, "mark %d of %d", which, timer->n);
    if (timer->events != NULL)
        return accelerator_event_record(timer->events, which, timer->device);
    timer->times_ns[which] = clock_monotonic_ns();
    return STATUS_OK;
}

enum status device_timer_seconds(const struct device_timer *timer, int from, int to, double *out)
{
    CHECK(from >= 0 && from < timer->n && to >= 0 && to < timer->n, "marks %d, %d of %d", from, to,
          timer->n);
    if (timer->events != NULL)
        return accelerator_event_seconds(timer->events, from, to, out);
    *out = 1e-9 * (double)(timer->times_ns[to] - timer->times_ns[from]);
    return STATUS_OK;
}

enum status device_timer_passed(const struct device_timer *timer, int which, bool *out)
{
    CHECK(which >= 0 && which < timer->n, "mark %d of %d", which, timer->n);
    if (timer->events != NULL)
        return accelerator_event_passed(timer->events, which, out);
    *out = true;
    return STATUS_OK;
}

enum status device_memory_used(struct device *device, size_t *out)
{
    struct rusage usage;

    if (device->kind != DEVICE_CPU)
        return accelerator_memory_used(device, out);
    getrusage(RUSAGE_SELF, &usage);
    *out = (size_t)usage.ru_maxrss * 1024;
    return STATUS_OK;
}

const char *device_name(const struct device *device)
{
    return device->kind == DEVICE_CPU ? "cpu" : accelerator_name(device);
}
