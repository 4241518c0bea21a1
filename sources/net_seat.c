/* net_seat.c - what a peer asks of us: each request is run at most once, and answered. */
#include "net.h"

/* What a peer may say of a task. */
#define NET_FLAGS (CHI_TASK_PERIODIC | CHI_TASK_FORGET | CHI_TASK_FORCE_NET | TASK_PROMPT)
#define NET_SEAT_FIRST 8u              /* seats to begin with */
#define NET_SEAT_BYTES (2 * NET_BYTES) /* of requests and kept answers, for one peer */

static void net_run_send(struct net_run *run);

/* ---- seats */

/* The seat of a slot, made if need be; NULL: no memory. */
static struct net_seat *net_seat_at(struct net_link *l, uint32_t slot)
{
  const struct alloc *alloc = l->net->alloc;
  CHI_ASSERT(slot < NET_SLOTS);
  if (slot < l->seats)
    return &l->seat[slot];
  uint32_t room = l->seats ? l->seats : NET_SEAT_FIRST;
  while (room <= slot)
    room *= 2;
  struct net_seat *more = alloc_zero(alloc, room * sizeof *more);
  if (!more)
    return NULL;
  if (l->seats)
    memcpy(more, l->seat, l->seats * sizeof *more);
  alloc_put(alloc, l->seat, l->seats * sizeof *more);
  l->seat = more;
  l->seats = room;
  return &l->seat[slot];
}

static struct net_seat *net_seat_of(const struct net_run *run)
{
  CHI_ASSERT(!run->orphan && run->request.slot < run->link->seats);
  return &run->link->seat[run->request.slot];
}

/* Whoever waits for a task asks for it more often, and gives up when nothing is heard of it. */
static uint64_t net_seat_patience(const struct net *n)
{
  uint64_t timeout = n->o.task_timeout_ns;
  return timeout < UINT64_MAX / 8 ? 2 * timeout + 2 * NET_ASK_MAX_NS : UINT64_MAX / 4;
}

static void net_run_cancel(struct net_run *run, int code)
{
  struct net *n = run->net;
  if (run->call) {
    net_call_cancel(run->call, code);
  } else {
    mark_set(&run->ctx->cancel, CHI_ECANCELLED);
    worker_cancel_changed(n->worker);
  }
}

/* The peer has no more interest in the seat's run. */
static void net_seat_leave(struct net_seat *seat)
{
  struct net_run *run = seat->run;
  seat->run = NULL;
  seat->rc = CHI_OK;
  if (!run)
    return;
  struct net *n = run->net;
  run->orphan = true;
  if (run->state == NET_RUN_RUNNING) {
    n->figures.aborted++;
    net_trace(n, NET_TRACE_ABORTED, run->link->node, run->request.seq);
    net_run_cancel(run, CHI_ECANCELLED);
  } else if (run->pin.count == 0) {
    net_run_free(run);
  }
}

void net_seat_clear(struct net_link *l)
{
  for (uint32_t i = 0; i < l->seats; i++) {
    net_seat_leave(&l->seat[i]);
    l->seat[i].seq = 0;
  }
}

/* ---- runs */

static struct net_run *net_run_new(struct net_link *l, const struct net_request *r)
{
  struct net *n = l->net;
  struct net_run *run = net_take(n, &n->run_spare);
  if (!run)
    return NULL;
  alloc_clear(run, offsetof(struct net_run, request));
  run->pin.run = true;
  run->net = n;
  run->link = l;
  run->request = *r;
  run->arrived = run->heard = n->now;
  run->before = n->last_run;
  if (n->last_run)
    n->last_run->next = run;
  else
    n->runs = run;
  n->last_run = run;
  n->figures.runs_open++;
  return run;
}

