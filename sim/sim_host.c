/* sim_host.c - a simulated machine: the node on it, stepped by workers, with disk and clocks. */
#include "sim_host.h"

#include "error.h"

#include <stdio.h>
#include <stdlib.h>

#define SIM_HOST_WHIM_NS 20000u /* until a sleep ends for nothing */
#define SIM_HOST_CAPACITY (UINT64_C(64) << 30)

struct sim_host_worker {
  struct sim_thread thread;
  struct sim_host *host;
  uint32_t index;
  uint64_t owed; /* CPU for the tasks that ended in the last step */
};

static struct sim_host *sim_host_of(struct env *env)
{
  return CHI_CONTAINER_OF(sim_party_of(env), struct sim_host, party);
}

/* ---- the environment of a node ------------------------------------------------------------ */

CHI_PRIVATE void sim_host_log(struct env *env, int level, const char *line)
{
  struct sim_party *party = sim_party_of(env);
  (void)level;
  sim_trace_text(&party->world->trace, party->world->now, party->node, line);
}

CHI_PRIVATE void sim_host_trace(struct env *env, int what, uint64_t a, uint64_t b, uint64_t c)
{
  struct sim_party *party = sim_party_of(env);
  sim_world_trace(party->world, party->node, what, a, b, c, NULL);
  if (what == ENV_TRACE_COST)
    sim_thread_sleep(party->world, party->world->now + c / 100 * party->world->profile.declared);
}

static int sim_host_link_reply(struct env *env, env_link link, const void *message, size_t size,
                               const struct env_share *shares, uint32_t count)
{
  return sim_link_reply(sim_party_of(env), link, message, size, shares, count);
}

static void sim_host_link_close(struct env *env, env_link link)
{
  sim_link_close(&sim_host_of(env)->port, link);
}

static int sim_host_io_submit(struct env *env, uint32_t worker, struct env_io *io)
{
  return sim_io_submit(&sim_host_of(env)->io, worker, io);
}

static bool sim_host_io_blocks(struct env *env, uint32_t worker, const struct env_io *io)
{
  (void)worker;
  return sim_io_blocks(&sim_host_of(env)->io, io);
}

static struct env_io *sim_host_io_reap(struct env *env, uint32_t worker)
{
  return sim_io_reap(&sim_host_of(env)->io, worker);
}

static int sim_host_module_load(struct env *env, const char *name, const chi_module **out,
                                chi_error *err)
{
  (void)env, (void)out;
  return error_set(err, CHI_ENOMODULE, "no module \"%s\": a simulation loads none", name);
}

static int sim_host_net_open(struct env *env, const chi_host *hosts, uint32_t count, uint32_t self,
                             uint32_t port, chi_error *err)
{
  (void)hosts, (void)port;
  return sim_net_open(sim_host_of(env)->net, count, self, err);
}

static void sim_host_net_close(struct env *env)
{
  sim_net_close(sim_host_of(env)->net);
}

static int sim_host_net_send(struct env *env, uint32_t peer, const struct env_frame *frame,
                             uint32_t count, void *parcel)
{
  return sim_net_send(sim_host_of(env)->net, peer, frame, count, parcel);
}

static void sim_host_net_reset(struct env *env, uint32_t peer)
{
  sim_net_reset(sim_host_of(env)->net, peer);
}

static void sim_host_env(struct sim_host *host)
{
  struct env *env = &host->party.env;
  env->log = sim_host_log;
  env->trace = sim_host_trace;
  env->link_reply = sim_host_link_reply;
  env->link_close = sim_host_link_close;
  env->io_submit = sim_host_io_submit;
  env->io_blocks = sim_host_io_blocks;
  env->io_reap = sim_host_io_reap;
  env->module_load = sim_host_module_load;
  env->net_open = sim_host_net_open;
  env->net_close = sim_host_net_close;
  env->net_send = sim_host_net_send;
  env->net_reset = sim_host_net_reset;
}

/* ---- workers: what a thread of the real environment does ---------------------------------- */

