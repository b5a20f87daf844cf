/* Reflected polynomial 0x82f63b78. The table version works by half bytes: 16 entries stay in one
 * cache line; it is what machines without the instruction run. */
#include "proto/wire/crc32c.h"

#include <string.h>

#ifdef __x86_64__
#include <nmmintrin.h>
#endif

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

#ifdef __x86_64__
__attribute__((target("sse4.2"))) static uint32_t crc32c_sse42(uint32_t crc, const void *data,
                                                               size_t n_bytes)
{
    const uint8_t *bytes = data;
    uint64_t wide = ~crc, word;

    for (; n_bytes >= 8; n_bytes -= 8, bytes += 8) {
        memcpy(&word, bytes, 8);
        wide = _mm_crc32_u64(wide, word);
    }
    uint32_t narrow = (uint32_t)wide;
    for (; n_bytes > 0; n_bytes--)
        narrow = _mm_crc32_u8(narrow, *bytes++);
    return ~narrow;
}
#endif

uint32_t crc32c(uint32_t crc, const void *data, size_t n_bytes)
{
#ifdef __x86_64__
    if (__builtin_cpu_supports("sse4.2")) /* one load and test of what start-up found out */
        return crc32c_sse42(crc, data, n_bytes);
#endif
    return crc32c_plain(crc, data, n_bytes);
}
