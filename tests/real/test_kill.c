/* test_kill.c - kill -9 at random moments: of clients by the thousand, and of daemons; and memory
 * that a cgroup doesn't give. */
#include "daemon.h"
#include "modules/calc.h"
#include "modules/unruly.h"
#include "test.h"

#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <sys/mman.h>

#define LONG_NS (20 * SECOND_NS)
#define BDEV_POOL ((chi_pool_id){310, 0})
#define UNRULY_POOL ((chi_pool_id){320, 0})

static uint64_t lot_state = 0x9e3779b97f4a7c15u;

/* A number below `most`. Where a process dies shall differ from run to run. */
static uint64_t lot(uint64_t most)
{
  lot_state ^= lot_state << 13;
  lot_state ^= lot_state >> 7;
  lot_state ^= lot_state << 17;
  return lot_state % most;
}

static void lot_begin(uint64_t salt)
{
  lot_state = (now_ns() + salt * 0x9e3779b97f4a7c15u) | 1;
}

/* Memory that forked children share with the test. */
static void *common(size_t size)
{
  void *p = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
  return p == MAP_FAILED ? NULL : p;
}

/* ---- clients that die ------------------------------------------------------------------------ */

#define VICTIM_YAML                                                                                \
  "memory: {main_segment_size: 256M, client_data_segment_size: 256M, "                             \
  "runtime_data_segment_size: 128M}\n"                                                             \
  "compose:\n"                                                                                     \
  "  - {mod_name: calc, pool_name: calc, pool_query: local, pool_id: \"300.0\"}\n"                 \
  "  - {mod_name: bdev, pool_name: ram, pool_query: local, pool_id: \"310.0\", capacity: 16M, "    \
  "bdev_type: ram}\n"                                                                              \
  "  - {mod_name: unruly, pool_name: unruly, pool_query: local, pool_id: \"320.0\"}\n"

/* One of the things that a client does. False: it could not, because there is no room. */
static bool victim_act(struct seat *s, uint64_t what)
{
  struct calc_add *add = SEAT_NEW(s, calc_add);
  struct calc_later *sleeper = SEAT_NEW(s, calc_later);
  struct calc_shift *shift = SEAT_NEW(s, calc_shift);
  struct unruly_lock *lock = SEAT_NEW(s, unruly_lock);
  struct unruly_await *await = SEAT_NEW(s, unruly_await);
  struct calc_count *count = SEAT_NEW(s, calc_count);
  struct unruly_leave *leave = SEAT_NEW(s, unruly_leave);
  if (!add || !sleeper || !shift || !lock || !await || !count || !leave)
    return false;
  lock->task.pool = await->task.pool = leave->task.pool = UNRULY_POOL;
  switch (what) {
  case 0:
    return chi_run(s->queue, add) == CHI_OK;
  case 1:
    sleeper->ns = 1000 * SECOND_NS;
    return chi_submit(s->queue, sleeper) == CHI_OK;
  case 2:
    lock->ns = lot(2) ? 1000 * SECOND_NS : MS_NS;
    return chi_submit(s->queue, lock) == CHI_OK;
  case 3:
    return chi_submit(s->queue, await) == CHI_OK;
  case 4:
    count->task.flags = CHI_TASK_PERIODIC;
    count->task.period_us = 500;
    return chi_submit(s->queue, count) == CHI_OK;
  case 5:
    leave->count = 5;
    leave->ns = 2 * MS_NS;
    return chi_submit(s->queue, leave) == CHI_OK;
  case 6:
    return chi_bulk_alloc(s->queue, 1 + lot(lot(16) ? 40000 : 5 << 20), &shift->from) != CHI_OK ||
           chi_bulk_alloc(s->queue, shift->from.size, &shift->to) != CHI_OK ||
           chi_submit(s->queue, shift) == CHI_OK;
  case 7:
    add->task.pool.major = 999; /* nobody */
    return chi_submit(s->queue, add) == CHI_OK;
  default:
    sleeper->ns = 1000 * SECOND_NS;
    return chi_submit(s->queue, sleeper) == CHI_OK && chi_abandon(s->queue, sleeper) == CHI_OK;
  }
}

/* Writes to the RAM device, as much as there is room for. */
static void victim_write(struct seat *s)
{
  struct chi_bdev_write *w = SEAT_NEW(s, chi_bdev_write);
  if (!w || chi_bulk_alloc(s->queue, 1 << 20, &w->data) != CHI_OK)
    return;
  w->task.pool = BDEV_POOL;
  w->block.size = 1 << 20; /* that of the witness's neighbour */
  w->length = 1 << 20;
  chi_submit(s->queue, w);
}

/* Works until it is killed, or kills itself after so many acts; counts them. */
static void victim(const char *instance, uint64_t seed, uint64_t *count)
{
  struct seat s;
  lot_begin(seed);
  uint64_t acts = lot(2) ? lot(40) : UINT64_MAX;
  if (acts == 0)
    raise(SIGKILL);
  if (seat_open(&s, instance) != CHI_OK)
    _exit(3);
  for (uint64_t i = 0; i < acts; i++) {
    __atomic_fetch_add(count, 1, __ATOMIC_RELAXED);
    if (lot(20) == 0)
      victim_write(&s);
    else if (!victim_act(&s, lot(9)))
      pause_ns(100000);
  }
  raise(SIGKILL);
}

