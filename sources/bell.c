/* bell.c - waking without loss: the words by which a sleeper tells that it must be rung. */
#include "bell.h"

void bell_announce(struct bell_word *b)
{
  uint32_t word = atomic_get(&b->word);
  CHI_ASSERT((word & 1) == 0);
  atomic_set(&b->word, word + 1);
  atomic_fence();
}

void bell_withdraw(struct bell_word *b)
{
  uint32_t word = atomic_get(&b->word);
  CHI_ASSERT((word & 1) == 1);
  atomic_set(&b->word, word + 1);
  atomic_fence();
}

bool bell_wanted(const struct bell_word *b, uint32_t *last)
{
  atomic_fence();
  return bell_wanted_after_fence(b, last);
}

bool bell_wanted_after_fence(const struct bell_word *b, uint32_t *last)
{
  uint32_t word = atomic_get(&b->word);
  if ((word & 1) == 0 || word == atomic_get(last))
    return false;
  atomic_set(last, word);
  return true;
}
