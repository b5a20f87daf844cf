/* Pixels to tokens on CUDA. Everything here moves memory once: patchify reads 1 byte and writes 2 a
 * value in bf16, the token buffer reads 2 and writes 4 (2 as a bf16 stream), its gradient the
 * reverse. */
#include "ops/tokens.h"

#include "kernels/column_sums.cuh"
#include "kernels/op_cuda.h"
#include "kernels/value.cuh"
#include "ops/check.h"

enum { PACK = 4, SHADES = 256 };

/* ------------------------------------------------------------------------------ patches */

struct channel_range {
    float mean[3], std[3];
};

/* Where `WIDTH` neighbours of one line of one patch lie: thread i has the i-th of them. */
struct picture_size {
    int height, width, rows, columns; /* in pixels, in patches */
};

struct patch_place {
    int64_t patch, image;
    int line, column; /* in the image */
    int offset;       /* in the patch's plane of one channel */
};

__device__ __forceinline__ patch_place place_of(int64_t i, picture_size size, int p, int width)
{
    int across = p / width, each = p * across; /* places in a line, in a patch */
    patch_place at;

    at.patch = i / each;
    int inside = (int)(i - at.patch * each), y = inside / across, x = inside % across * width;
    at.image = at.patch / (size.rows * size.columns);
    int cell = (int)(at.patch - at.image * (size.rows * size.columns));
    at.line = cell / size.columns * p + y;
    at.column = cell % size.columns * p + x;
    at.offset = y * p + x;
    return at;
}

/* Bytes: every value that one can stand for is in a table, in the order of roundings that PyTorch
 * has. Four pixels are three words. */
template <int WIDTH, class T>
__global__ void __launch_bounds__(ROW_THREADS, 4)
    patches_of_bytes(T *__restrict__ patches, const uint8_t *__restrict__ pixels, int64_t n_places,
                     picture_size size, int p, channel_range range)
{
    SHARED(float, table, 3 * SHADES);

#pragma unroll
    for (int c = 0; c < 3; c++)
        for (int i = (int)threadIdx.x; i < SHADES; i += ROW_THREADS)
            table[c * SHADES + i] = ((float)i / 255.0f - range.mean[c]) / range.std[c];
    __syncthreads();
    for (int64_t i = first_element(); i < n_places; i += element_stride()) {
        patch_place at = place_of(i, size, p, WIDTH);
        const uint8_t *from =
            pixels + ((at.image * size.height + at.line) * size.width + at.column) * 3;
        T *to = patches + at.patch * (3 * p * p) + at.offset;
        uint8_t bytes[3 * WIDTH];
        if constexpr (WIDTH == 4) {
#pragma unroll
            for (int w = 0; w < 3; w++) {
                uint32_t word = reinterpret_cast<const uint32_t *>(from)[w];
#pragma unroll
                for (int j = 0; j < 4; j++)
                    bytes[4 * w + j] = (uint8_t)(word >> (8 * j));
            }
        } else {
#pragma unroll
            for (int j = 0; j < 3 * WIDTH; j++)
                bytes[j] = from[j];
        }
#pragma unroll
        for (int c = 0; c < 3; c++) {
            float value[WIDTH];
#pragma unroll
            for (int j = 0; j < WIDTH; j++)
                value[j] = table[c * SHADES + bytes[3 * j + c]];
            store_pack<WIDTH>(to + c * p * p, value);
        }
    }
}

template <int WIDTH, class T>
__global__ void __launch_bounds__(ROW_THREADS, 4)
    patches_of_floats(T *__restrict__ patches, const float *__restrict__ pixels, int64_t n_places,
                      picture_size size, int p)
{
    for (int64_t i = first_element(); i < n_places; i += element_stride()) {
        patch_place at = place_of(i, size, p, WIDTH);
        T *to = patches + at.patch * (3 * p * p) + at.offset;
#pragma unroll
        for (int c = 0; c < 3; c++) {
            float value[WIDTH];
            load_pack<WIDTH>(value, pixels +
                                        ((at.image * 3 + c) * size.height + at.line) * size.width +
                                        at.column);
            store_pack<WIDTH>(to + c * p * p, value);
        }
    }
}

