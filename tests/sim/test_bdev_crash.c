/* test_bdev_crash.c - whatever a crash cuts short: what was acknowledged is there. */
#include "bdev_story.h"

#define ACTORS 3u
#define UNITS 64u

/* Actors on a device, and the model that they and the recovery check against. */
struct siege {
  struct bdev_story b;
  struct shadow *shadow;
  uint64_t calls;
  uint32_t begun; /* actors */
  bool clean;
};

static void siege_open(struct siege *g, uint64_t seed)
{
  memset(g, 0, sizeof(*g));
  bdev_story_open(&g->b, seed, "256K");
  sim_transcript(g->b.s.sim, NULL, NULL);
  g->shadow = shadow_open(seed, UNITS, ACTORS);
  g->calls = UINT64_MAX;
}

static void siege_share(chi_queue *queue, void *arg)
{
  struct siege *g = arg;
  struct shadow_port port = bdev_story_port(&g->b, queue);
  if (shadow_share(g->shadow, &port, BDEV_POOL))
    shadow_fail(g->shadow, "the shared block");
}

static void siege_recover(chi_queue *queue, void *arg)
{
  struct siege *g = arg;
  struct shadow_port port = bdev_story_port(&g->b, queue);
  shadow_recover(g->shadow, &port, BDEV_POOL, g->clean);
}

static void siege_verify(chi_queue *queue, void *arg)
{
  struct siege *g = arg;
  struct shadow_port port = bdev_story_port(&g->b, queue);
  shadow_verify(g->shadow, &port, BDEV_POOL);
}

/* Without cancellation. */
static void siege_alone(struct siege *g, void (*body)(chi_queue *queue, void *arg))
{
  uint32_t cancel = g->b.cancel_ppm;
  g->b.cancel_ppm = 0;
  if (!bdev_story_run(&g->b, body, g))
    shadow_fail(g->shadow, "a client did not get through");
  g->b.cancel_ppm = cancel;
}

static void siege_actor(struct sim_client *c, void *arg)
{
  struct siege *g = arg;
  chi_client *client;
  chi_queue *queue;
  uint32_t actor = g->begun++ % ACTORS;
  if (story_attach(c, &client, &queue) != CHI_OK)
    return; /* the node has died before */
  struct shadow_port port = bdev_story_port(&g->b, queue);
  shadow_act(g->shadow, &port, BDEV_POOL, actor, g->calls);
  chi_client_close(client);
}

static void siege_actors(struct siege *g)
{
  g->begun = 0;
  for (uint32_t i = 0; i < ACTORS; i++)
    sim_client(g->b.s.sim, 0, siege_actor, g);
}

static void siege_start(struct siege *g)
{
  int rc = story_start(&g->b.s);
  if (rc)
    shadow_fail(g->shadow, "start: %s: %s", chi_status_name(rc), g->b.s.error.text);
}

/* After the node has ended: starts it again and compares. */
static void siege_again(struct siege *g, bool clean)
{
  if (!sim_run_idle(g->b.s.sim, BDEV_LONG))
    shadow_fail(g->shadow, "a client hangs");
  siege_start(g);
  g->clean = clean;
  if (!g->shadow->wrong[0])
    siege_alone(g, siege_recover);
}

/* Ends all; the empty text, or what was wrong. */
static const char *siege_end(struct siege *g, char *wrong, size_t room)
{
  const char *end = story_end(&g->b.s);
  snprintf(wrong, room, "%s", g->shadow->wrong[0] ? g->shadow->wrong : end);
  shadow_close(g->shadow);
  return wrong;
}

struct countdown {
  struct sim *sim;
  uint64_t until;
};

static bool countdown_over(void *arg)
{
  struct countdown *c = arg;
  return sim_events(c->sim) >= c->until;
}

static void siege_events(struct siege *g, uint64_t events)
{
  struct countdown c = {g->b.s.sim, sim_events(g->b.s.sim) + events};
  sim_run_until(c.sim, countdown_over, &c, BDEV_LONG);
}

/* What happened over all seeds: none of it may be rare. */
static struct {
  uint64_t calls, crashes, kills, stops, leaked, cancelled, nospace;
} seen;

