/* real_daemon.c - the nodes of a cluster on this host, each a process at an address of its own. */
#include "real_daemon.h"

#ifndef CHI_OMIT_REAL

#include "error.h"
#include "real_node.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <ftw.h>
#include <netinet/in.h>
#include <signal.h>
#include <spawn.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define REAL_DAEMON_ANSWER_NS UINT64_C(30000000000) /* a node that is asked answers within that */
#define REAL_DAEMON_GRACE_MS 1000u /* of a process that isn't told otherwise */
#define REAL_DAEMON_STUCK 4        /* status of one whose method does not come back */
#define REAL_DAEMON_LOOK_NS 1000000 /* between two looks whether one has ended */
#define REAL_DAEMON_LOOKS 10000u   /* whether one that is to stand still does */
#define REAL_DAEMON_FILES 16       /* open at a time while files are removed */

/* ---- configuration --------------------------------------------------------------------------- */

/* A port that is free now. */
static uint32_t real_daemon_port(void)
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
static void real_daemon_settings(chi_config *config)
{
  chi_config defaults;
  chi_config_init(&defaults);
  for (uint32_t i = 0; i < config->host_count; i++)
    snprintf(config->hosts[i].address, sizeof(config->hosts[i].address), "127.0.0.%u", i + 1);
  if (config->port == defaults.port)
    config->port = real_daemon_port();
  config->sched_threads += config->sched_threads == 0;
  config->slow_threads += config->slow_threads == 0;
  chi_config_free(&defaults);
}

/* That of one node, whose hosts are where it finds them. It is freed as any other. */
static int real_daemon_config(const struct real_daemon_set *d, uint32_t node, chi_config *out)
{
  char relay[REAL_RELAY_ADDRESS];
  int rc = CHI_OK;
  *out = d->config;
  out->hosts = NULL;
  out->host_count = 0;
  out->node = node;
  snprintf(out->main_segment_name, sizeof(out->main_segment_name), "chi-local-%d-%u",
           (int)d->owner, node);
  snprintf(out->log_file, sizeof(out->log_file), "%s/node%u.log", d->dir, node);
  for (uint32_t i = 0; i < d->count && rc == CHI_OK; i++) {
    real_relay_address(node, i, relay);
    rc = chi_config_add_host(out, d->config.hosts[i].name,
                             i == node || !d->relay ? d->config.hosts[i].address : relay);
  }
  return rc;
}

void real_daemon_instance(const struct real_daemon_set *d, uint32_t node, char out[CHI_NAME_MAX])
{
  snprintf(out, CHI_NAME_MAX, "chi-local-%d-%u:%u", (int)d->owner, node, d->config.port);
}

static void real_daemon_put(void *arg, const char *text)
{
  fputs(text, arg);
}

/* Configuration and hostfile of a process. */
static bool real_daemon_write(const struct real_daemon_set *d, uint32_t node, const char *path)
{
  chi_config config;
  bool written = real_daemon_config(d, node, &config) == CHI_OK;
  snprintf(config.hostfile, sizeof(config.hostfile), "%s/hosts%u", d->dir, node);
  FILE *hosts = written ? fopen(config.hostfile, "we") : NULL;
  FILE *file = written ? fopen(path, "we") : NULL;
  for (uint32_t i = 0; hosts && i < config.host_count; i++)
    fprintf(hosts, "%s %s\n", config.hosts[i].name, config.hosts[i].address);
  if (file)
    chi_config_print(&config, real_daemon_put, file);
  written = hosts && fclose(hosts) == 0;
  written = file && fclose(file) == 0 && written;
  config.hostfile[0] = '\0';
  chi_config_free(&config);
  return written;
}

/* ---- start ----------------------------------------------------------------------------------- */

/* In the process of a node: from here to its end. Each has a directory of its own, which outlives
 * it: what it writes to relative paths is not what others do. */
static int real_daemon_serve(void *arg, uint32_t node)
{
  struct real_daemon_set *d = arg;
  struct real_daemon *own = &d->node[node];
  chi_config config;
  chi_node *here = NULL;
  char dir[64];
  int rc = real_daemon_config(d, node, &config);
  snprintf(dir, sizeof(dir), "%s/node%u", d->dir, node);
  if (rc == CHI_OK && chdir(dir) != 0)
    rc = error_set(&own->failure, CHI_EIO, "cannot go to %s: %m", dir);
  if (rc == CHI_OK)
    rc = real_node_open(&config, d->modules, d->module_count, &own->fault, &here, &own->failure);
  chi_config_free(&config);
  if (rc != CHI_OK)
    return EXIT_FAILURE;
  chi_node_guard(here);
  own->serves = true;
  chi_node_wait(here, UINT64_MAX);
  return chi_node_close(here, REAL_DAEMON_GRACE_MS) == CHI_OK ? EXIT_SUCCESS : REAL_DAEMON_STUCK;
}

