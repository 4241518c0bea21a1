/* test_node.c - the whole way of a task through a node, in every order that matters. */
#include "stage.h"
#include "test.h"

/* What clients saw, set back before each run. */
static struct {
  uint32_t good;     /* tasks that came back with CHI_OK */
  uint32_t cancelled; /* with CHI_ECANCELLED */
  bool closed;
} node;

static void node_begin(void *world)
{
  stage_begin(world);
  memset(&node, 0, sizeof node);
}

/* Runs a task of a client's party and counts it; only a dead daemon excuses a failure. */
static void node_run(uint32_t queue, chi_pool_id pool, enum stage_what what)
{
  chi_queue *q = stage_facts()->queue[queue];
  struct stage_do *t = stage_task(queue, pool, what);
  if (!t)
    return;
  int rc = chi_run(q, t);
  node.good += rc == CHI_OK;
  if (rc != CHI_OK && !(stage_facts()->hangup && rc == CHI_ESHUTDOWN))
    explore_fail("a task came back with %s", chi_status_name(rc));
  chi_task_free(q, t);
}

static bool node_lives(uint32_t party)
{
  return explore_state(party) != EXPLORE_KILLED;
}

/* Clients, the first `count` parties, have ended, and what they submitted came back. */
static void node_check(uint32_t count, uint32_t good)
{
  bool lives = true;
  for (uint32_t i = 0; i < count; i++) {
    EXPLORE_CHECK(!node_lives(i) || explore_state(i) == EXPLORE_DONE);
    lives = lives && node_lives(i);
  }
  EXPLORE_CHECK(!lives || stage_facts()->hangup || node.good == good);
  EXPLORE_CHECK(!lives || stage_facts()->hangup || stage_facts()->runs == good);
  if (!stage_facts()->hangup)
    stage_check_idle();
}

static const struct explore node_plan = {
    .begin = node_begin,
    .killed = stage_killed,
    .dead = stage_dead,
    .preemptions = 2,
    .kill_preemptions = 1,
    .victims = 1u << STAGE_DAEMON | 1u << STAGE_CLIENT,
    .hurried = 1u << 0,
};

#define NODE_PARTY(title, body, process) ((struct explore_party){(title), (body), (process)})
#define NODE_FAST NODE_PARTY("fast", stage_fast, STAGE_DAEMON)
#define NODE_FAST_2 NODE_PARTY("fast 2", stage_fast_2, STAGE_DAEMON)
#define NODE_SLOW NODE_PARTY("slow", stage_slow, STAGE_DAEMON)
#define NODE_NETWORK NODE_PARTY("network", stage_network, STAGE_DAEMON)

/* ---- two tasks, one after the other: everybody sleeps in between */

static void node_two_in_turn(void *world)
{
  (void)world;
  for (int i = 0; i < 2 && !stage_facts()->hangup; i++)
    node_run(0, STAGE_POOL, STAGE_NOTHING);
}

static void node_end_two(void *world)
{
  (void)world;
  node_check(1, 2);
}

TEST(interleave_node_round_trip)
{
  struct explore e = node_plan;
  e.name = "node, round trip";
  e.end = node_end_two;
  e.count = 3;
  e.party[0] = NODE_PARTY("client", node_two_in_turn, STAGE_CLIENT);
  e.party[1] = NODE_FAST;
  e.party[2] = NODE_NETWORK;
  CHECK(stage_open(1, NULL));
  CHECK(explore(&e));
}

/* ---- an event loop of one's own */

static void node_armed(void *world)
{
  (void)world;
  chi_queue *q = stage_facts()->queue[0];
  struct stage_do *t[2];
  void *back[2];
  for (int i = 0; i < 2; i++) {
    t[i] = stage_task(0, STAGE_POOL, STAGE_NOTHING);
    if (!t[i] || chi_submit(q, t[i]) != CHI_OK)
      return;
  }
  while (node.good < 2 && !stage_facts()->hangup) {
    if (chi_queue_arm(q) == 0)
      stage_park_client(0);
    int n = chi_reap(q, back, 2);
    for (int i = 0; i < n; i++)
      node.good += ((chi_task *)back[i])->rc == CHI_OK;
  }
}

