/* CRC-32C (Castagnoli, as in iSCSI and TFRecord): the processor's instruction where there is one, a
 * table elsewhere, with equal results. */
#ifndef IBOT_PROTO_WIRE_CRC32C_H
#define IBOT_PROTO_WIRE_CRC32C_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

/* Continues from `crc` (0 to begin). */
uint32_t crc32c(uint32_t crc, const void *data, size_t n_bytes);

/* The table version, for tests. */
uint32_t crc32c_plain(uint32_t crc, const void *data, size_t n_bytes);

/* TFRecord's masked form, so that a CRC stored in data that is itself checked stays harmless. */
static inline uint32_t crc32c_mask(uint32_t crc)
{
    return ((crc >> 15) | (crc << 17)) + 0xa282ead8u;
}

#ifdef __cplusplus
}
#endif

#endif
