/* Communicators and collectives of two processes, and mistakes in them. */
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include <chrono>
#include <thread>

#include <nccl.h>

#include "tests/cuda_emulator/planted.h"

enum { N = 100000 };

struct rank {
    ncclComm_t comm;
    int number, world;
    cudaStream_t stream;
    float *values; /* N, of which all are 1 + number */
};

static ncclResult_t settle(ncclComm_t comm, ncclResult_t result)
{
    while (result == ncclInProgress) {
        usleep(100);
        MUST(ncclCommGetAsyncError(comm, &result) == ncclSuccess);
    }
    return result;
}

__global__ static void fill(float *to, int n, float value)
{
    for (int i = (int)threadIdx.x; i < n; i += (int)blockDim.x)
        to[i] = value;
}

static rank join(int number, int world, const ncclUniqueId &id)
{
    ncclConfig_t config = NCCL_CONFIG_INITIALIZER;
    rank r = {nullptr, number, world, nullptr, nullptr};

    config.blocking = 0;
    MUST(settle(r.comm, ncclCommInitRankConfig(&r.comm, world, id, number, &config)) ==
             ncclSuccess ||
         r.comm != nullptr);
    return r;
}

static void start(rank &r)
{
    DONE(cudaStreamCreateWithFlags(&r.stream, cudaStreamNonBlocking));
    r.values = device_array<float>(N);
    run(1, 256, 0, fill, r.values, N, 1.0f + (float)r.number);
}

static rank alone()
{
    ncclUniqueId id;
    MUST(ncclGetUniqueId(&id) == ncclSuccess);
    rank r = join(0, 1, id);
    start(r);
    return r;
}

/* Two processes; the body of each, and an exit status of both. */
static void as_two(void (*body)(rank &))
{
    ncclUniqueId id;
    int status = 0;

    MUST(ncclGetUniqueId(&id) == ncclSuccess);
    pid_t other = fork();
    int number = other == 0 ? 1 : 0;
    setenv("NCCL_HOSTID", number == 0 ? "left" : "right", 1); /* each has its device 0 */
    rank r = join(number, 2, id);
    start(r);
    body(r);
    if (other == 0)
        _exit(0);
    MUST(waitpid(other, &status, 0) == other && status == 0);
}

static ncclResult_t sum(const rank &r, size_t n)
{
    return settle(r.comm,
                  ncclAllReduce(r.values, r.values, n, ncclFloat32, ncclSum, r.comm, r.stream));
}

static void leave(rank &r)
{
    MUST(settle(r.comm, ncclCommFinalize(r.comm)) == ncclSuccess);
    MUST(ncclCommDestroy(r.comm) == ncclSuccess);
}

static float last_value(const rank &r)
{
    float value;
    DONE(cudaStreamSynchronize(r.stream));
    download(&value, r.values + N - 1, 1);
    return value;
}

/* ------------------------------------------------------------------------------ right */

static void collectives_right()
{
    as_two([](rank &r) {
        float *all = device_array<float>(2 * N), got[2];
        MUST(sum(r, N) == ncclSuccess);
        MUST(last_value(r) == 3.0f);
        run(1, 256, 0, fill, r.values, N, 5.0f + (float)r.number);
        MUST(settle(r.comm, ncclAllGather(r.values, all, N, ncclFloat32, r.comm, r.stream)) ==
             ncclSuccess);
        MUST(settle(r.comm, ncclBroadcast(r.values, r.values, N, ncclFloat32, 0, r.comm,
                                          r.stream)) == ncclSuccess);
        MUST(last_value(r) == 5.0f);
        download(&got[0], all + N - 1, 1);
        download(&got[1], all + 2 * N - 1, 1);
        MUST(got[0] == 5.0f && got[1] == 6.0f);
        leave(r);
    });
}

/* 1 + 2 = 3 on both, 3 + 3 = 6, 12; another one that is no graph's in between. */
static void collectives_in_a_graph()
{
    as_two([](rank &r) {
        cudaGraph_t graph;
        cudaGraphExec_t executable;
        MUST(sum(r, N) == ncclSuccess);
        DONE(cudaStreamBeginCapture(r.stream, cudaStreamCaptureModeThreadLocal));
        MUST(sum(r, N) == ncclSuccess);
        DONE(cudaStreamEndCapture(r.stream, &graph));
        DONE(cudaGraphInstantiate(&executable, graph, 0));
        DONE(cudaGraphDestroy(graph));
        MUST(last_value(r) == 3.0f);
        DONE(cudaGraphLaunch(executable, r.stream));
        DONE(cudaGraphLaunch(executable, r.stream));
        MUST(sum(r, N) == ncclSuccess);
        MUST(last_value(r) == 24.0f);
        DONE(cudaGraphExecDestroy(executable));
        leave(r);
    });
}

