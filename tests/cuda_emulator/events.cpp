/* Events, and copies between host and device. */
#include <stdint.h>
#include <string.h>
#include <time.h>

#include <algorithm>

#include "tests/cuda_emulator/graph.h"
#include "tests/cuda_emulator/memory.h"
#include "tests/cuda_emulator/report.h"
#include "tests/cuda_emulator/runtime.h"

using namespace emulator;

static std::vector<CUevent_st *> &events = *new std::vector<CUevent_st *>; /* outlives all */

static bool is_event(cudaEvent_t event)
{
    return std::find(events.begin(), events.end(), event) != events.end();
}

static uint64_t now_ns()
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
}

cudaError_t cudaEventCreateWithFlags(cudaEvent_t *event, unsigned flags)
{
    runtime_lock lock;

    if (event == nullptr || flags > 7)
        return refuse(cudaErrorInvalidValue, "cudaEventCreate: flags %u", flags);
    events.push_back(*event = new CUevent_st);
    (*event)->flags = flags;
    (*event)->device = current_device();
    return cudaSuccess;
}

cudaError_t cudaEventCreate(cudaEvent_t *event)
{
    return cudaEventCreateWithFlags(event, cudaEventDefault);
}

cudaError_t cudaEventDestroy(cudaEvent_t event)
{
    runtime_lock lock;

    if (!is_event(event))
        return refuse(cudaErrorInvalidResourceHandle, "cudaEventDestroy: no such event");
    events.erase(std::find(events.begin(), events.end(), event));
    delete event;
    return cudaSuccess;
}

cudaError_t cudaEventRecord(cudaEvent_t event, cudaStream_t stream)
{
    runtime_lock lock;

    if (!is_event(event) || !is_stream(stream))
        return refuse(cudaErrorInvalidResourceHandle, "cudaEventRecord: no such event or stream");
    CUstream_st *s = stream_of(stream);
    if (event->device != s->device)
        return refuse(cudaErrorInvalidResourceHandle,
                      "cudaEventRecord: an event of device %d, a stream of device %d",
                      event->device, s->device);
    if (stream == nullptr)
        if (cudaError_t error = forbid_implicit("cudaEventRecord"))
            return error;
    event->recorded = true;
    event->recording = nullptr;
    if (s->recording != nullptr)
        return record_event(event, s);
    if ((event->flags & cudaEventDisableTiming) == 0) {
        event->time_ns = std::make_shared<uint64_t>(0);
        (void)queue(stream, "an event", [time_ns = event->time_ns] { *time_ns = now_ns(); });
    }
    event->place = {s, s->n_queued};
    return cudaSuccess;
}

cudaError_t cudaStreamWaitEvent(cudaStream_t stream, cudaEvent_t event, unsigned flags)
{
    runtime_lock lock;

    if (!is_event(event) || !is_stream(stream))
        return refuse(cudaErrorInvalidResourceHandle,
                      "cudaStreamWaitEvent: no such event or stream");
    if (flags != 0)
        return refuse(cudaErrorInvalidValue, "cudaStreamWaitEvent: flags %u", flags);
    if (!event->recorded)
        fail("cudaStreamWaitEvent: the event was never recorded, so nothing is waited for");
    CUstream_st *s = stream_of(stream);
    if (s->recording != nullptr || event->recording != nullptr)
        return wait_for_captured(s, event);
    if (stream == nullptr)
        if (cudaError_t error = forbid_implicit("cudaStreamWaitEvent"))
            return error;
    if (event->place.stream != s)
        queue_wait(s, event->place);
    return cudaSuccess;
}

cudaError_t cudaEventSynchronize(cudaEvent_t event)
{
    runtime_lock lock;

    if (!is_event(event))
        return refuse(cudaErrorInvalidResourceHandle, "cudaEventSynchronize: no such event");
    if (cudaError_t error = forbid_captured(event, "cudaEventSynchronize"))
        return error;
    if (cudaError_t error = forbid_in_capture("cudaEventSynchronize"))
        return error;
    finish(event->place);
    return cudaSuccess;
}

