/* test_cluster_loss.c - tasks between nodes that crash, stop, pause, and lose their connections. */
#include "town.h"

#define SEEDS 4

/* ---- a client that calls, and what came of it ---------------------------------------------- */

struct caller {
  uint32_t whom;     /* the node its tasks are for */
  uint64_t ns;       /* how long each of them sleeps there */
  uint32_t calls;    /* how many it makes */
  int rc;            /* of the last */
  uint64_t took;     /* and its time */
  uint64_t code[64]; /* completions by -rc */
};

static void calls(chi_cluster *cluster, chi_client *client, void *arg)
{
  struct caller *caller = arg;
  chi_queue *queue;
  CHECK_INT(chi_queue_open(client, &queue, NULL), CHI_OK);
  for (uint32_t i = 0; i < caller->calls; i++) {
    struct town_sleep *sleep = CHI_NEW(queue, town_sleep);
    uint64_t began = chi_cluster_now(cluster);
    CHECK(sleep);
    sleep->task.pool = TOWN_POOL;
    sleep->task.query = (chi_query){.mode = CHI_QUERY_PHYSICAL, .a = caller->whom};
    sleep->ns = caller->ns;
    caller->rc = chi_run(queue, sleep);
    caller->took = chi_cluster_now(cluster) - began;
    CHECK(caller->rc <= 0 && caller->rc > -64);
    caller->code[-caller->rc]++;
    CHECK_INT(chi_task_free(queue, sleep), CHI_OK);
  }
  chi_queue_close(queue);
}

static void each_seed(void (*story)(uint64_t seed))
{
  for (uint64_t seed = 1; seed <= town_seeds(SEEDS); seed++)
    story(seed);
}

/* ---- the executor does not come back from a method ------------------------------------------ */

/* Has node 1 use so much CPU in one go, often; what the last one returned. */
struct labour {
  uint64_t ns;
  uint32_t calls;
  int rc;
};

static void works(chi_cluster *cluster, chi_client *client, void *arg)
{
  struct labour *labour = arg;
  chi_queue *queue;
  (void)cluster;
  CHECK_INT(chi_queue_open(client, &queue, NULL), CHI_OK);
  for (uint32_t i = 0; i < labour->calls; i++) {
    struct town_work *work = CHI_NEW(queue, town_work);
    CHECK(work);
    work->task.pool = TOWN_POOL;
    work->task.query = (chi_query){.mode = CHI_QUERY_PHYSICAL, .a = 1};
    work->ns = labour->ns;
    labour->rc = chi_run(queue, work);
    CHECK_INT(chi_task_free(queue, work), CHI_OK);
  }
  chi_queue_close(queue);
}

/* A method that was always brief runs on the thread that speaks with the others. When it doesn't
 * come back, they hear of the node all the same, and other methods are answered. */
static void brief_method_stays(uint64_t seed)
{
  struct town t;
  struct labour often = {.ns = 0, .calls = 1000}, once = {.ns = 20 * TOWN_SECOND, .calls = 1};
  struct chi_admin_find_pool find = {.task = {.pool = CHI_ADMIN_POOL}, .pool_name = "town"};
  CHECK_STR(town_seed(&t, seed, "nodes=3,heartbeat_interval=200ms,task_timeout=5s"), "");
  town_client(&t, 0, works, &often);
  CHECK_INT(chi_cluster_run_idle(t.cluster, TOWN_LONG), CHI_OK);
  CHECK_INT(often.rc, CHI_OK);
  town_client(&t, 0, works, &once);
  CHECK_INT(town_pass(&t, TOWN_SECOND), CHI_OK);
  for (uint32_t i = 0; i < 20; i++) {
    uint64_t began = chi_cluster_now(t.cluster);
    find.task.query = (chi_query){.mode = CHI_QUERY_PHYSICAL, .a = 1};
    CHECK_INT(town_call(&t, i % 3, &chi_admin_find_pool_type, &find), CHI_OK);
    CHECK(chi_cluster_now(t.cluster) - began < town_within(100 * TOWN_MS));
    CHECK_INT(town_pass(&t, TOWN_SECOND / 4), CHI_OK);
  }
  CHECK_INT(chi_cluster_run_idle(t.cluster, TOWN_LONG), CHI_OK);
  CHECK_INT(once.rc, CHI_OK);
  if (town_is_simulated()) {
    CHECK(town_tells(&t, "another thread takes the network over"));
    CHECK(!town_tells(&t, "node 1 is dead") && !town_tells(&t, "node 1 is suspected"));
  }
  CHECK_STR(town_end(&t), "");
}

