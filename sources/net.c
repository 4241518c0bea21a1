/* net.c - a task between nodes: the door, the clock, and what is counted. */
#include "net.h"

/* ---- life */

int net_open(const struct net_options *options, struct net **out)
{
  const struct alloc *alloc = options->crew->alloc;
  uint32_t nodes = options->peers->count;
  struct net *n = alloc_zero(alloc, sizeof *n);
  if (!n)
    return CHI_ENOMEM;
  n->o = *options;
  n->env = options->crew->env;
  n->alloc = alloc;
  n->worker = &options->crew->worker[options->crew->count - 1];
  n->self = options->peers->self;
  n->nodes = nodes;
  n->done_end = &n->done;
  n->call_spare.size = sizeof(struct net_call);
  n->part_spare.size = sizeof(struct net_part);
  n->run_spare.size = sizeof(struct net_run);
  heap_init(&n->timer, alloc);
  n->link = alloc_zero(alloc, (nodes + 1) * sizeof(struct net_link *));
  if (!n->link) {
    net_close(n);
    return CHI_ENOMEM;
  }
  *out = n;
  return CHI_OK;
}

static void net_close_calls(struct net *n, struct net_call *first)
{
  while (first) {
    struct net_call *call = first;
    first = call->next;
    for (struct net_part *p = call->part; p; p = p->next)
      p->pin.count = 0; /* the post is closed: nobody reads any more */
    if (!call->run)
      worker_record_free(n->worker, call->ctx);
    net_call_free(call);
  }
}

static void net_spare_clear(struct net *n, struct net_spare *s)
{
  while (s->first) {
    void *block = s->first;
    memcpy(&s->first, block, sizeof s->first);
    alloc_put(n->alloc, block, s->size);
  }
  s->count = 0;
}

void net_close(struct net *n)
{
  net_close_calls(n, n->calls);
  net_close_calls(n, n->done);
  while (n->runs) {
    n->runs->pin.count = 0;
    net_run_free(n->runs);
  }
  for (uint32_t i = 0; n->link && i < n->nodes; i++)
    if (n->link[i])
      net_link_free(n->link[i]);
  CHI_ASSERT(n->timers == 0);
  net_shelf_clear(n);
  net_spare_clear(n, &n->call_spare);
  net_spare_clear(n, &n->part_spare);
  net_spare_clear(n, &n->run_spare);
  alloc_put(n->alloc, n->link, (n->nodes + 1) * sizeof(struct net_link *));
  heap_fini(&n->timer);
  alloc_put(n->alloc, n, sizeof *n);
}

/* ---- in and out */

static void net_enter(struct net *n)
{
  uint64_t now = n->worker->now > n->o.peers->now ? n->worker->now : n->o.peers->now;
  n->now = now > n->now ? now : n->now;
  n->inside++;
}

void net_leave(struct net *n)
{
  CHI_ASSERT(n->inside > 0);
  while (n->inside == 1 && n->done) {
    struct net_call *call = n->done;
    n->done = call->next;
    if (!n->done)
      n->done_end = &n->done;
    net_call_end(call);
  }
  n->inside--;
}

/* From the container, which may have to be empty before a call can end, to its pool; and back. */
static void net_hold(struct net *n, chi_ctx *ctx)
{
  tally_add(&ctx->container->tally[n->worker->index].active, (uint64_t)-1);
  tally_add(&ctx->container->pool->calls, 1);
  ctx->container = &ctx->container->pool->container;
}

void net_let_go(struct net *n, chi_ctx *ctx, int rc)
{
  tally_add(&ctx->container->pool->calls, (uint64_t)-1);
  tally_add(&ctx->container->tally[n->worker->index].active, 1);
  worker_end(n->worker, ctx, rc);
}

/* Where the containers are now: the task may have been on its way here while one left. */
static const struct pool_map *net_map(const struct net *n, const chi_ctx *ctx)
{
  const struct pool_entry *e = pool_table_find(n->worker->table, ctx->task->pool);
  return e && e->pool == ctx->container->pool ? e->map : ctx->map;
}

void net_submit(struct net *n, chi_ctx *ctx, uint32_t first, uint32_t count)
{
  struct net_call *call = NULL;
  bool periodic = (ctx->task->flags & CHI_TASK_PERIODIC) != 0;
  net_enter(n);
  net_hold(n, ctx);
  n->figures.calls++;
  int rc = periodic && count > 1 ? CHI_ENOTSUP : n->given_up ? CHI_ESHUTDOWN : CHI_OK;
  if (rc == CHI_OK)
    rc = net_call_open(n, ctx, ctx->container->pool, net_map(n, ctx), first, count, NULL, &call);
  net_leave(n);
  if (rc != CHI_OK)
    net_let_go(n, ctx, rc);
}

