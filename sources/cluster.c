/* cluster.c - one handle on many nodes: specs, checks, properties, reports. */
#include "cluster.h"
#include "config.h"
#include "error.h"
#include "sim_cluster.h"
#ifndef CHI_OMIT_REAL
#include "real_cluster.h"
#endif
#include "units.h"

#include <stdarg.h>
#include <stdio.h>

#define CLUSTER_WORD 256u             /* a key or value of a spec, with its NUL */
#define CLUSTER_SLACK_NS 60000000000u /* a call may take that much longer than it may wait */
#define CLUSTER_DEPTH 64u             /* default of queue_depth: nodes are many and small here */
#define CLUSTER_FOR_EVER (UINT64_MAX / 4)

/* ---- specs -------------------------------------------------------------------------------- */

/* The kinds there are; one without a table is not in this build. */
static const char *const cluster_kinds[] = {"sim", "local", "hostfile"};

static const struct cluster_kind *cluster_kind_of(const char *name)
{
#ifndef CHI_OMIT_SIM
  if (strcmp(name, "sim") == 0)
    return sim_cluster_kind();
#endif
#ifndef CHI_OMIT_REAL
  if (strcmp(name, "local") == 0)
    return real_cluster_local();
  if (strcmp(name, "hostfile") == 0)
    return real_cluster_hostfile();
#endif
  (void)name;
  return NULL;
}

/* Copies what stands before one of the marks, and steps behind it; false: it is too long. */
static bool cluster_word(const char **at, const char *marks, char word[CLUSTER_WORD], char *mark)
{
  size_t n = 0;
  while ((*at)[n] && !strchr(marks, (*at)[n]))
    n++;
  snprintf(word, CLUSTER_WORD, "%.*s", n < CLUSTER_WORD ? (int)n : (int)CLUSTER_WORD - 1, *at);
  if (n >= CLUSTER_WORD)
    return false;
  *mark = (*at)[n];
  *at += n + (*mark != '\0');
  return true;
}

static const struct config_key *cluster_config_key(const char *leaf)
{
  for (size_t i = 0; i < CONFIG_KEY_COUNT; i++) {
    const struct config_key *key = config_key_at(i);
    const char *dot = strchr(key->name, '.');
    if (dot && strcmp(dot + 1, leaf) == 0 && !config_key_is_text(key))
      return key;
  }
  return NULL;
}

static int cluster_config(struct cluster_spec *s, const char *name, const char *value,
                          chi_error *err)
{
  const struct config_key *key = cluster_config_key(name);
  struct config_value parsed;
  char expected[CONFIG_EXPECTED_MAX];
  if (!key)
    return error_set(err, CHI_EINVAL, "no such key of a cluster: \"%s\"", name);
  memset(&parsed, 0, sizeof(parsed));
  if (!config_parse(key, value, &parsed.number))
    return error_set(err, CHI_EINVAL, "%s: expected %s, found \"%s\"", name,
                     config_key_expected(key, expected), value);
  config_put(&s->config, key, &parsed);
  return CHI_OK;
}

static int cluster_count(const char *name, const char *value, uint64_t max, uint64_t *out,
                         chi_error *err)
{
  if (units_parse_count(value, out) == CHI_OK && *out <= max)
    return CHI_OK;
  return error_set(err, CHI_EINVAL, "%s: expected a whole number up to %llu, found \"%s\"", name,
                   (unsigned long long)max, value);
}

