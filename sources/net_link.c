/* net_link.c - what is asked of one peer: parts that wait, slots, questions, answers. */
#include "net.h"

#define NET_LINK_SLOTS 8u            /* to begin with */
#define NET_LINK_ACKS (NET_SLOTS / 4 * 3) /* answers that are acknowledged at once */
#define NET_LINK_POLL_NS 50000000ull /* a look at a peer that isn't there, while parts wait */
#define NET_LINK_STALL_NS 1000000ull /* a full queue is tried again */

static void net_link_on_timer(struct net *n, struct net_timer *t);
static void net_link_pump(struct net_link *l);

/* ---- links */

struct net_link *net_link_get(struct net *n, uint32_t node)
{
  CHI_ASSERT(node < n->nodes && node != n->self);
  if (n->link[node])
    return n->link[node];
  struct net_link *l = alloc_zero(n->alloc, sizeof *l);
  if (!l)
    return NULL;
  if (net_timer_reserve(n) != CHI_OK) {
    alloc_put(n->alloc, l, sizeof *l);
    return NULL;
  }
  l->net = n;
  l->peer = &n->o.peers->peer[node];
  l->node = node;
  l->boot = l->peer->boot;
  l->timer.due = net_link_on_timer;
  n->link[node] = l;
  return l;
}

void net_link_free(struct net_link *l)
{
  struct net *n = l->net;
  net_timer_release(n, &l->timer);
  alloc_put(n->alloc, l->slot, l->slots * sizeof *l->slot);
  alloc_put(n->alloc, l->seat, l->seats * sizeof *l->seat);
  n->link[l->node] = NULL;
  alloc_put(n->alloc, l, sizeof *l);
}

void net_link_wake(struct net_link *l, uint64_t at)
{
  if (!heap_contains(&l->net->timer, &l->timer.entry) || l->timer.entry.time > at)
    net_timer_set(l->net, &l->timer, at);
}

bool net_link_reaches(const struct net_link *l)
{
  const struct net *n = l->net;
  return l->peer->met && !(n->o.is_dead && n->o.is_dead(n->o.arg, l->node));
}

/* Whether requests may be sent to it now. */
static bool net_link_look(struct net_link *l)
{
  struct net *n = l->net;
  bool there = net_link_reaches(l) && !l->departing;
  if (l->there && !there)
    l->gone = n->now;
  l->there = there;
  return there;
}

/* ---- the queue */

/* It doesn't wait for a peer that isn't there. */
static bool net_part_is_prompt(const struct net_part *part)
{
  return (part->call->ctx->task->flags & TASK_PROMPT) != 0;
}

static void net_link_insert(struct net_link *l, struct net_part *part)
{
  struct net_part *behind = NULL, *before = l->last;
  while (before && before->call->began > part->call->began) {
    behind = before;
    before = before->before;
  }
  part->before = before;
  part->behind = behind;
  if (before)
    before->behind = part;
  else
    l->first = part;
  if (behind)
    behind->before = part;
  else
    l->last = part;
  l->waiting++;
  l->prompt += net_part_is_prompt(part);
  part->state = NET_PART_WAITING;
}

static void net_link_remove(struct net_link *l, struct net_part *part)
{
  CHI_ASSERT(part->state == NET_PART_WAITING && l->waiting > 0);
  if (part->before)
    part->before->behind = part->behind;
  else
    l->first = part->behind;
  if (part->behind)
    part->behind->before = part->before;
  else
    l->last = part->before;
  l->waiting--;
  l->prompt -= net_part_is_prompt(part);
  part->state = NET_PART_NEW;
}

static bool net_part_fits(struct net_part *part)
{
  const chi_ctx *ctx = part->call->ctx;
  const struct method *m = ctx->method;
  part->size = NET_REQUEST_SIZE + (m->wire_in != METHOD_VARIES
                                       ? m->wire_in
                                       : wire_task_size(m->def->type, ctx->task, CHI_DIR_IN));
  return part->size <= PEER_RECORD_MAX && NET_ANSWER_SIZE + m->wire_out <= PEER_RECORD_MAX;
}

