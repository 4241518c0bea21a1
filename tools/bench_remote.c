/* bench_remote.c - tasks for other nodes, beside what ZeroMQ alone does with the same bytes. */
#include "bench.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>
#include <unistd.h>

#define REMOTE_MEET_NS (20ull * 1000000000)
#define REMOTE_LOOK_NS 20000000
#define REMOTE_WAIT_NS (20ull * 1000000000) /* longer for one task is a failure */
#define REMOTE_WINDOW 64                    /* tasks of a pipeline, for each other node */
#define REMOTE_TASKS_MAX 256
#define REMOTE_WARM_NS 200000000
#define REMOTE_PAUSE_NS 5000000 /* between tasks at low load */
#define REMOTE_SETTLE_NS 2000000000

/* ---- the cluster ------------------------------------------------------------------------ */

void bench_remote_close(struct bench_remote *c)
{
  if (c->link.client)
    cli_disconnect(&c->link);
  for (uint32_t i = 0; i < c->nodes; i++)
    bench_daemon_stop(&c->daemon[i]);
}

/* Addresses that no other run on this machine is likely to use. */
static bool remote_hosts(const struct bench_remote *c, const char *path)
{
  unsigned pid = (unsigned)getpid();
  FILE *out = fopen(path, "we");
  if (!out)
    return false;
  for (uint32_t i = 0; i < c->nodes; i++)
    fprintf(out, "127.%u.%u.%u\n", 1 + pid / 250 % 250, 1 + pid % 250, i + 1);
  return fclose(out) == 0;
}

static bool remote_start(const struct bench *b, struct bench_remote *c, const int *cpus,
                         struct bench_result *r)
{
  char path[CHI_PATH_MAX + 8];
  uint32_t port = bench_daemon_port();
  snprintf(path, sizeof(path), "%s/hosts", b->directory);
  if (!remote_hosts(c, path))
    return bench_note(r, "%.100s: %s", path, strerror(errno));
  for (uint32_t i = 0; i < c->nodes; i++) {
    if (!bench_daemon_join(b, path, port, i, cpus ? cpus[i] : BENCH_NOWHERE, &c->daemon[i],
                           r->note, sizeof(r->note)))
      return false;
  }
  return bench_link(&c->daemon[0], &c->link, r->note, sizeof(r->note));
}

static bool remote_meet(struct bench_remote *c, struct bench_result *r)
{
  struct timespec pause = {0, REMOTE_LOOK_NS};
  uint64_t begin = cli_now();
  while (cli_now() - begin < REMOTE_MEET_NS) {
    chi_error err;
    struct json *json = cli_figures(&c->link, &err);
    uint64_t alive = json_integer(json_get(json, "net"), "alive", 0);
    json_free(json);
    if (alive == c->nodes)
      return true;
    nanosleep(&pause, NULL);
  }
  return bench_note(r, "the %u nodes do not find each other", c->nodes);
}

bool bench_remote_open(const struct bench *b, uint32_t nodes, const int *cpus,
                       struct bench_remote *c, struct bench_result *r)
{
  chi_pool_id pool = BENCH_POOL;
  chi_error err = {0};
  *c = (struct bench_remote){.nodes = nodes};
  for (uint32_t i = 0; i < nodes; i++)
    c->daemon[i] = (struct bench_daemon){.pid = -1, .input = -1};
  bool good = remote_start(b, c, cpus, r) && remote_meet(c, r);
  if (good && chi_pool_create(c->link.queue, "bench", "bench", NULL, 0, &pool, &err) != CHI_OK)
    good = bench_note(r, "the pool: %.120s", err.text);
  if (!good)
    bench_remote_close(c);
  return good;
}

bool bench_remote_traffic(struct bench_remote *c, struct bench_traffic *out)
{
  chi_error err;
  struct json *json = cli_figures(&c->link, &err);
  *out = (struct bench_traffic){0};
  for (const struct json *n = json_list(json, "nodes"); n; n = n->next) {
    out->sent += json_number(n, "messages_out", 0);
    out->received += json_number(n, "messages_in", 0);
    out->bytes_sent += json_number(n, "bytes_out", 0);
    out->bytes_received += json_number(n, "bytes_in", 0);
  }
  out->tasks = json_number(json_get(json, "net"), "requests", 0);
  bool good = json != NULL;
  json_free(json);
  return good;
}

/* ---- tasks ------------------------------------------------------------------------------ */

/* A pipeline of tasks for all other nodes in turn, of lines or, if size is not 0, of bulk. */
struct remote_pipe {
  struct bench_remote *cluster;
  uint32_t window;
  uint64_t size;
  struct chi_task *task[REMOTE_TASKS_MAX];
  chi_bulk bulk[REMOTE_TASKS_MAX];
  uint64_t sent, got;
};

