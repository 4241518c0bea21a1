/* scarce.h - memory for tests: what is had of it is counted, and it can be refused. */
#ifndef CHI_TEST_SCARCE_H
#define CHI_TEST_SCARCE_H

#include "alloc.h"

#include <stdlib.h>

struct scarce {
  int64_t blocks, bytes; /* that are out */
  int fail_at;           /* askings until one is refused, counting down; -1: none is */
  bool dry;              /* then all after that one are, too */
};

static inline void *scarce_get(void *arg, size_t size)
{
  struct scarce *s = arg;
  if (s->fail_at == 0) {
    s->fail_at -= !s->dry;
    return NULL;
  }
  s->fail_at -= s->fail_at > 0;
  s->blocks++;
  s->bytes += (int64_t)size;
  return malloc(size);
}

static inline void scarce_put(void *arg, void *p, size_t size)
{
  struct scarce *s = arg;
  s->blocks--;
  s->bytes -= (int64_t)size;
  free(p);
}

/* The initialiser of a struct alloc. */
#define SCARCE_ALLOC(scarce) {scarce_get, scarce_put, (scarce)}

#endif
