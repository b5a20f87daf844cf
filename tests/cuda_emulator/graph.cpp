#include "tests/cuda_emulator/graph.h"

#include <algorithm>

#include "tests/cuda_emulator/report.h"

using namespace emulator;

/* Those that were made and not destroyed. */
static std::vector<cudaGraphExec_t> &executables = *new std::vector<cudaGraphExec_t>;

/* Captures of this process that have begun and not ended. */
static std::vector<std::shared_ptr<capture>> captures;
static std::vector<CUstream_st *> capturing; /* streams in one of them */

static cudaError_t break_capture(capture &c, const char *why)
{
    c.broken = true;
    c.why = why;
    return cudaErrorStreamCaptureInvalidated;
}

namespace emulator
{
cudaError_t forbid_in_capture(const char *call)
{
    for (const auto &c : captures) {
        if (c->mode == cudaStreamCaptureModeRelaxed ||
            (c->mode == cudaStreamCaptureModeThreadLocal &&
             !pthread_equal(c->thread, pthread_self())))
            continue;
        break_capture(*c, call);
        return refuse(cudaErrorStreamCaptureUnsupported, "%s while a stream is captured", call);
    }
    return cudaSuccess;
}

cudaError_t forbid_captured(const CUstream_st *stream, const char *call)
{
    if (stream->recording == nullptr)
        return cudaSuccess;
    break_capture(*stream->recording, call);
    return refuse(cudaErrorStreamCaptureUnsupported, "%s of a captured stream", call);
}

cudaError_t forbid_captured(const CUevent_st *event, const char *call)
{
    if (event->recording == nullptr)
        return cudaSuccess;
    break_capture(*event->recording, call);
    return refuse(cudaErrorCapturedEvent, "%s of an event that was recorded in a capture", call);
}

cudaError_t forbid_implicit(const char *call)
{
    for (CUstream_st *stream : capturing) {
        if (!stream->blocking)
            continue;
        break_capture(*stream->recording, call);
        return refuse(cudaErrorStreamCaptureImplicit,
                      "%s in the default stream while a stream that blocks with it is captured",
                      call);
    }
    return cudaSuccess;
}

cudaError_t record(CUstream_st *stream, operation &&work)
{
    capture &c = *stream->recording;

    if (c.broken)
        return refuse(cudaErrorStreamCaptureInvalidated, "%s: the capture was ended by %s",
                      work.name, c.why);
    c.graph->nodes.push_back({std::move(work), stream->frontier});
    stream->frontier = {(int)c.graph->nodes.size() - 1};
    return cudaSuccess;
}

cudaError_t record_event(CUevent_st *event, CUstream_st *stream)
{
    event->recording = stream->recording;
    event->frontier = stream->frontier;
    return cudaSuccess;
}

cudaError_t wait_for_captured(CUstream_st *stream, const CUevent_st *event)
{
    if (event->recording == nullptr) {
        break_capture(*stream->recording, "a wait for an event recorded outside it");
        return refuse(cudaErrorStreamCaptureIsolation,
                      "a captured stream waits for an event that was recorded outside the capture");
    }
    if (std::find(captures.begin(), captures.end(), event->recording) == captures.end())
        return refuse(cudaErrorCapturedEvent,
                      "a stream waits for an event of a capture that has ended");
    if (stream->recording == nullptr) { /* joins */
        stream->recording = event->recording;
        stream->frontier.clear();
        capturing.push_back(stream);
    } else if (stream->recording != event->recording) {
        break_capture(*stream->recording, "a wait for another capture");
        return refuse(cudaErrorStreamCaptureMerge, "a wait would merge two captures");
    }
    for (int node : event->frontier)
        if (std::find(stream->frontier.begin(), stream->frontier.end(), node) ==
            stream->frontier.end())
            stream->frontier.push_back(node);
    return cudaSuccess;
}
} // namespace emulator

/* ------------------------------------------------------------------------------ begin, end */

