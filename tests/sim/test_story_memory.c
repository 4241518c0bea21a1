/* test_story_memory.c - every allocation fails once: what was asked for ends with a defined code.
 */
#include "story.h"

#include <stdlib.h>

/* A module that doesn't give back what it took. */
struct leaky {
  void *lost;
};
CHI_TASK(leaky_lose, 10, CHI_NO_FIELDS)

static int leaky_lose_run(chi_ctx *ctx, struct leaky *self, struct leaky_lose *t)
{
  (void)t;
  self->lost = chi_alloc(ctx, 123);
  return self->lost ? CHI_OK : CHI_ENOMEM;
}

#define LEAKY_METHODS(M, S) M(S, leaky_lose)
CHI_METHODS(leaky, LEAKY_METHODS)
static const chi_module leaky_module = {.version = CHI_MODULE_VERSION,
                                        .name = "leaky",
                                        .state_size = sizeof(struct leaky),
                                        .methods = leaky_methods};

#define LONG (60 * STORY_SECOND)
#define MOST 5000 /* allocations of a story; more would be a surprise */

static bool is_defined(int rc)
{
  return rc == CHI_OK || rc == CHI_ENOMEM || rc == CHI_EBUSY;
}

struct poor {
  struct story s;
  uint32_t clients;
  int wrong; /* a code that isn't defined here */
};

static int poor_files(chi_queue *queue, uint32_t number)
{
  (void)number;
  struct story_file *t = STORY_NEW(queue, story_file);
  if (!t)
    return CHI_ENOMEM;
  t->write = 1;
  int rc = chi_run(queue, t);
  chi_task_free(queue, t);
  return rc;
}

static int poor_subtasks(chi_queue *queue, uint32_t number)
{
  (void)number;
  struct story_fan *t = STORY_NEW(queue, story_fan);
  if (!t)
    return CHI_ENOMEM;
  t->count = 5;
  t->ns = STORY_MS;
  int rc = chi_run(queue, t);
  chi_task_free(queue, t);
  return rc;
}

static int poor_locks(chi_queue *queue, uint32_t number)
{
  (void)number;
  void *t[6];
  int count = 0, rc = CHI_OK;
  for (int i = 0; i < 6 && rc == CHI_OK; i++) {
    struct story_share *share = STORY_NEW(queue, story_share);
    if (!share) {
      rc = CHI_ENOMEM;
      break;
    }
    share->ns = STORY_MS;
    share->write = i == 3;
    rc = chi_submit(queue, share);
    if (rc == CHI_OK)
      t[count++] = share;
    else
      chi_task_free(queue, share);
  }
  for (int i = 0; i < count; i++) {
    int mine = chi_wait(queue, t[i], UINT64_MAX);
    rc = rc ? rc : mine;
    chi_task_free(queue, t[i]);
  }
  return rc;
}

static int poor_bulk(chi_queue *queue, uint32_t number)
{
  (void)number;
  chi_bulk bulk;
  int rc = chi_bulk_alloc(queue, 3 << 20, &bulk);
  struct story_bulk *t = rc == CHI_OK ? STORY_NEW(queue, story_bulk) : NULL;
  if (t) {
    t->from = t->to = bulk;
    t->from.size = 1000;
    rc = chi_run(queue, t);
    chi_task_free(queue, t);
  } else if (rc == CHI_OK) {
    rc = CHI_ENOMEM;
  }
  if (rc == CHI_OK || t)
    chi_bulk_free(queue, &bulk);
  return rc;
}

/* Each client has a pool of its own. */
static int poor_pools(chi_queue *queue, uint32_t number)
{
  chi_pool_id id = {500 + number, 0};
  char name[] = "more a";
  name[5] = (char)('a' + number);
  int rc = chi_pool_create(queue, "story", name, NULL, 0, &id, NULL);
  if (rc == CHI_OK)
    rc = chi_pool_destroy(queue, id, NULL);
  return rc;
}

static int poor_periodic(chi_queue *queue, uint32_t number)
{
  (void)number;
  struct story_tick *t = STORY_NEW(queue, story_tick);
  if (!t)
    return CHI_ENOMEM;
  t->task.flags = CHI_TASK_PERIODIC;
  t->task.period_us = 1000;
  int rc = chi_submit(queue, t);
  if (rc == CHI_OK) {
    rc = chi_wait(queue, t, 5 * STORY_MS);
    if (rc == CHI_ETIMEOUT) {
      chi_cancel(queue, t);
      rc = chi_wait(queue, t, UINT64_MAX);
    }
  }
  if (rc == CHI_ECANCELLED)
    rc = CHI_OK;
  chi_task_free(queue, t);
  return rc;
}

