/* Collectives of NCCL: queued on streams or recorded in graphs, passed in pieces through the memory
 * that the ranks share, sums in the order of the ranks.
 *
 * Asked of callers, beyond what NCCL asks: what one communicator does is ordered, on every rank
 * alike, by streams, events or the edges of a graph. (NCCL would order it as it was launched.) */
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include "tests/cuda_emulator/communicator.h"
#include "tests/cuda_emulator/memory.h"
#include "tests/cuda_emulator/report.h"

using namespace emulator;

enum collective_kind { ALL_REDUCE, BROADCAST, ALL_GATHER };

static const char *const kind_names[] = {"ncclAllReduce", "ncclBroadcast", "ncclAllGather"};
static const char *const type_names[] = {"int8",   "uint8",   "int32",   "uint32",  "int64",
                                         "uint64", "float16", "float32", "float64", "bfloat16"};
static const size_t type_bytes[] = {1, 1, 4, 4, 8, 8, 2, 4, 8, 2};

/* One call; in a graph it runs at each launch. */
struct collective_call {
    ncclComm_t comm;
    collective_kind kind;
    const char *send;
    char *receive;
    size_t count;
    ncclDataType_t type;
    ncclRedOp_t op;
    int root;
    bool captured;
    /* of the run under way */
    uint64_t number;
    size_t first; /* element of the piece */
    bool posted, stuck;
};

/* ------------------------------------------------------------------------------ running */

static void begin_run(collective_call &call)
{
    static const uint64_t hangs = environment_number("IBOT_EMULATOR_NCCL_HANGS", 0);
    static const uint64_t fails = environment_number("IBOT_EMULATOR_NCCL_FAILS", 0);

    call.number = ++call.comm->n_begun;
    call.first = 0;
    call.posted = false;
    call.stuck = call.number == hangs || call.number == fails;
    if (call.number == fails) {
        call.comm->error = "the environment says that this collective fails";
        call.comm->state = ncclRemoteError;
    }
}

static size_t piece_count(const collective_call &call)
{
    size_t most = PIECE_BYTES / type_bytes[call.type], left = call.count - call.first;
    return left < most ? left : most;
}

static void describe(const piece_label &label, char *out, size_t bytes)
{
    snprintf(out, bytes, "%s of %llu %s%s", kind_names[label.kind], (unsigned long long)label.count,
             type_names[label.type], label.captured != 0 ? " in a graph" : "");
}

static void expect_same_call(const ncclComm *comm, const piece_label &own, int rank,
                             const piece_label &other)
{
    char here[96], there[96];

    if (memcmp(&own, &other, sizeof(own)) == 0)
        return;
    describe(own, here, sizeof(here));
    describe(other, there, sizeof(there));
    fail("ranks differ in their collective %llu: rank %d calls %s (root %d), rank %d calls %s "
         "(root %d); NCCL would hang, or mix their bytes",
         (unsigned long long)own.number, comm->rank, here, own.root, rank, there, other.root);
}

template <class T> static void add_pieces(const ncclComm *comm, int place, char *to, size_t n)
{
    T *sum = reinterpret_cast<T *>(to);

    memcpy(to, comm->shared->bytes[0][place], n * sizeof(T));
    for (int r = 1; r < comm->world; r++) {
        const T *values = reinterpret_cast<const T *>(comm->shared->bytes[r][place]);
        for (size_t i = 0; i < n; i++)
            sum[i] += values[i];
    }
}

static void take(const collective_call &call, int place, size_t n)
{
    const ncclComm *comm = call.comm;
    size_t bytes = type_bytes[call.type], at = call.first * bytes;

    if (call.kind == BROADCAST) {
        memcpy(call.receive + at, comm->shared->bytes[call.root][place], n * bytes);
    } else if (call.kind == ALL_GATHER) {
        for (int r = 0; r < comm->world; r++)
            memcpy(call.receive + (size_t)r * call.count * bytes + at,
                   comm->shared->bytes[r][place], n * bytes);
    } else if (call.type == ncclFloat32) {
        add_pieces<float>(comm, place, call.receive + at, n);
    } else if (call.type == ncclFloat64) {
        add_pieces<double>(comm, place, call.receive + at, n);
    } else {
        add_pieces<int32_t>(comm, place, call.receive + at, n);
    }
}

/* Has every rank counted this far? */
static bool all_have(const ncclComm *comm, std::atomic<uint64_t> meeting_rank::*counter, uint64_t n)
{
    for (int r = 0; r < comm->world; r++)
        if ((comm->shared->ranks[r].*counter).load(std::memory_order_acquire) < n)
            return false;
    return true;
}

static void post(const collective_call &call, int place, size_t n)
{
    ncclComm *comm = call.comm;
    size_t bytes = type_bytes[call.type];
    piece_label &label = comm->shared->ranks[comm->rank].labels[place];

    label = {call.kind,     call.type,   call.op,    call.root,
             call.captured, call.number, call.count, call.first};
    if (call.kind != BROADCAST || call.root == comm->rank)
        memcpy(comm->shared->bytes[comm->rank][place], call.send + call.first * bytes, n * bytes);
    comm->shared->ranks[comm->rank].posted.store(comm->n_pieces + 1, std::memory_order_release);
}

