/* Times, memory and name of a CUDA device. */
#include "kernels/cuda_check.h"
#include "kernels/cuda_device.h"
#include "proto/base/memory.h"
#include "tests/bench/device_probe.h"

enum status accelerator_events_open(void **out, int n)
{
    cudaEvent_t *events;

    TRY(memory_alloc(&events, (size_t)n, sizeof(*events), "events"));
    *out = events;
    for (int i = 0; i < n; i++)
        CUDA_TRY(cudaEventCreate(&events[i]));
    return STATUS_OK;
}

void accelerator_events_close(void *events, int n)
{
    cudaEvent_t *all = events;

    for (int i = 0; i < n; i++)
        if (all[i] != NULL)
            (void)cudaEventDestroy(all[i]);
    memory_free(all);
}

enum status accelerator_event_record(void *events, int which, struct device *device)
{
    CUDA_TRY(cudaEventRecord(((cudaEvent_t *)events)[which], cuda_stream(device)));
    return STATUS_OK;
}

enum status accelerator_event_seconds(void *events, int from, int to, double *out)
{
    cudaEvent_t *all = events;
    float milliseconds = 0.0f;

    CUDA_TRY(cudaEventElapsedTime(&milliseconds, all[from], all[to]));
    *out = 1e-3 * (double)milliseconds;
    return STATUS_OK;
}

enum status accelerator_event_passed(void *events, int which, bool *out)
{
    cudaError_t error = cudaEventQuery(((cudaEvent_t *)events)[which]);

    if (error != cudaErrorNotReady)
        CUDA_TRY(error);
    else
        (void)cudaGetLastError(); /* where it would be taken for that of a launch */
    *out = error == cudaSuccess;
    return STATUS_OK;
}

enum status accelerator_memory_used(struct device *device, size_t *out)
{
    size_t free_bytes = 0, total_bytes = 0;

    (void)device;
    CUDA_TRY(cudaMemGetInfo(&free_bytes, &total_bytes));
    *out = total_bytes - free_bytes;
    return STATUS_OK;
}

const char *accelerator_name(const struct device *device)
{
    return cuda_device_of(device)->name;
}
