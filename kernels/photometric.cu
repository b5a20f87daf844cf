/* Colours of crops on CUDA: a block takes a crop into shared memory, does all that is done to it
 * there, and writes it back, so that global memory is read and written once.
 *
 *   plane    [H, pitch] bytes: packed RGB, a row padded to whole packs of four pixels (12 bytes)
 *   scratch  two bands of words, for the blur
 *
 * Point operations take a pack at a time in registers; all of them go in one pass over the plane,
 * and each contrast, whose constant is the mean luma of what came before it, begins another. The
 * blur is three box passes along either axis with 8 bits after each; a word holds four bytes of
 * neighbouring lines, which are summed as two pairs of 16 bits:
 *
 *   down     a word of a row as it is: four columns of bytes
 *   across   four rows are transposed on their way into the scratch, a byte of each to a word
 *
 * Crops that do not fit (above 240 to 270 px) have their plane in global memory.
 *
 * Every byte is that of ops/pixels/photometric.c. Products and sums are rounded one by one (the
 * _rn functions are never contracted), and hue is the arithmetic of the vector code there.
 *
 * Bound: 6 bytes of global memory for a pixel: 17 us for the 2 x 224 and 10 x 96 px crops of 64
 * images at 4.3 TB/s. Arithmetic takes longer where everything is drawn: about 200 operations for a
 * pixel's colours, 25 for each byte of a blurred one; some 100 us for the same crops. */
#include "ops/photometric.h"

#include <string.h>

#include "kernels/launch.cuh"
#include "kernels/op_cuda.h"
#include "kernels/value.cuh"
#include "kernels/warp.cuh"
#include "ops/check.h"
#include "ops/pixels/photometric.h"

enum {
    SMALL_THREADS = 256, /* several blocks share a multiprocessor */
    LARGE_THREADS = 1024,
    SMALL_PLANE_BYTES = 48 << 10,
    SMALL_SCRATCH_BYTES = 16 << 10,
    RESERVED_BYTES = 1 << 10, /* of shared memory: for what is declared below */
    UNASKED_BYTES = 48 << 10, /* a block has, declared and dynamic, unless more is asked for */
    PACK = 4,                 /* pixels */
    PACK_BYTES = 3 * PACK,
    PACK_WORDS = PACK_BYTES / 4,
    BRIGHTNESS = 0, /* kinds of jitter */
    CONTRAST = 1,
    SATURATION = 2,
    HUE = 3,
    JITTERS = 4,
};

/* A crop's parameters as they are used. */
struct colours {
    unsigned steps, order; /* a byte for each jitter, the first lowest */
    float brightness, contrast, saturation, hue, blur_radius;
    int solarize_threshold;
};

/* A crop where it is worked on. */
struct picture {
    uint32_t *plane;
    int width, height, pitch; /* px, px, bytes */
};

/* ------------------------------------------------------------------------------ parameters */

static_assert(sizeof(struct photometric_params) == PHOTOMETRIC_PARAMS_BYTES &&
                  offsetof(struct photometric_params, order) == 28,
              "eight words");

__device__ __forceinline__ colours read_colours(const uint32_t *params)
{
    colours c;

    c.steps = params[0];
    c.brightness = __uint_as_float(params[1]);
    c.contrast = __uint_as_float(params[2]);
    c.saturation = __uint_as_float(params[3]);
    c.hue = __uint_as_float(params[4]);
    c.blur_radius = __uint_as_float(params[5]);
    c.solarize_threshold = (int)params[6];
    c.order = params[7];
    return c;
}

__device__ __forceinline__ bool is_within(float value, float low, float high)
{
    return value >= low && value <= high; /* no NaN either */
}

