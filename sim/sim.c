/* sim.c - the simulated environment: nodes and clients in one thread, in virtual time. */
#include "sim.h"
#include "client.h"
#include "error.h"
#include "sim_host.h"

#include <stdio.h>
#include <stdlib.h>

#define SIM_PATIENCE_NS UINT64_C(60000000000)

_Static_assert(SIM_NET_NODES == SIM_PLAN_NODES, "what a plan names is in the network");

struct sim_client {
  struct sim_client *next;
  struct sim *sim;
  uint32_t number;
  struct sim_host *host;
  struct sim_party party;
  struct sim_thread thread;
  void (*body)(struct sim_client *client, void *arg);
  void *arg;
  uint32_t attached;
  bool ended; /* its body has returned */
  bool gone;  /* and nothing is left of it */
};

/* A plan that is being carried out. */
struct sim_schedule {
  struct sim_world_event event; /* the next entry */
  struct sim_schedule *next;
  struct sim *sim;
  struct sim_plan plan;
  uint32_t at;
};

struct sim {
  struct sim_world world;
  struct sim_net net;
  struct sim_host **host; /* by number; NULL: never spoken of */
  uint32_t host_count;
  struct sim_client *clients, **last_client;
  uint32_t client_count, clients_left;
  struct sim_schedule *schedules;
  uint64_t done[SIM_PLAN_KIND_COUNT];
  bool ended; /* some node or client has */
};

/* The machine of that number, made when it is first spoken of. */
static struct sim_host *sim_machine(struct sim *sim, uint32_t number)
{
  CHI_ASSERT(number < SIM_NET_NODES);
  if (number >= sim->host_count) {
    sim->host = realloc(sim->host, (number + 1) * sizeof(struct sim_host *));
    CHI_ASSERT(sim->host);
    memset(sim->host + sim->host_count, 0,
           (number + 1 - sim->host_count) * sizeof(struct sim_host *));
    sim->host_count = number + 1;
  }
  if (!sim->host[number])
    sim->host[number] = sim_host_new(&sim->world, &sim->net, number, &sim->ended);
  return sim->host[number];
}

/* ---- nodes -------------------------------------------------------------------------------- */

static bool sim_node_is_ready(void *arg)
{
  const struct sim_host *host = arg;
  return !host->up || host->state != RUNTIME_STARTING;
}

static bool sim_node_is_down(void *arg)
{
  const struct sim_host *host = arg;
  return !host->up || host->state == RUNTIME_STUCK;
}

CHI_PRIVATE int sim_node_begin(struct sim *sim, uint32_t number, const chi_config *config,
                               const chi_module *const *modules, uint32_t count, chi_error *err)
{
  const struct sim_host_setting setting = {config, modules, count};
  CHI_ASSERT(!sim->world.running);
  return sim_host_open(sim_machine(sim, number), &setting, err);
}

CHI_PRIVATE void sim_node_prepare(struct sim *sim, uint32_t number, const chi_config *config,
                                  const chi_module *const *modules, uint32_t count)
{
  sim_machine(sim, number)->setting = (struct sim_host_setting){config, modules, count};
}

CHI_PRIVATE int sim_node_start(struct sim *sim, uint32_t number, const chi_config *config,
                               const chi_module *const *modules, uint32_t count, chi_error *err)
{
  struct sim_host *host = sim_machine(sim, number);
  chi_error why = {CHI_ESHUTDOWN, "it was asked to stop"};
  int rc = sim_node_begin(sim, number, config, modules, count, err);
  if (rc)
    return rc;
  if (!sim_run_until(sim, sim_node_is_ready, host, SIM_PATIENCE_NS)) {
    sim_node_kill(sim, number);
    return error_set(err, CHI_ETIMEOUT, "node %u does not come up", number);
  }
  if (host->state == RUNTIME_SERVING)
    return CHI_OK;
  if (host->state == RUNTIME_FAILED)
    why = *runtime_failure(host->runtime);
  if (host->up && sim_node_stop(sim, number, 0) != CHI_OK)
    sim_node_kill(sim, number);
  return error_set(err, why.code, "%s", why.text);
}

