#include "tests/cuda_emulator/runtime.h"

#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include <map>

#include <emulator.h>

#include "tests/cuda_emulator/block.h"
#include "tests/cuda_emulator/graph.h"
#include "tests/cuda_emulator/memory.h"
#include "tests/cuda_emulator/report.h"
#include "tests/cuda_emulator/shared.h"

namespace emulator
{
static pthread_mutex_t mutex = PTHREAD_RECURSIVE_MUTEX_INITIALIZER_NP;
/* of this process, also destroyed ones; never destroyed itself */
static std::vector<CUstream_st *> &streams = *new std::vector<CUstream_st *>;
static std::map<const void *, int> dynamic_shared_limits;
static thread_local int device_of_thread;

runtime_lock::runtime_lock()
{
    pthread_mutex_lock(&mutex);
    memory_start();
}

runtime_lock::~runtime_lock()
{
    pthread_mutex_unlock(&mutex);
}

runtime_attempt::runtime_attempt() : locked(pthread_mutex_trylock(&mutex) == 0)
{
}

runtime_attempt::~runtime_attempt()
{
    if (locked)
        pthread_mutex_unlock(&mutex);
}

int current_device()
{
    return device_of_thread;
}

/* Nothing can go on in this process: others, and other threads of it, get their turn. */
static void wait_a_little()
{
    pthread_mutex_unlock(&mutex);
    usleep(50);
    pthread_mutex_lock(&mutex);
}

/* The stream of all who name none. */
CUstream_st *stream_of(cudaStream_t stream)
{
    static CUstream_st *unnamed;
    if (stream != nullptr)
        return stream;
    if (unnamed == nullptr)
        streams.push_back(unnamed = new CUstream_st);
    unnamed->device = device_of_thread;
    return unnamed;
}

bool is_stream(cudaStream_t stream)
{
    for (const CUstream_st *known : streams)
        if (known == stream && !known->destroyed)
            return true;
    return stream == nullptr;
}

/* ------------------------------------------------------------------------------ running */

static bool reached(const stream_place &place)
{
    return place.stream == nullptr || place.stream->n_done >= place.n;
}

/* Does what is next in the stream; false when that waits for something. */
static bool advance(CUstream_st *stream)
{
    operation &work = stream->work.front();

    if (!reached(stream->waits.front()))
        return false;
    if (work.run) {
        if (!stream->head_begun && work.begin)
            work.begin();
        stream->head_begun = true;
        if (!work.run())
            return false;
        check_red_zones();
    }
    stream->head_begun = false;
    stream->work.pop_front();
    stream->waits.pop_front();
    stream->n_done++;
    return true;
}

/* Lets one stream, at random, do one piece; false when none could. */
static bool advance_any()
{
    uint32_t n = (uint32_t)streams.size(), first = n > 0 ? random_below(n) : 0;

    for (uint32_t i = 0; i < n; i++) {
        CUstream_st *stream = streams[(first + i) % n];
        if (!stream->work.empty() && advance(stream))
            return true;
    }
    return false;
}

void finish(const stream_place &place)
{
    if (reached(place))
        return;
    device_unlocked unlocked;
    while (!reached(place))
        if (!advance_any())
            wait_a_little();
}

bool poll(const stream_place &place)
{
    if (reached(place))
        return true;
    device_unlocked unlocked;
    (void)advance_any();
    return reached(place);
}

void finish_all()
{
    device_unlocked unlocked;
    for (;;) {
        bool busy = false;
        for (const CUstream_st *stream : streams)
            busy |= !stream->work.empty();
        if (!busy)
            return;
        if (!advance_any())
            wait_a_little();
    }
}

static bool is_eager()
{
    static const bool eager = environment_number("IBOT_EMULATOR_EAGER", 0) != 0;
    return eager;
}

static void append(CUstream_st *stream, operation &&work, const stream_place &wait)
{
    stream->work.push_back(std::move(work));
    stream->waits.push_back(wait);
    stream->n_queued++;
    if (is_eager())
        finish({stream, stream->n_queued});
}

void queue_wait(CUstream_st *stream, const stream_place &place)
{
    append(stream, {"a wait", nullptr, nullptr}, place);
}

cudaError_t queue(cudaStream_t handle, operation &&work)
{
    CUstream_st *stream = stream_of(handle);

    if (!is_stream(handle))
        return refuse(cudaErrorInvalidResourceHandle, "%s: no such stream", work.name);
    if (stream->recording != nullptr)
        return record(stream, std::move(work));
    if (handle == nullptr)
        if (cudaError_t error = forbid_implicit(work.name))
            return error;
    append(stream, std::move(work), {});
    return cudaSuccess;
}

cudaError_t queue(cudaStream_t stream, const char *name, std::function<void()> run)
{
    return queue(stream, operation{name,
                                   [run = std::move(run)] {
                                       run();
                                       return true;
                                   },
                                   nullptr});
}

/* ------------------------------------------------------------------------------ kernels */

/* The environment may name one of this process's kernels, by its number, that never ends. */
static bool kernel_hangs()
{
    static const uint64_t hangs = environment_number("IBOT_EMULATOR_KERNEL_HANGS", 0);
    static uint64_t n_begun;
    return ++n_begun == hangs;
}

cudaError_t queue_kernel(kernel_launch &&launch, cudaStream_t stream,
                         const pointer_argument *pointers, int n_pointers)
{
    runtime_lock lock;
    const dim3 &grid = launch.grid, &block = launch.block;
    uint64_t n_threads = (uint64_t)block.x * block.y * block.z;
    auto limit = dynamic_shared_limits.find(launch.kernel);
    size_t most =
        limit != dynamic_shared_limits.end() ? (size_t)limit->second : (size_t)SHARED_DEFAULT_MOST;

    if (grid.x == 0 || grid.y == 0 || grid.z == 0 || grid.x > INT32_MAX || grid.y > 65535 ||
        grid.z > 65535)
        return refuse(cudaErrorInvalidConfiguration, "kernel '%s': a grid of %u x %u x %u",
                      launch.name, grid.x, grid.y, grid.z);
    if (n_threads == 0 || n_threads > MOST_THREADS || block.z > 64)
        return refuse(cudaErrorInvalidConfiguration, "kernel '%s': a block of %u x %u x %u threads",
                      launch.name, block.x, block.y, block.z);
    if (launch.shared_bytes > most)
        return refuse(
            cudaErrorInvalidValue,
            "kernel '%s': %zu bytes of dynamic shared memory; %zu are allowed (more, up to "
            "%d, with cudaFuncSetAttribute)",
            launch.name, launch.shared_bytes, most, SHARED_OPTIN_MOST);
    for (int i = 0; i < n_pointers; i++) {
        const allocation *memory = find_device(pointers[i].pointer);
        if (memory == nullptr && find_pinned(pointers[i].pointer) == nullptr)
            fail("kernel '%s': argument %d, %p, %s", launch.name, pointers[i].place,
                 pointers[i].pointer, device_range_error(pointers[i].pointer, 0));
        if (memory != nullptr && memory->device != current_device())
            fail("kernel '%s': argument %d is memory of device %d, the kernel runs on device %d",
                 launch.name, pointers[i].place, memory->device, current_device());
    }
    if (is_stream(stream) && stream_of(stream)->device != current_device())
        return refuse(cudaErrorInvalidResourceHandle,
                      "kernel '%s': a stream of device %d, and the thread is at device %d",
                      launch.name, stream_of(stream)->device, current_device());
    const char *name = launch.name;
    launch.opted_in = limit != dynamic_shared_limits.end();
    auto stuck = std::make_shared<bool>(false);
    return queue(stream, operation{name,
                                   [launch = std::move(launch), stuck] {
                                       if (!*stuck)
                                           run_kernel(launch);
                                       return !*stuck;
                                   },
                                   [stuck] { *stuck = kernel_hangs(); }});
}
} // namespace emulator