void net_part_enqueue(struct net_part *part)
{
  struct net *n = part->call->net;
  struct net_link *l = net_link_get(n, part->node);
  part->link = l;
  int rc = CHI_OK;
  if (!l)
    rc = CHI_ENOMEM;
  else if (!net_part_fits(part))
    rc = CHI_ETOOBIG;
  else if (l->waiting >= NET_WAITING)
    rc = CHI_EBUSY;
  else if (n->given_up)
    rc = CHI_ESHUTDOWN;
  if (rc != CHI_OK) {
    net_part_fail(part, rc);
    return;
  }
  const chi_ctx *ctx = part->call->ctx;
  part->bulk.there = net_bulk_bytes(ctx->method, ctx->task, CHI_DIR_IN);
  part->bulk.back = net_bulk_bytes(ctx->method, ctx->task, CHI_DIR_OUT);
  net_link_insert(l, part);
  net_link_pump(l);
  if (part->state == NET_PART_WAITING && !l->there && net_part_is_prompt(part)) {
    net_link_remove(l, part);
    net_part_fail(part, CHI_EUNREACHABLE);
  } else if (l->departing && n->draining) {
    net_link_forsake(l);
  }
}

void net_link_forsake(struct net_link *l)
{
  while (l->first) {
    struct net_part *part = l->first;
    net_link_remove(l, part);
    net_part_fail(part, CHI_ESHUTDOWN);
  }
}

/* When a part of a call that began then has waited long enough for a peer that isn't there. */
static uint64_t net_link_patience(const struct net_link *l, uint64_t began)
{
  uint64_t since = began > l->gone ? began : l->gone;
  uint64_t wait = l->net->o.wait_for_restart_ns;
  return wait > UINT64_MAX - since ? UINT64_MAX : since + wait;
}

static void net_link_expire(struct net_link *l)
{
  struct net_part *next = NULL;
  for (struct net_part *part = l->first; part && l->prompt > 0; part = next) {
    next = part->behind;
    if (!net_part_is_prompt(part))
      continue;
    net_link_remove(l, part);
    net_part_fail(part, CHI_EUNREACHABLE);
  }
  while (l->first && net_link_patience(l, l->first->call->began) <= l->net->now) {
    struct net_part *part = l->first;
    net_link_remove(l, part);
    net_part_fail(part, CHI_EUNREACHABLE);
  }
}

/* ---- slots */

static bool net_slot_grow(struct net_link *l)
{
  const struct alloc *alloc = l->net->alloc;
  uint32_t room = l->slots ? l->slots * 2 : NET_LINK_SLOTS;
  if (l->slots == NET_SLOTS)
    return false;
  struct net_slot *more = alloc_zero(alloc, room * sizeof *more);
  if (!more)
    return false;
  if (l->slots)
    memcpy(more, l->slot, l->slots * sizeof *more);
  for (uint32_t i = room; i > l->slots; i--) {
    more[i - 1].free = l->free;
    l->free = i;
  }
  alloc_put(alloc, l->slot, l->slots * sizeof *more);
  l->slot = more;
  l->slots = room;
  return true;
}

/* The one that was freed last comes first: using it again acknowledges its last answer. */
static void net_slot_take(struct net_link *l, struct net_part *part)
{
  CHI_ASSERT(l->free > 0);
  part->slot = l->free - 1;
  struct net_slot *s = &l->slot[part->slot];
  CHI_ASSERT(!s->part);
  l->free = s->free;
  l->acks -= s->ack;
  s->ack = false;
  s->part = part;
  part->seq = ++s->seq;
  l->busy++;
  l->bulk.there += part->bulk.there;
  l->bulk.back += part->bulk.back;
  part->state = NET_PART_SENT;
}

