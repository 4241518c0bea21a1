/* latency.h - histograms of times, as admin.monitor writes them, added up and asked. */
#ifndef CHI_TOOL_LATENCY_H
#define CHI_TOOL_LATENCY_H

#include "base.h"
#include "json.h"

#define LATENCY_BUCKETS 64

/* All zero: empty. Buckets in order of their upper ends, in nanoseconds. */
struct latency {
  uint32_t used;
  struct {
    double end, count;
  } bucket[LATENCY_BUCKETS];
};

/* Adds the pairs [upper end, count] of an object's list "latency", `times` each: -1 takes those of
 * an earlier answer away. Pairs that are none, or too many, are left out. */
void latency_add(struct latency *l, const struct json *object, int times);
double latency_total(const struct latency *l);
/* How many took less than `end`, which should be the end of a bucket. */
double latency_below(const struct latency *l, double end);
/* The time below which that share of them stayed: upper end of a bucket; 0: there are none. */
double latency_percentile(const struct latency *l, double share);

#endif