static int cluster_key(void *arg, const char *name, const char *value, chi_error *err)
{
  struct cluster_spec *s = arg;
  uint64_t number = 0;
  int rc;
  if (strcmp(name, "seed") == 0)
    return cluster_count(name, value, UINT64_MAX, &s->seed, err);
  if (strcmp(name, "nodes") == 0 || strcmp(name, "up") == 0) {
    rc = cluster_count(name, value, CHI_CLUSTER_NODES_MAX, &number, err);
    if (rc == CHI_OK && number == 0)
      rc = error_set(err, CHI_EINVAL, "%s: there must be one at least", name);
    *(name[0] == 'n' ? &s->nodes : &s->up) = (uint32_t)number;
    return rc;
  }
  if (strcmp(name, "latency") == 0) {
    rc = chi_parse_duration(value, 1, &s->latency_ns);
    return rc ? error_set(err, CHI_EINVAL, "latency: expected a time, found \"%s\"", value)
              : CHI_OK;
  }
  if (strcmp(name, "bandwidth") == 0) {
    rc = chi_parse_size(value, &s->bandwidth);
    return rc ? error_set(err, CHI_EINVAL, "bandwidth: expected a size, found \"%s\"", value)
              : CHI_OK;
  }
  rc = s->kind && s->kind->key ? s->kind->key(s, name, value, err) : CHI_ENOENT;
  return rc == CHI_ENOENT ? cluster_config(s, name, value, err) : rc;
}

/* Whether one of the pairs before `end` has that key. */
static bool cluster_has_key(const char *pairs, const char *end, const char *name)
{
  size_t size = strlen(name);
  for (const char *at = pairs; at < end; at = strchr(at, ',') + 1)
    if (strncmp(at, name, size) == 0 && at[size] == '=')
      return true;
  return false;
}

/* Hands over each pair of "KEY=VALUE,KEY=VALUE". */
static int cluster_pairs(const char *pairs,
                         int (*take)(void *arg, const char *name, const char *value,
                                     chi_error *err),
                         void *arg, chi_error *err)
{
  char name[CLUSTER_WORD], value[CLUSTER_WORD], mark;
  const char *at = pairs;
  int rc = CHI_OK;
  while (*at && rc == CHI_OK) {
    const char *pair = at;
    if (!cluster_word(&at, "=,", name, &mark) || mark != '=')
      return error_set(err, CHI_EINVAL, "expected KEY=VALUE, found \"%.60s\"", name);
    if (cluster_has_key(pairs, pair, name))
      return error_set(err, CHI_EINVAL, "%s: expected once, found again: \"%.60s\"", name, pair);
    if (!cluster_word(&at, ",", value, &mark))
      return error_set(err, CHI_EINVAL, "%s: the value is too long", name);
    rc = take(arg, name, value, err);
  }
  return rc;
}

static int cluster_hosts(struct cluster_spec *s, chi_error *err)
{
  s->up = s->up ? s->up : s->nodes;
  if (s->up > s->nodes)
    return error_set(err, CHI_EINVAL, "up: there are %u nodes, not %u", s->nodes, s->up);
  for (uint32_t i = 0; i < s->nodes; i++) {
    char name[16];
    snprintf(name, sizeof(name), "node%u", i);
    if (chi_config_add_host(&s->config, name, NULL) != CHI_OK)
      return error_set(err, CHI_ENOMEM, "no memory for %u nodes", s->nodes);
  }
  return chi_config_check(&s->config, err);
}

static int cluster_open_kind(const char *name, const char *keys, struct cluster_spec *s,
                             const chi_module *const *modules, uint32_t count, chi_cluster **out,
                             chi_error *err)
{
  const struct cluster_kind *kind = cluster_kind_of(name);
  int rc = CHI_OK;
  s->kind = kind;
  if (strcmp(name, "hostfile") == 0)
    s->path = keys;
  else
    rc = cluster_pairs(keys, cluster_key, s, err);
  if (rc == CHI_OK && !kind)
    rc = error_set(err, CHI_ENOTSUP, "clusters of kind \"%s\" are not in this build", name);
  if (rc == CHI_OK && !s->path)
    rc = cluster_hosts(s, err);
  return rc ? rc : kind->open(s, modules, count, out, err);
}

