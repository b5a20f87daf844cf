/* Attention by cuDNN's graph interface, described or run wrongly, each time in one way. */
#include <cuda_bf16.h>
#include <cudnn.h>

#include <math.h>
#include <string.h>

#include "tests/cuda_emulator/planted.h"

enum { LENGTH = 4, WIDTH = 8, Q = 1, K, V, OUT, STATS, SCALE };

__global__ static void fill(__nv_bfloat16 *to, int n, float value)
{
    for (int i = (int)threadIdx.x; i < n; i += (int)blockDim.x)
        to[i] = __float2bfloat16_rn(value);
}

struct attention_call {
    int64_t key_stride = WIDTH, stats_stride = 1;
    int bound_twice = 0, not_bound = 0; /* tensors */
    bool scale_on_device = false, without_workspace = false;
    size_t key_offset = 0; /* bytes */
};

static cudnnBackendDescriptor_t describe(cudnnBackendDescriptorType_t type)
{
    cudnnBackendDescriptor_t d;
    MUST(cudnnBackendCreateDescriptor(type, &d) == CUDNN_STATUS_SUCCESS);
    return d;
}

static void set(cudnnBackendDescriptor_t d, cudnnBackendAttributeName_t name,
                cudnnBackendAttributeType_t type, int64_t n, const void *values)
{
    MUST(cudnnBackendSetAttribute(d, name, type, n, values) == CUDNN_STATUS_SUCCESS);
}

static void set(cudnnBackendDescriptor_t d, cudnnBackendAttributeName_t name,
                cudnnBackendDescriptor_t value)
{
    set(d, name, CUDNN_TYPE_BACKEND_DESCRIPTOR, 1, &value);
}

static cudnnBackendDescriptor_t tensor(int64_t uid, cudnnDataType_t type, int64_t rows,
                                       int64_t columns, int64_t row_stride,
                                       int64_t column_stride = 1, const char *kind = "")
{
    int64_t dims[4] = {1, 1, rows, columns}, alignment = 16;
    int64_t strides[4] = {rows * columns, rows * columns, row_stride, column_stride};
    cudnnBackendDescriptor_t d = describe(CUDNN_BACKEND_TENSOR_DESCRIPTOR);
    bool yes = true;

    set(d, CUDNN_ATTR_TENSOR_UNIQUE_ID, CUDNN_TYPE_INT64, 1, &uid);
    set(d, CUDNN_ATTR_TENSOR_DATA_TYPE, CUDNN_TYPE_DATA_TYPE, 1, &type);
    set(d, CUDNN_ATTR_TENSOR_DIMENSIONS, CUDNN_TYPE_INT64, 4, dims);
    set(d, CUDNN_ATTR_TENSOR_STRIDES, CUDNN_TYPE_INT64, 4, strides);
    set(d, CUDNN_ATTR_TENSOR_BYTE_ALIGNMENT, CUDNN_TYPE_INT64, 1, &alignment);
    if (strcmp(kind, "virtual") == 0)
        set(d, CUDNN_ATTR_TENSOR_IS_VIRTUAL, CUDNN_TYPE_BOOLEAN, 1, &yes);
    if (strcmp(kind, "value") == 0)
        set(d, CUDNN_ATTR_TENSOR_IS_BY_VALUE, CUDNN_TYPE_BOOLEAN, 1, &yes);
    MUST(cudnnBackendFinalize(d) == CUDNN_STATUS_SUCCESS);
    return d;
}

