/* admin_move.c - a container moves to another node, with its state.
 *
 * At the source: nobody is let in any more, those inside end, the state is saved and sent with the
 * next epoch. The target builds the container, and puts its new place into the table of all nodes.
 * Once the state is sent the source never serves again, unless the target says that it hasn't taken
 * it: what is lost then is lost with the target. Who asks at the old place is told the new one. */
#include "admin.h"
#include "ctx.h"
#include "error.h"

#define ADMIN_STATE_MAX (1ull << 32) /* bytes of a container's saved state */

/* ---- in the container */

#define ADMIN_SAVE(X, T) X(T, INOUT, bulk, state) X(T, OUT, u64, size)
CHI_TASK(admin_save, 4, ADMIN_SAVE)
#define ADMIN_LOAD(X, T) X(T, IN, bulk, state)
CHI_TASK(admin_load, 5, ADMIN_LOAD)

static int admin_save_body(chi_ctx *ctx, void *self, void *task)
{
  struct admin_save *t = task;
  int64_t size = ctx->container->pool->module->def->save(ctx, self, t->state.data, t->state.size);
  if (size < 0)
    return size < INT32_MIN ? CHI_EINVAL : (int)size;
  t->size = (uint64_t)size;
  return CHI_OK;
}

static int admin_load_body(chi_ctx *ctx, void *self, void *task)
{
  const struct admin_load *t = task;
  const struct pool *p = ctx->container->pool;
  return p->module->def->load(ctx, self, p->params, t->state.data, t->state.size);
}

static const chi_method admin_save_method = {&admin_save_type, admin_save_body, 0, 0};
static const chi_method admin_load_method = {&admin_load_type, admin_load_body, 0, 0};

/* Runs `method` in the container on `state`; *size: what it said. */
static int admin_run_on(chi_ctx *ctx, struct container *c, struct method *method, chi_bulk state,
                        uint64_t *size)
{
  struct admin_save *t = chi_subtask_new(ctx, method->def->type);
  if (!t)
    return CHI_ENOMEM;
  t->state = state;
  int rc = admin_run_sub(ctx, c, method, t);
  if (size)
    *size = t->size;
  chi_subtask_free(ctx, t);
  return rc;
}

/* Asks for the size first, and again if it has grown meanwhile. */
static int admin_save_state(chi_ctx *ctx, struct admin_host *host, struct container *c,
                            chi_bulk *state)
{
  *state = (chi_bulk){0};
  for (int attempt = 0; attempt < 8; attempt++) {
    uint64_t need = 0;
    int rc = admin_run_on(ctx, c, &host->save, *state, &need);
    if (rc == CHI_OK && need > ADMIN_STATE_MAX)
      rc = CHI_ETOOBIG;
    if (rc == CHI_OK && need <= state->size && state->data) {
      state->ref = state->size; /* as allocated */
      state->size = need;
      return CHI_OK;
    }
    chi_free(ctx, state->data, state->size);
    *state = (chi_bulk){0};
    if (rc != CHI_OK)
      return rc;
    state->data = chi_alloc(ctx, need ? need : 1);
    if (!state->data)
      return CHI_ENOMEM;
    state->size = need ? need : 1;
  }
  chi_free(ctx, state->data, state->size);
  *state = (chi_bulk){0};
  return CHI_EBUSY;
}

/* ---- places */

static uint64_t admin_epoch(const struct accord_entry *e, uint32_t index)
{
  for (uint32_t i = 0; e && i < e->move_count; i++)
    if (e->move[i].index == index)
      return e->move[i].epoch;
  return 0;
}

