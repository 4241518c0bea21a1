/* test_real_cluster.c - clusters of real nodes behind the handle: in this process, and as processes
 * of their own. */
#include "daemon.h"
#include "modules/calc.h"
#include "station.h"
#include "test.h"

#include <limits.h>
#include <pthread.h>

#define LIMIT_NS (20 * SLOW * SECOND_NS)
#define TALLY_POOL ((chi_pool_id){700, 0})

/* ---- a module in this process ---------------------------------------------------------------- */

struct tally {
  uint64_t count;
};

#define TALLY_ADD(X, T) X(T, IN, u64, n) X(T, OUT, u64, count) X(T, OUT, u32, runs)
CHI_TASK(tally_add, 10, TALLY_ADD)

static int tally_add_run(chi_ctx *ctx, struct tally *self, struct tally_add *t)
{
  (void)ctx;
  self->count += t->n;
  t->count = self->count;
  t->runs = 1;
  return CHI_OK;
}

#define TALLY_METHODS(M, S) M(S, tally_add)
CHI_METHODS(tally, TALLY_METHODS)

static const chi_module tally_module = {.version = CHI_MODULE_VERSION,
                                        .name = "tally",
                                        .state_size = sizeof(struct tally),
                                        .methods = tally_methods};

static int tally_call(chi_cluster *c, uint32_t from, uint32_t to, uint64_t *count)
{
  struct tally_add t = {0};
  t.task.pool = TALLY_POOL;
  t.task.query = (chi_query){.mode = CHI_QUERY_PHYSICAL, .a = to};
  t.n = 1;
  int rc = chi_cluster_call(c, from, &tally_add_type, &t, LIMIT_NS);
  *count = t.count;
  return rc;
}

static chi_cluster *tally_open(const char *spec, chi_error *err)
{
  static const chi_module *const modules[] = {&tally_module};
  chi_pool_id id = TALLY_POOL;
  chi_cluster *c = NULL;
  if (chi_cluster_open(spec, modules, 1, &c, err) != CHI_OK)
    return NULL;
  if (chi_cluster_pool_create(c, 0, "tally", "t", NULL, 0, &id, err) == CHI_OK)
    return c;
  chi_cluster_close(c);
  return NULL;
}

TEST(nodes_in_this_process_are_a_cluster)
{
  chi_error err = {0};
  chi_cluster *c = tally_open("local:nodes=3,heartbeat_interval=100ms", &err);
  uint64_t count = 0;
  CHECK_STR(err.text, "");
  CHECK(c);
  CHECK_INT(chi_cluster_nodes(c), 3);
  CHECK_INT(chi_cluster_hash(c), 0);
  for (uint32_t from = 0; from < 3; from++)
    for (uint32_t to = 0; to < 3; to++) {
      CHECK_INT(tally_call(c, from, to, &count), CHI_OK);
      CHECK_INT(count, from + 1);
    }
  CHECK_INT(chi_cluster_settle(c, LIMIT_NS), CHI_OK);
  CHECK_INT(chi_cluster_stop(c, CHI_CLUSTER_ALL, 100), CHI_OK);
  CHECK_INT(chi_cluster_is_up(c, 1), 0);
  CHECK_INT(tally_call(c, 0, 0, &count), CHI_ENODAEMON);
  chi_cluster_close(c);
}

/* Adds as often as it is told on each node in turn. */
static void tally_client(chi_cluster *c, chi_client *client, void *arg)
{
  chi_queue *queue = NULL;
  bool all = chi_queue_open(client, &queue, NULL) == CHI_OK;
  for (uint32_t i = 0; all && i < *(const uint32_t *)arg; i++) {
    struct tally_add *t = CHI_NEW(queue, tally_add);
    if (!t)
      break;
    t->task.pool = TALLY_POOL;
    t->task.query = (chi_query){.mode = CHI_QUERY_ID, .a = i % chi_cluster_nodes(c)};
    t->n = 1;
    all = chi_run(queue, t) == CHI_OK;
    chi_sometimes(c, "a task runs", all);
    chi_task_free(queue, t);
    if (i % 10 == 0)
      chi_cluster_sleep(c, MS_NS);
  }
  chi_always(c, "all run", all);
  chi_queue_close(queue);
}