/* photometric_params_are_sound */
__device__ bool is_sound(const colours &c)
{
    for (int i = 0; i < JITTERS; i++)
        if ((c.order >> 8 * i & 255) > JITTERS)
            return false;
    return c.steps < 2 * PHOTOMETRIC_SOLARIZE && is_within(c.brightness, 0.0f, 1000.0f) &&
           is_within(c.contrast, 0.0f, 1000.0f) && is_within(c.saturation, 0.0f, 1000.0f) &&
           is_within(c.hue, -0.5f, 0.5f) &&
           is_within(c.blur_radius, 0.0f, PHOTOMETRIC_MAX_BLUR_RADIUS) &&
           c.solarize_threshold >= 0 && c.solarize_threshold <= 256;
}

/* ------------------------------------------------------------------------------ colour */

/* d + factor * (value - d), cut off towards zero, clamped to a byte. */
__device__ __forceinline__ int blended(int value, int d, float factor)
{
    float t = __fadd_rn((float)d, __fmul_rn(factor, (float)(value - d)));
    return __float2int_rz(fminf(fmaxf(t, 0.0f), 255.0f));
}

__device__ __forceinline__ int luma_of(const int (&rgb)[3])
{
    return (LUMA_RED * rgb[0] + LUMA_GREEN * rgb[1] + LUMA_BLUE * rgb[2] + LUMA_HALF) >> 16;
}

/* For each of seven sectors of the colour circle 2 (the greatest), 1 (the one between) or 0. */
#define SECTORS(a, b, c, d, e, f)                                                                  \
    ((a) | (b) << 2 | (c) << 4 | (d) << 6 | (e) << 8 | (f) << 10 | (a) << 12)

__device__ __forceinline__ int channel_of(int codes, int sector, int v, int mid, int p)
{
    int code = codes >> 2 * sector & 3;
    return code == 2 ? v : code == 1 ? mid : p;
}

__constant__ uint32_t short_hues[8] = HUE_SHORT_BITS;

/* Hue moved by shift / 255 turns by way of 8-bit HSV: hue_at of pixel_kernels_vector.inc. */
__device__ __forceinline__ void move_hue(int (&rgb)[3], int shift)
{
    const float margin = 5e-4f; /* exact quotients are met from either side */
    int red = rgb[0], green = rgb[1], blue = rgb[2];
    int high = max(max(red, green), blue), range = high - min(min(red, green), blue);
    int base = red == high ? (blue > green ? 255 : 0) : green == high ? 85 : 170;
    int side = red == high ? green - blue : green == high ? blue - red : red - green;

    float exact = __fmul_rn(__fdiv_rn((float)side, (float)max(range, 1)), 42.5f);
    exact = __fadd_rn(__fadd_rn(exact, (float)base), margin);
    int hue = __float2int_rz(exact);
    float beyond = __fsub_rn(exact, (float)hue);
    if (__float2int_rz(__fmul_rn(beyond, 0.5f / margin)) == 0)
        hue -= (int)(short_hues[hue >> 5] >> (hue & 31) & 1);
    hue = (hue + shift) & 255;

    float v = (float)high;
    float quotient = __fdiv_rn((float)(255 * range), fmaxf(v, 1.0f));
    float saturation = (float)__float2int_rz(__fadd_rn(quotient, margin));
    int sector = (6 * hue * 257 + 257) >> 16, part = 6 * hue - 255 * sector;
    part = (sector & 1) != 0 ? part : 255 - part;
    float vs = __fmul_rn(v, saturation); /* with `part` below 2^24: exact */
    int p = __float2int_rn(__fsub_rn(v, __fmul_rn(vs, 1.0f / 255.0f)));
    float gap = __fmul_rn(__fmul_rn(vs, (float)part), 1.0f / 65025.0f);
    int mid = __float2int_rn(__fsub_rn(v, gap));
    rgb[0] = channel_of(SECTORS(2, 1, 0, 0, 1, 2), sector, high, mid, p);
    rgb[1] = channel_of(SECTORS(1, 2, 2, 1, 0, 0), sector, high, mid, p);
    rgb[2] = channel_of(SECTORS(0, 0, 1, 2, 2, 1), sector, high, mid, p);
}

