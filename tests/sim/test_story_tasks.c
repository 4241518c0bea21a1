/* test_story_tasks.c - what becomes of a task: it runs, waits, is cancelled, comes back. */
#include "tale.h"

#define SEEDS 8

/* ---- a task runs -------------------------------------------------------------------------- */

static void runs(struct tale *s, chi_queue *queue)
{
  (void)s;
  struct story_add *t = STORY_NEW(queue, story_add);
  CHECK(t);
  CHECK_INT(chi_task_done(queue, t), 1);
  for (uint64_t i = 0; i < 100; i++) {
    t->a = i;
    t->b = 1000;
    CHECK_INT(chi_run(queue, t), CHI_OK);
    CHECK_INT(t->sum, i + 1000);
    CHECK_INT(chi_task_done(queue, t), 1);
  }
  CHECK_INT(chi_task_free(queue, t), CHI_OK);
}

TEST(story_task_runs)
{
  tale_tell(runs, "begins task", "completes");
}

static void refused(struct tale *s, chi_queue *queue)
{
  (void)s;
  struct story_code *t = STORY_NEW(queue, story_code);
  CHECK(t);
  t->code = 7;
  CHECK_INT(chi_run(queue, t), 7);
  t->code = -999;
  CHECK_INT(chi_run(queue, t), -999);
  t->code = 0;
  t->task.pool = (chi_pool_id){301, 0};
  CHECK_INT(chi_run(queue, t), CHI_ENOENT);
  t->task.pool = STORY_POOL;
  t->task.method = 99;
  CHECK_INT(chi_run(queue, t), CHI_ENOMETHOD);
  t->task.method = story_code_type.id;
  t->task.query.mode = CHI_QUERY_PHYSICAL;
  t->task.query.a = 1;
  CHECK_INT(chi_run(queue, t), CHI_ERANGE); /* this node is alone */
  t->task.query.mode = 77;
  CHECK_INT(chi_run(queue, t), CHI_EINVAL);
  t->task.query.mode = CHI_QUERY_BROADCAST;
  CHECK_INT(chi_run(queue, t), CHI_OK);
  CHECK_INT(chi_task_free(queue, t), CHI_OK);
}

/* A task whose pool or method is missing completes with a code, and never with 0. */
TEST(story_task_for_nobody_completes)
{
  tale_tell(refused, NULL, NULL);
}

static void bulk(struct tale *s, chi_queue *queue)
{
  (void)s;
  const uint64_t sizes[] = {1, 100, 4096, 100000, 5000000};
  for (size_t i = 0; i < CHI_COUNT(sizes); i++) {
    struct story_bulk *t = STORY_NEW(queue, story_bulk);
    CHECK(t);
    CHECK_INT(chi_bulk_alloc(queue, sizes[i], &t->from), CHI_OK);
    CHECK_INT(chi_bulk_alloc(queue, sizes[i], &t->to), CHI_OK);
    memset(t->from.data, (int)i, sizes[i]);
    CHECK_INT(chi_run(queue, t), CHI_OK);
    CHECK_INT(*(uint8_t *)t->to.data, i + 1);
    CHECK_INT(*((uint8_t *)t->to.data + sizes[i] - 1), i + 1);
    CHECK_INT(chi_bulk_free(queue, &t->from), CHI_OK);
    CHECK_INT(chi_bulk_free(queue, &t->to), CHI_OK);
    CHECK_INT(chi_task_free(queue, t), CHI_OK);
  }
}

TEST(story_bulk_goes_there_and_back)
{
  tale_tell(bulk, NULL, NULL);
}

/* ---- many at once ------------------------------------------------------------------------- */

