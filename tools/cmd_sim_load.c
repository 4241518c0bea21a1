/* cmd_sim_load.c - the workload of a simulation: a module for it, and clients that use pools. */
#include "cmd_sim.h"

#ifndef CHI_OMIT_SIM

#include <stdio.h>
#include <stdlib.h>

#include "hash.h"
#include "rng.h"
#include "units.h"

#define LOAD_STREAM UINT64_C(0x4c6f6164)
#define LOAD_SECOND UINT64_C(1000000000)
#define LOAD_LIMIT (30 * LOAD_SECOND) /* of one call when all is settled */
#define LOAD_TRIES 20u                /* of them, where a cluster has just become whole */
#define LOAD_PAUSE (LOAD_SECOND / 2)  /* between them */
#define LOAD_BULKS 4u                 /* of one task */
#define LOAD_BOOKS 4096u
#define LOAD_STORE "store" /* not a method: allocate, write, sync, read, free */

/* ---- the module ----------------------------------------------------------------------------- */

/* Copies one buffer to the other, each byte with all bits turned, and n plus one. */
#define LOAD_ECHO(X, T) X(T, INOUT, u64, n, "0") X(T, IN, bulk, from) X(T, OUT, bulk, to)
CHI_TASK(load_echo, 10, LOAD_ECHO)
#define LOAD_SLEEP(X, T) X(T, IN, u64, ns, "0")
CHI_TASK(load_sleep, 11, LOAD_SLEEP)
/* Every container answers one; together as many as there are, and the sum of their numbers. */
#define LOAD_GATHER(X, T) X(T, OUT, u64, answers) X(T, OUT, u64, sum)
CHI_TASK(load_gather, 12, LOAD_GATHER)
/* Asks the container that key leads to, as a subtask. */
#define LOAD_RELAY(X, T) X(T, IN, u32, key, "0") X(T, OUT, u64, answers)
CHI_TASK(load_relay, 13, LOAD_RELAY)
/* Sleeps inside a lock; how many were inside. */
#define LOAD_LOCK(X, T) X(T, IN, u64, ns, "0") X(T, OUT, u32, inside)
CHI_TASK(load_lock, 14, LOAD_LOCK)
/* May be run again elsewhere. */
CHI_TASK(load_again, 15, CHI_NO_FIELDS)

struct load_state {
  chi_mutex mutex;
  uint32_t inside;
};

static int load_echo_run(chi_ctx *ctx, struct load_state *self, struct load_echo *t)
{
  uint64_t size = t->from.size < t->to.size ? t->from.size : t->to.size;
  const uint8_t *from = t->from.data;
  uint8_t *to = t->to.data;
  (void)ctx, (void)self;
  for (uint64_t i = 0; i < size; i++)
    to[i] = (uint8_t)~from[i];
  t->to.size = size;
  t->n++;
  return CHI_OK;
}

static int load_sleep_run(chi_ctx *ctx, struct load_state *self, struct load_sleep *t)
{
  (void)self;
  return chi_sleep(ctx, t->ns);
}

static int load_gather_run(chi_ctx *ctx, struct load_state *self, struct load_gather *t)
{
  (void)self;
  t->answers = 1;
  t->sum = chi_self_container(ctx);
  return CHI_OK;
}

static int load_relay_run(chi_ctx *ctx, struct load_state *self, struct load_relay *t)
{
  struct load_gather *sub = chi_subtask_new(ctx, &load_gather_type);
  (void)self;
  if (!sub)
    return CHI_ENOMEM;
  sub->task.pool = chi_self_pool(ctx);
  sub->task.query = (chi_query){.mode = CHI_QUERY_HASH, .a = t->key};
  int rc = chi_call(ctx, sub);
  t->answers = sub->answers;
  return rc;
}

static int load_lock_run(chi_ctx *ctx, struct load_state *self, struct load_lock *t)
{
  int rc = chi_mutex_lock(ctx, &self->mutex, 0);
  if (rc)
    return rc;
  t->inside = ++self->inside;
  rc = chi_sleep(ctx, t->ns);
  self->inside--;
  chi_mutex_unlock(ctx, &self->mutex);
  return rc;
}

