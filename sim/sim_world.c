/* sim_world.c - virtual time: events in order of their time, and what all of them share. */
#include "sim_world.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>

#define SIM_WORLD_ROOM 4096u /* events for which there is always room, once there was */

static void *sim_world_get(void *arg, size_t size)
{
  (void)arg;
  return malloc(size);
}

static void sim_world_put(void *arg, void *p, size_t size)
{
  (void)arg, (void)size;
  free(p);
}

CHI_PRIVATE void sim_world_init(struct sim_world *world, uint64_t seed)
{
  memset(world, 0, sizeof(*world));
  world->seed = seed;
  world->now = SIM_WORLD_START;
  world->alloc = (struct alloc){sim_world_get, sim_world_put, NULL};
  heap_init(&world->heap, &world->alloc);
  hash_stream_init(&world->trace.hash, seed);
  world->profile = (struct sim_profile)SIM_PROFILE_DEFAULT;
  sim_world_stream(world, &world->order, 0, SIM_WORLD_STREAM_ORDER);
  sim_world_stream(world, &world->fault.rng, 0, SIM_WORLD_STREAM_FAULT);
}

CHI_PRIVATE void sim_world_fini(struct sim_world *world)
{
  CHI_ASSERT(!world->running);
  CHI_ASSERT(world->heap.count == 0);
  heap_fini(&world->heap);
}

CHI_PRIVATE void *sim_world_new(size_t size)
{
  void *p = calloc(1, size);
  CHI_ASSERT(p);
  return p;
}

CHI_PRIVATE void sim_world_stream(const struct sim_world *world, struct rng *rng, uint32_t node,
                                  uint64_t purpose)
{
  rng_seed(rng, world->seed, node, purpose);
}

CHI_PRIVATE void sim_world_trace(struct sim_world *world, uint32_t node, int kind, uint64_t a,
                                 uint64_t b, uint64_t c, const char *text)
{
  const struct sim_trace_event event = {world->now, node, kind, a, b, c, text};
  sim_trace_event(&world->trace, &event);
}

CHI_PRIVATE void sim_world_fail(struct sim_world *world, uint32_t node,
                                enum sim_world_failure what, const char *fmt, ...)
{
  char text[sizeof(world->failure)];
  va_list args;
  va_start(args, fmt);
  vsnprintf(text, sizeof(text), fmt, args);
  va_end(args);
  sim_trace_text(&world->trace, world->now, node, text);
  if (world->failure[0])
    return;
  memcpy(world->failure, text, sizeof(text));
  world->failed = what;
}

CHI_PRIVATE uint64_t sim_world_about(struct rng *rng, uint64_t ns)
{
  return ns + rng_below(rng, ns / 4 + 1);
}

/* ---- events ------------------------------------------------------------------------------- */

CHI_PRIVATE void sim_world_at(struct sim_world *world, struct sim_world_event *event, uint64_t time)
{
  CHI_ASSERT(time >= world->now && event->run);
  sim_world_cancel(world, event);
  event->entry.time = time;
  event->entry.seq = rng_next(&world->order) << 48 | world->sequence++;
  if (heap_push(&world->heap, &event->entry) != CHI_OK)
    CHI_ASSERT(!"memory for the event heap");
}

CHI_PRIVATE void sim_world_cancel(struct sim_world *world, struct sim_world_event *event)
{
  if (heap_contains(&world->heap, &event->entry))
    heap_remove(&world->heap, &event->entry);
}

CHI_PRIVATE bool sim_world_next(struct sim_world *world, uint64_t limit)
{
  const struct heap_entry *top = heap_top(&world->heap);
  struct sim_world_event *event;
  CHI_ASSERT(!world->running);
  if (!top || top->time > limit) {
    if (world->now < limit && limit != SIM_WORLD_NEVER)
      world->now = limit;
    return false;
  }
  event = CHI_CONTAINER_OF(heap_pop(&world->heap), struct sim_world_event, entry);
  if (CHI_UNLIKELY(world->heap.room / 8 > SIM_WORLD_ROOM + world->heap.count))
    heap_shrink(&world->heap, SIM_WORLD_ROOM);
  CHI_ASSERT(event->entry.time >= world->now);
  world->now = event->entry.time;
  event->run(event);
  return true;
}

#undef SIM_WORLD_ROOM
