/* client_task.c - tasks under way: submit, reap, wait, cancel, abandon. */
#include "client.h"
#include "cost.h"
#include "error.h"
#include "pool.h"

#define CLIENT_PAUSES 72u     /* 1 to 5 us: a pause takes 10 to 70 ns, depending on the processor */
#define CLIENT_STREAM 8u      /* so many tasks under way are a stream */
#define CLIENT_GATHER 64u     /* pauses that let completions gather, one for each under way */
#define CLIENT_FETCH 32u      /* so many results are brought near when they have arrived */
#define CLIENT_LISTEN_NS 100000000ull /* between two looks at the link by a program that polls */

/* ---- slots */

static bool client_has_answer(const void *who)
{
  const chi_queue *q = who;
  return lane_done_ready(&q->done);
}

void client_queue_reset(chi_queue *q)
{
  q->slot_used = q->flying = q->calls = q->quits = 0;
  q->slot_free = q->done_first = q->done_last = CLIENT_NO_SLOT;
  spin_init(&q->spin, q->client->env, q->memory->link->spin_ns, client_has_answer, q);
  spin_be_eager(&q->spin);
  q->armed = false;
}

static uint32_t client_slot_take(chi_queue *q)
{
  uint32_t i = q->slot_free;
  if (i != CLIENT_NO_SLOT)
    q->slot_free = q->slot[i].next;
  else if (q->slot_used < q->depth)
    i = q->slot_used++;
  return i;
}

static void client_slot_give(chi_queue *q, uint32_t i)
{
  q->slot[i].state = CLIENT_FREE;
  q->slot[i].task = NULL;
  q->slot[i].next = q->slot_free;
  q->slot_free = i;
}

/* The slot of a task that is under way or done but not handed out; CLIENT_NO_SLOT. The number in
 * the task is a hint: it lies where others write. */
static uint32_t client_slot_of(const chi_queue *q, const void *task)
{
  uint64_t number = ((const chi_task *)task)->id;
  if (number == 0 || number > q->slot_used || q->slot[number - 1].task != task ||
      q->slot[number - 1].state == CLIENT_FREE)
    return CLIENT_NO_SLOT;
  return (uint32_t)number - 1;
}

static void client_done_add(chi_queue *q, uint32_t i)
{
  struct client_slot *s = &q->slot[i];
  s->state = CLIENT_DONE;
  s->next = CLIENT_NO_SLOT;
  s->prev = q->done_last;
  if (q->done_last != CLIENT_NO_SLOT)
    q->slot[q->done_last].next = i;
  else
    q->done_first = i;
  q->done_last = i;
  q->calls += s->done != NULL;
}

static inline void client_done_drop(chi_queue *q, uint32_t i)
{
  struct client_slot *s = &q->slot[i];
  CHI_ASSERT(s->state == CLIENT_DONE);
  if (s->prev != CLIENT_NO_SLOT)
    q->slot[s->prev].next = s->next;
  else
    q->done_first = s->next;
  if (s->next != CLIENT_NO_SLOT)
    q->slot[s->next].prev = s->prev;
  else
    q->done_last = s->prev;
  q->calls -= s->done != NULL;
  client_slot_give(q, i);
}

/* Frees a task's memory, wherever it came from. */
static inline int client_put_back(chi_queue *q, void *task)
{
  int rc = CHI_EINVAL;
  for (struct client_memory *m = q->memory; m && rc != CHI_OK; m = m->next)
    rc = shm_put(&m->task, task);
  return rc == CHI_OK ? rc : client_fail(q, rc, "not a task of this queue");
}

static void client_trace(const chi_queue *q, enum env_trace what, uint32_t i, uint64_t c)
{
  struct env *env = q->client->env;
  if (CHI_UNLIKELY(env->trace != NULL))
    env->trace(env, what, q->memory->link->boot, ((uint64_t)q->id << 32) | i, c);
}

