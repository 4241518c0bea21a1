/* sim_cluster.c - a cluster of simulated nodes behind the handle chi_cluster. */
#include "sim_cluster.h"
#include "error.h"

#include <stdio.h>
#include <stdlib.h>
#ifdef __GLIBC__
#include <malloc.h>
#endif

#define SIM_CLUSTER_PENDING 64u                    /* faults asked for within one event */
#define SIM_CLUSTER_START_NS UINT64_C(60000000000) /* nodes come up within that */
#define SIM_CLUSTER_RETRY_NS UINT64_C(10000000)    /* between a client's looks for its node */
#define SIM_CLUSTER_LOOK_NS UINT64_C(10000000)     /* between looks whether all is settled */
#define SIM_CLUSTER_STOP_NS UINT64_C(1000000000)   /* a stop's phases last grace and that */
#define SIM_CLUSTER_LARGE 100u                     /* nodes whose start takes much memory */
#define SIM_CLUSTER_PHASES 4u                      /* drain, cancel, close the pools, stuck */

/* A client program. */
struct sim_cluster_client {
  struct sim_cluster_client *next;
  struct sim_cluster *cluster;
  uint32_t number;
  bool ended;
  chi_cluster_body *body;
  void *arg;
};

struct sim_cluster {
  struct chi_cluster base;
  struct sim *sim;
  struct sim_check check;
  chi_config config;
  const chi_module **modules;
  uint32_t module_count;
  struct sim_cluster_client *clients, **last_client;
  uint32_t clients_left;
  struct sim_plan plan; /* everything that was planned, or done at once */
  uint64_t plan_end;    /* virtual time of its last entry */
  struct sim_plan_entry pending[SIM_CLUSTER_PENDING];
  uint32_t pending_count;
};

static struct sim_cluster *sim_cluster_of(chi_cluster *c)
{
  return CHI_CONTAINER_OF(c, struct sim_cluster, base);
}

static const struct sim_cluster *sim_cluster_of_const(const chi_cluster *c)
{
  return CHI_CONTAINER_OF(c, struct sim_cluster, base);
}

/* ---- time --------------------------------------------------------------------------------- */

/* What was asked for while somebody ran, now that nobody does. */
static void sim_cluster_apply(struct sim_cluster *s)
{
  uint32_t count = s->pending_count;
  s->pending_count = 0;
  for (uint32_t i = 0; i < count; i++)
    sim_do(s->sim, &s->pending[i]);
}

/* After each event: the built-in checks, then those of the user. */
static bool sim_cluster_holds(struct sim_cluster *s)
{
  const char *failure = sim_failure(s->sim);
  if (failure)
    chi_cluster_fail(&s->base, sim_failed_check(s->sim), "%s", failure);
  if (s->check.failed)
    chi_cluster_fail(&s->base, s->check.failed, "%s", s->check.why);
  s->check.failed = NULL; /* if it doesn't count, others go on */
  return cluster_holds(&s->base, CHI_CHECK_EVENT);
}

struct sim_cluster_run {
  struct sim_cluster *cluster;
  chi_cluster_fn *pred;
  void *arg;
};

static bool sim_cluster_tick(void *arg)
{
  struct sim_cluster_run *run = arg;
  struct sim_cluster *s = run->cluster;
  if (s->pending_count)
    sim_cluster_apply(s);
  return !sim_cluster_holds(s) || run->pred(&s->base, run->arg);
}

static int sim_cluster_run(chi_cluster *c, chi_cluster_fn *pred, void *arg, uint64_t limit_ns)
{
  struct sim_cluster *s = sim_cluster_of(c);
  struct sim_cluster_run run = {s, pred, arg};
  bool held;
  c->running = true;
  held = sim_run_until(s->sim, sim_cluster_tick, &run, limit_ns);
  sim_cluster_apply(s);
  c->running = false;
  if (c->failed)
    return CHI_ECANCELLED;
  return held ? CHI_OK : CHI_ETIMEOUT;
}

static uint64_t sim_cluster_now(const chi_cluster *c)
{
  return sim_now(sim_cluster_of_const(c)->sim);
}

static uint64_t sim_cluster_hash(const chi_cluster *c)
{
  return sim_hash(sim_cluster_of_const(c)->sim);
}

