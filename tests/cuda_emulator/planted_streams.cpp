/* Streams, events, captures and graphs: right, and each wrong in one way. */
#include <math.h>
#include <pthread.h>
#include <stdint.h>

#include "tests/cuda_emulator/planted.h"

enum { N = 64 };

struct streams {
    cudaStream_t first, second;
    cudaEvent_t event;
    float *pinned, *on_device, *out;
};

static streams open_streams()
{
    streams s;
    void *pinned, *out;
    DONE(cudaStreamCreateWithFlags(&s.first, cudaStreamNonBlocking));
    DONE(cudaStreamCreateWithFlags(&s.second, cudaStreamNonBlocking));
    DONE(cudaEventCreateWithFlags(&s.event, cudaEventDisableTiming));
    DONE(cudaMallocHost(&pinned, N * sizeof(float)));
    DONE(cudaMallocHost(&out, N * sizeof(float)));
    s.pinned = static_cast<float *>(pinned);
    s.out = static_cast<float *>(out);
    s.on_device = device_array<float>(N);
    for (int i = 0; i < N; i++)
        s.pinned[i] = (float)i;
    return s;
}

static void copy_through(const streams &s, bool wait)
{
    DONE(
        cudaMemcpyAsync(s.on_device, s.pinned, N * sizeof(float), cudaMemcpyHostToDevice, s.first));
    DONE(cudaEventRecord(s.event, s.first));
    if (wait)
        DONE(cudaStreamWaitEvent(s.second, s.event, 0));
    DONE(cudaMemcpyAsync(s.out, s.on_device, N * sizeof(float), cudaMemcpyDeviceToHost, s.second));
}

static void streams_wait()
{
    streams s = open_streams();
    copy_through(s, true);
    DONE(cudaStreamSynchronize(s.second));
    MUST(s.out[5] == 5.0f);
}

/* Runs many times: each seed must see it, not every order. */
static void streams_do_not_wait()
{
    for (int i = 0; i < 20; i++) {
        streams s = open_streams();
        copy_through(s, false);
        DONE(cudaDeviceSynchronize());
        MUST(s.out[5] == 5.0f);
    }
}

static void host_changes_what_is_being_copied()
{
    streams s = open_streams();
    copy_through(s, true);
    s.pinned[5] = 7.0f;
    DONE(cudaDeviceSynchronize());
    MUST(s.out[5] == 5.0f);
}

static void wait_for_an_event_never_recorded()
{
    streams s = open_streams();
    (void)cudaStreamWaitEvent(s.second, s.event, 0);
}

static cudaGraphExec_t end_capture(cudaStream_t stream)
{
    cudaGraph_t graph;
    cudaGraphExec_t executable;
    DONE(cudaStreamEndCapture(stream, &graph));
    DONE(cudaGraphInstantiate(&executable, graph, 0));
    DONE(cudaGraphDestroy(graph));
    return executable;
}

static void graph_right()
{
    streams s = open_streams();
    cudaEvent_t join;
    DONE(cudaEventCreateWithFlags(&join, cudaEventDisableTiming));
    DONE(cudaStreamBeginCapture(s.first, cudaStreamCaptureModeThreadLocal));
    copy_through(s, true);
    DONE(cudaEventRecord(join, s.second));
    DONE(cudaStreamWaitEvent(s.first, join, 0));
    cudaGraphExec_t graph = end_capture(s.first);
    MUST(isnan(s.out[5])); /* recorded, not run */
    for (int i = 0; i < 3; i++) {
        s.pinned[5] = (float)(10 + i);
        DONE(cudaGraphLaunch(graph, s.second));
        DONE(cudaStreamSynchronize(s.second));
        MUST(s.out[5] == (float)(10 + i));
    }
    DONE(cudaGraphExecDestroy(graph));
}

