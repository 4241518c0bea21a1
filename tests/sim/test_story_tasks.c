/* test_story_tasks.c - what becomes of a task: it runs, waits, is cancelled, comes back. */
#include "story.h"

#define LONG (10 * STORY_SECOND)
#define SEEDS 8

/* One client with this body on a fresh node: what went wrong, or the empty text. */
static const char *tell_once(void (*body)(struct sim_client *c, void *arg), uint64_t seed,
                             const char *line, const char *then)
{
  static char wrong[400];
  struct story s;
  snprintf(wrong, sizeof(wrong), "%s", story_begin(&s, seed));
  if (!wrong[0])
    sim_client(s.sim, 0, body, &s);
  if (!sim_run_idle(s.sim, LONG))
    snprintf(wrong, sizeof(wrong), "it has no end");
  else if (line && !story_tells(&s, line, then, NULL))
    snprintf(wrong, sizeof(wrong), "not what is told");
  const char *end = story_end(&s);
  if (!wrong[0])
    snprintf(wrong, sizeof(wrong), "%s", end);
  if (!wrong[0] && s.told != 1)
    snprintf(wrong, sizeof(wrong), "the client does not get to its end");
  return wrong;
}

static void tell(void (*body)(struct sim_client *c, void *arg), const char *line, const char *then)
{
  for (uint64_t seed = 1; seed <= story_seeds(SEEDS); seed++)
    CHECK_STR(tell_once(body, seed, line, then), "");
}

/* ---- a task runs -------------------------------------------------------------------------- */

static void runs(struct sim_client *c, void *arg)
{
  struct story *s = arg;
  chi_client *client;
  chi_queue *queue;
  CHECK_INT(story_attach(c, &client, &queue), CHI_OK);
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
  chi_queue_close(queue);
  chi_client_close(client);
  s->told++;
}

TEST(story_task_runs)
{
  tell(runs, "the node serves", "begins task");
}

static void refused(struct sim_client *c, void *arg)
{
  struct story *s = arg;
  chi_client *client;
  chi_queue *queue;
  CHECK_INT(story_attach(c, &client, &queue), CHI_OK);
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
  chi_client_close(client);
  s->told++;
}

/* A task whose pool or method is missing completes with a code, and never with 0. */
TEST(story_task_for_nobody_completes)
{
  tell(refused, NULL, NULL);
}

static void bulk(struct sim_client *c, void *arg)
{
  struct story *s = arg;
  chi_client *client;
  chi_queue *queue;
  const uint64_t sizes[] = {1, 100, 4096, 100000, 5000000};
  CHECK_INT(story_attach(c, &client, &queue), CHI_OK);
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
  chi_queue_close(queue);
  chi_client_close(client);
  s->told++;
}

TEST(story_bulk_goes_there_and_back)
{
  tell(bulk, NULL, NULL);
}

/* ---- many at once ------------------------------------------------------------------------- */

static void crowd(struct sim_client *c, void *arg)
{
  struct story *s = arg;
  chi_client *client;
  chi_queue *queue;
  void *tasks[20], *done[20];
  uint32_t which, reaped = 0;
  uint64_t began;
  CHECK_INT(story_attach(c, &client, &queue), CHI_OK);
  for (uint64_t i = 0; i < 20; i++) {
    struct story_sleep *t = STORY_NEW(queue, story_sleep);
    CHECK(t);
    t->ns = (20 - i) * STORY_MS;
    tasks[i] = t;
  }
  began = sim_now(s->sim);
  CHECK_INT(chi_submit_many(queue, tasks, 20), 20);
  CHECK_INT(chi_task_free(queue, tasks[0]), CHI_EBUSY);
  CHECK_INT(chi_submit(queue, tasks[0]), CHI_EINVAL);
  CHECK_INT(chi_wait_any(queue, tasks, 20, UINT64_MAX, &which), CHI_OK);
  CHECK_INT(which, 19); /* the one that sleeps least */
  CHECK_INT(chi_wait(queue, tasks[10], UINT64_MAX), CHI_OK);
  CHECK_INT(chi_task_done(queue, tasks[0]), 0);
  CHECK_INT(chi_wait_all(queue, tasks, 20, UINT64_MAX), CHI_OK);
  CHECK(sim_now(s->sim) - began < 30 * STORY_MS); /* they slept side by side */
  CHECK_INT(chi_submit_many(queue, tasks, 20), 20);
  while (reaped < 20) {
    int n = chi_reap(queue, done + reaped, 20 - reaped);
    CHECK(n >= 0);
    reaped += (uint32_t)n;
    if (n == 0)
      sim_client_sleep(c, STORY_MS);
  }
  CHECK(done[0] == tasks[19] && done[19] == tasks[0]);
  for (int i = 0; i < 20; i++)
    CHECK_INT(chi_task_free(queue, tasks[i]), CHI_OK);
  chi_queue_close(queue);
  chi_client_close(client);
  s->told++;
}

