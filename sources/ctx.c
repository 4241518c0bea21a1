/* ctx.c - what a method may call: time, subtasks, locks, files. */
#include "ctx.h"
#include "route.h"
#include "sync.h"
#include "worker.h"

#include <stdarg.h>
#include <stdio.h>

#define CTX_LOG_BURST 20u /* lines a second that a container may log on one worker */
#define CTX_LOG_NAME 100  /* bytes of a pool's name in them */

/* ---- time and identity */

uint64_t chi_now(chi_ctx *ctx)
{
  struct env *env = ctx->worker->crew->env;
  uint64_t now = env->clock(env);
  if (now > ctx->worker->now)
    ctx->worker->now = now;
  return ctx->worker->now;
}

uint64_t chi_random(chi_ctx *ctx)
{
  struct env *env = ctx->worker->crew->env;
  return env->random(env);
}

int chi_cancelled(chi_ctx *ctx)
{
  if (ctx->deadline != UINT64_MAX)
    chi_now(ctx);
  return worker_cancelled(ctx);
}

chi_pool_id chi_self_pool(chi_ctx *ctx)
{
  return ctx->container->pool->id;
}

const char *chi_self_pool_name(chi_ctx *ctx)
{
  return ctx->container->pool->name;
}

uint32_t chi_self_container(chi_ctx *ctx)
{
  return ctx->container->index;
}

uint32_t chi_self_node(chi_ctx *ctx)
{
  return ctx->worker->crew->node;
}

uint32_t chi_node_count(chi_ctx *ctx)
{
  return ctx->worker->crew->nodes;
}

void chi_log(chi_ctx *ctx, int level, const char *fmt, ...)
{
  char text[256], label[TASK_LABEL];
  struct worker *w = ctx->worker;
  const struct pool *pool = ctx->container->pool;
  va_list ap;
  if (level < w->crew->log.level)
    return;
  va_start(ap, fmt);
  vsnprintf(text, sizeof text, fmt, ap);
  va_end(ap);
  log_burst(&w->crew->log, &ctx->container->tally[w->index].log, CTX_LOG_BURST, chi_now(ctx), level,
            "pool %u.%u (%.*s): %s %s", pool->id.major, pool->id.minor, CTX_LOG_NAME, pool->name,
            text, task_label(ctx, label, sizeof label));
}

void *chi_alloc(chi_ctx *ctx, size_t size)
{
  return alloc_get(ctx->worker->crew->alloc, size ? size : 1);
}

void chi_free(chi_ctx *ctx, void *p, size_t size)
{
  alloc_put(ctx->worker->crew->alloc, p, size ? size : 1);
}

void ctx_trace(chi_ctx *ctx, int what, uint64_t a, uint64_t b, uint64_t c)
{
  struct env *env = ctx->worker->crew->env;
  if (env->trace)
    env->trace(env, what, a, b, c);
}

int ctx_data_take(chi_ctx *ctx, uint64_t size, uint64_t *left)
{
  struct worker_crew *crew = ctx->worker->crew;
  uint64_t used;
  do {
    used = mark_get(&crew->data_used);
    CHI_ASSERT(used <= crew->data_budget);
    *left = crew->data_budget - used;
    if (size > *left)
      return CHI_ENOMEM;
  } while (!mark_change(&crew->data_used, used, used + size));
  return CHI_OK;
}

void ctx_data_give(chi_ctx *ctx, uint64_t size)
{
  uint64_t before = count_add(&ctx->worker->crew->data_used, (uint64_t)0 - size);
  CHI_ASSERT(before >= size);
}

static uint64_t ctx_until(chi_ctx *ctx, uint64_t timeout_ns)
{
  if (timeout_ns == 0 || timeout_ns == UINT64_MAX)
    return UINT64_MAX;
  uint64_t now = chi_now(ctx);
  return timeout_ns > UINT64_MAX - now ? UINT64_MAX : now + timeout_ns;
}