static uint64_t sim_cluster_events(const chi_cluster *c)
{
  return sim_events(sim_cluster_of_const(c)->sim);
}

static void sim_cluster_story(chi_cluster *c, chi_put_fn *put, void *arg)
{
  sim_transcript(sim_cluster_of(c)->sim, put, arg);
}

/* A wait for what takes long to find out: now and then, a look. */
struct sim_cluster_wait {
  uint64_t look_at;
  char why[200]; /* what was missing at the last look */
};

/* ---- nodes -------------------------------------------------------------------------------- */

static bool sim_cluster_is_up(const chi_cluster *c, uint32_t node)
{
  return sim_node_state(sim_cluster_of_const(c)->sim, node) == RUNTIME_SERVING;
}

/* Nodes that were started; those before `first` have come up. */
struct sim_cluster_rise {
  uint32_t first, count;
};

/* Whether every one has, or one has failed. */
static int sim_cluster_has_started(chi_cluster *c, void *arg)
{
  struct sim_cluster_rise *rise = arg;
  for (; rise->first < rise->count; rise->first++) {
    enum runtime_state state = sim_node_state(sim_cluster_of(c)->sim, rise->first);
    if (state != RUNTIME_SERVING)
      return state != RUNTIME_STARTING;
  }
  return 1;
}

static int sim_cluster_has_met(chi_cluster *c, void *arg)
{
  struct sim_cluster_wait *wait = arg;
  struct sim_cluster *s = sim_cluster_of(c);
  if (sim_now(s->sim) < wait->look_at)
    return 0;
  wait->look_at = sim_now(s->sim) + SIM_CLUSTER_LOOK_NS;
  return sim_check_met(&s->check, wait->why, sizeof(wait->why));
}

/* Runs until the nodes that were started have found each other. */
static int sim_cluster_meet(struct sim_cluster *s, chi_error *err)
{
  struct sim_cluster_wait wait = {0, ""};
  int rc = sim_cluster_run(&s->base, sim_cluster_has_met, &wait, SIM_CLUSTER_START_NS);
  if (s->base.failed)
    return error_set(err, CHI_ECANCELLED, "%s", s->base.failure.text);
  return rc ? error_set(err, rc, "%s", wait.why) : rc;
}

static int sim_cluster_start(struct sim_cluster *s, uint32_t up, chi_error *err)
{
  struct sim_cluster_rise rise = {0, up};
  int rc;
  for (uint32_t i = 0; i < s->base.nodes; i++)
    sim_node_prepare(s->sim, i, &s->config, s->modules, s->module_count);
  for (uint32_t i = 0; i < up; i++) {
    rc = sim_node_begin(s->sim, i, &s->config, s->modules, s->module_count, err);
    if (rc)
      return rc;
  }
  sim_cluster_run(&s->base, sim_cluster_has_started, &rise, SIM_CLUSTER_START_NS);
  if (s->base.failed)
    return error_set(err, CHI_ECANCELLED, "%s", s->base.failure.text);
  for (uint32_t i = 0; i < up; i++) {
    const struct runtime *rt = sim_node_runtime(s->sim, i);
    enum runtime_state state = sim_node_state(s->sim, i);
    if (state == RUNTIME_FAILED && rt)
      return error_set(err, runtime_failure(rt)->code, "node %u: %s", i, runtime_failure(rt)->text);
    if (state != RUNTIME_SERVING)
      return error_set(err, CHI_ETIMEOUT, "node %u does not come up", i);
  }
  rc = sim_cluster_meet(s, err);
#ifdef __GLIBC__
  if (up >= SIM_CLUSTER_LARGE)
    malloc_trim(0); /* what only the meeting of all with all took */
#endif
  return rc;
}

static void sim_cluster_close(chi_cluster *c)
{
  struct sim_cluster *s = sim_cluster_of(c);
  sim_close(s->sim);
  sim_check_close(&s->check);
  sim_plan_free(&s->plan);
  while (s->clients) {
    struct sim_cluster_client *client = s->clients;
    s->clients = client->next;
    free(client);
  }
  chi_config_free(&s->config);
  free(s->modules);
  free(s);
}

