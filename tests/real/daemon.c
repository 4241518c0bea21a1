/* daemon.c - for tests with real processes: daemons of one's own, figures of them, clients. */
#include "daemon.h"
#include "real_daemon.h"

#include <libgen.h>
#include <limits.h>
#include <poll.h>
#include <signal.h>
#include <sys/prctl.h>

#define START_MS 20000 /* a sanitizer makes it slow */

#define DAEMON_MOST 64

static char last_json[1 << 18];

/* Directories that were made and not freed, as by a test that has failed. The daemons of them die
 * with this program. */
static char daemon_left[DAEMON_MOST][64];

static void daemon_clear(void)
{
  for (int i = 0; i < DAEMON_MOST; i++)
    if (daemon_left[i][0])
      scratch_remove(daemon_left[i]);
}

/* Replaces one text by another in the list of directories. */
static void daemon_note(const char *old, const char *fresh)
{
  static bool noted;
  int i = 0;
  while (i < DAEMON_MOST && strcmp(daemon_left[i], old) != 0)
    i++;
  if (i < DAEMON_MOST)
    snprintf(daemon_left[i], sizeof(daemon_left[i]), "%s", fresh);
  if (!noted)
    atexit(daemon_clear);
  noted = true;
}

/* ---- time ------------------------------------------------------------------------------------ */

uint64_t now_ns(void)
{
  struct timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return (uint64_t)t.tv_sec * SECOND_NS + (uint64_t)t.tv_nsec;
}

void pause_ns(uint64_t ns)
{
  struct timespec t = {(time_t)(ns / SECOND_NS), (long)(ns % SECOND_NS)};
  nanosleep(&t, NULL);
}

/* ---- daemons --------------------------------------------------------------------------------- */

/* Where this program was built: the daemon and the modules are beside it. */
static const char *daemon_beside(const char *name, char *path, size_t room)
{
  char self[PATH_MAX];
  ssize_t n = readlink("/proc/self/exe", self, sizeof(self) - 1);
  self[n > 0 ? n : 0] = '\0';
  snprintf(path, room, "%s/%s", dirname(dirname(self)), name);
  return path;
}

const char *daemon_modules(void)
{
  static char path[PATH_MAX + 16];
  return daemon_beside("modules", path, sizeof(path));
}

bool daemon_make(struct daemon *d, const char *yaml)
{
  static uint32_t number;
  char text[4096];
  yaml = yaml ? yaml : "";
  *d = (struct daemon){.out = -1};
  if (!scratch_make(d->dir))
    return false;
  daemon_note("", d->dir);
  snprintf(d->config, sizeof(d->config), "%s/daemon.yaml", d->dir);
  snprintf(d->log, sizeof(d->log), "%s/daemon.log", d->dir);
  snprintf(d->instance, sizeof(d->instance), "chi-test-%d-%u:7001", (int)getpid(), ++number);
  snprintf(text, sizeof(text), "%s%slogging: {level: info, file: %s}\n%s",
           strstr(yaml, "workers:") ? "" : "workers: {sched_threads: 2, slow_threads: 2}\n",
           strstr(yaml, "memory:") ? ""
                                   : "memory: {main_segment_size: 64M, client_data_segment_size: "
                                     "64M, runtime_data_segment_size: 64M}\n",
           d->log, yaml);
  return scratch_write(d->dir, "daemon.yaml", text);
}

static void daemon_exec(const struct daemon *d, int out)
{
  char program[PATH_MAX + 16];
  const char *given = getenv("CHIMAERA");
  prctl(PR_SET_PDEATHSIG, (unsigned long)SIGKILL, 0ul, 0ul, 0ul);
  dup2(out, STDOUT_FILENO);
  dup2(out, STDERR_FILENO);
  setenv("CHI_MODULE_PATH", daemon_modules(), 1);
  setenv("ASAN_OPTIONS", "allocator_may_return_null=1", 0);
  given = given ? given : daemon_beside("chimaera", program, sizeof(program));
  execl(given, "chimaera", "start", "--config", d->config, "--instance", d->instance, "--grace",
        "300", (char *)NULL);
  dprintf(STDERR_FILENO, "cannot run %s\n", given);
  _exit(127);
}

bool daemon_spawn(struct daemon *d)
{
  int ends[2];
  d->said[0] = '\0';
  if (pipe2(ends, O_CLOEXEC) != 0)
    return false;
  fflush(NULL);
  d->pid = fork();
  if (d->pid == 0)
    daemon_exec(d, ends[1]);
  close(ends[1]);
  d->out = ends[0];
  return d->pid > 0;
}

/* Reads on, up to the end of a line, for so long. False: it has closed its output. */
static bool daemon_listen(struct daemon *d, uint64_t ms)
{
  uint64_t end = now_ns() + ms * MS_NS;
  while (!strchr(d->said, '\n')) {
    struct pollfd p = {d->out, POLLIN, 0};
    uint64_t now = now_ns();
    size_t have = strlen(d->said);
    if (now >= end || poll(&p, 1, (int)((end - now) / MS_NS) + 1) <= 0)
      return true;
    ssize_t n = read(d->out, d->said + have, sizeof(d->said) - 1 - have);
    if (n <= 0)
      return false;
    d->said[have + (size_t)n] = '\0';
  }
  return true;
}

