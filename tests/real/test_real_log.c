/* test_real_log.c - log lines arrive, or are counted; they never hold the node up or end it. */
#include "real_log.h"
#include "scratch.h"
#include "test.h"

#include <inttypes.h>
#include <time.h>

static uint64_t log_second(void)
{
  struct timespec now;
  clock_gettime(CLOCK_MONOTONIC, &now);
  return (uint64_t)now.tv_sec;
}

TEST(a_line_has_time_level_and_node_and_is_appended)
{
  char dir[64], path[96], text[256], level[16], node[16], rest[64];
  struct real_log log;
  struct tm t = {0};
  int ms = -1;
  CHECK(scratch_make(dir));
  snprintf(path, sizeof(path), "%s/log", dir);
  CHECK(scratch_write(dir, "log", "before\n"));
  time_t now = time(NULL);
  real_log_open(&log, path);
  real_log_name(&log, 17);
  real_log_write(&log, CHI_LOG_WARNING, "mind the gap");
  real_log_close(&log);
  scratch_read(path, text, sizeof(text));
  CHECK(strncmp(text, "before\n", 7) == 0);
  CHECK_INT(sscanf(text + 7, "%d-%d-%dT%d:%d:%d.%3dZ %15s %15s %63[^\n]", &t.tm_year,
                   &t.tm_mon, &t.tm_mday, &t.tm_hour, &t.tm_min, &t.tm_sec, &ms, level, node, rest),
            10);
  CHECK_STR(level, "warning");
  CHECK_STR(node, "node=17");
  CHECK_STR(rest, "mind the gap");
  t.tm_year -= 1900;
  t.tm_mon -= 1;
  time_t written = timegm(&t);
  CHECK(written >= now && written <= now + 5);
  CHECK_INT(text[strlen(text) - 1], '\n');
  scratch_remove(dir);
}

TEST(a_log_file_is_made_for_its_owner_and_group)
{
  char dir[64], path[96];
  struct real_log log;
  struct stat st;
  CHECK(scratch_make(dir));
  snprintf(path, sizeof(path), "%s/log", dir);
  mode_t before = umask(0);
  real_log_open(&log, path);
  umask(before);
  real_log_close(&log);
  CHECK_INT(stat(path, &st), 0);
  CHECK_INT(st.st_mode & 07777, 0640);
  scratch_remove(dir);
}

/* In a child: what a log with this path writes to standard error goes to a file. */
struct redirect {
  const char *log, *to;
};

static int log_redirected(void *arg)
{
  const struct redirect *r = arg;
  struct real_log log;
  int fd = open(r->to, O_WRONLY | O_CREAT | O_TRUNC, 0600);
  dup2(fd, STDERR_FILENO);
  real_log_open(&log, r->log);
  real_log_write(&log, CHI_LOG_INFO, "one");
  real_log_write(&log, CHI_LOG_INFO, "two");
  real_log_close(&log);
  return 0;
}

TEST(a_log_file_that_cannot_be_opened_gives_one_warning_on_standard_error)
{
  char dir[64], path[96], text[1024];
  CHECK(scratch_make(dir));
  snprintf(path, sizeof(path), "%s/stderr", dir);
  struct redirect r = {"/nowhere/at/all.log", path};
  CHECK_INT(scratch_child(log_redirected, &r), 0);
  scratch_read(path, text, sizeof(text));
  const char *first = strstr(text, "/nowhere/at/all.log");
  CHECK(first && !strstr(first + 1, "/nowhere"));
  CHECK(strstr(text, " info node=- one\n") && strstr(text, " info node=- two\n"));
  scratch_remove(dir);
}

TEST(an_empty_path_is_standard_error)
{
  char dir[64], path[96], text[1024];
  CHECK(scratch_make(dir));
  snprintf(path, sizeof(path), "%s/stderr", dir);
  struct redirect r = {"", path};
  CHECK_INT(scratch_child(log_redirected, &r), 0);
  scratch_read(path, text, sizeof(text));
  CHECK(strstr(text, " info node=- one\n") && strstr(text, " info node=- two\n"));
  scratch_remove(dir);
}

TEST(no_log_drops_everything)
{
  struct real_log log;
  real_log_open(&log, NULL);
  real_log_write(&log, CHI_LOG_ERROR, "nobody hears this");
  CHECK_INT(log.lost, 0);
  real_log_close(&log);
}

TEST(a_full_disk_loses_lines_and_counts_them)
{
  struct real_log log;
  real_log_open(&log, "/dev/full");
  real_log_write(&log, CHI_LOG_INFO, "one");
  real_log_write(&log, CHI_LOG_INFO, "two");
  CHECK_INT(log.lost, 2);
  real_log_close(&log);
}

/* A log whose sink is a pipe. */
static bool log_into_pipe(struct real_log *log, int *reader)
{
  int ends[2];
  real_log_open(log, NULL);
  if (pipe2(ends, O_NONBLOCK | O_CLOEXEC) != 0)
    return false;
  *reader = ends[0];
  log->fd = ends[1];
  log->owned = true;
  return true;
}

