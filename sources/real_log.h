/* real_log.h - where log lines go: a file, or standard error. */
#ifndef CHI_REAL_LOG_H
#define CHI_REAL_LOG_H

#include "base.h"

#ifndef CHI_OMIT_REAL

#include <pthread.h>

struct real_log {
  int fd; /* -1: lines are dropped without being counted */
  bool owned, stalled, torn;
  uint64_t lost; /* lines since the last one that was written */
  pthread_mutex_t mutex;
};

/* Opens the file for appending, making it if it isn't there; an empty path is standard error. If
 * that fails, lines go to standard error, the first of which says so. NULL: drops everything. */
CHI_PRIVATE void real_log_open(struct real_log *log, const char *path);
CHI_PRIVATE void real_log_close(struct real_log *log);

/* Writes "2026-01-02T03:04:05.678Z level line". A line that the sink does not take is dropped and
 * counted; the next one that it takes is preceded by the count. A sink that does not move, such as
 * a full pipe, holds a thread up for a moment once, and then not again until it moves. Any thread;
 * not a signal handler. */
CHI_PRIVATE void real_log_write(struct real_log *log, int level, const char *line);

/* The last line of a process, at level error, to the log and to standard error. Safe in a signal
 * handler. */
CHI_PRIVATE void real_log_cry(const struct real_log *log, const char *line);

#endif
#endif
