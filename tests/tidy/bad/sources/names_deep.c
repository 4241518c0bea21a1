/* names_deep.c - has the longer noun. */
#include "base.h"

static int names_deep_call(void)
{
  return 0;
}
