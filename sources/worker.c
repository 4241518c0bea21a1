/* worker.c - the step: tasks, ready fibers, blocked tasks, timers. */
#include "worker.h"
#include "route.h"
#include "sync.h"

#define WORKER_RETRY_NS 10000000u /* until a lane for which there was no memory is tried again */
#define WORKER_TIMERS 16u         /* for which there is always room */

static void worker_loop(void *arg);
static void worker_finish(struct worker *w, chi_ctx *ctx, int rc, bool kept);

static void worker_trace(const struct worker *w, int what, const chi_ctx *ctx, uint64_t c)
{
  if (w->crew->env->trace)
    w->crew->env->trace(w->crew->env, what, w->index, ctx->id, c);
}

CHI_APART static void worker_trace_cost(const struct worker *w, const chi_ctx *ctx)
{
  if (ctx->method->def->compute_us)
    worker_trace(w, ENV_TRACE_COST, ctx, ctx->method->def->compute_us * UINT64_C(1000));
}

CHI_APART static void worker_trace_begin(const struct worker *w, const chi_ctx *ctx)
{
  worker_trace(w, ENV_TRACE_BEGIN, ctx,
               (uint64_t)ctx->container->pool->id.major << 16 | ctx->task->method);
  /* The body of a periodic one begins again and again, as it should. */
  if (ctx->key_seq != 0 && !(ctx->task->flags & CHI_TASK_PERIODIC))
    w->crew->env->trace(w->crew->env, ENV_TRACE_KEY,
                        (uint64_t)ctx->key_node << 32 | ctx->key_index, ctx->key_seq,
                        ctx->key_boot);
}

/* ---- fibers */

/* Room for one more timer: of those there are, each fiber may need one whenever it blocks. */
static int worker_timer_room(struct worker *w)
{
  uint32_t need = w->timer.count + w->fibers + 1, room = WORKER_TIMERS;
  while (room < need)
    room *= 2;
  return heap_reserve(&w->timer, room);
}

static struct worker_fiber *worker_fiber_open(struct worker *w)
{
  struct worker_crew *crew = w->crew;
  if (worker_timer_room(w) != CHI_OK)
    return NULL;
  struct worker_fiber *f = alloc_zero(crew->alloc, sizeof *f);
  if (!f)
    return NULL;
  if (crew->env->stack_open(crew->env, crew->stack_size, &f->stack) != CHI_OK) {
    alloc_put(crew->alloc, f, sizeof *f);
    return NULL;
  }
  f->worker = w;
  mark_set(&w->fibers, w->fibers + 1);
  return f;
}

static void worker_fiber_close(struct worker *w, struct worker_fiber *f)
{
  fiber_fini(&f->fiber);
  w->crew->env->stack_close(w->crew->env, &f->stack);
  alloc_put(w->crew->alloc, f, sizeof *f);
  mark_set(&w->fibers, w->fibers - 1);
}

static void worker_spare(struct worker *w, struct worker_fiber *f)
{
  f->next = w->spare;
  w->spare = f;
  w->spares++;
}

static struct worker_fiber *worker_unspare(struct worker *w)
{
  struct worker_fiber *f = w->spare;
  CHI_ASSERT(f && w->spares > 0);
  w->spare = f->next;
  w->spares--;
  if (!f->fiber.entry) /* before it is needed, its stack takes no memory */
    fiber_init(&f->fiber, f->stack.base, f->stack.size, worker_loop, f);
  return f;
}

bool worker_may_begin(struct worker *w, uint32_t depth)
{
  if (w->spares > 0)
    return true;
  if (depth >= WORKER_DEPTH || w->fibers > WORKER_FIBERS + depth * WORKER_RESERVE)
    return false;
  struct worker_fiber *f = worker_fiber_open(w);
  if (!f)
    return false;
  worker_spare(w, f);
  return true;
}

/* ---- messages */

void worker_ring(struct worker *from, struct worker *to)
{
  /* The brief one has the thread of the network worker, which looks. */
  if (from->kind == WORKER_NETWORK && to->kind == WORKER_BRIEF)
    return;
  if (from != to && bell_wanted(to->word, &from->rung[to->index]))
    to->crew->env->bell_ring(to->crew->env, to->bell);
}

void worker_send(struct worker *from, struct worker *to, struct ring_node *n)
{
  inbox_push(&to->inbox, n);
  worker_ring(from, to);
}

void worker_cancel_changed(struct worker *from)
{
  struct worker_crew *crew = from->crew;
  count_add(&crew->cancel_epoch, 1);
  for (uint32_t i = 0; i < crew->count; i++)
    worker_ring(from, &crew->worker[i]);
}

