/* shrink.c - makes a run that fails smaller while the same check fails. */
#include "shrink.h"
#include "rng.h"

#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define HANGS 20 /* seconds of CPU after which a run hangs; most take less than one */
#define STUCK 200 /* seconds after which it does if it doesn't use any */
#define REAL_HANGS 240 /* on real nodes most take twenty */

/* ---- a run in a process of its own ---------------------------------------------------------- */

int shrink_start(const struct run_case *c, struct run_result *shared, int log)
{
  int child;
  memset(shared, 0, sizeof(*shared));
  if (ftruncate(log, 0) != 0 || lseek(log, 0, SEEK_SET) != 0)
    abort();
  fflush(stdout);
  child = fork();
  if (child < 0)
    abort();
  if (child > 0)
    return child;
  dup2(log, STDERR_FILENO);
  alarm(c->real ? REAL_HANGS : STUCK);
  if (!c->real)
    setrlimit(RLIMIT_CPU, &(struct rlimit){HANGS, HANGS + 1});
  run_do(c, shared, NULL, NULL);
  _exit(0);
}

/* The first line that it has said. */
static void last_words(char *text, size_t size, int log)
{
  ssize_t n = pread(log, text, size - 1, 0);
  text[n > 0 ? n : 0] = '\0';
  text[strcspn(text, "\n")] = '\0';
}

void shrink_ended(struct run_result *shared, int status, int log)
{
  if (WIFEXITED(status) && WEXITSTATUS(status) == 0 && shared->ended)
    return;
  const char *name = "exit";
  if (WIFSIGNALED(status))
    name = WTERMSIG(status) == SIGABRT   ? "assertion"
           : WTERMSIG(status) == SIGALRM || WTERMSIG(status) == SIGXCPU ? "hang"
           : WTERMSIG(status) == SIGSEGV ? "memory fault"
                                         : "signal";
  snprintf(shared->check, sizeof(shared->check), "%s", name);
  last_words(shared->text, sizeof(shared->text), log);
}

