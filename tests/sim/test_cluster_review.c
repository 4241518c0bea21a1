/* test_cluster_review.c - corners between pools, moves, restarts and stops: where they meet. */
#include "admin.h"
#include "town.h"

#define SEEDS 3
#define OTHER ((chi_pool_id){701, 0})

static void each_seed(void (*story)(uint64_t seed))
{
  for (uint64_t seed = 1; seed <= town_seeds(SEEDS); seed++)
    story(seed);
}

static int migrate(struct town *t, uint32_t from, uint32_t container, uint32_t node)
{
  struct chi_admin_migrate move = {.task = {.pool = CHI_ADMIN_POOL},
                                   .pool_id = TOWN_POOL,
                                   .container = container,
                                   .node = node};
  return chi_cluster_call(t->cluster, from, &chi_admin_migrate_type, &move, 30 * TOWN_SECOND);
}

/* ---- moves under load ------------------------------------------------------------------------ */

struct load {
  chi_query query;
  uint32_t calls, failed;
  int rc;
};

static void loads(chi_cluster *cluster, chi_client *client, void *arg)
{
  struct load *load = arg;
  chi_queue *queue;
  if (chi_queue_open(client, &queue, NULL) != CHI_OK)
    return; /* the node has gone */
  for (uint32_t i = 0; i < load->calls; i++) {
    struct town_sum *sum = CHI_NEW(queue, town_sum);
    if (!sum)
      break; /* the node has gone */
    sum->task.pool = TOWN_POOL;
    sum->task.query = load->query;
    sum->ns = TOWN_MS / 2;
    int rc = chi_run(queue, sum);
    if (rc != CHI_OK) {
      load->failed++;
      load->rc = rc;
    }
    CHECK_INT(chi_task_free(queue, sum), CHI_OK);
    chi_cluster_sleep(cluster, TOWN_MS / 10);
  }
  chi_queue_close(queue);
}

static void moves_under_load(uint64_t seed)
{
  struct town t;
  struct load load[6] = {
      {.query = {.mode = CHI_QUERY_ID, .a = 0}},  {.query = {.mode = CHI_QUERY_BROADCAST}},
      {.query = {.mode = CHI_QUERY_ID, .a = 0}},  {.query = {.mode = CHI_QUERY_BROADCAST}},
      {.query = {.mode = CHI_QUERY_HASH, .a = 3}}, {.query = {.mode = CHI_QUERY_RANGE, .b = 2}}};
  CHECK_STR(town_seed(&t, seed, "nodes=3,neighborhood_size=2"), "");
  for (uint32_t i = 0; i < 6; i++) {
    load[i].calls = 100;
    town_client(&t, i / 2, loads, &load[i]);
  }
  CHECK_INT(chi_cluster_run_for(t.cluster, 5 * TOWN_MS), CHI_OK);
  CHECK_INT(migrate(&t, 0, 0, 2), CHI_OK);
  CHECK_INT(chi_cluster_run_for(t.cluster, 5 * TOWN_MS), CHI_OK);
  CHECK_INT(migrate(&t, 2, 0, 1), CHI_OK);
  CHECK_INT(chi_cluster_run_for(t.cluster, 5 * TOWN_MS), CHI_OK);
  CHECK_INT(migrate(&t, 1, 0, 0), CHI_OK);
  CHECK_INT(chi_cluster_run_idle(t.cluster, TOWN_LONG), CHI_OK);
  for (uint32_t i = 0; i < 6; i++)
    CHECK_INT(load[i].rc, CHI_OK);
  CHECK_STR(town_end(&t), "");
}

TEST(review_container_moves_under_load)
{
  each_seed(moves_under_load);
}

