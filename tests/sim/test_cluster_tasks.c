/* test_cluster_tasks.c - tasks between healthy nodes: where they go, and what comes back. */
#include "json.h"
#include "town.h"

#define SEEDS 3

/* ---- queries ------------------------------------------------------------------------------ */

static void one_target(uint64_t seed)
{
  struct town t;
  CHECK_STR(town_seed(&t, seed, "nodes=3"), "");
  for (uint32_t from = 0; from < 3; from++) {
    CHECK_INT(town_find(&t, from, CHI_QUERY_LOCAL, 0), from);
    CHECK_INT(town_find(&t, from, CHI_QUERY_DYNAMIC, 0), 2); /* as the module schedules */
    for (uint32_t to = 0; to < 3; to++) {
      CHECK_INT(town_find(&t, from, CHI_QUERY_ID, to), to);
      CHECK_INT(town_find(&t, from, CHI_QUERY_PHYSICAL, to), to);
      CHECK_INT(town_find(&t, from, CHI_QUERY_HASH, 300 + to), to);
    }
    CHECK_INT(town_find(&t, from, CHI_QUERY_ID, 3), CHI_ERANGE);
  }
  CHECK_STR(town_end(&t), "");
}

TEST(cluster_query_finds_its_container_from_anywhere)
{
  TOWN_NEEDS_NET;
  for (uint64_t seed = 1; seed <= town_seeds(SEEDS); seed++)
    one_target(seed);
}

/* Regression 6: a sub-range runs on all of its containers, whatever the neighbourhood. */
static void many_targets(uint64_t seed, uint32_t neighborhood)
{
  struct town t;
  char keys[80];
  snprintf(keys, sizeof(keys), "nodes=5,neighborhood_size=%u", neighborhood);
  CHECK_STR(town_seed(&t, seed, keys), "");
  for (uint32_t from = 0; from < 5; from++) {
    struct town_sum all = {.task = town_task(CHI_QUERY_BROADCAST, 0, 0)};
    CHECK_INT(town_call(&t, from, &town_sum_type, &all), CHI_OK);
    CHECK_INT(all.sum, 15);
    CHECK_INT(all.answers, 5);
    for (uint32_t first = 0; first < 5; first++)
      for (uint32_t count = 1; first + count <= 5; count++) {
        struct town_sum some = {.task = town_task(CHI_QUERY_RANGE, first, count)};
        CHECK_INT(town_call(&t, from, &town_sum_type, &some), CHI_OK);
        CHECK_INT(some.answers, count);
        CHECK_INT(some.sum, count * (first + 1) + count * (count - 1) / 2);
      }
  }
  struct town_sum none = {.task = town_task(CHI_QUERY_RANGE, 2, 4)};
  CHECK_INT(town_call(&t, 0, &town_sum_type, &none), CHI_ERANGE);
  CHECK_STR(town_end(&t), "");
}

TEST(cluster_range_is_split_and_gathered)
{
  TOWN_NEEDS_NET;
  for (uint32_t neighborhood = 1; neighborhood <= 6; neighborhood++)
    many_targets(neighborhood, neighborhood);
}

/* The code of any one container is the code of the whole; the others' answers are there. */
static void one_says_no(uint64_t seed)
{
  struct town t;
  CHECK_STR(town_seed(&t, seed, "nodes=4,neighborhood_size=2"), "");
  for (uint32_t i = 0; i < 4; i++) {
    struct town_code code = {
        .task = town_task(CHI_QUERY_BROADCAST, 0, 0), .container = i, .code = 40 + (int)i};
    CHECK_INT(town_call(&t, i, &town_code_type, &code), 40 + (int)i);
  }
  CHECK_STR(town_end(&t), "");
}

TEST(cluster_code_of_a_replica_propagates)
{
  TOWN_NEEDS_NET;
  for (uint64_t seed = 1; seed <= town_seeds(SEEDS); seed++)
    one_says_no(seed);
}

/* ---- who failed */

