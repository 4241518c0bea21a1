/* gate.c - tasks that are to end while they wait for their container, and one that takes long. */
#include "gate.h"
#include "folk.h"

#define MS UINT64_C(1000000)
#define LONG (40000 * MS) /* more than task_timeout */
#define BEHIND 4

struct visitor {
  uint32_t container;
};

static struct folk_add *visit(chi_queue *queue, const struct visitor *v)
{
  struct folk_add *t = CHI_NEW(queue, folk_add);
  if (!t)
    return NULL;
  t->task.pool = FOLK_POOL;
  t->task.query = (chi_query){.mode = CHI_QUERY_ID, .a = v->container};
  t->token = books_submit(false, false);
  return t;
}

static void look_at_end(const struct folk_add *t, int rc, int wanted, bool ran)
{
  if (rc == CHI_ENOENT || rc == CHI_ESHUTDOWN)
    return; /* nobody has been there */
  if (rc != wanted || ran != (wanted == CHI_OK))
    books_fail("gate", "task %llu ends with %s where %s is due, and %s",
               (unsigned long long)t->token, chi_status_name(rc), chi_status_name(wanted),
               ran ? "ran" : "did not run");
}

static void visitor_body(chi_cluster *cluster, chi_client *client, void *arg)
{
  static const int wanted[BEHIND] = {CHI_OK, CHI_ECANCELLED, CHI_ETIMEOUT, CHI_OK};
  struct folk_add *first, *t[BEHIND] = {0};
  chi_queue *queue = NULL;
  if (chi_queue_open(client, &queue, NULL) != CHI_OK)
    return;
  first = visit(queue, arg);
  if (!first)
    return;
  first->cpu = 30 * MS;
  first->task.compute_us = 30000; /* slow workers have it, and fast ones take what follows */
  if (chi_submit(queue, first) != CHI_OK)
    return;
  chi_cluster_sleep(cluster, 2 * MS);
  for (int i = 0; i < BEHIND; i++) {
    t[i] = visit(queue, arg);
    if (!t[i])
      return;
    t[i]->task.deadline_ms = wanted[i] == CHI_ETIMEOUT ? 5 : 0;
    if (chi_submit(queue, t[i]) != CHI_OK)
      return;
  }
  chi_cluster_sleep(cluster, 5 * MS);
  chi_cancel(queue, t[1]);
  books_end(first->token, chi_wait(queue, first, UINT64_MAX));
  for (int i = 0; i < BEHIND; i++) {
    int rc = chi_wait(queue, t[i], UINT64_MAX);
    look_at_end(t[i], rc, wanted[i], books_ran(t[i]->token));
    books_end(t[i]->token, rc);
  }
  chi_queue_close(queue);
}

void gate(chi_cluster *cluster, uint32_t nodes, struct rng *rng)
{
  uint32_t container = (uint32_t)rng_below(rng, nodes);
  struct folk_news t = {.task = {.pool = FOLK_POOL, .query = {CHI_QUERY_ID, container, 0, 0}}};
  struct visitor visitor = {container};
  if (chi_cluster_call(cluster, 0, &folk_news_type, &t, 60000 * MS) != CHI_OK)
    return;
  int number = chi_cluster_client(cluster, t.node, visitor_body, &visitor);
  chi_cluster_run_for(cluster, 1000 * MS);
  if (!chi_cluster_client_ended(cluster, number) && !chi_cluster_failure(cluster))
    books_fail("gate", "a task waits for its container for ever");
}

void gate_long(chi_cluster *cluster, uint32_t nodes, struct rng *rng)
{
  uint32_t from = (uint32_t)rng_below(rng, nodes);
  struct folk_sleep t = {.task = {.pool = FOLK_POOL}};
  t.task.query = (chi_query){.mode = CHI_QUERY_ID, .a = (from + 1) % nodes};
  t.token = books_submit(false, false);
  t.ns = LONG;
  int rc = chi_cluster_call(cluster, from, &folk_sleep_type, &t, 2 * LONG);
  books_end(t.token, rc);
  if (rc != CHI_OK && !chi_cluster_failure(cluster))
    books_fail("gate", "a task that takes long ends with %s", chi_status_name(rc));
}
