/* test_log.c - levels, bounds, hostile text, the limit. */
#include "log.h"

#include "test.h"

/* Keeps the last line and counts them. */
struct log_kept {
  char line[2 * LOG_LINE_MAX];
  int level, count;
};

static void log_keep(void *arg, int level, const char *line)
{
  struct log_kept *kept = arg;
  snprintf(kept->line, sizeof(kept->line), "%s", line);
  kept->level = level;
  kept->count++;
}

TEST(log_writes_from_its_level_on)
{
  struct log_kept kept = {0};
  struct log log = {log_keep, &kept, CHI_LOG_WARNING, NULL};
  log_write(&log, CHI_LOG_DEBUG, "no");
  log_write(&log, CHI_LOG_INFO, "no");
  CHECK_INT(kept.count, 0);
  log_write(&log, CHI_LOG_WARNING, "pool %u.%u is %s", 300u, 0u, "new");
  CHECK_STR(kept.line, "pool 300.0 is new");
  CHECK_INT(kept.level, CHI_LOG_WARNING);
  log_write(&log, CHI_LOG_ERROR, "%s", "");
  CHECK_STR(kept.line, "");
  CHECK_INT(kept.level, CHI_LOG_ERROR);
  CHECK_INT(kept.count, 2);
}

TEST(log_without_a_sink_is_silent)
{
  struct log log = {NULL, NULL, CHI_LOG_DEBUG, NULL};
  struct log_limit limit = {0};
  log_write(&log, CHI_LOG_ERROR, "lost");
  log_limited(&log, &limit, 5, CHI_LOG_ERROR, "lost");
  CHECK(limit.next == 0 && limit.suppressed == 0);
}

TEST(log_replaces_control_characters)
{
  struct log_kept kept = {0};
  struct log log = {log_keep, &kept, CHI_LOG_DEBUG, NULL};
  log_write(&log, CHI_LOG_INFO, "pool \"%s\" is gone", "x\" is fine\nERROR forged\r\t\x1b[2J\x7f");
  CHECK_STR(kept.line, "pool \"x\" is fine?ERROR forged???[2J?\" is gone");
  log_write(&log, CHI_LOG_INFO, "%s", "next line \xc2\x85, control \xc2\x9b, end \xc2");
  CHECK_STR(kept.line, "next line ??, control ??, end ?");
  log_write(&log, CHI_LOG_INFO, "%s", "\xc3\xbc\xc3\x9f \xc2\xa0 \xe2\x82\xac");
  CHECK_STR(kept.line, "\xc3\xbc\xc3\x9f \xc2\xa0 \xe2\x82\xac");
}

TEST(log_cuts_long_lines)
{
  struct log_kept kept = {0};
  struct log log = {log_keep, &kept, CHI_LOG_DEBUG, NULL};
  char text[LOG_LINE_MAX + 1];
  memset(text, 'x', sizeof(text));
  text[LOG_LINE_MAX - 1] = '\0';
  log_write(&log, CHI_LOG_INFO, "%s", text);
  CHECK_STR(kept.line, text); /* just fits */
  text[LOG_LINE_MAX - 1] = 'x';
  text[LOG_LINE_MAX] = '\0';
  log_write(&log, CHI_LOG_INFO, "%s", text);
  CHECK_INT(strlen(kept.line), LOG_LINE_MAX - 1);
  CHECK_STR(kept.line + LOG_LINE_MAX - 1 - 5, "xx...");
}

TEST(log_cuts_between_characters)
{
  struct log_kept kept = {0};
  struct log log = {log_keep, &kept, CHI_LOG_DEBUG, NULL};
  for (size_t shift = 0; shift < 4; shift++) {
    char text[1000] = "xxx";
    size_t end;
    for (size_t i = shift; i + 4 < sizeof(text); i += 4)
      memcpy(text + i, "\xf0\x9f\x90\x89", 5);
    log_write(&log, CHI_LOG_INFO, "%s", text);
    end = strlen(kept.line) - 3;
    CHECK(end < LOG_LINE_MAX - 3 && end > LOG_LINE_MAX - 8);
    CHECK_INT((end - shift) % 4, 0);
    CHECK_STR(kept.line + end, "...");
  }
}