TEST(story_many_tasks_side_by_side)
{
  tell(crowd, "blocks", "goes on");
}

static void flood(struct sim_client *c, void *arg)
{
  struct story *s = arg;
  chi_client *client;
  chi_queue *queue;
  void *tasks[65];
  CHECK_INT(story_attach(c, &client, &queue), CHI_OK);
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
  chi_queue_close(queue);
  chi_client_close(client);
  s->told++;
}

/* A full queue says so and goes on when there is room. */
TEST(story_full_queue_is_busy_not_dead)
{
  tell(flood, NULL, NULL);
}

static void jams(struct sim_client *c, void *arg)
{
  struct story *s = arg;
  static void *tasks[5000];
  int count = 0, rc = CHI_OK;
  chi_client *client;
  chi_queue *queue;
  CHECK_INT(story_attach(c, &client, &queue), CHI_OK);
  struct story_work *w = STORY_NEW(queue, story_work);
  CHECK(w);
  w->ns = 15 * STORY_MS; /* the lane's worker is busy: nobody takes what comes now */
  CHECK_INT(chi_submit(queue, w), CHI_OK);
  sim_client_sleep(c, STORY_MS);
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
  chi_queue_close(queue);
  chi_client_close(client);
  s->told++;
}

/* A queue that is deeper than its lane: the lane is full first. */
TEST(story_full_lane_is_busy_not_dead)
{
  struct story s;
  story_open(&s, 1);
  s.config.queue_depth = 6000;
  int rc = story_start(&s);
  sim_client(s.sim, 0, jams, &s);
  bool idle = sim_run_idle(s.sim, LONG);
  CHECK_STR(story_end(&s), "");
  CHECK(rc == CHI_OK && idle && s.told == 1);
}

struct called {
  struct story *s;
  int count;
  chi_queue *queue;
};

static void call_back(void *arg, chi_queue *queue, void *task)
{
  struct called *called = arg;
  struct story_add *t = task;
  called->count += t->sum == 3 && queue == called->queue;
}

static void callbacks(struct sim_client *c, void *arg)
{
  struct called called = {.s = arg};
  chi_client *client;
  chi_queue *queue;
  void *done[4];
  CHECK_INT(story_attach(c, &client, &queue), CHI_OK);
  called.queue = queue;
  struct story_add *t = STORY_NEW(queue, story_add), *u = STORY_NEW(queue, story_add);
  CHECK(t && u);
  t->a = u->a = 1;
  t->b = u->b = 2;
  CHECK_INT(chi_submit_callback(queue, t, call_back, &called), CHI_OK);
  CHECK_INT(chi_submit_callback(queue, u, call_back, &called), CHI_OK);
  for (int i = 0; i < 3; i++) {
    CHECK_INT(chi_reap(queue, done, 4), 0);
    sim_client_sleep(c, STORY_MS);
  }
  CHECK_INT(called.count, 2);
  chi_queue_close(queue);
  chi_client_close(client);
  called.s->told++;
}

TEST(story_callbacks_run_while_reaping)
{
  tell(callbacks, NULL, NULL);
}

/* ---- waits and ends ----------------------------------------------------------------------- */

