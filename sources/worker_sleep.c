/* worker_sleep.c - when a worker may sleep, and what it is woken for. */
#include "worker.h"

bool worker_is_asked(const struct worker *w)
{
  if (!inbox_empty(&w->inbox) || !ring_empty(&w->urgent) || w->ready.head ||
      mark_get(&w->crew->cancel_epoch) != w->cancel_seen)
    return true;
  bool full = w->spares == 0 && w->fibers > WORKER_FIBERS;
  if (!full && !ring_empty(&w->queue))
    return true;
  for (uint32_t i = 0; i < w->lane_count; i++)
    if (lane_ready(&w->lane[i]->in) && mark_get(&w->lane[i]->home) == w->index)
      return true;
  return false;
}

bool worker_has_work(const struct worker *w)
{
  if (worker_is_asked(w))
    return true;
  for (uint32_t i = 0; i < w->lane_count; i++)
    if (lane_ready(&w->lane[i]->in) || mark_get(&w->lane[i]->closed) ||
        mark_get(&w->lane[i]->home) != w->index)
      return true;
  return false;
}

bool worker_may_sleep(struct worker *w)
{
  bell_announce(w->word);
  if (worker_has_work(w))
    return false;
  mark_set(&w->awake, 0);
  return true;
}

void worker_awake(struct worker *w)
{
  struct worker_crew *crew = w->crew;
  if (mark_get(&w->word->word) & 1)
    bell_withdraw(w->word);
  mark_set_fenced(&w->awake, 1);
  if (w->kind >= WORKER_BRIEF || mark_get(&crew->watching)) /* these are not looked after so */
    return;
  mark_set(&crew->watching, 1);
  worker_ring(w, &crew->worker[crew->count - 1]);
}