CHI_APART static void client_complete_forgotten(chi_queue *q, uint32_t i)
{
  void *task = q->slot[i].task;
  q->quits -= q->slot[i].quit;
  q->slot[i].quit = false;
  client_slot_give(q, i);
  client_put_back(q, task);
}

static inline void client_complete(chi_queue *q, uint32_t i)
{
  struct client_slot *s = &q->slot[i];
  q->flying--;
  client_trace(q, ENV_TRACE_DONE, i, (uint64_t)(int64_t)((chi_task *)s->task)->rc);
  if (CHI_UNLIKELY(s->forget))
    client_complete_forgotten(q, i);
  else
    client_done_add(q, i);
}

/* The header stays shared between the caches of both sides where nothing in it changes. */
static void client_set_rc(chi_task *task, int32_t rc)
{
  if (task->rc != rc)
    task->rc = rc;
}

/* Wakes the workers that serve these lanes, if they sleep. */
static void client_ring(chi_queue *q, uint32_t lanes)
{
  struct client_link *l = q->memory->link;
  for (; lanes; lanes &= lanes - 1) {
    uint32_t k = (uint32_t)__builtin_ctz(lanes);
    /* A home that changes after this look is rung by whoever changes it. */
    uint32_t home = lane_home(q->board, (enum lane_kind)k);
    if (home < l->workers && bell_wanted_after_fence(&l->page->worker[home], &q->rung[home]))
      l->env->bell_ring(l->env, l->bell[home]);
  }
}

/* What could not be cancelled when it was abandoned. */
CHI_APART static void client_send_quits(chi_queue *q)
{
  uint32_t lanes = 0;
  for (uint32_t i = 0; i < q->slot_used && q->quits > 0; i++) {
    struct client_slot *s = &q->slot[i];
    if (!s->quit)
      continue;
    if (!lane_put(&q->out[s->lane], LANE_CANCEL, i, s->tag))
      break;
    s->quit = false;
    q->quits--;
    lanes |= 1u << s->lane;
  }
  if (lanes)
    client_ring(q, lanes);
}

/* Takes in all completions that have arrived. */
static void client_pump(chi_queue *q)
{
  struct lane_done d;
  for (uint32_t n = 0; lane_done_pop(&q->done, &d); n++) {
    if (d.slot >= q->slot_used || q->slot[d.slot].state != CLIENT_FLYING)
      continue;
    /* The program reads the result, and writes there again when the memory is used again. */
    if (n < CLIENT_FETCH) /* more would only drive each other out */
      CHI_FETCH_TO_WRITE((char *)q->slot[d.slot].task + CHI_CACHE_LINE);
    client_set_rc(q->slot[d.slot].task, d.rc);
    client_complete(q, d.slot);
  }
  if (CHI_UNLIKELY(q->quits > 0))
    client_send_quits(q);
}

void client_queue_fail_all(chi_queue *q)
{
  if (!q->slot)
    return;
  client_pump(q);
  for (uint32_t i = 0; i < q->slot_used && q->flying > 0; i++) {
    if (q->slot[i].state != CLIENT_FLYING)
      continue;
    ((chi_task *)q->slot[i].task)->rc = CHI_ESHUTDOWN;
    client_complete(q, i);
  }
}

/* Callbacks may submit, free and wait themselves: each is taken off the list first. */
static void client_run_callbacks(chi_queue *q)
{
  if (CHI_LIKELY(q->calls == 0))
    return;
  for (uint32_t i = q->done_first; q->calls > 0 && i != CLIENT_NO_SLOT;) {
    struct client_slot s = q->slot[i];
    uint32_t next = s.next;
    if (s.done) {
      client_done_drop(q, i);
      s.done(s.arg, q, s.task);
      next = q->done_first; /* the list may look different now */
    }
    i = next;
  }
}

/* ---- submission */

/* Nothing but pool and method is set: a quick task for this node, unless it is the admin's. */
static inline bool client_is_brief(const chi_task *t)
{
  uint32_t rest = t->query.mode | t->query.a | t->query.b | t->query.c | t->flags | t->compute_us |
                  t->deadline_ms | t->period_us;
  return (rest | t->io_size) == 0 && t->pool.major != CHI_ADMIN_POOL.major;
}