static int real_daemon_spawn(struct real_daemon_set *d, uint32_t node, chi_error *err)
{
  const char *given = getenv("CHIMAERA"), *program = given && *given ? given : "chimaera";
  char number[16], grace[16], path[64], name[] = "chimaera", start[] = "start", with[] = "--config",
       which[] = "--node", patience[] = "--grace";
  char *argv[] = {name, start, with, path, which, number, patience, grace, NULL};
  posix_spawn_file_actions_t actions;
  snprintf(path, sizeof(path), "%s/node%u.yaml", d->dir, node);
  snprintf(number, sizeof(number), "%u", node);
  snprintf(grace, sizeof(grace), "%u", REAL_DAEMON_GRACE_MS);
  if (!real_daemon_write(d, node, path))
    return error_set(err, CHI_EIO, "cannot write to %s: %m", d->dir);
  posix_spawn_file_actions_init(&actions);
  posix_spawn_file_actions_addopen(&actions, STDOUT_FILENO, "/dev/null", O_WRONLY, 0);
  int rc = posix_spawnp(&d->node[node].pid, program, &actions, NULL, argv, environ);
  posix_spawn_file_actions_destroy(&actions);
  if (rc == 0)
    return CHI_OK;
  d->node[node].pid = 0;
  errno = rc;
  return error_set(err, CHI_ENOENT, "cannot run %s: %m; set CHIMAERA to the program", program);
}

int real_daemon_start(struct real_daemon_set *d, uint32_t node, chi_error *err)
{
  struct real_daemon *n = &d->node[node];
  n->pid = 0;
  n->paused = n->stopping = n->serves = n->ended = false;
  n->status = 0;
  n->failure = (chi_error){0};
  if (!d->modules)
    return real_daemon_spawn(d, node, err);
  int rc = real_nest_hatch(&d->nest, node, &n->pid);
  return rc == CHI_OK ? rc : error_set(err, rc, "no process for node %u", node);
}

/* ---- while they run -------------------------------------------------------------------------- */

static bool real_daemon_has_ended(struct real_daemon_set *d, struct real_daemon *n)
{
  if (n->pid <= 0)
    return true;
  bool ended = d->modules ? real_nest_ended(&d->nest, n->pid, &n->status)
                          : waitpid(n->pid, &n->status, WNOHANG) != 0;
  if (ended)
    n->pid = 0;
  return ended;
}

bool real_daemon_is_there(struct real_daemon_set *d, uint32_t node)
{
  struct real_daemon *n = &d->node[node];
  bool ran = n->pid > 0, there = !real_daemon_has_ended(d, n);
  if (ran && !there && !n->stopping)
    n->ended = true;
  return there;
}

bool real_daemon_is_up(struct real_daemon_set *d, uint32_t node)
{
  const struct real_daemon *n = &d->node[node];
  return real_daemon_is_there(d, node) && !n->stopping && (n->serves || !d->modules);
}

void real_daemon_kill(struct real_daemon_set *d, uint32_t node)
{
  struct real_daemon *n = &d->node[node];
  if (real_daemon_has_ended(d, n))
    return;
  n->stopping = true;
  kill(n->pid, SIGKILL);
  while (!real_daemon_has_ended(d, n))
    nanosleep(&(struct timespec){0, REAL_DAEMON_LOOK_NS}, NULL);
}

/* Whether that thread is stopped or ended, as its file in /proc says behind its name. */
static bool real_daemon_thread_is_still(pid_t pid, const char *thread)
{
  char path[64], text[64] = "";
  snprintf(path, sizeof(path), "/proc/%d/task/%.20s/stat", (int)pid, thread);
  int fd = open(path, O_RDONLY | O_CLOEXEC);
  if (fd < 0)
    return true;
  ssize_t n = read(fd, text, sizeof(text) - 1);
  const char *name = n > 0 ? strrchr(text, ')') : NULL;
  close(fd);
  return name && name + 2 < text + n && strchr("TtZX", name[2]);
}

bool real_daemon_is_still(pid_t pid)
{
  char path[64];
  const struct dirent *e;
  bool still = true;
  snprintf(path, sizeof(path), "/proc/%d/task", (int)pid);
  DIR *threads = opendir(path);
  while (threads && still && (e = readdir(threads)))
    still = e->d_name[0] == '.' || real_daemon_thread_is_still(pid, e->d_name);
  if (threads)
    closedir(threads);
  return still;
}

