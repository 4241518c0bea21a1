/* worker_accept.c - lanes, and from an entry to a task: the one place to read a client's memory. */
#include "worker.h"
#include "route.h"

static uint32_t worker_record_class(uint32_t size)
{
  return size <= 512 ? 0 : 23 - (uint32_t)__builtin_clz(size - 1);
}

chi_ctx *worker_record(struct worker *w, uint32_t task_size)
{
  uint32_t size = (uint32_t)TASK_RECORD + task_size;
  uint32_t class = worker_record_class(size);
  chi_ctx *ctx = NULL;
  if (class < WORKER_RECORDS) {
    size = 512u << class;
    ctx = w->record[class].first;
    if (ctx) {
      w->record[class].first = ctx->sibling;
      w->record[class].count--;
    }
  }
  if (!ctx)
    ctx = alloc_get(w->crew->alloc, size);
  if (!ctx)
    return NULL;
  task_zero(ctx);
  ctx->size = size;
  ctx->deadline = UINT64_MAX;
  ctx->task = (chi_task *)(void *)((char *)ctx + TASK_RECORD);
  return ctx;
}

/* Most records are used again at once; a hoard, as after a burst, goes back. */
void worker_record_free(struct worker *w, chi_ctx *ctx)
{
  uint32_t class = worker_record_class(ctx->size);
  if (class < WORKER_RECORDS && w->record[class].count < 64) {
    ctx->sibling = w->record[class].first;
    w->record[class].first = ctx;
    w->record[class].count++;
  } else {
    alloc_put(w->crew->alloc, ctx, ctx->size);
  }
}

CHI_APART static void worker_refuse(struct worker *w, const struct task_raw *raw, int rc)
{
  struct worker_crew *crew = w->crew;
  struct queue *q = raw->queue;
  tally_add(&w->refused, 1);
  worker_count_failure(w, rc);
  if (rc == CHI_ECORRUPT && !latch_try(&crew->refusals_latch)) {
    log_skip(&crew->log); /* another worker says so just now */
  } else if (rc == CHI_ECORRUPT) {
    log_limited(&crew->log, &crew->refusals, w->now, CHI_LOG_WARNING,
                "refused a task of queue %u: its offset, length or slot does not fit", q->id);
    latch_unlock(&crew->refusals_latch);
  }
  if (crew->env->trace)
    crew->env->trace(crew->env, ENV_TRACE_COMPLETE, w->index, ((uint64_t)q->id << 32) | raw->tag,
                     (uint64_t)(int64_t)rc);
  queue_complete(q, w->index, raw->slot, rc);
}

/* The network worker knows every pool, and keeps what waits for one in creation. */
CHI_APART static void worker_forward(struct worker *w, const struct task_raw *entry)
{
  struct worker_crew *crew = w->crew;
  struct task_raw *raw = alloc_get(crew->alloc, sizeof *raw);
  if (!raw) {
    worker_refuse(w, entry, CHI_ENOMEM);
    return;
  }
  *raw = *entry;
  raw->node.kind = NODE_RAW;
  if (w->kind == WORKER_NETWORK) {
    crew->on_raw(crew->arg, raw);
    return;
  }
  struct worker *network = &crew->worker[crew->count - 1];
  ring_push(&network->queue, &raw->node);
  worker_ring(w, network);
}

CHI_APART static void worker_find_pool(struct worker *w, chi_pool_id id)
{
  static const chi_query local = {.mode = CHI_QUERY_LOCAL};
  w->last = pool_table_find(w->table, id);
  w->local.here = NULL;
  if (w->last)
    route_resolve(&local, w->last->map, w->crew->node, &w->local);
}

static const struct pool_entry *worker_pool(struct worker *w, chi_pool_id id)
{
  if (CHI_UNLIKELY(!w->last || !pool_id_equal(w->last->id, id)))
    worker_find_pool(w, id);
  return w->last;
}

