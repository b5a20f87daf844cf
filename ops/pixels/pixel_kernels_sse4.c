/* Vectors of 16 bytes (SSE4.1). Weights are two parts of 15 and 8 bits, for sums of two products of
 * words. */
#ifdef __x86_64__
#include <smmintrin.h>
#include <string.h>

#include "ops/pixels/pixel_kernels_internal.h"
#include "ops/pixels/pixel_kernels_x86.inc"

typedef __m128i vec;
typedef __m128 vecf;
enum { LANES = 4 };

#define splat(x)                     _mm_set1_epi32(x)
#define splatf(x)                    _mm_set1_ps(x)
#define add(a, b)                    _mm_add_epi32(a, b)
#define sub(a, b)                    _mm_sub_epi32(a, b)
#define min(a, b)                    _mm_min_epi32(a, b)
#define max(a, b)                    _mm_max_epi32(a, b)
#define and_bits(a, b)               _mm_and_si128(a, b)
#define shift_left(a, n)             _mm_slli_epi32(a, n)
#define shift_right(a, n)            _mm_srli_epi32(a, n)
#define where_equal(a, b, yes, no)   _mm_blendv_epi8(no, yes, _mm_cmpeq_epi32(a, b))
#define where_greater(a, b, yes, no) _mm_blendv_epi8(no, yes, _mm_cmpgt_epi32(a, b))
#define addf(a, b)                   _mm_add_ps(a, b)
#define subf(a, b)                   _mm_sub_ps(a, b)
#define mulf(a, b)                   _mm_mul_ps(a, b)
#define divf(a, b)                   _mm_div_ps(a, b)
#define minf(a, b)                   _mm_min_ps(a, b)
#define maxf(a, b)                   _mm_max_ps(a, b)
#define to_float(a)                  _mm_cvtepi32_ps(a)
#define truncated(a)                 _mm_cvttps_epi32(a)
#define nearest(a)                   _mm_cvtps_epi32(a)
#define shuffle_bytes(a, b)          _mm_shuffle_epi8(a, b)
#define add_words(a, b)              _mm_add_epi16(a, b)
#define add_pairs(sum, a, b)         add(sum, multiply_pairs(a, b))
#define multiply_pairs(a, b)         _mm_madd_epi16(a, b)
#define interleave_low_words(a, b)   _mm_unpacklo_epi16(a, b)
#define interleave_high_words(a, b)  _mm_unpackhi_epi16(a, b)
#define pack_words(a, b)             _mm_packus_epi32(a, b)
#define repeat128(x)                 (x)
#define load(p)                      _mm_loadu_si128((const __m128i *)(p))

static inline vec widen(const uint8_t *p)
{
    int32_t bytes;

    memcpy(&bytes, p, sizeof(bytes));
    return _mm_cvtepu8_epi32(_mm_cvtsi32_si128(bytes));
}

static inline void narrow(uint8_t *p, vec v)
{
    vec words = _mm_packus_epi32(v, v);
    int32_t bytes = _mm_cvtsi128_si32(_mm_packus_epi16(words, words));

    memcpy(p, &bytes, sizeof(bytes));
}

/* Clips to a byte. */
static inline void narrow_clipped(uint8_t *p, vec v)
{
    vec words = _mm_packs_epi32(v, v);
    int32_t bytes = _mm_cvtsi128_si32(_mm_packus_epi16(words, words));

    memcpy(p, &bytes, sizeof(bytes));
}

static inline vec widen_words(const uint8_t *p)
{
    return _mm_cvtepu8_epi16(_mm_loadl_epi64((const __m128i *)p));
}

static inline void narrow_words(uint8_t *p, vec v)
{
    _mm_storel_epi64((__m128i *)p, _mm_packus_epi16(v, v));
}

static inline uint32_t sum_of_lanes(vec v)
{
    v = add(v, _mm_shuffle_epi32(v, _MM_SHUFFLE(1, 0, 3, 2)));
    v = add(v, _mm_shuffle_epi32(v, _MM_SHUFFLE(2, 3, 0, 1)));
    return (uint32_t)_mm_cvtsi128_si32(v);
}

struct quads {
    vec low[2], high[2];
};

struct sums {
    vec low, high;
};