struct worker *worker_of_slow(struct worker_crew *crew)
{
  uint32_t turn = count_add(&crew->turn, 1);
  for (uint32_t i = 0; i < crew->slow; i++) {
    struct worker *w = &crew->worker[crew->fast + (turn + i) % crew->slow];
    if (!mark_get(&w->inside) && !mark_get(&w->full))
      return w;
  }
  return &crew->worker[crew->fast + turn % crew->slow];
}

/* To the network worker: it is for other nodes. */
static void worker_send_away(struct worker *w, chi_ctx *ctx)
{
  struct worker *network = worker_lend(w, ctx);
  ctx->node.kind = NODE_REMOTE;
  ring_push(&network->urgent, &ctx->node);
  worker_ring(w, network);
}

/* The worker that is to begin a task which w has in its hands. */
static struct worker *worker_for(struct worker *w, const chi_ctx *ctx)
{
  struct worker_crew *crew = w->crew;
  if (pool_id_equal(ctx->container->pool->id, CHI_ADMIN_POOL))
    return &crew->worker[crew->count - 1];
  if (w->kind == WORKER_SLOW || (w->kind == WORKER_FAST && !ctx->slow))
    return w;
  if (ctx->brief)
    return worker_brief(crew);
  if (ctx->slow || crew->fast == 0)
    return worker_of_slow(crew);
  return &crew->worker[count_add(&crew->turn, 1) % crew->fast];
}

void worker_submit(struct worker *w, chi_ctx *ctx)
{
  if (ctx->map) {
    worker_send_away(w, ctx);
    return;
  }
  struct worker *to = worker_for(w, ctx);
  ctx->state = TASK_QUEUED;
  ctx->node.kind = NODE_TASK;
  ring_push(ctx->depth > 0 ? &to->urgent : &to->queue, &ctx->node);
  worker_ring(w, to);
}

/* ---- the container's gate */

/* Somebody has been let in: a blocked task goes on where its fiber is, a new one begins here, or
 * on the worker that it belongs to. */
static void worker_granted(struct worker *w, struct ring_node *n)
{
  chi_ctx *ctx = task_of(n);
  if (ctx->state == TASK_BLOCKED) {
    ctx->node.kind = NODE_ENTERED;
    if (ctx->worker == w)
      task_list_push(&w->ready, ctx);
    else
      worker_send(w, ctx->worker, &ctx->node);
    return;
  }
  struct worker *to = worker_for(w, ctx);
  ctx->node.kind = NODE_GRANTED;
  ring_push(&to->urgent, &ctx->node);
  worker_ring(w, to);
}

static void worker_leave(struct worker *w, struct container *c)
{
  struct ring_node *n = c->parallel ? NULL : gate_leave(&c->gate);
  if (n)
    worker_granted(w, n);
}

static void worker_count_out(const struct worker *w, struct container *c)
{
  uint64_t *active = &c->tally[w->index].active;
  mark_set(active, *active - 1); /* whoever sees the last one end sees all it did */
}

/* Leaves the container that was kept for a task that might have come. */
CHI_APART static void worker_unkeep(struct worker *w)
{
  struct container *c = w->kept;
  w->kept = NULL;
  worker_leave(w, c);
  worker_count_out(w, c); /* it may be gone from here on */
}

CHI_APART static void worker_pay(struct worker *w)
{
  bell_fence();
  worker_pay_after_fence(w);
}

/* At the end of a piece of work: nothing is kept, nothing is owed. */
static inline void worker_settle(struct worker *w)
{
  if (w->kept)
    worker_unkeep(w);
  if (w->owed)
    worker_pay(w);
}

/* ---- cancellation */

int worker_cancelled(const chi_ctx *ctx)
{
  const struct worker *w = ctx->worker;
  if (ctx->shielded)
    return CHI_OK;
  if (ctx->queue && queue_cancelled(ctx->queue, ctx->slot, ctx->tag))
    return CHI_ECANCELLED;
  if (mark_get(&ctx->cancel) || (w && mark_get(&w->crew->cancel_all)))
    return CHI_ECANCELLED;
  return w && w->now >= ctx->deadline ? CHI_ETIMEOUT : CHI_OK;
}

static bool worker_interruptible(const chi_ctx *ctx)
{
  return ctx->wait == TASK_WAIT_TIME || ctx->wait == TASK_WAIT_SUBTASK ||
         ctx->wait == TASK_WAIT_SYNC;
}

/* ---- blocking and waking */

static void worker_blocked_add(struct worker *w, chi_ctx *ctx)
{
  ctx->blocked_prev = NULL;
  ctx->blocked_next = w->blocked;
  if (w->blocked)
    w->blocked->blocked_prev = ctx;
  w->blocked = ctx;
  tally_add(&w->blocked_count, 1);
}