static void sim_host_hear_link(struct sim_host *host, const struct sim_link_mail *mail,
                               env_link link)
{
  const struct env_peer peer = {1000, 1000 + mail->sender};
  switch (mail->kind) {
  case SIM_LINK_CONNECT:
    runtime_on_connect(host->runtime, link, &peer);
    break;
  case SIM_LINK_REQUEST:
    runtime_on_request(host->runtime, link, mail->bytes, mail->size);
    break;
  default:
    runtime_on_hangup(host->runtime, link);
  }
}

static void sim_host_hear_net(struct sim_host *host, const struct sim_net_mail *mail)
{
  switch (mail->kind) {
  case SIM_NET_MESSAGE:
    runtime_on_message(host->runtime, mail->frame, mail->count);
    break;
  case SIM_NET_PEER:
    runtime_on_peer(host->runtime, mail->from, mail->connected);
    break;
  default:
    runtime_on_sent(host->runtime, mail->parcel);
  }
}

/* What the network worker does between its steps. */
static void sim_host_upcalls(struct sim_host *host)
{
  struct sim_link_mail *mail;
  struct sim_net_mail *net_mail;
  env_link link;
  while ((mail = sim_link_take(&host->port, &link))) {
    sim_host_hear_link(host, mail, link);
    sim_link_mail_free(mail);
  }
  while ((net_mail = sim_net_take(host->net))) {
    sim_host_hear_net(host, net_mail);
    sim_net_mail_free(net_mail);
  }
  if (host->stop_asked)
    runtime_stop(host->runtime, host->grace_ns);
  host->stop_asked = false;
}

static bool sim_host_is_network(const struct sim_host_worker *worker)
{
  return worker->index == runtime_network_worker(worker->host->runtime);
}

/* When a sleeping worker goes on if nobody wakes it; its deadline is by its own clock. */
static uint64_t sim_host_until(const struct sim_host_worker *worker, uint64_t deadline)
{
  struct sim_host *host = worker->host;
  uint64_t now = host->world->now, link = sim_link_due(&host->port), net = sim_net_due(host->net);
  bool network = sim_host_is_network(worker);
  if (sim_io_ready(&host->io, worker->index) || (network && host->stop_asked))
    return now;
  deadline = skew_until(&host->clock, deadline);
  if (network && link < deadline)
    deadline = link;
  if (network && net < deadline)
    deadline = net;
  if (rng_chance(&host->cpu, SIM_WORLD_WHIM_PPM) && now + SIM_HOST_WHIM_NS < deadline)
    deadline = now + SIM_HOST_WHIM_NS;
  return deadline;
}

static void sim_host_spend(struct sim_host *host, uint64_t ns, uint64_t more)
{
  sim_thread_sleep(host->world, host->world->now + sim_world_about(&host->cpu, ns) + more);
}

/* Whether this thread steps the brief worker, too. */
static bool sim_host_has_brief(const struct sim_host_worker *worker)
{
  const struct sim_host_brief *b = &worker->host->brief;
  return b->worker && !b->taken && sim_host_is_network(worker);
}

/* Announces it for all workers that this thread steps. */
static bool sim_host_may_sleep(struct sim_host_worker *worker)
{
  struct sim_host *host = worker->host;
  struct sim_host_brief *b = &host->brief;
  if (!runtime_may_sleep(host->runtime, worker->index))
    return false;
  if (!sim_host_has_brief(worker) || b->asleep)
    return true;
  b->asleep = runtime_may_sleep(host->runtime, b->worker->index);
  if (!b->asleep)
    runtime_awake(host->runtime, b->worker->index);
  return b->asleep;
}

static void sim_host_rest(struct sim_host_worker *worker, uint64_t deadline)
{
  struct sim_host *host = worker->host;
  if (sim_host_may_sleep(worker)) {
    sim_host_spend(host, host->world->profile.park, 0);
    sim_party_bell_wait(&host->party, runtime_worker_bell(host->runtime, worker->index),
                        sim_host_until(worker, deadline));
    if (host->world->profile.wake)
      sim_host_spend(host, host->world->profile.wake, 0);
  }
  runtime_awake(host->runtime, worker->index);
}

