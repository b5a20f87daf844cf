/* A communicator of NCCL, and how its calls answer. */
#ifndef IBOT_TESTS_CUDA_EMULATOR_COMMUNICATOR_H
#define IBOT_TESTS_CUDA_EMULATOR_COMMUNICATOR_H

#include <atomic>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include <nccl.h>

#include "tests/cuda_emulator/meeting.h"
#include "tests/cuda_emulator/runtime.h"

struct collective_call; /* nccl_collectives.cpp */

struct ncclComm {
    emulator::meeting *shared = nullptr;
    emulator::meeting_place place = {};
    int rank = 0, world = 0, device = 0;
    std::atomic<bool> busy{false}, aborted{false};
    std::atomic<int> state{ncclSuccess}; /* what ncclCommGetAsyncError says */
    const char *gone = nullptr;          /* destroyed or aborted: by which call */
    bool finalized = false;
    /* the call in progress: asked again and again, at first `n_polls` times for nothing */
    std::function<ncclResult_t()> pending;
    uint32_t n_polls = 0;
    uint64_t n_begun = 0, n_pieces = 0;
    emulator::stream_place last; /* of what was queued and is no graph's */
    std::vector<std::weak_ptr<collective_call>> captured;
    std::string error;
};

namespace emulator
{
/* The code that NCCL would return, explained on stderr and to ncclGetLastError. */
ncclResult_t deny(ncclComm_t comm, ncclResult_t result, const char *format, ...)
    __attribute__((format(printf, 3, 4)));

/* A call on a communicator: no other may be under way, and it must be alive. */
struct communicator_use {
    ncclComm_t comm;
    communicator_use(ncclComm_t used, const char *call);
    ~communicator_use();
};

/* NCCL refuses a communicator whose last call is still in progress, or that has failed. */
ncclResult_t expect_ready(ncclComm_t comm, const char *call);

/* The call is in progress: it has happened when `work` no longer says so. */
ncclResult_t begin(ncclComm_t comm, std::function<ncclResult_t()> work);
} // namespace emulator

#endif
