/* test_story_monitor.c - figures that modules write of themselves: theirs, or why they are missing,
 * and never at the cost of the rest. */
#include "json.h"
#include "story.h"

#include <stdio.h>
#include <stdlib.h>

#define LONG (10 * STORY_SECOND)
#define GAUGE_ROOM (256u << 10)

/* What the module writes, as its pool is told to. */
enum gauge_kind {
  GAUGE_GOOD,
  GAUGE_NOTHING,
  GAUGE_WILD,  /* no JSON */
  GAUGE_HALF,  /* its text is shorter than it says */
  GAUGE_LONG,  /* all of the room, and it says more */
  GAUGE_FULL,  /* the largest that fits */
  GAUGE_FAILS,
  GAUGE_SLEEPS /* a second, then good */
};

struct gauge {
  uint64_t kind, calls, inside, most;
};

#define GAUGE_PARAMS(X, T) X(T, IN, u64, kind, "0")
CHI_STRUCT(gauge_params, GAUGE_PARAMS)
/* Uses so much CPU, or blocks so long, inside the container. */
#define GAUGE_HOLD(X, T) X(T, IN, u64, cpu) X(T, IN, u64, sleep)
CHI_TASK(gauge_hold, 10, GAUGE_HOLD)

static int gauge_hold_run(chi_ctx *ctx, struct gauge *self, struct gauge_hold *t)
{
  self->inside++;
  sim_cpu(story_sim, t->cpu);
  self->most = self->inside > self->most ? self->inside : self->most;
  self->inside--;
  return t->sleep ? chi_sleep(ctx, t->sleep) : CHI_OK;
}

static int gauge_create(chi_ctx *ctx, void *self, const void *params)
{
  (void)ctx;
  ((struct gauge *)self)->kind = ((const struct gauge_params *)params)->kind;
  return CHI_OK;
}

static int gauge_monitor(chi_ctx *ctx, void *state, char *json, size_t room)
{
  struct gauge *self = state;
  int size = 0;
  self->calls++;
  self->inside++;
  self->most = self->inside > self->most ? self->inside : self->most;
  self->inside--;
  if (self->kind == GAUGE_NOTHING)
    return 0;
  if (self->kind == GAUGE_FAILS)
    return CHI_EIO;
  if (self->kind == GAUGE_SLEEPS && chi_sleep(ctx, STORY_SECOND) != CHI_OK)
    return CHI_ECANCELLED;
  if (self->kind == GAUGE_LONG || self->kind == GAUGE_FULL) {
    memset(json, ' ', room);
    memcpy(json, "{}", 2);
    return (int)room - (self->kind == GAUGE_FULL);
  }
  size = snprintf(json, room, "{\"calls\":%llu,\"most\":%llu,\"pool\":\"%s\"}",
                  (unsigned long long)self->calls, (unsigned long long)self->most,
                  chi_self_pool_name(ctx));
  return self->kind == GAUGE_WILD ? size - 1 : self->kind == GAUGE_HALF ? size + 1 : size;
}

/* Logs so many lines at once. */
#define GAUGE_SAY(X, T) X(T, IN, u64, lines)
CHI_TASK(gauge_say, 11, GAUGE_SAY)

static int gauge_say_run(chi_ctx *ctx, struct gauge *self, struct gauge_say *t)
{
  (void)self;
  for (uint64_t i = 0; i < t->lines; i++)
    chi_log(ctx, CHI_LOG_WARNING, "again: %llu", (unsigned long long)i);
  return CHI_OK;
}

#define GAUGE_METHODS(M, S) M(S, gauge_hold) M(S, gauge_say)
CHI_METHODS(gauge, GAUGE_METHODS)
static const chi_module gauge_module = {.version = CHI_MODULE_VERSION,
                                        .name = "gauge",
                                        .state_size = sizeof(struct gauge),
                                        .params = &gauge_params_type,
                                        .methods = gauge_methods,
                                        .create = gauge_create,
                                        .monitor = gauge_monitor};

