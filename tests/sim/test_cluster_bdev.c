/* test_cluster_bdev.c - block devices on the nodes of a cluster, held to a model over crashes. */
#include "bdev_shadow.h"
#include "town.h"

#define UNITS 64u
#define ACTORS 3u
#define ROUNDS 4
#define DEVICE ((chi_pool_id){900, 0})

/* A client of a device: it acts, or compares with the model. */
struct hand {
  struct shadow *shadow;
  uint32_t actor;
  bool compares;
  volatile bool attached;
};

static void hand_body(chi_cluster *cluster, chi_client *client, void *arg)
{
  struct hand *hand = arg;
  struct shadow_port port = {NULL, NULL, NULL};
  (void)cluster;
  hand->attached = true;
  if (chi_queue_open(client, &port.queue, NULL) != CHI_OK)
    return;
  if (hand->compares)
    shadow_recover(hand->shadow, &port, DEVICE, false);
  else
    shadow_act(hand->shadow, &port, DEVICE, hand->actor, UINT64_MAX);
  chi_queue_close(port.queue);
}

static int is_there(chi_cluster *cluster, void *arg)
{
  (void)arg;
  return chi_cluster_is_up(cluster, 1);
}

static int all_have_attached(chi_cluster *cluster, void *arg)
{
  const struct hand *hands = arg;
  uint32_t attached = 0;
  (void)cluster;
  for (uint32_t i = 0; i < ACTORS; i++)
    attached += hands[i].attached;
  return attached == ACTORS;
}

static void crash_round(struct town *t, struct shadow *shadow, uint64_t events)
{
  struct hand hands[ACTORS], judge = {.shadow = shadow, .compares = true};
  for (uint32_t i = 0; i < ACTORS; i++) {
    hands[i] = (struct hand){.shadow = shadow, .actor = i};
    chi_cluster_client(t->cluster, 1, hand_body, &hands[i]);
  }
  if (!town_is_simulated()) /* there all have attached within a millisecond */
    chi_cluster_run_until(t->cluster, all_have_attached, hands, TOWN_LONG);
  chi_cluster_run_for(t->cluster, TOWN_MS + events * 10000);
  town_fault(t, CHI_FAULT_CRASH, 1, 0, 0);
  if (chi_cluster_run_idle(t->cluster, TOWN_LONG) != CHI_OK)
    shadow_fail(shadow, "a client hangs");
  town_fault(t, CHI_FAULT_START, 1, 0, 0);
  if (chi_cluster_run_until(t->cluster, is_there, NULL, TOWN_LONG) != CHI_OK)
    shadow_fail(shadow, "the node does not start");
  chi_cluster_run_for(t->cluster, 5 * TOWN_SECOND);
  chi_cluster_client(t->cluster, 1, hand_body, &judge);
  if (chi_cluster_run_idle(t->cluster, TOWN_LONG) != CHI_OK)
    shadow_fail(shadow, "the judge hangs");
}

/* P5: after a crash at any moment, what was acknowledged is there, and the cluster knows its pool.
 */
static void device_story(uint64_t seed)
{
  static char capacity[] = "256K", file[] = "file";
  static char keys[2][16] = {"capacity", "bdev_type"};
  const chi_param params[] = {{keys[0], capacity, 0, 0}, {keys[1], file, 0, 0}};
  chi_pool_id id = DEVICE;
  struct town t;
  struct shadow *shadow = shadow_open(seed, UNITS, ACTORS);
  struct rng rng;
  const char *wrong = town_seed(&t, seed, "nodes=3,heartbeat_interval=200ms");
  rng_seed(&rng, seed, 5, 6);
  if (!wrong[0] &&
      chi_cluster_pool_create(t.cluster, 0, "bdev", "device", params, 2, &id, &t.error) != CHI_OK)
    wrong = t.error.text;
  for (int i = 0; i < ROUNDS && !wrong[0] && !shadow->wrong[0]; i++)
    crash_round(&t, shadow, rng_below(&rng, 4000));
  if (!wrong[0])
    wrong = town_end(&t);
  if (wrong[0] || shadow->wrong[0])
    test_fail(__FILE__, __LINE__, "seed %llu: %s %s", (unsigned long long)seed, wrong,
              shadow->wrong);
  shadow_close(shadow);
}

TEST(cluster_device_keeps_what_it_acknowledged)
{
  TOWN_NEEDS_NET;
  for (uint64_t seed = 1; seed <= town_seeds(6); seed++)
    device_story(seed);
}
