/* Hashes: XXH3 for payloads and digests. Not for secrets. */
#ifndef IBOT_PROTO_BASE_HASH_H
#define IBOT_PROTO_BASE_HASH_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

/* XXH3-64 of a block of bytes. */
uint64_t hash_bytes(const void *data, size_t n_bytes);

/* XXH3-64 of a block, continuing from `seed` (a former hash): order matters. */
uint64_t hash_bytes_seeded(const void *data, size_t n_bytes, uint64_t seed);

#ifdef __cplusplus
}
#endif

#endif