static void net_slot_leave(struct net_link *l, struct net_part *part)
{
  struct net_slot *s = &l->slot[part->slot];
  CHI_ASSERT(part->state == NET_PART_SENT && s->part == part && l->busy > 0);
  s->part = NULL;
  s->free = l->free;
  l->free = part->slot + 1;
  l->busy--;
  l->bulk.there -= part->bulk.there;
  l->bulk.back -= part->bulk.back;
  part->state = NET_PART_NEW;
}

/* As if it had not been taken: nothing was sent. */
static void net_slot_return(struct net_link *l, struct net_part *part, bool ack)
{
  struct net_slot *s = &l->slot[part->slot];
  net_slot_leave(l, part);
  s->seq--;
  s->ack = ack;
  l->acks += ack;
}

static void net_slot_ack(struct net_link *l, uint32_t slot, bool now)
{
  struct net *n = l->net;
  if (!l->slot[slot].ack) {
    l->slot[slot].ack = true;
    if (l->acks++ == 0)
      l->ack_at = n->now + NET_ACK_NS;
  }
  if (now || l->departing || n->draining || l->acks >= NET_LINK_ACKS)
    l->ack_at = n->now;
  net_link_wake(l, l->ack_at);
}

/* ---- requests */

static void net_part_describe(const struct net_part *part, struct net_request *r)
{
  const struct net *n = part->call->net;
  const chi_ctx *ctx = part->call->ctx;
  const chi_task *t = ctx->task;
  *r = (struct net_request){.slot = part->slot,
                            .seq = part->seq,
                            .key = part->key,
                            .first = part->first,
                            .count = part->count,
                            .pool = t->pool,
                            .method = ctx->method->def->type->id,
                            .flags = t->flags,
                            .root = ctx->root,
                            .depth = ctx->depth,
                            .compute_us = t->compute_us,
                            .period_us = t->period_us,
                            .io_size = t->io_size,
                            .query = t->query};
  memcpy(r->version, part->call->version, sizeof r->version);
  if (net_call_deadline(part->call) != UINT64_MAX)
    r->remaining = ctx->deadline - n->now - NET_MARGIN_NS;
}

static bool net_part_is_late(const struct net_part *part)
{
  uint64_t deadline = net_call_deadline(part->call);
  return deadline != UINT64_MAX && deadline <= part->call->net->now + NET_MARGIN_NS;
}

/* What a message brings lies in the receiver's memory before anybody there is asked: no more is
 * sent than it takes, nor asked for than is taken here. */
static bool net_part_is_heavy(struct net_link *l, const struct net_part *part)
{
  struct net *n = l->net;
  bool there = part->bulk.there > l->peer->room;
  if (!there && part->bulk.back <= n->o.peers->room)
    return false;
  log_limited(&n->o.crew->log, &n->heavy, n->now, CHI_LOG_WARNING,
              "a task is refused: %llu bytes of bulk data for node %u, which takes %llu "
              "(networking.bulk_max, and half of its memory)",
              (unsigned long long)(there ? part->bulk.there : part->bulk.back),
              there ? l->node : n->self,
              (unsigned long long)(there ? l->peer->room : n->o.peers->room));
  return true;
}

/* Whether these bytes must wait until some of those under way have arrived. */
static bool net_is_crowded(uint64_t under_way, uint64_t more, uint64_t room)
{
  uint64_t most = room < NET_BYTES ? room : NET_BYTES;
  return under_way > 0 && more > 0 && under_way + more > most;
}

