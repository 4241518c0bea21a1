/* test_sync.c - who holds a lock, who waits, who is next; and a long random life of one. */
#include "rng.h"
#include "sync.h"
#include "test.h"

#include <stdlib.h>

static int64_t sync_blocks;
static int sync_fail_at = -1;
static chi_rwlock *sync_watched; /* nobody may hold its latch while memory is freed */

static void *sync_get(void *arg, size_t size)
{
  (void)arg;
  if (sync_fail_at >= 0 && sync_fail_at-- == 0)
    return NULL;
  sync_blocks++;
  return malloc(size);
}

static void sync_put(void *arg, void *p, size_t size)
{
  (void)arg, (void)size;
  if (sync_watched) {
    struct latch *latch = (struct latch *)(void *)sync_watched; /* a lock begins with it */
    CHECK(latch_try(latch));
    latch_unlock(latch);
  }
  sync_blocks--;
  free(p);
}

static const struct alloc sync_alloc = {sync_get, sync_put, NULL};

/* Tasks with these roots. */
static void sync_tasks(chi_ctx *task, uint32_t count, const char *roots)
{
  for (uint32_t i = 0; i < count; i++)
    task[i] = (chi_ctx){.root = (unsigned char)roots[i], .origin = TASK_FROM_PARENT};
  sync_blocks = 0;
  sync_fail_at = -1;
}

/* The woken ones as letters, in order. */
static const char *sync_woken(const chi_ctx *woken, const chi_ctx *task)
{
  static char text[32];
  uint32_t n = 0;
  for (; woken && n < sizeof text - 1; woken = woken->sync_next)
    text[n++] = (char)('a' + (woken - task));
  text[n] = '\0';
  return text;
}

/* ---- mutex */

TEST(sync_mutex_in_turn)
{
  chi_mutex m = {{0}};
  chi_ctx t[3], *woken = NULL;
  sync_tasks(t, 3, "123");
  CHECK_INT(sync_mutex_lock(&m, &t[0], true), CHI_OK);
  CHECK_INT(sync_mutex_lock(&m, &t[1], false), CHI_EBUSY); /* tried: isn't queued */
  CHECK_INT(sync_mutex_lock(&m, &t[2], true), CHI_EBUSY);
  CHECK_INT(sync_mutex_lock(&m, &t[1], true), CHI_EBUSY);
  CHECK_INT(sync_mutex_unlock(&m, &t[1], &woken), CHI_EINVAL);
  CHECK(woken == NULL);
  CHECK_INT(sync_mutex_unlock(&m, &t[0], &woken), CHI_OK);
  CHECK_STR(sync_woken(woken, t), "c");
  CHECK_INT(sync_mutex_unlock(&m, &t[0], &woken), CHI_EINVAL);
  CHECK_INT(sync_mutex_unlock(&m, &t[2], &woken), CHI_OK);
  CHECK_STR(sync_woken(woken, t), "b");
  CHECK_INT(sync_mutex_unlock(&m, &t[1], &woken), CHI_OK);
  CHECK(woken == NULL);
  CHECK_INT(sync_mutex_unlock(&m, &t[1], &woken), CHI_EINVAL);
  for (int i = 0; i < 3; i++)
    CHECK(t[i].sync == NULL);
}