static void pack_weights(int32_t *restrict packed, const int32_t *restrict whole, int32_t n,
                         int32_t n_groups)
{
    for (int64_t g = 0; g < n_groups; g++)
        for (int64_t i = 0; i < 2; i++) {
            const int32_t *from = whole + (4 * g + i) * n;
            int32_t *to = packed + (RESAMPLE_MAX_PACKED * g + i) * n;
            for (int64_t x = 0; x < n; x++) {
                uint32_t first = (uint32_t)from[x], third = (uint32_t)from[2 * n + x];
                uint32_t high = (uint32_t)(from[2 * n + x] >> 15);
                to[x] = (int32_t)((first & 0x7fff) | (third & 0x7fff) << 16);
                to[2 * n + x] = (int32_t)(((uint32_t)(from[x] >> 15) & 0xffff) | high << 16);
            }
        }
}

static inline struct quads quads_load(const int32_t *packed, size_t step)
{
    return (struct quads){{splat(packed[0]), splat(packed[step])},
                          {splat(packed[2 * step]), splat(packed[3 * step])}};
}

static inline struct sums sums_zero(void)
{
    return (struct sums){splat(1 << (RESAMPLE_BITS - 1)), splat(0)};
}

static inline struct sums sums_add(struct sums sums, vec bytes, struct quads quads)
{
    vec words[2] = {and_bits(bytes, splat(0x00ff00ff)), _mm_srli_epi16(bytes, 8)};

    for (int i = 0; i < 2; i++) {
        sums.low = add(sums.low, multiply_pairs(words[i], quads.low[i]));
        sums.high = add(sums.high, multiply_pairs(words[i], quads.high[i]));
    }
    return sums;
}

static inline vec sums_whole(struct sums sums)
{
    return _mm_srai_epi32(add(sums.low, shift_left(sums.high, 15)), RESAMPLE_BITS);
}

/* Four columns of four rows: lanes [channel], row by row. */
static inline void sums_add_columns(struct sums sums[4], const uint8_t *taps, struct quads quads)
{
    for (int i = 0; i < 4; i++) {
        const uint8_t *from = taps + 16 * (i / 2) + 8 * (i % 2);
        vec first = widen_words(from), third = widen_words(from + 32);
        vec pairs[2] = {interleave_low_words(first, third), interleave_high_words(first, third)};
        for (int half = 0; half < 2; half++) {
            struct sums *row = &sums[2 * (i % 2) + half];
            row->low = add(row->low, multiply_pairs(pairs[half], quads.low[i / 2]));
            row->high = add(row->high, multiply_pairs(pairs[half], quads.high[i / 2]));
        }
    }
}

/* Lines [column][row] of three channels. */
static inline void store_columns(uint8_t *to, size_t stride, vec whole[4][4])
{
    const vec transpose = _mm_setr_epi8(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15);
    vec rows[4]; /* [channel][column] */

    for (int i = 0; i < 4; i++)
        rows[i] = shuffle_bytes(_mm_packus_epi16(_mm_packs_epi32(whole[0][i], whole[1][i]),
                                                 _mm_packs_epi32(whole[2][i], whole[3][i])),
                                transpose);
    vec low[2] = {_mm_unpacklo_epi8(rows[0], rows[1]), _mm_unpacklo_epi8(rows[2], rows[3])};
    vec high[2] = {_mm_unpackhi_epi8(rows[0], rows[1]), _mm_unpackhi_epi8(rows[2], rows[3])};
    _mm_storeu_si128((__m128i *)to, _mm_unpacklo_epi16(low[0], low[1]));
    _mm_storeu_si128((__m128i *)(to + stride), _mm_unpackhi_epi16(low[0], low[1]));
    _mm_storeu_si128((__m128i *)(to + 2 * stride), _mm_unpacklo_epi16(high[0], high[1]));
}

static inline int32_t falls_short(int32_t hue)
{
    return (int32_t)(hue_short_bits[hue >> 5] >> (hue & 31) & 1);
}

/* 1 where the hue is one of hue_short_bits, else 0. */
static inline vec hue_falls_short(vec hue)
{
    return _mm_setr_epi32(
        falls_short(_mm_extract_epi32(hue, 0)), falls_short(_mm_extract_epi32(hue, 1)),
        falls_short(_mm_extract_epi32(hue, 2)), falls_short(_mm_extract_epi32(hue, 3)));
}

#include "ops/pixels/pixel_kernels_vector.inc"

const struct pixel_kernels pixel_kernels_sse4 = PIXEL_KERNELS("sse4");
#endif
