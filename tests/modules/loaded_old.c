/* loaded_old.c - a shared object with a module of another version. */
#include "chimaera.h"

const chi_module *chi_module_entry(void);
const chi_module *chi_module_entry(void)
{
  static const chi_module module = {.version = CHI_MODULE_VERSION + 1, .name = "loaded_old"};
  return &module;
}
