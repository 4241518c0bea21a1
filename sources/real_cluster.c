/* real_cluster.c - clusters of real nodes behind the handle chi_cluster. */
#include "real_cluster.h"

#ifndef CHI_OMIT_REAL

#include "client.h"
#include "error.h"
#include "real_daemon.h"
#include "real_host.h"
#include "real_link.h"
#ifndef CHI_OMIT_SIM
#include "sim_plan.h"
#endif

#include <errno.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define REAL_CLUSTER_START_NS UINT64_C(30000000000) /* nodes come up, and meet, within that */
#define REAL_CLUSTER_STOP_NS UINT64_C(1000000000)   /* a stop's phases last grace and that */
#define REAL_CLUSTER_PHASES 4u
#define REAL_CLUSTER_LOOK_NS 2000000  /* between two looks at what is waited for */
#define REAL_CLUSTER_ASK_NS 50000000  /* between two questions to all nodes */
#define REAL_CLUSTER_CLIENTS 1024u    /* started in one cluster, at most */
#define REAL_CLUSTER_NODES 250u       /* loopback addresses that are used */
#define REAL_CLUSTER_BEGIN UINT64_C(1000000000) /* what the clock says at the beginning */

_Static_assert(REAL_CLUSTER_NODES <= REAL_FAULT_NODES, "each can be told of each");

enum real_cluster_state { REAL_CLUSTER_WAITS, REAL_CLUSTER_RUNS, REAL_CLUSTER_ENDED };

struct real_cluster_client {
  struct real_cluster *cluster;
  uint32_t node;
  chi_cluster_body *body;
  void *arg;
  pthread_t thread;
  enum real_cluster_state state; /* guarded by lock, as all that follows */
  bool killed;
  chi_client *handle; /* while it runs */
};

/* In memory that the processes of nodes share: their methods may tell properties, too. */
struct real_cluster {
  struct chi_cluster base;
  struct real_daemon_set daemons;
  bool running;  /* it was there before, and stays */
  uint32_t self; /* then the node on this host */
  pid_t owner;   /* whose everything is that other processes can't use */
  uint64_t from; /* the clock when it began */
  pthread_mutex_t lock;
  pthread_cond_t changed;
  bool closing; /* guarded by lock, as all that follows */
  struct real_cluster_client *client[REAL_CLUSTER_CLIENTS];
  uint32_t clients, clients_left;
  uint64_t faults[CHI_FAULT_KINDS];
#ifndef CHI_OMIT_SIM
  struct sim_plan plan; /* faults to come; only the test's own thread uses it */
  uint32_t plan_next;
#endif
  chi_put_fn *put; /* gets the logs at the end; NULL: nobody does */
  void *put_arg;
};

static struct real_cluster *real_cluster_of(const chi_cluster *c)
{
  return (struct real_cluster *)(uintptr_t)CHI_CONTAINER_OF(c, struct real_cluster, base);
}

/* A process may have been killed while it was inside: what is there is counters and texts. */
static void real_cluster_lock(struct real_cluster *s)
{
  if (pthread_mutex_lock(&s->lock) == EOWNERDEAD)
    pthread_mutex_consistent(&s->lock);
}

static void real_cluster_unlock(struct real_cluster *s)
{
  pthread_mutex_unlock(&s->lock);
}

/* ---- time ------------------------------------------------------------------------------------ */

static uint64_t real_cluster_now(const chi_cluster *c)
{
  return real_env_now() - real_cluster_of(c)->from + REAL_CLUSTER_BEGIN;
}

static struct timespec real_cluster_end(uint64_t ns)
{
  uint64_t now = real_env_now(), end = ns < UINT64_MAX / 2 ? now + ns : UINT64_MAX / 2;
  return (struct timespec){(time_t)(end / 1000000000u), (long)(end % 1000000000u)};
}

/* In a body of a client others go on, and it ends early if the cluster does. In a method, which is
 * in the process of a node, it is held up with its thread. */
static void real_cluster_use(chi_cluster *c, uint64_t ns)
{
  struct real_cluster *s = real_cluster_of(c);
  struct timespec end = real_cluster_end(ns);
  int rc = 0;
  if (getpid() != s->owner) {
    while (clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &end, NULL) == EINTR)
      ;
    return;
  }
  real_cluster_lock(s);
  while (!s->closing && rc != ETIMEDOUT) {
    rc = pthread_cond_timedwait(&s->changed, &s->lock, &end);
    if (rc == EOWNERDEAD)
      pthread_mutex_consistent(&s->lock);
  }
  real_cluster_unlock(s);
}

static void real_cluster_guard(chi_cluster *c, bool enter)
{
  if (enter)
    real_cluster_lock(real_cluster_of(c));
  else
    real_cluster_unlock(real_cluster_of(c));
}

