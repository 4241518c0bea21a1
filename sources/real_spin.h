/* real_spin.h - how long a thread looks for work before it parks: as long as that pays. */
#ifndef CHI_REAL_SPIN_H
#define CHI_REAL_SPIN_H

#include "base.h"

#define REAL_SPIN_CROWDED_NS 300000u /* others keep the CPU for longer than those who spin do */

#ifndef CHI_OMIT_REAL

/* Parking costs a wake-up of some 50 us; looking on costs a CPU. A window that passed twice in a
 * row without work shrinks to nothing, until some sleeps in a row end so soon that looking on would
 * have found the work. One thread. */
struct real_spin {
  uint64_t limit;  /* the whole window */
  uint64_t window; /* the present one: limit or 0 */
  uint32_t fruitless, brief; /* windows without work, short sleeps: in a row */
};

/* Nothing at first: a thread that has never been busy doesn't spin. */
CHI_PRIVATE void real_spin_init(struct real_spin *s, uint64_t limit);
/* A window has ended, with or without work. */
CHI_PRIVATE void real_spin_ended(struct real_spin *s, bool found);
/* Others want the CPU and keep it when they have it: who sleeps until there is work gets it sooner
 * than who gives way again and again. */
CHI_PRIVATE void real_spin_crowded(struct real_spin *s);
/* A sleep has ended; from the last work to its end it took so long. */
CHI_PRIVATE void real_spin_slept(struct real_spin *s, uint64_t took);

#endif
#endif
