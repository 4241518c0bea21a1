/* route.c - query -> where: which containers of a pool a task is for. */
#include "route.h"

/* Container i begins on node i, so that is the first place to look. */
static int route_on_node(const struct pool_map *map, uint32_t node, uint32_t *container)
{
  if (node < map->count && map->at[node].node == node) {
    *container = node;
    return CHI_OK;
  }
  for (uint32_t i = 0; i < map->count; i++) {
    if (map->at[i].node == node) {
      *container = i;
      return CHI_OK;
    }
  }
  return CHI_ENOENT;
}

static int route_range(uint32_t first, uint32_t count, uint32_t containers)
{
  return count > 0 && first < containers && count <= containers - first ? CHI_OK : CHI_ERANGE;
}

int route_resolve(const chi_query *q, const struct pool_map *map, uint32_t self, struct route *out)
{
  CHI_ASSERT(map->count > 0);
  uint32_t first = 0, count = 1;
  int rc = CHI_OK;
  switch (q->mode) {
  case CHI_QUERY_LOCAL:
    rc = route_on_node(map, self, &first);
    break;
  case CHI_QUERY_DYNAMIC: /* anyone can schedule: the nearest does */
    route_on_node(map, self, &first);
    break;
  case CHI_QUERY_PHYSICAL:
    rc = route_on_node(map, q->a, &first);
    if (rc != CHI_OK && q->a >= map->count)
      rc = CHI_ERANGE;
    break;
  case CHI_QUERY_ID:
    first = q->a;
    rc = route_range(first, count, map->count);
    break;
  case CHI_QUERY_HASH:
    first = q->a % map->count;
    break;
  case CHI_QUERY_RANGE:
    first = q->a;
    count = q->b;
    rc = route_range(first, count, map->count);
    break;
  case CHI_QUERY_BROADCAST:
    count = map->count;
    break;
  default:
    rc = CHI_EINVAL;
  }
  if (rc == CHI_OK)
    *out = (struct route){first, count, count == 1 ? map->at[first].here : NULL};
  return rc;
}
