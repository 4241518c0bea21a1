/* runtime.c - one node: open, step, drain, close. Wires the parts together: the story starts here.
 *
 * A client attaches over a link (session), leases memory and opens queues. A worker takes an entry
 * from a lane, copies the task into private memory, finds its pool in a snapshot of the table, and
 * runs the method on a fiber of its own only if it blocks (worker, worker_accept). The result is
 * written back and the client is woken (queue). The network worker also keeps the pools (directory,
 * admin), the clients (session) and an eye on the others (worker_relieve). */
#include "runtime.h"
#include "admin.h"
#include "bdev.h"
#include "compose.h"
#include "directory.h"
#include "error.h"
#include "fleet.h"
#include "session.h"
#include "worker.h"

#include <stdio.h>

#define RUNTIME_LOOK_NS WORKER_STUCK_NS
#define RUNTIME_LINGER_NS 250000000ull /* how long after the last activity it keeps looking */
#define RUNTIME_DEPART_NS 1000000000ull /* longest wait for other nodes to hear of a stop */
#define RUNTIME_DRAIN_NS 1000000ull    /* between looks whether everything has ended */

struct runtime {
  struct env *env;
  struct worker_crew crew;
  struct directory directory;
  struct session_set sessions;
  struct fleet fleet;
  struct module_list modules;
  struct admin_host admin;
  struct compose compose;
  struct method closing;
  chi_config config;
  char instance[CHI_NAME_MAX + 16];
  enum runtime_state state; /* network worker */
  bool settled;             /* pools of the configuration are there, or have failed */
  struct ring_node *early, **early_end; /* task_raw that came before, for a pool not there yet */
  uint64_t wait_at; /* when one that waits for its pool is late */
  bool closing_pools, closed_pools;
  chi_error failure;
  void (*on_state)(void *arg, enum runtime_state state);
  void *on_state_arg;
  uint64_t look_at, last_active; /* at the other workers */
  uint64_t stop_grace, stop_at, drain_look, depart_by;
};

static const char *const runtime_state_names[] = {"starting",   "serving", "failed", "draining",
                                                  "cancelling", "stopped", "stuck"};

static void runtime_set_state(struct runtime *rt, enum runtime_state state)
{
  if (rt->state == state)
    return;
  rt->state = state;
  log_write(&rt->crew.log, CHI_LOG_DEBUG, "node is %s", runtime_state_names[state]);
  if (rt->on_state)
    rt->on_state(rt->on_state_arg, state);
}

static struct worker *runtime_network(const struct runtime *rt)
{
  return &rt->crew.worker[rt->crew.count - 1];
}

/* ---- upcalls from below, on the network worker */

/* A task that is to wait for its pool. */
static void runtime_wait(struct runtime *rt, struct task_raw *raw, uint32_t deadline_ms)
{
  if (raw->deadline == 0)
    raw->deadline = deadline_ms ? runtime_network(rt)->now + deadline_ms * UINT64_C(1000000)
                                : UINT64_MAX;
  if (raw->deadline < rt->wait_at)
    rt->wait_at = raw->deadline;
}

static void runtime_on_raw(void *arg, struct task_raw *raw)
{
  struct runtime *rt = arg;
  chi_task *shared = shm_resolve(raw->queue->table, raw->ref, sizeof *shared);
  chi_task header = {.deadline_ms = 0};
  if (shared)
    header = *worker_header(&rt->crew, shared);
  struct pool *p = directory_find(&rt->directory, header.pool);
  if (p ? p->state != POOL_CREATING : rt->settled) {
    worker_refuse_raw(runtime_network(rt), raw, CHI_ENOENT);
    return;
  }
  if (queue_cancelled(raw->queue, raw->slot, raw->tag)) { /* on the way here: nobody looks again */
    worker_refuse_raw(runtime_network(rt), raw, CHI_ECANCELLED);
    return;
  }
  runtime_wait(rt, raw, header.deadline_ms);
  if (p) {
    pool_park(p, &raw->node);
  } else {
    raw->node.next = NULL;
    *rt->early_end = &raw->node;
    rt->early_end = &raw->node.next;
  }
}