static int load_again_run(chi_ctx *ctx, struct load_state *self, struct load_again *t)
{
  (void)ctx, (void)self, (void)t;
  return CHI_OK;
}

#define LOAD_METHODS(M, S)                                                                         \
  M(S, load_echo) M(S, load_sleep) M(S, load_gather) M(S, load_relay) M(S, load_lock)              \
  M(S, load_again, CHI_METHOD_IDEMPOTENT)
CHI_METHODS(load_state, LOAD_METHODS)

static int load_schedule(chi_ctx *ctx, void *self, const void *task, chi_query *query)
{
  (void)self, (void)task;
  *query = (chi_query){.mode = CHI_QUERY_HASH, .a = (uint32_t)chi_random(ctx)};
  return CHI_OK;
}

static int load_aggregate(uint32_t method, void *into, const void *from)
{
  if (method == load_gather_type.id) {
    ((struct load_gather *)into)->answers += ((const struct load_gather *)from)->answers;
    ((struct load_gather *)into)->sum += ((const struct load_gather *)from)->sum;
  }
  return CHI_OK; /* all others answer the same everywhere */
}

const chi_module load_module = {.version = CHI_MODULE_VERSION,
                                .name = "load",
                                .state_size = sizeof(struct load_state),
                                .methods = load_state_methods,
                                .schedule = load_schedule,
                                .aggregate = load_aggregate};

/* ---- clients -------------------------------------------------------------------------------- */

/* A task under way. */
struct load_flight {
  chi_task *task;
  const chi_type *type;
  chi_query query;
  uint64_t tag; /* what its buffers are filled with */
};

struct load_client {
  struct load *load;
  uint32_t number, node;
  const struct scenario_work *work; /* NULL: all of them */
  uint32_t works;
  int program; /* of the cluster */
  chi_client *client;
  chi_queue *queue;
  struct load_flight flight[SCENARIO_WINDOW];
  uint32_t begun, ended;
  bool lost; /* the connection, as an answer says */
};

/* What a device has acknowledged as synced, and nobody has touched since. */
struct load_book {
  uint32_t pool, node;
  struct chi_block block;
  uint64_t tag, size;
};

struct load {
  chi_cluster *cluster;
  const struct scenario *s;
  const chi_module *module[SCENARIO_POOLS];
  const chi_type *type[SCENARIO_MIX]; /* NULL: LOAD_STORE */
  uint64_t weights;
  struct load_client *client;
  uint32_t clients;
  struct load_book book[LOAD_BOOKS];
  uint32_t books;
  uint32_t life[CHI_CLUSTER_NODES_MAX]; /* another one for each time that a node came or went */
};

static bool load_is_store(const struct load *l, const struct scenario_mix *m)
{
  return strcmp(l->module[m->pool]->name, "bdev") == 0 && strcmp(m->method, LOAD_STORE) == 0;
}

static void load_fill(void *data, uint64_t size, uint64_t tag)
{
  for (uint64_t i = 0; i < size; i++)
    ((uint8_t *)data)[i] = (uint8_t)(hash_mix64(tag + i / 8) >> i % 8 * 8);
}

/* Whether it is what load_fill wrote, with the bits of `turned` turned. */
static bool load_is_filled(const void *data, uint64_t size, uint64_t tag, uint8_t turned)
{
  for (uint64_t i = 0; i < size; i++)
    if ((((const uint8_t *)data)[i] ^ turned) != (uint8_t)(hash_mix64(tag + i / 8) >> i % 8 * 8))
      return false;
  return true;
}

/* The n-th buffer of a task, or NULL. */
static chi_bulk *load_bulk(const chi_type *type, void *task, uint32_t n, bool *out)
{
  for (uint32_t i = 0; i < type->field_count; i++) {
    const chi_field *f = &type->fields[i];
    if (f->kind == CHI_KIND_bulk && n-- == 0) {
      *out = (f->dir & CHI_DIR_OUT) != 0;
      return (chi_bulk *)(void *)((char *)task + f->offset);
    }
  }
  return NULL;
}

