/* Ranks that each hold a GPU: NCCL, on a stream of its own beside the device's, so that a reduction
 * that has begun runs beside the ops that follow. The ranks meet over ops/rank_monitor.h, which
 * also has the deadline that NCCL lacks: when a rank is late or gone, every other one says which
 * and ends, instead of waiting in a reduction for ever.
 *
 * Calls do not block (ncclConfig_t.blocking = 0): a call that is in progress is waited for with a
 * deadline while it is being queued, never after. */
#include <nccl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "kernels/cuda_check.h"
#include "kernels/cuda_device.h"
#include "kernels/kernels.h"
#include "ops/rank_monitor.h"
#include "proto/base/clock.h"
#include "proto/base/log.h"
#include "proto/base/memory.h"

struct nccl_state {
    ncclComm_t comm;
    struct rank_monitor *monitor;
    struct device *device; /* borrowed */
    cudaStream_t stream;
    cudaEvent_t begun, done;
    void *gather; /* device memory of all_gather */
    size_t gather_bytes;
    int64_t call_ns; /* longest that queueing a call may take */
};

static struct nccl_state *state_of(const struct collective *c)
{
    return c->state;
}

/* A call was made: waits while it is in progress. */
static enum status settle(struct nccl_state *s, ncclResult_t result, const char *what)
{
    int64_t end_ns = clock_monotonic_ns() + s->call_ns;

    while (result == ncclInProgress) {
        struct timespec pause = {0, 100000};
        if (ncclCommGetAsyncError(s->comm, &result) != ncclSuccess)
            break;
        if (result != ncclInProgress)
            break;
        if (clock_monotonic_ns() > end_ns)
            FAIL(STATUS_TIMEOUT, "NCCL %s: not queued within %lld s; is every rank there?", what,
                 (long long)(s->call_ns / 1000000000));
        nanosleep(&pause, NULL);
    }
    if (result == ncclSuccess)
        return STATUS_OK;
    FAIL(STATUS_DEVICE, "NCCL %s: %s (%s)", what, ncclGetErrorString(result),
         ncclGetLastError(s->comm));
}

static enum status type_of(enum dtype dtype, ncclDataType_t *out)
{
    switch (dtype) {
    case DTYPE_F32:
        *out = ncclFloat32;
        return STATUS_OK;
    case DTYPE_F64:
        *out = ncclFloat64;
        return STATUS_OK;
    case DTYPE_I32:
        *out = ncclInt32;
        return STATUS_OK;
    default:
        FAIL(STATUS_UNSUPPORTED, "all_reduce: dtype %d; NCCL ranks reduce f32, f64 and i32",
             (int)dtype);
    }
}

/* The collective's stream goes on from where the device's is. */
static enum status follow(struct nccl_state *s, struct device *device)
{
    CUDA_TRY(cudaEventRecord(s->begun, cuda_stream(device)));
    CUDA_TRY(cudaStreamWaitEvent(s->stream, s->begun, 0));
    return STATUS_OK;
}

/* The device goes on when the collective's stream has come here. */
static enum status lead(struct nccl_state *s, struct device *device)
{
    CUDA_TRY(cudaEventRecord(s->done, s->stream));
    CUDA_TRY(cudaStreamWaitEvent(cuda_stream(device), s->done, 0));
    return STATUS_OK;
}

static enum status nccl_all_reduce(struct collective *c, struct device *device,
                                   struct tensor *tensor)
{
    struct nccl_state *s = state_of(c);
    ncclDataType_t type = ncclFloat32;

    TRY(type_of(tensor->dtype, &type));
    TRY(follow(s, device));
    TRY(settle(s,
               ncclAllReduce(tensor->data, tensor->data, (size_t)tensor_n_elements(tensor), type,
                             ncclSum, s->comm, s->stream),
               "all-reduce"));
    return lead(s, device);
}

static enum status nccl_broadcast(struct collective *c, struct device *device, void *data,
                                  size_t bytes)
{
    struct nccl_state *s = state_of(c);

    if (bytes == 0)
        return STATUS_OK;
    TRY(follow(s, device));
    TRY(settle(s, ncclBroadcast(data, data, bytes, ncclInt8, 0, s->comm, s->stream), "broadcast"));
    return lead(s, device);
}

static enum status reserve(struct nccl_state *s, size_t bytes)
{
    if (bytes <= s->gather_bytes)
        return STATUS_OK;
    CUDA_TRY(cudaStreamSynchronize(s->stream));
    (void)cudaFree(s->gather);
    s->gather = NULL;
    s->gather_bytes = 0;
    CUDA_TRY(cudaMalloc(&s->gather, bytes));
    s->gather_bytes = bytes;
    return STATUS_OK;
}