static void real_cluster_storm(struct real_cluster *s);
static void real_cluster_look(struct real_cluster *s);

static int real_cluster_run(chi_cluster *c, chi_cluster_fn *pred, void *arg, uint64_t limit_ns)
{
  struct real_cluster *s = real_cluster_of(c);
  uint64_t begun = real_env_now();
  for (;;) {
    bool over = real_env_now() - begun >= limit_ns;
    real_cluster_storm(s);
    real_cluster_lock(s);
    real_cluster_look(s);
    c->running = true;
    bool held = cluster_holds(c, CHI_CHECK_EVENT) && pred(c, arg);
    bool failed = c->failed;
    c->running = false;
    real_cluster_unlock(s);
    if (failed || held || over)
      return failed ? CHI_ECANCELLED : held ? CHI_OK : CHI_ETIMEOUT;
    nanosleep(&(struct timespec){0, REAL_CLUSTER_LOOK_NS}, NULL);
  }
}

/* ---- nodes ----------------------------------------------------------------------------------- */

static bool real_cluster_is_up(const chi_cluster *c, uint32_t node)
{
  struct real_cluster *s = real_cluster_of(c);
  real_cluster_lock(s);
  bool up = real_daemon_is_up(&s->daemons, node);
  real_cluster_unlock(s);
  return up;
}

/* A node that ends by itself is a failure, whatever the test is about. */
static void real_cluster_look(struct real_cluster *s)
{
  for (uint32_t i = 0; i < s->daemons.count; i++) {
    struct real_daemon *n = &s->daemons.node[i];
    real_daemon_is_there(&s->daemons, i);
    if (!n->ended || s->base.failed)
      continue;
    if (n->failure.text[0])
      chi_cluster_fail(&s->base, "start", "node %u: %.300s", i, n->failure.text);
    else if (WIFSIGNALED(n->status))
      chi_cluster_fail(&s->base, "crash", "node %u ends with signal %d", i, WTERMSIG(n->status));
    else
      chi_cluster_fail(&s->base, "crash", "node %u ends with status %d", i,
                       WEXITSTATUS(n->status));
  }
}

/* For chi_client_open. */
static const char *real_cluster_instance(const struct real_cluster *s, uint32_t node,
                                         char room[CHI_NAME_MAX])
{
  if (s->running)
    return NULL;
  real_daemon_instance(&s->daemons, node, room);
  return room;
}

/* Something that takes long to find out: now and then, a look. */
struct real_cluster_wait {
  uint64_t look_at;
  uint32_t nodes;        /* that are to see each other */
  bool settled;          /* and no work is left */
  const chi_host *hosts; /* of a cluster that runs: the list it is to have */
  int rc;                /* not CHI_OK: there is no use in waiting */
  char why[sizeof(((chi_error *)0)->text)];
};

/* The daemon on this host is there, and isn't the right one. */
static bool real_cluster_mistaken(const struct real_cluster *s, struct real_cluster_wait *wait,
                                  const struct real_daemon_view *v)
{
  uint32_t node = wait->hosts ? real_daemon_differs(v, s->self, wait->hosts, wait->nodes)
                              : UINT32_MAX;
  if (node == UINT32_MAX)
    return false;
  wait->rc = CHI_EINVAL;
  snprintf(wait->why, sizeof(wait->why),
           "node %u, the daemon on this host, has another list of hosts, or is another node of it: "
           "node %u is %s%.150s",
           s->self, node, node < wait->nodes ? "not " : "in it",
           node < wait->nodes ? wait->hosts[node].name : "");
  return true;
}

/* Whether the node isn't as it is to be; wait->why says what is wrong. */
static bool real_cluster_is_wrong(struct real_cluster *s, struct real_cluster_wait *wait,
                                  uint32_t node, struct real_daemon_view *v)
{
  const char *wrong = NULL;
  char room[CHI_NAME_MAX];
  chi_error err = {0};
  int rc = CHI_OK;
  if (!s->running && !real_cluster_is_up(&s->base, node))
    wrong = "does not serve";
  else if ((rc = real_daemon_ask(real_cluster_instance(s, node, room), v, &err)) != CHI_OK)
    wrong = "does not answer: ";
  else if (real_cluster_mistaken(s, wait, v))
    return true;
  else if (s->base.nodes > 1 && v->alive != wait->nodes)
    wrong = "does not see all nodes";
  else if (s->base.nodes > 1 && v->met != wait->nodes - 1)
    wrong = "has no connection to some node";
  else if (wait->settled && v->open > 0)
    wrong = "has work left";
  if (rc == CHI_ENOENT || rc == CHI_ECONFIG) /* it isn't known where the daemon is to be */
    wait->rc = rc;
  if (wrong)
    snprintf(wait->why, sizeof(wait->why), "node %u %s%.300s", node, wrong, err.text);
  return wrong != NULL;
}