TEST(sync_mutex_lets_the_group_through)
{
  chi_mutex m = {{0}};
  chi_ctx t[5], *woken = NULL;
  sync_tasks(t, 5, "12122");
  CHECK_INT(sync_mutex_lock(&m, &t[0], true), CHI_OK);
  CHECK_INT(sync_mutex_lock(&m, &t[1], true), CHI_EBUSY);
  CHECK_INT(sync_mutex_lock(&m, &t[2], true), CHI_OK); /* of the same group */
  CHECK_INT(sync_mutex_lock(&m, &t[3], true), CHI_EBUSY);
  CHECK_INT(sync_mutex_unlock(&m, &t[2], &woken), CHI_OK);
  CHECK(woken == NULL); /* the group has it still */
  CHECK_INT(sync_mutex_unlock(&m, &t[0], &woken), CHI_OK);
  CHECK_STR(sync_woken(woken, t), "bd");
  CHECK_INT(sync_mutex_lock(&m, &t[4], false), CHI_OK);
  CHECK_INT(sync_mutex_lock(&m, &t[0], true), CHI_EBUSY);
  for (int i = 0; i < 2; i++) {
    CHECK_INT(sync_mutex_unlock(&m, &t[1], &woken), CHI_OK);
    CHECK(woken == NULL);
  }
  CHECK_INT(sync_mutex_unlock(&m, &t[3], &woken), CHI_OK);
  CHECK_STR(sync_woken(woken, t), "a");
}

/* Who stood behind others, too: they would wait for the group, and the group for him. */
TEST(sync_mutex_lets_the_group_through_past_others)
{
  chi_mutex m = {{0}};
  chi_ctx t[6], *woken = NULL;
  sync_tasks(t, 6, "123242");
  t[1].origin = TASK_FROM_CLIENT; /* the task at the root */
  CHECK_INT(sync_mutex_lock(&m, &t[0], true), CHI_OK);
  for (int i = 1; i < 6; i++)
    CHECK_INT(sync_mutex_lock(&m, &t[i], true), CHI_EBUSY);
  CHECK_INT(sync_mutex_unlock(&m, &t[0], &woken), CHI_OK);
  CHECK_STR(sync_woken(woken, t), "bdf");
  for (int i = 0; i < 2; i++) {
    CHECK_INT(sync_mutex_unlock(&m, &t[1], &woken), CHI_OK);
    CHECK(woken == NULL);
  }
  CHECK_INT(sync_mutex_unlock(&m, &t[1], &woken), CHI_OK);
  CHECK_STR(sync_woken(woken, t), "c");
  CHECK_INT(sync_mutex_unlock(&m, &t[2], &woken), CHI_OK);
  CHECK_STR(sync_woken(woken, t), "e");
}

TEST(sync_mutex_abandoned)
{
  chi_mutex m = {{0}};
  chi_ctx t[4], *woken = NULL;
  sync_tasks(t, 4, "1234");
  CHECK_INT(sync_mutex_lock(&m, &t[0], true), CHI_OK);
  for (int i = 1; i < 4; i++)
    CHECK_INT(sync_mutex_lock(&m, &t[i], true), CHI_EBUSY);
  CHECK(sync_abandon(&t[2], &sync_alloc, &woken) && woken == NULL); /* from the middle */
  CHECK(!sync_abandon(&t[2], &sync_alloc, &woken));
  CHECK(!sync_abandon(&t[0], &sync_alloc, &woken)); /* holds it */
  CHECK_INT(sync_mutex_unlock(&m, &t[0], &woken), CHI_OK);
  CHECK_STR(sync_woken(woken, t), "b");
  CHECK(!sync_abandon(&t[1], &sync_alloc, &woken)); /* was let in already */
  CHECK(sync_abandon(&t[3], &sync_alloc, &woken));
  CHECK_INT(sync_mutex_unlock(&m, &t[1], &woken), CHI_OK);
  CHECK(woken == NULL);
}

/* ---- event */

TEST(sync_event)
{
  chi_event e = {{0}};
  chi_ctx t[4], *woken = NULL;
  sync_tasks(t, 4, "1123");
  sync_event_set(&e, &woken);
  CHECK(woken == NULL);
  CHECK_INT(sync_event_wait(&e, &t[0]), CHI_OK); /* stays set */
  sync_event_reset(&e);
  for (int i = 0; i < 4; i++)
    CHECK_INT(sync_event_wait(&e, &t[i]), CHI_EBUSY);
  CHECK(sync_abandon(&t[1], &sync_alloc, &woken) && woken == NULL);
  sync_event_reset(&e);
  sync_event_set(&e, &woken);
  CHECK_STR(sync_woken(woken, t), "acd");
  CHECK(!sync_abandon(&t[0], &sync_alloc, &woken));
  sync_event_set(&e, &woken);
  CHECK(woken == NULL);
}

