/* report.c - telling what is wrong in a text file, and where. */
#include "report.h"

#include "error.h"
#include "utf8.h"

#include <stdarg.h>
#include <stdio.h>

#define REPORT_LINE_MAX 2048

static void report_format(char *line, const struct report *r, struct report_mark at,
                          const char *fmt, va_list args)
{
  const char *file = r->file ? r->file : "configuration";
  int n = at.line ? snprintf(line, REPORT_LINE_MAX, "%s:%d:%d: ", file, at.line, at.column)
                  : snprintf(line, REPORT_LINE_MAX, "%s: ", file);
  if (n >= 0 && n < REPORT_LINE_MAX)
    vsnprintf(line + n, REPORT_LINE_MAX - (size_t)n, fmt, args);
  utf8_make_line(line);
}

CHI_PRIVATE void report_error(struct report *r, struct report_mark at, int code, const char *fmt,
                              ...)
{
  char line[REPORT_LINE_MAX];
  va_list args;
  CHI_ASSERT(code < 0);
  if (report_gave_up(r))
    return;
  va_start(args, fmt);
  report_format(line, r, at, fmt, args);
  va_end(args);
  if (r->errors++ == 0) {
    r->code = code;
    error_set(r->err, code, "%s", line);
  }
  if (r->sink)
    r->sink(r->sink_arg, CHI_LOG_ERROR, line);
  if (r->sink && report_gave_up(r))
    r->sink(r->sink_arg, CHI_LOG_ERROR, "too many errors; what follows is not checked");
}

CHI_PRIVATE void report_note(struct report *r, struct report_mark at, int level, const char *fmt,
                             ...)
{
  char line[REPORT_LINE_MAX];
  va_list args;
  CHI_ASSERT(level < CHI_LOG_ERROR);
  if (!r->sink)
    return;
  va_start(args, fmt);
  report_format(line, r, at, fmt, args);
  va_end(args);
  r->sink(r->sink_arg, level, line);
}

CHI_PRIVATE bool report_gave_up(const struct report *r)
{
  return r->errors >= REPORT_ERRORS_MAX;
}

#undef REPORT_LINE_MAX
