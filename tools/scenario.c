/* scenario.c - what a simulation is to do: the default, copies, draws, and its text. */
#include "scenario.h"

#ifndef CHI_OMIT_SIM

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>

#include "rng.h"
#include "text.h"
#include "units.h"

#define SCENARIO_MS UINT64_C(1000000)
#define SCENARIO_SECOND UINT64_C(1000000000)
#define SCENARIO_STREAM UINT64_C(0x5363656e6172) /* of random numbers */
#define SCENARIO_KILLED_BY (2 * SCENARIO_SECOND) /* where no faults are drawn */
#define SCENARIO_RUNS 16                         /* runs of numbers in a line of work */

static void *scenario_memory(void *old, size_t size)
{
  void *p = realloc(old, size);
  if (!p) {
    fprintf(stderr, "chimaera: no memory for the scenario\n");
    exit(1);
  }
  return p;
}

/* ---- one and another ------------------------------------------------------------------------ */

static const char *const scenario_check_names[] = {
#define SCENARIO_TEXT(name, text) text,
    SCENARIO_CHECKS(SCENARIO_TEXT)
#undef SCENARIO_TEXT
};

const char *scenario_check_name(enum scenario_check check)
{
  CHI_ASSERT(check < SCENARIO_CHECK_COUNT);
  return scenario_check_names[check];
}

bool scenario_counts(const struct scenario *s, const char *check)
{
  for (uint32_t i = 0; i < SCENARIO_CHECK_COUNT; i++)
    if (strcmp(scenario_check_names[i], check) == 0)
      return !(s->off >> i & 1);
  return true;
}

static const char scenario_full[] =
    "pools:\n"
    "  - {module: load, name: load, id: 900.0}\n"
    "  - {module: bdev, name: disk.dat, id: 901.0, params: {bdev_type: file, capacity: 4M}}\n"
    "config: {heartbeat_interval: 200ms, task_timeout: 2s, wait_for_restart: 1s}\n"
    "workload:\n"
    "  {clients: 2, operations: 40, window: 4, think: 0s..40ms, deadline: 4%,\n"
    "   deadline_after: 1ms..50ms, cancel: 4%, abandon: 2%, kills: 1,\n"
    "   mix: [{pool: load, method: echo, query: any, weight: 6, size: 0..16K},\n"
    "         {pool: load, method: sleep, query: any, weight: 2, fields: {ns: 0..20000000}},\n"
    "         {pool: load, method: gather, query: broadcast, weight: 2},\n"
    "         {pool: load, method: gather, query: range, weight: 2},\n"
    "         {pool: load, method: relay, query: any, weight: 2, fields: {key: 0..1000}},\n"
    "         {pool: load, method: lock, query: any, fields: {ns: 0..5000000}},\n"
    "         {pool: load, method: again, query: hash},\n"
    "         {pool: disk.dat, method: store, query: physical, weight: 2, size: 1..32K}]}\n"
    "faults: {random: {until: 3s, outage: 500ms, each: 3}}\n";

struct scenario *scenario_new(bool full)
{
  struct report report = {.file = "the default scenario"};
  struct scenario *s;
  if (full) {
    s = scenario_read(scenario_full, sizeof(scenario_full) - 1, &report);
    CHI_ASSERT(s);
    snprintf(s->name, sizeof(s->name), "default");
    return s;
  }
  s = scenario_memory(NULL, sizeof(*s));
  memset(s, 0, sizeof(*s));
  snprintf(s->name, sizeof(s->name), "scenario");
  s->nodes = 3;
  s->seed = s->clients = s->window = s->down = 1;
  s->each = 3;
  s->from = 100 * SCENARIO_MS;
  s->deadline_after = (struct scenario_range){SCENARIO_MS, 50 * SCENARIO_MS};
  s->limit_time = 120 * SCENARIO_SECOND;
  s->limit_events = 20000000;
  s->limit_wall = 60 * SCENARIO_SECOND;
  return s;
}

