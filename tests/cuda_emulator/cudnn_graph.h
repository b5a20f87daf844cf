/* A graph of operations on tensors as cuDNN's descriptors say it: checked as a whole, then computed
 * node by node. */
#ifndef IBOT_TESTS_CUDA_EMULATOR_CUDNN_GRAPH_H
#define IBOT_TESTS_CUDA_EMULATOR_CUDNN_GRAPH_H

#include <stdint.h>

#include <map>
#include <memory>
#include <string>
#include <vector>

#include <cudnn.h>

namespace emulator
{
struct graph_tensor {
    int64_t uid = -1, alignment = 0;
    cudnnDataType_t type = CUDNN_DATA_FLOAT;
    std::vector<int64_t> dims, strides;
    bool is_virtual = false, by_value = false;

    int64_t n_elements() const;
    /* From the first element to just past the last one, in elements. */
    int64_t extent() const;
    size_t element_bytes() const
    {
        return type == CUDNN_DATA_FLOAT ? 4 : 2;
    }
    /* Without gaps, the last dimension innermost. */
    bool is_packed() const;
    std::string shape() const;
};
using tensor_pointer = std::shared_ptr<const graph_tensor>;

enum class operation_kind { POINTWISE, ROW_SUM, PRODUCT, RESHAPE, SDPA_FORWARD };

/* Inputs and outputs in the order of the descriptor's attributes:
 *   POINTWISE x [b] -> y   ROW_SUM x -> y   PRODUCT a b -> c   RESHAPE x -> y
 *   SDPA_FORWARD q k v scale -> out [stats] */
struct graph_operation {
    operation_kind kind;
    cudnnPointwiseMode_t mode;
    std::vector<tensor_pointer> in, out;
};

struct operation_graph {
    std::vector<graph_operation> operations; /* in an order that can be computed */
    std::map<int64_t, tensor_pointer> bound; /* tensors that a variant pack must name, by uid */
    int64_t partial_bytes = 0; /* of sums that have no tensor: they want working memory */

    /* Empty when all is well; else what is wrong, and the status. */
    std::string check(cudnnStatus_t *status);
    /* Host values of by-value tensors, device addresses of the others. Device memory is unlocked.
     */
    void compute(const std::map<int64_t, void *> &addresses,
                 const std::map<int64_t, float> &values) const;
};
} // namespace emulator

#endif