static void siege_round(struct siege *g)
{
  struct rng *rng = &g->b.rng;
  uint64_t how = rng_below(rng, 8);
  siege_actors(g);
  siege_events(g, rng_below(rng, 4000));
  if (how == 0) {
    g->shadow->stop = true;
    if (!sim_run_idle(g->b.s.sim, BDEV_LONG))
      shadow_fail(g->shadow, "a client hangs");
    g->shadow->stop = g->shadow->wrong[0] != '\0';
    siege_alone(g, siege_verify);
    if (sim_node_stop(g->b.s.sim, 0, 1000) != CHI_OK)
      shadow_fail(g->shadow, "the node does not stop");
    seen.stops++;
  } else if (how == 1) {
    sim_node_kill(g->b.s.sim, 0);
    seen.kills++;
  } else {
    sim_node_crash(g->b.s.sim, 0);
    seen.crashes++;
  }
  siege_again(g, how == 0);
}

/* Allocations, writes, frees and syncs of three clients; power cuts, kills and stops at random. */
TEST(bdev_keeps_what_it_acknowledged)
{
  memset(&seen, 0, sizeof(seen));
  for (uint64_t seed = 0; seed < story_seeds(60); seed++) {
    struct siege g;
    char wrong[400];
    siege_open(&g, seed);
    g.b.cancel_ppm = seed % 2 ? 200000 : 0;
    g.shadow->lenient = seed % 2;
    bdev_story_param(&g.b, "io_depth", seed % 3 ? "16" : "1");
    siege_start(&g);
    if (!g.shadow->wrong[0])
      siege_alone(&g, siege_share);
    for (int i = 0; i < 5 && !g.shadow->wrong[0]; i++)
      siege_round(&g);
    seen.calls += g.shadow->calls;
    seen.leaked += g.shadow->leaked;
    seen.cancelled += g.shadow->by_code[-CHI_ECANCELLED];
    seen.nospace += g.shadow->by_code[-CHI_ENOSPC];
    CHECK_STR(siege_end(&g, wrong, sizeof(wrong)), "");
  }
  if (!story_is_whole(60))
    return;
  CHECK(seen.calls > 1000 && seen.crashes && seen.kills && seen.stops);
  CHECK(seen.leaked && seen.cancelled && seen.nospace);
}

/* The same short work, cut off after each of its events. */
TEST(bdev_survives_a_crash_at_every_event)
{
  uint64_t at = 0;
  bool over = false;
  for (; !over && at < 100000; at += story_seeds(0) ? 1 : 3) {
    struct siege g;
    char wrong[400];
    siege_open(&g, 5);
    g.calls = 12;
    siege_start(&g);
    siege_actors(&g);
    siege_events(&g, at);
    over = g.begun == ACTORS && sim_run_idle(g.b.s.sim, 0);
    sim_node_crash(g.b.s.sim, 0);
    siege_again(&g, false);
    CHECK_STR(siege_end(&g, wrong, sizeof(wrong)), "");
  }
  CHECK(over && at > 500);
}

/* The node crashes again while it recovers. */
TEST(bdev_survives_a_crash_while_it_recovers)
{
  for (uint64_t seed = 0; seed < story_seeds(40); seed++) {
    struct siege g;
    char wrong[400];
    siege_open(&g, seed);
    siege_start(&g);
    siege_actors(&g);
    siege_events(&g, 1500);
    for (int i = 0; i < 4; i++) {
      sim_node_crash(g.b.s.sim, 0);
      if (!sim_run_idle(g.b.s.sim, BDEV_LONG))
        shadow_fail(g.shadow, "a client hangs");
      sim_node_start(g.b.s.sim, 0, &g.b.s.config, g.b.s.modules, 1, NULL);
    }
    sim_node_crash(g.b.s.sim, 0);
    siege_again(&g, false);
    CHECK_STR(siege_end(&g, wrong, sizeof(wrong)), "");
  }
}

static bool siege_renews(void *arg)
{
  const struct siege *g = arg;
  uint8_t byte;
  return sim_disk_peek(sim_node_disk(g->b.s.sim, 0), BDEV_LOG ".new", &byte, 0, 0) >= 0;
}

/* The log is written anew when it has grown, and the power goes in the middle of that. */
TEST(bdev_survives_a_crash_while_its_log_is_renewed)
{
  for (uint64_t at = 0; at < 160; at += 4) {
    struct siege g;
    char wrong[400];
    bool renews;
    siege_open(&g, at);
    siege_start(&g);
    siege_actors(&g);
    siege_events(&g, 100); /* the first log has its name */
    renews = sim_run_until(g.b.s.sim, siege_renews, &g, BDEV_LONG);
    siege_events(&g, at);
    sim_node_crash(g.b.s.sim, 0);
    siege_again(&g, false);
    siege_actors(&g);
    siege_events(&g, 500);
    sim_node_crash(g.b.s.sim, 0);
    siege_again(&g, false);
    CHECK_STR(siege_end(&g, wrong, sizeof(wrong)), "");
    CHECK(renews);
  }
}
