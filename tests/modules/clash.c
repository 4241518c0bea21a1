/* clash.c - a module with two methods of the same id. */
#include "chimaera.h"

#define CLASH_ONE(X, T) X(T, IN, u64, a)
CHI_TASK(clash_one, 10, CLASH_ONE)
CHI_TASK(clash_two, 10, CLASH_ONE)

struct clash {
  int unused;
};

static int clash_one_run(chi_ctx *ctx, struct clash *self, struct clash_one *t)
{
  (void)ctx;
  (void)self;
  (void)t;
  return CHI_OK;
}

static int clash_two_run(chi_ctx *ctx, struct clash *self, struct clash_two *t)
{
  (void)ctx;
  (void)self;
  (void)t;
  return CHI_OK;
}

#define CLASH_METHODS(M, S) M(S, clash_one) M(S, clash_two)
CHI_METHODS(clash, CLASH_METHODS)

const chi_module *chi_module_entry(void);
const chi_module *chi_module_entry(void)
{
  static const chi_module clash = {
      .version = CHI_MODULE_VERSION, .name = "clash", .methods = clash_methods};
  return &clash;
}
