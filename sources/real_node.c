/* real_node.c - a node in this process, and a client of one: chi_node_* and chi_client_open. */
#include "real_node.h"

#ifndef CHI_OMIT_REAL

#include "atomic.h"
#include "client.h"
#include "config.h"
#include "error.h"
#include "real_conf.h"
#include "real_file.h"
#include "real_host.h"
#include "real_link.h"
#include "real_loop.h"
#include "real_module.h"
#include "real_net.h"
#include "real_record.h"
#include "real_shm.h"
#include "real_single.h"
#include "real_thread.h"
#include "record.h"
#include "runtime.h"

#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/eventfd.h>
#include <time.h>
#include <unistd.h>

#define REAL_NODE_THREADS 4u             /* of a kind, unless configured: at most the CPUs */
#define REAL_NODE_BULK_PART 2u           /* of the memory: one message shall not take it all */
#define REAL_NODE_MARGIN_NS 10000000000u /* for a node that doesn't even say that it is stuck */
#define REAL_NODE_FAILED_GRACE_NS 1000000000u /* for what a failed start has begun */

struct chi_node {
  struct real_env real;
  chi_config config;
  struct real_link_place place;
  struct real_link_desk desk;
  struct runtime *runtime;
  struct record *record; /* NULL: it isn't recorded */
  struct real_record file;
  struct real_thread_crew crew;
  struct real_fault *fault; /* NULL: nothing goes wrong but by itself */
  int stop_fd;          /* readable as soon as the node was asked to stop */
  int start_fd;         /* readable once the node is no longer starting; -1 after that */
  uint32_t stop_wanted; /* atomic: the network worker shall begin to stop */
  uint64_t grace_ns;    /* written before */
  uint32_t self; /* own position in the hostfile */
  pthread_mutex_t lock;
  pthread_cond_t changed;
  enum runtime_state state; /* guarded by lock */
  uint64_t stop_grace;      /* of the stop under way, whoever asked for it; guarded by lock */
};

/* ---- states ---------------------------------------------------------------------------------- */

/* Network worker. */
static void real_node_on_state(void *arg, enum runtime_state state)
{
  struct chi_node *n = (struct chi_node *)arg;
  if (state == RUNTIME_STOPPED)
    real_thread_quit(&n->crew);
  pthread_mutex_lock(&n->lock);
  if (n->state == RUNTIME_STARTING)
    real_env_ring(n->start_fd);
  if (state == RUNTIME_SERVING)
    real_fault_serves(&n->real);
  n->state = state;
  if (state >= RUNTIME_DRAINING)
    n->stop_grace = runtime_grace(n->runtime);
  pthread_cond_broadcast(&n->changed);
  pthread_mutex_unlock(&n->lock);
  if (state >= RUNTIME_DRAINING) /* last: who hears it finds all this */
    real_env_ring(n->stop_fd);
}

/* Network worker, between steps. */
static void real_node_turn(void *arg)
{
  struct chi_node *n = (struct chi_node *)arg;
  if (!mark_get(&n->stop_wanted))
    return;
  mark_set(&n->stop_wanted, 0); /* a further request while it stops changes nothing */
  record_stop(n->record, n->runtime, n->grace_ns);
}

static void real_node_deadline(uint64_t patience, struct timespec *out)
{
  uint64_t now = real_env_now();
  uint64_t end = patience < UINT64_MAX / 2 - now ? now + patience : UINT64_MAX / 2;
  out->tv_sec = (time_t)(end / 1000000000u);
  out->tv_nsec = (long)(end % 1000000000u);
}

/* Waits until the state is one of a set of bits, at most so long; returns the state. */
static enum runtime_state real_node_await(struct chi_node *n, uint32_t set, uint64_t patience)
{
  struct timespec end;
  int rc = 0;
  real_node_deadline(patience, &end);
  pthread_mutex_lock(&n->lock);
  while (!(set >> n->state & 1) && rc == 0)
    rc = pthread_cond_timedwait(&n->changed, &n->lock, &end);
  enum runtime_state state = n->state;
  pthread_mutex_unlock(&n->lock);
  return state;
}