static chi_task *remote_line(struct remote_pipe *p)
{
  struct bench_line *t = CHI_NEW(p->cluster->link.queue, bench_line);
  uint64_t n = p->sent;
  if (t)
    t->a = n, t->b = n + 1, t->c = n + 2, t->d = n + 3, t->e = n + 4, t->f = n + 5, t->g = n + 6,
    t->h = n + 7;
  return (chi_task *)t;
}

static chi_task *remote_bulk(struct remote_pipe *p, chi_bulk *bulk)
{
  struct bench_bulk *t = CHI_NEW(p->cluster->link.queue, bench_bulk);
  if (!t)
    return NULL;
  if (chi_bulk_alloc(p->cluster->link.queue, p->size, bulk) != CHI_OK) {
    chi_task_free(p->cluster->link.queue, t);
    return NULL;
  }
  bench_stamp(bulk->data, p->size, p->sent);
  t->data = *bulk;
  t->stamp = p->sent;
  return (chi_task *)t;
}

static bool remote_send(struct remote_pipe *p)
{
  struct bench_remote *c = p->cluster;
  uint32_t slot = (uint32_t)(p->sent % p->window);
  chi_task *t = p->size ? remote_bulk(p, &p->bulk[slot]) : remote_line(p);
  if (!t)
    return false;
  t->pool = BENCH_POOL;
  t->query = (chi_query){.mode = CHI_QUERY_PHYSICAL,
                         .a = 1 + (uint32_t)(p->sent % (c->nodes - 1))};
  p->task[slot] = t;
  p->sent++;
  return chi_submit(c->link.queue, t) == CHI_OK;
}

static bool remote_line_is_right(const struct bench_line *t, uint64_t n)
{
  return t->a == n + 1 && t->b == n + 2 && t->c == n + 3 && t->d == n + 4 && t->e == n + 5 &&
         t->f == n + 6 && t->g == n + 7 && t->h == n + 8;
}

static bool remote_take(struct remote_pipe *p)
{
  chi_queue *queue = p->cluster->link.queue;
  uint32_t slot = (uint32_t)(p->got % p->window);
  chi_task *t = p->task[slot];
  bool right = chi_wait(queue, t, REMOTE_WAIT_NS) == CHI_OK;
  if (right && p->size)
    right = ((struct bench_bulk *)t)->right == 1;
  else if (right)
    right = remote_line_is_right((struct bench_line *)t, p->got);
  p->got++;
  if (!chi_task_done(queue, t)) {
    chi_abandon(queue, t);
    return false;
  }
  right = chi_task_free(queue, t) == CHI_OK && right;
  return p->size ? chi_bulk_free(queue, &p->bulk[slot]) == CHI_OK && right : right;
}

double bench_remote_run(struct bench_remote *c, uint32_t window, uint64_t size, uint64_t ns)
{
  struct remote_pipe p = {.cluster = c, .window = window, .size = size};
  uint64_t begin = cli_now(), now = begin, end_got = 0;
  bool right = window <= REMOTE_TASKS_MAX;
  for (uint32_t i = 0; i < window && right; i++)
    right = remote_send(&p);
  while (right && now - begin < ns) {
    right = remote_take(&p) && remote_send(&p);
    if (size || window == 1 || p.got % 16 == 0)
      now = cli_now();
  }
  end_got = p.got;
  while (right && p.got < p.sent)
    right = remote_take(&p);
  return right ? (double)end_got * 1e9 / (double)(now - begin) : 0;
}

static bool remote_wrong(struct bench_result *r)
{
  return bench_note(r, "a task failed or gave a wrong result");
}

/* Of all daemons. */
static uint64_t remote_cpu_time(const struct bench_remote *c)
{
  uint64_t sum = 0;
  for (uint32_t i = 0; i < c->nodes; i++)
    sum += bench_cpu_time(c->daemon[i].pid);
  return sum;
}

/* ---- figures ---------------------------------------------------------------------------- */

/* Raw and ours take turns. ours: tasks per second; raw: messages with `batch` of them. *cpu: the
 * nanoseconds that the client and the daemons spent on a task. */
static bool remote_rounds(const struct bench *b, struct bench_remote *c, struct bench_exchange *x,
                          uint32_t window, double batch, double *cpu, struct bench_result *r)
{
  bool good = true;
  double tasks = 0, spent = 0;
  for (uint32_t i = 0; i < b->rounds && good; i++) {
    if (i % 2 == 0)
      r->raw[i] = batch * bench_raw_exchange(x, b->round_ns);
    bench_pin(x->cpu);
    uint64_t before = bench_cpu_time(getpid()) + remote_cpu_time(c);
    r->ours[i] = bench_remote_run(c, window, x->bulk, b->round_ns);
    spent += (double)(bench_cpu_time(getpid()) + remote_cpu_time(c) - before);
    tasks += r->ours[i] * (double)b->round_ns / 1e9;
    bench_pin(BENCH_NOWHERE);
    if (i % 2 == 1)
      r->raw[i] = batch * bench_raw_exchange(x, b->round_ns);
    good = (r->ours[i] > 0 || remote_wrong(r)) &&
           (r->raw[i] > 0 || bench_note(r, "ZeroMQ alone failed"));
    r->rounds++;
  }
  *cpu = tasks > 0 ? spent / tasks : 0;
  return good;
}

