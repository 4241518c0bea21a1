/* admin_pool.c - how pools come and go, here and on all nodes.
 *
 * A pool of all nodes is an entry in the table they agree on (accord). Whoever creates or destroys
 * one puts the entry, does its own part, and has the others settle: take the entry and do theirs
 * before they answer. Whoever cannot be reached then finds the entry later by itself, and follows.
 * A pool of one node alone is in no table. */
#include "admin.h"
#include "ctx.h"
#include "error.h"
#include "hash.h"

#include <stdio.h>

#define ADMIN_PARAMS_MAX 64u       /* fields of a module's parameters */
#define ADMIN_AGAIN_NS 1000000000u /* until what failed for want of memory is tried again */
#define ADMIN_LOOKS 10000          /* a millisecond apart, for what others know of an id */
#define ADMIN_ATTEMPTS 4           /* to create a pool above what others know of its id */

/* ---- what runs in a container on behalf of its pool */

CHI_TASK(admin_create, 0, CHI_NO_FIELDS)
CHI_TASK(admin_destroy, 1, CHI_NO_FIELDS)

static int admin_create_body(chi_ctx *ctx, void *self, void *task)
{
  const struct pool *p = ctx->container->pool;
  (void)task;
  return p->module->def->create ? p->module->def->create(ctx, self, p->params) : CHI_OK;
}

static int admin_destroy_body(chi_ctx *ctx, void *self, void *task)
{
  const struct pool *p = ctx->container->pool;
  (void)task;
  ctx_shield(ctx);
  if (p->module->def->destroy)
    p->module->def->destroy(ctx, self);
  return CHI_OK;
}

static const chi_method admin_create_method = {&admin_create_type, admin_create_body, 0, 0};
static const chi_method admin_destroy_method = {&admin_destroy_type, admin_destroy_body, 0, 0};

void admin_method(struct method *method, const chi_method *def)
{
  int rc = module_method_init(method, def, METHOD_UNCOUNTED, NULL);
  CHI_ASSERT(rc == CHI_OK);
}

int admin_run_sub(chi_ctx *ctx, struct container *c, struct method *method, void *task)
{
  ctx_aim(task, c, method, true);
  int rc = chi_call(ctx, task);
  if (!chi_subtask_done(ctx, task)) { /* the caller was cancelled: the body is told, and decides */
    chi_subtask_cancel(ctx, task);
    for (uint64_t ns = 1000000; !chi_subtask_done(ctx, task); ns = ns < 50000000 ? ns * 2 : ns)
      ctx_pause(ctx, ns);
    rc = ((const chi_task *)task)->rc;
  }
  return rc;
}

int admin_run_in(chi_ctx *ctx, struct container *c, struct method *method)
{
  void *task = chi_subtask_new(ctx, method->def->type);
  if (!task)
    return CHI_ENOMEM;
  int rc = admin_run_sub(ctx, c, method, task);
  chi_subtask_free(ctx, task);
  return rc;
}

/* ---- parameters */

static bool admin_same_name(const char *field, const char *name, size_t length)
{
  if (strlen(field) != length)
    return false;
  for (size_t i = 0; i < length; i++)
    if (field[i] != (name[i] == '.' ? '_' : name[i]))
      return false;
  return true;
}

static int admin_set_param(const chi_type *type, void *params, const char *line, size_t length,
                           uint64_t *given, chi_error *err)
{
  const char *equals = memchr(line, '=', length);
  char name[CHI_NAME_MAX], value[CHI_PATH_MAX];
  size_t name_length = equals ? (size_t)(equals - line) : length;
  size_t value_length = equals ? length - name_length - 1 : 0;
  if (!equals || name_length >= sizeof name || value_length >= sizeof value)
    return error_set(err, CHI_EINVAL, "parameter \"%.*s\": expected NAME=VALUE",
                     (int)(length < 64 ? length : 64), line);
  memcpy(value, equals + 1, value_length);
  value[value_length] = '\0';
  for (uint32_t i = 0; i < type->field_count; i++) {
    if (!admin_same_name(type->fields[i].name, line, name_length))
      continue;
    *given |= 1ull << i;
    return chi_type_set(type, params, type->fields[i].name, value, err);
  }
  memcpy(name, line, name_length);
  name[name_length] = '\0';
  return chi_type_set(type, params, name, value, err); /* fails, naming the nearest */
}