CHI_PRIVATE void sim_node_ask_to_stop(struct sim *sim, uint32_t number, uint32_t grace_ms)
{
  struct sim_host *host = sim_machine(sim, number);
  if (host->up)
    sim_host_stop(host, (uint64_t)grace_ms * 1000000u);
}

CHI_PRIVATE int sim_node_stop(struct sim *sim, uint32_t number, uint32_t grace_ms)
{
  struct sim_host *host = sim_machine(sim, number);
  CHI_ASSERT(host->up && !sim->world.running);
  sim_node_ask_to_stop(sim, number, grace_ms);
  sim_run_until(sim, sim_node_is_down, host, 2 * host->grace_ns + SIM_PATIENCE_NS);
  if (!host->up)
    return CHI_OK;
  return host->state == RUNTIME_STUCK ? CHI_EBUSY : CHI_ETIMEOUT;
}

CHI_PRIVATE void sim_node_crash(struct sim *sim, uint32_t number)
{
  struct sim_host *host = sim_machine(sim, number);
  CHI_ASSERT(host->up);
  sim_host_tell(host, SIM_TRACE_NODE_LOSES_POWER);
  sim_host_clear(host, SIM_DISK_SEED, true);
}

CHI_PRIVATE void sim_node_kill(struct sim *sim, uint32_t number)
{
  struct sim_host *host = sim_machine(sim, number);
  CHI_ASSERT(host->up);
  sim_host_tell(host, SIM_TRACE_NODE_KILLED);
  sim_host_clear(host, SIM_DISK_KEEP, false);
}

CHI_PRIVATE void sim_node_pause(struct sim *sim, uint32_t number)
{
  sim_host_pause(sim_machine(sim, number), true);
}

CHI_PRIVATE void sim_node_resume(struct sim *sim, uint32_t number)
{
  sim_host_pause(sim_machine(sim, number), false);
}

CHI_PRIVATE void sim_node_drift(struct sim *sim, uint32_t number, int32_t ppm)
{
  struct sim_host *host = sim_machine(sim, number);
  skew_drift(&host->clock, sim->world.now, ppm);
  sim_host_clocks_changed(host);
}

CHI_PRIVATE void sim_node_jump(struct sim *sim, uint32_t number, int64_t ns)
{
  struct sim_host *host = sim_machine(sim, number);
  skew_jump(&host->clock, sim->world.now, ns);
  sim_host_clocks_changed(host);
}

CHI_PRIVATE struct runtime *sim_node_runtime(struct sim *sim, uint32_t number)
{
  return sim_machine(sim, number)->runtime;
}

CHI_PRIVATE enum runtime_state sim_node_state(struct sim *sim, uint32_t number)
{
  return sim_machine(sim, number)->state;
}

CHI_PRIVATE struct sim_disk *sim_node_disk(struct sim *sim, uint32_t number)
{
  return sim_machine(sim, number)->disk;
}

CHI_PRIVATE const char *sim_node_instance(struct sim *sim, uint32_t number)
{
  return sim_machine(sim, number)->instance;
}

CHI_PRIVATE void sim_node_blocking_io(struct sim *sim, uint32_t number, bool blocks)
{
  sim_machine(sim, number)->blocking_io = blocks;
}

/* ---- the environment of a client ---------------------------------------------------------- */

static void sim_spend(struct sim_party *party, uint64_t ns)
{
  sim_thread_sleep(party->world, party->world->now + sim_world_about(&party->timing, ns));
}

static int sim_env_link_open(struct env *env, const char *instance, env_link *out, chi_error *err)
{
  struct sim_party *client = sim_party_of(env);
  struct sim *sim = CHI_CONTAINER_OF(client->world, struct sim, world);
  struct sim_host *host = NULL;
  sim_spend(client, client->world->profile.open);
  for (uint32_t i = 0; i < sim->host_count && instance && !host; i++)
    if (sim->host[i] && strcmp(sim->host[i]->instance, instance) == 0)
      host = sim->host[i];
  if (!host || !host->up)
    return error_set(err, CHI_ENODAEMON, "no daemon \"%s\": looked for a simulated node",
                     instance ? instance : "");
  *out = sim_link_connect(client, &host->port);
  return CHI_OK;
}

static int sim_env_link_call(struct env *env, env_link link, const void *request,
                             size_t request_size, void *reply, size_t *size,
                             struct env_share *shares, uint32_t *count)
{
  return sim_link_call(sim_party_of(env), link, request, request_size, reply, size, shares, count);
}

