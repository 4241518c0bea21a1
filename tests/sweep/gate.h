/* gate.h - tasks that are to end while they wait for their container, and one that takes long. */
#ifndef GATE_H
#define GATE_H

#include "books.h"
#include "rng.h"

/* On one node: a body uses CPU in a container; of those behind it one is cancelled and one has no
 * time left. They end without having run, and the others run. */
void gate(chi_cluster *cluster, uint32_t nodes, struct rng *rng);

/* A task on another node takes longer than news of it may fail to come, and ends well. */
void gate_long(chi_cluster *cluster, uint32_t nodes, struct rng *rng);

#endif
