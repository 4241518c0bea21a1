/* folk.c - the module that sweeps use: its bodies keep the books, and check on each other. */
#include "folk.h"
#include "books.h"

#include <string.h>

#define MS UINT64_C(1000000)
#define QUEUE 64u      /* that wait for a lock and are looked at */
#define SOON MS        /* who may go on does, where nothing else is in the way */
#define LOAD (20 * MS) /* bodies that use CPU hold others up so long at most */
#define TEAM 3u

/* A task that waits for a lock. */
struct folk_wait {
  uint64_t token, group, until, may; /* gives up; could have had it since; 0: not */
  uint32_t mode;
};

struct folk {
  uint32_t life, copy, inside;
  uint64_t value, lost, found;
  chi_mutex mutex;
  chi_rwlock rwlock;
  uint64_t holder, writer; /* the groups that have the mutex, and the lock to write */
  uint32_t held, writes, readers;
  struct folk_wait wait[QUEUE]; /* oldest first */
  uint32_t waits;
  chi_event event;
  uint64_t tells, told; /* how often, and when */
};

static void enter(chi_ctx *ctx, struct folk *self, uint64_t token)
{
  books_touch(self->copy);
  self->inside++;
  if (token)
    books_begin(token, chi_self_container(ctx), self->life, chi_self_node(ctx));
}

static int leave(struct folk *self, int rc)
{
  books_touch(self->copy);
  self->inside--;
  return rc;
}

/* ---- methods -------------------------------------------------------------------------------- */

static int folk_add_run(chi_ctx *ctx, struct folk *self, struct folk_add *t)
{
  int rc;
  enter(ctx, self, t->token);
  if (t->cpu)
    chi_cluster_cpu(books_now->cluster, t->cpu);
  rc = t->ns ? chi_sleep(ctx, t->ns) : CHI_OK;
  if (rc == CHI_OK) {
    books_count(self->life, ++self->value);
    t->node = chi_self_node(ctx);
    t->container = chi_self_container(ctx);
    t->life = self->life;
    t->value = self->value;
  }
  return leave(self, rc);
}

static int folk_again_run(chi_ctx *ctx, struct folk *self, struct folk_again *t)
{
  enter(ctx, self, t->token);
  t->node = chi_self_node(ctx);
  t->container = chi_self_container(ctx);
  return leave(self, t->ns ? chi_sleep(ctx, t->ns) : CHI_OK);
}

static int folk_roll_run(chi_ctx *ctx, struct folk *self, struct folk_roll *t)
{
  enter(ctx, self, t->token);
  t->one_count = 1;
  t->one[0].container = chi_self_container(ctx);
  t->one[0].life = self->life;
  return leave(self, t->ns ? chi_sleep(ctx, t->ns) : CHI_OK);
}

static int folk_bulk_run(chi_ctx *ctx, struct folk *self, struct folk_bulk *t)
{
  const uint8_t *from = t->from.data;
  uint8_t *to = t->to.data;
  enter(ctx, self, t->token);
  if (t->to.size < t->from.size)
    return leave(self, CHI_ETOOBIG);
  for (uint64_t i = 0; i < t->from.size; i++)
    to[i] = (uint8_t)(to[i] + from[i] + 1);
  t->to.size = t->from.size;
  return leave(self, CHI_OK);
}

/* ---- locks */

static uint64_t now(void)
{
  return chi_cluster_now(books_now->cluster);
}

/* Nobody is cancelled. */
static bool is_orderly(void)
{
  return books_now->orderly;
}

/* Until who may go on has done so. */
static uint64_t soon(void)
{
  return SOON + (books_now->loaded ? LOAD : 0);
}

static bool in_the_way(const struct folk_wait *w, const struct folk_wait *of)
{
  if ((w->mode == 0) != (of->mode == 0) || (w->until && now() >= w->until) ||
      w->group == of->group)
    return false;
  return w->mode == 0 || w->mode == 2 || of->mode == 2;
}

/* Whether a group that waits in several places need not heed its place in the queue: it has the
 * mutex, or gets it with the first of its own. */
