/* test_story_death.c - clients that are killed, nodes that are killed or stopped or stuck. */
#include "story.h"

#define LONG (20 * STORY_SECOND)
#define SEEDS 8

/* ---- clients ------------------------------------------------------------------------------ */

/* Holds memory and tasks of every kind until it is killed. */
static void victim(struct sim_client *c, void *arg)
{
  chi_client *client;
  chi_queue *queue;
  chi_bulk bulk;
  (void)arg;
  CHECK_INT(story_attach(c, &client, &queue), CHI_OK);
  CHECK_INT(chi_bulk_alloc(queue, 3 << 20, &bulk), CHI_OK);
  struct story_bulk *copy = STORY_NEW(queue, story_bulk);
  struct story_sleep *sleep = STORY_NEW(queue, story_sleep);
  struct story_lock *lock = STORY_NEW(queue, story_lock);
  struct story_tick *tick = STORY_NEW(queue, story_tick);
  CHECK(copy && sleep && lock && tick);
  copy->from = copy->to = bulk;
  copy->from.size = 1000;
  sleep->ns = lock->ns = 1000 * STORY_SECOND;
  tick->task.flags = CHI_TASK_PERIODIC;
  tick->task.period_us = 1000;
  CHECK_INT(chi_submit(queue, tick), CHI_OK);
  CHECK_INT(chi_submit(queue, sleep), CHI_OK);
  CHECK_INT(chi_submit(queue, lock), CHI_OK);
  for (;;) {
    chi_run(queue, copy);
    sim_client_sleep(c, 100 * STORY_US);
  }
}

struct witness {
  struct story *s;
  bool enough;
  uint64_t sum, locked;
};

/* Works all the time, beside others that die. */
static void works(struct sim_client *c, void *arg)
{
  struct witness *w = arg;
  chi_client *client;
  chi_queue *queue;
  CHECK_INT(story_attach(c, &client, &queue), CHI_OK);
  struct story_add *t = STORY_NEW(queue, story_add);
  struct story_lock *l = STORY_NEW(queue, story_lock);
  CHECK(t && l);
  while (!w->enough) {
    t->a = t->sum;
    t->b = 1;
    CHECK_INT(chi_run(queue, t), CHI_OK);
    CHECK_INT(t->sum, ++w->sum);
    sim_client_sleep(c, 200 * STORY_US);
  }
  CHECK_INT(chi_run(queue, l), CHI_OK); /* the dead don't hold it */
  chi_queue_close(queue);
  chi_client_close(client);
  w->s->told++;
}

/* Eighty clients are killed at all moments; together they held more memory than there is. */
TEST(story_killed_clients_leave_nothing)
{
  struct story s;
  struct witness w = {.s = &s};
  uint64_t most = 0;
  story_open(&s, 3);
  s.config.client_data_segment_size = 64 << 20;
  int rc = story_start(&s);
  sim_client(s.sim, 0, works, &w);
  for (uint64_t i = 0; i < 80 && rc == CHI_OK; i++) {
    uint64_t before = w.sum;
    uint32_t client = sim_client(s.sim, 0, victim, &s);
    sim_run_for(s.sim, 20 * STORY_US * i + 77 * i);
    sim_client_kill(s.sim, client);
    CHECK(sim_client_ended(s.sim, client));
    most = w.sum - before > most ? w.sum - before : most;
  }
  w.enough = true;
  bool idle = sim_run_idle(s.sim, LONG);
  CHECK_STR(story_end(&s), "");
  CHECK_INT(rc, CHI_OK);
  CHECK(idle && s.told == 1);
  CHECK(most >= 2); /* it was not held up */
}

static bool is_gone(void *arg)
{
  struct story *s = arg;
  return strstr(s->transcript.text, "link 0 is gone") != NULL;
}

/* The tasks of a dead client are cancelled at once, and the node goes back to sleep. */
TEST(story_killed_clients_tasks_end)
{
  for (uint64_t seed = 1; seed <= story_seeds(SEEDS); seed++) {
    struct story s;
    CHECK_STR(story_begin(&s, seed), "");
    uint32_t client = sim_client(s.sim, 0, victim, &s);
    sim_run_for(s.sim, 10 * STORY_MS);
    sim_client_kill(s.sim, client);
    bool gone = sim_run_until(s.sim, is_gone, &s, STORY_SECOND);
    sim_run_for(s.sim, STORY_SECOND);
    uint64_t before = sim_events(s.sim);
    sim_run_for(s.sim, 10 * STORY_SECOND);
    uint64_t after = sim_events(s.sim);
    bool told = story_tells(&s, "is killed", "CHI_ECANCELLED", NULL);
    CHECK_STR(story_end(&s), "");
    CHECK(gone && told);
    CHECK(after - before < 20); /* no polling */
  }
}

