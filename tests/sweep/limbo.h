/* limbo.h - tasks that wait for a pool that takes its time, for a lock that their group gets, and
 * those that keep a container from moving. */
#ifndef LIMBO_H
#define LIMBO_H

#include "books.h"
#include "rng.h"

/* A cluster that is whole, and has nothing to do. */
void limbo(chi_cluster *cluster, uint32_t nodes, struct rng *rng);

#endif
