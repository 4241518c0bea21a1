/* test_lane.c - entries of a lane and completions: none lost, doubled or out of order. */
#include "board.h"
#include "explore.h"
#include "lane.h"
#include "ring.h"
#include "test.h"

enum { DAEMON, CLIENT };

/* ---- a full lane that wraps, taken by its home and by its heir */

#define LANE_PUTS (LANE_ENTRIES + 1)

struct taking {
  struct lane_desk desk;
  struct board board;
  struct lane_out out;
  struct latch latch;
  uint32_t home;
  struct lane_in in;
  uint32_t put, taken, gone; /* gone: a bit for each process */
};

static bool taking_put(struct taking *t)
{
  enum lane_op op = t->put % 2 ? LANE_CANCEL : LANE_RUN;
  bool put = lane_put(&t->out, op, 8ull * t->put, t->put);
  t->put += put;
  return put;
}

/* The lane is full, and its index about to wrap. */
static void taking_begin(void *world)
{
  struct taking *t = world;
  memset(t, 0, sizeof *t);
  lane_out_init(&t->out, &t->desk, board_of(&t->board), LANE_SLOW);
  lane_in_init(&t->in, &t->desk, board_of(&t->board), LANE_SLOW);
  t->out.tail = t->out.taken_seen = t->in.head = UINT32_MAX;
  board_of(&t->board)->taken[LANE_SLOW].value = UINT32_MAX;
  while (t->put < LANE_ENTRIES)
    taking_put(t);
}

static void taking_client(void *world)
{
  struct taking *t = world;
  while (t->put < LANE_PUTS && !t->gone)
    if (!taking_put(t) && !t->gone)
      atomic_pause();
}

/* As worker_accept does it. */
static bool taking_take(struct taking *t, uint32_t self)
{
  struct lane_entry e = {0};
  enum lane_op op = LANE_RUN;
  if (atomic_get(&t->home) != self || !lane_ready(&t->in) || !latch_try(&t->latch))
    return false;
  bool taken = atomic_get(&t->home) == self && lane_take(&t->in, &e, &op);
  if (taken) {
    if (e.ref != 8ull * t->taken || e.slot != t->taken || op != (enum lane_op)(t->taken % 2))
      explore_fail("entry %u came as %u", t->taken, e.slot);
    t->taken++;
  }
  latch_unlock(&t->latch);
  return taken;
}

static void taking_worker(void *world)
{
  struct taking *t = world;
  while (t->taken < LANE_PUTS) {
    uint32_t gone = t->gone;
    if (taking_take(t, explore_self()) || t->taken == LANE_PUTS)
      continue;
    if (gone)
      break;
    if (!t->gone)
      atomic_pause();
  }
}

/* As worker_home does it. */
static void taking_heir(void *world)
{
  struct taking *t = world;
  latch_lock(&t->latch);
  atomic_set(&t->home, 1);
  latch_unlock(&t->latch);
  taking_worker(world);
}

static void taking_killed(void *world, uint32_t group)
{
  struct taking *t = world;
  t->gone = 1u << group;
}

static void taking_end(void *world)
{
  struct taking *t = world;
  EXPLORE_CHECK(t->taken <= t->put + 1);
  if (t->gone == 1u << CLIENT)
    EXPLORE_CHECK(t->taken >= t->put);
  if (t->gone)
    return;
  EXPLORE_CHECK(t->put == LANE_PUTS && t->taken == LANE_PUTS);
  EXPLORE_CHECK(board_of(&t->board)->taken[LANE_SLOW].value == (uint32_t)(LANE_PUTS - 1));
}

TEST(interleave_lane_wraps_between_two_takers)
{
  static struct taking t;
  const struct explore e = {
      .name = "lane, two takers",
      .world = &t,
      .begin = taking_begin,
      .end = taking_end,
      .killed = taking_killed,
      .preemptions = 3,
      .kill_preemptions = 1,
      .victims = 1u << DAEMON | 1u << CLIENT,
      .count = 3,
      .party = {{"home", taking_worker, DAEMON},
                {"heir", taking_heir, DAEMON},
                {"client", taking_client, CLIENT}},
  };
  CHECK(explore(&e));
}