static void crowd(struct tale *s, chi_queue *queue)
{
  void *tasks[20], *done[20];
  uint32_t which, reaped = 0;
  uint64_t began;
  for (uint64_t i = 0; i < 20; i++) {
    struct story_sleep *t = STORY_NEW(queue, story_sleep);
    CHECK(t);
    t->ns = (20 - i) * TALE_UNIT;
    tasks[i] = t;
  }
  began = tale_now(s);
  CHECK_INT(chi_submit_many(queue, tasks, 20), 20);
  CHECK_INT(chi_task_free(queue, tasks[0]), CHI_EBUSY);
  CHECK_INT(chi_submit(queue, tasks[0]), CHI_EINVAL);
  CHECK_INT(chi_wait_any(queue, tasks, 20, UINT64_MAX, &which), CHI_OK);
  CHECK_INT(which, 19); /* the one that sleeps least */
  CHECK_INT(chi_wait(queue, tasks[10], UINT64_MAX), CHI_OK);
  CHECK_INT(chi_task_done(queue, tasks[0]), 0);
  CHECK_INT(chi_wait_all(queue, tasks, 20, UINT64_MAX), CHI_OK);
  CHECK(tale_now(s) - began < town_within(30 * STORY_MS)); /* they slept side by side */
  CHECK_INT(chi_submit_many(queue, tasks, 20), 20);
  while (reaped < 20) {
    int n = chi_reap(queue, done + reaped, 20 - reaped);
    CHECK(n >= 0);
    reaped += (uint32_t)n;
    if (n == 0)
      tale_sleep(s, STORY_MS);
  }
  CHECK(done[0] == tasks[19] && done[19] == tasks[0]);
  for (int i = 0; i < 20; i++)
    CHECK_INT(chi_task_free(queue, tasks[i]), CHI_OK);
}

TEST(story_many_tasks_side_by_side)
{
  tale_tell(crowd, "blocks", "goes on");
}

static void flood(struct tale *s, chi_queue *queue)
{
  (void)s;
  void *tasks[65];
  for (int i = 0; i < 65; i++) {
    struct story_sleep *t = STORY_NEW(queue, story_sleep);
    CHECK(t);
    t->ns = STORY_MS;
    tasks[i] = t;
  }
  for (int i = 0; i < 64; i++)
    CHECK_INT(chi_submit(queue, tasks[i]), CHI_OK);
  CHECK_INT(chi_submit(queue, tasks[64]), CHI_EBUSY);
  CHECK_INT(chi_task_done(queue, tasks[64]), 1); /* nothing was submitted */
  CHECK_INT(chi_submit_many(queue, &tasks[64], 1), CHI_EBUSY);
  CHECK_INT(chi_wait(queue, tasks[0], UINT64_MAX), CHI_OK);
  CHECK_INT(chi_submit(queue, tasks[64]), CHI_OK);
  CHECK_INT(chi_wait_all(queue, tasks, 65, UINT64_MAX), CHI_OK);
}

/* A full queue says so and goes on when there is room. */
TEST(story_full_queue_is_busy_not_dead)
{
  tale_tell(flood, NULL, NULL);
}

static void jams(struct tale *s, chi_queue *queue)
{
  static void *tasks[5000];
  int count = 0, rc = CHI_OK;
  struct story_work *w = STORY_NEW(queue, story_work);
  CHECK(w);
  w->ns = 15 * STORY_MS; /* the lane's worker is busy: nobody takes what comes now */
  CHECK_INT(chi_submit(queue, w), CHI_OK);
  tale_sleep(s, STORY_MS);
  while (rc == CHI_OK && count < 5000) {
    tasks[count] = STORY_NEW(queue, story_tick);
    CHECK(tasks[count]);
    rc = chi_submit(queue, tasks[count]);
    count += rc == CHI_OK;
  }
  CHECK_INT(rc, CHI_EBUSY);
  CHECK(count < 5000);
  CHECK_INT(chi_task_done(queue, tasks[count]), 1);
  CHECK_INT(chi_wait_all(queue, tasks, (uint32_t)count, UINT64_MAX), CHI_OK);
  CHECK_INT(chi_run(queue, tasks[count]), CHI_OK);
  CHECK_INT(((struct story_tick *)tasks[count])->ticks, count + 1); /* none lost, none doubled */
}

/* A queue that is deeper than its lane: the lane is full first. */
TEST(story_full_lane_is_busy_not_dead)
{
  TOWN_NEEDS_SIM("a worker is busy for exactly as long as it takes to fill its lane");
  tale_tell_with(jams, "queue_depth=6000");
}

