/* cmd_calibrate.c - what messages and tasks cost on this machine, as a profile for simulations. */
#include "bench.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>
#include <unistd.h>

#include "columns.h"
#include "profile.h"

#define CALIBRATE_ROUNDS 5
#define CALIBRATE_SECONDS 1
#define CALIBRATE_WINDOW 64
#define CALIBRATE_PAUSE_NS 2000000 /* before each task or message where the load is low */
#define CALIBRATE_SPAN (64u << 20)
#define CALIBRATE_PIECE (1u << 20)
#define CALIBRATE_STEP_NS 500.0 /* of an awake worker: little beside the rest */
#define CALIBRATE_JITTER 1.125 /* a simulation draws up to a quarter more: an eighth on average */
#define CALIBRATE_TASKS 2000   /* of a simulated client */

/* What is measured, in nanoseconds unless said otherwise; medians of the rounds. */
#define CALIBRATE_FIGURES(X)                                                                       \
  X(zmq_round_trip, "ZeroMQ alone: round trip of such messages, after a pause")                    \
  X(zmq_message, "ZeroMQ alone: CPU of the thread that sends or receives one")                     \
  X(zmq_byte_ps, "ZeroMQ alone: picoseconds for each byte, 1 MiB at a time")                       \
  X(copy_byte_ps, "copying: picoseconds for each byte")                                            \
  X(local_round_trip, "a task of the own node: round trip, after a pause")                         \
  X(worker_single, "the other node's network worker: CPU of a task after a pause")                 \
  X(worker_many, "the other node's network worker: CPU of a task, 64 at a time")                   \
  X(batch, "tasks in a message then")                                                              \
  X(remote_round_trip, "a task of the other node: round trip, after a pause")                      \
  X(remote_rate, "tasks of the other node in a second, 64 at a time")

struct calibrate_figures {
#define CALIBRATE_MEMBER(name, text) double name;
  CALIBRATE_FIGURES(CALIBRATE_MEMBER)
#undef CALIBRATE_MEMBER
};

struct calibrate {
  struct bench bench;
  struct bench_remote cluster;
  struct bench_exchange exchange;
  bool pinned;
  struct calibrate_figures f;
  struct bench_result said; /* its note: why something failed */
  struct profile given;     /* that of --profile */
};

static int calibrate_compare(const void *a, const void *b)
{
  double x = *(const double *)a, y = *(const double *)b;
  return (x > y) - (x < y);
}

/* ---- measuring -------------------------------------------------------------------------- */

/* Each measures once and returns what it found; 0: it failed. */
static double calibrate_zmq_round_trip(struct calibrate *c)
{
  struct bench_exchange x = c->exchange;
  x.pause_ns = CALIBRATE_PAUSE_NS;
  double rate = bench_raw_exchange(&x, c->bench.round_ns);
  return rate > 0 ? 1e9 / rate : 0;
}

static uint64_t calibrate_cpu(void)
{
  struct timespec t;
  clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t);
  return (uint64_t)t.tv_sec * 1000000000 + (uint64_t)t.tv_nsec;
}

/* Two messages a round trip: one sent, one received. */
static double calibrate_zmq_message(struct calibrate *c)
{
  uint64_t cpu = calibrate_cpu();
  double rate = bench_raw_exchange(&c->exchange, c->bench.round_ns);
  double count = rate * (double)c->bench.round_ns / 1e9;
  return count > 0 ? (double)(calibrate_cpu() - cpu) / count / 2 : 0;
}

static double calibrate_zmq_byte_ps(struct calibrate *c)
{
  struct bench_exchange x = c->exchange;
  x.bulk = CALIBRATE_PIECE;
  x.window = 4;
  double rate = bench_raw_exchange(&x, c->bench.round_ns);
  return rate > 0 ? 1e12 / (rate * CALIBRATE_PIECE) : 0;
}

static double calibrate_copy_byte_ps(struct calibrate *c)
{
  double rate = bench_raw_copy(c->exchange.other, CALIBRATE_SPAN, CALIBRATE_PIECE,
                               c->bench.round_ns / 4);
  return rate > 0 ? 1e12 / rate : 0;
}

static double calibrate_local_round_trip(struct calibrate *c)
{
  bench_pin(c->exchange.cpu);
  double half = bench_nops_calm(&c->cluster.link, CALIBRATE_PAUSE_NS, c->bench.round_ns);
  bench_pin(BENCH_NOWHERE);
  return half;
}

