/* calls.c - forbidden calls, also in a macro. */
#include "names.h"
#include <stdlib.h>
#include "base.h"
#include "gone.h"

#define _XOPEN_SOURCE 700
#define CALLS_COPY(a, b) strcpy(a, b)
#define CALLS_LEFT 1

static int calls_all(char *a, const char *b)
{
  strcat(a, b);
  CALLS_COPY(a, b);
  return atoi(a) + rand() + system(b);
}

static int calls_atomic(int *p)
{
  return __atomic_load_n(p, 5) + atomic_get(p);
}

#undef CALLS_COPY