int chi_sleep(chi_ctx *ctx, uint64_t ns)
{
  int rc = chi_cancelled(ctx);
  if (rc != CHI_OK)
    return rc;
  uint64_t now = chi_now(ctx);
  return worker_block(ctx, TASK_WAIT_TIME, ns > UINT64_MAX - now ? UINT64_MAX : now + ns);
}

int chi_yield(chi_ctx *ctx)
{
  int rc = worker_cancelled(ctx);
  return rc != CHI_OK ? rc : worker_block(ctx, TASK_WAIT_TIME, ctx->worker->now);
}

void ctx_shield(chi_ctx *ctx)
{
  ctx->shielded = true;
}

void ctx_pause(chi_ctx *ctx, uint64_t ns)
{
  worker_block(ctx, TASK_WAIT_PAUSE, chi_now(ctx) + ns);
}

/* ---- subtasks */

void *chi_subtask_new(chi_ctx *ctx, const chi_type *type)
{
  chi_ctx *sub = type->size < sizeof(chi_task) ? NULL : worker_record(ctx->worker, type->size);
  if (!sub)
    return NULL;
  memset(sub->task, 0, type->size);
  sub->task->method = type->id;
  sub->origin = TASK_FROM_PARENT;
  sub->ended = true;
  sub->parent = ctx;
  sub->sibling = ctx->child;
  ctx->child = sub;
  return sub->task;
}

void *chi_subtask_new_failures(chi_ctx *ctx, const chi_type *type)
{
  const chi_type with = task_with_failures(type);
  chi_task *t = chi_subtask_new(ctx, &with);
  if (t)
    t->flags = CHI_TASK_FAILURES;
  return t;
}

void ctx_aim(void *subtask, struct container *container, struct method *method, bool slow)
{
  chi_ctx *sub = task_record(subtask);
  sub->container = container;
  sub->method = method;
  sub->slow = slow;
  sub->resolved = true;
}

static void ctx_unlink(chi_ctx *ctx, chi_ctx *sub)
{
  chi_ctx **at = &ctx->child;
  while (*at != sub) {
    CHI_ASSERT(*at != NULL);
    at = &(*at)->sibling;
  }
  *at = sub->sibling;
}

/* Whether the pool waits for this task: it is called, over however many others, by its create. */
static bool ctx_is_awaited_by(const chi_ctx *ctx, const struct pool *p)
{
  while (ctx && ctx->container->pool != p)
    ctx = ctx->parent;
  return ctx != NULL;
}

/* Whether a subtask may wait for its pool, which is in creation. */
static int ctx_may_wait(const chi_ctx *ctx, const struct pool_entry *entry, const chi_task *t)
{
  if (entry->state != POOL_CREATING)
    return CHI_ENOENT;
  bool alone = (t->flags & CHI_TASK_FORGET) != 0;
  return alone || !ctx_is_awaited_by(ctx, entry->pool) ? CHI_OK : CHI_EDEADLOCK;
}

/* Finds container and method of a subtask in this worker's snapshot. */
static int ctx_resolve(chi_ctx *ctx, chi_ctx *sub)
{
  struct worker *w = ctx->worker;
  const chi_task *t = sub->task;
  const struct pool_entry *entry = pool_table_find(w->table, t->pool);
  int rc = !entry ? CHI_ENOENT : entry->state == POOL_READY ? CHI_OK : ctx_may_wait(ctx, entry, t);
  if (rc != CHI_OK)
    return rc;
  sub->early = entry->state == POOL_CREATING;
  struct method *m = module_method(entry->pool->module, t->method);
  if (!m)
    return CHI_ENOMETHOD;
  if (TASK_RECORD + task_room(m->plan.type, t->flags) > sub->size ||
      ((t->flags & CHI_TASK_PERIODIC) && t->period_us == 0))
    return CHI_EINVAL;
  struct route route;
  rc = route_resolve(&t->query, entry->map, w->crew->node, &route);
  if (rc != CHI_OK)
    return rc;
  sub->container = route.here ? route.here : &entry->pool->container;
  sub->map = NULL;
  if (!route.here || (t->flags & CHI_TASK_FORCE_NET))
    worker_aim(sub, entry->map, route.first, route.count);
  sub->method = m;
  uint64_t us = t->compute_us ? t->compute_us : m->def->compute_us;
  sub->slow = cost_declared(us, t->io_size) >= COST_SLOW_NS;
  return CHI_OK;
}

