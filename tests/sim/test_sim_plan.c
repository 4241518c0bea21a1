/* test_sim_plan.c - plans of faults: their text, how they are drawn, and what they do to nodes. */
#include "story.h"

#include <stdlib.h>

/* ---- the list and its text ---------------------------------------------------------------- */

struct page {
  char text[200000];
  size_t size;
};

static void page_put(void *arg, const char *text)
{
  struct page *p = arg;
  size_t size = strlen(text);
  if (p->size + size + 1 > sizeof(p->text))
    abort();
  memcpy(p->text + p->size, text, size + 1);
  p->size += size;
}

static const char plan_text[] = "0.000000001 calm\n"
                                "0.500000000 cut 0 1\n"
                                "0.500000000 join 0 1\n"
                                "1.250000000 clog 2 0 5000000\n"
                                "2.000000000 split 6\n"
                                "3.000000000 jump 1 -70\n"
                                "3.000000000 drift 1 -100000\n"
                                "4.000000000 disk 2 1 1\n"
                                "4.000000000 delay 2 * 9\n"
                                "5.000000000 partition 1 1\n"
                                "6.000000000 memory 1000\n"
                                "7.000000000 crash 4095\n";

TEST(sim_plan_reads_what_it_prints)
{
  struct sim_plan plan = {NULL, 0, 0}, copy;
  static struct page page;
  chi_error err;
  CHECK_INT(sim_plan_parse(&plan, plan_text, &err), CHI_OK);
  CHECK_INT(plan.count, 12);
  CHECK_INT(plan.entry[3].time, 1250000000);
  CHECK_INT(plan.entry[3].value, 5000000);
  CHECK_INT(plan.entry[5].value, -70);
  CHECK_INT(plan.entry[8].b, SIM_PLAN_ANY);
  sim_plan_print(&plan, page_put, &page);
  CHECK_STR(page.text, plan_text);
  CHECK_INT(sim_plan_copy(&copy, &plan), CHI_OK);
  sim_plan_remove(&copy, 0);
  sim_plan_remove(&copy, 10);
  page.size = 0;
  sim_plan_print(&copy, page_put, &page);
  CHECK_INT(page.size, strlen(plan_text) - strlen("0.000000001 calm\n7.000000000 crash 4095\n"));
  CHECK(strncmp(page.text, plan_text + strlen("0.000000001 calm\n"), page.size) == 0);
  sim_plan_free(&copy);
  sim_plan_free(&plan);
}

TEST(sim_plan_reads_what_people_write)
{
  struct sim_plan plan = {NULL, 0, 0};
  static struct page page;
  const char *text = "# a story\n\n  3 kill 1 # the first\r\n\t1.5\tcut 1   2\n1 heal\n3 start 1";
  CHECK_INT(sim_plan_parse(&plan, text, NULL), CHI_OK);
  page.size = 0;
  sim_plan_print(&plan, page_put, &page);
  CHECK_STR(page.text, "1.000000000 heal\n1.500000000 cut 1 2\n3.000000000 kill 1\n"
                       "3.000000000 start 1\n");
  CHECK_INT(sim_plan_parse(&plan, "", NULL), CHI_OK);
  CHECK_INT(plan.count, 4);
  sim_plan_free(&plan);
}

