/* bench_sim.c - how fast the simulation goes: events, and time of an idle cluster. */
#include "bench.h"

#include <stdlib.h>

#ifndef CHI_OMIT_SIM

#include "heap.h"
#include "sim.h"

#define SIM_NODES 100u
#define SIM_CLIENTS 2u /* of a node */
#define SIM_WINDOW 16u
#define SIM_PENDING 700u /* events waiting at a time: about seven a node */
#define SIM_BATCH 1000u
#define SIM_SECOND UINT64_C(1000000000)
#define SIM_SEED 1u
#define SIM_IDLE_NODES 3u
#define SIM_IDLE_HOUR (3600 * SIM_SECOND)

/* What the clients of a simulation share. */
struct sim_load {
  bool stop;
  uint64_t tasks, failed;
};

/* Nodes side by side, each with the pool of the module `bench`. */
static struct sim *bench_sim_open(uint32_t nodes, const chi_config *config, struct bench_result *r)
{
  static const chi_module *modules[1];
  struct sim *sim = sim_open(SIM_SEED);
  chi_error err = {0};
  modules[0] = bench_module();
  for (uint32_t i = 0; i < nodes; i++) {
    if (sim_node_start(sim, i, config, modules, 1, &err) == CHI_OK)
      continue;
    bench_note(r, "node %u: %s", i, err.text);
    sim_close(sim);
    return NULL;
  }
  return sim;
}

static bool bench_sim_configure(chi_config *config)
{
  chi_compose_entry *entry;
  chi_config_init(config);
  config->queue_depth = 4 * SIM_WINDOW;
  return chi_config_add_pool(config, "bench", "bench", "local", BENCH_POOL.major, BENCH_POOL.minor,
                             &entry) == CHI_OK;
}

/* ---- events ----------------------------------------------------------------------------- */

static struct bench_nop *bench_sim_submit(chi_queue *queue, uint64_t in)
{
  struct bench_nop *t = CHI_NEW(queue, bench_nop);
  if (!t)
    return NULL;
  t->task.pool = BENCH_POOL;
  t->in = in;
  if (chi_submit(queue, t) == CHI_OK)
    return t;
  chi_task_free(queue, t);
  return NULL;
}

static bool bench_sim_finish(chi_queue *queue, struct bench_nop *t, uint64_t in)
{
  bool right = t && chi_wait(queue, t, UINT64_MAX) == CHI_OK && t->out == in + 1;
  return t && chi_task_free(queue, t) == CHI_OK && right;
}

/* Keeps its window full until it is told to stop. */
static void bench_sim_client(struct sim_client *c, void *arg)
{
  struct sim_load *load = (struct sim_load *)arg;
  struct bench_nop *tasks[SIM_WINDOW];
  chi_client *client;
  chi_queue *queue = NULL;
  chi_error err;
  uint64_t sent = 0, got = 0;
  if (sim_client_attach(c, &client, &err) != CHI_OK) {
    load->failed++;
    return;
  }
  bool right = chi_queue_open(client, &queue, &err) == CHI_OK;
  while (right && !load->stop) {
    for (; sent < got + SIM_WINDOW; sent++)
      tasks[sent % SIM_WINDOW] = bench_sim_submit(queue, sent);
    right = bench_sim_finish(queue, tasks[got % SIM_WINDOW], got);
    got++;
  }
  load->tasks += got;
  for (; got < sent; got++)
    right = bench_sim_finish(queue, tasks[got % SIM_WINDOW], got) && right;
  load->failed += !right;
  chi_queue_close(queue);
  chi_client_close(client);
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

/* Events per second of a simulation that runs for so long. */
static double bench_sim_events(struct sim *sim, uint64_t ns)
{
  uint64_t before = sim_events(sim), begin = cli_now(), now = begin;
  while (now - begin < ns) {
    sim_run_for(sim, SIM_SECOND / 10000);
    now = cli_now();
  }
  return (double)(sim_events(sim) - before) * 1e9 / (double)(now - begin);
}

static bool bench_sim_rounds(const struct bench *b, struct sim *sim, struct bench_result *r)
{
  struct sim_load load = {0};
  for (uint32_t i = 0; i < SIM_NODES * SIM_CLIENTS; i++)
    sim_client(sim, i % SIM_NODES, bench_sim_client, &load);
  sim_run_for(sim, SIM_SECOND / 100); /* all have attached */
  for (uint32_t i = 0; i < b->rounds; i++) {
    if (i % 2 == 0)
      r->raw[i] = bench_sim_raw(b->round_ns);
    r->ours[i] = bench_sim_events(sim, b->round_ns);
    if (i % 2 == 1)
      r->raw[i] = bench_sim_raw(b->round_ns);
    r->rounds++;
  }
  load.stop = true;
  sim_run_idle(sim, 10 * SIM_SECOND);
  if (load.failed || !load.tasks || sim_failure(sim))
    return bench_note(r, "%s", sim_failure(sim) ? sim_failure(sim) : "a task failed");
  bench_note(r, "%u nodes side by side, %u clients each, window %u, hash on; %.1f events a task",
             SIM_NODES, SIM_CLIENTS, SIM_WINDOW, (double)sim_events(sim) / (double)load.tasks);
  return true;
}

bool bench_run_sim_events(const struct bench *b, const struct bench_figure *f,
                          struct bench_result *r)
{
  chi_config config;
  bool good = bench_sim_configure(&config);
  struct sim *sim = good ? bench_sim_open(SIM_NODES, &config, r) : NULL;
  (void)f;
  good = sim && bench_sim_rounds(b, sim, r);
  if (sim)
    sim_close(sim);
  chi_config_free(&config);
  return good;
}

/* ---- idle ------------------------------------------------------------------------------- */

/* Virtual time per real time, of nodes that serve and have nothing to do. */
bool bench_run_sim_idle(const struct bench *b, const struct bench_figure *f, struct bench_result *r)
{
  chi_config config;
  bool good = bench_sim_configure(&config);
  struct sim *sim = good ? bench_sim_open(SIM_IDLE_NODES, &config, r) : NULL;
  (void)f;
  for (uint32_t i = 0; sim && i < b->rounds; i++) {
    uint64_t begin = cli_now(), now = begin, hours = 0;
    for (; now - begin < b->round_ns; now = cli_now(), hours++)
      sim_run_for(sim, SIM_IDLE_HOUR);
    r->ours[r->rounds++] = (double)(hours * SIM_IDLE_HOUR) / (double)(now - begin);
  }
  good = sim && !sim_failure(sim);
  if (good)
    bench_note(r, "%u nodes, %llu events an hour", SIM_IDLE_NODES,
               (unsigned long long)(sim_events(sim) * SIM_IDLE_HOUR / sim_now(sim)));
  else if (sim)
    bench_note(r, "%s", sim_failure(sim));
  if (sim)
    sim_close(sim);
  chi_config_free(&config);
  return good;
}

#else

bool bench_run_sim_events(const struct bench *b, const struct bench_figure *f,
                          struct bench_result *r)
{
  (void)b, (void)f;
  return bench_skip(r, "this program was built without the simulation");
}

bool bench_run_sim_idle(const struct bench *b, const struct bench_figure *f, struct bench_result *r)
{
  return bench_run_sim_events(b, f, r);
}

#endif
