/* explore.c - runs the parties of a protocol in every order that matters, and kills them. */
#include "explore.h"
#include "atomic.h"
#include "fiber.h"
#include "test.h"

#include <signal.h>
#include <stdarg.h>
#include <stdlib.h>
#include <time.h>

#ifndef CHI_INTERLEAVE
#error "this program is of a build with CHI_INTERLEAVE"
#endif

#define EXPLORE_STORES 8u      /* that wait in a buffer */
#define EXPLORE_STEPS 20000u   /* points in a run: more of them is no end in sight */
#define EXPLORE_CHOICES 20000u
#define EXPLORE_PLACES 8192u   /* addresses: a power of two */
#define EXPLORE_STACK 65536u
#define EXPLORE_POLLS 2u       /* looks at the same thing in a row between which it may change */
#define EXPLORE_SEGMENT 160u   /* points of a party between two switches that are remembered */

struct explore_store {
  void *p;
  size_t size;
  char value[8], before[8];
};

struct explore_actor {
  struct fiber fiber;
  enum explore_state state;
  uint64_t looked, seen; /* epochs: when it spun last; it spins again if this one is over */
  bool (*ready)(void *arg);
  void *arg;
  /* What it wrote and others don't see. While it runs, memory is as it sees it; while it doesn't,
   * these are undone. */
  struct explore_store store[EXPLORE_STORES];
  uint32_t stores;
  const char *last_file; /* the point passed last, and how often in a row */
  int last_line;
  uint32_t again;
};

struct explore_place {
  const void *p;
  uint32_t readers, writers;
};

static struct {
  const struct explore *plan;
  struct explore_actor actor[EXPLORE_PARTIES];
  struct fiber host;
  int current; /* -1: none */
  uint32_t bound, preempted, killed;
  bool may_kill;
  uint64_t epoch; /* rises when somebody's store or change is seen */
  uint32_t steps;
  uint32_t deeds; /* points that mattered since the running party was switched to */
  struct {
    uint16_t taken, of;
  } choice[EXPLORE_CHOICES];
  uint32_t depth, choices;
  struct explore_place place[EXPLORE_PLACES];
  uint32_t places;
  bool learned;
  bool failed, tracing;
  char why[400];
  struct {
    const char *file;
    int line;
  } segment[EXPLORE_SEGMENT];
  uint32_t segments;
} explorer = {.current = -1};
static char explore_stack[EXPLORE_PARTIES][EXPLORE_STACK] __attribute__((aligned(64)));

/* ---- the story of a run that failed */

static const char *explore_name(int i)
{
  return explorer.plan->party[i].name;
}

static void explore_tell_segment(void)
{
  const char *file = "";
  if (!explorer.tracing || explorer.segments == 0)
    return;
  fprintf(stderr, "    %-10s", explore_name(explorer.current));
  for (uint32_t i = 0; i < explorer.segments && i < EXPLORE_SEGMENT; i++) {
    if (strcmp(explorer.segment[i].file, file) != 0) {
      file = explorer.segment[i].file;
      const char *slash = strrchr(file, '/');
      fprintf(stderr, " %s", slash ? slash + 1 : file);
    }
    fprintf(stderr, ":%d", explorer.segment[i].line);
  }
  fputc('\n', stderr);
  explorer.segments = 0;
}

static void explore_tell(const char *fmt, ...) __attribute__((format(printf, 1, 2)));
static void explore_tell(const char *fmt, ...)
{
  va_list ap;
  if (!explorer.tracing)
    return;
  explore_tell_segment();
  va_start(ap, fmt);
  fputs("    -- ", stderr);
  vfprintf(stderr, fmt, ap);
  fputc('\n', stderr);
  va_end(ap);
}

static void explore_to_host(void)
{
  int me = explorer.current;
  explore_tell_segment();
  explorer.current = -1;
  fiber_switch(&explorer.actor[me].fiber, &explorer.host);
}

void explore_fail(const char *fmt, ...)
{
  va_list ap;
  va_start(ap, fmt);
  if (!explorer.failed)
    vsnprintf(explorer.why, sizeof explorer.why, fmt, ap);
  va_end(ap);
  explorer.failed = true;
  if (explorer.current >= 0)
    explore_to_host();
}

