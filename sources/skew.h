/* sim_clock.h - the clocks of a simulated machine, which drift and jump against virtual time. */
#ifndef CHI_SIM_CLOCK_H
#define CHI_SIM_CLOCK_H

#include "base.h"

#define SIM_CLOCK_PPM_MAX 100000

/* All zero: both clocks go with virtual time. */
struct sim_clock {
  uint64_t since, local; /* at that virtual time the monotonic clock said `local` */
  int64_t ppm;           /* it gains since then */
  int64_t wall;          /* ns that the wall clock is ahead of the monotonic one */
};

/* What the monotonic clock says at a virtual time, not before the last change. */
CHI_PRIVATE uint64_t sim_clock_at(const struct sim_clock *clock, uint64_t now);
/* The first virtual time at which it will say so or more; may be past. UINT64_MAX stays so. */
CHI_PRIVATE uint64_t sim_clock_until(const struct sim_clock *clock, uint64_t local);
/* Nanoseconds since 1970. */
CHI_PRIVATE uint64_t sim_clock_wall(const struct sim_clock *clock, uint64_t now);
/* From now on the clocks gain ppm, at most SIM_CLOCK_PPM_MAX either way. */
CHI_PRIVATE void sim_clock_drift(struct sim_clock *clock, uint64_t now, int64_t ppm);
/* The wall clock jumps, and the monotonic one with it if that is ahead. */
CHI_PRIVATE void sim_clock_jump(struct sim_clock *clock, uint64_t now, int64_t ns);

#endif
