/* sim_device.c - P5: what file devices have acknowledged, and whether it is there. */
#include "sim_device.h"
#include "sim_world.h"

#include <stdio.h>
#include <stdlib.h>

/* Disjoint pieces, in order. */
struct sim_device_set {
  struct sim_device_piece {
    uint64_t from, to;
  } *piece;
  uint32_t count, room;
};

/* A sync under way: what it has to cover. */
struct sim_device_sync {
  uint64_t number, mark;
};

struct sim_device {
  struct sim_device *next;
  uint32_t node;
  uint64_t id;                     /* hash of its path */
  struct sim_device_set must, has; /* acknowledged; found when it was opened */
  struct sim_device_sync *sync;
  uint32_t syncs, sync_room;
};

/* ---- sets --------------------------------------------------------------------------------- */

static void sim_device_insert(struct sim_device_set *s, uint32_t at, uint64_t from, uint64_t to)
{
  if (s->count == s->room) {
    s->room = s->room ? s->room * 2 : 16;
    s->piece = realloc(s->piece, s->room * sizeof(*s->piece));
    CHI_ASSERT(s->piece);
  }
  memmove(&s->piece[at + 1], &s->piece[at], (s->count - at) * sizeof(*s->piece));
  s->piece[at] = (struct sim_device_piece){from, to};
  s->count++;
}

/* The first piece that ends behind `from`. */
static uint32_t sim_device_find(const struct sim_device_set *s, uint64_t from)
{
  uint32_t at = 0;
  while (at < s->count && s->piece[at].to <= from)
    at++;
  return at;
}

static void sim_device_drop(struct sim_device_set *s, uint64_t from, uint64_t to)
{
  uint32_t at = sim_device_find(s, from);
  while (at < s->count && s->piece[at].from < to) {
    const struct sim_device_piece was = s->piece[at];
    s->count--;
    memmove(&s->piece[at], &s->piece[at + 1], (s->count - at) * sizeof(*s->piece));
    if (was.from < from)
      sim_device_insert(s, at++, was.from, from);
    if (was.to > to)
      sim_device_insert(s, at++, to, was.to);
  }
}

static void sim_device_add(struct sim_device_set *s, uint64_t from, uint64_t to)
{
  sim_device_drop(s, from, to);
  sim_device_insert(s, sim_device_find(s, from), from, to);
}

/* The first place of `part` that is not in `all`; UINT64_MAX: there is none. */
static uint64_t sim_device_missing(const struct sim_device_set *all,
                                   const struct sim_device_set *part)
{
  for (uint32_t i = 0; i < part->count; i++) {
    uint64_t from = part->piece[i].from;
    uint32_t at = sim_device_find(all, from);
    for (; at < all->count && all->piece[at].from <= from && from < part->piece[i].to; at++)
      from = all->piece[at].to;
    if (from < part->piece[i].to)
      return from;
  }
  return UINT64_MAX;
}

/* ---- events ------------------------------------------------------------------------------- */

static struct sim_device *sim_device_of(struct sim_device **devices, uint32_t node, uint64_t id)
{
  struct sim_device *d = *devices;
  while (d && (d->node != node || d->id != id))
    d = d->next;
  if (d)
    return d;
  d = sim_world_new(sizeof(*d));
  d->node = node;
  d->id = id;
  d->next = *devices;
  *devices = d;
  return d;
}

static void sim_device_sync_begins(struct sim_device *d, uint64_t number, uint64_t mark)
{
  if (d->syncs == d->sync_room) {
    d->sync_room = d->sync_room ? d->sync_room * 2 : 8;
    d->sync = realloc(d->sync, d->sync_room * sizeof(*d->sync));
    CHI_ASSERT(d->sync);
  }
  d->sync[d->syncs++] = (struct sim_device_sync){number, mark};
}

static bool sim_device_sync_ends(struct sim_device *d, uint64_t number, bool good,
                                 const struct sim_disk *disk, char *why, size_t size)
{
  uint32_t at = 0;
  while (at < d->syncs && d->sync[at].number != number)
    at++;
  if (at == d->syncs)
    return true;
  uint64_t mark = d->sync[at].mark;
  d->sync[at] = d->sync[--d->syncs];
  if (!good || sim_disk_is_safe(disk, d->id, mark))
    return true;
  snprintf(why, size, "a device of node %u acknowledges a sync, and what was written is not safe",
           d->node);
  return false;
}

/* All that it has found is known. */
static bool sim_device_opened(struct sim_device *d, char *why, size_t size)
{
  uint64_t missing = sim_device_missing(&d->has, &d->must);
  if (missing == UINT64_MAX)
    return true;
  snprintf(why, size, "a device of node %u is opened, and what it allocated at %llu is not there",
           d->node, (unsigned long long)missing);
  return false;
}

CHI_PRIVATE bool sim_device_event(struct sim_device **devices, const struct sim_trace_event *e,
                                  const struct sim_disk *disk, char *why, size_t size)
{
  struct sim_device *d = sim_device_of(devices, e->node, e->a >> ENV_DEVICE_BITS);
  switch (e->a & ((1u << ENV_DEVICE_BITS) - 1)) {
  case ENV_DEVICE_OPENS: /* nothing of an earlier life is under way any more */
    d->has.count = d->syncs = 0;
    return true;
  case ENV_DEVICE_HAS:
    sim_device_add(&d->has, e->b, e->b + e->c);
    return true;
  case ENV_DEVICE_OPENED:
    return sim_device_opened(d, why, size);
  case ENV_DEVICE_ALLOCATED:
    sim_device_add(&d->must, e->b, e->b + e->c);
    return true;
  case ENV_DEVICE_FREES:
    sim_device_drop(&d->must, e->b, e->b + e->c);
    return true;
  case ENV_DEVICE_SYNCS:
    sim_device_sync_begins(d, e->b, sim_disk_mark(disk));
    return true;
  default:
    return sim_device_sync_ends(d, e->b, e->c == 0, disk, why, size);
  }
}

CHI_PRIVATE void sim_device_free(struct sim_device **devices)
{
  while (*devices) {
    struct sim_device *d = *devices;
    *devices = d->next;
    free(d->must.piece);
    free(d->has.piece);
    free(d->sync);
    free(d);
  }
}
