/* Vectors of 64 bytes; sums of four products of bytes (VNNI), tables of bytes (VBMI). Weights are
 * three digits to base 256, each a signed byte. */
#ifdef __x86_64__
#include <immintrin.h>
#include <string.h>

#include "ops/pixels/pixel_kernels_internal.h"
#include "ops/pixels/pixel_kernels_x86.inc"

typedef __m512i vec;
typedef __m512 vecf;
enum { LANES = 16 };

#define splat(x)                     _mm512_set1_epi32(x)
#define splatf(x)                    _mm512_set1_ps(x)
#define repeat128(x)                 _mm512_broadcast_i32x4(x)
#define load(p)                      _mm512_loadu_si512(p)
#define add(a, b)                    _mm512_add_epi32(a, b)
#define sub(a, b)                    _mm512_sub_epi32(a, b)
#define min(a, b)                    _mm512_min_epi32(a, b)
#define max(a, b)                    _mm512_max_epi32(a, b)
#define and_bits(a, b)               _mm512_and_si512(a, b)
#define shift_left(a, n)             _mm512_slli_epi32(a, n)
#define shift_right(a, n)            _mm512_srli_epi32(a, n)
#define where_equal(a, b, yes, no)   _mm512_mask_blend_epi32(_mm512_cmpeq_epi32_mask(a, b), no, yes)
#define where_greater(a, b, yes, no) _mm512_mask_blend_epi32(_mm512_cmpgt_epi32_mask(a, b), no, yes)
#define addf(a, b)                   _mm512_add_ps(a, b)
#define subf(a, b)                   _mm512_sub_ps(a, b)
#define mulf(a, b)                   _mm512_mul_ps(a, b)
#define divf(a, b)                   _mm512_div_ps(a, b)
#define minf(a, b)                   _mm512_min_ps(a, b)
#define maxf(a, b)                   _mm512_max_ps(a, b)
#define to_float(a)                  _mm512_cvtepi32_ps(a)
#define truncated(a)                 _mm512_cvttps_epi32(a)
#define nearest(a)                   _mm512_cvtps_epi32(a)
#define shuffle_bytes(a, b)          _mm512_shuffle_epi8(a, b)
#define add_words(a, b)              _mm512_add_epi16(a, b)
#define add_pairs(sum, a, b)         _mm512_dpwssd_epi32(sum, a, b)
#define multiply_pairs(a, b)         _mm512_madd_epi16(a, b)
#define interleave_low_words(a, b)   _mm512_unpacklo_epi16(a, b)
#define interleave_high_words(a, b)  _mm512_unpackhi_epi16(a, b)
#define pack_words(a, b)             _mm512_packus_epi32(a, b)
#define sum_of_lanes(a)              ((uint32_t)_mm512_reduce_add_epi32(a))

static inline vec widen(const uint8_t *p)
{
    return _mm512_cvtepu8_epi32(_mm_loadu_si128((const __m128i *)p));
}

static inline void narrow(uint8_t *p, vec v)
{
    _mm_storeu_si128((__m128i *)p, _mm512_cvtepi32_epi8(v));
}

/* Clips to a byte. */
static inline void narrow_clipped(uint8_t *p, vec v)
{
    _mm_storeu_si128((__m128i *)p, _mm512_cvtusepi32_epi8(max(v, splat(0))));
}

static inline vec widen_words(const uint8_t *p)
{
    return _mm512_cvtepu8_epi16(_mm256_loadu_si256((const __m256i *)p));
}

static inline void narrow_words(uint8_t *p, vec v)
{
    _mm256_storeu_si256((__m256i *)p, _mm512_cvtepi16_epi8(v));
}

/* bytes [n]: each replaced by table[byte], 64 at a time. */
#define HAS_LOOKUP
static inline void lookup(uint8_t *bytes, size_t n, const uint8_t table[256])
{
    vec quarters[4];

    for (size_t i = 0; i < 4; i++)
        quarters[i] = load(table + 64 * i);
    for (size_t i = 0; i < n; i += 64) {
        vec from = load(bytes + i);
        vec low = _mm512_permutex2var_epi8(quarters[0], from, quarters[1]);
        vec high = _mm512_permutex2var_epi8(quarters[2], from, quarters[3]);
        _mm512_storeu_si512(bytes + i,
                            _mm512_mask_blend_epi8(_mm512_movepi8_mask(from), low, high));
    }
}

struct quads {
    vec digits[3];
};

struct sums {
    vec digits[3];
};

