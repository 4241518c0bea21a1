/* test_cluster_pools.c - pools over several nodes: created, found, destroyed, in conflict, moved.
 */
#include "town.h"

#define SEEDS 4
#define OTHER ((chi_pool_id){701, 0})

static void each_seed(void (*story)(uint64_t seed))
{
  for (uint64_t seed = 1; seed <= town_seeds(SEEDS); seed++)
    story(seed);
}

static int create(struct town *t, uint32_t node, const char *module, const char *name,
                  chi_pool_id *id)
{
  return town_possible(
      chi_cluster_pool_create(t->cluster, node, module, name, NULL, 0, id, &t->error));
}

/* The id by which a node knows the name: major, or a code. */
static int known_as(struct town *t, uint32_t node, const char *name)
{
  struct chi_admin_find_pool find = {.task = {.pool = CHI_ADMIN_POOL}};
  snprintf(find.pool_name, sizeof(find.pool_name), "%s", name);
  int rc = town_call(t, node, &chi_admin_find_pool_type, &find);
  return rc ? rc : (int)find.pool_id.major;
}

static int where_is(struct town *t, uint32_t from, chi_pool_id pool, uint32_t container)
{
  struct town_where w = {.task = {.pool = pool}};
  w.task.query = (chi_query){.mode = CHI_QUERY_ID, .a = container};
  int rc = town_call(t, from, &town_where_type, &w);
  return rc ? rc : (int)w.node;
}

/* ---- one pool, many nodes ------------------------------------------------------------------ */

static void created_once(uint64_t seed)
{
  struct town t;
  chi_pool_id id = OTHER, again = {0, 0};
  CHECK_STR(town_seed(&t, seed, "nodes=3"), "");
  CHECK_INT(create(&t, 1, "town", "other", &id), CHI_OK);
  for (uint32_t node = 0; node < 3; node++) {
    CHECK_INT(known_as(&t, node, "other"), 701);
    for (uint32_t i = 0; i < 3; i++)
      CHECK_INT(where_is(&t, node, OTHER, i), i);
  }
  again = OTHER;
  CHECK_INT(create(&t, 2, "town", "other", &again), CHI_OK); /* found, not made again */
  CHECK_INT(again.major, 701);
  again = OTHER;
  CHECK_INT(create(&t, 2, "village", "other", &again), CHI_ECONFLICT);
  CHECK_STR(town_end(&t), "");
}

TEST(cluster_pool_created_on_one_node_is_usable_from_all)
{
  TOWN_NEEDS_NET;
  each_seed(created_once);
}

/* Regression 5: several nodes create the same pool in the same moment. */
struct creator {
  uint32_t major;
  int rc;
};

static void creates(chi_cluster *cluster, chi_client *client, void *arg)
{
  struct creator *c = arg;
  chi_pool_id id = OTHER;
  chi_queue *queue;
  chi_error err;
  (void)cluster;
  CHECK_INT(chi_queue_open(client, &queue, NULL), CHI_OK);
  c->rc = chi_pool_create(queue, "town", "same", NULL, 0, &id, &err);
  c->major = id.major;
  if (c->rc == CHI_OK) {
    struct town_sum *sum = CHI_NEW(queue, town_sum);
    CHECK(sum);
    sum->task.pool = id;
    sum->task.query.mode = CHI_QUERY_BROADCAST;
    CHECK_INT(chi_run(queue, sum), CHI_OK);
    CHECK_INT(sum->sum, 6);
    CHECK_INT(chi_task_free(queue, sum), CHI_OK);
  }
  chi_queue_close(queue);
}

static void created_by_all(uint64_t seed)
{
  struct town t;
  struct creator creators[6];
  CHECK_STR(town_seed(&t, seed, "nodes=3"), "");
  memset(creators, 0, sizeof(creators));
  for (uint32_t i = 0; i < 6; i++)
    town_client(&t, i % 3, creates, &creators[i]);
  CHECK_INT(chi_cluster_run_idle(t.cluster, TOWN_LONG), CHI_OK);
  for (uint32_t i = 0; i < 6; i++) {
    CHECK_INT(creators[i].rc, CHI_OK);
    CHECK_INT(creators[i].major, 701);
  }
  CHECK_STR(town_end(&t), "");
}

TEST(cluster_pool_created_by_all_at_once_is_one)
{
  TOWN_NEEDS_NET;
  each_seed(created_by_all);
}

static void joins_late(uint64_t seed)
{
  struct town t;
  CHECK_STR(town_seed(&t, seed, "nodes=3,up=2,wait_for_restart=1s,heartbeat_interval=200ms"), "");
  town_fault(&t, CHI_FAULT_START, 2, 0, 0);
  CHECK_INT(chi_cluster_run_for(t.cluster, 10 * TOWN_SECOND), CHI_OK);
  CHECK_INT(known_as(&t, 2, "town"), 700);
  for (uint32_t from = 0; from < 3; from++)
    CHECK_INT(where_is(&t, from, TOWN_POOL, 2), 2);
  CHECK_STR(town_end(&t), "");
}

