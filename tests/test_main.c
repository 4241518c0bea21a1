/* test_main.c - runs the registered tests: [-v] [substring of a name]. Closes with the counts.
 *
 * With TEST_JOBS=N each test runs in a process of its own, N at a time, for TEST_SECONDS at most:
 * for tests that mostly wait, and whose threads may be left over when they fail. */
#include "test.h"

#include <stdarg.h>
#include <stdlib.h>
#include <sys/wait.h>
#include <time.h>
#include <signal.h>
#include <unistd.h>

#define JOBS_MAX 16
#define JOB_SECONDS 240
#define JOB_LINE 512

const char *(*test_excuse)(const char *file);
static struct test *tests;
static const struct test *running;
static int failed_here, skipped_here;

/* What came of all. */
static struct {
  int passed, failed, skipped;
  bool verbose;
} sum;

/* Kept sorted by file and name, so that the order does not depend on the linker. */
void test_register(struct test *t)
{
  struct test **at = &tests;
  while (*at) {
    int order = strcmp((*at)->file, t->file);
    if (order > 0 || (order == 0 && strcmp((*at)->name, t->name) > 0))
      break;
    at = &(*at)->next;
  }
  t->next = *at;
  *at = t;
}

/* Clients of a test may fail at the same time. */
void test_fail(const char *file, int line, const char *fmt, ...)
{
  char text[JOB_LINE];
  va_list ap;
  va_start(ap, fmt);
  vsnprintf(text, sizeof(text), fmt, ap);
  va_end(ap);
  fprintf(stderr, "  %s:%d: %s\n", file, line, text);
  __atomic_add_fetch(&failed_here, 1, __ATOMIC_SEQ_CST);
}

void test_skip(const char *why)
{
  printf("  skipped %s: %s\n", running->name, why);
  skipped_here++;
}

void test_leave(const char *why)
{
  test_skip(why);
  fflush(NULL);
  _exit(failed_here ? 1 : 2);
}

static void end(const struct test *t, int failed, int skipped)
{
  if (failed)
    printf("FAIL %s (%s)\n", t->name, t->file);
  sum.failed += failed != 0;
  sum.skipped += !failed && skipped;
  sum.passed += !failed && !skipped;
}

/* Whether it is not to be run; said once for a file. */
static bool is_excused(const struct test *t)
{
  static const char *last = "";
  const char *why = test_excuse ? test_excuse(t->file) : NULL;
  if (why && strcmp(last, t->file) != 0)
    printf("  skipped %s: %s\n", t->file, why);
  if (why)
    last = t->file;
  sum.skipped += why != NULL;
  return why != NULL;
}

static void begin(const struct test *t)
{
  running = t;
  failed_here = skipped_here = 0;
  t->run();
}

static int run_in_turn(const char *only)
{
  for (struct test *t = tests; t; t = t->next) {
    if (!strstr(t->name, only) || is_excused(t))
      continue;
    if (sum.verbose)
      printf("run  %s\n", t->name);
    begin(t);
    end(t, failed_here, skipped_here);
  }
  return sum.failed != 0;
}

/* ---- each in a process of its own ----------------------------------------------------------- */

struct job {
  const struct test *test;
  pid_t pid; /* 0: free */
  FILE *said;
  time_t began;
};

static void job_start(struct job *job, const struct test *t)
{
  *job = (struct job){.test = t, .said = tmpfile(), .began = time(NULL)};
  fflush(NULL);
  job->pid = job->said ? fork() : -1;
  if (job->pid < 0) {
    perror("a process for a test");
    exit(2);
  }
  if (job->pid > 0)
    return;
  dup2(fileno(job->said), STDOUT_FILENO);
  dup2(fileno(job->said), STDERR_FILENO);
  begin(t);
  fflush(NULL);
  _exit(failed_here ? 1 : skipped_here ? 2 : 0); /* threads of a test that failed may still run */
}

static void job_end(struct job *job, int status)
{
  char line[JOB_LINE];
  bool strange = !WIFEXITED(status) || WEXITSTATUS(status) > 2;
  int code = strange ? 1 : WEXITSTATUS(status);
  rewind(job->said);
  if (sum.verbose)
    printf("run  %s: %d s\n", job->test->name, (int)(time(NULL) - job->began));
  while (fgets(line, sizeof(line), job->said))
    fputs(line, stdout);
  fclose(job->said);
  if (strange)
    printf("  %s ends with status %d%s\n", job->test->name, status,
           WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL ? ": it hangs" : "");
  end(job->test, code == 1, code == 2);
  job->pid = 0;
}

/* Waits until one has ended; kills those that take too long. */
static void jobs_wait(struct job *jobs, int count, int seconds)
{
  for (;;) {
    int status, busy = 0;
    for (int i = 0; i < count; i++) {
      struct job *job = &jobs[i];
      busy += job->pid > 0;
      if (job->pid > 0 && waitpid(job->pid, &status, WNOHANG) == job->pid) {
        job_end(job, status);
        return;
      }
      if (job->pid > 0 && time(NULL) - job->began > seconds)
        kill(job->pid, SIGKILL);
    }
    if (!busy)
      return;
    nanosleep(&(struct timespec){0, 10000000}, NULL);
  }
}

static int run_at_once(const char *only, int count, int seconds)
{
  struct job jobs[JOBS_MAX] = {{0}};
  int busy = 1;
  for (struct test *t = tests; t; t = t->next) {
    int i = 0;
    if (!strstr(t->name, only) || is_excused(t))
      continue;
    while (i < count && jobs[i].pid > 0)
      if (++i == count) {
        jobs_wait(jobs, count, seconds);
        i = 0;
      }
    job_start(&jobs[i], t);
  }
  while (busy) {
    jobs_wait(jobs, count, seconds);
    busy = 0;
    for (int i = 0; i < count; i++)
      busy += jobs[i].pid > 0;
  }
  return sum.failed != 0;
}

static int number(const char *name, int usual, int most)
{
  const char *text = getenv(name);
  int value = text ? (int)strtol(text, NULL, 10) : usual;
  return value < 1 ? usual : value > most ? most : value;
}

int main(int argc, char **argv)
{
  sum.verbose = argc > 1 && strcmp(argv[1], "-v") == 0;
  const char *only = argc > 1 + sum.verbose ? argv[1 + sum.verbose] : "";
  int jobs = number("TEST_JOBS", 0, JOBS_MAX), rc;
  setvbuf(stdout, NULL, _IOLBF, 0);
  rc = jobs ? run_at_once(only, jobs, number("TEST_SECONDS", JOB_SECONDS, 100000))
            : run_in_turn(only);
  printf("%d passed, %d failed, %d skipped\n", sum.passed, sum.failed, sum.skipped);
  return rc;
}