/* Of host memory, through the device: for small things, outside of steps. */
static enum status nccl_all_gather(struct collective *c, void *to, const void *from,
                                   size_t bytes_each)
{
    struct nccl_state *s = state_of(c);
    size_t all = bytes_each * (size_t)c->world;

    if (bytes_each == 0)
        return STATUS_OK;
    TRY(reserve(s, all));
    char *mine = (char *)s->gather + bytes_each * (size_t)c->rank;
    CUDA_TRY(cudaMemcpyAsync(mine, from, bytes_each, cudaMemcpyHostToDevice, s->stream));
    TRY(settle(s, ncclAllGather(mine, s->gather, bytes_each, ncclInt8, s->comm, s->stream),
               "all-gather"));
    CUDA_TRY(cudaMemcpyAsync(to, s->gather, all, cudaMemcpyDeviceToHost, s->stream));
    CUDA_TRY(cudaStreamSynchronize(s->stream));
    return STATUS_OK;
}

static void nccl_progress(struct collective *c, int64_t step, const char *doing)
{
    rank_monitor_progress(state_of(c)->monitor, step, doing);
}

/* On the monitor's thread. Whoever waits for the device would wait for ever: the process ends. What
 * was computed since the newest checkpoint is lost; the same command goes on from there. */
static void end_process(void *context, const char *text)
{
    struct nccl_state *s = context;

    log_error("%s; this rank ends, too: start the run again, it goes on from its newest checkpoint",
              text);
    if (s->comm != NULL)
        (void)ncclCommAbort(s->comm);
    fflush(NULL);
    _Exit(1);
}

static void nccl_abort(struct collective *c, int exit_status)
{
    struct nccl_state *s = state_of(c);

    rank_monitor_fail(s->monitor, status_message());
    (void)ncclCommAbort(s->comm);
    fflush(NULL);
    _Exit(exit_status);
}

static void nccl_close(struct collective *c)
{
    struct nccl_state *s = state_of(c);

    if (s == NULL)
        return;
    if (s->stream != NULL)
        (void)cudaStreamSynchronize(s->stream);
    if (s->comm != NULL) {
        ncclResult_t result = ncclCommFinalize(s->comm);
        if (settle(s, result, "finalize") == STATUS_OK)
            (void)ncclCommDestroy(s->comm);
        else
            (void)ncclCommAbort(s->comm);
    }
    rank_monitor_close(&s->monitor);
    (void)cudaFree(s->gather);
    if (s->begun != NULL)
        (void)cudaEventDestroy(s->begun);
    if (s->done != NULL)
        (void)cudaEventDestroy(s->done);
    if (s->stream != NULL)
        (void)cudaStreamDestroy(s->stream);
    memory_free(s);
    c->state = NULL;
}

static enum status open_stream(struct nccl_state *s)
{
    int least, greatest;

    CUDA_TRY(cudaDeviceGetStreamPriorityRange(&least, &greatest));
    CUDA_TRY(cudaStreamCreateWithPriority(&s->stream, cudaStreamNonBlocking, greatest));
    CUDA_TRY(cudaEventCreateWithFlags(&s->begun, cudaEventDisableTiming));
    CUDA_TRY(cudaEventCreateWithFlags(&s->done, cudaEventDisableTiming));
    return STATUS_OK;
}

static enum status join(struct nccl_state *s, const struct collective_environment *ranks)
{
    ncclConfig_t config = NCCL_CONFIG_INITIALIZER;
    struct rank_monitor_options options;
    ncclUniqueId id;

    TRY(rank_monitor_options_read(&options, ranks));
    options.fail = end_process;
    options.context = s;
    s->call_ns = options.join_ns;
    memset(&id, 0, sizeof(id));
    if (ranks->rank == 0) {
        ncclResult_t result = ncclGetUniqueId(&id);
        if (result != ncclSuccess)
            FAIL(STATUS_DEVICE, "ncclGetUniqueId: %s (%s)", ncclGetErrorString(result),
                 ncclGetLastError(NULL));
    }
    TRY(rank_monitor_open(&s->monitor, &options, &id, sizeof(id)));
    rank_monitor_progress(s->monitor, 0, "joins the communicator");
    config.blocking = 0;
    TRY(settle(s, ncclCommInitRankConfig(&s->comm, ranks->world, id, ranks->rank, &config),
               "initialisation"));
    rank_monitor_progress(s->monitor, 0, "starts");
    return STATUS_OK;
}

enum status kernels_collective_open(struct collective *out, struct device *device)
{
    struct collective_environment ranks;
    struct nccl_state *s;

    TRY(collective_environment_read(&ranks));
    TRY(memory_alloc(&s, 1, sizeof(*s), "NCCL"));
    s->device = device;
    *out = (struct collective){
        .rank = ranks.rank,
        .world = ranks.world,
        .local_rank = ranks.local_rank,
        .state = s,
        .all_reduce = nccl_all_reduce,
        .broadcast = nccl_broadcast,
        .all_gather = nccl_all_gather,
        .progress = nccl_progress,
        .abort = nccl_abort,
        .close = nccl_close,
    };
    enum status status = open_stream(s);
    if (status == STATUS_OK)
        status = join(s, &ranks);
    if (status != STATUS_OK)
        collective_close(out);
    return status;
}
