/* feud.c - two nodes of which one isn't heard by the other, or too late. */
#include "feud.h"
#include "folk.h"
#include "member.h"
#include "sim_cluster.h"

#define MS UINT64_C(1000000)
#define SECOND UINT64_C(1000000000)
#define CALLS 60 /* of each who calls while it lasts */
#define BEATS 20 /* of the heart, while one isn't heard */
#define MUCH 40  /* asked one after the other, and then at once */

/* `source` doesn't hear `target`. */
struct feud {
  uint32_t source, target, container;
  bool slow, over;
};

struct party {
  const struct feud *feud;
  struct rng rng;
};

/* ---- clients -------------------------------------------------------------------------------- */

/* Of the source: asks the target for what takes for ever. */
static void asker_body(chi_cluster *cluster, chi_client *client, void *arg)
{
  const struct feud *f = ((const struct party *)arg)->feud;
  chi_queue *queue = NULL;
  struct folk_sleep *t = NULL;
  (void)cluster;
  if (chi_queue_open(client, &queue, NULL) == CHI_OK)
    t = CHI_NEW(queue, folk_sleep);
  if (!t)
    return;
  t->task.pool = FOLK_POOL;
  t->task.query = (chi_query){.mode = CHI_QUERY_PHYSICAL, .a = f->target};
  t->token = books_submit(false, false);
  t->ns = 1000 * SECOND;
  books_end(t->token, chi_run(queue, t));
  chi_task_free(queue, t);
  chi_queue_close(queue);
}

/* Of the source: gives the container to the target. */
static void giver_body(chi_cluster *cluster, chi_client *client, void *arg)
{
  const struct feud *f = ((const struct party *)arg)->feud;
  chi_queue *queue = NULL;
  struct chi_admin_migrate *t = NULL;
  (void)cluster;
  if (chi_queue_open(client, &queue, NULL) == CHI_OK)
    t = CHI_NEW(queue, chi_admin_migrate);
  if (!t)
    return;
  t->task.pool = CHI_ADMIN_POOL;
  t->task.query = (chi_query){.mode = CHI_QUERY_LOCAL};
  t->pool_id = FOLK_POOL;
  t->container = f->container;
  t->node = f->target;
  chi_run(queue, t);
  chi_task_free(queue, t);
  chi_queue_close(queue);
}

/* Of all nodes: counts in the container, whoever has it. */
static void caller_body(chi_cluster *cluster, chi_client *client, void *arg)
{
  struct party *party = arg;
  chi_queue *queue = NULL;
  if (chi_queue_open(client, &queue, NULL) != CHI_OK)
    return;
  for (uint32_t i = 0; i < CALLS && !party->feud->over; i++) {
    struct folk_add *t = CHI_NEW(queue, folk_add);
    if (!t)
      break;
    t->task.pool = FOLK_POOL;
    t->task.query = (chi_query){.mode = CHI_QUERY_ID, .a = party->feud->container};
    t->token = books_submit(false, false);
    int rc = chi_run(queue, t);
    books_end(t->token, rc);
    chi_task_free(queue, t);
    if (rc == CHI_ESHUTDOWN)
      break;
    chi_cluster_sleep(cluster, 20 * MS + rng_below(&party->rng, 120 * MS));
  }
  chi_queue_close(queue);
}

/* ---- what happens --------------------------------------------------------------------------- */

/* The node of a container; UINT32_MAX: nobody says. */
static uint32_t home_of(chi_cluster *cluster, uint32_t container)
{
  struct folk_news t = {.task = {.pool = FOLK_POOL, .query = {CHI_QUERY_ID, container, 0, 0}}};
  int rc = chi_cluster_call(cluster, container, &folk_news_type, &t, 60 * SECOND);
  return rc == CHI_OK ? t.node : UINT32_MAX;
}

static void goes_on(chi_cluster *cluster, const struct feud *f, uint64_t how)
{
  if (how == 1)
    chi_cluster_fault(cluster, CHI_FAULT_ISOLATE, f->target, 0, 0);
  if (how == 2)
    chi_cluster_fault(cluster, CHI_FAULT_CRASH, f->source, 0, 0);
}

/* Who isn't heard is heard by others, and they say so before it is suspected. */
static void look_for_suspects(chi_cluster *cluster, const struct run_case *c)
{
  const struct sim_check *check = sim_cluster_check(cluster);
  for (uint32_t i = 0; i < c->nodes; i++)
    for (uint32_t k = 0; k < c->nodes && !chi_cluster_failure(cluster); k++)
      if (i != k && sim_check_judges(check, i, k) != MEMBER_ALIVE)
        books_fail("feud", "node %u suspects node %u, which others hear", i, k);
}

static void lasts(chi_cluster *cluster, const struct run_case *c, uint64_t ns, bool heard)
{
  for (uint64_t step = 50 * MS, i = 0; i < ns / step && !chi_cluster_failure(cluster); i++) {
    chi_cluster_run_for(cluster, step);
    if (heard)
      look_for_suspects(cluster, c);
  }
}