/* A task as a client hands it in. */
struct worker_offer {
  const struct task_raw *raw;
  chi_task *shared;
  uint64_t room;   /* bytes from there to the end of the chunk */
  chi_task header; /* read once */
};

static int worker_check_header(const chi_task *header)
{
  if ((header->flags & CHI_TASK_PERIODIC) && header->period_us == 0)
    return CHI_EINVAL;
  if (header->compute_us > 60u * 1000000u)
    return CHI_EINVAL;
  return CHI_OK;
}

static inline chi_ctx *worker_record_of(struct worker *w, struct queue *q, struct method *m,
                                        uint32_t slot, uint32_t tag)
{
  chi_ctx *ctx = worker_record(w, m->plan.type->size);
  if (!ctx)
    return NULL;
  ctx->method = m;
  ctx->origin = TASK_FROM_CLIENT;
  ctx->queue = q;
  ctx->slot = slot;
  ctx->tag = tag;
  ctx->id = ((uint64_t)q->id << 32) | tag;
  ctx->root = ctx->id ^ w->crew->salt;
  return ctx;
}

CHI_APART static void worker_tell_buffers(const struct worker *w, const chi_type *type,
                                          const void *copy)
{
  struct env *env = w->crew->env;
  for (uint32_t i = 0; i < type->field_count; i++) {
    const chi_field *f = &type->fields[i];
    chi_bulk bulk;
    if (f->kind != CHI_KIND_bulk)
      continue;
    memcpy(&bulk, (const char *)copy + f->offset, sizeof bulk);
    if (bulk.size > 0)
      env->memory(env, ENV_MEMORY_BUFFER, bulk.data, bulk.size);
  }
}

/* As task_copy_in, for who records what is read. */
CHI_APART static int worker_copy_told(const struct worker *w, const struct task_plan *plan,
                                      const struct worker_offer *offer, chi_task *copy)
{
  struct env *env = w->crew->env;
  const chi_task *stable = env->memory(env, ENV_MEMORY_TASK, offer->shared, plan->type->size);
  int rc = task_copy_in(plan, offer->raw->queue->table, &offer->header, stable, copy);
  if (rc == CHI_OK)
    worker_tell_buffers(w, plan->type, copy);
  return rc;
}

CHI_APART void worker_tell_result(const struct worker *w, const chi_ctx *ctx)
{
  struct env *env = w->crew->env;
  const chi_type *type = ctx->method->plan.type;
  if (env->trace)
    env->trace(env, ENV_TRACE_RESULT, w->index, ctx->id, task_hash_out(type, ctx->task));
  for (uint32_t i = 0; i < type->field_count; i++) {
    const chi_field *f = &type->fields[i];
    const chi_bulk *bulk = (const void *)((const char *)ctx->task + f->offset);
    if (f->kind == CHI_KIND_bulk && (f->dir & CHI_DIR_OUT) && bulk->data && bulk->size)
      env->memory(env, ENV_MEMORY_RETURN, bulk->data, bulk->size);
  }
}

