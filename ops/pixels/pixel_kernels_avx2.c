/* Vectors of 32 bytes. Weights are two parts of 15 and 8 bits, for sums of two products of words.
 */
#ifdef __x86_64__
#include <immintrin.h>
#include <string.h>

#include "ops/pixels/pixel_kernels_internal.h"
#include "ops/pixels/pixel_kernels_x86.inc"

typedef __m256i vec;
typedef __m256 vecf;
enum { LANES = 8 };

#define splat(x)                     _mm256_set1_epi32(x)
#define splatf(x)                    _mm256_set1_ps(x)
#define add(a, b)                    _mm256_add_epi32(a, b)
#define sub(a, b)                    _mm256_sub_epi32(a, b)
#define min(a, b)                    _mm256_min_epi32(a, b)
#define max(a, b)                    _mm256_max_epi32(a, b)
#define and_bits(a, b)               _mm256_and_si256(a, b)
#define shift_left(a, n)             _mm256_slli_epi32(a, n)
#define shift_right(a, n)            _mm256_srli_epi32(a, n)
#define where_equal(a, b, yes, no)   _mm256_blendv_epi8(no, yes, _mm256_cmpeq_epi32(a, b))
#define where_greater(a, b, yes, no) _mm256_blendv_epi8(no, yes, _mm256_cmpgt_epi32(a, b))
#define addf(a, b)                   _mm256_add_ps(a, b)
#define subf(a, b)                   _mm256_sub_ps(a, b)
#define mulf(a, b)                   _mm256_mul_ps(a, b)
#define divf(a, b)                   _mm256_div_ps(a, b)
#define minf(a, b)                   _mm256_min_ps(a, b)
#define maxf(a, b)                   _mm256_max_ps(a, b)
#define to_float(a)                  _mm256_cvtepi32_ps(a)
#define truncated(a)                 _mm256_cvttps_epi32(a)
#define nearest(a)                   _mm256_cvtps_epi32(a)
#define shuffle_bytes(a, b)          _mm256_shuffle_epi8(a, b)
#define add_words(a, b)              _mm256_add_epi16(a, b)
#define add_pairs(sum, a, b)         add(sum, multiply_pairs(a, b))
#define multiply_pairs(a, b)         _mm256_madd_epi16(a, b)
#define interleave_low_words(a, b)   _mm256_unpacklo_epi16(a, b)
#define interleave_high_words(a, b)  _mm256_unpackhi_epi16(a, b)
#define pack_words(a, b)             _mm256_packus_epi32(a, b)
#define repeat128(x)                 _mm256_broadcastsi128_si256(x)
#define load(p)                      _mm256_loadu_si256((const __m256i *)(p))

static inline vec widen(const uint8_t *p)
{
    return _mm256_cvtepu8_epi32(_mm_loadl_epi64((const __m128i *)p));
}

static inline void narrow(uint8_t *p, vec v)
{
    __m128i words = _mm_packus_epi32(_mm256_castsi256_si128(v), _mm256_extracti128_si256(v, 1));
    _mm_storel_epi64((__m128i *)p, _mm_packus_epi16(words, words));
}

/* Clips to a byte. */
static inline void narrow_clipped(uint8_t *p, vec v)
{
    __m128i words = _mm_packs_epi32(_mm256_castsi256_si128(v), _mm256_extracti128_si256(v, 1));
    _mm_storel_epi64((__m128i *)p, _mm_packus_epi16(words, words));
}

static inline vec widen_words(const uint8_t *p)
{
    return _mm256_cvtepu8_epi16(_mm_loadu_si128((const __m128i *)p));
}

static inline void narrow_words(uint8_t *p, vec v)
{
    _mm_storeu_si128((__m128i *)p,
                     _mm_packus_epi16(_mm256_castsi256_si128(v), _mm256_extracti128_si256(v, 1)));
}

static inline uint32_t sum_of_lanes(vec v)
{
    uint32_t lanes[LANES], sum = 0;

    _mm256_storeu_si256((__m256i *)lanes, v);
    for (int i = 0; i < LANES; i++)
        sum += lanes[i];
    return sum;
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
    vec words[2] = {and_bits(bytes, splat(0x00ff00ff)), _mm256_srli_epi16(bytes, 8)};

    for (int i = 0; i < 2; i++) {
        sums.low = add(sums.low, multiply_pairs(words[i], quads.low[i]));
        sums.high = add(sums.high, multiply_pairs(words[i], quads.high[i]));
    }
    return sums;
}

static inline vec sums_whole(struct sums sums)
{
    return _mm256_srai_epi32(add(sums.low, shift_left(sums.high, 15)), RESAMPLE_BITS);
}

/* Four columns of four rows: lanes [row][channel], rows 0 and 2, then 1 and 3. */
static inline void sums_add_columns(struct sums sums[2], const uint8_t *taps, struct quads quads)
{
    for (int i = 0; i < 2; i++) {
        vec first = widen_words(taps + 16 * i), third = widen_words(taps + 16 * i + 32);
        vec pairs[2] = {interleave_low_words(first, third), interleave_high_words(first, third)};
        for (int half = 0; half < 2; half++) {
            sums[half].low = add(sums[half].low, multiply_pairs(pairs[half], quads.low[i]));
            sums[half].high = add(sums[half].high, multiply_pairs(pairs[half], quads.high[i]));
        }
    }
}

/* Lines [column][row] of three channels. */
static inline void store_columns(uint8_t *to, size_t stride, vec whole[4][2])
{
    const vec transpose =
        repeat128(_mm_setr_epi8(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15));
    vec rows[2]; /* [channel][column] of rows 0 and 2; 1 and 3 */

    for (int i = 0; i < 2; i++)
        rows[i] = shuffle_bytes(_mm256_packus_epi16(_mm256_packs_epi32(whole[0][i], whole[1][i]),
                                                    _mm256_packs_epi32(whole[2][i], whole[3][i])),
                                transpose);
    vec low = _mm256_unpacklo_epi8(rows[0], rows[1]), high = _mm256_unpackhi_epi8(rows[0], rows[1]);
    __m128i low_rows = _mm256_castsi256_si128(low), high_rows = _mm256_extracti128_si256(low, 1);
    _mm_storeu_si128((__m128i *)to, _mm_unpacklo_epi16(low_rows, high_rows));
    _mm_storeu_si128((__m128i *)(to + stride), _mm_unpackhi_epi16(low_rows, high_rows));
    _mm_storeu_si128(
        (__m128i *)(to + 2 * stride),
        _mm_unpacklo_epi16(_mm256_castsi256_si128(high), _mm256_extracti128_si256(high, 1)));
}

/* 1 where the hue is one of hue_short_bits, else 0. */
static inline vec hue_falls_short(vec hue)
{
    vec word = _mm256_permutevar8x32_epi32(load(hue_short_bits), shift_right(hue, 5));
    return and_bits(_mm256_srlv_epi32(word, and_bits(hue, splat(31))), splat(1));
}

#include "ops/pixels/pixel_kernels_vector.inc"

const struct pixel_kernels pixel_kernels_avx2 = PIXEL_KERNELS("avx2");
#endif