void net_run_free(struct net_run *run)
{
  struct net *n = run->net;
  CHI_ASSERT(run->pin.count == 0);
  if (run->before)
    run->before->next = run->next;
  else
    n->runs = run->next;
  if (run->next)
    run->next->before = run->before;
  else
    n->last_run = run->before;
  if (run->state == NET_RUN_ANSWERED) {
    n->figures.answers_kept--;
    run->link->kept--;
  } else {
    n->figures.runs_open--;
  }
  run->link->held -= run->held;
  net_store_free(n, &run->raw);
  net_store_free(n, &run->in);
  net_store_free(n, &run->out);
  if (run->ctx)
    worker_record_free(n->worker, run->ctx);
  if (run->answer != run->small)
    alloc_put(n->alloc, run->answer, run->answer_room);
  net_return(n, &n->run_spare, run, &run->timer);
}

void net_run_unpinned(struct net_run *run)
{
  if (run->orphan && run->state == NET_RUN_ANSWERED && run->pin.count == 0)
    net_run_free(run);
}

/* Memory that counts for the peer; NULL: none, or it has too much already. */
static void *net_run_memory(struct net_run *run, struct net_store *store, uint64_t size)
{
  struct net_link *l = run->link;
  bool alone = l->held == run->held; /* one request may be of any size */
  if (!alone && (size > NET_SEAT_BYTES || l->held > NET_SEAT_BYTES - size))
    return NULL;
  void *data = net_store_get(run->net, store, size);
  if (data) {
    l->held += size;
    run->held += size;
  }
  return data;
}

static void *net_run_bulk(void *arg, const chi_field *field, chi_bulk *bulk, uint64_t size)
{
  struct net_run *run = arg;
  (void)bulk;
  return net_run_memory(run, field->dir & CHI_DIR_OUT ? &run->out : &run->in, size);
}

/* ---- refusal */

static void net_seat_refuse(struct net_link *l, uint32_t slot, const struct net_seat *seat,
                            uint32_t first, uint32_t count)
{
  struct net_answer a;
  struct wire_out out;
  net_answer_init(&a, seat->rc, count);
  a.slot = slot;
  a.seq = seat->seq;
  a.node = seat->moved;
  a.moved = seat->rc == CHI_EUNREACHABLE;
  net_failures_range(&a.failures, first, count, seat->rc);
  if (!peer_begin(l->peer, WIRE_ANSWER, NET_ANSWER_SIZE, true, &out))
    return;
  net_answer_put(&out, &a);
  peer_post(l->peer, &out, NULL, 0, NULL);
}

/* Certainly not run. Frees the run. */
static void net_run_refuse(struct net_run *run, int rc, uint32_t moved)
{
  struct net *n = run->net;
  struct net_link *l = run->link;
  struct net_request r = run->request;
  struct net_seat *seat = net_seat_of(run);
  seat->run = NULL;
  seat->rc = rc;
  seat->moved = moved;
  net_run_free(run);
  n->figures.not_run++;
  net_trace(n, NET_TRACE_NOT_RUN, l->node, r.seq);
  net_seat_refuse(l, r.slot, seat, r.first, r.count);
}

/* ---- answers */

static void net_run_write(struct net_run *run, int rc, const struct net_failures *failures,
                          bool gathered)
{
  struct wire_out out;
  struct net_answer a;
  net_answer_init(&a, rc, 0);
  a.slot = run->request.slot;
  a.seq = run->request.seq;
  a.ran = true;
  a.gathered = gathered;
  a.failures = *failures;
  wire_out_init(&out, run->answer, run->answer_room);
  net_answer_put(&out, &a);
  size_t head = out.used;
  run->frames = 0;
  int done = wire_task_put(&out, run->ctx->method->def->type, run->ctx->task, CHI_DIR_OUT,
                           run->frame, &run->frames, WIRE_BULKS);
  CHI_ASSERT(done != CHI_ETOOBIG);
  /* A method that spoils its own buffers is answered for without fields: CHI_ECORRUPT there. */
  run->answer_size = done == CHI_OK ? out.used : head;
}

