/* cmd_sim_trial.c - one run of a scenario: from its first event to what it came to. */
#include "cmd_sim.h"

#ifndef CHI_OMIT_SIM

#include <stdarg.h>
#include <stdlib.h>

#include "cluster.h"
#include "hash.h"
#include "net.h"
#include "sim_cluster.h"

#define TRIAL_SPEC 8192u
#define TRIAL_GRACE_MS 2000u
#define TRIAL_LOOK 4096u /* events between two looks at the clock */

/* A run under way. */
struct trial_state {
  const struct scenario *s;
  const struct trial_watch *watch;
  struct trial *out;
  struct modules *modules;
  chi_cluster *cluster;
  struct load *load;
  const chi_module *module[SCENARIO_POOLS];
  chi_error err;
  uint64_t room, wall_end;
  char text[120]; /* of a failure of a limit */
};

uint16_t trial_digest(const struct sim_trace_event *e)
{
  uint64_t h = hash_mix64(e->time + 1);
  h = hash_mix64(h ^ ((uint64_t)e->node << 32 | (uint32_t)e->kind));
  h = hash_mix64(h ^ e->a);
  h = hash_mix64(h ^ e->b);
  h = hash_mix64(h ^ e->c);
  if (e->text)
    h = hash_bytes(e->text, strlen(e->text), h);
  return (uint16_t)(h >> 48);
}

/* ---- while it goes on ----------------------------------------------------------------------- */

static void trial_note(struct trial_state *t, const struct sim_trace_event *e)
{
  struct trial *out = t->out;
  if (out->digests == t->room && t->room < TRIAL_DIGESTS) {
    uint64_t room = t->room ? t->room * 2 : 4096;
    uint16_t *more = realloc(out->digest, room * sizeof(*more));
    out->digest = more ? more : out->digest;
    t->room = more ? room : t->room;
  }
  if (out->digests < t->room)
    out->digest[out->digests++] = trial_digest(e);
}

static void trial_event(void *arg, const struct sim_trace_event *e)
{
  struct trial_state *t = arg;
  guard_event(e);
  trial_note(t, e);
  if (t->load)
    load_event(t->load, e);
  if (t->watch->sink)
    t->watch->sink(t->watch->arg, e);
}

static bool trial_counts(void *arg, const char *check)
{
  return scenario_counts(((struct trial_state *)arg)->s, check);
}

/* Before anything happens in the cluster. */
static void trial_opened(void *arg, chi_cluster *c)
{
  struct trial_state *t = arg;
  c->counts = trial_counts;
  c->counts_arg = t;
  sim_check_listen(sim_cluster_check(c), trial_event, t);
  if (t->watch->story)
    chi_cluster_story(c, t->watch->story, t->watch->arg);
}

static const char *trial_limits(chi_cluster *c, void *arg)
{
  struct trial_state *t = arg;
  uint64_t events = chi_cluster_events(c);
  if (t->s->limit_events && events > t->s->limit_events) {
    snprintf(t->text, sizeof(t->text), "there are more than %llu events",
             (unsigned long long)t->s->limit_events);
    return t->text;
  }
  if (t->wall_end && events % TRIAL_LOOK == 0 && cli_now() > t->wall_end)
    return "it takes too long in real time";
  return NULL;
}

/* ---- its parts ------------------------------------------------------------------------------ */

static void trial_place(struct trial *out, const char *fmt, ...)
    __attribute__((format(printf, 2, 3)));

static void trial_place(struct trial *out, const char *fmt, ...)
{
  va_list args;
  va_start(args, fmt);
  vsnprintf(out->place, sizeof(out->place), fmt, args);
  va_end(args);
}

/* Which of the settings an error is about: its text begins with the name, or has it in quotes. An
 * empty string: none. */
static const char *trial_about(const struct scenario_list *list, const char *text)
{
  char quoted[SCENARIO_NAME + 2];
  for (uint32_t i = 0; i < list->count; i++) {
    const char *name = list->item[i].name;
    size_t n = strlen(name);
    snprintf(quoted, sizeof(quoted), "\"%s\"", name);
    if ((strncmp(text, name, n) == 0 && text[n] == ':') || strstr(text, quoted))
      return name;
  }
  return "";
}

/* Of a cluster that can't be opened. */
static void trial_place_setting(struct trial_state *t)
{
  const char *name = trial_about(&t->s->config, t->err.text);
  if (*name)
    trial_place(t->out, "config/%s", name);
  else
    trial_place(t->out, "costs/%s", trial_about(&t->s->costs, t->err.text));
}

