/* reel.c - a record in memory, for tests. */
#include "reel.h"

#include <stdlib.h>

static int reel_write(void *arg, const void *data, size_t size)
{
  struct reel *r = arg;
  if (r->refuse && r->size + size > r->refuse)
    return CHI_ENOSPC;
  if (r->size + size > r->room) {
    r->room = (r->size + size) * 2;
    r->data = realloc(r->data, r->room);
  }
  memcpy(r->data + r->size, data, size);
  r->size += size;
  return CHI_OK;
}

static int64_t reel_read(void *arg, void *data, size_t size)
{
  struct reel *r = arg;
  size_t left = r->size - r->at, n = size < left ? size : left;
  if (n)
    memcpy(data, r->data + r->at, n);
  r->at += n;
  return (int64_t)n;
}

struct tape_store reel_store(struct reel *r)
{
  r->at = 0;
  return (struct tape_store){r, reel_write, reel_read};
}

void reel_free(struct reel *r)
{
  free(r->data);
  *r = (struct reel){NULL, 0, 0, 0, 0};
}