void net_run_end(struct net_run *run, int rc, const struct net_failures *failures, bool gathered)
{
  struct net *n = run->net;
  CHI_ASSERT(run->state == NET_RUN_RUNNING && run->pin.count == 0);
  run->call = NULL;
  run->state = NET_RUN_ANSWERED;
  n->figures.runs_open--;
  n->figures.answers_kept++;
  run->arrived = n->now;
  if (run->link->kept++ == 0) {
    run->link->remind_at = n->now + NET_ASK_MAX_NS;
    net_link_wake(run->link, run->link->remind_at);
  }
  if (run->orphan) {
    net_run_free(run);
    return;
  }
  net_run_write(run, rc, failures, gathered);
  worker_record_free(n->worker, run->ctx);
  run->ctx = NULL;
  net_store_free(n, &run->in);
  if (run->frames == 0) /* what little there is lies in the answer itself */
    net_store_free(n, &run->out);
  run->link->held -= run->held - run->out.bytes;
  run->held = run->out.bytes;
  n->figures.answers++;
  net_run_send(run);
}

/* If there is no room now, the peer will ask. */
static void net_run_send(struct net_run *run)
{
  struct net *n = run->net;
  struct wire_out out;
  CHI_ASSERT(run->state == NET_RUN_ANSWERED);
  if (!peer_begin(run->link->peer, WIRE_ANSWER, run->answer_size, true, &out))
    return;
  wire_put_bytes(&out, run->answer, run->answer_size);
  run->pin.count += run->frames > 0;
  n->figures.bytes_out += run->answer_size;
  for (uint32_t i = 0; i < run->frames; i++)
    n->figures.bytes_out += run->frame[i].size;
  peer_post(run->link->peer, &out, run->frame, run->frames, run->frames > 0 ? &run->pin : NULL);
}

static void net_run_on_done(chi_ctx *ctx)
{
  struct net_run *run = ctx->call_arg;
  struct net *n = run->net;
  int rc = ctx->task->rc;
  struct net_failures failures;
  net_failures_init(&failures, 1);
  CHI_ASSERT(run->ctx == ctx);
  n->inside++;
  if (rc != CHI_OK)
    net_failures_add(&failures, run->request.first, rc);
  net_rooms_hold(ctx->method, ctx->task, run->rooms);
  net_run_end(run, rc, &failures, rc == CHI_OK);
  net_leave(n);
}

/* ---- admission */

static void net_run_header(const struct net_request *r, chi_task *t)
{
  t->pool = r->pool;
  t->query = r->query;
  t->method = r->method;
  t->flags = r->flags & NET_FLAGS;
  t->compute_us = r->compute_us;
  t->io_size = r->io_size;
  t->period_us = r->period_us;
}

/* c is NULL for a range: its parts have containers. */
static void net_run_context(struct net_run *run, struct container *c)
{
  const struct net_request *r = &run->request;
  struct net *n = run->net;
  chi_ctx *ctx = run->ctx;
  ctx->origin = TASK_FROM_NODE;
  ctx->container = c;
  ctx->id = worker_new_id(n->worker);
  ctx->root = r->root;
  ctx->depth = (uint8_t)r->depth;
  ctx->key_node = r->key.node;
  ctx->key_boot = r->key.boot;
  ctx->key_seq = r->key.seq;
  ctx->key_index = r->first;
  ctx->call_done = net_run_on_done;
  ctx->call_arg = run;
  uint64_t ns = method_estimate(ctx->method, ctx->task->compute_us, ctx->task->io_size);
  ctx->slow = ns >= COST_SLOW_NS;
  /* Not where many have blocked after all, nor behind one that doesn't come back. */
  const struct worker *brief = worker_brief(n->worker->crew);
  ctx->brief = ns < WORKER_BRIEF_NS && brief && !brief->stuck &&
               tally_get(&brief->blocked_count) < WORKER_FIBERS / 4;
  if (r->remaining != 0 && r->remaining < UINT64_MAX - run->arrived)
    ctx->deadline = run->arrived + r->remaining;
}