void load_event(struct load *l, const struct sim_trace_event *e)
{
  if (e->kind == SIM_TRACE_NODE && e->node < CHI_CLUSTER_NODES_MAX)
    l->life[e->node]++;
}

/* ---- answers -------------------------------------------------------------------------------- */

static void load_wrong(struct load *l, enum scenario_check check, const char *what,
                       const struct load_client *c)
{
  if (!(l->s->off >> check & 1))
    chi_cluster_fail(l->cluster, scenario_check_name(check), "%s (client %u on node %u)", what,
                     c->number, c->node);
}

/* How many containers a query is for, and the sum of their numbers if that is known. */
static uint64_t load_expected(const struct load *l, const chi_query *q, uint64_t *sum)
{
  uint64_t nodes = l->s->nodes, first = 0, count = 1;
  if (q->mode == CHI_QUERY_BROADCAST)
    count = nodes;
  else if (q->mode == CHI_QUERY_RANGE)
    first = q->a, count = q->b;
  else if (q->mode == CHI_QUERY_ID)
    first = q->a;
  else if (q->mode == CHI_QUERY_HASH)
    first = q->a % nodes;
  else
    first = UINT64_MAX; /* physical and local: containers may move; dynamic: drawn elsewhere */
  *sum = first == UINT64_MAX ? UINT64_MAX : count * first + count * (count - 1) / 2;
  return count;
}

static const char *load_check_answer(const struct load *l, const struct load_flight *f)
{
  uint64_t sum, count = load_expected(l, &f->query, &sum);
  if (f->type == &load_gather_type) {
    const struct load_gather *t = (const void *)f->task;
    if (t->answers != count || (sum != UINT64_MAX && t->sum != sum))
      return "gather succeeds without the answers of all containers";
  } else if (f->type == &load_echo_type) {
    const struct load_echo *t = (const void *)f->task;
    if (t->to.size != t->from.size || !load_is_filled(t->to.data, t->to.size, f->tag + 1, 0xff))
      return "echo gives back other bytes";
  } else if (f->type == &load_relay_type) {
    if (((const struct load_relay *)(const void *)f->task)->answers != 1)
      return "relay succeeds without an answer";
  } else if (f->type == &load_lock_type) {
    if (((const struct load_lock *)(const void *)f->task)->inside != 1)
      return "there are two inside the lock";
  }
  return NULL;
}

static void load_check(struct load_client *c, const struct load_flight *f, int rc)
{
  struct load *l = c->load;
  const char *wrong = rc == CHI_OK ? load_check_answer(l, f) : NULL;
  char text[160];
  if (wrong)
    load_wrong(l, SCENARIO_ANSWER, wrong, c);
  for (uint32_t i = 0; i < l->s->nevers; i++)
    if (l->s->never[i] == rc) {
      snprintf(text, sizeof(text), "%s ends with %s", f->type->name, chi_status_name(rc));
      load_wrong(l, SCENARIO_NEVER, text, c);
    }
}

/* ---- operations ----------------------------------------------------------------------------- */

static void load_release(struct load_client *c, const chi_type *type, chi_task *task)
{
  bool out;
  chi_bulk *b;
  for (uint32_t i = 0; (b = load_bulk(type, task, i, &out)) != NULL; i++)
    if (b->ref)
      chi_bulk_free(c->queue, b);
  chi_task_free(c->queue, task);
}

/* Waits for the oldest. */
static void load_land(struct load_client *c)
{
  struct load_flight *f = &c->flight[c->ended++ % SCENARIO_WINDOW];
  int rc = chi_wait(c->queue, f->task, UINT64_MAX);
  c->lost = c->lost || rc == CHI_ESHUTDOWN;
  load_check(c, f, rc);
  load_release(c, f->type, f->task);
}

static void load_land_all(struct load_client *c)
{
  while (c->ended < c->begun)
    load_land(c);
}