/* The next buffer of a task from field *at on; NULL: there is none. */
static const chi_bulk *ctx_buffer(const chi_ctx *ctx, uint32_t *at)
{
  const chi_type *type = ctx->method->plan.type;
  while (*at < type->field_count && type->fields[*at].kind != CHI_KIND_bulk)
    ++*at;
  if (*at == type->field_count)
    return NULL;
  return (const chi_bulk *)(const void *)((const char *)ctx->task + type->fields[(*at)++].offset);
}

/* Whether a subtask was given a buffer of the task that submits it, or a part of one. */
static bool ctx_passes_buffer(const chi_ctx *ctx, const chi_ctx *sub)
{
  const chi_bulk *given, *own;
  for (uint32_t i = 0; (given = ctx_buffer(sub, &i)) != NULL;) {
    uintptr_t at = (uintptr_t)given->data;
    for (uint32_t k = 0; at && (own = ctx_buffer(ctx, &k)) != NULL;)
      if (own->data && at - (uintptr_t)own->data <= own->size)
        return true;
  }
  return false;
}

int chi_subtask_submit(chi_ctx *ctx, void *task)
{
  chi_ctx *sub = task_record(task);
  struct worker *w = ctx->worker;
  if (sub->parent != ctx || !sub->ended)
    return CHI_EINVAL;
  if (ctx->depth + 1u >= WORKER_DEPTH)
    return CHI_EBUSY;
  int rc = sub->resolved ? CHI_OK : ctx_resolve(ctx, sub);
  if (rc != CHI_OK)
    return rc;
  if ((sub->task->flags & CHI_TASK_FORGET) && ctx_passes_buffer(ctx, sub))
    return CHI_EINVAL; /* it would outlive the buffer */
  sub->depth = (uint8_t)(ctx->depth + 1);
  sub->id = worker_new_id(w);
  sub->root = ctx->root;
  sub->worker = NULL;
  sub->cancel = 0;
  sub->ended = false;
  sub->shielded = ctx->shielded;
  sub->deadline = UINT64_MAX;
  if (sub->task->deadline_ms)
    sub->deadline = w->now + sub->task->deadline_ms * 1000000ull;
  if (sub->task->flags & CHI_TASK_FORGET) {
    ctx_unlink(ctx, sub);
    sub->parent = NULL;
    sub->queue = NULL;
    sub->depth = 0;
  } else {
    sub->queue = ctx->queue;
    sub->slot = ctx->slot;
    sub->tag = ctx->tag;
    sub->deadline = ctx->deadline < sub->deadline ? ctx->deadline : sub->deadline;
    ctx->running++;
  }
  tally_add(&w->accepted, 1);
  tally_add(&sub->container->tally[w->index].active, 1);
  if (CHI_UNLIKELY(sub->early))
    worker_submit_early(w, sub);
  else
    worker_submit(w, sub);
  return CHI_OK;
}

int chi_subtask_done(chi_ctx *ctx, const void *task)
{
  (void)ctx;
  return task_record(task)->ended;
}

int chi_subtask_wait(chi_ctx *ctx, void *task, uint64_t timeout_ns)
{
  chi_ctx *sub = task_record(task);
  if (sub == ctx)
    return CHI_EDEADLOCK;
  if (sub->parent != ctx)
    return CHI_EINVAL;
  uint64_t until = ctx_until(ctx, timeout_ns);
  while (!sub->ended) {
    int rc = chi_cancelled(ctx);
    if (rc == CHI_OK) {
      ctx->awaited = sub;
      rc = worker_block(ctx, TASK_WAIT_SUBTASK, until);
    }
    if (rc != CHI_OK && !sub->ended)
      return rc;
  }
  return sub->task->rc;
}

