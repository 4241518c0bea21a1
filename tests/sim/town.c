/* town.c - what the stories of clusters share: a pool, a cluster and its transcript. */
#include "town.h"

#include <stdlib.h>

#define TOWN_REAL_SEEDS 2

/* ---- the setting -------------------------------------------------------------------------- */

static const char *town_world(void)
{
  const char *world = getenv("CHI_WORLD");
  return world && *world ? world : "sim:";
}

/* Why the tests of a file are not told elsewhere; NULL: they are, as far as each can. */
static const char *town_excuse(const char *file)
{
  static const char *const beneath[][2] = {
      {"/test_sim_", "about the simulation itself"},
      {"/test_story_birth", "about the number of a life, and the clocks it comes from"},
      {"/test_story_death", "a death at each of many moments, below the handle"},
      {"/test_story_files", "told of one node and its disk, whose faults are simulated"},
      {"/test_story_memory", "each asking for memory is refused in turn, below the handle"},
      {"/test_story_monitor", "figures that follow from virtual time"},
      {"/test_story_pools", "pools are composed, and their ends counted in one process"},
      {"/test_bdev", "told of one node and its disk, whose faults are simulated"},
      {"/test_corner", "one fault at each event of a run"},
  };
  for (size_t i = 0; i < sizeof(beneath) / sizeof(beneath[0]); i++)
    if (!town_is_simulated() && strstr(file, beneath[i][0]))
      return beneath[i][1];
  return NULL;
}

__attribute__((constructor)) static void town_excuse_others(void)
{
  test_excuse = town_excuse;
}

bool town_is_simulated(void)
{
  return strcmp(town_world(), "sim:") == 0;
}

/* Whether it is a cluster that was there before, and stays. */
static bool town_runs(void)
{
  return strncmp(town_world(), "hostfile:", 9) == 0;
}

uint64_t town_within(uint64_t ns)
{
  return town_is_simulated() ? ns : 4 * ns + 4 * TOWN_SECOND;
}

uint64_t town_seeds(uint64_t usual)
{
  const char *seeds = getenv("STORY_SEEDS");
  if (!town_is_simulated() && usual > TOWN_REAL_SEEDS)
    usual = TOWN_REAL_SEEDS;
  return seeds ? strtoull(seeds, NULL, 10) : usual;
}

void town_needs_faults(void)
{
  if (town_runs())
    test_leave("it needs faults, or clients on other nodes");
}

int town_possible(int rc)
{
  if (rc == CHI_ENOTSUP)
    town_needs_faults();
  return rc;
}

/* A cluster that runs is as it is: what a story wants of it must be so. */
static void town_must_fit(const struct town *t, const char *keys)
{
  const char *nodes = strstr(keys, "nodes=");
  for (const char *at = keys; at; at = strchr(at, ',') ? strchr(at, ',') + 1 : NULL)
    if (*at && strncmp(at, "seed=", 5) != 0 && strncmp(at, "nodes=", 6) != 0)
      test_leave("it wants settings of its own");
  if (!nodes || strtoul(nodes + 6, NULL, 10) != chi_cluster_nodes(t->cluster))
    test_leave("it wants another number of nodes");
}

/* What the story before has left. */
static void town_sweep_up(struct town *t)
{
  for (uint32_t major = 700; major <= 702; major++)
    chi_cluster_pool_destroy(t->cluster, 0, (chi_pool_id){major, 0}, &t->error);
  t->error.text[0] = '\0';
}

int town_pass(struct town *t, uint64_t ns)
{
  if (!town_is_simulated() && ns > 10 * TOWN_SECOND)
    ns = 10 * TOWN_SECOND;
  return chi_cluster_run_for(t->cluster, ns);
}