/* Whether the nodes, as far as they can be asked, see each other and have the same number of pools.
 */
static bool real_cluster_agrees(struct real_cluster *s, struct real_cluster_wait *wait,
                                struct real_daemon_view *v)
{
  uint64_t pools = UINT64_MAX;
  for (uint32_t i = 0; i < wait->nodes; i++) {
    if (s->running && i != s->self)
      continue;
    if (real_cluster_is_wrong(s, wait, i, v))
      return false;
    if (pools != UINT64_MAX && v->pools != pools) {
      snprintf(wait->why, sizeof(wait->why), "node %u has other pools", i);
      return false;
    }
    pools = v->pools;
  }
  return true;
}

static int real_cluster_has_met(chi_cluster *c, void *arg)
{
  struct real_cluster_wait *wait = arg;
  struct real_cluster *s = real_cluster_of(c);
  struct real_daemon_view view = {0};
  uint64_t now = real_env_now();
  if (now < wait->look_at)
    return 0;
  view.json = malloc(REAL_DAEMON_JSON);
  bool met = view.json && real_cluster_agrees(s, wait, &view);
  free(view.json);
  wait->look_at = real_env_now() + REAL_CLUSTER_ASK_NS;
  return met || wait->rc != CHI_OK;
}

/* ---- open and close -------------------------------------------------------------------------- */

static void real_cluster_init_lock(struct real_cluster *s)
{
  pthread_mutexattr_t shared;
  pthread_condattr_t monotonic;
  pthread_mutexattr_init(&shared);
  pthread_mutexattr_settype(&shared, PTHREAD_MUTEX_RECURSIVE);
  pthread_mutexattr_setpshared(&shared, PTHREAD_PROCESS_SHARED);
  pthread_mutexattr_setrobust(&shared, PTHREAD_MUTEX_ROBUST);
  pthread_mutex_init(&s->lock, &shared);
  pthread_mutexattr_destroy(&shared);
  pthread_condattr_init(&monotonic);
  pthread_condattr_setclock(&monotonic, CLOCK_MONOTONIC);
  pthread_cond_init(&s->changed, &monotonic);
  pthread_condattr_destroy(&monotonic);
}

static struct real_cluster *real_cluster_new(const struct cluster_spec *spec,
                                             const struct cluster_kind *kind)
{
  struct real_cluster *s = mmap(NULL, sizeof(*s), PROT_READ | PROT_WRITE,
                                MAP_SHARED | MAP_ANONYMOUS, -1, 0);
  if (s == MAP_FAILED)
    return NULL;
  s->owner = getpid();
  s->from = real_env_now();
  real_cluster_init_lock(s);
  cluster_init(&s->base, kind, spec);
  return s;
}

static void real_cluster_free(struct real_cluster *s)
{
#ifndef CHI_OMIT_SIM
  sim_plan_free(&s->plan);
#endif
  pthread_mutex_destroy(&s->lock);
  pthread_cond_destroy(&s->changed);
  munmap(s, sizeof(*s));
}

static bool real_cluster_cut(struct real_cluster_client *k);

/* The nodes end first, so that what clients wait for ends; where they stay, connections do. */
static void real_cluster_close(chi_cluster *c)
{
  struct real_cluster *s = real_cluster_of(c);
  real_cluster_lock(s);
  s->closing = true;
  pthread_cond_broadcast(&s->changed);
  for (uint32_t i = 0; i < s->daemons.count; i++)
    real_daemon_kill(&s->daemons, i);
  real_cluster_unlock(s);
  for (uint32_t i = 0; i < s->clients; i++) {
    real_cluster_cut(s->client[i]);
    pthread_join(s->client[i]->thread, NULL);
    free(s->client[i]);
  }
  if (s->put)
    real_daemon_logs(&s->daemons, s->put, s->put_arg);
  if (s->daemons.node)
    real_daemon_close(&s->daemons);
  real_cluster_free(s);
}

/* The handle is there before the nodes are forked, for those whose methods want it. */
static int real_cluster_begin(struct real_cluster *s, struct cluster_spec *spec,
                              const chi_module *const *modules, uint32_t count, chi_cluster **out,
                              chi_error *err)
{
  *out = &s->base;
  int rc = real_daemon_open(&s->daemons, &spec->config, modules, count, err);
  if (rc == CHI_OK)
    return rc;
  *out = NULL;
  real_cluster_free(s);
  return rc;
}

/* Why a node did not come up, as its process has told. */
static int real_cluster_reason(const struct real_cluster *s, int rc, const char *why,
                               chi_error *err)
{
  for (uint32_t i = 0; i < s->daemons.count; i++) {
    const struct real_daemon *n = &s->daemons.node[i];
    if (n->failure.text[0])
      return error_set(err, n->failure.code, "node %u: %.300s", i, n->failure.text);
    if (n->ended)
      return error_set(err, CHI_ENODAEMON, "node %u has ended; standard error says why", i);
  }
  return error_set(err, rc, "%s", why);
}

