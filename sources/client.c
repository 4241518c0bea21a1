/* client.c - a program's side of shared memory: attach, lease memory, open and close queues. */
#include "client.h"
#include "compose.h"
#include "error.h"

#include <stdio.h>

#define CLIENT_SETTLE_NS 1000000000ull /* how long closing a queue waits for its tasks */
#define CLIENT_RETRY_NS 20000000ull

int client_fail(chi_queue *q, int code, const char *text)
{
  return error_set(&q->error, code, "%s", text ? text : chi_status_text(code));
}

/* ---- connections */

static void client_link_release(struct client_link *l)
{
  struct env *env = l->env;
  if (count_add(&l->users, (uint32_t)-1) != 1)
    return;
  for (uint32_t i = 0; l->chunk && i < l->chunks; i++)
    if (l->chunk[i].base)
      env->segment_close(env, &l->chunk[i]);
  for (uint32_t i = 0; l->bell && i < l->workers; i++)
    if (l->bell[i] != ENV_NO_BELL)
      env->bell_close(env, l->bell[i]);
  if (l->page)
    env->segment_close(env, &l->page_segment);
  env->link_shut(env, l->link);
  alloc_put(&env->alloc, l->chunk, l->chunks * sizeof *l->chunk);
  alloc_put(&env->alloc, l->returned, l->chunks * sizeof *l->returned);
  alloc_put(&env->alloc, l->bell, l->workers * sizeof *l->bell);
  alloc_put(&env->alloc, l, sizeof *l);
}

static int client_get_bells(struct client_link *l)
{
  uint32_t have = 0;
  while (have < l->workers) {
    struct env_share share[ATTACH_BELLS_MAX];
    struct attach_reply r;
    uint32_t count = ATTACH_BELLS_MAX;
    int rc = client_call(l, &(struct attach_request){.op = ATTACH_BELLS, .id = have}, &r, share,
                         &count);
    if (rc != CHI_OK || count == 0 || have + count > l->workers)
      return rc != CHI_OK ? rc : CHI_EVERSION;
    for (uint32_t i = 0; i < count; i++)
      l->bell[have++] = share[i].bell;
  }
  return CHI_OK;
}

static int client_refused(int rc, const char *why, chi_error *err)
{
  if (rc == CHI_ETIMEOUT)
    return error_set(err, rc,
                     "the daemon does not answer: it is stopped, or has had no time for %u s",
                     (uint32_t)(ENV_CALL_NS / 1000000000u));
  return error_set(err, rc, "the daemon refused: %s", *why ? why : chi_status_text(rc));
}

static int client_hello(struct client_link *l, chi_error *err)
{
  struct env *env = l->env;
  struct env_share share[1];
  struct attach_reply r;
  uint32_t count = 1;
  int rc = client_call(l, &(struct attach_request){.op = ATTACH_HELLO}, &r, share, &count);
  if (rc != CHI_OK || count != 1)
    return client_refused(rc != CHI_OK ? rc : CHI_EVERSION, r.text, err);
  l->page_segment = share[0].segment;
  l->page = share[0].segment.base;
  l->boot = r.boot;
  l->spin_ns = r.spin_ns;
  l->nodes = r.nodes;
  l->bell = alloc_get(&env->alloc, r.workers * sizeof *l->bell);
  if (l->bell)
    l->workers = r.workers;
  for (uint32_t i = 0; i < l->workers; i++)
    l->bell[i] = ENV_NO_BELL;
  l->chunk = alloc_zero(&env->alloc, r.chunks * sizeof *l->chunk);
  l->returned = alloc_zero(&env->alloc, r.chunks * sizeof *l->returned);
  l->chunks = r.chunks;
  if (!l->bell || !l->chunk || !l->returned)
    return error_set(err, CHI_ENOMEM, "no memory to attach");
  rc = client_get_bells(l);
  return rc == CHI_OK ? rc : client_refused(rc, "", err);
}

