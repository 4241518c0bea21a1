/* test_cluster.c - the handle on a cluster: specs, clients, time, faults, checks, reports. */
#include "sim_cluster.h"
#include "town.h"

/* ---- specs -------------------------------------------------------------------------------- */

static int open_spec(const char *spec, char text[400])
{
  chi_cluster *c = NULL;
  chi_error err = {0, ""};
  int rc = chi_cluster_open(spec, NULL, 0, &c, &err);
  if (rc == CHI_OK)
    chi_cluster_close(c);
  else if (c)
    rc = 1000;
  snprintf(text, 400, "%s", err.text);
  return rc;
}

TEST(cluster_spec_names_what_is_wrong)
{
  TOWN_NEEDS_SIM("opens no cluster");
  static const struct {
    const char *spec;
    int rc;
    const char *text;
  } bad[] = {
      {"", CHI_EINVAL, "a cluster is \"sim:\", \"local:\" or \"hostfile:\""},
      {"sim", CHI_EINVAL, "a cluster is \"sim:\", \"local:\" or \"hostfile:\""},
      {"some:nodes=3", CHI_EINVAL, "no such kind of cluster: \"some\""},
#ifdef CHI_OMIT_REAL
      {"local:nodes=3", CHI_ENOTSUP, "clusters of kind \"local\" are not in this build"},
      {"hostfile:/etc/a,b=c", CHI_ENOTSUP, "clusters of kind \"hostfile\" are not in this build"},
#else
      {"local:nodes=0", CHI_EINVAL, "nodes: there must be one at least"},
      {"hostfile:", CHI_EINVAL, "hostfile: expected the path of a file"},
      {"hostfile:/nowhere/a,b=c", CHI_ENOENT, "cannot read the hostfile /nowhere/a,b=c: No such"},
#endif
      {"sim:nodes", CHI_EINVAL, "expected KEY=VALUE, found \"nodes\""},
      {"sim:nodes=3,,", CHI_EINVAL, "expected KEY=VALUE, found \"\""},
      {"sim:nodes=0", CHI_EINVAL, "nodes: there must be one at least"},
      {"sim:nodes=", CHI_EINVAL, "nodes: expected a whole number up to 4096, found \"\""},
      {"sim:nodes=4097", CHI_EINVAL, "nodes: expected a whole number up to 4096, found \"4097\""},
      {"sim:nodes=3,up=4", CHI_EINVAL, "up: there are 3 nodes, not 4"},
      {"sim:seed=x", CHI_EINVAL,
       "seed: expected a whole number up to 18446744073709551615, found \"x\""},
      {"sim:latency=soon", CHI_EINVAL, "latency: expected a time, found \"soon\""},
      {"sim:bandwidth=fast", CHI_EINVAL, "bandwidth: expected a size, found \"fast\""},
      {"sim:hostfile=a", CHI_EINVAL, "no such key of a cluster: \"hostfile\""},
      {"sim:heartbeat_interval=never", CHI_EINVAL, "heartbeat_interval: expected"},
      {"sim:queue_depth=0", CHI_EINVAL, "queue_depth: expected"},
      {"sim:nodes=3,nodes=4", CHI_EINVAL, "nodes: expected once, found again: \"nodes=4\""},
      {"sim:nodes=3,seed=1,nodes=3,up=2", CHI_EINVAL, "nodes: expected once, found again"},
      {"sim:queue_depth=8,seed=1,queue_depth=8", CHI_EINVAL, "queue_depth: expected once"},
#ifndef CHI_OMIT_REAL
      {"local:nodes=3,nodes=4", CHI_EINVAL, "nodes: expected once, found again: \"nodes=4\""},
#endif
  };
  char text[400];
  for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
    CHECK_INT(open_spec(bad[i].spec, text), bad[i].rc);
    text[strlen(bad[i].text)] = '\0';
    CHECK_STR(text, bad[i].text);
  }
  CHECK_INT(open_spec(NULL, text), CHI_EINVAL);
}

