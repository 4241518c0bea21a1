/* town_module.c - the module of the stories of clusters; by itself, what daemons load. */
#include "town.h"

chi_cluster *town_cluster;

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
  (void)ctx, (void)self;
  return town_copy(&t->from, &t->to);
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
  M(S, town_work)                                                                                  \
  M(S, town_list)
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

const chi_module *chi_module_entry(void)
{
  return &town_module;
}