/* Works all the time beside those that die, and checks every answer. */
struct witness {
  uint64_t rounds, slowest; /* nanoseconds of one round */
  uint64_t acts;            /* of those that die */
  uint32_t enough;
  char wrong[200];
};

static const char *witness_device(struct seat *s, chi_bulk *data, const struct chi_block *block,
                                  uint64_t round)
{
  struct chi_bdev_write *w = SEAT_NEW(s, chi_bdev_write);
  struct chi_bdev_read *r = SEAT_NEW(s, chi_bdev_read);
  if (!w || !r)
    return "no memory";
  w->task.pool = r->task.pool = BDEV_POOL;
  w->block = r->block = *block;
  w->length = r->length = 8192;
  memset(data->data, (int)round, 8192);
  w->data = r->data = *data;
  if (chi_submit(s->queue, w) != CHI_OK || chi_wait(s->queue, w, LONG_NS) != CHI_OK)
    return "cannot write";
  memset(data->data, 0xee, 8192);
  if (chi_submit(s->queue, r) != CHI_OK || chi_wait(s->queue, r, LONG_NS) != CHI_OK)
    return "cannot read";
  for (int i = 0; i < 8192; i++)
    if (((uint8_t *)data->data)[i] != (uint8_t)round)
      return "read something else than it wrote";
  chi_task_free(s->queue, w);
  chi_task_free(s->queue, r);
  return "";
}

static const char *witness_round(struct seat *s, uint64_t round)
{
  struct calc_add *t = SEAT_NEW(s, calc_add);
  struct calc_later *u = SEAT_NEW(s, calc_later);
  if (!t || !u)
    return "no memory";
  t->a = u->a = round;
  t->b = 1;
  if (chi_submit(s->queue, t) != CHI_OK || chi_submit(s->queue, u) != CHI_OK)
    return "cannot submit";
  if (chi_wait(s->queue, t, LONG_NS) != CHI_OK || chi_wait(s->queue, u, LONG_NS) != CHI_OK)
    return "a task does not complete";
  if (t->sum != round + 1 || u->sum != round + 1)
    return "a wrong answer";
  chi_task_free(s->queue, t);
  chi_task_free(s->queue, u);
  return "";
}

static const char *witness_work(struct witness *w, struct seat *s)
{
  struct chi_bdev_allocate_blocks *a = SEAT_NEW(s, chi_bdev_allocate_blocks);
  chi_bulk data;
  const char *wrong = "";
  if (!a || chi_bulk_alloc(s->queue, 8192, &data) != CHI_OK)
    return "no memory";
  a->task.pool = BDEV_POOL;
  a->size = 8192;
  if (chi_run(s->queue, a) != CHI_OK || a->block_total != 1)
    return "cannot allocate a block";
  while (!*wrong && !__atomic_load_n(&w->enough, __ATOMIC_RELAXED)) {
    uint64_t began = now_ns();
    wrong = witness_round(s, w->rounds);
    if (!*wrong && w->rounds % 8 == 0)
      wrong = witness_device(s, &data, &a->blocks[0], w->rounds);
    uint64_t took = now_ns() - began;
    w->slowest = took > w->slowest ? took : w->slowest;
    __atomic_store_n(&w->rounds, w->rounds + 1, __ATOMIC_RELAXED);
    pause_ns(20000); /* two CPUs: leave some for the dying */
  }
  return wrong;
}

static pid_t witness_start(struct witness *w, const char *instance)
{
  struct seat s;
  fflush(NULL);
  pid_t child = fork();
  if (child != 0)
    return child;
  const char *wrong = seat_open(&s, instance) == CHI_OK ? witness_work(w, &s) : "cannot attach";
  snprintf(w->wrong, sizeof(w->wrong), "%s", wrong);
  if (!*wrong)
    seat_close(&s);
  _exit(*wrong != '\0');
}

#define VICTIMS_AT_ONCE 8

/* Lets so many clients die, some at a time; how many could not even begin. */
static int killing(const char *instance, int number, uint64_t *acts)
{
  pid_t child[VICTIMS_AT_ONCE] = {0};
  int failed = 0, status;
  for (int i = 0; i < number + VICTIMS_AT_ONCE; i++) {
    pid_t *c = &child[i % VICTIMS_AT_ONCE];
    if (*c > 0) {
      if (lot(4))
        pause_ns(lot(lot(16) ? 6 * MS_NS : 60 * MS_NS));
      kill(*c, SIGKILL);
      if (waitpid(*c, &status, 0) == *c)
        failed += WIFEXITED(status);
    }
    *c = 0;
    if (i >= number)
      continue;
    *c = fork();
    if (*c == 0)
      victim(instance, (uint64_t)i, acts);
  }
  return failed;
}

