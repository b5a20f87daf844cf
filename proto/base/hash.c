/* XXH3 from the xxHash library. */
#include "proto/base/hash.h"

#include <xxhash.h>

uint64_t hash_bytes(const void *data, size_t n_bytes)
{
    return XXH3_64bits(data, n_bytes);
}

uint64_t hash_bytes_seeded(const void *data, size_t n_bytes, uint64_t seed)
{
    return XXH3_64bits_withSeed(data, n_bytes, seed);
}