static bool passes(const struct folk *self, uint32_t i)
{
  const struct folk_wait *w = &self->wait[i];
  uint32_t mate = 0;
  while (self->wait[mate].mode != 0 || self->wait[mate].group != w->group)
    mate++;
  for (uint32_t k = 0; k < mate; k++)
    if (in_the_way(&self->wait[k], w))
      return self->holder == w->group;
  return true;
}

static bool has_turn(const struct folk *self, uint32_t i)
{
  for (uint32_t k = 0; k < i; k++)
    if (in_the_way(&self->wait[k], &self->wait[i]))
      return self->wait[i].mode == 0 && passes(self, i);
  return true;
}

static void look_whether_late(const struct folk_wait *w)
{
  if (w->may && now() > w->may + soon() && is_orderly())
    books_fail("locks", "a group waits for a lock that it could have");
}

/* Of those that wait, who could have the lock now. */
static void look_who_may(struct folk *self)
{
  for (uint32_t i = 0; i < self->waits; i++) {
    struct folk_wait *w = &self->wait[i];
    bool may = w->mode == 0   ? self->held == 0 || self->holder == w->group
               : w->mode == 1 ? self->writes == 0
                              : self->writes == 0 && self->readers == 0;
    may = may && has_turn(self, i);
    if (!may)
      look_whether_late(w);
    w->may = !may ? 0 : w->may ? w->may : now();
  }
}

/* A task waits no more: with the lock, or without. */
static void look_at_wait(struct folk *self, uint64_t token, bool got)
{
  uint32_t i = 0;
  while (i < self->waits && self->wait[i].token != token)
    i++;
  if (i == self->waits)
    return; /* there were too many to be looked at */
  const struct folk_wait w = self->wait[i];
  if (got && is_orderly() && !has_turn(self, i))
    books_fail("locks", "a group gets a lock before another one that has waited longer");
  if (got)
    look_whether_late(&w);
  if (!got && is_orderly() && (now() < w.until || now() > w.until + soon()))
    books_fail("locks", "a group doesn't give up when it should");
  memmove(&self->wait[i], &self->wait[i + 1], (--self->waits - i) * sizeof(w));
}

static int lock(chi_ctx *ctx, struct folk *self, const struct folk_lock *t)
{
  struct folk_wait w = {.token = t->token, .group = t->group, .mode = t->mode};
  bool watched = t->token != 0 && self->waits < QUEUE;
  int rc;
  w.until = t->patience ? now() + t->patience : 0;
  if (watched)
    self->wait[self->waits++] = w;
  if (t->mode == 0)
    rc = chi_mutex_lock(ctx, &self->mutex, t->patience);
  else
    rc = t->mode == 1 ? chi_rwlock_rdlock(ctx, &self->rwlock, t->patience)
                      : chi_rwlock_wrlock(ctx, &self->rwlock, t->patience);
  if (watched)
    look_at_wait(self, t->token, rc == CHI_OK);
  if (rc != CHI_OK)
    look_who_may(self);
  return rc;
}

/* Whether nobody else is inside; and from now on, we are. */
static void locked(struct folk *self, const struct folk_lock *t)
{
  if (t->mode == 0 && self->held++ > 0 && self->holder != t->group)
    books_fail("locks", "two groups have one mutex");
  if (t->mode > 0 && self->writes > 0 && self->writer != t->group)
    books_fail("locks", "a group has a lock that another one writes under");
  if (t->mode == 2 && self->writes == 0 && self->readers > 0)
    books_fail("locks", "a group writes while others read");
  if (t->mode == 0)
    self->holder = t->group;
  if (t->mode == 2)
    self->writer = t->group;
  self->writes += t->mode == 2;
  self->readers += t->mode == 1 && self->writes == 0;
  look_who_may(self); /* others of the group */
}

static void unlock(chi_ctx *ctx, struct folk *self, const struct folk_lock *t, bool read)
{
  int rc;
  if (t->mode == 0 && self->holder != t->group)
    books_fail("locks", "another group has taken a mutex");
  self->held -= t->mode == 0;
  self->writes -= t->mode == 2;
  self->readers -= read;
  rc = t->mode == 0 ? chi_mutex_unlock(ctx, &self->mutex) : chi_rwlock_unlock(ctx, &self->rwlock);
  if (rc != CHI_OK)
    books_fail("locks", "who has a lock cannot give it back");
  look_who_may(self);
}