/* Runs for a moment and sets the bytes of a message and of an answer; how many tasks one has. */
static double remote_learn(struct bench_remote *c, uint32_t window, struct bench_exchange *x)
{
  struct bench_traffic before, after;
  bench_pin(x->cpu);
  bool good = bench_remote_run(c, window, 0, REMOTE_WARM_NS) > 0 &&
              bench_remote_traffic(c, &before) &&
              bench_remote_run(c, window, 0, REMOTE_WARM_NS) > 0 &&
              bench_remote_traffic(c, &after) && after.sent > before.sent &&
              after.received > before.received;
  bench_pin(BENCH_NOWHERE);
  if (!good)
    return 0;
  double sent = after.sent - before.sent, received = after.received - before.received;
  x->out = (uint64_t)((after.bytes_sent - before.bytes_sent) / sent);
  x->in = (uint64_t)((after.bytes_received - before.bytes_received) / received);
  return (after.tasks - before.tasks) / sent;
}

/* parameter: nodes; two are pinned apart, the client beside the first. False: *good tells whether
 * it was skipped, or failed. */
static bool remote_begin(const struct bench *b, const struct bench_figure *f,
                         struct bench_remote *c, struct bench_exchange *x, bool *good,
                         struct bench_result *r)
{
  static const int cpus[] = {0, 1};
  bool pinned = f->parameter == 2;
  *x = (struct bench_exchange){.peers = f->parameter - 1,
                               .window = 1,
                               .cpu = pinned ? cpus[0] : BENCH_NOWHERE,
                               .other = pinned ? cpus[1] : BENCH_NOWHERE};
  *good = pinned && sysconf(_SC_NPROCESSORS_ONLN) < 2 && bench_skip(r, "needs two CPUs");
  return !*good && bench_remote_open(b, f->parameter, pinned ? cpus : NULL, c, r);
}

bool bench_run_remote_latency(const struct bench *b, const struct bench_figure *f,
                              struct bench_result *r)
{
  struct bench_exchange x;
  struct bench_remote c;
  double cpu;
  bool good;
  if (!remote_begin(b, f, &c, &x, &good, r))
    return good;
  good = (remote_learn(&c, 1, &x) > 0 || remote_wrong(r)) &&
         remote_rounds(b, &c, &x, 1, 1, &cpu, r);
  for (uint32_t i = 0; i < r->rounds && good; i++) {
    r->ours[i] = 1e9 / r->ours[i];
    r->raw[i] = 1e9 / r->raw[i];
  }
  bench_remote_close(&c);
  if (good)
    bench_note(r, "%llu bytes there, %llu back, %.1f us of CPU", (unsigned long long)x.out,
               (unsigned long long)x.in, cpu / 1000);
  return good;
}

bool bench_run_remote_rate(const struct bench *b, const struct bench_figure *f,
                           struct bench_result *r)
{
  uint32_t window = REMOTE_WINDOW * (f->parameter - 1);
  struct bench_exchange x;
  struct bench_remote c;
  double cpu;
  bool good;
  if (!remote_begin(b, f, &c, &x, &good, r))
    return good;
  double batch = remote_learn(&c, window, &x);
  good = batch > 0 || remote_wrong(r);
  x.window = good && window / batch > 1 ? (uint32_t)(window / batch + 0.5) : 1;
  good = good && remote_rounds(b, &c, &x, window, batch, &cpu, r);
  bench_remote_close(&c);
  if (good)
    bench_note(r, "%.1f tasks a message, %llu bytes there, %llu back, %.1f us of CPU a task", batch,
               (unsigned long long)x.out, (unsigned long long)x.in, cpu / 1000);
  return good;
}

/* parameter: MiB << 8 | nodes. */
bool bench_run_remote_bulk(const struct bench *b, const struct bench_figure *f,
                           struct bench_result *r)
{
  uint64_t size = (uint64_t)(f->parameter >> 8) << 20;
  uint32_t nodes = f->parameter & 255, window = (size > 1 << 20 ? 1 : 4) * (nodes - 1);
  struct bench_exchange x = {.peers = nodes - 1,
                             .window = window,
                             .out = 256,
                             .in = 128,
                             .bulk = size,
                             .cpu = BENCH_NOWHERE,
                             .other = BENCH_NOWHERE};
  struct bench_remote c;
  if (!bench_remote_open(b, nodes, NULL, &c, r))
    return false;
  double cpu;
  bool good = remote_rounds(b, &c, &x, window, 1, &cpu, r);
  for (uint32_t i = 0; i < r->rounds && good; i++) {
    r->ours[i] *= (double)size;
    r->raw[i] *= (double)size;
  }
  bench_remote_close(&c);
  if (good)
    bench_note(r, "%u in flight", window);
  return good;
}

