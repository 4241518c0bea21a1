/* scale.c - what the simulation says of large clusters: one line of CSV for each question.
 *
 * usage: scale broadcast NODES NEIGHBORHOOD | scale detection|load|pools NODES
 *
 * All times are virtual and follow from the cost model (sim_profile.h) and the seed: every machine
 * prints the same. run.sh asks all the questions and draws the plots. */
#include "sim_cluster.h"

#include <stdio.h>
#include <stdlib.h>

#define SCALE_POOL ((chi_pool_id){700, 0})
#define SCALE_SECOND UINT64_C(1000000000)
#define SCALE_ROUNDS 20u    /* broadcasts of one cluster */
#define SCALE_CRASHES 5u    /* nodes lost, one after the other */
#define SCALE_POOLS 5u      /* pools created */
#define SCALE_QUIET_S 120u  /* until the news of the start has been told */
#define SCALE_WATCH_S 120u  /* the load is a mean over that */
#define SCALE_DETECT_S 600u /* a lost node is known to all within that */
#define SCALE_DEAD 3u       /* enum member_state */
#define SCALE_SUSPECT 2u

/* ---- a module that counts its containers --------------------------------------------------- */

#define SCALE_COUNT(X, T) X(T, OUT, u64, count)
CHI_TASK(scale_count, 10, SCALE_COUNT)

struct scale {
  uint64_t unused;
};

static int scale_count_run(chi_ctx *ctx, struct scale *self, struct scale_count *t)
{
  (void)ctx, (void)self;
  t->count = 1;
  return CHI_OK;
}

static int scale_aggregate(uint32_t method, void *into, const void *from)
{
  (void)method;
  ((struct scale_count *)into)->count += ((const struct scale_count *)from)->count;
  return CHI_OK;
}

#define SCALE_METHODS(M, S) M(S, scale_count)
CHI_METHODS(scale, SCALE_METHODS)

static const chi_module scale_module = {.version = CHI_MODULE_VERSION,
                                        .name = "scale",
                                        .state_size = sizeof(struct scale),
                                        .methods = scale_methods,
                                        .aggregate = scale_aggregate};

/* ---- figures ------------------------------------------------------------------------------- */

static void scale_die(const char *why)
{
  fprintf(stderr, "scale: %s\n", why);
  exit(1);
}

/* Samples, sorted when they are looked at. */
struct scale_samples {
  uint64_t ns[64];
  uint32_t count;
};

static int scale_compare(const void *a, const void *b)
{
  uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;
  return (x > y) - (x < y);
}

static void scale_add(struct scale_samples *s, uint64_t ns)
{
  if (s->count < CHI_COUNT(s->ns))
    s->ns[s->count++] = ns;
  qsort(s->ns, s->count, sizeof(*s->ns), scale_compare);
}

/* "MIN,MEDIAN,MAX" in a unit of so many ns. */
static void scale_print(const struct scale_samples *s, double unit)
{
  if (s->count == 0)
    scale_die("nothing was measured");
  printf("%.3f,%.3f,%.3f", (double)s->ns[0] / unit, (double)s->ns[s->count / 2] / unit,
         (double)s->ns[s->count - 1] / unit);
}

static chi_cluster *scale_open(uint32_t nodes, uint32_t neighborhood)
{
  const chi_module *modules[] = {&scale_module};
  chi_cluster *cluster;
  chi_error err;
  char spec[80];
  int used = snprintf(spec, sizeof(spec), "sim:nodes=%u", nodes);
  if (neighborhood)
    snprintf(spec + used, sizeof(spec) - (size_t)used, ",neighborhood_size=%u", neighborhood);
  if (chi_cluster_open(spec, modules, 1, &cluster, &err) != CHI_OK)
    scale_die(err.text);
  return cluster;
}

static void scale_close(chi_cluster *cluster)
{
  const chi_failure *failure = chi_cluster_failure(cluster);
  if (failure)
    scale_die(failure->text);
  chi_cluster_close(cluster);
}

static void scale_client(chi_cluster *cluster, chi_cluster_body *body, struct scale_samples *s)
{
  chi_cluster_client(cluster, 0, body, s);
  if (chi_cluster_run_idle(cluster, 600 * SCALE_SECOND) != CHI_OK)
    scale_die("a client does not end");
}

/* ---- broadcast ----------------------------------------------------------------------------- */

/* From the client's submission to its knowing the sum, with one such task at a time. */
static void scale_broadcasts(chi_cluster *cluster, chi_client *client, void *arg)
{
  chi_queue *queue = NULL;
  struct scale_count *t = NULL;
  if (chi_queue_open(client, &queue, NULL) == CHI_OK)
    t = CHI_NEW(queue, scale_count);
  for (uint32_t i = 0; t && i < SCALE_ROUNDS; i++) {
    uint64_t begin = chi_cluster_now(cluster);
    t->task.pool = SCALE_POOL;
    t->task.query.mode = CHI_QUERY_BROADCAST;
    if (chi_run(queue, t) != CHI_OK || t->count != chi_cluster_nodes(cluster))
      scale_die("a broadcast fails");
    scale_add(arg, chi_cluster_now(cluster) - begin);
    chi_cluster_sleep(cluster, SCALE_SECOND / 10);
  }
  chi_task_free(queue, t);
  chi_queue_close(queue);
}

static void scale_broadcast(uint32_t nodes, uint32_t neighborhood)
{
  struct scale_samples s = {.count = 0};
  chi_cluster *cluster = scale_open(nodes, neighborhood);
  chi_pool_id id = SCALE_POOL;
  chi_error err;
  if (chi_cluster_pool_create(cluster, 0, "scale", "scale", NULL, 0, &id, &err) != CHI_OK)
    scale_die(err.text);
  scale_client(cluster, scale_broadcasts, &s);
  printf("%u,%u,", nodes, neighborhood);
  scale_print(&s, 1e3);
  printf("\n");
  scale_close(cluster);
}