/* The cost of a byte on a line of so many bytes a second, picoseconds. */
static uint64_t sim_cluster_byte_ps(uint64_t bandwidth)
{
  uint64_t ps = UINT64_C(1000000000000) / bandwidth;
  return ps ? ps : 1;
}

_Static_assert(SIM_PROFILE_COUNT <= CLUSTER_COSTS, "room for every cost");

static int sim_cluster_key(struct cluster_spec *spec, const char *name, const char *value,
                           chi_error *err)
{
  uint32_t which = 0;
  uint64_t number = 0;
  int rc = sim_profile_parse(name, value, &which, &number, err);
  if (rc != CHI_OK)
    return rc;
  spec->cost[which] = number;
  spec->costs_set |= 1u << which;
  return CHI_OK;
}

static int sim_cluster_open(struct cluster_spec *spec, const chi_module *const *modules,
                            uint32_t count, chi_cluster **out, chi_error *err)
{
  struct sim_cluster *s = sim_world_new(sizeof(*s));
  cluster_init(&s->base, sim_cluster_kind(), spec);
  s->last_client = &s->clients;
  s->config = spec->config;
  chi_config_init(&spec->config);
  s->modules = sim_world_new((count + 1) * sizeof(const chi_module *));
  s->module_count = count;
  for (uint32_t i = 0; i < count; i++)
    s->modules[i] = modules[i];
  s->sim = sim_open(spec->seed);
  for (uint32_t i = 0; i < SIM_PROFILE_COUNT; i++)
    if (spec->costs_set & 1u << i)
      sim_profile_put(sim_costs(s->sim), i, spec->cost[i]);
  if (spec->latency_ns)
    sim_costs(s->sim)->latency = spec->latency_ns;
  if (spec->bandwidth)
    sim_costs(s->sim)->byte_ps = sim_cluster_byte_ps(spec->bandwidth);
  sim_check_open(&s->check, s->sim, spec->nodes);
  if (spec->watch)
    spec->watch->opened(spec->watch->arg, &s->base);
  int rc = sim_cluster_start(s, spec->up, err);
  if (rc)
    sim_cluster_close(&s->base);
  else
    *out = &s->base;
  return rc;
}

struct sim_cluster_stop {
  uint32_t first, last;
};

static int sim_cluster_has_stopped(chi_cluster *c, void *arg)
{
  const struct sim_cluster_stop *stop = arg;
  for (uint32_t i = stop->first; i <= stop->last; i++) {
    enum runtime_state state = sim_node_state(sim_cluster_of(c)->sim, i);
    if (state != RUNTIME_STOPPED && state != RUNTIME_STUCK)
      return 0;
  }
  return 1;
}

/* P7: each phase of a stop ends, and what is left after them is told to be stuck. */
static int sim_cluster_stop(chi_cluster *c, uint32_t node, uint32_t grace_ms)
{
  struct sim_cluster *s = sim_cluster_of(c);
  struct sim_cluster_stop stop = {node, node};
  uint64_t limit = SIM_CLUSTER_PHASES * (grace_ms * UINT64_C(1000000) + SIM_CLUSTER_STOP_NS);
  int rc;
  if (node == CHI_CLUSTER_ALL)
    stop = (struct sim_cluster_stop){0, c->nodes - 1};
  for (uint32_t i = stop.first; i <= stop.last; i++)
    if (sim_node_state(s->sim, i) != RUNTIME_STOPPED)
      sim_node_ask_to_stop(s->sim, i, grace_ms);
  rc = sim_cluster_run(c, sim_cluster_has_stopped, &stop, limit);
  if (rc == CHI_ETIMEOUT)
    chi_cluster_fail(c, "P7", "a node neither stops within %u ms of grace nor is stuck", grace_ms);
  if (c->failed)
    return CHI_ECANCELLED;
  for (uint32_t i = stop.first; i <= stop.last; i++)
    if (sim_node_state(s->sim, i) == RUNTIME_STUCK)
      return CHI_EBUSY;
  return rc;
}

/* ---- clients ------------------------------------------------------------------------------ */

static void sim_cluster_client_gone(struct sim_cluster_client *client)
{
  if (!client->ended)
    client->cluster->clients_left--;
  client->ended = true;
}

