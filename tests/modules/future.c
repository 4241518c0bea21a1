/* future.c - a module that was made for a later version of the library. */
#include "chimaera.h"

static const chi_method future_methods[] = {{0, 0, 0, 0}};

const chi_module *chi_module_entry(void);
const chi_module *chi_module_entry(void)
{
  static const chi_module future = {
      .version = CHI_MODULE_VERSION + 98, .name = "future", .methods = future_methods};
  return &future;
}