static void poor_client(struct sim_client *c, void *arg)
{
  static int (*const acts[])(chi_queue *, uint32_t) = {poor_files, poor_subtasks, poor_locks,
                                                       poor_bulk,  poor_pools,    poor_periodic};
  struct poor *p = arg;
  uint32_t number = p->clients++;
  chi_client *client;
  chi_queue *queue;
  int rc = story_attach(c, &client, &queue);
  if (rc == CHI_OK) {
    for (size_t i = 0; i < CHI_COUNT(acts); i++) {
      rc = acts[i](queue, number);
      if (!is_defined(rc))
        p->wrong = rc;
    }
    chi_queue_close(queue);
    chi_client_close(client);
  } else if (!is_defined(rc) && rc != CHI_ESHUTDOWN) { /* a node without memory hangs up */
    p->wrong = rc;
  }
  p->s.told++;
}

/* The whole life of a node and of two clients, with the nth asking for memory failing (0: none).
 * How often it was asked in all, or -1 after complaining. */
static long poor_life(uint64_t seed, uint64_t nth)
{
  struct poor p = {.wrong = 0};
  char end[400];
  story_open(&p.s, seed);
  sim_fault_memory(sim_faults(p.s.sim), SIM_FAULT_ANY, nth, 0);
  int rc = story_start(&p.s);
  bool idle = true;
  if (rc == CHI_OK) {
    sim_client(p.s.sim, 0, poor_client, &p);
    sim_client(p.s.sim, 0, poor_client, &p);
    idle = sim_run_idle(p.s.sim, LONG);
  }
  long asked = (long)sim_faults(p.s.sim)->asked;
  snprintf(end, sizeof(end), "%s", story_end(&p.s));
  if (end[0] || !idle || p.wrong || !is_defined(rc)) {
    test_fail(__FILE__, __LINE__, "allocation %llu: start %s, client %s%s%s",
              (unsigned long long)nth, chi_status_name(rc), chi_status_name(p.wrong),
              idle ? "" : ", hangs", end);
    return -1;
  }
  return asked;
}

TEST(story_every_allocation_fails_once)
{
  for (uint64_t seed = 1; seed <= story_seeds(1); seed++) {
    long all = poor_life(seed, 0), failed = 0;
    CHECK(all > 50 && all < MOST);
    for (long nth = 1; nth <= all && failed < 5; nth++)
      failed += poor_life(seed, (uint64_t)nth) < 0;
    CHECK_INT(failed, 0);
  }
}

/* Memory that is always short: whatever happens, it happens with a code, and ends. */
TEST(story_memory_is_short_all_the_time)
{
  for (uint64_t seed = 1; seed <= story_seeds(30); seed++) {
    struct poor p = {.wrong = 0};
    story_open(&p.s, seed);
    int rc = story_start(&p.s);
    sim_fault_memory(sim_faults(p.s.sim), SIM_FAULT_ANY, 0, 100000);
    for (int i = 0; i < 3; i++)
      sim_client(p.s.sim, 0, poor_client, &p);
    bool idle = sim_run_idle(p.s.sim, LONG);
    uint64_t injected = sim_faults(p.s.sim)->injected;
    sim_fault_clear(sim_faults(p.s.sim));
    CHECK_STR(story_end(&p.s), "");
    CHECK_INT(rc, CHI_OK);
    CHECK_INT(p.wrong, CHI_OK);
    CHECK(idle && p.s.told == 3 && injected > 0);
  }
}

static void loses(struct sim_client *c, void *arg)
{
  struct poor *p = arg;
  chi_client *client;
  chi_queue *queue;
  CHECK_INT(story_attach(c, &client, &queue), CHI_OK);
  struct leaky_lose *t = CHI_NEW(queue, leaky_lose);
  CHECK(t);
  t->task.pool = (chi_pool_id){350, 0};
  CHECK_INT(chi_run(queue, t), CHI_OK);
  chi_client_close(client);
  p->s.told++;
}

/* What a module has not given back when its node has stopped is told, with its size. */
TEST(story_leak_of_a_module_is_told)
{
  const chi_module *modules[] = {&story_module, &leaky_module};
  struct poor p = {.wrong = 0};
  chi_compose_entry *entry;
  story_open(&p.s, 1);
  int rc = chi_config_add_pool(&p.s.config, "leaky", "leaky", "local", 350, 0, &entry);
  if (rc == CHI_OK)
    rc = sim_node_start(p.s.sim, 0, &p.s.config, modules, 2, &p.s.error);
  sim_client(p.s.sim, 0, loses, &p);
  bool idle = sim_run_idle(p.s.sim, LONG);
  CHECK_STR(story_end(&p.s),
            "leak of a stopped node, node 0: 1 pieces of memory (123 bytes of memory in all)");
  CHECK_INT(rc, CHI_OK);
  CHECK(idle && p.s.told == 1);
}