static int client_connect(struct env *env, const char *instance, struct client_link **out,
                          chi_error *err)
{
  struct client_link *l = alloc_zero(&env->alloc, sizeof *l);
  if (!l)
    return error_set(err, CHI_ENOMEM, "no memory to attach");
  l->env = env;
  l->users = 1;
  int rc = env->link_open(env, instance, &l->link, err);
  if (rc != CHI_OK) {
    alloc_put(&env->alloc, l, sizeof *l);
    return rc;
  }
  rc = client_hello(l, err);
  if (rc != CHI_OK) {
    client_link_release(l);
    return rc;
  }
  *out = l;
  return CHI_OK;
}

int client_open(struct env *env, void (*dispose)(struct env *env), const char *instance,
                chi_client **out, chi_error *err)
{
  chi_client *c = alloc_zero(&env->alloc, sizeof *c);
  if (!c)
    return error_set(err, CHI_ENOMEM, "no memory to attach");
  c->env = env;
  c->dispose = dispose;
  if (instance)
    snprintf(c->instance, sizeof c->instance, "%s", instance);
  int rc = client_connect(env, instance, &c->current, err);
  if (rc != CHI_OK) {
    alloc_put(&env->alloc, c, sizeof *c);
    return rc;
  }
  *out = c;
  return CHI_OK;
}

static struct client_link *client_current(chi_client *c)
{
  latch_lock(&c->latch);
  struct client_link *l = c->current;
  count_add(&l->users, 1);
  latch_unlock(&c->latch);
  return l;
}

int chi_client_reconnect(chi_client *c, uint64_t timeout_ns, chi_error *err)
{
  struct env *env = c->env;
  if (!mark_get(env->alive))
    return error_set(err, CHI_EFORKED, "%s", chi_status_text(CHI_EFORKED));
  uint64_t now = env->clock(env);
  uint64_t until = timeout_ns > UINT64_MAX - now ? UINT64_MAX : now + timeout_ns;
  struct client_link *fresh = NULL;
  const char *instance = c->instance[0] ? c->instance : NULL;
  int rc = client_connect(env, instance, &fresh, err);
  while (rc != CHI_OK && (now = env->clock(env)) < until) {
    env->pause(env, until - now > CLIENT_RETRY_NS ? now + CLIENT_RETRY_NS : until);
    rc = client_connect(env, instance, &fresh, err);
  }
  if (rc != CHI_OK)
    return rc;
  latch_lock(&c->latch);
  struct client_link *old = c->current;
  c->current = fresh;
  latch_unlock(&c->latch);
  mark_set(&old->dead, 1);
  client_link_release(old);
  return CHI_OK;
}

/* ---- memory */

static int client_lease(void *arg, enum shm_kind kind, uint64_t size, void **base, uint32_t *chunk)
{
  struct client_memory *m = arg;
  chi_queue *q = m->queue;
  struct client_link *l = m->link;
  struct env_share share[1];
  struct attach_reply r;
  uint32_t count = 1;
  int rc = client_call(l, &(struct attach_request){.op = ATTACH_LEASE, .kind = kind, .size = size},
                       &r, share, &count);
  if (rc != CHI_OK)
    return client_fail(q, rc, r.text[0] ? r.text : NULL);
  if (r.id >= l->chunks || (count == 0 && !l->chunk[r.id].base))
    return client_fail(q, CHI_EVERSION, NULL);
  if (count == 1)
    l->chunk[r.id] = share[0].segment;
  *base = l->chunk[r.id].base;
  *chunk = r.id;
  return CHI_OK;
}

static void client_give_back(void *arg, uint32_t chunk)
{
  struct client_memory *m = arg;
  client_notice(m->link, ATTACH_RETURN, chunk);
}

/* Fresh memory on the current connection, in front of what the queue had. */
static int client_memory_open(chi_queue *q)
{
  struct env *env = q->client->env;
  struct client_memory *m = alloc_zero(&env->alloc, sizeof *m);
  if (!m)
    return CHI_ENOMEM;
  m->queue = q;
  m->link = client_current(q->client);
  struct shm_source source = {client_lease, client_give_back, m};
  shm_arena_init(&m->task, &env->alloc, SHM_MAIN, &source);
  shm_arena_init(&m->bulk, &env->alloc, SHM_CLIENT_DATA, &source);
  m->next = q->memory;
  q->memory = m;
  return CHI_OK;
}