static cudnnStatus_t make_plan(cudnnHandle_t handle, cudnnBackendDescriptor_t operation,
                               cudnnBackendDescriptor_t *plan)
{
    cudnnBackendDescriptor_t graph = describe(CUDNN_BACKEND_OPERATIONGRAPH_DESCRIPTOR);
    cudnnBackendDescriptor_t heuristics = describe(CUDNN_BACKEND_ENGINEHEUR_DESCRIPTOR);
    cudnnBackendDescriptor_t config = describe(CUDNN_BACKEND_ENGINECFG_DESCRIPTOR);
    cudnnBackendHeurMode_t mode = CUDNN_HEUR_MODE_A;
    int64_t n;

    set(graph, CUDNN_ATTR_OPERATIONGRAPH_OPS, operation);
    set(graph, CUDNN_ATTR_OPERATIONGRAPH_HANDLE, CUDNN_TYPE_HANDLE, 1, &handle);
    cudnnStatus_t status = cudnnBackendFinalize(graph);
    if (status != CUDNN_STATUS_SUCCESS)
        return status;
    set(heuristics, CUDNN_ATTR_ENGINEHEUR_OPERATION_GRAPH, graph);
    set(heuristics, CUDNN_ATTR_ENGINEHEUR_MODE, CUDNN_TYPE_HEUR_MODE, 1, &mode);
    MUST(cudnnBackendFinalize(heuristics) == CUDNN_STATUS_SUCCESS);
    MUST(cudnnBackendGetAttribute(heuristics, CUDNN_ATTR_ENGINEHEUR_RESULTS,
                                  CUDNN_TYPE_BACKEND_DESCRIPTOR, 1, &n,
                                  &config) == CUDNN_STATUS_SUCCESS);
    *plan = describe(CUDNN_BACKEND_EXECUTION_PLAN_DESCRIPTOR);
    set(*plan, CUDNN_ATTR_EXECUTION_PLAN_ENGINE_CONFIG, config);
    set(*plan, CUDNN_ATTR_EXECUTION_PLAN_HANDLE, CUDNN_TYPE_HANDLE, 1, &handle);
    return cudnnBackendFinalize(*plan);
}

/* Queries of zeros: every key counts alike. The status that it ends with. */
static cudnnStatus_t attend(const attention_call &c, float *out, float *stats)
{
    __nv_bfloat16 *rows = device_array<__nv_bfloat16>(4 * LENGTH * WIDTH);
    float *lse = device_array<float>(LENGTH), *device_scale = device_array<float>(1), scale = 0.5f;
    char *workspace = device_array<char>(256);
    cudnnBackendDescriptor_t plan, pack = describe(CUDNN_BACKEND_VARIANT_PACK_DESCRIPTOR);
    cudnnBackendDescriptor_t op = describe(CUDNN_BACKEND_OPERATION_SDPA_FWD_DESCRIPTOR);
    void *pointers[8],
        *of_tensors[] = {nullptr,   rows, (char *)rows + 64 + c.key_offset,         rows + 64,
                         rows + 96, lse,  c.scale_on_device ? device_scale : &scale};
    void *no_workspace = c.without_workspace ? nullptr : workspace;
    __nv_bfloat16 halves[LENGTH * WIDTH];
    int64_t uids[8], n = 0;
    cudnnHandle_t handle;

    run(1, 32, 0, fill, rows, 64, 0.0f);
    run(1, 32, 0, fill, rows + 64, 64, 3.0f);
    MUST(cudnnCreate(&handle) == CUDNN_STATUS_SUCCESS);
    set(op, CUDNN_ATTR_OPERATION_SDPA_FWD_QDESC,
        tensor(Q, CUDNN_DATA_BFLOAT16, LENGTH, WIDTH, WIDTH));
    set(op, CUDNN_ATTR_OPERATION_SDPA_FWD_KDESC,
        tensor(K, CUDNN_DATA_BFLOAT16, LENGTH, WIDTH, c.key_stride));
    set(op, CUDNN_ATTR_OPERATION_SDPA_FWD_VDESC,
        tensor(V, CUDNN_DATA_BFLOAT16, LENGTH, WIDTH, WIDTH));
    set(op, CUDNN_ATTR_OPERATION_SDPA_FWD_ODESC,
        tensor(OUT, CUDNN_DATA_BFLOAT16, LENGTH, WIDTH, WIDTH));
    set(op, CUDNN_ATTR_OPERATION_SDPA_FWD_STATSDESC,
        tensor(STATS, CUDNN_DATA_FLOAT, LENGTH, 1, c.stats_stride));
    set(op, CUDNN_ATTR_OPERATION_SDPA_FWD_SCALEDESC,
        tensor(SCALE, CUDNN_DATA_FLOAT, 1, 1, 1, 1, "value"));
    MUST(cudnnBackendFinalize(op) == CUDNN_STATUS_SUCCESS);
    MUST(make_plan(handle, op, &plan) == CUDNN_STATUS_SUCCESS);
    for (int uid = Q; uid <= SCALE; uid++)
        for (int i = 0; i < (uid == c.not_bound ? 0 : uid == c.bound_twice ? 2 : 1); i++) {
            uids[n] = uid;
            pointers[n++] = of_tensors[uid];
        }
    set(pack, CUDNN_ATTR_VARIANT_PACK_UNIQUE_IDS, CUDNN_TYPE_INT64, n, uids);
    set(pack, CUDNN_ATTR_VARIANT_PACK_DATA_POINTERS, CUDNN_TYPE_VOID_PTR, n, pointers);
    set(pack, CUDNN_ATTR_VARIANT_PACK_WORKSPACE, CUDNN_TYPE_VOID_PTR, 1, &no_workspace);
    MUST(cudnnBackendFinalize(pack) == CUDNN_STATUS_SUCCESS);
    cudnnStatus_t status = cudnnBackendExecute(handle, plan, pack);
    DONE(cudaDeviceSynchronize());
    if (out != nullptr) {
        DONE(cudaMemcpy(halves, rows + 96, sizeof(halves), cudaMemcpyDeviceToHost));
        for (int i = 0; i < LENGTH * WIDTH; i++)
            out[i] = __bfloat162float(halves[i]);
        download(stats, lse, LENGTH);
    }
    return status;
}