/* A node with a pool of each kind up to `last`: "g0" is 400.0, and so on. */
static int gauge_start(struct story *s, uint64_t seed, int last)
{
  const chi_module *modules[] = {&story_module, &gauge_module};
  story_open(s, seed);
  for (int i = 0; i <= last; i++) {
    char name[16], kind[16];
    chi_compose_entry *entry;
    snprintf(name, sizeof name, "g%d", i);
    snprintf(kind, sizeof kind, "%d", i);
    if (chi_config_add_pool(&s->config, "gauge", name, "local", 400 + (uint32_t)i, 0, &entry) ||
        chi_config_add_param(entry, "kind", kind))
      abort();
  }
  return sim_node_start(s->sim, 0, &s->config, modules, 2, &s->error);
}

/* What admin.monitor says, parsed; *took: how long it needed. NULL: it failed, or it is no JSON. */
static struct json *gauge_ask(chi_queue *queue, struct sim *sim, uint64_t *took)
{
  struct chi_admin_monitor *t = CHI_NEW(queue, chi_admin_monitor);
  struct json *json = NULL;
  chi_error err = {0};
  if (!t || chi_bulk_alloc(queue, GAUGE_ROOM, &t->json) != CHI_OK)
    return NULL;
  t->task.pool = CHI_ADMIN_POOL;
  *took = sim_now(sim);
  int rc = chi_run(queue, t);
  *took = sim_now(sim) - *took;
  if (rc == CHI_OK && t->size == t->json.size)
    json_parse(t->json.data, t->json.size, &json, &err);
  chi_bulk_free(queue, &t->json);
  chi_task_free(queue, t);
  return json;
}

static const struct json *gauge_pool(const struct json *json, const char *name)
{
  const struct json *p = json_list(json, "pools");
  while (p && strcmp(json_string(p, "name", ""), name) != 0)
    p = p->next;
  return p;
}

static uint64_t gauge_figure(const struct json *json, const char *pool, const char *name)
{
  return json_integer(json_get(gauge_pool(json, pool), "figures"), name, 999);
}

static const char *gauge_missing(const struct json *json, const char *pool)
{
  const struct json *p = gauge_pool(json, pool);
  return !p ? "no pool" : json_get(p, "figures") ? "figures" : json_string(p, "no_figures", "");
}

/* ---- whatever a module writes -------------------------------------------------------------- */

static void sees_all_kinds(struct sim_client *c, void *arg)
{
  struct story *s = arg;
  chi_client *client;
  chi_queue *queue;
  uint64_t took;
  CHECK_INT(story_attach(c, &client, &queue), CHI_OK);
  struct json *json = gauge_ask(queue, s->sim, &took);
  CHECK(json);
  CHECK_STR(gauge_missing(json, "g0"), "figures");
  CHECK_INT(gauge_figure(json, "g0", "calls"), 1);
  CHECK_STR(json_string(json_get(gauge_pool(json, "g0"), "figures"), "pool", ""), "g0");
  CHECK_STR(gauge_missing(json, "g1"), "invalid");
  CHECK_STR(gauge_missing(json, "g2"), "invalid");
  CHECK_STR(gauge_missing(json, "g3"), "invalid");
  CHECK_STR(gauge_missing(json, "g4"), "too big");
  CHECK_STR(gauge_missing(json, "g5"), "figures");
  CHECK_STR(gauge_missing(json, "g6"), "failed");
  CHECK_STR(gauge_missing(json, "admin"), "");
  CHECK_STR(gauge_missing(json, "story"), "");
  CHECK(took < 20 * STORY_MS);
  json_free(json);
  json = gauge_ask(queue, s->sim, &took);
  CHECK_INT(gauge_figure(json, "g0", "calls"), 2);
  json_free(json);
  chi_client_close(client);
  s->told++;
}