static int admin_parse_params(const struct module *m, const char *text, void *params,
                              chi_error *err)
{
  const chi_type *type = m->def->params;
  uint64_t given = 0;
  int rc = CHI_OK;
  if (type && type->field_count > ADMIN_PARAMS_MAX)
    return error_set(err, CHI_EINVAL, "module %s declares more than %u parameters", m->def->name,
                     ADMIN_PARAMS_MAX);
  for (uint32_t i = 0; type && i < type->field_count && rc == CHI_OK; i++) {
    const chi_field *f = &type->fields[i];
    if (f->preset[0] != '\0')
      rc = chi_type_set(type, params, f->name, f->preset, err);
  }
  while (*text && rc == CHI_OK) {
    size_t length = strcspn(text, "\n");
    if (length > 0 && !type)
      return error_set(err, CHI_EINVAL, "module %s takes no parameters", m->def->name);
    if (length > 0)
      rc = admin_set_param(type, params, text, length, &given, err);
    text += length + (text[length] == '\n');
  }
  for (uint32_t i = 0; type && i < type->field_count && rc == CHI_OK; i++)
    if (type->fields[i].preset[0] == '\0' && !(given >> i & 1))
      rc = error_set(err, CHI_EINVAL, "module %s: parameter %s is missing", m->def->name,
                     type->fields[i].name);
  return rc;
}

/* ---- pools of this node */

static struct module *admin_find_module(struct admin_host *host, const char *name, chi_error *err)
{
  struct module *m = module_find(host->modules, name);
  if (m)
    return m;
  struct env *env = host->crew->env;
  const chi_module *def = NULL;
  if (env->module_load(env, name, &def, err) != CHI_OK)
    return NULL;
  if (!module_is_named(def, name)) {
    error_set(err, CHI_ENOMODULE, "module %s: what was loaded calls itself %s", name, def->name);
    return NULL;
  }
  return module_add(host->modules, def, err) == CHI_OK ? module_find(host->modules, name) : NULL;
}

void admin_publish(chi_ctx *ctx, struct directory *d)
{
  while (directory_publish(d) != CHI_OK)
    ctx_pause(ctx, 10000000);
}

/* Nobody may take the pool for ready, and destroy it, while there is no memory to tell the rest. */
static void admin_publish_ready(chi_ctx *ctx, struct directory *d, struct pool *p)
{
  p->state = POOL_READY;
  while (directory_publish(d) != CHI_OK) {
    p->state = POOL_CREATING;
    ctx_pause(ctx, 10000000);
    p->state = POOL_READY;
  }
}

static void admin_trace(struct admin_host *host, const struct pool *p)
{
  struct env *env = host->crew->env;
  if (env->trace)
    env->trace(env, ENV_TRACE_POOL, ((uint64_t)p->id.major << 32) | p->id.minor,
               (uint64_t)p->state, host->directory->version);
}

/* Entries that waited for the pool are looked at again, in order. */
static void admin_unpark(struct admin_host *host, struct pool *p)
{
  struct worker *network = &host->crew->worker[host->crew->count - 1];
  struct ring_node *n = p->parked;
  p->parked = NULL;
  p->parked_end = &p->parked;
  while (n) {
    struct ring_node *next = n->next;
    ring_push(&network->queue, n);
    n = next;
  }
  worker_unpark(network, p, p->state == POOL_READY ? CHI_OK : CHI_ENOENT);
  host->changed(host->arg);
}

/* Takes a pool out of everybody's sight, and waits until nobody has it any more. */
static void admin_retire(chi_ctx *ctx, struct admin_host *host, struct pool *p,
                         enum pool_state state)
{
  struct directory *d = host->directory;
  p->state = state;
  mark_set(&p->doomed, 1);
  directory_remove(d, p);
  p->next = host->leaving;
  host->leaving = p;
  admin_publish(ctx, d);
  admin_unpark(host, p);
  worker_cancel_changed(ctx->worker);
  chi_event_set(ctx, &p->created);
  for (uint64_t ns = 200000; !directory_settled(d) || pool_active(p) != 0 || p->moving > 0;
       ns = ns < 50000000 ? ns * 2 : ns)
    ctx_pause(ctx, ns);
  admin_trace(host, p);
}

/* It has been retired, and is no more. */
static void admin_forget(struct admin_host *host, struct pool *p)
{
  struct pool **at = &host->leaving;
  while (*at != p) {
    CHI_ASSERT(*at != NULL);
    at = &(*at)->next;
  }
  *at = p->next;
  pool_close(host->crew->alloc, p);
}

/* Whether a pool with this id or name is still being taken down. */
static bool admin_is_leaving(const struct admin_host *host, const char *name, chi_pool_id id)
{
  const struct pool *p = host->leaving;
  while (p && !pool_id_equal(p->id, id) && strcmp(p->name, name) != 0)
    p = p->next;
  return p != NULL;
}

/* Ends a container of a pool that has been retired. */
void admin_end_container(chi_ctx *ctx, struct admin_host *host, struct container *c)
{
  int rc = admin_run_in(ctx, c, &host->destroy);
  while (rc == CHI_ENOMEM || rc == CHI_EBUSY) {
    ctx_pause(ctx, 10000000);
    rc = admin_run_in(ctx, c, &host->destroy);
  }
  while (pool_container_active(c) != 0)
    ctx_pause(ctx, 200000);
}

