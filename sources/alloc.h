/* alloc.h - where memory comes from: three helpers around a pair of functions. */
#ifndef CHI_ALLOC_H
#define CHI_ALLOC_H

#include "base.h"

/* A source of memory, filled by its provider and then constant. get returns memory aligned for
 * any type, or NULL when there is none left; put takes back exactly what get gave, with the size
 * that was asked for. Both are called from any thread that uses an object built on this source,
 * so a source shared by threads must guard itself. Fault tests fail get at will: every caller
 * must cope with NULL. */
struct alloc {
  void *(*get)(void *arg, size_t size);
  void (*put)(void *arg, void *p, size_t size);
  void *arg;
};

/* Memory of size bytes (not 0) with any content, or NULL. The caller owns it until alloc_put. */
CHI_INLINE void *alloc_get(const struct alloc *alloc, size_t size)
{
  CHI_ASSERT(size > 0);
  return alloc->get(alloc->arg, size);
}

/* As alloc_get, with every byte zero. */
CHI_INLINE void *alloc_zero(const struct alloc *alloc, size_t size)
{
  void *p = alloc_get(alloc, size);
  return p ? memset(p, 0, size) : NULL;
}

/* Zeroes so many bytes, at least a line: in lines, which become a few wide stores each, where the
 * number is known to the compiler. As a whole they would be a loop in microcode. */
CHI_INLINE void alloc_clear(void *p, size_t size)
{
  char *at = p, *end = at + size;
  CHI_ASSERT(size >= CHI_CACHE_LINE);
  for (; end - at > CHI_CACHE_LINE; at += CHI_CACHE_LINE)
    memset(at, 0, CHI_CACHE_LINE);
  memset(end - CHI_CACHE_LINE, 0, CHI_CACHE_LINE);
}

/* Gives back p of alloc_get or alloc_zero with the size it was asked with; NULL does nothing. */
CHI_INLINE void alloc_put(const struct alloc *alloc, void *p, size_t size)
{
  if (p)
    alloc->put(alloc->arg, p, size);
}

#endif