TEST(cluster_brief_method_that_stays_leaves_the_network_alone)
{
  TOWN_NEEDS_NET;
  each_seed(brief_method_stays);
}

/* ---- the executor goes --------------------------------------------------------------------- */

/* It had begun: nobody can say whether it ran to its end. */
static void executor_crashes(uint64_t seed)
{
  struct town t;
  struct caller caller = {.whom = 1, .ns = 100 * TOWN_SECOND, .calls = 1};
  CHECK_STR(town_seed(&t, seed, "nodes=3,heartbeat_interval=200ms,task_timeout=5s"), "");
  town_client(&t, 0, calls, &caller);
  CHECK_INT(chi_cluster_run_for(t.cluster, TOWN_SECOND), CHI_OK);
  town_fault(&t, seed % 2 ? CHI_FAULT_CRASH : CHI_FAULT_KILL, 1, 0, 0);
  CHECK_INT(chi_cluster_run_idle(t.cluster, 30 * TOWN_SECOND), CHI_OK);
  CHECK_INT(caller.rc, CHI_EUNKNOWN);
  CHECK_STR(town_end(&t), "");
}

TEST(cluster_crashed_executor_leaves_the_outcome_unknown)
{
  TOWN_NEEDS_NET;
  each_seed(executor_crashes);
}

/* It comes back at once, in another life, and knows nothing of the task. */
static void executor_returns(uint64_t seed)
{
  struct town t;
  struct caller caller = {.whom = 1, .ns = 100 * TOWN_SECOND, .calls = 1};
  CHECK_STR(town_seed(&t, seed, "nodes=3"), "");
  town_client(&t, 0, calls, &caller);
  CHECK_INT(chi_cluster_run_for(t.cluster, TOWN_SECOND), CHI_OK);
  town_fault(&t, CHI_FAULT_KILL, 1, 0, 0);
  town_fault(&t, CHI_FAULT_START, 1, 0, 0);
  CHECK_INT(chi_cluster_run_idle(t.cluster, 20 * TOWN_SECOND), CHI_OK);
  CHECK_INT(caller.rc, CHI_EUNKNOWN);
  CHECK_INT(town_find(&t, 0, CHI_QUERY_PHYSICAL, 1), 1); /* and it serves */
  CHECK_STR(town_end(&t), "");
}

TEST(cluster_restarted_executor_leaves_the_outcome_unknown)
{
  TOWN_NEEDS_NET;
  each_seed(executor_returns);
}

/* An idempotent one may be run again. */
static void executor_returns_for_idempotent(uint64_t seed)
{
  struct town t;
  CHECK_STR(town_seed(&t, seed, "nodes=2,wait_for_restart=10s"), "");
  town_fault(&t, CHI_FAULT_KILL, 1, 0, 0);
  town_fault(&t, CHI_FAULT_START, 1, 0, 0);
  struct town_again again = {.task = town_task(CHI_QUERY_PHYSICAL, 1, 0)};
  CHECK_INT(town_call(&t, 0, &town_again_type, &again), CHI_OK);
  CHECK_INT(again.node, 1);
  CHECK_STR(town_end(&t), "");
}

TEST(cluster_idempotent_task_survives_a_restart)
{
  TOWN_NEEDS_NET;
  each_seed(executor_returns_for_idempotent);
}

/* It was never there: certainly not run, once the patience for restarts is over, and not sooner. */
static void nobody_comes(uint64_t seed)
{
  struct town t;
  struct chi_admin_flush flush = {.task = {.pool = CHI_ADMIN_POOL}};
  uint64_t began, took;
  CHECK_STR(town_seed(&t, seed, "nodes=3,up=2,wait_for_restart=2s"), "");
  flush.task.query = (chi_query){.mode = CHI_QUERY_PHYSICAL, .a = 2};
  began = chi_cluster_now(t.cluster);
  CHECK_INT(town_call(&t, 0, &chi_admin_flush_type, &flush), CHI_EUNREACHABLE);
  took = chi_cluster_now(t.cluster) - began;
  CHECK(took >= 2 * TOWN_SECOND && took < town_within(5 * TOWN_SECOND));
  CHECK_STR(town_end(&t), "");
}