static enum lane_kind client_choose_lane(const chi_queue *q, const chi_task *t)
{
  uint32_t mode = t->query.mode;
  bool here = mode == CHI_QUERY_LOCAL || mode == CHI_QUERY_DYNAMIC || q->memory->link->nodes == 1;
  if (pool_id_equal(t->pool, CHI_ADMIN_POOL) || !here || (t->flags & CHI_TASK_FORCE_NET))
    return LANE_NETWORK;
  return cost_declared(t->compute_us, t->io_size) >= COST_SLOW_NS ? LANE_SLOW : LANE_FAST;
}

static int client_put(chi_queue *q, void *task, chi_done_fn *done, void *arg, uint32_t *lanes)
{
  struct client_memory *m = q->memory;
  uint64_t ref = 0, room = 0;
  bool bulk = false;
  if (CHI_UNLIKELY(shm_find(&m->task, task, &ref, &room) != CHI_OK)) {
    m = client_memory_of(q, task, &ref, &room, &bulk);
    return m && !bulk ? client_fail(q, CHI_ESTALE, NULL)
                      : client_fail(q, CHI_EINVAL, "not a task of this queue");
  }
  if (client_slot_of(q, task) != CLIENT_NO_SLOT)
    return client_fail(q, CHI_EINVAL, "the task is under way, or its result not yet taken");
  uint32_t i = client_slot_take(q);
  if (i == CLIENT_NO_SLOT)
    return client_fail(q, CHI_EBUSY, "queue_depth tasks are in flight");
  chi_task *t = task;
  if (t->id != i + 1u)
    t->id = i + 1u;
  client_set_rc(t, CHI_OK);
  bool brief = client_is_brief(t);
  enum lane_kind lane = brief ? LANE_FAST : client_choose_lane(q, t);
  q->slot[i] = (struct client_slot){.task = task,
                                    .done = done,
                                    .arg = arg,
                                    .state = CLIENT_FLYING,
                                    .lane = (uint8_t)lane,
                                    .forget = (t->flags & CHI_TASK_FORGET) != 0};
  bool put = brief ? lane_put_brief(&q->out[lane], ref, i, lane_pool(t->pool), t->method)
                   : lane_put(&q->out[lane], LANE_RUN, ref, i);
  if (!put) {
    client_slot_give(q, i);
    return client_fail(q, CHI_EBUSY, "the lane is full");
  }
  q->slot[i].tag = lane_tag(&q->out[lane], lane);
  q->flying++;
  client_trace(q, ENV_TRACE_SUBMIT, i, ((uint64_t)t->pool.major << 16) | t->method);
  *lanes |= 1u << lane;
  return CHI_OK;
}

static int client_submit(chi_queue *q, void *task, chi_done_fn *done, void *arg)
{
  uint32_t lanes = 0;
  int rc = client_queue_check(q);
  if (rc == CHI_OK)
    rc = client_put(q, task, done, arg, &lanes);
  if (rc == CHI_EBUSY) {
    client_pump(q);
    rc = client_put(q, task, done, arg, &lanes);
  }
  if (rc == CHI_OK)
    client_ring(q, lanes);
  return rc;
}

int chi_submit(chi_queue *q, void *task)
{
  return client_submit(q, task, NULL, NULL);
}

int chi_submit_callback(chi_queue *q, void *task, chi_done_fn *done, void *arg)
{
  if (done && (((const chi_task *)task)->flags & CHI_TASK_FORGET))
    return client_fail(q, CHI_EINVAL, "a task that is forgotten has no callback");
  return client_submit(q, task, done, arg);
}

int chi_submit_many(chi_queue *q, void *const *tasks, uint32_t count)
{
  uint32_t lanes = 0, n = 0;
  int rc = client_queue_check(q);
  while (rc == CHI_OK && n < count) {
    rc = client_put(q, tasks[n], NULL, NULL, &lanes);
    if (rc == CHI_EBUSY) {
      client_pump(q);
      rc = client_put(q, tasks[n], NULL, NULL, &lanes);
    }
    n += rc == CHI_OK;
  }
  client_ring(q, lanes);
  return n > 0 ? (int)n : rc;
}