struct scenario *scenario_copy(const struct scenario *from)
{
  struct scenario *s = scenario_memory(NULL, sizeof(*s));
  memcpy(s, from, sizeof(*s));
  s->plan = (struct sim_plan){0};
  if (sim_plan_copy(&s->plan, &from->plan) != CHI_OK)
    scenario_memory(NULL, SIZE_MAX / 2);
  if (from->work) {
    s->work = scenario_memory(NULL, (from->works + 1) * sizeof(*s->work));
    memcpy(s->work, from->work, from->works * sizeof(*s->work));
  }
  return s;
}

void scenario_free(struct scenario *s)
{
  if (!s)
    return;
  sim_plan_free(&s->plan);
  free(s->work);
  free(s);
}

/* ---- work ----------------------------------------------------------------------------------- */

uint32_t scenario_node(const struct scenario *s, uint32_t client)
{
  return client / s->clients % s->nodes;
}

void scenario_list_work(struct scenario *s)
{
  uint64_t count = (uint64_t)s->nodes * s->clients * s->operations;
  if (s->work || count > SCENARIO_OPERATIONS)
    return;
  s->work = scenario_memory(NULL, (count + 1) * sizeof(*s->work));
  s->works = 0;
  for (uint32_t client = 0; client < s->nodes * s->clients; client++)
    for (uint32_t op = 0; op < s->operations; op++)
      s->work[s->works++] = (struct scenario_work){client, scenario_node(s, client), op};
}

/* At the end: the list is in order, and nothing is there twice. */
static bool scenario_add_work(struct scenario *s, const struct scenario_work *work)
{
  const struct scenario_work *last = s->works ? &s->work[s->works - 1] : NULL;
  if (s->works == SCENARIO_OPERATIONS)
    return false;
  if (last && last->client > work->client)
    return false;
  if (last && last->client == work->client && (last->op >= work->op || last->node != work->node))
    return false;
  if (!s->work || (s->works & (s->works + 1)) == 0) /* full at powers of two less one */
    s->work = scenario_memory(s->work, (s->works + 1) * 2 * sizeof(*s->work));
  s->work[s->works++] = *work;
  return true;
}

/* A number in front of the text, up to `most`. */
static bool scenario_digits(const char **text, uint64_t most, uint32_t *out)
{
  uint64_t value = 0;
  size_t n = strspn(*text, "0123456789");
  for (size_t i = 0; i < n && value <= most; i++)
    value = value * 10 + (uint64_t)((*text)[i] - '0');
  *text += n;
  *out = (uint32_t)value;
  return n > 0 && value <= most;
}

static bool scenario_mark(const char **text, const char *mark)
{
  size_t n = strlen(mark);
  if (strncmp(*text, mark, n) != 0)
    return false;
  *text += n;
  return true;
}

bool scenario_parse_work(struct scenario *s, const char *text)
{
  struct scenario_work work;
  uint32_t last;
  if (!scenario_digits(&text, UINT32_MAX - 1, &work.client) || !scenario_mark(&text, " ") ||
      !scenario_digits(&text, SIM_PLAN_NODES - 1, &work.node) || !scenario_mark(&text, ":"))
    return false;
  while (scenario_mark(&text, " ")) {
    if (!scenario_digits(&text, SCENARIO_OPERATIONS - 1, &work.op))
      return false;
    last = work.op;
    if (scenario_mark(&text, "-") && !scenario_digits(&text, SCENARIO_OPERATIONS - 1, &last))
      return false;
    for (; work.op <= last; work.op++)
      if (!scenario_add_work(s, &work))
        return false;
  }
  return *text == '\0';
}

static bool scenario_add_kill(struct scenario *s, uint64_t time, uint32_t client)
{
  uint32_t at = s->kill_count;
  if (at == SCENARIO_KILLS)
    return false;
  for (; at > 0 && s->kill[at - 1].time > time; at--)
    s->kill[at] = s->kill[at - 1];
  s->kill[at] = (struct scenario_kill){time, client};
  s->kill_count++;
  return true;
}

