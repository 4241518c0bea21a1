/* rift.h - a cluster that falls in two for long, and a node that takes itself for too young. */
#ifndef RIFT_H
#define RIFT_H

#include "books.h"
#include "rng.h"
#include "run.h"

/* Cuts the nodes in two until each side has given up the other, and has made a pool that the other
 * side makes as well. The one side has destroyed a pool of both, one of whose containers had moved,
 * and made it again. Each side sends tasks to the one that it knows, and the cut is healed. */
void rift_split(chi_cluster *cluster, const struct run_case *c, struct rng *rng);

/* When all have settled after that: the containers of the pool that was made again are each on
 * their own node. */
void rift_look_back(chi_cluster *cluster, const struct run_case *c);

/* Two nodes forget everything. One of them, whose clock has gone back, begins a life with a lower
 * number than the others have seen of it, and works for the second one, which doesn't know better,
 * until it hears of its number: what it was asked before is then over. Three nodes at least. */
void rift_rebirth(chi_cluster *cluster, const struct run_case *c, struct rng *rng);

#endif