TEST(cluster_spec_word_is_bounded)
{
  TOWN_NEEDS_SIM("opens no cluster");
  char spec[1000] = "sim:seed=", text[400];
  memset(spec + strlen(spec), '1', 900);
  CHECK_INT(open_spec(spec, text), CHI_EINVAL);
  CHECK_STR(text, "seed: the value is too long");
  memcpy(spec, "sim:111111", 10);
  CHECK_INT(open_spec(spec, text), CHI_EINVAL);
}

TEST(cluster_spec_is_obeyed)
{
  TOWN_NEEDS_SIM("latency and bandwidth are set");
  struct town t;
  CHECK_STR(town_open(&t, "sim:nodes=4,up=2,seed=77,heartbeat_interval=100ms,queue_depth=32,"
                          "sched_threads=1,latency=50us,bandwidth=1G"),
            "");
  CHECK_INT(chi_cluster_nodes(t.cluster), 4);
  CHECK_INT(chi_cluster_seed(t.cluster), 77);
  CHECK(chi_cluster_is_up(t.cluster, 0) && chi_cluster_is_up(t.cluster, 1));
  CHECK(!chi_cluster_is_up(t.cluster, 2) && !chi_cluster_is_up(t.cluster, 4));
  CHECK_INT(sim_costs(sim_cluster_sim(t.cluster))->latency, 50000);
  CHECK_INT(sim_costs(sim_cluster_sim(t.cluster))->byte_ps, 931);
  town_close(&t);
}

/* ---- clients and calls -------------------------------------------------------------------- */

TEST(cluster_call_runs_a_task)
{
  struct town t;
  struct town_where w = {.task = town_task(CHI_QUERY_LOCAL, 0, 0)};
  CHECK_STR(town_begin(&t, "sim:nodes=1,seed=1"), "");
  CHECK_INT(town_call(&t, 0, &town_where_type, &w), CHI_OK);
  CHECK_INT(w.node, 0);
  CHECK_INT(w.runs, 1);
  CHECK_INT(w.task.rc, CHI_OK);
  CHECK_INT(town_call(&t, 0, &town_where_type, &w), CHI_OK);
  CHECK_INT(w.runs, 2);
  CHECK_STR(town_end(&t), "");
}

TEST(cluster_call_says_why_not)
{
  struct town t;
  struct town_bulk bulk = {.task = town_task(CHI_QUERY_LOCAL, 0, 0)};
  struct town_sleep sleep = {.task = town_task(CHI_QUERY_LOCAL, 0, 0), .ns = TOWN_LONG};
  struct town_code code = {.task = town_task(CHI_QUERY_LOCAL, 0, 0), .code = 42};
  chi_pool_id nobody = {9, 9};
  chi_error err;
  CHECK_STR(town_begin(&t, "sim:nodes=1,seed=2"), "");
  CHECK_INT(town_call(&t, 0, &town_bulk_type, &bulk), CHI_ENOTSUP);
  sleep.task.flags = CHI_TASK_FORGET;
  CHECK_INT(town_call(&t, 0, &town_sleep_type, &sleep), CHI_ENOTSUP);
  sleep.task.flags = 0;
  CHECK_INT(town_call(&t, 1, &town_code_type, &code), CHI_ERANGE);
  CHECK_INT(town_call(&t, 0, &town_code_type, &code), 42);
  CHECK_INT(chi_cluster_call(t.cluster, 0, &town_sleep_type, &sleep, 5 * TOWN_MS), CHI_ETIMEOUT);
  CHECK_INT(chi_cluster_pool_destroy(t.cluster, 0, nobody, &err), CHI_ENOENT);
  CHECK_INT(chi_cluster_pool_create(t.cluster, 0, "no such", "x", NULL, 0, &nobody, &err),
            CHI_ENOMODULE);
  CHECK(strstr(err.text, "no such"));
  CHECK_INT(chi_cluster_pool_destroy(t.cluster, 0, TOWN_POOL, &err), CHI_OK);
  CHECK_INT(town_call(&t, 0, &town_code_type, &code), CHI_ENOENT);
  town_fault(&t, CHI_FAULT_KILL, 0, 0, 0);
  CHECK_INT(town_call(&t, 0, &town_code_type, &code), CHI_ENODAEMON);
  town_close(&t);
}

