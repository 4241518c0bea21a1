/* bench_daemon.c - a daemon of the benchmark's own: starting it, what it costs. */
#include "bench.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <spawn.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "settings.h"

#define DAEMON_READY_MS 10000
#define DAEMON_SETTLE_NS 2000000000 /* after work, before idling is measured */
#define DAEMON_LOAD_NS 500000000

extern char **environ;

bool bench_note(struct bench_result *r, const char *fmt, ...)
{
  va_list args;
  va_start(args, fmt);
  vsnprintf(r->note, sizeof(r->note), fmt, args);
  va_end(args);
  return false;
}

bool bench_skip(struct bench_result *r, const char *why)
{
  r->rounds = 0;
  bench_note(r, "skipped: %s", why);
  return true;
}

/* ---- the daemon's side ------------------------------------------------------------------ */

struct bench_state {
  uint64_t unused;
};

static int bench_nop_run(chi_ctx *ctx, struct bench_state *self, struct bench_nop *t)
{
  (void)ctx, (void)self;
  t->out = t->in + 1;
  return CHI_OK;
}

static int bench_line_run(chi_ctx *ctx, struct bench_state *self, struct bench_line *t)
{
  (void)ctx, (void)self;
  t->a++, t->b++, t->c++, t->d++, t->e++, t->f++, t->g++, t->h++;
  return CHI_OK;
}

static int bench_bulk_run(chi_ctx *ctx, struct bench_state *self, struct bench_bulk *t)
{
  (void)ctx, (void)self;
  t->right = bench_stamped(t->data.data, t->data.size, t->stamp);
  return CHI_OK;
}

#define DAEMON_METHODS(M, S) M(S, bench_nop) M(S, bench_line) M(S, bench_bulk)
CHI_METHODS(bench_state, DAEMON_METHODS)

static const chi_module daemon_module = {.version = CHI_MODULE_VERSION,
                                         .name = "bench",
                                         .state_size = sizeof(struct bench_state),
                                         .methods = bench_state_methods};

const chi_module *bench_module(void)
{
  return &daemon_module;
}

int bench_daemon_serve(const struct cli *cli, const char *file)
{
  static const chi_module *const modules[] = {&daemon_module};
  chi_config config;
  chi_node *node;
  chi_error err = {0};
  char c;
  int status = settings_load(cli, file, &config);
  if (status == CLI_OK && chi_node_open(&config, modules, 1, &node, &err) != CHI_OK)
    status = cli_fail(cli, "%s", err.text);
  chi_config_free(&config);
  if (status != CLI_OK)
    return status;
  puts("ready");
  fflush(stdout);
  while (read(STDIN_FILENO, &c, 1) > 0 || errno == EINTR)
    ;
  if (chi_node_close(node, 1000) != CHI_OK)
    _exit(CLI_FAILED);
  return CLI_OK;
}

/* ---- starting it ------------------------------------------------------------------------ */

static void daemon_path(const struct bench *b, char *path, size_t size)
{
  snprintf(path, size, "%s/config.yaml", b->directory);
}

uint32_t bench_daemon_port(void)
{
  static uint32_t number;
  return 20000 + (uint32_t)getpid() % 20000 + number++ % 100;
}

/* networking: lines of that section beside the port. */
static bool daemon_configure(const struct bench *b, uint32_t port, const char *networking,
                             const char *config, const char *path, struct bench_daemon *d)
{
  static int number;
  char name[40];
  FILE *out = fopen(path, "we");
  if (!out)
    return false;
  snprintf(name, sizeof(name), "chi_bench_%d_%d", (int)getpid(), ++number);
  snprintf(d->instance, sizeof(d->instance), "%s:%u", name, port);
  fprintf(out,
          "networking:\n  port: %u\n%sshared_memory:\n  main_segment_name: %s\n"
          "logging:\n  level: warning\n  file: %s/log\n%s",
          port, networking, name, b->directory, config);
  return fclose(out) == 0;
}

