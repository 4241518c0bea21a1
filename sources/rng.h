/* rng.h - streams of random integers, equal on every machine. Not for secrets. */
#ifndef CHI_RNG_H
#define CHI_RNG_H

#include "base.h"

/* One stream: xoshiro256**. Copying it copies its future. */
struct rng {
  uint64_t s[4];
};

/* Begins the stream that belongs to (seed, stream_a, stream_b), such as (seed, node, purpose): the
 * draws of one stream tell nothing about another's, and don't depend on what others draw. */
CHI_PRIVATE void rng_seed(struct rng *rng, uint64_t seed, uint64_t stream_a, uint64_t stream_b);

/* The next 64 random bits. */
CHI_PRIVATE uint64_t rng_next(struct rng *rng);

/* A number from 0 to n - 1, each equally likely; n is not 0. May draw more than once, rarely. */
CHI_PRIVATE uint64_t rng_below(struct rng *rng, uint64_t n);

/* True with a chance of ppm in a million. Draws even if the outcome is certain, so that turning a
 * chance down to 0 doesn't shift what follows. */
CHI_PRIVATE bool rng_chance(struct rng *rng, uint32_t ppm);

#endif