TEST(interleave_node_armed_queue)
{
  struct explore e = node_plan;
  e.name = "node, armed queue";
  e.end = node_end_two;
  e.count = 2;
  e.party[0] = NODE_PARTY("client", node_armed, STAGE_CLIENT);
  e.party[1] = NODE_FAST;
  CHECK(stage_open(1, NULL));
  CHECK(explore(&e));
}

/* ---- two workers, one container */

static struct stage_do *node_task[2];

/* A task on each of two queues, which have different homes. */
static void node_submit(chi_pool_id pool, enum stage_what first, enum stage_what second)
{
  for (uint32_t i = 0; i < 2; i++) {
    node_task[i] = stage_task(i, pool, i == 0 ? first : second);
    if (!node_task[i] || chi_submit(stage_facts()->queue[i], node_task[i]) != CHI_OK)
      explore_fail("not submitted");
  }
}

static void node_end_both(void *world)
{
  (void)world;
  for (uint32_t i = 0; i < 2; i++) {
    EXPLORE_CHECK(chi_task_done(stage_facts()->queue[i], node_task[i]));
    EXPLORE_CHECK(node_task[i]->task.rc == CHI_OK);
  }
  EXPLORE_CHECK(stage_facts()->runs == 2);
  stage_check_idle();
}

static struct explore node_two_workers(const char *name, void (*begin)(void *))
{
  struct explore e = node_plan;
  e.name = name;
  e.begin = begin;
  e.end = node_end_both;
  e.preemptions = 3;
  e.victims = 0; /* nobody else lives */
  e.hurried = 0;
  e.count = 2;
  e.party[0] = NODE_FAST;
  e.party[1] = NODE_FAST_2;
  return e;
}

static void node_gate_begin(void *world)
{
  stage_begin(world);
  node_submit(STAGE_POOL, STAGE_NOTHING, STAGE_NOTHING);
}

TEST(interleave_node_gate)
{
  struct explore e = node_two_workers("node, one container on two workers", node_gate_begin);
  CHECK(stage_open(2, NULL));
  CHECK(explore(&e));
}

/* In a container that is not parallel, who waits leaves it, and enters again when woken. */
static void node_event_begin(void *world)
{
  stage_begin(world);
  node_submit(STAGE_POOL, STAGE_AWAIT, STAGE_SET);
}

TEST(interleave_node_event)
{
  struct explore e = node_two_workers("node, event", node_event_begin);
  CHECK(stage_open(2, NULL));
  CHECK(explore(&e));
}

static void node_event_parallel_begin(void *world)
{
  stage_begin(world);
  node_submit(STAGE_PARALLEL, STAGE_AWAIT, STAGE_SET);
}

TEST(interleave_node_event_parallel)
{
  struct explore e = node_two_workers("node, event, parallel", node_event_parallel_begin);
  CHECK(stage_open(2, NULL));
  CHECK(explore(&e));
}

static void node_mutex_begin(void *world)
{
  stage_begin(world);
  node_submit(STAGE_PARALLEL, STAGE_LOCK, STAGE_LOCK);
}

TEST(interleave_node_mutex)
{
  struct explore e = node_two_workers("node, mutex", node_mutex_begin);
  CHECK(stage_open(2, NULL));
  CHECK(explore(&e));
}

/* ---- a lane gets another home while it is used */

static void node_mover(void *world)
{
  stage_rehome(0, STAGE_FAST_2);
  stage_network(world);
}

static void node_mover_and_back(void *world)
{
  stage_rehome(0, STAGE_FAST_2);
  stage_rehome(0, STAGE_FAST);
  stage_network(world);
}

static void node_one(void *world)
{
  (void)world;
  node_task[0] = stage_task(0, STAGE_PARALLEL, STAGE_NOTHING);
  node.good += chi_submit(stage_facts()->queue[0], node_task[0]) == CHI_OK;
}

static void node_end_moved(void *world)
{
  (void)world;
  EXPLORE_CHECK(node.good == 1 || !node_lives(0));
  if (node.good == 1 && !stage_facts()->hangup) {
    EXPLORE_CHECK(chi_task_done(stage_facts()->queue[0], node_task[0]));
    EXPLORE_CHECK(stage_facts()->runs == 1);
  }
  if (!stage_facts()->hangup)
    stage_check_idle();
}