/* Spawns it with descriptor 0 and 1 on pipes; the other ends in ends[]. */
static pid_t daemon_spawn(const char *path, int ends[2])
{
  char *argv[] = {(char[]){"chimaera"}, (char[]){"bench"}, (char[]){"--serve"},
                  (char *)(uintptr_t)path, NULL};
  posix_spawn_file_actions_t actions;
  int in[2], out[2];
  pid_t pid;
  if (pipe2(in, O_CLOEXEC) != 0)
    return -1;
  if (pipe2(out, O_CLOEXEC) != 0) {
    close(in[0]);
    close(in[1]);
    return -1;
  }
  posix_spawn_file_actions_init(&actions);
  posix_spawn_file_actions_adddup2(&actions, in[0], 0);
  posix_spawn_file_actions_adddup2(&actions, out[1], 1);
  if (posix_spawn(&pid, CLI_SELF, &actions, NULL, argv, environ) != 0)
    pid = -1;
  posix_spawn_file_actions_destroy(&actions);
  close(in[0]);
  close(out[1]);
  ends[0] = in[1];
  ends[1] = out[0];
  return pid;
}

/* Starts it with the configuration at b->directory/config.yaml. */
static bool daemon_start(const struct bench *b, int cpu, struct bench_daemon *d, char *note,
                         size_t size)
{
  char path[CHI_PATH_MAX + 32], line[16];
  struct pollfd output = {-1, POLLIN, 0};
  int ends[2] = {-1, -1};
  bool ready;
  daemon_path(b, path, sizeof(path));
  bench_pin(cpu); /* inherited */
  d->pid = daemon_spawn(path, ends);
  bench_pin(BENCH_NOWHERE);
  d->input = ends[0];
  output.fd = ends[1];
  ready = d->pid > 0 && poll(&output, 1, DAEMON_READY_MS) == 1 &&
          read(output.fd, line, sizeof(line)) > 0;
  close(ends[1]);
  if (!ready) {
    snprintf(note, size, "the daemon did not start; see above");
    bench_daemon_stop(d);
  }
  return ready;
}

bool bench_daemon_start(const struct bench *b, const char *config, int cpu, struct bench_daemon *d,
                        char *note, size_t size)
{
  char path[CHI_PATH_MAX + 32];
  *d = (struct bench_daemon){.pid = -1, .input = -1};
  daemon_path(b, path, sizeof(path));
  if (daemon_configure(b, bench_daemon_port(), "", config, path, d))
    return daemon_start(b, cpu, d, note, size);
  snprintf(note, size, "%s: %s", path, strerror(errno));
  return false;
}

bool bench_daemon_join(const struct bench *b, const char *hostfile, uint32_t port, uint32_t node,
                       int cpu, struct bench_daemon *d, char *note, size_t size)
{
  char path[CHI_PATH_MAX + 32], networking[CHI_PATH_MAX + 64], number[16];
  bool good = false;
  *d = (struct bench_daemon){.pid = -1, .input = -1};
  daemon_path(b, path, sizeof(path));
  snprintf(networking, sizeof(networking), "  hostfile: \"%s\"\n", hostfile);
  snprintf(number, sizeof(number), "%u", node);
  setenv("CHI_NODE", number, 1);
  if (daemon_configure(b, port, networking, "", path, d))
    good = daemon_start(b, cpu, d, note, size);
  else
    snprintf(note, size, "%s: %s", path, strerror(errno));
  unsetenv("CHI_NODE");
  return good;
}

void bench_daemon_stop(struct bench_daemon *d)
{
  if (d->input >= 0)
    close(d->input);
  if (d->pid > 0)
    waitpid(d->pid, NULL, 0);
  d->pid = d->input = -1;
}

bool bench_link(const struct bench_daemon *d, struct cli_link *link, char *note, size_t size)
{
  chi_error err = {0};
  *link = (struct cli_link){0};
  if (chi_client_open(d->instance, &link->client, &err) == CHI_OK) {
    if (chi_queue_open(link->client, &link->queue, &err) == CHI_OK)
      return true;
    chi_client_close(link->client);
  }
  snprintf(note, size, "%s", err.text);
  return false;
}