CHI_PRIVATE int cluster_open(const char *spec, const chi_module *const *modules, uint32_t count,
                             const struct cluster_watch *watch, chi_cluster **out, chi_error *err)
{
  struct cluster_spec s = {.nodes = 3, .seed = 1, .watch = watch};
  char name[CLUSTER_WORD], mark;
  size_t i = 0;
  *out = NULL;
  if (!spec || !cluster_word(&spec, ":", name, &mark) || mark != ':')
    return error_set(err, CHI_EINVAL, "a cluster is \"sim:\", \"local:\" or \"hostfile:\"");
  while (i < CHI_COUNT(cluster_kinds) && strcmp(cluster_kinds[i], name) != 0)
    i++;
  if (i == CHI_COUNT(cluster_kinds))
    return error_set(err, CHI_EINVAL, "no such kind of cluster: \"%s\"", name);
  chi_config_init(&s.config);
  s.config.queue_depth = CLUSTER_DEPTH;
  int rc = cluster_open_kind(name, spec, &s, modules, count, out, err);
  chi_config_free(&s.config);
  return rc;
}

int chi_cluster_open(const char *spec, const chi_module *const *modules, uint32_t count,
                     chi_cluster **out, chi_error *err)
{
  return cluster_open(spec, modules, count, NULL, out, err);
}

CHI_PRIVATE void cluster_init(chi_cluster *c, const struct cluster_kind *kind,
                              const struct cluster_spec *spec)
{
  c->kind = kind;
  c->nodes = spec->nodes;
  c->seed = spec->seed;
}

void chi_cluster_close(chi_cluster *c)
{
  if (!c)
    return;
  CHI_ASSERT(!c->running);
  c->kind->close(c);
}

uint32_t chi_cluster_nodes(const chi_cluster *c)
{
  return c->nodes;
}

uint64_t chi_cluster_seed(const chi_cluster *c)
{
  return c->seed;
}

int chi_cluster_is_up(const chi_cluster *c, uint32_t node)
{
  return node < c->nodes && c->kind->is_up(c, node);
}

/* ---- clients ------------------------------------------------------------------------------ */

int chi_cluster_client(chi_cluster *c, uint32_t node, chi_cluster_body *body, void *arg)
{
  return node < c->nodes ? c->kind->client(c, node, body, arg) : CHI_ERANGE;
}

void chi_cluster_client_kill(chi_cluster *c, int number)
{
  c->kind->client_kill(c, (uint32_t)number);
}

int chi_cluster_client_ended(const chi_cluster *c, int number)
{
  return c->kind->client_ended(c, (uint32_t)number);
}

void chi_cluster_sleep(chi_cluster *c, uint64_t ns)
{
  c->kind->use(c, ns);
}

void chi_cluster_cpu(chi_cluster *c, uint64_t ns)
{
  c->kind->use(c, ns);
}

/* One thing done by a client of its own, while the test waits. */
struct cluster_errand {
  void (*run)(struct cluster_errand *e, chi_queue *queue);
  const chi_type *type;
  void *task;
  uint64_t limit_ns;
  const char *mod_name, *pool_name;
  const chi_param *params;
  uint32_t count;
  chi_pool_id *id;
  chi_error *err;
  int number, rc;
};

static void cluster_errand_body(chi_cluster *c, chi_client *client, void *arg)
{
  struct cluster_errand *e = arg;
  chi_queue *queue = NULL;
  (void)c;
  e->rc = chi_queue_open(client, &queue, e->err);
  if (e->rc == CHI_OK)
    e->run(e, queue);
  chi_queue_close(queue);
}

static int cluster_errand_is_done(chi_cluster *c, void *arg)
{
  const struct cluster_errand *e = arg;
  return chi_cluster_client_ended(c, e->number);
}