/* Waits until the node serves or has failed, or was asked to stop before that. */
static void real_node_await_start(struct chi_node *n)
{
  struct pollfd p[] = {{n->start_fd, POLLIN, 0}, {n->stop_fd, POLLIN, 0}};
  while (poll(p, 2, -1) <= 0)
    ;
}

/* ---- upcalls of the loop --------------------------------------------------------------------- */

static void real_node_on_connect(void *arg, env_link link, const struct env_peer *peer)
{
  struct chi_node *n = (struct chi_node *)arg;
  record_on_connect(n->record, n->runtime, link, peer);
}

static void real_node_on_request(void *arg, env_link link, const void *message, size_t size)
{
  struct chi_node *n = (struct chi_node *)arg;
  record_on_request(n->record, n->runtime, link, message, size);
}

static void real_node_on_hangup(void *arg, env_link link)
{
  struct chi_node *n = (struct chi_node *)arg;
  record_on_hangup(n->record, n->runtime, link);
}

static void real_node_on_awake(void *arg)
{
  struct chi_node *n = (struct chi_node *)arg;
  if (n->crew.single)
    real_single_awake(&n->crew);
  else
    runtime_awake(n->runtime, runtime_network_worker(n->runtime));
}

/* ---- upcalls of the network ------------------------------------------------------------------ */

static void real_node_on_message(void *arg, const struct env_frame *frame, uint32_t count)
{
  struct chi_node *n = (struct chi_node *)arg;
  record_on_message(n->record, n->runtime, frame, count);
}

static void real_node_on_peer(void *arg, uint32_t peer, bool connected)
{
  struct chi_node *n = (struct chi_node *)arg;
  record_on_peer(n->record, n->runtime, peer, connected);
}

static void real_node_on_sent(void *arg, void *parcel)
{
  struct chi_node *n = (struct chi_node *)arg;
  record_on_sent(n->record, n->runtime, parcel);
}

/* ---- open ------------------------------------------------------------------------------------ */

/* A compose entry's parameters; with the places where they were written. */
static int real_node_copy_entry(chi_compose_entry *to, const chi_compose_entry *from, bool places)
{
  int rc = CHI_OK;
  to->line = places ? from->line : 0;
  to->column = places ? from->column : 0;
  for (uint32_t k = 0; k < from->param_count && rc == CHI_OK; k++) {
    rc = chi_config_add_param(to, from->params[k].name, from->params[k].value);
    if (rc == CHI_OK && places) {
      to->params[k].line = from->params[k].line;
      to->params[k].column = from->params[k].column;
    }
  }
  return rc;
}

/* Everything of *config, with lists of its own. A record has no places: what is replayed from it
 * would not say the same. */
static int real_node_copy(chi_config *to, const chi_config *config)
{
  int rc = CHI_OK;
  *to = *config;
  to->compose = NULL;
  to->hosts = NULL;
  to->compose_count = to->host_count = 0;
  for (uint32_t i = 0; i < config->host_count && rc == CHI_OK; i++)
    rc = chi_config_add_host(to, config->hosts[i].name, config->hosts[i].address);
  for (uint32_t i = 0; i < config->compose_count && rc == CHI_OK; i++) {
    const chi_compose_entry *e = &config->compose[i];
    chi_compose_entry *mine = NULL;
    rc = chi_config_add_pool(to, e->mod_name, e->pool_name, e->pool_query, e->pool_major,
                             e->pool_minor, &mine);
    if (rc == CHI_OK)
      rc = real_node_copy_entry(mine, e, !config->record_file[0]);
  }
  return rc;
}