TEST(cluster_late_joiner_builds_its_containers)
{
  TOWN_NEEDS_NET;
  each_seed(joins_late);
}

static void comes_back(uint64_t seed)
{
  struct town t;
  struct town_where w = {.task = town_task(CHI_QUERY_PHYSICAL, 1, 0)};
  CHECK_STR(town_seed(&t, seed, "nodes=3,heartbeat_interval=200ms"), "");
  CHECK_INT(town_call(&t, 0, &town_where_type, &w), CHI_OK);
  town_fault(&t, CHI_FAULT_CRASH, 1, 0, 0);
  CHECK_INT(chi_cluster_run_for(t.cluster, TOWN_SECOND), CHI_OK);
  town_fault(&t, CHI_FAULT_START, 1, 0, 0);
  CHECK_INT(town_call(&t, 0, &town_where_type, &w), CHI_OK);
  CHECK_INT(w.runs, 1); /* a new container: what it had in memory is gone */
  CHECK_STR(town_end(&t), "");
}

TEST(cluster_restarted_node_has_its_pools_again)
{
  TOWN_NEEDS_NET;
  each_seed(comes_back);
}

/* ---- destroyed ----------------------------------------------------------------------------- */

/* Regression 11, and no way back for a pool that one node has slept through. */
static void destroyed(uint64_t seed)
{
  static const int away[] = {CHI_FAULT_ISOLATE, CHI_FAULT_CRASH, CHI_FAULT_PAUSE, CHI_FAULT_KILL};
  static const int back[] = {CHI_FAULT_REJOIN, CHI_FAULT_START, CHI_FAULT_RESUME, CHI_FAULT_START};
  struct town t;
  uint32_t victim = (uint32_t)(seed / 4 % 2) + 1;
  CHECK_STR(town_seed(&t, seed,
                      "nodes=3,heartbeat_interval=200ms,wait_for_restart=1s,"
                      "task_timeout=3s"),
            "");
  town_fault(&t, away[seed % 4], victim, 0, 0);
  chi_cluster_pool_destroy(t.cluster, 0, TOWN_POOL, &t.error); /* whoever cannot be told */
  town_fault(&t, back[seed % 4], victim, 0, 0);
  CHECK_INT(chi_cluster_settle(t.cluster, 60 * TOWN_SECOND), CHI_OK);
  for (uint32_t node = 0; node < 3; node++) {
    CHECK_INT(known_as(&t, node, "town"), CHI_ENOENT);
    CHECK_INT(where_is(&t, node, TOWN_POOL, node), CHI_ENOENT);
  }
  chi_pool_id id = TOWN_POOL;
  CHECK_INT(create(&t, victim, "town", "town", &id), CHI_OK); /* the name is free again */
  CHECK_INT(chi_cluster_settle(t.cluster, 60 * TOWN_SECOND), CHI_OK);
  CHECK_INT(where_is(&t, 0, TOWN_POOL, 2), 2);
  CHECK_STR(town_end(&t), "");
}

TEST(cluster_destroyed_pool_stays_destroyed)
{
  TOWN_NEEDS_NET;
  each_seed(destroyed);
}

/* ---- in conflict --------------------------------------------------------------------------- */

/* Both sides of a partition give the same name to different pools: one wins, everywhere. */
static void conflict(uint64_t seed)
{
  struct town t;
  chi_pool_id left = {801, 0}, right = {802, 0};
  int known;
  CHECK_STR(town_seed(&t, seed,
                      "nodes=4,heartbeat_interval=200ms,wait_for_restart=1s,"
                      "task_timeout=3s"),
            "");
  town_fault(&t, CHI_FAULT_PARTITION, 0, 1, 0);
  create(&t, 0, "town", "contested", &left);
  create(&t, 2, "village", "contested", &right);
  CHECK_INT(known_as(&t, 1, "contested"), 801);
  CHECK_INT(known_as(&t, 3, "contested"), 802);
  CHECK_INT(chi_cluster_settle(t.cluster, 60 * TOWN_SECOND), CHI_OK);
  known = known_as(&t, 0, "contested");
  CHECK(known == 801 || known == 802);
  for (uint32_t node = 0; node < 4; node++) {
    CHECK_INT(known_as(&t, node, "contested"), known);
    CHECK_INT(where_is(&t, node, (chi_pool_id){(uint32_t)known, 0}, 3 - node), 3 - node);
    CHECK(where_is(&t, node, (chi_pool_id){1603 - (uint32_t)known, 0}, node) < 0);
  }
  CHECK_STR(town_end(&t), "");
}

TEST(cluster_name_given_twice_has_one_winner)
{
  TOWN_NEEDS_NET;
  each_seed(conflict);
}

/* Each makes it under an id of its own. */
struct rival {
  uint64_t after;
  chi_pool_id id;
  int rc;
};