TEST(sim_plan_says_where_it_is_wrong)
{
  static const struct {
    const char *text, *error;
  } cases[] = {
      {"1 heal\nx", "2:1: a time is SECONDS or SECONDS.FRACTION"},
      {"1s heal", "1:2: a time is SECONDS or SECONDS.FRACTION"},
      {"99999999999999999999 heal", "1:10: a time is SECONDS or SECONDS.FRACTION"},
      {"1. heal", "1:3: a fraction has one to nine digits"},
      {"1.0000000001 heal", "1:12: a fraction has one to nine digits"},
      {"1 hea", "1:3: no such kind of fault"},
      {"1 heavenly_long_name_of_kind", "1:3: no such kind of fault"},
      {"1", "1:2: no such kind of fault"},
      {"1 cut", "1:6: a node's number is missing"},
      {"1 cut 0 x", "1:9: a node's number is missing"},
      {"1 cut 0 0", "1:10: there is no way from a node to itself"},
      {"1 cut 0 4096", "1:13: no node has such a number"},
      {"1 kill 4096", "1:12: no node has such a number"},
      {"1 kill *", "1:8: a node's number is missing"},
      {"1 cut 0 1 2", "1:11: there is more than this kind has"},
      {"1 clog 0 1", "1:11: a value is missing"},
      {"1 clog 0 1 -1", "1:14: the value is out of range"},
      {"1 slow 0 1 0", "1:13: the value is out of range"},
      {"1 drift 0 100001", "1:17: the value is out of range"},
      {"1 memory 1000001", "1:17: the value is out of range"},
      {"1 clog 0 1 9223372036854775808", "1:30: a value is missing"},
      {"1 disk 0 11 0", "1:14: no such operation on files"},
      {"1 disk 0 x 0", "1:10: an operation's number or * is missing"},
  };
  for (size_t i = 0; i < CHI_COUNT(cases); i++) {
    struct sim_plan plan = {NULL, 0, 0};
    chi_error err = {0};
    CHECK_INT(sim_plan_parse(&plan, cases[i].text, &err), CHI_EINVAL);
    CHECK_STR(err.text, cases[i].error);
    CHECK_INT(plan.count, strchr(cases[i].text, '\n') != NULL);
    sim_plan_free(&plan);
  }
}

TEST(sim_plan_refuses_what_makes_no_sense)
{
  struct sim_plan plan = {NULL, 0, 0};
  struct sim_plan_entry entry = {.kind = SIM_PLAN_HEAL};
  chi_error err;
  entry.value = 1;
  CHECK(!sim_plan_valid(&entry));
  CHECK_INT(sim_plan_add(&plan, &entry), CHI_EINVAL);
  entry = (struct sim_plan_entry){.kind = SIM_PLAN_KIND_COUNT};
  CHECK_INT(sim_plan_add(&plan, &entry), CHI_EINVAL);
  entry = (struct sim_plan_entry){.kind = SIM_PLAN_HEAL};
  for (uint32_t i = 0; i < SIM_PLAN_ENTRIES; i++)
    CHECK_INT(sim_plan_add(&plan, &entry), CHI_OK);
  CHECK_INT(sim_plan_add(&plan, &entry), CHI_ETOOBIG);
  CHECK_INT(sim_plan_parse(&plan, "1 heal", &err), CHI_ETOOBIG);
  CHECK_STR(err.text, "1:1: no room for the entry");
  sim_plan_free(&plan);
  CHECK_INT(sim_plan_kind("snap"), SIM_PLAN_SNAP);
  CHECK_INT(sim_plan_kind("snapp"), -1);
  CHECK_STR(sim_plan_name(SIM_PLAN_CALM), "calm");
}

/* ---- drawn plans -------------------------------------------------------------------------- */

/* Most nodes that are down at once. */
static uint32_t plan_down(const struct sim_plan *plan)
{
  uint32_t most = 0, down = 0;
  for (uint32_t i = 0; i < plan->count; i++) {
    switch (plan->entry[i].kind) {
    case SIM_PLAN_CRASH:
    case SIM_PLAN_KILL:
    case SIM_PLAN_STOP:
    case SIM_PLAN_PAUSE:
    case SIM_PLAN_ISOLATE:
      most = ++down > most ? down : most;
      break;
    case SIM_PLAN_START:
    case SIM_PLAN_RESUME:
    case SIM_PLAN_REJOIN:
      down--;
      break;
    default:
      break;
    }
  }
  return down ? UINT32_MAX : most; /* all come back */
}