static void worker_blocked_drop(struct worker *w, chi_ctx *ctx)
{
  if (ctx->blocked_prev)
    ctx->blocked_prev->blocked_next = ctx->blocked_next;
  else
    w->blocked = ctx->blocked_next;
  if (ctx->blocked_next)
    ctx->blocked_next->blocked_prev = ctx->blocked_prev;
  tally_add(&w->blocked_count, (uint64_t)-1);
}

/* The heap has room for every task that can be blocked; a resting one makes its own before. */
static void worker_timer_set(struct worker *w, chi_ctx *ctx, uint64_t time)
{
  if (time == UINT64_MAX)
    return;
  ctx->timer.time = time;
  ctx->timer.seq = w->timer_seq++;
  int rc = heap_push(&w->timer, &ctx->timer);
  CHI_ASSERT(rc == CHI_OK);
}

static void worker_timer_clear(struct worker *w, chi_ctx *ctx)
{
  if (heap_contains(&w->timer, &ctx->timer))
    heap_remove(&w->timer, &ctx->timer);
}

int worker_block(chi_ctx *ctx, enum task_wait wait, uint64_t until)
{
  struct worker *w = ctx->worker;
  CHI_ASSERT(w->running == ctx && ctx->state == TASK_RUNNING);
  ctx->wait = (uint8_t)wait;
  ctx->state = TASK_BLOCKED; /* wait_rc is the waker's: it may have been there already */
  if (worker_interruptible(ctx))
    worker_timer_set(w, ctx, until < ctx->deadline || ctx->shielded ? until : ctx->deadline);
  else if (wait == TASK_WAIT_PAUSE)
    worker_timer_set(w, ctx, until);
  worker_blocked_add(w, ctx);
  worker_trace(w, ENV_TRACE_BLOCK, ctx, (uint64_t)wait);
  struct worker_fiber *mine = w->fiber, *next = worker_unspare(w);
  ctx->fiber = mine;
  w->running = NULL;
  w->switches++;
  mark_set(&w->inside, 0);
  worker_leave(w, ctx->container);
  w->fiber = next;
  fiber_switch(&mine->fiber, &next->fiber);
  CHI_ASSERT(w->fiber == mine && ctx->worker == w);
  w->running = ctx;
  ctx->state = TASK_RUNNING;
  mark_set(&w->inside, 1);
  worker_trace(w, ENV_TRACE_RESUME, ctx, (uint64_t)(int64_t)ctx->wait_rc);
  return ctx->wait_rc;
}

/* The task's own worker: it is awake; what remains is to enter its container again. */
static void worker_ready(struct worker *w, chi_ctx *ctx)
{
  CHI_ASSERT(ctx->worker == w && ctx->state == TASK_BLOCKED);
  worker_timer_clear(w, ctx);
  ctx->wait = TASK_WAIT_GATE;
  if (ctx->container->parallel || gate_enter(&ctx->container->gate, &ctx->node))
    task_list_push(&w->ready, ctx);
}

void worker_wake(struct worker *from, chi_ctx *ctx, int rc)
{
  ctx->wait_rc = rc;
  if (ctx->worker == from) {
    worker_ready(from, ctx);
    return;
  }
  ctx->node.kind = NODE_RESUME;
  worker_send(from, ctx->worker, &ctx->node);
}

void worker_wake_all(struct worker *from, chi_ctx *woken)
{
  while (woken) {
    chi_ctx *next = woken->sync_next; /* it may be running elsewhere once it is woken */
    worker_wake(from, woken, CHI_OK);
    woken = next;
  }
}

/* Timer or cancellation of a task blocked here: wakes it unless somebody else already does. */
static void worker_interrupt(struct worker *w, chi_ctx *ctx, int rc)
{
  chi_ctx *woken = NULL;
  if (ctx->wait == TASK_WAIT_SYNC && !sync_abandon(ctx, w->crew->alloc, &woken))
    return;
  ctx->wait_rc = rc;
  worker_ready(w, ctx);
  worker_wake_all(w, woken);
}

static void worker_resume(struct worker *w, chi_ctx *ctx)
{
  struct worker_fiber *mine = w->fiber;
  worker_blocked_drop(w, ctx);
  ctx->wait = TASK_WAIT_NONE;
  worker_spare(w, mine);
  w->fiber = ctx->fiber;
  w->switches++;
  fiber_switch(&mine->fiber, &ctx->fiber->fiber);
}

/* ---- running a body */

CHI_APART static void worker_learn(struct worker *w, chi_ctx *ctx, uint64_t ns)
{
  struct method *m = (struct method *)(uintptr_t)ctx->method;
  const chi_task *t = ctx->task;
  uint64_t us = t->compute_us ? t->compute_us : m->def->compute_us;
  uint64_t estimate = cost_declared(us, t->io_size);
  uint64_t measured = ns < (1ull << 40) ? ns * 1024 / estimate : 1ull << 30;
  uint64_t weight = tally_get(&m->weight);
  weight = weight - weight / 8 + measured / 8;
  tally_set(&m->weight, weight < 8 ? 8 : weight > (1ull << 24) ? 1ull << 24 : weight);
  tally_add(&w->busy_ns, ns * 16);
}

