/* real_cluster.c - clusters of real nodes behind the handle chi_cluster. */
#include "real_cluster.h"

#ifndef CHI_OMIT_REAL

#include "client.h"
#include "error.h"
#include "real_host.h"
#include "real_link.h"

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <pthread.h>
#include <signal.h>
#include <spawn.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/socket.h>
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
#define REAL_CLUSTER_JSON (1u << 20)  /* room for what a node says of itself */
#define REAL_CLUSTER_GRACE_MS 1000u   /* of a process that isn't told otherwise */

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

struct real_cluster_node {
  chi_node *here; /* in this process */
  pid_t pid;      /* or in one of its own; 0: none */
  bool paused;
  char instance[CHI_NAME_MAX];
  char config[80]; /* file */
};

struct real_cluster {
  struct chi_cluster base;
  chi_config config;
  const chi_module **modules; /* NULL: nodes are processes */
  uint32_t module_count;
  bool running;  /* it was there before, and stays */
  uint32_t self; /* then the node on this host */
  struct real_cluster_node *node;
  char dir[32];  /* of configurations and logs */
  uint64_t from; /* the clock when it began */
  pthread_mutex_t lock;
  pthread_cond_t changed;
  bool closing; /* guarded by lock, as all that follows */
  struct real_cluster_client *client[REAL_CLUSTER_CLIENTS];
  uint32_t clients, clients_left;
  uint64_t faults[CHI_FAULT_KINDS];
};

static struct real_cluster *real_cluster_of(const chi_cluster *c)
{
  return (struct real_cluster *)(uintptr_t)CHI_CONTAINER_OF(c, struct real_cluster, base);
}

/* ---- time ------------------------------------------------------------------------------------ */