static void sim_cluster_main(struct sim_client *self, void *arg)
{
  struct sim_cluster_client *client = arg;
  chi_client *handle = NULL;
  sim_check_client(&client->cluster->check, client->number);
  while (sim_client_attach(self, &handle, NULL) != CHI_OK)
    sim_client_sleep(self, SIM_CLUSTER_RETRY_NS);
  client->body(&client->cluster->base, handle, client->arg);
  chi_client_close(handle);
  sim_cluster_client_gone(client);
}

static int sim_cluster_client(chi_cluster *c, uint32_t node, chi_cluster_body *body, void *arg)
{
  struct sim_cluster *s = sim_cluster_of(c);
  struct sim_cluster_client *client = sim_world_new(sizeof(*client));
  client->cluster = s;
  client->body = body;
  client->arg = arg;
  *s->last_client = client;
  s->last_client = &client->next;
  s->clients_left++;
  client->number = sim_client(s->sim, node, sim_cluster_main, client);
  return (int)client->number;
}

static struct sim_cluster_client *sim_cluster_client_of(const struct sim_cluster *s,
                                                        uint32_t number)
{
  struct sim_cluster_client *client = s->clients;
  while (client && client->number != number)
    client = client->next;
  return client;
}

static void sim_cluster_client_kill(chi_cluster *c, uint32_t number)
{
  struct sim_cluster *s = sim_cluster_of(c);
  struct sim_cluster_client *client = sim_cluster_client_of(s, number);
  if (!client || client->ended)
    return;
  sim_cluster_client_gone(client);
  sim_client_kill(s->sim, number);
}

static bool sim_cluster_client_ended(const chi_cluster *c, uint32_t number)
{
  const struct sim_cluster *s = sim_cluster_of_const(c);
  const struct sim_cluster_client *client = number ? sim_cluster_client_of(s, number) : NULL;
  return number ? !client || client->ended : s->clients_left == 0;
}

static void sim_cluster_use(chi_cluster *c, uint64_t ns)
{
  sim_cpu(sim_cluster_of(c)->sim, ns);
}

/* ---- faults ------------------------------------------------------------------------------- */

