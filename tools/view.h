/* view.h - the figures of admin.monitor as tables for people. */
#ifndef CHI_TOOL_VIEW_H
#define CHI_TOOL_VIEW_H

#include "base.h"

#include <stdio.h>

#include "json.h"

/* Prints what a daemon told. With an earlier answer of the same daemon, rates and latencies are
 * those of the time between the two; else counts are those since its start. */
void view_print(FILE *out, const struct json *now, const struct json *before);

#endif
