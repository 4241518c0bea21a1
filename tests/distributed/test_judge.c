/* test_judge.c - the judge notices what must not be: journals and ledgers made by hand. */
#include "traffic.h"
#include "test.h"

#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define JUDGE_CLIENT 7u

static char judge_dir[64], judge_said[4096];

/* What the judge complains of is kept here. */
int traffic_fail(const char *fmt, ...)
{
  size_t used = strlen(judge_said);
  va_list args;
  va_start(args, fmt);
  vsnprintf(judge_said + used, sizeof judge_said - used, fmt, args);
  va_end(args);
  return 1;
}

static void judge_write(const char *name, const void *data, size_t size, bool append)
{
  char path[128];
  snprintf(path, sizeof path, "%s/%s", judge_dir, name);
  FILE *f = fopen(path, append ? "ab" : "wb");
  if (f) {
    fwrite(data, 1, size, f);
    fclose(f);
  }
}

static void judge_begin(void)
{
  char path[96];
  judge_said[0] = '\0';
  snprintf(judge_dir, sizeof judge_dir, "/tmp/chi-judge-XXXXXX");
  if (!mkdtemp(judge_dir))
    abort();
  snprintf(path, sizeof path, "%s/journal", judge_dir);
  mkdir(path, 0700);
  snprintf(path, sizeof path, "%s/ledger", judge_dir);
  mkdir(path, 0700);
}

/* One task, number 0, for these containers. */
static void judge_task_was(const char *file, uint64_t containers, int rc, bool completed)
{
  struct traffic_entry e = {.client = JUDGE_CLIENT,
                            .containers = containers,
                            .rc = rc,
                            .state = completed ? TRAFFIC_COMPLETED : TRAFFIC_SUBMITTED};
  judge_write(file, &e, sizeof e, false);
}

static void judge_ran(uint64_t seq, uint32_t container)
{
  struct courier_entry e = {.client = JUDGE_CLIENT, .seq = seq, .container = container};
  e.check = courier_entry_check(&e);
  judge_write("ledger/ledger-0-0", &e, sizeof e, true);
}

static int judge_end(const char *codes)
{
  char journal[96], ledger[96], command[128];
  struct traffic_options o = {.nodes = 2, .codes = codes, .journal = journal, .ledger = ledger};
  snprintf(journal, sizeof journal, "%s/journal", judge_dir);
  snprintf(ledger, sizeof ledger, "%s/ledger", judge_dir);
  int status = traffic_judge(&o);
  snprintf(command, sizeof command, "rm -rf %s", judge_dir);
  return system(command) == 0 ? status : -1;
}

TEST(judge_is_content_with_what_is_right)
{
  judge_begin();
  judge_task_was("journal/a", 3, CHI_OK, true);
  judge_ran(0, 0);
  judge_ran(0, 1);
  CHECK_INT(judge_end("OK"), 0);
  CHECK_STR(judge_said, "");
}

TEST(judge_notices_a_body_that_ran_twice)
{
  judge_begin();
  judge_task_was("journal/a", 1, CHI_OK, true);
  judge_ran(0, 0);
  judge_ran(0, 0);
  CHECK_INT(judge_end("OK"), 1);
  CHECK(strstr(judge_said, "a body ran twice"));
}

TEST(judge_notices_a_body_that_did_not_run)
{
  judge_begin();
  judge_task_was("journal/a", 3, CHI_OK, true);
  judge_ran(0, 1);
  CHECK_INT(judge_end("OK"), 1);
  CHECK(strstr(judge_said, "a body did not run"));
}

TEST(judge_notices_that_what_was_unreachable_ran)
{
  judge_begin();
  judge_task_was("journal/a", 2, CHI_EUNREACHABLE, true);
  judge_ran(0, 1);
  CHECK_INT(judge_end("OK,EUNREACHABLE"), 1);
  CHECK(strstr(judge_said, "it did run"));
}

TEST(judge_notices_what_nobody_asked_for)
{
  judge_begin();
  judge_task_was("journal/a", 1, CHI_EUNKNOWN, true);
  judge_ran(0, 1);
  CHECK_INT(judge_end(NULL), 1);
  CHECK(strstr(judge_said, "ran where nobody sent it"));
  judge_begin();
  judge_task_was("journal/a", 1, CHI_EUNKNOWN, true);
  judge_ran(1, 0);
  CHECK_INT(judge_end(NULL), 1);
  CHECK(strstr(judge_said, "ran where nobody sent it"));
}

TEST(judge_knows_which_codes_may_come)
{
  judge_begin();
  judge_task_was("journal/a", 1, CHI_EUNKNOWN, true);
  CHECK_INT(judge_end("OK,EUNREACHABLE"), 1);
  CHECK(strstr(judge_said, "this code may not come here"));
  judge_begin();
  judge_task_was("journal/a", 1, CHI_ESHUTDOWN, true);
  CHECK_INT(judge_end("OK,ESHUTDOWN!"), 0);
  judge_begin();
  judge_task_was("journal/a", 1, CHI_ESHUTDOWN, true);
  judge_ran(0, 0);
  CHECK_INT(judge_end("OK,ESHUTDOWN!"), 1);
}

/* But for that of a client that was killed. */
TEST(judge_notices_a_task_that_has_not_completed)
{
  judge_begin();
  judge_task_was("journal/a", 1, 0, false);
  CHECK_INT(judge_end(NULL), 1);
  CHECK(strstr(judge_said, "has not completed"));
  judge_begin();
  judge_task_was("journal/a.killed", 1, 0, false);
  CHECK_INT(judge_end(NULL), 0);
}

TEST(judge_refuses_nothing_at_all)
{
  judge_begin();
  CHECK_INT(judge_end("OK"), 1);
  CHECK(strstr(judge_said, "not a single task"));
  snprintf(judge_dir, sizeof judge_dir, "/tmp/chi-judge-absent");
  CHECK_INT(judge_end("OK"), 1);
}