/* Of an operation that can't be made: "...: METHOD: FIELD: ...". */
static void trial_place_mix(struct trial_state *t, uint32_t i)
{
  const struct scenario_mix *m = &t->s->mix[i];
  const char *why = strstr(t->err.text, m->method);
  size_t skip = strlen(m->method) + 2;
  const char *field = why && strlen(why) > skip ? trial_about(&m->fields, why + skip) : "";
  trial_place(t->out, "workload/mix/%u/%s%s", i, *field ? "fields/" : "method", field);
}

static void trial_broken(struct trial_state *t, const char *pool)
{
  t->out->broken = true;
  snprintf(t->out->failure.check, sizeof(t->out->failure.check), "scenario");
  snprintf(t->out->failure.text, sizeof(t->out->failure.text), "%s%.80s%s%.300s",
           pool ? "pool " : "", pool ? pool : "", pool ? ": " : "", t->err.text);
}

/* The text that chi_cluster_open understands. */
static bool trial_spec(const struct scenario *s, char *spec, size_t size)
{
  size_t n = (size_t)snprintf(spec, size, "sim:nodes=%u,seed=%llu,up=%u", s->nodes,
                              (unsigned long long)s->seed, s->up ? s->up : s->nodes);
  for (uint32_t i = 0; i < s->costs.count + s->config.count && n < size; i++) {
    bool cost = i < s->costs.count;
    const struct scenario_setting *item =
        cost ? &s->costs.item[i] : &s->config.item[i - s->costs.count];
    bool plain = !strpbrk(item->name, ",=") && !strchr(item->value, ',');
    n += (size_t)snprintf(spec + n, size - n, ",%s=%s", plain ? item->name : "?", item->value);
  }
  return n < size;
}

static bool trial_open(struct trial_state *t)
{
  const struct cluster_watch watch = {trial_opened, t};
  const chi_module *const *all;
  char *spec;
  uint32_t count, at = 0;
  int rc = CHI_ENOMEM;
  t->modules = modules_load(t->s, &at, &t->err);
  if (!t->modules) {
    trial_place(t->out, "modules/%u", at);
    trial_broken(t, NULL);
    return false;
  }
  modules_reset(t->modules);
  all = modules_all(t->modules, &count);
  spec = malloc(TRIAL_SPEC);
  if (spec && trial_spec(t->s, spec, TRIAL_SPEC))
    rc = cluster_open(spec, all, count, &watch, &t->cluster, &t->err);
  free(spec);
  if (rc) {
    trial_place_setting(t);
    trial_broken(t, NULL);
  }
  return rc == CHI_OK;
}

static bool trial_pool(struct trial_state *t, uint32_t i)
{
  const struct scenario_pool *p = &t->s->pool[i];
  chi_param params[SCENARIO_SETTINGS];
  chi_pool_id id = p->id;
  t->module[i] = modules_find(t->modules, p->module);
  if (!t->module[i]) {
    snprintf(t->err.text, sizeof(t->err.text), "no module \"%s\": name it in \"modules\"",
             p->module);
    trial_place(t->out, "pools/%u/module", i);
    trial_broken(t, p->name);
    return false;
  }
  guard_pool(p->id, t->module[i]);
  for (uint32_t n = 0; n < p->params.count; n++)
    params[n] = (chi_param){(char *)p->params.item[n].name, (char *)p->params.item[n].value, 0, 0};
  if (chi_cluster_pool_create(t->cluster, 0, p->module, p->name, params, p->params.count, &id,
                              &t->err) == CHI_OK)
    return true;
  if (!chi_cluster_failure(t->cluster)) {
    trial_place(t->out, "pools/%u/params/%s", i, trial_about(&p->params, t->err.text));
    trial_broken(t, p->name);
  }
  return false;
}

static bool trial_prepare(struct trial_state *t)
{
  uint32_t mix = 0;
  chi_cluster_check(t->cluster, "limit", CHI_CHECK_EVENT, trial_limits, t);
  for (uint32_t i = 0; i < t->s->pools; i++)
    if (!trial_pool(t, i))
      return false;
  snprintf(t->err.text, sizeof(t->err.text), "no memory");
  t->load = load_open(t->cluster, t->s, t->module, &mix, &t->err);
  if (!t->load)
    trial_place_mix(t, mix);
  if (!t->load || sim_cluster_schedule(t->cluster, &t->s->plan) != CHI_OK)
    trial_broken(t, NULL);
  return !t->out->broken;
}

/* Before the checks at the end, which have faults of their own. */
static void trial_count_faults(struct trial_state *t)
{
  for (int kind = 0; kind < SIM_PLAN_KIND_COUNT; kind++)
    t->out->fault[kind] = chi_cluster_fault_count(t->cluster, kind);
}

