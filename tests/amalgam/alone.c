/* alone.c - a program with nothing but libc and chimaera.c, the real environment left out. */
#include "chimaera.h"

#include <stdio.h>
#include <string.h>

int main(void)
{
  if (strcmp(chi_status_name(CHI_ENOMEM), "CHI_ENOMEM") != 0) {
    fprintf(stderr, "chi_status_name: %s\n", chi_status_name(CHI_ENOMEM));
    return 1;
  }
  return 0;
}
