/* Erasing and mixing on the CPU: a thread takes a pair of images a patch at a time. */
#include "ops/patch_mix.h"

#include <math.h>

#include "ops/check.h"
#include "proto/base/rng.h"

static bool is_inside(const struct pixel_box *box, int64_t y, int64_t x)
{
    return y >= box->top && y < box->bottom && x >= box->left && x < box->right;
}

static float radius_of(uint32_t word)
{
    return sqrtf(-2.0f * logf(((float)(word >> 8) + 1.0f) * 0x1p-24f));
}

static float angle_of(uint32_t word)
{
    return (float)(2.0 * M_PI * 0x1p-24 * (double)(word >> 8));
}

/* Of one pixel: all its channels. */
static void noise_of(const struct patch_mix *mix, int64_t image, int64_t pixel, float out[3])
{
    const uint32_t key[2] = {(uint32_t)mix->seed, (uint32_t)(mix->seed >> 32)};
    const uint32_t counter[4] = {(uint32_t)pixel, (uint32_t)RNG_ERASE << 16,
                                 mix->first_sample + (uint32_t)image * (1 + mix->sample_skip),
                                 mix->step};
    uint32_t words[4];

    rng_philox4x32(counter, key, words);
    out[0] = radius_of(words[0]) * cosf(angle_of(words[1]));
    out[1] = radius_of(words[0]) * sinf(angle_of(words[1]));
    out[2] = radius_of(words[2]) * cosf(angle_of(words[3]));
}

/* Noise for the pixels of a patch at (top, left) that lie in the image's box. */
static void erase_patch(const struct patch_mix_args *args, const struct pixel_box *box,
                        int64_t image, int64_t top, int64_t left, float *patch)
{
    int64_t p = args->patch_size, side = args->grid * p;
    float noise[3];

    for (int64_t y = 0; y < p; y++)
        for (int64_t x = 0; x < p; x++) {
            if (!is_inside(box, top + y, left + x))
                continue;
            noise_of(args->mix, image, (top + y) * side + left + x, noise);
            for (int64_t c = 0; c < 3; c++)
                patch[(c * p + y) * p + x] = noise[c];
        }
}

static void mix_patch(const struct patch_mix *mix, int64_t p, int64_t top, int64_t left, float *a,
                      float *b)
{
    float share = mix->share, rest = 1.0f - share;

    for (int64_t c = 0; c < 3; c++)
        for (int64_t y = 0; y < p; y++)
            for (int64_t x = 0; x < p; x++) {
                int64_t i = (c * p + y) * p + x;
                bool cut = is_inside(&mix->cut, top + y, left + x);
                float own = a[i], other = b[i];
                a[i] = cut ? other : share * own + rest * other;
                b[i] = cut ? own : share * other + rest * own;
            }
}

enum status patch_mix_cpu(struct device *device, const struct patch_mix_args *args)
{
    int64_t grid = args->grid, p = args->patch_size, cells = grid * grid, row = 3 * p * p;
    const struct pixel_box *erase = args->erase.data;
    const struct patch_mix *mix = args->mix;
    float *patches = args->patches.data;

    CHECK_F32("patch_mix", args->patches);
    CHECK(grid > 0 && p > 0 && args->patches.shape[0] % cells == 0);
    int64_t n = args->patches.shape[0] / cells;
    CHECK(tensor_is_2d(&args->patches, n * cells, row));
    CHECK(args->erase.dtype == DTYPE_I32 && tensor_is_1d(&args->erase, 4 * n));
    bool mixes =
        mix->share < 1.0f || (mix->cut.bottom > mix->cut.top && mix->cut.right > mix->cut.left);
#pragma omp parallel for collapse(2) schedule(static) num_threads(device->n_threads)
    for (int64_t i = 0; i < (n + 1) / 2; i++)
        for (int64_t cell = 0; cell < cells; cell++) {
            int64_t j = n - 1 - i, top = cell / grid * p, left = cell % grid * p;
            float *a = patches + (i * cells + cell) * row, *b = patches + (j * cells + cell) * row;
            erase_patch(args, &erase[i], i, top, left, a);
            if (j == i) /* mixed with itself */
                continue;
            erase_patch(args, &erase[j], j, top, left, b);
            if (mixes)
                mix_patch(mix, p, top, left, a, b);
        }
    return STATUS_OK;
}
