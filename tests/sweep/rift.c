/* rift.c - a cluster that falls in two for long, and a node that takes itself for too young. */
#include "rift.h"
#include "folk.h"
#include "member.h"
#include "sim_cluster.h"

#define MS UINT64_C(1000000)
#define SECOND UINT64_C(1000000000)
#define RIFT_POOL 850u
#define CALLS 60u
#define CALLS_NS (30 * MS)
#define CLOG_NS (INT64_C(100) * 1000000)
#define FORMER_POOL ((chi_pool_id){851, 0})
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
      if ((i < half) != (k < half) && check->node[i].serves &&
          sim_check_judges(check, i, k) != MEMBER_DEAD)
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

/* ---- a pool that is made again behind the back of some */

static bool make_former(chi_cluster *cluster, uint32_t node)
{
  chi_pool_id id = FORMER_POOL;
  chi_error err;
  int rc = chi_cluster_pool_create(cluster, node, "folk", "former", NULL, 0, &id, &err);
  if (rc != CHI_OK && !chi_cluster_failure(cluster))
    books_fail("rift", "node %u cannot make a pool: %s", node, err.text);
  return rc == CHI_OK;
}

/* Its last container moves to the first node. */
static void begin_former(chi_cluster *cluster, const struct run_case *c)
{
  struct chi_admin_migrate t = {.task = {.pool = CHI_ADMIN_POOL}, .pool_id = FORMER_POOL};
  if (!make_former(cluster, 0))
    return;
  chi_cluster_run_for(cluster, seconds(c, 2, 20)); /* all have heard of it */
  t.container = c->nodes - 1;
  int rc = chi_cluster_call(cluster, c->nodes - 1, &chi_admin_migrate_type, &t, 60 * SECOND);
  if (rc != CHI_OK && !chi_cluster_failure(cluster))
    books_fail("rift", "a container cannot move: %s", chi_status_name(rc));
  chi_cluster_run_for(cluster, seconds(c, 2, 20));
}

/* The side of the last node. */
static void remake_former(chi_cluster *cluster, const struct run_case *c)
{
  struct chi_admin_destroy_pool t = {.task = {.pool = CHI_ADMIN_POOL}, .pool_id = FORMER_POOL};
  int rc = chi_cluster_call(cluster, c->nodes - 1, &chi_admin_destroy_pool_type, &t, 60 * SECOND);
  if (rc != CHI_OK && !chi_cluster_failure(cluster))
    books_fail("rift", "half of the nodes cannot destroy a pool: %s", chi_status_name(rc));
  if (!chi_cluster_failure(cluster))
    make_former(cluster, c->nodes - 1);
}

/* The client of a side, whose tasks are for the pool as this side knows it. */
struct side {
  uint32_t nodes, oldest, newest;
};

static void side_body(chi_cluster *cluster, chi_client *client, void *arg)
{
  const struct side *side = arg;
  struct folk_add *t[BOOKS_NODES] = {0};
  chi_queue *queue = NULL;
  (void)cluster;
  if (chi_queue_open(client, &queue, NULL) != CHI_OK)
    return;
  for (uint32_t i = 0; i < side->nodes; i++) {
    t[i] = CHI_NEW(queue, folk_add);
    if (!t[i])
      break;
    t[i]->task.pool = FORMER_POOL;
    t[i]->task.query = (chi_query){.mode = CHI_QUERY_ID, .a = i};
    t[i]->token = books_submit(false, false);
    books_lives(t[i]->token, side->oldest, side->newest);
    if (chi_submit(queue, t[i]) != CHI_OK)
      break;
  }
  for (uint32_t i = 0; i < side->nodes && t[i]; i++)
    books_end(t[i]->token, chi_wait(queue, t[i], UINT64_MAX));
  chi_queue_close(queue);
}

void rift_look_back(chi_cluster *cluster, const struct run_case *c)
{
  for (uint32_t i = 0; i < c->nodes && !chi_cluster_failure(cluster); i++) {
    struct folk_news t = {.task = {.pool = FORMER_POOL, .query = {CHI_QUERY_ID, i, 0, 0}}};
    int rc = chi_cluster_call(cluster, 0, &folk_news_type, &t, 60 * SECOND);
    if (rc != CHI_OK || t.node != i)
      books_fail("former", "container %u of a pool that was made again is on node %u: %s", i,
                 t.node, chi_status_name(rc));
  }
}