/* Makes the record of a task whose pool is ready; it is the one found last. */
static int worker_prepare(struct worker *w, const struct worker_offer *offer, struct method *m,
                          chi_ctx **out)
{
  const struct task_raw *raw = offer->raw;
  const chi_task *header = &offer->header;
  struct queue *q = raw->queue;
  const struct pool_map *map = w->last->map;
  if (m->def->flags & METHOD_OF_NODES)
    return CHI_EACCES;
  uint32_t size = m->plan.type->size;
  if (size > offer->room)
    return CHI_ECORRUPT;
  struct route route = w->local;
  int rc = worker_check_header(header);
  if (rc == CHI_OK && (header->query.mode != CHI_QUERY_LOCAL || !route.here))
    rc = route_resolve(&header->query, map, w->crew->node, &route);
  if (rc != CHI_OK)
    return rc;
  chi_ctx *ctx = worker_record_of(w, q, m, raw->slot, raw->tag);
  if (!ctx)
    return CHI_ENOMEM;
  if (CHI_UNLIKELY(w->crew->env->memory != NULL))
    rc = worker_copy_told(w, &m->plan, offer, ctx->task);
  else
    rc = task_copy_in(&m->plan, q->table, header, offer->shared, ctx->task);
  if (rc != CHI_OK) {
    worker_record_free(w, ctx);
    return rc;
  }
  ctx->container = route.here ? route.here : &w->last->pool->container;
  if (!route.here || (header->flags & CHI_TASK_FORCE_NET))
    worker_aim(ctx, map, route.first, route.count);
  if (CHI_UNLIKELY(task_room(m->plan.type, header->flags) > offer->room))
    ctx->task->flags &= ~(uint32_t)CHI_TASK_FAILURES; /* there is no room for the list */
  if (CHI_UNLIKELY(ctx->task->flags & CHI_TASK_FAILURES)) /* perhaps one of a former run is there */
    memset((char *)offer->shared + task_failures_at(m->plan.type), 0, sizeof(chi_failures));
  ctx->shared = offer->shared;
  if (raw->deadline)
    ctx->deadline = raw->deadline;
  else if (header->deadline_ms)
    ctx->deadline = w->now + header->deadline_ms * 1000000ull;
  ctx->slow = method_is_slow(m, header->compute_us, header->io_size);
  *out = ctx;
  return CHI_OK;
}

static void worker_trace_dispatch(const struct worker *w, const chi_ctx *ctx)
{
  if (CHI_UNLIKELY(w->crew->env->trace != NULL))
    w->crew->env->trace(w->crew->env, ENV_TRACE_DISPATCH, w->index, ctx->id,
                        ((uint64_t)ctx->task->pool.major << 16) | ctx->task->method);
}

/* For other nodes, on the network worker: no body is under way that could be disturbed. */
static void worker_send_now(struct worker *network, chi_ctx *ctx)
{
  worker_lend(network, ctx);
  network->crew->on_remote(network->crew->arg, ctx);
}

static void worker_accept_task(struct worker *w, const struct task_raw *raw)
{
  struct queue *q = raw->queue;
  struct worker_offer offer;
  offer.raw = raw;
  offer.shared = shm_resolve_room(q->table, raw->ref, &offer.room);
  if (offer.room < sizeof offer.header || raw->slot >= q->depth) {
    worker_refuse(w, raw, CHI_ECORRUPT);
    return;
  }
  chi_task *header = &offer.header;
  *header = *worker_header(w->crew, offer.shared);
  header->rc = CHI_OK;
  bool admin = pool_id_equal(header->pool, CHI_ADMIN_POOL);
  if (mark_get(&w->crew->draining) && !admin) {
    worker_refuse(w, raw, CHI_ESHUTDOWN);
    return;
  }
  const struct pool_entry *entry = worker_pool(w, header->pool);
  if (!entry || entry->state != POOL_READY || (admin && w->kind != WORKER_NETWORK)) {
    worker_forward(w, raw);
    return;
  }
  chi_ctx *ctx = NULL;
  struct method *m = module_method(entry->pool->module, header->method);
  int rc = m ? worker_prepare(w, &offer, m, &ctx) : CHI_ENOMETHOD;
  if (rc != CHI_OK) {
    worker_refuse(w, raw, rc);
    return;
  }
  tally_add(&w->accepted, 1);
  tally_add(&ctx->container->tally[w->index].active, 1);
  worker_trace_dispatch(w, ctx);
  bool here = w->kind == WORKER_SLOW || (!ctx->slow && w->kind == WORKER_FAST) || admin;
  if (here && !ctx->map && worker_may_begin(w, 0))
    worker_begin(w, ctx);
  else if (ctx->map && w->kind == WORKER_NETWORK)
    worker_send_now(w, ctx);
  else
    worker_submit(w, ctx);
}