static int real_node_configure(struct chi_node *n, const chi_config *config, chi_error *err)
{
  int rc = real_node_copy(&n->config, config);
  if (rc != CHI_OK)
    return error_set(err, rc, "the configuration: %s", chi_status_text(rc));
  rc = real_conf_names(&n->config, err);
  if (rc == CHI_OK)
    rc = chi_config_check(&n->config, err);
  if (rc == CHI_OK)
    rc = real_host_find(&n->config, &n->self, err);
  if (rc != CHI_OK)
    return rc;
  uint64_t memory = real_limit_memory(&n->real.limit) / REAL_NODE_BULK_PART;
  if (n->config.bulk_max > memory)
    n->config.bulk_max = memory > CONFIG_BULK_MIN ? memory : CONFIG_BULK_MIN;
  uint32_t cpus = real_limit_cpus(&n->real.limit);
  uint32_t threads = cpus < REAL_NODE_THREADS ? cpus : REAL_NODE_THREADS;
  if (n->config.record_file[0])
    n->config.single_thread = 1;
  if (n->config.single_thread)
    threads = 1;
  n->crew.spinners = real_limit_spinners(&n->real.limit);
  if (n->config.sched_threads == 0)
    n->config.sched_threads = threads;
  if (n->config.slow_threads == 0)
    n->config.slow_threads = threads;
  return CHI_OK;
}

static int real_node_open_env(struct chi_node *n, const chi_config *config, chi_error *err)
{
  const struct real_loop_owner owner = {n, real_node_on_connect, real_node_on_request,
                                        real_node_on_hangup, real_node_on_awake};
  const struct real_net_owner network = {n, real_node_on_message, real_node_on_peer,
                                         real_node_on_sent};
  int rc = real_node_configure(n, config, err);
  if (rc == CHI_OK)
    real_log_name(&n->real.log, n->self);
  if (rc == CHI_OK)
    rc = real_link_locate(n->real.directory, n->config.main_segment_name, n->config.port, &n->place,
                          err);
  if (rc == CHI_OK)
    rc = real_link_listen(&n->place, &n->desk, err);
  if (rc != CHI_OK)
    return rc;
  rc = real_loop_open(&n->real, n->desk.socket, REAL_LOOP_LINKS_MAX, &owner);
  if (rc == CHI_OK)
    rc = real_net_bind(&n->real, &network, &n->config);
  if (rc == CHI_OK)
    rc = real_file_bind(&n->real, n->config.sched_threads + n->config.slow_threads + 2);
  real_shm_bind(&n->real);
  real_module_bind(&n->real);
  if (rc == CHI_OK && n->fault)
    rc = real_fault_bind(&n->real, n->fault);
  return rc == CHI_OK ? CHI_OK : error_set(err, rc, "cannot make an event loop");
}

static int real_node_open_record(struct chi_node *n, const struct runtime_options *options,
                                 chi_error *err)
{
  const char *path = n->config.record_file;
  struct tape_store store;
  int rc = real_record_make(&n->file, path, &store, err);
  if (rc != CHI_OK)
    return rc;
  rc = record_open(&n->real.env, &n->record);
  if (rc == CHI_OK)
    rc = record_write(n->record, &store, options);
  return rc == CHI_OK ? rc : error_set(err, rc, "cannot record to %s: %s", path,
                                       chi_status_text(rc));
}

static int real_node_open_runtime(struct chi_node *n, const struct runtime_options *options,
                                  chi_error *err)
{
  struct env *env = &n->real.env;
  int rc = n->config.record_file[0] ? real_node_open_record(n, options, err) : CHI_OK;
  if (rc != CHI_OK)
    return rc;
  if (n->record)
    env = record_env(n->record);
  rc = runtime_open(env, options, &n->runtime, err);
  record_opened(n->record, rc);
  record_flush(n->record);
  return rc;
}

/* Nothing is stepped any more. */
static void real_node_end_record(struct chi_node *n)
{
  struct env *env = &n->real.env;
  char line[CHI_PATH_MAX + 200];
  int rc = record_finish(n->record, n->runtime);
  const struct tape *tape = record_tape(n->record);
  if (rc == CHI_OK)
    snprintf(line, sizeof(line), "recorded %llu items to %s: state hash %016llx",
             (unsigned long long)tape->items, n->config.record_file,
             (unsigned long long)hash_stream_finish(&tape->hash));
  else
    snprintf(line, sizeof(line), "the record in %s is not complete: %s", n->config.record_file,
             chi_status_text(rc));
  env->log(env, rc == CHI_OK ? CHI_LOG_INFO : CHI_LOG_ERROR, line);
}

