/* hollow.c - a shared object that is no module: it has no chi_module_entry. */
int hollow_module_is_none(void);
int hollow_module_is_none(void)
{
  return 0;
}
