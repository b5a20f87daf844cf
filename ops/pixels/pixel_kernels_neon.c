/* Vectors of 16 bytes (NEON, which every 64-bit ARM processor has). Weights stay whole: products of
 * 32 bits. */
#ifdef __aarch64__
#include <arm_neon.h>
#include <string.h>

#include "ops/pixels/pixel_kernels_internal.h"

typedef int32x4_t vec;
typedef float32x4_t vecf;
typedef uint8x16_t bytes16;
enum { LANES = 4 };

#define unsigned_of(a) vreinterpretq_u32_s32(a)
#define signed_of(a)   vreinterpretq_s32_u32(a)
#define bytes_of(a)    vreinterpretq_u8_s32(a)
#define words_of(a)    vreinterpretq_u16_s32(a)

#define splat(x)                     vdupq_n_s32(x)
#define splatf(x)                    vdupq_n_f32(x)
#define add(a, b)                    vaddq_s32(a, b)
#define sub(a, b)                    vsubq_s32(a, b)
#define min(a, b)                    vminq_s32(a, b)
#define max(a, b)                    vmaxq_s32(a, b)
#define and_bits(a, b)               vandq_s32(a, b)
#define shift_left(a, n)             vshlq_n_s32(a, n)
#define shift_right(a, n)            signed_of(vshrq_n_u32(unsigned_of(a), n))
#define where_equal(a, b, yes, no)   vbslq_s32(vceqq_s32(a, b), yes, no)
#define where_greater(a, b, yes, no) vbslq_s32(vcgtq_s32(a, b), yes, no)
#define addf(a, b)                   vaddq_f32(a, b)
#define subf(a, b)                   vsubq_f32(a, b)
#define mulf(a, b)                   vmulq_f32(a, b)
#define divf(a, b)                   vdivq_f32(a, b)
#define minf(a, b)                   vminq_f32(a, b)
#define maxf(a, b)                   vmaxq_f32(a, b)
#define to_float(a)                  vcvtq_f32_s32(a)
#define truncated(a)                 vcvtq_s32_f32(a)
#define nearest(a)                   vcvtnq_s32_f32(a)
#define shuffle_bytes(a, b)          vreinterpretq_s32_u8(vqtbl1q_u8(bytes_of(a), bytes_of(b)))
#define add_words(a, b)              vreinterpretq_s32_u16(vaddq_u16(words_of(a), words_of(b)))
#define sum_of_lanes(a)              vaddvq_u32(unsigned_of(a))
#define repeat128(x)                 vreinterpretq_s32_u8(x)
#define load(p)                      vreinterpretq_s32_u8(vld1q_u8(p))
#define load16(p)                    vld1q_u8(p)
#define store16(p, v)                vst1q_u8(p, v)
#define or16(a, b)                   vorrq_u8(a, b)
#define choose16(bytes, order)       vqtbl1q_u8(bytes, order)

static inline vec widen(const uint8_t *p)
{
    uint32_t bytes;

    memcpy(&bytes, p, sizeof(bytes));
    uint16x8_t words = vmovl_u8(vcreate_u8(bytes));
    return signed_of(vmovl_u16(vget_low_u16(words)));
}

static inline void narrow(uint8_t *p, vec v)
{
    uint16x4_t words = vmovn_u32(unsigned_of(v));
    uint32_t bytes = vget_lane_u32(vreinterpret_u32_u8(vmovn_u16(vcombine_u16(words, words))), 0);

    memcpy(p, &bytes, sizeof(bytes));
}

/* Clips to a byte. */
static inline void narrow_clipped(uint8_t *p, vec v)
{
    uint16x4_t words = vqmovun_s32(v);
    uint32_t bytes = vget_lane_u32(vreinterpret_u32_u8(vqmovn_u16(vcombine_u16(words, words))), 0);

    memcpy(p, &bytes, sizeof(bytes));
}

static inline vec widen_words(const uint8_t *p)
{
    return vreinterpretq_s32_u16(vmovl_u8(vld1_u8(p)));
}

static inline void narrow_words(uint8_t *p, vec v)
{
    vst1_u8(p, vmovn_u16(words_of(v)));
}

/* bytes [n]: each replaced by table[byte], 16 at a time, a quarter of the table after the other. */
#define HAS_LOOKUP
static inline void lookup(uint8_t *bytes, size_t n, const uint8_t table[256])
{
    uint8x16x4_t quarters[4];

    for (size_t i = 0; i < 4; i++)
        for (size_t k = 0; k < 4; k++)
            quarters[i].val[k] = vld1q_u8(table + 64 * i + 16 * k);
    for (size_t i = 0; i < n; i += 16) {
        uint8x16_t from = vld1q_u8(bytes + i);
        uint8x16_t to = vqtbl4q_u8(quarters[0], from);
        to = vqtbx4q_u8(to, quarters[1], vsubq_u8(from, vdupq_n_u8(64)));
        to = vqtbx4q_u8(to, quarters[2], vsubq_u8(from, vdupq_n_u8(128)));
        to = vqtbx4q_u8(to, quarters[3], vsubq_u8(from, vdupq_n_u8(192)));
        vst1q_u8(bytes + i, to);
    }
}

/* Of four vectors of four words. */
static inline void transpose16(bytes16 rows[4])
{
    uint32x4_t words[4];

    for (int i = 0; i < 4; i++)
        words[i] = vreinterpretq_u32_u8(rows[i]);
    uint64x2_t low[2] = {vreinterpretq_u64_u32(vzip1q_u32(words[0], words[1])),
                         vreinterpretq_u64_u32(vzip1q_u32(words[2], words[3]))};
    uint64x2_t high[2] = {vreinterpretq_u64_u32(vzip2q_u32(words[0], words[1])),
                          vreinterpretq_u64_u32(vzip2q_u32(words[2], words[3]))};
    rows[0] = vreinterpretq_u8_u64(vzip1q_u64(low[0], low[1]));
    rows[1] = vreinterpretq_u8_u64(vzip2q_u64(low[0], low[1]));
    rows[2] = vreinterpretq_u8_u64(vzip1q_u64(high[0], high[1]));
    rows[3] = vreinterpretq_u8_u64(vzip2q_u64(high[0], high[1]));
}

