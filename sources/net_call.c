/* net_call.c - a task for several containers, or for one elsewhere: split, begun, gathered. */
#include "net.h"

/* ---- parts */

static struct net_part *net_part_new(struct net_call *call, const struct pool_map *map,
                                     uint32_t first, uint32_t count)
{
  struct net *n = call->net;
  struct net_part *part = net_take(n, &n->part_spare);
  if (!part)
    return NULL;
  alloc_clear(part, sizeof *part);
  part->call = call;
  part->first = first;
  part->count = count;
  part->node = map->at[first].node;
  return part;
}

static void net_part_free(struct net *n, struct net_part *part)
{
  CHI_ASSERT(part->pin.count == 0);
  if (part->replica)
    worker_record_free(n->worker, part->replica);
  net_store_free(n, &part->store);
  net_return(n, &n->part_spare, part, &part->timer);
}

/* The part keeps the first piece; those behind it follow in the list. One container each if there
 * are few enough, else as many ranges as there may be; the first ones take what doesn't divide. */
static int net_part_split(struct net_part *part, const struct pool_map *map)
{
  struct net_call *call = part->call;
  uint32_t most = call->net->o.neighborhood, whole = part->count;
  bool chain = most < 2;
  uint32_t pieces = chain ? 2 : whole < most ? whole : most;
  uint32_t at = part->first, left = whole;
  struct net_part *last = part;
  for (uint32_t i = 0; i < pieces; i++) {
    uint32_t size = whole / pieces + (i < whole % pieces);
    if (chain)
      size = i == 0 ? 1 : left;
    if (i == 0) {
      part->count = size;
    } else {
      struct net_part *piece = net_part_new(call, map, at, size);
      if (!piece)
        return CHI_ENOMEM;
      piece->next = last->next;
      last->next = piece;
      last = piece;
    }
    at += size;
    left -= size;
  }
  CHI_ASSERT(left == 0);
  return CHI_OK;
}

/* A range that begins on this node is split further, until what begins here is one container. */
static int net_call_split(struct net_call *call, const struct pool_map *map, uint32_t first,
                          uint32_t count)
{
  call->part = net_part_new(call, map, first, count);
  int rc = call->part ? CHI_OK : CHI_ENOMEM;
  if (rc == CHI_OK && count > 1)
    rc = net_part_split(call->part, map);
  for (struct net_part *p = call->part; p && rc == CHI_OK; p = p->next)
    while (rc == CHI_OK && p->count > 1 && p->node == call->net->self)
      rc = net_part_split(p, map);
  return rc;
}

/* Memory for every answer is there before anything is sent. */
static int net_call_provide(struct net_call *call, const struct pool_map *map)
{
  call->several = call->part->next != NULL;
  for (struct net_part *p = call->part; p; p = p->next) {
    bool here = map->at[p->first].here != NULL;
    if (!here && !call->several)
      continue; /* the task itself */
    p->replica = net_replica(call, &p->store);
    if (!p->replica)
      return CHI_ENOMEM;
  }
  return CHI_OK;
}

static void net_call_on_deadline(struct net *n, struct net_timer *t)
{
  (void)n;
  net_call_cancel(CHI_CONTAINER_OF(t, struct net_call, timer), CHI_ETIMEOUT);
}

static void net_call_key(struct net_call *call)
{
  chi_ctx *ctx = call->ctx;
  struct net_key key = {ctx->key_node, ctx->key_boot, ctx->key_seq};
  if (key.seq == 0)
    key = net_key_new(call->net);
  for (struct net_part *p = call->part; p; p = p->next)
    p->key = key;
}

static void net_call_begin(struct net_call *call, const struct pool_map *map)
{
  struct net *n = call->net;
  call->before = NULL;
  call->next = n->calls;
  if (n->calls)
    n->calls->before = call;
  n->calls = call;
  n->figures.calls_open++;
  call->open = 1;
  for (struct net_part *p = call->part; p; p = p->next)
    call->open++;
  net_timer_set(n, &call->timer, net_call_deadline(call));
  for (struct net_part *p = call->part; p; p = p->next) {
    if (map->at[p->first].here)
      net_part_run(p, map->at[p->first].here);
    else if (p->node == n->self)
      net_part_seek(p);
    else
      net_part_enqueue(p);
  }
  call->open--;
  int cancelled = net_call_cancelled(call);
  if (cancelled != CHI_OK)
    net_call_cancel(call, cancelled);
  net_call_settle(call);
}

