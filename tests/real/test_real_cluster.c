/* test_real_cluster.c - clusters of real nodes behind the handle: processes with modules of this
 * one, and of the program. */
#include "daemon.h"
#include "modules/calc.h"
#include "real_relay.h"
#include "station.h"
#include "test.h"

#include <arpa/inet.h>
#include <limits.h>
#include <pthread.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <time.h>

#define LIMIT_NS (20 * SLOW * SECOND_NS)
#define TALLY_POOL ((chi_pool_id){700, 0})

/* ---- a module of this process ---------------------------------------------------------------- */

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

TEST(nodes_with_a_module_of_this_process_are_a_cluster)
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

/* The same among faults, whatever comes of it. */
static void tally_walker(chi_cluster *c, chi_client *client, void *arg)
{
  chi_queue *queue = NULL;
  for (uint32_t i = 0; i < *(const uint32_t *)arg; i++) {
    int rc = queue ? CHI_OK : chi_queue_open(client, &queue, NULL);
    struct tally_add *t = rc == CHI_OK ? CHI_NEW(queue, tally_add) : NULL;
    if (t) {
      t->task.pool = TALLY_POOL;
      t->task.query = (chi_query){.mode = CHI_QUERY_ID, .a = i % chi_cluster_nodes(c)};
      rc = chi_run(queue, t);
      chi_sometimes(c, "a task runs", rc == CHI_OK);
      chi_task_free(queue, t);
    }
    if (!t || rc == CHI_ESHUTDOWN)
      chi_client_reconnect(client, SECOND_NS, NULL);
    chi_cluster_sleep(c, 10 * MS_NS);
  }
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

TEST(nodes_stop_and_start)
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
  chi_cluster_close(c);
}

TEST(faults_of_the_simulation_alone_are_refused_and_named)
{
  chi_error err = {0};
  chi_cluster *c = tally_open("local:nodes=2,heartbeat_interval=100ms", &err);
  CHECK_STR(err.text, "");
  CHECK_INT(chi_cluster_fault(c, CHI_FAULT_DELAY, 0, CHI_FAULT_SYNC, 1), CHI_ENOTSUP);
  CHECK_INT(chi_cluster_plan(c, "1 crash 1\n2 delay 1 * 100\n", &err), CHI_ENOTSUP);
  CHECK_STR(err.text, "delay: only a simulation can");
  CHECK_INT(chi_cluster_faults(c, "until=1s,kinds=pause+delay", &err), CHI_ENOTSUP);
  CHECK_STR(err.text, "delay: only a simulation can");
  CHECK_INT(chi_cluster_fault_count(c, CHI_FAULT_DELAY), 0);
  chi_cluster_close(c);
}

TEST(values_of_faults_are_checked)
{
  static const struct {
    int kind;
    int64_t low, high;
  } limits[] = {{CHI_FAULT_FULL, 0, 1},
                {CHI_FAULT_LOSE, 0, INT32_MAX},
                {CHI_FAULT_SNAP, 0, INT32_MAX},
                {CHI_FAULT_DRIFT, -100000, 100000},
                {CHI_FAULT_JUMP, -INT64_C(3600000000000), INT64_C(3600000000000)},
                {CHI_FAULT_DISK, 0, 1},
                {CHI_FAULT_MEMORY, 0, 1000000}};
  chi_error err = {0};
  chi_cluster *c = tally_open("local:nodes=2", &err);
  CHECK_STR(err.text, "");
  for (size_t i = 0; i < CHI_COUNT(limits); i++) {
    CHECK_INT(chi_cluster_fault(c, limits[i].kind, 0, 1, limits[i].low - 1), CHI_ERANGE);
    CHECK_INT(chi_cluster_fault(c, limits[i].kind, 0, 1, limits[i].high + 1), CHI_ERANGE);
    CHECK_INT(chi_cluster_fault_count(c, limits[i].kind), 0);
    CHECK_INT(chi_cluster_fault(c, limits[i].kind, 0, 1, limits[i].low), CHI_OK);
    CHECK_INT(chi_cluster_fault(c, limits[i].kind, 0, 1, limits[i].high), CHI_OK);
    CHECK_INT(chi_cluster_fault_count(c, limits[i].kind), 2);
  }
  chi_cluster_close(c);
}

