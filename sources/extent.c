/* extent.c - free space as an AVL tree by offset; every node knows the largest extent below it. */
#include "extent.h"

#define EXTENT_SPARE_MAX 64 /* nodes kept for later; enough for a full list of blocks */

/* ---- the tree -------------------------------------------------------------------------------- */

static uint32_t extent_height(const struct extent *e)
{
  return e ? e->height : 0;
}

static uint64_t extent_best(const struct extent *e)
{
  return e ? e->largest : 0;
}

static void extent_refresh(struct extent *e)
{
  uint32_t left = extent_height(e->left), right = extent_height(e->right);
  uint64_t best = e->claimed ? 0 : e->size;
  best = extent_best(e->left) > best ? extent_best(e->left) : best;
  best = extent_best(e->right) > best ? extent_best(e->right) : best;
  e->height = (left > right ? left : right) + 1;
  e->largest = best;
}

static struct extent *extent_turn_right(struct extent *e)
{
  struct extent *top = e->left;
  e->left = top->right;
  top->right = e;
  extent_refresh(e);
  extent_refresh(top);
  return top;
}

static struct extent *extent_turn_left(struct extent *e)
{
  struct extent *top = e->right;
  e->right = top->left;
  top->left = e;
  extent_refresh(e);
  extent_refresh(top);
  return top;
}

/* Restores a subtree one of whose branches has changed by one level; returns its new root. */
static struct extent *extent_balance(struct extent *e)
{
  uint32_t left = extent_height(e->left), right = extent_height(e->right);
  if (left > right + 1) {
    if (extent_height(e->left->left) < extent_height(e->left->right))
      e->left = extent_turn_left(e->left);
    return extent_turn_right(e);
  }
  if (right > left + 1) {
    if (extent_height(e->right->right) < extent_height(e->right->left))
      e->right = extent_turn_right(e->right);
    return extent_turn_left(e);
  }
  extent_refresh(e);
  return e;
}

static struct extent *extent_insert(struct extent *at, struct extent *e)
{
  if (!at) {
    e->left = e->right = NULL;
    extent_refresh(e);
    return e;
  }
  CHI_ASSERT(at->offset != e->offset);
  if (e->offset < at->offset)
    at->left = extent_insert(at->left, e);
  else
    at->right = extent_insert(at->right, e);
  return extent_balance(at);
}

static struct extent *extent_remove_first(struct extent *at, struct extent **first)
{
  if (!at->left) {
    *first = at;
    return at->right;
  }
  at->left = extent_remove_first(at->left, first);
  return extent_balance(at);
}

/* e is in the subtree `at`. */
static struct extent *extent_remove(struct extent *at, struct extent *e)
{
  struct extent *heir;
  CHI_ASSERT(at);
  if (at != e) {
    if (e->offset < at->offset)
      at->left = extent_remove(at->left, e);
    else
      at->right = extent_remove(at->right, e);
    return extent_balance(at);
  }
  if (!e->left || !e->right)
    return e->left ? e->left : e->right;
  heir = NULL;
  e->right = extent_remove_first(e->right, &heir);
  heir->left = e->left;
  heir->right = e->right;
  return extent_balance(heir);
}

/* The size or state of e, or its offset within the gap it lies in, has changed. */
static void extent_changed(struct extent *at, const struct extent *e)
{
  CHI_ASSERT(at);
  if (at != e)
    extent_changed(e->offset < at->offset ? at->left : at->right, e);
  extent_refresh(at);
}

/* The last extent that begins before offset, or NULL; *after: the first one that doesn't. */
static struct extent *extent_around(const struct extent_map *map, uint64_t offset,
                                    struct extent **after)
{
  struct extent *before = NULL, *at = map->root;
  *after = NULL;
  while (at) {
    if (at->offset < offset) {
      before = at;
      at = at->right;
    } else {
      *after = at;
      at = at->left;
    }
  }
  return before;
}

/* The first free extent of at least size bytes; there is one. */
static struct extent *extent_first_fit(const struct extent_map *map, uint64_t size)
{
  struct extent *at = map->root;
  CHI_ASSERT(extent_best(at) >= size);
  for (;;) {
    if (extent_best(at->left) >= size)
      at = at->left;
    else if (!at->claimed && at->size >= size)
      return at;
    else
      at = at->right;
  }
}

/* ---- nodes ----------------------------------------------------------------------------------- */

/* n nodes to spare, so that what follows cannot fail. */
static int extent_reserve(struct extent_map *map, const struct alloc *alloc, uint64_t n)
{
  while (map->spare_count < n) {
    struct extent *e = alloc_get(alloc, sizeof(*e));
    if (!e)
      return CHI_ENOMEM;
    e->next = map->spare;
    map->spare = e;
    map->spare_count++;
  }
  return CHI_OK;
}

