/* trace_html.h - a simulated run as one page for a browser: a diagram of space and time. */
#ifndef CHI_TOOL_TRACE_HTML_H
#define CHI_TOOL_TRACE_HTML_H

#include "trace.h"

/* Writes the page, which needs nothing else. CHI_OK; CHI_EINVAL: see trace_model_open; CHI_ENOMEM;
 * CHI_EIO: it could not be written. */
int trace_html_write(FILE *out, const struct trace_page *page);

#endif
