/* bench_sim.c - how fast the simulation goes: events, idle time, probes, whole runs, and memory. */
#include "bench.h"

#include <malloc.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/wait.h>
#include <unistd.h>

#ifndef CHI_OMIT_SIM

#include "heap.h"

#define SIM_NODES 100u
#define SIM_CLIENTS 2u /* of a node */
#define SIM_WINDOW 16u
#define SIM_SPREAD 7u    /* between the first nodes that clients turn to */
#define SIM_PENDING 700u /* events waiting at a time: about seven a node */
#define SIM_BATCH 1000u
#define SIM_SECOND UINT64_C(1000000000)
#define SIM_SEED 1u
#define SIM_HOUR (3600 * SIM_SECOND)
#define SIM_RUN_EVENTS 20000u /* of a run that counts as one seed */
#define SIM_RUN_FAULTS "until=20ms,outage=5ms,kinds=cut+drop+slow+lose+pause"
#define SIM_DAY_S 86400.0
#define SIM_QUIET_S 60u /* until the news of a start has been told */

/* What the clients of a simulation share. */
struct sim_load {
  bool stop, faults; /* clients are to end; tasks may fail */
  uint64_t clients, tasks, failed;
};

/* A cluster with the module `bench`, and with its pool if there is to be one. */
static chi_cluster *bench_sim_open(const char *spec, bool pool, struct bench_result *r)
{
  static const chi_module *modules[1];
  chi_pool_id id = BENCH_POOL;
  chi_cluster *cluster = NULL;
  chi_error err = {0};
  modules[0] = bench_module();
  int rc = chi_cluster_open(spec, modules, 1, &cluster, &err);
  if (rc == CHI_OK && pool)
    rc = chi_cluster_pool_create(cluster, 0, "bench", "bench", NULL, 0, &id, &err);
  if (rc == CHI_OK)
    return cluster;
  bench_note(r, "%s", err.text);
  chi_cluster_close(cluster);
  return NULL;
}

/* Whether nothing went wrong in it; closes it. */
static bool bench_sim_close(chi_cluster *cluster, struct bench_result *r)
{
  const chi_failure *failure = chi_cluster_failure(cluster);
  if (failure)
    bench_note(r, "%s: %.100s", failure->check, failure->text);
  bool good = !failure;
  chi_cluster_close(cluster);
  return good;
}

/* Virtual time per real time, and events per second, of a cluster that runs for so long. */
struct sim_pace {
  double times, events;
};

static struct sim_pace bench_sim_pace(chi_cluster *cluster, uint64_t slice, uint64_t ns)
{
  uint64_t events = chi_cluster_events(cluster), from = chi_cluster_now(cluster);
  uint64_t begin = cli_now(), now = begin;
  for (; now - begin < ns; now = cli_now())
    if (chi_cluster_run_for(cluster, slice) != CHI_OK)
      return (struct sim_pace){0, 0};
  double took = (double)(now - begin);
  return (struct sim_pace){(double)(chi_cluster_now(cluster) - from) / took,
                           (double)(chi_cluster_events(cluster) - events) * 1e9 / took};
}

/* ---- events ----------------------------------------------------------------------------- */

static struct bench_nop *bench_sim_submit(chi_queue *queue, uint64_t in)
{
  struct bench_nop *t = CHI_NEW(queue, bench_nop);
  if (!t)
    return NULL;
  t->task.pool = BENCH_POOL;
  t->task.query = (chi_query){.mode = CHI_QUERY_HASH, .a = (uint32_t)in};
  t->in = in;
  if (chi_submit(queue, t) == CHI_OK)
    return t;
  chi_task_free(queue, t);
  return NULL;
}

/* Only a faulty network may let a task fail. */
static bool bench_sim_finish(chi_queue *queue, struct bench_nop *t, bool faults)
{
  int rc = t ? chi_wait(queue, t, UINT64_MAX) : CHI_ENOMEM;
  bool right = rc == CHI_OK ? t->out == t->in + 1 : faults;
  return t && chi_task_free(queue, t) == CHI_OK && right;
}

