/* test_cluster_faults.c - what goes wrong inside a node, and with what it sends. */
#include "town.h"

#define DEVICE ((chi_pool_id){900, 0})
#define QUICK "heartbeat_interval=200ms,task_timeout=2s,wait_for_restart=1s"

static int where_is(struct town *t, uint32_t from, uint32_t whom)
{
  return town_find(t, from, CHI_QUERY_PHYSICAL, whom);
}

/* ---- messages ------------------------------------------------------------------------------ */

TEST(cluster_full_queue_lets_nothing_through_until_it_has_room)
{
  struct town t;
  CHECK_STR(town_begin(&t, "sim:nodes=2,seed=3," QUICK), "");
  town_fault(&t, CHI_FAULT_FULL, 0, 1, 1);
  CHECK(where_is(&t, 0, 1) < 0);
  town_fault(&t, CHI_FAULT_FULL, 0, 1, 0);
  CHECK_INT(chi_cluster_settle(t.cluster, 60 * TOWN_SECOND), CHI_OK);
  CHECK_INT(where_is(&t, 0, 1), 1);
  town_fault(&t, CHI_FAULT_FULL, 0, 1, 1);
  CHECK(where_is(&t, 0, 1) < 0);
  town_fault(&t, CHI_FAULT_HEAL, 0, 0, 0);
  CHECK_INT(chi_cluster_settle(t.cluster, 60 * TOWN_SECOND), CHI_OK);
  CHECK_INT(where_is(&t, 0, 1), 1);
  CHECK_INT(chi_cluster_fault_count(t.cluster, CHI_FAULT_FULL), 3);
  CHECK_STR(town_end(&t), "");
}

/* Bulk, too, is sent again, and nobody keeps its memory. */
static void sends_bulk(chi_cluster *cluster, chi_client *client, void *arg)
{
  struct town *t = arg;
  chi_queue *queue;
  (void)cluster;
  CHECK_INT(chi_queue_open(client, &queue, NULL), CHI_OK);
  for (uint32_t i = 0; i < 6; i++) {
    struct town_bulk *b = CHI_NEW(queue, town_bulk);
    CHECK(b);
    b->task.pool = TOWN_POOL;
    b->task.query = (chi_query){.mode = CHI_QUERY_PHYSICAL, .a = 1};
    CHECK_INT(chi_bulk_alloc(queue, 100000, &b->from), CHI_OK);
    CHECK_INT(chi_bulk_alloc(queue, 100000, &b->to), CHI_OK);
    memset(b->from.data, (int)i, 100000);
    town_fault(t, i % 2 ? CHI_FAULT_SNAP : CHI_FAULT_LOSE, i % 3 > 0, i % 3 == 0, 1);
    CHECK_INT(chi_run(queue, b), CHI_OK);
    CHECK_INT(((uint8_t *)b->to.data)[99999], i + 1);
    CHECK_INT(chi_bulk_free(queue, &b->from), CHI_OK);
    CHECK_INT(chi_bulk_free(queue, &b->to), CHI_OK);
    CHECK_INT(chi_task_free(queue, b), CHI_OK);
  }
  chi_queue_close(queue);
  t->told++;
}

TEST(cluster_lost_bulk_is_sent_again)
{
  struct town t;
  CHECK_STR(town_begin(&t, "sim:nodes=2,seed=4"), "");
  town_client(&t, 0, sends_bulk, &t);
  CHECK_INT(chi_cluster_run_idle(t.cluster, TOWN_LONG), CHI_OK);
  CHECK_INT(t.told, 1);
  CHECK_STR(town_end(&t), "");
}

/* ---- clocks -------------------------------------------------------------------------------- */

static int sleep_on(struct town *t, uint32_t node, uint64_t ns, uint64_t *took)
{
  struct town_sleep s = {.task = town_task(CHI_QUERY_PHYSICAL, node, 0), .ns = ns};
  uint64_t began = chi_cluster_now(t->cluster);
  int rc = town_call(t, node, &town_sleep_type, &s);
  *took = chi_cluster_now(t->cluster) - began;
  return rc;
}

/* A clock that is a tenth too slow or too fast. */
TEST(cluster_clock_of_a_node_drifts)
{
  struct town t;
  uint64_t slow, fast, right;
  CHECK_STR(town_begin(&t, "sim:nodes=2,seed=5"), "");
  town_fault(&t, CHI_FAULT_DRIFT, 1, 0, -100000);
  CHECK_INT(sleep_on(&t, 1, 2 * TOWN_SECOND, &slow), CHI_OK);
  town_fault(&t, CHI_FAULT_DRIFT, 1, 0, 100000);
  CHECK_INT(sleep_on(&t, 1, 2 * TOWN_SECOND, &fast), CHI_OK);
  CHECK_INT(sleep_on(&t, 0, 2 * TOWN_SECOND, &right), CHI_OK);
  CHECK(slow >= 2222 * TOWN_MS && right >= 2000 * TOWN_MS && fast >= 1818 * TOWN_MS);
  if (town_is_simulated())
    CHECK(slow < 2230 * TOWN_MS && right < 2010 * TOWN_MS && fast < 1825 * TOWN_MS);
  CHECK_STR(town_end(&t), "");
}

