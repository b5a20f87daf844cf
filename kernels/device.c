/* A CUDA accelerator as a device: streams, copies, graphs. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "kernels/cuda_check.h"
#include "kernels/cuda_device.h"
#include "kernels/kernels.h"
#include "kernels/matmul.h"
#include "proto/base/memory.h"

/* The kernels use what came with compute capability 8.0: bf16 products, asynchronous copies. */
enum { OLDEST_CAPABILITY = 80 };

/* What cuBLASLt recommends: 32 MiB from Hopper on, 4 MiB before. */
static size_t matmul_workspace_bytes(int compute_capability)
{
    return (size_t)(compute_capability >= 90 ? 32 : 4) << 20;
}

/* ------------------------------------------------------------------------------ memory */

static enum status cuda_alloc(struct device *device, void **out, size_t bytes, const char *what)
{
    size_t free_bytes = 0, total_bytes = 0;
    cudaError_t error = cudaMalloc(out, bytes > 0 ? bytes : 1);

    /* a size beyond every machine is no valid value to some drivers */
    if (error == cudaErrorMemoryAllocation || error == cudaErrorInvalidValue) {
        (void)cudaGetLastError();
        CUDA_TRY(cudaMemGetInfo(&free_bytes, &total_bytes));
        FAIL(
            STATUS_NO_MEMORY,
            "%s: wanted %.2f GiB on CUDA device %d (%s), which has %.2f of %.2f GiB free; make the "
            "batch smaller, or end what else runs there",
            what, (double)bytes / 0x1p30, device->ordinal, cuda_device_of(device)->name,
            (double)free_bytes / 0x1p30, (double)total_bytes / 0x1p30);
    }
    CUDA_TRY(error);
    return STATUS_OK;
}

static enum status cuda_memory(struct device *device, size_t *free_bytes, size_t *total_bytes)
{
    (void)device;
    CUDA_TRY(cudaMemGetInfo(free_bytes, total_bytes));
    return STATUS_OK;
}

static void cuda_free(struct device *device, void *pointer)
{
    (void)device;
    (void)cudaFree(pointer);
}

static enum status cuda_alloc_host(struct device *device, void **out, size_t bytes,
                                   const char *what)
{
    (void)device;
    cudaError_t error = cudaMallocHost(out, bytes > 0 ? bytes : 1);

    if (error == cudaErrorMemoryAllocation) {
        (void)cudaGetLastError();
        FAIL(STATUS_NO_MEMORY, "%s: the driver could not pin %zu bytes of host memory", what,
             bytes);
    }
    CUDA_TRY(error);
    memset(*out, 0, bytes);
    return STATUS_OK;
}

static void cuda_free_host(struct device *device, void *pointer)
{
    (void)device;
    (void)cudaFreeHost(pointer);
}

/* The branch's working memory, if it has some, is freed when nobody can use it any more: now, or
 * with the last graph. */
static enum status give_up_scratch(struct cuda_device *cuda, struct cuda_branch *branch)
{
    struct cuda_outgrown *outgrown;

    if (cuda->n_graphs > 0 && branch->scratch != NULL) {
        TRY(memory_alloc(&outgrown, 1, sizeof(*outgrown), "list of outgrown working memory"));
        *outgrown = (struct cuda_outgrown){branch->scratch, cuda->outgrown};
        cuda->outgrown = outgrown;
    } else {
        CUDA_TRY(cudaStreamSynchronize(branch->stream));
        (void)cudaFree(branch->scratch);
    }
    branch->scratch = NULL;
    branch->scratch_bytes = 0;
    return STATUS_OK;
}

static void free_outgrown(struct cuda_device *cuda)
{
    if (cuda->outgrown != NULL)
        (void)cudaDeviceSynchronize(); /* a graph may be under way */
    for (struct cuda_outgrown *one; (one = cuda->outgrown) != NULL;) {
        cuda->outgrown = one->next;
        (void)cudaFree(one->memory);
        memory_free(one);
    }
}

enum status cuda_scratch(struct device *device, void *out, size_t bytes)
{
    struct cuda_device *cuda = cuda_device_of(device);
    struct cuda_branch *branch = &cuda->branches[cuda->branch];

    if (branch->scratch_bytes < bytes) {
        CHECK(!cuda->capturing, "working memory of %zu bytes in a captured step, planned %zu",
              bytes, branch->scratch_bytes);
        TRY(give_up_scratch(cuda, branch));
        TRY(cuda_alloc(device, &branch->scratch, bytes, "working memory of the CUDA ops"));
        branch->scratch_bytes = bytes;
    }
    *(void **)out = branch->scratch;
    return STATUS_OK;
}

