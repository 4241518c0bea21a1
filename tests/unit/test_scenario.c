/* test_scenario.c - scenarios: read, printed, drawn; every mistake is named with its place. */
#include "scenario.h"

#include "test.h"

#ifndef CHI_OMIT_SIM

#include <stdlib.h>

/* ---- helpers -------------------------------------------------------------------------------- */

static char scenario_complaints[8192], scenario_text[1 << 20];

static void scenario_note(void *arg, int level, const char *text)
{
  size_t used = strlen(scenario_complaints);
  (void)arg, (void)level;
  snprintf(scenario_complaints + used, sizeof(scenario_complaints) - used, "%s\n", text);
}

static struct scenario *scenario_of(const char *text)
{
  struct report report = {.file = "f", .sink = scenario_note};
  scenario_complaints[0] = '\0';
  return scenario_read(text, strlen(text), &report);
}

static void scenario_gather(void *arg, const char *text)
{
  size_t *used = arg;
  *used += (size_t)snprintf(scenario_text + *used, sizeof(scenario_text) - *used, "%s", text);
}

/* Prints it to scenario_text. */
static const char *scenario_print_text(const struct scenario *s)
{
  size_t used = 0;
  scenario_text[0] = '\0';
  scenario_print(s, scenario_gather, &used);
  return scenario_text;
}

/* Whether printing and reading gives something that prints alike. */
static bool scenario_survives(const struct scenario *s)
{
  char *first = strdup(scenario_print_text(s));
  struct scenario *again = first ? scenario_of(first) : NULL;
  bool same = again && strcmp(first, scenario_print_text(again)) == 0;
  scenario_free(again);
  free(first);
  return same;
}

/* ---- reading -------------------------------------------------------------------------------- */

TEST(scenario_default_is_whole_and_survives_printing)
{
  struct scenario *s = scenario_new(true);
  CHECK(s->nodes == 3 && s->pools == 2 && s->mixes > 4 && s->random && s->kinds);
  CHECK(scenario_survives(s));
  scenario_free(s);
}

TEST(scenario_with_everything_survives_printing)
{
  struct scenario *s = scenario_of(
      "name: \"a \\\"name\\\"\"\nnodes: 5\nup: 4\nseed: 18446744073709551615\n"
      "config: {latency: 1ms}\nmodule_path: /a:/b\nmodules: [calc, other]\n"
      "pools: [{module: calc, name: c, id: 7.1, params: {x: 1}}, {module: load}]\n"
      "workload: {clients: 2, operations: 9, window: 3, think: 1ms, deadline: 2.5%,\n"
      "  deadline_after: 1ms..2ms, cancel: 100%, abandon: 0.0001, kills: 2,\n"
      "  mix: [{pool: c, method: add, query: 'range:1:3', weight: 2, size: 1..2K,\n"
      "         fields: {a: 1..5, b: two}}], only: ['3 1: 0 2-4'], kill: ['1.5 3']}\n"
      "faults: {plan: ['2 crash 4', '1.000000001 cut 0 1'],\n"
      "  random: {from: 1s, until: 2s, outage: 10ms, each: 2, down: 2, swarm: on,\n"
      "           kinds: [cut, memory]}}\n"
      "checks: {P1: off, healed: no}\nnever: [CHI_ECORRUPT, CHI_EINVAL]\n"
      "limits: {time: 5s, wall: 0, events: 100}\n");
  CHECK_STR(scenario_complaints, "");
  CHECK(s && s->seed == UINT64_MAX && s->up == 4 && s->works == 4 && s->kill_count == 1);
  CHECK(s->plan.count == 2 && s->plan.entry[0].time == 1000000001);
  CHECK(s->mix[0].a == 1 && s->mix[0].b == 3 && s->mix[0].size.high == 2048);
  CHECK(s->deadline == 25000 && s->cancel == SCENARIO_MILLION && s->abandon == 1);
  CHECK(!scenario_counts(s, "P1") && !scenario_counts(s, "healed") && scenario_counts(s, "P2"));
  CHECK(scenario_counts(s, "a check of a module's"));
  CHECK(s->never[1] == CHI_EINVAL && s->limit_wall == 0 && s->limit_events == 100);
  CHECK(scenario_survives(s));
  scenario_free(s);
}