static int real_cluster_open(struct cluster_spec *spec, const chi_module *const *modules,
                             uint32_t count, chi_cluster **out, chi_error *err)
{
  struct real_cluster_wait wait = {.nodes = spec->up, .why = "the nodes do not come up"};
  struct real_cluster *s;
  int rc;
  if (spec->nodes > REAL_CLUSTER_NODES)
    return error_set(err, CHI_ERANGE, "%u nodes on this host: at most %u", spec->nodes,
                     REAL_CLUSTER_NODES);
  if (spec->latency_ns || spec->bandwidth)
    return error_set(err, CHI_ENOTSUP, "latency and bandwidth of a real network cannot be set");
  s = real_cluster_new(spec, real_cluster_local());
  rc = s ? real_cluster_begin(s, spec, modules, count, out, err)
         : error_set(err, CHI_ENOMEM, "no memory");
  if (rc != CHI_OK)
    return rc;
  if (spec->watch)
    spec->watch->opened(spec->watch->arg, &s->base);
  for (uint32_t i = 0; i < spec->up && rc == CHI_OK; i++)
    rc = real_daemon_start(&s->daemons, i, err);
  if (rc == CHI_OK) {
    rc = real_cluster_run(&s->base, real_cluster_has_met, &wait, REAL_CLUSTER_START_NS);
    rc = rc == CHI_OK ? rc : real_cluster_reason(s, rc, wait.why, err);
  }
  if (rc == CHI_OK)
    return rc;
  *out = NULL;
  real_cluster_close(&s->base);
  return rc;
}

/* ---- stop ------------------------------------------------------------------------------------ */

static int real_cluster_await_end(struct real_cluster *s, uint32_t node, uint32_t grace_ms)
{
  const struct real_daemon *n = &s->daemons.node[node];
  uint64_t end = real_env_now() +
                 REAL_CLUSTER_PHASES * (grace_ms * UINT64_C(1000000) + REAL_CLUSTER_STOP_NS);
  bool there = true;
  while (there) {
    real_cluster_lock(s);
    there = real_daemon_is_there(&s->daemons, node);
    real_cluster_unlock(s);
    if (there && real_env_now() > end)
      return CHI_EBUSY;
    if (there)
      nanosleep(&(struct timespec){0, REAL_CLUSTER_LOOK_NS}, NULL);
  }
  return WIFEXITED(n->status) && WEXITSTATUS(n->status) == 0 ? CHI_OK : CHI_EBUSY;
}

/* All are asked before one is waited for. */
static int real_cluster_stop(chi_cluster *c, uint32_t node, uint32_t grace_ms)
{
  struct real_cluster *s = real_cluster_of(c);
  bool asked[REAL_CLUSTER_NODES] = {false};
  int rc = CHI_OK;
  for (uint32_t i = 0; i < c->nodes; i++) {
    asked[i] = (node == i || node == CHI_CLUSTER_ALL) && real_cluster_is_up(c, i);
    int one = asked[i] ? real_daemon_ask_to_stop(&s->daemons, i, grace_ms) : CHI_OK;
    rc = rc == CHI_OK ? one : rc;
  }
  for (uint32_t i = 0; i < c->nodes; i++) {
    int one = asked[i] ? real_cluster_await_end(s, i, grace_ms) : CHI_OK;
    rc = rc == CHI_OK ? one : rc;
  }
  return rc;
}

/* ---- clients --------------------------------------------------------------------------------- */

/* Attaches when there is somebody to attach to. NULL: it is not to run. */
static chi_client *real_cluster_attach(struct real_cluster_client *k)
{
  struct real_cluster *s = k->cluster;
  chi_client *handle = NULL;
  char room[CHI_NAME_MAX];
  for (;;) {
    int rc = chi_client_open(real_cluster_instance(s, k->node, room), &handle, NULL);
    real_cluster_lock(s);
    bool go = rc == CHI_OK && !k->killed && !s->closing;
    bool over = k->killed || s->closing;
    if (go) {
      k->handle = handle;
      k->state = REAL_CLUSTER_RUNS;
    }
    real_cluster_unlock(s);
    if (go)
      return handle;
    if (rc == CHI_OK)
      chi_client_close(handle);
    if (over)
      return NULL;
    nanosleep(&(struct timespec){0, REAL_CLUSTER_LOOK_NS}, NULL);
  }
}

static void real_cluster_ended(struct real_cluster_client *k)
{
  struct real_cluster *s = k->cluster;
  real_cluster_lock(s);
  if (k->state != REAL_CLUSTER_ENDED)
    s->clients_left--;
  k->state = REAL_CLUSTER_ENDED;
  k->handle = NULL;
  real_cluster_unlock(s);
}

