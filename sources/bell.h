/* bell.h - waking without loss: the words by which a sleeper tells that it must be rung.
 *
 * Sleeper: bell_announce, look at every source once more, park, bell_withdraw, look again.
 * Ringer: publish the work, bell_wanted, and if it says so ring the sleeper's bell. Either the
 * sleeper sees the work or the ringer sees the announcement: both sides fence in between. */
#ifndef CHI_BELL_H
#define CHI_BELL_H

#include "base.h"
#include "atomic.h"

/* Odd: asleep or about to be. Written by the sleeper alone; others may map it read-only. */
struct bell_word {
  uint32_t word;
  uint32_t unused[15]; /* a cache line of its own */
};

CHI_PRIVATE void bell_announce(struct bell_word *b);
CHI_PRIVATE void bell_withdraw(struct bell_word *b);
/* After publishing: true if the sleeper must be rung. *last is the announcement that was answered
 * last, kept by this ringer or, atomically, by several that ring the same bell. */
CHI_PRIVATE bool bell_wanted(const struct bell_word *b, uint32_t *last);
/* The same for a ringer that has fenced since it published, by bell_fence or otherwise. */
CHI_PRIVATE bool bell_wanted_after_fence(const struct bell_word *b, uint32_t *last);
CHI_INLINE void bell_fence(void)
{
  atomic_fence();
}

#endif