/* All nodes are to know. CHI_OK as well if they do. */
static int admin_tell_move(chi_ctx *ctx, struct admin_host *host, chi_pool_id id,
                           const struct accord_move *move)
{
  int rc = accord_move(host->accord, id, move);
  while (rc == CHI_ENOMEM) {
    ctx_pause(ctx, 10000000);
    rc = accord_move(host->accord, id, move);
  }
  const struct accord_entry *e = accord_find(host->accord, id);
  for (uint32_t i = 0; rc == CHI_ECONFLICT && e && i < e->move_count; i++)
    if (e->move[i].index == move->index && e->move[i].epoch == move->epoch &&
        e->move[i].node == move->node)
      rc = CHI_OK;
  return rc;
}

/* Tells the workers, and waits until no task is in the container any more. */
static void admin_empty(chi_ctx *ctx, struct admin_host *host, struct container *c)
{
  mark_set(&c->leaving, 1);
  admin_publish(ctx, host->directory);
  worker_cancel_changed(ctx->worker); /* periodic tasks end */
  for (uint64_t ns = 200000; !directory_settled(host->directory) || pool_container_active(c) != 0;
       ns = ns < 50000000 ? ns * 2 : ns)
    ctx_pause(ctx, ns);
}

static void admin_place(chi_ctx *ctx, struct admin_host *host, struct pool *p, uint32_t index,
                        uint32_t node, struct container *here)
{
  while (pool_move(host->crew->alloc, p, index, node, here) != CHI_OK)
    ctx_pause(ctx, 10000000);
}

/* What was here is no longer: its module ends it. */
static void admin_drop_container(chi_ctx *ctx, struct admin_host *host, struct container *c)
{
  admin_end_container(ctx, host, c);
  if (c != &c->pool->container)
    pool_container_close(host->crew->alloc, c);
}

/* Whether a move of the table is still to be followed here. One to this node is, if no container
 * came with it: that was in an earlier life of the node. */
static bool admin_is_behind(const struct admin_host *host, const struct pool *p,
                            const struct accord_move *m)
{
  if (m->index >= p->map->count)
    return false;
  if (m->node == host->crew->node)
    return !p->map->at[m->index].here && p->moving == 0;
  return p->map->at[m->index].node != m->node;
}

/* The table may change while one waits, so it is asked anew each time. */
static bool admin_next_move(const struct admin_host *host, const struct pool *p,
                            struct accord_move *out)
{
  const struct accord_entry *e = accord_find(host->accord, p->id);
  for (uint32_t i = 0; e && i < e->move_count; i++) {
    if (admin_is_behind(host, p, &e->move[i])) {
      *out = e->move[i];
      return true;
    }
  }
  return false;
}

/* From now on until admin_moved nobody else begins to move containers of the pool. */
static void admin_moving(struct pool *p)
{
  p->moving++;
}

static void admin_moved(struct admin_host *host, struct pool *p)
{
  CHI_ASSERT(p->moving > 0);
  p->moving--;
  host->follow_at = 0; /* what had to wait for that */
}

/* A container that moved here, and was lost with an earlier life of this node, begins anew. */
static bool admin_rebuild(chi_ctx *ctx, struct admin_host *host, struct pool *p, uint32_t index)
{
  struct container *c = NULL;
  int rc = pool_container_open(host->crew->alloc, p, index, &c);
  if (rc == CHI_OK)
    rc = admin_run_in(ctx, c, &host->create);
  if (rc == CHI_OK) {
    admin_place(ctx, host, p, index, host->crew->node, c);
    return true;
  }
  log_write(&host->crew->log, CHI_LOG_WARNING, "container %u of pool %s: %s", index, p->name,
            rc > 0 ? "a code of its own" : chi_status_text(rc));
  if (c)
    pool_container_close(host->crew->alloc, c);
  return false;
}

static bool admin_apply(chi_ctx *ctx, struct admin_host *host, struct pool *p,
                        const struct accord_move *m)
{
  struct container *here = p->map->at[m->index].here;
  if (m->node == host->crew->node)
    return admin_rebuild(ctx, host, p, m->index);
  admin_place(ctx, host, p, m->index, m->node, NULL);
  if (here) {
    admin_empty(ctx, host, here);
    admin_drop_container(ctx, host, here);
  }
  return true;
}