static void client_memory_close(chi_queue *q, struct client_memory *m)
{
  struct env *env = q->client->env;
  shm_arena_fini(&m->task);
  shm_arena_fini(&m->bulk);
  client_link_release(m->link);
  alloc_put(&env->alloc, m, sizeof *m);
}

/* What was allocated on earlier connections goes when the last of it has been freed. */
static void client_memory_trim(chi_queue *q)
{
  struct client_memory **at = &q->memory->next;
  while (*at) {
    struct client_memory *m = *at;
    if (m->task.used == 0 && m->bulk.used == 0) {
      *at = m->next;
      client_memory_close(q, m);
    } else {
      at = &m->next;
    }
  }
}

struct client_memory *client_memory_of(chi_queue *q, const void *p, uint64_t *ref, uint64_t *room,
                                       bool *bulk)
{
  for (struct client_memory *m = q->memory; m; m = m->next) {
    *bulk = false;
    if (shm_find(&m->task, p, ref, room) == CHI_OK)
      return m;
    *bulk = true;
    if (shm_find(&m->bulk, p, ref, room) == CHI_OK)
      return m;
  }
  return NULL;
}

/* ---- queues */

static void client_queue_unmap(chi_queue *q)
{
  struct env *env = q->client->env;
  if (q->desk)
    env->segment_close(env, &q->desk_segment);
  if (q->board)
    env->segment_close(env, &q->board_segment);
  if (q->bell != ENV_NO_BELL)
    env->bell_close(env, q->bell);
  alloc_put(&env->alloc, q->slot, q->depth * sizeof *q->slot);
  if (q->memory)
    alloc_put(&env->alloc, q->rung, q->memory->link->workers * sizeof *q->rung);
  q->desk = NULL;
  q->board = NULL;
  q->bell = ENV_NO_BELL;
  q->slot = NULL;
  q->rung = NULL;
}

/* Opens the queue on the connection of its first memory. */
static int client_queue_map(chi_queue *q)
{
  struct env *env = q->client->env;
  struct client_link *l = q->memory->link;
  struct env_share share[3];
  struct attach_reply r;
  uint32_t count = 3;
  int rc = client_call(l, &(struct attach_request){.op = ATTACH_QUEUE, .thread = q->number}, &r,
                       share, &count);
  if (rc != CHI_OK || count != 3)
    return client_fail(q, rc != CHI_OK ? rc : CHI_EVERSION, r.text[0] ? r.text : NULL);
  q->id = r.id;
  q->depth = r.depth;
  q->desk_segment = share[0].segment;
  q->board_segment = share[1].segment;
  q->desk = share[0].segment.base;
  q->board = share[1].segment.base;
  q->bell = share[2].bell;
  q->slot = alloc_get(&env->alloc, q->depth * sizeof *q->slot);
  q->rung = alloc_zero(&env->alloc, l->workers * sizeof *q->rung);
  if (!q->slot || !q->rung) {
    client_notice(l, ATTACH_CLOSE, q->id);
    return client_fail(q, CHI_ENOMEM, NULL);
  }
  for (uint32_t k = 0; k < LANE_KINDS; k++)
    lane_out_init(&q->out[k], q->desk, q->board, (enum lane_kind)k);
  lane_done_out_init(&q->done, q->board, q->depth);
  client_queue_reset(q);
  return CHI_OK;
}

static void client_queue_free(chi_queue *q)
{
  struct env *env = q->client->env;
  client_queue_unmap(q);
  while (q->memory) {
    struct client_memory *m = q->memory;
    q->memory = m->next;
    client_memory_close(q, m);
  }
  alloc_put(&env->alloc, q, sizeof *q);
}

int chi_queue_open(chi_client *c, chi_queue **out, chi_error *err)
{
  struct env *env = c->env;
  if (!mark_get(env->alive))
    return error_set(err, CHI_EFORKED, "%s", chi_status_text(CHI_EFORKED));
  chi_queue *q = alloc_zero(&env->alloc, sizeof *q);
  if (!q)
    return error_set(err, CHI_ENOMEM, "no memory for a queue");
  q->client = c;
  q->number = count_add(&c->queue_numbers, 1);
  q->bell = ENV_NO_BELL;
  int rc = client_memory_open(q);
  if (rc == CHI_OK)
    rc = client_queue_map(q);
  if (rc != CHI_OK) {
    error_set(err, rc, "%s", q->error.text[0] ? q->error.text : chi_status_text(rc));
    client_queue_free(q);
    return rc;
  }
  latch_lock(&c->latch);
  q->next = c->queues;
  c->queues = q;
  latch_unlock(&c->latch);
  *out = q;
  return CHI_OK;
}