/* Of those that wait in this list, ends who is to end; returns when the next one is late. */
static uint64_t runtime_end_waiting(struct runtime *rt, struct ring_node **at,
                                    struct ring_node ***end)
{
  struct worker *network = runtime_network(rt);
  uint64_t next = UINT64_MAX;
  while (*at) {
    struct task_raw *raw = CHI_CONTAINER_OF(*at, struct task_raw, node);
    int rc = network->now >= raw->deadline ? CHI_ETIMEOUT : CHI_OK;
    if (queue_cancelled(raw->queue, raw->slot, raw->tag) || mark_get(&rt->crew.cancel_all))
      rc = CHI_ECANCELLED;
    if (rc == CHI_OK) {
      next = raw->deadline < next ? raw->deadline : next;
      at = &raw->node.next;
      continue;
    }
    *at = raw->node.next;
    if (*end == &raw->node.next)
      *end = at;
    worker_refuse_raw(network, raw, rc);
  }
  return next;
}

static void runtime_look_at_waiting(struct runtime *rt)
{
  rt->wait_at = runtime_end_waiting(rt, &rt->early, &rt->early_end);
  for (struct pool *p = rt->directory.first; p; p = p->next) {
    uint64_t at = runtime_end_waiting(rt, &p->parked, &p->parked_end);
    rt->wait_at = at < rt->wait_at ? at : rt->wait_at;
  }
}

static void runtime_on_notice(void *arg, struct pool_notice *notice)
{
  struct runtime *rt = arg;
  directory_on_notice(&rt->directory, notice);
}

static void runtime_on_remote(void *arg, chi_ctx *ctx)
{
  struct runtime *rt = arg;
  fleet_submit(&rt->fleet, ctx);
}

static void runtime_on_cancel(void *arg)
{
  struct runtime *rt = arg;
  runtime_look_at_waiting(rt);
  fleet_look_for_cancelled(&rt->fleet);
}

static void runtime_on_entry(void *arg, const struct accord_entry *entry)
{
  struct runtime *rt = arg;
  admin_on_entry(&rt->admin, entry);
}

static void runtime_on_member(void *arg, uint32_t node, bool lost)
{
  struct runtime *rt = arg;
  admin_on_member(&rt->admin, node, lost);
}

static void runtime_composed(void *arg, int rc)
{
  struct runtime *rt = arg;
  rt->settled = true;
  while (rt->early) {
    struct ring_node *n = rt->early;
    rt->early = n->next;
    ring_push(&runtime_network(rt)->queue, n);
  }
  rt->early_end = &rt->early;
  if (rc != CHI_OK) {
    rt->failure = rt->compose.error;
    log_write(&rt->crew.log, CHI_LOG_ERROR, "%s", rt->failure.text);
  }
  if (rt->state == RUNTIME_STARTING)
    runtime_set_state(rt, rc == CHI_OK ? RUNTIME_SERVING : RUNTIME_FAILED);
}

static void runtime_stop_upcall(void *arg, uint64_t grace_ns)
{
  runtime_stop(arg, grace_ns);
}

static void runtime_changed_upcall(void *arg)
{
  struct runtime *rt = arg;
  fleet_on_pools(&rt->fleet);
}

static const char *runtime_state_upcall(void *arg)
{
  const struct runtime *rt = arg;
  return runtime_state_names[rt->state];
}

/* ---- open and close */

static void runtime_log_sink(void *arg, int level, const char *line)
{
  struct env *env = arg;
  env->log(env, level, line);
}

static int runtime_open_workers(struct runtime *rt)
{
  struct worker_crew *crew = &rt->crew;
  for (uint32_t i = 0; i < crew->count; i++) {
    enum worker_kind kind = i < crew->fast                ? WORKER_FAST
                            : i < crew->fast + crew->slow ? WORKER_SLOW
                            : i + 1 < crew->count         ? WORKER_BRIEF
                                                          : WORKER_NETWORK;
    int rc = worker_open(&crew->worker[i], crew, i, kind, &rt->sessions.page->worker[i]);
    if (rc != CHI_OK)
      return rc;
  }
  if (crew->brief)
    worker_brief(crew)->bell = runtime_network(rt)->bell;
  return CHI_OK;
}

