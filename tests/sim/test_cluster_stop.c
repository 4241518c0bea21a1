/* test_cluster_stop.c - nodes that are stopped in good order: what others ask of them meanwhile is
 * answered, or waits until they are back. */
#include "town.h"

#define STOP_NODES 3u
#define STOP_WINDOW 8u
#define STOP_LEAST (2 * STOP_WINDOW) /* tasks of a client: most may wait for who is away */
#define STOP_ROUNDS 4u

/* A client with some tasks in flight to all nodes in turn, until it is told to end. */
struct stop_client {
  bool end;
  uint64_t ended, unknown, unreachable, shutdown, absent, other;
};

static struct town_sum *stop_begin(chi_queue *queue, uint32_t number)
{
  struct town_sum *t = CHI_NEW(queue, town_sum);
  if (!t)
    return NULL;
  t->task.pool = TOWN_POOL;
  t->task.query = (chi_query){.mode = CHI_QUERY_PHYSICAL, .a = number % STOP_NODES};
  t->ns = number % 5 == 0 ? 3 * TOWN_MS : number % 3 == 0 ? 100000 : 0;
  if (chi_submit(queue, t) == CHI_OK)
    return t;
  chi_task_free(queue, t);
  return NULL;
}

static void stop_count(struct stop_client *s, int rc)
{
  s->ended++;
  s->unknown += rc == CHI_EUNKNOWN;
  s->unreachable += rc == CHI_EUNREACHABLE;
  s->shutdown += rc == CHI_ESHUTDOWN;
  s->absent += rc == CHI_ENOENT;
  s->other += rc != CHI_OK && rc != CHI_EUNKNOWN && rc != CHI_EUNREACHABLE && rc != CHI_ESHUTDOWN &&
              rc != CHI_ENOENT;
}

static uint32_t stop_in_flight(struct town_sum *const *task)
{
  uint32_t count = 0;
  for (uint32_t i = 0; i < STOP_WINDOW; i++)
    count += task[i] != NULL;
  return count;
}

/* When its daemon has gone, it attaches to the next one. */
static void stop_works(chi_cluster *c, chi_client *client, void *arg)
{
  struct stop_client *s = arg;
  struct town_sum *task[STOP_WINDOW] = {NULL};
  uint32_t number = 0;
  chi_queue *queue = NULL;
  if (chi_queue_open(client, &queue, NULL) != CHI_OK)
    return;
  while (!s->end) {
    for (uint32_t i = 0; i < STOP_WINDOW; i++) {
      if (task[i] && chi_task_done(queue, task[i])) {
        stop_count(s, chi_wait(queue, task[i], 0));
        chi_task_free(queue, task[i]);
        task[i] = NULL;
      }
      if (!task[i])
        task[i] = stop_begin(queue, number++);
    }
    if (stop_in_flight(task) == 0)
      chi_client_reconnect(client, TOWN_SECOND, NULL);
    chi_cluster_sleep(c, TOWN_MS / 2);
  }
  for (uint32_t i = 0; i < STOP_WINDOW; i++)
    if (task[i]) {
      stop_count(s, chi_wait(queue, task[i], UINT64_MAX));
      chi_task_free(queue, task[i]);
    }
  chi_queue_close(queue);
}

static int stop_is_down(chi_cluster *c, void *arg)
{
  return !chi_cluster_is_up(c, *(const uint32_t *)arg);
}

/* Node 2 is stopped and started again and again; whoever has something for it waits, and nothing
 * that it was given is lost, even if messages take longer than it takes to stop. */
static void stops_and_starts(uint64_t seed)
{
  struct town t;
  struct stop_client client[2] = {{.end = false}, {.end = false}};
  uint32_t node = 2;
  CHECK_STR(town_seed(&t, seed, "nodes=3,wait_for_restart=30s,heartbeat_interval=100ms"), "");
  for (uint32_t i = 0; i < 2; i++) {
    chi_cluster_client(t.cluster, i, stop_works, &client[i]);
    town_fault(&t, CHI_FAULT_CLOG, i, node, seed % 3 * 10 * TOWN_MS);
    town_fault(&t, CHI_FAULT_CLOG, node, i, seed % 2 * 10 * TOWN_MS);
  }
  for (uint32_t round = 0; round < STOP_ROUNDS; round++) {
    CHECK_INT(chi_cluster_run_for(t.cluster, 20 * TOWN_MS + (seed + round) * 77777), CHI_OK);
    town_fault(&t, CHI_FAULT_STOP, node, 0, 5000);
    CHECK_INT(chi_cluster_run_until(t.cluster, stop_is_down, &node, TOWN_SECOND), CHI_OK);
    CHECK_INT(chi_cluster_run_for(t.cluster, round * 700 * TOWN_MS), CHI_OK);
    town_fault(&t, CHI_FAULT_START, node, 0, 0);
    CHECK_INT(chi_cluster_run_for(t.cluster, 200 * TOWN_MS), CHI_OK);
  }
  client[0].end = client[1].end = true;
  CHECK_INT(chi_cluster_run_idle(t.cluster, TOWN_LONG), CHI_OK);
  for (uint32_t i = 0; i < 2; i++) {
    CHECK(client[i].ended > STOP_LEAST);
    CHECK_INT(client[i].unknown, 0);
    CHECK_INT(client[i].unreachable, 0);
    CHECK_INT(client[i].shutdown, 0);
    CHECK_INT(client[i].absent, 0);
    CHECK_INT(client[i].other, 0);
  }
  CHECK_STR(town_end(&t), "");
}