static void sleeps(chi_cluster *cluster, chi_client *client, void *arg)
{
  struct load *load = arg;
  chi_queue *queue;
  (void)cluster;
  CHECK_INT(chi_queue_open(client, &queue, NULL), CHI_OK);
  struct town_sleep *sleep = CHI_NEW(queue, town_sleep);
  CHECK(sleep);
  sleep->task.pool = TOWN_POOL;
  sleep->task.query = load->query;
  sleep->task.flags = load->calls ? CHI_TASK_PERIODIC : 0;
  sleep->task.period_us = load->calls;
  sleep->ns = load->calls ? 0 : 20 * TOWN_SECOND;
  load->rc = chi_run(queue, sleep);
  chi_queue_close(queue);
}

/* A long call to another container is no reason to wait. */
static void moves_beside_a_call(uint64_t seed)
{
  struct town t;
  struct load load = {.query = {.mode = CHI_QUERY_ID, .a = 1}};
  CHECK_STR(town_seed(&t, seed, "nodes=3"), "");
  town_client(&t, 0, sleeps, &load);
  CHECK_INT(chi_cluster_run_for(t.cluster, 5 * TOWN_MS), CHI_OK);
  uint64_t began = chi_cluster_now(t.cluster);
  CHECK_INT(migrate(&t, 0, 0, 2), CHI_OK);
  CHECK(chi_cluster_now(t.cluster) - began < town_within(TOWN_SECOND));
  CHECK_INT(chi_cluster_run_idle(t.cluster, TOWN_LONG), CHI_OK);
  CHECK_INT(load.rc, CHI_OK);
  CHECK_STR(town_end(&t), "");
}

TEST(review_container_moves_beside_a_call)
{
  each_seed(moves_beside_a_call);
}

/* A periodic task never ends by itself. */
static void moves_with_periodic(uint64_t seed)
{
  struct town t;
  struct load load = {.query = {.mode = CHI_QUERY_ID, .a = 0}, .calls = 1000};
  CHECK_STR(town_seed(&t, seed, "nodes=3"), "");
  town_client(&t, (uint32_t)(seed % 2), sleeps, &load);
  CHECK_INT(chi_cluster_run_for(t.cluster, 5 * TOWN_MS), CHI_OK);
  CHECK_INT(migrate(&t, 0, 0, 2), CHI_OK);
  CHECK_INT(chi_cluster_run_idle(t.cluster, TOWN_LONG), CHI_OK);
  CHECK_INT(load.rc, CHI_ECANCELLED);
  CHECK_STR(town_end(&t), "");
}

TEST(review_container_moves_though_a_task_is_periodic)
{
  each_seed(moves_with_periodic);
}

/* ---- moves and destroys ---------------------------------------------------------------------- */

struct mover {
  uint32_t container, node;
  int rc;
};

static void moves_one(chi_cluster *cluster, chi_client *client, void *arg)
{
  struct mover *m = arg;
  chi_queue *queue;
  (void)cluster;
  CHECK_INT(chi_queue_open(client, &queue, NULL), CHI_OK);
  struct chi_admin_migrate *move = CHI_NEW(queue, chi_admin_migrate);
  CHECK(move);
  move->task.pool = CHI_ADMIN_POOL;
  move->pool_id = TOWN_POOL;
  move->container = m->container;
  move->node = m->node;
  m->rc = chi_run(queue, move);
  chi_queue_close(queue);
}

static void destroyed_while_moving(uint64_t seed)
{
  struct town t;
  struct mover m = {.container = 0, .node = 2};
  CHECK_STR(town_seed(&t, seed, "nodes=3,wait_for_restart=2s,task_timeout=3s"), "");
  town_fault(&t, CHI_FAULT_CLOG, 0, 2, 30 * TOWN_MS);
  town_client(&t, 0, moves_one, &m);
  CHECK_INT(chi_cluster_run_for(t.cluster, seed * 10 * TOWN_MS), CHI_OK);
  chi_cluster_pool_destroy(t.cluster, (uint32_t)(seed % 2), TOWN_POOL, &t.error);
  CHECK_INT(chi_cluster_run_idle(t.cluster, TOWN_LONG), CHI_OK);
  CHECK_STR(town_end(&t), "");
}