/* ---- what it costs ---------------------------------------------------------------------- */

uint64_t bench_cpu_time(pid_t pid)
{
  struct timespec t;
  clockid_t clock;
  if (clock_getcpuclockid(pid, &clock) != 0 || clock_gettime(clock, &t) != 0)
    return 0;
  return (uint64_t)t.tv_sec * 1000000000 + (uint64_t)t.tv_nsec;
}

/* A number of one thread, if it is of that name (NULL: whatever it is called), else 0. */
static uint64_t daemon_thread_number(const char *task, const char *file, const char *format,
                                     const char *thread)
{
  char path[400], line[200], name[32] = "";
  unsigned long long number = 0;
  FILE *in;
  snprintf(path, sizeof(path), "%s/comm", task);
  in = fopen(path, "re");
  if (in && fscanf(in, "%31s", name) != 1)
    name[0] = '\0';
  if (in)
    fclose(in);
  snprintf(path, sizeof(path), "%s/%s", task, file);
  in = thread && strcmp(name, thread) != 0 ? NULL : fopen(path, "re");
  while (in && fgets(line, sizeof(line), in) && sscanf(line, format, &number) != 1)
    ;
  if (in)
    fclose(in);
  return number;
}

static uint64_t daemon_threads(pid_t pid, const char *file, const char *format, const char *thread)
{
  char path[64], task[sizeof(path) + 300];
  uint64_t sum = 0;
  const struct dirent *entry;
  DIR *tasks;
  snprintf(path, sizeof(path), "/proc/%ld/task", (long)pid);
  tasks = opendir(path);
  while (tasks && (entry = readdir(tasks))) {
    snprintf(task, sizeof(task), "%s/%s", path, entry->d_name);
    sum += entry->d_name[0] == '.' ? 0 : daemon_thread_number(task, file, format, thread);
  }
  if (tasks)
    closedir(tasks);
  return sum;
}

uint64_t bench_waits(pid_t pid, const char *thread)
{
  return daemon_threads(pid, "status", "voluntary_ctxt_switches: %llu", thread);
}

uint64_t bench_thread_time(pid_t pid, const char *thread)
{
  return daemon_threads(pid, "schedstat", "%llu", thread);
}

static uint64_t daemon_rss(pid_t pid)
{
  char path[64], line[200];
  unsigned long long kib = 0;
  FILE *in;
  snprintf(path, sizeof(path), "/proc/%ld/status", (long)pid);
  in = fopen(path, "re");
  while (in && fgets(line, sizeof(line), in)) {
    if (sscanf(line, "VmRSS: %llu kB", &kib) == 1)
      break;
  }
  if (in)
    fclose(in);
  return kib * 1024;
}

/* Bytes of the three segments in use, as the daemon tells. */
static uint64_t daemon_leased(struct cli_link *link)
{
  chi_error err;
  struct json *json = cli_figures(link, &err);
  const struct json *memory = json_get(json, "memory");
  uint64_t sum = 0;
  sum += json_integer(json_get(memory, "main"), "used", 0);
  sum += json_integer(json_get(memory, "client_data"), "used", 0);
  sum += json_integer(json_get(memory, "runtime_data"), "used", 0);
  json_free(json);
  return sum;
}

/* A daemon that has worked, and a client that stays attached. */
static bool daemon_worked(const struct bench *b, struct bench_daemon *d, struct cli_link *link,
                          struct bench_result *r)
{
  uint64_t took;
  if (!bench_daemon_start(b, BENCH_POOL_CONFIG, BENCH_NOWHERE, d, r->note, sizeof(r->note)))
    return false;
  if (!bench_link(d, link, r->note, sizeof(r->note))) {
    bench_daemon_stop(d);
    return false;
  }
  if (bench_nops(link, 64, DAEMON_LOAD_NS, &took))
    return true;
  cli_disconnect(link);
  bench_daemon_stop(d);
  return bench_note(r, "a task failed or gave a wrong result");
}

