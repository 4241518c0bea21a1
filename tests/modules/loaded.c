/* loaded.c - a module in a shared object: adds two numbers. */
#include "chimaera.h"

#define LOADED_ADD(X, T) X(T, IN, u64, a) X(T, IN, u64, b) X(T, OUT, u64, sum)
CHI_TASK(loaded_add, 10, LOADED_ADD)

struct loaded {
  uint64_t calls;
};

static int loaded_add_run(chi_ctx *ctx, struct loaded *self, struct loaded_add *t)
{
  (void)ctx;
  self->calls++;
  t->sum = t->a + t->b;
  return CHI_OK;
}

#define LOADED_METHODS(M, S) M(S, loaded_add)
CHI_METHODS(loaded, LOADED_METHODS)

const chi_module *chi_module_entry(void);
const chi_module *chi_module_entry(void)
{
  static const chi_module module = {.version = CHI_MODULE_VERSION,
                                    .name = "loaded",
                                    .state_size = sizeof(struct loaded),
                                    .methods = loaded_methods};
  return &module;
}