TEST(review_pool_destroyed_while_a_container_moves)
{
  for (uint64_t seed = 1; seed <= town_seeds(8); seed++)
    destroyed_while_moving(seed);
}

/* ---- moves and restarts ---------------------------------------------------------------------- */

static void check_places(struct town *t, uint32_t container, uint32_t node)
{
  for (uint32_t from = 0; from < 3; from++)
    CHECK_INT(town_find(t, from, CHI_QUERY_ID, container), (int)node);
}

#define MOVED "nodes=3,heartbeat_interval=200ms,wait_for_restart=2s,task_timeout=3s"

static void new_home_restarts(uint64_t seed)
{
  struct town t;
  CHECK_STR(town_seed(&t, seed, MOVED), "");
  CHECK_INT(migrate(&t, 0, 0, 2), CHI_OK);
  CHECK_INT(chi_cluster_run_for(t.cluster, 2 * TOWN_SECOND), CHI_OK);
  town_fault(&t, CHI_FAULT_CRASH, 2, 0, 0);
  CHECK_INT(chi_cluster_run_for(t.cluster, TOWN_SECOND), CHI_OK);
  town_fault(&t, CHI_FAULT_START, 2, 0, 0);
  CHECK_INT(chi_cluster_settle(t.cluster, 60 * TOWN_SECOND), CHI_OK);
  check_places(&t, 0, 2);
  check_places(&t, 2, 2);
  CHECK_STR(town_end(&t), "");
}

TEST(review_moved_container_is_there_after_a_restart)
{
  each_seed(new_home_restarts);
}

/* Asked at any moment: only the one at the new place ever serves. */
static void asks_on(chi_cluster *cluster, chi_client *client, void *arg)
{
  uint32_t *wrong = arg;
  chi_queue *queue = NULL;
  for (uint32_t i = 0; i < 3000; i++) {
    int rc = queue ? CHI_OK : chi_queue_open(client, &queue, NULL);
    struct town_where *w = rc == CHI_OK ? CHI_NEW(queue, town_where) : NULL;
    if (w) {
      w->task.pool = TOWN_POOL;
      w->task.query = (chi_query){.mode = CHI_QUERY_ID, .a = 0};
      rc = chi_run(queue, w);
      *wrong += rc == CHI_OK && w->node != 2;
      chi_task_free(queue, w);
    }
    if (!w || rc == CHI_ESHUTDOWN)
      chi_client_reconnect(client, TOWN_SECOND, NULL);
    chi_cluster_sleep(cluster, TOWN_MS / 20);
  }
  chi_queue_close(queue);
}

static void old_home_restarts(uint64_t seed)
{
  struct town t;
  uint32_t wrong = 0;
  CHECK_STR(town_seed(&t, seed, MOVED), "");
  CHECK_INT(migrate(&t, 0, 0, 2), CHI_OK);
  CHECK_INT(chi_cluster_run_for(t.cluster, 2 * TOWN_SECOND), CHI_OK);
  town_client(&t, 0, asks_on, &wrong);
  town_fault(&t, CHI_FAULT_KILL, 0, 0, 0);
  CHECK_INT(chi_cluster_run_for(t.cluster, 10 * TOWN_MS), CHI_OK);
  town_fault(&t, CHI_FAULT_START, 0, 0, 0);
  CHECK_INT(chi_cluster_settle(t.cluster, 60 * TOWN_SECOND), CHI_OK);
  CHECK_INT(wrong, 0);
  check_places(&t, 0, 2);
  CHECK_STR(town_end(&t), "");
}

TEST(review_moved_container_does_not_come_back_with_its_first_home)
{
  each_seed(old_home_restarts);
}