static void trial_go(struct trial_state *t)
{
  const struct scenario *s = t->s;
  load_begin(t->load);
  for (uint32_t i = 0; i < s->kill_count; i++) {
    uint64_t time = SIM_WORLD_START + s->kill[i].time, now = chi_cluster_now(t->cluster);
    if (time > now)
      chi_cluster_run_for(t->cluster, time - now);
    if (!chi_cluster_failure(t->cluster))
      load_kill(t->load, s->kill[i].client);
  }
  chi_cluster_settle(t->cluster, s->limit_time);
  trial_count_faults(t);
  if (!chi_cluster_failure(t->cluster))
    load_verify(t->load);
  if (!chi_cluster_failure(t->cluster))
    chi_cluster_stop(t->cluster, CHI_CLUSTER_ALL, TRIAL_GRACE_MS);
}

static void trial_collect(struct trial_state *t)
{
  const struct sim_check *check = sim_cluster_check(t->cluster);
  const chi_failure *failure = chi_cluster_failure(t->cluster);
  struct trial *out = t->out;
  out->events = chi_cluster_events(t->cluster);
  out->time = chi_cluster_now(t->cluster);
  out->hash = chi_cluster_hash(t->cluster);
  out->submitted = check->submitted;
  out->completed = check->completed;
  memcpy(out->net, check->net, sizeof(out->net));
  memcpy(out->code, check->code, sizeof(out->code));
  out->failed = failure != NULL;
  if (failure)
    out->failure = *failure;
}

void trial_run(const struct scenario *s, const struct trial_watch *watch, struct trial *out)
{
  struct trial_state t = {.s = s, .watch = watch, .out = out};
  memset(out, 0, sizeof(*out));
  out->seed = s->seed;
  t.wall_end = s->limit_wall ? cli_now() + s->limit_wall : 0;
  guard_clear(s->seed);
  if (trial_open(&t) && trial_prepare(&t))
    trial_go(&t);
  if (t.cluster)
    trial_collect(&t);
  guard_clear(s->seed);
  if (t.modules)
    modules_changed(t.modules, out->warning, sizeof(out->warning));
  chi_cluster_close(t.cluster);
  load_close(t.load);
}

/* ---- sums and texts ------------------------------------------------------------------------- */

void trial_say_broken(const struct cli *cli, const struct trial *t)
{
  const char *file = cli->argument_count ? cli->arguments[0] : NULL;
  char plain[sizeof(t->failure.text)];
  size_t size = 0;
  char *text = file && t->place[0] ? simulate_read_file(cli, file, &size) : NULL;
  struct report_mark at;
  if (!text) {
    cli_fail(cli, "%s", t->failure.text);
    return;
  }
  at = scenario_locate(text, size, t->place);
  fprintf(stderr, "%s:%d:%d: %s\n", file, at.line, at.column,
          cli_plain(t->failure.text, plain, sizeof(plain)));
  free(text);
}

void trial_add(struct trial *sum, const struct trial *more)
{
  sum->events += more->events;
  sum->time += more->time;
  sum->submitted += more->submitted;
  sum->completed += more->completed;
  for (int i = 0; i < SIM_PLAN_KIND_COUNT; i++)
    sum->fault[i] += more->fault[i];
  for (int i = 0; i < SIM_CHECK_NET; i++)
    sum->net[i] += more->net[i];
  for (int i = 0; i < SIM_CHECK_CODES; i++)
    sum->code[i] += more->code[i];
  if (!sum->warning[0])
    memcpy(sum->warning, more->warning, sizeof(sum->warning));
}

const char *trial_net_name(uint32_t what)
{
  static const char *const names[] = {
      [NET_TRACE_SENT] = "request sent",       [NET_TRACE_RESENT] = "request sent again",
      [NET_TRACE_ANSWERED] = "answered",       [NET_TRACE_REPEATED] = "repetition recognised",
      [NET_TRACE_NOT_RUN] = "refused",         [NET_TRACE_MOVED] = "refused, moved",
      [NET_TRACE_RETRIED] = "begun again",     [NET_TRACE_UNREACHABLE] = "unreachable",
      [NET_TRACE_UNKNOWN] = "unknown outcome", [NET_TRACE_ABORTED] = "cancelled, nobody waits"};
  return what < CHI_COUNT(names) && names[what] ? names[what] : "other";
}

#undef TRIAL_SPEC
#undef TRIAL_GRACE_MS
#undef TRIAL_LOOK

#endif
