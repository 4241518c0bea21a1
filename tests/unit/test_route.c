/* test_route.c - every query, seen from every node. */
#include "route.h"
#include "test.h"

#include <stdlib.h>

/* Containers on nodes 0 .. count - 1, but for those that moved: `moved` is on node `to`. */
static struct pool_map *route_map(uint32_t count, uint32_t self, uint32_t moved, uint32_t to)
{
  static struct container here;
  struct pool_map *map = calloc(1, sizeof *map + count * sizeof map->at[0]);
  map->count = count;
  for (uint32_t i = 0; i < count; i++) {
    map->at[i].node = i == moved ? to : i;
    map->at[i].here = map->at[i].node == self ? &here : NULL;
  }
  return map;
}

/* What the resolution of a query is, in one number: first * 1000 + count, negative if it isn't
 * here; or a code. */
static long long route_moved(uint32_t mode, uint32_t a, uint32_t b, uint32_t containers,
                             uint32_t self, uint32_t moved, uint32_t to)
{
  chi_query q = {.mode = mode, .a = a, .b = b};
  struct route r = {77, 77, NULL};
  struct pool_map *map = route_map(containers, self, moved, to);
  int rc = route_resolve(&q, map, self, &r);
  bool wrong = rc == CHI_OK ? (r.here != NULL) != (r.count == 1 && map->at[r.first].node == self)
                            : r.first != 77 || r.count != 77;
  free(map);
  if (wrong)
    return 1000000;
  return rc != CHI_OK ? rc : (r.here ? 1 : -1) * (r.first * 1000ll + r.count);
}

static long long route_of(uint32_t mode, uint32_t a, uint32_t b, uint32_t containers, uint32_t self)
{
  return route_moved(mode, a, b, containers, self, UINT32_MAX, 0);
}

TEST(route_local_and_dynamic_stay)
{
  for (uint32_t self = 0; self < 3; self++) {
    CHECK_INT(route_of(CHI_QUERY_LOCAL, 9, 9, 3, self), self * 1000 + 1);
    CHECK_INT(route_of(CHI_QUERY_DYNAMIC, 9, 9, 3, self), self * 1000 + 1);
  }
}

TEST(route_to_one)
{
  static const uint32_t modes[] = {CHI_QUERY_ID, CHI_QUERY_PHYSICAL};
  for (uint32_t i = 0; i < 2; i++) {
    for (uint32_t self = 0; self < 4; self++) {
      for (uint32_t a = 0; a < 4; a++)
        CHECK_INT(route_of(modes[i], a, 0, 4, self), (a == self ? 1 : -1) * (a * 1000ll + 1));
      CHECK_INT(route_of(modes[i], 4, 0, 4, self), CHI_ERANGE);
      CHECK_INT(route_of(modes[i], UINT32_MAX, 0, 4, self), CHI_ERANGE);
    }
  }
}

TEST(route_hash_goes_round)
{
  for (uint32_t self = 0; self < 3; self++)
    for (uint32_t a = 0; a < 10; a++)
      CHECK_INT(route_of(CHI_QUERY_HASH, a, 0, 3, self),
                (a % 3 == self ? 1 : -1) * (a % 3 * 1000ll + 1));
  CHECK_INT(route_of(CHI_QUERY_HASH, UINT32_MAX, 0, 1, 0), 1);
}

TEST(route_range)
{
  CHECK_INT(route_of(CHI_QUERY_RANGE, 0, 1, 1, 0), 1);
  CHECK_INT(route_of(CHI_QUERY_RANGE, 2, 1, 4, 2), 2001);
  CHECK_INT(route_of(CHI_QUERY_RANGE, 2, 1, 4, 1), -2001);
  CHECK_INT(route_of(CHI_QUERY_RANGE, 1, 3, 4, 1), -1003);
  CHECK_INT(route_of(CHI_QUERY_RANGE, 1, 0, 4, 1), CHI_ERANGE); /* none */
  CHECK_INT(route_of(CHI_QUERY_RANGE, 1, 4, 4, 1), CHI_ERANGE);
  CHECK_INT(route_of(CHI_QUERY_RANGE, 4, 1, 4, 1), CHI_ERANGE);
  CHECK_INT(route_of(CHI_QUERY_RANGE, 3, UINT32_MAX, 4, 3), CHI_ERANGE); /* would wrap */
  CHECK_INT(route_of(CHI_QUERY_RANGE, UINT32_MAX, 1, 4, 3), CHI_ERANGE);
}

TEST(route_broadcast)
{
  CHECK_INT(route_of(CHI_QUERY_BROADCAST, 0, 0, 1, 0), 1);
  CHECK_INT(route_of(CHI_QUERY_BROADCAST, 0, 0, 2, 0), -2);
}

/* Container 1 of three has moved to node 2. */
TEST(route_follows_a_container_that_moved)
{
  CHECK_INT(route_moved(CHI_QUERY_ID, 1, 0, 3, 2, 1, 2), 1001);
  CHECK_INT(route_moved(CHI_QUERY_ID, 1, 0, 3, 1, 1, 2), -1001);
  CHECK_INT(route_moved(CHI_QUERY_HASH, 4, 0, 3, 2, 1, 2), 1001);
  CHECK_INT(route_moved(CHI_QUERY_LOCAL, 0, 0, 3, 2, 1, 2), 2001); /* its own comes first */
  CHECK_INT(route_moved(CHI_QUERY_LOCAL, 0, 0, 3, 1, 1, 2), CHI_ENOENT);
  CHECK_INT(route_moved(CHI_QUERY_PHYSICAL, 1, 0, 3, 0, 1, 2), CHI_ENOENT);
  CHECK_INT(route_moved(CHI_QUERY_DYNAMIC, 0, 0, 3, 1, 1, 2), -1);
  CHECK_INT(route_moved(CHI_QUERY_LOCAL, 0, 0, 1, 7, 0, 7), 1); /* a pool of one node alone */
}

TEST(route_unknown_mode)
{
  CHECK_INT(route_of(CHI_QUERY_DYNAMIC + 1, 0, 0, 1, 0), CHI_EINVAL);
  CHECK_INT(route_of(UINT32_MAX, 0, 0, 1, 0), CHI_EINVAL);
}
