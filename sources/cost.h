/* cost.h - what a task is taken to cost by what it declares. */
#ifndef CHI_COST_H
#define CHI_COST_H

#include "base.h"

#define COST_SLOW_NS 50000u /* so much or more belongs on slow workers */

/* Nanoseconds of its method, and of the way to it. */
CHI_INLINE uint64_t cost_declared(uint64_t compute_us, uint64_t io_size)
{
  uint64_t size = io_size < (1ull << 40) ? io_size : 1ull << 40;
  return size / 4 + compute_us * 1000 + 5000;
}

#endif
