/* unruly.c - a module that misbehaves in every way that a node has to live with. */
#define _POSIX_C_SOURCE 200809L
#include "modules/unruly.h"

#include <string.h>
#include <time.h>

struct unruly {
  chi_mutex mutex;
  chi_event event;
  uint32_t inside;
};

static uint64_t unruly_clock(void)
{
  struct timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

static int unruly_spin_run(chi_ctx *ctx, struct unruly *self, struct unruly_spin *t)
{
  uint64_t end = unruly_clock() + t->ns;
  (void)ctx;
  (void)self;
  while (unruly_clock() < end)
    ;
  return CHI_OK;
}

__attribute__((noinline)) static uint64_t unruly_dig(uint64_t depth)
{
  volatile char room[512];
  memset((char *)(uintptr_t)room, (int)depth, sizeof(room));
  return depth == 0 ? 0 : unruly_dig(depth - 1) + (uint64_t)room[depth % sizeof(room)];
}

static int unruly_overrun_run(chi_ctx *ctx, struct unruly *self, struct unruly_overrun *t)
{
  (void)ctx;
  (void)self;
  t->sum = unruly_dig(t->depth);
  return CHI_OK;
}

static int unruly_code_run(chi_ctx *ctx, struct unruly *self, struct unruly_code *t)
{
  (void)ctx;
  (void)self;
  return t->code;
}

static int unruly_self_run(chi_ctx *ctx, struct unruly *self, struct unruly_self *t)
{
  (void)self;
  return chi_subtask_wait(ctx, t, 0);
}

static int unruly_deep_run(chi_ctx *ctx, struct unruly *self, struct unruly_deep *t)
{
  (void)self;
  if (t->left == 0)
    return CHI_OK;
  struct unruly_deep *sub = chi_subtask_new(ctx, &unruly_deep_type);
  if (!sub)
    return CHI_ENOMEM;
  sub->task.pool = chi_self_pool(ctx);
  sub->left = t->left - 1;
  t->why = chi_call(ctx, sub);
  t->depth = 1;
  if (t->why == CHI_OK || sub->depth > 0) {
    t->depth += sub->depth;
    t->why = sub->why;
  }
  return CHI_OK;
}

static int unruly_deaf_run(chi_ctx *ctx, struct unruly *self, struct unruly_deaf *t)
{
  uint64_t end = unruly_clock() + t->ns;
  (void)self;
  while (unruly_clock() < end)
    if (chi_sleep(ctx, 1000000) != CHI_OK)
      nanosleep(&(struct timespec){0, 1000000}, NULL);
  return CHI_OK;
}

static int unruly_lock_run(chi_ctx *ctx, struct unruly *self, struct unruly_lock *t)
{
  int rc = chi_mutex_lock(ctx, &self->mutex, 0);
  if (rc != CHI_OK)
    return rc;
  t->inside = ++self->inside;
  rc = chi_sleep(ctx, t->ns);
  self->inside--;
  chi_mutex_unlock(ctx, &self->mutex);
  return rc;
}

static int unruly_await_run(chi_ctx *ctx, struct unruly *self, struct unruly_await *t)
{
  (void)t;
  return chi_event_wait(ctx, &self->event, 0);
}

static int unruly_set_run(chi_ctx *ctx, struct unruly *self, struct unruly_set *t)
{
  (void)t;
  chi_event_set(ctx, &self->event);
  return CHI_OK;
}

static int unruly_leave_run(chi_ctx *ctx, struct unruly *self, struct unruly_leave *t)
{
  (void)self;
  for (uint32_t i = 0; i < t->count; i++) {
    struct unruly_deaf *sub = chi_subtask_new(ctx, &unruly_deaf_type);
    if (!sub)
      return CHI_ENOMEM;
    sub->task.pool = chi_self_pool(ctx);
    sub->ns = t->ns;
    int rc = chi_subtask_submit(ctx, sub);
    if (rc != CHI_OK)
      return rc;
  }
  return CHI_OK;
}

static int unruly_alloc_run(chi_ctx *ctx, struct unruly *self, struct unruly_alloc *t)
{
  char *p = chi_alloc(ctx, t->size);
  (void)self;
  if (!p)
    return CHI_ENOMEM;
  memset(p, 1, t->size);
  int rc = chi_yield(ctx);
  chi_free(ctx, p, t->size);
  return rc;
}

static int unruly_suicide_run(chi_ctx *ctx, struct unruly *self, struct unruly_suicide *t)
{
  struct chi_admin_destroy_pool *sub = chi_subtask_new(ctx, &chi_admin_destroy_pool_type);
  (void)self;
  if (!sub)
    return CHI_ENOMEM;
  sub->task.pool = CHI_ADMIN_POOL;
  sub->pool_id = chi_self_pool(ctx);
  int rc = chi_call(ctx, sub);
  memcpy(t->error_message, sub->error_message, sizeof(t->error_message));
  return rc;
}

static int unruly_flush_run(chi_ctx *ctx, struct unruly *self, struct unruly_flush *t)
{
  struct chi_admin_flush *sub = chi_subtask_new(ctx, &chi_admin_flush_type);
  (void)self;
  (void)t;
  if (!sub)
    return CHI_ENOMEM;
  sub->task.pool = CHI_ADMIN_POOL;
  return chi_call(ctx, sub);
}

static int unruly_keep_run(chi_ctx *ctx, struct unruly *self, struct unruly_keep *t)
{
  (void)t;
  return chi_mutex_lock(ctx, &self->mutex, 0);
}

static int unruly_scribble_run(chi_ctx *ctx, struct unruly *self, struct unruly_scribble *t)
{
  (void)ctx;
  (void)self;
  memset(t, 0xff, sizeof(*t));
  t->task.flags = 0;
  t->items_count = 4;
  return CHI_OK;
}

__attribute__((noinline)) static uint64_t unruly_sprawl(void)
{
  char room[600000];
  room[0] = 1;
  room[sizeof(room) - 1] = 2;
  __asm__ volatile("" : : "r"(room) : "memory"); /* all of it is needed */
  return (uint64_t)room[0] + (uint64_t)room[sizeof(room) - 1];
}

static int unruly_wide_run(chi_ctx *ctx, struct unruly *self, struct unruly_wide *t)
{
  (void)ctx;
  (void)self;
  t->sum = unruly_sprawl();
  return CHI_OK;
}

#define UNRULY_METHODS(M, S)                                                                       \
  M(S, unruly_spin)                                                                                \
  M(S, unruly_overrun)                                                                             \
  M(S, unruly_code)                                                                                \
  M(S, unruly_self)                                                                                \
  M(S, unruly_deep)                                                                                \
  M(S, unruly_deaf)                                                                                \
  M(S, unruly_lock)                                                                                \
  M(S, unruly_await)                                                                               \
  M(S, unruly_set)                                                                                 \
  M(S, unruly_leave)                                                                               \
  M(S, unruly_alloc)                                                                               \
  M(S, unruly_suicide)                                                                             \
  M(S, unruly_flush)                                                                               \
  M(S, unruly_keep)                                                                                \
  M(S, unruly_scribble)                                                                            \
  M(S, unruly_wide)
CHI_METHODS(unruly, UNRULY_METHODS)

const chi_module *chi_module_entry(void);
const chi_module *chi_module_entry(void)
{
  static const chi_module unruly = {.version = CHI_MODULE_VERSION,
                                    .name = "unruly",
                                    .state_size = sizeof(struct unruly),
                                    .methods = unruly_methods};
  return &unruly;
}
