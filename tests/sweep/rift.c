/* rift.c - a cluster that falls in two for long, and a node that takes itself for too young. */
#include "rift.h"
#include "folk.h"
#include "sim_cluster.h"

#define MS UINT64_C(1000000)
#define SECOND UINT64_C(1000000000)
#define STATE_DEAD 3 /* enum member_state */
#define RIFT_POOL 850u
#define REBORN_POOL ((chi_pool_id){860, 0})

/* Heartbeats are rare where nobody is to give up soon. */
static uint64_t seconds(const struct run_case *c, uint64_t few, uint64_t many)
{
  return (c->gentle || c->quiet ? many : few) * SECOND;
}

/* ---- two halves ----------------------------------------------------------------------------- */

static void look_across(chi_cluster *cluster, uint32_t nodes, uint32_t half)
{
  const struct sim_check *check = sim_cluster_check(cluster);
  for (uint32_t i = 0; i < nodes; i++)
    for (uint32_t k = 0; k < nodes; k++)
      if ((i < half) != (k < half) && check->node[i].state &&
          check->node[i].state[k] != STATE_DEAD)
        books_fail("rift", "node %u does not give up node %u, which it cannot reach", i, k);
}

static void make_pool(chi_cluster *cluster, uint32_t node)
{
  chi_pool_id id = {RIFT_POOL, node};
  struct books_pool *p = books_new_pool(id, node, "rift");
  chi_error err;
  if (!p)
    return;
  p->fought = true;
  p->created = chi_cluster_pool_create(cluster, node, "folk", p->name, NULL, 0, &p->id, &err);
  if (p->created != CHI_OK && !chi_cluster_failure(cluster))
    books_fail("rift", "node %u cannot make a pool for its half: %s", node, err.text);
}

void rift_split(chi_cluster *cluster, const struct run_case *c, struct rng *rng)
{
  uint32_t half = c->nodes < 4 ? 1 : 2 + (uint32_t)rng_below(rng, c->nodes - 3);
  chi_cluster_fault(cluster, CHI_FAULT_PARTITION, 0, half - 1, 0);
  chi_cluster_run_for(cluster, seconds(c, 6, 90));
  if (chi_cluster_failure(cluster))
    return;
  look_across(cluster, c->nodes, half);
  make_pool(cluster, 0);
  make_pool(cluster, c->nodes - 1);
}

/* ---- a life that is too young --------------------------------------------------------------- */

/* The client of a node that knows no better. */
struct caller {
  uint32_t whom;
  uint64_t token;
};

static void caller_body(chi_cluster *cluster, chi_client *client, void *arg)
{
  const struct caller *caller = arg;
  chi_queue *queue = NULL;
  struct folk_sleep *t = NULL;
  (void)cluster;
  if (chi_queue_open(client, &queue, NULL) == CHI_OK)
    t = CHI_NEW(queue, folk_sleep);
  if (!t)
    return;
  t->task.pool = REBORN_POOL;
  t->task.query = (chi_query){.mode = CHI_QUERY_ID, .a = caller->whom};
  t->token = caller->token;
  t->ns = 100 * SECOND;
  books_end(t->token, chi_run(queue, t));
  chi_task_free(queue, t);
  chi_queue_close(queue);
}

static bool begin_again(chi_cluster *cluster, uint32_t who, uint32_t other)
{
  int64_t mask = INT64_C(1) << who | INT64_C(1) << other;
  chi_pool_id id = REBORN_POOL;
  chi_error err;
  chi_cluster_fault(cluster, CHI_FAULT_CRASH, who, 0, 0);
  chi_cluster_fault(cluster, CHI_FAULT_CRASH, other, 0, 0);
  chi_cluster_fault(cluster, CHI_FAULT_JUMP, who, 0, -(int64_t)(600 * SECOND));
  chi_cluster_fault(cluster, CHI_FAULT_SPLIT, 0, 0, mask);
  chi_cluster_fault(cluster, CHI_FAULT_START, who, 0, 0);
  chi_cluster_fault(cluster, CHI_FAULT_START, other, 0, 0);
  chi_cluster_run_for(cluster, 5 * SECOND);
  if (!chi_cluster_is_up(cluster, who) || !chi_cluster_is_up(cluster, other))
    books_fail("rebirth", "nodes %u and %u do not come up", who, other);
  else if (chi_cluster_pool_create(cluster, other, "folk", "again", NULL, 0, &id, &err) != CHI_OK)
    books_fail("rebirth", "no pool for two: %s", err.text);
  return !chi_cluster_failure(cluster);
}

void rift_rebirth(chi_cluster *cluster, const struct run_case *c, struct rng *rng)
{
  uint32_t who = (uint32_t)rng_below(rng, c->nodes), other = (who + 1) % c->nodes;
  struct caller caller = {who, books_submit(false, false)};
  const struct sim_check *check = sim_cluster_check(cluster);
  struct runtime_view view = {0};
  if (!begin_again(cluster, who, other))
    return;
  uint64_t boot = check->node[who].boot;
  int client = chi_cluster_client(cluster, other, caller_body, &caller);
  chi_cluster_run_for(cluster, SECOND);
  chi_cluster_fault(cluster, CHI_FAULT_HEAL, 0, 0, 0);
  chi_cluster_run_for(cluster, seconds(c, 3, 20));
  if (chi_cluster_failure(cluster))
    return;
  if (check->node[who].boot == boot)
    books_fail("rebirth", "node %u does not hear of the lives that it has had", who);
  runtime_inspect(sim_node_runtime(sim_cluster_sim(cluster), who), &view);
  if (view.tasks_open > 0)
    books_fail("rebirth", "node %u goes on with what its former life was asked for", who);
  if (!chi_cluster_client_ended(cluster, client))
    books_fail("rebirth", "node %u waits for a life of node %u that is over", other, who);
}
