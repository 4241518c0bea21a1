/* test_extent.c - the extent map against a model that keeps one byte per unit. */
#include "extent.h"
#include "scarce.h"
#include "test.h"

#include <stdlib.h>

#define UNIT 4096u
#define UNITS 512u
#define CLAIMS 8

static struct scarce memory = {.fail_at = -1, .dry = true};
static const struct alloc source = SCARCE_ALLOC(&memory);

static uint64_t random_next(uint64_t *state)
{
  *state ^= *state << 13;
  *state ^= *state >> 7;
  *state ^= *state << 17;
  return *state;
}

/* ---- the model ------------------------------------------------------------------------------- */

enum state { FREE, ALLOCATED, CLAIMED };

struct model {
  uint8_t unit[UNITS];
  struct extent *chain[CLAIMS];
  uint32_t chains;
};

static void model_set(struct model *m, uint64_t offset, uint64_t size, enum state to)
{
  memset(m->unit + offset / UNIT, to, size / UNIT);
}

static uint64_t model_count(const struct model *m, enum state of)
{
  uint64_t n = 0;
  for (uint32_t i = 0; i < UNITS; i++)
    n += m->unit[i] == of;
  return n;
}

/* The number of extents a claim of `units` takes when the largest come first. */
static uint64_t model_need(const struct model *m, uint64_t units)
{
  uint64_t runs[UNITS + 1] = {0}, run = 0, need = 0;
  for (uint32_t i = 0; i <= UNITS; i++) {
    if (i < UNITS && m->unit[i] == FREE) {
      run++;
    } else {
      runs[run]++;
      run = 0;
    }
  }
  for (uint32_t n = UNITS; n > 0 && units > 0; n--) {
    for (; runs[n] > 0 && units > 0; runs[n]--, need++)
      units -= n < units ? n : units;
  }
  return need;
}

/* Order, balance and figures of a subtree: its height, or -1. *at: where the last extent ends. */
static int64_t tree_check(const struct extent *e, uint64_t *at, uint64_t *count, uint64_t *largest,
                          bool *was_free)
{
  uint64_t low = 0, high = 0, own;
  int64_t left, right;
  bool touching;
  if (!e)
    return 0;
  left = tree_check(e->left, at, count, &low, was_free);
  touching = *count > 0 && *at == e->offset;
  if (left < 0 || (*count > 0 && e->offset < *at) || (touching && *was_free && !e->claimed))
    return -1;
  *at = e->offset + e->size;
  *was_free = !e->claimed;
  ++*count;
  right = tree_check(e->right, at, count, &high, was_free);
  own = e->claimed ? 0 : e->size;
  *largest = own > low ? own : low;
  *largest = *largest > high ? *largest : high;
  if (right < 0 || left - right > 1 || right - left > 1 || e->largest != *largest)
    return -1;
  left = (left > right ? left : right) + 1;
  return e->height == left ? left : -1;
}

static bool map_sound(const struct extent_map *map)
{
  uint64_t at = 0, count = 0, largest = 0;
  bool was_free = false;
  return tree_check(map->root, &at, &count, &largest, &was_free) >= 0 && count == map->count &&
         at <= map->capacity && map->spare_count <= 64;
}

static void paint(uint8_t *unit, const struct extent *e)
{
  if (!e)
    return;
  memset(unit + e->offset / UNIT, e->claimed ? CLAIMED : FREE, e->size / UNIT);
  paint(unit, e->left);
  paint(unit, e->right);
}

static bool map_matches(const struct extent_map *map, const struct model *m)
{
  uint8_t unit[UNITS];
  memset(unit, ALLOCATED, sizeof(unit));
  paint(unit, map->root);
  return map_sound(map) && memcmp(unit, m->unit, sizeof(unit)) == 0 &&
         map->free_bytes == model_count(m, FREE) * UNIT;
}

/* ---- steps of the random walk ---------------------------------------------------------------- */

static bool step_claim(struct extent_map *map, struct model *m, uint64_t *seed)
{
  uint64_t units =
      random_next(seed) % 4 ? random_next(seed) % 12 + 1 : random_next(seed) % UNITS + 1;
  uint64_t room = random_next(seed) % 40 + 1, free_units = model_count(m, FREE), count, total = 0;
  uint64_t need = model_need(m, units), seen = 0;
  struct extent **chain = &m->chain[m->chains];
  int rc, want;
  if (m->chains == CLAIMS)
    return true;
  want = units > free_units ? CHI_ENOSPC : need > room ? CHI_ETOOBIG : CHI_OK;
  rc = extent_claim(map, &source, units * UNIT, room, chain, &count);
  if (rc != want || (rc != CHI_ENOSPC && count != need))
    return false;
  for (const struct extent *e = *chain; e; e = e->next, seen++) {
    for (uint64_t i = e->offset / UNIT; i < (e->offset + e->size) / UNIT; i++) {
      if (m->unit[i] != FREE)
        return false;
    }
    model_set(m, e->offset, e->size, CLAIMED);
    total += e->size;
  }
  m->chains += rc == CHI_OK;
  return rc != CHI_OK ? total == 0 : total == units * UNIT && seen == need;
}