/* Those of the first `count` containers that are here. */
static void admin_end_containers(chi_ctx *ctx, struct admin_host *host, struct pool *p,
                                 uint32_t count)
{
  for (uint32_t i = 0; i < count; i++)
    if (p->map->at[i].here)
      admin_end_container(ctx, host, p->map->at[i].here);
}

/* Takes the place in the table of all nodes that is its own. */
static int admin_enter(struct admin_host *host, struct pool *p)
{
  const struct accord_entry *e = p->shared ? accord_find(host->accord, p->id) : NULL;
  const char *module = p->module->def->name;
  if (!e)
    return CHI_OK;
  p->version[0] = accord_generation(e);
  p->version[1] = hash_bytes(module, strlen(module), 0);
  return admin_first_places(host, p);
}

/* Takes over p. */
static int admin_make_pool(chi_ctx *ctx, struct admin_host *host, struct pool *p, chi_error *err)
{
  int rc = admin_enter(host, p);
  if (rc != CHI_OK) {
    pool_close(host->crew->alloc, p);
    return error_set(err, rc, "no memory for a pool");
  }
  directory_add(host->directory, p);
  admin_publish(ctx, host->directory);
  admin_trace(host, p);
  uint32_t made = 0;
  for (; made < p->map->count && rc == CHI_OK; made++)
    if (p->map->at[made].here)
      rc = admin_run_in(ctx, p->map->at[made].here, &host->create);
  if (rc == CHI_OK) {
    admin_publish_ready(ctx, host->directory, p);
    admin_unpark(host, p);
    admin_trace(host, p);
    chi_event_set(ctx, &p->created);
    log_write(&host->crew->log, CHI_LOG_INFO, "pool %u.%u (%s) of module %s is ready",
              p->id.major, p->id.minor, p->name, p->module->def->name);
    return CHI_OK;
  }
  error_set(err, rc, "pool %s: create of module %s failed: %s; the log may say why", p->name,
            p->module->def->name, rc > 0 ? "a code of its own" : chi_status_text(rc));
  admin_retire(ctx, host, p, POOL_FAILED);
  admin_end_containers(ctx, host, p, made - 1);
  admin_forget(host, p);
  return rc;
}

static int admin_same_definition(const struct pool *there, const struct pool *asked,
                                 chi_error *err)
{
  const chi_type *type = there->module->def->params;
  if (there->module != asked->module)
    return error_set(err, CHI_ECONFLICT, "pool %s is there with module %s", there->name,
                     there->module->def->name);
  if (type && memcmp(there->params, asked->params, type->size) != 0)
    return error_set(err, CHI_ECONFLICT, "pool %s is there with other parameters", there->name);
  return CHI_OK;
}

/* True if this task was called, over however many others, by one that runs in the pool, and be it
 * over other nodes: to wait for the pool would be to wait for oneself. */
static bool admin_called_from(const chi_ctx *ctx, const struct admin_host *host,
                              const struct pool *p)
{
  const chi_ctx *c = ctx->parent;
  while (c && c->container->pool != p)
    c = c->parent;
  return c || fleet_called_from(host->fleet, ctx->root, p);
}

/* The pool of that name, or of that id, once it is no longer in creation; NULL: none. */
static struct pool *admin_existing(chi_ctx *ctx, struct admin_host *host, const char *name,
                                   chi_pool_id id, int *rc)
{
  for (;;) {
    struct pool *p = directory_find_name(host->directory, name);
    if (!p)
      p = directory_find(host->directory, id);
    if (p ? p->state == POOL_READY : !admin_is_leaving(host, name, id))
      return p;
    if (!p) {
      *rc = chi_sleep(ctx, 1000000);
      if (*rc != CHI_OK)
        return NULL;
      continue;
    }
    if (admin_called_from(ctx, host, p)) {
      *rc = CHI_EDEADLOCK;
      return NULL;
    }
    *rc = chi_event_wait(ctx, &p->created, 50000000);
    if (*rc != CHI_OK && *rc != CHI_ETIMEOUT)
      return NULL;
    *rc = chi_cancelled(ctx);
    if (*rc != CHI_OK)
      return NULL;
  }
}

static void admin_destroy_here(chi_ctx *ctx, struct admin_host *host, struct pool *p,
                               enum pool_state state)
{
  ctx_shield(ctx);
  log_write(&host->crew->log, CHI_LOG_INFO, "%s pool %u.%u (%s)",
            state == POOL_FAILED ? "closing" : "destroying", p->id.major, p->id.minor, p->name);
  admin_retire(ctx, host, p, state);
  admin_end_containers(ctx, host, p, p->map->count);
  admin_forget(host, p);
}

/* ---- pools of all nodes */