/* ---- reader-writer lock */

static int sync_read(chi_rwlock *l, chi_ctx *ctx)
{
  return sync_rwlock_lock(l, ctx, false, &sync_alloc);
}

static int sync_write(chi_rwlock *l, chi_ctx *ctx)
{
  return sync_rwlock_lock(l, ctx, true, &sync_alloc);
}

static int sync_unlock(chi_rwlock *l, chi_ctx *ctx, chi_ctx **woken)
{
  return sync_rwlock_unlock(l, ctx, &sync_alloc, woken);
}

TEST(sync_rwlock_readers_share)
{
  chi_rwlock l = {{0}};
  chi_ctx t[6], *woken = NULL;
  sync_tasks(t, 6, "123456");
  CHECK_INT(sync_read(&l, &t[0]), CHI_OK);
  CHECK_INT(sync_read(&l, &t[1]), CHI_OK);
  CHECK_INT(sync_write(&l, &t[2]), CHI_EBUSY);
  CHECK_INT(sync_read(&l, &t[3]), CHI_EBUSY); /* behind the writer: it must not starve */
  CHECK_INT(sync_read(&l, &t[4]), CHI_EBUSY);
  CHECK_INT(sync_write(&l, &t[5]), CHI_EBUSY);
  CHECK_INT(sync_unlock(&l, &t[3], &woken), CHI_EINVAL); /* doesn't hold it yet */
  CHECK_INT(sync_unlock(&l, &t[0], &woken), CHI_OK);
  CHECK(woken == NULL);
  CHECK_INT(sync_unlock(&l, &t[1], &woken), CHI_OK);
  CHECK_STR(sync_woken(woken, t), "c");
  CHECK_INT(sync_unlock(&l, &t[2], &woken), CHI_OK);
  CHECK_STR(sync_woken(woken, t), "de");
  CHECK_INT(sync_unlock(&l, &t[4], &woken), CHI_OK);
  CHECK(woken == NULL);
  CHECK_INT(sync_unlock(&l, &t[3], &woken), CHI_OK);
  CHECK_STR(sync_woken(woken, t), "f");
  CHECK_INT(sync_unlock(&l, &t[5], &woken), CHI_OK);
  CHECK_INT(sync_unlock(&l, &t[5], &woken), CHI_EINVAL);
  CHECK_INT(sync_blocks, 0);
}

TEST(sync_rwlock_group)
{
  chi_rwlock l = {{0}};
  chi_ctx t[4], *woken = NULL;
  sync_tasks(t, 4, "1112");
  CHECK_INT(sync_read(&l, &t[0]), CHI_OK);
  CHECK_INT(sync_write(&l, &t[1]), CHI_OK); /* the only readers are its own group */
  CHECK_INT(sync_write(&l, &t[2]), CHI_OK);
  CHECK_INT(sync_read(&l, &t[2]), CHI_OK);
  CHECK_INT(sync_read(&l, &t[3]), CHI_EBUSY);
  /* What excludes others is given back last, whoever took it. */
  for (int i = 0; i < 3; i++) {
    CHECK_INT(sync_unlock(&l, &t[i], &woken), CHI_OK);
    CHECK(woken == NULL);
  }
  CHECK_INT(sync_unlock(&l, &t[2], &woken), CHI_OK);
  CHECK_STR(sync_woken(woken, t), "d");
  CHECK_INT(sync_unlock(&l, &t[2], &woken), CHI_EINVAL);
  CHECK_INT(sync_write(&l, &t[0]), CHI_EBUSY);
  CHECK_INT(sync_unlock(&l, &t[3], &woken), CHI_OK);
  CHECK_STR(sync_woken(woken, t), "a");
  CHECK_INT(sync_unlock(&l, &t[0], &woken), CHI_OK);
  CHECK_INT(sync_blocks, 0);
}

