/* route.h - query -> where: which container, on which node, a task is for. */
#ifndef CHI_ROUTE_H
#define CHI_ROUTE_H

#include "base.h"

struct route {
  uint32_t node, container;
};

/* Resolves a query over `containers` containers, container i on node i, seen from `self`. Dynamic
 * counts as local: whoever schedules has asked the module before. CHI_OK with *out on one target;
 * CHI_ERANGE: no such container or node; CHI_EINVAL: no such mode; CHI_EUNREACHABLE: several
 * targets, or one on a node that cannot be reached. */
CHI_PRIVATE int route_resolve(const chi_query *query, uint32_t containers, uint32_t self,
                              struct route *out);

#endif