/* What a graph recorded is used whenever it is launched. */
static void graph_outlives_its_memory()
{
    streams s = open_streams();
    DONE(cudaStreamBeginCapture(s.first, cudaStreamCaptureModeThreadLocal));
    DONE(emulator::launch("planted", write_at, 1, N, 0, s.first, s.on_device, (int64_t)0,
                          (int64_t)N));
    cudaGraphExec_t graph = end_capture(s.first);
    DONE(cudaGraphLaunch(graph, s.first));
    DONE(cudaFree(s.on_device));
    DONE(cudaGraphLaunch(graph, s.first));
    DONE(cudaDeviceSynchronize());
}

static void graph_not_joined()
{
    streams s = open_streams();
    cudaGraph_t graph;
    DONE(cudaStreamBeginCapture(s.first, cudaStreamCaptureModeThreadLocal));
    copy_through(s, true);
    MUST(cudaStreamEndCapture(s.first, &graph) == cudaErrorStreamCaptureUnjoined);
    MUST(graph == nullptr && cudaGetLastError() == cudaErrorStreamCaptureUnjoined);
    MUST(cudaGetLastError() == cudaSuccess);
}

/* Graphs of one executable come one after the other, whatever streams they are launched in. */
__global__ static void add_one(float *to)
{
    *to += 1.0f;
}

static void graph_in_two_streams()
{
    for (int i = 0; i < 20; i++) {
        streams s = open_streams();
        DONE(cudaMemsetAsync(s.on_device, 0, 4, s.first));
        DONE(cudaStreamSynchronize(s.first));
        DONE(cudaStreamBeginCapture(s.first, cudaStreamCaptureModeThreadLocal));
        DONE(emulator::launch("planted", add_one, 1, 1, 0, s.first, s.on_device));
        cudaGraphExec_t graph = end_capture(s.first);
        DONE(cudaGraphLaunch(graph, s.first));
        DONE(cudaGraphLaunch(graph, s.second));
        DONE(cudaMemcpyAsync(s.out, s.on_device, 4, cudaMemcpyDeviceToHost, s.second));
        DONE(cudaStreamSynchronize(s.second));
        MUST(s.out[0] == 2.0f);
        DONE(cudaGraphExecDestroy(graph));
        MUST(cudaGraphLaunch(graph, s.first) == cudaErrorInvalidValue);
        MUST(cudaGraphExecDestroy(graph) == cudaErrorInvalidValue);
    }
}

static void graph_outlives_its_pinned_memory()
{
    streams s = open_streams();
    DONE(cudaStreamBeginCapture(s.first, cudaStreamCaptureModeThreadLocal));
    DONE(cudaMemcpyAsync(s.out, s.on_device, 4, cudaMemcpyDeviceToHost, s.first));
    cudaGraphExec_t graph = end_capture(s.first);
    DONE(cudaGraphLaunch(graph, s.first));
    DONE(cudaFreeHost(s.out));
    DONE(cudaGraphLaunch(graph, s.first));
    DONE(cudaDeviceSynchronize());
}

/* The capture that an error has ended gives no graph, and the stream can be used again. */
static void expect_broken(const streams &s)
{
    cudaGraph_t graph;
    MUST(cudaMemsetAsync(s.on_device, 0, 4, s.first) == cudaErrorStreamCaptureInvalidated);
    MUST(cudaStreamEndCapture(s.first, &graph) == cudaErrorStreamCaptureInvalidated);
    MUST(graph == nullptr);
    copy_through(s, true);
    DONE(cudaDeviceSynchronize());
}