/* ---- faults ---------------------------------------------------------------------------------- */

#define QUICK "heartbeat_interval=100ms,wait_for_restart=1s,task_timeout=2s"

TEST(nodes_can_be_killed_and_frozen)
{
  chi_error err = {0};
  chi_cluster *c = tally_open("local:nodes=3," QUICK, &err);
  uint64_t count = 0;
  CHECK_STR(err.text, "");
  CHECK_INT(chi_cluster_fault(c, CHI_FAULT_KILL, 1, 0, 0), CHI_OK);
  CHECK_INT(chi_cluster_is_up(c, 1), 0);
  CHECK_INT(tally_call(c, 0, 1, &count), CHI_EUNREACHABLE);
  CHECK_INT(chi_cluster_settle(c, LIMIT_NS), CHI_OK);
  CHECK_INT(tally_call(c, 0, 1, &count), CHI_OK);
  CHECK_INT(chi_cluster_fault(c, CHI_FAULT_PAUSE, 2, 0, 0), CHI_OK);
  CHECK(tally_call(c, 0, 2, &count) != CHI_OK);
  CHECK_INT(chi_cluster_fault(c, CHI_FAULT_RESUME, 2, 0, 0), CHI_OK);
  CHECK_INT(chi_cluster_settle(c, LIMIT_NS), CHI_OK);
  CHECK_INT(tally_call(c, 0, 2, &count), CHI_OK);
  CHECK_INT(chi_cluster_fault_count(c, CHI_FAULT_PAUSE), 1);
  chi_cluster_close(c);
}

/* Each fault of the network is one while it lasts, and over when it is healed. */
TEST(a_network_is_cut_and_healed)
{
  static const struct {
    int kind;
    uint32_t a, b;
    int64_t value;
  } faults[] = {{CHI_FAULT_CUT, 0, 1, 0},
                {CHI_FAULT_CUT, 1, 0, 0},
                {CHI_FAULT_ISOLATE, 1, 0, 0},
                {CHI_FAULT_PARTITION, 1, 1, 0},
                {CHI_FAULT_SPLIT, 0, 0, 2}};
  chi_error err = {0};
  chi_cluster *c = tally_open("local:nodes=2," QUICK, &err);
  uint64_t count = 0;
  CHECK_STR(err.text, "");
  for (size_t i = 0; i < CHI_COUNT(faults); i++) {
    CHECK_INT(chi_cluster_fault(c, faults[i].kind, faults[i].a, faults[i].b, faults[i].value),
              CHI_OK);
    CHECK(tally_call(c, 0, 1, &count) != CHI_OK);
    CHECK_INT(chi_cluster_fault(c, CHI_FAULT_HEAL, 0, 0, 0), CHI_OK);
    CHECK_INT(chi_cluster_settle(c, LIMIT_NS), CHI_OK);
    CHECK_INT(tally_call(c, 0, 1, &count), CHI_OK);
  }
  chi_cluster_close(c);
}

static uint64_t tally_time(chi_cluster *c)
{
  uint64_t began = now_ns(), count = 0;
  return tally_call(c, 0, 1, &count) == CHI_OK ? now_ns() - began : 0;
}

TEST(a_network_is_slow_until_it_is_not)
{
  chi_error err = {0};
  chi_cluster *c = tally_open("local:nodes=2,heartbeat_interval=1s", &err);
  CHECK_STR(err.text, "");
  CHECK_INT(chi_cluster_fault(c, CHI_FAULT_CLOG, 0, 1, 300 * MS_NS), CHI_OK);
  CHECK(tally_time(c) >= 300 * MS_NS);
  CHECK_INT(chi_cluster_fault(c, CHI_FAULT_CLOG, 0, 1, 0), CHI_OK);
  CHECK_INT(chi_cluster_fault(c, CHI_FAULT_SLOW, 1, 0, 400000), CHI_OK);
  CHECK(tally_time(c) >= 199 * MS_NS); /* 50 us, 4000 times */
  CHECK_INT(chi_cluster_fault(c, CHI_FAULT_SLOW, 1, 0, 100), CHI_OK);
  CHECK_INT(chi_cluster_settle(c, LIMIT_NS), CHI_OK);
  CHECK_INT(tally_call(c, 0, 1, &(uint64_t){0}), CHI_OK);
  chi_cluster_close(c);
}

