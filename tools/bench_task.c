/* bench_task.c - our side of round trips, rates and allocation. */
#include "bench.h"

#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define TASK_BATCH 256
#define TASK_WINDOW_MAX 1024
#define TASK_SAMPLES 20000
#define TASK_WAIT_NS (5ull * 1000000000) /* longer for one task is a failure */

#define TASK_ONE_WORKER "workers:\n  sched_threads: 1\n  slow_threads: 1\n"

static struct bench_nop *task_submit(struct cli_link *link, uint64_t in)
{
  struct bench_nop *t = CHI_NEW(link->queue, bench_nop);
  if (!t)
    return NULL;
  t->task.pool = BENCH_POOL;
  t->in = in;
  if (chi_submit(link->queue, t) == CHI_OK)
    return t;
  chi_task_free(link->queue, t);
  return NULL;
}

static bool task_finish(struct cli_link *link, struct bench_nop *t, uint64_t in)
{
  bool right = t && chi_wait(link->queue, t, TASK_WAIT_NS) == CHI_OK && t->out == in + 1;
  return t && chi_task_free(link->queue, t) == CHI_OK && right;
}

uint64_t bench_nops(struct cli_link *link, uint32_t window, uint64_t ns, uint64_t *took)
{
  struct bench_nop *tasks[TASK_WINDOW_MAX];
  uint64_t begin = cli_now(), now = begin, sent = 0, got = 0;
  bool right = window <= TASK_WINDOW_MAX;
  while (right && now - begin < ns) {
    for (uint32_t i = 0; i < TASK_BATCH && right; i++) {
      for (; sent < got + window && right; sent++)
        right = (tasks[sent % window] = task_submit(link, sent)) != NULL;
      right = right && task_finish(link, tasks[got % window], got);
      got++;
    }
    now = cli_now();
  }
  *took = now - begin;
  for (uint64_t rest = got; right && rest < sent; rest++)
    right = task_finish(link, tasks[rest % window], rest);
  return right ? got : 0;
}

void bench_sample(struct bench_samples *s, uint64_t ns)
{
  if (s->count < BENCH_SAMPLES)
    s->ns[s->count++] = ns;
}

static int task_compare_ns(const void *a, const void *b)
{
  uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;
  return (x > y) - (x < y);
}

double bench_half(struct bench_samples *s)
{
  qsort(s->ns, s->count, sizeof(*s->ns), task_compare_ns);
  return s->count ? (double)s->ns[s->count / 2] : (double)UINT64_MAX;
}

double bench_nops_calm(struct cli_link *link, uint64_t pause_ns, uint64_t ns)
{
  struct timespec pause = {0, (long)pause_ns};
  struct bench_samples samples = {.count = 0};
  uint64_t end = cli_now() + ns;
  bool right = true;
  for (uint64_t i = 0; right && cli_now() < end; i++) {
    nanosleep(&pause, NULL);
    uint64_t begin = cli_now();
    right = task_finish(link, task_submit(link, i), i);
    bench_sample(&samples, cli_now() - begin);
  }
  return right ? bench_half(&samples) : 0;
}

/* ---- round trips ------------------------------------------------------------------------ */

static int task_compare(const void *a, const void *b)
{
  uint32_t x = *(const uint32_t *)a, y = *(const uint32_t *)b;
  return (x > y) - (x < y);
}

/* Percentiles of single round trips, for the note. */
static void task_percentiles(struct cli_link *link, struct bench_result *r)
{
  uint32_t *samples = malloc(TASK_SAMPLES * sizeof(*samples));
  char text[3][32];
  for (uint32_t i = 0; samples && i < TASK_SAMPLES; i++) {
    uint64_t begin = cli_now(), took;
    if (!task_finish(link, task_submit(link, i), i))
      break;
    took = cli_now() - begin;
    samples[i] = took > UINT32_MAX ? UINT32_MAX : (uint32_t)took;
    if (i + 1 < TASK_SAMPLES)
      continue;
    qsort(samples, TASK_SAMPLES, sizeof(*samples), task_compare);
    bench_note(r, "p50 %s, p99 %s, p99.9 %s", cli_time(samples[TASK_SAMPLES / 2], text[0], 32),
               cli_time(samples[TASK_SAMPLES / 100 * 99], text[1], 32),
               cli_time(samples[TASK_SAMPLES / 1000 * 999], text[2], 32));
  }
  free(samples);
}