/* One jitter of four pixels. `mean`: the constant of contrast. */
__device__ __forceinline__ void jitter(int (&rgb)[PACK][3], unsigned kind, const colours &c,
                                       int mean)
{
#pragma unroll
    for (int i = 0; i < PACK; i++)
        if (kind == HUE) {
            move_hue(rgb[i], (int)__dmul_rn((double)c.hue, 255.0) & 255);
        } else if (kind < HUE) {
            int d = kind == BRIGHTNESS ? 0 : kind == CONTRAST ? mean : luma_of(rgb[i]);
            float factor = kind == BRIGHTNESS ? c.brightness
                           : kind == CONTRAST ? c.contrast
                                              : c.saturation;
#pragma unroll
            for (int channel = 0; channel < 3; channel++)
                rgb[i][channel] = blended(rgb[i][channel], d, factor);
        }
}

__device__ __forceinline__ void unpack(int (&rgb)[PACK][3], const uint32_t *words)
{
    uint32_t word[PACK_WORDS] = {words[0], words[1], words[2]};
#pragma unroll
    for (int i = 0; i < PACK_BYTES; i++)
        rgb[i / 3][i % 3] = (int)(word[i / 4] >> 8 * (i % 4) & 255);
}

__device__ __forceinline__ void store_bytes(uint32_t *words, const int (&rgb)[PACK][3])
{
    uint32_t word[PACK_WORDS] = {};
#pragma unroll
    for (int i = 0; i < PACK_BYTES; i++)
        word[i / 4] |= (uint32_t)rgb[i / 3][i % 3] << 8 * (i % 4);
#pragma unroll
    for (int i = 0; i < PACK_WORDS; i++)
        words[i] = word[i];
}

/* What follows the jitter: grey, and inverted from the threshold on. */
__device__ __forceinline__ void finish(int (&rgb)[PACK][3], bool grey, int threshold)
{
#pragma unroll
    for (int i = 0; i < PACK; i++) {
        if (grey)
            rgb[i][0] = rgb[i][1] = rgb[i][2] = luma_of(rgb[i]);
#pragma unroll
        for (int channel = 0; channel < 3; channel++)
            if (rgb[i][channel] >= threshold)
                rgb[i][channel] = 255 - rgb[i][channel];
    }
}

/* Jitter, grey and, from `threshold` on, inversion, as many passes as there are contrasts and one.
 */
template <int THREADS>
__device__ void change_points(const picture &p, const colours &c, int threshold,
                              unsigned long long *partial)
{
    bool grey = (c.steps & PHOTOMETRIC_GRAYSCALE) != 0;
    unsigned order = (c.steps & PHOTOMETRIC_JITTER) != 0 ? c.order : 0x04040404u;
    int packs_in_row = p.pitch / PACK_BYTES, n_packs = packs_in_row * p.height;
    int begin = 0, mean = 0;

    if (order == 0x04040404u && !grey && threshold > 255)
        return;
    for (bool has_mean = false;; has_mean = true) {
        int end = has_mean ? begin + 1 : begin;
        while (end < JITTERS && (order >> 8 * end & 255) != CONTRAST)
            end++;
        unsigned long long sum = 0;
        for (int i = (int)threadIdx.x; i < n_packs; i += THREADS) {
            int rgb[PACK][3], x = i % packs_in_row * PACK;
            unpack(rgb, p.plane + i * PACK_WORDS);
            for (int j = begin; j < end; j++)
                jitter(rgb, order >> 8 * j & 255, c, mean);
            if (end == JITTERS) {
                finish(rgb, grey, threshold);
            } else {
#pragma unroll
                for (int j = 0; j < PACK; j++)
                    sum += x + j < p.width ? (unsigned)luma_of(rgb[j]) : 0u;
            }
            if (end == JITTERS || end > begin)
                store_bytes(p.plane + i * PACK_WORDS, rgb);
        }
        if (end == JITTERS)
            return;
        __syncthreads(); /* `partial` is free again */
        sum = block_sum<THREADS>(sum, partial);
        unsigned long long n = (unsigned long long)p.width * (unsigned)p.height;
        mean = (int)((2 * sum + n) / (2 * n)); /* rounded half up */
        begin = end;
    }
}