/* ---- nodes -------------------------------------------------------------------------------- */

struct mourner {
  struct story *s;
  uint64_t killed_at, knew_at;
  bool waiting;
};

static void mourns(struct sim_client *c, void *arg)
{
  struct mourner *m = arg;
  chi_client *client;
  chi_queue *queue;
  chi_bulk bulk;
  CHECK_INT(story_attach(c, &client, &queue), CHI_OK);
  struct story_sleep *t = STORY_NEW(queue, story_sleep), *idle = STORY_NEW(queue, story_sleep);
  CHECK(t && idle);
  CHECK_INT(chi_bulk_alloc(queue, 5000, &bulk), CHI_OK);
  memset(bulk.data, 7, 5000);
  t->ns = 100 * STORY_SECOND;
  CHECK_INT(chi_submit(queue, t), CHI_OK);
  m->waiting = true;
  CHECK_INT(chi_wait(queue, t, UINT64_MAX), CHI_ESHUTDOWN);
  m->knew_at = sim_now(m->s->sim);
  CHECK_INT(chi_task_done(queue, t), 1);
  CHECK_INT(chi_submit(queue, t), CHI_ESHUTDOWN);
  CHECK_INT(chi_client_reconnect(client, 10 * STORY_SECOND, NULL), CHI_OK);
  CHECK_INT(((uint8_t *)bulk.data)[4999], 7); /* memory from before can be read */
  CHECK_INT(idle->ns, 0);
  CHECK_INT(chi_submit(queue, t), CHI_ESTALE);
  CHECK_INT(chi_task_free(queue, t), CHI_OK);
  CHECK_INT(chi_task_free(queue, idle), CHI_OK);
  CHECK_INT(chi_bulk_free(queue, &bulk), CHI_OK);
  struct story_add *u = STORY_NEW(queue, story_add);
  CHECK(u);
  u->a = 1;
  CHECK_INT(chi_run(queue, u), CHI_OK);
  CHECK_INT(u->sum, 1);
  chi_queue_close(queue);
  chi_client_close(client);
  m->s->told++;
}

static bool is_waiting(void *arg)
{
  return ((struct mourner *)arg)->waiting;
}

static bool knows(void *arg)
{
  return ((struct mourner *)arg)->knew_at > 0;
}

TEST(story_killed_node_ends_waits_and_comes_back)
{
  for (uint64_t seed = 1; seed <= story_seeds(SEEDS); seed++) {
    struct story s;
    struct mourner m = {.s = &s};
    CHECK_STR(story_begin(&s, seed), "");
    sim_client(s.sim, 0, mourns, &m);
    sim_run_until(s.sim, is_waiting, &m, LONG);
    sim_run_for(s.sim, 300 * STORY_US * seed);
    m.killed_at = sim_now(s.sim);
    if (seed % 2)
      sim_node_kill(s.sim, 0);
    else
      sim_node_crash(s.sim, 0);
    sim_run_until(s.sim, knows, &m, LONG);
    sim_run_for(s.sim, STORY_SECOND);
    int rc = story_start(&s);
    bool idle = sim_run_idle(s.sim, LONG);
    CHECK_STR(story_end(&s), "");
    CHECK_INT(rc, CHI_OK);
    CHECK(idle && s.told == 1);
    CHECK(m.knew_at - m.killed_at < STORY_SECOND);
  }
}

