/* sim_clock.c - the clocks of a simulated machine, which drift and jump against virtual time. */
#include "sim_clock.h"

#define SIM_CLOCK_MILLION 1000000
#define SIM_CLOCK_EPOCH UINT64_C(1700000000000000000) /* wall time at virtual time 0 */

/* What is gained in that time; in two parts, so that nothing overflows in a century. */
static int64_t sim_clock_gain(uint64_t ns, int64_t ppm)
{
  int64_t millions = (int64_t)(ns / SIM_CLOCK_MILLION), rest = (int64_t)(ns % SIM_CLOCK_MILLION);
  return millions * ppm + rest * ppm / SIM_CLOCK_MILLION;
}

CHI_PRIVATE uint64_t sim_clock_at(const struct sim_clock *clock, uint64_t now)
{
  uint64_t ns = now - clock->since;
  CHI_ASSERT(now >= clock->since);
  return clock->local + ns + (uint64_t)sim_clock_gain(ns, clock->ppm);
}

CHI_PRIVATE uint64_t sim_clock_until(const struct sim_clock *clock, uint64_t local)
{
  uint64_t rate = (uint64_t)(SIM_CLOCK_MILLION + clock->ppm), ahead, ns;
  if (local <= clock->local)
    return clock->since;
  ahead = local - clock->local;
  if (ahead >= UINT64_MAX / 4)
    return UINT64_MAX;
  if (clock->ppm == 0)
    return clock->since + ahead;
  ns = ahead / rate * SIM_CLOCK_MILLION + ahead % rate * SIM_CLOCK_MILLION / rate;
  ns -= ns < 2 ? ns : 2;
  while (sim_clock_at(clock, clock->since + ns) < local)
    ns++; /* a few times at most, for what the divisions left out */
  return clock->since + ns;
}

CHI_PRIVATE uint64_t sim_clock_wall(const struct sim_clock *clock, uint64_t now)
{
  return SIM_CLOCK_EPOCH + sim_clock_at(clock, now) + (uint64_t)clock->wall;
}

CHI_PRIVATE void sim_clock_drift(struct sim_clock *clock, uint64_t now, int64_t ppm)
{
  CHI_ASSERT(ppm >= -SIM_CLOCK_PPM_MAX && ppm <= SIM_CLOCK_PPM_MAX);
  clock->local = sim_clock_at(clock, now);
  clock->since = now;
  clock->ppm = ppm;
}

CHI_PRIVATE void sim_clock_jump(struct sim_clock *clock, uint64_t now, int64_t ns)
{
  clock->local = sim_clock_at(clock, now) + (ns > 0 ? (uint64_t)ns : 0);
  clock->since = now;
  clock->wall += ns < 0 ? ns : 0;
}

#undef SIM_CLOCK_MILLION
#undef SIM_CLOCK_EPOCH