static bool step_end(struct extent_map *map, struct model *m, uint64_t *seed)
{
  bool settle = random_next(seed) % 4 != 0;
  uint32_t which;
  if (m->chains == 0)
    return true;
  which = (uint32_t)(random_next(seed) % m->chains);
  for (const struct extent *e = m->chain[which]; e; e = e->next)
    model_set(m, e->offset, e->size, settle ? ALLOCATED : FREE);
  (settle ? extent_settle : extent_release)(map, &source, m->chain[which]);
  m->chain[which] = m->chain[--m->chains];
  return true;
}

/* A list of up to four ranges anywhere: mostly wrong in some way. */
static bool step_free(struct extent_map *map, struct model *m, uint64_t *seed)
{
  struct extent_range list[4];
  struct model after = *m;
  uint64_t count = random_next(seed) % 4 + 1;
  bool fine = true;
  int rc;
  for (uint64_t k = 0; k < count; k++) {
    uint64_t first = random_next(seed) % UNITS, units = random_next(seed) % 6 + 1;
    for (uint64_t tries = 0; after.unit[first] != ALLOCATED && tries < 32; tries++)
      first = random_next(seed) % UNITS;
    list[k] = (struct extent_range){first * UNIT, units * UNIT};
    for (uint64_t i = first; i < first + units; i++)
      fine = fine && i < UNITS && after.unit[i] == ALLOCATED;
    if (fine)
      model_set(&after, list[k].offset, list[k].size, FREE);
  }
  rc = extent_free(map, &source, list, count);
  if (fine)
    *m = after;
  return rc == (fine ? CHI_OK : CHI_EINVAL);
}

static bool step_take(struct extent_map *map, struct model *m, uint64_t *seed)
{
  uint64_t first = random_next(seed) % UNITS, units = random_next(seed) % 4 + 1;
  bool fine = first + units <= UNITS;
  for (uint64_t i = first; fine && i < first + units; i++)
    fine = m->unit[i] == FREE;
  if (fine)
    model_set(m, first * UNIT, units * UNIT, ALLOCATED);
  return extent_take(map, &source, (struct extent_range){first * UNIT, units * UNIT}) ==
         (fine ? CHI_OK : CHI_EINVAL);
}

static bool step_ask(const struct extent_map *map, const struct model *m, uint64_t *seed)
{
  uint64_t offset = random_next(seed) % (UNITS * UNIT), size = random_next(seed) % (8 * UNIT) + 1;
  bool all = offset + size <= UNITS * UNIT;
  for (uint64_t i = offset / UNIT; all && i <= (offset + size - 1) / UNIT; i++)
    all = m->unit[i] == ALLOCATED;
  return extent_allocated(map, offset, size) == all;
}

/* What extent_next tells, one after the other, is what is allocated. */
static bool step_walk(const struct extent_map *map, const struct model *m)
{
  struct extent_range r = {0, 0};
  uint64_t at = 0;
  while (extent_next(map, at, &r)) {
    for (; at < r.offset; at += UNIT) {
      if (m->unit[at / UNIT] == ALLOCATED)
        return false;
    }
    for (; at < r.offset + r.size; at += UNIT) {
      if (m->unit[at / UNIT] != ALLOCATED)
        return false;
    }
  }
  for (; at < map->capacity; at += UNIT) {
    if (m->unit[at / UNIT] == ALLOCATED)
      return false;
  }
  return true;
}

static bool step(struct extent_map *map, struct model *m, uint64_t *seed)
{
  switch (random_next(seed) % 10) {
  case 0:
  case 1:
  case 2:
    return step_claim(map, m, seed);
  case 3:
  case 4:
    return step_end(map, m, seed);
  case 5:
  case 6:
    return step_free(map, m, seed);
  case 7:
    return step_take(map, m, seed);
  case 8:
    return step_ask(map, m, seed);
  default:
    return step_walk(map, m);
  }
}