/* At every moment of a client's life: it ends with a code, whatever it was doing. */
static void lives(struct sim_client *c, void *arg)
{
  struct story *s = arg;
  chi_client *client;
  chi_queue *queue;
  chi_bulk from, to;
  int rc = story_attach(c, &client, &queue);
  if (rc == CHI_OK) {
    struct story_bulk *t = STORY_NEW(queue, story_bulk);
    for (int i = 0; i < 50 && t && rc == CHI_OK; i++) {
      rc = chi_bulk_alloc(queue, 100000, &from);
      if (rc == CHI_OK)
        rc = chi_bulk_alloc(queue, 100000, &to);
      t->from = from;
      t->to = to;
      if (rc == CHI_OK)
        rc = chi_run(queue, t);
      if (rc == CHI_OK) {
        chi_bulk_free(queue, &from);
        chi_bulk_free(queue, &to);
      }
    }
    chi_queue_close(queue);
    chi_client_close(client);
  }
  CHECK(rc == CHI_OK || rc == CHI_ESHUTDOWN || rc == CHI_ENODAEMON);
  s->told++;
}

TEST(story_node_killed_at_any_moment)
{
  for (uint64_t i = 0; i < story_seeds(100); i++) {
    struct story s;
    CHECK_STR(story_begin(&s, i), "");
    sim_client(s.sim, 0, lives, &s);
    sim_client(s.sim, 0, lives, &s);
    sim_run_for(s.sim, i * i * 200);
    sim_node_kill(s.sim, 0);
    bool idle = sim_run_idle(s.sim, STORY_SECOND);
    CHECK_STR(story_end(&s), "");
    CHECK(idle);
    CHECK_INT(s.told, 2);
  }
}

static void nobody_there(struct sim_client *c, void *arg)
{
  struct story *s = arg;
  chi_client *client;
  chi_error err;
  uint64_t began = sim_now(s->sim);
  CHECK_INT(sim_client_attach(c, &client, &err), CHI_ENODAEMON);
  CHECK(strstr(err.text, "sim:0"));
  CHECK(sim_now(s->sim) - began < STORY_MS);
  s->told++;
}

TEST(story_no_daemon_is_told_at_once)
{
  struct story s;
  story_open(&s, 1);
  sim_client(s.sim, 0, nobody_there, &s);
  bool idle = sim_run_idle(s.sim, LONG);
  CHECK_STR(story_end(&s), "");
  CHECK(idle && s.told == 1);
}

/* ---- stopping ----------------------------------------------------------------------------- */

struct leaver {
  struct story *s;
  uint64_t ns; /* the task's sleep */
  int rc;      /* what it came back with */
};

static void is_left(struct sim_client *c, void *arg)
{
  struct leaver *l = arg;
  chi_client *client;
  chi_queue *queue;
  CHECK_INT(story_attach(c, &client, &queue), CHI_OK);
  struct story_sleep *t = STORY_NEW(queue, story_sleep);
  CHECK(t);
  t->ns = l->ns;
  l->rc = chi_run(queue, t);
  sim_client_sleep(c, STORY_SECOND);
  CHECK_INT(chi_run(queue, t), CHI_ESHUTDOWN);
  chi_queue_close(queue);
  chi_client_close(client);
  l->s->told++;
}

/* Stop waits for what ends within the grace period, and cancels the rest. */
TEST(story_stop_drains_then_cancels)
{
  for (int patient = 0; patient < 2; patient++) {
    struct story s;
    struct leaver l = {.s = &s, .ns = 50 * STORY_MS};
    CHECK_STR(story_begin(&s, 1), "");
    sim_client(s.sim, 0, is_left, &l);
    sim_run_for(s.sim, 5 * STORY_MS);
    uint64_t began = sim_now(s.sim);
    int rc = sim_node_stop(s.sim, 0, patient ? 1000 : 10);
    uint64_t took = sim_now(s.sim) - began;
    bool idle = sim_run_idle(s.sim, LONG);
    CHECK_STR(story_end(&s), "");
    CHECK_INT(rc, CHI_OK);
    CHECK(idle && s.told == 1);
    CHECK_INT(l.rc, patient ? CHI_OK : CHI_ECANCELLED);
    CHECK(patient ? took > 40 * STORY_MS && took < 60 * STORY_MS : took < 40 * STORY_MS);
  }
}

#define CROWD_MAX 300

struct stopper {
  struct story *s;
  uint32_t grace_ms, flags;
  uint32_t crowd; /* tasks that wait for all work to end, before this one */
  uint64_t cancelled;
};