TEST(story_figures_are_sound_or_left_out)
{
  for (uint64_t seed = 1; seed <= story_seeds(8); seed++) {
    struct story s;
    int rc = gauge_start(&s, seed, GAUGE_FAILS);
    sim_client(s.sim, 0, sees_all_kinds, &s);
    bool idle = sim_run_idle(s.sim, LONG);
    CHECK_STR(story_end(&s), "");
    CHECK(rc == CHI_OK && idle && s.told == 1);
  }
}

/* ---- a container that is busy ---------------------------------------------------------------- */

static void sees_busy(struct sim_client *c, void *arg)
{
  struct story *s = arg;
  chi_client *client;
  chi_queue *queue;
  uint64_t took;
  CHECK_INT(story_attach(c, &client, &queue), CHI_OK);
  struct gauge_hold *t = CHI_NEW(queue, gauge_hold);
  CHECK(t);
  t->task.pool = (chi_pool_id){400, 0};
  t->cpu = STORY_SECOND;
  CHECK_INT(chi_submit(queue, t), CHI_OK);
  sim_client_sleep(c, STORY_MS);
  for (int i = 0; i < 3; i++) {
    struct json *json = gauge_ask(queue, s->sim, &took);
    CHECK_STR(gauge_missing(json, "g0"), "busy");
    CHECK(took >= 200 * STORY_MS && took < 210 * STORY_MS);
    json_free(json);
  }
  CHECK_INT(chi_wait(queue, t, UINT64_MAX), CHI_OK);
  sim_client_sleep(c, 50 * STORY_MS);
  struct json *json = gauge_ask(queue, s->sim, &took);
  CHECK_INT(gauge_figure(json, "g0", "calls"), 2); /* one for all that were in vain */
  CHECK_INT(gauge_figure(json, "g0", "most"), 1);  /* never beside a method */
  CHECK(took < 20 * STORY_MS);
  json_free(json);
  t->cpu = 0; /* one that only waits leaves its container to others */
  t->sleep = STORY_SECOND;
  CHECK_INT(chi_submit(queue, t), CHI_OK);
  sim_client_sleep(c, STORY_MS);
  json = gauge_ask(queue, s->sim, &took);
  CHECK_INT(gauge_figure(json, "g0", "calls"), 3);
  json_free(json);
  CHECK_INT(chi_wait(queue, t, UINT64_MAX), CHI_OK);
  chi_client_close(client);
  s->told++;
}

TEST(story_busy_container_holds_up_no_figures)
{
  for (uint64_t seed = 1; seed <= story_seeds(8); seed++) {
    struct story s;
    int rc = gauge_start(&s, seed, GAUGE_GOOD);
    sim_client(s.sim, 0, sees_busy, &s);
    bool idle = sim_run_idle(s.sim, LONG);
    CHECK_STR(story_end(&s), "");
    CHECK(rc == CHI_OK && idle && s.told == 1);
  }
}

static void sees_one_late(struct sim_client *c, void *arg)
{
  struct story *s = arg;
  chi_client *client;
  chi_queue *queue;
  chi_error err = {0};
  uint64_t took;
  CHECK_INT(story_attach(c, &client, &queue), CHI_OK);
  struct json *json = gauge_ask(queue, s->sim, &took);
  CHECK_STR(gauge_missing(json, "g7"), "busy");
  CHECK_STR(gauge_missing(json, "g0"), "figures"); /* the others lose nothing by it */
  CHECK(took >= 200 * STORY_MS && took < 210 * STORY_MS);
  json_free(json);
  sim_client_sleep(c, 700 * STORY_MS);
  json = gauge_ask(queue, s->sim, &took); /* the first answer is still on its way: it will do */
  CHECK_STR(gauge_missing(json, "g7"), "figures");
  CHECK_INT(gauge_figure(json, "g7", "calls"), 1);
  json_free(json);
  json = gauge_ask(queue, s->sim, &took);
  CHECK_STR(gauge_missing(json, "g7"), "busy");
  json_free(json);
  /* The pool waits for what is inside it, as for any task. */
  CHECK_INT(chi_pool_destroy(queue, (chi_pool_id){407, 0}, &err), CHI_OK);
  json = gauge_ask(queue, s->sim, &took);
  CHECK_STR(gauge_missing(json, "g7"), "no pool");
  json_free(json);
  chi_client_close(client);
  s->told++;
}

