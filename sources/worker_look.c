/* worker_look.c - the network worker's eye on the others: homes of lanes, take-over, balance. */
#include "worker.h"

#define WORKER_TASK_NS 100u /* about what a task costs beside its method */

/* ---- homes */

static void worker_set_home(struct queue_lane *l, uint32_t home)
{
  latch_lock(&l->latch);
  mark_set(&l->home, home);
  latch_unlock(&l->latch);
  mark_set(&l->queue->board->home[l->kind], home);
}

void worker_home(struct worker *network, struct queue_lane *l, uint32_t home)
{
  CHI_ASSERT(network->kind == WORKER_NETWORK);
  worker_set_home(l, home);
  count_add(&l->holders, 1);
  mark_set(&l->moving, 1);
  l->node.kind = NODE_LANE;
  /* Not by inbox: what a stuck worker hasn't adopted must be there for the taking. */
  ring_push(&network->crew->worker[home].urgent, &l->node);
  worker_ring(network, &network->crew->worker[home]);
}

/* ---- looking */

/* How much it did since the look before, `ns` ago: time of methods and of the way to them. */
static void worker_look_at_load(struct worker *w, bool inside, uint64_t ns)
{
  uint64_t done = tally_get(&w->busy_ns) + tally_get(&w->ended) * WORKER_TASK_NS;
  uint64_t load = done - w->load_seen;
  bool busy = !w->stuck && (inside || load >= ns / 2), idle = !inside && load <= ns / 8;
  w->load_seen = done;
  w->busy_looks = busy ? w->busy_looks + 1 : 0;
  w->idle_looks = idle ? w->idle_looks + 1 : 0;
}

bool worker_look(struct worker *network)
{
  bool awake = false;
  for (uint32_t i = 0; i < network->index; i++) {
    struct worker *w = &network->crew->worker[i];
    uint64_t beat = tally_get(&w->beat);
    bool inside = mark_get(&w->inside);
    w->stuck = mark_get(&w->full) || (inside && beat == w->beat_seen);
    w->beat_seen = beat;
    worker_look_at_load(w, inside, network->now - network->beat_seen);
    awake = awake || mark_get(&w->awake);
  }
  network->beat_seen = network->now;
  return awake;
}

struct worker_work worker_work_left(const struct worker_crew *crew)
{
  struct worker_work work = {0};
  uint64_t accepted = 0;
  for (uint32_t i = 0; i < crew->count; i++)
    work.done += mark_get(&crew->worker[i].ended);
  for (uint32_t i = 0; i < crew->count; i++)
    work.resting += mark_get(&crew->worker[i].resting);
  for (uint32_t i = 0; i < crew->count; i++)
    accepted += mark_get(&crew->worker[i].accepted);
  work.left = accepted - work.done;
  return work;
}

/* ---- take-over */

void worker_mark_stuck(struct worker *brief)
{
  CHI_ASSERT(brief->kind == WORKER_BRIEF);
  brief->stuck = true;
  brief->beat_seen = tally_get(&brief->beat);
}

/* One of its own kind, if there is one. */
static uint32_t worker_heir(const struct worker_crew *crew, uint32_t index)
{
  uint32_t others = crew->fast + crew->slow, heir = index;
  for (uint32_t i = 1; i <= others; i++) {
    const struct worker *other = &crew->worker[(index + i) % others];
    if (other->stuck || other->index == index)
      continue;
    if (other->kind == crew->worker[index].kind)
      return other->index;
    heir = heir == index ? other->index : heir;
  }
  return heir;
}

uint32_t worker_relieve(struct worker *network, uint32_t index)
{
  struct worker_crew *crew = network->crew;
  struct worker *w = &crew->worker[index];
  uint32_t heir = w->stuck ? worker_heir(crew, index) : index;
  if (heir == index)
    return index;
  struct worker *to = &crew->worker[heir];
  uint32_t moved = ring_splice(&to->queue, &w->queue);
  for (struct ring_node *n = ring_pop(&w->urgent); n; n = ring_pop(&w->urgent), moved++) {
    if (n->kind == NODE_LANE) /* a lane follows its node: whoever adopts it must be its home */
      worker_set_home(CHI_CONTAINER_OF(n, struct queue_lane, node), heir);
    ring_push(&to->urgent, n);
  }
  if (moved > 0)
    worker_ring(network, to);
  return heir;
}

/* Of that kind, and in that state for long enough, the one for longest; NULL. */
static struct worker *worker_lasting(const struct worker_crew *crew, uint32_t kind, bool busy)
{
  struct worker *found = NULL;
  uint32_t most = WORKER_LOOKS - 1;
  for (uint32_t i = 0; i + 1 < crew->count; i++) {
    struct worker *w = &crew->worker[i];
    uint32_t looks = busy ? w->busy_looks : w->idle_looks;
    if (w->kind != kind || looks <= most)
      continue;
    most = looks;
    found = w;
  }
  return found;
}

bool worker_lopsided(struct worker *network, uint32_t *from, uint32_t *to)
{
  for (uint32_t kind = WORKER_FAST; kind <= WORKER_SLOW; kind++) {
    struct worker *busy = worker_lasting(network->crew, kind, true);
    struct worker *idle = worker_lasting(network->crew, kind, false);
    if (!busy || !idle)
      continue;
    busy->busy_looks = idle->idle_looks = 0;
    *from = busy->index;
    *to = idle->index;
    return true;
  }
  return false;
}

#undef WORKER_TASK_NS