static bool sim_env_link_owes(struct env *env, env_link link)
{
  return sim_link_owes(sim_party_of(env), link);
}

static int sim_env_link_wait(struct env *env, env_link link, env_bell bell, uint64_t deadline)
{
  return sim_link_wait(sim_party_of(env), link, bell, deadline);
}

static void sim_env_link_shut(struct env *env, env_link link)
{
  sim_link_shut(sim_party_of(env), link);
}

static int sim_env_link_descriptor(struct env *env, env_link link, env_bell bell)
{
  (void)env, (void)link, (void)bell;
  return -1;
}

static void sim_env_relax(struct env *env)
{
  struct sim_party *party = sim_party_of(env);
  sim_spend(party, party->world->profile.relax);
}

static void sim_env_pause(struct env *env, uint64_t until)
{
  struct sim_party *party = sim_party_of(env);
  while (sim_party_now(party) < until)
    sim_thread_sleep(party->world, sim_party_until(party, until));
}

static void sim_client_env(struct sim_client *client)
{
  struct env *env = &client->party.env;
  env->log = sim_host_log;
  env->trace = sim_host_trace;
  env->link_open = sim_env_link_open;
  env->link_call = sim_env_link_call;
  env->link_owes = sim_env_link_owes;
  env->link_wait = sim_env_link_wait;
  env->link_shut = sim_env_link_shut;
  env->link_descriptor = sim_env_link_descriptor;
  env->relax = sim_env_relax;
  env->pause = sim_env_pause;
}

/* ---- clients ------------------------------------------------------------------------------ */

static struct sim_client *sim_client_get(struct sim *sim, uint32_t number)
{
  struct sim_client *client = sim->clients;
  while (client && client->number != number)
    client = client->next;
  CHI_ASSERT(client);
  return client;
}

static void sim_client_trace(struct sim_client *client, uint64_t what)
{
  sim_world_trace(&client->sim->world, client->host->number, SIM_TRACE_CLIENT, client->number, what,
                  0, NULL);
}

static void sim_client_main(void *arg)
{
  struct sim_client *client = arg;
  client->body(client, client->arg);
  client->ended = client->sim->ended = true;
}

/* The process is no more: its links hang up, what it holds is taken. */
static void sim_client_clear(struct sim_client *client)
{
  sim_thread_end(&client->thread);
  sim_link_shut_all(&client->party);
  sim_party_fini(&client->party);
  client->gone = true;
  client->sim->clients_left--;
}

CHI_PRIVATE uint32_t sim_client(struct sim *sim, uint32_t node,
                                void (*body)(struct sim_client *client, void *arg), void *arg)
{
  struct sim_client *client = sim_world_new(sizeof(*client));
  client->sim = sim;
  client->number = ++sim->client_count;
  client->host = sim_machine(sim, node);
  client->body = body;
  client->arg = arg;
  *sim->last_client = client;
  sim->last_client = &client->next;
  sim->clients_left++;
  sim_party_init(&client->party, &sim->world, node, client->number);
  client->party.clock = &client->host->clock;
  sim_client_env(client);
  sim_thread_start(&sim->world, &client->thread, node, sim_client_main, client);
  sim_client_trace(client, SIM_TRACE_CLIENT_STARTS);
  return client->number;
}

CHI_PRIVATE void sim_client_kill(struct sim *sim, uint32_t number)
{
  struct sim_client *client = sim_client_get(sim, number);
  if (client->gone)
    return;
  CHI_ASSERT(sim->world.running != &client->thread);
  sim_client_trace(client, SIM_TRACE_CLIENT_KILLED);
  sim_client_clear(client);
}

CHI_PRIVATE bool sim_client_ended(struct sim *sim, uint32_t number)
{
  return sim_client_get(sim, number)->gone;
}

static void sim_client_detached(struct env *env)
{
  struct sim_client *client = CHI_CONTAINER_OF(sim_party_of(env), struct sim_client, party);
  CHI_ASSERT(client->attached > 0);
  if (--client->attached == 0)
    sim_party_check(&client->party, "of a client that has closed");
}

