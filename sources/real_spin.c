/* real_spin.c - how long a thread looks for work before it parks: as long as that pays. */
#include "real_spin.h"

#ifndef CHI_OMIT_REAL

#define REAL_SPIN_WAKE_NS 50000u /* from a ring to the sleeper's first look, on another CPU */
#define REAL_SPIN_FRUITLESS 2u
#define REAL_SPIN_BRIEF 4u /* sleeps: work that comes just too late for a window wastes few */

void real_spin_init(struct real_spin *s, uint64_t limit)
{
  *s = (struct real_spin){.limit = limit};
}

void real_spin_ended(struct real_spin *s, bool found)
{
  s->fruitless = found ? 0 : s->fruitless + 1;
  if (s->fruitless >= REAL_SPIN_FRUITLESS)
    s->window = 0;
}

void real_spin_crowded(struct real_spin *s)
{
  s->window = 0;
  s->brief = 0;
}

void real_spin_slept(struct real_spin *s, uint64_t took)
{
  bool brief = took < REAL_SPIN_WAKE_NS || took - REAL_SPIN_WAKE_NS < s->limit;
  s->brief = brief ? s->brief + 1 : 0;
  if (s->brief < REAL_SPIN_BRIEF)
    return;
  s->window = s->limit;
  s->fruitless = s->brief = 0;
}

#undef REAL_SPIN_WAKE_NS
#undef REAL_SPIN_FRUITLESS
#undef REAL_SPIN_BRIEF

#endif