int chi_subtask_wait_all(chi_ctx *ctx)
{
  while (ctx->running > 0) {
    int rc = chi_cancelled(ctx);
    if (rc == CHI_OK) {
      ctx->awaited = NULL;
      rc = worker_block(ctx, TASK_WAIT_SUBTASK, UINT64_MAX);
    }
    if (rc != CHI_OK && ctx->running > 0)
      return rc;
  }
  int first = CHI_OK;
  for (chi_ctx *sub = ctx->child; sub; sub = sub->sibling) {
      if (sub->task->rc != CHI_OK)
      first = sub->task->rc; /* the list is newest first */
  }
  return first;
}

int chi_subtask_cancel(chi_ctx *ctx, void *task)
{
  chi_ctx *sub = task_record(task);
  if (sub->parent != ctx)
    return CHI_EINVAL;
  if (sub->ended)
    return CHI_OK;
  mark_set(&sub->cancel, CHI_ECANCELLED);
  worker_cancel_changed(ctx->worker);
  return CHI_OK;
}

void chi_subtask_free(chi_ctx *ctx, void *task)
{
  chi_ctx *sub = task_record(task);
  CHI_ASSERT(sub->parent == ctx);
  if (!sub->ended) { /* freed with ctx, at the latest */
    chi_subtask_cancel(ctx, task);
    return;
  }
  ctx_unlink(ctx, sub);
  worker_record_free(ctx->worker, sub);
}

int chi_call(chi_ctx *ctx, void *task)
{
  int rc = chi_subtask_submit(ctx, task);
  return rc != CHI_OK ? rc : chi_subtask_wait(ctx, task, 0);
}

/* ---- locks */

static int ctx_wait_lock(chi_ctx *ctx, int rc, uint64_t timeout_ns)
{
  if (rc != CHI_EBUSY)
    return rc;
  return worker_block(ctx, TASK_WAIT_SYNC, ctx_until(ctx, timeout_ns));
}

int chi_mutex_lock(chi_ctx *ctx, chi_mutex *m, uint64_t timeout_ns)
{
  int rc = chi_cancelled(ctx);
  return rc != CHI_OK ? rc : ctx_wait_lock(ctx, sync_mutex_lock(m, ctx, true), timeout_ns);
}

int chi_mutex_trylock(chi_ctx *ctx, chi_mutex *m)
{
  return sync_mutex_lock(m, ctx, false);
}

int chi_mutex_unlock(chi_ctx *ctx, chi_mutex *m)
{
  chi_ctx *woken = NULL;
  int rc = sync_mutex_unlock(m, ctx, &woken);
  worker_wake_all(ctx->worker, woken);
  return rc;
}

static int ctx_rwlock(chi_ctx *ctx, chi_rwlock *l, bool write, uint64_t timeout_ns)
{
  int rc = chi_cancelled(ctx);
  if (rc != CHI_OK)
    return rc;
  return ctx_wait_lock(ctx, sync_rwlock_lock(l, ctx, write, ctx->worker->crew->alloc), timeout_ns);
}

int chi_rwlock_rdlock(chi_ctx *ctx, chi_rwlock *l, uint64_t timeout_ns)
{
  return ctx_rwlock(ctx, l, false, timeout_ns);
}

int chi_rwlock_wrlock(chi_ctx *ctx, chi_rwlock *l, uint64_t timeout_ns)
{
  return ctx_rwlock(ctx, l, true, timeout_ns);
}

int chi_rwlock_unlock(chi_ctx *ctx, chi_rwlock *l)
{
  chi_ctx *woken = NULL;
  int rc = sync_rwlock_unlock(l, ctx, ctx->worker->crew->alloc, &woken);
  worker_wake_all(ctx->worker, woken);
  return rc;
}

int chi_event_wait(chi_ctx *ctx, chi_event *e, uint64_t timeout_ns)
{
  int rc = chi_cancelled(ctx);
  return rc != CHI_OK ? rc : ctx_wait_lock(ctx, sync_event_wait(e, ctx), timeout_ns);
}