TEST(extent_random_walk_matches_model)
{
  struct extent_map map;
  struct model m = {{0}, {0}, 0};
  uint64_t seed = 42;
  CHECK_INT(extent_init(&map, &source, UNITS * UNIT, UNIT), CHI_OK);
  for (int i = 0; i < 100000; i++) {
    if (!step(&map, &m, &seed) || !map_matches(&map, &m)) {
      test_fail(__FILE__, __LINE__, "step %d", i);
      break;
    }
  }
  extent_fini(&map, &source);
  CHECK_INT(memory.bytes, 0);
}

/* ---- by hand --------------------------------------------------------------------------------- */

static int claim_and_settle(struct extent_map *map, uint64_t size, struct extent_range *first)
{
  struct extent *chain;
  uint64_t count;
  int rc = extent_claim(map, &source, size, UINT64_MAX, &chain, &count);
  if (rc)
    return rc;
  *first = (struct extent_range){chain->offset, chain->size};
  extent_settle(map, &source, chain);
  return (int)count;
}

TEST(extent_whole_space_in_one)
{
  struct extent_map map;
  struct extent_range r;
  CHECK_INT(extent_init(&map, &source, 8 * UNIT, UNIT), CHI_OK);
  CHECK_INT(extent_largest(&map), 8 * UNIT);
  CHECK_INT(claim_and_settle(&map, 9 * UNIT, &r), CHI_ENOSPC);
  CHECK_INT(claim_and_settle(&map, UINT64_MAX - UNIT + 1, &r), CHI_ENOSPC);
  CHECK_INT(claim_and_settle(&map, 8 * UNIT, &r), 1);
  CHECK_INT(map.free_bytes, 0);
  CHECK_INT(extent_largest(&map), 0);
  CHECK_INT(claim_and_settle(&map, UNIT, &r), CHI_ENOSPC);
  CHECK(extent_allocated(&map, 0, 8 * UNIT));
  extent_fini(&map, &source);
}

TEST(extent_free_coalesces_both_sides)
{
  struct extent_map map;
  struct extent_range r, piece[3] = {{0, UNIT}, {2 * UNIT, UNIT}, {UNIT, UNIT}};
  CHECK_INT(extent_init(&map, &source, 4 * UNIT, UNIT), CHI_OK);
  CHECK_INT(claim_and_settle(&map, 4 * UNIT, &r), 1);
  CHECK_INT(extent_free(&map, &source, &piece[0], 1), CHI_OK);
  CHECK_INT(extent_free(&map, &source, &piece[1], 1), CHI_OK);
  CHECK_INT(map.count, 2);
  CHECK_INT(extent_largest(&map), UNIT);
  CHECK_INT(extent_free(&map, &source, &piece[2], 1), CHI_OK);
  CHECK_INT(map.count, 1);
  CHECK_INT(extent_largest(&map), 3 * UNIT);
  extent_fini(&map, &source);
}

TEST(extent_free_refuses_what_is_not_allocated)
{
  struct extent_map map;
  struct extent *chain;
  uint64_t count;
  struct extent_range r;
  struct extent_range bad[] = {
      {0, 0},               /* nothing */
      {4 * UNIT, UNIT},     /* free */
      {3 * UNIT, 2 * UNIT}, /* free in part */
      {8 * UNIT, UNIT},     /* outside */
      {UINT64_MAX - UNIT + 1, UNIT},
      {0, UINT64_MAX - UNIT + 1},
      {UINT64_MAX - UNIT + 1, 2 * UNIT},
      {100, UNIT}, /* not in whole units */
      {0, 100},
  };
  CHECK_INT(extent_init(&map, &source, 8 * UNIT, UNIT), CHI_OK);
  CHECK_INT(claim_and_settle(&map, 4 * UNIT, &r), 1);
  for (size_t i = 0; i < CHI_COUNT(bad); i++) {
    struct extent_range list[2] = {{0, UNIT}, bad[i]};
    CHECK_INT(extent_free(&map, &source, &bad[i], 1), CHI_EINVAL);
    CHECK_INT(extent_free(&map, &source, list, 2), CHI_EINVAL);
    CHECK_INT(map.free_bytes, 4 * UNIT);
    CHECK(extent_allocated(&map, 0, 4 * UNIT));
  }
  CHECK_INT(extent_claim(&map, &source, UNIT, 1, &chain, &count), CHI_OK);
  r = (struct extent_range){chain->offset, chain->size};
  CHECK_INT(extent_free(&map, &source, &r, 1), CHI_EINVAL);
  CHECK(!extent_allocated(&map, r.offset, r.size));
  extent_settle(&map, &source, chain);
  CHECK_INT(extent_free(&map, &source, &r, 1), CHI_OK);
  CHECK_INT(extent_free(&map, &source, &r, 1), CHI_EINVAL);
  CHECK_INT(extent_free(&map, &source, NULL, 0), CHI_OK);
  extent_fini(&map, &source);
}