int net_call_open(struct net *n, chi_ctx *ctx, const struct pool *pool, const struct pool_map *map,
                  uint32_t first, uint32_t count, struct net_run *run, struct net_call **out)
{
  CHI_ASSERT(count > 0 && first < map->count && count <= map->count - first);
  struct net_call *call = net_take(n, &n->call_spare);
  if (!call)
    return CHI_ENOMEM;
  alloc_clear(call, offsetof(struct net_call, failures.item));
  call->net = n;
  call->ctx = ctx;
  call->def = pool->module->def;
  memcpy(call->version, pool->version, sizeof call->version);
  call->run = run;
  call->began = n->now;
  call->timer.due = net_call_on_deadline;
  net_failures_init(&call->failures, count);
  int rc = net_rooms_get(ctx->method, ctx->task, call->rooms);
  if (rc == CHI_OK)
    rc = net_call_split(call, map, first, count);
  if (rc == CHI_OK)
    rc = net_call_provide(call, map);
  if (rc != CHI_OK) {
    net_call_free(call);
    return rc;
  }
  net_call_key(call);
  *out = call;
  net_call_begin(call, map);
  return CHI_OK;
}

void net_call_free(struct net_call *call)
{
  struct net *n = call->net;
  while (call->part) {
    struct net_part *p = call->part;
    call->part = p->next;
    net_part_free(n, p);
  }
  net_return(n, &n->call_spare, call, &call->timer);
}

/* ---- a part that runs here */

static void net_part_on_run(chi_ctx *ctx)
{
  struct net_part *part = ctx->call_arg;
  struct net_call *call = part->call;
  struct net *n = call->net;
  CHI_ASSERT(part->state == NET_PART_HERE && part->replica == ctx);
  n->inside++;
  int rc = ctx->task->rc;
  net_rooms_hold(ctx->method, ctx->task, call->rooms);
  struct net_answer a;
  net_answer_init(&a, rc, 1);
  a.ran = true;
  a.gathered = rc == CHI_OK;
  if (rc != CHI_OK)
    net_failures_add(&a.failures, part->first, rc);
  net_part_answered(part, &a);
  net_leave(n);
}

void net_part_run(struct net_part *part, struct container *container)
{
  struct net_call *call = part->call;
  struct net *n = call->net;
  const chi_ctx *from = call->ctx;
  chi_ctx *ctx = part->replica;
  CHI_ASSERT(ctx && part->count == 1 && part->state != NET_PART_HERE);
  part->state = NET_PART_HERE;
  ctx->origin = TASK_FROM_NODE;
  ctx->container = container;
  ctx->id = worker_new_id(n->worker);
  ctx->root = from->root;
  ctx->deadline = from->deadline;
  ctx->depth = from->depth;
  ctx->slow = from->slow;
  ctx->shielded = from->shielded;
  ctx->key_node = part->key.node;
  ctx->key_boot = part->key.boot;
  ctx->key_seq = part->key.seq;
  ctx->key_index = part->first;
  ctx->call_done = net_part_on_run;
  ctx->call_arg = part;
  tally_add(&n->worker->accepted, 1);
  tally_add(&container->tally[n->worker->index].active, 1);
  worker_submit(n->worker, ctx);
}

chi_task *net_part_task(struct net_part *part)
{
  return part->replica ? part->replica->task : part->call->ctx->task;
}

/* ---- the end of parts */

static void net_part_end(struct net_part *part, int rc)
{
  struct net_call *call = part->call;
  CHI_ASSERT(part->state != NET_PART_ENDED && call->open > 0);
  part->state = NET_PART_ENDED;
  part->rc = rc;
  call->open--;
  net_call_settle(call);
}

void net_part_fail(struct net_part *part, int rc)
{
  struct net *n = part->call->net;
  if (rc == CHI_EUNREACHABLE && part->tries > 0)
    rc = CHI_EUNKNOWN; /* an earlier try may have run */
  net_failures_range(&part->call->failures, part->first, part->count, rc);
  n->figures.unreachable += rc == CHI_EUNREACHABLE;
  n->figures.unknown += rc == CHI_EUNKNOWN;
  if (rc == CHI_EUNREACHABLE)
    net_trace(n, NET_TRACE_UNREACHABLE, part->node, part->key.seq);
  if (rc == CHI_EUNKNOWN)
    net_trace(n, NET_TRACE_UNKNOWN, part->node, part->key.seq);
  net_part_end(part, rc);
}

void net_part_answered(struct net_part *part, const struct net_answer *a)
{
  part->ran = a->ran;
  part->gathered = a->gathered;
  net_failures_join(&part->call->failures, &a->failures);
  net_part_end(part, a->rc);
}

/* ---- cancellation */

uint64_t net_call_deadline(const struct net_call *call)
{
  return call->ctx->shielded ? UINT64_MAX : call->ctx->deadline;
}

int net_call_cancelled(const struct net_call *call)
{
  const chi_ctx *ctx = call->ctx;
  if (ctx->shielded)
    return CHI_OK;
  if ((ctx->queue && queue_cancelled(ctx->queue, ctx->slot, ctx->tag)) || mark_get(&ctx->cancel) ||
      mark_get(&call->net->o.crew->cancel_all))
    return CHI_ECANCELLED;
  return call->net->now >= ctx->deadline ? CHI_ETIMEOUT : CHI_OK;
}

