/* cuDNN's graph interface: descriptors are checked attribute by attribute, graphs as a whole
 * (cudnn_graph.cpp), and what a plan is run with: every tensor named once, inside its allocation,
 * aligned as its descriptor says. */
#include <cudnn.h>

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "tests/cuda_emulator/cudnn_graph.h"
#include "tests/cuda_emulator/memory.h"
#include "tests/cuda_emulator/report.h"
#include "tests/cuda_emulator/runtime.h"

using namespace emulator;

struct cudnnContext {
    cudaStream_t stream;
};

namespace
{
/* Values of one attribute, as they were set. */
struct attribute {
    int64_t n;
    std::vector<char> bytes;
};

struct descriptor {
    explicit descriptor(cudnnBackendDescriptorType_t of) : type(of)
    {
    }
    cudnnBackendDescriptorType_t type;
    bool finalized = false;
    std::map<int, attribute> attributes;
    /* what finalizing made of it */
    tensor_pointer tensor;
    std::shared_ptr<const graph_operation> operation;
    std::shared_ptr<const operation_graph> graph; /* of graphs, heuristics, engines, plans */
    int64_t engine = -1;
    cudnnHandle_t handle = nullptr; /* of a plan */
};

struct attribute_rule {
    int descriptor, name;
    cudnnBackendAttributeType_t type;
    int64_t most; /* values */
    bool required;
};
} // namespace

static char last_error[512];

static cudnnStatus_t refuse_call(cudnnStatus_t status, const char *format, ...)
    __attribute__((format(printf, 2, 3)));
static cudnnStatus_t refuse_call(cudnnStatus_t status, const char *format, ...)
{
    va_list arguments;

    va_start(arguments, format);
    vsnprintf(last_error, sizeof(last_error), format, arguments);
    va_end(arguments);
    fprintf(stderr, "CUDA emulator: %s: %s\n", cudnnGetErrorString(status), last_error);
    return status;
}

/* ------------------------------------------------------------------------------ names, handles */

const char *cudnnGetErrorString(cudnnStatus_t status)
{
    switch (status) {
    case CUDNN_STATUS_SUCCESS:
        return "CUDNN_STATUS_SUCCESS";
    case CUDNN_STATUS_BAD_PARAM:
        return "CUDNN_STATUS_BAD_PARAM";
    case CUDNN_STATUS_BAD_PARAM_NULL_POINTER:
        return "CUDNN_STATUS_BAD_PARAM_NULL_POINTER";
    case CUDNN_STATUS_BAD_PARAM_MISALIGNED_POINTER:
        return "CUDNN_STATUS_BAD_PARAM_MISALIGNED_POINTER";
    case CUDNN_STATUS_BAD_PARAM_NOT_FINALIZED:
        return "CUDNN_STATUS_BAD_PARAM_NOT_FINALIZED";
    case CUDNN_STATUS_BAD_PARAM_OUT_OF_BOUND:
        return "CUDNN_STATUS_BAD_PARAM_OUT_OF_BOUND";
    case CUDNN_STATUS_BAD_PARAM_SIZE_INSUFFICIENT:
        return "CUDNN_STATUS_BAD_PARAM_SIZE_INSUFFICIENT";
    case CUDNN_STATUS_BAD_PARAM_SHAPE_MISMATCH:
        return "CUDNN_STATUS_BAD_PARAM_SHAPE_MISMATCH";
    case CUDNN_STATUS_BAD_PARAM_DUPLICATED_ENTRIES:
        return "CUDNN_STATUS_BAD_PARAM_DUPLICATED_ENTRIES";
    case CUDNN_STATUS_BAD_PARAM_ATTRIBUTE_TYPE:
        return "CUDNN_STATUS_BAD_PARAM_ATTRIBUTE_TYPE";
    case CUDNN_STATUS_NOT_SUPPORTED:
        return "CUDNN_STATUS_NOT_SUPPORTED";
    case CUDNN_STATUS_NOT_SUPPORTED_SHAPE:
        return "CUDNN_STATUS_NOT_SUPPORTED_SHAPE";
    case CUDNN_STATUS_NOT_SUPPORTED_LAYOUT:
        return "CUDNN_STATUS_NOT_SUPPORTED_LAYOUT";
    case CUDNN_STATUS_EXECUTION_FAILED:
        return "CUDNN_STATUS_EXECUTION_FAILED";
    }
    return "CUDNN_STATUS_?";
}

