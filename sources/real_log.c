/* real_log.c - where log lines go: a file, or standard error. */
#include "real_log.h"

#ifndef CHI_OMIT_REAL

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdio.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

#define REAL_LOG_PATIENCE_MS 100
#define REAL_LOG_PREFIX 80

/* The date of a day counted from 1970-01-01; what the C library has for this is not fit for a
 * signal handler. Years begin in March here, so that the odd day is the last one. */
static void real_log_date(int64_t day, int *year, int *month, int *mday)
{
  int64_t era_day = day + 719468;     /* from 0000-03-01 */
  int64_t era = era_day / 146097;     /* of 400 years */
  int64_t d = era_day - era * 146097; /* of the era */
  int64_t y = (d - d / 1460 + d / 36524 - d / 146096) / 365;
  int64_t n = d - (365 * y + y / 4 - y / 100); /* of the year */
  int64_t m = (5 * n + 2) / 153;
  *mday = (int)(n - (153 * m + 2) / 5 + 1);
  *month = (int)(m < 10 ? m + 3 : m - 9);
  *year = (int)(y + era * 400 + (m >= 10));
}

/* "2026-01-02T03:04:05.678Z level node=3 " */
static void real_log_prefix(const struct real_log *log, char *text, size_t room, int level)
{
  static const char *const names[] = {"debug", "info", "warning", "error"};
  struct timespec now;
  int year, month, mday;
  char node[12] = "-";
  if (log->node != UINT32_MAX)
    snprintf(node, sizeof(node), "%u", log->node);
  clock_gettime(CLOCK_REALTIME, &now);
  int second = (int)(now.tv_sec % 86400);
  real_log_date(now.tv_sec / 86400, &year, &month, &mday);
  snprintf(text, room, "%04d-%02d-%02dT%02d:%02d:%02d.%03dZ %s node=%s ", year, month, mday,
           second / 3600, second / 60 % 60, second % 60, (int)(now.tv_nsec / 1000000),
           level >= 0 && level < (int)CHI_COUNT(names) ? names[level] : "?", node);
}

/* True if a line can be written without being held up for long. */
static bool real_log_ready(struct real_log *log)
{
  struct pollfd p = {log->fd, POLLOUT, 0};
  int rc = poll(&p, 1, log->stalled ? 0 : REAL_LOG_PATIENCE_MS);
  log->stalled = rc == 0;
  return rc > 0 && p.revents == POLLOUT; /* a broken pipe would raise a signal */
}

/* Writes one line; false if it got lost, as a whole or in part. */
static bool real_log_put(struct real_log *log, int level, const char *line)
{
  char prefix[REAL_LOG_PREFIX];
  if (!real_log_ready(log))
    return false;
  real_log_prefix(log, prefix, sizeof(prefix), level);
  struct iovec part[] = {{(char *)(uintptr_t) "\n", log->torn},
                         {prefix, strlen(prefix)},
                         {(char *)(uintptr_t)line, strlen(line)},
                         {(char *)(uintptr_t) "\n", 1}};
  size_t size = 0;
  for (size_t i = 0; i < CHI_COUNT(part); i++)
    size += part[i].iov_len;
  ssize_t n;
  do
    n = writev(log->fd, part, CHI_COUNT(part));
  while (n < 0 && errno == EINTR);
  if (n > 0)
    log->torn = (size_t)n < size;
  return n == (ssize_t)size;
}

/* Whether one more line fits into this second. */
static bool real_log_may(struct real_log *log)
{
  struct timespec now;
  clock_gettime(CLOCK_MONOTONIC, &now);
  if ((uint64_t)now.tv_sec != log->second) {
    log->second = (uint64_t)now.tv_sec;
    log->passed = 0;
  }
  return log->passed++ < REAL_LOG_RATE;
}

/* Tells of lines that are missing; false: it can't. */
static bool real_log_confess(struct real_log *log)
{
  char text[120];
  if (log->lost == 0)
    return true;
  if (log->excess > 0)
    snprintf(text, sizeof(text), "%llu lines lost, %llu of them since there were more than %u a "
             "second", (unsigned long long)log->lost, (unsigned long long)log->excess,
             REAL_LOG_RATE);
  else
    snprintf(text, sizeof(text), "%llu lines lost", (unsigned long long)log->lost);
  if (!real_log_put(log, CHI_LOG_WARNING, text))
    return false;
  log->lost = log->excess = 0;
  return true;
}

void real_log_write(struct real_log *log, int level, const char *line)
{
  if (log->fd < 0)
    return;
  pthread_mutex_lock(&log->mutex);
  bool may = real_log_may(log);
  log->excess += !may;
  if (!may || !real_log_confess(log) || !real_log_put(log, level, line))
    log->lost++;
  pthread_mutex_unlock(&log->mutex);
}

void real_log_cry(const struct real_log *log, const char *line)
{
  char prefix[REAL_LOG_PREFIX];
  real_log_prefix(log, prefix, sizeof(prefix), CHI_LOG_ERROR);
  struct iovec part[] = {{prefix, strlen(prefix)},
                         {(char *)(uintptr_t)line, strlen(line)},
                         {(char *)(uintptr_t) "\n", 1}};
  ssize_t n = writev(STDERR_FILENO, part, CHI_COUNT(part));
  if (log->fd >= 0 && log->fd != STDERR_FILENO)
    n = writev(log->fd, part, CHI_COUNT(part));
  (void)n; /* there is nobody left to tell */
}

void real_log_open(struct real_log *log, const char *path)
{
  *log = (struct real_log){.fd = path ? STDERR_FILENO : -1, .node = UINT32_MAX};
  pthread_mutex_init(&log->mutex, NULL);
  if (!path || !*path)
    return;
  int fd = open(path, O_WRONLY | O_APPEND | O_CREAT | O_CLOEXEC | O_NOCTTY | O_NONBLOCK, 0640);
  if (fd < 0) {
    char text[CHI_PATH_MAX + 128];
    snprintf(text, sizeof(text), "log file %s: %m; logging to standard error instead", path);
    real_log_write(log, CHI_LOG_WARNING, text);
    return;
  }
  log->fd = fd;
  log->owned = true;
}

void real_log_name(struct real_log *log, uint32_t node)
{
  log->node = node;
}

void real_log_close(struct real_log *log)
{
  if (log->fd >= 0)
    real_log_confess(log);
  if (log->owned)
    close(log->fd);
  log->fd = -1;
  pthread_mutex_destroy(&log->mutex);
}

#undef REAL_LOG_PATIENCE_MS
#undef REAL_LOG_PREFIX

#endif