/* Half of the tasks of the other node take so long, and cost its network worker so much. */
static double calibrate_calm(struct calibrate *c, double *cpu)
{
  pid_t pid = c->cluster.daemon[1].pid;
  uint64_t before = bench_thread_time(pid, "chi-net");
  double half;
  bench_pin(c->exchange.cpu);
  uint64_t tasks = bench_remote_calm(&c->cluster, CALIBRATE_PAUSE_NS, c->bench.round_ns, &half);
  bench_pin(BENCH_NOWHERE);
  *cpu = tasks ? (double)(bench_thread_time(pid, "chi-net") - before) / (double)tasks : 0;
  return tasks ? half : 0;
}

/* Tasks a second, and what they cost it. */
static double calibrate_run(struct calibrate *c, uint32_t window, double *cpu)
{
  pid_t pid = c->cluster.daemon[1].pid;
  uint64_t before = bench_thread_time(pid, "chi-net"), begin = cli_now();
  bench_pin(c->exchange.cpu);
  double rate = bench_remote_run(&c->cluster, window, 0, c->bench.round_ns);
  bench_pin(BENCH_NOWHERE);
  double tasks = rate * (double)(cli_now() - begin) / 1e9;
  *cpu = tasks > 0 ? (double)(bench_thread_time(pid, "chi-net") - before) / tasks : 0;
  return rate;
}

static double calibrate_worker_single(struct calibrate *c)
{
  double cpu;
  calibrate_calm(c, &cpu);
  return cpu;
}

static double calibrate_worker_many(struct calibrate *c)
{
  double cpu;
  calibrate_run(c, CALIBRATE_WINDOW, &cpu);
  return cpu;
}

static double calibrate_batch(struct calibrate *c)
{
  struct bench_traffic before, after;
  double cpu;
  if (!bench_remote_traffic(&c->cluster, &before) ||
      calibrate_run(c, CALIBRATE_WINDOW, &cpu) <= 0 ||
      !bench_remote_traffic(&c->cluster, &after) || after.sent <= before.sent)
    return 0;
  return (after.tasks - before.tasks) / (after.sent - before.sent);
}

static double calibrate_remote_round_trip(struct calibrate *c)
{
  double cpu;
  return calibrate_calm(c, &cpu);
}

static double calibrate_remote_rate(struct calibrate *c)
{
  double cpu;
  return calibrate_run(c, CALIBRATE_WINDOW, &cpu);
}

/* Bytes of a request and of an answer, as they are on the wire. */
static bool calibrate_sizes(struct calibrate *c)
{
  struct bench_traffic before, after;
  if (bench_remote_run(&c->cluster, 1, 0, c->bench.round_ns) <= 0 ||
      !bench_remote_traffic(&c->cluster, &before) ||
      bench_remote_run(&c->cluster, 1, 0, c->bench.round_ns) <= 0 ||
      !bench_remote_traffic(&c->cluster, &after) || after.sent <= before.sent ||
      after.received <= before.received)
    return bench_note(&c->said, "tasks for the other node failed");
  c->exchange.out = (uint64_t)((after.bytes_sent - before.bytes_sent) / (after.sent - before.sent));
  c->exchange.in = (uint64_t)((after.bytes_received - before.bytes_received) /
                              (after.received - before.received));
  return true;
}

/* All figures in turn, in each round, so that what disturbs disturbs all of them. */
static bool calibrate_rounds(struct calibrate *c)
{
  static const struct {
    const char *name;
    double (*measure)(struct calibrate *c);
  } figures[] = {
#define CALIBRATE_ROW(name, text) {#name, calibrate_##name},
      CALIBRATE_FIGURES(CALIBRATE_ROW)
#undef CALIBRATE_ROW
  };
  double values[CHI_COUNT(figures)][BENCH_ROUNDS_MAX];
  double *out = (double *)&c->f;
  for (uint64_t round = 0; round < c->bench.rounds; round++) {
    for (size_t i = 0; i < CHI_COUNT(figures); i++) {
      values[i][round] = figures[i].measure(c);
      if (values[i][round] <= 0)
        return bench_note(&c->said, "%s cannot be measured", figures[i].name);
    }
  }
  for (size_t i = 0; i < CHI_COUNT(figures); i++) {
    qsort(values[i], c->bench.rounds, sizeof(double), calibrate_compare);
    out[i] = values[i][c->bench.rounds / 2];
  }
  return true;
}