static int cluster_do(chi_cluster *c, uint32_t node, struct cluster_errand *e)
{
  uint64_t limit = e->limit_ns < CLUSTER_FOR_EVER ? e->limit_ns : CLUSTER_FOR_EVER;
  int rc;
  if (c->running)
    return error_set(e->err, CHI_EDEADLOCK, "not while time runs");
  if (node >= c->nodes)
    return error_set(e->err, CHI_ERANGE, "no node %u", node);
  if (!c->kind->is_up(c, node))
    return error_set(e->err, CHI_ENODAEMON, "node %u isn't up", node);
  e->rc = CHI_ESHUTDOWN;
  e->number = chi_cluster_client(c, node, cluster_errand_body, e);
  if (e->number == CHI_ENOTSUP)
    return error_set(e->err, e->number, "clients are of the node on this host, not of node %u",
                     node);
  if (e->number < 0)
    return error_set(e->err, e->number, "%s", chi_status_text(e->number));
  rc = chi_cluster_run_until(c, cluster_errand_is_done, e, limit + CLUSTER_SLACK_NS);
  if (rc == CHI_OK)
    return e->rc;
  chi_cluster_client_kill(c, e->number);
  return error_set(e->err, rc, "%s", chi_status_text(rc));
}

static void cluster_call_run(struct cluster_errand *e, chi_queue *queue)
{
  chi_task *task = chi_task_new(queue, e->type);
  e->rc = task ? CHI_OK : CHI_ENOMEM;
  if (!task)
    return;
  memcpy(task, e->task, e->type->size);
  e->rc = chi_submit(queue, task);
  if (e->rc == CHI_OK)
    e->rc = chi_wait(queue, task, e->limit_ns);
  if (!chi_task_done(queue, task)) {
    chi_abandon(queue, task);
    return;
  }
  memcpy(e->task, task, e->type->size);
  chi_task_free(queue, task);
}

int chi_cluster_call(chi_cluster *c, uint32_t node, const chi_type *type, void *task,
                     uint64_t limit_ns)
{
  struct cluster_errand e = {
      .run = cluster_call_run, .type = type, .task = task, .limit_ns = limit_ns};
  for (uint32_t i = 0; i < type->field_count; i++)
    if (type->fields[i].kind == CHI_KIND_bulk)
      return CHI_ENOTSUP;
  if (((chi_task *)task)->flags & (CHI_TASK_FORGET | CHI_TASK_PERIODIC))
    return CHI_ENOTSUP;
  ((chi_task *)task)->method = type->id;
  return cluster_do(c, node, &e);
}

static void cluster_create_run(struct cluster_errand *e, chi_queue *queue)
{
  e->rc = chi_pool_create(queue, e->mod_name, e->pool_name, e->params, e->count, e->id, e->err);
}

int chi_cluster_pool_create(chi_cluster *c, uint32_t node, const char *mod_name,
                            const char *pool_name, const chi_param *params, uint32_t count,
                            chi_pool_id *id, chi_error *err)
{
  struct cluster_errand e = {.run = cluster_create_run,
                             .limit_ns = CLUSTER_SLACK_NS,
                             .mod_name = mod_name,
                             .pool_name = pool_name,
                             .params = params,
                             .count = count,
                             .id = id,
                             .err = err};
  return cluster_do(c, node, &e);
}

static void cluster_destroy_run(struct cluster_errand *e, chi_queue *queue)
{
  e->rc = chi_pool_destroy(queue, *e->id, e->err);
}

int chi_cluster_pool_destroy(chi_cluster *c, uint32_t node, chi_pool_id id, chi_error *err)
{
  struct cluster_errand e = {
      .run = cluster_destroy_run, .limit_ns = CLUSTER_SLACK_NS, .id = &id, .err = err};
  return cluster_do(c, node, &e);
}

/* ---- time --------------------------------------------------------------------------------- */

int chi_cluster_run_until(chi_cluster *c, chi_cluster_fn *pred, void *arg, uint64_t limit_ns)
{
  if (c->running)
    return CHI_EDEADLOCK;
  if (c->failed)
    return CHI_ECANCELLED;
  return c->kind->run(c, pred, arg, limit_ns);
}

static int cluster_never(chi_cluster *c, void *arg)
{
  (void)c, (void)arg;
  return 0;
}

