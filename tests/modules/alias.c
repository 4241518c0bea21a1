/* alias.c - a module that calls itself otherwise than its file. */
#include "chimaera.h"

static const chi_method alias_methods[] = {{0, 0, 0, 0}};

const chi_module *chi_module_entry(void);
const chi_module *chi_module_entry(void)
{
  static const chi_module alias = {
      .version = CHI_MODULE_VERSION, .name = "incognito", .methods = alias_methods};
  return &alias;
}
