/* Philox4x32-10 and MT19937, from their papers. */
#include "proto/base/rng.h"

#include <math.h>

void rng_philox4x32(const uint32_t counter[4], const uint32_t key[2], uint32_t out[4])
{
    uint32_t c0 = counter[0], c1 = counter[1], c2 = counter[2], c3 = counter[3];
    uint32_t k0 = key[0], k1 = key[1];

    for (int round = 0; round < 10; round++) {
        uint64_t product0 = (uint64_t)0xD2511F53u * c0;
        uint64_t product1 = (uint64_t)0xCD9E8D57u * c2;
        uint32_t next0 = (uint32_t)(product1 >> 32) ^ c1 ^ k0;
        uint32_t next2 = (uint32_t)(product0 >> 32) ^ c3 ^ k1;
        c1 = (uint32_t)product1;
        c3 = (uint32_t)product0;
        c0 = next0;
        c2 = next2;
        k0 += 0x9E3779B9u; /* golden ratio */
        k1 += 0xBB67AE85u; /* sqrt(3) - 1 */
    }
    out[0] = c0;
    out[1] = c1;
    out[2] = c2;
    out[3] = c3;
}

struct rng rng_open(struct rng_key key)
{
    struct rng rng = {
        .key = {(uint32_t)key.seed, (uint32_t)(key.seed >> 32)},
        .counter = {0, (uint32_t)key.purpose << 16 | key.view, key.sample, key.epoch},
        .n_used = 4,
    };
    return rng;
}

uint32_t rng_u32(struct rng *rng)
{
    if (rng->n_used == 4) {
        rng_philox4x32(rng->counter, rng->key, rng->words);
        rng->counter[0]++;
        rng->n_used = 0;
    }
    return rng->words[rng->n_used++];
}

double rng_uniform(struct rng *rng)
{
    return rng_u32(rng) * 0x1p-32;
}

double rng_range(struct rng *rng, double low, double high)
{
    return low + (high - low) * rng_uniform(rng);
}

uint32_t rng_below(struct rng *rng, uint32_t n)
{
    uint64_t product = (uint64_t)rng_u32(rng) * n;
    uint32_t low = (uint32_t)product;

    if (low < n) {
        uint32_t threshold = (0u - n) % n;
        while (low < threshold) {
            product = (uint64_t)rng_u32(rng) * n;
            low = (uint32_t)product;
        }
    }
    return (uint32_t)(product >> 32);
}

double rng_normal(struct rng *rng)
{
    double radius = sqrt(-2.0 * log((rng_u32(rng) + 0.5) * 0x1p-32));
    return radius * cos(2.0 * M_PI * rng_uniform(rng));
}

void mt19937_init(struct mt19937 *generator, uint32_t seed)
{
    generator->state[0] = seed;
    for (uint32_t i = 1; i < 624; i++) {
        uint32_t before = generator->state[i - 1];
        generator->state[i] = 1812433253u * (before ^ (before >> 30)) + i;
    }
    generator->position = 624;
}

static void mt19937_refill(struct mt19937 *generator)
{
    uint32_t *state = generator->state;

    for (uint32_t i = 0; i < 624; i++) {
        uint32_t mixed = (state[i] & 0x80000000u) | (state[(i + 1) % 624] & 0x7fffffffu);
        state[i] = state[(i + 397) % 624] ^ (mixed >> 1) ^ (mixed & 1 ? 0x9908b0dfu : 0);
    }
    generator->position = 0;
}

uint32_t mt19937_u32(struct mt19937 *generator)
{
    if (generator->position == 624)
        mt19937_refill(generator);
    uint32_t word = generator->state[generator->position++];
    word ^= word >> 11;
    word ^= (word << 7) & 0x9d2c5680u;
    word ^= (word << 15) & 0xefc60000u;
    return word ^ (word >> 18);
}