/* The same group once more: it passes. Readers of their own don't come in the way. */
static void relock(chi_ctx *ctx, const struct folk_lock *t)
{
  const chi_type *type = t->via ? &folk_via_type : &folk_lock_type;
  struct folk_lock *sub = t->depth == 0 ? chi_subtask_new(ctx, type) : NULL;
  if (!sub)
    return;
  sub->task.pool = chi_self_pool(ctx);
  sub->task.query.mode = CHI_QUERY_ID;
  sub->task.query.a = t->via ? t->via - 1 : chi_self_container(ctx);
  sub->group = t->group;
  sub->mode = t->mode;
  sub->depth = 1;
  sub->back = chi_self_container(ctx);
  chi_call(ctx, sub);
}

static int folk_lock_run(chi_ctx *ctx, struct folk *self, struct folk_lock *t)
{
  bool read;
  int rc;
  enter(ctx, self, t->token);
  rc = lock(ctx, self, t);
  if (rc != CHI_OK)
    return leave(self, rc == CHI_ETIMEOUT && t->patience ? CHI_OK : rc);
  read = t->mode == 1 && self->writes == 0;
  locked(self, t);
  rc = t->ns ? chi_sleep(ctx, t->ns) : CHI_OK;
  if (rc == CHI_OK)
    relock(ctx, t);
  unlock(ctx, self, t, read);
  return leave(self, rc);
}

static int folk_via_run(chi_ctx *ctx, struct folk *self, struct folk_via *t)
{
  struct folk_lock *sub = chi_subtask_new(ctx, &folk_lock_type);
  enter(ctx, self, 0);
  if (!sub)
    return leave(self, CHI_ENOMEM);
  sub->task.pool = chi_self_pool(ctx);
  sub->task.query = (chi_query){.mode = CHI_QUERY_ID, .a = t->back};
  sub->group = t->group;
  sub->mode = t->mode;
  sub->depth = 1;
  return leave(self, chi_call(ctx, sub));
}

static int folk_team_run(chi_ctx *ctx, struct folk *self, struct folk_team *t)
{
  struct folk_lock *sub[TEAM];
  uint32_t count = 0;
  int rc = CHI_OK;
  enter(ctx, self, t->token);
  while (rc == CHI_OK && count < TEAM && (sub[count] = chi_subtask_new(ctx, &folk_lock_type))) {
    struct folk_lock *s = sub[count++];
    s->task.pool = chi_self_pool(ctx);
    s->task.query = (chi_query){.mode = CHI_QUERY_ID, .a = chi_self_container(ctx)};
    s->token = books_submit(false, false);
    s->group = t->group;
    s->ns = t->ns;
    s->depth = 1;
    chi_subtask_submit(ctx, s);
    if (count < TEAM)
      rc = chi_sleep(ctx, t->gap);
  }
  for (uint32_t i = 0; i < count && rc == CHI_OK; i++)
    rc = chi_subtask_wait(ctx, sub[i], 0);
  for (uint32_t i = 0; i < count; i++)
    if (chi_subtask_done(ctx, sub[i]))
      books_end(sub[i]->token, sub[i]->task.rc);
  return leave(self, rc);
}

static int folk_meddle_run(chi_ctx *ctx, struct folk *self, struct folk_meddle *t)
{
  enter(ctx, self, t->token);
  if (chi_mutex_unlock(ctx, &self->mutex) != CHI_EINVAL ||
      chi_rwlock_unlock(ctx, &self->rwlock) != CHI_EINVAL)
    books_fail("locks", "a group gives back what another one has taken");
  return leave(self, CHI_OK);
}

static int folk_await_run(chi_ctx *ctx, struct folk *self, struct folk_await *t)
{
  uint64_t tells, until = now() + t->patience;
  int rc;
  enter(ctx, self, t->token);
  tells = self->tells;
  rc = chi_event_wait(ctx, &self->event, t->patience);
  if (rc == CHI_OK && self->tells == tells)
    books_fail("locks", "an event has come that nobody has told of");
  if (rc == CHI_ETIMEOUT && self->tells != tells && self->told + soon() < until)
    books_fail("locks", "a task that waits for an event is not told");
  return leave(self, rc == CHI_ETIMEOUT ? CHI_OK : rc);
}