void cudnnGetLastErrorString(char *message, size_t max_size)
{
    snprintf(message, max_size, "%s", last_error);
}

size_t cudnnGetVersion(void)
{
    return 91900;
}

cudnnStatus_t cudnnCreate(cudnnHandle_t *handle)
{
    *handle = new cudnnContext{};
    return CUDNN_STATUS_SUCCESS;
}

cudnnStatus_t cudnnDestroy(cudnnHandle_t handle)
{
    delete handle;
    return CUDNN_STATUS_SUCCESS;
}

cudnnStatus_t cudnnSetStream(cudnnHandle_t handle, cudaStream_t stream)
{
    runtime_lock lock;

    if (handle == nullptr || !is_stream(stream))
        return refuse_call(CUDNN_STATUS_BAD_PARAM, "cudnnSetStream: no handle, or no such stream");
    handle->stream = stream;
    return CUDNN_STATUS_SUCCESS;
}

/* ------------------------------------------------------------------------------ attributes */

#define RULE(of, name, type, most, required)                                                       \
    {                                                                                              \
        CUDNN_BACKEND_##of##_DESCRIPTOR, CUDNN_ATTR_##name, CUDNN_TYPE_##type, most, required      \
    }
#define DESCRIPTOR_RULE(of, name, required) RULE(of, name, BACKEND_DESCRIPTOR, 1, required)

static const attribute_rule rules[] = {
    RULE(TENSOR, TENSOR_UNIQUE_ID, INT64, 1, true),
    RULE(TENSOR, TENSOR_DATA_TYPE, DATA_TYPE, 1, true),
    RULE(TENSOR, TENSOR_DIMENSIONS, INT64, 8, true),
    RULE(TENSOR, TENSOR_STRIDES, INT64, 8, true),
    RULE(TENSOR, TENSOR_BYTE_ALIGNMENT, INT64, 1, true),
    RULE(TENSOR, TENSOR_IS_VIRTUAL, BOOLEAN, 1, false),
    RULE(TENSOR, TENSOR_IS_BY_VALUE, BOOLEAN, 1, false),
    RULE(POINTWISE, POINTWISE_MODE, POINTWISE_MODE, 1, true),
    RULE(POINTWISE, POINTWISE_MATH_PREC, DATA_TYPE, 1, true),
    DESCRIPTOR_RULE(OPERATION_POINTWISE, OPERATION_POINTWISE_PW_DESCRIPTOR, true),
    DESCRIPTOR_RULE(OPERATION_POINTWISE, OPERATION_POINTWISE_XDESC, true),
    DESCRIPTOR_RULE(OPERATION_POINTWISE, OPERATION_POINTWISE_BDESC, false),
    DESCRIPTOR_RULE(OPERATION_POINTWISE, OPERATION_POINTWISE_YDESC, true),
    RULE(REDUCTION, REDUCTION_OPERATOR, REDUCTION_OPERATOR_TYPE, 1, true),
    RULE(REDUCTION, REDUCTION_COMP_TYPE, DATA_TYPE, 1, true),
    DESCRIPTOR_RULE(OPERATION_REDUCTION, OPERATION_REDUCTION_DESC, true),
    DESCRIPTOR_RULE(OPERATION_REDUCTION, OPERATION_REDUCTION_XDESC, true),
    DESCRIPTOR_RULE(OPERATION_REDUCTION, OPERATION_REDUCTION_YDESC, true),
    RULE(MATMUL, MATMUL_COMP_TYPE, DATA_TYPE, 1, true),
    DESCRIPTOR_RULE(OPERATION_MATMUL, OPERATION_MATMUL_DESC, true),
    DESCRIPTOR_RULE(OPERATION_MATMUL, OPERATION_MATMUL_ADESC, true),
    DESCRIPTOR_RULE(OPERATION_MATMUL, OPERATION_MATMUL_BDESC, true),
    DESCRIPTOR_RULE(OPERATION_MATMUL, OPERATION_MATMUL_CDESC, true),
    DESCRIPTOR_RULE(OPERATION_RESHAPE, OPERATION_RESHAPE_XDESC, true),
    DESCRIPTOR_RULE(OPERATION_RESHAPE, OPERATION_RESHAPE_YDESC, true),
    DESCRIPTOR_RULE(OPERATION_SDPA_FWD, OPERATION_SDPA_FWD_QDESC, true),
    DESCRIPTOR_RULE(OPERATION_SDPA_FWD, OPERATION_SDPA_FWD_KDESC, true),
    DESCRIPTOR_RULE(OPERATION_SDPA_FWD, OPERATION_SDPA_FWD_VDESC, true),
    DESCRIPTOR_RULE(OPERATION_SDPA_FWD, OPERATION_SDPA_FWD_ODESC, true),
    DESCRIPTOR_RULE(OPERATION_SDPA_FWD, OPERATION_SDPA_FWD_STATSDESC, false),
    DESCRIPTOR_RULE(OPERATION_SDPA_FWD, OPERATION_SDPA_FWD_SCALEDESC, true),
    RULE(OPERATIONGRAPH, OPERATIONGRAPH_OPS, BACKEND_DESCRIPTOR, 64, true),
    RULE(OPERATIONGRAPH, OPERATIONGRAPH_HANDLE, HANDLE, 1, true),
    DESCRIPTOR_RULE(ENGINEHEUR, ENGINEHEUR_OPERATION_GRAPH, true),
    RULE(ENGINEHEUR, ENGINEHEUR_MODE, HEUR_MODE, 1, true),
    DESCRIPTOR_RULE(EXECUTION_PLAN, EXECUTION_PLAN_ENGINE_CONFIG, true),
    RULE(EXECUTION_PLAN, EXECUTION_PLAN_HANDLE, HANDLE, 1, true),
    RULE(VARIANT_PACK, VARIANT_PACK_UNIQUE_IDS, INT64, 64, true),
    RULE(VARIANT_PACK, VARIANT_PACK_DATA_POINTERS, VOID_PTR, 64, true),
    RULE(VARIANT_PACK, VARIANT_PACK_WORKSPACE, VOID_PTR, 1, true),
};