TEST(story_late_figures_serve_who_asks_next)
{
  for (uint64_t seed = 1; seed <= story_seeds(8); seed++) {
    struct story s;
    int rc = gauge_start(&s, seed, GAUGE_SLEEPS);
    sim_client(s.sim, 0, sees_one_late, &s);
    bool idle = sim_run_idle(s.sim, LONG);
    CHECK_STR(story_end(&s), "");
    CHECK(rc == CHI_OK && idle && s.told == 1);
  }
}

/* ---- an end while it is asked ---------------------------------------------------------------- */

static void asks_and_dies(struct sim_client *c, void *arg)
{
  struct story *s = arg;
  chi_client *client;
  chi_queue *queue;
  CHECK_INT(story_attach(c, &client, &queue), CHI_OK);
  for (int i = 0; i < 8; i++) {
    struct chi_admin_monitor *t = CHI_NEW(queue, chi_admin_monitor);
    CHECK(t && chi_bulk_alloc(queue, GAUGE_ROOM, &t->json) == CHI_OK);
    t->task.pool = CHI_ADMIN_POOL;
    t->task.deadline_ms = (uint32_t)(i * 30);
    CHECK_INT(chi_submit(queue, t), CHI_OK);
    sim_client_sleep(c, 20 * STORY_MS);
  }
  s->told++;
  sim_client_sleep(c, 100 * LONG);
}

/* Whoever asks may be cancelled, or die, and the node may stop: nothing is left. */
TEST(story_figures_nobody_waits_for)
{
  for (uint64_t seed = 1; seed <= story_seeds(8); seed++) {
    struct story s;
    int rc = gauge_start(&s, seed, GAUGE_SLEEPS);
    uint32_t client = sim_client(s.sim, 0, asks_and_dies, &s);
    sim_run_for(s.sim, (160 + seed * 5) * STORY_MS);
    if (seed % 2)
      sim_client_kill(s.sim, client);
    sim_run_for(s.sim, seed % 4 ? 10 * STORY_MS : 2 * STORY_SECOND);
    CHECK_STR(story_end(&s), "");
    CHECK(rc == CHI_OK && s.told == 1);
  }
}

/* ---- failures, and what the log holds back --------------------------------------------------- */

static int fails_with(chi_queue *queue, chi_pool_id pool, int code)
{
  struct story_code *t = CHI_NEW(queue, story_code);
  if (!t)
    return CHI_ENOMEM;
  t->task.pool = pool;
  t->code = code;
  int rc = chi_run(queue, t);
  chi_task_free(queue, t);
  return rc;
}

static void fails_in_many_ways(struct sim_client *c, void *arg)
{
  struct story *s = arg;
  chi_client *client;
  chi_queue *queue;
  uint64_t took;
  CHECK_INT(story_attach(c, &client, &queue), CHI_OK);
  for (int i = 0; i < 3; i++)
    CHECK_INT(fails_with(queue, STORY_POOL, CHI_EIO), CHI_EIO);
  CHECK_INT(fails_with(queue, STORY_POOL, 5), 5);
  CHECK_INT(fails_with(queue, STORY_POOL, 6), 6);
  CHECK_INT(fails_with(queue, STORY_POOL, -77), -77); /* no code of ours */
  CHECK_INT(fails_with(queue, STORY_POOL, CHI_OK), CHI_OK);
  CHECK_INT(fails_with(queue, (chi_pool_id){999, 9}, CHI_OK), CHI_ENOENT);
  struct json *json = gauge_ask(queue, s->sim, &took);
  const struct json *totals = json_get(json, "totals"), *codes = json_get(totals, "codes");
  CHECK_INT(json_integer(totals, "failed", 0), 6);
  CHECK_INT(json_integer(totals, "refused", 0), 1);
  CHECK_INT(json_integer(codes, "CHI_EIO", 0), 3);
  CHECK_INT(json_integer(codes, "own", 0), 3);
  CHECK_INT(json_integer(codes, "CHI_ENOENT", 0), 1);
  CHECK(!json_get(codes, "CHI_OK"));
  json_free(json);
  chi_error err;
  CHECK_INT(chi_pool_destroy(queue, STORY_POOL, &err), CHI_OK);
  json = gauge_ask(queue, s->sim, &took); /* the pool is gone, its failures are not */
  CHECK_INT(json_integer(json_get(json, "totals"), "failed", 0), 6);
  json_free(json);
  chi_client_close(client);
  s->told++;
}