/* An assertion of the code under test, or a wild access, is a failure of the run. */
static void explore_on_signal(int number)
{
  if (explorer.current < 0)
    _Exit(3);
  explore_fail("signal %d", number);
}

/* ---- choices */

static uint32_t explore_choose(uint32_t of)
{
  if (of <= 1)
    return 0;
  if (explorer.depth == explorer.choices) {
    CHI_ASSERT(explorer.choices < EXPLORE_CHOICES && of <= UINT16_MAX);
    explorer.choice[explorer.choices].taken = 0;
    explorer.choice[explorer.choices++].of = (uint16_t)of;
  }
  CHI_ASSERT(explorer.choice[explorer.depth].of == of); /* a run can be repeated */
  return explorer.choice[explorer.depth++].taken;
}

/* The next schedule, depth first; false: all were run. */
static bool explore_advance(void)
{
  explorer.choices = explorer.depth;
  while (explorer.choices > 0) {
    uint32_t last = explorer.choices - 1;
    if (++explorer.choice[last].taken < explorer.choice[last].of)
      return true;
    explorer.choices--;
  }
  return false;
}

/* ---- what others see */

static void explore_forget_stores(struct explore_actor *a, uint32_t n)
{
  if (n == 0)
    return;
  a->stores -= n;
  memmove(a->store, a->store + n, a->stores * sizeof a->store[0]);
  explorer.epoch++;
}

/* The party stops to run: all but the last `keep` of its stores are seen from now on. */
static void explore_leave(struct explore_actor *a, uint32_t keep)
{
  explore_forget_stores(a, a->stores - keep);
  for (uint32_t i = a->stores; i-- > 0;)
    memcpy(a->store[i].p, a->store[i].before, a->store[i].size);
}

static void explore_enter(struct explore_actor *a)
{
  a->state = EXPLORE_ABLE;
  explorer.deeds = 0;
  for (uint32_t i = 0; i < a->stores; i++) {
    memcpy(a->store[i].before, a->store[i].p, a->store[i].size);
    memcpy(a->store[i].p, a->store[i].value, a->store[i].size);
  }
}

void chi_interleave_set(void *p, const void *value, size_t size)
{
  CHI_ASSERT(size <= sizeof explorer.actor[0].store[0].value);
  if (explorer.current >= 0) {
    struct explore_actor *me = &explorer.actor[explorer.current];
    if (me->stores == EXPLORE_STORES)
      explore_forget_stores(me, 1);
    struct explore_store *s = &me->store[me->stores++];
    s->p = p;
    s->size = size;
    memcpy(s->value, value, size);
    memcpy(s->before, p, size);
  }
  memcpy(p, value, size);
}

void chi_interleave_drain(void)
{
  if (explorer.current < 0)
    return;
  explore_forget_stores(&explorer.actor[explorer.current],
                        explorer.actor[explorer.current].stores);
  explorer.epoch++;
}

/* ---- who is next */

static bool explore_able(uint32_t i)
{
  const struct explore_actor *a = &explorer.actor[i];
  if (a->state == EXPLORE_SPINS)
    return explorer.epoch != a->seen;
  if (a->state == EXPLORE_WAITS)
    return a->ready(a->arg);
  return a->state == EXPLORE_ABLE;
}

static void explore_hand_over(int to)
{
  int me = explorer.current;
  explore_tell_segment();
  explorer.current = to;
  explore_enter(&explorer.actor[to]);
  fiber_switch(&explorer.actor[me].fiber, &explorer.actor[to].fiber);
}

/* The running party cannot go on; it returns here when it can. Who is next is a free choice. But
 * after a look in vain, of which there may be many, it goes round; and so it does if the party has
 * done nothing, for then the choice was made before. */