/* ------------------------------------------------------------------------------ copies */

static enum status cuda_copy_in(struct device *device, void *to, const void *from, size_t bytes)
{
    if (bytes > 0)
        CUDA_TRY(cudaMemcpyAsync(to, from, bytes, cudaMemcpyHostToDevice, cuda_stream(device)));
    return STATUS_OK;
}

static enum status cuda_copy_out(struct device *device, void *to, const void *from, size_t bytes)
{
    if (bytes > 0)
        CUDA_TRY(cudaMemcpyAsync(to, from, bytes, cudaMemcpyDeviceToHost, cuda_stream(device)));
    return STATUS_OK;
}

static enum status cuda_copy(struct device *device, void *to, const void *from, size_t bytes)
{
    if (bytes > 0)
        CUDA_TRY(cudaMemcpyAsync(to, from, bytes, cudaMemcpyDeviceToDevice, cuda_stream(device)));
    return STATUS_OK;
}

static enum status cuda_zero(struct device *device, void *pointer, size_t bytes)
{
    if (bytes > 0)
        CUDA_TRY(cudaMemsetAsync(pointer, 0, bytes, cuda_stream(device)));
    return STATUS_OK;
}

static enum status cuda_synchronize(struct device *device)
{
    struct cuda_device *cuda = cuda_device_of(device);

    for (int i = 0; i < DEVICE_BRANCHES; i++)
        CUDA_TRY(cudaStreamSynchronize(cuda->branches[i].stream));
    CUDA_TRY(cudaStreamSynchronize(cuda->upload_stream));
    return STATUS_OK;
}

static enum status cuda_upload_begin(struct device *device)
{
    struct cuda_device *cuda = cuda_device_of(device);

    CUDA_TRY(cudaEventRecord(cuda->upload_event, cuda_stream(device)));
    CUDA_TRY(cudaStreamWaitEvent(cuda->upload_stream, cuda->upload_event, 0));
    return STATUS_OK;
}

static enum status cuda_upload(struct device *device, void *to, const void *from, size_t bytes)
{
    if (bytes > 0)
        CUDA_TRY(cudaMemcpyAsync(to, from, bytes, cudaMemcpyHostToDevice,
                                 cuda_device_of(device)->upload_stream));
    return STATUS_OK;
}

static enum status cuda_upload_end(struct device *device)
{
    struct cuda_device *cuda = cuda_device_of(device);

    CUDA_TRY(cudaEventRecord(cuda->upload_event, cuda->upload_stream));
    CUDA_TRY(cudaStreamWaitEvent(cuda_stream(device), cuda->upload_event, 0));
    return STATUS_OK;
}

/* ------------------------------------------------------------------------------ branches, marks */

static enum status after(struct cuda_branch *later, struct cuda_branch *earlier)
{
    CUDA_TRY(cudaEventRecord(earlier->event, earlier->stream));
    CUDA_TRY(cudaStreamWaitEvent(later->stream, earlier->event, 0));
    return STATUS_OK;
}

static enum status cuda_fork(struct device *device)
{
    struct cuda_device *cuda = cuda_device_of(device);
    return after(&cuda->branches[1], &cuda->branches[0]);
}

static void cuda_use_branch(struct device *device, int branch)
{
    CHECK(branch >= 0 && branch < DEVICE_BRANCHES, "branch %d", branch);
    cuda_device_of(device)->branch = branch;
}

static enum status cuda_join(struct device *device)
{
    struct cuda_device *cuda = cuda_device_of(device);

    cuda->branch = 0;
    return after(&cuda->branches[0], &cuda->branches[1]);
}

static enum status cuda_place(struct device *device, int which)
{
    CHECK(which >= 0 && which < DEVICE_PLACES, "place %d", which);
    CUDA_TRY(cudaEventRecord(cuda_device_of(device)->places[which], cuda_stream(device)));
    return STATUS_OK;
}

static enum status cuda_after(struct device *device, int which)
{
    CHECK(which >= 0 && which < DEVICE_PLACES, "place %d", which);
    CUDA_TRY(cudaStreamWaitEvent(cuda_stream(device), cuda_device_of(device)->places[which], 0));
    return STATUS_OK;
}

static enum status cuda_mark(struct device *device, int which)
{
    struct cuda_device *cuda = cuda_device_of(device);

