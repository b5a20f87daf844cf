/* The CUDA device behind struct device: streams, library handles, working memory. For the files of
 * this folder.
 *
 * Streams: `branch` 0 is the device's stream; the others run beside it, between fork and join or
 * places. Ops go to the branch that is in use; each branch has working memory and a cuBLASLt
 * workspace of its own. Uploads have one more stream. One thread drives a device. */
#ifndef IBOT_KERNELS_CUDA_DEVICE_H
#define IBOT_KERNELS_CUDA_DEVICE_H

#include <cublasLt.h>
#include <cuda_runtime_api.h>
#include <stdbool.h>

#include "ops/device.h"

#ifdef __cplusplus
extern "C" {
#endif

/* What a library wrapper keeps with the device: made at first use, released at close. */
struct cuda_attachment {
    void *state;
    void (*release)(void *state);
};

/* Working memory that was outgrown while there were graphs: what they recorded still uses it. */
struct cuda_outgrown {
    void *memory;
    struct cuda_outgrown *next;
};

struct cuda_branch {
    cudaStream_t stream;
    cudaEvent_t event; /* its last fork or join */
    void *matmul_workspace;
    void *scratch;
    size_t scratch_bytes;
};

struct cuda_device {
    int ordinal;
    int sm_count;
    int compute_capability; /* 80, 90, … */
    size_t shared_bytes;    /* most shared memory of a block, opted in */
    char name[256];
    struct cuda_branch branches[DEVICE_BRANCHES];
    int branch; /* in use */
    cudaStream_t upload_stream;
    cudaEvent_t upload_event;
    cudaEvent_t marks[DEVICE_MARKS], places[DEVICE_PLACES];
    size_t matmul_workspace_bytes;
    cublasLtHandle_t matmul;
    struct cuda_attachment matmul_plans;    /* kernels/matmul.c */
    struct cuda_attachment attention_plans; /* kernels/attention_cudnn.c */
    bool capturing;
    int n_graphs;                   /* recorded and not released */
    struct cuda_outgrown *outgrown; /* freed with the last graph */
};

static inline struct cuda_device *cuda_device_of(const struct device *device)
{
    return (struct cuda_device *)device->state;
}

static inline cudaStream_t cuda_stream(const struct device *device)
{
    const struct cuda_device *cuda = cuda_device_of(device);
    return cuda->branches[cuda->branch].stream;
}

/* Working memory of the branch in use, at least `bytes`, aligned to 256: valid until the next call,
 * and to what a graph has recorded as long as there are graphs. Grown on first use and kept;
 * growing may wait for the device, and is an error in a captured step. */
enum status cuda_scratch(struct device *device, void *out, size_t bytes) IBOT_WARN_UNUSED;

#ifdef __cplusplus
}
#endif

#endif
