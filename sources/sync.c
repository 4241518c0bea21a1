/* sync.c - the state of co-operative locks: who holds, who waits, who is next. */
#include "sync.h"

enum sync_mode { SYNC_MUTEX, SYNC_READ, SYNC_WRITE, SYNC_EVENT };

struct sync_head {
  struct latch latch;
  uint32_t mates; /* waiters that may have others of their group beside them */
  chi_ctx *first, *last;
};

struct sync_mutex {
  struct sync_head head;
  uint64_t owner; /* root, while count > 0 */
  uint32_t count;
};

/* A group that reads. */
struct sync_hold {
  struct sync_hold *next;
  uint64_t root;
  uint32_t count;
};

struct sync_rwlock {
  struct sync_head head;
  uint64_t writer; /* root, while writes > 0 */
  uint32_t writes;
  struct sync_hold *readers;
};

struct sync_event {
  struct sync_head head;
  uint32_t set;
};

_Static_assert(sizeof(struct sync_mutex) <= sizeof(chi_mutex), "chi_mutex is too small");
_Static_assert(sizeof(struct sync_rwlock) <= sizeof(chi_rwlock), "chi_rwlock is too small");
_Static_assert(sizeof(struct sync_event) <= sizeof(chi_event), "chi_event is too small");

static void sync_queue(struct sync_head *h, chi_ctx *ctx, enum sync_mode mode)
{
  mark_set(&ctx->sync, (void *)h);
  ctx->sync_mode = (uint32_t)mode;
  ctx->sync_next = NULL;
  ctx->sync_prev = h->last;
  if (h->last)
    h->last->sync_next = ctx;
  else
    h->first = ctx;
  h->last = ctx;
  h->mates += ctx->origin != TASK_FROM_CLIENT;
}

static void sync_unqueue(struct sync_head *h, chi_ctx *ctx)
{
  CHI_ASSERT(ctx->sync == h);
  if (ctx->sync_prev)
    ctx->sync_prev->sync_next = ctx->sync_next;
  else
    h->first = ctx->sync_next;
  if (ctx->sync_next)
    ctx->sync_next->sync_prev = ctx->sync_prev;
  else
    h->last = ctx->sync_prev;
  h->mates -= ctx->origin != TASK_FROM_CLIENT;
  mark_set(&ctx->sync, NULL);
  ctx->sync_next = ctx->sync_prev = NULL;
}

/* Moves a waiter to the end of the woken. */
static void sync_let_in(struct sync_head *h, chi_ctx *ctx, chi_ctx ***end)
{
  sync_unqueue(h, ctx);
  **end = ctx;
  *end = &ctx->sync_next;
}

int sync_mutex_lock(chi_mutex *mutex, chi_ctx *ctx, bool wait)
{
  struct sync_mutex *m = (struct sync_mutex *)(void *)mutex;
  latch_lock(&m->head.latch);
  int rc = CHI_OK;
  if (m->count == 0 || m->owner == ctx->root) {
    m->owner = ctx->root;
    m->count++;
  } else {
    rc = CHI_EBUSY;
    if (wait)
      sync_queue(&m->head, ctx, SYNC_MUTEX);
  }
  latch_unlock(&m->head.latch);
  return rc;
}

/* The first who waits gets it, and with him all of his group: they pass through, as if they came
 * only now. */
static void sync_mutex_pass(struct sync_mutex *m, chi_ctx ***end)
{
  chi_ctx *next = m->head.first;
  m->owner = next->root;
  for (chi_ctx *ctx = next; ctx && (m->count == 0 || m->head.mates > 0); ctx = next) {
    next = ctx->sync_next;
    if (ctx->root != m->owner)
      continue;
    m->count++;
    sync_let_in(&m->head, ctx, end);
  }
}