static void stops_it(struct sim_client *c, void *arg)
{
  struct stopper *w = arg;
  struct chi_admin_flush *crowd[CROWD_MAX];
  chi_client *client;
  chi_queue *queue;
  CHECK_INT(story_attach(c, &client, &queue), CHI_OK);
  for (uint32_t i = 0; i < w->crowd; i++) {
    crowd[i] = CHI_NEW(queue, chi_admin_flush);
    CHECK(crowd[i]);
    crowd[i]->task.pool = CHI_ADMIN_POOL;
    CHECK_INT(chi_submit(queue, crowd[i]), CHI_OK);
  }
  struct chi_admin_stop_runtime *t = CHI_NEW(queue, chi_admin_stop_runtime);
  CHECK(t);
  t->task.pool = CHI_ADMIN_POOL;
  t->flags = w->flags;
  t->grace_period_ms = w->grace_ms;
  CHECK_INT(chi_run(queue, t), CHI_OK);
  w->cancelled = t->cancelled;
  for (uint32_t i = 0; i < w->crowd; i++) /* as many as may wait, and not longer than that */
    CHECK(chi_wait(queue, crowd[i], STORY_SECOND) != CHI_ETIMEOUT);
  chi_queue_close(queue);
  chi_client_close(client);
  w->s->told++;
}

static bool is_stopped(void *arg)
{
  return sim_node_state(((struct story *)arg)->sim, 0) == RUNTIME_STOPPED;
}

/* Lets the node stop within that time, and then the rest end; so many bodies have told of it. */
static void it_stops(struct story *s, uint64_t within, int told)
{
  bool stopped = sim_run_until(s->sim, is_stopped, s, within);
  bool idle = sim_run_idle(s->sim, LONG);
  CHECK_STR(story_end(s), "");
  CHECK(stopped && idle && s->told == told);
}

TEST(story_a_client_stops_the_node)
{
  struct story s;
  struct stopper w = {.s = &s, .grace_ms = 100};
  CHECK_STR(story_begin(&s, 1), "");
  sim_client(s.sim, 0, stops_it, &w);
  bool stopped = sim_run_until(s.sim, is_stopped, &s, LONG);
  bool idle = sim_run_idle(s.sim, LONG);
  int again = story_start(&s);
  CHECK_STR(story_end(&s), "");
  CHECK(stopped && idle && s.told == 1);
  CHECK_INT(again, CHI_OK);
}

/* What was left at the end of the grace period is told, whenever that was: a task of 50 ms ends
 * before, after, or about then, and what was told must be what came of it. */
TEST(story_who_stops_a_node_hears_what_was_cancelled)
{
  bool both[2] = {false, false};
  for (uint32_t grace = 0; grace <= 100; grace++) {
    struct story s;
    struct leaver l = {.s = &s, .ns = 50 * STORY_MS};
    struct stopper w = {.s = &s, .grace_ms = grace, .flags = CHI_STOP_WAIT};
    CHECK_STR(story_begin(&s, grace + 1), "");
    sim_client(s.sim, 0, is_left, &l);
    sim_run_for(s.sim, 5 * STORY_MS);
    sim_client(s.sim, 0, stops_it, &w);
    it_stops(&s, LONG, 2);
    CHECK_INT(w.cancelled, l.rc == CHI_ECANCELLED ? 1 : 0);
    both[w.cancelled] = true;
  }
  CHECK(both[0] && both[1]);
}

TEST(story_a_node_without_work_cancels_nothing)
{
  for (uint32_t grace = 0; grace <= 1; grace++) {
    struct story s;
    struct stopper w = {.s = &s, .grace_ms = grace, .flags = CHI_STOP_WAIT, .cancelled = 77};
    CHECK_STR(story_begin(&s, 1), "");
    sim_client(s.sim, 0, stops_it, &w);
    it_stops(&s, LONG, 1);
    CHECK_INT(w.cancelled, 0);
  }
}

/* Tasks that rest between their runs, for nobody: more often than not none of them runs. */
static void ticks_rarely(struct sim_client *c, void *arg)
{
  struct story *s = arg;
  chi_client *client;
  chi_queue *queue;
  CHECK_INT(story_attach(c, &client, &queue), CHI_OK);
  for (int i = 0; i < 3; i++) {
    struct story_tick *t = STORY_NEW(queue, story_tick);
    CHECK(t);
    t->task.flags = CHI_TASK_PERIODIC;
    t->task.period_us = 1000000;
    CHECK_INT(chi_submit(queue, t), CHI_OK);
  }
  sim_client_sleep(c, LONG);
  chi_queue_close(queue);
  chi_client_close(client);
  s->told++;
}

