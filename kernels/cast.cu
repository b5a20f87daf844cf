/* Rounding on CUDA: 4 bytes read and 2 (or 4) written an element, bound by memory. Eight elements a
 * thread make 32-byte reads and 16-byte writes where addresses allow it. */
#include "ops/cast.h"

#include "kernels/launch.cuh"
#include "kernels/op_cuda.h"
#include "kernels/value.cuh"
#include "ops/check.h"

enum { THREADS = 256, WIDE = 8 };

template <int PACK, class T>
__global__ void __launch_bounds__(THREADS)
    cast_packs(T *__restrict__ to, const float *__restrict__ from, int64_t n_packs)
{
    int64_t stride = (int64_t)gridDim.x * blockDim.x;

    for (int64_t i = (int64_t)blockIdx.x * blockDim.x + threadIdx.x; i < n_packs; i += stride) {
        float value[PACK];
        if constexpr (PACK == WIDE) { /* a pack has at most 16 bytes */
            float half[PACK / 2];
            load_pack<PACK / 2>(half, from + i * PACK);
#pragma unroll
            for (int j = 0; j < PACK / 2; j++)
                value[j] = half[j];
            load_pack<PACK / 2>(half, from + i * PACK + PACK / 2);
#pragma unroll
            for (int j = 0; j < PACK / 2; j++)
                value[PACK / 2 + j] = half[j];
        } else {
            load_pack<PACK>(value, from + i * PACK);
        }
        store_pack<PACK>(to + i * PACK, value);
    }
}

enum status cast_cuda(struct device *device, const struct cast_args *args)
{
    int64_t n = tensor_n_elements(&args->from);

    CHECK(args->from.dtype == DTYPE_F32 && tensor_n_elements(&args->to) == n);
    return with_any_float_type(args->to.dtype, "cast: to", [&](auto to) {
        using T = typename decltype(to)::type;
        int64_t most = (int64_t)cuda_device_of(device)->sm_count * 16;
        auto blocks = [&](int64_t packs) {
            int64_t wanted = (packs + THREADS - 1) / THREADS;
            return static_cast<unsigned>(wanted < most ? wanted : most);
        };
        if constexpr (sizeof(T) == 2)
            if (is_packed(args->from.data, n, DTYPE_F32, 16) && n % WIDE == 0 &&
                is_packed(args->to.data, n, args->to.dtype, 16))
                return launch(device, "cast", dim3(blocks(n / WIDE)), dim3(THREADS), 0,
                              cast_packs<WIDE, T>, data_of<T>(args->to), data_of<float>(args->from),
                              n / WIDE);
        return launch(device, "cast", dim3(blocks(n)), dim3(THREADS), 0, cast_packs<1, T>,
                      data_of<T>(args->to), data_of<float>(args->from), n);
    });
}