bool scenario_parse_kill(struct scenario *s, const char *text)
{
  char time[32];
  uint64_t ns;
  uint32_t client;
  size_t n = strcspn(text, " ");
  if (n >= sizeof(time) || text[n] != ' ')
    return false;
  snprintf(time, sizeof(time), "%.*s", (int)n, text);
  text += n + 1;
  return chi_parse_duration(time, SCENARIO_SECOND, &ns) == CHI_OK &&
         scenario_digits(&text, UINT32_MAX - 1, &client) && *text == '\0' &&
         scenario_add_kill(s, ns, client);
}

/* ---- texts of values ------------------------------------------------------------------------ */

static bool scenario_amount(const char *text, bool time, uint64_t *out)
{
  return (time ? chi_parse_duration(text, SCENARIO_SECOND, out) : chi_parse_size(text, out)) ==
         CHI_OK;
}

bool scenario_parse_range(const char *text, bool times, struct scenario_range *out)
{
  const char *dots = strstr(text, "..");
  struct scenario_range range;
  char low[64];
  size_t n = dots ? (size_t)(dots - text) : strlen(text);
  if (n >= sizeof(low))
    return false;
  snprintf(low, sizeof(low), "%.*s", (int)n, text);
  if (!scenario_amount(low, times, &range.low) ||
      !scenario_amount(dots ? dots + 2 : low, times, &range.high) || range.low > range.high)
    return false;
  *out = range;
  return true;
}

bool scenario_parse_chance(const char *text, uint32_t *out)
{
  uint32_t whole, unit = SCENARIO_MILLION / 100, parts = 0;
  if (!scenario_digits(&text, 100, &whole))
    return false;
  if (scenario_mark(&text, "."))
    for (; *text >= '0' && *text <= '9' && unit >= 10; text++) {
      unit /= 10;
      parts += (uint32_t)(*text - '0') * unit;
    }
  scenario_mark(&text, "%");
  parts += whole * (SCENARIO_MILLION / 100);
  if (*text || parts > SCENARIO_MILLION)
    return false;
  *out = parts;
  return true;
}

static const char *const scenario_modes[] = {"local",     "id",       "hash",    "range",
                                             "broadcast", "physical", "dynamic", "any"};

const char *scenario_mode_name(uint32_t mode)
{
  CHI_ASSERT(mode < CHI_COUNT(scenario_modes));
  return scenario_modes[mode];
}

/* How many operands a mode has at most. */
static uint32_t scenario_operands(uint32_t mode)
{
  if (mode == CHI_QUERY_RANGE)
    return 2;
  return mode == CHI_QUERY_ID || mode == CHI_QUERY_HASH || mode == CHI_QUERY_PHYSICAL;
}

bool scenario_parse_query(const char *text, struct scenario_mix *out)
{
  uint32_t operand[2] = {SCENARIO_DRAWN, SCENARIO_DRAWN}, mode = 0, count = 0;
  size_t n = strcspn(text, ":");
  while (mode < CHI_COUNT(scenario_modes) &&
         (strlen(scenario_modes[mode]) != n || strncmp(scenario_modes[mode], text, n) != 0))
    mode++;
  if (mode == CHI_COUNT(scenario_modes))
    return false;
  for (text += n; count < scenario_operands(mode) && scenario_mark(&text, ":"); count++)
    if (!scenario_digits(&text, UINT32_MAX - 1, &operand[count]))
      return false;
  if (*text || (mode == CHI_QUERY_RANGE && count == 1))
    return false;
  out->mode = mode;
  out->a = operand[0];
  out->b = operand[1];
  return true;
}

/* ---- draws ---------------------------------------------------------------------------------- */

uint64_t scenario_kinds(const struct scenario *s)
{
  uint64_t kinds = 0;
  for (uint32_t i = 0; i < s->plan.count; i++)
    kinds |= UINT64_C(1) << s->plan.entry[i].kind;
  return kinds | (s->random ? s->kinds : 0);
}

