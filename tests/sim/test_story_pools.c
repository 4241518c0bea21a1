/* test_story_pools.c - pools that are composed, created by many at once, fail, and are destroyed.
 */
#include "story.h"

#define LONG (10 * STORY_SECOND)
#define SEEDS 8

/* A module whose containers take their time to come and go, and are counted. */
struct late {
  bool ready;
};
static int late_alive, late_ended;

#define LATE_PARAMS(X, T) X(T, IN, duration, takes, "0") X(T, IN, i32, result, "0")
CHI_STRUCT(late_params, LATE_PARAMS)
#define LATE_ASK(X, T) X(T, OUT, bool, ready)
CHI_TASK(late_ask, 10, LATE_ASK)

static int late_ask_run(chi_ctx *ctx, struct late *self, struct late_ask *t)
{
  int rc = chi_sleep(ctx, STORY_MS);
  t->ready = self->ready;
  return rc;
}

static int late_create(chi_ctx *ctx, void *self, const void *params)
{
  const struct late_params *p = params;
  int rc = p->takes ? chi_sleep(ctx, p->takes) : CHI_OK;
  if (rc || p->result)
    return rc ? rc : p->result;
  ((struct late *)self)->ready = true;
  late_alive++;
  return CHI_OK;
}

static void late_destroy(chi_ctx *ctx, void *self)
{
  (void)ctx;
  ((struct late *)self)->ready = false;
  late_alive--;
  late_ended++;
}

#define LATE_METHODS(M, S) M(S, late_ask)
CHI_METHODS(late, LATE_METHODS)
static const chi_module late_module = {.version = CHI_MODULE_VERSION,
                                       .name = "late",
                                       .state_size = sizeof(struct late),
                                       .params = &late_params_type,
                                       .methods = late_methods,
                                       .create = late_create,
                                       .destroy = late_destroy};

static chi_compose_entry *late_entry(struct story *s, const char *mod_name)
{
  chi_compose_entry *entry;
  if (chi_config_add_pool(&s->config, mod_name, "late", "local", 310, 0, &entry) != CHI_OK)
    return NULL;
  return entry;
}

static void late_open(struct story *s, uint64_t seed)
{
  late_alive = late_ended = 0;
  story_open(s, seed);
}

static int late_start(struct story *s)
{
  const chi_module *modules[] = {&story_module, &late_module};
  return sim_node_start(s->sim, 0, &s->config, modules, 2, &s->error);
}

/* ---- composed ----------------------------------------------------------------------------- */

TEST(story_composed_pools_are_there_before_the_node_serves)
{
  struct story s;
  late_open(&s, 1);
  int added = chi_config_add_param(late_entry(&s, "late"), "takes", "30ms");
  int rc = late_start(&s);
  int alive = late_alive;
  uint64_t took = sim_now(s.sim) - STORY_SECOND;
  CHECK_STR(story_end(&s), "");
  CHECK_INT(added, CHI_OK);
  CHECK_INT(rc, CHI_OK);
  CHECK_INT(alive, 1);
  CHECK(took > 30 * STORY_MS && took < 31 * STORY_MS);
  CHECK_INT(late_alive, 0);
  CHECK_INT(late_ended, 1);
}

/* The first failure stops the node, names the entry, and leaves nothing behind. */
TEST(story_composed_pool_that_fails_is_named)
{
  static const struct {
    const char *module, *param, *value;
    int want;
    const char *named;
  } bad[] = {{"nowhere", NULL, NULL, CHI_ENOMODULE, "nowhere"},
             {"late", "result", "-14", CHI_EIO, "late"},
             {"late", "result", "many", CHI_EINVAL, "result"},
             {"late", "colour", "red", CHI_ENOENT, "colour"}};
  for (size_t i = 0; i < CHI_COUNT(bad); i++) {
    struct story s;
    late_open(&s, i);
    chi_compose_entry *entry = late_entry(&s, bad[i].module);
    if (bad[i].param)
      chi_config_add_param(entry, bad[i].param, bad[i].value);
    int rc = late_start(&s);
    bool named = strstr(s.error.text, bad[i].named) != NULL;
    enum runtime_state state = sim_node_state(s.sim, 0);
    CHECK_STR(story_end(&s), "");
    CHECK_INT(rc, bad[i].want);
    CHECK(named);
    CHECK_INT(state, RUNTIME_STOPPED);
    CHECK_INT(late_alive, 0);
  }
}

/* ---- created by clients ------------------------------------------------------------------- */

struct maker {
  struct story *s;
  const char *takes;
  int created[4], asked[4], count;
};