/* What is wrong with a text, and the complaint that must be among those made. */
static const struct {
  const char *text, *complaint;
} scenario_wrong[] = {
    {"", "f: there is nothing in it"},
    {"[1]", "f:1:1: a scenario: expected a map"},
    {"a: [1\n", "f:2:1: "},
    {"nodes: 3\n nods: 4", "f:2:"},
    {"nods: 4", "f:1:1: unknown key \"nods\"; nearest is nodes"},
    {"nodes: 1\nnodes: 2", "f:2:1: nodes: is there twice"},
    {"? [1]\n: 2", "f:1:3: a key: expected one value"},
    {"nodes: 0", "f:1:8: nodes: expected a whole number from 1 to 4096, found \"0\""},
    {"nodes: [1]", "f:1:8: nodes: expected one value"},
    {"nodes: \"1\\0\"", "f:1:8: nodes: expected one value"},
    {"nodes: 2\nup: 3", "f:2:1: up: there are 2 nodes, not 3"},
    {"seed: -1", "f:1:7: seed: expected a whole number"},
    {"name: ''", "f:1:7: name: expected 1 to 63 bytes"},
    {"modules: load", "f:1:10: modules: expected a list"},
    {"config: [a]", "f:1:9: config: expected a map"},
    {"config: {a: [b]}", "f:1:13: a: expected one value"},
    {"pools: [{name: x}]", "f:1:9: a pool needs a module"},
    {"pools: [{modle: x}]", "f:1:10: unknown key \"modle\"; nearest is module"},
    {"pools: [{module: load, id: 1.0}]", "f:1:28: id: expected an id"},
    {"pools: [{module: load}, {module: load}]", "f:1:25: pools: two have the name \"load\""},
    {"workload: {mix: [{pool: a, method: b}]}", "f:1:25: pool: no pool \"a\" above"},
    {"workload: {mix: [3]}", "f:1:18: an operation: expected a map"},
    {"workload: {operations: 3}", "f:1:1: workload: there are operations, but no mix"},
    {"workload: {think: 2s..1s}", "f:1:19: think: expected a time or a range"},
    {"workload: {cancel: 101%}", "f:1:20: cancel: expected 0% to 100%"},
    {"workload: {cancel: 1x}", "f:1:20: cancel: expected 0% to 100%"},
    {"workload: {window: 65}", "f:1:20: window: expected a whole number from 1 to 64"},
    {"workload: {only: ['x']}", "f:1:19: only: expected \"CLIENT NODE: OPERATION...\""},
    {"workload: {only: ['0 0: 4 3']}", "f:1:19: only: expected"},
    {"workload: {only: ['1 0: 4', '0 0: 1']}", "f:1:29: only: expected"},
    {"workload: {only: ['0 0: 4-4294967296']}", "f:1:19: only: expected"},
    {"workload: {kill: ['1']}", "f:1:19: kill: expected \"SECONDS CLIENT\""},
    {"faults: {plan: ['1 explode']}", "f:1:17: plan: \"1 explode\": 1:3: no such kind"},
    {"faults: {plan: ['1 crash 3']}", "f:1:17: plan: \"1 crash 3\" names a node that isn't there"},
    {"faults:\n  plan: ['2 heal',\n '1 cut 0 3']", "f:3:2: plan: \"1 cut 0 3\" names a node"},
    {"workload: {only: ['0 3: 4']}", "f:1:12: only: it names a node that isn't there"},
    {"faults: {random: {each: 2}}", "f:1:18: random: needs \"until\", after \"from\""},
    {"faults: {random: {until: 1s, kinds: [start]}}", "no such kind of fault to be drawn"},
    {"faults: {random: {until: 1s, kinds: []}}", "kinds: there must be one at least"},
    {"checks: {P3: on}", "f:1:10: unknown key \"P3\"; nearest is P1"},
    {"checks: {P1: 1}", "f:1:14: P1: expected on or off, found \"1\""},
    {"never: [CHI_EWHAT]", "f:1:9: never: no such code: \"CHI_EWHAT\""},
    {"limits: {time: soon}", "f:1:16: time: expected a time"},
    {"a: &x [*x]", "f:1:1: unknown key \"a\""},
};

TEST(scenario_mistakes_are_named_with_their_place)
{
  for (size_t i = 0; i < sizeof(scenario_wrong) / sizeof(scenario_wrong[0]); i++) {
    struct scenario *s = scenario_of(scenario_wrong[i].text);
    const char *want = scenario_wrong[i].complaint;
    if (s || !strstr(scenario_complaints, want))
      test_fail(__FILE__, __LINE__, "\"%s\": %s", scenario_wrong[i].text, scenario_complaints);
    scenario_free(s);
  }
}