TEST(extent_list_that_overlaps_itself_is_refused)
{
  struct extent_map map;
  struct extent_range r, list[3] = {{0, 2 * UNIT}, {4 * UNIT, UNIT}, {UNIT, 2 * UNIT}};
  CHECK_INT(extent_init(&map, &source, 8 * UNIT, UNIT), CHI_OK);
  CHECK_INT(claim_and_settle(&map, 8 * UNIT, &r), 1);
  CHECK_INT(extent_free(&map, &source, list, 3), CHI_EINVAL);
  CHECK(extent_allocated(&map, 0, 8 * UNIT));
  CHECK_INT(map.free_bytes, 0);
  CHECK_INT(extent_free(&map, &source, list, 2), CHI_OK);
  CHECK_INT(map.free_bytes, 3 * UNIT);
  extent_fini(&map, &source);
}

/* Holes of 1, 3, 2 and 3 units: the first that is large enough; or the largest ones, in order. */
TEST(extent_claims_where_it_fits_first)
{
  struct extent_map map;
  struct extent_range r = {0, 0};
  struct extent_range hole[4] = {
      {UNIT, UNIT}, {3 * UNIT, 3 * UNIT}, {7 * UNIT, 2 * UNIT}, {10 * UNIT, 3 * UNIT}};
  struct extent *chain;
  uint64_t count;
  CHECK_INT(extent_init(&map, &source, 14 * UNIT, UNIT), CHI_OK);
  CHECK_INT(claim_and_settle(&map, 14 * UNIT, &r), 1);
  CHECK_INT(extent_free(&map, &source, hole, 4), CHI_OK);
  CHECK_INT(extent_claim(&map, &source, 5 * UNIT, 2, &chain, &count), CHI_OK);
  CHECK_INT(count, 2);
  CHECK_INT(chain->offset, 3 * UNIT);
  CHECK_INT(chain->size, 3 * UNIT);
  CHECK_INT(chain->next->offset, 7 * UNIT);
  CHECK_INT(chain->next->size, 2 * UNIT);
  extent_release(&map, &source, chain);
  CHECK_INT(claim_and_settle(&map, 2 * UNIT, &r), 1);
  CHECK_INT(r.offset, 3 * UNIT);
  CHECK_INT(claim_and_settle(&map, 2 * UNIT, &r), 1);
  CHECK_INT(r.offset, 7 * UNIT);
  CHECK_INT(claim_and_settle(&map, UNIT, &r), 1);
  CHECK_INT(r.offset, UNIT);
  extent_fini(&map, &source);
  CHECK_INT(memory.bytes, 0);
}

/* Every second unit of 2^17 is free: single blocks in any number, found one by one. */
TEST(extent_fragmented_to_single_units)
{
  const uint64_t units = 1u << 17;
  struct extent_map map;
  struct extent *chain;
  struct extent_range r;
  uint64_t count;
  CHECK_INT(extent_init(&map, &source, units * UNIT, UNIT), CHI_OK);
  CHECK_INT(claim_and_settle(&map, units * UNIT, &r), 1);
  for (uint64_t i = 0; i < units; i += 2) {
    r = (struct extent_range){i / 2 * 40503 % (units / 2) * 2 * UNIT, UNIT}; /* jumps about */
    CHECK_INT(extent_free(&map, &source, &r, 1), CHI_OK);
  }
  CHECK_INT(map.count, units / 2);
  CHECK_INT(extent_largest(&map), UNIT);
  CHECK_INT(extent_claim(&map, &source, units / 2 * UNIT, 1000, &chain, &count), CHI_ETOOBIG);
  CHECK_INT(count, units / 2);
  CHECK_INT(map.free_bytes, units / 2 * UNIT);
  CHECK(map_sound(&map));
  CHECK_INT(claim_and_settle(&map, units / 2 * UNIT, &r), units / 2);
  CHECK_INT(map.count, 0);
  CHECK_INT(map.free_bytes, 0);
  r = (struct extent_range){0, units * UNIT};
  CHECK_INT(extent_free(&map, &source, &r, 1), CHI_OK);
  CHECK_INT(map.count, 1);
  extent_fini(&map, &source);
  CHECK_INT(memory.bytes, 0);
}