/* ---- waiting */

/* Takes back what chi_queue_arm announced, and the ring that may have answered it. */
static void client_disarm(chi_queue *q)
{
  struct client_link *l = q->memory->link;
  if (!q->armed)
    return;
  q->armed = false;
  bell_withdraw(&q->desk->client);
  if (l->env->link_wait(l->env, l->link, q->bell, 1) == CHI_ESHUTDOWN) {
    mark_set(&l->dead, 1);
    client_queue_fail_all(q);
  }
}

/* A program that only looks, and never sleeps, would not hear that the daemon is gone: no memory
 * tells. So fruitless looks ask the link, too, now and then. */
static void client_listen(chi_queue *q)
{
  struct client_link *l = q->memory->link;
  uint64_t now = q->flying > 0 && !q->armed ? l->env->clock(l->env) : 0;
  if (now < q->listen_at || now == 0)
    return;
  q->listen_at = now + CLIENT_LISTEN_NS;
  client_tell(l);
  if (mark_get(&l->dead) || l->env->link_wait(l->env, l->link, q->bell, 1) == CHI_ESHUTDOWN) {
    mark_set(&l->dead, 1);
    client_queue_fail_all(q);
  }
}

/* Looks for a completion for a moment, at full speed. */
static bool client_glance(const chi_queue *q)
{
  /* With many under way, some may gather: else both sides fight over one cache line. */
  uint32_t gather = q->flying < CLIENT_GATHER ? q->flying : CLIENT_GATHER;
  for (uint32_t i = 0; q->flying >= CLIENT_STREAM && i < gather; i++)
    atomic_pause();
  for (uint32_t i = 0; i < CLIENT_PAUSES; i++) {
    if (lane_done_ready(&q->done))
      return true;
    atomic_pause();
  }
  return false;
}

/* Looks on, giving way to others in between. */
static bool client_spin(chi_queue *q, uint64_t until)
{
  struct env *env = q->client->env;
  if (q->spin.window == 0)
    return false;
  uint64_t now = env->clock(env);
  return spin_on(&q->spin, until, &now);
}

static int client_sleep(chi_queue *q, uint64_t until)
{
  struct client_link *l = q->memory->link;
  struct env *env = l->env;
  bell_announce(&q->desk->client);
  uint64_t begun = env->clock(env);
  int rc = CHI_OK;
  if (!lane_done_ready(&q->done))
    rc = env->link_wait(env, l->link, q->bell, until);
  bell_withdraw(&q->desk->client);
  spin_slept(&q->spin, env->clock(env) - begun);
  if (rc == CHI_OK)
    client_tell(l);
  if (rc == CHI_ESHUTDOWN) {
    mark_set(&l->dead, 1);
    client_queue_fail_all(q);
  }
  return rc == CHI_ESHUTDOWN ? CHI_OK : rc;
}

static uint64_t client_until(chi_queue *q, uint64_t timeout_ns)
{
  if (timeout_ns == UINT64_MAX)
    return UINT64_MAX;
  uint64_t now = q->client->env->clock(q->client->env);
  return timeout_ns > UINT64_MAX - now ? UINT64_MAX : now + timeout_ns;
}

/* Waits for some completion to arrive. CHI_ETIMEOUT. */
static int client_await(chi_queue *q, uint64_t until)
{
  client_disarm(q);
  if (q->flying == 0)
    return CHI_EINVAL; /* nothing can come */
  if (lane_done_ready(&q->done) || client_glance(q) || client_spin(q, until)) {
    client_pump(q);
    return CHI_OK;
  }
  int rc = client_sleep(q, until);
  client_pump(q);
  return rc;
}

