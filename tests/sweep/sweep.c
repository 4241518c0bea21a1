/* sweep.c - runs whole clusters under faults drawn from one seed after the other.
 *
 * usage: sweep [--from N] [--seeds N] [--seconds N] [--jobs N] [--counts] [--shrink N] [--real]
 *        sweep [--real] --story N
 *
 * Ends at the first seed whose run fails, with status 1: the line says which check failed, and with
 * --shrink the smallest run that was found within N seconds follows. With --counts, what happened
 * is counted, and something that never did fails the sweep. With --real nodes are processes: only
 * some faults are for them, time is real, and a seed says what happens, not what comes of it. */
#include "shrink.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define JOBS 16u

struct options {
  uint64_t from, seeds, seconds, jobs, shrink, story;
  bool counts, real;
};

struct job {
  int child;
  FILE *log;
  struct run_case c;
  struct run_result *result;
};

struct sweep {
  struct options o;
  struct job job[JOBS];
  uint32_t busy;
  uint64_t next, done, events, time;
  struct run_result sum;
  struct run_case failed_case; /* with the lowest seed */
  struct run_result failed;
  double began;
};

static double now(void)
{
  struct timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return (double)t.tv_sec + (double)t.tv_nsec / 1e9;
}

/* ---- jobs ----------------------------------------------------------------------------------- */

static void begin(struct sweep *s, struct job *j)
{
  run_draw(&j->c, s->next++);
  if (s->o.real)
    run_make_real(&j->c);
  j->child = shrink_start(&j->c, j->result, fileno(j->log));
  s->busy++;
}

static void add(struct sweep *s, const struct run_result *r)
{
  s->done++;
  s->sum.events += r->events;
  s->sum.time += r->time;
  s->sum.submitted += r->submitted;
  s->sum.moves += r->moves;
  s->sum.pools += r->pools;
  for (int i = 0; i < CHI_FAULT_KINDS; i++)
    s->sum.fault[i] += r->fault[i];
  for (int i = 0; i < SIM_CHECK_NET; i++)
    s->sum.net[i] += r->net[i];
  for (int i = 0; i < SIM_CHECK_CODES; i++)
    s->sum.code[i] += r->code[i];
}

static void finish(struct sweep *s, struct job *j, int status)
{
  shrink_ended(j->result, status, fileno(j->log));
  j->child = 0;
  s->busy--;
  add(s, j->result);
  if (j->result->check[0] && (!s->failed.check[0] || j->c.seed < s->failed_case.seed)) {
    run_free(&s->failed_case);
    s->failed_case = j->c;
    s->failed = *j->result;
  } else {
    run_free(&j->c);
  }
}

static void wait_for_one(struct sweep *s)
{
  int status = 0, child = waitpid(-1, &status, 0);
  for (uint32_t i = 0; i < s->o.jobs; i++)
    if (child > 0 && s->job[i].child == child)
      finish(s, &s->job[i], status);
}

static bool more(const struct sweep *s)
{
  return !s->failed.check[0] && s->next < s->o.from + s->o.seeds &&
         now() - s->began < (double)s->o.seconds;
}