/* Keeps its window full, of tasks for one node after the other, until it is told to stop. */
static void bench_sim_work(chi_queue *queue, struct sim_load *load)
{
  struct bench_nop *tasks[SIM_WINDOW];
  uint64_t first = SIM_SPREAD * load->clients++, sent = 0, got = 0;
  bool right = true;
  for (; right && !load->stop; got++) {
    for (; sent < got + SIM_WINDOW; sent++)
      tasks[sent % SIM_WINDOW] = bench_sim_submit(queue, first + sent);
    right = bench_sim_finish(queue, tasks[got % SIM_WINDOW], load->faults);
  }
  load->tasks += got;
  for (; got < sent; got++)
    right = bench_sim_finish(queue, tasks[got % SIM_WINDOW], load->faults) && right;
  load->failed += !right;
}

static void bench_sim_client(chi_cluster *cluster, chi_client *client, void *arg)
{
  struct sim_load *load = (struct sim_load *)arg;
  chi_queue *queue = NULL;
  (void)cluster;
  if (chi_queue_open(client, &queue, NULL) == CHI_OK)
    bench_sim_work(queue, load);
  else
    load->failed++;
  chi_queue_close(queue);
}

static void *bench_sim_get(void *arg, size_t size)
{
  (void)arg;
  return malloc(size);
}

static void bench_sim_put(void *arg, void *p, size_t size)
{
  (void)arg, (void)size;
  free(p);
}

/* Events per second that only go through the heap, with as many waiting at any time. */
static double bench_sim_raw(uint64_t ns)
{
  const struct alloc alloc = {bench_sim_get, bench_sim_put, NULL};
  struct heap_entry events[SIM_PENDING];
  struct heap heap;
  uint64_t begin, now, n = 0, draw = SIM_SEED;
  bool room;
  heap_init(&heap, &alloc);
  room = heap_reserve(&heap, SIM_PENDING) == CHI_OK;
  for (uint32_t i = 0; room && i < SIM_PENDING; i++) {
    events[i] = (struct heap_entry){.time = i, .seq = i};
    room = heap_push(&heap, &events[i]) == CHI_OK;
  }
  begin = now = cli_now();
  for (; room && now - begin < ns; now = cli_now()) {
    for (uint32_t i = 0; i < SIM_BATCH && room; i++, n++) {
      struct heap_entry *e = heap_pop(&heap);
      draw = draw * 6364136223846793005u + 1442695040888963407u;
      e->time += 1 + (draw >> 54);
      e->seq = n;
      room = heap_push(&heap, e) == CHI_OK;
    }
  }
  heap_fini(&heap);
  return room ? (double)n * 1e9 / (double)(now - begin) : 0;
}

static bool bench_sim_rounds(const struct bench *b, chi_cluster *cluster, struct bench_result *r)
{
  struct sim_load load = {0};
  uint64_t events;
  for (uint32_t i = 0; i < SIM_NODES * SIM_CLIENTS; i++)
    chi_cluster_client(cluster, i % SIM_NODES, bench_sim_client, &load);
  chi_cluster_run_for(cluster, SIM_SECOND / 100); /* all have attached */
  events = chi_cluster_events(cluster);
  for (uint32_t i = 0; i < b->rounds; i++) {
    if (i % 2 == 0)
      r->raw[i] = bench_sim_raw(b->round_ns);
    r->ours[i] = bench_sim_pace(cluster, SIM_SECOND / 10000, b->round_ns).events;
    if (i % 2 == 1)
      r->raw[i] = bench_sim_raw(b->round_ns);
    r->rounds++;
  }
  load.stop = true;
  events = chi_cluster_events(cluster) - events;
  if (chi_cluster_run_idle(cluster, 10 * SIM_SECOND) != CHI_OK)
    return bench_note(r, "the clients do not end");
  if (load.failed || !load.tasks)
    return bench_note(r, "a task failed");
  bench_note(r,
             "one cluster of %u nodes, %u clients each, window %u, tasks for all nodes; %.1f "
             "events a task",
             SIM_NODES, SIM_CLIENTS, SIM_WINDOW, (double)events / (double)load.tasks);
  return true;
}