static void *real_cluster_main(void *arg)
{
  struct real_cluster_client *k = arg;
  chi_client *handle = real_cluster_attach(k);
  if (handle)
    k->body(&k->cluster->base, handle, k->arg);
  real_cluster_ended(k);
  chi_client_close(handle);
  return NULL;
}

static int real_cluster_client(chi_cluster *c, uint32_t node, chi_cluster_body *body, void *arg)
{
  struct real_cluster *s = real_cluster_of(c);
  struct real_cluster_client *k = calloc(1, sizeof(*k));
  int rc = CHI_ERANGE;
  if ((s->running && node != s->self) || getpid() != s->owner) {
    free(k);
    return CHI_ENOTSUP;
  }
  if (!k)
    return CHI_ENOMEM;
  *k = (struct real_cluster_client){.cluster = s, .node = node, .body = body, .arg = arg};
  real_cluster_lock(s);
  if (s->clients < REAL_CLUSTER_CLIENTS && !s->closing) {
    rc = pthread_create(&k->thread, NULL, real_cluster_main, k) == 0 ? CHI_OK : CHI_ENOMEM;
    if (rc == CHI_OK) {
      s->client[s->clients] = k;
      s->clients_left++;
      rc = (int)++s->clients;
    }
  }
  real_cluster_unlock(s);
  if (rc < 0)
    free(k);
  return rc;
}

/* While the handle is held, its current connection is held, too. */
static void real_cluster_hang_up(chi_client *handle)
{
  latch_lock(&handle->latch);
  if (handle->current)
    real_link_hang_up(handle->current->link);
  latch_unlock(&handle->latch);
}

/* A thread can't be killed: its connection is cut, so that all it waits for ends. Who hasn't begun
 * doesn't. */
static bool real_cluster_cut(struct real_cluster_client *k)
{
  struct real_cluster *s = k->cluster;
  real_cluster_lock(s);
  k->killed = true;
  if (k->state == REAL_CLUSTER_WAITS) {
    k->state = REAL_CLUSTER_ENDED;
    s->clients_left--;
  }
  if (k->state == REAL_CLUSTER_RUNS)
    real_cluster_hang_up(k->handle);
  bool ended = k->state == REAL_CLUSTER_ENDED;
  real_cluster_unlock(s);
  return ended;
}

static void real_cluster_client_kill(chi_cluster *c, uint32_t number)
{
  struct real_cluster *s = real_cluster_of(c);
  uint64_t end = real_env_now() + REAL_CLUSTER_START_NS;
  if (number == 0 || number > s->clients)
    return;
  while (!real_cluster_cut(s->client[number - 1])) {
    if (c->running) /* who asks holds what it needs to end */
      return;
    if (real_env_now() > end) {
      chi_cluster_fail(c, "kill", "client %u does not end though its connection is cut", number);
      return;
    }
    nanosleep(&(struct timespec){0, REAL_CLUSTER_LOOK_NS}, NULL);
  }
}

static bool real_cluster_client_ended(const chi_cluster *c, uint32_t number)
{
  struct real_cluster *s = real_cluster_of(c);
  real_cluster_lock(s);
  bool ended = number == 0         ? s->clients_left == 0
               : number <= s->clients ? s->client[number - 1]->state == REAL_CLUSTER_ENDED
                                      : true;
  real_cluster_unlock(s);
  return ended;
}

/* ---- faults ---------------------------------------------------------------------------------- */

/* Why there can be no such fault; NULL: there can. */
static const char *real_cluster_excuse(const struct real_cluster *s, chi_fault kind)
{
  const uint64_t signals = UINT64_C(1) << CHI_FAULT_PAUSE | UINT64_C(1) << CHI_FAULT_RESUME |
                           UINT64_C(1) << CHI_FAULT_CRASH | UINT64_C(1) << CHI_FAULT_KILL |
                           UINT64_C(1) << CHI_FAULT_STOP | UINT64_C(1) << CHI_FAULT_START |
                           UINT64_C(1) << CHI_FAULT_HEAL | UINT64_C(1) << CHI_FAULT_CALM;
  if (signals >> kind & 1)
    return NULL;
  if (real_relay_can(kind))
    return s->daemons.relay ? NULL : "so many nodes have no relay between them";
  if (real_fault_can(kind))
    return s->daemons.modules ? NULL : "nodes that are not forked from the test are not told";
  return "only a simulation can";
}