static void calls_that_a_capture_forbids()
{
    for (int which = 0; which < 12; which++) {
        streams s = open_streams();
        float pageable[4];
        void *memory;
        cudaError_t error = cudaSuccess;

        DONE(cudaEventRecord(s.event, s.second));
        DONE(cudaStreamBeginCapture(s.first, cudaStreamCaptureModeThreadLocal));
        switch (which) {
        case 0:
            error = cudaMalloc(&memory, 4);
            break;
        case 1:
            error = cudaFree(s.on_device);
            break;
        case 2:
            error = cudaMallocHost(&memory, 4);
            break;
        case 3:
            error = cudaFreeHost(s.pinned);
            break;
        case 4:
            error = cudaMemcpy(s.on_device, pageable, 4, cudaMemcpyHostToDevice);
            break;
        case 5:
            error = cudaMemset(s.on_device, 0, 4);
            break;
        case 6:
            error = cudaStreamSynchronize(s.first);
            break;
        case 7:
            error = cudaDeviceSynchronize();
            break;
        case 8:
            error = cudaStreamQuery(s.second);
            break;
        case 9:
            error = cudaEventSynchronize(s.event);
            break;
        case 10:
            error = cudaEventQuery(s.event);
            break;
        case 11:
            error = cudaMemcpyAsync(s.on_device, pageable, 16, cudaMemcpyHostToDevice, s.first);
            break;
        }
        MUST(error == cudaErrorStreamCaptureUnsupported);
        expect_broken(s);
    }
}

/* In relaxed mode calls are free, but what is captured has no state to ask for. */
static void state_of_what_is_captured()
{
    for (int which = 0; which < 5; which++) {
        streams s = open_streams();
        cudaEvent_t timed;
        float milliseconds;
        cudaError_t error = cudaSuccess, wanted = cudaErrorCapturedEvent;

        DONE(cudaEventCreate(&timed));
        DONE(cudaStreamBeginCapture(s.first, cudaStreamCaptureModeRelaxed));
        DONE(cudaFree(device_array<float>(4)));
        DONE(cudaEventRecord(s.event, s.first));
        DONE(cudaEventRecord(timed, s.first));
        switch (which) {
        case 0:
            error = cudaEventQuery(s.event);
            break;
        case 1:
            error = cudaEventSynchronize(s.event);
            break;
        case 2:
            error = cudaEventElapsedTime(&milliseconds, timed, timed);
            break;
        case 3:
            error = cudaStreamQuery(s.first);
            wanted = cudaErrorStreamCaptureUnsupported;
            break;
        case 4:
            error = cudaStreamSynchronize(s.first);
            wanted = cudaErrorStreamCaptureUnsupported;
            break;
        }
        MUST(error == wanted);
        expect_broken(s);
    }
}

static void capture_waits_for_work_outside_it()
{
    streams s = open_streams();
    DONE(cudaEventRecord(s.event, s.second));
    DONE(cudaStreamBeginCapture(s.first, cudaStreamCaptureModeThreadLocal));
    MUST(cudaStreamWaitEvent(s.first, s.event, 0) == cudaErrorStreamCaptureIsolation);
    expect_broken(s);
}

static void captures_merge()
{
    streams s = open_streams();
    cudaGraph_t graph;
    DONE(cudaStreamBeginCapture(s.first, cudaStreamCaptureModeThreadLocal));
    DONE(cudaStreamBeginCapture(s.second, cudaStreamCaptureModeThreadLocal));
    DONE(cudaEventRecord(s.event, s.second));
    MUST(cudaStreamWaitEvent(s.first, s.event, 0) == cudaErrorStreamCaptureMerge);
    DONE(cudaStreamEndCapture(s.second, &graph));
    expect_broken(s);
}

static void capture_ends_in_another_stream()
{
    streams s = open_streams();
    cudaGraph_t graph;
    DONE(cudaStreamBeginCapture(s.first, cudaStreamCaptureModeThreadLocal));
    DONE(cudaEventRecord(s.event, s.first));
    DONE(cudaStreamWaitEvent(s.second, s.event, 0));
    MUST(cudaStreamEndCapture(s.second, &graph) == cudaErrorStreamCaptureUnmatched);
    expect_broken(s);
}

static void *end_elsewhere(void *stream)
{
    cudaGraph_t graph;
    MUST(cudaStreamEndCapture(static_cast<cudaStream_t>(stream), &graph) ==
         cudaErrorStreamCaptureWrongThread);
    return nullptr;
}

static void capture_ends_in_another_thread()
{
    streams s = open_streams();
    pthread_t thread;
    DONE(cudaStreamBeginCapture(s.first, cudaStreamCaptureModeThreadLocal));
    MUST(pthread_create(&thread, nullptr, end_elsewhere, s.first) == 0);
    MUST(pthread_join(thread, nullptr) == 0);
    cudaGraphExec_t graph = end_capture(s.first);
    DONE(cudaGraphExecDestroy(graph));
}