/* What the process holds may not have grown since `before`, nor what it keeps for the next burst.
 */
static void check_process(const struct daemon *d, struct seat *s, const struct figures *before)
{
  struct figures after;
  CHECK(figures_of_process(d->pid, &after));
  CHECK(after.descriptors <= before->descriptors);
  CHECK_INT(after.threads, before->threads);
  CHECK(after.rss < before->rss + (6 << 20) + RSS_SLACK);
  CHECK(EVENTUALLY(5000, figures_ask(s, &after) == CHI_OK && after.stacks <= 40 * 5));
  CHECK(daemon_logged(d, "\n") < 200);
}

/* Regression: answers to a dead client were retried for ever and filled the disk with log lines. */
TEST(clients_killed_by_the_thousand_leave_nothing)
{
  struct daemon d;
  struct seat s;
  struct figures alone, before;
  struct witness *w = common(sizeof(*w));
  CHECK(w && daemon_make(&d, VICTIM_YAML));
  CHECK_STR(daemon_start(&d), "");
  CHECK_INT(seat_open(&s, d.instance), CHI_OK);
  CHECK_INT(figures_begin(&s, &alone), CHI_OK);
  pid_t witness = witness_start(w, d.instance);
  CHECK(EVENTUALLY(5000, w->rounds > 0));
  lot_begin(1);
  CHECK_INT(killing(d.instance, 200, &w->acts), 0); /* so that every pool of memory has been used */
  pause_ns(SECOND_NS);
  CHECK(figures_of_process(d.pid, &before));
  uint64_t rounds = w->rounds;
  CHECK_INT(killing(d.instance, 2500, &w->acts), 0);
  CHECK(w->rounds > rounds + 1000);
  CHECK(w->acts > 3000);
  w->enough = 1;
  int status = 0;
  CHECK_INT(waitpid(witness, &status, 0), witness);
  CHECK_STR(w->wrong, "");
  CHECK_INT(status, 0);
  CHECK(w->slowest < SLOW * SECOND_NS);
  CHECK_STR(figures_return(&s, &alone, 1500), "");
  check_process(&d, &s, &before);
  seat_close(&s);
  CHECK_INT(daemon_stop(&d), 0);
  daemon_free(&d);
  munmap(w, sizeof(*w));
}

/* ---- daemons that die ------------------------------------------------------------------------ */

#define BLOCKS_MOST 200
#define BLOCK_MOST (256u << 10)
#define DISK_SIZE (64u << 20)

/* What a client knows of its blocks on the device: it outlives every daemon. */
struct holding {
  struct chi_block block;
  uint64_t seed; /* of its content */
  bool written, synced;
};

struct keeper {
  struct seat s;
  chi_bulk data;
  struct holding hold[BLOCKS_MOST];
  uint32_t count;
  struct chi_block freed[BLOCKS_MOST]; /* may be allocated again after a crash */
  uint32_t freed_count;
  uint64_t unsure; /* bytes that may be allocated, or not: the answer was never heard */
  uint64_t seed;
};

/* What the test hears of it. */
struct diary {
  uint64_t acts, crashes, verified, killed_at;
  uint32_t enough, ready;
  char wrong[200];
};

/* Attaches again; tasks and buffers of before are given up. */
static const char *keeper_attach(struct keeper *k, const char *instance)
{
  for (uint64_t end = now_ns() + LONG_NS; now_ns() < end; pause_ns(2 * MS_NS)) {
    if (k->s.client)
      seat_close(&k->s);
    if (seat_open(&k->s, instance) == CHI_OK &&
        chi_bulk_alloc(k->s.queue, BLOCK_MOST, &k->data) == CHI_OK)
      return "";
  }
  return "cannot attach to the next daemon";
}

static void *keeper_task(struct keeper *k, const chi_type *type)
{
  chi_task *t = chi_task_new(k->s.queue, type);
  if (t)
    t->pool = BDEV_POOL;
  return t;
}

static int keeper_run(struct keeper *k, void *task)
{
  int rc = chi_submit(k->s.queue, task);
  return rc == CHI_OK ? chi_wait(k->s.queue, task, LONG_NS) : rc;
}

static void keeper_fill(struct keeper *k, const struct holding *h)
{
  uint64_t *at = k->data.data;
  for (uint64_t i = 0; i < h->block.size / 8; i++)
    at[i] = h->seed + i;
}

static bool keeper_filled(struct keeper *k, const struct holding *h)
{
  const uint64_t *at = k->data.data;
  for (uint64_t i = 0; i < h->block.size / 8; i++)
    if (at[i] != h->seed + i)
      return false;
  return true;
}

static bool keeper_overlaps(const struct keeper *k, const struct chi_block *b)
{
  for (uint32_t i = 0; i < k->count; i++) {
    const struct chi_block *h = &k->hold[i].block;
    if (b->offset < h->offset + h->size && h->offset < b->offset + b->size)
      return true;
  }
  return false;
}

