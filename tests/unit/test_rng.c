/* test_rng.c - known answers, independence of streams, fairness. */
#include "rng.h"

#include "dies.h"
#include "test.h"

/* Recorded runs replay from their seed: these numbers must never change. */
TEST(rng_known_answers)
{
  const uint64_t reference[] = {11520, 0, 1509978240, 1215971899390074240};
  struct rng rng = {{1, 2, 3, 4}};
  for (size_t i = 0; i < CHI_COUNT(reference); i++)
    CHECK(rng_next(&rng) == reference[i]); /* xoshiro256** of its authors */
  rng_seed(&rng, 42, 1, 2);
  CHECK(rng_next(&rng) == 0xf1cdbf9b0a593137u);
  CHECK(rng_next(&rng) == 0x0458d6926b26c7e5u);
}

TEST(rng_copies_have_the_same_future)
{
  struct rng a, b;
  rng_seed(&a, 0, 0, 0);
  rng_next(&a);
  b = a;
  for (int i = 0; i < 100; i++)
    CHECK(rng_next(&a) == rng_next(&b));
}

/* Neither a neighbouring seed, node or purpose, nor swapping them, gives a stream twice. */
TEST(rng_streams_differ)
{
  static uint64_t first[8 * 8 * 8];
  size_t n = 0;
  for (uint64_t key = 0; key < CHI_COUNT(first); key++) {
    struct rng rng;
    rng_seed(&rng, key / 64, key / 8 % 8, key % 8);
    first[n++] = rng_next(&rng);
    for (size_t i = 0; i + 1 < n; i++)
      CHECK(first[i] != first[n - 1]);
  }
}

TEST(rng_bits_are_even)
{
  struct rng rng;
  int ones[64] = {0};
  rng_seed(&rng, 1, 2, 3);
  for (int i = 0; i < 10000; i++) {
    uint64_t x = rng_next(&rng);
    for (int bit = 0; bit < 64; bit++)
      ones[bit] += x >> bit & 1;
  }
  for (int bit = 0; bit < 64; bit++)
    CHECK(ones[bit] > 4750 && ones[bit] < 5250); /* five sigma */
}

TEST(rng_below_stays_below_and_is_fair)
{
  const uint64_t limits[] = {1, 2, 3, 1000, UINT64_MAX, (uint64_t)3 << 62, ((uint64_t)1 << 63) + 1};
  struct rng rng;
  int count[6] = {0};
  rng_seed(&rng, 5, 0, 0);
  for (size_t i = 0; i < CHI_COUNT(limits); i++)
    for (int k = 0; k < 1000; k++)
      CHECK(rng_below(&rng, limits[i]) < limits[i]);
  for (int i = 0; i < 60000; i++)
    count[rng_below(&rng, 6)]++;
  for (int i = 0; i < 6; i++)
    CHECK(count[i] > 9540 && count[i] < 10460);
}

/* With a plain remainder the lower half of this range would come up twice as often. */
TEST(rng_below_has_no_bias)
{
  const uint64_t n = (uint64_t)3 << 62;
  struct rng rng;
  int low = 0;
  rng_seed(&rng, 6, 0, 0);
  for (int i = 0; i < 30000; i++)
    low += rng_below(&rng, n) < n / 3;
  CHECK(low > 9590 && low < 10410);
}

TEST(rng_chance_is_parts_per_million)
{
  struct rng rng;
  int hits = 0;
  rng_seed(&rng, 7, 0, 0);
  for (int i = 0; i < 1000; i++) {
    CHECK(!rng_chance(&rng, 0));
    CHECK(rng_chance(&rng, 1000000));
  }
  for (int i = 0; i < 100000; i++)
    hits += rng_chance(&rng, 250000);
  CHECK(hits > 24300 && hits < 25700);
}

/* A state whose next draw is a multiple of a million: the lowest there is for a chance. */
TEST(rng_chance_of_nothing_never_happens)
{
  const struct rng lowest = {{1, 0x19d27d27d27d2880u, 2, 3}};
  struct rng rng = lowest;
  CHECK_INT(rng_next(&rng), 1000000);
  rng = lowest;
  CHECK(!rng_chance(&rng, 0));
  rng = lowest;
  CHECK(rng_chance(&rng, 1));
}

TEST(rng_certain_chance_draws_too)
{
  struct rng a, b;
  rng_seed(&a, 8, 0, 0);
  b = a;
  rng_chance(&a, 0);
  rng_chance(&b, 1000000);
  CHECK(rng_next(&a) == rng_next(&b));
}

static void rng_below_nothing(void *arg)
{
  rng_below(arg, 0);
}

TEST(rng_misuse_is_caught)
{
  struct rng rng;
  rng_seed(&rng, 9, 0, 0);
  CHECK(dies(rng_below_nothing, &rng, "n > 0"));
}