static size_t value_bytes(cudnnBackendAttributeType_t type)
{
    switch (type) {
    case CUDNN_TYPE_BOOLEAN:
    case CUDNN_TYPE_CHAR:
        return 1;
    case CUDNN_TYPE_DATA_TYPE:
    case CUDNN_TYPE_HEUR_MODE:
    case CUDNN_TYPE_POINTWISE_MODE:
    case CUDNN_TYPE_REDUCTION_OPERATOR_TYPE:
        return 4;
    default:
        return 8;
    }
}

template <class T> static std::vector<T> values_of(const descriptor &d, int name)
{
    auto found = d.attributes.find(name);
    std::vector<T> values;

    if (found == d.attributes.end())
        return values;
    values.resize((size_t)found->second.n);
    for (size_t i = 0; i < values.size(); i++)
        memcpy(&values[i], found->second.bytes.data() + i * sizeof(T), sizeof(T));
    return values;
}

template <class T> static T value_of(const descriptor &d, int name, T otherwise = {})
{
    std::vector<T> values = values_of<T>(d, name);
    return values.empty() ? otherwise : values[0];
}

/* The finalized descriptor of that type that an attribute names; null: there is none such. */
static descriptor *named(const descriptor &d, int name, cudnnBackendDescriptorType_t type)
{
    descriptor *found = static_cast<descriptor *>(value_of<void *>(d, name));
    return found != nullptr && found->finalized && found->type == type ? found : nullptr;
}

cudnnStatus_t cudnnBackendCreateDescriptor(cudnnBackendDescriptorType_t type,
                                           cudnnBackendDescriptor_t *out)
{
    *out = new descriptor(type);
    return CUDNN_STATUS_SUCCESS;
}

cudnnStatus_t cudnnBackendDestroyDescriptor(cudnnBackendDescriptor_t d)
{
    delete static_cast<descriptor *>(d);
    return CUDNN_STATUS_SUCCESS;
}

