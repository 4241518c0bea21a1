/* test_net_storm.c - everything at once: crashes, cuts, losses, cancellations, no memory. Each task
 * of a node that lives ends once, no key is run twice, and nothing is left. */
#include "net_town.h"
#include "rng.h"
#include "test.h"

#include <stdlib.h>

#define STORM_NODES 5u
#define STORM_TASKS 80u

static struct town town;
static uint64_t storm_codes[32]; /* by -rc: how often */

struct storm {
  struct rng rng;
  struct town_task task[STORM_TASKS];
  unsigned char data[STORM_TASKS][8192];
  bool begun[STORM_TASKS], gone[STORM_TASKS];
};

static uint32_t storm_draw(struct storm *s, uint64_t n)
{
  return (uint32_t)rng_below(&s->rng, n);
}

static void storm_task(struct storm *s, uint32_t i)
{
  static const chi_type *const types[] = {&town_wait_type, &town_again_type, &town_add_type,
                                          &town_blob_type, &town_fail_type};
  uint32_t node = storm_draw(s, STORM_NODES), kind = storm_draw(s, CHI_COUNT(types));
  uint32_t first = storm_draw(s, STORM_NODES), count = 1 + storm_draw(s, STORM_NODES - first);
  if (!town.node[node].up)
    return;
  struct town_task *t = &s->task[i];
  int fail_at = town.node[node].fail_at;
  town.node[node].fail_at = -1;
  town_new(&town, t, node, types[kind]);
  town.node[node].fail_at = fail_at;
  s->begun[i] = true;
  if (kind < 2)
    ((struct town_wait *)t->task)->ns = storm_draw(s, 500 * TOWN_MS);
  if (kind == 3) {
    struct town_blob *blob = (struct town_blob *)t->task;
    blob->from = (chi_bulk){s->data[i], storm_draw(s, 8192), 0};
    blob->to = (chi_bulk){s->data[i], 8192, 0};
    blob->both = (chi_bulk){s->data[i], 100, 0};
  }
  if (kind == 4)
    ((struct town_fail *)t->task)->mask = storm_draw(s, 8);
  if (storm_draw(s, 4) == 0)
    t->task->deadline_ms = 1 + storm_draw(s, 1000);
  if (storm_draw(s, 8) == 0)
    t->task->flags = TASK_PROMPT;
  town_submit(&town, t, first, count);
}

static void storm_crash(struct storm *s, uint32_t node)
{
  if (!town.node[node].up) {
    town.node[node].dead = false;
    town_start(&town, node);
    return;
  }
  town_crash(&town, node);
  for (uint32_t i = 0; i < STORM_TASKS; i++)
    s->gone[i] =
        s->gone[i] || (s->begun[i] && s->task[i].node == &town.node[node] && s->task[i].ends == 0);
}

static void storm_suspect(uint32_t node)
{
  if (town.node[node].dead) {
    town.node[node].dead = false;
    return;
  }
  town.node[node].dead = true;
  for (uint32_t i = 0; i < STORM_NODES; i++)
    if (town.node[i].up && i != node)
      net_on_dead(town.node[i].net, node);
}

static void storm_event(struct storm *s)
{
  uint32_t a = storm_draw(s, STORM_NODES), b = storm_draw(s, STORM_NODES);
  uint32_t i = storm_draw(s, STORM_TASKS);
  switch (storm_draw(s, 12)) {
  case 0:
    storm_crash(s, a);
    break;
  case 1:
  case 2:
    town.wire[a][b].held = a != b && !town.wire[a][b].held;
    break;
  case 3:
  case 4:
    if (a != b)
      town_bounce(&town, a, b);
    break;
  case 5:
  case 6:
    town_lose(&town, a, b);
    break;
  case 7:
    if (s->begun[i] && !s->gone[i] && s->task[i].ends == 0)
      town_cancel(&town, &s->task[i]);
    break;
  case 8:
    if (town.node[a].up)
      town.node[a].fail_at = (int)storm_draw(s, 60);
    break;
  case 9:
    if (storm_draw(s, 3) == 0)
      storm_suspect(a);
    break;
  default:
    town_pass(&town, storm_draw(s, 300 * TOWN_MS));
  }
}

static void storm_calm(struct storm *s)
{
  for (uint32_t a = 0; a < STORM_NODES; a++) {
    town.node[a].fail_at = -1;
    for (uint32_t b = 0; b < STORM_NODES; b++)
      town.wire[a][b].held = false;
  }
  for (uint32_t a = 0; a < STORM_NODES; a++) {
    if (!town.node[a].up)
      storm_crash(s, a);
    town.node[a].dead = false;
  }
}

static bool storm_ended(const struct storm *s)
{
  for (uint32_t i = 0; i < STORM_TASKS; i++) {
    if (!s->begun[i] || s->gone[i])
      continue;
    const struct town_task *t = &s->task[i];
    if (t->ends != 1)
      return false;
    storm_codes[t->rc < 0 && t->rc > -32 ? -t->rc : 0]++;
  }
  return true;
}

static bool storm_run(uint64_t seed)
{
  struct storm *s = calloc(1, sizeof *s);
  rng_seed(&s->rng, seed, 0, 0);
  town_open(&town, STORM_NODES, 1 + storm_draw(s, 4));
  town.task_timeout = 10 * TOWN_S;
  for (uint32_t i = 0; i < STORM_TASKS; i++) {
    storm_task(s, i);
    for (uint32_t k = storm_draw(s, 4); k > 0; k--)
      storm_event(s);
  }
  storm_calm(s);
  town_pass(&town, 60 * TOWN_S);
  bool fine = storm_ended(s) && town_doubles(&town) == 0 && town_idle(&town);
  for (uint32_t i = 0; i < STORM_TASKS; i++)
    if (s->begun[i])
      town_free(&s->task[i]);
  town_close(&town);
  for (uint32_t i = 0; i < STORM_NODES; i++)
    fine = fine && town.node[i].blocks == 0;
  free(s);
  return fine;
}

TEST(net_storm)
{
  memset(storm_codes, 0, sizeof storm_codes);
  for (uint64_t seed = 1; seed <= 100; seed++) {
    bool fine = storm_run(seed);
    if (!fine)
      printf("  seed %llu\n", (unsigned long long)seed);
    CHECK(fine);
  }
  CHECK(storm_codes[0] > 1000);
  CHECK(storm_codes[-CHI_EUNKNOWN] > 10 && storm_codes[-CHI_EUNREACHABLE] > 10);
  CHECK(storm_codes[-CHI_ETIMEOUT] > 10 && storm_codes[-CHI_ECANCELLED] > 10);
  CHECK(storm_codes[-CHI_ENOMEM] > 0);
}