TEST(extent_without_memory_changes_nothing)
{
  struct extent_map map;
  struct extent *chain;
  struct extent_range r, mid = {UNIT, UNIT}, two[2] = {{0, UNIT}, {2 * UNIT, UNIT}};
  uint64_t count;
  memory.fail_at = 0;
  CHECK_INT(extent_init(&map, &source, 8 * UNIT, UNIT), CHI_ENOMEM);
  memory.fail_at = 1;
  CHECK_INT(extent_init(&map, &source, 8 * UNIT, UNIT), CHI_OK);
  CHECK_INT(extent_claim(&map, &source, UNIT, 1, &chain, &count), CHI_ENOMEM);
  CHECK_INT(extent_take(&map, &source, mid), CHI_ENOMEM);
  CHECK_INT(extent_resize(&map, &source, 16 * UNIT, UNIT), CHI_ENOMEM);
  CHECK_INT(map.free_bytes, 8 * UNIT);
  CHECK_INT(map.capacity, 8 * UNIT);
  memory.fail_at = -1;
  CHECK_INT(claim_and_settle(&map, 8 * UNIT, &r), 1);
  extent_fini(&map, &source);
  CHECK_INT(extent_init(&map, &source, 8 * UNIT, UNIT), CHI_OK);
  CHECK_INT(extent_take(&map, &source, (struct extent_range){0, 4 * UNIT}), CHI_OK);
  memory.fail_at = 0;
  CHECK_INT(extent_free(&map, &source, two, 2), CHI_ENOMEM);
  CHECK(extent_allocated(&map, 0, 4 * UNIT));
  memory.fail_at = -1;
  CHECK_INT(extent_free(&map, &source, two, 2), CHI_OK);
  extent_fini(&map, &source);
  CHECK_INT(memory.bytes, 0);
}

TEST(extent_release_needs_no_memory)
{
  struct extent_map map;
  struct extent *chain[3];
  uint64_t count;
  CHECK_INT(extent_init(&map, &source, 8 * UNIT, UNIT), CHI_OK);
  for (int i = 0; i < 3; i++)
    CHECK_INT(extent_claim(&map, &source, 2 * UNIT, 1, &chain[i], &count), CHI_OK);
  CHECK_INT(map.free_bytes, 2 * UNIT);
  memory.fail_at = 0;
  extent_release(&map, &source, chain[1]);
  extent_release(&map, &source, chain[0]);
  extent_settle(&map, &source, chain[2]);
  memory.fail_at = -1;
  CHECK_INT(map.free_bytes, 6 * UNIT);
  CHECK(extent_allocated(&map, 4 * UNIT, 2 * UNIT));
  extent_fini(&map, &source);
  CHECK_INT(memory.bytes, 0);
}

TEST(extent_open_claims_are_forgotten_at_the_end)
{
  struct extent_map map, none = {0};
  struct extent *chain;
  uint64_t count;
  CHECK_INT(extent_init(&map, &source, 8 * UNIT, UNIT), CHI_OK);
  CHECK_INT(extent_claim(&map, &source, 2 * UNIT, 1, &chain, &count), CHI_OK);
  extent_fini(&map, &source);
  extent_fini(&none, &source);
  CHECK_INT(memory.bytes, 0);
}

TEST(extent_resize_keeps_what_is_allocated)
{
  struct extent_map map;
  struct extent_range r;
  CHECK_INT(extent_init(&map, &source, 4 * UNIT, UNIT), CHI_OK);
  CHECK_INT(extent_resize(&map, &source, 4 * UNIT, 2 * UNIT), CHI_OK);
  CHECK_INT(extent_resize(&map, &source, 4 * UNIT, UNIT), CHI_OK);
  CHECK_INT(claim_and_settle(&map, 3 * UNIT, &r), 1);
  CHECK_INT(extent_resize(&map, &source, 2 * UNIT, UNIT), CHI_ECONFLICT);
  CHECK_INT(extent_resize(&map, &source, 4 * UNIT, 2 * UNIT), CHI_ECONFLICT);
  CHECK_INT(map.capacity, 4 * UNIT);
  CHECK_INT(map.unit, UNIT);
  CHECK_INT(map.free_bytes, UNIT);
  CHECK_INT(extent_resize(&map, &source, 3 * UNIT, UNIT), CHI_OK);
  CHECK_INT(map.free_bytes, 0);
  CHECK_INT(extent_resize(&map, &source, 10 * UNIT, UNIT / 2), CHI_OK);
  CHECK_INT(map.free_bytes, 7 * UNIT);
  CHECK_INT(extent_largest(&map), 7 * UNIT);
  CHECK(extent_allocated(&map, 0, 3 * UNIT));
  CHECK_INT(extent_resize(&map, &source, 12 * UNIT, UNIT / 2), CHI_OK);
  CHECK_INT(map.count, 1);
  extent_fini(&map, &source);
  CHECK_INT(memory.bytes, 0);
}