/* Asks all, of whom one returns a code and one is gone, as a client and in a subtask. */
static void lists(chi_cluster *cluster, chi_client *client, void *arg)
{
  struct town *t = arg;
  chi_queue *queue;
  (void)cluster;
  CHECK_INT(chi_queue_open(client, &queue, NULL), CHI_OK);
  struct town_code *code = chi_task_new_failures(queue, &town_code_type);
  code->task.pool = TOWN_POOL;
  code->task.query.mode = CHI_QUERY_BROADCAST;
  code->container = 1;
  code->code = 41;
  CHECK_INT(chi_run(queue, code), 41);
  const chi_failures *f = chi_failures_of(&town_code_type, code);
  CHECK_INT(code->task.query.c, 2);
  CHECK(f && f->asked == 5 && f->failed == 2 && f->listed == 2);
  CHECK(f->item[0].container == 1 && f->item[0].rc == 41);
  CHECK(f->item[1].container == 3 && f->item[1].rc == CHI_EUNREACHABLE);
  code->code = 0; /* the list is that of the last time */
  code->task.query = (chi_query){.mode = CHI_QUERY_RANGE, .a = 0, .b = 3};
  CHECK_INT(chi_run(queue, code), CHI_OK);
  CHECK(f->asked == 3 && f->failed == 0 && f->listed == 0);
  code->task.query = (chi_query){.mode = CHI_QUERY_DYNAMIC}; /* the last one, as is scheduled */
  code->container = 4;
  code->code = 42;
  CHECK_INT(chi_run(queue, code), 42);
  CHECK(f->asked == 1 && f->failed == 1 && f->item[0].container == 4 && f->item[0].rc == 42);
  code->task.query = (chi_query){.mode = CHI_QUERY_BROADCAST};
  code->task.flags |= CHI_TASK_FORCE_NET;
  CHECK_INT(chi_run(queue, code), CHI_EUNREACHABLE);
  CHECK(f->asked == 5 && f->failed == 2);
  chi_task_free(queue, code);
  code = CHI_NEW(queue, town_code);
  CHECK(chi_failures_of(&town_code_type, code) == NULL);
  struct town_list *list = CHI_NEW(queue, town_list);
  list->task.pool = TOWN_POOL;
  CHECK_INT(chi_run(queue, list), CHI_EUNREACHABLE);
  CHECK(list->asked == 5 && list->failed == 1 && list->first == 3);
  t->told++;
  chi_queue_close(queue);
}

TEST(cluster_failed_containers_are_listed)
{
  struct town t;
  TOWN_NEEDS_NET;
  CHECK_STR(town_seed(&t, 1, "nodes=5,neighborhood_size=8,wait_for_restart=1s"), "");
  town_fault(&t, CHI_FAULT_KILL, 3, 0, 0);
  chi_cluster_run_for(t.cluster, 30 * TOWN_SECOND);
  chi_cluster_client(t.cluster, 0, lists, &t);
  chi_cluster_run_for(t.cluster, 60 * TOWN_SECOND);
  CHECK_INT(t.told, 1);
  CHECK_STR(town_end(&t), "");
}

/* Regression 3: what cannot be found completes, and never with 0. */
TEST(cluster_task_for_nobody_completes_with_a_code)
{
  struct town t;
  TOWN_NEEDS_NET;
  CHECK_STR(town_seed(&t, 1, "nodes=3"), "");
  struct town_where w = {.task = town_task(CHI_QUERY_PHYSICAL, 1, 0)};
  w.task.pool = (chi_pool_id){999, 0};
  CHECK_INT(town_call(&t, 0, &town_where_type, &w), CHI_ENOENT);
  w.task.pool = TOWN_POOL;
  w.task.query.a = 3;
  CHECK(town_call(&t, 0, &town_where_type, &w) < 0);
  CHECK_STR(town_end(&t), "");
}

/* ---- bodies ------------------------------------------------------------------------------- */