/* A client that sleeps, works, and looks whether time has passed. */
static void sleeper(chi_cluster *cluster, chi_client *client, void *arg)
{
  struct town *t = arg;
  chi_queue *queue;
  uint64_t began = chi_cluster_now(cluster);
  int rc = chi_queue_open(client, &queue, NULL);
  if (rc == CHI_ESHUTDOWN && !town_is_simulated()) /* its node may be killed as early as this */
    return;
  CHECK_INT(rc, CHI_OK);
  chi_cluster_sleep(cluster, 7 * TOWN_MS);
  CHECK(chi_cluster_now(cluster) >= began + 7 * TOWN_MS);
  chi_cluster_cpu(cluster, TOWN_MS);
  chi_queue_close(queue);
  t->told++;
}

TEST(cluster_clients_run_to_their_end_or_are_killed)
{
  struct town t;
  int first, second, third;
  CHECK_STR(town_open(&t, "sim:nodes=1,seed=3"), "");
  first = town_client(&t, 0, sleeper, &t);
  second = town_client(&t, 0, sleeper, &t);
  CHECK(first > 0 && second > first);
  CHECK_INT(town_client(&t, 1, sleeper, &t), CHI_ERANGE);
  CHECK_INT(chi_cluster_run_for(t.cluster, TOWN_MS), CHI_OK);
  CHECK(!chi_cluster_client_ended(t.cluster, first));
  chi_cluster_client_kill(t.cluster, second);
  chi_cluster_client_kill(t.cluster, second);
  CHECK(chi_cluster_client_ended(t.cluster, second));
  CHECK_INT(chi_cluster_run_idle(t.cluster, TOWN_SECOND), CHI_OK);
  CHECK(chi_cluster_client_ended(t.cluster, first));
  /* A thread whose connection is cut comes to its end as well. */
  CHECK(t.told == 1 || (t.told == 2 && !town_is_simulated()));
  /* One whose node isn't there waits for it. */
  town_fault(&t, CHI_FAULT_KILL, 0, 0, 0);
  third = town_client(&t, 0, sleeper, &t);
  CHECK_INT(chi_cluster_run_idle(t.cluster, TOWN_SECOND), CHI_ETIMEOUT);
  town_fault(&t, CHI_FAULT_START, 0, 0, 0);
  CHECK_INT(chi_cluster_run_idle(t.cluster, TOWN_SECOND), CHI_OK);
  CHECK(chi_cluster_client_ended(t.cluster, third));
  CHECK_STR(town_end(&t), "");
}

/* ---- time --------------------------------------------------------------------------------- */

static int after(chi_cluster *cluster, void *arg)
{
  return chi_cluster_now(cluster) >= *(const uint64_t *)arg;
}

/* What belongs to the test itself is refused to a body, and changes nothing. */
static void meddler(chi_cluster *cluster, chi_client *client, void *arg)
{
  struct town *t = arg;
  struct town_where w = {.task = town_task(CHI_QUERY_LOCAL, 0, 0)};
  chi_pool_id id = {1000, 0};
  chi_error err;
  (void)client;
  CHECK_INT(chi_cluster_run_for(cluster, 1), CHI_EDEADLOCK);
  CHECK_INT(chi_cluster_run_idle(cluster, 1), CHI_EDEADLOCK);
  CHECK_INT(chi_cluster_settle(cluster, 1), CHI_EDEADLOCK);
  CHECK_INT(chi_cluster_stop(cluster, 0, 1), CHI_EDEADLOCK);
  CHECK_INT(chi_cluster_call(cluster, 0, &town_where_type, &w, 1), CHI_EDEADLOCK);
  CHECK_INT(chi_cluster_pool_create(cluster, 0, "town", "t", NULL, 0, &id, &err), CHI_EDEADLOCK);
  CHECK_INT(chi_cluster_plan(cluster, "", &err), CHI_EDEADLOCK);
  CHECK_INT(chi_cluster_faults(cluster, "until=1s", &err), CHI_EDEADLOCK);
  CHECK(chi_cluster_client(cluster, 0, sleeper, t) > 0); /* but another program may be started */
  t->told++;
}

