/* The official order of samples: PyTorch's randperm of DistributedSampler, epoch by epoch. */
#ifndef IBOT_LOADER_ORDER_H
#define IBOT_LOADER_ORDER_H

#include <stddef.h>
#include <stdint.h>

#include "proto/base/status.h"

/* out [n]: the permutation of a generator seeded with seed + epoch (its low 32 bits):
 * for i in 0..n-2: swap r[i], r[i + next_u32 mod (n-i)]. */
void order_permutation(uint64_t seed, int32_t epoch, uint32_t n, uint32_t *out);

/* Permutations of the epochs in use, shared by the threads of a loader. */
struct order;

enum status order_open(struct order **out, uint32_t n_samples) IBOT_WARN_UNUSED;

/* Sample at a global position of an epoch; positions past n continue from its head, as the sampler
 * extends the list. Any thread; fast when the epoch is cached. */
enum status order_sample(struct order *order, bool shuffle, uint64_t seed, int32_t epoch,
                         uint64_t position, uint32_t *sample) IBOT_WARN_UNUSED;

/* Permutations made so far. Any thread. */
uint64_t order_n_made(struct order *order);
void order_close(struct order **order);

#endif