/* To a node. A crash is a power failure after which everything written is there. */
static int real_cluster_do(struct real_cluster *s, chi_fault kind, uint32_t a, int64_t value,
                           bool *done)
{
  const struct real_daemon *n = &s->daemons.node[a];
  bool there = real_daemon_is_there(&s->daemons, a);
  switch (kind) {
  case CHI_FAULT_START:
    *done = !there;
    return there ? CHI_OK : real_daemon_start(&s->daemons, a, NULL);
  case CHI_FAULT_STOP:
    *done = real_daemon_is_up(&s->daemons, a) && !n->paused;
    return *done ? real_daemon_ask_to_stop(&s->daemons, a, value > 0 ? (uint32_t)value : 0)
                 : CHI_OK;
  case CHI_FAULT_CRASH:
  case CHI_FAULT_KILL:
    *done = there;
    real_daemon_kill(&s->daemons, a);
    return CHI_OK;
  default:
    *done = there && n->paused != (kind == CHI_FAULT_PAUSE);
    if (*done)
      real_daemon_pause(&s->daemons, a, kind == CHI_FAULT_PAUSE);
    return CHI_OK;
  }
}

static int real_cluster_heal(struct real_cluster *s)
{
  for (uint32_t i = 0; i < s->base.nodes; i++)
    real_fault_heal(&s->daemons.node[i].fault);
  return s->daemons.relay ? real_relay_fault(s->daemons.relay, CHI_FAULT_HEAL, 0, 0, 0) : CHI_OK;
}

/* Starts what is down; who is about to stop is started when it has. */
static int real_cluster_calm(struct real_cluster *s)
{
  bool done;
  int rc = real_cluster_heal(s);
  for (uint32_t i = 0; i < s->base.nodes && rc == CHI_OK; i++) {
    real_fault_calm(&s->daemons.node[i].fault);
    real_cluster_do(s, CHI_FAULT_RESUME, i, 0, &done);
    rc = real_cluster_do(s, CHI_FAULT_START, i, 0, &done);
  }
  return rc;
}

static int real_cluster_fault(chi_cluster *c, chi_fault kind, uint32_t a, uint32_t b,
                              int64_t value)
{
  struct real_cluster *s = real_cluster_of(c);
  bool done = true;
  int rc;
  if (real_cluster_excuse(s, kind) || getpid() != s->owner)
    return CHI_ENOTSUP;
  real_cluster_lock(s);
  if (kind == CHI_FAULT_CALM)
    rc = real_cluster_calm(s);
  else if (kind == CHI_FAULT_HEAL)
    rc = real_cluster_heal(s);
  else if (real_fault_can(kind))
    rc = real_daemon_fault(&s->daemons, kind, a, b, value);
  else if (real_relay_can(kind))
    rc = real_relay_fault(s->daemons.relay, kind, a, b, value);
  else
    rc = real_cluster_do(s, kind, a, value, &done);
  if (rc == CHI_OK && done)
    s->faults[kind]++;
  real_cluster_unlock(s);
  return rc;
}

static uint64_t real_cluster_fault_count(const chi_cluster *c, chi_fault kind)
{
  return real_cluster_of(c)->faults[kind];
}

#ifdef CHI_OMIT_SIM

static void real_cluster_storm(struct real_cluster *s)
{
  (void)s;
}

static bool real_cluster_is_calm(const struct real_cluster *s)
{
  (void)s;
  return true;
}

#else

/* Does what is due of the plan. */
static void real_cluster_storm(struct real_cluster *s)
{
  uint64_t now = real_cluster_now(&s->base) - REAL_CLUSTER_BEGIN;
  while (s->plan_next < s->plan.count && s->plan.entry[s->plan_next].time <= now) {
    const struct sim_plan_entry *e = &s->plan.entry[s->plan_next++];
    int rc = real_cluster_fault(&s->base, (chi_fault)e->kind, e->a, e->b, e->value);
    if (rc != CHI_OK)
      chi_cluster_fail(&s->base, "plan", "%s: %s", sim_plan_name(e->kind), chi_status_name(rc));
  }
}

static bool real_cluster_is_calm(const struct real_cluster *s)
{
  return s->plan_next == s->plan.count;
}

/* Adds what lies ahead; of the past nothing is left. */
static int real_cluster_schedule(struct real_cluster *s, const struct sim_plan *plan,
                                 chi_error *err)
{
  int rc = CHI_OK;
  for (; s->plan_next > 0; s->plan_next--)
    sim_plan_remove(&s->plan, 0);
  for (uint32_t i = 0; i < plan->count && rc == CHI_OK; i++)
    rc = sim_plan_add(&s->plan, &plan->entry[i]);
  return rc ? error_set(err, rc, "no memory for the faults") : rc;
}