static void attention_right()
{
    float out[LENGTH * WIDTH], stats[LENGTH];
    MUST(attend({}, out, stats) == CUDNN_STATUS_SUCCESS);
    for (float value : out)
        MUST(value == 3.0f);
    for (float value : stats)
        MUST(fabsf(value - logf(LENGTH)) < 1e-6f);
}

static void attention_with_a_great_stride()
{
    attention_call c;
    c.key_stride = 1024;
    MUST(attend(c, nullptr, nullptr) == CUDNN_STATUS_BAD_PARAM);
}

static void attention_with_loose_statistics()
{
    attention_call c;
    c.stats_stride = 2;
    (void)attend(c, nullptr, nullptr);
}

static void attention_that_lacks_a_tensor()
{
    for (int uid = Q; uid <= SCALE; uid++) {
        attention_call c;
        c.not_bound = uid;
        MUST(attend(c, nullptr, nullptr) == CUDNN_STATUS_BAD_PARAM);
    }
}

static void attention_with_a_tensor_twice()
{
    attention_call c;
    c.bound_twice = STATS;
    MUST(attend(c, nullptr, nullptr) == CUDNN_STATUS_BAD_PARAM_DUPLICATED_ENTRIES);
}

static void attention_with_its_scale_on_the_device()
{
    attention_call c;
    c.scale_on_device = true;
    MUST(attend(c, nullptr, nullptr) == CUDNN_STATUS_BAD_PARAM);
}

static void attention_with_a_bad_alignment()
{
    attention_call c;
    c.key_offset = 2;
    MUST(attend(c, nullptr, nullptr) == CUDNN_STATUS_BAD_PARAM_MISALIGNED_POINTER);
}

static void attention_without_workspace()
{
    attention_call c;
    c.without_workspace = true;
    MUST(attend(c, nullptr, nullptr) == CUDNN_STATUS_BAD_PARAM);
}

/* y = x in another order, or not. */
static cudnnStatus_t reorder(int64_t row_stride, int64_t column_stride)
{
    cudnnBackendDescriptor_t op = describe(CUDNN_BACKEND_OPERATION_RESHAPE_DESCRIPTOR), plan;
    cudnnHandle_t handle;

    MUST(cudnnCreate(&handle) == CUDNN_STATUS_SUCCESS);
    set(op, CUDNN_ATTR_OPERATION_RESHAPE_XDESC, tensor(1, CUDNN_DATA_FLOAT, 3, 8, 8));
    set(op, CUDNN_ATTR_OPERATION_RESHAPE_YDESC,
        tensor(2, CUDNN_DATA_FLOAT, 8, 3, row_stride, column_stride, "virtual"));
    MUST(cudnnBackendFinalize(op) == CUDNN_STATUS_SUCCESS);
    return make_plan(handle, op, &plan);
}

static void transposition_with_wrong_strides()
{
    MUST(reorder(1, 8) == CUDNN_STATUS_SUCCESS);
    MUST(reorder(3, 1) == CUDNN_STATUS_BAD_PARAM);
}

std::vector<planted_case> attention_cases()
{
    return {
        RIGHT(attention_right),
        RIGHT(attention_with_a_great_stride),
        CASE(attention_with_loose_statistics, "is not packed"),
        RIGHT(attention_that_lacks_a_tensor),
        RIGHT(attention_with_a_tensor_twice),
        RIGHT(attention_with_its_scale_on_the_device),
        RIGHT(attention_with_a_bad_alignment),
        RIGHT(attention_without_workspace),
        RIGHT(transposition_with_wrong_strides),
    };
}