/* A group that reads may read again though a writer waits: else it would wait for itself. */
TEST(sync_rwlock_reads_again_past_a_writer)
{
  chi_rwlock l = {{0}};
  chi_ctx t[3], *woken = NULL;
  sync_tasks(t, 3, "121");
  CHECK_INT(sync_read(&l, &t[0]), CHI_OK);
  CHECK_INT(sync_write(&l, &t[1]), CHI_EBUSY);
  CHECK_INT(sync_read(&l, &t[2]), CHI_OK);
  CHECK_INT(sync_unlock(&l, &t[2], &woken), CHI_OK);
  CHECK(woken == NULL);
  CHECK_INT(sync_unlock(&l, &t[0], &woken), CHI_OK);
  CHECK_STR(sync_woken(woken, t), "b");
  CHECK_INT(sync_unlock(&l, &t[1], &woken), CHI_OK);
  CHECK_INT(sync_blocks, 0);
}

/* A group that gets it is joined by those of it who stood behind others. */
TEST(sync_rwlock_lets_the_group_through_past_others)
{
  chi_rwlock l = {{0}};
  chi_ctx t[5], *woken = NULL;
  sync_tasks(t, 5, "12323");
  CHECK_INT(sync_write(&l, &t[0]), CHI_OK);
  CHECK_INT(sync_read(&l, &t[1]), CHI_EBUSY);
  CHECK_INT(sync_write(&l, &t[2]), CHI_EBUSY);
  CHECK_INT(sync_read(&l, &t[3]), CHI_EBUSY);
  CHECK_INT(sync_read(&l, &t[4]), CHI_EBUSY);
  CHECK_INT(sync_unlock(&l, &t[0], &woken), CHI_OK);
  CHECK_STR(sync_woken(woken, t), "bd");
  CHECK_INT(sync_unlock(&l, &t[1], &woken), CHI_OK);
  CHECK(woken == NULL);
  CHECK_INT(sync_unlock(&l, &t[3], &woken), CHI_OK);
  CHECK_STR(sync_woken(woken, t), "ce");
  CHECK_INT(sync_unlock(&l, &t[4], &woken), CHI_OK);
  CHECK_INT(sync_unlock(&l, &t[2], &woken), CHI_OK);
  CHECK_INT(sync_blocks, 0);
}

/* A reader whose subtask wants to write, when nobody else reads any more. */
TEST(sync_rwlock_writes_past_a_writer_that_waits_for_its_group)
{
  chi_rwlock l = {{0}};
  chi_ctx t[4], *woken = NULL;
  sync_tasks(t, 4, "1232");
  CHECK_INT(sync_read(&l, &t[0]), CHI_OK);
  CHECK_INT(sync_read(&l, &t[1]), CHI_OK);
  CHECK_INT(sync_write(&l, &t[2]), CHI_EBUSY);
  CHECK_INT(sync_write(&l, &t[3]), CHI_EBUSY);
  CHECK_INT(sync_unlock(&l, &t[0], &woken), CHI_OK);
  CHECK_STR(sync_woken(woken, t), "d");
  CHECK_INT(sync_unlock(&l, &t[3], &woken), CHI_OK);
  CHECK(woken == NULL);
  CHECK_INT(sync_unlock(&l, &t[1], &woken), CHI_OK);
  CHECK_STR(sync_woken(woken, t), "c");
  CHECK_INT(sync_unlock(&l, &t[2], &woken), CHI_OK);
  CHECK_INT(sync_blocks, 0);
}