static int folk_tell_run(chi_ctx *ctx, struct folk *self, struct folk_tell *t)
{
  enter(ctx, self, t->token);
  self->tells++;
  self->told = now();
  chi_event_set(ctx, &self->event);
  chi_event_reset(ctx, &self->event);
  return leave(self, CHI_OK);
}

/* ---- time and subtasks */

static int sleep_elsewhere(chi_ctx *ctx, const struct folk_sleep *t)
{
  struct folk_sleep *sub = chi_subtask_new(ctx, &folk_sleep_type);
  if (!sub)
    return CHI_ENOMEM;
  sub->task.pool = chi_self_pool(ctx);
  sub->task.query = (chi_query){.mode = CHI_QUERY_ID, .a = t->via - 1};
  sub->ns = t->ns;
  return chi_call(ctx, sub);
}

static int folk_sleep_run(chi_ctx *ctx, struct folk *self, struct folk_sleep *t)
{
  int rc;
  enter(ctx, self, t->token);
  rc = t->via ? sleep_elsewhere(ctx, t) : chi_sleep(ctx, t->ns);
  if (t->until && now() > t->until && t->from != chi_self_node(ctx) && books_now->quiet &&
      !books_now->loaded)
    books_fail("in time", "a body is told %llu us after the time that it is to end",
               (unsigned long long)(now() - t->until) / 1000);
  return leave(self, rc);
}

static void forget_one(chi_ctx *ctx, uint64_t token)
{
  struct folk_add *add = chi_subtask_new(ctx, &folk_add_type);
  if (!add)
    return;
  add->task.pool = chi_self_pool(ctx);
  add->task.flags = CHI_TASK_FORGET;
  add->task.query.mode = CHI_QUERY_LOCAL;
  add->token = token;
  chi_subtask_submit(ctx, add);
}

static int folk_ask_run(chi_ctx *ctx, struct folk *self, struct folk_ask *t)
{
  struct folk_sleep *rest = chi_subtask_new(ctx, &folk_sleep_type);
  struct folk_add *sub = chi_subtask_new(ctx, &folk_add_type);
  int rc;
  enter(ctx, self, t->token);
  if (!sub || !rest)
    return leave(self, CHI_ENOMEM);
  rest->task.pool = sub->task.pool = chi_self_pool(ctx);
  rest->task.query = (chi_query){.mode = CHI_QUERY_ID, .a = chi_self_container(ctx)};
  rest->ns = 2 * MS;
  chi_subtask_submit(ctx, rest);
  if (t->forgotten)
    forget_one(ctx, t->forgotten);
  sub->task.query = (chi_query){.mode = CHI_QUERY_ID, .a = t->whom};
  sub->token = t->sub;
  rc = chi_call(ctx, sub);
  if (chi_subtask_done(ctx, sub)) /* or was never begun: then only the call has a code */
    books_end(t->sub, sub->task.rc == CHI_OK ? rc : sub->task.rc);
  return leave(self, rc == CHI_OK ? CHI_OK : 1); /* this one did run */
}

static int folk_visit_run(chi_ctx *ctx, struct folk *self, struct folk_visit *t)
{
  struct folk_add *sub = chi_subtask_new(ctx, &folk_add_type);
  enter(ctx, self, t->token);
  if (!sub)
    return leave(self, CHI_ENOMEM);
  sub->task.pool = t->whose;
  sub->task.query.mode = CHI_QUERY_LOCAL;
  sub->token = t->sub;
  return leave(self, chi_call(ctx, sub));
}

static int folk_news_run(chi_ctx *ctx, struct folk *self, struct folk_news *t)
{
  enter(ctx, self, 0);
  t->node = chi_self_node(ctx);
  t->life = self->life;
  t->value = self->value;
  t->lost = self->lost;
  t->found = self->found;
  return leave(self, CHI_OK);
}

#define FOLK_METHODS(M, S)                                                                         \
  M(S, folk_add)                                                                                   \
  M(S, folk_again, CHI_METHOD_IDEMPOTENT)                                                          \
  M(S, folk_roll)                                                                                  \
  M(S, folk_bulk)                                                                                  \
  M(S, folk_lock)                                                                                  \
  M(S, folk_via)                                                                                   \
  M(S, folk_meddle)                                                                                \
  M(S, folk_sleep)                                                                                 \
  M(S, folk_ask)                                                                                   \
  M(S, folk_news)                                                                                  \
  M(S, folk_await)                                                                                 \
  M(S, folk_tell)                                                                                  \
  M(S, folk_team)                                                                                  \
  M(S, folk_visit)
