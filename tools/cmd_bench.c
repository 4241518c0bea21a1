/* cmd_bench.c - figures beside the raw limits of the machine, in a table. */
#include "bench.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "columns.h"
#include "text.h"

#define BENCH_DEFAULT_ROUNDS 5
#define BENCH_DEFAULT_SECONDS 1
#define BENCH_DEFAULT_IDLE_S 60

static const struct bench_figure bench_figures[] = {
    {"latency-pinned", "round trip, awake, pinned apart | spin on one line", BENCH_NS, true, 3, 1,
     bench_run_latency_pinned},
    {"latency-1", "round trip, 1 client | mailbox", BENCH_NS, true, 3, 1, bench_run_latency},
    {"latency-2", "round trip, 2 clients | mailboxes", BENCH_NS, true, 3, 2, bench_run_latency},
    {"latency-4", "round trip, 4 clients | mailboxes", BENCH_NS, true, 3, 4, bench_run_latency},
    {"rate-1", "tasks/s, window 1 | ring", BENCH_PER_SECOND, false, 0, 1, bench_run_rate},
    {"rate-16", "tasks/s, window 16 | ring", BENCH_PER_SECOND, false, 0, 16, bench_run_rate},
    {"rate-64", "tasks/s, window 64 | ring", BENCH_PER_SECOND, false, 0.4, 64, bench_run_rate},
    {"rate-256", "tasks/s, window 256 | ring", BENCH_PER_SECOND, false, 0, 256, bench_run_rate},
    {"alloc-task", "allocate and free a task | malloc", BENCH_NS, true, 3, 0, bench_run_allocation},
    {"alloc-4k", "allocate and free 4 KiB | malloc", BENCH_NS, true, 3, 4096, bench_run_allocation},
    {"ram-write", "RAM bdev, 1 MiB writes | memcpy", BENCH_BYTES_PER_SECOND, false, 0.8, 0,
     bench_run_ram},
    {"file-read", "file bdev, 4 KiB random reads | fio", BENCH_PER_SECOND, false, 0.9, 0,
     bench_run_file},
    {"file-write", "file bdev, 4 KiB random writes | fio", BENCH_PER_SECOND, false, 0.9, 1,
     bench_run_file},
    {"start", "start to first answer", BENCH_NS_ALONE, true, 50e6, 0, bench_run_start},
    {"memory", "resident beyond leased chunks", BENCH_BYTES, true, 16 << 20, 0, bench_run_memory},
    {"idle", "idle daemon, share of a core", BENCH_PERCENT, true, 0.5, 0, bench_run_idle},
    {"remote-latency", "round trip to another node, pinned apart | ZeroMQ", BENCH_NS, true, 1.3, 2,
     bench_run_remote_latency},
    {"remote-latency-3", "the same, 3 nodes, not pinned | ZeroMQ", BENCH_NS, true, 0, 3,
     bench_run_remote_latency},
    {"remote-latency-5", "the same, 5 nodes, not pinned | ZeroMQ", BENCH_NS, true, 0, 5,
     bench_run_remote_latency},
    {"remote-rate", "tasks/s to another node, 64 bytes | ZeroMQ", BENCH_PER_SECOND, false, 0.7, 2,
     bench_run_remote_rate},
    {"remote-rate-3", "the same, 3 nodes, not pinned | ZeroMQ", BENCH_PER_SECOND, false, 0, 3,
     bench_run_remote_rate},
    {"remote-rate-5", "the same, 5 nodes, not pinned | ZeroMQ", BENCH_PER_SECOND, false, 0, 5,
     bench_run_remote_rate},
    {"remote-bulk-1m", "1 MiB to another node | ZeroMQ into a buffer", BENCH_BYTES_PER_SECOND,
     false, 0.9, 1 << 8 | 2, bench_run_remote_bulk},
    {"remote-bulk-64m", "64 MiB to another node | ZeroMQ into a buffer", BENCH_BYTES_PER_SECOND,
     false, 0.9, 64 << 8 | 2, bench_run_remote_bulk},
    {"remote-bulk-3", "1 MiB, 3 nodes | ZeroMQ into a buffer", BENCH_BYTES_PER_SECOND, false, 0,
     1 << 8 | 3, bench_run_remote_bulk},
    {"remote-bulk-5", "1 MiB, 5 nodes | ZeroMQ into a buffer", BENCH_BYTES_PER_SECOND, false, 0,
     1 << 8 | 5, bench_run_remote_bulk},
    {"remote-wakeups", "wake-ups of network workers a message", BENCH_NUMBER, true, 1, 2,
     bench_run_remote_wakeups},
    {"remote-idle", "3 idle daemons, share of a core", BENCH_PERCENT, true, 1, 3,
     bench_run_remote_idle},
    {"compile", "cc -O2 -c chimaera.c", BENCH_NS_ALONE, true, 10e9, 0, bench_run_compile},
    {"sim-events", "simulation, events/s | bare event loop", BENCH_EVENTS, false, 1e6, 0,
     bench_run_sim_events},
    {"sim-idle", "3 idle simulated nodes, real time", BENCH_TIMES, false, 10000, 0,
     bench_run_sim_idle},
    {"sim-probes", "1,000 simulated nodes at 10 Hz", BENCH_TIMES, false, 10, 0,
     bench_run_sim_probes},
    {"sim-seeds", "simulated runs of 20,000 events", BENCH_PER_DAY, false, 1e6, 0,
     bench_run_sim_seeds},
    {"sim-memory", "an idle simulated node", BENCH_BYTES, true, 256 << 10, 100,
     bench_run_sim_memory},
    {"sim-memory-1000", "the same, one of 1,000", BENCH_BYTES, true, 256 << 10, 1000,
     bench_run_sim_memory},
};

