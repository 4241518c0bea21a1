/* stray.c - a module for `chimaera sim` to complain about: it crashes, loops, keeps variables, and
 * does what depends on where it is in memory. */
#include "chimaera.h"

#include <stdlib.h>

#define STRAY_DO(X, T) X(T, IN, u64, at, "0")
/* The at-th call in all does what its name says; 0: none. */
CHI_TASK(stray_crash, 10, STRAY_DO)
CHI_TASK(stray_abort, 11, STRAY_DO)
CHI_TASK(stray_leave, 12, STRAY_DO)
CHI_TASK(stray_loop, 13, STRAY_DO)
CHI_TASK(stray_count, 14, CHI_NO_FIELDS)
CHI_TASK(stray_wander, 15, CHI_NO_FIELDS)
CHI_TASK(stray_fail, 16, CHI_NO_FIELDS)

struct stray {
  uint64_t calls;
};

static uint64_t stray_total;

static int stray_crash_run(chi_ctx *ctx, struct stray *self, struct stray_crash *t)
{
  volatile int *nowhere = NULL;
  (void)ctx;
  return ++self->calls == t->at ? *nowhere : CHI_OK;
}

static int stray_abort_run(chi_ctx *ctx, struct stray *self, struct stray_abort *t)
{
  (void)ctx;
  if (++self->calls == t->at)
    abort();
  return CHI_OK;
}

static int stray_leave_run(chi_ctx *ctx, struct stray *self, struct stray_leave *t)
{
  (void)ctx;
  if (++self->calls == t->at)
    exit(0);
  return CHI_OK;
}

static int stray_loop_run(chi_ctx *ctx, struct stray *self, struct stray_loop *t)
{
  (void)ctx;
  for (volatile uint64_t turns = 0; self->calls + 1 == t->at;)
    turns++;
  self->calls++;
  return CHI_OK;
}

static int stray_count_run(chi_ctx *ctx, struct stray *self, struct stray_count *t)
{
  (void)ctx, (void)self, (void)t;
  stray_total++;
  return CHI_OK;
}

/* As long as its own address makes it. */
static int stray_wander_run(chi_ctx *ctx, struct stray *self, struct stray_wander *t)
{
  (void)t;
  return chi_sleep(ctx, ((uintptr_t)self >> 4) % 100000);
}

static int stray_fail_run(chi_ctx *ctx, struct stray *self, struct stray_fail *t)
{
  (void)ctx, (void)self, (void)t;
  return CHI_ECORRUPT;
}

#define STRAY_METHODS(M, S)                                                                        \
  M(S, stray_crash) M(S, stray_abort) M(S, stray_leave) M(S, stray_loop) M(S, stray_count)         \
  M(S, stray_wander) M(S, stray_fail)
CHI_METHODS(stray, STRAY_METHODS)

const chi_module *chi_module_entry(void);
const chi_module *chi_module_entry(void)
{
  static const chi_module stray = {.version = CHI_MODULE_VERSION,
                                   .name = "stray",
                                   .state_size = sizeof(struct stray),
                                   .methods = stray_methods};
  return &stray;
}