/* What is left of a task's subtasks is waited for: their memory is its own. */
CHI_APART static void worker_join(chi_ctx *ctx)
{
  ctx->awaited = NULL;
  if (worker_cancelled(ctx) == CHI_OK) /* else nobody wakes it for that again */
    worker_block(ctx, TASK_WAIT_SUBTASK, UINT64_MAX);
  if (ctx->running == 0)
    return;
  for (chi_ctx *sub = ctx->child; sub; sub = sub->sibling)
    mark_set(&sub->cancel, CHI_ECANCELLED);
  worker_cancel_changed(ctx->worker);
  worker_block(ctx, TASK_WAIT_JOIN, UINT64_MAX);
  CHI_ASSERT(ctx->running == 0);
}

CHI_APART static void worker_free_children(struct worker *w, chi_ctx *ctx)
{
  while (ctx->child) {
    chi_ctx *sub = ctx->child;
    ctx->child = sub->sibling;
    worker_record_free(w, sub);
  }
}

/* Asks the module where a dynamic task is to run, and aims it elsewhere if it says so. */
CHI_APART static int worker_schedule(chi_ctx *ctx)
{
  const struct pool *pool = ctx->container->pool;
  const chi_module *def = pool->module->def;
  if (!def->schedule || ctx->key_seq)
    return CHI_OK;
  const struct pool_entry *entry = pool_table_find(ctx->worker->table, pool->id);
  if (!entry || entry->pool != pool) /* it is being closed */
    return CHI_OK;
  chi_query query = {.mode = CHI_QUERY_LOCAL};
  int rc = def->schedule(ctx, ctx->container->state, ctx->task, &query);
  struct route route;
  if (rc == CHI_OK)
    rc = route_resolve(&query, entry->map, ctx->worker->crew->node, &route);
  if (rc == CHI_OK && route.here != ctx->container)
    worker_aim(ctx, entry->map, route.first, route.count);
  return rc;
}

/* When its body has ended: nobody waits for its container, nor will be woken by its end but the
 * client, who is at a distance. */
static bool worker_may_keep(const chi_ctx *ctx)
{
  const struct container *c = ctx->container;
  return ctx->origin == TASK_FROM_CLIENT && !(ctx->task->flags & CHI_TASK_PERIODIC) &&
         (c->parallel || gate_alone(&c->gate));
}

/* Inside the gate, on the loop's stack; rc: what is known of it before. When the body blocks, this
 * call stays behind with it. */
static inline void worker_run(struct worker *w, chi_ctx *ctx, int rc)
{
  struct env *env = w->crew->env;
  CHI_ASSERT(!w->kept && !w->owed);
  ctx->worker = w;
  ctx->state = TASK_RUNNING;
  uint64_t begun = 0, ns = 0;
  bool traced = env->trace != NULL;
  if (rc == CHI_OK) {
    w->running = ctx;
    mark_set(&w->inside, 1);
    if (CHI_UNLIKELY(traced))
      worker_trace_begin(w, ctx);
    uint32_t switches = w->switches;
    if ((w->sample++ & 15) == 0)
      begun = env->clock(env);
    if (CHI_UNLIKELY(traced))
      worker_trace_cost(w, ctx);
    if (CHI_UNLIKELY(ctx->task->query.mode == CHI_QUERY_DYNAMIC))
      rc = worker_schedule(ctx);
    if (rc == CHI_OK && !ctx->map)
      rc = ctx->method->def->run(ctx, ctx->container->state, ctx->task);
    if (begun) {
      uint64_t ended = env->clock(env);
      ns = ended - begun + 1;
      w->now = ended > w->now ? ended : w->now;
      if (switches == w->switches) /* else it says how long the task took, not what it cost */
        worker_learn(w, ctx, ns);
    }
    if (CHI_UNLIKELY(ctx->running > 0))
      worker_join(ctx);
    w->running = NULL;
    mark_set(&w->inside, 0);
  }
  if (rc == CHI_OK && ctx->map) {
    worker_leave(w, ctx->container);
    worker_send_away(w, ctx);
    return;
  }
  pool_count(w->crew->alloc, ctx->container, w->index, ctx->method, rc, ns);
  bool kept = worker_may_keep(ctx);
  if (kept)
    w->kept = ctx->container;
  else
    worker_leave(w, ctx->container);
  worker_finish(w, ctx, rc, kept);
}

