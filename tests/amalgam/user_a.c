/* user_a.c - one of three units of a stranger's program: the header works in several at once. */
#include "chimaera.h"

const char *user_a(int code);

const char *user_a(int code)
{
  return chi_status_name(code);
}
