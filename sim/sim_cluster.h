/* sim_cluster.h - a cluster of simulated nodes behind the handle chi_cluster. */
#ifndef CHI_SIM_CLUSTER_H
#define CHI_SIM_CLUSTER_H

#include "base.h"
#include "cluster.h"
#include "sim.h"
#include "sim_check.h"

/* The kind "sim". */
CHI_PRIVATE const struct cluster_kind *sim_cluster_kind(void);

/* What is behind a cluster of this kind, for programs that do more with it than the public
 * functions: its simulation, its checks (whose recorder is taken: see sim_check_listen), and every
 * fault so far, planned or done at once. NULL: another kind. */
CHI_PRIVATE CHI_UNUSED struct sim *sim_cluster_sim(chi_cluster *c);
CHI_PRIVATE CHI_UNUSED struct sim_check *sim_cluster_check(chi_cluster *c);
CHI_PRIVATE CHI_UNUSED const struct sim_plan *sim_cluster_plan(chi_cluster *c);
/* Lets the faults of a plan happen, as chi_cluster_plan does. CHI_ENOMEM. */
CHI_PRIVATE CHI_UNUSED int sim_cluster_schedule(chi_cluster *c, const struct sim_plan *plan);

#endif