static void worker_run_unless_cancelled(struct worker *w, chi_ctx *ctx)
{
  ctx->worker = w;
  worker_run(w, ctx, worker_cancelled(ctx));
}

/* Everything but the gate has been seen to: the worker has a fiber to go on with. */
void worker_begin(struct worker *w, chi_ctx *ctx)
{
  CHI_ASSERT(w->spares > 0);
  worker_settle(w);
  ctx->state = TASK_QUEUED;
  ctx->node.kind = NODE_TASK;
  if (ctx->container->parallel || gate_enter(&ctx->container->gate, &ctx->node))
    worker_run_unless_cancelled(w, ctx);
}

void worker_begin_fresh(struct worker *w, chi_ctx *ctx)
{
  struct container *c = ctx->container;
  CHI_ASSERT(w->spares > 0 && !w->owed);
  bool inside = w->kept == c;
  if (inside) {
    w->kept = NULL;
  } else {
    if (w->kept)
      worker_unkeep(w);
    tally_add(&c->tally[w->index].active, 1);
    ctx->node.kind = NODE_TASK;
    inside = c->parallel || gate_enter(&c->gate, &ctx->node);
  }
  if (inside)
    worker_run(w, ctx, CHI_OK);
}

/* ---- the end of a task */

/* Periodic tasks end when the node stops, or what they run in is taken away. */
static bool worker_is_doomed(const struct worker *w, const chi_ctx *ctx)
{
  return mark_get(&w->crew->draining) || mark_get(&ctx->container->pool->doomed) ||
         mark_get(&ctx->container->leaving);
}

/* A periodic task rests until its next run; else the code that it ends with. */
CHI_APART static int worker_rest(struct worker *w, chi_ctx *ctx)
{
  int rc = worker_cancelled(ctx);
  if (rc == CHI_OK && worker_is_doomed(w, ctx))
    rc = CHI_ECANCELLED;
  if (rc == CHI_OK)
    rc = worker_timer_room(w);
  if (rc != CHI_OK)
    return rc;
  worker_free_children(w, ctx);
  ctx->state = TASK_RESTING;
  ctx->worker = w;
  tally_add(&w->resting, 1);
  uint64_t next = w->now + ctx->task->period_us * 1000ull;
  worker_blocked_add(w, ctx);
  worker_timer_set(w, ctx, next < ctx->deadline ? next : ctx->deadline);
  return CHI_OK;
}

static void worker_subtask_done(struct worker *w, chi_ctx *sub)
{
  chi_ctx *parent = sub->parent;
  CHI_ASSERT(parent->worker == w && parent->running > 0);
  sub->ended = true;
  parent->running--;
  bool waits = parent->state == TASK_BLOCKED &&
               (parent->wait == TASK_WAIT_SUBTASK || parent->wait == TASK_WAIT_JOIN);
  if (waits && (parent->awaited == sub || (!parent->awaited && parent->running == 0)))
    worker_wake(w, parent, CHI_OK);
}

CHI_APART static void worker_finish_subtask(struct worker *w, chi_ctx *ctx)
{
  if (!ctx->parent)
    worker_record_free(w, ctx);
  else if (ctx->parent->worker == w)
    worker_subtask_done(w, ctx);
  else {
    ctx->node.kind = NODE_SUBTASK;
    worker_send(w, ctx->parent->worker, &ctx->node);
  }
}

CHI_APART static void worker_finish_call(struct worker *w, chi_ctx *ctx)
{
  ctx->node.kind = NODE_CALL;
  if (w->kind == WORKER_NETWORK)
    ctx->call_done(ctx);
  else
    worker_send(w, &w->crew->worker[w->crew->count - 1], &ctx->node);
}

CHI_APART void worker_count_failure(struct worker *w, int rc)
{
  uint32_t code = rc > 0 ? 0 : (uint32_t)-(int64_t)rc;
  tally_add(&w->failed[code < WORKER_CODES ? code : 0], 1);
}

/* kept: its place in the container is kept for another. */
static inline void worker_complete(struct worker *w, chi_ctx *ctx, int rc, bool kept)
{
  ctx->task->rc = rc;
  worker_trace(w, ENV_TRACE_COMPLETE, ctx, (uint64_t)(int64_t)rc);
  if (ctx->origin == TASK_FROM_CLIENT)
    task_copy_out(&ctx->method->plan, ctx->task, ctx->shared);
  if (CHI_UNLIKELY(w->crew->env->memory != NULL) && ctx->origin == TASK_FROM_CLIENT)
    worker_tell_result(w, ctx);
  tally_add(&w->ended, 1);
  if (CHI_UNLIKELY(rc != CHI_OK))
    worker_count_failure(w, rc);
  if (!kept)
    worker_count_out(w, ctx->container);
  if (ctx->origin == TASK_FROM_PARENT) {
    worker_finish_subtask(w, ctx);
  } else if (ctx->origin == TASK_FROM_NODE) {
    worker_finish_call(w, ctx);
  } else {
    struct queue *q = ctx->queue;
    uint32_t slot = ctx->slot;
    worker_record_free(w, ctx);
    if (w->owed)
      worker_pay(w);
    queue_answer(q, slot, rc);
    w->owed = q;
  }
}