/* Client and node 0 on one CPU, node 1 on another one, where there are two. */
static bool calibrate_measure(struct calibrate *c)
{
  static const int cpus[] = {0, 1};
  c->pinned = sysconf(_SC_NPROCESSORS_ONLN) >= 2;
  c->exchange = (struct bench_exchange){.peers = 1,
                                        .window = 1,
                                        .cpu = c->pinned ? 0 : BENCH_NOWHERE,
                                        .other = c->pinned ? 1 : BENCH_NOWHERE};
  if (!bench_remote_open(&c->bench, 2, c->pinned ? cpus : NULL, &c->cluster, &c->said))
    return false;
  bool good = calibrate_sizes(c) && calibrate_rounds(c);
  bench_remote_close(&c->cluster);
  return good;
}

/* ---- the profile ------------------------------------------------------------------------ */

static void calibrate_time(struct profile *p, const char *name, double ns)
{
  char text[32];
  snprintf(text, sizeof(text), "%.0fns", ns > 1 ? ns : 1);
  profile_add(p, name, text);
}

static void calibrate_number(struct profile *p, const char *name, double x)
{
  char text[32];
  snprintf(text, sizeof(text), "%.0f", x > 1 ? x : 1);
  profile_add(p, name, text);
}

/* The model: a worker that slept is woken, which costs what the first task of all costs more than
 * one of many; then it steps; it sends or takes a message for a batch; each task costs. */
static void calibrate_profile(const struct calibrate *c, struct profile *p)
{
  const struct calibrate_figures *f = &c->f;
  double messages = 2 * f->zmq_message;
  double task = f->worker_many - (CALIBRATE_STEP_NS + messages) / f->batch;
  task = task > 0 ? task : 0;
  double wake = f->worker_single - CALIBRATE_STEP_NS - messages - task;
  double bell = f->local_round_trip - wake - CALIBRATE_STEP_NS - task;
  calibrate_time(p, "step", CALIBRATE_STEP_NS / CALIBRATE_JITTER);
  calibrate_number(p, "budget", CALIBRATE_WINDOW);
  calibrate_time(p, "task", task);
  calibrate_time(p, "park", 1);
  calibrate_time(p, "wake", wake / CALIBRATE_JITTER);
  calibrate_time(p, "bell", bell / 2 / CALIBRATE_JITTER);
  calibrate_time(p, "message", f->zmq_message);
  calibrate_number(p, "message_byte_ps", f->copy_byte_ps);
  calibrate_time(p, "latency", (f->zmq_round_trip / 2 - messages) / CALIBRATE_JITTER);
  calibrate_number(p, "byte_ps", f->zmq_byte_ps);
}

static int calibrate_write(const struct calibrate *c, const struct profile *p, FILE *out)
{
  static const char *const texts[] = {
#define CALIBRATE_TEXT(name, text) #name ": " text,
      CALIBRATE_FIGURES(CALIBRATE_TEXT)
#undef CALIBRATE_TEXT
  };
  const double *values = (const double *)&c->f;
  fprintf(out,
          "# What things cost on a machine, measured by chimaera calibrate: %s,\n"
          "# %llu bytes there, %llu back, medians of %llu rounds.\n#\n",
          c->pinned ? "the nodes pinned to two CPUs" : "the nodes not pinned",
          (unsigned long long)c->exchange.out, (unsigned long long)c->exchange.in,
          (unsigned long long)c->bench.rounds);
  for (size_t i = 0; i < CHI_COUNT(texts); i++)
    fprintf(out, "#%12.0f  %s\n", values[i], texts[i]);
  fprintf(out, "\n");
  profile_print(p, out);
  return ferror(out) ? CLI_FAILED : CLI_OK;
}

/* ---- what a simulation predicts --------------------------------------------------------- */

#ifndef CHI_OMIT_SIM

struct calibrate_client {
  uint32_t window;
  uint64_t took, done;
};

static struct bench_line *calibrate_submit(chi_queue *queue)
{
  struct bench_line *t = CHI_NEW(queue, bench_line);
  if (!t)
    return NULL;
  t->task.pool = BENCH_POOL;
  t->task.query = (chi_query){.mode = CHI_QUERY_PHYSICAL, .a = 1};
  if (chi_submit(queue, t) == CHI_OK)
    return t;
  chi_task_free(queue, t);
  return NULL;
}