/* What a pool amounts to between nodes. The texts are the caller's. */
static struct accord_pool admin_describe_pool(const struct pool *p, const char *params)
{
  return (struct accord_pool){.id = p->id,
                              .name = p->name,
                              .module = p->module->def->name,
                              .params = params,
                              .containers = p->map->count};
}

static bool admin_is_live(const struct accord_entry *e)
{
  return e && (e->state == ACCORD_CREATING || e->state == ACCORD_READY);
}

static void admin_settle_fill(struct admin_settle *t, const struct accord_entry *e)
{
  memcpy(t->mod_name, e->pool.module, strlen(e->pool.module) + 1);
  memcpy(t->pool_name, e->pool.name, strlen(e->pool.name) + 1);
  memcpy(t->params, e->pool.params, strlen(e->pool.params) + 1);
  t->pool_id = e->pool.id;
  t->containers = e->pool.containers;
  t->state = (uint32_t)e->state;
  t->node = e->version.node;
  t->boot = e->version.boot;
  t->counter = e->version.counter;
}

/* Has every node that is there follow the entry, now; the others will find it themselves. Returns
 * the first code by container. */
static int admin_spread(chi_ctx *ctx, struct admin_host *host, chi_pool_id id,
                        enum admin_verdict *verdict, chi_error *err)
{
  const struct accord_entry *e = accord_find(host->accord, id);
  struct admin_settle *t = e ? chi_subtask_new(ctx, &admin_settle_type) : NULL;
  *verdict = ADMIN_TAKEN;
  if (!t)
    return CHI_OK; /* it spreads by itself, only later */
  admin_settle_fill(t, e);
  t->task.pool = CHI_ADMIN_POOL;
  t->task.query.mode = CHI_QUERY_BROADCAST;
  t->task.flags = TASK_PROMPT;
  chi_call(ctx, t);
  int rc = chi_subtask_done(ctx, t) ? t->code : CHI_OK;
  *verdict = chi_subtask_done(ctx, t) ? (enum admin_verdict)t->verdict : ADMIN_TAKEN;
  if (rc != CHI_OK)
    error_set(err, rc, "container %u of pool %s: %s", t->container, t->pool_name,
              t->error_message);
  chi_subtask_free(ctx, t);
  return rc;
}

/* A copy of an entry, which the table may lose while we wait; without its moves. */
struct admin_entry {
  struct accord_entry entry;
  int looks; /* at one that is to leave its name to this */
  char name[CHI_PATH_MAX], module[CHI_NAME_MAX], params[ACCORD_PARAMS];
};

static bool admin_entry_copy(const struct accord_entry *e, struct admin_entry *out)
{
  if (!e)
    return false;
  out->entry = *e;
  snprintf(out->name, sizeof out->name, "%s", e->pool.name);
  snprintf(out->module, sizeof out->module, "%s", e->pool.module);
  snprintf(out->params, sizeof out->params, "%s", e->pool.params);
  return true;
}

static int admin_open_pool(struct admin_host *host, const char *mod_name, const char *pool_name,
                           const char *params, chi_pool_id id, uint32_t containers,
                           struct pool **out, chi_error *err)
{
  chi_error why = {0};
  struct worker_crew *crew = host->crew;
  struct module *m = admin_find_module(host, mod_name, &why);
  if (!m)
    return error_set(err, why.code, "%s", why.text);
  int rc = pool_open(crew->alloc, crew->count, id, pool_name, m, containers, crew->node, out);
  if (rc != CHI_OK)
    return error_set(err, rc, "no memory for pool %s", pool_name);
  (*out)->shared = containers > 1;
  rc = admin_parse_params(m, params, (*out)->params, err);
  if (rc != CHI_OK)
    pool_close(crew->alloc, *out);
  return rc;
}

/* CHI_OK: the pool that is here is the one of the entry, and not one before it; CHI_ECONFLICT: it
 * isn't; CHI_ENOMEM: who knows. */
static int admin_compare(struct admin_host *host, const struct pool *p,
                         const struct admin_entry *e)
{
  struct pool *asked = NULL;
  if (strcmp(p->name, e->name) != 0 || p->version[0] != accord_generation(&e->entry))
    return CHI_ECONFLICT;
  int rc = admin_open_pool(host, e->module, e->name, e->params, p->id, e->entry.pool.containers,
                           &asked, NULL);
  if (rc != CHI_OK)
    return rc == CHI_ENOMEM ? rc : CHI_ECONFLICT;
  rc = admin_same_definition(p, asked, NULL);
  pool_close(host->crew->alloc, asked);
  return rc;
}

