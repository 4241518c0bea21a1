/* spin.c - how long who waits looks for work before it sleeps: as long as that pays. */
#include "spin.h"

#define SPIN_TURNS 64u      /* the least that a window gives way before it closes */
#define SPIN_WAKE_NS 50000u /* from a ring to the sleeper's first look, on another CPU */
#define SPIN_FRUITLESS 2u
#define SPIN_BRIEF 4u /* sleeps: work that comes just too late for a window wastes few */
#define SPIN_CROWDED_NS 300000u /* others keep the CPU for longer than those who spin do */

void spin_init(struct spin *s, struct env *env, uint64_t limit, bool (*look)(const void *who),
               const void *who)
{
  *s = (struct spin){.env = env, .look = look, .who = who, .limit = limit};
}

void spin_be_eager(struct spin *s)
{
  s->eager = true;
  s->window = s->limit;
}

/* A window has ended. Where others want the CPU and keep it when they have it, who sleeps until
 * there is work gets it sooner than who gives way again and again. */
static void spin_ended(struct spin *s, bool found, bool crowded)
{
  s->fruitless = found ? 0 : s->fruitless + 1;
  if (crowded)
    s->brief = 0;
  if (crowded || s->fruitless >= SPIN_FRUITLESS)
    s->window = 0;
}

bool spin_on(struct spin *s, uint64_t deadline, uint64_t *now)
{
  uint64_t end = *now + s->window;
  bool found = false, crowded = false;
  if (s->window == 0)
    return false;
  /* Where others run in between, time passes but nothing is spent: then turns count. */
  for (uint32_t n = 0; !found && !crowded && *now < deadline && (*now < end || n < SPIN_TURNS);
       n++) {
    uint64_t before = *now;
    s->env->relax(s->env);
    found = s->look(s->who);
    *now = s->env->clock(s->env);
    crowded = !s->eager && *now - before > SPIN_CROWDED_NS;
  }
  spin_ended(s, found, crowded);
  return found;
}

void spin_slept(struct spin *s, uint64_t took)
{
  bool brief = took < SPIN_WAKE_NS || took - SPIN_WAKE_NS < s->limit;
  s->brief = brief ? s->brief + 1 : 0;
  if (s->eager ? !brief || s->window > 0 : s->brief < SPIN_BRIEF)
    return;
  s->window = s->limit;
  s->fruitless = s->eager ? SPIN_FRUITLESS - 1 : 0;
  s->brief = 0;
}

#undef SPIN_TURNS
#undef SPIN_WAKE_NS
#undef SPIN_FRUITLESS
#undef SPIN_BRIEF
#undef SPIN_CROWDED_NS