enum status patchify_cuda(struct device *device, const struct patchify_args *args)
{
    const struct tensor *pixels = &args->pixels;
    bool bytes = pixels->dtype == DTYPE_U8;
    int64_t n = pixels->shape[0], height = pixels->shape[bytes ? 1 : 2];
    int64_t width = pixels->shape[bytes ? 2 : 3];
    int p = args->patch_size;
    channel_range range;

    if (!bytes && pixels->dtype != DTYPE_F32)
        FAIL(STATUS_UNSUPPORTED, "patchify: pixels have dtype %d; wanted u8 or f32",
             static_cast<int>(pixels->dtype));
    CHECK(pixels->rank == 4 && p >= 1 && height <= INT16_MAX && width <= INT16_MAX);
    CHECK(pixels->shape[bytes ? 3 : 1] == 3);
    picture_size size = {static_cast<int>(height), static_cast<int>(width),
                         static_cast<int>(height) / p, static_cast<int>(width) / p};
    int64_t n_patches = n * size.rows * size.columns;
    CHECK(tensor_is_2d(&args->patches, n_patches, 3 * p * p));
    for (int c = 0; c < 3; c++) {
        range.mean[c] = args->mean[c];
        range.std[c] = args->std[c];
    }
    return with_float_type(args->patches.dtype, "patchify: patches", [&](auto t) {
        using T = typename decltype(t)::type;
        /* lines and patches begin at a pack; columns do where p is a multiple of four */
        bool wide = p % PACK == 0 &&
                    is_packed(args->patches.data, PACK, args->patches.dtype, PACK * sizeof(T)) &&
                    (bytes ? is_packed(pixels->data, 3 * width, DTYPE_U8, 4)
                           : is_packed(pixels->data, width, DTYPE_F32, 16));
        int64_t places = n_patches * p * (wide ? p / PACK : p);
        unsigned blocks = element_blocks(device, places);
        if (bytes)
            return launch(device, "patches_of_bytes", blocks, ROW_THREADS, 0,
                          wide ? patches_of_bytes<PACK, T> : patches_of_bytes<1, T>,
                          data_of<T>(args->patches), data_of<uint8_t>(*pixels), places, size, p,
                          range);
        return launch(device, "patches_of_floats", blocks, ROW_THREADS, 0,
                      wide ? patches_of_floats<PACK, T> : patches_of_floats<1, T>,
                      data_of<T>(args->patches), data_of<float>(*pixels), places, size, p);
    });
}

/* ------------------------------------------------------------------------------ token buffer */

template <int WIDTH, class X, class T>
__global__ void __launch_bounds__(ROW_THREADS, 4)
    tokens_forward(X *__restrict__ tokens, const T *__restrict__ patches,
                   const uint8_t *__restrict__ mask, const float *__restrict__ mask_token,
                   const float *__restrict__ cls, const float *__restrict__ pos, int64_t n_rows,
                   int64_t length, int32_t d)
{
    for (int64_t row = first_row(); row < n_rows; row += row_stride()) {
        int64_t image = row / length, at = row - image * length;
        int64_t patch = image * (length - 1) + at - 1;
        const float *instead = at == 0                               ? cls
                               : mask != nullptr && mask[patch] != 0 ? mask_token
                                                                     : nullptr;
        for (int j = lane_of_warp() * WIDTH; j < d; j += WARP * WIDTH) {
            float value[WIDTH], add[WIDTH];
            if (instead != nullptr)
                load_pack<WIDTH>(value, instead + j);
            else
                load_pack<WIDTH>(value, patches + patch * d + j);
            load_pack<WIDTH>(add, pos + at * d + j);
#pragma unroll
            for (int k = 0; k < WIDTH; k++)
                value[k] += add[k];
            store_pack<WIDTH>(tokens + row * d + j, value);
        }
    }
}

/* May [rows, d] be read and written in packs of four? Absent arrays may. */
static bool packed(const struct tensor *tensor, int64_t d)
{
    return is_packed(tensor->data, d, tensor->dtype, PACK * dtype_size_bytes(tensor->dtype));
}

enum status tokens_forward_cuda(struct device *device, const struct tokens_args *args)
{
    int64_t length = args->pos.shape[0], d = args->pos.shape[1], n_rows = args->tokens.shape[0];