TEST(cluster_time_runs_as_asked)
{
  TOWN_NEEDS_SIM("virtual time is exact");
  struct town t;
  uint64_t now, until;
  CHECK_STR(town_open(&t, "sim:nodes=1,seed=4"), "");
  now = chi_cluster_now(t.cluster);
  CHECK(now >= TOWN_SECOND);
  CHECK_INT(chi_cluster_run_for(t.cluster, 5 * TOWN_SECOND), CHI_OK);
  CHECK_INT(chi_cluster_now(t.cluster), now + 5 * TOWN_SECOND);
  until = now + 6 * TOWN_SECOND;
  CHECK_INT(chi_cluster_run_until(t.cluster, after, &until, TOWN_MS), CHI_ETIMEOUT);
  CHECK_INT(chi_cluster_now(t.cluster), now + 5 * TOWN_SECOND + TOWN_MS);
  town_client(&t, 0, meddler, &t);
  CHECK_INT(chi_cluster_run_idle(t.cluster, TOWN_SECOND), CHI_OK);
  CHECK_INT(t.told, 2);
  CHECK_STR(town_end(&t), "");
}

/* ---- faults ------------------------------------------------------------------------------- */

TEST(cluster_faults_have_the_names_of_a_plan)
{
  TOWN_NEEDS_SIM("opens no cluster");
  for (int i = 0; i < CHI_FAULT_KINDS; i++)
    CHECK_STR(chi_fault_name(i), sim_plan_name((enum sim_plan_kind)i));
  CHECK_STR(chi_fault_name(-1), "unknown");
  CHECK_STR(chi_fault_name(CHI_FAULT_KINDS), "unknown");
}

TEST(cluster_fault_is_checked)
{
  struct town t;
  CHECK_STR(town_open(&t, "sim:nodes=2,seed=5"), "");
  CHECK_INT(chi_cluster_fault(t.cluster, -1, 0, 0, 0), CHI_EINVAL);
  CHECK_INT(chi_cluster_fault(t.cluster, CHI_FAULT_KINDS, 0, 0, 0), CHI_EINVAL);
  CHECK_INT(chi_cluster_fault(t.cluster, CHI_FAULT_CRASH, 2, 0, 0), CHI_ERANGE);
  CHECK_INT(chi_cluster_fault(t.cluster, CHI_FAULT_CUT, 0, 2, 0), CHI_ERANGE);
  CHECK_INT(chi_cluster_fault(t.cluster, CHI_FAULT_DISK, 0, CHI_FAULT_SPACE + 1, 5), CHI_ERANGE);
  int rc = town_possible(chi_cluster_fault(t.cluster, CHI_FAULT_DISK, 0, CHI_FAULT_READ, 2));
  CHECK_INT(rc, CHI_ERANGE);
  CHECK_INT(chi_cluster_fault(t.cluster, CHI_FAULT_DISK, 0, CHI_CLUSTER_ALL, 1), CHI_OK);
  CHECK_INT(chi_cluster_fault(t.cluster, CHI_FAULT_START, 1, 0, 0), CHI_OK);
  CHECK_INT(chi_cluster_fault_count(t.cluster, CHI_FAULT_START), 0);
  CHECK_INT(chi_cluster_fault(t.cluster, CHI_FAULT_CRASH, 1, 0, 0), CHI_OK);
  CHECK_INT(chi_cluster_fault_count(t.cluster, CHI_FAULT_CRASH), 1);
  CHECK_INT(chi_cluster_fault(t.cluster, CHI_FAULT_CRASH, 1, 0, 0), CHI_OK);
  CHECK_INT(chi_cluster_fault_count(t.cluster, CHI_FAULT_CRASH), 1);
  CHECK_INT(chi_cluster_fault_count(t.cluster, -1), 0);
  town_close(&t);
}