TEST(sim_plan_drawn_plans_keep_their_limits)
{
  uint64_t drawn[SIM_PLAN_KIND_COUNT] = {0};
  uint32_t most = 0, without = 0;
  for (uint64_t seed = 0; seed < 300; seed++) {
    struct sim_plan plan = {NULL, 0, 0}, read = {NULL, 0, 0};
    struct sim_plan_limits limits;
    static struct page page;
    uint32_t nodes = 1 + (uint32_t)(seed % 7), down;
    bool of[SIM_PLAN_KIND_COUNT] = {false};
    sim_plan_limits(&limits, nodes, STORY_SECOND, 5 * STORY_SECOND);
    CHECK_INT(sim_plan_generate(&plan, seed, &limits), CHI_OK);
    for (uint32_t i = 0; i < plan.count; i++) {
      CHECK(sim_plan_valid(&plan.entry[i]) && plan.entry[i].a < nodes);
      CHECK(plan.entry[i].time >= limits.from && plan.entry[i].time <= limits.until);
      drawn[plan.entry[i].kind]++;
      of[plan.entry[i].kind] = true;
    }
    without += !of[SIM_PLAN_CRASH];
    CHECK_INT(plan.entry[plan.count - 1].kind, SIM_PLAN_CALM);
    down = plan_down(&plan);
    CHECK(down <= limits.down);
    most = down > most ? down : most;
    page.size = 0;
    sim_plan_print(&plan, page_put, &page);
    CHECK_INT(sim_plan_parse(&read, page.text, NULL), CHI_OK);
    CHECK_INT(read.count, plan.count);
    for (uint32_t i = 0; i < plan.count; i++) {
      const struct sim_plan_entry *a = &plan.entry[i], *b = &read.entry[i];
      CHECK(a->time == b->time && a->kind == b->kind && a->a == b->a && a->b == b->b &&
            a->value == b->value);
    }
    sim_plan_free(&read);
    sim_plan_free(&plan);
  }
  CHECK_INT(most, 3);
  CHECK(without > 100 && without < 280); /* a swarm: many runs without */
  for (int kind = 0; kind < SIM_PLAN_KIND_COUNT; kind++)
    CHECK((drawn[kind] > 0) == (kind != SIM_PLAN_HEAL && kind != SIM_PLAN_MEMORY));
}

static bool plan_has(const struct sim_plan *plan, const struct sim_plan_entry *e)
{
  for (uint32_t i = 0; i < plan->count; i++) {
    const struct sim_plan_entry *o = &plan->entry[i];
    if (o->time == e->time && o->kind == e->kind && o->a == e->a && o->b == e->b &&
        o->value == e->value)
      return true;
  }
  return false;
}

TEST(sim_plan_taking_a_kind_away_changes_no_other)
{
  for (uint64_t seed = 0; seed < 50; seed++) {
    struct sim_plan all = {NULL, 0, 0}, some = {NULL, 0, 0};
    struct sim_plan_limits limits;
    sim_plan_limits(&limits, 5, 0, STORY_SECOND);
    limits.swarm = false;
    limits.down = 5;
    CHECK_INT(sim_plan_generate(&all, seed, &limits), CHI_OK);
    limits.kinds = ~(UINT64_C(1) << SIM_PLAN_CUT | UINT64_C(1) << SIM_PLAN_DRIFT |
                     UINT64_C(1) << SIM_PLAN_MEMORY);
    CHECK_INT(sim_plan_generate(&some, seed, &limits), CHI_OK);
    for (uint32_t i = 0; i < some.count; i++)
      CHECK(plan_has(&all, &some.entry[i]));
    for (uint32_t i = 0; i < all.count; i++)
      CHECK(plan_has(&some, &all.entry[i]) || all.entry[i].kind == SIM_PLAN_CUT ||
            all.entry[i].kind == SIM_PLAN_JOIN || all.entry[i].kind == SIM_PLAN_DRIFT);
    sim_plan_free(&all);
    sim_plan_free(&some);
  }
}

/* ---- what plans do ------------------------------------------------------------------------ */

struct plan_tale {
  struct story story;
  uint64_t added, failed, slowest, gone_at;
  uint64_t seen[SIM_PLAN_KIND_COUNT], events;
};