    CHECK(length > 0 && d <= INT32_MAX);
    CHECK(n_rows % length == 0 && args->tokens.shape[1] == d && tensor_is_1d(&args->cls, d));
    CHECK(tensor_is_2d(&args->patches, n_rows / length * (length - 1), d));
    CHECK(args->mask.data == nullptr ||
          (tensor_is_1d(&args->mask, args->patches.shape[0]) && args->mask_token.data != nullptr));
    bool wide = packed(&args->patches, d) && packed(&args->tokens, d) && packed(&args->cls, d) &&
                packed(&args->pos, d) && packed(&args->mask_token, d);
    return with_float_type(args->patches.dtype, "tokens: patches", [&](auto t) {
        using T = typename decltype(t)::type;
        return with_float_type(args->tokens.dtype, "tokens: tokens", [&](auto x) {
            using X = typename decltype(x)::type;
            return launch(device, "tokens_forward", row_blocks(device, n_rows), ROW_THREADS, 0,
                          wide ? tokens_forward<PACK, X, T> : tokens_forward<1, X, T>,
                          data_of<X>(args->tokens), data_of<T>(args->patches),
                          data_of<uint8_t>(args->mask), data_of<float>(args->mask_token),
                          data_of<float>(args->cls), data_of<float>(args->pos), n_rows, length,
                          static_cast<int32_t>(d));
        });
    });
}

/* A row is an image, a column an element of its token buffer: gradients of positions and [CLS], and
 * on the way those of the patches. */
template <class X, class T> struct position_sums {
    enum { SUMS = 1 };
    const X *d_tokens;
    const uint8_t *mask;
    T *d_patches;
    float *d_pos, *d_cls;
    int64_t length, d;

    template <int W> struct item {
        float value[W];
        bool masked;
    };

    template <int W> __device__ void load(item<W> &to, int64_t image, int64_t column) const
    {
        int64_t at = column / d;
        load_pack<W>(to.value, d_tokens + image * length * d + column);
        to.masked = mask != nullptr && at > 0 && mask[image * (length - 1) + at - 1] != 0;
    }

    template <int W>
    __device__ void add(double (&sum)[1][W], const item<W> &from, int64_t image,
                        int64_t column) const
    {
        float gradient[W];
#pragma unroll
        for (int k = 0; k < W; k++) {
            sum[0][k] += (double)from.value[k];
            gradient[k] = from.masked ? 0.0f : from.value[k];
        }
        if (column >= d) /* not [CLS] */
            store_pack<W>(d_patches + image * (length - 1) * d + column - d, gradient);
    }

    __device__ void finish(int, int64_t column, double total) const
    {
        d_pos[column] += (float)total;
        if (column < d)
            d_cls[column] += (float)total;
    }
};

/* A row is a patch: the gradient of the mask token. */
template <class X> struct mask_token_sums {
    enum { SUMS = 1 };
    const X *d_tokens;
    const uint8_t *mask;
    float *d_mask_token;
    int64_t n_patches, d;

    template <int W> struct item {
        float value[W];
        bool masked;
    };

    template <int W> __device__ void load(item<W> &to, int64_t patch, int64_t column) const
    {
        to.masked = mask[patch] != 0;
        if (to.masked)
            load_pack<W>(to.value, d_tokens + (patch + patch / n_patches + 1) * d + column);
    }

    template <int W>
    __device__ void add(double (&sum)[1][W], const item<W> &from, int64_t, int64_t) const
    {
#pragma unroll
        for (int k = 0; k < W; k++)
            sum[0][k] += from.masked ? (double)from.value[k] : 0.0;
    }

    __device__ void finish(int, int64_t column, double total) const
    {
        d_mask_token[column] += (float)total;
    }
};

enum status tokens_backward_cuda(struct device *device, const struct tokens_backward_args *args)
{
    int64_t length = args->d_pos.shape[0], d = args->d_pos.shape[1];
    int64_t n_images = args->d_tokens.shape[0] / length;
    const uint8_t *mask = data_of<uint8_t>(args->mask);

