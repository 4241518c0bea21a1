/* test_queue.c - a queue is freed when its last task has ended, not before, and then at once. */
#include "board.h"
#include "explore.h"
#include "queue.h"
#include "test.h"

enum { DAEMON, CLIENT };

#define QUEUE_DEPTH 16u

struct ending {
  struct env env;
  struct queue queue;
  struct lane_desk desk;
  struct board board;
  uint64_t ended[2][CHI_CACHE_LINE / sizeof(uint64_t)];
  uint32_t tag[QUEUE_DEPTH];
  struct explore_bell bell;
  struct lane_done_out out;
  uint32_t popped, hangup, freed;
};
static struct ending ending;

static void ending_ring(struct env *env, env_bell bell)
{
  (void)env, (void)bell;
  if (ending.freed)
    explore_fail("a bell is rung that is closed");
  explore_ring(&ending.bell);
}

/* Two tasks have been taken, and the queue is closed. */
static void ending_begin(void *world)
{
  struct ending *e = world;
  memset(e, 0, sizeof *e);
  e->env.bell_ring = ending_ring;
  e->queue = (struct queue){.env = &e->env,
                            .depth = QUEUE_DEPTH,
                            .desk = &e->desk,
                            .board = board_of(&e->board),
                            .ended = e->ended[0],
                            .tag = e->tag,
                            .workers = 2};
  e->queue.lane[LANE_FAST].in.head = 1;
  e->queue.lane[LANE_SLOW].in.head = 1;
  lane_done_in_init(&e->queue.done, e->queue.board, QUEUE_DEPTH);
  lane_done_out_init(&e->out, e->queue.board, QUEUE_DEPTH);
}

static void ending_worker(void *world)
{
  struct ending *e = world;
  queue_complete(&e->queue, explore_self(), explore_self(), CHI_OK);
}

/* As session_tend does it. */
static void ending_network(void *world)
{
  struct ending *e = world;
  mark_set(&e->queue.gone, 1);
  while (queue_in_flight(&e->queue) != 0)
    atomic_pause();
  e->freed = 1;
  memset(&e->queue, 0xdd, sizeof e->queue);
}

/* Its mapping of the board stays when the daemon closes its own. */
static void ending_client(void *world)
{
  struct ending *e = world;
  struct lane_done d;
  bell_announce(&e->desk.client);
  if (!lane_done_ready(&e->out))
    explore_park(&e->bell, &e->freed);
  bell_withdraw(&e->desk.client);
  while (lane_done_pop(&e->out, &d)) {
    EXPLORE_CHECK(d.slot < 2 && d.rc == CHI_OK);
    e->popped++;
  }
}

static bool ending_dead(const void *p)
{
  return ending.freed && (uintptr_t)p - (uintptr_t)&ending.queue < sizeof ending.queue;
}

static void ending_end(void *world)
{
  const struct ending *e = world;
  EXPLORE_CHECK(e->freed);
  EXPLORE_CHECK(e->ended[0][0] == 1 && e->ended[1][0] == 1 && e->popped <= 2);
}

TEST(interleave_queue_ends)
{
  const struct explore e = {
      .name = "queue, end",
      .world = &ending,
      .begin = ending_begin,
      .end = ending_end,
      .dead = ending_dead,
      .preemptions = 3,
      .kill_preemptions = 1,
      .victims = 1u << CLIENT,
      .count = 4,
      .party = {{"worker", ending_worker, DAEMON},
                {"worker 2", ending_worker, DAEMON},
                {"network", ending_network, DAEMON},
                {"client", ending_client, CLIENT}},
  };
  CHECK(explore(&e));
}

/* ---- cancellations of a slot's tasks, old and new */

struct slotting {
  struct queue queue;
  uint32_t tag[1];
  struct latch latch[2]; /* of the lanes the two tasks came through */
  uint32_t ended;        /* the first task has: the client may use its slot again */
  uint32_t early, late, held;
};

static void slotting_begin(void *world)
{
  struct slotting *s = world;
  memset(s, 0, sizeof *s);
  s->queue = (struct queue){.depth = 1, .tag = s->tag};
  queue_hold(&s->queue, 0, 5);
}

/* A cancellation of the first task that comes late. */
static void slotting_stale(void *world)
{
  struct slotting *s = world;
  s->early = queue_cancel(&s->queue, 0, 5);
}

/* The slot's second task, and its cancellation from another worker. */
static void slotting_holder(void *world)
{
  struct slotting *s = world;
  latch_lock(&s->latch[1]);
  queue_hold(&s->queue, 0, 6);
  s->held = 1;
  latch_unlock(&s->latch[1]);
}

static void slotting_canceller(void *world)
{
  struct slotting *s = world;
  latch_lock(&s->latch[1]);
  bool held = s->held;
  latch_unlock(&s->latch[1]);
  if (held)
    s->late = 1 + queue_cancel(&s->queue, 0, 6);
}

static void slotting_end(void *world)
{
  const struct slotting *s = world;
  EXPLORE_CHECK(s->late != 1);
  EXPLORE_CHECK(queue_cancelled(&s->queue, 0, 6) == (s->late == 2));
  EXPLORE_CHECK(queue_cancelled(&s->queue, 0, 5));
}

TEST(interleave_queue_cancellations_of_a_slot)
{
  static struct slotting s;
  const struct explore e = {
      .name = "queue, cancellations",
      .world = &s,
      .begin = slotting_begin,
      .end = slotting_end,
      .preemptions = 3,
      .count = 3,
      .party = {{"stale", slotting_stale, DAEMON},
                {"holder", slotting_holder, DAEMON},
                {"canceller", slotting_canceller, DAEMON}},
  };
  CHECK(explore(&e));
}