/* What a row of the table says. */
struct bench_summary {
  double ours, raw, median, worst; /* of the ratios, or of ours without raw */
  bool has_raw;
  bool met, met_worst; /* the target, by the median and by the worst round */
};

static int bench_compare(const void *a, const void *b)
{
  double x = *(const double *)a, y = *(const double *)b;
  return (x > y) - (x < y);
}

static double bench_median(const double *values, uint32_t count)
{
  double sorted[BENCH_ROUNDS_MAX];
  memcpy(sorted, values, count * sizeof(*sorted));
  qsort(sorted, count, sizeof(*sorted), bench_compare);
  return count % 2 ? sorted[count / 2] : (sorted[count / 2 - 1] + sorted[count / 2]) / 2;
}

/* Whether the target is one of ours, not of ours / raw. */
static bool bench_absolute(const struct bench_figure *f)
{
  return f->unit >= BENCH_NS_ALONE;
}

static double bench_worst(const struct bench_figure *f, const double *values, uint32_t count)
{
  double worst = values[0];
  for (uint32_t i = 1; i < count; i++) {
    if (f->less ? values[i] > worst : values[i] < worst)
      worst = values[i];
  }
  return worst;
}

static bool bench_meets(const struct bench_figure *f, double value)
{
  return f->less ? value <= f->target : value >= f->target;
}

static struct bench_summary bench_summarize(const struct bench_figure *f,
                                            const struct bench_result *r)
{
  struct bench_summary s = {.has_raw = r->raw[0] > 0};
  double values[BENCH_ROUNDS_MAX] = {0};
  for (uint32_t i = 0; i < r->rounds; i++)
    values[i] = s.has_raw && r->raw[i] > 0 ? r->ours[i] / r->raw[i] : r->ours[i];
  s.worst = bench_worst(f, values, r->rounds);
  s.ours = bench_median(r->ours, r->rounds);
  s.raw = bench_median(r->raw, r->rounds);
  s.median = bench_median(values, r->rounds);
  s.met = bench_meets(f, bench_absolute(f) ? s.ours : s.median);
  s.met_worst = bench_meets(f, bench_absolute(f) ? bench_worst(f, r->ours, r->rounds) : s.worst);
  return s;
}

static const char *bench_value(enum bench_unit unit, double x, char *buf, size_t size)
{
  char text[32];
  switch (unit) {
  case BENCH_NS:
  case BENCH_NS_ALONE:
    return cli_time(x, buf, size);
  case BENCH_PER_SECOND:
  case BENCH_EVENTS:
    snprintf(buf, size, "%s/s", cli_count(x, text, sizeof(text)));
    return buf;
  case BENCH_BYTES_PER_SECOND:
    snprintf(buf, size, "%s/s", cli_bytes(x, text, sizeof(text)));
    return buf;
  case BENCH_PER_DAY:
    snprintf(buf, size, "%s/day", cli_count(x, text, sizeof(text)));
    return buf;
  case BENCH_BYTES:
    return cli_bytes(x, buf, size);
  case BENCH_NUMBER:
    snprintf(buf, size, "%.2f", x);
    return buf;
  case BENCH_TIMES:
    snprintf(buf, size, "%sx", cli_count(x, text, sizeof(text)));
    return buf;
  default:
    snprintf(buf, size, "%.3f %%", x);
    return buf;
  }
}

/* Absolute where there is no raw limit, else a ratio. */
static void bench_cell(struct columns *c, const struct bench_figure *f,
                       const struct bench_summary *s, double x)
{
  char text[40];
  if (s->has_raw)
    columns_cell(c, "%.2fx", x);
  else
    columns_cell(c, "%s", bench_value(f->unit, x, text, sizeof(text)));
}