/* The operations return CHI_OK, CHI_ESHUTDOWN, or what must not be: 1 with k->wrong... */
static int keeper_allocate(struct keeper *k, const char **wrong)
{
  struct chi_bdev_allocate_blocks *t = keeper_task(k, &chi_bdev_allocate_blocks_type);
  if (!t)
    return chi_queue_error(k->s.queue, NULL);
  t->size = (1 + lot(BLOCK_MOST / 4096)) * 4096;
  uint64_t size = t->size;
  int rc = keeper_run(k, t);
  if (rc == CHI_ESHUTDOWN)
    k->unsure += size;
  if (rc != CHI_OK)
    return rc == CHI_ENOSPC ? CHI_OK : rc;
  k->freed_count = 0; /* what was freed before is durably free */
  if (t->block_total > CHI_BDEV_BLOCKS || k->count + t->block_total > BLOCKS_MOST)
    *wrong = "too many extents";
  for (uint32_t i = 0; i < t->blocks_count && !**wrong; i++) {
    if (keeper_overlaps(k, &t->blocks[i]))
      *wrong = "allocated what is allocated already";
    k->hold[k->count++] = (struct holding){.block = t->blocks[i]};
  }
  chi_task_free(k->s.queue, t);
  return CHI_OK;
}

static int keeper_free_block(struct keeper *k, const struct chi_block *b)
{
  struct chi_bdev_free_blocks *t = keeper_task(k, &chi_bdev_free_blocks_type);
  if (!t)
    return chi_queue_error(k->s.queue, NULL);
  t->blocks_count = 1;
  t->blocks[0] = *b;
  int rc = keeper_run(k, t);
  if (rc != CHI_ESHUTDOWN)
    chi_task_free(k->s.queue, t);
  return rc;
}

static int keeper_free(struct keeper *k)
{
  uint32_t i = (uint32_t)lot(k->count);
  struct chi_block b = k->hold[i].block;
  k->hold[i] = k->hold[--k->count];
  k->freed[k->freed_count++] = b;
  return keeper_free_block(k, &b);
}

static int keeper_write(struct keeper *k)
{
  struct holding *h = &k->hold[lot(k->count)];
  struct chi_bdev_write *t = keeper_task(k, &chi_bdev_write_type);
  if (!t)
    return chi_queue_error(k->s.queue, NULL);
  h->seed = ++k->seed << 32;
  h->written = h->synced = false;
  keeper_fill(k, h);
  t->block = h->block;
  t->data = k->data;
  t->length = h->block.size;
  int rc = keeper_run(k, t);
  h->written = rc == CHI_OK;
  if (rc != CHI_ESHUTDOWN)
    chi_task_free(k->s.queue, t);
  return rc;
}

static int keeper_sync(struct keeper *k)
{
  struct chi_bdev_sync *t = keeper_task(k, &chi_bdev_sync_type);
  if (!t)
    return chi_queue_error(k->s.queue, NULL);
  int rc = keeper_run(k, t);
  if (rc != CHI_OK)
    return rc;
  for (uint32_t i = 0; i < k->count; i++)
    k->hold[i].synced = k->hold[i].written;
  k->freed_count = 0;
  chi_task_free(k->s.queue, t);
  return rc;
}

/* A block is there, and holds what was synced. */
static int keeper_check(struct keeper *k, const struct holding *h, const char **wrong)
{
  struct chi_bdev_read *t = keeper_task(k, &chi_bdev_read_type);
  if (!t)
    return chi_queue_error(k->s.queue, NULL);
  t->block = h->block;
  t->data = k->data;
  t->length = h->block.size;
  int rc = keeper_run(k, t);
  if (rc == CHI_EINVAL)
    *wrong = "an acknowledged allocation is gone";
  if (rc == CHI_OK && h->synced && !keeper_filled(k, h))
    *wrong = "synced bytes are gone";
  if (rc != CHI_ESHUTDOWN)
    chi_task_free(k->s.queue, t);
  return rc;
}

/* The space that is left fits what is known. */
static int keeper_count(struct keeper *k, const char **wrong)
{
  struct chi_bdev_get_stats *t = keeper_task(k, &chi_bdev_get_stats_type);
  uint64_t held = 0;
  if (!t)
    return chi_queue_error(k->s.queue, NULL);
  int rc = keeper_run(k, t);
  for (uint32_t i = 0; i < k->count; i++)
    held += k->hold[i].block.size;
  uint64_t gone = t->capacity - t->remaining;
  if (rc == CHI_OK && (gone < held || gone > held + k->unsure))
    *wrong = "the remaining space is wrong";
  if (rc == CHI_OK)
    chi_task_free(k->s.queue, t);
  return rc;
}

/* After a crash: everything that was acknowledged. */
static int keeper_verify(struct keeper *k, struct diary *d, const char **wrong)
{
  int rc = CHI_OK;
  for (uint32_t i = 0; i < k->freed_count && rc == CHI_OK; i++) {
    rc = keeper_free_block(k, &k->freed[i]);
    rc = rc == CHI_EINVAL ? CHI_OK : rc; /* it is free already */
  }
  for (uint32_t i = 0; i < k->count && rc == CHI_OK && !**wrong; i++)
    rc = keeper_check(k, &k->hold[i], wrong);
  if (rc == CHI_OK && !**wrong)
    rc = keeper_count(k, wrong);
  d->verified += rc == CHI_OK;
  return rc;
}

