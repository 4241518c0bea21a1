/* feud.h - two nodes of which one isn't heard by the other, while a third hears both. */
#ifndef FEUD_H
#define FEUD_H

#include "books.h"
#include "rng.h"
#include "run.h"

/* One node's words no longer reach another, which has asked it for a task, and gives it a container
 * meanwhile. Then nothing more, or one of them is lost. Who waits hears that nobody knows; and the
 * container is in one place, whatever the two know of it. Three nodes at least. */
void feud(chi_cluster *cluster, const struct run_case *c, struct rng *rng);

#endif