/* ------------------------------------------------------------------------------ blur */

/* Radius and weights of the box whose three passes have the variance of a Gaussian: box_radius and
 * photometric_blur of photometric.c, rounding by rounding. */
__device__ struct box box_of(float sigma)
{
    float s2 = __fdiv_rn(__fmul_rn(sigma, sigma), 3.0f);
    float length = (float)sqrt(__dadd_rn(__dmul_rn(12.0, (double)s2), 1.0));
    float l = (float)floor(__dmul_rn(__dadd_rn((double)length, -1.0), 0.5)),
          l1 = __fadd_rn(l, 1.0f);
    float a = __fmul_rn(__fadd_rn(__fmul_rn(2.0f, l), 1.0f),
                        __fsub_rn(__fmul_rn(l, l1), __fmul_rn(3.0f, s2)));
    a = __fdiv_rn(a, __fmul_rn(6.0f, __fsub_rn(s2, __fmul_rn(l1, l1))));
    float rho = __fadd_rn(l, a);
    struct box box;

    box.radius = (int32_t)rho;
    box.inner = (uint32_t)__fdiv_rn(16777216.0f, __fadd_rn(__fmul_rn(rho, 2.0f), 1.0f));
    box.edge = ((1u << 24) - (uint32_t)(box.radius * 2 + 1) * box.inner) / 2;
    return box;
}

__device__ __forceinline__ uint32_t weighted(uint32_t sum, uint32_t ends, const struct box &box)
{
    return (sum * box.inner + ends * box.edge + (1u << 23)) >> 24;
}

/* Place `at` of a line of n words, `step` apart: the means of four lines of bytes. */
__device__ __forceinline__ uint32_t box_mean(const uint32_t *line, int at, int n, int step,
                                             const struct box &box)
{
    const uint32_t pairs = 0x00ff00ffu;
    int before = at - box.radius - 1, after = at + box.radius + 1;
    uint32_t low = line[max(before, 0) * step], high = line[min(after, n - 1) * step];
    uint32_t even_ends = (low & pairs) + (high & pairs);
    uint32_t odd_ends = (low >> 8 & pairs) + (high >> 8 & pairs);
    uint32_t even = 0, odd = 0;

    for (int i = before + 1; i < after; i++) {
        uint32_t word = line[min(max(i, 0), n - 1) * step];
        even += word & pairs;
        odd += word >> 8 & pairs;
    }
    return weighted(even & 0xffff, even_ends & 0xffff, box) |
           weighted(odd & 0xffff, odd_ends & 0xffff, box) << 8 |
           weighted(even >> 16, even_ends >> 16, box) << 16 |
           weighted(odd >> 16, odd_ends >> 16, box) << 24;
}

/* Four rows of four bytes to four columns of them. */
__device__ __forceinline__ void transpose(uint32_t (&word)[4])
{
    uint32_t a = __byte_perm(word[0], word[1], 0x5140), b = __byte_perm(word[2], word[3], 0x5140);
    uint32_t c = __byte_perm(word[0], word[1], 0x7362), d = __byte_perm(word[2], word[3], 0x7362);

    word[0] = __byte_perm(a, b, 0x5410);
    word[1] = __byte_perm(a, b, 0x7632);
    word[2] = __byte_perm(c, d, 0x5410);
    word[3] = __byte_perm(c, d, 0x7632);
}