void rift_split(chi_cluster *cluster, const struct run_case *c, struct rng *rng)
{
  uint32_t half = c->nodes < 4 ? 1 : 2 + (uint32_t)rng_below(rng, c->nodes - 3);
  struct side side[2] = {{.nodes = c->nodes}, {.nodes = c->nodes}};
  begin_former(cluster, c);
  if (chi_cluster_failure(cluster))
    return;
  chi_cluster_fault(cluster, CHI_FAULT_PARTITION, 0, half - 1, 0);
  chi_cluster_run_for(cluster, seconds(c, 6, 90));
  if (chi_cluster_failure(cluster))
    return;
  look_across(cluster, c->nodes, half);
  make_pool(cluster, 0);
  make_pool(cluster, c->nodes - 1);
  side[0].newest = books_now->lives;
  side[1].oldest = books_now->lives + 1;
  remake_former(cluster, c);
  if (chi_cluster_failure(cluster))
    return;
  chi_cluster_client(cluster, 0, side_body, &side[0]);
  chi_cluster_client(cluster, c->nodes - 1, side_body, &side[1]);
  chi_cluster_run_for(cluster, rng_below(rng, 100 * MS));
  chi_cluster_fault(cluster, CHI_FAULT_HEAL, 0, 0, 0);
  chi_cluster_settle(cluster, 60 * SECOND); /* clients have what they are told in our memory */
}

/* ---- a life that is too young --------------------------------------------------------------- */

/* The client of a node that knows no better: it asks for more and more, until the other one begins
 * a new life. */
struct caller {
  const struct sim_check *check;
  uint64_t boot; /* of the other one's life */
  uint32_t whom;
};

static void caller_body(chi_cluster *cluster, chi_client *client, void *arg)
{
  const struct caller *caller = arg;
  struct folk_sleep *t[CALLS] = {0};
  chi_queue *queue = NULL;
  uint32_t count = 0;
  if (chi_queue_open(client, &queue, NULL) != CHI_OK)
    return;
  while (count < CALLS && caller->check->node[caller->whom].boot == caller->boot &&
         (t[count] = CHI_NEW(queue, folk_sleep))) {
    struct folk_sleep *one = t[count];
    one->task.pool = REBORN_POOL;
    one->task.query = (chi_query){.mode = CHI_QUERY_ID, .a = caller->whom};
    one->token = books_submit(false, false);
    one->ns = 100 * SECOND;
    if (chi_submit(queue, one) != CHI_OK)
      break;
    count++;
    chi_cluster_sleep(cluster, CALLS_NS);
  }
  for (uint32_t i = 0; i < count; i++)
    books_end(t[i]->token, chi_wait(queue, t[i], UINT64_MAX));
  chi_queue_close(queue);
}

static bool begin_again(chi_cluster *cluster, uint32_t who, uint32_t other)
{
  int64_t mask = INT64_C(1) << who | INT64_C(1) << other;
  chi_pool_id id = REBORN_POOL;
  chi_error err;
  chi_cluster_fault(cluster, CHI_FAULT_CRASH, who, 0, 0);
  chi_cluster_fault(cluster, CHI_FAULT_CRASH, other, 0, 0);
  chi_cluster_fault(cluster, CHI_FAULT_JUMP, who, 0, -(int64_t)(3000 * SECOND));
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
  const struct sim_check *check = sim_cluster_check(cluster);
  struct caller caller = {.check = check, .whom = who};
  struct runtime_view view = {0};
  if (!begin_again(cluster, who, other))
    return;
  caller.boot = check->node[who].boot;
  int client = chi_cluster_client(cluster, other, caller_body, &caller);
  chi_cluster_run_for(cluster, SECOND / 10);
  chi_cluster_fault(cluster, CHI_FAULT_HEAL, 0, 0, 0);
  chi_cluster_fault(cluster, CHI_FAULT_CLOG, other, who, CLOG_NS); /* some are always on the way */
  chi_cluster_run_for(cluster, seconds(c, 3, 20));
  if (chi_cluster_failure(cluster))
    return;
  if (check->node[who].boot == caller.boot)
    books_fail("rebirth", "node %u does not hear of the lives that it has had", who);
  runtime_inspect(sim_node_runtime(sim_cluster_sim(cluster), who), &view);
  if (view.tasks_open > 1) /* one may be for the new life */
    books_fail("rebirth", "node %u goes on with what its former life was asked for", who);
  if (!chi_cluster_client_ended(cluster, client))
    books_fail("rebirth", "node %u waits for a life of node %u that is over", other, who);
}