const char *daemon_start(struct daemon *d)
{
  if (!daemon_spawn(d))
    return "cannot fork";
  daemon_listen(d, START_MS);
  if (strstr(d->said, "ready: instance"))
    return "";
  daemon_kill(d);
  return d->said[0] ? d->said : "it says nothing";
}

/* What it said to its end. */
static void daemon_hear_out(struct daemon *d)
{
  size_t have = strlen(d->said);
  ssize_t n;
  while (d->out >= 0 && have < sizeof(d->said) - 1 &&
         (n = read(d->out, d->said + have, sizeof(d->said) - 1 - have)) > 0)
    have += (size_t)n;
  d->said[have] = '\0';
  if (d->out >= 0)
    close(d->out);
  d->out = -1;
  d->pid = 0;
}

int daemon_wait(struct daemon *d, uint64_t ms)
{
  int status = 0;
  if (!EVENTUALLY(ms, waitpid(d->pid, &status, WNOHANG) == d->pid))
    return -1;
  daemon_hear_out(d);
  return WIFEXITED(status) ? WEXITSTATUS(status) : 256 + WTERMSIG(status);
}

void daemon_kill(struct daemon *d)
{
  if (d->pid <= 0)
    return;
  kill(d->pid, SIGKILL);
  waitpid(d->pid, NULL, 0);
  daemon_hear_out(d);
}

int daemon_stop(struct daemon *d)
{
  kill(d->pid, SIGTERM);
  return daemon_wait(d, START_MS);
}

bool daemon_freeze(const struct daemon *d)
{
  return kill(d->pid, SIGSTOP) == 0 && EVENTUALLY(START_MS, real_daemon_is_still(d->pid));
}

/* A daemon that is killed leaves its socket and its lock behind, for the next one. */
static void daemon_forget(const struct daemon *d, const char *suffix)
{
  char path[160];
  const char *colon = strchr(d->instance, ':');
  snprintf(path, sizeof(path), "/tmp/chimaera-%u/%.*s-%s.%s", (unsigned)geteuid(),
           (int)(colon - d->instance), d->instance, colon + 1, suffix);
  unlink(path);
}

void daemon_free(struct daemon *d)
{
  daemon_kill(d);
  daemon_forget(d, "sock");
  daemon_forget(d, "lock");
  scratch_remove(d->dir);
  daemon_note(d->dir, "");
}

uint32_t daemon_logged(const struct daemon *d, const char *text)
{
  static char log[1 << 20];
  uint32_t count = 0;
  scratch_read(d->log, log, sizeof(log));
  for (const char *at = strstr(log, text); at; at = strstr(at + 1, text))
    count++;
  return count;
}

/* ---- clients --------------------------------------------------------------------------------- */

int seat_open(struct seat *s, const char *instance)
{
  chi_error err = {0};
  *s = (struct seat){0};
  int rc = chi_client_open(instance, &s->client, &err);
  if (rc == CHI_OK)
    rc = chi_queue_open(s->client, &s->queue, &err);
  if (rc != CHI_OK && s->client) {
    chi_client_close(s->client);
    *s = (struct seat){0};
  }
  return rc;
}

void seat_close(struct seat *s)
{
  chi_queue_close(s->queue);
  chi_client_close(s->client);
  *s = (struct seat){0};
}

void *seat_task(struct seat *s, const chi_type *type)
{
  chi_task *t = chi_task_new(s->queue, type);
  if (t)
    t->pool = TEST_POOL;
  return t;
}

int seat_pool(struct seat *s, const char *module, const char *name, const char *value)
{
  chi_pool_id id = TEST_POOL;
  chi_param param = {.name = (char *)(uintptr_t)name, .value = (char *)(uintptr_t)value};
  return chi_pool_create(s->queue, module, "test", &param, name ? 1 : 0, &id, NULL);
}

/* ---- figures --------------------------------------------------------------------------------- */

/* The number behind `name`, the first after `part`; *at moves behind it. NULL part: from *at. */
static bool figures_next(const char **at, const char *part, const char *name, uint64_t *out)
{
  const char *p = *at;
  if (part)
    p = strstr(p, part);
  p = p ? strstr(p, name) : NULL;
  if (!p)
    return false;
  *at = p + strlen(name);
  *out = strtoull(*at, NULL, 10);
  return true;
}

/* The sum over all that are named so between two parts of the answer. */
static uint64_t figures_sum(const char *json, const char *part, const char *end, const char *name,
                            uint64_t *count)
{
  const char *at = strstr(json, part), *last = at ? strstr(at, end) : NULL;
  uint64_t sum = 0, one = 0;
  *count = 0;
  while (at && last && figures_next(&at, NULL, name, &one) && at < last) {
    sum += one;
    ++*count;
  }
  return sum;
}