using namespace emulator;

cudaError_t cudaFuncSetAttribute(const void *function, enum cudaFuncAttribute attribute, int value)
{
    runtime_lock lock;

    if (attribute != cudaFuncAttributeMaxDynamicSharedMemorySize)
        return cudaSuccess;
    if (value < 0 || value > SHARED_OPTIN_MOST)
        return refuse(
            cudaErrorInvalidValue,
            "cudaFuncSetAttribute: %d bytes of dynamic shared memory; a block has at most "
            "%d",
            value, SHARED_OPTIN_MOST);
    dynamic_shared_limits[function] = value;
    return cudaSuccess;
}

/* By threads and shared memory: registers are not known here. */
cudaError_t cudaOccupancyMaxActiveBlocksPerMultiprocessor(int *n_blocks, const void *function,
                                                          int n_threads, size_t shared_bytes)
{
    runtime_lock lock;
    auto limit = dynamic_shared_limits.find(function);
    size_t most =
        limit != dynamic_shared_limits.end() ? (size_t)limit->second : (size_t)SHARED_DEFAULT_MOST;

    if (n_blocks == nullptr || n_threads <= 0 || n_threads > MOST_THREADS)
        return cudaErrorInvalidValue;
    int by_memory = (int)((SHARED_OPTIN_MOST + 1024) / (shared_bytes + 1024));
    int by_threads = 2048 / n_threads;
    *n_blocks = shared_bytes > most ? 0 : by_memory < by_threads ? by_memory : by_threads;
    return cudaSuccess;
}

