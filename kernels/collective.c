/* Ranks that each hold a GPU: NCCL, on a stream of its own beside the device's, so that buckets of
 * gradients are summed beside the ops that follow. The ranks meet over ops/rank_monitor.h, which
 * also has the deadline that NCCL lacks: when a rank is late or gone, or a communicator fails,
 * every rank says which and ends, instead of waiting in a reduction for ever.
 *
 *   device    ops ─> [begun+1] ─┐                   ┌─> [done+1] ─> ops
 *   stream                      └─> ncclAllReduce ──┘
 *   host      all-gathers of small things, from rank to rank (ops/rank_exchange.h)
 *
 * What ranks agree on between steps goes from host to host: a communicator does one thing after
 * another, so that a gather through it would wait for all that was queued before, and the host for
 * the device. Large things, outside of steps, go through it.
 *
 * Calls do not block (ncclConfig_t.blocking = 0): a call that is in progress is waited for with a
 * deadline while it is being queued, never after. Two threads may not be in calls on one
 * communicator, not even to ask how it is. */
#include <nccl.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "kernels/collective_count.h"
#include "kernels/cuda_check.h"
#include "kernels/cuda_device.h"
#include "kernels/kernels.h"
#include "ops/rank_exchange.h"
#include "ops/rank_monitor.h"
#include "proto/base/clock.h"
#include "proto/base/memory.h"

enum { BEGUN, DONE, N_COUNTS };

struct nccl_state {
    struct rank_monitor *monitor; /* borrowed */
    struct rank_exchange *exchange;
    struct device *device; /* borrowed */
    cudaStream_t stream;
    cudaEvent_t begun, done;
    int64_t *counts; /* pinned: collectives that the device has come to, and finished */
    void *gather;    /* device memory of large all-gathers */
    size_t gather_bytes;
    int64_t call_ns; /* longest that queueing a call may take */
    pthread_mutex_t lock;
    ncclComm_t comm; /* guarded by lock, as is the next */
    bool ready;      /* it may be asked how it is */
};

/* What rank 0 tells the others when they meet. */
struct invitation {
    ncclUniqueId id;
    int32_t exchange_port;
};

static struct nccl_state *state_of(const struct collective *c)
{
    return c->state;
}

/* ------------------------------------------------------------------------------ calls */

static void begin_call(struct nccl_state *s)
{
    pthread_mutex_lock(&s->lock);
}

static enum status refused(const struct nccl_state *s, ncclResult_t result, const char *what)
{
    int version = 0;

    (void)ncclGetVersion(&version);
    FAIL(STATUS_DEVICE, "NCCL %d.%d.%d, %s: %s (%s)", version / 10000, version / 100 % 100,
         version % 100, what, ncclGetErrorString(result), ncclGetLastError(s->comm));
}

/* After begin_call and a call, which answered `result`: waits while it is in progress. */
static enum status end_call(struct nccl_state *s, ncclResult_t result, const char *what)
{
    int64_t end_ns = clock_monotonic_ns() + s->call_ns;
    enum status status = STATUS_OK;

    while (result == ncclInProgress && clock_monotonic_ns() < end_ns) {
        struct timespec pause = {0, 50000};
        ncclResult_t asked = ncclCommGetAsyncError(s->comm, &result);
        if (asked != ncclSuccess)
            result = asked;
        if (result != ncclInProgress)
            break;
        pthread_mutex_unlock(&s->lock);
        nanosleep(&pause, NULL);
        pthread_mutex_lock(&s->lock);
    }
    if (result == ncclInProgress)
        status = status_set(STATUS_TIMEOUT,
                            "NCCL %s: still in progress after %lld s; is every rank there?", what,
                            (long long)(s->call_ns / 1000000000));
    else if (result != ncclSuccess)
        status = refused(s, result, what);
    pthread_mutex_unlock(&s->lock);
    return status;
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

/* ------------------------------------------------------------------------------ on the device */

/* The collective's stream goes on from where the device's is. */
static enum status follow(struct nccl_state *s, struct device *device)
{
    CUDA_TRY(cudaEventRecord(s->begun, cuda_stream(device)));
    CUDA_TRY(cudaStreamWaitEvent(s->stream, s->begun, 0));
    return STATUS_OK;
}

/* And the device's from where the collective's is. */
static enum status lead(struct nccl_state *s, struct device *device)
{
    CUDA_TRY(cudaEventRecord(s->done, s->stream));
    CUDA_TRY(cudaStreamWaitEvent(cuda_stream(device), s->done, 0));
    return collective_count(device, &s->counts[DONE]);
}

static enum status nccl_all_reduce(struct collective *c, struct device *device,
                                   struct tensor *tensor)
{
    struct nccl_state *s = state_of(c);
    ncclDataType_t type = ncclFloat32;

