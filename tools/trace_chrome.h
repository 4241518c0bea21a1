/* trace_chrome.h - a simulated run as Chrome trace events, for Perfetto and chrome://tracing. */
#ifndef CHI_TOOL_TRACE_CHROME_H
#define CHI_TOOL_TRACE_CHROME_H

#include "trace.h"

/* Writes one JSON object: nodes are processes, workers their threads, bodies slices, messages flow
 * arrows, what was wrong with a node slices of a thread of its own. Errors as trace_html_write. */
int trace_chrome_write(FILE *out, const struct trace_page *page);

#endif