/* Creates the pool, as others do at the same time, and uses it at once. */
static void makes(struct sim_client *c, void *arg)
{
  struct maker *m = arg;
  int me = m->count++;
  chi_param params[] = {{(char *)(uintptr_t) "takes", (char *)(uintptr_t)m->takes, 0, 0}};
  chi_pool_id id = {320, 0};
  chi_client *client;
  chi_queue *queue;
  chi_error err = {0};
  CHECK_INT(story_attach(c, &client, &queue), CHI_OK);
  m->created[me] = chi_pool_create(queue, "late", "shared", params, 1, &id, &err);
  CHECK_STR(err.text, "");
  struct late_ask *t = CHI_NEW(queue, late_ask);
  CHECK(t);
  t->task.pool = (chi_pool_id){320, 0};
  m->asked[me] = chi_run(queue, t);
  CHECK(m->asked[me] != CHI_OK || t->ready);
  chi_client_close(client);
  m->s->told++;
}

/* A container never serves before its create has run, and is created once. */
TEST(story_pool_created_by_many_is_created_once)
{
  for (uint64_t seed = 1; seed <= story_seeds(SEEDS); seed++) {
    struct story s;
    struct maker m = {.s = &s, .takes = seed % 2 ? "5ms" : "0"};
    late_open(&s, seed);
    int rc = late_start(&s);
    for (int i = 0; i < 4; i++)
      sim_client(s.sim, 0, makes, &m);
    bool idle = sim_run_idle(s.sim, LONG);
    int alive = late_alive;
    CHECK_STR(story_end(&s), "");
    CHECK(rc == CHI_OK && idle && s.told == 4);
    CHECK_INT(alive, 1);
    CHECK_INT(late_ended, 1);
    for (int i = 0; i < 4; i++)
      CHECK(m.created[i] == CHI_OK && m.asked[i] == CHI_OK);
  }
}

static void asks_early(struct sim_client *c, void *arg)
{
  struct maker *m = arg;
  chi_client *client;
  chi_queue *queue;
  CHECK_INT(story_attach(c, &client, &queue), CHI_OK);
  sim_client_sleep(c, 2 * STORY_MS); /* the other one has begun to create it */
  struct late_ask *t = CHI_NEW(queue, late_ask);
  CHECK(t);
  t->task.pool = (chi_pool_id){320, 0};
  m->asked[1] = chi_run(queue, t);
  CHECK_INT(t->ready, 1);
  chi_client_close(client);
  m->s->told++;
}

TEST(story_tasks_wait_for_a_pool_in_creation)
{
  for (uint64_t seed = 1; seed <= story_seeds(SEEDS); seed++) {
    struct story s;
    struct maker m = {.s = &s, .takes = "50ms"};
    late_open(&s, seed);
    int rc = late_start(&s);
    sim_client(s.sim, 0, makes, &m);
    sim_client(s.sim, 0, asks_early, &m);
    bool idle = sim_run_idle(s.sim, LONG);
    CHECK_STR(story_end(&s), "");
    CHECK(rc == CHI_OK && idle && s.told == 2);
    CHECK_INT(m.asked[1], CHI_OK);
  }
}

static void quarrels(struct sim_client *c, void *arg)
{
  struct story *s = arg;
  chi_param params[] = {{(char *)(uintptr_t) "takes", (char *)(uintptr_t) "1ms", 0, 0}};
  chi_pool_id id = {330, 0}, other = {331, 0};
  chi_client *client;
  chi_queue *queue;
  chi_error err;
  CHECK_INT(story_attach(c, &client, &queue), CHI_OK);
  CHECK_INT(chi_pool_create(queue, "late", "mine", NULL, 0, &id, &err), CHI_OK);
  CHECK_INT(chi_pool_create(queue, "late", "mine", NULL, 0, &other, &err), CHI_OK);
  CHECK_INT(other.major, 330); /* by name: it is there */
  CHECK_INT(chi_pool_create(queue, "late", "yours", NULL, 0, &id, &err), CHI_ECONFLICT);
  CHECK_INT(chi_pool_create(queue, "story", "mine", NULL, 0, &id, &err), CHI_ECONFLICT);
  CHECK_INT(chi_pool_create(queue, "late", "mine", params, 1, &id, &err), CHI_ECONFLICT);
  CHECK_INT(chi_pool_find(queue, "mine", &other), CHI_OK);
  CHECK_INT(other.major, 330);
  CHECK_INT(chi_pool_find(queue, "yours", &other), CHI_ENOENT);
  id = (chi_pool_id){0, 0};
  CHECK_INT(chi_pool_create(queue, "late", "null", NULL, 0, &id, &err), CHI_EINVAL);
  id = (chi_pool_id){340, 0};
  CHECK_INT(chi_pool_create(queue, "nowhere", "new", NULL, 0, &id, &err), CHI_ENOMODULE);
  CHECK_INT(chi_pool_destroy(queue, id, &err), CHI_ENOENT);
  CHECK_INT(chi_pool_destroy(queue, CHI_ADMIN_POOL, &err), CHI_EINVAL);
  chi_client_close(client);
  s->told++;
}

