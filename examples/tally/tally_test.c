/* tally_test.c - a module that counts, and a test of it on three nodes where much goes wrong. */
#include "chimaera.h"

#include <stdio.h>
#include <stdlib.h>

/* ---- the module: each container has a sum */

#define TALLY_ADD(X, T) X(T, IN, u64, n)
CHI_TASK(tally_add, 10, TALLY_ADD)
#define TALLY_READ(X, T) X(T, OUT, u64, sum)
CHI_TASK(tally_read, 11, TALLY_READ)

struct tally {
  uint64_t sum;
};

static int tally_add_run(chi_ctx *ctx, struct tally *self, struct tally_add *t)
{
  (void)ctx;
  self->sum += t->n;
  return CHI_OK;
}

static int tally_read_run(chi_ctx *ctx, struct tally *self, struct tally_read *t)
{
  (void)ctx;
  t->sum = self->sum;
  return CHI_OK;
}

static int tally_aggregate(uint32_t method, void *into, const void *from)
{
  if (method == tally_read_type.id)
    ((struct tally_read *)into)->sum += ((const struct tally_read *)from)->sum;
  return CHI_OK;
}

#define TALLY_METHODS(M, S) M(S, tally_add) M(S, tally_read)
CHI_METHODS(tally, TALLY_METHODS)

static const chi_module tally_module = {.version = CHI_MODULE_VERSION,
                                        .name = "tally",
                                        .state_size = sizeof(struct tally),
                                        .methods = tally_methods,
                                        .aggregate = tally_aggregate};

/* ---- the test: whatever happens, each acknowledged addition counts once */

#define POOL ((chi_pool_id){500, 0})
#define SECOND UINT64_C(1000000000)

struct books {
  uint64_t surely, perhaps; /* additions that were acknowledged; that may have happened */
};

/* A client program: it adds 1 to one container after the other, and keeps books. */
static void clerk(chi_cluster *cluster, chi_client *client, void *arg)
{
  struct books *books = arg;
  chi_queue *queue = NULL;
  if (chi_queue_open(client, &queue, NULL) != CHI_OK)
    return;
  for (uint32_t i = 0; i < 100; i++) {
    struct tally_add *t = CHI_NEW(queue, tally_add);
    if (!t)
      break;
    t->task.pool = POOL;
    t->task.query = (chi_query){.mode = CHI_QUERY_HASH, .a = i};
    t->n = 1;
    int rc = chi_run(queue, t);
    books->surely += rc == CHI_OK;
    books->perhaps += rc == CHI_EUNKNOWN;
    chi_sometimes(cluster, "an addition fails", rc != CHI_OK);
    chi_task_free(queue, t);
    chi_cluster_sleep(cluster, SECOND / 100);
  }
  chi_queue_close(queue);
}

static void settle(chi_cluster *cluster, const struct books books[3])
{
  struct books all = {0, 0};
  struct tally_read read = {.task = {.pool = POOL, .query = {.mode = CHI_QUERY_BROADCAST}}};
  if (chi_cluster_settle(cluster, 60 * SECOND) != CHI_OK)
    return;
  for (int i = 0; i < 3; i++) {
    all.surely += books[i].surely;
    all.perhaps += books[i].perhaps;
  }
  int rc = chi_cluster_call(cluster, 0, &tally_read_type, &read, 30 * SECOND);
  chi_always(cluster, "the sum can be read", rc == CHI_OK);
  chi_always(cluster, "nothing is lost", read.sum >= all.surely);
  chi_always(cluster, "nothing counts twice", read.sum <= all.surely + all.perhaps);
}

static void put(void *arg, const char *text)
{
  fputs(text, arg);
}

/* One run: 0 if all was well. */
static int run(unsigned long long seed, int loud)
{
  const chi_module *modules[] = {&tally_module};
  struct books books[3] = {{0, 0}};
  chi_pool_id id = POOL;
  chi_cluster *cluster;
  chi_error err;
  char spec[80];
  snprintf(spec, sizeof(spec), "sim:nodes=3,seed=%llu,task_timeout=2s", seed);
  if (chi_cluster_open(spec, modules, 1, &cluster, &err) != CHI_OK) {
    printf("%s\n", err.text);
    return 1;
  }
  if (loud)
    chi_cluster_story(cluster, put, stdout);
  if (chi_cluster_pool_create(cluster, 0, "tally", "tally", NULL, 0, &id, &err) != CHI_OK)
    chi_cluster_fail(cluster, "pool", "%s", err.text);
  if (chi_cluster_faults(cluster, "until=3s,kinds=cut+half+drop+pause,outage=500ms", &err))
    chi_cluster_fail(cluster, "faults", "%s", err.text);
  for (uint32_t node = 0; node < 3; node++)
    chi_cluster_client(cluster, node, clerk, &books[node]);
  settle(cluster, books);
  int failed = chi_cluster_failure(cluster) != NULL;
  if (failed || loud)
    chi_cluster_report(cluster, put, stdout);
  chi_cluster_close(cluster);
  return failed;
}

/* Without arguments: many seeds. With a seed: that one, and its story. */
int main(int argc, char **argv)
{
  int failed = 0;
  if (argc > 1)
    return run(strtoull(argv[1], NULL, 10), 1);
  for (unsigned long long seed = 1; seed <= 20 && !failed; seed++)
    failed = run(seed, 0);
  if (!failed)
    puts("20 seeds: nothing is lost, nothing counts twice");
  return failed;
}
