/* feud.h - two nodes of which one isn't heard by the other, or too late. */
#ifndef FEUD_H
#define FEUD_H

#include "books.h"
#include "rng.h"
#include "run.h"

/* One node's words no longer reach another, which has asked it for a task, and gives it a container
 * meanwhile. Then nothing more, or one of them is lost. Who waits hears that nobody knows; and the
 * container is in one place, whatever the two know of it. Three nodes at least. */
void feud(chi_cluster *cluster, const struct run_case *c, struct rng *rng);

/* A node asks another one for much, on a way that takes long, and loses power. Its next life is
 * there before what was asked in the one before: that is not heard any more. */
void feud_ghost(chi_cluster *cluster, const struct run_case *c, struct rng *rng);

#endif