void admin_apply_moves(chi_ctx *ctx, struct admin_host *host, struct pool *p)
{
  struct accord_move m;
  bool changed = false, goes_on = true;
  while (goes_on && p->state == POOL_READY && admin_next_move(host, p, &m)) {
    ctx_shield(ctx);
    admin_moving(p);
    goes_on = admin_apply(ctx, host, p, &m);
    changed = changed || goes_on;
    admin_moved(host, p);
  }
  if (!changed)
    return;
  admin_publish(ctx, host->directory);
  host->changed(host->arg);
}

int admin_first_places(struct admin_host *host, struct pool *p)
{
  const struct accord_entry *e = accord_find(host->accord, p->id);
  int rc = CHI_OK;
  for (uint32_t i = 0; e && i < e->move_count && rc == CHI_OK; i++) {
    const struct accord_move *m = &e->move[i];
    struct container *c = NULL;
    if (m->index >= p->map->count || p->map->at[m->index].node == m->node)
      continue;
    if (m->node == host->crew->node)
      rc = pool_container_open(host->crew->alloc, p, m->index, &c);
    if (rc == CHI_OK)
      rc = pool_move(host->crew->alloc, p, m->index, m->node, c);
  }
  return rc;
}

/* ---- at the target */

static int admin_take_in(chi_ctx *ctx, struct admin_host *host, struct pool *p,
                         const struct admin_adopt *t)
{
  struct container *c = NULL;
  int rc = pool_container_open(host->crew->alloc, p, t->container, &c);
  if (rc != CHI_OK)
    return rc;
  rc = admin_run_on(ctx, c, &host->load, t->state, NULL);
  const struct accord_entry *e = accord_find(host->accord, t->pool_id);
  if (rc == CHI_OK && (p->state != POOL_READY || !e || e->state > ACCORD_READY))
    rc = CHI_ENOENT;
  if (rc == CHI_OK)
    rc = admin_tell_move(ctx, host, t->pool_id,
                         &(struct accord_move){t->container, host->crew->node, t->epoch});
  if (rc != CHI_OK) {
    pool_container_close(host->crew->alloc, c);
    return rc;
  }
  ctx_shield(ctx);
  admin_place(ctx, host, p, t->container, host->crew->node, c);
  admin_publish(ctx, host->directory);
  host->changed(host->arg);
  return CHI_OK;
}

int admin_adopt_here(chi_ctx *ctx, struct admin_host *host, struct admin_adopt *t)
{
  if (!ctx->key_seq || !host->accord)
    return CHI_EACCES;
  if (mark_get(&host->crew->draining)) /* its state would be lost */
    return CHI_ESHUTDOWN;
  struct pool *p = directory_find(host->directory, t->pool_id);
  const struct accord_entry *e = accord_find(host->accord, t->pool_id);
  if (!p || p->state != POOL_READY || !e || t->container >= p->map->count)
    return CHI_ENOENT;
  if (!p->module->def->load)
    return CHI_ENOTSUP;
  if (admin_epoch(e, t->container) >= t->epoch || p->map->at[t->container].here)
    return CHI_EEXIST;
  admin_moving(p);
  int rc = admin_take_in(ctx, host, p, t);
  admin_moved(host, p);
  return rc;
}

/* ---- at the source */

static int admin_send_state(chi_ctx *ctx, const struct pool *p, uint32_t index, uint32_t node,
                            uint64_t epoch, const chi_bulk *state)
{
  struct admin_adopt *t = chi_subtask_new(ctx, &admin_adopt_type);
  if (!t)
    return CHI_ENOMEM;
  t->task.pool = CHI_ADMIN_POOL;
  t->task.query = (chi_query){.mode = CHI_QUERY_PHYSICAL, .a = node};
  t->task.io_size = state->size;
  t->pool_id = p->id;
  t->container = index;
  t->epoch = epoch;
  t->state = *state;
  int rc = chi_subtask_submit(ctx, t);
  while (rc == CHI_OK && !chi_subtask_done(ctx, t))
    ctx_pause(ctx, 1000000);
  rc = rc == CHI_OK ? ((const chi_task *)t)->rc : rc;
  chi_subtask_free(ctx, t);
  return rc;
}