static int keeper_act(struct keeper *k, const char **wrong)
{
  uint64_t what = lot(10);
  if (k->count == 0 || (what < 2 && k->count < 24))
    return keeper_allocate(k, wrong);
  if (what < 3)
    return k->freed_count < BLOCKS_MOST ? keeper_free(k) : keeper_sync(k);
  if (what < 7)
    return keeper_write(k);
  if (what < 8)
    return keeper_sync(k);
  return keeper_check(k, &k->hold[lot(k->count)], wrong);
}

static const char *keeper_work(struct diary *d, const char *instance)
{
  static struct keeper k;
  const char *wrong = keeper_attach(&k, instance);
  lot_begin(99);
  while (!*wrong && !__atomic_load_n(&d->enough, __ATOMIC_RELAXED)) {
    int rc = keeper_act(&k, &wrong);
    __atomic_store_n(&d->acts, d->acts + 1, __ATOMIC_RELAXED);
    while (rc == CHI_ESHUTDOWN && !*wrong) {
      d->crashes++;
      wrong = keeper_attach(&k, instance);
      rc = *wrong ? CHI_OK : keeper_verify(&k, d, &wrong);
    }
    if (rc != CHI_OK && !*wrong)
      wrong = chi_status_name(rc);
  }
  if (!*wrong && keeper_verify(&k, d, &wrong) != CHI_OK && !*wrong)
    wrong = "the last look failed";
  return wrong;
}

static pid_t keeper_start(struct diary *d, const char *instance)
{
  fflush(NULL);
  pid_t child = fork();
  if (child != 0)
    return child;
  const char *wrong = keeper_work(d, instance);
  snprintf(d->wrong, sizeof(d->wrong), "%s", wrong);
  _exit(*wrong != '\0');
}

/* Clients that wait in one way or other when the daemon dies; they return what they heard. */
static int mourn_waiting(struct seat *s, void *task)
{
  return chi_wait(s->queue, task, UINT64_MAX);
}

static int mourn_any(struct seat *s, void *task)
{
  uint32_t which;
  return chi_wait_any(s->queue, &task, 1, UINT64_MAX, &which);
}

static int mourn_armed(struct seat *s, void *task)
{
  void *done[1];
  struct pollfd p = {chi_queue_fd(s->queue), POLLIN, 0};
  while (chi_reap(s->queue, done, 1) == 0)
    if (chi_queue_arm(s->queue) == 0 && poll(&p, 1, 10000) != 1)
      return CHI_ETIMEOUT;
  return ((chi_task *)task)->rc;
}

static int mourn_polling(struct seat *s, void *task)
{
  while (!chi_task_done(s->queue, task))
    pause_ns(MS_NS);
  return ((chi_task *)task)->rc;
}

/* Asks for memory again and again: waits for the daemon on the socket. */
static int mourn_leasing(struct seat *s, void *task)
{
  chi_bulk bulk;
  int rc = CHI_OK;
  (void)task;
  while (rc == CHI_OK) {
    rc = chi_bulk_alloc(s->queue, 4 << 20, &bulk);
    if (rc == CHI_OK)
      rc = chi_bulk_free(s->queue, &bulk);
  }
  return rc;
}

static int mourn_working(struct seat *s, void *task)
{
  struct calc_add *t = SEAT_NEW(s, calc_add);
  int rc = t ? CHI_OK : CHI_ENOMEM;
  (void)task;
  while (rc == CHI_OK)
    rc = chi_run(s->queue, t);
  return rc;
}

static int (*const mourners[])(struct seat *s, void *task) = {
    mourn_waiting, mourn_any, mourn_armed, mourn_polling, mourn_leasing, mourn_working};

/* The exit status: 0, or what was wrong. */
static int mourner(struct diary *d, const char *instance, size_t kind)
{
  struct seat s;
  if (seat_open(&s, instance) != CHI_OK)
    return 1;
  struct calc_later *t = SEAT_NEW(&s, calc_later);
  if (!t)
    return 2;
  t->ns = 1000 * SECOND_NS;
  if (chi_submit(s.queue, t) != CHI_OK)
    return 3;
  __atomic_fetch_add(&d->ready, 1, __ATOMIC_RELAXED);
  int rc = mourners[kind](&s, t);
  uint64_t late = now_ns() - __atomic_load_n(&d->killed_at, __ATOMIC_RELAXED);
  chi_client_close(s.client);
  return rc != CHI_ESHUTDOWN ? 4 : late > SLOW * SECOND_NS ? 5 : 0;
}