/* Pools are gone when all nodes that knew of them were down at once. */
static int load_ensure_pool(const struct load *l, chi_queue *queue, uint32_t pool)
{
  const struct scenario_pool *p = &l->s->pool[pool];
  chi_param params[SCENARIO_SETTINGS];
  chi_pool_id id = p->id;
  for (uint32_t i = 0; i < p->params.count; i++)
    params[i] = (chi_param){(char *)p->params.item[i].name, (char *)p->params.item[i].value, 0, 0};
  return chi_pool_create(queue, p->module, p->name, params, p->params.count, &id, NULL);
}

static bool load_connect(struct load_client *c)
{
  if (c->lost) {
    load_land_all(c);
    if (chi_client_reconnect(c->client, LOAD_SECOND, NULL) != CHI_OK)
      return false;
    c->lost = false;
    for (uint32_t i = 0; i < c->load->s->pools && c->queue; i++)
      load_ensure_pool(c->load, c->queue, i);
  }
  if (!c->queue && chi_queue_open(c->client, &c->queue, NULL) != CHI_OK)
    c->lost = true;
  return !c->lost;
}

static uint64_t load_draw(struct rng *rng, const struct scenario_range *range)
{
  uint64_t span = range->high - range->low;
  return range->low + (span == UINT64_MAX ? rng_next(rng) : rng_below(rng, span + 1));
}

static chi_query load_query(const struct load *l, const struct scenario_mix *m, struct rng *rng)
{
  uint32_t nodes = l->s->nodes, any = (uint32_t)rng_below(rng, SCENARIO_ANY);
  uint32_t a = (uint32_t)rng_below(rng, 1u << 20), b = (uint32_t)rng_below(rng, 1u << 20);
  chi_query q = {.mode = m->mode == SCENARIO_ANY ? any : m->mode};
  if (q.mode == CHI_QUERY_ID || q.mode == CHI_QUERY_PHYSICAL || q.mode == CHI_QUERY_RANGE)
    a %= nodes;
  q.a = m->a == SCENARIO_DRAWN ? a : m->a;
  if (q.mode == CHI_QUERY_RANGE)
    q.b = m->b == SCENARIO_DRAWN ? 1 + b % (nodes - q.a) : m->b;
  if (q.mode == CHI_QUERY_LOCAL || q.mode == CHI_QUERY_BROADCAST || q.mode == CHI_QUERY_DYNAMIC)
    q.a = 0;
  return q;
}

static int load_number(const chi_type *type, void *task, const char *name, uint64_t value,
                       chi_error *err)
{
  char text[24];
  snprintf(text, sizeof(text), "%llu", (unsigned long long)value);
  return chi_type_set(type, task, name, text, err);
}

/* One field: its text, or a number of the range that its text is; without rng, both its ends. */
static int load_field(const chi_type *type, void *task, const struct scenario_setting *field,
                      struct rng *rng, chi_error *err)
{
  struct scenario_range range;
  if (!strstr(field->value, "..") || !scenario_parse_range(field->value, false, &range))
    return chi_type_set(type, task, field->name, field->value, err);
  if (rng)
    return load_number(type, task, field->name, load_draw(rng, &range), err);
  int rc = load_number(type, task, field->name, range.low, err);
  return rc ? rc : load_number(type, task, field->name, range.high, err);
}

static int load_fields(const chi_type *type, void *task, const struct scenario_mix *m,
                       struct rng *rng, chi_error *err)
{
  int rc = chi_type_preset(type, task, err);
  for (uint32_t i = 0; i < m->fields.count && rc == CHI_OK; i++)
    rc = load_field(type, task, &m->fields.item[i], rng, err);
  return rc;
}

/* Its buffers: all of one size. False: there is no memory for them. */
static bool load_buffers(struct load_client *c, const struct load_flight *f, uint64_t size)
{
  bool out;
  chi_bulk *b;
  for (uint32_t i = 0; i < LOAD_BULKS && (b = load_bulk(f->type, f->task, i, &out)); i++) {
    if (chi_bulk_alloc(c->queue, size ? size : 1, b) != CHI_OK)
      return false;
    b->size = size;
    if (!out)
      load_fill(b->data, size, f->tag + 1);
  }
  return true;
}