TEST(story_failures_are_counted_by_code)
{
  for (uint64_t seed = 1; seed <= story_seeds(4); seed++) {
    struct story s;
    CHECK_STR(story_begin(&s, seed), "");
    sim_client(s.sim, 0, fails_in_many_ways, &s);
    bool idle = sim_run_idle(s.sim, LONG);
    CHECK_STR(story_end(&s), "");
    CHECK(idle && s.told == 1);
  }
}

static int says(chi_queue *queue, uint64_t lines)
{
  struct gauge_say *t = CHI_NEW(queue, gauge_say);
  if (!t)
    return CHI_ENOMEM;
  t->task.pool = (chi_pool_id){400, 0};
  t->lines = lines;
  int rc = chi_run(queue, t);
  chi_task_free(queue, t);
  return rc;
}

static void floods_the_log(struct sim_client *c, void *arg)
{
  struct story *s = arg;
  chi_client *client;
  chi_queue *queue;
  uint64_t took;
  CHECK_INT(story_attach(c, &client, &queue), CHI_OK);
  CHECK_INT(says(queue, 1000), CHI_OK);
  struct json *json = gauge_ask(queue, s->sim, &took);
  CHECK_INT(json_integer(json_get(json, "log"), "held_back", 0), 980);
  CHECK(json_integer(json_get(json, "log"), "warning", 0) == 20);
  json_free(json);
  sim_client_sleep(c, 2 * STORY_SECOND);
  CHECK_INT(says(queue, 1), CHI_OK);
  sim_client_sleep(c, 2 * STORY_SECOND);
  CHECK_INT(says(queue, 50), CHI_OK);
  chi_client_close(client);
  s->told++;
}

static uint32_t lines_of(const struct story *s, const char *text)
{
  uint32_t n = 0;
  for (const char *at = s->transcript.text; (at = strstr(at, text)) != NULL; at++)
    n++;
  return n;
}

/* A method that says the same over and over fills no disk, and what was left out is told. */
TEST(story_flood_of_log_lines_is_bounded_and_counted)
{
  for (uint64_t seed = 1; seed <= story_seeds(4); seed++) {
    struct story s;
    int rc = gauge_start(&s, seed, GAUGE_GOOD);
    sim_client(s.sim, 0, floods_the_log, &s);
    bool idle = sim_run_idle(s.sim, LONG);
    sim_node_stop(s.sim, 0, 0);
    sim_run_for(s.sim, STORY_SECOND);
    uint32_t lines = lines_of(&s, "pool 400.0 (g0): again: ");
    uint32_t keys = lines_of(&s, " task=");
    bool told = story_tells(&s, "again: 19 task=", "again: 0 task=", "(980 more held back)",
                            "30 more lines were held back", NULL);
    CHECK_STR(story_end(&s), "");
    CHECK(rc == CHI_OK && idle && s.told == 1);
    CHECK_INT(lines, 20 + 1 + 20);
    CHECK_INT(keys, lines);
    CHECK(told);
  }
}