static int tally_is_complete(chi_cluster *c, void *arg)
{
  uint64_t told = 0, held = 0;
  return chi_cluster_property(c, "a task runs", &told, &held) == CHI_OK &&
         held == *(const uint64_t *)arg;
}

TEST(clients_run_beside_the_test_and_tell_properties)
{
  chi_error err = {0};
  chi_cluster *c = tally_open("local:nodes=2,heartbeat_interval=100ms", &err);
  uint32_t each = 60;
  uint64_t all = 4 * 60, count = 0;
  CHECK_STR(err.text, "");
  for (int i = 0; i < 4; i++)
    CHECK(chi_cluster_client(c, (uint32_t)i % 2, tally_client, &each) > 0);
  CHECK_INT(chi_eventually(c, "all have been told", tally_is_complete, &all), CHI_OK);
  CHECK_INT(chi_cluster_run_until(c, tally_is_complete, &all, LIMIT_NS), CHI_OK);
  CHECK_INT(chi_cluster_run_idle(c, LIMIT_NS), CHI_OK);
  CHECK_INT(chi_cluster_settle(c, LIMIT_NS), CHI_OK);
  CHECK(!chi_cluster_failure(c));
  CHECK_INT(tally_call(c, 0, 1, &count), CHI_OK);
  CHECK_INT(count, all / 2 + 1);
  CHECK(chi_cluster_now(c) > SECOND_NS);
  chi_cluster_close(c);
}

static void sleeper(chi_cluster *c, chi_client *client, void *arg)
{
  struct tally_add *t;
  chi_queue *queue = NULL;
  (void)c;
  if (chi_queue_open(client, &queue, NULL) != CHI_OK)
    return;
  t = CHI_NEW(queue, tally_add);
  t->task.pool = TALLY_POOL;
  t->task.flags = CHI_TASK_PERIODIC;
  t->task.period_us = 1000;
  *(int *)arg = 1;
  chi_run(queue, t); /* it never ends by itself */
  chi_task_free(queue, t);
  chi_queue_close(queue);
}

static int has_begun(chi_cluster *c, void *arg)
{
  (void)c;
  return *(volatile int *)arg;
}

static int never(chi_cluster *c, void *arg)
{
  (void)c;
  (void)arg;
  return 0;
}

TEST(a_killed_client_ends_and_so_does_one_that_has_not_begun)
{
  chi_error err = {0};
  chi_cluster *c = tally_open("local:nodes=2,up=1,heartbeat_interval=100ms", &err);
  int begun = 0, late = 0;
  CHECK_STR(err.text, "");
  int first = chi_cluster_client(c, 0, sleeper, &begun);
  int second = chi_cluster_client(c, 1, sleeper, &late); /* waits for its node */
  CHECK_INT(chi_cluster_run_until(c, has_begun, &begun, LIMIT_NS), CHI_OK);
  CHECK_INT(chi_cluster_run_until(c, never, NULL, 20 * MS_NS), CHI_ETIMEOUT);
  CHECK_INT(chi_cluster_client_ended(c, first) + chi_cluster_client_ended(c, second), 0);
  chi_cluster_client_kill(c, first);
  chi_cluster_client_kill(c, second);
  CHECK_INT(chi_cluster_client_ended(c, first) + chi_cluster_client_ended(c, second), 2);
  CHECK_INT(chi_cluster_fault(c, CHI_FAULT_START, 1, 0, 0), CHI_OK);
  CHECK_INT(chi_cluster_settle(c, LIMIT_NS), CHI_OK);
  CHECK_INT(late, 0);
  CHECK(!chi_cluster_failure(c));
  chi_cluster_close(c);
}