/* After submission: what may happen to a task before it is over. */
static void load_disturb(struct load_client *c, struct load_flight *f, struct rng *rng)
{
  const struct scenario *s = c->load->s;
  bool cancel = rng_chance(rng, s->cancel), abandon = rng_chance(rng, s->abandon);
  uint64_t wait = rng_below(rng, 5000000);
  if (!cancel && !abandon)
    return;
  chi_cluster_sleep(c->load->cluster, wait);
  if (cancel)
    chi_cancel(c->queue, f->task);
  if (!abandon)
    return;
  chi_abandon(c->queue, f->task);
  c->begun--;
}

static void load_operate(struct load_client *c, const struct scenario_mix *m, const chi_type *type,
                         struct rng *rng)
{
  const struct scenario *s = c->load->s;
  struct load_flight *f = &c->flight[c->begun % SCENARIO_WINDOW];
  uint64_t size = load_draw(rng, &m->size), deadline = load_draw(rng, &s->deadline_after);
  bool timed = rng_chance(rng, s->deadline);
  *f = (struct load_flight){.task = chi_task_new(c->queue, type),
                            .type = type,
                            .query = load_query(c->load, m, rng),
                            .tag = rng_next(rng)};
  if (!f->task)
    return;
  f->task->pool = s->pool[m->pool].id;
  f->task->query = f->query;
  f->task->deadline_ms = timed ? (uint32_t)(deadline / 1000000) + 1 : 0;
  int rc = load_fields(type, f->task, m, rng, NULL);
  if (rc == CHI_OK && load_buffers(c, f, size))
    rc = chi_submit(c->queue, f->task);
  else
    rc = CHI_ENOMEM;
  c->lost = c->lost || rc == CHI_ESHUTDOWN || rc == CHI_ESTALE;
  if (rc != CHI_OK) {
    load_release(c, type, f->task);
    return;
  }
  c->begun++;
  load_disturb(c, f, rng);
}

/* ---- devices -------------------------------------------------------------------------------- */

/* Runs one step of a store. */
static int load_step(struct load_client *c, uint32_t pool, uint32_t node, void *task)
{
  chi_task *t = task;
  t->pool = c->load->s->pool[pool].id;
  t->query = (chi_query){.mode = CHI_QUERY_PHYSICAL, .a = node};
  int rc = chi_run(c->queue, t);
  c->lost = c->lost || rc == CHI_ESHUTDOWN || rc == CHI_ESTALE;
  return rc;
}

static int load_allocate(struct load_client *c, struct load_book *b)
{
  struct chi_bdev_allocate_blocks *t = CHI_NEW(c->queue, chi_bdev_allocate_blocks);
  int rc = CHI_ENOMEM;
  if (!t)
    return rc;
  t->size = b->size;
  rc = load_step(c, b->pool, b->node, t);
  if (rc == CHI_OK && t->blocks_count != 1)
    rc = CHI_ETOOBIG; /* in pieces: they are lost, as if their owner had been */
  b->block = t->blocks[0];
  chi_task_free(c->queue, t);
  return rc;
}

/* Writes the block, or reads it and compares. */
static int load_transfer(struct load_client *c, const struct load_book *b, bool write)
{
  struct chi_bdev_write *t;
  struct chi_bdev_read *r = NULL;
  chi_bulk *data;
  t = CHI_NEW(c->queue, chi_bdev_write);
  if (!write && t) {
    chi_task_free(c->queue, t);
    r = CHI_NEW(c->queue, chi_bdev_read);
  }
  if (write ? !t : !r)
    return CHI_ENOMEM;
  data = write ? &t->data : &r->data;
  int rc = chi_bulk_alloc(c->queue, b->size, data);
  if (rc == CHI_OK) {
    data->size = b->size;
    *(write ? &t->block : &r->block) = b->block;
    *(write ? &t->length : &r->length) = b->size;
    if (write)
      load_fill(data->data, b->size, b->tag);
    rc = load_step(c, b->pool, b->node, write ? (void *)t : (void *)r);
    if (rc == CHI_OK && !write && !load_is_filled(data->data, b->size, b->tag, 0))
      rc = CHI_ECORRUPT;
  }
  load_release(c, write ? &chi_bdev_write_type : &chi_bdev_read_type,
               write ? (void *)t : (void *)r);
  return rc;
}