static int admin_build(chi_ctx *ctx, struct admin_host *host, const struct admin_entry *e,
                       chi_error *err)
{
  struct pool *p = NULL;
  const struct pool *other = directory_find_name(host->directory, e->name);
  if (mark_get(&host->crew->draining))
    return error_set(err, CHI_ESHUTDOWN, "the node is stopping");
  if (other)
    return error_set(err, CHI_ECONFLICT, "pool %u.%u of this node has that name",
                     other->id.major, other->id.minor);
  int rc = admin_open_pool(host, e->module, e->name, e->params, e->entry.pool.id,
                           e->entry.pool.containers, &p, err);
  return rc == CHI_OK ? admin_make_pool(ctx, host, p, err) : rc;
}

/* Whether the name of an entry is still that of a pool here which, by the table, is no more. */
static bool admin_is_to_leave(const struct admin_host *host, const struct admin_entry *e)
{
  const struct pool *other = directory_find_name(host->directory, e->name);
  return other && other->shared && !pool_id_equal(other->id, e->entry.pool.id) &&
         !admin_is_live(accord_find(host->accord, other->id));
}

/* One step towards what the table says of a pool; true: nothing is left to do, and *rc tells. */
static bool admin_follow_step(chi_ctx *ctx, struct admin_host *host, chi_pool_id id,
                              struct admin_entry *e, int *rc, chi_error *err)
{
  struct pool *p = directory_find(host->directory, id);
  bool known = admin_entry_copy(accord_find(host->accord, id), e);
  if (known && e->entry.pool.containers != host->crew->nodes) {
    *rc = CHI_ECORRUPT;
    return true;
  }
  if (p && p->state == POOL_CREATING) {
    *rc = chi_event_wait(ctx, &p->created, 50000000);
    return *rc != CHI_OK && *rc != CHI_ETIMEOUT;
  }
  if (known && (admin_is_leaving(host, e->name, id) ||
                (admin_is_to_leave(host, e) && e->looks++ < ADMIN_LOOKS))) {
    *rc = chi_sleep(ctx, 1000000);
    return *rc != CHI_OK;
  }
  *rc = CHI_OK;
  if (p && !p->shared)
    *rc = known && admin_is_live(&e->entry) ? CHI_ECONFLICT : CHI_OK;
  else if (p && known && !admin_is_live(&e->entry))
    admin_destroy_here(ctx, host, p,
                       e->entry.state == ACCORD_DESTROYED ? POOL_DESTROYED : POOL_FAILED);
  else if (p && known) {
    *rc = admin_compare(host, p, e);
    if (*rc == CHI_OK)
      admin_apply_moves(ctx, host, p);
    else if (*rc == CHI_ECONFLICT)
      admin_destroy_here(ctx, host, p, POOL_FAILED);
    return *rc != CHI_ECONFLICT;
  } else if (known && admin_is_live(&e->entry)) {
    *rc = admin_build(ctx, host, e, err);
    return *rc != CHI_OK; /* its containers may have moved already */
  }
  return true;
}

/* Makes what is here of a pool what the table says. */
static int admin_follow(chi_ctx *ctx, struct admin_host *host, chi_pool_id id, chi_error *err)
{
  struct admin_entry *e = chi_alloc(ctx, sizeof *e);
  if (!e) {
    host->follow_at = chi_now(ctx) + ADMIN_AGAIN_NS;
    return error_set(err, CHI_ENOMEM, "no memory");
  }
  int rc = CHI_OK;
  e->looks = 0;
  while (!admin_follow_step(ctx, host, id, e, &rc, err) && chi_cancelled(ctx) == CHI_OK)
    ;
  if (rc != CHI_OK)
    log_write(&host->crew->log, CHI_LOG_WARNING, "pool %u.%u (%s): no container here: %s",
              id.major, id.minor, e->name, err->code ? err->text : chi_status_text(rc));
  if (rc == CHI_ENOMEM)
    host->follow_at = chi_now(ctx) + ADMIN_AGAIN_NS;
  chi_free(ctx, e, sizeof *e);
  return rc;
}

/* What the table here knows better than an entry that wants to be followed. */
static enum admin_verdict admin_judge(const struct accord_entry *e, const struct admin_settle *t)
{
  if (!e || t->state > ACCORD_READY)
    return ADMIN_TAKEN;
  uint64_t generation = t->counter / ACCORD_STATES;
  bool ended = e->state == ACCORD_DESTROYED || e->state == ACCORD_FAILED;
  if (accord_generation(e) > generation || (accord_generation(e) == generation && ended))
    return ADMIN_OUTDATED;
  bool same = strcmp(e->pool.name, t->pool_name) == 0 &&
              strcmp(e->pool.module, t->mod_name) == 0 && strcmp(e->pool.params, t->params) == 0;
  return e->state == ACCORD_LOST || !same ? ADMIN_BEATEN : ADMIN_TAKEN;
}