struct called {
  int count;
  chi_queue *queue;
};

static void call_back(void *arg, chi_queue *queue, void *task)
{
  struct called *called = arg;
  struct story_add *t = task;
  called->count += t->sum == 3 && queue == called->queue;
}

static void callbacks(struct tale *s, chi_queue *queue)
{
  struct called called = {.queue = queue};
  void *done[4];
  struct story_add *t = STORY_NEW(queue, story_add), *u = STORY_NEW(queue, story_add);
  CHECK(t && u);
  t->a = u->a = 1;
  t->b = u->b = 2;
  CHECK_INT(chi_submit_callback(queue, t, call_back, &called), CHI_OK);
  CHECK_INT(chi_submit_callback(queue, u, call_back, &called), CHI_OK);
  for (int i = 0; i < 3 || (i < 10000 && called.count < 2); i++) {
    CHECK_INT(chi_reap(queue, done, 4), 0);
    tale_sleep(s, STORY_MS);
  }
  CHECK_INT(called.count, 2);
}

TEST(story_callbacks_run_while_reaping)
{
  tale_tell(callbacks, NULL, NULL);
}

/* ---- waits and ends ----------------------------------------------------------------------- */

static void impatient(struct tale *s, chi_queue *queue)
{
  struct story_sleep *t = STORY_NEW(queue, story_sleep);
  CHECK(t);
  t->ns = 10 * TALE_UNIT;
  uint64_t began = tale_now(s);
  CHECK_INT(chi_submit(queue, t), CHI_OK);
  CHECK_INT(chi_wait(queue, t, 2 * TALE_UNIT), CHI_ETIMEOUT);
  CHECK(tale_now(s) - began < town_within(3 * STORY_MS));
  CHECK_INT(chi_task_done(queue, t), 0);
  CHECK_INT(chi_task_free(queue, t), CHI_EBUSY);
  CHECK_INT(chi_wait(queue, t, UINT64_MAX), CHI_OK);
  CHECK(tale_now(s) - began >= 10 * TALE_UNIT);
  CHECK_INT(chi_task_free(queue, t), CHI_OK);
}

/* A wait that timed out is not a completion: the task goes on and completes later. */
TEST(story_wait_times_out_then_completes)
{
  tale_tell(impatient, "blocks", "CHI_OK");
}

static void overdue(struct tale *s, chi_queue *queue)
{
  struct story_sleep *t = STORY_NEW(queue, story_sleep);
  CHECK(t);
  t->ns = 60 * STORY_SECOND;
  t->task.deadline_ms = 5;
  uint64_t began = tale_now(s);
  CHECK_INT(chi_run(queue, t), CHI_ETIMEOUT);
  CHECK_INT(chi_task_done(queue, t), 1);
  CHECK(tale_now(s) - began < town_within(6 * STORY_MS));
}

TEST(story_deadline_ends_a_task)
{
  tale_tell(overdue, "blocks", "CHI_ETIMEOUT");
}

static void cancel_before(struct tale *s, chi_queue *queue)
{
  struct story_work *w = STORY_NEW(queue, story_work);
  struct story_tick *t = STORY_NEW(queue, story_tick);
  CHECK(w && t);
  w->ns = 10 * TALE_UNIT; /* on a slow worker; the container is busy: the second can't begin */
  w->task.compute_us = 10000;
  CHECK_INT(chi_submit(queue, w), CHI_OK);
  tale_sleep(s, STORY_MS);
  CHECK_INT(chi_submit(queue, t), CHI_OK);
  tale_sleep(s, STORY_MS);
  CHECK_INT(chi_cancel(queue, t), CHI_OK);
  CHECK_INT(chi_wait(queue, t, UINT64_MAX), CHI_ECANCELLED);
  CHECK_INT(chi_wait(queue, w, UINT64_MAX), CHI_OK);
  CHECK_INT(chi_run(queue, t), CHI_OK);
  CHECK_INT(t->ticks, 1); /* so it had not run */
}