/* A connection that was replaced is dead: what was under way on it ends here and now. */
static int client_wait_check(chi_queue *q)
{
  int rc = client_queue_check(q);
  if (rc == CHI_EFORKED)
    return rc;
  return q->slot ? CHI_OK : rc;
}

/* Waits until the task in slot i has completed. */
static int client_wait_for(chi_queue *q, const void *task, uint32_t i, uint64_t timeout_ns)
{
  uint64_t until = client_until(q, timeout_ns);
  while (q->slot[i].state == CLIENT_FLYING) {
    int rc = client_await(q, until);
    if (q->slot[i].state == CLIENT_DONE)
      break;
    if (rc == CHI_ETIMEOUT)
      return rc;
    client_run_callbacks(q);
    if (!q->slot || client_slot_of(q, task) != i) /* they may do anything with the queue */
      return client_fail(q, CHI_ESTALE, "a callback took the task's result");
  }
  return CHI_OK;
}

int chi_wait(chi_queue *q, void *task, uint64_t timeout_ns)
{
  int rc = client_wait_check(q);
  if (rc != CHI_OK)
    return rc;
  uint32_t i = client_slot_of(q, task);
  if (i != CLIENT_NO_SLOT && q->slot[i].state == CLIENT_FLYING) {
    client_pump(q);
    i = client_slot_of(q, task);
  }
  if (i == CLIENT_NO_SLOT)
    return ((chi_task *)task)->id ? ((chi_task *)task)->rc
                                  : client_fail(q, CHI_EINVAL, "the task was not submitted");
  if (q->slot[i].forget || q->slot[i].done)
    return client_fail(q, CHI_EINVAL, "the task answers by callback, or not at all");
  if (q->slot[i].state == CLIENT_FLYING)
    rc = client_wait_for(q, task, i, timeout_ns);
  if (rc != CHI_OK)
    return rc;
  client_done_drop(q, i);
  rc = ((chi_task *)task)->rc;
  client_run_callbacks(q);
  return rc;
}

static bool client_is_done(chi_queue *q, const void *task)
{
  if (!q->slot)
    return true;
  client_pump(q);
  uint32_t i = client_slot_of(q, task);
  return i == CLIENT_NO_SLOT || q->slot[i].state == CLIENT_DONE;
}

int chi_task_done(chi_queue *q, const void *task)
{
  if (!mark_get(q->client->env->alive))
    return client_fail(q, CHI_EFORKED, NULL);
  if (client_is_done(q, task))
    return 1;
  client_listen(q);
  return client_is_done(q, task);
}

int chi_wait_any(chi_queue *q, void *const *tasks, uint32_t count, uint64_t timeout_ns,
                 uint32_t *which)
{
  int rc = client_wait_check(q);
  uint64_t until = client_until(q, timeout_ns);
  while (rc == CHI_OK) {
    for (uint32_t n = 0; n < count; n++) {
      if (client_is_done(q, tasks[n])) {
        *which = n;
        return chi_wait(q, tasks[n], 0);
      }
    }
    rc = count > 0 ? client_await(q, until) : CHI_EINVAL;
    client_run_callbacks(q);
  }
  return rc;
}

int chi_wait_all(chi_queue *q, void *const *tasks, uint32_t count, uint64_t timeout_ns)
{
  int first = CHI_OK;
  uint64_t until = client_until(q, timeout_ns);
  for (uint32_t n = 0; n < count; n++) {
    uint64_t now = until == UINT64_MAX ? 0 : client_until(q, 0);
    int rc = chi_wait(q, tasks[n], until == UINT64_MAX ? until : now < until ? until - now : 0);
    if (rc == CHI_ETIMEOUT && !client_is_done(q, tasks[n]))
      return rc;
    if (first == CHI_OK)
      first = rc;
  }
  return first;
}

int chi_run(chi_queue *q, void *task)
{
  int rc = chi_submit(q, task);
  return rc != CHI_OK ? rc : chi_wait(q, task, UINT64_MAX);
}