/* CHI_EBUSY: the peer has no room now; else a code with which the part is to end. */
static int net_part_send(struct net_link *l, struct net_part *part)
{
  struct net *n = l->net;
  const chi_ctx *ctx = part->call->ctx;
  const chi_type *type = ctx->method->def->type;
  struct wire_out out;
  struct env_frame frame[WIRE_BULKS];
  struct net_request r;
  uint32_t count = 0;
  if (net_part_is_late(part))
    return CHI_ETIMEOUT;
  if (!peer_begin(l->peer, WIRE_REQUEST, part->size, false, &out))
    return CHI_EBUSY;
  if (net_part_is_heavy(l, part))
    return CHI_ENOMEM;
  net_part_describe(part, &r);
  net_request_put(&out, &r);
  int rc = wire_task_put(&out, type, ctx->task, CHI_DIR_IN, frame, &count, WIRE_BULKS);
  if (rc != CHI_OK)
    return rc;
  n->figures.bytes_out += part->size;
  for (uint32_t i = 0; i < count; i++)
    n->figures.bytes_out += frame[i].size;
  if (count > 0) {
    part->pin.count++;
    part->call->pins++;
  }
  peer_post(l->peer, &out, frame, count, count > 0 ? &part->pin : NULL);
  return CHI_OK;
}

static void net_part_ask_in(struct net_link *l, struct net_part *part, uint64_t ns)
{
  part->ask_at = l->net->now + ns;
  if (l->ask_at > part->ask_at || l->busy == 1)
    l->ask_at = part->ask_at;
  net_link_wake(l, l->ask_at);
}

static uint64_t net_link_ask_most(const struct net *n)
{
  uint64_t most = n->o.task_timeout_ns / 4;
  return most < NET_ASK_MAX_NS ? most : NET_ASK_MAX_NS;
}

static uint64_t net_link_ask_first(const struct net *n)
{
  uint64_t most = net_link_ask_most(n);
  return NET_ASK_NS < most ? NET_ASK_NS : most;
}

/* Sends the oldest part that waits; false: nothing more can be sent now. */
static bool net_link_send_first(struct net_link *l)
{
  struct net *n = l->net;
  struct net_part *part = l->first;
  if (net_is_crowded(l->bulk.there, part->bulk.there, l->peer->room) ||
      net_is_crowded(l->bulk.back, part->bulk.back, n->o.peers->room))
    return false;
  if (l->free == 0 && !net_slot_grow(l)) {
    l->stalled = l->busy == 0; /* no memory for a single slot: nobody else will wake us */
    return false;
  }
  bool ack = l->slot[l->free - 1].ack;
  net_link_remove(l, part);
  net_slot_take(l, part);
  int rc = net_part_send(l, part);
  if (rc != CHI_OK) {
    net_slot_return(l, part, ack);
    l->stalled = rc == CHI_EBUSY;
    if (l->stalled)
      net_link_insert(l, part);
    else
      net_part_fail(part, rc);
    return !l->stalled;
  }
  part->heard = n->now;
  part->ask_ns = net_link_ask_first(n);
  net_part_ask_in(l, part, part->ask_ns);
  n->figures.requests++;
  net_trace(n, NET_TRACE_SENT, l->node, part->seq);
  return true;
}

static void net_link_pump(struct net_link *l)
{
  l->stalled = false;
  if (net_link_look(l)) {
    while (l->first && net_link_send_first(l))
      ;
  }
  if (!l->first)
    return;
  if (l->stalled)
    net_link_wake(l, l->net->now + NET_LINK_STALL_NS);
  else if (!l->there)
    net_link_wake(l, l->net->now + NET_LINK_POLL_NS);
}

/* ---- withdrawing */

void net_part_withdraw(struct net_part *part)
{
  if (part->state == NET_PART_WAITING)
    net_link_remove(part->link, part);
  else if (part->state == NET_PART_SENT)
    net_slot_leave(part->link, part);
  else
    net_timer_clear(part->call->net, &part->timer);
  part->state = NET_PART_NEW;
}

/* One item to the peer; it is said again with the next question if there is no room now. */
static void net_link_tell(struct net_link *l, enum wire_kind kind, uint32_t slot, uint64_t seq,
                          int32_t what)
{
  struct wire_out out;
  if (!peer_begin(l->peer, kind, 2 + NET_ITEM_SIZE, true, &out))
    return;
  wire_put_u16(&out, 1);
  net_item_put(&out, slot, seq, what);
  peer_post(l->peer, &out, NULL, 0, NULL);
}

