/* A build without accelerators opens none, so nobody gets here. */
#include "tests/bench/device_probe.h"

enum status accelerator_events_open(void **out, int n)
{
    (void)out;
    (void)n;
    FAIL(STATUS_UNSUPPORTED, "this build has no accelerator to time");
}

void accelerator_events_close(void *events, int n)
{
    (void)events;
    (void)n;
}

enum status accelerator_event_record(void *events, int which, struct device *device)
{
    (void)events;
    (void)which;
    (void)device;
    FAIL(STATUS_UNSUPPORTED, "this build has no accelerator to time");
}

enum status accelerator_event_seconds(void *events, int from, int to, double *out)
{
    (void)events;
    (void)from;
    (void)to;
    (void)out;
    FAIL(STATUS_UNSUPPORTED, "this build has no accelerator to time");
}

enum status accelerator_event_passed(void *events, int which, bool *out)
{
    (void)events;
    (void)which;
    (void)out;
    FAIL(STATUS_UNSUPPORTED, "this build has no accelerator to time");
}

enum status accelerator_memory_used(struct device *device, size_t *out)
{
    (void)device;
    (void)out;
    FAIL(STATUS_UNSUPPORTED, "this build has no accelerator");
}

const char *accelerator_name(const struct device *device)
{
    (void)device;
    return "none";
}