TEST(cluster_node_that_never_came_is_unreachable)
{
  TOWN_NEEDS_NET;
  each_seed(nobody_comes);
}

/* It comes while it is waited for. */
static void late_but_there(uint64_t seed)
{
  struct town t;
  struct chi_admin_find_pool find = {.task = {.pool = CHI_ADMIN_POOL}, .pool_name = "admin"};
  CHECK_STR(town_seed(&t, seed, "nodes=3,up=2,wait_for_restart=20s"), "");
  CHECK_INT(chi_cluster_plan(t.cluster, "8 start 2\n", &t.error), CHI_OK);
  find.task.query = (chi_query){.mode = CHI_QUERY_PHYSICAL, .a = 2};
  CHECK_INT(town_call(&t, 0, &chi_admin_find_pool_type, &find), CHI_OK);
  CHECK(chi_cluster_now(t.cluster) >= 9 * TOWN_SECOND);
  CHECK_STR(town_end(&t), "");
}

TEST(cluster_node_that_comes_late_is_waited_for)
{
  TOWN_NEEDS_NET;
  each_seed(late_but_there);
}

/* Regression 3: a replica that cannot be sent is a code, and the others' answers are there. */
static void one_is_missing(uint64_t seed)
{
  struct town t;
  struct town_sum sum = {.task = town_task(CHI_QUERY_BROADCAST, 0, 0)};
  int rc;
  CHECK_STR(town_seed(&t, seed, "nodes=4,neighborhood_size=8,wait_for_restart=1s"), "");
  town_fault(&t, CHI_FAULT_CRASH, 3, 0, 0);
  rc = town_call(&t, 0, &town_sum_type, &sum);
  CHECK(rc == CHI_EUNREACHABLE || rc == CHI_EUNKNOWN);
  CHECK_INT(sum.sum, 1 + 2 + 3);
  CHECK_INT(sum.answers, 3);
  CHECK_STR(town_end(&t), "");
}

TEST(cluster_broadcast_with_a_node_down_completes)
{
  TOWN_NEEDS_NET;
  each_seed(one_is_missing);
}

/* A lost branch of a tree: its containers fail, none runs twice, the rest answers. */
static void branch_is_missing(uint64_t seed)
{
  struct town t;
  struct town_sum sum = {.task = town_task(CHI_QUERY_BROADCAST, 0, 0), .ns = TOWN_SECOND};
  uint32_t victim = 1 + (uint32_t)(seed % 6);
  CHECK_STR(town_seed(&t, seed,
                      "nodes=7,neighborhood_size=2,wait_for_restart=1s,"
                      "heartbeat_interval=200ms,task_timeout=5s"),
            "");
  town_fault(&t, CHI_FAULT_CRASH, victim, 0, 0);
  CHECK(town_call(&t, 0, &town_sum_type, &sum) < 0);
  CHECK(sum.answers >= 1 && sum.answers < 7);
  CHECK_STR(town_end(&t), "");
}

TEST(cluster_broadcast_with_a_lost_branch_completes)
{
  TOWN_NEEDS_NET;
  each_seed(branch_is_missing);
}

/* The node of the client itself: regression 14, nobody waits for minutes. */
static void own_node_dies(uint64_t seed)
{
  struct town t;
  struct caller caller = {.whom = 1, .ns = 100 * TOWN_SECOND, .calls = 1};
  CHECK_STR(town_seed(&t, seed, "nodes=2"), "");
  town_client(&t, 0, calls, &caller);
  CHECK_INT(chi_cluster_run_for(t.cluster, TOWN_SECOND), CHI_OK);
  town_fault(&t, CHI_FAULT_KILL, 0, 0, 0);
  CHECK_INT(chi_cluster_run_idle(t.cluster, town_within(TOWN_SECOND)), CHI_OK);
  CHECK_INT(caller.rc, CHI_ESHUTDOWN);
  CHECK_STR(town_end(&t), ""); /* and node 1 does not keep its task */
}

TEST(cluster_killed_daemon_ends_its_clients_waits)
{
  TOWN_NEEDS_NET;
  each_seed(own_node_dies);
}

/* ---- connections --------------------------------------------------------------------------- */

/* Whatever breaks, each call completes, and what succeeded ran once: the count says so. A real
 * connection that is half open takes seconds. */