void real_daemon_pause(struct real_daemon_set *d, uint32_t node, bool pause)
{
  struct real_daemon *n = &d->node[node];
  n->paused = pause;
  if (n->pid <= 0)
    return;
  kill(n->pid, pause ? SIGSTOP : SIGCONT);
  /* The signal goes to one thread, and to the others when that is its turn. */
  for (uint32_t i = 0; pause && i < REAL_DAEMON_LOOKS && !real_daemon_is_still(n->pid); i++)
    nanosleep(&(struct timespec){0, REAL_DAEMON_LOOK_NS}, NULL);
}

int real_daemon_fault(struct real_daemon_set *d, chi_fault kind, uint32_t a, uint32_t b,
                      int64_t value)
{
  int rc = CHI_OK;
  for (uint32_t i = 0; i < d->count && rc == CHI_OK; i++)
    if (i == a || kind == CHI_FAULT_MEMORY)
      rc = real_fault_tell(&d->node[i].fault, kind, b, value);
  return rc;
}

int real_daemon_ask_to_stop(struct real_daemon_set *d, uint32_t node, uint32_t grace_ms)
{
  chi_client *client = NULL;
  chi_queue *queue = NULL;
  struct chi_admin_stop_runtime *t = NULL;
  char instance[CHI_NAME_MAX];
  real_daemon_instance(d, node, instance);
  int rc = chi_client_open(instance, &client, NULL);
  if (rc == CHI_OK)
    rc = chi_queue_open(client, &queue, NULL);
  if (rc == CHI_OK && !(t = CHI_NEW(queue, chi_admin_stop_runtime)))
    rc = CHI_ENOMEM;
  if (rc == CHI_OK) {
    t->task.pool = CHI_ADMIN_POOL;
    t->grace_period_ms = grace_ms;
    d->node[node].stopping = true;
    rc = chi_run(queue, t);
    chi_task_free(queue, t);
  }
  chi_queue_close(queue);
  chi_client_close(client);
  return rc == CHI_ESHUTDOWN ? CHI_OK : rc;
}

void real_daemon_logs(const struct real_daemon_set *d, chi_put_fn *put, void *arg)
{
  char path[64], line[1024], told[sizeof(line) + 32];
  for (uint32_t i = 0; i < d->count; i++) {
    snprintf(path, sizeof(path), "%s/node%u.log", d->dir, i);
    FILE *file = fopen(path, "re");
    while (file && fgets(line, sizeof(line), file)) {
      snprintf(told, sizeof(told), "node%u: %s", i, line);
      put(arg, told);
    }
    if (file)
      fclose(file);
  }
}

/* ---- what nodes say -------------------------------------------------------------------------- */

static uint64_t real_daemon_number(const char *json, const char *name)
{
  const char *at = strstr(json, name);
  return at ? strtoull(at + strlen(name), NULL, 10) : 0;
}

static uint64_t real_daemon_count(const char *json, const char *text)
{
  uint64_t count = 0;
  for (const char *at = strstr(json, text); at; at = strstr(at + 1, text))
    count++;
  return count;
}