TEST(story_cancel_before_it_begins)
{
  tale_tell(cancel_before, NULL, NULL);
}

static void cancel_during(struct tale *s, chi_queue *queue)
{
  struct story_sleep *t = STORY_NEW(queue, story_sleep);
  CHECK(t);
  t->ns = 60 * STORY_SECOND;
  uint64_t began = tale_now(s);
  CHECK_INT(chi_submit(queue, t), CHI_OK);
  tale_sleep(s, STORY_MS);
  CHECK_INT(chi_cancel(queue, t), CHI_OK);
  CHECK_INT(chi_cancel(queue, t), CHI_OK);
  CHECK_INT(chi_wait(queue, t, UINT64_MAX), CHI_ECANCELLED);
  CHECK(tale_now(s) - began < town_within(2 * STORY_MS));
}

TEST(story_cancel_while_it_sleeps)
{
  tale_tell(cancel_during, "blocks", "CHI_ECANCELLED");
}

static void cancel_deaf(struct tale *s, chi_queue *queue)
{
  struct story_deaf *t = STORY_NEW(queue, story_deaf);
  CHECK(t);
  t->pieces = town_is_simulated() ? 10 : 1000;
  CHECK_INT(chi_submit(queue, t), CHI_OK);
  tale_sleep(s, 3 * STORY_MS);
  CHECK_INT(chi_cancel(queue, t), CHI_OK);
  CHECK_INT(chi_task_done(queue, t), 0); /* a request: it completes when its body ends */
  CHECK_INT(chi_wait(queue, t, UINT64_MAX), CHI_OK);
  CHECK_INT(t->done, t->pieces);
}

/* Completion follows exactly once, when the body has ended, with the code that it chose. */
TEST(story_cancel_is_a_request)
{
  tale_tell(cancel_deaf, NULL, NULL);
}

static void cancel_after(struct tale *s, chi_queue *queue)
{
  struct story_add *t = STORY_NEW(queue, story_add);
  CHECK(t);
  CHECK_INT(chi_submit(queue, t), CHI_OK);
  tale_sleep(s, TALE_UNIT);
  chi_cancel(queue, t); /* it has completed, though nobody has looked yet */
  CHECK_INT(chi_wait(queue, t, UINT64_MAX), CHI_OK);
  CHECK_INT(chi_run(queue, t), CHI_OK); /* and the next run is another task */
}

TEST(story_cancel_after_it_completed)
{
  tale_tell(cancel_after, NULL, NULL);
}

static void abandons(struct tale *s, chi_queue *queue)
{
  for (int i = 0; i < 10; i++) {
    struct story_sleep *t = STORY_NEW(queue, story_sleep);
    CHECK(t);
    t->ns = 60 * STORY_SECOND;
    CHECK_INT(chi_submit(queue, t), CHI_OK);
    if (i % 2)
      tale_sleep(s, STORY_MS);
    CHECK_INT(chi_abandon(queue, t), CHI_OK);
  }
  struct story_add *last = STORY_NEW(queue, story_add);
  CHECK(last);
  CHECK_INT(chi_run(queue, last), CHI_OK);
}

TEST(story_abandoned_tasks_are_nobodys)
{
  tale_tell(abandons, "blocks", "CHI_ECANCELLED");
}

static void forgets(struct tale *s, chi_queue *queue)
{
  for (int i = 0; i < 200; i++) {
    struct story_tick *t = STORY_NEW(queue, story_tick);
    CHECK(t);
    t->task.flags = CHI_TASK_FORGET;
    int rc = chi_submit(queue, t);
    while (rc == CHI_EBUSY) {
      void *none;
      CHECK_INT(chi_reap(queue, &none, 1), 0);
      tale_sleep(s, STORY_MS);
      rc = chi_submit(queue, t);
    }
    CHECK_INT(rc, CHI_OK);
  }
  struct story_tick *last = STORY_NEW(queue, story_tick);
  CHECK(last);
  tale_sleep(s, 10 * STORY_MS);
  CHECK_INT(chi_run(queue, last), CHI_OK);
  CHECK_INT(last->ticks, 201);
}