void shrink_try(const struct run_case *c, struct run_result *r)
{
  struct run_result *shared =
      mmap(NULL, sizeof(*shared), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
  FILE *log = tmpfile();
  int status = 0;
  if (shared == MAP_FAILED || !log)
    abort();
  int child = shrink_start(c, shared, fileno(log));
  while (waitpid(child, &status, 0) < 0 && errno == EINTR)
    ;
  shrink_ended(shared, status, fileno(log));
  *r = *shared;
  fclose(log);
  munmap(shared, sizeof(*shared));
}

/* ---- smaller -------------------------------------------------------------------------------- */

#define SMALL_NODES 3u
#define SMALL_FAULTS 5u

struct shrink {
  struct run_case *best;
  struct run_result *result;
  char check[64];
  uint32_t runs;
  double until;
};

static double now(void)
{
  struct timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return (double)t.tv_sec + (double)t.tv_nsec / 1e9;
}

/* Takes what fails in the same way; frees what doesn't. */
static bool take(struct shrink *s, struct run_case *c)
{
  struct run_result r = {0};
  if (now() < s->until) {
    s->runs++;
    shrink_try(c, &r);
  }
  if (strcmp(r.check, s->check) != 0) {
    run_free(c);
    return false;
  }
  run_free(s->best);
  *s->best = *c;
  *s->result = r;
  return true;
}

static struct run_case copy_of(const struct shrink *s)
{
  struct run_case c = *s->best;
  c.plan = (struct sim_plan){0};
  if (sim_plan_copy(&c.plan, &s->best->plan) != CHI_OK)
    abort();
  return c;
}

/* What speaks of nodes that aren't there any more goes. */
static void set_nodes(struct run_case *c, uint32_t nodes)
{
  c->nodes = nodes;
  c->rebirth = c->rebirth && nodes > 2;
  c->feud = c->feud && nodes > 2;
  for (uint32_t i = c->plan.count; i-- > 0;) {
    const struct sim_plan_entry *e = &c->plan.entry[i];
    bool file = e->kind == SIM_PLAN_DISK || e->kind == SIM_PLAN_DELAY;
    if (e->a >= nodes || (e->b >= nodes && !file))
      sim_plan_remove(&c->plan, i);
  }
}

static void fewer_nodes(struct shrink *s)
{
  for (uint32_t nodes = 2; nodes < s->best->nodes; nodes++) {
    struct run_case c = copy_of(s);
    set_nodes(&c, nodes);
    if (take(s, &c))
      return;
  }
}

/* Pieces of the plan, each half as long as those before. */
static void fewer_faults(struct shrink *s)
{
  for (uint32_t piece = s->best->plan.count; piece > 0; piece /= 2) {
    uint32_t at = 0;
    while (at < s->best->plan.count) {
      struct run_case c = copy_of(s);
      for (uint32_t i = 0; i < piece && at < c.plan.count; i++)
        sim_plan_remove(&c.plan, at);
      if (!take(s, &c))
        at += piece;
    }
  }
}

/* Whole parts of the run, and kinds of clients. */
static void fewer_parts(struct shrink *s)
{
  static const size_t parts[] = {
      offsetof(struct run_case, coda), offsetof(struct run_case, leave),
      offsetof(struct run_case, rift), offsetof(struct run_case, rebirth),
      offsetof(struct run_case, feud), offsetof(struct run_case, nap),
      offsetof(struct run_case, gate), offsetof(struct run_case, ghost),
      offsetof(struct run_case, limbo), offsetof(struct run_case, device)};
  for (size_t i = 0; i < CHI_COUNT(parts); i++) {
    struct run_case c = copy_of(s);
    bool *part = (bool *)(void *)((char *)&c + parts[i]), was = *part;
    *part = false;
    if (was)
      take(s, &c);
    else
      run_free(&c);
  }
  for (uint32_t kind = 0; kind < ACTOR_KINDS; kind++) {
    struct run_case c = copy_of(s);
    c.kinds &= ~(1u << kind);
    if (c.kinds != s->best->kinds)
      take(s, &c);
    else
      run_free(&c);
  }
}

static void fewer_acts(struct shrink *s)
{
  for (bool less = true; less && s->best->acts > 1;) {
    struct run_case c = copy_of(s);
    c.acts /= 2;
    less = take(s, &c);
  }
}

/* Perhaps it has nothing to do with faults and clients: then all else is quick. */
static void bare(struct shrink *s)
{
  struct run_case c = copy_of(s);
  sim_plan_free(&c.plan);
  c.kinds = 0;
  take(s, &c);
}

/* Until nothing more can go. */
static void smaller(struct shrink *s)
{
  uint32_t before;
  do {
    before = s->best->plan.count + s->best->nodes * 1000;
    fewer_parts(s);
    fewer_nodes(s);
    fewer_faults(s);
    fewer_acts(s);
  } while (s->best->plan.count + s->best->nodes * 1000 < before && now() < s->until);
}

static bool is_small(const struct run_case *c)
{
  return c->nodes <= SMALL_NODES && run_faults(&c->plan) <= SMALL_FAULTS;
}

/* Another run of the kind, that is small from the beginning: a part of the faults, few nodes. */
static bool other_seed(struct shrink *s, uint64_t seed)
{
  struct run_case c = copy_of(s);
  struct rng rng;
  rng_seed(&rng, seed, 15, 16);
  c.seed = seed;
  if (c.nodes > SMALL_NODES)
    set_nodes(&c, SMALL_NODES);
  while (run_faults(&c.plan) > SMALL_FAULTS)
    sim_plan_remove(&c.plan, (uint32_t)rng_below(&rng, c.plan.count));
  return take(s, &c);
}

uint32_t shrink_case(struct run_case *c, struct run_result *r, uint32_t seconds)
{
  struct shrink s = {.best = c, .result = r, .until = now() + seconds};
  snprintf(s.check, sizeof(s.check), "%s", r->check);
  bare(&s);
  smaller(&s);
  for (uint64_t seed = c->seed + 1; !is_small(c) && now() < s.until; seed++)
    if (other_seed(&s, seed))
      smaller(&s);
  return s.runs;
}

#undef HANGS
#undef STUCK
#undef REAL_HANGS
#undef SMALL_NODES
#undef SMALL_FAULTS