/* After a reconnection: what was under way has ended, what was allocated becomes old. */
static int client_queue_move(chi_queue *q)
{
  client_queue_fail_all(q);
  if (q->slot && q->done_first != CLIENT_NO_SLOT)
    return client_fail(q, CHI_ESHUTDOWN, "results of the former connection are still to be taken");
  int rc = client_memory_open(q);
  if (rc != CHI_OK)
    return client_fail(q, rc, NULL);
  struct client_memory *fresh = q->memory;
  q->memory = fresh->next;
  client_queue_unmap(q);
  q->memory = fresh;
  rc = client_queue_map(q);
  if (rc != CHI_OK) {
    client_queue_unmap(q);
    q->memory = fresh->next;
    client_memory_close(q, fresh);
    return rc;
  }
  client_memory_trim(q);
  return CHI_OK;
}

int client_queue_renew(chi_queue *q)
{
  if (!mark_get(q->client->env->alive))
    return client_fail(q, CHI_EFORKED, NULL);
  if (mark_get(&q->client->current) == q->memory->link) {
    client_queue_fail_all(q);
    return client_fail(q, CHI_ESHUTDOWN, NULL);
  }
  return client_queue_move(q);
}

static void client_unlist(chi_client *c, chi_queue *q)
{
  latch_lock(&c->latch);
  chi_queue **at = &c->queues;
  while (*at != q) {
    CHI_ASSERT(*at != NULL);
    at = &(*at)->next;
  }
  *at = q->next;
  latch_unlock(&c->latch);
}

void chi_queue_close(chi_queue *q)
{
  if (!q)
    return;
  chi_client *c = q->client;
  struct client_link *l = q->memory->link;
  client_unlist(c, q);
  if (mark_get(c->env->alive) && !mark_get(&l->dead) && q->slot) {
    /* Chunks are given back only when no task can touch them any more; what does not end in time
     * keeps its memory until the client closes. */
    bool settled = client_queue_settle(q, CLIENT_SETTLE_NS);
    client_notice(l, ATTACH_CLOSE, q->id);
    if (settled) {
      shm_arena_give_back(&q->memory->task);
      shm_arena_give_back(&q->memory->bulk);
    }
  }
  client_queue_free(q);
}

void chi_client_close(chi_client *c)
{
  if (!c)
    return;
  struct env *env = c->env;
  void (*dispose)(struct env *) = c->dispose;
  while (c->queues) {
    chi_queue *q = c->queues;
    c->queues = q->next;
    client_queue_free(q);
  }
  client_link_release(c->current);
  alloc_put(&env->alloc, c, sizeof *c);
  if (dispose)
    dispose(env);
}

int chi_queue_error(chi_queue *q, chi_error *err)
{
  if (err)
    *err = q->error;
  return q->error.code;
}

/* ---- allocation */

void *chi_task_new(chi_queue *q, const chi_type *type)
{
  void *p = NULL;
  uint64_t ref = 0;
  if (client_queue_check(q) != CHI_OK)
    return NULL;
  int rc = type->size < sizeof(chi_task) ? CHI_EINVAL
                                         : shm_get(&q->memory->task, type->size, &p, &ref);
  if (rc != CHI_OK) {
    if (q->error.code != rc)
      client_fail(q, rc, NULL);
    return NULL;
  }
  for (uint64_t at = 0; at < type->size; at += CHI_CACHE_LINE) /* what it lies in is whole lines */
    memset((char *)p + at, 0, CHI_CACHE_LINE);
  ((chi_task *)p)->method = type->id;
  return p;
}