void net_part_abort(struct net_part *part, int code)
{
  struct net_link *l = part->link;
  CHI_ASSERT(part->state == NET_PART_SENT);
  net_link_tell(l, WIRE_CANCEL, part->slot, part->seq, code);
  part->ask_ns = net_link_ask_first(l->net);
  net_part_ask_in(l, part, part->ask_ns);
}

/* ---- questions */

/* No sign of life: it may have run. Whoever has it no longer needs to go on. */
static void net_part_despair(struct net_link *l, struct net_part *part)
{
  net_link_tell(l, WIRE_CANCEL, part->slot, part->seq, CHI_ECANCELLED);
  bool pinned = part->pin.count > 0;
  net_part_withdraw(part);
  net_part_fail(part, CHI_EUNKNOWN);
  if (pinned) /* a peer that takes nothing may not keep the task's memory for ever */
    peer_reset(l->peer);
}

static void net_link_ask_now(struct net_link *l, uint32_t due)
{
  struct net *n = l->net;
  struct wire_out out;
  if (due == 0 || !l->peer->met ||
      !peer_begin(l->peer, WIRE_ASK, 2 + (size_t)due * NET_ITEM_SIZE, true, &out))
    return;
  wire_put_u16(&out, (uint16_t)due);
  for (uint32_t i = 0; i < l->slots; i++) {
    const struct net_part *part = l->slot[i].part;
    if (part && part->ask_at <= n->now)
      net_item_put(&out, i, part->seq, 0);
  }
  peer_post(l->peer, &out, NULL, 0, NULL);
}

/* How long no sign of life is borne: questions and news have to wait for the bulk before them. */
static uint64_t net_link_silence(const struct net_link *l)
{
  uint64_t timeout = l->net->o.task_timeout_ns;
  uint64_t more = (l->bulk.there + l->bulk.back + l->held) * NET_BYTE_NS;
  return timeout < UINT64_MAX - more ? timeout + more : UINT64_MAX;
}

static void net_link_ask(struct net_link *l)
{
  struct net *n = l->net;
  uint64_t silence = net_link_silence(l);
  uint32_t due = 0;
  for (uint32_t i = 0; i < l->slots; i++) {
    struct net_part *part = l->slot[i].part;
    if (!part || part->ask_at > n->now)
      continue;
    if (n->now - part->heard >= silence)
      net_part_despair(l, part);
    else
      due++;
  }
  net_link_ask_now(l, due);
  l->ask_at = UINT64_MAX;
  for (uint32_t i = 0; i < l->slots; i++) {
    struct net_part *part = l->slot[i].part;
    if (!part)
      continue;
    if (part->ask_at <= n->now) {
      if (part->call->cancel != CHI_OK)
        net_link_tell(l, WIRE_CANCEL, i, part->seq, part->call->cancel);
      uint64_t most = net_link_ask_most(n);
      part->ask_at = n->now + part->ask_ns;
      part->ask_ns = part->ask_ns * 2 < most ? part->ask_ns * 2 : most;
    }
    l->ask_at = part->ask_at < l->ask_at ? part->ask_at : l->ask_at;
  }
}

static void net_link_ack(struct net_link *l)
{
  struct wire_out out;
  if (!peer_begin(l->peer, WIRE_ACK, 2 + (size_t)l->acks * NET_ITEM_SIZE, true, &out)) {
    l->ack_at = l->net->now + NET_ASK_NS;
    return;
  }
  wire_put_u16(&out, (uint16_t)l->acks);
  for (uint32_t i = 0; i < l->slots; i++) {
    if (l->slot[i].ack)
      net_item_put(&out, i, l->slot[i].seq, 0);
    l->slot[i].ack = false;
  }
  l->acks = 0;
  peer_post(l->peer, &out, NULL, 0, NULL);
}

