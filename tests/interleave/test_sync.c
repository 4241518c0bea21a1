/* test_sync.c - a task that waits for a lock is woken exactly once, however the race ends. */
#include "explore.h"
#include "sync.h"
#include "test.h"

#include <stdlib.h>

/* Each party is a worker with one task. A task that has to wait is woken by who lets it in, or by
 * its own worker whose timer is due: only one of them may. */

#define SYNC_TASKS 3u

struct locking {
  chi_mutex mutex;
  chi_rwlock rwlock;
  chi_event event;
  chi_ctx task[SYNC_TASKS];
  struct sync_state {
    bool waits, timed_out;
    uint32_t wakes;
  } state[SYNC_TASKS];
  uint32_t inside, writing, most;
  char hold[SYNC_TASKS + 1][64];
  uint32_t holds, freed;
  struct alloc alloc;
};

static void *locking_get(void *arg, size_t size)
{
  struct locking *l = arg;
  CHI_ASSERT(size <= sizeof l->hold[0] && l->holds < CHI_COUNT(l->hold));
  return l->hold[l->holds++];
}

static void locking_put(void *arg, void *p, size_t size)
{
  struct locking *l = arg;
  memset(p, 0xdd, size);
  l->freed++;
}

static void locking_begin(void *world)
{
  struct locking *l = world;
  memset(l, 0, sizeof *l);
  l->alloc = (struct alloc){locking_get, locking_put, l};
  for (uint32_t i = 0; i < SYNC_TASKS; i++)
    l->task[i].root = i + 1;
}

/* As worker_wake_all: each of them may go on, and wait elsewhere, as soon as it is woken. */
static void locking_wake(struct locking *l, chi_ctx *woken)
{
  while (woken) {
    chi_ctx *next = woken->sync_next;
    struct sync_state *s = &l->state[woken - l->task];
    EXPLORE_CALL(&s->wakes);
    s->wakes++;
    woken->sync_next = woken; /* what is read later than this is not the list */
    woken = next;
  }
}

static bool locking_woken(void *arg)
{
  const struct sync_state *s = arg;
  return s->wakes > 0;
}

/* Blocked. The timer is due at once; then it is woken by nobody else. True: it was let in. */
static bool locking_block(struct locking *l, uint32_t i, bool timer)
{
  struct sync_state *s = &l->state[i];
  chi_ctx *woken = NULL;
  s->waits = true;
  if (timer && sync_abandon(&l->task[i], &l->alloc, &woken)) {
    s->timed_out = true;
    locking_wake(l, woken);
    return false;
  }
  explore_wait(locking_woken, s);
  return true;
}

static void locking_end(void *world)
{
  const struct locking *l = world;
  for (uint32_t i = 0; i < SYNC_TASKS; i++) {
    const struct sync_state *s = &l->state[i];
    EXPLORE_CHECK(explore_state(i) == EXPLORE_DONE);
    EXPLORE_CHECK(s->wakes == (s->waits && !s->timed_out));
    EXPLORE_CHECK(l->task[i].sync == NULL);
  }
  EXPLORE_CHECK(l->inside == 0 && l->freed == l->holds);
}

static const struct explore locking_plan = {
    .begin = locking_begin,
    .end = locking_end,
    .preemptions = 3,
    .count = SYNC_TASKS,
};

/* ---- mutex */

static void locking_mutex(struct locking *l, bool timer)
{
  uint32_t i = explore_self();
  int rc = sync_mutex_lock(&l->mutex, &l->task[i], true);
  if (rc != CHI_OK && !locking_block(l, i, timer))
    return;
  EXPLORE_CHECK(l->inside == 0);
  l->inside = 1;
  EXPLORE_POINT(&l->inside);
  l->inside = 0;
  chi_ctx *woken = NULL;
  rc = sync_mutex_unlock(&l->mutex, &l->task[i], &woken);
  EXPLORE_CHECK(rc == CHI_OK);
  locking_wake(l, woken);
}

static void locking_mutex_patient(void *world)
{
  locking_mutex(world, false);
}

static void locking_mutex_hasty(void *world)
{
  locking_mutex(world, true);
}

TEST(interleave_mutex_unlock_against_timer)
{
  static struct locking l;
  struct explore e = locking_plan;
  e.name = "mutex";
  e.world = &l;
  e.party[0] = (struct explore_party){"worker", locking_mutex_patient, 0};
  e.party[1] = (struct explore_party){"worker 2", locking_mutex_hasty, 0};
  e.party[2] = (struct explore_party){"worker 3", locking_mutex_hasty, 0};
  CHECK(explore(&e));
}

/* ---- event */

static void locking_event_waiter(struct locking *l, bool timer)
{
  uint32_t i = explore_self();
  if (sync_event_wait(&l->event, &l->task[i]) == CHI_EBUSY)
    locking_block(l, i, timer);
}

static void locking_event_patient(void *world)
{
  locking_event_waiter(world, false);
}

static void locking_event_hasty(void *world)
{
  locking_event_waiter(world, true);
}

static void locking_event_setter(void *world)
{
  struct locking *l = world;
  chi_ctx *woken = NULL;
  sync_event_set(&l->event, &woken);
  locking_wake(l, woken);
}

TEST(interleave_event_set_against_timer)
{
  static struct locking l;
  struct explore e = locking_plan;
  e.name = "event";
  e.world = &l;
  e.party[0] = (struct explore_party){"worker", locking_event_patient, 0};
  e.party[1] = (struct explore_party){"worker 2", locking_event_hasty, 0};
  e.party[2] = (struct explore_party){"worker 3", locking_event_setter, 0};
  CHECK(explore(&e));
}

/* ---- readers and writers */

static void locking_rwlock(struct locking *l, bool write, bool timer)
{
  uint32_t i = explore_self();
  int rc = sync_rwlock_lock(&l->rwlock, &l->task[i], write, &l->alloc);
  if (rc != CHI_OK && !locking_block(l, i, timer))
    return;
  EXPLORE_CHECK(!l->writing && (!write || l->inside == 0));
  l->inside++;
  l->writing = write;
  EXPLORE_POINT(&l->inside);
  l->inside--;
  l->writing = 0;
  chi_ctx *woken = NULL;
  rc = sync_rwlock_unlock(&l->rwlock, &l->task[i], &l->alloc, &woken);
  EXPLORE_CHECK(rc == CHI_OK);
  locking_wake(l, woken);
}

static void locking_reader(void *world)
{
  locking_rwlock(world, false, false);
}

static void locking_hasty_reader(void *world)
{
  locking_rwlock(world, false, true);
}

static void locking_hasty_writer(void *world)
{
  locking_rwlock(world, true, true);
}

TEST(interleave_rwlock_unlock_against_timer)
{
  static struct locking l;
  struct explore e = locking_plan;
  e.name = "reader-writer lock";
  e.world = &l;
  e.party[0] = (struct explore_party){"reader", locking_reader, 0};
  e.party[1] = (struct explore_party){"reader 2", locking_hasty_reader, 0};
  e.party[2] = (struct explore_party){"writer", locking_hasty_writer, 0};
  CHECK(explore(&e));
}
