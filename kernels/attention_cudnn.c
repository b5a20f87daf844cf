/* Attention by cuDNN's graph interface: tensors and operations are described, cuDNN proposes
 * engines for the whole graph, and the first one that compiles is the plan.
 *
 * Backward, all between the tensors in virtual floats (T: transposed copy in bf16):
 *
 *   sum = rowsum(d_out * out)                  p  = exp(scale * q k' - stats)
 *   d_v = T(p) d_out                           ds = scale * p * (d_out v' - sum)
 *   d_k = T(ds) q                              d_q = ds k
 *
 * Known traps: stats and the sums must lie densely as [B, H, L], other strides are taken and give
 * wrong gradients; before 9.16 lengths that are no multiple of 128 need a mask in the
 * backward; 9.10 is broken. d_q by way of a float32 tensor is summed with atomics, in an
 * order left to chance; written directly, cuDNN keeps partial sums in its workspace and adds them
 * in order. */
#include "kernels/attention_cudnn.h"

#include <cudnn.h>
#include <cudnn_backend.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "kernels/cuda_device.h"
#include "proto/base/memory.h"
#include "proto/base/status.h"

enum { OLDEST_CUDNN = 91600, MOST_CONFIGS = 16, MOST_OPERATIONS = 20 };

/* Names of the tensors in a variant pack; virtual ones are numbered from FIRST_VIRTUAL on. */
enum uid {
    UID_Q = 1,
    UID_K,
    UID_V,
    UID_OUT,
    UID_STATS,
    UID_SCALE,
    UID_ONE,
    UID_D_OUT,
    UID_D_Q,
    UID_D_K,
    UID_D_V,
    UID_SUMS,
    FIRST_VIRTUAL,
};

static enum status refused(cudnnStatus_t answer, const char *call)
{
    char text[512] = "";

    cudnnGetLastErrorString(text, sizeof(text));
    FAIL(STATUS_DEVICE, "%s: %s (%s)", call, cudnnGetErrorString(answer), text);
}