/* One life of the daemon. */
static void one_life(struct daemon *d, struct diary *diary)
{
  pid_t child[CHI_COUNT(mourners)];
  CHECK_STR(daemon_start(d), "");
  diary->ready = 0;
  for (size_t i = 0; i < CHI_COUNT(mourners); i++) {
    fflush(NULL);
    child[i] = fork();
    if (child[i] == 0)
      _exit(mourner(diary, d->instance, i));
  }
  CHECK(EVENTUALLY(20000, __atomic_load_n(&diary->ready, __ATOMIC_RELAXED) == CHI_COUNT(mourners)));
  pause_ns(lot(40 * MS_NS));
  __atomic_store_n(&diary->killed_at, now_ns(), __ATOMIC_RELAXED);
  daemon_kill(d);
  for (size_t i = 0; i < CHI_COUNT(mourners); i++) {
    int status = -1;
    CHECK_INT(waitpid(child[i], &status, 0), child[i]);
    if (status != 0)
      test_fail(__FILE__, __LINE__, "client of kind %zu ended with status %d", i, status >> 8);
  }
}

/* A daemon with a device on a file of its directory. */
static bool disk_make(struct daemon *d)
{
  char yaml[512];
  if (!daemon_make(d, NULL))
    return false;
  snprintf(yaml, sizeof(yaml),
           "\ncompose:\n"
           "  - {mod_name: calc, pool_name: calc, pool_query: local, pool_id: \"300.0\"}\n"
           "  - {mod_name: bdev, pool_name: %s/disk, pool_query: local, pool_id: \"310.0\", "
           "capacity: %u, bdev_type: file}\n",
           d->dir, DISK_SIZE);
  FILE *f = fopen(d->config, "ae");
  return f && fputs(yaml, f) >= 0 && fclose(f) == 0;
}

/* Regressions: a killed daemon left its clients hanging for minutes; segments stayed behind, and
 * the next start collided with them. */
TEST(daemon_killed_at_random_moments)
{
  struct daemon d;
  struct diary *diary = common(sizeof(*diary));
  lot_begin(2);
  CHECK(diary && disk_make(&d));
  pid_t keeper = keeper_start(diary, d.instance);
  for (int life = 0; life < 40 && !diary->wrong[0]; life++)
    one_life(&d, diary);
  CHECK_STR(daemon_start(&d), "");
  uint64_t acts = diary->acts;
  CHECK(EVENTUALLY(20000, diary->wrong[0] || diary->acts > acts + 10));
  diary->enough = 1;
  int status = 0;
  CHECK_INT(waitpid(keeper, &status, 0), keeper);
  CHECK_STR(diary->wrong, "");
  CHECK_INT(status, 0);
  CHECK(diary->crashes >= 30 && diary->verified >= 15 && diary->acts > 400);
  CHECK_INT(daemon_stop(&d), 0);
  daemon_free(&d);
  munmap(diary, sizeof(*diary));
}

/* At any moment of its start, with a device that is being made; the next start works by itself. */
TEST(daemon_killed_while_it_starts)
{
  struct daemon d;
  struct seat s;
  char path[128];
  lot_begin(3);
  CHECK(disk_make(&d));
  for (int i = 0; i < 60; i++) {
    CHECK(daemon_spawn(&d));
    pause_ns(lot(40 * MS_NS));
    daemon_kill(&d);
    if (i % 5 != 4)
      continue;
    CHECK_STR(daemon_start(&d), "");
    CHECK_INT(seat_open(&s, d.instance), CHI_OK);
    struct chi_bdev_allocate_blocks *t = SEAT_NEW(&s, chi_bdev_allocate_blocks);
    CHECK(t);
    t->task.pool = BDEV_POOL;
    t->size = 4096;
    CHECK_INT(chi_run(s.queue, t), CHI_OK);
    seat_close(&s);
    daemon_kill(&d);
    if (i % 2) { /* and anew */
      snprintf(path, sizeof(path), "%s/disk", d.dir);
      unlink(path);
      snprintf(path, sizeof(path), "%s/disk.chi-log", d.dir);
      unlink(path);
    }
  }
  daemon_free(&d);
}

/* ---- memory that a cgroup doesn't give ------------------------------------------------------- */

#define CGROUP_LIMIT (64u << 20)

/* Writes a number into a file of a cgroup. */
static bool cgroup_write(const char *dir, const char *name, uint64_t value)
{
  char path[600], text[32];
  snprintf(path, sizeof(path), "%s/%s", dir, name);
  int fd = open(path, O_WRONLY | O_CLOEXEC);
  int n = snprintf(text, sizeof(text), "%llu", (unsigned long long)value);
  bool written = fd >= 0 && write(fd, text, (size_t)n) == n;
  if (fd >= 0)
    close(fd);
  return written;
}

/* Makes a cgroup below that of this process, with a limit. NULL, or why there is none. */
static const char *cgroup_make(char *dir, size_t room)
{
  char text[4096];
  scratch_read("/proc/self/cgroup", text, sizeof(text));
  char *v1 = strstr(text, ":memory:"), *v2 = strstr(text, "0::");
  if (!v1 && !v2)
    return "no cgroup with memory";
  char *path = v1 ? v1 + strlen(":memory:") : v2 + strlen("0::");
  path[strcspn(path, "\n")] = '\0';
  snprintf(dir, room, "/sys/fs/cgroup%s%.300s/chi-test-%d", v1 ? "/memory" : "", path,
           (int)getpid());
  if (mkdir(dir, 0755) != 0)
    return "cgroups cannot be made here";
  if (cgroup_write(dir, v1 ? "memory.limit_in_bytes" : "memory.max", CGROUP_LIMIT))
    return NULL;
  rmdir(dir);
  return "cgroups here have no limit of memory";
}