int chi_cluster_run_for(chi_cluster *c, uint64_t ns)
{
  int rc = chi_cluster_run_until(c, cluster_never, NULL, ns);
  return rc == CHI_ETIMEOUT ? CHI_OK : rc;
}

static int cluster_is_idle(chi_cluster *c, void *arg)
{
  (void)arg;
  return c->kind->client_ended(c, 0);
}

int chi_cluster_run_idle(chi_cluster *c, uint64_t limit_ns)
{
  return chi_cluster_run_until(c, cluster_is_idle, NULL, limit_ns);
}

int chi_cluster_settle(chi_cluster *c, uint64_t limit_ns)
{
  if (c->running)
    return CHI_EDEADLOCK;
  return c->failed ? CHI_ECANCELLED : c->kind->settle(c, limit_ns);
}

int chi_cluster_stop(chi_cluster *c, uint32_t node, uint32_t grace_ms)
{
  if (c->running)
    return CHI_EDEADLOCK;
  if (node != CHI_CLUSTER_ALL && node >= c->nodes)
    return CHI_ERANGE;
  if (c->failed)
    return CHI_ECANCELLED;
  if (node != CHI_CLUSTER_ALL && !c->kind->is_up(c, node))
    return CHI_EINVAL;
  return c->kind->stop(c, node, grace_ms);
}

uint64_t chi_cluster_now(const chi_cluster *c)
{
  return c->kind->now(c);
}

uint64_t chi_cluster_hash(const chi_cluster *c)
{
  return c->kind->hash(c);
}

uint64_t chi_cluster_events(const chi_cluster *c)
{
  return c->kind->events(c);
}

void chi_cluster_story(chi_cluster *c, chi_put_fn *put, void *arg)
{
  c->put = put;
  c->put_arg = arg;
  c->kind->story(c, put, arg);
}

/* ---- faults ------------------------------------------------------------------------------- */

#define CLUSTER_FAULT_NAME(name, text) [name] = text,
static const char *const cluster_fault_names[] = {CHI_FAULT_TABLE(CLUSTER_FAULT_NAME)};
#undef CLUSTER_FAULT_NAME

/* What a and b of a kind of fault are: N a node, F an operation on files; else nothing. */
static const char *const cluster_fault_operands[CHI_FAULT_KINDS] = {
    [CHI_FAULT_CUT] = "NN",    [CHI_FAULT_JOIN] = "NN",      [CHI_FAULT_ISOLATE] = "N-",
    [CHI_FAULT_REJOIN] = "N-", [CHI_FAULT_PARTITION] = "NN", [CHI_FAULT_CLOG] = "NN",
    [CHI_FAULT_SLOW] = "NN",   [CHI_FAULT_FULL] = "NN",      [CHI_FAULT_DROP] = "NN",
    [CHI_FAULT_HALF] = "NN",   [CHI_FAULT_LOSE] = "NN",      [CHI_FAULT_SNAP] = "NN",
    [CHI_FAULT_PAUSE] = "N-",  [CHI_FAULT_RESUME] = "N-",    [CHI_FAULT_CRASH] = "N-",
    [CHI_FAULT_KILL] = "N-",   [CHI_FAULT_START] = "N-",     [CHI_FAULT_STOP] = "N-",
    [CHI_FAULT_DRIFT] = "N-",  [CHI_FAULT_JUMP] = "N-",      [CHI_FAULT_DISK] = "NF",
    [CHI_FAULT_DELAY] = "NF",
};

const char *chi_fault_name(int kind)
{
  return kind >= 0 && kind < CHI_FAULT_KINDS ? cluster_fault_names[kind] : "unknown";
}

static const char *cluster_operands(chi_fault kind)
{
  return cluster_fault_operands[kind] ? cluster_fault_operands[kind] : "--";
}