static struct explore node_moving(void (*client)(void *), void (*mover)(void *))
{
  struct explore e = node_plan;
  e.end = node_end_moved;
  e.kill_preemptions = 0;
  e.count = 4;
  e.party[0] = NODE_PARTY("client", client, STAGE_CLIENT);
  e.party[1] = NODE_FAST;
  e.party[2] = NODE_FAST_2;
  e.party[3] = NODE_PARTY("network", mover, STAGE_DAEMON);
  return e;
}

TEST(interleave_node_new_home)
{
  struct explore e = node_moving(node_one, node_mover);
  e.name = "node, new home";
  CHECK(stage_open(1, NULL));
  CHECK(explore(&e));
}

TEST(interleave_node_new_home_and_back)
{
  struct explore e = node_moving(node_one, node_mover_and_back);
  e.name = "node, new home and back";
  e.orderly = true;
  CHECK(stage_open(1, NULL));
  CHECK(explore(&e));
}

/* Cancelled, a task that waits ends, wherever its cancellation is read. */
static void node_cancel_begin(void *world)
{
  node_begin(world);
  chi_queue *q = stage_facts()->queue[0];
  node_task[0] = stage_task(0, STAGE_PARALLEL, STAGE_AWAIT);
  if (!node_task[0] || chi_submit(q, node_task[0]) != CHI_OK ||
      chi_cancel(q, node_task[0]) != CHI_OK)
    explore_fail("not submitted and cancelled");
}

static void node_end_cancelled(void *world)
{
  (void)world;
  EXPLORE_CHECK(chi_task_done(stage_facts()->queue[0], node_task[0]));
  EXPLORE_CHECK(node_task[0]->task.rc == CHI_ECANCELLED);
  stage_check_idle();
}

TEST(interleave_node_cancel_in_new_home)
{
  struct explore e = node_plan;
  e.name = "node, cancellation in a new home";
  e.begin = node_cancel_begin;
  e.end = node_end_cancelled;
  e.orderly = true;
  e.victims = 0;
  e.hurried = 0;
  e.count = 3;
  e.party[0] = NODE_FAST;
  e.party[1] = NODE_FAST_2;
  e.party[2] = NODE_PARTY("network", node_mover, STAGE_DAEMON);
  CHECK(stage_open(1, NULL));
  CHECK(explore(&e));
}

/* ---- a worker that is stuck */

/* The task behind the one that sticks is done by another worker. */
static void node_stick(void *world)
{
  (void)world;
  chi_queue *q = stage_facts()->queue[0];
  struct stage_do *t = stage_task(0, STAGE_PARALLEL, STAGE_STICK);
  if (!t || chi_submit(q, t) != CHI_OK)
    return;
  node_run(0, STAGE_PARALLEL, STAGE_NOTHING);
  stage_release();
  node.good += chi_wait(q, t, UINT64_MAX) == CHI_OK;
}

static void node_looks(void *world)
{
  (void)world;
  for (int i = 0; i < 3; i++) {
    stage_quiet();
    stage_tick(20 * STAGE_MS);
  }
}

/* It comes back just when its work is taken away. */
static void node_looks_and_release(void *world)
{
  node_looks(world);
  stage_release();
}

static struct explore node_sticking(void (*client)(void *), void (*clock)(void *))
{
  struct explore e = node_plan;
  e.end = node_end_two;
  e.victims = 0;
  e.orderly = true;
  e.count = 5;
  e.party[0] = NODE_PARTY("client", client, STAGE_CLIENT);
  e.party[1] = NODE_FAST;
  e.party[2] = NODE_FAST_2;
  e.party[3] = NODE_NETWORK;
  e.party[4] = NODE_PARTY("clock", clock, STAGE_CLOCK);
  return e;
}

TEST(interleave_node_take_over)
{
  struct explore e = node_sticking(node_stick, node_looks);
  e.name = "node, take-over";
  CHECK(stage_open(2, NULL));
  CHECK(explore(&e));
}