void chi_event_set(chi_ctx *ctx, chi_event *e)
{
  chi_ctx *woken = NULL;
  sync_event_set(e, &woken);
  worker_wake_all(ctx->worker, woken);
}

void chi_event_reset(chi_ctx *ctx, chi_event *e)
{
  (void)ctx;
  sync_event_reset(e);
}

/* ---- files: a chi_file is the environment's handle plus one, as a pointer */

static int64_t ctx_file_handle(const chi_file *file)
{
  return (int64_t)(intptr_t)file - 1;
}

static int64_t ctx_file_run(chi_ctx *ctx, int op, chi_file *file, uint64_t size)
{
  struct env_io io = {.op = op, .file = ctx_file_handle(file), .size = size};
  return worker_io_run(ctx, &io);
}

int chi_file_open(chi_ctx *ctx, const char *path, uint32_t flags, chi_file **out)
{
  struct env_io io = {.op = ENV_IO_OPEN, .path = path, .flags = flags};
  int64_t result = worker_io_run(ctx, &io);
  if (result < 0)
    return (int)result;
  *out = (chi_file *)(intptr_t)(result + 1);
  return CHI_OK;
}

int chi_file_close(chi_ctx *ctx, chi_file *file)
{
  return (int)ctx_file_run(ctx, ENV_IO_CLOSE, file, 0);
}

/* The environment may move less than was asked for; callers here may not. */
static int64_t ctx_file_move(chi_ctx *ctx, int op, chi_file *file, char *buf, uint64_t size,
                             uint64_t offset)
{
  uint64_t done = 0;
  while (done < size) {
    struct env_io io = {.op = op,
                        .file = ctx_file_handle(file),
                        .buf = buf + done,
                        .size = size - done,
                        .offset = offset + done};
    int64_t moved = worker_io_run(ctx, &io);
    if (moved < 0)
      return moved;
    if (moved == 0)
      return op == ENV_IO_READ ? (int64_t)done : CHI_EIO;
    done += (uint64_t)moved;
  }
  return (int64_t)done;
}

int64_t chi_file_read(chi_ctx *ctx, chi_file *file, void *buf, uint64_t size, uint64_t offset)
{
  return ctx_file_move(ctx, ENV_IO_READ, file, buf, size, offset);
}

int64_t chi_file_write(chi_ctx *ctx, chi_file *file, const void *buf, uint64_t size,
                       uint64_t offset)
{
  return ctx_file_move(ctx, ENV_IO_WRITE, file, (char *)(uintptr_t)buf, size, offset);
}

int chi_file_sync(chi_ctx *ctx, chi_file *file)
{
  return (int)ctx_file_run(ctx, ENV_IO_SYNC, file, 0);
}

int64_t chi_file_size(chi_ctx *ctx, chi_file *file)
{
  return ctx_file_run(ctx, ENV_IO_SIZE, file, 0);
}

int chi_file_truncate(chi_ctx *ctx, chi_file *file, uint64_t size)
{
  return (int)ctx_file_run(ctx, ENV_IO_TRUNCATE, file, size);
}

static int64_t ctx_path_run(chi_ctx *ctx, int op, const char *path, const char *path2)
{
  struct env_io io = {.op = op, .path = path, .path2 = path2};
  return worker_io_run(ctx, &io);
}

int chi_file_rename(chi_ctx *ctx, const char *from, const char *to)
{
  return (int)ctx_path_run(ctx, ENV_IO_RENAME, from, to);
}

int chi_file_remove(chi_ctx *ctx, const char *path)
{
  return (int)ctx_path_run(ctx, ENV_IO_REMOVE, path, NULL);
}

int chi_file_dirsync(chi_ctx *ctx, const char *path)
{
  return (int)ctx_path_run(ctx, ENV_IO_DIRSYNC, path, NULL);
}

int64_t chi_file_space(chi_ctx *ctx, const char *path)
{
  return ctx_path_run(ctx, ENV_IO_SPACE, path, NULL);
}

#undef CTX_LOG_BURST
#undef CTX_LOG_NAME