static void pack_weights(int32_t *restrict packed, const int32_t *restrict whole, int32_t n,
                         int32_t n_groups)
{
    for (int64_t g = 0; g < n_groups; g++) {
        const int32_t *from = whole + 4 * g * n;
        int32_t *to = packed + RESAMPLE_MAX_PACKED * g * n;
        for (int64_t x = 0; x < n; x++) {
            uint32_t digits[3] = {0, 0, 0};
            for (int64_t k = 0; k < 4; k++) {
                int32_t weight = from[k * n + x];
                int32_t low = (int8_t)weight, rest = (weight - low) >> 8;
                int32_t middle = (int8_t)rest, high = (rest - middle) >> 8;
                digits[0] |= (uint32_t)(low & 255) << (8 * k);
                digits[1] |= (uint32_t)(middle & 255) << (8 * k);
                digits[2] |= (uint32_t)(high & 255) << (8 * k);
            }
            for (int64_t digit = 0; digit < 3; digit++)
                to[digit * n + x] = (int32_t)digits[digit];
        }
    }
}

static inline struct quads quads_load(const int32_t *packed, size_t step)
{
    return (struct quads){{splat(packed[0]), splat(packed[step]), splat(packed[2 * step])}};
}

static inline struct sums sums_zero(void)
{
    return (struct sums){{splat(1 << (RESAMPLE_BITS - 1)), splat(0), splat(0)}};
}

static inline struct sums sums_add(struct sums sums, vec bytes, struct quads quads)
{
    for (int i = 0; i < 3; i++)
        sums.digits[i] = _mm512_dpbusd_epi32(sums.digits[i], bytes, quads.digits[i]);
    return sums;
}

static inline vec sums_whole(struct sums sums)
{
    vec whole = add(sums.digits[0], shift_left(sums.digits[1], 8));
    return _mm512_srai_epi32(add(whole, shift_left(sums.digits[2], 16)), RESAMPLE_BITS);
}

/* Byte [i][k] of [k][i], i below 16 and k below 4. */
static const uint8_t by_lane[64] = {0,  16, 32, 48, 1,  17, 33, 49, 2,  18, 34, 50, 3,  19, 35, 51,
                                    4,  20, 36, 52, 5,  21, 37, 53, 6,  22, 38, 54, 7,  23, 39, 55,
                                    8,  24, 40, 56, 9,  25, 41, 57, 10, 26, 42, 58, 11, 27, 43, 59,
                                    12, 28, 44, 60, 13, 29, 45, 61, 14, 30, 46, 62, 15, 31, 47, 63};

/* Four columns of four rows: lanes [row][channel]. */
static inline void sums_add_columns(struct sums sums[1], const uint8_t *taps, struct quads quads)
{
    sums[0] = sums_add(sums[0], _mm512_permutexvar_epi8(load(by_lane), load(taps)), quads);
}

/* Byte [channel][column][row] of [row][column][channel]. */
static const uint8_t by_channel[64] = {
    0,  16, 32, 48, 4,  20, 36, 52, 8,  24, 40, 56, 12, 28, 44, 60, 1,  17, 33, 49, 5,  21,
    37, 53, 9,  25, 41, 57, 13, 29, 45, 61, 2,  18, 34, 50, 6,  22, 38, 54, 10, 26, 42, 58,
    14, 30, 46, 62, 3,  19, 35, 51, 7,  23, 39, 55, 11, 27, 43, 59, 15, 31, 47, 63};

/* Lines [column][row] of three channels. */
static inline void store_columns(uint8_t *to, size_t stride, vec whole[4][1])
{
    vec bytes = _mm512_packus_epi16(_mm512_packs_epi32(whole[0][0], whole[1][0]),
                                    _mm512_packs_epi32(whole[2][0], whole[3][0]));

    bytes = _mm512_permutexvar_epi8(load(by_channel), bytes);
    _mm_storeu_si128((__m128i *)to, _mm512_castsi512_si128(bytes));
    _mm_storeu_si128((__m128i *)(to + stride), _mm512_extracti32x4_epi32(bytes, 1));
    _mm_storeu_si128((__m128i *)(to + 2 * stride), _mm512_extracti32x4_epi32(bytes, 2));
}

/* 1 where the hue is one of hue_short_bits, else 0. */
static inline vec hue_falls_short(vec hue)
{
    __m512i words = _mm512_castsi256_si512(_mm256_loadu_si256((const __m256i *)hue_short_bits));
    vec word = _mm512_permutexvar_epi32(shift_right(hue, 5), words);
    return and_bits(_mm512_srlv_epi32(word, and_bits(hue, splat(31))), splat(1));
}

#include "ops/pixels/pixel_kernels_vector.inc"

const struct pixel_kernels pixel_kernels_avx512 = PIXEL_KERNELS("avx512");
#endif