static void impatient(struct sim_client *c, void *arg)
{
  struct story *s = arg;
  chi_client *client;
  chi_queue *queue;
  CHECK_INT(story_attach(c, &client, &queue), CHI_OK);
  struct story_sleep *t = STORY_NEW(queue, story_sleep);
  CHECK(t);
  t->ns = 10 * STORY_MS;
  uint64_t began = sim_now(s->sim);
  CHECK_INT(chi_submit(queue, t), CHI_OK);
  CHECK_INT(chi_wait(queue, t, 2 * STORY_MS), CHI_ETIMEOUT);
  CHECK(sim_now(s->sim) - began < 3 * STORY_MS);
  CHECK_INT(chi_task_done(queue, t), 0);
  CHECK_INT(chi_task_free(queue, t), CHI_EBUSY);
  CHECK_INT(chi_wait(queue, t, UINT64_MAX), CHI_OK);
  CHECK(sim_now(s->sim) - began >= 10 * STORY_MS);
  CHECK_INT(chi_task_free(queue, t), CHI_OK);
  chi_queue_close(queue);
  chi_client_close(client);
  s->told++;
}

/* A wait that timed out is not a completion: the task goes on and completes later. */
TEST(story_wait_times_out_then_completes)
{
  tell(impatient, "blocks", "CHI_OK");
}

static void overdue(struct sim_client *c, void *arg)
{
  struct story *s = arg;
  chi_client *client;
  chi_queue *queue;
  CHECK_INT(story_attach(c, &client, &queue), CHI_OK);
  struct story_sleep *t = STORY_NEW(queue, story_sleep);
  CHECK(t);
  t->ns = STORY_SECOND;
  t->task.deadline_ms = 5;
  uint64_t began = sim_now(s->sim);
  CHECK_INT(chi_run(queue, t), CHI_ETIMEOUT);
  CHECK_INT(chi_task_done(queue, t), 1);
  CHECK(sim_now(s->sim) - began < 6 * STORY_MS);
  chi_queue_close(queue);
  chi_client_close(client);
  s->told++;
}

TEST(story_deadline_ends_a_task)
{
  tell(overdue, "blocks", "CHI_ETIMEOUT");
}

static void cancel_before(struct sim_client *c, void *arg)
{
  struct story *s = arg;
  chi_client *client;
  chi_queue *queue;
  CHECK_INT(story_attach(c, &client, &queue), CHI_OK);
  struct story_work *w = STORY_NEW(queue, story_work);
  struct story_tick *t = STORY_NEW(queue, story_tick);
  CHECK(w && t);
  w->ns = 10 * STORY_MS; /* on a slow worker; the container is busy: the second can't begin */
  w->task.compute_us = 10000;
  CHECK_INT(chi_submit(queue, w), CHI_OK);
  sim_client_sleep(c, STORY_MS);
  CHECK_INT(chi_submit(queue, t), CHI_OK);
  sim_client_sleep(c, STORY_MS);
  CHECK_INT(chi_cancel(queue, t), CHI_OK);
  CHECK_INT(chi_wait(queue, t, UINT64_MAX), CHI_ECANCELLED);
  CHECK_INT(chi_wait(queue, w, UINT64_MAX), CHI_OK);
  CHECK_INT(chi_run(queue, t), CHI_OK);
  CHECK_INT(t->ticks, 1); /* so it had not run */
  chi_queue_close(queue);
  chi_client_close(client);
  s->told++;
}

TEST(story_cancel_before_it_begins)
{
  tell(cancel_before, NULL, NULL);
}

static void cancel_during(struct sim_client *c, void *arg)
{
  struct story *s = arg;
  chi_client *client;
  chi_queue *queue;
  CHECK_INT(story_attach(c, &client, &queue), CHI_OK);
  struct story_sleep *t = STORY_NEW(queue, story_sleep);
  CHECK(t);
  t->ns = STORY_SECOND;
  uint64_t began = sim_now(s->sim);
  CHECK_INT(chi_submit(queue, t), CHI_OK);
  sim_client_sleep(c, STORY_MS);
  CHECK_INT(chi_cancel(queue, t), CHI_OK);
  CHECK_INT(chi_cancel(queue, t), CHI_OK);
  CHECK_INT(chi_wait(queue, t, UINT64_MAX), CHI_ECANCELLED);
  CHECK(sim_now(s->sim) - began < 2 * STORY_MS);
  chi_queue_close(queue);
  chi_client_close(client);
  s->told++;
}

TEST(story_cancel_while_it_sleeps)
{
  tell(cancel_during, "blocks", "CHI_ECANCELLED");
}