static void calibrate_body(chi_cluster *cluster, chi_client *client, void *arg)
{
  struct calibrate_client *me = arg;
  struct bench_line *task[CALIBRATE_WINDOW] = {NULL};
  chi_queue *queue = NULL;
  bool good = chi_queue_open(client, &queue, NULL) == CHI_OK;
  uint64_t begin = 0, sent = 0, got = 0;
  while (good && got < CALIBRATE_TASKS) {
    if (me->window == 1)
      chi_cluster_sleep(cluster, CALIBRATE_PAUSE_NS);
    if (me->window == 1 || got == CALIBRATE_WINDOW) /* pools are known, methods measured */
      begin = chi_cluster_now(cluster);
    for (; good && sent < got + me->window; sent++)
      good = (task[sent % me->window] = calibrate_submit(queue)) != NULL;
    good = good && chi_wait(queue, task[got % me->window], UINT64_MAX) == CHI_OK;
    if (good)
      chi_task_free(queue, task[got++ % me->window]);
    if (got > CALIBRATE_WINDOW && (me->window == 1 || got == CALIBRATE_TASKS))
      me->took += chi_cluster_now(cluster) - begin;
  }
  me->done = good ? got - CALIBRATE_WINDOW : 0;
  if (queue)
    chi_queue_close(queue);
}

/* Virtual nanoseconds for each task; 0: it failed, and *err says why. */
static double calibrate_predict(const struct profile *p, uint32_t window, uint64_t *hash,
                                chi_error *err)
{
  const chi_module *modules[] = {bench_module()};
  struct calibrate_client client = {.window = window};
  char spec[PROFILE_SPEC + 64], costs[PROFILE_SPEC];
  chi_pool_id pool = BENCH_POOL;
  chi_cluster *cluster = NULL;
  snprintf(spec, sizeof(spec), "sim:nodes=2,seed=1,queue_depth=1024,%s", profile_spec(p, costs));
  if (chi_cluster_open(spec, modules, 1, &cluster, err) != CHI_OK)
    return 0;
  if (chi_cluster_pool_create(cluster, 0, "bench", "bench", NULL, 0, &pool, err) == CHI_OK) {
    chi_cluster_client(cluster, 0, calibrate_body, &client);
    chi_cluster_run_idle(cluster, UINT64_C(600) * 1000000000);
  }
  const chi_failure *failure = chi_cluster_failure(cluster);
  if (failure)
    snprintf(err->text, sizeof(err->text), "%.200s", failure->text);
  *hash = chi_cluster_hash(cluster);
  chi_cluster_close(cluster);
  return client.done ? (double)client.took / (double)client.done : 0;
}

static void calibrate_row(struct columns *t, const char *what, double predicted, double measured,
                          const char *(*text)(double x, char *buf, size_t size), const char *unit)
{
  char buf[2][32];
  columns_cell(t, "%s", what);
  columns_cell(t, "%s%s", text(predicted, buf[0], 32), unit);
  columns_cell(t, "%s%s", text(measured, buf[1], 32), unit);
  columns_cell(t, "%+.0f %%", 100 * (predicted / measured - 1));
}

static int calibrate_table(const struct calibrate *c, const struct profile *p)
{
  const struct calibrate_figures *f = &c->f;
  chi_error err = {0, ""};
  uint64_t hash = 0, again = 0;
  double single = calibrate_predict(p, 1, &hash, &err);
  double many = calibrate_predict(p, CALIBRATE_WINDOW, &again, &err);
  if (single <= 0 || many <= 0)
    return cli_fail(c->bench.cli, "the simulation: %s", err.text[0] ? err.text : "a task failed");
  if (cli_value(c->bench.cli, "json")) {
    printf("{\"latency_ns\":{\"predicted\":%.0f,\"measured\":%.0f},"
           "\"rate\":{\"predicted\":%.0f,\"measured\":%.0f},\"hash\":\"%016llx\"}\n",
           single, f->remote_round_trip, 1e9 / many, f->remote_rate, (unsigned long long)hash);
    return CLI_OK;
  }
  struct columns *t = columns_new("two_nodes >predicted >measured >difference");
  calibrate_row(t, "round trip", single, f->remote_round_trip, cli_time, "");
  calibrate_row(t, "tasks, 64 in flight", 1e9 / many, f->remote_rate, cli_count, "/s");
  columns_end(t, stdout, 0);
  return CLI_OK;
}

