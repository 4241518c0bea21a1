/* courier.c - the module of courier.h. It is parallel: bulk data doesn't hold up what is small. */
#include "courier.h"

#include <stdio.h>
#include <string.h>

struct courier {
  chi_file *ledger;
  uint64_t end; /* where the next entry goes */
  chi_mutex mutex;
};

static int courier_add_run(chi_ctx *ctx, struct courier *self, struct courier_add *t)
{
  (void)self;
  t->sum = t->a + t->b;
  t->container = chi_self_container(ctx);
  t->node = chi_self_node(ctx);
  return CHI_OK;
}

static int courier_sum_run(chi_ctx *ctx, struct courier *self, struct courier_sum *t)
{
  (void)self;
  t->sum = t->each;
  t->containers = UINT64_C(1) << chi_self_container(ctx);
  return CHI_OK;
}

static int courier_echo_run(chi_ctx *ctx, struct courier *self, struct courier_echo *t)
{
  (void)ctx;
  (void)self;
  if (t->data.size > t->back.size)
    return CHI_ETOOBIG;
  memcpy(t->back.data, t->data.data, t->data.size);
  t->back.size = t->data.size;
  t->check = courier_check(t->back.data, t->back.size);
  return CHI_OK;
}

static int courier_put_run(chi_ctx *ctx, struct courier *self, struct courier_put *t)
{
  (void)ctx;
  (void)self;
  t->check = courier_check(t->data.data, t->data.size);
  return CHI_OK;
}

static int courier_get_run(chi_ctx *ctx, struct courier *self, struct courier_get *t)
{
  (void)ctx;
  (void)self;
  courier_fill(t->data.data, t->data.size, t->seed);
  t->check = courier_check(t->data.data, t->data.size);
  return CHI_OK;
}

/* Where the next entry goes; every task has a place of its own. */
static int courier_place(chi_ctx *ctx, struct courier *self, uint64_t *at)
{
  int rc = chi_mutex_lock(ctx, &self->mutex, 0);
  if (rc != CHI_OK)
    return rc;
  *at = self->end;
  self->end += sizeof(struct courier_entry);
  return chi_mutex_unlock(ctx, &self->mutex);
}

/* A body that was asked to end before it has written anything says so: it has not run. */
static int courier_mark_run(chi_ctx *ctx, struct courier *self, struct courier_mark *t)
{
  struct courier_entry e = {.client = t->client,
                            .seq = t->seq,
                            .node = chi_self_node(ctx),
                            .container = chi_self_container(ctx)};
  uint64_t at = 0;
  int rc = courier_place(ctx, self, &at);
  if (rc != CHI_OK)
    return rc;
  e.check = courier_entry_check(&e);
  int64_t written = chi_file_write(ctx, self->ledger, &e, sizeof e, at);
  if (written < 0)
    return (int)written;
  t->containers = UINT64_C(1) << e.container;
  return t->work_us ? chi_sleep(ctx, t->work_us * UINT64_C(1000)) : CHI_OK;
}

static int courier_ping_run(chi_ctx *ctx, struct courier *self, struct courier_ping *t)
{
  (void)ctx;
  (void)self;
  t->answer = ~t->number;
  return CHI_OK;
}

#define COURIER_METHODS(M, S)                                                                      \
  M(S, courier_add)                                                                                \
  M(S, courier_sum)                                                                                \
  M(S, courier_echo)                                                                               \
  M(S, courier_put)                                                                                \
  M(S, courier_get)                                                                                \
  M(S, courier_mark)                                                                               \
  M(S, courier_ping)
CHI_METHODS(courier, COURIER_METHODS)

/* ---- the container --------------------------------------------------------------------------- */

/* The ledger of an earlier life is gone on with: what it holds has run. */
static int courier_create(chi_ctx *ctx, void *state, const void *params)
{
  struct courier *self = state;
  const struct courier_params *p = params;
  char path[CHI_PATH_MAX];
  if (chi_node_count(ctx) > COURIER_NODES)
    return CHI_ERANGE;
  snprintf(path, sizeof path, "%s/ledger-%u-%u", p->ledger, (unsigned)chi_self_node(ctx),
           (unsigned)chi_self_container(ctx));
  int rc = chi_file_open(ctx, path, CHI_FILE_CREATE | CHI_FILE_LOCK, &self->ledger);
  if (rc != CHI_OK) {
    chi_log(ctx, CHI_LOG_ERROR, "%s: %s", path, chi_status_text(rc));
    return rc;
  }
  int64_t size = chi_file_size(ctx, self->ledger);
  if (size < 0) {
    chi_file_close(ctx, self->ledger);
    return (int)size;
  }
  self->end = ((uint64_t)size + sizeof(struct courier_entry) - 1) / sizeof(struct courier_entry) *
              sizeof(struct courier_entry);
  return CHI_OK;
}

static void courier_destroy(chi_ctx *ctx, void *state)
{
  struct courier *self = state;
  chi_file_close(ctx, self->ledger);
}

static int courier_schedule(chi_ctx *ctx, void *state, const void *task, chi_query *query)
{
  const chi_task *t = task;
  (void)ctx;
  (void)state;
  query->mode = CHI_QUERY_HASH;
  if (t->method == courier_add_type.id)
    query->a = (uint32_t)((const struct courier_add *)task)->a;
  else if (t->method == courier_mark_type.id)
    query->a = (uint32_t)((const struct courier_mark *)task)->seq;
  else
    query->mode = CHI_QUERY_BROADCAST;
  return CHI_OK;
}

static int courier_aggregate(uint32_t method, void *into, const void *from)
{
  if (method == courier_sum_type.id) {
    struct courier_sum *all = into;
    all->sum += ((const struct courier_sum *)from)->sum;
    all->containers |= ((const struct courier_sum *)from)->containers;
  } else if (method == courier_mark_type.id) {
    ((struct courier_mark *)into)->containers |= ((const struct courier_mark *)from)->containers;
  }
  return CHI_OK;
}

static const chi_module courier_module = {.version = CHI_MODULE_VERSION,
                                          .flags = CHI_MODULE_PARALLEL,
                                          .name = "courier",
                                          .state_size = sizeof(struct courier),
                                          .params = &courier_params_type,
                                          .methods = courier_methods,
                                          .create = courier_create,
                                          .destroy = courier_destroy,
                                          .schedule = courier_schedule,
                                          .aggregate = courier_aggregate};

const chi_module *chi_module_entry(void)
{
  return &courier_module;
}