int admin_settle_here(chi_ctx *ctx, struct admin_host *host, struct admin_settle *t)
{
  if (!ctx->key_seq || !host->accord) /* nobody but another node, or this one for all */
    return CHI_EACCES;
  const struct accord_entry entry = {
      .pool = {t->pool_id, t->pool_name, t->mod_name, t->params, t->containers},
      .version = {t->counter, t->boot, t->node},
      .state = (enum accord_state)t->state};
  chi_error err = {0};
  t->container = host->crew->node;
  bool sound = t->state <= ACCORD_LOST && t->containers == host->crew->nodes;
  t->verdict = ADMIN_TAKEN;
  t->code = sound ? accord_learn(host->accord, &entry) : CHI_ECORRUPT;
  if (t->code == CHI_OK)
    t->verdict = admin_judge(accord_find(host->accord, t->pool_id), t);
  const struct pool *p = directory_find(host->directory, t->pool_id);
  if (t->code == CHI_OK && t->state > ACCORD_READY && p && admin_called_from(ctx, host, p))
    t->code = CHI_EDEADLOCK; /* the pool is seen to when that one has ended */
  else if (t->code == CHI_OK && !mark_get(&host->crew->draining)) /* else: as if it were away */
    t->code = admin_follow(ctx, host, t->pool_id, &err);
  snprintf(t->error_message, sizeof t->error_message, "%s",
           err.code ? err.text : chi_status_text(t->code));
  return CHI_OK;
}

/* ---- following, as a task of the node's own */

#define ADMIN_FOLLOW(X, T) X(T, IN, pool, pool_id)
CHI_TASK(admin_follow_pool, 0, ADMIN_FOLLOW)

static int admin_follow_body(chi_ctx *ctx, void *self, void *task)
{
  struct admin_follow_pool *t = task;
  chi_error err = {0};
  (void)self;
  return admin_follow(ctx, ctx->call_arg, t->pool_id, &err);
}

static const chi_method admin_follow_method = {&admin_follow_pool_type, admin_follow_body, 0, 0};

static void admin_follow_done(chi_ctx *ctx)
{
  struct admin_host *host = ctx->call_arg;
  worker_record_free(&host->crew->worker[host->crew->count - 1], ctx);
}

static bool admin_must_follow(const struct admin_host *host, const struct accord_entry *e)
{
  const struct pool *p = directory_find(host->directory, e->pool.id);
  return admin_is_live(e) ? !p || strcmp(p->name, e->pool.name) != 0 || p->state != POOL_READY ||
                                e->move_count > 0
                          : p && p->shared;
}

static bool admin_follow_start(struct admin_host *host, chi_pool_id id)
{
  chi_ctx *ctx = admin_prepare(host, &host->follow);
  if (!ctx)
    return false;
  ((struct admin_follow_pool *)ctx->task)->pool_id = id;
  admin_start(host, ctx, false, admin_follow_done, host);
  return true;
}

void admin_on_entry(struct admin_host *host, const struct accord_entry *entry)
{
  if (mark_get(&host->crew->draining))
    return;
  if (!admin_follow_start(host, entry->pool.id))
    host->follow_at = 0;
}

uint64_t admin_tend(struct admin_host *host, uint64_t now)
{
  if (now < host->follow_at || !host->accord || mark_get(&host->crew->draining))
    return host->follow_at;
  host->follow_at = UINT64_MAX;
  const struct accord_entry *e = accord_next(host->accord, NULL);
  for (; e; e = accord_next(host->accord, &e->pool.id)) {
    if (admin_must_follow(host, e) && !admin_follow_start(host, e->pool.id)) {
      host->follow_at = now + 10000000;
      break;
    }
  }
  return host->follow_at;
}

/* ---- creating */

/* What is known of the name or id among the nodes, though it isn't here; the id may be another. */
static int admin_known(struct admin_host *host, const char *name, chi_pool_id *id, chi_error *err)
{
  const struct accord_entry *e = accord_find_name(host->accord, name);
  if (e)
    *id = e->pool.id;
  e = accord_find(host->accord, *id);
  if (admin_is_live(e) && strcmp(e->pool.name, name) != 0)
    return error_set(err, CHI_ECONFLICT, "pool id %u.%u belongs to pool %s", id->major, id->minor,
                     e->pool.name);
  return CHI_OK;
}

/* The entry is worth nothing: its pool goes, and the table here learns of what beats it. */
static int admin_give_way(chi_ctx *ctx, struct admin_host *host, const struct accord_pool *what,
                          struct accord_version version, enum admin_verdict verdict,
                          chi_error *err)
{
  const struct accord_entry *e = NULL;
  int rc = CHI_OK;
  for (int looks = 0; rc == CHI_OK && looks < ADMIN_LOOKS; looks++) {
    e = accord_find(host->accord, what->id);
    if (!e || e->state == ACCORD_LOST || e->version.boot != version.boot ||
        e->version.node != version.node || e->version.counter != version.counter)
      break;
    rc = chi_sleep(ctx, 1000000);
  }
  struct pool *p = directory_find(host->directory, what->id);
  if (p && p->state == POOL_READY && p->shared && verdict == ADMIN_OUTDATED &&
      p->version[0] == version.counter / ACCORD_STATES)
    admin_destroy_here(ctx, host, p, POOL_FAILED);
  if (rc != CHI_OK)
    return rc;
  return error_set(err, verdict == ADMIN_OUTDATED ? CHI_EVERSION : CHI_ECONFLICT,
                   "pool %s was created elsewhere, too, and otherwise", what->name);
}