#else

static int calibrate_table(const struct calibrate *c, const struct profile *p)
{
  (void)p;
  return cli_fail(c->bench.cli, "this program was built without the simulation");
}

#endif

/* ---- the command ------------------------------------------------------------------------ */

static int calibrate_result(const struct calibrate *c)
{
  const struct cli *cli = c->bench.cli;
  const char *path = cli_value(cli, "out");
  struct profile measured = {.count = 0};
  FILE *out = stdout;
  int status = CLI_OK;
  calibrate_profile(c, &measured);
  if (path && !(out = fopen(path, "we")))
    return cli_fail(cli, "%s: %s", path, strerror(errno));
  if (path || !cli_value(cli, "compare"))
    status = calibrate_write(c, &measured, out);
  if (path && fclose(out) != 0)
    status = CLI_FAILED;
  if (status != CLI_OK)
    return cli_fail(cli, "%s: %s", path ? path : "standard output", strerror(errno));
  return cli_value(cli, "compare") ? calibrate_table(c, c->given.count ? &c->given : &measured)
                                   : CLI_OK;
}

/* What would spoil the result is found before a minute of measuring. Nothing is written until there
 * is something to write. */
static bool calibrate_ready(struct calibrate *c)
{
  const struct cli *cli = c->bench.cli;
  const char *path = cli_value(cli, "out"), *given = cli_value(cli, "profile");
  if (given && !profile_load(cli, given, &c->given))
    return false;
  return !path || cli_can_write(cli, path) == CLI_OK;
}

static int calibrate_options(const struct cli *cli)
{
  int count = 0;
  for (int i = 0; i < CLI_OPTIONS_MAX; i++)
    count += cli->values[i] != NULL;
  return count;
}

static int calibrate_spec(const struct cli *cli, const char *path)
{
  struct profile p = {.count = 0};
  char spec[PROFILE_SPEC];
  if (!profile_load(cli, path, &p))
    return CLI_FAILED;
  puts(profile_spec(&p, spec));
  return CLI_OK;
}

static int calibrate_run_command(struct cli *cli)
{
  struct calibrate c = {.bench = {.cli = cli, .rounds = CALIBRATE_ROUNDS}};
  const char *directory = cli_value(cli, "directory"), *spec = cli_value(cli, "spec");
  c.bench.round_ns = CALIBRATE_SECONDS * 1000000000ull;
  if (cli->argument_count)
    return cli_usage(cli, "takes no arguments");
  if (spec && calibrate_options(cli) > 1)
    return cli_usage(cli, "--spec measures nothing, and takes no other option");
  if (spec)
    return calibrate_spec(cli, spec);
  if (cli_value(cli, "profile") && !cli_value(cli, "compare"))
    return cli_usage(cli, "--profile is for --compare");
  if (!cli_number(cli, "rounds", 1, BENCH_ROUNDS_MAX, &c.bench.rounds) ||
      !cli_duration(cli, "seconds", 1000000000, &c.bench.round_ns))
    return CLI_USAGE;
  if (c.bench.round_ns < 1000000)
    return cli_usage(cli, "--seconds: expected 1ms at least");
  if (!calibrate_ready(&c) || !bench_directory(&c.bench, directory))
    return CLI_FAILED;
  bool good = calibrate_measure(&c);
  bench_clean(&c.bench);
  return good ? calibrate_result(&c) : cli_fail(cli, "%s", c.said.note);
}

const struct cli_command cmd_calibrate = {
    .name = "calibrate",
    .arguments = "",
    .about = "measure what simulations assume, on this machine",
    .more = "Starts two daemons of its own, measures them and ZeroMQ alone, and writes a profile:\n"
            "what a step, a task, a message and a byte cost a simulated node. With --compare it\n"
            "prints what a simulation with that profile predicts, beside what was measured.\n",
    .run = calibrate_run_command,
    .options = {{"out", "FILE", "where the profile goes; default: standard output"},
                {"compare", NULL, "print predictions beside measurements"},
                {"profile", "FILE", "compare those of this profile"},
                {"spec", "FILE", "print a profile as keys of a spec, and measure nothing"},
                {"rounds", "N", "default 5"},
                {"seconds", "TIME", "of each measurement; default 1"},
                {"directory", "DIR", "where files go; default $TMPDIR or /var/tmp"},
                {CLI_JSON}}};