static void sleeps_long(chi_cluster *cluster, chi_client *client, void *arg)
{
  struct town *t = arg;
  chi_queue *queue;
  (void)cluster;
  CHECK_INT(chi_queue_open(client, &queue, NULL), CHI_OK);
  struct town_sleep *s = CHI_NEW(queue, town_sleep);
  CHECK(s);
  s->task.pool = TOWN_POOL;
  s->ns = 1800 * TOWN_SECOND;
  t->told++;
  CHECK_INT(chi_run(queue, s), CHI_OK);
  chi_queue_close(queue);
  t->told++;
}

static int has_told(chi_cluster *cluster, void *arg)
{
  const struct town *t = arg;
  (void)cluster;
  return t->told == 1;
}

/* Half an hour is over at once; whoever sleeps looks at the clock when something happens. */
TEST(cluster_clock_of_a_node_jumps)
{
  struct town t;
  CHECK_STR(town_begin(&t, "sim:nodes=2,seed=6"), "");
  town_client(&t, 1, sleeps_long, &t);
  CHECK_INT(chi_cluster_run_until(t.cluster, has_told, &t, TOWN_LONG), CHI_OK);
  CHECK_INT(chi_cluster_run_for(t.cluster, 200 * TOWN_MS), CHI_OK);
  town_fault(&t, CHI_FAULT_JUMP, 1, 0, (int64_t)(1800 * TOWN_SECOND));
  for (int i = 0; i < 50 && t.told < 2; i++) {
    CHECK_INT(where_is(&t, 1, 1), 1);
    CHECK_INT(chi_cluster_run_for(t.cluster, 20 * TOWN_MS), CHI_OK);
  }
  CHECK_INT(t.told, 2);
  town_fault(&t, CHI_FAULT_JUMP, 1, 0, -(int64_t)(1800 * TOWN_SECOND)); /* only the time of day */
  CHECK_INT(where_is(&t, 1, 1), 1);
  CHECK_STR(town_end(&t), "");
}

/* ---- files --------------------------------------------------------------------------------- */

static int sync_device(struct town *t)
{
  struct chi_bdev_sync s = {.task = {.pool = DEVICE, .query = {.mode = CHI_QUERY_LOCAL}}};
  return town_call(t, 0, &chi_bdev_sync_type, &s);
}

TEST(cluster_operation_on_a_file_fails)
{
  static char capacity[] = "256K", file[] = "file";
  static char keys[2][16] = {"capacity", "bdev_type"};
  const chi_param params[] = {{keys[0], capacity, 0, 0}, {keys[1], file, 0, 0}};
  chi_pool_id id = DEVICE;
  struct town t;
  CHECK_STR(town_begin(&t, "sim:nodes=2,seed=7"), "");
  town_needs_faults();
  CHECK_INT(chi_cluster_pool_create(t.cluster, 0, "bdev", "device", params, 2, &id, &t.error),
            CHI_OK);
  CHECK_INT(sync_device(&t), CHI_OK);
  town_fault(&t, CHI_FAULT_DISK, 1, CHI_FAULT_SYNC, 0); /* another node's */
  CHECK_INT(sync_device(&t), CHI_OK);
  town_fault(&t, CHI_FAULT_DISK, 0, CHI_FAULT_SYNC, 0);
  CHECK_INT(sync_device(&t), CHI_EIO);
  CHECK_INT(chi_cluster_fault_count(t.cluster, CHI_FAULT_DISK), 2);
  CHECK_INT(chi_cluster_pool_destroy(t.cluster, 0, id, &t.error), CHI_OK);
  CHECK_STR(town_end(&t), "");
}

/* ---- memory -------------------------------------------------------------------------------- */

TEST(cluster_want_of_memory_is_told_and_passes)
{
  struct town t;
  uint32_t wanting = 0;
  CHECK_STR(town_begin(&t, "sim:nodes=2,seed=8," QUICK), "");
  town_fault(&t, CHI_FAULT_MEMORY, 0, 0, 300000);
  for (uint32_t i = 0; i < 40; i++) {
    struct town_where where = {.task = town_task(CHI_QUERY_PHYSICAL, i % 2, 0)};
    wanting += town_call(&t, 0, &town_where_type, &where) != CHI_OK;
  }
  CHECK(wanting > 0);
  town_fault(&t, CHI_FAULT_MEMORY, 0, 0, 0);
  CHECK_INT(chi_cluster_settle(t.cluster, 60 * TOWN_SECOND), CHI_OK);
  CHECK_INT(where_is(&t, 0, 0), 0);
  CHECK_INT(where_is(&t, 0, 1), 1);
  CHECK_STR(town_end(&t), "");
}
