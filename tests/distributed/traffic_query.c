/* traffic_query.c - every kind of query, with every value that means something here, and some that
 * don't: who ran is what must have run. */
#include "traffic.h"

/* Runs a sum; expects it to have run in exactly these containers. */
static int traffic_gather(struct traffic *t, const char *what, chi_query query, uint64_t expected)
{
  struct courier_sum *task = traffic_task(t, &courier_sum_type, query);
  int status = 0;
  if (!task)
    return 1;
  task->each = 1000 + query.a;
  int rc = traffic_run(t, task);
  uint64_t sum = task->each * (uint64_t)__builtin_popcountll(expected);
  if (rc != CHI_OK || task->containers != expected || task->sum != sum)
    status = traffic_fail("%s (%u, %u): %s, containers %#llx, sum %llu; expected %#llx and %llu",
                          what, query.a, query.b, chi_status_name(rc),
                          (unsigned long long)task->containers, (unsigned long long)task->sum,
                          (unsigned long long)expected, (unsigned long long)sum);
  chi_task_free(t->queue, task);
  return status;
}

/* Runs an addition; expects it to have run in that container, which is on the node of that number,
 * for none has moved. */
static int traffic_add(struct traffic *t, const char *what, chi_query query, uint64_t a,
                       uint32_t container)
{
  struct courier_add *task = traffic_task(t, &courier_add_type, query);
  int status = 0;
  if (!task)
    return 1;
  task->a = a;
  task->b = 58;
  int rc = traffic_run(t, task);
  if (rc != CHI_OK || task->sum != a + 58 || task->container != container ||
      task->node != container)
    status = traffic_fail("%s (%u, %u): %s, container %u on node %u, sum %llu; expected %u", what,
                          query.a, query.b, chi_status_name(rc), task->container, task->node,
                          (unsigned long long)task->sum, container);
  chi_task_free(t->queue, task);
  return status;
}

static int traffic_refused(struct traffic *t, const char *what, chi_query query)
{
  struct courier_ping *task = traffic_task(t, &courier_ping_type, query);
  int status = 0;
  if (!task)
    return 1;
  int rc = traffic_run(t, task);
  if (rc != CHI_ERANGE && rc != CHI_EINVAL && rc != CHI_ENOENT)
    status = traffic_fail("%s (%u, %u) beyond the nodes there are: %s", what, query.a, query.b,
                          chi_status_name(rc));
  chi_task_free(t->queue, task);
  return status;
}

int traffic_queries(struct traffic *t)
{
  uint32_t nodes = t->o->nodes, tasks = 5;
  uint64_t all = nodes == 64 ? UINT64_MAX : (UINT64_C(1) << nodes) - 1;
  int bad = traffic_add(t, "local", (chi_query){.mode = CHI_QUERY_LOCAL}, 7, t->self);
  bad += traffic_gather(t, "broadcast", (chi_query){.mode = CHI_QUERY_BROADCAST}, all);
  bad += traffic_gather(t, "dynamic", (chi_query){.mode = CHI_QUERY_DYNAMIC}, all);
  for (uint32_t i = 0; i < nodes; i++) {
    bad += traffic_add(t, "id", (chi_query){.mode = CHI_QUERY_ID, .a = i}, i, i);
    bad += traffic_add(t, "physical", (chi_query){.mode = CHI_QUERY_PHYSICAL, .a = i}, i, i);
    bad += traffic_add(t, "hash", (chi_query){.mode = CHI_QUERY_HASH, .a = i + 5 * nodes}, i, i);
    bad += traffic_add(t, "dynamic", (chi_query){.mode = CHI_QUERY_DYNAMIC}, i + nodes, i);
    tasks += 4;
    for (uint32_t n = 1; i + n <= nodes; n++, tasks++) {
      uint64_t some = (all >> (nodes - n)) << i;
      bad += traffic_gather(t, "range", (chi_query){.mode = CHI_QUERY_RANGE, .a = i, .b = n}, some);
    }
  }
  bad += traffic_refused(t, "id", (chi_query){.mode = CHI_QUERY_ID, .a = nodes});
  bad += traffic_refused(t, "physical", (chi_query){.mode = CHI_QUERY_PHYSICAL, .a = nodes});
  printf("%u tasks of 7 kinds from node%u\n", tasks, t->self + 1);
  return bad != 0;
}