#define CUDNN_TRY(call)                                                                            \
    do {                                                                                           \
        cudnnStatus_t cudnn_status_ = (call);                                                      \
        if (cudnn_status_ != CUDNN_STATUS_SUCCESS)                                                 \
            return refused(cudnn_status_, #call);                                                  \
    } while (0)

/* ------------------------------------------------------------------------------ descriptors */

/* A graph in the making. After the first failure nothing more is done; `status` tells. */
struct graph {
    struct attention_cudnn_plan *owner;
    cudnnBackendDescriptor_t operations[MOST_OPERATIONS];
    int n_operations;
    int64_t next_virtual;
    enum status status;
};

static enum status create(struct attention_cudnn_plan *owner, cudnnBackendDescriptorType_t type,
                          cudnnBackendDescriptor_t *out)
{
    const int most = (int)(sizeof(owner->descriptors) / sizeof(owner->descriptors[0]));

    CHECK(owner->n_descriptors < most, "a graph of more than %d descriptors", most);
    CUDNN_TRY(cudnnBackendCreateDescriptor(type, out));
    owner->descriptors[owner->n_descriptors++] = *out;
    return STATUS_OK;
}

static enum status set(cudnnBackendDescriptor_t descriptor, cudnnBackendAttributeName_t name,
                       cudnnBackendAttributeType_t type, int64_t n, const void *values)
{
    CUDNN_TRY(cudnnBackendSetAttribute(descriptor, name, type, n, values));
    return STATUS_OK;
}

static enum status set_descriptor(cudnnBackendDescriptor_t descriptor,
                                  cudnnBackendAttributeName_t name, cudnnBackendDescriptor_t value)
{
    return set(descriptor, name, CUDNN_TYPE_BACKEND_DESCRIPTOR, 1, &value);
}

/* ------------------------------------------------------------------------------ tensors */

enum tensor_place { IN_MEMORY, BY_VALUE, VIRTUAL };

static enum status describe_tensor(struct graph *graph, cudnnBackendDescriptor_t *out, int64_t uid,
                                   cudnnDataType_t type, const int64_t dims[4],
                                   const int64_t strides[4], enum tensor_place place)
{
    int64_t alignment = 16;
    bool yes = true;

    TRY(create(graph->owner, CUDNN_BACKEND_TENSOR_DESCRIPTOR, out));
    TRY(set(*out, CUDNN_ATTR_TENSOR_UNIQUE_ID, CUDNN_TYPE_INT64, 1, &uid));
    TRY(set(*out, CUDNN_ATTR_TENSOR_DATA_TYPE, CUDNN_TYPE_DATA_TYPE, 1, &type));
    TRY(set(*out, CUDNN_ATTR_TENSOR_DIMENSIONS, CUDNN_TYPE_INT64, 4, dims));
    TRY(set(*out, CUDNN_ATTR_TENSOR_STRIDES, CUDNN_TYPE_INT64, 4, strides));
    TRY(set(*out, CUDNN_ATTR_TENSOR_BYTE_ALIGNMENT, CUDNN_TYPE_INT64, 1, &alignment));
    if (place == BY_VALUE)
        TRY(set(*out, CUDNN_ATTR_TENSOR_IS_BY_VALUE, CUDNN_TYPE_BOOLEAN, 1, &yes));
    if (place == VIRTUAL)
        TRY(set(*out, CUDNN_ATTR_TENSOR_IS_VIRTUAL, CUDNN_TYPE_BOOLEAN, 1, &yes));
    CUDNN_TRY(cudnnBackendFinalize(*out));
    return STATUS_OK;
}

static cudnnBackendDescriptor_t tensor(struct graph *graph, int64_t uid, cudnnDataType_t type,
                                       const int64_t dims[4], const int64_t strides[4],
                                       enum tensor_place place)
{
    cudnnBackendDescriptor_t out = NULL;

    if (graph->status == STATUS_OK)
        graph->status = describe_tensor(graph, &out, place == VIRTUAL ? graph->next_virtual++ : uid,
                                        type, dims, strides, place);
    return out;
}

/* Dimensions and strides of what a graph knows; B, H, L, Dh. */
struct layout {
    int64_t rows[4], keys[4], scores[4], per_row[4], one[4]; /* [L, Dh], [Dh, L], [L, L], [L, 1] */
    int64_t qkv[4], qkv_transposed[4], out[4];               /* strides */
    int64_t scores_packed[4], scores_transposed[4], per_row_packed[4];
};

static struct layout layout_of(const struct attention_cudnn_shape *s)
{
    int64_t b = s->n_sequences, h = s->n_heads, l = s->length, d = s->head_dim, width = h * d;

    return (struct layout){
        .rows = {b, h, l, d},
        .keys = {b, h, d, l},
        .scores = {b, h, l, l},
        .per_row = {b, h, l, 1},
        .one = {1, 1, 1, 1},
        .qkv = {3 * width * l, d, 3 * width, 1},
        .qkv_transposed = {3 * width * l, d, 1, 3 * width},
        .out = {width * l, d, width, 1},
        .scores_packed = {h * l * l, l * l, l, 1},
        .scores_transposed = {h * l * l, l * l, 1, l},
        .per_row_packed = {h * l, l, 1, 1},
    };
}

/* ------------------------------------------------------------------------------ operations */

static void append(struct graph *graph, cudnnBackendDescriptor_t operation)
{
    CHECK(graph->n_operations < MOST_OPERATIONS);
    graph->operations[graph->n_operations++] = operation;
}

static enum status add_pointwise(struct graph *graph, cudnnPointwiseMode_t mode,
                                 cudnnBackendDescriptor_t x, cudnnBackendDescriptor_t b,
                                 cudnnBackendDescriptor_t y)
{
    cudnnDataType_t type = CUDNN_DATA_FLOAT;
    cudnnBackendDescriptor_t kind, op;

    TRY(create(graph->owner, CUDNN_BACKEND_POINTWISE_DESCRIPTOR, &kind));
    TRY(set(kind, CUDNN_ATTR_POINTWISE_MODE, CUDNN_TYPE_POINTWISE_MODE, 1, &mode));
    TRY(set(kind, CUDNN_ATTR_POINTWISE_MATH_PREC, CUDNN_TYPE_DATA_TYPE, 1, &type));
    CUDNN_TRY(cudnnBackendFinalize(kind));
    TRY(create(graph->owner, CUDNN_BACKEND_OPERATION_POINTWISE_DESCRIPTOR, &op));
    TRY(set_descriptor(op, CUDNN_ATTR_OPERATION_POINTWISE_PW_DESCRIPTOR, kind));
    TRY(set_descriptor(op, CUDNN_ATTR_OPERATION_POINTWISE_XDESC, x));
    if (b != NULL)
        TRY(set_descriptor(op, CUDNN_ATTR_OPERATION_POINTWISE_BDESC, b));
    TRY(set_descriptor(op, CUDNN_ATTR_OPERATION_POINTWISE_YDESC, y));
    CUDNN_TRY(cudnnBackendFinalize(op));
    append(graph, op);
    return STATUS_OK;
}

static enum status add_row_sum(struct graph *graph, cudnnBackendDescriptor_t x,
                               cudnnBackendDescriptor_t y)
{
    cudnnDataType_t type = CUDNN_DATA_FLOAT;
    cudnnReduceTensorOp_t sum = CUDNN_REDUCE_TENSOR_ADD;
    cudnnBackendDescriptor_t kind, op;

    TRY(create(graph->owner, CUDNN_BACKEND_REDUCTION_DESCRIPTOR, &kind));
    TRY(set(kind, CUDNN_ATTR_REDUCTION_COMP_TYPE, CUDNN_TYPE_DATA_TYPE, 1, &type));
    TRY(set(kind, CUDNN_ATTR_REDUCTION_OPERATOR, CUDNN_TYPE_REDUCTION_OPERATOR_TYPE, 1, &sum));
    CUDNN_TRY(cudnnBackendFinalize(kind));
    TRY(create(graph->owner, CUDNN_BACKEND_OPERATION_REDUCTION_DESCRIPTOR, &op));
    TRY(set_descriptor(op, CUDNN_ATTR_OPERATION_REDUCTION_DESC, kind));
    TRY(set_descriptor(op, CUDNN_ATTR_OPERATION_REDUCTION_XDESC, x));
    TRY(set_descriptor(op, CUDNN_ATTR_OPERATION_REDUCTION_YDESC, y));
    CUDNN_TRY(cudnnBackendFinalize(op));
    append(graph, op);
    return STATUS_OK;
}

static enum status add_product(struct graph *graph, cudnnBackendDescriptor_t a,
                               cudnnBackendDescriptor_t b, cudnnBackendDescriptor_t c)
{
    cudnnDataType_t type = CUDNN_DATA_FLOAT;
    cudnnBackendDescriptor_t kind, op;

    TRY(create(graph->owner, CUDNN_BACKEND_MATMUL_DESCRIPTOR, &kind));
    TRY(set(kind, CUDNN_ATTR_MATMUL_COMP_TYPE, CUDNN_TYPE_DATA_TYPE, 1, &type));
    CUDNN_TRY(cudnnBackendFinalize(kind));
    TRY(create(graph->owner, CUDNN_BACKEND_OPERATION_MATMUL_DESCRIPTOR, &op));
    TRY(set_descriptor(op, CUDNN_ATTR_OPERATION_MATMUL_ADESC, a));
    TRY(set_descriptor(op, CUDNN_ATTR_OPERATION_MATMUL_BDESC, b));
    TRY(set_descriptor(op, CUDNN_ATTR_OPERATION_MATMUL_CDESC, c));
    TRY(set_descriptor(op, CUDNN_ATTR_OPERATION_MATMUL_DESC, kind));
    CUDNN_TRY(cudnnBackendFinalize(op));
    append(graph, op);
    return STATUS_OK;
}

static enum status add_reshape(struct graph *graph, cudnnBackendDescriptor_t x,
                               cudnnBackendDescriptor_t y)
{
    cudnnBackendDescriptor_t op;

    TRY(create(graph->owner, CUDNN_BACKEND_OPERATION_RESHAPE_DESCRIPTOR, &op));
    TRY(set_descriptor(op, CUDNN_ATTR_OPERATION_RESHAPE_XDESC, x));
    TRY(set_descriptor(op, CUDNN_ATTR_OPERATION_RESHAPE_YDESC, y));
    CUDNN_TRY(cudnnBackendFinalize(op));
    append(graph, op);
    return STATUS_OK;
}

/* ------------------------------------------------------------------------------ the two graphs */

static enum status describe_forward(struct graph *g, const struct layout *at, bool with_stats)
{
    cudnnDataType_t half = CUDNN_DATA_BFLOAT16, full = CUDNN_DATA_FLOAT;
    cudnnBackendDescriptor_t q = tensor(g, UID_Q, half, at->rows, at->qkv, IN_MEMORY);
    cudnnBackendDescriptor_t k = tensor(g, UID_K, half, at->rows, at->qkv, IN_MEMORY);
    cudnnBackendDescriptor_t v = tensor(g, UID_V, half, at->rows, at->qkv, IN_MEMORY);
    cudnnBackendDescriptor_t out = tensor(g, UID_OUT, half, at->rows, at->out, IN_MEMORY);
    cudnnBackendDescriptor_t stats =
        tensor(g, UID_STATS, full, at->per_row, at->per_row_packed, IN_MEMORY);
    cudnnBackendDescriptor_t scale = tensor(g, UID_SCALE, full, at->one, at->one, BY_VALUE);
    cudnnBackendDescriptor_t op;

    if (g->status != STATUS_OK)
        return g->status;
    TRY(create(g->owner, CUDNN_BACKEND_OPERATION_SDPA_FWD_DESCRIPTOR, &op));
    TRY(set_descriptor(op, CUDNN_ATTR_OPERATION_SDPA_FWD_QDESC, q));
    TRY(set_descriptor(op, CUDNN_ATTR_OPERATION_SDPA_FWD_KDESC, k));
    TRY(set_descriptor(op, CUDNN_ATTR_OPERATION_SDPA_FWD_VDESC, v));
    TRY(set_descriptor(op, CUDNN_ATTR_OPERATION_SDPA_FWD_ODESC, out));
    if (with_stats)
        TRY(set_descriptor(op, CUDNN_ATTR_OPERATION_SDPA_FWD_STATSDESC, stats));
    TRY(set_descriptor(op, CUDNN_ATTR_OPERATION_SDPA_FWD_SCALEDESC, scale));
    CUDNN_TRY(cudnnBackendFinalize(op));
    append(g, op);
    return STATUS_OK;
}

/* The tensors of a backward. */
struct backward_tensors {
    cudnnBackendDescriptor_t q, k, v, out, d_out, stats, d_q, d_k, d_v, scale, one, sums;
};

/* A virtual tensor of scores in float. */
static cudnnBackendDescriptor_t scores(struct graph *g, const struct layout *at)
{
    return tensor(g, 0, CUDNN_DATA_FLOAT, at->scores, at->scores_packed, VIRTUAL);
}

/* to = transposed(p) right, p virtual scores */
static enum status add_transposed_product(struct graph *g, const struct layout *at,
                                          cudnnBackendDescriptor_t p,
                                          cudnnBackendDescriptor_t right,
                                          cudnnBackendDescriptor_t to)
{
    cudnnBackendDescriptor_t transposed =
        tensor(g, 0, CUDNN_DATA_BFLOAT16, at->scores, at->scores_transposed, VIRTUAL);

    if (g->status != STATUS_OK)
        return g->status;
    TRY(add_reshape(g, p, transposed));
    return add_product(g, transposed, right, to);
}

static enum status add_backward(struct graph *g, const struct layout *at,
                                const struct backward_tensors *x)
{
    cudnnBackendDescriptor_t products = tensor(g, 0, CUDNN_DATA_FLOAT, at->rows, at->out, VIRTUAL);
    cudnnBackendDescriptor_t sum =
        tensor(g, 0, CUDNN_DATA_FLOAT, at->per_row, at->per_row_packed, VIRTUAL);
    cudnnBackendDescriptor_t raw = scores(g, at), scaled = scores(g, at), exponent = scores(g, at);
    cudnnBackendDescriptor_t p = scores(g, at), dp = scores(g, at), centred = scores(g, at);
    cudnnBackendDescriptor_t weighted = scores(g, at), ds = scores(g, at);
    cudnnBackendDescriptor_t k_rows = tensor(g, 0, CUDNN_DATA_BFLOAT16, at->rows, at->qkv, VIRTUAL);

    if (g->status != STATUS_OK)
        return g->status;
    TRY(add_pointwise(g, CUDNN_POINTWISE_MUL, x->d_out, x->out, products));
    TRY(add_row_sum(g, products, sum));
    TRY(add_pointwise(g, CUDNN_POINTWISE_MUL, sum, x->one, x->sums));
    TRY(add_product(g, x->q, x->k, raw));
    TRY(add_pointwise(g, CUDNN_POINTWISE_MUL, raw, x->scale, scaled));
    TRY(add_pointwise(g, CUDNN_POINTWISE_SUB, scaled, x->stats, exponent));
    TRY(add_pointwise(g, CUDNN_POINTWISE_EXP, exponent, NULL, p));
    TRY(add_transposed_product(g, at, p, x->d_out, x->d_v));
    TRY(add_product(g, x->d_out, x->v, dp));
    TRY(add_pointwise(g, CUDNN_POINTWISE_SUB, dp, x->sums, centred));
    TRY(add_pointwise(g, CUDNN_POINTWISE_MUL, centred, p, weighted));
    TRY(add_pointwise(g, CUDNN_POINTWISE_MUL, weighted, x->scale, ds));
    TRY(add_transposed_product(g, at, ds, x->q, x->d_k));
    TRY(add_reshape(g, x->k, k_rows));
    return add_product(g, ds, k_rows, x->d_q);
}

static enum status describe_backward(struct graph *g, const struct layout *at)
{
    cudnnDataType_t half = CUDNN_DATA_BFLOAT16, full = CUDNN_DATA_FLOAT;
    struct backward_tensors x = {
        .q = tensor(g, UID_Q, half, at->rows, at->qkv, IN_MEMORY),
        .k = tensor(g, UID_K, half, at->keys, at->qkv_transposed, IN_MEMORY),
        .v = tensor(g, UID_V, half, at->keys, at->qkv_transposed, IN_MEMORY),
        .out = tensor(g, UID_OUT, half, at->rows, at->out, IN_MEMORY),
        .d_out = tensor(g, UID_D_OUT, half, at->rows, at->out, IN_MEMORY),
        .stats = tensor(g, UID_STATS, full, at->per_row, at->per_row_packed, IN_MEMORY),
        .d_q = tensor(g, UID_D_Q, half, at->rows, at->qkv, IN_MEMORY),
        .d_k = tensor(g, UID_D_K, half, at->rows, at->qkv, IN_MEMORY),
        .d_v = tensor(g, UID_D_V, half, at->rows, at->qkv, IN_MEMORY),
        .scale = tensor(g, UID_SCALE, full, at->one, at->one, BY_VALUE),
        .one = tensor(g, UID_ONE, full, at->one, at->one, BY_VALUE),
        .sums = tensor(g, UID_SUMS, full, at->per_row, at->per_row_packed, IN_MEMORY),
    };
    if (g->status != STATUS_OK)
        return g->status;
    return add_backward(g, at, &x);
}

/* ------------------------------------------------------------------------------ plans */

/* Which device a plan is for: `handle`'s, or one that JSON describes. */
static enum status describe_device(struct attention_cudnn_plan *plan, const char *properties,
                                   cudnnBackendDescriptor_t *out)
{
    *out = NULL;
    if (properties == NULL)
        return STATUS_OK;
    TRY(create(plan, CUDNN_BACKEND_DEVICEPROP_DESCRIPTOR, out));
    TRY(set(*out, CUDNN_ATTR_DEVICEPROP_JSON_REPRESENTATION, CUDNN_TYPE_CHAR,
            (int64_t)strlen(properties), properties));
    CUDNN_TRY(cudnnBackendFinalize(*out));
    return STATUS_OK;
}

/* Engines for the graph, the most promising first. */
static enum status propose(struct graph *g, void *handle, cudnnBackendDescriptor_t device,
                           cudnnBackendDescriptor_t configs[MOST_CONFIGS], int64_t *n)
{
    cudnnBackendHeurMode_t mode = CUDNN_HEUR_MODE_A;
    cudnnHandle_t library = handle;
    cudnnBackendDescriptor_t graph, heuristics;

    TRY(create(g->owner, CUDNN_BACKEND_OPERATIONGRAPH_DESCRIPTOR, &graph));
    TRY(set(graph, CUDNN_ATTR_OPERATIONGRAPH_OPS, CUDNN_TYPE_BACKEND_DESCRIPTOR, g->n_operations,
            g->operations));
    if (device == NULL)
        TRY(set(graph, CUDNN_ATTR_OPERATIONGRAPH_HANDLE, CUDNN_TYPE_HANDLE, 1, &library));
    CUDNN_TRY(cudnnBackendFinalize(graph));
    TRY(create(g->owner, CUDNN_BACKEND_ENGINEHEUR_DESCRIPTOR, &heuristics));
    TRY(set_descriptor(heuristics, CUDNN_ATTR_ENGINEHEUR_OPERATION_GRAPH, graph));
    TRY(set(heuristics, CUDNN_ATTR_ENGINEHEUR_MODE, CUDNN_TYPE_HEUR_MODE, 1, &mode));
    if (device != NULL)
        TRY(set_descriptor(heuristics, CUDNN_ATTR_ENGINEHEUR_DEVICEPROP, device));
    CUDNN_TRY(cudnnBackendFinalize(heuristics));
    for (int i = 0; i < MOST_CONFIGS; i++)
        TRY(create(g->owner, CUDNN_BACKEND_ENGINECFG_DESCRIPTOR, &configs[i]));
    CUDNN_TRY(cudnnBackendGetAttribute(heuristics, CUDNN_ATTR_ENGINEHEUR_RESULTS,
                                       CUDNN_TYPE_BACKEND_DESCRIPTOR, MOST_CONFIGS, n, configs));
    *n = *n < MOST_CONFIGS ? *n : MOST_CONFIGS;
    return STATUS_OK;
}

/* Compiles one proposal. */
static enum status compile(struct attention_cudnn_plan *plan, void *handle,
                           cudnnBackendDescriptor_t device, cudnnBackendDescriptor_t config)
{
    cudnnHandle_t library = handle;
    cudnnBackendDescriptor_t made, engine;
    int64_t workspace = 0, n = 0;

    TRY(create(plan, CUDNN_BACKEND_EXECUTION_PLAN_DESCRIPTOR, &made));
    TRY(set_descriptor(made, CUDNN_ATTR_EXECUTION_PLAN_ENGINE_CONFIG, config));
    if (device != NULL)
        TRY(set_descriptor(made, CUDNN_ATTR_EXECUTION_PLAN_DEVICEPROP, device));
    else
        TRY(set(made, CUDNN_ATTR_EXECUTION_PLAN_HANDLE, CUDNN_TYPE_HANDLE, 1, &library));
    CUDNN_TRY(cudnnBackendFinalize(made));
    CUDNN_TRY(cudnnBackendGetAttribute(made, CUDNN_ATTR_EXECUTION_PLAN_WORKSPACE_SIZE,
                                       CUDNN_TYPE_INT64, 1, &n, &workspace));
    TRY(create(plan, CUDNN_BACKEND_ENGINE_DESCRIPTOR, &engine));
    CUDNN_TRY(cudnnBackendGetAttribute(config, CUDNN_ATTR_ENGINECFG_ENGINE,
                                       CUDNN_TYPE_BACKEND_DESCRIPTOR, 1, &n, &engine));
    CUDNN_TRY(cudnnBackendGetAttribute(engine, CUDNN_ATTR_ENGINE_GLOBAL_INDEX, CUDNN_TYPE_INT64, 1,
                                       &n, &plan->engine));
    plan->workspace_bytes = (size_t)workspace;
    plan->plan = made;
    return STATUS_OK;
}

static enum status build(struct attention_cudnn_plan *plan, void *handle, const char *properties)
{
    struct layout at = layout_of(&plan->shape);
    struct graph g = {.owner = plan, .next_virtual = FIRST_VIRTUAL};
    cudnnBackendDescriptor_t device, configs[MOST_CONFIGS] = {NULL};
    enum status status = STATUS_UNSUPPORTED;
    int64_t n = 0;

    TRY(describe_device(plan, properties, &device));
    if (plan->kind == ATTENTION_CUDNN_BACKWARD)
        TRY(describe_backward(&g, &at));
    else
        TRY(describe_forward(&g, &at, plan->kind == ATTENTION_CUDNN_FORWARD_STATS));
    TRY(propose(&g, handle, device, configs, &n));
    if (n == 0)
        FAIL(STATUS_UNSUPPORTED, "cuDNN proposes no engine");
    for (int64_t i = 0; i < n && status != STATUS_OK; i++)
        status = compile(plan, handle, device, configs[i]);
    return status;
}

static size_t rounded(size_t bytes)
{
    return (bytes + 255) / 256 * 256;
}

enum status attention_cudnn_build(struct attention_cudnn_plan *plan, enum attention_cudnn_kind kind,
                                  const struct attention_cudnn_shape *shape, void *handle,
                                  const char *properties)
{
    size_t rows = (size_t)(shape->n_sequences * shape->n_heads * shape->length);

    *plan = (struct attention_cudnn_plan){.kind = kind, .shape = *shape, .engine = -1};
    if (kind == ATTENTION_CUDNN_BACKWARD)
        plan->sums_bytes = rounded(rows * sizeof(float));
    if (cudnnGetVersion() < OLDEST_CUDNN)
        snprintf(plan->refusal, sizeof(plan->refusal), "cuDNN %zu is older than %d",
                 cudnnGetVersion(), OLDEST_CUDNN);
    else if (build(plan, handle, properties) != STATUS_OK)
        snprintf(plan->refusal, sizeof(plan->refusal), "%s", status_message());
    return STATUS_OK;
}

void attention_cudnn_release(struct attention_cudnn_plan *plan)
{
    while (plan->n_descriptors > 0)
        (void)cudnnBackendDestroyDescriptor(plan->descriptors[--plan->n_descriptors]);
    plan->plan = NULL;
}

/* ------------------------------------------------------------------------------ kept plans */

enum { MOST_PLANS = 64 };

struct plan_cache {
    cudnnHandle_t handle;
    struct attention_cudnn_plan plans[MOST_PLANS];
    int n;
    int64_t n_runs;
    enum attention_maker maker;
};

static void cache_release(void *state)
{
    struct plan_cache *cache = state;

    for (int i = 0; i < cache->n; i++)
        attention_cudnn_release(&cache->plans[i]);
    if (cache->handle != NULL)
        (void)cudnnDestroy(cache->handle);
    memory_free(cache);
}

static enum status cache_of(struct device *device, struct plan_cache **out)
{
    struct cuda_device *cuda = cuda_device_of(device);

    if (cuda->attention_plans.state == NULL) {
        TRY(memory_alloc(out, 1, sizeof(**out), "attention plans"));
        cuda->attention_plans = (struct cuda_attachment){*out, cache_release};
    }
    *out = cuda->attention_plans.state;
    return STATUS_OK;
}

enum status attention_cudnn_find(struct device *device, enum attention_cudnn_kind kind,
                                 const struct attention_cudnn_shape *shape,
                                 struct attention_cudnn_plan **out)
{
    struct plan_cache *cache;
    struct attention_cudnn_plan *plan = NULL;

    *out = NULL;
    TRY(cache_of(device, &cache));
    for (int i = 0; i < cache->n && plan == NULL; i++)
        if (cache->plans[i].kind == kind &&
            memcmp(&cache->plans[i].shape, shape, sizeof(*shape)) == 0)
            plan = &cache->plans[i];
    if (plan == NULL) {
        if (cache->n == MOST_PLANS)
            return STATUS_OK; /* the own kernels serve the rest */
        CHECK(!cuda_device_of(device)->capturing, "an attention plan is made in a captured step");
        if (cache->handle == NULL)
            CUDNN_TRY(cudnnCreate(&cache->handle));
        plan = &cache->plans[cache->n];
        TRY(attention_cudnn_build(plan, kind, shape, cache->handle, NULL));
        cache->n++;
    }
    if (plan->plan != NULL)
        *out = plan;
    return STATUS_OK;
}

/* ------------------------------------------------------------------------------ execution */

size_t attention_cudnn_bytes(const struct attention_cudnn_plan *plan)
{
    return plan->sums_bytes + rounded(plan->workspace_bytes);
}

/* Pointers by the names of tensors. */
struct bindings {
    int64_t uids[FIRST_VIRTUAL];
    void *pointers[FIRST_VIRTUAL];
    int64_t n;
};

static void bind(struct bindings *b, enum uid uid, const void *pointer)
{
    b->uids[b->n] = uid;
    b->pointers[b->n++] = (void *)(uintptr_t)pointer;
}

/* The three parts of a row of qkv or d_qkv. */
static void bind_parts(struct bindings *b, enum uid first, const void *qkv, int64_t width)
{
    const char *base = qkv;
    for (int i = 0; i < 3; i++)
        bind(b, (enum uid)((int)first + i), base + (size_t)(i * width) * 2);
}

static enum status fill_pack(cudnnBackendDescriptor_t pack, struct bindings *b, void *workspace)
{
    TRY(set(pack, CUDNN_ATTR_VARIANT_PACK_UNIQUE_IDS, CUDNN_TYPE_INT64, b->n, b->uids));
    TRY(set(pack, CUDNN_ATTR_VARIANT_PACK_DATA_POINTERS, CUDNN_TYPE_VOID_PTR, b->n, b->pointers));
    TRY(set(pack, CUDNN_ATTR_VARIANT_PACK_WORKSPACE, CUDNN_TYPE_VOID_PTR, 1, &workspace));
    CUDNN_TRY(cudnnBackendFinalize(pack));
    return STATUS_OK;
}

enum status attention_cudnn_run(struct device *device, const struct attention_cudnn_plan *plan,
                                const struct attention_cudnn_buffers *buffers)
{
    float scale = 1.0f / sqrtf((float)plan->shape.head_dim), one = 1.0f;
    int64_t width = plan->shape.n_heads * plan->shape.head_dim;
    char *memory = buffers->memory;
    struct bindings b = {.n = 0};
    struct plan_cache *cache;
    cudnnBackendDescriptor_t pack;

    bind_parts(&b, UID_Q, buffers->qkv, width);
    bind(&b, UID_OUT, buffers->out);
    bind(&b, UID_SCALE, &scale);
    if (plan->kind != ATTENTION_CUDNN_FORWARD)
        bind(&b, UID_STATS, buffers->stats);
    if (plan->sums_bytes > 0) {
        bind(&b, UID_ONE, &one);
        bind(&b, UID_D_OUT, buffers->d_out);
        bind_parts(&b, UID_D_Q, buffers->d_qkv, width);
        bind(&b, UID_SUMS, memory);
    }
    TRY(cache_of(device, &cache));
    CUDNN_TRY(cudnnSetStream(cache->handle, cuda_stream(device)));
    CUDNN_TRY(cudnnBackendCreateDescriptor(CUDNN_BACKEND_VARIANT_PACK_DESCRIPTOR, &pack));
    enum status status = fill_pack(pack, &b, memory + plan->sums_bytes);
    if (status == STATUS_OK) {
        cudnnStatus_t answer = cudnnBackendExecute(cache->handle, plan->plan, pack);
        if (answer != CUDNN_STATUS_SUCCESS)
            status = refused(answer, "cudnnBackendExecute");
        else
            cache->n_runs++;
    }
    (void)cudnnBackendDestroyDescriptor(pack);
    return status;
}

int64_t attention_cudnn_n_runs(struct device *device)
{
    const struct plan_cache *cache = cuda_device_of(device)->attention_plans.state;
    return cache != NULL ? cache->n_runs : 0;
}

enum status kernels_attention_by(struct device *device, enum attention_maker maker)
{
    struct plan_cache *cache;

    TRY(cache_of(device, &cache));
    cache->maker = maker;
    return STATUS_OK;
}

enum attention_maker attention_maker_of(const struct device *device)
{
    const struct plan_cache *cache = cuda_device_of(device)->attention_plans.state;
    return cache != NULL ? cache->maker : ATTENTION_BY_CHOICE;
}

bool attention_cudnn_is_there(void)
{
    return true;
}

size_t attention_cudnn_version(void)
{
    return cudnnGetVersion();
}