/* ------------------------------------------------------------------------------ the device */

cudaError_t cudaDriverGetVersion(int *version)
{
    *version = CUDART_VERSION;
    return cudaSuccess;
}

cudaError_t cudaRuntimeGetVersion(int *version)
{
    *version = CUDART_VERSION;
    return cudaSuccess;
}

/* The devices of the machine that this process sees: all, or those that CUDA_VISIBLE_DEVICES lists
 * by their numbers, up to the first that there is none of. */
static std::vector<int> visible_devices()
{
    const char *list = getenv("CUDA_VISIBLE_DEVICES");
    int n = (int)environment_number("IBOT_EMULATOR_DEVICES", 1);
    std::vector<int> devices;

    for (int i = 0; list == nullptr && i < n; i++)
        devices.push_back(i);
    for (char *end; list != nullptr; list = *end == ',' ? end + 1 : nullptr) {
        long device = strtol(list, &end, 10);
        if (end == list || device < 0 || device >= n)
            break;
        devices.push_back((int)device);
    }
    return devices;
}

cudaError_t cudaGetDeviceCount(int *count)
{
    runtime_lock lock;
    *count = (int)visible_devices().size();
    return *count > 0 ? cudaSuccess : remember(cudaErrorNoDevice);
}

static cudaError_t expect_device(int device)
{
    int n;

    if (cudaError_t error = cudaGetDeviceCount(&n))
        return error;
    return device >= 0 && device < n ? cudaSuccess
                                     : refuse(cudaErrorInvalidDevice, "device %d of %d", device, n);
}

cudaError_t cudaSetDevice(int device)
{
    if (cudaError_t error = expect_device(device))
        return error;
    device_of_thread = device;
    return cudaSuccess;
}

cudaError_t cudaGetDevice(int *device)
{
    *device = current_device();
    return cudaSuccess;
}

/* Few multiprocessors: loops over the grid must go round even in small tests. */
cudaError_t cudaGetDeviceProperties(struct cudaDeviceProp *properties, int device)
{
    size_t free_bytes;
    int capability = (int)environment_number("IBOT_EMULATOR_CAPABILITY", 90);

    if (cudaError_t error = expect_device(device))
        return error;
    memset(properties, 0, sizeof(*properties));
    snprintf(properties->name, sizeof(properties->name), "CUDA emulator");
    (void)cudaMemGetInfo(&free_bytes, &properties->totalGlobalMem);
    properties->sharedMemPerBlock = SHARED_DEFAULT_MOST;
    properties->warpSize = LANES;
    properties->maxThreadsPerBlock = MOST_THREADS;
    properties->major = capability / 10;
    properties->minor = capability % 10;
    properties->multiProcessorCount = (int)environment_number("IBOT_EMULATOR_MULTIPROCESSORS", 4);
    properties->l2CacheSize = 1 << 20;
    properties->sharedMemPerBlockOptin = SHARED_OPTIN_MOST;
    properties->pciDeviceID = visible_devices()[(size_t)device];
    return cudaSuccess;
}