void net_look_for_cancelled(struct net *n)
{
  net_enter(n);
  struct net_call *next = NULL;
  for (struct net_call *call = n->calls; call; call = next) {
    next = call->next; /* one that is done leaves this list, but isn't freed */
    int rc = net_call_cancelled(call);
    if (rc != CHI_OK)
      net_call_cancel(call, rc);
  }
  net_leave(n);
}

static void net_try_parked(struct net *n)
{
  struct net_run *next = NULL;
  for (struct net_run *run = n->runs; run; run = next) {
    next = run->next;
    net_run_try_again(run);
  }
}

void net_on_pools(struct net *n)
{
  net_enter(n);
  net_try_parked(n);
  net_leave(n);
}

void net_on_record(struct net *n, struct peer *from, enum wire_kind kind, struct wire_in *record)
{
  net_enter(n);
  struct net_link *l = net_link_get(n, from->node);
  if (!l)
    kind = WIRE_KINDS; /* no memory: as if it had been lost */
  switch (kind) {
  case WIRE_REQUEST:
    net_seat_on_request(l, record);
    break;
  case WIRE_ANSWER:
    net_link_on_answer(l, record);
    break;
  case WIRE_ASK:
    net_seat_on_ask(l, record);
    break;
  case WIRE_STATE:
    net_link_on_state(l, record);
    break;
  case WIRE_CANCEL:
    net_seat_on_cancel(l, record);
    break;
  case WIRE_ACK:
    net_seat_on_ack(l, record);
    break;
  case WIRE_DEPART:
    net_depart_on_record(l, record);
    break;
  default:
    break;
  }
  net_leave(n);
}

void net_on_boot(struct net *n, const struct peer *peer)
{
  net_enter(n);
  struct net_link *l = n->link[peer->node];
  if (!l && n->draining && peer->met)
    l = net_link_get(n, peer->node); /* it must hear that this node stops */
  if (l)
    net_link_on_boot(l);
  net_leave(n);
}

void net_on_reborn(struct net *n)
{
  net_enter(n);
  for (uint32_t i = 0; i < n->nodes; i++) {
    struct net_link *l = n->link[i];
    if (!l)
      continue;
    net_link_lost(l);
    net_seat_clear(l);
    l->released = false;
  }
  net_leave(n);
}

void net_on_dead(struct net *n, uint32_t node)
{
  net_enter(n);
  if (node < n->nodes && n->link[node]) {
    peer_reset(n->link[node]->peer);
    net_link_lost(n->link[node]);
  }
  net_leave(n);
}

void net_on_sent(struct net *n, void *parcel)
{
  struct net_pin *pin = parcel;
  CHI_ASSERT(pin->count > 0);
  net_enter(n);
  pin->count--;
  if (pin->run) {
    net_run_unpinned((struct net_run *)(void *)pin);
  } else {
    struct net_call *call = ((struct net_part *)(void *)pin)->call;
    CHI_ASSERT(call->pins > 0);
    call->pins--;
    net_call_settle(call);
  }
  net_leave(n);
}

/* ---- time */

int net_timer_reserve(struct net *n)
{
  if (n->timers == n->timer.room &&
      heap_reserve(&n->timer, n->timer.room ? n->timer.room * 2 : 32) != CHI_OK)
    return CHI_ENOMEM;
  n->timers++;
  return CHI_OK;
}

void net_timer_release(struct net *n, struct net_timer *t)
{
  net_timer_clear(n, t);
  CHI_ASSERT(n->timers > 0);
  n->timers--;
}

static void net_spare_put(struct net *n, struct net_spare *s, void *block)
{
  if (s->count == NET_SPARE) {
    alloc_put(n->alloc, block, s->size);
    return;
  }
  memcpy(block, &s->first, sizeof s->first);
  s->first = block;
  s->count++;
}

void *net_take(struct net *n, struct net_spare *s)
{
  void *block = s->first;
  if (block) {
    memcpy(&s->first, block, sizeof s->first);
    s->count--;
  } else if (!(block = alloc_get(n->alloc, s->size))) {
    return NULL;
  }
  if (net_timer_reserve(n) == CHI_OK)
    return block;
  net_spare_put(n, s, block);
  return NULL;
}

void net_return(struct net *n, struct net_spare *s, void *block, struct net_timer *t)
{
  net_timer_release(n, t);
  net_spare_put(n, s, block);
}

void net_timer_clear(struct net *n, struct net_timer *t)
{
  if (heap_contains(&n->timer, &t->entry))
    heap_remove(&n->timer, &t->entry);
}