TEST(nodes_stop_and_start_and_other_faults_are_not_for_them)
{
  chi_error err = {0};
  chi_cluster *c = tally_open("local:nodes=2,heartbeat_interval=100ms", &err);
  uint64_t count = 0;
  CHECK_STR(err.text, "");
  CHECK_INT(chi_cluster_fault(c, CHI_FAULT_STOP, 1, 0, 500), CHI_OK);
  CHECK_INT(chi_cluster_is_up(c, 1), 0);
  CHECK_INT(chi_cluster_fault(c, CHI_FAULT_STOP, 1, 0, 500), CHI_OK);
  CHECK_INT(chi_cluster_fault_count(c, CHI_FAULT_STOP), 1);
  CHECK_INT(chi_cluster_settle(c, LIMIT_NS), CHI_OK); /* starts it */
  CHECK_INT(chi_cluster_is_up(c, 1), 1);
  CHECK_INT(tally_call(c, 0, 1, &count), CHI_OK);
  CHECK_INT(count, 1); /* it has begun anew */
  CHECK_INT(chi_cluster_fault(c, CHI_FAULT_CUT, 0, 1, 0), CHI_ENOTSUP);
  CHECK_INT(chi_cluster_fault(c, CHI_FAULT_KILL, 0, 0, 0), CHI_ENOTSUP);
  CHECK_INT(chi_cluster_fault(c, CHI_FAULT_PAUSE, 0, 0, 0), CHI_ENOTSUP);
  CHECK_INT(chi_cluster_plan(c, "1 kill 0", &err), CHI_ENOTSUP);
  CHECK_INT(chi_cluster_faults(c, "until=1s", &err), CHI_ENOTSUP);
  chi_cluster_close(c);
}

/* ---- processes ------------------------------------------------------------------------------- */

static int calc_call(chi_cluster *c, uint32_t from, uint32_t to)
{
  struct calc_add t = {0};
  t.task.pool = TEST_POOL;
  t.task.query = (chi_query){.mode = CHI_QUERY_PHYSICAL, .a = to};
  t.a = 40;
  t.b = 2;
  int rc = chi_cluster_call(c, from, &calc_add_type, &t, LIMIT_NS);
  return rc == CHI_OK && t.sum != 42 ? CHI_ECORRUPT : rc;
}

static void calc_find_program(void)
{
  char program[PATH_MAX + 16];
  snprintf(program, sizeof(program), "%s/../chimaera", daemon_modules());
  setenv("CHIMAERA", program, 0);
  setenv("CHI_MODULE_PATH", daemon_modules(), 1);
  setenv("ASAN_OPTIONS", "allocator_may_return_null=1", 0);
}

TEST(nodes_that_are_processes_can_be_killed_and_frozen)
{
  chi_error err = {0};
  chi_cluster *c = NULL;
  chi_pool_id id = TEST_POOL;
  calc_find_program();
  chi_cluster_open("local:nodes=3,heartbeat_interval=100ms,wait_for_restart=1s,task_timeout=2s",
                   NULL, 0, &c, &err);
  CHECK_STR(err.text, "");
  CHECK_INT(chi_cluster_pool_create(c, 0, "calc", "calc", NULL, 0, &id, &err), CHI_OK);
  for (uint32_t i = 0; i < 3; i++)
    CHECK_INT(calc_call(c, i, (i + 1) % 3), CHI_OK);
  CHECK_INT(chi_cluster_fault(c, CHI_FAULT_KILL, 1, 0, 0), CHI_OK);
  CHECK_INT(chi_cluster_is_up(c, 1), 0);
  CHECK_INT(calc_call(c, 0, 1), CHI_EUNREACHABLE);
  CHECK_INT(chi_cluster_settle(c, LIMIT_NS), CHI_OK);
  CHECK_INT(calc_call(c, 0, 1), CHI_OK);
  CHECK_INT(chi_cluster_fault(c, CHI_FAULT_PAUSE, 2, 0, 0), CHI_OK);
  CHECK(calc_call(c, 0, 2) != CHI_OK);
  CHECK_INT(chi_cluster_fault(c, CHI_FAULT_RESUME, 2, 0, 0), CHI_OK);
  CHECK_INT(chi_cluster_settle(c, LIMIT_NS), CHI_OK);
  CHECK_INT(calc_call(c, 0, 2), CHI_OK);
  CHECK_INT(chi_cluster_fault_count(c, CHI_FAULT_PAUSE), 1);
  CHECK_INT(chi_cluster_fault(c, CHI_FAULT_CRASH, 2, 0, 0), CHI_ENOTSUP);
  CHECK_INT(chi_cluster_stop(c, 0, 1000), CHI_OK);
  CHECK_INT(chi_cluster_stop(c, CHI_CLUSTER_ALL, 1000), CHI_OK);
  chi_cluster_close(c);
}