cudaError_t cudaStreamBeginCapture(cudaStream_t stream, enum cudaStreamCaptureMode mode)
{
    runtime_lock lock;

    if (!is_stream(stream))
        return refuse(cudaErrorInvalidResourceHandle, "cudaStreamBeginCapture: no such stream");
    if (stream == nullptr)
        return refuse(cudaErrorStreamCaptureUnsupported, "the default stream can't be captured");
    if (stream->recording != nullptr)
        return refuse(cudaErrorInvalidValue, "cudaStreamBeginCapture: already captured");
    auto c = std::make_shared<capture>();
    c->origin = stream;
    c->mode = mode;
    c->thread = pthread_self();
    c->graph = std::make_shared<CUgraph_st>();
    stream->recording = c;
    stream->frontier.clear();
    captures.push_back(c);
    capturing.push_back(stream);
    return cudaSuccess;
}

/* Marks all that the nodes of the frontier come after. */
static std::vector<bool> ancestors(const CUgraph_st &graph, const std::vector<int> &frontier)
{
    std::vector<bool> marked(graph.nodes.size(), false);

    for (int node : frontier)
        marked[(size_t)node] = true;
    for (size_t i = graph.nodes.size(); i-- > 0;)
        if (marked[i])
            for (int earlier : graph.nodes[i].after)
                marked[(size_t)earlier] = true;
    return marked;
}

cudaError_t cudaStreamEndCapture(cudaStream_t stream, cudaGraph_t *graph)
{
    runtime_lock lock;

    *graph = nullptr;
    if (stream == nullptr || !is_stream(stream) || stream->recording == nullptr)
        return refuse(cudaErrorInvalidValue, "cudaStreamEndCapture: the stream is not captured");
    std::shared_ptr<capture> c = stream->recording;
    if (c->origin != stream) {
        break_capture(*c, "cudaStreamEndCapture in another stream");
        return refuse(cudaErrorStreamCaptureUnmatched,
                      "cudaStreamEndCapture in another stream than cudaStreamBeginCapture");
    }
    if (c->mode != cudaStreamCaptureModeRelaxed && !pthread_equal(c->thread, pthread_self()))
        return refuse(cudaErrorStreamCaptureWrongThread,
                      "cudaStreamEndCapture in another thread than cudaStreamBeginCapture");
    std::vector<bool> joined = ancestors(*c->graph, stream->frontier);
    bool unjoined = false;
    for (size_t i = 0; i < capturing.size();) {
        CUstream_st *member = capturing[i];
        if (member->recording != c) {
            i++;
            continue;
        }
        for (int node : member->frontier)
            unjoined |= !joined[(size_t)node];
        member->recording = nullptr;
        member->frontier.clear();
        capturing.erase(capturing.begin() + (ptrdiff_t)i);
    }
    captures.erase(std::find(captures.begin(), captures.end(), c));
    if (c->broken)
        return refuse(cudaErrorStreamCaptureInvalidated, "the capture was ended by %s", c->why);
    if (unjoined)
        return refuse(cudaErrorStreamCaptureUnjoined,
                      "a stream that joined the capture was not joined back to its origin");
    *graph = new CUgraph_st(std::move(*c->graph));
    return cudaSuccess;
}

cudaError_t cudaStreamIsCapturing(cudaStream_t stream, enum cudaStreamCaptureStatus *status)
{
    runtime_lock lock;

    if (!is_stream(stream))
        return refuse(cudaErrorInvalidResourceHandle, "cudaStreamIsCapturing: no such stream");
    CUstream_st *s = stream_of(stream);
    *status = s->recording == nullptr ? cudaStreamCaptureStatusNone
              : s->recording->broken  ? cudaStreamCaptureStatusInvalidated
                                      : cudaStreamCaptureStatusActive;
    return cudaSuccess;
}

/* ------------------------------------------------------------------------------ graphs */

struct CUgraphExec_st {
    std::vector<graph_node> nodes;
    std::vector<std::vector<int>> before; /* of each node, those that come after it */
    int device = 0;
    stream_place last; /* launch: they come one after the other, in whatever streams */
    /* of the launch under way */
    std::vector<int> n_missing, ready;
    int n_left = 0, begun = -1; /* the node that waits for another process */
};