static inline void worker_finish(struct worker *w, chi_ctx *ctx, int rc, bool kept)
{
  if (CHI_UNLIKELY(ctx->task->flags & CHI_TASK_PERIODIC) && rc == CHI_OK) {
    rc = worker_rest(w, ctx);
    if (rc == CHI_OK)
      return;
  }
  if (CHI_UNLIKELY(ctx->child != NULL))
    worker_free_children(w, ctx);
  worker_complete(w, ctx, rc, kept);
}

void worker_end(struct worker *network, chi_ctx *ctx, int rc)
{
  CHI_ASSERT(network->kind == WORKER_NETWORK);
  worker_complete(network, ctx, rc, false);
  if (network->owed) /* perhaps no step follows, or a body is running */
    worker_pay(network);
}

/* ---- one piece of work */

static void worker_switch_table(struct worker *w, struct pool_notice *notice)
{
  notice->former = w->table;
  w->table = notice->table;
  w->last = NULL;
  notice->node.kind = NODE_TABLE_SEEN;
  if (w->kind == WORKER_NETWORK)
    w->crew->on_notice(w->crew->arg, notice);
  else
    worker_send(w, &w->crew->worker[w->crew->count - 1], &notice->node);
}

static void worker_receive(struct worker *w, struct ring_node *n)
{
  switch (n->kind) {
  case NODE_RESUME:
    worker_ready(w, task_of(n));
    break;
  case NODE_ENTERED:
    task_list_push(&w->ready, task_of(n));
    break;
  case NODE_SUBTASK:
    worker_subtask_done(w, task_of(n));
    break;
  case NODE_IO_DONE:
    worker_wake(w, CHI_CONTAINER_OF(n, struct worker_io, node)->ctx, CHI_OK);
    break;
  case NODE_TABLE:
    worker_switch_table(w, CHI_CONTAINER_OF(n, struct pool_notice, node));
    break;
  case NODE_TABLE_SEEN:
    w->crew->on_notice(w->crew->arg, CHI_CONTAINER_OF(n, struct pool_notice, node));
    break;
  default:
    CHI_ASSERT(n->kind == NODE_CALL);
    task_of(n)->call_done(task_of(n));
  }
}

static void worker_mail(struct worker *w)
{
  struct ring_node *n = inbox_take(&w->inbox);
  while (n) {
    struct ring_node *next = n->next;
    worker_receive(w, n);
    n = next;
  }
}

static void worker_end_rest(struct worker *w, chi_ctx *ctx, int rc)
{
  worker_blocked_drop(w, ctx);
  worker_timer_clear(w, ctx);
  tally_add(&w->resting, (uint64_t)-1);
  ctx->state = TASK_QUEUED;
  if (rc != CHI_OK)
    worker_finish(w, ctx, rc, false);
  else if (worker_may_begin(w, ctx->depth))
    worker_begin(w, ctx);
  else {
    ctx->node.kind = NODE_TASK;
    ring_push(&w->queue, &ctx->node);
  }
}

/* ---- subtasks for pools in creation */

void worker_submit_early(struct worker *w, chi_ctx *ctx)
{
  struct worker *network = &w->crew->worker[w->crew->count - 1];
  ctx->state = TASK_PARKED;
  ctx->worker = network;
  ctx->node.kind = NODE_EARLY;
  ring_push(&network->urgent, &ctx->node);
  worker_ring(w, network);
}

static void worker_park(struct worker *w, chi_ctx *ctx)
{
  const struct pool *p = ctx->container->pool;
  int rc = worker_cancelled(ctx); /* perhaps it was asked for on the way here */
  if (rc == CHI_OK && p->state == POOL_CREATING)
    rc = worker_timer_room(w);
  if (rc != CHI_OK || (p->state != POOL_CREATING && p->state != POOL_READY)) {
    worker_finish(w, ctx, rc != CHI_OK ? rc : CHI_ENOENT, false);
  } else if (p->state == POOL_READY) {
    worker_submit(w, ctx);
  } else {
    worker_blocked_add(w, ctx);
    worker_timer_set(w, ctx, ctx->shielded ? UINT64_MAX : ctx->deadline);
  }
}

static void worker_end_park(struct worker *w, chi_ctx *ctx, int rc)
{
  worker_blocked_drop(w, ctx);
  worker_timer_clear(w, ctx);
  if (rc == CHI_OK)
    worker_submit(w, ctx);
  else
    worker_finish(w, ctx, rc, false);
}

