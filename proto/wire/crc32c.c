/* Reflected polynomial 0x82f63b78. The table version works by half bytes: 16 entries stay in one
 * cache line; it is what machines without the instruction run.
 *
 * The instruction takes three cycles and can begin in each, so three stretches are summed side by
 * side. What is summed from 0 and moved on by n zero bytes is its product with x^8n. */
#include "proto/wire/crc32c.h"

#include <stdbool.h>
#include <string.h>

#if defined(__x86_64__)
#include <nmmintrin.h>
#define WITH_INSTRUCTION __attribute__((target("sse4.2")))
#elif defined(__aarch64__) && defined(__linux__)
#include <arm_acle.h>
#include <sys/auxv.h>
#define WITH_INSTRUCTION __attribute__((target("+crc")))
#endif

enum { LANE_BYTES = 4096 };
static const uint32_t polynomial = 0x82f63b78;

static const uint32_t table[16] = {
    0x00000000, 0x105ec76f, 0x20bd8ede, 0x30e349b1, 0x417b1dbc, 0x5125dad3, 0x61c69362, 0x7198540d,
    0x82f63b78, 0x92a8fc17, 0xa24bb5a6, 0xb21572c9, 0xc38d26c4, 0xd3d3e1ab, 0xe330a81a, 0xf36e6f75,
};

uint32_t crc32c_plain(uint32_t crc, const void *data, size_t n_bytes)
{
    const uint8_t *bytes = data;

    crc = ~crc;
    for (size_t i = 0; i < n_bytes; i++) {
        crc ^= bytes[i];
        crc = table[crc & 15] ^ (crc >> 4);
        crc = table[crc & 15] ^ (crc >> 4);
    }
    return ~crc;
}

#ifdef WITH_INSTRUCTION

#ifdef __x86_64__
WITH_INSTRUCTION static inline uint32_t take_word(uint32_t crc, const uint8_t *at)
{
    uint64_t word;

    memcpy(&word, at, sizeof(word));
    return (uint32_t)_mm_crc32_u64(crc, word);
}

WITH_INSTRUCTION static inline uint32_t take_byte(uint32_t crc, uint8_t byte)
{
    return _mm_crc32_u8(crc, byte);
}

static bool has_instruction(void)
{
    return __builtin_cpu_supports("sse4.2"); /* one load and test of what start-up found out */
}
#else
WITH_INSTRUCTION static inline uint32_t take_word(uint32_t crc, const uint8_t *at)
{
    uint64_t word;

    memcpy(&word, at, sizeof(word));
    return __crc32cd(crc, word);
}

WITH_INSTRUCTION static inline uint32_t take_byte(uint32_t crc, uint8_t byte)
{
    return __crc32cb(crc, byte);
}

static bool has_instruction(void)
{
    return (getauxval(AT_HWCAP) & HWCAP_CRC32) != 0;
}
#endif

/* The product of two polynomials, modulo ours; the highest power is the lowest bit. */
static uint32_t multiply(uint32_t a, uint32_t b)
{
    uint32_t product = 0;

    for (uint32_t bit = UINT32_C(1) << 31; bit != 0; bit >>= 1) {
        product ^= (a & bit) != 0 ? b : 0;
        b = b >> 1 ^ ((b & 1) != 0 ? polynomial : 0);
    }
    return product;
}

WITH_INSTRUCTION static uint32_t crc32c_fast(uint32_t crc, const void *data, size_t n_bytes)
{
    static const uint32_t lane_on = 0x35d73a62; /* x^(8 * LANE_BYTES) */
    const uint8_t *bytes = data;

    crc = ~crc;
    for (; n_bytes >= 3 * LANE_BYTES; n_bytes -= 3 * LANE_BYTES, bytes += 3 * LANE_BYTES) {
        uint32_t second = 0, third = 0;
        for (size_t i = 0; i < LANE_BYTES; i += 8) {
            crc = take_word(crc, bytes + i);
            second = take_word(second, bytes + LANE_BYTES + i);
            third = take_word(third, bytes + 2 * LANE_BYTES + i);
        }
        crc = third ^ multiply(lane_on, second ^ multiply(lane_on, crc));
    }
    for (; n_bytes >= 8; n_bytes -= 8, bytes += 8)
        crc = take_word(crc, bytes);
    for (; n_bytes > 0; n_bytes--)
        crc = take_byte(crc, *bytes++);
    return ~crc;
}

#endif

uint32_t crc32c(uint32_t crc, const void *data, size_t n_bytes)
{
#ifdef WITH_INSTRUCTION
    if (has_instruction())
        return crc32c_fast(crc, data, n_bytes);
#endif
    return crc32c_plain(crc, data, n_bytes);
}