TEST(story_fire_and_forget)
{
  tale_tell(forgets, NULL, NULL);
}

static void forgets_buffers(struct tale *s, chi_queue *queue)
{
  (void)s;
  struct story_hand *t = STORY_NEW(queue, story_hand);
  CHECK(t && chi_bulk_alloc(queue, 64, &t->to) == CHI_OK);
  CHECK_INT(chi_run(queue, t), CHI_EINVAL);
  t->skip = 32; /* the middle of it is no better */
  CHECK_INT(chi_run(queue, t), CHI_EINVAL);
  t->skip = 64;
  CHECK_INT(chi_run(queue, t), CHI_EINVAL);
  t->own = 1;
  CHECK_INT(chi_run(queue, t), CHI_OK);
}

TEST(story_what_is_forgotten_takes_no_buffer_along)
{
  tale_tell(forgets_buffers, NULL, NULL);
}

/* ---- periodic ----------------------------------------------------------------------------- */

static void periodic(struct tale *s, chi_queue *queue)
{
  struct story_tick *t = STORY_NEW(queue, story_tick), *u = STORY_NEW(queue, story_tick);
  CHECK(t && u);
  t->task.flags = CHI_TASK_PERIODIC;
  t->task.period_us = 10000;
  CHECK_INT(chi_submit(queue, t), CHI_OK);
  uint64_t began = tale_now(s);
  CHECK_INT(chi_wait(queue, t, 105 * STORY_MS), CHI_ETIMEOUT);
  CHECK_INT(chi_run(queue, u), CHI_OK);
  CHECK(u->ticks >= (town_is_simulated() ? 10 : 2));
  CHECK(u->ticks <= (tale_now(s) - began) / (10 * STORY_MS) + 2);
  CHECK_INT(chi_cancel(queue, t), CHI_OK);
  CHECK_INT(chi_wait(queue, t, town_within(STORY_MS)), CHI_ECANCELLED);
  tale_sleep(s, 50 * STORY_MS);
  uint64_t before = u->ticks;
  CHECK_INT(chi_run(queue, u), CHI_OK);
  CHECK_INT(u->ticks, before + 1);
}

TEST(story_periodic_until_cancelled)
{
  tale_tell(periodic, "goes on", NULL);
}

/* ---- subtasks and slow tasks -------------------------------------------------------------- */

static void fans(struct tale *s, chi_queue *queue)
{
  struct story_fan *t = STORY_NEW(queue, story_fan);
  CHECK(t);
  t->count = 20;
  t->ns = 5 * STORY_MS;
  uint64_t began = tale_now(s);
  CHECK_INT(chi_run(queue, t), CHI_OK);
  CHECK_INT(t->sum, 190);
  CHECK(tale_now(s) - began < town_within(10 * STORY_MS));
  t->ns = 60 * STORY_SECOND;
  CHECK_INT(chi_submit(queue, t), CHI_OK);
  tale_sleep(s, STORY_MS);
  CHECK_INT(chi_cancel(queue, t), CHI_OK);
  CHECK_INT(chi_wait(queue, t, UINT64_MAX), CHI_ECANCELLED);
  CHECK(tale_now(s) - began < town_within(20 * STORY_MS)); /* the subtasks ended with it */
}

TEST(story_subtasks_run_side_by_side)
{
  tale_tell(fans, NULL, NULL);
}

static void slow(struct tale *s, chi_queue *queue)
{
  (void)s;
  struct story_add *t = STORY_NEW(queue, story_add);
  CHECK(t);
  t->task.compute_us = 1000;
  CHECK_INT(chi_run(queue, t), CHI_OK);
}

/* Workers 0 and 1 are fast, 2 is slow, 3 the network's. */
TEST(story_slow_tasks_go_to_slow_workers)
{
  tale_tell(slow, "worker 2 begins", "worker 2 completes");
}

/* ---- two workers share what is too much for one -------------------------------------------- */

struct shared {
  uint64_t until; /* when to end */
  uint32_t done[2];
  uint32_t count; /* clients that began */
};

