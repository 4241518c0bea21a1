/* sim.c - the simulated environment: nodes and clients in one thread, in virtual time. */
#include "sim.h"
#include "client.h"
#include "error.h"
#include "sim_io.h"
#include "sim_link.h"

#include <stdio.h>
#include <stdlib.h>

#define SIM_STEP_NS 1000u  /* a step of a worker */
#define SIM_PARK_NS 500u   /* from announcing sleep to sleeping */
#define SIM_RELAX_NS 500u  /* a turn of a client's spin */
#define SIM_OPEN_NS 20000u /* finding out who is there */
#define SIM_WHIM_NS 20000u /* until a sleep ends for nothing */
#define SIM_BUDGET 1u
#define SIM_CAPACITY (UINT64_C(64) << 30)
#define SIM_PATIENCE_NS UINT64_C(60000000000)

struct sim_worker {
  struct sim_thread thread;
  struct sim_node *node;
  uint32_t index;
};

struct sim_node {
  struct sim_node *next;
  struct sim *sim;
  uint32_t number;
  char instance[32];
  struct sim_disk *disk;
  bool blocking_io;
  bool up; /* what follows is in use */
  struct sim_party party;
  struct sim_io io;
  struct sim_link_port port;
  struct rng cpu;
  struct runtime *runtime;
  struct sim_worker *workers;
  uint32_t worker_count;
  enum runtime_state state;
  bool stop_asked, ended;
  uint64_t grace_ns;
};

struct sim_client {
  struct sim_client *next;
  struct sim *sim;
  uint32_t number;
  struct sim_node *node;
  struct sim_party party;
  struct sim_thread thread;
  void (*body)(struct sim_client *client, void *arg);
  void *arg;
  uint32_t attached;
  bool ended; /* its body has returned */
  bool gone;  /* and nothing is left of it */
};

struct sim {
  struct sim_world world;
  struct sim_node *nodes;
  struct sim_client *clients, **last_client;
  uint32_t client_count, clients_left;
  bool ended; /* some node or client has */
};

static struct sim_node *sim_node_of(struct env *env)
{
  return CHI_CONTAINER_OF(sim_party_of(env), struct sim_node, party);
}

static void sim_sleep(struct sim_world *world, struct rng *rng, uint64_t ns)
{
  sim_thread_sleep(world, world->now + sim_world_about(rng, ns));
}

/* ---- the environment of a node ------------------------------------------------------------ */

static void sim_env_log(struct env *env, int level, const char *line)
{
  struct sim_party *party = sim_party_of(env);
  (void)level;
  sim_trace_text(&party->world->trace, party->world->now, party->node, line);
}

static void sim_env_trace(struct env *env, int what, uint64_t a, uint64_t b, uint64_t c)
{
  struct sim_party *party = sim_party_of(env);
  sim_world_trace(party->world, party->node, what, a, b, c, NULL);
}

static int sim_env_link_reply(struct env *env, env_link link, const void *message, size_t size,
                              const struct env_share *shares, uint32_t count)
{
  return sim_link_reply(sim_party_of(env), link, message, size, shares, count);
}

static void sim_env_link_close(struct env *env, env_link link)
{
  sim_link_close(&sim_node_of(env)->port, link);
}

static int sim_env_io_submit(struct env *env, uint32_t worker, struct env_io *io)
{
  return sim_io_submit(&sim_node_of(env)->io, worker, io);
}

static bool sim_env_io_blocks(struct env *env, uint32_t worker, const struct env_io *io)
{
  (void)worker;
  return sim_io_blocks(&sim_node_of(env)->io, io);
}

static struct env_io *sim_env_io_reap(struct env *env, uint32_t worker)
{
  return sim_io_reap(&sim_node_of(env)->io, worker);
}

static int sim_env_module_load(struct env *env, const char *name, const chi_module **out,
                               chi_error *err)
{
  (void)env, (void)out;
  return error_set(err, CHI_ENOMODULE, "no module \"%s\": a simulation loads none", name);
}