/* The task and all that its answer will need; CHI_OK, or why it is refused. */
static int net_run_read(struct net_run *run, const struct method *m, struct wire_in *in)
{
  struct net *n = run->net;
  const chi_type *type = m->def->type;
  run->ctx = worker_record(n->worker, type->size);
  if (!run->ctx)
    return CHI_ENOMEM;
  run->ctx->method = m;
  memset(run->ctx->task, 0, type->size);
  net_run_header(&run->request, run->ctx->task);
  int rc = wire_task_get(in, type, run->ctx->task, CHI_DIR_IN, net_run_bulk, run);
  if (rc == CHI_OK && !wire_in_ended(in))
    rc = CHI_ECORRUPT;
  if (rc == CHI_OK)
    rc = net_rooms_get(m, run->ctx->task, run->rooms);
  if (rc != CHI_OK)
    return rc;
  run->answer_room = NET_ANSWER_SIZE + m->wire_out;
  if (run->answer_room > PEER_RECORD_MAX)
    return CHI_ETOOBIG;
  run->answer = run->answer_room <= sizeof run->small ? run->small
                                                      : alloc_get(n->alloc, run->answer_room);
  return run->answer ? CHI_OK : CHI_ENOMEM;
}

static void net_run_start(struct net_run *run)
{
  struct net *n = run->net;
  chi_ctx *ctx = run->ctx;
  run->state = NET_RUN_RUNNING;
  n->figures.runs++;
  tally_add(&n->worker->accepted, 1);
  tally_add(&ctx->container->tally[n->worker->index].active, 1);
  worker_submit(n->worker, ctx);
}

static int net_run_admit(struct net_run *run, const struct pool_entry *e, struct wire_in *in)
{
  struct net *n = run->net;
  const struct net_request *r = &run->request;
  const struct pool_map *map = e->map;
  struct container *here = map->at[r->first].here;
  int rc = net_run_read(run, module_method(e->pool->module, r->method), in);
  if (rc != CHI_OK)
    return rc;
  net_run_context(run, here);
  if (r->count == 1) {
    net_run_start(run);
    return CHI_OK;
  }
  run->state = NET_RUN_RUNNING;
  n->figures.runs++;
  rc = net_call_open(n, run->ctx, e->pool, map, r->first, r->count, run, &run->call);
  if (rc != CHI_OK)
    n->figures.runs--;
  return rc;
}

/* It is for a pool that is to follow the one here. */
static bool net_request_is_ahead(const struct net_request *r, const struct pool *pool)
{
  return pool->shared && r->version[0] > pool->version[0];
}

/* It is for a former pool with this id, or for another one that was given it at the same time. */
static bool net_request_is_stray(const struct net_request *r, const struct pool *pool)
{
  return r->version[0] != 0 &&
         (r->version[0] != pool->version[0] || r->version[1] != pool->version[1]);
}

enum net_verdict { NET_ADMIT, NET_PARK, NET_REFUSE };

static enum net_verdict net_run_judge(const struct net_run *run, const struct pool_entry *e,
                                      int *rc, uint32_t *moved)
{
  const struct net *n = run->net;
  const struct net_request *r = &run->request;
  *rc = CHI_ESHUTDOWN;
  if (n->draining && !pool_id_equal(r->pool, CHI_ADMIN_POOL))
    return NET_REFUSE;
  *rc = CHI_ENOENT;
  if (!e || e->state == POOL_CREATING || net_request_is_ahead(r, e->pool))
    return NET_PARK;
  if (e->state != POOL_READY)
    return NET_REFUSE;
  *rc = CHI_ECONFLICT;
  if (net_request_is_stray(r, e->pool))
    return NET_REFUSE;
  *rc = CHI_ENOMETHOD;
  if (!module_method(e->pool->module, r->method))
    return NET_REFUSE;
  *rc = CHI_ERANGE;
  if (r->first >= e->map->count || r->count > e->map->count - r->first)
    return NET_REFUSE;
  *rc = CHI_EUNREACHABLE;
  *moved = e->map->at[r->first].node;
  if (r->count == 1 && !e->map->at[r->first].here)
    return NET_REFUSE;
  return NET_ADMIT;
}