/* The kinds of faults are those of a plan, and the operations on files those of the seam. */
#define SIM_CLUSTER_SAME(name, ...)                                                                \
  _Static_assert((int)CHI_FAULT_##name == (int)SIM_PLAN_##name, "another fault " #name);
SIM_PLAN_KINDS(SIM_CLUSTER_SAME)
#undef SIM_CLUSTER_SAME
_Static_assert((int)CHI_FAULT_KINDS == (int)SIM_PLAN_KIND_COUNT, "as many faults");
_Static_assert((int)CHI_FAULT_SPACE == (int)ENV_IO_SPACE, "the same operations");
_Static_assert(CHI_CLUSTER_ALL == SIM_PLAN_ANY, "all is any");

static int sim_cluster_fault(chi_cluster *c, chi_fault kind, uint32_t a, uint32_t b, int64_t value)
{
  struct sim_cluster *s = sim_cluster_of(c);
  struct sim_plan_entry entry = {sim_cluster_now(c) - SIM_WORLD_START, (enum sim_plan_kind)kind, a,
                                 b, value};
  if (c->running && s->pending_count == SIM_CLUSTER_PENDING)
    return CHI_EBUSY;
  int rc = sim_plan_add(&s->plan, &entry);
  if (rc)
    return rc == CHI_EINVAL ? CHI_ERANGE : CHI_EBUSY;
  if (c->running)
    s->pending[s->pending_count++] = entry;
  else
    sim_do(s->sim, &entry);
  return CHI_OK;
}

CHI_PRIVATE int sim_cluster_schedule(chi_cluster *c, const struct sim_plan *plan)
{
  struct sim_cluster *s = sim_cluster_of(c);
  int rc = sim_schedule(s->sim, plan);
  for (uint32_t i = 0; i < plan->count && rc == CHI_OK; i++) {
    uint64_t time = SIM_WORLD_START + plan->entry[i].time;
    s->plan_end = time > s->plan_end ? time : s->plan_end;
    rc = sim_plan_add(&s->plan, &plan->entry[i]);
  }
  return rc;
}

static int sim_cluster_plan_text(chi_cluster *c, const char *text, chi_error *err)
{
  struct sim_plan plan = {0};
  int rc = sim_plan_parse(&plan, text, err);
  for (uint32_t i = 0; i < plan.count && rc == CHI_OK; i++) {
    const struct sim_plan_entry *e = &plan.entry[i];
    if (!cluster_fault_fits(c, (chi_fault)e->kind, e->a, e->b))
      rc = error_set(err, CHI_EINVAL, "%s: no such node", sim_plan_name(e->kind));
  }
  if (rc == CHI_OK)
    rc = sim_cluster_schedule(c, &plan);
  if (rc == CHI_ENOMEM)
    error_set(err, rc, "no memory for the plan");
  sim_plan_free(&plan);
  return rc;
}

static int sim_cluster_faults(chi_cluster *c, const struct cluster_limits *l, chi_error *err)
{
  struct sim_plan plan = {0};
  struct sim_plan_limits limits;
  uint64_t from = sim_cluster_now(c) - SIM_WORLD_START;
  sim_plan_limits(&limits, c->nodes, from, from + l->until_ns);
  limits.outage_ns = l->outage_ns ? l->outage_ns : limits.outage_ns;
  limits.per_kind = l->each ? (uint32_t)l->each : limits.per_kind;
  limits.down = l->down ? (uint32_t)l->down : limits.down;
  limits.kinds = l->kinds ? l->kinds : limits.kinds;
  limits.swarm = l->swarm != 0;
  int rc = sim_plan_generate(&plan, c->seed, &limits);
  if (rc == CHI_OK)
    rc = sim_cluster_schedule(c, &plan);
  sim_plan_free(&plan);
  return rc ? error_set(err, rc, "no memory for the faults") : rc;
}

static uint64_t sim_cluster_fault_count(const chi_cluster *c, chi_fault kind)
{
  return sim_done(sim_cluster_of_const(c)->sim, (enum sim_plan_kind)kind);
}

/* ---- whole again -------------------------------------------------------------------------- */

/* Starts what is down; whether all nodes serve. */
static bool sim_cluster_all_serve(struct sim_cluster *s, struct sim_cluster_wait *wait)
{
  bool serve = true;
  for (uint32_t i = 0; i < s->base.nodes; i++) {
    enum runtime_state state = sim_node_state(s->sim, i);
    if (state == RUNTIME_SERVING)
      continue;
    if (state == RUNTIME_STOPPED)
      sim_cluster_fault(&s->base, CHI_FAULT_START, i, 0, 0);
    if (serve)
      snprintf(wait->why, sizeof(wait->why), "node %u does not serve", i);
    serve = false;
  }
  return serve;
}

static int sim_cluster_is_settled(chi_cluster *c, void *arg)
{
  struct sim_cluster *s = sim_cluster_of(c);
  struct sim_cluster_wait *wait = arg;
  const char *missing;
  if (sim_now(s->sim) < wait->look_at)
    return 0;
  wait->look_at = sim_now(s->sim) + SIM_CLUSTER_LOOK_NS;
  if (!sim_cluster_all_serve(s, wait))
    return 0;
  if (s->clients_left > 0) {
    snprintf(wait->why, sizeof(wait->why), "%u clients have not ended", s->clients_left);
    return 0;
  }
  if (!sim_check_settled(&s->check, wait->why, sizeof(wait->why)))
    return 0;
  missing = cluster_missing(c);
  if (missing)
    snprintf(wait->why, sizeof(wait->why), "\"%s\" does not hold", missing);
  return !missing;
}

static int sim_cluster_plan_is_over(chi_cluster *c, void *arg)
{
  (void)arg;
  return sim_cluster_now(c) >= sim_cluster_of(c)->plan_end;
}

static int sim_cluster_settle(chi_cluster *c, uint64_t limit_ns)
{
  struct sim_cluster *s = sim_cluster_of(c);
  struct sim_cluster_wait wait = {0, ""};
  uint64_t now = sim_now(s->sim);
  int rc = CHI_OK;
  if (s->plan_end > now)
    rc = sim_cluster_run(c, sim_cluster_plan_is_over, NULL, s->plan_end - now);
  if (rc == CHI_ECANCELLED)
    return rc;
  sim_cluster_fault(c, CHI_FAULT_CALM, 0, 0, 0);
  rc = sim_cluster_run(c, sim_cluster_is_settled, &wait, limit_ns);
  wait.look_at = 0;
  if (rc == CHI_ETIMEOUT && sim_cluster_is_settled(c, &wait))
    rc = CHI_OK; /* nothing more could happen before the next look was due */
  if (rc == CHI_ETIMEOUT)
    chi_cluster_fail(c, "liveness", "%s", wait.why);
  if (rc == CHI_OK)
    cluster_holds(c, CHI_CHECK_SETTLED);
  return c->failed ? CHI_ECANCELLED : rc;
}

/* ---- reports ------------------------------------------------------------------------------ */

/* In the order of enum net_trace. */
static const char *const sim_cluster_net_words[] = {
    "sent",  "sent again",  "answered",    "repeated", "not run",
    "moved", "begun again", "unreachable", "unknown",  "aborted"};

static void sim_cluster_count(chi_put_fn *put, void *arg, const char *what, const char *which,
                              uint64_t count)
{
  char line[120];
  snprintf(line, sizeof(line), "%s %s: %llu\n", what, which, (unsigned long long)count);
  if (count)
    put(arg, line);
}

static void sim_cluster_report(const chi_cluster *c, chi_put_fn *put, void *arg)
{
  const struct sim_check *check = &sim_cluster_of_const(c)->check;
  sim_cluster_count(put, arg, "tasks of clients", "submitted", check->submitted);
  sim_cluster_count(put, arg, "tasks of clients", "completed", check->completed);
  for (int i = 0; i < SIM_CHECK_CODES; i++)
    sim_cluster_count(put, arg, "tasks of clients completed with",
                      i < SIM_CHECK_CODES - 1 ? chi_status_name(-i) : "a code of their own",
                      check->code[i]);
  for (size_t i = 0; i < CHI_COUNT(sim_cluster_net_words); i++)
    sim_cluster_count(put, arg, "tasks between nodes", sim_cluster_net_words[i], check->net[i]);
}

CHI_PRIVATE const struct cluster_kind *sim_cluster_kind(void)
{
  static const struct cluster_kind kind = {
      .name = "sim",
      .key = sim_cluster_key,
      .open = sim_cluster_open,
      .close = sim_cluster_close,
      .is_up = sim_cluster_is_up,
      .client = sim_cluster_client,
      .client_kill = sim_cluster_client_kill,
      .client_ended = sim_cluster_client_ended,
      .use = sim_cluster_use,
      .run = sim_cluster_run,
      .settle = sim_cluster_settle,
      .stop = sim_cluster_stop,
      .fault = sim_cluster_fault,
      .plan = sim_cluster_plan_text,
      .faults = sim_cluster_faults,
      .fault_count = sim_cluster_fault_count,
      .now = sim_cluster_now,
      .hash = sim_cluster_hash,
      .events = sim_cluster_events,
      .story = sim_cluster_story,
      .report = sim_cluster_report,
  };
  return &kind;
}

CHI_PRIVATE struct sim *sim_cluster_sim(chi_cluster *c)
{
  return c->kind == sim_cluster_kind() ? sim_cluster_of(c)->sim : NULL;
}

CHI_PRIVATE struct sim_check *sim_cluster_check(chi_cluster *c)
{
  return c->kind == sim_cluster_kind() ? &sim_cluster_of(c)->check : NULL;
}

CHI_PRIVATE const struct sim_plan *sim_cluster_plan(chi_cluster *c)
{
  return c->kind == sim_cluster_kind() ? &sim_cluster_of(c)->plan : NULL;
}

#undef SIM_CLUSTER_PENDING
#undef SIM_CLUSTER_START_NS
#undef SIM_CLUSTER_RETRY_NS
#undef SIM_CLUSTER_LOOK_NS
#undef SIM_CLUSTER_STOP_NS
#undef SIM_CLUSTER_LARGE
#undef SIM_CLUSTER_PHASES