cudnnStatus_t cudnnBackendSetAttribute(cudnnBackendDescriptor_t opaque,
                                       cudnnBackendAttributeName_t name,
                                       cudnnBackendAttributeType_t type, int64_t n,
                                       const void *values)
{
    descriptor *d = static_cast<descriptor *>(opaque);

    if (d == nullptr || values == nullptr || n < 1)
        return refuse_call(CUDNN_STATUS_BAD_PARAM_NULL_POINTER, "attribute %d: no values", name);
    if (d->finalized)
        return refuse_call(CUDNN_STATUS_BAD_PARAM, "attribute %d of a finalized descriptor", name);
    for (const attribute_rule &rule : rules)
        if (rule.descriptor == d->type && rule.name == name) {
            if (rule.type != type || n > rule.most)
                return refuse_call(CUDNN_STATUS_BAD_PARAM_ATTRIBUTE_TYPE,
                                   "attribute %d has at most %lld values of type %d, got %lld of "
                                   "type %d",
                                   name, (long long)rule.most, rule.type, (long long)n, type);
            const char *bytes = static_cast<const char *>(values);
            d->attributes[name] = {n, {bytes, bytes + (size_t)n * value_bytes(type)}};
            return CUDNN_STATUS_SUCCESS;
        }
    return refuse_call(CUDNN_STATUS_NOT_SUPPORTED, "a descriptor of type %d has no attribute %d",
                       d->type, name);
}

/* ------------------------------------------------------------------------------ finalizing */

static cudnnStatus_t finalize_tensor(descriptor *d)
{
    graph_tensor t;

    t.uid = value_of<int64_t>(*d, CUDNN_ATTR_TENSOR_UNIQUE_ID);
    t.type = (cudnnDataType_t)value_of<int32_t>(*d, CUDNN_ATTR_TENSOR_DATA_TYPE);
    t.dims = values_of<int64_t>(*d, CUDNN_ATTR_TENSOR_DIMENSIONS);
    t.strides = values_of<int64_t>(*d, CUDNN_ATTR_TENSOR_STRIDES);
    t.alignment = value_of<int64_t>(*d, CUDNN_ATTR_TENSOR_BYTE_ALIGNMENT);
    t.is_virtual = value_of<uint8_t>(*d, CUDNN_ATTR_TENSOR_IS_VIRTUAL) != 0;
    t.by_value = value_of<uint8_t>(*d, CUDNN_ATTR_TENSOR_IS_BY_VALUE) != 0;
    if (t.dims.size() != t.strides.size() || t.alignment < 1 ||
        t.alignment % (int64_t)t.element_bytes() != 0 || (t.is_virtual && t.by_value))
        return refuse_call(CUDNN_STATUS_BAD_PARAM, "%s, aligned to %lld bytes", t.shape().c_str(),
                           (long long)t.alignment);
    for (size_t i = 0; i < t.dims.size(); i++)
        if (t.dims[i] < 1 || t.strides[i] < 1)
            return refuse_call(CUDNN_STATUS_BAD_PARAM, "%s", t.shape().c_str());
    if (t.by_value && (t.n_elements() != 1 || t.type != CUDNN_DATA_FLOAT))
        return refuse_call(CUDNN_STATUS_BAD_PARAM, "%s by value", t.shape().c_str());
    d->tensor = std::make_shared<const graph_tensor>(t);
    return CUDNN_STATUS_SUCCESS;
}

/* Kinds of operations: where each names its description, its inputs and its outputs. */
struct operation_form {
    cudnnBackendDescriptorType_t type;
    operation_kind kind;
    int description, description_type, precision; /* or 0 */
    std::vector<int> in, out;
};