    CHECK(args->d_pos.dtype == DTYPE_F32);
    CHECK(tensor_is_2d(&args->d_tokens, n_images * length, d) && tensor_is_1d(&args->d_cls, d));
    CHECK(tensor_is_2d(&args->d_patches, n_images * (length - 1), d));
    CHECK(mask == nullptr || tensor_is_1d(&args->mask, n_images * (length - 1)));
    bool wide = packed(&args->d_tokens, d) && packed(&args->d_patches, d);
    return with_float_type(args->d_tokens.dtype, "tokens_backward: d_tokens", [&](auto x) {
        using X = typename decltype(x)::type;
        TRY(with_float_type(args->d_patches.dtype, "tokens_backward: d_patches", [&](auto t) {
            using T = typename decltype(t)::type;
            position_sums<X, T> sums = {data_of<X>(args->d_tokens),
                                        mask,
                                        data_of<T>(args->d_patches),
                                        data_of<float>(args->d_pos),
                                        data_of<float>(args->d_cls),
                                        length,
                                        d};
            return column_sums(device, "position_gradient", n_images, length * d, wide, sums);
        }));
        if (mask == nullptr || args->d_mask_token.data == nullptr)
            return STATUS_OK;
        mask_token_sums<X> sums = {data_of<X>(args->d_tokens), mask,
                                   data_of<float>(args->d_mask_token), length - 1, d};
        return column_sums(device, "mask_token_gradient", n_images * (length - 1), d, wide, sums);
    });
}

/* ------------------------------------------------------------------------------ positions */

struct taps {
    int index[4];
    float weight[4];
};

/* Cubic convolution, a = -0.75 (Keys 1981), at output i of an axis with n inputs. `scale` is
 * outputs per input, as PyTorch has it. */
__device__ __forceinline__ taps taps_at(int i, int n, double scale)
{
    const float a = -0.75f;
    taps t;
    float source = (float)(((double)i + 0.5) / scale - 0.5), base = floorf(source);
    float near0 = source - base, near1 = 1.0f - near0, far0 = near0 + 1.0f, far1 = 2.0f - near0;

    t.weight[0] = ((a * far0 - 5.0f * a) * far0 + 8.0f * a) * far0 - 4.0f * a;
    t.weight[1] = ((a + 2.0f) * near0 - (a + 3.0f)) * near0 * near0 + 1.0f;
    t.weight[2] = ((a + 2.0f) * near1 - (a + 3.0f)) * near1 * near1 + 1.0f;
    t.weight[3] = ((a * far1 - 5.0f * a) * far1 + 8.0f * a) * far1 - 4.0f * a;
#pragma unroll
    for (int k = 0; k < 4; k++) {
        int at = (int)base - 1 + k;
        t.index[k] = at < 0 ? 0 : at >= n ? n - 1 : at;
    }
    return t;
}

/* A block an output. */
__global__ void __launch_bounds__(ROW_THREADS, 4)
    position_interpolate(float *__restrict__ out, const float *__restrict__ grid, int n, int width,
                         int32_t d, double scale_y, double scale_x)
{
    int i = (int)blockIdx.x;
    taps y = taps_at(i / width, n, scale_y), x = taps_at(i % width, n, scale_x);

    for (int j = (int)threadIdx.x; j < d; j += ROW_THREADS) {
        float total = 0.0f;
#pragma unroll
        for (int a = 0; a < 4; a++) {
            const float *line = grid + (int64_t)y.index[a] * n * d + j;
            float sum = 0.0f; /* tap by tap, in the order that PyTorch adds them */
#pragma unroll
            for (int b = 0; b < 4; b++)
                sum += x.weight[b] * line[(int64_t)x.index[b] * d];
            total += y.weight[a] * sum;
        }
        out[(int64_t)i * d + j] = total;
    }
}

/* How much of each output of an axis comes from input `from`. */
__device__ __forceinline__ void axis_shares(float *share, int size, int from, int n, double scale)
{
    for (int i = (int)threadIdx.x; i < size; i += ROW_THREADS) {
        taps t = taps_at(i, n, scale);
        float sum = 0.0f; /* at an edge several taps are one input */
#pragma unroll
        for (int k = 0; k < 4; k++)
            sum += t.index[k] == from ? t.weight[k] : 0.0f;
        share[i] = sum;
    }
}