TEST(faults_happen_as_planned_and_as_drawn)
{
  chi_error err = {0};
  chi_cluster *c = tally_open("local:nodes=3,seed=5," QUICK, &err);
  uint32_t each = 300;
  CHECK_STR(err.text, "");
  CHECK_INT(chi_cluster_faults(c, "until=3s,outage=300ms,each=2", &err), CHI_OK);
  for (int i = 0; i < 3; i++)
    CHECK(chi_cluster_client(c, (uint32_t)i, tally_walker, &each) > 0);
  CHECK_INT(chi_cluster_settle(c, LIMIT_NS), CHI_OK);
  CHECK_STR(chi_cluster_failure(c) ? chi_cluster_failure(c)->text : "", "");
  uint64_t happened = 0;
  for (int kind = 0; kind < CHI_FAULT_KINDS; kind++)
    happened += kind == CHI_FAULT_CALM ? 0 : chi_cluster_fault_count(c, kind);
  CHECK(happened >= 5);
  chi_cluster_close(c);
}

/* ---- what methods may say -------------------------------------------------------------------- */

static chi_cluster *here;

#define WITNESS_SAY(X, T) X(T, IN, u32, holds) X(T, IN, u32, ends)
CHI_TASK(witness_say, 10, WITNESS_SAY)

struct witness {
  int unused;
};

static int witness_say_run(chi_ctx *ctx, struct witness *self, struct witness_say *t)
{
  (void)ctx, (void)self;
  chi_cluster_cpu(here, MS_NS);
  chi_sometimes(here, "a method speaks", 1);
  chi_always(here, "what it says holds", (int)t->holds);
  if (t->ends)
    abort();
  return chi_cluster_fault(here, CHI_FAULT_HEAL, 0, 0, 0);
}

#define WITNESS_METHODS(M, S) M(S, witness_say)
CHI_METHODS(witness, WITNESS_METHODS)

static const chi_module witness_module = {.version = CHI_MODULE_VERSION,
                                          .name = "witness",
                                          .state_size = sizeof(struct witness),
                                          .methods = witness_methods};

static bool witness_open(void)
{
  static const chi_module *const modules[] = {&witness_module};
  chi_pool_id id = TALLY_POOL;
  return chi_cluster_open("local:nodes=2," QUICK, modules, 1, &here, NULL) == CHI_OK &&
         chi_cluster_pool_create(here, 0, "witness", "w", NULL, 0, &id, NULL) == CHI_OK;
}

static int witness_call(uint32_t holds, uint32_t ends)
{
  struct witness_say t = {.holds = holds, .ends = ends};
  t.task.pool = TALLY_POOL;
  t.task.query = (chi_query){.mode = CHI_QUERY_PHYSICAL, .a = 1};
  return chi_cluster_call(here, 0, &witness_say_type, &t, LIMIT_NS);
}

/* Nodes have the handle that was opened into a variable, and tell of properties; faults are not
 * theirs to make. */
TEST(methods_of_other_processes_tell_properties)
{
  uint64_t told = 0, held = 0;
  CHECK(witness_open());
  CHECK_INT(witness_call(1, 0), CHI_ENOTSUP);
  CHECK_INT(chi_cluster_property(here, "a method speaks", &told, &held), CHI_OK);
  CHECK_INT(held, 1);
  witness_call(0, 0);
  CHECK(chi_cluster_failure(here));
  CHECK_STR(chi_cluster_failure(here)->check, "what it says holds");
  CHECK_INT(witness_call(1, 0), CHI_ECANCELLED);
  chi_cluster_close(here);
}

TEST(a_node_that_ends_by_itself_is_a_failure)
{
  CHECK(witness_open());
  witness_call(1, 1);
  CHECK_INT(chi_cluster_settle(here, LIMIT_NS), CHI_ECANCELLED);
  CHECK_STR(chi_cluster_failure(here)->check, "crash");
  CHECK_STR(chi_cluster_failure(here)->text, "node 1 ends with signal 6");
  chi_cluster_close(here);
}