/* Pieces until one waits for another rank. */
static bool run_call(collective_call &call)
{
    ncclComm *comm = call.comm;

    for (;;) {
        uint64_t piece = comm->n_pieces;
        int place = (int)(piece % 2);
        size_t n = piece_count(call);
        if (comm->aborted)
            return true;
        if (call.stuck || comm->shared == nullptr)
            return false;
        if (!call.posted) {
            if (piece > 0 && !all_have(comm, &meeting_rank::taken, piece - 1))
                return false;
            post(call, place, n);
            call.posted = true;
        }
        if (!all_have(comm, &meeting_rank::posted, piece + 1))
            return false;
        for (int r = 0; r < comm->world; r++)
            expect_same_call(comm, comm->shared->ranks[comm->rank].labels[place], r,
                             comm->shared->ranks[r].labels[place]);
        take(call, place, n);
        comm->shared->ranks[comm->rank].taken.store(piece + 1, std::memory_order_release);
        comm->n_pieces++;
        call.posted = false;
        call.first += n;
        if (call.first == call.count)
            return true;
    }
}

/* ------------------------------------------------------------------------------ calls */

static ncclResult_t queue_call(const std::shared_ptr<collective_call> &call, cudaStream_t stream)
{
    CUstream_st *s = stream_of(stream);
    cudaError_t error =
        queue(stream, operation{kind_names[call->kind], [call] { return run_call(*call); },
                                [call] { begin_run(*call); }});
    if (error != cudaSuccess)
        return deny(call->comm, ncclUnhandledCudaError, "%s: %s", kind_names[call->kind],
                    cudaGetErrorString(error));
    if (call->captured)
        call->comm->captured.push_back(call);
    else
        call->comm->last = {s, s->n_queued};
    return ncclSuccess;
}

/* A kernel would fault at them, long after the call. */
static void check_memory(const collective_call &call)
{
    const ncclComm *comm = call.comm;
    const char *name = kind_names[call.kind];
    bool gathers = call.kind == ALL_GATHER,
         sends = call.kind != BROADCAST || call.root == comm->rank;
    size_t bytes = call.count * type_bytes[call.type];
    size_t all = gathers ? bytes * (size_t)comm->world : bytes;
    const char *own = call.receive + (gathers ? bytes * (size_t)comm->rank : 0);

    if (const char *wrong = bytes > 0 ? device_range_error(call.receive, all) : nullptr)
        fail("%s of %zu %s: the receive buffer %p %s", name, call.count, type_names[call.type],
             static_cast<const void *>(call.receive), wrong);
    if (!sends || bytes == 0)
        return;
    if (const char *wrong = device_range_error(call.send, bytes))
        fail("%s of %zu %s: the send buffer %p %s", name, call.count, type_names[call.type],
             static_cast<const void *>(call.send), wrong);
    if (call.send != own && call.send < call.receive + all && call.receive < call.send + bytes)
        fail("%s: the buffers overlap, and it is not in place", name);
    for (const void *buffer :
         {static_cast<const void *>(call.send), static_cast<const void *>(call.receive)})
        if (find_device(buffer)->device != comm->device)
            fail("%s: the communicator is of device %d, a buffer of device %d", name, comm->device,
                 find_device(buffer)->device);
}

static ncclResult_t make(collective_call &&made, cudaStream_t stream)
{
    ncclComm_t comm = made.comm;
    const char *name = kind_names[made.kind];
    communicator_use use(comm, name);
    runtime_lock lock;
    int device;

    if (ncclResult_t result = expect_ready(comm, name))
        return result;
    if (comm->finalized)
        return deny(comm, ncclInvalidArgument, "%s after ncclCommFinalize", name);
    bool sums = made.kind == ALL_REDUCE;
    if (made.root < 0 || made.root >= comm->world || made.type < 0 || made.type >= ncclNumTypes)
        return deny(comm, ncclInvalidArgument, "%s: root %d, type %d", name, made.root,
                    (int)made.type);
    if (sums && (made.op != ncclSum ||
                 (made.type != ncclFloat32 && made.type != ncclFloat64 && made.type != ncclInt32)))
        return deny(comm, ncclInvalidArgument, "the emulator sums float32, float64 and int32");
    if (!is_stream(stream))
        return deny(comm, ncclInvalidArgument, "%s: no such stream", name);
    (void)cudaGetDevice(&device);
    if (device != comm->device || stream_of(stream)->device != comm->device)
        fail("%s: the communicator is of device %d, the stream of device %d, and the thread is at "
             "device %d",
             name, comm->device, stream_of(stream)->device, device);
    check_memory(made);
    made.captured = stream_of(stream)->recording != nullptr;
    auto call = std::make_shared<collective_call>(std::move(made));
    return begin(comm, [call, stream] { return queue_call(call, stream); });
}

static collective_call call_of(ncclComm_t comm, collective_kind kind, const void *send,
                               void *receive, size_t count, ncclDataType_t type)
{
    collective_call call = {};

    call.comm = comm;
    call.kind = kind;
    call.send = static_cast<const char *>(send);
    call.receive = static_cast<char *>(receive);
    call.count = count;
    call.type = type;
    return call;
}

ncclResult_t ncclAllReduce(const void *send, void *receive, size_t count, ncclDataType_t type,
                           ncclRedOp_t op, ncclComm_t comm, cudaStream_t stream)
{
    collective_call call = call_of(comm, ALL_REDUCE, send, receive, count, type);
    call.op = op;
    return make(std::move(call), stream);
}

ncclResult_t ncclBroadcast(const void *send, void *receive, size_t count, ncclDataType_t type,
                           int root, ncclComm_t comm, cudaStream_t stream)
{
    collective_call call = call_of(comm, BROADCAST, send, receive, count, type);
    call.root = root;
    return make(std::move(call), stream);
}

ncclResult_t ncclAllGather(const void *send, void *receive, size_t send_count, ncclDataType_t type,
                           ncclComm_t comm, cudaStream_t stream)
{
    return make(call_of(comm, ALL_GATHER, send, receive, send_count, type), stream);
}