bool bench_run_idle(const struct bench *b, const struct bench_figure *f, struct bench_result *r)
{
  struct timespec settle = {DAEMON_SETTLE_NS / 1000000000, 0};
  struct timespec idle = {(time_t)(b->idle_ns / 1000000000), (long)(b->idle_ns % 1000000000)};
  struct bench_daemon d;
  struct cli_link link;
  uint64_t cpu, begin, end;
  bool good;
  (void)f;
  if (!daemon_worked(b, &d, &link, r))
    return false;
  nanosleep(&settle, NULL);
  cpu = bench_cpu_time(d.pid);
  begin = cli_now();
  nanosleep(&idle, NULL);
  end = cli_now();
  good = cpu > 0; /* it has worked, so that 0 means that the kernel doesn't tell */
  cpu = bench_cpu_time(d.pid) - cpu;
  r->ours[0] = 100.0 * (double)cpu / (double)(end - begin);
  r->rounds = 1;
  bench_note(r, "user and system time over %.0f s, one client attached",
             (double)(end - begin) / 1e9);
  cli_disconnect(&link);
  bench_daemon_stop(&d);
  return good || bench_note(r, "the kernel does not tell the CPU time of a process");
}

bool bench_run_memory(const struct bench *b, const struct bench_figure *f, struct bench_result *r)
{
  struct bench_daemon d;
  struct cli_link link;
  uint64_t rss, leased;
  char text[2][32];
  (void)f;
  if (!daemon_worked(b, &d, &link, r))
    return false;
  leased = daemon_leased(&link);
  rss = daemon_rss(d.pid);
  r->ours[0] = rss > leased ? (double)(rss - leased) : 0;
  r->rounds = 1;
  bench_note(r, "%s resident, %s of it leased chunks", cli_bytes((double)rss, text[0], 32),
             cli_bytes((double)leased, text[1], 32));
  cli_disconnect(&link);
  bench_daemon_stop(&d);
  return true;
}

/* From the spawn to the answer of the first task of a pool. */
static bool daemon_first_answer(const struct bench *b, const char *config, chi_pool_id pool,
                                struct bench_result *r)
{
  struct chi_bdev_get_stats *task;
  struct bench_daemon d;
  struct cli_link link;
  uint64_t begin = cli_now();
  int status = CHI_ENOMEM;
  if (!bench_daemon_start(b, config, BENCH_NOWHERE, &d, r->note, sizeof(r->note)))
    return false;
  if (!bench_link(&d, &link, r->note, sizeof(r->note))) {
    bench_daemon_stop(&d);
    return false;
  }
  task = CHI_NEW(link.queue, chi_bdev_get_stats);
  if (task) {
    task->task.pool = pool;
    status = chi_run(link.queue, task);
  }
  r->ours[r->rounds++] = (double)(cli_now() - begin);
  cli_disconnect(&link);
  bench_daemon_stop(&d);
  return status == CHI_OK || bench_note(r, "get_stats: %s", chi_status_text(status));
}

bool bench_run_start(const struct bench *b, const struct bench_figure *f, struct bench_result *r)
{
  char config[CHI_PATH_MAX + 400];
  (void)f;
  snprintf(config, sizeof(config),
           "compose:\n"
           "- {mod_name: bdev, pool_name: start-ram, pool_query: local, pool_id: \"901.0\","
           " bdev_type: ram, capacity: 256M}\n"
           "- {mod_name: bdev, pool_name: \"%s/start\", pool_query: local, pool_id: \"902.0\","
           " bdev_type: file, capacity: 1G}\n",
           b->directory);
  while (r->rounds < b->rounds) {
    chi_pool_id pool = {901 + r->rounds % 2, 0};
    if (!daemon_first_answer(b, config, pool, r))
      return false;
  }
  bench_note(r, "a RAM bdev of 256 MiB and a file bdev of 1 GiB");
  return true;
}