static void copies(chi_cluster *cluster, chi_client *client, void *arg)
{
  static const uint64_t sizes[] = {1, 4095, 4096, 4097, 100000, 3000000};
  struct town *t = arg;
  chi_queue *queue;
  (void)cluster;
  CHECK_INT(chi_queue_open(client, &queue, NULL), CHI_OK);
  for (size_t i = 0; i < sizeof(sizes) / sizeof(sizes[0]); i++) {
    struct town_bulk *b = CHI_NEW(queue, town_bulk);
    CHECK(b);
    b->task = town_task(CHI_QUERY_PHYSICAL, 1, 0);
    b->task.method = town_bulk_type.id;
    CHECK_INT(chi_bulk_alloc(queue, sizes[i], &b->from), CHI_OK);
    CHECK_INT(chi_bulk_alloc(queue, sizes[i], &b->to), CHI_OK);
    memset(b->from.data, (int)i, sizes[i]);
    CHECK_INT(chi_run(queue, b), CHI_OK);
    CHECK_INT(b->to.size, sizes[i]);
    for (uint64_t at = 0; at < sizes[i]; at += 1 + sizes[i] / 1000)
      CHECK_INT(((uint8_t *)b->to.data)[at], i + 1);
    CHECK_INT(((uint8_t *)b->to.data)[sizes[i] - 1], i + 1);
    CHECK_INT(chi_bulk_free(queue, &b->from), CHI_OK);
    CHECK_INT(chi_bulk_free(queue, &b->to), CHI_OK);
    CHECK_INT(chi_task_free(queue, b), CHI_OK);
  }
  chi_queue_close(queue);
  t->told++;
}

/* The code that a task with bulk data for a node ends with. */
static int carries(chi_queue *queue, uint32_t node, uint64_t there, uint64_t back)
{
  struct town_bulk *b = CHI_NEW(queue, town_bulk);
  if (!b || chi_bulk_alloc(queue, there, &b->from) || chi_bulk_alloc(queue, back, &b->to))
    return chi_queue_error(queue, NULL);
  b->task = town_task(CHI_QUERY_PHYSICAL, node, 0);
  b->task.method = town_bulk_type.id;
  memset(b->from.data, 1, there);
  int rc = chi_run(queue, b);
  chi_bulk_free(queue, &b->from);
  chi_bulk_free(queue, &b->to);
  chi_task_free(queue, b);
  return rc;
}

static void brings_much(chi_cluster *cluster, chi_client *client, void *arg)
{
  const uint64_t room = 1 << 20;
  struct town *t = arg;
  chi_queue *queue;
  (void)cluster;
  CHECK_INT(chi_queue_open(client, &queue, NULL), CHI_OK);
  CHECK_INT(carries(queue, 1, room, room), CHI_OK);
  CHECK_INT(carries(queue, 1, room + 1, room), CHI_ENOMEM);
  CHECK_INT(carries(queue, 1, room, room + 1), CHI_ENOMEM);
  CHECK_INT(carries(queue, 0, 2 * room, 2 * room), CHI_OK); /* nothing is sent */
  CHECK_INT(carries(queue, 1, room, room), CHI_OK);
  chi_queue_close(queue);
  t->told++;
}

/* More than a node takes at a time is not sent to it, nor asked for. */
TEST(cluster_bulk_that_does_not_fit_is_refused)
{
  struct town t;
  TOWN_NEEDS_NET;
  CHECK_STR(town_seed(&t, 1, "nodes=2,bulk_max=1M"), "");
  town_client(&t, 0, brings_much, &t);
  CHECK_INT(chi_cluster_run_idle(t.cluster, TOWN_LONG), CHI_OK);
  CHECK_STR(town_end(&t), "");
  CHECK_INT(t.told, 1);
}

/* Regression 14: what a node holds does not grow with what passes through. */
TEST(cluster_bulk_goes_there_and_back)
{
  struct town t;
  TOWN_NEEDS_NET;
  CHECK_STR(town_seed(&t, 1, "nodes=2"), "");
  for (int i = 1; i <= 10; i++) {
    town_client(&t, 0, copies, &t);
    CHECK_INT(chi_cluster_run_idle(t.cluster, TOWN_LONG), CHI_OK);
    CHECK_INT(t.told, i);
  }
  CHECK_STR(town_end(&t), "");
}

