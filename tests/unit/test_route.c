/* test_route.c - every query, seen from every node. */
#include "route.h"
#include "test.h"

/* What the resolution of a query is, in one number: the target, or a code. */
static long long route_of(uint32_t mode, uint32_t a, uint32_t b, uint32_t containers, uint32_t self)
{
  chi_query q = {.mode = mode, .a = a, .b = b};
  struct route r = {77, 77};
  int rc = route_resolve(&q, containers, self, &r);
  bool set = r.node != 77 || r.container != 77;
  if (r.node != r.container || (rc != CHI_OK && rc != CHI_EUNREACHABLE && set))
    return -1000;
  return rc != CHI_OK ? rc : (long long)r.node;
}

TEST(route_local_and_dynamic_stay)
{
  for (uint32_t self = 0; self < 3; self++) {
    CHECK_INT(route_of(CHI_QUERY_LOCAL, 9, 9, 3, self), self);
    CHECK_INT(route_of(CHI_QUERY_DYNAMIC, 9, 9, 3, self), self);
  }
}

TEST(route_to_one)
{
  static const uint32_t modes[] = {CHI_QUERY_ID, CHI_QUERY_PHYSICAL};
  for (uint32_t i = 0; i < 2; i++) {
    for (uint32_t self = 0; self < 4; self++) {
      for (uint32_t a = 0; a < 4; a++)
        CHECK_INT(route_of(modes[i], a, 0, 4, self), a == self ? (int)a : CHI_EUNREACHABLE);
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
                a % 3 == self ? (int)self : CHI_EUNREACHABLE);
  CHECK_INT(route_of(CHI_QUERY_HASH, UINT32_MAX, 0, 1, 0), 0);
}

TEST(route_range)
{
  CHECK_INT(route_of(CHI_QUERY_RANGE, 0, 1, 1, 0), 0);
  CHECK_INT(route_of(CHI_QUERY_RANGE, 2, 1, 4, 2), 2);
  CHECK_INT(route_of(CHI_QUERY_RANGE, 2, 1, 4, 1), CHI_EUNREACHABLE); /* another node */
  CHECK_INT(route_of(CHI_QUERY_RANGE, 1, 3, 4, 1), CHI_EUNREACHABLE); /* several */
  CHECK_INT(route_of(CHI_QUERY_RANGE, 1, 0, 4, 1), CHI_ERANGE);       /* none */
  CHECK_INT(route_of(CHI_QUERY_RANGE, 1, 4, 4, 1), CHI_ERANGE);
  CHECK_INT(route_of(CHI_QUERY_RANGE, 4, 1, 4, 1), CHI_ERANGE);
  CHECK_INT(route_of(CHI_QUERY_RANGE, 3, UINT32_MAX, 4, 3), CHI_ERANGE); /* would wrap */
  CHECK_INT(route_of(CHI_QUERY_RANGE, UINT32_MAX, 1, 4, 3), CHI_ERANGE);
}

TEST(route_broadcast)
{
  CHECK_INT(route_of(CHI_QUERY_BROADCAST, 0, 0, 1, 0), 0);
  CHECK_INT(route_of(CHI_QUERY_BROADCAST, 0, 0, 2, 0), CHI_EUNREACHABLE);
}

TEST(route_unknown_mode)
{
  CHECK_INT(route_of(CHI_QUERY_DYNAMIC + 1, 0, 0, 1, 0), CHI_EINVAL);
  CHECK_INT(route_of(UINT32_MAX, 0, 0, 1, 0), CHI_EINVAL);
}