/* The brief worker has the bell of another, who may sleep while this one is busy. */
static bool sim_host_sleeps(const struct sim_host *host, uint32_t worker)
{
  const struct sim_host_brief *b = &host->brief;
  return !(b->away && worker == b->worker->index) &&
         sim_party_bell_sleeps(&host->party, runtime_worker_bell(host->runtime, worker));
}

/* Whoever sleeps while there is work for it has been forgotten, unless its bell is rung. */
static void sim_host_look_for_forgotten(struct sim_host *host)
{
  for (uint32_t i = 0; i < host->worker_count; i++)
    if (sim_host_sleeps(host, i) && runtime_is_asked(host->runtime, i))
      sim_world_fail(host->world, host->number, SIM_WORLD_FORGOTTEN,
                     "worker %u of node %u sleeps, though there is work for it, and nobody rings",
                     i, host->number);
}

/* The CPU time that messages took since the last step, and the tasks of that one. */
static uint64_t sim_host_owed(struct sim_host_worker *worker)
{
  struct sim_net_port *net = worker->host->net;
  uint64_t tasks = worker->owed, messages = net->owed;
  worker->owed = 0;
  if (!sim_host_is_network(worker))
    return tasks;
  net->owed = 0;
  return tasks + messages;
}

static bool sim_host_step(struct sim_host_worker *worker, uint64_t *deadline)
{
  struct sim_host *host = worker->host;
  const struct sim_profile *profile = &host->world->profile;
  uint64_t done = runtime_worker_done(host->runtime, worker->index);
  bool more = runtime_step(host->runtime, worker->index, sim_party_now(&host->party),
                           (uint32_t)profile->budget, deadline);
  worker->owed = (runtime_worker_done(host->runtime, worker->index) - done) * profile->task;
  return more;
}

/* The network worker's thread was away for long: it is its own again when the other is between two
 * steps. True: it was taken. */
static bool sim_host_return(struct sim_host *host)
{
  struct sim_host_brief *b = &host->brief;
  bool taken = b->taken;
  if (taken) {
    b->wanted = true;
    host->party.env.bell_ring(&host->party.env, runtime_worker_bell(host->runtime,
                                                                    b->worker->index));
  }
  while (b->taken)
    sim_thread_park(host->world, SIM_WORLD_NEVER);
  return taken;
}

/* Steps the brief worker if it has something to do. True: there is more. */
static bool sim_host_assist(struct sim_host *host, uint64_t *deadline)
{
  struct sim_host_brief *b = &host->brief;
  uint32_t index = b->worker->index;
  bool taken = false;
  if (b->more || b->deadline <= sim_party_now(&host->party) ||
      runtime_has_work(host->runtime, index) || sim_io_ready(&host->io, index)) {
    if (b->asleep)
      runtime_awake(host->runtime, index);
    b->asleep = false;
    sim_host_spend(host, host->world->profile.step, sim_host_owed(b->worker));
    b->away = true;
    b->late = host->world->now + RUNTIME_STUCK_NS;
    sim_thread_wake(&b->worker->thread, b->late);
    b->more = sim_host_step(b->worker, &b->deadline);
    b->away = false;
    taken = sim_host_return(host);
  }
  *deadline = b->deadline < *deadline ? b->deadline : *deadline;
  return b->more || taken;
}

/* Its messages and files wake this thread. */
static void sim_host_attend(struct sim_host *host, struct sim_thread *thread)
{
  host->net->thread = host->port.thread = thread;
  host->io.worker[runtime_network_worker(host->runtime)].thread = thread;
}

static void sim_host_work(void *arg);

/* The thread of the brief worker: stands in whenever the other stays away. */
static void sim_host_stand_in(void *arg)
{
  struct sim_host_worker *own = arg, *network;
  struct sim_host *host = own->host;
  struct sim_host_brief *b = &host->brief;
  network = &host->worker[runtime_network_worker(host->runtime)];
  while (!host->ended) {
    sim_thread_park(host->world, b->away ? b->late : SIM_WORLD_NEVER);
    if (!b->away || host->world->now < b->late || host->ended)
      continue;
    b->taken = true;
    sim_host_attend(host, &own->thread);
    runtime_take_over(host->runtime, sim_party_now(&host->party));
    sim_host_work(network);
    sim_host_attend(host, &network->thread);
    b->taken = b->wanted = false;
    sim_thread_wake(&network->thread, host->world->now);
  }
}

