/* skew.h - the clocks of a machine that goes wrong: they drift and jump against one that doesn't.
 */
#ifndef CHI_SKEW_H
#define CHI_SKEW_H

#include "base.h"

#define SKEW_PPM_MAX 100000

/* All zero: both clocks go right. */
struct skew {
  uint64_t since, local; /* when it was `since`, the monotonic clock said `local` */
  int64_t ppm;           /* it gains since then */
  int64_t wall;          /* ns that the wall clock has jumped ahead of the monotonic one */
};

/* What the monotonic clock says when it is `now`, not before the last change. */
CHI_PRIVATE uint64_t skew_at(const struct skew *skew, uint64_t now);
/* When it will say so or more, for the first time; may be past. UINT64_MAX stays so. */
CHI_PRIVATE CHI_UNUSED uint64_t skew_until(const struct skew *skew, uint64_t local);
/* ns that the wall clock is ahead of one that goes right. */
CHI_PRIVATE int64_t skew_wall(const struct skew *skew, uint64_t now);
/* From now on the clocks gain ppm, at most SKEW_PPM_MAX either way. */
CHI_PRIVATE void skew_drift(struct skew *skew, uint64_t now, int64_t ppm);
/* The wall clock jumps, and the monotonic one with it if that is ahead. */
CHI_PRIVATE void skew_jump(struct skew *skew, uint64_t now, int64_t ns);

#endif
