/* tale.c - stories of one node that every world can tell. */
#include "tale.h"

#define TALE_SEEDS 8

const char *tale_begin(struct town *town, uint64_t seed, const char *keys)
{
  static const chi_module *const modules[] = {&story_module};
  chi_pool_id id = STORY_POOL;
  char spec[200];
  snprintf(spec, sizeof(spec), "sim:nodes=1,seed=%llu%s%s", (unsigned long long)seed,
           keys ? "," : "", keys ? keys : "");
  int rc = town_open_with(town, spec, modules, 1);
  if (rc == CHI_OK)
    rc = chi_cluster_pool_create(town->cluster, 0, "story", "story", NULL, 0, &id, &town->error);
  return rc == CHI_OK ? "" : town->error.text;
}

static void tale_play(chi_cluster *cluster, chi_client *client, void *arg)
{
  struct tale *t = arg;
  chi_queue *queue = NULL;
  t->cluster = cluster;
  t->client = client;
  CHECK_INT(chi_queue_open(client, &queue, NULL), CHI_OK);
  t->body(t, queue);
  chi_queue_close(queue);
  t->town->told++;
}

void tale_client(struct town *town, struct tale *t)
{
  t->town = town;
  town_client(town, 0, tale_play, t);
}

bool tale_is_over(struct town *town)
{
  return chi_cluster_run_idle(town->cluster, TOWN_LONG) == CHI_OK;
}

/* What went wrong, or the empty text. */
static const char *tale_once(struct tale *t, uint64_t seed, const char *keys, const char *line,
                             const char *then)
{
  static char wrong[400];
  struct town town;
  snprintf(wrong, sizeof(wrong), "%s", tale_begin(&town, seed, keys));
  if (!wrong[0]) {
    tale_client(&town, t);
    if (!tale_is_over(&town))
      snprintf(wrong, sizeof(wrong), "it has no end");
    else if (town_is_simulated() && line && !transcript_tells(&town.story, line, then, NULL))
      snprintf(wrong, sizeof(wrong), "not what is told");
  }
  const char *end = town_end(&town);
  if (!wrong[0])
    snprintf(wrong, sizeof(wrong), "%s", end);
  if (!wrong[0] && town.told != 1)
    snprintf(wrong, sizeof(wrong), "the client does not get to its end");
  return wrong;
}

void tale_tell(void (*body)(struct tale *t, chi_queue *queue), const char *line, const char *then)
{
  for (uint64_t seed = 1; seed <= town_seeds(TALE_SEEDS); seed++) {
    struct tale t = {.body = body};
    CHECK_STR(tale_once(&t, seed, NULL, line, then), "");
  }
}

void tale_tell_with(void (*body)(struct tale *t, chi_queue *queue), const char *keys)
{
  struct tale t = {.body = body};
  CHECK_STR(tale_once(&t, 1, keys, NULL, NULL), "");
}

uint64_t tale_now(const struct tale *t)
{
  return chi_cluster_now(t->cluster);
}

void tale_sleep(struct tale *t, uint64_t ns)
{
  chi_cluster_sleep(t->cluster, ns);
}
