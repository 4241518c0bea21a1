/* metrics.h - the figures of nodes as metrics for Prometheus: see docs/watching.md. */
#ifndef CHI_TOOL_METRICS_H
#define CHI_TOOL_METRICS_H

#include "base.h"
#include "watch.h"

#include <stdio.h>

#define METRICS_CONTENT_TYPE "text/plain; version=0.0.4; charset=utf-8"

/* What the exporter tells of itself. */
struct metrics_own {
  uint64_t collections, failures; /* how often the daemon was asked, and did not answer */
  uint64_t took_ns;               /* the last time */
};

/* Writes everything that the last round came to; w NULL: there is no daemon. */
void metrics_print(FILE *out, const struct watch *w, const struct metrics_own *own);

#endif