/* Everything that stands before the first step. */
static int real_node_prepare(struct chi_node *n, const chi_config *config,
                             const chi_module *const *modules, uint32_t count, chi_error *err)
{
  int rc = real_node_open_env(n, config, err);
  if (rc != CHI_OK)
    return rc;
  const struct runtime_options options = {.config = &n->config,
                                          .instance = n->place.instance,
                                          .node = n->self,
                                          .modules = modules,
                                          .module_count = count,
                                          .figures = n->config.record_file[0] ? NULL
                                                                              : &n->real.figures,
                                          .on_state = real_node_on_state,
                                          .arg = n};
  rc = real_node_open_runtime(n, &options, err);
  if (rc != CHI_OK)
    return rc;
  n->crew.record = n->record;
  n->crew.env = &n->real;
  n->crew.runtime = n->runtime;
  n->crew.spin_window_ns = n->config.spin_window_ns;
  n->crew.turn = real_node_turn;
  n->crew.arg = n;
  if (n->config.single_thread && real_single_prepare(&n->crew) != CHI_OK)
    return error_set(err, CHI_ENOMEM, "out of memory");
  return real_thread_start(&n->crew, err);
}

/* Frees whatever there is; no thread may be stepping. */
static void real_node_free(struct chi_node *n)
{
  if (n->runtime)
    runtime_close(n->runtime);
  if (n->record)
    record_close(n->record);
  real_record_close(&n->file);
  real_single_end(&n->crew);
  if (n->real.files)
    real_file_close(&n->real);
  if (n->real.net)
    real_net_unbind(&n->real);
  if (n->real.loop)
    real_loop_close(&n->real);
  real_fault_unbind(&n->real);
  real_link_leave(&n->place, &n->desk);
  real_module_close(&n->real);
  real_env_close(&n->real);
  chi_config_free(&n->config);
  close(n->stop_fd);
  close(n->start_fd);
  pthread_cond_destroy(&n->changed);
  pthread_mutex_destroy(&n->lock);
  free(n);
}

static struct chi_node *real_node_new(const chi_config *config)
{
  struct chi_node *n = calloc(1, sizeof(*n));
  pthread_condattr_t attr;
  if (!n)
    return NULL;
  n->desk = (struct real_link_desk){-1, -1};
  n->file.fd = -1;
  n->stop_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
  n->start_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
  if (n->stop_fd < 0 || n->start_fd < 0 ||
      real_env_open(&n->real, config->log_file) != CHI_OK) {
    if (n->stop_fd >= 0)
      close(n->stop_fd);
    if (n->start_fd >= 0)
      close(n->start_fd);
    free(n);
    return NULL;
  }
  pthread_condattr_init(&attr);
  pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
  pthread_mutex_init(&n->lock, NULL);
  pthread_cond_init(&n->changed, &attr);
  pthread_condattr_destroy(&attr);
  return n;
}

/* So that each life is a part of the log. */
static void real_node_tell(struct chi_node *n, const char *what)
{
  struct env *env = &n->real.env;
  char line[CHI_NAME_MAX + 200];
  snprintf(line, sizeof(line), "%s: instance %s, version %s, process %ld", what, n->place.instance,
           CHI_VERSION, (long)getpid());
  env->log(env, CHI_LOG_INFO, line);
}

/* Begins to stop and waits for the end. CHI_EBUSY: it doesn't come. */
static int real_node_stop(struct chi_node *n, uint64_t grace_ns)
{
  struct env *env = &n->real.env;
  n->grace_ns = grace_ns;
  pthread_mutex_lock(&n->lock);
  if (n->state == RUNTIME_STUCK)
    n->state = RUNTIME_CANCELLING; /* to be told anew */
  uint64_t grace = n->stop_grace > grace_ns ? n->stop_grace : grace_ns;
  pthread_mutex_unlock(&n->lock);
  mark_set(&n->stop_wanted, 1);
  env->bell_ring(env, runtime_worker_bell(n->runtime, runtime_network_worker(n->runtime)));
  if (real_node_await(n, 1u << RUNTIME_STOPPED | 1u << RUNTIME_STUCK,
                      3 * grace + REAL_NODE_MARGIN_NS) != RUNTIME_STOPPED)
    return CHI_EBUSY;
  real_thread_join(&n->crew);
  real_node_tell(n, "stopped");
  if (n->record)
    real_node_end_record(n);
  return CHI_OK;
}