static void explore_give_way(enum explore_state state)
{
  struct explore_actor *me = &explorer.actor[explorer.current];
  uint32_t able[EXPLORE_PARTIES], n = 0;
  explore_leave(me, 0);
  me->state = state;
  me->seen = me->looked; /* what has changed since it began to look may have been overlooked */
  me->looked = explorer.epoch;
  for (uint32_t i = 0; i < explorer.plan->count; i++) {
    uint32_t other = ((uint32_t)explorer.current + 1 + i) % explorer.plan->count;
    if (explore_able(other))
      able[n++] = other;
  }
  if (n == 0)
    explore_to_host();
  bool free = state == EXPLORE_WAITS ? explorer.deeds > 1 : state >= EXPLORE_DONE;
  uint32_t to = able[free && !explorer.plan->orderly ? explore_choose(n) : 0];
  if ((int)to == explorer.current)
    explore_enter(me);
  else
    explore_hand_over((int)to);
}

void explore_yield(void)
{
  CHI_ASSERT(explorer.current >= 0);
  explore_tell("%s tries again", explore_name(explorer.current));
  explore_give_way(EXPLORE_ABLE);
}

void chi_interleave_pause(void)
{
  if (explorer.current < 0 || (explorer.plan->hurried >> explorer.current & 1))
    return;
  explore_tell("%s spins", explore_name(explorer.current));
  explore_give_way(EXPLORE_SPINS);
}

void explore_wait(bool (*ready)(void *arg), void *arg)
{
  CHI_ASSERT(explorer.current >= 0);
  struct explore_actor *me = &explorer.actor[explorer.current];
  chi_interleave_drain();
  me->ready = ready;
  me->arg = arg;
  if (ready(arg))
    return;
  explore_tell("%s waits", explore_name(explorer.current));
  explore_give_way(EXPLORE_WAITS);
}

/* What a dead process had stored is seen by the living. */
static void explore_kill(uint32_t group)
{
  struct explore_actor *me = &explorer.actor[explorer.current];
  explore_tell("at %s: kill of the process of", explore_name(explorer.current));
  explore_leave(me, me->stores);
  for (uint32_t i = 0; i < explorer.plan->count; i++) {
    struct explore_actor *a = &explorer.actor[i];
    if (explorer.plan->party[i].group != group)
      continue;
    explore_tell("   %s", explore_name((int)i));
    enum explore_state state = a->state;
    explore_enter(a);
    explore_forget_stores(a, a->stores);
    a->state = state == EXPLORE_DONE ? EXPLORE_DONE : EXPLORE_KILLED;
  }
  explorer.killed |= 1u << group;
  explorer.epoch++;
  if (explorer.plan->killed)
    explorer.plan->killed(explorer.plan->world, group);
  if (me->state == EXPLORE_KILLED)
    explore_give_way(EXPLORE_KILLED);
  explore_enter(me);
}

/* Groups that may die now: somebody of them lives. */
static uint32_t explore_victims(uint32_t *group)
{
  uint32_t n = 0, seen = 0;
  if (!explorer.may_kill || explorer.killed)
    return 0;
  for (uint32_t i = 0; i < explorer.plan->count; i++) {
    uint32_t bit = 1u << explorer.plan->party[i].group;
    bool lives = explorer.actor[i].state != EXPLORE_DONE;
    if (!lives || !(explorer.plan->victims & bit) || (seen & bit))
      continue;
    seen |= bit;
    group[n++] = explorer.plan->party[i].group;
  }
  return n;
}

/* Remembers who used an address. True: several did, and one of them wrote. */
static bool explore_conflict(const void *p, bool write)
{
  uint32_t bit = 1u << explorer.current;
  uint64_t hash = (uint64_t)(uintptr_t)p * 0x9e3779b97f4a7c15u;
  uint32_t at = (uint32_t)(hash >> 40) & (EXPLORE_PLACES - 1);
  while (explorer.place[at].p && explorer.place[at].p != p)
    at = (at + 1) & (EXPLORE_PLACES - 1);
  struct explore_place *place = &explorer.place[at];
  if (!place->p) {
    CHI_ASSERT(++explorer.places < EXPLORE_PLACES / 2);
    place->p = p;
  }
  uint32_t users = place->readers | place->writers;
  bool before = place->writers != 0 && (users & (users - 1)) != 0;
  *(write ? &place->writers : &place->readers) |= bit;
  users |= bit;
  bool after = place->writers != 0 && (users & (users - 1)) != 0;
  explorer.learned = explorer.learned || before != after;
  return after;
}