cudaError_t cudaEventQuery(cudaEvent_t event)
{
    runtime_attempt attempt;

    if (!attempt.locked)
        return remember(cudaErrorNotReady);
    if (!is_event(event))
        return refuse(cudaErrorInvalidResourceHandle, "cudaEventQuery: no such event");
    if (cudaError_t error = forbid_captured(event, "cudaEventQuery"))
        return error;
    if (cudaError_t error = forbid_in_capture("cudaEventQuery"))
        return error;
    return poll(event->place) ? cudaSuccess : remember(cudaErrorNotReady);
}

cudaError_t cudaEventElapsedTime(float *milliseconds, cudaEvent_t start, cudaEvent_t end)
{
    runtime_lock lock;

    if (!is_event(start) || !is_event(end))
        return refuse(cudaErrorInvalidResourceHandle, "cudaEventElapsedTime: no such event");
    for (const CUevent_st *event : {start, end})
        if (cudaError_t error = forbid_captured(event, "cudaEventElapsedTime"))
            return error;
    if (!start->recorded || !end->recorded ||
        ((start->flags | end->flags) & cudaEventDisableTiming) != 0)
        return refuse(cudaErrorInvalidResourceHandle,
                      "cudaEventElapsedTime: not recorded, or made without timing");
    if (start->place.stream->n_done < start->place.n || end->place.stream->n_done < end->place.n)
        return remember(cudaErrorNotReady);
    *milliseconds = (float)((double)(int64_t)(*end->time_ns - *start->time_ns) * 1e-6);
    return cudaSuccess;
}

/* ------------------------------------------------------------------------------ copies */

static const char *const kind_names[] = {"host to host", "host to device", "device to host",
                                         "device to device", "by address"};

/* Does one side of a copy lie where the kind says? */
static cudaError_t check_side(const char *call, const char *side, const void *pointer, size_t bytes,
                              bool on_device, enum cudaMemcpyKind kind)
{
    if (on_device) {
        if (const char *wrong = device_range_error(pointer, bytes))
            return refuse(cudaErrorInvalidValue, "%s, %s: the %s %p %s", call, kind_names[kind],
                          side, pointer, wrong);
        return cudaSuccess;
    }
    if (pointer == nullptr || is_device_address(pointer))
        return refuse(cudaErrorInvalidValue, "%s, %s: the %s %p is %s", call, kind_names[kind],
                      side, pointer, pointer == nullptr ? "null" : "device memory");
    const allocation *pinned = find_pinned(pointer);
    if (pinned != nullptr && (const char *)pointer + bytes > pinned->base + pinned->bytes)
        return refuse(cudaErrorInvalidValue,
                      "%s, %s: the %s ends past a pinned allocation of %zu bytes", call,
                      kind_names[kind], side, pinned->bytes);
    return cudaSuccess;
}

struct rows {
    size_t to_pitch, from_pitch, width, height;
};

static void copy_rows(char *to, const char *from, const rows &shape)
{
    for (size_t i = 0; i < shape.height; i++)
        memmove(to + i * shape.to_pitch, from + i * shape.from_pitch, shape.width);
}

static bool overlap(const void *a, const void *b, size_t bytes)
{
    uintptr_t first = (uintptr_t)a, second = (uintptr_t)b;
    return first < second + bytes && second < first + bytes;
}