/* The state is on its way, or has arrived, when the target dies. */
static void target_dies(uint64_t seed)
{
  struct town t;
  struct mover m = {.container = 0, .node = 2};
  CHECK_STR(town_seed(&t, seed, MOVED), "");
  town_fault(&t, CHI_FAULT_CLOG, seed % 2 ? 0 : 2, seed % 2 ? 2 : 0, 20 * TOWN_MS);
  town_client(&t, 0, moves_one, &m);
  CHECK_INT(chi_cluster_run_for(t.cluster, seed * 4 * TOWN_MS), CHI_OK);
  town_fault(&t, CHI_FAULT_CRASH, 2, 0, 0);
  CHECK_INT(chi_cluster_run_for(t.cluster, 5 * TOWN_SECOND), CHI_OK);
  CHECK_INT(chi_cluster_settle(t.cluster, 60 * TOWN_SECOND), CHI_OK);
  int place = town_find(&t, 0, CHI_QUERY_ID, 0);
  CHECK(place == 0 || place == 2);
  check_places(&t, 0, (uint32_t)place);
  CHECK_STR(town_end(&t), "");
}

TEST(review_container_has_a_place_after_its_target_died)
{
  for (uint64_t seed = 1; seed <= town_seeds(12); seed++)
    target_dies(seed);
}

static void told_at_new_place(uint64_t seed)
{
  struct town t;
  struct town_news heard = {.task = town_task(CHI_QUERY_ID, 0, 0)};
  CHECK_STR(town_seed(&t, seed, MOVED), "");
  CHECK_INT(migrate(&t, 0, 0, 2), CHI_OK);
  town_fault(&t, CHI_FAULT_CRASH, 1, 0, 0);
  CHECK_INT(town_pass(&t, 30 * TOWN_SECOND), CHI_OK);
  CHECK_INT(town_call(&t, 0, &town_news_type, &heard), CHI_OK);
  CHECK_INT(heard.lost, 1);
  CHECK_STR(town_end(&t), "");
}

TEST(review_moved_container_hears_of_lost_nodes)
{
  each_seed(told_at_new_place);
}

/* ---- one generation after the other ---------------------------------------------------------- */

static int runs_of(struct town *t, uint32_t from, uint32_t container)
{
  struct town_where w = {.task = town_task(CHI_QUERY_ID, container, 0)};
  int rc = town_call(t, from, &town_where_type, &w);
  return rc ? rc : (int)w.runs;
}

/* Who slept through the end of a pool and the beginning of the next builds a new container. */
static void slept_through(uint64_t seed)
{
  struct town t;
  chi_pool_id id = TOWN_POOL;
  CHECK_STR(town_seed(&t, seed, MOVED), "");
  CHECK_INT(runs_of(&t, 0, 2), 1);
  CHECK_INT(runs_of(&t, 0, 2), 2);
  town_fault(&t, CHI_FAULT_ISOLATE, 2, 0, 0);
  CHECK_INT(chi_cluster_run_for(t.cluster, 10 * TOWN_SECOND), CHI_OK);
  chi_cluster_pool_destroy(t.cluster, 0, TOWN_POOL, &t.error);
  CHECK_INT(chi_cluster_pool_create(t.cluster, 0, "town", "town", NULL, 0, &id, &t.error), CHI_OK);
  town_fault(&t, CHI_FAULT_REJOIN, 2, 0, 0);
  CHECK_INT(runs_of(&t, 0, 2), 1);
  CHECK_INT(chi_cluster_settle(t.cluster, 60 * TOWN_SECOND), CHI_OK);
  CHECK_INT(runs_of(&t, 2, 2), 2);
  CHECK_STR(town_end(&t), "");
}

TEST(review_who_slept_through_a_destroy_begins_anew)
{
  each_seed(slept_through);
}