    TRY(type_of(tensor->dtype, &type));
    TRY(collective_count(device, &s->counts[BEGUN]));
    TRY(follow(s, device));
    begin_call(s);
    TRY(end_call(s,
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
    TRY(collective_count(device, &s->counts[BEGUN]));
    TRY(follow(s, device));
    begin_call(s);
    TRY(end_call(s, ncclBroadcast(data, data, bytes, ncclInt8, 0, s->comm, s->stream),
                 "broadcast"));
    return lead(s, device);
}

/* ------------------------------------------------------------------------------ of the hosts */

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

static enum status gather_by_device(struct nccl_state *s, int rank, int world, void *to,
                                    const void *from, size_t bytes_each)
{
    size_t all = bytes_each * (size_t)world;

    TRY(reserve(s, all));
    char *mine = (char *)s->gather + bytes_each * (size_t)rank;
    TRY(follow(s, s->device)); /* after the collectives of a step that is under way */
    CUDA_TRY(cudaMemcpyAsync(mine, from, bytes_each, cudaMemcpyHostToDevice, s->stream));
    begin_call(s);
    TRY(end_call(s, ncclAllGather(mine, s->gather, bytes_each, ncclInt8, s->comm, s->stream),
                 "all-gather"));
    CUDA_TRY(cudaMemcpyAsync(to, s->gather, all, cudaMemcpyDeviceToHost, s->stream));
    CUDA_TRY(cudaStreamSynchronize(s->stream));
    return STATUS_OK;
}

static enum status nccl_all_gather(struct collective *c, void *to, const void *from,
                                   size_t bytes_each)
{
    struct nccl_state *s = state_of(c);

    if (bytes_each == 0)
        return STATUS_OK;
    if (bytes_each <= RANK_EXCHANGE_MOST_BYTES / (size_t)c->world)
        return rank_exchange_all_gather(s->exchange, to, from, bytes_each);
    return gather_by_device(s, c->rank, c->world, to, from, bytes_each);
}

/* ------------------------------------------------------------------------------ the watch */

static void nccl_progress(struct collective *c, int64_t step, const char *doing)
{
    rank_monitor_progress(state_of(c)->monitor, step, doing);
}

/* On the monitor's thread. While another thread is in a call, that one hears of an error. */
static void look(void *context, struct rank_device *out)
{
    struct nccl_state *s = context;
    ncclResult_t result = ncclSuccess;

    out->begun = __atomic_load_n(&s->counts[BEGUN], __ATOMIC_RELAXED);
    out->done = __atomic_load_n(&s->counts[DONE], __ATOMIC_RELAXED);
    if (pthread_mutex_trylock(&s->lock) != 0)
        return;
    if (s->ready && ncclCommGetAsyncError(s->comm, &result) == ncclSuccess &&
        result != ncclSuccess && result != ncclInProgress)
        snprintf(out->error, sizeof(out->error), "NCCL: %s (%s)", ncclGetErrorString(result),
                 ncclGetLastError(s->comm));
    pthread_mutex_unlock(&s->lock);
}

static void nccl_abort(struct collective *c, int exit_status)
{
    rank_monitor_fail(state_of(c)->monitor, status_message());
    fflush(NULL);
    _Exit(exit_status);
}

/* ------------------------------------------------------------------------------ life */

/* In good order, when every rank has come here; else at once. A rank that left before the others
 * were done would look like one that is lost. */
static void leave(struct nccl_state *s, int world)
{
    bool ready = s->ready;
    char own = 0, *all = NULL;

    if (ready && memory_alloc(&all, (size_t)world, 1, "ranks that leave") == STATUS_OK)
        ready = rank_exchange_all_gather(s->exchange, all, &own, 1) == STATUS_OK;
    memory_free(all);
    begin_call(s);
    s->ready = false;
    if (ready)
        ready = end_call(s, ncclCommFinalize(s->comm), "finalize") == STATUS_OK;
    else
        pthread_mutex_unlock(&s->lock);
    (void)(ready ? ncclCommDestroy(s->comm) : ncclCommAbort(s->comm));
}

static void nccl_close(struct collective *c)
{
    struct nccl_state *s = state_of(c);

    if (s == NULL)
        return;
    if (s->comm != NULL)
        leave(s, c->world);
    rank_monitor_look(s->monitor, NULL, NULL);
    rank_exchange_close(&s->exchange);
    (void)cudaFree(s->gather);
    if (s->begun != NULL)
        (void)cudaEventDestroy(s->begun);
    if (s->done != NULL)
        (void)cudaEventDestroy(s->done);
    if (s->stream != NULL)
        (void)cudaStreamDestroy(s->stream);
    if (s->counts != NULL)
        (void)cudaFreeHost(s->counts);
    pthread_mutex_destroy(&s->lock);
    memory_free(s);
    c->state = NULL;
}

static enum status open_stream(struct nccl_state *s)
{
    int least, greatest;
    void *counts;

    CUDA_TRY(cudaDeviceGetStreamPriorityRange(&least, &greatest));
    CUDA_TRY(cudaStreamCreateWithPriority(&s->stream, cudaStreamNonBlocking, greatest));
    CUDA_TRY(cudaEventCreateWithFlags(&s->begun, cudaEventDisableTiming));
    CUDA_TRY(cudaEventCreateWithFlags(&s->done, cudaEventDisableTiming));
    CUDA_TRY(cudaMallocHost(&counts, N_COUNTS * sizeof(int64_t)));
    s->counts = counts;
    memset(s->counts, 0, N_COUNTS * sizeof(int64_t));
    return STATUS_OK;
}

/* Every rank is here, and can be told things. */
static enum status meet(struct nccl_state *s, const struct collective_environment *ranks,
                        ncclUniqueId *id)
{
    struct rank_monitor_options options;
    struct invitation invitation;

    TRY(rank_monitor_options_read(&options, ranks));
    s->call_ns = options.late_ns;
    memset(&invitation, 0, sizeof(invitation));
    struct rank_exchange_options exchange = {
        .rank = ranks->rank,
        .world = ranks->world,
        .host = options.host,
        .key = options.key,
        .deadline_ns = 2 * options.late_ns, /* the monitor says more, and sooner */
    };
    if (ranks->rank == 0) {
        int port = 0;
        ncclResult_t result = ncclGetUniqueId(&invitation.id);
        if (result != ncclSuccess)
            return refused(s, result, "ncclGetUniqueId");
        TRY(rank_exchange_listen(&s->exchange, &exchange, &port));
        invitation.exchange_port = port;
    }
    rank_monitor_look(s->monitor, look, s);
    TRY(rank_monitor_join(s->monitor, &invitation, sizeof(invitation)));
    if (ranks->rank != 0)
        TRY(rank_exchange_connect(&s->exchange, &exchange, invitation.exchange_port));
    *id = invitation.id;
    return STATUS_OK;
}

static enum status join(struct nccl_state *s, const struct collective_environment *ranks)
{
    ncclConfig_t config = NCCL_CONFIG_INITIALIZER;
    ncclUniqueId id;

    TRY(meet(s, ranks, &id));
    rank_monitor_progress(s->monitor, 0, "joins the communicator");
    config.blocking = 0;
    begin_call(s);
    TRY(end_call(s, ncclCommInitRankConfig(&s->comm, ranks->world, id, ranks->rank, &config),
                 "initialisation"));
    pthread_mutex_lock(&s->lock);
    s->ready = true;
    pthread_mutex_unlock(&s->lock);
    rank_monitor_progress(s->monitor, 0, "starts");
    return STATUS_OK;
}

enum status kernels_collective_open(struct collective *out, struct device *device,
                                    struct rank_monitor *monitor)
{
    struct collective_environment ranks;
    struct nccl_state *s;

    TRY(collective_environment_read(&ranks));
    TRY(memory_alloc(&s, 1, sizeof(*s), "NCCL"));
    pthread_mutex_init(&s->lock, NULL);
    s->device = device;
    s->monitor = monitor;
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
    if (status != STATUS_OK) {
        rank_monitor_fail(monitor, status_message()); /* before NCCL may stand still */
        collective_close(out);
    }
    return status;
}
