/* Times of work on a device. */
#include "kernels/tuning_clock.h"

#include <stdlib.h>

#include "kernels/cuda_check.h"

enum status tuning_clock_open(struct tuning_clock *clock, struct device *device)
{
    int cache_bytes = 0;

    *clock = (struct tuning_clock){.stream = cuda_stream(device)};
    CUDA_TRY(cudaDeviceSynchronize());
    CUDA_TRY(cudaEventCreate(&clock->start));
    CUDA_TRY(cudaEventCreate(&clock->end));
    CUDA_TRY(cudaDeviceGetAttribute(&cache_bytes, cudaDevAttrL2CacheSize,
                                    cuda_device_of(device)->ordinal));
    clock->sweep_bytes = 2 * (size_t)cache_bytes;
    return device->alloc(device, &clock->sweep, clock->sweep_bytes, "measuring kernels");
}

void tuning_clock_close(struct tuning_clock *clock)
{
    (void)cudaFree(clock->sweep);
    if (clock->start != NULL)
        (void)cudaEventDestroy(clock->start);
    if (clock->end != NULL)
        (void)cudaEventDestroy(clock->end);
    *clock = (struct tuning_clock){0};
}

enum status tuning_clock_time(const struct tuning_clock *clock, const struct tuning_work *work,
                              int which, float *ms)
{
    bool ran = true;

    *ms = -1.0f;
    CUDA_TRY(cudaMemsetAsync(clock->sweep, 0, clock->sweep_bytes, clock->stream));
    CUDA_TRY(cudaEventRecord(clock->start, clock->stream));
    TRY(work->run(work->context, which, &ran));
    if (!ran)
        return STATUS_OK;
    CUDA_TRY(cudaEventRecord(clock->end, clock->stream));
    CUDA_TRY(cudaEventSynchronize(clock->end));
    CUDA_TRY(cudaEventElapsedTime(ms, clock->start, clock->end));
    return STATUS_OK;
}

static int by_value(const void *a, const void *b)
{
    float x = *(const float *)a, y = *(const float *)b;
    return (x > y) - (x < y);
}

enum status tuning_clock_medians(const struct tuning_clock *clock, const struct tuning_work *work,
                                 int n, float *median_ms)
{
    float ms[TUNING_MOST][TUNING_ROUNDS];

    CHECK(n <= TUNING_MOST);
    for (int round = 0; round < TUNING_ROUNDS; round++)
        for (int i = 0; i < n; i++)
            TRY(tuning_clock_time(clock, work, i, &ms[i][round]));
    for (int i = 0; i < n; i++) {
        qsort(ms[i], TUNING_ROUNDS, sizeof(ms[i][0]), by_value);
        median_ms[i] = ms[i][TUNING_ROUNDS / 2];
    }
    return STATUS_OK;
}