/* Takes all there is, gives it back, some times. The empty text, or what was wrong. */
static const char *cgroup_exhaust(struct seat *s)
{
  static chi_bulk bulk[200];
  struct calc_shift *t = SEAT_NEW(s, calc_shift);
  chi_error err;
  if (!t)
    return "no task";
  for (int round = 0; round < 4; round++) {
    int n = 0;
    while (n < 200 && chi_bulk_alloc(s->queue, 2 << 20, &bulk[n]) == CHI_OK)
      memset(bulk[n++].data, 1, 2 << 20); /* every page of it is there */
    if (n < 5 || n >= 32)
      return "the limit is not felt";
    if (chi_queue_error(s->queue, &err) != CHI_ENOMEM ||
        !strstr(err.text, "Failed to allocate shared memory segment"))
      return "not the right words";
    t->from = bulk[0];
    t->to = bulk[1];
    t->add = 1;
    if (chi_run(s->queue, t) != CHI_OK || ((uint8_t *)bulk[1].data)[(2 << 20) - 1] != 2)
      return "what was there before does not work any more";
    while (n > 0)
      if (chi_bulk_free(s->queue, &bulk[--n]) != CHI_OK)
        return "cannot free";
  }
  return "";
}

/* One of two devices in memory, each of half the limit: both fit when they are made, but not when
 * they are full. */
static int device_make(struct seat *s, uint32_t number, const char *capacity, chi_error *err)
{
  char size[16], type[] = "ram", names[2][12] = {"capacity", "bdev_type"}, name[16];
  const chi_param params[] = {{names[0], size, 0, 0}, {names[1], type, 0, 0}};
  chi_pool_id id = {400 + number, 0};
  snprintf(size, sizeof(size), "%s", capacity);
  snprintf(name, sizeof(name), "ram%u", number);
  return chi_pool_create(s->queue, "bdev", name, params, 2, &id, err);
}

/* Writes or reads a MiB of a device with that byte. */
static int device_move(struct seat *s, uint32_t number, uint64_t at, const chi_bulk *data,
                       bool read)
{
  struct chi_bdev_write *w = SEAT_NEW(s, chi_bdev_write);
  struct chi_bdev_read *r = SEAT_NEW(s, chi_bdev_read);
  struct chi_block block = {at << 20, 1 << 20, 8};
  if (!w || !r)
    return CHI_EUNKNOWN;
  w->task.pool = r->task.pool = (chi_pool_id){400 + number, 0};
  w->block = r->block = block;
  w->data = r->data = *data;
  w->length = r->length = 1 << 20;
  int rc = read ? chi_run(s->queue, r) : chi_run(s->queue, w);
  chi_task_free(s->queue, w);
  chi_task_free(s->queue, r);
  return rc;
}

/* Writes from *at on, up to 32 MiB: the first code that isn't 0. */
static int device_fill(struct seat *s, uint32_t number, uint64_t *at, const chi_bulk *data)
{
  int rc = CHI_OK;
  for (; rc == CHI_OK && *at < 32; *at += rc == CHI_OK) {
    memset(data->data, (int)(number * 32 + *at), 1 << 20);
    rc = device_move(s, number, *at, data, false);
  }
  return rc;
}

static const char *devices_overcommit(struct seat *s)
{
  struct chi_bdev_allocate_blocks *a = SEAT_NEW(s, chi_bdev_allocate_blocks);
  uint64_t first = 0, second = 0;
  chi_error err = {0};
  chi_bulk data;
  if (!a || chi_bulk_alloc(s->queue, 1 << 20, &data) != CHI_OK)
    return "no memory";
  if (device_make(s, 2, "64M", &err) != CHI_ENOMEM || !strstr(err.text, "out of memory"))
    return "a device of more than there is";
  for (uint32_t i = 0; i < 2; i++) {
    if (device_make(s, i, "32M", &err) != CHI_OK)
      return "cannot make a device";
    a->task.pool = (chi_pool_id){400 + i, 0};
    a->size = 32 << 20;
    if (chi_run(s->queue, a) != CHI_OK)
      return "cannot allocate";
  }
  if (device_fill(s, 0, &first, &data) != CHI_OK)
    return "cannot fill the first";
  if (device_fill(s, 1, &second, &data) != CHI_ENOMEM || second < 4)
    return "the limit is not felt";
  for (uint64_t i = 0; i < 32; i++)
    if (device_move(s, 0, i, &data, true) != CHI_OK || ((uint8_t *)data.data)[12345] != i)
      return "what was written is gone";
  if (chi_pool_destroy(s->queue, (chi_pool_id){400, 0}, NULL) != CHI_OK ||
      device_fill(s, 1, &second, &data) != CHI_OK)
    return "memory that was given back cannot be had";
  return "";
}

