/* user_b.c - the second C unit of a stranger's program; includes the header twice. */
#include "chimaera.h"
#include "chimaera.h"

const char *user_b(int code);

const char *user_b(int code)
{
  return chi_status_text(code);
}