/* A node that has forgotten that a pool was destroyed creates it again. */
static void forgot(uint64_t seed)
{
  struct town t;
  chi_pool_id id = TOWN_POOL;
  CHECK_STR(town_seed(&t, seed, MOVED), "");
  CHECK_INT(chi_cluster_pool_destroy(t.cluster, 0, TOWN_POOL, &t.error), CHI_OK);
  CHECK_INT(chi_cluster_settle(t.cluster, 60 * TOWN_SECOND), CHI_OK);
  town_fault(&t, CHI_FAULT_CRASH, 1, 0, 0);
  town_fault(&t, CHI_FAULT_START, 1, 0, 0);
  CHECK_INT(chi_cluster_run_for(t.cluster, TOWN_SECOND), CHI_OK);
  CHECK_INT(chi_cluster_pool_create(t.cluster, 1, "town", "town", NULL, 0, &id, &t.error), CHI_OK);
  CHECK_INT(chi_cluster_settle(t.cluster, 60 * TOWN_SECOND), CHI_OK);
  for (uint32_t from = 0; from < 3; from++)
    for (uint32_t i = 0; i < 3; i++)
      CHECK_INT(town_find(&t, from, CHI_QUERY_ID, i), (int)i);
  CHECK_STR(town_end(&t), "");
}

TEST(review_pool_created_again_by_who_forgot_its_end)
{
  each_seed(forgot);
}

/* Want of memory while a move is heard of is no reason to lose a container. */
static void short_of_memory(uint64_t seed)
{
  struct town t;
  CHECK_STR(town_seed(&t, seed, MOVED), "");
  CHECK_INT(runs_of(&t, 0, 1), 1);
  town_fault(&t, CHI_FAULT_CLOG, 0, 1, 50 * TOWN_MS);
  town_fault(&t, CHI_FAULT_CLOG, 2, 1, 50 * TOWN_MS);
  CHECK_INT(migrate(&t, 0, 0, 2), CHI_OK);
  town_fault(&t, CHI_FAULT_MEMORY, 0, 0, 400000);
  CHECK_INT(chi_cluster_run_for(t.cluster, TOWN_SECOND), CHI_OK);
  town_fault(&t, CHI_FAULT_MEMORY, 0, 0, 0);
  CHECK_INT(chi_cluster_settle(t.cluster, 60 * TOWN_SECOND), CHI_OK);
  CHECK_INT(runs_of(&t, 0, 1), 2);
  check_places(&t, 0, 2);
  CHECK_STR(town_end(&t), "");
}

TEST(review_want_of_memory_loses_no_container)
{
  for (uint64_t seed = 1; seed <= town_seeds(12); seed++)
    short_of_memory(seed);
}

/* ---- two at once ----------------------------------------------------------------------------- */

struct maker {
  const char *module, *name;
  chi_pool_id id;
  int rc;
};

static void makes(chi_cluster *cluster, chi_client *client, void *arg)
{
  struct maker *m = arg;
  chi_queue *queue;
  chi_error err;
  (void)cluster;
  CHECK_INT(chi_queue_open(client, &queue, NULL), CHI_OK);
  m->rc = chi_pool_create(queue, m->module, m->name, NULL, 0, &m->id, &err);
  chi_queue_close(queue);
}

static void two_at_once(uint64_t seed)
{
  struct town t;
  struct maker m[2] = {{.module = "town", .name = "same", .id = OTHER},
                       {.module = "village", .name = "same", .id = OTHER}};
  if (seed % 2)
    m[1].id.minor = 1;
  CHECK_STR(town_seed(&t, seed, MOVED), "");
  town_client(&t, 0, makes, &m[0]);
  town_client(&t, 2, makes, &m[1]);
  CHECK_INT(chi_cluster_run_idle(t.cluster, TOWN_LONG), CHI_OK);
  CHECK_INT(chi_cluster_settle(t.cluster, 60 * TOWN_SECOND), CHI_OK);
  CHECK((m[0].rc == CHI_OK) + (m[1].rc == CHI_OK) <= 1);
  for (int i = 0; i < 2; i++)
    CHECK(m[i].rc == CHI_OK || m[i].rc == CHI_ECONFLICT);
  CHECK_STR(town_end(&t), "");
}

TEST(review_two_pools_for_one_name_do_not_both_succeed)
{
  for (uint64_t seed = 1; seed <= town_seeds(8); seed++)
    two_at_once(seed);
}

