/* real_cluster.h - clusters of real nodes behind the handle chi_cluster: "local:" and "hostfile:".
 *
 * Nodes of a local cluster are processes (real_daemon). Time is real, so clients run whenever they
 * like, each as a thread of this process. */
#ifndef CHI_REAL_CLUSTER_H
#define CHI_REAL_CLUSTER_H

#include "base.h"

#ifndef CHI_OMIT_REAL

#include "cluster.h"

/* How nodes differ from the simulated ones: the ports and threads that aren't given are few, and
 * faults are those that a signal or a relay can make. One that ends by itself fails the check
 * "crash". */
CHI_PRIVATE const struct cluster_kind *real_cluster_local(void);
/* A cluster that runs. Clients are those of the daemon on this host, of the default instance. */
CHI_PRIVATE const struct cluster_kind *real_cluster_hostfile(void);

#endif
#endif