/* ---- detection ----------------------------------------------------------------------------- */

/* What the nodes say of a lost one. */
struct scale_watch {
  uint32_t victim, know;
  uint64_t suspected, first, last; /* when; 0: not yet */
};

static void scale_hear(void *arg, const struct sim_trace_event *e)
{
  struct scale_watch *w = arg;
  if (e->kind != ENV_TRACE_MEMBER || e->a != w->victim)
    return;
  if (e->b == SCALE_SUSPECT && !w->suspected)
    w->suspected = e->time;
  if (e->b != SCALE_DEAD)
    return;
  w->first = w->know ? w->first : e->time;
  w->last = e->time;
  w->know++;
}

static int scale_all_know(chi_cluster *cluster, void *arg)
{
  const struct scale_watch *w = arg;
  return w->know == chi_cluster_nodes(cluster) - 1;
}

static void scale_detection(uint32_t nodes)
{
  struct scale_samples suspected = {.count = 0}, first = {.count = 0}, all = {.count = 0};
  chi_cluster *cluster = scale_open(nodes, 0);
  chi_cluster_run_for(cluster, SCALE_QUIET_S * SCALE_SECOND);
  for (uint32_t i = 0; i < SCALE_CRASHES; i++) {
    struct scale_watch w = {.victim = 1 + i * (nodes - 1) / SCALE_CRASHES};
    uint64_t begin = chi_cluster_now(cluster);
    sim_check_listen(sim_cluster_check(cluster), scale_hear, &w);
    chi_cluster_fault(cluster, CHI_FAULT_CRASH, w.victim, 0, 0);
    if (chi_cluster_run_until(cluster, scale_all_know, &w, SCALE_DETECT_S * SCALE_SECOND) != CHI_OK)
      scale_die("a lost node is not noticed");
    sim_check_listen(sim_cluster_check(cluster), NULL, NULL);
    scale_add(&suspected, w.suspected - begin);
    scale_add(&first, w.first - begin);
    scale_add(&all, w.last - begin);
    chi_cluster_fault(cluster, CHI_FAULT_START, w.victim, 0, 0);
    chi_cluster_run_for(cluster, SCALE_QUIET_S * SCALE_SECOND);
  }
  printf("%u,", nodes);
  scale_print(&suspected, 1e9);
  printf(",");
  scale_print(&first, 1e9);
  printf(",");
  scale_print(&all, 1e9);
  printf("\n");
  scale_close(cluster);
}

/* ---- load, pools --------------------------------------------------------------------------- */

static void scale_load(uint32_t nodes)
{
  chi_cluster *cluster = scale_open(nodes, 0);
  const struct sim_net_figures *now = &sim_network(sim_cluster_sim(cluster))->figures;
  struct sim_net_figures met = *now, before;
  double each = (double)nodes * SCALE_WATCH_S;
  chi_cluster_run_for(cluster, SCALE_QUIET_S * SCALE_SECOND);
  before = *now;
  chi_cluster_run_for(cluster, SCALE_WATCH_S * SCALE_SECOND);
  printf("%u,%.3f,%.1f,%.1f,%.1f\n", nodes, (double)(now->sent - before.sent) / each,
         (double)(now->bytes - before.bytes) / each, (double)met.sent / nodes,
         (double)met.bytes / nodes);
  scale_close(cluster);
}

/* From the client's call to its return: the pool can be used. */
static void scale_creates(chi_cluster *cluster, chi_client *client, void *arg)
{
  chi_queue *queue = NULL;
  if (chi_queue_open(client, &queue, NULL) != CHI_OK)
    scale_die("no queue");
  for (uint32_t i = 0; i < SCALE_POOLS; i++) {
    uint64_t begin = chi_cluster_now(cluster);
    chi_pool_id id = {800 + i, 0};
    char name[32];
    snprintf(name, sizeof(name), "scale %u", i);
    if (chi_pool_create(queue, "scale", name, NULL, 0, &id, NULL) != CHI_OK)
      scale_die("a pool is not created");
    scale_add(arg, chi_cluster_now(cluster) - begin);
    chi_cluster_sleep(cluster, 10 * SCALE_SECOND);
  }
  chi_queue_close(queue);
}

static void scale_pools(uint32_t nodes)
{
  struct scale_samples s = {.count = 0};
  chi_cluster *cluster = scale_open(nodes, 0);
  scale_client(cluster, scale_creates, &s);
  printf("%u,", nodes);
  scale_print(&s, 1e3);
  printf("\n");
  scale_close(cluster);
}

int main(int argc, char **argv)
{
  const char *what = argc > 2 ? argv[1] : "";
  uint32_t nodes = argc > 2 ? (uint32_t)strtoul(argv[2], NULL, 10) : 0;
  uint32_t neighborhood = argc > 3 ? (uint32_t)strtoul(argv[3], NULL, 10) : 0;
  if (nodes < 2 || nodes > CHI_CLUSTER_NODES_MAX)
    scale_die("usage: scale broadcast NODES NEIGHBORHOOD | detection|load|pools NODES");
  if (strcmp(what, "broadcast") == 0)
    scale_broadcast(nodes, neighborhood);
  else if (strcmp(what, "detection") == 0)
    scale_detection(nodes);
  else if (strcmp(what, "load") == 0)
    scale_load(nodes);
  else if (strcmp(what, "pools") == 0)
    scale_pools(nodes);
  else
    scale_die("no such question");
  return 0;
}