static int runtime_add_modules(struct runtime *rt, const struct runtime_options *o, chi_error *err)
{
  rt->modules.alloc = rt->crew.alloc;
  int rc = module_add(&rt->modules, admin_module(), err);
  if (rc == CHI_OK)
    rc = module_add(&rt->modules, bdev_module(), err);
  for (uint32_t i = 0; i < o->module_count && rc == CHI_OK; i++)
    rc = module_add(&rt->modules, o->modules[i], err);
  return rc;
}

static void runtime_init(struct runtime *rt, struct env *env, const struct runtime_options *o)
{
  const chi_config *config = o->config;
  rt->env = env;
  rt->config = *config; /* its arrays stay the caller's */
  rt->on_state = o->on_state;
  rt->on_state_arg = o->arg;
  rt->look_at = rt->drain_look = UINT64_MAX;
  rt->early_end = &rt->early;
  rt->wait_at = UINT64_MAX;
  snprintf(rt->instance, sizeof rt->instance, "%s", o->instance);
  rt->crew = (struct worker_crew){
      .env = env,
      .alloc = &env->alloc,
      .log = {.sink = runtime_log_sink,
              .arg = env,
              .level = config->log_level,
              .figures = o->figures ? o->figures : &rt->crew.log_figures},
      .fast = config->sched_threads,
      .slow = config->slow_threads,
      .brief = config->host_count > 1,
      .count = config->sched_threads + config->slow_threads + (config->host_count > 1) + 1,
      .node = o->node,
      .data_budget = config->runtime_data_segment_size,
      .nodes = config->host_count ? config->host_count : 1,
      .stack_size = config->stack_size,
      .on_raw = runtime_on_raw,
      .on_notice = runtime_on_notice,
      .salt = env->random(env),
      .on_remote = runtime_on_remote,
      .on_cancel = runtime_on_cancel,
      .arg = rt,
  };
}

static int runtime_open_fleet(struct runtime *rt, chi_error *err)
{
  const struct fleet_options options = {.crew = &rt->crew,
                                        .directory = &rt->directory,
                                        .config = &rt->config,
                                        .instance = rt->instance,
                                        .on_entry = runtime_on_entry,
                                        .on_member = runtime_on_member,
                                        .arg = rt};
  int rc = fleet_open(&rt->fleet, &options, err);
  rt->admin.fleet = &rt->fleet;
  rt->admin.accord = rt->fleet.accord;
  return rc;
}

static int runtime_open_parts(struct runtime *rt, const struct runtime_options *o, chi_error *err)
{
  struct worker_crew *crew = &rt->crew;
  crew->worker = alloc_zero(crew->alloc, crew->count * sizeof *crew->worker);
  int rc = crew->worker ? session_set_open(&rt->sessions, crew, &rt->config) : CHI_ENOMEM;
  if (rc == CHI_OK)
    rc = runtime_open_workers(rt);
  if (rc == CHI_OK)
    rc = directory_open(&rt->directory, crew);
  if (rc != CHI_OK)
    return error_set(err, rc, "Failed to allocate shared memory segment or workers: %s",
                     chi_status_text(rc));
  rc = runtime_add_modules(rt, o, err);
  if (rc != CHI_OK)
    return rc;
  rt->admin = (struct admin_host){
      .crew = crew,
      .directory = &rt->directory,
      .sessions = &rt->sessions,
      .modules = &rt->modules,
      .instance = rt->instance,
      .boot_time = crew->env->clock(crew->env),
      .changed = runtime_changed_upcall,
      .stop = runtime_stop_upcall,
      .state = runtime_state_upcall,
      .arg = rt,
  };
  rc = admin_open(&rt->admin, err);
  if (rc == CHI_OK)
    rc = runtime_open_fleet(rt, err);
  if (rc != CHI_OK)
    return rc;
  rt->compose = (struct compose){
      .host = &rt->admin, .config = &rt->config, .done = runtime_composed, .arg = rt};
  rc = compose_start(&rt->compose);
  return rc == CHI_OK ? rc : error_set(err, rc, "no memory to start");
}

