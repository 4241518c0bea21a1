/* real_log.h - where log lines go: a file, or standard error. */
#ifndef CHI_REAL_LOG_H
#define CHI_REAL_LOG_H

#include "base.h"

#ifndef CHI_OMIT_REAL

#include <pthread.h>

#define REAL_LOG_RATE 500u /* lines a second; further ones are left out and counted */

struct real_log {
  int fd; /* -1: lines are dropped without being counted */
  bool owned, stalled, torn;
  uint32_t node;   /* whose log it is; UINT32_MAX: it isn't known yet */
  uint64_t lost;   /* lines since the last one that was written */
  uint64_t excess; /* of these, those that were too many in their second */
  uint64_t second;
  uint32_t passed; /* lines in that second */
  pthread_mutex_t mutex;
};

/* Opens the file for appending, making it if it isn't there; an empty path is standard error. If
 * that fails, lines go to standard error, the first of which says so. NULL: drops everything. */
CHI_PRIVATE void real_log_open(struct real_log *log, const char *path);
CHI_PRIVATE void real_log_close(struct real_log *log);

/* From now on lines name this node. Before there are other threads. */
CHI_PRIVATE void real_log_name(struct real_log *log, uint32_t node);

/* Writes "2026-01-02T03:04:05.678Z level node=3 line", or "node=-". A line that the sink does not
 * take, or that is one too many in its second, is dropped and counted; the next one that is written
 * is preceded by the count. A sink that does not move, such as a full pipe, holds a thread up for a
 * moment once, and then not again until it moves. Any thread; not a signal handler. */
CHI_PRIVATE void real_log_write(struct real_log *log, int level, const char *line);

/* The last line of a process, at level error, to the log and to standard error. Safe in a signal
 * handler. */
CHI_PRIVATE void real_log_cry(const struct real_log *log, const char *line);

#endif
#endif
