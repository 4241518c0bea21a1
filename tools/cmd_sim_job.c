/* cmd_sim_job.c - processes that run scenarios one after the other, and how one talks with them.
 *
 * Such a process is this program, with CHI_SIM_JOB in its environment. It reads requests
 *   run SEED SWARM RECORD SIZE     and SIZE bytes of YAML
 * from descriptor 3 and answers each on descriptor 4: lines up to "end". Before that come, if all
 * events are wanted, lines "e TIME NODE KIND A B C TEXT". A process that dies says "crash ..." if
 * it still can. */
#include "cmd_sim.h"

#ifndef CHI_OMIT_SIM

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <spawn.h>
#include <stdlib.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#define JOB_IN 3
#define JOB_OUT 4
#define JOB_STUCK_NS UINT64_C(5000000000) /* CPU time of one event */
#define JOB_READ 65536u
#define JOB_PADDING_MAX 512u

/* ---- the process ---------------------------------------------------------------------------- */

static void job_numbers(FILE *out, const char *name, const uint64_t *value, int count)
{
  fputs(name, out);
  for (int i = 0; i < count; i++)
    fprintf(out, " %llu", (unsigned long long)value[i]);
  fputc('\n', out);
}

static void job_answer(FILE *out, const struct trial *t)
{
  const uint64_t figures[] = {t->failed, t->broken,    t->events,   t->time,
                              t->hash,   t->submitted, t->completed};
  char plain[sizeof(t->failure.text)];
  job_numbers(out, "result", figures, CHI_COUNT(figures));
  job_numbers(out, "fault", t->fault, SIM_PLAN_KIND_COUNT);
  job_numbers(out, "net", t->net, SIM_CHECK_NET);
  job_numbers(out, "code", t->code, SIM_CHECK_CODES);
  if (t->failed || t->broken)
    fprintf(out, "failure %llu %llu %s\nplace %s\ntext %s\n",
            (unsigned long long)t->failure.event, (unsigned long long)t->failure.time,
            t->failure.check, t->place, cli_plain(t->failure.text, plain, sizeof(plain)));
  if (t->warning[0])
    fprintf(out, "warning %s\n", cli_plain(t->warning, plain, sizeof(plain)));
  if (t->digest) {
    fputs("digest ", out);
    for (uint64_t i = 0; i < t->digests; i++)
      fprintf(out, "%04x", t->digest[i]);
    fputc('\n', out);
  }
  fputs("end\n", out);
  fflush(out);
}

static void job_event(void *arg, const struct sim_trace_event *e)
{
  fprintf(arg, "e %llu %u %d %llu %llu %llu %s\n", (unsigned long long)e->time, e->node, e->kind,
          (unsigned long long)e->a, (unsigned long long)e->b, (unsigned long long)e->c,
          e->text ? e->text : "");
}

/* Everything of a run has its memory below this frame. */
static void job_padded(const struct scenario *s, const struct trial_watch *watch, struct trial *t,
                       uint32_t padding)
{
  volatile char room[(size_t)padding * 1024 + 64];
  room[0] = room[sizeof(room) - 1] = (char)padding;
  trial_run(s, watch, t);
  room[0] = room[sizeof(room) - 1];
}

/* One request. False: there are no more. */
static bool job_serve_one(FILE *in, FILE *out, uint32_t padding, bool stream)
{
  struct report report = {.file = "the scenario of a job"};
  const struct trial_watch watch = {NULL, stream ? job_event : NULL, out};
  unsigned long long seed;
  struct scenario *s = NULL, *drawn;
  struct trial t;
  unsigned swarm, record;
  size_t size;
  char *text;
  if (fscanf(in, "run %llu %u %u %zu", &seed, &swarm, &record, &size) != 4 || fgetc(in) != '\n' ||
      size > SCENARIO_FILE_MAX)
    return false;
  text = malloc(size + 1);
  if (text && fread(text, 1, size, in) == size)
    s = scenario_read(text, size, &report);
  free(text);
  if (!s)
    return false;
  drawn = scenario_draw(s, seed, swarm != 0);
  job_padded(drawn, &watch, &t, padding);
  if (!record) {
    free(t.digest);
    t.digest = NULL;
  }
  job_answer(out, &t);
  free(t.digest);
  scenario_free(drawn);
  scenario_free(s);
  return true;
}

