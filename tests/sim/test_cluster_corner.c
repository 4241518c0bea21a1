/* test_cluster_corner.c - one small run, and every fault at every moment of it; and every pair.
 *
 * CORNER_STRIDE=n tries every n-th run of either test: with 1 all of the pairs, which takes hours.
 * By default all single faults are tried, and every so many of the pairs. */
#include "town.h"

#include <stdlib.h>

#define NODES 3
#define KINDS 3
#define FAULTS (NODES * KINDS)
#define USUAL_STRIDE 2003
#define DEVICE ((chi_pool_id){900, 0})

static const int kinds[KINDS] = {CHI_FAULT_CRASH, CHI_FAULT_ISOLATE, CHI_FAULT_DISK};

/* The run: calls over all nodes, and a device's log is written. */
static void small_run(chi_cluster *cluster, chi_client *client, void *arg)
{
  struct town_sum *sum;
  struct chi_bdev_allocate_blocks *blocks;
  chi_queue *queue = NULL;
  (void)cluster;
  if (chi_queue_open(client, &queue, NULL) != CHI_OK)
    return;
  sum = CHI_NEW(queue, town_sum);
  blocks = CHI_NEW(queue, chi_bdev_allocate_blocks);
  if (sum && blocks) {
    sum->task.pool = TOWN_POOL;
    sum->task.query.mode = CHI_QUERY_BROADCAST;
    *(int *)arg += chi_run(queue, sum) == CHI_OK && sum->sum == 6;
    blocks->task.pool = DEVICE;
    blocks->size = 4096;
    blocks->task.query = (chi_query){.mode = CHI_QUERY_PHYSICAL, .a = 1};
    *(int *)arg += chi_run(queue, blocks) == CHI_OK;
  }
  chi_queue_close(queue);
}

/* A moment is after so many events. */
struct moment {
  uint64_t events, until;
};

static int moment_has_come(chi_cluster *cluster, void *arg)
{
  struct moment *m = arg;
  (void)cluster;
  return m->events++ == m->until;
}

static int all_ended(chi_cluster *cluster, void *arg)
{
  struct moment *m = arg;
  m->events++;
  return chi_cluster_client_ended(cluster, (int)m->until);
}

struct corner {
  uint64_t seed, length, runs, failed;
  char wrong[500]; /* the first failure */
};

static void corner_fault(struct town *t, const struct moment *at, uint32_t fault)
{
  struct moment m = *at;
  if (chi_cluster_run_until(t->cluster, moment_has_come, &m, 10 * TOWN_SECOND) != CHI_OK)
    return; /* all was over before */
  town_fault(t, kinds[fault / NODES], fault % NODES,
             kinds[fault / NODES] == CHI_FAULT_DISK ? CHI_CLUSTER_ALL : 0, 0);
}

static void corner_open(struct town *t, uint64_t seed)
{
  static char names[2][16] = {"capacity", "bdev_type"}, values[2][8] = {"64K", "file"};
  const chi_param params[] = {{names[0], values[0], 0, 0}, {names[1], values[1], 0, 0}};
  chi_pool_id id = DEVICE;
  char spec[160];
  snprintf(spec, sizeof(spec),
           "sim:nodes=%d,seed=%llu,sched_threads=1,heartbeat_interval=500ms,task_timeout=2s,"
           "wait_for_restart=1s",
           NODES, (unsigned long long)seed);
  const char *wrong = town_begin(t, spec);
  if (!wrong[0] &&
      chi_cluster_pool_create(t->cluster, 0, "bdev", "device", params, 2, &id, &t->error) != CHI_OK)
    wrong = t->error.text;
  if (wrong[0])
    test_fail(__FILE__, __LINE__, "%s", wrong);
}

/* How many events the run has when nothing goes wrong. */
static void corner_measure(struct corner *c)
{
  struct town t;
  struct moment m = {0, 0};
  int good = 0;
  corner_open(&t, c->seed);
  chi_cluster_story(t.cluster, NULL, NULL);
  m.until = (uint64_t)chi_cluster_client(t.cluster, 0, small_run, &good);
  chi_cluster_run_until(t.cluster, all_ended, &m, TOWN_LONG);
  c->length = m.events;
  if (good != 2)
    test_fail(__FILE__, __LINE__, "the run without faults fails");
  town_close(&t);
}

static void corner_run(struct corner *c, const struct moment *at, const uint32_t *fault, int count)
{
  struct town t;
  const char *wrong;
  int good = 0;
  corner_open(&t, c->seed);
  chi_cluster_story(t.cluster, NULL, NULL);
  chi_cluster_client(t.cluster, 0, small_run, &good);
  for (int i = 0; i < count; i++)
    corner_fault(&t, &at[i], fault[i]);
  wrong = town_end(&t);
  c->runs++;
  if (!wrong[0])
    return;
  if (c->failed++ == 0)
    snprintf(c->wrong, sizeof(c->wrong), "%d faults, %s of node %u at event %llu first: %s", count,
             chi_fault_name(kinds[fault[0] / NODES]), fault[0] % NODES,
             (unsigned long long)at[0].until, wrong);
}

static uint64_t stride_of(uint64_t usual)
{
  const char *set = getenv("CORNER_STRIDE");
  uint64_t stride = set ? strtoull(set, NULL, 10) : usual;
  return stride ? stride : 1;
}

TEST(cluster_corner_single_faults)
{
  uint64_t stride = stride_of(1), number = 0;
  struct corner c = {.seed = 1};
  TOWN_NEEDS_NET;
  corner_measure(&c);
  for (uint64_t at = 0; at < c.length; at++)
    for (uint32_t fault = 0; fault < FAULTS; fault++)
      if (number++ % stride == 0)
        corner_run(&c, &(struct moment){0, at}, &fault, 1);
  printf("corner: %llu of %llu single faults at each of %llu events, %llu failed\n",
         (unsigned long long)c.runs, (unsigned long long)number, (unsigned long long)c.length,
         (unsigned long long)c.failed);
  CHECK_STR(c.wrong, "");
}

TEST(cluster_corner_pairs)
{
  uint64_t stride = stride_of(USUAL_STRIDE), number = 0;
  struct corner c = {.seed = 1};
  TOWN_NEEDS_NET;
  corner_measure(&c);
  for (uint64_t first = 0; first < c.length; first++)
    for (uint64_t wait = 0; first + wait < c.length; wait++)
      for (uint32_t pair = 0; pair < FAULTS * FAULTS; pair++) {
        const struct moment at[2] = {{0, first}, {0, wait}};
        const uint32_t fault[2] = {pair / FAULTS, pair % FAULTS};
        if (number++ % stride == 0)
          corner_run(&c, at, fault, 2);
      }
  printf("corner: %llu of %llu pairs of faults, %llu failed\n", (unsigned long long)c.runs,
         (unsigned long long)number, (unsigned long long)c.failed);
  CHECK_STR(c.wrong, "");
}