TEST(cluster_stop_of_a_node_loses_nothing)
{
  for (uint64_t seed = 1; seed <= town_seeds(6); seed++)
    stops_and_starts(seed);
}

/* All nodes, one after the other, as one restarts a cluster that is at work. What a client's own
 * daemon refuses while it stops, or since it hasn't heard of the pool again, it has not run. */
static void restarts_rolling(uint64_t seed)
{
  struct town t;
  struct stop_client client[STOP_NODES] = {{.end = false}, {.end = false}, {.end = false}};
  CHECK_STR(town_seed(&t, seed, "nodes=3,wait_for_restart=30s,heartbeat_interval=100ms"), "");
  for (uint32_t i = 0; i < STOP_NODES; i++)
    chi_cluster_client(t.cluster, i, stop_works, &client[i]);
  for (uint32_t round = 0; round < STOP_ROUNDS; round++) {
    uint32_t node = (round + (uint32_t)seed) % STOP_NODES;
    CHECK_INT(chi_cluster_run_for(t.cluster, 20 * TOWN_MS + (seed + round) * 77777), CHI_OK);
    town_fault(&t, CHI_FAULT_STOP, node, 0, 5000);
    CHECK_INT(chi_cluster_run_until(t.cluster, stop_is_down, &node, TOWN_SECOND), CHI_OK);
    town_fault(&t, CHI_FAULT_START, node, 0, 0);
    CHECK_INT(chi_cluster_run_for(t.cluster, 500 * TOWN_MS), CHI_OK);
  }
  for (uint32_t i = 0; i < STOP_NODES; i++)
    client[i].end = true;
  CHECK_INT(chi_cluster_run_idle(t.cluster, TOWN_LONG), CHI_OK);
  for (uint32_t i = 0; i < STOP_NODES; i++) {
    CHECK(client[i].ended > STOP_LEAST);
    CHECK_INT(client[i].unknown, 0);
    CHECK_INT(client[i].unreachable, 0);
    CHECK_INT(client[i].other, 0);
  }
  CHECK_STR(town_end(&t), "");
}

TEST(cluster_stop_of_one_node_after_the_other_loses_nothing)
{
  for (uint64_t seed = 1; seed <= town_seeds(6); seed++)
    restarts_rolling(seed);
}

/* Who waits for a node that has stopped doesn't hold up its own node's stop. */
static void all_stop_at_once(uint64_t seed)
{
  struct town t;
  struct stop_client client[3] = {{.end = false}, {.end = false}, {.end = false}};
  CHECK_STR(town_seed(&t, seed, "nodes=3,wait_for_restart=30s"), "");
  for (uint32_t i = 0; i < 2; i++)
    chi_cluster_client(t.cluster, i, stop_works, &client[i]);
  CHECK_INT(chi_cluster_run_for(t.cluster, 20 * TOWN_MS + seed * 99999), CHI_OK);
  client[0].end = client[1].end = true;
  uint64_t began = chi_cluster_now(t.cluster);
  for (uint32_t node = 0; node < 3; node++)
    town_fault(&t, CHI_FAULT_STOP, (node + (uint32_t)seed) % 3, 0, 5000);
  for (uint32_t node = 0; node < 3; node++)
    CHECK_INT(chi_cluster_run_until(t.cluster, stop_is_down, &node, 10 * TOWN_SECOND), CHI_OK);
  CHECK(chi_cluster_now(t.cluster) - began < 2 * TOWN_SECOND);
  CHECK_INT(chi_cluster_run_idle(t.cluster, TOWN_LONG), CHI_OK);
  CHECK(!town_tells(&t, "do not end"));
  CHECK_STR(town_end(&t), "");
}

TEST(cluster_stop_of_all_nodes_does_not_wait_for_each_other)
{
  for (uint64_t seed = 1; seed <= town_seeds(6); seed++)
    all_stop_at_once(seed);
}