int runtime_open(struct env *env, const struct runtime_options *o, struct runtime **out,
                 chi_error *err)
{
  CHI_ASSERT(env->version == ENV_VERSION && o->config->sched_threads > 0);
  CHI_ASSERT(o->config->slow_threads > 0);
  struct runtime *rt = alloc_zero(&env->alloc, sizeof *rt);
  if (!rt)
    return error_set(err, CHI_ENOMEM, "no memory for a node");
  runtime_init(rt, env, o);
  int rc = runtime_open_parts(rt, o, err);
  if (rc != CHI_OK) {
    runtime_close(rt);
    return rc;
  }
  *out = rt;
  return CHI_OK;
}

/* What workers were still to be told or to tell is dropped with them; tasks of the node itself that
 * never began are freed. */
static void runtime_drop_queued(struct runtime *rt)
{
  for (uint32_t i = 0; i < rt->crew.count; i++) {
    struct worker *w = &rt->crew.worker[i];
    for (struct ring_node *n = ring_pop(&w->queue); n; n = ring_pop(&w->queue))
      if (n->kind == NODE_TASK && task_of(n)->origin == TASK_FROM_NODE)
        worker_record_free(w, task_of(n));
  }
}

void runtime_close(struct runtime *rt)
{
  struct worker_crew *crew = &rt->crew;
  log_close(&crew->log);
  fleet_close(&rt->fleet);
  if (crew->worker) {
    if (rt->sessions.crew) {
      session_end_all(&rt->sessions);
      rt->sessions.tend_at = 0;
      session_tend(&rt->sessions, 0);
    }
    runtime_drop_queued(rt);
    if (rt->directory.crew)
      directory_close(&rt->directory);
    for (uint32_t i = 0; i < crew->count; i++)
      if (crew->worker[i].crew)
        worker_close(&crew->worker[i]);
    if (rt->sessions.crew)
      session_set_close(&rt->sessions);
  }
  module_free_all(&rt->modules);
  alloc_put(crew->alloc, crew->worker, crew->count * sizeof *crew->worker);
  alloc_put(crew->alloc, rt, sizeof *rt);
}

/* ---- looking after the other workers */

/* While any of them is awake, and a little longer, a look every 20 ms finds one that is stuck in a
 * method or out of stacks. When all sleep there is nothing to look for, and no timer. */
static void runtime_look(struct runtime *rt, uint64_t now)
{
  struct worker_crew *crew = &rt->crew;
  bool awake = worker_look(runtime_network(rt));
  for (uint32_t i = 0; i + 1 < crew->count; i++) {
    uint32_t heir = worker_relieve(runtime_network(rt), i);
    if (heir == i)
      continue;
    uint32_t moved = session_move_lanes(&rt->sessions, i, heir);
    if (moved == 0)
      continue;
    log_write(&crew->log, CHI_LOG_WARNING, "worker %u %s: its %u lanes go to worker %u", i,
              mark_get(&crew->worker[i].full) ? "has as many blocked tasks as it can"
                                              : "does not come back from a method",
              moved, heir);
    if (rt->env->trace)
      rt->env->trace(rt->env, ENV_TRACE_TAKEOVER, i, heir, moved);
  }
  uint32_t from = 0, to = 0, back = session_bring_home(&rt->sessions);
  if (back > 0)
    log_write(&crew->log, CHI_LOG_INFO, "%u lanes go back to workers of their own kind", back);
  if (worker_lopsided(runtime_network(rt), &from, &to) &&
      session_spread(&rt->sessions, from, to) > 0)
    log_write(&crew->log, CHI_LOG_INFO, "a lane goes from worker %u, which is busy, to worker %u",
              from, to);
  if (awake)
    rt->last_active = now;
  rt->look_at = now + RUNTIME_LOOK_NS;
  if (now - rt->last_active < RUNTIME_LINGER_NS)
    return;
  mark_set_fenced(&crew->watching, 0);
  for (uint32_t i = 0; i + 1 < crew->count; i++)
    if (mark_get(&crew->worker[i].awake)) {
      mark_set(&crew->watching, 1);
      return;
    }
  rt->look_at = UINT64_MAX;
}