void worker_unpark(struct worker *network, const struct pool *p, int rc)
{
  chi_ctx *next = NULL;
  for (chi_ctx *ctx = network->blocked; ctx; ctx = next) {
    next = ctx->blocked_next;
    if (ctx->state == TASK_PARKED && ctx->container->pool == p)
      worker_end_park(network, ctx, rc);
  }
}

/* ---- cancellation and time */

/* Somebody asked for a cancellation: those that wait here are looked through. */
static void worker_look_for_cancelled(struct worker *w)
{
  w->cancel_seen = mark_get(&w->crew->cancel_epoch);
  chi_ctx *next = NULL;
  for (chi_ctx *ctx = w->blocked; ctx; ctx = next) {
    next = ctx->blocked_next;
    int rc = worker_cancelled(ctx);
    bool rests = ctx->state == TASK_RESTING;
    if (rests && rc == CHI_OK && worker_is_doomed(w, ctx))
      rc = CHI_ECANCELLED;
    if (rc == CHI_OK)
      continue;
    if (rests)
      worker_end_rest(w, ctx, rc);
    else if (ctx->state == TASK_PARKED)
      worker_end_park(w, ctx, rc);
    else if (worker_interruptible(ctx))
      worker_interrupt(w, ctx, rc);
  }
  if (w->kind == WORKER_NETWORK)
    w->crew->on_cancel(w->crew->arg);
}

static void worker_timer_due(struct worker *w)
{
  struct heap_entry *e = heap_pop(&w->timer);
  chi_ctx *ctx = CHI_CONTAINER_OF(e, chi_ctx, timer);
  int rc = worker_cancelled(ctx);
  if (ctx->state == TASK_RESTING)
    worker_end_rest(w, ctx, rc);
  else if (ctx->state == TASK_PARKED)
    worker_end_park(w, ctx, CHI_ETIMEOUT);
  else if (ctx->wait == TASK_WAIT_PAUSE)
    worker_interrupt(w, ctx, CHI_OK);
  else
    worker_interrupt(w, ctx, rc == CHI_OK && ctx->wait != TASK_WAIT_TIME ? CHI_ETIMEOUT : rc);
}

static void worker_take_node(struct worker *w, struct ring_node *n)
{
  chi_ctx *ctx = task_of(n);
  switch (n->kind) {
  case NODE_RAW:
    worker_accept_raw(w, CHI_CONTAINER_OF(n, struct task_raw, node));
    break;
  case NODE_LANE:
    worker_adopt(w, CHI_CONTAINER_OF(n, struct queue_lane, node));
    break;
  case NODE_IO:
    worker_io_start(w, CHI_CONTAINER_OF(n, struct worker_io, node));
    break;
  case NODE_REMOTE:
    w->crew->on_remote(w->crew->arg, ctx);
    break;
  case NODE_EARLY:
    worker_park(w, ctx);
    break;
  case NODE_GRANTED:
    if (worker_may_begin(w, ctx->depth)) {
      worker_run_unless_cancelled(w, ctx);
      break;
    }
    worker_leave(w, ctx->container);
    if (ctx->depth > 0) {
      worker_finish(w, ctx, CHI_EBUSY, false);
      break;
    }
    ctx->node.kind = NODE_TASK; /* waits for a fiber, outside */
    ring_push(&w->queue, &ctx->node);
    break;
  default:
    CHI_ASSERT(n->kind == NODE_TASK);
    if (worker_may_begin(w, ctx->depth))
      worker_begin(w, ctx);
    else
      worker_finish(w, ctx, CHI_EBUSY, false);
  }
}

static inline bool worker_take_from_queue(struct worker *w)
{
  struct ring_node *n = ring_pop(&w->queue);
  if (n)
    worker_take_node(w, n);
  return n != NULL;
}

static inline bool worker_go_on(struct worker *w)
{
  struct heap_entry *due = heap_top(&w->timer);
  if (due && due->time <= w->now) {
    worker_timer_due(w);
    return true;
  }
  chi_ctx *ctx = task_list_pop(&w->ready);
  if (ctx)
    worker_resume(w, ctx);
  return ctx != NULL;
}

static inline bool worker_take_urgent(struct worker *w)
{
  if (w->io_flight > 0 && worker_io_reap(w))
    return true;
  struct ring_node *n = ring_pop(&w->urgent);
  if (n)
    worker_take_node(w, n);
  return n != NULL;
}

