/* rift.h - a cluster that falls in two for long, and a node that takes itself for too young. */
#ifndef RIFT_H
#define RIFT_H

#include "books.h"
#include "rng.h"
#include "run.h"

/* Cuts the nodes in two until each side has given up the other, and has made a pool that the other
 * side makes as well. The cut is still there when it returns. */
void rift_split(chi_cluster *cluster, const struct run_case *c, struct rng *rng);

/* Two nodes forget everything. One of them, whose clock has gone back, begins a life with a lower
 * number than the others have seen of it, and works for the second one, which doesn't know better,
 * until it hears of its number: what it was asked before is then over. Three nodes at least. */
void rift_rebirth(chi_cluster *cluster, const struct run_case *c, struct rng *rng);

#endif