static bool cluster_operand(const chi_cluster *c, char what, uint32_t value)
{
  if (what == 'N')
    return value < c->nodes;
  return what == '-' || value <= CHI_FAULT_SPACE || value == CHI_CLUSTER_ALL;
}

CHI_PRIVATE bool cluster_fault_fits(const chi_cluster *c, chi_fault kind, uint32_t a, uint32_t b)
{
  const char *operands = cluster_operands(kind);
  return cluster_operand(c, operands[0], a) && cluster_operand(c, operands[1], b);
}

int chi_cluster_fault(chi_cluster *c, int kind, uint32_t a, uint32_t b, int64_t value)
{
  if (kind < 0 || kind >= CHI_FAULT_KINDS)
    return CHI_EINVAL;
  const char *operands = cluster_operands((chi_fault)kind);
  a = operands[0] == '-' ? 0 : a;
  b = operands[1] == '-' ? 0 : b;
  if (!cluster_fault_fits(c, (chi_fault)kind, a, b))
    return CHI_ERANGE;
  return c->kind->fault ? c->kind->fault(c, (chi_fault)kind, a, b, value) : CHI_ENOTSUP;
}

int chi_cluster_plan(chi_cluster *c, const char *text, chi_error *err)
{
  if (c->running)
    return error_set(err, CHI_EDEADLOCK, "not while time runs");
  if (!c->kind->plan)
    return error_set(err, CHI_ENOTSUP, "not in this kind of cluster");
  return c->kind->plan(c, text, err);
}

/* "crash+cut+pause" */
static int cluster_kinds_set(const char *text, uint64_t *kinds, chi_error *err)
{
  char name[CLUSTER_WORD], mark = '+';
  while (mark) {
    int kind = 0;
    if (!cluster_word(&text, "+", name, &mark))
      return error_set(err, CHI_EINVAL, "kinds: no such fault: \"%.40s\"", text);
    while (kind < CHI_FAULT_KINDS && strcmp(name, cluster_fault_names[kind]) != 0)
      kind++;
    if (kind == CHI_FAULT_KINDS)
      return error_set(err, CHI_EINVAL, "kinds: no such fault: \"%s\"", name);
    *kinds |= UINT64_C(1) << kind;
  }
  return CHI_OK;
}

static int cluster_limit(void *arg, const char *name, const char *value, chi_error *err)
{
  struct cluster_limits *l = arg;
  uint64_t *time = strcmp(name, "until") == 0    ? &l->until_ns
                   : strcmp(name, "outage") == 0 ? &l->outage_ns
                                                 : NULL;
  uint64_t *count = strcmp(name, "each") == 0    ? &l->each
                    : strcmp(name, "down") == 0  ? &l->down
                    : strcmp(name, "swarm") == 0 ? &l->swarm
                                                 : NULL;
  if (strcmp(name, "kinds") == 0)
    return cluster_kinds_set(value, &l->kinds, err);
  if (count)
    return cluster_count(name, value, UINT32_MAX, count, err);
  if (!time)
    return error_set(err, CHI_EINVAL, "no such limit of faults: \"%s\"", name);
  if (chi_parse_duration(value, 1, time) != CHI_OK)
    return error_set(err, CHI_EINVAL, "%s: expected a time, found \"%s\"", name, value);
  return CHI_OK;
}

int chi_cluster_faults(chi_cluster *c, const char *spec, chi_error *err)
{
  struct cluster_limits limits = {0};
  if (c->running)
    return error_set(err, CHI_EDEADLOCK, "not while time runs");
  if (!c->kind->faults)
    return error_set(err, CHI_ENOTSUP, "not in this kind of cluster");
  int rc = cluster_pairs(spec, cluster_limit, &limits, err);
  if (rc == CHI_OK && limits.until_ns == 0)
    rc = error_set(err, CHI_EINVAL, "until: must be given");
  return rc ? rc : c->kind->faults(c, &limits, err);
}