/* The task has been taken from the same lane before, and perhaps ended since. */
CHI_APART static void worker_accept_cancel(struct worker *w, struct queue *q, uint64_t slot,
                                           uint32_t tag)
{
  if (queue_cancel(q, slot, tag))
    worker_cancel_changed(w);
  queue_forget(q, w->index);
}

/* Fetches the memory of the tasks that are there, while the first of them is dealt with: of most,
 * only the line behind the header is needed, where fields are, to be written, too. It looks no
 * further than the first entry that isn't there yet: that line is just being written. */
static void worker_fetch(const struct queue_lane *l)
{
  uint64_t room = 0, ref = 0;
  for (uint32_t i = 0; i < WORKER_ROW && (ref = lane_ahead(&l->in, i)) != 0; i++) {
    const char *task = shm_resolve_room(l->queue->table, ref, &room);
    if (task)
      CHI_FETCH_TO_WRITE(task + CHI_CACHE_LINE);
  }
}

/* A task of which its entry says everything but the fields, and for which nothing but running it is
 * to be done: the usual one. False: it is not, or something is wrong with it. */
static bool worker_accept_brief(struct worker *w, struct queue *q, const struct lane_entry *e)
{
  const chi_pool_id pool = {(uint32_t)(e->pool >> 32), (uint32_t)e->pool};
  const struct pool_entry *p = worker_pool(w, pool);
  if (pool_id_equal(pool, CHI_ADMIN_POOL)) /* its bodies are the network worker's */
    return false;
  if (!p || p->state != POOL_READY || !w->local.here || w->kind != WORKER_FAST ||
      mark_get(&w->crew->draining) || mark_get(&q->gone) || w->crew->env->memory)
    return false;
  struct method *m = module_method(p->pool->module, e->method);
  if (!m || (m->def->flags & METHOD_OF_NODES) || method_is_slow(m, 0, 0) ||
      !worker_may_begin(w, 0))
    return false;
  uint64_t room = 0;
  chi_task *shared = shm_resolve_room(q->table, e->ref, &room);
  if (room < m->plan.type->size || e->slot >= q->depth)
    return false;
  chi_ctx *ctx = worker_record_of(w, q, m, e->slot, e->turn);
  if (!ctx)
    return false;
  *ctx->task = (chi_task){.pool = pool, .method = e->method};
  if (task_copy_fields_in(&m->plan, q->table, shared, ctx->task) != CHI_OK) {
    worker_record_free(w, ctx);
    return false;
  }
  ctx->container = w->local.here;
  ctx->shared = shared;
  tally_add(&w->accepted, 1);
  worker_trace_dispatch(w, ctx);
  worker_begin_fresh(w, ctx);
  return true;
}

/* Takes one entry; false: there is none, or it is not for this worker to take. */
static inline bool worker_take(struct worker *w, struct queue_lane *l, struct lane_entry *e,
                               enum lane_op *op)
{
  struct queue *q = l->queue;
  if (!latch_try(&l->latch))
    return false;
  bool taken = mark_get(&l->home) == w->index && !mark_get(&l->closed);
  /* A client that keeps to the rules never has more in flight; one that doesn't is held back here,
   * within what accumulates between two looks. */
  if (taken && (l->in.head & 63) == 63 && queue_in_flight(q) > q->depth + 64)
    taken = false;
  taken = taken && lane_take(&l->in, e, op);
  if (taken && *op == LANE_RUN && e->slot < q->depth)
    queue_hold(q, e->slot, e->turn);
  latch_unlock(&l->latch);
  worker_pay_after_fence(w);
  return taken;
}