static int real_cluster_plan(chi_cluster *c, const char *text, chi_error *err)
{
  struct real_cluster *s = real_cluster_of(c);
  struct sim_plan plan = {0};
  int rc = sim_plan_parse(&plan, text, err);
  for (uint32_t i = 0; i < plan.count && rc == CHI_OK; i++) {
    const struct sim_plan_entry *e = &plan.entry[i];
    const char *excuse = real_cluster_excuse(s, (chi_fault)e->kind);
    if (!cluster_fault_fits(c, (chi_fault)e->kind, e->a, e->b))
      rc = error_set(err, CHI_EINVAL, "%s: no such node", sim_plan_name(e->kind));
    else if (excuse)
      rc = error_set(err, CHI_ENOTSUP, "%s: %s", sim_plan_name(e->kind), excuse);
  }
  if (rc == CHI_OK)
    rc = real_cluster_schedule(s, &plan, err);
  sim_plan_free(&plan);
  return rc;
}

static int real_cluster_faults(chi_cluster *c, const struct cluster_limits *l, chi_error *err)
{
  struct real_cluster *s = real_cluster_of(c);
  struct sim_plan plan = {0};
  struct sim_plan_limits limits;
  uint64_t from = real_cluster_now(c) - REAL_CLUSTER_BEGIN, can = 0;
  for (int kind = 0; kind < CHI_FAULT_KINDS; kind++) {
    const char *excuse = real_cluster_excuse(s, (chi_fault)kind);
    can |= (uint64_t)!excuse << kind;
    if ((l->kinds >> kind & 1) && excuse)
      return error_set(err, CHI_ENOTSUP, "%s: %s", chi_fault_name(kind), excuse);
  }
  sim_plan_limits(&limits, c->nodes, from, from + l->until_ns);
  limits.outage_ns = l->outage_ns ? l->outage_ns : limits.outage_ns;
  limits.per_kind = l->each ? (uint32_t)l->each : limits.per_kind;
  limits.down = l->down ? (uint32_t)l->down : limits.down;
  limits.kinds = l->kinds ? l->kinds : can & ~(UINT64_C(1) << CHI_FAULT_MEMORY);
  limits.swarm = l->swarm != 0;
  int rc = sim_plan_generate(&plan, c->seed, &limits);
  rc = rc ? error_set(err, rc, "no memory for the faults") : real_cluster_schedule(s, &plan, err);
  sim_plan_free(&plan);
  return rc;
}

#endif

/* ---- whole again ----------------------------------------------------------------------------- */

static int real_cluster_is_over(chi_cluster *c, void *arg)
{
  (void)arg;
  return real_cluster_is_calm(real_cluster_of(c));
}

static int real_cluster_is_settled(chi_cluster *c, void *arg)
{
  struct real_cluster *s = real_cluster_of(c);
  struct real_cluster_wait *wait = arg;
  const char *missing;
  bool done;
  for (uint32_t i = 0; !s->running && i < c->nodes; i++)
    real_cluster_do(s, CHI_FAULT_START, i, 0, &done);
  if (!real_cluster_client_ended(c, 0)) {
    snprintf(wait->why, sizeof(wait->why), "%u clients have not ended", s->clients_left);
    return 0;
  }
  if (!real_cluster_has_met(c, arg))
    return 0;
  missing = cluster_missing(c);
  if (missing)
    snprintf(wait->why, sizeof(wait->why), "\"%s\" does not hold", missing);
  return !missing;
}

static int real_cluster_settle(chi_cluster *c, uint64_t limit_ns)
{
  struct real_cluster_wait wait = {.nodes = c->nodes, .settled = true};
  int rc = real_cluster_run(c, real_cluster_is_over, NULL, UINT64_MAX);
  if (rc == CHI_OK && c->kind->fault)
    rc = real_cluster_fault(c, CHI_FAULT_CALM, 0, 0, 0);
  if (rc == CHI_OK)
    rc = real_cluster_run(c, real_cluster_is_settled, &wait, limit_ns);
  if (rc == CHI_ETIMEOUT)
    chi_cluster_fail(c, "liveness", "%s", wait.why);
  if (rc == CHI_OK)
    cluster_holds(c, CHI_CHECK_SETTLED);
  return c->failed ? CHI_ECANCELLED : rc;
}

static uint64_t real_cluster_nothing(const chi_cluster *c)
{
  (void)c;
  return 0;
}

/* Nobody sees all events of several processes: what they write down is told at the end. Failures
 * are not told as they come, for they come in the processes of nodes as well. */
static void real_cluster_story(chi_cluster *c, chi_put_fn *put, void *arg)
{
  struct real_cluster *s = real_cluster_of(c);
  c->put = NULL;
  s->put = put;
  s->put_arg = arg;
}

/* ---- a cluster that runs --------------------------------------------------------------------- */