static bool task_wrong(struct bench_result *r)
{
  return bench_note(r, "a task failed or gave a wrong result");
}

/* A daemon on cpu 1 and a client on cpu 0. */
static bool task_open_pinned(const struct bench *b, struct bench_daemon *d, struct cli_link *link,
                             struct bench_result *r)
{
  if (sysconf(_SC_NPROCESSORS_ONLN) < 2)
    return bench_note(r, "needs two CPUs");
  if (!bench_daemon_start(b, TASK_ONE_WORKER BENCH_POOL_CONFIG, 1, d, r->note, sizeof(r->note)))
    return false;
  if (bench_link(d, link, r->note, sizeof(r->note)))
    return true;
  bench_daemon_stop(d);
  return false;
}

bool bench_run_latency_pinned(const struct bench *b, const struct bench_figure *f,
                              struct bench_result *r)
{
  struct bench_daemon d;
  struct cli_link link;
  bool good = true;
  (void)f;
  if (!task_open_pinned(b, &d, &link, r))
    return false;
  for (uint32_t i = 0; i < b->rounds && good; i++) {
    uint64_t took, n;
    if (i % 2 == 0)
      r->raw[i] = bench_raw_pingpong(0, 1, b->round_ns);
    bench_pin(0);
    n = bench_nops(&link, 1, b->round_ns, &took);
    if (i + 1 == b->rounds)
      task_percentiles(&link, r);
    bench_pin(BENCH_NOWHERE);
    if (i % 2 == 1)
      r->raw[i] = bench_raw_pingpong(0, 1, b->round_ns);
    good = n > 0 || task_wrong(r);
    r->ours[i] = n ? (double)took / (double)n : 0;
    r->rounds++;
  }
  cli_disconnect(&link);
  bench_daemon_stop(&d);
  return good;
}

/* ---- several clients -------------------------------------------------------------------- */

struct task_client {
  uint64_t ready, count, took, failed;
  char rest[64];
};

struct task_clients {
  uint64_t go;
  char rest[64];
  struct task_client each[BENCH_CLIENTS_MAX];
};

static void task_client_run(const struct bench_daemon *d, struct task_clients *all, uint32_t index,
                            uint64_t ns)
{
  struct task_client *me = &all->each[index];
  struct cli_link link;
  char note[160];
  if (!bench_link(d, &link, note, sizeof(note))) {
    me->failed = 1;
    __atomic_store_n(&me->ready, 1, __ATOMIC_RELEASE);
    return;
  }
  __atomic_store_n(&me->ready, 1, __ATOMIC_RELEASE);
  while (!__atomic_load_n(&all->go, __ATOMIC_ACQUIRE))
    sched_yield();
  me->count = bench_nops(&link, 1, ns, &me->took);
  me->failed = me->count == 0;
  cli_disconnect(&link);
}

/* The round trip of `clients` processes at the same time, reckoned as for mailboxes: their time
 * over the round trips of all; 0: one failed. *slowest grows to the mean of the slowest client. */