static void extent_trim(struct extent_map *map, const struct alloc *alloc, uint64_t keep)
{
  while (map->spare_count > keep) {
    struct extent *e = map->spare;
    map->spare = e->next;
    map->spare_count--;
    alloc_put(alloc, e, sizeof(*e));
  }
}

static struct extent *extent_add(struct extent_map *map, uint64_t offset, uint64_t size,
                                 bool claimed)
{
  struct extent *e = map->spare;
  CHI_ASSERT(e && size > 0);
  map->spare = e->next;
  map->spare_count--;
  map->count++;
  *e = (struct extent){.offset = offset, .size = size, .claimed = claimed};
  map->root = extent_insert(map->root, e);
  return e;
}

static void extent_drop(struct extent_map *map, struct extent *e)
{
  map->root = extent_remove(map->root, e);
  map->count--;
  e->next = map->spare;
  map->spare = e;
  map->spare_count++;
}

static bool extent_touches(const struct extent *low, const struct extent *high)
{
  return low && high && !low->claimed && !high->claimed && low->offset + low->size == high->offset;
}

/* Makes one extent of the free e and the free extents that it touches. */
static void extent_coalesce(struct extent_map *map, struct extent *e)
{
  struct extent *after, *before = extent_around(map, e->offset, &after);
  CHI_ASSERT(after == e);
  extent_around(map, e->offset + 1, &after);
  if (extent_touches(e, after)) {
    e->size += after->size;
    extent_drop(map, after);
  }
  if (extent_touches(before, e)) {
    before->size += e->size;
    extent_drop(map, e);
    e = before;
  }
  extent_changed(map->root, e);
}

/* ---- ranges ---------------------------------------------------------------------------------- */

static bool extent_inside(const struct extent_map *map, struct extent_range r)
{
  return r.size > 0 && r.size <= map->capacity && r.offset <= map->capacity - r.size &&
         ((r.offset | r.size) & (map->unit - 1)) == 0;
}

/* Frees one range. It may take a spare node. */
static int extent_free_one(struct extent_map *map, struct extent_range r)
{
  if (!extent_inside(map, r) || !extent_allocated(map, r.offset, r.size))
    return CHI_EINVAL;
  extent_coalesce(map, extent_add(map, r.offset, r.size, false));
  map->free_bytes += r.size;
  return CHI_OK;
}

/* Allocates a range that is free in whole. It may take a spare node. */
static int extent_take_one(struct extent_map *map, struct extent_range r)
{
  struct extent *after, *e = extent_around(map, r.offset + 1, &after);
  uint64_t end = r.offset + r.size, rest;
  if (!e || e->claimed || e->offset + e->size < end)
    return CHI_EINVAL;
  rest = e->offset + e->size - end;
  map->free_bytes -= r.size;
  if (e->offset == r.offset && rest == 0) {
    extent_drop(map, e);
    return CHI_OK;
  }
  if (e->offset == r.offset) {
    e->offset = end;
    e->size = rest;
  } else {
    e->size = r.offset - e->offset;
  }
  extent_changed(map->root, e);
  if (e->offset < r.offset && rest > 0)
    extent_add(map, end, rest, false);
  return CHI_OK;
}

CHI_PRIVATE int extent_free(struct extent_map *map, const struct alloc *alloc,
                            const struct extent_range *ranges, uint64_t count)
{
  uint64_t done = 0;
  int rc = extent_reserve(map, alloc, count);
  while (rc == CHI_OK && done < count) {
    rc = extent_free_one(map, ranges[done]);
    done += rc == CHI_OK;
  }
  /* Each step back leads to what was there before the step, for which the nodes sufficed. */
  while (rc != CHI_OK && done > 0) {
    int undone = extent_take_one(map, ranges[--done]);
    CHI_ASSERT(undone == CHI_OK);
  }
  extent_trim(map, alloc, EXTENT_SPARE_MAX);
  return rc;
}

CHI_PRIVATE int extent_take(struct extent_map *map, const struct alloc *alloc,
                            struct extent_range range)
{
  int rc = extent_reserve(map, alloc, 1);
  if (rc)
    return rc;
  rc = extent_inside(map, range) ? extent_take_one(map, range) : CHI_EINVAL;
  extent_trim(map, alloc, EXTENT_SPARE_MAX);
  return rc;
}

CHI_PRIVATE bool extent_allocated(const struct extent_map *map, uint64_t offset, uint64_t size)
{
  struct extent *after, *before;
  if (size > map->capacity || offset > map->capacity - size)
    return false;
  before = extent_around(map, offset, &after);
  if (before && before->offset + before->size > offset)
    return false;
  return !after || after->offset >= offset + size;
}

