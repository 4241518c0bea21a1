/* loaded_none.c - a shared object that says it has a module, and gives none. */
#include "chimaera.h"

const chi_module *chi_module_entry(void);
const chi_module *chi_module_entry(void)
{
  return NULL;
}