/* Work for the default stream would have to wait for a capture of a stream that blocks with it. */
static void default_stream_during_a_capture()
{
    streams s = open_streams();
    cudaStream_t other = s.first;
    DONE(cudaStreamBeginCapture(s.first, cudaStreamCaptureModeThreadLocal));
    DONE(cudaMemsetAsync(s.on_device, 0, 4, nullptr)); /* not of one that does not block */
    DONE(cudaGraphExecDestroy(end_capture(other)));
    for (int which = 0; which < 3; which++) {
        DONE(cudaStreamCreate(&s.first));
        DONE(cudaEventRecord(s.event, s.second));
        DONE(cudaStreamBeginCapture(s.first, cudaStreamCaptureModeThreadLocal));
        MUST((which == 0 ? cudaMemsetAsync(s.on_device, 0, 4, nullptr)
              : which == 1
                  ? cudaEventRecord(s.event, nullptr)
                  : cudaStreamWaitEvent(nullptr, s.event, 0)) == cudaErrorStreamCaptureImplicit);
        expect_broken(s);
    }
}

static void event_of_another_device()
{
    setenv("IBOT_EMULATOR_DEVICES", "2", 1);
    streams s = open_streams();
    cudaEvent_t other;
    DONE(cudaSetDevice(1));
    DONE(cudaEventCreateWithFlags(&other, cudaEventDisableTiming));
    DONE(cudaSetDevice(0));
    MUST(cudaEventRecord(other, s.first) == cudaErrorInvalidResourceHandle);
}

static void copy_onto_itself()
{
    streams s = open_streams();
    DONE(cudaMemcpyAsync(s.on_device, s.on_device + 4, 16, cudaMemcpyDeviceToDevice, s.first));
    (void)cudaMemcpyAsync(s.on_device, s.on_device + 3, 16, cudaMemcpyDeviceToDevice, s.first);
}

static void copies_are_checked()
{
    streams s = open_streams();
    float host[N];
    size_t bytes = sizeof(host);
    MUST(cudaMemcpy(host, s.on_device, bytes, cudaMemcpyHostToDevice) == cudaErrorInvalidValue);
    MUST(cudaMemcpy(s.on_device, host, bytes + 1, cudaMemcpyHostToDevice) == cudaErrorInvalidValue);
    MUST(cudaMemcpy(host, host, bytes, cudaMemcpyDeviceToHost) == cudaErrorInvalidValue);
    MUST(cudaMemsetAsync(s.on_device + 1, 0, bytes, s.first) == cudaErrorInvalidValue);
    MUST(cudaFree(s.on_device + 1) == cudaErrorInvalidValue);
    DONE(cudaMemcpy(s.on_device, host, bytes, cudaMemcpyDefault));
}

std::vector<planted_case> stream_cases()
{
    return {
        RIGHT(streams_wait),
        CASE(streams_do_not_wait, "not so: s.out[5] =="),
        CASE(host_changes_what_is_being_copied, "not so: s.out[5] =="),
        CASE(wait_for_an_event_never_recorded, "never recorded"),
        RIGHT(graph_right),
        CASE(graph_outlives_its_memory, "in device memory that is free"),
        RIGHT(graph_not_joined),
        RIGHT(graph_in_two_streams),
        CASE(graph_outlives_its_pinned_memory, "has been freed since"),
        RIGHT(calls_that_a_capture_forbids),
        RIGHT(state_of_what_is_captured),
        RIGHT(capture_waits_for_work_outside_it),
        RIGHT(captures_merge),
        RIGHT(capture_ends_in_another_stream),
        RIGHT(capture_ends_in_another_thread),
        RIGHT(default_stream_during_a_capture),
        RIGHT(event_of_another_device),
        RIGHT(copies_are_checked),
        CASE(copy_onto_itself, "which overlap"),
    };
}