/* ---- processes of the program ---------------------------------------------------------------- */

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

TEST(nodes_that_are_processes_of_the_program_can_be_killed_and_frozen)
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
  CHECK_INT(chi_cluster_plan(c, "1 jump 1 100\n", &err), CHI_ENOTSUP);
  CHECK_STR(err.text, "jump: nodes that are not forked from the test are not told");
  CHECK_INT(chi_cluster_fault(c, CHI_FAULT_ISOLATE, 2, 0, 0), CHI_OK);
  CHECK(calc_call(c, 0, 2) != CHI_OK);
  CHECK_INT(chi_cluster_settle(c, LIMIT_NS), CHI_OK);
  CHECK_INT(calc_call(c, 0, 2), CHI_OK);
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
  char dir[64], path[96], conf[96];
  CHECK(scratch_make(dir) && scratch_write(dir, "hosts", "127.0.0.1\n127.0.0.2\n"));
  snprintf(path, sizeof(path), "hostfile:%s/none", dir);
  CHECK_INT(chi_cluster_open(path, NULL, 0, &c, &err), CHI_ENOENT);
  snprintf(path, sizeof(path), "hostfile:%s/hosts", dir);
  CHECK_INT(chi_cluster_open(path, NULL, 0, &c, &err), CHI_ECONFIG);
  CHECK(strstr(err.text, "several nodes of the hostfile have an address of this machine"));
  setenv("CHI_NODE", "0", 1);
  snprintf(conf, sizeof(conf), "%s/conf.yaml", dir);
  setenv("CHI_SERVER_CONF", conf, 1);
  CHECK_INT(chi_cluster_open(path, NULL, 0, &c, &err), CHI_ENOENT);
  CHECK(strstr(err.text, "node 0 does not answer: ") && strstr(err.text, "conf.yaml: cannot read"));
  unsetenv("CHI_SERVER_CONF");
  unsetenv("CHI_NODE");
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

/* ---- the relay ------------------------------------------------------------------------------- */

static uint64_t relay_cpu(void)
{
  struct timespec t;
  clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &t);
  return (uint64_t)t.tv_sec * SECOND_NS + (uint64_t)t.tv_nsec;
}

/* A connection that cannot be accepted, since descriptors are short, waits; so does the relay. */
TEST(a_relay_without_descriptors_waits)
{
  const chi_host node[2] = {{"a", "127.0.0.1"}, {"b", "127.0.0.2"}};
  const uint32_t port = station_port();
  struct sockaddr_in to = {.sin_family = AF_INET, .sin_port = htons((uint16_t)port)};
  struct rlimit usual, none;
  struct real_relay *relay = NULL;
  char address[REAL_RELAY_ADDRESS];
  CHECK_INT(real_relay_open(node, 2, port, &relay, NULL), CHI_OK);
  real_relay_address(0, 1, address);
  CHECK_INT(inet_pton(AF_INET, address, &to.sin_addr), 1);
  int door = socket(AF_INET, SOCK_STREAM, 0), out = socket(AF_INET, SOCK_STREAM, 0);
  struct sockaddr_in behind = to;
  CHECK_INT(inet_pton(AF_INET, node[1].address, &behind.sin_addr), 1);
  CHECK_INT(bind(door, (struct sockaddr *)&behind, sizeof(behind)), 0);
  CHECK_INT(listen(door, 1), 0);
  CHECK_INT(getrlimit(RLIMIT_NOFILE, &usual), 0);
  int probe = dup(0);
  close(probe);
  none = (struct rlimit){(rlim_t)probe, usual.rlim_max};
  CHECK_INT(setrlimit(RLIMIT_NOFILE, &none), 0);
  uint64_t before = relay_cpu();
  CHECK_INT(connect(out, (struct sockaddr *)&to, sizeof(to)), 0);
  nanosleep(&(struct timespec){0, 500000000}, NULL);
  uint64_t used = relay_cpu() - before;
  CHECK_INT(setrlimit(RLIMIT_NOFILE, &usual), 0);
  CHECK(used < 100000000);
  int in = accept(door, NULL, NULL); /* and goes on when there are some */
  CHECK(in >= 0);
  close(in);
  close(out);
  close(door);
  real_relay_close(relay);
}