/* ---- stopping */

CHI_TASK(runtime_closing, 0, CHI_NO_FIELDS)

static int runtime_closing_body(chi_ctx *ctx, void *self, void *task)
{
  struct runtime *rt = ctx->call_arg;
  (void)self;
  (void)task;
  admin_destroy_all(ctx, &rt->admin);
  return CHI_OK;
}

static void runtime_closing_done(chi_ctx *ctx)
{
  struct runtime *rt = ctx->call_arg;
  worker_record_free(runtime_network(rt), ctx);
  rt->closed_pools = true;
}

static const chi_method runtime_closing_method = {&runtime_closing_type, runtime_closing_body, 0,
                                                  0};

void runtime_stop(struct runtime *rt, uint64_t grace_ns)
{
  if (rt->state >= RUNTIME_DRAINING && rt->state != RUNTIME_STUCK)
    return;
  rt->stop_grace = grace_ns;
  rt->stop_at = 0; /* set by the next step, which knows the time */
  if (rt->state == RUNTIME_STUCK) {
    runtime_set_state(rt, RUNTIME_CANCELLING);
    return;
  }
  rt->sessions.draining = true;
  fleet_drain(&rt->fleet, UINT64_MAX);
  mark_set(&rt->crew.draining, 1);
  worker_cancel_changed(runtime_network(rt)); /* periodic tasks end */
  runtime_set_state(rt, RUNTIME_DRAINING);
  rt->drain_look = 0;
  log_write(&rt->crew.log, CHI_LOG_INFO, "stopping; tasks under way: %llu",
            (unsigned long long)worker_work_left(&rt->crew).left);
}

/* Of the phases after the first: even who gives no grace means to have the pools closed. */
static uint64_t runtime_patience(const struct runtime *rt)
{
  return rt->stop_grace > 100000000 ? rt->stop_grace : 100000000;
}

static void runtime_close_pools(struct runtime *rt)
{
  admin_method(&rt->closing, &runtime_closing_method);
  chi_ctx *ctx = admin_prepare(&rt->admin, &rt->closing);
  if (!ctx)
    return;
  admin_start(&rt->admin, ctx, true, runtime_closing_done, rt);
  rt->closing_pools = true;
}

/* Each phase may last the grace period: drain, then cancel, then close the pools. */
static void runtime_drain(struct runtime *rt, uint64_t now)
{
  rt->drain_look = now + RUNTIME_DRAIN_NS;
  if (rt->stop_at == 0)
    rt->stop_at = now + rt->stop_grace;
  struct worker_work all = worker_work_left(&rt->crew);
  uint64_t left = all.left, work = left - all.resting - rt->admin.flushing;
  bool idle = left == 0 && fleet_idle(&rt->fleet);
  if (!rt->closing_pools && idle) {
    uint64_t patience = runtime_patience(rt);
    runtime_close_pools(rt);
    rt->stop_at = now + patience;
    rt->depart_by = now + (patience / 2 < RUNTIME_DEPART_NS ? patience / 2 : RUNTIME_DEPART_NS);
    return;
  }
  if (rt->closed_pools && idle && (now >= rt->depart_by || fleet_departed(&rt->fleet))) {
    session_end_all(&rt->sessions);
    rt->sessions.tend_at = 0;
    if (session_tend(&rt->sessions, now) == UINT64_MAX && directory_settled(&rt->directory)) {
      rt->drain_look = UINT64_MAX;
      runtime_set_state(rt, RUNTIME_STOPPED);
      return;
    }
  }
  bool waited_for = rt->state == RUNTIME_DRAINING && work == 0 && left > 0; /* who see it soon */
  if (now < rt->stop_at || waited_for)
    return;
  rt->stop_at = now + runtime_patience(rt);
  if (rt->state == RUNTIME_DRAINING) {
    runtime_set_state(rt, RUNTIME_CANCELLING);
    rt->admin.cancelled = work;
    log_write(&rt->crew.log, CHI_LOG_WARNING, "the grace period is over: %llu tasks are cancelled",
              (unsigned long long)work);
    mark_set(&rt->crew.cancel_all, 1);
    fleet_drain(&rt->fleet, now);
    worker_cancel_changed(runtime_network(rt));
  } else if (rt->state != RUNTIME_STUCK) {
    log_write(&rt->crew.log, CHI_LOG_ERROR, "%llu tasks do not end", (unsigned long long)left);
    runtime_set_state(rt, RUNTIME_STUCK);
  }
}