uint64_t chi_cluster_fault_count(const chi_cluster *c, int kind)
{
  bool known = kind >= 0 && kind < CHI_FAULT_KINDS && c->kind->fault_count;
  return known ? c->kind->fault_count(c, (chi_fault)kind) : 0;
}

/* ---- checks and properties ---------------------------------------------------------------- */

static void cluster_say(chi_put_fn *put, void *arg, const char *fmt, ...)
    __attribute__((format(printf, 3, 4)));

static void cluster_say(chi_put_fn *put, void *arg, const char *fmt, ...)
{
  char line[640];
  va_list args;
  va_start(args, fmt);
  vsnprintf(line, sizeof(line), fmt, args);
  va_end(args);
  put(arg, line);
}

static void cluster_say_failure(const chi_failure *f, chi_put_fn *put, void *arg)
{
  cluster_say(put, arg, "%llu.%09llu check \"%s\" failed at event %llu: %s\n",
              (unsigned long long)(f->time / 1000000000u),
              (unsigned long long)(f->time % 1000000000u), f->check, (unsigned long long)f->event,
              f->text);
}

static void cluster_guard(chi_cluster *c, bool enter)
{
  if (c->kind->guard)
    c->kind->guard(c, enter);
}

void chi_cluster_fail(chi_cluster *c, const char *check, const char *fmt, ...)
{
  va_list args;
  cluster_guard(c, true);
  if (c->failed || (c->counts && !c->counts(c->counts_arg, check))) {
    cluster_guard(c, false);
    return;
  }
  c->failed = true;
  c->failure.event = chi_cluster_events(c);
  c->failure.time = chi_cluster_now(c);
  snprintf(c->failure.check, sizeof(c->failure.check), "%s", check);
  va_start(args, fmt);
  vsnprintf(c->failure.text, sizeof(c->failure.text), fmt, args);
  va_end(args);
  if (c->put)
    cluster_say_failure(&c->failure, c->put, c->put_arg);
  cluster_guard(c, false);
}

const chi_failure *chi_cluster_failure(const chi_cluster *c)
{
  return c->failed ? &c->failure : NULL;
}

int chi_cluster_check(chi_cluster *c, const char *name, int when, chi_check_fn *fn, void *arg)
{
  if (!fn || (when != CHI_CHECK_EVENT && when != CHI_CHECK_SETTLED))
    return CHI_EINVAL;
  if (c->checks == CHI_CLUSTER_CHECKS_MAX)
    return CHI_ERANGE;
  struct cluster_check *check = &c->check[c->checks++];
  *check = (struct cluster_check){.when = when, .fn = fn, .arg = arg};
  snprintf(check->name, sizeof(check->name), "%s", name);
  return CHI_OK;
}

CHI_PRIVATE bool cluster_holds(chi_cluster *c, enum chi_check_when when)
{
  for (uint32_t i = 0; i < c->checks && !c->failed; i++) {
    struct cluster_check *check = &c->check[i];
    const char *wrong = check->when == (int)when ? check->fn(c, check->arg) : NULL;
    if (wrong)
      chi_cluster_fail(c, check->name, "%s", wrong);
  }
  return !c->failed;
}

/* The property of that name: NULL if there is none, and no more room for it. */
static struct cluster_property *cluster_property_of(chi_cluster *c, const char *name,
                                                    enum cluster_claim claim)
{
  struct cluster_property *p = c->property;
  size_t most = sizeof(p->name) - 1;
  while (p < c->property + c->properties && (p->claim != claim || strncmp(p->name, name, most)))
    p++;
  if (p < c->property + c->properties)
    return p;
  if (c->properties == CHI_CLUSTER_PROPERTIES_MAX)
    return NULL;
  c->properties++;
  p->claim = claim;
  snprintf(p->name, sizeof(p->name), "%s", name);
  return p;
}

static void cluster_tell(struct cluster_property *p, bool holds)
{
  if (p) {
    p->told++;
    p->held += holds;
  }
}

