/* Randomness.
 *
 * Philox4x32-10 (Salmon et al., SC 2011) makes every draw a pure function of a key: which image,
 * which view, which purpose. No state is shared, so nothing depends on which process or thread
 * drew it, or how often it was tried. MT19937 (Matsumoto and Nishimura 1998) is here only because
 * the official order of samples is defined by it.
 *
 *   counter: [block, purpose << 16 | view, sample, epoch]      key: [seed low, seed high]
 */
#ifndef IBOT_PROTO_BASE_RNG_H
#define IBOT_PROTO_BASE_RNG_H

#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

/* What a stream of draws is for. Values are part of the stream format: never renumber. */
enum rng_purpose {
    RNG_CROP = 1,      /* area, aspect, position */
    RNG_FLIP = 2,      /* horizontal flip */
    RNG_JITTER = 3,    /* gate, order and factors */
    RNG_GRAYSCALE = 4, /* gate */
    RNG_BLUR = 5,      /* gate and radius */
    RNG_SOLARIZE = 6,  /* gate */
    RNG_MASK = 7,      /* ratio and blocks */
    RNG_INIT = 8,      /* initial weights: sample = parameter number */
    RNG_DROP_PATH = 9, /* stochastic depth: epoch = step, view = 2*block + branch, sample = crop */
    RNG_MIX = 16,      /* mixup, cutmix: epoch = step */
    RNG_ERASE = 17,    /* random erasing: epoch = step, sample = image of the step, view 1 = box */
    RNG_RAND_AUGMENT = 18,  /* operations and their magnitudes */
    RNG_INTERPOLATION = 19, /* of a crop, where it is drawn */
    RNG_DROP_CELLS = 20,    /* cells of an image that an evaluation drops: epoch = try */
    RNG_SHUFFLE_CELLS = 21, /* or puts in another order; view = number of cells */
    RNG_ORDER = 22,         /* of samples, by an evaluation that reads them itself */
    RNG_DROP_CHANNELS = 23, /* of maps, by a decoder: epoch = step, view 0 the decoder's, 1 its
                               auxiliary head's */
    RNG_REGIONS = 24,       /* boxes that a detector is trained on: epoch = step, view 0 anchors,
                               1, 2, 3 the stages' */
    RNG_TEST = 100,
};

struct rng_key {
    uint64_t seed;
    uint32_t epoch;
    uint32_t sample;
    uint16_t view;
    uint16_t purpose; /* enum rng_purpose */
};

/* A stream of draws for one key; by value, no allocation. */
struct rng {
    uint32_t key[2];
    uint32_t counter[4];
    uint32_t words[4];
    uint32_t n_used; /* of words */
};

struct rng rng_open(struct rng_key key);
uint32_t rng_u32(struct rng *rng);

/* Uniform double in [0, 1) with 32 random bits. */
double rng_uniform(struct rng *rng);

/* Uniform double in [low, high) (or (high, low] when high < low). */
double rng_range(struct rng *rng, double low, double high);

/* Uniform integer in [0, n), n >= 1, without bias (Lemire's method). */
uint32_t rng_below(struct rng *rng, uint32_t n);

/* Standard normal (Box-Muller, in double). */
double rng_normal(struct rng *rng);

/* One block: the bare generator, for tests against published vectors and for kernels. */
void rng_philox4x32(const uint32_t counter[4], const uint32_t key[2], uint32_t out[4]);

struct mt19937 {
    uint32_t state[624];
    uint32_t position;
};

/* init_genrand(seed). */
void mt19937_init(struct mt19937 *generator, uint32_t seed);
uint32_t mt19937_u32(struct mt19937 *generator);

#ifdef __cplusplus
}
#endif

#endif