/* That is no work: nothing of it is lost. */
TEST(story_periodic_tasks_at_rest_are_not_told_as_cancelled)
{
  for (uint32_t grace = 0; grace <= 1; grace++) {
    struct story s;
    struct stopper w = {.s = &s, .grace_ms = grace, .flags = CHI_STOP_WAIT, .cancelled = 77};
    CHECK_STR(story_begin(&s, grace + 1), "");
    sim_client(s.sim, 0, ticks_rarely, &s);
    sim_run_for(s.sim, 10 * STORY_MS);
    sim_client(s.sim, 0, stops_it, &w);
    bool stopped = sim_run_until(s.sim, is_stopped, &s, STORY_SECOND);
    bool idle = sim_run_idle(s.sim, 2 * LONG);
    bool warned = strstr(s.transcript.text, "the grace period is over") != NULL;
    CHECK_STR(story_end(&s), "");
    CHECK(stopped && idle && s.told == 2);
    CHECK_INT(w.cancelled, 0);
    CHECK(!warned);
  }
}

static int crowd_begin(struct story *s, uint64_t seed)
{
  story_open(s, seed);
  s->config.queue_depth = CROWD_MAX + 1;
  return story_start(s);
}

/* As many as may wait at a time don't keep anybody from stopping the node. */
TEST(story_a_node_where_many_wait_is_stopped)
{
  struct story s;
  struct leaver l = {.s = &s, .ns = 50 * STORY_MS};
  struct stopper w = {.s = &s, .grace_ms = 1000, .flags = CHI_STOP_WAIT, .crowd = CROWD_MAX};
  CHECK_INT(crowd_begin(&s, 1), CHI_OK);
  sim_client(s.sim, 0, is_left, &l);
  sim_run_for(s.sim, 5 * STORY_MS);
  sim_client(s.sim, 0, stops_it, &w);
  it_stops(&s, LONG, 2);
  CHECK_INT(l.rc, CHI_OK);
  CHECK_INT(w.cancelled, 0);
}

static void all_stop_it(struct sim_client *c, void *arg)
{
  struct story *s = arg;
  struct chi_admin_stop_runtime *t[CROWD_MAX];
  chi_client *client;
  chi_queue *queue;
  int ended = 0, busy = 0;
  CHECK_INT(story_attach(c, &client, &queue), CHI_OK);
  for (uint32_t i = 0; i < CROWD_MAX; i++) {
    t[i] = CHI_NEW(queue, chi_admin_stop_runtime);
    CHECK(t[i]);
    t[i]->task.pool = CHI_ADMIN_POOL;
    t[i]->flags = CHI_STOP_WAIT;
    t[i]->grace_period_ms = 1000;
    CHECK_INT(chi_submit(queue, t[i]), CHI_OK);
  }
  for (uint32_t i = 0; i < CROWD_MAX; i++) {
    int rc = chi_wait(queue, t[i], LONG);
    ended += rc == CHI_OK;
    busy += rc == CHI_EBUSY;
  }
  CHECK(ended > 256 && busy > 0); /* there is more room than for other tasks that wait */
  CHECK_INT(ended + busy, CROWD_MAX);
  chi_queue_close(queue);
  chi_client_close(client);
  s->told++;
}

/* Whoever is told that too many wait has not kept it from ending. */
TEST(story_a_node_that_too_many_stop_is_stopped)
{
  struct story s;
  struct leaver l = {.s = &s, .ns = 50 * STORY_MS};
  CHECK_INT(crowd_begin(&s, 1), CHI_OK);
  sim_client(s.sim, 0, is_left, &l);
  sim_run_for(s.sim, 5 * STORY_MS);
  sim_client(s.sim, 0, all_stop_it, &s);
  it_stops(&s, STORY_SECOND, 2);
  CHECK_INT(l.rc, CHI_OK);
}

/* Who waits for the end has slept to the end of a nap, but goes on only after a crowd of others:
 * when the grace period ends meanwhile, what was left ends before it looks. */