CHI_PRIVATE int sim_client_attach(struct sim_client *client, chi_client **out, chi_error *err)
{
  int rc = client_open(&client->party.env, sim_client_detached, client->host->instance, out, err);
  if (rc == CHI_OK)
    client->attached++;
  else if (client->attached == 0)
    sim_party_check(&client->party, "of a client that did not attach");
  return rc;
}

CHI_PRIVATE void sim_client_sleep(struct sim_client *client, uint64_t ns)
{
  struct sim_world *world = &client->sim->world;
  CHI_ASSERT(world->running == &client->thread);
  sim_thread_sleep(world, world->now + ns);
}

CHI_PRIVATE struct sim *sim_client_sim(struct sim_client *client)
{
  return client->sim;
}

/* ---- faults ------------------------------------------------------------------------------- */

static bool sim_fell(struct sim *sim, const struct sim_plan_entry *entry)
{
  struct sim_host *host = sim_machine(sim, entry->a);
  if (!host->up || (entry->kind == SIM_PLAN_STOP && host->felled))
    return false;
  host->felled = true;
  if (entry->kind == SIM_PLAN_STOP)
    sim_node_ask_to_stop(sim, entry->a, (uint32_t)entry->value);
  else if (entry->kind == SIM_PLAN_CRASH)
    sim_node_crash(sim, entry->a);
  else
    sim_node_kill(sim, entry->a);
  return true;
}

/* One that is still stopping is started when it has. */
static bool sim_raise(struct sim *sim, uint32_t number)
{
  struct sim_host *host = sim_machine(sim, number);
  const struct sim_host_setting setting = host->setting;
  chi_error err = {0};
  if (host->up && host->felled)
    host->rises = true;
  if (host->up || !setting.config)
    return false;
  if (sim_host_open(host, &setting, &err) == CHI_OK)
    return true;
  host->felled = true;
  sim_trace_text(&sim->world.trace, sim->world.now, number, err.text);
  return false;
}

static bool sim_file_fault(struct sim *sim, const struct sim_plan_entry *entry)
{
  struct sim_fault_io rule = {
      .node = entry->a, .op = entry->b == SIM_PLAN_ANY ? SIM_FAULT_ANYWHERE : entry->b, .times = 1};
  if (!sim_fault_room(&sim->world.fault))
    return false;
  if (entry->kind == SIM_PLAN_DELAY)
    rule.delay_ns = (uint64_t)entry->value;
  else
    rule.result = entry->value ? CHI_ENOSPC : CHI_EIO;
  sim_fault_add(&sim->world.fault, &rule);
  return true;
}

static bool sim_calm(struct sim *sim)
{
  sim_net_heal(&sim->net);
  sim_fault_clear(&sim->world.fault);
  for (uint32_t i = 0; i < sim->host_count; i++) {
    struct sim_host *host = sim->host[i];
    if (!host)
      continue;
    sim_host_pause(host, false);
    if (host->clock.ppm)
      sim_node_drift(sim, i, 0);
    if (host->felled)
      sim_raise(sim, i);
  }
  return true;
}

static bool sim_do_node(struct sim *sim, const struct sim_plan_entry *entry)
{
  switch (entry->kind) {
  case SIM_PLAN_PAUSE:
    return sim_host_pause(sim_machine(sim, entry->a), true);
  case SIM_PLAN_RESUME:
    return sim_host_pause(sim_machine(sim, entry->a), false);
  case SIM_PLAN_CRASH:
  case SIM_PLAN_KILL:
  case SIM_PLAN_STOP:
    return sim_fell(sim, entry);
  case SIM_PLAN_START:
    return sim_raise(sim, entry->a);
  case SIM_PLAN_DRIFT:
    sim_node_drift(sim, entry->a, (int32_t)entry->value);
    return true;
  case SIM_PLAN_JUMP:
    sim_node_jump(sim, entry->a, entry->value);
    return true;
  case SIM_PLAN_DISK:
  case SIM_PLAN_DELAY:
    return sim_file_fault(sim, entry);
  case SIM_PLAN_MEMORY:
    sim_fault_memory(&sim->world.fault, entry->value ? SIM_FAULT_ANY : 0, 0,
                     (uint32_t)entry->value);
    return true;
  default:
    CHI_ASSERT(entry->kind == SIM_PLAN_CALM);
    return sim_calm(sim);
  }
}

