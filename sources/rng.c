/* rng.c - xoshiro256**, seeded through splitmix64. */
#include "rng.h"

#include "hash.h"

#define RNG_STEP 0x9e3779b97f4a7c15u

static inline uint64_t rng_rotate(uint64_t x, unsigned bits)
{
  return x << bits | x >> (64 - bits);
}

CHI_PRIVATE void rng_seed(struct rng *rng, uint64_t seed, uint64_t stream_a, uint64_t stream_b)
{
  uint64_t x = seed;
  x = hash_mix64(x + RNG_STEP) ^ stream_a;
  x = hash_mix64(x + RNG_STEP) ^ stream_b;
  x = hash_mix64(x + RNG_STEP);
  for (int i = 0; i < 4; i++)
    rng->s[i] = hash_mix64(x += RNG_STEP);
  CHI_ASSERT(rng->s[0] || rng->s[1]); /* all zero would stay so; mixing is one to one */
}

CHI_PRIVATE uint64_t rng_next(struct rng *rng)
{
  uint64_t *s = rng->s, out = rng_rotate(s[1] * 5, 7) * 9, t = s[1] << 17;
  s[2] ^= s[0];
  s[3] ^= s[1];
  s[1] ^= s[2];
  s[0] ^= s[3];
  s[2] ^= t;
  s[3] = rng_rotate(s[3], 45);
  return out;
}

CHI_PRIVATE uint64_t rng_below(struct rng *rng, uint64_t n)
{
  uint64_t rest, x;
  CHI_ASSERT(n > 0);
  rest = -n % n; /* 2^64 mod n: that many numbers are left out */
  do
    x = rng_next(rng);
  while (x < rest);
  return x % n;
}

CHI_PRIVATE bool rng_chance(struct rng *rng, uint32_t ppm)
{
  return rng_below(rng, 1000000) < ppm;
}

#undef RNG_STEP