static void cancel_deaf(struct sim_client *c, void *arg)
{
  struct story *s = arg;
  chi_client *client;
  chi_queue *queue;
  CHECK_INT(story_attach(c, &client, &queue), CHI_OK);
  struct story_deaf *t = STORY_NEW(queue, story_deaf);
  CHECK(t);
  t->pieces = 10;
  CHECK_INT(chi_submit(queue, t), CHI_OK);
  sim_client_sleep(c, 3 * STORY_MS);
  CHECK_INT(chi_cancel(queue, t), CHI_OK);
  CHECK_INT(chi_task_done(queue, t), 0); /* a request: it completes when its body ends */
  CHECK_INT(chi_wait(queue, t, UINT64_MAX), CHI_OK);
  CHECK_INT(t->done, 10);
  chi_queue_close(queue);
  chi_client_close(client);
  s->told++;
}

/* Completion follows exactly once, when the body has ended, with the code that it chose. */
TEST(story_cancel_is_a_request)
{
  tell(cancel_deaf, NULL, NULL);
}

static void cancel_after(struct sim_client *c, void *arg)
{
  struct story *s = arg;
  chi_client *client;
  chi_queue *queue;
  CHECK_INT(story_attach(c, &client, &queue), CHI_OK);
  struct story_add *t = STORY_NEW(queue, story_add);
  CHECK(t);
  CHECK_INT(chi_submit(queue, t), CHI_OK);
  sim_client_sleep(c, STORY_MS);
  chi_cancel(queue, t); /* it has completed, though nobody has looked yet */
  CHECK_INT(chi_wait(queue, t, UINT64_MAX), CHI_OK);
  CHECK_INT(chi_run(queue, t), CHI_OK); /* and the next run is another task */
  chi_queue_close(queue);
  chi_client_close(client);
  s->told++;
}

TEST(story_cancel_after_it_completed)
{
  tell(cancel_after, NULL, NULL);
}

static void abandons(struct sim_client *c, void *arg)
{
  struct story *s = arg;
  chi_client *client;
  chi_queue *queue;
  CHECK_INT(story_attach(c, &client, &queue), CHI_OK);
  for (int i = 0; i < 10; i++) {
    struct story_sleep *t = STORY_NEW(queue, story_sleep);
    CHECK(t);
    t->ns = STORY_SECOND;
    CHECK_INT(chi_submit(queue, t), CHI_OK);
    if (i % 2)
      sim_client_sleep(c, STORY_MS);
    CHECK_INT(chi_abandon(queue, t), CHI_OK);
  }
  struct story_add *last = STORY_NEW(queue, story_add);
  CHECK(last);
  CHECK_INT(chi_run(queue, last), CHI_OK);
  chi_queue_close(queue);
  chi_client_close(client);
  s->told++;
}

TEST(story_abandoned_tasks_are_nobodys)
{
  tell(abandons, "blocks", "CHI_ECANCELLED");
}

static void forgets(struct sim_client *c, void *arg)
{
  struct story *s = arg;
  chi_client *client;
  chi_queue *queue;
  CHECK_INT(story_attach(c, &client, &queue), CHI_OK);
  for (int i = 0; i < 200; i++) {
    struct story_tick *t = STORY_NEW(queue, story_tick);
    CHECK(t);
    t->task.flags = CHI_TASK_FORGET;
    int rc = chi_submit(queue, t);
    while (rc == CHI_EBUSY) {
      void *none;
      CHECK_INT(chi_reap(queue, &none, 1), 0);
      sim_client_sleep(c, STORY_MS);
      rc = chi_submit(queue, t);
    }
    CHECK_INT(rc, CHI_OK);
  }
  struct story_tick *last = STORY_NEW(queue, story_tick);
  CHECK(last);
  sim_client_sleep(c, 10 * STORY_MS);
  CHECK_INT(chi_run(queue, last), CHI_OK);
  CHECK_INT(last->ticks, 201);
  chi_queue_close(queue);
  chi_client_close(client);
  s->told++;
}

TEST(story_fire_and_forget)
{
  tell(forgets, NULL, NULL);
}

