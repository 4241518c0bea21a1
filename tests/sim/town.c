/* town.c - what the stories of clusters share: a module, its pool, a cluster and its transcript. */
#include "town.h"

#include <stdlib.h>

chi_cluster *town_cluster;

/* ---- the module --------------------------------------------------------------------------- */

struct town_state {
  uint64_t runs, lost, found;
  uint32_t last_lost, last_found;
};

static int town_where_run(chi_ctx *ctx, struct town_state *self, struct town_where *t)
{
  t->node = chi_self_node(ctx);
  t->container = chi_self_container(ctx);
  t->runs = ++self->runs;
  return CHI_OK;
}

static int town_sum_run(chi_ctx *ctx, struct town_state *self, struct town_sum *t)
{
  (void)self;
  t->sum = chi_self_container(ctx) + 1;
  t->answers = 1;
  return t->ns ? chi_sleep(ctx, t->ns) : CHI_OK;
}

static int town_sleep_run(chi_ctx *ctx, struct town_state *self, struct town_sleep *t)
{
  self->runs++;
  return chi_sleep(ctx, t->ns);
}

static int town_ask_run(chi_ctx *ctx, struct town_state *self, struct town_ask *t)
{
  struct town_where *sub = chi_subtask_new(ctx, &town_where_type);
  int rc;
  (void)self;
  if (!sub)
    return CHI_ENOMEM;
  sub->task.pool = chi_self_pool(ctx);
  sub->task.query = (chi_query){.mode = CHI_QUERY_PHYSICAL, .a = t->whom};
  rc = chi_call(ctx, sub);
  t->node = sub->node;
  return rc;
}

static int town_bulk_run(chi_ctx *ctx, struct town_state *self, struct town_bulk *t)
{
  const uint8_t *from = t->from.data;
  uint8_t *to = t->to.data;
  (void)ctx, (void)self;
  if (t->to.size < t->from.size)
    return CHI_ETOOBIG;
  for (uint64_t i = 0; i < t->from.size; i++)
    to[i] = (uint8_t)(from[i] + 1);
  t->to.size = t->from.size;
  return CHI_OK;
}

static int town_code_run(chi_ctx *ctx, struct town_state *self, struct town_code *t)
{
  (void)self;
  return chi_self_container(ctx) == t->container ? t->code : CHI_OK;
}

static int town_list_run(chi_ctx *ctx, struct town_state *self, struct town_list *t)
{
  struct town_sum *sub = chi_subtask_new_failures(ctx, &town_sum_type);
  (void)self;
  if (!sub)
    return CHI_ENOMEM;
  sub->task.pool = chi_self_pool(ctx);
  sub->task.query.mode = CHI_QUERY_BROADCAST;
  int rc = chi_call(ctx, sub);
  const chi_failures *f = chi_failures_of(&town_sum_type, sub);
  t->asked = f->asked;
  t->failed = f->failed;
  t->first = f->item[0].container;
  return rc;
}

static int town_news_run(chi_ctx *ctx, struct town_state *self, struct town_news *t)
{
  (void)ctx;
  t->lost = self->lost;
  t->found = self->found;
  t->last_lost = self->last_lost;
  t->last_found = self->last_found;
  return CHI_OK;
}

static int town_again_run(chi_ctx *ctx, struct town_state *self, struct town_again *t)
{
  (void)self;
  t->node = chi_self_node(ctx);
  return CHI_OK;
}

static int town_work_run(chi_ctx *ctx, struct town_state *self, struct town_work *t)
{
  (void)ctx, (void)self;
  chi_cluster_cpu(town_cluster, t->ns);
  return CHI_OK;
}

#define TOWN_METHODS(M, S)                                                                         \
  M(S, town_where)                                                                                 \
  M(S, town_sum)                                                                                   \
  M(S, town_sleep)                                                                                 \
  M(S, town_ask)                                                                                   \
  M(S, town_bulk)                                                                                  \
  M(S, town_code)                                                                                  \
  M(S, town_news)                                                                                  \
  M(S, town_again, CHI_METHOD_IDEMPOTENT)                                                          \
  M(S, town_work) M(S, town_list)
