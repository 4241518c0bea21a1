/* spin.h - how long who waits looks for work before it sleeps: as long as that pays. */
#ifndef CHI_SPIN_H
#define CHI_SPIN_H

#include "base.h"
#include "env.h"

/* Sleeping costs a wake-up of some 50 us; looking on costs a CPU. A window that passed twice in a
 * row without work shrinks to nothing, until some sleeps in a row end so soon that looking on would
 * have found the work. One thread. */
struct spin {
  struct env *env;
  bool (*look)(const void *who); /* whether there is work */
  const void *who;
  uint64_t limit;  /* the whole window, in nanoseconds */
  uint64_t window; /* the present one: limit or 0 */
  uint32_t fruitless, brief; /* windows without work, short sleeps: in a row */
  bool eager;
};

/* Nothing at first: who has never been busy doesn't spin. */
CHI_PRIVATE void spin_init(struct spin *s, struct env *env, uint64_t limit,
                           bool (*look)(const void *who), const void *who);
/* For a client, who waits for nothing but what it has asked for: it spins from the beginning, one
 * short sleep opens its window again, if for one try, and it goes on among others, too: that
 * sleeping serves it better there did not show. */
CHI_PRIVATE void spin_be_eager(struct spin *s);
/* Looks for work, giving way to others in between, until the window or the deadline is over. *now:
 * the time, which is kept. True: there is work. */
CHI_PRIVATE bool spin_on(struct spin *s, uint64_t deadline, uint64_t *now);
/* A sleep has ended; from the last work to its end it took so long. */
CHI_PRIVATE void spin_slept(struct spin *s, uint64_t took);

#endif