/* Its own container is there: all others, and the table. */
static int admin_finish_shared(chi_ctx *ctx, struct admin_host *host,
                               const struct accord_pool *what, struct accord_version version,
                               int rc, chi_error *err)
{
  enum admin_verdict verdict = ADMIN_TAKEN;
  if (rc == CHI_OK)
    rc = admin_spread(ctx, host, what->id, &verdict, err);
  if (verdict != ADMIN_TAKEN)
    return admin_give_way(ctx, host, what, version, verdict, err);
  const struct accord_entry *e = accord_find(host->accord, what->id);
  if (rc == CHI_OK && e && e->state == ACCORD_LOST)
    return admin_give_way(ctx, host, what, version, ADMIN_BEATEN, err);
  if (!e || e->state != ACCORD_CREATING || e->version.counter != version.counter ||
      e->version.node != version.node || e->version.boot != version.boot)
    return rc; /* somebody else has decided since */
  enum accord_state state = rc == CHI_OK ? ACCORD_READY : ACCORD_FAILED;
  if (accord_put(host->accord, what, state) != CHI_OK || rc == CHI_OK)
    return rc;
  struct pool *p = directory_find(host->directory, what->id);
  if (p && p->state == POOL_READY)
    admin_destroy_here(ctx, host, p, POOL_FAILED);
  admin_spread(ctx, host, what->id, &verdict, NULL);
  return rc;
}

static int admin_make_shared(chi_ctx *ctx, struct admin_host *host, struct pool *p,
                             const char *params, chi_error *err)
{
  struct accord_pool what = admin_describe_pool(p, params);
  char name[CHI_PATH_MAX];
  snprintf(name, sizeof name, "%s", p->name);
  what.name = name; /* the pool may be gone before we are done */
  int rc = accord_put(host->accord, &what, ACCORD_CREATING);
  if (rc != CHI_OK) {
    pool_close(host->crew->alloc, p);
    return error_set(err, rc, "pool %s: %s", name, chi_status_text(rc));
  }
  struct accord_version version = accord_find(host->accord, what.id)->version;
  rc = admin_make_pool(ctx, host, p, err);
  return admin_finish_shared(ctx, host, &what, version, rc, err);
}

static int admin_try_create(chi_ctx *ctx, struct admin_host *host, const struct admin_wanted *w,
                            chi_pool_id *id, bool *created, chi_error *err)
{
  *created = false;
  bool shared = host->accord && strcmp(w->pool_query, "local") != 0;
  if (id->major == 0 && id->minor == 0)
    return error_set(err, CHI_EINVAL, "pool id 0.0 is null: give one such as 300.0");
  if (w->pool_name[0] == '\0' || w->mod_name[0] == '\0')
    return error_set(err, CHI_EINVAL, "a pool needs a name and a module");
  struct pool *p = NULL;
  int rc = admin_open_pool(host, w->mod_name, w->pool_name, w->params, *id,
                           shared ? host->crew->nodes : 1, &p, err);
  if (rc != CHI_OK)
    return rc;
  struct pool *there = admin_existing(ctx, host, w->pool_name, *id, &rc);
  if (there) {
    if (strcmp(there->name, w->pool_name) != 0)
      rc = error_set(err, CHI_ECONFLICT, "pool id %u.%u belongs to pool %s", id->major, id->minor,
                     there->name);
    else
      rc = admin_same_definition(there, p, err);
    *id = there->id;
  } else if (rc == CHI_OK && shared) {
    rc = admin_known(host, w->pool_name, id, err);
    p->id = *id;
  }
  if (rc == CHI_OK && !there && mark_get(&host->crew->draining))
    rc = error_set(err, CHI_ESHUTDOWN, "pool %s: the node is stopping", w->pool_name);
  if (there || rc != CHI_OK) {
    pool_close(host->crew->alloc, p);
    return rc;
  }
  *created = true;
  return shared ? admin_make_shared(ctx, host, p, w->params, err)
                : admin_make_pool(ctx, host, p, err);
}

/* A node that has forgotten, or not yet heard, what became of the id begins again above it. */
int admin_create_pool(chi_ctx *ctx, struct admin_host *host, const struct admin_wanted *w,
                      chi_pool_id *id, bool *created, chi_error *err)
{
  int rc = CHI_EVERSION;
  for (int attempt = 0; rc == CHI_EVERSION && attempt < ADMIN_ATTEMPTS; attempt++) {
    *err = (chi_error){0};
    rc = admin_try_create(ctx, host, w, id, created, err);
  }
  return rc;
}