TEST(a_full_pipe_does_not_hold_up_and_tells_later_what_was_lost)
{
  struct real_log log;
  char block[65536], text[1024];
  int reader;
  CHECK(log_into_pipe(&log, &reader));
  memset(block, '.', sizeof(block));
  CHECK_INT(write(log.fd, block, sizeof(block)), sizeof(block));
  CHECK_INT(fcntl(log.fd, F_SETFL, 0), 0); /* as standard error usually is */
  for (int i = 0; i < 100; i++)
    real_log_write(&log, CHI_LOG_INFO, "lost");
  CHECK_INT(log.lost, 100);
  CHECK_INT(read(reader, block, sizeof(block)), sizeof(block));
  real_log_write(&log, CHI_LOG_INFO, "here again");
  CHECK_INT(log.lost, 0);
  ssize_t n = read(reader, text, sizeof(text) - 1);
  CHECK(n > 0);
  text[n] = '\0';
  CHECK(strstr(text, " warning node=- 100 lines lost\n"));
  CHECK(strstr(text, " info node=- here again\n"));
  close(reader);
  real_log_close(&log);
}

TEST(a_broken_pipe_does_not_raise_a_signal)
{
  struct real_log log;
  int reader;
  CHECK(log_into_pipe(&log, &reader));
  close(reader);
  real_log_write(&log, CHI_LOG_INFO, "to nobody");
  CHECK_INT(log.lost, 1);
  real_log_close(&log);
}

/* Whoever writes without end: in each second so many lines, and then how many are missing. */
TEST(a_flood_is_bounded_and_tells_what_is_missing)
{
  static char text[1u << 20];
  char dir[64], path[96];
  struct real_log log;
  uint32_t lines = 0;
  uint64_t missing = 0, more;
  CHECK(scratch_make(dir));
  snprintf(path, sizeof(path), "%s/log", dir);
  real_log_open(&log, path);
  uint64_t began = log_second();
  for (uint32_t i = 0; i < 20000; i++)
    real_log_write(&log, CHI_LOG_ERROR, "flood");
  uint64_t seconds = log_second() - began + 1;
  log.second--; /* as if it had gone by */
  real_log_write(&log, CHI_LOG_INFO, "dry land");
  real_log_write(&log, CHI_LOG_INFO, "and more");
  real_log_close(&log);
  scratch_read(path, text, sizeof(text));
  for (const char *at = text; (at = strstr(at, "flood")) != NULL; at++)
    lines++;
  for (const char *at = text; (at = strstr(at, "node=- ")) != NULL; at++)
    if (sscanf(at, "node=- %" SCNu64 " lines lost", &more) == 1)
      missing += more;
  CHECK(lines <= seconds * REAL_LOG_RATE && lines >= REAL_LOG_RATE);
  CHECK_INT(lines + missing, 20000);
  CHECK(strstr(text, " of them since there were more than 500 a second\n"));
  CHECK(strstr(text, "dry land\n") && strstr(text, "and more\n"));
  scratch_remove(dir);
}

/* What was left out last is told at the end. */
TEST(a_log_that_ends_in_a_flood_tells_what_is_missing)
{
  char dir[64], path[96];
  static char text[1u << 20];
  struct real_log log;
  uint64_t more = 0;
  CHECK(scratch_make(dir));
  snprintf(path, sizeof(path), "%s/log", dir);
  real_log_open(&log, path);
  for (uint32_t i = 0; i < 3000; i++)
    real_log_write(&log, CHI_LOG_INFO, "flood");
  real_log_close(&log);
  scratch_read(path, text, sizeof(text));
  const char *last = strrchr(text, '=');
  CHECK(last && sscanf(last, "=- %" SCNu64 " lines lost", &more) == 1 && more > 0);
  scratch_remove(dir);
}

static int cry(void *arg)
{
  const struct redirect *r = arg;
  struct real_log log;
  int fd = open(r->to, O_WRONLY | O_CREAT | O_TRUNC, 0600);
  dup2(fd, STDERR_FILENO);
  real_log_open(&log, r->log);
  real_log_cry(&log, "the end");
  return 0;
}

TEST(last_words_go_to_the_log_and_to_standard_error)
{
  char dir[64], path[96], own[96], text[256];
  CHECK(scratch_make(dir));
  snprintf(path, sizeof(path), "%s/stderr", dir);
  snprintf(own, sizeof(own), "%s/log", dir);
  struct redirect r = {own, path};
  CHECK_INT(scratch_child(cry, &r), 0);
  CHECK(strstr(scratch_read(path, text, sizeof(text)), " error node=- the end\n"));
  CHECK(strstr(scratch_read(own, text, sizeof(text)), " error node=- the end\n"));
  scratch_remove(dir);
}