static void node_stick_patiently(void *world)
{
  (void)world;
  chi_queue *q = stage_facts()->queue[0];
  struct stage_do *t = stage_task(0, STAGE_PARALLEL, STAGE_STICK);
  if (!t || chi_submit(q, t) != CHI_OK)
    return;
  node_run(0, STAGE_PARALLEL, STAGE_NOTHING);
  node.good += chi_wait(q, t, UINT64_MAX) == CHI_OK;
}

TEST(interleave_node_take_over_and_return)
{
  struct explore e = node_sticking(node_stick_patiently, node_looks_and_release);
  e.name = "node, take-over and return";
  CHECK(stage_open(2, NULL));
  CHECK(explore(&e));
}

/* A queue that is opened while its home is stuck is served once the home is back. */
static void node_open_queue(void *world)
{
  (void)world;
  struct stage_facts *f = stage_facts();
  struct stage_do *t = stage_task(0, STAGE_PARALLEL, STAGE_STICK);
  if (!t || chi_submit(f->queue[0], t) != CHI_OK)
    return;
  if (chi_queue_open(f->client, &f->queue[2], NULL) != CHI_OK)
    return;
  node.good += chi_wait(f->queue[0], t, UINT64_MAX) == CHI_OK;
  node_run(2, STAGE_PARALLEL, STAGE_NOTHING);
}

/* It comes back after that many looks; the second that sees it stuck takes its work away. */
static void node_stuck_for(int looks)
{
  for (int i = 0; i < looks; i++) {
    stage_quiet();
    stage_tick(20 * STAGE_MS);
  }
  stage_quiet();
  stage_release();
}

static void node_stuck_for_two(void *world)
{
  (void)world;
  node_stuck_for(2);
}

static void node_stuck_for_three(void *world)
{
  (void)world;
  node_stuck_for(3);
}

TEST(interleave_node_open_where_stuck)
{
  struct explore e = node_sticking(node_open_queue, node_stuck_for_two);
  e.name = "node, queue opened where the worker is stuck";
  CHECK(stage_open(2, NULL));
  CHECK(explore(&e));
}

TEST(interleave_node_open_where_stuck_for_long)
{
  struct explore e = node_sticking(node_open_queue, node_stuck_for_three);
  e.name = "node, queue opened where the worker is stuck for long";
  CHECK(stage_open(2, NULL));
  CHECK(explore(&e));
}

/* ---- who looks after a worker that is awake */

/* The network worker is about to look no more, when the worker wakes up for good. */
static void node_watching_begin(void *world)
{
  node_begin(world);
  stage_watch();
  struct stage_do *t = stage_task(0, STAGE_PARALLEL, STAGE_STICK);
  if (!t || chi_submit(stage_facts()->queue[0], t) != CHI_OK)
    explore_fail("not submitted");
}

static void node_linger(void *world)
{
  (void)world;
  stage_tick(20 * STAGE_MS);
  stage_tick(300 * STAGE_MS);
}

static void node_end_watched(void *world)
{
  (void)world;
  EXPLORE_CHECK(explore_state(0) == EXPLORE_WAITS && stage_is_awake(STAGE_FAST));
  EXPLORE_CHECK(stage_deadline(STAGE_NETWORK) != UINT64_MAX);
}

TEST(interleave_node_watching)
{
  struct explore e = node_plan;
  e.name = "node, watching";
  e.end = node_end_watched;
  e.begin = node_watching_begin;
  e.preemptions = 3;
  e.victims = 0;
  e.hurried = 0;
  e.count = 3;
  e.party[0] = NODE_FAST;
  e.party[1] = NODE_NETWORK;
  e.party[2] = NODE_PARTY("clock", node_linger, STAGE_CLOCK);
  CHECK(stage_open(1, NULL));
  CHECK(explore(&e));
}

/* ---- a pool comes and goes */

/* Workers hear of it one by one; a task for it may be faster than the news. */
static void node_create(void *world)
{
  (void)world;
  chi_queue *q = stage_facts()->queue[0];
  chi_pool_id id = {302, 0};
  int rc = chi_pool_create(q, "stage_parallel", "late", NULL, 0, &id, NULL);
  if (rc == CHI_OK)
    node_run(0, id, STAGE_NOTHING);
  if (rc == CHI_OK)
    rc = chi_pool_destroy(q, id, NULL);
  node.closed = rc == CHI_OK;
}