/* ---- parking */

/* Its own time may be over before one gives the pool up. */
static void net_run_on_patience(struct net *n, struct net_timer *t)
{
  struct net_run *run = CHI_CONTAINER_OF(t, struct net_run, timer);
  uint64_t left = run->request.remaining;
  CHI_ASSERT(run->state == NET_RUN_PARKED);
  bool late = left != 0 && n->now - run->arrived >= left;
  net_run_refuse(run, late ? CHI_ETIMEOUT : CHI_ENOENT, 0);
}

/* Keeps a copy of what came. */
static int net_run_keep(struct net_run *run, const struct wire_in *in)
{
  struct wire_in *kept = &run->parked;
  size_t left = in->size - in->at;
  unsigned char *bytes = net_run_memory(run, &run->raw, left ? left : 1);
  if (!bytes || in->bulk_count > WIRE_BULKS)
    return CHI_ENOMEM;
  memcpy(bytes, in->data + in->at, left);
  wire_in_init(kept, bytes, left);
  for (uint32_t i = 0; i < in->bulk_count; i++) {
    void *data = net_run_memory(run, &run->raw, in->bulk[i].size);
    if (!data)
      return CHI_ENOMEM;
    memcpy(data, in->bulk[i].data, in->bulk[i].size);
    run->frame[i] = (struct env_frame){data, in->bulk[i].size};
  }
  kept->bulk = run->frame;
  kept->bulk_count = in->bulk_count;
  return CHI_OK;
}

static int net_run_park(struct net_run *run, const struct wire_in *in)
{
  struct net *n = run->net;
  uint64_t wait = n->o.wait_for_restart_ns, left = run->request.remaining;
  int rc = net_run_keep(run, in);
  if (rc != CHI_OK)
    return rc;
  wait = left != 0 && left < wait ? left : wait;
  run->timer.due = net_run_on_patience;
  net_timer_set(n, &run->timer, wait < UINT64_MAX - n->now ? n->now + wait : UINT64_MAX);
  return CHI_OK;
}

/* `in` is what is left to be read of the request; or, when parked, NULL. */
static void net_run_try(struct net_run *run, struct wire_in *in)
{
  struct net *n = run->net;
  struct wire_in kept = run->parked;
  const struct pool_entry *e = pool_table_find(n->worker->table, run->request.pool);
  int rc = CHI_OK;
  uint32_t moved = 0;
  enum net_verdict verdict = net_run_judge(run, e, &rc, &moved);
  if (verdict == NET_PARK && in)
    rc = net_run_park(run, in);
  if (verdict == NET_PARK && (!in || rc == CHI_OK))
    return;
  if (verdict == NET_ADMIT) {
    net_timer_clear(n, &run->timer);
    rc = net_run_admit(run, e, in ? in : &kept);
    if (rc == CHI_OK) {
      run->held -= run->raw.bytes;
      run->link->held -= run->raw.bytes;
      net_store_free(n, &run->raw);
      return;
    }
    run->state = NET_RUN_PARKED;
  }
  net_run_refuse(run, rc, moved);
}

void net_run_try_again(struct net_run *run)
{
  if (run->state == NET_RUN_PARKED && !run->orphan)
    net_run_try(run, NULL);
}

/* ---- records */

