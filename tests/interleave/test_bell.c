/* test_bell.c - nobody sleeps while there is something to do for it. */
#include "board.h"
#include "bell.h"
#include "explore.h"
#include "test.h"

enum { DAEMON, CLIENT, OTHER_CLIENT };

/* ---- clients submit, a worker sleeps */

#define BELL_LANES 2
#define BELL_PUTS 2u

struct submitting {
  struct bell_word word;
  struct explore_bell bell;
  struct lane_desk desk[BELL_LANES];
  struct board board[BELL_LANES];
  struct lane_out out[BELL_LANES];
  struct lane_in in[BELL_LANES];
  uint32_t rung[BELL_LANES];
  uint32_t taken[BELL_LANES], put[BELL_LANES];
};

static void submitting_begin(void *world)
{
  struct submitting *s = world;
  memset(s, 0, sizeof *s);
  for (uint32_t i = 0; i < BELL_LANES; i++) {
    lane_out_init(&s->out[i], &s->desk[i], board_of(&s->board[i]), LANE_FAST);
    lane_in_init(&s->in[i], &s->desk[i], board_of(&s->board[i]), LANE_FAST);
  }
}

static void submitting_client(struct submitting *s, uint32_t i, uint32_t count)
{
  for (uint32_t n = 0; n < count; n++) {
    bool put = lane_put(&s->out[i], LANE_RUN, 8 * (n + 1), n);
    EXPLORE_CHECK(put);
    s->put[i]++;
    if (bell_wanted(&s->word, &s->rung[i]))
      explore_ring(&s->bell);
  }
}

static void submitting_first(void *world)
{
  submitting_client(world, 0, BELL_PUTS);
}

static void submitting_second(void *world)
{
  submitting_client(world, 1, 1);
}

static bool submitting_take(struct submitting *s)
{
  bool any = false;
  for (uint32_t i = 0; i < BELL_LANES; i++) {
    struct lane_entry e = {0};
    enum lane_op op = LANE_CANCEL;
    if (!lane_take(&s->in[i], &e, &op))
      continue;
    if (e.ref != 8 * (s->taken[i] + 1) || e.slot != s->taken[i] || op != LANE_RUN)
      explore_fail("an entry that nobody put");
    s->taken[i]++;
    any = true;
  }
  return any;
}

static void submitting_worker(void *world)
{
  struct submitting *s = world;
  for (;;) {
    while (submitting_take(s))
      ;
    bell_announce(&s->word);
    if (!lane_ready(&s->in[0]) && !lane_ready(&s->in[1]))
      explore_park(&s->bell, NULL);
    bell_withdraw(&s->word);
  }
}

static void submitting_end(void *world)
{
  const struct submitting *s = world;
  if (explore_state(0) == EXPLORE_KILLED)
    return;
  for (uint32_t i = 0; i < BELL_LANES; i++) {
    bool killed = explore_state(1 + i) == EXPLORE_KILLED;
    uint32_t want = i == 0 ? BELL_PUTS : 1;
    EXPLORE_CHECK(killed || s->put[i] == want);
    /* The one that was being put may have arrived, but a dead client rings nobody. */
    EXPLORE_CHECK(killed || s->taken[i] == want);
    EXPLORE_CHECK(s->taken[i] <= s->put[i] + 1);
  }
}

TEST(interleave_bell_two_submit_one_sleeps)
{
  static struct submitting s;
  const struct explore e = {
      .name = "bell, submission",
      .world = &s,
      .begin = submitting_begin,
      .end = submitting_end,
      .preemptions = 3,
      .kill_preemptions = 1,
      .victims = 1u << DAEMON | 1u << CLIENT | 1u << OTHER_CLIENT,
      .count = 3,
      .party = {{"worker", submitting_worker, DAEMON},
                {"client", submitting_first, CLIENT},
                {"client 2", submitting_second, OTHER_CLIENT}},
  };
  CHECK(explore(&e));
}

/* ---- workers complete, a client sleeps */

#define BELL_DEPTH 16u

struct completing {
  struct bell_word word;
  struct explore_bell bell;
  struct board board;
  struct lane_done_in in;
  struct lane_done_out out;
  uint32_t rung, hangup;
  uint32_t popped, seen; /* seen: a bit for each slot */
};

static void completing_begin(void *world)
{
  struct completing *c = world;
  memset(c, 0, sizeof *c);
  CHI_ASSERT(lane_done_room(BELL_DEPTH) == BELL_DEPTH);
  lane_done_in_init(&c->in, board_of(&c->board), BELL_DEPTH);
  lane_done_out_init(&c->out, board_of(&c->board), BELL_DEPTH);
}

static void completing_push(struct completing *c, uint32_t slot)
{
  lane_done_push(&c->in, slot, (int32_t)slot + 100);
  if (bell_wanted(&c->word, &c->rung))
    explore_ring(&c->bell);
}

static void completing_first(void *world)
{
  completing_push(world, 0);
  completing_push(world, 1);
}

static void completing_second(void *world)
{
  completing_push(world, 2);
}

static void completing_pop(struct completing *c)
{
  struct lane_done d;
  while (lane_done_pop(&c->out, &d)) {
    EXPLORE_CHECK(d.slot < 3 && d.rc == (int32_t)d.slot + 100 && !(c->seen >> d.slot & 1));
    c->seen |= 1u << d.slot;
    c->popped++;
  }
}

static void completing_client(void *world)
{
  struct completing *c = world;
  for (completing_pop(c); c->popped < 3 && !c->hangup; completing_pop(c)) {
    bell_announce(&c->word);
    if (!lane_done_ready(&c->out))
      explore_park(&c->bell, &c->hangup);
    bell_withdraw(&c->word);
  }
}

static void completing_killed(void *world, uint32_t group)
{
  struct completing *c = world;
  if (group == DAEMON)
    c->hangup = 1;
}

static void completing_end(void *world)
{
  const struct completing *c = world;
  bool client = explore_state(0) != EXPLORE_KILLED, daemon = !c->hangup;
  EXPLORE_CHECK(!client || explore_state(0) == EXPLORE_DONE);
  EXPLORE_CHECK(!client || !daemon || c->popped == 3);
  EXPLORE_CHECK(!daemon || explore_state(1) == EXPLORE_DONE);
  EXPLORE_CHECK(!daemon || explore_state(2) == EXPLORE_DONE);
}

TEST(interleave_bell_two_complete_one_sleeps)
{
  static struct completing c;
  const struct explore e = {
      .name = "bell, completion",
      .world = &c,
      .begin = completing_begin,
      .end = completing_end,
      .killed = completing_killed,
      .preemptions = 3,
      .kill_preemptions = 1,
      .victims = 1u << DAEMON | 1u << CLIENT,
      .count = 3,
      .party = {{"client", completing_client, CLIENT},
                {"worker", completing_first, DAEMON},
                {"worker 2", completing_second, DAEMON}},
  };
  CHECK(explore(&e));
}