int job_serve(const struct cli *cli)
{
  unsigned padding = 0, stream = 0;
  const char *variant = getenv("CHI_SIM_JOB");
  FILE *in = fdopen(JOB_IN, "r"), *out = fdopen(JOB_OUT, "w");
  if (!in || !out || !variant || sscanf(variant, "%u %u", &padding, &stream) != 2 ||
      padding > JOB_PADDING_MAX)
    return cli_usage(cli, "CHI_SIM_JOB is for the processes of this command only");
  if (stream)
    setvbuf(out, NULL, _IOLBF, 0); /* none may be lost in a crash */
  prctl(PR_SET_PDEATHSIG, SIGKILL);
  guard_begin(JOB_OUT, JOB_STUCK_NS);
  while (job_serve_one(in, out, padding, stream != 0)) {
  }
  guard_end();
  fclose(in);
  fclose(out);
  return CLI_OK;
}

/* ---- its parent ----------------------------------------------------------------------------- */

extern char **environ;

static void job_shut(int *fd)
{
  if (*fd >= 0)
    close(*fd);
  *fd = -1;
}

/* The environment of the process: this one, and what makes the variant. */
static char **job_environment(char text[3][64], const struct job_variant *v)
{
  static const char *const mine[] = {"CHI_SIM_JOB=", "MALLOC_PERTURB_=", "CHI_SIM_PADDING="};
  size_t count = 0, n = 0, padding = (size_t)v->padding * 1024 + 1;
  char **env, *room;
  while (environ[count])
    count++;
  env = calloc(count + 4, sizeof(*env));
  room = env ? malloc(sizeof("CHI_SIM_PADDING=") + padding) : NULL;
  for (size_t i = 0; room && i < count; i++)
    if (strncmp(environ[i], mine[0], strlen(mine[0])) != 0 &&
        strncmp(environ[i], mine[1], strlen(mine[1])) != 0)
      env[n++] = environ[i];
  if (!room) {
    free(env);
    return NULL;
  }
  snprintf(text[0], 64, "%s%u %d", mine[0], v->padding, v->stream);
  snprintf(text[1], 64, "%s%u", mine[1], v->poison);
  memcpy(room, mine[2], strlen(mine[2]));
  memset(room + strlen(mine[2]), 'x', padding);
  room[strlen(mine[2]) + padding] = '\0';
  env[n++] = text[0];
  env[n++] = room;
  if (v->poison)
    env[n++] = text[1];
  else
    env[n] = NULL;
  return env;
}

static void job_environment_free(char **env)
{
  for (size_t i = 0; env && env[i]; i++)
    if (strncmp(env[i], "CHI_SIM_PADDING=", 16) == 0 && strspn(env[i] + 16, "x") > 0)
      free(env[i]);
  free(env);
}

static int job_spawn(struct job *job, const int to[2], const int from[2],
                     const struct job_variant *v)
{
  char program[] = "chimaera", command[] = "sim", text[3][64];
  char *const argv[] = {program, command, NULL};
  char **env = job_environment(text, v);
  posix_spawn_file_actions_t actions;
  int rc = env ? posix_spawn_file_actions_init(&actions) : ENOMEM;
  if (rc)
    return rc;
  posix_spawn_file_actions_addopen(&actions, 0, "/dev/null", O_RDONLY, 0);
  posix_spawn_file_actions_adddup2(&actions, 2, 1); /* what methods print is none of our output */
  posix_spawn_file_actions_adddup2(&actions, to[0], JOB_IN);
  posix_spawn_file_actions_adddup2(&actions, from[1], JOB_OUT);
  rc = posix_spawn(&job->pid, CLI_SELF, &actions, NULL, argv, env);
  posix_spawn_file_actions_destroy(&actions);
  job_environment_free(env);
  return rc;
}

/* Two descriptors that are not those of the process, so that dup2 makes them inheritable. */
static bool job_pipe(int fd[2])
{
  if (pipe2(fd, O_CLOEXEC) != 0)
    return false;
  for (int i = 0; i < 2; i++) {
    int high = fcntl(fd[i], F_DUPFD_CLOEXEC, 10);
    close(fd[i]);
    fd[i] = high;
  }
  return fd[0] >= 0 && fd[1] >= 0;
}