/* What the node answers about itself, in v->json. */
static int real_daemon_monitor(chi_queue *queue, struct real_daemon_view *v)
{
  struct chi_admin_monitor *t = CHI_NEW(queue, chi_admin_monitor);
  int rc = t ? chi_bulk_alloc(queue, REAL_DAEMON_JSON - 1, &t->json) : CHI_ENOMEM;
  if (rc == CHI_OK) {
    t->task.pool = CHI_ADMIN_POOL;
    rc = chi_submit(queue, t);
  }
  if (rc == CHI_OK)
    rc = chi_wait(queue, t, REAL_DAEMON_ANSWER_NS);
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

int real_daemon_ask(const char *instance, struct real_daemon_view *v, chi_error *err)
{
  chi_client *client = NULL;
  chi_queue *queue = NULL;
  int rc = chi_client_open(instance, &client, err);
  if (rc == CHI_OK)
    rc = chi_queue_open(client, &queue, err);
  if (rc == CHI_OK && (rc = real_daemon_monitor(queue, v)) != CHI_OK)
    error_set(err, rc, "%s", chi_status_text(rc));
  if (rc == CHI_OK) {
    v->alive = real_daemon_number(v->json, "\"alive\":");
    v->met = real_daemon_count(v->json, "\"met\":1");
    v->pools = real_daemon_number(v->json, "\"pool_entries\":");
    v->open = real_daemon_number(v->json, "\"calls_open\":") +
              real_daemon_number(v->json, "\"runs_open\":");
  }
  chi_queue_close(queue);
  chi_client_close(client);
  return rc;
}

/* The text's place behind the name of a node's row; NULL: there is no such row. */
static const char *real_daemon_host(const char *json, const char *row)
{
  static const char name[] = "\"host\":\"";
  const char *at = strstr(json, row);
  at = at ? strstr(at, name) : NULL;
  return at ? at + sizeof(name) - 1 : NULL;
}

uint32_t real_daemon_differs(const struct real_daemon_view *v, uint32_t self, const chi_host *hosts,
                             uint32_t count)
{
  const char *at = v->json, *host;
  char row[40];
  for (uint32_t i = 0; i <= count && count > 1; i++) {
    snprintf(row, sizeof(row), i == self ? "\"node\":%u," : "{\"id\":%u,\"state\":", i);
    host = real_daemon_host(i == self ? v->json : at, row);
    size_t size = i < count ? strlen(hosts[i].name) : 0;
    if (i == count ? host != NULL
                   : !host || strncmp(host, hosts[i].name, size) != 0 || host[size] != '"')
      return i;
    at = i == self ? at : host; /* the rows of others are in order */
  }
  return UINT32_MAX;
}

/* ---- open and close -------------------------------------------------------------------------- */

static int real_daemon_remove_one(const char *path, const struct stat *what, int kind,
                                  struct FTW *where)
{
  (void)what, (void)kind, (void)where;
  return remove(path) == 0 ? 0 : -1;
}

static int real_daemon_make_dirs(struct real_daemon_set *d, chi_error *err)
{
  char path[64];
  snprintf(d->dir, sizeof(d->dir), "/tmp/chi-local-XXXXXX");
  if (!mkdtemp(d->dir))
    return error_set(err, CHI_EIO, "cannot make a directory in /tmp: %m");
  for (uint32_t i = 0; i < d->count; i++) {
    snprintf(path, sizeof(path), "%s/node%u", d->dir, i);
    if (mkdir(path, 0700) != 0)
      return error_set(err, CHI_EIO, "cannot make the directory %s: %m", path);
  }
  return CHI_OK;
}

/* What the nodes are forked with, and what lies between them. The nest first: it has one thread. */
static int real_daemon_surround(struct real_daemon_set *d, chi_error *err)
{
  int rc = real_daemon_make_dirs(d, err);
  if (rc == CHI_OK && d->modules) {
    rc = real_nest_open(&d->nest, real_daemon_serve, d);
    rc = rc == CHI_OK ? rc : error_set(err, rc, "cannot fork a process for the nodes: %m");
  }
  if (rc == CHI_OK && d->count <= REAL_RELAY_NODES)
    rc = real_relay_open(d->config.hosts, d->count, d->config.port, &d->relay, err);
  return rc;
}

int real_daemon_open(struct real_daemon_set *d, chi_config *config,
                     const chi_module *const *modules, uint32_t count, chi_error *err)
{
  d->count = config->host_count;
  d->config = *config;
  chi_config_init(config);
  d->owner = getpid();
  d->nest.pid = -1;
  d->module_count = count;
  d->node = mmap(NULL, d->count * sizeof(*d->node), PROT_READ | PROT_WRITE,
                 MAP_SHARED | MAP_ANONYMOUS, -1, 0);
  d->modules = count ? calloc(count, sizeof(*d->modules)) : NULL;
  if (d->node == MAP_FAILED)
    d->node = NULL;
  for (uint32_t i = 0; d->modules && i < count; i++)
    d->modules[i] = modules[i];
  real_daemon_settings(&d->config);
  int rc = d->node && (d->modules || !count) ? CHI_OK : error_set(err, CHI_ENOMEM, "no memory");
  if (rc == CHI_OK)
    rc = real_daemon_surround(d, err);
  if (rc != CHI_OK)
    real_daemon_close(d);
  return rc;
}

void real_daemon_close(struct real_daemon_set *d)
{
  for (uint32_t i = 0; d->node && i < d->count; i++)
    real_daemon_kill(d, i);
  if (d->nest.pid > 0)
    real_nest_close(&d->nest);
  real_relay_close(d->relay);
  if (d->dir[0])
    nftw(d->dir, real_daemon_remove_one, REAL_DAEMON_FILES, FTW_DEPTH | FTW_PHYS);
  if (d->node)
    munmap(d->node, d->count * sizeof(*d->node));
  free(d->modules);
  chi_config_free(&d->config);
}

#undef REAL_DAEMON_ANSWER_NS
#undef REAL_DAEMON_GRACE_MS
#undef REAL_DAEMON_STUCK
#undef REAL_DAEMON_LOOK_NS
#undef REAL_DAEMON_LOOKS
#undef REAL_DAEMON_FILES

#endif