/* The first and the third queue that are opened have the same home. */
static void keeps_busy(struct tale *s, chi_queue *queue)
{
  struct shared *f = s->arg;
  uint32_t me = f->count++;
  chi_queue *other;
  chi_pool_id id = {410 + me, 0};
  CHECK_INT(chi_queue_open(s->client, &other, NULL), CHI_OK);
  CHECK_INT(chi_pool_create(queue, "story", me ? "b" : "a", NULL, 0, &id, NULL), CHI_OK);
  struct story_work *t = STORY_NEW(queue, story_work);
  CHECK(t);
  t->ns = 20 * STORY_US;
  t->task.pool = id;
  while (tale_now(s) < f->until) {
    CHECK_INT(chi_run(queue, t), CHI_OK);
    f->done[me]++;
  }
}

static uint32_t share_once(uint64_t seed, uint32_t clients, uint32_t *moves)
{
  struct town town;
  struct shared f = {0};
  struct tale t[2] = {{.body = keeps_busy, .arg = &f}, {.body = keeps_busy, .arg = &f}};
  if (tale_begin(&town, seed, NULL)[0])
    return 0;
  f.until = chi_cluster_now(town.cluster) + STORY_SECOND / 2;
  for (uint32_t i = 0; i < clients; i++) {
    tale_client(&town, &t[i]);
    chi_cluster_run_for(town.cluster, 10 * STORY_MS);
  }
  bool idle = tale_is_over(&town);
  *moves = 0;
  for (const char *at = town.story.text; (at = strstr(at, "a lane goes from")) != NULL; at++)
    ++*moves;
  bool good = town_end(&town)[0] == 0 && idle && town.told == (int)clients;
  return good ? f.done[0] + f.done[1] : 0;
}

/* Once, and then it stays there: what one worker can do alone is not spread. */
TEST(story_busy_lanes_are_spread)
{
  TOWN_NEEDS_SIM("a transcript tells of lanes, and no other load is there");
  for (uint64_t seed = 1; seed <= town_seeds(SEEDS); seed++) {
    uint32_t moves = 0, alone = share_once(seed, 1, &moves);
    CHECK_INT(moves, 0);
    uint32_t both = share_once(seed, 2, &moves);
    CHECK_INT(moves, 1);
    CHECK(alone > 0 && both > alone + alone / 2);
  }
}

/* The only slow worker is held up, and comes back. */
static void holds_up(struct tale *s, chi_queue *queue)
{
  (void)s;
  struct story_work *t = STORY_NEW(queue, story_work);
  CHECK(t);
  t->ns = STORY_SECOND;
  t->task.compute_us = 1000000;
  CHECK_INT(chi_run(queue, t), CHI_OK);
  t->ns = STORY_MS;
  for (int i = 0; i < 100; i++)
    CHECK_INT(chi_run(queue, t), CHI_OK);
}

TEST(story_lanes_go_back_to_their_kind)
{
  TOWN_NEEDS_SIM("a transcript tells of lanes");
  tale_tell(holds_up, "is stuck: worker", "1 lanes go back to workers of their own kind");
}

/* ---- determinism -------------------------------------------------------------------------- */

TEST(story_same_seed_same_hash)
{
  TOWN_NEEDS_SIM("there is no hash");
  uint64_t hash[4];
  for (int i = 0; i < 4; i++) {
    struct town town;
    struct tale t[3] = {{.body = crowd}, {.body = fans}, {.body = bulk}};
    CHECK_STR(tale_begin(&town, i == 2 ? 8 : 7, NULL), "");
    if (i == 3)
      chi_cluster_story(town.cluster, NULL, NULL); /* listening changes nothing */
    for (int k = 0; k < 3; k++)
      tale_client(&town, &t[k]);
    bool idle = tale_is_over(&town);
    CHECK_STR(town_end(&town), "");
    CHECK(idle);
    CHECK_INT(town.told, 3);
    hash[i] = town.hash;
  }
  CHECK(hash[0] == hash[1]);
  CHECK(hash[0] != hash[2]);
  CHECK(hash[0] == hash[3]);
}