static void net_link_on_timer(struct net *n, struct net_timer *t)
{
  struct net_link *l = CHI_CONTAINER_OF(t, struct net_link, timer);
  if (l->acks > 0 && l->ack_at <= n->now)
    net_link_ack(l);
  if (l->busy > 0 && l->ask_at <= n->now)
    net_link_ask(l);
  net_link_pump(l);
  if (!l->there)
    net_link_expire(l);
  if (l->kept > 0 && l->remind_at <= n->now)
    net_seat_remind(l);
  if (n->draining && !l->released && l->tell_at <= n->now)
    net_depart_tell(l);
  if (n->figures.runs_open > 0 && l->look_at <= n->now)
    net_seat_look(l);
  if (l->acks > 0)
    net_link_wake(l, l->ack_at);
  if (l->busy > 0)
    net_link_wake(l, l->ask_at);
  if (l->kept > 0)
    net_link_wake(l, l->remind_at);
  if (n->figures.runs_open > 0 && l->look_at > n->now)
    net_link_wake(l, l->look_at);
  if (n->draining && !l->released)
    net_link_wake(l, l->tell_at);
}

/* ---- losses */

/* A part that is to begin again, as if it were new. */
static void net_part_again(struct net_part *part)
{
  struct net *n = part->call->net;
  part->key = net_key_new(n);
  n->figures.retries++;
  net_trace(n, NET_TRACE_RETRIED, part->node, part->key.seq);
}

static void net_part_lost(struct net_link *l, struct net_part *part)
{
  bool idempotent = (part->call->ctx->method->def->flags & CHI_METHOD_IDEMPOTENT) != 0;
  net_part_withdraw(part);
  if (!idempotent || part->call->cancel != CHI_OK || ++part->tries >= NET_TRIES) {
    net_part_fail(part, CHI_EUNKNOWN);
    return;
  }
  net_part_again(part);
  net_link_insert(l, part);
}

void net_link_lost(struct net_link *l)
{
  net_link_look(l);
  for (uint32_t i = 0; i < l->slots; i++) {
    if (l->slot[i].part)
      net_part_lost(l, l->slot[i].part);
    l->slot[i].ack = false;
  }
  l->acks = 0;
  CHI_ASSERT(l->busy == 0 && l->bulk.there == 0 && l->bulk.back == 0);
  net_link_pump(l);
}

void net_link_on_boot(struct net_link *l)
{
  struct net *n = l->net;
  if (l->boot != l->peer->boot) {
    l->boot = l->peer->boot;
    l->departing = l->released = false;
    net_link_lost(l);
    net_seat_clear(l);
  }
  net_link_look(l);
  if (!net_link_reaches(l)) {
    if (l->first)
      net_link_wake(l, n->now + NET_LINK_POLL_NS);
    return;
  }
  if (n->draining)
    net_depart_tell(l);
  for (uint32_t i = 0; i < l->slots; i++) { /* what was on its way may be lost: ask at once */
    struct net_part *part = l->slot[i].part;
    if (!part)
      continue;
    part->ask_ns = net_link_ask_first(n);
    net_part_ask_in(l, part, 0);
  }
  net_link_pump(l);
}

void net_link_departs(struct net_link *l)
{
  l->departing = true;
  if (l->acks > 0) { /* it waits for them, and no request will carry them */
    l->ack_at = l->net->now;
    net_link_wake(l, l->ack_at);
  }
  net_link_pump(l);
  if (l->net->draining)
    net_link_forsake(l);
}

/* ---- what comes back */

static struct net_part *net_link_part(const struct net_link *l, uint32_t slot, uint64_t seq)
{
  struct net_part *part = slot < l->slots ? l->slot[slot].part : NULL;
  return part && part->seq == seq ? part : NULL;
}