CHI_METHODS(folk, FOLK_METHODS)

/* ---- containers ----------------------------------------------------------------------------- */

static uint64_t birth_takes(chi_ctx *ctx)
{
  chi_pool_id pool = chi_self_pool(ctx);
  if (pool.major != FOLK_TARDY)
    return MS / 2;
  return pool.minor == chi_self_container(ctx) ? FOLK_TARDY_NS : 2 * FOLK_TARDY_NS;
}

static int folk_create(chi_ctx *ctx, void *state, const void *params)
{
  struct folk *self = state;
  (void)params;
  if (chi_self_pool(ctx).major == FOLK_POOL.major)
    books_build(chi_self_container(ctx));
  self->life = books_new_life();
  self->copy = books_new_copy();
  return chi_sleep(ctx, birth_takes(ctx));
}

static void folk_destroy(chi_ctx *ctx, void *state)
{
  struct folk *self = state;
  (void)ctx;
  if (self->inside)
    books_fail("state", "a container is ended with %u tasks inside", self->inside);
  books_end_copy(self->copy);
}

static int folk_schedule(chi_ctx *ctx, void *self, const void *task, chi_query *query)
{
  uint32_t a = ((const chi_task *)task)->query.a;
  (void)self;
  *query = (chi_query){.mode = CHI_QUERY_ID, .a = a % chi_node_count(ctx)};
  return CHI_OK;
}

static int folk_aggregate(uint32_t method, void *into, const void *from)
{
  struct folk_roll *all = into;
  const struct folk_roll *more = from;
  if (method != folk_roll_type.id)
    return CHI_OK;
  if (all->one_count + more->one_count > FOLK_MOST)
    return CHI_ETOOBIG;
  memcpy(all->one + all->one_count, more->one, more->one_count * sizeof(more->one[0]));
  all->one_count += more->one_count;
  return CHI_OK;
}

static void folk_node_failure(chi_ctx *ctx, void *state, uint32_t node)
{
  (void)ctx, (void)node;
  ((struct folk *)state)->lost++;
}

static void folk_recover(chi_ctx *ctx, void *state, uint32_t node)
{
  (void)ctx, (void)node;
  ((struct folk *)state)->found++;
}

/* What travels: the locks are free, and nobody is inside. */
struct saved {
  uint64_t value, lost, found;
  uint32_t life, mark;
};

static int64_t folk_save(chi_ctx *ctx, void *state, void *data, uint64_t room)
{
  const struct folk *self = state;
  struct saved saved = {self->value, self->lost, self->found, self->life, 0x5eed};
  (void)ctx;
  books_touch(self->copy);
  if (self->inside)
    books_fail("state", "a container is saved with %u tasks inside", self->inside);
  if (room >= sizeof(saved))
    memcpy(data, &saved, sizeof(saved));
  return sizeof(saved);
}

static int folk_load(chi_ctx *ctx, void *state, const void *params, const void *data, uint64_t size)
{
  struct folk *self = state;
  struct saved saved;
  (void)ctx, (void)params;
  if (size != sizeof(saved))
    return CHI_ECORRUPT;
  memcpy(&saved, data, sizeof(saved));
  if (saved.mark != 0x5eed)
    books_fail("state", "a container's state has changed on its way");
  self->value = saved.value;
  self->lost = saved.lost;
  self->found = saved.found;
  self->life = saved.life;
  self->copy = books_new_copy();
  books_now->moves++;
  return chi_sleep(ctx, MS / 4);
}

const chi_module folk_module = {.version = CHI_MODULE_VERSION,
                                .name = "folk",
                                .state_size = sizeof(struct folk),
                                .methods = folk_methods,
                                .create = folk_create,
                                .destroy = folk_destroy,
                                .schedule = folk_schedule,
                                .aggregate = folk_aggregate,
                                .node_failure = folk_node_failure,
                                .recover = folk_recover,
                                .save = folk_save,
                                .load = folk_load};