static bool sim_do_network(struct sim_net *net, const struct sim_plan_entry *entry)
{
  uint32_t a = entry->a, b = entry->b;
  switch (entry->kind) {
  case SIM_PLAN_CUT:
  case SIM_PLAN_JOIN:
    sim_net_cut(net, a, b, entry->kind == SIM_PLAN_CUT);
    return true;
  case SIM_PLAN_ISOLATE:
  case SIM_PLAN_REJOIN:
    sim_net_isolate(net, a, entry->kind == SIM_PLAN_ISOLATE);
    return true;
  case SIM_PLAN_PARTITION:
    sim_net_partition(net, a, b);
    return true;
  case SIM_PLAN_SPLIT:
    sim_net_split(net, (uint64_t)entry->value);
    return true;
  case SIM_PLAN_HEAL:
    sim_net_heal(net);
    return true;
  case SIM_PLAN_CLOG:
    sim_net_clog(net, a, b, (uint64_t)entry->value);
    return true;
  case SIM_PLAN_SLOW:
    sim_net_slow(net, a, b, (uint32_t)entry->value);
    return true;
  case SIM_PLAN_FULL:
    sim_net_full(net, a, b, entry->value != 0);
    return true;
  case SIM_PLAN_DROP:
  case SIM_PLAN_HALF:
    return sim_net_drop(net, a, b, entry->kind == SIM_PLAN_DROP);
  default:
    CHI_ASSERT(entry->kind == SIM_PLAN_LOSE || entry->kind == SIM_PLAN_SNAP);
    sim_net_lose(net, a, b, (uint32_t)entry->value, entry->kind == SIM_PLAN_SNAP);
    return true;
  }
}

CHI_PRIVATE bool sim_do(struct sim *sim, const struct sim_plan_entry *entry)
{
  char line[96];
  bool done;
  CHI_ASSERT(!sim->world.running && sim_plan_valid(entry));
  sim_plan_line(entry, line, sizeof(line));
  sim_world_trace(&sim->world, UINT32_MAX, SIM_TRACE_PLAN, (uint64_t)entry->value, entry->kind,
                  (uint64_t)entry->a << 32 | entry->b, strchr(line, ' ') + 1);
  done = entry->kind <= SIM_PLAN_SNAP ? sim_do_network(&sim->net, entry) : sim_do_node(sim, entry);
  sim->done[entry->kind] += done;
  return done;
}

CHI_PRIVATE uint64_t sim_done(const struct sim *sim, enum sim_plan_kind kind)
{
  CHI_ASSERT(kind < SIM_PLAN_KIND_COUNT);
  return sim->done[kind];
}

/* The next entry is due at its time, or now. */
static void sim_schedule_next(struct sim_schedule *schedule)
{
  uint64_t now = schedule->sim->world.now, time;
  if (schedule->at == schedule->plan.count)
    return;
  time = SIM_WORLD_START + schedule->plan.entry[schedule->at].time;
  sim_world_at(&schedule->sim->world, &schedule->event, time < now ? now : time);
}

static void sim_schedule_run(struct sim_world_event *event)
{
  struct sim_schedule *schedule = CHI_CONTAINER_OF(event, struct sim_schedule, event);
  sim_do(schedule->sim, &schedule->plan.entry[schedule->at++]);
  sim_schedule_next(schedule);
}

CHI_PRIVATE int sim_schedule(struct sim *sim, const struct sim_plan *plan)
{
  struct sim_schedule *schedule = sim_world_new(sizeof(*schedule));
  int rc = sim_plan_copy(&schedule->plan, plan);
  if (rc) {
    free(schedule);
    return rc;
  }
  schedule->event.run = sim_schedule_run;
  schedule->sim = sim;
  schedule->next = sim->schedules;
  sim->schedules = schedule;
  sim_schedule_next(schedule);
  return CHI_OK;
}

static void sim_schedules_free(struct sim *sim)
{
  while (sim->schedules) {
    struct sim_schedule *schedule = sim->schedules;
    sim->schedules = schedule->next;
    sim_world_cancel(&sim->world, &schedule->event);
    sim_plan_free(&schedule->plan);
    free(schedule);
  }
}

/* ---- the whole ---------------------------------------------------------------------------- */

