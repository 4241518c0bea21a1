/* cmd_sim_guard.c - tells of crashes and endless loops in a simulation, before the process ends. */
#include "cmd_sim.h"

#ifndef CHI_OMIT_SIM

#include <signal.h>
#include <stdlib.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

#define GUARD_TASKS 4096u /* whose methods are remembered */
#define GUARD_POOLS 64u
#define GUARD_TICK_US 200000
#define GUARD_STACK (64u << 10)
#define GUARD_STATUS 3
#define GUARD_PATIENCE 12u /* times as long may pass in a process that sleeps */

/* Where a run is, for whoever has to tell it when nothing else works any more. */
struct guard_place {
  uint64_t events, time, seed;
  uint32_t node, worker;
  uint64_t task;    /* its body runs; 0: none */
  char method[128]; /* of it */
};

/* Which method a task is for. */
struct guard_task {
  uint64_t id, method; /* pool << 16 | method */
  uint32_t node;
};

static struct guard {
  int fd;
  uint64_t stuck_ns;
  struct guard_place here;
  struct guard_task task[GUARD_TASKS];
  struct {
    uint32_t major;
    const chi_module *module;
  } pool[GUARD_POOLS];
  uint32_t pools;
  uint64_t seen, cpu, wall; /* events at the last tick, and since when it is those */
  struct sigaction before[NSIG];
  void *stack;
} guard;

static const int guard_signals[] = {SIGSEGV, SIGBUS, SIGABRT, SIGFPE, SIGILL};

/* ---- what is going on ----------------------------------------------------------------------- */

void guard_pool(chi_pool_id id, const chi_module *module)
{
  if (guard.pools == GUARD_POOLS)
    return;
  guard.pool[guard.pools].major = id.major;
  guard.pool[guard.pools++].module = module;
}

void guard_clear(uint64_t seed)
{
  memset(&guard.here, 0, sizeof(guard.here));
  memset(guard.task, 0, sizeof(guard.task));
  guard.here.seed = seed;
  guard.pools = 0;
}

static struct guard_task *guard_task_of(uint32_t node, uint64_t id)
{
  return &guard.task[(id + node * UINT64_C(641)) % GUARD_TASKS];
}

/* Only what is there when a signal comes can be told: names are looked up then. */
static void guard_name(void)
{
  const struct guard_task *t = guard_task_of(guard.here.node, guard.here.task);
  const char *name = NULL;
  uint32_t method = (uint32_t)(t->method & 0xffff);
  guard.here.method[0] = '\0';
  if (!guard.here.task || t->id != guard.here.task || t->node != guard.here.node)
    return;
  for (uint32_t i = 0; i < guard.pools && !name; i++)
    for (const chi_method *m = guard.pool[i].module->methods; m && m->type && !name; m++)
      if (guard.pool[i].major == t->method >> 16 && m->type->id == method)
        name = m->type->name;
  snprintf(guard.here.method, sizeof(guard.here.method), "in method %s%u%s%s%s of pool %llu, ",
           name ? "" : "number ", method, name ? " (" : "", name ? name : "", name ? ")" : "",
           (unsigned long long)(t->method >> 16));
}

void guard_event(const struct sim_trace_event *e)
{
  struct guard_place *h = &guard.here;
  h->events++;
  h->time = e->time;
  h->node = e->node;
  if (e->kind == ENV_TRACE_BEGIN)
    *guard_task_of(e->node, e->b) = (struct guard_task){e->b, e->c, e->node};
  if (e->kind == ENV_TRACE_BEGIN || e->kind == ENV_TRACE_RESUME) {
    h->task = e->b;
    h->worker = (uint32_t)e->a;
  } else if (e->kind == ENV_TRACE_BLOCK || e->kind == ENV_TRACE_COMPLETE ||
             e->kind == SIM_TRACE_THREAD) {
    h->task = 0;
  }
}

/* ---- the end -------------------------------------------------------------------------------- */

static void guard_write(const char *text, int size)
{
  while (size > 0) {
    ssize_t done = write(guard.fd, text, (size_t)size);
    if (done <= 0)
      return;
    text += done;
    size -= (int)done;
  }
}