int real_node_open(const chi_config *config, const chi_module *const *modules, uint32_t count,
                   struct real_fault *fault, chi_node **out, chi_error *err)
{
  struct chi_node *n = real_node_new(config);
  *out = NULL;
  if (!n)
    return error_set(err, CHI_ENOMEM, "out of memory or descriptors");
  n->fault = fault;
  *out = n; /* from now on a signal handler can stop it */
  int rc = real_node_prepare(n, config, modules, count, err);
  if (rc != CHI_OK) {
    *out = NULL;
    real_node_free(n);
    return rc;
  }
  real_node_await_start(n);
  if (real_node_await(n, UINT32_MAX, 0) != RUNTIME_FAILED) {
    real_node_tell(n, "serving");
    return CHI_OK;
  }
  const chi_error *failure = runtime_failure(n->runtime);
  *out = NULL;
  rc = error_set(err, failure->code, "%s", failure->text);
  if (real_node_stop(n, REAL_NODE_FAILED_GRACE_NS) == CHI_OK) /* else its threads still use it */
    real_node_free(n);
  return rc;
}

int chi_node_open(const chi_config *config, const chi_module *const *modules, uint32_t count,
                  chi_node **out, chi_error *err)
{
  return real_node_open(config, modules, count, NULL, out, err);
}

/* ---- while it runs --------------------------------------------------------------------------- */

const char *chi_node_instance(const chi_node *node)
{
  return node->place.instance;
}

int chi_node_wait(chi_node *node, uint64_t timeout_ns)
{
  struct env *env = &node->real.env;
  uint64_t now = env->clock(env), deadline = UINT64_MAX;
  struct pollfd p = {node->stop_fd, POLLIN, 0};
  struct timespec left;
  if (!real_env_alive(&node->real))
    return CHI_EFORKED;
  if (timeout_ns < UINT64_MAX - now)
    deadline = now + timeout_ns;
  for (;;) {
    int n = ppoll(&p, 1, real_env_left(env->clock(env), deadline, &left), NULL);
    if (n > 0)
      return CHI_OK;
    if (n == 0)
      return CHI_ETIMEOUT;
  }
}

void chi_node_stop(chi_node *node)
{
  int error = errno;
  if (real_env_alive(&node->real))
    real_env_ring(node->stop_fd);
  errno = error;
}

int chi_node_guard(chi_node *node)
{
  return real_env_alive(&node->real) ? real_thread_guard() : CHI_EFORKED;
}

int chi_node_close(chi_node *node, uint32_t grace_ms)
{
  if (!real_env_alive(&node->real))
    return CHI_EFORKED;
  if (real_thread_inside(&node->crew))
    return CHI_EDEADLOCK;
  int rc = real_node_stop(node, (uint64_t)grace_ms * 1000000u);
  if (rc == CHI_OK)
    real_node_free(node);
  return rc;
}

/* ---- clients --------------------------------------------------------------------------------- */

static void real_node_dispose_client(struct env *env)
{
  struct real_env *r = real_env_of(env);
  real_env_close(r);
  free(r);
}

int chi_client_open(const char *instance, chi_client **out, chi_error *err)
{
  struct real_env *r = malloc(sizeof(*r));
  if (!r || real_env_open(r, NULL) != CHI_OK) {
    free(r);
    return error_set(err, CHI_ENOMEM, "out of memory");
  }
  real_shm_bind(r);
  real_link_bind(r);
  int rc = client_open(&r->env, real_node_dispose_client, instance, out, err);
  if (rc != CHI_OK)
    real_node_dispose_client(&r->env);
  return rc;
}

#undef REAL_NODE_THREADS
#undef REAL_NODE_BULK_PART
#undef REAL_NODE_MARGIN_NS
#undef REAL_NODE_FAILED_GRACE_NS

#endif