CHI_METHODS(town_state, TOWN_METHODS)

static int town_schedule(chi_ctx *ctx, void *self, const void *task, chi_query *query)
{
  (void)self, (void)task;
  *query = (chi_query){.mode = CHI_QUERY_ID, .a = chi_node_count(ctx) - 1};
  return CHI_OK;
}

static int town_aggregate(uint32_t method, void *into, const void *from)
{
  struct town_sum *all = into;
  const struct town_sum *one = from;
  if (method != town_sum_type.id)
    return CHI_OK;
  all->sum += one->sum;
  all->answers += one->answers;
  return CHI_OK;
}

static void town_node_failure(chi_ctx *ctx, void *state, uint32_t node)
{
  struct town_state *self = state;
  (void)ctx;
  self->lost++;
  self->last_lost = node;
}

static void town_recover(chi_ctx *ctx, void *state, uint32_t node)
{
  struct town_state *self = state;
  (void)ctx;
  self->found++;
  self->last_found = node;
}

static int64_t town_save(chi_ctx *ctx, void *self, void *data, uint64_t room)
{
  (void)ctx;
  if (room >= sizeof(struct town_state))
    memcpy(data, self, sizeof(struct town_state));
  return sizeof(struct town_state);
}

static int town_load(chi_ctx *ctx, void *self, const void *params, const void *data, uint64_t size)
{
  (void)ctx, (void)params;
  if (size != sizeof(struct town_state))
    return CHI_ECORRUPT;
  memcpy(self, data, size);
  return CHI_OK;
}

const chi_module town_module = {.version = CHI_MODULE_VERSION,
                                .name = "town",
                                .state_size = sizeof(struct town_state),
                                .methods = town_state_methods,
                                .schedule = town_schedule,
                                .aggregate = town_aggregate,
                                .node_failure = town_node_failure,
                                .recover = town_recover,
                                .save = town_save,
                                .load = town_load};
const chi_module town_other_module = {.version = CHI_MODULE_VERSION,
                                      .name = "village",
                                      .state_size = sizeof(struct town_state),
                                      .methods = town_state_methods};

/* ---- the setting -------------------------------------------------------------------------- */

uint64_t town_seeds(uint64_t usual)
{
  const char *seeds = getenv("STORY_SEEDS");
  return seeds ? strtoull(seeds, NULL, 10) : usual;
}

static void town_line(void *arg, const char *text)
{
  struct town *t = arg;
  size_t size = strlen(text);
  if (getenv("STORY"))
    fputs(text, stderr);
  if (t->length + size + 1 > t->room) {
    t->room = (t->length + size + 1) * 2;
    t->story = realloc(t->story, t->room);
    if (!t->story)
      abort();
  }
  memcpy(t->story + t->length, text, size + 1);
  t->length += size;
}

const char *town_open(struct town *t, const char *spec)
{
  const chi_module *modules[] = {&town_module, &town_other_module};
  memset(t, 0, sizeof(*t));
  if (chi_cluster_open(spec, modules, 2, &t->cluster, &t->error) != CHI_OK)
    return t->error.text;
  town_cluster = t->cluster;
  chi_cluster_story(t->cluster, town_line, t);
  return "";
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
  free(t->story);
  t->cluster = NULL;
  t->story = NULL;
}

const char *town_end(struct town *t)
{
  const chi_failure *failure;
  int rc = t->cluster ? chi_cluster_settle(t->cluster, 60 * TOWN_SECOND) : CHI_OK;
  if (t->cluster && rc == CHI_OK)
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
  return chi_cluster_call(t->cluster, from, type, task, TOWN_LONG);
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
  if (rc != CHI_OK)
    chi_cluster_fail(t->cluster, "town", "fault %s: %s", chi_fault_name(kind), chi_status_name(rc));
}

bool town_tells(const struct town *t, const char *text)
{
  return t->story && strstr(t->story, text) != NULL;
}