TEST(cluster_subtask_goes_to_another_node)
{
  struct town t;
  TOWN_NEEDS_NET;
  CHECK_STR(town_seed(&t, 1, "nodes=3"), "");
  for (uint32_t i = 0; i < 9; i++) {
    struct town_ask ask = {.task = town_task(CHI_QUERY_PHYSICAL, i / 3, 0), .whom = i % 3};
    CHECK_INT(town_call(&t, 0, &town_ask_type, &ask), CHI_OK);
    CHECK_INT(ask.node, i % 3);
  }
  CHECK_STR(town_end(&t), "");
}

/* With the flag, a task goes through the network code even if its target is here. */
TEST(cluster_forced_task_comes_back)
{
  struct town t;
  TOWN_NEEDS_NET;
  CHECK_STR(town_seed(&t, 1, "nodes=2"), "");
  struct town_where w = {.task = town_task(CHI_QUERY_LOCAL, 0, 0)};
  w.task.flags = CHI_TASK_FORCE_NET;
  CHECK_INT(town_call(&t, 1, &town_where_type, &w), CHI_OK);
  CHECK_INT(w.node, 1);
  CHECK_STR(town_end(&t), "");
}

/* Regression 6: two origins whose tasks have equal numbers are not mixed up. */
struct origin {
  uint32_t node;
  uint64_t done, wrong;
};

static void questions(chi_cluster *cluster, chi_client *client, void *arg)
{
  struct origin *origin = arg;
  void *tasks[16];
  chi_queue *queue;
  (void)cluster;
  CHECK_INT(chi_queue_open(client, &queue, NULL), CHI_OK);
  for (int round = 0; round < 10; round++) {
    for (uint32_t i = 0; i < 16; i++) {
      struct town_ask *ask = CHI_NEW(queue, town_ask);
      CHECK(ask);
      ask->task.pool = TOWN_POOL;
      ask->task.query = (chi_query){.mode = CHI_QUERY_PHYSICAL, .a = 2};
      ask->whom = origin->node;
      tasks[i] = ask;
      CHECK_INT(chi_submit(queue, ask), CHI_OK);
    }
    CHECK_INT(chi_wait_all(queue, tasks, 16, UINT64_MAX), CHI_OK);
    for (uint32_t i = 0; i < 16; i++) {
      origin->done++;
      origin->wrong += ((struct town_ask *)tasks[i])->node != origin->node;
      CHECK_INT(chi_task_free(queue, tasks[i]), CHI_OK);
    }
  }
  chi_queue_close(queue);
}

TEST(cluster_origins_are_not_mixed_up)
{
  struct town t;
  struct origin origins[3] = {{.node = 0}, {.node = 1}, {.node = 2}};
  TOWN_NEEDS_NET;
  CHECK_STR(town_seed(&t, 1, "nodes=3"), "");
  for (uint32_t i = 0; i < 3; i++)
    town_client(&t, i, questions, &origins[i]);
  CHECK_INT(chi_cluster_run_idle(t.cluster, TOWN_LONG), CHI_OK);
  for (uint32_t i = 0; i < 3; i++) {
    CHECK_INT(origins[i].done, 160);
    CHECK_INT(origins[i].wrong, 0);
  }
  CHECK_STR(town_end(&t), "");
}

/* ---- ends --------------------------------------------------------------------------------- */