    CHECK(which >= 0 && which < DEVICE_MARKS, "mark %d", which);
    CUDA_TRY(cudaEventRecord(cuda->marks[which], cuda->branches[0].stream));
    return STATUS_OK;
}

static enum status cuda_wait_mark(struct device *device, int which)
{
    CHECK(which >= 0 && which < DEVICE_MARKS, "mark %d", which);
    CUDA_TRY(cudaEventSynchronize(cuda_device_of(device)->marks[which]));
    return STATUS_OK;
}

/* ------------------------------------------------------------------------------ graphs */

static enum status cuda_capture_begin(struct device *device)
{
    struct cuda_device *cuda = cuda_device_of(device);

    CHECK(!cuda->capturing && cuda->branch == 0);
    CUDA_TRY(cudaStreamBeginCapture(cuda->branches[0].stream, cudaStreamCaptureModeThreadLocal));
    cuda->capturing = true;
    return STATUS_OK;
}

static enum status cuda_capture_end(struct device *device, struct device_graph **out)
{
    struct cuda_device *cuda = cuda_device_of(device);
    cudaGraph_t graph = NULL;
    cudaGraphExec_t executable = NULL;

    CHECK(cuda->capturing);
    cuda->capturing = false;
    cuda->branch = 0;
    CUDA_TRY(cudaStreamEndCapture(cuda->branches[0].stream, &graph));
    cudaError_t error = cudaGraphInstantiate(&executable, graph, 0);
    (void)cudaGraphDestroy(graph);
    CUDA_TRY(error);
    *out = (struct device_graph *)(void *)executable;
    cuda->n_graphs++;
    return STATUS_OK;
}

static enum status cuda_graph_launch(struct device *device, struct device_graph *graph)
{
    CUDA_TRY(cudaGraphLaunch((cudaGraphExec_t)(void *)graph, cuda_stream(device)));
    return STATUS_OK;
}

static void cuda_graph_release(struct device *device, struct device_graph **graph)
{
    struct cuda_device *cuda = cuda_device_of(device);

    if (graph == NULL || *graph == NULL)
        return;
    (void)cudaGraphExecDestroy((cudaGraphExec_t)(void *)*graph);
    *graph = NULL;
    if (--cuda->n_graphs == 0)
        free_outgrown(cuda);
}

/* ------------------------------------------------------------------------------ life */

static void detach(struct cuda_attachment *attachment)
{
    if (attachment->state != NULL)
        attachment->release(attachment->state);
    attachment->state = NULL;
}

static void cuda_close(struct device *device)
{
    struct cuda_device *cuda = cuda_device_of(device);

    if (cuda == NULL)
        return;
    (void)cudaDeviceSynchronize();
    detach(&cuda->matmul_plans);
    detach(&cuda->attention_plans);
    free_outgrown(cuda);
    if (cuda->matmul != NULL)
        (void)cublasLtDestroy(cuda->matmul);
    for (int i = 0; i < DEVICE_BRANCHES; i++) {
        struct cuda_branch *branch = &cuda->branches[i];
        (void)cudaFree(branch->scratch);
        (void)cudaFree(branch->matmul_workspace);
        if (branch->event != NULL)
            (void)cudaEventDestroy(branch->event);
        if (branch->stream != NULL)
            (void)cudaStreamDestroy(branch->stream);
    }
    for (int i = 0; i < DEVICE_MARKS; i++)
        if (cuda->marks[i] != NULL)
            (void)cudaEventDestroy(cuda->marks[i]);
    for (int i = 0; i < DEVICE_PLACES; i++)
        if (cuda->places[i] != NULL)
            (void)cudaEventDestroy(cuda->places[i]);
    if (cuda->upload_event != NULL)
        (void)cudaEventDestroy(cuda->upload_event);
    if (cuda->upload_stream != NULL)
        (void)cudaStreamDestroy(cuda->upload_stream);
    memory_free(cuda);
}

/* A launcher may let each rank see a single device, its own (srun --gpus-per-task=1). */
static bool sees_its_own_alone(int n_devices)
{
    const char *visible = getenv("CUDA_VISIBLE_DEVICES");
    return n_devices == 1 && visible != NULL && visible[0] != '\0' && strchr(visible, ',') == NULL;
}

/* Which accelerator, and whether it will do. */
static enum status choose(struct cuda_device *cuda, int ordinal)
{
    struct cudaDeviceProp properties;
    int n = 0;
    cudaError_t error = cudaGetDeviceCount(&n);

