/* test_report.c - what a report line looks like, which error counts, when it is enough. */
#include "report.h"

#include "test.h"

struct report_log {
  int lines, level;
  char last[4096];
};

static void report_keep(void *arg, int level, const char *text)
{
  struct report_log *log = arg;
  log->lines++;
  log->level = level;
  snprintf(log->last, sizeof(log->last), "%s", text);
}

TEST(report_lines)
{
  struct report_log log = {0, 0, ""};
  chi_error err = {0, ""};
  struct report r = {"a.yaml", report_keep, &log, &err, 0, CHI_OK};
  report_note(&r, (struct report_mark){3, 4}, CHI_LOG_WARNING, "odd: %d", 5);
  CHECK_STR(log.last, "a.yaml:3:4: odd: 5");
  CHECK_INT(log.level, CHI_LOG_WARNING);
  CHECK_INT(r.errors, 0);
  CHECK_INT(err.code, 0);
  report_error(&r, (struct report_mark){0, 0}, CHI_ENOENT, "gone");
  CHECK_STR(log.last, "a.yaml: gone");
  CHECK_INT(log.level, CHI_LOG_ERROR);
  report_error(&r, (struct report_mark){9, 1}, CHI_ECONFIG, "two\nlines \xff");
  CHECK_STR(log.last, "a.yaml:9:1: two?lines ?");
  CHECK_INT(r.errors, 2);
  CHECK_INT(r.code, CHI_ENOENT);
  CHECK_INT(err.code, CHI_ENOENT);
  CHECK_STR(err.text, "a.yaml: gone");
}

TEST(report_without_a_listener)
{
  struct report r = {0};
  report_note(&r, (struct report_mark){1, 1}, CHI_LOG_INFO, "unheard");
  report_error(&r, (struct report_mark){1, 1}, CHI_ECONFIG, "unheard");
  CHECK_INT(r.errors, 1);
  CHECK_INT(r.code, CHI_ECONFIG);
}

TEST(report_long_lines_are_cut)
{
  struct report_log log = {0, 0, ""};
  struct report r = {NULL, report_keep, &log, NULL, 0, CHI_OK};
  char text[4000];
  memset(text, 'x', sizeof(text));
  text[sizeof(text) - 1] = '\0';
  report_error(&r, (struct report_mark){0, 0}, CHI_ECONFIG, "%s", text);
  CHECK(strncmp(log.last, "configuration: xxx", 18) == 0);
  CHECK_INT(strlen(log.last), 2047);
}

TEST(report_gives_up)
{
  struct report_log log = {0, 0, ""};
  struct report r = {NULL, report_keep, &log, NULL, 0, CHI_OK};
  for (int i = 0; i < REPORT_ERRORS_MAX + 10; i++) {
    CHECK(report_gave_up(&r) == (i >= REPORT_ERRORS_MAX));
    report_error(&r, (struct report_mark){1, 1}, CHI_ECONFIG, "bad");
  }
  CHECK_INT(log.lines, REPORT_ERRORS_MAX + 1);
  CHECK_STR(log.last, "too many errors; what follows is not checked");
}