static void changes_its_mind(chi_cluster *cluster, chi_client *client, void *arg)
{
  struct town *t = arg;
  struct town_sleep *sleep;
  chi_queue *queue;
  CHECK_INT(chi_queue_open(client, &queue, NULL), CHI_OK);
  sleep = CHI_NEW(queue, town_sleep);
  CHECK(sleep);
  sleep->task.pool = TOWN_POOL;
  sleep->task.query = (chi_query){.mode = CHI_QUERY_BROADCAST};
  sleep->ns = 1000 * TOWN_SECOND;
  CHECK_INT(chi_submit(queue, sleep), CHI_OK);
  CHECK_INT(chi_wait(queue, sleep, TOWN_SECOND), CHI_ETIMEOUT);
  CHECK_INT(chi_task_done(queue, sleep), 0); /* a timed-out wait is not a completion */
  uint64_t began = chi_cluster_now(cluster);
  CHECK_INT(chi_cancel(queue, sleep), CHI_OK);
  CHECK_INT(chi_wait(queue, sleep, UINT64_MAX), CHI_ECANCELLED);
  CHECK(chi_cluster_now(cluster) - began < town_within(TOWN_SECOND));
  sleep->task.deadline_ms = 200;
  began = chi_cluster_now(cluster);
  CHECK_INT(chi_run(queue, sleep), CHI_ETIMEOUT);
  CHECK(chi_cluster_now(cluster) - began < town_within(TOWN_SECOND));
  CHECK_INT(chi_task_free(queue, sleep), CHI_OK);
  chi_queue_close(queue);
  t->told++;
}

TEST(cluster_cancel_and_deadline_reach_other_nodes)
{
  TOWN_NEEDS_NET;
  for (uint64_t seed = 1; seed <= town_seeds(SEEDS); seed++) {
    struct town t;
    CHECK_STR(town_seed(&t, seed, "nodes=3"), "");
    town_client(&t, 0, changes_its_mind, &t);
    CHECK_INT(chi_cluster_run_idle(t.cluster, TOWN_LONG), CHI_OK);
    CHECK_INT(t.told, 1);
    CHECK_STR(town_end(&t), "");
  }
}

/* A periodic task repeats where it is, until it is cancelled from here. */
static void repeats(chi_cluster *cluster, chi_client *client, void *arg)
{
  struct town *t = arg;
  struct town_where *where;
  chi_queue *queue;
  CHECK_INT(chi_queue_open(client, &queue, NULL), CHI_OK);
  where = CHI_NEW(queue, town_where);
  CHECK(where);
  where->task.pool = TOWN_POOL;
  where->task.query = (chi_query){.mode = CHI_QUERY_PHYSICAL, .a = 1};
  where->task.flags = CHI_TASK_PERIODIC;
  where->task.period_us = 1000;
  CHECK_INT(chi_submit(queue, where), CHI_OK);
  chi_cluster_sleep(cluster, TOWN_SECOND);
  CHECK_INT(chi_task_done(queue, where), 0);
  CHECK_INT(chi_cancel(queue, where), CHI_OK);
  CHECK_INT(chi_wait(queue, where, UINT64_MAX), CHI_ECANCELLED);
  CHECK_INT(chi_task_free(queue, where), CHI_OK);
  chi_queue_close(queue);
  t->told++;
}

TEST(cluster_periodic_task_repeats_elsewhere)
{
  struct town t;
  struct town_where where = {.task = town_task(CHI_QUERY_PHYSICAL, 1, 0)};
  TOWN_NEEDS_NET;
  CHECK_STR(town_seed(&t, 1, "nodes=2"), "");
  town_client(&t, 0, repeats, &t);
  CHECK_INT(chi_cluster_run_idle(t.cluster, TOWN_LONG), CHI_OK);
  CHECK_INT(t.told, 1);
  CHECK_INT(town_call(&t, 0, &town_where_type, &where), CHI_OK);
  CHECK(where.runs > (town_is_simulated() ? 900 : 10) && where.runs < 1100);
  CHECK_STR(town_end(&t), "");
}

/* A client that is killed has its tasks cancelled, on other nodes too. */
static void dies(chi_cluster *cluster, chi_client *client, void *arg)
{
  struct town_sleep *sleep;
  chi_queue *queue;
  (void)cluster, (void)arg;
  CHECK_INT(chi_queue_open(client, &queue, NULL), CHI_OK);
  sleep = CHI_NEW(queue, town_sleep);
  CHECK(sleep);
  sleep->task.pool = TOWN_POOL;
  sleep->task.query = (chi_query){.mode = CHI_QUERY_PHYSICAL, .a = 1};
  sleep->ns = 1000 * TOWN_SECOND;
  chi_run(queue, sleep);
}