TEST(sync_rwlock_abandoned_writer_lets_readers_in)
{
  chi_rwlock l = {{0}};
  chi_ctx t[5], *woken = NULL;
  sync_tasks(t, 5, "12345");
  CHECK_INT(sync_read(&l, &t[0]), CHI_OK);
  CHECK_INT(sync_write(&l, &t[1]), CHI_EBUSY);
  CHECK_INT(sync_read(&l, &t[2]), CHI_EBUSY);
  CHECK_INT(sync_read(&l, &t[3]), CHI_EBUSY);
  CHECK_INT(sync_write(&l, &t[4]), CHI_EBUSY);
  CHECK(sync_abandon(&t[3], &sync_alloc, &woken) && woken == NULL); /* gives its memory back */
  CHECK(sync_abandon(&t[1], &sync_alloc, &woken));
  CHECK_STR(sync_woken(woken, t), "c");
  CHECK(sync_abandon(&t[4], &sync_alloc, &woken) && woken == NULL);
  CHECK_INT(sync_unlock(&l, &t[0], &woken), CHI_OK);
  CHECK_INT(sync_unlock(&l, &t[2], &woken), CHI_OK);
  CHECK_INT(sync_blocks, 0);
}

TEST(sync_rwlock_frees_outside_its_latch)
{
  chi_rwlock l = {{0}};
  chi_ctx t[5], *woken = NULL;
  sync_tasks(t, 5, "11223");
  sync_watched = &l;
  CHECK_INT(sync_read(&l, &t[0]), CHI_OK);
  CHECK_INT(sync_read(&l, &t[1]), CHI_OK); /* of the same group */
  CHECK_INT(sync_write(&l, &t[4]), CHI_EBUSY);
  CHECK_INT(sync_read(&l, &t[2]), CHI_EBUSY);
  CHECK_INT(sync_read(&l, &t[3]), CHI_EBUSY);
  CHECK(sync_abandon(&t[4], &sync_alloc, &woken)); /* both come in, with one hold */
  CHECK_STR(sync_woken(woken, t), "cd");
  CHECK_INT(sync_blocks, 2);
  for (int i = 0; i < 4; i++)
    CHECK_INT(sync_unlock(&l, &t[i], &woken), CHI_OK);
  sync_watched = NULL;
  CHECK_INT(sync_blocks, 0);
}

TEST(sync_rwlock_without_memory)
{
  chi_rwlock l = {{0}};
  chi_ctx t[2], *woken = NULL;
  sync_tasks(t, 2, "12");
  sync_fail_at = 0;
  CHECK_INT(sync_read(&l, &t[0]), CHI_ENOMEM);
  CHECK(t[0].sync == NULL);
  sync_fail_at = 0;
  CHECK_INT(sync_write(&l, &t[1]), CHI_OK); /* needs none */
  sync_fail_at = 0;
  CHECK_INT(sync_read(&l, &t[0]), CHI_ENOMEM); /* isn't queued either */
  CHECK(t[0].sync == NULL && t[0].sync_hold == NULL);
  sync_fail_at = -1;
  CHECK_INT(sync_unlock(&l, &t[1], &woken), CHI_OK);
  CHECK(woken == NULL && sync_blocks == 0);
}

/* ---- a long life */

#define LIFE_TASKS 12u
#define LIFE_ROOTS 5u

struct life {
  chi_rwlock lock;
  chi_ctx task[LIFE_TASKS];
  enum life_state { LIFE_FREE, LIFE_WAITS, LIFE_READS, LIFE_WRITES } state[LIFE_TASKS];
  bool write[LIFE_TASKS]; /* what it waits for */
  struct rng rng;
};

static void life_wake(struct life *f, chi_ctx *woken)
{
  while (woken) {
    uint32_t i = (uint32_t)(woken - f->task);
    CHECK(f->state[i] == LIFE_WAITS && woken->sync == NULL);
    f->state[i] = f->write[i] ? LIFE_WRITES : LIFE_READS;
    woken = woken->sync_next;
  }
}

/* Whether a task waits although its group holds the lock, and nobody else is in the way. */
static bool life_waits_for_itself(const struct life *f, uint32_t task)
{
  bool own = false, others = false;
  if (f->state[task] != LIFE_WAITS)
    return false;
  for (uint32_t i = 0; i < LIFE_TASKS; i++) {
    bool mate = f->task[i].root == f->task[task].root;
    own |= mate && f->state[i] >= LIFE_READS;
    others |= !mate && f->state[i] >= LIFE_READS;
  }
  return own && !(f->write[task] && others);
}