static void scenario_draw_setting(struct scenario *s, struct rng *rng, const char *name,
                                  const char *const values[3])
{
  uint64_t draw = rng_below(rng, 6);
  uint32_t i = 0;
  while (i < s->config.count && strcmp(s->config.item[i].name, name) != 0)
    i++;
  if (draw >= 3 || i < s->config.count || i == SCENARIO_SETTINGS)
    return;
  snprintf(s->config.item[i].name, SCENARIO_NAME, "%s", name);
  snprintf(s->config.item[i].value, SCENARIO_VALUE, "%s", values[draw]);
  s->config.count++;
}

/* Limits that matter, unless the scenario says itself what they are. */
static void scenario_draw_limits(struct scenario *s, uint64_t seed)
{
  static const struct {
    const char *name, *values[3];
  } limits[] = {{"queue_depth", {"4", "16", "256"}},
                {"neighborhood_size", {"1", "2", "8"}},
                {"sched_threads", {"1", "1", "4"}},
                {"task_timeout", {"500ms", "1s", "10s"}},
                {"wait_for_restart", {"0s", "200ms", "3s"}},
                {"latency", {"5us", "1ms", "20ms"}}};
  struct rng rng;
  rng_seed(&rng, seed, SCENARIO_STREAM, 1);
  for (size_t i = 0; i < CHI_COUNT(limits); i++)
    scenario_draw_setting(s, &rng, limits[i].name, limits[i].values);
  s->outage >>= rng_below(&rng, 4);
  s->each = 1 + (uint32_t)rng_below(&rng, s->each);
  s->window = 1 + (uint32_t)rng_below(&rng, s->window);
  s->think.high = s->think.low + (s->think.high - s->think.low) / (1 + rng_below(&rng, 8));
}

static void scenario_draw_faults(struct scenario *s, uint64_t seed)
{
  struct sim_plan_limits limits;
  sim_plan_limits(&limits, s->nodes, s->from, s->until);
  limits.kinds = s->kinds;
  limits.outage_ns = s->outage ? s->outage : limits.outage_ns;
  limits.per_kind = s->each;
  limits.down = s->down;
  limits.swarm = s->swarm;
  if (sim_plan_generate(&s->plan, seed, &limits) != CHI_OK)
    fprintf(stderr, "chimaera: not all of the faults fit the plan\n");
  s->random = false;
}

struct scenario *scenario_draw(const struct scenario *from, uint64_t seed, bool swarm)
{
  struct scenario *s = scenario_copy(from);
  uint64_t last = s->random ? s->until : SCENARIO_KILLED_BY;
  struct rng rng;
  s->seed = seed;
  s->swarm = s->swarm || swarm;
  if (s->swarm)
    scenario_draw_limits(s, seed);
  if (s->random)
    scenario_draw_faults(s, seed);
  for (uint32_t i = 0; i < s->kills; i++) {
    rng_seed(&rng, seed, SCENARIO_STREAM + 1, i);
    uint64_t time = rng_below(&rng, last), client = rng_below(&rng, s->nodes * s->clients);
    scenario_add_kill(s, time, (uint32_t)client);
  }
  s->kills = 0;
  s->swarm = false;
  return s;
}

/* ---- printing ------------------------------------------------------------------------------- */

struct scenario_out {
  chi_put_fn *put;
  void *arg;
};

static void scenario_say(const struct scenario_out *o, const char *fmt, ...)
    __attribute__((format(printf, 2, 3)));

static void scenario_say(const struct scenario_out *o, const char *fmt, ...)
{
  char line[CHI_PATH_MAX + 64];
  va_list args;
  va_start(args, fmt);
  vsnprintf(line, sizeof(line), fmt, args);
  va_end(args);
  o->put(o->arg, line);
}

/* "NAME: "VALUE""; in quotes it means what it says, whatever it is. */
static void scenario_say_text(const struct scenario_out *o, const char *before, const char *value)
{
  o->put(o->arg, before);
  text_put_string(value, SIZE_MAX, o->put, o->arg);
}