bool bench_run_sim_events(const struct bench *b, const struct bench_figure *f,
                          struct bench_result *r)
{
  char spec[64];
  (void)f;
  snprintf(spec, sizeof(spec), "sim:nodes=%u", SIM_NODES);
  chi_cluster *cluster = bench_sim_open(spec, true, r);
  bool good = cluster && bench_sim_rounds(b, cluster, r);
  return cluster && bench_sim_close(cluster, r) && good;
}

/* ---- time passes ------------------------------------------------------------------------ */

/* Virtual time per real time, of nodes that have nothing to do but look for each other. */
static bool bench_sim_still(const struct bench *b, const char *spec, uint64_t slice,
                            struct bench_result *r)
{
  chi_cluster *cluster = bench_sim_open(spec, false, r);
  if (!cluster)
    return false;
  chi_cluster_run_for(cluster, SIM_QUIET_S * SIM_SECOND);
  uint64_t events = chi_cluster_events(cluster), from = chi_cluster_now(cluster);
  for (; r->rounds < b->rounds; r->rounds++)
    r->ours[r->rounds] = bench_sim_pace(cluster, slice, b->round_ns).times;
  double seconds = (double)(chi_cluster_now(cluster) - from) / 1e9;
  bench_note(r, "%s, %.0f events a second of it", spec,
             (double)(chi_cluster_events(cluster) - events) / seconds);
  return bench_sim_close(cluster, r);
}

bool bench_run_sim_idle(const struct bench *b, const struct bench_figure *f, struct bench_result *r)
{
  (void)f;
  return bench_sim_still(b, "sim:nodes=3", SIM_HOUR, r);
}

bool bench_run_sim_probes(const struct bench *b, const struct bench_figure *f,
                          struct bench_result *r)
{
  (void)f;
  return bench_sim_still(b, "sim:nodes=1000,heartbeat_interval=100ms", SIM_SECOND, r);
}

/* ---- whole runs ------------------------------------------------------------------------- */

static int bench_sim_has_run(chi_cluster *cluster, void *arg)
{
  (void)arg;
  return chi_cluster_events(cluster) >= SIM_RUN_EVENTS;
}

/* One run from its opening to its closing, with calls, faults and checks; its events, or 0. */
static uint64_t bench_sim_run(uint64_t seed, struct bench_result *r)
{
  struct sim_load load = {.faults = true};
  uint64_t events;
  chi_error err;
  char spec[80];
  snprintf(spec, sizeof(spec), "sim:nodes=3,task_timeout=1s,seed=%llu", (unsigned long long)seed);
  chi_cluster *cluster = bench_sim_open(spec, true, r);
  if (!cluster)
    return 0;
  if (chi_cluster_faults(cluster, SIM_RUN_FAULTS, &err) != CHI_OK)
    chi_cluster_fail(cluster, "faults", "%s", err.text);
  for (uint32_t node = 0; node < 3; node++)
    chi_cluster_client(cluster, node, bench_sim_client, &load);
  chi_cluster_run_until(cluster, bench_sim_has_run, NULL, 10 * SIM_SECOND);
  load.stop = true;
  chi_cluster_settle(cluster, 60 * SIM_SECOND);
  if (load.failed || !load.tasks)
    chi_cluster_fail(cluster, "tasks", "a task failed");
  events = chi_cluster_events(cluster);
  return bench_sim_close(cluster, r) ? events : 0;
}