static void sim_node_env(struct sim_node *node)
{
  struct env *env = &node->party.env;
  env->log = sim_env_log;
  env->trace = sim_env_trace;
  env->link_reply = sim_env_link_reply;
  env->link_close = sim_env_link_close;
  env->io_submit = sim_env_io_submit;
  env->io_blocks = sim_env_io_blocks;
  env->io_reap = sim_env_io_reap;
  env->module_load = sim_env_module_load;
}

/* ---- workers: what a thread of the real environment does ---------------------------------- */

static void sim_node_deliver(struct sim_node *node, const struct sim_link_mail *mail, env_link link)
{
  const struct env_peer peer = {1000, 1000 + mail->sender};
  switch (mail->kind) {
  case SIM_LINK_CONNECT:
    runtime_on_connect(node->runtime, link, &peer);
    break;
  case SIM_LINK_REQUEST:
    runtime_on_request(node->runtime, link, mail->bytes, mail->size);
    break;
  default:
    runtime_on_hangup(node->runtime, link);
  }
}

/* What the network worker does between its steps. */
static void sim_node_upcalls(struct sim_node *node)
{
  struct sim_link_mail *mail;
  env_link link;
  while ((mail = sim_link_take(&node->port, &link))) {
    sim_node_deliver(node, mail, link);
    sim_link_mail_free(mail);
  }
  if (node->stop_asked)
    runtime_stop(node->runtime, node->grace_ns);
  node->stop_asked = false;
}

static bool sim_worker_is_network(const struct sim_worker *worker)
{
  return worker->index == runtime_network_worker(worker->node->runtime);
}

/* When a sleeping worker goes on if nobody wakes it. */
static uint64_t sim_worker_until(const struct sim_worker *worker, uint64_t deadline)
{
  struct sim_node *node = worker->node;
  uint64_t now = node->sim->world.now, due = sim_link_due(&node->port);
  if (sim_io_ready(&node->io, worker->index))
    return now;
  if (sim_worker_is_network(worker) && node->stop_asked)
    return now;
  if (sim_worker_is_network(worker) && due < deadline)
    deadline = due;
  if (rng_chance(&node->cpu, SIM_WORLD_WHIM_PPM) && now + SIM_WHIM_NS < deadline)
    deadline = now + SIM_WHIM_NS;
  return deadline;
}

static void sim_worker_rest(struct sim_worker *worker, uint64_t deadline)
{
  struct sim_node *node = worker->node;
  if (runtime_may_sleep(node->runtime, worker->index)) {
    sim_sleep(&node->sim->world, &node->cpu, SIM_PARK_NS);
    sim_party_bell_wait(&node->party, runtime_worker_bell(node->runtime, worker->index),
                        sim_worker_until(worker, deadline));
  }
  runtime_awake(node->runtime, worker->index);
}

/* Time passes before a step, and what it does is seen when that time is over. */
static void sim_worker_main(void *arg)
{
  struct sim_worker *worker = arg;
  struct sim_node *node = worker->node;
  struct sim_world *world = &node->sim->world;
  uint64_t deadline = SIM_WORLD_NEVER;
  while (!node->ended) {
    bool more;
    if (sim_worker_is_network(worker))
      sim_node_upcalls(node);
    sim_sleep(world, &node->cpu, SIM_STEP_NS);
    more = runtime_step(node->runtime, worker->index, world->now, SIM_BUDGET, &deadline);
    if (sim_worker_is_network(worker) && runtime_state(node->runtime) == RUNTIME_STOPPED)
      node->ended = node->sim->ended = true;
    else if (!more)
      sim_worker_rest(worker, deadline);
  }
}