static void sweep_all(struct sweep *s)
{
  for (uint32_t i = 0; i < s->o.jobs; i++) {
    s->job[i].log = tmpfile();
    s->job[i].result = mmap(NULL, sizeof(struct run_result), PROT_READ | PROT_WRITE,
                            MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    if (!s->job[i].log || s->job[i].result == MAP_FAILED)
      abort();
  }
  while (more(s) || s->busy) {
    for (uint32_t i = 0; i < s->o.jobs && more(s); i++)
      if (!s->job[i].child)
        begin(s, &s->job[i]);
    if (s->busy)
      wait_for_one(s);
  }
}

/* ---- what is said --------------------------------------------------------------------------- */

/* In the order of enum net_trace. */
static const char *const net_words[] = {"sent",    "sent again", "answered",    "repeated",
                                        "not run", "moved",      "begun again", "unreachable",
                                        "unknown", "aborted"};
static const int codes[] = {CHI_OK,         CHI_EUNREACHABLE, CHI_EUNKNOWN,
                            CHI_ECANCELLED, CHI_ETIMEOUT,     CHI_ESHUTDOWN};

/* Returns how many never happened. */
static uint32_t say_counts(const struct run_result *r, bool real)
{
  uint32_t zeros = 0;
  printf("faults:");
  for (int i = 0; i < CHI_FAULT_KINDS; i++) {
    bool drawn = !real && i != CHI_FAULT_HEAL && i != CHI_FAULT_SPLIT;
    printf(" %s %llu", chi_fault_name(i), (unsigned long long)r->fault[i]);
    zeros += drawn && r->fault[i] == 0;
  }
  printf("\ntasks between nodes:");
  for (size_t i = 0; i < CHI_COUNT(net_words); i++) {
    printf(" %s %llu%s", net_words[i], (unsigned long long)r->net[i],
           i + 1 < CHI_COUNT(net_words) ? "," : "");
    zeros += !real && r->net[i] == 0;
  }
  printf("\ntasks of clients: %llu", (unsigned long long)r->submitted);
  for (int i = 0; i < SIM_CHECK_CODES - 1; i++)
    if (r->code[i])
      printf(", %s %llu", chi_status_name(-i), (unsigned long long)r->code[i]);
  for (size_t i = 0; i < CHI_COUNT(codes); i++)
    zeros += r->code[-codes[i]] == 0 && (!real || codes[i] == CHI_OK);
  printf("\nmoves %llu, pools %llu\n", (unsigned long long)r->moves, (unsigned long long)r->pools);
  return zeros + (r->moves == 0) + (r->pools == 0);
}

static void put_line(void *arg, const char *text)
{
  (void)arg;
  printf("  %s", text);
}

static void say_case(const struct run_case *c)
{
  printf("  %u nodes, neighbourhood %u, %u faults, clients:", c->nodes, c->neighborhood,
         run_faults(&c->plan));
  for (uint32_t k = 0; k < ACTOR_KINDS; k++)
    if (c->kinds >> k & 1)
      printf(" %s", actor_name((enum actor_kind)k));
  printf("; %u acts%s%s%s%s%s%s%s%s%s%s%s\n", c->acts,
         c->quiet    ? ", quiet"
         : c->gentle ? ", gentle"
                     : "",
         c->device ? ", device" : "", c->coda ? ", coda" : "", c->leave ? ", leave" : "",
         c->rift ? ", rift" : "", c->rebirth ? ", rebirth" : "",
         c->feud ? ", feud" : "", c->nap ? ", nap" : "",
         c->gate ? ", gate" : "", c->ghost ? ", ghost" : "",
         c->limbo ? ", limbo" : "");
}

static void say_failure(struct sweep *s)
{
  struct run_case *c = &s->failed_case;
  uint32_t runs;
  printf("FAILED seed %llu after %llu seeds and %.1f s: %s: %s\n", (unsigned long long)c->seed,
         (unsigned long long)s->done, now() - s->began, s->failed.check, s->failed.text);
  say_case(c);
  if (!s->o.shrink)
    return;
  double began = now();
  runs = shrink_case(c, &s->failed, (uint32_t)s->o.shrink);
  printf("shrunk to %u nodes and %u faults by %u runs in %.1f s: %s: %s\n", c->nodes,
         run_faults(&c->plan), runs, now() - began, s->failed.check, s->failed.text);
  say_case(c);
  sim_plan_print(&c->plan, put_line, NULL);
}

/* ---- options -------------------------------------------------------------------------------- */

static void tell(void *arg, const char *text)
{
  fputs(text, arg);
}

static int story(uint64_t seed, bool real)
{
  struct run_case c;
  struct run_result r;
  run_draw(&c, seed);
  if (real)
    run_make_real(&c);
  say_case(&c);
  sim_plan_print(&c.plan, put_line, NULL);
  run_do(&c, &r, tell, stdout);
  printf("%s %s\n%llu events, %llu ms, hash %016llx\n", r.check, r.text,
         (unsigned long long)r.events, (unsigned long long)(r.time / 1000000),
         (unsigned long long)r.hash);
  run_free(&c);
  return r.check[0] != '\0';
}

static bool read_options(struct options *o, int argc, char **argv)
{
  const struct {
    const char *name;
    uint64_t *to;
  } table[] = {{"--from", &o->from}, {"--seeds", &o->seeds},   {"--seconds", &o->seconds},
               {"--jobs", &o->jobs}, {"--shrink", &o->shrink}, {"--story", &o->story}};
  for (int i = 1; i < argc; i++) {
    size_t k = 0;
    if (strcmp(argv[i], "--counts") == 0 || strcmp(argv[i], "--real") == 0) {
      *(argv[i][2] == 'c' ? &o->counts : &o->real) = true;
      continue;
    }
    while (k < CHI_COUNT(table) && strcmp(argv[i], table[k].name) != 0)
      k++;
    if (k == CHI_COUNT(table) || i + 1 == argc)
      return false;
    *table[k].to = strtoull(argv[++i], NULL, 10);
  }
  return o->jobs >= 1 && o->jobs <= JOBS;
}

int main(int argc, char **argv)
{
  static struct sweep s;
  uint32_t zeros = 0;
  s.o = (struct options){.from = 1, .seeds = UINT64_MAX / 2, .seconds = 60, .jobs = 2};
  if (!read_options(&s.o, argc, argv)) {
    fprintf(stderr, "usage: sweep [--from N] [--seeds N] [--seconds N] [--jobs N] [--counts] "
                    "[--shrink SECONDS] [--real] | [--real] --story SEED\n");
    return 2;
  }
  if (s.o.story)
    return story(s.o.story, s.o.real);
  s.began = now();
  s.next = s.o.from;
  sweep_all(&s);
  if (s.failed.check[0])
    say_failure(&s);
  if (s.o.counts)
    zeros = say_counts(&s.sum, s.o.real);
  double took = now() - s.began;
  printf("%llu seeds, %llu events, %llu virtual seconds, %.1f s: %.0f seeds/s, %.0f events/s\n",
         (unsigned long long)s.done, (unsigned long long)s.sum.events,
         (unsigned long long)(s.sum.time / 1000000000), took, (double)s.done / took,
         (double)s.sum.events / took);
  if (zeros)
    printf("%u kinds of things never happened\n", zeros);
  run_free(&s.failed_case);
  return s.failed.check[0] || zeros;
}