static int load_sync(struct load_client *c, const struct load_book *b)
{
  struct chi_bdev_sync *t = CHI_NEW(c->queue, chi_bdev_sync);
  int rc = t ? load_step(c, b->pool, b->node, t) : CHI_ENOMEM;
  if (t)
    chi_task_free(c->queue, t);
  return rc;
}

static void load_free(struct load_client *c, const struct load_book *b)
{
  struct chi_bdev_free_blocks *t = CHI_NEW(c->queue, chi_bdev_free_blocks);
  if (!t)
    return;
  t->blocks[0] = b->block;
  t->blocks_count = 1;
  load_step(c, b->pool, b->node, t);
  chi_task_free(c->queue, t);
}

/* Whether what is in a pool outlives a crash. */
static bool load_is_durable(const struct scenario_pool *p)
{
  for (uint32_t i = 0; i < p->params.count; i++)
    if (strcmp(p->params.item[i].name, "bdev_type") == 0)
      return strcmp(p->params.item[i].value, "file") == 0;
  return false;
}

static void load_store(struct load_client *c, const struct scenario_mix *m, struct rng *rng)
{
  struct load *l = c->load;
  chi_query query = load_query(l, m, rng);
  struct load_book b = {.pool = m->pool,
                        .node = query.mode == CHI_QUERY_PHYSICAL ? query.a : c->node,
                        .size = load_draw(rng, &m->size),
                        .tag = rng_next(rng)};
  bool keep = rng_chance(rng, SCENARIO_MILLION / 4), sync = rng_chance(rng, SCENARIO_MILLION / 2);
  uint32_t life = l->life[b.node];
  b.size += b.size == 0;
  if (load_allocate(c, &b) != CHI_OK || load_transfer(c, &b, true) != CHI_OK)
    return;
  if ((keep || sync) && load_sync(c, &b) != CHI_OK)
    return;
  if (l->life[b.node] != life) /* another life's sync says nothing of what was written before */
    return;
  if ((keep || sync) && load_transfer(c, &b, false) == CHI_ECORRUPT)
    load_wrong(l, SCENARIO_P5, "a device gives back other bytes than were synced", c);
  if (!keep)
    load_free(c, &b);
  else if (l->books < LOAD_BOOKS && load_is_durable(&l->s->pool[b.pool]))
    l->book[l->books++] = b;
}

/* ---- a client's life ------------------------------------------------------------------------ */

static const struct scenario_mix *load_choose(const struct load *l, struct rng *rng, uint32_t *at)
{
  uint64_t draw = rng_below(rng, l->weights);
  for (*at = 0; draw >= l->s->mix[*at].weight; (*at)++)
    draw -= l->s->mix[*at].weight;
  return &l->s->mix[*at];
}

static void load_one(struct load_client *c, uint32_t op)
{
  struct load *l = c->load;
  const struct scenario_mix *m;
  struct rng rng;
  uint32_t at;
  rng_seed(&rng, l->s->seed, LOAD_STREAM + c->number, op);
  chi_cluster_sleep(l->cluster, load_draw(&rng, &l->s->think));
  m = load_choose(l, &rng, &at);
  if (!load_connect(c))
    return;
  if (!l->type[at]) {
    load_store(c, m, &rng);
    return;
  }
  if (c->begun - c->ended == l->s->window)
    load_land(c);
  if (!c->lost)
    load_operate(c, m, l->type[at], &rng);
}

static void load_body(chi_cluster *cluster, chi_client *client, void *arg)
{
  struct load_client *c = arg;
  uint32_t count = c->work ? c->works : c->load->s->operations;
  (void)cluster;
  c->client = client;
  for (uint32_t i = 0; i < count; i++)
    load_one(c, c->work ? c->work[i].op : i);
  load_land_all(c);
  chi_queue_close(c->queue);
}