int chi_reap(chi_queue *q, void **tasks, uint32_t room)
{
  int rc = client_wait_check(q);
  if (rc != CHI_OK)
    return rc;
  client_disarm(q);
  client_pump(q);
  if (q->done_first == CLIENT_NO_SLOT)
    client_listen(q);
  client_run_callbacks(q);
  uint32_t n = 0;
  for (uint32_t i = q->done_first; n < room && i != CLIENT_NO_SLOT;) {
    uint32_t next = q->slot[i].next;
    if (!q->slot[i].done) {
      tasks[n++] = q->slot[i].task;
      client_done_drop(q, i);
    }
    i = next;
  }
  return (int)n;
}

bool client_queue_settle(chi_queue *q, uint64_t timeout_ns)
{
  for (uint32_t i = 0; i < q->slot_used; i++)
    if (q->slot[i].state == CLIENT_FLYING)
      chi_cancel(q, q->slot[i].task);
  uint64_t until = client_until(q, timeout_ns);
  while (q->flying > 0)
    if (client_await(q, until) != CHI_OK)
      return q->flying == 0;
  return true;
}

/* ---- the end of tasks */

int chi_cancel(chi_queue *q, void *task)
{
  int rc = client_queue_check(q);
  if (rc != CHI_OK)
    return rc;
  client_pump(q);
  uint32_t i = client_slot_of(q, task);
  if (i == CLIENT_NO_SLOT || q->slot[i].state == CLIENT_DONE)
    return CHI_OK;
  struct client_slot *s = &q->slot[i];
  if (!lane_put(&q->out[s->lane], LANE_CANCEL, i, s->tag))
    return client_fail(q, CHI_EBUSY, "the lane is full");
  client_ring(q, 1u << s->lane);
  return CHI_OK;
}

int chi_abandon(chi_queue *q, void *task)
{
  if (!mark_get(q->client->env->alive))
    return client_fail(q, CHI_EFORKED, NULL);
  uint32_t i = q->slot ? client_slot_of(q, task) : CLIENT_NO_SLOT;
  if (i == CLIENT_NO_SLOT || q->slot[i].state == CLIENT_DONE)
    return chi_task_free(q, task);
  q->slot[i].forget = true;
  int rc = chi_cancel(q, task);
  if (rc != CHI_EBUSY)
    return rc;
  q->quits += !q->slot[i].quit; /* to be asked to end by one of the next calls */
  q->slot[i].quit = true;
  return CHI_OK;
}

int chi_task_free(chi_queue *q, void *task)
{
  if (!task)
    return CHI_OK;
  if (!mark_get(q->client->env->alive))
    return client_fail(q, CHI_EFORKED, NULL);
  uint32_t i = q->slot ? client_slot_of(q, task) : CLIENT_NO_SLOT;
  if (i != CLIENT_NO_SLOT && q->slot[i].state == CLIENT_FLYING) {
    client_pump(q);
    if (q->slot[i].state == CLIENT_FLYING)
      return client_fail(q, CHI_EBUSY, "the task is in flight");
  }
  if (i != CLIENT_NO_SLOT)
    client_done_drop(q, i);
  return client_put_back(q, task);
}

/* ---- for an event loop of one's own */

int chi_queue_fd(chi_queue *q)
{
  int rc = client_queue_check(q);
  struct client_link *l = q->memory->link;
  return rc != CHI_OK ? rc : l->env->link_descriptor(l->env, l->link, q->bell);
}

int chi_queue_arm(chi_queue *q)
{
  int rc = client_wait_check(q);
  if (rc != CHI_OK)
    return rc;
  client_pump(q);
  if (q->done_first != CLIENT_NO_SLOT) {
    client_disarm(q);
    return 1;
  }
  if (q->armed)
    return 0;
  bell_announce(&q->desk->client);
  q->armed = true;
  if (!lane_done_ready(&q->done))
    return 0;
  client_disarm(q);
  client_pump(q);
  return 1;
}

#undef CLIENT_PAUSES
#undef CLIENT_STREAM
#undef CLIENT_GATHER
#undef CLIENT_FETCH
#undef CLIENT_LISTEN_NS