/* ------------------------------------------------------------------------------ mistakes */

static void collectives_of_other_counts()
{
    as_two([](rank &r) {
        MUST(sum(r, N) == ncclSuccess);
        MUST(sum(r, r.number == 0 ? N : N - 1) == ncclSuccess);
        (void)last_value(r);
    });
}

static void collectives_in_another_order()
{
    as_two([](rank &r) {
        for (int i = 0; i < 2; i++)
            MUST(settle(r.comm, i == r.number ? ncclAllReduce(r.values, r.values, N, ncclFloat32,
                                                              ncclSum, r.comm, r.stream)
                                              : ncclBroadcast(r.values, r.values, N, ncclFloat32, 0,
                                                              r.comm, r.stream)) == ncclSuccess);
        (void)last_value(r);
    });
}

static void collective_of_host_memory()
{
    static float host[N];
    rank r = alone();
    (void)ncclAllReduce(host, host, N, ncclFloat32, ncclSum, r.comm, r.stream);
}

static void collective_past_the_end()
{
    rank r = alone();
    (void)sum(r, N + 1);
}

static void collective_while_one_is_in_progress()
{
    rank r = alone();
    MUST(ncclAllReduce(r.values, r.values, N, ncclFloat32, ncclSum, r.comm, r.stream) ==
         ncclInProgress);
    MUST(ncclAllReduce(r.values, r.values, N, ncclFloat32, ncclSum, r.comm, r.stream) ==
         ncclInvalidArgument);
    MUST(settle(r.comm, ncclInProgress) == ncclSuccess);
    leave(r);
}

static void collective_after_abort()
{
    rank r = alone();
    MUST(ncclCommAbort(r.comm) == ncclSuccess);
    (void)sum(r, N);
}

/* They meet as soon as both run at once; on a busy machine that may take a while. */
static void communicator_of_two_threads()
{
    rank r = alone();
    auto end = std::chrono::steady_clock::now() + std::chrono::seconds(60);
    auto poll = [&r, end] {
        ncclResult_t result;
        while (std::chrono::steady_clock::now() < end)
            for (int i = 0; i < 1000; i++)
                (void)ncclCommGetAsyncError(r.comm, &result);
    };
    std::thread other(poll);
    poll();
    other.join();
}

static void communicator_with_a_graph_is_finalized()
{
    rank r = alone();
    cudaGraph_t graph;
    DONE(cudaStreamBeginCapture(r.stream, cudaStreamCaptureModeThreadLocal));
    MUST(sum(r, N) == ncclSuccess);
    DONE(cudaStreamEndCapture(r.stream, &graph));
    leave(r);
}

/* Two ranks of one host with the same device: what NCCL says to that. */
static void communicator_of_one_device_for_two()
{
    ncclUniqueId id;
    int status = 0;

    MUST(ncclGetUniqueId(&id) == ncclSuccess);
    pid_t other = fork();
    rank r = join(other == 0 ? 1 : 0, 2, id);
    ncclResult_t result;
    MUST(ncclCommGetAsyncError(r.comm, &result) == ncclSuccess && result == ncclInvalidUsage);
    MUST(strstr(ncclGetLastError(r.comm), "Duplicate GPU") != nullptr);
    MUST(ncclCommAbort(r.comm) == ncclSuccess);
    if (other == 0)
        _exit(0);
    MUST(waitpid(other, &status, 0) == other && status == 0);
}

static void communicator_of_another_device()
{
    setenv("IBOT_EMULATOR_DEVICES", "2", 1);
    rank r = alone();
    DONE(cudaSetDevice(1));
    DONE(cudaStreamCreateWithFlags(&r.stream, cudaStreamNonBlocking));
    (void)sum(r, N);
}

std::vector<planted_case> collective_cases()
{
    return {
        RIGHT(collectives_right),
        RIGHT(collectives_in_a_graph),
        CASE(collectives_of_other_counts, "ranks differ in their collective 2"),
        CASE(collectives_in_another_order, "ranks differ in their collective 1"),
        CASE(collective_of_host_memory, "is host memory"),
        CASE(collective_past_the_end, "ends 4 bytes past a device allocation"),
        RIGHT(collective_while_one_is_in_progress),
        CASE(collective_after_abort, "ncclAllReduce after ncclCommAbort"),
        CASE(communicator_of_two_threads, "while another thread is in a call"),
        CASE(communicator_with_a_graph_is_finalized, "while there is a graph"),
        RIGHT(communicator_of_one_device_for_two),
        CASE(communicator_of_another_device, "is of device 0, the stream of device 1"),
    };
}