/* Time passes before a step, and what it does is seen when that time is over. */
static void sim_host_work(void *arg)
{
  struct sim_host_worker *worker = arg;
  struct sim_host *host = worker->host;
  uint64_t deadline = SIM_WORLD_NEVER;
  while (!host->ended && !(host->brief.wanted && sim_host_is_network(worker))) {
    bool more;
    if (sim_host_is_network(worker))
      sim_host_upcalls(host);
    sim_host_spend(host, host->world->profile.step, sim_host_owed(worker));
    more = sim_host_step(worker, &deadline);
    if (sim_host_has_brief(worker) && sim_host_assist(host, &deadline))
      more = true;
    sim_host_look_for_forgotten(host);
    if (sim_host_is_network(worker) && runtime_state(host->runtime) == RUNTIME_STOPPED)
      host->ended = *host->some_ended = true;
    else if (!more)
      sim_host_rest(worker, deadline);
  }
}

static void sim_host_employ(struct sim_host *host)
{
  host->worker_count = runtime_worker_count(host->runtime);
  host->worker = sim_world_new(host->worker_count * sizeof(*host->worker));
  uint32_t brief = runtime_brief_worker(host->runtime);
  host->brief = (struct sim_host_brief){.deadline = SIM_WORLD_NEVER};
  if (brief != UINT32_MAX)
    host->brief.worker = &host->worker[brief];
  sim_io_init(&host->io, host->world, host->disk, host->number, host->worker_count);
  host->io.blocks = host->blocking_io;
  for (uint32_t i = 0; i < host->worker_count; i++) {
    struct sim_host_worker *worker = &host->worker[i];
    worker->host = host;
    worker->index = i;
    sim_thread_start(host->world, &worker->thread, host->number,
                     i == brief ? sim_host_stand_in : sim_host_work, worker);
    worker->thread.frozen = &host->paused;
    host->io.worker[i].thread = &worker->thread;
  }
  sim_host_attend(host, &host->worker[runtime_network_worker(host->runtime)].thread);
}

/* ---- its life ----------------------------------------------------------------------------- */

CHI_PRIVATE struct sim_host *sim_host_new(struct sim_world *world, struct sim_net *net,
                                          uint32_t number, bool *some_ended)
{
  struct sim_host *host = sim_world_new(sizeof(*host));
  host->world = world;
  host->number = number;
  host->state = RUNTIME_STOPPED;
  host->some_ended = some_ended;
  snprintf(host->instance, sizeof(host->instance), "sim:%u", number);
  host->disk = sim_disk_open(world->seed, number, SIM_HOST_CAPACITY);
  host->net = sim_net_port(net, number);
  return host;
}

CHI_PRIVATE void sim_host_free(struct sim_host *host)
{
  if (host->up)
    sim_host_clear(host, SIM_DISK_LOSE, true);
  sim_disk_close(host->disk);
  free(host);
}

CHI_PRIVATE void sim_host_tell(struct sim_host *host, enum sim_trace_node what)
{
  sim_world_trace(host->world, host->number, SIM_TRACE_NODE, what, 0, 0, NULL);
}

/* Its threads are no more, nor what they had under way. */
static void sim_host_dismiss(struct sim_host *host)
{
  host->net->thread = host->port.thread = NULL;
  if (host->worker)
    sim_io_fini(&host->io);
  for (uint32_t i = 0; i < host->worker_count; i++)
    sim_thread_end(&host->worker[i].thread);
  free(host->worker);
  host->worker = NULL;
  host->brief.worker = NULL;
  host->worker_count = 0;
}

CHI_PRIVATE void sim_host_clear(struct sim_host *host, enum sim_disk_crash how, bool silent)
{
  for (uint32_t i = 0; i < host->worker_count; i++)
    CHI_ASSERT(host->world->running != &host->worker[i].thread);
  sim_host_dismiss(host);
  sim_net_die(host->net, silent);
  sim_link_close_all(&host->port);
  sim_party_fini(&host->party);
  sim_disk_crash(host->disk, how);
  host->runtime = NULL;
  host->up = host->ended = host->stop_asked = host->paused = false;
  host->state = RUNTIME_STOPPED;
}

