/* Activations on CUDA: one read and one write an element (two reads backward), bound by memory in
 * all but GELU by erf in bf16, whose erfc costs about as much. */
#include "ops/activation.h"

#include "kernels/activation.cuh"
#include "kernels/op_cuda.h"
#include "kernels/rows.cuh"
#include "kernels/value.cuh"
#include "ops/check.h"

enum { PACK = 4 };

/* y may lie on x. */
template <int WIDTH, class X, class Y>
__global__ void __launch_bounds__(ROW_THREADS, 4)
    activation(Y *y, const X *x, int64_t n, enum activation kind)
{
    for (int64_t i = first_element() * WIDTH; i < n; i += element_stride() * WIDTH) {
        float value[WIDTH];
        load_pack<WIDTH>(value, x + i);
#pragma unroll
        for (int j = 0; j < WIDTH; j++)
            value[j] = activate(kind, value[j]);
        store_pack<WIDTH>(y + i, value);
    }
}

/* d_x may lie on d_y. */
template <int WIDTH, class D, class X>
__global__ void __launch_bounds__(ROW_THREADS, 4)
    activation_backward(D *d_x, const D *d_y, const X *__restrict__ x, int64_t n,
                        enum activation kind)
{
    for (int64_t i = first_element() * WIDTH; i < n; i += element_stride() * WIDTH) {
        float gradient[WIDTH], value[WIDTH];
        load_pack<WIDTH>(gradient, d_y + i);
        load_pack<WIDTH>(value, x + i);
#pragma unroll
        for (int j = 0; j < WIDTH; j++)
            gradient[j] = activation_gradient(kind, gradient[j], value[j]);
        store_pack<WIDTH>(d_x + i, gradient);
    }
}

static bool packed(const struct tensor *tensor)
{
    return is_packed(tensor->data, tensor_n_elements(tensor), tensor->dtype,
                     PACK * dtype_size_bytes(tensor->dtype));
}

enum status activation_forward_cuda(struct device *device, const struct activation_args *args)
{
    int64_t n = tensor_n_elements(&args->x);
    bool wide = packed(&args->x) && packed(&args->y);
    unsigned blocks = element_blocks(device, wide ? n / PACK : n);

    CHECK(tensor_n_elements(&args->y) == n);
    return with_float_type(args->x.dtype, "activation: x", [&](auto x) {
        return with_float_type(args->y.dtype, "activation: y", [&](auto y) {
            using X = typename decltype(x)::type;
            using Y = typename decltype(y)::type;
            return launch(device, "activation", blocks, ROW_THREADS, 0,
                          wide ? activation<PACK, X, Y> : activation<1, X, Y>, data_of<Y>(args->y),
                          data_of<X>(args->x), n, args->activation);
        });
    });
}

enum status activation_backward_cuda(struct device *device,
                                     const struct activation_backward_args *args)
{
    int64_t n = tensor_n_elements(&args->x);
    bool wide = packed(&args->x) && packed(&args->d_y) && packed(&args->d_x);
    unsigned blocks = element_blocks(device, wide ? n / PACK : n);

    CHECK(tensor_n_elements(&args->d_y) == n && tensor_n_elements(&args->d_x) == n);
    CHECK(args->d_x.dtype == args->d_y.dtype);
    return with_float_type(args->d_y.dtype, "activation_backward: d_y", [&](auto d) {
        return with_float_type(args->x.dtype, "activation_backward: x", [&](auto x) {
            using D = typename decltype(d)::type;
            using X = typename decltype(x)::type;
            return launch(device, "activation_backward", blocks, ROW_THREADS, 0,
                          wide ? activation_backward<PACK, D, X> : activation_backward<1, D, X>,
                          data_of<D>(args->d_x), data_of<D>(args->d_y), data_of<X>(args->x), n,
                          args->activation);
        });
    });
}
