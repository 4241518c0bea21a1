/* test_story_birth.c - tasks inside the node for pools that are still in creation. */
#include "story.h"

#define NEST ((chi_pool_id){330, 0})
#define TICK_US 10000u

/* ---- a module that begins to work in its create */

struct nest {
  uint32_t ticks;
};
static struct {
  int started, waited, called; /* codes of what create has done */
  uint32_t ticks;
} nest_seen;

#define NEST_PARAMS(X, T) X(T, IN, duration, takes, "0") X(T, IN, i32, result, "0")
CHI_STRUCT(nest_params, NEST_PARAMS)
CHI_TASK(nest_tick, 10, CHI_NO_FIELDS)
#define NEST_ASK(X, T) X(T, OUT, u32, ticks)
CHI_TASK(nest_ask, 11, NEST_ASK)
/* Asks the pool, in a subtask with that deadline. */
#define NEST_RELAY(X, T) X(T, IN, u32, deadline_ms) X(T, OUT, u32, ticks)
CHI_TASK(nest_relay, 12, NEST_RELAY)

static int nest_tick_run(chi_ctx *ctx, struct nest *self, struct nest_tick *t)
{
  (void)ctx, (void)t;
  nest_seen.ticks = ++self->ticks;
  return CHI_OK;
}

static int nest_ask_run(chi_ctx *ctx, struct nest *self, struct nest_ask *t)
{
  (void)ctx;
  t->ticks = self->ticks;
  return CHI_OK;
}

static int nest_relay_run(chi_ctx *ctx, struct nest *self, struct nest_relay *t)
{
  struct nest_ask *sub = chi_subtask_new(ctx, &nest_ask_type);
  (void)self;
  if (!sub)
    return CHI_ENOMEM;
  sub->task.pool = NEST;
  sub->task.deadline_ms = t->deadline_ms;
  int rc = chi_call(ctx, sub);
  t->ticks = sub->ticks;
  return rc;
}

/* A call of the pool by way of another one: that waits for us, and we for it. */
static int nest_call_around(chi_ctx *ctx)
{
  struct nest_relay *sub = chi_subtask_new(ctx, &nest_relay_type);
  if (!sub)
    return CHI_ENOMEM;
  sub->task.pool = (chi_pool_id){331, 0};
  return chi_call(ctx, sub);
}

static int nest_create(chi_ctx *ctx, void *self, const void *params)
{
  const struct nest_params *p = params;
  struct nest_tick *tick = chi_subtask_new(ctx, &nest_tick_type);
  struct nest_ask *ask = chi_subtask_new(ctx, &nest_ask_type);
  (void)self;
  if (!tick || !ask)
    return CHI_ENOMEM;
  tick->task.pool = ask->task.pool = chi_self_pool(ctx);
  tick->task.flags = CHI_TASK_FORGET | CHI_TASK_PERIODIC;
  tick->task.period_us = TICK_US;
  nest_seen.started = chi_subtask_submit(ctx, tick);
  nest_seen.waited = chi_call(ctx, ask);
  nest_seen.called = nest_call_around(ctx);
  int rc = p->takes ? chi_sleep(ctx, p->takes) : CHI_OK;
  return rc ? rc : p->result;
}

#define NEST_METHODS(M, S) M(S, nest_tick) M(S, nest_ask) M(S, nest_relay)
CHI_METHODS(nest, NEST_METHODS)
static const chi_module nest_module = {.version = CHI_MODULE_VERSION,
                                       .name = "nest",
                                       .state_size = sizeof(struct nest),
                                       .params = &nest_params_type,
                                       .methods = nest_methods,
                                       .create = nest_create};

/* The same methods for the one who only passes on. */
static const chi_module crow_module = {.version = CHI_MODULE_VERSION,
                                       .name = "crow",
                                       .state_size = sizeof(struct nest),
                                       .methods = nest_methods};

/* ---- its clients */

struct birth {
  const char *takes, *result;
  uint32_t deadline_ms;
  bool cancels, at_once;
  bool direct; /* by the client's own task, without a subtask */
  int created, asked;
  uint64_t asked_at, created_at;
  uint32_t ticks;
};

static void makes_nest(struct sim_client *c, void *arg)
{
  struct birth *b = arg;
  chi_param params[] = {{(char *)(uintptr_t) "takes", (char *)(uintptr_t)b->takes, 0, 0},
                        {(char *)(uintptr_t) "result", (char *)(uintptr_t)b->result, 0, 0}};
  chi_pool_id id = NEST;
  chi_client *client;
  chi_queue *queue;
  CHECK_INT(story_attach(c, &client, &queue), CHI_OK);
  b->created = chi_pool_create(queue, "nest", "nest", params, 2, &id, NULL);
  b->created_at = sim_now(sim_client_sim(c));
  chi_client_close(client);
}

static chi_task *question(chi_queue *queue, const struct birth *b)
{
  if (b->direct) {
    struct nest_ask *t = CHI_NEW(queue, nest_ask);
    t->task.pool = NEST;
    t->task.deadline_ms = b->deadline_ms;
    return &t->task;
  }
  struct nest_relay *t = CHI_NEW(queue, nest_relay);
  t->task.pool = (chi_pool_id){331, 0};
  t->deadline_ms = b->deadline_ms;
  return &t->task;
}

