/* admin.c - the admin module: pools, stop, flush, monitor. Runs on the network worker. */
#include "admin.h"
#include "ctx.h"
#include "error.h"
#include "text.h"

#include <stdio.h>

struct admin {
  struct admin_host *host;
};

#define ADMIN_WAITING 256u /* tasks that may wait at a time: others need stacks, too */
#define ADMIN_STOPPING 16u /* beyond, for those that wait for the end of the node */

static int admin_wait_within(struct admin_host *host, uint32_t room)
{
  if (host->waiting >= room)
    return CHI_EBUSY;
  host->waiting++;
  return CHI_OK;
}

/* Before a task of the admin pool waits, perhaps for long. CHI_EBUSY: too many do. */
static int admin_begin_to_wait(struct admin_host *host)
{
  return admin_wait_within(host, ADMIN_WAITING);
}

static int chi_admin_get_or_create_pool_run(chi_ctx *ctx, struct admin *self,
                                            struct chi_admin_get_or_create_pool *t)
{
  chi_error err = {0};
  bool created = false;
  int rc = admin_begin_to_wait(self->host);
  if (rc != CHI_OK)
    return rc;
  const struct admin_wanted wanted = {t->mod_name, t->pool_name, t->params, t->pool_query};
  rc = admin_create_pool(ctx, self->host, &wanted, &t->pool_id, &created, &err);
  self->host->waiting--;
  t->created = created;
  if (rc != CHI_OK)
    memcpy(t->error_message, err.text, sizeof t->error_message);
  return rc;
}

static int chi_admin_destroy_pool_run(chi_ctx *ctx, struct admin *self,
                                      struct chi_admin_destroy_pool *t)
{
  chi_error err = {0};
  int rc = admin_begin_to_wait(self->host);
  if (rc != CHI_OK)
    return rc;
  rc = admin_destroy_pool(ctx, self->host, t->pool_id, &err);
  self->host->waiting--;
  if (rc != CHI_OK)
    memcpy(t->error_message, err.text, sizeof t->error_message);
  return rc;
}

static int chi_admin_find_pool_run(chi_ctx *ctx, struct admin *self, struct chi_admin_find_pool *t)
{
  struct admin_host *host = self->host;
  const struct pool *p = directory_find_name(host->directory, t->pool_name);
  if (!p && !ctx->parent) { /* a create that asks would wait for itself */
    int rc = admin_begin_to_wait(host);
    if (rc != CHI_OK)
      return rc;
    rc = chi_event_wait(ctx, &host->composed, 0); /* it may be one of the configuration */
    host->waiting--;
    if (rc != CHI_OK)
      return rc;
    p = directory_find_name(host->directory, t->pool_name);
  }
  if (!p)
    return CHI_ENOENT;
  t->pool_id = p->id;
  memcpy(t->mod_name, p->module->def->name, strlen(p->module->def->name) + 1);
  return CHI_OK;
}

/* ---- the node */

/* Calls of this method to other nodes. */
static uint32_t admin_calls_of(const struct admin_host *host, const chi_type *type)
{
  return fleet_calls_of(host->fleet, module_method(host->pool->module, type->id));
}

/* Tasks accepted and not ended, but for those that wait for this, here or elsewhere, and periodic
 * ones at rest. */
static uint64_t admin_work_left(const struct admin_host *host, uint64_t *done)
{
  struct worker_work work = worker_work_left(host->crew);
  *done = work.done;
  return work.left - work.resting - host->flushing - admin_calls_of(host, &chi_admin_flush_type) -
         admin_calls_of(host, &chi_admin_stop_runtime_type);
}

/* Waits until no work is left. */
static int admin_flush_here(chi_ctx *ctx, struct admin_host *host, uint64_t *done)
{
  int rc = CHI_OK;
  host->flushing++;
  for (uint64_t ns = 100000; rc == CHI_OK && admin_work_left(host, done) > 0;
       ns = ns < 10000000 ? ns * 2 : ns)
    rc = chi_sleep(ctx, ns);
  host->flushing--;
  host->waiting--;
  return rc;
}