static void contends(chi_cluster *cluster, chi_client *client, void *arg)
{
  struct rival *rival = arg;
  chi_queue *queue;
  CHECK_INT(chi_queue_open(client, &queue, NULL), CHI_OK);
  chi_cluster_sleep(cluster, rival->after);
  rival->rc = chi_pool_create(queue, "town", "prize", NULL, 0, &rival->id, NULL);
  chi_queue_close(queue);
}

/* However close they are to each other: one stays, and whoever was told so has it. */
static void rivals(uint64_t seed)
{
  struct town t;
  struct rival a = {.after = TOWN_MS, .id = {801, 0}}, b = {.id = {802, 0}};
  b.after = TOWN_MS - 50000 + seed * 5000;
  CHECK_STR(town_seed(&t, seed, "nodes=2"), "");
  chi_cluster_client(t.cluster, 0, contends, &a);
  chi_cluster_client(t.cluster, 1, contends, &b);
  CHECK_INT(chi_cluster_settle(t.cluster, 60 * TOWN_SECOND), CHI_OK);
  int known = known_as(&t, 0, "prize");
  CHECK(known == 801 || known == 802);
  CHECK_INT(known_as(&t, 1, "prize"), known);
  CHECK(a.rc == CHI_OK || b.rc == CHI_OK);
  CHECK(a.rc != CHI_OK || (int)a.id.major == known);
  CHECK(b.rc != CHI_OK || (int)b.id.major == known);
  CHECK_STR(town_end(&t), "");
}

TEST(cluster_pools_made_at_once_under_one_name_are_one)
{
  TOWN_NEEDS_NET;
  for (uint64_t seed = 1; seed <= 24; seed++)
    rivals(seed);
}

/* ---- moved --------------------------------------------------------------------------------- */

static void moves(uint64_t seed)
{
  struct town t;
  struct town_where w = {.task = town_task(CHI_QUERY_ID, 0, 0)};
  struct chi_admin_migrate move = {.task = {.pool = CHI_ADMIN_POOL}, .pool_id = TOWN_POOL};
  CHECK_STR(town_seed(&t, seed, "nodes=3"), "");
  for (uint64_t i = 1; i <= 5; i++)
    CHECK_INT(town_call(&t, 1, &town_where_type, &w), CHI_OK);
  move.container = 0;
  move.node = 2;
  CHECK_INT(town_call(&t, 0, &chi_admin_migrate_type, &move), CHI_OK);
  for (uint32_t from = 0; from < 3; from++) {
    CHECK_INT(town_call(&t, from, &town_where_type, &w), CHI_OK);
    CHECK_INT(w.node, 2);
    CHECK_INT(w.container, 0);
    CHECK_INT(w.runs, 6 + from); /* its state has come along */
  }
  CHECK_STR(town_end(&t), "");
}

TEST(cluster_container_moves_with_its_state)
{
  TOWN_NEEDS_NET;
  each_seed(moves);
}

/* Moves container 0 to node 0 whenever it is here; *arg: how often that was CHI_OK. */
static void sends_back(chi_cluster *cluster, chi_client *client, void *arg)
{
  chi_queue *queue = NULL;
  struct chi_admin_migrate *move;
  if (chi_queue_open(client, &queue, NULL) != CHI_OK)
    return;
  move = CHI_NEW(queue, chi_admin_migrate);
  for (int i = 0; move && i < 40; i++) {
    move->task.pool = CHI_ADMIN_POOL;
    move->pool_id = TOWN_POOL;
    move->node = 0;
    *(int *)arg += chi_run(queue, move) == CHI_OK;
    chi_cluster_sleep(cluster, 50000);
  }
  chi_queue_close(queue);
}

static void moves_back_at_once(uint64_t seed)
{
  struct town t;
  int back = 0;
  struct town_where w = {.task = town_task(CHI_QUERY_ID, 0, 0)};
  struct chi_admin_migrate move = {.task = {.pool = CHI_ADMIN_POOL}, .pool_id = TOWN_POOL};
  CHECK_STR(town_seed(&t, seed, "nodes=2"), "");
  CHECK_INT(town_call(&t, 1, &town_where_type, &w), CHI_OK);
  CHECK(town_client(&t, 1, sends_back, &back) > 0);
  move.node = 1;
  CHECK_INT(town_call(&t, 0, &chi_admin_migrate_type, &move), CHI_OK);
  CHECK_INT(chi_cluster_run_idle(t.cluster, TOWN_LONG), CHI_OK);
  CHECK(back > 0);
  CHECK_INT(town_call(&t, 1, &town_where_type, &w), CHI_OK);
  CHECK_INT(w.node, 0);
  CHECK_INT(w.runs, 2);
  CHECK_STR(town_end(&t), "");
}

/* Regression: the source learned late that its container had arrived, and dropped the one that was
 * back already. */
TEST(cluster_container_moves_there_and_back)
{
  TOWN_NEEDS_NET;
  each_seed(moves_back_at_once);
}