cudaError_t cudaDeviceGetAttribute(int *value, enum cudaDeviceAttr attribute, int device)
{
    struct cudaDeviceProp properties;

    if (cudaError_t error = cudaGetDeviceProperties(&properties, device))
        return error;
    switch (attribute) {
    case cudaDevAttrMaxThreadsPerBlock:
        *value = properties.maxThreadsPerBlock;
        return cudaSuccess;
    case cudaDevAttrMaxSharedMemoryPerBlock:
        *value = (int)properties.sharedMemPerBlock;
        return cudaSuccess;
    case cudaDevAttrWarpSize:
        *value = properties.warpSize;
        return cudaSuccess;
    case cudaDevAttrMultiProcessorCount:
        *value = properties.multiProcessorCount;
        return cudaSuccess;
    case cudaDevAttrL2CacheSize:
        *value = properties.l2CacheSize;
        return cudaSuccess;
    case cudaDevAttrComputeCapabilityMajor:
        *value = properties.major;
        return cudaSuccess;
    case cudaDevAttrComputeCapabilityMinor:
        *value = properties.minor;
        return cudaSuccess;
    case cudaDevAttrMaxSharedMemoryPerBlockOptin:
        *value = (int)properties.sharedMemPerBlockOptin;
        return cudaSuccess;
    }
    return refuse(cudaErrorInvalidValue, "cudaDeviceGetAttribute: attribute %d", (int)attribute);
}

cudaError_t cudaDeviceSynchronize(void)
{
    runtime_lock lock;

    if (cudaError_t error = forbid_in_capture("cudaDeviceSynchronize"))
        return error;
    finish_all();
    return cudaSuccess;
}

/* ------------------------------------------------------------------------------ streams */

cudaError_t cudaStreamCreateWithPriority(cudaStream_t *stream, unsigned flags, int priority)
{
    runtime_lock lock;

    if (stream == nullptr || flags > cudaStreamNonBlocking)
        return refuse(cudaErrorInvalidValue, "cudaStreamCreate: flags %u", flags);
    (void)priority;
    streams.push_back(*stream = new CUstream_st);
    (*stream)->device = current_device();
    (*stream)->blocking = flags == cudaStreamDefault;
    return cudaSuccess;
}

cudaError_t cudaStreamCreateWithFlags(cudaStream_t *stream, unsigned flags)
{
    return cudaStreamCreateWithPriority(stream, flags, 0);
}

cudaError_t cudaStreamCreate(cudaStream_t *stream)
{
    return cudaStreamCreateWithPriority(stream, cudaStreamDefault, 0);
}

cudaError_t cudaDeviceGetStreamPriorityRange(int *least, int *greatest)
{
    *least = 0;
    *greatest = -5;
    return cudaSuccess;
}

cudaError_t cudaStreamDestroy(cudaStream_t stream)
{
    runtime_lock lock;

    if (stream == nullptr || !is_stream(stream))
        return refuse(cudaErrorInvalidResourceHandle, "cudaStreamDestroy: no such stream");
    if (stream->recording != nullptr)
        return refuse(cudaErrorStreamCaptureUnsupported, "cudaStreamDestroy of a capturing stream");
    finish({stream, stream->n_queued});
    stream->destroyed = true; /* kept: events name its places */
    return cudaSuccess;
}

cudaError_t cudaStreamSynchronize(cudaStream_t stream)
{
    runtime_lock lock;

    if (!is_stream(stream))
        return refuse(cudaErrorInvalidResourceHandle, "cudaStreamSynchronize: no such stream");
    CUstream_st *s = stream_of(stream);
    if (cudaError_t error = forbid_captured(s, "cudaStreamSynchronize"))
        return error;
    if (cudaError_t error = forbid_in_capture("cudaStreamSynchronize"))
        return error;
    finish({s, s->n_queued});
    return cudaSuccess;
}

/* Busy: some thread runs work, so that this is not done, or not known to be. A thread that watches
 * must not be held up by it. */
cudaError_t cudaStreamQuery(cudaStream_t stream)
{
    runtime_attempt attempt;

    if (!attempt.locked)
        return remember(cudaErrorNotReady);
    if (!is_stream(stream))
        return refuse(cudaErrorInvalidResourceHandle, "cudaStreamQuery: no such stream");
    CUstream_st *s = stream_of(stream);
    if (cudaError_t error = forbid_captured(s, "cudaStreamQuery"))
        return error;
    if (cudaError_t error = forbid_in_capture("cudaStreamQuery"))
        return error;
    return poll({s, s->n_queued}) ? cudaSuccess : remember(cudaErrorNotReady);
}