/* A body may let its own node crash: it hears of that as everybody does. */
static void arsonist(chi_cluster *cluster, chi_client *client, void *arg)
{
  struct town *t = arg;
  chi_queue *queue;
  struct town_sleep *sleep;
  CHECK_INT(chi_queue_open(client, &queue, NULL), CHI_OK);
  sleep = CHI_NEW(queue, town_sleep);
  CHECK(sleep);
  sleep->task.pool = TOWN_POOL;
  sleep->ns = TOWN_LONG;
  CHECK_INT(chi_submit(queue, sleep), CHI_OK);
  CHECK_INT(chi_cluster_fault(cluster, CHI_FAULT_CRASH, 0, 0, 0), CHI_OK);
  CHECK_INT(chi_wait(queue, sleep, UINT64_MAX), CHI_ESHUTDOWN);
  chi_queue_close(queue);
  t->told++;
}

TEST(cluster_fault_from_a_body_comes_after_it)
{
  TOWN_NEEDS_SIM("a transcript tells of the crash");
  struct town t;
  CHECK_STR(town_begin(&t, "sim:nodes=1,seed=6"), "");
  town_client(&t, 0, arsonist, &t);
  CHECK_INT(chi_cluster_run_idle(t.cluster, TOWN_SECOND), CHI_OK);
  CHECK_INT(t.told, 1);
  CHECK(!chi_cluster_is_up(t.cluster, 0));
  CHECK(town_tells(&t, "loses power"));
  CHECK_STR(town_end(&t), ""); /* which starts it again */
}

static void stormer(chi_cluster *cluster, chi_client *client, void *arg)
{
  int rc = CHI_OK;
  (void)client;
  for (int i = 0; i < 1000 && rc == CHI_OK; i++)
    rc = chi_cluster_fault(cluster, CHI_FAULT_HEAL, 0, 0, 0);
  *(int *)arg = rc;
}

TEST(cluster_faults_at_once_are_bounded)
{
  TOWN_NEEDS_SIM("faults wait for the end of an event");
  struct town t;
  int rc = 0;
  CHECK_STR(town_open(&t, "sim:nodes=1,seed=7"), "");
  town_client(&t, 0, stormer, &rc);
  CHECK_INT(chi_cluster_run_idle(t.cluster, TOWN_SECOND), CHI_OK);
  CHECK_INT(rc, CHI_EBUSY);
  CHECK_STR(town_end(&t), "");
}

TEST(cluster_plan_happens)
{
  struct town t;
  chi_error err;
  CHECK_STR(town_open(&t, "sim:nodes=2,seed=8"), "");
  CHECK_INT(town_possible(chi_cluster_plan(t.cluster, "3.5 crash 1\n# calm\n5 start 1\n", &err)),
            CHI_OK);
  if (town_is_simulated())
    CHECK_INT(sim_cluster_plan(t.cluster)->count, 2);
  CHECK_INT(chi_cluster_run_for(t.cluster, 4 * TOWN_SECOND), CHI_OK);
  if (town_is_simulated()) /* elsewhere nodes may have taken long to start */
    CHECK(!chi_cluster_is_up(t.cluster, 1));
  CHECK_INT(chi_cluster_fault_count(t.cluster, CHI_FAULT_CRASH), 1);
  CHECK_INT(chi_cluster_run_for(t.cluster, 4 * TOWN_SECOND), CHI_OK);
  CHECK(chi_cluster_is_up(t.cluster, 1));
  CHECK_INT(chi_cluster_plan(t.cluster, "9 crash 0\n10 fly 1\n", &err), CHI_EINVAL);
  CHECK(strstr(err.text, "2:"));
  CHECK_INT(chi_cluster_plan(t.cluster, "9 crash 2\n", &err), CHI_EINVAL);
  CHECK_STR(err.text, "crash: no such node");
  CHECK_INT(chi_cluster_run_for(t.cluster, 20 * TOWN_SECOND), CHI_OK);
  CHECK(chi_cluster_is_up(t.cluster, 0));
  CHECK_INT(chi_cluster_fault_count(t.cluster, CHI_FAULT_CRASH), 1);
  town_close(&t);
}