TEST(log_limited_passes_one_a_second)
{
  const uint64_t second = 1000000000u;
  struct log_kept kept = {0};
  struct log log = {log_keep, &kept, CHI_LOG_INFO, NULL};
  struct log_limit limit = {0};
  log_limited(&log, &limit, 5 * second, CHI_LOG_WARNING, "peer %d", 1);
  CHECK_STR(kept.line, "peer 1");
  for (int i = 0; i < 41; i++)
    log_limited(&log, &limit, 5 * second + (uint64_t)i, CHI_LOG_WARNING, "peer %d", 2);
  log_limited(&log, &limit, 6 * second - 1, CHI_LOG_WARNING, "peer 3");
  CHECK_INT(kept.count, 1);
  log_limited(&log, &limit, 6 * second, CHI_LOG_WARNING, "peer %d", 4);
  CHECK_STR(kept.line, "peer 4 (42 more held back)");
  log_limited(&log, &limit, 7 * second, CHI_LOG_WARNING, "peer 5");
  CHECK_STR(kept.line, "peer 5");
  CHECK_INT(kept.count, 3);
}

TEST(log_limited_counts_only_what_the_level_wants)
{
  struct log_kept kept = {0};
  struct log log = {log_keep, &kept, CHI_LOG_INFO, NULL};
  struct log_limit limit = {0};
  log_limited(&log, &limit, 0, CHI_LOG_DEBUG, "no");
  log_limited(&log, &limit, 0, CHI_LOG_INFO, "yes");
  log_limited(&log, &limit, 1, CHI_LOG_DEBUG, "no");
  CHECK_INT(kept.count, 1);
  CHECK_INT(limit.suppressed, 0);
}

TEST(log_limited_survives_a_clock_set_back)
{
  struct log_kept kept = {0};
  struct log log = {log_keep, &kept, CHI_LOG_INFO, NULL};
  struct log_limit limit = {0};
  log_limited(&log, &limit, (uint64_t)1 << 60, CHI_LOG_INFO, "then");
  log_limited(&log, &limit, 7, CHI_LOG_INFO, "now");
  CHECK_STR(kept.line, "now");
}

TEST(log_limited_keeps_its_count_in_a_long_line)
{
  struct log_kept kept = {0};
  struct log log = {log_keep, &kept, CHI_LOG_INFO, NULL};
  struct log_limit limit = {.suppressed = UINT32_MAX};
  char text[1000];
  memset(text, 'x', sizeof(text));
  text[sizeof(text) - 1] = '\0';
  log_limited(&log, &limit, 0, CHI_LOG_INFO, "%s", text);
  CHECK_INT(strlen(kept.line), LOG_LINE_MAX - 1);
  CHECK(strstr(kept.line, "xx... (4294967295 more held back)"));
  limit.suppressed = UINT32_MAX;
  log_limited(&log, &limit, 1, CHI_LOG_INFO, "more");
  CHECK_INT(limit.suppressed, UINT32_MAX);
}

TEST(log_burst_passes_so_many_a_second)
{
  const uint64_t second = 1000000000u;
  struct log_kept kept = {0};
  struct log_figures figures = {.held = 0};
  struct log log = {log_keep, &kept, CHI_LOG_INFO, &figures};
  struct log_limit limit = {0};
  for (int i = 0; i < 100; i++)
    log_burst(&log, &limit, 7, 5 * second + (uint64_t)i, CHI_LOG_WARNING, "line %d", i);
  CHECK_INT(kept.count, 7);
  CHECK_STR(kept.line, "line 6");
  CHECK(figures.lines[CHI_LOG_WARNING] == 7 && figures.held == 93 && figures.told == 0);
  log_burst(&log, &limit, 7, 6 * second, CHI_LOG_ERROR, "line 100");
  CHECK_STR(kept.line, "line 100 (93 more held back)");
  CHECK(figures.lines[CHI_LOG_ERROR] == 1 && figures.told == 93);
  log_close(&log);
  CHECK_INT(kept.count, 8);
}

TEST(log_close_tells_what_no_line_has_told)
{
  struct log_kept kept = {0};
  struct log_figures figures = {.held = 0};
  struct log log = {log_keep, &kept, CHI_LOG_INFO, &figures};
  struct log_limit one = {0}, two = {0};
  for (int i = 0; i < 10; i++) {
    log_limited(&log, &one, 0, CHI_LOG_INFO, "one");
    log_limited(&log, &two, 0, CHI_LOG_INFO, "two");
  }
  log_close(&log);
  CHECK_STR(kept.line, "18 more lines were held back");
  CHECK_INT(kept.count, 3);
}