CHI_PRIVATE struct sim *sim_open(uint64_t seed)
{
  struct sim *sim = sim_world_new(sizeof(*sim));
  sim_world_init(&sim->world, seed);
  sim_net_init(&sim->net, &sim->world);
  sim->last_client = &sim->clients;
  return sim;
}

CHI_PRIVATE void sim_close(struct sim *sim)
{
  CHI_ASSERT(!sim->world.running);
  sim_schedules_free(sim);
  while (sim->clients) {
    struct sim_client *client = sim->clients;
    if (!client->gone)
      sim_client_clear(client);
    sim->clients = client->next;
    free(client);
  }
  for (uint32_t i = 0; i < sim->host_count; i++)
    if (sim->host[i])
      sim_host_free(sim->host[i]);
  free(sim->host);
  sim_net_fini(&sim->net);
  sim_world_fini(&sim->world);
  free(sim);
}

CHI_PRIVATE uint64_t sim_now(const struct sim *sim)
{
  return sim->world.now;
}

CHI_PRIVATE uint64_t sim_hash(const struct sim *sim)
{
  return hash_stream_finish(&sim->world.trace.hash);
}

CHI_PRIVATE uint64_t sim_events(const struct sim *sim)
{
  return sim->world.trace.events;
}

CHI_PRIVATE const char *sim_failure(const struct sim *sim)
{
  return sim->world.failure[0] ? sim->world.failure : NULL;
}

CHI_PRIVATE const char *sim_failed_check(const struct sim *sim)
{
  return sim->world.failed == SIM_WORLD_LEAK ? "leak" : "P1";
}

CHI_PRIVATE void sim_transcript(struct sim *sim, chi_put_fn *put, void *arg)
{
  sim->world.trace.put = put;
  sim->world.trace.arg = arg;
}

CHI_PRIVATE void sim_record(struct sim *sim, sim_trace_sink *sink, void *arg)
{
  sim->world.trace.sink = sink;
  sim->world.trace.sink_arg = arg;
}

CHI_PRIVATE struct sim_net *sim_network(struct sim *sim)
{
  return &sim->net;
}

CHI_PRIVATE struct sim_profile *sim_costs(struct sim *sim)
{
  return &sim->world.profile;
}

CHI_PRIVATE struct sim_fault *sim_faults(struct sim *sim)
{
  return &sim->world.fault;
}

CHI_PRIVATE void sim_cpu(struct sim *sim, uint64_t ns)
{
  uint64_t now = sim->world.now;
  sim_thread_sleep(&sim->world, ns < SIM_WORLD_NEVER - now ? now + ns : SIM_WORLD_NEVER);
}

/* Of clients whose body has returned and nodes that have stopped, takes what is left. */
static void sim_bury(struct sim *sim)
{
  for (struct sim_client *client = sim->clients; client; client = client->next)
    if (client->ended && !client->gone) {
      sim_client_trace(client, SIM_TRACE_CLIENT_ENDS);
      sim_client_clear(client);
    }
  for (uint32_t i = 0; i < sim->host_count; i++) {
    struct sim_host *host = sim->host[i];
    if (!host || !host->ended)
      continue;
    sim_host_finish(host);
    if (host->rises)
      sim_raise(sim, i);
  }
  sim->ended = false;
}

CHI_PRIVATE bool sim_run_until(struct sim *sim, bool (*pred)(void *arg), void *arg,
                               uint64_t limit_ns)
{
  uint64_t limit = sim->world.now + limit_ns;
  while (!pred(arg)) {
    if (!sim_world_next(&sim->world, limit))
      return false;
    if (sim->ended)
      sim_bury(sim);
  }
  return true;
}

static bool sim_never(void *arg)
{
  (void)arg;
  return false;
}

CHI_PRIVATE void sim_run_for(struct sim *sim, uint64_t ns)
{
  sim_run_until(sim, sim_never, NULL, ns);
}

static bool sim_is_idle(void *arg)
{
  const struct sim *sim = arg;
  return sim->clients_left == 0;
}

CHI_PRIVATE bool sim_run_idle(struct sim *sim, uint64_t limit_ns)
{
  return sim_run_until(sim, sim_is_idle, sim, limit_ns);
}

#undef SIM_PATIENCE_NS
