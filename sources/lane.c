/* lane.c - submission and completion rings in memory shared between a client and the daemon. */
#include "lane.h"

#define LANE_AHEAD 8u /* entries between the one written and the one whose line is fetched */

/* Laps count from 1, so that zeroed memory holds no entry; with the index wrapping at 2^32 a lap
 * number comes again only after every entry has been rewritten. */
static uint32_t lane_turn(uint32_t index, enum lane_op op)
{
  return ((index / LANE_ENTRIES + 1) << 1) | (uint32_t)op;
}

static uint32_t lane_shift(uint32_t depth)
{
  uint32_t shift = 4;
  while ((1u << shift) < depth)
    shift++;
  return shift;
}

uint32_t lane_done_room(uint32_t depth)
{
  return 1u << lane_shift(depth);
}

uint64_t lane_board_size(uint32_t depth)
{
  return sizeof(struct lane_board) + (uint64_t)lane_done_room(depth) * sizeof(struct lane_done);
}

void lane_out_init(struct lane_out *o, struct lane_desk *desk, const struct lane_board *board,
                   enum lane_kind kind)
{
  CHI_ASSERT(kind < LANE_KINDS);
  *o = (struct lane_out){.entry = desk->entry[kind], .taken = &board->taken[kind].value};
}

/* The entry to be written next, or NULL: full. */
static inline struct lane_entry *lane_vacant(struct lane_out *o)
{
  if (o->tail - o->taken_seen >= LANE_ENTRIES) {
    o->taken_seen = atomic_get_acquire(o->taken);
    if (o->tail - o->taken_seen >= LANE_ENTRIES)
      return NULL;
  }
  CHI_FETCH_TO_WRITE(&o->entry[(o->tail + LANE_AHEAD) % LANE_ENTRIES]);
  return &o->entry[o->tail % LANE_ENTRIES];
}

static inline void lane_publish(struct lane_out *o, struct lane_entry *e, enum lane_op op,
                                uint64_t ref, uint32_t slot)
{
  atomic_set(&e->ref, ref);
  atomic_set(&e->slot, slot);
  atomic_set_release(&e->turn, lane_turn(o->tail, op));
  o->tail++;
}

bool lane_put(struct lane_out *o, enum lane_op op, uint64_t ref, uint32_t slot)
{
  struct lane_entry *e = lane_vacant(o);
  if (!e)
    return false;
  atomic_set(&e->brief, 0);
  lane_publish(o, e, op, ref, slot);
  return true;
}

bool lane_put_brief(struct lane_out *o, uint64_t ref, uint32_t slot, uint64_t pool,
                    uint32_t method)
{
  struct lane_entry *e = lane_vacant(o);
  if (!e)
    return false;
  atomic_set(&e->pool, pool);
  atomic_set(&e->method, method);
  atomic_set(&e->brief, 1);
  lane_publish(o, e, LANE_RUN, ref, slot);
  return true;
}

static uint32_t lane_tag_of(uint32_t index, uint32_t kind)
{
  return index << 2 | (kind + 1);
}

uint32_t lane_tag(const struct lane_out *o, enum lane_kind kind)
{
  return lane_tag_of(o->tail - 1, (uint32_t)kind);
}

uint32_t lane_home(const struct lane_board *board, enum lane_kind kind)
{
  atomic_fence();
  return atomic_get_acquire(&board->home[kind]);
}

void lane_done_out_init(struct lane_done_out *o, const struct lane_board *board, uint32_t depth)
{
  uint32_t shift = lane_shift(depth);
  *o = (struct lane_done_out){.ring = board->done, .mask = (1u << shift) - 1, .shift = shift};
}

bool lane_done_ready(const struct lane_done_out *o)
{
  return atomic_get_acquire(&o->ring[o->head & o->mask].turn) == (o->head >> o->shift) + 1;
}

bool lane_done_pop(struct lane_done_out *o, struct lane_done *out)
{
  if (!lane_done_ready(o))
    return false;
  const struct lane_done *d = &o->ring[o->head & o->mask];
  CHI_FETCH(&o->ring[(o->head + 2 * LANE_AHEAD) & o->mask]);
  *out = (struct lane_done){.slot = atomic_get(&d->slot), .rc = atomic_get(&d->rc)};
  o->head++;
  return true;
}

void lane_in_init(struct lane_in *in, struct lane_desk *desk, struct lane_board *board,
                  enum lane_kind kind)
{
  CHI_ASSERT(kind < LANE_KINDS);
  *in = (struct lane_in){.entry = desk->entry[kind],
                         .taken = &board->taken[kind].value,
                         .kind = (uint32_t)kind};
}

bool lane_ready(const struct lane_in *in)
{
  uint32_t head = atomic_get(&in->head);
  uint32_t turn = atomic_get(&in->entry[head % LANE_ENTRIES].turn);
  return turn >> 1 == lane_turn(head, LANE_RUN) >> 1;
}

uint64_t lane_ahead(const struct lane_in *in, uint32_t ahead)
{
  uint32_t at = atomic_get(&in->head) + ahead;
  const struct lane_entry *e = &in->entry[at % LANE_ENTRIES];
  return atomic_get(&e->turn) == lane_turn(at, LANE_RUN) ? atomic_get(&e->ref) : 0;
}

bool lane_take(struct lane_in *in, struct lane_entry *out, enum lane_op *op)
{
  uint32_t head = in->head;
  struct lane_entry *e = &in->entry[head % LANE_ENTRIES];
  uint32_t turn = atomic_get_acquire(&e->turn);
  if (turn >> 1 != lane_turn(head, LANE_RUN) >> 1)
    return false;
  *out = (struct lane_entry){.ref = atomic_get(&e->ref),
                             .pool = atomic_get(&e->pool),
                             .method = atomic_get(&e->method),
                             .brief = atomic_get(&e->brief),
                             .slot = atomic_get(&e->slot),
                             .turn = lane_tag_of(head, in->kind)};
  *op = (enum lane_op)(turn & 1);
  atomic_set(&in->head, head + 1);
  atomic_set_release(in->taken, head + 1);
  return true;
}

void lane_done_in_init(struct lane_done_in *in, struct lane_board *board, uint32_t depth)
{
  uint32_t shift = lane_shift(depth);
  *in = (struct lane_done_in){.ring = board->done, .mask = (1u << shift) - 1, .shift = shift};
}

void lane_done_push(struct lane_done_in *in, uint32_t slot, int32_t rc)
{
  uint32_t index = atomic_add(&in->tail, 1);
  struct lane_done *d = &in->ring[index & in->mask];
  CHI_FETCH_TO_WRITE(&in->ring[(index + LANE_AHEAD) & in->mask]);
  atomic_set(&d->slot, slot);
  atomic_set(&d->rc, rc);
  atomic_set_release(&d->turn, (index >> in->shift) + 1);
}

#undef LANE_AHEAD