static double task_clients_latency(const struct bench_daemon *d, uint32_t clients, uint64_t ns,
                                   double *slowest)
{
  struct task_clients *all =
      mmap(NULL, sizeof(*all), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
  pid_t pids[BENCH_CLIENTS_MAX];
  double rate = 0;
  bool good = all != MAP_FAILED && clients <= BENCH_CLIENTS_MAX;
  for (uint32_t i = 0; i < clients && good; i++) {
    pids[i] = fork();
    if (pids[i] == 0) {
      task_client_run(d, all, i, ns);
      _exit(0);
    }
    while (pids[i] > 0 && !__atomic_load_n(&all->each[i].ready, __ATOMIC_ACQUIRE))
      sched_yield();
  }
  if (!good)
    return 0;
  __atomic_store_n(&all->go, 1, __ATOMIC_RELEASE);
  for (uint32_t i = 0; i < clients; i++) {
    if (pids[i] > 0)
      waitpid(pids[i], NULL, 0);
    good = good && pids[i] > 0 && !all->each[i].failed && all->each[i].count;
    if (!good)
      continue;
    double mean = (double)all->each[i].took / (double)all->each[i].count;
    *slowest = mean > *slowest ? mean : *slowest;
    rate += 1 / mean;
  }
  munmap(all, sizeof(*all));
  return good ? clients / rate : 0;
}

bool bench_run_latency(const struct bench *b, const struct bench_figure *f, struct bench_result *r)
{
  struct bench_daemon d;
  double slowest = 0;
  bool good = true;
  if (!bench_daemon_start(b, BENCH_POOL_CONFIG, BENCH_NOWHERE, &d, r->note, sizeof(r->note)))
    return false;
  for (uint32_t i = 0; i < b->rounds && good; i++) {
    if (i % 2 == 0)
      r->raw[i] = bench_raw_mailbox(f->parameter, b->round_ns);
    r->ours[i] = task_clients_latency(&d, f->parameter, b->round_ns, &slowest);
    if (i % 2 == 1)
      r->raw[i] = bench_raw_mailbox(f->parameter, b->round_ns);
    good = r->ours[i] > 0 || task_wrong(r);
    r->rounds++;
  }
  bench_daemon_stop(&d);
  if (good)
    snprintf(r->note, sizeof(r->note), "slowest client of a round %.3g us", slowest / 1000);
  return good;
}

/* ---- rates and allocation --------------------------------------------------------------- */

bool bench_run_rate(const struct bench *b, const struct bench_figure *f, struct bench_result *r)
{
  struct bench_daemon d;
  struct cli_link link;
  bool good = true;
  if (!task_open_pinned(b, &d, &link, r))
    return false;
  for (uint32_t i = 0; i < b->rounds && good; i++) {
    uint64_t took, n;
    if (i % 2 == 0)
      r->raw[i] = bench_raw_ring(0, 1, f->parameter, b->round_ns);
    bench_pin(0);
    n = bench_nops(&link, f->parameter, b->round_ns, &took);
    bench_pin(BENCH_NOWHERE);
    if (i % 2 == 1)
      r->raw[i] = bench_raw_ring(0, 1, f->parameter, b->round_ns);
    good = n > 0 || task_wrong(r);
    r->ours[i] = n ? (double)n * 1e9 / (double)took : 0;
    r->rounds++;
  }
  cli_disconnect(&link);
  bench_daemon_stop(&d);
  return good;
}

/* Nanoseconds of allocating and freeing a task (size 0) or a buffer; 0 on failure. */
static double task_allocate(struct cli_link *link, uint64_t size, uint64_t ns)
{
  uint64_t begin = cli_now(), now = begin, n = 0;
  bool good = true;
  for (; good && now - begin < ns; n += TASK_BATCH) {
    for (int i = 0; i < TASK_BATCH && good; i++) {
      struct bench_nop *t = size ? NULL : CHI_NEW(link->queue, bench_nop);
      chi_bulk bulk = {0};
      if (size && chi_bulk_alloc(link->queue, size, &bulk) == CHI_OK) {
        *(volatile char *)bulk.data = (char)i;
        good = chi_bulk_free(link->queue, &bulk) == CHI_OK;
      } else {
        good = t && chi_task_free(link->queue, t) == CHI_OK;
      }
    }
    now = cli_now();
  }
  return good ? (double)(now - begin) / (double)n : 0;
}

bool bench_run_allocation(const struct bench *b, const struct bench_figure *f,
                          struct bench_result *r)
{
  uint64_t raw_size = f->parameter ? f->parameter : sizeof(struct bench_nop);
  struct bench_daemon d;
  struct cli_link link;
  bool good = true;
  if (!bench_daemon_start(b, BENCH_POOL_CONFIG, BENCH_NOWHERE, &d, r->note, sizeof(r->note)))
    return false;
  if (!bench_link(&d, &link, r->note, sizeof(r->note))) {
    bench_daemon_stop(&d);
    return false;
  }
  for (uint32_t i = 0; i < b->rounds && good; i++) {
    if (i % 2 == 0)
      r->raw[i] = bench_raw_malloc(raw_size, b->round_ns / 4);
    r->ours[i] = task_allocate(&link, f->parameter, b->round_ns / 4);
    if (i % 2 == 1)
      r->raw[i] = bench_raw_malloc(raw_size, b->round_ns / 4);
    good = r->ours[i] > 0 || bench_note(r, "an allocation failed");
    r->rounds++;
  }
  cli_disconnect(&link);
  bench_daemon_stop(&d);
  return good;
}