static void asks_nest(struct sim_client *c, void *arg)
{
  struct birth *b = arg;
  chi_client *client;
  chi_queue *queue;
  CHECK_INT(story_attach(c, &client, &queue), CHI_OK);
  sim_client_sleep(c, 10 * STORY_MS);
  chi_task *t = question(queue, b);
  CHECK_INT(chi_submit(queue, t), CHI_OK);
  if (b->cancels) {
    if (!b->at_once)
      sim_client_sleep(c, 5 * STORY_MS);
    chi_cancel(queue, t);
  }
  b->asked = chi_wait(queue, t, UINT64_MAX);
  b->asked_at = sim_now(sim_client_sim(c));
  b->ticks = b->direct ? ((struct nest_ask *)t)->ticks : ((struct nest_relay *)t)->ticks;
  chi_client_close(client);
}

static void birth_tell(struct birth *b, uint64_t seed)
{
  const chi_module *modules[] = {&story_module, &nest_module, &crow_module};
  chi_compose_entry *entry;
  struct story s;
  memset(&nest_seen, 0, sizeof nest_seen);
  story_open(&s, seed);
  CHECK_INT(chi_config_add_pool(&s.config, "crow", "crow", "local", 331, 0, &entry), CHI_OK);
  CHECK_INT(sim_node_start(s.sim, 0, &s.config, modules, 3, &s.error), CHI_OK);
  sim_client(s.sim, 0, makes_nest, b);
  sim_client(s.sim, 0, asks_nest, b);
  sim_run_for(s.sim, 500 * STORY_MS);
  CHECK_STR(story_end(&s), "");
}

/* ---- stories */

TEST(story_subtask_waits_for_a_pool_in_creation)
{
  for (uint64_t seed = 1; seed <= story_seeds(10); seed++) {
    struct birth b = {.takes = "50ms", .result = "0", .asked = 1};
    birth_tell(&b, seed);
    CHECK_INT(b.created, CHI_OK);
    CHECK_INT(b.asked, CHI_OK);
    CHECK(b.asked_at > STORY_SECOND + 50 * STORY_MS);
  }
}

TEST(story_periodic_task_is_started_in_create)
{
  struct birth b = {.takes = "50ms", .result = "0"};
  birth_tell(&b, 1);
  CHECK_INT(nest_seen.started, CHI_OK);
  CHECK(nest_seen.ticks > 30 && nest_seen.ticks < 50); /* from the end of create on */
}

/* A create would wait for itself, there and by way of another pool. */
TEST(story_create_is_told_that_it_would_wait_for_itself)
{
  struct birth b = {.takes = "1ms", .result = "0"};
  birth_tell(&b, 1);
  CHECK_INT(b.created, CHI_OK);
  CHECK_INT(nest_seen.waited, CHI_EDEADLOCK);
  CHECK_INT(nest_seen.called, CHI_EDEADLOCK);
}

TEST(story_subtasks_for_a_pool_that_is_not_made_end)
{
  struct birth b = {.takes = "50ms", .result = "-14", .asked = 1};
  birth_tell(&b, 1);
  CHECK_INT(b.created, CHI_EIO);
  CHECK_INT(b.asked, CHI_ENOENT);
  CHECK_INT(nest_seen.started, CHI_OK);
  CHECK_INT(nest_seen.ticks, 0);
}

TEST(story_subtask_for_a_pool_in_creation_has_its_deadline)
{
  struct birth b = {.takes = "200ms", .result = "0", .deadline_ms = 5, .asked = 1};
  birth_tell(&b, 1);
  CHECK_INT(b.asked, CHI_ETIMEOUT);
  CHECK(b.asked_at < STORY_SECOND + 50 * STORY_MS);
  CHECK_INT(b.created, CHI_OK);
}

TEST(story_subtask_for_a_pool_in_creation_is_cancelled)
{
  struct birth b = {.takes = "200ms", .result = "0", .cancels = true, .asked = 1};
  birth_tell(&b, 1);
  CHECK_INT(b.asked, CHI_ECANCELLED);
  CHECK(b.asked_at < STORY_SECOND + 50 * STORY_MS);
}

TEST(story_task_for_a_pool_in_creation_has_its_deadline)
{
  struct birth b = {.takes = "200ms", .result = "0", .deadline_ms = 5, .direct = true, .asked = 1};
  birth_tell(&b, 1);
  CHECK_INT(b.asked, CHI_ETIMEOUT);
  CHECK(b.asked_at < STORY_SECOND + 50 * STORY_MS);
  CHECK_INT(b.created, CHI_OK);
}

/* It is counted from the submission, not from when the pool is there. */
TEST(story_deadline_outlasts_a_pool_in_creation)
{
  struct birth b = {
      .takes = "200ms", .result = "0", .deadline_ms = 400, .direct = true, .asked = 1};
  birth_tell(&b, 1);
  CHECK_INT(b.asked, CHI_OK);
}

TEST(story_task_for_a_pool_in_creation_is_cancelled)
{
  struct birth b = {.takes = "200ms", .result = "0", .cancels = true, .direct = true, .asked = 1};
  birth_tell(&b, 1);
  CHECK_INT(b.asked, CHI_ECANCELLED);
  CHECK(b.asked_at < STORY_SECOND + 50 * STORY_MS);
}

/* The worker that has taken it hears of the cancellation before it has come to where it waits. */
TEST(story_task_on_its_way_to_a_pool_in_creation_is_cancelled)
{
  for (uint64_t seed = 1; seed <= story_seeds(10); seed++) {
    struct birth b = {.takes = "200ms",
                      .result = "0",
                      .cancels = true,
                      .at_once = true,
                      .direct = true,
                      .asked = 1};
    birth_tell(&b, seed);
    CHECK_INT(b.asked, CHI_ECANCELLED);
    CHECK(b.asked_at < STORY_SECOND + 50 * STORY_MS);
  }
}