/* ---- destroying */

static int admin_may_destroy(const chi_ctx *ctx, const struct admin_host *host,
                             const struct pool *p, chi_pool_id id, chi_error *err)
{
  if (pool_id_equal(id, CHI_ADMIN_POOL))
    return error_set(err, CHI_EINVAL, "the admin pool stays");
  if (!p || p->state != POOL_READY)
    return error_set(err, p ? CHI_EBUSY : CHI_ENOENT, "no pool %u.%u is ready here", id.major,
                     id.minor);
  if (admin_called_from(ctx, host, p))
    return error_set(err, CHI_EDEADLOCK, "pool %u.%u would wait for its own task", id.major,
                     id.minor);
  return CHI_OK;
}

int admin_destroy_pool(chi_ctx *ctx, struct admin_host *host, chi_pool_id id, chi_error *err)
{
  struct pool *p = directory_find(host->directory, id);
  int rc = admin_may_destroy(ctx, host, p, id, err);
  if (rc != CHI_OK)
    return rc;
  bool shared = p->shared;
  const struct accord_entry *e = shared ? accord_find(host->accord, id) : NULL;
  if (admin_is_live(e)) {
    rc = accord_put(host->accord, &e->pool, ACCORD_DESTROYED);
    if (rc != CHI_OK)
      return error_set(err, rc, "pool %u.%u: %s", id.major, id.minor, chi_status_text(rc));
  }
  admin_destroy_here(ctx, host, p, POOL_DESTROYED);
  enum admin_verdict verdict;
  return shared ? admin_spread(ctx, host, id, &verdict, err) : CHI_OK;
}

void admin_destroy_all(chi_ctx *ctx, struct admin_host *host)
{
  for (;;) {
    struct pool *last = NULL;
    for (struct pool *p = host->directory->first; p; p = p->next)
      if (p != host->pool && p->state == POOL_READY)
        last = p;
    if (!last)
      break;
    admin_destroy_here(ctx, host, last, POOL_DESTROYED);
  }
  while (host->asked) /* has ended, and is about to say so */
    ctx_pause(ctx, 200000);
}

/* ---- other nodes lost and found */

#define ADMIN_NODE(X, T) X(T, IN, u32, node)
CHI_TASK(admin_node_failure, 2, ADMIN_NODE)
CHI_TASK(admin_node_recover, 3, ADMIN_NODE)

static int admin_failure_body(chi_ctx *ctx, void *self, void *task)
{
  ctx->container->pool->module->def->node_failure(ctx, self,
                                                  ((struct admin_node_failure *)task)->node);
  return CHI_OK;
}

static int admin_recover_body(chi_ctx *ctx, void *self, void *task)
{
  ctx->container->pool->module->def->recover(ctx, self, ((struct admin_node_recover *)task)->node);
  return CHI_OK;
}

static const chi_method admin_failure_method = {&admin_node_failure_type, admin_failure_body, 0, 0};
static const chi_method admin_recover_method = {&admin_node_recover_type, admin_recover_body, 0, 0};

static void admin_tell_container(struct admin_host *host, struct container *c, uint32_t node,
                                 bool lost)
{
  chi_ctx *ctx = admin_prepare(host, lost ? &host->failure : &host->recover);
  if (!ctx) {
    log_write(&host->crew->log, CHI_LOG_WARNING, "pool %s isn't told of node %u: no memory",
              c->pool->name, node);
    return;
  }
  ctx->container = c;
  ((struct admin_node_failure *)ctx->task)->node = node;
  admin_start(host, ctx, false, admin_follow_done, host);
}

void admin_on_member(struct admin_host *host, uint32_t node, bool lost)
{
  if (mark_get(&host->crew->draining))
    return;
  for (struct pool *p = host->directory->first; p; p = p->next) {
    const chi_module *def = p->module->def;
    if (p->state != POOL_READY || !(lost ? def->node_failure : def->recover))
      continue;
    for (uint32_t i = 0; i < p->map->count; i++)
      if (p->map->at[i].here)
        admin_tell_container(host, p->map->at[i].here, node, lost);
  }
}

void admin_pool_methods(struct admin_host *host)
{
  admin_method(&host->failure, &admin_failure_method);
  admin_method(&host->recover, &admin_recover_method);
  admin_move_methods(host);

  admin_method(&host->create, &admin_create_method);
  admin_method(&host->destroy, &admin_destroy_method);
  admin_method(&host->follow, &admin_follow_method);
}

#undef ADMIN_FOLLOW
#undef ADMIN_NODE
#undef ADMIN_PARAMS_MAX
#undef ADMIN_AGAIN_NS
#undef ADMIN_ATTEMPTS
#undef ADMIN_LOOKS