/* A node that is about to stop is as good as away. */
static void made_while_one_stops(uint64_t seed)
{
  struct town t;
  struct load load = {.query = {.mode = CHI_QUERY_LOCAL}};
  chi_pool_id id = OTHER;
  CHECK_STR(town_seed(&t, seed, MOVED), "");
  town_client(&t, 2, sleeps, &load);
  CHECK_INT(chi_cluster_run_for(t.cluster, 5 * TOWN_MS), CHI_OK);
  town_fault(&t, CHI_FAULT_STOP, 2, 0, 5000);
  CHECK_INT(chi_cluster_run_for(t.cluster, 5 * TOWN_MS), CHI_OK);
  CHECK_INT(chi_cluster_pool_create(t.cluster, 0, "town", "other", NULL, 0, &id, &t.error), CHI_OK);
  CHECK_INT(chi_cluster_settle(t.cluster, 60 * TOWN_SECOND), CHI_OK);
  struct town_sum sum = {.task = {.pool = OTHER, .query = {.mode = CHI_QUERY_BROADCAST}}};
  CHECK_INT(town_call(&t, 1, &town_sum_type, &sum), CHI_OK);
  CHECK_INT(sum.sum, 6);
  CHECK_STR(town_end(&t), "");
}

TEST(review_pool_is_made_though_a_node_stops)
{
  each_seed(made_while_one_stops);
}

/* A body that has its own pool destroyed by way of another node would wait for itself. */
#define REVIEW_END(X, T) X(T, IN, u32, whom)
CHI_TASK(review_end, 10, REVIEW_END)

struct review_state {
  int unused;
};

static int review_end_run(chi_ctx *ctx, struct review_state *self, struct review_end *t)
{
  struct chi_admin_destroy_pool *end = chi_subtask_new(ctx, &chi_admin_destroy_pool_type);
  (void)self;
  if (!end)
    return CHI_ENOMEM;
  end->task.pool = CHI_ADMIN_POOL;
  end->task.query = (chi_query){.mode = CHI_QUERY_PHYSICAL, .a = t->whom};
  end->pool_id = chi_self_pool(ctx);
  return chi_call(ctx, end);
}

#define REVIEW_METHODS(M, S) M(S, review_end)
CHI_METHODS(review_state, REVIEW_METHODS)

TEST(review_body_does_not_wait_for_its_own_end)
{
  static const chi_module module = {.version = CHI_MODULE_VERSION,
                                    .name = "review",
                                    .state_size = sizeof(struct review_state),
                                    .methods = review_state_methods};
  const chi_module *modules[] = {&module};
  for (uint32_t whom = 0; whom < 3; whom++) {
    struct town t;
    chi_pool_id id = OTHER;
    CHECK_INT(town_open_with(&t, "sim:nodes=3", modules, 1), CHI_OK);
    CHECK_INT(chi_cluster_pool_create(t.cluster, 0, "review", "r", NULL, 0, &id, &t.error), CHI_OK);
    struct review_end end = {.task = {.pool = id, .query = {CHI_QUERY_ID, 1, 0, 0}}, .whom = whom};
    CHECK_INT(chi_cluster_call(t.cluster, 2, &review_end_type, &end, 10 * TOWN_SECOND),
              CHI_EDEADLOCK);
    CHECK_STR(town_end(&t), "");
  }
}

/* ---- what nobody but nodes may say ----------------------------------------------------------- */