/* The nodes of the file, and which of them is here. An error of the file has no other place. */
static int real_cluster_read(struct cluster_spec *spec, uint32_t *self, chi_error *err)
{
  static const char nothing[] = "/dev/null";
  chi_error why = {0};
  size_t skip = 0;
  int rc = CHI_EINVAL;
  if (!*spec->path || strlen(spec->path) >= sizeof(spec->config.hostfile))
    return error_set(err, rc, "hostfile: expected the path of a file");
  memcpy(spec->config.hostfile, spec->path, strlen(spec->path) + 1);
  rc = chi_config_load(&spec->config, nothing, NULL, NULL, &why);
  if (strncmp(why.text, nothing, sizeof(nothing) - 1) == 0)
    skip = sizeof(nothing) - 1 + strspn(why.text + sizeof(nothing) - 1, ": ");
  if (rc != CHI_OK)
    return error_set(err, rc, "%s", why.text + skip);
  spec->nodes = spec->config.host_count;
  return real_host_find(&spec->config, self, err);
}

static int real_cluster_join(struct cluster_spec *spec, const chi_module *const *modules,
                             uint32_t count, chi_cluster **out, chi_error *err)
{
  struct real_cluster_wait wait = {.why = "the daemon on this host does not answer"};
  struct real_cluster *s;
  uint32_t self;
  int rc = real_cluster_read(spec, &self, err);
  (void)modules;
  if (rc != CHI_OK)
    return rc;
  if (count)
    return error_set(err, CHI_ENOTSUP, "a cluster that runs has its own modules");
  s = real_cluster_new(spec, real_cluster_hostfile());
  if (!s)
    return error_set(err, CHI_ENOMEM, "no memory");
  s->running = true;
  s->self = self;
  wait.nodes = spec->nodes;
  wait.hosts = spec->config.hosts;
  if (spec->watch)
    spec->watch->opened(spec->watch->arg, &s->base);
  rc = real_cluster_run(&s->base, real_cluster_has_met, &wait, REAL_CLUSTER_START_NS);
  rc = rc == CHI_OK ? wait.rc : rc;
  if (rc == CHI_OK) {
    *out = &s->base;
    return rc;
  }
  real_cluster_close(&s->base);
  return error_set(err, rc, "%s", wait.why);
}

/* As the node on this host sees it. */
static bool real_cluster_is_seen(const chi_cluster *c, uint32_t node)
{
  struct real_cluster *s = real_cluster_of(c);
  struct real_daemon_view view = {.json = malloc(REAL_DAEMON_JSON)};
  char alive[64];
  bool seen = view.json && real_daemon_ask(NULL, &view, NULL) == CHI_OK;
  snprintf(alive, sizeof(alive), "{\"id\":%u,\"state\":\"alive\"", node);
  seen = seen && (node == s->self || strstr(view.json, alive));
  free(view.json);
  return seen;
}

static int real_cluster_stays(chi_cluster *c, uint32_t node, uint32_t grace_ms)
{
  (void)c;
  (void)node;
  (void)grace_ms;
  return CHI_ENOTSUP;
}

CHI_PRIVATE const struct cluster_kind *real_cluster_hostfile(void)
{
  static const struct cluster_kind kind = {
      .name = "hostfile",
      .open = real_cluster_join,
      .close = real_cluster_close,
      .is_up = real_cluster_is_seen,
      .client = real_cluster_client,
      .client_kill = real_cluster_client_kill,
      .client_ended = real_cluster_client_ended,
      .use = real_cluster_use,
      .run = real_cluster_run,
      .settle = real_cluster_settle,
      .stop = real_cluster_stays,
      .now = real_cluster_now,
      .hash = real_cluster_nothing,
      .events = real_cluster_nothing,
      .story = real_cluster_story,
      .guard = real_cluster_guard,
  };
  return &kind;
}

CHI_PRIVATE const struct cluster_kind *real_cluster_local(void)
{
  static const struct cluster_kind kind = {
      .name = "local",
      .open = real_cluster_open,
      .close = real_cluster_close,
      .is_up = real_cluster_is_up,
      .client = real_cluster_client,
      .client_kill = real_cluster_client_kill,
      .client_ended = real_cluster_client_ended,
      .use = real_cluster_use,
      .run = real_cluster_run,
      .settle = real_cluster_settle,
      .stop = real_cluster_stop,
      .fault = real_cluster_fault,
#ifndef CHI_OMIT_SIM
      .plan = real_cluster_plan,
      .faults = real_cluster_faults,
#endif
      .fault_count = real_cluster_fault_count,
      .now = real_cluster_now,
      .hash = real_cluster_nothing,
      .events = real_cluster_nothing,
      .story = real_cluster_story,
      .guard = real_cluster_guard,
  };
  return &kind;
}

#undef REAL_CLUSTER_START_NS
#undef REAL_CLUSTER_STOP_NS
#undef REAL_CLUSTER_PHASES
#undef REAL_CLUSTER_LOOK_NS
#undef REAL_CLUSTER_ASK_NS
#undef REAL_CLUSTER_CLIENTS
#undef REAL_CLUSTER_NODES
#undef REAL_CLUSTER_BEGIN

#endif