/* A daemon inside a small cgroup, and what a client does there. */
static const char *cgroup_life(struct daemon *d, const char *dir,
                               const char *(*body)(struct seat *s))
{
  struct seat s;
  const char *wrong = daemon_start(d);
  if (*wrong)
    return wrong;
  if (!cgroup_write(dir, "cgroup.procs", (uint64_t)d->pid))
    return "cannot move the daemon";
  if (seat_open(&s, d->instance) != CHI_OK || seat_pool(&s, "calc", NULL, NULL) != CHI_OK)
    return "cannot attach";
  wrong = body(&s);
  seat_close(&s);
  return wrong;
}

static void cgroup_story(const char *(*body)(struct seat *s))
{
  struct daemon d;
  char dir[500];
  const char *why = SLOW > 1 ? "a sanitizer takes more memory" : cgroup_make(dir, sizeof(dir));
  if (why) {
    test_skip(why);
    return;
  }
  CHECK(daemon_make(&d, "memory: {main_segment_size: 256M, client_data_segment_size: 512M, "
                        "runtime_data_segment_size: 64M}\n"));
  const char *wrong = cgroup_life(&d, dir, body);
  int status = d.pid > 0 ? daemon_stop(&d) : -1;
  CHECK(EVENTUALLY(3000, rmdir(dir) == 0));
  CHECK_STR(wrong, "");
  CHECK_INT(status, 0); /* not killed for want of memory */
  daemon_free(&d);
}

TEST(cgroup_limit_is_an_error_and_not_a_fault)
{
  cgroup_story(cgroup_exhaust);
}

TEST(devices_in_memory_that_a_cgroup_does_not_give_refuse_writes)
{
  cgroup_story(devices_overcommit);
}

/* ---- clients that die beside a method that never yields -------------------------------------- */

/* Attaches several times, so that there are lanes for every worker; works, and waits. */
static void bystander(const char *instance)
{
  struct seat s[6];
  for (int i = 0; i < 6; i++) {
    if (seat_open(&s[i], instance) != CHI_OK)
      _exit(1);
    struct calc_add *t = SEAT_NEW(&s[i], calc_add);
    struct calc_add *u = SEAT_NEW(&s[i], calc_add);
    if (!t || !u)
      _exit(2);
    u->task.compute_us = 1000;
    if (chi_run(s[i].queue, t) != CHI_OK || chi_run(s[i].queue, u) != CHI_OK)
      _exit(3);
  }
  pause();
}

/* A fast and a slow worker are held up by another client's methods. */
static const char *hold_up(struct seat *s, struct unruly_spin **stuck)
{
  for (uint32_t i = 0; i < 2; i++) {
    chi_pool_id id = {400 + i, 0};
    char name[16];
    snprintf(name, sizeof(name), "stuck %u", i);
    if (chi_pool_create(s->queue, "unruly", name, NULL, 0, &id, NULL) != CHI_OK)
      return "no pool";
    stuck[i] = SEAT_NEW(s, unruly_spin);
    if (!stuck[i])
      return "no task";
    stuck[i]->task.pool = id;
    stuck[i]->task.compute_us = i * 1000;
    stuck[i]->ns = 6 * SECOND_NS;
    if (chi_submit(s->queue, stuck[i]) != CHI_OK)
      return "cannot submit";
  }
  return chi_wait(s->queue, stuck[1], 200 * MS_NS) == CHI_ETIMEOUT ? "" : "it isn't stuck";
}

TEST(killed_client_leaves_nothing_though_workers_are_stuck)
{
  struct daemon d;
  struct seat s;
  struct figures before, after;
  struct unruly_spin *stuck[2];
  CHECK(daemon_make(&d, NULL));
  CHECK_STR(daemon_start(&d), "");
  CHECK_INT(seat_open(&s, d.instance), CHI_OK);
  CHECK_INT(seat_pool(&s, "calc", NULL, NULL), CHI_OK);
  CHECK_STR(hold_up(&s, stuck), "");
  CHECK_INT(figures_begin(&s, &before), CHI_OK);
  for (int i = 0; i < 3; i++) {
    fflush(NULL);
    pid_t child = fork();
    if (child == 0)
      bystander(d.instance);
    CHECK(EVENTUALLY(5000, figures_ask(&s, &after) == CHI_OK && after.queues == 7));
    pause_ns(50 * MS_NS);
    kill(child, SIGKILL);
    CHECK_INT(waitpid(child, NULL, 0), child);
    CHECK_STR(figures_return(&s, &before, 1500), "");
  }
  CHECK_INT(chi_task_done(s.queue, stuck[0]) + chi_task_done(s.queue, stuck[1]), 0);
  for (uint32_t i = 0; i < 2; i++)
    CHECK_INT(chi_wait(s.queue, stuck[i], LONG_NS), CHI_OK);
  seat_close(&s);
  CHECK_INT(daemon_stop(&d), 0);
  daemon_free(&d);
}