/* A block an element of the grid: gathers from the outputs that it went to. */
__global__ void __launch_bounds__(ROW_THREADS, 4)
    position_interpolate_backward(float *__restrict__ d_grid, const float *__restrict__ d_out,
                                  int n, int height, int width, int32_t d, double scale_y,
                                  double scale_x)
{
    DYNAMIC_SHARED(float, shares); /* [height + width] */
    float *across = shares + height;

    axis_shares(shares, height, (int)blockIdx.x / n, n, scale_y);
    axis_shares(across, width, (int)blockIdx.x % n, n, scale_x);
    __syncthreads();
    for (int j = (int)threadIdx.x; j < d; j += ROW_THREADS) {
        float total = 0.0f;
        for (int y = 0; y < height; y++) {
            if (shares[y] == 0.0f)
                continue;
            for (int x = 0; x < width; x++)
                if (across[x] != 0.0f)
                    total += shares[y] * across[x] * d_out[((int64_t)y * width + x) * d + j];
        }
        d_grid[(int64_t)blockIdx.x * d + j] += total;
    }
}

/* PyTorch passes the scale factor (size + 0.1) / n through. */
static double scale_of(int32_t size, int32_t n, bool exact)
{
    return (static_cast<double>(size) + (exact ? 0.0 : 0.1)) / static_cast<double>(n);
}

enum status position_interpolate_cuda(struct device *device,
                                      const struct position_interpolate_args *args)
{
    int32_t n = args->grid_size;
    int64_t d = args->grid.shape[1], n_out = static_cast<int64_t>(args->height) * args->width;

    CHECK(args->grid.dtype == DTYPE_F32 && args->out.dtype == DTYPE_F32 && d <= INT32_MAX);
    CHECK(n >= 1 && n <= INT16_MAX && n_out <= INT32_MAX);
    CHECK(tensor_is_2d(&args->grid, static_cast<int64_t>(n) * n, d));
    CHECK(tensor_is_2d(&args->out, n_out, d));
    return launch(device, "position_interpolate", static_cast<unsigned>(n_out), ROW_THREADS, 0,
                  position_interpolate, data_of<float>(args->out), data_of<float>(args->grid), n,
                  args->width, static_cast<int32_t>(d), scale_of(args->height, n, args->exact),
                  scale_of(args->width, n, args->exact));
}

enum status
position_interpolate_backward_cuda(struct device *device,
                                   const struct position_interpolate_backward_args *args)
{
    int32_t n = args->grid_size, height = args->height, width = args->width;
    int64_t d = args->d_grid.shape[1];

    CHECK(args->d_out.dtype == DTYPE_F32 && args->d_grid.dtype == DTYPE_F32 && d <= INT32_MAX);
    CHECK(n >= 1 && n <= INT16_MAX && height <= 4096 && width <= 4096);
    CHECK(tensor_is_2d(&args->d_grid, static_cast<int64_t>(n) * n, d));
    CHECK(tensor_is_2d(&args->d_out, static_cast<int64_t>(height) * width, d));
    return launch(device, "position_interpolate_backward", static_cast<unsigned>(n * n),
                  ROW_THREADS, static_cast<size_t>(height + width) * sizeof(float),
                  position_interpolate_backward, data_of<float>(args->d_grid),
                  data_of<float>(args->d_out), n, height, width, static_cast<int32_t>(d),
                  scale_of(height, n, false), scale_of(width, n, false));
}

/* ------------------------------------------------------------------------------ rows */

/* Rows of `units` units; a negative index stands for a row of zeros. */
template <class U>
__global__ void __launch_bounds__(ROW_THREADS, 4)
    rows_gather(U *__restrict__ to, const U *__restrict__ from, const int32_t *__restrict__ index,
                int64_t n, int32_t units)
{
    for (int64_t row = first_row(); row < n; row += row_stride()) {
        int64_t at = index[row];
        for (int j = lane_of_warp(); j < units; j += WARP) {
            U value = {};
            if (at >= 0)
                value = from[at * units + j];
            to[row * units + j] = value;
        }
    }
}