static void forged(uint64_t seed)
{
  struct town t;
  struct admin_settle settle = {.task = {.pool = CHI_ADMIN_POOL},
                                .mod_name = "town",
                                .pool_name = "forged",
                                .pool_id = {702, 0},
                                .containers = 2,
                                .boot = 1,
                                .counter = 8};
  settle.task.query = (chi_query){.mode = CHI_QUERY_PHYSICAL, .a = 2};
  CHECK_STR(town_seed(&t, seed, MOVED), "");
  CHECK_INT(town_call(&t, 0, &admin_settle_type, &settle), CHI_EACCES);
  settle.task.query = (chi_query){.mode = CHI_QUERY_BROADCAST};
  CHECK_INT(town_call(&t, 0, &admin_settle_type, &settle), CHI_EACCES);
  settle.task.query = (chi_query){.mode = CHI_QUERY_LOCAL};
  settle.task.flags = CHI_TASK_FORCE_NET;
  CHECK_INT(town_call(&t, 0, &admin_settle_type, &settle), CHI_EACCES);
  CHECK_STR(town_end(&t), "");
}

TEST(review_clients_do_not_speak_for_nodes)
{
  each_seed(forged);
}

/* ---- tasks nobody waits for ------------------------------------------------------------------ */

static void nobody_waits(uint64_t seed)
{
  struct town t;
  struct load load = {.query = {.mode = CHI_QUERY_ID, .a = 1}, .calls = 1000};
  CHECK_STR(town_seed(&t, seed, MOVED), "");
  town_client(&t, 0, sleeps, &load);
  CHECK_INT(chi_cluster_run_for(t.cluster, 5 * TOWN_MS), CHI_OK);
  town_fault(&t, CHI_FAULT_ISOLATE, 1, 0, 0);
  CHECK_INT(chi_cluster_run_idle(t.cluster, TOWN_LONG), CHI_OK);
  CHECK_INT(load.rc, CHI_EUNKNOWN);
  town_fault(&t, CHI_FAULT_REJOIN, 1, 0, 0);
  CHECK_INT(chi_cluster_settle(t.cluster, 60 * TOWN_SECOND), CHI_OK);
  CHECK_INT(chi_cluster_run_for(t.cluster, 10 * TOWN_SECOND), CHI_OK);
  int before = runs_of(&t, 1, 1);
  CHECK_INT(chi_cluster_run_for(t.cluster, TOWN_SECOND), CHI_OK);
  CHECK_INT(runs_of(&t, 1, 1), before + 1);
  CHECK_STR(town_end(&t), "");
}

TEST(review_lost_task_ends_when_its_node_is_found)
{
  each_seed(nobody_waits);
}

/* ---- everything at once ---------------------------------------------------------------------- */

struct restless {
  uint32_t node;
  bool ends; /* pools, too */
};

/* Moves containers about, wherever they are. */
static void moves_about(chi_cluster *cluster, chi_client *client, void *arg)
{
  const struct restless *r = arg;
  chi_queue *queue = NULL;
  for (uint32_t i = 0; i < 40; i++) {
    int rc = queue ? CHI_OK : chi_queue_open(client, &queue, NULL);
    struct chi_admin_migrate *move = rc == CHI_OK ? CHI_NEW(queue, chi_admin_migrate) : NULL;
    if (move) {
      move->task.pool = CHI_ADMIN_POOL;
      move->task.deadline_ms = 2000;
      move->pool_id = TOWN_POOL;
      move->container = (i + r->node) % 3;
      move->node = i / 3 % 3;
      rc = chi_run(queue, move);
      chi_sometimes(cluster, "a container moves", rc == CHI_OK);
      chi_task_free(queue, move);
    }
    if (r->ends && i % 10 == 9 && queue) {
      chi_pool_id id = TOWN_POOL;
      chi_pool_destroy(queue, TOWN_POOL, NULL);
      chi_pool_create(queue, "town", "town", NULL, 0, &id, NULL);
    }
    if (!move || rc == CHI_ESHUTDOWN)
      chi_client_reconnect(client, TOWN_SECOND, NULL);
    chi_cluster_sleep(cluster, 7 * TOWN_MS);
  }
  chi_queue_close(queue);
}