static const operation_form *form_of(cudnnBackendDescriptorType_t type)
{
    static const operation_form forms[] = {
        {CUDNN_BACKEND_OPERATION_POINTWISE_DESCRIPTOR,
         operation_kind::POINTWISE,
         CUDNN_ATTR_OPERATION_POINTWISE_PW_DESCRIPTOR,
         CUDNN_BACKEND_POINTWISE_DESCRIPTOR,
         CUDNN_ATTR_POINTWISE_MATH_PREC,
         {CUDNN_ATTR_OPERATION_POINTWISE_XDESC, CUDNN_ATTR_OPERATION_POINTWISE_BDESC},
         {CUDNN_ATTR_OPERATION_POINTWISE_YDESC}},
        {CUDNN_BACKEND_OPERATION_REDUCTION_DESCRIPTOR,
         operation_kind::ROW_SUM,
         CUDNN_ATTR_OPERATION_REDUCTION_DESC,
         CUDNN_BACKEND_REDUCTION_DESCRIPTOR,
         CUDNN_ATTR_REDUCTION_COMP_TYPE,
         {CUDNN_ATTR_OPERATION_REDUCTION_XDESC},
         {CUDNN_ATTR_OPERATION_REDUCTION_YDESC}},
        {CUDNN_BACKEND_OPERATION_MATMUL_DESCRIPTOR,
         operation_kind::PRODUCT,
         CUDNN_ATTR_OPERATION_MATMUL_DESC,
         CUDNN_BACKEND_MATMUL_DESCRIPTOR,
         CUDNN_ATTR_MATMUL_COMP_TYPE,
         {CUDNN_ATTR_OPERATION_MATMUL_ADESC, CUDNN_ATTR_OPERATION_MATMUL_BDESC},
         {CUDNN_ATTR_OPERATION_MATMUL_CDESC}},
        {CUDNN_BACKEND_OPERATION_RESHAPE_DESCRIPTOR,
         operation_kind::RESHAPE,
         0,
         0,
         0,
         {CUDNN_ATTR_OPERATION_RESHAPE_XDESC},
         {CUDNN_ATTR_OPERATION_RESHAPE_YDESC}},
        {CUDNN_BACKEND_OPERATION_SDPA_FWD_DESCRIPTOR,
         operation_kind::SDPA_FORWARD,
         0,
         0,
         0,
         {CUDNN_ATTR_OPERATION_SDPA_FWD_QDESC, CUDNN_ATTR_OPERATION_SDPA_FWD_KDESC,
          CUDNN_ATTR_OPERATION_SDPA_FWD_VDESC, CUDNN_ATTR_OPERATION_SDPA_FWD_SCALEDESC},
         {CUDNN_ATTR_OPERATION_SDPA_FWD_ODESC, CUDNN_ATTR_OPERATION_SDPA_FWD_STATSDESC}},
    };
    for (const operation_form &form : forms)
        if (form.type == type)
            return &form;
    return nullptr;
}

static bool add_tensors(const descriptor &d, const std::vector<int> &names,
                        std::vector<tensor_pointer> *to)
{
    for (int name : names) {
        if (d.attributes.count(name) == 0)
            continue; /* required ones were looked for */
        const descriptor *tensor = named(d, name, CUDNN_BACKEND_TENSOR_DESCRIPTOR);
        if (tensor == nullptr)
            return false;
        to->push_back(tensor->tensor);
    }
    return true;
}

static cudnnStatus_t finalize_operation(descriptor *d, const operation_form &form)
{
    graph_operation op = {form.kind, CUDNN_POINTWISE_IDENTITY, {}, {}};

    if (form.description != 0) {
        const descriptor *how =
            named(*d, form.description, (cudnnBackendDescriptorType_t)form.description_type);
        if (how == nullptr)
            return refuse_call(CUDNN_STATUS_BAD_PARAM_NOT_FINALIZED, "an operation of type %d",
                               d->type);
        if (value_of<int32_t>(*how, form.precision) != CUDNN_DATA_FLOAT)
            return refuse_call(CUDNN_STATUS_NOT_SUPPORTED, "sums that are not in float");
        op.mode = (cudnnPointwiseMode_t)value_of<int32_t>(*how, CUDNN_ATTR_POINTWISE_MODE);
        if (form.kind == operation_kind::ROW_SUM &&
            value_of<int32_t>(*how, CUDNN_ATTR_REDUCTION_OPERATOR) != CUDNN_REDUCE_TENSOR_ADD)
            return refuse_call(CUDNN_STATUS_NOT_SUPPORTED, "a reduction that is no sum");
    }
    if (!add_tensors(*d, form.in, &op.in) || !add_tensors(*d, form.out, &op.out))
        return refuse_call(CUDNN_STATUS_BAD_PARAM_NOT_FINALIZED,
                           "an operation of type %d with tensors that are not finalized", d->type);
    bool one_operand = op.mode == CUDNN_POINTWISE_EXP || op.mode == CUDNN_POINTWISE_IDENTITY;
    if (form.kind == operation_kind::POINTWISE && (op.in.size() == 1) != one_operand)
        return refuse_call(CUDNN_STATUS_BAD_PARAM, "pointwise mode %d with %zu operands", op.mode,
                           op.in.size());
    d->operation = std::make_shared<const graph_operation>(op);
    return CUDNN_STATUS_SUCCESS;
}