/* Nothing else goes on meanwhile. */
static void is_heard_by_others(chi_cluster *cluster, const struct run_case *c,
                               const struct feud *f)
{
  uint64_t beat = (c->gentle || c->quiet ? 2000 : 100) * MS;
  chi_cluster_fault(cluster, CHI_FAULT_CUT, f->target, f->source, 0);
  lasts(cluster, c, BEATS * beat, true);
  chi_cluster_fault(cluster, CHI_FAULT_HEAL, 0, 0, 0);
  chi_cluster_settle(cluster, 60 * SECOND);
}

void feud(chi_cluster *cluster, const struct run_case *c, struct rng *rng)
{
  struct feud f = {.container = (uint32_t)rng_below(rng, c->nodes)};
  struct party party[BOOKS_NODES];
  uint64_t how = rng_below(rng, 3), much = c->gentle || c->quiet ? 40 : 8;
  f.source = home_of(cluster, f.container);
  f.target = (f.source + 1 + (uint32_t)rng_below(rng, c->nodes - 1)) % c->nodes;
  if (f.source == UINT32_MAX)
    return;
  is_heard_by_others(cluster, c, &f);
  for (uint32_t i = 0; i < c->nodes; i++) {
    party[i].feud = &f;
    rng_seed(&party[i].rng, c->seed, 40, i);
  }
  int asker = chi_cluster_client(cluster, f.source, asker_body, &party[f.source]);
  chi_cluster_run_for(cluster, 10 * MS);
  chi_cluster_fault(cluster, CHI_FAULT_CUT, f.target, f.source, 0);
  int giver = chi_cluster_client(cluster, f.source, giver_body, &party[f.source]);
  for (uint32_t i = 0; i < c->nodes; i++)
    chi_cluster_client(cluster, i, caller_body, &party[i]);
  chi_cluster_run_for(cluster, 20 * MS);
  goes_on(cluster, &f, how);
  lasts(cluster, c, much * SECOND, how == 0);
  f.over = true;
  if (how != 2 && !chi_cluster_failure(cluster) && !chi_cluster_client_ended(cluster, asker))
    books_fail("feud", "node %u waits for a task of node %u, of which it hears nothing", f.source,
               f.target);
  if (how != 2 && !chi_cluster_failure(cluster) && !chi_cluster_client_ended(cluster, giver))
    books_fail("feud", "node %u waits for node %u to take a container", f.source, f.target);
  chi_cluster_fault(cluster, CHI_FAULT_HEAL, 0, 0, 0);
  chi_cluster_settle(cluster, 60 * SECOND); /* clients have what they are told in our memory */
}

/* ---- a life that is over -------------------------------------------------------------------- */

/* Asks all at once, and doesn't hear what becomes of it. */
static void asker_of_much_body(chi_cluster *cluster, chi_client *client, void *arg)
{
  const struct feud *f = arg;
  chi_queue *queue = NULL;
  if (chi_queue_open(client, &queue, NULL) != CHI_OK)
    return;
  for (uint32_t i = 0; i < MUCH; i++) {
    struct folk_add *t = CHI_NEW(queue, folk_add);
    if (!t)
      break;
    t->task.pool = FOLK_POOL;
    t->task.query = (chi_query){.mode = CHI_QUERY_PHYSICAL, .a = f->target};
    t->token = books_submit(false, false);
    if (chi_submit(queue, t) != CHI_OK)
      break;
    if (i < MUCH / 2 && chi_wait(queue, t, UINT64_MAX) == CHI_ESHUTDOWN)
      break;
    while (i >= MUCH / 2 - 1 && !f->slow)
      chi_cluster_sleep(cluster, MS);
  }
  chi_cluster_sleep(cluster, SECOND);
}

void feud_ghost(chi_cluster *cluster, const struct run_case *c, struct rng *rng)
{
  struct feud f = {.source = (uint32_t)rng_below(rng, c->nodes)};
  uint64_t late = SECOND + rng_below(rng, SECOND);
  f.target = (f.source + 1 + (uint32_t)rng_below(rng, c->nodes - 1)) % c->nodes;
  chi_cluster_client(cluster, f.source, asker_of_much_body, &f);
  chi_cluster_run_for(cluster, 30 * MS);
  chi_cluster_fault(cluster, CHI_FAULT_CLOG, f.source, f.target, (int64_t)late);
  f.slow = true;
  chi_cluster_run_for(cluster, 10 * MS);
  chi_cluster_fault(cluster, CHI_FAULT_CRASH, f.source, 0, 0);
  chi_cluster_fault(cluster, CHI_FAULT_CLOG, f.source, f.target, 0);
  chi_cluster_fault(cluster, CHI_FAULT_START, f.source, 0, 0);
  chi_cluster_settle(cluster, 60 * SECOND);
}