void load_begin(struct load *l)
{
  for (uint32_t i = 0; i < l->clients; i++)
    l->client[i].program =
        chi_cluster_client(l->cluster, l->client[i].node, load_body, &l->client[i]);
}

void load_kill(struct load *l, uint32_t client)
{
  for (uint32_t i = 0; i < l->clients; i++)
    if (l->client[i].number == client && l->client[i].program > 0)
      chi_cluster_client_kill(l->cluster, l->client[i].program);
}

/* ---- beginning and end ---------------------------------------------------------------------- */

/* "echo" or "load_echo" of the module. */
static const chi_type *load_method(const chi_module *module, const char *name)
{
  size_t n = strlen(module->name);
  for (const chi_method *m = module->methods; m && m->type; m++) {
    const char *full = m->type->name;
    if (strcmp(full, name) == 0 || (strncmp(full, "chi_", 4) == 0 && strcmp(full + 4, name) == 0))
      return m->type;
    full += strncmp(full, "chi_", 4) == 0 ? 4 : 0;
    if (strncmp(full, module->name, n) == 0 && full[n] == '_' && strcmp(full + n + 1, name) == 0)
      return m->type;
  }
  return NULL;
}

static int load_wrong_mix(chi_error *err, uint32_t i, const char *what, const char *name)
{
  err->code = CHI_EINVAL;
  snprintf(err->text, sizeof(err->text), "operation %u of the mix: %.100s: %.200s", i + 1, what,
           name);
  return err->code;
}

/* Tries whether the tasks of a mix can be made. */
static int load_try(struct load *l, uint32_t i, chi_error *err)
{
  const struct scenario_mix *m = &l->s->mix[i];
  chi_error why = {0, ""};
  void *task;
  int rc;
  l->weights += m->weight;
  if (load_is_store(l, m))
    return CHI_OK;
  l->type[i] = load_method(l->module[m->pool], m->method);
  if (!l->type[i])
    return load_wrong_mix(err, i, m->method, "its pool's module has no such method");
  task = calloc(1, l->type[i]->size);
  if (!task)
    return err->code = CHI_ENOMEM;
  rc = load_fields(l->type[i], task, m, NULL, &why);
  free(task);
  return rc ? load_wrong_mix(err, i, m->method, why.text) : CHI_OK;
}

static bool load_list(struct load *l)
{
  const struct scenario *s = l->s;
  uint32_t count = s->work ? 0 : s->operations ? s->nodes * s->clients : 0;
  for (uint32_t i = 0; i < s->works; i++)
    count += i == 0 || s->work[i - 1].client != s->work[i].client;
  l->client = calloc(count + 1, sizeof(*l->client));
  if (!l->client)
    return false;
  for (uint32_t i = 0; i < s->works; i++) {
    struct load_client *c = &l->client[l->clients];
    if (i > 0 && s->work[i - 1].client == s->work[i].client) {
      c[-1].works++;
      continue;
    }
    *c = (struct load_client){.load = l,
                              .number = s->work[i].client,
                              .node = s->work[i].node,
                              .work = &s->work[i],
                              .works = 1};
    l->clients++;
  }
  for (uint32_t i = 0; !s->work && i < count; i++)
    l->client[l->clients++] =
        (struct load_client){.load = l, .number = i, .node = scenario_node(s, i)};
  return true;
}

struct load *load_open(chi_cluster *cluster, const struct scenario *s,
                       const chi_module *const *module, uint32_t *mix, chi_error *err)
{
  struct load *l = calloc(1, sizeof(*l));
  int rc = l ? CHI_OK : CHI_ENOMEM;
  if (!l)
    return NULL;
  l->cluster = cluster;
  l->s = s;
  for (uint32_t i = 0; i < s->pools; i++)
    l->module[i] = module[i];
  for (uint32_t i = 0; i < s->mixes && rc == CHI_OK; i++)
    rc = load_try(l, *mix = i, err);
  if (rc == CHI_OK && s->mixes && l->weights == 0)
    rc = load_wrong_mix(err, 0, "weight", "all weights are 0");
  if (rc == CHI_OK && load_list(l))
    return l;
  load_close(l);
  return NULL;
}