/* ---- stepping */

/* What the network worker does beside being a worker; returns when it wants to be called again. */
static uint64_t runtime_tend(struct runtime *rt, uint64_t now)
{
  if (rt->look_at == UINT64_MAX && mark_get(&rt->crew.watching)) {
    rt->last_active = now;
    rt->look_at = now + RUNTIME_LOOK_NS;
  }
  if (now >= rt->look_at)
    runtime_look(rt, now);
  uint64_t next = rt->look_at;
  uint64_t tend = session_tend(&rt->sessions, now);
  next = tend < next ? tend : next;
  tend = admin_tend(&rt->admin, now);
  next = tend < next ? tend : next;
  if (now >= rt->wait_at)
    runtime_look_at_waiting(rt);
  next = rt->wait_at < next ? rt->wait_at : next;
  if (now >= rt->drain_look)
    runtime_drain(rt, now);
  next = rt->drain_look < next ? rt->drain_look : next;
  tend = fleet_step(&rt->fleet, now);
  return tend < next ? tend : next;
}

bool runtime_step(struct runtime *rt, uint32_t worker, uint64_t now, uint32_t budget,
                  uint64_t *deadline)
{
  struct worker *w = &rt->crew.worker[worker];
  bool more = worker_step(w, now, budget, deadline);
  if (w->kind == WORKER_NETWORK) {
    uint64_t next = runtime_tend(rt, now);
    *deadline = next < *deadline ? next : *deadline;
  }
  return more;
}

uint64_t runtime_worker_done(const struct runtime *rt, uint32_t worker)
{
  const struct worker *w = &rt->crew.worker[worker];
  return tally_get(&w->ended) + tally_get(&w->refused);
}

bool runtime_has_work(const struct runtime *rt, uint32_t worker)
{
  const struct worker *w = &rt->crew.worker[worker];
  if (w->kind == WORKER_NETWORK && rt->look_at == UINT64_MAX && mark_get(&rt->crew.watching))
    return true;
  return worker_has_work(w);
}

bool runtime_is_asked(const struct runtime *rt, uint32_t worker)
{
  return worker_is_asked(&rt->crew.worker[worker]);
}

bool runtime_may_sleep(struct runtime *rt, uint32_t worker)
{
  struct worker *w = &rt->crew.worker[worker];
  return worker_may_sleep(w) && !(w->kind == WORKER_NETWORK && runtime_has_work(rt, worker));
}

void runtime_awake(struct runtime *rt, uint32_t worker)
{
  worker_awake(&rt->crew.worker[worker]);
}

uint32_t runtime_worker_count(const struct runtime *rt)
{
  return rt->crew.count;
}

uint32_t runtime_network_worker(const struct runtime *rt)
{
  return rt->crew.count - 1;
}

uint32_t runtime_brief_worker(const struct runtime *rt)
{
  return rt->crew.brief ? rt->crew.count - 2 : UINT32_MAX;
}

bool runtime_brief_stays(const struct runtime *rt, uint64_t *beat)
{
  const struct worker *w = worker_brief(&rt->crew);
  uint64_t before = *beat;
  bool inside = mark_get(&w->inside);
  *beat = tally_get(&w->beat);
  return inside && *beat == before;
}