/* ------------------------------------------------------------------------------ resize */

struct quads {
    vec taps[4];
};

struct sums {
    vec whole;
};

static void pack_weights(int32_t *restrict packed, const int32_t *restrict whole, int32_t n,
                         int32_t n_groups)
{
    memcpy(packed, whole, 4 * (size_t)n * (size_t)n_groups * sizeof(int32_t));
}

static inline struct quads quads_load(const int32_t *packed, size_t step)
{
    return (struct quads){
        {splat(packed[0]), splat(packed[step]), splat(packed[2 * step]), splat(packed[3 * step])}};
}

static inline struct sums sums_zero(void)
{
    return (struct sums){splat(1 << (RESAMPLE_BITS - 1))};
}

static inline struct sums sums_add(struct sums sums, vec bytes, struct quads quads)
{
    const vec parts[4] = {and_bits(bytes, splat(255)), and_bits(shift_right(bytes, 8), splat(255)),
                          and_bits(shift_right(bytes, 16), splat(255)), shift_right(bytes, 24)};

    for (int i = 0; i < 4; i++)
        sums.whole = vmlaq_s32(sums.whole, parts[i], quads.taps[i]);
    return sums;
}

static inline vec sums_whole(struct sums sums)
{
    return vshrq_n_s32(sums.whole, RESAMPLE_BITS);
}

/* Four columns of four rows: lanes [channel], row by row. */
static inline void sums_add_columns(struct sums sums[4], const uint8_t *taps, struct quads quads)
{
    for (int i = 0; i < 4; i++) {
        uint8x16_t bytes = vld1q_u8(taps + 16 * i);
        uint16x8_t words[2] = {vmovl_u8(vget_low_u8(bytes)), vmovl_high_u8(bytes)};
        for (int half = 0; half < 2; half++) {
            vec rows[2] = {signed_of(vmovl_u16(vget_low_u16(words[half]))),
                           signed_of(vmovl_high_u16(words[half]))};
            for (int row = 0; row < 2; row++)
                sums[2 * half + row].whole =
                    vmlaq_s32(sums[2 * half + row].whole, rows[row], quads.taps[i]);
        }
    }
}

static inline uint8x8_t clipped_halves(vec low, vec high)
{
    return vqmovn_u16(vcombine_u16(vqmovun_s32(low), vqmovun_s32(high)));
}

/* Lines [column][row] of three channels. */
static inline void store_columns(uint8_t *to, size_t stride, vec whole[4][4])
{
    static const uint8_t first[16] = {0, 16, 32, 48, 4, 20, 36, 52, 8, 24, 40, 56, 12, 28, 44, 60};
    uint8x16x4_t rows; /* [column][channel] of each row */

    for (int i = 0; i < 4; i++)
        rows.val[i] = vcombine_u8(clipped_halves(whole[0][i], whole[1][i]),
                                  clipped_halves(whole[2][i], whole[3][i]));
    uint8x16_t order = vld1q_u8(first);
    for (size_t c = 0; c < 3; c++)
        vst1q_u8(to + c * stride, vqtbl4q_u8(rows, vaddq_u8(order, vdupq_n_u8((uint8_t)c))));
}

/* ------------------------------------------------------------------------------ colour, blur */

/* 1 where the hue is one of hue_short_bits, else 0. */
static inline vec hue_falls_short(vec hue)
{
    const uint8_t *bits = (const uint8_t *)hue_short_bits; /* least significant byte first */
    uint8x16x2_t table = {{vld1q_u8(bits), vld1q_u8(bits + 16)}};
    vec byte = vreinterpretq_s32_u8(vqtbl2q_u8(table, bytes_of(shift_right(hue, 3))));
    vec by = sub(splat(0), and_bits(hue, splat(7)));

    return and_bits(signed_of(vshlq_u32(unsigned_of(and_bits(byte, splat(255))), by)), splat(1));
}

#define HAS_BOX_MEAN
struct box_weights {
    uint32x4_t inner, edge;
};

static struct box_weights box_weights_of(const struct box *box)
{
    return (struct box_weights){vdupq_n_u32(box->inner), vdupq_n_u32(box->edge)};
}

/* Sums of neighbours, 16 bits, to their weighted mean. */
static inline vec box_mean(vec sum, vec ends, const struct box_weights *w)
{
    uint16x8_t sums = words_of(sum), edges = words_of(ends);
    uint32x4_t half = vdupq_n_u32(1u << 23);
    uint32x4_t low = vmlaq_u32(half, vmovl_u16(vget_low_u16(sums)), w->inner);
    uint32x4_t high = vmlaq_u32(half, vmovl_high_u16(sums), w->inner);

    low = vmlaq_u32(low, vmovl_u16(vget_low_u16(edges)), w->edge);
    high = vmlaq_u32(high, vmovl_high_u16(edges), w->edge);
    uint16x8_t tops = vuzp2q_u16(vreinterpretq_u16_u32(low), vreinterpretq_u16_u32(high));
    return vreinterpretq_s32_u16(vshrq_n_u16(tops, 8));
}

#include "ops/pixels/pixel_kernels_vector.inc"

const struct pixel_kernels pixel_kernels_neon = PIXEL_KERNELS("neon");
#endif