void load_close(struct load *l)
{
  if (l)
    free(l->client);
  free(l);
}

/* All that was kept is read once more. */
static void load_verify_books(chi_cluster *cluster, chi_client *client, void *arg)
{
  struct load *l = arg;
  struct load_client c = {.load = l, .number = UINT32_MAX, .client = client};
  char text[160];
  if (chi_queue_open(client, &c.queue, NULL) != CHI_OK)
    return;
  for (uint32_t i = 0; i < l->s->pools; i++)
    load_ensure_pool(l, c.queue, i);
  for (uint32_t i = 0; i < l->books; i++) {
    int rc = load_transfer(&c, &l->book[i], false);
    for (uint32_t n = 1; n < LOAD_TRIES && rc != CHI_OK && rc != CHI_ECORRUPT; n++) {
      chi_cluster_sleep(cluster, LOAD_PAUSE);
      rc = load_transfer(&c, &l->book[i], false);
    }
    c.node = l->book[i].node;
    if (rc == CHI_OK)
      continue;
    snprintf(text, sizeof(text), "what was synced at %llu of %s gives %s",
             (unsigned long long)l->book[i].block.offset, l->s->pool[l->book[i].pool].name,
             chi_status_name(rc));
    load_wrong(l, SCENARIO_P5, text, &c);
  }
  chi_queue_close(c.queue);
}

/* A broadcast: CHI_OK, and how many answered. */
static int load_ask_all(struct load *l, uint32_t node, uint32_t pool, uint64_t *answers)
{
  struct load_gather t = {.task = {.pool = l->s->pool[pool].id}};
  t.task.query.mode = CHI_QUERY_BROADCAST;
  int rc = chi_cluster_call(l->cluster, node, &load_gather_type, &t, LOAD_LIMIT);
  *answers = t.answers;
  return rc;
}

/* Every container of a pool of "load" answers to the node, soon. */
static void load_verify_answers(struct load *l, uint32_t node, uint32_t pool)
{
  uint64_t answers;
  int rc = load_ask_all(l, node, pool, &answers);
  for (uint32_t n = 1; n < LOAD_TRIES && (rc != CHI_OK || answers != l->s->nodes); n++) {
    chi_cluster_run_for(l->cluster, LOAD_PAUSE);
    rc = load_ask_all(l, node, pool, &answers);
  }
  if (rc != CHI_OK || answers != l->s->nodes)
    chi_cluster_fail(l->cluster, scenario_check_name(SCENARIO_HEALED),
                     "when all is whole again, a broadcast from node %u ends with %s and %llu "
                     "answers",
                     node, chi_status_name(rc), (unsigned long long)answers);
}

/* Nodes lose their power one after the other: what is read then comes from their disks, and nothing
 * that went wrong while they last began is left over. */
static void load_restart(struct load *l)
{
  for (uint32_t node = 0; node < l->s->nodes && l->books; node++) {
    chi_cluster_fault(l->cluster, CHI_FAULT_CRASH, node, 0, 0);
    chi_cluster_settle(l->cluster, l->s->limit_time);
  }
}

void load_verify(struct load *l)
{
  load_restart(l);
  if (chi_cluster_failure(l->cluster))
    return;
  chi_cluster_client(l->cluster, 0, load_verify_books, l);
  chi_cluster_run_idle(l->cluster, LOAD_LIMIT + l->books * LOAD_SECOND);
  if (l->s->off >> SCENARIO_HEALED & 1)
    return;
  for (uint32_t pool = 0; pool < l->s->pools; pool++)
    for (uint32_t node = 0; node < l->s->nodes && l->module[pool] == &load_module; node++)
      load_verify_answers(l, node, pool);
}

#undef LOAD_STREAM
#undef LOAD_SECOND
#undef LOAD_LIMIT
#undef LOAD_TRIES
#undef LOAD_PAUSE
#undef LOAD_BULKS
#undef LOAD_BOOKS
#undef LOAD_STORE

#endif
