/* view_cluster.h - the figures of all nodes of a cluster as tables for people. */
#ifndef CHI_TOOL_VIEW_CLUSTER_H
#define CHI_TOOL_VIEW_CLUSTER_H

#include "base.h"
#include "watch.h"

#include <stdio.h>

/* Prints what the last round came to: a row for each node, and who doesn't answer is there as such.
 * With `rates`, figures are those of the time between a node's last two answers, and "-" where
 * there is only one; else those since its start. In fewer columns than these some are left out. */
#define VIEW_CLUSTER_MORE 130
#define VIEW_CLUSTER_ALL 175
void view_cluster_print(FILE *out, const struct watch *w, bool rates, int width);

#endif