static void breaks(uint64_t seed)
{
  static const int kinds[] = {CHI_FAULT_DROP, CHI_FAULT_HALF, CHI_FAULT_SNAP, CHI_FAULT_LOSE};
  uint64_t most = town_is_simulated() ? 40 : 8;
  struct town t;
  struct town_where where = {.task = town_task(CHI_QUERY_PHYSICAL, 1, 0)};
  CHECK_STR(town_seed(&t, seed, "nodes=2,heartbeat_interval=5s"), "");
  for (uint64_t i = 1; i <= most; i++) {
    uint32_t from = (uint32_t)(i / 4 % 2);
    town_fault(&t, kinds[i % 4], from, 1 - from, i % 4 < 2 ? 0 : (int64_t)(i % 3));
    CHECK_INT(town_call(&t, 0, &town_where_type, &where), CHI_OK);
    CHECK_INT(where.runs, i);
  }
  CHECK_STR(town_end(&t), "");
}

TEST(cluster_broken_connections_run_nothing_twice)
{
  TOWN_NEEDS_NET;
  each_seed(breaks);
}

/* Requests arrive and answers don't, or the other way round. */
static void one_way(uint64_t seed)
{
  struct town t;
  struct caller caller = {.whom = 1, .ns = 0, .calls = 1};
  uint32_t from = (uint32_t)(seed % 2);
  CHECK_STR(town_seed(&t, seed, "nodes=3,task_timeout=3s,wait_for_restart=3s"), "");
  town_fault(&t, CHI_FAULT_CUT, from, 1 - from, 0);
  town_client(&t, 0, calls, &caller);
  CHECK_INT(chi_cluster_run_idle(t.cluster, 60 * TOWN_SECOND), CHI_OK);
  CHECK(caller.rc == CHI_EUNKNOWN || caller.rc == CHI_EUNREACHABLE);
  town_fault(&t, CHI_FAULT_HEAL, 0, 0, 0);
  CHECK_INT(chi_cluster_run_for(t.cluster, 5 * TOWN_SECOND), CHI_OK);
  CHECK_INT(town_find(&t, 0, CHI_QUERY_PHYSICAL, 1), 1);
  CHECK_STR(town_end(&t), "");
}

TEST(cluster_cut_one_way_ends_and_heals)
{
  TOWN_NEEDS_NET;
  each_seed(one_way);
}

/* Who runs long but answers when asked is waited for, far beyond the timeout. */
static void slow_but_alive(uint64_t seed)
{
  struct town t;
  struct caller caller = {.whom = 1, .ns = 20 * TOWN_SECOND, .calls = 1};
  CHECK_STR(town_seed(&t, seed, "nodes=2,task_timeout=2s"), "");
  town_client(&t, 0, calls, &caller);
  CHECK_INT(chi_cluster_run_idle(t.cluster, 60 * TOWN_SECOND), CHI_OK);
  CHECK_INT(caller.rc, CHI_OK);
  CHECK(caller.took >= 20 * TOWN_SECOND);
  CHECK_STR(town_end(&t), "");
}

TEST(cluster_long_task_is_not_given_up)
{
  TOWN_NEEDS_NET;
  each_seed(slow_but_alive);
}

/* ---- a node that stands still -------------------------------------------------------------- */

static void pauses(uint64_t seed)
{
  struct town t;
  struct caller caller = {.whom = 1, .ns = 10 * TOWN_MS, .calls = 1};
  CHECK_STR(town_seed(&t, seed, "nodes=2,heartbeat_interval=5s"), "");
  town_fault(&t, CHI_FAULT_PAUSE, 1, 0, 0);
  town_client(&t, 0, calls, &caller);
  CHECK_INT(chi_cluster_run_idle(t.cluster, 2 * TOWN_SECOND), CHI_ETIMEOUT);
  town_fault(&t, CHI_FAULT_RESUME, 1, 0, 0);
  CHECK_INT(chi_cluster_run_idle(t.cluster, town_within(10 * TOWN_SECOND)), CHI_OK);
  CHECK_INT(caller.rc, CHI_OK);
  CHECK_STR(town_end(&t), "");
}

TEST(cluster_paused_node_goes_on_where_it_was)
{
  TOWN_NEEDS_NET;
  each_seed(pauses);
}