int sync_mutex_unlock(chi_mutex *mutex, chi_ctx *ctx, chi_ctx **woken)
{
  struct sync_mutex *m = (struct sync_mutex *)(void *)mutex;
  chi_ctx **end = woken;
  *woken = NULL;
  latch_lock(&m->head.latch);
  int rc = m->count > 0 && m->owner == ctx->root ? CHI_OK : CHI_EINVAL;
  if (rc == CHI_OK && --m->count == 0 && m->head.first)
    sync_mutex_pass(m, &end);
  latch_unlock(&m->head.latch);
  return rc;
}

static struct sync_hold *sync_find_hold(struct sync_rwlock *l, uint64_t root)
{
  struct sync_hold *h = l->readers;
  while (h && h->root != root)
    h = h->next;
  return h;
}

static bool sync_may_write(struct sync_rwlock *l, uint64_t root)
{
  if (l->writes > 0)
    return l->writer == root;
  return !l->readers || (l->readers->root == root && !l->readers->next);
}

/* Puts memory that has no use any more with the rest of it, to be freed outside the latch. */
static void sync_spare(struct sync_hold *h, struct sync_hold **spare)
{
  h->next = *spare;
  *spare = h;
}

static void sync_free(struct sync_hold *spare, const struct alloc *alloc)
{
  while (spare) {
    struct sync_hold *next = spare->next;
    alloc_put(alloc, spare, sizeof *spare);
    spare = next;
  }
}

/* Uses up or gives back the memory that the reader brought. */
static void sync_hold(struct sync_rwlock *l, uint64_t root, struct sync_hold *fresh,
                      struct sync_hold **spare)
{
  struct sync_hold *h = sync_find_hold(l, root);
  if (h) {
    h->count++;
    sync_spare(fresh, spare);
    return;
  }
  *fresh = (struct sync_hold){.next = l->readers, .root = root, .count = 1};
  l->readers = fresh;
}

static bool sync_holds(struct sync_rwlock *l, uint64_t root)
{
  return sync_find_hold(l, root) || (l->writes > 0 && l->writer == root);
}

static void sync_rwlock_take(struct sync_rwlock *l, chi_ctx *ctx, struct sync_hold **spare)
{
  if (ctx->sync_mode == SYNC_WRITE) {
    l->writer = ctx->root;
    l->writes++;
  } else {
    sync_hold(l, ctx->root, ctx->sync_hold, spare);
    ctx->sync_hold = NULL;
  }
}

/* In turn, until one must wait on; then those only who pass through what their group has. */
static void sync_rwlock_grant(struct sync_rwlock *l, struct sync_hold **spare, chi_ctx ***end)
{
  bool blocked = false;
  chi_ctx *next = l->head.first;
  for (chi_ctx *ctx = next; ctx && (!blocked || l->head.mates > 0); ctx = next) {
    bool may = ctx->sync_mode == SYNC_WRITE ? sync_may_write(l, ctx->root)
                                            : l->writes == 0 || l->writer == ctx->root;
    next = ctx->sync_next;
    if (!may || (blocked && !sync_holds(l, ctx->root))) {
      blocked = true;
      continue;
    }
    sync_rwlock_take(l, ctx, spare);
    sync_let_in(&l->head, ctx, end);
  }
}

static int sync_rwlock_write(struct sync_rwlock *l, chi_ctx *ctx)
{
  bool again = l->writes > 0 && l->writer == ctx->root;
  if (again || ((!l->head.first || sync_find_hold(l, ctx->root)) && sync_may_write(l, ctx->root))) {
    l->writer = ctx->root;
    l->writes++;
    return CHI_OK;
  }
  sync_queue(&l->head, ctx, SYNC_WRITE);
  return CHI_EBUSY;
}