static void explore_interrupt(void)
{
  struct explore_actor *me = &explorer.actor[explorer.current];
  uint32_t other[EXPLORE_PARTIES], others = 0, group[EXPLORE_PARTIES];
  if (explorer.preempted < explorer.bound)
    for (uint32_t i = 0; i < explorer.plan->count; i++)
      if (explorer.current != (int)i && explore_able(i))
        other[others++] = i;
  uint32_t switches = others * (me->stores + 1), victims = explore_victims(group);
  uint32_t choice = explore_choose(1 + switches + victims);
  if (choice == 0)
    return;
  if (choice > switches) {
    explore_kill(group[choice - switches - 1]);
    return;
  }
  explorer.preempted++;
  uint32_t keep = (choice - 1) / others;
  explore_tell("%s is interrupted, %u of its stores are not seen", explore_name(explorer.current),
               keep);
  explore_leave(me, keep);
  explore_hand_over((int)other[(choice - 1) % others]);
}

/* Whether the running party has looked at the same often enough: more says nothing new. */
static bool explore_polls(struct explore_actor *me, int kind, const char *file, int line)
{
  bool same = kind == CHI_INTERLEAVE_GET && me->last_line == line && me->last_file == file;
  me->again = same ? me->again + 1 : 0;
  me->last_file = file;
  me->last_line = line;
  return me->again >= EXPLORE_POLLS;
}

void chi_interleave_point(const void *p, int kind, const char *file, int line)
{
  if (explorer.current < 0)
    return;
  if (explorer.tracing && explorer.segments < EXPLORE_SEGMENT) {
    explorer.segment[explorer.segments].file = file;
    explorer.segment[explorer.segments++].line = line;
  }
  if (++explorer.steps > EXPLORE_STEPS)
    explore_fail("no end after %u points", explorer.steps);
  bool drains = kind == CHI_INTERLEAVE_CHANGE;
  bool matters = drains && explorer.actor[explorer.current].stores > 0;
  if (p) {
    if (explorer.plan->dead && explorer.plan->dead(p))
      explore_fail("%s:%d: %s uses memory that was freed", file, line,
                   explore_name(explorer.current));
    matters = explore_conflict(p, kind != CHI_INTERLEAVE_GET) || matters;
  }
  if (explore_polls(&explorer.actor[explorer.current], kind, file, line))
    matters = false;
  explorer.deeds += matters;
  if (matters)
    explore_interrupt();
  /* Somebody may have freed it in between. */
  if (matters && p && explorer.plan->dead && explorer.plan->dead(p))
    explore_fail("%s:%d: %s uses memory that was freed", file, line,
                 explore_name(explorer.current));
}

void explore_point(const void *p, const char *file, int line)
{
  chi_interleave_point(p, CHI_INTERLEAVE_SET, file, line);
}

void explore_call(const void *p, const char *file, int line)
{
  chi_interleave_point(p, CHI_INTERLEAVE_CHANGE, file, line);
  chi_interleave_drain();
}

bool explore_others_rest(void *arg)
{
  (void)arg;
  for (uint32_t i = 0; i < explorer.plan->count; i++)
    if (explorer.actor[i].ready != explore_others_rest && explore_able(i))
      return false;
  return true;
}

bool explore_running(void)
{
  return explorer.current >= 0;
}

uint32_t explore_self(void)
{
  CHI_ASSERT(explorer.current >= 0);
  return (uint32_t)explorer.current;
}

enum explore_state explore_state(uint32_t party)
{
  return explorer.actor[party].state;
}

/* ---- bells */

void explore_ring(struct explore_bell *b)
{
  EXPLORE_CALL(b);
  b->rung = 1;
}

struct explore_parking {
  const struct explore_bell *bell;
  const uint32_t *also;
};

static bool explore_rung(void *arg)
{
  const struct explore_parking *p = arg;
  return p->bell->rung || (p->also && *p->also);
}

void explore_park(struct explore_bell *b, const uint32_t *also)
{
  struct explore_parking p = {b, also};
  EXPLORE_CALL(b);
  explore_wait(explore_rung, &p);
  b->rung = 0;
}

/* ---- runs */