static void forgets_buffers(struct sim_client *c, void *arg)
{
  struct story *s = arg;
  chi_client *client;
  chi_queue *queue;
  CHECK_INT(story_attach(c, &client, &queue), CHI_OK);
  struct story_hand *t = STORY_NEW(queue, story_hand);
  CHECK(t && chi_bulk_alloc(queue, 64, &t->to) == CHI_OK);
  CHECK_INT(chi_run(queue, t), CHI_EINVAL);
  t->skip = 32; /* the middle of it is no better */
  CHECK_INT(chi_run(queue, t), CHI_EINVAL);
  t->skip = 64;
  CHECK_INT(chi_run(queue, t), CHI_EINVAL);
  t->own = 1;
  CHECK_INT(chi_run(queue, t), CHI_OK);
  chi_queue_close(queue);
  chi_client_close(client);
  s->told++;
}

TEST(story_what_is_forgotten_takes_no_buffer_along)
{
  tell(forgets_buffers, NULL, NULL);
}

/* ---- periodic ----------------------------------------------------------------------------- */

static void periodic(struct sim_client *c, void *arg)
{
  struct story *s = arg;
  chi_client *client;
  chi_queue *queue;
  CHECK_INT(story_attach(c, &client, &queue), CHI_OK);
  struct story_tick *t = STORY_NEW(queue, story_tick), *u = STORY_NEW(queue, story_tick);
  CHECK(t && u);
  t->task.flags = CHI_TASK_PERIODIC;
  t->task.period_us = 10000;
  CHECK_INT(chi_submit(queue, t), CHI_OK);
  CHECK_INT(chi_wait(queue, t, 105 * STORY_MS), CHI_ETIMEOUT);
  CHECK_INT(chi_run(queue, u), CHI_OK);
  CHECK(u->ticks >= 10 && u->ticks <= 12);
  CHECK_INT(chi_cancel(queue, t), CHI_OK);
  CHECK_INT(chi_wait(queue, t, STORY_MS), CHI_ECANCELLED);
  sim_client_sleep(c, 50 * STORY_MS);
  uint64_t before = u->ticks;
  CHECK_INT(chi_run(queue, u), CHI_OK);
  CHECK_INT(u->ticks, before + 1);
  chi_queue_close(queue);
  chi_client_close(client);
  s->told++;
}

TEST(story_periodic_until_cancelled)
{
  tell(periodic, "goes on", NULL);
}

/* ---- subtasks and slow tasks -------------------------------------------------------------- */

static void fans(struct sim_client *c, void *arg)
{
  struct story *s = arg;
  chi_client *client;
  chi_queue *queue;
  CHECK_INT(story_attach(c, &client, &queue), CHI_OK);
  struct story_fan *t = STORY_NEW(queue, story_fan);
  CHECK(t);
  t->count = 20;
  t->ns = 5 * STORY_MS;
  uint64_t began = sim_now(s->sim);
  CHECK_INT(chi_run(queue, t), CHI_OK);
  CHECK_INT(t->sum, 190);
  CHECK(sim_now(s->sim) - began < 10 * STORY_MS);
  t->ns = STORY_SECOND;
  CHECK_INT(chi_submit(queue, t), CHI_OK);
  sim_client_sleep(c, STORY_MS);
  CHECK_INT(chi_cancel(queue, t), CHI_OK);
  CHECK_INT(chi_wait(queue, t, UINT64_MAX), CHI_ECANCELLED);
  CHECK(sim_now(s->sim) - began < 20 * STORY_MS); /* the subtasks ended with it */
  chi_queue_close(queue);
  chi_client_close(client);
  s->told++;
}

TEST(story_subtasks_run_side_by_side)
{
  tell(fans, NULL, NULL);
}

static void slow(struct sim_client *c, void *arg)
{
  struct story *s = arg;
  chi_client *client;
  chi_queue *queue;
  CHECK_INT(story_attach(c, &client, &queue), CHI_OK);
  struct story_add *t = STORY_NEW(queue, story_add);
  CHECK(t);
  t->task.compute_us = 1000;
  CHECK_INT(chi_run(queue, t), CHI_OK);
  chi_queue_close(queue);
  chi_client_close(client);
  s->told++;
}

/* Workers 0 and 1 are fast, 2 is slow, 3 the network's. */
TEST(story_slow_tasks_go_to_slow_workers)
{
  tell(slow, "worker 2 begins", "worker 2 completes");
}

/* ---- determinism -------------------------------------------------------------------------- */

/* ---- two workers share what is too much for one -------------------------------------------- */