CHI_PRIVATE bool extent_next(const struct extent_map *map, uint64_t from,
                             struct extent_range *range)
{
  struct extent *after, *before = extent_around(map, from, &after);
  if (before && before->offset + before->size > from)
    from = before->offset + before->size;
  while (after && after->offset == from) {
    from += after->size;
    extent_around(map, from, &after);
  }
  range->offset = from;
  range->size = (after ? after->offset : map->capacity) - from;
  return from < map->capacity;
}

CHI_PRIVATE uint64_t extent_largest(const struct extent_map *map)
{
  return extent_best(map->root);
}

/* ---- claims ---------------------------------------------------------------------------------- */

/* Claims one extent of at most size bytes, as large as there is. It may take a spare node. */
static struct extent *extent_claim_one(struct extent_map *map, uint64_t size)
{
  uint64_t most = extent_largest(map);
  struct extent *e = extent_first_fit(map, most < size ? most : size);
  map->free_bytes -= e->size < size ? e->size : size;
  if (e->size <= size) {
    e->claimed = true;
    extent_changed(map->root, e);
    return e;
  }
  e->offset += size;
  e->size -= size;
  extent_changed(map->root, e);
  return extent_add(map, e->offset - size, size, true);
}

CHI_PRIVATE int extent_claim(struct extent_map *map, const struct alloc *alloc, uint64_t size,
                             uint64_t room, struct extent **chain, uint64_t *count)
{
  struct extent **tail = chain;
  CHI_ASSERT(size > 0 && (size & (map->unit - 1)) == 0);
  *chain = NULL;
  *count = 0;
  if (size > map->free_bytes)
    return CHI_ENOSPC;
  if (extent_reserve(map, alloc, 1))
    return CHI_ENOMEM;
  while (size > 0) {
    *tail = extent_claim_one(map, size);
    size -= (*tail)->size;
    (*tail)->next = NULL;
    tail = &(*tail)->next;
    ++*count;
  }
  if (*count <= room)
    return CHI_OK;
  extent_release(map, alloc, *chain);
  *chain = NULL;
  return CHI_ETOOBIG;
}

CHI_PRIVATE void extent_settle(struct extent_map *map, const struct alloc *alloc,
                               struct extent *chain)
{
  while (chain) {
    struct extent *e = chain;
    CHI_ASSERT(e->claimed);
    chain = e->next;
    extent_drop(map, e);
  }
  extent_trim(map, alloc, EXTENT_SPARE_MAX);
}

CHI_PRIVATE void extent_release(struct extent_map *map, const struct alloc *alloc,
                                struct extent *chain)
{
  while (chain) {
    struct extent *e = chain;
    CHI_ASSERT(e->claimed);
    chain = e->next;
    e->claimed = false;
    map->free_bytes += e->size;
    extent_coalesce(map, e);
  }
  extent_trim(map, alloc, EXTENT_SPARE_MAX);
}

/* ---- the whole space ------------------------------------------------------------------------- */

CHI_PRIVATE int extent_init(struct extent_map *map, const struct alloc *alloc, uint64_t capacity,
                            uint64_t unit)
{
  CHI_ASSERT(unit > 0 && (unit & (unit - 1)) == 0);
  CHI_ASSERT(capacity > 0 && (capacity & (unit - 1)) == 0);
  *map = (struct extent_map){.capacity = capacity, .unit = unit, .free_bytes = capacity};
  if (extent_reserve(map, alloc, 1))
    return CHI_ENOMEM;
  extent_add(map, 0, capacity, false);
  return CHI_OK;
}

CHI_PRIVATE void extent_fini(struct extent_map *map, const struct alloc *alloc)
{
  while (map->root)
    extent_drop(map, map->root);
  extent_trim(map, alloc, 0);
  *map = (struct extent_map){0};
}

CHI_PRIVATE int extent_resize(struct extent_map *map, const struct alloc *alloc, uint64_t capacity,
                              uint64_t unit)
{
  uint64_t old = map->capacity;
  struct extent_range rest = {capacity, capacity < old ? old - capacity : 0};
  CHI_ASSERT(capacity > 0 && unit > 0 && (unit & (unit - 1)) == 0);
  CHI_ASSERT((capacity & (unit - 1)) == 0);
  if (unit > map->unit && map->free_bytes != old)
    return CHI_ECONFLICT;
  if (extent_reserve(map, alloc, 1))
    return CHI_ENOMEM;
  if (rest.size > 0 && extent_take_one(map, rest))
    return CHI_ECONFLICT;
  map->capacity = capacity;
  map->unit = unit;
  if (capacity > old) {
    extent_coalesce(map, extent_add(map, old, capacity - old, false));
    map->free_bytes += capacity - old;
  }
  return CHI_OK;
}

#undef EXTENT_SPARE_MAX