static void explore_main(void *arg)
{
  const struct explore_party *p = arg;
  p->run(explorer.plan->world);
  explore_tell("%s has ended", p->name);
  explore_give_way(EXPLORE_DONE);
}

static void explore_once(void)
{
  const struct explore *plan = explorer.plan;
  explorer.depth = explorer.preempted = explorer.killed = explorer.steps = explorer.segments = 0;
  explorer.epoch = explorer.deeds = 0;
  explorer.failed = false;
  plan->begin(plan->world);
  fiber_init_host(&explorer.host);
  for (uint32_t i = 0; i < plan->count; i++) {
    struct explore_actor *a = &explorer.actor[i];
    a->state = EXPLORE_ABLE;
    a->stores = a->again = 0;
    a->looked = 0;
    a->ready = NULL;
    a->last_file = NULL;
    fiber_init(&a->fiber, explore_stack[i], EXPLORE_STACK, explore_main, (void *)&plan->party[i]);
  }
  explorer.current = (int)explore_choose(plan->count);
  fiber_switch(&explorer.host, &explorer.actor[explorer.current].fiber);
  for (uint32_t i = 0; i < plan->count; i++) {
    if (explorer.actor[i].state == EXPLORE_SPINS)
      explore_fail("%s spins for ever", plan->party[i].name);
    fiber_fini(&explorer.actor[i].fiber);
  }
  if (!explorer.failed)
    plan->end(plan->world);
}

/* All runs with up to `bound` preemptions; counts those with exactly so many, and one kill if
 * there are kills. */
static bool explore_level(uint32_t bound, bool may_kill, uint64_t *count)
{
  uint64_t here = 0;
  bool more = true;
  explorer.bound = bound;
  explorer.may_kill = may_kill;
  explorer.choices = 0;
  explorer.learned = false;
  while (more) {
    explore_once();
    if (explorer.failed)
      return false;
    here += explorer.preempted == bound && (explorer.killed != 0) == may_kill;
    more = explorer.learned;
    if (more) /* points were passed by that matter: from the start */
      here = explorer.choices = 0;
    else
      more = explore_advance();
    explorer.learned = false;
  }
  *count += here;
  return true;
}

static void explore_catch(void)
{
  struct sigaction action = {.sa_handler = explore_on_signal, .sa_flags = SA_NODEFER};
  sigaction(SIGABRT, &action, NULL);
  sigaction(SIGSEGV, &action, NULL);
}

static void explore_tell_failure(void)
{
  char why[sizeof explorer.why];
  memcpy(why, explorer.why, sizeof why);
  fprintf(stderr, "  %s: %s\n", explorer.plan->name, why);
  explorer.tracing = true;
  explore_once();
  explorer.tracing = false;
  test_fail(explorer.plan->name, 0, "%s", why);
}

/* 1234567 as 1,234,567. */
static const char *explore_count(uint64_t n, char *buf, size_t size)
{
  uint64_t thousands = n / 1000;
  size_t used = 0;
  if (thousands > 0)
    used = strlen(explore_count(thousands, buf, size));
  snprintf(buf + used, size - used, thousands > 0 ? ",%03u" : "%u", (unsigned)(n % 1000));
  return buf;
}

bool explore(const struct explore *plan)
{
  uint64_t runs = 0, kills = 0;
  bool good = true;
  clock_t begun = clock();
  CHI_ASSERT(plan->count > 0 && plan->count <= EXPLORE_PARTIES);
  explorer.plan = plan;
  explorer.places = 0;
  memset(explorer.place, 0, sizeof explorer.place);
  explore_catch();
  for (uint32_t bound = 0; good && bound <= plan->preemptions; bound++)
    good = explore_level(bound, false, &runs);
  for (uint32_t bound = 0; good && plan->victims && bound <= plan->kill_preemptions; bound++)
    good = explore_level(bound, true, &kills);
  if (!good)
    explore_tell_failure();
  char text[2][32];
  printf("  %s: %s interleavings", plan->name, explore_count(runs, text[0], sizeof text[0]));
  if (plan->victims)
    printf(", %s kills", explore_count(kills, text[1], sizeof text[1]));
  printf(" (%.1f s)\n", (double)(clock() - begun) / CLOCKS_PER_SEC);
  return good;
}