static void net_part_cancel(struct net_part *part, int code)
{
  struct net *n = part->call->net;
  switch (part->state) {
  case NET_PART_WAITING:
  case NET_PART_PAUSED:
    net_part_withdraw(part);
    net_part_fail(part, code);
    break;
  case NET_PART_SENT:
    net_part_abort(part, code);
    break;
  case NET_PART_HERE:
    mark_set(&part->replica->cancel, CHI_ECANCELLED);
    worker_cancel_changed(n->worker);
    break;
  default:
    break;
  }
}

void net_call_cancel(struct net_call *call, int code)
{
  if (call->cancel != CHI_OK || call->done)
    return;
  call->cancel = code;
  call->open++; /* it isn't done under our feet */
  for (struct net_part *p = call->part; p; p = p->next)
    net_part_cancel(p, code);
  call->open--;
  net_call_settle(call);
}

void net_call_give_up(struct net_call *call)
{
  net_call_cancel(call, CHI_ESHUTDOWN);
  call->open++;
  for (struct net_part *p = call->part; p; p = p->next) {
    bool sent = p->state == NET_PART_SENT;
    if (!sent && p->state != NET_PART_WAITING && p->state != NET_PART_PAUSED)
      continue;
    net_part_withdraw(p);
    net_part_fail(p, sent ? CHI_EUNKNOWN : CHI_ESHUTDOWN);
    p->link->choked |= p->pin.count > 0;
  }
  call->open--;
  net_call_settle(call);
}

/* ---- the end of a call */

void net_call_settle(struct net_call *call)
{
  struct net *n = call->net;
  if (call->open > 0 || call->pins > 0 || call->done)
    return;
  call->done = true;
  if (call->before)
    call->before->next = call->next;
  else
    n->calls = call->next;
  if (call->next)
    call->next->before = call->before;
  call->next = NULL;
  *n->done_end = call;
  n->done_end = &call->next;
}

static void net_call_report(struct net_call *call, int rc)
{
  struct net *n = call->net;
  const struct net_failures *f = &call->failures;
  const chi_task *t = call->ctx->task;
  const struct net_key *key = &call->part->key;
  log_limited(&n->o.crew->log, &n->reports, n->now,
              rc == CHI_EUNKNOWN ? CHI_LOG_WARNING : CHI_LOG_DEBUG,
              "method %s of pool %u.%u failed on %u of %u containers, first on %u: %s "
              "task=%u/%llu/%llu",
              call->ctx->method->def->type->name, t->pool.major, t->pool.minor, f->failed, f->asked,
              f->item[0].container, chi_status_name(rc), key->node, (unsigned long long)key->boot,
              (unsigned long long)key->seq);
}

static void net_call_time(const struct net_call *call)
{
  struct net_figures *f = &call->net->figures;
  uint64_t ns = call->net->now - call->began;
  f->calls_ended++;
  f->calls_ns += ns;
  f->call_time[pool_bucket(ns)]++;
}

/* In the task of whoever asked. */
static void net_call_tell(const chi_ctx *ctx, const struct net_failures *f)
{
  chi_task *t = ctx->origin == TASK_FROM_CLIENT ? ctx->shared : ctx->task;
  chi_failures out = {.asked = f->asked, .failed = f->failed, .listed = f->listed};
  t->query.c = ctx->task->query.c = f->failed;
  if (!(ctx->task->flags & CHI_TASK_FAILURES))
    return;
  for (uint32_t i = 0; i < f->listed; i++)
    out.item[i] = (struct chi_failed){f->item[i].container, f->item[i].rc};
  memcpy((char *)t + task_failures_at(ctx->method->def->type), &out, sizeof out);
}

void net_call_end(struct net_call *call)
{
  struct net *n = call->net;
  chi_ctx *ctx = call->ctx;
  for (struct net_part *p = call->part; p; p = p->next)
    net_fold(call, p);
  CHI_ASSERT(call->failures.failed <= call->failures.asked);
  int rc = call->failures.listed > 0 ? call->failures.item[0].rc : CHI_OK;
  if (rc == CHI_ECANCELLED && call->cancel != CHI_OK)
    rc = call->cancel; /* bodies are only told that they are to end, not why */
  if (!call->run)
    net_call_time(call);
  if (rc != CHI_OK && !call->run)
    net_call_report(call, rc);
  struct net_failures failures = call->failures;
  struct net_run *run = call->run;
  bool gathered = call->gathered;
  net_call_free(call);
  n->figures.calls_open--;
  if (run) {
    net_run_end(run, rc, &failures, gathered);
  } else {
    net_call_tell(ctx, &failures);
    net_let_go(n, ctx, rc);
  }
}