int job_open(const struct cli *cli, struct job *job, const struct job_variant *variant)
{
  int to[2] = {-1, -1}, from[2] = {-1, -1}, rc;
  free(job->text);
  memset(job, 0, sizeof(*job));
  job->to = job->from = -1;
  signal(SIGPIPE, SIG_IGN);
  rc = job_pipe(to) && job_pipe(from) ? job_spawn(job, to, from, variant) : errno;
  job_shut(&to[0]);
  job_shut(&from[1]);
  job->to = to[1];
  job->from = from[0];
  if (rc == 0)
    return CLI_OK;
  job->pid = 0;
  job_close(job);
  return cli_fail(cli, "cannot start a process: %s", strerrorname_np(rc));
}

/* How it has ended. */
static int job_reap(struct job *job)
{
  int status = 0;
  job_shut(&job->to);
  job_shut(&job->from);
  if (job->pid > 0)
    waitpid(job->pid, &status, 0);
  job->pid = 0;
  job->busy = false;
  return status;
}

void job_close(struct job *job)
{
  if (job->pid > 0 && job->busy)
    kill(job->pid, SIGKILL);
  job_reap(job);
  free(job->text);
  job->text = NULL;
  job->used = job->room = 0;
}

/* Text that grows. */
struct job_text {
  char *text;
  size_t used, room;
  bool failed;
};

static void job_put(void *arg, const char *text)
{
  struct job_text *t = arg;
  size_t size = strlen(text);
  if (t->room - t->used < size + 1) {
    size_t room = (t->used + size + 1) * 2;
    char *more = realloc(t->text, room);
    t->failed = t->failed || !more;
    if (!more)
      return;
    t->text = more;
    t->room = room;
  }
  memcpy(t->text + t->used, text, size + 1);
  t->used += size;
}

static bool job_write(int fd, const char *text, size_t size)
{
  while (size > 0) {
    ssize_t n = write(fd, text, size);
    if (n < 0 && errno == EINTR)
      continue;
    if (n <= 0)
      return false;
    text += n;
    size -= (size_t)n;
  }
  return true;
}

bool job_give(struct job *job, const struct scenario *s, uint64_t seed, bool swarm, bool record)
{
  struct job_text t = {0};
  char head[96];
  bool given;
  CHI_ASSERT(!job->busy);
  scenario_print(s, job_put, &t);
  snprintf(head, sizeof(head), "run %llu %d %d %zu\n", (unsigned long long)seed, swarm, record,
           t.used);
  job->seed = seed;
  job->used = 0;
  job->busy = true;
  given = !t.failed && job_write(job->to, head, strlen(head)) && job_write(job->to, t.text, t.used);
  free(t.text);
  return given;
}

/* ---- answers -------------------------------------------------------------------------------- */

static const char *job_read_numbers(const char *line, uint64_t *value, int count)
{
  for (int i = 0; i < count; i++) {
    char *end;
    value[i] = strtoull(line, &end, 10);
    line = end;
  }
  return line;
}

static void job_read_digests(struct trial *t, const char *text)
{
  size_t n = strcspn(text, "\n") / 4;
  t->digest = malloc((n + 1) * sizeof(*t->digest));
  for (size_t i = 0; t->digest && i < n; i++) {
    char hex[5] = {text[4 * i], text[4 * i + 1], text[4 * i + 2], text[4 * i + 3], 0};
    t->digest[i] = (uint16_t)strtoul(hex, NULL, 16);
    t->digests = i + 1;
  }
}

static void job_copy_line(char *to, size_t size, const char *line)
{
  size_t n = strcspn(line, "\n");
  snprintf(to, size, "%.*s", n < size ? (int)n : (int)size - 1, line);
}