/* For a parent that reads, or for people. */
static void guard_tell(const char *check, const char *what)
{
  const struct guard_place *h = &guard.here;
  bool people = guard.fd == STDERR_FILENO;
  char line[600];
  int n, room = (int)sizeof(line);
  guard_name();
  if (people)
    n = snprintf(line, sizeof(line), "seed %llu: check \"%s\" failed: ",
                 (unsigned long long)h->seed, check);
  else
    n = snprintf(line, sizeof(line), "crash %llu %llu %s ", (unsigned long long)h->events,
                 (unsigned long long)h->time, check);
  n += snprintf(line + n, (size_t)(room - n), "%s after event %llu of seed %llu, ", what,
                (unsigned long long)h->events, (unsigned long long)h->seed);
  if (h->task)
    n += snprintf(line + n, (size_t)(room - n), "%stask %llu:%llu, worker %u of node %u\n",
                  h->method, (unsigned long long)(h->task >> 32),
                  (unsigned long long)(h->task & UINT32_MAX), h->worker, h->node);
  else
    n += snprintf(line + n, (size_t)(room - n), "outside of methods\n");
  guard_write(line, n);
  _exit(people ? CLI_FAILED : GUARD_STATUS);
}

/* A method that leaves takes everything along. */
static void guard_on_exit(void)
{
  if (guard.here.events > 0 && guard.fd >= 0)
    guard_tell("crash", "exit");
}

static void guard_on_crash(int number)
{
  const char *name = number == SIGSEGV   ? "SIGSEGV"
                     : number == SIGBUS  ? "SIGBUS"
                     : number == SIGABRT ? "SIGABRT"
                     : number == SIGFPE  ? "SIGFPE"
                                         : "SIGILL";
  guard_tell("crash", name);
}

static uint64_t guard_clock(clockid_t id)
{
  struct timespec t;
  clock_gettime(id, &t);
  return (uint64_t)t.tv_sec * 1000000000 + (uint64_t)t.tv_nsec;
}

static void guard_on_tick(int number)
{
  uint64_t cpu = guard_clock(CLOCK_PROCESS_CPUTIME_ID), wall = guard_clock(CLOCK_MONOTONIC);
  (void)number;
  if (guard.here.events != guard.seen || guard.here.events == 0) {
    guard.seen = guard.here.events;
    guard.cpu = cpu;
    guard.wall = wall;
  } else if (cpu - guard.cpu > guard.stuck_ns ||
             wall - guard.wall > GUARD_PATIENCE * guard.stuck_ns) {
    guard_tell("loop", "nothing happens");
  }
}

/* Methods run on small stacks, and may have used them up. */
void guard_begin(int fd, uint64_t stuck_ns)
{
  struct sigaction crash = {.sa_handler = guard_on_crash, .sa_flags = SA_ONSTACK | SA_RESETHAND};
  static bool leaves;
  struct sigaction tick = {.sa_handler = guard_on_tick, .sa_flags = SA_ONSTACK | SA_RESTART};
  struct itimerval every = {{0, GUARD_TICK_US}, {0, GUARD_TICK_US}};
  stack_t stack = {.ss_sp = malloc(GUARD_STACK), .ss_size = GUARD_STACK};
  if (!leaves)
    leaves = atexit(guard_on_exit) == 0;
  guard.fd = fd;
  guard.stuck_ns = stuck_ns;
  guard.stack = stack.ss_sp;
  if (stack.ss_sp)
    sigaltstack(&stack, NULL);
  for (size_t i = 0; i < CHI_COUNT(guard_signals); i++)
    sigaction(guard_signals[i], &crash, &guard.before[guard_signals[i]]);
  sigaction(SIGALRM, &tick, &guard.before[SIGALRM]);
  setitimer(ITIMER_REAL, &every, NULL);
}

void guard_end(void)
{
  struct itimerval never = {{0, 0}, {0, 0}};
  stack_t none = {.ss_flags = SS_DISABLE};
  guard.fd = -1;
  setitimer(ITIMER_REAL, &never, NULL);
  for (size_t i = 0; i < CHI_COUNT(guard_signals); i++)
    sigaction(guard_signals[i], &guard.before[guard_signals[i]], NULL);
  sigaction(SIGALRM, &guard.before[SIGALRM], NULL);
  sigaltstack(&none, NULL);
  free(guard.stack);
  guard.stack = NULL;
}

#undef GUARD_TASKS
#undef GUARD_POOLS
#undef GUARD_TICK_US
#undef GUARD_STACK
#undef GUARD_STATUS
#undef GUARD_PATIENCE

#endif