static cudnnStatus_t finalize_graph(descriptor *d)
{
    operation_graph graph;
    cudnnStatus_t status;

    for (void *op : values_of<void *>(*d, CUDNN_ATTR_OPERATIONGRAPH_OPS)) {
        const descriptor *operation = static_cast<descriptor *>(op);
        if (operation == nullptr || !operation->finalized || operation->operation == nullptr)
            return refuse_call(CUDNN_STATUS_BAD_PARAM_NOT_FINALIZED, "an operation of a graph");
        graph.operations.push_back(*operation->operation);
    }
    std::string wrong = graph.check(&status);
    if (!wrong.empty())
        return refuse_call(status, "%s", wrong.c_str());
    d->graph = std::make_shared<const operation_graph>(graph);
    return CUDNN_STATUS_SUCCESS;
}

static cudnnStatus_t finalize_plan(descriptor *d)
{
    const descriptor *config =
        named(*d, CUDNN_ATTR_EXECUTION_PLAN_ENGINE_CONFIG, CUDNN_BACKEND_ENGINECFG_DESCRIPTOR);

    d->handle = value_of<cudnnHandle_t>(*d, CUDNN_ATTR_EXECUTION_PLAN_HANDLE);
    if (config == nullptr || d->handle == nullptr)
        return refuse_call(CUDNN_STATUS_BAD_PARAM_NOT_FINALIZED, "the engine of a plan");
    if (forbid_in_capture("a plan of cuDNN") != cudaSuccess)
        return refuse_call(CUDNN_STATUS_EXECUTION_FAILED, "a plan is made in a capture");
    d->graph = config->graph;
    return CUDNN_STATUS_SUCCESS;
}

static cudnnStatus_t finalize(descriptor *d)
{
    const operation_form *form = form_of(d->type);

    for (const attribute_rule &rule : rules)
        if (rule.descriptor == d->type && rule.required && d->attributes.count(rule.name) == 0)
            return refuse_call(CUDNN_STATUS_BAD_PARAM, "a descriptor of type %d lacks attribute %d",
                               d->type, rule.name);
    if (form != nullptr)
        return finalize_operation(d, *form);
    switch (d->type) {
    case CUDNN_BACKEND_TENSOR_DESCRIPTOR:
        return finalize_tensor(d);
    case CUDNN_BACKEND_OPERATIONGRAPH_DESCRIPTOR:
        return finalize_graph(d);
    case CUDNN_BACKEND_ENGINEHEUR_DESCRIPTOR: {
        const descriptor *graph = named(*d, CUDNN_ATTR_ENGINEHEUR_OPERATION_GRAPH,
                                        CUDNN_BACKEND_OPERATIONGRAPH_DESCRIPTOR);
        if (graph == nullptr)
            return refuse_call(CUDNN_STATUS_BAD_PARAM_NOT_FINALIZED, "the graph of heuristics");
        d->graph = graph->graph;
        return CUDNN_STATUS_SUCCESS;
    }
    case CUDNN_BACKEND_EXECUTION_PLAN_DESCRIPTOR:
        return finalize_plan(d);
    case CUDNN_BACKEND_VARIANT_PACK_DESCRIPTOR:
        if (d->attributes[CUDNN_ATTR_VARIANT_PACK_UNIQUE_IDS].n !=
            d->attributes[CUDNN_ATTR_VARIANT_PACK_DATA_POINTERS].n)
            return refuse_call(CUDNN_STATUS_BAD_PARAM, "a pack of other pointers than names");
        return CUDNN_STATUS_SUCCESS;
    case CUDNN_BACKEND_POINTWISE_DESCRIPTOR:
    case CUDNN_BACKEND_REDUCTION_DESCRIPTOR:
    case CUDNN_BACKEND_MATMUL_DESCRIPTOR:
        return CUDNN_STATUS_SUCCESS;
    default:
        return refuse_call(CUDNN_STATUS_NOT_SUPPORTED, "descriptors of type %d", d->type);
    }
}

