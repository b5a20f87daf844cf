/* Streams, events and graphs. Work is queued and runs when the host waits for some of it: then the
 * streams take turns at random, so that work that nothing orders comes in any order, and a host
 * that touches a buffer too early is seen. */
#ifndef IBOT_TESTS_CUDA_EMULATOR_RUNTIME_H
#define IBOT_TESTS_CUDA_EMULATOR_RUNTIME_H

#include <pthread.h>
#include <stdint.h>

#include <deque>
#include <functional>
#include <memory>
#include <vector>

#include <cuda_runtime.h>

namespace emulator
{
/* Every call of the runtime and of the libraries holds it. */
struct runtime_lock {
    runtime_lock();
    ~runtime_lock();
};

struct runtime_attempt {
    bool locked; /* false: another thread has the lock */
    runtime_attempt();
    ~runtime_attempt();
};

/* Work for a stream; a graph keeps it and runs it again and again. */
struct operation {
    const char *name;
    /* Does some or all of it; false: it waits for another process, ask again. */
    std::function<bool()> run;
    /* Runs before run() of each time the operation comes up. */
    std::function<void()> begin;
};

/* A place in a stream: after the first `n` of its operations. */
struct stream_place {
    CUstream_st *stream = nullptr;
    uint64_t n = 0;
};

/* Queues work on a stream, or records it when the stream is capturing. */
cudaError_t queue(cudaStream_t stream, const char *name, std::function<void()> run);
cudaError_t queue(cudaStream_t stream, operation &&work);

/* Runs until everything queued is done. */
void finish_all(void);
/* Runs until the place is reached. */
void finish(const stream_place &place);
/* Does one piece of work if the place is not reached; true when it is. */
bool poll(const stream_place &place);

/* The stream of a handle (null: the one of all who name none), and whether there is such a one. */
CUstream_st *stream_of(cudaStream_t stream);
bool is_stream(cudaStream_t stream);
/* Queues a wait: what follows on the stream comes after the place. */
void queue_wait(CUstream_st *stream, const stream_place &place);

/* Of this thread: what cudaSetDevice said last. */
int current_device(void);

/* An error when this thread is capturing: calls that must not happen then, and end the capture. */
cudaError_t forbid_in_capture(const char *call);
} // namespace emulator

/* ------------------------------------------------------------------------------ graphs */

struct graph_node {
    emulator::operation work;
    std::vector<int> after;
};

struct CUgraph_st {
    std::vector<graph_node> nodes;
};

/* A capture under way: streams that have joined it, and what they come after. */
struct capture {
    CUstream_st *origin;
    cudaStreamCaptureMode mode;
    pthread_t thread; /* that began it */
    std::shared_ptr<CUgraph_st> graph;
    bool broken = false;
    const char *why = ""; /* it is broken */
};

struct CUstream_st {
    std::deque<emulator::operation> work;     /* not done */
    std::deque<emulator::stream_place> waits; /* of each: n > 0 for one that is a wait */
    uint64_t n_queued = 0, n_done = 0;
    bool head_begun = false;
    bool destroyed = false;
    int device = 0;
    bool blocking = false;              /* with the one of all who name none */
    std::shared_ptr<capture> recording; /* null: runs */
    std::vector<int> frontier;          /* nodes that its next one comes after */
};

struct CUevent_st {
    emulator::stream_place place;
    bool recorded = false;
    unsigned flags = 0;
    int device = 0;
    std::shared_ptr<uint64_t> time_ns;  /* of the last record */
    std::shared_ptr<capture> recording; /* recorded in a capture */
    std::vector<int> frontier;
};

#endif
