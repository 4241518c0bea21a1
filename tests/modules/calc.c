/* calc.c - a module that behaves: it adds, copies, counts and sleeps. */
#include "modules/calc.h"

#include <stdio.h>
#include <string.h>

struct calc {
  uint64_t count;
};

static int calc_add_run(chi_ctx *ctx, struct calc *self, struct calc_add *t)
{
  (void)ctx;
  (void)self;
  t->sum = t->a + t->b;
  return CHI_OK;
}

static int calc_divide_run(chi_ctx *ctx, struct calc *self, struct calc_divide *t)
{
  (void)ctx;
  (void)self;
  if (t->b == 0)
    return 33;
  t->quotient = t->a / t->b;
  return CHI_OK;
}

static int calc_sum_run(chi_ctx *ctx, struct calc *self, struct calc_sum *t)
{
  size_t used = 0;
  (void)ctx;
  (void)self;
  for (uint32_t i = 0; i < t->items_count; i++) {
    t->sum += t->items[i].value << t->twice;
    int n = snprintf(t->names + used, sizeof(t->names) - used, "%s", t->items[i].name);
    used = used + (size_t)n < sizeof(t->names) ? used + (size_t)n : sizeof(t->names) - 1;
  }
  return CHI_OK;
}

static int calc_shift_run(chi_ctx *ctx, struct calc *self, struct calc_shift *t)
{
  const uint8_t *from = t->from.data;
  uint8_t *to = t->to.data;
  (void)ctx;
  (void)self;
  if (t->from.size > t->to.size)
    return CHI_ETOOBIG;
  for (uint64_t i = 0; i < t->from.size; i++)
    to[i] = (uint8_t)(from[i] + t->add);
  t->to.size = t->from.size;
  return CHI_OK;
}

static int calc_later_run(chi_ctx *ctx, struct calc *self, struct calc_later *t)
{
  (void)self;
  int rc = chi_sleep(ctx, t->ns);
  if (rc == CHI_OK)
    t->sum = t->a + 1;
  return rc;
}

static int calc_count_run(chi_ctx *ctx, struct calc *self, struct calc_count *t)
{
  (void)ctx;
  t->count = ++self->count;
  return CHI_OK;
}

#define CALC_METHODS(M, S)                                                                         \
  M(S, calc_add)                                                                                   \
  M(S, calc_divide)                                                                                \
  M(S, calc_sum)                                                                                   \
  M(S, calc_shift)                                                                                 \
  M(S, calc_later)                                                                                 \
  M(S, calc_count)
CHI_METHODS(calc, CALC_METHODS)

const chi_module *chi_module_entry(void);
const chi_module *chi_module_entry(void)
{
  static const chi_module calc = {.version = CHI_MODULE_VERSION,
                                  .name = "calc",
                                  .state_size = sizeof(struct calc),
                                  .methods = calc_methods};
  return &calc;
}