static void bench_row_skipped(struct columns *c, const struct bench_figure *f,
                              const struct bench_result *r)
{
  columns_cell(c, "%s", f->name);
  columns_cell(c, "%s", f->title);
  for (int i = 0; i < 4; i++)
    columns_cell(c, "-");
  columns_cell(c, "%s", "");
  columns_cell(c, "%s", "");
  columns_cell(c, "%s", r->note);
}

static void bench_row(struct columns *c, const struct bench_figure *f, const struct bench_result *r)
{
  struct bench_summary s = bench_summarize(f, r);
  bool ratio_target = f->target && !bench_absolute(f);
  char text[40];
  columns_cell(c, "%s", f->name);
  columns_cell(c, "%s", f->title);
  columns_cell(c, "%s", bench_value(f->unit, s.ours, text, sizeof(text)));
  columns_cell(c, "%s", s.has_raw ? bench_value(f->unit, s.raw, text, sizeof(text)) : "-");
  bench_cell(c, f, &s, s.median);
  bench_cell(c, f, &s, s.worst);
  if (!f->target)
    columns_cell(c, "%s", "");
  else if (ratio_target)
    columns_cell(c, "%s %.1fx", f->less ? "<=" : ">=", f->target);
  else
    columns_cell(c, "%s %s",
                 f->less ? "<=" : ">=", bench_value(f->unit, f->target, text, sizeof(text)));
  if (!f->target || (ratio_target && !s.has_raw))
    columns_cell(c, "%s", "");
  else
    columns_cell(c, "%s", s.met_worst ? "yes" : s.met ? "median" : "NO");
  columns_cell(c, "%s", r->note);
}

static void bench_json_skipped(const struct bench_figure *f, const struct bench_result *r,
                               bool first)
{
  printf("%s\n{\"figure\":\"%s\",\"skipped\":true,\"note\":", first ? "" : ",", f->name);
  text_put_string(r->note, SIZE_MAX, cli_put, stdout);
  printf("}");
}

static void bench_json(const struct bench_figure *f, const struct bench_result *r, bool first)
{
  struct bench_summary s = bench_summarize(f, r);
  printf("%s\n{\"figure\":\"%s\",\"what\":", first ? "" : ",", f->name);
  text_put_string(f->title, SIZE_MAX, cli_put, stdout);
  printf(",\"ours\":%.3f,\"raw\":", s.ours);
  printf(s.has_raw ? "%.3f" : "null", s.raw);
  printf(",\"median\":%.4f,\"worst\":%.4f,\"target\":", s.median, s.worst);
  printf(f->target ? "%.4f" : "null", f->target);
  printf(",\"less_is_better\":%s", f->less ? "true" : "false");
  if (f->target)
    printf(",\"met\":%s,\"met_worst\":%s", s.met ? "true" : "false",
           s.met_worst ? "true" : "false");
  printf(",\"rounds\":[");
  for (uint32_t i = 0; i < r->rounds; i++)
    printf("%s{\"ours\":%.3f,\"raw\":%.3f}", i ? "," : "", r->ours[i], r->raw[i]);
  printf("],\"note\":");
  text_put_string(r->note, SIZE_MAX, cli_put, stdout);
  printf("}");
}

/* The figures that --only names, separated by commas; "rate" stands for all that begin with it. */
static bool bench_wanted(const char *only, const char *name)
{
  while (only && *only) {
    size_t size = strcspn(only, ",");
    if (size && strncmp(only, name, size) == 0 && (!name[size] || name[size] == '-'))
      return true;
    only += size + (only[size] == ',');
  }
  return only == NULL;
}

static void bench_progress(const struct bench *b, const struct bench_figure *f,
                           const struct bench_result *r)
{
  if (!isatty(STDERR_FILENO) && !b->verbose)
    return;
  if (!r) {
    fprintf(stderr, "%s ...\n", f->name);
    return;
  }
  for (uint32_t i = 0; i < r->rounds && b->verbose; i++) {
    char text[2][40];
    fprintf(stderr, "  round %u: %s, raw %s\n", i + 1,
            bench_value(f->unit, r->ours[i], text[0], 40),
            bench_value(f->unit, r->raw[i], text[1], 40));
  }
}