int sync_rwlock_lock(chi_rwlock *rwlock, chi_ctx *ctx, bool write, const struct alloc *alloc)
{
  struct sync_rwlock *l = (struct sync_rwlock *)(void *)rwlock;
  struct sync_hold *fresh = write ? NULL : alloc_get(alloc, sizeof *fresh), *spare = NULL;
  if (!write && !fresh)
    return CHI_ENOMEM;
  latch_lock(&l->head.latch);
  int rc = CHI_OK;
  if (write) {
    rc = sync_rwlock_write(l, ctx);
  } else if (sync_holds(l, ctx->root) || (l->writes == 0 && !l->head.first)) {
    sync_hold(l, ctx->root, fresh, &spare);
  } else {
    ctx->sync_hold = fresh;
    sync_queue(&l->head, ctx, SYNC_READ);
    rc = CHI_EBUSY;
  }
  latch_unlock(&l->head.latch);
  sync_free(spare, alloc);
  return rc;
}

int sync_rwlock_unlock(chi_rwlock *rwlock, chi_ctx *ctx, const struct alloc *alloc,
                       chi_ctx **woken)
{
  struct sync_rwlock *l = (struct sync_rwlock *)(void *)rwlock;
  struct sync_hold *spare = NULL;
  *woken = NULL;
  latch_lock(&l->head.latch);
  int rc = CHI_OK;
  struct sync_hold *h = sync_find_hold(l, ctx->root);
  bool writes = l->writes > 0 && l->writer == ctx->root;
  if (!h && writes) { /* of a group that does both, what excludes others goes last */
    l->writes--;
  } else if (!h) {
    rc = CHI_EINVAL;
  } else if (--h->count == 0) {
    struct sync_hold **at = &l->readers;
    while (*at != h)
      at = &(*at)->next;
    *at = h->next;
    sync_spare(h, &spare);
  }
  chi_ctx **end = woken;
  if (rc == CHI_OK)
    sync_rwlock_grant(l, &spare, &end);
  latch_unlock(&l->head.latch);
  sync_free(spare, alloc);
  return rc;
}

int sync_event_wait(chi_event *event, chi_ctx *ctx)
{
  struct sync_event *e = (struct sync_event *)(void *)event;
  latch_lock(&e->head.latch);
  int rc = e->set ? CHI_OK : CHI_EBUSY;
  if (!e->set)
    sync_queue(&e->head, ctx, SYNC_EVENT);
  latch_unlock(&e->head.latch);
  return rc;
}

void sync_event_set(chi_event *event, chi_ctx **woken)
{
  struct sync_event *e = (struct sync_event *)(void *)event;
  chi_ctx **end = woken;
  *woken = NULL;
  latch_lock(&e->head.latch);
  e->set = 1;
  while (e->head.first)
    sync_let_in(&e->head, e->head.first, &end);
  latch_unlock(&e->head.latch);
}

void sync_event_reset(chi_event *event)
{
  struct sync_event *e = (struct sync_event *)(void *)event;
  latch_lock(&e->head.latch);
  e->set = 0;
  latch_unlock(&e->head.latch);
}

bool sync_abandon(chi_ctx *ctx, const struct alloc *alloc, chi_ctx **woken)
{
  /* Set before the task blocked and cleared under the latch by whoever lets it in: if that is
   * happening now, the address is still good, for the lock outlives those who wait for it. */
  struct sync_head *h = mark_get(&ctx->sync);
  struct sync_hold *spare = NULL;
  *woken = NULL;
  if (!h)
    return false;
  latch_lock(&h->latch);
  bool waiting = ctx->sync == h;
  if (waiting) {
    sync_unqueue(h, ctx);
    if (ctx->sync_hold)
      sync_spare(ctx->sync_hold, &spare);
    ctx->sync_hold = NULL;
    chi_ctx **end = woken;
    if (ctx->sync_mode == SYNC_READ || ctx->sync_mode == SYNC_WRITE)
      sync_rwlock_grant((struct sync_rwlock *)(void *)h, &spare, &end);
  }
  latch_unlock(&h->latch);
  sync_free(spare, alloc);
  return waiting;
}