CHI_PRIVATE void sim_host_finish(struct sim_host *host)
{
  uint32_t files = sim_disk_open_count(host->disk);
  sim_host_tell(host, SIM_TRACE_NODE_STOPS);
  if (host->io.flight)
    sim_world_fail(host->world, host->number, SIM_WORLD_LEAK,
                   "a stopped node still has file operations");
  sim_host_dismiss(host);
  runtime_close(host->runtime);
  sim_link_close_unheard(&host->port);
  sim_party_check(&host->party, "of a stopped node");
  if (files)
    sim_world_fail(host->world, host->number, SIM_WORLD_LEAK,
                   "leak of a stopped node: %u open files", files);
  if (host->net->open)
    sim_world_fail(host->world, host->number, SIM_WORLD_LEAK,
                   "a stopped node is still in the network");
  sim_host_clear(host, SIM_DISK_KEEP, false);
}

static void sim_host_on_state(void *arg, enum runtime_state state)
{
  struct sim_host *host = arg;
  host->state = state;
  if (state == RUNTIME_SERVING)
    sim_host_tell(host, SIM_TRACE_NODE_SERVES);
  else if (state == RUNTIME_FAILED)
    sim_host_tell(host, SIM_TRACE_NODE_FAILS);
}

static void sim_host_begin(struct sim_host *host)
{
  sim_party_init(&host->party, host->world, host->number, 0);
  sim_world_stream(host->world, &host->party.random, host->number,
                   SIM_WORLD_STREAM_RANDOM + ((uint64_t)host->lives++ << 32));
  host->party.clock = &host->clock;
  sim_link_port_init(&host->port, &host->party);
  sim_world_stream(host->world, &host->cpu, host->number, SIM_WORLD_STREAM_CPU);
  sim_host_env(host);
  host->up = true;
  host->state = RUNTIME_STARTING;
  sim_host_tell(host, SIM_TRACE_NODE_STARTS);
}

CHI_PRIVATE int sim_host_open(struct sim_host *host, const struct sim_host_setting *setting,
                              chi_error *err)
{
  const chi_config *config = setting->config;
  chi_config resolved = *config;
  struct runtime_options options = {.config = &resolved,
                                    .instance = host->instance,
                                    .node = host->number < config->host_count ? host->number : 0,
                                    .modules = setting->modules,
                                    .module_count = setting->module_count,
                                    .on_state = sim_host_on_state,
                                    .arg = host};
  int rc;
  CHI_ASSERT(!host->up);
  resolved.sched_threads = config->sched_threads ? config->sched_threads : 2;
  resolved.slow_threads = config->slow_threads ? config->slow_threads : 1;
  host->setting = *setting;
  host->felled = host->rises = false;
  sim_host_begin(host);
  rc = runtime_open(&host->party.env, &options, &host->runtime, err);
  if (rc) {
    sim_party_check(&host->party, "of a node that did not open");
    sim_host_clear(host, SIM_DISK_KEEP, false);
  } else {
    sim_host_employ(host);
  }
  return rc;
}

CHI_PRIVATE void sim_host_stop(struct sim_host *host, uint64_t grace_ns)
{
  CHI_ASSERT(host->up);
  host->stop_asked = true;
  host->grace_ns = grace_ns;
  sim_thread_wake(host->port.thread, host->world->now);
}

CHI_PRIVATE bool sim_host_pause(struct sim_host *host, bool pause)
{
  if (!host->up || host->paused == pause)
    return false;
  host->paused = pause;
  for (uint32_t i = 0; i < host->worker_count && !pause; i++)
    sim_thread_thaw(&host->worker[i].thread);
  return true;
}

/* What sleeps until a time by these clocks looks at them again. */
CHI_PRIVATE void sim_host_clocks_changed(struct sim_host *host)
{
  for (uint32_t i = 0; i < host->worker_count; i++)
    sim_thread_wake(&host->worker[i].thread, host->world->now);
}

#undef SIM_HOST_WHIM_NS
#undef SIM_HOST_CAPACITY