    if (error != cudaSuccess || n == 0)
        FAIL(STATUS_NOT_FOUND,
             "no CUDA device is to be had: %s; is the driver loaded (nvidia-smi)? '--backend cpu' "
             "needs none",
             error != cudaSuccess ? cudaGetErrorString(error) : "the driver counts 0");
    if (ordinal > 0 && sees_its_own_alone(n))
        ordinal = 0;
    if (ordinal < 0 || ordinal >= n)
        FAIL(STATUS_NOT_FOUND,
             "CUDA device %d was asked for (each rank of a machine takes the one of its local "
             "rank), this machine has %d: start at most one rank for each (CUDA_VISIBLE_DEVICES "
             "chooses among them)",
             ordinal, n);
    CUDA_TRY(cudaSetDevice(ordinal));
    CUDA_TRY(cudaGetDeviceProperties(&properties, ordinal));
    cuda->ordinal = ordinal;
    cuda->sm_count = properties.multiProcessorCount;
    cuda->compute_capability = 10 * properties.major + properties.minor;
    cuda->shared_bytes = properties.sharedMemPerBlockOptin;
    snprintf(cuda->name, sizeof(cuda->name), "%s", properties.name);
    if (cuda->compute_capability < OLDEST_CAPABILITY)
        FAIL(STATUS_UNSUPPORTED,
             "CUDA device %d (%s) has compute capability %d.%d; the kernels need %d.%d or newer",
             ordinal, cuda->name, properties.major, properties.minor, OLDEST_CAPABILITY / 10,
             OLDEST_CAPABILITY % 10);
    return STATUS_OK;
}

static enum status open_streams(struct cuda_device *cuda)
{
    for (int i = 0; i < DEVICE_BRANCHES; i++) {
        struct cuda_branch *branch = &cuda->branches[i];
        CUDA_TRY(cudaStreamCreateWithFlags(&branch->stream, cudaStreamNonBlocking));
        CUDA_TRY(cudaEventCreateWithFlags(&branch->event, cudaEventDisableTiming));
        CUDA_TRY(cudaMalloc(&branch->matmul_workspace, cuda->matmul_workspace_bytes));
    }
    CUDA_TRY(cudaStreamCreateWithFlags(&cuda->upload_stream, cudaStreamNonBlocking));
    CUDA_TRY(cudaEventCreateWithFlags(&cuda->upload_event, cudaEventDisableTiming));
    for (int i = 0; i < DEVICE_MARKS; i++)
        CUDA_TRY(cudaEventCreateWithFlags(&cuda->marks[i], cudaEventDisableTiming));
    for (int i = 0; i < DEVICE_PLACES; i++)
        CUDA_TRY(cudaEventCreateWithFlags(&cuda->places[i], cudaEventDisableTiming));
    CUBLAS_TRY(cublasLtCreate(&cuda->matmul));
    return STATUS_OK;
}

enum status kernels_device_open(struct device *out, int ordinal)
{
    struct cuda_device *cuda;

    TRY(memory_alloc(&cuda, 1, sizeof(*cuda), "CUDA device"));
    *out = (struct device){
        .kind = DEVICE_CUDA,
        .ordinal = ordinal,
        .n_threads = 1,
        .state = cuda,
        .memory = cuda_memory,
        .alloc = cuda_alloc,
        .free = cuda_free,
        .alloc_host = cuda_alloc_host,
        .free_host = cuda_free_host,
        .copy_in = cuda_copy_in,
        .copy_out = cuda_copy_out,
        .copy = cuda_copy,
        .zero = cuda_zero,
        .synchronize = cuda_synchronize,
        .upload_begin = cuda_upload_begin,
        .upload = cuda_upload,
        .upload_end = cuda_upload_end,
        .fork = cuda_fork,
        .use_branch = cuda_use_branch,
        .join = cuda_join,
        .place = cuda_place,
        .after = cuda_after,
        .mark = cuda_mark,
        .wait_mark = cuda_wait_mark,
        .capture_begin = cuda_capture_begin,
        .capture_end = cuda_capture_end,
        .graph_launch = cuda_graph_launch,
        .graph_release = cuda_graph_release,
        .tune = matmul_set_tuning,
        .close = cuda_close,
    };
    enum status status = choose(cuda, ordinal);
    if (status == STATUS_OK) {
        cuda->matmul_workspace_bytes = matmul_workspace_bytes(cuda->compute_capability);
        status = open_streams(cuda);
    }
    if (status != STATUS_OK)
        device_close(out);
    return status;
}