static void scenario_say_list(const struct scenario_out *o, const char *before,
                              const struct scenario_list *list)
{
  scenario_say(o, "%s{", before);
  for (uint32_t i = 0; i < list->count; i++) {
    scenario_say_text(o, i ? ", " : "", list->item[i].name);
    scenario_say_text(o, ": ", list->item[i].value);
  }
  scenario_say(o, "}");
}

static void scenario_say_range(const struct scenario_out *o, const char *before, bool times,
                               const struct scenario_range *r)
{
  char low[CHI_FORMAT_MAX], high[CHI_FORMAT_MAX];
  const char *(*format)(uint64_t, char *, size_t) = times ? chi_format_duration : chi_format_size;
  scenario_say(o, "%s%s..%s", before, format(r->low, low, sizeof(low)),
               format(r->high, high, sizeof(high)));
}

static void scenario_say_time(const struct scenario_out *o, const char *before, uint64_t ns)
{
  char text[CHI_FORMAT_MAX];
  scenario_say(o, "%s%s", before, chi_format_duration(ns, text, sizeof(text)));
}

static void scenario_say_pools(const struct scenario_out *o, const struct scenario *s)
{
  scenario_say(o, "pools:%s\n", s->pools ? "" : " []");
  for (uint32_t i = 0; i < s->pools; i++) {
    const struct scenario_pool *p = &s->pool[i];
    scenario_say_text(o, "  - {module: ", p->module);
    scenario_say_text(o, ", name: ", p->name);
    scenario_say(o, ", id: %u.%u", p->id.major, p->id.minor);
    scenario_say_list(o, ", params: ", &p->params);
    scenario_say(o, "}\n");
  }
}

static void scenario_say_mix(const struct scenario_out *o, const struct scenario *s,
                             const struct scenario_mix *m)
{
  scenario_say_text(o, "    - {pool: ", s->pool[m->pool].name);
  scenario_say_text(o, ", method: ", m->method);
  scenario_say(o, ", query: \"%s", scenario_modes[m->mode]);
  if (m->a != SCENARIO_DRAWN)
    scenario_say(o, ":%u", m->a);
  if (m->b != SCENARIO_DRAWN)
    scenario_say(o, ":%u", m->b);
  scenario_say(o, "\", weight: %u", m->weight);
  scenario_say_range(o, ", size: ", false, &m->size);
  scenario_say_list(o, ", fields: ", &m->fields);
  scenario_say(o, "}\n");
}

/* One line for each client, numbers that follow each other as a run. */
static void scenario_say_work(const struct scenario_out *o, const struct scenario *s)
{
  uint32_t i = 0, last, runs;
  scenario_say(o, "  only:%s\n", s->works ? "" : " []");
  while (i < s->works) {
    const struct scenario_work *w = &s->work[i];
    scenario_say(o, "    - \"%u %u:", w->client, w->node);
    for (runs = 0; i < s->works && s->work[i].client == w->client && runs < SCENARIO_RUNS; runs++) {
      for (last = i; last + 1 < s->works && s->work[last + 1].client == w->client &&
                     s->work[last + 1].op == s->work[last].op + 1;)
        last++;
      scenario_say(o, last > i ? " %u-%u" : " %u", s->work[i].op, s->work[last].op);
      i = last + 1;
    }
    scenario_say(o, "\"\n");
  }
}

static void scenario_say_chance(const struct scenario_out *o, const char *name, uint32_t ppm)
{
  scenario_say(o, "  %s: %u.%04u%%\n", name, ppm / 10000, ppm % 10000);
}

static void scenario_say_workload(const struct scenario_out *o, const struct scenario *s)
{
  scenario_say(o, "workload:\n  clients: %u\n  operations: %u\n  window: %u\n  kills: %u\n",
               s->clients, s->operations, s->window, s->kills);
  scenario_say_range(o, "  think: ", true, &s->think);
  scenario_say_range(o, "\n  deadline_after: ", true, &s->deadline_after);
  scenario_say(o, "\n");
  scenario_say_chance(o, "deadline", s->deadline);
  scenario_say_chance(o, "cancel", s->cancel);
  scenario_say_chance(o, "abandon", s->abandon);
  scenario_say(o, "  mix:%s\n", s->mixes ? "" : " []");
  for (uint32_t i = 0; i < s->mixes; i++)
    scenario_say_mix(o, s, &s->mix[i]);
  if (s->work)
    scenario_say_work(o, s);
  scenario_say(o, "  kill:%s\n", s->kill_count ? "" : " []");
  for (uint32_t i = 0; i < s->kill_count; i++)
    scenario_say(o, "    - \"%llu.%09llu %u\"\n",
                 (unsigned long long)(s->kill[i].time / SCENARIO_SECOND),
                 (unsigned long long)(s->kill[i].time % SCENARIO_SECOND), s->kill[i].client);
}