/* A negative index stands for no row. */
template <class U>
__global__ void __launch_bounds__(ROW_THREADS, 4)
    rows_scatter(U *__restrict__ to, const U *__restrict__ from, const int32_t *__restrict__ index,
                 int64_t n, int32_t units)
{
    for (int64_t row = first_row(); row < n; row += row_stride()) {
        int64_t at = index[row];
        if (at < 0)
            continue;
        for (int j = lane_of_warp(); j < units; j += WARP)
            to[at * units + j] = from[row * units + j];
    }
}

/* Calls f with the widest unit that rows of both arrays are made of. Their type has two bytes or
 * four. */
template <class F>
static enum status with_unit(const struct tensor *a, const struct tensor *b, const F &f)
{
    auto made_of = [&](size_t bytes) {
        return is_packed(a->data, a->shape[1], a->dtype, bytes) &&
               is_packed(b->data, b->shape[1], b->dtype, bytes);
    };
    if (made_of(sizeof(uint4)))
        return f(type_tag<uint4>{});
    if (made_of(sizeof(uint32_t)))
        return f(type_tag<uint32_t>{});
    CHECK(made_of(sizeof(uint16_t)));
    return f(type_tag<uint16_t>{});
}

static int32_t units_of(const struct tensor *rows, size_t unit)
{
    size_t units = static_cast<size_t>(rows->shape[1]) * dtype_size_bytes(rows->dtype) / unit;

    CHECK(units <= INT32_MAX);
    return static_cast<int32_t>(units);
}

enum status rows_gather_cuda(struct device *device, const struct rows_gather_args *args)
{
    int64_t n = args->to.shape[0];

    CHECK(args->from.dtype == args->to.dtype && args->from.shape[1] == args->to.shape[1]);
    CHECK(args->index.dtype == DTYPE_I32 && args->index.shape[0] >= n);
    return with_unit(&args->from, &args->to, [&](auto unit) {
        using U = typename decltype(unit)::type;
        return launch(device, "rows_gather", row_blocks(device, n), ROW_THREADS, 0, rows_gather<U>,
                      data_of<U>(args->to), data_of<U>(args->from), data_of<int32_t>(args->index),
                      n, units_of(&args->to, sizeof(U)));
    });
}

enum status rows_scatter_cuda(struct device *device, const struct rows_scatter_args *args)
{
    int64_t n = args->from.shape[0];

    CHECK(args->from.dtype == args->to.dtype && args->from.shape[1] == args->to.shape[1]);
    CHECK(args->index.dtype == DTYPE_I32 && args->index.shape[0] >= n);
    if (args->zero_others)
        TRY(device->zero(device, args->to.data, tensor_size_bytes(&args->to)));
    return with_unit(&args->from, &args->to, [&](auto unit) {
        using U = typename decltype(unit)::type;
        return launch(device, "rows_scatter", row_blocks(device, n), ROW_THREADS, 0,
                      rows_scatter<U>, data_of<U>(args->to), data_of<U>(args->from),
                      data_of<int32_t>(args->index), n, units_of(&args->to, sizeof(U)));
    });
}

template <int WIDTH>
__global__ void __launch_bounds__(ROW_THREADS, 4)
    rows_add(float *__restrict__ to, const float *__restrict__ from, int64_t n)
{
    for (int64_t i = first_element() * WIDTH; i < n; i += element_stride() * WIDTH) {
        float value[WIDTH], add[WIDTH];
        load_pack<WIDTH>(value, to + i);
        load_pack<WIDTH>(add, from + i);
#pragma unroll
        for (int j = 0; j < WIDTH; j++)
            value[j] += add[j];
        store_pack<WIDTH>(to + i, value);
    }
}

enum status rows_add_cuda(struct device *device, const struct rows_add_args *args)
{
    int64_t n = tensor_n_elements(&args->to);
    bool wide = packed(&args->to, n) && packed(&args->from, n);

    CHECK(args->to.dtype == DTYPE_F32 && args->from.dtype == DTYPE_F32);
    CHECK(tensor_n_elements(&args->from) == n);
    return launch(device, "rows_add", element_blocks(device, wide ? n / PACK : n), ROW_THREADS, 0,
                  wide ? rows_add<PACK> : rows_add<1>, data_of<float>(args->to),
                  data_of<float>(args->from), n);
}
