#include "tests/cuda_emulator/cudnn_graph.h"

#include <math.h>

#include <algorithm>
#include <set>

#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include "tests/cuda_emulator/report.h"

namespace emulator
{
/* ------------------------------------------------------------------------------ tensors */

static int64_t product_of(const std::vector<int64_t> &dims, size_t first, size_t end)
{
    int64_t n = 1;
    for (size_t i = first; i < end; i++)
        n *= dims[i];
    return n;
}

int64_t graph_tensor::n_elements() const
{
    return product_of(dims, 0, dims.size());
}

int64_t graph_tensor::extent() const
{
    int64_t last = 0;
    for (size_t i = 0; i < dims.size(); i++)
        last += (dims[i] - 1) * strides[i];
    return last + 1;
}

bool graph_tensor::is_packed() const
{
    int64_t stride = 1;
    for (size_t i = dims.size(); i-- > 0; stride *= dims[i])
        if (dims[i] > 1 && strides[i] != stride)
            return false;
    return true;
}

std::string graph_tensor::shape() const
{
    std::string text = "tensor " + std::to_string(uid) + " [";
    for (size_t i = 0; i < dims.size(); i++)
        text += (i > 0 ? ", " : "") + std::to_string(dims[i]);
    text += "] with strides [";
    for (size_t i = 0; i < dims.size(); i++)
        text += (i > 0 ? ", " : "") + std::to_string(strides[i]);
    return text + "]";
}

/* ------------------------------------------------------------------------------ checks */

/* How y's dimensions are those of x in another order, at the same places in memory: y's dimension
 * i is x's order[i]. Empty: they are not. */
static std::vector<size_t> order_of(const graph_tensor &x, const graph_tensor &y)
{
    std::vector<size_t> order(x.dims.size());

    for (size_t i = 0; i < order.size(); i++)
        order[i] = i;
    if (x.dims.size() != y.dims.size())
        return {};
    do {
        bool same = true;
        for (size_t i = 0; i < order.size() && same; i++)
            same = y.dims[i] == x.dims[order[i]] &&
                   (y.dims[i] == 1 || y.strides[i] == x.strides[order[i]]);
        if (same)
            return order;
    } while (std::next_permutation(order.begin(), order.end()));
    return {};
}

static bool broadcasts(const graph_tensor &from, const graph_tensor &to)
{
    for (size_t i = 0; i < to.dims.size(); i++)
        if (from.dims[i] != to.dims[i] && from.dims[i] != 1)
            return false;
    return true;
}

static bool same_batch(const graph_tensor &a, const graph_tensor &b)
{
    return std::equal(a.dims.begin(), a.dims.end() - 2, b.dims.begin());
}

static std::string check_attention(const graph_operation &op)
{
    const graph_tensor &q = *op.in[0];
    std::vector<int64_t> per_row = q.dims;

    per_row.back() = 1;
    for (size_t i : {1U, 2U})
        if (op.in[i]->dims != q.dims)
            return op.in[i]->shape() + " goes with " + q.shape();
    if (!op.in[3]->by_value || op.in[3]->n_elements() != 1)
        return "the scale, " + op.in[3]->shape() + ", is no number by value";
    if (q.dims.back() % 8 != 0)
        return q.shape() + " has heads that are not a multiple of 8 columns";
    if (op.out[0]->dims != q.dims)
        return "the output, " + op.out[0]->shape() + ", goes with " + q.shape();
    if (op.out.size() > 1 && (op.out[1]->dims != per_row || op.out[1]->type != CUDNN_DATA_FLOAT))
        return "the statistics, " + op.out[1]->shape() + ", go with " + q.shape();
    return "";
}

static std::string check_shapes(const graph_operation &op)
{
    const graph_tensor &x = *op.in[0], &y = *op.out[0];

    for (const auto &tensors : {op.in, op.out})
        for (const tensor_pointer &tensor : tensors)
            if (tensor->dims.size() != x.dims.size() || x.dims.size() < 3)
                return tensor->shape() + " and " + x.shape() + " differ in rank, or it is below 3";
    switch (op.kind) {
    case operation_kind::POINTWISE:
        for (const tensor_pointer &in : op.in)
            if (!broadcasts(*in, y))
                return in->shape() + " does not fit " + y.shape();
        return "";
    case operation_kind::ROW_SUM:
        if (!broadcasts(y, x))
            return x.shape() + " is not summed up to " + y.shape();
        return "";
    case operation_kind::RESHAPE:
        if (order_of(x, y).empty())
            return x.shape() + " and " + y.shape() + " are not the same places in another order";
        return "";
    case operation_kind::PRODUCT: {
        const graph_tensor &b = *op.in[1];
        size_t n = x.dims.size();
        if (!same_batch(x, b) || !same_batch(x, y) || x.dims[n - 1] != b.dims[n - 2] ||
            y.dims[n - 2] != x.dims[n - 2] || y.dims[n - 1] != b.dims[n - 1])
            return x.shape() + " times " + b.shape() + " is not " + y.shape();
        return "";
    }
    case operation_kind::SDPA_FORWARD:
        return check_attention(op);
    }
    return "";
}

/* Of a tensor that lies in memory. */
static std::string check_layout(const graph_tensor &tensor, cudnnStatus_t *status)
{
    if (tensor.type == CUDNN_DATA_FLOAT) {
        /* the library takes them, and writes wrong gradients */
        if (!tensor.is_packed())
            fail("cuDNN: float %s is not packed: attention's gradients would be wrong",
                 tensor.shape().c_str());
        return "";
    }
    *status = CUDNN_STATUS_NOT_SUPPORTED_LAYOUT;
    for (size_t i = 0; i < tensor.dims.size(); i++)
        if (tensor.dims[i] > 1 && tensor.strides[i] != 1 &&
            tensor.strides[i] * (int64_t)tensor.element_bytes() % 16 != 0)
            return tensor.shape() + " has rows that are not aligned to 16 bytes";
    for (size_t i = tensor.dims.size() - 2; i < tensor.dims.size(); i++)
        if (tensor.strides[i] == 1 && tensor.dims[i] > 128)
            return tensor.shape() + " has a head of more than 128 columns";
    *status = CUDNN_STATUS_BAD_PARAM;
    return "";
}

/* Every tensor once, each written by at most one operation, no circle. */
static std::string order_operations(std::vector<graph_operation> *operations,
                                    std::map<int64_t, tensor_pointer> *tensors)
{
    std::set<const graph_tensor *> written, there;
    std::vector<graph_operation> ordered, waiting = *operations;

    for (const graph_operation &op : waiting)
        for (const auto &list : {op.in, op.out})
            for (const tensor_pointer &tensor : list) {
                auto known = tensors->emplace(tensor->uid, tensor).first;
                if (known->second != tensor)
                    return tensor->shape() + ": another tensor has this number";
            }
    for (const graph_operation &op : waiting)
        for (const tensor_pointer &out : op.out)
            if (out->by_value || !written.insert(out.get()).second)
                return out->shape() + " is written twice, or is by value";
    for (const auto &[uid, tensor] : *tensors)
        if (!written.count(tensor.get())) {
            if (tensor->is_virtual)
                return tensor->shape() + " is virtual, and no operation writes it";
            there.insert(tensor.get());
        }
    while (!waiting.empty()) {
        auto next = std::find_if(waiting.begin(), waiting.end(), [&](const graph_operation &op) {
            return std::all_of(op.in.begin(), op.in.end(),
                               [&](const tensor_pointer &in) { return there.count(in.get()) > 0; });
        });
        if (next == waiting.end())
            return "operations wait for each other";
        for (const tensor_pointer &out : next->out)
            there.insert(out.get());
        ordered.push_back(*next);
        waiting.erase(next);
    }
    *operations = ordered;
    return "";
}

std::string operation_graph::check(cudnnStatus_t *status)
{
    std::map<int64_t, tensor_pointer> tensors;

    *status = CUDNN_STATUS_BAD_PARAM;
    if (operations.empty())
        return "a graph without operations";
    std::string wrong = order_operations(&operations, &tensors);
    for (size_t i = 0; i < operations.size() && wrong.empty(); i++) {
        const graph_operation &op = operations[i];
        wrong = check_shapes(op);
        if (op.kind == operation_kind::PRODUCT && op.in[0]->type == CUDNN_DATA_FLOAT &&
            !op.out[0]->is_virtual && op.out[0]->type != CUDNN_DATA_FLOAT)
            partial_bytes += 4 * op.out[0]->n_elements();
    }
    for (const auto &[uid, tensor] : tensors) {
        if (!tensor->is_virtual)
            bound[uid] = tensor;
        if (!tensor->is_virtual && !tensor->by_value && wrong.empty())
            wrong = check_layout(*tensor, status);
    }
    return wrong;
}

/* ------------------------------------------------------------------------------ computation */

using floats = std::vector<float>;

static float load(const void *at, cudnnDataType_t type, int64_t i)
{
    if (type == CUDNN_DATA_BFLOAT16)
        return __bfloat162float(static_cast<const __nv_bfloat16 *>(at)[i]);
    if (type == CUDNN_DATA_HALF)
        return __half2float(static_cast<const __half *>(at)[i]);
    return static_cast<const float *>(at)[i];
}

static float rounded(float value, cudnnDataType_t type)
{
    if (type == CUDNN_DATA_BFLOAT16)
        return __bfloat162float(__float2bfloat16_rn(value));
    return type == CUDNN_DATA_HALF ? __half2float(__float2half_rn(value)) : value;
}

static void store(void *at, cudnnDataType_t type, int64_t i, float value)
{
    if (type == CUDNN_DATA_BFLOAT16)
        static_cast<__nv_bfloat16 *>(at)[i] = __float2bfloat16_rn(value);
    else if (type == CUDNN_DATA_HALF)
        static_cast<__half *>(at)[i] = __float2half_rn(value);
    else
        static_cast<float *>(at)[i] = value;
}

/* f(i, place) for every element: its number in the order of dims, and the place that strides give
 * it. */
template <class F>
static void for_each(const std::vector<int64_t> &dims, const std::vector<int64_t> &strides, F f)
{
    std::vector<int64_t> at(dims.size(), 0);
    int64_t n = product_of(dims, 0, dims.size()), place = 0;

    for (int64_t i = 0; i < n; i++) {
        f((size_t)i, place);
        for (size_t d = dims.size(); d-- > 0;) {
            place += strides[d];
            if (++at[d] < dims[d])
                break;
            place -= strides[d] * dims[d];
            at[d] = 0;
        }
    }
}

/* Strides of a packed tensor seen through the dimensions of another: 0 where it has one element. */
static std::vector<int64_t> strides_within(const graph_tensor &tensor)
{
    std::vector<int64_t> strides(tensor.dims.size());
    int64_t stride = 1;

    for (size_t i = strides.size(); i-- > 0; stride *= tensor.dims[i])
        strides[i] = tensor.dims[i] == 1 ? 0 : stride;
    return strides;
}

static float apply(cudnnPointwiseMode_t mode, float x, float b)
{
    switch (mode) {
    case CUDNN_POINTWISE_ADD:
        return x + b;
    case CUDNN_POINTWISE_MUL:
        return x * b;
    case CUDNN_POINTWISE_SUB:
        return x - b;
    case CUDNN_POINTWISE_EXP:
        return expf(x);
    case CUDNN_POINTWISE_IDENTITY:
        return x;
    }
    return NAN;
}

static floats pointwise(const graph_operation &op, const std::vector<floats> &in)
{
    const graph_tensor &y = *op.out[0];
    floats out((size_t)y.n_elements());

    for_each(y.dims, strides_within(*op.in[0]),
             [&](size_t i, int64_t place) { out[i] = in[0][(size_t)place]; });
    if (op.in.size() > 1)
        for_each(y.dims, strides_within(*op.in[1]), [&](size_t i, int64_t place) {
            out[i] = apply(op.mode, out[i], in[1][(size_t)place]);
        });
    else
        for (float &value : out)
            value = apply(op.mode, value, 0.0f);
    return out;
}

static floats row_sum(const graph_operation &op, const floats &x)
{
    floats out((size_t)op.out[0]->n_elements(), 0.0f);

    for_each(op.in[0]->dims, strides_within(*op.out[0]),
             [&](size_t i, int64_t place) { out[(size_t)place] += x[i]; });
    return out;
}

static floats reshape(const graph_operation &op, const floats &x)
{
    const graph_tensor &from = *op.in[0], &to = *op.out[0];
    std::vector<size_t> order = order_of(from, to);
    std::vector<int64_t> packed = strides_within(from), strides(order.size());
    floats out(x.size());

    for (size_t i = 0; i < order.size(); i++)
        strides[i] = packed[order[i]];
    for_each(to.dims, strides, [&](size_t i, int64_t place) { out[i] = x[(size_t)place]; });
    return out;
}

/* c [m, n] += a [m, k] b [k, n] */
static void add_product(float *c, const float *a, const float *b, int64_t m, int64_t n, int64_t k)
{
    for (int64_t i = 0; i < m; i++)
        for (int64_t l = 0; l < k; l++) {
            float factor = a[i * k + l];
            for (int64_t j = 0; j < n; j++)
                c[i * n + j] += factor * b[l * n + j];
        }
}

/* Operands of the matrix units: where one has 16 bits, so has the other. */
static floats product(const graph_operation &op, std::vector<floats> in)
{
    const graph_tensor &a = *op.in[0], &b = *op.in[1], &c = *op.out[0];
    size_t rank = a.dims.size();
    int64_t m = a.dims[rank - 2], k = a.dims[rank - 1], n = b.dims[rank - 1];
    int64_t n_batches = product_of(a.dims, 0, rank - 2);
    cudnnDataType_t type = a.type != CUDNN_DATA_FLOAT ? a.type : b.type;
    floats out((size_t)c.n_elements(), 0.0f);

    for (floats &operand : in)
        for (float &value : operand)
            value = rounded(value, type);
    for (int64_t batch = 0; batch < n_batches; batch++)
        add_product(out.data() + batch * m * n, in[0].data() + batch * m * k,
                    in[1].data() + batch * k * n, m, n, k);
    return out;
}

/* One head: out [l, d] and the logarithms of its denominators. */
static void attend(float *out, float *stats, const float *q, const float *k, const float *v,
                   int64_t l, int64_t d, float scale, cudnnDataType_t type)
{
    floats p((size_t)l);

    for (int64_t i = 0; i < l; i++) {
        float top = -INFINITY, sum = 0.0f;
        for (int64_t j = 0; j < l; j++) {
            float dot = 0.0f;
            for (int64_t e = 0; e < d; e++)
                dot += q[i * d + e] * k[j * d + e];
            p[(size_t)j] = scale * dot;
            top = fmaxf(top, p[(size_t)j]);
        }
        for (float &value : p) {
            value = expf(value - top);
            sum += value;
            value = rounded(value, type);
        }
        add_product(out + i * d, p.data(), v, 1, d, l);
        for (int64_t e = 0; e < d; e++)
            out[i * d + e] /= sum;
        stats[i] = top + logf(sum);
    }
}

static std::vector<floats> sdpa_forward(const graph_operation &op, const std::vector<floats> &in)
{
    const std::vector<int64_t> &dims = op.in[0]->dims;
    int64_t d = dims.back(), l = dims[dims.size() - 2], n = op.in[0]->n_elements() / (l * d);
    std::vector<floats> out = {floats((size_t)(n * l * d), 0.0f), floats((size_t)(n * l))};

    for (int64_t head = 0; head < n; head++) {
        int64_t at = head * l * d;
        attend(out[0].data() + at, out[1].data() + head * l, in[0].data() + at, in[1].data() + at,
               in[2].data() + at, l, d, in[3][0], op.in[0]->type);
    }
    out.resize(op.out.size());
    return out;
}

static std::vector<floats> compute_operation(const graph_operation &op, std::vector<floats> in)
{
    switch (op.kind) {
    case operation_kind::POINTWISE:
        return {pointwise(op, in)};
    case operation_kind::ROW_SUM:
        return {row_sum(op, in[0])};
    case operation_kind::RESHAPE:
        return {reshape(op, in[0])};
    case operation_kind::PRODUCT:
        return {product(op, std::move(in))};
    case operation_kind::SDPA_FORWARD:
        return sdpa_forward(op, in);
    }
    return {};
}

void operation_graph::compute(const std::map<int64_t, void *> &addresses,
                              const std::map<int64_t, float> &values) const
{
    std::map<int64_t, floats> known; /* in the order of dims */

    for (const auto &[uid, value] : values)
        known[uid] = {value};
    for (const graph_operation &op : operations) {
        std::vector<floats> in;
        for (const tensor_pointer &tensor : op.in) {
            floats &held = known[tensor->uid];
            if (held.empty()) {
                held.resize((size_t)tensor->n_elements());
                for_each(tensor->dims, tensor->strides, [&](size_t i, int64_t place) {
                    held[i] = load(addresses.at(tensor->uid), tensor->type, place);
                });
            }
            in.push_back(held);
        }
        std::vector<floats> out = compute_operation(op, std::move(in));
        for (size_t o = 0; o < out.size(); o++) {
            const graph_tensor &tensor = *op.out[o];
            for (float &value : out[o])
                value = rounded(value, tensor.type);
            if (!tensor.is_virtual)
                for_each(tensor.dims, tensor.strides, [&](size_t i, int64_t place) {
                    store(addresses.at(tensor.uid), tensor.type, place, out[o][i]);
                });
            known[tensor.uid] = std::move(out[o]);
        }
    }
}
} // namespace emulator