static void scenario_say_random(const struct scenario_out *o, const struct scenario *s)
{
  const char *before = "kinds: [";
  scenario_say_time(o, "  random: {from: ", s->from);
  scenario_say_time(o, ", until: ", s->until);
  scenario_say(o, ", each: %u, down: %u, swarm: %s", s->each, s->down, s->swarm ? "on" : "off");
  if (s->outage)
    scenario_say_time(o, ", outage: ", s->outage);
  scenario_say(o, ",\n    ");
  for (int kind = 0; kind < SIM_PLAN_KIND_COUNT; kind++)
    if (s->kinds >> kind & 1) {
      scenario_say(o, "%s%s", before, sim_plan_name((enum sim_plan_kind)kind));
      before = ", ";
    }
  scenario_say(o, "]}\n");
}

static void scenario_say_faults(const struct scenario_out *o, const struct scenario *s)
{
  scenario_say(o, "faults:\n  plan:%s\n", s->plan.count ? "" : " []");
  for (uint32_t i = 0; i < s->plan.count; i++) {
    char line[96];
    sim_plan_line(&s->plan.entry[i], line, sizeof(line));
    scenario_say(o, "    - \"%s\"\n", line);
  }
  if (s->random)
    scenario_say_random(o, s);
}

static void scenario_say_checks(const struct scenario_out *o, const struct scenario *s)
{
  scenario_say(o, "checks: {");
  for (uint32_t i = 0; i < SCENARIO_CHECK_COUNT; i++)
    scenario_say(o, "%s%s: %s", i ? ", " : "", scenario_check_names[i],
                 s->off >> i & 1 ? "off" : "on");
  scenario_say(o, "}\nnever: [");
  for (uint32_t i = 0; i < s->nevers; i++)
    scenario_say(o, "%s%s", i ? ", " : "", chi_status_name(s->never[i]));
  scenario_say(o, "]\n");
}

void scenario_print(const struct scenario *s, chi_put_fn *put, void *arg)
{
  const struct scenario_out o = {put, arg};
  scenario_say_text(&o, "name: ", s->name);
  scenario_say(&o, "\nnodes: %u\nup: %u\nseed: %llu\n", s->nodes, s->up ? s->up : s->nodes,
               (unsigned long long)s->seed);
  if (s->costs.count) {
    scenario_say_list(&o, "costs: ", &s->costs);
    scenario_say(&o, "\n");
  }
  scenario_say_list(&o, "config: ", &s->config);
  if (s->module_path[0])
    scenario_say_text(&o, "\nmodule_path: ", s->module_path);
  scenario_say(&o, "\nmodules: [");
  for (uint32_t i = 0; i < s->module_count; i++)
    scenario_say_text(&o, i ? ", " : "", s->modules[i]);
  scenario_say(&o, "]\n");
  scenario_say_pools(&o, s);
  scenario_say_workload(&o, s);
  scenario_say_faults(&o, s);
  scenario_say_checks(&o, s);
  scenario_say_time(&o, "limits: {time: ", s->limit_time);
  scenario_say_time(&o, ", wall: ", s->limit_wall);
  scenario_say(&o, ", events: %llu}\n", (unsigned long long)s->limit_events);
}

#undef SCENARIO_MS
#undef SCENARIO_SECOND
#undef SCENARIO_STREAM
#undef SCENARIO_KILLED_BY
#undef SCENARIO_RUNS

#endif