TEST(story_who_stops_a_node_hears_what_was_cancelled_meanwhile)
{
  for (uint32_t i = 0; i < 40; i++) {
    struct story s;
    struct leaver l = {.s = &s, .ns = STORY_SECOND};
    struct stopper w = {.s = &s, .grace_ms = 1 + i % 4, .flags = CHI_STOP_WAIT, .crowd = 30};
    CHECK_INT(crowd_begin(&s, i + 1), CHI_OK);
    sim_client(s.sim, 0, is_left, &l);
    sim_run_for(s.sim, 5 * STORY_MS);
    sim_costs(s.sim)->step = 10 * STORY_US;
    sim_client(s.sim, 0, stops_it, &w);
    it_stops(&s, LONG, 2);
    CHECK_INT(l.rc, CHI_ECANCELLED);
    CHECK_INT(w.cancelled, 1);
  }
}

/* ---- stuck -------------------------------------------------------------------------------- */

static void gets_stuck(struct sim_client *c, void *arg)
{
  uint64_t *ns = arg;
  chi_client *client;
  chi_queue *queue;
  CHECK_INT(story_attach(c, &client, &queue), CHI_OK);
  struct story_work *t = STORY_NEW(queue, story_work);
  CHECK(t);
  t->ns = *ns;
  CHECK_INT(chi_run(queue, t), CHI_OK);
  chi_client_close(client);
}

/* Another pool, whose container nobody holds. */
static void lives_on(struct sim_client *c, void *arg)
{
  struct witness *w = arg;
  chi_client *client;
  chi_queue *queue[4];
  chi_pool_id id = {400, 0};
  CHECK_INT(sim_client_attach(c, &client, NULL), CHI_OK);
  for (int i = 0; i < 4; i++) /* so that some have the stuck worker for their home */
    CHECK_INT(chi_queue_open(client, &queue[i], NULL), CHI_OK);
  CHECK_INT(chi_pool_create(queue[0], "story", "other", NULL, 0, &id, NULL), CHI_OK);
  for (int i = 0; i < 100; i++) {
    struct story_add *t = STORY_NEW(queue[i % 4], story_add);
    CHECK(t);
    t->task.pool = id;
    CHECK_INT(chi_run(queue[i % 4], t), CHI_OK);
    w->sum++;
  }
  for (int i = 0; i < 4; i++)
    chi_queue_close(queue[i]);
  chi_client_close(client);
  w->s->told++;
}

/* A method that doesn't come back holds up its container, but neither the other work of its worker
 * nor anybody else; the node can't stop, and says so. */
TEST(story_stuck_method_is_taken_over)
{
  for (uint64_t seed = 1; seed <= story_seeds(SEEDS); seed++) {
    struct story s;
    struct witness w = {.s = &s};
    uint64_t forever = UINT64_MAX;
    CHECK_STR(story_begin(&s, seed), "");
    uint32_t stuck = sim_client(s.sim, 0, gets_stuck, &forever);
    sim_run_for(s.sim, STORY_MS);
    uint32_t other = sim_client(s.sim, 0, lives_on, &w);
    sim_run_for(s.sim, LONG);
    bool told = story_tells(&s, "is stuck: worker", NULL);
    int rc = sim_node_stop(s.sim, 0, 50);
    enum runtime_state state = sim_node_state(s.sim, 0);
    bool ended = sim_client_ended(s.sim, other) && !sim_client_ended(s.sim, stuck);
    const char *failure = sim_failure(s.sim) ? sim_failure(s.sim) : "";
    CHECK_STR(failure, "");
    story_close(&s);
    CHECK(told && ended);
    CHECK_INT(w.sum, 100);
    CHECK_INT(rc, CHI_EBUSY);
    CHECK_INT(state, RUNTIME_STUCK);
  }
}

/* One that comes back after all lets everything end as usual. */
TEST(story_stuck_method_comes_back)
{
  for (uint64_t seed = 1; seed <= story_seeds(SEEDS); seed++) {
    struct story s;
    struct witness w = {.s = &s};
    uint64_t while_long = STORY_SECOND;
    CHECK_STR(story_begin(&s, seed), "");
    sim_client(s.sim, 0, gets_stuck, &while_long);
    sim_run_for(s.sim, STORY_MS);
    sim_client(s.sim, 0, lives_on, &w);
    bool idle = sim_run_idle(s.sim, LONG);
    bool told = story_tells(&s, "is stuck: worker", NULL);
    CHECK_STR(story_end(&s), "");
    CHECK(idle && told);
    CHECK_INT(w.sum, 100);
  }
}