/* A request that has come before: its answer again, or nothing that the peer doesn't know. */
static void net_seat_repeat(struct net_link *l, uint32_t slot)
{
  struct net *n = l->net;
  const struct net_seat *seat = &l->seat[slot];
  n->figures.repeats++;
  net_trace(n, NET_TRACE_REPEATED, l->node, seat->seq);
  if (seat->run)
    seat->run->heard = n->now;
  if (seat->run && seat->run->state == NET_RUN_ANSWERED)
    net_run_send(seat->run);
  else if (!seat->run && seat->rc != CHI_OK)
    net_seat_refuse(l, slot, seat, seat->first, seat->count);
}

void net_seat_on_request(struct net_link *l, struct wire_in *in)
{
  struct net *n = l->net;
  struct net_request r;
  n->figures.bytes_in += in->size;
  for (uint32_t i = 0; i < in->bulk_count; i++)
    n->figures.bytes_in += in->bulk[i].size;
  bool sound = net_request_get(in, &r);
  struct net_seat *seat = r.seq != 0 ? net_seat_at(l, r.slot) : NULL;
  if (!sound)
    net_malformed(n, l, "a request");
  if (!seat || r.seq < seat->seq)
    return; /* without memory it is as if it had been lost */
  if (r.seq == seat->seq) {
    net_seat_repeat(l, r.slot);
    return;
  }
  net_seat_leave(seat);
  *seat = (struct net_seat){.seq = r.seq, .first = r.first, .count = r.count ? r.count : 1};
  if (sound)
    seat->run = net_run_new(l, &r);
  if (seat->run) {
    if (l->look_at <= n->now)
      l->look_at = n->now + net_seat_patience(n);
    net_link_wake(l, l->look_at);
    net_run_try(seat->run, in);
    return;
  }
  seat->rc = sound ? CHI_ENOMEM : CHI_ECORRUPT;
  n->figures.not_run++;
  net_trace(n, NET_TRACE_NOT_RUN, l->node, r.seq);
  net_seat_refuse(l, r.slot, seat, seat->first, seat->count);
}

/* What is to be said of a request that a peer asks for; 0: nothing, or its answer. */
static int32_t net_seat_state(const struct net_link *l, uint32_t slot, uint64_t seq)
{
  const struct net_seat *seat = slot < l->seats ? &l->seat[slot] : NULL;
  if (!seat || seat->seq < seq)
    return NET_STATE_UNSEEN;
  bool running = seat->seq == seq && seat->run && seat->run->state != NET_RUN_ANSWERED;
  return running ? NET_STATE_RUNNING : 0;
}

static void net_seat_heard(struct net_link *l, uint32_t slot)
{
  if (slot < l->seats && l->seat[slot].run)
    l->seat[slot].run->heard = l->net->now;
}

/* Answers go first: nothing else may be begun while a record is. */
static uint32_t net_seat_answer_again(struct net_link *l, struct wire_in in, uint32_t count,
                                      bool *sound)
{
  uint32_t told = 0;
  for (uint32_t i = 0; i < count; i++) {
    uint32_t slot = 0;
    uint64_t seq = 0;
    int32_t what = 0;
    *sound = net_item_get(&in, &slot, &seq, &what);
    if (!*sound)
      return 0;
    if (net_seat_state(l, slot, seq) == NET_STATE_RUNNING)
      net_seat_heard(l, slot);
    if (net_seat_state(l, slot, seq) != 0)
      told++;
    else if (l->seat[slot].seq == seq)
      net_seat_repeat(l, slot);
  }
  return told;
}

void net_seat_on_ask(struct net_link *l, struct wire_in *in)
{
  struct wire_out out;
  bool sound = true;
  uint32_t count = wire_get_u16(in);
  uint32_t told = count <= NET_SLOTS ? net_seat_answer_again(l, *in, count, &sound) : 0;
  if (!sound || count > NET_SLOTS) {
    net_malformed(l->net, l, "a question");
    return;
  }
  if (told == 0 || !peer_begin(l->peer, WIRE_STATE, 2 + (size_t)told * NET_ITEM_SIZE, true, &out))
    return;
  wire_put_u16(&out, (uint16_t)told);
  for (uint32_t i = 0; i < count; i++) {
    uint32_t slot = 0;
    uint64_t seq = 0;
    int32_t what = 0;
    net_item_get(in, &slot, &seq, &what);
    what = net_seat_state(l, slot, seq);
    if (what != 0)
      net_item_put(&out, slot, seq, what);
  }
  peer_post(l->peer, &out, NULL, 0, NULL);
}