/* Adds numbers all the time, on whatever daemon is there. */
static void plan_adder(struct sim_client *c, void *arg)
{
  struct plan_tale *t = arg;
  struct sim *sim = sim_client_sim(c);
  while (sim_now(sim) < 4 * STORY_SECOND) {
    chi_client *client;
    chi_queue *queue;
    int rc = story_attach(c, &client, &queue);
    while (rc == CHI_OK && sim_now(sim) < 4 * STORY_SECOND) {
      struct story_add *task = STORY_NEW(queue, story_add);
      uint64_t began = sim_now(sim);
      task->a = 1;
      rc = chi_run(queue, task);
      t->added += rc == CHI_OK && task->sum == 1;
      if (sim_now(sim) - began > t->slowest)
        t->slowest = sim_now(sim) - began;
      chi_task_free(queue, task);
      sim_client_sleep(c, STORY_MS);
    }
    t->failed += rc != CHI_OK;
    sim_client_sleep(c, 10 * STORY_MS);
    if (rc != CHI_ENODAEMON && rc != CHI_OK) {
      chi_queue_close(queue);
      chi_client_close(client);
    }
    if (rc == CHI_OK) {
      chi_queue_close(queue);
      chi_client_close(client);
    }
  }
}

static void plan_sink(void *arg, const struct sim_trace_event *event)
{
  struct plan_tale *t = arg;
  t->events++;
  if (event->kind == SIM_TRACE_PLAN)
    t->seen[event->b]++;
}

/* Runs a client beside a plan; the story is left open. */
static const char *plan_tell(struct plan_tale *t, uint64_t seed, const char *text)
{
  struct sim_plan plan = {NULL, 0, 0};
  chi_error err = {0};
  memset(t, 0, sizeof(*t));
  if (strcmp(story_begin(&t->story, seed), "") != 0)
    return t->story.error.text;
  sim_record(t->story.sim, plan_sink, t);
  if (sim_plan_parse(&plan, text, &err) != CHI_OK || sim_schedule(t->story.sim, &plan) != CHI_OK)
    return "no plan";
  sim_plan_free(&plan);
  sim_client(t->story.sim, 0, plan_adder, t);
  return sim_run_idle(t->story.sim, 10 * STORY_SECOND) ? "" : "it doesn't end";
}

TEST(sim_plan_story_pauses_a_node)
{
  struct plan_tale t;
  CHECK_STR(plan_tell(&t, 1, "1 pause 0\n1.5 pause 0\n2 resume 0\n2.5 resume 0"), "");
  CHECK(t.slowest >= STORY_SECOND - 2 * STORY_MS && t.slowest < STORY_SECOND + 10 * STORY_MS);
  CHECK(t.added > 500 && t.failed == 0);
  CHECK_INT(sim_done(t.story.sim, SIM_PLAN_PAUSE), 1); /* twice is once */
  CHECK_INT(sim_done(t.story.sim, SIM_PLAN_RESUME), 1);
  CHECK_INT(t.seen[SIM_PLAN_PAUSE], 2);
  CHECK(story_tells(&t.story, "2.000000000 fault: pause 0", "3.000000000 fault: resume 0", NULL));
  CHECK_STR(story_end(&t.story), "");
}

TEST(sim_plan_story_kills_stops_and_starts)
{
  struct plan_tale t;
  CHECK_STR(plan_tell(&t, 1,
                      "0.5 kill 0\n0.6 kill 0\n0.7 start 0\n1 crash 0\n1.2 start 0\n"
                      "1.3 start 0\n1.5 stop 0 100\n1.500001 start 0\n2 stop 0 0\n2.5 calm"),
            "");
  CHECK(t.added > 500 && t.failed > 4);
  CHECK_INT(sim_done(t.story.sim, SIM_PLAN_KILL), 1);
  CHECK_INT(sim_done(t.story.sim, SIM_PLAN_CRASH), 1);
  CHECK_INT(sim_done(t.story.sim, SIM_PLAN_STOP), 2);
  CHECK_INT(sim_done(t.story.sim, SIM_PLAN_START), 2);
  CHECK(story_tells(&t.story, "fault: kill 0", "is killed", "starts", "serves", "loses power",
                    "serves", "fault: stop 0 100", "fault: start 0", "stops", "serves",
                    "fault: stop 0 0", "stops", "fault: calm", "serves", NULL));
  CHECK_STR(story_end(&t.story), "");
}