static void sim_node_employ(struct sim_node *node)
{
  struct sim_world *world = &node->sim->world;
  node->worker_count = runtime_worker_count(node->runtime);
  node->workers = sim_world_new(node->worker_count * sizeof(*node->workers));
  sim_io_init(&node->io, world, node->disk, node->number, node->worker_count);
  node->io.blocks = node->blocking_io;
  for (uint32_t i = 0; i < node->worker_count; i++) {
    struct sim_worker *worker = &node->workers[i];
    worker->node = node;
    worker->index = i;
    sim_thread_start(world, &worker->thread, node->number, sim_worker_main, worker);
    node->io.worker[i].thread = &worker->thread;
  }
  node->port.thread = &node->workers[runtime_network_worker(node->runtime)].thread;
}

/* ---- nodes -------------------------------------------------------------------------------- */

/* The node of that number, made when it is first spoken of. */
static struct sim_node *sim_node_get(struct sim *sim, uint32_t number)
{
  struct sim_node *node = sim->nodes;
  while (node && node->number != number)
    node = node->next;
  if (node)
    return node;
  node = sim_world_new(sizeof(*node));
  node->sim = sim;
  node->number = number;
  node->state = RUNTIME_STOPPED;
  snprintf(node->instance, sizeof(node->instance), "sim:%u", number);
  node->disk = sim_disk_open(sim->world.seed, number, SIM_CAPACITY);
  node->next = sim->nodes;
  sim->nodes = node;
  return node;
}

static void sim_node_trace(struct sim_node *node, uint64_t what)
{
  sim_world_trace(&node->sim->world, node->number, SIM_TRACE_NODE, what, 0, 0, NULL);
}

/* Its threads are no more, nor what they had under way. */
static void sim_node_dismiss(struct sim_node *node)
{
  node->port.thread = NULL;
  if (node->workers)
    sim_io_fini(&node->io);
  for (uint32_t i = 0; i < node->worker_count; i++)
    sim_thread_end(&node->workers[i].thread);
  free(node->workers);
  node->workers = NULL;
  node->worker_count = 0;
}

/* Everything of a run goes but the disk, with what is done to it now. */
static void sim_node_clear(struct sim_node *node, enum sim_disk_crash how)
{
  sim_node_dismiss(node);
  sim_link_close_all(&node->port);
  sim_party_fini(&node->party);
  sim_disk_crash(node->disk, how);
  node->runtime = NULL;
  node->up = node->ended = node->stop_asked = false;
  node->state = RUNTIME_STOPPED;
}

/* The runtime has stopped by itself: nothing of it may be left. */
static void sim_node_finish(struct sim_node *node)
{
  uint32_t files = sim_disk_open_count(node->disk);
  sim_node_trace(node, SIM_TRACE_NODE_STOPS);
  if (node->io.flight)
    sim_world_fail(&node->sim->world, node->number, "a stopped node still has file operations");
  sim_node_dismiss(node);
  runtime_close(node->runtime);
  sim_party_check(&node->party, "of a stopped node");
  if (files)
    sim_world_fail(&node->sim->world, node->number, "leak of a stopped node: %u open files", files);
  sim_node_clear(node, SIM_DISK_KEEP);
}

static void sim_node_on_state(void *arg, enum runtime_state state)
{
  struct sim_node *node = arg;
  node->state = state;
  if (state == RUNTIME_SERVING)
    sim_node_trace(node, SIM_TRACE_NODE_SERVES);
  else if (state == RUNTIME_FAILED)
    sim_node_trace(node, SIM_TRACE_NODE_FAILS);
}

static bool sim_node_is_ready(void *arg)
{
  struct sim_node *node = arg;
  return !node->up || node->state != RUNTIME_STARTING;
}

static bool sim_node_is_down(void *arg)
{
  struct sim_node *node = arg;
  return !node->up || node->state == RUNTIME_STUCK;
}