TEST(cluster_faults_spec_is_checked)
{
  static const char *const bad[][2] = {
      {"kinds=crash+fly,until=1s", "kinds: no such fault: \"fly\""},
      {"kinds=,until=1s", "kinds: no such fault: \"\""},
      {"until=soon", "until: expected a time, found \"soon\""},
      {"each=x,until=1s", "each: expected a whole number up to 4294967295, found \"x\""},
      {"often=3", "no such limit of faults: \"often\""},
      {"swarm", "expected KEY=VALUE, found \"swarm\""},
      {"swarm=1", "until: must be given"},
      {"until=1s,each=2,until=2s", "until: expected once, found again: \"until=2s\""},
      {"", "until: must be given"},
  };
  struct town t;
  chi_error err;
  CHECK_STR(town_open(&t, "sim:nodes=3,seed=9"), "");
  for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
    CHECK_INT(town_possible(chi_cluster_faults(t.cluster, bad[i][0], &err)), CHI_EINVAL);
    CHECK_STR(err.text, bad[i][1]);
  }
  if (town_is_simulated())
    CHECK_INT(sim_cluster_plan(t.cluster)->count, 0);
  CHECK_INT(chi_cluster_faults(t.cluster, "until=20s,kinds=pause,each=2,outage=1s,down=1", &err),
            CHI_OK);
  CHECK_INT(chi_cluster_run_for(t.cluster, 21 * TOWN_SECOND), CHI_OK);
  CHECK(chi_cluster_fault_count(t.cluster, CHI_FAULT_PAUSE) > 0);
  CHECK_INT(chi_cluster_fault_count(t.cluster, CHI_FAULT_CRASH), 0);
  for (uint32_t i = 0; i < 3; i++)
    CHECK(chi_cluster_is_up(t.cluster, i));
  town_close(&t);
}

/* ---- checks and properties ---------------------------------------------------------------- */

static const char *never_twice(chi_cluster *cluster, void *arg)
{
  (void)cluster;
  return ++*(uint64_t *)arg > 20 ? "twenty events are enough" : NULL;
}

TEST(cluster_check_that_fails_ends_the_run)
{
  struct town t;
  uint64_t asked = 0, events;
  const chi_failure *failure;
  CHECK_STR(town_begin(&t, "sim:nodes=1,seed=10"), "");
  CHECK_INT(chi_cluster_check(t.cluster, "enough", 7, never_twice, &asked), CHI_EINVAL);
  CHECK_INT(chi_cluster_check(t.cluster, "enough", CHI_CHECK_EVENT, NULL, &asked), CHI_EINVAL);
  CHECK_INT(chi_cluster_check(t.cluster, "enough", CHI_CHECK_EVENT, never_twice, &asked), CHI_OK);
  CHECK(!chi_cluster_failure(t.cluster));
  town_client(&t, 0, sleeper, &t);
  CHECK_INT(chi_cluster_run_for(t.cluster, TOWN_SECOND), CHI_ECANCELLED);
  failure = chi_cluster_failure(t.cluster);
  CHECK(failure);
  CHECK_STR(failure->check, "enough");
  CHECK_STR(failure->text, "twenty events are enough");
  CHECK(failure->time <= chi_cluster_now(t.cluster));
  CHECK_INT(asked, 21);
  if (town_is_simulated()) {
    CHECK_INT(failure->time, chi_cluster_now(t.cluster));
    CHECK(town_tells(&t, "check \"enough\" failed at event"));
  }
  /* From here on nothing runs. */
  events = chi_cluster_events(t.cluster);
  CHECK_INT(chi_cluster_run_for(t.cluster, TOWN_SECOND), CHI_ECANCELLED);
  CHECK_INT(chi_cluster_settle(t.cluster, TOWN_SECOND), CHI_ECANCELLED);
  CHECK_INT(chi_cluster_stop(t.cluster, 0, 100), CHI_ECANCELLED);
  CHECK_INT(town_find(&t, 0, CHI_QUERY_LOCAL, 0), CHI_ECANCELLED);
  if (town_is_simulated())
    CHECK_INT(chi_cluster_events(t.cluster) - events, 1 + 1); /* a client that was killed again */
  CHECK_STR(town_end(&t), "enough: twenty events are enough");
}