static int admin_move_checked(chi_ctx *ctx, struct admin_host *host, struct pool *p,
                              uint32_t index, uint32_t node, chi_error *err)
{
  struct container *c = p->map->at[index].here;
  uint64_t epoch = admin_epoch(accord_find(host->accord, p->id), index) + 1;
  uint32_t self = host->crew->node;
  chi_bulk state;
  ctx_shield(ctx);
  admin_moving(p);
  admin_place(ctx, host, p, index, self, NULL);
  admin_empty(ctx, host, c);
  int rc = admin_save_state(ctx, host, c, &state);
  if (rc == CHI_OK) {
    uint64_t room = state.ref;
    state.ref = 0;
    rc = admin_send_state(ctx, p, index, node, epoch, &state);
    chi_free(ctx, state.data, room);
  } else {
    error_set(err, rc, "container %u cannot be saved: %s", index, chi_status_text(rc));
  }
  bool gone = rc == CHI_OK || rc == CHI_EUNKNOWN || rc == CHI_EEXIST;
  if (gone) /* if the target loses it before all nodes know, it is to begin anew there */
    admin_tell_move(ctx, host, p->id, &(struct accord_move){index, node, epoch});
  mark_set(&c->leaving, gone);
  /* It may have moved on by now, even back to here: then its place is not for us to say. */
  if (admin_epoch(accord_find(host->accord, p->id), index) <= epoch)
    admin_place(ctx, host, p, index, gone ? node : self, gone ? NULL : c);
  admin_publish(ctx, host->directory);
  host->changed(host->arg);
  if (gone)
    admin_drop_container(ctx, host, c);
  admin_moved(host, p);
  if (rc != CHI_OK && !err->code)
    error_set(err, rc, "node %u does not take container %u: %s", node, index, chi_status_text(rc));
  return rc;
}

int admin_migrate_here(chi_ctx *ctx, struct admin_host *host, struct chi_admin_migrate *t,
                       chi_error *err)
{
  struct pool *p = directory_find(host->directory, t->pool_id);
  if (!p || p->state != POOL_READY)
    return error_set(err, CHI_ENOENT, "no pool %u.%u is ready here", t->pool_id.major,
                     t->pool_id.minor);
  if (t->container >= p->map->count || t->node >= host->crew->nodes)
    return error_set(err, CHI_ERANGE, "pool %u.%u has %u containers, and there are %u nodes",
                     t->pool_id.major, t->pool_id.minor, p->map->count, host->crew->nodes);
  if (!p->shared || !p->module->def->save || !p->module->def->load)
    return error_set(err, CHI_ENOTSUP, "containers of pool %s do not move", p->name);
  if (p->map->at[t->container].node == t->node)
    return CHI_OK;
  struct container *c = p->map->at[t->container].here;
  if (!c)
    return error_set(err, CHI_ENOENT, "container %u is on node %u: ask there", t->container,
                     p->map->at[t->container].node);
  for (const chi_ctx *up = ctx->parent; up; up = up->parent)
    if (up->container == c)
      return error_set(err, CHI_EDEADLOCK, "container %u would wait for its own task",
                       t->container);
  return admin_move_checked(ctx, host, p, t->container, t->node, err);
}

void admin_move_methods(struct admin_host *host)
{
  admin_method(&host->save, &admin_save_method);
  admin_method(&host->load, &admin_load_method);
}

#undef ADMIN_SAVE
#undef ADMIN_LOAD
#undef ADMIN_STATE_MAX