/* ---- what doesn't open ----------------------------------------------------------------------- */

TEST(what_real_nodes_cannot_be_is_refused)
{
  chi_error err = {0};
  chi_cluster *c = NULL;
  CHECK_INT(chi_cluster_open("local:nodes=2,latency=1ms", NULL, 0, &c, &err), CHI_ENOTSUP);
  CHECK_INT(chi_cluster_open("local:nodes=1000", NULL, 0, &c, &err), CHI_ERANGE);
  CHECK_INT(chi_cluster_open("local:nodes=0", NULL, 0, &c, &err), CHI_EINVAL);
  CHECK(!c);
}

TEST(an_address_in_use_is_told)
{
  chi_error err = {0};
  chi_cluster *c = tally_open("local:nodes=2", &err), *twice = NULL;
  chi_cluster_close(c);
  uint32_t port = station_port();
  char spec[64];
  snprintf(spec, sizeof(spec), "local:nodes=2,port=%u", port);
  c = tally_open(spec, &err);
  CHECK_STR(err.text, "");
  CHECK(!tally_open(spec, &err));
  CHECK(err.code == CHI_EBUSY);
  calc_find_program();
  CHECK(chi_cluster_open(spec, NULL, 0, &twice, &err) != CHI_OK);
  chi_cluster_close(c);
}

TEST(a_hostfile_must_be_there_and_say_which_node_is_here)
{
  chi_error err = {0};
  chi_cluster *c = NULL;
  char dir[64], path[96];
  CHECK(scratch_make(dir) && scratch_write(dir, "hosts", "127.0.0.1\n127.0.0.2\n"));
  snprintf(path, sizeof(path), "hostfile:%s/none", dir);
  CHECK_INT(chi_cluster_open(path, NULL, 0, &c, &err), CHI_ENOENT);
  snprintf(path, sizeof(path), "hostfile:%s/hosts", dir);
  CHECK_INT(chi_cluster_open(path, NULL, 0, &c, &err), CHI_ECONFIG);
  CHECK(strstr(err.text, "several nodes of the hostfile have an address of this machine"));
  CHECK(!c);
  scratch_remove(dir);
}

TEST(a_program_that_is_not_there_is_told)
{
  chi_error err = {0};
  chi_cluster *c = NULL;
  char before[PATH_MAX + 16];
  calc_find_program();
  snprintf(before, sizeof(before), "%s", getenv("CHIMAERA"));
  setenv("CHIMAERA", "/nowhere/chimaera", 1);
  CHECK_INT(chi_cluster_open("local:nodes=2", NULL, 0, &c, &err), CHI_ENOENT);
  CHECK_STR(err.text, "cannot run /nowhere/chimaera: No such file or directory; set CHIMAERA to "
                      "the program");
  setenv("CHIMAERA", before, 1);
  CHECK(!c);
}