cudnnStatus_t cudnnBackendFinalize(cudnnBackendDescriptor_t opaque)
{
    runtime_lock lock;
    descriptor *d = static_cast<descriptor *>(opaque);

    if (d == nullptr || d->finalized)
        return refuse_call(CUDNN_STATUS_BAD_PARAM, "no descriptor, or one that is finalized");
    cudnnStatus_t status = finalize(d);
    d->finalized = status == CUDNN_STATUS_SUCCESS;
    return status;
}

/* ------------------------------------------------------------------------------ plans */

enum { WORKSPACE_BYTES = 256, ENGINE_SDPA = 9, ENGINE_COMPOSITE = 6 };

static int64_t workspace_bytes(const operation_graph &graph)
{
    return WORKSPACE_BYTES + graph.partial_bytes;
}

cudnnStatus_t cudnnBackendGetAttribute(const cudnnBackendDescriptor_t opaque,
                                       cudnnBackendAttributeName_t name,
                                       cudnnBackendAttributeType_t type, int64_t n_wanted,
                                       int64_t *n, void *values)
{
    const descriptor *d = static_cast<descriptor *>(opaque);
    descriptor *out;
    int64_t number = -1;

    if (d == nullptr || !d->finalized || values == nullptr || n_wanted < 1)
        return refuse_call(CUDNN_STATUS_BAD_PARAM_NOT_FINALIZED, "attribute %d is asked for", name);
    *n = 1;
    if (type == CUDNN_TYPE_BACKEND_DESCRIPTOR) {
        memcpy(&out, values, sizeof(out)); /* made by the caller */
        bool of_heuristics = name == CUDNN_ATTR_ENGINEHEUR_RESULTS &&
                             d->type == CUDNN_BACKEND_ENGINEHEUR_DESCRIPTOR &&
                             out->type == CUDNN_BACKEND_ENGINECFG_DESCRIPTOR;
        bool of_config = name == CUDNN_ATTR_ENGINECFG_ENGINE &&
                         d->type == CUDNN_BACKEND_ENGINECFG_DESCRIPTOR &&
                         out->type == CUDNN_BACKEND_ENGINE_DESCRIPTOR;
        if (!of_heuristics && !of_config)
            return refuse_call(CUDNN_STATUS_BAD_PARAM_ATTRIBUTE_TYPE, "attribute %d", name);
        bool is_sdpa = d->graph->operations[0].kind == operation_kind::SDPA_FORWARD;
        out->graph = d->graph;
        out->engine = is_sdpa ? ENGINE_SDPA : ENGINE_COMPOSITE;
        out->finalized = true;
        return CUDNN_STATUS_SUCCESS;
    }
    if (type == CUDNN_TYPE_INT64 && name == CUDNN_ATTR_ENGINE_GLOBAL_INDEX)
        number = d->engine;
    else if (type == CUDNN_TYPE_INT64 && name == CUDNN_ATTR_EXECUTION_PLAN_WORKSPACE_SIZE &&
             d->type == CUDNN_BACKEND_EXECUTION_PLAN_DESCRIPTOR)
        number = workspace_bytes(*d->graph);
    else
        return refuse_call(CUDNN_STATUS_BAD_PARAM_ATTRIBUTE_TYPE, "attribute %d of type %d", name,
                           type);
    memcpy(values, &number, sizeof(number));
    return CUDNN_STATUS_SUCCESS;
}

/* ------------------------------------------------------------------------------ execution */

static cudnnStatus_t check_tensor(const graph_tensor &tensor, const void *pointer)
{
    if (tensor.by_value) {
        if (pointer == nullptr || is_device_address(pointer))
            return refuse_call(CUDNN_STATUS_BAD_PARAM, "%s is by value, got %p on the device",
                               tensor.shape().c_str(), pointer);
        return CUDNN_STATUS_SUCCESS;
    }
    size_t bytes = (size_t)tensor.extent() * tensor.element_bytes();
    if (const char *wrong = device_range_error(pointer, bytes))
        return refuse_call(CUDNN_STATUS_BAD_PARAM, "%s at %p %s", tensor.shape().c_str(), pointer,
                           wrong);
    if ((uintptr_t)pointer % (uintptr_t)tensor.alignment != 0)
        return refuse_call(CUDNN_STATUS_BAD_PARAM_MISALIGNED_POINTER,
                           "%s at %p is said to be aligned to %lld bytes", tensor.shape().c_str(),
                           pointer, (long long)tensor.alignment);
    return CUDNN_STATUS_SUCCESS;
}