/* Three passes along the rows, bands of four rows each at a time: [band][pitch words], twice. */
template <int THREADS>
__device__ void blur_across(const picture &p, const struct box &box, uint32_t *scratch,
                            int scratch_words)
{
    int row_words = p.pitch / 4, line = 3 * p.width, n_bands = (p.height + 3) / 4;
    int at_once = min(scratch_words / (2 * p.pitch), n_bands);
    uint32_t *bands[2] = {scratch, scratch + at_once * p.pitch};

    for (int first = 0; first < n_bands; first += at_once) {
        int n = min(at_once, n_bands - first);
        for (int i = (int)threadIdx.x; i < n * row_words; i += THREADS) {
            int band = i / row_words, column = i % row_words;
            uint32_t word[4];
#pragma unroll
            for (int j = 0; j < 4; j++)
                word[j] = p.plane[min(4 * (first + band) + j, p.height - 1) * row_words + column];
            transpose(word);
            *reinterpret_cast<uint4 *>(bands[0] + band * p.pitch + 4 * column) =
                make_uint4(word[0], word[1], word[2], word[3]);
        }
        __syncthreads();
#pragma unroll
        for (int pass = 0; pass < 3; pass++) {
            for (int i = (int)threadIdx.x; i < n * line; i += THREADS) {
                int band = i / line, place = i % line;
                bands[1 - pass % 2][band * p.pitch + place] = box_mean(
                    bands[pass % 2] + band * p.pitch + place % 3, place / 3, p.width, 3, box);
            }
            __syncthreads();
        }
        for (int i = (int)threadIdx.x; i < n * row_words; i += THREADS) {
            int band = i / row_words, column = i % row_words;
            uint4 four = *reinterpret_cast<uint4 *>(bands[1] + band * p.pitch + 4 * column);
            uint32_t word[4] = {four.x, four.y, four.z, four.w};
            transpose(word);
#pragma unroll
            for (int j = 0; j < 4; j++)
                if (4 * (first + band) + j < p.height)
                    p.plane[(4 * (first + band) + j) * row_words + column] = word[j];
        }
    }
    __syncthreads();
}

/* Three passes down the columns, strips of words at a time: [row][word], twice. */
template <int THREADS>
__device__ void blur_down(const picture &p, const struct box &box, uint32_t *scratch,
                          int scratch_words)
{
    int row_words = p.pitch / 4;
    int at_once = min(scratch_words / (2 * p.height), row_words);
    uint32_t *strips[2] = {scratch, scratch + at_once * p.height};

    for (int first = 0; first < row_words; first += at_once) {
        int n = min(at_once, row_words - first);
        for (int i = (int)threadIdx.x; i < n * p.height; i += THREADS)
            strips[0][i] = box_mean(p.plane + first + i % n, i / n, p.height, row_words, box);
        __syncthreads();
        for (int i = (int)threadIdx.x; i < n * p.height; i += THREADS)
            strips[1][i] = box_mean(strips[0] + i % n, i / n, p.height, n, box);
        __syncthreads();
        for (int i = (int)threadIdx.x; i < n * p.height; i += THREADS)
            p.plane[i / n * row_words + first + i % n] =
                box_mean(strips[1] + i % n, i / n, p.height, n, box);
    }
    __syncthreads();
}

template <int THREADS> __device__ void invert_from(const picture &p, int threshold)
{
    int n_packs = p.pitch / PACK_BYTES * p.height;

    for (int i = (int)threadIdx.x; i < n_packs; i += THREADS) {
        int rgb[PACK][3];
        unpack(rgb, p.plane + i * PACK_WORDS);
        finish(rgb, false, threshold);
        store_bytes(p.plane + i * PACK_WORDS, rgb);
    }
}

/* ------------------------------------------------------------------------------ copies */

/* How a crop lies in global memory: whole rows of packs, aligned to 16 or 4 bytes, or anyhow. */
enum layout { QUADS, WORDS, BYTES };

template <int THREADS>
__device__ void copy_in(const picture &p, const uint8_t *crop, enum layout layout)
{
    int line = 3 * p.width, n_bytes = line * p.height;

    if (layout == QUADS)
        for (int i = (int)threadIdx.x; i < n_bytes / 16; i += THREADS)
            reinterpret_cast<uint4 *>(p.plane)[i] = reinterpret_cast<const uint4 *>(crop)[i];
    else if (layout == WORDS)
        for (int i = (int)threadIdx.x; i < n_bytes / 4; i += THREADS)
            p.plane[i] = reinterpret_cast<const uint32_t *>(crop)[i];
    else
        for (int i = (int)threadIdx.x; i < n_bytes; i += THREADS)
            reinterpret_cast<uint8_t *>(p.plane)[i / line * p.pitch + i % line] = crop[i];
}