static const char *always_wrong(chi_cluster *cluster, void *arg)
{
  (void)cluster, (void)arg;
  return "it is over";
}

TEST(cluster_check_at_the_end_is_asked_there)
{
  struct town t;
  CHECK_STR(town_open(&t, "sim:nodes=1,seed=11"), "");
  for (uint32_t i = 0; i < CHI_CLUSTER_CHECKS_MAX; i++)
    CHECK_INT(chi_cluster_check(t.cluster, "end", CHI_CHECK_SETTLED, always_wrong, NULL), CHI_OK);
  CHECK_INT(chi_cluster_check(t.cluster, "end", CHI_CHECK_SETTLED, always_wrong, NULL), CHI_ERANGE);
  CHECK_INT(chi_cluster_run_for(t.cluster, TOWN_SECOND), CHI_OK);
  CHECK_STR(town_end(&t), "end: it is over");
}

static int is_late(chi_cluster *cluster, void *arg)
{
  (void)arg;
  return chi_cluster_now(cluster) > 5 * TOWN_SECOND;
}

static int is_never(chi_cluster *cluster, void *arg)
{
  (void)cluster, (void)arg;
  return 0;
}

static void collect(void *arg, const char *text)
{
  strncat(arg, text, 4000 - strlen(arg));
}

TEST(cluster_properties_are_counted_and_reported)
{
  struct town t;
  uint64_t told = 9, held = 9;
  char report[4001] = "";
  CHECK_STR(town_begin(&t, "sim:nodes=1,seed=12"), "");
  CHECK_INT(chi_cluster_property(t.cluster, "odd", &told, &held), CHI_ENOENT);
  for (int i = 0; i < 5; i++)
    CHECK_INT(chi_sometimes(t.cluster, "odd", i % 2), i % 2);
  CHECK_INT(chi_sometimes(t.cluster, "huge", 0), 0);
  CHECK_INT(chi_always(t.cluster, "small", 1), 1);
  CHECK_INT(chi_eventually(t.cluster, "late", NULL, NULL), CHI_EINVAL);
  CHECK_INT(chi_eventually(t.cluster, "late", is_late, NULL), CHI_OK);
  CHECK_INT(chi_cluster_property(t.cluster, "odd", &told, &held), CHI_OK);
  CHECK(told == 5 && held == 2);
  CHECK_INT(town_find(&t, 0, CHI_QUERY_LOCAL, 0), 0);
  CHECK_INT(chi_cluster_settle(t.cluster, 10 * TOWN_SECOND), CHI_OK);
  CHECK(chi_cluster_now(t.cluster) > 5 * TOWN_SECOND);
  CHECK_INT(chi_cluster_report(t.cluster, collect, report), 1);
  CHECK(strstr(report, ":nodes=1,seed="));
  CHECK(strstr(report, "fault calm: 1\n"));
  CHECK(strstr(report, "sometimes \"odd\": held 2 of 5 times\n"));
  CHECK(strstr(report, "sometimes \"huge\": held 0 of 1 times, never held\n"));
  if (town_is_simulated()) {
    CHECK(strstr(report, "tasks of clients submitted: 2\n"));
    CHECK(strstr(report, "tasks of clients completed: 2\n"));
    CHECK(strstr(report, "tasks of clients completed with CHI_OK: 2\n"));
  }
  CHECK(!strstr(report, "between nodes"));
  CHECK(!strstr(report, "failed"));
  CHECK_INT(chi_always(t.cluster, "small", 0), 0);
  CHECK_STR(town_end(&t), "small: it does not hold");
}