bool job_read_line(const char *line, struct trial *t)
{
  uint64_t v[7];
  if (strncmp(line, "result ", 7) == 0) {
    job_read_numbers(line + 7, v, 7);
    t->failed = v[0] != 0;
    t->broken = v[1] != 0;
    t->events = v[2];
    t->time = v[3];
    t->hash = v[4];
    t->submitted = v[5];
    t->completed = v[6];
  } else if (strncmp(line, "fault ", 6) == 0) {
    job_read_numbers(line + 6, t->fault, SIM_PLAN_KIND_COUNT);
  } else if (strncmp(line, "net ", 4) == 0) {
    job_read_numbers(line + 4, t->net, SIM_CHECK_NET);
  } else if (strncmp(line, "code ", 5) == 0) {
    job_read_numbers(line + 5, t->code, SIM_CHECK_CODES);
  } else if (strncmp(line, "failure ", 8) == 0) {
    line = job_read_numbers(line + 8, v, 2);
    t->failure.event = v[0];
    t->failure.time = v[1];
    job_copy_line(t->failure.check, sizeof(t->failure.check), line + (*line == ' '));
  } else if (strncmp(line, "place ", 6) == 0) {
    job_copy_line(t->place, sizeof(t->place), line + 6);
  } else if (strncmp(line, "text ", 5) == 0) {
    job_copy_line(t->failure.text, sizeof(t->failure.text), line + 5);
  } else if (strncmp(line, "warning ", 8) == 0) {
    job_copy_line(t->warning, sizeof(t->warning), line + 8);
  } else if (strncmp(line, "digest ", 7) == 0) {
    job_read_digests(t, line + 7);
  }
  return strncmp(line, "end", 3) == 0;
}

static bool job_read_answer(const char *text, struct trial *t)
{
  bool end = false;
  for (; *text && !end; text += strcspn(text, "\n"), text += *text == '\n')
    end = job_read_line(text, t);
  return end;
}

/* It has died: from its last words, or from how it ended. */
static void job_died(struct job *job, struct trial *out)
{
  const char *crash = job->used ? strstr(job->text, "crash ") : NULL;
  int status = job_reap(job);
  uint64_t v[2] = {0, 0};
  memset(out, 0, sizeof(*out));
  out->seed = job->seed;
  out->failed = true;
  memcpy(out->failure.check, "crash", 6);
  if (crash && (crash == job->text || crash[-1] == '\n')) {
    crash = job_read_numbers(crash + 6, v, 2);
    crash += *crash == ' ';
    snprintf(out->failure.check, sizeof(out->failure.check), "%.*s", (int)strcspn(crash, " "),
             crash);
    crash += strcspn(crash, " ");
    job_copy_line(out->failure.text, sizeof(out->failure.text), crash + (*crash == ' '));
  } else if (WIFSIGNALED(status)) {
    snprintf(out->failure.text, sizeof(out->failure.text), "signal %d ends the run of seed %llu",
             WTERMSIG(status), (unsigned long long)job->seed);
  } else {
    snprintf(out->failure.text, sizeof(out->failure.text),
             "the run of seed %llu ends the process, with status %d", (unsigned long long)job->seed,
             WEXITSTATUS(status));
  }
  out->failure.event = out->events = v[0];
  out->failure.time = out->time = v[1];
}

bool job_take(struct job *job, struct trial *out)
{
  ssize_t n;
  if (job->room - job->used < JOB_READ + 1) {
    size_t room = (job->used + JOB_READ + 1) * 2;
    char *more = realloc(job->text, room);
    if (!more) {
      kill(job->pid, SIGKILL);
      job_died(job, out);
      return true;
    }
    job->text = more;
    job->room = room;
  }
  n = read(job->from, job->text + job->used, JOB_READ);
  if (n < 0 && errno == EINTR)
    return false;
  job->used += n > 0 ? (size_t)n : 0;
  job->text[job->used] = '\0';
  if (n <= 0) {
    job_died(job, out);
    return true;
  }
  if (job->used < 4 || memcmp(job->text + job->used - 4, "end\n", 4) != 0)
    return false;
  memset(out, 0, sizeof(*out));
  out->seed = job->seed;
  job->busy = false;
  return job_read_answer(job->text, out);
}

void job_wait(struct job *job, struct trial *out)
{
  while (!job_take(job, out)) {
  }
}

bool job_run(const struct cli *cli, struct job *job, const struct scenario *s, struct trial *out)
{
  static const struct job_variant plain = {0};
  if (job->pid <= 0 && job_open(cli, job, &plain) != CLI_OK)
    return false;
  job_give(job, s, s->seed, false, true);
  job_wait(job, out); /* also of one that has gone */
  return true;
}

#undef JOB_IN
#undef JOB_OUT
#undef JOB_STUCK_NS
#undef JOB_READ
#undef JOB_PADDING_MAX

#endif
