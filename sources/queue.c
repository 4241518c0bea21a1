/* queue.c - a client's queue as the daemon sees it: three lanes and the way back. */
#include "queue.h"

void queue_complete(struct queue *q, uint32_t worker, uint32_t slot, int32_t rc)
{
  queue_answer(q, slot, rc);
  bell_fence();
  queue_wake_after_fence(q, worker);
}

void queue_answer(struct queue *q, uint32_t slot, int32_t rc)
{
  if (!mark_get(&q->gone))
    lane_done_push(&q->done, slot, rc);
}

void queue_wake_after_fence(struct queue *q, uint32_t worker)
{
  if (!mark_get(&q->gone) && bell_wanted_after_fence(&q->desk->client, &q->rung))
    q->env->bell_ring(q->env, q->bell);
  queue_forget(q, worker);
}

void queue_forget(struct queue *q, uint32_t worker)
{
  uint64_t *ended = &q->ended[worker * (CHI_CACHE_LINE / sizeof(uint64_t))];
  mark_set(ended, *ended + 1);
}

void queue_hold(struct queue *q, uint32_t slot, uint32_t tag)
{
  CHI_ASSERT(slot < q->depth && tag != 0);
  mark_set(&q->tag[slot], tag);
}

bool queue_cancel(struct queue *q, uint64_t slot, uint32_t tag)
{
  return slot < q->depth && tag != 0 && mark_change(&q->tag[slot], tag, 0);
}

bool queue_cancelled(const struct queue *q, uint32_t slot, uint32_t tag)
{
  return mark_get(&q->gone) || mark_get(&q->tag[slot]) != tag;
}

uint32_t queue_in_flight(const struct queue *q)
{
  uint64_t ended = 0;
  for (uint32_t w = 0; w < q->workers; w++)
    ended += mark_get(&q->ended[w * (CHI_CACHE_LINE / sizeof(uint64_t))]);
  uint32_t taken = 0;
  for (uint32_t k = 0; k < LANE_KINDS; k++)
    taken += mark_get(&q->lane[k].in.head);
  return taken - (uint32_t)ended;
}