static int chi_admin_flush_run(chi_ctx *ctx, struct admin *self, struct chi_admin_flush *t)
{
  if (ctx->parent) /* whoever waits for this is work itself */
    return CHI_EDEADLOCK;
  int rc = admin_begin_to_wait(self->host);
  return rc == CHI_OK ? admin_flush_here(ctx, self->host, &t->total_work_done) : rc;
}

static int chi_admin_stop_runtime_run(chi_ctx *ctx, struct admin *self,
                                      struct chi_admin_stop_runtime *t)
{
  struct admin_host *host = self->host;
  bool waits = (t->flags & CHI_STOP_WAIT) != 0;
  uint64_t done = 0;
  if (waits && ctx->parent)
    return CHI_EDEADLOCK;
  int rc = waits ? admin_wait_within(host, ADMIN_WAITING + ADMIN_STOPPING) : CHI_OK;
  if (rc != CHI_OK) /* others that wait for it have stopped it */
    return rc;
  host->stop(host->arg, (uint64_t)t->grace_period_ms * 1000000ull);
  if (waits) { /* which may see the end without having been woken by it */
    admin_flush_here(ctx, host, &done);
    t->cancelled = host->cancelled;
  }
  return CHI_OK;
}

/* Text into a bulk field, counted even where it doesn't fit. */
struct admin_text {
  char *at;
  uint64_t room, size;
};

static void admin_put(void *arg, const char *text)
{
  struct admin_text *t = arg;
  size_t length = strlen(text);
  if (t->size + length <= t->room)
    memcpy(t->at + t->size, text, length);
  t->size += length;
}

static int admin_text_end(const struct admin_text *t, chi_bulk *bulk, uint64_t *size)
{
  *size = t->size;
  if (t->size > t->room)
    return CHI_ETOOBIG;
  bulk->size = t->size;
  return CHI_OK;
}

static int chi_admin_monitor_run(chi_ctx *ctx, struct admin *self, struct chi_admin_monitor *t)
{
  struct admin_text text = {.at = t->json.data, .room = t->json.size};
  struct admin_asked asked = {0};
  if (admin_begin_to_wait(self->host) == CHI_OK) {
    admin_figures_ask(ctx, self->host, &asked);
    self->host->waiting--;
  }
  admin_monitor_print(self->host, &asked, chi_now(ctx), admin_put, &text);
  admin_figures_done(self->host, &asked);
  return admin_text_end(&text, &t->json, &t->size);
}

static int chi_admin_describe_run(chi_ctx *ctx, struct admin *self, struct chi_admin_describe *t)
{
  (void)ctx;
  struct admin_text text = {.at = t->text.data, .room = t->text.size};
  const struct pool *p = directory_find(self->host->directory, t->pool_id);
  if (!p)
    return CHI_ENOENT;
  int rc = text_describe(p->module->def, admin_put, &text);
  return rc != CHI_OK ? rc : admin_text_end(&text, &t->text, &t->size);
}

static int admin_settle_run(chi_ctx *ctx, struct admin *self, struct admin_settle *t)
{
  int rc = admin_begin_to_wait(self->host);
  if (rc != CHI_OK)
    return rc;
  rc = admin_settle_here(ctx, self->host, t);
  self->host->waiting--;
  return rc;
}

static int admin_adopt_run(chi_ctx *ctx, struct admin *self, struct admin_adopt *t)
{
  int rc = admin_begin_to_wait(self->host);
  if (rc != CHI_OK)
    return rc;
  rc = admin_adopt_here(ctx, self->host, t);
  self->host->waiting--;
  return rc;
}

static int chi_admin_migrate_run(chi_ctx *ctx, struct admin *self, struct chi_admin_migrate *t)
{
  chi_error err = {0};
  int rc = admin_begin_to_wait(self->host);
  if (rc != CHI_OK)
    return rc;
  rc = admin_migrate_here(ctx, self->host, t, &err);
  self->host->waiting--;
  if (rc != CHI_OK)
    memcpy(t->error_message, err.text, sizeof t->error_message);
  return rc;
}

/* ---- answers of several nodes */

static void admin_sum_settle(struct admin_settle *sum, const struct admin_settle *one)
{
  sum->verdict = one->verdict > sum->verdict ? one->verdict : sum->verdict;
  if (sum->code != CHI_OK || one->code == CHI_OK)
    return;
  sum->code = one->code;
  sum->container = one->container;
  memcpy(sum->error_message, one->error_message, sizeof sum->error_message);
}

