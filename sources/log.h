/* log.h - lines for people: formatted only if wanted, bounded, impossible to forge. */
#ifndef CHI_LOG_H
#define CHI_LOG_H

#include "base.h"

#define LOG_LINE_MAX 512 /* bytes of a line with its NUL */

/* Where lines go. sink gets each line without a newline, on the thread that wrote it, and keeps no
 * pointer to it; it adds time and place, and guards itself if threads share it. */
struct log {
  void (*sink)(void *arg, int level, const char *line); /* NULL: nowhere */
  void *arg;
  int level; /* an enum chi_log_level; lines below it are dropped unformatted */
  struct log_figures *figures; /* NULL: nobody counts */
};

/* Counts of a log; any thread. */
struct log_figures {
  uint64_t lines[CHI_LOG_ERROR + 1]; /* by level: handed to the sink */
  uint64_t held, told;               /* held back; and of these, as many as lines have told of */
};

/* Holds back repetitions of one kind of line. All zero to begin with; not shared by threads. */
struct log_limit {
  uint64_t next;       /* when the next second begins, nanoseconds */
  uint32_t passed;     /* lines in this one */
  uint32_t suppressed; /* lines held back since the last one that passed */
};

/* Writes a line. What doesn't fit ends in "..."; control characters and malformed UTF-8 become '?',
 * so that no name within it begins a line of its own. */
CHI_PRIVATE void log_write(const struct log *log, int level, const char *fmt, ...)
    __attribute__((format(printf, 3, 4)));

/* As log_write, but at most one line a second for each limit; the next line that passes says how
 * many were held back. now: nanoseconds of any clock; a clock set back doesn't silence it. */
CHI_PRIVATE void log_limited(const struct log *log, struct log_limit *limit, uint64_t now,
                             int level, const char *fmt, ...) __attribute__((format(printf, 5, 6)));
/* The same with up to `burst` lines a second, for lines that are not all of a kind. */
CHI_PRIVATE void log_burst(const struct log *log, struct log_limit *limit, uint32_t burst,
                           uint64_t now, int level, const char *fmt, ...)
    __attribute__((format(printf, 6, 7)));
/* Counts a line that isn't even tried, as one held back. */
CHI_PRIVATE void log_skip(const struct log *log);
/* The last word: how many lines were held back that no line has told of. */
CHI_PRIVATE void log_close(const struct log *log);

#endif