TEST(scenario_values_are_found_by_their_path)
{
  static const char text[] = "nodes: 3\npools:\n  - {module: a}\n"
                             "  - module: b\n    params: {x: 1,\n      y: 2}\n";
  static const struct {
    const char *path;
    int line, column;
  } places[] = {{"", 1, 1},           {"nodes", 1, 1},           {"pools", 2, 1},
                {"pools/0", 3, 5},    {"pools/0/module", 3, 6},  {"pools/1/params/y", 6, 7},
                {"pools/2/x", 2, 1},  {"pools/1/params/z", 5, 5}, {"nodes/1", 1, 1},
                {"nowhere/a", 1, 1}};
  for (size_t i = 0; i < sizeof(places) / sizeof(places[0]); i++) {
    struct report_mark at = scenario_locate(text, sizeof(text) - 1, places[i].path);
    if (at.line != places[i].line || at.column != places[i].column)
      test_fail(__FILE__, __LINE__, "%s: %d:%d", places[i].path, at.line, at.column);
  }
  CHECK_INT(scenario_locate("", 0, "a/b").line, 1);
  CHECK_INT(scenario_locate("a: [", 4, "a/b").line, 1);
}

TEST(scenario_queries)
{
  static const char *const right[] = {"local",     "id:3",      "hash",       "hash:9",  "range",
                                      "range:0:2", "broadcast", "physical:1", "dynamic", "any"};
  static const char *const wrong[] = {"",     "lokal",  "local:1",     "id:",   "range:1",
                                      "id:x", "id:1:2", "broadcast:1", "any:1", "hash:4294967295"};
  struct scenario_mix mix;
  for (size_t i = 0; i < sizeof(right) / sizeof(right[0]); i++)
    if (!scenario_parse_query(right[i], &mix))
      test_fail(__FILE__, __LINE__, "%s", right[i]);
  for (size_t i = 0; i < sizeof(wrong) / sizeof(wrong[0]); i++)
    if (scenario_parse_query(wrong[i], &mix))
      test_fail(__FILE__, __LINE__, "%s", wrong[i]);
}

/* ---- drawing -------------------------------------------------------------------------------- */

TEST(scenario_draws_are_of_the_seed)
{
  struct scenario *s = scenario_new(true), *a = scenario_draw(s, 7, true);
  struct scenario *b = scenario_draw(s, 7, true), *c = scenario_draw(s, 8, true);
  char *first = strdup(scenario_print_text(a));
  CHECK(first && strcmp(first, scenario_print_text(b)) == 0);
  CHECK(strcmp(first, scenario_print_text(c)) != 0);
  CHECK(!a->random && !a->kills && !a->swarm && a->plan.count > 0 && a->kill_count == 1);
  CHECK(scenario_survives(a));
  /* What has been drawn draws nothing more. */
  scenario_free(b);
  b = scenario_draw(a, 7, false);
  CHECK(strcmp(first, scenario_print_text(b)) == 0);
  free(first);
  scenario_free(a);
  scenario_free(b);
  scenario_free(c);
  scenario_free(s);
}

TEST(scenario_lists_all_work_in_order)
{
  struct scenario *s = scenario_of("nodes: 2\npools: [{module: load}]\nworkload: {clients: 2,"
                                   " operations: 3, mix: [{pool: load, method: echo}]}");
  CHECK(s);
  scenario_list_work(s);
  CHECK_INT(s->works, 12);
  CHECK(s->work[3].client == 1 && s->work[3].node == 0 && s->work[3].op == 0);
  CHECK(s->work[11].client == 3 && s->work[11].node == 1 && s->work[11].op == 2);
  CHECK(scenario_survives(s));
  s->works = 0; /* an empty list is not the same as none */
  CHECK(scenario_survives(s));
  CHECK(strstr(scenario_text, "only: []"));
  scenario_free(s);
}

TEST(scenario_kinds_are_those_planned_and_drawn)
{
  struct scenario *s =
      scenario_of("faults: {plan: ['1 crash 0'], random: {until: 1s, kinds: [cut]}}");
  CHECK(s);
  CHECK(scenario_kinds(s) == (UINT64_C(1) << SIM_PLAN_CRASH | UINT64_C(1) << SIM_PLAN_CUT));
  scenario_free(s);
}

#endif
