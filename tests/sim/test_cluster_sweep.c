/* test_cluster_sweep.c - clusters on which everything goes wrong at random, and their hashes. */
#include "bdev_shadow.h"
#include "town.h"

#define SEEDS 12

/* ---- clients that never give up ------------------------------------------------------------ */

struct crowd {
  struct town *town;
  uint32_t calls; /* of each client */
  uint64_t ended, failed;
};

/* Calls anybody; reconnects when its own node is gone. */
static void wanders(chi_cluster *cluster, chi_client *client, void *arg)
{
  struct crowd *crowd = arg;
  chi_queue *queue = NULL;
  for (uint32_t i = 0; i < crowd->calls; i++) {
    struct town_sum *sum;
    int rc = queue ? CHI_OK : chi_queue_open(client, &queue, NULL);
    sum = rc == CHI_OK ? CHI_NEW(queue, town_sum) : NULL;
    if (sum) {
      sum->task.pool = TOWN_POOL;
      sum->task.query = (chi_query){.mode = i % 3 ? CHI_QUERY_HASH : CHI_QUERY_BROADCAST, .a = i};
      sum->ns = i % 5 * TOWN_MS;
      rc = chi_run(queue, sum);
      chi_always(cluster, "an answer is whole", rc != CHI_OK || sum->answers == (i % 3 ? 1 : 3));
      chi_task_free(queue, sum);
    }
    crowd->ended++;
    crowd->failed += !sum || rc != CHI_OK;
    if (!sum || rc == CHI_ESHUTDOWN)
      chi_client_reconnect(client, TOWN_SECOND, NULL);
    chi_cluster_sleep(cluster, 20 * TOWN_MS);
  }
  chi_queue_close(queue);
}

static uint64_t storm(uint64_t seed, const char *faults)
{
  struct town t;
  struct crowd crowd = {.town = &t, .calls = 60};
  const char *wrong = town_seed(&t, seed,
                                "nodes=3,heartbeat_interval=200ms,task_timeout=2s,"
                                "wait_for_restart=1s,neighborhood_size=2");
  if (!wrong[0] && chi_cluster_faults(t.cluster, faults, &t.error) != CHI_OK)
    wrong = t.error.text;
  for (uint32_t i = 0; i < 3 && !wrong[0]; i++)
    town_client(&t, i, wanders, &crowd);
  if (!wrong[0])
    wrong = town_end(&t);
  if (wrong[0])
    test_fail(__FILE__, __LINE__, "seed %llu: %s", (unsigned long long)seed, wrong);
  else if (crowd.ended != 180 || crowd.failed == 180)
    test_fail(__FILE__, __LINE__, "seed %llu: %llu calls, %llu failed", (unsigned long long)seed,
              (unsigned long long)crowd.ended, (unsigned long long)crowd.failed);
  return t.hash;
}

TEST(cluster_sweep_of_broken_networks)
{
  TOWN_NEEDS_NET;
  for (uint64_t seed = 1; seed <= town_seeds(SEEDS); seed++)
    storm(seed, "until=3s,outage=500ms,kinds=cut+isolate+partition+clog+slow+full+drop+half+lose+"
                "snap");
}

TEST(cluster_sweep_of_failing_nodes)
{
  TOWN_NEEDS_NET;
  for (uint64_t seed = 1; seed <= town_seeds(SEEDS); seed++)
    storm(seed, "until=3s,outage=500ms,kinds=crash+kill+stop+pause+drift+jump");
}

TEST(cluster_sweep_of_everything)
{
  TOWN_NEEDS_NET;
  for (uint64_t seed = 1; seed <= town_seeds(SEEDS); seed++)
    storm(seed, "until=5s,swarm=1");
}

TEST(cluster_sweep_repeats_itself)
{
  TOWN_NEEDS_SIM("there is no hash");
  TOWN_NEEDS_NET;
  uint64_t first = storm(1, "until=2s"), again = storm(1, "until=2s");
  CHECK(first == again && storm(2, "until=2s") != first);
}