/* True: the caller wants no more, or it has been tried for long enough, and it has ended. */
static bool net_part_is_spent(struct net_part *part, int rc)
{
  const struct net_call *call = part->call;
  bool spent = call->net->now - call->began >= call->net->o.task_timeout_ns;
  if (call->cancel == CHI_OK && !spent)
    return false;
  net_part_fail(part, call->cancel != CHI_OK ? call->cancel : rc);
  return true;
}

static void net_part_on_pause(struct net *n, struct net_timer *t)
{
  struct net_part *part = CHI_CONTAINER_OF(t, struct net_part, timer);
  CHI_ASSERT(part->state == NET_PART_PAUSED);
  part->state = NET_PART_NEW;
  if (part->node == n->self)
    net_part_seek(part);
  else
    net_part_enqueue(part);
}

/* Later, as if it were new, and later the more often that was said. */
static void net_part_pause(struct net_part *part)
{
  struct net *n = part->call->net;
  uint64_t pause = NET_BUSY_NS << (part->busy < 7 ? part->busy : 7);
  part->busy++;
  net_part_again(part);
  part->state = NET_PART_PAUSED;
  part->timer.due = net_part_on_pause;
  net_timer_set(n, &part->timer, n->now + (pause < NET_BUSY_MAX_NS ? pause : NET_BUSY_MAX_NS));
}

/* Where the containers are as far as this node knows; NULL: there is no such pool. */
static const struct pool_map *net_part_map(const struct net_part *part)
{
  const struct net *n = part->call->net;
  const struct pool_entry *e = pool_table_find(n->worker->table, part->call->ctx->task->pool);
  return e && e->state == POOL_READY && part->first < e->map->count ? e->map : NULL;
}

static void net_part_run_home(struct net_part *part, struct container *home)
{
  if (!part->replica)
    part->replica = net_replica(part->call, &part->store);
  if (part->replica)
    net_part_run(part, home);
  else
    net_part_fail(part, CHI_ENOMEM);
}

void net_part_seek(struct net_part *part)
{
  struct net *n = part->call->net;
  const struct pool_map *map = net_part_map(part);
  CHI_ASSERT(part->count == 1);
  if (!map) {
    net_part_fail(part, CHI_ENOENT);
  } else if (map->at[part->first].here) {
    net_part_run_home(part, map->at[part->first].here);
  } else if (map->at[part->first].node != n->self) {
    part->node = map->at[part->first].node;
    net_part_enqueue(part);
  } else if (!net_part_is_spent(part, CHI_EUNREACHABLE)) {
    net_part_pause(part);
  }
}

/* The container is elsewhere, perhaps even here by now. While it is on its way each side names the
 * other: so after a few hops there are pauses between them. */
static void net_part_moved(struct net_part *part, uint32_t node)
{
  struct net *n = part->call->net;
  net_trace(n, NET_TRACE_MOVED, part->node, node);
  if (node >= n->nodes || part->count != 1) {
    net_part_fail(part, CHI_EUNREACHABLE);
    return;
  }
  if (net_part_is_spent(part, CHI_EUNREACHABLE))
    return;
  const struct pool_map *map = node == n->self ? net_part_map(part) : NULL;
  struct container *home = map ? map->at[part->first].here : NULL;
  if (node != n->self)
    part->node = node;
  if (home) {
    net_part_again(part);
    net_part_run_home(part, home);
  } else if (node == n->self || ++part->hops > NET_HOPS) {
    net_part_pause(part);
  } else {
    net_part_again(part);
    net_part_enqueue(part);
  }
}

/* "Not run: busy" is worth another try as long as the caller has time; "not run: I stop", as long
 * as one waits for a restart. */
static void net_part_refused(struct net_part *part, int rc)
{
  if (rc == CHI_ESHUTDOWN && part->call->cancel == CHI_OK) {
    part->link->departing = true;
    net_part_again(part);
    net_part_enqueue(part);
  } else if (rc != CHI_EBUSY && rc != CHI_ENOMEM) {
    net_part_fail(part, rc);
  } else if (!net_part_is_spent(part, CHI_EBUSY)) {
    net_part_pause(part);
  }
}