static int sim_node_open(struct sim_node *node, const chi_config *config,
                         const chi_module *const *modules, uint32_t count, chi_error *err)
{
  chi_config resolved = *config;
  struct runtime_options options = {.config = &resolved,
                                    .instance = node->instance,
                                    .node = node->number < config->host_count ? node->number : 0,
                                    .modules = modules,
                                    .module_count = count,
                                    .on_state = sim_node_on_state,
                                    .arg = node};
  int rc;
  resolved.sched_threads = config->sched_threads ? config->sched_threads : 2;
  resolved.slow_threads = config->slow_threads ? config->slow_threads : 1;
  sim_party_init(&node->party, &node->sim->world, node->number, 0);
  sim_link_port_init(&node->port, &node->party);
  sim_world_stream(&node->sim->world, &node->cpu, node->number, SIM_WORLD_STREAM_CPU);
  sim_node_env(node);
  node->up = true;
  node->state = RUNTIME_STARTING;
  sim_node_trace(node, SIM_TRACE_NODE_STARTS);
  rc = runtime_open(&node->party.env, &options, &node->runtime, err);
  if (rc) {
    sim_party_check(&node->party, "of a node that did not open");
    sim_node_clear(node, SIM_DISK_KEEP);
  } else {
    sim_node_employ(node);
  }
  return rc;
}

CHI_PRIVATE int sim_node_start(struct sim *sim, uint32_t number, const chi_config *config,
                               const chi_module *const *modules, uint32_t count, chi_error *err)
{
  struct sim_node *node = sim_node_get(sim, number);
  chi_error why = {CHI_ESHUTDOWN, "it was asked to stop"};
  int rc;
  CHI_ASSERT(!node->up && !sim->world.running);
  rc = sim_node_open(node, config, modules, count, err);
  if (rc)
    return rc;
  if (!sim_run_until(sim, sim_node_is_ready, node, SIM_PATIENCE_NS)) {
    sim_node_kill(sim, number);
    return error_set(err, CHI_ETIMEOUT, "node %u does not come up", number);
  }
  if (node->state == RUNTIME_SERVING)
    return CHI_OK;
  if (node->state == RUNTIME_FAILED)
    why = *runtime_failure(node->runtime);
  if (node->up && sim_node_stop(sim, number, 0) != CHI_OK)
    sim_node_kill(sim, number);
  return error_set(err, why.code, "%s", why.text);
}

CHI_PRIVATE int sim_node_stop(struct sim *sim, uint32_t number, uint32_t grace_ms)
{
  struct sim_node *node = sim_node_get(sim, number);
  CHI_ASSERT(node->up && !sim->world.running);
  node->stop_asked = true;
  node->grace_ns = (uint64_t)grace_ms * 1000000u;
  sim_thread_wake(node->port.thread, sim->world.now);
  sim_run_until(sim, sim_node_is_down, node, 2 * node->grace_ns + SIM_PATIENCE_NS);
  if (!node->up)
    return CHI_OK;
  return node->state == RUNTIME_STUCK ? CHI_EBUSY : CHI_ETIMEOUT;
}

static void sim_node_end(struct sim *sim, uint32_t number, uint64_t what, enum sim_disk_crash how)
{
  struct sim_node *node = sim_node_get(sim, number);
  CHI_ASSERT(node->up);
  for (uint32_t i = 0; i < node->worker_count; i++)
    CHI_ASSERT(sim->world.running != &node->workers[i].thread);
  sim_node_trace(node, what);
  sim_node_clear(node, how);
}

CHI_PRIVATE void sim_node_crash(struct sim *sim, uint32_t number)
{
  sim_node_end(sim, number, SIM_TRACE_NODE_LOSES_POWER, SIM_DISK_SEED);
}

CHI_PRIVATE void sim_node_kill(struct sim *sim, uint32_t number)
{
  sim_node_end(sim, number, SIM_TRACE_NODE_KILLED, SIM_DISK_KEEP);
}

CHI_PRIVATE enum runtime_state sim_node_state(struct sim *sim, uint32_t number)
{
  return sim_node_get(sim, number)->state;
}

CHI_PRIVATE struct sim_disk *sim_node_disk(struct sim *sim, uint32_t number)
{
  return sim_node_get(sim, number)->disk;
}

