/* real_cluster.h - clusters of real nodes behind the handle chi_cluster: "local:" and "hostfile:".
 *
 * local: nodes at loopback addresses. With modules given as pointers they live in this process;
 * else each is a process of the program chimaera ($CHIMAERA, or found on $PATH), whose modules come
 * from $CHI_MODULE_PATH. Time is real, so clients run whenever they like, each as a thread. */
#ifndef CHI_REAL_CLUSTER_H
#define CHI_REAL_CLUSTER_H

#include "base.h"

#ifndef CHI_OMIT_REAL

#include "cluster.h"

/* How nodes differ from the simulated ones: the ports and threads that aren't given are few, and
 * faults are those that a signal can make; of nodes in this process, only to stop and start. */
CHI_PRIVATE const struct cluster_kind *real_cluster_local(void);
/* A cluster that runs. Clients are those of the daemon on this host, of the default instance. */
CHI_PRIVATE const struct cluster_kind *real_cluster_hostfile(void);

#endif
#endif