/* Into the variable itself: nodes that are processes have it as it is while they are made. */
int town_open_with(struct town *t, const char *spec, const chi_module *const *modules,
                   uint32_t count)
{
  const char *keys = strncmp(spec, "sim:", 4) == 0 ? spec + 4 : NULL;
  char there[240];
  memset(t, 0, sizeof(*t));
  if (keys) {
    snprintf(there, sizeof(there), "%s%s", town_world(), town_runs() ? "" : keys);
    spec = there;
  }
  if (town_runs() && modules[0] != &town_module)
    test_leave("the daemons have not loaded its module");
  int rc = chi_cluster_open(spec, modules, town_runs() ? 0 : count, &town_cluster, &t->error);
  t->cluster = town_cluster;
  if (rc == CHI_OK && town_runs() && keys) {
    town_must_fit(t, keys);
    town_sweep_up(t);
  }
  if (rc == CHI_OK)
    chi_cluster_story(t->cluster, transcript_put, &t->story);
  return rc;
}

const char *town_open(struct town *t, const char *spec)
{
  const chi_module *modules[] = {&town_module, &town_other_module};
  return town_open_with(t, spec, modules, 2) == CHI_OK ? "" : t->error.text;
}

const char *town_begin(struct town *t, const char *spec)
{
  chi_pool_id id = TOWN_POOL;
  const char *wrong = town_open(t, spec);
  if (!wrong[0] &&
      chi_cluster_pool_create(t->cluster, 0, "town", "town", NULL, 0, &id, &t->error) != CHI_OK)
    wrong = t->error.text;
  return wrong;
}

const char *town_seed(struct town *t, uint64_t seed, const char *keys)
{
  char spec[200];
  snprintf(spec, sizeof(spec), "sim:seed=%llu,%s", (unsigned long long)seed, keys);
  return town_begin(t, spec);
}

void town_close(struct town *t)
{
  if (t->cluster) {
    t->hash = chi_cluster_hash(t->cluster);
    if (getenv("STORY_HASH"))
      printf("hash %016llx of seed %llu\n", (unsigned long long)t->hash,
             (unsigned long long)chi_cluster_seed(t->cluster));
  }
  chi_cluster_close(t->cluster);
  transcript_free(&t->story);
  t->cluster = NULL;
}

const char *town_end(struct town *t)
{
  const chi_failure *failure;
  int rc = t->cluster ? chi_cluster_settle(t->cluster, 60 * TOWN_SECOND) : CHI_OK;
  if (t->cluster && rc == CHI_OK && !town_runs())
    rc = chi_cluster_stop(t->cluster, CHI_CLUSTER_ALL, 100);
  failure = t->cluster ? chi_cluster_failure(t->cluster) : NULL;
  if (failure)
    snprintf(t->error.text, sizeof(t->error.text), "%s: %.300s", failure->check, failure->text);
  else
    snprintf(t->error.text, sizeof(t->error.text), "%s", rc ? chi_status_name(rc) : "");
  town_close(t);
  return t->error.text;
}

chi_task town_task(uint32_t mode, uint32_t a, uint32_t b)
{
  chi_task task = {.pool = TOWN_POOL, .query = {.mode = mode, .a = a, .b = b}};
  return task;
}

int town_call(struct town *t, uint32_t from, const chi_type *type, void *task)
{
  return town_possible(chi_cluster_call(t->cluster, from, type, task, TOWN_LONG));
}

int town_client(struct town *t, uint32_t node, chi_cluster_body *body, void *arg)
{
  return town_possible(chi_cluster_client(t->cluster, node, body, arg));
}

int town_find(struct town *t, uint32_t from, uint32_t mode, uint32_t a)
{
  struct town_where w = {.task = town_task(mode, a, 0)};
  int rc = town_call(t, from, &town_where_type, &w);
  return rc ? rc : (int)w.node;
}

void town_fault(struct town *t, int kind, uint32_t a, uint32_t b, int64_t value)
{
  int rc = chi_cluster_fault(t->cluster, kind, a, b, value);
  town_possible(rc);
  if (rc != CHI_OK)
    chi_cluster_fail(t->cluster, "town", "fault %s: %s", chi_fault_name(kind), chi_status_name(rc));
}

bool town_tells(const struct town *t, const char *text)
{
  return transcript_has(&t->story, text);
}
