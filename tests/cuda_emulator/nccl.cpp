/* Communicators of NCCL between processes of one machine. They do not block: a call is in progress
 * until ncclCommGetAsyncError has been asked a few times. */
#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "tests/cuda_emulator/communicator.h"
#include "tests/cuda_emulator/report.h"

using namespace emulator;

static std::string &last_error = *new std::string; /* outlives all, as do the next */
static std::vector<ncclComm_t> &communicators = *new std::vector<ncclComm_t>;

/* ------------------------------------------------------------------------------ answers */

static const char *const result_texts[] = {
    "no error",
    "unhandled cuda error",
    "unhandled system error",
    "internal error",
    "invalid argument",
    "invalid usage",
    "remote process exited or there was a network error",
    "NCCL operation in progress",
};

const char *ncclGetErrorString(ncclResult_t result)
{
    return result >= 0 && result < ncclNumResults ? result_texts[result] : "unknown result code";
}

const char *ncclGetLastError(ncclComm_t comm)
{
    return comm != nullptr ? comm->error.c_str() : last_error.c_str();
}

namespace emulator
{
ncclResult_t deny(ncclComm_t comm, ncclResult_t result, const char *format, ...)
{
    char text[512];
    va_list arguments;

    va_start(arguments, format);
    vsnprintf(text, sizeof(text), format, arguments);
    va_end(arguments);
    fprintf(stderr, "CUDA emulator: NCCL, %s: %s\n", ncclGetErrorString(result), text);
    last_error = text;
    if (comm != nullptr)
        comm->error = text;
    return result;
}

communicator_use::communicator_use(ncclComm_t used, const char *call) : comm(used)
{
    if (comm == nullptr)
        fail("%s without a communicator", call);
    if (comm->gone != nullptr)
        fail("%s after %s of the communicator", call, comm->gone);
    if (comm->busy.exchange(true))
        fail("%s while another thread is in a call on the same communicator", call);
}

communicator_use::~communicator_use()
{
    comm->busy = false;
}

ncclResult_t expect_ready(ncclComm_t comm, const char *call)
{
    int state = comm->state;

    if (comm->pending)
        return deny(comm, ncclInvalidArgument,
                    "%s before the previous call on the communicator has succeeded "
                    "(ncclCommGetAsyncError)",
                    call);
    if (state != ncclSuccess)
        return deny(comm, (ncclResult_t)state, "%s on a communicator that has failed", call);
    return ncclSuccess;
}

ncclResult_t begin(ncclComm_t comm, std::function<ncclResult_t()> work)
{
    comm->pending = std::move(work);
    comm->n_polls = 1 + random_below(3);
    comm->state = ncclInProgress;
    return ncclInProgress;
}
} // namespace emulator

/* ------------------------------------------------------------------------------ communicators */

ncclResult_t ncclGetVersion(int *version)
{
    *version = NCCL_VERSION_CODE;
    return ncclSuccess;
}

ncclResult_t ncclGetUniqueId(ncclUniqueId *id)
{
    runtime_lock lock;
    meeting_place place;

    if (!meeting_make(&place))
        return deny(nullptr, ncclSystemError, "ncclGetUniqueId: %s", strerror(errno));
    memset(id, 0, sizeof(*id));
    memcpy(id->internal, &place, sizeof(place));
    return ncclSuccess;
}

/* NCCL tells hosts apart by their names, and devices of a host by their bus. */
static uint64_t hash_host()
{
    const char *id = getenv("NCCL_HOSTID");
    char name[256] = "";
    uint64_t hash = 0xcbf29ce484222325u; /* FNV-1a */

    if (id == nullptr)
        gethostname(name, sizeof(name) - 1);
    for (const char *at = id != nullptr ? id : name; *at != '\0'; at++)
        hash = (hash ^ (unsigned char)*at) * 0x100000001b3u;
    return hash;
}

static ncclResult_t come(ncclComm_t comm)
{
    meeting_rank &own = comm->shared->ranks[comm->rank];
    int32_t nobody = 0;

    if (!comm->shared->world.compare_exchange_strong(nobody, comm->world) && nobody != comm->world)
        return deny(comm, ncclInvalidUsage, "rank %d says there are %d ranks, another one %d",
                    comm->rank, comm->world, nobody);
    if (own.present != 0)
        return deny(comm, ncclInvalidUsage, "there are two ranks %d", comm->rank);
    struct cudaDeviceProp properties;
    (void)cudaGetDeviceProperties(&properties, comm->device);
    own.device = properties.pciDeviceID;
    own.host = hash_host();
    own.present = 1;
    return ncclSuccess;
}