void *chi_task_new_failures(chi_queue *q, const chi_type *type)
{
  const chi_type with = task_with_failures(type);
  chi_task *t = chi_task_new(q, &with);
  if (t)
    t->flags = CHI_TASK_FAILURES;
  return t;
}

int chi_bulk_alloc(chi_queue *q, uint64_t size, chi_bulk *out)
{
  int rc = client_queue_check(q);
  if (rc != CHI_OK)
    return rc;
  *out = (chi_bulk){.size = size};
  rc = shm_get(&q->memory->bulk, size, &out->data, &out->ref);
  if (rc != CHI_OK && q->error.code != rc)
    client_fail(q, rc, NULL);
  return rc;
}

int chi_bulk_free(chi_queue *q, chi_bulk *bulk)
{
  if (!bulk->data)
    return CHI_OK;
  if (!mark_get(q->client->env->alive))
    return client_fail(q, CHI_EFORKED, NULL);
  int rc = CHI_EINVAL;
  for (struct client_memory *m = q->memory; m && rc != CHI_OK; m = m->next)
    rc = shm_put(&m->bulk, bulk->data);
  if (rc != CHI_OK)
    return client_fail(q, rc, "not the start of a buffer of this queue");
  *bulk = (chi_bulk){0};
  return CHI_OK;
}

/* ---- pools, by tasks of the admin pool */

int chi_pool_find(chi_queue *q, const char *name, chi_pool_id *out)
{
  struct chi_admin_find_pool *t = CHI_NEW(q, chi_admin_find_pool);
  if (!t)
    return q->error.code;
  t->task.pool = CHI_ADMIN_POOL;
  int rc = CHI_EINVAL;
  if (strlen(name) < sizeof t->pool_name) {
    memcpy(t->pool_name, name, strlen(name) + 1);
    rc = chi_run(q, t);
  } else {
    client_fail(q, rc, "the name is too long");
  }
  *out = t->pool_id;
  chi_task_free(q, t);
  return rc;
}

int chi_pool_create(chi_queue *q, const char *mod_name, const char *pool_name,
                    const chi_param *params, uint32_t count, chi_pool_id *id, chi_error *err)
{
  return client_pool_create(q, mod_name, pool_name, "dynamic", params, count, id, err);
}

int client_pool_create(chi_queue *q, const char *mod_name, const char *pool_name,
                       const char *pool_query, const chi_param *params, uint32_t count,
                       chi_pool_id *id, chi_error *err)
{
  struct chi_admin_get_or_create_pool *t = CHI_NEW(q, chi_admin_get_or_create_pool);
  if (!t)
    return error_set(err, q->error.code, "%s", q->error.text);
  int rc = CHI_ETOOBIG;
  if (strlen(mod_name) < sizeof t->mod_name && strlen(pool_name) < sizeof t->pool_name)
    rc = compose_params(params, count, t->params, sizeof t->params);
  if (rc == CHI_OK) {
    t->task.pool = CHI_ADMIN_POOL;
    t->task.query.mode = CHI_QUERY_DYNAMIC;
    t->pool_id = *id;
    memcpy(t->mod_name, mod_name, strlen(mod_name) + 1);
    memcpy(t->pool_name, pool_name, strlen(pool_name) + 1);
    snprintf(t->pool_query, sizeof t->pool_query, "%s", pool_query);
    rc = chi_run(q, t);
    *id = t->pool_id;
  }
  if (rc != CHI_OK)
    error_set(err, rc, "%s", t->error_message[0] ? t->error_message : chi_status_text(rc));
  chi_task_free(q, t);
  return rc;
}

int chi_pool_destroy(chi_queue *q, chi_pool_id id, chi_error *err)
{
  struct chi_admin_destroy_pool *t = CHI_NEW(q, chi_admin_destroy_pool);
  if (!t)
    return error_set(err, q->error.code, "%s", q->error.text);
  t->task.pool = CHI_ADMIN_POOL;
  t->pool_id = id;
  int rc = chi_run(q, t);
  if (rc != CHI_OK)
    error_set(err, rc, "%s", t->error_message[0] ? t->error_message : chi_status_text(rc));
  chi_task_free(q, t);
  return rc;
}

#undef CLIENT_SETTLE_NS
#undef CLIENT_RETRY_NS