/* Runs a day, each reckoned as SIM_RUN_EVENTS events. */
bool bench_run_sim_seeds(const struct bench *b, const struct bench_figure *f,
                         struct bench_result *r)
{
  uint64_t seed = 0, all = 0;
  (void)f;
  for (; r->rounds < b->rounds; r->rounds++) {
    uint64_t begin = cli_now(), now = begin, events = 0;
    for (; now - begin < b->round_ns; now = cli_now()) {
      uint64_t run = bench_sim_run(++seed, r);
      if (!run)
        return false;
      events += run;
    }
    all += events;
    r->ours[r->rounds] = (double)events * 1e9 / (double)(now - begin) * SIM_DAY_S / SIM_RUN_EVENTS;
  }
  bench_note(r,
             "3 nodes with calls, faults and checks, opened, settled and closed; "
             "reckoned as %u events, were %.0f",
             SIM_RUN_EVENTS, (double)all / (double)seed);
  return true;
}

/* ---- memory ----------------------------------------------------------------------------- */

static uint64_t bench_sim_resident(void)
{
  unsigned long long size = 0, pages = 0;
  FILE *file = fopen("/proc/self/statm", "r");
  if (file && fscanf(file, "%llu %llu", &size, &pages) != 2)
    pages = 0;
  if (file)
    fclose(file);
  return pages * (uint64_t)sysconf(_SC_PAGESIZE);
}

/* In a process of its own: bytes for each of so many nodes. */
static void bench_sim_weigh(uint32_t nodes, int out)
{
  struct bench_result r = {.note = ""};
  uint64_t before, each = 0;
  char spec[64];
  snprintf(spec, sizeof(spec), "sim:nodes=%u", nodes);
  malloc_trim(0); /* what earlier figures left is not to be used again */
  before = bench_sim_resident();
  chi_cluster *cluster = bench_sim_open(spec, false, &r);
  if (cluster && chi_cluster_run_for(cluster, SIM_QUIET_S * SIM_SECOND) == CHI_OK)
    each = (bench_sim_resident() - before) / nodes;
  ssize_t written = write(out, &each, sizeof(each));
  _exit(written != (ssize_t)sizeof(each));
}

bool bench_run_sim_memory(const struct bench *b, const struct bench_figure *f,
                          struct bench_result *r)
{
  int ends[2], status;
  uint64_t rounds = f->parameter > SIM_NODES ? 1 : b->rounds; /* it takes long, and is the same */
  for (; r->rounds < rounds; r->rounds++) {
    uint64_t each = 0;
    if (pipe(ends) != 0)
      return bench_note(r, "no pipe");
    pid_t pid = fork();
    if (pid == 0)
      bench_sim_weigh(f->parameter, ends[1]);
    close(ends[1]);
    ssize_t got = pid > 0 ? read(ends[0], &each, sizeof(each)) : 0;
    close(ends[0]);
    if (pid > 0)
      waitpid(pid, &status, 0);
    if (got != (ssize_t)sizeof(each) || each == 0)
      return bench_note(r, "%u nodes cannot be measured", f->parameter);
    r->ours[r->rounds] = (double)each;
  }
  bench_note(r, "resident for each of %u idle nodes of one cluster", f->parameter);
  return true;
}

#else

#define BENCH_SIM_NONE(name)                                                                       \
  bool name(const struct bench *b, const struct bench_figure *f, struct bench_result *r)           \
  {                                                                                                \
    (void)b, (void)f;                                                                              \
    return bench_skip(r, "this program was built without the simulation");                         \
  }
BENCH_SIM_NONE(bench_run_sim_events)
BENCH_SIM_NONE(bench_run_sim_idle)
BENCH_SIM_NONE(bench_run_sim_probes)
BENCH_SIM_NONE(bench_run_sim_seeds)
BENCH_SIM_NONE(bench_run_sim_memory)
#undef BENCH_SIM_NONE

#endif
