/* calc.c - a module that adds. */
#include "calc.h"

struct calc {
  uint64_t calls; /* the state of a pool's container: zeroed, then its methods' own */
};

static int calc_add_run(chi_ctx *ctx, struct calc *self, struct calc_add *t)
{
  (void)ctx;
  self->calls++;
  t->sum = t->a + t->b;
  return CHI_OK;
}

#define CALC_METHODS(M, S) M(S, calc_add)
CHI_METHODS(calc, CALC_METHODS)

static const chi_module calc_module = {.version = CHI_MODULE_VERSION,
                                       .name = "calc",
                                       .state_size = sizeof(struct calc),
                                       .methods = calc_methods};

const chi_module *chi_module_entry(void)
{
  return &calc_module;
}