template <int THREADS> __device__ void copy_out(uint8_t *crop, const picture &p, enum layout layout)
{
    int line = 3 * p.width, n_bytes = line * p.height;

    if (layout == QUADS)
        for (int i = (int)threadIdx.x; i < n_bytes / 16; i += THREADS)
            reinterpret_cast<uint4 *>(crop)[i] = reinterpret_cast<const uint4 *>(p.plane)[i];
    else if (layout == WORDS)
        for (int i = (int)threadIdx.x; i < n_bytes / 4; i += THREADS)
            reinterpret_cast<uint32_t *>(crop)[i] = p.plane[i];
    else
        for (int i = (int)threadIdx.x; i < n_bytes; i += THREADS)
            crop[i] = reinterpret_cast<const uint8_t *>(p.plane)[i / line * p.pitch + i % line];
}

/* ------------------------------------------------------------------------------ kernel */

/* Crops blockIdx.x, + gridDim.x, …. RESIDENT: the plane is in shared memory, else in the block's
 * piece of `planes`. */
template <int THREADS, bool RESIDENT>
__global__ void __launch_bounds__(THREADS, THREADS == SMALL_THREADS ? 4 : 1)
    change_colours(uint8_t *pixels, const uint32_t *__restrict__ params, uint32_t *planes, int n,
                   int width, int height, int plane_words, int scratch_words, enum layout layout)
{
    SHARED(unsigned long long, partial, THREADS / WARP);
    DYNAMIC_SHARED(uint32_t, memory);
    uint32_t *scratch = RESIDENT ? memory + plane_words : memory;
    uint32_t *plane = RESIDENT ? memory : planes + (int64_t)blockIdx.x * plane_words;
    picture p = {plane, width, height, (width + PACK - 1) / PACK * PACK_BYTES};

    for (int crop = (int)blockIdx.x; crop < n; crop += (int)gridDim.x) {
        colours c = read_colours(params + (int64_t)crop * (PHOTOMETRIC_PARAMS_BYTES / 4));
        uint8_t *at = pixels + (int64_t)crop * width * height * 3;
        bool blurs = (c.steps & PHOTOMETRIC_BLUR) != 0;
        int threshold = (c.steps & PHOTOMETRIC_SOLARIZE) != 0 ? c.solarize_threshold : 256;

        if (c.steps == 0 || !is_sound(c))
            continue; /* the whole block */
        copy_in<THREADS>(p, at, layout);
        __syncthreads();
        change_points<THREADS>(p, c, blurs ? 256 : threshold, partial);
        __syncthreads();
        if (blurs) {
            struct box box = box_of(c.blur_radius);
            blur_across<THREADS>(p, box, scratch, scratch_words);
            blur_down<THREADS>(p, box, scratch, scratch_words);
            if (threshold < 256)
                invert_from<THREADS>(p, threshold);
            __syncthreads();
        }
        copy_out<THREADS>(at, p, layout);
        __syncthreads();
    }
}

/* ------------------------------------------------------------------------------ launcher */

/* Where planes and scratch of crops of one size lie, in bytes. */
struct room {
    int64_t plane, scratch;
    bool small, resident;
};

static int64_t rounded_up(int64_t n, int64_t unit)
{
    return (n + unit - 1) / unit * unit;
}