static bool net_answer_suits(const struct net_answer *a, const struct net_part *part)
{
  const struct net_failures *f = &a->failures;
  if (f->asked != part->count || (a->gathered && f->failed == f->asked))
    return false;
  for (uint32_t i = 0; i < f->listed; i++)
    if (f->item[i].container < part->first || f->item[i].container - part->first >= part->count)
      return false;
  return true;
}

static void net_part_take(struct net_part *part, struct net_answer *a, struct wire_in *in)
{
  const chi_type *type = part->call->ctx->method->def->type;
  if (!a->ran) {
    if (a->moved)
      net_part_moved(part, a->node);
    else
      net_part_refused(part, a->rc);
    return;
  }
  int rc = wire_task_get(in, type, net_part_task(part), CHI_DIR_OUT, NULL, NULL);
  if (rc == CHI_OK && (!wire_in_ended(in) || !net_answer_suits(a, part)))
    rc = CHI_ECORRUPT;
  if (rc == CHI_OK)
    net_part_answered(part, a);
  else
    net_part_fail(part, rc);
}

void net_link_on_answer(struct net_link *l, struct wire_in *in)
{
  struct net *n = l->net;
  struct net_answer a;
  bool big = in->bulk_count > 0;
  n->figures.bytes_in += in->size;
  for (uint32_t i = 0; i < in->bulk_count; i++)
    n->figures.bytes_in += in->bulk[i].size;
  bool sound = net_answer_get(in, &a);
  struct net_part *part = net_link_part(l, a.slot, a.seq);
  if (!part) {
    if (sound && a.slot < l->slots && l->slot[a.slot].seq == a.seq)
      net_slot_ack(l, a.slot, false); /* its acknowledgement was lost */
    return;
  }
  net_slot_leave(l, part);
  net_slot_ack(l, a.slot, big);
  net_trace(n, NET_TRACE_ANSWERED, l->node, a.seq);
  if (sound) {
    net_part_take(part, &a, in);
  } else {
    net_malformed(n, l, "an answer");
    net_part_fail(part, CHI_ECORRUPT);
  }
  net_link_pump(l);
}

static void net_part_unseen(struct net_link *l, struct net_part *part)
{
  struct net *n = l->net;
  int code = part->call->cancel;
  int rc = code != CHI_OK ? code : net_part_send(l, part);
  if (rc == CHI_OK) {
    n->figures.retries++;
    net_trace(n, NET_TRACE_RESENT, l->node, part->seq);
  } else if (rc != CHI_EBUSY) {
    net_part_withdraw(part);
    net_part_fail(part, rc);
  }
}

void net_link_on_state(struct net_link *l, struct wire_in *in)
{
  uint32_t count = wire_get_u16(in);
  for (uint32_t i = 0; i < count; i++) {
    uint32_t slot = 0;
    uint64_t seq = 0;
    int32_t what = 0;
    if (!net_item_get(in, &slot, &seq, &what)) {
      net_malformed(l->net, l, "a state");
      return;
    }
    struct net_part *part = net_link_part(l, slot, seq);
    if (part && what == NET_STATE_RUNNING)
      part->heard = l->net->now;
    else if (part && what == NET_STATE_UNSEEN)
      net_part_unseen(l, part);
    else if (part && what == NET_STATE_KEPT)
      net_part_ask_in(l, part, 0);
    else if (!part && what == NET_STATE_KEPT) /* whatever became of it, it is over */
      net_link_tell(l, WIRE_ACK, slot, seq, 0);
  }
  net_link_pump(l);
}

#undef NET_LINK_SLOTS
#undef NET_LINK_ACKS
#undef NET_LINK_POLL_NS
#undef NET_LINK_STALL_NS
