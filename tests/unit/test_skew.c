/* test_skew.c - clocks that drift and jump. */
#include "rng.h"
#include "skew.h"
#include "test.h"

TEST(skew_goes_with_time_until_it_drifts)
{
  struct skew skew = {0, 0, 0, 0};
  CHECK(skew_at(&skew, 12345) == 12345 && skew_until(&skew, 12345) == 12345);
  CHECK(skew_until(&skew, UINT64_MAX) == UINT64_MAX);
  skew_drift(&skew, 1000000, 1000);
  CHECK_INT(skew_at(&skew, 2000000), 2001000);
  skew_drift(&skew, 2000000, -SKEW_PPM_MAX);
  CHECK_INT(skew_at(&skew, 3000000), 2901000);
  skew_drift(&skew, 3000000, 0);
  CHECK_INT(skew_at(&skew, 3000007), 2901007);
  CHECK_INT(skew_until(&skew, 2901007), 3000007);
  CHECK_INT(skew_until(&skew, 5), 3000000); /* it said so long ago */
}

TEST(skew_jumps)
{
  struct skew skew = {0, 0, 0, 0};
  CHECK_INT(skew_wall(&skew, 1000), 0);
  skew_jump(&skew, 2000, 700);
  CHECK_INT(skew_at(&skew, 2000), 2700);
  CHECK_INT(skew_wall(&skew, 2000), 700);
  skew_jump(&skew, 2000, -5000);
  CHECK_INT(skew_at(&skew, 2000), 2700); /* never back */
  CHECK_INT(skew_wall(&skew, 2000), -4300);
  skew_drift(&skew, 2000, 1000);
  CHECK_INT(skew_wall(&skew, 1002000), -3300);
}

/* It never goes back, and until is the first moment. */
TEST(skew_until_is_the_inverse)
{
  struct rng rng;
  rng_seed(&rng, 1, 2, 3);
  for (int i = 0; i < 20000; i++) {
    struct skew skew = {0, 0, 0, 0};
    uint64_t since = rng_below(&rng, UINT64_C(1) << 40), at, local, before;
    int64_t ppm = (int64_t)rng_below(&rng, 2 * SKEW_PPM_MAX + 1) - SKEW_PPM_MAX;
    skew_drift(&skew, since, ppm);
    local = since + 1 + rng_below(&rng, UINT64_C(1) << (10 + rng_below(&rng, 40)));
    at = skew_until(&skew, local);
    before = skew_at(&skew, at - 1);
    CHECK(at > since && before < local && skew_at(&skew, at) >= local);
  }
}