TEST(story_pools_that_conflict)
{
  struct story s;
  late_open(&s, 1);
  int rc = late_start(&s);
  sim_client(s.sim, 0, quarrels, &s);
  bool idle = sim_run_idle(s.sim, LONG);
  CHECK_STR(story_end(&s), "");
  CHECK(rc == CHI_OK && idle && s.told == 1);
}

/* ---- destroyed ---------------------------------------------------------------------------- */

static void destroys(struct sim_client *c, void *arg)
{
  struct story *s = arg;
  chi_client *client;
  chi_queue *queue;
  chi_pool_id id = {320, 0};
  void *tasks[10];
  CHECK_INT(story_attach(c, &client, &queue), CHI_OK);
  for (int round = 1; round <= 3; round++) {
    CHECK_INT(chi_pool_create(queue, "late", "again", NULL, 0, &id, NULL), CHI_OK);
    CHECK_INT(late_alive, 1);
    for (int i = 0; i < 10; i++) {
      struct late_ask *t = CHI_NEW(queue, late_ask);
      CHECK(t);
      t->task.pool = id;
      tasks[i] = t;
    }
    CHECK_INT(chi_submit_many(queue, tasks, 10), 10);
    sim_client_sleep(c, 100 * STORY_US); /* they have been accepted */
    CHECK_INT(chi_pool_destroy(queue, id, NULL), CHI_OK);
    CHECK_INT(late_alive, 0);
    CHECK_INT(late_ended, round);
    for (int i = 0; i < 10; i++) {
      CHECK_INT(chi_wait(queue, tasks[i], UINT64_MAX), CHI_OK);
      CHECK_INT(((struct late_ask *)tasks[i])->ready, 1); /* before its container went */
    }
    CHECK_INT(chi_run(queue, tasks[0]), CHI_ENOENT);
    for (int i = 0; i < 10; i++)
      CHECK_INT(chi_task_free(queue, tasks[i]), CHI_OK);
  }
  chi_client_close(client);
  s->told++;
}

/* Destroying a pool destroys its container, after its last task; and it can come again. */
TEST(story_destroyed_pool_is_gone)
{
  for (uint64_t seed = 1; seed <= story_seeds(SEEDS); seed++) {
    struct story s;
    late_open(&s, seed);
    int rc = late_start(&s);
    sim_client(s.sim, 0, destroys, &s);
    bool idle = sim_run_idle(s.sim, LONG);
    CHECK_STR(story_end(&s), "");
    CHECK(rc == CHI_OK && idle && s.told == 1);
  }
}

/* ---- nodes beside each other -------------------------------------------------------------- */

static void on_its_own(struct sim_client *c, void *arg)
{
  struct story *s = arg;
  chi_client *client;
  chi_queue *queue;
  CHECK_INT(story_attach(c, &client, &queue), CHI_OK);
  struct story_tick *t = STORY_NEW(queue, story_tick);
  CHECK(t);
  for (int i = 0; i < 50; i++) {
    CHECK_INT(chi_run(queue, t), CHI_OK);
    CHECK_INT(t->ticks, i + 1); /* nobody else's container */
    sim_client_sleep(c, 100 * STORY_US);
  }
  chi_client_close(client);
  s->told++;
}

/* Many nodes live in one process and share nothing. */
TEST(story_two_nodes_in_one_process)
{
  struct story s;
  CHECK_STR(story_begin(&s, 1), "");
  int rc = sim_node_start(s.sim, 1, &s.config, s.modules, 1, &s.error);
  int third = sim_node_start(s.sim, 2, &s.config, s.modules, 1, &s.error);
  sim_client(s.sim, 0, on_its_own, &s);
  sim_client(s.sim, 1, on_its_own, &s);
  sim_run_for(s.sim, STORY_MS);
  sim_node_kill(s.sim, 2);
  bool idle = sim_run_idle(s.sim, LONG);
  int stopped = sim_node_stop(s.sim, 1, 10);
  CHECK_STR(story_end(&s), "");
  CHECK_INT(rc, CHI_OK);
  CHECK_INT(third, CHI_OK);
  CHECK_INT(stopped, CHI_OK);
  CHECK(idle && s.told == 2);
}
