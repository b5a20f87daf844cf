/* Maps of features [n, height*width, C], row by row, as the decoders of dense tasks mix them. What
 * is linear on positions (convolution windows, resizing, pooling by means, concatenation) is one
 * sparse matrix times each map, and its gradient the transpose; the rest is the largest of four,
 * and the scaling of channels. */
#ifndef IBOT_OPS_FEATURE_MAP_H
#define IBOT_OPS_FEATURE_MAP_H

#include "ops/device.h"
#include "ops/tensor.h"

#ifdef __cplusplus
extern "C" {
#endif

/* Compressed rows (CSR): row i has the entries e of start[i] .. start[i+1] - 1, of value[e] in
 * column column[e]. start need not begin with 0, so that a range of rows is a matrix too. */
struct sparse_matrix {
    struct tensor start;  /* [rows + 1] i32 */
    struct tensor column; /* i32: of all entries */
    struct tensor value;  /* f32, or absent: each is 1 */
    int64_t n_columns;
};

/* y[m] = A x[m], or y[m] += A x[m] with `add`, for each map m: sums in float32, in the order of the
 * entries.
 *   x [n_maps*columns, C] f32|bf16, its rows x_stride elements apart (0: C)
 *   y [n_maps*rows, C]    of the type of x, out, its rows y_stride apart (0: C): with strides a map
 *                         is read from, or written among, the columns of a wider one
 * Aliasing: none. Errors: STATUS_UNSUPPORTED for other types, STATUS_DEVICE. Shapes are CHECKed;
 * what the matrix holds is the caller's to know. CPU ops/feature_map.c, CUDA
 * kernels/feature_map.cu. */
struct spmm_args {
    struct sparse_matrix a;
    struct tensor x, y;
    int64_t n_maps, x_stride, y_stride;
    bool add;
};

/* The largest of each 2x2 square, per channel; a last odd row or column is left out.
 *   x      [n*height*width, C] f32|bf16
 *   y      [n*(height/2)*(width/2), C] of the type of x, out
 *   choice [the same] u8 out: which of the four, row by row; the first of equals. Or absent
 * Backward: d_x is added to: d_y at the choice.
 * A NaN is larger than all, as in PyTorch. */
struct max_pool_args {
    struct tensor x, y, choice;
    int32_t height, width;
};
struct max_pool_backward_args {
    struct tensor d_y, choice, d_x;
    int32_t height, width;
};

/* x[i, c] *= scale[i / rows, c]: dropout of whole channels of a map, and its gradient.
 *   x [n*rows, C] f32|bf16 in and out     scale [n, C] f32 */
struct channel_scale_args {
    struct tensor x, scale;
};

enum status spmm_cpu(struct device *, const struct spmm_args *) IBOT_WARN_UNUSED;
enum status max_pool_cpu(struct device *, const struct max_pool_args *) IBOT_WARN_UNUSED;
enum status max_pool_backward_cpu(struct device *,
                                  const struct max_pool_backward_args *) IBOT_WARN_UNUSED;
enum status channel_scale_cpu(struct device *, const struct channel_scale_args *) IBOT_WARN_UNUSED;

/* What the backends check alike. */
void spmm_check(const struct spmm_args *args);
void max_pool_check(const struct tensor *wide, const struct tensor *narrow,
                    const struct tensor *choice, int32_t height, int32_t width);

#ifdef __cplusplus
}
#endif

#endif
