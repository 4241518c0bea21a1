/* exposition.h - writes the text format in which Prometheus reads metrics. */
#ifndef CHI_TOOL_EXPOSITION_H
#define CHI_TOOL_EXPOSITION_H

#include "base.h"

#include <stdio.h>

enum exposition_type {
  EXPOSITION_COUNTER,
  EXPOSITION_GAUGE,
  EXPOSITION_HISTOGRAM,
  EXPOSITION_UNTYPED
};

/* What is known of one metric: its name has the unit, and _total if it is a counter. */
struct exposition_metric {
  const char *name;
  int type; /* enum exposition_type */
  const char *help;
};

/* A label of a sample. The value is any text: what is no UTF-8 in it, and control characters but
 * for line breaks, become "?". */
struct exposition_label {
  const char *name, *value;
};

/* Set `out`, the rest to 0. A metric's samples follow each other. */
struct exposition {
  FILE *out;
  const struct exposition_metric *metric; /* whose samples are being written */
  bool told;                              /* HELP and TYPE have been written */
};

/* The samples that follow are of this metric. HELP and TYPE come with the first: without samples
 * there is nothing of it. */
void exposition_begin(struct exposition *e, const struct exposition_metric *metric);
/* One sample; suffix: "", or "_bucket" and the like of a histogram. The list of labels ends in a
 * row without name; NULL: none. */
void exposition_count(struct exposition *e, const char *suffix,
                      const struct exposition_label *labels, uint64_t value);
/* NaN and infinities are written as such. */
void exposition_number(struct exposition *e, const char *suffix,
                       const struct exposition_label *labels, double value);
/* Seconds, exact. */
void exposition_seconds(struct exposition *e, const char *suffix,
                        const struct exposition_label *labels, uint64_t ns);

#endif
