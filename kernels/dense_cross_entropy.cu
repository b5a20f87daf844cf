/* Dense cross-entropy on CUDA, in two passes. First a thread a pixel: log-sum-exp and loss, in one
 * walk over the classes (online softmax). Then a block a cell of the coarse map, a thread a class:
 * it gathers the gradient of the pixels that read the cell, whose probabilities come again from the
 * nine cells around. Each pixel is looked at by up to four blocks, and nothing is added atomically:
 * the same bits each time. */
#include "ops/dense_cross_entropy.h"

#include "kernels/op_cuda.h"
#include "kernels/rows.cuh"
#include "kernels/value.cuh"
#include "kernels/warp.cuh"
#include "ops/bilinear.h"

enum { THREADS = 128, WARPS = THREADS / WARP, AROUND = 3 };

struct dense_arrays {
    const float *logits;
    const uint8_t *label;
    float *lse, *loss, *d_logits;
    int32_t *right;
    int k, height, width, label_height, label_width;
    float ratio_y, ratio_x, scale;
};

/* A block a row of pixels. */
__global__ void __launch_bounds__(THREADS) dense_losses(dense_arrays a)
{
    SHARED(double, losses, WARPS);
    SHARED(int, rights, WARPS);
    int row = (int)blockIdx.x, image = row / a.label_height;
    bilinear_tap down = bilinear_tap_at(row - image * a.label_height, a.ratio_y, a.height);
    const float *low = a.logits + ((int64_t)image * a.height + down.low) * a.width * a.k;
    const float *high = a.logits + ((int64_t)image * a.height + down.high) * a.width * a.k;
    double loss = 0.0;
    int right = 0;

    for (int x = (int)threadIdx.x; x < a.label_width; x += THREADS) {
        int64_t pixel = (int64_t)row * a.label_width + x;
        int label = a.label[pixel], best = 0;
        if (label == DENSE_IGNORED)
            continue;
        bilinear_tap across = bilinear_tap_at(x, a.ratio_x, a.width);
        const float *ll = low + (int64_t)across.low * a.k, *lh = low + (int64_t)across.high * a.k;
        const float *hl = high + (int64_t)across.low * a.k, *hh = high + (int64_t)across.high * a.k;
        float top = -INFINITY, sum = 0.0f, own = 0.0f, up = 1.0f - down.share;
        for (int j = 0; j < a.k; j++) {
            float left = up * ll[j] + down.share * hl[j], right_ = up * lh[j] + down.share * hh[j];
            float z = (1.0f - across.share) * left + across.share * right_;
            own = j == label ? z : own;
            if (z > top) {
                sum = sum * expf(top - z) + 1.0f;
                top = z;
                best = j;
            } else {
                sum += expf(z - top);
            }
        }
        float lse = top + logf(sum);
        a.lse[pixel] = lse;
        loss += (double)lse - (double)own;
        right += best == label;
    }
    loss = block_sum<THREADS>(loss, losses);
    right = block_sum<THREADS>(right, rights);
    if (threadIdx.x == 0) {
        a.loss[row] = (float)loss;
        a.right[row] = right;
    }
}

/* How much of a pixel's value comes from a cell. */
__device__ __forceinline__ float share_of(const bilinear_tap &tap, int cell)
{
    return (tap.low == cell ? 1.0f - tap.share : 0.0f) + (tap.high == cell ? tap.share : 0.0f);
}

/* The first and last pixel along an axis that may read a cell. */
__device__ __forceinline__ int first_pixel(int cell, float ratio)
{
    int first = (int)floorf(((float)cell - 0.5f) / ratio - 0.5f) - 1;
    return cell == 0 || first < 0 ? 0 : first;
}

__device__ __forceinline__ int last_pixel(int cell, float ratio, int n_cells, int n)
{
    int last = (int)ceilf(((float)cell + 1.5f) / ratio - 0.5f) + 1;
    return cell == n_cells - 1 || last > n - 1 ? n - 1 : last;
}

/* A block a cell. */
__global__ void __launch_bounds__(THREADS) dense_gradient(dense_arrays a)
{
    SHARED(float, around, AROUND *AROUND *THREADS);
    int64_t cell = blockIdx.x;
    int cx = (int)(cell % a.width), cy = (int)(cell / a.width % a.height);
    int64_t image = cell / ((int64_t)a.width * a.height);
    const float *logits = a.logits + image * a.height * a.width * a.k;
    int top = first_pixel(cy, a.ratio_y), left = first_pixel(cx, a.ratio_x);
    int bottom = last_pixel(cy, a.ratio_y, a.height, a.label_height);
    int right = last_pixel(cx, a.ratio_x, a.width, a.label_width);

    for (int j = (int)threadIdx.x; j < a.k; j += THREADS) {
        float *mine = around + threadIdx.x; /* read by this thread alone */
        for (int i = 0; i < AROUND * AROUND; i++) {
            int y = cy + i / AROUND - 1, x = cx + i % AROUND - 1;
            bool inside = y >= 0 && y < a.height && x >= 0 && x < a.width;
            mine[i * THREADS] = inside ? logits[((int64_t)y * a.width + x) * a.k + j] : 0.0f;
        }
        float sum = 0.0f;
        for (int y = top; y <= bottom; y++) {
            bilinear_tap down = bilinear_tap_at(y, a.ratio_y, a.height);
            float share_y = share_of(down, cy), up = 1.0f - down.share;
            if (share_y == 0.0f)
                continue;
            const float *low = mine + (down.low - cy + 1) * AROUND * THREADS;
            const float *high = mine + (down.high - cy + 1) * AROUND * THREADS;
            int64_t row = (image * a.label_height + y) * a.label_width;
            for (int x = left; x <= right; x++) {
                bilinear_tap across = bilinear_tap_at(x, a.ratio_x, a.width);
                float share = share_y * share_of(across, cx);
                int label = a.label[row + x];
                if (share == 0.0f || label == DENSE_IGNORED)
                    continue;
                int l = (across.low - cx + 1) * THREADS, h = (across.high - cx + 1) * THREADS;
                float z = (1.0f - across.share) * (up * low[l] + down.share * high[l]) +
                          across.share * (up * low[h] + down.share * high[h]);
                sum += share * (expf(z - a.lse[row + x]) - (j == label ? 1.0f : 0.0f));
            }
        }
        a.d_logits[cell * a.k + j] = a.scale * sum;
    }
}

enum status dense_cross_entropy_cuda(struct device *device,
                                     const struct dense_cross_entropy_args *args)
{
    TRY(dense_cross_entropy_check(args));
    dense_arrays arrays = {data_of<float>(args->logits),
                           data_of<uint8_t>(args->label),
                           data_of<float>(args->lse),
                           data_of<float>(args->loss),
                           data_of<float>(args->d_logits),
                           data_of<int32_t>(args->right),
                           static_cast<int>(args->logits.shape[1]),
                           args->height,
                           args->width,
                           args->label_height,
                           args->label_width,
                           (float)args->height / (float)args->label_height,
                           (float)args->width / (float)args->label_width,
                           args->scale};
    TRY(launch(device, "dense_losses", static_cast<unsigned>(args->n * args->label_height), THREADS,
               0, dense_losses, arrays));
    if (args->d_logits.data == NULL)
        return STATUS_OK;
    return launch(device, "dense_gradient",
                  static_cast<unsigned>(args->n * args->height * args->width), THREADS, 0,
                  dense_gradient, arrays);
}