TEST(sim_plan_story_disturbs_clocks_disks_and_memory)
{
  struct plan_tale t;
  CHECK_STR(plan_tell(&t, 3,
                      "0.5 drift 0 -100000\n0.6 jump 0 50000000\n0.7 jump 0 -9\n"
                      "0.8 memory 3000\n0.9 disk 0 * 1\n0.9 delay 0 1 5\n2 calm\n"
                      "2.5 cut 0 1\n2.6 clog 0 1 5\n2.7 drop 0 1\n2.7 half 1 0"),
            "");
  CHECK(t.added > 300);
  CHECK_INT(sim_done(t.story.sim, SIM_PLAN_JUMP), 2);
  CHECK_INT(sim_done(t.story.sim, SIM_PLAN_DISK), 1);
  CHECK_INT(sim_done(t.story.sim, SIM_PLAN_CUT), 1);
  CHECK_INT(sim_done(t.story.sim, SIM_PLAN_DROP), 0); /* there is no connection */
  CHECK_INT(t.seen[SIM_PLAN_DROP], 1);
  CHECK_INT(sim_faults(t.story.sim)->rule_count, 0);
  CHECK_INT(sim_faults(t.story.sim)->kinds, 0);
  CHECK_STR(story_end(&t.story), "");
}

/* Whatever is drawn for a node, the client gets on in the end. */
TEST(sim_plan_story_of_drawn_plans)
{
  uint64_t done[SIM_PLAN_KIND_COUNT] = {0};
  for (uint64_t seed = 0; seed < story_seeds(60); seed++) {
    struct plan_tale t;
    struct sim_plan plan = {NULL, 0, 0};
    struct sim_plan_limits limits;
    static struct page page;
    uint64_t hash[2];
    sim_plan_limits(&limits, 1, 0, 2 * STORY_SECOND);
    limits.outage_ns = STORY_SECOND / 5;
    limits.kinds = ~UINT64_C(0);
    CHECK_INT(sim_plan_generate(&plan, seed, &limits), CHI_OK);
    page.size = 0;
    sim_plan_print(&plan, page_put, &page);
    sim_plan_free(&plan);
    for (int round = 0; round < (seed % 10 ? 1 : 2); round++) {
      CHECK_STR(plan_tell(&t, seed, page.text), "");
      CHECK(t.added > 500);
      for (int kind = 0; kind < SIM_PLAN_KIND_COUNT; kind++)
        done[kind] += sim_done(t.story.sim, (enum sim_plan_kind)kind);
      CHECK(t.events > 0 && t.events < sim_events(t.story.sim));
      CHECK_STR(story_end(&t.story), "");
      hash[round] = t.story.hash;
    }
    CHECK(seed % 10 || hash[0] == hash[1]);
  }
  if (!story_is_whole(60))
    return;
  CHECK(done[SIM_PLAN_CRASH] && done[SIM_PLAN_KILL] && done[SIM_PLAN_STOP] && done[SIM_PLAN_START]);
  CHECK(done[SIM_PLAN_PAUSE] && done[SIM_PLAN_RESUME] && done[SIM_PLAN_DRIFT]);
  CHECK(done[SIM_PLAN_JUMP] && done[SIM_PLAN_MEMORY] && done[SIM_PLAN_CALM]);
}

/* ---- many nodes --------------------------------------------------------------------------- */

#define MANY 40u

static bool plan_all_serve(void *arg)
{
  for (uint32_t i = 0; i < MANY; i++)
    if (sim_node_state(arg, i) != RUNTIME_SERVING)
      return false;
  return true;
}