static void node_time(void *world)
{
  (void)world;
  for (int i = 0; i < 6; i++) {
    stage_quiet();
    stage_tick(10 * STAGE_MS);
  }
}

static void node_end_created(void *world)
{
  (void)world;
  EXPLORE_CHECK(!node_lives(0) || stage_facts()->hangup || node.closed);
  node_check(1, 1);
}

TEST(interleave_node_pool)
{
  struct explore e = node_plan;
  e.name = "node, pool created and destroyed";
  e.end = node_end_created;
  e.preemptions = 1;
  e.kill_preemptions = 0;
  e.orderly = true;
  e.count = 6;
  e.party[0] = NODE_PARTY("client", node_create, STAGE_CLIENT);
  e.party[1] = NODE_FAST;
  e.party[2] = NODE_FAST_2;
  e.party[3] = NODE_SLOW;
  e.party[4] = NODE_NETWORK;
  e.party[5] = NODE_PARTY("clock", node_time, STAGE_CLOCK);
  CHECK(stage_open(1, NULL));
  CHECK(explore(&e));
}

/* ---- the end of the node */

/* A task that comes while the node stops has ended somehow when the node has. */
static void node_submit_to_the_end(void *world)
{
  (void)world;
  chi_queue *q = stage_facts()->queue[0];
  struct stage_do *t = stage_task(0, STAGE_POOL, STAGE_NOTHING);
  if (!t)
    return;
  int rc = chi_run(q, t);
  EXPLORE_CHECK(rc == CHI_OK || rc == CHI_ESHUTDOWN);
}

static void node_stopping(void *world)
{
  stage_stop();
  stage_network(world);
}

static void node_end_stopped(void *world)
{
  (void)world;
  EXPLORE_CHECK(!node_lives(0) || explore_state(0) == EXPLORE_DONE);
  EXPLORE_CHECK(explore_state(3) == EXPLORE_DONE);
  stage_check_idle();
}

TEST(interleave_node_stop)
{
  struct explore e = node_plan;
  e.name = "node, stop";
  e.end = node_end_stopped;
  e.preemptions = 1;
  e.kill_preemptions = 0;
  e.victims = 1u << STAGE_CLIENT;
  e.orderly = true;
  e.count = 6;
  e.party[0] = NODE_PARTY("client", node_submit_to_the_end, STAGE_CLIENT);
  e.party[1] = NODE_FAST;
  e.party[2] = NODE_SLOW;
  e.party[3] = NODE_PARTY("network", node_stopping, STAGE_DAEMON);
  e.party[4] = NODE_PARTY("clock", node_time, STAGE_CLOCK);
  e.party[5] = NODE_FAST_2;
  CHECK(stage_open(1, NULL));
  CHECK(explore(&e));
}

/* ---- the end of a client */

static void node_close(void *world)
{
  (void)world;
  struct stage_facts *f = stage_facts();
  struct stage_do *t = stage_task(0, STAGE_POOL, STAGE_NOTHING);
  if (!t || chi_submit(f->queue[0], t) != CHI_OK)
    return;
  chi_client_close(f->client); /* doesn't wait: the process ends */
  node.closed = true;
}

static void node_tend(void *world)
{
  (void)world;
  for (int i = 0; i < 3; i++) {
    stage_quiet();
    stage_tick(1000 * STAGE_MS);
  }
}

/* What the client held is free, in its own process if it could do so, and in the daemon. */
static void node_end_closed(void *world)
{
  (void)world;
  EXPLORE_CHECK(!node_lives(0) || node.closed);
  if (stage_facts()->hangup)
    return;
  stage_check_idle();
  EXPLORE_CHECK(stage_daemon_segments() == 1); /* the page */
}

TEST(interleave_node_close)
{
  struct explore e = node_plan;
  e.name = "node, end of a client";
  e.orderly = true;
  e.end = node_end_closed;
  e.count = 5;
  e.party[0] = NODE_PARTY("client", node_close, STAGE_CLIENT);
  e.party[1] = NODE_FAST;
  e.party[2] = NODE_SLOW;
  e.party[3] = NODE_NETWORK;
  e.party[4] = NODE_PARTY("clock", node_tend, STAGE_CLOCK);
  CHECK(stage_open(1, NULL));
  CHECK(explore(&e));
}