static ncclResult_t meet(ncclComm_t comm)
{
    static const bool hangs = environment_number("IBOT_EMULATOR_NCCL_INIT_HANGS", 0) != 0;

    if (hangs)
        return ncclInProgress;
    if (comm->shared == nullptr) {
        comm->shared = meeting_open(comm->place);
        if (comm->shared == nullptr)
            return deny(comm, ncclSystemError, "the rank that made the id is gone");
        if (ncclResult_t result = come(comm))
            return result;
    }
    for (int r = 0; r < comm->world; r++)
        if (comm->shared->ranks[r].present == 0)
            return ncclInProgress;
    for (int r = 0; r < comm->world; r++)
        for (int other = 0; other < r; other++) {
            const meeting_rank &a = comm->shared->ranks[r], &b = comm->shared->ranks[other];
            if (a.host == b.host && a.device == b.device)
                return deny(comm, ncclInvalidUsage,
                            "Duplicate GPU detected : rank %d and rank %d both on CUDA device %d",
                            r, other, (int)a.device);
        }
    return ncclSuccess;
}

ncclResult_t ncclCommInitRankConfig(ncclComm_t *out, int n_ranks, ncclUniqueId id, int rank,
                                    ncclConfig_t *config)
{
    runtime_lock lock;
    static const ncclConfig_t initial = NCCL_CONFIG_INITIALIZER;

    if (out == nullptr || n_ranks < 1 || rank < 0 || rank >= n_ranks)
        return deny(nullptr, ncclInvalidArgument, "ncclCommInitRankConfig: rank %d of %d", rank,
                    n_ranks);
    if (config == nullptr || config->size != initial.size || config->magic != initial.magic)
        return deny(nullptr, ncclInvalidArgument,
                    "ncclCommInitRankConfig: a configuration without NCCL_CONFIG_INITIALIZER");
    if (config->blocking != 0 || n_ranks > MOST_RANKS)
        return deny(nullptr, ncclInvalidUsage,
                    "the emulator has communicators that do not block (blocking = 0), of at most "
                    "%d ranks",
                    (int)MOST_RANKS);
    ncclComm_t comm = new ncclComm;
    communicators.push_back(comm); /* for ever: who uses one that is gone is told */
    memcpy(&comm->place, id.internal, sizeof(comm->place));
    comm->rank = rank;
    comm->world = n_ranks;
    (void)cudaGetDevice(&comm->device);
    *out = comm;
    return begin(comm, [comm] { return meet(comm); });
}

/* A thread that watches is not held up by work that runs, nor does it make the call go on then. */
ncclResult_t ncclCommGetAsyncError(ncclComm_t comm, ncclResult_t *error)
{
    communicator_use use(comm, "ncclCommGetAsyncError");
    runtime_attempt attempt;

    if (attempt.locked && comm->pending && comm->n_polls > 0) {
        comm->n_polls--;
    } else if (attempt.locked && comm->pending) {
        ncclResult_t result = comm->pending();
        if (result != ncclInProgress) {
            comm->pending = nullptr;
            comm->state = result;
        }
    }
    *error = (ncclResult_t)comm->state.load();
    return ncclSuccess;
}

static void expect_no_graphs(ncclComm_t comm, const char *call)
{
    for (const auto &recorded : comm->captured)
        if (!recorded.expired())
            fail("%s while there is a graph with a collective of the communicator: NCCL would wait "
                 "until it is destroyed",
                 call);
}

static ncclResult_t flush(ncclComm_t comm)
{
    meeting *shared = comm->shared;

    if (!poll(comm->last))
        return ncclInProgress;
    shared->ranks[comm->rank].finalized = 1;
    for (int r = 0; r < comm->world; r++)
        if (shared->ranks[r].finalized == 0)
            return ncclInProgress;
    comm->finalized = true;
    return ncclSuccess;
}

ncclResult_t ncclCommFinalize(ncclComm_t comm)
{
    communicator_use use(comm, "ncclCommFinalize");
    runtime_lock lock;

    if (ncclResult_t result = expect_ready(comm, "ncclCommFinalize"))
        return result;
    if (comm->finalized)
        return deny(comm, ncclInvalidArgument, "ncclCommFinalize, twice");
    expect_no_graphs(comm, "ncclCommFinalize");
    return begin(comm, [comm] { return flush(comm); });
}

ncclResult_t ncclCommDestroy(ncclComm_t comm)
{
    communicator_use use(comm, "ncclCommDestroy");
    runtime_lock lock;

    if (ncclResult_t result = expect_ready(comm, "ncclCommDestroy"))
        return result;
    if (!comm->finalized)
        fail("ncclCommDestroy of a communicator that was not finalized: it would wait for the "
             "other ranks, whatever its configuration says");
    comm->gone = "ncclCommDestroy";
    meeting_close(comm->shared);
    comm->shared = nullptr;
    return ncclSuccess;
}

/* Any thread, whatever another one does: what is queued ends without a result. */
ncclResult_t ncclCommAbort(ncclComm_t comm)
{
    if (comm == nullptr || comm->gone != nullptr)
        fail("ncclCommAbort after %s of the communicator",
             comm != nullptr ? comm->gone : "the lack");
    comm->aborted = true;
    comm->gone = "ncclCommAbort";
    return ncclSuccess;
}