/* Stopped again while others are about to find it. */
static void stops_as_it_is_met(uint64_t seed)
{
  struct town t;
  struct stop_client client[2] = {{.end = false}, {.end = false}};
  uint32_t node = 2;
  CHECK_STR(town_seed(&t, seed,
                      "nodes=3,wait_for_restart=30s,heartbeat_interval=100ms,"
                      "retry=50ms,retry_max=50ms"),
            "");
  for (uint32_t i = 0; i < 2; i++) {
    chi_cluster_client(t.cluster, i, stop_works, &client[i]);
    town_fault(&t, CHI_FAULT_CLOG, i, node, 20 * TOWN_MS);
  }
  CHECK_INT(chi_cluster_run_for(t.cluster, 50 * TOWN_MS), CHI_OK);
  for (uint32_t round = 0; round < 2 * STOP_ROUNDS; round++) {
    town_fault(&t, CHI_FAULT_STOP, node, 0, 5000);
    CHECK_INT(chi_cluster_run_until(t.cluster, stop_is_down, &node, 2 * TOWN_SECOND), CHI_OK);
    CHECK_INT(chi_cluster_run_for(t.cluster, 100 * TOWN_MS), CHI_OK);
    town_fault(&t, CHI_FAULT_START, node, 0, 0);
    CHECK_INT(chi_cluster_run_for(t.cluster, (20 + 7 * round) * TOWN_MS + seed * 77777), CHI_OK);
  }
  client[0].end = client[1].end = true;
  CHECK_INT(chi_cluster_run_idle(t.cluster, TOWN_LONG), CHI_OK);
  for (uint32_t i = 0; i < 2; i++) {
    CHECK_INT(client[i].unknown, 0);
    CHECK_INT(client[i].unreachable, 0);
  }
  CHECK_STR(town_end(&t), "");
}

TEST(cluster_stop_while_others_find_the_node_loses_nothing)
{
  TOWN_NEEDS_SIM("nodes meet when the network says so");
  for (uint64_t seed = 1; seed <= town_seeds(6); seed++)
    stops_as_it_is_met(seed);
}

/* Asks all nodes to end their work, and to stop when it has ended. */
static void stops_all(chi_cluster *c, chi_client *client, void *arg)
{
  struct town *t = arg;
  chi_queue *queue;
  CHECK_INT(chi_queue_open(client, &queue, NULL), CHI_OK);
  struct town_sleep *nap = CHI_NEW(queue, town_sleep);
  struct chi_admin_flush *flush = CHI_NEW(queue, chi_admin_flush);
  struct chi_admin_stop_runtime *stop = CHI_NEW(queue, chi_admin_stop_runtime);
  CHECK(nap && flush && stop);
  nap->task.pool = TOWN_POOL;
  nap->ns = 500 * TOWN_MS;
  flush->task.pool = stop->task.pool = CHI_ADMIN_POOL;
  flush->task.query.mode = stop->task.query.mode = CHI_QUERY_BROADCAST;
  stop->flags = CHI_STOP_WAIT;
  stop->grace_period_ms = 20000;
  CHECK_INT(chi_submit(queue, nap), CHI_OK);
  CHECK_INT(chi_submit(queue, flush), CHI_OK);
  chi_cluster_sleep(c, 100 * TOWN_MS);
  CHECK_INT(chi_submit(queue, stop), CHI_OK);
  CHECK_INT(chi_wait(queue, nap, UINT64_MAX), CHI_OK);
  CHECK_INT(chi_wait(queue, flush, UINT64_MAX), CHI_OK);
  CHECK_INT(chi_wait(queue, stop, UINT64_MAX), CHI_OK);
  CHECK_INT(stop->cancelled, 0);
  chi_queue_close(queue);
  t->told++;
}

TEST(cluster_stop_and_flush_of_all_nodes_do_not_wait_for_each_other)
{
  struct town t;
  TOWN_NEEDS_SIM("elsewhere a node that ends without a fault has died");
  CHECK_STR(town_seed(&t, 1, "nodes=3"), "");
  uint64_t began = chi_cluster_now(t.cluster);
  town_client(&t, 0, stops_all, &t);
  for (uint32_t node = 0; node < 3; node++)
    CHECK_INT(chi_cluster_run_until(t.cluster, stop_is_down, &node, 30 * TOWN_SECOND), CHI_OK);
  CHECK(chi_cluster_now(t.cluster) - began < 5 * TOWN_SECOND);
  CHECK_INT(chi_cluster_run_idle(t.cluster, TOWN_LONG), CHI_OK);
  CHECK_INT(t.told, 1);
  CHECK_STR(town_end(&t), "");
}
