/* names.c - the same in a source file. */
#include "names.h"

static int other_variable = 3, names_fine, other_second;
static int other_array[3] = {1, 2, 3};
static void (*other_callback)(void);
int names_prototype(void);

static int other_function(int a)
{
  return a;
}

int names_external(void)
{
  return other_function(other_variable);
}

int chi_unknown(void)
{
  return 0;
}

static int names_deep_call(void)
{
  return 0;
}

CHI_PRIVATE int names_private(void);
