/* report.h - telling what is wrong in a text file, and where. */
#ifndef CHI_REPORT_H
#define CHI_REPORT_H

#include "base.h"

#define REPORT_ERRORS_MAX 1000 /* a file with more is not worth reading on */

/* Where something was written, counted from 1; line 0: nowhere in particular. */
struct report_mark {
  int line, column;
};

/* Where problems go. Set the first four (each may be NULL), the rest to 0. */
struct report {
  const char *file; /* begins each line */
  chi_config_report *sink;
  void *sink_arg;
  chi_error *err; /* receives the first error */
  uint32_t errors;
  int code; /* of the first error, else CHI_OK */
};

/* Reports an error; code becomes the report's if it is the first. Control characters and malformed
 * UTF-8 become "?", so that it is one line. Beyond REPORT_ERRORS_MAX nothing more is reported. */
CHI_PRIVATE void report_error(struct report *r, struct report_mark at, int code, const char *fmt,
                              ...) __attribute__((format(printf, 4, 5)));
/* Reports a warning or a note; level is a chi_log_level below CHI_LOG_ERROR. */
CHI_PRIVATE void report_note(struct report *r, struct report_mark at, int level, const char *fmt,
                             ...) __attribute__((format(printf, 4, 5)));
/* True when so many errors were reported that reading on makes no sense. */
CHI_PRIVATE bool report_gave_up(const struct report *r);

#endif