void runtime_take_over(struct runtime *rt, uint64_t now)
{
  struct worker *w = worker_brief(&rt->crew), *network = runtime_network(rt);
  if (now > network->now)
    network->now = now;
  worker_mark_stuck(w);
  uint32_t heir = worker_relieve(network, w->index);
  log_write(&rt->crew.log, CHI_LOG_WARNING,
            "worker %u does not come back from a method that was brief: another thread takes the "
            "network over from it, and worker %u its tasks",
            w->index, heir);
  if (rt->env->trace)
    rt->env->trace(rt->env, ENV_TRACE_TAKEOVER, w->index, heir, 0);
  mark_set(&rt->crew.watching, 1); /* looks go on as long as it is away */
}

env_bell runtime_worker_bell(const struct runtime *rt, uint32_t worker)
{
  return rt->crew.worker[worker].bell;
}

uint64_t runtime_grace(const struct runtime *rt)
{
  return rt->stop_grace;
}

void runtime_inspect(const struct runtime *rt, struct runtime_view *out)
{
  struct worker_work work = worker_work_left(&rt->crew);
  *out = (struct runtime_view){.pools = fleet_digest_of(&rt->fleet),
                               .tasks_open = work.left - work.resting,
                               .credit = rt->fleet.net ? net_credit(rt->fleet.net) : 0};
}

bool runtime_inspect_place(const struct runtime *rt, uint32_t at, struct runtime_place *out)
{
  for (const struct pool *p = rt->directory.first; p; p = p->next) {
    bool ready = p->shared && p->state == POOL_READY;
    for (uint32_t i = 0; ready && i < p->map->count; i++) {
      if (!p->map->at[i].here || at-- > 0)
        continue;
      *out = (struct runtime_place){p->id, p->version[0], i};
      return true;
    }
  }
  return false;
}

uint64_t runtime_sees(const struct runtime *rt, uint32_t node)
{
  return fleet_sees(&rt->fleet, node);
}

uint32_t runtime_judges(const struct runtime *rt, uint32_t node)
{
  return fleet_judges(&rt->fleet, node);
}

enum runtime_state runtime_state(const struct runtime *rt)
{
  return rt->state;
}

const chi_error *runtime_failure(const struct runtime *rt)
{
  return &rt->failure;
}

const char *runtime_fault(struct runtime *rt, const void *address, char *buf, size_t size)
{
  for (uint32_t i = 0; i < rt->crew.count; i++) {
    const chi_ctx *ctx = worker_fault(&rt->crew.worker[i], address);
    if (!ctx)
      continue;
    const struct pool *p = ctx->container->pool;
    snprintf(buf, size, "method %.64s of pool %u.%u (%.256s) overran its stack of %llu bytes",
             ctx->method->def->type->name, p->id.major, p->id.minor, p->name,
             (unsigned long long)rt->crew.stack_size);
    return buf;
  }
  return NULL;
}

void runtime_on_connect(struct runtime *rt, env_link link, const struct env_peer *peer)
{
  session_connect(&rt->sessions, link, peer);
}

void runtime_on_request(struct runtime *rt, env_link link, const void *message, size_t size)
{
  session_request(&rt->sessions, link, message, size);
}

void runtime_on_hangup(struct runtime *rt, env_link link)
{
  session_hangup(&rt->sessions, link);
}

void runtime_on_message(struct runtime *rt, const struct env_frame *frame, uint32_t count)
{
  fleet_on_message(&rt->fleet, frame, count);
}

void runtime_on_peer(struct runtime *rt, uint32_t peer, bool connected)
{
  fleet_on_peer(&rt->fleet, peer, connected);
}

void runtime_on_sent(struct runtime *rt, void *parcel)
{
  fleet_on_sent(&rt->fleet, parcel);
}

#undef RUNTIME_LOOK_NS
#undef RUNTIME_LINGER_NS
#undef RUNTIME_DEPART_NS
#undef RUNTIME_DRAIN_NS