static bool net_seat_is_late(const struct net_seat *seat, uint64_t now)
{
  return seat->run && seat->run->state == NET_RUN_ANSWERED &&
         now - seat->run->arrived >= NET_ASK_NS;
}

void net_seat_remind(struct net_link *l)
{
  struct wire_out out;
  uint32_t count = 0;
  l->remind_at = l->net->now + NET_ASK_MAX_NS;
  for (uint32_t i = 0; i < l->seats; i++)
    count += net_seat_is_late(&l->seat[i], l->net->now);
  if (count == 0 || !peer_begin(l->peer, WIRE_STATE, 2 + (size_t)count * NET_ITEM_SIZE, true, &out))
    return;
  wire_put_u16(&out, (uint16_t)count);
  for (uint32_t i = 0; i < l->seats; i++)
    if (net_seat_is_late(&l->seat[i], l->net->now))
      net_item_put(&out, i, l->seat[i].seq, NET_STATE_KEPT);
  peer_post(l->peer, &out, NULL, 0, NULL);
}

void net_seat_look(struct net_link *l)
{
  struct net *n = l->net;
  uint64_t wait = net_seat_patience(n);
  l->look_at = n->now + wait;
  for (uint32_t i = 0; i < l->seats; i++) {
    struct net_run *run = l->seat[i].run;
    if (!run || run->state != NET_RUN_RUNNING)
      continue;
    if (n->now - run->heard < wait) {
      l->look_at = run->heard + wait < l->look_at ? run->heard + wait : l->look_at;
      continue;
    }
    n->figures.aborted++;
    net_trace(n, NET_TRACE_ABORTED, l->node, run->request.seq);
    run->heard = n->now;
    net_run_cancel(run, CHI_ECANCELLED);
  }
}

static void net_seat_cancel(struct net_seat *seat, int code)
{
  struct net_run *run = seat->run;
  if (run && run->state == NET_RUN_PARKED)
    net_run_refuse(run, code, 0);
  else if (run && run->state == NET_RUN_RUNNING)
    net_run_cancel(run, code);
}

static void net_seat_release(struct net_seat *seat)
{
  if (!seat->run || seat->run->state == NET_RUN_ANSWERED)
    net_seat_leave(seat);
}

void net_seat_on_cancel(struct net_link *l, struct wire_in *in)
{
  uint32_t count = wire_get_u16(in), slot = 0;
  uint64_t seq = 0;
  int32_t code = 0;
  for (uint32_t i = 0; i < count; i++) {
    if (!net_item_get(in, &slot, &seq, &code)) {
      net_malformed(l->net, l, "a cancellation");
      return;
    }
    bool timed_out = code == CHI_ETIMEOUT;
    if (slot < l->seats && l->seat[slot].seq == seq)
      net_seat_cancel(&l->seat[slot], timed_out ? CHI_ETIMEOUT : CHI_ECANCELLED);
  }
}

void net_seat_on_ack(struct net_link *l, struct wire_in *in)
{
  uint32_t count = wire_get_u16(in), slot = 0;
  uint64_t seq = 0;
  int32_t what = 0;
  for (uint32_t i = 0; i < count; i++) {
    if (!net_item_get(in, &slot, &seq, &what)) {
      net_malformed(l->net, l, "an acknowledgement");
      return;
    }
    if (slot < l->seats && l->seat[slot].seq == seq)
      net_seat_release(&l->seat[slot]);
  }
}

#undef NET_FLAGS
#undef NET_SEAT_FIRST
#undef NET_SEAT_BYTES