/* Neither lanes nor what other workers send may starve the other. */
static inline bool worker_take_new(struct worker *w)
{
  uint32_t full = !worker_may_begin(w, 0);
  if (CHI_UNLIKELY(full != w->full))
    mark_set(&w->full, full);
  if (full) /* taken in, though not begun: cancellations are among them */
    return worker_take_from_lanes(w);
  if ((w->turn & 8) && worker_take_from_queue(w))
    return true;
  return worker_take_from_lanes(w) || worker_take_from_queue(w);
}

static bool worker_turn(struct worker *w)
{
  w->turn++;
  if (!inbox_empty(&w->inbox)) {
    worker_mail(w);
    return true;
  }
  if (mark_get(&w->crew->cancel_epoch) != w->cancel_seen) {
    worker_look_for_cancelled(w);
    return true;
  }
  /* What comes back again and again comes first, but not always. */
  uint32_t turn = w->turn & 7;
  if (turn == 0 && worker_take_new(w))
    return true;
  if (turn <= 1 && worker_take_urgent(w))
    return true;
  return worker_go_on(w) || worker_take_urgent(w) || worker_take_new(w);
}

/* Runs on whichever fiber is free; always exactly one is inside, or on its way out. */
static void worker_loop(void *arg)
{
  struct worker_fiber *f = arg;
  struct worker *w = f->worker;
  for (;;) {
    w->more = true;
    while (w->budget > 0 && w->more) {
      w->budget--;
      tally_add(&w->beat, 1);
      w->more = worker_turn(w);
      worker_settle(w);
    }
    CHI_ASSERT(w->fiber == f);
    fiber_switch(&f->fiber, &w->host);
  }
}

bool worker_step(struct worker *w, uint64_t now, uint32_t budget, uint64_t *deadline)
{
  CHI_ASSERT(budget > 0);
  if (now > w->now)
    w->now = now;
  w->budget = budget;
  if (CHI_UNLIKELY(w->adopt != NULL))
    worker_adopt_waiting(w);
  fiber_init_host(&w->host);
  fiber_switch(&w->host, &w->fiber->fiber);
  if (CHI_UNLIKELY(w->spares > WORKER_SPARES) && !w->more) {
    worker_fiber_close(w, worker_unspare(w)); /* one at a time, while there is nothing else to do */
    w->more = true;
  }
  struct heap_entry *next = heap_top(&w->timer);
  *deadline = next ? next->time : UINT64_MAX;
  if (CHI_UNLIKELY(w->adopt != NULL) && *deadline > w->now + WORKER_RETRY_NS)
    *deadline = w->now + WORKER_RETRY_NS;
  return w->more;
}

const chi_ctx *worker_fault(const struct worker *w, const void *address)
{
  return w->running && w->fiber && fiber_holds(&w->fiber->fiber, address) ? w->running : NULL;
}

/* ---- life */

int worker_open(struct worker *w, struct worker_crew *crew, uint32_t index, enum worker_kind kind,
                struct bell_word *word)
{
  *w = (struct worker){.crew = crew, .index = index, .kind = (uint32_t)kind, .word = word,
                       .bell = ENV_NO_BELL, .io_end = &w->io_first};
  heap_init(&w->timer, crew->alloc);
  w->rung = alloc_zero(crew->alloc, crew->count * sizeof *w->rung);
  int rc = w->rung ? worker_timer_room(w) : CHI_ENOMEM;
  if (rc == CHI_OK && kind != WORKER_BRIEF)
    rc = crew->env->bell_open(crew->env, &w->bell);
  if (rc == CHI_OK) {
    w->fiber = worker_may_begin(w, 0) ? worker_unspare(w) : NULL;
    rc = w->fiber ? CHI_OK : CHI_ENOMEM;
  }
  if (rc != CHI_OK)
    worker_close(w);
  return rc;
}

void worker_close(struct worker *w)
{
  const struct alloc *alloc = w->crew->alloc;
  CHI_ASSERT(!w->blocked && w->io_flight == 0);
  while (w->spare)
    worker_fiber_close(w, worker_unspare(w));
  if (w->fiber)
    worker_fiber_close(w, w->fiber);
  w->fiber = NULL;
  for (uint32_t class = 0; class < WORKER_RECORDS; class++) {
    while (w->record[class].first) {
      chi_ctx *ctx = w->record[class].first;
      w->record[class].first = ctx->sibling;
      alloc_put(alloc, ctx, ctx->size);
    }
  }
  alloc_put(alloc, w->lane, w->lane_room * sizeof(void *));
  alloc_put(alloc, w->rung, w->crew->count * sizeof *w->rung);
  heap_fini(&w->timer);
  if (w->bell != ENV_NO_BELL && w->kind != WORKER_BRIEF)
    w->crew->env->bell_close(w->crew->env, w->bell);
  w->bell = ENV_NO_BELL;
  w->lane = NULL;
  w->rung = NULL;
}

#undef WORKER_RETRY_NS
#undef WORKER_TIMERS