static int bench_figures_run(const struct bench *b)
{
  const char *only = cli_value(b->cli, "only");
  bool json = cli_value(b->cli, "json"), missed = false;
  struct columns *c = columns_new("figure what >ours >raw >median >worst >target met note");
  uint32_t done = 0, failed = 0;
  if (json)
    printf("[");
  for (size_t i = 0; i < CHI_COUNT(bench_figures); i++) {
    const struct bench_figure *f = &bench_figures[i];
    struct bench_result r = {.note = ""};
    if (!bench_wanted(only, f->name))
      continue;
    bench_progress(b, f, NULL);
    if (!f->run(b, f, &r)) {
      cli_fail(b->cli, "%s: %s", f->name, r.note);
      failed++;
      continue;
    }
    bench_progress(b, f, &r);
    if (r.rounds)
      missed = missed || (f->target && !bench_summarize(f, &r).met);
    if (json)
      (r.rounds ? bench_json : bench_json_skipped)(f, &r, done == 0);
    else
      (r.rounds ? bench_row : bench_row_skipped)(c, f, &r);
    done++;
  }
  if (json)
    printf("\n]\n");
  columns_end(c, json || !done ? NULL : stdout, 0);
  if (!done && !failed)
    return cli_usage(b->cli, "--only %s: there is no such figure", only);
  return failed || (missed && cli_value(b->cli, "strict")) ? CLI_FAILED : CLI_OK;
}

bool bench_directory(struct bench *b, const char *directory)
{
  if (!directory)
    directory = getenv("TMPDIR") ? getenv("TMPDIR") : "/var/tmp";
  snprintf(b->directory, sizeof(b->directory), "%s/chimaera-bench-XXXXXX", directory);
  if (mkdtemp(b->directory))
    return true;
  cli_fail(b->cli, "%s: %s", b->directory, strerror(errno));
  return false;
}

/* The files there are few and known. */
void bench_clean(const struct bench *b)
{
  static const char *const names[] = {
      "config.yaml",      "log",      "start",           "start.chi-log", "device-0",
      "device-0.chi-log", "device-1", "device-1.chi-log",
      "chimaera.o",       "hosts"};
  char path[CHI_PATH_MAX + 32];
  for (size_t i = 0; i < CHI_COUNT(names); i++) {
    snprintf(path, sizeof(path), "%s/%s", b->directory, names[i]);
    unlink(path);
  }
  if (rmdir(b->directory) != 0)
    cli_warn(b->cli, "%s: %s", b->directory, strerror(errno));
}

static int bench_run(struct cli *cli)
{
  struct bench b = {.cli = cli, .rounds = BENCH_DEFAULT_ROUNDS};
  const char *directory = cli_value(cli, "directory"), *serve = cli_value(cli, "serve");
  uint64_t idle_s = BENCH_DEFAULT_IDLE_S;
  int status;
  b.round_ns = BENCH_DEFAULT_SECONDS * 1000000000ull;
  b.verbose = cli_value(cli, "verbose");
  if (cli->argument_count)
    return cli_usage(cli, "takes no arguments");
  if (serve)
    return bench_daemon_serve(cli, serve);
  if (cli_value(cli, "test-case"))
    return bench_field_run(cli);
  if (!cli_number(cli, "rounds", 1, BENCH_ROUNDS_MAX, &b.rounds) ||
      !cli_duration(cli, "seconds", 1000000000, &b.round_ns) ||
      !cli_number(cli, "idle-seconds", 1, 86400, &idle_s))
    return CLI_USAGE;
  b.idle_ns = idle_s * 1000000000;
  if (b.round_ns < 1000000)
    return cli_usage(cli, "--seconds: expected 1ms at least");
  if (!bench_directory(&b, directory))
    return CLI_FAILED;
  status = bench_figures_run(&b);
  bench_clean(&b);
  return status;
}

const struct cli_command cmd_bench = {
    .name = "bench",
    .arguments = "",
    .about = "measure, beside the raw limits of this machine",
    .more =
        "Without --test-case it starts daemons of its own and prints for each figure ours, the "
        "raw\n"
        "limit measured in the same run, and their ratio: the median and the worst of the rounds.\n"
        "With --test-case (bdev_io, bdev_allocation, bdev_task_alloc, latency) it drives a "
        "running\n"
        "daemon, on a file bdev that it makes in --output-dir and destroys again.\n",
    .run = bench_run,
    .options = {{"figures", NULL, "figures beside raw limits (the default)"},
                {"only", "NAMES", "these, separated by commas; rate is all that begin so"},
                {"rounds", "N", "of each figure; default 5"},
                {"seconds", "TIME", "of each measurement; default 1"},
                {"idle-seconds", "N", "for the idle daemon; default 60"},
                {"directory", "DIR", "where files go; default $TMPDIR or /var/tmp"},
                {"strict", NULL, "fail if a target is missed"},
                {"test-case", "CASE", "drive a running daemon instead"},
                {"threads", "N", "default 4"},
                {"duration", "SECONDS", "default 10"},
                {"max-file-size", "SIZE", "default 1g"},
                {"io-size", "SIZE", "default 4k"},
                {"lane-policy", "POLICY", "accepted; the daemon's configuration decides"},
                {"output-dir", "DIR", "for the device and a result in JSON"},
                {"verbose", NULL, "every round, every thread"},
                {CLI_INSTANCE},
                {CLI_JSON},
                {"serve", "FILE", "what it runs itself with, as its daemon"}}};