CHI_PRIVATE const char *sim_node_instance(struct sim *sim, uint32_t number)
{
  return sim_node_get(sim, number)->instance;
}

CHI_PRIVATE void sim_node_blocking_io(struct sim *sim, uint32_t number, bool blocks)
{
  sim_node_get(sim, number)->blocking_io = blocks;
}

/* ---- the environment of a client ---------------------------------------------------------- */

static int sim_env_link_open(struct env *env, const char *instance, env_link *out, chi_error *err)
{
  struct sim_party *client = sim_party_of(env);
  struct sim *sim = CHI_CONTAINER_OF(client->world, struct sim, world);
  struct sim_node *node = sim->nodes;
  sim_sleep(client->world, &client->timing, SIM_OPEN_NS);
  while (node && (!instance || strcmp(node->instance, instance) != 0))
    node = node->next;
  if (!node || !node->up)
    return error_set(err, CHI_ENODAEMON, "no daemon \"%s\": looked for a simulated node",
                     instance ? instance : "");
  *out = sim_link_connect(client, &node->port);
  return CHI_OK;
}

static int sim_env_link_call(struct env *env, env_link link, const void *request,
                             size_t request_size, void *reply, size_t *size,
                             struct env_share *shares, uint32_t *count)
{
  return sim_link_call(sim_party_of(env), link, request, request_size, reply, size, shares, count);
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
  sim_sleep(party->world, &party->timing, SIM_RELAX_NS);
}

static void sim_env_pause(struct env *env, uint64_t until)
{
  struct sim_world *world = sim_party_of(env)->world;
  if (until > world->now)
    sim_thread_sleep(world, until);
}

static void sim_client_env(struct sim_client *client)
{
  struct env *env = &client->party.env;
  env->log = sim_env_log;
  env->trace = sim_env_trace;
  env->link_open = sim_env_link_open;
  env->link_call = sim_env_link_call;
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
  sim_world_trace(&client->sim->world, client->node->number, SIM_TRACE_CLIENT, client->number, what,
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
  client->node = sim_node_get(sim, node);
  client->body = body;
  client->arg = arg;
  *sim->last_client = client;
  sim->last_client = &client->next;
  sim->clients_left++;
  sim_party_init(&client->party, &sim->world, node, client->number);
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
  int rc = client_open(&client->party.env, sim_client_detached, client->node->instance, out, err);
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

/* ---- the whole ---------------------------------------------------------------------------- */

CHI_PRIVATE struct sim *sim_open(uint64_t seed)
{
  struct sim *sim = sim_world_new(sizeof(*sim));
  sim_world_init(&sim->world, seed);
  sim->last_client = &sim->clients;
  return sim;
}

CHI_PRIVATE void sim_close(struct sim *sim)
{
  CHI_ASSERT(!sim->world.running);
  while (sim->clients) {
    struct sim_client *client = sim->clients;
    if (!client->gone)
      sim_client_clear(client);
    sim->clients = client->next;
    free(client);
  }
  while (sim->nodes) {
    struct sim_node *node = sim->nodes;
    if (node->up)
      sim_node_clear(node, SIM_DISK_LOSE);
    sim_disk_close(node->disk);
    sim->nodes = node->next;
    free(node);
  }
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

CHI_PRIVATE void sim_transcript(struct sim *sim, chi_put_fn *put, void *arg)
{
  sim->world.trace.put = put;
  sim->world.trace.arg = arg;
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
  for (struct sim_node *node = sim->nodes; node; node = node->next)
    if (node->ended)
      sim_node_finish(node);
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

#undef SIM_STEP_NS
#undef SIM_PARK_NS
#undef SIM_RELAX_NS
#undef SIM_OPEN_NS
#undef SIM_WHIM_NS
#undef SIM_BUDGET
#undef SIM_CAPACITY
#undef SIM_PATIENCE_NS