static int figures_read(const char *json, struct figures *f)
{
  const char *at = strstr(json, "\"memory\":");
  uint64_t count = 0;
  f->queues = figures_sum(json, "\"clients\":[", "\"memory\":", "\"queues\":", &f->clients);
  f->in_flight = figures_sum(json, "\"clients\":[", "\"memory\":", "\"in_flight\":", &count);
  f->queued = figures_sum(json, "\"workers\":[", "\"pools\":", "\"queued\":", &count);
  f->blocked = figures_sum(json, "\"workers\":[", "\"pools\":", "\"blocked\":", &count);
  return at && count > 0 && figures_next(&at, "\"main\":", "\"used\":", &f->main_used) &&
                 figures_next(&at, "\"client_data\":", "\"used\":", &f->data_used) &&
                 figures_next(&at, "\"runtime_data\":", "\"used\":", &f->runtime_used) &&
                 figures_next(&at, NULL, "\"stacks\":", &f->stacks) &&
                 figures_next(&at, "\"totals\":", "\"submitted\":", &f->submitted) &&
                 figures_next(&at, NULL, "\"completed\":", &f->completed) &&
                 figures_next(&at, NULL, "\"refused\":", &f->refused)
             ? CHI_OK
             : CHI_ECORRUPT;
}

int figures_ask(struct seat *s, struct figures *f)
{
  struct chi_admin_monitor *t = CHI_NEW(s->queue, chi_admin_monitor);
  int rc = CHI_ENOMEM;
  if (!t)
    return rc;
  t->task.pool = CHI_ADMIN_POOL;
  rc = chi_bulk_alloc(s->queue, sizeof(last_json) - 1, &t->json);
  if (rc == CHI_OK)
    rc = chi_run(s->queue, t);
  if (rc == CHI_OK && t->size < sizeof(last_json)) {
    memcpy(last_json, t->json.data, t->size);
    last_json[t->size] = '\0';
    rc = figures_read(last_json, f);
  }
  chi_bulk_free(s->queue, &t->json);
  chi_task_free(s->queue, t);
  return rc;
}

int figures_begin(struct seat *s, struct figures *f)
{
  int rc = CHI_OK;
  return EVENTUALLY(5000, (rc = figures_ask(s, f)) != CHI_OK || f->clients == 1) ? rc
                                                                                 : CHI_ETIMEOUT;
}

const char *figures_json(void)
{
  return last_json;
}

bool figures_of_process(pid_t pid, struct figures *f)
{
  char path[64], text[4096];
  unsigned long user = 0, system = 0;
  snprintf(path, sizeof(path), "/proc/%d/fd", (int)pid);
  DIR *d = opendir(path);
  f->descriptors = 0;
  while (d && readdir(d))
    f->descriptors++;
  if (d)
    closedir(d);
  snprintf(path, sizeof(path), "/proc/%d/status", (int)pid);
  scratch_read(path, text, sizeof(text));
  const char *rss = strstr(text, "RssAnon:"), *threads = strstr(text, "Threads:");
  f->rss = rss ? strtoull(rss + 8, NULL, 10) * 1024 : 0;
  f->threads = threads ? strtoull(threads + 8, NULL, 10) : 0;
  snprintf(path, sizeof(path), "/proc/%d/stat", (int)pid);
  scratch_read(path, text, sizeof(text));
  const char *at = strrchr(text, ')');
  if (!at ||
      sscanf(at, ") %*c %*d %*d %*d %*d %*d %*u %*u %*u %*u %*u %lu %lu", &user, &system) != 2)
    return false;
  f->cpu_ns = (uint64_t)(user + system) * (SECOND_NS / (uint64_t)sysconf(_SC_CLK_TCK));
  return d && rss && threads;
}

static bool figures_equal(const struct figures *a, const struct figures *b)
{
  return a->main_used == b->main_used && a->data_used == b->data_used &&
         a->runtime_used == b->runtime_used && a->clients == b->clients && a->queues == b->queues &&
         a->in_flight == b->in_flight && a->blocked == b->blocked;
}

const char *figures_return(struct seat *s, const struct figures *before, uint64_t ms)
{
  static char text[400];
  struct figures now;
  int rc = CHI_OK;
  if (EVENTUALLY(ms, (rc = figures_ask(s, &now)) != CHI_OK || figures_equal(&now, before)))
    return rc == CHI_OK ? "" : chi_status_name(rc);
  snprintf(text, sizeof(text),
           "main %lld, data %lld, runtime %lld, clients %lld, queues %lld, in flight %lld, blocked "
           "%lld more than before",
           (long long)(now.main_used - before->main_used),
           (long long)(now.data_used - before->data_used),
           (long long)(now.runtime_used - before->runtime_used),
           (long long)(now.clients - before->clients), (long long)(now.queues - before->queues),
           (long long)(now.in_flight - before->in_flight),
           (long long)(now.blocked - before->blocked));
  return text;
}