/* Reports one after the other, with commas between: "{...},{...}". */
static void admin_sum_monitor(struct chi_admin_monitor *sum, const struct chi_admin_monitor *one)
{
  uint64_t used = sum->size, comma = used > 0;
  sum->size += one->size + comma;
  if (sum->size > sum->json.ref || used != sum->json.size || one->json.size != one->size)
    return; /* one of them didn't fit: size tells what is needed */
  char *at = (char *)sum->json.data + used;
  memcpy(at, ",", comma);
  memcpy(at + comma, one->json.data, one->size);
  sum->json.size = sum->size;
}

static int admin_aggregate(uint32_t method, void *into, const void *from)
{
  if (method == admin_settle_type.id)
    admin_sum_settle(into, from);
  else if (method == chi_admin_monitor_type.id)
    admin_sum_monitor(into, from);
  else if (method == chi_admin_flush_type.id)
    ((struct chi_admin_flush *)into)->total_work_done +=
        ((const struct chi_admin_flush *)from)->total_work_done;
  else if (method == chi_admin_stop_runtime_type.id)
    ((struct chi_admin_stop_runtime *)into)->cancelled +=
        ((const struct chi_admin_stop_runtime *)from)->cancelled;
  else
    return CHI_ENOTSUP;
  return CHI_OK;
}

#define ADMIN_METHODS(M, S)                                                                        \
  M(S, chi_admin_get_or_create_pool)                                                               \
  M(S, chi_admin_destroy_pool)                                                                     \
  M(S, chi_admin_stop_runtime)                                                                     \
  M(S, chi_admin_flush)                                                                            \
  M(S, chi_admin_monitor)                                                                          \
  M(S, chi_admin_find_pool)                                                                        \
  M(S, chi_admin_describe)                                                                         \
  M(S, chi_admin_migrate)                                                                          \
  M(S, admin_settle, METHOD_OF_NODES)                                                              \
  M(S, admin_adopt, METHOD_OF_NODES)
CHI_METHODS(admin, ADMIN_METHODS)

static const chi_module admin_definition = {
    .version = CHI_MODULE_VERSION,
    .name = "admin",
    .state_size = sizeof(struct admin),
    .methods = admin_methods,
    .aggregate = admin_aggregate,
};

const chi_module *admin_module(void)
{
  return &admin_definition;
}

int admin_open(struct admin_host *host, chi_error *err)
{
  struct module *m = module_find(host->modules, "admin");
  CHI_ASSERT(m != NULL);
  int rc = pool_open(host->crew->alloc, host->crew->count, CHI_ADMIN_POOL, "admin", m,
                     host->crew->nodes, host->crew->node, &host->pool);
  if (rc != CHI_OK)
    return error_set(err, rc, "no memory for the admin pool");
  ((struct admin *)host->pool->container.state)->host = host;
  host->pool->state = POOL_READY;
  directory_add(host->directory, host->pool);
  host->follow_at = UINT64_MAX;
  admin_figures_open(host);
  admin_pool_methods(host);
  return directory_publish(host->directory);
}

chi_ctx *admin_prepare(struct admin_host *host, struct method *method)
{
  struct worker *network = &host->crew->worker[host->crew->count - 1];
  uint32_t size = method->def->type->size;
  chi_ctx *ctx = worker_record(network, size);
  if (!ctx)
    return NULL;
  memset(ctx->task, 0, size);
  ctx->origin = TASK_FROM_NODE;
  ctx->container = &host->pool->container;
  ctx->method = method;
  return ctx;
}

void admin_start(struct admin_host *host, chi_ctx *ctx, bool shielded, void (*done)(chi_ctx *ctx),
                 void *arg)
{
  struct worker *network = &host->crew->worker[host->crew->count - 1];
  ctx->call_done = done;
  ctx->call_arg = arg;
  ctx->id = worker_new_id(network);
  ctx->root = ctx->id ^ host->crew->salt;
  ctx->shielded = shielded;
  tally_add(&network->accepted, 1);
  tally_add(&ctx->container->tally[network->index].active, 1);
  worker_submit(network, ctx);
}

#undef ADMIN_METHODS
#undef ADMIN_WAITING
#undef ADMIN_STOPPING