static enum status find_room(struct room *room, const struct cuda_device *cuda, int64_t width,
                             int64_t height)
{
    int64_t pitch = rounded_up(width, PACK) / PACK * PACK_BYTES;
    int64_t limit = static_cast<int64_t>(cuda->shared_bytes) - RESERVED_BYTES;
    int64_t least = 2 * 4 * (pitch > height ? pitch : height); /* a line of words either way */
    int64_t most = 2 * 4 * pitch * (rounded_up(height, 4) / 4);

    most = rounded_up(most > least ? most : least, 16);
    room->plane = rounded_up(pitch * height, 16);
    room->small = room->plane <= SMALL_PLANE_BYTES;
    room->resident = room->plane + least <= limit;
    room->scratch = limit - (room->resident ? room->plane : 0);
    if (room->small && room->scratch > SMALL_SCRATCH_BYTES)
        room->scratch = SMALL_SCRATCH_BYTES;
    if (room->scratch < least)
        room->scratch = least;
    if (room->scratch > most)
        room->scratch = most;
    room->scratch = room->scratch / 16 * 16;
    int64_t dynamic = room->scratch + (room->resident ? room->plane : 0);
    if (dynamic <= UNASKED_BYTES && dynamic > UNASKED_BYTES - RESERVED_BYTES)
        room->scratch += RESERVED_BYTES; /* so that launch() asks for it */
    if (room->scratch > limit || room->plane > INT32_MAX / 2)
        FAIL(STATUS_UNSUPPORTED,
             "photometric: crops of %lld x %lld px; a line of them takes %lld bytes of shared "
             "memory, of which a block has %lld on %s; use --photometric loader",
             static_cast<long long>(width), static_cast<long long>(height),
             static_cast<long long>(room->scratch), static_cast<long long>(limit), cuda->name);
    return STATUS_OK;
}

template <int THREADS, bool RESIDENT>
static enum status launch_blocks(struct device *device, const struct photometric_args *args,
                                 const struct room *room, enum layout layout)
{
    int64_t n = args->pixels.shape[0], n_blocks = n;
    void *planes = nullptr;

    if (!RESIDENT) {
        int64_t most = cuda_device_of(device)->sm_count;
        n_blocks = n < most ? n : most;
        TRY(cuda_scratch(device, &planes, static_cast<size_t>(n_blocks * room->plane)));
    }
    int64_t shared = room->scratch + (RESIDENT ? room->plane : 0);
    return launch(device, "change_colours", static_cast<unsigned>(n_blocks), THREADS,
                  static_cast<size_t>(shared), change_colours<THREADS, RESIDENT>,
                  data_of<uint8_t>(args->pixels), data_of<uint32_t>(args->params),
                  static_cast<uint32_t *>(planes), static_cast<int>(n),
                  static_cast<int>(args->pixels.shape[2]), static_cast<int>(args->pixels.shape[1]),
                  static_cast<int>(room->plane / 4), static_cast<int>(room->scratch / 4), layout);
}

enum status photometric_cuda(struct device *device, const struct photometric_args *args)
{
    const struct tensor *pixels = &args->pixels;
    int64_t n = pixels->shape[0], height = pixels->shape[1], width = pixels->shape[2];
    enum layout layout = BYTES;
    struct room room = {};

    CHECK(pixels->dtype == DTYPE_U8 && pixels->rank == 4 && pixels->shape[3] == 3 &&
          args->params.dtype == DTYPE_U8 && args->params.shape[0] == n &&
          args->params.shape[1] == PHOTOMETRIC_PARAMS_BYTES);
    CHECK(reinterpret_cast<uintptr_t>(args->params.data) % 4 == 0 && n <= INT32_MAX);
    if (n == 0)
        return STATUS_OK;
    TRY(find_room(&room, cuda_device_of(device), width, height));
    if (width % PACK == 0 && is_packed(pixels->data, height * width * 3, DTYPE_U8, 16))
        layout = QUADS;
    else if (width % PACK == 0 && is_packed(pixels->data, height * width * 3, DTYPE_U8, 4))
        layout = WORDS;
    if (!room.resident)
        return launch_blocks<LARGE_THREADS, false>(device, args, &room, layout);
    return room.small ? launch_blocks<SMALL_THREADS, true>(device, args, &room, layout)
                      : launch_blocks<LARGE_THREADS, true>(device, args, &room, layout);
}
