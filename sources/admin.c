/* admin.c - the admin module: pools, stop, flush, monitor. Runs on the network worker. */
#include "admin.h"
#include "ctx.h"
#include "error.h"
#include "text.h"

#include <stdio.h>

struct admin {
  struct admin_host *host;
};

#define ADMIN_PARAMS_MAX 64u /* fields of a module's parameters */
#define ADMIN_WAITING 256u   /* tasks that may wait at a time: others need stacks, too */

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
  *method = (struct method){.def = def, .index = METHOD_UNCOUNTED, .weight = 1024};
  int rc = task_plan_init(&method->plan, def->type, NULL);
  CHI_ASSERT(rc == CHI_OK);
}

/* Runs one of them to its end, whatever happens to the caller meanwhile. */
static int admin_run_in(chi_ctx *ctx, struct pool *p, struct method *method)
{
  void *task = chi_subtask_new(ctx, method->def->type);
  if (!task)
    return CHI_ENOMEM;
  ctx_aim(task, &p->container, method, true);
  int rc = chi_call(ctx, task);
  if (!chi_subtask_done(ctx, task)) { /* the caller was cancelled: the body is told, and decides */
    chi_subtask_cancel(ctx, task);
    for (uint64_t ns = 1000000; !chi_subtask_done(ctx, task); ns = ns < 50000000 ? ns * 2 : ns)
      ctx_pause(ctx, ns);
    rc = ((const chi_task *)task)->rc;
  }
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

/* ---- pools */

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

static void admin_publish(chi_ctx *ctx, struct directory *d)
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
}

/* Takes a pool out of everybody's sight, and waits until nobody has it any more. */
static void admin_retire(chi_ctx *ctx, struct admin_host *host, struct pool *p,
                         enum pool_state state)
{
  struct directory *d = host->directory;
  p->state = state;
  mark_set(&p->doomed, 1);
  directory_remove(d, p);
  admin_publish(ctx, d);
  admin_unpark(host, p);
  worker_cancel_changed(ctx->worker);
  chi_event_set(ctx, &p->created);
  for (uint64_t ns = 200000; !directory_settled(d) || pool_active(p) != 0;
       ns = ns < 50000000 ? ns * 2 : ns)
    ctx_pause(ctx, ns);
  admin_trace(host, p);
}