cudaError_t cudaGraphInstantiate(cudaGraphExec_t *executable, cudaGraph_t graph,
                                 unsigned long long flags)
{
    runtime_lock lock;

    if (graph == nullptr || flags != 0)
        return refuse(cudaErrorInvalidValue, "cudaGraphInstantiate: flags %llu", flags);
    executables.push_back(*executable = new CUgraphExec_st);
    (*executable)->device = current_device();
    (*executable)->nodes = graph->nodes;
    (*executable)->before.resize(graph->nodes.size());
    for (size_t i = 0; i < graph->nodes.size(); i++)
        for (int earlier : graph->nodes[i].after)
            (*executable)->before[(size_t)earlier].push_back((int)i);
    return cudaSuccess;
}

static void begin_launch(CUgraphExec_st &graph)
{
    graph.n_left = (int)graph.nodes.size();
    graph.n_missing.clear();
    graph.ready.clear();
    for (size_t i = 0; i < graph.nodes.size(); i++) {
        graph.n_missing.push_back((int)graph.nodes[i].after.size());
        if (graph.nodes[i].after.empty())
            graph.ready.push_back((int)i);
    }
}

/* One node of those that can run, at random. False when it waits for another process. */
static bool advance_launch(CUgraphExec_st &graph)
{
    uint32_t n = (uint32_t)graph.ready.size();
    int &slot = graph.ready[graph.begun >= 0 ? 0 : random_below(n)];

    if (graph.begun < 0) {
        std::swap(slot, graph.ready[0]);
        graph.begun = graph.ready[0];
        const operation &work = graph.nodes[(size_t)graph.begun].work;
        if (work.begin)
            work.begin();
    }
    int node = graph.begun;
    if (!graph.nodes[(size_t)node].work.run())
        return false;
    graph.begun = -1;
    graph.ready.erase(graph.ready.begin());
    graph.n_left--;
    for (int later : graph.before[(size_t)node])
        if (--graph.n_missing[(size_t)later] == 0)
            graph.ready.push_back(later);
    return true;
}

static bool is_executable(cudaGraphExec_t executable)
{
    return std::find(executables.begin(), executables.end(), executable) != executables.end();
}

cudaError_t cudaGraphLaunch(cudaGraphExec_t executable, cudaStream_t stream)
{
    runtime_lock lock;

    if (!is_executable(executable))
        return refuse(cudaErrorInvalidValue, "cudaGraphLaunch: no graph, or one destroyed");
    if (!is_stream(stream))
        return refuse(cudaErrorInvalidResourceHandle, "cudaGraphLaunch: no such stream");
    CUstream_st *s = stream_of(stream);
    if (cudaError_t error = forbid_captured(s, "cudaGraphLaunch"))
        return error;
    if (s->device != executable->device)
        return refuse(cudaErrorInvalidValue,
                      "cudaGraphLaunch: a graph of device %d, a stream of device %d",
                      executable->device, s->device);
    if (executable->last.stream != nullptr && executable->last.stream != s)
        queue_wait(s, executable->last);
    executable->last = {s, s->n_queued + 1};
    return queue(stream, operation{"a graph",
                                   [executable] {
                                       while (executable->n_left > 0)
                                           if (!advance_launch(*executable))
                                               return false;
                                       return true;
                                   },
                                   [executable] { begin_launch(*executable); }});
}

cudaError_t cudaGraphExecDestroy(cudaGraphExec_t executable)
{
    runtime_lock lock;

    if (!is_executable(executable))
        return refuse(cudaErrorInvalidValue, "cudaGraphExecDestroy: no graph, or destroyed twice");
    finish_all();
    executables.erase(std::find(executables.begin(), executables.end(), executable));
    delete executable;
    return cudaSuccess;
}

cudaError_t cudaGraphDestroy(cudaGraph_t graph)
{
    runtime_lock lock;

    if (graph == nullptr)
        return refuse(cudaErrorInvalidValue, "cudaGraphDestroy: no graph");
    delete graph;
    return cudaSuccess;
}