/* Regression 10: a node that is taken for dead because it was busy is there again afterwards. */
static void overload(uint64_t seed)
{
  struct town t;
  CHECK_STR(town_seed(&t, seed, "nodes=3,heartbeat_interval=100ms"), "");
  town_fault(&t, CHI_FAULT_PAUSE, 2, 0, 0);
  CHECK_INT(town_pass(&t, 30 * TOWN_SECOND), CHI_OK);
  town_fault(&t, CHI_FAULT_RESUME, 2, 0, 0);
  CHECK_INT(town_pass(&t, 30 * TOWN_SECOND), CHI_OK);
  CHECK_INT(town_find(&t, 0, CHI_QUERY_PHYSICAL, 2), 2);
  CHECK_INT(town_find(&t, 2, CHI_QUERY_PHYSICAL, 1), 1);
  CHECK_STR(town_end(&t), "");
}

TEST(cluster_node_declared_dead_by_load_returns)
{
  TOWN_NEEDS_NET;
  each_seed(overload);
}

/* A module hears who is lost and found. */
static void news(uint64_t seed)
{
  struct town t;
  struct town_news heard = {.task = town_task(CHI_QUERY_LOCAL, 0, 0)};
  CHECK_STR(town_seed(&t, seed, "nodes=3,heartbeat_interval=200ms"), "");
  CHECK_INT(town_call(&t, 0, &town_news_type, &heard), CHI_OK);
  CHECK(heard.lost == 0);
  town_fault(&t, CHI_FAULT_CRASH, 2, 0, 0);
  CHECK_INT(town_pass(&t, 30 * TOWN_SECOND), CHI_OK);
  for (uint32_t node = 0; node < 2; node++) {
    CHECK_INT(town_call(&t, node, &town_news_type, &heard), CHI_OK);
    /* A busy machine makes nodes look lost that are not. */
    CHECK(heard.lost == 1 || (heard.lost > 1 && !town_is_simulated()));
    CHECK(heard.last_lost == 2 || heard.lost > 1);
  }
  uint64_t found = heard.found;
  town_fault(&t, CHI_FAULT_START, 2, 0, 0);
  CHECK_INT(town_pass(&t, 30 * TOWN_SECOND), CHI_OK);
  CHECK_INT(town_call(&t, 1, &town_news_type, &heard), CHI_OK);
  CHECK(heard.found == found + 1 || (heard.found > found && !town_is_simulated()));
  CHECK(heard.last_found == 2 || !town_is_simulated());
  CHECK_STR(town_end(&t), "");
}

TEST(cluster_modules_hear_of_failure_and_recovery)
{
  TOWN_NEEDS_NET;
  each_seed(news);
}

/* ---- stopping ------------------------------------------------------------------------------ */

/* Whether each of the callers has had a success. */
static int all_are_at_work(chi_cluster *cluster, void *arg)
{
  const struct caller *caller = arg;
  (void)cluster;
  for (uint32_t i = 0; i < 4; i++)
    if (*(const volatile uint64_t *)&caller[i].code[0] == 0)
      return 0;
  return 1;
}

/* Stopped under load: every call completes with a code, and the node gives back all it had. */
static void stops(uint64_t seed)
{
  struct town t;
  struct caller caller[4];
  CHECK_STR(town_seed(&t, seed, "nodes=3,wait_for_restart=1s"), "");
  for (uint32_t i = 0; i < 4; i++) {
    caller[i] = (struct caller){.whom = 1, .ns = (i + 1) * 10 * TOWN_MS, .calls = 20};
    town_client(&t, i % 2 ? 2 : 0, calls, &caller[i]);
  }
  if (town_is_simulated())
    CHECK_INT(chi_cluster_run_for(t.cluster, 100 * TOWN_MS), CHI_OK);
  else
    CHECK_INT(chi_cluster_run_until(t.cluster, all_are_at_work, caller, TOWN_LONG), CHI_OK);
  CHECK_INT(chi_cluster_stop(t.cluster, 1, 500), CHI_OK);
  CHECK_INT(chi_cluster_run_idle(t.cluster, TOWN_LONG), CHI_OK);
  for (uint32_t i = 0; i < 4; i++) {
    uint64_t sum = 0;
    for (uint32_t code = 0; code < 64; code++)
      sum += caller[i].code[code];
    CHECK_INT(sum, 20);
    CHECK(caller[i].code[0] > 0 && (caller[i].code[0] < 20 || !town_is_simulated()));
  }
  CHECK_STR(town_end(&t), "");
}

TEST(cluster_node_stops_under_load)
{
  TOWN_NEEDS_NET;
  each_seed(stops);
}