/* Tensors of the graph and what the pack says of them, one to one. */
static cudnnStatus_t check_pack(const operation_graph &graph, const descriptor &pack,
                                std::map<int64_t, void *> *addresses,
                                std::map<int64_t, float> *values)
{
    std::vector<int64_t> uids = values_of<int64_t>(pack, CUDNN_ATTR_VARIANT_PACK_UNIQUE_IDS);
    std::vector<void *> pointers = values_of<void *>(pack, CUDNN_ATTR_VARIANT_PACK_DATA_POINTERS);

    for (size_t i = 0; i < uids.size(); i++) {
        auto found = graph.bound.find(uids[i]);
        if (found == graph.bound.end())
            return refuse_call(CUDNN_STATUS_BAD_PARAM, "tensor %lld is not in the graph",
                               (long long)uids[i]);
        const graph_tensor &tensor = *found->second;
        if (addresses->count(uids[i]) + values->count(uids[i]) > 0)
            return refuse_call(CUDNN_STATUS_BAD_PARAM_DUPLICATED_ENTRIES, "%s is bound twice",
                               tensor.shape().c_str());
        cudnnStatus_t status = check_tensor(tensor, pointers[i]);
        if (status != CUDNN_STATUS_SUCCESS)
            return status;
        if (tensor.by_value)
            memcpy(&(*values)[uids[i]], pointers[i], sizeof(float));
        else
            (*addresses)[uids[i]] = pointers[i];
    }
    for (const auto &[uid, tensor] : graph.bound)
        if (addresses->count(uid) + values->count(uid) == 0)
            return refuse_call(CUDNN_STATUS_BAD_PARAM, "%s is not bound", tensor->shape().c_str());
    return CUDNN_STATUS_SUCCESS;
}

cudnnStatus_t cudnnBackendExecute(cudnnHandle_t handle, cudnnBackendDescriptor_t opaque_plan,
                                  cudnnBackendDescriptor_t opaque_pack)
{
    runtime_lock lock;
    const descriptor *plan = static_cast<descriptor *>(opaque_plan);
    const descriptor *pack = static_cast<descriptor *>(opaque_pack);
    std::map<int64_t, void *> addresses;
    std::map<int64_t, float> values;

    if (handle == nullptr || plan == nullptr || pack == nullptr || !plan->finalized ||
        !pack->finalized || plan->type != CUDNN_BACKEND_EXECUTION_PLAN_DESCRIPTOR ||
        pack->type != CUDNN_BACKEND_VARIANT_PACK_DESCRIPTOR || plan->handle != handle)
        return refuse_call(CUDNN_STATUS_BAD_PARAM, "no handle, or no plan of it, or no pack");
    if (environment_number("IBOT_EMULATOR_CUDNN_FAILS", 0) != 0)
        return CUDNN_STATUS_EXECUTION_FAILED; /* as asked by the environment */
    std::shared_ptr<const operation_graph> graph = plan->graph;
    cudnnStatus_t status = check_pack(*graph, *pack, &addresses, &values);
    if (status != CUDNN_STATUS_SUCCESS)
        return status;
    void *workspace = value_of<void *>(*pack, CUDNN_ATTR_VARIANT_PACK_WORKSPACE);
    size_t bytes = (size_t)workspace_bytes(*graph);
    const char *wrong = device_range_error(workspace, bytes);
    if (wrong == nullptr && (uintptr_t)workspace % 256 != 0)
        wrong = "is not aligned to 256 bytes";
    if (wrong != nullptr)
        return refuse_call(CUDNN_STATUS_BAD_PARAM, "the workspace of %zu bytes at %p %s", bytes,
                           workspace, wrong);
    cudaError_t error = queue(handle->stream, "cudnnBackendExecute", [=] {
        memset(workspace, 0xff, bytes); /* whoever kept something there must notice */
        graph->compute(addresses, values);
        memset(workspace, 0xff, bytes);
    });
    return error == cudaSuccess ? CUDNN_STATUS_SUCCESS : CUDNN_STATUS_EXECUTION_FAILED;
}