static inline bool worker_accept_one(struct worker *w, struct queue_lane *l)
{
  struct lane_entry e = {0};
  enum lane_op op = LANE_RUN;
  struct queue *q = l->queue;
  if (!worker_take(w, l, &e, &op))
    return false;
  if (op == LANE_CANCEL) {
    worker_accept_cancel(w, q, e.ref, e.slot);
  } else if (!e.brief || !worker_accept_brief(w, q, &e)) {
    struct task_raw raw = {.queue = q, .ref = e.ref, .slot = e.slot, .tag = e.turn};
    worker_accept_task(w, &raw);
  }
  return true;
}

static uint32_t worker_accept(struct worker *w, struct queue_lane *l)
{
  uint32_t n = 0, switches = w->switches;
  worker_fetch(l);
  while (worker_accept_one(w, l)) {
    /* If a body blocked, others have had this stack in between, and the lane may be gone. */
    if (++n == WORKER_ROW || w->budget == 0 || switches != w->switches || worker_is_wanted(w) ||
        !lane_ready(&l->in))
      break;
    w->budget--;
    tally_add(&w->beat, 1);
  }
  return n;
}

static void worker_drop_lane(struct worker *w, uint32_t at)
{
  struct queue_lane *l = w->lane[at];
  mark_set(&w->lane_count, w->lane_count - 1);
  w->lane[at] = w->lane[w->lane_count];
  count_add(&l->holders, (uint32_t)-1); /* it may be freed from here on */
}

bool worker_take_from_lanes(struct worker *w)
{
  for (uint32_t n = w->lane_count; n > 0; n--) {
    if (w->lane_at >= w->lane_count)
      w->lane_at = 0;
    struct queue_lane *l = w->lane[w->lane_at];
    uint32_t run = lane_ready(&l->in) ? worker_accept(w, l) : 0;
    if (run > 0) {
      w->lane_run += run;
      if (w->lane_run >= WORKER_ROW) {
        w->lane_run = 0;
        w->lane_at++;
      }
      return true;
    }
    if (mark_get(&l->home) != w->index || mark_get(&l->closed)) {
      worker_drop_lane(w, w->lane_at);
      continue;
    }
    w->lane_run = 0;
    w->lane_at++;
  }
  return false;
}

void worker_accept_raw(struct worker *w, struct task_raw *raw)
{
  struct task_raw copy = *raw;
  alloc_put(w->crew->alloc, raw, sizeof *raw);
  worker_accept_task(w, &copy);
}

void worker_refuse_raw(struct worker *w, struct task_raw *raw, int rc)
{
  struct task_raw copy = *raw;
  alloc_put(w->crew->alloc, raw, sizeof *raw);
  worker_refuse(w, &copy, rc);
}

/* ---- which lanes are served here */

void worker_adopt(struct worker *w, struct queue_lane *l)
{
  for (uint32_t i = 0; i < w->lane_count; i++) {
    if (w->lane[i] == l) {
      mark_set(&l->moving, 0);
      count_add(&l->holders, (uint32_t)-1);
      return;
    }
  }
  if (w->lane_count == w->lane_room) {
    uint32_t room = w->lane_room ? w->lane_room * 2 : 16;
    struct queue_lane **bigger = alloc_get(w->crew->alloc, room * sizeof(void *));
    if (!bigger) {
      l->node.next = w->adopt;
      w->adopt = &l->node;
      return;
    }
    if (w->lane_count)
      memcpy(bigger, w->lane, w->lane_count * sizeof(void *));
    alloc_put(w->crew->alloc, w->lane, w->lane_room * sizeof(void *));
    w->lane = bigger;
    w->lane_room = room;
  }
  w->lane[w->lane_count] = l;
  mark_set(&w->lane_count, w->lane_count + 1);
  mark_set(&l->moving, 0);
}

void worker_adopt_waiting(struct worker *w)
{
  struct ring_node *n = w->adopt;
  w->adopt = NULL;
  while (n) {
    struct ring_node *next = n->next;
    worker_adopt(w, CHI_CONTAINER_OF(n, struct queue_lane, node));
    n = next;
  }
}