static void restless(uint64_t seed, bool ends, const char *faults)
{
  struct town t;
  struct restless r[3] = {{0, ends}, {1, ends}, {2, false}};
  struct load load[3] = {{.query = {.mode = CHI_QUERY_BROADCAST}, .calls = 100},
                         {.query = {.mode = CHI_QUERY_ID, .a = 1}, .calls = 100},
                         {.query = {.mode = CHI_QUERY_DYNAMIC}, .calls = 100}};
  chi_pool_id id = TOWN_POOL;
  CHECK_STR(town_seed(&t, seed, MOVED ",neighborhood_size=2"), "");
  if (faults)
    CHECK_INT(chi_cluster_faults(t.cluster, faults, &t.error), CHI_OK);
  for (uint32_t i = 0; i < 3; i++) {
    town_client(&t, i, moves_about, &r[i]);
    town_client(&t, i, loads, &load[i]);
  }
  CHECK_INT(chi_cluster_settle(t.cluster, 60 * TOWN_SECOND), CHI_OK);
  if (ends)
    chi_cluster_pool_create(t.cluster, 0, "town", "town", NULL, 0, &id, &t.error);
  for (uint32_t i = 0; i < 3; i++) {
    int place = town_find(&t, 0, CHI_QUERY_ID, i);
    CHECK(place >= 0);
    check_places(&t, i, (uint32_t)place);
  }
  const char *wrong = town_end(&t);
  if (wrong[0])
    test_fail(__FILE__, __LINE__, "seed %llu: %s", (unsigned long long)seed, wrong);
}

TEST(review_sweep_of_moves)
{
  for (uint64_t seed = 1; seed <= town_seeds(6); seed++)
    restless(seed, false, NULL);
}

TEST(review_sweep_of_moves_and_ends)
{
  for (uint64_t seed = 1; seed <= town_seeds(6); seed++)
    restless(seed, true, NULL);
}

TEST(review_sweep_of_moves_in_bad_weather)
{
  for (uint64_t seed = 1; seed <= town_seeds(6); seed++)
    restless(seed, seed % 2,
             town_is_simulated()
                 ? "until=2s,outage=300ms,kinds=cut+isolate+partition+clog+drop+half+lose+pause"
                 : "until=2s,outage=300ms,kinds=cut+isolate+partition+clog+drop+half+pause");
}

TEST(review_sweep_of_moves_between_failing_nodes)
{
  for (uint64_t seed = 1; seed <= town_seeds(6); seed++)
    restless(seed, seed % 2, "until=2s,outage=300ms,kinds=crash+kill+stop+pause+drop");
}

/* ---- stopping -------------------------------------------------------------------------------- */

/* Branches of a tree wait for nodes that have gone already. */
static void all_stop(uint64_t seed)
{
  struct town t;
  struct load load[3] = {{.query = {.mode = CHI_QUERY_BROADCAST}, .calls = 1000},
                         {.query = {.mode = CHI_QUERY_BROADCAST}, .calls = 1000},
                         {.query = {.mode = CHI_QUERY_BROADCAST}, .calls = 1000}};
  CHECK_STR(town_seed(&t, seed, "nodes=6,neighborhood_size=2,wait_for_restart=30s"), "");
  for (uint32_t i = 0; i < 3; i++)
    town_client(&t, i, loads, &load[i]);
  CHECK_INT(chi_cluster_run_for(t.cluster, 20 * TOWN_MS), CHI_OK);
  town_fault(&t, CHI_FAULT_CRASH, 5, 0, 0);
  CHECK_INT(chi_cluster_run_for(t.cluster, seed * TOWN_MS), CHI_OK);
  for (uint32_t node = 0; node < 5; node++)
    town_fault(&t, CHI_FAULT_STOP, (node * 3 + (uint32_t)seed) % 5, 0, 100);
  CHECK_INT(chi_cluster_run_idle(t.cluster, TOWN_LONG), CHI_OK);
  CHECK(!town_tells(&t, "do not end"));
  CHECK_STR(town_end(&t), "");
}

TEST(review_nodes_stop_though_others_have_gone_before)
{
  for (uint64_t seed = 1; seed <= town_seeds(8); seed++)
    all_stop(seed);
}