/* ---- what it costs ---------------------------------------------------------------------- */

static uint64_t remote_waits(const struct bench_remote *c, const char *thread)
{
  uint64_t sum = 0;
  for (uint32_t i = 0; i < c->nodes; i++)
    sum += bench_waits(c->daemon[i].pid, thread);
  return sum;
}

uint64_t bench_remote_calm(struct bench_remote *c, uint64_t pause_ns, uint64_t ns, double *half)
{
  struct timespec pause = {0, (long)pause_ns};
  struct remote_pipe p = {.cluster = c, .window = 1};
  struct bench_samples samples = {.count = 0};
  uint64_t end = cli_now() + ns;
  bool good = true;
  while (good && cli_now() < end) {
    nanosleep(&pause, NULL);
    uint64_t begin = cli_now();
    good = remote_send(&p) && remote_take(&p);
    bench_sample(&samples, cli_now() - begin);
  }
  *half = bench_half(&samples);
  return good ? p.got : 0;
}

/* How often threads waited, and what clients and nodes sent. */
struct remote_count {
  double network, all, messages;
};

/* Of a time with a task every now and then, or with none. */
static bool remote_count(struct bench_remote *c, bool tasks, uint64_t ns, struct remote_count *out)
{
  struct timespec idle = {(time_t)(ns / 1000000000), (long)(ns % 1000000000)};
  struct bench_traffic before, after;
  double half, sent = 0;
  bool good = bench_remote_traffic(c, &before);
  uint64_t network = remote_waits(c, "chi-net"), all = remote_waits(c, NULL);
  if (tasks)
    sent = (double)bench_remote_calm(c, REMOTE_PAUSE_NS, ns, &half);
  else
    nanosleep(&idle, NULL);
  out->network = (double)(remote_waits(c, "chi-net") - network);
  out->all = (double)(remote_waits(c, NULL) - all);
  good = good && (!tasks || sent > 0) && bench_remote_traffic(c, &after);
  if (good)
    out->messages = sent + after.sent - before.sent + after.received - before.received;
  return good;
}

/* Beyond those of a cluster that idles, whose nodes probe each other. */
bool bench_run_remote_wakeups(const struct bench *b, const struct bench_figure *f,
                              struct bench_result *r)
{
  struct bench_remote c;
  struct remote_count busy = {0, 0, 0}, idle = {0, 0, 0};
  double messages = 1;
  if (!bench_remote_open(b, f->parameter, NULL, &c, r))
    return false;
  bool good = bench_remote_run(&c, 1, 0, REMOTE_WARM_NS) > 0;
  for (uint32_t i = 0; i < b->rounds && good; i++) {
    good = remote_count(&c, false, b->round_ns, &idle) &&
           remote_count(&c, true, b->round_ns, &busy) && busy.messages > idle.messages;
    messages = busy.messages - idle.messages;
    r->ours[i] = (busy.network - idle.network) / messages;
    r->rounds++;
  }
  bench_remote_close(&c);
  if (good)
    bench_note(r, "of all threads, ZeroMQ's among them: %.1f", (busy.all - idle.all) / messages);
  return good || remote_wrong(r);
}

bool bench_run_remote_idle(const struct bench *b, const struct bench_figure *f,
                           struct bench_result *r)
{
  struct timespec settle = {REMOTE_SETTLE_NS / 1000000000, 0};
  struct timespec idle = {(time_t)(b->idle_ns / 1000000000), (long)(b->idle_ns % 1000000000)};
  struct bench_remote c;
  uint64_t cpu, begin;
  if (!bench_remote_open(b, f->parameter, NULL, &c, r))
    return false;
  bool good = bench_remote_run(&c, REMOTE_WINDOW, 0, REMOTE_WARM_NS) > 0 || remote_wrong(r);
  nanosleep(&settle, NULL);
  cpu = remote_cpu_time(&c);
  good = good && (cpu > 0 || bench_note(r, "the kernel does not tell the CPU time of a process"));
  begin = cli_now();
  nanosleep(&idle, NULL);
  uint64_t took = cli_now() - begin, after = remote_cpu_time(&c);
  r->ours[0] = 100.0 * (double)(after - cpu) / (double)took;
  r->rounds = 1;
  if (good)
    bench_note(r, "user and system time of %u daemons over %.0f s", c.nodes, (double)took / 1e9);
  bench_remote_close(&c);
  return good;
}