static int admin_make_pool(chi_ctx *ctx, struct admin_host *host, struct pool *p, chi_error *err)
{
  directory_add(host->directory, p);
  admin_publish(ctx, host->directory);
  admin_trace(host, p);
  int rc = admin_run_in(ctx, p, &host->create);
  if (rc == CHI_OK) {
    admin_publish_ready(ctx, host->directory, p);
    admin_unpark(host, p);
    admin_trace(host, p);
    chi_event_set(ctx, &p->created);
    log_write(&host->crew->log, CHI_LOG_INFO, "pool %u.%u (%s) of module %s is ready",
              p->id.major, p->id.minor, p->name, p->module->def->name);
    return CHI_OK;
  }
  error_set(err, rc, "pool %s: create of module %s failed: %s", p->name, p->module->def->name,
            rc > 0 ? "a code of its own" : chi_status_text(rc));
  admin_retire(ctx, host, p, POOL_FAILED);
  pool_close(host->crew->alloc, p);
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

/* True if this task was called, over however many others, by one that runs in the pool: to wait for
 * the pool would be to wait for oneself. */
static bool admin_called_from(const chi_ctx *ctx, const struct pool *p)
{
  const chi_ctx *c = ctx->parent;
  while (c && c->container->pool != p)
    c = c->parent;
  return c != NULL;
}

/* The pool of that name, or of that id, once it is no longer in creation; NULL: none. */
static struct pool *admin_existing(chi_ctx *ctx, struct admin_host *host, const char *name,
                                   chi_pool_id id, int *rc)
{
  for (;;) {
    struct pool *p = directory_find_name(host->directory, name);
    if (!p)
      p = directory_find(host->directory, id);
    if (!p || p->state == POOL_READY)
      return p;
    if (admin_called_from(ctx, p)) {
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

int admin_create_pool(chi_ctx *ctx, struct admin_host *host, const char *mod_name,
                      const char *pool_name, const char *params, chi_pool_id *id, bool *created,
                      chi_error *err)
{
  const struct alloc *alloc = host->crew->alloc;
  *created = false;
  if (id->major == 0 && id->minor == 0)
    return error_set(err, CHI_EINVAL, "pool id 0.0 is null: give one such as 300.0");
  if (pool_name[0] == '\0' || mod_name[0] == '\0')
    return error_set(err, CHI_EINVAL, "a pool needs a name and a module");
  chi_error why = {0};
  struct module *m = admin_find_module(host, mod_name, &why);
  if (!m)
    return error_set(err, why.code, "%s", why.text);
  struct pool *p = NULL;
  int rc = pool_open(alloc, host->crew->count, *id, pool_name, m, host->crew->nodes,
                     host->crew->node, &p);
  if (rc != CHI_OK)
    return error_set(err, rc, "no memory for pool %s", pool_name);
  rc = admin_parse_params(m, params, p->params, err);
  struct pool *there = rc == CHI_OK ? admin_existing(ctx, host, pool_name, *id, &rc) : NULL;
  if (there) {
    if (strcmp(there->name, pool_name) != 0)
      rc = error_set(err, CHI_ECONFLICT, "pool id %u.%u belongs to pool %s", id->major, id->minor,
                     there->name);
    else
      rc = admin_same_definition(there, p, err);
    *id = there->id;
  }
  if (there || rc != CHI_OK) {
    pool_close(alloc, p);
    return rc;
  }
  if (mark_get(&host->crew->draining)) {
    pool_close(alloc, p);
    return error_set(err, CHI_ESHUTDOWN, "pool %s: the node is stopping", pool_name);
  }
  *created = true;
  return admin_make_pool(ctx, host, p, err);
}

/* Before a task of the admin pool waits, perhaps for long. CHI_EBUSY: too many do. */
static int admin_begin_to_wait(struct admin_host *host)
{
  if (host->waiting == ADMIN_WAITING)
    return CHI_EBUSY;
  host->waiting++;
  return CHI_OK;
}

static int chi_admin_get_or_create_pool_run(chi_ctx *ctx, struct admin *self,
                                            struct chi_admin_get_or_create_pool *t)
{
  chi_error err = {0};
  bool created = false;
  int rc = admin_begin_to_wait(self->host);
  if (rc != CHI_OK)
    return rc;
  rc = admin_create_pool(ctx, self->host, t->mod_name, t->pool_name, t->params, &t->pool_id,
                         &created, &err);
  self->host->waiting--;
  t->created = created;
  if (rc != CHI_OK)
    memcpy(t->error_message, err.text, sizeof t->error_message);
  return rc;
}

static void admin_destroy_pool(chi_ctx *ctx, struct admin_host *host, struct pool *p)
{
  ctx_shield(ctx);
  log_write(&host->crew->log, CHI_LOG_INFO, "destroying pool %u.%u (%s)", p->id.major, p->id.minor,
            p->name);
  admin_retire(ctx, host, p, POOL_DESTROYED);
  int rc = admin_run_in(ctx, p, &host->destroy);
  while (rc == CHI_ENOMEM || rc == CHI_EBUSY) {
    ctx_pause(ctx, 10000000);
    rc = admin_run_in(ctx, p, &host->destroy);
  }
  while (pool_active(p) != 0)
    ctx_pause(ctx, 200000);
  pool_close(host->crew->alloc, p);
}

static int chi_admin_destroy_pool_run(chi_ctx *ctx, struct admin *self,
                                      struct chi_admin_destroy_pool *t)
{
  struct pool *p = directory_find(self->host->directory, t->pool_id);
  if (pool_id_equal(t->pool_id, CHI_ADMIN_POOL)) {
    snprintf(t->error_message, sizeof t->error_message, "the admin pool stays");
    return CHI_EINVAL;
  }
  if (!p || p->state != POOL_READY) {
    snprintf(t->error_message, sizeof t->error_message, "no pool %u.%u is ready here",
             t->pool_id.major, t->pool_id.minor);
    return p ? CHI_EBUSY : CHI_ENOENT;
  }
  if (admin_called_from(ctx, p)) {
    snprintf(t->error_message, sizeof t->error_message, "pool %u.%u would wait for its own task",
             t->pool_id.major, t->pool_id.minor);
    return CHI_EDEADLOCK;
  }
  int rc = admin_begin_to_wait(self->host);
  if (rc != CHI_OK)
    return rc;
  admin_destroy_pool(ctx, self->host, p);
  self->host->waiting--;
  return CHI_OK;
}

void admin_destroy_all(chi_ctx *ctx, struct admin_host *host)
{
  for (;;) {
    struct pool *last = NULL;
    for (struct pool *p = host->directory->first; p; p = p->next)
      if (p != host->pool && p->state == POOL_READY)
        last = p;
    if (!last)
      return;
    admin_destroy_pool(ctx, host, last);
  }
}

static int chi_admin_find_pool_run(chi_ctx *ctx, struct admin *self, struct chi_admin_find_pool *t)
{
  struct admin_host *host = self->host;
  const struct pool *p = directory_find_name(host->directory, t->pool_name);
  if (!p && !ctx->parent) { /* a create that asks would wait for itself */
    int rc = admin_begin_to_wait(host);
    if (rc != CHI_OK)
      return rc;
    rc = chi_event_wait(ctx, &host->composed, 0); /* it may be one of the configuration */
    host->waiting--;
    if (rc != CHI_OK)
      return rc;
    p = directory_find_name(host->directory, t->pool_name);
  }
  if (!p)
    return CHI_ENOENT;
  t->pool_id = p->id;
  memcpy(t->mod_name, p->module->def->name, strlen(p->module->def->name) + 1);
  return CHI_OK;
}

/* ---- the node */

static int chi_admin_stop_runtime_run(chi_ctx *ctx, struct admin *self,
                                      struct chi_admin_stop_runtime *t)
{
  (void)ctx;
  self->host->stop(self->host->arg, (uint64_t)t->grace_period_ms * 1000000ull);
  return CHI_OK;
}

/* Tasks accepted and not ended, but for those that wait for this, and periodic ones at rest. */
static uint64_t admin_work_left(const struct admin_host *host, uint64_t *done)
{
  uint64_t accepted = 0, ended = 0, resting = 0;
  for (uint32_t i = 0; i < host->crew->count; i++) {
    const struct worker *w = &host->crew->worker[i];
    ended += mark_get(&w->ended);
    resting += mark_get(&w->resting);
  }
  for (uint32_t i = 0; i < host->crew->count; i++) /* after what ended: what moves counts as left */
    accepted += mark_get(&host->crew->worker[i].accepted);
  *done = ended;
  return accepted - ended - resting - host->flushing;
}

static int chi_admin_flush_run(chi_ctx *ctx, struct admin *self, struct chi_admin_flush *t)
{
  struct admin_host *host = self->host;
  if (ctx->parent) /* whoever waits for this is work itself */
    return CHI_EDEADLOCK;
  int rc = admin_begin_to_wait(host);
  if (rc != CHI_OK)
    return rc;
  host->flushing++;
  for (uint64_t ns = 100000; rc == CHI_OK && admin_work_left(host, &t->total_work_done) > 0;
       ns = ns < 10000000 ? ns * 2 : ns)
    rc = chi_sleep(ctx, ns);
  host->flushing--;
  host->waiting--;
  return rc;
}

/* Text into a bulk field, counted even where it doesn't fit. */
struct admin_text {
  char *at;
  uint64_t room, size;
};

static void admin_put(void *arg, const char *text)
{
  struct admin_text *t = arg;
  size_t length = strlen(text);
  if (t->size + length <= t->room)
    memcpy(t->at + t->size, text, length);
  t->size += length;
}

static int admin_text_end(const struct admin_text *t, chi_bulk *bulk, uint64_t *size)
{
  *size = t->size;
  if (t->size > t->room)
    return CHI_ETOOBIG;
  bulk->size = t->size;
  return CHI_OK;
}

static int chi_admin_monitor_run(chi_ctx *ctx, struct admin *self, struct chi_admin_monitor *t)
{
  struct admin_text text = {.at = t->json.data, .room = t->json.size};
  admin_monitor_print(self->host, chi_now(ctx), admin_put, &text);
  return admin_text_end(&text, &t->json, &t->size);
}

static int chi_admin_describe_run(chi_ctx *ctx, struct admin *self, struct chi_admin_describe *t)
{
  (void)ctx;
  struct admin_text text = {.at = t->text.data, .room = t->text.size};
  const struct pool *p = directory_find(self->host->directory, t->pool_id);
  if (!p)
    return CHI_ENOENT;
  int rc = text_describe(p->module->def, admin_put, &text);
  return rc != CHI_OK ? rc : admin_text_end(&text, &t->text, &t->size);
}

#define ADMIN_METHODS(M, S)                                                                        \
  M(S, chi_admin_get_or_create_pool)                                                               \
  M(S, chi_admin_destroy_pool)                                                                     \
  M(S, chi_admin_stop_runtime)                                                                     \
  M(S, chi_admin_flush)                                                                            \
  M(S, chi_admin_monitor)                                                                          \
  M(S, chi_admin_find_pool)                                                                        \
  M(S, chi_admin_describe)
CHI_METHODS(admin, ADMIN_METHODS)

static const chi_module admin_definition = {
    .version = CHI_MODULE_VERSION,
    .name = "admin",
    .state_size = sizeof(struct admin),
    .methods = admin_methods,
};

const chi_module *admin_module(void)
{
  return &admin_definition;
}

int admin_open(struct admin_host *host, chi_error *err)
{
  struct module *m = module_find(host->modules, "admin");
  CHI_ASSERT(m != NULL);
  int rc = pool_open(host->crew->alloc, host->crew->count, CHI_ADMIN_POOL, "admin", m,
                     host->crew->nodes, host->crew->node, &host->pool);
  if (rc != CHI_OK)
    return error_set(err, rc, "no memory for the admin pool");
  ((struct admin *)host->pool->container.state)->host = host;
  host->pool->state = POOL_READY;
  directory_add(host->directory, host->pool);
  admin_method(&host->create, &admin_create_method);
  admin_method(&host->destroy, &admin_destroy_method);
  return directory_publish(host->directory);
}

int admin_start(struct admin_host *host, struct method *method, bool shielded,
                void (*done)(chi_ctx *ctx), void *arg)
{
  struct worker *network = &host->crew->worker[host->crew->count - 1];
  uint32_t size = method->def->type->size;
  chi_ctx *ctx = worker_record(network, size);
  if (!ctx)
    return CHI_ENOMEM;
  memset(ctx->task, 0, size);
  ctx->origin = TASK_FROM_NODE;
  ctx->container = &host->pool->container;
  ctx->method = method;
  ctx->call_done = done;
  ctx->call_arg = arg;
  ctx->id = ctx->root = worker_new_id(network);
  ctx->shielded = shielded;
  ctx->accepted = network->now;
  tally_add(&network->accepted, 1);
  tally_add(&ctx->container->tally[network->index].active, 1);
  worker_submit(network, ctx);
  return CHI_OK;
}

#undef ADMIN_METHODS
#undef ADMIN_PARAMS_MAX
#undef ADMIN_WAITING