/* ---- a completion ring that is full and wraps */

#define LANE_DEPTH 16u
#define LANE_LAST 2u /* tasks that go round while the ring is full */

struct circling {
  struct lane_desk desk;
  struct board board;
  struct latch latch;
  struct lane_out out;
  struct lane_in in;
  struct lane_done_in done_in;
  struct lane_done_out done_out;
  uint32_t put, killed;
  uint32_t popped[LANE_DEPTH + LANE_LAST], count;
};

/* All but two of the completions that fit have come and were not looked at. */
static void circling_begin(void *world)
{
  struct circling *c = world;
  memset(c, 0, sizeof *c);
  lane_out_init(&c->out, &c->desk, board_of(&c->board), LANE_FAST);
  lane_in_init(&c->in, &c->desk, board_of(&c->board), LANE_FAST);
  lane_done_in_init(&c->done_in, board_of(&c->board), LANE_DEPTH);
  lane_done_out_init(&c->done_out, board_of(&c->board), LANE_DEPTH);
  for (uint32_t i = 0; i < LANE_DEPTH - 2; i++)
    lane_done_push(&c->done_in, i, -(int32_t)i);
  for (c->put = LANE_DEPTH - 2; c->put < LANE_DEPTH; c->put++)
    lane_put(&c->out, LANE_RUN, 8, c->put);
}

static void circling_worker(void *world)
{
  struct circling *c = world;
  for (int i = 0; i < 2; i++) {
    struct lane_entry e = {0};
    enum lane_op op = LANE_RUN;
    latch_lock(&c->latch);
    bool taken = lane_take(&c->in, &e, &op);
    latch_unlock(&c->latch);
    if (taken)
      lane_done_push(&c->done_in, e.slot, -(int32_t)e.slot);
  }
}

/* Submits another whenever one has come back. */
static void circling_pop(struct circling *c, uint32_t most)
{
  struct lane_done d;
  while (most-- > 0 && lane_done_pop(&c->done_out, &d)) {
    EXPLORE_CHECK(d.slot < LANE_DEPTH + LANE_LAST && d.rc == -(int32_t)d.slot);
    EXPLORE_CHECK(c->popped[d.slot] == 0);
    c->popped[d.slot] = 1;
    c->count++;
    if (c->put < LANE_DEPTH + LANE_LAST && lane_put(&c->out, LANE_RUN, 8, c->put))
      c->put++;
  }
}

static void circling_client(void *world)
{
  circling_pop(world, LANE_LAST);
}

static void circling_killed(void *world, uint32_t group)
{
  struct circling *c = world;
  c->killed |= 1u << group;
}

static void circling_end(void *world)
{
  struct circling *c = world;
  circling_pop(c, LANE_DEPTH);
  if (c->killed)
    return;
  for (uint32_t i = 0; i < LANE_DEPTH - 2; i++)
    EXPLORE_CHECK(c->popped[i] == 1);
  EXPLORE_CHECK(c->count == c->done_in.tail);
  EXPLORE_CHECK(c->in.head == c->done_in.tail - (LANE_DEPTH - 2));
}

TEST(interleave_completions_wrap)
{
  static struct circling c;
  const struct explore e = {
      .name = "completions, two workers",
      .world = &c,
      .begin = circling_begin,
      .end = circling_end,
      .killed = circling_killed,
      .preemptions = 3,
      .kill_preemptions = 1,
      .victims = 1u << DAEMON | 1u << CLIENT,
      .count = 3,
      .party = {{"worker", circling_worker, DAEMON},
                {"worker 2", circling_worker, DAEMON},
                {"client", circling_client, CLIENT}},
  };
  CHECK(explore(&e));
}