TEST(cluster_properties_are_bounded)
{
  struct town t;
  char name[32];
  CHECK_STR(town_open(&t, "sim:nodes=1,seed=13"), "");
  for (uint32_t i = 0; i < CHI_CLUSTER_PROPERTIES_MAX + 9; i++) {
    snprintf(name, sizeof(name), "property %u", i);
    CHECK_INT(chi_sometimes(t.cluster, name, 1), 1);
  }
  CHECK_INT(chi_eventually(t.cluster, "one more", is_late, NULL), CHI_ERANGE);
  CHECK_STR(town_end(&t), "");
}

TEST(cluster_that_does_not_settle_says_what_is_missing)
{
  struct town t;
  CHECK_STR(town_open(&t, "sim:nodes=1,seed=14"), "");
  CHECK_INT(chi_eventually(t.cluster, "never", is_never, NULL), CHI_OK);
  CHECK_STR(town_end(&t), "liveness: \"never\" does not hold");
}

/* Waits for a task that outlives every patience. */
static void patient(chi_cluster *cluster, chi_client *client, void *arg)
{
  struct town_sleep *sleep;
  chi_queue *queue;
  (void)cluster, (void)arg;
  CHECK_INT(chi_queue_open(client, &queue, NULL), CHI_OK);
  sleep = CHI_NEW(queue, town_sleep);
  CHECK(sleep);
  sleep->task.pool = TOWN_POOL;
  sleep->ns = 1000 * TOWN_SECOND;
  chi_run(queue, sleep);
}

TEST(cluster_client_that_waits_for_ever_is_found)
{
  struct town t;
  CHECK_STR(town_begin(&t, "sim:nodes=1,seed=15"), "");
  town_client(&t, 0, patient, NULL);
  CHECK_STR(town_end(&t), "liveness: 1 clients have not ended");
}

TEST(cluster_stop_cancels_what_is_left)
{
  struct town t;
  CHECK_STR(town_begin(&t, "sim:nodes=1,seed=16"), "");
  town_client(&t, 0, patient, NULL);
  CHECK_INT(chi_cluster_run_for(t.cluster, TOWN_SECOND), CHI_OK);
  CHECK_INT(chi_cluster_stop(t.cluster, 1, 50), CHI_ERANGE);
  CHECK_INT(town_possible(chi_cluster_stop(t.cluster, 0, 50)), CHI_OK);
  CHECK_INT(chi_cluster_stop(t.cluster, 0, 50), CHI_EINVAL);
  CHECK_INT(chi_cluster_run_idle(t.cluster, TOWN_SECOND), CHI_OK);
  CHECK(!chi_cluster_failure(t.cluster));
  town_close(&t);
}

/* ---- determinism -------------------------------------------------------------------------- */

static uint64_t run_of(const char *spec)
{
  struct town t;
  int told;
  if (town_begin(&t, spec)[0])
    return 0;
  for (int i = 0; i < 3; i++)
    town_client(&t, 0, sleeper, &t);
  chi_cluster_run_idle(t.cluster, TOWN_SECOND);
  told = t.told;
  town_close(&t);
  return told == 3 ? t.hash : 0;
}

TEST(cluster_hash_follows_from_the_seed)
{
  TOWN_NEEDS_SIM("there is no hash");
  uint64_t first = run_of("sim:nodes=2,seed=17"), again = run_of("sim:seed=17,nodes=2");
  CHECK(first != 0 && first == again);
  CHECK(run_of("sim:nodes=2,seed=18") != first);
}