TEST(sim_plan_story_of_many_nodes_at_once)
{
  struct story s;
  uint64_t events;
  story_open(&s, 1);
  for (uint32_t i = 1; i < MANY; i++)
    CHECK_INT(sim_node_begin(s.sim, i, &s.config, s.modules, 1, NULL), CHI_OK);
  sim_node_prepare(s.sim, 0, &s.config, s.modules, 1);
  CHECK(!sim_do(s.sim, &(struct sim_plan_entry){.kind = SIM_PLAN_START, .a = MANY}));
  CHECK(sim_do(s.sim, &(struct sim_plan_entry){.kind = SIM_PLAN_START, .a = 0})); /* late */
  CHECK(!sim_do(s.sim, &(struct sim_plan_entry){.kind = SIM_PLAN_START, .a = 0}));
  CHECK(sim_run_until(s.sim, plan_all_serve, s.sim, 10 * STORY_SECOND));
  CHECK(sim_node_runtime(s.sim, 7) && !sim_node_runtime(s.sim, MANY));
  sim_run_for(s.sim, 10 * STORY_SECOND);
  events = sim_events(s.sim);
  sim_run_for(s.sim, 100 * STORY_SECOND);
  CHECK(sim_events(s.sim) - events < MANY * 100 * 20); /* who is idle costs little */
  for (uint32_t i = 1; i < MANY; i++)
    sim_node_ask_to_stop(s.sim, i, 100);
  sim_run_for(s.sim, STORY_SECOND);
  for (uint32_t i = 1; i < MANY; i++)
    CHECK_INT(sim_node_state(s.sim, i), RUNTIME_STOPPED);
  CHECK_STR(story_end(&s), "");
}

/* What a step costs is seen in when it is over. */
TEST(sim_plan_story_of_a_slow_machine)
{
  uint64_t slowest[2];
  for (int slow = 0; slow < 2; slow++) {
    struct plan_tale t;
    story_open(&t.story, 1);
    if (slow)
      sim_costs(t.story.sim)->step = 100000;
    CHECK_INT(story_start(&t.story), CHI_OK);
    t.slowest = t.added = t.failed = 0;
    sim_client(t.story.sim, 0, plan_adder, &t);
    CHECK(sim_run_idle(t.story.sim, 10 * STORY_SECOND));
    slowest[slow] = t.slowest;
    CHECK(t.added > 100);
    CHECK_STR(story_end(&t.story), "");
  }
  CHECK(slowest[0] < 100000 && slowest[1] >= 100000);
}

/* ---- declared costs ----------------------------------------------------------------------- */

#define PLAN_DEAR(X, T) X(T, OUT, u64, at)
CHI_TASK(plan_dear, 10, PLAN_DEAR)

/* Does nothing, but declares 300 us. */
static int plan_dear_run(chi_ctx *ctx, void *self, void *task)
{
  struct plan_dear *t = task;
  (void)ctx, (void)self;
  t->at = sim_now(story_sim);
  return CHI_OK;
}

static const chi_method plan_methods[] = {{&plan_dear_type, plan_dear_run, 0, 300}, {0}};
static const chi_module plan_module = {
    .version = CHI_MODULE_VERSION, .name = "story", .methods = plan_methods};

struct plan_bill {
  uint64_t began, at, ended;
  bool done;
};

static void plan_pays(struct sim_client *c, void *arg)
{
  struct plan_bill *bill = arg;
  chi_client *client;
  chi_queue *queue;
  CHECK_INT(story_attach(c, &client, &queue), CHI_OK);
  struct plan_dear *t = STORY_NEW(queue, plan_dear);
  bill->began = sim_now(sim_client_sim(c));
  CHECK_INT(chi_run(queue, t), CHI_OK);
  bill->at = t->at;
  bill->ended = sim_now(sim_client_sim(c));
  chi_task_free(queue, t);
  chi_queue_close(queue);
  chi_client_close(client);
  bill->done = true;
}

/* The time has passed before anything of the method is seen. */
TEST(sim_plan_story_of_declared_costs)
{
  for (uint64_t percent = 0; percent <= 200; percent += 100) {
    struct story s;
    struct plan_bill bill = {0, 0, 0, false};
    story_open(&s, 1);
    s.modules[0] = &plan_module;
    sim_costs(s.sim)->declared = percent;
    CHECK_INT(story_start(&s), CHI_OK);
    sim_client(s.sim, 0, plan_pays, &bill);
    CHECK(sim_run_idle(s.sim, STORY_SECOND) && bill.done);
    CHECK(bill.at - bill.began >= percent * 3000);
    CHECK(bill.ended - bill.began < percent * 3000 + 100000);
    CHECK_STR(story_end(&s), "");
  }
}
