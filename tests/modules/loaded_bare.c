/* loaded_bare.c - a shared object without a module. */

int loaded_bare(void);
int loaded_bare(void)
{
  return 0;
}