static cudaError_t copy(const char *call, void *to, const void *from, const rows &shape,
                        enum cudaMemcpyKind kind, cudaStream_t stream)
{
    if (!is_stream(stream))
        return refuse(cudaErrorInvalidResourceHandle, "%s: no such stream", call);
    if (kind < cudaMemcpyHostToHost || kind > cudaMemcpyDefault)
        return refuse(cudaErrorInvalidMemcpyDirection, "%s: kind %d", call, (int)kind);
    if (shape.width == 0 || shape.height == 0)
        return cudaSuccess;
    if (shape.width > shape.to_pitch || shape.width > shape.from_pitch)
        return refuse(cudaErrorInvalidValue, "%s: rows of %zu bytes overlap", call, shape.width);
    bool to_device = kind == cudaMemcpyDefault
                         ? is_device_address(to)
                         : kind == cudaMemcpyHostToDevice || kind == cudaMemcpyDeviceToDevice;
    bool from_device = kind == cudaMemcpyDefault
                           ? is_device_address(from)
                           : kind == cudaMemcpyDeviceToHost || kind == cudaMemcpyDeviceToDevice;
    size_t last = shape.height - 1;
    if (cudaError_t error = check_side(call, "destination", to, last * shape.to_pitch + shape.width,
                                       to_device, kind))
        return error;
    if (cudaError_t error = check_side(call, "source", from, last * shape.from_pitch + shape.width,
                                       from_device, kind))
        return error;
    CUstream_st *s = stream_of(stream);
    if (to_device && from_device && last == 0 && overlap(to, from, shape.width))
        fail("%s: %zu bytes from %p to %p, which overlap", call, shape.width, from, to);
    const void *host = to_device ? from : to;
    bool between = to_device != from_device;
    bool pageable = (!to_device && find_pinned(to) == nullptr) ||
                    (!from_device && find_pinned(from) == nullptr);
    if (pageable && s->recording != nullptr)
        if (cudaError_t error = forbid_in_capture("a copy of host memory that is not pinned"))
            return error;
    if (cudaError_t error = queue(stream, call, [=] {
            if (between && !pageable && find_pinned(host) == nullptr)
                fail("%s, %s: the pinned memory at %p has been freed since it was queued or "
                     "recorded",
                     call, kind_names[kind], host);
            copy_rows(static_cast<char *>(to), static_cast<const char *>(from), shape);
        }))
        return error;
    if (pageable) /* such copies are done when the call returns */
        finish({s, s->n_queued});
    return cudaSuccess;
}

cudaError_t cudaMemcpyAsync(void *to, const void *from, size_t bytes, enum cudaMemcpyKind kind,
                            cudaStream_t stream)
{
    runtime_lock lock;
    return copy("cudaMemcpyAsync", to, from, {bytes, bytes, bytes, 1}, kind, stream);
}

cudaError_t cudaMemcpy2DAsync(void *to, size_t to_pitch, const void *from, size_t from_pitch,
                              size_t width, size_t height, enum cudaMemcpyKind kind,
                              cudaStream_t stream)
{
    runtime_lock lock;
    return copy("cudaMemcpy2DAsync", to, from, {to_pitch, from_pitch, width, height}, kind, stream);
}

cudaError_t cudaMemcpy(void *to, const void *from, size_t bytes, enum cudaMemcpyKind kind)
{
    runtime_lock lock;

    if (cudaError_t error = forbid_in_capture("cudaMemcpy"))
        return error;
    if (cudaError_t error = copy("cudaMemcpy", to, from, {bytes, bytes, bytes, 1}, kind, nullptr))
        return error;
    CUstream_st *s = stream_of(nullptr);
    finish({s, s->n_queued});
    return cudaSuccess;
}

cudaError_t cudaMemsetAsync(void *pointer, int value, size_t bytes, cudaStream_t stream)
{
    runtime_lock lock;

    if (bytes == 0)
        return cudaSuccess;
    if (const char *wrong = device_range_error(pointer, bytes))
        return refuse(cudaErrorInvalidValue, "cudaMemsetAsync: %p %s", pointer, wrong);
    return queue(stream, "cudaMemsetAsync", [=] { memset(pointer, value, bytes); });
}

cudaError_t cudaMemset(void *pointer, int value, size_t bytes)
{
    runtime_lock lock;

    if (cudaError_t error = forbid_in_capture("cudaMemset"))
        return error;
    return cudaMemsetAsync(pointer, value, bytes, nullptr);
}