void net_timer_set(struct net *n, struct net_timer *t, uint64_t time)
{
  CHI_ASSERT(t->due != NULL);
  net_timer_clear(n, t);
  if (time == UINT64_MAX)
    return;
  t->entry.time = time;
  t->entry.seq = n->timer_seq++;
  int rc = heap_push(&n->timer, &t->entry);
  CHI_ASSERT(rc == CHI_OK);
}

static void net_give_up(struct net *n)
{
  n->given_up = true;
  struct net_call *next = NULL;
  for (struct net_call *call = n->calls; call; call = next) {
    next = call->next;
    net_call_give_up(call);
  }
  for (uint32_t i = 0; i < n->nodes; i++)
    if (n->link[i] && n->link[i]->choked)
      peer_reset(n->link[i]->peer);
}

uint64_t net_step(struct net *n, uint64_t now)
{
  net_enter(n);
  n->now = now > n->now ? now : n->now;
  uint64_t seq = n->timer_seq; /* what is set from now on waits for the next step */
  for (struct heap_entry *e = heap_top(&n->timer); e && e->time <= n->now && e->seq < seq;
       e = heap_top(&n->timer)) {
    struct net_timer *t = CHI_CONTAINER_OF(heap_pop(&n->timer), struct net_timer, entry);
    t->due(n, t);
  }
  if (n->draining && !n->given_up && n->now >= n->drain_at)
    net_give_up(n);
  if (n->shelf && n->now - n->shelf_used >= NET_SHELF_NS) /* probes step us often enough */
    net_shelf_clear(n);
  net_leave(n);
  struct heap_entry *first = heap_top(&n->timer);
  uint64_t next = first ? first->time : UINT64_MAX;
  return n->draining && !n->given_up && n->drain_at < next ? n->drain_at : next;
}

bool net_called_from(const struct net *n, uint64_t root, const struct pool *pool)
{
  for (const struct net_call *call = n->calls; call; call = call->next) {
    if (call->run || call->ctx->root != root)
      continue;
    const chi_ctx *up = call->ctx->origin == TASK_FROM_CLIENT ? call->ctx : call->ctx->parent;
    for (; up; up = up->parent)
      if (up->container->pool == pool)
        return true;
  }
  return false;
}

uint32_t net_calls_of(const struct net *n, const struct method *method)
{
  uint32_t count = 0;
  for (const struct net_call *call = n->calls; call; call = call->next)
    count += !call->run && call->ctx->method == method;
  return count;
}

bool net_idle(const struct net *n)
{
  return !n->calls && !n->done && n->figures.runs_open == 0;
}

void net_drain(struct net *n, uint64_t at)
{
  bool before = n->draining;
  net_enter(n);
  n->draining = true;
  n->drain_at = at;
  net_try_parked(n); /* they are refused */
  if (!before)
    net_depart_begin(n);
  net_leave(n);
}

/* ---- small things */

struct net_key net_key_new(struct net *n)
{
  return (struct net_key){n->self, n->o.peers->boot, ++n->key_seq};
}

void net_trace(const struct net *n, enum net_trace what, uint32_t peer, uint64_t seq)
{
  if (n->env->trace)
    n->env->trace(n->env, ENV_TRACE_NET, (uint64_t)what, peer, seq);
}

void net_malformed(struct net *n, const struct net_link *l, const char *what)
{
  n->figures.malformed++;
  log_limited(&n->o.crew->log, &n->complaints, n->now, CHI_LOG_WARNING,
              "%s of node %u makes no sense", what, l->node);
}

void net_figures(const struct net *n, struct net_figures *out)
{
  *out = n->figures;
}

void net_peer_figures(const struct net *n, uint32_t node, struct net_peer_figures *out)
{
  const struct net_link *l = node < n->nodes ? n->link[node] : NULL;
  *out = (struct net_peer_figures){0};
  if (l)
    *out = (struct net_peer_figures){.waiting = l->waiting, .open = l->busy, .kept = l->kept};
}

/* Slots that are neither in use nor free. */
static uint32_t net_slots_missing(const struct net_link *l)
{
  uint32_t missing = l->slots - l->busy;
  for (uint32_t at = l->free; at > 0 && missing > 0; at = l->slot[at - 1].free)
    missing--;
  return missing;
}

uint64_t net_credit(const struct net *n)
{
  uint64_t sum = n->figures.calls_open + n->figures.runs_open;
  for (uint32_t i = 0; i < n->nodes; i++) {
    const struct net_link *l = n->link[i];
    sum += n->o.peers->peer[i].waiting + n->o.peers->peer[i].flying;
    if (l)
      sum += l->acks + l->busy + l->bulk.there + l->bulk.back + l->waiting + l->held + l->kept +
             net_slots_missing(l);
  }
  return sum;
}