/* Nobody holds it beside the group of a writer; and who could hold it doesn't wait. */
static void life_check(const struct life *f)
{
  uint64_t writer = 0;
  uint32_t holders = 0, waiting = 0;
  for (uint32_t i = 0; i < LIFE_TASKS; i++) {
    if (f->state[i] == LIFE_WRITES) {
      CHECK(writer == 0 || writer == f->task[i].root);
      writer = f->task[i].root;
    }
    holders += f->state[i] >= LIFE_READS;
    waiting += f->state[i] == LIFE_WAITS;
    CHECK((f->state[i] == LIFE_WAITS) == (f->task[i].sync != NULL));
    CHECK(!life_waits_for_itself(f, i));
  }
  for (uint32_t i = 0; writer && i < LIFE_TASKS; i++)
    CHECK(f->state[i] < LIFE_READS || f->task[i].root == writer);
  CHECK(holders > 0 || waiting == 0);
}

static void life_step(struct life *f)
{
  uint32_t i = (uint32_t)rng_below(&f->rng, LIFE_TASKS);
  chi_ctx *ctx = &f->task[i], *woken = NULL;
  bool write = rng_below(&f->rng, 3) == 0;
  int rc;
  switch (f->state[i]) {
  case LIFE_FREE:
    rc = sync_rwlock_lock(&f->lock, ctx, write, &sync_alloc);
    CHECK(rc == CHI_OK || rc == CHI_EBUSY);
    f->write[i] = write;
    f->state[i] = rc == CHI_EBUSY ? LIFE_WAITS : write ? LIFE_WRITES : LIFE_READS;
    break;
  case LIFE_WAITS:
    if (rng_below(&f->rng, 4) != 0)
      break;
    CHECK(sync_abandon(ctx, &sync_alloc, &woken));
    f->state[i] = LIFE_FREE;
    life_wake(f, woken);
    break;
  default:
    /* A group gives its reads back first, whoever of it took them. */
    CHECK_INT(sync_rwlock_unlock(&f->lock, ctx, &sync_alloc, &woken), CHI_OK);
    for (uint32_t k = 0; f->state[i] == LIFE_WRITES && k < LIFE_TASKS; k++)
      if (f->state[k] == LIFE_READS && f->task[k].root == ctx->root)
        f->state[k] = LIFE_WRITES, f->state[i] = LIFE_READS;
    f->state[i] = LIFE_FREE;
    life_wake(f, woken);
  }
}

static void life_run(uint64_t seed)
{
  static struct life f;
  memset(&f, 0, sizeof f);
  sync_blocks = 0;
  sync_fail_at = -1;
  rng_seed(&f.rng, seed, 0, 0);
  for (uint32_t i = 0; i < LIFE_TASKS; i++)
    f.task[i] = (chi_ctx){.root = 1 + i % LIFE_ROOTS, .origin = TASK_FROM_PARENT};
  for (uint32_t step = 0; step < 20000; step++) {
    life_step(&f);
    life_check(&f);
  }
  /* In the end everybody gives it back, and so everybody gets in. */
  for (uint32_t n = 0; n < LIFE_TASKS * LIFE_TASKS; n++) {
    chi_ctx *woken = NULL;
    uint32_t i = n % LIFE_TASKS;
    if (f.state[i] < LIFE_READS)
      continue;
    CHECK_INT(sync_rwlock_unlock(&f.lock, &f.task[i], &sync_alloc, &woken), CHI_OK);
    f.state[i] = LIFE_FREE;
    life_wake(&f, woken);
  }
  for (uint32_t i = 0; i < LIFE_TASKS; i++)
    CHECK(f.state[i] == LIFE_FREE);
  CHECK_INT(sync_blocks, 0);
}

TEST(sync_rwlock_long_life)
{
  for (uint64_t seed = 1; seed <= 10; seed++)
    life_run(seed);
}