struct shared {
  struct story *s;
  uint64_t until; /* when to end */
  uint32_t done[2];
  uint32_t count; /* clients that began */
};

/* The first and the third queue that are opened have the same home. */
static void keeps_busy(struct sim_client *c, void *arg)
{
  struct shared *f = arg;
  uint32_t me = f->count++;
  chi_client *client;
  chi_queue *queue, *other;
  chi_pool_id id = {410 + me, 0};
  CHECK_INT(sim_client_attach(c, &client, NULL), CHI_OK);
  CHECK_INT(chi_queue_open(client, &queue, NULL), CHI_OK);
  CHECK_INT(chi_queue_open(client, &other, NULL), CHI_OK);
  CHECK_INT(chi_pool_create(queue, "story", me ? "b" : "a", NULL, 0, &id, NULL), CHI_OK);
  struct story_work *t = STORY_NEW(queue, story_work);
  CHECK(t);
  t->ns = 20 * STORY_US;
  t->task.pool = id;
  while (sim_now(f->s->sim) < f->until) {
    CHECK_INT(chi_run(queue, t), CHI_OK);
    f->done[me]++;
  }
  chi_client_close(client);
  f->s->told++;
}

static uint32_t share_once(uint64_t seed, uint32_t clients, uint32_t *moves)
{
  struct story s;
  struct shared f = {.s = &s};
  if (story_begin(&s, seed)[0])
    return 0;
  f.until = sim_now(s.sim) + STORY_SECOND / 2;
  for (uint32_t i = 0; i < clients; i++) {
    sim_client(s.sim, 0, keeps_busy, &f);
    sim_run_for(s.sim, 10 * STORY_MS);
  }
  bool idle = sim_run_idle(s.sim, LONG);
  *moves = 0;
  for (const char *at = s.transcript; (at = strstr(at, "a lane goes from")) != NULL; at++)
    ++*moves;
  bool good = story_end(&s)[0] == 0 && idle && s.told == (int)clients;
  return good ? f.done[0] + f.done[1] : 0;
}

/* Once, and then it stays there: what one worker can do alone is not spread. */
TEST(story_busy_lanes_are_spread)
{
  for (uint64_t seed = 1; seed <= story_seeds(SEEDS); seed++) {
    uint32_t moves = 0, alone = share_once(seed, 1, &moves);
    CHECK_INT(moves, 0);
    uint32_t both = share_once(seed, 2, &moves);
    CHECK_INT(moves, 1);
    CHECK(alone > 0 && both > alone + alone / 2);
  }
}

/* The only slow worker is held up, and comes back. */
static void holds_up(struct sim_client *c, void *arg)
{
  struct story *s = arg;
  chi_client *client;
  chi_queue *queue;
  CHECK_INT(story_attach(c, &client, &queue), CHI_OK);
  struct story_work *t = STORY_NEW(queue, story_work);
  CHECK(t);
  t->ns = STORY_SECOND;
  t->task.compute_us = 1000000;
  CHECK_INT(chi_run(queue, t), CHI_OK);
  t->ns = STORY_MS;
  for (int i = 0; i < 100; i++)
    CHECK_INT(chi_run(queue, t), CHI_OK);
  chi_client_close(client);
  s->told++;
}

TEST(story_lanes_go_back_to_their_kind)
{
  tell(holds_up, "is stuck: worker", "1 lanes go back to workers of their own kind");
}

TEST(story_same_seed_same_hash)
{
  uint64_t hash[4];
  for (int i = 0; i < 4; i++) {
    struct story s;
    CHECK_STR(story_begin(&s, i == 2 ? 8 : 7), "");
    if (i == 3)
      sim_transcript(s.sim, NULL, NULL); /* listening changes nothing */
    sim_client(s.sim, 0, crowd, &s);
    sim_client(s.sim, 0, fans, &s);
    sim_client(s.sim, 0, bulk, &s);
    bool idle = sim_run_idle(s.sim, LONG);
    CHECK_STR(story_end(&s), "");
    CHECK(idle);
    CHECK_INT(s.told, 3);
    hash[i] = s.hash;
  }
  CHECK(hash[0] == hash[1]);
  CHECK(hash[0] != hash[2]);
  CHECK(hash[0] == hash[3]);
}