static void cluster_told(chi_cluster *c, const char *name, enum cluster_claim claim, bool holds)
{
  cluster_guard(c, true);
  cluster_tell(cluster_property_of(c, name, claim), holds);
  cluster_guard(c, false);
}

int chi_always(chi_cluster *c, const char *name, int holds)
{
  cluster_told(c, name, CLUSTER_ALWAYS, holds);
  if (!holds)
    chi_cluster_fail(c, name, "it does not hold");
  return holds;
}

int chi_sometimes(chi_cluster *c, const char *name, int holds)
{
  cluster_told(c, name, CLUSTER_SOMETIMES, holds);
  return holds;
}

int chi_eventually(chi_cluster *c, const char *name, chi_cluster_fn *pred, void *arg)
{
  struct cluster_property *p = cluster_property_of(c, name, CLUSTER_EVENTUALLY);
  if (!pred)
    return CHI_EINVAL;
  if (!p)
    return CHI_ERANGE;
  p->pred = pred;
  p->arg = arg;
  return CHI_OK;
}

CHI_PRIVATE const char *cluster_missing(chi_cluster *c)
{
  for (uint32_t i = 0; i < c->properties; i++) {
    struct cluster_property *p = &c->property[i];
    if (p->claim != CLUSTER_EVENTUALLY)
      continue;
    bool holds = p->pred(c, p->arg) != 0;
    cluster_tell(p, holds);
    if (!holds)
      return p->name;
  }
  return NULL;
}

int chi_cluster_property(const chi_cluster *c, const char *name, uint64_t *told, uint64_t *held)
{
  for (uint32_t i = 0; i < c->properties; i++) {
    const struct cluster_property *p = &c->property[i];
    if (strncmp(p->name, name, sizeof(p->name) - 1) == 0) {
      *told = p->told;
      *held = p->held;
      return CHI_OK;
    }
  }
  return CHI_ENOENT;
}

/* ---- reports ------------------------------------------------------------------------------ */

static void cluster_report_faults(const chi_cluster *c, chi_put_fn *put, void *arg)
{
  for (int kind = 0; kind < CHI_FAULT_KINDS; kind++) {
    uint64_t count = chi_cluster_fault_count(c, kind);
    if (count)
      cluster_say(put, arg, "fault %s: %llu\n", chi_fault_name(kind), (unsigned long long)count);
  }
}

static uint32_t cluster_report_properties(const chi_cluster *c, chi_put_fn *put, void *arg)
{
  static const char *const words[] = {"always", "sometimes", "eventually"};
  uint32_t never = 0;
  for (uint32_t i = 0; i < c->properties; i++) {
    const struct cluster_property *p = &c->property[i];
    never += p->held == 0;
    cluster_say(put, arg, "%s \"%s\": held %llu of %llu times%s\n", words[p->claim], p->name,
                (unsigned long long)p->held, (unsigned long long)p->told,
                p->held ? "" : ", never held");
  }
  return never;
}

uint32_t chi_cluster_report(const chi_cluster *c, chi_put_fn *put, void *arg)
{
  uint64_t now = chi_cluster_now(c);
  cluster_say(put, arg, "%s:nodes=%u,seed=%llu: %llu.%09llu s, %llu events, hash %016llx\n",
              c->kind->name, c->nodes, (unsigned long long)c->seed,
              (unsigned long long)(now / 1000000000u), (unsigned long long)(now % 1000000000u),
              (unsigned long long)chi_cluster_events(c), (unsigned long long)chi_cluster_hash(c));
  cluster_report_faults(c, put, arg);
  if (c->kind->report)
    c->kind->report(c, put, arg);
  uint32_t never = cluster_report_properties(c, put, arg);
  if (c->failed)
    cluster_say_failure(&c->failure, put, arg);
  return never;
}

#undef CLUSTER_WORD
#undef CLUSTER_SLACK_NS
#undef CLUSTER_DEPTH
#undef CLUSTER_FOR_EVER