TEST(cluster_killed_client_leaves_nothing_elsewhere)
{
  struct town t;
  TOWN_NEEDS_NET;
  CHECK_STR(town_seed(&t, 1, "nodes=2"), "");
  int client = town_client(&t, 0, dies, NULL);
  CHECK_INT(chi_cluster_run_for(t.cluster, TOWN_SECOND), CHI_OK);
  chi_cluster_client_kill(t.cluster, client);
  CHECK_INT(chi_cluster_run_for(t.cluster, 5 * TOWN_SECOND), CHI_OK);
  struct chi_admin_flush flush = {.task = {.pool = CHI_ADMIN_POOL}};
  flush.task.query = (chi_query){.mode = CHI_QUERY_PHYSICAL, .a = 1};
  CHECK_INT(town_call(&t, 0, &chi_admin_flush_type, &flush), CHI_OK);
  CHECK_STR(town_end(&t), "");
}

/* ---- the whole cluster -------------------------------------------------------------------- */

static void naps(chi_cluster *cluster, chi_client *client, void *arg)
{
  struct town *t = arg;
  struct town_sleep *sleep;
  chi_queue *queue;
  (void)cluster;
  CHECK_INT(chi_queue_open(client, &queue, NULL), CHI_OK);
  sleep = CHI_NEW(queue, town_sleep);
  CHECK(sleep);
  sleep->task.pool = TOWN_POOL;
  sleep->task.query = (chi_query){.mode = CHI_QUERY_PHYSICAL, .a = 2};
  sleep->ns = 3 * TOWN_SECOND;
  CHECK_INT(chi_run(queue, sleep), CHI_OK);
  chi_queue_close(queue);
  t->told++;
}

/* Flush returns when the work of all nodes is done, not only that of its own. */
TEST(cluster_flush_waits_for_all_nodes)
{
  struct town t;
  TOWN_NEEDS_NET;
  CHECK_STR(town_seed(&t, 1, "nodes=3"), "");
  struct chi_admin_flush flush = {.task = {.pool = CHI_ADMIN_POOL}};
  uint64_t began = chi_cluster_now(t.cluster);
  town_client(&t, 1, naps, &t);
  CHECK_INT(chi_cluster_run_for(t.cluster, TOWN_SECOND), CHI_OK);
  flush.task.query.mode = CHI_QUERY_BROADCAST;
  CHECK_INT(town_call(&t, 0, &chi_admin_flush_type, &flush), CHI_OK);
  CHECK(chi_cluster_now(t.cluster) >= began + 3 * TOWN_SECOND);
  CHECK_INT(chi_cluster_run_idle(t.cluster, town_within(TOWN_SECOND)), CHI_OK);
  CHECK_INT(t.told, 1);
  CHECK_STR(town_end(&t), "");
}

static void watches(chi_cluster *cluster, chi_client *client, void *arg)
{
  struct town *t = arg;
  struct chi_admin_monitor *m;
  chi_queue *queue;
  (void)cluster;
  CHECK_INT(chi_queue_open(client, &queue, NULL), CHI_OK);
  for (uint32_t node = 0; node < 3; node++) {
    m = CHI_NEW(queue, chi_admin_monitor);
    CHECK(m);
    m->task.pool = CHI_ADMIN_POOL;
    m->task.query = (chi_query){.mode = CHI_QUERY_PHYSICAL, .a = node};
    CHECK_INT(chi_bulk_alloc(queue, 65536, &m->json), CHI_OK);
    CHECK_INT(chi_run(queue, m), CHI_OK);
    CHECK(m->size > 2 && m->size <= 65536);
    CHECK(((char *)m->json.data)[0] == '{' && memchr(m->json.data, '}', m->size));
    CHECK_INT(chi_bulk_free(queue, &m->json), CHI_OK);
    CHECK_INT(chi_task_free(queue, m), CHI_OK);
  }
  chi_queue_close(queue);
  t->told++;
}

