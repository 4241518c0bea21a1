/* route.c - query -> where: which container, on which node, a task is for. */
#include "route.h"

static int route_range(const chi_query *q, uint32_t containers, uint32_t *target)
{
  if (q->b == 0 || q->a >= containers || q->b > containers - q->a)
    return CHI_ERANGE;
  *target = q->a;
  return q->b == 1 ? CHI_OK : CHI_EUNREACHABLE;
}

int route_resolve(const chi_query *q, uint32_t containers, uint32_t self, struct route *out)
{
  CHI_ASSERT(containers > 0 && self < containers);
  uint32_t target = self;
  int rc = CHI_OK;
  switch (q->mode) {
  case CHI_QUERY_LOCAL:
  case CHI_QUERY_DYNAMIC:
    break;
  case CHI_QUERY_ID:
  case CHI_QUERY_PHYSICAL:
    target = q->a;
    rc = q->a < containers ? CHI_OK : CHI_ERANGE;
    break;
  case CHI_QUERY_HASH:
    target = q->a % containers;
    break;
  case CHI_QUERY_RANGE:
    rc = route_range(q, containers, &target);
    break;
  case CHI_QUERY_BROADCAST:
    target = 0;
    rc = containers == 1 ? CHI_OK : CHI_EUNREACHABLE;
    break;
  default:
    rc = CHI_EINVAL;
  }
  if (rc != CHI_OK)
    return rc;
  *out = (struct route){.node = target, .container = target};
  return target == self ? CHI_OK : CHI_EUNREACHABLE;
}