static uint64_t real_cluster_clock(void)
{
  struct timespec now;
  clock_gettime(CLOCK_MONOTONIC, &now);
  return (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
}

/* It begins at one second. */
static uint64_t real_cluster_now(const chi_cluster *c)
{
  return real_cluster_clock() - real_cluster_of(c)->from + 1000000000u;
}

/* In a body of a client: others go on. It ends early if the cluster does. */
static void real_cluster_use(chi_cluster *c, uint64_t ns)
{
  struct real_cluster *s = real_cluster_of(c);
  uint64_t end = real_cluster_clock() + ns;
  struct timespec at = {(time_t)(end / 1000000000u), (long)(end % 1000000000u)};
  int rc = 0;
  pthread_mutex_lock(&s->lock);
  while (!s->closing && rc != ETIMEDOUT)
    rc = pthread_cond_timedwait(&s->changed, &s->lock, &at);
  pthread_mutex_unlock(&s->lock);
}

static void real_cluster_guard(chi_cluster *c, bool enter)
{
  struct real_cluster *s = real_cluster_of(c);
  if (enter)
    pthread_mutex_lock(&s->lock);
  else
    pthread_mutex_unlock(&s->lock);
}

static int real_cluster_run(chi_cluster *c, chi_cluster_fn *pred, void *arg, uint64_t limit_ns)
{
  uint64_t begun = real_cluster_clock();
  for (;;) {
    bool over = real_cluster_clock() - begun >= limit_ns;
    real_cluster_guard(c, true);
    c->running = true;
    bool held = cluster_holds(c, CHI_CHECK_EVENT) && pred(c, arg);
    bool failed = c->failed;
    c->running = false;
    real_cluster_guard(c, false);
    if (failed || held || over)
      return failed ? CHI_ECANCELLED : held ? CHI_OK : CHI_ETIMEOUT;
    nanosleep(&(struct timespec){0, REAL_CLUSTER_LOOK_NS}, NULL);
  }
}

/* ---- nodes ----------------------------------------------------------------------------------- */

/* False as well for a process that has died by itself. */
static bool real_cluster_is_up(const chi_cluster *c, uint32_t node)
{
  struct real_cluster_node *n = &real_cluster_of(c)->node[node];
  int status;
  if (n->pid > 0 && waitpid(n->pid, &status, WNOHANG) == n->pid)
    n->pid = 0;
  return n->here != NULL || n->pid > 0;
}

static void real_cluster_put(void *arg, const char *text)
{
  fputs(text, arg);
}

/* The hosts, which are not in the configuration of a process but in a file for all of them. */
static bool real_cluster_write_hosts(struct real_cluster *s)
{
  chi_config *config = &s->config;
  snprintf(config->hostfile, sizeof(config->hostfile), "%s/hosts", s->dir);
  FILE *file = fopen(config->hostfile, "we");
  for (uint32_t i = 0; file && i < config->host_count; i++)
    fprintf(file, "%s %s\n", config->hosts[i].name, config->hosts[i].address);
  return file && fclose(file) == 0;
}

static bool real_cluster_write(const char *path, const chi_config *config)
{
  FILE *file = fopen(path, "we");
  if (file)
    chi_config_print(config, real_cluster_put, file);
  return file && fclose(file) == 0;
}

static int real_cluster_spawn(struct real_cluster *s, uint32_t node, chi_error *err)
{
  struct real_cluster_node *n = &s->node[node];
  const char *given = getenv("CHIMAERA"), *program = given && *given ? given : "chimaera";
  char number[16], grace[16], name[] = "chimaera", start[] = "start", with[] = "--config",
       which[] = "--node", patience[] = "--grace";
  char *argv[] = {name, start, with, n->config, which, number, patience, grace, NULL};
  posix_spawn_file_actions_t actions;
  snprintf(number, sizeof(number), "%u", node);
  snprintf(grace, sizeof(grace), "%u", REAL_CLUSTER_GRACE_MS);
  posix_spawn_file_actions_init(&actions);
  posix_spawn_file_actions_addopen(&actions, STDOUT_FILENO, "/dev/null", O_WRONLY, 0);
  int rc = posix_spawnp(&n->pid, program, &actions, NULL, argv, environ);
  posix_spawn_file_actions_destroy(&actions);
  if (rc == 0)
    return CHI_OK;
  n->pid = 0;
  errno = rc;
  return error_set(err, CHI_ENOENT, "cannot run %s: %m; set CHIMAERA to the program", program);
}

/* Starts a node that is down. A process may still fail: who waits for it will see. */
static int real_cluster_start(struct real_cluster *s, uint32_t node, chi_error *err)
{
  struct real_cluster_node *n = &s->node[node];
  chi_config config = s->config; /* its lists stay those of s->config */
  config.node = node;
  snprintf(config.main_segment_name, sizeof(config.main_segment_name), "chi-local-%d-%u",
           (int)getpid(), node);
  snprintf(n->instance, sizeof(n->instance), "%.200s:%u", config.main_segment_name, config.port);
  snprintf(config.log_file, sizeof(config.log_file), "%s/node%u.log", s->dir, node);
  snprintf(n->config, sizeof(n->config), "%s/node%u.yaml", s->dir, node);
  n->paused = false;
  if (s->modules)
    return chi_node_open(&config, s->modules, s->module_count, &n->here, err);
  if (!real_cluster_write(n->config, &config))
    return error_set(err, CHI_EIO, "cannot write to %s: %m", s->dir);
  return real_cluster_spawn(s, node, err);
}

static void real_cluster_signal(struct real_cluster_node *n, int number)
{
  if (n->pid > 0)
    kill(n->pid, number);
}

/* As kill -9; a node in this process is stopped without grace. */
static void real_cluster_end(struct real_cluster_node *n)
{
  real_cluster_signal(n, SIGKILL);
  if (n->pid > 0)
    waitpid(n->pid, NULL, 0);
  n->pid = 0;
  if (n->here && chi_node_close(n->here, 0) == CHI_OK)
    n->here = NULL;
}

/* For chi_client_open. */
static const char *real_cluster_instance(const struct real_cluster *s, uint32_t node)
{
  return s->running ? NULL : s->node[node].instance;
}

/* ---- what nodes say -------------------------------------------------------------------------- */

struct real_cluster_view {
  uint64_t alive, pools, open;
  char *json; /* room for REAL_CLUSTER_JSON */
};

static uint64_t real_cluster_number(const char *json, const char *name)
{
  const char *at = strstr(json, name);
  return at ? strtoull(at + strlen(name), NULL, 10) : 0;
}

/* What the node answers about itself, in v->json. */
static int real_cluster_monitor(chi_queue *queue, struct real_cluster_view *v)
{
  struct chi_admin_monitor *t = CHI_NEW(queue, chi_admin_monitor);
  int rc = t ? chi_bulk_alloc(queue, REAL_CLUSTER_JSON - 1, &t->json) : CHI_ENOMEM;
  if (rc == CHI_OK) {
    t->task.pool = CHI_ADMIN_POOL;
    rc = chi_submit(queue, t);
  }
  if (rc == CHI_OK)
    rc = chi_wait(queue, t, REAL_CLUSTER_START_NS);
  if (rc == CHI_OK) {
    memcpy(v->json, t->json.data, t->size);
    v->json[t->size] = '\0';
  }
  if (t && rc != CHI_ETIMEOUT) {
    chi_bulk_free(queue, &t->json);
    chi_task_free(queue, t);
  }
  return rc;
}

static int real_cluster_ask(const char *instance, struct real_cluster_view *v)
{
  chi_client *client = NULL;
  chi_queue *queue = NULL;
  int rc = chi_client_open(instance, &client, NULL);
  if (rc == CHI_OK)
    rc = chi_queue_open(client, &queue, NULL);
  if (rc == CHI_OK)
    rc = real_cluster_monitor(queue, v);
  if (rc == CHI_OK) {
    v->alive = real_cluster_number(v->json, "\"alive\":");
    v->pools = real_cluster_number(v->json, "\"pool_entries\":");
    v->open = real_cluster_number(v->json, "\"calls_open\":") +
              real_cluster_number(v->json, "\"runs_open\":");
  }
  chi_queue_close(queue);
  chi_client_close(client);
  return rc;
}

/* Something that takes long to find out: now and then, a look. */
struct real_cluster_wait {
  uint64_t look_at;
  bool settled; /* and no work is left */
  char why[200];
};

static uint32_t real_cluster_up(const struct real_cluster *s)
{
  uint32_t up = 0;
  for (uint32_t i = 0; i < s->base.nodes; i++)
    up += s->running || real_cluster_is_up(&s->base, i);
  return up;
}

/* Whether all nodes that are up, as far as they can be asked, see each other and have the same
 * number of pools. */
static bool real_cluster_agrees(struct real_cluster *s, struct real_cluster_wait *wait,
                                struct real_cluster_view *v)
{
  uint64_t up = real_cluster_up(s), pools = UINT64_MAX;
  for (uint32_t i = 0; i < s->base.nodes; i++) {
    const char *wrong = NULL;
    if (s->running ? i != s->self : !real_cluster_is_up(&s->base, i))
      continue;
    if (real_cluster_ask(real_cluster_instance(s, i), v) != CHI_OK)
      wrong = "does not answer";
    else if (s->base.nodes > 1 && v->alive != up)
      wrong = "does not see all nodes";
    else if (wait->settled && v->open > 0)
      wrong = "has work left";
    else if (pools != UINT64_MAX && v->pools != pools)
      wrong = "has other pools";
    pools = v->pools;
    if (wrong) {
      snprintf(wait->why, sizeof(wait->why), "node %u %s", i, wrong);
      return false;
    }
  }
  return true;
}

static int real_cluster_has_met(chi_cluster *c, void *arg)
{
  struct real_cluster_wait *wait = arg;
  struct real_cluster *s = real_cluster_of(c);
  struct real_cluster_view view = {0};
  uint64_t now = real_cluster_clock();
  if (now < wait->look_at)
    return 0;
  view.json = malloc(REAL_CLUSTER_JSON);
  bool met = view.json && real_cluster_agrees(s, wait, &view);
  free(view.json);
  wait->look_at = real_cluster_clock() + REAL_CLUSTER_ASK_NS;
  return met;
}

/* ---- open and close -------------------------------------------------------------------------- */

/* A port that is free now. */
static uint32_t real_cluster_port(void)
{
  struct sockaddr_in any = {.sin_family = AF_INET};
  socklen_t size = sizeof(any);
  int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
  if (fd < 0)
    return 0;
  if (bind(fd, (struct sockaddr *)&any, size) != 0 ||
      getsockname(fd, (struct sockaddr *)&any, &size) != 0)
    any.sin_port = 0;
  close(fd);
  return ntohs(any.sin_port);
}

/* Many nodes are on this machine, each at an address of its own. */
static void real_cluster_configure(struct real_cluster *s)
{
  chi_config defaults;
  chi_config_init(&defaults);
  for (uint32_t i = 0; i < s->config.host_count; i++)
    snprintf(s->config.hosts[i].address, sizeof(s->config.hosts[i].address), "127.0.0.%u", i + 1);
  if (s->config.port == defaults.port)
    s->config.port = real_cluster_port();
  s->config.sched_threads += s->config.sched_threads == 0;
  s->config.slow_threads += s->config.slow_threads == 0;
  chi_config_free(&defaults);
}

static void real_cluster_init_lock(struct real_cluster *s)
{
  pthread_mutexattr_t recursive;
  pthread_condattr_t monotonic;
  pthread_mutexattr_init(&recursive);
  pthread_mutexattr_settype(&recursive, PTHREAD_MUTEX_RECURSIVE);
  pthread_mutex_init(&s->lock, &recursive);
  pthread_mutexattr_destroy(&recursive);
  pthread_condattr_init(&monotonic);
  pthread_condattr_setclock(&monotonic, CLOCK_MONOTONIC);
  pthread_cond_init(&s->changed, &monotonic);
  pthread_condattr_destroy(&monotonic);
}

static struct real_cluster *real_cluster_new(struct cluster_spec *spec,
                                             const chi_module *const *modules, uint32_t count,
                                             const struct cluster_kind *kind)
{
  struct real_cluster *s = calloc(1, sizeof(*s));
  if (!s)
    return NULL;
  s->node = calloc(spec->nodes, sizeof(*s->node));
  s->modules = count ? calloc(count, sizeof(*s->modules)) : NULL;
  snprintf(s->dir, sizeof(s->dir), "/tmp/chi-local-XXXXXX");
  if (!s->node || (count && !s->modules) || !mkdtemp(s->dir)) {
    free(s->node);
    free(s->modules);
    free(s);
    return NULL;
  }
  for (uint32_t i = 0; i < count; i++)
    s->modules[i] = modules[i];
  s->module_count = count;
  s->config = spec->config;
  chi_config_init(&spec->config);
  s->from = real_cluster_clock();
  real_cluster_init_lock(s);
  cluster_init(&s->base, kind, spec);
  return s;
}

static void real_cluster_remove(const struct real_cluster *s)
{
  static const char *const suffixes[] = {"yaml", "log"};
  char path[64];
  for (uint32_t i = 0; i < 2 * s->base.nodes; i++) {
    snprintf(path, sizeof(path), "%s/node%u.%s", s->dir, i / 2, suffixes[i % 2]);
    unlink(path);
  }
  snprintf(path, sizeof(path), "%s/hosts", s->dir);
  unlink(path);
  rmdir(s->dir);
}

/* The nodes end first, so that what clients wait for ends. */
static void real_cluster_close(chi_cluster *c)
{
  struct real_cluster *s = real_cluster_of(c);
  pthread_mutex_lock(&s->lock);
  s->closing = true;
  pthread_cond_broadcast(&s->changed);
  for (uint32_t i = 0; i < c->nodes; i++)
    real_cluster_end(&s->node[i]);
  pthread_mutex_unlock(&s->lock);
  for (uint32_t i = 0; i < s->clients; i++) {
    pthread_join(s->client[i]->thread, NULL);
    free(s->client[i]);
  }
  real_cluster_remove(s);
  pthread_mutex_destroy(&s->lock);
  pthread_cond_destroy(&s->changed);
  chi_config_free(&s->config);
  free(s->modules);
  free(s->node);
  free(s);
}

static int real_cluster_open(struct cluster_spec *spec, const chi_module *const *modules,
                             uint32_t count, chi_cluster **out, chi_error *err)
{
  struct real_cluster_wait wait = {.why = "the nodes do not come up"};
  struct real_cluster *s;
  int rc = CHI_OK;
  if (spec->nodes > REAL_CLUSTER_NODES)
    return error_set(err, CHI_ERANGE, "%u nodes on this host: at most %u", spec->nodes,
                     REAL_CLUSTER_NODES);
  if (spec->latency_ns || spec->bandwidth)
    return error_set(err, CHI_ENOTSUP, "latency and bandwidth of a real network cannot be set");
  s = real_cluster_new(spec, modules, count, real_cluster_local());
  if (!s)
    return error_set(err, CHI_ENOMEM, "no memory, or no directory in /tmp");
  real_cluster_configure(s);
  if (spec->watch)
    spec->watch->opened(spec->watch->arg, &s->base);
  if (!s->modules && !real_cluster_write_hosts(s))
    rc = error_set(err, CHI_EIO, "cannot write to %s: %m", s->dir);
  for (uint32_t i = 0; i < spec->up && rc == CHI_OK; i++)
    rc = real_cluster_start(s, i, err);
  if (rc == CHI_OK) {
    rc = real_cluster_run(&s->base, real_cluster_has_met, &wait, REAL_CLUSTER_START_NS);
    rc = rc == CHI_OK ? rc : error_set(err, rc, "%s", wait.why);
  }
  for (uint32_t i = 0; i < spec->up && rc == CHI_OK; i++)
    if (!real_cluster_is_up(&s->base, i))
      rc = error_set(err, CHI_ENODAEMON, "node %u has ended; standard error says why", i);
  if (rc != CHI_OK)
    real_cluster_close(&s->base);
  else
    *out = &s->base;
  return rc;
}

/* ---- stop ------------------------------------------------------------------------------------ */

/* Asks a process to stop with so much grace. */
static int real_cluster_ask_to_stop(const char *instance, uint32_t grace_ms)
{
  chi_client *client = NULL;
  chi_queue *queue = NULL;
  struct chi_admin_stop_runtime *t = NULL;
  int rc = chi_client_open(instance, &client, NULL);
  if (rc == CHI_OK)
    rc = chi_queue_open(client, &queue, NULL);
  if (rc == CHI_OK && !(t = CHI_NEW(queue, chi_admin_stop_runtime)))
    rc = CHI_ENOMEM;
  if (rc == CHI_OK) {
    t->task.pool = CHI_ADMIN_POOL;
    t->grace_period_ms = grace_ms;
    rc = chi_run(queue, t);
    chi_task_free(queue, t);
  }
  chi_queue_close(queue);
  chi_client_close(client);
  return rc;
}

static int real_cluster_stop_one(struct real_cluster *s, uint32_t node, uint32_t grace_ms)
{
  struct real_cluster_node *n = &s->node[node];
  uint64_t end = real_cluster_clock() +
                 REAL_CLUSTER_PHASES * (grace_ms * UINT64_C(1000000) + REAL_CLUSTER_STOP_NS);
  int rc, status = 0;
  if (n->here) {
    rc = chi_node_close(n->here, grace_ms);
    n->here = rc == CHI_OK ? NULL : n->here;
    return rc;
  }
  if (n->pid <= 0)
    return CHI_OK;
  rc = real_cluster_ask_to_stop(n->instance, grace_ms);
  while (waitpid(n->pid, &status, WNOHANG) == 0) {
    if (rc != CHI_OK && rc != CHI_ESHUTDOWN)
      return rc;
    if (real_cluster_clock() > end)
      return CHI_EBUSY;
    nanosleep(&(struct timespec){0, REAL_CLUSTER_LOOK_NS}, NULL);
  }
  n->pid = 0;
  return WIFEXITED(status) && WEXITSTATUS(status) == 0 ? CHI_OK : CHI_EBUSY;
}

static int real_cluster_stop(chi_cluster *c, uint32_t node, uint32_t grace_ms)
{
  struct real_cluster *s = real_cluster_of(c);
  int rc = CHI_OK;
  for (uint32_t i = 0; i < c->nodes; i++) {
    int one = node == i || node == CHI_CLUSTER_ALL ? real_cluster_stop_one(s, i, grace_ms) : CHI_OK;
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
  for (;;) {
    int rc = chi_client_open(real_cluster_instance(s, k->node), &handle, NULL);
    pthread_mutex_lock(&s->lock);
    bool go = rc == CHI_OK && !k->killed && !s->closing;
    bool over = k->killed || s->closing;
    if (go) {
      k->handle = handle;
      k->state = REAL_CLUSTER_RUNS;
    }
    pthread_mutex_unlock(&s->lock);
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
  pthread_mutex_lock(&s->lock);
  if (k->state != REAL_CLUSTER_ENDED)
    s->clients_left--;
  k->state = REAL_CLUSTER_ENDED;
  k->handle = NULL;
  pthread_mutex_unlock(&s->lock);
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
  if (s->running && node != s->self) {
    free(k);
    return CHI_ENOTSUP;
  }
  if (!k)
    return CHI_ENOMEM;
  *k = (struct real_cluster_client){.cluster = s, .node = node, .body = body, .arg = arg};
  pthread_mutex_lock(&s->lock);
  if (s->clients < REAL_CLUSTER_CLIENTS && !s->closing) {
    rc = pthread_create(&k->thread, NULL, real_cluster_main, k) == 0 ? CHI_OK : CHI_ENOMEM;
    if (rc == CHI_OK) {
      s->client[s->clients] = k;
      s->clients_left++;
      rc = (int)++s->clients;
    }
  }
  pthread_mutex_unlock(&s->lock);
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
  pthread_mutex_lock(&s->lock);
  k->killed = true;
  if (k->state == REAL_CLUSTER_WAITS) {
    k->state = REAL_CLUSTER_ENDED;
    s->clients_left--;
  }
  if (k->state == REAL_CLUSTER_RUNS)
    real_cluster_hang_up(k->handle);
  bool ended = k->state == REAL_CLUSTER_ENDED;
  pthread_mutex_unlock(&s->lock);
  return ended;
}

static void real_cluster_client_kill(chi_cluster *c, uint32_t number)
{
  struct real_cluster *s = real_cluster_of(c);
  uint64_t end = real_cluster_clock() + REAL_CLUSTER_START_NS;
  if (number == 0 || number > s->clients)
    return;
  while (!real_cluster_cut(s->client[number - 1])) {
    if (c->running) /* who asks holds what it needs to end */
      return;
    if (real_cluster_clock() > end) {
      chi_cluster_fail(c, "kill", "client %u does not end though its connection is cut", number);
      return;
    }
    nanosleep(&(struct timespec){0, REAL_CLUSTER_LOOK_NS}, NULL);
  }
}

static bool real_cluster_client_ended(const chi_cluster *c, uint32_t number)
{
  struct real_cluster *s = real_cluster_of(c);
  pthread_mutex_lock(&s->lock);
  bool ended = number == 0         ? s->clients_left == 0
               : number <= s->clients ? s->client[number - 1]->state == REAL_CLUSTER_ENDED
                                      : true;
  pthread_mutex_unlock(&s->lock);
  return ended;
}

/* ---- faults ---------------------------------------------------------------------------------- */

/* What a signal, or a start, can do. CHI_ENOTSUP: this can't be done. */
static int real_cluster_do(struct real_cluster *s, chi_fault kind, uint32_t a, int64_t value,
                           bool *done)
{
  struct real_cluster_node *n = &s->node[a];
  bool up = real_cluster_is_up(&s->base, a);
  switch (kind) {
  case CHI_FAULT_START:
    *done = !up;
    return up ? CHI_OK : real_cluster_start(s, a, NULL);
  case CHI_FAULT_STOP:
    *done = up;
    return up ? real_cluster_stop_one(s, a, value > 0 ? (uint32_t)value : 0) : CHI_OK;
  case CHI_FAULT_KILL:
    *done = up;
    if (up && !s->modules)
      real_cluster_end(n);
    return s->modules ? CHI_ENOTSUP : CHI_OK;
  case CHI_FAULT_PAUSE:
  case CHI_FAULT_RESUME:
    *done = up && n->paused != (kind == CHI_FAULT_PAUSE);
    n->paused = kind == CHI_FAULT_PAUSE;
    real_cluster_signal(n, n->paused ? SIGSTOP : SIGCONT);
    return s->modules ? CHI_ENOTSUP : CHI_OK;
  default:
    return CHI_ENOTSUP;
  }
}

static int real_cluster_calm(struct real_cluster *s)
{
  bool done;
  for (uint32_t i = 0; i < s->base.nodes; i++) {
    int rc = CHI_OK;
    if (s->node[i].paused)
      rc = real_cluster_do(s, CHI_FAULT_RESUME, i, 0, &done);
    if (rc == CHI_OK)
      rc = real_cluster_do(s, CHI_FAULT_START, i, 0, &done);
    if (rc != CHI_OK)
      return rc;
  }
  return CHI_OK;
}

static int real_cluster_fault(chi_cluster *c, chi_fault kind, uint32_t a, uint32_t b,
                              int64_t value)
{
  struct real_cluster *s = real_cluster_of(c);
  bool done = kind == CHI_FAULT_CALM;
  (void)b;
  pthread_mutex_lock(&s->lock);
  int rc = done ? real_cluster_calm(s) : real_cluster_do(s, kind, a, value, &done);
  if (rc == CHI_OK && done)
    s->faults[kind]++;
  pthread_mutex_unlock(&s->lock);
  return rc;
}

static uint64_t real_cluster_fault_count(const chi_cluster *c, chi_fault kind)
{
  return real_cluster_of(c)->faults[kind];
}

/* ---- whole again ----------------------------------------------------------------------------- */

static int real_cluster_is_settled(chi_cluster *c, void *arg)
{
  struct real_cluster_wait *wait = arg;
  const char *missing;
  if (!real_cluster_client_ended(c, 0)) {
    snprintf(wait->why, sizeof(wait->why), "clients have not ended");
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
  struct real_cluster_wait wait = {.settled = true};
  int rc = c->kind->fault ? real_cluster_fault(c, CHI_FAULT_CALM, 0, 0, 0) : CHI_OK;
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

static void real_cluster_story(chi_cluster *c, chi_put_fn *put, void *arg)
{
  (void)c;
  (void)put;
  (void)arg;
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
  s = real_cluster_new(spec, NULL, 0, real_cluster_hostfile());
  if (!s)
    return error_set(err, CHI_ENOMEM, "no memory, or no directory in /tmp");
  s->running = true;
  s->self = self;
  if (spec->watch)
    spec->watch->opened(spec->watch->arg, &s->base);
  rc = real_cluster_run(&s->base, real_cluster_has_met, &wait, REAL_CLUSTER_START_NS);
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
  struct real_cluster_view view = {.json = malloc(REAL_CLUSTER_JSON)};
  char alive[64];
  bool seen = view.json && real_cluster_ask(NULL, &view) == CHI_OK;
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
#undef REAL_CLUSTER_JSON
#undef REAL_CLUSTER_GRACE_MS

#endif
