/* log.c - formatting a log line and handing it to the sink. */
#include "log.h"

#include "atomic.h"
#include "utf8.h"

#include <stdarg.h>
#include <stdio.h>

#define LOG_LIMIT_NS 1000000000u

static inline bool log_wants(const struct log *log, int level)
{
  return level >= log->level && log->sink;
}

/* Ends a line that filled all of size bytes with dots, not in the middle of a character. */
static void log_cut(char *line, size_t size)
{
  size_t end = size - sizeof("...");
  while (end > 0 && ((unsigned char)line[end] & 0xc0) == 0x80)
    end--;
  memcpy(line + end, "...", sizeof("..."));
}

__attribute__((format(printf, 4, 0))) static void
log_format(const struct log *log, int level, uint32_t suppressed, const char *fmt, va_list args)
{
  char line[LOG_LINE_MAX], tail[32] = "";
  size_t room;
  int n;
  if (suppressed > 0)
    snprintf(tail, sizeof(tail), " (%u more held back)", suppressed);
  room = sizeof(line) - strlen(tail);
  n = vsnprintf(line, room, fmt, args);
  if (n < 0)
    line[0] = '\0';
  else if ((size_t)n >= room)
    log_cut(line, room);
  utf8_make_line(line);
  memcpy(line + strlen(line), tail, strlen(tail) + 1);
  if (log->figures) {
    tally_add_shared(&log->figures->lines[level <= CHI_LOG_ERROR ? level : CHI_LOG_ERROR], 1);
    tally_add_shared(&log->figures->told, suppressed);
  }
  log->sink(log->arg, level, line);
}

CHI_PRIVATE void log_write(const struct log *log, int level, const char *fmt, ...)
{
  va_list args;
  if (!log_wants(log, level))
    return;
  va_start(args, fmt);
  log_format(log, level, 0, fmt, args);
  va_end(args);
}

/* Whether one more line passes; *suppressed: how many before it did not. */
static bool log_passes(const struct log *log, struct log_limit *limit, uint32_t burst, uint64_t now,
                       uint32_t *suppressed)
{
  if (now >= limit->next || limit->next - now > LOG_LIMIT_NS) {
    limit->next = now + LOG_LIMIT_NS;
    limit->passed = 0;
  }
  if (limit->passed >= burst) {
    limit->suppressed += limit->suppressed < UINT32_MAX;
    log_skip(log);
    return false;
  }
  limit->passed++;
  *suppressed = limit->suppressed;
  limit->suppressed = 0;
  return true;
}

CHI_PRIVATE void log_limited(const struct log *log, struct log_limit *limit, uint64_t now,
                             int level, const char *fmt, ...)
{
  uint32_t suppressed;
  va_list args;
  if (!log_wants(log, level) || !log_passes(log, limit, 1, now, &suppressed))
    return;
  va_start(args, fmt);
  log_format(log, level, suppressed, fmt, args);
  va_end(args);
}

CHI_PRIVATE void log_burst(const struct log *log, struct log_limit *limit, uint32_t burst,
                           uint64_t now, int level, const char *fmt, ...)
{
  uint32_t suppressed;
  va_list args;
  if (!log_wants(log, level) || !log_passes(log, limit, burst, now, &suppressed))
    return;
  va_start(args, fmt);
  log_format(log, level, suppressed, fmt, args);
  va_end(args);
}

CHI_PRIVATE void log_skip(const struct log *log)
{
  if (log->figures)
    tally_add_shared(&log->figures->held, 1);
}

CHI_PRIVATE void log_close(const struct log *log)
{
  const struct log_figures *f = log->figures;
  uint64_t untold = f ? tally_get(&f->held) - tally_get(&f->told) : 0;
  if (untold > 0)
    log_write(log, CHI_LOG_WARNING, "%llu more lines were held back", (unsigned long long)untold);
}

#undef LOG_LIMIT_NS
