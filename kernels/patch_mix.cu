/* Erasing and mixing on CUDA: a thread a pixel of a pair of images, all channels, in place. Bound
 * by memory: one read and one write of what changes; where nothing does, neither. */
#include "ops/patch_mix.h"

#include "kernels/op_cuda.h"
#include "kernels/rows.cuh"
#include "kernels/value.cuh"
#include "ops/check.h"
#include "proto/base/rng.h"

enum { CHANNELS = 3, PHILOX_ROUNDS = 10 };

__device__ __forceinline__ bool is_inside(const pixel_box &box, int y, int x)
{
    return y >= box.top && y < box.bottom && x >= box.left && x < box.right;
}

/* rng_philox4x32 */
__device__ __forceinline__ void philox(uint32_t (&c)[4], uint32_t k0, uint32_t k1)
{
#pragma unroll
    for (int round = 0; round < PHILOX_ROUNDS; round++) {
        uint32_t high0 = __umulhi(0xD2511F53u, c[0]), low0 = 0xD2511F53u * c[0];
        uint32_t high1 = __umulhi(0xCD9E8D57u, c[2]), low1 = 0xCD9E8D57u * c[2];
        c[0] = high1 ^ c[1] ^ k0;
        c[1] = low1;
        c[2] = high0 ^ c[3] ^ k1;
        c[3] = low0;
        k0 += 0x9E3779B9u;
        k1 += 0xBB67AE85u;
    }
}

__device__ __forceinline__ float radius_of(uint32_t word)
{
    return sqrtf(-2.0f * logf(((float)(word >> 8) + 1.0f) * 0x1p-24f));
}

/* In units of pi. */
__device__ __forceinline__ float angle_of(uint32_t word)
{
    return (float)(word >> 8) * 0x1p-23f;
}

__device__ __forceinline__ void noise_of(const patch_mix &mix, int64_t image, uint32_t pixel,
                                         float (&out)[CHANNELS])
{
    uint32_t words[4] = {pixel, (uint32_t)RNG_ERASE << 16,
                         mix.first_sample + (uint32_t)image * (1 + mix.sample_skip), mix.step};

    philox(words, (uint32_t)mix.seed, (uint32_t)(mix.seed >> 32));
    out[0] = radius_of(words[0]) * cospif(angle_of(words[1]));
    out[1] = radius_of(words[0]) * sinpif(angle_of(words[1]));
    out[2] = radius_of(words[2]) * cospif(angle_of(words[3]));
}

/* A pixel of an image, as it is or erased; `channel` elements lie between its values. */
template <class T>
__device__ __forceinline__ void read_pixel(float (&out)[CHANNELS], const T *at, int channel,
                                           bool erased, const patch_mix &mix, int64_t image,
                                           uint32_t pixel)
{
    if (erased) {
        noise_of(mix, image, pixel, out);
        return;
    }
#pragma unroll
    for (int c = 0; c < CHANNELS; c++)
        out[c] = to_float(at[c * channel]);
}

template <class T>
__global__ void __launch_bounds__(ROW_THREADS)
    patch_mix_pairs(T *__restrict__ patches, const pixel_box *__restrict__ erase,
                    const patch_mix *__restrict__ mixes, int64_t n, int grid, int p)
{
    const patch_mix mix = *mixes;
    bool mixed = mix.share < 1.0f || (mix.cut.bottom > mix.cut.top && mix.cut.right > mix.cut.left);
    int side = grid * p, channel = p * p;
    int64_t image_pixels = (int64_t)side * side, image_elements = CHANNELS * image_pixels;

    for (int64_t item = first_element(); item < (n + 1) / 2 * image_pixels;
         item += element_stride()) {
        int64_t i = item / image_pixels, j = n - 1 - i;
        /* in the order of the memory: patch by patch */
        int inside = (int)(item - i * image_pixels), cell = inside / channel;
        int in_patch = inside - cell * channel;
        int y = cell / grid * p + in_patch / p, x = cell % grid * p + in_patch % p;
        uint32_t pixel = (uint32_t)(y * side + x);
        T *a = patches + i * image_elements + (int64_t)cell * CHANNELS * channel + in_patch;
        T *b = a + (j - i) * image_elements;
        bool erased_a = is_inside(erase[i], y, x), erased_b = is_inside(erase[j], y, x);
        bool pair = mixed && i != j;
        if (!pair && !erased_a && !erased_b)
            continue;
        float own[CHANNELS], other[CHANNELS];
        read_pixel(own, a, channel, erased_a, mix, i, pixel);
        read_pixel(other, b, channel, erased_b, mix, j, pixel);
        bool cut = is_inside(mix.cut, y, x);
        float share = mix.share, rest = 1.0f - mix.share;
#pragma unroll
        for (int c = 0; c < CHANNELS; c++) {
            float first = !pair ? own[c] : cut ? other[c] : share * own[c] + rest * other[c];
            float second = !pair ? other[c] : cut ? own[c] : share * other[c] + rest * own[c];
            a[c * channel] = from_float<T>(first);
            if (i != j)
                b[c * channel] = from_float<T>(second);
        }
    }
}

enum status patch_mix_cuda(struct device *device, const struct patch_mix_args *args)
{
    int64_t grid = args->grid, p = args->patch_size, cells = grid * grid;

    CHECK(grid > 0 && p > 0 && grid * p <= 1 << 14 && args->patches.shape[0] % cells == 0);
    int64_t n = args->patches.shape[0] / cells, pixels = (n + 1) / 2 * cells * p * p;
    CHECK(tensor_is_2d(&args->patches, n * cells, CHANNELS * p * p));
    CHECK(args->erase.dtype == DTYPE_I32 && tensor_is_1d(&args->erase, 4 * n));
    return with_float_type(args->patches.dtype, "patch_mix: patches", [&](auto x) {
        using X = typename decltype(x)::type;
        return launch(device, "patch_mix", element_blocks(device, pixels), ROW_THREADS, 0,
                      patch_mix_pairs<X>, data_of<X>(args->patches),
                      data_of<pixel_box>(args->erase), args->mix, n, static_cast<int>(grid),
                      static_cast<int>(p));
    });
}
