/* route.h - query -> where: which containers of a pool a task is for. */
#ifndef CHI_ROUTE_H
#define CHI_ROUTE_H

#include "base.h"
#include "pool.h"

/* Containers first .. first + count - 1; `here` if it is one and on this node. */
struct route {
  uint32_t first, count;
  struct container *here;
};

/* Resolves a query over the containers of a pool, seen from node `self`. Local is the container of
 * this node; where there are several, the first, and where there is none, CHI_ENOENT. Physical
 * means the same of another node. Dynamic is the same as local, or the first of all: there the
 * module is asked. CHI_ERANGE: no such container; CHI_EINVAL: no such mode. */
CHI_PRIVATE int route_resolve(const chi_query *query, const struct pool_map *map, uint32_t self,
                              struct route *out);

#endif
