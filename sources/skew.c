/* skew.c - the clocks of a machine that goes wrong: they drift and jump against one that doesn't.
 */
#include "skew.h"

#define SKEW_MILLION 1000000

/* What is gained in that time; in two parts, so that nothing overflows in a century. */
static int64_t skew_gain(uint64_t ns, int64_t ppm)
{
  int64_t millions = (int64_t)(ns / SKEW_MILLION), rest = (int64_t)(ns % SKEW_MILLION);
  return millions * ppm + rest * ppm / SKEW_MILLION;
}

CHI_PRIVATE uint64_t skew_at(const struct skew *skew, uint64_t now)
{
  uint64_t ns = now - skew->since;
  CHI_ASSERT(now >= skew->since);
  return skew->local + ns + (uint64_t)skew_gain(ns, skew->ppm);
}

CHI_PRIVATE uint64_t skew_until(const struct skew *skew, uint64_t local)
{
  uint64_t rate = (uint64_t)(SKEW_MILLION + skew->ppm), ahead, ns;
  if (local <= skew->local)
    return skew->since;
  ahead = local - skew->local;
  if (ahead >= UINT64_MAX / 4)
    return UINT64_MAX;
  if (skew->ppm == 0)
    return skew->since + ahead;
  ns = ahead / rate * SKEW_MILLION + ahead % rate * SKEW_MILLION / rate;
  ns -= ns < 2 ? ns : 2;
  while (skew_at(skew, skew->since + ns) < local)
    ns++; /* a few times at most, for what the divisions left out */
  return skew->since + ns;
}

CHI_PRIVATE int64_t skew_wall(const struct skew *skew, uint64_t now)
{
  return (int64_t)(skew_at(skew, now) - now) + skew->wall;
}

CHI_PRIVATE void skew_drift(struct skew *skew, uint64_t now, int64_t ppm)
{
  CHI_ASSERT(ppm >= -SKEW_PPM_MAX && ppm <= SKEW_PPM_MAX);
  skew->local = skew_at(skew, now);
  skew->since = now;
  skew->ppm = ppm;
}

CHI_PRIVATE void skew_jump(struct skew *skew, uint64_t now, int64_t ns)
{
  skew->local = skew_at(skew, now) + (ns > 0 ? (uint64_t)ns : 0);
  skew->since = now;
  skew->wall += ns < 0 ? ns : 0;
}

#undef SKEW_MILLION