TEST(cluster_monitor_of_every_node_from_one)
{
  struct town t;
  TOWN_NEEDS_NET;
  CHECK_STR(town_seed(&t, 1, "nodes=3"), "");
  town_client(&t, 1, watches, &t);
  CHECK_INT(chi_cluster_run_idle(t.cluster, TOWN_LONG), CHI_OK);
  CHECK_INT(t.told, 1);
  CHECK_STR(town_end(&t), "");
}

/* The figures of node 0, parsed; NULL: there are none. */
static struct json *figures_of(chi_queue *queue)
{
  struct chi_admin_monitor *m = CHI_NEW(queue, chi_admin_monitor);
  struct json *json = NULL;
  chi_error err;
  if (!m || chi_bulk_alloc(queue, 65536, &m->json) != CHI_OK)
    return NULL;
  m->task.pool = CHI_ADMIN_POOL;
  if (chi_run(queue, m) == CHI_OK)
    json_parse(m->json.data, m->size, &json, &err);
  chi_bulk_free(queue, &m->json);
  chi_task_free(queue, m);
  return json;
}

static int sleeps_on(chi_queue *queue, uint32_t node, uint64_t ns)
{
  struct town_sleep *t = CHI_NEW(queue, town_sleep);
  if (!t)
    return CHI_ENOMEM;
  t->task.pool = TOWN_POOL;
  t->task.query = (chi_query){.mode = CHI_QUERY_PHYSICAL, .a = node};
  t->ns = ns;
  int rc = chi_run(queue, t);
  chi_task_free(queue, t);
  return rc;
}

static void calls_and_counts(chi_cluster *cluster, chi_client *client, void *arg)
{
  struct town *t = arg;
  chi_queue *queue;
  (void)cluster;
  CHECK_INT(chi_queue_open(client, &queue, NULL), CHI_OK);
  struct json *before = figures_of(queue);
  for (int i = 0; i < 10; i++)
    CHECK_INT(sleeps_on(queue, 1, i == 9 ? TOWN_SECOND : TOWN_MS), CHI_OK);
  struct json *after = figures_of(queue);
  const struct json *a = json_get(before, "net"), *b = json_get(after, "net");
  CHECK_STR(json_string(after, "host", ""), json_string(before, "host", "?"));
  CHECK(json_integer(after, "boot", 0) != 0);
  CHECK_INT(json_integer(b, "calls_ended", 0) - json_integer(a, "calls_ended", 0), 10);
  uint64_t ns = json_integer(b, "calls_ns", 0) - json_integer(a, "calls_ns", 0);
  CHECK(ns >= TOWN_SECOND + 9 * TOWN_MS && ns < 2 * TOWN_SECOND);
  uint64_t all = 0, longest = 0;
  for (const struct json *pair = json_list(b, "latency"); pair; pair = pair->next) {
    all += pair->child->next->integer;
    longest = pair->child->integer;
  }
  CHECK(all == json_integer(b, "calls_ended", 0));
  CHECK(longest > TOWN_SECOND && longest <= 2 * TOWN_SECOND);
  const struct json *peer = json_list(after, "nodes");
  CHECK_INT(json_integer(peer, "id", 0), 1);
  CHECK(*json_string(peer, "host", "") && json_integer(peer, "requests_open", 9) == 0);
  json_free(before);
  json_free(after);
  chi_queue_close(queue);
  t->told++;
}

TEST(cluster_calls_are_counted_and_timed)
{
  struct town t;
  TOWN_NEEDS_NET;
  CHECK_STR(town_seed(&t, 1, "nodes=3"), "");
  chi_cluster_client(t.cluster, 0, calls_and_counts, &t);
  CHECK_INT(chi_cluster_run_idle(t.cluster, TOWN_LONG), CHI_OK);
  CHECK_INT(t.told, 1);
  CHECK_STR(town_end(&t), "");
}
